"""The figures of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from person_repo.testing.torture import history
from person_repo.testing.torture.history import Outcome, Write
from person_repo.testing.torture.plan import Plan
from person_repo.testing.torture.records import reads_in, summaries_in, writes_in
from person_repo.testing.torture.rows import FIRST

__all__ = ["Report", "report_on"]


@dataclass(frozen=True, slots=True)
class Report:
    """The figures of a run. ``clean``: the promise was kept.

    A read that missed an acknowledged write is ``late`` if the acknowledgement came no more than the plan's ``bound``
    before the read began, and ``stale`` if it came earlier. ``worst_staleness`` is the longest such time, in seconds.
    A ``phantom`` is a read of what was never committed. ``examples`` has some of what is wrong, in words.
    """

    plan: Plan
    reads: int
    hits: int
    writes: int
    late: int
    stale: int
    phantom: int
    worst_staleness: float
    errors: int
    faults: dict[str, int] = field(default_factory=dict)
    error_kinds: dict[str, int] = field(default_factory=dict)
    examples: tuple[str, ...] = ()

    @property
    def clean(self) -> bool:
        """True if no read was stale beyond the bound, and none found what was never committed."""
        return self.stale == 0 and self.phantom == 0

    def as_dict(self) -> dict[str, Any]:
        """The figures by name."""
        names = ("reads", "hits", "writes", "late", "stale", "phantom", "worst_staleness", "errors", "faults", "clean")
        return {"bound": self.plan.bound, **{name: getattr(self, name) for name in names}}


def report_on(plan: Plan, folder: Path, faults: Mapping[str, int]) -> Report:
    """Checks the records in a folder, and adds up the figures."""
    writes = list(writes_in(folder))
    first = [Write(key, FIRST, False, 0, Outcome.COMMITTED, 0) for key in range(plan.keys)]
    verdict = history.check([*first, *writes], reads_in(folder), bound=plan.bound)
    summaries = summaries_in(folder)
    errors = sum((summary.errors for summary in summaries), Counter[str]())
    # Threads have one service and one count, which each of them has summarized.
    together = max if plan.in_threads else sum
    return Report(
        plan,
        reads=verdict.reads,
        hits=together(summary.hits for summary in summaries),
        writes=sum(write.outcome == Outcome.COMMITTED for write in writes),
        late=verdict.late,
        stale=verdict.stale,
        phantom=verdict.phantom,
        worst_staleness=verdict.worst,
        errors=errors.total(),
        faults=dict(faults),
        error_kinds=dict(errors),
        examples=tuple(verdict.examples),
    )
