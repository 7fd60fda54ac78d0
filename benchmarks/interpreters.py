"""Several Pythons in one run: ``make bench BENCH_ARGS="--pythons .venv/bin/python /other/.venv/bin/python"``.

Each has a worker, which reads hits as pymemcache does and as we do, round by round, with the garbage collector as it
is in a host. A ratio is taken within one round of one Python, so that builds which are slower as a whole compare.
"""

from __future__ import annotations

import datetime
import json
import random
import subprocess
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from benchmarks.against import HERE, Places, Version, Worker
from benchmarks.method import Pace, Spread

__all__ = ["CASES", "Interpreter", "as_json", "interpreters", "length", "measure", "table"]

CASES = {"hit": ("pymemcache", 200), "hits-100": ("pymemcache-100", 200)}
"""Our case, the peer's, and the operations of one turn: 200 batches of a hundred are 20,000 hits."""

_ROUNDS = 60
_SITTINGS = 3
_WARM_UP = 2

_WHICH = """
import json, platform, sys, sysconfig
print(json.dumps([platform.python_version(), platform.python_compiler(), sysconfig.get_config_var("prefix")]))
"""


@dataclass(frozen=True)
class Interpreter:
    """A Python that can import the package: its path, its version, and its build: compiler and prefix."""

    path: str
    version: str
    build: str


@dataclass(frozen=True, kw_only=True)
class Found:
    """One case on one Python: seconds of one operation of ours and of the peer, and their ratio in each round."""

    interpreter: Interpreter
    case: str
    ours: Spread
    peer: Spread
    ratio: Spread


def interpreters(paths: Sequence[str]) -> list[Interpreter]:
    """The Pythons of these paths. Raises ``SystemExit`` for one that does not run."""
    found = []
    for path in paths:
        try:
            done = subprocess.run([path, "-c", _WHICH], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError) as exc:
            raise SystemExit(f"benchmarks: {path} does not run: {exc}") from None
        version, compiler, prefix = json.loads(done.stdout)
        found.append(Interpreter(path, version, f"{compiler}, {prefix}"))
    return found


def length(pace: Pace) -> int:
    """How often ``measure`` reports."""
    return _sittings(pace) * _rounds(pace)


def _sittings(pace: Pace) -> int:
    return 1 if pace.quick else _SITTINGS


def _rounds(pace: Pace) -> int:
    return max(pace.of(_ROUNDS) // _sittings(pace), 1)


def measure(
    pythons: Sequence[Interpreter], places: Places, pace: Pace, processor: str, report: Callable[[], object]
) -> list[Found]:
    """Time each case on each Python. ``report`` is called after every round."""
    costs: dict[tuple[Interpreter, str], list[float]] = {
        (python, name): [] for python in pythons for case, (peer, _) in CASES.items() for name in (case, peer)
    }
    for sitting in range(_sittings(pace)):
        shuffled = random.Random(sitting)
        with ExitStack() as stack:
            workers = {
                python: stack.enter_context(
                    Worker(
                        Version(python.version, HERE.folder, python.path), [*places.arguments(processor), "on"], sitting
                    )
                )
                for python in pythons
            }
            for at in range(-_WARM_UP, _rounds(pace)):
                for case, (peer, operations) in CASES.items():
                    numbers = list(range(at * operations, (at + 1) * operations + 1))
                    for python in shuffled.sample(pythons, len(pythons)):
                        for name in shuffled.sample([case, peer], 2):
                            seconds = workers[python].ask("turn", name, numbers=numbers)
                            if at >= 0:
                                costs[python, name].append(seconds)
                report()
    return [
        Found(
            interpreter=python,
            case=case,
            ours=Spread.of(costs[python, case]),
            peer=Spread.of(costs[python, peer]),
            ratio=Spread.of([a / b for a, b in zip(costs[python, case], costs[python, peer], strict=True)]),
        )
        for case, (peer, _) in CASES.items()
        for python in pythons
    ]


def table(found: Sequence[Found]) -> Table:
    """Each case on each Python, with the ratio beside that of the first Python."""
    shown = Table(title="beside pymemcache in the same rounds, with the garbage collector on: medians, and quartiles")
    for name in ("", "Python", "build"):
        shown.add_column(name)
    for name in ("us, ours", "us, pymemcache", "ours / pymemcache", "quartiles", "x the first's"):
        shown.add_column(name, justify="right")
    for one in found:
        shown.add_row(
            one.case,
            one.interpreter.version,
            one.interpreter.build,
            f"{one.ours.median * 1e6:,.1f}",
            f"{one.peer.median * 1e6:,.1f}",
            f"{one.ratio.median:.3f}",
            f"{one.ratio.lower:.2f} - {one.ratio.upper:.2f}",
            f"{one.ratio.median / _first(found, one.case).ratio.median:.3f}",
        )
    return shown


def _first(found: Sequence[Found], case: str) -> Found:
    return next(one for one in found if one.case == case)


def as_json(found: Sequence[Found], *, load: float) -> dict[str, Any]:
    """All figures as plain values; times in microseconds. ``load``: the machine's load average at the start."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "load": round(load, 2),
        "pythons": [
            {
                "case": one.case,
                "python": one.interpreter.version,
                "build": one.interpreter.build,
                "ours": one.ours.median * 1e6,
                "pymemcache": one.peer.median * 1e6,
                "ratio": [one.ratio.median, one.ratio.lower, one.ratio.upper],
            }
            for one in found
        ],
    }
