"""A cached repository whose reads can be watched: by a clock that only waiting moves, and by what they cost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa
from sqlalchemy import orm

from person_repo.cache.bulkhead import Bulkhead
from person_repo.cache.contract import Lease
from person_repo.cache.region import lease_backend, make_region
from person_repo.database.repository import SQLAlchemyRepository
from person_repo.exceptions import OverloadError
from person_repo.mapped.codec import Codec
from person_repo.model import Person
from person_repo.observability.counters import Stats
from person_repo.reading.cached import CachedRepository
from person_repo.writing.coverage import Part, cover_all

__all__ = [
    "IDS",
    "READS",
    "Bench",
    "Cost",
    "Queue",
    "Read",
    "Statements",
    "Time",
    "either_way",
    "failing",
    "person",
    "saturated",
    "servers_of",
]

Statements = Callable[..., AbstractContextManager[list[str]]]
IDS = [f"p{number:03}" for number in range(100)]

Read = Callable[[Any], Any]
READS: dict[str, Read] = {
    "get": lambda people: people.get("ada"),
    "get_many": lambda people: people.get_many(["ada"]).get("ada"),
}
either_way = pytest.mark.parametrize("read", READS.values(), ids=READS)
"""A test of Ada, read by ``get`` and by ``get_many``."""


def person(id: str = "ada", first_name: str = "Ada", last_name: str = "Lovelace") -> Person:
    return Person(id=id, first_name=first_name, last_name=last_name)


class Time:
    """A clock that only waiting moves forward; ``meanwhile`` is called at each wait."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.meanwhile: Callable[[], object] = lambda: None

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.meanwhile()

    @property
    def waited(self) -> float:
        return self.now - 1000.0


class Cost(NamedTuple):
    round_trips: int
    queries: int


class Bench:
    """A cached repository of people whose costs can be taken, and another process's view of its cache.

    Leases outlive any test, however slow the machine.
    """

    def __init__(
        self, sessions: orm.sessionmaker[orm.Session], cache_url: str, statements: Statements, entity: type = Person
    ) -> None:
        self.time = Time()
        if "lease_ttl" not in cache_url:  # the default is too short for a busy machine
            cache_url += f"{'&' if '?' in cache_url else '?'}lease_ttl=600"
        self.database = SQLAlchemyRepository[Any](entity, sessions)
        self.people = CachedRepository[Any](
            self.database, make_region(cache_url), sleep=self.time.sleep, clock=self.time.clock
        )
        self.sessions = sessions
        self.mapping = self.people.mapping
        self.backend = self.people.backend
        other = cache_url.startswith("memory")
        self.elsewhere = self.backend if other else lease_backend(make_region(cache_url))
        self.group = self.people.keys.group
        self._codec = Codec(self.mapping, self.people.keys.location)
        self._statements = statements
        cover_all(self.database.engine, [Part(self.mapping, self.backend)])

    def key(self, *identity: Any) -> str:
        return self.people.keys.key_of(identity)[0]

    def lease(self, *identity: Any) -> Lease:
        """The right to fill an item, taken by another reader."""
        found = self.elsewhere.fetch(self.group, self.key(*identity))
        assert isinstance(found, Lease), found
        return found

    def put(self, item: bytes, *identity: Any) -> None:
        """Puts an item where another reader would have put its own."""
        assert self.elsewhere.fill(self.lease(*identity), item)

    def item(self, *identity: Any) -> bytes:
        """The item as another reader finds it."""
        found = self.elsewhere.fetch(self.group, self.key(*identity))
        assert isinstance(found, bytes), found
        return found

    def encoded(self, id: str, first_name: str = "Ada", last_name: str = "Lovelace") -> bytes:
        """The item of a person, as another reader would store it."""
        return self._codec.encode(self.people.keys.key_of((id,))[1], (id, first_name, last_name, 1))

    def absent(self, id: str) -> bytes:
        """The item of a known absence."""
        return self._codec.encode(self.people.keys.key_of((id,))[1], None)

    def of_another_schema(self, id: str) -> bytes:
        """The item of a person, as code with another version of the model would store it."""
        header = self._codec.header
        return self.encoded(id).replace(header.encode(), header[::-1].encode())

    @contextmanager
    def spent(self) -> Iterator[Callable[[], Cost]]:
        """The cost of the block, to be asked for after it; that of the database is of both engines."""
        before = self.people.stats()
        cost: list[Cost] = []
        with self._statements(self.database.engine, self.database.read_engine) as seen:
            yield lambda: cost[0]
            cost.append(Cost((self.people.stats() - before).round_trips, len(seen)))

    def did(self, use: Callable[[], object]) -> Stats:
        before = self.people.stats()
        use()
        return self.people.stats() - before

    def close(self) -> None:
        self.people.close()
        self.database.close()
        self.elsewhere.close()


def servers_of(bench: Bench) -> int:
    return len(getattr(bench.backend, "servers", ("memory",)))


class Queue(Bulkhead):
    """A bulkhead in which every load has to wait for its turn, while something happens."""

    def __init__(self, meanwhile: Callable[[], object]) -> None:
        super().__init__(1, 60)
        self._meanwhile = meanwhile

    @contextmanager
    def entered(self, *, may_wait: bool = True) -> Iterator[bool]:
        if not may_wait:
            raise OverloadError("no turn")
        self._meanwhile()
        yield True


@contextmanager
def saturated(bench: Bench) -> Iterator[None]:
    """Another thread's load is under way, and no other may be."""
    bulkhead = bench.backend.bulkhead
    assert bulkhead is not None
    begun, over = threading.Event(), threading.Event()

    def load() -> None:
        with bulkhead.entered():
            begun.set()
            assert over.wait(60)

    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(load)
        assert begun.wait(60)
        try:
            yield
        finally:
            over.set()
            loading.result()


@contextmanager
def failing(bench: Bench, error: BaseException | None = None) -> Iterator[None]:
    """Every load raises; by default as if the database were gone."""
    loader: Any = bench.database.loader
    before = loader.one, loader.many

    def fail(_: object) -> Any:
        raise error or sa.exc.OperationalError("SELECT", {}, Exception("the database is gone"))

    loader.one = loader.many = fail
    try:
        yield
    finally:
        loader.one, loader.many = before
