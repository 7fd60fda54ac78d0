"""Engines and connections that are covered: options, pools, several engines, and coverage that begins halfway."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from support.databases import with_identity
from support.hosts import NOTES, HostBase, Note, rename
from support.ways import (
    PEOPLE,
    Witness,
    person,
)

from person_repo.model import Person
from person_repo.service import Service


def test_an_option_engine_is_the_engine_it_was_made_from(people_engine: sa.Engine, cache_url: str) -> None:
    made = people_engine.execution_options(one=1).execution_options(two=2)
    with orm.Session(people_engine) as session, session.begin():
        session.add_all([person(id) for id in PEOPLE])
    people = Witness(made, cache_url)
    for engine in (people_engine, made, made.execution_options(three=3), people_engine.execution_options(four=4)):
        with people.invalidates("ada"), engine.begin() as connection:
            rename(connection, "ada", repr(engine.get_execution_options()))
    people.close()


def test_a_connection_checked_out_before_it_was_covered(people_engine: sa.Engine, cache_url: str) -> None:
    with orm.Session(people_engine) as session, session.begin():
        session.add_all([person(id) for id in PEOPLE])
    with people_engine.connect() as connection:
        people = Witness(people_engine, cache_url)
        with people.invalidates("ada"):
            rename(connection, "ada")
            connection.commit()
    people.close()


@pytest.mark.parametrize("end", ["commit", "text"])
def test_a_transaction_covered_halfway_drops_the_whole_model(
    people_engine: sa.Engine, cache_url: str, end: str
) -> None:
    with orm.Session(people_engine) as session, session.begin():
        session.add_all([person(id) for id in PEOPLE])
    with people_engine.connect() as connection:
        rename(connection, "ada")
        people = Witness(people_engine, cache_url)
        with people.drops():
            connection.commit() if end == "commit" else connection.execute(sa.text("COMMIT"))
        with people.invalidates("barbara"):
            rename(connection, "barbara")
            connection.commit()
    people.close()


def test_a_session_bound_halfway_drops_the_whole_model(people: Witness) -> None:
    engine = sa.create_engine(people.engine.url)
    people.watch(engine)
    with people.drops(), orm.Session(engine) as session, session.begin():
        rename(session, "ada")
        bound = people.service.bind(session)
        assert bound.get_one("ada").first_name == "changed"
    engine.dispose()


def test_a_model_covered_in_the_middle_of_a_transaction(people: Witness, cache_url: str) -> None:
    with people.sessions() as session:
        session.add(Note(id=1, text="first"))
        session.flush()
        notes = Service.over(Note, people.sessions, cache_url)
        assert notes.get(1) is None
        session.commit()

    assert notes.get_one(1).text == "first"


def test_another_engine_that_is_covered_too(people: Witness) -> None:
    engine = sa.create_engine(people.engine.url)
    people.watch(engine)
    people.service.cover(engine)
    with people.invalidates("ada"), engine.begin() as connection:
        rename(connection, "ada")
    engine.dispose()


def test_one_session_over_two_engines(people: Witness, tmp_path: Any, cache_url: str) -> None:
    """Each engine has its own COMMIT, which announces its own changes only."""
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'notes.db'}")
    HostBase.metadata.create_all(with_identity(engine), [NOTES])
    sessions = orm.sessionmaker(binds={Person: people.engine, Note: engine})
    notes = Witness(engine, cache_url, entity=Note, ids=(1, 2))
    with people.invalidates("ada"), notes.invalidates(1), sessions() as session, session.begin():
        session.get_one(Person, "ada").first_name = "changed"
        session.add(Note(id=1, text="first"))
        session.flush()
    with people.invalidates(), notes.right(), sessions() as session, session.begin():
        session.get_one(Note, 1).text = "changed"
    notes.close()
    engine.dispose()


def test_an_engine_that_is_disposed_of_and_connects_anew(people: Witness) -> None:
    people.engine.dispose()
    with people.invalidates("ada"), people.sessions() as session, session.begin():
        session.get_one(Person, "ada").first_name = "changed"
        checked_out = session.connection().connection.dbapi_connection
        people.engine.dispose()
    assert checked_out is not None
    checked_out.close()  # the pool that it went back to is nobody's


def test_a_pool_that_commits_what_is_returned_to_it(people: Witness) -> None:
    engine = sa.create_engine(people.engine.url, pool_reset_on_return="commit")
    people.watch(engine)
    people.service.cover(engine)
    connection = engine.connect()
    with people.invalidates("ada"):
        rename(connection, "ada")
        connection.connection.close()
    engine.dispose()


def test_a_detached_connection_is_still_covered(people: Witness) -> None:
    with people.invalidates("ada", "barbara"), people.engine.connect() as connection:
        rename(connection, "barbara")
        connection.detach()
        rename(connection, "ada")
        connection.commit()
