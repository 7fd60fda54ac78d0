"""What the cache could not be told: kept in the database, known to every reader within an interval, delivered later.

A commit whose tombstones cannot be placed leaves an old entry on a server that others may still reach. So the places
(a server, and an item there) are written into a table of ours, ``person_repo_fence``, in the same transaction: they are
to be seen from the commit on, and not without it. Whoever reads through the cache looks at that table at most once in
an interval, and asks the database for what is named there. Whoever reaches the server makes what stands there go, and
deletes the row after that.

Three times make it hold. A process goes by what it last read for ``fence_interval`` and a moment; a writer that is to
leave nothing stale (``strict``) makes the rows visible first and waits that long before it commits; and nobody delivers
a row before ``held_until``, for one that was to be seen before its commit must outlast it.
"""

from __future__ import annotations

import enum
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from person_repo.cache.contract import LeaseBackend, Place, marker_of
from person_repo.database.engines import has_one_connection, read_engine_of
from person_repo.exceptions import CacheUnavailableError
from person_repo.mapped.keys import group_of
from person_repo.model import FENCE

__all__ = ["Fence", "fence_of"]

logger = logging.getLogger("person_repo.fence")

# A thread whose look is overdue by no more than this goes by the last one while another thread looks.
_GRACE: Final = 0.05
# How long a thread that has to wait for another's look does so before it looks for itself, and how often it asks.
_PATIENCE: Final = 1.0
_PAUSE: Final = 0.005
# Rows looked at in one query. Where there are more, whole servers are left out: an outage with many writes.
_MOST: Final = 1000
# Above so many items at once their groups are made to go instead: one exchange for each server and group.
_ITEMS: Final = 50
# How often it is asked whether the table is there, where it is not.
_RECHECK: Final = 10.0
# Parameters in one statement; SQLite before 3.32 takes 999, and a row has five.
_ROWS_AT_ONCE: Final = 150
# Clocks of several machines.
_SKEW: Final = 60

_REMEDY: Final = (
    "run person_repo.migrations.upgrade(engine) (or `person-repo upgrade`, or add our versions to your own alembic)"
)


class _State(enum.Enum):
    UNKNOWN = "nobody has looked yet"
    READ = "the fence can be read"
    MISSING = "there is no such table"
    UNREADABLE = "the fence cannot be read"


class _Row(NamedTuple):
    id: int
    server: str
    item: str
    held_until: int
    expires: int

    @property
    def place(self) -> Place:
        return self.server, self.item


class _View(NamedTuple):
    """What readers go by: places, and servers that are left out as a whole. Replaced, never changed: threads read it
    without a lock.
    """

    places: frozenset[Place]
    servers: frozenset[str]


class Fence:
    """The fence of one cache in one database, as this process knows it. Safe for threads.

    ``reader``: an engine on which each statement is a transaction of its own; None where all of the database is one
    connection of this process, whose fence then is in this process, too. ``writer``: another such engine for what is
    written, where the reader's account may read only. ``clock`` measures intervals, ``wall`` is the time that processes
    have in common, ``sleep`` waits; all in seconds.
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
        self._reader = reader
        self._writer = writer or reader
        self._settings = backend.settings
        self._clock = clock
        self._wall = wall
        self._sleep = sleep
        self._state = _State.UNKNOWN
        self._noted: dict[Place, float] = {}
        self._view: _View | None = None
        self._began = float("-inf")
        self._due = clock() if reader is None else float("-inf")
        self._claimed_until = float("-inf")
        self._reset()
        _instances.add(self)

    def _reset(self) -> None:
        # Not a Condition: its __enter__ is Python, so an exception that another thread sends, or Ctrl-C, can come after
        # the lock is taken and before the block is entered, and nobody would ever give it back.
        self._looked = threading.Lock()
        self._claimed_until = float("-inf")

    # Readers

    def blocks(self, group: str, key: str) -> bool:
        """Whether the cache must not answer for an item, because a change of it may not have come there.

        Raises what the database raises, under ``strict`` only.
        """
        if self._clock() >= self._due:  # as ``stands`` does, without a call
            self._refresh()
        view = self._view
        if view is None:
            return False
        places = self.backend.places_of(group, key)
        return places[0] in view.places or places[1] in view.places or places[0][0] in view.servers

    def is_raised(self) -> bool:
        """Whether there is anything at all that the cache must not answer for; looks, where it is time to."""
        if self._clock() >= self._due:
            self._refresh()
        return self._view is not None

    def _refresh(self) -> None:
        """Cases: nobody looks, so this thread does; another one does, and the last look is good for a moment yet; it is
        not, so this thread waits for the other's.
        """
        if self._reader is None:
            self._retire_noted()
            return
        now = self._clock()
        mine = False
        due: list[_Row] = []
        try:
            with self._looked:
                mine = now >= self._claimed_until
                if mine:
                    self._claimed_until = now + _PATIENCE
            if mine or (now >= self._due + _GRACE and not self._has_been_looked_at(now)):
                due = self._poll()
        finally:
            if mine:
                self._claimed_until = float("-inf")
        if due and self._deliver(due) and self._view is not None and self._view.servers:
            self._due = float("-inf")  # there is more than one look can take

    def _has_been_looked_at(self, now: float) -> bool:
        """Whether another thread's look comes within the time that this one waits for it, or until it has failed."""
        for _ in range(round(_PATIENCE / _PAUSE)):
            if self._due > now or now >= self._claimed_until:
                break
            self._sleep(_PAUSE)
        return self._due > now

    def _poll(self) -> list[_Row]:
        """Reads the fence; what of it can be delivered now. A look counts from its beginning."""
        began = self._clock()
        self.backend.counters.fence_polls += 1
        try:
            rows, servers = self._rows()
        except sa.exc.SQLAlchemyError as exc:
            self._unreadable(exc, began)
            return []
        self._swap_view(rows, servers, began)
        now = self._wall()
        return [row for row in rows if row.held_until <= now]

    def _swap_view(self, rows: Sequence[_Row], servers: frozenset[str], began: float) -> None:
        """Lets readers go by a look. One that began earlier and took longer than another's is worth nothing: readers
        would go by less than they know.
        """
        with self._looked:
            if began < self._began:
                return
            self._began = began
            # What was noted meanwhile may have been committed after the look.
            self._noted = {place: at for place, at in self._noted.items() if at >= began}
            self._bar({*self._noted, *[row.place for row in rows]}, servers)
            self._due = began + (_RECHECK if self._state is _State.MISSING else self._settings.fence_interval)

    def _bar(self, places: Collection[Place], servers: frozenset[str] = frozenset()) -> None:
        self._view = _View(frozenset(places), servers) if places or servers else None

    def _rows(self) -> tuple[list[_Row], frozenset[str]]:
        """What is undelivered; beyond ``_MOST`` rows the first of them, and all servers that are concerned. One query,
        as long as the table is there.
        """
        query = sa.select(*[FENCE.c[name] for name in _Row._fields]).where(self._ours)
        if self._state is _State.MISSING and not self._is_known():
            return [], frozenset()
        with self._connected(self._reader) as connection:
            try:
                rows = [_Row(*row) for row in connection.execute(query.order_by(FENCE.c.id).limit(_MOST + 1))]
            except sa.exc.DBAPIError as exc:
                if exc.connection_invalidated or _has_table(connection):
                    raise
                self._change_state(_State.MISSING)
                return [], frozenset()
            self._change_state(_State.READ)
            if len(rows) <= _MOST:
                return rows, frozenset()
            servers = connection.execute(sa.select(FENCE.c.server).where(self._ours).distinct()).scalars()
            return rows[:_MOST], frozenset(servers)

    def _unreadable(self, exc: sa.exc.SQLAlchemyError, began: float) -> None:
        """A database that does not answer this process: it takes a writer that is cut off from a server at the same
        time to make a hit stale, so ``strict`` alone lets no hit be given.
        """
        self._change_state(_State.UNREADABLE, exc)
        if self._settings.on_unreachable == "strict":
            raise exc
        self._due = began + self._settings.fence_interval

    def _change_state(self, state: _State, exc: Exception | None = None) -> None:
        """Logs a change of state. That the table is missing nobody would notice before an outage."""
        before, self._state = self._state, state
        if state is before:
            return
        if state is _State.UNREADABLE:
            logger.error("the fence cannot be read: %s", exc)
        elif state is _State.MISSING:
            logger.error(
                "%s has no table %s: what a cache server cannot be told is lost, and cached reads of it may be old "
                "until the ttl; %s",
                self._name(),
                FENCE.name,
                _REMEDY,
            )
        elif before is not _State.UNKNOWN:
            logger.info("the fence can be read again")

    # Writers

    def record(self, dbapi_connection: Any, dialect: sa.Dialect, places: Collection[Place]) -> None:
        """Writes places into the fence in the transaction that is open on a DBAPI connection, and so with its commit.

        Raises what the driver raises: the transaction may be gone.
        """
        if self._reader is None:
            self.block_locally(places)
            return
        if not self._is_known():
            return
        sql, rows = _as_sent(dialect, [self._values(place, held_for=0) for place in places])
        cursor = dbapi_connection.cursor()
        try:
            cursor.executemany(sql, rows)
        finally:
            cursor.close()

    def insert(self, places: Collection[Place], *, held_for: float = 0) -> None:
        """Writes places into the fence at once, in a transaction of its own, not to be delivered for so many seconds.

        Raises ``CacheUnavailableError`` where that cannot be done.
        """
        if self._reader is None:
            self.block_locally(places)
            return
        if not self._is_known():
            raise CacheUnavailableError(f"{self._name()} has no table {FENCE.name}: {_REMEDY}")
        rows = [self._values(place, held_for) for place in places]
        try:
            with self._connected(self._writer) as connection:
                for start in range(0, len(rows), _ROWS_AT_ONCE):
                    connection.execute(sa.insert(FENCE).values(rows[start : start + _ROWS_AT_ONCE]))
        except sa.exc.SQLAlchemyError as exc:
            raise CacheUnavailableError(f"the fence of {self._name()} cannot be written: {exc}") from exc

    def wait(self) -> None:
        """Returns once every process that reads has seen what was published before."""
        if self._reader is not None:
            self._sleep(self._settings.fence_interval + 2 * _GRACE)

    def block_locally(self, places: Collection[Place]) -> None:
        """Lets this process go by it at once."""
        if not places:
            return
        now = self._clock()
        with self._looked:
            self._noted = {**self._noted, **dict.fromkeys(places, now)}
            view = self._view or _View(frozenset(), frozenset())
            self._bar({*view.places, *self._noted}, view.servers)

    @property
    def publishes(self) -> bool:
        """Whether rows can be made visible while a transaction is open: SQLite has one writer at a time."""
        return self._reader is None or self._reader.dialect.name != "sqlite"

    def _values(self, place: Place, held_for: float) -> dict[str, Any]:
        now = int(self._wall())
        settings = self._settings
        # What was filled before the commit has gone by then, delivered or not.
        expires = now + settings.ttl + settings.lease_ttl + int(held_for) + _SKEW
        held_until = now + int(held_for) + 1 if held_for else 0
        server, item = place
        return {
            "namespace": settings.namespace,
            "server": server,
            "item": item,
            "held_until": held_until,
            "expires": expires,
        }

    # Delivery

    def deliver(self) -> int:
        """Delivers what can be delivered now; how much is left."""
        if self._reader is None:
            self._retire_noted()
        else:
            while due := self._poll():
                if not self._deliver(due):
                    break
        return 0 if self._view is None else len(self._view.places)

    def _deliver(self, due: Sequence[_Row]) -> int:
        """Makes what stands at the places go, and then deletes their rows: these rows only, since others' transactions
        may commit meanwhile. How many rows are gone.

        Readers go by the last look to the next: for the same place there may be a row that is held yet, or a new one
        that another thread's look has found meanwhile.
        """
        retired = self._retired([row.place for row in due])
        now = self._wall()
        done = [row.id for row in due if row.place in retired]
        over = [row.id for row in due if row.place not in retired and row.expires <= now]
        if not self._delete([*done, *over]):
            return 0
        self.backend.counters.delivered += len(done)
        return len(done) + len(over)

    def _retired(self, places: Collection[Place]) -> frozenset[Place]:
        """The places at which nothing of before stands any more; where they are many, their whole groups go."""
        wanted = set(places)
        if len(wanted) <= _ITEMS:
            return self.backend.retire(wanted)
        markers = {place: (place[0], marker_of(group_of(place[1]))) for place in wanted}
        retired = self.backend.retire(set(markers.values()))
        return frozenset(place for place, marker in markers.items() if marker in retired)

    def _retire_noted(self) -> None:
        self._due = self._clock() + self._settings.fence_interval
        noted = self._noted
        if not noted:
            return
        retired = self._retired(list(noted))
        self.backend.counters.delivered += len(retired)
        with self._looked:
            # What was noted again meanwhile is of a commit that came after this.
            self._noted = {
                place: at for place, at in self._noted.items() if place not in retired or noted.get(place) != at
            }
            self._bar(self._noted)

    def _delete(self, ids: Collection[int]) -> bool:
        """Whether the rows are deleted. It can wait: they are delivered again, that is all."""
        if not ids or self._reader is None:
            return False
        try:
            with self._connected(self._writer, patient=False) as connection:
                connection.execute(sa.delete(FENCE).where(FENCE.c.id.in_(list(ids))))
        except sa.exc.SQLAlchemyError as exc:
            logger.debug("what is delivered stays in the fence for now: %s", exc)
            return False
        return True

    # The database

    @property
    def _ours(self) -> sa.ColumnElement[bool]:
        namespace: sa.ColumnElement[str] = FENCE.c.namespace
        return namespace == self._settings.namespace

    @staticmethod
    @contextmanager
    def _connected(engine: sa.Engine | None, *, patient: bool = True) -> Iterator[sa.Connection]:
        """A connection on which each statement is a transaction of its own. On SQLite an impatient one does not wait
        for the lock, which this very thread may hold.
        """
        assert engine is not None
        with engine.connect() as connection:
            if patient or connection.dialect.name != "sqlite":
                yield connection
                return
            before = connection.exec_driver_sql("PRAGMA busy_timeout").scalar_one()
            connection.exec_driver_sql("PRAGMA busy_timeout = 0")
            try:
                yield connection
            finally:
                connection.exec_driver_sql(f"PRAGMA busy_timeout = {before}")

    def _is_there(self, connection: sa.Connection) -> bool:
        is_there = _has_table(connection)
        self._change_state(_State.READ if is_there else _State.MISSING)
        return is_there

    def _is_known(self) -> bool:
        """Whether the table is known to be there; asks where it is not: on some databases an insert into none ends the
        transaction.
        """
        if self._state is _State.READ:
            return True
        try:
            with self._connected(self._reader) as connection:
                return self._is_there(connection)
        except sa.exc.SQLAlchemyError as exc:
            self._change_state(_State.UNREADABLE, exc)
            return False

    def _name(self) -> str:
        return "" if self._reader is None else self._reader.url.render_as_string(hide_password=True)


def _has_table(connection: sa.Connection) -> bool:
    return sa.inspect(connection).has_table(FENCE.name)


def _as_sent(dialect: sa.Dialect, rows: Sequence[dict[str, Any]]) -> tuple[str, list[Any]]:
    """The insert and its parameter sets as a driver takes them: here is no connection of SQLAlchemy's."""
    compiled = sa.insert(FENCE).inline().compile(dialect=dialect, column_keys=list(rows[0]))
    names: Sequence[str] | None = getattr(compiled, "positiontup", None)
    return str(compiled), [row if names is None else tuple(row[name] for name in names) for row in rows]


_fences: weakref.WeakKeyDictionary[LeaseBackend, weakref.WeakKeyDictionary[sa.Dialect, Fence]] = (
    weakref.WeakKeyDictionary()
)
_making = threading.Lock()


def fence_of(engine: sa.Engine, backend: LeaseBackend, reader: sa.Engine | None = None) -> Fence | None:
    """The one fence of a cache and a host's engine; None for a cache that cannot be cut off from a writer alone.

    ``reader``: the engine for reads beside the host's; the derived one where it is not given.
    """
    if not backend.fenced:
        return None
    with _making:
        fences = _fences.setdefault(backend, weakref.WeakKeyDictionary())
        found = fences.get(engine.dialect)
        if found is None:
            if has_one_connection(engine):
                found = Fence(backend, None)
            else:
                # The account of an engine that is handed in for reads may not write.
                found = Fence(backend, reader or read_engine_of(engine), writer=read_engine_of(engine))
            fences[engine.dialect] = found
        return found


_instances: weakref.WeakSet[Fence] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    global _making
    # A thread that does not exist here may hold the locks, or be looking.
    _making = threading.Lock()
    for fence in list(_instances):
        fence._reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
