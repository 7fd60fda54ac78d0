"""A table whose changes count: the names it goes by, how its primary key travels and compares, and one change of it."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine.default import DefaultDialect

from person_repo.internals import has_bind_expression
from person_repo.mapped.fields import Field, binds
from person_repo.mapped.identities import Identity, IdentityMapping
from person_repo.mapped.views import tables_under
from person_repo.writing.catalog import is_exact_collation
from person_repo.writing.sqltext import unquoted

__all__ = ["Change", "W", "WatchedTable", "sends_unchanged", "sends_value_unchanged"]

_DIALECT = DefaultDialect()

_EXACT = (
    sa.Integer, sa.Numeric, sa.Boolean, sa.Date, sa.DateTime, sa.Uuid, sa.Enum, sa.LargeBinary, sa.BINARY, sa.VARBINARY,
)  # fmt: skip
"""The types, strings apart, whose values any database compares as Python does."""

# CITEXT folds case, CHAR is padded, and of another type nobody here knows.
_EXACT_STRINGS_OF_POSTGRESQL = ("string", "text", "unicode", "unicode_text", "VARCHAR", "TEXT")


@dataclass(eq=False)
class WatchedTable:
    """One table of a mapped class. A hierarchy of joined classes has several; each holds the primary key.

    ``name``: as statements refer to the table, in lower case. ``key_names``: the columns of the primary key in this
    table, in the order of ``mapping.key_fields``. ``shown``: for a view, the names of the tables under it, in lower
    case, whose changes are its own; empty for a table. ``has_real_columns``: the database says what it keeps
    (``keeps``).
    """

    mapping: IdentityMapping[Any]
    table: sa.Table
    name: str = field(init=False)
    key_names: tuple[str, ...] = field(init=False)
    shown: frozenset[str] = field(init=False)
    has_real_columns: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self.name = self.table.name.lower()
        self.key_names = tuple(column.name for column in self.mapping.key_columns[self.table])
        self.shown = tables_under(self.table) or frozenset()
        self._needs_dialect = any(key.is_converted or _binds(key.column.type) for key in self.mapping.key_fields)
        names = sorted({self.name, *self.shown})
        self._is_plain = all(name.isascii() and not {*name} & {*'"`'} for name in names)
        self._in_text = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, names))})(?!\w)", re.IGNORECASE)

    def is_named_in(self, text: str) -> bool:
        """True if SQL text holds the table's name, or that of a table under the view, as a word, be it the name of
        something else.
        """
        if self._in_text.search(text) is not None:
            return True
        return not self._is_plain and self._in_text.search(unquoted(text).lower()) is not None

    @property
    def dialect(self) -> sa.Dialect | None:
        """The dialect of the table's database, for types that need it to convert a value; None if it is not known."""
        return None

    def stored_identity(self, values: Iterable[Any]) -> Identity | None:
        """The identity under which readers find a row that was written with these key values; None if only the database
        knows it.
        """
        identity = self.mapping.stored_identity(values, self.dialect if self._needs_dialect else None)
        return None if identity is None or (self.has_real_columns and not self.keeps(identity)) else identity

    def stored_part(self, index: int, value: Any) -> Any:
        """The same for one part of the key."""
        stored = self.mapping.key_fields[index].as_stored(value, self.dialect if self._needs_dialect else None)
        return None if stored is None or (self.has_real_columns and not self.keeps((stored,), index)) else stored

    def keeps(self, values: Sequence[Any], first: int = 0) -> bool:
        """True unless the table itself may keep other values than these, which the types of its key keep. ``first``:
        the index of the first one in the key.
        """
        return True

    def is_sent_as_mapped(self, name: str, type_: sa.types.TypeEngine[Any], value: Any) -> bool:
        """True if a parameter of a type, which need not be the column's, sends a value for a column of the key as that
        would. ``name``: the column's.
        """
        key = self._key_of(name)
        if key is not None and type_ is key.column.type:
            return not _rewrites(type_)
        return not (key is not None and key.is_converted) and sends_value_unchanged(type_, value, self.dialect)

    def is_always_sent_as_mapped(self, name: str, type_: sa.types.TypeEngine[Any]) -> bool:
        """The same of any value."""
        key = self._key_of(name)
        if key is not None and type_ is key.column.type:
            return not _rewrites(type_)
        return not (key is not None and key.is_converted) and sends_unchanged(type_)

    def _key_of(self, name: str) -> Field | None:
        keys = self.mapping.key_fields
        return next((key for known, key in zip(self.key_names, keys, strict=False) if known == name), None)

    @functools.cached_property
    def computes_keys(self) -> bool:
        """True if an update of other columns may change the key: the metadata says that the database computes a part of
        it, or that each update sets it.
        """
        return any(_is_computed(column) for column in self.mapping.key_columns[self.table])

    def rewrites_keys(self) -> bool:
        """True if the type of a key column may store another value than it is given, in a way not followed here."""
        keys = self.mapping.key_fields
        return not keys or any(_rewrites(key.column.type) for key in keys)

    def has_other_unique_keys(self) -> bool:
        """True if the metadata declares a unique key beside the mapped one: an insert can conflict on that, too."""
        constraints = any(isinstance(constraint, sa.UniqueConstraint) for constraint in self.table.constraints)
        of_table = {column.name for column in self.table.primary_key}
        return (
            constraints
            or (bool(of_table) and of_table != {*self.key_names})
            or any(index.unique for index in self.table.indexes)
        )

    def string_key_names(self, dialect: sa.Dialect) -> tuple[str, ...]:
        """The columns of the primary key that are strings to this database: their collations decide what is equal."""
        if not self.mapping.key_fields:
            return ()
        found = []
        for name, key in zip(self.key_names, self.mapping.key_fields, strict=True):
            loaded = key.column.type.dialect_impl(dialect)
            if isinstance(key.column.type, sa.TypeDecorator):
                loaded = key.column.type.load_dialect_impl(dialect)
            if isinstance(loaded, sa.String) and not isinstance(loaded, sa.Enum):
                found.append(name)
        return tuple(found)

    def compares_exactly(self, dialect: sa.Dialect) -> bool:
        """True if ``=`` on the primary key finds rows of equal keys and no others, so that parameters name the rows."""
        return not self.rewrites_keys() and all(_is_exact(key.column.type, dialect) for key in self.mapping.key_fields)


W = TypeVar("W", bound=WatchedTable)


@dataclass
class Change(Generic[W]):
    """The rows of one watched table that a statement changes.

    ``identities``: their primary keys; None for any rows. ``counted``: the keys were asked for before, and hold unless
    the statement turns out to match more rows. ``generated``: the database makes further keys, which come with the
    result. ``returned``: the statement itself may be able to say the keys (``returning``).
    """

    table: W
    identities: list[Identity] | None
    counted: bool = False
    generated: bool = False
    returned: bool = False


def sends_unchanged(type_: sa.types.TypeEngine[Any]) -> bool:
    """True if a parameter's type sends every value as it is."""
    return not _rewrites(type_) and not binds(type_)


def _binds(type_: sa.types.TypeEngine[Any]) -> bool:
    """True if a decorator converts values on their way into the database, or one below it does."""
    return binds(type_) or (isinstance(type_, sa.TypeDecorator) and _binds(type_.impl_instance))


def sends_value_unchanged(type_: sa.types.TypeEngine[Any], value: Any, dialect: sa.Dialect | None = None) -> bool:
    """True if a parameter's type, which need not be the column's, sends this value as it is to a database."""
    if _rewrites(type_):
        return False
    return not binds(type_) or bool(type_.process_bind_param(value, dialect or _DIALECT) == value)


def _is_computed(column: sa.Column[Any]) -> bool:
    default = str(getattr(column.server_default, "arg", "")).upper()
    is_set = column.onupdate is not None or column.server_onupdate is not None
    return column.computed is not None or is_set or "ON UPDATE" in default


def _rewrites(type_: sa.types.TypeEngine[Any]) -> bool:
    """True if a type changes values on their way in: by a function in SQL, by a host's own ``bind_processor``, or, as
    ``Uuid`` of strings does, because it accepts several spellings of one value.
    """
    if isinstance(type_, sa.TypeDecorator) and _rewrites(type_.impl_instance):
        return True
    processor = getattr(type(type_).bind_processor, "__module__", "sqlalchemy.")
    respells = isinstance(type_, sa.Uuid) and not type_.as_uuid
    return respells or has_bind_expression(type_) or not processor.startswith("sqlalchemy.")


def _is_exact(type_: sa.types.TypeEngine[Any], dialect: sa.Dialect) -> bool:
    """True if the database takes two values of a column for equal exactly when Python does.

    Strings on MySQL: only in a binary collation that does not pad. On SQLite, PostgreSQL and Oracle: unless a collation
    says otherwise.
    """
    loaded = type_.dialect_impl(dialect)
    if isinstance(type_, sa.TypeDecorator):
        loaded = type_.load_dialect_impl(dialect)
    if not isinstance(loaded, sa.String) or isinstance(loaded, sa.Enum):
        return isinstance(loaded, _EXACT)
    if dialect.name == "postgresql" and loaded.__visit_name__ not in _EXACT_STRINGS_OF_POSTGRESQL:
        return False
    collation = (getattr(loaded, "collation", None) or "").lower()
    if dialect.name in ("mysql", "mariadb"):
        return is_exact_collation(collation)
    # Elsewhere (SQL Server) a column without a collation may fold as MySQL's do.
    known = dialect.name in ("sqlite", "postgresql", "oracle")
    return known and collation in ("", "binary", "c", "posix")
