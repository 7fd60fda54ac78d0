"""Faults of workers and of the run's memcached, one at a time."""

from __future__ import annotations

import random
import time
from collections import Counter
from typing import Final

from person_repo.testing.servers import Memcached
from person_repo.testing.torture.plan import Plan
from person_repo.testing.torture.workers import Workers

__all__ = ["Faults"]

# Seconds.
_SHORTEST_REST: Final = 0.05
_LONGEST_REST: Final = 0.25
_LONGEST_RECOVERY: Final = 2.0  # a server that failed is asked again after a second; before, a fault would go unnoticed
_LONGEST_PAUSE: Final = 0.4
_SHORTEST_HANG: Final = 0.3  # longer than the default ``timeout``
_LONGEST_HANG: Final = 1.5

# Intervals of the fence: some partitions end before readers know of them, some long after.
_LONGEST_PARTITION: Final = 3.0

_SHORTEST_FAULT: Final = 1.0  # seconds that must be left for one


class Faults:
    """Chooses the faults of a plan; ``done`` counts them."""

    def __init__(self, plan: Plan, workers: Workers, memcached: Memcached | None) -> None:
        self._plan = plan
        self._workers = workers
        self._memcached = memcached
        self._random = random.Random(plan.seed)
        self._last = ""
        self.done: Counter[str] = Counter()

    def next(self, left: float) -> None:
        """Rests, and makes a fault if the plan has any, for at most the ``left`` seconds in all."""
        longest = _LONGEST_RECOVERY if self._last in ("partition", "hang") else _LONGEST_REST
        rest = min(left, _SHORTEST_REST + self._random.random() * longest)
        time.sleep(rest)
        if not self._plan.faults or left - rest < _SHORTEST_FAULT:
            return
        self._last = self._random.choice(self._plan.faults)
        self.done[self._last] += 1
        self._make(self._last, left - rest)

    def _make(self, fault: str, left: float) -> None:
        """Makes a fault and ends it. Two at a time could break one commit together: a documented limit."""
        luck = self._random.random()
        if fault == "pause":
            self._workers.pause(min(left, luck * _LONGEST_PAUSE), self._random)
        elif fault == "kill":
            self._workers.kill(self._random)
        elif fault == "partition":
            self._workers.partition(min(left, luck * _LONGEST_PARTITION * self._plan.fence_interval), self._random)
        elif self._memcached is None:
            raise AssertionError(f"{fault} without a memcached of its own")  # the plan refuses it
        elif fault == "restart":
            self._memcached.restart()
        elif fault == "hang":
            _hang(self._memcached, min(left, _SHORTEST_HANG + luck * (_LONGEST_HANG - _SHORTEST_HANG)))
        else:
            self._memcached.flush()


def _hang(memcached: Memcached, seconds: float) -> None:
    try:
        memcached.pause()
        time.sleep(seconds)
    finally:
        memcached.resume()
