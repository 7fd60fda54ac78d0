"""An exchange that Ctrl-C or a signal interrupts at any call."""

from __future__ import annotations

import itertools
import signal
import socket
from collections.abc import Callable
from typing import Any

import pytest
from support.exchanges import Connect, keys
from support.servers import Memcached
from support.unruly import Door

from person_repo.cache.memcached.backend import MemcachedBackend
from person_repo.cache.memcached.connection import Budget
from person_repo.testing.contract import GROUP, KEY, NEW, OLD, OTHER_KEY, store, take


class Interrupting:
    """A socket that a signal interrupts at its n-th call, and at no other."""

    def __init__(self, inner: socket.socket, call: int) -> None:
        self._inner = inner
        self._calls_before = call

    def _count(self) -> None:
        self._calls_before -= 1
        if self._calls_before == 0:
            raise KeyboardInterrupt

    def sendall(self, request: bytes) -> None:
        self._count()
        self._inner.sendall(request)
        self._count()

    def recv(self, _: int) -> bytes:
        self._count()
        received = self._inner.recv(7)  # so that a reply takes several calls
        self._count()
        return received

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


@pytest.mark.parametrize(
    "operation",
    ["fetch", "fetch_many", "fill", "abandon", "put_tombstones", "release", "contended release", "dogpile"],
)
def test_after_any_interruption_the_next_read_gets_its_own_value(
    connect: Connect, server: Memcached, operation: str
) -> None:
    backend, another = connect(server), connect(server)
    for number in range(12):
        store(another, f"{KEY}{number}", b"%d" % number * 20)
    for number_of_call in itertools.count(1):
        call = prepare(backend, another, f"{KEY}-{number_of_call}", operation)
        connection = backend._pool.connection(server.url, Budget(10.0))
        inner = connection._socket
        connection._socket = Interrupting(inner, number_of_call)  # type: ignore[assignment]
        try:
            call()
        except KeyboardInterrupt:
            assert backend._pool.connection(server.url, Budget(10.0)) is not connection
        else:
            connection._socket = inner
            assert number_of_call > 4, "nothing was interrupted"
            return
        for number in range(12):
            assert backend.fetch(GROUP, f"{KEY}{number}") == b"%d" % number * 20
        assert backend.fetch_many(GROUP, [f"{KEY}7", f"{KEY}3"]) == [b"7" * 20, b"3" * 20]


def prepare(backend: MemcachedBackend, another: MemcachedBackend, key: str, operation: str) -> Callable[[], object]:
    match operation:
        case "fetch":
            return lambda: backend.fetch(GROUP, f"{KEY}0")
        case "fetch_many":
            return lambda: backend.fetch_many(GROUP, [f"{KEY}{number}" for number in range(12)])
        case "fill":
            lease = take(backend, key)
            return lambda: backend.fill(lease, OLD)
        case "abandon":
            lease = take(backend, key)
            return lambda: backend.abandon([lease])
        case "put_tombstones":
            return lambda: backend.put_tombstones([key, f"{key}-b"])
        case "release":
            tombstones = backend.put_tombstones([key])
            return lambda: backend.release(tombstones)
        case "contended release":
            tombstones = backend.put_tombstones([key])
            another.put_tombstones([key])
            return lambda: backend.release(tombstones)
        case _:
            return lambda: backend.get_serialized(key)


@pytest.mark.parametrize("call", range(1, 8))
def test_leases_taken_before_an_interrupted_exchange_are_not_used_on_its_connection(
    connect: Connect, server: Memcached, call: int
) -> None:
    """A reader that is interrupted gives its leases back. On that connection the replies to the exchange would be read
    as those to the leases, and every later reply as somebody else's.
    """
    backend, another = connect(server), connect(server)
    values = keys(6)
    for key in values:
        store(another, key, key.encode())
    lease, other_lease = take(backend), take(backend, OTHER_KEY)
    connection = backend._pool.connection(server.url, Budget(10.0))
    connection._socket = Interrupting(connection._socket, call)  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        backend.fetch(GROUP, values[0])
    inner: Any = connection._socket
    connection._socket = inner._inner

    backend.abandon([lease])
    assert backend.fill(other_lease, OLD) is False

    assert [backend.fetch(GROUP, key) for key in values] == [key.encode() for key in values]


def test_a_signal_in_a_read_that_hangs_leaves_nothing_behind(connect: Connect, server: Memcached, door: Door) -> None:
    """The signal comes while the socket waits, when part of the reply has been read."""
    backend = connect(door)
    store(backend, KEY, OLD)
    store(backend, OTHER_KEY, NEW)

    class InterruptedError_(BaseException):
        pass

    def raise_(*_: object) -> None:
        raise InterruptedError_

    def half_a_reply(_: Door, visitor: socket.socket, __: bytes) -> None:
        visitor.sendall(b"VA 8 f16777224\r\nmark")
        signal.raise_signal(signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, raise_)
    try:
        door.answer = half_a_reply
        with pytest.raises(InterruptedError_):
            backend.fetch(GROUP, KEY)
    finally:
        signal.signal(signal.SIGUSR1, before)
    door.answer = None

    assert backend.fetch(GROUP, OTHER_KEY) == NEW
    assert backend.fetch(GROUP, KEY) == OLD
