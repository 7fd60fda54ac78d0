"""Statements that are sent otherwise than their clauses say: rewritten by a host's listener, in their text or their
parameters, by a compiler of the host's, or given another meaning by the table's definition (SQLite's ON CONFLICT).
"""

from __future__ import annotations

import copy
import re
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine.interfaces import ExecuteStyle
from sqlalchemy.sql import dml

from person_repo.writing.clauses import has_conflict_clause, replaces

__all__ = ["KEPT", "has_other_parameters", "is_rewritten", "keep_parameters", "replaces_unseen"]

KEPT: Final = "person_repo_parameters"
"""The attribute of an execution context that holds its text and copies of its parameters, from before listeners saw
them.
"""

_KNOWN: Final = "person_repo_replaces"
"""The attribute of a table that says whether its definition has SQLite replace rows."""

_REPLACES: Final = re.compile(
    r"(?:\s|/\*.*?\*/)*(?:REPLACE|(?:INSERT|UPDATE)\s+OR\s+REPLACE)\b", re.IGNORECASE | re.DOTALL
)

_CONFLICTS: Final = re.compile(r"\bON\s+(?:CONFLICT|DUPLICATE\s+KEY)\b", re.IGNORECASE)

_COMMENTS: Final = re.compile(r"(?:\s|/\*(?!M?!).*?\*/|--(?=\s|$)[^\n]*(?:\n|$))*", re.DOTALL)


def keep_parameters(context: Any) -> None:
    """Copy a statement's text and parameters before its listeners see them."""
    parameters: list[Any] = []
    if context.execute_style is not ExecuteStyle.INSERTMANYVALUES:
        parameters = [copy.copy(each) for each in context.parameters]
    context.__dict__[KEPT] = getattr(context, "statement", None), parameters


def is_rewritten(context: Any, statement: str) -> bool:
    """True if a text is not that of its context, comments around it apart. An insert that is sent in several parts
    never counts as rewritten.
    """
    kept = context.__dict__.get(KEPT)
    text: str = str((kept[0] if kept else None) or getattr(context, "statement", statement))
    if statement == text or context.execute_style is ExecuteStyle.INSERTMANYVALUES:
        return False
    before, found, after = statement.partition(text)
    return not (found and _COMMENTS.fullmatch(before) and _COMMENTS.fullmatch(after))


def has_other_parameters(context: Any, parameters: Any) -> bool:
    """True if the parameters that are sent are not those that SQLAlchemy made; never of such an insert."""
    kept = context.__dict__.get(KEPT)
    if kept is None or context.execute_style is ExecuteStyle.INSERTMANYVALUES:
        return False
    return bool(kept[1] != ([*parameters] if context.executemany else [parameters]))


def replaces_unseen(write: dml.UpdateBase, text: str, dialect: sa.Dialect) -> bool:
    """True if a statement changes or deletes the rows that it conflicts with, and its clauses do not say so. ``text``:
    its SQL.
    """
    if _REPLACES.match(text):
        return not (isinstance(write, dml.Insert) and replaces(write))
    if isinstance(write, dml.Insert) and not has_conflict_clause(write) and _CONFLICTS.search(text):
        return True
    if dialect.name != "sqlite" or isinstance(write, dml.Delete) or not isinstance(write.table, sa.Table):
        return False
    known: bool | None = write.table.__dict__.get(_KNOWN)
    return _replaces(write.table) if known is None else known


def _replaces(table: sa.Table) -> bool:
    resolutions = [constraint.dialect_options["sqlite"]["on_conflict"] for constraint in table.constraints]
    for kind in ("not_null", "primary_key", "unique"):
        resolutions += [column.dialect_options["sqlite"][f"on_conflict_{kind}"] for column in table.c]
    found = table.__dict__[_KNOWN] = any(str(resolution).upper() == "REPLACE" for resolution in resolutions)
    return found
