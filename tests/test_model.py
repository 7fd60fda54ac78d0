"""The shipped model: exact strings, a version that SQLAlchemy maintains, names for constraints."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.orm.exc import StaleDataError
from sqlalchemy.schema import CreateTable

from person_repo.model import Base, ExactString, Person

pytestmark = pytest.mark.every_database

ADA = ("ada", "Ada", "Lovelace")


def test_person_is_made_from_positions_or_from_keywords() -> None:
    assert Person(*ADA) == Person(id="ada", first_name="Ada", last_name="Lovelace")


def test_version_is_not_the_callers_to_give() -> None:
    with pytest.raises(TypeError, match="version"):
        Person("ada", "Ada", "Lovelace", version=3)  # type: ignore[call-arg]


def test_repr_shows_every_field() -> None:
    assert repr(Person(*ADA)) == "Person(id='ada', first_name='Ada', last_name='Lovelace', version=None)"


def test_people_that_differ_in_version_only_are_equal(sessions: orm.sessionmaker[orm.Session]) -> None:
    with sessions.begin() as session:
        session.add(Person(*ADA))
    with sessions() as session:
        stored = session.get_one(Person, "ada")

        assert stored.version == 1
        assert stored == Person(*ADA)
        assert stored != Person("ada", "Ada", "King")


def test_each_change_of_a_row_counts_its_version(sessions: orm.sessionmaker[orm.Session]) -> None:
    with sessions.begin() as session:
        session.add(Person(*ADA))
    with sessions.begin() as session:
        session.get_one(Person, "ada").last_name = "King"
    with sessions() as session:
        assert session.get_one(Person, "ada").version == 2


def test_writing_a_stale_copy_back_raises(sessions: orm.sessionmaker[orm.Session]) -> None:
    with sessions.begin() as session:
        session.add(Person(*ADA))
    with sessions() as session:
        stale = session.get_one(Person, "ada")
    with sessions.begin() as session:
        session.get_one(Person, "ada").first_name = "Augusta Ada"

    stale.last_name = "King"
    with sessions() as session, pytest.raises(StaleDataError):  # noqa: PT012 - merge sees it, or the flush does
        session.merge(stale)
        session.commit()


@pytest.mark.parametrize("column", ["id", "first_name", "last_name"])
def test_strings_that_differ_in_case_accent_or_padding_are_different(
    sessions: orm.sessionmaker[orm.Session], column: str
) -> None:
    spellings = ["ABC", "abc", "abc ", "ábc", "a\u0301bc"]
    with sessions.begin() as session:
        for at, spelling in enumerate(spellings):
            values = {"id": f"{at}", "first_name": "x", "last_name": "x"} | {column: spelling}
            session.add(Person(**values))

    with sessions() as session:
        for spelling in spellings:
            found = session.scalars(sa.select(Person).where(getattr(Person, column) == spelling)).all()
            assert [getattr(person, column) for person in found] == [spelling]


@pytest.mark.parametrize("name", ["Corbató", "李白", "\U0001f600", "\U0010fffd", "", " ", "a\tb\nc", "%s :x ' \" \\ `"])
def test_any_text_comes_back_as_it_was_stored(sessions: orm.sessionmaker[orm.Session], name: str) -> None:
    with sessions.begin() as session:
        session.add(Person(name, name, name))
    with sessions() as session:
        stored = session.scalars(sa.select(Person).where(Person.last_name == name)).one()
        assert (stored.id, stored.first_name, stored.last_name) == (name, name, name)


def test_limits_are_in_characters_not_bytes(sessions: orm.sessionmaker[orm.Session]) -> None:
    longest = Person("\U0001f600" * 100, "\U0001f600" * 200, "\U0001f600" * 200)
    with sessions.begin() as session:
        session.add(longest)
    with sessions() as session:
        assert session.get(Person, "\U0001f600" * 100) == Person(
            "\U0001f600" * 100, "\U0001f600" * 200, "\U0001f600" * 200
        )


def test_people_are_sorted_by_code_point_on_every_database(sessions: orm.sessionmaker[orm.Session]) -> None:
    ids = ["Z", "a", "ä", "\ufffd", "\U0001f600", "a ", "A", ""]
    with sessions.begin() as session:
        session.add_all([Person(id, "x", "x") for id in ids])
    with sessions() as session:
        assert list(session.scalars(sa.select(Person.id).order_by(Person.id))) == sorted(ids)


@pytest.mark.parametrize(
    ("url", "collation"),
    [
        ("mysql+pymysql://nowhere/x", "CHARACTER SET utf8mb4 COLLATE utf8mb4_0900_bin"),
        ("mariadb+pymysql://nowhere/x", "CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin"),
    ],
)
def test_mysql_and_mariadb_each_get_their_own_exact_collation(url: str, collation: str) -> None:
    ddl = str(CreateTable(Base.metadata.tables["person"]).compile(sa.create_engine(url)))

    assert ddl.count(collation) == 3
    assert "ENGINE=InnoDB" in ddl


def test_exactness_of_a_column_can_be_asked() -> None:
    assert all(getattr(Person.__table__.c[name].type, "exact", False) for name in ("id", "first_name", "last_name"))
    assert not getattr(sa.String(100), "exact", False)


def test_every_constraint_has_a_name() -> None:
    table = sa.Table(
        "naming",
        Base.metadata,
        sa.Column("id", ExactString(10), primary_key=True),
        sa.Column("person_id", sa.ForeignKey("person.id"), index=True),
        sa.UniqueConstraint("id", "person_id"),
    )
    try:
        names = {str(constraint.name) for constraint in table.constraints} | {
            str(index.name) for index in table.indexes
        }
        assert names == {
            "pk_naming",
            "fk_naming_person_id_person",
            "uq_naming_id_person_id",
            "ix_naming_person_id",
        }
    finally:
        Base.metadata.remove(table)


def test_statements_are_counted_on_the_engines_named(
    sessions: orm.sessionmaker[orm.Session],
    people_engine: sa.Engine,
    statements: Callable[..., AbstractContextManager[list[str]]],
) -> None:
    with statements(people_engine, people_engine) as seen, sessions() as session:
        session.get(Person, "ada")
    with sessions() as session:
        session.get(Person, "ada")

    assert len(seen) == 1
    assert seen[0].startswith("SELECT person.id")
