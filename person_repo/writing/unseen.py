"""Commits that nobody saw: those under way on other connections while an engine is covered for a class.

Such a COMMIT passed the dialect's functions before they were wrapped, or was examined before the class was covered, so
no tombstone stands for it. A connection that was out of the pool at that moment may have one; when it comes back, its
COMMIT is over, and the class is dropped. SQLAlchemy's own sessions give it back before ``commit()`` returns, so even
that commit is not acknowledged before. Connections that are taken later are covered from their first statement.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import sqlalchemy as sa

from person_repo.cache.contract import LeaseBackend
from person_repo.exceptions import CacheUnavailableError
from person_repo.fence.view import Fence
from person_repo.forks import on_fork
from person_repo.internals import watch_pool
from person_repo.interruptions import DATABASE_ERRORS
from person_repo.writing.invalidation import invalidate

__all__ = ["Group", "Unseen"]

logger = logging.getLogger("person_repo.writing")


class Group(NamedTuple):
    """A class as one cache holds it: the cache, its fence in the database, and the name of the group."""

    backend: LeaseBackend
    fence: Fence | None
    name: str


@dataclass(eq=False)
class _Wait:
    """Groups that wait for the connections that were out of the pool while they were covered.

    ``out``: how many are out; None if nobody knows. ``is_first``: the engine had never connected. ``has_taken``,
    ``has_returned``: a connection was taken, or came back, before the groups were known. ``later``: the connections
    that were taken since.
    """

    is_first: bool
    deadline: float = float("inf")
    out: int | None = None
    has_taken: bool = False
    has_returned: bool = False
    groups: Sequence[Group] = ()
    later: set[Any] = field(default_factory=set)


class Unseen:
    """The connections that were out of one pool while classes were covered.

    Each of them drops the classes when it comes back. A pool that does not say how many are out is watched until
    the first that comes back after ``tombstone_ttl``, which is longer than the slowest COMMIT.
    """

    def __init__(self, pool: sa.Pool) -> None:
        self._pool = weakref.ref(pool)
        self._make_lock()
        on_fork(self._make_lock)
        # Replaced and never changed; the pool is watched while there are any.
        self._waits: tuple[_Wait, ...] = ()
        self._unwatch: Callable[[], None] = _nothing

    def _make_lock(self) -> None:
        # The garbage collector may give a connection back in a thread that holds it.
        self._lock = threading.RLock()

    def begin(self, engine: sa.Engine) -> _Wait:
        """Right before classes are covered: from here on no connection that comes back is missed."""
        wait, pool = _Wait(is_first=not _has_connected(engine)), self._pool()
        assert pool is not None  # that of an engine which is being covered
        with self._lock:
            if not self._waits:
                self._unwatch = watch_pool(pool, self._take, self._give_back)
            self._waits = (*self._waits, wait)
            if isinstance(pool, sa.pool.QueuePool):
                wait.out = pool.checkedout()
            elif wait.is_first:
                wait.out = 0
        return wait

    def watch(self, wait: _Wait, groups: Sequence[Group], engine: sa.Engine) -> None:
        """Right after classes were covered as these groups."""
        ttl = max(group.backend.settings.tombstone_ttl for group in groups)
        with self._lock:
            wait.groups = groups
            wait.deadline = time.monotonic() + ttl
            if wait.is_first and not wait.has_taken and _has_connected(engine):
                wait.out = None  # The first connection was being opened while the pool was not watched yet.
            is_over = wait.out == 0
            if is_over:
                self._end(wait)
        if wait.has_returned:
            self._drop([wait])
        if not is_over:
            logger.warning(
                "%s: covered while %s connections were in use, and what they are committing is not seen; dropped from "
                "the cache once they have come back. Cover an engine before its first connection",
                ", ".join(sorted({group.name for group in groups})),
                "an unknown number of" if wait.out is None else wait.out,
            )

    def _end(self, wait: _Wait) -> None:
        self._waits = tuple(each for each in self._waits if each is not wait)
        if not self._waits:
            self._unwatch()
            self._unwatch = _nothing  # It knows the pool, which would never go.

    def _take(self, record: Any) -> None:
        with self._lock:
            for wait in self._waits:
                if wait.groups:
                    if not self._shares_connections():
                        wait.later.add(record)
                    continue
                wait.has_taken = True
                if wait.out is not None:
                    wait.out += 1

    def _give_back(self, record: Any) -> Callable[[], None]:
        back = []
        with self._lock:
            for wait in self._waits:
                if record in wait.later:
                    wait.later.discard(record)
                    continue
                back.append(wait)
                wait.has_returned = wait.has_returned or not wait.groups
                if wait.out is not None:
                    wait.out -= 1
                    if wait.out <= 0 and wait.groups:
                        self._end(wait)
        # Not before it is back: the fence may need a connection, and this one be the last.
        return lambda: self._drop([*back, *self._overdue()])

    def _shares_connections(self) -> bool:
        """True if a connection can be taken while it is out, so that nobody knows whose it was that came back."""
        return isinstance(self._pool(), (sa.pool.StaticPool, sa.pool.SingletonThreadPool))

    def _overdue(self) -> list[_Wait]:
        now = time.monotonic()
        with self._lock:
            overdue = [wait for wait in self._waits if wait.deadline < now]
            for wait in overdue:
                self._end(wait)
        return overdue

    def _drop(self, waits: Sequence[_Wait]) -> None:
        by_cache: dict[tuple[LeaseBackend, Fence | None], set[str]] = {}
        for group in (group for wait in waits for group in wait.groups):
            by_cache.setdefault((group.backend, group.fence), set()).add(group.name)
        for (backend, fence), names in by_cache.items():
            try:
                invalidate(fence, backend, groups=[*names])
            except (CacheUnavailableError, *DATABASE_ERRORS) as exc:
                shown = ", ".join(sorted(names))
                logger.error("%s could not be dropped, and may hold what was so before: %s", shown, exc)


def _nothing() -> None:
    """The pool is not watched."""


def _has_connected(engine: sa.Engine) -> bool:
    """True if a connection of the engine's was ever opened: its dialect has met a server."""
    return getattr(engine.dialect, "server_version_info", None) is not None
