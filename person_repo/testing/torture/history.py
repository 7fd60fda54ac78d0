"""An exact check of a recorded history: was any read older than a commit acknowledged before it began? No I/O.

The writes of one key have a total order: each carries the number that its transaction drew under the key's lock. A read
that began at t0 and ended at t1 may return the write numbered n only if

* no write with a higher number was acknowledged before t0 (else the read is *stale*, or merely *late* if staleness
  has a bound and the first such acknowledgement is no longer ago than that), and
* that write exists, began before t1, and was not rolled back (else the read is a *phantom*).

A read of several keys is a read of each key between the same two times: each must see what was acknowledged before the
whole read began. A write whose outcome is unknown, because its writer was killed, may or may not have happened.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = ["ABSENT", "Outcome", "Read", "Verdict", "Version", "Write", "check"]


class Version(NamedTuple):
    """The state that a write leaves and a read finds: a number in the key's order, and the attempt at that number.

    ``writer`` and its own ``serial`` number identify the attempt. Absence has neither (``ABSENT``).
    """

    number: int
    writer: int
    serial: int


ABSENT = Version(-1, -1, -1)
"""The version of a missing row. It does not say which deletion removed the row."""


class Outcome:
    """How a write ended, as its writer recorded it."""

    COMMITTED = "committed"
    ROLLED_BACK = "rolled back"
    UNKNOWN = "unknown"


class Write(NamedTuple):
    """One transaction's effect on one key. Times are nanoseconds of one clock; ``acknowledged`` is None unless
    committed.
    """

    key: int
    version: Version
    deletes: bool
    began: int
    outcome: str
    acknowledged: int | None


class Read(NamedTuple):
    """One answer for one key, found between two times."""

    key: int
    found: Version
    began: int
    ended: int


@dataclass
class Verdict:
    """How many reads were ``late`` (within the bound), ``stale`` (beyond it) or a ``phantom``.

    ``worst`` is the longest staleness of a late or stale read, in seconds from the first acknowledgement that it missed
    to its beginning; ``examples`` has some wrong reads in words.
    """

    reads: int = 0
    late: int = 0
    stale: int = 0
    phantom: int = 0
    worst: float = 0.0
    examples: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """True if every read was right, or no later than the bound."""
        return not self.stale and not self.phantom


class _Key:
    """The writes of one key, indexed by version and by time."""

    def __init__(self, writes: Iterable[Write]) -> None:
        ordered = sorted(writes, key=lambda write: write.version.number)
        committed = {write.version.number for write in ordered if write.outcome == Outcome.COMMITTED}
        # A killed writer rolled back if its number was committed by another attempt.
        self.possible = {
            write.version: write
            for write in ordered
            if write.outcome == Outcome.COMMITTED
            or (write.outcome == Outcome.UNKNOWN and write.version.number not in committed)
        }
        self.deletions = [write for write in self.possible.values() if write.deletes]
        acknowledged = sorted(
            (write.acknowledged, write.version.number) for write in ordered if write.acknowledged is not None
        )
        self.times = [time for time, _ in acknowledged]
        self.newest: list[int] = []
        for _, number in acknowledged:
            self.newest.append(max(number, self.newest[-1] if self.newest else number))

    def floor(self, began: int) -> int:
        """The number of the newest write acknowledged before a time; -1 if there is none."""
        index = bisect_left(self.times, began)
        return self.newest[index - 1] if index else -1

    def overdue(self, number: int) -> int:
        """The time at which the first write newer than this one was acknowledged."""
        return next(time for time, newest in zip(self.times, self.newest, strict=True) if newest > number)


def check(writes: Iterable[Write], reads: Iterable[Read], *, bound: float = 0.0) -> Verdict:
    """The verdict on a history, with at most ten examples.

    ``bound``: seconds by which a read may be late, from the first acknowledgement that it missed to its own beginning.
    """
    by_key: dict[int, list[Write]] = {}
    for write in writes:
        by_key.setdefault(write.key, []).append(write)
    keys = {key: _Key(of_key) for key, of_key in by_key.items()}
    verdict = Verdict()
    for read in reads:
        verdict.reads += 1
        _judge(read, keys[read.key] if read.key in keys else _Key([]), verdict, bound)
    return verdict


def _judge(read: Read, key: _Key, verdict: Verdict, bound: float) -> None:
    floor = key.floor(read.began)
    if read.found == ABSENT:
        candidates = [write for write in key.deletions if write.began < read.ended]
        number = max((write.version.number for write in candidates), default=None)
        if number is None and floor < 0:
            return  # nobody ever wrote it
    else:
        write = key.possible.get(read.found)
        number = write.version.number if write is not None and not write.deletes and write.began < read.ended else None
    if number is None:
        verdict.phantom += 1
        _show(verdict, f"phantom: {read} is of no committed write")
    elif number < floor:
        age = (read.began - key.overdue(number)) / 1e9
        verdict.worst = max(verdict.worst, age)
        if age <= bound:
            verdict.late += 1
            return
        verdict.stale += 1
        _show(verdict, f"stale by {age:.6f} s: {read}, but write {floor} was acknowledged before")


def _show(verdict: Verdict, example: str) -> None:
    if len(verdict.examples) < 10:
        verdict.examples.append(example)
