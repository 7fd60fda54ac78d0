"""Fixtures of all tests: a database and cache servers of their own, empty at the start of every test."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import hypothesis
import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from support.folders import work_in_memory
from support.postgresql import postgresql
from support.servers import Memcached, mariadb, memcached
from support.urls import MEMORY, patient_url

from person_repo.model import FENCE, Base

pytest_plugins = ["support.proofs"]

work_in_memory()

# A deadline for each example is a timing assertion.
hypothesis.settings.register_profile("person_repo", deadline=None)
hypothesis.settings.load_profile("person_repo")

# A shell has processes in the background ignore Ctrl-C, and their children inherit that: the tests of Ctrl-C would wait
# in vain.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def mysql_server() -> Iterator[sa.URL]:
    """A MySQL or MariaDB in which databases can be made: that of ``PERSON_REPO_TEST_MYSQL_URL``, or our own."""
    if given := os.environ.get("PERSON_REPO_TEST_MYSQL_URL"):
        yield sa.make_url(given)
        return
    with mariadb() as server:
        yield server.url


@pytest.fixture(scope="session")
def _mysql_administration(mysql_server: sa.URL) -> Iterator[sa.Engine]:
    engine = sa.create_engine(mysql_server, isolation_level="AUTOCOMMIT")
    yield engine
    engine.dispose()


@pytest.fixture
def mysql_url(mysql_server: sa.URL, _mysql_administration: sa.Engine) -> Iterator[str]:
    """The URL of an empty database on MySQL, which is dropped after the test."""
    name = f"person_repo_{uuid.uuid4().hex}"
    with _mysql_administration.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
    yield mysql_server.set(database=name).render_as_string(hide_password=False)
    with _mysql_administration.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name}")


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[sa.URL]:
    """A PostgreSQL in which databases can be made: that of ``PERSON_REPO_TEST_POSTGRESQL_URL``, or our own."""
    if given := os.environ.get("PERSON_REPO_TEST_POSTGRESQL_URL"):
        yield sa.make_url(given)
        return
    with postgresql() as server:
        yield server.url


@pytest.fixture(scope="session")
def _postgresql_administration(postgresql_server: sa.URL) -> Iterator[sa.Engine]:
    engine = sa.create_engine(postgresql_server, isolation_level="AUTOCOMMIT")
    yield engine
    engine.dispose()


@pytest.fixture
def postgresql_url(postgresql_server: sa.URL, _postgresql_administration: sa.Engine) -> Iterator[str]:
    """The URL of an empty database on PostgreSQL, which is dropped after the test."""
    name = f"person_repo_{uuid.uuid4().hex}"
    with _postgresql_administration.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    yield postgresql_server.set(database=name).render_as_string(hide_password=False)
    with _postgresql_administration.connect() as connection:
        # FORCE: an engine that was not disposed keeps its connections.
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def _memcached_processes() -> Iterator[list[Memcached]]:
    with memcached(3) as processes:
        yield processes


@pytest.fixture
def memcached_servers(_memcached_processes: list[Memcached]) -> list[Memcached]:
    """Three memcached servers, running and empty; those that the test before stopped are started again."""
    for server in _memcached_processes:
        if server.running:
            server.resume()
        server.start()
        server.flush()
    return _memcached_processes


@pytest.fixture(params=["sqlite", "mysql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database: a file of SQLite, then one on MySQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'people.db'}"
    url: str = request.getfixturevalue("mysql_url")
    return url


@pytest.fixture(params=["memory", "memcached"])
def cache_url(request: pytest.FixtureRequest) -> str:
    """The URL of an empty cache: in memory, then three memcached servers."""
    if request.param == "memory":
        return MEMORY
    servers: list[Memcached] = request.getfixturevalue("memcached_servers")
    return patient_url(servers)


@pytest.fixture
def engine(database_url: str) -> Iterator[sa.Engine]:
    """An engine over an empty database."""
    engine = sa.create_engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def people_engine(engine: sa.Engine) -> sa.Engine:
    """An engine over a database with the tables of ``Base`` and nothing in them."""
    Base.metadata.create_all(engine)
    return engine


@pytest.fixture
def sessions(people_engine: sa.Engine) -> orm.sessionmaker[orm.Session]:
    """Sessions of a host, over ``people_engine``."""
    return orm.sessionmaker(people_engine)


@pytest.fixture
def statements() -> Callable[..., AbstractContextManager[list[str]]]:
    """``with statements(engine, ...) as seen:`` lists the SQL sent on these engines within the block.

    Polls of the fence are left out: they come by the clock, and ``test_fence`` counts them.
    """
    return _statements


@contextmanager
def _statements(*engines: sa.Engine) -> Iterator[list[str]]:
    seen: list[str] = []

    def record(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        if FENCE.name not in statement:
            seen.append(statement)

    once_each = list(dict.fromkeys(engines))
    for engine in once_each:
        sa.event.listen(engine, "before_cursor_execute", record)
    try:
        yield seen
    finally:
        for engine in once_each:
            sa.event.remove(engine, "before_cursor_execute", record)
