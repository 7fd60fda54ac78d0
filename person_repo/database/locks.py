"""SQLite's write lock, of which a database has one. Other databases lock rows, by FOR UPDATE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from person_repo.database.marks import OWN

__all__ = ["take_sqlite_lock"]


def take_sqlite_lock(
    connection: sa.Connection, table: sa.Table | None = None, options: Mapping[str, Any] | None = None
) -> None:
    """Takes SQLite's write lock until the transaction ends, so that rows stay as they are read. Elsewhere: nothing.

    ``table``: a table of the database; None if it may have none yet, as before a migration. ``options``: execution
    options, in place of the connection's.
    """
    if connection.dialect.name != "sqlite":
        return
    if table is None:
        _take_without_table(connection)
    else:
        # A statement that changes nothing takes the lock all the same.
        connection.execute(sa.delete(table).where(sa.false()), execution_options={**(options or {}), OWN: True})


def _take_without_table(connection: sa.Connection) -> None:
    """Cases: the driver has not begun a transaction, as by default it does not before the first INSERT; or it has,
    because the host configured it so (``autocommit=False``, a ``begin`` event), and then only a write takes the lock.
    """
    if not connection.in_transaction():
        connection.begin()
    if not getattr(connection.connection.driver_connection, "in_transaction", False):
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        return
    connection.exec_driver_sql("CREATE TABLE person_repo_lock (held INTEGER)")
    connection.exec_driver_sql("DROP TABLE person_repo_lock")
