"""Very many rows into one table: an insert as a driver takes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import sqlalchemy as sa

from person_repo.database.engines import DIRECT_DRIVERS
from person_repo.database.marks import DECLARED, DeclaredInsert
from person_repo.mapped.mapping import EntityMapping, Identity, Row

__all__ = ["Insert"]


class Insert:
    """An insert of entities of one class whose values are given in the order of some fields' names.

    What SQLAlchemy does for each row (parameters by name, once more by the names of the statement, the write side's
    look at each) takes longer than the driver does; here it is done for the first, or for as many as count.
    """

    def __init__(self, mapping: EntityMapping[Any], names: Sequence[str], sql: str, given: Row) -> None:
        self._mapping = mapping
        self._sql = sql
        self._given = given
        self._key_names = tuple(column.name for column in mapping.key_columns[mapping.table])
        self._key_at = [names.index(field.name) for field in mapping.key_fields]

    @classmethod
    def of(cls, mapping: EntityMapping[Any], names: Sequence[str], connection: sa.Connection) -> Self | None:
        """For this connection; None where an insert takes more than values that the driver sends as they are."""
        dialect = connection.dialect
        if dialect.driver not in DIRECT_DRIVERS or connection.get_execution_options().get("schema_translate_map"):
            return None
        if mapping.inherits or not {field.name for field in mapping.key_fields} <= {*names}:
            return None
        keys = [mapping.by_name[name].column.key for name in names]
        version, generator = mapping.mapper.version_id_col, mapping.mapper.version_id_generator
        first_version: Row = ()
        if version is not None:
            if not callable(generator):
                return None
            keys.append(str(version.key))
            first_version = (generator(None),)
        compiled: Any = sa.insert(mapping.table).compile(dialect=dialect, column_keys=keys)
        sql = _positional(compiled, keys)
        if sql is None or compiled.insert_prefetch or compiled._bind_processors:
            return None
        return cls(mapping, names, sql, first_version)

    def send(self, connection: sa.Connection, rows: Sequence[Row]) -> None:
        """Inserts these rows."""
        given = self._given
        declared = DeclaredInsert(self._mapping.table, self._key_names, lambda: self._identities(rows))
        connection.exec_driver_sql(
            self._sql, [(*row, *given) for row in rows] if given else [*rows], execution_options={DECLARED: declared}
        )

    def _identities(self, rows: Sequence[Row]) -> list[Identity] | None:
        found = [self._mapping.stored_identity([row[at] for at in self._key_at]) for row in rows]
        return None if None in found else [identity for identity in found if identity is not None]


def _positional(compiled: Any, keys: Sequence[str]) -> str | None:
    """The SQL with parameters by position in the order of these keys; None where it has others, or another order.

    PyMySQL's SQL names them, and PyMySQL takes positions too, which need no names for each row.
    """
    sql = str(compiled)
    if compiled.positional:
        return sql if compiled.positiontup == keys else None
    places = [sql.find(f"%({key})s") for key in keys]
    if -1 in places or places != sorted(places) or len(compiled.params) != len(keys):
        return None
    for key in keys:
        sql = sql.replace(f"%({key})s", "%s")
    return sql
