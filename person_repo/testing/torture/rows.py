"""The rows that a run works on, each with a text that carries a version, and a ledger that numbers the versions.

They are of three classes: people, notes with a number for a key, and dogs, whose rows lie in two joined tables.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import orm

from person_repo import migrations
from person_repo.declare import cached
from person_repo.model import ExactString, Person
from person_repo.service import connect
from person_repo.testing.torture.history import ABSENT, Version
from person_repo.testing.torture.plan import Plan

__all__ = [
    "FIRST",
    "UNCOMMITTED",
    "Classes",
    "Row",
    "classes_of",
    "id_of",
    "ledger_of",
    "prepared",
    "row_of",
    "text_of",
    "version_of",
]

FIRST = Version(0, 0, 0)
"""The version of every row at the start."""

UNCOMMITTED = "of a savepoint that is rolled back"
"""A text that is never committed."""

_NEVER_WRITTEN = Version(-2, -2, -2)

_metadata = sa.MetaData()


class Classes(NamedTuple):
    """The classes of a run beside ``Person``: of one table; the root of a joined hierarchy, and its subclass."""

    note: Any
    animal: Any
    dog: Any


@dataclass(frozen=True)
class Row:
    """One row: the object of ``entity`` with this ``id``, which a service over ``root`` reads.

    ``attribute``: the name of the one with the text. ``new(text)``: an object.
    """

    root: Any
    entity: Any
    id: Any
    attribute: str
    new: Callable[[str], Any]

    @property
    def tables(self) -> list[Any]:
        """Those that have a part of it, the root's first."""
        return [mapper.local_table for mapper in reversed(list(sa.inspect(self.entity).iterate_to_root()))]

    @property
    def table(self) -> Any:
        """The table with the text."""
        return self.tables[-1]

    @property
    def text(self) -> Any:
        """The column of the text."""
        return self.table.c[self.attribute]

    def is_in(self, table: Any) -> Any:
        """The criterion that finds it in one of its tables."""
        return table.c.id == self.id

    def values(self, text: str) -> list[tuple[Any, dict[str, Any]]]:
        """The values of a new row in each of its tables."""
        return [
            (table, {name: value for name, value in self._values(text).items() if name in table.c})
            for table in self.tables
        ]

    def _values(self, text: str) -> dict[str, Any]:
        of_person = {"first_name": "torture", "version": 1}
        return {"id": self.id, "kind": "dog", self.attribute: text, **of_person}


@contextlib.contextmanager
def prepared(plan: Plan) -> Iterator[None]:
    """Adds the rows and the tables of a run, and removes both after the block."""
    with connect(plan.database_url, plan.cache_url) as people:
        migrations.upgrade(people.engine)
        ledger, own = ledger_of(plan.prefix), classes_of(plan.prefix).note.metadata
        ledger.create(people.engine)
        try:
            own.create_all(people.engine)
            with people.engine.begin() as connection:
                connection.execute(
                    sa.insert(ledger), [{"id": id_of(plan, key), "number": 0} for key in range(plan.keys)]
                )
            with orm.Session(people.engine) as session, session.begin():
                session.add_all(row_of(plan, key).new(text_of(FIRST)) for key in range(plan.keys))
            yield
        finally:
            ids = [id_of(plan, key) for key in range(plan.keys)]
            with orm.Session(people.engine) as session, session.begin():
                session.execute(sa.delete(Person).where(Person.id.in_(ids)))
            own.drop_all(people.engine)
            ledger.drop(people.engine)


def ledger_of(prefix: str) -> sa.Table:
    """The table with one row for each key: its latest number, and the lock under which writers draw the next."""
    name = _name(prefix, "ledger")
    known = _metadata.tables.get(name)
    if known is not None:
        return known
    id = sa.Column("id", sa.String(100), primary_key=True)
    return sa.Table(name, _metadata, id, sa.Column("number", sa.Integer, nullable=False))


def _name(prefix: str, table: str) -> str:
    return f"{prefix.replace('-', '_')}{table}"


@functools.lru_cache(maxsize=1)
def classes_of(prefix: str) -> Classes:
    """Maps and declares the classes of a run, whose tables have names of their own."""
    base: Any = orm.declarative_base()

    class Note(base):  # type: ignore[misc]
        __tablename__ = _name(prefix, "note")
        __table_args__ = {"mysql_engine": "InnoDB", "mariadb_engine": "InnoDB"}
        id: orm.Mapped[int] = orm.mapped_column(primary_key=True, autoincrement=False)
        text: orm.Mapped[str] = orm.mapped_column(ExactString(200))

    class Animal(base):  # type: ignore[misc]
        __tablename__ = _name(prefix, "animal")
        __table_args__ = {"mysql_engine": "InnoDB", "mariadb_engine": "InnoDB"}
        id: orm.Mapped[str] = orm.mapped_column(ExactString(100), primary_key=True)
        kind: orm.Mapped[str] = orm.mapped_column(ExactString(20))
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "animal"}

    class Dog(Animal):
        __tablename__ = _name(prefix, "dog")
        __table_args__ = {"mysql_engine": "InnoDB", "mariadb_engine": "InnoDB"}
        id: orm.Mapped[str] = orm.mapped_column(sa.ForeignKey(Animal.__table__.c.id), primary_key=True)
        text: orm.Mapped[str] = orm.mapped_column(ExactString(200))
        __mapper_args__ = {"polymorphic_identity": "dog"}

    return Classes(cached(Note), cached(Animal), Dog)


def id_of(plan: Plan, key: int) -> str:
    """The id of a key in the ledger, and of its row where ids are strings."""
    return f"{plan.prefix}{key}"


def row_of(plan: Plan, key: int) -> Row:
    """The row of a key: a person, a note or a dog in turn."""
    note, animal, dog = classes_of(plan.prefix)
    id = id_of(plan, key)
    if key % 3 == 0:
        return Row(Person, Person, id, "last_name", lambda text: Person(id, "torture", text))
    if key % 3 == 1:
        return Row(note, note, key, "text", lambda text: note(id=key, text=text))
    return Row(animal, dog, id, "text", lambda text: dog(id=id, text=text))


def text_of(version: Version) -> str:
    """A version as a text."""
    return f"{version.number}.{version.writer}.{version.serial}"


def version_of(row: Row, entity: Any) -> Version:
    """The version that a read of a row found."""
    if entity is None:
        return ABSENT
    try:
        number, writer, serial = map(int, getattr(entity, row.attribute).split("."))
    except ValueError:
        return _NEVER_WRITTEN  # such as ``UNCOMMITTED``: the check calls it a phantom
    return Version(number, writer, serial)
