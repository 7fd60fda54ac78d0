"""``add_rows``: very many rows, stored without an object for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from support.entities import Loose, once, person, stored
from support.models import Parcel, parcel

from person_repo.database.bulk import DriverInsert
from person_repo.database.repository import SQLAlchemyRepository
from person_repo.exceptions import (
    EntityExistsError,
    InvalidEntityError,
    UnknownFieldError,
)
from person_repo.mapped.fields import Field
from person_repo.mapped.mapping import EntityMapping
from person_repo.model import Person
from person_repo.service import PersonService, Service

Statements = Callable[..., AbstractContextManager[list[str]]]


@once
def test_rows_without_objects_are_stored_like_objects(people: PersonService, statements: Statements) -> None:
    names = ["id", "first_name", "last_name"]
    chunks = [[("ada", "Ada", "100 %s"), ("bob", "Bob", "; %(id)s")], [], [("eve", "\u00c9ve", "?")]]
    with statements(people.engine) as seen:
        assert people.database.add_rows(names, chunks) == 3
    assert len(seen) == 2
    assert people.list() == [Person(id=id, first_name=first, last_name=last) for c in chunks for id, first, last in c]
    assert {found.version for found in people.list()} == {1}

    with pytest.raises(EntityExistsError):
        people.database.add_rows(names, [[("new", "a", "b")], [("ada", "a", "b")]])
    assert people.get("new") is None


def test_rows_with_values_that_a_driver_cannot_take_as_they_are_are_stored_too(
    parcels: Service[Parcel],
) -> None:
    made = [parcel(number=number) for number in range(3)]
    names = list(parcels.database.mapping.names)

    assert parcels.database.add_rows(names, [[tuple(getattr(one, name) for name in names) for one in made]]) == 3
    assert parcels.list() == made


WRONG_ROWS = {
    "row 2: Person.first_name 'xx.* has 201 characters; the limit is 200": [[("a", "A", "B"), ("b", "x" * 201, "B")]],
    "row 3: Person.last_name is None; the column takes no NULL": [
        [("a", "A", "B"), ("b", "A", "B")],
        [("c", "A", None)],
    ],
    "row 1: Person.id 7 is int; the column takes str": [[(7, "A", "B")]],
    r"row 1,002: Person.last_name .* has a lone surrogate": [
        [(f"p{number}", "A", "B") for number in range(1001)],
        [("last", "A", "\ud800")],
    ],
    r"row 2 of Person is \('b', 'B'\); give chunks of rows, each a tuple of 3 values: id, first_name, last_name": [
        [("a", "A", "B"), ("b", "B")]
    ],
    r"row 1 of Person is 'ada'; give chunks of rows": [("ada", "A", "B")],
    r"row 1 of Person is \{'id': 'a'.*; give chunks of rows": [[{"id": "a", "first_name": "A", "last_name": "B"}]],
}


@once
@pytest.mark.parametrize("reason", WRONG_ROWS)
def test_a_wrong_row_is_refused_by_its_number_with_value_limit_and_remedy(people: PersonService, reason: str) -> None:
    chunks: Any = WRONG_ROWS[reason]
    with pytest.raises(InvalidEntityError, match=f"^{reason}"):
        people.database.add_rows(["id", "first_name", "last_name"], chunks)

    assert stored(people.engine) == []


@once
def test_wrong_names_of_rows_are_refused_before_a_row_is_read(people: PersonService) -> None:
    def never() -> Iterator[list[tuple[Any, ...]]]:
        raise AssertionError("rows are read")
        yield []

    for names, error, reason in (
        (["id", "first_name", "surname"], UnknownFieldError, "Person has no field 'surname'; known are: id, "),
        (["id", "first_name", "id"], InvalidEntityError, "name id twice; name each field once"),
        (["id"], InvalidEntityError, "lack first_name, last_name; add each column that takes no NULL"),
        ([], InvalidEntityError, "lack id, first_name, last_name"),
    ):
        for checked in (False, True):
            with pytest.raises(error, match=reason):
                people.database.add_rows(names, never(), checked=checked)


def _refuse(*_: object) -> None:
    raise InvalidEntityError("is looked at")


@once
def test_rows_that_were_checked_are_not_checked_again(people: PersonService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Field, "accepts_all", lambda *_: False)
    monkeypatch.setattr(Field, "refusal", lambda *_: "is looked at")
    monkeypatch.setattr(EntityMapping, "check", _refuse)
    names = ["id", "first_name", "last_name"]
    assert people.database.add_rows(names, [[("ada", "Ada", "King")]], checked=True) == 1
    with pytest.raises(InvalidEntityError, match="row 1"):
        people.database.add_rows(names, [[("bob", "Bob", "King")]])


@once
def test_rows_may_leave_out_columns_that_have_a_default_or_take_null(loose: Service[Loose]) -> None:
    assert loose.database.add_rows(["code", "late"], [[("a", "later"), ("b", None)], [["c", "list"]]]) == 3

    assert [(found.code, found.name, found.made, found.late) for found in loose.list()] == [
        ("a", None, 42, "later"),
        ("b", None, 42, None),
        ("c", None, 42, "list"),
    ]


@once
def test_rows_in_a_session_of_the_hosts_are_the_hosts_to_commit(people: PersonService) -> None:
    assert people.get("ada") is None
    with orm.Session(people.engine) as session:
        assert people.bind(session).add_rows(["id", "first_name", "last_name"], [[("ada", "Ada", "King")]]) == 1
        session.rollback()
        assert people.get("ada") is None
        people.bind(session).add_rows(["id", "first_name", "last_name"], [[("ada", "Ada", "King")]])
        session.commit()

    assert people.get("ada") == person(last_name="King")


def test_rows_go_to_the_schema_that_the_host_translates_to(people_engine: sa.Engine) -> None:
    translated = people_engine.execution_options(schema_translate_map={None: None})
    mapping = SQLAlchemyRepository(Person, people_engine).mapping
    with translated.connect() as connection, people_engine.connect() as plain:
        assert DriverInsert.of(mapping, ["id", "first_name", "last_name"], connection) is None
        assert DriverInsert.of(mapping, ["first_name", "last_name"], plain) is None  # the key is made elsewhere
        assert (
            DriverInsert.of(mapping, ["last_name", "id", "first_name"], plain) is None
        )  # another order than the table's
        assert DriverInsert.of(mapping, ["id", "first_name", "last_name"], plain) is not None
