"""``python -m benchmarks``: the command line of the benchmarks."""

from __future__ import annotations

import argparse
import fnmatch
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from benchmarks import against, counts, interpreters
from benchmarks.cases import CASES, Case
from benchmarks.method import Pace, Result
from benchmarks.profiles import profile
from benchmarks.report import as_json, contestants_table, ratios_table
from benchmarks.world import World

__all__ = ["main"]

_BUSY = 1.0
"""The load average above which other work shares the machine."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the chosen benchmarks and print the figures. Returns 0, also if a target is missed."""
    options = _parser().parse_args(arguments)
    if options.count and not options.against:
        raise SystemExit("benchmarks: --count compares two versions; name the other one with --against REF")
    try:
        with ExitStack() as stack:
            if options.against:
                return _against(options, stack)
            if options.pythons:
                return _pythons(options, stack)
            return _run(options, _chosen(options.only), World(stack))
    except (
        pytest.skip.Exception,
        pytest.fail.Exception,
    ) as exc:  # A server is not installed, as the tests' module for servers says.
        raise SystemExit(f"benchmarks: {exc.msg}; make servers installs it") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="The costs of the package, beside the floor and its peers, on servers of its own.",
        epilog=f"benchmarks: {', '.join(case.name for case in CASES)}; with --against: {', '.join(against.NAMES)}",
    )
    parser.add_argument("--quick", action="store_true", help="a fifth of the rounds, 20,000 people imported")
    parser.add_argument("--rounds", type=int, metavar="N", help="the number of rounds of every benchmark")
    parser.add_argument("--rows", type=int, metavar="N", help="the number of people in import-people")
    parser.add_argument("--seconds", type=float, metavar="N", help="how long herd watches each way to read")
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", default=["*"], help="only these; * and ? match as in a shell"
    )
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write all figures to this file")
    parser.add_argument(
        "--plots", type=Path, metavar="DIR", help="also draw SVG files in this folder (needs matplotlib)"
    )
    parser.add_argument("--replot", type=Path, metavar="JSON", help="measure nothing: draw the figures of this file")
    parser.add_argument("--against", metavar="REF", help="compare this checkout with a commit, and with itself")
    parser.add_argument(
        "--pythons",
        nargs="+",
        metavar="PATH",
        help="compare hits on these Pythons, each of which can import what the package needs",
    )
    parser.add_argument("--count", action="store_true", help="with --against: count instructions and calls instead")
    parser.add_argument(
        "--database",
        choices=("mariadb", "sqlite"),
        default="mariadb",
        help="the database of --against; mariadb if not given",
    )
    parser.add_argument(
        "--profile", metavar="NAME", help="measure nothing: list the calls of our operation, and profile it"
    )
    return parser


def _chosen(patterns: Sequence[str]) -> list[Case]:
    names = _matching([case.name for case in CASES], patterns)
    return [case for case in CASES if case.name in names]


def _matching(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise SystemExit(f"benchmarks: there is no benchmark {pattern!r}; there are: {', '.join(names)}")
    return [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]


def _against(options: argparse.Namespace, stack: ExitStack) -> int:
    """Compare this checkout with another commit, by time or by counts."""
    cases = _matching(against.NAMES, options.only)
    old = stack.enter_context(against.checked_out(options.against))
    processor = "" if options.count else stack.enter_context(against.pinned())
    world = World(stack)
    places = against.Places(world, options.database)
    console = _console()
    times: list[against.Comparison] = []
    counted: list[tuple[against.Count, against.Count]] = []
    if options.count:
        if not counts.is_available():
            console.print("valgrind is not installed: only calls are counted, no instructions.")
        counted = against.count(old, cases, places, world.folder)
        console.print(against.counts_table(old, counted))
    else:
        pace = Pace(quick=options.quick, rounds=options.rounds)
        with _bars() as bars:
            bar = bars.add_task(f"against {old.name}", total=against.sittings(pace) * len(cases))
            times = against.compare(old, cases, places, pace, processor, _drawn(bars, bar))
        console.print(against.comparisons_table(old, times))
        _say_if_busy(console, world)
    _write(options.json, against.as_json(old, times, counted, load=world.load))
    return 0


def _pythons(options: argparse.Namespace, stack: ExitStack) -> int:
    """Compare hits on several Pythons."""
    pythons = interpreters.interpreters(options.pythons)
    processor = stack.enter_context(against.pinned())
    world = World(stack)
    pace = Pace(quick=options.quick, rounds=options.rounds)
    console = _console()
    with _bars() as bars:
        bar = bars.add_task(f"{len(pythons)} Pythons", total=interpreters.length(pace))
        places = against.Places(world, "sqlite")
        found = interpreters.measure(pythons, places, pace, processor, _drawn(bars, bar))
    console.print(interpreters.table(found))
    _say_if_busy(console, world)
    _write(options.json, interpreters.as_json(found, load=world.load))
    return 0


def _run(options: argparse.Namespace, cases: Sequence[Case], world: World) -> int:
    console = _console()
    if options.profile:
        (case,) = _chosen([options.profile])
        console.print(profile(case, world), markup=False, highlight=False, soft_wrap=True)
        return 0
    if options.replot:
        found = json.loads(options.replot.read_text(encoding="utf-8"))
    else:
        pace = Pace(quick=options.quick, rounds=options.rounds, rows=options.rows, seconds=options.seconds)
        results = list(_measured(cases, world, pace))
        console.print(contestants_table(results), ratios_table(results))
        _say_if_busy(console, world)
        found = as_json(results, world.versions(), quick=options.quick, load=world.load)
    _write(options.json, found)
    if options.plots:
        from benchmarks.plots import draw

        for path in draw(found, options.plots):
            console.print(f"drew {path}", highlight=False)
    return 0


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else 140)


def _say_if_busy(console: Console, world: World) -> None:
    if world.load > _BUSY:
        console.print(
            f"The machine was busy when this began (load {world.load:.1f}): threads and processes had to share it."
        )


def _write(path: Path | None, found: dict[str, Any]) -> None:
    """Write the JSON, if a path is given."""
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _measured(cases: Sequence[Case], world: World, pace: Pace) -> Iterator[Result]:
    with _bars() as bars:
        whole = bars.add_task("all", total=len(cases))
        for case in cases:
            bar = bars.add_task(case.name, total=case.length(pace))
            bars.refresh()
            yield case.run(world, pace, _drawn(bars, bar))
            bars.remove_task(bar)
            bars.advance(whole)


def _drawn(bars: Progress, bar: TaskID) -> Callable[[], None]:
    """A function to call between two rounds, which draws the bars, a few times a second at most. A thread would draw
    them while the clock runs.
    """
    drawn = 0.0

    def report() -> None:
        nonlocal drawn
        bars.advance(bar)
        if (now := time.monotonic()) > drawn + 0.25:
            drawn = now
            bars.refresh()

    return report


@contextmanager
def _bars() -> Iterator[Progress]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False) as bars:
        yield bars


if __name__ == "__main__":
    sys.exit(main())
