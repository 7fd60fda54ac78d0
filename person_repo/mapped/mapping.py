"""What the layer knows of a mapped class: its columns, its primary key, how a row becomes a detached object."""

from __future__ import annotations

import datetime
import decimal
import enum
import math
import operator
import sys
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from textwrap import indent
from typing import Any, Generic, NamedTuple, Self, TypeVar, cast

import sqlalchemy as sa
from sqlalchemy import exc, orm
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.orm import attributes

from person_repo.exceptions import ConfigurationError, InvalidEntityError, InvalidIdError, UnknownFieldError, shown

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

# SQLite and BIGINT end here; drivers raise errors of their own beyond it.
_INTEGERS = range(-(2**63), 2**63)

# MySQL's NUMERIC ends at 65 digits; nobody waits for Python to write an integer of millions.
_LONGEST_DECIMAL = 1024

# Python lets an int stand for a bool or a float, and drivers do too. Other mixtures are converted by the database,
# each in its own way (MySQL takes every word for equal to 0), and a list becomes a part of the statement.
_NUMBERS = (int, float, decimal.Decimal)
_STANDS_FOR: dict[Any, tuple[type, ...]] = {bool: (int,), int: (int,), float: _NUMBERS, decimal.Decimal: _NUMBERS}

# Whatever dialect reads the row, one and the same converts on the way into the cache and out of it.
_DIALECT = DefaultDialect()

_EXACT = decimal.Context(prec=decimal.MAX_PREC, Emin=decimal.MIN_EMIN, Emax=decimal.MAX_EMAX)


class _Travel(NamedTuple):
    """How the values of a column type travel: see ``Field``."""

    python_type: Any
    wire: Any
    encode: Callable[[Any], Any] | None = None
    decode: Callable[[Any], Any] | None = None


class Field:
    """One mapped column: ``name`` of the attribute, the ``column``, and how its values travel.

    ``python_type`` is the type of loaded values, ``object`` where it can be any. ``wire`` is the type that msgpack
    carries; ``encode`` and ``decode`` convert to and from it, None included, and are None where the value travels
    as it is. ``length`` is the longest string or bytes that the column takes, None where it sets no limit.
    """

    __slots__ = (
        "_fits", "_kinds", "_stays", "_words", "column", "decode", "encode", "length", "name", "python_type", "wire",
    )  # fmt: skip

    def __init__(self, name: str, column: sa.Column[Any]) -> None:
        self.name = name
        self.column = column
        self.python_type, self.wire, self.encode, self.decode = _travel(column.type, column)
        self._kinds = _kinds(column.type, self.python_type)
        self._words = frozenset(column.type.enums) if isinstance(column.type, sa.Enum) else None
        plain = self.encode is None and self.python_type in (str, bytes)
        self.length: int | None = getattr(column.type, "length", None) if plain else None
        # The longest ASCII string that is neither refused nor, as ``as_stored`` has it, changed: most values are
        # told by this.
        longest = sys.maxsize if self.length is None else self.length
        self._fits = longest if plain and self.python_type is str and self._words is None else -1
        self._stays = self._fits if _keeps_strings(column.type) else -1

    def refusal(self, value: Any) -> str | None:
        """Why the column cannot hold a value that is not None, as the end of a sentence; None where it can.

        A value that the database itself makes (an SQL expression) can be anything.
        """
        if type(value) is str and len(value) <= self._fits and value.isascii():
            return None
        if hasattr(value, "__clause_element__") or isinstance(value, sa.ClauseElement):
            return None
        return self.mismatch(value) or self.excess(value)

    def mismatch(self, value: Any) -> str | None:
        """Why a value is of a kind that the column does not take: databases would convert it, each in its own way."""
        if self._words is not None and isinstance(value, str) and not isinstance(value, enum.Enum):
            return None if value in self._words else f"is none of {', '.join(sorted(self._words))}"
        day = self.python_type is datetime.date and isinstance(value, datetime.datetime)
        if self._kinds is None or (isinstance(value, self._kinds) and not day):
            return None
        return f"is {type(value).__name__}; the column takes {self.python_type.__name__}"

    def excess(self, value: Any) -> str | None:
        """Why a value of a right kind is beyond what the column, or any database, can hold."""
        if self.length is not None and len(value) > self.length:
            units = "characters" if isinstance(value, str) else "bytes"
            return f"has {len(value)} {units}; the limit is {self.length}"
        if isinstance(value, str) and not value.isascii() and not _encodable(value):
            return "has a lone surrogate, which no database stores; remove it"
        if isinstance(value, int) and self.python_type in _STANDS_FOR:
            if self.python_type is decimal.Decimal and value.bit_length() <= _LONGEST_DECIMAL:
                return self._decimal_refusal(decimal.Decimal(value))
            if value not in _INTEGERS:
                return "is beyond 64 bits; the column takes -2**63 to 2**63 - 1"
        if isinstance(value, float) and not math.isfinite(value):
            return "is not finite; no number of MySQL's is"
        if isinstance(value, decimal.Decimal):
            return self._decimal_refusal(value)
        return None

    def _decimal_refusal(self, value: decimal.Decimal) -> str | None:
        if not value.is_finite():
            return "is not finite; no number of MySQL's is"
        precision, scale = (getattr(self.column.type, name, None) for name in ("precision", "scale"))
        if precision is not None and value and value.adjusted() >= precision - (scale or 0):
            return f"has {value.adjusted() + 1} digits before the point; the limit is {precision - (scale or 0)}"
        return None

    def as_stored(self, value: Any) -> Any:
        """What the key column holds once ``value`` was written to it, or None where only the database knows.

        Cases: a value of the column's own type, which is kept unless the column rounds, cuts or pads it; a value of a
        subclass, which drivers write as the plain value; anything else is converted by the database.
        """
        if type(value) is str and len(value) <= self._stays and value.isascii():
            return value
        if type(value) is not self.python_type:
            value = _plain(value, self.python_type)
        if value is None or self.refusal(value) is not None or _rounds(self.column.type, value):
            return None
        return value


class EntityMapping(Generic[E]):
    """A mapped class, read once: everything that loading, caching and invalidating need to know of it."""

    def __init__(self, entity: type[E]) -> None:
        mapper = sa.inspect(entity, raiseerr=False)
        if not isinstance(mapper, orm.Mapper):
            raise ConfigurationError(f"{entity!r:.120} is not a mapped class")
        hierarchy = list(mapper.base_mapper.self_and_descendants)
        if not all(isinstance(variant.local_table, sa.Table) for variant in hierarchy):
            raise ConfigurationError(
                f"{entity.__name__} is mapped to {str(mapper.local_table)!r:.120}; only tables can be cached"
            )
        if any(variant.concrete for variant in hierarchy):
            raise ConfigurationError(
                f"{entity.__name__} takes part in concrete inheritance; only joined and single-table inheritance "
                "can be cached"
            )
        self.entity = entity
        self.mapper: orm.Mapper[E] = mapper
        self.name = entity.__name__
        self.table = cast("sa.Table", mapper.base_mapper.local_table)
        """The table that has the primary key."""
        self.fields = _fields(mapper)
        self.columns = tuple(field.column for field in self.fields)
        # Siblings may have attributes of one name for different columns: the first stands for it.
        self.names = tuple(dict.fromkeys(field.name for field in self.fields))
        self.by_name = {name: next(field for field in self.fields if field.name == name) for name in self.names}
        self.key_fields = _key_fields(mapper, self.by_name)
        key_at = tuple(self.fields.index(field) for field in self.key_fields)
        self.identity_in: Callable[[Row], Identity] = _picker(key_at)
        """The primary key's values in a row."""
        self.source, self.restriction = _source(mapper)
        """Where rows are selected from, and by which criterion: None where every row is one."""
        self.key_columns = _key_columns(mapper)
        """Every table that holds a part of an entity, with the columns there that hold its primary key."""
        self._shape = _Shape(mapper, self.fields, key_at)
        self._shapes = _shapes(mapper, self.fields, key_at)
        self._discriminator = _discriminator(mapper, self.columns)
        self.longest_plain_id = _longest_id(self.key_fields)
        """Up to which length an ASCII string is an identity by itself; -1 where none is."""

    @property
    def cache_name(self) -> str:
        """What tells the entities of this class from those of another in a cache, on every host alike.

        The table; for a class that inherits, the class too: a row of the table may be none of its entities.
        """
        if self.mapper.inherits is None:
            return self.table.fullname
        kind = self.mapper.polymorphic_identity
        return f"{self.table.fullname}/{self.name if kind is None else kind}"

    @property
    def inherits(self) -> bool:
        """Whether rows become objects of several classes, or lie in several tables."""
        return bool(self._shapes)

    def identity(self, id: Any) -> Identity | None:
        """The key's values for what a caller passed as ``id``; None where no row can have it.

        A key of several columns is a tuple in the order of the mapped columns. A string longer than its column, one
        with a lone surrogate, or an integer beyond 64 bits cannot be stored and so cannot be found: None.

        Raises ``InvalidIdError`` for a value of another type, a subclass included: ``1`` is not ``"1"``, nor ``True``.
        """
        if type(id) is str and len(id) <= self.longest_plain_id and id.isascii():
            return (id,)
        fields = self.key_fields
        values = _parts(id) if len(fields) > 1 and issubclass(type(id), tuple) else (id,)
        if len(values) != len(fields):
            raise self._wrong_shape(id)
        for field, value in zip(fields, values, strict=True):
            if type(value) is not field.python_type:
                raise self._wrong_type(field, value)
        for field, value in zip(fields, values, strict=True):
            if field.excess(value) is not None:
                return None
        return values

    def stored_identity(self, values: Iterable[Any]) -> Identity | None:
        """The identity under which readers find a row that was written with these key values.

        None where only the database knows it, because it converts, rounds or pads one of them: whoever invalidates
        must then drop the whole model. A row written with the integer key ``True`` is found under ``1``.
        """
        stored = tuple(field.as_stored(value) for field, value in zip(self.key_fields, values, strict=True))
        return None if None in stored else stored

    def id_of(self, identity: Identity) -> Any:
        """What callers pass as id: the value itself for a key of one column, else the tuple."""
        return identity[0] if len(identity) == 1 else identity

    def hydrate(self, row: Row) -> E:
        """A new detached object with every mapped column loaded, as if a session had loaded and expunged it.

        The class's ``load`` listeners and its ``@reconstructor`` are called; a listener gets None for the query
        context, as from ``Session.merge``. Relationships and SQL expressions are left unloaded: touching one raises
        SQLAlchemy's ``DetachedInstanceError`` until the object is added to a session.
        """
        instance: E = (self._shape_of(row) if self._shapes else self._shape).make(row)
        return instance

    def hydrate_all(self, rows: Iterable[tuple[Any, Row | None]]) -> dict[Any, E]:
        """``hydrate`` for each row that there is, by what stands beside it."""
        if self._shapes:
            return {id: self.hydrate(row) for id, row in rows if row is not None}
        return self._shape.make_all(rows)

    def has_class(self, row: Sequence[Any]) -> bool:
        """Whether some class of the hierarchy is mapped to the row's discriminator: what a cache holds may have any."""
        return not self._shapes or self._discriminator is None or row[self._discriminator] in self._shapes

    def _shape_of(self, row: Row) -> _Shape:
        if self._discriminator is None:
            return self._shape
        kind = row[self._discriminator]
        try:
            return self._shapes[kind]
        except KeyError:
            raise exc.InvalidRequestError(f"no class of {self.name}'s hierarchy is mapped to {kind!r:.120}") from None

    def check(self, values: Mapping[str, Any]) -> None:
        """Refuses what a database would refuse, cut or convert, the same on each database.

        Raises ``UnknownFieldError`` for a name that is no mapped column; ``InvalidEntityError`` for a value of another
        kind than the column's (a number may stand for a number), for one that is too long, too large, not finite or has
        a lone surrogate, and for None where the column takes none and has no default.
        """
        for name, value in values.items():
            field = self._field(name)
            if value is None:
                if not _takes_none(field, self.mapper):
                    raise InvalidEntityError(f"{self.name}.{name} is None; the column takes no NULL: give a value")
                continue
            refusal = field.refusal(value)
            if refusal is not None:
                raise InvalidEntityError(f"{self.name}.{name} {shown(value)} {refusal}")

    def values_of(self, entity: E) -> dict[str, Any]:
        """The values of the columns that are set on an object, by name."""
        state = entity.__dict__
        return {name: state[name] for name in self.by_name if name in state}

    def criteria(self, equals: Mapping[str, Any]) -> Sequence[sa.ColumnElement[bool]]:
        """One SQL criterion for each name; None becomes IS NULL, a value that no row can hold becomes false.

        An attribute with a comparator of its own is compared by it, as ``filter_by`` would.

        Raises ``UnknownFieldError`` for a name that is no mapped column, ``InvalidEntityError`` for a value of another
        kind than the column's: some databases would find rows for it that have no such value.
        """
        return [self._criterion(self._field(name), value) for name, value in equals.items()]

    def _criterion(self, field: Field, value: Any) -> sa.ColumnElement[bool]:
        if value is not None and (refusal := field.refusal(value)) is not None:
            if field.mismatch(value) is not None:
                raise InvalidEntityError(f"{self.name}.{field.name} {shown(value)} {refusal}")
            return sa.false()
        if isinstance(value, int) and value not in _INTEGERS and field.python_type is object:
            return sa.false()  # no driver writes it, and inside JSON a cache would not carry it
        own = self.mapper.column_attrs.get(field.name)
        compares = own is not None and own.comparator_factory is not orm.ColumnProperty.Comparator
        side: Any = getattr(self.entity, field.name) if compares else field.column
        return cast("sa.ColumnElement[bool]", side == value)

    def _field(self, name: str) -> Field:
        field = self.by_name.get(name)
        if field is None:
            raise UnknownFieldError(f"{self.name} has no field {shown(name)}; known are: {', '.join(self.names)}")
        return field

    def _wrong_shape(self, id: Any) -> InvalidIdError:
        names = ", ".join(field.name for field in self.key_fields)
        return InvalidIdError(f"{self.name} id {shown(id)}: give a tuple of ({names})")

    def _wrong_type(self, field: Field, value: Any) -> InvalidIdError:
        wanted = field.python_type.__name__
        return InvalidIdError(
            f"{self.name} id {shown(value)} is {type(value).__name__}; {self.name}.{field.name} takes {wanted} "
            f"and no other type, nor a subclass of it: convert the id first"
        )


def _travel(type_: sa.types.TypeEngine[Any], column: sa.Column[Any]) -> _Travel:
    """How values of a type travel.

    Cases: enumerations by name, as SQLAlchemy stores them; JSON, whatever it holds; one of the types that msgpack
    carries unchanged; a ``TypeDecorator``, by its own two conversions.
    """
    if isinstance(type_, sa.Enum) and type_.enum_class is not None:
        members: dict[Any, Any] = {None: None, **type_.enum_class.__members__}
        return _Travel(
            type_.enum_class, str, lambda member: None if member is None else member.name, members.__getitem__
        )
    if isinstance(type_, sa.JSON):
        return _Travel(object, Any)
    if isinstance(type_, sa.PickleType):
        raise ConfigurationError(
            f"column {column} is a PickleType; what is cached is never unpickled: use JSON or a typed column"
        )
    if isinstance(type_, sa.TypeDecorator) and _converts(type_):
        return _decorated(type_, column)
    try:
        python_type = type_.python_type
    except NotImplementedError:
        python_type = object
    if python_type in _PLAIN_TYPES:
        return _Travel(python_type, python_type)
    if isinstance(type_, sa.TypeDecorator):
        return _travel(type_.impl_instance, column)
    raise ConfigurationError(
        f"column {column} has the type {type_!r}, whose values cannot be cached; wrap it in a TypeDecorator "
        f"that binds to one of {', '.join(t.__name__ for t in _PLAIN_TYPES)}"
    )


def _kinds(type_: sa.types.TypeEngine[Any], python_type: Any) -> tuple[type, ...] | None:
    """What values of a column are instances of; None for anything: JSON, and what a host's decorator converts."""
    if isinstance(type_, sa.TypeDecorator) and _binds(type_) and python_type not in (str, bytes):
        return None
    return None if python_type is object else _STANDS_FOR.get(python_type, (python_type,))


def _converts(type_: sa.TypeDecorator[Any]) -> bool:
    """Whether a TypeDecorator changes values on their way, so that its ``python_type`` says nothing of them."""
    return type(type_).process_result_value is not sa.TypeDecorator.process_result_value


def _binds(type_: sa.TypeDecorator[Any]) -> bool:
    return type(type_).process_bind_param is not sa.TypeDecorator.process_bind_param


def _decorated(type_: sa.TypeDecorator[Any], column: sa.Column[Any]) -> _Travel:
    inner = _travel(type_.impl_instance, column)

    def encode(value: Any) -> Any:
        bound = type_.process_bind_param(value, _DIALECT)
        return bound if inner.encode is None else inner.encode(bound)

    def decode(value: Any) -> Any:
        return type_.process_result_value(value if inner.decode is None else inner.decode(value), _DIALECT)

    return _Travel(object, inner.wire, encode, decode)


class _Shape:
    """How rows become objects of one class: ``make`` makes one, ``make_all`` one of each row that there is, by what
    stands beside it.

    These functions are written at the first call, since it is then that SQLAlchemy configures its mappers.
    """

    __slots__ = ("_key_at", "_mapper", "_places", "_width", "make", "make_all")

    def __init__(self, mapper: orm.Mapper[Any], fields: Sequence[Field], key_at: Sequence[int]) -> None:
        at = {field.column: index for index, field in enumerate(fields)}
        self._places = {prop.key: at[column] for prop, column in _mapped_columns(mapper)}
        self._width = len(fields)
        self._key_at = key_at
        self._mapper = mapper
        self.make: Callable[[Row], Any] = lambda row: self._written().make(row)
        self.make_all: Callable[[Iterable[tuple[Any, Row | None]]], dict[Any, Any]] = lambda rows: (
            self._written().make_all(rows)
        )

    def _written(self) -> Self:
        manager = self._mapper.class_manager
        instance = manager.new_instance()
        state = attributes.instance_state(instance)
        # Whoever instruments classes in a way of their own has another manager, or keeps the state elsewhere.
        is_usual = type(manager) is orm.ClassManager and instance.__dict__.get(manager.STATE_ATTR) is state
        # Expressions that a session would load with the row; without a mark they would read as None in silence.
        unloaded = frozenset(prop.key for prop in self._mapper.column_attrs).difference(self._places)
        places = list(self._places.values())
        steps = _STEPS.format(
            begin=_BEGIN if is_usual else _BEGIN_ELSEWHERE,
            attributes=", ".join(f"values[{name!r}]" for name in self._places),
            row="row" if places == list(range(self._width)) else f"({_picked(places)})",
            key=_picked(self._key_at),
            mark="state.expired_attributes.update(unloaded)" if unloaded else "",
        )
        names: dict[str, Any] = {
            "new": self._mapper.class_.__new__,
            "class_": manager.class_,
            "manager": manager,
            "attribute": manager.STATE_ATTR,
            "state_class": type(state),
            "state_of": attributes.instance_state,
            "identity_class": self._mapper.base_mapper.class_,
            "unloaded": unloaded,
            "dispatch": manager.dispatch,
        }
        exec(_MAKE.format(steps=indent(steps, " " * 4), steps_of_each=indent(steps, " " * 8)), names)
        self.make, self.make_all = names["make"], names["make_all"]
        return self


# A statement for each step, and the attributes by name: loops and calls would take half as long again. Composites,
# Mutable types and @reconstructor listen to ``load``.
_STEPS = """
{begin}
({attributes},) = {row}
state.key = (identity_class, ({key}), None)
{mark}
if is_heard:
    load(state, None)
"""

_MAKE = """
def make(row):
    load = dispatch.load
    is_heard = load.parent_listeners or load.listeners
    {steps}
    return instance

def make_all(rows):
    found = {{}}
    load = dispatch.load
    is_heard = load.parent_listeners or load.listeners
    for id, row in rows:
        if row is None:
            continue
        {steps_of_each}
        found[id] = instance
    return found
"""

# What ClassManager.new_instance does.
_BEGIN = """
instance = new(class_)
values = instance.__dict__
state = values[attribute] = state_class(instance, manager)
"""

_BEGIN_ELSEWHERE = """
instance = manager.new_instance()
values = instance.__dict__
state = state_of(instance)
"""


def _picked(places: Iterable[int]) -> str:
    return "".join(f"row[{at}], " for at in places)


def _mapped_columns(mapper: orm.Mapper[Any]) -> Iterable[tuple[orm.ColumnProperty[Any], sa.Column[Any]]]:
    """The attributes that are columns; the base table's, where an attribute stands for a column of each table.

    A column_property over an SQL expression has no row of its own whose change could be seen: it is left unloaded
    on both sides of the toggle.
    """
    base = mapper.base_mapper.local_table
    for prop in mapper.column_attrs:
        columns = [column for column in prop.columns if isinstance(column, sa.Column)]
        if columns:
            yield prop, next((column for column in columns if column.table is base), columns[0])


def _fields(mapper: orm.Mapper[Any]) -> tuple[Field, ...]:
    """The columns of a class and of those that inherit from it, each once."""
    fields: dict[sa.Column[Any], Field] = {}
    for variant in mapper.self_and_descendants:
        for prop, column in _mapped_columns(variant):
            fields.setdefault(column, Field(prop.key, column))
    discriminator = mapper.polymorphic_on
    if isinstance(discriminator, sa.Column):
        fields.setdefault(discriminator, Field(discriminator.key, discriminator))
    return tuple(fields.values())


def _key_fields(mapper: orm.Mapper[Any], by_name: Mapping[str, Field]) -> tuple[Field, ...]:
    base = mapper.base_mapper
    keys = tuple(by_name[base.get_property_by_column(cast("sa.Column[Any]", c)).key] for c in base.primary_key)
    for field in keys:
        if not (isinstance(field.python_type, type) and issubclass(field.python_type, _KEY_TYPES)):
            raise ConfigurationError(
                f"{mapper.class_.__name__}.{field.name} is part of the primary key and has the type "
                f"{field.column.type!r}; keys may be {', '.join(t.__name__ for t in _KEY_TYPES)}"
            )
    return keys


def _shapes(mapper: orm.Mapper[Any], fields: Sequence[Field], key_at: Sequence[int]) -> dict[Any, _Shape]:
    """The shapes by discriminator; empty for a class on its own."""
    variants = list(mapper.self_and_descendants)
    if len(variants) == 1 and mapper.inherits is None:
        return {}
    return {variant.polymorphic_identity: _Shape(variant, fields, key_at) for variant in variants}


def _discriminator(mapper: orm.Mapper[Any], columns: Sequence[sa.Column[Any]]) -> int | None:
    if mapper.polymorphic_on is None:
        return None
    if not isinstance(mapper.polymorphic_on, sa.Column):
        raise ConfigurationError(
            f"{mapper.class_.__name__} is told from its siblings by {mapper.polymorphic_on}; only a column can do that "
            "for what is cached"
        )
    return columns.index(mapper.polymorphic_on)


def _source(mapper: orm.Mapper[Any]) -> tuple[sa.FromClause, sa.ColumnElement[bool] | None]:
    """Where the rows of a class are: its tables joined, those of inheriting classes joined where there is a row.

    A class that shares its table with its siblings has the rows of its discriminators only.
    """
    source: sa.FromClause = mapper.persist_selectable
    joined = set(mapper.tables)
    for variant in mapper.self_and_descendants:
        if variant.local_table not in joined:
            joined.add(cast("sa.Table", variant.local_table))
            source = sa.outerjoin(source, variant.local_table, variant.inherit_condition)
    if mapper.inherits is None or mapper.polymorphic_on is None:
        return source, None
    kinds = [variant.polymorphic_identity for variant in mapper.self_and_descendants]
    return source, mapper.polymorphic_on.in_([kind for kind in kinds if kind is not None])


def _key_columns(mapper: orm.Mapper[Any]) -> dict[sa.Table, tuple[sa.Column[Any], ...]]:
    """For each table of a class, of its bases and of those that inherit from it, the columns of the primary key
    there.
    """
    found: dict[sa.Table, tuple[sa.Column[Any], ...]] = {}
    for variant in mapper.self_and_descendants:
        for part in variant.tables:
            table = cast("sa.Table", part)
            columns = [
                next((column for column in variant.get_property_by_column(key).columns if column.table is table), None)
                for key in cast("Iterable[sa.Column[Any]]", mapper.base_mapper.primary_key)
            ]
            if all(column is not None for column in columns):
                found[table] = tuple(cast("sa.Column[Any]", column) for column in columns)
    return found


def _parts(id: tuple[Any, ...]) -> tuple[Any, ...]:
    # Of a subclass, such as a named tuple, what it holds, whatever its own methods say.
    return tuple.__getitem__(id, slice(None))


def _picker(at: Sequence[int]) -> Callable[[Row], Identity]:
    # Of one place as of several a tuple is wanted: a slice of a row is one.
    return operator.itemgetter(*at) if len(at) > 1 else operator.itemgetter(slice(at[0], at[0] + 1))


def _longest_id(key: Sequence[Field]) -> int:
    """The longest string that is an id by itself, so that the most common ids are told with three comparisons."""
    if len(key) > 1 or key[0].python_type is not str:
        return -1
    return sys.maxsize if key[0].length is None else key[0].length


def _takes_none(field: Field, mapper: orm.Mapper[Any]) -> bool:
    """Whether None can be written: as NULL, as something else, or because an insert leaves it out."""
    column = field.column
    if column.nullable or column.default is not None or column.server_default is not None:
        return True
    if (
        column is mapper.version_id_col
        or column is cast("sa.Table", mapper.base_mapper.local_table).autoincrement_column
    ):
        return True
    return column.type.should_evaluate_none or (field.encode is not None and isinstance(column.type, sa.TypeDecorator))


def _plain(value: Any, python_type: Any) -> Any:
    """A value of a subclass as the plain value that any driver writes for it, else None."""
    if python_type is int and isinstance(value, int):
        return int(value)
    if python_type is str and isinstance(value, str):
        plain = str.__str__(value)
        # Drivers disagree where the two differ, as they do for a member of an Enum that is a str too.
        return plain if str(value) == plain else None
    return None


def _keeps_strings(type_: sa.types.TypeEngine[Any]) -> bool:
    """Whether every string comes to the database as it is, and stays so: see ``_rounds``."""
    if isinstance(type_, sa.TypeDecorator):
        return not _binds(type_) and _keeps_strings(type_.impl_instance)
    return not isinstance(type_, sa.CHAR)


def _rounds(type_: sa.types.TypeEngine[Any], value: Any) -> bool:
    """Whether some database would keep another value than this one, which has the column's own type."""
    if isinstance(type_, sa.TypeDecorator):
        bound = type_.process_bind_param(value, _DIALECT) if _binds(type_) else value
        return bool(bound != value) or _rounds(type_.impl_instance, value)
    if isinstance(value, str):
        return isinstance(type_, sa.CHAR) and value.endswith(" ")  # MySQL drops the blanks that pad a CHAR
    if isinstance(value, bytes):
        return isinstance(type_, sa.BINARY) and len(value) != type_.length
    if isinstance(value, datetime.datetime):
        return value.microsecond != 0 or (value.tzinfo is None) is bool(getattr(type_, "timezone", False))
    if isinstance(value, decimal.Decimal):
        exponent = value.normalize(_EXACT).as_tuple().exponent
        return not isinstance(exponent, int) or -exponent > (getattr(type_, "scale", None) or 0)
    return False


def _encodable(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
