"""The import of many people: time against the driver's own ``executemany``, and the memory it takes."""

from __future__ import annotations

import csv
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pymysql
import sqlalchemy as sa

import person_repo
from benchmarks.contestants import OURS
from benchmarks.method import Clocked, Contestant, Items, Pace
from benchmarks.world import World, row
from person_repo.cli.csv.importing import import_people

__all__ = ["EXECUTEMANY", "importing", "memory", "sizes"]

EXECUTEMANY = "driver, executemany"

ROWS = 1_000_000
QUICK_ROWS = 20_000

_INSERT = "INSERT INTO person (id, first_name, last_name, version) VALUES (%s, %s, %s, %s)"

Import = Callable[[str, str, int], float]
"""From a database URL, a file and the number of its rows to the seconds taken."""


def sizes(_: World) -> Items:
    """One import a round; its process reads the clock."""
    return [None, None]


def importing(world: World, pace: Pace) -> list[Contestant]:
    """Both imports, each in a new process, into an empty table."""
    rows = rows_of(pace)

    def clear(_: Items) -> None:
        _truncate(world)

    def call(import_: Import) -> Callable[[Any], float]:
        return lambda _: _apart(world, import_, rows) / rows

    return [Clocked(EXECUTEMANY, call(_executemany), clear), Clocked(OURS, call(_ours), clear)]


def memory(world: World, pace: Pace) -> dict[str, Any]:
    """The growth of an importing process's peak memory, in bytes: for all rows, for a tenth of them, and per row."""
    rows = rows_of(pace)
    _truncate(world)
    _apart(world, _ours, rows // 10)
    few, many = (world.notes["peak", _ours.__name__, count] for count in (rows // 10, rows))
    return {
        "rows": rows,
        "peak_bytes": {str(rows // 10): few, str(rows): many},
        "bytes_per_row": (many - few) / (rows - rows // 10),
    }


def rows_of(pace: Pace) -> int:
    """How many rows a run imports."""
    return pace.rows or (QUICK_ROWS if pace.quick else ROWS)


def _url(world: World) -> str:
    if "import" not in world.notes:
        world.notes["import"] = world.empty_mariadb("import_people")
    return str(world.notes["import"])


def _truncate(world: World) -> None:
    engine = sa.create_engine(_url(world))
    with engine.begin() as connection:
        connection.exec_driver_sql("TRUNCATE person")
    engine.dispose()


def _file(world: World, rows: int) -> Path:
    path = world.folder / f"{rows}.csv"
    if not path.exists():
        with path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(("id", "first_name", "last_name"))
            writer.writerows(map(row, range(rows)))
    return path


def _apart(world: World, import_: Import, rows: int) -> float:
    """The seconds of an import in a process of its own. The growth of its peak, in bytes, goes into ``world.notes``."""
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    arguments = (there, import_, _url(world), str(_file(world, rows)), rows)
    process = spawn.Process(target=_measured, args=arguments, daemon=True)
    process.start()
    there.close()
    try:
        seconds, world.notes["peak", import_.__name__, rows] = here.recv()
    finally:
        process.join()
    return float(seconds)


def _measured(connection: Connection, import_: Import, url: str, file: str, rows: int) -> None:
    before = _peak()
    seconds = import_(url, file, rows)
    connection.send((seconds, _peak() - before))


def _ours(url: str, file: str, rows: int) -> float:
    """``import_people``: checks the file, then one transaction; the tombstones of a whole model at its end."""
    with person_repo.connect(url, "memory://") as people:
        people.count()  # connected
        start = time.perf_counter()
        imported = import_people(people, file).imported
        seconds = time.perf_counter() - start
    assert imported == rows, imported
    return seconds


def _executemany(url: str, _: str, rows: int) -> float:
    """PyMySQL's ``executemany``, which sends INSERTs of a megabyte; the rows are generated meanwhile."""
    parsed = sa.make_url(url)
    with pymysql.connect(
        host=parsed.host, port=parsed.port or 3306, user=parsed.username, database=parsed.database, charset="utf8mb4"
    ) as connection:
        cursor = connection.cursor()
        start = time.perf_counter()
        cursor.executemany(_INSERT, _rows(rows))
        connection.commit()
        seconds = time.perf_counter() - start
        cursor.execute("SELECT count(*) FROM person")
        assert cursor.fetchone() == (rows,)
    return seconds


def _rows(count: int) -> Iterator[tuple[str, str, str, int]]:
    for number in range(count):
        yield (*row(number), 1)


def _peak() -> int:
    """The peak memory of this process, in bytes."""
    try:
        status = Path("/proc/self/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
    except (OSError, StopIteration):  # Not Linux. There a new program begins with its parent's peak.
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
