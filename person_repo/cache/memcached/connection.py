"""One connection to one memcached: pymemcache connects, we pipeline meta commands and read the replies.

pymemcache's own commands are not used for items: ``raw_command`` stops at the first end token, even inside a value, and
a ``Client`` that is interrupted in the middle of a reply hands the rest to the next caller. Here whatever interrupts an
exchange leaves the connection marked, and it is not used again.
"""

from __future__ import annotations

import functools
import re
import socket
import ssl
import threading
import time
from collections.abc import Sequence
from queue import Empty, SimpleQueue
from typing import Any, Final

from pymemcache.client.base import Client  # type: ignore[import-untyped]

from person_repo.exceptions import CacheUnavailableError
from person_repo.internals import connect_now
from person_repo.settings import CacheSettings

__all__ = ["LARGEST_REQUEST", "Connection", "Patience", "Reply"]

Reply = tuple[list[bytes], bytes]
"""One reply: the words of its line, and the value block (empty where it has none)."""

LARGEST_REQUEST: Final = 32 * 1024
"""Bytes sent before replies are read. It fits any socket buffer, so that neither side waits for the other to read."""

# A wait may last this much longer than what is left: a bound that fits is not set anew, which is a system call.
_TOLERANCE: Final = 0.001
_MOMENT: Final = 0.005
_MOMENTS: Final = 0.05
_RECEIVE: Final = 64 * 1024
_RECEIVE_MANY: Final = 256 * 1024
_LONGEST_LINE: Final = 2048
_LARGEST_VALUE: Final = 64 * 1024 * 1024
_LARGEST_ITEM: Final = 1024 * 1024
# The server's header of an item, its longest key, and room for the tombstones of some forty owners.
_KEPT_FREE: Final = 1024
_FLAGS_AND_SIZE: Final = re.compile(rb"([0-9]{1,10}) ([0-9]{1,10})").fullmatch
_WORDS: Final = frozenset({b"HD", b"EN", b"NS", b"EX", b"NF", b"MN", b"SERVER_ERROR"})


class _ProtocolError(Exception):
    """The other end says what no memcached would."""


class Patience:
    """How many seconds an operation may still wait for servers, in all. What it does meanwhile costs nothing of it.

    Where several servers were asked at once and the first has used it up, the others' answers are there already: so a
    short moment is left to each.
    """

    __slots__ = ("left",)

    def __init__(self, seconds: float) -> None:
        self.left = seconds

    def moment(self) -> float:
        """The longest next wait. Raises ``TimeoutError`` where even the last moments are used up."""
        if self.left < -_MOMENTS:
            raise TimeoutError("timed out")
        return max(self.left, _MOMENT)


class Connection:
    """A connection that is in step (nothing is under way on it), or of no use any more.

    Whatever interrupts an exchange, a ``KeyboardInterrupt`` between two instructions included, leaves it out of step:
    the next exchange would read the last one's reply. Whoever finds it so opens another.

    ``server`` is its name in the configuration, ``address`` where it is reached. ``was_served`` tells that the other
    end closed a connection that had served: the process behind it may have been replaced. ``markers`` is the caller's:
    what it has learnt to expect of the server.

    Raises ``CacheUnavailableError`` from every method where the server refuses, closes, breaks the protocol or does not
    answer within what is left of the operation's ``Patience``.
    """

    __slots__ = (
        "_asked", "_client", "_limit", "_socket", "in_step", "largest_body", "markers", "server", "serves", "timed_out",
        "was_served",
    )  # fmt: skip

    def __init__(
        self,
        server: str,
        settings: CacheSettings,
        tls: ssl.SSLContext | None = None,
        patience: Patience | None = None,
        address: str | None = None,
    ) -> None:
        self.server = server
        self.in_step = False
        self.serves = False
        self.was_served = False
        self.timed_out = False
        self.largest_body = 0
        self.markers: dict[str, Any] = {}
        self._client: Client | None = None
        patience = patience or Patience(settings.timeout)
        self._asked = began = time.monotonic()
        try:
            self._client = _connected(address or server, settings, tls, patience)
        except Exception as exc:  # pymemcache raises what the socket or TLS made it stumble over
            self.timed_out = isinstance(exc, TimeoutError)
            raise CacheUnavailableError(f"memcached {server}: {_reason(exc)}") from exc
        finally:
            patience.left -= time.monotonic() - began
        self._socket: socket.socket = self._client.sock
        self._limit = settings.timeout
        try:
            self._learn(patience)
        except (OSError, _ProtocolError) as exc:
            raise self._broken(exc) from exc
        self.in_step = True

    def _learn(self, patience: Patience) -> None:
        """Learns what the server was started with, and that it is a memcached.

        ``largest_body``: memcached deletes what stands at a key, be it another's tombstone, where it refuses an item
        for its size; so nothing too large is ever sent. Without CAS ids (``-C``) it takes any fill, stale ones too.
        """
        self._send(b"stats settings\r\n", patience)
        answer = b""
        while not answer.endswith(b"END\r\n"):
            answer += self._more(patience)
            if len(answer) > _RECEIVE or (len(answer) > 4 and not answer.startswith((b"STAT ", b"END\r\n"))):
                raise _ProtocolError(f"this is no memcached: {answer[:40]!r}")
        settings = dict(line[1:] for line in map(bytes.split, answer.splitlines()) if len(line) == 3)
        if settings.get(b"cas_enabled") == b"no":
            raise _ProtocolError("it runs without CAS ids, which leases need; start it without -C")
        largest = settings.get(b"item_size_max", b"")
        self.largest_body = (int(largest) if largest.isdigit() else _LARGEST_ITEM) - _KEPT_FREE

    def close(self) -> None:
        """Closes the connection; it is not opened again."""
        self.in_step = False
        if self._client is not None:
            self._client.close()

    def __del__(self) -> None:
        # A thread that ends closes nothing of its own.
        self.close()

    def exchange(self, request: bytes, replies: int, patience: Patience) -> list[Reply]:
        """Sends a request of at most ``LARGEST_REQUEST`` bytes (or one item) and returns its replies, in order."""
        if len(request) > LARGEST_REQUEST:  # the server may have to read some of it before the rest can be sent
            self.send(request, patience)
            return self.receive(replies, patience)
        try:
            seconds = patience.moment()
        except TimeoutError as exc:
            raise self._broken(exc) from exc
        try:
            begun = self.ask(request, seconds)
        finally:
            patience.left -= self.waited()
        return self.receive(replies, patience, begun)

    def send(self, request: bytes, patience: Patience) -> None:
        """Sends a request whose replies are received later."""
        if not self.in_step:
            raise self._unused()
        self.in_step = False
        try:
            self._send(request, patience)
        except OSError as exc:
            raise self._broken(exc) from exc

    def ask(self, request: bytes, seconds: float) -> bytes:
        """Sends a small request and returns what comes first of the replies, within so many seconds, or a moment where
        none are left.

        The caller who knows them for whole sets ``in_step``; to any other, ``receive`` tells what they are, with a
        patience that ``waited`` has been taken off.
        """
        self._asked = time.monotonic()
        if not self.in_step:
            raise self._unused()
        self.in_step = False
        try:
            # To send lets nobody wait: what was sent before was answered, so the socket's buffer is empty.
            if not seconds <= self._limit <= seconds + _TOLERANCE:  # as ``_wait_at_most`` does, without a call
                self._wait_at_most(max(seconds, _MOMENT))
            self._socket.sendall(request)
            return self._socket.recv(_RECEIVE)
        except OSError as exc:
            raise self._broken(exc) from exc

    def waited(self) -> float:
        """How many seconds ago ``ask`` began."""
        return time.monotonic() - self._asked

    def receive(self, replies: int, patience: Patience, begun: bytes = b"") -> list[Reply]:
        """The replies to what was sent, of which ``begun`` has been read."""
        try:
            found = self._receive(begun or self._more(patience), replies, patience)
        except (OSError, _ProtocolError) as exc:
            raise self._broken(exc) from exc
        self.in_step = self.serves = True
        return found

    def receive_values(self, names: Sequence[bytes], base: int, size: int, patience: Patience) -> list[bytes | None]:
        """What a ``get`` of several names found: a mark of ``size`` bytes under the first, then for each other its
        value under that mark, which it begins with and which is cut off, or None.

        The flags of each are ``base`` more than its size.
        """
        try:
            begun = self._more(patience, _RECEIVE_MANY)
            found = _all_values(begun, names, base, size)
            if found is None:
                mark, *values = self._values(begun, names, base, patience)
                known = mark is not None and len(mark) == size
                found = [value[size:] if known and value and value[:size] == mark else None for value in values]
        except (OSError, _ProtocolError) as exc:
            raise self._broken(exc) from exc
        self.in_step = self.serves = True
        return found

    def _unused(self) -> CacheUnavailableError:
        return CacheUnavailableError(f"memcached {self.server}: the connection is no longer of use")

    def _broken(self, exc: Exception) -> CacheUnavailableError:
        self.close()
        self.timed_out = isinstance(exc, TimeoutError)
        self.was_served = self.serves and isinstance(exc, ConnectionError)
        return CacheUnavailableError(f"memcached {self.server}: {_reason(exc)}")

    def _send(self, request: bytes, patience: Patience) -> None:
        began = self._wait_at_most(patience.moment())
        try:
            self._socket.sendall(request)
        finally:
            patience.left -= time.monotonic() - began

    def _more(self, patience: Patience, most: int = _RECEIVE) -> bytes:
        """What comes next. A byte a second must not last for ever: each wait shortens the next."""
        began = self._wait_at_most(patience.moment())
        try:
            received = self._socket.recv(most)
        finally:
            patience.left -= time.monotonic() - began
        if not received:
            raise ConnectionResetError("closed by the server")
        return received

    def _wait_at_most(self, seconds: float) -> float:
        """Bounds the next wait, and tells when it begins. The first of most operations finds its bound set already."""
        if not seconds <= self._limit <= seconds + _TOLERANCE:
            self._socket.settimeout(seconds)
            self._limit = seconds
        return time.monotonic()

    def _receive(self, unread: bytes, replies: int, patience: Patience) -> list[Reply]:
        found: list[Reply] = []
        at = 0
        while True:
            end = unread.find(b"\r\n", at)
            if end < 0:
                unread, at = self._longer(unread[at:], patience), 0
                continue
            words = unread[at:end].split()
            start = end + 2
            if not words or words[0] != b"VA":
                if not words or words[0] not in _WORDS:
                    raise _ProtocolError(_unexpected(unread[at:end]))
                found.append((words, b""))
                at = start
            else:
                size = _size(words)
                stop = start + size
                if len(unread) < stop + 2:
                    unread, at = self._at_least(unread[at:], stop + 2 - at, patience), 0
                    continue
                if unread[stop : stop + 2] != b"\r\n":
                    raise _ProtocolError("a value does not end where its line says")
                found.append((words, unread[start:stop]))
                at = stop + 2
            if len(found) == replies:
                if at != len(unread):
                    raise _ProtocolError(f"more than was asked for: {unread[at : at + 40]!r}")
                return found

    def _values(self, unread: bytes, names: Sequence[bytes], base: int, patience: Patience) -> list[bytes | None]:
        found: list[bytes | None] = []
        at = 0
        for name in names:
            line = b"VALUE %b " % name
            while (end := unread.find(b"\r\n", at)) < 0:
                unread, at = self._longer(unread[at:], patience), 0
            if not unread.startswith(line, at):
                found.append(None)
                continue
            size, is_ours = _flags_and_size(unread[at + len(line) : end], base)
            start = end + 2
            stop = start + size
            if len(unread) < stop + 2:
                unread = self._at_least(unread[start:], size + 2, patience)
                start, stop = 0, size
            if not unread.startswith(b"\r\n", stop):
                raise _ProtocolError("a value does not end where its line says")
            found.append(unread[start:stop] if is_ours else None)
            at = stop + 2
        while b"\r\n" not in unread[at:]:
            unread, at = self._longer(unread[at:], patience), 0
        if unread[at:] != b"END\r\n":
            raise _ProtocolError(_unexpected(unread[at:].partition(b"\r\n")[0]))
        return found

    def _longer(self, line: bytes, patience: Patience) -> bytes:
        """A line that has not ended, and what comes next."""
        if len(line) > _LONGEST_LINE:
            raise _ProtocolError(f"a line starting {line[:40]!r} does not end")
        return line + self._more(patience)

    def _at_least(self, start: bytes, size: int, patience: Patience) -> bytes:
        received = bytearray(start)
        while len(received) < size:
            received += self._more(patience)
        return bytes(received)


def _size(words: list[bytes]) -> int:
    told = words[1] if len(words) > 1 else b""
    if not told.isdigit():
        raise _ProtocolError(f"a value without a size: {b' '.join(words)[:80]!r}")
    if len(told) > len(str(_LARGEST_VALUE)) or int(told) > _LARGEST_VALUE:
        raise _ProtocolError(f"a value of {told[:20].decode()} bytes")
    return int(told)


def _all_values(received: bytes, names: Sequence[bytes], base: int, size: int) -> list[bytes | None] | None:
    """The values, where what was received is a mark of this size and one value under it for each other name, and
    nothing else; None says nothing.

    Where it is divided, each line tells the size of what stands between it and the next division: so a value that holds
    what ends one is not taken for two.
    """
    first, *parts = received.split(b"\r\nVALUE ")
    words = b"VALUE %b %d %d\r\n" % (names[0], base + size, size)
    if len(parts) != len(names) - 1 or not first.startswith(words) or not received.endswith(b"\r\nEND\r\n"):
        return None
    mark = first[len(words) :]
    if len(mark) != size:
        return None
    parts[-1] = parts[-1][: -len(b"\r\nEND\r\n")]
    found: list[bytes | None] = []
    heads: dict[int, bytes] = {}  # by what a line and its value have in length, after the name
    for name, part in zip(names[1:], parts, strict=True):
        rest = len(part) - len(name)
        head = heads.get(rest)
        if head is None:
            words_ = _words_within(rest, base)
            if words_ is None:
                return None
            head = heads[rest] = words_ + mark
        head = name + head
        stop = len(head)
        if part[:stop] != head:
            return None
        found.append(part[stop:])
    return found


@functools.lru_cache(maxsize=1024)
def _words_within(size: int, base: int) -> bytes | None:
    """What ends the line of a value, after its name, where it and the value are of this size together; None where no
    value's are.
    """
    for digits in range(1, len(str(_LARGEST_VALUE)) + 1):
        body = size - len(b" %d \r\n" % base) - digits
        if body >= 0 and len(words := b" %d %d\r\n" % (base + body, body)) == size - body:
            return words
    return None


@functools.lru_cache(maxsize=1024)
def _flags_and_size(words: bytes, base: int) -> tuple[int, bool]:
    """The size that the line of a value tells, and whether its flags are ``base`` more. What raises is not kept."""
    told = _FLAGS_AND_SIZE(words)
    if told is None:
        raise _ProtocolError(f"a value without flags and a size: {words[:80]!r}")
    size = int(told[2])
    if size > _LARGEST_VALUE:
        raise _ProtocolError(f"a value of {size} bytes")
    return size, int(told[1]) == base + size


def _unexpected(line: bytes) -> str:
    if line == b"ERROR":
        return "it does not know the meta commands; memcached 1.6 or newer is needed"
    return f"it answers {line[:80]!r}"


def _connected(server: str, settings: CacheSettings, tls: ssl.SSLContext | None, patience: Patience) -> Client:
    """A client with an open connection. pymemcache tries the first address of a name only, and where ``localhost`` is
    ``::1`` first, a server on 127.0.0.1 is not there.
    """
    until = time.monotonic() + min(settings.connect_timeout, patience.moment())
    host = server.rpartition(":")[0].strip("[]")
    name = settings.tls_hostname or host
    failure: Exception = OSError(f"{host} has no address")
    for address in _addresses(server, until):
        client = Client(
            address,
            connect_timeout=max(until - time.monotonic(), _MOMENT),
            timeout=settings.timeout,
            no_delay=True,
            tls_context=_Named(tls, name) if tls else None,
        )
        try:
            connect_now(client)
        except Exception as exc:
            failure = exc
        else:
            return client
    raise failure


def _addresses(server: str, until: float) -> list[tuple[str, int]] | list[str]:
    if server.startswith("/"):
        return [server]
    host, _, port = server.rpartition(":")
    host = host.strip("[]")
    try:
        found = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        found = _looked_up(host, int(port), until)
    return [(str(address[0]), int(port)) for *_, address in found]


def _looked_up(host: str, port: int, until: float) -> list[Any]:
    """The addresses of a name. A resolver has timeouts of its own, of many seconds, and none can be given to it: so it
    is asked by a thread that may be left behind.
    """
    answers: SimpleQueue[Any] = SimpleQueue()

    def ask() -> None:
        try:
            answers.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except OSError as exc:
            answers.put(exc)

    threading.Thread(target=ask, name=f"resolve {host}", daemon=True).start()
    try:
        answer = answers.get(timeout=max(until - time.monotonic(), _MOMENT))
    except Empty:
        raise TimeoutError(f"the name {host} was not resolved in time") from None
    if isinstance(answer, OSError):
        raise answer
    found: list[Any] = answer
    return found


class _Named:
    """A TLS context that checks the certificate against a name of its own: pymemcache passes the address."""

    def __init__(self, context: ssl.SSLContext, name: str) -> None:
        self._context = context
        self._name = name

    def wrap_socket(self, sock: socket.socket, server_hostname: str | None = None) -> ssl.SSLSocket:
        return self._context.wrap_socket(sock, server_hostname=self._name)


def _reason(exc: BaseException) -> str:
    return str(exc) or type(exc).__name__
