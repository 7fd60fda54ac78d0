"""One connection to one memcached: pymemcache connects, we pipeline meta commands and read the replies.

pymemcache's own commands are not used for items: ``raw_command`` stops at the first end token, even inside a value, and
a ``Client`` that is interrupted in the middle of a reply hands the rest to the next caller. Here whatever interrupts an
exchange leaves the connection marked, and it is not used again.
"""

from __future__ import annotations

import socket
import ssl
import time
from typing import Final

from pymemcache.client.base import Client  # type: ignore[import-untyped]

from person_repo.exceptions import CacheUnavailableError, ConfigurationError
from person_repo.settings import CacheSettings

__all__ = ["LARGEST_REQUEST", "Connection", "Reply"]

Reply = tuple[list[bytes], bytes]
"""One reply: the words of its line, and the value block (empty where it has none)."""

LARGEST_REQUEST: Final = 32 * 1024
"""Bytes sent before replies are read. It fits any socket buffer, so that neither side waits for the other to read."""

_RECEIVE: Final = 64 * 1024
_LONGEST_LINE: Final = 2048
_LARGEST_VALUE: Final = 64 * 1024 * 1024
_WORDS: Final = frozenset({b"HD", b"EN", b"NS", b"EX", b"NF", b"MN", b"SERVER_ERROR"})


class _ProtocolError(Exception):
    """The other end says what no memcached would."""


class Connection:
    """A connection that is in step (nothing is under way on it), or of no use any more.

    Whatever interrupts an exchange, a ``KeyboardInterrupt`` between two instructions included, leaves it out of step:
    the next exchange would read the last one's reply. Whoever finds it so opens another.

    Raises ``CacheUnavailableError`` from every method where the server refuses, closes, breaks the protocol or does not
    answer within the timeout (seconds, for a whole exchange).
    """

    __slots__ = ("_client", "_socket", "_timeout", "in_step", "server", "timed_out")

    def __init__(self, server: str, settings: CacheSettings) -> None:
        self.server = server
        self.in_step = False
        self.timed_out = False
        self._timeout = settings.timeout
        self._client = Client(
            _address(server),
            connect_timeout=settings.connect_timeout,
            timeout=settings.timeout,
            no_delay=True,
            tls_context=_tls_context(settings),
        )
        try:
            self._client.version()  # connects, and makes sure that it is a memcached that answers
        except Exception as exc:  # pymemcache raises what the socket, TLS or a reply made it stumble over
            self.close()
            raise CacheUnavailableError(f"memcached {server}: {_reason(exc)}") from exc
        self._socket: socket.socket = self._client.sock
        self.in_step = True

    def close(self) -> None:
        """Closes the connection; it is not opened again."""
        self.in_step = False
        self._client.close()

    def exchange(self, request: bytes, replies: int) -> list[Reply]:
        """Sends a request of at most ``LARGEST_REQUEST`` bytes (or one item) and returns its replies, in order."""
        self.in_step = False
        try:
            self._socket.sendall(request)
            found = self._receive(self._received(), replies, time.monotonic() + self._timeout)
        except (OSError, _ProtocolError) as exc:
            raise self._broken(exc) from exc
        self.in_step = True
        return found

    def send(self, request: bytes) -> None:
        """Sends a request whose replies are received later."""
        self.in_step = False
        try:
            self._socket.sendall(request)
        except OSError as exc:
            raise self._broken(exc) from exc

    def receive(self, replies: int, deadline: float) -> list[Reply]:
        """The replies to what was sent; ``deadline`` by ``time.monotonic``."""
        try:
            found = self._receive(self._more(deadline), replies, deadline)
        except (OSError, _ProtocolError) as exc:
            raise self._broken(exc) from exc
        self.in_step = True
        return found

    def _broken(self, exc: Exception) -> CacheUnavailableError:
        self.close()
        self.timed_out = isinstance(exc, TimeoutError)
        return CacheUnavailableError(f"memcached {self.server}: {_reason(exc)}")

    def _received(self) -> bytes:
        received = self._socket.recv(_RECEIVE)
        if not received:
            raise ConnectionResetError("closed by the server")
        return received

    def _receive(self, unread: bytes, replies: int, deadline: float) -> list[Reply]:
        found: list[Reply] = []
        at = 0
        while True:
            end = unread.find(b"\r\n", at)
            if end < 0:
                if len(unread) - at > _LONGEST_LINE:
                    raise _ProtocolError(f"a line starting {unread[at : at + 40]!r} does not end")
                unread, at = unread[at:] + self._more(deadline), 0
                continue
            words = unread[at:end].split()
            start = end + 2
            if not words or words[0] != b"VA":
                if not words or words[0] not in _WORDS:
                    raise _ProtocolError(f"{unread[at:end][:80]!r}")
                found.append((words, b""))
                at = start
            else:
                size = _size(words)
                stop = start + size
                if len(unread) < stop + 2:
                    unread, at = self._at_least(unread[at:], stop + 2 - at, deadline), 0
                    continue
                if unread[stop : stop + 2] != b"\r\n":
                    raise _ProtocolError("a value does not end where its line says")
                found.append((words, unread[start:stop]))
                at = stop + 2
            if len(found) == replies:
                if at != len(unread):
                    raise _ProtocolError(f"more than was asked for: {unread[at : at + 40]!r}")
                return found

    def _more(self, deadline: float) -> bytes:
        """What comes next, within what is left of the exchange's time: a byte a second must not last for ever."""
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self._socket.settimeout(left)
        try:
            return self._received()
        finally:
            self._socket.settimeout(self._timeout)

    def _at_least(self, start: bytes, size: int, deadline: float) -> bytes:
        received = bytearray(start)
        while len(received) < size:
            received += self._more(deadline)
        return bytes(received)


def _size(words: list[bytes]) -> int:
    try:
        size = int(words[1])
    except (IndexError, ValueError):
        raise _ProtocolError(f"a value without a size: {b' '.join(words)[:80]!r}") from None
    if not 0 <= size <= _LARGEST_VALUE:
        raise _ProtocolError(f"a value of {size} bytes")
    return size


def _address(server: str) -> tuple[str, int] | str:
    if server.startswith("/"):
        return server
    host, _, port = server.rpartition(":")
    return host.strip("[]"), int(port)


def _tls_context(settings: CacheSettings) -> ssl.SSLContext | None:
    if not settings.tls:
        return None
    try:
        context = ssl.create_default_context(cafile=settings.tls_ca or None)
        if settings.tls_cert:
            context.load_cert_chain(settings.tls_cert, settings.tls_key or None)
    except (OSError, ssl.SSLError) as exc:
        names = ", ".join(filter(None, (settings.tls_ca, settings.tls_cert, settings.tls_key)))
        raise ConfigurationError(f"the TLS files {names} cannot be used: {exc}") from exc
    return _Named(context, settings.tls_hostname) if settings.tls_hostname else context  # type: ignore[return-value]


class _Named:
    """A TLS context that checks the certificate against a name of its own: pymemcache always passes the host."""

    def __init__(self, context: ssl.SSLContext, name: str) -> None:
        self._context = context
        self._name = name

    def wrap_socket(self, sock: socket.socket, server_hostname: str | None = None) -> ssl.SSLSocket:
        return self._context.wrap_socket(sock, server_hostname=self._name)


def _reason(exc: BaseException) -> str:
    return str(exc) or type(exc).__name__
