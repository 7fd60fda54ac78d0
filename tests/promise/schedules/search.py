"""The search: every schedule of a scenario, depth first, each replayed from its start.

Two ways to the same end. Without merging, each schedule is one run. With it, a run ends where it comes to a state that
has been searched before, and the schedules below that state are counted again without being run again. Both count every
schedule, and a test compares the two counts.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from promise.schedules.actors import Choice, Violation
from promise.schedules.database import ReadEngine
from promise.schedules.fingerprint import fingerprint
from promise.schedules.network import without_a_network
from promise.schedules.stage import Scenario, Stage
from promise.schedules.world import World

__all__ = ["Found", "Report", "hunt", "search"]


@dataclass(frozen=True)
class Found:
    """A schedule that breaks the promise: how, its steps, and how many had been run with it when it was found."""

    kind: str
    text: str
    choices: tuple[Choice, ...]
    run: int
    log: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"{number:>3}  {line}" for number, line in enumerate(self.log, 1)]
        return "\n".join([*lines, f"     {self.kind}: {self.text}"])


@dataclass
class Report:
    """A search: its amount and its findings.

    ``runs``: schedules that were run. ``schedules``: schedules that were searched, the merged ones included; of these
    ``stuck`` end with the one entry that is known to get stuck, of which ``known`` is the shortest that was run, and
    ``bad`` break the promise.
    """

    scenario: Scenario
    faults: int
    switches: int | None
    runs: int = 0
    steps: int = 0
    states: int = 0
    schedules: int = 0
    stuck: int = 0
    bad: int = 0
    seconds: float = 0.0
    complete: bool = True
    found: list[Found] = field(default_factory=list)
    known: Found | None = None

    @property
    def shortest(self) -> Found | None:
        """The shortest schedule found that breaks the promise."""
        return min(self.found, key=lambda found: len(found.choices), default=None)


class _Branch:
    """A state on the way of the current run, with the choices there and the results of those that were searched."""

    __slots__ = ("at", "bad", "choices", "key", "schedules", "stuck")

    def __init__(self, key: Hashable, choices: list[Choice]) -> None:
        self.key = key
        self.choices = choices
        self.at = 0
        self.schedules = self.stuck = self.bad = 0

    def add(self, schedules: int, stuck: int, bad: int) -> None:
        self.schedules += schedules
        self.stuck += stuck
        self.bad += bad


def search(
    scenario: Scenario,
    *,
    faults: int = 0,
    switches: int | None = None,
    merged: bool = True,
    most: int | None = None,
    draw: random.Random | None = None,
    before_read: Callable[[ReadEngine], None] | None = None,
) -> Report:
    """Searches every schedule of a scenario with at most so many faults.

    ``switches``: at most so many times the turn is taken from an actor that could have gone on. ``most``: stops after
    so many runs. ``draw``: the choices at each point are tried in a drawn order. ``before_read``: see ``Stage``.
    """
    report = Report(scenario, faults, switches)
    begun = time.process_time()
    with without_a_network():
        stage = Stage(scenario, before_read)
        _Search(stage, report, merged, most, draw).run()
        report.found = [_with_log(stage, found, faults) for found in report.found]
        if report.known is not None:
            report.known = _with_log(stage, report.known, faults)
    report.seconds = time.process_time() - begun
    return report


def hunt(
    scenario: Scenario,
    *,
    faults: int,
    switches: int = 3,
    most: int = 30_000,
    before_read: Callable[[ReadEngine], None] | None = None,
) -> tuple[Report, int]:
    """Searches with no switch, then with one, and so on, until a schedule breaks the promise.

    Returns the last report, whose ``shortest`` is the shortest schedule with as few switches as any, and how many had
    been run when the first was found.
    """
    runs = 0
    for bound in range(switches + 1):
        report = search(scenario, faults=faults, switches=bound, most=most, before_read=before_read)
        if report.found:
            return report, runs + report.found[0].run
        runs += report.runs
    return report, runs


class _Search:
    def __init__(
        self, stage: Stage, report: Report, merged: bool, most: int | None, draw: random.Random | None
    ) -> None:
        self.stage = stage
        self.report = report
        self.merged = merged
        self.most = most
        self.draw = draw
        self.known: dict[Hashable, tuple[int, int, int]] = {}
        self.branches: list[_Branch] = []

    def run(self) -> None:
        report = self.report
        while True:
            outcome = self._one()
            report.runs += 1
            if not self._settle(outcome):
                return
            if self.most is not None and report.runs >= self.most:
                report.complete = False
                for branch in self.branches:
                    report.schedules += branch.schedules
                    report.stuck += branch.stuck
                    report.bad += branch.bad
                return

    def _one(self) -> tuple[int, int, int]:
        """Replays the way to the last branch, takes its next choice, and goes on to the end or to a known state."""
        stage, report = self.stage, self.report
        world = stage.world(report.faults)
        switches = 0
        try:
            for branch in self.branches:
                choice = branch.choices[branch.at]
                switches += self._switches(world, choice)
                world.take(choice)
            report.steps += len(self.branches)
            while not world.over:
                choices = self._choices(world, switches)
                key = None
                if self.merged:
                    key = self._key(world, switches)
                    known = self.known.get(key)
                    if known is not None:
                        return known
                self.branches.append(_Branch(key, choices))
                report.steps += 1
                switches += self._switches(world, choices[0])
                world.take(choices[0])
            if not stage.finish(world):
                return 1, 0, 0
            self._keep_stuck(tuple(branch.choices[branch.at] for branch in self.branches))
            return 1, 1, 0
        except Violation as exc:
            way = tuple(branch.choices[branch.at] for branch in self.branches)
            report.found.append(Found(exc.kind, str(exc), way, report.runs + 1))
            return 1, 0, 1
        finally:
            world.close()

    def _keep_stuck(self, way: tuple[Choice, ...]) -> None:
        known = self.report.known
        if known is None or len(way) < len(known.choices):
            self.report.known = Found("stuck", "an old entry stays until its ttl", way, self.report.runs + 1)

    def _switches(self, world: World, choice: Choice) -> int:
        if self.report.switches is None:
            return 0
        return world.switches(choice)

    def _choices(self, world: World, switches: int) -> list[Choice]:
        choices = world.steps()
        bound = self.report.switches
        if bound is not None and switches >= bound:
            choices = [choice for choice in choices if not world.switches(choice)]
        choices += world.fault_choices()
        if not choices:
            raise AssertionError("nothing can happen and not everybody is done")
        if self.draw is not None:
            self.draw.shuffle(choices)
        return choices

    def _key(self, world: World, switches: int) -> Hashable:
        key = fingerprint(world)
        if self.report.switches is None:
            return key
        last = world.last and world.last.at, world.last_wire and world.last_wire.at
        return key, switches, last

    def _settle(self, outcome: tuple[int, int, int]) -> bool:
        """Counts the outcome of a run, drops the branches that are exhausted and turns to the next choice.

        Returns False if there is none.
        """
        branches, report = self.branches, self.report
        while branches:
            branch = branches[-1]
            branch.add(*outcome)
            branch.at += 1
            if branch.at < len(branch.choices):
                return True
            branches.pop()
            outcome = branch.schedules, branch.stuck, branch.bad
            if self.merged:
                self.known[branch.key] = outcome
                report.states += 1
        report.schedules, report.stuck, report.bad = outcome
        return False


def _with_log(stage: Stage, found: Found, faults: int) -> Found:
    """The finding with its steps in words, from one more run."""
    log: list[str] = []
    world = stage.world(faults, log)
    try:
        for choice in found.choices:
            world.take(choice)
        if world.over:
            stage.finish(world)
    except Violation:
        pass
    finally:
        world.close()
    return Found(found.kind, found.text, found.choices, found.run, tuple(log))
