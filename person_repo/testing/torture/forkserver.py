"""The parent of worker processes: imports SQLAlchemy and the package once, and forks each worker.

``processes`` starts it as ``python -m`` and speaks JSON lines to it: first the plan and a folder; then for each worker
its role, number and addresses, answered by a pid, or ``null``, answered by the pids that have ended. The plan goes
by a pipe, because any user of the machine can read the arguments of a process, and URLs hold passwords.

No process stays behind. The end of that pipe, which SIGKILL of the other side brings about, too, ends the workers and
then this process. If this process is killed, the workers read the end of a pipe of their own.

``multiprocessing`` has such a server, one for all of a process, and a host may use it: its preloaded modules are for
all, it outlives a run, and its children import the host's ``__main__``.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Final, NoReturn

from sqlalchemy import orm

from person_repo.database.engines import engine_of
from person_repo.testing.torture.plan import Plan
from person_repo.testing.torture.subjects import subject_of
from person_repo.testing.torture.workers import Worker

__all__ = ["GRACE", "main"]

GRACE: Final = 30.0
"""Seconds that workers have to end after the word to stop; then they are killed."""

_OVERTIME: Final = 120.0
"""Seconds beyond the plan's after which a worker ends by itself."""


def main() -> None:
    """Serves requests until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that holds the other end of the pipe
    logging.disable(logging.CRITICAL)  # every worker would log every fault; the report counts them
    plan_fields, folder = json.loads(sys.stdin.buffer.readline())
    plan = Plan(**{**plan_fields, "faults": tuple(plan_fields["faults"])})
    orm.configure_mappers()
    engine_of(plan.database_url).dispose()  # imports the driver
    workers = _Workers(plan, Path(folder))
    try:
        for line in iter(sys.stdin.buffer.readline, b""):
            request = json.loads(line)
            print(json.dumps(workers.ended() if request is None else workers.start(*request)), flush=True)
    finally:
        workers.stop()


class _Workers:
    """The workers, all of which read the same pipe: its end is the word to stop."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self._plan = plan
        self._folder = folder
        self._running: set[int] = set()
        self._stopping, self._stop = os.pipe()

    def start(self, role: str, number: int, addresses: dict[str, str]) -> int:
        """Forks a worker; returns its pid."""
        pid = os.fork()
        if pid == 0:
            os.close(self._stop)
            self._work(role, number, addresses)
        self._running.add(pid)
        return pid

    def _work(self, role: str, number: int, addresses: dict[str, str]) -> NoReturn:
        try:
            with open(os.devnull, "r+b") as nothing:
                os.dup2(nothing.fileno(), 0)
                os.dup2(nothing.fileno(), 1)
            worker = Worker(self._plan, subject_of(self._plan, number, addresses), number, self._folder)
            stop = _set_at_end(self._stopping)
            (self._folder / f"{number}.ready").touch()
            worker.work(role, stop, time.monotonic() + self._plan.seconds + _OVERTIME)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)

    def ended(self) -> list[int]:
        """The pids of all workers that have ended since this was asked last."""
        ended = []
        while self._running:
            pid, _ = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            self._running.discard(pid)
            ended.append(pid)
        return ended

    def stop(self) -> None:
        """Ends the workers: those that are paused go on first, those that do not end are killed."""
        self.ended()
        os.close(self._stop)
        for pid in self._running:
            os.kill(pid, signal.SIGCONT)
        deadline = time.monotonic() + GRACE
        while self._running and time.monotonic() < deadline:
            self.ended()
            time.sleep(0.01)
        for pid in self._running:
            os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _set_at_end(descriptor: int) -> threading.Event:
    """An event that is set at the end of a pipe."""
    stop = threading.Event()

    def listen() -> None:
        os.read(descriptor, 1)
        stop.set()

    threading.Thread(target=listen, daemon=True).start()
    return stop


if __name__ == "__main__":
    main()
