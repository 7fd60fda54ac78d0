"""The public repository over a cache, and the fast path of a single hit. ``read_through`` has everything else."""

from __future__ import annotations

import builtins
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from dogpile.cache import CacheRegion
from sqlalchemy import orm

from person_repo.cache.contract import BLOCKED, Coherence, Lease, LeaseBackend
from person_repo.cache.region import lease_backend, region_of
from person_repo.database.bound import BoundRepository
from person_repo.database.ids import identities, listed, required
from person_repo.database.repository import Repository, SQLAlchemyRepository
from person_repo.declare import declaration_of, on_news
from person_repo.fence.view import Fence, fence_of
from person_repo.interruptions import is_repeated
from person_repo.mapped.codec import Codec, RejectedItemError
from person_repo.mapped.keys import Keyspace
from person_repo.mapped.mapping import Identity, Row
from person_repo.mapped.sealing import Seal
from person_repo.observability.counters import Counters, Stats
from person_repo.reading.batch import Batch
from person_repo.reading.read_through import FENCED, Item, ReadThrough

__all__ = ["CachedRepository"]

E = TypeVar("E")


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
        self.mapping = database.mapping
        self.keys = Keyspace.of(self.mapping, self.backend.settings.namespace)
        self._take_ttl()
        _repositories.add(self)
        self.counters = Counters()
        self.fence: Fence | None = fence_of(database.engine, self.backend, database.read_engine)
        self._codec = Codec(self.mapping, Seal.of(self.backend.settings.secret))
        self._read_through = ReadThrough(
            self.keys.group,
            self.backend,
            self.fence,
            self._codec,
            database.loader,
            self.counters,
            sleep=sleep,
            clock=clock,
        )

    def _take_ttl(self) -> None:
        """Have the cache keep this class's entities for the ttl that it was declared with, if it was with one."""
        declaration = declaration_of(self.mapping.entity)
        if declaration is not None and declaration.ttl is not None:
            self.backend.set_ttl(self.keys.group, declaration.ttl)

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
        row = self._row(id)
        if row is None:
            return None
        try:
            return self.mapping.hydrate(row)
        except Exception as exc:
            return self._hydrate_committed(id, row, exc)

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
        batch = self._batch(listed(ids))
        rows = self._read_through.rows(batch)
        try:
            return self.mapping.hydrate_all(zip(batch.ids, rows, strict=True))
        except Exception as exc:  # One row cannot be made an object; go row by row to find which.
            if not is_repeated(exc, lambda: self.mapping.hydrate_all(zip(batch.ids, rows, strict=True))):
                raise
            pairs = [(id, self._hydrate(id, row)) for id, row in zip(batch.ids, rows, strict=True)]
            return {id: entity for id, entity in pairs if entity is not None}

    def exists(self, id: Any) -> bool:
        """True if there is such an entity, at the cost of ``get``. Raises ``InvalidIdError``."""
        if self.database.on_hosts_connection:
            return self.database.exists(id)
        return self._row(id) is not None

    def _row(self, id: Any) -> Row | None:
        """The row of an id, or None. Fast path for a hit and for a plain miss; ``ReadThrough.rows`` takes the rest."""
        identity: Identity | None = None
        if (key := self.keys.plain_key_of(id)) is not None:
            full_key = key
        elif (identity := self.mapping.identity(id)) is not None:
            key, full_key = self.keys.key_of(identity)
        else:
            return None
        item: Item
        if self.fence is not None and self.fence.blocks(self.keys.group, key):
            item = FENCED
        else:
            item = self.backend.fetch(self.keys.group, key)
            if isinstance(item, bytes):
                try:
                    row = self._codec.decode(item, full_key)
                except RejectedItemError:
                    pass  # ``ReadThrough`` decodes it again, to count it and take its place.
                else:
                    self.counters.hits.value += 1
                    if row is None:
                        self.counters.negative_hits.value += 1
                    return row
            elif isinstance(item, Lease) and not item.renews and self.backend.bulkhead is None:
                return self._read_through.row_of_miss((id,) if identity is None else identity, full_key, item)
        batch = Batch([id], [key], [full_key], None if identity is None else [identity])
        return self._read_through.rows(batch, [item])[0]

    def _batch(self, ids: Sequence[Any]) -> Batch:
        if (plain := self.keys.plain_keys_of(ids)) is not None:
            keys = [*plain.values()]
            return Batch([*plain], keys, keys)
        by_identity = identities(self.mapping, ids)
        keys, full_keys = self.keys.keys_of([*by_identity])
        return Batch([*by_identity.values()], keys, full_keys, [*by_identity])

    # Rows that a ``load`` listener of the host's refuses

    def _hydrate(self, id: Any, row: Row | None) -> E | None:
        try:
            return None if row is None else self.mapping.hydrate(row)
        except Exception as exc:
            return self._hydrate_committed(id, row, exc)

    def _hydrate_committed(self, id: Any, row: Row | None, exc: Exception) -> E | None:
        """The object of the database's row, after ``exc`` was raised for the row that was read, by a listener or from
        elsewhere.

        If the database has the same row, the error is the host's to see, from here as from there. Otherwise only the
        cache had the row: the item is of no use, and goes.
        """
        if row is not None and not is_repeated(exc, lambda: self.mapping.hydrate(row)):
            raise exc
        identity = self.mapping.identity(id)
        assert identity is not None, id
        key, full_key = self.keys.key_of(identity)
        (current,) = self._read_through.rows(Batch([id], [key], [full_key], [identity]), [BLOCKED])
        if current == row:
            raise exc
        self._read_through.discard(key, RejectedItemError(f"{full_key}: no object can be made of it: {exc}"))
        return None if current is None else self.mapping.hydrate(current)

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


# For a class that is declared when it has a repository already.
_repositories: weakref.WeakSet[CachedRepository[Any]] = weakref.WeakSet()


def _hear_of_declaration(root: type[Any]) -> None:
    for repository in [*_repositories]:
        if repository.mapping.mapper.base_mapper.class_ is root:
            repository._take_ttl()


on_news(_hear_of_declaration)
