"""Exceptions that the host sends in the middle of a commit or a read, and what is interrupted by them."""

from __future__ import annotations

import time

import sqlalchemy as sa
from sqlalchemy import orm
from support.databases import make_tables

from person_repo.model import Person
from person_repo.service import connect

__all__ = ["IDS", "TimeLimit", "Timeout", "World", "came_of", "text", "two_phases", "unit_of_work"]

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
        """Compares what is read with what is committed. A COMMIT that was interrupted may be under way for a while: if
        one came meanwhile, all is compared again.
        """
        committed = self.committed()
        for service in (self.reader, self.people):
            for _ in range(2):
                found = {id: each.first_name for id in IDS if (each := service.get(id))}
                found_at_once = {id: each.first_name for id, each in service.get_many(IDS).items()}
                if self.committed() != committed:
                    return self.check(where)
                assert found == committed, where
                assert found_at_once == committed, where
        return None

    def end_prepared(self, *, commit: bool) -> None:
        """Ends the transactions that were prepared and lost, as another process does."""
        if self.reader.engine.dialect.name == "sqlite":
            return
        until = time.monotonic() + 30
        with self.reader.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            while lost := connection.recover_twophase():
                try:
                    (connection.commit_prepared if commit else connection.rollback_prepared)(lost[0], recover=True)
                except sa.exc.OperationalError:
                    # MariaDB lets nobody end it before it has noticed that the connection is gone.
                    if time.monotonic() > until:
                        raise
                    time.sleep(0.01)

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


def two_phases(world: World, number: int) -> None:
    with orm.Session(world.people.engine, twophase=True) as session:
        for person in session.scalars(sa.select(Person)):
            person.first_name = str(number)
        session.commit()
