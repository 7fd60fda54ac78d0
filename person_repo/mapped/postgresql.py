"""How the values of column types travel that only PostgreSQL has. Pure.

Imported when a column has a type that is not known otherwise: SQLAlchemy's dialect takes long to import.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final, Literal

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql.ranges import (
    DATEMULTIRANGE,
    INT4MULTIRANGE,
    INT8MULTIRANGE,
    NUMMULTIRANGE,
    TSMULTIRANGE,
    TSTZMULTIRANGE,
    AbstractMultiRange,
    AbstractSingleRange,
    MultiRange,
)

from person_repo.mapped.travel import PLAIN_TYPES, Travel

__all__ = ["travel_on_postgresql"]

_TEXTS = (
    postgresql.MACADDR, postgresql.MACADDR8, postgresql.TSVECTOR, postgresql.TSQUERY, postgresql.MONEY,
    postgresql.REGCLASS, postgresql.REGCONFIG,
)  # fmt: skip
"""Types whose values drivers return as strings."""

_BOUNDS: Final[dict[type[Any], sa.types.TypeEngine[Any]]] = {
    postgresql.INT4RANGE: sa.Integer(),
    postgresql.INT8RANGE: sa.BigInteger(),
    postgresql.NUMRANGE: sa.Numeric(),
    postgresql.DATERANGE: sa.Date(),
    postgresql.TSRANGE: sa.DateTime(),
    postgresql.TSTZRANGE: sa.DateTime(timezone=True),
}
"""The types of the bounds of each range."""

_RANGES: Final[dict[type[Any], type[Any]]] = {
    INT4MULTIRANGE: postgresql.INT4RANGE,
    INT8MULTIRANGE: postgresql.INT8RANGE,
    NUMMULTIRANGE: postgresql.NUMRANGE,
    DATEMULTIRANGE: postgresql.DATERANGE,
    TSMULTIRANGE: postgresql.TSRANGE,
    TSTZMULTIRANGE: postgresql.TSTZRANGE,
}
"""The type of the ranges in each multirange."""

_ADDRESSES: Final[dict[str, type[Any]]] = {
    type_.__name__: type_
    for type_ in (
        ipaddress.IPv4Address, ipaddress.IPv6Address, ipaddress.IPv4Interface, ipaddress.IPv6Interface,
        ipaddress.IPv4Network, ipaddress.IPv6Network, str,
    )
}  # fmt: skip
"""By name, the types of which a driver returns addresses: psycopg as objects, others, or on demand, as strings."""

TravelOf = Callable[[sa.types.TypeEngine[Any]], Travel]


def travel_on_postgresql(type_: sa.types.TypeEngine[Any], travel_of: TravelOf) -> Travel | None:
    """The travel of such a type; None for any other type. ``travel_of``: that of a type which is a part of it."""
    if isinstance(type_, (postgresql.INET, postgresql.CIDR)):
        return Travel(object, tuple[str, str], _named, _address, accepts=(*_ADDRESSES.values(),), may_be_key=False)
    if isinstance(type_, _TEXTS):
        return Travel(str, str, compared=partial(_of_type, type_), may_be_key=False)
    if isinstance(type_, postgresql.OID):
        return Travel(int, int, may_be_key=False)
    if isinstance(type_, postgresql.BIT):
        return _bits(type_)
    if isinstance(type_, postgresql.HSTORE):
        return Travel(dict, dict[str, str | None], parts=_strings_of, part_type=sa.Text())
    if isinstance(type_, postgresql.DOMAIN):
        inner = travel_of(type_.data_type)  # whose conversions SQLAlchemy leaves out
        return inner._replace(may_be_key=False) if inner.encode is None and inner.wire in PLAIN_TYPES else None
    if isinstance(type_, AbstractMultiRange):
        return _multirange(type_, travel_of)
    return _range(type_, travel_of) if isinstance(type_, AbstractSingleRange) else None


def _of_type(type_: sa.types.TypeEngine[Any], value: Any) -> Any:
    """SQLAlchemy would compare a string as VARCHAR, which PostgreSQL does not compare with these types."""
    return sa.cast(value, type_) if isinstance(value, str) else value


# Addresses


def _named(value: Any) -> tuple[str, str] | None:
    return None if value is None else (type(value).__name__, str(value))


def _address(value: Any) -> Any:
    return None if value is None else _ADDRESSES[value[0]](value[1])


# Bits: strings, of a class of their own from SQLAlchemy 2.1 on


def _bits(type_: postgresql.BIT) -> Travel:
    compared = partial(_of_type, type_)
    bit_string: Any = getattr(postgresql, "BitString", None)
    if bit_string is None:
        return Travel(str, str, compared=compared, may_be_key=False)
    return Travel(
        bit_string,
        str,
        lambda value: None if value is None else str(value),
        lambda value: None if value is None else bit_string(value),
        accepts=(str,),
        compared=compared,
        may_be_key=False,
    )


# HSTORE


def _strings_of(value: dict[str, str | None]) -> Iterable[str | None]:
    return (*value, *value.values())


# Ranges


def _class_of(type_: sa.types.TypeEngine[Any], known: Iterable[type[Any]]) -> type[Any] | None:
    return next((class_ for class_ in known if isinstance(type_, class_)), None)


def _range(type_: sa.types.TypeEngine[Any], travel_of: TravelOf) -> Travel | None:
    class_ = _class_of(type_, _BOUNDS)
    if class_ is None:
        return None
    bound = travel_of(_BOUNDS[class_])
    there, back = bound.encode, bound.decode

    def encode(value: Any) -> Any:
        if value is None:
            return None
        lower, upper = value.lower, value.upper
        if there is not None:
            lower, upper = there(lower), there(upper)
        return lower, upper, value.bounds, value.empty

    def decode(value: Any) -> Any:
        if value is None:
            return None
        lower, upper, bounds, empty = value
        if back is not None:
            lower, upper = back(lower), back(upper)
        return postgresql.Range(lower, upper, bounds=bounds, empty=empty)

    wire: Any = tuple[bound.wire | None, bound.wire | None, Literal["()", "[)", "(]", "[]"], bool]  # type: ignore[name-defined]
    return Travel(postgresql.Range, wire, encode, decode, parts=_bounds_of, part_type=_BOUNDS[class_])


def _bounds_of(value: Any) -> Iterable[Any]:
    return value.lower, value.upper


def _multirange(type_: sa.types.TypeEngine[Any], travel_of: TravelOf) -> Travel | None:
    class_ = _class_of(type_, _RANGES)
    if class_ is None:
        return None
    range_type = _RANGES[class_]()
    inner = travel_of(range_type)
    there, back = inner.encode, inner.decode
    assert there is not None
    assert back is not None
    return Travel(
        MultiRange,
        list[inner.wire],  # type: ignore[name-defined]
        lambda value: None if value is None else [*map(there, value)],
        lambda value: None if value is None else MultiRange(map(back, value)),
        accepts=(list, tuple),
        parts=iter,
        part_type=range_type,
    )
