"""Interleaved rounds, their medians with quartiles, and ratios taken within each round."""

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
    """A contestant gives a wrong answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How much work a run does; ``quick``: a fraction. ``rounds`` replaces the number of rounds of every benchmark,
    ``rows`` the number of people imported, ``seconds`` the time for which readers of a hot key are watched.
    """

    quick: bool = False
    rounds: int | None = None
    rows: int | None = None
    seconds: float | None = None

    def of(self, rounds: int) -> int:
        """The rounds of a benchmark that has ``rounds`` in a full run."""
        return self.rounds or (max(rounds // 5, min(rounds, 3)) if self.quick else rounds)


@dataclass(frozen=True)
class Contestant:
    """One way to do an operation: ``call`` does it for one item.

    ``prepare`` is called with all items of a round before its clock runs; ``expect`` is true for a right answer.
    """

    name: str
    call: Callable[[Any], Any]
    prepare: Callable[[Items], object] | None = None
    expect: Callable[[Any, Any], bool] | None = None

    def check(self, items: Items) -> None:
        """Do each item once. Raises ``WrongAnswerError``."""
        if self.prepare:
            self.prepare(items)
        for item in items:
            answer = self.call(item)
            if self.expect and not self.expect(item, answer):
                raise WrongAnswerError(f"{self.name}: {item!r:.80} is answered by {answer!r:.200}")

    def cost(self, items: Items) -> float:
        """The average seconds of one item. Needs two or more: the first is done and not counted, because the contestant
        before has filled the processor's caches.
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
        """The average seconds of one item; the first is not done at all."""
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
    """Freeze all existing objects: a collection would visit them again and again."""
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
    """The target of the ratio of two contestants' costs: a bound ``at_most`` or ``at_least``."""

    what: str
    of: str
    to: str
    at_most: float | None = None
    at_least: float | None = None

    def met_by(self, ratio: float) -> bool | None:
        """True if a ratio keeps the bound; None if there is no bound."""
        if self.at_most is None and self.at_least is None:
            return None
        return (self.at_most is None or ratio <= self.at_most) and (self.at_least is None or ratio >= self.at_least)


@dataclass(frozen=True, slots=True)
class Ratio:
    """A measured ratio, with its target."""

    target: Target
    spread: Spread

    @property
    def met(self) -> bool | None:
        """True if the median keeps the bound; None if there is no bound."""
        return self.target.met_by(self.spread.median)


def ratios_of(costs: Mapping[str, Sequence[float]], targets: Sequence[Target]) -> list[Ratio]:
    """The ratio of each target, taken round by round; targets with a missing contestant are left out."""
    return [
        Ratio(target, Spread.of([of / to for of, to in zip(costs[target.of], costs[target.to], strict=True)]))
        for target in targets
        if target.of in costs and target.to in costs
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The figures of one benchmark: seconds of one operation of each contestant, and ratios.

    ``more`` has other figures, fit for JSON.
    """

    name: str
    what: str
    rounds: int
    costs: Mapping[str, Spread]
    ratios: Sequence[Ratio]
    more: Mapping[str, Any] = field(default_factory=dict)
