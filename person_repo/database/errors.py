"""Errors of SQLAlchemy and the drivers about entities, raised as this package's own.

Errors of the database itself (no connection, no table, a lock that could not be had) pass as they are.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

from sqlalchemy import exc
from sqlalchemy.orm import exc as orm_exc

from person_repo.exceptions import EntityExistsError, InvalidEntityError, StaleEntityError
from person_repo.mapped.mapping import EntityMapping
from person_repo.messages import shown

__all__ = [
    "bind_errors_translated",
    "errors_translated",
    "foreign_is_nobody",
    "is_foreign",
    "is_passing",
    "may_be_foreign",
]

# The numbers are MySQL's and MariaDB's ("Server Error Message Reference", "MariaDB Error Codes").
_DUPLICATES = frozenset({1062, 1586})  # ER_DUP_ENTRY; ER_DUP_ENTRY_WITH_KEY_NAME
# ER_TRUNCATED_WRONG_VALUE (a string that is no address); ER_CHECK_CONSTRAINT_VIOLATED; ER_CONSTRAINT_FAILED
_REFUSALS = frozenset({1292, 3819, 4025})
# ER_CHECKREAD, under innodb_snapshot_isolation; ER_LOCK_WAIT_TIMEOUT; ER_LOCK_DEADLOCK
_PASSING = frozenset({1020, 1205, 1213})
# ER_CANT_AGGREGATE_2COLLATIONS, _3COLLATIONS and _NCOLLATIONS; ER_CANNOT_CONVERT_STRING
_FOREIGN = frozenset({1267, 1270, 1271, 3854})
_SQLITE_PASSING = frozenset({5, 6})  # SQLITE_BUSY, SQLITE_LOCKED ("Result and Error Codes"), in the lowest byte

# PostgreSQL's ("PostgreSQL Error Codes"): unique_violation; and serialization_failure, deadlock_detected,
# lock_not_available (under lock_timeout).
_POSTGRESQL_DUPLICATE = "23505"
_POSTGRESQL_PASSING = frozenset({"40001", "40P01", "55P03"})

_SQLITE_DUPLICATE = "UNIQUE constraint failed: "
_MYSQL_PRIMARY_KEY = re.compile(r"for key '(?:[^']*\.)?PRIMARY'")
_POSTGRESQL_COLUMNS = re.compile(r"\((.*?)\)=\(")  # Key (depot, number)=(Köln, 7) already exists, in any language
_INSERTED_TABLE = re.compile(r"""INSERT INTO (?:\S+\.)?[`"]?(.+?)[`"]? \(""")


@contextlib.contextmanager
def errors_translated(mapping: EntityMapping[Any], entity: object = None) -> Iterator[None]:
    """Raises ``EntityExistsError``, ``InvalidEntityError`` or ``StaleEntityError`` for errors of the block.

    ``entity``: the object that is inserted, if it is one alone; ``EntityExistsError`` then names its id.
    """
    try:
        with bind_errors_translated(mapping):
            yield
    except exc.IntegrityError as error:
        if _is_duplicate(error):
            raise _exists(mapping, entity, error) from error
        raise _refused(mapping, error) from error
    except exc.OperationalError as error:
        if _number_of(error) not in _REFUSALS:
            raise
        raise _refused(mapping, error) from error
    except orm_exc.StaleDataError as error:
        raise StaleEntityError(
            f"{mapping.name} has changed since this copy of it was read; read it again and apply the change to that"
        ) from error


@contextlib.contextmanager
def bind_errors_translated(mapping: EntityMapping[Any]) -> Iterator[None]:
    """Raises ``InvalidEntityError`` for a value that its column's type fails to bind (JSON of no JSON, a decorator), or
    that the database cannot read as one of the column's type.
    """
    try:
        yield
    except exc.DataError as error:
        raise _refused(mapping, error) from error
    except exc.StatementError as error:
        if isinstance(error, exc.DBAPIError):
            raise
        raise InvalidEntityError(f"{mapping.name} has a value that its column does not take: {error.orig}") from error


def is_passing(error: Exception) -> bool:
    """True if the database gave up a transaction that may well succeed when it is made again."""
    if not isinstance(error, exc.DBAPIError):
        return False
    code = getattr(error.orig, "sqlite_errorcode", None)
    if isinstance(code, int):
        return code & 0xFF in _SQLITE_PASSING
    if (state := _state_of(error)) is not None:
        return state in _POSTGRESQL_PASSING
    return _number_of(error) in _PASSING


def _refused(mapping: EntityMapping[Any], error: exc.DBAPIError) -> InvalidEntityError:
    return InvalidEntityError(f"{mapping.name} was refused by the database: {error.orig}")


def _exists(mapping: EntityMapping[Any], entity: object, error: exc.IntegrityError) -> EntityExistsError:
    id = None if entity is None or not _is_about_key(mapping, error) else _id_in(mapping, entity)
    subject = mapping.name if id is None else f"{mapping.name} {shown(id)}"
    return EntityExistsError(f"{subject} exists already: {error.orig}", entity=mapping.name, id=id)


def _is_about_key(mapping: EntityMapping[Any], error: exc.IntegrityError) -> bool:
    """True if the primary key of an inserted row is taken, and not a value of another unique column or table."""
    inserted = _INSERTED_TABLE.match(error.statement or "")
    table = next((table for table in mapping.key_columns if inserted and table.name == inserted[1]), None)
    if table is None:
        return False
    _, is_sqlite, columns = str(error.orig).partition(_SQLITE_DUPLICATE)
    if is_sqlite:
        return {*columns.split(", ")} == {f"{table.name}.{column.name}" for column in mapping.key_columns[table]}
    if _state_of(error) is not None:
        detail = _POSTGRESQL_COLUMNS.search(getattr(getattr(error.orig, "diag", None), "message_detail", None) or "")
        named = {name.strip('"') for name in detail[1].split(", ")} if detail else set()
        return named == {column.name for column in mapping.key_columns[table]}
    return _MYSQL_PRIMARY_KEY.search(str(error.orig)) is not None


def _id_in(mapping: EntityMapping[Any], entity: object) -> Any:
    # From its ``__dict__``: to ask the attributes could load them, in a transaction that has failed.
    identity = tuple(vars(entity).get(field.name) for field in mapping.key_fields)
    return None if None in identity else mapping.id_of(identity)


def _is_duplicate(error: exc.IntegrityError) -> bool:
    if (state := _state_of(error)) is not None:
        return state == _POSTGRESQL_DUPLICATE
    return _number_of(error) in _DUPLICATES or _SQLITE_DUPLICATE in str(error.orig)


def may_be_foreign(values: Iterable[Any]) -> bool:
    """True if some character set lacks a character of one of these values, such as the parts of a key."""
    return any(isinstance(value, str) and not value.isascii() for value in values)


def is_foreign(error: exc.DBAPIError) -> bool:
    """True if MySQL or MariaDB refused to compare a column with a string that its character set cannot have."""
    return _number_of(error) in _FOREIGN


@contextlib.contextmanager
def foreign_is_nobody(values: Iterable[Any]) -> Iterator[None]:
    """A block that reads by these values, and ends without an error where the column cannot have one of them."""
    try:
        yield
    except exc.DBAPIError as error:
        if not (may_be_foreign(values) and is_foreign(error)):
            raise


def _state_of(error: exc.DBAPIError) -> str | None:
    """The SQLSTATE of an error of PostgreSQL; None on other databases, whose drivers may have one, too."""
    state = getattr(error.orig, "pgcode", None)
    if hasattr(error.orig, "diag"):  # psycopg
        state = getattr(error.orig, "sqlstate", state)
    return state if isinstance(state, str) else None


def _number_of(error: exc.DBAPIError) -> object:
    """MySQL's number of an error. SQLite's has words in its place."""
    return next(iter(getattr(error.orig, "args", ())), None)
