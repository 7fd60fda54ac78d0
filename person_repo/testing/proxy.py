"""A proxy in front of a server that fails the way networks and servers do, whenever it is told to.

For tests of outages: what a program does while its cache refuses, hangs, dribbles or talks nonsense, and what it does
afterwards. The server stays as it is, and whoever reaches it in another way sees nothing of the fault::

    with Proxy("127.0.0.1:11211") as proxy:
        backend.addresses = {"127.0.0.1:11211": proxy.address}
        proxy.cut()      # refuses, and resets what is open
        proxy.heal()

It knows nothing of memcached: a *request* is what is read from a client at one time, a *reply* what is read from the
server. One thread does all of it, and every method returns once its effect is there.
"""

from __future__ import annotations

import contextlib
import random
import selectors
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final, Self

from person_repo.exceptions import ConfigurationError

__all__ = ["Proxy"]

_CHUNK: Final = 64 * 1024
_BACKLOG: Final = 128
_PATIENCE: Final = 30.0
"""Seconds that a method waits for the proxy's thread; it never needs a thousandth of them."""

_PIECES: Final = 100
"""Into how many pieces a throttled second is cut, where it has that many bytes."""

# Nothing is kept for later on close: the other end is sent a RST.
_ABORT: Final = struct.pack("ii", 1, 0)

_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE

_Handler = Callable[["_Link", bytes], object]


class Proxy:
    """Listens on a free port of the loopback interface (``address``) and passes everything on to ``server``; use it as
    a context manager.

    ``server``: ``host:port``, or the path of a unix socket. ``seed``: the random choices of ``garble`` and
    ``flip_bits``. ``visitors`` counts the connections accepted so far. ``on_request``, where it is set, is called in
    the proxy's thread with each request before anything is done with it; it may make a fault, and must not raise.

    Each of the methods that make a fault ends the one before it; ``heal`` ends the last. A connection on which
    something was lost is reset then; one that was only held up goes on, and what was sent meanwhile arrives late.

    Raises ``ConfigurationError`` for a server that is neither, and ``OSError`` for a host that is not known.
    """

    def __init__(self, server: str, *, seed: int = 0) -> None:
        self.server = server
        self.visitors = 0
        self.on_request: Callable[[bytes], object] | None = None
        self._target = _target(server)
        self._random = random.Random(seed)
        # Bound as long as the proxy lives, and never listening: while it refuses, nobody else can get the port.
        self._reserved = _bound(0)
        self._port: int = self._reserved.getsockname()[1]
        self.address = f"127.0.0.1:{self._port}"
        self._links: set[_Link] = set()
        self._paced: set[_Way] = set()
        self._selector = selectors.DefaultSelector()
        self._listening: socket.socket | None = None
        self._orders: deque[tuple[Callable[[], object], Future[object]]] = deque()
        self._bell, self._rings = socket.socketpair()
        self._thread: threading.Thread | None = None
        self._closing = False
        self._requests: _Handler | None = None
        self._replies: _Handler | None = None
        self._greeting = b""
        self._reads = True
        self._pace: tuple[int, float] | None = None

    def __enter__(self) -> Self:
        self._rings.setblocking(False)
        self._selector.register(self._rings, _READ, self._hear)
        self._listen(True)
        self._thread = threading.Thread(target=self._run, name=f"proxy of {self.server}", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def close(self) -> None:
        """Resets what is open and gives the port back. May be called again."""
        if self._thread is not None and self._thread.is_alive():
            self._do(lambda: setattr(self, "_closing", True))
            self._thread.join(_PATIENCE)
        for end in (self._reserved, self._bell, self._rings):
            end.close()
        self._selector.close()

    @property
    def connections(self) -> int:
        """How many connections are open now."""
        return len(self._links)

    # Faults

    def heal(self) -> None:
        """Passes everything on again."""
        self._switch()

    def cut(self) -> None:
        """Resets every connection and refuses new ones, as a server that is down, or a firewall that says so."""
        self._switch(accepts=False)

    def reset(self) -> None:
        """Resets every connection, and each new one when the first request comes."""
        self._switch(requests=lambda link, _: link.abort(), resets=True)

    def hang(self) -> None:
        """Accepts, swallows every request and never answers."""
        self._switch(requests=_swallow)

    def blackhole(self) -> None:
        """Reads nothing: what is sent stays under way, as in a network that drops packets, and arrives once healed."""
        self._switch(reads=False)

    def drop(self, replies: int | None = None) -> None:
        """Passes requests on and swallows the next ``replies`` replies, or all of them: what was asked for is done, and
        who asked never hears of it. After that many, connections go on as if nothing had happened.
        """
        left = [replies]

        def swallow(link: _Link, data: bytes) -> None:
            if left[0] is None:
                _swallow(link, data)
            elif left[0] > 0:
                left[0] -= 1
            else:
                link.replies.push(data)

        self._switch(replies=swallow)

    def delay(self, seconds: float) -> None:
        """Holds each reply back for so long."""
        self._switch(pace=(_CHUNK, seconds))

    def throttle(self, bytes_per_second: float) -> None:
        """Lets replies through at this rate, the first byte included: at 1, a byte a second."""
        piece = max(1, int(bytes_per_second / _PIECES))
        self._switch(pace=(piece, piece / bytes_per_second))

    def garble(self) -> None:
        """Sends as many random bytes in place of each reply."""
        self._switch(replies=lambda link, data: link.replies.push(self._random.randbytes(len(data))))

    def flip_bits(self, count: int = 1) -> None:
        """Flips so many bits in each reply."""

        def flipped(link: _Link, data: bytes) -> None:
            changed = bytearray(data)
            for at in self._random.sample(range(len(data) * 8), min(count, len(data) * 8)):
                changed[at // 8] ^= 1 << at % 8
            link.replies.push(bytes(changed))

        self._switch(replies=flipped)

    def truncate(self, after: int) -> None:
        """Closes each connection in the middle of its next reply, after so many bytes of it."""

        def cut_short(link: _Link, data: bytes) -> None:
            link.replies.push(data[:after])
            link.replies.end()

        self._switch(replies=cut_short)

    def impersonate(self, answer: bytes = b"", *, greeting: bytes = b"") -> None:
        """Answers each request with ``answer`` in the server's stead, and each new connection with ``greeting``: a
        server of another protocol, or one that has but one thing to say.
        """

        def answered(link: _Link, _: bytes) -> None:
            link.is_lossy = True
            link.replies.push(answer)

        self._switch(requests=answered, greeting=greeting)

    def _switch(
        self,
        *,
        requests: _Handler | None = None,
        replies: _Handler | None = None,
        pace: tuple[int, float] | None = None,
        greeting: bytes = b"",
        accepts: bool = True,
        reads: bool = True,
        resets: bool = False,
    ) -> None:
        def apply() -> None:
            self._requests, self._replies, self._greeting = requests, replies, greeting
            self._reads, self._pace = reads, pace
            self._listen(accepts)
            for link in list(self._links):
                if link.is_lossy or resets or not accepts:
                    link.abort()
                else:
                    link.replies.hurry()
                    link.watch()

        self._do(apply)

    # The thread

    def _do(self, action: Callable[[], object]) -> None:
        """Has the proxy's thread do it, to which everything here belongs, and waits until it is done."""
        if threading.current_thread() is self._thread:
            action()
            return
        done: Future[object] = Future()
        if self._thread is None or not self._thread.is_alive():
            raise RuntimeError(f"the proxy of {self.server} is not running; enter it as a context manager")
        self._orders.append((action, done))
        self._bell.send(b"!")
        done.result(_PATIENCE)

    def _hear(self, _: int) -> None:
        self._rings.recv(_CHUNK)
        while self._orders:
            action, done = self._orders.popleft()
            try:
                done.set_result(action())
            except BaseException as exc:
                done.set_exception(exc)

    def _run(self) -> None:
        try:
            while not self._closing:
                for key, events in self._selector.select(self._until_next()):
                    key.data(events)
                if self._paced:
                    now = time.monotonic()
                    for way in [way for way in self._paced if way.due <= now]:
                        way.step()
        finally:
            self._listen(False)
            for link in list(self._links):
                link.abort()

    def _until_next(self) -> float | None:
        if not self._paced:
            return None
        return max(0.0, min(way.due for way in self._paced) - time.monotonic())

    def _listen(self, accepts: bool) -> None:
        """Whether it listens at all, and whether it accepts: in a black hole the kernel alone greets whoever comes."""
        if self._listening is not None and not accepts:
            self._unwatch_listening()
            self._listening.close()
            self._listening = None
        elif accepts:
            if self._listening is None:
                self._listening = _bound(self._port)
                self._listening.listen(_BACKLOG)
            self._unwatch_listening()
            if self._reads:
                self._selector.register(self._listening, _READ, self._accept)

    def _unwatch_listening(self) -> None:
        assert self._listening is not None
        with contextlib.suppress(KeyError):
            self._selector.unregister(self._listening)

    def _accept(self, _: int) -> None:
        if self._listening is None or not self._reads:
            return  # a fault has begun since the selector said so
        try:
            client, _address = self._listening.accept()
        except OSError:  # who came has gone again
            return
        self.visitors += 1
        link = _Link(self, client)
        self._links.add(link)
        if self._requests is None:
            link.dial()
        link.watch()
        if self._greeting:
            link.replies.push(self._greeting)


class _Link:
    """A client's connection, and ours to the server for it."""

    def __init__(self, proxy: Proxy, client: socket.socket) -> None:
        _prepare(client)
        self.proxy = proxy
        self.client = client
        self.server: socket.socket | None = None
        self.is_connecting = False
        self.is_lossy = False
        self.requests = _Way(self)
        self.replies = _Way(self)
        self.replies.sink = client
        self._watched: dict[socket.socket, int] = {}

    def dial(self) -> None:
        """Begins to connect to the server."""
        family, address = self.proxy._target
        self.server = self.requests.sink = socket.socket(family, socket.SOCK_STREAM)
        _prepare(self.server)
        self.is_connecting = True
        try:
            self.server.connect(address)
        except BlockingIOError:
            return
        except OSError:
            self.abort()
            return
        self.is_connecting = False

    def watch(self) -> None:
        """Waits for what can happen next. What is held up in one direction is read no further in it."""
        if self not in self.proxy._links:
            return
        reads = _READ if self.proxy._reads else 0
        wanted = {self.client: reads * self.requests.is_free | _WRITE * self.replies.is_blocked}
        if self.server is not None:
            if self.is_connecting:
                wanted = {self.client: 0, self.server: _WRITE}
            else:
                wanted[self.server] = reads * self.replies.is_free | _WRITE * self.requests.is_blocked
        for end, events in wanted.items():
            self._set(end, events)

    def _set(self, end: socket.socket, events: int) -> None:
        before = self._watched.get(end, 0)
        handler = self._on_client if end is self.client else self._on_server
        if events and before:
            self.proxy._selector.modify(end, events, handler)
        elif events:
            self.proxy._selector.register(end, events, handler)
        elif before:
            self.proxy._selector.unregister(end)
        self._watched[end] = events

    def _on_client(self, events: int) -> None:
        if events & _READ and (data := self._read(self.client, self.requests)):
            if self.proxy.on_request is not None:
                self.proxy.on_request(data)
                if self not in self.proxy._links:
                    return
            (self.proxy._requests or _pass_request)(self, data)
        if events & _WRITE:
            self.replies.step()

    def _on_server(self, events: int) -> None:
        server = self.server
        if server is None or self not in self.proxy._links:
            return
        if self.is_connecting:
            self.is_connecting = False
            if server.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self.abort()
                return
            self.requests.step()
            self.watch()
            return
        if events & _READ and (data := self._read(server, self.replies)):
            (self.proxy._replies or _pass_reply)(self, data)
        if events & _WRITE:
            self.requests.step()

    def _read(self, end: socket.socket, way: _Way) -> bytes:
        if self not in self.proxy._links or not self.proxy._reads or not way.is_free:
            return b""  # closed, or a fault has begun, since the selector said so
        try:
            data = end.recv(_CHUNK)
        except BlockingIOError:
            return b""
        except OSError:
            self.abort()
            return b""
        if not data:
            way.end()
        return data

    def abort(self) -> None:
        """Resets the client's connection, and closes ours to the server."""
        with contextlib.suppress(OSError):
            self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
        self.close()

    def close(self) -> None:
        """Closes both. May be called again."""
        self.proxy._links.discard(self)
        self.proxy._paced -= {self.requests, self.replies}
        for end in (self.client, self.server):
            if end is not None and end.fileno() >= 0:
                self._set(end, 0)
                end.close()


class _Way:
    """One direction of a link: what was read and is not yet written."""

    __slots__ = ("due", "held", "is_ended", "link", "sink")

    def __init__(self, link: _Link) -> None:
        self.link = link
        self.sink: socket.socket | None = None
        self.held = b""
        self.due = 0.0
        self.is_ended = False

    @property
    def is_free(self) -> bool:
        """Whether more may be read."""
        return not self.held and not self.is_ended

    @property
    def is_blocked(self) -> bool:
        """Whether something waits for the sink to take more."""
        return bool(self.held) and self not in self.link.proxy._paced

    def push(self, data: bytes) -> None:
        """Writes it at once, or as the pace allows."""
        pace = self.link.proxy._pace if self is self.link.replies else None
        if pace is None and not self.held and self.sink is not None and not self.link.is_connecting:
            data = data[self._send(data) :]
        if data:
            self.held += data
            if pace is not None:
                self.due = time.monotonic() + pace[1]
                self.link.proxy._paced.add(self)
            if self.sink is None:
                self.link.dial()
            self.link.watch()

    def step(self) -> None:
        """Writes what may be written now: all, or one piece."""
        pace = self.link.proxy._pace if self in self.link.proxy._paced else None
        piece = self.held if pace is None else self.held[: pace[0]]
        self.held = self.held[self._send(piece) :]
        if pace is not None:
            self.due = time.monotonic() + pace[1]
        if not self.held:
            self.link.proxy._paced.discard(self)
            if self.is_ended:
                self.link.close()
        self.link.watch()

    def hurry(self) -> None:
        """Is held back no longer, or at another pace from now on."""
        self.link.proxy._paced.discard(self)

    def end(self) -> None:
        """Nothing more comes this way: closes the link once what is held has been written."""
        self.is_ended = True
        if self.held:
            self.link.watch()
        else:
            self.link.close()

    def _send(self, data: bytes) -> int:
        if self.sink is None or not data:
            return 0
        try:
            return self.sink.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            self.link.abort()
            return len(data)


def _pass_request(link: _Link, data: bytes) -> None:
    link.requests.push(data)


def _pass_reply(link: _Link, data: bytes) -> None:
    link.replies.push(data)


def _swallow(link: _Link, _: bytes) -> None:
    link.is_lossy = True


def _prepare(end: socket.socket) -> None:
    end.setblocking(False)
    if end.family != socket.AF_UNIX:
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


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
