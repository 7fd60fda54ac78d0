"""Leases and tombstones in memcached (1.6 or newer, meta commands), on several servers by fixed placement.

An item's state is told by its client flags and its size, so that it can be told from any one reply:

========= ======================= ==========================================================
state     flags                   body
========= ======================= ==========================================================
absent                            no item, or a value of another epoch
lease     0                       empty: the server makes it by itself (``mg ... N``)
value     ``BASE`` + size of body 8 bytes of the group's epoch, then the value
tombstone anything else           what stood there, then 16 bytes for each owner, appended
========= ======================= ==========================================================

A tombstone is *appended*: several transactions may own one at a time, each removes its own, and every append changes
the item's CAS id, so that whoever holds the lease loses it. ``BASE`` carries the protocol's version: an item of
another one fits no state but tombstone, and is bypassed.

Each server holds a *marker* for each group: an item whose value is the epoch, a random number. A value of another epoch
is absent. A tombstone on the marker blocks the group; its release deletes the marker, and the next reader draws a new
epoch.

CAS ids restart with the server, so a lease is good on the one connection on which it was taken, and nowhere else.

Leases are those of "Scaling Memcache at Facebook" (NSDI 2013), the two steps around a commit the inhibit and quarantine
leases of "Strong Consistency in Cache Augmented SQL Systems" (Middleware 2014).
"""

from __future__ import annotations

import functools
import logging
import os
import ssl
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any, ClassVar, Final, NamedTuple, TypeVar, cast

from dogpile.cache.api import NO_VALUE

from person_repo.cache.breaker import Breaker
from person_repo.cache.contract import (
    BLOCKED,
    BUSY,
    UNREACHABLE,
    Expiring,
    Fetched,
    Lease,
    LeaseBackend,
    Place,
    Tombstones,
    marker_of,
    well_formed,
)
from person_repo.cache.memcached.connection import LARGEST_REQUEST, Connection, Patience, Reply
from person_repo.exceptions import CacheError, CacheUnavailableError, ConfigurationError
from person_repo.forks import on_fork
from person_repo.settings import CacheSettings, parse_cache_url
from person_repo.tls import tls_context

__all__ = ["MemcachedBackend"]

T = TypeVar("T")
R = TypeVar("R")

logger = logging.getLogger("person_repo.cache")

BASE: Final = 1 << 24
"""The protocol's version, in the flags' highest byte; the rest is the size of the body."""

_EPOCH: Final = 8
_TOKEN: Final = 16
_PLACES: Final = 16 * 1024
_LONGEST_HEAD: Final = 64
_HEADS: Final = 1024
_WON: Final = ord("W")
# A lease as the server makes and tells it: to the one who has won it.
_LEASE: Final = b"VA 0 f0 c"
_WON_LEASE: Final = b" W\r\n\r\n"
_NOBODY: Final = bytes(_TOKEN)
_APPENDS: Final = 3
_WITHDRAWALS: Final = 8
_CONNECTIONS: Final = 2
_GONE: Final = frozenset({b"HD", b"NF"})

# A marker outlives every value of its epoch whatever the ttl; one that expires only makes
# its group cold.
_MARKER_TTL: Final = 30 * 24 * 3600


class _Held(Lease):
    __slots__ = ("cas", "connection", "epoch")

    def __init__(self, key: str, connection: Connection, cas: bytes, epoch: bytes, *, renews: bool = False) -> None:
        super().__init__(key, renews=renews)
        self.connection = connection
        self.cas = cas
        self.epoch = epoch


class _Stone(NamedTuple):
    """A tombstone as it was placed: where, the CAS id it got, and whether nobody else owned one there."""

    connection: Connection
    cas: bytes
    alone: bool


class _Placed(NamedTuple):
    token: bytes
    stones: dict[Place, _Stone]


class _Local(threading.local):
    """What belongs to one thread: its connections, by server."""

    def __init__(self) -> None:
        self.connections: dict[str, Connection] = {}


class _Marker:
    """How a server tells of a group's marker: its reply, line and epoch."""

    __slots__ = ("_heads", "_reply", "_size", "epoch")

    def __init__(self, line: bytes, epoch: bytes) -> None:
        self.epoch = epoch
        self._reply = b"%b\r\n%b\r\n" % (line, epoch)
        self._size = len(self._reply)
        self._heads: dict[int, bytes] = {}

    def value_in(self, received: bytes) -> bytes | None:
        """The value, where what was received is this reply, then a value of its epoch, and nothing else. None says
        nothing: only whoever reads it word by word can tell what it is.
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
            return received[start + _EPOCH : start + size]
        return None

    def lease_in(self, received: bytes) -> bytes | None:
        """The CAS id, where what was received is this reply, then that of a lease which was won; else None."""
        if not received.startswith(self._reply):
            return None
        head, stop = self._size + len(_LEASE), len(received) - len(_WON_LEASE)
        cas = received[head:stop]
        is_lease = received.startswith(_LEASE, self._size) and received.startswith(_WON_LEASE, stop)
        return cas if is_lease and cas.isdigit() else None

    def _head(self, size: int) -> bytes:
        """The reply, and how the line after it begins for a value of so many bytes."""
        if len(self._heads) >= _HEADS:
            self._heads.clear()
        head = self._heads[size] = b"%bVA %d f%d c" % (self._reply, size, BASE + size)
        return head


class _OpenCircuitError(CacheUnavailableError):
    """The server has failed too often just now to be asked."""


class MemcachedBackend(LeaseBackend):
    """The lease contract over memcached servers; safe for threads (a connection each) and for forks.

    ``arguments``: ``servers`` (``host:port`` or socket paths), or a whole cache ``url``, and see ``LeaseBackend``.
    Every key lives on one server, chosen by rendezvous hashing over the configured list; it never moves to another
    because its own is down. Whoever shares the cache must list the same servers.

    A server that fails ``breaker_failures`` times in a row is left alone, but for one probe every ``breaker_reset``
    seconds. ``addresses`` tells where a server is reached from here, where that is not its name (``host:port``).
    """

    fenced: ClassVar[bool] = True

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        options = dict(arguments)
        self._wall: Callable[[], float] = options.pop("clock", time.time)
        monotonic: Callable[[], float] = options.pop("monotonic", time.monotonic)
        url = parse_cache_url(options.pop("url", None) or f"memcached://{','.join(options.pop('servers', ()))}")
        if url.scheme != "memcached":
            raise ConfigurationError(f"a memcached backend was given a cache URL of scheme {url.scheme!r}")
        super().__init__({**url.options, **options})
        self.servers = url.servers
        self._seeds = [(int.from_bytes(blake2b(name.encode(), digest_size=8).digest()), name) for name in self.servers]
        self._only = self.servers[0] if len(self.servers) == 1 else ""
        # To place a key takes some microseconds, among four servers; those that are asked for often are kept.
        self._placed = functools.lru_cache(maxsize=_PLACES)(self._place)
        # R: of those who find less of its ttl left, one is told that it may renew the value.
        renewal = b" R%d" % self.renewal if self.renewal else b""
        self._lease = b" f c v N%d%b\r\n" % (self.settings.lease_ttl, renewal)
        self._markers: dict[str, bytes] = {}
        self._heads: dict[str, bytes] = {}
        self._tls = _tls_of(self.settings)
        self.addresses: dict[str, str] = {}
        self._monotonic = monotonic
        self._down: set[str] = set()
        self._refusing: set[str] = set()
        self._begin()
        on_fork(self._begin)

    def _begin(self) -> None:
        """Everything that belongs to one process: connections, and locks that another thread may hold."""
        failures, reset = self.settings.breaker_failures, self.settings.breaker_reset
        self._breakers = {name: Breaker(failures=failures, reset=reset, clock=self._monotonic) for name in self.servers}
        self._local = _Local()

    # The lease contract: reading

    def fetch(self, group: str, key: str, *, reject: bytes | None = None) -> Fetched:
        server = self._only or self._placed(key)
        seconds = self.settings.timeout
        try:
            connection = self._ready(server)
            if connection is None:
                patience = Patience(seconds)
                connection = self._connection(server, patience)
                seconds = patience.left
            self.counters.round_trips.value += 1
            head = self._heads.get(group) or self._head(group)
            received = connection.ask(head + key.encode() + self._lease, seconds)
            marker: _Marker | None = connection.markers.get(group)
            if marker is not None:
                told: Fetched | None = marker.value_in(received)
                if told is None and (cas := marker.lease_in(received)) is not None:
                    told = self._won(key, connection, cas, marker.epoch)
                if told is not None and told != reject:
                    connection.in_step = True
                    if self._breakers[server].is_failing:
                        self._answered(server)
                    return told
            patience = Patience(seconds - connection.waited())
            marker_reply, item = connection.receive(2, patience, received)
            self._answered(server)
            return self._answers(connection, group, [key], marker_reply, [item], reject, patience)[0]
        except CacheUnavailableError as exc:
            self._failed(server, exc)
            return UNREACHABLE

    def fetch_many(self, group: str, keys: Sequence[str]) -> list[Fetched]:
        patience = Patience(self.settings.timeout)
        work = self._on_servers(keys, patience)
        found: dict[str, Fetched | None] = {}
        for _, names, values in self._values_of(group, work, patience):
            if len(values) == len(keys) and all(values):  # of the only server, in the order of its keys
                return cast("list[Fetched]", values)
            found.update(zip(names, values, strict=True))
        if len(found) < len(keys) or not all(found.values()):
            self._fetch_leased(group, work, found, patience)
        return [UNREACHABLE if (item := found.get(key)) is None else item for key in keys]

    def _values_of(
        self, group: str, work: Mapping[Connection, Sequence[str]], patience: Patience
    ) -> Iterator[tuple[Connection, list[str], list[bytes | None]]]:
        """The values of the group's epoch; None for what is no such value.

        A ``get`` of a hundred keys costs a server less than half of what a hundred ``mg`` do, and is answered in one
        piece. It takes no leases: what is no value is fetched after it, for one exchange more.
        """
        marker = marker_of(group)
        parts = {connection: _parts(marker, names) for connection, names in work.items()}

        def receive(connection: Connection, names: Sequence[str]) -> list[bytes | None]:
            asked = " ".join([marker, *names]).encode().split(b" ")
            return connection.receive_values(asked, BASE, _EPOCH, patience)

        return self._in_turns(parts, receive, patience)

    def _fetch_leased(
        self,
        group: str,
        work: Mapping[Connection, Sequence[str]],
        found: dict[str, Fetched | None],
        patience: Patience,
    ) -> None:
        """Fetches what no value was found for, where its server has answered so far."""
        left = {
            connection: missing
            for connection, names in work.items()
            if connection.in_step and (missing := [name for name in names if found.get(name) is None])
        }
        request = self._marker_request(group)
        for connection, names, (marker, *items) in self._converse(left, self._fetch_request, 1, patience, request):
            try:
                answers = self._answers(connection, group, names, marker, items, None, patience)
                found.update(zip(names, answers, strict=True))
            except CacheUnavailableError as exc:
                self._failed(connection.server, exc)

    def _answers(
        self,
        connection: Connection,
        group: str,
        keys: Sequence[str],
        marker: Reply,
        items: Sequence[Reply],
        reject: bytes | None,
        patience: Patience,
    ) -> list[Fetched]:
        """What one server's replies mean; at most one more exchange with it.

        Cases for an item: a lease won; another's lease; a value; a value of another epoch, or one the caller cannot
        use, whose place is taken by compare-and-set; a tombstone, or nothing this version knows. While a tombstone
        stands on the group's marker everything else than a value is as one itself.
        """
        epoch = _epoch_in(marker)
        if epoch:
            connection.markers[group] = _Marker(b" ".join(marker[0]), epoch)
        found: list[Fetched] = []
        usurped: dict[int, bytes] = {}
        for at, (key, (words, body)) in enumerate(zip(keys, items, strict=True)):
            value = _value_in((words, body))
            if words[0] != b"VA":
                self._refused(connection.server, words)
                found.append(UNREACHABLE)
            elif value is None:
                is_lease = not body and _number(words, b"f") == 0
                won = self._won(key, connection, _cas(words), epoch or b"") if b"W" in words else BUSY
                found.append(won if is_lease else BLOCKED)
            elif epoch and value[:_EPOCH] == epoch and value[_EPOCH:] != reject:
                found.append(_renewable(key, connection, words, value))
            else:
                found.append(BLOCKED)
                usurped[at] = _cas(words)
        if marker[0][0] == b"EN":
            epoch = self._begin_epoch(connection, group, keys, usurped, found, patience)
        elif usurped and epoch:
            self._usurp(
                connection,
                keys,
                usurped,
                epoch,
                found,
                self._exchange(connection, self._usurpation(keys, usurped), len(usurped), patience),
            )
        if epoch:
            return found
        self.abandon([lease for lease in found if isinstance(lease, Lease)])
        return [answer if answer is UNREACHABLE else BLOCKED for answer in found]

    def _begin_epoch(
        self,
        connection: Connection,
        group: str,
        keys: Sequence[str],
        usurped: Mapping[int, bytes],
        found: list[Fetched],
        patience: Patience,
    ) -> bytes | None:
        """Draws an epoch where there is none, and takes the places of what was filled in an earlier one; None where a
        writer's tombstone has come meanwhile.

        Whoever adds first wins; all read what stands there then. The loads come after this, so a change of the whole
        group that this epoch does not know is a change that they see.
        """
        name = marker_of(group).encode()
        drawn = (name, _EPOCH, BASE + _EPOCH, _MARKER_TTL, os.urandom(_EPOCH), name)
        request = b"ms %b %d ME F%d T%d\r\n%b\r\nmg %b f v\r\n" % drawn
        request += self._usurpation(keys, usurped)
        _, marker, *replies = self._exchange(connection, request, 2 + len(usurped), patience)
        epoch = _epoch_in(marker)
        for lease in found:
            if isinstance(lease, _Held):
                lease.epoch = epoch or b""
        self._usurp(connection, keys, usurped, epoch or b"", found, replies)
        return epoch

    def _usurpation(self, keys: Sequence[str], usurped: Mapping[int, bytes]) -> bytes:
        """The request that puts a lease in the place of each item that is still what it was."""
        ttl = self.settings.lease_ttl
        return b"".join(b"ms %b 0 C%b T%d F0 c\r\n\r\n" % (keys[at].encode(), cas, ttl) for at, cas in usurped.items())

    @staticmethod
    def _usurp(
        connection: Connection,
        keys: Sequence[str],
        usurped: Iterable[int],
        epoch: bytes,
        found: list[Fetched],
        replies: Sequence[Reply],
    ) -> None:
        for at, (words, _) in zip(usurped, replies, strict=True):
            found[at] = _Held(keys[at], connection, _cas(words), epoch) if words[0] == b"HD" else BUSY

    def fill(self, lease: Lease, value: bytes) -> bool:
        if not isinstance(lease, _Held) or not self._is_here(lease):
            return False
        connection = lease.connection
        patience = Patience(self.settings.timeout)
        try:
            ((words, _),) = self._exchange(connection, self._fill_request(lease, value), 1, patience)
        except CacheUnavailableError as exc:
            self._failed(connection.server, exc)
            return False
        return words[0] == b"HD" and _fits(lease, value)

    def fill_many(self, fills: Sequence[tuple[Lease, bytes]]) -> list[bool]:
        if len(fills) == 1:
            return [self.fill(*fills[0])]
        stored: set[Lease] = set()
        values = dict(fills)
        work = self._held_here(values)
        patience = Patience(self.settings.timeout)
        for _, leases, replies in self._converse(
            work, lambda lease: self._fill_request(lease, values[lease]), 1, patience
        ):
            done = [lease for lease, (words, _) in zip(leases, replies, strict=True) if words[0] == b"HD"]
            stored.update(lease for lease in done if _fits(lease, values[lease]))
        return [lease in stored for lease, _ in fills]

    def abandon(self, leases: Iterable[Lease]) -> None:
        given_up = [lease for lease in leases if not lease.renews]  # there a value stands, which is good
        patience = Patience(self.settings.timeout)
        for _ in self._converse(self._held_here(given_up), lambda held: _delete(held.key, held.cas), 1, patience):
            pass

    def _held_here(self, leases: Iterable[Lease]) -> dict[Connection, list[_Held]]:
        """The leases by their connections, without those taken on another: there the CAS id may be somebody else's, for
        the server may have restarted."""
        held: dict[Connection, list[_Held]] = defaultdict(list)
        for lease in leases:
            if isinstance(lease, _Held) and self._is_here(lease):
                held[lease.connection].append(lease)
        return held

    def _is_here(self, lease: _Held) -> bool:
        connection = lease.connection
        return connection.in_step and self._local.connections.get(connection.server) is connection

    # The lease contract: writing

    def put_tombstones(self, keys: Collection[str], groups: Collection[str] = ()) -> Tombstones:
        """See ``LeaseBackend``; one exchange with each server for some hundred keys."""
        token = int(self._wall()).to_bytes(4, "big") + os.urandom(_TOKEN - 4)
        patience = Patience(self.settings.timeout)
        work = self._on_servers(keys, patience, [marker_of(group) for group in groups])
        stones: dict[Place, _Stone] = {}
        # Between making the item and appending to it another may delete it: then the append answers NS and
        # all is done again. It also answers NS where the item has no room left.
        for _ in range(_APPENDS):
            self._append(work, token, stones, patience)
            work = self._left(work, stones, patience)
            if not work:
                break
        else:
            self._overwrite(work, token, stones, patience)
        asked, asked_groups = frozenset(keys), frozenset(groups)
        placed = _Placed(token, stones)
        if len(stones) == len(asked) + len(asked_groups) * len(self.servers):
            return Tombstones(asked, asked_groups, reached=frozenset([server for server, _ in stones]), placed=placed)
        wanted = {(self._server_of(key), key): key for key in asked}
        markers = {(server, marker_of(group)): group for group in asked_groups for server in self.servers}
        missing = frozenset({**wanted, **markers}.keys() - stones.keys())
        return Tombstones(
            asked,
            asked_groups,
            failed_keys=frozenset(key for place, key in wanted.items() if place in missing),
            failed_groups=frozenset(group for place, group in markers.items() if place in missing),
            missing=missing,
            reached=frozenset(server for server, _ in stones).difference(server for server, _ in missing),
            placed=placed,
        )

    def _left(
        self, work: Mapping[Connection, list[str]], stones: Mapping[Place, _Stone], patience: Patience
    ) -> dict[Connection, list[str]]:
        """What is still to place, on new connections where the old ones turned out to be closed: the server may have
        restarted while nobody asked it. One that lets us wait is not asked again."""
        left: dict[Connection, list[str]] = {}
        for connection, names in work.items():
            missing = [name for name in names if (connection.server, name) not in stones]
            if missing and not connection.timed_out:
                try:
                    left[self._connection(connection.server, patience)] = missing
                except CacheUnavailableError as exc:
                    self._failed(connection.server, exc)
        return left

    def _append(
        self, work: dict[Connection, list[str]], token: bytes, stones: dict[Place, _Stone], patience: Patience
    ) -> None:
        ttl = self.settings.tombstone_ttl

        def request(name: str) -> bytes:
            # N makes the item where there is none: an append alone makes none in 1.6.18.
            key = name.encode()
            return b"mg %b N%d\r\nms %b 16 MA c\r\n%b\r\nmg %b T%d f s c\r\n" % (key, ttl, key, token, key, ttl)

        for connection, names, replies in self._converse(work, request, 3, patience):
            try:
                for name, (appended, _), (seen, _) in zip(names, replies[1::3], replies[2::3], strict=True):
                    if appended[0] == seen[0] == b"HD" and (stone := _stone(connection, appended, seen)):
                        stones[connection.server, name] = stone
            except CacheUnavailableError as exc:
                self._failed(connection.server, exc)

    def _overwrite(
        self, work: dict[Connection, list[str]], token: bytes, stones: dict[Place, _Stone], patience: Patience
    ) -> None:
        """Tombstones by plain set, where an append was refused each time: the item is too large to append to. Another
        owner's tombstone is lost to it, as to an eviction; that owner will delete what stands there."""

        def request(name: str) -> bytes:
            return b"ms %b 16 T%d F0 c\r\n%b\r\n" % (name.encode(), self.settings.tombstone_ttl, token)

        for connection, names, replies in self._converse(work, request, 1, patience):
            try:
                for name, (words, _) in zip(names, replies, strict=True):
                    if words[0] == b"HD":
                        stones[connection.server, name] = _Stone(connection, _cas(words), alone=True)
            except CacheUnavailableError as exc:
                self._failed(connection.server, exc)

    def release(self, tombstones: Tombstones) -> frozenset[Place]:
        """See ``LeaseBackend``; one exchange with each server where nobody else writes the same items."""
        placed: _Placed = tombstones.placed
        left = dict(placed.stones)
        patience = Patience(self.settings.timeout)
        for _, names, replies in self._converse(
            self._untouched(placed.stones), lambda place: _delete(place[1], placed.stones[place].cas), 1, patience
        ):
            for place, (words, _) in zip(names, replies, strict=True):
                if words[0] in _GONE:
                    del left[place]
        if not left and not tombstones.missing:
            return frozenset()
        # Where no tombstone could be placed a reader may hold a lease from before the commit, on a server that is
        # there again: its lease goes too, or it would fill the old row.
        return self._withdrawn([*left, *tombstones.missing], placed.token, patience)

    def retire(self, places: Collection[Place]) -> frozenset[Place]:
        """See ``LeaseBackend``."""
        return frozenset(places) - self._withdrawn(places, _NOBODY, Patience(self.settings.timeout))

    def _withdrawn(self, places: Iterable[Place], token: bytes, patience: Patience) -> frozenset[Place]:
        """Removes what stands there, as ``_withdraw`` does; the places at which nobody answered.

        A server that lets us wait is not asked again for each of its items.
        """
        silent: set[str] = set()
        failed: list[Place] = []
        for place in places:
            if place[0] in silent or not self._is_withdrawn(*place, token, patience):
                silent.add(place[0])
                failed.append(place)
        return frozenset(failed)

    def _is_withdrawn(self, server: str, name: str, token: bytes, patience: Patience) -> bool:
        """``_withdraw``, and whether the server answered. It is asked again where the connection turned out to be
        closed: the server may have restarted, and a reader may have filled the old row where the tombstone was."""
        if server not in self._breakers:
            return False
        for _ in range(_CONNECTIONS):
            connection: Connection | None = None
            try:
                connection = self._connection(server, patience)
                self._withdraw(connection, name, token, patience)
            except CacheUnavailableError as exc:
                self._failed(server, exc)
                if connection is None or connection.timed_out:
                    break
            else:
                return True
        return False

    def _untouched(self, stones: Mapping[Place, _Stone]) -> dict[Connection, list[Place]]:
        """The tombstones that a CAS id alone tells for ours: nobody else's was there, and the connection is the one
        they were placed on. On a new one the server may be a new one, and the id somebody else's.
        """
        mine = self._local.connections
        untouched: dict[Connection, list[Place]] = defaultdict(list)
        for place, stone in stones.items():
            if stone.alone and mine.get(place[0]) is stone.connection and stone.connection.in_step:
                untouched[stone.connection].append(place)
        return untouched

    def _withdraw(self, connection: Connection, name: str, token: bytes, patience: Patience) -> None:
        """Removes one owner's tombstone from an item that has changed since it was placed.

        Cases: nothing stands there; our tombstone alone, a lease, or a value (some reader has filled it after our
        tombstone was lost, maybe with the old row): deleted. Our tombstone and others': theirs stay. Only others':
        theirs to remove, and the item goes with the last of them.
        """
        key = name.encode()
        for _ in range(_WITHDRAWALS):
            (words, body), *_ = self._exchange(connection, b"mg %b f c t v\r\n" % key, 1, patience)
            if words[0] == b"EN":
                return
            owners = _tokens(words, body)
            others = [owner for owner in owners if owner != token and not self._is_over(owner)]
            if others and token not in owners:
                return
            cas = _cas(words)
            if others:
                left = b"".join(others)
                ttl = max(_number(words, b"t"), 1)
                request = b"ms %b %d C%b T%d F0\r\n%b\r\n" % (key, len(left), cas, ttl, left)
            else:
                request = _delete(name, cas)
            ((words, _),) = self._exchange(connection, request, 1, patience)
            if words[0] in _GONE:
                return
        # So contended that it changed under every attempt. To delete whatever stands there costs another writer's
        # tombstone, like an eviction: that writer finds it gone, and deletes what has come instead.
        self._exchange(connection, b"md %b\r\n" % key, 1, patience)

    def _is_over(self, token: bytes) -> bool:
        """Whether the owner of a tombstone died: it would have outlived its ttl, had others not prolonged the item."""
        return int.from_bytes(token[:4], "big") + self.settings.tombstone_ttl < self._wall()

    # Markers

    def _marker_request(self, group: str) -> bytes:
        request = self._markers.get(group)
        if request is None:
            request = self._markers[group] = b"mg %b f v\r\n" % marker_of(group).encode()
        return request

    # Requests

    def _head(self, group: str) -> bytes:
        """What stands before the key in the request of one item: the marker's request, and the command."""
        head = self._heads[group] = self._marker_request(group) + b"mg "
        return head

    def _fetch_request(self, key: str) -> bytes:
        return b"mg " + key.encode() + self._lease

    def _fill_request(self, lease: _Held, value: bytes) -> bytes:
        if not _fits(lease, value):
            return _delete(lease.key, lease.cas)
        size = _EPOCH + len(value)
        return b"ms %b %d C%b T%d F%d\r\n%b%b\r\n" % (
            lease.key.encode(), size, lease.cas, self.value_ttl(), BASE + size, lease.epoch, value,
        )  # fmt: skip

    # Servers and connections

    def _server_of(self, key: str) -> str:
        return self._only or self._placed(key)

    def _place(self, key: str) -> str:
        """Rendezvous hashing (Thaler and Ravishankar, 1998), mixed by splitmix64's finaliser."""
        digest = int.from_bytes(blake2b(key.encode(errors="surrogatepass"), digest_size=8).digest())
        return max([(_mix(digest ^ seed), name) for seed, name in self._seeds])[1]

    def _ready(self, server: str) -> Connection | None:
        """This thread's connection to a server, where there is one and nothing is against its use."""
        connection = self._local.connections.get(server)
        if connection is None or not connection.in_step or self._breakers[server].is_failing:
            return None
        return connection

    def _connection(self, server: str, patience: Patience) -> Connection:
        """This thread's connection to a server. Raises ``CacheUnavailableError`` where there can be none, or where the
        server's circuit is open and this is not the probe.
        """
        ready = self._ready(server)
        if ready is not None:
            return ready
        if not self._breakers[server].allows():
            raise _OpenCircuitError(f"memcached {server}: left alone after failures")
        connections = self._local.connections
        connection = connections.get(server)
        if connection is None or not connection.in_step:
            if connection is not None:
                connections.pop(server).close()
            connection = Connection(server, self.settings, self._tls, patience, self.addresses.get(server))
            connections[server] = connection
        return connection

    def _on_servers(
        self, keys: Iterable[str], patience: Patience, everywhere: Sequence[str] = ()
    ) -> dict[Connection, list[str]]:
        """The names by the connections to their servers, without those of servers that cannot be reached."""
        by_server: dict[str, list[str]] = {server: list(everywhere) for server in self.servers if everywhere}
        if self._only:
            by_server.setdefault(self._only, []).extend(keys)
        else:
            for key in keys:
                by_server.setdefault(self._placed(key), []).append(key)
        work: dict[Connection, list[str]] = {}
        for server, names in by_server.items():
            if not names:
                continue
            try:
                work[self._connection(server, patience)] = names
            except CacheUnavailableError as exc:
                self._failed(server, exc)
        return work

    def _converse(
        self,
        work: Mapping[Connection, Sequence[T]],
        request: Callable[[T], bytes],
        replies: int,
        patience: Patience,
        head: bytes = b"",
    ) -> Iterator[tuple[Connection, list[T], list[Reply]]]:
        """Asks each server for its part, all at once: everything is sent before the first answer is read.

        Yields, batch by batch, what was asked and the ``replies`` replies to each, after one to the ``head``. A
        server that fails is left out from there on.
        """
        if len(work) == 1:
            ((connection, items),) = work.items()
            if len(items) == 1:  # as most transactions have it
                return self._converse_about_one(
                    connection, items[0], head + request(items[0]), replies + bool(head), patience
                )
        batches = {
            connection: ((part, head + requests) for part, requests in _batches(items, request))
            for connection, items in work.items()
        }
        return self._in_turns(
            batches,
            lambda connection, items: connection.receive(len(items) * replies + bool(head), patience),
            patience,
        )

    def _converse_about_one(
        self, connection: Connection, item: T, request: bytes, replies: int, patience: Patience
    ) -> Iterator[tuple[Connection, list[T], list[Reply]]]:
        try:
            received = self._exchange(connection, request, replies, patience)
        except CacheUnavailableError as exc:
            self._failed(connection.server, exc)
        else:
            yield connection, [item], received

    def _in_turns(
        self,
        batches: Mapping[Connection, Iterator[tuple[list[T], bytes]]],
        receive: Callable[[Connection, list[T]], R],
        patience: Patience,
    ) -> Iterator[tuple[Connection, list[T], R]]:
        """Sends each server its next batch, of items and their request, then receives from each, until all are done."""
        left = dict(batches)
        while left:
            asked: list[tuple[Connection, list[T]]] = []
            for connection, parts in list(left.items()):
                items, request = next(parts, (None, b""))
                if items is None:
                    del left[connection]
                    continue
                try:
                    self.counters.round_trips += 1
                    connection.send(request, patience)
                    asked.append((connection, items))
                except CacheUnavailableError as exc:
                    left.pop(connection, None)
                    self._failed(connection.server, exc)
            for connection, items in asked:
                try:
                    received = receive(connection, items)
                except CacheUnavailableError as exc:
                    left.pop(connection, None)
                    self._failed(connection.server, exc)
                else:
                    self._answered(connection.server)
                    yield connection, items, received

    def _exchange(self, connection: Connection, request: bytes, replies: int, patience: Patience) -> list[Reply]:
        self.counters.round_trips += 1
        received = connection.exchange(request, replies, patience)
        self._answered(connection.server)
        return received

    # Faults

    def _answered(self, server: str) -> None:
        breaker = self._breakers[server]
        if breaker.is_failing:
            breaker.succeeded()
            if server in self._down:
                self._down.discard(server)
                logger.info("memcached %s answers again", server)

    def _failed(self, server: str, exc: CacheError) -> None:
        """Counts what failed. Cases: the server was left alone; a connection that had served was closed, which a
        restart does to every thread's, and says nothing of the server; the server fails.
        """
        if isinstance(exc, _OpenCircuitError):
            self.counters.circuit_open += 1
            return
        self.counters.errors += 1
        used = self._local.connections.get(server)
        if used is not None:
            used.close()  # what it says next may be the answer to this
            if used.was_served:
                logger.debug("%s", exc)
                return
        self._breakers[server].failed()
        if server not in self._down:
            self._down.add(server)
            reason = exc if server in str(exc) else f"memcached {server}: {exc}"
            logger.warning("%s; reads go to the database until it answers", reason)

    def _refused(self, server: str, words: Sequence[bytes]) -> None:
        """The server answers, and has no room for a lease."""
        self.counters.errors += 1
        if server not in self._refusing:
            self._refusing.add(server)
            said = b" ".join(words)[:80].decode(errors="replace")
            logger.warning("memcached %s: %s; what is not cached there stays so until it takes items", server, said)

    def _won(self, key: str, connection: Connection, cas: bytes, epoch: bytes) -> _Held:
        if connection.server in self._refusing:
            self._refusing.discard(connection.server)
            logger.info("memcached %s takes items again", connection.server)
        return _Held(key, connection, cas, epoch)

    def close(self) -> None:
        for connection in self._local.connections.values():
            connection.close()
        self._local.connections.clear()

    # dogpile's face

    def get_serialized(self, key: str) -> Any:
        """dogpile: the serialized value, or ``NO_VALUE``. Raises ``CacheUnavailableError``."""
        words, body = self._plain(key, b"mg %b v\r\n" % _plain_key(key))
        return well_formed(body) if words[0] == b"VA" else NO_VALUE

    def set_serialized(self, key: str, value: bytes) -> None:
        """dogpile: stores a serialized value for the settings' ttl. Raises ``CacheUnavailableError``, also where the
        server refuses it (memcached takes 1 MB).
        """
        head = b"ms %b %d T%d\r\n" % (_plain_key(key), len(value), self.settings.ttl)
        words, _ = self._plain(key, head + value + b"\r\n")
        if words[0] != b"HD":
            raise CacheUnavailableError(f"{key!r} was not stored: {b' '.join(words).decode(errors='replace')}")

    def delete(self, key: str) -> None:
        """dogpile: deletes an item. Raises ``CacheUnavailableError``."""
        self._plain(key, b"md %b\r\n" % _plain_key(key))

    def _plain(self, key: str, request: bytes) -> Reply:
        server = self._server_of(key)
        patience = Patience(self.settings.timeout)
        try:
            return self._exchange(self._connection(server, patience), request, 1, patience)[0]
        except CacheUnavailableError as exc:
            self._failed(server, exc)
            raise

    def places_of(self, group: str, key: str) -> tuple[Place, Place]:
        """See ``LeaseBackend``."""
        server = self._server_of(key)
        return (server, key), (server, marker_of(group))


def _tls_of(settings: CacheSettings) -> ssl.SSLContext | None:
    if not settings.tls:
        return None
    return tls_context(settings.tls_ca, settings.tls_cert, settings.tls_key, owner="the cache")


def _renewable(key: str, connection: Connection, words: list[bytes], value: bytes) -> bytes | Expiring:
    """The value; with the lease to renew it where the server has chosen this reader. What changes the item before it is
    renewed changes its CAS id, as with every lease.
    """
    body = value[_EPOCH:]
    if b"W" not in words:
        return body
    return Expiring(body, _Held(key, connection, _cas(words), value[:_EPOCH], renews=True))


def _value_in(reply: Reply) -> bytes | None:
    """The body of an item that is a value, its epoch at the start; None for every other state."""
    words, body = reply
    if words[0] != b"VA" or not body or _number(words, b"f") - len(body) != BASE:
        return None
    return body


def _epoch_in(marker: Reply) -> bytes | None:
    epoch = _value_in(marker)
    return epoch if epoch is not None and len(epoch) == _EPOCH else None


def _fits(lease: _Held, value: bytes) -> bool:
    """Whether the server takes it, and the flags have room for its size."""
    return _EPOCH + len(value) <= min(lease.connection.largest_body, BASE - 1)


def _delete(name: str, cas: bytes) -> bytes:
    return b"md %b C%b\r\n" % (name.encode(), cas)


def _plain_key(key: str) -> bytes:
    encoded = b"prd:" + key.encode(errors="surrogatepass")
    as_it_is = encoded.isascii() and not any(byte <= 32 or byte == 127 for byte in encoded)
    if as_it_is and len(encoded) <= 250 and not key.startswith("#"):
        return encoded
    return b"prd:#" + blake2b(encoded, digest_size=20).hexdigest().encode()


def _word(words: list[bytes], flag: bytes) -> bytes:
    """The argument of a reply's flag: ``c12`` has the flag ``c`` and the argument ``12``."""
    for word in words:
        if word[:1] == flag and word != flag:
            return word[1:]
    raise CacheUnavailableError(f"a reply without {flag.decode()}: {b' '.join(words)[:80]!r}")


def _cas(words: list[bytes]) -> bytes:
    word = _word(words, b"c")
    if not word.isdigit():
        raise CacheUnavailableError(f"a reply whose CAS id is no number: {word[:80]!r}")
    return word


def _number(words: list[bytes], flag: bytes) -> int:
    word = _word(words, flag)
    try:
        return int(word)
    except ValueError:
        raise CacheUnavailableError(f"a reply whose {flag.decode()} is no number: {word[:80]!r}") from None


def _stone(connection: Connection, appended: list[bytes], seen: list[bytes]) -> _Stone | None:
    """Cases: a lease or a value stands there, so that ours was lost between the two commands; the item is as our append
    left it, whose size tells whether we are its only owner; it has changed since, and the CAS id may be another's.
    """
    size = _number(seen, b"s") - max(_number(seen, b"f") - BASE, 0)
    if size == 0:
        return None
    cas = _cas(seen)
    return _Stone(connection, cas, alone=cas == _cas(appended) and size == _TOKEN)


def _tokens(words: list[bytes], body: bytes) -> list[bytes]:
    """The owners of an item's tombstones, in the order they came; none where it is a value or a lease."""
    under = max(_number(words, b"f") - BASE, 0)
    return [body[at : at + _TOKEN] for at in range(under, len(body) - _TOKEN + 1, _TOKEN)]


def _mix(value: int) -> int:
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return value ^ (value >> 31)


def _batches(items: Iterable[T], request: Callable[[T], bytes]) -> Iterator[tuple[list[T], bytes]]:
    """The items and their requests, in parts that can be sent before any reply is read."""
    part: list[T] = []
    requests: list[bytes] = []
    room = LARGEST_REQUEST
    for item in items:
        asked = request(item)
        if part and len(asked) > room:
            yield part, b"".join(requests)
            part, requests, room = [], [], LARGEST_REQUEST
        part.append(item)
        requests.append(asked)
        room -= len(asked)
    if part:
        yield part, b"".join(requests)


def _parts(marker: str, names: Sequence[str]) -> Iterator[tuple[list[str], bytes]]:
    """The names, and the ``get`` of the marker and them, in parts that can be sent before any reply is read."""
    step = LARGEST_REQUEST // (max(map(len, names)) + 1) - 2
    for at in range(0, len(names), step):
        part = list(names[at : at + step])
        yield part, f"get {marker} {' '.join(part)}\r\n".encode()
