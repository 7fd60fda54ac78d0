"""The read side: a repository read through a cache, by leases.

Each read is one pass through these states (``backends`` names them)::

    fetch ── value ───────────── decode ── of this key and schema ──> hit
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
from typing import Any, Generic, TypeVar

from dogpile.cache import CacheRegion
from sqlalchemy import orm

from person_repo.backends import BLOCKED, BUSY, UNREACHABLE, Coherence, Fetched, Lease, LeaseBackend, Outcome
from person_repo.codec import Codec, RejectedItemError, UncacheableError
from person_repo.keys import Keyspace
from person_repo.mapping import Identity, Row
from person_repo.observability import Counters, Stats
from person_repo.region import lease_backend, region_of
from person_repo.repository import BoundRepository, SQLAlchemyRepository, identities, required

__all__ = ["CachedRepository"]

E = TypeVar("E")

logger = logging.getLogger(__name__)

# The first waits are about as long as a load by key takes; each is a round trip to the cache.
_FIRST_WAIT = 0.002
_LONGEST_WAIT = 0.02


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
        self.keys = Keyspace(self.backend.settings.namespace, self.mapping.cache_name)
        self.counters = Counters()
        self._codec = Codec(self.mapping)
        self._sleep = sleep
        self._clock = clock

    @property
    def coherence(self) -> Coherence:
        """How far the promise reaches: ``strict``, ``process`` (a memory region) or ``best-effort`` (a foreign one)."""
        return self.backend.coherence

    def get(self, id: Any) -> E | None:
        """See ``Repository``. A hit: one round trip to the cache, no query. A miss: at most three, and one query."""
        if self.database.joined:
            return self.database.get(id)
        identity = self.mapping.identity(id)
        row = None if identity is None else self._row(identity)
        return None if row is None else self.mapping.hydrate(row)

    def get_one(self, id: Any) -> E:
        """See ``Repository``."""
        return required(self.mapping, id, self.get(id))

    def get_many(self, ids: Iterable[Any]) -> dict[Any, E]:
        """See ``Repository``. One round trip to each server where all is there; where something is not, at most three,
        and one query.
        """
        if self.database.joined:
            return self.database.get_many(ids)
        wanted = identities(self.mapping, ids)
        rows = self._rows(list(wanted))
        hydrate = self.mapping.hydrate
        return {id: hydrate(row) for identity, id in wanted.items() if (row := rows[identity]) is not None}

    def exists(self, id: Any) -> bool:
        """See ``Repository``."""
        if self.database.joined:
            return self.database.exists(id)
        identity = self.mapping.identity(id)
        return identity is not None and self._row(identity) is not None

    # One entity

    def _row(self, identity: Identity) -> Row | None:
        key, full = self.keys.of(identity)
        found = self.backend.fetch(self.keys.group, key)
        if isinstance(found, bytes):
            try:
                row = self._codec.decode(found, full)
            except RejectedItemError as exc:
                found = self._reject(key, found, exc)
            else:
                self._count_hit(row)
                return row
        if found is BUSY:
            found = self._awaited(key)
            if isinstance(found, bytes):
                return self._decoded_or_loaded(identity, full, found)
        return self._load(identity, full, found)

    def _reject(self, key: str, item: bytes, exc: RejectedItemError) -> Fetched:
        """Takes the place of an item that is of no use here; where another one has come meanwhile, leaves it alone."""
        self.counters.rejected += 1
        logger.debug("an item of the cache was rejected: %s", exc)
        found = self.backend.fetch(self.keys.group, key, reject=item)
        return BLOCKED if isinstance(found, bytes) else found

    def _awaited(self, key: str) -> Fetched:
        """What another reader's lease turns into within a bounded time; ``BUSY`` where it takes longer."""
        self.counters.waits += 1
        until = self._clock() + self.backend.settings.wait
        pause = _FIRST_WAIT
        found: Fetched = BUSY
        while found is BUSY and self._clock() + pause <= until:
            self._sleep(pause)
            found = self.backend.fetch(self.keys.group, key)
            pause = min(pause * 1.5, _LONGEST_WAIT)
        return found

    def _decoded_or_loaded(self, identity: Identity, full: str, item: bytes) -> Row | None:
        try:
            row = self._codec.decode(item, full)
        except RejectedItemError:  # readers of two schemas at one key: whoever waits here serves itself
            self.counters.rejected += 1
            return self._load(identity, full, BLOCKED)
        self._count_hit(row)
        return row

    def _load(self, identity: Identity, full: str, found: Lease | Outcome | bytes) -> Row | None:
        lease = found if isinstance(found, Lease) else None
        self._count_load(found)
        try:
            rows, committed = self.database.loader.one(identity)
        except BaseException:
            if lease is not None:
                self.backend.abandon([lease])
            raise
        row = rows.get(identity)
        if lease is not None:
            self._fill([(lease, full, row)], committed)
        return row

    # Many entities

    def _rows(self, wanted: Sequence[Identity]) -> dict[Identity, Row | None]:
        """The rows by identity, None for each that does not exist.

        One fetch for all; one more, waiting, for those that another reader is loading; one load for the rest.
        """
        if not wanted:
            return {}
        keys = dict(zip(wanted, self.keys.of_all(wanted), strict=True))
        rows: dict[Identity, Row | None] = {}
        left = self._fetched(keys, rows)
        if not left:
            return rows
        busy = {identity: keys[identity] for identity, found in left.items() if found is BUSY}
        # What this reader may fill it loads first: two readers that each wait for the other's lease
        # before they load would both wait for nothing.
        self._load_many({identity: found for identity, found in left.items() if found is not BUSY}, keys, rows)
        if busy:
            self._load_many(self._awaited_many(busy, rows), keys, rows)
        return rows

    def _fetched(
        self, keys: dict[Identity, tuple[str, str]], rows: dict[Identity, Row | None]
    ) -> dict[Identity, Fetched]:
        """Fetches all, puts the hits into ``rows`` and returns what is left to load."""
        left: dict[Identity, Fetched] = {}
        decode = self._codec.decode
        hits = negative = 0
        items = self.backend.fetch_many(self.keys.group, [key for key, _ in keys.values()])
        for (identity, (key, full)), item in zip(keys.items(), items, strict=True):
            if not isinstance(item, bytes):
                left[identity] = item
                continue
            try:
                row = rows[identity] = decode(item, full)
            except RejectedItemError as exc:
                left[identity] = self._reject(key, item, exc)
            else:
                hits += 1
                if row is None:
                    negative += 1
        self.counters.hits += hits
        self.counters.negative_hits += negative
        return left

    def _awaited_many(
        self, keys: dict[Identity, tuple[str, str]], rows: dict[Identity, Row | None]
    ) -> dict[Identity, Fetched]:
        self.counters.waits += len(keys)
        until = self._clock() + self.backend.settings.wait
        pause = _FIRST_WAIT
        left: dict[Identity, Fetched] = dict.fromkeys(keys, BUSY)
        while any(found is BUSY for found in left.values()) and self._clock() + pause <= until:
            self._sleep(pause)
            pause = min(pause * 1.5, _LONGEST_WAIT)
            busy = {identity: keys[identity] for identity, found in left.items() if found is BUSY}
            left = {identity: found for identity, found in left.items() if found is not BUSY}
            left.update(self._fetched(busy, rows))
        return left

    def _load_many(
        self,
        left: dict[Identity, Fetched],
        keys: dict[Identity, tuple[str, str]],
        rows: dict[Identity, Row | None],
    ) -> None:
        if not left:
            return
        leases = {identity: found for identity, found in left.items() if isinstance(found, Lease)}
        for found in left.values():
            self._count_outcome(found)
        self.counters.loads += 1
        try:
            loaded, committed = self.database.loader.many(list(left))
        except BaseException:
            self.backend.abandon(leases.values())
            raise
        rows.update({identity: loaded.get(identity) for identity in left})
        self._fill([(lease, keys[identity][1], rows[identity]) for identity, lease in leases.items()], committed)

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

    def _count_load(self, found: Fetched) -> None:
        self.counters.loads += 1
        self._count_outcome(found)

    def _count_outcome(self, found: Fetched) -> None:
        if isinstance(found, Lease):
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
