"""Reads are of what is committed now, in every mode of a driver and with every listener; or they are not cached."""

from __future__ import annotations

import gc
import logging
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event, orm
from support.databases import make_tables
from support.entities import person, store
from support.urls import MEMORY

from person_repo import CachedRepository, PersonService, Service, SQLAlchemyRepository
from person_repo.database.engines import read_engine_of, turn_on
from person_repo.database.identity import Database
from person_repo.model import Base, Person

MODES_OF_PYTHON = sys.version_info >= (3, 12)
"""sqlite3 has ``autocommit``."""


@pytest.fixture
def listen() -> Iterator[Callable[..., None]]:
    """``event.listen``, until the end of the test."""
    added: list[tuple[Any, str, Any]] = []
    engines: Any = sa.Engine
    had_listeners = engines._has_events

    def listen(target: Any, name: str, listener: Any) -> None:
        event.listen(target, name, listener)
        added.append((target, name, listener))

    yield listen
    for each in added:
        event.remove(*each)
    engines._has_events = had_listeners  # SQLAlchemy leaves it.


def begin(connection: sa.Connection) -> None:
    """SQLAlchemy's recipe for SQLite, second part."""
    connection.exec_driver_sql("BEGIN")


def begin_before(connection: sa.Connection, *_: Any) -> None:
    """A listener to statements that opens a transaction, and leaves it open."""
    driver: Any = connection.connection.driver_connection
    cursor = driver.cursor()
    if not getattr(driver, "in_transaction", False):
        cursor.execute("BEGIN")
    cursor.close()


def rename(url: str | sa.URL, name: str) -> None:
    """A commit of another program, which has no cache."""
    other = sa.create_engine(url)
    try:
        with other.begin() as connection:
            connection.execute(sa.update(Person).values(first_name=name))
    finally:
        other.dispose()


def check_reads(engine: sa.Engine, *, read_engine: sa.Engine | None = None) -> None:
    """Every read is of what is committed, hits and loads, while the host's engine and another one write."""
    repository = SQLAlchemyRepository(Person, engine, read_engine=read_engine)
    with PersonService(database=repository, cached=CachedRepository(repository, MEMORY)) as people:
        for round in range(3):
            with engine.begin() as connection:
                connection.execute(sa.update(Person).values(first_name=f"host {round}"))
            for _ in range(2):
                assert people.get_one("ada").first_name == f"host {round}"
                assert people.get_many(["ada", "bob"])["ada"].first_name == f"host {round}"
            if not isinstance(engine.pool, sa.StaticPool):
                rename(engine.url, f"other {round}")
            with people.using(use_db=True):
                expected = "host" if isinstance(engine.pool, sa.StaticPool) else "other"
                assert people.get_one("ada").first_name == f"{expected} {round}"
                assert people.get_many(["ada"])["ada"].first_name == f"{expected} {round}"
        stats = people.stats()
        assert min(stats.hits, stats.fills) > 0, stats
        assert stats.uncacheable == 0, stats
    if read_engine is not None:
        read_engine_of(engine).dispose()  # the fence's


@pytest.fixture
def url(database_url: str) -> str:
    make_tables(database_url)
    engine = sa.create_engine(database_url)
    store(engine, person())
    engine.dispose()
    return database_url


# SQLite's modes


@pytest.fixture(params=["delete", "wal"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path / 'host.db'}"
    make_tables(url)
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        connection.exec_driver_sql(f"PRAGMA journal_mode = {request.param}")
    store(engine, person())
    engine.dispose()
    return url


@pytest.mark.skipif(not MODES_OF_PYTHON, reason="sqlite3 has no autocommit before Python 3.12")
@pytest.mark.parametrize("autocommit", [False, True])
def test_reads_are_fresh_in_the_modes_of_newer_pythons(file: str, autocommit: bool) -> None:
    engine = sa.create_engine(file, connect_args={"autocommit": autocommit, "timeout": 1})
    check_reads(engine)
    engine.dispose()


@pytest.mark.parametrize("how", ["None", "DEFERRED", "IMMEDIATE"])
def test_reads_are_fresh_at_every_isolation_level_of_sqlite3(file: str, how: str) -> None:
    level = None if how == "None" else how
    engine = sa.create_engine(file, connect_args={"isolation_level": level, "timeout": 1})
    check_reads(engine)
    engine.dispose()


def test_reads_are_fresh_by_sqlalchemys_recipe(file: str) -> None:
    engine = sa.create_engine(file, connect_args={"timeout": 1})
    event.listen(engine, "connect", lambda driver, _: setattr(driver, "isolation_level", None))
    event.listen(engine, "begin", begin)
    check_reads(engine)
    engine.dispose()


# Listeners to all engines


@pytest.mark.every_database
def test_a_listener_that_begins_all_transactions_does_not_begin_those_of_reads(
    url: str, listen: Callable[..., None]
) -> None:
    engine = sa.create_engine(url, connect_args={"timeout": 1} if url.startswith("sqlite") else {})
    if url.startswith("sqlite"):
        event.listen(engine, "connect", lambda driver, _: setattr(driver, "isolation_level", None))
    listen(sa.Engine, "begin", begin)
    check_reads(engine)
    with engine.begin() as connection:  # Waits for readers that hold the table.
        wait = {"mysql": "SET lock_wait_timeout = 3", "mariadb": "SET lock_wait_timeout = 3"}
        connection.exec_driver_sql(
            wait.get(engine.dialect.name, "SELECT 1" if engine.dialect.name == "sqlite" else "SET lock_timeout = '3s'")
        )
        connection.exec_driver_sql("ALTER TABLE person ADD COLUMN another INTEGER")
    engine.dispose()


def test_a_listener_that_begins_all_transactions_leaves_the_only_connection_alone(
    listen: Callable[..., None],
) -> None:
    engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool, connect_args={"check_same_thread": False})
    event.listen(engine, "connect", lambda driver, _: setattr(driver, "isolation_level", None))
    listen(sa.Engine, "begin", begin)
    Base.metadata.create_all(engine)
    store(engine, person())
    check_reads(engine)
    with engine.begin() as connection, PersonService.over(engine, MEMORY) as people:
        connection.execute(sa.update(Person).values(first_name="open"))
        assert people.get_one("ada").first_name == "open"  # One connection: it is the same transaction.
        connection.rollback()
        assert people.get_one("ada").first_name == "host 2"
    engine.dispose()


@pytest.mark.every_database
def test_a_transaction_that_a_listener_begins_within_a_read_ends_with_it(url: str) -> None:
    engine = sa.create_engine(url, connect_args={"timeout": 1} if url.startswith("sqlite") else {})
    event.listen(read_engine_of(engine), "before_cursor_execute", begin_before)
    check_reads(engine)
    engine.dispose()


# Read engines of the host's


@pytest.mark.every_database
@pytest.mark.parametrize("reset", ["rollback", None])
def test_a_read_engine_with_transactions_reads_what_is_committed_now(url: str, reset: Any) -> None:
    """With pools that roll nothing back its connections stay in the transaction of their first read."""
    arguments = {"timeout": 1} if url.startswith("sqlite") else {}
    engine = sa.create_engine(url, connect_args=arguments)
    level: Any = "SERIALIZABLE" if url.startswith("sqlite") else "REPEATABLE READ"
    read_engine = sa.create_engine(
        url, connect_args=arguments, isolation_level=level, pool_reset_on_return=reset, pool_size=1
    )
    check_reads(engine, read_engine=read_engine)
    read_engine.dispose()
    engine.dispose()


@pytest.mark.skipif(not MODES_OF_PYTHON, reason="sqlite3 has no autocommit before Python 3.12")
def test_a_read_engine_that_is_always_in_a_transaction_reads_what_is_committed_now(file: str) -> None:
    engine = sa.create_engine(file, connect_args={"timeout": 1})
    read_engine = sa.create_engine(file, connect_args={"autocommit": False, "timeout": 1})
    check_reads(engine, read_engine=read_engine)
    read_engine.dispose()
    engine.dispose()


# Unknown is not cached


def test_dirty_reads_that_a_listener_asks_for_are_not_cached(mysql_url: str, caplog: pytest.LogCaptureFixture) -> None:
    make_tables(mysql_url)
    engine = sa.create_engine(mysql_url)
    store(engine, person())
    event.listen(engine, "checkout", dirty)
    with PersonService.over(engine, MEMORY) as people, caplog.at_level(logging.WARNING), engine.connect() as writer:
        writer.execute(sa.update(Person).values(first_name="rolled back"))
        people.get("ada")
        people.get_many(["ada", "bob"])
        writer.rollback()
        assert people.get_one("ada").first_name == "Ada"
        assert people.stats().fills == 0
        assert people.stats().uncacheable == 4
    assert caplog.text.count("READ UNCOMMITTED") == 1
    engine.dispose()


def dirty(driver: Any, *_: Any) -> None:
    with driver.cursor() as cursor:
        cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ UNCOMMITTED")


def test_reads_of_a_driver_that_nobody_knows_are_not_cached(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path / 'host.db'}"
    make_tables(url)
    monkeypatch.setattr(sa.make_url(url).get_dialect(), "driver", "unheard_of")
    engine = sa.create_engine(url)
    store(engine, person())
    with PersonService.over(engine, MEMORY) as people, caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert people.get("ada") == person()
        assert (people.stats().fills, people.stats().uncacheable) == (0, 3)
    assert caplog.text.count("nobody asks the driver unheard_of") == 1
    engine.dispose()


# The host's engine, as it changes


def test_listeners_that_a_host_adds_late_prepare_the_connections_of_reads(file: str) -> None:
    engine = sa.create_engine(file)
    called: list[str] = []

    def first(*_: Any) -> None:
        called.append("first")

    def second(*_: Any) -> None:
        called.append("second")

    event.listen(engine, "connect", first)
    with PersonService.over(engine, MEMORY, use_db=True) as people:
        people.get("ada")
        assert called
        called.clear()
        event.listen(engine, "connect", second)
        people.get("ada")
        people.get("ada")
        assert called == ["first", "second"]
        called.clear()
        event.remove(engine, "connect", first)
        people.get("ada")
        assert called == ["second"]
    engine.dispose()


@pytest.mark.every_database
def test_the_isolation_level_of_a_late_listener_is_not_that_of_reads(url: str) -> None:
    """Ours is the last word on it."""
    engine = sa.create_engine(url, connect_args={"timeout": 1} if url.startswith("sqlite") else {})
    with PersonService.over(engine, MEMORY, use_db=True) as people:
        people.get("ada")
        levels = {"sqlite": "READ UNCOMMITTED", "postgresql": "SERIALIZABLE"}
        level: Any = levels.get(engine.dialect.name, "READ UNCOMMITTED")
        event.listen(engine, "connect", lambda driver, _: engine.dialect.set_isolation_level(driver, level))
        with engine.connect() as writer:
            if engine.dialect.name != "sqlite":
                writer.execute(sa.update(Person).values(first_name="rolled back"))
            assert people.get_one("ada").first_name == "Ada"
    check_reads(engine)
    engine.dispose()


def test_reads_go_where_the_pool_that_replaces_the_hosts_goes(tmp_path: Path) -> None:
    urls = [f"sqlite:///{tmp_path / name}" for name in ("old.db", "new.db")]
    for url, name in zip(urls, ("old", "new"), strict=True):
        make_tables(url)
        store(made := sa.create_engine(url), person(first_name=name))
        made.dispose()
    engine, replacement = map(sa.create_engine, urls)
    with PersonService.over(engine, MEMORY, use_db=True) as people:
        assert people.get_one("ada").first_name == "old"
        before, engine.pool = engine.pool, replacement.pool
        before.dispose()
        assert people.get_one("ada").first_name == "new"
    engine.dispose()


def test_a_database_in_memory_that_is_gone_leaves_nothing_in_the_cache() -> None:
    engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool, connect_args={"check_same_thread": False})
    with PersonService.over(engine, MEMORY) as people:
        for name in ("first", "second", "third"):
            Base.metadata.create_all(engine)
            assert people.get("ada") is None
            people.add(person(first_name=name))
            for _ in range(3):
                assert people.get_one("ada").first_name == name
            engine.dispose()
    engine.dispose()


def test_a_database_in_memory_without_an_identity_ends_likewise() -> None:
    engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool, connect_args={"check_same_thread": False})
    with PersonService.over(engine, MEMORY) as people:
        for name in ("first", "second"):
            Person.__table__.create(engine)  # type: ignore[attr-defined]
            store(engine, person(first_name=name))
            for _ in range(3):
                assert people.get_one("ada").first_name == name
            engine.dispose()
    engine.dispose()


@pytest.mark.every_database
@pytest.mark.parametrize("level", ["SERIALIZABLE", None])
def test_a_pool_of_one_connection_for_each_thread_leaves_no_snapshot_open(database_url: str, level: str | None) -> None:
    """Reads have connections of their own there, and are cached."""
    make_tables(database_url)
    options = {"isolation_level": level} if level else {}
    reader = sa.create_engine(database_url, poolclass=sa.pool.SingletonThreadPool, **options)
    writer = sa.create_engine(database_url)
    with PersonService.over(reader, MEMORY) as people, PersonService.over(writer, people.region) as others:
        others.add(person())
        for name in ("first", "second"):
            others.update("ada", first_name=name)
            assert [people.get_one("ada").first_name for _ in range(2)] == [name] * 2
        assert people.stats().hits == 2
    for engine in (reader, writer):
        engine.dispose()


def test_the_only_connection_that_a_host_replaces_is_that_of_reads() -> None:
    """A file with a StaticPool: what was read from it stays."""
    opened: list[Any] = []
    connection = sqlite3.connect

    def creator() -> sqlite3.Connection:
        opened.append(connection("file:shared?mode=memory&cache=shared", uri=True, check_same_thread=False))
        return opened[-1]

    keeper = creator()
    engine = sa.create_engine("sqlite://", creator=creator, poolclass=sa.StaticPool)
    Base.metadata.create_all(engine)
    store(engine, person())
    with PersonService.over(engine, MEMORY) as people:
        for _ in range(3):
            assert people.get("ada") == person()
            engine.dispose()
    keeper.close()


@pytest.mark.parametrize("how", ["dispose", "noclose", "recreate", "another"])
def test_a_database_in_memory_ends_however_its_connection_is_given_up(how: str) -> None:
    arguments = {"check_same_thread": False}
    engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool, connect_args=arguments)
    left: list[sa.Engine | sa.Pool] = []
    with PersonService.over(engine, MEMORY) as people:
        for name in ("first", "second", "third"):
            Base.metadata.create_all(engine)
            store(engine, person(first_name=name))
            for _ in range(3):
                assert people.get_one("ada").first_name == name
            with engine.begin() as connection:
                connection.execute(sa.update(Person).values(first_name="changed"))
            assert people.get_one("ada").first_name == "changed"
            left.append(engine.pool)
            if how in ("dispose", "noclose"):
                engine.dispose(close=how == "dispose")
            elif how == "recreate":
                engine.pool = engine.pool.recreate()
            else:
                other = sa.create_engine("sqlite://", poolclass=sa.StaticPool, connect_args=arguments)
                engine.pool = other.pool
    engine.dispose()
    for each in left:
        each.dispose()


def test_threads_that_begin_while_a_database_in_memory_ends_read_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool, connect_args={"check_same_thread": False})
    Base.metadata.create_all(engine)
    store(engine, person(first_name="first"))
    locate = Database.locate
    ends = [True]

    def slow(self: Database, *arguments: Any) -> Any:
        found = locate(self, *arguments)
        if ends:
            ends.clear()
            engine.dispose()
            Base.metadata.create_all(engine)
            store(engine, person(first_name="second"))
        return found

    monkeypatch.setattr(Database, "locate", slow)
    with PersonService.over(engine, MEMORY) as people:
        for _ in range(3):
            assert people.get_one("ada").first_name == "second"
    engine.dispose()


@pytest.mark.parametrize("options", [{}, {"schema_translate_map": {"tenant": None}}, {"anything": 1}], ids=str)
def test_all_reads_of_one_connection_take_turns(options: dict[str, Any]) -> None:
    """Whatever options the engines have by which services reach it."""
    engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool, connect_args={"check_same_thread": False})
    readers = [read_engine_of(engine), read_engine_of(engine.execution_options(**options))]
    readers.append(readers[1].execution_options(schema_translate_map={"a": "b"}))
    taken = threading.Event()

    def take(reader: sa.Engine) -> None:
        with turn_on(reader):
            taken.set()

    for held in readers:
        for reader in readers:
            taken.clear()
            with turn_on(held):
                thread = threading.Thread(target=take, args=(reader,))
                thread.start()
                assert not taken.wait(0.05)
            assert taken.wait(10)
            thread.join()
    engine.dispose()


def test_a_type_that_reads_another_class_does_not_wait_for_itself() -> None:
    engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool, connect_args={"check_same_thread": False})

    class Owner(sa.TypeDecorator[Any]):
        impl = sa.String(20)
        cache_ok = True

        def process_result_value(self, value: Any, _: sa.Dialect) -> Any:
            return people.get(value) and value

    class Things(orm.DeclarativeBase):
        pass

    class Thing(Things):
        __tablename__ = "thing_of_somebody"
        id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
        owner: orm.Mapped[str] = orm.mapped_column(Owner())

    Base.metadata.create_all(engine)
    Things.metadata.create_all(engine)
    store(engine, person(), Thing(id=1, owner="ada"))
    with (
        PersonService.over(engine, MEMORY) as people,
        Service.over(Thing, engine, MEMORY) as things,
        ThreadPoolExecutor(1) as pool,
    ):
        assert pool.submit(lambda: things.get_one(1).owner).result(20) == "ada"
    engine.dispose()


def test_reads_leave_a_server_when_the_hosts_pool_was_invalidated(tmp_path: Path) -> None:
    """As SQLAlchemy's recipe does with an error that says that the server follows another one now."""
    urls = [f"sqlite:///{tmp_path / name}" for name in ("old.db", "new.db")]
    for url, name in zip(urls, ("old", "new"), strict=True):
        make_tables(url)
        store(made := sa.create_engine(url), person(first_name=name))
        made.dispose()
    goes_to = [urls[0]]
    engine = sa.create_engine(urls[0], creator=lambda: sqlite3.connect(goes_to[0].removeprefix("sqlite:///")))

    @event.listens_for(engine, "handle_error")
    def follow(context: Any) -> None:
        if "read-only" in str(context.original_exception):
            context.is_disconnect = True

    with PersonService.over(engine, MEMORY, use_db=True) as people:
        assert people.get_one("ada").first_name == "old"
        goes_to[0] = urls[1]
        with engine.connect() as connection, pytest.raises(sa.exc.OperationalError):
            connection.exec_driver_sql("SELECT 'read-only' FROM \"read-only\"")
        assert people.get_one("ada").first_name == "new"
    engine.dispose()


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_a_static_pool_on_a_file_is_read_on_other_connections(tmp_path: Path, journal: str) -> None:
    """A statement that the host has not read to the end would pin what its connection sees."""
    url = f"sqlite:///{tmp_path / 'host.db'}"
    make_tables(url)
    arguments = {"check_same_thread": False, "timeout": 1}
    engine = sa.create_engine(url, poolclass=sa.StaticPool, connect_args=arguments)
    with engine.connect() as connection:
        connection.exec_driver_sql(f"PRAGMA journal_mode = {journal}")
    store(engine, person(), person("bob"))
    with PersonService.over(engine, MEMORY) as people:
        if journal == "wal":
            driver: Any = engine.raw_connection().driver_connection
            half_read = driver.execute("SELECT * FROM person")
            half_read.fetchone()
            rename(url, "changed")
            assert people.get_one("ada").first_name == "changed"
            half_read.close()
        assert people.get("bob") is not None
        assert people.stats().fills > 0
    engine.dispose()


@pytest.mark.parametrize("how", ["create", "connect", "reset", "engine_connect"])
def test_dirty_reads_are_known_wherever_they_come_from(mysql_url: str, how: str, listen: Callable[..., None]) -> None:
    make_tables(mysql_url)
    level: Any = {"isolation_level": "READ UNCOMMITTED"} if how == "create" else {}
    engine = sa.create_engine(mysql_url)
    store(engine, person())
    read_engine = sa.create_engine(mysql_url, **level) if how in ("create", "connect") else None
    if how == "connect":
        event.listen(read_engine, "connect", dirty)
    if how == "reset":
        event.listen(engine, "reset", dirty)
    if how == "engine_connect":
        listen(sa.Engine, "engine_connect", lambda connection: dirty(connection.connection.driver_connection))
    repository = SQLAlchemyRepository(Person, engine, read_engine=read_engine)
    with PersonService(database=repository, cached=CachedRepository(repository, MEMORY)) as people:
        people.get("bob")
        with engine.connect() as writer:
            writer.execute(sa.update(Person).values(first_name="rolled back"))
            people.get("ada")
            people.get_many(["ada", "bob"])
            writer.rollback()
        assert people.get_one("ada").first_name == "Ada"
    for each in (engine, read_engine, read_engine_of(engine)):
        if each is not None:
            each.dispose()


@pytest.mark.filterwarnings("ignore:unclosed database", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_pools_that_change_while_threads_read(file: str) -> None:
    """A connection that is in use when its pool is given up ends with the pool, as SQLAlchemy's do."""
    engine = sa.create_engine(file, connect_args={"timeout": 10})
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            assert people.get("ada") is not None

    with PersonService.over(engine, MEMORY, use_db=True) as people, ThreadPoolExecutor(3) as pool:
        readers = [pool.submit(read) for _ in range(3)]
        for _ in range(30):
            event.listen(engine, "checkin", note)
            event.remove(engine, "checkin", note)
            engine.dispose()
        stop.set()
        for reader in readers:
            reader.result()
    engine.dispose()
    gc.collect()


def note(*_: Any) -> None:
    """A listener that does nothing."""


def test_the_log_says_why_nothing_of_an_only_connection_is_cached(caplog: pytest.LogCaptureFixture) -> None:
    if not MODES_OF_PYTHON:
        pytest.skip("sqlite3 has no autocommit before Python 3.12")
    arguments = {"check_same_thread": False, "autocommit": False}
    engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool, connect_args=arguments)
    Base.metadata.create_all(engine)
    store(engine, person())
    with PersonService.over(engine, MEMORY) as people:
        for _ in range(3):
            assert people.get("ada") is not None
        assert people.stats().fills == 0
    assert caplog.text.count("with autocommit=False a transaction is always open") == 1
    engine.dispose()


def test_a_listener_that_reads_while_connections_are_given_up_does_not_wait_for_itself(file: str) -> None:
    engine = sa.create_engine(file, connect_args={"timeout": 1})
    found: list[Any] = []
    with PersonService.over(engine, MEMORY, use_db=True) as people, ThreadPoolExecutor(1) as pool:
        people.get("ada")

        @event.listens_for(engine, "close")
        def read(*_: Any) -> None:
            if len(found) < 3:
                found.append(people.get_one("ada").id)

        engine.dispose()
        assert pool.submit(people.get_one, "ada").result(20).id == "ada"
    assert set(found) == {"ada"}
    engine.dispose()
