"""BEGIN, COMMIT and ROLLBACK of a covered dialect, in one phase or in two: the functions around the dialect's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from person_repo.writing.connections import has_failed, info_of, is_open
from person_repo.writing.covered import COMMITTING, PENDING, SINCE, Covered
from person_repo.writing.outage import OpenTransaction
from person_repo.writing.pending import Pending

__all__ = ["Transactions"]


class Transactions:
    """The wrapped functions, each under the name of the dialect's own, which is its first argument.

    The outcome of a COMMIT that raises is unknown: its tombstones are left to their ttl.
    """

    def __init__(self, covered: Covered) -> None:
        self._covered = covered
        self._prepared: dict[Any, Pending] = {}

    def do_begin(self, begin: Callable[[Any], None], dbapi_connection: Any) -> None:
        """BEGIN: from here on the covered models are watched, and whether their tables are defined anew."""
        dbapi_connection.info[SINCE] = len(self._covered.news)
        begin(dbapi_connection)

    def do_commit(self, commit: Callable[[Any], None], dbapi_connection: Any) -> None:
        """COMMIT, with tombstones placed before it and released after it; a ROLLBACK if the transaction has failed."""
        info = info_of(dbapi_connection)
        pending = None if info is None else self._covered.pending_in(info)
        if info is None or pending is None:
            commit(dbapi_connection)
            return
        if self._covered.is_on_postgresql and has_failed(dbapi_connection.driver_connection):
            self.do_rollback(commit, dbapi_connection)
            return
        # The row locks are held and the outcome is open: no load that starts from here on can fill an old row.
        pending.place(self._covered.transaction_on(dbapi_connection))
        commit(dbapi_connection)
        info.pop(PENDING, None)
        pending.finish()

    def do_rollback(self, rollback: Callable[[Any], None], dbapi_connection: Any) -> None:
        """ROLLBACK: tombstones of a COMMIT that failed, or of a statement that might have committed, are released.

        If the transaction is over already, it was ended on the driver's own connection, and may have been committed.
        """
        info = info_of(dbapi_connection)
        pending: Pending | None = info.get(PENDING) if info is not None else None
        if info is None or pending is None:
            rollback(dbapi_connection)
            return
        was_ended = pending.is_left_open and is_open(dbapi_connection.driver_connection) is False
        if was_ended:
            pending.announce_late()
        rollback(dbapi_connection)
        info.pop(PENDING, None)
        pending.finish(committed=was_ended)

    # Two phases

    def do_begin_twophase(self, begin: Callable[..., None], connection: sa.Connection, xid: Any) -> None:
        """As ``do_begin``."""
        connection.connection.info[SINCE] = len(self._covered.news)
        begin(connection, xid)

    def do_prepare_twophase(self, prepare: Callable[..., None], connection: sa.Connection, xid: Any) -> None:
        """PREPARE: the last statement that can take the fence's rows, so tombstones are placed before it."""
        info = connection.connection.info
        pending = self._covered.pending_in(info) or self._covered.new_pending()
        self._prepared[_name_of(xid)] = pending
        info.pop(PENDING, None)
        pending.place(OpenTransaction(connection.connection, connection.dialect))
        prepare(connection, xid)

    def do_commit_twophase(
        self,
        commit: Callable[..., None],
        connection: sa.Connection,
        xid: Any,
        is_prepared: bool = True,
        recover: bool = False,
    ) -> None:
        """COMMIT of a prepared transaction, or in one phase."""
        info = connection.connection.info
        pending = self._pending_of(info, xid, is_prepared)
        if pending is not None:
            # A prepared transaction takes no further statement.
            pending.place(None if is_prepared else OpenTransaction(connection.connection, connection.dialect))
        info[COMMITTING] = True
        try:
            commit(connection, xid, is_prepared, recover)
        finally:
            info.pop(COMMITTING, None)
        self._prepared.pop(_name_of(xid), None)
        if pending is not None:
            if info.get(PENDING) is pending:
                del info[PENDING]
            pending.finish()

    def _pending_of(self, info: dict[Any, Any], xid: Any, is_prepared: bool) -> Pending | None:
        """The changes of a transaction about to commit. Cases: prepared here; in one phase; prepared by a process that
        is gone, so that any row may have changed.
        """
        pending = self._prepared.get(_name_of(xid))
        if pending is not None:
            return pending
        if not is_prepared:
            return self._covered.pending_in(info)
        pending = self._covered.new_pending()
        for model in self._covered.models:
            model.record(pending, None)
        self._covered.alter(self._covered.models, pending)
        return pending

    def do_rollback_twophase(
        self,
        rollback: Callable[..., None],
        connection: sa.Connection,
        xid: Any,
        is_prepared: bool = True,
        recover: bool = False,
    ) -> None:
        """ROLLBACK of a prepared transaction, or in one phase."""
        rollback(connection, xid, is_prepared, recover)
        pending = self._prepared.pop(_name_of(xid), None) or connection.connection.info.pop(PENDING, None)
        if pending is not None:
            pending.finish(committed=False)


def _name_of(xid: Any) -> Any:
    """A transaction's name as ``begin_twophase`` gives it; XA RECOVER returns bytes."""
    return xid.decode(errors="replace") if isinstance(xid, bytes) else xid
