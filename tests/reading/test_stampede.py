"""A cold cache and everybody at once: each person is loaded once, and at most ``max_loads`` loads are under way."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
import sqlalchemy as sa
from support.forks import forking, running_in_child
from support.servers import Memcached

from person_repo.cache.region import lease_backend, make_region
from person_repo.exceptions import OverloadError
from person_repo.model import Base, Person
from person_repo.service import PersonService, connect

IDS = [f"p{n}" for n in range(6)]


def loads_on(engine: sa.Engine) -> list[str]:
    """The ids that the database is asked for; the list grows with every load."""
    asked: list[str] = []

    def record(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        if "FROM person" in statement and "fence" not in statement:
            values = parameters.values() if isinstance(parameters, dict) else parameters
            asked.extend(str(value) for value in values)

    sa.event.listen(engine, "before_cursor_execute", record)
    return asked


@forking
@pytest.mark.parametrize("read", ["get", "get_many"])
def test_of_all_the_threads_of_all_processes_one_loads_each_person(
    database_url: str, memcached_servers: list[Memcached], read: str
) -> None:
    processes, threads = 3, 8
    cache_url = f"memcached://{','.join(server.url for server in memcached_servers)}?wait=60&lease_ttl=60&timeout=10"
    ready = multiprocessing.Barrier(processes * threads)

    def read_everybody(people: PersonService, at: int) -> None:
        turned = [*IDS[at % len(IDS) :], *IDS[: at % len(IDS)]]
        ready.wait(60)
        found = people.get_many(turned) if read == "get_many" else {id: people.get_one(id) for id in turned}
        assert {id: each.first_name for id, each in found.items()} == {id: id for id in IDS}

    def process() -> str:
        with connect(database_url, cache_url) as people:
            people.get_many(["stranger"])
            asked = loads_on(people.read_engine)
            with ThreadPoolExecutor(threads) as pool:
                for done in [pool.submit(read_everybody, people, at) for at in range(threads)]:
                    done.result()
            return ",".join(asked)

    with connect(database_url, cache_url) as people:
        Base.metadata.create_all(people.engine)
        people.add_many(Person(id=id, first_name=id, last_name="") for id in IDS)
    with ExitStack() as running:
        said = [running.enter_context(running_in_child(process)) for _ in range(processes)]
    loaded = Counter(id for each in said for id in each().split(",") if id)

    assert loaded == dict.fromkeys(IDS, 1)


class Gate:
    """Holds every load on an engine until it is opened. ``here``: the loads held now; ``most``: the most at a time."""

    def __init__(self, engine: sa.Engine) -> None:
        self._lock = threading.Lock()
        self._open = threading.Event()
        self._came = threading.Semaphore(0)
        self.here = self.most = 0
        self.asked = loads_on(engine)
        sa.event.listen(engine, "before_cursor_execute", self._enter)
        sa.event.listen(engine, "after_cursor_execute", self._leave)

    def _enter(self, _connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if "FROM person" not in statement or "fence" in statement:
            return
        with self._lock:
            self.here += 1
            self.most = max(self.most, self.here)
        self._came.release()
        assert self._open.wait(60)

    def _leave(self, _connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if "FROM person" in statement and "fence" not in statement:
            with self._lock:
                self.here -= 1

    def await_loads(self, count: int) -> None:
        for _ in range(count):
            assert self._came.acquire(timeout=60)

    def open(self) -> None:
        self._open.set()


@pytest.fixture
def world(people_engine: sa.Engine, cache_url: str) -> Iterator[Callable[..., tuple[PersonService, Gate]]]:
    opened = ExitStack()

    def make(**options: Any) -> tuple[PersonService, Gate]:
        people = opened.enter_context(PersonService.over(people_engine, make_region(cache_url, timeout=10, **options)))
        people.add_many(Person(id=id, first_name=id, last_name="") for id in IDS)
        people.get("stranger")
        gate = Gate(people.read_engine)
        opened.callback(gate.open)
        return people, gate

    with opened:
        yield make


def await_queue(people: PersonService, length: int) -> None:
    """Returns once so many threads load or queue for a load."""
    bulkhead = lease_backend(people.region).bulkhead
    assert bulkhead is not None
    until = threading.Event()
    for _ in range(6000):
        if len(bulkhead._tickets.get(os.getpid(), {})) == length:
            return
        until.wait(0.01)
    raise AssertionError(f"there are {bulkhead._tickets}")


def test_no_more_loads_are_under_way_than_max_loads(world: Callable[..., tuple[PersonService, Gate]]) -> None:
    people, gate = world(max_loads=2, max_load_wait=60)
    with ThreadPoolExecutor(6) as pool:
        ways = [people.get_one, lambda id: people.get_many([id])[id]]
        reading = [pool.submit(ways[n % 2], id) for n, id in enumerate(IDS)]
        gate.await_loads(2)
        await_queue(people, 6)
        assert gate.here == 2
        gate.open()
        assert [done.result().first_name for done in reading] == IDS
    assert gate.most == 2
    assert sorted(gate.asked) == IDS


def test_without_a_bound_all_load_at_once(world: Callable[..., tuple[PersonService, Gate]]) -> None:
    people, gate = world()
    with ThreadPoolExecutor(6) as pool:
        reading = [pool.submit(people.get_one, id) for id in IDS]
        gate.await_loads(6)
        gate.open()
        assert [done.result().first_name for done in reading] == IDS


@pytest.mark.parametrize("read", ["get", "get_many"])
def test_a_reader_that_queued_takes_the_value_that_another_has_filled_meanwhile(
    world: Callable[..., tuple[PersonService, Gate]], read: str
) -> None:
    people, gate = world(max_loads=1, max_load_wait=60, wait=0, lease_ttl=60)

    def once(id: str) -> Person:
        return people.get_one(id) if read == "get" else people.get_many([id])[id]

    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(once, "p0")
        gate.await_loads(1)
        others: list[Future[Person]] = [pool.submit(once, "p0") for _ in range(3)]
        await_queue(people, 4)
        before = people.stats()
        gate.open()
        assert [done.result().first_name for done in [first, *others]] == ["p0"] * 4
    assert gate.asked == ["p0"]
    assert (people.stats() - before).hits == 3


@pytest.mark.parametrize("read", ["get", "get_many"])
def test_the_error_of_queueing_too_long_names_limit_and_remedy_and_no_lease_stays(
    world: Callable[..., tuple[PersonService, Gate]], read: str
) -> None:
    people, gate = world(max_loads=1, max_load_wait=0.02, lease_ttl=60)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(people.get_one, "p0")
        gate.await_loads(1)
        for _ in range(2):
            with pytest.raises(
                OverloadError, match=r"1 loads .*\(max_loads\) .* 0.02 s \(max_load_wait\); give either"
            ):
                people.get("p1") if read == "get" else people.get_many(["p1", "p2"])
        gate.open()
        assert first.result().first_name == "p0"
    before = people.stats()
    assert people.get_one("p1").first_name == "p1"
    assert (people.stats() - before).misses == 1, "the lease was given back"


def test_a_bound_is_set_by_a_url_too() -> None:
    settings = lease_backend(make_region("memory://?max_loads=2&max_load_wait=0.5")).settings
    assert (settings.max_loads, settings.max_load_wait) == (2, 0.5)
    assert lease_backend(make_region("memory://")).bulkhead is None
