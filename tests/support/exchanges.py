"""Exchanges with a memcached for tests of its backend: plain requests, commands one at a time, answers made up."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote

from support.servers import Memcached
from support.unruly import Answer, Door

from person_repo.cache.memcached.backend import MemcachedBackend
from person_repo.cache.memcached.connection import Budget
from person_repo.testing.contract import GROUP

MARKER = f"{GROUP}:!"


def keys(count: int) -> list[str]:
    """Keys of ``GROUP``."""
    return [f"{GROUP}:s{number}" for number in range(count)]


class Connect(Protocol):
    """The fixture ``connect``: a backend over servers."""

    def __call__(self, *servers: Memcached | Door | str, **arguments: Any) -> MemcachedBackend: ...


class Raw:
    """Plain requests to a server, past the backend."""

    def __init__(self, server: Memcached) -> None:
        self._server = server

    def set(self, key: str, flags: int, body: bytes) -> None:
        """Stores an item."""
        with socket.create_connection(("127.0.0.1", self._server.port), timeout=10) as connection:
            connection.sendall(b"ms %b %d F%d\r\n%b\r\n" % (key.encode(), len(body), flags, body))
            assert connection.recv(100) == b"HD\r\n"

    def get(self, key: str) -> tuple[int, bytes] | None:
        """Flags and body of an item; None if there is none."""
        with socket.create_connection(("127.0.0.1", self._server.port), timeout=10) as connection:
            connection.sendall(b"mg %b f v\r\nmn\r\n" % key.encode())
            answer = b""
            while not answer.endswith(b"MN\r\n"):
                answer += connection.recv(65536)
        if answer.startswith(b"EN"):
            return None
        line, _, rest = answer.partition(b"\r\n")
        _, size, flags = line.split()[:3]
        return int(flags[1:]), rest[: int(size)]

    def delete(self, key: str) -> bool:
        """Deletes an item; True if there was one."""
        return "DELETED" in self._server.ask(f"delete {key}")


def home(backend: MemcachedBackend, key: str) -> str:
    """The server that holds a key."""
    return backend.places_of(GROUP, key)[0][0]


def keys_on(server: Memcached) -> set[str]:
    """The keys of all items on a server."""
    # "metadump all" walks the LRU lists, and leaves out items that the maintainer is moving just then.
    while (answer := _dump(server, "hash")).startswith(b"BUSY"):  # the server's own crawler is at work
        time.sleep(0.01)
    lines = [line for line in answer.decode().splitlines() if line.startswith("key=")]  # 1.6.45 says OK, too.
    return {unquote(line.split()[0].removeprefix("key=")) for line in lines}


def _dump(server: Memcached, way: str) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(f"lru_crawler metadump {way}\r\n".encode())
        answer = b""
        while not answer.endswith(b"END\r\n") and not answer.startswith(b"BUSY"):
            answer += connection.recv(65536)
    return answer


def numbers_of(server: Memcached) -> dict[str, int]:
    """A server's statistics, as far as they are whole numbers."""
    lines = (line.split() for line in server.ask("stats").splitlines())
    return {words[1]: int(words[2]) for words in lines if len(words) == 3 and words[2].isdigit()}


def round_trips(backend: MemcachedBackend, call: Callable[[], object]) -> int:
    """The round trips that a call costs, by the backend's counter."""
    before = backend.counters.snapshot()
    call()
    return (backend.counters.snapshot() - before).round_trips


class Stepwise:
    """A socket that sends one command at a time, each after the answer to the one before. ``before`` is called with
    each command first.
    """

    def __init__(self, inner: socket.socket) -> None:
        self._inner = inner
        self._answers = b""
        self.requests = 0
        self.before: Callable[[bytes], object] = lambda command: None

    def sendall(self, request: bytes) -> None:
        self.requests += 1
        for command in commands_of(request):
            self.before(command)
            self._inner.sendall(command)
            self._answers += self._answer(until=b"END\r\n" if command.startswith(b"get ") else b"")

    def recv(self, _: int) -> bytes:
        answers, self._answers = self._answers, b""
        return answers

    def _answer(self, until: bytes) -> bytes:
        answer = b""
        while not until or not answer.endswith(until):
            received = self._inner.recv(65536)
            if not received:
                raise ConnectionResetError
            answer += received
            line, end, rest = answer.partition(b"\r\n")
            if not until and end and len(rest) == (int(line.split()[1]) + 2 if line.startswith(b"VA") else 0):
                return answer
        return answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def commands_of(request: bytes) -> list[bytes]:
    """The commands in a request."""
    commands = []
    while request:
        end = request.index(b"\r\n") + 2
        if request.startswith(b"ms "):
            end += int(request.split(maxsplit=3)[2]) + 2
        commands.append(request[:end])
        request = request[end:]
    return commands


def stepwise(backend: MemcachedBackend, server: Memcached) -> Stepwise:
    """Makes this thread's connection to a server send its commands one at a time."""
    connection = backend._pool.connection(server.url, Budget(10.0))
    steps = Stepwise(connection._socket)
    connection._socket = steps  # type: ignore[assignment]
    return steps


class started:
    """A memcached with options of its own."""

    def __init__(self, *options: str, socket_path: Path | None = None) -> None:
        class WithOptions(Memcached):
            def command(self) -> list[str]:
                return [*super().command(), *options]

        self.server = WithOptions(socket_path=socket_path)

    def __enter__(self) -> Memcached:
        return self.server.start()

    def __exit__(self, *_: object) -> None:
        self.server.kill()


def hurry(backend: MemcachedBackend, seconds: float) -> None:
    """Gives a backend these timeouts from now on: short ones once all is set up, long ones for the rest of a test."""
    backend.settings = backend._pool.settings = replace(backend.settings, timeout=seconds, connect_timeout=seconds)


def says(*parts: bytes) -> Answer:
    """Answers each request with these parts, sent one by one."""

    def answer(_: Door, visitor: socket.socket, __: bytes) -> None:
        for part in parts:
            visitor.sendall(part)

    return answer


def says_to_each(reply: bytes) -> Answer:
    """Answers each command of a request with this reply."""

    def answer(_: Door, visitor: socket.socket, request: bytes) -> None:
        settings = request.startswith(b"stats")
        visitor.sendall(reply * (1 if settings else len(commands_of(request))))

    return answer
