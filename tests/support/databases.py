"""A database of its own for each test, on a server that all tests of a process share."""

from __future__ import annotations

import functools
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Final, Protocol

import sqlalchemy as sa
from support.servers.programs import Program

from person_repo.model import IDENTITY, Base

__all__ = ["FIXTURES", "OTHERS", "Databases", "HasUrl", "make_tables", "server_of", "with_identity"]

FIXTURES: Final = {
    "mysql": "mysql_url",
    "mariadb-10.11": "mariadb_url",
    "mariadb-11.8": "newer_mariadb_url",
    "postgresql": "postgresql_url",
}
"""The fixtures of the databases that ``database_url`` can be, beside a file of SQLite."""

OTHERS: Final = ("mariadb-10.11", "mariadb-11.8", "postgresql")
"""The databases on which the tests of what differs run, and no others."""

_VERSION: Final = {"mysql": "SELECT VERSION()", "mariadb": "SELECT VERSION()", "postgresql": "SHOW server_version"}


class HasUrl(Protocol):
    """A server with an address."""

    @property
    def url(self) -> sa.URL: ...


@contextmanager
def server_of(program: Program, start: Callable[[], AbstractContextManager[HasUrl]]) -> Iterator[sa.URL]:
    """The URL of the server that the environment names for this program, or of one that is started for the block."""
    if given := os.environ.get(program.variable):
        yield sa.make_url(given)
        return
    with start() as server:
        yield server.url


class Databases:
    """Databases on a ``server``, whose URL names none of them."""

    def __init__(self, server: sa.URL) -> None:
        self._server = server
        # A table that a lost transaction holds, such as a prepared one, is an error of the test that lost it, and the
        # server's own patience is a year.
        options = {} if server.get_backend_name() == "postgresql" else {"init_command": "SET lock_wait_timeout = 30"}
        self._engine = sa.create_engine(server, isolation_level="AUTOCOMMIT", connect_args=options)

    @functools.cached_property
    def version(self) -> str:
        """The server's name and version, as in ``MySQL 9.7.4``."""
        with self._engine.connect() as connection:
            words = str(connection.exec_driver_sql(_VERSION[self._engine.dialect.name]).scalar_one())
        number = words.split()[0].split("-")[0]
        name = "PostgreSQL" if self._engine.dialect.name == "postgresql" else "MySQL"
        return f"{'MariaDB' if 'MariaDB' in words else name} {number}"

    @contextmanager
    def new(self) -> Iterator[str]:
        """The URL of an empty database, which is dropped after the block."""
        name = f"person_repo_{uuid.uuid4().hex}"
        is_postgresql = self._engine.dialect.name == "postgresql"
        self._run(f"CREATE DATABASE {name}" + ("" if is_postgresql else " CHARACTER SET utf8mb4"))
        yield self._server.set(database=name).render_as_string(hide_password=False)
        # An engine that was not disposed keeps its connections, which is in PostgreSQL's way alone.
        self._run(f"DROP DATABASE {name}" + (" WITH (FORCE)" if is_postgresql else ""))

    def close(self) -> None:
        """Ends the connections."""
        self._engine.dispose()

    def _run(self, statement: str) -> None:
        with self._engine.connect() as connection:
            connection.exec_driver_sql(statement)


def with_identity(engine: sa.Engine) -> sa.Engine:
    """The same engine, over a database that has an identity: then a write drops what it changed, and not the class."""
    IDENTITY.create(engine, checkfirst=True)
    return engine


def make_tables(url: str | sa.URL) -> None:
    """Makes the tables of this package on an engine of its own, as a migration does before a program starts."""
    engine = sa.create_engine(url)
    Base.metadata.create_all(engine)
    engine.dispose()
