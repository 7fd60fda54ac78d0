"""memcached's meta commands as bytes: requests are built here, replies read. Pure: no socket, no clock.

Source: ``doc/protocol.txt`` of memcached 1.6, "Meta Commands". Replies may come in any pieces: a reader is given the
bytes so far, appends the replies that are whole, and returns how much is missing. Two fast paths take a whole answer at
once, and return None for any answer that they do not know: ``KnownMarker`` for one key, ``all_values`` for many. The
slow ways, which know every answer, are ``read_replies`` and ``read_values``.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, TypeVar

from person_repo.cache.contract import marker_of
from person_repo.cache.memcached.items import BASE, EPOCH_SIZE, MARKER_TTL, TOKEN_SIZE
from person_repo.exceptions import CacheUnavailableError

__all__ = [
    "LARGEST_REQUEST",
    "KnownMarker",
    "ProtocolError",
    "Reply",
    "add",
    "all_values",
    "append_tombstone",
    "batches",
    "begin_epoch",
    "cas_of",
    "delete",
    "fetch_head",
    "fetch_tail",
    "fill",
    "get_batches",
    "get_marker",
    "keep_tombstones",
    "largest_body",
    "look",
    "number_of",
    "read_replies",
    "read_values",
    "replace_by_lease",
    "set_tombstone",
    "values_of_epoch",
]

T = TypeVar("T")

Reply = tuple[list[bytes], bytes]
"""One reply: the words of its line, and the value block (empty if it has none)."""

LARGEST_REQUEST: Final = 32 * 1024
"""Bytes sent before replies are read. They fit any socket buffer, so neither side waits for the other to read."""

_LONGEST_LINE: Final = 2048
_LARGEST_VALUE: Final = 64 * 1024 * 1024
_LARGEST_ITEM: Final = 1024 * 1024
_LARGEST_SETTINGS: Final = 64 * 1024
# The server's header of an item, its longest key, and room for the tombstones of some forty owners.
_KEPT_FREE: Final = 1024
_FLAGS_AND_SIZE: Final = re.compile(rb"([0-9]{1,10}) ([0-9]{1,10})").fullmatch
_WORDS: Final = frozenset({b"HD", b"EN", b"NS", b"EX", b"NF", b"MN", b"SERVER_ERROR"})
_END: Final = b"END\r\n"
# Of the fast path of a fetch. The server makes a lease by itself, and says W to the reader that holds it.
_LEASE: Final = b"VA 0 f0 c"
_WON: Final = ord("W")
_WON_LEASE: Final = b" W\r\n\r\n"
_LONGEST_HEAD: Final = 64
_MOST_HEADS: Final = 1024


class ProtocolError(CacheUnavailableError):
    """The other end gives an answer that no memcached would."""


# Requests


def get_marker(group: str) -> bytes:
    """Reads a group's marker."""
    return b"mg %b f v\r\n" % marker_of(group).encode()


def fetch_head(group: str) -> bytes:
    """The start of a fetch of one item: all that stands before the key. Two replies, the marker's and the item's."""
    return get_marker(group) + b"mg "


def fetch_tail(lease_ttl: int, renewal: int) -> bytes:
    """The end of a fetch: makes a lease of ``lease_ttl`` seconds if the item is absent (flag N), and gives one reader
    the right to renew an item with less than ``renewal`` seconds left (flag R; 0 for never).
    """
    renews = b" R%d" % renewal if renewal else b""
    return b" f c v N%d%b\r\n" % (lease_ttl, renews)


def fill(key: str, cas: bytes, ttl: int, epoch: bytes, value: bytes) -> bytes:
    """Puts a value in the place of a lease."""
    size = EPOCH_SIZE + len(value)
    return b"ms %b %d C%b T%d F%d\r\n%b%b\r\n" % (key.encode(), size, cas, ttl, BASE + size, epoch, value)


def replace_by_lease(key: str, cas: bytes, lease_ttl: int) -> bytes:
    """Puts a lease in the place of an item that has not changed since."""
    return b"ms %b 0 C%b T%d F0 c\r\n\r\n" % (key.encode(), cas, lease_ttl)


def begin_epoch(group: str, epoch: bytes) -> bytes:
    """Adds a group's marker, and reads the one that stands then. Two replies."""
    name = marker_of(group).encode()
    head = b"ms %b %d ME F%d T%d\r\n" % (name, EPOCH_SIZE, BASE + EPOCH_SIZE, MARKER_TTL)
    return head + epoch + b"\r\n" + get_marker(group)


def append_tombstone(name: str, token: bytes, ttl: int) -> bytes:
    """Appends a tombstone to an item, and looks at the item after it. Three replies."""
    key = name.encode()
    # N makes the item if there is none: an append alone makes none in 1.6.18.
    return b"mg %b N%d\r\nms %b %d MA c\r\n%b\r\nmg %b T%d f s c\r\n" % (key, ttl, key, TOKEN_SIZE, token, key, ttl)


def set_tombstone(name: str, token: bytes, ttl: int) -> bytes:
    """Overwrites whatever stands there by a tombstone."""
    return b"ms %b %d T%d F0 c\r\n%b\r\n" % (name.encode(), TOKEN_SIZE, ttl, token)


def add(name: str, body: bytes, ttl: int) -> bytes:
    """Stores an item if there is none."""
    return b"ms %b %d ME T%d\r\n%b\r\n" % (name.encode(), len(body), ttl, body)


def keep_tombstones(name: str, cas: bytes, ttl: int, tokens: Sequence[bytes]) -> bytes:
    """Leaves only these owners' tombstones of an item that has not changed since."""
    body = b"".join(tokens)
    return b"ms %b %d C%b T%d F0\r\n%b\r\n" % (name.encode(), len(body), cas, ttl, body)


def look(name: str) -> bytes:
    """Reads an item as it stands: flags, CAS id, seconds left and body."""
    return b"mg %b f c t v\r\n" % name.encode()


def delete(name: str, cas: bytes = b"") -> bytes:
    """Deletes an item; with a CAS id, only if it has not changed since."""
    return b"md %b C%b\r\n" % (name.encode(), cas) if cas else b"md %b\r\n" % name.encode()


def batches(items: Iterable[T], request: Callable[[T], bytes]) -> Iterator[tuple[list[T], bytes]]:
    """The items and their requests, in parts of at most ``LARGEST_REQUEST`` bytes (or one item)."""
    part: list[T] = []
    requests: list[bytes] = []
    room = LARGEST_REQUEST
    for item in items:
        wanted = request(item)
        if part and len(wanted) > room:
            yield part, b"".join(requests)
            part, requests, room = [], [], LARGEST_REQUEST
        part.append(item)
        requests.append(wanted)
        room -= len(wanted)
    if part:
        yield part, b"".join(requests)


def get_batches(marker: str, keys: Sequence[str]) -> Iterator[tuple[list[str], bytes]]:
    """The keys, and the ``get`` of the marker and them, in parts of at most ``LARGEST_REQUEST`` bytes."""
    step = LARGEST_REQUEST // (max(map(len, keys)) + 1) - 2
    for start in range(0, len(keys), step):
        part = list(keys[start : start + step])
        yield part, f"get {marker} {' '.join(part)}\r\n".encode()


# Replies to meta commands


def read_replies(received: bytes, count: int, replies: list[Reply]) -> tuple[bytes, int]:
    """Appends the replies that are whole, until there are ``count``.

    Returns the unread bytes, and the least size that they must grow to before they are read on; the size is 0 once all
    replies are there. Raises ``ProtocolError``.
    """
    start = 0
    while len(replies) < count:
        end = received.find(b"\r\n", start)
        if end < 0:
            return _unended(received[start:])
        words = received[start:end].split(b" ")
        if words[0] != b"VA":
            if words[0] not in _WORDS:
                raise ProtocolError(_unexpected(received[start:end]))
            replies.append((words, b""))
            start = end + 2
            continue
        stop = end + 2 + _size(words)
        if len(received) < stop + 2:
            return received[start:], stop + 2 - start
        if received[stop : stop + 2] != b"\r\n":
            raise ProtocolError("a value does not end where its line says")
        replies.append((words, received[end + 2 : stop]))
        start = stop + 2
    if start != len(received):
        raise ProtocolError(f"more than was asked for: {received[start : start + 40]!r}")
    return b"", 0


def cas_of(words: Sequence[bytes]) -> bytes:
    """The CAS id in a reply. Raises ``ProtocolError``."""
    word = _argument(words, b"c")
    if not word.isdigit():
        raise ProtocolError(f"a reply whose CAS id is no number: {word[:80]!r}")
    return word


def number_of(words: Sequence[bytes], flag: bytes) -> int:
    """The argument of a reply's flag, such as 12 of ``c12``: f has the client flags, s the size, t the seconds
    left. Raises ``ProtocolError``.
    """
    word = _argument(words, flag)
    try:
        return int(word)
    except ValueError:
        raise ProtocolError(f"a reply whose {flag.decode()} is no number: {word[:80]!r}") from None


def _argument(words: Sequence[bytes], flag: bytes) -> bytes:
    for word in words:
        if word[:1] == flag and word != flag:
            return word[1:]
    raise ProtocolError(f"a reply without {flag.decode()}: {b' '.join(words)[:80]!r}")


def _size(words: list[bytes]) -> int:
    size = words[1] if len(words) > 1 else b""
    if not size.isdigit():
        raise ProtocolError(f"a value without a size: {b' '.join(words)[:80]!r}")
    if len(size) > len(str(_LARGEST_VALUE)) or int(size) > _LARGEST_VALUE:
        raise ProtocolError(f"a value of {size[:20].decode()} bytes")
    return int(size)


def _unended(line: bytes) -> tuple[bytes, int]:
    if len(line) > _LONGEST_LINE:
        raise ProtocolError(f"a line starting {line[:40]!r} does not end")
    return line, len(line) + 1


def _unexpected(line: bytes) -> str:
    if line == b"ERROR":
        return "it does not know the meta commands; memcached 1.6 or newer is needed"
    return f"it answers {line[:80]!r}"


class KnownMarker:
    """Fast path of a fetch: a group's marker as this connection's server last had it, so that an answer which begins
    with the same reply is compared as a whole. The slow way is ``read_replies``.
    """

    __slots__ = ("_heads", "_reply", "_size", "epoch")

    def __init__(self, line: bytes, epoch: bytes) -> None:
        self.epoch = epoch
        self._reply = b"%b\r\n%b\r\n" % (line, epoch)
        self._size = len(self._reply)
        self._heads: dict[int, bytes] = {}

    def value_in(self, received: bytes) -> bytes | None:
        """The value, if the answer is the marker's reply, then a value of its epoch, and nothing else. None for every
        other answer, and for a value that this reader may renew.
        """
        start = received.find(b"\r\n", self._size, self._size + _LONGEST_HEAD) + 2
        size = len(received) - start - 2
        head = self._heads.get(size) or self._head(size)
        if (
            received.startswith(head)
            and received.startswith(self.epoch, start)
            and received.endswith(b"\r\n")
            and received[start - 3] != _WON
            and start > self._size
        ):
            return received[start + EPOCH_SIZE : start + size]
        return None

    def lease_in(self, received: bytes) -> bytes | None:
        """The CAS id, if the answer is the marker's reply and a lease for this reader; None for every other answer."""
        if not received.startswith(self._reply):
            return None
        head, stop = self._size + len(_LEASE), len(received) - len(_WON_LEASE)
        cas = received[head:stop]
        is_lease = received.startswith(_LEASE, self._size) and received.startswith(_WON_LEASE, stop)
        return cas if is_lease and cas.isdigit() else None

    def _head(self, size: int) -> bytes:
        """The marker's reply, and the start of the line of a value of this size."""
        if len(self._heads) >= _MOST_HEADS:
            self._heads.clear()
        head = self._heads[size] = b"%bVA %d f%d c" % (self._reply, size, BASE + size)
        return head


# Replies to ``get``


def all_values(received: bytes, names: Sequence[bytes]) -> list[bytes | None] | None:
    """Fast path of ``read_values`` and ``values_of_epoch``: the values, if the answer is the marker and a value of its
    epoch for each other name, and nothing else. None for every other answer.

    Each line gives the size of the bytes up to the next division, so a value that holds the bytes of a division is not
    taken for two.
    """
    first, *parts = received.split(b"\r\nVALUE ")
    line = b"VALUE %b %d %d\r\n" % (names[0], BASE + EPOCH_SIZE, EPOCH_SIZE)
    if len(parts) != len(names) - 1 or not first.startswith(line) or not received.endswith(b"\r\n" + _END):
        return None
    epoch = first[len(line) :]
    if len(epoch) != EPOCH_SIZE:
        return None
    parts[-1] = parts[-1][: -len(b"\r\n" + _END)]
    values: list[bytes | None] = []
    heads: dict[int, bytes] = {}  # The keys are the lengths of a line and its value, without the name.
    for name, part in zip(names[1:], parts, strict=True):
        size = len(part) - len(name)
        head = heads.get(size)
        if head is None:
            tail = _line_tail(size)
            if tail is None:
                return None
            head = heads[size] = tail + epoch
        head = name + head
        stop = len(head)
        if part[:stop] != head:
            return None
        values.append(part[stop:])
    return values


def read_values(received: bytes, names: Sequence[bytes], values: list[bytes | None]) -> tuple[bytes, int]:
    """Appends the body of each name whose line has come, None for a name that is left out or whose flags are not those
    of a value. Returns as ``read_replies`` does; the size is 0 once the end has come. Raises ``ProtocolError``.
    """
    start = 0
    for name in names[len(values) :]:
        line = b"VALUE %b " % name
        end = received.find(b"\r\n", start)
        if end < 0:
            return _unended(received[start:])
        if not received.startswith(line, start):
            values.append(None)
            continue
        size, is_value = _size_and_state(received[start + len(line) : end])
        stop = end + 2 + size
        if len(received) < stop + 2:
            return received[start:], stop + 2 - start
        if not received.startswith(b"\r\n", stop):
            raise ProtocolError("a value does not end where its line says")
        values.append(received[end + 2 : stop] if is_value else None)
        start = stop + 2
    line, end_of_line, _ = received[start:].partition(b"\r\n")
    if not end_of_line:
        return _unended(line)
    if received[start:] != _END:
        raise ProtocolError(_unexpected(line))
    return b"", 0


def values_of_epoch(bodies: Sequence[bytes | None]) -> list[bytes | None]:
    """The values of the marker's epoch, out of the bodies of the marker and of others; None for every other body."""
    epoch, *others = bodies
    if epoch is None or len(epoch) != EPOCH_SIZE:
        return [None] * len(others)
    return [body[EPOCH_SIZE:] if body and body[:EPOCH_SIZE] == epoch else None for body in others]


@functools.lru_cache(maxsize=1024)
def _line_tail(size: int) -> bytes | None:
    """The tail of a VALUE line (`` flags size\\r\\n``) such that tail and body together have this size; None if no body
    makes it so.
    """
    for digits in range(1, len(str(_LARGEST_VALUE)) + 1):
        body = size - len(b" %d \r\n" % BASE) - digits
        if body >= 0 and len(tail := b" %d %d\r\n" % (BASE + body, body)) == size - body:
            return tail
    return None


@functools.lru_cache(maxsize=1024)
def _size_and_state(words: bytes) -> tuple[int, bool]:
    """The size in the line of a body, and True if its flags are those of a value. An error is not kept."""
    found = _FLAGS_AND_SIZE(words)
    if found is None:
        raise ProtocolError(f"a value without flags and a size: {words[:80]!r}")
    size = int(found[2])
    if size > _LARGEST_VALUE:
        raise ProtocolError(f"a value of {size} bytes")
    return size, int(found[1]) == BASE + size


# The reply to ``stats settings``


def largest_body(received: bytes) -> int | None:
    """The size of the largest body that may be stored on a server, by its answer so far to ``stats settings``; None
    until the answer has ended.

    If memcached refuses an item for its size, it deletes the one at the key, be it another's tombstone; so nothing too
    large may be sent. Raises ``ProtocolError`` for what is no memcached, or one without CAS ids: it takes any fill,
    stale ones too.
    """
    is_longer = len(received) > 4 and not received.startswith((b"STAT ", _END))
    if is_longer or len(received) > _LARGEST_SETTINGS:
        raise ProtocolError(f"this is no memcached: {received[:40]!r}")
    if not received.endswith(_END):
        return None
    settings = dict(line[1:] for line in map(bytes.split, received.splitlines()) if len(line) == 3)
    if settings.get(b"cas_enabled") == b"no":
        raise ProtocolError("it runs without CAS ids, which leases need; start it without -C")
    largest = settings.get(b"item_size_max", b"")
    return (int(largest) if largest.isdigit() else _LARGEST_ITEM) - _KEPT_FREE
