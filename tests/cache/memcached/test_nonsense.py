"""A server that answers with nonsense, from its first byte or from some moment on."""

from __future__ import annotations

import contextlib
import socket
import struct

import pytest
from support.exchanges import Connect, hurry, keys, says, says_to_each
from support.servers import Memcached
from support.unruly import Answer, Door

from person_repo.cache.contract import BLOCKED, UNREACHABLE, Lease, Tombstones
from person_repo.cache.memcached.backend import MemcachedBackend
from person_repo.exceptions import CacheUnavailableError
from person_repo.testing.contract import GROUP, KEY, NEW, OLD, OTHER_KEY, store, take


def closes(_: Door, __: socket.socket, ___: bytes) -> bool:
    return False


def resets(_: Door, visitor: socket.socket, __: bytes) -> bool:
    visitor.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return False


def closes_after(part: bytes) -> Answer:
    def answer(_: Door, visitor: socket.socket, __: bytes) -> bool:
        visitor.sendall(part)
        return False

    return answer


def dribbles(part: bytes) -> Answer:
    """Answers with this part, then single bytes, and never ends."""

    def answer(door: Door, visitor: socket.socket, _: bytes) -> None:
        visitor.sendall(part)
        while not door.closing.wait(0.005):
            visitor.sendall(b"x")

    return answer


NONSENSE: dict[str, Answer] = {
    "silence": says(),
    "closing": closes,
    "a reset": resets,
    "noise": says(bytes(range(256)) * 16),
    "an HTTP server": says(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"),
    "an older memcached": says_to_each(b"ERROR\r\n"),
    "a complaint": says_to_each(b"CLIENT_ERROR bad command line format\r\n"),
    "failure": says_to_each(b"SERVER_ERROR out of memory storing object\r\n"),
    "an empty line": says(b"\r\n\r\n\r\n"),
    "half a line": says(b"VA 1"),
    "half a line, then closing": closes_after(b"VA 1"),
    "half a value": says(b"VA 100 f0 c1\r\nhalf"),
    "half a value, then closing": closes_after(b"VA 100 f0 c1\r\nhalf"),
    "an endless line": dribbles(b""),
    "an endless value": dribbles(b"VA 1000000 f0 c1\r\n"),
    "a value without an end": says(b"VA 4 f0 c1\r\nlonger than that\r\n" * 3),
    "a value of no size": says_to_each(b"VA f0 c1\r\n\r\n"),
    "a value of negative size": says_to_each(b"VA -4 f0 c1\r\n\r\n"),
    "a value of absurd size": says(b"VA 999999999999 f0 c1\r\n\r\n" * 3),
    "a value without flags": says_to_each(b"VA 0\r\n\r\n"),
    "flags that are no number": says_to_each(b"VA 0 fx c1 W\r\n\r\n"),
    "headers without flags": says_to_each(b"HD\r\n"),
    "headers whose flags are no numbers": says_to_each(b"HD fx sx cx tx\r\n"),
    "more than was asked for": says(b"EN\r\n" * 40),
    "less than was asked for": says(b"EN\r\n"),
}


def assert_unreachable(backend: MemcachedBackend, lease: Lease | None, tombstones: Tombstones | None) -> None:
    assert not isinstance(backend.fetch(GROUP, KEY), bytes | Lease)
    assert not any(isinstance(found, bytes | Lease) for found in backend.fetch_many(GROUP, keys(3)))
    if lease is not None:
        backend.fill(lease, OLD)
        backend.abandon([lease])
    placed = backend.put_tombstones([KEY, OTHER_KEY], [GROUP])
    assert placed.failed_keys == {KEY, OTHER_KEY}
    assert placed.failed_groups == {GROUP}
    assert not placed.complete
    backend.release(placed)
    if tombstones is not None:
        backend.release(tombstones)


@pytest.mark.parametrize("answer", NONSENSE.values(), ids=NONSENSE)
def test_nonsense_from_the_first_byte_costs_a_failure_and_no_more(connect: Connect, door: Door, answer: Answer) -> None:
    backend = connect(door, timeout=0.05, connect_timeout=0.05)
    door.answer = answer

    assert backend.fetch(GROUP, KEY) is UNREACHABLE
    assert_unreachable(backend, None, None)


@pytest.mark.parametrize("answer", NONSENSE.values(), ids=NONSENSE)
def test_nonsense_later_on_costs_a_failure_and_no_more(
    connect: Connect, door: Door, server: Memcached, answer: Answer, caplog: pytest.LogCaptureFixture
) -> None:
    backend, other = connect(door), connect(server)
    store(other, OTHER_KEY, NEW)
    lease = take(backend)
    tombstones = backend.put_tombstones([f"{KEY}-b"])
    hurry(backend, 0.05)
    door.answer = answer

    assert backend.fetch(GROUP, KEY) in (UNREACHABLE, BLOCKED)
    assert_unreachable(backend, lease, tombstones)
    for call in (
        lambda: backend.get_serialized("plain"),
        lambda: backend.set_serialized("plain", b""),
        lambda: backend.delete("plain"),
    ):
        with contextlib.suppress(CacheUnavailableError):  # some nonsense is an answer to dogpile's face
            call()
    assert [record.levelname for record in caplog.records][:1] == ["WARNING"]
    assert caplog.messages[0].startswith(f"memcached {door.url}: ")


@pytest.mark.parametrize("answer", NONSENSE.values(), ids=NONSENSE)
def test_after_nonsense_the_next_exchange_is_in_order(
    connect: Connect, door: Door, server: Memcached, answer: Answer
) -> None:
    other, backend = connect(server), connect(door)
    store(other, OTHER_KEY, NEW)
    hurry(backend, 0.05)
    door.answer = answer
    backend.fetch(GROUP, KEY)
    backend.fetch_many(GROUP, keys(2))
    door.answer = None
    hurry(backend, 10.0)

    found = [backend.fetch(GROUP, OTHER_KEY) for _ in range(2)]

    assert found[-1] == NEW
    assert found[0] in (NEW, UNREACHABLE)
