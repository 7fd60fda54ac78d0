"""Replies in any pieces, and replies that almost make sense."""

from __future__ import annotations

import socket

import pytest
from support.exchanges import MARKER, Connect, keys, round_trips, says
from support.servers import Memcached
from support.unruly import Door

from person_repo.cache.contract import UNREACHABLE, Outcome
from person_repo.cache.memcached.items import BASE
from person_repo.testing.contract import GROUP, KEY, NEW, OTHER_KEY, store, take


def test_a_reply_in_single_bytes_is_read_whole(connect: Connect, server: Memcached, door: Door) -> None:
    def byte_by_byte(_: Door, visitor: socket.socket, request: bytes) -> None:
        assert request.startswith(b"mg ")
        for number in b"VA 8 f16777224\r\n12345678\r\nVA 11 f16777227 c5\r\n12345678a\r\n\r\n":
            visitor.sendall(bytes([number]))

    backend = connect(door)
    take(backend)
    door.answer = byte_by_byte

    assert backend.fetch(GROUP, KEY) == b"a\r\n"


MARKER_REPLY = b"VA 8 f16777224\r\nan epoch\r\n"
HIT_REPLY = b"VA 13 f16777229 c5\r\nan epochvalue\r\n"


@pytest.mark.parametrize("pieces", [1, 2, 30])
def test_a_hit_is_recognised_in_any_number_of_pieces(
    connect: Connect, server: Memcached, door: Door, pieces: int
) -> None:
    backend = connect(door)
    take(backend)
    replies = MARKER_REPLY + HIT_REPLY
    step = -(-len(replies) // pieces)
    door.answer = says(*[replies[start : start + step] for start in range(0, len(replies), step)])

    assert [backend.fetch(GROUP, KEY) for _ in range(3)] == [b"value"] * 3
    assert isinstance(backend.fetch(GROUP, KEY, reject=b"value"), Outcome)


@pytest.mark.parametrize("learnt", [False, True], ids=["the first", "after a hit of the same epoch"])
@pytest.mark.parametrize(
    "reply",
    [
        MARKER_REPLY + HIT_REPLY + b"EN\r\n",
        MARKER_REPLY + HIT_REPLY + b"\r\n",
        MARKER_REPLY[:-2] + b"XX" + HIT_REPLY,
        MARKER_REPLY + HIT_REPLY[:-2] + b"XX",
        MARKER_REPLY + b"VA -2 f16777216 c5\r\n",
        b"VA -2 f16777216\r\n" + HIT_REPLY,
        MARKER_REPLY + HIT_REPLY.replace(b"f16777229", b""),
        MARKER_REPLY + HIT_REPLY.replace(b"VA", b"va"),
    ],
    ids=lambda reply: repr(reply[-24:]),
)
def test_replies_that_almost_make_sense_are_not_trusted(
    connect: Connect, server: Memcached, door: Door, reply: bytes, learnt: bool
) -> None:
    """One byte is out of place, and nothing says which."""
    backend, other = connect(door), connect(server)
    store(other, OTHER_KEY, NEW)
    take(backend)
    if learnt:
        door.answer = says(MARKER_REPLY + HIT_REPLY)
        assert backend.fetch(GROUP, KEY) == b"value"
    door.answer = says(reply)

    assert backend.fetch(GROUP, KEY) is UNREACHABLE
    door.answer = None
    assert backend.fetch(GROUP, OTHER_KEY) == NEW


def values(*items: tuple[bytes, bytes], mark: bytes = b"an epoch") -> bytes:
    """The answer to a ``get`` of the marker and of keys that have these values, without its end."""
    bodies = [(MARKER.encode(), mark), *[(key, mark + value) for key, value in items]]
    return b"".join(b"VALUE %b %d %d\r\n%b\r\n" % (key, BASE + len(body), len(body), body) for key, body in bodies)


FIRST, SECOND = (key.encode() for key in keys(2))
END = b"END\r\n"


@pytest.mark.parametrize(
    "value",
    [b"value", b"", b"\r\nVALUE ", b"\r\n" + values((SECOND, b"forged")) + END, END, b"x" * 300_000],
    ids=lambda value: repr(value[:12]),
)
@pytest.mark.parametrize("pieces", [1, 2, 40])
def test_the_values_of_many_are_read_in_any_number_of_pieces_and_with_any_bytes_in_them(
    connect: Connect, server: Memcached, door: Door, value: bytes, pieces: int
) -> None:
    backend = connect(door)
    take(backend)
    reply = values((FIRST, value), (SECOND, b"other")) + END
    step = -(-len(reply) // pieces)
    door.answer = says(*[reply[start : start + step] for start in range(0, len(reply), step)])

    assert round_trips(backend, lambda: backend.fetch_many(GROUP, keys(2))) == 1
    assert backend.fetch_many(GROUP, keys(2)) == [value, b"other"]


HITS = values((FIRST, b"value"), (SECOND, b"other"))


@pytest.mark.parametrize(
    "reply",
    [
        HITS + END + b"x",
        HITS + END + END,
        HITS + b"\r\n" + END,
        HITS + b"SERVER_ERROR out of memory writing get response\r\n",
        HITS.replace(b"value\r\n", b"valueXX") + END,
        HITS.replace(b"other\r\n", b"otherXX") + END,
        HITS.replace(b"16777229 13", b"16777229 12") + END,
        HITS.replace(b"16777229 13", b"16777229 14") + END,
        HITS.replace(b"16777229 13", b"16777229 -13") + END,
        HITS.replace(b"16777229 13", b"16777229 999999999") + END,
        HITS.replace(b"16777229 13", b"x 13") + END,
        HITS.replace(b"16777229 13", b"13") + END,
        values((SECOND, b"other"), (FIRST, b"value")) + END,
        values((FIRST, b"value"), (FIRST, b"value")) + END,
        b"CLIENT_ERROR line too long\r\n",
    ],
    ids=lambda reply: repr(reply[-40:]),
)
def test_values_of_many_that_almost_make_sense_are_not_trusted(
    connect: Connect, server: Memcached, door: Door, reply: bytes
) -> None:
    backend, other = connect(door), connect(server)
    store(other, OTHER_KEY, NEW)
    take(backend)
    door.answer = says(reply)

    assert backend.fetch_many(GROUP, keys(2)) == [UNREACHABLE, UNREACHABLE]
    door.answer = None
    assert backend.fetch_many(GROUP, [OTHER_KEY]) == [NEW]


@pytest.mark.parametrize(
    "reply",
    [
        END,
        HITS.replace(b"16777229", b"16777228") + END,
        HITS.replace(b"an epochvalue", b"an EPOCHvalue").replace(b"an epochother", b"an EPOCHother") + END,
        values((FIRST, b"value"), (SECOND, b"other"), mark=b"short") + END,
        HITS.replace(b"16777224", b"0") + END,
        HITS[HITS.index(b"VALUE " + FIRST) :] + END,
    ],
    ids=lambda reply: repr(reply[:70]),
)
def test_items_that_are_no_values_of_the_epoch_are_fetched_one_by_one(
    connect: Connect, server: Memcached, door: Door, reply: bytes
) -> None:
    def answer(_: Door, visitor: socket.socket, request: bytes) -> None:
        visitor.sendall(reply if request.startswith(b"get ") else MARKER_REPLY + HIT_REPLY * 2)

    backend = connect(door)
    take(backend)
    door.answer = answer

    assert round_trips(backend, lambda: backend.fetch_many(GROUP, keys(2))) == 2
    assert backend.fetch_many(GROUP, keys(2)) == [b"value", b"value"]


def test_a_server_without_memory_for_a_lease_is_counted_and_logged(
    connect: Connect, door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    backend = connect(door)
    take(backend)
    refusal = b"SERVER_ERROR out of memory storing object\r\n"

    def answer(_: Door, visitor: socket.socket, request: bytes) -> None:
        visitor.sendall(END if request.startswith(b"get ") else MARKER_REPLY + refusal + HIT_REPLY)

    door.answer = answer

    assert backend.fetch_many(GROUP, keys(2)) == [UNREACHABLE, b"value"]
    assert backend.counters.snapshot().errors == 1
    assert caplog.messages == [
        f"memcached {door.url}: SERVER_ERROR out of memory storing object; what is not cached there stays so until "
        "it takes items"
    ]
    door.answer = None
    for key in keys(3):
        take(backend, key)
    assert [record.levelname for record in caplog.records] == ["WARNING"]  # INFO is not captured
