"""One mapped column: how its values travel to the cache and back, and which values it refuses. Pure.

The limits are those of all supported databases at once, so that a value is refused alike on each of them. There are
two exceptions: PostgreSQL refuses a statement with a NUL in a string, or with an integer beyond its column's type, and
fills a CHAR with blanks; the integers of MySQL and MariaDB may be unsigned.
"""

from __future__ import annotations

import datetime
import decimal
import enum
import math
import sys
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy import orm

from person_repo.internals import variant_on
from person_repo.mapped.columns import binds, travel_of
from person_repo.mapped.kept import ascii_kept, is_kept
from person_repo.mapped.travel import Travel
from person_repo.messages import shown

__all__ = ["Field", "Row", "binds", "fields_of", "mapped_columns"]

Row = tuple[Any, ...]
"""The values of an entity's mapped columns, in the order of ``EntityMapping.fields``."""

# The integers that a column can hold: SQLite and BIGINT end here, and drivers raise errors of their own beyond.
_INTEGERS = range(-(2**63), 2**63)
# A column that the metadata declares as BigInteger may be BIGINT UNSIGNED in the table.
_INTEGERS_OF_MYSQL = range(-(2**63), 2**64)

_NUL = "\0"

# Of a longer integer no digits are counted: MySQL's NUMERIC ends at 65, and Python needs long to write a million.
_MAX_DECIMAL_BITS = 1024

# Python takes an int for a bool or a float, and so do drivers. Other mixtures are converted by the database, each in
# its own way (for MySQL every word equals 0), and a list becomes a part of the statement.
_NUMBERS = (int, float, decimal.Decimal)
_ACCEPTED_TYPES: dict[Any, tuple[type, ...]] = {bool: (int,), int: (int,), float: _NUMBERS, decimal.Decimal: _NUMBERS}


class Field:
    """One mapped column.

    ``name``: the attribute. ``python_type``: the type of loaded values, ``object`` if they can have any. ``wire``: the
    type that msgpack carries; ``encode`` and ``decode`` convert to it and from it, None included, and are None for
    values that travel unchanged. ``length``: the most characters, or bytes, that the column takes; None for no limit.
    ``integers``: those that the column may hold. ``dialect``: the name of the dialect whose limits apply, and whose
    variant of the column's type, if there is one. ``compared``: converts a value to the one that the database compares;
    None if that is the value itself. ``may_be_key``: False for a type that no key may have. ``is_converted``: a
    decorator of the host's converts what is loaded, so that values have any type.
    """

    __slots__ = (
        "_accepted_types", "_dialect", "_max_accepted", "_max_ascii", "_max_unchanged", "_on_postgresql", "_part",
        "_travel", "_type", "_words", "column", "compared", "decode", "encode", "integers", "is_converted", "length",
        "may_be_key", "name", "python_type", "wire",
    )  # fmt: skip

    def __init__(self, name: str, column: sa.Column[Any], *, dialect: str = "") -> None:
        self.name = name
        self._on_postgresql = dialect == "postgresql"
        self.column = column
        self._type = type_ = variant_on(column.type, dialect)
        self.integers = _INTEGERS_OF_MYSQL if dialect in ("mysql", "mariadb") else _INTEGERS
        self._travel = travel = travel_of(type_, column, dialect)
        self.python_type, self.wire, self.encode, self.decode = travel[:4]
        self.compared, self.may_be_key = travel.compared, travel.may_be_key
        self.is_converted = self.python_type is object and isinstance(type_, sa.TypeDecorator)
        self._accepted_types = _accepted_types(type_, travel)
        # The values inside a value have the limits of their own type.
        part = travel.part_type
        self._part = None if part is None else Field(name, sa.Column(column.name, part), dialect=dialect)
        self._words = frozenset(type_.enums) if isinstance(type_, sa.Enum) else None
        plain = self.encode is None and self.python_type in (str, bytes)
        self.length: int | None = getattr(type_, "length", None) if plain else None
        # For the fast paths of ``refusal`` and ``as_stored``: an ASCII string up to these lengths is neither refused
        # nor changed. -1 is no string.
        longest = sys.maxsize if self.length is None else self.length
        self._max_ascii = longest if plain and self.python_type is str and self._words is None else -1
        self._dialect = dialect
        self._max_unchanged = self._max_ascii if travel.is_kept and _keeps_ascii(type_, dialect) else -1
        self._max_accepted = -1 if self._on_postgresql else self._max_ascii  # NUL is ASCII

    def refusal(self, value: Any) -> str | None:
        """The reason why the column cannot hold a value that is not None, as the end of a sentence; None if it can.

        An SQL expression is never refused: its value is the database's.
        """
        # Fast path for most values; ``mismatch`` and ``excess`` would find nothing either.
        if type(value) is str and len(value) <= self._max_accepted and value.isascii():
            return None
        if hasattr(value, "__clause_element__") or isinstance(value, sa.ClauseElement):
            return None
        return self.mismatch(value) or self.excess(value)

    def is_own(self, value: Any) -> bool:
        """True if a decorator of the host's, of whose values the type is not known, loads this one as it is written."""
        if self.encode is None or self.decode is None or (isinstance(value, int) and value not in self.integers):
            return False
        try:
            loaded = self.decode(self.encode(value))
        except (TypeError, ValueError, AttributeError, ArithmeticError, LookupError):
            return False
        return type(loaded) is type(value) and bool(loaded == value)

    def accepts_all(self, values: Sequence[Any]) -> bool:
        """Fast path for ``refusal`` of each: True if all are ASCII strings that fit. False says nothing of any."""
        if self._max_ascii < 0 or {*map(type, values)} != {str} or max(map(len, values)) > self._max_ascii:
            return False
        text = "".join(values)
        return text.isascii() and not (self._on_postgresql and _NUL in text)

    def mismatch(self, value: Any) -> str | None:
        """The reason why a value is of the wrong kind: databases would convert it, each in its own way."""
        if self._words is not None and isinstance(value, str) and not isinstance(value, enum.Enum):
            return None if value in self._words else f"is none of {', '.join(sorted(self._words))}"
        time_too = self.python_type is datetime.date and isinstance(value, datetime.datetime)
        if self._accepted_types is None or (isinstance(value, self._accepted_types) and not time_too):
            return self._refusal_inside(value, Field.mismatch)
        known = self.python_type is not object
        takes = self.python_type.__name__ if known else " or ".join(type_.__name__ for type_ in self._accepted_types)
        return f"is {type(value).__name__}; the column takes {takes}"

    def _refusal_inside(self, value: Any, refusal: Callable[[Field, Any], str | None]) -> str | None:
        """The first reason why a part of a value is refused; None if there is none, or if values have no parts."""
        part, parts = self._part, self._travel.parts
        if part is None or parts is None:
            return None
        for inner in parts(value):
            if inner is not None and (reason := refusal(part, inner)) is not None:
                return f"holds {shown(inner)}, which {reason}"
        return None

    def excess(self, value: Any, *, in_rows: bool = False) -> str | None:
        """The reason why a value of the right kind is beyond what the column, or any database, can hold. ``in_rows``:
        only if no row can have it: SQLite keeps what is longer than the column says, or has more digits.
        """
        is_limited = not (in_rows and self._dialect == "sqlite")
        if is_limited and self.length is not None and len(value) > self.length:
            units = "characters" if isinstance(value, str) else "bytes"
            return f"has {len(value)} {units}; the limit is {self.length}"
        if isinstance(value, str) and not value.isascii() and not _encodable(value):
            return "has a lone surrogate, which no database stores; remove it"
        if self._on_postgresql and isinstance(value, str) and _NUL in value:
            return "has a NUL character, which PostgreSQL does not store; remove it"
        if isinstance(value, int) and self.python_type in _ACCEPTED_TYPES:
            # SQLite takes such a number as an integer, whatever the column is.
            may_be_longer = is_limited and value.bit_length() <= _MAX_DECIMAL_BITS
            if self.python_type is decimal.Decimal and (may_be_longer or value in self.integers):
                return self._decimal_excess(decimal.Decimal(value), is_limited=is_limited)
            if value not in self.integers:
                bits = self.integers.stop.bit_length() - 1
                return f"is beyond 64 bits; the column takes -2**63 to 2**{bits} - 1"
            if self._on_postgresql and (bits := _bits_of(self._type)) and value not in range(-(2**bits), 2**bits):
                return f"is beyond the column's type; it takes -2**{bits} to 2**{bits} - 1"
        if isinstance(value, float) and not math.isfinite(value):
            return "is not finite; no number of MySQL's is"
        if isinstance(value, decimal.Decimal):
            return self._decimal_excess(value, is_limited=is_limited)
        if self._travel.values is not None and value not in self._travel.values:
            return f"is none of the values of {type(self._type).__name__}"
        return self._refusal_inside(value, Field.excess)

    def _decimal_excess(self, value: decimal.Decimal, *, is_limited: bool) -> str | None:
        if not value.is_finite():
            return "is not finite; no number of MySQL's is"
        precision, scale = (getattr(self._type, name, None) for name in ("precision", "scale"))
        if is_limited and precision is not None and value and value.adjusted() >= precision - (scale or 0):
            return f"has {value.adjusted() + 1} digits before the point; the limit is {precision - (scale or 0)}"
        return None

    def as_stored(self, value: Any, dialect: sa.Dialect | None = None) -> Any:
        """The value that a key column holds once ``value`` was written to it; None if only the database knows.

        Cases: a value of the column's own type, which stays unless the column rounds, cuts or pads it; a value that a
        decorator of the host's converts for this dialect, and loads again; a value of a subclass, which drivers write
        as the plain value; anything else, which the database converts.
        """
        # Fast path for most keys; the cases below would return the same.
        if type(value) is str and len(value) <= self._max_unchanged and value.isascii():
            return value
        if self.is_converted:
            return None if dialect is None or value is None else _converted(self._type, value, dialect)
        if type(value) is not self.python_type:
            value = _plain(value, self.python_type)
        if value is None or self.refusal(value) is not None or not self._travel.is_kept:
            return None
        return value if _keeps(self._type, value, self._dialect, dialect) else None


def fields_of(mapper: orm.Mapper[Any], *, dialect: str = "") -> tuple[Field, ...]:
    """The columns of a class and of those that inherit from it, each once. ``dialect``: as in ``Field``.

    Raises ``ConfigurationError`` for a column type whose values cannot be cached.
    """
    fields: dict[sa.Column[Any], Field] = {}
    for variant in mapper.self_and_descendants:
        for prop, column in mapped_columns(variant):
            fields.setdefault(column, Field(prop.key, column, dialect=dialect))
    discriminator = mapper.polymorphic_on
    if isinstance(discriminator, sa.Column):
        fields.setdefault(discriminator, Field(discriminator.key, discriminator, dialect=dialect))
    return tuple(fields.values())


def mapped_columns(mapper: orm.Mapper[Any]) -> Iterable[tuple[orm.ColumnProperty[Any], sa.Column[Any]]]:
    """The attributes that are columns. Of several columns of one attribute, SQLAlchemy loads the first; of a key, which
    all tables have, the base table's is taken.

    A ``column_property`` over an SQL expression is left out, and so stays unloaded on both sides of the toggle: it has
    no row of its own whose change could be seen.
    """
    keys = cast("tuple[sa.Column[Any], ...]", mapper.base_mapper.primary_key)
    for name, _ in mapper.columns.items():  # Not ``column_attrs``, which would configure all mappers of the host.
        prop = cast("orm.ColumnProperty[Any]", mapper.get_property(name))
        columns = [column for column in prop.columns if isinstance(column, sa.Column)]
        if columns:
            yield prop, next((column for column in columns if any(column is key for key in keys)), columns[0])


def _accepted_types(type_: sa.types.TypeEngine[Any], travel: Travel) -> tuple[type, ...] | None:
    """The types of which a column takes instances; None for any: JSON, and what a host's decorator converts."""
    python_type = travel.python_type
    if binds(type_) and python_type not in (str, bytes):
        return None
    if travel.accepts is not None:
        return travel.accepts
    return None if python_type is object else _ACCEPTED_TYPES.get(python_type, (python_type,))


def _plain(value: Any, python_type: Any) -> Any:
    """The plain value that any driver writes for a value of a subclass; None if there is none."""
    if python_type is int and isinstance(value, int):
        return int(value)
    if python_type is str and isinstance(value, str):
        plain = str.__str__(value)
        # Drivers disagree if the two differ, as they do for a member of an Enum that is a str, too.
        return plain if str(value) == plain else None
    return None


def _keeps_ascii(type_: sa.types.TypeEngine[Any], dialect: str) -> bool:
    """``ascii_kept`` behind decorators, which must send strings as they are."""
    if isinstance(type_, sa.TypeDecorator):
        return not binds(type_) and _keeps_ascii(variant_on(type_.impl_instance, dialect), dialect)
    return ascii_kept(type_, dialect)


def _keeps(type_: sa.types.TypeEngine[Any], value: Any, name: str, dialect: sa.Dialect | None) -> bool:
    """``is_kept`` behind decorators, which must send the value as it is to this dialect; one that is not known may get
    another value. ``name``: its name, as the mapping has it.
    """
    if isinstance(type_, sa.TypeDecorator):
        if binds(type_) and (dialect is None or type_.process_bind_param(value, dialect) != value):
            return False
        return _keeps(variant_on(type_.impl_instance, name), value, name, dialect)
    return is_kept(type_, value, name)


def _converted(type_: Any, value: Any, dialect: sa.Dialect) -> Any:
    """The value that a decorator loads from what it sends for this one, if a column of the type below it on this
    dialect keeps that; None if only the database knows.
    """
    try:
        sent = type_.process_bind_param(value, dialect) if binds(type_) else value
        sent = _kept_below(type_.load_dialect_impl(dialect), sent, dialect)
        return None if sent is None else type_.process_result_value(sent, dialect)
    except (TypeError, ValueError, AttributeError, ArithmeticError, LookupError, NotImplementedError):
        return None


def _kept_below(type_: sa.types.TypeEngine[Any], sent: Any, dialect: sa.Dialect) -> Any:
    """The value that a type of SQLAlchemy's loads after this one was sent; None for one that it may not keep, and for a
    type of the host's.
    """
    if not type(type_).__module__.startswith("sqlalchemy."):
        return None
    if isinstance(type_, sa.Uuid):
        is_known = type_.as_uuid and isinstance(sent, (uuid.UUID, str))
        return uuid.UUID(str(sent)) if is_known else None
    return sent if type(sent) is type_.python_type and is_kept(type_, sent, dialect.name) else None


def _bits_of(type_: sa.types.TypeEngine[Any]) -> int:
    """The bits of an integer type, without the sign; 0 for another type."""
    if isinstance(type_, sa.TypeDecorator):
        return _bits_of(type_.impl_instance)
    if not isinstance(type_, sa.Integer):
        return 0
    return 63 if isinstance(type_, sa.BigInteger) else 15 if isinstance(type_, sa.SmallInteger) else 31


def _encodable(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
