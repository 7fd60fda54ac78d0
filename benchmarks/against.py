"""This checkout beside another commit, in one run: ``make bench BENCH_ARGS="--against REF"``.

Three workers, each a process with one version on its path (the old commit, this checkout, this checkout again), run the
same operations round by round. The ratio of the two equal ones, the A/A, is the error of the method; each *sitting*
has new processes. ``--count`` counts instructions and calls instead, which judge bounds below 1.05.
``docs/maintain/performance.md`` has the reasons.
"""

from __future__ import annotations

import datetime
import json
import os
import random
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from rich.table import Table

from benchmarks import counts
from benchmarks.method import Pace, Spread
from benchmarks.worker import CASES
from benchmarks.world import CHECKOUT, World

__all__ = [
    "NAMES",
    "SLOWER",
    "Comparison",
    "Count",
    "Version",
    "checked_out",
    "compare",
    "comparisons_table",
    "count",
    "counts_table",
    "pinned",
]

SLOWER = 1.02
"""The ratio beyond the A/A above which a case is called slower."""

NAMES = tuple(CASES)

_ROUNDS = 300
_SITTINGS = 3
_WARM_UP = 5
_OPERATIONS = {"hit": 20, "memory": 50, "memory-100": 5, "hits-100": 3, "use-db": 5, "commit-elsewhere": 4}
"""Operations of one turn, about a millisecond's worth; 2 for a case that is not listed."""
_REPEATS = 3
"""Pairs of batches that are counted for each case; the cheapest of each size counts."""
_BATCHES = {"hit": 100, "memory": 200, "use-db": 50, "miss": 10, "commit-elsewhere": 10}
"""Operations in the smaller of two counted batches, some million instructions; 5 for a case that is not listed."""


@dataclass(frozen=True)
class Version:
    """One version of the package: its name in tables, the folder to import it from, and the Python to run it."""

    name: str
    folder: Path
    python: str = sys.executable


@contextmanager
def checked_out(ref: str) -> Iterator[Version]:
    """The files of a commit in a temporary folder. Raises ``SystemExit`` if git does not know the commit."""
    commit = _git("rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}").stdout.decode().strip()
    if not commit:
        raise SystemExit(f"benchmarks: git knows no commit {ref!r} here")
    with tempfile.TemporaryDirectory(prefix="person_repo-against-") as folder:
        archive = Path(folder) / "commit.tar"
        archive.write_bytes(_git("archive", "--format=tar", commit).stdout)
        tree = Path(folder) / "tree"
        with tarfile.open(archive) as packed:
            packed.extractall(tree, filter="data")
        yield Version(commit[:7], tree)


def _git(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["git", "-C", str(CHECKOUT), *arguments], capture_output=True, check=False)


HERE = Version("this checkout", CHECKOUT)


@contextmanager
def pinned() -> Iterator[str]:
    """The number of a processor for the workers alone; empty if there is no other one for the servers.

    Enter it before the servers start, because they inherit this process's processors.
    """
    before: set[int] = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    if len(before) < 2:
        yield ""
        return
    mine = max(before)
    os.sched_setaffinity(0, before - {mine})
    try:
        yield str(mine)
    finally:
        os.sched_setaffinity(0, before)


# Workers


class Worker:
    """A process with one version, which answers commands; see ``benchmarks.worker``."""

    def __init__(self, version: Version, arguments: Sequence[str], seed: int) -> None:
        environment = {**os.environ, **_environment(version), "PYTHONHASHSEED": str(seed)}
        self._process = subprocess.Popen(
            _command(version, arguments), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()  # type: ignore[union-attr]
        self._process.wait()
        self._process.stdout.close()  # type: ignore[union-attr]

    def ask(self, do: str, case: str, **more: Any) -> Any:
        """The answer to one command."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(_said(do, case, **more))
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"benchmarks: a worker ended at {do} of {case}; what is said above")
        return json.loads(line)


def _said(do: str, case: str, **more: Any) -> str:
    return json.dumps({"do": do, "case": case, **more}) + "\n"


def _command(version: Version, arguments: Sequence[str]) -> list[str]:
    script = Path(__file__).with_name("worker.py")
    return [version.python, "-P", str(script), str(version.folder), *arguments]


def _environment(version: Version) -> dict[str, str]:
    return {"PYTHONPATH": str(version.folder)}


class Places:
    """An empty database and a namespace for each worker. All names have the same length."""

    def __init__(self, world: World, database: str) -> None:
        self._world = world
        self._database = database
        self._made = 0
        if database == "mariadb":
            world.flush_at_commit(False)  # Waiting for the disk would hide the rest of a commit.

    def arguments(self, processor: str) -> list[str]:
        """The arguments of a new worker, after its version."""
        name = f"against_{self._made:03}"
        self._made += 1
        sqlite = f"sqlite:///{self._world.folder / name}.db"
        url = self._world.database(name) if self._database == "mariadb" else sqlite
        return [url, self._world.cache_url(), name, processor]


# Times


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Times of one case: seconds of one operation, the ratio of this checkout to the old commit, and the A/A.

    ``same_by_sitting`` has the median A/A of each sitting.
    """

    case: str
    old: Spread
    new: Spread
    ratio: Spread
    same: Spread
    same_by_sitting: Sequence[float]

    @property
    def allowed(self) -> float:
        """The ratio above which this checkout is called slower."""
        return SLOWER * max(max(same, 1 / same) for same in self.same_by_sitting)

    @property
    def slower(self) -> bool:
        """True if this checkout is slower by more than the method's error."""
        return self.ratio.median > self.allowed

    def as_json(self) -> dict[str, Any]:
        """The comparison as plain values; times in microseconds."""
        return {
            "microseconds": {"old": _rounded(self.old.times(1e6)), "new": _rounded(self.new.times(1e6))},
            "ratio": _rounded(self.ratio),
            "same": _rounded(self.same),
            "same_by_sitting": [float(f"{same:.4g}") for same in self.same_by_sitting],
            "allowed": float(f"{self.allowed:.4g}"),
            "slower": self.slower,
        }


def _rounded(spread: Spread) -> dict[str, float]:
    return {name: float(f"{getattr(spread, name):.4g}") for name in ("median", "lower", "upper")}


Costs = dict[str, list[float]]
"""Seconds of one operation in each round, by worker: ``old``, ``new``, ``again``."""


def compare(
    old: Version,
    cases: Sequence[str],
    places: Places,
    pace: Pace,
    processor: str = "",
    report: Callable[[], object] = lambda: None,
) -> list[Comparison]:
    """Time both versions. ``report`` is called after every case of a sitting, ``sittings(pace)`` times for each."""
    count = sittings(pace)
    rounds = max(pace.of(_ROUNDS) // count, 1)
    found: dict[str, list[Costs]] = {case: [] for case in cases}
    for sitting in range(count):
        with ExitStack() as stack:
            workers = {
                name: stack.enter_context(Worker(version, places.arguments(processor), sitting))
                for name, version in (("old", old), ("new", HERE), ("again", HERE))
            }
            for case in cases:
                found[case].append(_rounds(workers, case, rounds, random.Random(sitting)))
                report()
    return [_compared(case, costs) for case, costs in found.items()]


def sittings(pace: Pace) -> int:
    """How often the workers are started anew."""
    return 1 if pace.quick else _SITTINGS


def _rounds(workers: Mapping[str, Worker], case: str, rounds: int, shuffled: random.Random) -> Costs:
    costs: Costs = {name: [] for name in workers}
    operations = _OPERATIONS.get(case, 2)
    for at in range(-_WARM_UP, rounds):
        numbers = _numbers(shuffled, operations + 1)
        for name in shuffled.sample(list(workers), len(workers)):
            seconds = workers[name].ask("turn", case, numbers=numbers)
            if at >= 0:
                costs[name].append(seconds)
    return costs


def _numbers(shuffled: random.Random, count: int) -> list[int]:
    """Numbers of as many different items, however few a case has: they follow each other."""
    start = shuffled.randrange(1000)
    return list(range(start, start + count))


def _compared(case: str, by_sitting: Sequence[Costs]) -> Comparison:
    def all_of(name: str) -> list[float]:
        return [cost for costs in by_sitting for cost in costs[name]]

    def ratios(of: str, to: str, sittings: Sequence[Costs] = by_sitting) -> list[float]:
        return [a / b for costs in sittings for a, b in zip(costs[of], costs[to], strict=True)]

    return Comparison(
        case=case,
        old=Spread.of(all_of("old")),
        new=Spread.of(all_of("new")),
        ratio=Spread.of(ratios("new", "old")),
        same=Spread.of(ratios("again", "new")),
        same_by_sitting=[statistics.median(ratios("again", "new", [costs])) for costs in by_sitting],
    )


# Counts


@dataclass(frozen=True, kw_only=True)
class Count:
    """The calls and instructions of one operation in one version. ``instructions`` is None without valgrind."""

    case: str
    python_calls: int
    c_calls: int
    instructions: float | None


def count(old: Version, cases: Sequence[str], places: Places, folder: Path) -> list[tuple[Count, Count]]:
    """The counts of the old commit and of this checkout for each case; both are counted at the same time."""

    def counted(version: Version) -> list[Count]:
        with Worker(version, places_of[version], 0) as worker:
            calls = {case: worker.ask("calls", case) for case in cases}
        instructions = _instructions(version, cases, valgrind_of[version], folder / version.name.replace(" ", "-"))
        return [
            Count(case=case, python_calls=calls[case][0], c_calls=calls[case][1], instructions=instructions.get(case))
            for case in cases
        ]

    places_of, valgrind_of = ({version: places.arguments("") for version in (old, HERE)} for _ in range(2))
    with ThreadPoolExecutor(2) as both:
        return list(zip(*both.map(counted, (old, HERE)), strict=True))


def _instructions(version: Version, cases: Sequence[str], arguments: Sequence[str], folder: Path) -> dict[str, float]:
    """The instructions of one operation by case; empty if valgrind is not installed."""
    if not counts.is_available():
        return {}
    folder.mkdir()
    pairs = 1 + _REPEATS  # the first pair warms up
    totals = iter(
        counts.instructions(
            _command(version, arguments),
            "".join(_said("batches", case, sizes=[_batch(case), 2 * _batch(case)] * pairs) for case in cases),
            batches=2 * pairs * len(cases),
            folder=folder,
            environment=_environment(version),
        )
    )
    found = {}
    for case in cases:
        single, double = zip(*[(next(totals), next(totals)) for _ in range(pairs)], strict=True)
        found[case] = (min(double[1:]) - min(single[1:])) / _batch(case)
    return found


def _batch(case: str) -> int:
    return _BATCHES.get(case, 5)


# Tables


def comparisons_table(old: Version, comparisons: Sequence[Comparison]) -> Table:
    """Each case with both times, the ratio, the A/A, and a mark if it is slower."""
    table = Table(title=f"{HERE.name} beside {old.name}: medians over the rounds, and quartiles")
    table.add_column("")
    for name in ("us, old", "us, new", "new / old", "quartiles", "A/A", "quartiles", "by sitting", "allowed"):
        table.add_column(name, justify="right")
    table.add_column("")
    for one in comparisons:
        by_sitting = " ".join(f"{same:.3f}" for same in one.same_by_sitting)
        table.add_row(
            one.case,
            f"{one.old.median * 1e6:,.1f}",
            f"{one.new.median * 1e6:,.1f}",
            *_ratio_cells(one.ratio),
            *_ratio_cells(one.same),
            by_sitting,
            f"{one.allowed:.3f}",
            "[bold red]slower" if one.slower else "",
        )
    return table


def _ratio_cells(spread: Spread) -> tuple[str, str]:
    return f"{spread.median:.3f}", f"{spread.lower:.2f} - {spread.upper:.2f}"


def counts_table(old: Version, pairs: Sequence[tuple[Count, Count]]) -> Table:
    """Each case with the instructions and calls of both versions, and their ratios."""
    table = Table(title=f"{HERE.name} beside {old.name}: one operation, counted")
    table.add_column("")
    for what in ("instructions", "Python calls", "C calls"):
        for name in ("old", "new", "x"):
            table.add_column(f"{what}\n{name}", justify="right")
    table.add_column("")
    for before, after in pairs:
        kinds = [_pair(before, after, name) for name in ("instructions", "python_calls", "c_calls")]
        more = any(ratio is not None and ratio > SLOWER for _, _, ratio in kinds)
        cells = [cell for kind in kinds for cell in _count_cells(*kind)]
        table.add_row(before.case, *cells, f"[bold red]more than {SLOWER}" if more else "")
    return table


def _pair(before: Count, after: Count, name: str) -> tuple[float | None, float | None, float | None]:
    old, new = getattr(before, name), getattr(after, name)
    return old, new, new / old if old and new else None


def _count_cells(old: float | None, new: float | None, ratio: float | None) -> tuple[str, str, str]:
    if old is None or new is None:
        return "", "", ""
    return f"{old:,.0f}", f"{new:,.0f}", "" if ratio is None else f"{ratio:.3f}"


def as_json(
    old: Version, comparisons: Sequence[Comparison], pairs: Sequence[tuple[Count, Count]], *, load: float
) -> dict[str, Any]:
    """All figures as plain values. ``load`` is the machine's load average at the start."""
    names = ("instructions", "python_calls", "c_calls")
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "against": old.name,
        "load": round(load, 2),
        "times": {one.case: one.as_json() for one in comparisons},
        "counts": {
            before.case: {name: [getattr(before, name), getattr(after, name)] for name in names}
            for before, after in pairs
        },
    }
