"""The ways of writing. Each leaves the row with the text and returns False, or deletes it: True."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import orm

from person_repo.testing.torture.rows import UNCOMMITTED, Row

__all__ = ["WAYS", "Way"]

Way = Callable[[orm.Session, Row, str], bool]
"""Called with a session, the row and the text."""


def _by_attribute(session: orm.Session, row: Row, text: str) -> bool:
    entity = session.get(row.entity, row.id)
    if entity is None:
        session.add(row.new(text))
    else:
        setattr(entity, row.attribute, text)
    return False


def _by_orm_update(session: orm.Session, row: Row, text: str) -> bool:
    changed: Any = session.execute(sa.update(row.entity).where(row.is_in(row.table)).values({row.attribute: text}))
    if not changed.rowcount:
        session.add(row.new(text))
    return False


def _by_other_criteria(session: orm.Session, row: Row, text: str) -> bool:
    entity = session.get(row.entity, row.id)
    if entity is None:
        session.add(row.new(text))
        return False
    old = getattr(entity, row.attribute)
    changed = sa.update(row.entity).values({row.attribute: text})
    session.execute(changed.where(row.text == old, row.is_in(row.table)))
    session.execute(changed.where(row.text == text))
    return False


def _by_core(session: orm.Session, row: Row, text: str) -> bool:
    changed = session.connection().execute(
        sa.update(row.table)
        .where(row.table.c.id == sa.bindparam("key"))
        .values({row.attribute: sa.bindparam("new_text")}),
        {"key": row.id, "new_text": text},
    )
    if not changed.rowcount:
        _insert(session, row, text)
    return False


def _insert(session: orm.Session, row: Row, text: str) -> None:
    for table, values in row.values(text):
        session.connection().execute(sa.insert(table), [values])


def _by_text(session: orm.Session, row: Row, text: str) -> bool:
    statement = sa.text(f"UPDATE {row.table.name} SET {row.attribute} = :text WHERE id = :id")
    changed: Any = session.execute(statement, {"text": text, "id": row.id})
    if not changed.rowcount:
        session.add(row.new(text))
    return False


def _by_delete(session: orm.Session, row: Row, text: str) -> bool:
    entity = session.get(row.entity, row.id)
    if entity is not None:
        session.delete(entity)
    return True


def _by_orm_delete(session: orm.Session, row: Row, text: str) -> bool:
    for table in reversed(row.tables):
        session.execute(sa.delete(row.entity if table is row.table else table).where(row.is_in(table)))
    return True


def _by_reinsert(session: orm.Session, row: Row, text: str) -> bool:
    _by_orm_delete(session, row, text)
    _insert(session, row, text)
    return False


def _by_savepoint(session: orm.Session, row: Row, text: str) -> bool:
    with session.begin_nested():
        return _by_attribute(session, row, text)


def _after_failed_savepoint(session: orm.Session, row: Row, text: str) -> bool:
    nested = session.begin_nested()
    _by_orm_update(session, row, UNCOMMITTED)
    nested.rollback()
    session.expire_all()
    return _by_attribute(session, row, text)


# Text drops the whole model, and with it most hits: it is one way in forty.
WAYS: Final[tuple[Way, ...]] = (
    *[_by_attribute, _by_orm_update, _by_other_criteria, _by_core, _by_reinsert, _by_savepoint] * 5,
    *[_after_failed_savepoint, _by_delete, _by_orm_delete] * 3,
    _by_text,
)
