"""The read side: a repository read through a cache, by leases.

Each read is one pass through these states (``backends`` names them)::

    fence ── may be old here ──── load, do not store
      │
    fetch ── value ───────────── decode ── of this key and schema ──> hit
      ├───── value, ends soon ── load, encode, fill ──> renewal
      │                            └────── anything else ──> counted; fetch again, taking its place
      ├───── lease ───────────── load, encode, fill ──> miss
      ├───── another's lease ─── fetch again, a bounded time ──> hit, or load and do not store
      ├───── tombstone ───────── load, do not store
      └───── no answer ───────── load, do not store

The load begins after the lease was taken, on a snapshot of its own, so what a fill stores is never older than the
lease; the backend refuses a fill whose lease has been lost to a writer. Writers are in ``invalidation``.
"""

from __future__ import annotations

import builtins
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any, Generic, TypeVar

import sqlalchemy as sa
from dogpile.cache import CacheRegion
from sqlalchemy import orm

from person_repo.cache.contract import BLOCKED, BUSY, UNREACHABLE, Coherence, Expiring, Fetched, Lease, LeaseBackend
from person_repo.cache.region import lease_backend, region_of
from person_repo.database.bound import BoundRepository
from person_repo.database.ids import identities, listed, required
from person_repo.database.repository import SQLAlchemyRepository
from person_repo.exceptions import OverloadError
from person_repo.fence.view import Fence, fence_of
from person_repo.mapped.codec import Codec, RejectedItemError, UncacheableError
from person_repo.mapped.keys import Keyspace
from person_repo.mapped.mapping import Identity, Row
from person_repo.mapped.sealing import Seal
from person_repo.observability.counters import Counters, Stats

__all__ = ["CachedRepository"]

E = TypeVar("E")

logger = logging.getLogger("person_repo.reading")

# The first waits are about as long as a load by key takes; each is a round trip to the cache.
_FIRST_WAIT = 0.002
_LONGEST_WAIT = 0.02


class _Wanted:
    """What is read together, by place: the ids, the keys on the wire and in full, and the ``rows`` found.

    ``identities``: None where each id is one by itself. ``current``: what is there yet of what is to be renewed, for
    the case that it cannot be.
    """

    __slots__ = ("_identities", "current", "fulls", "ids", "keys", "rows")

    def __init__(
        self,
        ids: Sequence[Any],
        keys: Sequence[str],
        fulls: Sequence[str],
        identities: Sequence[Identity] | None = None,
    ) -> None:
        self.ids = ids
        self.keys = keys
        self.fulls = fulls
        self.rows: list[Row | None] = [None] * len(ids)
        self.current: dict[int, Row | None] = {}
        self._identities = identities

    def identity(self, at: int) -> Identity:
        """The identity at a place."""
        return (self.ids[at],) if self._identities is None else self._identities[at]


class CachedRepository(Generic[E]):
    """A repository whose reads by id are answered by a region where it can, and fill it where it cannot.

    ``database``: the repository behind it. ``cache``: a configured dogpile region, or a cache URL. ``sleep`` waits for
    another reader's load; ``clock`` tells how long, in seconds. Lookups other than by id, and writes, go to the
    database.

    It stays coherent only with writes through engines that an ``Invalidation`` covers; ``Service`` sees to that.
    """

    def __init__(
        self,
        database: SQLAlchemyRepository[E],
        cache: CacheRegion | str,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.database = database
        self.region = region_of(cache)
        self.backend: LeaseBackend = lease_backend(self.region)
        self.mapping = database.mapping
        self.keys = Keyspace(self.backend.settings.namespace, self.mapping.cache_name, self.mapping.longest_plain_id)
        self.counters = Counters()
        self.fence: Fence | None = fence_of(database.engine, self.backend, database.read_engine)
        self._load_time = 0.0
        self._codec = Codec(self.mapping, Seal.of(self.backend.settings.secret))
        self._sleep = sleep
        self._clock = clock

    @property
    def coherence(self) -> Coherence:
        """How far the promise reaches: ``strict``, ``process`` (a memory region) or ``best-effort`` (a foreign one)."""
        return self.backend.coherence

    def get(self, id: Any) -> E | None:
        """See ``Repository``. A hit: one round trip to the cache, no query. A miss: at most three, and one query."""
        if self.database.on_hosts_connection:
            return self.database.get(id)
        row = self._row(id)
        if row is None:
            return None
        try:
            return self.mapping.hydrate(row)
        except Exception as exc:
            return self._doubted(id, row, exc)

    def get_one(self, id: Any) -> E:
        """See ``Repository``."""
        return required(self.mapping, id, self.get(id))

    def get_many(self, ids: Iterable[Any]) -> dict[Any, E]:
        """See ``Repository``. One round trip to each server where all is there; where something is not, at most three,
        and one query.
        """
        if self.database.on_hosts_connection:
            return self.database.get_many(ids)
        wanted = self._wanted(listed(ids))
        rows = self._rows(wanted)
        try:
            return self.mapping.hydrate_all(zip(wanted.ids, rows, strict=True))
        except Exception:  # of one: which it is, is found one by one
            found = {id: self._hydrated(id, row) for id, row in zip(wanted.ids, rows, strict=True)}
            return {id: entity for id, entity in found.items() if entity is not None}

    def exists(self, id: Any) -> bool:
        """See ``Repository``."""
        if self.database.on_hosts_connection:
            return self.database.exists(id)
        return self._row(id) is not None

    def _hydrated(self, id: Any, row: Row | None) -> E | None:
        try:
            return None if row is None else self.mapping.hydrate(row)
        except Exception as exc:
            return self._doubted(id, row, exc)

    def _doubted(self, id: Any, row: Row | None, exc: Exception) -> E | None:
        """The object of the database's row, where a ``load`` listener of the host's raised for the row that was read.

        Only the cache may have had that: such an item is of no use. What the listener raises for the database's row is
        the host's to see, from here as from there.
        """
        identity = self.mapping.identity(id)
        assert identity is not None, id
        key, full = self.keys.key_of(identity)
        current = self._load(identity, (key, full), BLOCKED)
        if current == row:
            raise exc
        found = self.backend.fetch(self.keys.group, key)
        if isinstance(found, bytes):
            found = self._reject(key, found, RejectedItemError(f"{full}: no object can be made of it: {exc}"))
        if isinstance(found, (Lease, Expiring)):  # the next reader's to fill
            self.backend.abandon([found if isinstance(found, Lease) else found.lease])
        return None if current is None else self.mapping.hydrate(current)

    # One entity

    def _row(self, id: Any) -> Row | None:
        if (key := self.keys.plain_key_of(id)) is not None:
            return self._row_at((id,), key, key)
        identity = self.mapping.identity(id)
        return None if identity is None else self._row_at(identity, *self.keys.key_of(identity))

    def _row_at(self, identity: Identity, key: str, full: str) -> Row | None:
        group = self.keys.group
        if self.fence is not None and self.fence.blocks(group, key):
            self.backend.counters.fenced += 1
            return self._load(identity, (key, full), BLOCKED)
        found = self.backend.fetch(group, key)
        if isinstance(found, bytes):
            try:
                row = self._codec.decode(found, full)
            except RejectedItemError as exc:
                found = self._reject(key, found, exc)
            else:
                self.counters.hits.value += 1
                if row is None:
                    self.counters.negative_hits.value += 1
                return row
        if found is BUSY:
            found = self._awaited(key)
            if isinstance(found, bytes):
                return self._decoded_or_loaded(identity, (key, full), found)
        if isinstance(found, Expiring):
            return self._renewed(identity, (key, full), found)
        return self._load(identity, (key, full), found)

    def _renewed(self, identity: Identity, keys: tuple[str, str], found: Expiring) -> Row | None:
        """What is loaded anew before it ends; where the database is too busy for that, or fails, what is there yet."""
        try:
            current = self._codec.decode(found.value, keys[1])
        except RejectedItemError:
            self.counters.rejected += 1
            return self._load(identity, keys, found.lease)
        bulkhead = self.backend.bulkhead
        if bulkhead is None or not bulkhead.is_full:
            try:
                return self._load(identity, keys, found.lease)
            except (sa.exc.SQLAlchemyError, OverloadError) as exc:
                logger.debug("%s is not renewed: %s", keys[1], exc)
        self._count_hit(current)
        return current

    def _reject(self, key: str, item: bytes, exc: RejectedItemError) -> Fetched:
        """Takes the place of an item that is of no use here; where another one has come meanwhile, leaves it alone."""
        self.counters.rejected += 1
        logger.debug("an item of the cache was rejected: %s", exc)
        found = self.backend.fetch(self.keys.group, key, reject=item)
        return BLOCKED if isinstance(found, (bytes, Expiring)) else found

    def _awaited(self, key: str) -> Fetched:
        """What another reader's lease turns into within a bounded time; ``BUSY`` where it takes longer."""
        self.counters.waits += 1
        until = self._clock() + self._longest_wait()
        pause = _FIRST_WAIT
        found: Fetched = BUSY
        while found is BUSY and self._clock() + pause <= until:
            self._sleep(pause)
            found = self.backend.fetch(self.keys.group, key)
            pause = min(pause * 1.5, _LONGEST_WAIT)
        return found

    def _decoded_or_loaded(self, identity: Identity, keys: tuple[str, str], item: bytes) -> Row | None:
        try:
            row = self._codec.decode(item, keys[1])
        except RejectedItemError:  # readers of two schemas at one key: whoever waits here serves itself
            self.counters.rejected += 1
            return self._load(identity, keys, BLOCKED)
        self._count_hit(row)
        return row

    def _load(self, identity: Identity, keys: tuple[str, str], found: Fetched) -> Row | None:
        try:
            with self._load_slot() as waited:
                if waited and found is BUSY:  # others have been loading meanwhile
                    wanted = _Wanted([None], [keys[0]], [keys[1]])
                    left = self._fetched(wanted, [0])
                    if 0 not in left:
                        return wanted.rows[0]
                    found = left[0]
                return self._loaded(identity, keys[1], found)  # whose turn comes next is to find it
        except BaseException:
            if isinstance(found, Lease):
                self.backend.abandon([found])
            raise

    def _loaded(self, identity: Identity, full: str, found: Fetched) -> Row | None:
        self.counters.loads += 1
        self._count_outcome(found)
        began = self._clock()
        rows, committed = self.database.loader.one(identity)
        row = rows.get(identity)
        if isinstance(found, Lease):
            self._fill([(found, full, row)], committed)
        self._note_load(began)
        return row

    # Many entities: ``left`` tells by their places among those wanted what is left to load, and why

    def _wanted(self, ids: Sequence[Any]) -> _Wanted:
        if (named := self.keys.plain_keys_of(ids)) is not None:
            keys = [*named.values()]
            return _Wanted([*named], keys, keys)
        wanted = identities(self.mapping, ids)
        keys, fulls = self.keys.keys_of([*wanted])
        return _Wanted([*wanted.values()], keys, fulls, [*wanted])

    def _rows(self, wanted: _Wanted) -> builtins.list[Row | None]:
        """The rows of what is wanted, None for what does not exist.

        One fetch for all; one more, waiting, for those that another reader is loading; one load for the rest.
        """
        if not wanted.ids:
            return []
        left = self._fetched(wanted, range(len(wanted.ids)))
        if left:
            busy = [at for at, found in left.items() if found is BUSY]
            # What this reader may fill it loads first: two readers that each wait for the other's lease
            # before they load would both wait for nothing.
            self._load_many({at: found for at, found in left.items() if found is not BUSY}, wanted)
            if busy:
                self._load_many(self._awaited_many(busy, wanted), wanted)
        return wanted.rows

    def _barred(self, wanted: _Wanted, places: Iterable[int]) -> builtins.list[int]:
        """Those for which the fence sends this read to the database."""
        if self.fence is None or not self.fence.is_raised():
            return []
        barred = [at for at in places if self.fence.blocks(self.keys.group, wanted.keys[at])]
        self.backend.counters.fenced += len(barred)
        return barred

    def _fetched(self, wanted: _Wanted, places: Sequence[int]) -> dict[int, Fetched]:
        """Fetches what is wanted at these places, keeps the rows of hits, and returns what is left to load."""
        left: dict[int, Fetched] = dict.fromkeys(self._barred(wanted, places), BLOCKED)
        if left:
            places = [at for at in places if at not in left]
        keys, fulls, rows = wanted.keys, wanted.fulls, wanted.rows
        if len(places) < len(keys):
            keys, fulls = [keys[at] for at in places], [fulls[at] for at in places]
        items = self.backend.fetch_many(self.keys.group, keys)
        if self._are_hits(items, fulls, places, wanted):
            return left
        decode = self._codec.decode
        for at, key, full, item in zip(places, keys, fulls, items, strict=True):
            if isinstance(item, bytes):
                try:
                    rows[at] = decode(item, full)
                except RejectedItemError as exc:
                    left[at] = self._reject(key, item, exc)
                else:
                    self._count_hit(rows[at])
            elif isinstance(item, Expiring):
                left[at] = item.lease
                with suppress(RejectedItemError):
                    wanted.current[at] = decode(item.value, full)
            else:
                left[at] = item
        return left

    def _are_hits(self, items: Sequence[Any], fulls: Sequence[str], places: Sequence[int], wanted: _Wanted) -> bool:
        """Whether all items are hits, as they mostly are; then keeps their rows."""
        if {*map(type, items)} != {bytes}:
            return False
        found = self._codec.decode_all(items, fulls)
        if found is None:
            return False
        if len(found) == len(wanted.rows):
            wanted.rows = found
        else:
            for at, row in zip(places, found, strict=True):
                wanted.rows[at] = row
        self.counters.hits += len(found)
        self.counters.negative_hits += len(found) - len([*filter(None, found)])  # no row is empty
        return True

    def _awaited_many(self, busy: Sequence[int], wanted: _Wanted) -> dict[int, Fetched]:
        self.counters.waits += len(busy)
        until = self._clock() + self._longest_wait()
        pause = _FIRST_WAIT
        left: dict[int, Fetched] = dict.fromkeys(busy, BUSY)
        while any(found is BUSY for found in left.values()) and self._clock() + pause <= until:
            self._sleep(pause)
            pause = min(pause * 1.5, _LONGEST_WAIT)
            left = self._fetched_again(left, wanted)
        return left

    def _fetched_again(self, left: dict[int, Fetched], wanted: _Wanted) -> dict[int, Fetched]:
        """What is left once others, who have been loading meanwhile, have been asked for what they loaded."""
        busy = [at for at, found in left.items() if found is BUSY]
        rest: dict[int, Fetched] = {at: found for at, found in left.items() if found is not BUSY}
        return {**rest, **self._fetched(wanted, busy)} if busy else rest

    def _load_many(self, left: dict[int, Fetched], wanted: _Wanted) -> None:
        if not left:
            return
        try:
            with self._load_slot() as waited:
                if waited:
                    left = self._fetched_again(left, wanted)
                if not left:
                    return
                began = self._clock()
                self.counters.loads += 1
                for found in left.values():
                    self._count_outcome(found)
                missing = {at: wanted.identity(at) for at in left}
                loaded, committed = self.database.loader.many([*missing.values()])
                rows = wanted.rows
                for at, identity in missing.items():
                    rows[at] = loaded.get(identity)
                fills = [(found, wanted.fulls[at], rows[at]) for at, found in left.items() if isinstance(found, Lease)]
                self._fill(fills, committed)
                self._note_load(began)
        except BaseException as exc:
            self.backend.abandon([found for found in left.values() if isinstance(found, Lease)])
            if isinstance(exc, (sa.exc.SQLAlchemyError, OverloadError)) and left.keys() <= wanted.current.keys():
                for at in left:  # what could not be renewed is there yet
                    wanted.rows[at] = wanted.current[at]
                return
            raise

    def _load_slot(self) -> AbstractContextManager[bool]:
        """A load's turn at the database, and whether it had to be waited for, which it has where there is a bound on
        their number.
        """
        bulkhead = self.backend.bulkhead
        return nullcontext(False) if bulkhead is None else bulkhead.entered()

    def _note_load(self, began: float) -> None:
        """Notes how long loads take: as long as the first did, then some eighths of it and of each later one."""
        took = self._clock() - began
        self._load_time += (took - self._load_time) / (8 if self._load_time else 1)

    def _longest_wait(self) -> float:
        """As long as a load takes, by a small factor, but no longer than the other reader's lease lives."""
        settings = self.backend.settings
        return min(max(settings.wait, 2 * self._load_time), settings.lease_ttl)

    # Filling

    def _fill(self, fills: Sequence[tuple[Lease, str, Row | None]], committed: bool) -> None:
        """Stores what was loaded. A state that would not come back as it is gives its lease back instead."""
        encoded: builtins.list[tuple[Lease, bytes]] = []
        unused: builtins.list[Lease] = []
        for lease, full, row in fills:
            try:
                if not committed:
                    raise UncacheableError(f"{full}: read beside an open transaction")
                encoded.append((lease, self._codec.encode(full, row)))
            except UncacheableError as exc:
                self.counters.uncacheable += 1
                logger.debug("not cached: %s", exc)
                unused.append(lease)
        if unused:
            self.backend.abandon(unused)
        if encoded:
            self._count_fills(encoded, self.backend.fill_many(encoded))

    def _count_fills(self, encoded: Sequence[tuple[Lease, bytes]], stored: Sequence[bool]) -> None:
        fills = sum(stored)
        self.counters.fills += fills
        self.counters.fills_refused += len(stored) - fills
        if fills < len(stored) and logger.isEnabledFor(logging.DEBUG):
            for (lease, _), done in zip(encoded, stored, strict=True):
                if not done:
                    logger.debug("add failed: %s (the lease was lost to a writer, or the server refused it)", lease.key)

    # Counting

    def _count_hit(self, row: Row | None) -> None:
        self.counters.hits.value += 1
        if row is None:
            self.counters.negative_hits.value += 1

    def _count_outcome(self, found: Fetched) -> None:
        if isinstance(found, Lease):
            if found.renews:
                self.counters.renewals += 1
            else:
                self.counters.misses += 1
        elif found is BLOCKED or found is UNREACHABLE:
            self.counters.bypasses += 1

    def stats(self) -> Stats:
        """What this repository's reads did, and the region under it: other repositories over the same region
        included.
        """
        return self.counters.snapshot() + self.backend.counters.snapshot()

    # The rest is the database's

    def find(self, **equals: Any) -> builtins.list[E]:
        """See ``Repository``. Always from the database."""
        return self.database.find(**equals)

    def list(self, after: Any = None, limit: int = 100) -> builtins.list[E]:
        """See ``Repository``. Always from the database."""
        return self.database.list(after, limit)

    def count(self) -> int:
        """See ``Repository``. Always from the database."""
        return self.database.count()

    def add(self, entity: E) -> None:
        """See ``Repository``."""
        self.database.add(entity)

    def add_many(self, entities: Iterable[E]) -> int:
        """See ``Repository``."""
        return self.database.add_many(entities)

    def update(self, id: Any, **changes: Any) -> E:
        """See ``Repository``."""
        return self.database.update(id, **changes)

    def upsert(self, entity: E) -> E:
        """See ``Repository``."""
        return self.database.upsert(entity)

    def delete(self, id: Any) -> bool:
        """See ``Repository``."""
        return self.database.delete(id)

    def bind(self, session: orm.Session | orm.scoped_session[Any]) -> BoundRepository[E]:
        """See ``SQLAlchemyRepository``."""
        return self.database.bind(session)

    def close(self) -> None:
        """Closes this thread's connections to the cache, and the read engine's. It stays usable."""
        self.backend.close()
        self.database.close()
