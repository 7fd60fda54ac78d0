"""The parts of SQLAlchemy's insert, update and delete objects: their tables, columns, values and criteria.

SQLAlchemy has no public way to most of them: ``internals`` has the private ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy.sql import dml, elements, visitors

from person_repo import internals
from person_repo.writing.tables import WatchedTable

__all__ = [
    "MISSING",
    "REWRITTEN",
    "Missing",
    "Parameters",
    "column_of",
    "criteria_of",
    "fixed_values",
    "has_conflict_clause",
    "has_listed_rows",
    "has_prefixes",
    "is_from_select",
    "is_same_table",
    "listed_rows",
    "plain",
    "replaces",
    "set_columns",
    "targets",
    "targets_of",
    "value_in",
]

Parameters: TypeAlias = Sequence[Mapping[str, Any]]
"""The parameter sets of an execution, by name."""


# Tables


def targets_of(statement: dml.UpdateBase) -> list[str]:
    """The names, in lower case, of all tables that a statement changes."""
    return [target.name.lower() for target, _ in targets(statement)]


def targets(statement: dml.UpdateBase) -> Iterator[tuple[Any, bool]]:
    """The tables that a statement changes, each with True if it is the only one."""
    table: Any = statement.table
    others = _other_tables(statement, table)
    if isinstance(table, (sa.Table, sa.TableClause)):
        yield table, not others
    else:  # The target is an alias or a join.
        others = [*others, *[part for part in visitors.iterate(table) if isinstance(part, sa.TableClause)]]
    for other in others:
        yield other, False


def is_same_table(one: Any, other: Any) -> bool:
    """True if two table objects name one table; an alias, or a table of another schema, is another one."""
    both = isinstance(one, sa.TableClause) and isinstance(other, sa.TableClause)
    return both and one.name == other.name and getattr(one, "schema", None) == getattr(other, "schema", None)


def _other_tables(statement: dml.UpdateBase, table: Any) -> list[Any]:
    """The tables of columns set beside the target's own (UPDATE a, b SET b.x)."""
    if not isinstance(statement, dml.Update):
        return []
    others = [
        column.table
        for column in internals.set_values(statement)
        if isinstance(column, elements.ColumnClause)
        and column.table is not None
        and column.table is not table
        and not is_same_table(column.table, table)
    ]
    return [other for other in others if isinstance(getattr(other, "name", None), str)]


# Columns


def column_of(target: Any, name: str) -> Any:
    """The column of a table by its name in the database, which need not be its key; None if there is none."""
    return next((column for column in target.c if column.name == name), None)


def set_columns(statement: dml.UpdateBase, parameters: Parameters) -> frozenset[str] | None:
    """The names of the columns that a statement sets in existing rows; None if that cannot be seen.

    An insert sets columns of existing rows where it meets a conflict.
    """
    if isinstance(statement, dml.Update):
        given = [column.name for column in statement.table.c if any(column.key in one for one in parameters)]
        return frozenset([*fixed_values(statement), *given])
    clause = internals.post_values_clause(statement)
    if clause is None:
        return frozenset()
    columns = internals.upserted_columns(clause)
    if columns is None:
        return frozenset() if type(clause).__name__ == "OnConflictDoNothing" else None
    return frozenset(_column_name(statement, column) for column in columns)


def _column_name(statement: dml.UpdateBase, column: Any) -> str:
    """The name in the database of a key in ``values()``: a column, or a column's key. Names of attributes are resolved
    to columns before a statement gets here.
    """
    if not isinstance(column, str):
        return str(getattr(column, "name", column))
    known = statement.table.c.get(column)
    return column if known is None else str(known.name)


# Values


def fixed_values(statement: dml.Insert | dml.Update) -> dict[str, Any]:
    """The values of ``values()``, by the names of the columns: the same for every parameter set."""
    return {_column_name(statement, column): value for column, value in internals.set_values(statement).items()}


def has_listed_rows(statement: dml.Insert) -> bool:
    """True if ``values()`` was given a list of rows."""
    return bool(internals.listed_rows(statement))


def listed_rows(statement: dml.Insert) -> Iterator[dict[str, Any]]:
    """The rows of ``values([...])``, by the names of the columns."""
    for rows in internals.listed_rows(statement):
        for row in rows:
            pairs: Iterable[tuple[Any, Any]] = (
                row.items() if isinstance(row, Mapping) else zip(statement.table.c, row, strict=False)
            )
            yield {_column_name(statement, column): value for column, value in pairs}


class Missing:
    """The type of ``MISSING`` and ``REWRITTEN``, which equal no value."""


MISSING = Missing()
"""Stands for a value that only the database knows."""

REWRITTEN = Missing()
"""Stands for a parameter whose type rewrites it: SQLAlchemy reports the value sent, the row holds another."""


def plain(value: Any, given: Mapping[str, Any], table: WatchedTable, name: str, column: Any = None) -> Any:
    """The Python value of an expression for a column of a table's key, with the parameters ``given``; a ``Missing`` if
    the database, or a type on the way there other than the key's, computes it. ``column``: that of the statement's
    table, whose type a parameter without one takes; None in a criterion.
    """
    if isinstance(value, elements.BindParameter):
        found = given.get(value.key, MISSING)
        # SQLAlchemy calls a callable once more, and may get another value.
        if found is MISSING and not value.required and value.callable is None:
            found = value.value
        takes_columns = column is not None and isinstance(value.type, sa.types.NullType)
        type_ = column.type if takes_columns else value.type
        return found if found is MISSING or table.is_sent_as_mapped(name, type_, found) else REWRITTEN
    if isinstance(value, elements.Null):
        return None
    return MISSING if isinstance(value, sa.ClauseElement) or hasattr(value, "__clause_element__") else value


def value_in(column: Any, value: Any, given: Mapping[str, Any], table: WatchedTable, name: str) -> Any:
    """The same of a value that a statement sets, which need not be an expression."""
    found = plain(value, given, table, name, column)
    if column is None or found is None or isinstance(found, Missing) or isinstance(value, sa.ClauseElement):
        return found
    return found if table.is_sent_as_mapped(name, column.type, found) else REWRITTEN


# Clauses


def criteria_of(statement: dml.Update | dml.Delete) -> Sequence[Any]:
    """The criteria of the WHERE clause, all of which a row must meet."""
    return internals.criteria(statement)


def is_from_select(statement: dml.Insert) -> bool:
    """True for INSERT ... SELECT."""
    return internals.select_names(statement) is not None


def has_conflict_clause(statement: dml.Insert) -> bool:
    """True for an upsert: ON CONFLICT ..., ON DUPLICATE KEY UPDATE."""
    return internals.post_values_clause(statement) is not None


def has_prefixes(statement: dml.Insert) -> bool:
    """True if words stand between INSERT and INTO: OR REPLACE, OR IGNORE."""
    return bool(internals.prefixes(statement))


def replaces(statement: dml.Insert) -> bool:
    """True if an insert deletes the rows that it conflicts with (SQLite's INSERT OR REPLACE)."""
    return any("REPLACE" in str(prefix).upper() for prefix, _ in internals.prefixes(statement))
