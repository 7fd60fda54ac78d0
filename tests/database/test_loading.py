"""Rows by key: fresh, committed, of equal keys only, sent directly or by SQLAlchemy."""

from __future__ import annotations

import logging
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import pymysql
import pytest
import sqlalchemy as sa
from sqlalchemy import event, orm
from sqlalchemy.dialects import mysql
from support.entities import FOLDING, make_folding, person, store
from support.interruptions import TimeLimit
from support.models import HostBase, Parcel, parcel

from person_repo.database.engines import read_engine_of
from person_repo.database.loading import Loader, Queries
from person_repo.mapped.mapping import EntityMapping
from person_repo.model import Base, Person

pytestmark = pytest.mark.every_database

PEOPLE = EntityMapping(Person)
PARCELS = EntityMapping(Parcel)
ADA = ("ada", "Ada", "Lovelace", 1)

Statements = Callable[..., AbstractContextManager[list[str]]]


class OwnBase(orm.DeclarativeBase):
    """Metadata of this module's own."""


class Loose(OwnBase):
    """A host's table whose key compares without regard to case, as MySQL's default does."""

    __tablename__ = "loose"

    code: orm.Mapped[str] = orm.mapped_column(
        sa.String(40, collation="NOCASE")
        .with_variant(mysql.VARCHAR(40, charset="utf8mb4", collation="utf8mb4_general_ci"), "mysql", "mariadb")
        .with_variant(sa.String(40, collation=FOLDING), "postgresql"),
        primary_key=True,
    )


make_folding(Loose.__table__)


class Checked(sa.types.TypeDecorator[str]):
    """Takes all words but one."""

    impl = sa.String(40)
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:
        if value == "no":
            raise ValueError("no is no code")
        return value


class Fussy(OwnBase):
    """A host's table whose key has a type that refuses a value."""

    __tablename__ = "fussy"

    code: orm.Mapped[str] = orm.mapped_column(Checked, primary_key=True)


@pytest.fixture
def reader(people_engine: sa.Engine) -> Iterator[sa.Engine]:
    reader = read_engine_of(people_engine)
    yield reader
    reader.dispose()


# Rows


def observed(engine: sa.Engine) -> AbstractContextManager[object]:
    """Listens to statements, so that reads go through SQLAlchemy's execution and not straight to the driver."""
    return listening(engine, "before_cursor_execute", lambda *_: None)


@contextmanager
def listening(target: Any, name: str, listener: Callable[..., Any], **how: Any) -> Iterator[None]:
    event.listen(target, name, listener, **how)
    try:
        yield
    finally:
        event.remove(target, name, listener)


def test_a_read_sees_a_commit_made_after_its_callers_snapshot_began(
    people_engine: sa.Engine, reader: sa.Engine
) -> None:
    """On MySQL, on SQLite with a write-ahead log, and on PostgreSQL if asked to, the transaction sees the old row."""
    store(people_engine, person())
    sqlite = people_engine.dialect.name == "sqlite"
    if sqlite:
        with people_engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
    name = sa.select(Person.first_name)
    with people_engine.connect() as caller, people_engine.connect() as writer:
        if sqlite:
            caller.exec_driver_sql("BEGIN")
        if people_engine.dialect.name == "postgresql":
            caller.execution_options(isolation_level="REPEATABLE READ")
        assert caller.scalar(name) == "Ada"
        writer.execute(sa.update(Person).values(first_name="Augusta"))
        writer.commit()

        assert Loader(PEOPLE, reader).one(("ada",)).rows[("ada",)][1] == "Augusta"
        assert caller.scalar(name) == "Ada"


@pytest.mark.parametrize("level", ["READ UNCOMMITTED", "SERIALIZABLE"])
def test_uncommitted_rows_are_not_seen_at_any_isolation_level_of_the_host(database_url: str, level: str) -> None:
    """A dirty read in the cache would outlive the rollback. No read waits for a lock either."""
    host = sa.create_engine(database_url, isolation_level=level)
    Base.metadata.create_all(host)
    store(host, person())
    reader = read_engine_of(host)
    with orm.Session(host) as session:
        session.get_one(Person, "ada").first_name = "Augusta"
        session.flush()

        assert Loader(PEOPLE, reader).one(("ada",)) == ({("ada",): ADA}, True)
    reader.dispose()
    host.dispose()


def test_a_row_is_found_in_one_query(people_engine: sa.Engine, reader: sa.Engine, statements: Statements) -> None:
    store(people_engine, person())
    loader = Loader(PEOPLE, reader)
    with statements(people_engine, reader) as seen:
        assert loader.one(("ada",)) == ({("ada",): ADA}, True)
        assert loader.one(("nobody",)) == ({}, True)

    assert len(seen) == 2


def test_on_the_wire_a_read_is_one_statement_without_begin_or_rollback(mysql_url: str) -> None:
    """The server counts statements; SQLAlchemy's events would not show a ROLLBACK."""
    host = sa.create_engine(mysql_url, pool_size=1, max_overflow=0)
    Base.metadata.create_all(host)
    reader = read_engine_of(host)
    loader = Loader(PEOPLE, reader)

    def questions() -> int:
        with reader.connect() as connection:
            return int(connection.exec_driver_sql("SHOW SESSION STATUS LIKE 'Questions'").all()[0][1])

    loader.one(("ada",))
    before = questions()
    loader.one(("ada",))

    assert questions() - before == 2  # the read, and the question how many there were
    reader.dispose()
    host.dispose()


def test_a_row_whose_key_is_not_equal_is_not_taken(engine: sa.Engine, statements: Statements) -> None:
    OwnBase.metadata.create_all(engine)
    store(engine, Loose(code="abc"))
    loader = Loader(EntityMapping(Loose), engine)
    with statements(engine) as seen:
        assert loader.one(("ABC",)).rows == {}
        assert loader.many([("ABC",), ("Abc",)]).rows == {}
        assert loader.many([("ABC",), ("abc",)]).rows == {("abc",): ("abc",)}
        assert loader.one(("abc",)).rows == {("abc",): ("abc",)}

    assert len(seen) == 4
    with engine.connect() as connection:
        assert connection.scalar(sa.select(Loose.code).where(Loose.code == "ABC")) == "abc"


def test_rows_are_the_same_with_and_without_a_listener_to_statements(engine: sa.Engine) -> None:
    HostBase.metadata.create_all(engine)
    keys = [("Köln", number) for number in range(3)]
    store(engine, parcel("Köln", 0), parcel("Köln", 1, tags=(), note="n", contents=None))
    reader = read_engine_of(engine)
    loader = Loader(PARCELS, reader)
    direct = [loader.one(keys[0]), loader.one(keys[2]), loader.many(keys), loader.many([])]
    with observed(reader):
        through_sqlalchemy = [loader.one(keys[0]), loader.one(keys[2]), loader.many(keys), loader.many([])]

    assert direct == through_sqlalchemy
    assert [list(loaded.rows) for loaded in direct] == [keys[:1], [], keys[:2], []]
    types = [
        [[type(value) for value in row] for loaded in found for row in loaded.rows.values()]
        for found in (direct, through_sqlalchemy)
    ]
    assert types[0] == types[1]
    reader.dispose()


def test_listeners_to_statements_and_logs_of_them_miss_none(
    people_engine: sa.Engine,
    reader: sa.Engine,
    statements: Statements,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sa.Engine, "_has_events", False)  # to have it restored: nothing takes it back
    loader = Loader(PEOPLE, reader)
    loader.one(("ada",))
    with statements(reader) as seen:
        loader.one(("ada",))
        loader.many([("ada",), ("bob",)])
    assert len(seen) == 2

    everywhere: list[str] = []
    with listening(sa.Engine, "before_cursor_execute", lambda *args: everywhere.append(args[2])):
        loader.one(("ada",))
    with listening(reader.dialect, "do_execute", lambda *args: everywhere.append(args[1])):
        loader.one(("ada",))
    assert len(everywhere) == 2

    with caplog.at_level(logging.INFO, "sqlalchemy.engine"):
        loader.one(("ada",))
    assert any("FROM person" in message for message in caplog.messages)


def test_an_error_of_a_statement_is_sqlalchemys_and_the_connection_stays_good(
    people_engine: sa.Engine, reader: sa.Engine
) -> None:
    loader = Loader(PEOPLE, reader)
    loader.one(("ada",))
    Base.metadata.drop_all(people_engine)
    for read in (lambda: loader.one(("ada",)), lambda: loader.many([("ada",), ("bob",)])):
        with pytest.raises((sa.exc.OperationalError, sa.exc.ProgrammingError), match="person") as caught:
            read()
        assert "FROM person" in str(caught.value.statement)
        assert caught.value.orig is not None
        assert not caught.value.connection_invalidated
    Base.metadata.create_all(people_engine)
    connections = reader.pool.status()
    assert loader.one(("ada",)) == ({}, True)
    assert reader.pool.status() == connections


def test_a_listener_to_errors_hears_those_of_reads(people_engine: sa.Engine, reader: sa.Engine) -> None:
    heard: list[Any] = []
    loader = Loader(PEOPLE, reader)
    loader.one(("ada",))
    Base.metadata.drop_all(people_engine)
    with (
        listening(reader, "handle_error", heard.append),
        pytest.raises((sa.exc.OperationalError, sa.exc.ProgrammingError)),
    ):
        loader.one(("ada",))

    assert len(heard) == 1


def test_a_database_that_cannot_be_reached_is_sqlalchemys_error(path: str) -> None:
    host = sa.create_engine(f"sqlite:///{path}")
    Base.metadata.create_all(host)
    reader = read_engine_of(host)
    loader = Loader(PEOPLE, reader)
    loader.one(("ada",))
    reader.dispose()

    def refused(*_: object) -> None:
        raise sqlite3.OperationalError("no more connections")

    with listening(host, "do_connect", refused), pytest.raises(sa.exc.OperationalError, match="no more connections"):
        loader.one(("ada",))
    assert loader.one(("ada",)) == ({}, True)
    reader.dispose()
    host.dispose()


def test_a_connection_that_the_server_closed_costs_one_error_and_is_replaced(mysql_url: str) -> None:
    host = sa.create_engine(mysql_url)
    Base.metadata.create_all(host)
    store(host, person())
    reader = read_engine_of(host)
    loader = Loader(PEOPLE, reader)
    assert loader.one(("ada",)).rows
    kill_connections_of(reader, host)

    with pytest.raises(sa.exc.OperationalError) as caught:
        loader.one(("ada",))
    assert caught.value.connection_invalidated
    assert loader.one(("ada",)).rows
    reader.dispose()
    host.dispose()


def test_with_the_hosts_pre_ping_a_connection_that_the_server_closed_costs_no_error(mysql_url: str) -> None:
    host = sa.create_engine(mysql_url, pool_pre_ping=True)
    Base.metadata.create_all(host)
    store(host, person())
    reader = read_engine_of(host)
    loader = Loader(PEOPLE, reader)
    assert loader.one(("ada",)).rows
    kill_connections_of(reader, host)

    assert loader.one(("ada",)).rows
    reader.dispose()
    host.dispose()


def kill_connections_of(reader: sa.Engine, host: sa.Engine) -> None:
    with reader.connect() as connection:
        number = connection.exec_driver_sql("SELECT CONNECTION_ID()").scalar_one()
    with host.connect() as connection:
        connection.exec_driver_sql(f"KILL {number}")


@pytest.mark.parametrize("kind", [KeyboardInterrupt, TimeLimit])
@pytest.mark.parametrize("sent", [nullcontext, observed], ids=["directly", "by SQLAlchemy"])
def test_a_read_that_is_interrupted_leaves_no_connection_in_the_middle_of_a_reply(
    people_engine: sa.Engine,
    reader: sa.Engine,
    kind: type[BaseException],
    sent: Callable[[sa.Engine], AbstractContextManager[object]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store(people_engine, person(), person("bob"))
    loader = Loader(PEOPLE, reader)
    assert loader.one(("ada",)).rows
    opened: list[object] = []
    execute = reader.dialect.do_execute

    def interrupted(*args: Any, **kwargs: Any) -> None:
        execute(*args, **kwargs)
        raise kind

    monkeypatch.setattr(reader.dialect, "do_execute", interrupted)
    with sent(reader), pytest.raises(kind):
        loader.one(("ada",))
    monkeypatch.undo()

    with listening(reader, "connect", lambda connection, _: opened.append(connection)):
        assert list(loader.one(("bob",)).rows) == [("bob",)]
    assert len(opened) == 1


@pytest.mark.parametrize("database_url", ["mysql", "mariadb-11.8"], indirect=True)
@pytest.mark.parametrize("sent", [nullcontext, observed], ids=["directly", "by SQLAlchemy"])
def test_the_rows_that_an_interrupted_read_left_unread_are_not_those_of_the_next(
    people_engine: sa.Engine,
    reader: sa.Engine,
    sent: Callable[[sa.Engine], AbstractContextManager[object]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Bob would be nobody."""
    store(people_engine, person(), person("bob"))
    loader = Loader(PEOPLE, reader)
    with sent(reader):
        assert loader.one(("ada",)).rows

        def interrupted(_result: Any) -> None:
            raise TimeLimit

        monkeypatch.setattr(pymysql.connections.MySQLResult, "_read_rowdata_packet", interrupted)
        with pytest.raises(TimeLimit):
            loader.one(("ada",))
        monkeypatch.undo()

        assert list(loader.one(("bob",)).rows) == [("bob",)]


def test_a_key_that_a_hosts_type_refuses_is_sqlalchemys_error(engine: sa.Engine) -> None:
    OwnBase.metadata.create_all(engine)
    loader = Loader(EntityMapping(Fussy), engine)
    for read in (lambda: loader.one(("no",)), lambda: loader.many([("yes",), ("no",)])):
        with pytest.raises(sa.exc.StatementError, match="no is no code"):
            read()
        with observed(engine), pytest.raises(sa.exc.StatementError, match="no is no code"):
            read()


def test_many_rows_are_asked_within_every_databases_limit_on_parameters(
    people_engine: sa.Engine, reader: sa.Engine, statements: Statements
) -> None:
    ids = [f"p{number:05}" for number in range(10_000)]
    with people_engine.begin() as connection:
        rows = [{"id": id, "first_name": id, "last_name": "", "version": 1} for id in ids if not id.endswith("7")]
        connection.execute(sa.insert(PEOPLE.table), rows)
    with statements(reader) as seen:
        found, committed = Loader(PEOPLE, reader).many([(id,) for id in ids])

    assert found == {(row["id"],): tuple(row.values()) for row in rows}
    assert committed
    assert len(seen) == 12  # of 900 and less: SQLite before 3.32 takes 999
    assert max(len(re.findall(r"\?|%\(\w+\)s|%s", statement)) for statement in seen) == 900


def test_rows_of_composite_keys_are_found_alone_and_together(engine: sa.Engine, statements: Statements) -> None:
    HostBase.metadata.create_all(engine)
    stored = [(depot, number) for depot in ("Köln", "köln", "Nîmes") for number in range(400)]
    store(engine, *(parcel(depot, number) for depot, number in stored))
    loader = Loader(PARCELS, engine)
    with statements(engine) as seen:
        assert list(loader.one(("köln", 3)).rows) == [("köln", 3)]
        assert loader.one(("KÖLN", 3)).rows == {}
        assert sorted(loader.many([*stored, ("Nîmes", 400), ("Oslo", 1)]).rows) == sorted(stored)

    assert len(seen) == 2 + 3  # 450 keys of two columns are 900 parameters


def test_rows_beyond_a_key_are_those_that_sort_after_it(engine: sa.Engine) -> None:
    HostBase.metadata.create_all(engine)
    keys = [(depot, number) for depot in ("a", "a ", "b", "ä", "B") for number in (-1, 0, 2, 10)]
    store(engine, *(parcel(depot, number) for depot, number in keys))
    loader = Loader(PARCELS, engine)
    queries = Queries(PARCELS)
    for beyond in [*keys, ("a", 1), ("Ä", 5), ("", 0), ("~", 0)]:
        rows = loader.select(queries.after(beyond))
        assert [PARCELS.identity_in(row) for row in rows] == sorted(key for key in keys if key > beyond), beyond
