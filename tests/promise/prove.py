"""``make prove``: the proofs, row by row, as far as some minutes go; or all of them, with ``--full``.

A row is one pytest run of the tests that are marked ``proof(name=...)``. Its order, its samples and its random numbers
come from one seed, which is printed. Each row gets its share of the minutes that are left.

``--full`` leaves nothing out and no row has a limit. Rows that passed at this commit are not run again, so that a run
which was interrupted goes on where it stopped. Each result is written into the table of docs/maintain/proofs.md.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from project import matrix
from promise.environments import ENVIRONMENTS, Environment, UnavailableError

CHECKOUT = Path(__file__).resolve().parents[2]
TESTS = CHECKOUT / "tests"
STATE = CHECKOUT / ".prove" / "full.json"
REPORTS = CHECKOUT / ".runs"
PAGE = CHECKOUT / "docs" / "maintain" / "proofs.md"

LATE = 900.0
"""Seconds that the tests which are running when a row's time is over may still take."""


@dataclass(frozen=True)
class Row:
    """A proof: what it proves, its ``share`` of the minutes (0: in a full run only), and how much of it is all:
    ``rounds`` of the tests that draw what they do, and ``variables`` for them. ``environments``: it is ``make test``
    in each of them.
    """

    name: str
    proves: str
    share: int
    rounds: int
    variables: Mapping[str, str] = field(default_factory=dict)
    environments: Sequence[Environment] = ()

    def selection(self) -> list[str]:
        """Arguments of pytest: the files with tests of this proof, and their mark."""
        if self.name == "suite":
            return ["-m", "not proof or proof(name='suite')"]
        if self.name == "databases":  # of any test that is marked ``every_database``
            return ["-m", "proof(name='databases')"]
        files = [file for file in TESTS.rglob("test_*.py") if f'proof(name="{self.name}"' in file.read_text("utf-8")]
        return ["-m", f"proof(name='{self.name}')", *map(str, sorted(files))]


# At most twelve: who reads the table is to know each.
ROWS = [
    Row("suite", "everything else", 0, 1),
    Row("databases", "what a database may do its own way, on MariaDB and PostgreSQL, too", 5, 1),
    Row("schedules", "no order of steps, with a fault at any point, breaks the promise", 8, 2),
    Row("mutations", "each safeguard, taken away, is missed by the search of schedules", 3, 1),
    Row("interleavings", "known races, replayed step by step; processes that fork, are interrupted, end", 3, 10),
    Row("kill", "a writer killed at any call, or cut off, leaves nothing stale and nothing blocked", 5, 5),
    Row(
        "ways",
        "what is written in any way, in worlds drawn at random or by SQLAlchemy's own tests, is invalidated",
        6,
        20,
        {"PERSON_REPO_WORLDS": "4", "PERSON_REPO_SUITES": "all"},
    ),
    Row("stateful", "transactions in any order leave the cache as the database", 6, 20),
    Row("torture", "threads and processes under faults read nothing stale", 6, 3, {"PERSON_REPO_TORTURE_SECONDS": "9"}),
    Row("soak", "what a process holds does not grow", 5, 1, {"PERSON_REPO_SOAK": "300000"}),
    Row("fuzz", "bytes from outside raise what is documented, or nothing", 4, 50),
    Row("matrix", "the tests pass with each Python, SQLAlchemy and memcached", 0, 1, environments=ENVIRONMENTS),
]


@dataclass(frozen=True)
class Result:
    """The result of a row."""

    row: Row
    numbers: Mapping[str, Any]
    seconds: float
    seed: int
    failed: bool

    @property
    def amount(self) -> str:
        """How much of it was done, in words."""
        done = self.numbers["passed"]
        # Of the suite only the marked cases are counted beforehand.
        all_of_them = max(self.numbers["cases"], done + self.numbers["failed"] + self.numbers["error"])
        cases = f"{done:,} of {all_of_them:,} cases"
        return "; ".join([cases, *[f"{count:,} {name}" for name, count in self.numbers["amounts"].items()]])

    @property
    def outcome(self) -> str:
        """``passed``, or how many failed."""
        wrong = self.numbers["failed"] + self.numbers["error"]
        return f"{wrong} failed" if wrong else "FAILED" if self.failed else "passed"

    def cells(self, commit: str) -> dict[str, str]:
        """The row of the page."""
        return {
            "amount": self.amount,
            "result": self.outcome,
            "seconds": f"{self.seconds:,.0f}",
            "seed": str(self.seed),
            "date": datetime.date.today().isoformat(),
            "commit": commit,
        }


def run(row: Row, seed: int, *, until: float | None, rounds: int, variables: Mapping[str, str]) -> Result:
    """Runs a row, its output as it comes."""
    began = time.monotonic()
    arguments = [
        *[*row.selection(), "--proofs", "all", "--rounds", str(rounds), "--dist", "load", "--maxschedchunk", "1"],
        *([] if until is None else ["--until", str(until)]),
    ]
    seconds = None if until is None else until - time.time() + LATE
    numbers, failed = _tested(sys.executable, arguments, seed, variables, seconds)
    return Result(row, numbers, time.monotonic() - began, seed, failed)


def run_in_each(row: Row, seed: int, state: State) -> Result:
    """Runs the tests in each of the row's environments that they have not passed in, and writes the README's table."""
    began = time.monotonic()
    total: dict[str, Any] = {"passed": 0, "failed": 0, "error": 0, "cases": 0, "failures": []}
    passed = 0
    for environment in row.environments:
        name = f"{row.name}: {environment.name}"
        if state.has_passed(name):
            announce(f"{name}: passed already")
            passed += 1
            continue
        announce(name)
        numbers, failed = _tested_in(environment, seed)
        passed += not failed
        state.keep(name, passed=not failed)
        for key in ("passed", "failed", "error"):
            total[key] += numbers[key]
        total["failures"] += [f"{environment.name}: {failure}" for failure in numbers["failures"]]
        matrix.write(REPORTS)
    total["amounts"] = {f"of {len(row.environments)} environments": passed}
    return Result(row, total, time.monotonic() - began, seed, passed < len(row.environments))


def _tested_in(environment: Environment, seed: int) -> tuple[dict[str, Any], bool]:
    try:
        python, variables = environment.make(), environment.variables()
    except UnavailableError as exc:
        print(exc, flush=True)
        return {"passed": 0, "failed": 0, "error": 1, "failures": [str(exc)]}, True
    return _tested(python, ["--dist", "worksteal", f"--report={REPORTS}"], seed, variables, None)


def _tested(
    python: str, arguments: Sequence[str], seed: int, variables: Mapping[str, str], seconds: float | None
) -> tuple[dict[str, Any], bool]:
    """Runs pytest. Returns the numbers of the run, and whether it failed."""
    with tempfile.TemporaryDirectory(prefix="person_repo-") as folder:
        results = Path(folder) / "results.json"
        command = [python, "-m", "pytest", "-q", "-n", "auto", "--maxprocesses", "4", "--results", str(results)]
        environment = {**os.environ, **variables, "PERSON_REPO_SEED": str(seed)}
        code = _call([*command, *arguments], environment, seconds)
        found = json.loads(results.read_text(encoding="utf-8")) if results.exists() else {}
    numbers = {"passed": 0, "failed": 0, "error": 0, "cases": 0, "amounts": {}, "failures": [], **found}
    return numbers, code != 0 or not numbers["passed"]


def _call(command: Sequence[str], environment: Mapping[str, str], seconds: float | None) -> int:
    try:
        return subprocess.run(command, cwd=CHECKOUT, env=environment, timeout=seconds, check=False).returncode
    except subprocess.TimeoutExpired:
        announce(f"ended after {seconds:.0f} s: a test did not come to its end")
        return 1


def prove(rows: Sequence[Row], minutes: float, seed: int) -> list[Result]:
    """Runs these rows, one after the other, each for its share of the time that is left."""
    ends = time.time() + 60 * minutes
    done: list[Result] = []
    for number, row in enumerate(rows):
        shares = sum(each.share for each in rows[number:])
        until = time.time() + (ends - time.time()) * row.share / shares
        announce(f"{row.name}: {row.proves}; until {time.strftime('%H:%M:%S', time.localtime(until))}")
        done.append(run(row, seed, until=until, rounds=20 * row.rounds, variables={}))
    return done


def prove_everything(rows: Sequence[Row], seed: int) -> list[Result]:
    """Runs those of these rows that have not passed at this commit, wholly."""
    commit, clean = current_commit()
    state = State(commit if clean else "")
    done: list[Result] = []
    for row in rows:
        if state.has_passed(row.name):
            announce(f"{row.name}: passed at {commit} already")
            continue
        announce(f"{row.name}: {row.proves}; all of it")
        if row.environments:
            done.append(run_in_each(row, seed, state))
        else:
            done.append(run(row, seed, until=None, rounds=row.rounds, variables=row.variables))
        cells = done[-1].cells(commit if clean else f"{commit} and changes")
        state.keep(row.name, passed=not done[-1].failed)
        PAGE.write_text(with_cells(PAGE.read_text(encoding="utf-8"), row.name, cells), encoding="utf-8")
    return done


class State:
    """What has passed at a commit, by name, in a file that survives an interrupted run. No commit: nothing has."""

    def __init__(self, commit: str) -> None:
        self._commit = commit
        kept = json.loads(STATE.read_text(encoding="utf-8")) if STATE.exists() else {}
        self._passed: list[str] = kept["passed"] if commit and kept.get("commit") == commit else []

    def has_passed(self, name: str) -> bool:
        return name in self._passed

    def keep(self, name: str, *, passed: bool) -> None:
        if not self._commit or not passed:
            return
        self._passed.append(name)
        STATE.parent.mkdir(exist_ok=True)
        STATE.write_text(json.dumps({"commit": self._commit, "passed": self._passed}), encoding="utf-8")


def current_commit() -> tuple[str, bool]:
    """The last commit that changed more than the pages with results, and whether nothing else has changed since."""
    but_page = ["--", ".", *(f":!{page.relative_to(CHECKOUT)}" for page in (PAGE, matrix.PAGE))]
    commit = _git("log", "-1", "--format=%h", *but_page)
    return commit, not _git("status", "--porcelain", *but_page)


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(CHECKOUT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def with_cells(page: str, name: str, cells: Mapping[str, str]) -> str:
    """The page with the cells of one row replaced."""
    lines = page.splitlines(keepends=True)
    (at,) = [number for number, line in enumerate(lines) if line.startswith(f"| {name} |")]
    proves = lines[at].split(" | ")[1]
    lines[at] = f"| {' | '.join([name, proves, *cells.values()])} |\n"
    return "".join(lines)


def announce(line: str) -> None:
    """A line that stands out."""
    print(f"\n==== {line}", flush=True)


def report(done: Sequence[Result], seed: int) -> int:
    """Prints the table and how to repeat what failed; returns the exit code."""
    announce(f"result, with PERSON_REPO_SEED={seed}")
    for result in done:
        print(f"{result.row.name:<14} {result.outcome:<10} {result.seconds:>6,.0f} s  {result.amount}")
    for result in done:
        if result.failed:
            full = "" if result.row.share else " FULL=1"
            print(f"again: make prove{full} PERSON_REPO_SEED={seed} PROVE_ONLY={result.row.name}")
            print("".join(f"    {test}\n" for test in result.numbers["failures"]), end="")
    passed = sum(result.numbers["passed"] for result in done)
    failed = sum(result.numbers["failed"] + result.numbers["error"] for result in done)
    seconds = sum(result.seconds for result in done)
    print(f"{passed} passed, {failed} failed in {seconds:.0f} s")
    return int(any(result.failed for result in done))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=50, help="how long, about")
    parser.add_argument("--full", action="store_true", help="all rows, wholly, going on where the last run stopped")
    parser.add_argument("--only", choices=[row.name for row in ROWS], action="append", help="these rows only")
    options = parser.parse_args()
    seed = int(os.environ.get("PERSON_REPO_SEED") or random.SystemRandom().randrange(1_000_000))
    rows = [row for row in ROWS if not options.only or row.name in options.only]
    if options.full:
        return report(prove_everything(rows, seed), seed)
    return report(prove([row for row in rows if row.share], options.minutes, seed), seed)


if __name__ == "__main__":
    sys.exit(main())
