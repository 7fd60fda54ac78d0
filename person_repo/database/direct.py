"""Queries by key on a driver's own cursor, past SQLAlchemy's execution.

SQLAlchemy's statement cache, execution context and result object take longer than many a driver with its database. All
else stays SQLAlchemy's: the pool with its pings and listeners, the types' conversions both ways, the errors and what
they do to a connection.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import cycle
from typing import Any, NoReturn

import sqlalchemy as sa

from person_repo.database.snapshots import Snapshot, fresh_connection
from person_repo.internals import (
    connections_have_listeners,
    has_listeners,
    raise_connect_error,
    raise_driver_error,
    result_columns,
)
from person_repo.mapped.mapping import EntityMapping, Row

__all__ = ["DIRECT_DRIVERS", "DirectQuery", "is_observed"]

DIRECT_DRIVERS = ("pysqlite", "pymysql")
"""The drivers that are sent statements directly: those that the tests have. Another one's execution context may do
more, which would be left out.
"""


def is_observed(engine: sa.Engine) -> bool:
    """True if a listener, a log or an option of the host's would miss a statement that is sent directly.

    All of these may come and go, so ask before each statement.
    """
    return (
        has_listeners(engine)
        or connections_have_listeners()
        or has_listeners(engine.dialect)
        or bool(engine.get_execution_options())
        or engine.logger.isEnabledFor(logging.INFO)
    )


class DirectQuery:
    """A query by ``size`` keys, compiled once."""

    def __init__(self, query: sa.Select[Any], mapping: EntityMapping[Any], engine: sa.Engine, size: int) -> None:
        self._engine = engine
        self._dialect = dialect = engine.dialect
        with fresh_connection(engine):  # a dialect knows its server from the first connection on
            compiled: Any = query.compile(dialect=dialect, compile_kwargs={"render_postcompile": True})
        self._sql = str(compiled)
        self._names: list[str] | None = None if compiled.positional else list(compiled.params)
        names = compiled.positiontup if compiled.positional else compiled.params
        self.takes_keys_only: bool = len(names) == size * len(mapping.key_fields)
        """False if a column's type has parameters of its own in its SQL, such as the key that decrypts it."""
        binds = [_implementation(field.column.type, dialect).bind_processor(dialect) for field in mapping.key_fields]
        self._binds = binds if any(binds) else None
        self._types = [_implementation(column.type, dialect) for column in result_columns(compiled)]
        self._reads: list[Any] | None = None

    def rows(self, values: Sequence[Any]) -> tuple[Sequence[Row], bool]:
        """The rows for the values of one key, or of several keys one after the other, and whether all were committed
        and none is older than the call.
        """
        try:
            checked_out = self._engine.raw_connection()
        except self._dialect.loaded_dbapi.Error as error:
            raise_connect_error(self._engine, error)
        parameters: Any = values
        cursor = snapshot = None
        try:
            parameters = self._parameters(values)
            # With these drivers SQLAlchemy adapts nothing: this is the driver's own connection, for less calls.
            snapshot = Snapshot(self._engine, checked_out, checked_out.dbapi_connection)
            cursor = checked_out.cursor()
            self._dialect.do_execute(cursor, self._sql, parameters)
            rows = cursor.fetchall()
            columns = cursor.description
            cursor.close()
            committed = snapshot.is_committed()
            snapshot.end()
        except BaseException as error:
            is_own = snapshot is not None and snapshot.is_own
            self._refuse(error, checked_out, parameters, cursor, is_own)
        checked_out.close()
        return rows if self._reads == [] else self._read(rows, columns), committed

    def _parameters(self, values: Sequence[Any]) -> Any:
        if self._binds is not None:
            binds = zip(values, cycle(self._binds), strict=False)
            values = [value if bind is None else bind(value) for value, bind in binds]
        return tuple(values) if self._names is None else dict(zip(self._names, values, strict=True))

    def _refuse(self, error: BaseException, checked_out: Any, parameters: Any, cursor: Any, is_own: bool) -> NoReturn:
        """Raises as SQLAlchemy does: translated, and without leaving a connection in the pool that is broken, or in the
        middle of a reply.
        """
        # Once a cursor is there, only the driver's own errors are translated, and what is not one is an interruption.
        translated = cursor is None or isinstance(error, self._dialect.loaded_dbapi.Error)
        with sa.Connection(self._engine, checked_out) as connection:
            try:
                raise_driver_error(connection, error, self._sql if translated else None, parameters, cursor)
            finally:
                if not translated and is_own and not connection.invalidated:
                    connection.invalidate()

    def _read(self, rows: Sequence[Any], columns: Any) -> Sequence[Any]:
        """The values as the types of the columns convert them. ``columns``: the cursor's description."""
        if self._reads is None:  # the conversions may depend on the driver's codes in the description
            typed = zip(self._types, columns, strict=True)
            reads = [type_.result_processor(self._dialect, column[1]) for type_, column in typed]
            self._reads = reads if any(reads) else []
        if not self._reads:
            return rows
        pairs = [zip(row, self._reads, strict=True) for row in rows]
        return [tuple([value if read is None else read(value) for value, read in pair]) for pair in pairs]


def _implementation(type_: sa.types.TypeEngine[Any], dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
    return type_.dialect_impl(dialect)
