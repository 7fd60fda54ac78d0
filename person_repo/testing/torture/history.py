"""An exact check of a recorded history: was any read older than a commit acknowledged before it began? Pure.

Writes of one key are in a total order: each carries the number that its transaction drew under the key's lock. A read
that began at t0 and ended at t1 may return the write numbered n only if

* no write with a higher number was acknowledged before t0 (else the read is *stale*, or merely *late* where staleness
  has a bound and the first such acknowledgement is no longer ago than that), and
* that write exists, began before t1, and was not rolled back (else the read is a *phantom*).

A read of several keys is a read of each between the same two times: every one of them must see what was acknowledged
before the whole began. A write whose outcome nobody knows, because its writer was killed, may or may not have happened.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = ["ABSENT", "Outcome", "Read", "Verdict", "Version", "Write", "check"]


class Version(NamedTuple):
    """What a write leaves and a read finds: the number in its key's order, and what tells attempts of that number
    apart.

    An attempt is told by its writer and that one's own ``serial`` number; absence has neither (``ABSENT``).
    """

    number: int
    writer: int
    serial: int


ABSENT = Version(-1, -1, -1)
"""What a read finds where there is no row; which deletion left it, it cannot tell."""


class Outcome:
    """How a write ended, as far as its writer could say."""

    COMMITTED = "committed"
    ROLLED_BACK = "rolled back"
    UNKNOWN = "unknown"


class Write(NamedTuple):
    """One transaction's effect on one key. Times in nanoseconds of one clock; ``acknowledged`` is None unless
    committed.
    """

    key: int
    version: Version
    deletes: bool
    began: int
    outcome: str
    acknowledged: int | None


class Read(NamedTuple):
    """One answer for one key: what was found between two times."""

    key: int
    found: Version
    began: int
    ended: int


@dataclass
class Verdict:
    """What the check found: how many reads were ``late`` (within the bound), ``stale`` (beyond it) or a ``phantom``.

    ``worst`` is the longest staleness of a late or stale read in seconds, from the first acknowledgement that should
    have been seen to the beginning of the read; ``examples`` shows some of what is wrong.
    """

    reads: int = 0
    late: int = 0
    stale: int = 0
    phantom: int = 0
    worst: float = 0.0
    examples: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether every read was right, or no later than the bound allows."""
        return not self.stale and not self.phantom


class _Key:
    """The writes of one key, ready to be asked about."""

    def __init__(self, writes: Iterable[Write]) -> None:
        ordered = sorted(writes, key=lambda write: write.version.number)
        committed = {write.version.number for write in ordered if write.outcome == Outcome.COMMITTED}
        # A number that another attempt committed was given back by the one that nobody heard of again.
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
        """The newest write acknowledged before a time; -1 for none."""
        at = bisect_left(self.times, began)
        return self.newest[at - 1] if at else -1

    def overdue(self, number: int) -> int:
        """When the first write newer than this one was acknowledged."""
        return next(time for time, newest in zip(self.times, self.newest, strict=True) if newest > number)


def check(writes: Iterable[Write], reads: Iterable[Read], *, bound: float = 0.0) -> Verdict:
    """The verdict on a history; at most ten examples of what is wrong in it.

    ``bound``: seconds by which a read may be late, counted from the acknowledgement that it should have seen to its own
    beginning, both on the clock of the records.
    """
    by_key: dict[int, list[Write]] = {}
    for write in writes:
        by_key.setdefault(write.key, []).append(write)
    keys = {key: _Key(found) for key, found in by_key.items()}
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
            return  # nothing was ever written: absent from the start
    else:
        found = key.possible.get(read.found)
        number = found.version.number if found is not None and not found.deletes and found.began < read.ended else None
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
