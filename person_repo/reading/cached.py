"""The public repository over a cache, and the fast path of a single hit. ``read_through`` has everything else."""

from __future__ import annotations

import builtins
import logging
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final, Generic, TypeVar

from dogpile.cache import CacheRegion
from sqlalchemy import orm

from person_repo.cache.contract import BLOCKED, Coherence, Expiring, Lease, LeaseBackend
from person_repo.cache.region import lease_backend, region_of
from person_repo.database.bound import BoundRepository
from person_repo.database.identity import NoTableError
from person_repo.database.ids import identities, listed, required
from person_repo.database.repository import Repository, SQLAlchemyRepository
from person_repo.declare import declaration_of, on_news
from person_repo.exceptions import CacheUnavailableError, ConfigurationError
from person_repo.fence.view import Fence, fence_of
from person_repo.interruptions import DATABASE_ERRORS, is_repeated
from person_repo.mapped.codec import Codec, RejectedItemError
from person_repo.mapped.identities import find_mapper
from person_repo.mapped.keys import Keyspace, group_name
from person_repo.mapped.mapping import EntityMapping, Identity, Row
from person_repo.mapped.sealing import Seal
from person_repo.observability.counters import Counters, Stats
from person_repo.reading.batch import Batch
from person_repo.reading.read_through import FENCED, Item, ReadThrough

__all__ = ["CachedRepository"]

logger = logging.getLogger("person_repo.reading")

_LONGEST_PROVISIONAL: Final = 10.0
"""Seconds after which a database without an identity is asked again, at most."""

E = TypeVar("E")


@dataclass(frozen=True, slots=True)
class Reading(Generic[E]):
    """The parts of reads of one class in one database. Replaced as a whole, so that a read uses parts of one making."""

    mapping: EntityMapping[E]
    keys: Keyspace
    codec: Codec[E]
    read_through: ReadThrough


class CachedRepository(Repository[E]):
    """A repository whose reads by id are answered by a cache if possible, and fill it otherwise.

    ``database``: the repository behind it, which answers every other read and makes the writes. ``cache``: a
    configured dogpile region, or a cache URL. ``sleep`` waits for another reader's load, and ``clock`` measures how
    long; both in seconds.

    It stays coherent only if every write goes through an engine that is covered; ``Service`` sees to that.
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
        self.counters = Counters()
        self.fence: Fence | None = fence_of(database.engine, self.backend, database.read_engine)
        self._seal = Seal.of(self.backend.settings.secret)
        self._sleep = sleep
        self._clock = clock
        self._reading: Reading[E] | None = None
        self._provisional: Reading[E] | None = None
        self.group = group_name(self.backend.settings.namespace, self.mapping.table.name)
        """The name of the class's entries, in whichever database, for ``invalidate_all``."""
        self._asks_again = float("-inf")
        self._is_silent = False
        self._may_end = database.read_database.may_end()
        self._require_ttl()
        _repositories.add(self)
        database.read_database.at_end(self, _begin_anew)

    @property
    def mapping(self) -> EntityMapping[E]:
        """The mapped class."""
        return self.database.mapping

    @property
    def keys(self) -> Keyspace:
        """The cache keys of the class's entities in this database, which is asked for its identity if it was not yet.

        Raises what the database raises, and ``CacheUnavailableError`` if it cannot be asked.
        """
        return (self._reading or self._try_to_begin() or self._begin()).keys

    def certain_keys(self) -> Keyspace | None:
        """The cache keys as every program has them; None if another may have others."""
        loader, namespace = self.database.loader, self.backend.settings.namespace
        return self.database.read_database.certain_keyspace(loader.mapping, namespace, loader.translation)

    def _require_ttl(self) -> int | None:
        """The ttl that the class was declared with. Raises ``ConfigurationError`` if the cache cannot keep to it."""
        declaration = declaration_of(self.database.entity)
        if declaration is None or declaration.ttl is None:
            return None
        self.backend.require_ttl(self.database.entity.__name__, declaration.ttl)
        return declaration.ttl

    def _begin(self) -> Reading[E]:
        """Ask the database for its identity, and make what reads need: for the first read, and for the next one after
        the class's hierarchy has grown or the class was declared.
        """
        loader = self.database.loader
        database, namespace = self.database.read_database, self.backend.settings.namespace
        generation = database.generation
        keys, lasts, server = database.locate(loader.mapping, namespace, loader.translation)
        if (ttl := self._require_ttl()) is not None:
            self.backend.set_ttl(self.group, ttl)
        codec = Codec(loader.mapping, keys.location, self._seal)
        read_through = ReadThrough(
            keys.group, self.backend, self.fence, codec, loader, self.counters, sleep=self._sleep, clock=self._clock
        )
        reading = Reading(loader.mapping, keys, codec, read_through)
        self._is_silent = False
        if lasts and not self._may_end:
            self._reading = reading
            self._compare_servers(keys, server)
        else:
            self._provisional = reading
            self._asks_again = float("inf") if lasts else self._asks_again
        # Another thread may have mapped a class meanwhile, or ended the database.
        if self.database.loader is loader and database.generation == generation:
            return reading
        _begin_anew(self)
        return self._begin()

    def _compare_servers(self, keys: Keyspace, server: str) -> None:
        """Log, and count, if others read these entries from another server: a promoted replica, or a copy."""
        if not self.backend.fenced or not server:
            return
        own = blake2b(server.encode(), digest_size=16).hexdigest().encode()
        found = self.backend.fetch(keys.group, keys.server_key)
        if isinstance(found, Lease):
            self.backend.fill(found, own)
            return
        if isinstance(found, Expiring):
            self.backend.abandon([found.lease])
            found = found.value
        if isinstance(found, bytes) and found != own:
            self.counters.other_servers += 1
            logger.warning(
                "%s: this database's entries were cached from another server, too. After a failover this is as it "
                "should be. If this database is a copy, stop its programs and run person-repo identity --renew",
                self.mapping.name,
            )

    def _try_to_begin(self) -> Reading[E] | None:
        """The same; None, and once in the log, if the database does not say which it is. Then it answers by itself.

        Without a row for its identity, or without an answer, it is asked again after ``fence_interval``. A database in
        memory may be another one at each read.
        """
        if self._may_end:
            self.database.read_database.may_end()
        if self._clock() < self._asks_again:
            return self._provisional
        self._asks_again = self._clock() + min(self.backend.settings.fence_interval, _LONGEST_PROVISIONAL)
        self._provisional = None
        try:
            return self._begin()
        except ConfigurationError:  # Each read says so.
            self._asks_again = float("-inf")
            raise
        except (CacheUnavailableError, *DATABASE_ERRORS) as exc:
            if not self._is_silent and not isinstance(exc, NoTableError):
                self._is_silent = True
                logger.error("%s is not cached: its database does not say which it is: %s", self.mapping.name, exc)
            return None

    @property
    def coherence(self) -> Coherence:
        """How far the promise reaches: ``strict``, ``process`` (a memory region) or ``best-effort`` (a foreign one)."""
        return self.backend.coherence

    # Reads by id. A sessionmaker on one Connection of the host's sees what it has not committed: no cache for that.

    def get(self, id: Any) -> E | None:
        """The entity, or None if there is none; detached, and a fresh object at each call. Raises ``InvalidIdError``.

        A hit costs one round trip to the cache and no query; a miss at most three, and one query.
        """
        if self.database.on_hosts_connection:
            return self.database.get(id)
        reading = self._reading or self._try_to_begin()
        if reading is None:
            return self.database.get(id)
        row = self._row(reading, id)
        if row is None:
            return None
        try:
            return reading.mapping.hydrate(row)
        except Exception as exc:
            return self._hydrate_committed(reading, id, row, exc)

    def get_one(self, id: Any) -> E:
        """The entity, at the cost of ``get``. Raises ``EntityNotFoundError`` (``PersonNotFoundError``) if there is
        none, and ``InvalidIdError``.
        """
        return required(self.mapping, id, self.get(id))

    def get_many(self, ids: Iterable[Any]) -> dict[Any, E]:
        """The entities by id, in the order of the ids; missing ones left out, repeated ones asked once.

        One round trip to each server if the cache has them all; otherwise at most three, and one query. Raises
        ``InvalidIdError``.
        """
        if self.database.on_hosts_connection:
            return self.database.get_many(ids)
        reading = self._reading or self._try_to_begin()
        if reading is None:
            return self.database.get_many(ids)
        batch = _batch(reading, listed(ids))
        rows = reading.read_through.rows(batch)
        try:
            return reading.mapping.hydrate_all(zip(batch.ids, rows, strict=True))
        except Exception as exc:  # One row cannot be made an object; go row by row to find which.
            if not is_repeated(exc, lambda: reading.mapping.hydrate_all(zip(batch.ids, rows, strict=True))):
                raise
            pairs = [(id, self._hydrate(reading, id, row)) for id, row in zip(batch.ids, rows, strict=True)]
            return {id: entity for id, entity in pairs if entity is not None}

    def exists(self, id: Any) -> bool:
        """True if there is such an entity, at the cost of ``get``. Raises ``InvalidIdError``."""
        if self.database.on_hosts_connection:
            return self.database.exists(id)
        reading = self._reading or self._try_to_begin()
        return self.database.exists(id) if reading is None else self._row(reading, id) is not None

    def _row(self, reading: Reading[E], id: Any) -> Row | None:
        """The row of an id, or None. Fast path for a hit and for a plain miss; ``ReadThrough.rows`` takes the rest."""
        keys = reading.keys
        identity: Identity | None = None
        if (key := keys.plain_key_of(id)) is not None:
            full_key = key
        elif (identity := reading.mapping.identity(id)) is not None:
            key, full_key = keys.key_of(identity)
        else:
            return None
        item: Item
        if self.fence is not None and self.fence.blocks(keys.group, key):
            item = FENCED
        else:
            item = self.backend.fetch(keys.group, key)
            if isinstance(item, bytes):
                try:
                    row = reading.codec.decode(item, full_key)
                except RejectedItemError:
                    pass  # ``ReadThrough`` decodes it again, to count it and take its place.
                else:
                    self.counters.hits.value += 1
                    if row is None:
                        self.counters.negative_hits.value += 1
                    return row
            elif isinstance(item, Lease) and not item.renews and self.backend.bulkhead is None:
                return reading.read_through.row_of_miss((id,) if identity is None else identity, full_key, item)
        batch = Batch([id], [key], [full_key], None if identity is None else [identity])
        return reading.read_through.rows(batch, [item])[0]

    # Rows that a ``load`` listener of the host's refuses

    def _hydrate(self, reading: Reading[E], id: Any, row: Row | None) -> E | None:
        try:
            return None if row is None else reading.mapping.hydrate(row)
        except Exception as exc:
            return self._hydrate_committed(reading, id, row, exc)

    def _hydrate_committed(self, reading: Reading[E], id: Any, row: Row | None, exc: Exception) -> E | None:
        """The object of the database's row, after ``exc`` was raised for the row that was read, by a listener or from
        elsewhere.

        If the database has the same row, the error is the host's to see, from here as from there. Otherwise only the
        cache had the row: the item is of no use, and goes.
        """
        if row is not None and not is_repeated(exc, lambda: reading.mapping.hydrate(row)):
            raise exc
        identity = reading.mapping.identity(id)
        assert identity is not None, id
        key, full_key = reading.keys.key_of(identity)
        (current,) = reading.read_through.rows(Batch([id], [key], [full_key], [identity]), [BLOCKED])
        if current == row:
            raise exc
        reading.read_through.discard(key, RejectedItemError(f"{full_key}: no object can be made of it: {exc}"))
        return None if current is None else reading.mapping.hydrate(current)

    # Other reads, and writes: ``help`` shows the text of ``Repository`` for those without their own

    def find(self, **equals: Any) -> builtins.list[E]:
        """All entities whose fields equal these values, by key order; always from the database.

        Raises ``UnknownFieldError``.
        """
        return self.database.find(**equals)

    def list(self, after: Any = None, limit: int = 100) -> builtins.list[E]:
        """The first ``limit`` entities in key order, beyond the id ``after`` if one is given; always from the
        database.
        """
        return self.database.list(after, limit)

    def count(self) -> int:
        """The number of entities; always from the database."""
        return self.database.count()

    def add(self, entity: E) -> None:
        self.database.add(entity)

    def add_many(self, entities: Iterable[E]) -> int:
        return self.database.add_many(entities)

    def update(self, id: Any, **changes: Any) -> E:
        return self.database.update(id, **changes)

    def upsert(self, entity: E) -> E:
        return self.database.upsert(entity)

    def delete(self, id: Any) -> bool:
        return self.database.delete(id)

    def bind(self, session: orm.Session | orm.scoped_session[Any]) -> BoundRepository[E]:
        """The same methods inside a session of the host's: reads see its changes and go to the database, nothing is
        committed for it. Raises ``ConfigurationError`` for anything that is no session.
        """
        return self.database.bind(session)

    # Its parts

    def stats(self) -> Stats:
        """The counters of this repository's reads and of the region under it, other repositories over the same region
        included.
        """
        return self.counters.snapshot() + self.backend.counters.snapshot()

    def close(self) -> None:
        """Closes this thread's connections to the cache, and the read engine's. The repository stays usable."""
        self.backend.close()
        self.database.close()


def _batch(reading: Reading[Any], ids: Sequence[Any]) -> Batch:
    if (plain := reading.keys.plain_keys_of(ids)) is not None:
        keys = [*plain.values()]
        return Batch([*plain], keys, keys)
    by_identity = identities(reading.mapping, ids)
    keys, full_keys = reading.keys.keys_of([*by_identity])
    return Batch([*by_identity.values()], keys, full_keys, [*by_identity])


_repositories: weakref.WeakSet[CachedRepository[Any]] = weakref.WeakSet()


def _begin_anew(repository: CachedRepository[Any]) -> None:
    """Before the next read, ask which database it is, and what its classes are."""
    repository._reading = repository._provisional = None
    repository._asks_again = float("-inf")


def _hear_of_class(root: type[Any]) -> None:
    """A class was declared that has a repository already, or its hierarchy has grown."""
    for repository in [*_repositories]:
        mapper = find_mapper(repository.database.entity)
        if mapper is not None and mapper.base_mapper.class_ is root:
            _begin_anew(repository)
            repository._require_ttl()


on_news(_hear_of_class)
