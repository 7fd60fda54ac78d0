"""Fixtures of all tests: a database and cache servers of their own, empty at the start of every test."""

from __future__ import annotations

import functools
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from support.authorities import trust_no_authority
from support.databases import FIXTURES, OTHERS, Databases, HasUrl, server_of
from support.declarations import undone
from support.folders import work_in_memory
from support.postgresql import postgresql
from support.servers import Memcached, mariadb, memcached, mysql
from support.servers.programs import MARIADB, MYSQL, NEWER_MARIADB, NEWER_MEMCACHED, POSTGRESQL, Program
from support.servers.use import uses
from support.urls import MEMORY, patient_url

from person_repo.database.schema import is_about_schema
from person_repo.model import Base

pytest_plugins = ["support.proofs", "support.runs"]

work_in_memory()
trust_no_authority()

# A deadline for each example is a timing assertion.
hypothesis.settings.register_profile("person_repo", deadline=None)
hypothesis.settings.load_profile("person_repo")


def pytest_configure(config: pytest.Config) -> None:
    """pytest: the marks of this file."""
    config.addinivalue_line(
        "markers", f"every_database: what a database may do its own way; also on {', '.join(OTHERS)}"
    )
    config.addinivalue_line("markers", "time_intensive: a mark of dogpile's own suites")


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """pytest: the databases of a test that is marked so."""
    if metafunc.definition.get_closest_marker("every_database") and "database_url" in metafunc.fixturenames:
        named = [mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")]
        if not any("database_url" in names for names in named):
            # All on SQLite and MySQL; of the others a third in each run.
            is_proof = metafunc.definition.get_closest_marker("proof") is not None
            mark = () if is_proof else pytest.mark.proof(name="databases", sample=1 / 3)
            others = [pytest.param(name, marks=mark) for name in OTHERS]
            databases = pytest.mark.parametrize("database_url", ["sqlite", "mysql", *others], indirect=True)
            metafunc.definition.add_marker(databases)


# A shell has processes in the background ignore Ctrl-C, and their children inherit that: the tests of Ctrl-C would wait
# in vain.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


_STARTS: dict[Program, Callable[[], AbstractContextManager[HasUrl]]] = {
    MYSQL: mysql,
    MARIADB: mariadb,
    NEWER_MARIADB: lambda: mariadb(version=NEWER_MARIADB),
    POSTGRESQL: postgresql,
}


@pytest.fixture(autouse=True)
def _declarations_undone() -> Iterator[None]:
    """What a test declares as cached is covered in no other."""
    with undone():
        yield


@pytest.fixture(scope="session")
def _databases_on() -> Iterator[Callable[[Program], Databases]]:
    """Starts a server at the first test that needs it, or takes that of its variable; ended after the last one."""
    with ExitStack() as stack:

        @functools.cache
        def databases_on(program: Program) -> Databases:
            url = stack.enter_context(server_of(program, _STARTS[program]))
            return stack.enter_context(closing(Databases(url)))

        yield databases_on


def _url_on(program: Program) -> Any:
    """A fixture: the URL of an empty database on this server, which is dropped after the test."""

    @pytest.fixture
    def url(_databases_on: Callable[[Program], Databases], request: pytest.FixtureRequest) -> Iterator[str]:
        databases = _databases_on(program)
        uses(request, databases.version)
        with databases.new() as url:
            yield url

    return url


mysql_url = _url_on(MYSQL)
mariadb_url = _url_on(MARIADB)
newer_mariadb_url = _url_on(NEWER_MARIADB)
postgresql_url = _url_on(POSTGRESQL)


@pytest.fixture(scope="session")
def _memcached_processes() -> Iterator[list[Memcached]]:
    with memcached(3) as processes:
        yield processes


@pytest.fixture
def memcached_servers(_memcached_processes: list[Memcached], request: pytest.FixtureRequest) -> list[Memcached]:
    """Three memcached servers, running and empty; those that the test before stopped are started again."""
    return _as_new(_memcached_processes, request)


@pytest.fixture(scope="session")
def _newer_memcached_processes() -> Iterator[list[Memcached]]:
    with memcached(3, version=NEWER_MEMCACHED) as processes:
        yield processes


@pytest.fixture
def newer_memcached_servers(
    _newer_memcached_processes: list[Memcached], request: pytest.FixtureRequest
) -> list[Memcached]:
    """The same of the newest memcached tested."""
    return _as_new(_newer_memcached_processes, request)


def _as_new(servers: list[Memcached], request: pytest.FixtureRequest) -> list[Memcached]:
    for server in servers:
        if server.running:
            server.resume()
        server.start()
        server.flush()
    uses(request, f"memcached {servers[0].version}")
    return servers


@pytest.fixture(params=["sqlite", "mysql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database: a file of SQLite, one on MySQL, and with ``every_database`` on others, too."""
    if request.param == "sqlite":
        uses(request, f"SQLite {sqlite3.sqlite_version}")
        return f"sqlite:///{tmp_path / 'people.db'}"
    url: str = request.getfixturevalue(FIXTURES[request.param])
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
        if not is_about_schema(statement):
            seen.append(statement)

    once_each = list(dict.fromkeys(engines))
    for engine in once_each:
        sa.event.listen(engine, "before_cursor_execute", record)
    try:
        yield seen
    finally:
        for engine in once_each:
            sa.event.remove(engine, "before_cursor_execute", record)
