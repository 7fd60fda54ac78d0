"""A day of an application in short, with outages, in a process of its own: ``python -m promise.soak PLAN``.

``PLAN`` is JSON: the URL of an empty database, the number of operations, a seed, and a file for the samples or null.
The last line of the output is JSON: the samples, what was wrong, how many outages there were, the counters, and the
rows that are left in the fence. The process does nothing else, so what it holds is ours or the libraries'.
"""

from __future__ import annotations

import gc
import itertools
import json
import os
import random
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import orm
from support.servers import Memcached, memcached
from support.urls import patient_url

from person_repo.cache.region import make_region
from person_repo.exceptions import EntityExistsError
from person_repo.model import FENCE, Base, Person
from person_repo.service import PersonService

THREADS = 4
PEOPLE = 50
"""People that each thread writes."""

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

    def __init__(
        self, people: PersonService, servers: list[Memcached], operations: int, draw: random.Random, log: str | None
    ) -> None:
        self.people = people
        self.draw = draw
        self._log = log
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
            if self._log:
                with open(self._log, "a", encoding="utf-8") as log:
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
            *[self.drop] * 4,
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
        try:
            self._people.add(Person(id=id, first_name=str(number), last_name="again"))
        except EntityExistsError:
            return False
        raise AssertionError(f"{id} was added twice")

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


def main(plan: str) -> None:
    """Runs a plan and prints what was found."""
    wanted = json.loads(plan)
    engine = sa.create_engine(wanted["database"], pool_size=THREADS)
    Base.metadata.create_all(engine)
    impatient = {"timeout": 0.25, "connect_timeout": 0.25, "tombstone_ttl": 2, "lease_ttl": 1}
    with memcached(3) as servers:
        region = make_region(patient_url(servers, **impatient, fence_interval=0.2, breaker_reset=0.2))
        with PersonService.over(engine, region) as people:
            soak = Soak(people, servers, wanted["operations"], random.Random(wanted["seed"]), wanted["log"])
            soak.run()
            for server in servers:
                server.resume()
            while people.deliver():
                time.sleep(0.05)
            with people.read_engine.connect() as connection:
                fenced = connection.scalar(sa.select(sa.func.count()).select_from(FENCE))
            found = {
                "samples": [each._asdict() for each in soak.samples],
                "wrong": soak.wrong,
                "outages": soak.outages,
                "stats": asdict(people.stats()),
                "fenced": fenced,
            }
    engine.dispose()
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
