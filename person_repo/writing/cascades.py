"""Rows that change because others do: the foreign-key actions that the metadata declares. No event reports them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Generic

import sqlalchemy as sa
from sqlalchemy.sql import dml

from person_repo.writing.clauses import Parameters, has_conflict_clause, replaces, set_columns, targets_of
from person_repo.writing.sqltext import has_name, words_of
from person_repo.writing.tables import W

__all__ = ["Cascades"]


class Cascades(Generic[W]):
    """The watched tables that a statement changes through foreign keys, however far.

    A table that may be reached is named as a whole: only the database knows which rows refer to the changed ones.
    """

    def __init__(self, watched: Sequence[W]) -> None:
        self._watched = watched
        self._metadatas = list({id(table.table.metadata): table.table.metadata for table in watched}.values())
        self._tables = [metadata.tables for metadata in self._metadatas]
        self._known: dict[tuple[str, bool], list[tuple[frozenset[str], list[W]]]] = {}
        self._known_of = 0

    @property
    def size(self) -> int:
        """The number of tables whose foreign keys count here. It grows when a host maps more classes later."""
        return sum(map(len, self._tables))

    @property
    def tables(self) -> Iterator[sa.Table]:
        """The tables of the metadata of all watched ones."""
        return (table for metadata in self._metadatas for table in metadata.tables.values())

    def of_statement(self, statement: dml.UpdateBase, parameters: Parameters) -> list[W]:
        """The tables whose rows change because a row that they refer to is deleted, or its key updated."""
        reached: list[W] = []
        for by_update in _possible_actions(statement):
            for name in targets_of(statement):
                actions = self._actions_on(name, by_update)
                # Fast path: without an action on this table nobody needs the columns that the statement sets.
                columns = set_columns(statement, parameters) if by_update and actions else None
                for referred, tables in actions:
                    if columns is None or not columns.isdisjoint(referred):
                        reached += [table for table in tables if table not in reached]
        return reached

    def of_text(self, text: str) -> list[W]:
        """The tables that a change of any table named in SQL text may reach."""
        words, lower = words_of(text)
        named = {name for table in self.tables if has_name(name := table.name.lower(), words, lower)}
        return [
            table
            for name in named
            for by_update in (True, False)
            for _, tables in self._actions_on(name, by_update)
            for table in tables
        ]

    def _actions_on(self, name: str, by_update: bool) -> list[tuple[frozenset[str], list[W]]]:
        """For each foreign key that acts on a change of this table: the columns it refers to, and the watched tables
        that it changes.
        """
        size = self.size
        if size != self._known_of:
            self._known_of, self._known = size, {}
        known = self._known.get((name, by_update))
        if known is None:
            actions = [action for metadata in self._metadatas for action in _actions(metadata, name, by_update)]
            reached = [
                (referred, [table for table in self._watched if table.name in names or table.shown & names])
                for referred, names in actions
            ]
            known = self._known[name, by_update] = [action for action in reached if action[1]]
        return known


def _possible_actions(statement: dml.UpdateBase) -> list[bool]:
    """The foreign-key actions that a statement may cause: True for those on updates, False for those on deletions."""
    if not isinstance(statement, dml.Insert):
        return [isinstance(statement, dml.Update)]
    return [True] * has_conflict_clause(statement) + [False] * replaces(statement)


def _actions(metadata: sa.MetaData, name: str, by_update: bool) -> Iterator[tuple[frozenset[str], set[str]]]:
    """For each foreign key that acts on a change of a table: the columns it refers to, and the names of the tables
    whose rows it changes through declared actions, however far.

    A row that an action deletes is a deletion in turn; a row whose column it sets is an update.
    """
    for child, constraint in _acting(metadata, name, by_update):
        reached: set[tuple[str, bool]] = set()
        todo = [(child, by_update or not _deletes(constraint))]
        while todo:
            step = todo.pop()
            if step not in reached:
                reached.add(step)
                todo += [(further, step[1] or not _deletes(action)) for further, action in _acting(metadata, *step)]
        yield frozenset(element.column.name for element in constraint.elements), {child for child, _ in reached}


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
    except sa.exc.NoReferenceError:  # It refers to a table that no metadata knows, so not to this one.
        return False


def _deletes(constraint: sa.ForeignKeyConstraint) -> bool:
    return (constraint.ondelete or "").upper() == "CASCADE"
