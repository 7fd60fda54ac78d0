"""One run of torture, from the plan to the report."""

from __future__ import annotations

import contextlib
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from person_repo.testing.servers import Memcached, started_on_a_free_port
from person_repo.testing.torture.faults import Faults
from person_repo.testing.torture.plan import Plan
from person_repo.testing.torture.processes import Processes
from person_repo.testing.torture.report import Report, report_on
from person_repo.testing.torture.rows import prepared
from person_repo.testing.torture.workers import Threads, Workers

__all__ = ["run"]


def run(plan: Plan, *, progress: Callable[[float], None] | None = None) -> Report:
    """Carries out a plan and judges it. ``progress`` is called with the seconds that have passed.

    Raises ``ConfigurationError`` for a plan that cannot be carried out, ``PersonRepoError`` if workers or servers do
    not start, and what the database raises.
    """
    plan = replace(plan, prefix=f"torture-{uuid.uuid4().hex[:8]}-")
    with contextlib.ExitStack() as stack:
        memcached = None
        if plan.own_memcached:
            memcached = stack.enter_context(started_on_a_free_port(Memcached))
            plan = replace(plan, cache_url=f"memcached://{memcached.url}")
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="person_repo-torture-")))
        stack.enter_context(prepared(plan))
        workers: Workers = Threads(plan, folder) if plan.in_threads else Processes(plan, folder)
        faults = Faults(plan, stack.enter_context(workers), memcached)
        start = time.monotonic()
        while (passed := time.monotonic() - start) < plan.seconds:
            faults.next(plan.seconds - passed)
            if progress is not None:
                progress(passed)
        workers.stop()
        return report_on(plan, folder, faults.done)
