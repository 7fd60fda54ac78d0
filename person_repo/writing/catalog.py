"""How PostgreSQL, MySQL and MariaDB compare and keep a table's key, from their catalogs.

The metadata need not agree: a mapped ``String`` may be ``citext`` on PostgreSQL, and on the other two a column has the
collation that a dump or an ``ALTER TABLE ... CONVERT`` gave it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final, NamedTuple

import sqlalchemy as sa

from person_repo.database.identity import UNTRANSLATED
from person_repo.database.marks import OWN
from person_repo.database.snapshots import question_to
from person_repo.interruptions import DATABASE_ERRORS

__all__ = ["UNKNOWN", "KeyColumns", "has_catalog", "is_exact_collation", "key_columns_of", "may_return"]

logger = logging.getLogger("person_repo.writing")


_OPTIONS: Final = {**UNTRANSLATED, OWN: True}


class KeyColumns(NamedTuple):
    """``compares_exactly``: ``=`` holds for equal values only. ``keeps_values``: what the mapped type keeps is stored
    as it is sent. ``keeps_unicode``: strings may have any character, or are refused.
    """

    compares_exactly: bool
    keeps_values: bool
    keeps_unicode: bool


UNKNOWN: Final = KeyColumns(compares_exactly=False, keeps_values=False, keeps_unicode=False)
"""The facts of a key of which nothing is known: that of a table which is not there, or not yet committed."""

# By name alone, whatever the schema: which table a statement means depends on its connection's search_path. Of a domain
# the type below it counts. Types that extensions add lie outside pg_catalog; enumerations do, too, and compare exactly.
_OF_POSTGRESQL: Final = sa.text(
    """
    SELECT base.typname,
           base.typnamespace = 'pg_catalog'::regnamespace OR base.typtype = 'e',
           coalesce(pg_collation.collisdeterministic, true) AND pg_class.relkind <> 'f'
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
    SELECT DISTINCT COLUMN_NAME, COLLATION_NAME, CHARACTER_SET_NAME
    FROM information_schema.COLUMNS
    WHERE TABLE_NAME = :name AND COLUMN_NAME IN :columns
    """
).bindparams(sa.bindparam("columns", expanding=True))


_COMPLETE: Final = ("utf8mb4", "utf16", "utf16le", "utf32", "gb18030")
"""The character sets of MySQL and MariaDB that have all characters."""


def has_catalog(dialect: sa.Dialect) -> bool:
    """True if a database's catalog is asked here."""
    return dialect.name in ("postgresql", "mysql", "mariadb")


def is_exact_collation(name: str) -> bool:
    """True if MySQL or MariaDB takes strings for equal in this collation only if they are: it is binary, and does not
    pad with blanks.
    """
    name = name.lower()
    return name in ("utf8mb4_0900_bin", "binary") or name.endswith("_nopad_bin")


def key_columns_of(engine: sa.Engine, table: sa.Table, names: Sequence[str]) -> KeyColumns | None:
    """The facts of these columns, true of every table of this name in the database, or on the server of MySQL's. One
    query, in a transaction of its own; None if there is no such table, or the database cannot be asked.
    """
    is_postgresql = engine.dialect.name == "postgresql"
    try:
        with question_to(engine) as connection:
            parameters = {"name": table.name, "columns": list(names)}
            query = _OF_POSTGRESQL if is_postgresql else _OF_MYSQL
            columns = connection.execute(query, parameters, execution_options={OWN: True}).all()
    except DATABASE_ERRORS as exc:
        logger.warning("the key of %s cannot be asked for; its changes drop the whole class: %s", table.name, exc)
        return None
    if not columns:
        return None
    if not is_postgresql:
        exact = all(collation is None or is_exact_collation(collation) for _, collation, _ in columns)
        # Without strict mode a character that the set lacks becomes a question mark.
        is_complete = all(name is None or name in _COMPLETE for _, _, name in columns)
        return KeyColumns(compares_exactly=exact, keeps_values=True, keeps_unicode=is_complete)
    plain = [is_known and type_ != _PADDED for type_, is_known, _ in columns]
    return KeyColumns(
        compares_exactly=all(plain) and all(is_deterministic for _, _, is_deterministic in columns),
        keeps_values=all(is_plain or type_ == "citext" for is_plain, (type_, _, _) in zip(plain, columns, strict=True)),
        keeps_unicode=True,
    )


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
