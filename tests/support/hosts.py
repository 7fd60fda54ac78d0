"""The models of an imagined host, and what tests of its writes share."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from support.ways import PEOPLE, TABLE, Witness, rows

from person_repo.model import ExactString

__all__ = [
    "FOLDERS",
    "NOTES",
    "TICKETS",
    "Folder",
    "HostBase",
    "Note",
    "Ticket",
    "begin_again",
    "everywhere",
    "is_mariadb",
    "is_unsure",
    "isolated",
    "listeners_of_all_connections",
    "number_on_from",
    "on_mariadb",
    "on_mysql",
    "on_mysql_and_mariadb",
    "on_postgresql",
    "on_sqlite",
    "rename",
]

everywhere = pytest.mark.parametrize("cache_url", ["memory", "memcached"], indirect=True)
"""The test runs with each cache, on each database."""

listeners_of_all_connections = pytest.mark.skipif(
    not hasattr(sa.Connection, "_has_events"), reason="SQLAlchemy 2.0 has no listeners of all connections"
)
"""The test listens on the class of all connections, which SQLAlchemy 2.0 allows and does not heed."""

on_sqlite = pytest.mark.parametrize(("database_url", "cache_url"), [("sqlite", "memory")], indirect=True)
on_postgresql = pytest.mark.parametrize(("database_url", "cache_url"), [("postgresql", "memcached")], indirect=True)
on_mysql = pytest.mark.parametrize(("database_url", "cache_url"), [("mysql", "memcached")], indirect=True)
_MARIADB = [("mariadb-10.11", "memcached"), ("mariadb-11.8", "memcached")]
on_mariadb = pytest.mark.parametrize(("database_url", "cache_url"), _MARIADB, indirect=True)
on_mysql_and_mariadb = pytest.mark.parametrize(
    ("database_url", "cache_url"), [("mysql", "memcached"), *_MARIADB], indirect=True
)


class HostBase(orm.DeclarativeBase):
    """The base of the host's models."""


class Note(HostBase):
    """A table that no cache knows."""

    __tablename__ = "note"

    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    text: orm.Mapped[str] = orm.mapped_column(sa.String(200))
    about: orm.Mapped[str | None] = orm.mapped_column(ExactString(100))


class Ticket(HostBase):
    """The database makes its key."""

    __tablename__ = "ticket"

    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    title: orm.Mapped[str] = orm.mapped_column(sa.String(100), unique=True)


class Folder(HostBase):
    """Deleted with the folder that holds it."""

    __tablename__ = "folder"

    id: orm.Mapped[int] = orm.mapped_column(primary_key=True, autoincrement=False)
    parent_id: orm.Mapped[int | None] = orm.mapped_column(sa.ForeignKey("folder.id", ondelete="CASCADE"))


NOTES: Any = Note.__table__
TICKETS: Any = Ticket.__table__
FOLDERS: Any = Folder.__table__


def isolated(engine: sa.Engine, isolation_level: str | None) -> sa.Engine:
    """The same engine with this isolation level; None leaves it as it is."""
    return engine.execution_options(isolation_level=isolation_level) if isolation_level else engine


def is_mariadb(engine: sa.Engine) -> bool:
    """True if an engine that has connected before, by any dialect for it, is on a MariaDB."""
    return bool(getattr(engine.dialect, "is_mariadb", False))


def begin_again(people: Witness) -> None:
    """Store ``PEOPLE``, and nobody else, as they were at the start."""
    with people.engine.begin() as connection:
        connection.execute(sa.delete(TABLE))
        connection.execute(sa.insert(TABLE), rows(PEOPLE, "first"))


def number_on_from(connection: sa.Connection, table: str, number: int) -> None:
    """Has the database give this number to the next row: keys that were given to it do not count on PostgreSQL."""
    if connection.dialect.name == "mysql":
        connection.exec_driver_sql(f"ALTER TABLE {table} AUTO_INCREMENT = {number}")
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), {number}, false)")


def rename(session: orm.Session | sa.Connection, id: str, name: str = "changed") -> Any:
    """Change a person by the shortest statement whose key can be seen."""
    return session.execute(sa.update(TABLE).where(TABLE.c.id == id).values(first_name=name))


def is_unsure(people: Witness, id: str) -> bool:
    """True if the cache leaves an entity to the database, and goes on doing so: a tombstone stands there."""
    people.service.cached.get(id)
    before = people.service.stats()
    people.service.cached.get(id)
    return (people.service.stats() - before).bypasses == 1
