"""Loads rows by primary key through a read engine (``engines``), and says whether all of them were committed.

``snapshots`` asks the driver for that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Generic, NamedTuple, TypeVar

import sqlalchemy as sa
from sqlalchemy import exc

from person_repo.database.direct import DIRECT_DRIVERS, DirectQuery, is_observed
from person_repo.database.engines import keep_up
from person_repo.database.errors import is_foreign, may_be_foreign
from person_repo.database.snapshots import fresh_connection
from person_repo.mapped.mapping import EntityMapping, Identity, Row

__all__ = ["Loaded", "Loader", "Queries"]

E = TypeVar("E")

# SQLite before 3.32 takes 999 parameters in a statement, the fewest of all databases.
_MOST_PARAMETERS = 900

_AMONG = "keys"


class Loaded(NamedTuple):
    """The rows of a load.

    ``rows``: by identity; missing ones are left out. ``committed``: False if the load may have seen rows that are not
    committed, or older than itself.
    """

    rows: dict[Identity, Row]
    committed: bool


class Queries(Generic[E]):
    """The criteria by which entities of one class are found, for Core and for the ORM alike."""

    def __init__(self, mapping: EntityMapping[E]) -> None:
        self._keys = [field.column for field in mapping.key_fields]
        self._names = [f"key_{index}" for index in range(len(self._keys))]
        self.by_key = sa.and_(
            *[key == sa.bindparam(name, type_=key.type) for key, name in zip(self._keys, self._names, strict=True)]
        )
        # One criterion with a parameter for any keys: a criterion made for each call would be compiled for each call.
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
        """The number of identities that fit into one statement, whatever the database."""
        return max(_MOST_PARAMETERS // len(self._keys), 1)

    def parts(self, identities: Sequence[Identity]) -> Iterator[Sequence[Identity]]:
        """The identities in parts for one statement each."""
        for start in range(0, len(identities), self.most):
            yield identities[start : start + self.most]

    def parameters_among(self, part: Sequence[Identity]) -> dict[str, Any]:
        """The parameters of ``among``."""
        return {_AMONG: [identity[0] for identity in part] if len(self._keys) == 1 else part}

    def among_some(self, size: int) -> sa.ColumnElement[bool]:
        """The criterion ``among`` for exactly ``size`` identities, whichever they are."""
        nothing: Any = None if len(self._keys) == 1 else (None,) * len(self._keys)
        return self._key.in_(sa.bindparam(_AMONG, [nothing] * size, expanding=True, type_=self._key.type))

    def after(self, identity: Identity) -> sa.ColumnElement[bool]:
        """Rows beyond a key in key order. Spelt out: not every database uses an index for ``(a, b) > (x, y)``."""
        return sa.or_(
            *[
                sa.and_(*[self._keys[j] == identity[j] for j in range(index)], self._keys[index] > identity[index])
                for index in range(len(self._keys))
            ]
        )


class Loader(Generic[E]):
    """Loads rows of one mapped class through a read engine."""

    def __init__(self, mapping: EntityMapping[E], engine: sa.Engine) -> None:
        self.mapping = mapping
        self._engine = engine
        self._queries = queries = Queries(mapping)
        self._columns = _restricted(mapping, sa.select(*mapping.columns))
        self._one = self._columns.where(queries.by_key)
        self._many = self._columns.where(queries.among)
        self._may_go_direct = engine.dialect.driver in DIRECT_DRIVERS and mapping.restriction is None
        self._direct: dict[int, DirectQuery] = {}

    @property
    def translation(self) -> Mapping[str | None, str | None] | None:
        """The ``schema_translate_map`` of its queries."""
        found: Mapping[str | None, str | None] | None = self._engine.get_execution_options().get("schema_translate_map")
        return found

    def one(self, identity: Identity) -> Loaded:
        """The row of an identity. One query."""
        try:
            if self._goes_direct():
                keep_up(self._engine)
                return self._of_one(*self._direct_query(1).rows(identity), identity)
            with fresh_connection(self._engine) as (connection, snapshot):
                rows = connection.execute(self._one, self._queries.parameters(identity)).fetchmany(1)
                committed = snapshot.is_committed()
            return self._of_one(rows, committed, identity)
        except exc.DBAPIError as error:
            if not (may_be_foreign(identity) and is_foreign(error)):
                raise
            return Loaded({}, True)  # Whatever the snapshot: no row has such a key until the table is altered.

    def _goes_direct(self) -> bool:
        return self._may_go_direct and not is_observed(self._engine) and self._direct_query(1).takes_keys_only

    def _of_one(self, rows: Sequence[Any], committed: bool, identity: Identity) -> Loaded:
        # A case-insensitive collation, or a database that compares numbers with strings, finds the row of another key.
        if rows:
            row = tuple(rows[0])
            if _equal(self.mapping.identity_in(row), identity):
                return Loaded({identity: row}, committed)
        return Loaded({}, committed)

    def many(self, identities: Sequence[Identity]) -> Loaded:
        """The rows of distinct identities. One query for some nine hundred; if the database refuses to compare one of
        them, which so has no row, one for each that it may have been.
        """
        try:
            return self._many_rows(identities)
        except exc.DBAPIError as error:
            foreign = [identity for identity in identities if may_be_foreign(identity)]
            if not (foreign and is_foreign(error)):
                raise
        others = [identity for identity in identities if not may_be_foreign(identity)]
        parts = [self._many_rows(others), *map(self.one, foreign)]
        rows = {identity: row for part in parts for identity, row in part.rows.items()}
        return Loaded(rows, all(part.committed for part in parts))

    def _many_rows(self, identities: Sequence[Identity]) -> Loaded:
        rows: list[Any] = []
        if self._goes_direct():
            keep_up(self._engine)
            committed = True
            for part in self._queries.parts(identities):
                found, is_committed = self._direct_among(part)
                rows += found
                committed = committed and is_committed
            return Loaded(self._of_many(rows, identities), committed)
        with fresh_connection(self._engine) as (connection, snapshot):
            for part in self._queries.parts(identities):
                rows += connection.execute(self._many, self._queries.parameters_among(part))
            committed = snapshot.is_committed()
        return Loaded(self._of_many(rows, identities), committed)

    def _of_many(self, rows: Iterable[Any], identities: Sequence[Identity]) -> dict[Identity, Row]:
        identity_in = self.mapping.identity_in
        batch = dict.fromkeys(identities)
        # Rows of other keys are left out, as in ``_of_one``.
        return {identity: row for row in map(tuple, rows) if (identity := identity_in(row)) in batch}

    def _direct_among(self, part: Sequence[Identity]) -> tuple[Sequence[Row], bool]:
        # Pad the keys to a power of two, by repeating the last one, so that few statements are compiled.
        size = min(1 << (len(part) - 1).bit_length(), self._queries.most)
        padded = [*part, *[part[-1]] * (size - len(part))]
        return self._direct_query(size).rows([*chain.from_iterable(padded)])

    def _direct_query(self, size: int) -> DirectQuery:
        query = self._direct.get(size)
        if query is None:
            select = self._one if size == 1 else self._columns.where(self._queries.among_some(size))
            query = self._direct[size] = DirectQuery(select, self.mapping, self._engine, size)
        return query

    def select(self, *criteria: sa.ColumnElement[bool], limit: int | None = None) -> list[Row]:
        """The rows that meet the criteria, in key order."""
        query = self._columns.where(*criteria).order_by(*self._queries.order).limit(limit)
        with fresh_connection(self._engine) as (connection, _):
            return [tuple(row) for row in connection.execute(query)]

    def count(self) -> int:
        """The number of rows."""
        with fresh_connection(self._engine) as (connection, _):
            counted: int = connection.execute(_restricted(self.mapping, sa.select(sa.func.count()))).scalar_one()
            return counted


def _restricted(mapping: EntityMapping[Any], query: sa.Select[Any]) -> sa.Select[Any]:
    """The query over the rows of the mapped class: of a hierarchy these may lie in several tables, or share one."""
    query = query.select_from(mapping.source)
    return query if mapping.restriction is None else query.where(mapping.restriction)


def _equal(one: Identity, other: Identity) -> bool:
    return one == other and list(map(type, one)) == list(map(type, other))
