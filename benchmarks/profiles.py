"""The time of an operation of ours: the calls of one in order, and a profile of many."""

from __future__ import annotations

import cProfile
import io
import pstats
import random
import sys
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

from benchmarks.cases import Case
from benchmarks.contestants import OURS
from benchmarks.method import Contestant, Pace
from benchmarks.world import CHECKOUT, World

__all__ = ["profile"]

_OPERATIONS = 3000
_SLICE = 20


def profile(case: Case, world: World) -> str:
    """The calls of one operation, indented as they nest, and then a profile of a few thousand by own time.

    A profiler makes calls slow and leaves the rest as it is. Read what is called and how often; for times run the
    benchmark. The contestant is the last one of the benchmark whose name begins with ``ours``, or is "covered by ours".
    """
    chosen = [one for one in case.field(world, Pace(quick=True)) if OURS in one.name]
    if not chosen:
        raise SystemExit(f"{case.name} has no contestant of ours to profile")
    contestant = chosen[-1]
    items = random.Random(0).sample(case.items(world), min(_SLICE, 2 * case.operations))
    for _ in range(2):
        _each(contestant, items)
    listed, python, c = _calls(contestant, items[0])
    many = _profiled(contestant, items)
    counted = f"one operation of {contestant.name!r}: {python} Python calls, {c} calls of C functions"
    return f"{case.name}: {case.what}\n\n{counted}\n\n{listed}\n{many}"


def _each(contestant: Contestant, items: list[Any]) -> None:
    if contestant.prepare:
        contestant.prepare(items)
    for item in items:
        contestant.call(item)


def _calls(contestant: Contestant, item: Any) -> tuple[str, int, int]:
    """The calls of one operation as indented lines, and how many there are of Python and of C functions."""
    lines: list[str] = []
    counts = {"call": 0, "c_call": 0}
    depth = 0

    def listen(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal depth
        if event in counts:
            counts[event] += 1
            name = _name_of(frame.f_code) if event == "call" else getattr(argument, "__qualname__", str(argument))
            lines.append("  " * depth + name)
        if event == "call":
            depth += 1
        elif event == "return":
            depth -= 1

    if contestant.prepare:
        contestant.prepare([item])
    call: Callable[[Any], Any] = contestant.call
    sys.setprofile(listen)
    try:
        call(item)
    finally:
        sys.setprofile(None)
    lines.pop()  # sys.setprofile itself
    return "\n".join(lines), counts["call"], counts["c_call"] - 1


def _name_of(code: CodeType) -> str:
    place = code.co_filename.removeprefix(f"{CHECKOUT}/")
    _, _, package = place.rpartition("site-packages/")
    return f"{code.co_qualname}  ({package}:{code.co_firstlineno})"


def _profiled(contestant: Contestant, items: list[Any]) -> str:
    profiler = cProfile.Profile()
    for _ in range(max(_OPERATIONS // len(items), 1)):
        if contestant.prepare:
            contestant.prepare(items)
        profiler.enable()
        for item in items:
            contestant.call(item)
        profiler.disable()
    text = io.StringIO()
    pstats.Stats(profiler, stream=text).strip_dirs().sort_stats("tottime").print_stats(30)
    return text.getvalue()
