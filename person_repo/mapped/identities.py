"""A mapped class as writers need it: its tables, its primary key in each of them, and the identity of a row.

Nothing here configures the host's mappers, nor asks for the type of a column that is no key: some of a class's columns
may refer to tables that come later.
"""

from __future__ import annotations

import datetime
import decimal
import enum
import sys
import uuid
from collections.abc import Iterable, Sequence
from typing import Any, Generic, TypeVar, cast

import sqlalchemy as sa
from sqlalchemy import exc, orm
from sqlalchemy.sql import operators, visitors

from person_repo.exceptions import ConfigurationError
from person_repo.mapped.fields import Field

__all__ = ["KEY_TYPES", "Identity", "IdentityMapping", "find_mapper", "is_resolved", "mapper_of"]

E = TypeVar("E")

Identity = tuple[Any, ...]
"""The values of a primary key, in the order of the mapped columns; a tuple for a key of one column, too."""

KEY_TYPES = (str, int, bytes, decimal.Decimal, uuid.UUID, datetime.datetime, datetime.date, enum.Enum)


class IdentityMapping(Generic[E]):
    """The key of one mapped class. ``dialect``: the name of the dialect of the database in which the class is kept.

    Raises ``ConfigurationError`` for a class that is not mapped, or not mapped in a way that can be cached.
    """

    def __init__(self, entity: type[E], *, dialect: str = "") -> None:
        mapper = mapper_of(entity)
        self.entity = entity
        self.mapper: orm.Mapper[E] = mapper
        self.name = entity.__name__
        self.table = cast("sa.Table", mapper.base_mapper.local_table)
        """The table that has the primary key."""
        self.key_fields = _key_fields(mapper, dialect) if is_resolved(entity) else ()
        """The columns of the primary key; none as long as one of them refers to a table that comes later."""
        self.key_columns = _key_columns(mapper)
        """The columns of the primary key in each table that holds a part of an entity."""
        self.longest_plain_id = _longest_plain_id(self.key_fields)
        """The length up to which an ASCII string needs no further check as an id but for NUL; -1 if every id does."""

    @property
    def tables(self) -> tuple[sa.Table, ...]:
        """The tables of the class and of its bases, by name."""
        return tuple(sorted(cast("Sequence[sa.Table]", self.mapper.tables), key=lambda table: table.fullname))

    @property
    def has_one_schema(self) -> bool:
        """True if all tables of the hierarchy are in one schema as they are mapped: then a change of one of them is of
        the same schema as the others, however schemas are translated.
        """
        hierarchy = self.mapper.base_mapper.self_and_descendants
        return len({cast("sa.Table", variant.local_table).schema for variant in hierarchy}) == 1

    @property
    def variant(self) -> str:
        """The class of a hierarchy: a row of the table may be none of its entities. By its tables, and the
        discriminators of its rows; empty for a root, and for a class on its own.
        """
        mapper = self.mapper
        if mapper.inherits is None:
            return ""
        kinds = {str(_shown(variant.polymorphic_identity)) for variant in mapper.self_and_descendants}
        on = getattr(mapper.polymorphic_on, "name", None)
        return " ".join([*[table.name for table in self.tables], str(on), *sorted(kinds)])

    def stored_identity(self, values: Iterable[Any], dialect: sa.Dialect | None = None) -> Identity | None:
        """The identity under which readers find a row that was written with these key values, as its types take them.
        ``dialect``: that of the database, for decorators of the host's.

        None if only the database knows it, because it converts, rounds or pads one of them: then an invalidation must
        drop the whole model. A row written with the integer key ``True`` is found under ``1``.
        """
        if not self.key_fields:
            return None
        stored = []
        for field, value in zip(self.key_fields, values, strict=True):
            stored.append(field.as_stored(value, dialect))
        return None if None in stored else tuple(stored)


def _shown(kind: Any) -> object:
    return kind.name if isinstance(kind, enum.Enum) else kind


def is_resolved(entity: type[Any]) -> bool:
    """True if the types of a mapped class's key are known: that of a foreign key comes with the table it refers to."""
    columns = cast("tuple[sa.Column[Any], ...]", mapper_of(entity).base_mapper.primary_key)
    return not any(isinstance(column.type, sa.types.NullType) for column in columns)


def find_mapper(entity: type[E]) -> orm.Mapper[E] | None:
    """The mapper of a class; None for anything that is not mapped."""
    try:
        # ``sa.inspect`` would configure all mappers of the host, some of which may name classes that come later.
        return orm.class_mapper(entity, configure=False)
    except (orm.exc.UnmappedClassError, exc.ArgumentError):
        return None


def mapper_of(entity: type[E]) -> orm.Mapper[E]:
    """The mapper of a class. Raises ``ConfigurationError`` if there is none, or none that can be cached."""
    mapper = find_mapper(entity)
    if mapper is None:
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
    return mapper


def _key_fields(mapper: orm.Mapper[Any], dialect: str) -> tuple[Field, ...]:
    base = mapper.base_mapper
    columns = cast("tuple[sa.Column[Any], ...]", base.primary_key)
    keys = tuple(Field(base.get_property_by_column(column).key, column, dialect=dialect) for column in columns)
    for field in keys:
        # Of a decorator of the host's, what it writes is known; what it loads is seen by each id.
        decorated = isinstance(field.column.type, sa.TypeDecorator) and field.python_type is object
        type_ = field.wire if decorated else field.python_type
        if not (field.may_be_key and isinstance(type_, type) and issubclass(type_, KEY_TYPES)):
            raise ConfigurationError(
                f"{mapper.class_.__name__}.{field.name} is part of the primary key and has the type "
                f"{field.column.type!r}; keys may be {', '.join(t.__name__ for t in KEY_TYPES)}"
            )
    return keys


def _key_columns(mapper: orm.Mapper[Any]) -> dict[sa.Table, tuple[sa.Column[Any], ...]]:
    """The columns of the primary key in each table of a class, of its bases and of those that inherit from it.

    Raises ``ConfigurationError`` for a table that is joined to its base by anything else than the whole key.
    """
    in_hierarchy: dict[Any, tuple[sa.Column[Any], ...]] = {
        mapper.base_mapper.local_table: cast("tuple[sa.Column[Any], ...]", mapper.base_mapper.primary_key)
    }
    for variant in mapper.base_mapper.self_and_descendants:
        if variant.inherits is not None and variant.local_table not in in_hierarchy:
            equal_to = _equated(variant.inherit_condition, variant.local_table)
            columns = [equal_to.get(column) for column in in_hierarchy[variant.inherits.local_table]]
            if any(column is None for column in columns):
                raise ConfigurationError(
                    f"{variant.class_.__name__} is joined by {variant.inherit_condition}; only a class that is joined "
                    f"by the whole primary key of {variant.inherits.class_.__name__} can be cached"
                )
            in_hierarchy[variant.local_table] = tuple(cast("list[sa.Column[Any]]", columns))
    tables = {table for variant in mapper.self_and_descendants for table in variant.tables}
    return {table: columns for table, columns in in_hierarchy.items() if table in tables}


def _equated(condition: Any, table: Any) -> dict[Any, sa.Column[Any]]:
    """The columns of a table by those of other tables that a join's condition says they equal."""
    equal_to: dict[Any, sa.Column[Any]] = {}
    for comparison in visitors.iterate(condition):
        if isinstance(comparison, sa.BinaryExpression) and comparison.operator is operators.eq:
            for one, other in ((comparison.left, comparison.right), (comparison.right, comparison.left)):
                if isinstance(one, sa.Column) and one.table is table:
                    equal_to[other] = one
    return equal_to


def _longest_plain_id(key: Sequence[Field]) -> int:
    if len(key) != 1 or key[0].python_type is not str:
        return -1
    return sys.maxsize if key[0].length is None else key[0].length
