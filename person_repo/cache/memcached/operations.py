"""A fetch, a fill, a tombstone and its release: the requests to one server, and the meaning of its replies.

No socket is used here. An ``Operation`` is a generator: it yields a request and the number of its replies, is sent
these replies, and returns its result. ``Pool.run`` makes its exchanges, all with one server.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Sequence
from typing import Final, NamedTuple, TypeVar

from person_repo.cache.contract import (
    BLOCKED,
    BUSY,
    UNREACHABLE,
    Expiring,
    Fetched,
    Lease,
    Place,
    Tombstones,
    marker_of,
)
from person_repo.cache.memcached import wire
from person_repo.cache.memcached.connection import Connection
from person_repo.cache.memcached.items import (
    BASE,
    EPOCH_SIZE,
    TOKEN_SIZE,
    epoch_in,
    is_lease,
    owners_in,
    owners_size,
    value_in,
)
from person_repo.cache.memcached.wire import KnownMarker, Reply

__all__ = [
    "GONE",
    "Fetch",
    "FillRight",
    "Operation",
    "Placed",
    "PlacedTombstone",
    "fill_request",
    "fits",
    "placed_tombstone",
    "remove_own",
    "tombstones_of",
]

R = TypeVar("R")

Operation = Generator[tuple[bytes, int], list[Reply], R]

GONE: Final = frozenset({b"HD", b"NF"})
"""The first words of the replies to a delete that say that nothing stands there any more."""

_REMOVALS: Final = 8


class FillRight(Lease):
    """A lease: the CAS id of the item that the server made for it, good on the connection on which it was taken.

    CAS ids restart with the server, so on another connection the same id may be somebody else's.
    """

    __slots__ = ("cas", "connection", "epoch")

    def __init__(self, key: str, connection: Connection, cas: bytes, epoch: bytes, *, renews: bool = False) -> None:
        super().__init__(key, renews=renews)
        self.connection = connection
        self.cas = cas
        self.epoch = epoch


# Fetch


class Fetch:
    """A fetch of one group's keys at one server, from its first replies to its answers."""

    __slots__ = ("_connection", "_epoch", "_group", "_keys", "_taken", "answers")

    def __init__(self, connection: Connection, group: str, keys: Sequence[str]) -> None:
        self._connection = connection
        self._group = group
        self._keys = keys
        self._epoch: bytes | None = None
        self._taken: dict[int, bytes] = {}  # CAS ids by the index of the key
        self.answers: list[Fetched] = []

    def understand(
        self, replies: Sequence[Reply], reject: bytes | None, lease_ttl: int, random: Callable[[int], bytes]
    ) -> Operation[bool]:
        """Fills ``answers`` by the replies of the marker and of each key, with one more exchange at most. Returns False
        if a tombstone stands on the marker: then nobody may keep the leases among the answers.
        """
        marker, *others = replies
        self._read_marker(marker)
        for index, (key, reply) in enumerate(zip(self._keys, others, strict=True)):
            answer = self._answer(key, reply, reject)
            if answer is None:
                self._taken[index] = wire.cas_of(reply[0])
            self.answers.append(BLOCKED if answer is None else answer)
        if marker[0][0] == b"EN":
            yield from self._begin_epoch(random(EPOCH_SIZE), lease_ttl)
        elif self._taken and self._epoch:
            self._take_places((yield self._take_requests(lease_ttl), len(self._taken)))
        return bool(self._epoch)

    def _read_marker(self, reply: Reply) -> None:
        words, body = reply
        self._epoch = epoch_in(wire.number_of(words, b"f"), body) if words[0] == b"VA" else None
        if self._epoch:
            self._connection.markers[self._group] = KnownMarker(b" ".join(words), self._epoch)

    def _answer(self, key: str, reply: Reply, reject: bytes | None) -> Fetched | None:
        """The answer for one key; None for an item whose place is taken by compare-and-set.

        Cases: refused, as the server has no room for a lease; a lease for this reader, or another's; a tombstone, or an
        item of an unknown version; a value of another epoch, or one that the caller cannot use; a value, with the right
        to renew it or without.
        """
        words, body = reply
        if words[0] != b"VA":
            return UNREACHABLE
        flags = wire.number_of(words, b"f")
        if is_lease(flags, body):
            return self._right(key, words) if b"W" in words else BUSY
        if value_in(flags, body) is None:
            return BLOCKED
        value = body[EPOCH_SIZE:]
        if not self._epoch or body[:EPOCH_SIZE] != self._epoch or value == reject:
            return None
        # A change of the item before it is renewed changes its CAS id, as with every lease.
        return Expiring(value, self._right(key, words, renews=True)) if b"W" in words else value

    def _right(self, key: str, words: Sequence[bytes], *, renews: bool = False) -> FillRight:
        return FillRight(key, self._connection, wire.cas_of(words), self._epoch or b"", renews=renews)

    def _begin_epoch(self, drawn: bytes, lease_ttl: int) -> Operation[None]:
        """Draws an epoch, and takes the places of items of an earlier one. No epoch follows if a writer's tombstone
        has come meanwhile.

        The first reader that adds the marker wins; all read the one that stands then. The loads come after this, so
        they see every change of the whole group that this epoch does not know.
        """
        request = wire.begin_epoch(self._group, drawn) + self._take_requests(lease_ttl)
        _, (words, body), *taken = yield request, 2 + len(self._taken)
        self._epoch = epoch_in(wire.number_of(words, b"f"), body) if words[0] == b"VA" else None
        for answer in self.answers:
            if isinstance(answer, FillRight):
                answer.epoch = self._epoch or b""
        self._take_places(taken)

    def _take_requests(self, lease_ttl: int) -> bytes:
        requests = [wire.replace_by_lease(self._keys[index], cas, lease_ttl) for index, cas in self._taken.items()]
        return b"".join(requests)

    def _take_places(self, replies: Sequence[Reply]) -> None:
        for index, (words, _) in zip(self._taken, replies, strict=True):
            self.answers[index] = self._right(self._keys[index], words) if words[0] == b"HD" else BUSY


# Fill


def fits(lease: FillRight, value: bytes) -> bool:
    """True if the server stores the value, and the flags have room for its size."""
    return EPOCH_SIZE + len(value) <= min(lease.connection.largest_body, BASE - 1)


def fill_request(lease: FillRight, value: bytes, ttl: int) -> bytes:
    """Stores a value in the lease's place; gives the lease back if the value does not fit. One reply, which is the same
    for both.
    """
    if not fits(lease, value):
        return wire.delete(lease.key, lease.cas)
    return wire.fill(lease.key, lease.cas, ttl, lease.epoch, value)


# Tombstones


class PlacedTombstone(NamedTuple):
    """A tombstone as it was placed: the connection, the CAS id it got, and if it is the only one on its item."""

    connection: Connection
    cas: bytes
    is_alone: bool


class Placed(NamedTuple):
    """The content of ``Tombstones.placed``: the transaction's token, and its tombstones by their places."""

    token: bytes
    tombstones: dict[Place, PlacedTombstone]


def placed_tombstone(connection: Connection, appended: Reply, seen: Reply) -> PlacedTombstone | None:
    """The tombstone of ``append_tombstone``, by the replies to its append and to the look after it; None if it has to
    be placed again.

    Cases: the append was refused, or another client deleted the item between the commands; a lease or a value stands
    there, so that ours was lost; the item is as our append left it, and its size says whether we are its only owner; it
    has changed since, and the CAS id may be another owner's.
    """
    (appended_words, _), (words, _) = appended, seen
    if not appended_words[0] == words[0] == b"HD":
        return None
    size = owners_size(wire.number_of(words, b"f"), wire.number_of(words, b"s"))
    if size == 0:
        return None
    cas = wire.cas_of(words)
    return PlacedTombstone(connection, cas, is_alone=cas == wire.cas_of(appended_words) and size == TOKEN_SIZE)


def tombstones_of(
    keys: Collection[str],
    groups: Collection[str],
    placed: Placed,
    servers: Sequence[str],
    server_of: Callable[[str], str],
) -> Tombstones:
    """The tombstones that a transaction wanted, with those that could not be placed."""
    wanted_keys, wanted_groups = frozenset(keys), frozenset(groups)
    reached = frozenset([server for server, _ in placed.tombstones])
    if len(placed.tombstones) == len(wanted_keys) + len(wanted_groups) * len(servers):
        return Tombstones(wanted_keys, wanted_groups, reached=reached, placed=placed)
    of_keys = {(server_of(key), key): key for key in wanted_keys}
    of_groups = {(server, marker_of(group)): group for group in wanted_groups for server in servers}
    missing = frozenset({**of_keys, **of_groups}.keys() - placed.tombstones.keys())
    return Tombstones(
        wanted_keys,
        wanted_groups,
        failed_keys=frozenset(key for place, key in of_keys.items() if place in missing),
        failed_groups=frozenset(group for place, group in of_groups.items() if place in missing),
        missing=missing,
        reached=reached.difference(server for server, _ in missing),
        placed=placed,
    )


def remove_own(name: str, token: bytes, is_expired: Callable[[bytes], bool]) -> Operation[None]:
    """Removes one owner's tombstone from an item that may have changed since it was placed.

    Cases: nothing stands there; our tombstone alone, a lease, or a value (a reader has filled it after our tombstone
    was lost, maybe with the old row): deleted. Our tombstone and others': theirs stay. Only others': theirs to remove,
    and the item goes with the last of them. Tombstones of owners that died count for nothing.
    """
    for _ in range(_REMOVALS):
        ((words, body),) = yield wire.look(name), 1
        if words[0] == b"EN":
            return
        owners = owners_in(wire.number_of(words, b"f"), body)
        others = [owner for owner in owners if owner != token and not is_expired(owner)]
        if others and token not in owners:
            return
        cas = wire.cas_of(words)
        if others:
            request = wire.keep_tombstones(name, cas, max(wire.number_of(words, b"t"), 1), others)
        else:
            request = wire.delete(name, cas)
        ((words, _),) = yield request, 1
        if words[0] in GONE:
            return
    # So contended that it changed under every attempt. To delete whatever stands there costs another writer's
    # tombstone, like an eviction: that writer finds it gone, and deletes the item that has come instead.
    yield wire.delete(name), 1
