"""The driver's connection under a statement: is a transaction open on it, and does each statement commit itself?"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from person_repo.internals import result_in_progress

__all__ = ["commits_itself", "driver_of", "has_failed", "has_more_results", "info_of", "is_open"]

_IN_TRANSACTION = 1
"""The flag of MySQL's protocol: SERVER_STATUS_IN_TRANS."""

# PostgreSQL's, in libpq's numbers: PQTRANS_IDLE, PQTRANS_INTRANS, PQTRANS_INERROR. Others say that a statement is being
# executed, or that the connection is lost.
_OPEN_BY_STATUS: dict[Any, bool] = {0: False, 2: True, 3: True}
_FAILED = 3


def info_of(dbapi_connection: Any) -> dict[Any, Any] | None:
    """The ``info`` of a pooled connection, where its transaction's changes are kept."""
    try:
        info: dict[Any, Any] = dbapi_connection.info
    except NotImplementedError:  # The connection on which SQLAlchemy first looks at a server has none.
        return None
    return info


def driver_of(connection: sa.Connection) -> Any:
    """The driver's own connection, under SQLAlchemy's adapter for asyncio too."""
    pooled: Any = connection.connection
    return connection.dialect.get_driver_connection(pooled.dbapi_connection)


def is_open(driver: Any) -> bool | None:
    """True if a transaction is open on a driver's connection; None if the driver does not say."""
    in_transaction = getattr(driver, "in_transaction", None)
    if isinstance(in_transaction, bool):
        return in_transaction
    status = getattr(driver, "server_status", None)
    if status is None:
        return _OPEN_BY_STATUS.get(_status_of(driver))
    last = result_in_progress(driver)
    # PyMySQL takes the status from replies without rows only, and not from the last of several.
    is_current = last is None or (getattr(last, "server_status", None) is not None and not last.has_next)
    return bool(status & _IN_TRANSACTION) if is_current and isinstance(status, int) else None


def has_failed(driver: Any) -> bool:
    """True if a statement of the open transaction was refused, so that its COMMIT will be a ROLLBACK (PostgreSQL)."""
    return bool(_status_of(driver) == _FAILED)


def _status_of(driver: Any) -> Any:
    """psycopg's ``info.transaction_status``, and psycopg2's; None on other drivers."""
    return getattr(getattr(driver, "info", None), "transaction_status", None)


def has_more_results(driver: Any) -> bool:
    """True if a multi-statement text has further results (MySQL): the server is already running the next statement."""
    return bool(getattr(result_in_progress(driver), "has_next", False))


def commits_itself(connection: sa.Connection, driver: Any, *, open_now: bool | None, begun_by_text: bool) -> bool:
    """True if the next statement is a transaction of its own.

    ``open_now``: as ``is_open`` says. ``begun_by_text``: a BEGIN by text was the last that was heard of.
    """
    if open_now or (open_now is None and begun_by_text):
        return False
    if getattr(driver, "autocommit", None) is True:  # sqlite3 from Python 3.12 on
        return True
    pooled: Any = connection.connection
    try:
        return connection.dialect.detect_autocommit_setting(pooled.dbapi_connection)
    except NotImplementedError:
        return connection.get_isolation_level() == "AUTOCOMMIT"
