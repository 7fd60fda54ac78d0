"""Services over both databases, with the toggle either way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from support.entities import Loose, OwnBase, Ticket
from support.models import HostBase, Parcel
from support.urls import MEMORY

from person_repo.service import PersonService, Service


@pytest.fixture(params=["database", "cached"])
def use_db(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "database")


@pytest.fixture
def people(sessions: orm.sessionmaker[orm.Session], use_db: bool) -> Iterator[PersonService]:
    with PersonService.over(sessions, MEMORY, use_db=use_db) as people:
        yield people


@pytest.fixture
def parcels(engine: sa.Engine, use_db: bool) -> Iterator[Service[Parcel]]:
    HostBase.metadata.create_all(engine)
    with Service.over(Parcel, engine, MEMORY, use_db=use_db) as parcels:
        yield parcels


@pytest.fixture
def loose(engine: sa.Engine, use_db: bool) -> Iterator[Service[Loose]]:
    OwnBase.metadata.create_all(engine)
    with Service.over(Loose, engine, MEMORY, use_db=use_db) as loose:
        yield loose


@pytest.fixture
def engine(database_url: str) -> Iterator[sa.Engine]:
    """SQLite's default of 5 seconds may be too short for eight writers on a slow disk."""
    engine = sa.create_engine(database_url, connect_args={"timeout": 60} if database_url.startswith("sqlite") else {})
    yield engine
    engine.dispose()


@pytest.fixture
def tickets(engine: sa.Engine, use_db: bool) -> Iterator[Service[Ticket]]:
    OwnBase.metadata.create_all(engine)
    with Service.over(Ticket, engine, MEMORY, use_db=use_db) as tickets:
        yield tickets


@pytest.fixture
def path(tmp_path: Path) -> str:
    """The path of a SQLite file that is not there yet."""
    return str(tmp_path / "host.db")
