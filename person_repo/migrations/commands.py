"""Upgrade, downgrade, and the revisions that a database has and that this version needs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from alembic import command, context, op
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError

from person_repo.database.engines import engine_of, name_missing_extra
from person_repo.database.locks import take_sqlite_lock
from person_repo.database.schema import VERSION_TABLE
from person_repo.exceptions import MigrationError
from person_repo.urls import redact

__all__ = ["Target", "current", "downgrade", "exclusive", "heads", "script_location", "upgrade"]

_LAYER: Final = "person_repo_layer"
"""The label of the branch with the layer's tables."""

_PAUSE: Final = 0.05
"""Seconds between two attempts at PostgreSQL's lock."""

Target = str | sa.URL | sa.Engine | sa.Connection
"""The database to migrate: a URL, an engine, or an open connection, which its owner commits."""

_one_command = threading.Lock()
"""Held during a command: alembic has the running one in variables of modules, which two threads would share."""


def upgrade(target: Target, revision: str = "heads", *, person: bool = True, lock_timeout: float = 30) -> None:
    """Brings the schema up: both branches to their heads, or one to a revision of it.

    ``person=False``: the layer's tables alone, for a host with models of its own; ``revision`` is one of theirs.
    Commits, unless ``target`` is a connection: then the caller does.

    A second migration of the same database waits for the first, on MySQL and PostgreSQL up to ``lock_timeout`` seconds,
    on SQLite as long as the driver's own ``timeout``. On MySQL it waits until this function returns. If you gave a
    connection, commit it at once.

    Raises ``MigrationError`` if this version of the package does not know a revision that the schema is at, if the
    lock cannot be had, and for every refusal of the database; ``ConfigurationError`` for a URL that cannot be used.
    """
    _run(command.upgrade, target, _named(revision, person), lock_timeout)


def downgrade(target: Target, revision: str, *, person: bool = True, lock_timeout: float = 30) -> None:
    """Takes the schema down to a revision. ``"base"`` drops every table with everyone in it, and with
    ``person=False`` only those of the layer; ``"person_repo@base"`` only that of ``Person``.

    The table of the fence stays as long as one of the branches needs it. Waits, commits and raises as ``upgrade`` does.
    """
    _run(command.downgrade, target, _named(revision, person), lock_timeout)


def current(target: Target) -> tuple[str, ...]:
    """The revision of each branch that a database has, sorted, whether this version knows it or not."""
    with _translated(target), _connected(target) as connection:
        return tuple(sorted(_context(connection).get_current_heads()))


def heads(*, person: bool = True) -> tuple[str, ...]:
    """The revisions that this version of the package needs, sorted; ``person=False``: that of the layer alone."""
    scripts = ScriptDirectory.from_config(_config())
    found = scripts.get_heads() if person else [script.revision for script in scripts.get_revisions(f"{_LAYER}@head")]
    return tuple(sorted(found))


def script_location() -> str:
    """The folder of ``env.py``, ``versions/`` (of ``Person``) and ``layer/``: in the installed package, or in the
    checkout.

    Raises ``MigrationError`` if neither has it.
    """
    here = Path(__file__).resolve().parents[1]
    places = (here / "_alembic", here.parent / "alembic")
    for place in places:
        if (place / "env.py").is_file():
            return str(place)
    raise MigrationError(f"no migrations in {places[0]} nor in {places[1]}; install the package again")


@contextmanager
def exclusive(target: Target, *, lock_timeout: float = 30) -> Iterator[sa.Connection]:
    """A connection in a transaction, while no other such block runs on that database.

    Committed at the end of the block, unless ``target`` is a connection. On databases other than SQLite, MySQL, MariaDB
    and PostgreSQL other blocks do run.
    """
    with _connected(target) as connection:
        take_sqlite_lock(connection)
        lock = _advisory_lock if connection.dialect.name == "postgresql" else _named_lock
        with lock(connection, lock_timeout):
            yield connection
            if connection is not target:
                connection.commit()


def _run(step: Callable[[Config, str], None], target: Target, revision: str, lock_timeout: float) -> None:
    with _translated(target), exclusive(target, lock_timeout=lock_timeout) as connection:
        config = _config(connection)
        _refuse_unknown(connection, config)
        with _one_command, _running_command_restored():
            step(config, revision)


def _named(revision: str, person: bool) -> str:
    """A revision as alembic names it: without ``Person``, one of the layer's branch."""
    if person or "@" in revision:
        return revision
    return f"{_LAYER}@{'head' if revision == 'heads' else revision}"


@contextmanager
def _running_command_restored() -> Iterator[None]:
    """Lets a command run inside another one, such as ours in the ``env.py`` of a host.

    alembic has the running command, and the operations of the running revision, in variables of these two modules. At
    its end a command deletes them, and the outer one would miss its own.
    """
    before = [(module, vars(module).copy()) for module in (context, op)]
    try:
        yield
    finally:
        for module, variables in before:
            vars(module).update(variables)


@contextmanager
def _named_lock(connection: sa.Connection, timeout: float) -> Iterator[None]:
    """MySQL's GET_LOCK on the database's name. Each DDL statement commits, and this lock outlives a commit."""
    if connection.dialect.name not in ("mysql", "mariadb"):
        yield
        return
    # SHA2: MySQL has no MD5() since 9.6. The name of a lock has at most 64 characters.
    digest = sa.func.left(sa.func.sha2(sa.func.coalesce(sa.func.database(), ""), 256), 40)
    name = sa.func.concat("person_repo.", digest)
    if connection.scalar(sa.select(sa.func.get_lock(name, timeout))) != 1:
        raise MigrationError(
            f"{_place(connection)}: somebody else is migrating this database and was not done after {timeout} s; "
            "look at SHOW PROCESSLIST, then try again"
        )
    try:
        yield
    finally:
        if not connection.invalidated:  # An invalidated connection has lost its lock.
            connection.scalar(sa.select(sa.func.release_lock(name)))


@contextmanager
def _advisory_lock(connection: sa.Connection, timeout: float) -> Iterator[None]:
    """PostgreSQL's advisory lock for the schema in which tables are made; until the transaction ends, with all its DDL.

    On a connection by AUTOCOMMIT it ends with the block. It is tried again and again: an error by PostgreSQL's own
    ``lock_timeout`` would end a host's transaction.
    """
    pooled: Any = connection.connection
    is_automatic = connection.dialect.detect_autocommit_setting(pooled.dbapi_connection)
    key = sa.func.hashtextextended(sa.func.concat("person_repo.", sa.func.current_schema()), 0)
    take = sa.func.pg_try_advisory_lock if is_automatic else sa.func.pg_try_advisory_xact_lock
    deadline = time.monotonic() + timeout
    while not connection.scalar(sa.select(take(key))):
        if time.monotonic() >= deadline:
            raise MigrationError(
                f"{_place(connection)}: somebody else is migrating this schema and was not done after {timeout} s; "
                "look at pg_stat_activity, then try again"
            )
        time.sleep(_PAUSE)
    try:
        yield
    finally:
        if is_automatic and not connection.invalidated:
            connection.scalar(sa.select(sa.func.pg_advisory_unlock(key)))


@contextmanager
def _connected(target: Target) -> Iterator[sa.Connection]:
    if isinstance(target, sa.Connection):
        yield target
        return
    engine = target if isinstance(target, sa.Engine) else engine_of(target)
    name_missing_extra(engine)
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        if engine is not target:
            engine.dispose()


@contextmanager
def _translated(target: Target) -> Iterator[None]:
    try:
        yield
    except (CommandError, sa.exc.SQLAlchemyError) as exc:
        raise MigrationError(f"{_place(target)}: {getattr(exc, 'orig', None) or exc}") from exc


def _place(target: Target) -> str:
    if isinstance(target, sa.Connection):
        return redact(target.engine.url)
    return redact(target.url if isinstance(target, sa.Engine) else target)


def _config(connection: sa.Connection | None = None) -> Config:
    config = Config(attributes={"connection": connection})
    place = script_location()
    config.set_main_option("script_location", place.replace("%", "%%"))
    config.set_main_option("version_locations", f"{place}/versions\n{place}/layer".replace("%", "%%"))
    config.set_main_option("path_separator", "newline")
    return config


def _context(connection: sa.Connection) -> MigrationContext:
    return MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})


def _refuse_unknown(connection: sa.Connection, config: Config) -> None:
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    for revision in _context(connection).get_current_heads():
        if revision not in known:
            raise MigrationError(
                f"{_place(connection)}: the schema is at revision {revision!r}, which this version of person_repo "
                f"does not know (it has {', '.join(heads())}); install the version that wrote it, or a newer one"
            )
