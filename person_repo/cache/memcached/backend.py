"""The lease contract over memcached servers: ``MemcachedBackend`` says which requests an operation makes, and when.

CAS ids restart with the server, so a lease is good on the one connection on which it was taken, and nowhere else.

Leases are those of "Scaling Memcache at Facebook" (NSDI 2013), the two steps around a commit the inhibit and quarantine
leases of "Strong Consistency in Cache Augmented SQL Systems" (Middleware 2014).
"""

from __future__ import annotations

import functools
import os
import ssl
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Final, cast

from dogpile.cache.api import NO_VALUE, CacheMutex

from person_repo.cache.contract import (
    BLOCKED,
    UNREACHABLE,
    Fetched,
    Lease,
    LeaseBackend,
    Place,
    Tombstones,
    marker_of,
)
from person_repo.cache.dogpile import is_dogpiles
from person_repo.cache.memcached import wire
from person_repo.cache.memcached.connection import IDLE, TIMED_OUT, Budget, Connection
from person_repo.cache.memcached.items import NOBODY, TRANSFORMED, dogpile_key, is_expired, lock_name, new_token
from person_repo.cache.memcached.mutex import Mutex
from person_repo.cache.memcached.operations import (
    GONE,
    Fetch,
    FillRight,
    Placed,
    PlacedTombstone,
    fill_request,
    fits,
    placed_tombstone,
    remove_own,
    tombstones_of,
)
from person_repo.cache.memcached.placement import placement
from person_repo.cache.memcached.pool import Pool
from person_repo.cache.memcached.wire import KnownMarker, Reply
from person_repo.exceptions import CacheUnavailableError, ConfigurationError
from person_repo.forks import on_fork
from person_repo.settings import CacheSettings
from person_repo.tls import tls_context
from person_repo.urls import CacheUrl, parse_cache_url, parse_servers, redact

__all__ = ["MemcachedBackend"]

_APPENDS: Final = 3
_CONNECTIONS: Final = 2
_LOCK_TIMEOUT: Final = 60
_LONGEST_LOCK: Final = 30 * 24 * 3600


class MemcachedBackend(LeaseBackend):
    """The lease contract over memcached 1.6 or newer; safe for threads (a connection each) and for forks.

    ``arguments``: ``servers`` (a list of ``host:port`` or socket paths), which may also be given as ``url``, or a whole
    cache ``url``, and see ``LeaseBackend``. ``distributed_lock``: True makes the lock of ``get_or_create`` one for all
    processes; its owner loses it after ``lock_timeout`` seconds (60 if not given).
    Every key lives on one server, chosen by rendezvous hashing over the configured list; it never moves to another
    because its own is down. All processes that share the cache must list the same servers.

    A server that fails ``breaker_failures`` times in a row is left alone, but for one probe every ``breaker_reset``
    seconds. ``addresses``: the address of a server (``host:port``) if it is not reached at its name.
    """

    fenced: ClassVar[bool] = True

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        options = dict(arguments)
        self._wall: Callable[[], float] = options.pop("clock", time.time)
        monotonic: Callable[[], float] = options.pop("monotonic", time.monotonic)
        self._lock_ttl = _lock_ttl(options)
        url = _url_of(options)
        super().__init__({**url.options, **options})
        self.servers = url.servers
        self._only = self.servers[0] if len(self.servers) == 1 else ""  # One server needs no call.
        self._placed_at = placement(self.servers)
        self._fetches: dict[str, tuple[bytes, bytes]] = {}
        self._pool = Pool(self.servers, self.settings, self.counters, _tls_of(self.settings), monotonic)
        self._ready, self._breakers = self._pool.ready, self._pool.breakers  # The fast path of ``fetch`` uses them.
        on_fork(self._pool.begin)

    @property
    def addresses(self) -> dict[str, str]:
        """The addresses at which servers are reached from here, by name; a server that is missing is at its name."""
        return self._pool.addresses

    @addresses.setter
    def addresses(self, addresses: dict[str, str]) -> None:
        self._pool.addresses = addresses

    # The lease contract: reading

    def fetch(self, group: str, key: str, *, reject: bytes | None = None) -> Fetched:
        server = self._only or self._placed_at(key)
        seconds = self.settings.timeout
        try:
            connection = self._ready(server)
            if connection is None:
                budget = Budget(seconds)
                connection = self._pool.connection(server, budget)
                seconds = budget.remaining
            self.counters.round_trips.value += 1
            head, tail = self._fetches.get(group) or self._fetch_of(group)
            received = connection.ask(head + key.encode() + tail, seconds)
            # Fast path: the answer begins with the marker that this connection knows. The slow one reads both replies.
            marker: KnownMarker | None = connection.markers.get(group)
            if marker is not None:
                value = marker.value_in(received)
                if value is not None and value != reject:
                    connection.state = IDLE
                    if self._breakers[server].is_failing:
                        self._pool.answered(server)
                    return value
                if value is None and (cas := marker.lease_in(received)) is not None:
                    connection.state = IDLE
                    self._pool.accepted(server)
                    return FillRight(key, connection, cas, marker.epoch)
            budget = Budget(seconds - connection.waited())
            replies = connection.receive(2, budget, received)
            if self._breakers[server].is_failing:
                self._pool.answered(server)
            return self._answers(connection, group, [key], replies, reject, budget)[0]
        except CacheUnavailableError as exc:
            self._pool.failed(server, exc)
            return UNREACHABLE

    def fetch_many(self, group: str, keys: Sequence[str]) -> list[Fetched]:
        budget = Budget(self.settings.timeout)
        work = self._by_connection(keys, budget)
        found: dict[str, Fetched | None] = {}
        for _, names, values in self._values_of(group, work, budget):
            if len(values) == len(keys) and all(values):  # One server had all keys, in their order.
                return cast("list[Fetched]", values)
            found.update(zip(names, values, strict=True))
        if len(found) < len(keys) or not all(found.values()):
            self._fetch_leased(group, work, found, budget)
        return [UNREACHABLE if (answer := found.get(key)) is None else answer for key in keys]

    def _values_of(
        self, group: str, work: Mapping[Connection, Sequence[str]], budget: Budget
    ) -> Iterator[tuple[Connection, list[str], list[bytes | None]]]:
        """The values of the group's epoch; None for every other item.

        A ``get`` of a hundred keys costs a server less than half of what a hundred ``mg`` do, and is answered in one
        piece. It takes no leases: every other item is fetched after it, for one exchange more.
        """
        marker = marker_of(group)
        parts = {connection: wire.get_batches(marker, names) for connection, names in work.items()}

        def receive(connection: Connection, names: list[str]) -> list[bytes | None]:
            return connection.receive_values(" ".join([marker, *names]).encode().split(b" "), budget)

        return self._pool.in_turns(parts, receive, budget)

    def _fetch_leased(
        self, group: str, work: Mapping[Connection, Sequence[str]], found: dict[str, Fetched | None], budget: Budget
    ) -> None:
        """Fetches each key of which no value was found, with the lease, if its server has answered so far."""
        lacking = {
            connection: missing
            for connection, names in work.items()
            if connection.state is IDLE and (missing := [name for name in names if found.get(name) is None])
        }
        _, tail = self._fetches.get(group) or self._fetch_of(group)
        for connection, names, replies in self._pool.exchange_with_each(
            lacking, lambda key: b"mg " + key.encode() + tail, 1, budget, wire.get_marker(group)
        ):
            try:
                answers = self._answers(connection, group, names, replies, None, budget)
                found.update(zip(names, answers, strict=True))
            except CacheUnavailableError as exc:
                self._pool.failed(connection.server, exc)

    def _answers(
        self,
        connection: Connection,
        group: str,
        keys: Sequence[str],
        replies: Sequence[Reply],
        reject: bytes | None,
        budget: Budget,
    ) -> list[Fetched]:
        """The meaning of one server's replies; at most one more exchange with it."""
        fetch = Fetch(connection, group, keys)
        operation = fetch.understand(replies, reject, self.settings.lease_ttl, os.urandom)
        is_open = self._pool.run(connection, operation, budget)
        leases = [answer for answer in fetch.answers if isinstance(answer, Lease)]
        if leases:
            self._pool.accepted(connection.server)
        for (words, _), answer in zip(replies[1:], fetch.answers, strict=True):
            if answer is UNREACHABLE:
                self._pool.refused(connection.server, words)
        if is_open:
            return fetch.answers
        # A tombstone stands on the marker, so that every item counts as one.
        self.abandon(leases)
        return [answer if answer is UNREACHABLE else BLOCKED for answer in fetch.answers]

    def _fetch_of(self, group: str) -> tuple[bytes, bytes]:
        """The bytes of a fetch before its key, and after it."""
        tail = wire.fetch_tail(self.settings.lease_ttl, self.renewal(marker_of(group)))
        fetch = self._fetches[group] = (wire.fetch_head(group), tail)
        return fetch

    def set_ttl(self, group: str, ttl: int) -> None:
        super().set_ttl(group, ttl)
        self._fetches.pop(group, None)

    def fill(self, lease: Lease, value: bytes) -> bool:
        if not isinstance(lease, FillRight) or not self._pool.is_usable(lease.connection):
            return False
        connection = lease.connection
        budget = Budget(self.settings.timeout)
        try:
            request = fill_request(lease, value, self.value_ttl(lease.key))
            ((words, _),) = self._pool.exchange(connection, request, 1, budget)
        except CacheUnavailableError as exc:
            self._pool.failed(connection.server, exc)
            return False
        return words[0] == b"HD" and fits(lease, value)

    def fill_many(self, fills: Sequence[tuple[Lease, bytes]]) -> list[bool]:
        if len(fills) == 1:
            return [self.fill(*fills[0])]
        stored: set[Lease] = set()
        values = dict(fills)
        for _, leases, replies in self._pool.exchange_with_each(
            self._usable(values),
            lambda lease: fill_request(lease, values[lease], self.value_ttl(lease.key)),
            1,
            Budget(self.settings.timeout),
        ):
            done = [lease for lease, (words, _) in zip(leases, replies, strict=True) if words[0] == b"HD"]
            stored.update([lease for lease in done if fits(lease, values[lease])])
        return [lease in stored for lease, _ in fills]

    def abandon(self, leases: Iterable[Lease]) -> None:
        given_up = [lease for lease in leases if not lease.renews]  # A renewal lease guards a live value: leave it.
        for _ in self._pool.exchange_with_each(
            self._usable(given_up), lambda lease: wire.delete(lease.key, lease.cas), 1, Budget(self.settings.timeout)
        ):
            pass

    def _usable(self, leases: Iterable[Lease]) -> dict[Connection, list[FillRight]]:
        """The leases by the connection on which they were taken, without those of connections of no use any more."""
        held: dict[Connection, list[FillRight]] = defaultdict(list)
        for lease in leases:
            if isinstance(lease, FillRight):
                held[lease.connection].append(lease)
        return self._pool.usable(held)

    # The lease contract: writing

    def put_tombstones(self, keys: Collection[str], groups: Collection[str] = ()) -> Tombstones:
        """See ``LeaseBackend``; one exchange with each server for some hundred keys."""
        placed = Placed(new_token(self._wall(), os.urandom), {})
        budget = Budget(self.settings.timeout)
        work = self._by_connection(keys, budget, [marker_of(group) for group in groups])
        # Another client may delete the item between the request that makes it and the append, which answers NS then:
        # all is done again. It also answers NS if the item has no room left.
        for _ in range(_APPENDS):
            self._append(work, placed, budget)
            work = self._unplaced(work, placed, budget)
            if not work:
                break
        else:
            self._overwrite(work, placed, budget)
        return tombstones_of(keys, groups, placed, self.servers, self._server_of)

    def _append(self, work: Mapping[Connection, Sequence[str]], placed: Placed, budget: Budget) -> None:
        token, ttl = placed.token, self.settings.tombstone_ttl
        request = functools.partial(wire.append_tombstone, token=token, ttl=ttl)
        for connection, names, replies in self._pool.exchange_with_each(work, request, 3, budget):
            try:
                for name, appended, seen in zip(names, replies[1::3], replies[2::3], strict=True):
                    if tombstone := placed_tombstone(connection, appended, seen):
                        placed.tombstones[connection.server, name] = tombstone
            except CacheUnavailableError as exc:
                self._pool.failed(connection.server, exc)

    def _unplaced(
        self, work: Mapping[Connection, Sequence[str]], placed: Placed, budget: Budget
    ) -> dict[Connection, Sequence[str]]:
        """The names that still lack a tombstone, on a new connection if the old one turned out to be closed: the server
        may have restarted while nobody asked it. A server that lets us wait is not asked again.
        """
        unplaced: dict[str, list[str]] = {}
        for connection, names in work.items():
            missing = [name for name in names if (connection.server, name) not in placed.tombstones]
            if missing and connection.state is not TIMED_OUT:
                unplaced[connection.server] = missing
        return self._pool.connected(unplaced, budget) if unplaced else {}

    def _overwrite(self, work: Mapping[Connection, Sequence[str]], placed: Placed, budget: Budget) -> None:
        """Places tombstones by plain set, after every append was refused: the item is too large to append to. Another
        owner's tombstone is lost to it, as to an eviction; that owner will delete ours in turn.
        """
        token, ttl = placed.token, self.settings.tombstone_ttl
        for connection, names, replies in self._pool.exchange_with_each(
            work, lambda name: wire.set_tombstone(name, token, ttl), 1, budget
        ):
            try:
                for name, (words, _) in zip(names, replies, strict=True):
                    if words[0] == b"HD":
                        tombstone = PlacedTombstone(connection, wire.cas_of(words), is_alone=True)
                        placed.tombstones[connection.server, name] = tombstone
            except CacheUnavailableError as exc:
                self._pool.failed(connection.server, exc)

    def release(self, tombstones: Tombstones) -> frozenset[Place]:
        """See ``LeaseBackend``; one exchange with each server if nobody else writes the same items."""
        placed: Placed = tombstones.placed
        standing = dict(placed.tombstones)
        budget = Budget(self.settings.timeout)
        for _, places, replies in self._pool.exchange_with_each(
            self._untouched(standing), lambda place: wire.delete(place[1], placed.tombstones[place].cas), 1, budget
        ):
            for place, (words, _) in zip(places, replies, strict=True):
                if words[0] in GONE:
                    del standing[place]
        if not standing and not tombstones.missing:
            return frozenset()
        # If a tombstone could not be placed, and its server is there again, a reader may hold a lease from before the
        # commit: that goes too, or it would fill the old row.
        return self._remove_all([*standing, *tombstones.missing], placed.token, budget)

    def retire(self, places: Collection[Place]) -> frozenset[Place]:
        """See ``LeaseBackend``."""
        return frozenset(places) - self._remove_all(places, NOBODY, Budget(self.settings.timeout))

    def _untouched(self, tombstones: Mapping[Place, PlacedTombstone]) -> dict[Connection, list[Place]]:
        """Tombstones that can be deleted by CAS id alone, without reading them first: nobody else's stood there, and
        the connection is the one on which they were placed.
        """
        untouched: dict[Connection, list[Place]] = defaultdict(list)
        for place, tombstone in tombstones.items():
            if tombstone.is_alone:
                untouched[tombstone.connection].append(place)
        return self._pool.usable(untouched)

    def _remove_all(self, places: Iterable[Place], token: bytes, budget: Budget) -> frozenset[Place]:
        """Removes one owner's tombstones; the places at which nobody answered. A server that lets us wait is not asked
        again for each of its items.
        """
        silent: set[str] = set()
        failed: list[Place] = []
        for place in places:
            if place[0] in silent or not self._try_remove(*place, token, budget):
                silent.add(place[0])
                failed.append(place)
        return frozenset(failed)

    def _try_remove(self, server: str, name: str, token: bytes, budget: Budget) -> bool:
        """``_remove_own``; False if the server did not answer. It is asked again if the connection turned out to be
        closed: the server may have restarted, and a reader may have filled the old row in the tombstone's place.
        """
        if server not in self.servers:
            return False
        for _ in range(_CONNECTIONS):
            connection: Connection | None = None
            try:
                connection = self._pool.connection(server, budget)
                self._remove_own(connection, name, token, budget)
            except CacheUnavailableError as exc:
                self._pool.failed(server, exc)
                if connection is None or connection.state is TIMED_OUT:
                    break
            else:
                return True
        return False

    def _remove_own(self, connection: Connection, name: str, token: bytes, budget: Budget) -> None:
        ttl = self.settings.tombstone_ttl
        operation = remove_own(name, token, lambda owner: is_expired(owner, ttl, self._wall()))
        self._pool.run(connection, operation, budget)

    # Servers

    def places_of(self, group: str, key: str) -> tuple[Place, Place]:
        """See ``LeaseBackend``."""
        server = self._server_of(key)
        return (server, key), (server, marker_of(group))

    def unreachable(self) -> frozenset[str]:
        """See ``LeaseBackend``. Nothing stands under the name that is asked for."""
        probe = marker_of(f"{self.settings.namespace}:unreachable")
        return frozenset(server for server in self.servers if not self.retire([(server, probe)]))

    def _server_of(self, key: str) -> str:
        return self._only or self._placed_at(key)

    def _by_connection(
        self, keys: Iterable[str], budget: Budget, everywhere: Sequence[str] = ()
    ) -> dict[Connection, Sequence[str]]:
        """The names by the connections to their servers, without servers that cannot be reached."""
        by_server: dict[str, list[str]] = {server: list(everywhere) for server in self.servers if everywhere}
        if self._only:
            by_server.setdefault(self._only, []).extend(keys)
        else:
            for key in keys:
                by_server.setdefault(self._placed_at(key), []).append(key)
        return self._pool.connected(by_server, budget)

    def close(self) -> None:
        self._pool.close()

    # dogpile's face

    def has_lock_timeout(self) -> bool:
        """dogpile: True if the owner of a lock may lose it."""
        return self._lock_ttl > 0

    def get_mutex(self, key: str) -> CacheMutex | None:
        """dogpile: the lock under which the value of a key is created; None for one of this process."""
        if not self._lock_ttl:
            return None
        return Mutex(lock_name(key), self._lock_ttl, functools.partial(self._exchange_plainly, key))

    def get_serialized(self, key: str) -> Any:
        """dogpile: the serialized value, or ``NO_VALUE``. Raises ``CacheUnavailableError``."""
        words, body = self._exchange_plainly(key, b"mg %b f v\r\n" % dogpile_key(key))
        return body if words[0] == b"VA" and (b"f%d" % TRANSFORMED in words or is_dogpiles(body)) else NO_VALUE

    def set_serialized(self, key: str, value: bytes) -> None:
        """dogpile: stores a serialized value for the settings' ttl. Raises ``CacheUnavailableError``, also if the
        server refuses it (memcached takes 1 MB).
        """
        flags = 0 if is_dogpiles(value) else TRANSFORMED
        head = b"ms %b %d T%d F%d\r\n" % (dogpile_key(key), len(value), self.settings.ttl, flags)
        words, _ = self._exchange_plainly(key, head + value + b"\r\n")
        if words[0] != b"HD":
            raise CacheUnavailableError(f"{key!r} was not stored: {b' '.join(words).decode(errors='replace')}")

    def delete(self, key: str) -> None:
        """dogpile: deletes an item. Raises ``CacheUnavailableError``."""
        self._exchange_plainly(key, b"md %b\r\n" % dogpile_key(key))

    def _exchange_plainly(self, key: str, request: bytes) -> Reply:
        server = self._server_of(key)
        budget = Budget(self.settings.timeout)
        try:
            return self._pool.exchange(self._pool.connection(server, budget), request, 1, budget)[0]
        except CacheUnavailableError as exc:
            self._pool.failed(server, exc)
            raise


def _url_of(options: dict[str, Any]) -> CacheUrl:
    """Takes ``url`` and ``servers`` out of the options. A list, or a string without a scheme, names servers only."""
    url, servers = options.pop("url", None), options.pop("servers", None)
    if url and servers:
        raise ConfigurationError(f"url={redact(url)!r} and servers={servers!r} both name servers; give one of them")
    places = url or servers or ()
    if not isinstance(places, str):
        return CacheUrl("memcached", parse_servers(places), {})
    parsed = parse_cache_url(places if "://" in places else f"memcached://{places}")
    if parsed.scheme != "memcached":
        raise ConfigurationError(f"a memcached backend was given a cache URL of scheme {parsed.scheme!r}")
    return parsed


def _lock_ttl(options: dict[str, Any]) -> int:
    """Takes ``distributed_lock`` and ``lock_timeout`` out of the options; seconds, 0 for no lock in memcached."""
    distributed, timeout = options.pop("distributed_lock", False), options.pop("lock_timeout", None)
    if not isinstance(distributed, bool):
        raise ConfigurationError(
            f"distributed_lock={distributed!r} is {type(distributed).__name__}; give True or False"
        )
    if timeout is not None and not distributed:
        raise ConfigurationError(
            f"lock_timeout={timeout!r} is given and distributed_lock is off, so no lock would end; add "
            "distributed_lock=True"
        )
    if timeout is None:
        return _LOCK_TIMEOUT if distributed else 0
    if type(timeout) is not int or not 1 <= timeout <= _LONGEST_LOCK:
        raise ConfigurationError(
            f"lock_timeout={timeout!r}: give whole seconds between 1 and {_LONGEST_LOCK} (30 days); without an end, a "
            "process that dies while it creates a value would keep all others waiting"
        )
    return timeout


def _tls_of(settings: CacheSettings) -> ssl.SSLContext | None:
    if not settings.tls:
        return None
    return tls_context(settings.tls_ca, settings.tls_cert, settings.tls_key, owner="the cache")
