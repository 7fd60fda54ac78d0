"""One version of the package at work, in a process of its own: runs batches of a case on command.

``against`` runs this file as a script, with the folder of the version on ``PYTHONPATH``. It imports nothing that only
one version has, so the cases use public names alone. Commands come as lines of JSON on standard input, and each is
answered by one line on standard output.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

import sqlalchemy as sa
from pymemcache.client.base import Client  # type: ignore[import-untyped]
from sqlalchemy import orm

import person_repo
from person_repo import Person, PersonService, make_region, migrations

PEOPLE = 1_000
# Seconds. Deadlines that no busy machine and no valgrind misses; the fence is polled once, when a case begins.
_OPTIONS = {"timeout": 60, "connect_timeout": 60, "fence_interval": 60}

Item = Any


@dataclass(frozen=True)
class Case:
    """One operation: ``call`` does it for one item, ``prepare`` makes some items ready before the clock runs."""

    call: Callable[[Item], object]
    items: Sequence[Item]
    prepare: Callable[[Sequence[Item]], object] = lambda items: None


class Desk:
    """This version's database, filled, and its cases, each made at its first use."""

    def __init__(self, database: str, cache: str, namespace: str) -> None:
        self._cache = cache
        self._namespace = namespace
        migrations.upgrade(database)
        self._engine = sa.create_engine(database)
        self._sessions = orm.sessionmaker(self._engine)
        self._ids = [f"person-{number:07d}" for number in range(PEOPLE)]
        with self._engine.begin() as connection:
            connection.execute(sa.insert(Person), [
                {"id": id, "first_name": "Ada", "last_name": "Lovelace", "version": 1} for id in self._ids
            ])  # fmt: skip
        self._cases: dict[str, Case] = {}
        self._cached = self._service(cache)

    def case(self, name: str) -> Case:
        """The case of a name."""
        if name not in self._cases:
            self._cases[name] = (CASES | PEERS)[name](self)
        return self._cases[name]

    def _service(self, cache: str, *, use_db: bool = False) -> PersonService:
        region = make_region(cache, namespace=self._namespace, **_OPTIONS)
        people = PersonService.over(self._sessions, region, use_db=use_db)
        people.get_many(self._ids)
        return people

    def _hundreds(self) -> list[tuple[str, ...]]:
        """Batches that share no id with the next nine."""
        return [tuple(self._ids[start::10]) for start in range(10)]

    def hit(self) -> Case:
        """``get`` of one person whom memcached has."""
        return Case(self._cached.get, self._ids, self._cached.get_many)

    def hits_100(self) -> Case:
        """``get_many`` of a hundred people whom memcached has."""
        return Case(self._cached.get_many, self._hundreds(), self._get_all)

    def _get_all(self, batches: Sequence[tuple[str, ...]]) -> None:
        for ids in batches:
            self._cached.get_many(ids)

    def miss(self) -> Case:
        """``get`` of one person whom the cache does not have: lease, load, fill."""
        return Case(self._cached.get, self._ids, lambda ids: self._cached.invalidate(*ids))

    def misses_100(self) -> Case:
        """``get_many`` of a hundred people whom the cache does not have."""
        return Case(self._cached.get_many, self._hundreds(), self._invalidate_all)

    def _invalidate_all(self, batches: Sequence[tuple[str, ...]]) -> None:
        for ids in batches:
            self._cached.invalidate(*ids)

    def commit(self) -> Case:
        """``commit()`` of a session with one changed person: the UPDATE of its flush, tombstones, COMMIT, release."""
        opened: dict[str, orm.Session] = {}

        def prepare(ids: Sequence[str]) -> None:
            self._cached.get_many(ids)
            for id in ids:
                session = opened[id] = self._sessions()
                person = session.get_one(Person, id)
                person.last_name = person.last_name[::-1]

        def call(id: str) -> None:
            with opened.pop(id) as session:
                session.commit()

        return Case(call, self._ids, prepare)

    def commit_elsewhere(self) -> Case:
        """A transaction on the covered engine that changes a row of a table that no cache knows."""
        orders = sa.Table(
            "orders",
            sa.MetaData(),
            sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("total", sa.Integer),
        )
        orders.create(self._engine)
        with self._engine.begin() as connection:
            connection.execute(sa.insert(orders), [{"id": number, "total": 0} for number in range(100)])
        change = sa.update(orders).where(orders.c.id == sa.bindparam("number")).values(total=orders.c.total + 1)

        def call(number: int) -> None:
            with self._sessions() as session:
                session.execute(change, {"number": number})
                session.commit()

        return Case(call, range(100))

    def memory(self) -> Case:
        """``get`` of one person whom a memory region has."""
        return Case(self._service("memory://").get, self._ids)

    def memory_100(self) -> Case:
        """``get_many`` of a hundred people whom a memory region has."""
        return Case(self._service("memory://").get_many, self._hundreds())

    def use_db(self) -> Case:
        """``get`` of one person from the database, with ``use_db``."""
        return Case(self._service("null://", use_db=True).get, self._ids)

    # The peer, for the same ids

    def pymemcache(self) -> Case:
        """pymemcache's ``get``, with a timeout: bytes of about a person's length."""
        client = self._filled_peer()
        return Case(client.get, [_peer_key(id) for id in self._ids])

    def pymemcache_100(self) -> Case:
        """pymemcache's ``get_many`` of a hundred keys, with a timeout."""
        client = self._filled_peer()
        return Case(client.get_many, [[_peer_key(id) for id in ids] for ids in self._hundreds()])

    def _filled_peer(self) -> Client:
        client = Client(urlsplit(self._cache).netloc, timeout=60)
        refused = client.set_many({_peer_key(id): b"." * 90 for id in self._ids}, noreply=False)
        assert not refused, refused
        return client


def _peer_key(id: str) -> str:
    return f"py:0123456789abcdef0123456789abcdef:person:{id}"


CASES: dict[str, Callable[[Desk], Case]] = {
    "hit": Desk.hit,
    "hits-100": Desk.hits_100,
    "miss": Desk.miss,
    "misses-100": Desk.misses_100,
    "commit": Desk.commit,
    "commit-elsewhere": Desk.commit_elsewhere,
    "memory": Desk.memory,
    "memory-100": Desk.memory_100,
    "use-db": Desk.use_db,
}

PEERS: dict[str, Callable[[Desk], Case]] = {
    "pymemcache": Desk.pymemcache,
    "pymemcache-100": Desk.pymemcache_100,
}


# Commands


def turn(case: Case, numbers: Sequence[int]) -> float:
    """Seconds for one operation, on average over the items of these numbers.

    The first item is done and does not count: another process has left the processor's caches full of its own.
    """
    items = [case.items[number % len(case.items)] for number in numbers]
    case.prepare(items)
    call = case.call
    first, *rest = items
    call(first)
    start = time.perf_counter()
    for item in rest:
        call(item)
    seconds = time.perf_counter() - start
    if not gc.isenabled():
        gc.collect()
    return seconds / len(rest)


def calls(case: Case, runs: int = 10) -> list[int]:
    """How many functions of Python and of C one operation calls, in the cheapest of some runs."""
    return min(_calls_once(case, item) for item in _some(case, runs))


def _calls_once(case: Case, item: Item) -> list[int]:
    counts = {"call": 0, "c_call": 0}

    def count(_frame: FrameType, event: str, _argument: object) -> None:
        if event in counts:
            counts[event] += 1

    case.prepare([item])
    call = case.call
    sys.setprofile(count)
    try:
        call(item)
    finally:
        sys.setprofile(None)
    return [counts["call"], counts["c_call"] - 1]  # without sys.setprofile itself


def batches(case: Case, sizes: Sequence[int]) -> None:
    """Does a batch of each size, marked for ``counts`` by two functions that nothing else calls."""
    for size in sizes:
        items = list(_some(case, size))
        case.prepare(items)
        call = case.call
        os.sched_get_priority_min(0)
        for item in items:
            call(item)
        os.sched_get_priority_max(0)
        gc.collect()


def _some(case: Case, count: int) -> Iterator[Item]:
    for number in range(count):
        yield case.items[number % len(case.items)]


def answer(desk: Desk, command: dict[str, Any]) -> Any:
    """The result of one command: ``{"do": "turn", "case": "hit", "numbers": [3, 1, 4]}``, for example."""
    case = desk.case(command["case"])
    match command["do"]:
        case "turn":
            return turn(case, command["numbers"])
        case "calls":
            return calls(case)
        case "batches":
            return batches(case, command["sizes"])
        case unknown:
            raise ValueError(f"{unknown!r} is no command")


def main(folder: str, database: str, cache: str, namespace: str, processor: str, collector: str = "off") -> None:
    """Answers commands until there are no more. ``processor``: the number of the one to stay on, or nothing.

    ``collector``: ``on``, and Python collects garbage as it does in a host; ``off``, and it is collected after a turn.
    """
    imported = Path(person_repo.__file__ or "").resolve()
    if not imported.is_relative_to(Path(folder).resolve()):
        raise SystemExit(f"this worker is for the version in {folder} and imported {imported}")
    if processor:
        os.sched_setaffinity(0, {int(processor)})
    desk = Desk(database, cache, namespace)
    gc.collect()
    if collector == "off":
        gc.freeze()
        gc.disable()
    for line in sys.stdin:
        print(json.dumps(answer(desk, json.loads(line))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
