"""Rows by primary key, as committed: the database's side of every read.

The read engine is derived from the host's: its ``creator``, connect arguments and connect events still apply, but each
statement is a transaction of its own. So no row comes from an old snapshot, and a host whose pool is exhausted does not
wait for itself.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import sqlalchemy as sa
from sqlalchemy import event, pool
from sqlalchemy.engine.interfaces import DBAPIConnection, IsolationLevel

from person_repo.mapping import EntityMapping, Identity, Row

__all__ = ["Loaded", "Loader", "Queries", "fork_safely", "has_one_connection", "read_engine_of"]

E = TypeVar("E")
T = TypeVar("T")

logger = logging.getLogger(__name__)

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


def read_engine_of(engine: sa.Engine) -> sa.Engine:
    """An engine for reads beside a host's: fresh committed rows, connections of its own.

    Where the host's engine has one connection only (SQLite in memory), the reads share it without ever
    ending its transactions; what is read while one is open is not taken for committed.
    """
    if has_one_connection(engine):
        return _beside(engine)
    reader = sa.create_engine(
        engine.url,
        pool=engine.pool.recreate(),
        skip_autocommit_rollback=True,
        execution_options=_options_of(engine),
        **_settings_of(engine),
    )
    event.listen(reader, "connect", lambda connection, _: _read_committed(reader.dialect, connection))
    fork_safely(reader)
    return reader


def has_one_connection(engine: sa.Engine) -> bool:
    """Whether whoever uses an engine uses one connection with everybody else, at least in the same thread."""
    return isinstance(engine.pool, (pool.StaticPool, pool.SingletonThreadPool))


def fork_safely(engine: sa.Engine) -> None:
    """From here on, a forked process opens connections of its own on this engine.

    For engines that nobody else can know of: of its own ones a host disposes itself, as SQLAlchemy asks it to.
    """
    if not isinstance(engine.pool, pool.StaticPool):  # a database in memory is copied with the process
        _of_this_process.add(engine)


def _read_committed(dialect: sa.Dialect, connection: DBAPIConnection) -> None:
    """Each statement a transaction of its own, which sees what is committed: the host's listeners, which were called
    before, may have asked for READ UNCOMMITTED, and AUTOCOMMIT alone would leave it at that.
    """
    weakest: IsolationLevel = "READ COMMITTED"
    known = weakest in dialect.get_isolation_level_values(connection)
    dialect.set_isolation_level(connection, weakest if known else "SERIALIZABLE")
    dialect.set_isolation_level(connection, "AUTOCOMMIT")


def _beside(engine: sa.Engine) -> sa.Engine:
    """Reads on the host's own connection. Nothing here commits, rolls back or closes: those are the host's."""
    shared = isinstance(engine.pool, pool.StaticPool) and engine.dialect.name == "sqlite"
    if not shared:
        logger.warning(
            "%s keeps one connection for each thread, so nothing read from it is cached; give create_engine "
            "poolclass=StaticPool and connect_args={'check_same_thread': False}, or a file",
            engine.url.render_as_string(hide_password=True),
        )
    # Checked out for good: to check it in would roll back what the host is in the middle of. So would the end of the
    # thread or of the service that holds it; therefore the one connection of all threads holds itself.
    held = threading.local()

    def creator() -> Any:
        checked_out = engine.raw_connection()
        if isinstance(engine.pool, pool.StaticPool):
            checked_out.info[_SHARED] = checked_out
        else:
            held.checked_out = checked_out
        return checked_out.dbapi_connection

    reader = sa.create_engine(
        engine.url,
        creator=creator,
        poolclass=pool.StaticPool if shared else pool.SingletonThreadPool,
        pool_reset_on_return=None,
        execution_options={**_options_of(engine), _SHARED: shared},
        **_settings_of(engine),
    )
    for name in ("do_begin", "do_commit", "do_rollback", "do_close", "do_terminate"):
        setattr(reader.dialect, name, lambda connection: None)
    return reader


_SHARED = "person_repo_shared"
"""The execution option of a read engine on a host's own connection: whether it may be judged by ``_settled``. In that
connection's ``info``: what keeps it checked out.
"""


def _settled(connection: sa.Connection) -> object | None:
    """Something that is equal as long as all that can be read is committed; None while it is not.

    SQLite counts every row ever changed on a connection, rolled back or not. No transaction open and no change counted
    between two looks means that there was none.
    """
    shared = connection.get_execution_options().get(_SHARED)
    if shared is None:
        return True
    driver = connection.connection.driver_connection
    if not shared or driver is None or driver.in_transaction:
        return None
    changes: int = driver.total_changes
    return changes


def _options_of(engine: sa.Engine) -> dict[str, Any]:
    return {name: value for name, value in engine.get_execution_options().items() if name != "isolation_level"}


def _settings_of(engine: sa.Engine) -> dict[str, Any]:
    """What the host has told its dialect of values, where that knows such a setting: what reads there must read the
    same here; and whether its logs and errors may show parameters.
    """
    names = {
        "json_serializer": "_json_serializer",
        "json_deserializer": "_json_deserializer",
        "native_datetime": "native_datetime",
    }
    found = {name: getattr(engine.dialect, attribute, None) for name, attribute in names.items()}
    settings = {name: value for name, value in found.items() if value is not None}
    return {"hide_parameters": engine.hide_parameters, **settings}


_of_this_process: weakref.WeakSet[sa.Engine] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    # Two processes that read replies from one socket would read each other's. Not closed: that would end
    # the parent's conversation too.
    for engine in list(_of_this_process):
        engine.dispose(close=False)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def _equal(one: Identity, other: Identity) -> bool:
    return one == other and all(map(lambda a, b: type(a) is type(b), one, other))
