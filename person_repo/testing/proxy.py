"""A proxy in front of a server that fails on demand, as networks and servers do.

For tests of outages: how a program behaves while its cache refuses, hangs, dribbles or talks nonsense, and afterwards.
The server stays as it is, and clients that reach it in another way see nothing of the fault::

    with Proxy("127.0.0.1:11211") as proxy:
        backend.addresses = {"127.0.0.1:11211": proxy.address}
        proxy.cut()      # refuses, and resets what is open
        proxy.heal()

It knows nothing of memcached: a *request* is the bytes read from a client at one time, a *reply* those read from the
server. One thread does everything, and every method returns once it has taken effect.
"""

from __future__ import annotations

import contextlib
import random
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final, Self

from person_repo.exceptions import ConfigurationError
from person_repo.testing.links import CHUNK, Behaviour, Hub, Link, swallow

__all__ = ["Proxy"]

_BACKLOG: Final = 128
_PATIENCE: Final = 30.0
"""Seconds that a method waits for the proxy's thread, which needs less than a thousandth of that."""

_PIECES: Final = 100
"""Pieces into which a throttled second is cut, if it has that many bytes."""


class Proxy:
    """Listens on a free port of the loopback interface (``address``) and passes everything on to ``server``; use it as
    a context manager.

    ``server``: ``host:port``, or the path of a unix socket. ``seed``: for the random choices of ``garble`` and
    ``flip_bits``. ``visitors`` counts the connections accepted so far. ``on_request``, if set, is called in the proxy's
    thread with each request before it is passed on; it may make a fault, and must not raise.

    Each fault ends the one before it; ``heal`` ends the last. A connection on which something was lost is reset then;
    one that was only held up goes on, and what was sent meanwhile arrives late.

    Raises ``ConfigurationError`` if ``server`` is neither, and ``OSError`` if its host is unknown.
    """

    def __init__(self, server: str, *, seed: int = 0) -> None:
        self.server = server
        self.visitors = 0
        self.on_request: Callable[[bytes], object] | None = None
        self._hub = Hub(_target(server), self._heard)
        self._random = random.Random(seed)
        # Bound as long as the proxy lives, and never listening: no other process gets the port while the proxy refuses.
        self._reserved = _bound(0)
        self._port: int = self._reserved.getsockname()[1]
        self.address = f"127.0.0.1:{self._port}"
        self._listening: socket.socket | None = None
        self._calls: deque[tuple[Callable[[], object], Future[object]]] = deque()
        self._wake, self._woken = socket.socketpair()
        self._thread: threading.Thread | None = None
        self._closing = False

    def __enter__(self) -> Self:
        self._woken.setblocking(False)
        self._hub.selector.register(self._woken, selectors.EVENT_READ, self._run_calls)
        self._listen(True)
        self._thread = threading.Thread(target=self._run, name=f"proxy of {self.server}", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def close(self) -> None:
        """Resets all connections and frees the port. May be called again."""
        if self._thread is not None and self._thread.is_alive():
            self._call(lambda: setattr(self, "_closing", True))
            self._thread.join(_PATIENCE)
        for end in (self._reserved, self._wake, self._woken):
            end.close()
        self._hub.selector.close()

    @property
    def connections(self) -> int:
        """The number of connections that are open now."""
        return len(self._hub.links)

    # Faults

    def heal(self) -> None:
        """Passes everything on again."""
        self._switch(Behaviour())

    def cut(self) -> None:
        """Resets every connection and refuses new ones, like a server that is down, or a firewall that rejects."""
        self._switch(Behaviour(accepts=False))

    def reset(self) -> None:
        """Resets every connection, and each new one at its first request."""
        self._switch(Behaviour(requests=lambda link, _: link.abort(), resets=True))

    def hang(self) -> None:
        """Accepts connections, swallows every request and never answers."""
        self._switch(Behaviour(requests=swallow))

    def blackhole(self) -> None:
        """Reads nothing, like a network that drops packets: what is sent stays under way, and arrives once healed."""
        self._switch(Behaviour(reads=False))

    def drop(self, replies: int | None = None) -> None:
        """Passes requests on and swallows the next ``replies`` replies, or all of them: the server does what is asked,
        and the client never hears of it. After that many, connections go on as if nothing had happened.
        """
        remaining = replies

        def drop(link: Link, data: bytes) -> None:
            nonlocal remaining
            if remaining is None:
                swallow(link, data)
            elif remaining > 0:
                remaining -= 1
            else:
                link.replies.push(data)

        self._switch(Behaviour(replies=drop))

    def delay(self, seconds: float) -> None:
        """Holds each reply back for so many seconds."""
        self._switch(Behaviour(pace=(CHUNK, seconds)))

    def throttle(self, bytes_per_second: float) -> None:
        """Lets replies through at this rate, the first byte included: at 1, a byte a second."""
        piece = max(1, int(bytes_per_second / _PIECES))
        self._switch(Behaviour(pace=(piece, piece / bytes_per_second)))

    def garble(self) -> None:
        """Replaces each reply by as many random bytes."""
        self._switch(Behaviour(replies=lambda link, data: link.replies.push(self._random.randbytes(len(data)))))

    def flip_bits(self, count: int = 1) -> None:
        """Flips ``count`` bits in each reply."""

        def flipped(link: Link, data: bytes) -> None:
            changed = bytearray(data)
            for bit in self._random.sample(range(len(data) * 8), min(count, len(data) * 8)):
                changed[bit // 8] ^= 1 << bit % 8
            link.replies.push(bytes(changed))

        self._switch(Behaviour(replies=flipped))

    def truncate(self, after: int) -> None:
        """Closes each connection in the middle of its next reply, after ``after`` bytes."""

        def cut_short(link: Link, data: bytes) -> None:
            link.replies.push(data[:after])
            link.replies.end()

        self._switch(Behaviour(replies=cut_short))

    def impersonate(self, answer: bytes = b"", *, greeting: bytes = b"") -> None:
        """Answers each request with ``answer`` in place of the server, and each new connection with ``greeting``, like
        a server of another protocol.
        """

        def answered(link: Link, _: bytes) -> None:
            link.is_lossy = True
            link.replies.push(answer)

        self._switch(Behaviour(requests=answered, greeting=greeting))

    def _switch(self, behaviour: Behaviour) -> None:
        def apply() -> None:
            self._hub.behaviour = behaviour
            self._listen(behaviour.accepts)
            for link in list(self._hub.links):
                if link.is_lossy or behaviour.resets or not behaviour.accepts:
                    link.abort()
                else:
                    link.replies.hurry()
                    link.watch()

        self._call(apply)

    def _heard(self, request: bytes) -> None:
        if self.on_request is not None:
            self.on_request(request)

    # The thread

    def _call(self, action: Callable[[], object]) -> None:
        """Calls ``action`` in the proxy's thread, which owns all sockets, and waits for its end."""
        if threading.current_thread() is self._thread:
            action()
            return
        done: Future[object] = Future()
        if self._thread is None or not self._thread.is_alive():
            raise RuntimeError(f"the proxy of {self.server} is not running; enter it as a context manager")
        self._calls.append((action, done))
        self._wake.send(b"!")
        done.result(_PATIENCE)

    def _run_calls(self, _: int) -> None:
        self._woken.recv(CHUNK)
        while self._calls:
            action, done = self._calls.popleft()
            try:
                done.set_result(action())
            except BaseException as exc:
                done.set_exception(exc)

    def _run(self) -> None:
        try:
            while not self._closing:
                for key, events in self._hub.selector.select(self._until_next()):
                    key.data(events)
                now = time.monotonic()
                for direction in [direction for direction in self._hub.paced if direction.due <= now]:
                    direction.step()
        finally:
            self._listen(False)
            for link in list(self._hub.links):
                link.abort()

    def _until_next(self) -> float | None:
        if not self._hub.paced:
            return None
        return max(0.0, min(direction.due for direction in self._hub.paced) - time.monotonic())

    def _listen(self, accepts: bool) -> None:
        """Begins or ceases to listen. In a black hole it listens, but only the kernel accepts."""
        if self._listening is not None and not accepts:
            self._unwatch_listening()
            self._listening.close()
            self._listening = None
        elif accepts:
            if self._listening is None:
                self._listening = _bound(self._port)
                self._listening.listen(_BACKLOG)
            self._unwatch_listening()
            if self._hub.behaviour.reads:
                self._hub.selector.register(self._listening, selectors.EVENT_READ, self._accept)

    def _unwatch_listening(self) -> None:
        assert self._listening is not None
        with contextlib.suppress(KeyError):
            self._hub.selector.unregister(self._listening)

    def _accept(self, _: int) -> None:
        if self._listening is None or not self._hub.behaviour.reads:
            return  # a fault has begun since the socket became ready
        try:
            client, _address = self._listening.accept()
        except OSError:  # the client has gone again
            return
        self.visitors += 1
        link = Link(self._hub, client)
        self._hub.links.add(link)
        if self._hub.behaviour.requests is None:
            link.dial()
        link.watch()
        if greeting := self._hub.behaviour.greeting:
            link.replies.push(greeting)


def _bound(port: int) -> socket.socket:
    end = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    end.setblocking(False)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    end.bind(("127.0.0.1", port))
    return end


def _target(server: str) -> tuple[socket.AddressFamily, Any]:
    if server.startswith("/"):
        return socket.AF_UNIX, server
    host, _, port = server.rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigurationError(f"server {server!r}: give host:port, or the path of a unix socket")
    family, _, _, _, address = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
    return family, address
