"""The fence as one process knows it: polled at most once in an interval, asked before every cached read.

Threads share one view. It is replaced and never changed, so that a read asks it without a lock.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from person_repo.cache.contract import LeaseBackend, Place, group_of, marker_of
from person_repo.database.engines import has_one_connection, read_engine_of
from person_repo.fence.table import FenceTable, Row
from person_repo.forks import on_fork
from person_repo.interruptions import DATABASE_ERRORS

__all__ = ["Fence", "fence_of"]

_GRACE: Final = 0.05
"""Seconds past its deadline for which a view is still used while another thread polls."""
_PATIENCE: Final = 1.0
"""Seconds that a thread waits for another thread's poll before it polls itself."""
_PAUSE: Final = 0.005
"""Seconds between two looks at whether that poll has ended."""
_MISSING_INTERVAL: Final = 10.0
"""Seconds between two polls while the table does not exist."""
_MAX_ITEMS: Final = 50
"""Items that are delivered one by one; of more, whole groups are dropped, by one exchange per server and group."""


class _View(NamedTuple):
    """Places and whole servers that are blocked."""

    places: frozenset[Place]
    servers: frozenset[str]


class Fence:
    """The fence of one cache in one database. Safe for threads.

    ``reader``: an engine on which each statement is a transaction of its own; None if the whole database is one
    connection of this process (SQLite in memory). No other process has such a database, so its fence has no rows, only
    what this process blocks locally. ``writer``: another such engine, if the reader's account may only read.
    ``clock`` measures intervals, ``wall`` is the time that all processes share, ``sleep`` waits; all in seconds.
    """

    def __init__(
        self,
        backend: LeaseBackend,
        reader: sa.Engine | None,
        *,
        writer: sa.Engine | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.backend = backend
        self._settings = backend.settings
        self._table = None if reader is None else FenceTable(reader, writer or reader, backend.settings, wall)
        self._clock = clock
        self._wall = wall
        self._sleep = sleep
        self._view: _View | None = None  # None: nothing is blocked
        self._local: dict[Place, float] = {}  # blocked by this process itself, and since when
        self._view_began = float("-inf")  # when the poll behind the view began
        self._poll_due = clock() if reader is None else float("-inf")
        self._polling_until = float("-inf")  # until then another thread's poll is waited for
        self._reset()
        on_fork(self._reset)

    def _reset(self) -> None:
        # Not a Condition: its __enter__ is Python, so an exception that another thread sends, or Ctrl-C, can come after
        # the lock is taken and before the block is entered, and nobody would ever give it back.
        self._lock = threading.Lock()
        self._polling_until = float("-inf")

    # Readers

    def blocks(self, group: str, key: str) -> bool:
        """True if an undelivered invalidation forbids answering this item from the cache.

        Polls if a poll is due. Raises what the database raises, under ``strict`` only.
        """
        if self._clock() >= self._poll_due:  # ``is_raised``, without the call
            self._refresh()
        view = self._view
        if view is None:
            return False
        places = self.backend.places_of(group, key)
        return places[0] in view.places or places[1] in view.places or places[0][0] in view.servers

    def is_raised(self) -> bool:
        """True if any item is blocked. Polls, and raises, as ``blocks`` does."""
        if self._clock() >= self._poll_due:
            self._refresh()
        return self._view is not None

    def _refresh(self) -> None:
        """Renews the view, whose deadline has passed. The cases:

        1. The fence has no rows: deliver what this process blocks.
        2. Nobody polls: this thread does, and delivers what it finds.
        3. Another thread polls, and the deadline passed only just now: use the view once more.
        4. Another thread polls, and the view is too old: wait for that poll, and poll here if it does not end.
        """
        if self._table is None:
            self._deliver_local()
            return
        now = self._clock()
        is_mine = False
        due: list[Row] = []
        try:
            with self._lock:
                is_mine = now >= self._polling_until
                if is_mine:
                    self._polling_until = now + _PATIENCE
            if is_mine or (now >= self._poll_due + _GRACE and not self._has_been_polled(now)):
                due = self._poll(self._table)
        finally:
            if is_mine:
                self._polling_until = float("-inf")
        if due and self._deliver(self._table, due) and self._view is not None and self._view.servers:
            self._poll_due = float("-inf")  # there are more rows than one poll takes

    def _has_been_polled(self, now: float) -> bool:
        """Waits for another thread's poll, at most ``_PATIENCE`` seconds; False if it has not renewed the view."""
        for _ in range(round(_PATIENCE / _PAUSE)):
            if self._poll_due > now or now >= self._polling_until:
                break
            self._sleep(_PAUSE)
        return self._poll_due > now

    def _poll(self, table: FenceTable) -> list[Row]:
        """Reads the rows into a new view; returns those that may be delivered now."""
        began = self._clock()
        self.backend.counters.fence_polls += 1
        try:
            rows, servers = table.read()
        except DATABASE_ERRORS:
            # A hit can only be stale if some writer also lost a cache server. Only ``strict`` refuses hits for that.
            if self._settings.on_unreachable == "strict":
                raise
            self._poll_due = began + self._settings.fence_interval
            return []
        self._swap_view(rows, servers, began)
        now = self._wall()
        return [row for row in rows if row.held_until <= now]

    def _swap_view(self, rows: Sequence[Row], servers: frozenset[str], began: float) -> None:
        """Replaces the view by a poll, which counts from its beginning: later commits may be missing in it."""
        with self._lock:
            # Drop a poll that began before the one already in use: it could lack rows.
            if began < self._view_began:
                return
            self._view_began = began
            # A place that was blocked since may have been committed after this poll.
            self._local = {place: since for place, since in self._local.items() if since >= began}
            self._set_view({*self._local, *[row.place for row in rows]}, servers)
            is_missing = self._table is not None and self._table.is_missing
            self._poll_due = began + (_MISSING_INTERVAL if is_missing else self._settings.fence_interval)

    def _set_view(self, places: Collection[Place], servers: frozenset[str] = frozenset()) -> None:
        self._view = _View(frozenset(places), servers) if places or servers else None

    # Writers

    def record(self, dbapi_connection: Any, dialect: sa.Dialect, places: Collection[Place]) -> None:
        """Writes places to the fence in the transaction that is open on a DBAPI connection: its commit publishes them.

        Raises what the driver raises: the transaction may be gone.
        """
        if self._table is None:
            self.block_locally(places)
        else:
            self._table.record(dbapi_connection, dialect, places)

    def insert(self, places: Collection[Place], *, held_for: float = 0) -> None:
        """Publishes places at once, in a transaction of its own; nobody delivers them for ``held_for`` seconds.

        Raises ``CacheUnavailableError`` if that cannot be done.
        """
        if self._table is None:
            self.block_locally(places)
        else:
            self._table.insert(places, held_for=held_for)

    def wait(self) -> None:
        """Returns once every process that reads has polled what was published before."""
        if self._table is not None:
            self._sleep(self._settings.fence_interval + 2 * _GRACE)

    def block_locally(self, places: Collection[Place]) -> None:
        """Blocks places in this process at once, without a poll."""
        if not places:
            return
        now = self._clock()
        with self._lock:
            self._local = {**self._local, **dict.fromkeys(places, now)}
            view = self._view or _View(frozenset(), frozenset())
            self._set_view({*view.places, *self._local}, view.servers)

    @property
    def has_table(self) -> bool:
        """True if its rows are in the database, whose table must be there then."""
        return self._table is not None

    @property
    def publishes(self) -> bool:
        """True if ``insert`` works while another transaction is open. SQLite has one writer at a time."""
        return self._table is None or self._table.reader.dialect.name != "sqlite"

    # Delivery

    def deliver(self) -> int:
        """Delivers every row that is due, if its server can be reached; returns the number of places that are left."""
        if self._table is None:
            self._deliver_local()
        else:
            while due := self._poll(self._table):
                if not self._deliver(self._table, due):
                    break
        return 0 if self._view is None else len(self._view.places)

    def _deliver(self, table: FenceTable, due: Sequence[Row]) -> int:
        """Removes what stands at the rows' places, then deletes the rows; returns how many are gone.

        The view stays: the same place may have a row that is held, or one that another thread has polled since.
        """
        retired = self._retire([row.place for row in due])
        now = self._wall()
        delivered = [row.id for row in due if row.place in retired]
        expired = [row.id for row in due if row.place not in retired and row.expires <= now]
        # By id: another transaction may have committed a row of the same place meanwhile.
        if not table.delete([*delivered, *expired]):
            return 0
        self.backend.counters.delivered += len(delivered)
        return len(delivered) + len(expired)

    def _deliver_local(self) -> None:
        """Delivers the places that this process blocks, for a fence without rows."""
        self._poll_due = self._clock() + self._settings.fence_interval
        blocked = self._local
        if not blocked:
            return
        retired = self._retire(blocked)
        self.backend.counters.delivered += len(retired)
        with self._lock:
            # A place that was blocked again meanwhile belongs to a commit that came after this delivery.
            self._local = {
                place: since
                for place, since in self._local.items()
                if place not in retired or blocked.get(place) != since
            }
            self._set_view(self._local)

    def _retire(self, places: Collection[Place]) -> frozenset[Place]:
        """Removes what stands at places, or their whole groups if there are many; returns the places that are done."""
        places = set(places)
        if len(places) <= _MAX_ITEMS:
            return self.backend.retire(places)
        markers = {place: (place[0], marker_of(group_of(place[1]))) for place in places}
        retired = self.backend.retire(set(markers.values()))
        return frozenset(place for place, marker in markers.items() if marker in retired)


_fences: weakref.WeakKeyDictionary[LeaseBackend, weakref.WeakKeyDictionary[sa.Dialect, Fence]] = (
    weakref.WeakKeyDictionary()
)
_making = threading.Lock()


def fence_of(engine: sa.Engine, backend: LeaseBackend, reader: sa.Engine | None = None) -> Fence | None:
    """The one fence of a cache and a host's engine; None if no writer can lose a cache that readers still reach.

    ``reader``: the engine for reads beside the host's; derived from ``engine`` if not given.
    """
    if not backend.fenced:
        return None
    with _making:
        fences = _fences.setdefault(backend, weakref.WeakKeyDictionary())
        fence = fences.get(engine.dialect)
        if fence is None:
            fence = fences[engine.dialect] = _made(engine, backend, reader)
        return fence


def _made(engine: sa.Engine, backend: LeaseBackend, reader: sa.Engine | None) -> Fence:
    if has_one_connection(engine):
        return Fence(backend, None)
    # The account of an engine that is handed in for reads may not write.
    return Fence(backend, reader or read_engine_of(engine), writer=read_engine_of(engine))


def _unlock() -> None:
    global _making
    # A thread that does not exist in this process may hold the lock.
    _making = threading.Lock()


on_fork(_unlock)
