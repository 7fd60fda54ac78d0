"""A door in front of a server, which passes everything on until a test answers in place of the server.

``person_repo.testing.Proxy`` fails as networks and servers do. A door is for replies that a test writes itself: each
connection has a thread, so that an answer may send in pieces, wait for the test or end the connection; and it speaks
TLS and IPv6.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
from collections.abc import Callable
from typing import Self

__all__ = ["Answer", "Door"]

Answer = Callable[["Door", socket.socket, bytes], object]
"""Called with the door, a connection and a request. The connection is closed if this returns False."""


class Door:
    """Listens on a free loopback port, over TLS if a context is given; use it as a context manager.

    ``answer``, while it is set, answers in place of the server. ``visitors`` counts connections.
    """

    def __init__(self, port: int, *, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listening = socket.create_server((host, 0), family=family)
        self._behind = ("127.0.0.1", port)
        self._tls = tls
        self._threads: list[threading.Thread] = []
        self.answer: Answer | None = None
        self.visitors = 0
        self.closing = threading.Event()
        self.port: int = self._listening.getsockname()[1]
        self.url = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    def __enter__(self) -> Self:
        self._run(self._listen)
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive()
        self._listening.close()

    def _run(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work)
        self._threads.append(thread)
        thread.start()

    def _ready(self, *sockets: socket.socket) -> list[socket.socket]:
        """Those that have something to read; empty once the door is closing."""
        while not self.closing.is_set():
            ready, _, _ = select.select(sockets, [], [], 0.05)
            if ready:
                return ready
        return []

    def _listen(self) -> None:
        while self._ready(self._listening):
            visitor, _ = self._listening.accept()
            self.visitors += 1
            self._run(lambda visitor=visitor: self._receive(visitor))  # type: ignore[misc]

    def _receive(self, visitor: socket.socket) -> None:
        with visitor, contextlib.suppress(OSError):
            visitor.settimeout(10)
            if self._tls is None:
                self._attend(visitor)
            else:
                with self._tls.wrap_socket(visitor, server_side=True) as secured:
                    self._attend(secured)

    def _attend(self, visitor: socket.socket) -> None:
        with socket.create_connection(self._behind, timeout=10) as behind:
            while ready := self._ready(visitor, behind):
                for readable in ready:
                    received = _whole(readable)
                    if not received:
                        return
                    if readable is visitor and self.answer is not None:
                        if self.answer(self, visitor, received) is False:
                            return
                    else:
                        (behind if readable is visitor else visitor).sendall(received)


def _whole(readable: socket.socket) -> bytes:
    received = readable.recv(65536)
    # Bytes that TLS has decrypted already make no socket ready.
    while isinstance(readable, ssl.SSLSocket) and readable.pending():
        received += readable.recv(65536)
    return received
