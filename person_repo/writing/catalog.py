"""How PostgreSQL, MySQL and MariaDB compare and keep a table's key, and how SQLite compares it, from their catalogs.

The metadata need not agree: a mapped ``String`` may be ``citext`` on PostgreSQL, on MySQL and MariaDB a column has the
collation that a dump or an ``ALTER TABLE ... CONVERT`` gave it, and on SQLite that of a table made by hand.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from person_repo.database.identity import UNTRANSLATED, not_waiting
from person_repo.database.marks import OWN
from person_repo.database.snapshots import question_to
from person_repo.interruptions import DATABASE_ERRORS
from person_repo.writing.realcolumns import RealColumn, compares_exactly_on_mysql, on_mysql, on_postgresql

__all__ = [
    "UNKNOWN",
    "KeyColumns",
    "has_catalog",
    "has_collations",
    "is_exact_collation",
    "key_columns_of",
    "may_return",
]

logger = logging.getLogger("person_repo.writing")


_OPTIONS: Final = {**UNTRANSLATED, OWN: True}


class KeyColumns(NamedTuple):
    """``compares_exactly``: ``=`` holds for equal values only. ``keeps_values``: what the mapped type keeps is stored
    as it is sent. ``columns``: by name, one for each table of this name.
    """

    compares_exactly: bool
    keeps_values: bool
    columns: Mapping[str, Sequence[RealColumn]]

    @property
    def is_computed(self) -> bool:
        """True if a change of another column may change the key."""
        return any(column.is_computed for columns in self.columns.values() for column in columns)


UNKNOWN: Final = KeyColumns(compares_exactly=False, keeps_values=False, columns={})
"""The facts of a key of which nothing is known: that of a table which is not there, or not yet committed."""

# By name alone, whatever the schema: which table a statement means depends on its connection's search_path. Of a domain
# the type below it counts. Types that extensions add lie outside pg_catalog; enumerations do, too, and compare exactly.
_OF_POSTGRESQL: Final = sa.text(
    """
    SELECT base.typname,
           base.typnamespace = 'pg_catalog'::regnamespace OR base.typtype = 'e',
           coalesce(pg_collation.collisdeterministic, true) AND pg_class.relkind <> 'f',
           attname, CASE declared.typtype WHEN 'd' THEN declared.typtypmod ELSE atttypmod END, attgenerated <> ''
    FROM pg_class
    JOIN pg_attribute ON pg_attribute.attrelid = pg_class.oid AND NOT pg_attribute.attisdropped
    JOIN pg_type AS declared ON declared.oid = pg_attribute.atttypid
    JOIN pg_type AS base ON base.oid = CASE declared.typtype WHEN 'd' THEN declared.typbasetype ELSE declared.oid END
    LEFT JOIN pg_collation ON pg_collation.oid = pg_attribute.attcollation
    WHERE pg_class.relname = :name AND pg_class.relkind IN ('r', 'p', 'f', 'v', 'm')
      AND pg_attribute.attname IN :columns
    """
).bindparams(sa.bindparam("columns", expanding=True))

_PADDED: Final = "bpchar"
"""CHAR: filled with blanks, which do not count when it is compared."""

# By name alone here, too: a statement may name a schema, or its engine translate one. Numbers have no collation.
_OF_MYSQL: Final = sa.text(
    """
    SELECT DISTINCT COLUMN_NAME, COLLATION_NAME, CHARACTER_SET_NAME, DATA_TYPE, COLUMN_TYPE, EXTRA,
           CHARACTER_MAXIMUM_LENGTH, NUMERIC_PRECISION, NUMERIC_SCALE
    FROM information_schema.COLUMNS
    WHERE TABLE_NAME = :name AND COLUMN_NAME IN :columns
    """
).bindparams(sa.bindparam("columns", expanding=True))


def has_catalog(dialect: sa.Dialect) -> bool:
    """True if a database's catalog is asked here for what a column keeps."""
    return dialect.name in ("postgresql", "mysql", "mariadb")


def has_collations(dialect: sa.Dialect) -> bool:
    """True if a database's catalog is asked here for how strings compare."""
    return has_catalog(dialect) or dialect.name == "sqlite"


def is_exact_collation(name: str) -> bool:
    """True if MySQL or MariaDB takes strings for equal in this collation only if they are: it is binary, and does not
    pad with blanks.
    """
    name = name.lower()
    return name in ("utf8mb4_0900_bin", "binary") or name.endswith("_nopad_bin")


def key_columns_of(engine: sa.Engine, table: sa.Table, names: Sequence[str]) -> KeyColumns | None:
    """The facts of these columns, true of every table of this name in the database, or on the server of MySQL's. One
    query, in a transaction of its own; None if there is no such table, ``UNKNOWN`` if the database cannot be asked.
    """
    is_postgresql = engine.dialect.name == "postgresql"
    try:
        with question_to(engine) as connection:
            if engine.dialect.name == "sqlite":
                return _on_sqlite(connection, table.name)
            parameters = {"name": table.name, "columns": list(names)}
            query = _OF_POSTGRESQL if is_postgresql else _OF_MYSQL
            result = connection.execute(query, parameters, execution_options={OWN: True})
            columns: Sequence[Any] = result.all() if is_postgresql else result.mappings().all()
    except DATABASE_ERRORS as exc:
        logger.warning("the key of %s cannot be asked for; its changes drop the whole class: %s", table.name, exc)
        return UNKNOWN
    if not columns:
        return None
    return _on_postgresql(columns) if is_postgresql else _on_mysql(columns)


def _on_sqlite(connection: sa.Connection, name: str) -> KeyColumns | None:
    """The text that defines a table is all that says the collation of a column."""
    with not_waiting(connection):
        files = connection.execute(sa.text("PRAGMA database_list"), execution_options=_OPTIONS).all()
        texts: list[str] = []
        for _, schema, _ in files:
            quoted = connection.dialect.identifier_preparer.quote_identifier(schema)
            of_name = "lower(name) = lower(:name) AND type IN ('table', 'view')"
            query = sa.text(f"SELECT sql FROM {quoted}.sqlite_master WHERE {of_name}")
            texts += connection.execute(query, {"name": name}, execution_options=_OPTIONS).scalars()
    if not texts:
        return None
    exact = not any(_COLLATES.search(text) for text in texts)
    return KeyColumns(compares_exactly=exact, keeps_values=True, columns={})


_COLLATES: Final = re.compile(r"\bCOLLATE\b(?!\s+[\"\[`]?BINARY\b)", re.IGNORECASE)


def _on_mysql(rows: Sequence[Mapping[str, Any]]) -> KeyColumns:
    collations = [row["COLLATION_NAME"] for row in rows if row["COLLATION_NAME"] is not None]
    exact = all(map(is_exact_collation, collations)) and all(map(compares_exactly_on_mysql, rows))
    found = _by_name((row["COLUMN_NAME"], on_mysql(row)) for row in rows)
    return KeyColumns(compares_exactly=exact, keeps_values=True, columns=found)


def _on_postgresql(rows: Sequence[Any]) -> KeyColumns:
    plain = [is_known and type_ != _PADDED for type_, is_known, *_ in rows]
    names = [row[0] for row in rows]
    return KeyColumns(
        compares_exactly=all(plain) and all(is_deterministic for _, _, is_deterministic, *_ in rows),
        keeps_values=all(is_plain or name == "citext" for is_plain, name in zip(plain, names, strict=True)),
        columns=_by_name(
            (name, on_postgresql(type_, modifier, is_computed=computed))
            for type_, _, _, name, modifier, computed in rows
        ),
    )


def _by_name(columns: Iterable[tuple[str, RealColumn]]) -> Mapping[str, Sequence[RealColumn]]:
    found: dict[str, list[RealColumn]] = {}
    for name, column in columns:
        found.setdefault(name.lower(), []).append(column)
    return found


def may_return(engine: sa.Engine, table: sa.Table, schema: str | None, names: Sequence[str]) -> bool:
    """True if on PostgreSQL a statement that changes rows of a table may return these columns without another effect:
    the account may read them, no policy hides rows from it that it may change, no rule rewrites it.

    ``schema``: where the table is. Raises what the database raises.
    """
    name = engine.dialect.identifier_preparer.format_table(sa.table(table.name, schema=schema))
    with question_to(engine) as connection:
        parameters = {"name": name, "columns": list(names)}
        return bool(connection.scalar(_MAY_RETURN, parameters, execution_options=_OPTIONS))


# Under row level security a row that is returned must be one that may be read, else the statement is refused.
_MAY_RETURN: Final = sa.text(
    """
    SELECT count(*) = cardinality(CAST(:columns AS text[])) FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid
    WHERE pg_class.oid = to_regclass(:name) AND relkind IN ('r', 'p') AND NOT relrowsecurity AND NOT relhasrules
      AND attname = ANY(CAST(:columns AS text[])) AND has_column_privilege(attrelid, attnum, 'SELECT')
    """
)
