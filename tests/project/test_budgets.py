"""Costs that are counted: round trips, queries and calls of Python functions. No clock is used."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import orm

import person_repo
from person_repo.model import Person
from person_repo.service import PersonService

PACKAGE = Path(person_repo.__file__).parent

Statements = Callable[..., AbstractContextManager[list[str]]]


@contextmanager
def calls() -> Iterator[list[str]]:
    """``with calls() as made:`` lists the Python functions that this thread calls within the block."""
    made: list[str] = []

    def record(frame: object, event: str, _: object) -> None:
        if event == "call":
            code = frame.f_code  # type: ignore[attr-defined]
            made.append(f"{module_of(Path(code.co_filename))}:{code.co_qualname}")

    before = sys.getprofile()
    sys.setprofile(record)
    try:
        yield made
    finally:
        sys.setprofile(before)
        made.pop()  # the end of this block


def module_of(file: Path) -> str:
    """A module of ours by its room and name, ``writing.coverage``; any other by its name."""
    within = file.relative_to(PACKAGE) if file.is_relative_to(PACKAGE) else Path(file.name)
    return ".".join(within.with_suffix("").parts)


def calls_of(step: Callable[[], object]) -> list[str]:
    """The calls of the cheapest of some runs: in others something may be collected, or be done for the first time."""
    found = []
    for _ in range(5):
        with calls() as made:
            step()
        found.append(made)
    return min(found, key=len)


@pytest.fixture
def people(sessions: orm.sessionmaker[orm.Session], monkeypatch: pytest.MonkeyPatch) -> Iterator[PersonService]:
    for listened_to in (sa.Engine, sa.Connection, sa.Dialect):  # whoever listens to all of them leaves a mark for good
        monkeypatch.setattr(listened_to, "_has_events", False, raising=False)
    with PersonService.over(sessions, "memory://", use_db=True) as people:
        people.add_many(Person(id=f"p{at}", first_name="Ada", last_name="Lovelace") for at in range(1000))
        yield people


def driver_calls(people: PersonService, ids: Sequence[str]) -> int:
    """The calls of the database's driver itself for the rows of these ids, cursor and all."""
    places = ", ".join([{"pysqlite": "?", "pymysql": "%s"}[people.engine.driver]] * len(ids))
    query = f"SELECT id, first_name, last_name, version FROM person WHERE id IN ({places})"
    with people.read_engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None

        def read() -> None:
            cursor = driver.cursor()
            cursor.execute(query, ids)
            cursor.fetchall()
            cursor.close()

        return len(calls_of(read))


def test_a_get_from_the_database_makes_few_calls_beside_the_drivers(people: PersonService) -> None:
    """Some 60, of which 35 are the pool's; with SQLAlchemy's execution and result it would be some 130."""
    made = calls_of(lambda: people.get("p7"))

    assert people.get("p7") is not None
    assert len(made) - driver_calls(people, ["p7"]) <= 75, "\n".join(made)


def test_a_get_of_many_from_the_database_makes_few_calls_for_each(people: PersonService) -> None:
    """The id looked at, the object and its state made, and the ends of these: on the way from the driver's cursor
    there is nothing for each row.
    """
    few, many = [f"p{at}" for at in range(256)], [f"p{at}" for at in range(512)]
    ours = [len(calls_of(lambda ids=ids: people.get_many(ids))) for ids in (few, many)]  # type: ignore[misc]
    drivers = [driver_calls(people, ids) for ids in (few, many)]

    assert len(people.get_many(many)) == 512
    assert (ours[1] - ours[0] - (drivers[1] - drivers[0])) / 256 <= 9


def test_a_get_of_many_from_the_database_is_compiled_once_for_each_power_of_two(
    people: PersonService, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[object] = []
    compile = sa.Select.compile
    monkeypatch.setattr(
        sa.Select, "compile", lambda self, *args, **kwargs: compiled.append(self) or compile(self, *args, **kwargs)
    )
    for count in range(1, 101):
        assert len(people.get_many([f"p{at}" for at in range(count)])) == count

    assert len(compiled) <= 8  # 1, 2, 4 ... 128


class HostBase(orm.DeclarativeBase):
    """The models of an imagined host."""


class Note(HostBase):
    """A table that no cache knows."""

    __tablename__ = "note"

    id: orm.Mapped[int] = orm.mapped_column(primary_key=True, autoincrement=False)
    text: orm.Mapped[str] = orm.mapped_column(sa.String(200))


def ours(made: Sequence[str]) -> list[str]:
    """The calls of the write side."""
    return [name for name in made if name.startswith(("writing.", "mapped."))]


@pytest.mark.parametrize(
    ("entity", "id", "name", "most"),
    [(None, None, None, 10), (Note, 1, "text", 16), (Person, "p7", "first_name", 48)],
    ids=["a query", "of another table", "of one person"],
)
def test_a_transaction_makes_few_calls_of_the_write_side(
    people: PersonService, entity: type[Any], id: Any, name: str, most: int
) -> None:
    """A SELECT passes at once; a flushed statement's form is examined once, and its parameters name the rows."""
    HostBase.metadata.create_all(people.engine)
    sessions = orm.sessionmaker(people.engine)
    numbers = itertools.count()
    with sessions() as session, session.begin():
        session.add(Note(id=1, text="first"))

    def transaction() -> None:
        with sessions() as session, session.begin():
            if entity is None:
                session.execute(sa.text("SELECT 1"))
            else:
                setattr(session.get_one(entity, id), name, f"changed {next(numbers)}")

    for _ in range(3):
        transaction()
    made = ours(calls_of(transaction))

    assert 0 < len(made) <= most, "\n".join(made)


def test_a_core_statement_by_a_literal_key_is_examined_once_at_each_execution(people: PersonService) -> None:
    """Its form is known not to name the rows, so it is not examined a second time for a form."""
    numbers = itertools.count()
    changed = sa.update(Person.__table__).where(Person.__table__.c.id == "p7")

    def transaction() -> None:
        with people.engine.begin() as connection:
            connection.execute(changed.values(first_name=f"changed {next(numbers)}"))

    for _ in range(3):
        transaction()
    made = ours(calls_of(transaction))

    assert 0 < len(made) <= 129, "\n".join(made)


@pytest.fixture
def uncovered(people_engine: sa.Engine) -> Iterator[sa.Engine]:
    """An engine over the same database."""
    engine = sa.create_engine(people_engine.url)
    yield engine
    engine.dispose()


def test_a_covered_engine_has_no_listener(people: PersonService) -> None:
    """With one, SQLAlchemy would take a longer way through each statement of the host's."""
    people.update("p7", first_name="changed")

    assert not people.engine._has_events
    assert not people.engine.dialect._has_events


@pytest.mark.parametrize(
    ("statement", "most"),
    [(sa.select(Note), 13), (sa.update(Note).values(text="changed"), 15)],
    ids=["query", "update"],
)
def test_a_transaction_elsewhere_makes_few_calls_more_on_a_covered_engine(
    people: PersonService, uncovered: sa.Engine, statement: sa.Executable, most: int
) -> None:
    """SQLAlchemy's and ours together. With listeners it would be some eighty of SQLAlchemy's alone."""
    HostBase.metadata.create_all(people.engine)
    made = []
    for engine in (uncovered, people.engine):

        def transaction(engine: sa.Engine = engine) -> None:
            with engine.begin() as connection:
                connection.execute(statement)

        for _ in range(3):
            transaction()
        made.append(calls_of(transaction))

    assert ours(made[1])
    assert len(made[1]) - len(made[0]) <= most, "\n".join(made[1])
