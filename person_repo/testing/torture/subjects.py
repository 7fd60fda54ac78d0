"""The layers under test: person_repo, and the usual recipe that it is compared with."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

import sqlalchemy as sa
from dogpile.cache import CacheRegion
from sqlalchemy import orm

from person_repo.cache.memcached.backend import MemcachedBackend
from person_repo.cache.region import lease_backend, make_region
from person_repo.model import Person
from person_repo.service import PersonService, connect
from person_repo.testing.torture.plan import Plan

__all__ = ["Naive", "Ours", "Subject", "subject_of"]


class Subject(Protocol):
    """The methods that workers need of a layer under test."""

    def read(self, ids: Sequence[str]) -> list[Person | None]:
        """The people with these ids, in their order."""
        ...

    def session(self) -> orm.Session:
        """A session for one transaction of a writer."""
        ...

    def committed(self, id: str) -> None:
        """A writer's transaction that changed this person has committed."""
        ...

    def hits(self) -> int:
        """How many people the cache has answered."""
        ...

    def close(self) -> None:
        """Closes its connections."""
        ...


def subject_of(plan: Plan, addresses: Mapping[str, str] | None = None) -> Subject:
    """The layer that a plan tests.

    ``addresses``: the address at which this worker reaches a server, by the server's name. The names are the same for
    all workers: they decide which server has a key.
    """
    region = make_region(plan.cache_url, **plan.cache_options)
    if addresses:
        backend = lease_backend(region)
        assert isinstance(backend, MemcachedBackend)
        backend.addresses.update(addresses)
    return Naive(plan, region) if plan.against == "naive" else Ours(connect(plan.database_url, region))


class Ours:
    """person_repo: a writer does nothing but commit."""

    def __init__(self, people: PersonService) -> None:
        self._people = people
        self._sessions = orm.sessionmaker(people.engine)

    def read(self, ids: Sequence[str]) -> list[Person | None]:
        """``get`` for one id, ``get_many`` for several."""
        if len(ids) == 1:
            return [self._people.get(ids[0])]
        people = self._people.get_many(ids)
        return [people.get(id) for id in ids]

    def session(self) -> orm.Session:
        """A session of the service's engine."""
        return self._sessions()

    def committed(self, id: str) -> None:
        """Nothing: the commit has invalidated it."""

    def hits(self) -> int:
        """The service's hits."""
        return self._people.stats().hits

    def close(self) -> None:
        """Closes the service."""
        self._people.close()


class Naive:
    """The usual recipe over a dogpile region: read through and store, delete after the commit.

    A read pauses for a moment before it stores, as any process may, so that a short run shows what a long one would.
    """

    def __init__(self, plan: Plan, region: CacheRegion) -> None:
        self._random = random.Random(plan.seed)
        self._engine = sa.create_engine(plan.database_url)
        self._sessions = orm.sessionmaker(self._engine)
        self._region = region
        self._hits = 0

    def read(self, ids: Sequence[str]) -> list[Person | None]:
        """One by one."""
        return [self._one(id) for id in ids]

    def _one(self, id: str) -> Person | None:
        cached = self._region.get(id)
        if isinstance(cached, list):
            self._hits += 1
            return Person(id, *cached) if cached else None
        with self._sessions() as session:
            person = session.get(Person, id)
            time.sleep(self._random.random() * 0.02)
            self._region.set(id, [person.first_name, person.last_name] if person else [])
            return person

    def session(self) -> orm.Session:
        """A session of an engine that nobody covers."""
        return self._sessions()

    def committed(self, id: str) -> None:
        """Deletes the item."""
        self._region.delete(id)

    def hits(self) -> int:
        """How many people the region had."""
        return self._hits

    def close(self) -> None:
        """Closes the engine's connections."""
        self._engine.dispose()
