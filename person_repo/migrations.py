"""The schema of ``Person``: upgrade, downgrade, and the revision it is at.

A host that runs alembic for tables of its own has two ways. It calls ``upgrade`` with a connection, from its ``env.py``
or a revision too; ``VERSION_TABLE`` then has our revision. Or it lists ``versions/`` below ``script_location()`` in its
``version_locations`` (in an ini file, as ``person_repo:_alembic/versions`` with ``path_separator = newline``); its own
version table then has our revisions, and ``current`` does not know them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from alembic import command, context, op
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError

from person_repo.database.engines import engine_of
from person_repo.database.locks import take_sqlite_lock
from person_repo.exceptions import MigrationError
from person_repo.urls import redact

__all__ = ["VERSION_TABLE", "Target", "current", "downgrade", "exclusive", "head", "script_location", "upgrade"]

VERSION_TABLE = "person_repo_version"
"""The table that holds the revision; not alembic's default, which is the host's."""

Target = str | sa.URL | sa.Engine | sa.Connection
"""The database to migrate: a URL, an engine, or an open connection, which its owner commits."""

_one_command = threading.Lock()
"""Held during a command: alembic has the running one in variables of modules, which two threads would share."""


def upgrade(target: Target, revision: str = "head", *, lock_timeout: float = 30) -> None:
    """Brings the schema up to a revision. Commits, unless ``target`` is a connection: then the caller does.

    A second migration of the same database waits for the first, on MySQL up to ``lock_timeout`` seconds, on SQLite as
    long as the driver's own ``timeout``. On MySQL it waits until this function returns. If you gave a connection,
    commit it at once.

    Raises ``MigrationError`` if this version of the package does not know the revision that the schema is at, if the
    lock cannot be had, and for every refusal of the database; ``ConfigurationError`` for a URL that cannot be used.
    """
    _run(command.upgrade, target, revision, lock_timeout)


def downgrade(target: Target, revision: str, *, lock_timeout: float = 30) -> None:
    """Takes the schema down to a revision; ``"base"`` drops every table with everyone in it.

    Waits, commits and raises as ``upgrade`` does.
    """
    _run(command.downgrade, target, revision, lock_timeout)


def current(target: Target) -> str | None:
    """The revision that a schema is at, whether this version knows it or not; None if ``upgrade`` never ran."""
    with _translated(target), _connected(target) as connection:
        return _context(connection).get_current_revision()


def head() -> str:
    """The revision that this version of the package needs."""
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    if revision is None:
        raise MigrationError(f"{script_location()} has no revisions; install the package again")
    return revision


def script_location() -> str:
    """The folder of ``env.py`` and ``versions/``: in the installed package, or in the checkout.

    Raises ``MigrationError`` if neither has it.
    """
    here = Path(__file__).resolve().parent
    places = (here / "_alembic", here.parent / "alembic")
    for place in places:
        if (place / "env.py").is_file():
            return str(place)
    raise MigrationError(f"no migrations in {places[0]} nor in {places[1]}; install the package again")


@contextmanager
def exclusive(target: Target, *, lock_timeout: float = 30) -> Iterator[sa.Connection]:
    """A connection in a transaction, while no other such block runs on that database.

    Committed at the end of the block, unless ``target`` is a connection. On databases other than SQLite, MySQL and
    MariaDB other blocks do run.
    """
    with _connected(target) as connection:
        take_sqlite_lock(connection)
        with _named_lock(connection, lock_timeout):
            yield connection
            if connection is not target:
                connection.commit()


def _run(step: Callable[[Config, str], None], target: Target, revision: str, lock_timeout: float) -> None:
    with _translated(target), exclusive(target, lock_timeout=lock_timeout) as connection:
        config = _config(connection)
        _refuse_unknown(connection, config)
        with _one_command, _running_command_restored():
            step(config, revision)


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
def _connected(target: Target) -> Iterator[sa.Connection]:
    if isinstance(target, sa.Connection):
        yield target
        return
    engine = target if isinstance(target, sa.Engine) else engine_of(target)
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
    config.set_main_option("script_location", script_location().replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _context(connection: sa.Connection) -> MigrationContext:
    return MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})


def _refuse_unknown(connection: sa.Connection, config: Config) -> None:
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    for revision in _context(connection).get_current_heads():
        if revision not in known:
            raise MigrationError(
                f"{_place(connection)}: the schema is at revision {revision!r}, which this version of person_repo "
                f"does not know (its newest is {head()!r}); install the version that wrote it, or a newer one"
            )
