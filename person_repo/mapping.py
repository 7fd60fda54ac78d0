"""What the layer knows of a mapped class: its columns, its primary key, how a row becomes a detached object."""

from __future__ import annotations

import datetime
import decimal
import enum
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar, cast

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.orm import attributes

from person_repo.exceptions import ConfigurationError, InvalidEntityError, InvalidIdError, UnknownFieldError

__all__ = ["EntityMapping", "Field", "Identity", "Row"]

E = TypeVar("E")

Identity = tuple[Any, ...]
"""The values of a primary key, in the order of the mapped columns; a tuple for a key of one column too."""

Row = tuple[Any, ...]
"""The values of an entity's mapped columns, in the order of ``EntityMapping.fields``."""

_PLAIN_TYPES = (
    str, int, bool, float, bytes, decimal.Decimal, uuid.UUID,
    datetime.datetime, datetime.date, datetime.time, datetime.timedelta,
)  # fmt: skip
_KEY_TYPES = (str, int, bytes, decimal.Decimal, uuid.UUID, datetime.datetime, datetime.date, enum.Enum)


class Field:
    """One mapped column: ``name`` of the attribute, the ``column``, and how its values travel.

    ``wire`` is the type that msgpack carries; ``encode`` and ``decode`` convert to and from it, None where
    the value travels as it is.
    """

    __slots__ = ("column", "decode", "encode", "name", "python_type", "wire")

    def __init__(self, name: str, column: sa.Column[Any]) -> None:
        self.name = name
        self.column = column
        self.encode: Callable[[Any], Any] | None = None
        self.decode: Callable[[Any], Any] | None = None
        self.python_type, self.wire = self._types(column.type)

    def _types(self, type_: sa.types.TypeEngine[Any]) -> tuple[Any, Any]:
        """The Python type of loaded values and the type on the wire.

        Cases: enumerations by name, as SQLAlchemy stores them; JSON, whatever it holds; a ``TypeDecorator``,
        by its own two conversions; else one of the types that msgpack carries unchanged.
        """
        if isinstance(type_, sa.Enum) and type_.enum_class is not None:
            members = cast("type[enum.Enum]", type_.enum_class)
            self.encode = lambda member: member.name
            self.decode = members.__getitem__
            return members, str
        if isinstance(type_, sa.JSON):
            return object, Any
        if isinstance(type_, sa.PickleType):
            raise ConfigurationError(
                f"column {self.column} is a PickleType; what is cached is never unpickled: use JSON or a typed column"
            )
        try:
            python_type = type_.python_type
        except NotImplementedError:
            python_type = object
        if python_type in _PLAIN_TYPES and not _converts(type_):
            return python_type, python_type
        if isinstance(type_, sa.TypeDecorator):
            return self._decorated(type_)
        raise ConfigurationError(
            f"column {self.column} has the type {type_!r}, whose values cannot be cached; wrap it in a TypeDecorator "
            f"that binds to one of {', '.join(t.__name__ for t in _PLAIN_TYPES)}"
        )

    def _decorated(self, type_: sa.TypeDecorator[Any]) -> tuple[Any, Any]:
        inner = Field(self.name, sa.Column(self.name, type_.impl_instance))
        dialect = sa.engine.default.DefaultDialect()
        self.encode = lambda value: type_.process_bind_param(value, dialect)
        self.decode = lambda value: type_.process_result_value(value, dialect)
        return object, inner.wire


class EntityMapping(Generic[E]):
    """A mapped class, read once: everything that loading, caching and invalidating need to know of it."""

    def __init__(self, entity: type[E]) -> None:
        mapper = sa.inspect(entity, raiseerr=False)
        if not isinstance(mapper, orm.Mapper):
            raise ConfigurationError(f"{entity!r} is not a mapped class")
        if mapper.inherits is not None or mapper.polymorphic_on is not None:
            raise ConfigurationError(
                f"{entity.__name__} takes part in mapped inheritance, which is not covered; cache a class of its own"
            )
        if not isinstance(mapper.local_table, sa.Table):
            raise ConfigurationError(f"{entity.__name__} is mapped to {mapper.local_table!r}; only tables can be cached")
        self.entity = entity
        self.mapper: orm.Mapper[E] = mapper
        self.table: sa.Table = mapper.local_table
        self.name = entity.__name__
        self.fields = _fields(mapper)
        self.names = tuple(field.name for field in self.fields)
        self.columns = tuple(field.column for field in self.fields)
        self.by_name = {field.name: field for field in self.fields}
        self.key_fields = _key_fields(mapper, self.fields)
        self._key_at = tuple(self.fields.index(field) for field in self.key_fields)
        self._manager = mapper.class_manager
        self._identity_class = mapper.class_

    def identity(self, id: Any) -> Identity | None:
        """The key's values for what a caller passed as ``id``; None where no row can have it.

        A key of several columns is a tuple in the order of the mapped columns. A string longer than its column, one
        with a lone surrogate, or an integer beyond 64 bits cannot be stored and so cannot be found: None.

        Raises ``InvalidIdError`` for a value of another type: ``1`` is not ``"1"``.
        """
        values = id if isinstance(id, tuple) and len(self.key_fields) > 1 else (id,)
        if len(values) != len(self.key_fields):
            names = ", ".join(field.name for field in self.key_fields)
            raise InvalidIdError(f"{self.name} id {id!r:.120}: give a tuple of ({names})")
        for field, value in zip(self.key_fields, values, strict=True):
            if type(value) is not field.python_type:
                raise InvalidIdError(
                    f"{self.name} id {value!r:.120} is {type(value).__name__}; {field.name} takes {field.python_type.__name__}"
                )
            if not _storable(field.column, value):
                return None
        return tuple(values)

    def id_of(self, identity: Identity) -> Any:
        """What callers pass as id: the value itself for a key of one column, else the tuple."""
        return identity[0] if len(identity) == 1 else identity

    def identity_in(self, row: Row) -> Identity:
        """The primary key's values in a row."""
        return tuple(row[at] for at in self._key_at)

    def hydrate(self, row: Row) -> E:
        """A new detached object with every mapped column loaded, as if a session had loaded and expunged it.

        Relationships are left unloaded: touching one raises SQLAlchemy's ``DetachedInstanceError``.
        """
        manager = self._manager
        instance = manager.new_instance()
        instance.__dict__.update(zip(self.names, row, strict=True))
        state = attributes.instance_state(instance)
        state.key = (self._identity_class, self.identity_in(row), None)
        if manager.dispatch.load:  # Mutable types and @reconstructor listen here
            manager.dispatch.load(state, None)
        return instance

    def check(self, values: Mapping[str, Any]) -> None:
        """Refuses what a database would refuse or cut, the same on each database.

        Raises ``UnknownFieldError`` for a name that is no mapped column, ``InvalidEntityError`` for a string that is too long,
        that has a lone surrogate, or for None where the column takes none.
        """
        for name, value in values.items():
            field = self.by_name.get(name)
            if field is None:
                raise UnknownFieldError(f"{self.name} has no field {name!r}; known are: {', '.join(self.names)}")
            length = getattr(field.column.type, "length", None)
            if isinstance(value, str) and length is not None and len(value) > length:
                raise InvalidEntityError(
                    f"{self.name}.{name} {value[:60]!r}... has {len(value)} characters; the limit is {length}"
                )
            if isinstance(value, str) and not _encodable(value):
                raise InvalidEntityError(f"{self.name}.{name} {value[:60]!r} has a lone surrogate and cannot be stored")
            if value is None and not field.column.nullable and field.column.server_default is None:
                raise InvalidEntityError(f"{self.name}.{name} is None; the column takes no NULL")

    def values_of(self, entity: E) -> dict[str, Any]:
        """The values of the columns that are set on an object, by name."""
        state = entity.__dict__
        return {name: state[name] for name in self.names if name in state}

    def criteria(self, equals: Mapping[str, Any]) -> Sequence[sa.ColumnElement[bool]]:
        """One SQL criterion for each name; None becomes IS NULL. Raises ``UnknownFieldError``."""
        unknown = [name for name in equals if name not in self.by_name]
        if unknown:
            raise UnknownFieldError(f"{self.name} has no field {unknown[0]!r}; known are: {', '.join(self.names)}")
        return [self.by_name[name].column == value for name, value in equals.items()]


def _fields(mapper: orm.Mapper[Any]) -> tuple[Field, ...]:
    # A column_property over an SQL expression has no row of its own whose change could be seen: it
    # is left unloaded on both sides of the toggle.
    found = [(prop.key, prop.columns[0]) for prop in mapper.column_attrs]
    return tuple(Field(name, column) for name, column in found if isinstance(column, sa.Column))


def _key_fields(mapper: orm.Mapper[Any], fields: Iterable[Field]) -> tuple[Field, ...]:
    by_column = {field.column: field for field in fields}
    keys = tuple(by_column[cast("sa.Column[Any]", column)] for column in mapper.primary_key)
    for field in keys:
        if not (isinstance(field.python_type, type) and issubclass(field.python_type, _KEY_TYPES)):
            raise ConfigurationError(
                f"{mapper.class_.__name__}.{field.name} is part of the primary key and has the type {field.column.type!r}; "
                f"keys may be {', '.join(t.__name__ for t in _KEY_TYPES)}"
            )
    return keys


def _converts(type_: sa.types.TypeEngine[Any]) -> bool:
    """Whether a TypeDecorator changes values on their way, so that its ``python_type`` says nothing of them."""
    if not isinstance(type_, sa.TypeDecorator):
        return False
    return type(type_).process_result_value is not sa.TypeDecorator.process_result_value


def _storable(column: sa.Column[Any], value: Any) -> bool:
    if isinstance(value, str):
        length = getattr(column.type, "length", None)
        return (length is None or len(value) <= length) and (value.isascii() or _encodable(value))
    if isinstance(value, int) and not isinstance(value, enum.Enum):
        return -(2**63) <= value < 2**63
    return True


def _encodable(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
