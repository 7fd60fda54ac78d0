"""The servers and databases of a run, each started at its first use and stopped at the end."""

from __future__ import annotations

import functools
import importlib
import os
import sys
import tempfile
import uuid
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy import orm

from person_repo import Person, PersonService, make_region, migrations

__all__ = ["CHECKOUT", "NAMESPACE", "World", "item_of", "key_of", "person", "row"]

CHECKOUT = Path(__file__).resolve().parent.parent

NAMESPACE = "bench"

_SERVERS = 4
# Seconds. On a busy machine the default runs out at times, and then the database would be measured.
_PATIENCE = 10.0
_PEOPLE = 10_000
_HOT = 1_000
_FIRST_NAMES = ("Ada", "Grace", "Barbara", "Frances", "Shafi", "Radia", "Karen", "Adele", "Jean", "Margaret")
_LAST_NAMES = ("Lovelace", "Hopper", "Liskov", "Allen", "Goldwasser", "Perlman", "Jones", "Goldberg", "Sammet")

# Keys and items as long as ours, made here: another version of the package may be measured, whose names differ.
_DIGEST = "0123456789abcdef"
_HEADER = f"{uuid.uuid4().hex}%3A/bench/person/id/#{_DIGEST}"


def row(number: int) -> tuple[str, str, str]:
    """The id, first name and last name of a person; every id has the same length."""
    return (
        f"person-{number:07d}",
        _FIRST_NAMES[number % len(_FIRST_NAMES)],
        _LAST_NAMES[number % len(_LAST_NAMES)],
    )


def person(id: str) -> Person:
    """The person of an id, as in the database."""
    return Person(*row(int(id.removeprefix("person-"))))


def key_of(id: str) -> str:
    """A cache key as long as ours, and different from it."""
    return f"py:{NAMESPACE}:person:{_DIGEST}s{id}"


def item_of(id: str) -> bytes:
    """The bytes of a person, as they are cached."""
    someone = person(id)
    columns = (someone.id, someone.first_name, someone.last_name, 1)
    return msgspec.msgpack.encode((_HEADER, key_of(id).replace("py:", "pr:", 1), columns))


class World:
    """Servers, databases and services; ``stack`` closes them. ``ids``: all people of a database; ``hot``: the first."""

    def __init__(self, stack: ExitStack, *, people: int = _PEOPLE) -> None:
        self._stack = stack
        self._servers = _tests_servers()
        self.load = os.getloadavg()[0]
        """The machine's load average when the run began."""
        self.notes: dict[Any, Any] = {}
        """Values that one part of a benchmark keeps for another."""
        self.ids = [row(number)[0] for number in range(people)]
        self.hot = self.ids[:_HOT]

    @functools.cached_property
    def folder(self) -> Path:
        """A folder for the time of the run."""
        return Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="person_repo-bench-")))

    @functools.cached_property
    def memcached(self) -> list[Any]:
        """Four memcached processes of one worker thread each."""
        started: list[Any] = self._stack.enter_context(self._servers.memcached(_SERVERS))
        return started

    @functools.cached_property
    def mariadb_server(self) -> Any:
        """A MariaDB that writes its log at each commit, which is its default; that of the tests does not."""
        server = self._stack.enter_context(self._servers.mariadb())
        self.flush_at_commit(True, server.url)
        return server

    def flush_at_commit(self, on: bool, url: sa.URL | None = None) -> None:
        """Make a COMMIT wait for the disk, or not."""
        engine = sa.create_engine(url or self.mariadb_server.url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(f"SET GLOBAL innodb_flush_log_at_trx_commit = {int(on)}")
        engine.dispose()

    @functools.cached_property
    def mariadb(self) -> str:
        """The URL of a database full of people on MariaDB."""
        return self._filled(self.empty_mariadb("bench"))

    def empty_mariadb(self, name: str) -> str:
        """The URL of a new database with the tables and no people."""
        made = self.database(name)
        migrations.upgrade(made)
        return made

    def database(self, name: str) -> str:
        """The URL of a new database on MariaDB, without tables."""
        url: sa.URL = self.mariadb_server.url
        engine = self.engine(url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
        return url.set(database=name).render_as_string(hide_password=False)

    @functools.cached_property
    def sqlite(self) -> str:
        """The URL of a database full of people in a file of SQLite."""
        made = f"sqlite:///{self.folder / 'people.db'}"
        migrations.upgrade(made)
        return self._filled(made)

    def _filled(self, url: str) -> str:
        columns = ("id", "first_name", "last_name", "version")
        people = [dict(zip(columns, (*row(number), 1), strict=True)) for number in range(len(self.ids))]
        with self.engine(url).begin() as connection:
            connection.execute(sa.insert(Person), people)
        return url

    def engine(self, url: str | sa.URL, **options: Any) -> sa.Engine:
        """A new engine, not covered."""
        engine = sa.create_engine(url, **options)
        self._stack.callback(engine.dispose)
        return engine

    def cache_url(self, servers: int = 1) -> str:
        """The cache URL of the first ``servers`` memcached processes."""
        return f"memcached://{','.join(server.url for server in self.memcached[:servers])}"

    def service(
        self, database: str | sa.Engine, cache: str, *, use_db: bool = False, warm: bool = True, **options: Any
    ) -> PersonService:
        """A new service over a database; ``warm``: with all people in its cache."""
        engine = self.engine(database) if isinstance(database, str) else database
        region = make_region(cache, **{"namespace": NAMESPACE, "timeout": _PATIENCE, **options})
        people = PersonService.over(orm.sessionmaker(engine), region, use_db=use_db)
        self._stack.callback(people.close)
        if warm:
            people.get_many(self.ids)
        return people

    def close_later(self, close: Any) -> None:
        """Call ``close`` at the end of the run."""
        self._stack.callback(close)

    def versions(self) -> dict[str, str]:
        """The versions of the servers that this run has started."""
        found: dict[str, str] = {}
        if "memcached" in self.__dict__:
            stats = dict(
                line.split()[1:3] for line in self.memcached[0].ask("stats").splitlines() if line[:4] == "STAT"
            )
            found["memcached"] = stats["version"]
        if "mariadb_server" in self.__dict__:
            with self.engine(self.mariadb_server.url).connect() as connection:
                found["mariadb"] = str(connection.exec_driver_sql("SELECT VERSION()").scalar_one())
        return found


def _tests_servers() -> Any:
    """The tests' module that starts servers; the tests are no package."""
    place = str(CHECKOUT / "tests")
    if place not in sys.path:
        sys.path.append(place)
    return importlib.import_module("support.servers")
