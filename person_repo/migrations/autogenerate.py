"""The two options with which the autogenerate of a host's alembic leaves our tables alone and writes our type."""

from __future__ import annotations

from typing import Any, Literal

import sqlalchemy as sa
from alembic.autogenerate.api import AutogenContext

from person_repo.model import ExactString, Person

__all__ = ["include_object", "render_item"]

_OURS = "person_repo_"
"""The names of the layer's tables begin with this."""


def include_object(object: Any, name: str | None, type_: str, reflected: bool, compare_to: Any) -> bool:
    """False for the tables that this package migrates, True for all else.

    For ``context.configure(include_object=...)`` in an ``env.py``; without it, autogenerate proposes to drop them. A
    table ``person`` of the host's own stays the host's: one in the database is ours if no table of the metadata has its
    name, and it has the columns of ``Person``.

    A host with a function of its own calls both: ``include_object(*args) and mine(*args)``.
    """
    if type_ != "table":
        return True
    is_person = object is Person.__table__ or (reflected and compare_to is None and _has_columns_of_person(object))
    return not is_person and not (name or "").startswith(_OURS)


def _has_columns_of_person(table: sa.Table) -> bool:
    return table.name == Person.__tablename__ and set(table.columns.keys()) == set(Person.__table__.columns.keys())


def render_item(type_: str, obj: Any, autogen_context: AutogenContext) -> str | Literal[False]:
    """The text of a column's type ``ExactString`` in a revision, which then imports it; False for all else.

    For ``context.configure(render_item=...)`` in an ``env.py``; without it, autogenerate writes
    ``person_repo.model.ExactString`` and no import, and the revision ends with a ``NameError``.

    A host with a function of its own calls both: ``render_item(*args) or mine(*args)``.
    """
    if type_ != "type" or type(obj) is not ExactString:
        return False
    autogen_context.imports.add("from person_repo import ExactString")
    return f"ExactString({'' if obj.length is None else obj.length})"
