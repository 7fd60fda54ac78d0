"""Interleaved rounds, and what is made of them: medians with their quartiles, and ratios taken within each round."""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "Clocked",
    "Contestant",
    "Pace",
    "Ratio",
    "Result",
    "Spread",
    "Target",
    "WrongAnswerError",
    "measure",
    "ratios_of",
]

Items = Sequence[Any]


class WrongAnswerError(Exception):
    """A contestant does not do what it is measured for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How much work a run does: ``quick`` a fraction of it. ``rounds`` replaces the number of every benchmark, ``rows``
    the number of people imported, ``seconds`` how long the readers of a hot key are watched.
    """

    quick: bool = False
    rounds: int | None = None
    rows: int | None = None
    seconds: float | None = None

    def of(self, rounds: int) -> int:
        """The rounds for a benchmark that should have so many."""
        return self.rounds or (max(rounds // 5, min(rounds, 3)) if self.quick else rounds)


@dataclass(frozen=True)
class Contestant:
    """One way to do an operation: ``call`` does it for one item.

    ``prepare`` is called with all items of a round before its clock runs; ``expect`` tells whether an answer is right.
    """

    name: str
    call: Callable[[Any], Any]
    prepare: Callable[[Items], object] | None = None
    expect: Callable[[Any, Any], bool] | None = None

    def check(self, items: Items) -> None:
        """Does each item once. Raises ``WrongAnswerError``."""
        if self.prepare:
            self.prepare(items)
        for item in items:
            answer = self.call(item)
            if self.expect and not self.expect(item, answer):
                raise WrongAnswerError(f"{self.name}: {item!r:.80} is answered by {answer!r:.200}")

    def cost(self, items: Items) -> float:
        """Seconds for one item, on average, the first of at least two left out: the contestant before has left the
        processor's caches full of its own.
        """
        if self.prepare:
            self.prepare(items)
        call = self.call
        first, *rest = items
        call(first)
        start = time.perf_counter()
        for item in rest:
            call(item)
        return (time.perf_counter() - start) / len(rest)


@dataclass(frozen=True)
class Clocked(Contestant):
    """A contestant that reads the clock itself, such as another process: ``call`` returns the seconds of one item."""

    def cost(self, items: Items) -> float:
        """Seconds for one item, on average; the first is left out, and not done either."""
        if self.prepare:
            self.prepare(items)
        return statistics.fmean(self.call(item) for item in items[1:])


def measure(
    contestants: Sequence[Contestant],
    draw: Callable[[random.Random], Items],
    *,
    rounds: int,
    warm_up: int = 0,
    checked: bool = True,
    report: Callable[[], object] = lambda: None,
) -> dict[str, list[float]]:
    """The seconds for one operation of each contestant, round by round; ``draw`` makes the items of a round.

    ``report`` is called after every round. Raises ``WrongAnswerError`` before the first one.
    """
    shuffled = random.Random(0)
    if checked:
        for contestant in contestants:
            contestant.check(draw(shuffled))
    costs: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    with _no_garbage_collection():
        for at in range(-warm_up, rounds):
            items = draw(shuffled)
            for contestant in shuffled.sample(contestants, len(contestants)):
                cost = contestant.cost(items)
                if at >= 0:
                    costs[contestant.name].append(cost)
            gc.collect()
            report()
    return costs


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """What exists is frozen: a collection would go through all of it again and again."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


@dataclass(frozen=True, slots=True)
class Spread:
    """A median and the quartiles around it."""

    median: float
    lower: float
    upper: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of at least one value."""
        if len(values) < 2:
            return cls(values[0], values[0], values[0])
        lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, lower, upper)

    def times(self, factor: float) -> Spread:
        """The same in another unit."""
        return Spread(self.median * factor, self.lower * factor, self.upper * factor)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What the ratio of two contestants' costs should be: ``at_most`` or ``at_least`` so much."""

    what: str
    of: str
    to: str
    at_most: float | None = None
    at_least: float | None = None

    def met_by(self, ratio: float) -> bool | None:
        """Whether a ratio is good enough; None where it is only shown."""
        if self.at_most is None and self.at_least is None:
            return None
        return (self.at_most is None or ratio <= self.at_most) and (self.at_least is None or ratio >= self.at_least)


@dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio as it was measured, beside what it should be."""

    target: Target
    spread: Spread

    @property
    def met(self) -> bool | None:
        """Whether it is good enough; None where it is only shown."""
        return self.target.met_by(self.spread.median)


def ratios_of(costs: Mapping[str, Sequence[float]], targets: Sequence[Target]) -> list[Ratio]:
    """The ratio of each target, taken round by round; without those of which a contestant was not there."""
    return [
        Ratio(target, Spread.of([of / to for of, to in zip(costs[target.of], costs[target.to], strict=True)]))
        for target in targets
        if target.of in costs and target.to in costs
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one benchmark found: seconds for one operation of each contestant, the ratios, and whatever else it tells.

    ``more`` is fit for JSON.
    """

    name: str
    what: str
    rounds: int
    costs: Mapping[str, Spread]
    ratios: Sequence[Ratio]
    more: Mapping[str, Any] = field(default_factory=dict)
