"""Transactions that SQL text begins and ends, and statements that commit on the way."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pymysql
import pytest
import sqlalchemy as sa
from sqlalchemy import exc
from support.hosts import begin_again, is_mariadb, is_unsure, on_mysql, on_mysql_and_mariadb, on_sqlite, rename
from support.ways import (
    TABLE,
    Witness,
)

from person_repo.model import Person

pytestmark = pytest.mark.every_database


@pytest.mark.parametrize(
    ("begin", "end"), [("BEGIN", "COMMIT"), ("begin;", "commit ;"), ("/* now */ Begin", "-- now\nCommit")]
)
def test_a_transaction_made_of_text(people: Witness, automatic: sa.Connection, begin: str, end: str) -> None:
    with people.invalidates("ada", "barbara"):
        automatic.exec_driver_sql(begin)
        rename(automatic, "ada")
        rename(automatic, "barbara")
        automatic.execute(sa.text(end))


def test_a_transaction_made_of_text_that_is_rolled_back(people: Witness, automatic: sa.Connection) -> None:
    with people.invalidates("Grace"):
        automatic.exec_driver_sql("BEGIN")
        rename(automatic, "ada", "never")
        automatic.exec_driver_sql("ROLLBACK")
        rename(automatic, "Grace")


def test_savepoints_made_of_text(people: Witness, automatic: sa.Connection) -> None:
    with people.invalidates("ada", "barbara", "Grace"):
        automatic.exec_driver_sql("BEGIN")
        rename(automatic, "ada")
        automatic.exec_driver_sql("SAVEPOINT first")
        rename(automatic, "barbara")
        automatic.exec_driver_sql("ROLLBACK TO SAVEPOINT first")
        rename(automatic, "Grace")
        automatic.exec_driver_sql("RELEASE SAVEPOINT first")
        automatic.exec_driver_sql("COMMIT")


@on_sqlite
def test_the_release_of_a_savepoint_is_a_commit_where_no_transaction_is_open(
    people: Witness, automatic: sa.Connection
) -> None:
    """SQLite begins a transaction for the savepoint, and commits it with the RELEASE."""
    with people.invalidates("ada", "barbara"):
        automatic.exec_driver_sql("SAVEPOINT outer_one")
        rename(automatic, "ada")
        automatic.exec_driver_sql("SAVEPOINT inner_one")
        rename(automatic, "barbara")
        automatic.exec_driver_sql("RELEASE inner_one")
        automatic.exec_driver_sql("RELEASE outer_one")
    with people.invalidates("Grace"):
        rename(automatic, "Grace")


@on_sqlite
def test_a_first_savepoint_commits_at_its_release_even_if_the_session_rolls_back(people: Witness) -> None:
    """Python's sqlite3 begins no transaction before a SAVEPOINT."""
    with people.invalidates("ada"), people.sessions() as session:
        with session.begin_nested():
            rename(session, "ada")
        session.rollback()

    assert people.committed()["ada"][1] == "changed"


@on_sqlite
def test_a_begin_that_fails_begins_nothing(people: Witness, automatic: sa.Connection) -> None:
    with people.blind(), people.sessions() as other:
        rename(other, "barbara")
        automatic.exec_driver_sql("PRAGMA busy_timeout = 1")
        with pytest.raises(exc.OperationalError, match="locked"):
            automatic.exec_driver_sql("BEGIN IMMEDIATE")
    with people.invalidates("ada"):
        rename(automatic, "ada")


@on_sqlite
def test_a_host_that_begins_its_transactions_itself(people: Witness) -> None:
    """SQLAlchemy's recipe for savepoints that work on SQLite."""

    def take_over(driver: Any, _record: Any) -> None:
        driver.isolation_level = None

    people.engine.dispose()
    sa.event.listen(people.engine, "connect", take_over)
    sa.event.listen(people.engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    with people.invalidates("ada"), people.sessions() as session:
        with session.begin_nested():
            rename(session, "ada")
        session.commit()
    with people.right(), people.sessions() as session:
        with session.begin_nested():
            rename(session, "barbara", "never")
        session.rollback()


@on_mysql
@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
def test_a_chained_transaction_goes_on_after_its_end(people: Witness, automatic: sa.Connection, end: str) -> None:
    with people.right():
        automatic.exec_driver_sql("START TRANSACTION")
        rename(automatic, "ada", "one")
        automatic.exec_driver_sql(f"{end} AND CHAIN")
        rename(automatic, "ada", "two")
        automatic.exec_driver_sql("COMMIT")


IMPLICIT = {
    "a table": "CREATE TABLE another (id INTEGER)",
    "a table, failing": "CREATE TABLE person (id INTEGER)",
    "a begin": "BEGIN",
    "autocommit": "SET autocommit = 1",
    "a lock": "LOCK TABLES note WRITE",
    "an analysis": "ANALYZE TABLE note",
}


@on_mysql
def test_earlier_changes_are_announced_before_a_statement_that_commits(
    people: Witness, subtests: pytest.Subtests
) -> None:
    """A rollback that comes too late does not forget them."""
    for name, statement in IMPLICIT.items():
        begin_again(people)
        with subtests.test(name), people.right(), people.engine.connect() as connection:
            rename(connection, "ada")
            with contextlib.suppress(exc.OperationalError):
                connection.execute(sa.text(statement))
            # LOCK TABLES begins a transaction of its own; after rows PyMySQL does not know if one is open.
            assert is_unsure(people, "ada") is (name in ("a lock", "an analysis"))
            connection.rollback()
            connection.exec_driver_sql("UNLOCK TABLES")
            connection.invalidate()

        assert people.committed()["ada"][1] == "changed"


MAYBE = ("CREATE TEMPORARY TABLE another (id INTEGER)", "SET autocommit = 0", "SET @name = 1", "UNLOCK TABLES")


@on_mysql
def test_earlier_changes_stay_pending_after_a_statement_that_might_have_committed(
    people: Witness, subtests: pytest.Subtests
) -> None:
    for statement in MAYBE:
        begin_again(people)
        with subtests.test(statement), people.right(), people.engine.connect() as connection:
            rename(connection, "ada")
            connection.execute(sa.text(statement))
            connection.commit()


@on_mysql_and_mariadb
def test_autocommit_that_is_turned_off_and_on_by_text(people: Witness, automatic: sa.Connection) -> None:
    """Turned on, it commits the transaction that is open."""
    with people.right():
        automatic.exec_driver_sql("SET autocommit = 0")
        rename(automatic, "ada")
        people.look("not committed yet")
        automatic.exec_driver_sql("SET @@autocommit = 1")
        automatic.exec_driver_sql("SET @@SESSION.autocommit := OFF")
        rename(automatic, "barbara")
        automatic.exec_driver_sql("SET SESSION autocommit = ON")
        automatic.exec_driver_sql("SET LOCAL autocommit = 0")
        rename(automatic, "Grace", "never")
        automatic.exec_driver_sql("ROLLBACK")

    committed = people.committed()
    assert [committed[id][1] for id in ("ada", "barbara", "Grace")] == ["changed", "changed", "first"]


@on_mysql
def test_the_table_itself_is_changed_by_text(people: Witness) -> None:
    of_mariadb = [
        "SET STATEMENT max_statement_time = 10 FOR UPDATE person SET first_name = 'changed' WHERE id = 'ada'",
        "ANALYZE UPDATE person SET first_name = 'changed again'",
    ]
    for statement in (
        "ALTER TABLE person ADD COLUMN shoe INTEGER",
        "ALTER TABLE person DROP COLUMN shoe",
        *(of_mariadb if is_mariadb(people.engine) else []),
        "TRUNCATE TABLE person",
    ):
        with people.drops(), people.engine.begin() as connection:
            connection.execute(sa.text(statement))


def test_a_table_that_is_dropped_and_made_again(people: Witness) -> None:
    people.warm()
    with people.blind():
        with people.engine.connect() as connection:
            connection.execute(sa.text("DROP TABLE person"))
            if connection.dialect.name == "postgresql":  # elsewhere it cannot be rolled back
                connection.commit()
            connection.rollback()
        Person.metadata.create_all(people.engine)
    people.check()

    assert people.answered() == {}


@pytest.fixture
def procedures(people: Witness) -> None:
    with people.engine.begin() as connection:
        connection.exec_driver_sql("CREATE PROCEDURE hidden() UPDATE person SET first_name = 'changed'")
        connection.exec_driver_sql(
            "CREATE PROCEDURE commits() BEGIN UPDATE person SET first_name = 'kept'; COMMIT; END"
        )
        connection.exec_driver_sql("CREATE PROCEDURE fails() BEGIN CALL commits(); SIGNAL SQLSTATE '45000'; END")


@on_mysql
@pytest.mark.usefixtures("procedures")
@pytest.mark.parametrize("call", ["CALL hidden()", "/* a read? */ call `commits`()", "CALL fails()"])
@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_a_stored_procedure_may_change_anything_and_commit(people: Witness, call: str, end: str) -> None:
    with people.drops(), people.engine.connect() as connection:
        rename(connection, "ada", "before")
        with contextlib.suppress(exc.OperationalError):
            connection.execute(sa.text(call))
        getattr(connection, end)()


@on_mysql
@pytest.mark.usefixtures("procedures")
def test_a_stored_procedure_on_a_connection_that_commits_each_statement(
    people: Witness, automatic: sa.Connection
) -> None:
    automatic.exec_driver_sql("PREPARE prepared FROM 'CALL hidden()'")
    of_mariadb = ["EXECUTE IMMEDIATE 'CALL hidden()'"] if is_mariadb(people.engine) else []
    for call in ("CALL hidden()", "CALL commits()", "EXECUTE prepared", *of_mariadb):
        with people.drops():
            automatic.exec_driver_sql(call)


@pytest.fixture
def several(people: Witness) -> Iterator[sa.Engine]:
    """An engine that accepts several statements in one text."""
    options = {"client_flag": pymysql.constants.CLIENT.MULTI_STATEMENTS}
    engine = sa.create_engine(people.engine.url, connect_args=options)
    people.service.cover(engine)
    yield engine
    engine.dispose()


@on_mysql
def test_several_statements_in_one_text(people: Witness, several: sa.Engine) -> None:
    with people.drops(), several.connect() as connection:
        rename(connection, "ada")
        connection.exec_driver_sql("SELECT 1; UPDATE person SET first_name = 'changed' WHERE id = 'barbara'; COMMIT")
        connection.rollback()
    with people.drops(), several.begin() as connection:
        connection.exec_driver_sql("SELECT 1; UPDATE person SET first_name = 'again' WHERE id = 'barbara'")
        rename(connection, "ada", "again")


@on_mysql
@pytest.mark.parametrize("isolation_level", ["AUTOCOMMIT", "REPEATABLE READ"])
def test_statements_of_a_text_that_still_run_when_the_first_result_is_here(
    people: Witness, several: sa.Engine, isolation_level: Any
) -> None:
    gate = people.engine.connect()
    gate.exec_driver_sql("SELECT GET_LOCK('gate', 0)")
    with people.right(), several.connect().execution_options(isolation_level=isolation_level) as connection:
        text = "SELECT 1; DO GET_LOCK('gate', 60); UPDATE person SET first_name = 'changed'; COMMIT"
        result = connection.exec_driver_sql(text)
        people.look("before the update")
        with people.blind():
            gate.exec_driver_sql("SELECT RELEASE_LOCK('gate')")
        result.close()
        connection.rollback()
    gate.close()

    assert people.committed()["ada"][1] == "changed"


@on_sqlite
def test_sqlite_commits_a_statement_outside_a_transaction_without_a_commit(people: Witness) -> None:
    statement = "WITH wanted AS (SELECT 'ada' AS id) UPDATE person SET first_name = 'kept' WHERE id IN wanted"
    with people.drops(), people.engine.connect() as connection:
        connection.execute(sa.text(statement))
        connection.rollback()
    assert people.committed()["ada"][1] == "kept"

    with people.drops(), people.engine.begin() as connection:
        rename(connection, "barbara")
        connection.execute(sa.text(statement.replace("kept", "changed")))


@on_sqlite
def test_a_statement_with_rows_to_fetch_is_not_committed_yet(people: Witness, automatic: sa.Connection) -> None:
    """SQLite commits a statement of its own when its last row is fetched."""
    statement = sa.update(TABLE).where(TABLE.c.id.in_(["ada", "barbara"])).values(first_name="changed")
    with people.invalidates("ada", "barbara"):
        result = automatic.execute(statement.returning(TABLE.c.id))
        people.look("between")
        result.all()
        people.look("after")
        automatic.commit()
    with people.drops():
        result = automatic.exec_driver_sql("UPDATE person SET first_name = 'again' RETURNING id")
        people.look("between")
        result.fetchone()
        result.close()
        people.look("after")
        automatic.commit()
