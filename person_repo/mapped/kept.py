"""Which values a key column keeps as they are given: by type, database and the database's mode. Pure.

A writer's tombstone goes to the key of the value that it sends, so that must be the value that readers find. Nobody
knows the mode of a connection: strict or not, INSERT IGNORE, "no auto value on zero", "time truncate fractional", "pad
char to full length". So a value counts as kept if it is in each of them:

=================  ======================  ======================================  =========================
type               SQLite                  MySQL, MariaDB                          PostgreSQL
=================  ======================  ======================================  =========================
integer            64 bits                 in the type's range; not 0, if it is    in the type's range
                                           AUTO_INCREMENT (``realcolumns``)
boolean            all                     all                                     all
numeric            15 digits at most, as   in precision and scale                  in precision and scale
                   it keeps a float
float              none                    none                                    none
string             all                     up to the length; of TEXT 255 bytes.    all
                                           Beyond ASCII if the column's character
                                           set has all (``realcolumns``)
CHAR, NCHAR        all                     of full length, without blanks at the   of full length
                                           end
enumeration        all                     without blanks at the end               all
binary             all                     up to the length                        all
BINARY             all                     of full length                          all
UUID               all                     all                                     all
date               all                     from the year 1000 on                   all
date and time      naive, whole seconds    naive, whole seconds, from the year     whole seconds; with a
                                           1000 on; never of a TIMESTAMP, which    zone if the type has it
                                           is of the connection's zone
=================  ======================  ======================================  =========================

SQLite has no range and no length: an integer beyond 64 bits is no integer there. It keeps dates and times as text; that
of a format of the host's must be read as the same value. A value beyond what the column of any mode takes is refused
there, or cut. Of another type nothing is known, and of another database what all three keep.
"""

from __future__ import annotations

import datetime
import decimal
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import mysql, sqlite

__all__ = ["ascii_kept", "is_kept"]

_Rule = Callable[[Any, Any], bool]
"""``rule(type, value)``: True if the value is kept as it is."""


def is_kept(type_: sa.types.TypeEngine[Any], value: Any, dialect: str) -> bool:
    """True if a column of this type, in a database of this dialect's, keeps a value as it is, whatever the mode.

    ``type_``: no decorator. ``value``: of the type that the column's values are loaded as.
    """
    rules = _rules_of(type_)
    return rules is not None and all(rule(type_, value) for rule in rules.of(dialect))


def ascii_kept(type_: sa.types.TypeEngine[Any], dialect: str) -> bool:
    """True if such a column keeps every ASCII string that is not longer than its length."""
    rules = _rules_of(type_)
    if rules is None or not isinstance(type_, sa.String) or isinstance(type_, sa.Enum):
        return False
    return all(rule is _all or (rule is _in_length and type_.length is not None) for rule in rules.of(dialect))


# The rules


def _all(_type: Any, _value: Any) -> bool:
    return True


def _none(_type: Any, _value: Any) -> bool:
    return False


def _in_64_bits(_type: Any, value: int) -> bool:
    return -(2**63) <= value < 2**63


def _in_range(type_: Any, value: int) -> bool:
    bits = next((bits for class_, bits in _BITS if isinstance(type_, class_)), 32)
    if getattr(type_, "unsigned", False) is True:
        return bool(0 <= value < 2**bits)
    return bool(-(2 ** (bits - 1)) <= value < 2 ** (bits - 1))


_BITS: Final = (
    (mysql.TINYINT, 8), (mysql.MEDIUMINT, 24), (sa.SmallInteger, 16), (sa.BigInteger, 64), (sa.Integer, 32),
)  # fmt: skip

_EXACT: Final = decimal.Context(prec=decimal.MAX_PREC, Emin=decimal.MIN_EMIN, Emax=decimal.MAX_EMAX)
_DIGITS_OF_A_FLOAT: Final = 15
_DIGITS_OF_MYSQL: Final = 10
"""Those of NUMERIC without a precision."""


def _in_scale(type_: Any, value: decimal.Decimal) -> bool:
    exponent = value.normalize(_EXACT).as_tuple().exponent
    return isinstance(exponent, int) and -exponent <= (type_.scale or 0)


def _in_precision(type_: Any, value: decimal.Decimal) -> bool:
    most = (type_.precision or _DIGITS_OF_MYSQL) - (type_.scale or 0)
    if value < 0 and getattr(type_, "unsigned", False) is True:
        return False
    return _in_scale(type_, value) and (not value or value.adjusted() < most)


def _in_a_float(type_: Any, value: decimal.Decimal) -> bool:
    return _in_scale(type_, value) and len(value.normalize(_EXACT).as_tuple().digits) <= _DIGITS_OF_A_FLOAT


def _in_length(type_: Any, value: Any) -> bool:
    if type_.length is None:  # TEXT or BLOB; the smallest takes this many bytes.
        return len(value.encode() if isinstance(value, str) else value) <= _SHORTEST_TEXT
    return bool(len(value) <= type_.length)


_SHORTEST_TEXT: Final = 255


def _is_full(type_: Any, value: Any) -> bool:
    return bool(len(value) == (type_.length or 1))


def _is_full_without_blanks(type_: Any, value: str) -> bool:
    return _is_full(type_, value) and not value.endswith(" ")


def _has_no_blanks(_type: Any, value: Any) -> bool:
    return not str(getattr(value, "name", value)).endswith(" ")


_FIRST_YEAR: Final = 1000


def _is_of_a_year(_type: Any, value: datetime.date) -> bool:
    return value.year >= _FIRST_YEAR


def _is_naive(_type: Any, value: datetime.datetime) -> bool:
    return value.tzinfo is None and value.microsecond == 0


def _is_naive_of_a_year(type_: Any, value: datetime.datetime) -> bool:
    return _is_naive(type_, value) and _is_of_a_year(type_, value)


def _is_naive_as_text(type_: Any, value: datetime.datetime) -> bool:
    return _is_naive(type_, value) and _is_read_again(type_, value)


def _is_read_again(type_: Any, value: datetime.date) -> bool:
    """True if SQLite's text for a date, in the format of the type, is read as that date."""
    if not isinstance(type_, (sqlite.DATETIME, sqlite.DATE)):
        return True
    write: Any = type_.bind_processor(_SQLITE)
    read: Any = type_.result_processor(_SQLITE, None)
    try:
        return bool(read(write(value)) == value)
    except (TypeError, ValueError, LookupError):
        return False


_SQLITE: Final = sqlite.dialect()


def _is_of_zone(type_: Any, value: datetime.datetime) -> bool:
    return value.microsecond == 0 and (value.utcoffset() is not None) is bool(type_.timezone)


class _Rules(NamedTuple):
    """The rules of one type on each database."""

    sqlite: _Rule
    mysql: _Rule
    postgresql: _Rule

    def of(self, dialect: str) -> tuple[_Rule, ...]:
        """That of one database; all of them if it is none of the three."""
        index = _DATABASES.get(dialect)
        return (*self,) if index is None else (self[index],)


_DATABASES: Final = {"sqlite": 0, "mysql": 1, "mariadb": 1, "postgresql": 2}

# The first that a type is an instance of counts.
_TABLE: Final[tuple[tuple[type[Any] | tuple[type[Any], ...], _Rules], ...]] = (
    (mysql.YEAR, _Rules(_none, _all, _none)),
    (sa.Boolean, _Rules(_all, _all, _all)),
    (sa.Integer, _Rules(_in_64_bits, _in_range, _in_range)),
    (sa.Float, _Rules(_none, _none, _none)),
    (sa.Numeric, _Rules(_in_a_float, _in_precision, _in_scale)),
    (sa.Uuid, _Rules(_all, _all, _all)),
    (sa.Enum, _Rules(_all, _has_no_blanks, _all)),
    ((sa.CHAR, sa.NCHAR), _Rules(_all, _is_full_without_blanks, _is_full)),
    (sa.String, _Rules(_all, _in_length, _all)),
    (sa.BINARY, _Rules(_all, _is_full, _all)),
    ((sa.LargeBinary, sa.VARBINARY), _Rules(_all, _in_length, _all)),
    (sa.TIMESTAMP, _Rules(_is_naive_as_text, _none, _is_of_zone)),
    (sa.DateTime, _Rules(_is_naive_as_text, _is_naive_of_a_year, _is_of_zone)),
    (sa.Date, _Rules(_is_read_again, _is_of_a_year, _all)),
)


def _rules_of(type_: sa.types.TypeEngine[Any]) -> _Rules | None:
    return next((rules for class_, rules in _TABLE if isinstance(type_, class_)), None)
