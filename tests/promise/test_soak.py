"""A day of an application in short, with outages: its memory, files, threads and objects do not grow.

``PERSON_REPO_SOAK`` is the number of operations, where it is set; ``PERSON_REPO_SOAK_LOG`` names a file to which every
sample is added. The promise is judged on the way: each person has one thread that writes it.
"""

from __future__ import annotations

import gc
import itertools
import logging
import os
import random
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from support.proofs import amount, is_sample
from support.servers import Memcached
from support.urls import patient_url

from person_repo.cache.region import make_region
from person_repo.exceptions import EntityExistsError
from person_repo.model import FENCE, Base, Person
from person_repo.service import PersonService

OPERATIONS = int(os.environ.get("PERSON_REPO_SOAK", "0"))
LOG = os.environ.get("PERSON_REPO_SOAK_LOG")
THREADS = 4
PEOPLE = 50
"""People that each thread writes."""

GROWTH = {"memory": 16_384, "blocks": 2_500, "files": 4, "threads": 0, "objects": 60, "entries": 150}
"""How much more the later samples may have, at the median."""

MEASURABLE = 100_000
"""The operations from which on memory is judged. In fewer, a leak that Python's blocks do not show is smaller than one
step of the allocator in a process that has run other tests.
"""

# Deadlock, and a lock waited for too long: gaps between the keys of several threads are locked, too.
_CONTENDED = {1205, 1213}


class Sample(NamedTuple):
    """A look at the process: ``memory`` in KB; ``blocks`` that Python has allocated; ``objects`` of our classes, and
    ``entries`` in their containers.
    """

    operations: int
    seconds: float
    memory: int
    blocks: int
    files: int
    threads: int
    objects: int
    entries: int


def sample(operations: int, seconds: float) -> Sample:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    ours = [each for each in gc.get_objects() if str(type(each).__module__).startswith("person_repo")]
    modules = [vars(module) for name, module in list(sys.modules.items()) if name.startswith("person_repo")]
    entries = sum(_length(value) for values in (*map(_attributes, ours), *modules) for value in list(values.values()))
    return Sample(
        operations,
        round(seconds, 1),
        pages * os.sysconf("SC_PAGE_SIZE") // 1024,
        sys.getallocatedblocks(),
        len(os.listdir("/proc/self/fd")),
        threading.active_count(),
        len(ours),
        entries,
    )


def _attributes(thing: Any) -> dict[str, Any]:
    slots = [name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ())]
    return {**getattr(thing, "__dict__", {}), **{name: getattr(thing, name, None) for name in slots}}


def _length(value: Any) -> int:
    sized = hasattr(value, "__len__") and not isinstance(value, (str, bytes, type))
    try:
        return len(value) if sized else 0
    except Exception:  # a class of somebody else's whose length means something else
        return 0


class Soak:
    """Several threads at everything, and servers that fail now and then."""

    def __init__(self, people: PersonService, servers: list[Memcached], operations: int, draw: random.Random) -> None:
        self.people = people
        self.draw = draw
        self.servers = servers
        self.operations = operations
        self.samples: list[Sample] = []
        self.wrong: list[str] = []
        self.outages = 0
        self._tickets = itertools.count(1)
        self._chance = threading.Lock()
        self._began = time.monotonic()
        self._acknowledged = {self.id(thread, n): 0 for thread in range(THREADS) for n in range(PEOPLE)}
        self._every = max(operations // 20, 400) if operations < 1_000_000 else 50_000
        self._sampled = max(operations // 20, 1) if operations < 1_000_000 else 100_000
        self._outage = min(self._every // 2, 500)

    @staticmethod
    def id(thread: int, number: int) -> str:
        return f"t{thread}-{number}"

    def run(self) -> None:
        with ThreadPoolExecutor(THREADS) as pool:
            for done in [pool.submit(self._work, thread) for thread in range(THREADS)]:
                done.result()

    def _work(self, thread: int) -> None:
        one = Worker(self, thread)
        while not self.wrong and (ticket := next(self._tickets)) <= self.operations:
            one.operate()
            self._disturb(ticket)

    def _disturb(self, ticket: int) -> None:
        """Outages by the number of operations, not by the clock: begun, and ended at most 500 operations later."""
        outage, since = divmod(ticket, self._every)
        server = self.servers[outage % len(self.servers)]
        if since == 0 and outage % 3 == 0:
            with self._chance:
                self.outages += 1
                server.restart()
        elif since in (0, self._outage) and outage:
            with self._chance:
                self.outages += since == 0
                (server.resume if since else server.pause)()
        if ticket % self._sampled == 0:
            self._note(sample(ticket, time.monotonic() - self._began))

    def _note(self, found: Sample) -> None:
        with self._chance:
            self.samples.append(found)
            if LOG:
                with open(LOG, "a", encoding="utf-8") as log:
                    log.write(f"{found} outages={self.outages} {self.people.stats()}\n")

    def acknowledge(self, id: str, number: int) -> None:
        self._acknowledged[id] = number

    def acknowledged(self, id: str) -> int:
        return self._acknowledged[id]

    def judge(self, id: str, found: Person | None, least: int) -> None:
        """A person's numbers only grow, so what is read is never less than what was acknowledged before."""
        if found is not None and int(found.first_name) < least:
            self.wrong.append(f"{id} is {found.first_name}, and {least} was acknowledged before")


class Worker:
    """One thread's reads of everybody, and writes of its own people."""

    def __init__(self, soak: Soak, thread: int) -> None:
        self._soak = soak
        self._thread = thread
        self._people = soak.people
        self._random = random.Random(soak.draw.getrandbits(64))
        self._mine: dict[str, int | None] = {soak.id(thread, n): None for n in range(PEOPLE)}
        """The number that each person of this thread's has; None where there is no such person."""
        self._numbers = itertools.count(1)
        self._choices: list[Callable[[], None]] = [
            *[self.get] * 700,
            *[self.get_mine] * 100,
            *[self.get_many] * 80,
            *[self.get_nobody] * 60,
            *[self.write] * 40,
            *[self.drop] * 1,
            *[self.invalidate] * 2,
            *[self.toggle] * 2,
            *[self.look_around] * 1,
        ]
        self._writes: list[Callable[[str, int], bool]] = [
            self.by_service, self.by_session, self.by_core, self.by_criteria, self.by_savepoints, self.in_autocommit,
            self.in_two_phases, self.rolled_back, self.by_bound_session, self.refused, self.deleted, self.deleted,
        ]  # fmt: skip

    def operate(self) -> None:
        self._random.choice(self._choices)()

    def _anybody(self) -> str:
        return self._soak.id(self._random.randrange(THREADS), self._random.randrange(PEOPLE))

    # Reads

    def get(self) -> None:
        id = self._anybody()
        least = self._soak.acknowledged(id)
        self._soak.judge(id, self._people.get(id), least)

    def get_mine(self) -> None:
        id = self._random.choice(list(self._mine))
        found = self._people.get(id)
        number = None if found is None else int(found.first_name)
        if number != self._mine[id]:
            self._soak.wrong.append(f"{id} is {number}, and was made {self._mine[id]}")

    def get_many(self) -> None:
        ids = [self._anybody() for _ in range(10)]
        least = {id: self._soak.acknowledged(id) for id in ids}
        found = self._people.get_many(ids)
        for id in ids:
            self._soak.judge(id, found.get(id), least[id])

    def get_nobody(self) -> None:
        assert self._people.get(f"nobody-{self._random.randrange(100)}") is None

    def look_around(self) -> None:
        self._people.list(limit=5)
        self._people.stats()

    # Writes

    def write(self) -> None:
        id = self._random.choice(list(self._mine))
        number = next(self._numbers)
        way = self.added if self._mine[id] is None else self._random.choice(self._writes)
        try:
            written = way(id, number)
        except sa.exc.OperationalError as exc:
            if exc.orig is None or exc.orig.args[0] not in _CONTENDED:
                raise
            return
        if written:
            self._mine[id] = number
            self._soak.acknowledge(id, number)

    def added(self, id: str, number: int) -> bool:
        self._people.add(Person(id=id, first_name=str(number), last_name="added"))
        return True

    def by_service(self, id: str, number: int) -> bool:
        return self._people.update(id, first_name=str(number)) is not None

    def by_session(self, id: str, number: int) -> bool:
        with orm.Session(self._people.engine) as session, session.begin():
            session.get_one(Person, id).first_name = str(number)
        return True

    def by_core(self, id: str, number: int) -> bool:
        with self._people.engine.begin() as connection:
            connection.execute(sa.update(Person.__table__).where(Person.id == id).values(first_name=str(number)))
        return True

    def by_criteria(self, id: str, number: int) -> bool:
        with orm.Session(self._people.engine) as session, session.begin():
            session.execute(
                sa.update(Person).where(Person.id.like(f"{id}%"), Person.id == id).values(first_name=number)
            )
        return True

    def by_savepoints(self, id: str, number: int) -> bool:
        with orm.Session(self._people.engine) as session, session.begin():
            person = session.get_one(Person, id)
            person.first_name = str(number)
            with session.begin_nested() as savepoint:
                person.last_name = "lost"
                session.flush()
                savepoint.rollback()
        return True

    def in_autocommit(self, id: str, number: int) -> bool:
        with self._people.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(sa.update(Person.__table__).where(Person.id == id).values(first_name=str(number)))
        return True

    def in_two_phases(self, id: str, number: int) -> bool:
        with orm.Session(self._people.engine, twophase=True) as session:
            session.get_one(Person, id).first_name = str(number)
            session.prepare()
            if number % 2:
                session.rollback()
                return False
            session.commit()
        return True

    def rolled_back(self, id: str, number: int) -> bool:
        with orm.Session(self._people.engine) as session:
            session.get_one(Person, id).first_name = "-1"
            session.flush()
            session.rollback()
        return False

    def by_bound_session(self, id: str, number: int) -> bool:
        with orm.Session(self._people.engine) as session, session.begin():
            self._people.bind(session).update(id, first_name=str(number))
        return True

    def refused(self, id: str, number: int) -> bool:
        with pytest.raises(EntityExistsError):
            self._people.add(Person(id=id, first_name=str(number), last_name="again"))
        return False

    def deleted(self, id: str, number: int) -> bool:
        self._people.delete(id)
        self._mine[id] = None
        return False

    def drop(self) -> None:
        """Changes by SQL text, whose rows cannot be known."""
        changed = {id: next(self._numbers) for id, number in list(self._mine.items())[:3] if number is not None}
        try:
            with self._people.engine.begin() as connection:
                for id, number in changed.items():
                    text = sa.text("UPDATE person SET first_name = :name WHERE id = :id")
                    connection.execute(text, {"name": str(number), "id": id})
        except sa.exc.OperationalError as exc:
            if exc.orig is None or exc.orig.args[0] not in _CONTENDED:
                raise
            return
        for id, number in changed.items():
            self._mine[id] = number
            self._soak.acknowledge(id, number)

    def invalidate(self) -> None:
        if self._random.random() < 0.2:
            self._people.invalidate_all()
        else:
            self._people.invalidate(self._anybody(), self._anybody())

    def toggle(self) -> None:
        self._people.use_db = not self._people.use_db
        with self._people.using(use_db=True):
            self.get()
        self._people.use_db = False


@pytest.fixture
def nobody_keeps_the_log() -> Iterator[None]:
    """pytest keeps all log records, with their errors and everything that these refer to."""
    ours = logging.getLogger("person_repo")
    ours.setLevel(logging.CRITICAL)
    yield
    ours.setLevel(logging.NOTSET)


@pytest.fixture
def people(mysql_url: str, memcached_servers: list[Memcached]) -> Iterator[PersonService]:
    engine = sa.create_engine(mysql_url, pool_size=THREADS)
    Base.metadata.create_all(engine)
    impatient = {"timeout": 0.25, "connect_timeout": 0.25, "tombstone_ttl": 2, "lease_ttl": 1}
    url = patient_url(memcached_servers, **impatient, fence_interval=0.2, breaker_reset=0.2)
    region = make_region(url)
    with PersonService.over(engine, region) as people:
        yield people
    engine.dispose()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="what a process holds is read from /proc")
@pytest.mark.usefixtures("nobody_keeps_the_log")
@pytest.mark.timeout(max(600, OPERATIONS // 50))
@pytest.mark.proof(name="soak", sample=1, again=True)
def test_what_a_process_holds_does_not_grow(
    people: PersonService, memcached_servers: list[Memcached], draw: random.Random, request: pytest.FixtureRequest
) -> None:
    operations = OPERATIONS or (5_000 if is_sample(request.config) else 20_000)
    soak = Soak(people, memcached_servers, operations, draw)
    soak.run()
    for server in memcached_servers:
        server.resume()

    assert soak.wrong == []
    assert soak.outages > 5
    stats = people.stats()
    assert min(stats.hits, stats.negative_hits, stats.misses, stats.tombstones, stats.model_drops, stats.fenced) > 0
    warm = sorted(soak.samples)[len(soak.samples) // 3 :]
    early, late = warm[: len(warm) // 2], warm[len(warm) // 2 :]
    for name, more in GROWTH.items():
        if name == "memory" and operations < MEASURABLE:
            continue
        before, after = ([getattr(each, name) for each in part] for part in (early, late))
        assert statistics.median(after) <= statistics.median(before) + more, (name, before, after)

    while people.deliver():
        time.sleep(0.05)
    with people.read_engine.connect() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(FENCE)).scalar_one() == 0
    amount(request, operations=operations)
