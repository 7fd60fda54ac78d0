"""The benchmarks by name: their contestants, their operations in a round, and the targets of our ratios."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import orm

from benchmarks import bulk, contestants, herd, parallel
from benchmarks.contestants import (
    DOGPILE,
    DRIVER,
    OURS,
    PYMEMCACHE,
    PYMEMCACHE_TIMED,
    RAW,
    RAW_HIT,
    RAW_MISS,
    RAW_OURS,
    SESSION,
    Recipe,
    batches_of,
)
from benchmarks.method import Clocked, Contestant, Items, Pace, Result, Spread, Target, measure, ratios_of
from benchmarks.world import CHECKOUT, NAMESPACE, World
from person_repo import Person, PersonService

__all__ = ["CASES", "Case"]

BATCH_SIZES = (1, 3, 10, 30, 100, 300, 1000)
_BATCHES = 10


@dataclass(frozen=True)
class Case:
    """One benchmark. ``field`` makes the contestants. Each round draws ``operations`` of the ``items``, and one more,
    for the operation that does not count.

    Give few operations and many rounds: a turn of a millisecond is seldom interrupted. Longer turns would favour the
    faster contestant, as the slower one's would be interrupted more often.
    """

    name: str
    what: str
    field: Callable[[World, Pace], Sequence[Contestant]]
    targets: Sequence[Target] = ()
    operations: int = 1
    rounds: int = 300
    warm_up: int = 5
    checked: bool = True
    items: Callable[[World], Items] = lambda world: world.hot
    more: Callable[[World, Pace], dict[str, Any]] = lambda world, pace: {}

    def length(self, pace: Pace) -> int:
        """The number of calls of ``report``."""
        return pace.of(self.rounds) + self._warm_up(pace)

    def _warm_up(self, pace: Pace) -> int:
        return min(self.warm_up, pace.of(self.rounds))

    def run(self, world: World, pace: Pace, report: Callable[[], object] = lambda: None) -> Result:
        """Measure. ``report`` is called after every round."""
        field = self.field(world, pace)
        items = self.items(world)
        costs = measure(
            field,
            lambda chosen: chosen.sample(items, self.operations + 1),
            rounds=pace.of(self.rounds),
            warm_up=self._warm_up(pace),
            checked=self.checked,
            report=report,
        )
        return Result(
            name=self.name,
            what=self.what,
            rounds=pace.of(self.rounds),
            costs={name: Spread.of(values) for name, values in costs.items() if values},
            ratios=ratios_of(costs, self.targets) if field else [],
            more=self.more(world, pace),
        )


def _ours_to(to: str, what: str, at_most: float | None = None, *, of: str = OURS) -> Target:
    return Target(what=what, of=of, to=to, at_most=at_most)


# One entity, and many, over memcached


def _service_of(world: World) -> Callable[[str], PersonService]:
    engine = world.engine(world.sqlite)
    return lambda cache: world.service(engine, cache)


def _hit(world: World, _: Pace) -> list[Contestant]:
    engine = world.engine(world.sqlite)
    service = _service_of(world)
    return [
        contestants.raw_socket(world, world.hot),
        contestants.raw_socket_ours(world, service, "get", world.hot),
        contestants.raw_hit(world, service, world.hot),
        contestants.pymemcache(world),
        contestants.pymemcache(world, PYMEMCACHE_TIMED, timeout=0.25),
        contestants.dogpile_recipe(Recipe.over(world, engine).warm(world.hot)),
        *contestants.advanced_alchemy(world, engine),
        contestants.ours(service(world.cache_url())),
    ]


def _hundreds(world: World) -> Items:
    return list(batches_of(world.hot, 100, 50))


def _get_many(world: World, _: Pace) -> list[Contestant]:
    engine = world.engine(world.sqlite)
    service = _service_of(world)
    batches = _hundreds(world)
    return [
        contestants.raw_socket(world, batches),
        contestants.raw_socket_ours(world, service, "get_many", batches),
        contestants.pymemcache_many(world, batches),
        contestants.dogpile_get_multi(Recipe.over(world, engine).warm(world.hot)),
        contestants.ours_many(service(world.cache_url())),
    ]


FOUR_SERVERS = "10,000 on 4 servers"
HUNDRED_TIMES = "100 x 100 on 1 server"


def _get_many_10000(world: World, _: Pace) -> list[Contestant]:
    engine = world.engine(world.sqlite)
    one, four = world.service(engine, world.cache_url()), world.service(engine, world.cache_url(4))

    def in_hundreds(ids: Sequence[str]) -> dict[str, Person]:
        found: dict[str, Person] = {}
        for at in range(0, len(ids), 100):
            found.update(one.get_many(ids[at : at + 100]))
        return found

    return [
        Contestant(HUNDRED_TIMES, in_hundreds, expect=lambda ids, answer: len(answer) == len(ids)),
        Contestant(FOUR_SERVERS, four.get_many, expect=lambda ids, answer: len(answer) == len(ids)),
    ]


def _memory(world: World, _: Pace) -> list[Contestant]:
    engine = world.engine(world.sqlite)
    return [
        contestants.dogpile_recipe(Recipe.over(world, engine, memory=True).warm(world.hot)),
        contestants.ours(world.service(engine, "memory://")),
    ]


# The database


def _use_db(world: World, url: str) -> list[Contestant]:
    return [
        contestants.session_get(world.engine(url)),
        contestants.driver(world, url),
        contestants.ours(world.service(url, "memory://", use_db=True, warm=False)),
    ]


def _miss(world: World, _: Pace) -> list[Contestant]:
    engine = world.engine(world.mariadb)
    service = world.service(engine, world.cache_url())
    recipe = Recipe.over(world, engine)

    def expire(ids: Items) -> None:
        service.invalidate(*ids)

    return [
        contestants.ours(world.service(engine, world.cache_url(), use_db=True, warm=False), "ours, use_db"),
        contestants.raw_miss(world, world.mariadb),
        contestants.session_get(engine),
        contestants.dogpile_recipe(recipe, prepare=recipe.forget),
        contestants.ours(service, prepare=expire),
    ]


# Commits

UNCOVERED = "uncovered"
EXCHANGES = "uncovered, two raw exchanges around COMMIT"
COVERED = "covered by ours"
PREPARED_UNCOVERED = "uncovered, COMMIT alone"
PREPARED_COVERED = "covered by ours, COMMIT alone"


class _Changes:
    """Changes of people by plain sessions: the whole of it, or only the commit of what ``prepare`` has changed."""

    def __init__(self, engine: sa.Engine, warm: Callable[[Items], object]) -> None:
        self._sessions = orm.sessionmaker(engine)
        self._warm = warm
        self._open: dict[str, orm.Session] = {}

    def all_of_it(self, name: str) -> Contestant:
        """Session, ``get``, one changed attribute, commit."""

        def call(id: str) -> None:
            with self._sessions() as session:
                self._change(session, id)
                session.commit()

        return Contestant(name, call, self._warm)

    def commit_alone(self, name: str) -> Contestant:
        """``session.commit()`` of one changed object: the UPDATE of the flush, and COMMIT."""

        def prepare(ids: Items) -> None:
            self._warm(ids)
            for id in ids:
                session = self._open[id] = self._sessions()
                self._change(session, id)

        def call(id: str) -> None:
            self._open[id].commit()

        return Contestant(name, call, prepare)

    @staticmethod
    def _change(session: orm.Session, id: str) -> None:
        someone = session.get_one(Person, id)
        someone.last_name = someone.last_name[::-1]


def _commit(world: World, *, flushed: bool) -> list[Contestant]:
    world.flush_at_commit(flushed)
    url = world.empty_mariadb(f"commit_{flushed}".lower())
    plain, covered, around = (world.engine(url, pool_size=20) for _ in range(3))
    with plain.begin() as connection:
        connection.execute(sa.insert(Person), [
            {"id": id, "first_name": "Ada", "last_name": "Lovelace", "version": 1} for id in world.hot
        ])  # fmt: skip
    # A namespace of its own leaves the people of other benchmarks as they are.
    service = world.service(covered, world.cache_url(), warm=False, namespace=f"{NAMESPACE}-commit")
    # The cache is awake for all alike: how fast it answers depends on what it did just before.
    ours, theirs = _Changes(covered, service.get_many), _Changes(plain, service.get_many)
    raw = _Changes(contestants.around_commit(world, around), service.get_many)
    return [
        theirs.all_of_it(UNCOVERED),
        raw.all_of_it(EXCHANGES),
        ours.all_of_it(COVERED),
        theirs.commit_alone(PREPARED_UNCOVERED),
        ours.commit_alone(PREPARED_COVERED),
    ]


def _commit_case(name: str, what: str, *, flushed: bool) -> Case:
    return Case(
        name,
        what,
        lambda world, _: _commit(world, flushed=flushed),
        [
            _ours_to(UNCOVERED, "the same, uncovered", 1.10, of=COVERED),
            Target(what="uncovered, of the floor: two raw exchanges", of=EXCHANGES, to=UNCOVERED),
            _ours_to(PREPARED_UNCOVERED, "COMMIT alone, uncovered", of=PREPARED_COVERED),
        ],
        operations=1,
        checked=False,
        rounds=800,
    )


def _commit_elsewhere(world: World, _: Pace) -> list[Contestant]:
    world.flush_at_commit(False)  # A target of 1.02 would be lost in the time of a disk.
    url = world.empty_mariadb("commit_elsewhere")
    plain, covered = (world.engine(url) for _ in range(2))
    orders = sa.Table(
        "orders", sa.MetaData(), sa.Column("id", sa.String(40), primary_key=True), sa.Column("n", sa.Integer)
    )
    orders.create(plain)
    with plain.begin() as connection:
        connection.execute(sa.insert(orders), [{"id": id, "n": 0} for id in world.hot])
    world.service(covered, world.cache_url(), warm=False)
    change = sa.update(orders).where(orders.c.id == sa.bindparam("key")).values(n=orders.c.n + 1)

    def on(engine: sa.Engine) -> Callable[[str], None]:
        sessions = orm.sessionmaker(engine)

        def call(id: str) -> None:
            with sessions() as session:
                session.execute(change, {"key": id})
                session.commit()

        return call

    return [Contestant(UNCOVERED, on(plain)), Contestant(COVERED, on(covered))]


# The rest


def _import_package(_: World, __: Pace) -> list[Contestant]:
    def importing(what: str) -> Callable[[Any], float]:
        # Processor time: an import waits for nothing, and a busy machine would add its own waits.
        code = f"import time; start = time.process_time(); import {what}; print(time.process_time() - start)"

        def call(_: Any) -> float:
            done = subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=CHECKOUT
            )
            return float(done.stdout)

        return call

    theirs = "sqlalchemy, dogpile.cache, pymemcache"
    return [Clocked(IMPORTS, importing(theirs)), Clocked(OURS, importing("person_repo"))]


IMPORTS = "import sqlalchemy, dogpile.cache, pymemcache"


def _layers(world: World, pace: Pace) -> list[Contestant]:
    """All ways to read one person, in the same rounds."""
    named = {
        "memory region": _memory(world, pace),
        "memcached": _hit(world, pace),
        "MariaDB": _use_db(world, world.mariadb),
        "SQLite file": _use_db(world, world.sqlite),
    }
    return [
        Contestant(f"{layer}: {one.name}", one.call, one.prepare, one.expect)
        for layer, field in named.items()
        for one in field
        if one.name not in (RAW_OURS, RAW_HIT, PYMEMCACHE_TIMED)
    ]


def _batches(world: World, _: Pace) -> list[Contestant]:
    engine = world.engine(world.sqlite)
    service = world.service(engine, world.cache_url())
    batches = {size: list(batches_of(world.hot, size, _BATCHES)) for size in BATCH_SIZES}
    everything = [ids for sized in batches.values() for ids in sized]
    raw, plain = contestants.raw_socket(world, everything), contestants.pymemcache_many(world, everything)
    multi = contestants.dogpile_get_multi(Recipe.over(world, engine).warm(world.hot))
    return [
        _Batch(f"{one.name}: {size}", functools.partial(_nth, one.call, sized))
        for one in (raw, plain, multi, contestants.ours_many(service))
        for size, sized in batches.items()
    ]


def _nth(call: Callable[[Any], object], batches: Items, at: int) -> object:
    return call(batches[at])


class _Batch(Contestant):
    """A contestant that reads a small batch several times, as one call would find the processor's caches cold."""

    def cost(self, items: Items) -> float:
        """The average seconds of one call."""
        size = int(self.name.rpartition(": ")[2])
        first, at = items
        return super().cost([first, *[at] * max(100 // size, 1)])


CASES = [
    Case(
        "hit",
        "service.get, hit",
        _hit,
        [
            _ours_to(RAW, "one round trip", 1.20),
            _ours_to(PYMEMCACHE, "pymemcache's bytes", 1.0),
            _ours_to(PYMEMCACHE_TIMED, "pymemcache's bytes, with a timeout like ours"),
            _ours_to(RAW_OURS, "a round trip of what we send"),
            _ours_to(RAW_HIT, "the floor: a raw exchange, decoded, an object"),
            Target(what="one round trip, of the floor", of=RAW_HIT, to=RAW),
            Target(what="pymemcache's bytes, of the floor", of=RAW_HIT, to=PYMEMCACHE),
        ],
        operations=10,
        rounds=1500,
    ),
    Case(
        "get-many",
        "service.get_many, 100 hits",
        _get_many,
        [
            _ours_to(RAW, "one multi-get", 4.0),
            _ours_to(PYMEMCACHE, "pymemcache's bytes", 0.9),
            _ours_to(RAW_OURS, "a round trip of what we send"),
        ],
        operations=1,
        items=_hundreds,
        rounds=600,
    ),
    Case(
        "memory",
        "service.get, memory region, hit",
        _memory,
        [_ours_to(DOGPILE, "dogpile get_or_create", 1.0)],
        operations=50,
        rounds=1000,
    ),
    Case(
        "use-db-mariadb",
        "get with use_db, MariaDB",
        lambda world, _: _use_db(world, world.mariadb),
        [_ours_to(SESSION, "Session.get, new session", 0.35), _ours_to(DRIVER, "the driver")],
        operations=3,
        rounds=1000,
    ),
    Case(
        "use-db-sqlite",
        "get with use_db, SQLite file",
        lambda world, _: _use_db(world, world.sqlite),
        [_ours_to(SESSION, "Session.get, new session", 0.35), _ours_to(DRIVER, "the driver")],
        operations=5,
        rounds=1000,
    ),
    Case(
        "miss",
        "miss: load and fill, MariaDB",
        _miss,
        [
            _ours_to("ours, use_db", "our own use_db get", 1.4),
            _ours_to(RAW_MISS, "the floor: the same exchanges and query, raw"),
            Target(what="use_db get, of the floor: raw", of=RAW_MISS, to="ours, use_db"),
        ],
        operations=2,
        rounds=1000,
    ),
    _commit_case("commit", "commit of one changed person, MariaDB", flushed=True),
    _commit_case("commit-unflushed", "the same, and MariaDB does not wait for its disk", flushed=False),
    Case(
        "commit-elsewhere",
        "commit that touches no covered table",
        _commit_elsewhere,
        [_ours_to(UNCOVERED, "the same, uncovered", 1.02, of=COVERED)],
        operations=1,
        rounds=3000,
        checked=False,
    ),
    Case(
        "get-many-10000",
        "get_many of 10,000 hits, 4 servers",
        _get_many_10000,
        [_ours_to(HUNDRED_TIMES, "100 x 100 on one server", 0.9, of=FOUR_SERVERS)],
        rounds=30,
        warm_up=2,
        items=lambda world: [world.ids, world.ids],
    ),
    Case(
        "threads",
        "hits by 1 to 16 threads of one process",
        parallel.threads,
        [
            Target(what="throughput of 16 threads to 1", of="ours: 1", to="ours: 16", at_least=1.0),
            Target(what="the same, pymemcache", of="pymemcache, bytes: 1", to="pymemcache, bytes: 16"),
            Target(what="the same, raw sockets", of="raw socket: 1", to="raw socket: 16"),
        ],
        operations=480,
        rounds=50,
        warm_up=2,
        checked=False,
    ),
    Case(
        "processes",
        "hits by 1 to 4 processes",
        parallel.processes,
        [
            Target(what="throughput of 4 processes to 1", of="ours: 1", to="ours: 4", at_least=1.7),
            Target(what="the same, pymemcache", of="pymemcache, bytes: 1", to="pymemcache, bytes: 4"),
            Target(what="the same, raw sockets", of="raw socket: 1", to="raw socket: 4"),
        ],
        operations=960,
        rounds=50,
        warm_up=2,
        checked=False,
    ),
    Case(
        "import-people",
        "import of people into MariaDB",
        bulk.importing,
        [_ours_to(bulk.EXECUTEMANY, "the driver's executemany", 1.5)],
        rounds=3,
        warm_up=0,
        checked=False,
        items=bulk.sizes,
        more=bulk.memory,
    ),
    Case(
        "import-package",
        "import person_repo, a new process",
        _import_package,
        [_ours_to(IMPORTS, IMPORTS, 1.15)],
        rounds=30,
        warm_up=2,
        checked=False,
    ),
    Case(
        "layers",
        "one person from each layer",
        _layers,
        [
            _ours_to("SQLite file: driver, open cursor", "a row of SQLite by the driver", of="memcached: ours"),
            _ours_to("SQLite file: ours", "our own get from SQLite", of="memcached: ours"),
            _ours_to("MariaDB: ours", "our own get from MariaDB", of="memcached: ours"),
        ],
        operations=2,
        rounds=600,
    ),
    Case(
        "batches", "get_many by the size of the batch", _batches, rounds=60, warm_up=2, items=lambda _: range(_BATCHES)
    ),
    Case("herd", "queries while a hot key expires", lambda *_: [], rounds=0, warm_up=0, more=herd.watch),
]
"""In the order in which they run."""
