"""The readers of replies, without a socket: an answer in any pieces is read as the whole one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from person_repo.cache.memcached import wire
from person_repo.cache.memcached.items import BASE
from person_repo.cache.memcached.wire import KnownMarker, ProtocolError, Reply
from person_repo.exceptions import CacheUnavailableError

EPOCH = b"an epoch"
MARKER_LINE = b"VA 8 f%d" % (BASE + 8)
MARKER = MARKER_LINE + b"\r\n" + EPOCH + b"\r\n"

bodies = st.binary(max_size=200) | st.sampled_from([b"\r\n", b"END\r\n", b"\r\nVALUE b 1 1\r\nx\r\n", b"HD\r\n"])
lines = st.sampled_from([b"HD", b"HD f0 c12", b"EN", b"NS", b"EX", b"NF", b"SERVER_ERROR out of memory"])
replies = st.lists(lines | bodies.map(lambda body: (b"VA %d f0 c1" % len(body), body)), min_size=1, max_size=6)
Read = Callable[[bytes, list[Any]], tuple[bytes, int]]


def in_pieces(read: Read, answer: bytes, cuts: list[int]) -> list[Any]:
    """Reads an answer that comes in pieces. A reader is given no byte more than it asks for, and fewer at first."""
    found: list[Any] = []
    position = min(cuts[0] if cuts else 1, len(answer))
    unread, size = read(answer[:position], found)
    for cut in [*cuts[1:], *[1] * len(answer)]:
        if not size:
            break
        assert size > len(unread), "a reader that asks for nothing more would wait for ever"
        step = max(size - len(unread), min(cut, len(answer) - position))
        assert position + step <= len(answer), "it waits for bytes that are not to come"
        unread += answer[position : position + step]
        position += step
        unread, size = read(unread, found)
    assert (unread, size, position) == (b"", 0, len(answer))
    return found


@given(replies=replies, cuts=st.lists(st.integers(1, 50), max_size=30))
def test_replies_in_pieces_are_those_of_the_whole(replies: list[Any], cuts: list[int]) -> None:
    meant: list[Reply] = [
        (reply[0].split(), reply[1]) if isinstance(reply, tuple) else (reply.split(), b"") for reply in replies
    ]
    answer = b"".join(
        reply[0] + b"\r\n" + reply[1] + b"\r\n" if isinstance(reply, tuple) else reply + b"\r\n" for reply in replies
    )

    assert in_pieces(lambda unread, found: wire.read_replies(unread, len(replies), found), answer, cuts) == meant


@given(values=st.lists(st.none() | bodies, min_size=1, max_size=6), cuts=st.lists(st.integers(1, 50), max_size=30))
def test_values_in_pieces_are_those_of_the_whole(values: list[bytes | None], cuts: list[int]) -> None:
    names = [b"m", *[b"key%d" % number for number in range(len(values))]]
    items = [EPOCH, *[None if value is None else EPOCH + value for value in values]]
    answer = (
        b"".join(
            b"VALUE %b %d %d\r\n%b\r\n" % (name, BASE + len(body), len(body), body)
            for name, body in zip(names, items, strict=True)
            if body is not None
        )
        + b"END\r\n"
    )

    assert in_pieces(lambda unread, found: wire.read_values(unread, names, found), answer, cuts) == items
    assert wire.values_of_epoch(items) == values
    is_plain = all(value is not None and b"\r\nVALUE " not in value for value in values)
    assert wire.all_values(answer, names) == (values if is_plain else None)  # the fast path


def test_the_fast_path_recognises_a_value_and_a_lease_of_its_marker_alone() -> None:
    marker = KnownMarker(MARKER_LINE, EPOCH)
    value = b"VA 11 f%d c5\r\n%babc\r\n" % (BASE + 11, EPOCH)

    assert marker.value_in(MARKER + value) == b"abc"
    assert marker.value_in(MARKER + value.replace(b"c5", b"c5 W")) is None, "this reader may renew it"
    assert marker.value_in(MARKER + value.replace(EPOCH, b"no epoch")) is None
    assert marker.value_in(MARKER + value[:-3]) is None
    assert marker.lease_in(MARKER + b"VA 0 f0 c7 W\r\n\r\n") == b"7"
    assert marker.lease_in(MARKER + b"VA 0 f0 c7 Z\r\n\r\n") is None, "another reader has it"
    assert marker.lease_in(b"EN\r\n" + b"VA 0 f0 c7 W\r\n\r\n") is None


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"ERROR\r\n", "memcached 1.6 or newer is needed"),
        (b"CLIENT_ERROR bad\r\n", "it answers b'CLIENT_ERROR bad'"),
        (b"HD\r\nHD\r\n", "more than was asked for"),
        (b"VA x\r\n", "a value without a size"),
        (b"VA 67108865\r\n", "a value of 67108865 bytes"),
        (b"VA 1\r\nabc", "a value does not end where its line says"),
        (b"x" * 2049, "does not end"),
    ],
)
def test_bytes_that_are_no_reply_are_refused_with_the_reason(answer: bytes, reason: str) -> None:
    with pytest.raises(ProtocolError, match=reason) as caught:
        wire.read_replies(answer, 1, [])
    assert isinstance(caught.value, CacheUnavailableError)


def test_settings_are_read_once_they_have_all_come() -> None:
    answer = b"STAT maxconns 1024\r\nSTAT item_size_max 524288\r\nSTAT cas_enabled yes\r\nEND\r\n"

    assert {wire.largest_body(answer[:size]) for size in range(len(answer))} == {None}
    assert wire.largest_body(answer) == 524288 - 1024
    assert wire.largest_body(b"END\r\n") == 1024 * 1024 - 1024
    with pytest.raises(ProtocolError, match="start it without -C"):
        wire.largest_body(answer.replace(b"yes", b"no"))
    with pytest.raises(ProtocolError, match="this is no memcached"):
        wire.largest_body(b"HTTP/1.1 400")


def test_requests_are_batched_to_what_a_socket_takes() -> None:
    keys = [f"key{number:04}" for number in range(5000)]

    parts = list(wire.batches(keys, lambda key: wire.delete(key)))
    gets = list(wire.get_batches("m", keys))

    for batches in (parts, gets):
        assert len(batches) > 1
        assert [key for names, _ in batches for key in names] == keys
        assert max(len(request) for _, request in batches) <= wire.LARGEST_REQUEST
    assert next(wire.batches(["key"], lambda key: b"x" * 100_000)) == (["key"], b"x" * 100_000)
