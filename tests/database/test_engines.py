"""The engine for reads beside a host's: its settings, its one connection, its transactions."""

from __future__ import annotations

import datetime
import gc
import json
import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event, orm
from support.entities import person, store
from support.models import HostBase, Parcel, parcel
from support.urls import MEMORY

from person_repo.database import engines
from person_repo.database.engines import read_engine_of
from person_repo.database.loading import Loader
from person_repo.database.repository import SQLAlchemyRepository
from person_repo.mapped.mapping import EntityMapping
from person_repo.model import Base, Person
from person_repo.service import PersonService

PEOPLE = EntityMapping(Person)


@pytest.fixture
def reader(people_engine: sa.Engine) -> Iterator[sa.Engine]:
    reader = read_engine_of(people_engine)
    yield reader
    reader.dispose()


# The host's settings


class Marked(sqlite3.Connection):
    """A connection of a class of the host's own."""


def marked(path: str) -> Marked:
    return sqlite3.connect(path, factory=Marked, check_same_thread=False)


def driver_of(engine: sa.Engine) -> Any:
    with engine.connect() as connection:
        return connection.connection.driver_connection


def test_reads_use_the_hosts_creator(path: str) -> None:
    reader = read_engine_of(sa.create_engine(f"sqlite:///{path}", creator=lambda: marked(path)))

    assert isinstance(driver_of(reader), Marked)
    reader.dispose()


def test_reads_use_the_hosts_connect_arguments(path: str) -> None:
    reader = read_engine_of(sa.create_engine(f"sqlite:///{path}", connect_args={"factory": Marked}))

    assert isinstance(driver_of(reader), Marked)
    reader.dispose()


def test_reads_use_the_hosts_connect_arguments_on_mysql(mysql_url: str) -> None:
    host = sa.create_engine(mysql_url, connect_args={"init_command": "SET @host = 'ours'"})
    reader = read_engine_of(host)
    with reader.connect() as connection:
        assert connection.exec_driver_sql("SELECT @host").scalar() == "ours"
    reader.dispose()


def test_the_hosts_listeners_for_connections_are_called_for_those_of_reads(path: str) -> None:
    host = sa.create_engine(f"sqlite:///{path}")
    tokens: list[str] = []

    @event.listens_for(host, "do_connect")
    def authorize(_dialect: object, _record: object, _arguments: object, _options: object) -> None:
        tokens.append("asked")

    @event.listens_for(host, "connect")
    def prepare(connection: sqlite3.Connection, _record: object) -> None:
        connection.create_function("depot", 0, lambda: "Köln")

    reader = read_engine_of(host)
    with reader.connect() as connection:
        assert connection.scalar(sa.select(sa.func.depot())) == "Köln"
    assert tokens == ["asked"]
    reader.dispose()


def test_reads_go_to_the_schema_that_the_host_translates_to(path: str, tmp_path: Path) -> None:
    host = sa.create_engine(f"sqlite:///{path}", execution_options={"schema_translate_map": {None: "tenant"}})
    event.listen(host, "connect", lambda driver, _: driver.execute(f"ATTACH '{tmp_path / 'tenant.db'}' AS tenant"))
    Base.metadata.create_all(host)
    store(host, person())
    repository = SQLAlchemyRepository(Person, host)

    assert repository.get("ada") == person()
    assert repository.get_many(["ada"]) == {"ada": person()}
    assert repository.count() == 1
    repository.close()
    host.dispose()


def test_reads_go_to_the_schema_that_the_host_translates_to_on_mysql(mysql_url: str) -> None:
    tenant = sa.make_url(mysql_url).database
    plain = sa.create_engine(sa.make_url(mysql_url).set(database="mysql"))
    host = plain.execution_options(schema_translate_map={None: tenant})
    Base.metadata.create_all(host)
    store(host, person())
    repository = SQLAlchemyRepository(Person, host)

    assert repository.get("ada") == person()
    repository.close()
    host.dispose()


def test_json_reads_as_the_hosts_functions_say(database_url: str) -> None:
    def exactly(text: str) -> Any:
        return json.loads(text, parse_float=str)

    host = sa.create_engine(
        database_url, json_deserializer=exactly, json_serializer=lambda value: json.dumps(value, ensure_ascii=False)
    )
    HostBase.metadata.create_all(host)
    store(host, parcel(contents={"weight": 1.10, "of": "Bücher"}))
    repository = SQLAlchemyRepository(Parcel, host)
    with orm.Session(host) as session:
        ours = session.get(Parcel, ("Köln", 7))
        assert ours is not None
        assert ours.contents == {"weight": "1.1", "of": "Bücher"}

    assert repository.get(("Köln", 7)) == ours
    assert repository.find(contents={"weight": 1.10, "of": "Bücher"}) == [ours]
    repository.close()
    host.dispose()


class Tags(sa.TypeDecorator[frozenset[str]]):
    """A set, as JSON."""

    impl = sa.JSON
    cache_ok = True

    def process_bind_param(self, value: frozenset[str] | None, dialect: sa.Dialect) -> Any:
        return None if value is None else sorted(value)

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> frozenset[str] | None:
        return None if value is None else frozenset(value)


class Tagged(HostBase):
    __tablename__ = "tagged"

    id: orm.Mapped[int] = orm.mapped_column(primary_key=True, autoincrement=False)
    tags: orm.Mapped[frozenset[str] | None] = orm.mapped_column(Tags)


@pytest.mark.every_database
def test_rows_are_found_by_json_whatever_type_wraps_it(database_url: str) -> None:
    host = sa.create_engine(database_url)
    HostBase.metadata.create_all(host, [Tagged.__table__])
    repository = SQLAlchemyRepository(Tagged, host)
    repository.add_many(Tagged(id=id, tags=tags) for id, tags in enumerate([frozenset("ab"), frozenset("c"), None]))

    assert [each.id for each in repository.find(tags=frozenset("ba"))] == [0]
    assert [each.id for each in repository.find(tags=frozenset("c"))] == [1]
    assert [each.id for each in repository.find(tags=None)] == [2]
    assert repository.find(tags=frozenset("d")) == []
    repository.close()
    host.dispose()


def test_dates_that_the_hosts_driver_converts_are_not_converted_again(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As by register_adapter and register_converter, which nothing could take back.
    monkeypatch.setitem(sqlite3.adapters, (datetime.date, sqlite3.PrepareProtocol), datetime.date.isoformat)
    monkeypatch.setitem(sqlite3.converters, "DATE", lambda text: datetime.date.fromisoformat(text.decode()))
    arguments = {"detect_types": sqlite3.PARSE_DECLTYPES}
    host = sa.create_engine(f"sqlite:///{path}", native_datetime=True, connect_args=arguments)
    HostBase.metadata.create_all(host)
    store(host, parcel())
    repository = SQLAlchemyRepository(Parcel, host)

    assert repository.get(("Köln", 7)) == parcel()
    repository.close()
    host.dispose()


def test_parameters_that_the_host_hides_stay_hidden_in_errors(database_url: str) -> None:
    host = sa.create_engine(database_url, hide_parameters=True)
    repository = SQLAlchemyRepository(Person, host)
    with pytest.raises(sa.exc.DBAPIError) as caught:  # there is no such table
        repository.get("secret-id")

    assert "secret-id" not in str(caught.value)
    repository.close()
    host.dispose()


def test_a_host_whose_only_connection_is_in_use_can_read(database_url: str) -> None:
    host = sa.create_engine(database_url, pool_size=1, max_overflow=0, pool_timeout=0)
    Base.metadata.create_all(host)
    with PersonService.over(orm.sessionmaker(host), MEMORY) as people:
        people.add(person())
        with host.connect() as only:
            only.execute(sa.select(1))
            for use_db in (True, False):
                with people.using(use_db=use_db):
                    assert people.get("ada") == person()
                    assert people.get_many(["ada", "bob"]) == {"ada": person()}
                    assert people.list() == people.find() == [person()]
                    assert people.count() == 1
    host.dispose()


# SQLite in memory: one connection, the host's


@pytest.fixture
def shared() -> Iterator[sa.Engine]:
    engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool, connect_args={"check_same_thread": False})
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


def elsewhere(read: Callable[[], Any]) -> Any:
    """The result of a call in a thread of its own, which has ended when this returns."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(read()))
    thread.start()
    thread.join()
    del thread
    gc.collect()
    return found[0]


def here(read: Callable[[], Any]) -> Any:
    return read()


@pytest.mark.parametrize("run", [here, elsewhere])
def test_a_read_beside_the_hosts_transaction_leaves_it_open_and_fills_nothing(
    shared: sa.Engine, run: Callable[[Callable[[], Any]], Any]
) -> None:
    people = PersonService.over(orm.sessionmaker(shared), MEMORY)
    with orm.Session(shared) as session:
        session.add(person())
        session.flush()
        run(lambda: people.get("ada"))
        run(lambda: people.get_many(["ada", "bob"]))
        run(people.list)
        run(people.count)
        assert (people.stats().fills, people.stats().uncacheable) == (0, 3)
        session.commit()

    assert run(lambda: people.get("ada")) == person()
    assert (people.stats().fills, people.stats().hits) == (1, 0)
    assert run(lambda: people.get("ada")) == person()
    assert (people.stats().fills, people.stats().hits) == (1, 1)
    people.close()


def test_a_read_beside_a_transaction_that_is_rolled_back_is_not_cached(shared: sa.Engine) -> None:
    people = PersonService.over(orm.sessionmaker(shared), MEMORY)
    with orm.Session(shared) as session:
        session.add(person())
        session.flush()
        people.get("ada")
        people.get("ada")
        session.rollback()

    assert people.get("ada") is None
    people.close()


@pytest.mark.parametrize("ends", [sa.Connection.commit, sa.Connection.rollback])
def test_rows_read_while_a_transaction_begins_and_ends_are_not_taken_for_committed(
    shared: sa.Engine, ends: Callable[[sa.Connection], None]
) -> None:
    reader = read_engine_of(shared)
    other = shared.connect()

    @event.listens_for(reader, "after_cursor_execute")
    def interleave(*_: object) -> None:
        other.execute(sa.insert(PEOPLE.table), {"id": "bob", "first_name": "", "last_name": "", "version": 1})
        ends(other)

    assert not Loader(PEOPLE, reader).one(("ada",)).committed
    with shared.begin() as connection:
        connection.execute(sa.delete(PEOPLE.table))
    assert not Loader(PEOPLE, reader).many([("ada",)]).committed
    other.close()


def test_closing_a_service_or_losing_it_leaves_the_hosts_transaction_open(shared: sa.Engine) -> None:
    with orm.Session(shared) as session:
        session.add(person())
        session.flush()
        closed = PersonService.over(orm.sessionmaker(shared), MEMORY)
        closed.get("ada")
        closed.close()
        closed.get("ada")
        closed.close()
        lost = PersonService.over(orm.sessionmaker(shared), MEMORY)
        lost.get("ada")
        del closed, lost
        gc.collect()
        session.commit()

    with orm.Session(shared) as session:
        assert session.get(Person, "ada") == person()


def test_reads_on_the_one_connection_come_one_after_the_other(shared: sa.Engine) -> None:
    """Since Python 3.12 sqlite3 may give two threads one prepared statement, and one of them no row."""
    store(shared, person())
    readers = [read_engine_of(shared), read_engine_of(shared)]
    loaders = [Loader(PEOPLE, reader) for reader in readers]
    seen: list[str] = []
    second = threading.Thread(target=lambda: seen.append(f"second: {len(loaders[1].many([('ada',)]).rows)}"))

    def interrupt(*_: object) -> None:
        second.start()
        second.join(0.2)  # it waits for this read; without turns it would be done now
        seen.append("first")

    event.listen(readers[0], "after_cursor_execute", interrupt)
    assert loaders[0].one(("ada",)).rows == {("ada",): ("ada", "Ada", "Lovelace", 1)}
    second.join()

    assert seen == ["first", "second: 1"]


def test_threads_read_beside_a_writer_and_never_see_less_than_was_committed(shared: sa.Engine) -> None:
    people = PersonService.over(orm.sessionmaker(shared), MEMORY)
    people.add(person(first_name="0"))
    acknowledged = 0
    over = threading.Event()

    def read() -> int:
        reads = 0
        while not over.is_set():
            least = acknowledged
            found = people.get("ada")
            assert found is not None
            assert int(found.first_name) >= least
            reads += 1
        return reads

    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(read) for _ in range(4)]
        try:
            with orm.Session(shared, expire_on_commit=False) as session:
                ada = session.get_one(Person, "ada")
                for number in range(1, 50):
                    ada.first_name = str(number)
                    session.commit()
                    acknowledged = number
        finally:
            over.set()
        assert all(reader.result() for reader in readers)
    people.close()


def test_sqlite_in_memory_by_default_is_read_with_a_warning_and_never_cached(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its pool has a connection, and so a database, for each thread: no thread can use what another has read."""
    engine = sa.create_engine("sqlite://")
    Base.metadata.create_all(engine)
    with caplog.at_level(logging.WARNING, "person_repo"):
        people = PersonService.over(orm.sessionmaker(engine), MEMORY)
    assert "poolclass=StaticPool" in caplog.text

    people.add(person())
    for _ in range(2):
        assert people.get("ada") == person()
        assert people.get_many(["ada", "bob"]) == {"ada": person()}
    with orm.Session(engine) as session:
        session.add(person("bob"))
        session.flush()
        assert people.get("bob") == person("bob")
        session.rollback()
    assert people.get("bob") is None
    assert (people.stats().fills, people.stats().hits) == (0, 0)
    people.close()
    engine.dispose()


# Sessions on one connection of the host's, as test suites have them that roll everything back


@pytest.fixture
def outer(people_engine: sa.Engine) -> Iterator[sa.Connection]:
    with people_engine.connect() as connection, connection.begin() as transaction:
        if people_engine.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN")  # else the driver would commit the savepoint, being the outermost
        yield connection
        if transaction.is_active:
            transaction.rollback()


def joined_to(connection: sa.Connection) -> orm.sessionmaker[orm.Session]:
    return orm.sessionmaker(connection, join_transaction_mode="create_savepoint")


def test_sessions_on_one_connection_read_their_own_writes_and_nothing_is_cached(outer: sa.Connection) -> None:
    people = PersonService.over(joined_to(outer), MEMORY)
    people.add(person())
    with orm.Session(outer, join_transaction_mode="create_savepoint") as session, session.begin():
        session.add(person("bob"))

    for use_db in (True, False):
        with people.using(use_db=use_db):
            assert people.get("ada") == person()
            assert people.get_one("ada") == person()
            assert people.get_many(["bob", "ada", "eve"]) == {"bob": person("bob"), "ada": person()}
            assert people.exists("bob")
            assert not people.exists("eve")
            assert people.find(first_name="Ada") == people.list() == [person(), person("bob")]
            assert people.count() == 2
    assert (people.stats().fills, people.stats().hits) == (0, 0)
    people.close()


def test_a_service_on_one_connection_commits_nothing(outer: sa.Connection, people_engine: sa.Engine) -> None:
    people = PersonService.over(joined_to(outer), MEMORY)
    assert people.add_many([person(), person("bob")]) == 2
    assert people.update("ada", first_name="Augusta").first_name == "Augusta"
    assert people.upsert(person("eve")) == person("eve")
    assert people.delete("bob")
    assert [found.id for found in people.list()] == ["ada", "eve"]
    outer.rollback()

    with orm.Session(people_engine) as session:
        assert session.scalars(sa.select(Person)).all() == []
    people.close()


def test_entities_read_by_sessions_on_one_connection_are_detached_and_complete(outer: sa.Connection) -> None:
    people = PersonService.over(joined_to(outer), MEMORY)
    people.add(person())
    found = people.get_one("ada")

    assert sa.inspect(found).detached
    assert found.version == 1
    assert people.get_one("ada") is not found
    people.close()


def test_services_that_are_made_at_once_read_through_one_pool(
    people_engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second thread asks for the read engine while the first one makes it."""
    make = engines._reader_with_own_pool
    readers: list[sa.Engine] = []
    second = threading.Thread(target=lambda: readers.append(read_engine_of(people_engine)))

    def interrupted(engine: sa.Engine) -> sa.Engine:
        if second.ident is None:
            second.start()
            second.join(0.2)  # it waits for this thread; without a lock it would be done now
        return make(engine)

    monkeypatch.setattr(engines, "_reader_with_own_pool", interrupted)
    readers.append(read_engine_of(people_engine))
    second.join()

    assert readers[0] is readers[1]


def test_all_repositories_of_one_engine_read_through_one_pool(people_engine: sa.Engine) -> None:
    """A database takes so many connections, and a host may have many services."""
    assert read_engine_of(people_engine) is read_engine_of(people_engine)
    assert read_engine_of(people_engine) is not read_engine_of(sa.create_engine(people_engine.url))


def test_reads_give_up_their_connections_when_the_host_does(engine: sa.Engine) -> None:
    """After a failover the old server may still answer, and no longer follow."""
    opened: list[object] = []
    event.listen(engine, "connect", lambda connection, _: opened.append(connection))
    Base.metadata.create_all(engine)
    store(engine, person())
    tenant = engine.execution_options(anything=1)
    repositories = [SQLAlchemyRepository(Person, each) for each in (engine, tenant)]
    for _ in range(2):
        assert [repository.get("ada") for repository in repositories] == [person(), person()]
    before = len(opened)
    assert repositories[0].get_many(["ada"])
    assert len(opened) == before

    engine.dispose()
    for _ in range(2):
        assert [repository.get("ada") for repository in repositories] == [person(), person()]
        assert repositories[1].count() == 1
    assert len(opened) == before + 1
    for repository in repositories:
        repository.close()
