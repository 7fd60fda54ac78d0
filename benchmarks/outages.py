"""``python -m benchmarks.outages``: the times of reads and commits while a cache server fails, beside a healthy one.

Each fault gets a new service with all people in its cache. A proxy between the service and the server begins the fault;
then people are read for some seconds, and changed for as long, one after the other, with the default settings. So the
times include the first operations, which find the server failing, and the probe of each second. A commit is the call
of ``session.commit()`` for one changed person, flush included.

The JSON::

    {"date": "...", "database": "mariadb", "seconds": 5.0, "versions": {...},
     "faults": {"refused": {"beside": "healthy",
         "reads": {"count": 21000, "p50": 0.2, "p99": 0.4, "longest": 3.1, "p50_ratio": 1.9, "p99_ratio": 2.0},
         "commits": {...}}, ...}}

Times are in milliseconds; ratios are to the row ``beside``.
"""

from __future__ import annotations

import argparse
import datetime
import json
import logging
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from sqlalchemy import orm

from benchmarks.world import World
from person_repo import Person, PersonService, make_region
from person_repo.testing.proxy import Proxy

__all__ = ["main"]

_PEOPLE = 1_000

Fault = Callable[[Proxy], None]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of the table: the fault of the first of ``servers`` servers, and the line to compare it with."""

    name: str
    fault: Fault | None = None
    servers: int = 1
    beside: str = "healthy"
    use_db: bool = False


ROWS = (
    Row(name="healthy"),
    Row(name="no cache (use_db)", use_db=True),
    Row(name="refused", fault=Proxy.cut),
    Row(name="reset", fault=Proxy.reset),
    Row(name="hang", fault=Proxy.hang),
    Row(name="black hole", fault=Proxy.blackhole),
    Row(name="a byte a second", fault=lambda proxy: proxy.throttle(1)),
    Row(name="random bytes", fault=Proxy.garble),
    Row(name="server error", fault=lambda proxy: proxy.impersonate(b"SERVER_ERROR out of memory\r\n" * 2)),
    Row(name="three, healthy", servers=3, beside="three, healthy"),
    Row(name="one of three refused", servers=3, beside="three, healthy", fault=Proxy.cut),
    Row(name="one of three hangs", servers=3, beside="three, healthy", fault=Proxy.hang),
)


@dataclass(frozen=True, slots=True)
class Times:
    """The times of some operations, in milliseconds."""

    count: int
    p50: float
    p99: float
    longest: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Times:
        """The times of at least two operations."""
        cuts = statistics.quantiles(seconds, n=100, method="inclusive")
        return cls(len(seconds), cuts[49] * 1e3, cuts[98] * 1e3, max(seconds) * 1e3)

    def beside(self, other: Times) -> dict[str, float]:
        """The figures, and their ratios to others; fit for JSON."""
        figures = {"p50": self.p50, "p99": self.p99, "longest": self.longest}
        ratios = {"p50_ratio": self.p50 / other.p50, "p99_ratio": self.p99 / other.p99}
        return {"count": self.count, **{name: float(f"{value:.4g}") for name, value in (figures | ratios).items()}}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, and write the JSON if a path is given."""
    options = _options(arguments)
    logging.getLogger("person_repo").setLevel(logging.CRITICAL)  # The faults are made on purpose.
    with ExitStack() as stack:
        world = World(stack, people=_PEOPLE)
        database = world.mariadb if options.database == "mariadb" else world.sqlite
        found: dict[str, tuple[Times, Times]] = {}
        for number, row in enumerate(ROWS):
            found[row.name] = _measured(world, row, database, f"outage{number}", options.seconds)
        report = _report(found, options.database, options.seconds, world)
    Console(width=None if options.json is None else 160).print(_table(report))
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


def _options(arguments: Sequence[str] | None) -> Any:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.outages", description="Latency while a server fails.")
    parser.add_argument("--seconds", type=float, default=5.0, help="of reads, and of commits, under each fault; 5")
    parser.add_argument("--database", choices=("mariadb", "sqlite"), default="mariadb")
    parser.add_argument("--json", type=Path, help="a file for the figures")
    return parser.parse_args(arguments)


def _measured(world: World, row: Row, database: str, namespace: str, seconds: float) -> tuple[Times, Times]:
    with _service(world, row, database, namespace) as (people, proxy):
        draw = random.Random(1)
        people.get_many(world.ids)
        if row.fault is not None:
            row.fault(proxy)
        reads = _timed(lambda: _read(people, draw.choice(world.ids)), seconds)
        commits = _timed(lambda: _commit(people, draw.choice(world.ids)), seconds)
        proxy.heal()
        return Times.of(reads), Times.of(commits)


@contextmanager
def _service(world: World, row: Row, database: str, namespace: str) -> Iterator[tuple[PersonService, Proxy]]:
    """A service and its first proxy. Healthy servers have one, too, because a hop costs time."""
    region = make_region(world.cache_url(row.servers), namespace=namespace)
    with ExitStack() as stack:
        proxies = [stack.enter_context(Proxy(server.url)) for server in world.memcached[: row.servers]]
        region.actual_backend.addresses = {proxy.server: proxy.address for proxy in proxies}
        engine = world.engine(database)
        stack.callback(engine.dispose)
        people = stack.enter_context(PersonService.over(orm.sessionmaker(engine), region, use_db=row.use_db))
        yield people, proxies[0]


def _timed(do: Callable[[], float], seconds: float) -> list[float]:
    until = time.monotonic() + seconds
    taken = [do(), do()]
    while time.monotonic() < until:
        taken.append(do())
    return taken


def _read(people: PersonService, id: str) -> float:
    began = time.perf_counter()
    people.get(id)
    return time.perf_counter() - began


def _commit(people: PersonService, id: str) -> float:
    """The seconds of a commit. The row is read before the clock runs; only its version changes."""
    with orm.Session(people.engine) as session:
        someone = session.get_one(Person, id)
        orm.attributes.flag_modified(someone, "last_name")
        began = time.perf_counter()
        session.commit()
        return time.perf_counter() - began


def _report(found: dict[str, tuple[Times, Times]], database: str, seconds: float, world: World) -> dict[str, Any]:
    faults = {}
    for row in ROWS:
        (reads, commits), (other_reads, other_commits) = found[row.name], found[row.beside]
        faults[row.name] = {
            "beside": row.beside,
            "reads": reads.beside(other_reads),
            "commits": commits.beside(other_commits),
        }
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "database": database,
        "seconds": seconds,
        "versions": world.versions(),
        "machine": {"cores": os.cpu_count(), "load": round(world.load, 2)},
        "faults": faults,
    }


def _table(report: dict[str, Any]) -> Table:
    table = Table(title=f"milliseconds, and times the healthy ones; {report['database']}, {report['seconds']:g} s each")
    table.add_column("the cache server")
    for what in ("reads", "commits"):
        for name in ("p50", "x", "p99", "x", "longest"):
            table.add_column(f"{what}\n{name}", justify="right")
    for name, row in report["faults"].items():
        table.add_row(name, *_cells(row["reads"]), *_cells(row["commits"]))
    return table


def _cells(figures: dict[str, float]) -> list[str]:
    names = ("p50", "p50_ratio", "p99", "p99_ratio", "longest")
    return [f"{figures[name]:.2f}" if name[-5:] != "ratio" else f"{figures[name]:.1f}" for name in names]


if __name__ == "__main__":
    raise SystemExit(main())
