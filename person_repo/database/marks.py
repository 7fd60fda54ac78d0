"""Execution options that mark the statements sent by this package, for the write side to read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa

from person_repo.mapped.mapping import Identity

__all__ = ["DECLARED", "OWN", "DeclaredInsert"]

OWN = "person_repo_own"
"""Marks a statement whose changes need no examination: it changes nothing, or what it changes is recorded already."""

DECLARED = "person_repo_declared"
"""Marks an insert that SQLAlchemy did not compile; the option's value, a ``DeclaredInsert``, says what it changes."""


@dataclass(frozen=True, slots=True)
class DeclaredInsert:
    """The rows that an insert adds to ``table``.

    ``identities`` returns their primary keys, by the columns ``key_names``; None if it may add any rows.
    """

    table: sa.Table
    key_names: tuple[str, ...]
    identities: Callable[[], list[Identity] | None]
