"""Sessions and engines of a host, of every kind that a repository is made from."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event, orm
from sqlalchemy.ext.asyncio import async_sessionmaker
from support.entities import Loose, OwnBase, person
from support.urls import MEMORY

from person_repo.database.repository import SQLAlchemyRepository
from person_repo.exceptions import (
    ConfigurationError,
    PersonNotFoundError,
)
from person_repo.model import Base, Person
from person_repo.reading.cached import CachedRepository
from person_repo.service import PersonService

Statements = Callable[..., AbstractContextManager[list[str]]]


def test_sessions_may_be_an_engine(people_engine: sa.Engine) -> None:
    people = SQLAlchemyRepository(Person, people_engine)
    people.add(person())

    assert people.engine is people_engine
    assert people.update("ada", first_name="Augusta") == people.get("ada")
    people.close()


def test_scoped_sessions_are_made_anew_and_the_threads_own_is_left_alone(people_engine: sa.Engine) -> None:
    registry = orm.scoped_session(orm.sessionmaker(people_engine))
    people = SQLAlchemyRepository(Person, registry)
    people.add(person())
    people.update("ada", first_name="Augusta")
    assert people.get_one("ada").first_name == "Augusta"
    assert not registry.registry.has()

    registry.add(person("bob"))
    people.add(person("eve"))
    registry.rollback()
    assert [found.id for found in people.list()] == ["ada", "eve"]
    registry.remove()
    people.close()


def test_results_outlive_the_commit_whatever_the_sessionmaker_says(people_engine: sa.Engine) -> None:
    for expire in (True, False):
        people = SQLAlchemyRepository(Person, orm.sessionmaker(people_engine, expire_on_commit=expire))
        ada = person()
        people.add(ada)
        assert (ada.id, ada.first_name, ada.version) == ("ada", "Ada", 1)
        assert people.update("ada", first_name="Augusta").first_name == "Augusta"
        assert people.upsert(person(last_name="King")).last_name == "King"
        assert people.delete("ada")
        people.close()


def test_an_engine_bound_to_the_class_alone_is_found(people_engine: sa.Engine) -> None:
    people = SQLAlchemyRepository(Person, orm.sessionmaker(binds={Person: people_engine}))
    people.add(person())

    assert people.engine is people_engine
    people.close()


class Contextual(orm.Session):
    """Knows its engine only in a context, as Flask-SQLAlchemy's does."""

    context: sa.Engine | None = None

    def get_bind(self, *arguments: Any, **options: Any) -> sa.Engine:
        if self.context is None:
            raise RuntimeError("working outside of a context")
        return self.context


@pytest.fixture
def context(people_engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    return lambda: monkeypatch.setattr(Contextual, "context", people_engine)


def test_an_engine_that_sessions_know_only_later_can_be_named(
    people_engine: sa.Engine, context: Callable[[], None]
) -> None:
    sessions = orm.scoped_session(orm.sessionmaker(class_=Contextual))
    with pytest.raises(ConfigurationError, match="engine="):
        SQLAlchemyRepository(Person, sessions)

    people = SQLAlchemyRepository(Person, sessions, engine=people_engine)
    context()
    people.add(person())
    assert people.get("ada") == person()
    people.close()


def test_sessions_without_an_engine_are_refused_unless_it_is_named(people_engine: sa.Engine) -> None:
    sessions = orm.sessionmaker()
    with pytest.raises(ConfigurationError, match="engine="):
        SQLAlchemyRepository(Person, sessions)

    people = SQLAlchemyRepository(Person, sessions, engine=people_engine)
    sessions.configure(bind=people_engine)
    people.add(person())
    assert people.get("ada") == person()
    people.close()


@pytest.mark.parametrize(
    "unusable",
    [
        None,
        "sqlite://",
        orm.Session(),
        async_sessionmaker(),
        lambda: orm.Session(),
        orm.Session,
        orm.scoped_session(lambda: orm.Session()),  # type: ignore[arg-type]
    ],
)
def test_anything_but_a_source_of_sessions_is_refused(unusable: Any) -> None:
    with pytest.raises(ConfigurationError, match="sessionmaker"):
        SQLAlchemyRepository(Person, unusable)


def test_classes_that_cannot_be_kept_are_refused(people_engine: sa.Engine) -> None:
    for entity in (object, int, Base):
        with pytest.raises(ConfigurationError, match="not a mapped class"):
            SQLAlchemyRepository(entity, people_engine)


def test_reads_go_to_the_engine_that_the_host_names_for_them(people_engine: sa.Engine, statements: Statements) -> None:
    reads = sa.create_engine(people_engine.url, isolation_level="AUTOCOMMIT")
    disposed: list[object] = []
    event.listen(reads, "engine_disposed", disposed.append)
    people = SQLAlchemyRepository(Person, people_engine, read_engine=reads)
    people.add(person())
    with statements(reads) as seen:
        assert people.get("ada") == person()
        assert people.list() == [person()]
    people.close()

    assert len(seen) == 2
    assert people.read_engine is reads
    assert disposed == []  # it is the host's
    reads.dispose()


def test_an_engine_of_one_connection_named_for_reads_is_read_beside(people_engine: sa.Engine) -> None:
    """As in a test suite that puts SQLite in memory in the place of both engines of its application."""
    shared = sa.create_engine("sqlite://", poolclass=sa.StaticPool, connect_args={"check_same_thread": False})
    Base.metadata.create_all(shared)
    people = CachedRepository(SQLAlchemyRepository(Person, shared, read_engine=shared), MEMORY)
    with orm.Session(shared) as session:
        session.add(person())
        session.flush()
        assert people.get("ada") == person()
        assert people.stats().fills == 0
        session.commit()

    assert people.get("ada") == person()
    people.close()
    shared.dispose()


class Routing(orm.Session):
    """Writes to one engine and reads from another, as SQLAlchemy's documentation shows it for replicas."""

    leader: sa.Engine
    replica: sa.Engine

    def get_bind(self, mapper: Any = None, *, clause: Any = None, **options: Any) -> sa.Engine:
        writes = self._flushing or isinstance(clause, (sa.Update, sa.Delete, sa.Insert))
        return self.leader if writes else self.replica


def test_of_sessions_that_read_from_replicas_the_engine_they_write_to_is_read(people_engine: sa.Engine) -> None:
    """A replica may be behind, so its rows must not be cached."""
    replica = sa.create_engine("sqlite://", poolclass=sa.StaticPool)
    Base.metadata.create_all(replica)
    sessions = orm.sessionmaker(class_=type("Routed", (Routing,), {"leader": people_engine, "replica": replica}))
    with PersonService.over(sessions, MEMORY) as people:
        assert people.engine is people_engine
        assert people.get("ada") is None
        with sessions.begin() as session:
            session.add(person())
        assert people.get("ada") == person()
    replica.dispose()


@pytest.mark.every_database
def test_writes_of_sessions_that_read_from_replicas_stay_on_one_engine(database_url: str) -> None:
    """They read what they write, and a replica knows nothing of it."""
    leader, replica = sa.create_engine(database_url), sa.create_engine("sqlite://", poolclass=sa.StaticPool)
    Base.metadata.create_all(leader)
    Base.metadata.create_all(replica)
    with orm.Session(replica) as session, session.begin():
        session.add(person("grace", "of the replica"))
    sessions = orm.sessionmaker(class_=type("Routed", (Routing,), {"leader": leader, "replica": replica}))
    with PersonService.over(sessions, MEMORY) as people:
        people.add(person())
        assert people.update("ada", first_name="Augusta").first_name == "Augusta"
        assert people.upsert(person("ada", "Again")).first_name == "Again"
        assert people.add_many([person("bob"), person("carol")]) == 2
        assert people.delete("bob")
        assert not people.delete("grace")
        with pytest.raises(PersonNotFoundError):
            people.update("grace", first_name="nobody")
        for use_db in (False, True):
            with people.using(use_db=use_db):
                assert {id: found.first_name for id, found in people.get_many(["ada", "bob", "carol"]).items()} == {
                    "ada": "Again", "carol": "Ada",
                }  # fmt: skip
        with replica.connect() as connection:
            assert connection.scalar(sa.select(sa.func.count()).select_from(Person)) == 1
    leader.dispose()
    replica.dispose()


def test_reading_opens_no_transaction_on_the_hosts_engine(people_engine: sa.Engine, statements: Statements) -> None:
    people = SQLAlchemyRepository(Person, people_engine)
    with statements(people_engine) as seen:
        people.get("ada")
        people.get_many(["ada"])
        people.list()
        people.find(first_name="Ada")
        people.count()

    assert seen == []
    people.close()


def test_a_closed_repository_can_be_used_again(people_engine: sa.Engine) -> None:
    people = SQLAlchemyRepository(Person, people_engine)
    people.add(person())
    for _ in range(2):
        assert people.get("ada") == person()
        people.close()
        people.close()


def test_sessions_put_on_one_connection_later_are_followed_there(people_engine: sa.Engine) -> None:
    """Test suites often do that to the sessionmaker that their application was built with."""
    sessions = orm.sessionmaker(people_engine)
    with PersonService.over(sessions, MEMORY) as people:
        assert people.get("ada") is None
        with people_engine.connect() as connection, connection.begin() as transaction:
            if people_engine.dialect.name == "sqlite":
                connection.exec_driver_sql("BEGIN")
            sessions.configure(bind=connection, join_transaction_mode="create_savepoint")
            people.add(person())
            assert people.get("ada") == person()
            assert people.count() == 1
            sessions.configure(bind=people_engine)
            transaction.rollback()
        assert people.get("ada") is None
        assert people.stats().hits == 1


def test_columns_that_load_late_are_there_on_one_connection_too(engine: sa.Engine) -> None:
    OwnBase.metadata.create_all(engine)
    with engine.connect() as connection, connection.begin():
        loose = SQLAlchemyRepository(Loose, orm.sessionmaker(connection))
        loose.add(Loose(code="a", late="after all"))
        for found in (loose.get_one("a"), loose.get_many(["a"])["a"], *loose.list(), *loose.find(name=None)):
            assert (found.late, found.made) == ("after all", 42)
        loose.close()
