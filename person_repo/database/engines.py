"""Engines: one from a database URL, and one for reads beside a host's.

The read engine is derived from the host's: its ``creator``, connect arguments and connect events still apply, but each
statement is a transaction of its own. So no row comes from an old snapshot, and a host whose pool is exhausted does not
wait for itself.
"""

from __future__ import annotations

import logging
import threading
import weakref
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event, pool
from sqlalchemy.engine.interfaces import DBAPIConnection, IsolationLevel

from person_repo.exceptions import ConfigurationError
from person_repo.forks import on_fork
from person_repo.tls import tls_context
from person_repo.urls import redact

__all__ = ["DIRECT_DRIVERS", "SHARED_CONNECTION", "engine_of", "fork_safely", "has_one_connection", "read_engine_of"]

logger = logging.getLogger("person_repo.database")

DIRECT_DRIVERS = ("pysqlite", "pymysql")
"""The drivers that are sent statements without SQLAlchemy's execution: those that the tests have. What another one's
execution context does would be left out.
"""


def engine_of(url: str | sa.URL) -> sa.Engine:
    """An engine for a database URL; opens no connection. SQLite in memory gets one connection that all threads share.

    Raises ``ConfigurationError`` for a URL that cannot be read, whose driver is not installed, or that names TLS files
    which cannot be used.
    """
    # What SQLAlchemy and Python say of a URL may quote a part of the password, so no cause is chained.
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
        return sa.create_engine(parsed)
    except sa.exc.ArgumentError as exc:
        raise ConfigurationError(f"database URL {redact(url)!r} cannot be used: {redact(exc)}") from None
    except ImportError as exc:
        raise ConfigurationError(
            f"database URL {redact(url)!r} needs the driver {exc.name}, which is not installed; for MySQL and MariaDB "
            "write mysql+pymysql://"
        ) from None


def _try_tls_files(url: sa.URL) -> None:
    """Reads what PyMySQL would read at the first connection, to raise an error that names no file."""
    ca, certificate, key = (str(url.query.get(f"ssl_{name}", "")) for name in ("ca", "cert", "key"))
    if ca or certificate:
        tls_context(ca, certificate, key, owner="the database URL")


def read_engine_of(engine: sa.Engine) -> sa.Engine:
    """An engine for reads beside a host's: fresh committed rows, connections of its own.

    Where the host's engine has one connection only (SQLite in memory), the reads share it without ever
    ending its transactions; what is read while one is open is not taken for committed.
    """
    if has_one_connection(engine):
        return _beside(engine)
    # One for all repositories of the host's engine: each has a pool, and a database has so many connections.
    known: sa.Engine | None = engine.__dict__.get(_READER)
    if known is None:
        known = engine.__dict__[_READER] = _apart(engine)
    return known


def _apart(engine: sa.Engine) -> sa.Engine:
    """Reads on connections of their own."""
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
            redact(engine.url),
        )
    # Checked out for good: to check it in would roll back what the host is in the middle of. So would the end of the
    # thread or of the service that holds it; therefore the one connection of all threads holds itself.
    held = threading.local()

    def creator() -> Any:
        checked_out = engine.raw_connection()
        if isinstance(engine.pool, pool.StaticPool):
            checked_out.info[SHARED_CONNECTION] = checked_out
        else:
            held.checked_out = checked_out
        return checked_out.dbapi_connection

    reader = sa.create_engine(
        engine.url,
        creator=creator,
        poolclass=pool.StaticPool if shared else pool.SingletonThreadPool,
        pool_reset_on_return=None,
        execution_options={**_options_of(engine), SHARED_CONNECTION: shared},
        **_settings_of(engine),
    )
    for name in ("do_begin", "do_commit", "do_rollback", "do_close", "do_terminate"):
        setattr(reader.dialect, name, lambda connection: None)
    return reader


SHARED_CONNECTION = "person_repo_shared"
"""The execution option of a read engine on a host's own connection: whether it may be judged by what is open on it.
In that connection's ``info``: what keeps it checked out.
"""


_READER = "_person_repo_reader"


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


def _leave_connections_to_the_parent() -> None:
    # Two processes that read replies from one socket would read each other's. Not closed: that would end
    # the parent's conversation too.
    for engine in list(_of_this_process):
        engine.dispose(close=False)


on_fork(_leave_connections_to_the_parent)
