"""The snapshot of a load: was it committed, and no older than the load? Asked of the driver, and not believed.

A read engine has each statement be a transaction. Yet a host's listener may begin one, or the driver's mode, and a
transaction that stays open shows its first snapshot for ever. So the driver's connection is asked before a load and
after it, which takes no round trip, and a transaction that is open there is ended: what is read then began later.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple, cast

import sqlalchemy as sa

from person_repo.database.engines import (
    IS_CLEAN,
    MAY_JUDGE,
    SAID,
    has_one_connection,
    keep_up,
    read_engine_of,
    turn_on,
)
from person_repo.exceptions import PersonRepoError
from person_repo.internals import has_listeners, root_engine
from person_repo.urls import redact

__all__ = ["Snapshot", "fresh_connection", "question_to"]

logger = logging.getLogger("person_repo.database")


class _Driver(NamedTuple):
    """``is_idle``: False if a transaction is open on the driver's connection, or one may be. ``end`` rolls it back."""

    is_idle: Callable[[Any], bool]
    end: Callable[[Any], object]


_IN_TRANSACTION: Final = 1
_AUTOCOMMIT: Final = 2
"""Bits of MySQL's status, which comes with each reply but those of queries: without AUTOCOMMIT one may have begun."""

_DRIVERS: Final = {
    "pysqlite": _Driver(lambda driver: not driver.in_transaction, lambda driver: _end_on_sqlite(driver)),
    "pymysql": _Driver(
        lambda driver: driver.server_status & (_IN_TRANSACTION | _AUTOCOMMIT) == _AUTOCOMMIT,
        lambda driver: driver.rollback(),
    ),
    "psycopg": _Driver(lambda driver: driver.info.transaction_status == 0, lambda driver: driver.rollback()),
}
"""The drivers that can say it, by SQLAlchemy's names: those that the tests have."""

_HAS_DIRTY_READS: Final = frozenset({"mysql", "mariadb", "sqlite"})


def _end_on_sqlite(driver: Any) -> None:
    if getattr(driver, "autocommit", None) is True:  # ``rollback()`` does nothing then.
        driver.execute("ROLLBACK")
    else:  # With False another transaction begins at once, and has no snapshot yet.
        driver.rollback()


class Snapshot:
    """The state of the database that a connection reads from now on. Made right after the connection was taken from
    its pool. ``connection``: as the pool gives it. ``driver``: the driver's own.
    """

    __slots__ = ("_connection", "_driver", "_mark", "_own", "_reader", "is_own")

    def __init__(self, reader: sa.Engine, connection: Any, driver: Any) -> None:
        self._reader = reader
        self._connection = connection
        self._driver = driver
        may_judge = reader.get_execution_options().get(MAY_JUDGE)
        self.is_own = may_judge is None
        """False on the host's own connection."""
        # None on the host's own connection, whose transaction is none of ours, and with a driver that nobody knows.
        self._own: _Driver | None = None
        # The same at the end if all that was read is committed; None without an answer.
        self._mark: object | None = None
        if may_judge is None:
            self._own = _DRIVERS.get(reader.dialect.driver)
            self._mark = self._own is not None and self.end()
            if self._own is None:
                _say(reader, f"nobody asks the driver {reader.dialect.driver} whether a transaction is open")
        elif may_judge:
            self._mark = self._changes_on_shared()

    def end(self) -> bool:
        """Ends a transaction on a connection that is not the host's; True if none is open now."""
        try:
            if self._own is not None and not self._own.is_idle(self._driver):
                self._own.end(self._driver)
        except self._reader.dialect.loaded_dbapi.Error as exc:  # The next statement says it, too.
            logger.debug("a transaction on a connection for reads cannot be ended: %s", exc)
            return False
        return True

    def is_committed(self) -> bool:
        """True if all that was read is committed, and nothing of it is older than this object."""
        if self._own is None:
            return self._mark is not None and self._changes_on_shared() == self._mark
        if self._mark and self._is_dirty():
            _say(self._reader, "it is read by READ UNCOMMITTED")
            return False
        return bool(self._mark)

    def _is_dirty(self) -> bool:
        """Asks for the isolation level: once on each connection of a read engine of the host's, and at each load where
        a listener of the host's may set it anew.
        """
        dialect, events = self._reader.dialect, cast("Any", self._reader.pool.dispatch)
        is_heard = False
        for each in (events.checkout, events.checkin, events.reset):
            is_heard = is_heard or bool(each.listeners or each.parent_listeners)
        is_heard = is_heard or (has_listeners(self._reader) and _hears_connections(self._reader))
        is_known = IS_CLEAN in dialect.__dict__ or IS_CLEAN in self._connection.info
        if dialect.name not in _HAS_DIRTY_READS or (is_known and not is_heard):
            return False
        try:
            is_dirty = dialect.get_isolation_level(self._driver) == "READ UNCOMMITTED"
        except dialect.loaded_dbapi.Error as exc:
            logger.debug("the isolation level of a connection for reads cannot be read: %s", exc)
            return True
        if not is_dirty:
            self._connection.info[IS_CLEAN] = True
        return is_dirty

    def _changes_on_shared(self) -> object | None:
        """SQLite's count of all rows ever changed on a connection, rolled back or not. None in a transaction, and if
        others may change the database: a statement that the host has not read to the end shows it as it was.

        With no transaction open before a read and after it, and no change counted between, there was none.
        """
        driver = self._driver
        if driver is None or driver.in_transaction:
            if getattr(driver, "autocommit", None) is False:
                _say(self._reader, "with autocommit=False a transaction is always open on its only connection")
            return None
        if any(file for _, _, file in driver.execute("PRAGMA database_list")):
            _say(self._reader, "its only connection is to a file")
            return None
        return f"{driver.total_changes} changes"


def _hears_connections(reader: sa.Engine) -> bool:
    """True if a listener hears of each connection that is taken, and may give it another isolation level."""
    events: Any = reader.dispatch
    return bool(events.engine_connect)


def _say(reader: sa.Engine, reason: str) -> None:
    said = root_engine(reader).__dict__.setdefault(SAID, set())
    if reason not in said:
        said.add(reason)
        logger.warning("%s: what is read there is not cached: %s", redact(reader.url), reason)


@contextmanager
def fresh_connection(reader: sa.Engine) -> Iterator[tuple[sa.Connection, Snapshot]]:
    """A connection of a read engine, alone on it if all threads share it. No transaction is open on it or stays so, and
    none that was interrupted is used again.
    """
    keep_up(reader)
    with turn_on(reader), reader.connect() as connection:
        pooled = connection.connection
        snapshot = Snapshot(reader, pooled, pooled.driver_connection)
        try:
            yield connection, snapshot
        except BaseException as exc:
            # SQLAlchemy's own errors are the driver's, or come before a statement is sent. Ours come after an answer.
            if not isinstance(exc, (sa.exc.SQLAlchemyError, PersonRepoError)) and snapshot.is_own:
                connection.invalidate()
            raise
        finally:
            if not connection.invalidated:
                snapshot.end()


@contextmanager
def question_to(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A connection for a question that is asked once, beside a host's engine. One that was opened for it is closed
    after it: a process that only writes keeps none.
    """
    reader = read_engine_of(engine)
    keep_up(reader)
    keeps = has_one_connection(reader) or (isinstance(reader.pool, sa.QueuePool) and reader.pool.checkedin() > 0)
    with fresh_connection(reader) as (connection, _):
        try:
            yield connection
        finally:
            # Not before: a listener of the host's would find no connection of the driver's in a detached one.
            if not (keeps or connection.invalidated):
                connection.detach()
