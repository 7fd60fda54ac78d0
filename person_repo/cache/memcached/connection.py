"""One connection to one memcached: pymemcache connects, we pipeline meta commands and read the replies.

pymemcache's own commands are not used for items: ``raw_command`` stops at the first end token, even inside a value, and
a ``Client`` that is interrupted in the middle of a reply hands the rest to the next caller. Here every interruption of
an exchange leaves the connection marked, and it is not used again.
"""

from __future__ import annotations

import enum
import socket
import ssl
import threading
import time
from collections.abc import Sequence
from queue import Empty, SimpleQueue
from typing import Any, Final

from pymemcache.client.base import Client  # type: ignore[import-untyped]
from pymemcache.exceptions import MemcacheError  # type: ignore[import-untyped]

from person_repo.cache.memcached import wire
from person_repo.cache.memcached.wire import LARGEST_REQUEST, KnownMarker, ProtocolError, Reply
from person_repo.exceptions import CacheUnavailableError
from person_repo.internals import connect_now
from person_repo.settings import CacheSettings

__all__ = ["CLOSED_BY_SERVER", "IDLE", "TIMED_OUT", "Budget", "Connection", "State"]

# A wait may last this much longer than what is left: a bound that fits is not set anew, which is a system call.
_TOLERANCE: Final = 0.001
_MOMENT: Final = 0.005
_MOMENTS: Final = 0.05
_RECEIVE: Final = 64 * 1024
_RECEIVE_MANY: Final = 256 * 1024

_REFUSALS: Final = (OSError, ValueError, MemcacheError)
"""The errors of sockets, TLS and names that pymemcache lets through when it connects."""


class Budget:
    """Seconds that an operation may still wait for servers, in all. Its own work costs nothing of them.

    If several servers were asked at once and the first has used up the budget, the others' answers are there already:
    so a short moment is left to each.
    """

    __slots__ = ("remaining",)

    def __init__(self, seconds: float) -> None:
        self.remaining = seconds

    def next_wait(self) -> float:
        """The longest next wait. Raises ``TimeoutError`` once even the last moments are used up."""
        if self.remaining < -_MOMENTS:
            raise TimeoutError("timed out")
        return max(self.remaining, _MOMENT)


class State(enum.Enum):
    """A connection's state: ready for a request, or the reason why not."""

    IDLE = "nothing is under way: it may be asked"
    ASKED = "a request is under way: its replies come next"
    CLOSED = "closed here, or by the server before it had served"
    CLOSED_BY_SERVER = "closed by the server after it had served: the process behind it may have been replaced"
    TIMED_OUT = "closed here: the server did not answer in time"


# As names of the module, since an enum's member costs a hit one look-up more each time.
IDLE: Final = State.IDLE
_ASKED: Final = State.ASKED
CLOSED_BY_SERVER: Final = State.CLOSED_BY_SERVER
TIMED_OUT: Final = State.TIMED_OUT


class Connection:
    """A connection that is idle, or of no use any more.

    An exchange that is interrupted, be it by a ``KeyboardInterrupt`` between two instructions, leaves it ``ASKED``: the
    next exchange would read the last one's reply. Open another one then.

    ``server`` is its name in the configuration, ``address`` where it is reached. ``largest_body``: bytes that the
    server stores at most under one key. ``markers``: each group's marker as the server last had it; the caller's.

    Every method raises ``CacheUnavailableError`` if the server refuses, closes, breaks the protocol or does not answer
    within the operation's ``Budget``.
    """

    __slots__ = (
        "_asked_at", "_client", "_has_served", "_limit", "_socket", "largest_body", "markers", "server", "state",
    )  # fmt: skip

    def __init__(
        self,
        server: str,
        settings: CacheSettings,
        tls: ssl.SSLContext | None = None,
        budget: Budget | None = None,
        address: str | None = None,
    ) -> None:
        self.server = server
        self.state = _ASKED
        self.largest_body = 0
        self.markers: dict[str, KnownMarker] = {}
        self._has_served = False
        self._client: Client | None = None
        budget = budget or Budget(settings.timeout)
        self._asked_at = began = time.monotonic()
        try:
            self._client = _connected(address or server, settings, tls, budget)
        except _REFUSALS as exc:
            raise CacheUnavailableError(f"memcached {server}: {_reason(exc)}") from exc
        finally:
            budget.remaining -= time.monotonic() - began
        self._socket: socket.socket = self._client.sock
        self._limit = settings.timeout
        try:
            self._learn_settings(budget)
        except (OSError, ProtocolError) as exc:
            raise self._broken(exc) from exc
        self.state = IDLE

    def _learn_settings(self, budget: Budget) -> None:
        """Learns the server's limit for a value, and that it is a memcached that can be used."""
        self._send(b"stats settings\r\n", budget)
        answer = self._more(budget)
        while (largest := wire.largest_body(answer)) is None:
            answer += self._more(budget)
        self.largest_body = largest

    def close(self) -> None:
        """Closes the connection; it is not opened again."""
        if self.state is IDLE or self.state is _ASKED:
            self.state = State.CLOSED
        if self._client is not None:
            self._client.close()

    def __del__(self) -> None:
        # A thread that ends closes nothing of its own.
        self.close()

    def exchange(self, request: bytes, replies: int, budget: Budget) -> list[Reply]:
        """Sends a request of at most ``LARGEST_REQUEST`` bytes (or one item) and returns its replies, in order."""
        if len(request) > LARGEST_REQUEST:  # The server may have to read some of it first.
            self.send(request, budget)
            return self.receive(replies, budget)
        try:
            seconds = budget.next_wait()
        except TimeoutError as exc:
            raise self._broken(exc) from exc
        try:
            begun = self.ask(request, seconds)
        finally:
            budget.remaining -= time.monotonic() - self._asked_at
        return self.receive(replies, budget, begun)

    def send(self, request: bytes, budget: Budget) -> None:
        """Sends a request whose replies are received later."""
        if self.state is not IDLE:
            raise self._unusable()
        self.state = _ASKED
        try:
            self._send(request, budget)
        except OSError as exc:
            raise self._broken(exc) from exc

    def ask(self, request: bytes, seconds: float) -> bytes:
        """Fast path of ``send`` and ``receive``: sends a small request and returns the first bytes of its replies,
        within so many seconds, or a moment if none are left.

        A caller that recognises all replies in these bytes sets ``state`` to ``IDLE``; every other one passes the bytes
        to ``receive``, with a budget that ``waited`` was taken off.
        """
        self._asked_at = time.monotonic()
        if self.state is not IDLE:
            raise self._unusable()
        self.state = _ASKED
        try:
            # sendall cannot block here: earlier replies were read, so the socket's buffer is empty.
            if not seconds <= self._limit <= seconds + _TOLERANCE:  # This is ``_wait_at_most`` without a call.
                self._wait_at_most(max(seconds, _MOMENT))
            self._socket.sendall(request)
            return self._socket.recv(_RECEIVE)
        except OSError as exc:
            raise self._broken(exc) from exc

    def waited(self) -> float:
        """Seconds since ``ask`` began."""
        return time.monotonic() - self._asked_at

    def receive(self, count: int, budget: Budget, begun: bytes = b"") -> list[Reply]:
        """The ``count`` replies to the request that was sent, of which the bytes ``begun`` have been read."""
        replies: list[Reply] = []
        try:
            unread, size = wire.read_replies(begun or self._more(budget), count, replies)
            while size:
                unread, size = wire.read_replies(self._at_least(size, unread, budget), count, replies)
        except (OSError, ProtocolError) as exc:
            raise self._broken(exc) from exc
        self._has_served = True
        self.state = IDLE
        return replies

    def receive_values(self, names: Sequence[bytes], budget: Budget) -> list[bytes | None]:
        """The values that a ``get`` of a marker and of other names has found, one for each other name; None for a
        name without a value of the marker's epoch.
        """
        try:
            begun = self._more(budget, _RECEIVE_MANY)
            values = wire.all_values(begun, names)
            if values is None:  # It is no case for the fast path.
                values = wire.values_of_epoch(self._bodies(begun, names, budget))
        except (OSError, ProtocolError) as exc:
            raise self._broken(exc) from exc
        self._has_served = True
        self.state = IDLE
        return values

    def _bodies(self, begun: bytes, names: Sequence[bytes], budget: Budget) -> list[bytes | None]:
        bodies: list[bytes | None] = []
        unread, size = wire.read_values(begun, names, bodies)
        while size:
            unread, size = wire.read_values(self._at_least(size, unread, budget), names, bodies)
        return bodies

    def _unusable(self) -> CacheUnavailableError:
        return CacheUnavailableError(f"memcached {self.server}: the connection is no longer of use")

    def _broken(self, exc: Exception) -> CacheUnavailableError:
        self.close()
        if isinstance(exc, TimeoutError):
            self.state = TIMED_OUT
        elif self._has_served and isinstance(exc, ConnectionError):
            self.state = CLOSED_BY_SERVER
        return CacheUnavailableError(f"memcached {self.server}: {_reason(exc)}")

    def _send(self, request: bytes, budget: Budget) -> None:
        began = self._wait_at_most(budget.next_wait())
        try:
            self._socket.sendall(request)
        finally:
            budget.remaining -= time.monotonic() - began

    def _more(self, budget: Budget, most: int = _RECEIVE) -> bytes:
        """The next bytes. A byte a second must not last for ever: each wait shortens the next."""
        began = self._wait_at_most(budget.next_wait())
        try:
            received = self._socket.recv(most)
        finally:
            budget.remaining -= time.monotonic() - began
        if not received:
            raise ConnectionResetError("closed by the server")
        return received

    def _at_least(self, size: int, unread: bytes, budget: Budget) -> bytes:
        """The unread bytes and as many more as make them this size."""
        received = bytearray(unread)
        while len(received) < size:
            received += self._more(budget)
        return bytes(received)

    def _wait_at_most(self, seconds: float) -> float:
        """Bounds the next wait, and returns when it begins. Most operations find their first bound set already."""
        if not seconds <= self._limit <= seconds + _TOLERANCE:
            self._socket.settimeout(seconds)
            self._limit = seconds
        return time.monotonic()


def _connected(server: str, settings: CacheSettings, tls: ssl.SSLContext | None, budget: Budget) -> Client:
    """A client with an open connection. pymemcache tries the first address of a name only, and if ``localhost`` is
    ``::1`` first, it does not find a server on 127.0.0.1.
    """
    until = time.monotonic() + min(settings.connect_timeout, budget.next_wait())
    host = server.rpartition(":")[0].strip("[]")
    name = settings.tls_hostname or host
    failure: Exception = OSError(f"{host} has no address")
    for address in _addresses(server, until):
        client = Client(
            address,
            connect_timeout=max(until - time.monotonic(), _MOMENT),
            timeout=settings.timeout,
            no_delay=True,
            tls_context=_NamedContext(tls, name) if tls else None,
        )
        try:
            connect_now(client)
        except _REFUSALS as exc:
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
        found = _resolved(host, int(port), until)
    return [(str(address[0]), int(port)) for *_, address in found]


def _resolved(host: str, port: int, until: float) -> list[Any]:
    """The addresses of a name. A resolver has timeouts of its own, of many seconds, and takes no other: so a thread
    that may be left behind asks it.
    """
    answers: SimpleQueue[Any] = SimpleQueue()

    def resolve() -> None:
        try:
            answers.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except OSError as exc:
            answers.put(exc)

    threading.Thread(target=resolve, name=f"resolve {host}", daemon=True).start()
    try:
        answer = answers.get(timeout=max(until - time.monotonic(), _MOMENT))
    except Empty:
        raise TimeoutError(f"the name {host} was not resolved in time") from None
    if isinstance(answer, OSError):
        raise answer
    addresses: list[Any] = answer
    return addresses


class _NamedContext:
    """A TLS context that checks the certificate against a name of its own: pymemcache passes the address."""

    def __init__(self, context: ssl.SSLContext, name: str) -> None:
        self._context = context
        self._name = name

    def wrap_socket(self, sock: socket.socket, server_hostname: str | None = None) -> ssl.SSLSocket:
        return self._context.wrap_socket(sock, server_hostname=self._name)


def _reason(exc: BaseException) -> str:
    return str(exc) or type(exc).__name__
