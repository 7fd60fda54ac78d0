"""Greenlets that read and write with a time limit, in a process of their own: ``python -m promise.greenlets PLAN``.

``PLAN`` is JSON: the URLs of an empty database and of a cache, the number of rounds, and a seed. gevent's ``Timeout``
comes wherever a socket is waited for, in the drivers and in our own connections. The last line of the output is JSON:
how many operations came to their end, how many were timed out, how many answers were wrong, and examples of those.
"""

# ruff: noqa: E402

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import json
import random
import sys
import time
from typing import Any

import gevent
import sqlalchemy as sa
from sqlalchemy import orm
from support.databases import make_tables

from person_repo.model import Person
from person_repo.service import PersonService, connect

WRITERS = 8
READERS = 8
IDS = [f"person {number}" for number in range(WRITERS)]


class Greenlets:
    """Each of the people has one writer, whose versions rise. Readers ask for what was acknowledged last, and accept
    what is later.
    """

    def __init__(self, people: PersonService, draw: random.Random, rounds: int) -> None:
        self.people = people
        self.draw = draw
        self.rounds = rounds
        self.acknowledged = dict.fromkeys(IDS, 0)
        self.done = self.timed_out = 0
        self.wrong: list[str] = []
        self._sessions = orm.sessionmaker(people.engine)
        began = time.perf_counter()
        for id in IDS:
            self._change(id, 0)
            people.get(id)
        self.seconds = time.perf_counter() - began
        """As long as all the people take, one by one."""

    def _change(self, id: str, version: int) -> None:
        with self._sessions() as session, session.begin():
            session.get_one(Person, id).first_name = str(version)

    def write(self, id: str) -> None:
        for version in range(1, self.rounds + 1):
            with self._limit() as limit:
                try:
                    self._change(id, version)
                    self.acknowledged[id] = version
                    self.done += 1
                except gevent.Timeout as exc:
                    self._is_own(exc, limit)
                except orm.exc.StaleDataError:
                    # The COMMIT before was timed out, and came while this transaction had begun.
                    continue

    def read(self) -> None:
        for _ in range(self.rounds):
            wanted = self.draw.sample(IDS, self.draw.choice([1, 1, 5]))
            least = {id: self.acknowledged[id] for id in wanted}
            with self._limit() as limit:
                try:
                    if len(wanted) == 1:
                        found = {id: self.people.get_one(id) for id in wanted}
                    else:
                        found = self.people.get_many(wanted)
                except gevent.Timeout as exc:
                    self._is_own(exc, limit)
                    continue
            self.done += 1
            late = {
                id: (int(found[id].first_name), least[id]) for id in wanted if int(found[id].first_name) < least[id]
            }
            if late:
                self.wrong.append(f"read and acknowledged: {late}")

    def _limit(self) -> gevent.Timeout:
        """Half of the time none that counts; else one within which a few operations end."""
        return gevent.Timeout(self.draw.choice([60.0, self.draw.expovariate(1 / self.seconds)]))

    def _is_own(self, exc: gevent.Timeout, limit: gevent.Timeout) -> None:
        if exc is not limit:
            raise exc
        self.timed_out += 1

    def judge(self) -> None:
        """Afterwards nothing is stale, asked in any way."""
        with self.people.engine.connect() as connection:
            committed = dict(connection.execute(sa.select(Person.id, Person.first_name)).all())
        for found in (self.people.get_many(IDS), {id: self.people.get_one(id) for id in IDS}):
            answered = {id: person.first_name for id, person in found.items()}
            if answered != committed:
                self.wrong.append(f"afterwards: {answered}, and committed are {committed}")


def main(argument: str) -> None:
    """Runs a plan and prints what was found."""
    plan: dict[str, Any] = json.loads(argument)
    make_tables(plan["database"])
    with connect(plan["database"], plan["cache"]) as people:
        people.add_many(Person(id=id, first_name="0", last_name=id) for id in IDS)
        greenlets = Greenlets(people, random.Random(plan["seed"]), plan["rounds"])
        began = time.monotonic()
        under_way = [gevent.spawn(greenlets.write, id) for id in IDS]
        under_way += [gevent.spawn(greenlets.read) for _ in range(READERS)]
        gevent.joinall(under_way, raise_error=True)
        greenlets.judge()
        found = {
            "done": greenlets.done,
            "timed_out": greenlets.timed_out,
            "wrong": len(greenlets.wrong),
            "examples": greenlets.wrong[:5],
            "hits": people.stats().hits,
            "seconds": time.monotonic() - began,
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
