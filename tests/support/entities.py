"""Mapped classes of a host whose keys, defaults or columns are out of the ordinary, and people."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.dialects import mysql

from person_repo.model import Person

__all__ = [
    "FOLDING",
    "Badge",
    "Loose",
    "OwnBase",
    "Step",
    "Ticket",
    "make_folding",
    "once",
    "person",
    "store",
    "stored",
]


class OwnBase(orm.DeclarativeBase):
    """The declarative base of these classes."""


class Loose(OwnBase):
    """A host's table whose key compares without regard to case; some columns are loaded late, some made up."""

    __tablename__ = "loose"
    __mapper_args__ = {"eager_defaults": False}  # as where the database cannot return what it made up

    code: orm.Mapped[str] = orm.mapped_column(
        sa.String(40, collation="NOCASE")
        .with_variant(mysql.VARCHAR(40, charset="utf8mb4", collation="utf8mb4_general_ci"), "mysql", "mariadb")
        .with_variant(sa.String(40, collation="person_repo_folding"), "postgresql"),
        primary_key=True,
    )
    name: orm.Mapped[str | None] = orm.mapped_column(sa.String(40), default=None)
    made: orm.Mapped[int] = orm.mapped_column(server_default="42")
    late: orm.Mapped[str | None] = orm.mapped_column(sa.String(40), deferred=True, default=None)


FOLDING = "person_repo_folding"
"""The collation of these columns on PostgreSQL, which has none that folds case by itself."""


def make_folding(table: Any) -> None:
    """Has the collation made with the table."""
    made = sa.DDL(
        f"CREATE COLLATION IF NOT EXISTS {FOLDING} (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
    )
    sa.event.listen(table, "before_create", made.execute_if(dialect="postgresql"))


make_folding(Loose.__table__)


class Ticket(OwnBase):
    """A host's table whose keys the database makes, with a collection that is loaded with it."""

    __tablename__ = "ticket"

    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    title: orm.Mapped[str] = orm.mapped_column(sa.String(40))
    steps: orm.Mapped[list[Step]] = orm.relationship(lazy="joined", cascade="all, delete-orphan")


class Badge(OwnBase):
    """A host's table with a unique column beside its key."""

    __tablename__ = "badge"

    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    code: orm.Mapped[str] = orm.mapped_column(sa.String(40), unique=True)


class Step(OwnBase):
    __tablename__ = "step"

    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    ticket: orm.Mapped[int] = orm.mapped_column(sa.ForeignKey("ticket.id"))


def person(id: str = "ada", first_name: str = "Ada", last_name: str = "Lovelace") -> Person:
    """A new person; Ada unless another one is given."""
    return Person(id=id, first_name=first_name, last_name=last_name)


def store(engine: sa.Engine, *entities: object) -> None:
    """Adds objects in a session of their own."""
    with orm.Session(engine) as session, session.begin():
        session.add_all(entities)


def stored(engine: sa.Engine) -> list[tuple[Any, ...]]:
    """The rows of people in the database, sorted by code point."""
    with engine.connect() as connection:
        rows = connection.execute(sa.select(Person.id, Person.first_name, Person.last_name, Person.version))
        return sorted(tuple(row) for row in rows)


once = pytest.mark.parametrize("use_db", [False], ids=["cached"])
"""For tests of writes and sessions, which do not depend on the toggle; reads that follow go through the cache."""
