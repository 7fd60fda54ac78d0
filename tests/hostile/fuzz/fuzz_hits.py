"""The fast paths of a hit, ``KnownMarker`` and ``all_values``: a slow reader understands the same answers alike. An
answer to ``get`` that comes in pieces is read as one that comes whole.

The first bytes choose how the rest is used: as the answer to one key or to several, as it is or made into a server's
answer, in pieces of which size, and with the server closing after it or not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

from hostile.fuzz.fuzz_wire import SETTINGS, Server
from hostile.fuzz.witness import witness

from person_repo.cache.memcached import connection as connections
from person_repo.cache.memcached.connection import IDLE, Budget, Connection
from person_repo.cache.memcached.items import BASE, owners_in
from person_repo.cache.memcached.wire import KnownMarker
from person_repo.exceptions import CacheUnavailableError

__all__ = ["one_input", "seeds"]

EPOCH = b"epoch\r\n8"
NAMES = [b"m", b"a", b"bb", b"c\xc3\xa9"]
MARK = b"VA %d f%d" % (len(EPOCH), BASE + len(EPOCH))
LARGEST = 64 * 1024 * 1024

Value = tuple[bytes, bytes, bytes, bytes]
"""A name, flags, a size and a body, as they stand in the answer to ``get``."""


def seeds() -> Iterator[bytes]:
    """Hits, leases and near misses; values of the epoch and of another, some missing, some cut."""
    value = b"VA 11 f%d c5\r\n%babc\r\n" % (BASE + 11, EPOCH)
    marker = MARK + b"\r\n" + EPOCH + b"\r\n"
    for item in (
        value, value[:-1], value + b"HD\r\n", value.replace(b"c5", b"c5 W"), value.replace(b"c5", b"c5 Z"),
        value.replace(b"c5", b"c5 W\r"), value.replace(b"c5", b"c5 W\t"),
        value.replace(b"epoch", b"other"), value.replace(b"VA 11", b"VA 12"), value.replace(b" f", b" f1"), b"EN\r\n",
        b"VA 0 f0 c7 W\r\n\r\n", b"VA 0 f0 c7 Z\r\n\r\n", b"VA 0 f0 c7\r\n\r\n", b"VA 0 f0 cx W\r\n\r\n",
        b"VA 0 f1 c7 W\r\n\r\n", b"VA 3 f0 c7 W\r\nabc\r\n",
    ):  # fmt: skip
        yield b"\x00" + marker + item
        yield b"\x00" + MARK.replace(b"VA 8", b"VA 9") + b"\r\n" + EPOCH + b"\r\n" + item
    whole = _answer([_value(name, EPOCH + name) for name in NAMES])
    for answer in (
        whole, whole[:-1], whole + b"END\r\n", whole.replace(b"VALUE a", b"VALUE b"), b"END\r\n", b"\r\n", b"ERROR\r\n",
        _answer([_value(b"m", EPOCH)]), _answer([_value(name, EPOCH) for name in NAMES[1:]]),
        _answer([_value(b"m", EPOCH), _value(b"bb", b"others\r\n8")]), _answer([_value(b"m", b"short")]),
        _answer([_value(b"m", EPOCH), _value(b"a", EPOCH + b"\r\nVALUE bb 1 2\r\nxx\r\nEND\r\n")]),
        _answer([(b"m", b"1", b"8", EPOCH), (b"a", b"16777227", b"11", EPOCH + b"abc")]),
        _answer([_value(b"m", EPOCH), (b"a", b"0", b"99999999999", b"")]),
        _answer([_value(b"m", EPOCH), (b"a", b"+1", b"1", b"x")]),
    ):  # fmt: skip
        for how in (b"\x01\x00", b"\x01\x01", b"\x01\x07"):
            yield how + answer
    for choices in (b"\x00\x00\x00\x00", b"\x01\x02\x03\x04", b"\x05\x00\x06\x00", b"\x02\x02\x02\x02"):
        for how in (b"\x03\x00", b"\x03\x05"):
            yield how + choices + b"some body \r\nVALUE a 1 1\r\nEND\r\n"


def one_input(data: bytes) -> None:
    """One answer. Raises ``AssertionError``, or whatever is let through."""
    how, rest = (data + b"\x00")[0], data[1:]
    if how & 1:
        _several(rest[:1], rest[1:], made=bool(how & 2), closes=bool(how & 4))
    else:
        _one(rest)


def _one(received: bytes) -> None:
    """A hit or a lease by ``KnownMarker`` is one by ``read_replies``, too."""
    marker = KnownMarker(MARK, EPOCH)
    value, cas = marker.value_in(received), marker.lease_in(received)
    witness(f"{value is None} {cas is None}")
    if value is None and cas is None:
        return
    server = Server()
    connection = _connection(server)
    server.answers, server.piece, server.closes = received, 1 << 20, True
    connection.send(b"mg\r\n", Budget(60.0))
    (marker_words, epoch), (words, body) = connection.receive(2, Budget(60.0))
    assert (b" ".join(marker_words), epoch) == (MARK, EPOCH)
    if cas is not None:
        assert (value, body, words) == (None, b"", [b"VA", b"0", b"f0", b"c" + cas, b"W"])
        return
    flags = next(word for word in words if word.startswith(b"f"))
    assert words[0] == b"VA"
    assert body == EPOCH + (value or b"")
    assert flags == b"f%d" % (BASE + len(body))
    assert words[-1] != b"W"
    assert not owners_in(BASE + len(body), body)


def _several(choice: bytes, rest: bytes, *, made: bool, closes: bool) -> None:
    """The answer to a ``get`` of several names."""
    server = Server()
    connection = _connection(server)
    values = _chosen(rest) if made else None
    answer = rest if values is None else _answer(values)
    meant, after = _read(answer)
    server.answers, server.piece, server.closes = answer, ((choice or b"\x00")[0] % 32 or 1 << 20), closes
    connection.send(b"get m a\r\n", Budget(60.0))
    found = refusal = None
    try:
        found = connection.receive_values(NAMES, Budget(60.0))
    except CacheUnavailableError as exc:
        refusal = str(exc).partition(" b'")[0]
    witness(refusal or f"{[value is None for value in found or ()]}")
    # Bytes after the end may have come with it, or not yet.
    assert found == meant or (found is None and after), (answer, found, meant)
    assert (connection.state is IDLE) is (found is not None)


def _connection(server: Server) -> Connection:
    with mock.patch.object(connections, "_connected", return_value=server):
        return Connection("127.0.0.1:11211", SETTINGS)


def _value(name: bytes, body: bytes) -> Value:
    return name, b"%d" % (BASE + len(body)), b"%d" % len(body), body


def _answer(values: Sequence[Value]) -> bytes:
    return b"".join(b"VALUE %b %b %b\r\n%b\r\n" % value for value in values) + b"END\r\n"


def _chosen(raw: bytes) -> list[Value]:
    """A possible answer, one byte for each name: nothing, a value of the epoch, of another one, or something else."""
    choices, body = raw[: len(NAMES)].ljust(len(NAMES), b"\x01"), raw[len(NAMES) :]
    values: list[Value] = []
    for name, choice in zip(NAMES, choices, strict=True):
        marked = EPOCH if name == NAMES[0] else EPOCH + body
        kinds: list[Any] = [
            _value(name, marked), None, _value(name, b"others\r\n" + body), _value(name, body),
            (name, b"0", b"%d" % len(body), body), (name, b"16777216", b"%d" % len(marked), marked), _value(name, b""),
        ]  # fmt: skip
        if (kind := kinds[choice % len(kinds)]) is not None:
            values.append(kind)
    return values


def _read(answer: bytes) -> tuple[list[bytes | None] | None, bytes]:
    """Slow reader: the values of all names but the first, and the bytes after the end; None for no such answer."""
    bodies: dict[bytes, bytes | None] = {}
    remaining = list(NAMES)
    while not answer.startswith(b"END\r\n"):
        line, end, answer = answer.partition(b"\r\n")
        words = line.split(b" ")
        if not end or len(words) != 4 or words[0] != b"VALUE" or words[1] not in remaining:
            return None, b""
        _, name, flags, size = words
        del remaining[: remaining.index(name) + 1]
        if not (flags.isdigit() and size.isdigit()) or max(len(flags), len(size)) > 10 or int(size) > LARGEST:
            return None, b""
        body, end, answer = answer[: int(size)], answer[int(size) : int(size) + 2], answer[int(size) + 2 :]
        if len(body) != int(size) or end != b"\r\n":
            return None, b""
        bodies[name] = body if int(flags) == BASE + int(size) else None
    after = answer.removeprefix(b"END\r\n")
    mark = bodies.get(NAMES[0])
    if mark is None or len(mark) != len(EPOCH):
        return [None] * (len(NAMES) - 1), after
    others = [bodies.get(name) for name in NAMES[1:]]
    return [body[len(mark) :] if body and body.startswith(mark) else None for body in others], after
