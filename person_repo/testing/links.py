"""The connections that pass through a proxy: each is a link of two directions, and all of them share a hub."""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

__all__ = ["CHUNK", "Behaviour", "Direction", "Handler", "Hub", "Link", "swallow"]

CHUNK: Final = 64 * 1024
"""Bytes that are read at one time, at most."""

# SO_LINGER of 0 seconds: close() discards what is unsent, and the other end receives a RST.
_ABORT: Final = struct.pack("ii", 1, 0)

_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE

Handler = Callable[["Link", bytes], object]
"""Called with a link and a request, or a reply, in place of passing it on."""


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """A fault, as the links make it. The default passes everything on."""

    requests: Handler | None = None
    """Handles requests. If set, the server is not dialled."""

    replies: Handler | None = None
    """Handles replies."""

    greeting: bytes = b""
    """Sent to each new client."""

    pace: tuple[int, float] | None = None
    """Replies are written in pieces of so many bytes, each after so many seconds."""

    accepts: bool = True
    """False: new connections are refused, and open ones reset."""

    reads: bool = True
    """False: nothing is read, neither from clients nor from the server, and nobody is accepted."""

    resets: bool = False
    """True: connections that are open at the beginning are reset."""


@dataclass(eq=False)
class Hub:
    """State that all links of a proxy share. Only the proxy's thread uses it."""

    target: tuple[socket.AddressFamily, Any]
    """Family and address of the server."""

    heard: Callable[[bytes], object]
    """Called with each request before it is handled."""

    behaviour: Behaviour = Behaviour()
    selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    links: set[Link] = field(default_factory=set)
    paced: set[Direction] = field(default_factory=set)
    """Directions that hold bytes back until a time (``due``)."""


class Link:
    """A client's connection, and the proxy's own connection to the server for it."""

    def __init__(self, hub: Hub, client: socket.socket) -> None:
        _prepare(client)
        self.hub = hub
        self.client = client
        self.server: socket.socket | None = None
        self.is_connecting = False
        self.is_lossy = False
        self.requests = Direction(self)
        self.replies = Direction(self)
        self.replies.sink = client
        self._watched: dict[socket.socket, int] = {}

    def dial(self) -> None:
        """Begins to connect to the server."""
        family, address = self.hub.target
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
        """Selects the events that matter now. A direction that holds data back is not read from."""
        if self not in self.hub.links:
            return
        reads = _READ if self.hub.behaviour.reads else 0
        events = {self.client: reads * self.requests.is_free | _WRITE * self.replies.is_blocked}
        if self.server is not None:
            if self.is_connecting:
                events = {self.client: 0, self.server: _WRITE}
            else:
                events[self.server] = reads * self.replies.is_free | _WRITE * self.requests.is_blocked
        for end, mask in events.items():
            self._set(end, mask)

    def _set(self, end: socket.socket, events: int) -> None:
        before = self._watched.get(end, 0)
        handler = self._on_client if end is self.client else self._on_server
        if events and before:
            self.hub.selector.modify(end, events, handler)
        elif events:
            self.hub.selector.register(end, events, handler)
        elif before:
            self.hub.selector.unregister(end)
        self._watched[end] = events

    def _on_client(self, events: int) -> None:
        if events & _READ and (data := self._read(self.client, self.requests)):
            self.hub.heard(data)
            if self not in self.hub.links:
                return  # that has made a fault
            (self.hub.behaviour.requests or _pass_request)(self, data)
        if events & _WRITE:
            self.replies.step()

    def _on_server(self, events: int) -> None:
        server = self.server
        if server is None or self not in self.hub.links:
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
            (self.hub.behaviour.replies or _pass_reply)(self, data)
        if events & _WRITE:
            self.requests.step()

    def _read(self, end: socket.socket, direction: Direction) -> bytes:
        if self not in self.hub.links or not self.hub.behaviour.reads or not direction.is_free:
            return b""  # closed, or a fault has begun, since the socket became ready
        try:
            data = end.recv(CHUNK)
        except BlockingIOError:
            return b""
        except OSError:
            self.abort()
            return b""
        if not data:
            direction.end()
        return data

    def abort(self) -> None:
        """Resets the client's connection, and closes the one to the server."""
        with contextlib.suppress(OSError):
            self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
        self.close()

    def close(self) -> None:
        """Closes both. May be called again."""
        self.hub.links.discard(self)
        self.hub.paced -= {self.requests, self.replies}
        for end in (self.client, self.server):
            if end is not None and end.fileno() >= 0:
                self._set(end, 0)
                end.close()


class Direction:
    """One direction of a link, with the bytes that were read and not yet written (``held``)."""

    __slots__ = ("due", "held", "is_ended", "link", "sink")

    def __init__(self, link: Link) -> None:
        self.link = link
        self.sink: socket.socket | None = None
        self.held = b""
        self.due = 0.0
        self.is_ended = False

    @property
    def is_free(self) -> bool:
        """True if more may be read."""
        return not self.held and not self.is_ended

    @property
    def is_blocked(self) -> bool:
        """True if bytes wait for the sink to accept more."""
        return bool(self.held) and self not in self.link.hub.paced

    def push(self, data: bytes) -> None:
        """Writes bytes at once, or as the pace allows."""
        pace = self.link.hub.behaviour.pace if self is self.link.replies else None
        if pace is None and not self.held and self.sink is not None and not self.link.is_connecting:
            data = data[self._send(data) :]
        if data:
            self.held += data
            if pace is not None:
                self.due = time.monotonic() + pace[1]
                self.link.hub.paced.add(self)
            if self.sink is None:
                self.link.dial()
            self.link.watch()

    def step(self) -> None:
        """Writes all that is held, or the next piece if there is a pace."""
        pace = self.link.hub.behaviour.pace if self in self.link.hub.paced else None
        piece = self.held if pace is None else self.held[: pace[0]]
        self.held = self.held[self._send(piece) :]
        if pace is not None:
            self.due = time.monotonic() + pace[1]
        if not self.held:
            self.link.hub.paced.discard(self)
            if self.is_ended:
                self.link.close()
        self.link.watch()

    def hurry(self) -> None:
        """Ends the pace of what is held."""
        self.link.hub.paced.discard(self)

    def end(self) -> None:
        """Closes the link once what is held has been written; nothing more follows."""
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


def _pass_request(link: Link, data: bytes) -> None:
    link.requests.push(data)


def _pass_reply(link: Link, data: bytes) -> None:
    link.replies.push(data)


def swallow(link: Link, _: bytes) -> None:
    """Drops a request or a reply."""
    link.is_lossy = True


def _prepare(end: socket.socket) -> None:
    end.setblocking(False)
    if end.family != socket.AF_UNIX:
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
