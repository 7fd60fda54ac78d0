"""Transactions of sessions and connections: savepoints, sessions that join one, several at once."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from support.hosts import begin_again, everywhere, on_mysql, rename
from support.ways import (
    Witness,
    person,
)

from person_repo.model import Person

pytestmark = pytest.mark.every_database


def test_a_session_that_is_closed_without_a_commit_leaves_the_cache_as_it_was(people: Witness) -> None:
    with people.invalidates():
        session = people.sessions()
        session.get_one(Person, "ada").first_name = "never"
        session.flush()
        session.close()


@everywhere
def test_savepoints_released_and_rolled_back_nested_in_each_other(people: Witness) -> None:
    with people.invalidates("ada", "barbara", "Grace", "grace"), people.sessions() as session:
        rename(session, "ada")
        with session.begin_nested():
            rename(session, "barbara")
            with session.begin_nested() as inner:
                rename(session, "Grace", "never")
                inner.rollback()
            with session.begin_nested():
                rename(session, "grace")
        session.commit()


@pytest.mark.parametrize("mode", ["conditional_savepoint", "rollback_only", "control_fully", "create_savepoint"])
def test_sessions_joined_to_an_outer_transaction(people: Witness, mode: Any) -> None:
    for inner, outer in itertools.product(("commit", "rollback", "close"), ("commit", "rollback")):
        begin_again(people)
        with people.right(), people.engine.connect() as connection:
            transaction = connection.begin()
            rename(connection, "barbara")
            with orm.Session(connection, join_transaction_mode=mode) as session:
                session.get_one(Person, "ada").first_name = "changed"
                session.flush()
                getattr(session, inner)()
            if transaction.is_active:
                getattr(transaction, outer)()


def test_sessions_joined_to_a_savepoint_of_an_outer_transaction(people: Witness) -> None:
    with people.invalidates("ada", "barbara"), people.engine.begin() as connection, connection.begin_nested():
        rename(connection, "barbara")
        with orm.Session(connection) as session:
            session.get_one(Person, "ada").first_name = "changed"
            session.commit()


@everywhere
def test_several_open_sessions_drop_only_their_own_changes(people: Witness) -> None:
    with people.right(), people.sessions() as one, people.sessions() as other:
        rename(one, "ada")
        assert other.get_one(Person, "ada").first_name == "first"
        one.commit()
        other.rollback()
        rename(other, "barbara")
        one.get_one(Person, "barbara")
        other.commit()


@on_mysql
def test_two_open_transactions_that_change_neighbours(people: Witness) -> None:
    with people.invalidates("ada", "barbara"), people.sessions() as one, people.sessions() as other:
        rename(one, "ada")
        rename(other, "barbara")
        one.commit()
        other.commit()


def test_a_scoped_session_of_the_hosts(people: Witness) -> None:
    scoped = orm.scoped_session(people.sessions)
    with people.invalidates("ada"):
        scoped.get_one(Person, "ada").first_name = "changed"
        scoped.commit()
        scoped.remove()


def test_an_object_flushed_by_a_query_is_announced_by_the_commit(people: Witness) -> None:
    with people.invalidates("ada"), people.sessions() as session, session.begin():
        session.get_one(Person, "ada").first_name = "changed"
        session.scalars(sa.select(Person)).all()


def test_the_services_own_writes_invalidate_whichever_way_the_toggle_stands(people: Witness) -> None:
    with people.invalidates("ada", "edsger", "grace", "donald"), people.service.using(use_db=True):
        people.service.update("ada", first_name="changed")
        people.service.add(person("edsger"))
        people.service.delete("grace")
        people.service.upsert(person("donald"))
