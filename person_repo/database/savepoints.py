"""Statements of ours inside a host's transaction: on PostgreSQL one that is refused would end it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import sqlalchemy as sa

__all__ = ["savepoint"]

_NAME: Final = "person_repo_savepoint"


@contextmanager
def savepoint(
    dbapi_connection: Any, dialect: sa.Dialect, *, is_ours: Callable[[BaseException], bool] = lambda _: True
) -> Iterator[None]:
    """A block whose statements leave the open transaction usable if one of them is refused. The error is raised.
    ``is_ours``: False for an error after which the transaction is to be as it would be without the savepoint.

    PostgreSQL refuses every further statement of a transaction in which one was refused ("current transaction is
    aborted"); the other databases do not, and nothing is sent there. The statements go past SQLAlchemy: a host's
    listeners, which could fail, do not see them.
    """
    if dialect.name != "postgresql":
        yield
        return
    _send(dbapi_connection, f"SAVEPOINT {_NAME}")
    try:
        yield
    except BaseException as error:
        if not is_ours(error):
            raise
        with suppress(dialect.loaded_dbapi.Error):  # The connection may be gone, as the error that is raised says.
            _send(dbapi_connection, f"ROLLBACK TO SAVEPOINT {_NAME}", f"RELEASE SAVEPOINT {_NAME}")
        raise
    _send(dbapi_connection, f"RELEASE SAVEPOINT {_NAME}")


def _send(dbapi_connection: Any, *statements: str) -> None:
    cursor = dbapi_connection.cursor()
    try:
        for statement in statements:
            cursor.execute(statement)
    finally:
        cursor.close()
