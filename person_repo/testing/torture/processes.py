"""Workers as processes, which can be paused, killed and cut off from a server."""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from person_repo.exceptions import PersonRepoError
from person_repo.testing.proxy import Proxy
from person_repo.testing.torture.forkserver import GRACE
from person_repo.testing.torture.plan import Plan
from person_repo.urls import parse_cache_url

__all__ = ["Processes"]

_STARTUP: Final = 60.0
"""Seconds that workers may take to start; the run begins when all of them have."""

_PARTITIONS: Final = (Proxy.cut, Proxy.hang, Proxy.blackhole, Proxy.drop)


class _Process(NamedTuple):
    """A worker process, and the proxies between it and each server if there are partitions."""

    pid: int
    role: str
    number: int
    proxies: tuple[Proxy, ...]


class Processes:
    """The workers of a plan, as children of one fork server."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self._plan = plan
        self._folder = folder
        self._started = 0
        self._running: list[_Process] = []
        self._proxies = contextlib.ExitStack()
        self._forkserver: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self._forkserver = subprocess.Popen(
                [sys.executable, "-m", "person_repo.testing.torture.forkserver"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
            )
            self._send([asdict(self._plan), str(self._folder)])
            for role, count in (("read", self._plan.readers), ("write", self._plan.writers)):
                for _ in range(count):
                    self._start(role, self._new_proxies())
            self._await_all()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _new_proxies(self) -> tuple[Proxy, ...]:
        """One for each server; none without partitions, since they cost time."""
        servers = parse_cache_url(self._plan.cache_url).servers if "partition" in self._plan.faults else ()
        return tuple(self._proxies.enter_context(Proxy(server, seed=self._plan.seed)) for server in servers)

    def _start(self, role: str, proxies: tuple[Proxy, ...]) -> None:
        self._started += 1
        self._send([role, self._started, {proxy.server: proxy.address for proxy in proxies}])
        self._running.append(_Process(self._answer(), role, self._started, proxies))

    def _await_all(self) -> None:
        """Waits until every worker has begun."""
        deadline = time.monotonic() + _STARTUP
        while not all((self._folder / f"{worker.number}.ready").exists() for worker in self._running):
            self._send(None)
            ended = self._answer()
            if any(worker.pid in ended for worker in self._running):
                raise PersonRepoError("a worker ended before it began; its error is above")
            if time.monotonic() > deadline:
                raise PersonRepoError(f"a worker did not begin within {_STARTUP:.0f} s")
            time.sleep(0.01)

    def _send(self, request: Any) -> None:
        assert self._forkserver is not None
        assert self._forkserver.stdin is not None
        try:
            self._forkserver.stdin.write(json.dumps(request).encode() + b"\n")
        except BrokenPipeError:
            raise PersonRepoError("the parent of the workers ended; its error is above") from None

    def _answer(self) -> Any:
        assert self._forkserver is not None
        assert self._forkserver.stdout is not None
        ready, _, _ = select.select([self._forkserver.stdout], [], [], _STARTUP)
        if not ready:
            raise PersonRepoError(f"the parent of the workers did not answer within {_STARTUP:.0f} s")
        if line := self._forkserver.stdout.readline():
            return json.loads(line)
        raise PersonRepoError("the parent of the workers ended; its error is above")

    def pause(self, seconds: float, choose: random.Random) -> None:
        """Stops a worker for so many seconds."""
        pid = choose.choice(self._running).pid
        os.kill(pid, signal.SIGSTOP)
        try:
            time.sleep(seconds)
        finally:
            os.kill(pid, signal.SIGCONT)

    def kill(self, choose: random.Random) -> None:
        """Kills a worker and starts another in its place; returns when that has begun."""
        victim = choose.choice(self._running)
        self._running.remove(victim)
        os.kill(victim.pid, signal.SIGKILL)
        self._start(victim.role, victim.proxies)
        self._await_all()  # without it, more would be starting than working

    def partition(self, seconds: float, choose: random.Random) -> None:
        """Cuts a worker off from a server for so many seconds, in one of four ways."""
        proxy = choose.choice(choose.choice(self._running).proxies)
        choose.choice(_PARTITIONS)(proxy)
        try:
            time.sleep(seconds)
        finally:
            proxy.heal()

    def stop(self) -> None:
        """Returns once all workers have ended. Raises ``PersonRepoError`` if their parent was lost."""
        self._running.clear()
        if (server := self._forkserver) is None:
            return
        for pipe in (server.stdin, server.stdout):
            if pipe is not None:
                pipe.close()
        try:
            status = server.wait(GRACE + 10)
        except subprocess.TimeoutExpired:
            server.kill()
            status = server.wait()
        if status:
            raise PersonRepoError(f"the parent of the workers ended with status {status}; its error is above")

    def __exit__(self, *raised: object) -> None:
        # Whatever interrupted the run, do not wait for transactions.
        for worker in self._running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGKILL)
        try:
            with contextlib.suppress(PersonRepoError):
                self.stop()
        finally:
            self._proxies.close()
