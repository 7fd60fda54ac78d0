"""Statements whose rows are too many, or not to be seen: the keys that are asked for, and the whole model else."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.dialects import postgresql
from support.hosts import NOTES, Note, on_mysql, on_sqlite, rename
from support.ways import (
    PEOPLE,
    STRANGERS,
    TABLE,
    Witness,
    person,
)

from person_repo.cache.region import make_region
from person_repo.writing.examination import changed_by_ctes, is_query


@pytest.fixture
def few(people_engine: sa.Engine, cache_url: str) -> Iterator[Witness]:
    """A witness of a cache whose ``max_keys`` is 3."""
    with orm.Session(people_engine) as session, session.begin():
        session.add_all([person(id) for id in PEOPLE])
    witness = Witness(people_engine, make_region(cache_url, max_keys=3))
    yield witness
    witness.close()


def test_more_rows_than_the_bound_are_the_whole_model(few: Witness) -> None:
    with few.invalidates(*PEOPLE[:3]), few.engine.begin() as connection:
        connection.execute(sa.update(TABLE).where(TABLE.c.id.in_(PEOPLE[:3])), {"version": 2})
    with few.drops(), few.engine.begin() as connection:
        connection.execute(sa.update(TABLE).where(TABLE.c.version > 0).values(version=3))
    with few.drops(), few.engine.begin() as connection:
        for id in PEOPLE:
            rename(connection, id)
    with few.drops(), few.sessions() as session, session.begin():
        session.add_all([person(id) for id in STRANGERS])
    with few.drops(), few.engine.begin() as connection:
        connection.execute(sa.delete(TABLE).where(TABLE.c.id.in_(PEOPLE)))


@on_sqlite
def test_more_returned_rows_than_the_bound_are_the_whole_model(few: Witness) -> None:
    by_names = sa.update(TABLE).where(TABLE.c.last_name.in_([f"of {id}" for id in PEOPLE[:3]]))
    with few.invalidates(*PEOPLE[:3]), few.engine.begin() as connection:
        assert connection.execute(by_names, {"version": 2}).rowcount == 3


def test_an_update_of_everybody_is_the_whole_model(people: Witness) -> None:
    with people.drops(), people.engine.begin() as connection:
        connection.execute(sa.update(TABLE).values(first_name="changed"))


@on_mysql
def test_an_update_of_two_tables_at_once(people: Witness) -> None:
    with people.sessions() as session, session.begin():
        session.add_all([Note(id=1, text="first", about="ada"), Note(id=2, text="second", about="ada")])
    with people.drops(), people.engine.begin() as connection:
        joined = sa.update(NOTES).where(NOTES.c.about == TABLE.c.id)
        connection.execute(joined.values({NOTES.c.text: "changed", TABLE.c.first_name: "changed"}))
    with people.right(), people.engine.begin() as connection:
        joined = sa.update(TABLE).where(NOTES.c.about == TABLE.c.id, NOTES.c.id == 1)
        connection.execute(joined.values(first_name="again"))

    assert people.committed()["ada"][1] == "again"


def test_a_select_with_an_update_in_its_with_is_no_query() -> None:
    """PostgreSQL runs such statements; no database of these tests does."""
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    changed = sa.update(TABLE).values(version=2).returning(TABLE.c.id).cte("changed")
    writes, reads = sa.select(changed.c.id), sa.select(TABLE.c.id)

    assert is_query(SimpleNamespace(compiled=reads.compile(dialect=dialect)))
    assert not is_query(SimpleNamespace(compiled=writes.compile(dialect=dialect)))
    assert changed_by_ctes(writes.compile(dialect=dialect)) == ["person"]


@on_sqlite
def test_a_row_without_a_key_makes_no_write_fail(people: Witness) -> None:
    """SQLite accepts NULL in a primary key unless the column is NOT NULL, as SQLAlchemy declares it."""
    with people.blind(), people.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE person")
        connection.exec_driver_sql("CREATE TABLE person (id TEXT PRIMARY KEY, first_name, last_name, version)")
        connection.exec_driver_sql("INSERT INTO person VALUES ('ada', 'first', 'x', 1), (NULL, 'first', 'x', 1)")
    with people.drops(), people.engine.begin() as connection:
        connection.execute(sa.update(TABLE).where(TABLE.c.last_name == "x").values(first_name="changed"))

    assert people.committed()["ada"][1] == "changed"


@on_sqlite
def test_an_update_from_another_table(people: Witness) -> None:
    with people.sessions() as session, session.begin():
        session.add(Note(id=1, text="changed", about="ada"))
    with people.invalidates("ada"), people.engine.begin() as connection:
        connection.execute(sa.update(TABLE).where(NOTES.c.about == TABLE.c.id).values(first_name=NOTES.c.text))

    assert people.committed()["ada"][1] == "changed"


@on_sqlite
def test_criteria_and_values_with_names_that_the_compiler_makes_up(people: Witness) -> None:
    with people.sessions() as session, session.begin():
        rename(session, "ada", "one")
        rename(session, "barbara", "two")
    with people.invalidates("ada"), people.engine.begin() as connection:
        longer = sa.func.replace(TABLE.c.first_name, "two", "three")
        statement = sa.update(TABLE).values(last_name=sa.case((TABLE.c.first_name == "two", longer), else_="changed"))
        connection.execute(statement.where(TABLE.c.first_name == "one"))

    assert people.committed()["ada"][2] == "changed"
