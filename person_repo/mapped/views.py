"""The tables under a view, as its ``Table`` declares them: ``info={"person_repo": {"view_of": "person"}}``. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import sqlalchemy as sa

from person_repo.exceptions import ConfigurationError

__all__ = ["EXAMPLE", "tables_under"]

_OURS: Final = "person_repo"
_BASES: Final = "view_of"

EXAMPLE: Final = 'info={"person_repo": {"view_of": "person"}}'
"""A declaration, for messages."""


def tables_under(table: Any) -> frozenset[str] | None:
    """The names, in lower case, of the tables that a view shows, of views under it, too; None for a table that is not
    declared to be a view. ``table``: as a statement has it.

    A declaration has a table, its name with or without a schema, or a list of these. Raises ``ConfigurationError`` for
    any other.
    """
    if _bases_of(table) is None:
        return None
    found: set[str] = set()
    todo = [table]
    while todo:
        for base in _bases_of(todo.pop()) or ():
            known = base if isinstance(base, sa.Table) else table.metadata.tables.get(base)
            name = (base.name if isinstance(base, sa.Table) else base.rpartition(".")[2]).lower()
            if name not in found:
                found.add(name)
                todo += [] if known is None else [known]
    return frozenset(found)


def _bases_of(table: Any) -> list[sa.Table | str] | None:
    if not isinstance(table, sa.Table) or not (ours := table.info.get(_OURS)):
        return None
    bases = ours.get(_BASES) if isinstance(ours, Mapping) else None
    listed: list[Any] = [*bases] if isinstance(bases, (list, tuple, set, frozenset)) else [bases]
    if not listed or not all(isinstance(base, sa.Table) or (isinstance(base, str) and base) for base in listed):
        raise ConfigurationError(
            f"the info of {table.fullname} has {ours!r:.120} for person_repo; a view names the tables under it, as "
            f"tables or by their names: {EXAMPLE}"
        )
    return listed
