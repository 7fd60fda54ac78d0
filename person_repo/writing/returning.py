"""RETURNING: an update or a delete says itself which rows it has changed.

It is added to a statement that has none, as it is sent, and its rows are taken before SQLAlchemy looks at the result,
so the host sees what it would have seen without it: no rows, and their number. It locks nothing. A statement that is
refused with it, since the account may not read the key, is sent again without it: nothing has run yet (``is_refused``).
Of a statement that returns the key anyway the rows are read, and left for the host.
"""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.sql import dml, visitors

from person_repo.internals import (
    has_column_expression,
    put_rows_back,
    resolved_statement,
    result_columns,
    returned_columns,
    take_rows,
)
from person_repo.interruptions import is_repeated
from person_repo.mapped.identities import Identity
from person_repo.writing.clauses import criteria_of, fixed_values, is_same_table
from person_repo.writing.covered import HIDDEN, MOVED, CoveredModel
from person_repo.writing.rewriting import is_rewritten

__all__ = ["Returned", "is_refused", "returned_by"]

logger = logging.getLogger("person_repo.writing")

_CHUNK: Final = 1000

_UNCOUNTED: Final = 2**63
"""PyMySQL's number of the rows that it has not counted, and more, is no number of rows."""


class Returned:
    """The rows that a statement returns. ``models``: those whose keys are in them. ``places``: of each column of a key,
    its index in a row. ``clause``: the end of the statement that returns them; "" if it does so anyway.
    """

    __slots__ = ("_dialect", "_places", "clause", "models")

    def __init__(
        self, dialect: sa.Dialect, models: Sequence[CoveredModel], places: Mapping[str, int], clause: str
    ) -> None:
        self.models = models
        self.clause = clause
        self._dialect = dialect
        self._places = places

    def identities(self, context: Any, cursor: Any) -> list[list[Identity] | None]:
        """For each model the keys of the rows, which are taken from the cursor; None for too many of them, or if one
        cannot be read: the statement has run, and must not fail because of us.
        """
        kinds = [column[1] for column in cursor.description]
        readers = [self._reader(model, kinds) for model in self.models]
        found: list[list[Any] | None] = [[] for _ in self.models]
        number = 0
        kept: list[Any] = []
        while rows := self._fetched(cursor, found):
            number += len(rows)
            kept += [] if self.clause else rows
            for at, (model, read) in enumerate(zip(self.models, readers, strict=True)):
                identities = found[at]
                if identities is not None:
                    identities += _read_all(read, rows)
                    if len(identities) > model.backend.settings.max_keys or None in identities:
                        found[at] = None
        if self.clause:
            # More than were read, if one could not be. A cursor that holds no rows (SSCursor) cannot count them.
            counted = cursor.rowcount
            take_rows(context, counted if number < counted < _UNCOUNTED else number)
        else:
            put_rows_back(context, cursor, kept)
        return found

    def _fetched(self, cursor: Any, found: list[list[Any] | None]) -> Sequence[Any]:
        try:
            rows: Sequence[Any] = cursor.fetchmany(_CHUNK)
        except self._dialect.loaded_dbapi.Error as exc:
            if not self.clause:
                raise
            # A value that the driver cannot read, such as a date beyond Python's.
            logger.debug("a row that a statement has returned cannot be read: %s", exc)
            found[:] = [None] * len(found)
            return []
        return rows

    def _reader(self, model: CoveredModel, kinds: Sequence[Any]) -> Callable[[Any], Identity]:
        """A function from a row to the model's key in it."""
        places = [self._places[name] for name in model.key_names]
        types = [key.column.type.dialect_impl(self._dialect) for key in model.mapping.key_fields]
        processors = [
            type_.result_processor(self._dialect, kinds[place]) for type_, place in zip(types, places, strict=True)
        ]
        pairs = [(place, process) for place, process in zip(places, processors, strict=True)]
        return lambda row: tuple([row[place] if process is None else process(row[place]) for place, process in pairs])


def _read_all(read: Callable[[Any], Identity], rows: Sequence[Any]) -> list[Identity | None]:
    try:
        return [*map(read, rows)]
    except Exception as exc:  # A type of the host's may raise anything.
        if not is_repeated(exc, lambda: [*map(read, rows)]):
            raise
        logger.debug("a key that a statement has returned cannot be read: %s", exc)
        return [None]


def returned_by(context: Any, statement: str, models: Sequence[CoveredModel]) -> Returned | None:
    """The rows that a statement of the host's is to return, which is about to be sent; None if it cannot.

    Cases in which it cannot: it is run for several parameter sets, or was rewritten; its table is an alias, or may be
    another one than the metadata has; it returns something else; the database has no such clause, or not for this kind;
    it names no criteria, so that all rows change; the account may not read the keys.
    """
    dialect, write, table = context.dialect, resolved_statement(context), models[0].table
    if context.executemany or is_rewritten(context, statement) or not _takes_clause(statement):
        return None
    if any(model.table is not table or not _reads_plainly(model) for model in models):
        return None
    if not isinstance(write, (dml.Update, dml.Delete)) or not is_same_table(write.table, table):
        return None
    info = context.root_connection.connection.info
    if MOVED in info or HIDDEN in info:
        return None
    names = list(dict.fromkeys(name for model in models for name in model.key_names))
    returned = returned_columns(context.compiled)
    if returned:
        return _returned_anyway(context, returned, models, names)
    if _RETURNS.search(statement):
        return None
    if not (dialect.update_returning if isinstance(write, dml.Update) else dialect.delete_returning):
        return None
    translation = context.execution_options.get("schema_translate_map")
    if not criteria_of(write) or not all(model.may_return(translation) for model in models):
        return None
    others = _other_tables(write, table)
    # MariaDB returns rows of one table only. On PostgreSQL two tables of one name would make the clause ambiguous.
    if dialect.name == "postgresql" and any(getattr(other, "name", None) == table.name for other in others):
        return None
    if dialect.name not in ("postgresql", "sqlite") and others:
        return None
    return Returned(dialect, models, {name: at for at, name in enumerate(names)}, _clause(dialect, table, names))


def _returned_anyway(
    context: Any, returned: Sequence[Any], models: Sequence[CoveredModel], names: Sequence[str]
) -> Returned | None:
    table = models[0].table
    if len(returned) != len(result_columns(context.compiled)):  # The ORM sends a column once that is named twice.
        return None
    places = {
        column.name: at
        for at, column in enumerate(returned)
        if isinstance(column, sa.Column) and is_same_table(column.table, table)
    }
    if not places.keys() >= {*names} or context.execution_options.get("stream_results"):
        return None
    return Returned(context.dialect, models, places, "")


def _clause(dialect: sa.Dialect, table: sa.Table, names: Sequence[str]) -> str:
    """On a line of its own: a listener of the host's may have added a comment."""
    quote = dialect.identifier_preparer.quote
    # Elsewhere a statement has one table, or may return columns of its own only.
    prefix = f"{quote(table.name)}." if dialect.name == "postgresql" else ""
    return "\nRETURNING " + ", ".join(f"{prefix}{quote(name)}" for name in names)


def _takes_clause(statement: str) -> bool:
    return _BEGINS.match(statement) is not None and not statement.rstrip().endswith(";")


def _reads_plainly(model: CoveredModel) -> bool:
    """True if a query reads the key's columns as they are, and not through a function of the type's."""
    fields = model.mapping.key_fields
    return bool(fields) and not any(has_column_expression(field.column.type) for field in fields)


_BEGINS: Final = re.compile(r"(?:\s|/\*.*?\*/|--[^\n]*\n)*(?:UPDATE|DELETE)\b", re.IGNORECASE | re.DOTALL)
_RETURNS: Final = re.compile(r"\bRETURNING\b", re.IGNORECASE)

_NOT_ALLOWED: Final = frozenset({1044, 1054, 1064, 1142, 1143, 1146, 1235})
"""The errors of MariaDB for a statement that it does not understand, or does not allow."""


def is_refused(dialect: sa.Dialect, error: BaseException) -> bool:
    """True if a database refused a statement before it ran, for its text or for a right: another text may pass."""
    if dialect.name == "sqlite":
        return getattr(error, "sqlite_errorcode", None) == 1  # SQLITE_ERROR
    if dialect.name == "postgresql":
        return str(getattr(error, "sqlstate", "")).startswith("42")  # syntax error or access rule violation
    return next(iter(getattr(error, "args", ())), None) in _NOT_ALLOWED


def _other_tables(write: dml.Update | dml.Delete, table: sa.Table) -> list[Any]:
    """The tables, aliases and queries that a statement names beside its own table."""
    clauses = [*criteria_of(write), *(fixed_values(write).values() if isinstance(write, dml.Update) else ())]
    parts = itertools.chain.from_iterable(
        visitors.iterate(part) for part in clauses if isinstance(part, sa.ClauseElement)
    )
    named = [part if isinstance(part, sa.FromClause) else getattr(part, "table", None) for part in parts]
    return [each for each in named if each is not None and not is_same_table(each, table)]
