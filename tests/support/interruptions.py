"""Exceptions that the host sends in the middle of a commit or a read, and what is interrupted by them."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import orm
from support.databases import make_tables

from person_repo.model import Person
from person_repo.service import connect

__all__ = ["IDS", "TimeLimit", "Timeout", "World", "came_of", "text", "unit_of_work"]

IDS = ["ada", "bob", "eve"]
"""Two people who are there, and one who is not."""


class TimeLimit(Exception):
    """As a task queue's soft limit: an ordinary exception, raised by a signal."""


class Timeout(BaseException):
    """As gevent's."""


def came_of(exc: BaseException | None, interruption: type[BaseException]) -> bool:
    """True for an interruption, and for an error of SQLAlchemy's finally clauses after one."""
    while exc is not None and not isinstance(exc, interruption):
        exc = exc.__context__
    return exc is not None


class World:
    """A service that is interrupted, and another process's that reads."""

    def __init__(self, database_url: str, cache_url: str) -> None:
        make_tables(database_url)
        self.people = connect(database_url, cache_url)
        self.reader = connect(database_url, cache_url)
        self.people.add_many(Person(id=id, first_name="0", last_name=id) for id in IDS[:2])
        self.sessions = orm.sessionmaker(self.people.engine)

    def warm(self) -> None:
        for service in (self.people, self.reader):
            for id in IDS:
                service.get(id)

    def committed(self) -> dict[str, str]:
        with self.reader.engine.connect() as connection:
            return {id: name for id, name in connection.execute(sa.select(Person.id, Person.first_name))}  # noqa: C416

    def check(self, where: str) -> None:
        committed = self.committed()
        for service in (self.reader, self.people):
            for _ in range(2):
                found = {id: each.first_name for id in IDS if (each := service.get(id))}
                assert found == committed, where
                assert {id: each.first_name for id, each in service.get_many(IDS).items()} == committed, where

    def close(self) -> None:
        self.people.close()
        self.reader.close()


def unit_of_work(world: World, number: int) -> None:
    with world.sessions() as session, session.begin():
        for person in session.scalars(sa.select(Person)):
            person.first_name = str(number)


def text(world: World, number: int) -> None:
    with world.people.engine.begin() as connection:
        connection.execute(sa.text("UPDATE person SET first_name = :name WHERE id = 'bob'"), {"name": str(number)})
