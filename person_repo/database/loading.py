"""Rows by primary key, as committed: the database's side of every read, through a read engine (``engines``)."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, cycle
from typing import Any, Generic, NamedTuple, NoReturn, TypeVar

import sqlalchemy as sa

from person_repo.database.engines import DIRECT_DRIVERS, SHARED_CONNECTION
from person_repo.mapped.mapping import EntityMapping, Identity, Row

__all__ = ["Loaded", "Loader", "Queries"]

E = TypeVar("E")

# SQLite before 3.32 takes 999 parameters in a statement, and is the lowest of all.
_MOST_PARAMETERS = 900

_AMONG = "keys"


class Loaded(NamedTuple):
    """What a load found: ``rows`` by identity, missing ones left out, and whether all of it was ``committed``."""

    rows: dict[Identity, Row]
    committed: bool


class Queries(Generic[E]):
    """The criteria by which entities of one class are found, for Core and for the ORM alike."""

    def __init__(self, mapping: EntityMapping[E]) -> None:
        self._keys = [field.column for field in mapping.key_fields]
        self._names = [f"key_{at}" for at in range(len(self._keys))]
        self.by_key = sa.and_(
            *[key == sa.bindparam(name, type_=key.type) for key, name in zip(self._keys, self._names, strict=True)]
        )
        # Made once, with a parameter for whatever keys there are: a criterion made for each call is compiled for each.
        self._key: sa.ColumnElement[Any] = self._keys[0] if len(self._keys) == 1 else sa.tuple_(*self._keys)
        self.among = self._key.in_(sa.bindparam(_AMONG, expanding=True, type_=self._key.type))

    def parameters(self, identity: Identity) -> dict[str, Any]:
        """The parameters of ``by_key``."""
        return dict(zip(self._names, identity, strict=True))

    @property
    def order(self) -> Sequence[sa.Column[Any]]:
        """The columns that order by key."""
        return self._keys

    @property
    def most(self) -> int:
        """How many identities one statement can be asked for, whatever the database."""
        return max(_MOST_PARAMETERS // len(self._keys), 1)

    def parts(self, identities: Sequence[Identity]) -> Iterator[Sequence[Identity]]:
        """The identities in parts for one statement each."""
        for start in range(0, len(identities), self.most):
            yield identities[start : start + self.most]

    def parameters_among(self, part: Sequence[Identity]) -> dict[str, Any]:
        """The parameters of ``among``."""
        return {_AMONG: [identity[0] for identity in part] if len(self._keys) == 1 else part}

    def among_some(self, size: int) -> sa.ColumnElement[bool]:
        """The criterion ``among`` for so many identities, whichever they are."""
        nothing: Any = None if len(self._keys) == 1 else (None,) * len(self._keys)
        return self._key.in_(sa.bindparam(_AMONG, [nothing] * size, expanding=True, type_=self._key.type))

    def after(self, identity: Identity) -> sa.ColumnElement[bool]:
        """Rows beyond a key in key order; spelt out, since not every database uses an index for ``(a, b) > (x, y)``."""
        return sa.or_(
            *[
                sa.and_(*[self._keys[j] == identity[j] for j in range(at)], self._keys[at] > identity[at])
                for at in range(len(self._keys))
            ]
        )


class Loader(Generic[E]):
    """Loads rows of one mapped class through a read engine."""

    def __init__(self, mapping: EntityMapping[E], engine: sa.Engine) -> None:
        self._mapping = mapping
        self._engine = engine
        self._queries = queries = Queries(mapping)
        self._columns = _restricted(mapping, sa.select(*mapping.columns))
        self._one = self._columns.where(queries.by_key)
        self._many = self._columns.where(queries.among)
        self._may_go_direct = engine.dialect.driver in DIRECT_DRIVERS and mapping.restriction is None
        self._direct: dict[int, _Direct] = {}

    def one(self, identity: Identity) -> Loaded:
        """The row of an identity. One query."""
        if self._goes_direct():
            return self._taken(self._direct_of(1).rows(identity), identity, True)
        with self._engine.connect() as connection:
            settled = _settled(connection)
            found = connection.execute(self._one, self._queries.parameters(identity)).fetchmany(1)
            committed = settled is not None and _settled(connection) == settled
        return self._taken(found, identity, committed)

    def _taken(self, found: Sequence[Any], identity: Identity, committed: bool) -> Loaded:
        # A case-insensitive collation, or a database that compares numbers with strings, finds rows of
        # other keys: they are not the one that was asked for.
        if found:
            row = tuple(found[0])
            if _equal(self._mapping.identity_in(row), identity):
                return Loaded({identity: row}, committed)
        return Loaded({}, committed)

    def many(self, identities: Sequence[Identity]) -> Loaded:
        """The rows of distinct identities. One query for some nine hundred."""
        if self._goes_direct():
            parts = [self._direct_among(part) for part in self._queries.parts(identities)]
            return Loaded(self._asked(chain.from_iterable(parts), identities), True)
        with self._engine.connect() as connection:
            settled = _settled(connection)
            found: list[Any] = []
            for part in self._queries.parts(identities):
                found += connection.execute(self._many, self._queries.parameters_among(part))
            committed = settled is not None and _settled(connection) == settled
        return Loaded(self._asked(found, identities), committed)

    def _asked(self, found: Iterable[Any], identities: Sequence[Identity]) -> dict[Identity, Row]:
        identity_in = self._mapping.identity_in
        asked = dict.fromkeys(identities)
        return {identity: row for row in map(tuple, found) if (identity := identity_in(row)) in asked}

    def _goes_direct(self) -> bool:
        """Whether a statement can be sent without SQLAlchemy's execution: no listener, no log and no option of the
        host's would miss it. All of these may come and go.
        """
        engine = self._engine
        return self._may_go_direct and not (
            engine._has_events
            or sa.Connection._has_events
            or engine.dialect._has_events
            or engine._execution_options
            or engine.logger.isEnabledFor(logging.INFO)
        )

    def _direct_among(self, part: Sequence[Identity]) -> Sequence[Row]:
        # A statement for each power of two is enough, where the last key fills up what is left.
        size = min(1 << (len(part) - 1).bit_length(), self._queries.most)
        padded = [*part, *[part[-1]] * (size - len(part))]
        return self._direct_of(size).rows([*chain.from_iterable(padded)])

    def _direct_of(self, size: int) -> _Direct:
        found = self._direct.get(size)
        if found is None:
            query = self._one if size == 1 else self._columns.where(self._queries.among_some(size))
            found = self._direct[size] = _Direct(query, self._mapping, self._engine)
        return found

    def select(self, *criteria: sa.ColumnElement[bool], limit: int | None = None) -> list[Row]:
        """The rows that meet the criteria, in key order."""
        query = self._columns.where(*criteria).order_by(*self._queries.order).limit(limit)
        with self._engine.connect() as connection:
            return [tuple(row) for row in connection.execute(query)]

    def count(self) -> int:
        """How many rows there are."""
        with self._engine.connect() as connection:
            counted: int = connection.execute(_restricted(self._mapping, sa.select(sa.func.count()))).scalar_one()
            return counted


class _Direct:
    """A query by key on a driver's own cursor, compiled once.

    SQLAlchemy's statement cache, execution context and result object take longer than many a driver with its database.
    All else is SQLAlchemy's as it was: the pool with its pings and listeners, the types' conversions both ways, the
    errors and what they do to a connection.
    """

    def __init__(self, query: sa.Select[Any], mapping: EntityMapping[Any], engine: sa.Engine) -> None:
        self._engine = engine
        self._dialect = dialect = engine.dialect
        with engine.connect():  # a dialect knows its server from the first connection on
            compiled: Any = query.compile(dialect=dialect, compile_kwargs={"render_postcompile": True})
        self._sql = str(compiled)
        self._names: list[str] | None = None if compiled.positional else list(compiled.params)
        binds = [_implementation(field.column.type, dialect).bind_processor(dialect) for field in mapping.key_fields]
        self._binds = binds if any(binds) else None
        self._types = [_implementation(column.type, dialect) for column in compiled._result_columns]
        self._reads: list[Any] | None = None

    def rows(self, values: Sequence[Any]) -> Sequence[Row]:
        """The rows for the values of one key, or of several one after the other."""
        try:
            checked_out = self._engine.raw_connection()
        except self._dialect.loaded_dbapi.Error as error:
            sa.Connection._handle_dbapi_exception_noconnection(error, self._dialect, self._engine)
        parameters: Any = values
        cursor = None
        try:
            parameters = self._parameters(values)
            cursor = checked_out.cursor()
            self._dialect.do_execute(cursor, self._sql, parameters)
            found = cursor.fetchall()
            columns = cursor.description
            cursor.close()
        except BaseException as error:
            self._refuse(error, checked_out, parameters, cursor)
        checked_out.close()
        return found if self._reads == [] else self._read(found, columns)

    def _parameters(self, values: Sequence[Any]) -> Any:
        if self._binds is not None:
            binds = zip(values, cycle(self._binds), strict=False)
            values = [value if bind is None else bind(value) for value, bind in binds]
        return tuple(values) if self._names is None else dict(zip(self._names, values, strict=True))

    def _refuse(self, error: BaseException, checked_out: Any, parameters: Any, cursor: Any) -> NoReturn:
        """Raises as SQLAlchemy does: translated, and without leaving a connection in the pool that is broken, or in the
        middle of a reply.
        """
        # Of what was sent only the driver's own errors are translated.
        translated = cursor is None or isinstance(error, self._dialect.loaded_dbapi.Error)
        with sa.Connection(self._engine, checked_out) as connection:
            connection._handle_dbapi_exception(error, self._sql if translated else None, parameters, cursor, None)

    def _read(self, found: Sequence[Any], columns: Any) -> Sequence[Any]:
        """The values as the types of the columns have them."""
        if self._reads is None:  # they may depend on what the driver tells of the columns
            told = zip(self._types, columns, strict=True)
            reads = [type_.result_processor(self._dialect, column[1]) for type_, column in told]
            self._reads = reads if any(reads) else []
        if not self._reads:
            return found
        pairs = [zip(row, self._reads, strict=True) for row in found]
        return [tuple([value if read is None else read(value) for value, read in pair]) for pair in pairs]


def _implementation(type_: sa.types.TypeEngine[Any], dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
    return type_.dialect_impl(dialect)


def _restricted(mapping: EntityMapping[Any], query: sa.Select[Any]) -> sa.Select[Any]:
    """The query over the rows of the mapped class: of a hierarchy these may lie in several tables, or share one."""
    query = query.select_from(mapping.source)
    return query if mapping.restriction is None else query.where(mapping.restriction)


def _settled(connection: sa.Connection) -> object | None:
    """Something that is equal as long as all that can be read is committed; None while it is not.

    SQLite counts every row ever changed on a connection, rolled back or not. No transaction open and no change counted
    between two looks means that there was none.
    """
    shared = connection.get_execution_options().get(SHARED_CONNECTION)
    if shared is None:
        return True
    driver = connection.connection.driver_connection
    if not shared or driver is None or driver.in_transaction:
        return None
    changes: int = driver.total_changes
    return changes


def _equal(one: Identity, other: Identity) -> bool:
    return one == other and list(map(type, one)) == list(map(type, other))
