"""How the values of each column type travel to the cache and back, on each database. Pure."""

from __future__ import annotations

import datetime
import enum
import math
import zoneinfo
from collections.abc import Callable, Iterable
from typing import Any, TypeGuard

import sqlalchemy as sa
from sqlalchemy.engine.default import DefaultDialect

from person_repo.exceptions import ConfigurationError
from person_repo.internals import variant_on
from person_repo.mapped.mysql import travel_on_mysql
from person_repo.mapped.travel import PLAIN_TYPES, Travel

__all__ = ["DIALECT", "binds", "travel_of"]

DIALECT = DefaultDialect()
"""A ``TypeDecorator`` converts for one and the same dialect on the way into the cache and out of it, whichever dialect
read the row.
"""

_MOST_DIMENSIONS = 6  # MAXDIM of PostgreSQL


def travel_of(type_: sa.types.TypeEngine[Any], column: sa.Column[Any], dialect: str) -> Travel:
    """How the values of a column of this type travel. Raises ``ConfigurationError`` if they cannot.

    Cases: enumerations, by name, as SQLAlchemy stores them; JSON; a ``TypeDecorator``, by its own two conversions;
    times with a zone of PostgreSQL's; the types that one database has; those that msgpack carries unchanged.
    """
    if isinstance(type_, sa.Enum) and type_.enum_class is not None:
        return _enumerated(type_.enum_class)
    if isinstance(type_, sa.JSON):
        return Travel(object, Any)
    if isinstance(type_, sa.PickleType):
        raise ConfigurationError(
            f"column {column} is a PickleType; what is cached is never unpickled: use JSON or a typed column"
        )
    if isinstance(type_, sa.TypeDecorator) and _loads(type_):
        return _decorated(type_, column, dialect)
    if dialect == "postgresql" and isinstance(type_, sa.DateTime) and type_.timezone:
        return Travel(datetime.datetime, tuple[datetime.datetime, str], _zoned, _in_zone)
    if (own := travel_on_mysql(type_)) is not None:
        return own
    python_type = _python_type(type_)
    if python_type in PLAIN_TYPES:
        return Travel(python_type, python_type)
    if isinstance(type_, sa.TypeDecorator):
        return travel_of(variant_on(type_.impl_instance, dialect), column, dialect)
    if isinstance(type_, sa.ARRAY):
        return _array(type_, travel_of(variant_on(type_.item_type, dialect), column, dialect))
    if (own := _on_postgresql(type_, lambda part: travel_of(part, column, dialect))) is not None:
        return own
    raise ConfigurationError(
        f"column {column} has the type {type_!r}, whose values cannot be cached; wrap it in a TypeDecorator "
        f"that binds to one of {', '.join(t.__name__ for t in PLAIN_TYPES)}"
    )


def binds(type_: sa.types.TypeEngine[Any]) -> TypeGuard[sa.TypeDecorator[Any]]:
    """True for a ``TypeDecorator`` that converts values on their way into the database."""
    bind = sa.TypeDecorator.process_bind_param
    return isinstance(type_, sa.TypeDecorator) and type(type_).process_bind_param is not bind


def _on_postgresql(
    type_: sa.types.TypeEngine[Any], travel_of: Callable[[sa.types.TypeEngine[Any]], Travel]
) -> Travel | None:
    # Not before it is needed: SQLAlchemy's dialect, which has these types, takes long to import.
    from person_repo.mapped.postgresql import travel_on_postgresql

    return travel_on_postgresql(type_, travel_of)


def _enumerated(enum_class: type[enum.Enum]) -> Travel:
    members: dict[Any, Any] = {None: None, **enum_class.__members__}
    return Travel(enum_class, str, lambda member: None if member is None else member.name, members.__getitem__)


def _zoned(value: datetime.datetime | None) -> Any:
    """A time with the name of its zone. psycopg returns times in the zone of its session; msgpack carries an offset."""
    if value is None:
        return None
    name = getattr(value.tzinfo, "key", "")
    if not name and type(value.tzinfo) is not datetime.timezone:
        raise ValueError(f"a time in the zone {value.tzinfo!r:.80}, which has no name")
    return value, name


def _in_zone(value: Any) -> datetime.datetime | None:
    if value is None:
        return None
    time, name = value
    moved: datetime.datetime = time.astimezone(zoneinfo.ZoneInfo(name)) if name else time
    return moved


def _decorated(type_: sa.TypeDecorator[Any], column: sa.Column[Any], dialect: str) -> Travel:
    inner = travel_of(variant_on(type_.impl_instance, dialect), column, dialect)

    def encode(value: Any) -> Any:
        bound = type_.process_bind_param(value, DIALECT) if binds(type_) else value
        return bound if inner.encode is None else inner.encode(bound)

    def decode(value: Any) -> Any:
        return type_.process_result_value(value if inner.decode is None else inner.decode(value), DIALECT)

    return Travel(object, inner.wire, encode, decode)


def _python_type(type_: sa.types.TypeEngine[Any]) -> Any:
    try:
        return type_.python_type
    except NotImplementedError:
        return object


def _loads(type_: sa.TypeDecorator[Any]) -> bool:
    """True for a decorator that converts loaded values, whose ``python_type`` therefore says nothing of them."""
    return type(type_).process_result_value is not sa.TypeDecorator.process_result_value


def _array(type_: sa.ARRAY[Any], item: Travel) -> Travel:
    """An array of several dimensions is rectangular on PostgreSQL: it travels as their sizes and one list of its items.

    JSON travels as it is, nested in the array. An item that is a list itself cannot be distinguished from a dimension,
    unless the type declares how many there are.
    """
    kind: type[Any] = tuple if type_.as_tuple else list
    there, back = item.encode, item.decode
    if item.wire is Any and kind is list:
        return Travel(list, list[Any], accepts=(list, tuple))
    most = type_.dimensions if type_.dimensions and item.python_type in (object, kind) else _MOST_DIMENSIONS

    def encode(value: Any) -> Any:
        if value is None:
            return None
        sizes, items = [len(value)], value
        while len(sizes) < most and items and {*map(type, items)} == {kind}:
            sizes.append(len(items[0]))
            items = [each for inner in items for each in inner]
        return sizes, [*items] if there is None else [*map(there, items)]

    def decode(value: Any) -> Any:
        if value is None:
            return None
        sizes, items = value
        if not sizes or math.prod(sizes) != len(items):
            raise ValueError(f"an array of the sizes {sizes!r:.80} with {len(items)} items")
        if back is not None:
            items = [*map(back, items)]
        for size in reversed(sizes[1:]):
            items = [kind(items[start : start + size]) for start in range(0, len(items), size)]
        return kind(items)

    wire: Any = tuple[list[int], list[item.wire | None]]  # type: ignore[name-defined]
    return Travel(kind, wire, encode, decode, accepts=(list, tuple), parts=_items_of, part_type=type_.item_type)


def _items_of(value: Iterable[Any]) -> Iterable[Any]:
    for item in value:
        if isinstance(item, (list, tuple)):
            yield from _items_of(item)
        else:
            yield item
