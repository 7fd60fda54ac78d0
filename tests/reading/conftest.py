"""Benches of the read side: on both databases and both caches, or on SQLite alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from reading.bench import Bench, Statements
from sqlalchemy import orm
from support.models import HostBase

from person_repo.model import Person


@pytest.fixture
def bench(sessions: orm.sessionmaker[orm.Session], cache_url: str, statements: Statements) -> Iterator[Bench]:
    bench = Bench(sessions, cache_url, statements)
    yield bench
    bench.close()


@pytest.fixture
def quick(people_sqlite: orm.sessionmaker[orm.Session], cache_url: str, statements: Statements) -> Iterator[Bench]:
    """On SQLite alone, for tests in which the database has no part."""
    bench = Bench(people_sqlite, cache_url, statements)
    yield bench
    bench.close()


@pytest.fixture
def people_sqlite(tmp_path: Path) -> Iterator[orm.sessionmaker[orm.Session]]:
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'quick.db'}")
    Person.metadata.create_all(engine)
    HostBase.metadata.create_all(engine)
    yield orm.sessionmaker(engine)
    engine.dispose()
