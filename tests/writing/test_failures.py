"""Failures of statements, of commits, of connections and of the cache: the cache is right after each."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import pymysql
import pytest
import sqlalchemy as sa
from sqlalchemy import exc, orm
from support.hosts import FOLDERS, Folder, HostBase, is_unsure, on_mysql, on_sqlite, rename
from support.servers import Memcached
from support.ways import (
    TABLE,
    Witness,
    person,
    rows,
)

from person_repo.model import Person


def test_a_session_goes_on_after_a_statement_that_was_refused(people: Witness) -> None:
    """Its rows are dropped, too: savepoints are not followed."""
    with people.invalidates("ada", "barbara", "Grace", "edsger", "grace"), people.sessions() as session:
        rename(session, "ada")
        with pytest.raises(exc.IntegrityError), session.begin_nested():
            session.add_all([person("edsger"), person("grace")])
        rename(session, "barbara")
        session.commit()
        with pytest.raises(exc.IntegrityError):
            session.execute(sa.insert(TABLE), rows(["frances", "grace"], "never"))
        session.rollback()
        rename(session, "Grace")
        session.commit()


def test_a_stale_copy_that_is_refused_changes_nothing(people: Witness) -> None:
    with people.invalidates("ada"), people.sessions() as session:
        one = session.get_one(Person, "ada")
        session.rollback()
        with people.sessions() as other, other.begin():
            other.get_one(Person, "ada").first_name = "changed"
        one.first_name = "never"
        orm.attributes.set_committed_value(one, "version", 1)
        with pytest.raises(orm.exc.StaleDataError):
            session.commit()


@on_mysql
def test_a_deadlock_ends_one_transaction_and_the_session_goes_on(people: Witness) -> None:
    """The tombstones of the transaction rolled back go with it, and its changes are not seen."""
    with people.right(), people.sessions() as one, people.sessions() as other:
        with people.blind():
            rename(one, "ada", "one")
            rename(other, "barbara", "other")
            locked = threading.Event()
            failures: list[BaseException] = []

            def wait_for_the_other() -> None:
                try:
                    locked.set()
                    rename(one, "barbara", "one")
                    one.commit()
                except exc.OperationalError as error:
                    failures.append(error)
                    one.rollback()

            thread = threading.Thread(target=wait_for_the_other)
            thread.start()
            locked.wait()
            try:
                rename(other, "ada", "other")
                other.commit()
            except exc.OperationalError as error:
                failures.append(error)
                other.rollback()
            thread.join()
        assert len(failures) == 1
        people.check()
        for session in (one, other):
            rename(session, "ada", "at last")
            session.commit()


@on_sqlite
def test_a_commit_that_the_database_refuses(enforced: sa.Engine, witness_of: Callable[..., Witness]) -> None:
    """A deferred foreign key is checked at the commit."""
    table = sa.Table(
        "pledge",
        sa.MetaData(),
        sa.Column("id", sa.Integer),
        sa.Column("folder", sa.ForeignKey(Folder.id, deferrable=True, initially="DEFERRED")),
    )
    folders = witness_of(Folder, [Folder(id=1)], ids=(1, 2))
    table.create(enforced)
    with folders.right(), enforced.connect() as connection:
        connection.execute(sa.delete(FOLDERS).where(FOLDERS.c.id == 1))
        connection.execute(sa.insert(table).values(id=1, folder=1))
        with pytest.raises(exc.IntegrityError):
            connection.commit()
        folders.look("refused")
        connection.rollback()

    assert 1 in folders.committed()


def lose_the_reply(connection: sa.Connection) -> None:
    """Have the next COMMIT of this connection succeed, and lose its reply."""
    driver: Any = connection.connection.driver_connection
    commit = driver.commit

    def commit_and_vanish() -> None:
        commit()
        driver._force_close()
        raise pymysql.err.OperationalError(2013, "Lost connection to MySQL server during query")

    driver.commit = commit_and_vanish


@on_mysql
def test_a_commit_whose_reply_is_lost_leaves_its_tombstones_to_their_ttl(people: Witness) -> None:
    with people.right(), people.sessions() as session:
        rename(session, "ada")
        lose_the_reply(session.connection())
        with pytest.raises(exc.OperationalError, match="Lost connection"):
            session.commit()
        session.rollback()

    assert people.committed()["ada"][1] == "changed"
    assert is_unsure(people, "ada")
    assert not is_unsure(people, "barbara")


@on_mysql
def test_a_statement_that_commits_itself_and_whose_reply_is_lost(people: Witness, automatic: sa.Connection) -> None:
    driver: Any = automatic.connection.driver_connection
    query = driver.query

    def query_and_vanish(sql: bytes, unbuffered: bool = False) -> None:
        query(sql, unbuffered)
        driver._force_close()
        raise pymysql.err.OperationalError(2013, "Lost connection to MySQL server during query")

    driver.query = query_and_vanish
    with people.right(), pytest.raises(exc.OperationalError, match="Lost connection"):
        rename(automatic, "ada")

    assert people.committed()["ada"][1] == "changed"
    assert is_unsure(people, "ada")


@on_mysql
def test_a_connection_killed_before_its_commit(people: Witness) -> None:
    with people.right(), people.sessions() as session:
        rename(session, "ada", "never")
        killed = session.scalar(sa.text("SELECT CONNECTION_ID()"))
        with people.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as other:
            other.exec_driver_sql(f"KILL {killed}")
        with pytest.raises(exc.OperationalError):
            session.commit()
        session.rollback()
        rename(session, "ada", "at last")
        session.commit()

    assert people.committed()["ada"][1] == "at last"
    assert is_unsure(people, "ada")


@on_mysql
def test_a_connection_killed_before_anything_is_announced(people: Witness) -> None:
    with people.invalidates("barbara"), people.sessions() as session:
        rename(session, "ada", "never")
        killed = session.scalar(sa.text("SELECT CONNECTION_ID()"))
        with people.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as other:
            other.exec_driver_sql(f"KILL {killed}")
        with pytest.raises(exc.OperationalError):
            rename(session, "ada", "never")
        session.rollback()
        rename(session, "barbara")
        session.commit()


def test_an_interrupt_in_a_commit_leaves_its_tombstones_to_their_ttl(people: Witness) -> None:
    """After Ctrl-C the outcome of the COMMIT is unknown."""
    with people.right(), people.sessions() as session:
        rename(session, "ada")
        fairy: Any = session.connection().connection
        commit = fairy.driver_connection.commit

        class Interrupted:
            def __getattr__(self, name: str) -> Any:
                return getattr(fairy.driver_connection, name)

            def commit(self) -> None:
                commit()
                raise KeyboardInterrupt

        fairy.dbapi_connection = Interrupted()
        with pytest.raises(KeyboardInterrupt):
            session.commit()

    assert people.committed()["ada"][1] == "changed"
    assert is_unsure(people, "ada")


@pytest.mark.parametrize("cache_url", ["memcached"], indirect=True)
def test_a_commit_while_the_cache_is_down_is_logged_and_does_not_raise(
    people: Witness, memcached_servers: list[Memcached], caplog: pytest.LogCaptureFixture
) -> None:
    with people.right(), caplog.at_level(logging.WARNING, "person_repo"):
        for server in memcached_servers:
            server.stop()
        with people.sessions() as session, session.begin():
            rename(session, "ada")
        with people.engine.begin() as connection:
            connection.execute(sa.text("UPDATE person SET first_name = 'again'"))
        for server in memcached_servers:
            server.start()

    assert any("tombstones could not be placed" in record.message for record in caplog.records)


@pytest.mark.parametrize("cache_url", ["memcached"], indirect=True)
def test_a_cache_that_goes_down_between_the_tombstones_and_the_commit(
    people: Witness, memcached_servers: list[Memcached]
) -> None:
    with people.right(), people.sessions() as session:
        rename(session, "ada")
        fairy: Any = session.connection().connection
        driver = fairy.driver_connection

        class Slow:
            def __getattr__(self, name: str) -> Any:
                return getattr(driver, name)

            def commit(self) -> None:
                for server in memcached_servers:
                    server.restart()
                driver.commit()

        fairy.dbapi_connection = Slow()
        session.commit()


class Ranked(HostBase):
    """A table with a unique key beside the mapped one."""

    __tablename__ = "ranked"

    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    rank: orm.Mapped[int] = orm.mapped_column(unique=True)


@on_sqlite
def test_rows_that_were_changed_before_a_failure_are_dropped(witness_of: Callable[..., Witness]) -> None:
    """SQLite keeps them under OR FAIL, and where a trigger raises FAIL."""
    ranked = witness_of(Ranked, [Ranked(id=id, rank=id) for id in (1, 2, 3, 4)], ids=range(1, 5))
    with ranked.engine.begin() as connection:
        stops = "BEFORE DELETE ON ranked WHEN OLD.id = 3 BEGIN SELECT RAISE(FAIL, 'no'); END"
        connection.exec_driver_sql(f"CREATE TRIGGER stops {stops}")
    table = Ranked.__table__
    for statement in (
        sa.update(table).prefix_with("OR FAIL").where(table.c.rank < 4).values(rank=9),
        sa.delete(table).where(table.c.rank > 0),
    ):
        with ranked.drops(), ranked.engine.connect() as connection:
            with pytest.raises(exc.IntegrityError):
                connection.execute(statement)
            connection.commit()
    assert [*ranked.committed()] == [3, 4]
