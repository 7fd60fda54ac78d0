"""Engines: one from a database URL, and one for reads beside a host's.

The read engine is derived from the host's: its ``creator``, connect arguments and connect events still apply, but each
statement is a transaction of its own. So no row comes from an old snapshot, and a host whose pool is exhausted does not
wait for itself.
"""

from __future__ import annotations

import functools
import logging
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event, pool
from sqlalchemy.engine.interfaces import DBAPIConnection, IsolationLevel

from person_repo.exceptions import ConfigurationError
from person_repo.forks import on_fork
from person_repo.internals import (
    begin_nothing,
    invalidated_at,
    makes_connections,
    pool_like,
    register_hstore,
    root_engine,
)
from person_repo.tls import tls_context
from person_repo.urls import redact

__all__ = [
    "IS_CLEAN",
    "MAY_JUDGE",
    "SAID",
    "engine_of",
    "fork_safely",
    "has_one_connection",
    "keep_up",
    "name_missing_extra",
    "read_engine_of",
    "turn_on",
]

logger = logging.getLogger("person_repo.database")

MAY_JUDGE = "person_repo_may_judge"
"""The execution option of a read engine on a host's own connection: True if the connection is the same in all threads,
so that a transaction open on it is the only one. Engines with connections of their own do not have it.
"""

IS_CLEAN = "person_repo_is_clean"
"""The attribute of a dialect all of whose connections, or the key in the ``info`` of one, are known to read what is
committed.
"""

SAID = "person_repo_said"
"""The attribute of a read engine that holds what the log has said of it; of those of one connection it is the same."""

# In the ``info`` of a host's connection: the reference that keeps it checked out.
_KEEPALIVE = "person_repo_keepalive"

# In the ``__dict__`` of engines: the read engine of a host's, and the turns of both on one connection.
_READER = "_person_repo_reader"
_TURNS = "_person_repo_turns"

# In the ``__dict__`` of a read engine.
_FOLLOWED = "_person_repo_followed"


def engine_of(url: str | sa.URL) -> sa.Engine:
    """An engine for a database URL; opens no connection. SQLite in memory gets one connection that all threads share.

    Raises ``ConfigurationError`` for a URL that cannot be read, whose driver is not installed, or that names TLS files
    that cannot be used.
    """
    # SQLAlchemy and Python may quote a part of the password in their messages, so no cause is chained.
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        raise ConfigurationError(f"database URL {redact(url)!r} cannot be read; write dialect+driver://...") from None
    if "@" in (parsed.host or ""):  # the driver would show the host
        raise ConfigurationError(f"database URL {redact(url)!r} has two @; write %40 for an @ in a password")
    _try_tls_files(parsed)
    try:
        if parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:"):
            # Each connection to SQLite in memory is a database of its own.
            return sa.create_engine(parsed, poolclass=sa.StaticPool, connect_args={"check_same_thread": False})
        engine = sa.create_engine(parsed)
    except sa.exc.ArgumentError as exc:
        raise ConfigurationError(f"database URL {redact(url)!r} cannot be used: {redact(exc)}") from None
    except ImportError as exc:
        raise ConfigurationError(
            f"database URL {redact(url)!r} needs the driver {exc.name}, which is not installed; for MySQL and MariaDB "
            "write mysql+pymysql://, for PostgreSQL postgresql+psycopg:// (pip install person-repo[postgresql])"
        ) from None
    name_missing_extra(engine)
    return engine


def _try_tls_files(url: sa.URL) -> None:
    """Reads the files that PyMySQL would read at the first connection, where its error names no file."""
    ca, certificate, key = (str(url.query.get(f"ssl_{name}", "")) for name in ("ca", "cert", "key"))
    if ca or certificate:
        tls_context(ca, certificate, key, owner="the database URL")


def name_missing_extra(engine: sa.Engine) -> None:
    """From here on a connection that PyMySQL cannot open without the package ``cryptography`` is an error of the
    database, as a wrong password is, which names the remedy. May be called again.
    """
    dialect: Any = engine.dialect
    # A host's creator does not use the dialect's function, and then neither do we.
    if dialect.driver == "pymysql" and not hasattr(dialect.connect, "func"):
        dialect.connect = functools.partial(_connect_by_pymysql, dialect, dialect.connect)


def _connect_by_pymysql(dialect: Any, connect: Callable[..., Any], /, *args: Any, **parameters: Any) -> Any:
    """PyMySQL raises ``RuntimeError`` in the middle of the handshake, which SQLAlchemy takes for no error of the
    database: nobody who goes on without the database after such errors would go on after that one.
    """
    try:
        return connect(*args, **parameters)
    except RuntimeError as exc:
        if "cryptography" not in str(exc):
            raise
        raise dialect.loaded_dbapi.OperationalError(_CR_AUTH_PLUGIN_ERR, f"{exc}; {_REMEDY}") from exc


_CR_AUTH_PLUGIN_ERR = 2061
_REMEDY = (
    "the server wants the password encrypted, because the connection has no TLS: pip install "
    "'person-repo[mysql-auth]', or connect with TLS (ssl_ca=... in the URL)"
)


def read_engine_of(engine: sa.Engine) -> sa.Engine:
    """An engine for reads beside a host's: fresh committed rows, connections of its own.

    If the host's engine has one connection only (SQLite in memory), reads share it and never end its transactions;
    rows read while one is open do not count as committed.
    """
    if has_one_connection(engine):
        return _reader_on_hosts_connection(engine)
    # One for all repositories of the host's engine: each has a pool, and a database takes so many connections.
    reader: sa.Engine | None = engine.__dict__.get(_READER)
    if reader is None:
        with _one_maker:
            reader = engine.__dict__.get(_READER)
            if reader is None:
                reader = engine.__dict__[_READER] = _reader_beside(engine)
    return reader


def _reader_beside(engine: sa.Engine) -> sa.Engine:
    """A reader with a pool; for an engine that was made by ``execution_options`` one over the pool of its root's."""
    root = root_engine(engine)
    if root is engine:
        return _reader_with_own_pool(engine)
    reader: sa.Engine | None = root.__dict__.get(_READER)
    if reader is None:
        reader = root.__dict__[_READER] = _reader_with_own_pool(root)
    return reader.execution_options(**_options_of(engine))


def _reader_with_own_pool(engine: sa.Engine) -> sa.Engine:
    name_missing_extra(engine)  # The pool's creator is a function of the host's dialect.
    reader = sa.create_engine(
        engine.url,
        pool=pool.NullPool(_never),
        skip_autocommit_rollback=True,
        execution_options=_options_of(engine),
        **_settings_of(engine),
    )
    reader.dialect.__dict__[IS_CLEAN] = True
    event.listen(reader, "connect", lambda connection, _: _read_committed(reader.dialect, connection))
    if engine.dialect.driver == "psycopg":
        event.listen(reader, "connect", lambda connection, _: _prepare_nothing(connection))
        event.listen(reader, "connect", lambda connection, _: register_hstore(reader.dialect, connection))
    begin_nothing(reader)
    fork_safely(reader)
    _follow(reader, engine, own=reader.pool)
    return reader


def _never() -> Any:
    raise AssertionError("a pool without connections")


def _follow(reader: sa.Engine, engine: sa.Engine, own: sa.Pool | None) -> None:
    followed = reader.__dict__[_FOLLOWED] = _Followed(engine, own)
    followed.follow(reader)


def keep_up(reader: sa.Engine) -> None:
    """Has a read engine begin with new connections, if its host's engine has given up its own since the last call
    (``Engine.dispose``, another pool), as after a failover, or if its listeners for connections are others.

    Call it before each use: listeners to such changes would have each statement of the host's take a longer way.
    """
    root = root_engine(reader)
    followed: _Followed | None = root.__dict__.get(_FOLLOWED)
    if followed is not None:
        followed.keep_up(root)


class _Followed:
    """A host's engine as its read engine knows it. ``own``: the read engine's own listeners; None if it has the
    connection of the host's.
    """

    def __init__(self, engine: sa.Engine, own: sa.Pool | None) -> None:
        self._engine = weakref.ref(engine)
        self._own = own
        self._pool: Callable[[], sa.Pool | None] = lambda: None
        self._state: Sequence[Any] = ()

    def keep_up(self, reader: sa.Engine) -> None:
        engine = self._engine()
        if engine is None or (engine.pool is self._pool() and _state_of(engine.pool) == self._state):
            return
        # One thread at a time: of two pools that are made at once, the older one could come last.
        with _one_maker:
            self.follow(reader)

    def follow(self, reader: sa.Engine) -> None:
        """Has the reader begin anew, unless another thread did that meanwhile."""
        engine = self._engine()
        if engine is None:
            return
        pool, state = engine.pool, _state_of(engine.pool)
        is_other = pool is not self._pool()
        if not is_other and state == self._state:
            return
        if self._own is not None:
            given_up, reader.pool = reader.pool, pool_like(pool, self._own)
            given_up.dispose()
        elif is_other:
            reader.dispose()
        # Last: until then another thread waits, and does not go on with the old connections.
        self._pool, self._state = weakref.ref(pool), state


def _state_of(pool: sa.Pool) -> list[Any]:
    """The time at which a pool gave up its connections, and its listeners."""
    state: list[Any] = [invalidated_at(pool)]
    events: Any = pool.dispatch
    for each in (events.connect, events.checkout, events.checkin, events.reset, events.close):
        state += each.parent_listeners
        state += each.listeners
    return state


def has_one_connection(engine: sa.Engine) -> bool:
    """True if all users of an engine share one connection, at least those of one thread, and no other can be had: that
    to a database in memory, or one that the host's creator makes.
    """
    if not isinstance(engine.pool, (pool.StaticPool, pool.SingletonThreadPool)):
        return False
    database = engine.url.database or ""
    is_in_memory = database in ("", ":memory:") or "mode=memory" in database or "vfs=memdb" in database
    return (engine.dialect.name == "sqlite" and is_in_memory) or not makes_connections(engine.pool)


def fork_safely(engine: sa.Engine) -> None:
    """From here on, a forked process opens connections of its own on this engine.

    For engines that nobody else knows of: its own ones a host disposes itself, as SQLAlchemy asks it to.
    """
    if not isinstance(engine.pool, pool.StaticPool):  # a database in memory is copied with the process
        _of_this_process.add(engine)


def _read_committed(dialect: sa.Dialect, connection: DBAPIConnection) -> None:
    """Makes each statement a transaction of its own, which sees all that is committed and nothing else.

    The host's listeners, called before, may have asked for READ UNCOMMITTED, and AUTOCOMMIT alone would leave it.
    """
    weakest: IsolationLevel = "READ COMMITTED"
    driver: Any = connection
    if getattr(driver, "autocommit", None) is False and dialect.driver == "pysqlite":
        driver.autocommit = True  # sqlite3 would be in a transaction all the time, whatever the isolation level
    known = weakest in dialect.get_isolation_level_values(connection)
    dialect.set_isolation_level(connection, weakest if known else "SERIALIZABLE")
    dialect.set_isolation_level(connection, "AUTOCOMMIT")


def _prepare_nothing(connection: Any) -> None:
    """Has psycopg send each statement whole.

    It would have the server prepare what is sent for the sixth time. A migration that changes a column's type makes
    every later read by a prepared statement fail ("cached plan must not change result type"), and behind a pooler that
    changes servers between transactions (pgbouncer) not every server has it.
    """
    connection.prepare_threshold = None


def _reader_on_hosts_connection(engine: sa.Engine) -> sa.Engine:
    """Reads on the host's own connection, without a commit, rollback or close: those are the host's."""
    may_judge = isinstance(engine.pool, pool.StaticPool) and engine.dialect.name == "sqlite"
    if not may_judge:
        logger.warning(
            "%s keeps one connection for each thread, so nothing read from it is cached; give create_engine "
            "poolclass=StaticPool and connect_args={'check_same_thread': False}, or a file",
            redact(engine.url),
        )
    # Never checked in: that would roll back what the host is in the middle of. The end of the thread, or of the
    # service, that holds it would check it in.
    of_thread = threading.local()

    def creator() -> Any:
        checked_out = engine.raw_connection()
        if isinstance(engine.pool, pool.StaticPool):
            checked_out.info[_KEEPALIVE] = checked_out
        else:
            of_thread.checked_out = checked_out
        return checked_out.dbapi_connection

    reader = sa.create_engine(
        engine.url,
        creator=creator,
        poolclass=pool.StaticPool if may_judge else pool.SingletonThreadPool,
        pool_reset_on_return=None,
        execution_options={**_options_of(engine), MAY_JUDGE: may_judge},
        **_settings_of(engine),
    )
    for name in ("do_commit", "do_rollback", "do_close", "do_terminate"):
        setattr(reader.dialect, name, lambda connection: None)
    begin_nothing(reader)
    _follow(reader, engine, own=None)
    reader.__dict__[SAID] = root_engine(engine).__dict__.setdefault(SAID, set())
    if isinstance(engine.pool, pool.StaticPool):
        reader.__dict__[_TURNS] = root_engine(engine).__dict__.setdefault(_TURNS, _Turns())
    return reader


def turn_on(reader: sa.Engine) -> AbstractContextManager[object]:
    """A block for one read and its rows, alone among the reads on a connection that all threads share.

    Since Python 3.12 sqlite3 may give two threads the same prepared statement at once, and one of them no row, or the
    other's. Only equal SQL shares a statement, so the host's are not waited for. On a read engine with connections of
    its own nobody waits.
    """
    turns: _Turns | None = root_engine(reader).__dict__.get(_TURNS)
    return nullcontext() if turns is None else turns.one()


class _Turns:
    """A lock that a forked child makes anew: another thread of the parent may hold it."""

    def __init__(self) -> None:
        self._reset()
        on_fork(self._reset)

    def _reset(self) -> None:
        self._lock = threading.RLock()  # A type of the host's may read another class while rows are converted.

    @contextmanager
    def one(self) -> Iterator[None]:
        with self._lock:
            yield


def _options_of(engine: sa.Engine) -> dict[str, Any]:
    return {name: value for name, value in engine.get_execution_options().items() if name != "isolation_level"}


def _settings_of(engine: sa.Engine) -> dict[str, Any]:
    """The host's settings that change how values are read or shown, as arguments for ``create_engine``."""
    attributes = {
        "json_serializer": "_json_serializer",
        "json_deserializer": "_json_deserializer",
        "native_datetime": "native_datetime",
    }
    values = {name: getattr(engine.dialect, attribute, None) for name, attribute in attributes.items()}
    settings = {name: value for name, value in values.items() if value is not None}
    return {"hide_parameters": engine.hide_parameters, **settings}


# A listener of the host's to closed connections may read while the pool of reads is exchanged.
_one_maker = threading.RLock()
_of_this_process: weakref.WeakSet[sa.Engine] = weakref.WeakSet()


def _begin_anew_in_child() -> None:
    global _one_maker
    # Held for ever if another thread of the parent was making a reader.
    _one_maker = threading.RLock()
    # Two processes that read replies from one socket would read each other's. Not closed: that would end
    # the parent's conversation, too.
    for engine in list(_of_this_process):
        engine.dispose(close=False)


on_fork(_begin_anew_in_child)
