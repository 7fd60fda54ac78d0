"""The rows of the fence: read, recorded with a commit, inserted beside one, deleted."""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from person_repo.cache.contract import Place
from person_repo.database.identity import UNTRANSLATED
from person_repo.database.savepoints import savepoint
from person_repo.database.schema import REMEDY, has_fence, outdated
from person_repo.database.snapshots import fresh_connection
from person_repo.exceptions import CacheUnavailableError
from person_repo.interruptions import DATABASE_ERRORS
from person_repo.model import FENCE
from person_repo.settings import CacheSettings

__all__ = ["FenceTable", "Row", "TableState"]

logger = logging.getLogger("person_repo.fence")

_MAX_ROWS: Final = 1000  # in one poll; an outage with many writes has more, and whole servers are blocked then
_ROWS_PER_INSERT: Final = 150  # SQLite before 3.32 takes 999 parameters in a statement, and a row has five
_CLOCK_SKEW: Final = 60  # seconds by which the clocks of several machines may differ


class TableState(enum.Enum):
    """The table's state, as the last statement has shown it."""

    UNKNOWN = "nobody has looked yet"
    READABLE = "it can be read"
    MISSING = "there is no such table"
    UNREADABLE = "it cannot be read"


class Row(NamedTuple):
    """One undelivered invalidation. Times in whole seconds since 1970."""

    id: int
    server: str
    item: str
    held_until: int
    expires: int

    @property
    def place(self) -> Place:
        """The place where an old entry may stand."""
        return self.server, self.item


class FenceTable:
    """The rows of one cache namespace in one database.

    ``reader`` and ``writer`` are engines on which each statement is a transaction of its own. ``wall`` is the time that
    all processes share, in seconds since 1970.
    """

    def __init__(
        self, reader: sa.Engine, writer: sa.Engine, settings: CacheSettings, wall: Callable[[], float]
    ) -> None:
        self.reader = reader.execution_options(**UNTRANSLATED)
        self.writer = writer.execution_options(**UNTRANSLATED)
        self.state = TableState.UNKNOWN
        self._settings = settings
        self._wall = wall
        self._is_revision_known = False

    @property
    def is_missing(self) -> bool:
        """True if the database has no such table, as far as is known."""
        return self.state is TableState.MISSING

    # Reading

    def read(self) -> tuple[list[Row], frozenset[str]]:
        """The rows, and the servers that are blocked as a whole: all that have rows if there are more rows than one
        poll takes, else none.

        One query, unless the table is missing. Raises ``SQLAlchemyError`` if the database cannot be read.
        """
        try:
            return self._read()
        except DATABASE_ERRORS as exc:
            self._change_state(TableState.UNREADABLE, exc)
            raise

    def _read(self) -> tuple[list[Row], frozenset[str]]:
        if self.is_missing and not self._exists():
            return [], frozenset()
        query = sa.select(*[FENCE.c[name] for name in Row._fields]).where(self._in_namespace)
        with _connected(self.reader) as connection:
            try:
                rows = [Row(*row) for row in connection.execute(query.order_by(FENCE.c.id).limit(_MAX_ROWS + 1))]
            except sa.exc.DBAPIError as exc:
                if exc.connection_invalidated or has_fence(connection):
                    raise
                self._change_state(TableState.MISSING)
                return [], frozenset()
            self._change_state(TableState.READABLE)
            self._say_if_outdated(connection)
            if len(rows) <= _MAX_ROWS:
                return rows, frozenset()
            servers = connection.execute(sa.select(FENCE.c.server).where(self._in_namespace).distinct()).scalars()
            return rows[:_MAX_ROWS], frozenset(servers)

    @property
    def _in_namespace(self) -> sa.ColumnElement[bool]:
        namespace: sa.ColumnElement[str] = FENCE.c.namespace
        return namespace == self._settings.namespace

    # Writing

    def record(self, dbapi_connection: Any, dialect: sa.Dialect, places: Collection[Place]) -> None:
        """Writes rows in the transaction that is open on a DBAPI connection; its commit publishes them.

        Does nothing if the table is missing. Raises what the driver raises: the transaction may be gone, except on
        PostgreSQL.
        """
        if not self._exists():
            return
        sql, rows = _as_sent(dialect, [self._values(place, held_for=0) for place in places])
        with savepoint(dbapi_connection, dialect), closing(dbapi_connection.cursor()) as cursor:
            cursor.executemany(sql, rows)

    def insert(self, places: Collection[Place], *, held_for: float) -> None:
        """Publishes rows at once, in transactions of its own; nobody delivers them for ``held_for`` seconds.

        Raises ``CacheUnavailableError`` if that cannot be done.
        """
        if not self._exists():
            raise CacheUnavailableError(f"{self._name} has no table {FENCE.name}: {REMEDY}")
        rows = [self._values(place, held_for) for place in places]
        try:
            with _connected(self.writer) as connection:
                for start in range(0, len(rows), _ROWS_PER_INSERT):
                    connection.execute(sa.insert(FENCE).values(rows[start : start + _ROWS_PER_INSERT]))
        except DATABASE_ERRORS as exc:
            raise CacheUnavailableError(f"the fence of {self._name} cannot be written: {exc}") from exc

    def delete(self, ids: Collection[int]) -> bool:
        """Deletes rows by id; False if the database refuses. They are delivered again then, and nothing is lost."""
        if not ids:
            return False
        try:
            with _connected(self.writer, waits_for_lock=False) as connection:
                connection.execute(sa.delete(FENCE).where(FENCE.c.id.in_(list(ids))))
        except DATABASE_ERRORS as exc:
            logger.debug("delivered rows stay in the fence for now: %s", exc)
            return False
        return True

    def _values(self, place: Place, held_for: float) -> dict[str, Any]:
        now = int(self._wall())
        settings = self._settings
        server, item = place
        return {
            "namespace": settings.namespace,
            "server": server,
            "item": item,
            "held_until": now + int(held_for) + 1 if held_for else 0,
            # An entry that was filled before the commit has ended by then, delivered or not.
            "expires": now + settings.ttl + settings.lease_ttl + int(held_for) + _CLOCK_SKEW,
        }

    # The table's state

    def _exists(self) -> bool:
        """True if the table is known to exist; asks the database unless it was there last time.

        A writer must know first: on some databases an insert into a missing table ends the transaction.
        """
        if self.state is TableState.READABLE:
            return True
        try:
            with _connected(self.reader) as connection:
                exists = has_fence(connection)
        except DATABASE_ERRORS as exc:
            self._change_state(TableState.UNREADABLE, exc)
            return False
        self._change_state(TableState.READABLE if exists else TableState.MISSING)
        return exists

    def _change_state(self, state: TableState, exc: Exception | None = None) -> None:
        """Logs a change of state, once. A missing table is an error: nobody would notice it before an outage."""
        before, self.state = self.state, state
        if state is before:
            return
        if state is TableState.UNREADABLE:
            logger.error("the fence cannot be read: %s", exc)
        elif state is TableState.MISSING:
            logger.error(
                "%s has no table %s: invalidations that cannot reach a cache server are lost, and cached reads of them "
                "may be old until the ttl; %s",
                self._name,
                FENCE.name,
                REMEDY,
            )
        elif before is not TableState.UNKNOWN:
            logger.info("the fence can be read again")

    def _say_if_outdated(self, connection: sa.Connection) -> None:
        """Logs an older revision, at the first poll that finds the table."""
        if self._is_revision_known:
            return
        self._is_revision_known = True
        try:
            problem = outdated(connection)
        except DATABASE_ERRORS as exc:
            logger.debug("the revision of the schema cannot be read: %s", exc)
            return
        if problem is not None:
            logger.warning("%s: %s; %s", self._name, problem, REMEDY)

    @property
    def _name(self) -> str:
        return self.reader.url.render_as_string(hide_password=True)


@contextmanager
def _connected(engine: sa.Engine, *, waits_for_lock: bool = True) -> Iterator[sa.Connection]:
    """A connection on which each statement is a transaction of its own.

    ``waits_for_lock=False``: on SQLite the statement fails at once if the database is locked, since this very thread
    may hold the lock.
    """
    with fresh_connection(engine) as (connection, _):
        if waits_for_lock or connection.dialect.name != "sqlite":
            yield connection
            return
        before = connection.exec_driver_sql("PRAGMA busy_timeout").scalar_one()
        connection.exec_driver_sql("PRAGMA busy_timeout = 0")
        try:
            yield connection
        finally:
            connection.exec_driver_sql(f"PRAGMA busy_timeout = {before}")


def _as_sent(dialect: sa.Dialect, rows: Sequence[dict[str, Any]]) -> tuple[str, list[Any]]:
    """The insert and its parameter sets as the driver takes them, for a connection that SQLAlchemy does not hold."""
    compiled = sa.insert(FENCE).inline().compile(dialect=dialect, column_keys=list(rows[0]))
    names: Sequence[str] | None = getattr(compiled, "positiontup", None)
    return str(compiled), [row if names is None else tuple(row[name] for name in names) for row in rows]
