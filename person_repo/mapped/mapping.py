"""A mapped class, read once: its columns, its primary key, its tables, and how a row becomes a detached object."""

from __future__ import annotations

import operator
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Any, TypeVar, cast

import sqlalchemy as sa
from sqlalchemy import exc, orm

from person_repo.exceptions import ConfigurationError, InvalidEntityError, InvalidIdError, UnknownFieldError
from person_repo.mapped.documents import Document, is_document
from person_repo.mapped.fields import Field, Row, fields_of, mapped_columns
from person_repo.mapped.hydration import Hydrator
from person_repo.mapped.identities import KEY_TYPES, Identity, IdentityMapping, mapper_of
from person_repo.messages import shown

__all__ = ["EntityMapping", "Field", "Identity", "Row", "mapper_of"]

E = TypeVar("E")


class EntityMapping(IdentityMapping[E]):
    """All that loading, caching and invalidating need to know of a mapped class.

    ``dialect``: the name of the dialect of the database in which the class is kept, whose limits apply.

    Raises ``ConfigurationError`` for a class that is not mapped, or not mapped in a way that can be cached.
    """

    def __init__(self, entity: type[E], *, dialect: str = "") -> None:
        super().__init__(entity, dialect=dialect)
        mapper = self.mapper
        self.fields = fields_of(mapper, dialect=dialect)
        self.columns = tuple(field.column for field in self.fields)
        # Siblings may have attributes of one name for different columns; the first is taken.
        self.names = tuple(dict.fromkeys(field.name for field in self.fields))
        self.by_name = {name: next(field for field in self.fields if field.name == name) for name in self.names}
        self._not_null = frozenset(name for name, field in self.by_name.items() if not _takes_none(field, mapper))
        self.required_names = _required_names(mapper, self._not_null)
        """The names without which no entity of this very class can be stored."""
        key_indexes = tuple(self.columns.index(field.column) for field in self.key_fields)
        self.identity_in: Callable[[Row], Identity] = _picker(key_indexes)
        """Returns the primary key's values in a row."""
        self.source, self.restriction = _source(mapper)
        """The table or join that rows are selected from, and the criterion that they meet; None if all rows do."""
        self._hydrator = Hydrator(mapper, self.fields, key_indexes)
        self._hydrators = _hydrators(mapper, self.fields, key_indexes)
        self._discriminator = _discriminator(mapper, self.columns)
        self._on_postgresql = dialect == "postgresql"
        self._max_unchecked = -1 if self._on_postgresql else self.longest_plain_id

    @property
    def inherits(self) -> bool:
        """True if rows become objects of several classes, or lie in several tables."""
        return bool(self._hydrators)

    def identity(self, id: Any) -> Identity | None:
        """The key's values for an id that a caller passed; None if no row can have it.

        A key of several columns is a tuple in the order of the mapped columns. A lone surrogate or an integer beyond 64
        bits cannot be stored, and so has no row; nor has a string longer than its column, except on SQLite, which keeps
        it; nor, on PostgreSQL, a NUL. Of integers MySQL and MariaDB are asked up to 2**64 - 1, however the column is
        declared.

        Raises ``InvalidIdError`` for a value of another type, a subclass included: ``1`` is not ``"1"``, nor ``True``.
        """
        # Fast path for most ids; the checks below would return the same.
        if type(id) is str and len(id) <= self._max_unchecked and id.isascii():
            return (id,)
        fields = self.key_fields
        values = _parts(id) if len(fields) > 1 and issubclass(type(id), tuple) else (id,)
        if len(values) != len(fields):
            raise self._wrong_shape(id)
        for field, value in zip(fields, values, strict=True):
            if type(value) is field.python_type:
                continue
            if field.python_type is not object or not isinstance(value, KEY_TYPES) or not field.is_own(value):
                raise self._wrong_type(field, value)
        for field, value in zip(fields, values, strict=True):
            if field.excess(value, in_rows=True) is not None:
                return None
        return values

    def id_of(self, identity: Identity) -> Any:
        """The id that callers pass: the value itself for a key of one column, else the tuple."""
        return identity[0] if len(identity) == 1 else identity

    def hydrate(self, row: Row) -> E:
        """A new detached object with every mapped column loaded, as if a session had loaded and expunged it.

        The class's ``load`` listeners and its ``@reconstructor`` are called; a listener gets None for the query
        context, as from ``Session.merge``. Relationships and SQL expressions are left unloaded: touching one raises
        SQLAlchemy's ``DetachedInstanceError`` until the object is added to a session.
        """
        instance: E = (self._hydrator_of(row) if self._hydrators else self._hydrator).make(row)
        return instance

    def hydrate_all(self, pairs: Iterable[tuple[Any, Row | None]]) -> dict[Any, E]:
        """``hydrate`` for each pair of an id and a row, by id; pairs without a row are left out."""
        if self._hydrators:
            return {id: self.hydrate(row) for id, row in pairs if row is not None}
        return self._hydrator.make_all(pairs)

    def has_class(self, row: Sequence[Any]) -> bool:
        """True if a class of the hierarchy is mapped to the row's discriminator. A row from a cache may have any."""
        return not self._hydrators or self._discriminator is None or row[self._discriminator] in self._hydrators

    def _hydrator_of(self, row: Row) -> Hydrator:
        if self._discriminator is None:
            return self._hydrator
        kind = row[self._discriminator]
        try:
            return self._hydrators[kind]
        except KeyError:
            raise exc.InvalidRequestError(f"no class of {self.name}'s hierarchy is mapped to {kind!r:.120}") from None

    def check(self, values: Mapping[str, Any]) -> None:
        """Refuses values, by name, that a database would refuse, cut or convert; the same on each database.

        Raises ``UnknownFieldError`` for a name that is no mapped column; ``InvalidEntityError`` for a value of another
        kind than the column's (a number may stand for a number), for one that is too long, too large, not finite or has
        a lone surrogate, and for None where the column takes none and has no default.
        """
        for name, value in values.items():
            field = self.field(name)
            if value is None:
                if name in self._not_null:
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

        An attribute with a comparator of its own is compared by it, as ``filter_by`` does.

        Raises ``UnknownFieldError`` for a name that is no mapped column, ``InvalidEntityError`` for a value of another
        kind than the column's: some databases would find rows for it that have no such value.
        """
        return [self._criterion(self.field(name), value) for name, value in equals.items()]

    def _criterion(self, field: Field, value: Any) -> sa.ColumnElement[bool]:
        if value is not None and (refusal := field.refusal(value)) is not None:
            if field.mismatch(value) is not None:
                raise InvalidEntityError(f"{self.name}.{field.name} {shown(value)} {refusal}")
            if field.excess(value, in_rows=True) is not None:
                return sa.false()
        if isinstance(value, int) and value not in field.integers and field.python_type is object:
            return sa.false()  # no driver writes such an integer, and inside JSON no cache carries it
        if self._on_postgresql and (own := self._criterion_on_postgresql(field, value)) is not None:
            return own
        attribute = self.mapper.column_attrs.get(field.name)
        compares = attribute is not None and attribute.comparator_factory is not orm.ColumnProperty.Comparator
        if value is not None and not compares and is_document(field.column.type):
            return Document(field.column) == Document(sa.bindparam(None, value, type_=field.column.type))
        side: Any = getattr(self.entity, field.name) if compares else field.column
        if field.compared is not None:
            value = field.compared(value)
        return cast("sa.ColumnElement[bool]", side == value)

    def _criterion_on_postgresql(self, field: Field, value: Any) -> sa.ColumnElement[bool] | None:
        """The criterion for a value that PostgreSQL does not compare with the column as it is; None for all others."""
        if field.python_type is bool and isinstance(value, int) and not isinstance(value, bool):
            return field.column.is_(bool(value)) if value in (0, 1) else sa.false()
        return None

    def field(self, name: str) -> Field:
        """The column of this name. Raises ``UnknownFieldError``."""
        field = self.by_name.get(name)
        if field is None:
            raise UnknownFieldError(f"{self.name} has no field {shown(name)}; known are: {', '.join(self.names)}")
        return field

    def _wrong_shape(self, id: Any) -> InvalidIdError:
        names = ", ".join(field.name for field in self.key_fields)
        return InvalidIdError(f"{self.name} id {shown(id)}: give a tuple of ({names})")

    def _wrong_type(self, field: Field, value: Any) -> InvalidIdError:
        expected = field.python_type.__name__
        if field.python_type is object:
            expected = f"what {type(field.column.type).__name__} loads"
        return InvalidIdError(
            f"{self.name} id {shown(value)} is {type(value).__name__}; {self.name}.{field.name} takes {expected} "
            f"and no other type, nor a subclass of it: convert the id first"
        )


def _hydrators(mapper: orm.Mapper[Any], fields: Sequence[Field], key_indexes: Sequence[int]) -> dict[Any, Hydrator]:
    """The hydrators of a hierarchy by discriminator; empty for a class on its own."""
    variants = list(mapper.self_and_descendants)
    if len(variants) == 1 and mapper.inherits is None:
        return {}
    return {variant.polymorphic_identity: Hydrator(variant, fields, key_indexes) for variant in variants}


def _discriminator(mapper: orm.Mapper[Any], columns: Sequence[sa.Column[Any]]) -> int | None:
    if mapper.polymorphic_on is None:
        return None
    if not isinstance(mapper.polymorphic_on, sa.Column):
        raise ConfigurationError(
            f"{mapper.class_.__name__} has the discriminator {mapper.polymorphic_on}; only a class whose discriminator "
            "is a column can be cached"
        )
    return columns.index(mapper.polymorphic_on)


def _source(mapper: orm.Mapper[Any]) -> tuple[sa.FromClause, sa.ColumnElement[bool] | None]:
    """The tables of a class, joined, with an outer join to those of inheriting classes; and the criterion of its rows.

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


def _parts(id: tuple[Any, ...]) -> tuple[Any, ...]:
    # Not by the methods of a subclass, such as a named tuple, which may say anything.
    return tuple.__getitem__(id, slice(None))


def _picker(indexes: Sequence[int]) -> Callable[[Row], Identity]:
    if len(indexes) > 1:
        return operator.itemgetter(*indexes)
    # For one index an itemgetter returns no tuple; for a slice it does.
    return operator.itemgetter(slice(indexes[0], indexes[0] + 1))


def _required_names(mapper: orm.Mapper[Any], not_null: Container[str]) -> tuple[str, ...]:
    names = [prop.key for prop, column in mapped_columns(mapper) if column is not mapper.polymorphic_on]
    return tuple(name for name in names if name in not_null)  # the discriminator is set by SQLAlchemy itself


def _takes_none(field: Field, mapper: orm.Mapper[Any]) -> bool:
    """True if None can be written: as NULL, as something else, or because an insert leaves the column out."""
    column = field.column
    if column.nullable or column.default is not None or column.server_default is not None:
        return True
    if (
        column is mapper.version_id_col
        or column is cast("sa.Table", mapper.base_mapper.local_table).autoincrement_column
    ):
        return True
    return column.type.should_evaluate_none or (field.encode is not None and isinstance(column.type, sa.TypeDecorator))
