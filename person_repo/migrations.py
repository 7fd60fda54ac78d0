"""The schema of ``Person``: brought up, taken down, asked where it is.

Where the scripts lie and which table remembers the revision is known here alone. A host that runs alembic for tables of
its own may list ``versions/`` below ``script_location()`` in its ``version_locations`` instead (in an ini file, as
``person_repo:_alembic/versions`` with ``path_separator = newline``); its own version table then knows our revisions,
and ``current`` here does not.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from alembic import command
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
"""What can be migrated: a database URL, an engine, or an open connection whose owner commits."""

# alembic hands the running command to env.py through a variable of a module: two threads in it would swap databases.
_one_command = threading.Lock()


def upgrade(target: Target, revision: str = "head", *, lock_timeout: float = 30) -> None:
    """Brings the schema up to a revision, committed unless ``target`` is a connection: then the caller commits.

    Whoever else migrates the same database meanwhile waits, on MySQL up to ``lock_timeout`` seconds, on SQLite as long
    as the driver's own ``timeout``. Given a connection on MySQL, they wait until this returns, not until its commit:
    commit at once.

    Raises ``MigrationError`` where the schema is at a revision that this version of the package does not know, where
    the lock cannot be had, and for whatever the database refuses; ``ConfigurationError`` for a URL that cannot be used.
    """
    with _translated(target), exclusive(target, lock_timeout=lock_timeout) as connection:
        config = _config(connection)
        _refuse_unknown(connection, config)
        with _one_command:
            command.upgrade(config, revision)


def downgrade(target: Target, revision: str, *, lock_timeout: float = 30) -> None:
    """Takes the schema down to a revision; ``"base"`` drops every table with everyone in it.

    Waits, commits and raises as ``upgrade`` does.
    """
    with _translated(target), exclusive(target, lock_timeout=lock_timeout) as connection:
        config = _config(connection)
        _refuse_unknown(connection, config)
        with _one_command:
            command.downgrade(config, revision)


def current(target: Target) -> str | None:
    """The revision a schema is at, known to this code or not; None where ``upgrade`` never ran."""
    with _translated(target), _connected(target) as connection:
        return _context(connection).get_current_revision()


def head() -> str:
    """The revision this version of the package needs."""
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    if revision is None:
        raise MigrationError(f"{script_location()} has no revisions; install the package again")
    return revision


def script_location() -> str:
    """The folder of ``env.py`` and ``versions/``: in the installed package, else that of the checkout.

    Raises ``MigrationError`` where neither has it.
    """
    here = Path(__file__).resolve().parent
    places = (here / "_alembic", here.parent / "alembic")
    for place in places:
        if (place / "env.py").is_file():
            return str(place)
    raise MigrationError(f"no migrations in {places[0]} nor in {places[1]}; install the package again")


@contextmanager
def exclusive(target: Target, *, lock_timeout: float = 30) -> Iterator[sa.Connection]:
    """A connection within a transaction, with every other block of this kind on that database shut out.

    Committed at the end of the block, unless ``target`` is a connection. On databases other than SQLite, MySQL and
    MariaDB nobody is shut out.
    """
    with _connected(target) as connection:
        take_sqlite_lock(connection)
        with _named_lock(connection, lock_timeout):
            yield connection
            if connection is not target:
                connection.commit()


@contextmanager
def _named_lock(connection: sa.Connection, timeout: float) -> Iterator[None]:
    """MySQL's GET_LOCK on the database's name: unlike a transaction, it outlives the commit in each DDL statement."""
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
        if not connection.invalidated:  # with the connection the lock is gone too
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
