"""Workers of torture as processes: none stays behind, whichever process is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from person_repo.exceptions import PersonRepoError
from person_repo.testing.torture.plan import Plan
from person_repo.testing.torture.processes import Processes
from person_repo.testing.torture.rows import prepared

CHECKOUT = Path(__file__).parents[2]
WORKERS = 5

on_linux = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="/proc shows the processes of a run")


class Family:
    """A run of the command line, and all processes that it starts: they inherit a variable."""

    def __init__(self, folder: Path, *options: str) -> None:
        self._mark = f"PERSON_REPO_TEST_FAMILY={uuid.uuid4().hex}"
        name, _, value = self._mark.partition("=")
        self.parent = subprocess.Popen(
            [sys.executable, "-m", "person_repo", "torture", "--start-memcached", *options],
            env={**os.environ, name: value, "TMPDIR": str(folder)},
            cwd=CHECKOUT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def pids(self) -> set[int]:
        """All that run, or are paused."""
        found = set()
        for process in Path("/proc").iterdir():
            if process.name.isdecimal():
                try:
                    if self._mark.encode() in (process / "environ").read_bytes():
                        found.add(int(process.name))
                except OSError:  # ended meanwhile, or another user's
                    pass
        return found

    def forkserver(self) -> int | None:
        """The pid of the fork server, once it has forked all workers."""
        for pid in self.pids():
            if len(self.children(pid)) == WORKERS:
                return pid
        return None

    def children(self, of: int) -> list[int]:
        """The pids of a process's children."""
        return [pid for pid in self.pids() if parent_of(pid) == of]

    def ends(self, seconds: float = 60) -> bool:
        """True once no process is left."""
        return eventually(lambda: not self.pids(), seconds)


def parent_of(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def eventually(check: Callable[[], bool], seconds: float = 60) -> bool:
    until = time.monotonic() + seconds
    while not check():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


class Run(NamedTuple):
    family: Family
    forkserver: int
    workers: list[int]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """A run of a minute, whose workers are at work."""
    family = Family(tmp_path, "--seconds", "60")
    try:
        assert eventually(lambda: family.forkserver() is not None)
        forkserver = family.forkserver()
        assert forkserver is not None
        yield Run(family, forkserver, family.children(forkserver))
    finally:
        for pid in family.pids():
            os.kill(pid, signal.SIGKILL)
        family.parent.communicate()


@on_linux
def test_a_run_that_is_killed_leaves_no_process_behind_not_even_a_paused_one(run: Run) -> None:
    os.kill(run.workers[0], signal.SIGSTOP)

    run.family.parent.kill()

    assert run.family.ends()


@on_linux
def test_workers_end_when_their_parent_is_killed(run: Run) -> None:
    os.kill(run.forkserver, signal.SIGKILL)

    assert eventually(lambda: run.family.pids().isdisjoint(run.workers))


@on_linux
def test_ctrl_c_ends_all_processes_of_a_run(run: Run) -> None:
    os.killpg(run.family.parent.pid, signal.SIGINT)

    assert run.family.ends()
    assert run.family.parent.wait(60) == 130


def plan_in(folder: Path) -> Plan:
    return Plan(database_url=f"sqlite:///{folder / 'people.db'}", cache_url="null://", prefix="t-", seconds=60)


def test_a_lost_parent_of_the_workers_is_an_error(tmp_path: Path) -> None:
    plan = plan_in(tmp_path)
    with prepared(plan), Processes(plan, tmp_path) as workers:
        assert workers._forkserver is not None
        workers._forkserver.kill()

        with pytest.raises(PersonRepoError, match="the parent of the workers ended with status -9"):
            workers.stop()


def test_a_worker_that_cannot_begin_is_an_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    plan = plan_in(tmp_path)

    ended = pytest.raises(PersonRepoError, match="a worker ended before it began")
    with prepared(plan), ended, Processes(plan, tmp_path / "nowhere"):
        pass

    assert "FileNotFoundError" in capfd.readouterr().err


def test_a_fork_server_that_does_not_start_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with (
        pytest.raises(PersonRepoError, match="the parent of the workers ended"),
        Processes(plan_in(tmp_path), tmp_path),
    ):
        pass
