"""Core statement -> the keys of the rows it changes; whole models where the keys cannot be seen, never nothing.

The keys are found, in this order,

1. for an insert: in its values, or in its result if the database makes them;
2. for an update or a delete by primary key: in its criteria and their parameters (``criteria``);
3. for any other update or delete: by a query with the same criteria, under the same locks, before it (``criteria``);
4. nowhere: an insert from a select, a conflict on another unique key, several tables at once.

Most executions are of a statement compiled before. For these, ``key_parameters`` says once which parameters are the
primary key, and ``KeyParameters.change`` reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic

import sqlalchemy as sa
from sqlalchemy.sql import dml, elements

from person_repo.mapped.mapping import Identity
from person_repo.writing.clauses import (
    MISSING,
    REWRITTEN,
    Missing,
    Parameters,
    column_of,
    fixed_values,
    has_conflict_clause,
    has_listed_rows,
    has_prefixes,
    is_from_select,
    listed_rows,
    replaces,
    set_columns,
    targets,
    value_in,
)
from person_repo.writing.criteria import CriteriaWrite
from person_repo.writing.tables import Change, W, WatchedTable

__all__ = ["KeyParameters", "changes_of", "key_parameters"]


def changes_of(
    connection: sa.Connection,
    statement: dml.UpdateBase,
    parameters: Parameters,
    watched: Mapping[str, Sequence[W]],
    *,
    most: int,
    may_ask: Callable[[], bool],
    options: Mapping[str, Any],
) -> list[Change[W]]:
    """The rows that an insert, update or delete changes of the watched tables, which are given by name.

    ``most``: more changed rows than this are any rows. ``may_ask``: False if the database must not be asked for rows,
    because no transaction would keep them locked. ``options``: the statement's execution options.
    """
    changes: list[Change[W]] = []
    for target, is_only in targets(statement):
        for table in watched.get(target.name.lower(), ()):
            if not is_only or not (target is table.table or _is_where_mapped(target, table, options)):
                changes.append(Change(table, None))
            elif isinstance(statement, dml.Insert):
                changes.append(_of_insert(connection, statement, parameters, table))
            else:
                assert isinstance(statement, (dml.Update, dml.Delete))
                write = CriteriaWrite(statement, parameters, table, target)
                changes.append(write.change(connection, most=most, may_ask=may_ask, options=options))
    return changes


def _is_where_mapped(target: Any, table: WatchedTable, options: Mapping[str, Any]) -> bool:
    """True if the table object in a statement, which need not be the mapped one, is in the mapped one's schema. Of
    another schema it may be the same table, and may not; and only a ``Table`` is translated.
    """
    is_translated = isinstance(target, sa.Table) or not options.get("schema_translate_map")
    return is_translated and bool(getattr(target, "schema", None) == table.table.schema)


# Every execution of one compiled statement


@dataclass(frozen=True, slots=True)
class KeyParameters(Generic[W]):
    """The bind parameters of a compiled statement that are the primary key of the row it changes.

    ``inserts``: the row is a new one; a part of its key that is None is made by the database.
    """

    table: W
    names: tuple[str, ...]
    inserts: bool

    def change(self, parameters: Parameters) -> Change[W] | None:
        """The rows that an execution with these parameters changes; None if the statement itself must be examined."""
        identities: list[Identity] = []
        generated = False
        for given in parameters:
            key = [*map(given.get, self.names)]
            if self.inserts and any(value is None for value in key):
                generated = True
                continue
            identity = self.table.stored_identity(key)
            if identity is None:
                return None
            identities.append(identity)
        return Change(self.table, identities, generated=generated)


def key_parameters(
    statement: dml.UpdateBase,
    parameters: Parameters,
    watched: Mapping[str, Sequence[W]],
    dialect: sa.Dialect,
    options: Mapping[str, Any],
) -> list[KeyParameters[W]] | None:
    """The parameters to read in every execution of this compilation, for each watched table that it changes; None if
    parameters alone do not name the rows.

    The statements of one compilation have the same tables, columns, criteria and names of parameters.
    """
    known: list[KeyParameters[W]] = []
    for target, is_only in targets(statement):
        for table in watched.get(target.name.lower(), ()):
            is_known = is_only and (target is table.table or _is_where_mapped(target, table, options))
            names = _names_of_key(statement, parameters, table, target, dialect) if is_known else None
            if names is None:
                return None
            known.append(KeyParameters(table, names, isinstance(statement, dml.Insert)))
    return known


def _names_of_key(
    statement: dml.UpdateBase, parameters: Parameters, table: WatchedTable, target: Any, dialect: sa.Dialect
) -> tuple[str, ...] | None:
    if isinstance(statement, dml.Insert):
        return _names_of_inserted_key(statement, table)
    assert isinstance(statement, (dml.Update, dml.Delete))
    write = CriteriaWrite(statement, parameters, table, target)
    if write.moves() != [] or not table.compares_exactly(dialect):
        return None
    sides = write.key_sides()
    if sides is None:
        return None
    if not all(_is_named(name, side, parameters, table) for name, side in zip(table.key_names, sides, strict=True)):
        return None
    return tuple(side.key for side in sides)


def _names_of_inserted_key(statement: dml.Insert, table: WatchedTable) -> tuple[str, ...] | None:
    if is_from_select(statement) or has_listed_rows(statement) or has_prefixes(statement):
        return None
    if has_conflict_clause(statement) or table.rewrites_keys():
        return None
    columns = [column_of(statement.table, name) for name in table.key_names]
    if any(column is None for column in columns) or not fixed_values(statement).keys().isdisjoint(table.key_names):
        return None
    if not all(table.is_always_sent_as_mapped(column.name, column.type) for column in columns):
        return None
    return tuple(column.key for column in columns)


def _is_named(name: str, side: Any, parameters: Parameters, table: WatchedTable) -> bool:
    """True if a criterion compares with a parameter that each execution gives under this name, and sends as the column
    does.
    """
    if not isinstance(side, elements.BindParameter) or side.expanding:
        return False
    if not table.is_always_sent_as_mapped(name, side.type):
        return False
    return all(side.key in given for given in parameters)


# Inserts


def _of_insert(connection: sa.Connection, statement: dml.Insert, parameters: Parameters, table: W) -> Change[W]:
    """Cases: rows from a select; a conflict that may change a row of another key; keys that the database makes; keys
    that are given.
    """
    if (
        is_from_select(statement)
        or table.rewrites_keys()
        or _may_change_others(connection.dialect, statement, parameters, table)
    ):
        return Change(table, None)
    identities: list[Identity] = []
    generated = False
    for values in _inserted_keys(statement, parameters, table):
        key = [values.get(name, MISSING) for name in table.key_names]
        if any(value is MISSING or value is None for value in key):
            if has_listed_rows(statement):  # The result has the key of the first row only.
                return Change(table, None)
            generated = True
            continue
        identity = None if REWRITTEN in key else table.stored_identity(key)
        if identity is None:
            return Change(table, None)
        identities.append(identity)
    return Change(table, identities, generated=generated)


def _may_change_others(dialect: sa.Dialect, statement: dml.Insert, parameters: Parameters, table: WatchedTable) -> bool:
    """True if a conflict may change a row of another key than the inserted one, or give a row another key."""
    if not has_conflict_clause(statement) and not replaces(statement):
        return False
    if table.has_other_unique_keys() or not table.compares_exactly(dialect):
        return True
    names = set_columns(statement, parameters)
    return names is None or not names.isdisjoint(table.key_names)


def _inserted_keys(statement: dml.Insert, parameters: Parameters, table: WatchedTable) -> Iterator[dict[str, Any]]:
    """The key of each inserted row, by the names of its columns; a part that the database makes is ``MISSING``, None,
    or left out.
    """
    if has_listed_rows(statement):
        given = parameters[0] if parameters else {}
        yield from (_key_values(statement, row, given, table) for row in listed_rows(statement))
        return
    fixed = fixed_values(statement)
    columns = [column for column in statement.table.c if column.name in table.key_names]
    for given in parameters or [{}]:
        values = _key_values(statement, fixed, given, table)
        for column in columns:
            if column.key in given and not isinstance(values.get(column.name), Missing):
                values[column.name] = value_in(column, given[column.key], given, table, column.name)
        yield values


def _key_values(
    statement: dml.Insert, values: Mapping[str, Any], given: Mapping[str, Any], table: WatchedTable
) -> dict[str, Any]:
    table_sent = statement.table
    keys = [(name, value) for name, value in values.items() if name in table.key_names]
    return {name: value_in(column_of(table_sent, name), value, given, table, name) for name, value in keys}
