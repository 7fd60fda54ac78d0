"""Commits in two phases, by SQLAlchemy and by text."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from support.hosts import Note, is_unsure, on_mysql, on_mysql_and_mariadb, rename
from support.ways import (
    Witness,
)

from person_repo.model import Person


@on_mysql_and_mariadb
@pytest.mark.parametrize("end", ["commit", "rollback", "close"])
@pytest.mark.parametrize("prepared", [True, False])
def test_a_transaction_in_two_phases(people: Witness, end: str, prepared: bool) -> None:
    with people.right(), people.engine.connect() as connection:
        transaction = connection.begin_twophase()
        rename(connection, "ada")
        if prepared:
            transaction.prepare()
            people.look("prepared")
            assert is_unsure(people, "ada")
        getattr(transaction, end)()


@on_mysql_and_mariadb
def test_a_session_in_two_phases_drops_what_it_changed(people: Witness) -> None:
    with people.invalidates("ada"), orm.Session(people.engine, twophase=True) as session:
        session.get_one(Person, "ada").first_name = "changed"
        session.commit()


@on_mysql_and_mariadb
def test_two_phases_that_change_nothing_covered_cost_nothing(people: Witness) -> None:
    people.warm()
    with people.costs(0), orm.Session(people.engine, twophase=True) as session:
        session.add(Note(id=1, text="first"))
        session.commit()


@on_mysql_and_mariadb
@pytest.mark.parametrize("recover", [True, False])
@pytest.mark.parametrize("end", ["commit_prepared", "rollback_prepared", "text"])
def test_a_prepared_transaction_that_another_process_ends(
    people: Witness, automatic: sa.Connection, end: str, recover: bool
) -> None:
    """That process does not know its changes. MariaDB allows no open transaction on the connection that ends it."""
    elsewhere = sa.create_engine(people.engine.url)
    with people.right():
        with elsewhere.connect() as gone:
            transaction = gone.begin_twophase()
            rename(gone, "ada")
            transaction.prepare()
            gone.invalidate()
        elsewhere.dispose()
        people.look("prepared")
        if end == "text":
            automatic.exec_driver_sql(f"XA COMMIT '{transaction.xid}'")
        else:
            getattr(automatic, end)(transaction.xid, recover=recover)

    assert people.committed()["ada"][1] == ("first" if end == "rollback_prepared" else "changed")


@on_mysql_and_mariadb
def test_a_prepared_transaction_that_this_process_recovers_drops_what_it_changed(
    people: Witness, automatic: sa.Connection
) -> None:
    with people.invalidates("ada"):
        with people.engine.connect() as gone:
            transaction = gone.begin_twophase()
            rename(gone, "ada")
            transaction.prepare()
            gone.invalidate()
        # MariaDB's are bytes, MySQL's are text.
        (xid,) = (xid for xid in automatic.recover_twophase() if xid in (transaction.xid, transaction.xid.encode()))
        automatic.commit_prepared(xid, recover=True)

    assert people.committed()["ada"][1] == "changed"


@on_mysql_and_mariadb
@pytest.mark.parametrize("end", ["XA COMMIT", "XA ROLLBACK"])
def test_two_phases_made_of_text(people: Witness, automatic: sa.Connection, end: str) -> None:
    with people.right():
        automatic.exec_driver_sql("XA START 'host'")
        rename(automatic, "ada")
        automatic.exec_driver_sql("XA END 'host'")
        automatic.exec_driver_sql("XA PREPARE 'host'")
        automatic.exec_driver_sql(f"{end} 'host'")
        rename(automatic, "barbara")


@on_mysql
@pytest.mark.parametrize("detached", [True, False])
def test_a_connection_goes_on_beside_a_transaction_that_it_prepared(
    people: Witness, automatic: sa.Connection, detached: bool
) -> None:
    """MySQL detaches it from the connection by default, and takes other statements before its COMMIT."""
    with people.right():
        automatic.exec_driver_sql(f"SET xa_detach_on_prepare = {'ON' if detached else 'OFF'}")
        automatic.exec_driver_sql("XA START 'one'")
        rename(automatic, "ada")
        automatic.exec_driver_sql("XA END 'one'")
        automatic.exec_driver_sql("XA PREPARE 'one'")
        if detached:
            rename(automatic, "barbara")
            automatic.exec_driver_sql("START TRANSACTION")
            rename(automatic, "Grace")
            automatic.exec_driver_sql("COMMIT")
        automatic.exec_driver_sql("XA COMMIT 'one'")

    assert people.committed()["ada"][1] == "changed"
