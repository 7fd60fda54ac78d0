"""The ways of writing. Each leaves the person with the text as last name and returns False, or deletes it: True."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import orm

from person_repo.model import Person
from person_repo.testing.torture.rows import UNCOMMITTED

__all__ = ["WAYS", "Way"]

Way = Callable[[orm.Session, str, str], bool]
"""Called with a session, a person's id and the text."""


def _by_attribute(session: orm.Session, id: str, text: str) -> bool:
    person = session.get(Person, id)
    if person is None:
        session.add(Person(id, "torture", text))
    else:
        person.last_name = text
    return False


def _by_orm_update(session: orm.Session, id: str, text: str) -> bool:
    changed: Any = session.execute(sa.update(Person).where(Person.id == id).values(last_name=text))
    if not changed.rowcount:
        session.add(Person(id, "torture", text))
    return False


def _by_other_criteria(session: orm.Session, id: str, text: str) -> bool:
    person = session.get(Person, id)
    if person is None:
        session.add(Person(id, "torture", text))
        return False
    session.execute(
        sa.update(Person).where(Person.last_name == person.last_name, Person.id == id).values(last_name=text)
    )
    session.execute(sa.update(Person).where(Person.last_name == text).values(first_name="torture"))
    return False


def _by_core(session: orm.Session, id: str, text: str) -> bool:
    table = Person.__table__
    assert isinstance(table, sa.Table)
    changed = session.connection().execute(
        table.update().where(table.c.id == sa.bindparam("key")).values(last_name=sa.bindparam("text")),
        {"key": id, "text": text},
    )
    if not changed.rowcount:
        session.connection().execute(
            table.insert(), [{"id": id, "first_name": "torture", "last_name": text, "version": 1}]
        )
    return False


def _by_text(session: orm.Session, id: str, text: str) -> bool:
    changed = session.execute(sa.text("UPDATE person SET last_name = :text WHERE id = :id"), {"text": text, "id": id})
    if not changed.rowcount:  # type: ignore[attr-defined]
        session.add(Person(id, "torture", text))
    return False


def _by_delete(session: orm.Session, id: str, text: str) -> bool:
    person = session.get(Person, id)
    if person is not None:
        session.delete(person)
    return True


def _by_orm_delete(session: orm.Session, id: str, text: str) -> bool:
    session.execute(sa.delete(Person).where(Person.id == id))
    return True


def _by_reinsert(session: orm.Session, id: str, text: str) -> bool:
    session.execute(sa.delete(Person).where(Person.id == id))
    session.execute(sa.insert(Person), [{"id": id, "first_name": "torture", "last_name": text}])
    return False


def _by_savepoint(session: orm.Session, id: str, text: str) -> bool:
    with session.begin_nested():
        return _by_attribute(session, id, text)


def _after_failed_savepoint(session: orm.Session, id: str, text: str) -> bool:
    nested = session.begin_nested()
    _by_orm_update(session, id, UNCOMMITTED)
    nested.rollback()
    session.expire_all()
    return _by_attribute(session, id, text)


# Text drops the whole model, and with it most hits: it is one way in forty.
WAYS: Final[tuple[Way, ...]] = (
    *[_by_attribute, _by_orm_update, _by_other_criteria, _by_core, _by_reinsert, _by_savepoint] * 5,
    *[_after_failed_savepoint, _by_delete, _by_orm_delete] * 3,
    _by_text,
)
