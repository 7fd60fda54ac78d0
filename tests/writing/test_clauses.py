"""The parts of SQLAlchemy's statement objects that the write side reads."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql, sqlite

from person_repo.model import Person
from person_repo.writing.clauses import replaces, set_columns, targets_of

PERSON: Any = Person.__table__

NOTE = sa.table("note", sa.column("about"), sa.column("text"))

ROW = {"id": "a", "first_name": "x", "last_name": "y", "version": 1}


def test_the_columns_that_a_statement_sets() -> None:
    upsert = sqlite.insert(PERSON).on_conflict_do_update(["id"], set_={PERSON.c.first_name: "x"})

    assert set_columns(sa.update(PERSON).values(first_name="x"), []) == {"first_name"}
    assert set_columns(sa.update(PERSON), [{"first_name": "x", "b": 1}]) == {"first_name"}
    assert set_columns(sa.update(Person).values({Person.first_name: "x"}), []) == {"first_name"}
    assert set_columns(upsert, []) == {"first_name"}
    assert set_columns(mysql.insert(PERSON).on_duplicate_key_update(first_name="x"), []) == {"first_name"}
    assert set_columns(postgresql.insert(PERSON).on_conflict_do_nothing(), []) == frozenset()
    assert set_columns(sa.insert(PERSON), [ROW]) == frozenset()


def test_an_insert_or_replace_has_a_prefix() -> None:
    assert replaces(sa.insert(PERSON).prefix_with("or replace"))
    assert not replaces(sa.insert(PERSON).prefix_with("OR IGNORE"))
    assert not replaces(sa.insert(PERSON))


def test_the_tables_that_a_statement_changes() -> None:
    assert targets_of(sa.insert(PERSON)) == ["person"]
    assert targets_of(sa.delete(PERSON.alias("p"))) == ["person"]
    assert targets_of(sa.update(NOTE).values({NOTE.c.text: "x", PERSON.c.version: 1})) == ["note", "person"]
