"""The layers under test: person_repo, and the usual recipe that it is compared with."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import sqlalchemy as sa
from dogpile.cache import CacheRegion
from sqlalchemy import orm

from person_repo.cache.memcached.backend import MemcachedBackend
from person_repo.cache.region import lease_backend, make_region
from person_repo.model import Person
from person_repo.service import Service
from person_repo.testing.torture.plan import Plan
from person_repo.testing.torture.rows import Row, classes_of
from person_repo.testing.torture.worlds import engine_in

__all__ = ["Naive", "Ours", "Subject", "subject_of"]


class Subject(Protocol):
    """The methods that workers need of a layer under test."""

    def read(self, rows: Sequence[Row]) -> list[Any]:
        """The objects of these rows, None for one that is not there, in their order."""
        ...

    def session(self) -> orm.Session:
        """A session for one transaction of a writer."""
        ...

    def committed(self, row: Row) -> None:
        """A writer's transaction that changed this row has committed."""
        ...

    def hits(self) -> int:
        """How many rows the cache has answered."""
        ...

    def close(self) -> None:
        """Closes its connections."""
        ...


def subject_of(plan: Plan, number: int, addresses: Mapping[str, str] | None = None) -> Subject:
    """The layer that a plan tests, for the worker with a number.

    ``addresses``: the address at which this worker reaches a server, by the server's name. The names are the same for
    all workers: they decide which server has a key.
    """
    region = make_region(plan.cache_url, **plan.cache_options)
    if addresses:
        backend = lease_backend(region)
        assert isinstance(backend, MemcachedBackend)
        backend.addresses.update(addresses)
    engine = engine_in(plan.world, plan.database_url, number)
    return Naive(plan, engine, region) if plan.against == "naive" else Ours(plan, engine, region)


class Ours:
    """person_repo: a writer does nothing but commit."""

    def __init__(self, plan: Plan, engine: sa.Engine, region: CacheRegion) -> None:
        self._engine = engine
        self._sessions = orm.sessionmaker(engine)
        classes = classes_of(plan.prefix)
        self._services: dict[Any, Service[Any]] = {
            root: Service.over(root, self._sessions, region) for root in (Person, classes.note, classes.animal)
        }

    def read(self, rows: Sequence[Row]) -> list[Any]:
        """``get`` for one row, ``get_many`` for several."""
        if len(rows) == 1:
            return [self._services[rows[0].root].get(rows[0].id)]
        found: dict[tuple[Any, Any], Any] = {}
        for root, service in self._services.items():
            ids = [row.id for row in rows if row.root is root]
            found.update(((root, id), entity) for id, entity in service.get_many(ids).items())
        return [found.get((row.root, row.id)) for row in rows]

    def session(self) -> orm.Session:
        """A session of the services' engine."""
        return self._sessions()

    def committed(self, row: Row) -> None:
        """Nothing: the commit has invalidated it."""

    def hits(self) -> int:
        """The services' hits."""
        return sum(service.stats().hits for service in self._services.values())

    def close(self) -> None:
        """Closes the services and the engine's connections."""
        for service in self._services.values():
            service.close()
        self._engine.dispose()


class Naive:
    """The usual recipe over a dogpile region: read through and store, delete after the commit.

    A read pauses for a moment before it stores, as any process may, so that a short run shows what a long one would.
    """

    def __init__(self, plan: Plan, engine: sa.Engine, region: CacheRegion) -> None:
        self._random = random.Random(plan.seed)
        self._engine = engine
        self._sessions = orm.sessionmaker(self._engine)
        self._region = region
        self._hits = 0

    def read(self, rows: Sequence[Row]) -> list[Any]:
        """One by one."""
        return [self._one(row) for row in rows]

    def _one(self, row: Row) -> Any:
        known = self._region.get(self._key(row))
        if isinstance(known, list):
            self._hits += 1
            return row.new(known[0]) if known else None
        with self._sessions() as session:
            entity = session.get(row.entity, row.id)
            time.sleep(self._random.random() * 0.02)
            self._region.set(self._key(row), [getattr(entity, row.attribute)] if entity else [])
            return entity

    @staticmethod
    def _key(row: Row) -> str:
        return f"{row.table.name}-{row.id}"

    def session(self) -> orm.Session:
        """A session of an engine that nobody covers."""
        return self._sessions()

    def committed(self, row: Row) -> None:
        """Deletes the item."""
        self._region.delete(self._key(row))

    def hits(self) -> int:
        """How many rows the region had."""
        return self._hits

    def close(self) -> None:
        """Closes the engine's connections."""
        self._engine.dispose()
