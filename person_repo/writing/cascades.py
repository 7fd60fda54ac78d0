"""Rows that change because others do: the foreign-key actions that the metadata declares. No event tells of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Generic, TypeVar

import sqlalchemy as sa
from sqlalchemy.sql import dml

from person_repo.writing import statements as changes
from person_repo.writing.statements import Watched

__all__ = ["Cascades"]

W = TypeVar("W", bound=Watched)


class Cascades(Generic[W]):
    """Which of some watched models a statement changes by way of foreign keys, however far.

    Any model that may be reached is named as a whole: which of its rows refer to those that a statement changes, only
    the database knows.
    """

    def __init__(self, models: Sequence[W]) -> None:
        self._models = models
        self._metadatas = list({id(model.source.metadata): model.source.metadata for model in models}.values())
        self._tables = [metadata.tables for metadata in self._metadatas]
        self._known: dict[tuple[str, bool], list[tuple[frozenset[str], list[W]]]] = {}
        self._tables_seen = 0

    @property
    def tables(self) -> int:
        """How many tables there are, whose foreign keys count here: a host may map more classes later."""
        return sum(map(len, self._tables))

    def of_statement(self, statement: dml.UpdateBase, parameters: changes.Parameters) -> list[W]:
        """The models whose rows change because a row that they refer to is deleted, or its key updated."""
        found: list[W] = []
        for by_update in _ways_to_act(statement):
            for table in changes.targets_of(statement):
                # Most updates set no column that anything refers to.
                actions = self._actions_on(table, by_update)
                named = changes.set_columns(statement, parameters) if by_update and actions else None
                for referred, models in actions:
                    if named is None or not named.isdisjoint(referred):
                        found += [model for model in models if model not in found]
        return found

    def of_text(self, text: str) -> list[W]:
        """The models that a change of any table named in SQL text may reach."""
        words = {word.lower() for word in re.findall(r"\w+", text)}
        tables = {table.name.lower() for metadata in self._metadatas for table in metadata.tables.values()}
        return [
            model
            for table in tables & words
            for by_update in (True, False)
            for _, models in self._actions_on(table, by_update)
            for model in models
        ]

    def _actions_on(self, table: str, by_update: bool) -> list[tuple[frozenset[str], list[W]]]:
        """For each foreign key that acts on a change of this table: the columns it refers to, and the models that are
        changed by it.
        """
        seen = self.tables
        if seen != self._tables_seen:
            self._tables_seen, self._known = seen, {}
        found = self._known.get((table, by_update))
        if found is None:
            actions = [action for metadata in self._metadatas for action in _actions(metadata, table, by_update)]
            reached = [
                (referred, [model for model in self._models if model.table in names]) for referred, names in actions
            ]
            found = self._known[table, by_update] = [action for action in reached if action[1]]
        return found


def _ways_to_act(statement: dml.UpdateBase) -> list[bool]:
    """Whether the foreign-key actions on updates (True) and on deletions (False) may follow from a statement."""
    if not isinstance(statement, dml.Insert):
        return [isinstance(statement, dml.Update)]
    return [True] * (statement._post_values_clause is not None) + [False] * changes.replaces(statement)


def _actions(metadata: sa.MetaData, table: str, by_update: bool) -> Iterator[tuple[frozenset[str], set[str]]]:
    """For each foreign key that acts on a change of a table: the columns it refers to, and the tables whose rows that
    changes through declared actions, however far.

    A row that an action deletes is a deletion in turn, one whose column it sets is an update.
    """
    for child, constraint in _acting(metadata, table, by_update):
        reached: set[tuple[str, bool]] = set()
        todo = [(child, by_update or not _deletes(constraint))]
        while todo:
            step = todo.pop()
            if step not in reached:
                reached.add(step)
                todo += [
                    (name, step[1] or not _deletes(further)) for name, further in _acting(metadata, step[0], step[1])
                ]
        yield frozenset(element.column.name for element in constraint.elements), {name for name, _ in reached}


def _acting(metadata: sa.MetaData, parent: str, by_update: bool) -> Iterator[tuple[str, sa.ForeignKeyConstraint]]:
    for child in metadata.tables.values():
        for constraint in child.foreign_key_constraints:
            if _acts(constraint, parent, by_update):
                yield child.name.lower(), constraint


def _acts(constraint: sa.ForeignKeyConstraint, parent: str, by_update: bool) -> bool:
    action = constraint.onupdate if by_update else constraint.ondelete
    if action is None or action.upper() in ("NO ACTION", "RESTRICT"):
        return False
    try:
        return constraint.referred_table.name.lower() == parent
    except sa.exc.NoReferenceError:  # it refers to a table that no metadata knows, so not to this one
        return False


def _deletes(constraint: sa.ForeignKeyConstraint) -> bool:
    return (constraint.ondelete or "").upper() == "CASCADE"
