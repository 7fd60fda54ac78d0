"""A key's column as the database has it, which the metadata need not agree with: what does it keep as it is sent?"""

from __future__ import annotations

import datetime
import decimal
import re
import sys
import uuid
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import mysql

from person_repo.mapped.kept import ascii_kept, is_kept

__all__ = ["RealColumn", "compares_exactly_on_mysql", "on_mysql", "on_postgresql"]

_COMPLETE: Final = ("utf8mb4", "utf16", "utf16le", "utf32", "gb18030")
"""The character sets of MySQL and MariaDB that have all characters."""

_SENT: Final[tuple[tuple[type[Any], tuple[type, ...]], ...]] = (
    (sa.Integer, (int,)),
    (sa.Float, ()),
    (sa.Numeric, (int, decimal.Decimal)),
    (sa.String, (str,)),
    (sa.LargeBinary, (bytes, bytearray)),
    (sa.BINARY, (bytes, bytearray)),
    (sa.VARBINARY, (bytes, bytearray)),
    (sa.DateTime, (datetime.datetime,)),
    (sa.Date, (datetime.date,)),
    (mysql.YEAR, (int,)),
    (sa.Uuid, (str,)),
)
"""The types that a driver is sent for a column of a type; the database converts any other."""


class RealColumn(NamedTuple):
    """``type_``: None for one of which nothing is known here, so that the mapped type is relied on; ``NullType`` for
    one that may keep any value as another. ``numbers``: 0 becomes the next number. ``has_all_characters``: a string
    may have any, or is refused. ``is_computed``: each change of the row may change it. ``longest``: the length up to
    which each ASCII string is kept.
    """

    type_: sa.types.TypeEngine[Any] | None
    numbers: bool = False
    has_all_characters: bool = True
    is_computed: bool = False
    longest: int = -1

    def keeps(self, sent: Any, dialect: str, given: Any = None) -> bool:
        """True if the column keeps a value as it is sent, whatever the mode. ``given``: the key itself, of which a UUID
        has one spelling only.
        """
        if isinstance(sent, str) and not self.has_all_characters and not sent.isascii():
            return False
        type_ = self.type_
        if self.numbers and isinstance(sent, (int, decimal.Decimal)) and not sent:
            return False
        if type_ is None:
            return True
        if isinstance(type_, sa.Uuid) and isinstance(given, uuid.UUID):
            return True
        accepted = next((accepted for class_, accepted in _SENT if isinstance(type_, class_)), ())
        if not isinstance(sent, accepted) or (isinstance(type_, sa.Date) and isinstance(sent, datetime.datetime)):
            return False
        value: Any = sent
        if isinstance(type_, mysql.YEAR):  # A year of two digits becomes another one.
            return value in _YEARS
        if isinstance(type_, sa.Enum):  # The number of a word becomes that word, and so does another spelling.
            return value in type_.enums
        if isinstance(type_, sa.Uuid):
            return _hyphened(value) is not None
        return is_kept(type_, decimal.Decimal(value) if isinstance(type_, sa.Numeric) else value, dialect)


_YEARS: Final = range(1901, 2156)
_hyphened = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}").fullmatch


def _column(type_: sa.types.TypeEngine[Any] | None, dialect: str, **facts: bool) -> RealColumn:
    column = RealColumn(type_, **facts)
    if type_ is None:
        return column._replace(longest=sys.maxsize)
    return column._replace(longest=getattr(type_, "length", None) or -1) if ascii_kept(type_, dialect) else column


def compares_exactly_on_mysql(row: Mapping[str, Any]) -> bool:
    """True if a column of MySQL or MariaDB, by such a row, has no second spelling of a value, its collation apart."""
    return not isinstance(_type_on_mysql(row), (sa.types.NullType, sa.Uuid, mysql.YEAR))


def on_mysql(row: Mapping[str, Any]) -> RealColumn:
    """A column of MySQL or MariaDB, by a row of ``information_schema.COLUMNS``."""
    extra = str(row["EXTRA"]).lower()
    return _column(
        _type_on_mysql(row),
        "mysql",
        numbers="auto_increment" in extra,
        has_all_characters=row["CHARACTER_SET_NAME"] is None or row["CHARACTER_SET_NAME"] in _COMPLETE,
        is_computed="generated" in extra.replace("default_generated", "") or "on update" in extra,
    )


_INTEGERS: Final[Mapping[str, Any]] = {
    "tinyint": mysql.TINYINT, "smallint": mysql.SMALLINT, "mediumint": mysql.MEDIUMINT, "int": mysql.INTEGER,
    "bigint": mysql.BIGINT,
}  # fmt: skip

_LENGTHS: Final[Mapping[str, Any]] = {
    "char": sa.CHAR, "varchar": sa.String, "binary": sa.BINARY, "varbinary": sa.VARBINARY,
}  # fmt: skip

_OTHERS: Final[Mapping[str, sa.types.TypeEngine[Any]]] = {
    "tinytext": sa.Text(), "text": sa.Text(), "mediumtext": sa.Text(), "longtext": sa.Text(),
    "tinyblob": sa.LargeBinary(), "blob": sa.LargeBinary(), "mediumblob": sa.LargeBinary(),
    "longblob": sa.LargeBinary(), "date": sa.Date(), "datetime": sa.DateTime(), "timestamp": sa.TIMESTAMP(),
    "float": sa.Float(), "double": sa.Float(), "year": mysql.YEAR(), "uuid": sa.Uuid(),
}  # fmt: skip
_OTHER: Final = sa.types.NullType()


def _type_on_mysql(row: Mapping[str, Any]) -> sa.types.TypeEngine[Any]:
    name, is_unsigned = str(row["DATA_TYPE"]).lower(), "unsigned" in str(row["COLUMN_TYPE"]).lower()
    if name in _INTEGERS:
        integer: sa.types.TypeEngine[Any] = _INTEGERS[name](unsigned=is_unsigned)
        return integer
    if name in _LENGTHS:
        string: sa.types.TypeEngine[Any] = _LENGTHS[name](int(row["CHARACTER_MAXIMUM_LENGTH"]))
        return string
    if name == "decimal":
        return mysql.DECIMAL(int(row["NUMERIC_PRECISION"]), int(row["NUMERIC_SCALE"]), unsigned=is_unsigned)
    if name == "enum":
        return sa.Enum(*[word.replace("''", "'") for word in _LABELS.findall(str(row["COLUMN_TYPE"]))])
    return _OTHERS.get(name, _OTHER)


_LABELS: Final = re.compile(r"'((?:[^']|'')*)'")


_LENGTH_OF_HEADER: Final = 4
"""Bytes that count in the modifier of a PostgreSQL type, too."""


def on_postgresql(name: str, modifier: int, *, is_computed: bool) -> RealColumn:
    """A column of PostgreSQL, by the name and the modifier of its type. A value beyond its range or its length is
    refused there, and one beyond its scale rounded.
    """
    type_: sa.types.TypeEngine[Any] | None = None
    if name == "numeric" and modifier >= _LENGTH_OF_HEADER:
        packed = modifier - _LENGTH_OF_HEADER
        type_ = sa.Numeric(packed >> 16, packed & 0x7FF)
    elif name in ("timestamp", "timestamptz"):
        type_ = sa.DateTime(timezone=name == "timestamptz")
    elif name in ("float4", "float8"):
        type_ = sa.Float()
    elif name in ("name", "char"):  # which cut
        type_ = _OTHER
    return _column(type_, "postgresql", is_computed=is_computed)
