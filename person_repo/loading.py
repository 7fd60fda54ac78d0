"""Rows by primary key, as committed: the database's side of every read, through a read engine (``engines``)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import sqlalchemy as sa

from person_repo.engines import SHARED_CONNECTION
from person_repo.mapping import EntityMapping, Identity, Row

__all__ = ["Loaded", "Loader", "Queries"]

E = TypeVar("E")

# SQLite before 3.32 takes 999 parameters in a statement, and is the lowest of all.
_MOST_PARAMETERS = 900


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

    def parameters(self, identity: Identity) -> dict[str, Any]:
        """The parameters of ``by_key``."""
        return dict(zip(self._names, identity, strict=True))

    @property
    def order(self) -> Sequence[sa.Column[Any]]:
        """The columns that order by key."""
        return self._keys

    def among(self, identities: Sequence[Identity]) -> Iterator[sa.ColumnElement[bool]]:
        """One criterion for each part of the identities that fits every database's limit on parameters."""
        size = max(_MOST_PARAMETERS // len(self._keys), 1)
        for start in range(0, len(identities), size):
            part = identities[start : start + size]
            if len(self._keys) == 1:
                yield self._keys[0].in_([identity[0] for identity in part])
            else:
                yield sa.tuple_(*self._keys).in_(part)

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

    def one(self, identity: Identity) -> Loaded:
        """The row of an identity. One query."""
        with self._engine.connect() as connection:
            settled = _settled(connection)
            found = connection.execute(self._one, self._queries.parameters(identity)).fetchone()
            committed = settled is not None and _settled(connection) == settled
        if found is None:
            return Loaded({}, committed)
        row = tuple(found)
        # A case-insensitive collation, or a database that compares numbers with strings, finds rows of
        # other keys: they are not the one that was asked for.
        return Loaded({identity: row} if _equal(self._mapping.identity_in(row), identity) else {}, committed)

    def many(self, identities: Sequence[Identity]) -> Loaded:
        """The rows of distinct identities. One query for some nine hundred."""
        rows: dict[Identity, Row] = {}
        asked = dict.fromkeys(identities)
        with self._engine.connect() as connection:
            settled = _settled(connection)
            for criterion in self._queries.among(identities):
                for found in connection.execute(self._columns.where(criterion)):
                    row = tuple(found)
                    identity = self._mapping.identity_in(row)
                    if identity in asked:
                        rows[identity] = row
            committed = settled is not None and _settled(connection) == settled
        return Loaded(rows, committed)

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
    return one == other and all(map(lambda a, b: type(a) is type(b), one, other))
