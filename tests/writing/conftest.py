"""Witnesses of the host's writes: they read through the cache around each statement and compare with the database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from support.databases import OTHERS
from support.hosts import NOTES, HostBase
from support.ways import PEOPLE, Witness, person

_ON_POSTGRESQL = {"test_failures", "test_names", "test_twophase", "test_ways"}
"""The modules whose tests run on PostgreSQL, too, marked with ``every_database`` or not."""


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The write side does the same for each cache, so one of them is enough for a database where a test names none."""
    named = [mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")]
    if "cache_url" in metafunc.fixturenames and not any("cache_url" in names for names in named):
        pairs = [("sqlite", "memory"), ("mysql", "memcached")]
        if metafunc.definition.get_closest_marker("every_database"):
            pairs += [(database, "memcached") for database in OTHERS]
        elif metafunc.module.__name__.rpartition(".")[2] in _ON_POSTGRESQL:
            pairs.append(("postgresql", "memcached"))
        metafunc.definition.add_marker(pytest.mark.parametrize(("database_url", "cache_url"), pairs, indirect=True))


@pytest.fixture
def people(people_engine: sa.Engine, cache_url: str) -> Iterator[Witness]:
    """A witness of ``PEOPLE``, whom a service caches, beside a table of notes."""
    HostBase.metadata.create_all(people_engine, [NOTES])
    with orm.Session(people_engine) as session, session.begin():
        session.add_all([person(id) for id in PEOPLE])
    witness = Witness(people_engine, cache_url)
    yield witness
    witness.close()


@pytest.fixture
def witness_of(people_engine: sa.Engine, cache_url: str) -> Iterator[Callable[..., Witness]]:
    """``witness_of(entity, objects, ids=...)``: a witness of a model of the host's, whose tables hold these objects."""
    made: list[Witness] = []

    def make(entity: type[Any], objects: list[Any], **options: Any) -> Witness:
        engine = options.pop("engine", people_engine)
        entity.metadata.create_all(engine, options.pop("tables", [entity.__table__]))
        with orm.Session(engine) as session, session.begin():
            session.add_all(objects)
        made.append(Witness(engine, options.pop("cache", cache_url), entity=entity, **options))
        return made[-1]

    yield make
    for witness in made:
        witness.close()


@pytest.fixture
def automatic(people: Witness) -> Iterator[sa.Connection]:
    """A connection on which each statement commits itself, until a BEGIN."""
    with people.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        yield connection


@pytest.fixture
def enforced(people_engine: sa.Engine) -> sa.Engine:
    """An engine on which foreign keys act; SQLite enforces them only when asked."""
    if people_engine.dialect.name == "sqlite":
        people_engine.dispose()
        sa.event.listen(people_engine, "connect", lambda driver, _record: driver.execute("PRAGMA foreign_keys = ON"))
    return people_engine
