"""The rows that a run works on: people whose last name carries a version, and a ledger that numbers the versions."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import sqlalchemy as sa
from sqlalchemy import orm

from person_repo import migrations
from person_repo.model import Person
from person_repo.service import connect
from person_repo.testing.torture.history import ABSENT, Version
from person_repo.testing.torture.plan import Plan

__all__ = ["FIRST", "UNCOMMITTED", "id_of", "ledger_of", "prepared", "text_of", "version_of"]

FIRST = Version(0, 0, 0)
"""The version of every person at the start."""

UNCOMMITTED = "of a savepoint that is rolled back"
"""A last name that is never committed."""

_NEVER_WRITTEN = Version(-2, -2, -2)

_metadata = sa.MetaData()


@contextlib.contextmanager
def prepared(plan: Plan) -> Iterator[None]:
    """Adds the people and the ledger of a run, and removes both after the block."""
    with connect(plan.database_url, plan.cache_url) as people:
        migrations.upgrade(people.engine)
        ledger = ledger_of(plan.prefix)
        ledger.create(people.engine)
        ids = [id_of(plan, key) for key in range(plan.keys)]
        try:
            with people.engine.begin() as connection:
                connection.execute(sa.insert(ledger), [{"id": id, "number": 0} for id in ids])
            people.add_many(Person(id, "torture", text_of(FIRST)) for id in ids)
            yield
        finally:
            with orm.Session(people.engine) as session, session.begin():
                session.execute(sa.delete(Person).where(Person.id.in_(ids)))
            ledger.drop(people.engine)


def ledger_of(prefix: str) -> sa.Table:
    """The table with one row for each key: its latest number, and the lock under which writers draw the next."""
    name = prefix.replace("-", "_") + "ledger"
    known = _metadata.tables.get(name)
    if known is not None:
        return known
    id = sa.Column("id", sa.String(100), primary_key=True)
    return sa.Table(name, _metadata, id, sa.Column("number", sa.Integer, nullable=False))


def id_of(plan: Plan, key: int) -> str:
    """The id of the person with a key."""
    return f"{plan.prefix}{key}"


def text_of(version: Version) -> str:
    """A version as a last name."""
    return f"{version.number}.{version.writer}.{version.serial}"


def version_of(person: Person | None) -> Version:
    """The version that a read found."""
    if person is None:
        return ABSENT
    try:
        number, writer, serial = map(int, person.last_name.split("."))
    except ValueError:
        return _NEVER_WRITTEN  # such as ``UNCOMMITTED``: the check calls it a phantom
    return Version(number, writer, serial)
