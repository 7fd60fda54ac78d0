"""The keys of the rows that an update or a delete changes, from its criteria. Cases, in the order of the code:

1. it sets a part of the primary key to a value that only the database computes: any rows;
2. its criteria fix the primary key (``key = value``, ``key IN (values)``): those keys, and the new ones if it sets any;
3. they fix one key, but the database may take another one for equal (a collation): on MySQL it is asked how the row
   spells it, by a query that locks just the row that the statement is about to lock. Only inside a transaction that
   keeps the lock, and if no key is set;
4. any other criteria: any rows, unless the statement itself can say which (``returning``). No query of ours could:
   it would see another snapshot than the statement, lock more, or need another right.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic

import sqlalchemy as sa
from sqlalchemy.sql import dml, elements, operators

from person_repo.database.marks import OWN
from person_repo.mapped.mapping import Identity
from person_repo.writing.clauses import (
    Missing,
    Parameters,
    column_of,
    criteria_of,
    fixed_values,
    is_same_table,
    plain,
    value_in,
)
from person_repo.writing.tables import Change, W, WatchedTable

__all__ = ["CriteriaWrite"]


@dataclass(frozen=True, slots=True)
class CriteriaWrite(Generic[W]):
    """An update or a delete with its parameter sets, as one watched table sees it.

    ``target``: the table object in the statement, which need not be ``table.table``.
    """

    statement: dml.Update | dml.Delete
    parameters: Parameters
    table: W
    target: Any

    def change(
        self, connection: sa.Connection, *, most: int, may_ask: Callable[[], bool], options: Mapping[str, Any]
    ) -> Change[W]:
        """The rows that it changes; see the module for the cases.

        ``most``: more rows than this are any rows. ``may_ask``: False if the locks on rows asked for would not last.
        ``options``: the statement's execution options, which may translate its schemas.
        """
        moves = self.moves()
        if moves is None:
            return Change(self.table, None)
        named = self._named(most)
        if named is not None and self.table.compares_exactly(connection.dialect):
            return Change(self.table, [*itertools.chain(*named), *_moved(named, moves)])
        if moves or len(self.parameters) > 1:
            return Change(self.table, None)
        is_one = named is not None and len(named[0]) == 1
        if named is not None and is_one and connection.dialect.name in ("mysql", "mariadb") and may_ask():
            question = {"schema_translate_map": options.get("schema_translate_map"), OWN: True}
            return Change(self.table, self._ask(connection, named[0][0], question), counted=True)
        return Change(self.table, None, returned=True)

    def key_sides(self) -> list[Any] | None:
        """For each column of the primary key, the right side of the criterion that fixes it; None if one has none."""
        sides: dict[str, Any] = {}
        for criterion in _conjunction(criteria_of(self.statement)):
            if not isinstance(criterion, elements.BinaryExpression):
                continue
            if criterion.operator not in (operators.eq, operators.in_op):
                continue
            left, right = criterion.left, criterion.right
            if criterion.operator is operators.eq and self._name_in_target(left) is None:
                left, right = right, left
            name = self._name_in_target(left)
            if name is not None and name in self.table.key_names:
                sides.setdefault(name, right)
        return [sides[name] for name in self.table.key_names] if len(sides) == len(self.table.key_names) else None

    def moves(self) -> list[dict[int, Any]] | None:
        """For each parameter set, the new values of the primary key's parts, by index; [] if it sets none; None if only
        the database can compute one.
        """
        if isinstance(self.statement, dml.Delete):
            return []
        if self.table.computes_keys:
            return None
        fixed = fixed_values(self.statement)
        keys = {name: getattr(column_of(self.target, name), "key", name) for name in self.table.key_names}
        if not any(name in fixed for name in keys) and not any(
            key in given for given in self.parameters for key in keys.values()
        ):
            return []
        moves: list[dict[int, Any]] = []
        for given in self.parameters or [{}]:
            parts: dict[int, Any] = {}
            for index, (name, key) in enumerate(keys.items()):
                if name in fixed or key in given:
                    value = fixed[name] if name in fixed else given[key]
                    value = value_in(column_of(self.target, name), value, given, self.table, name)
                    stored = self._stored(index, value)
                    if stored is None:
                        return None
                    parts[index] = stored
            moves.append(parts)
        return moves

    def _stored(self, index: int, value: Any) -> Any:
        """A part of the primary key as the row holds it; None if only the database knows."""
        if isinstance(value, Missing) or self.table.rewrites_keys():
            return None
        return self.table.stored_part(index, value)

    def _name_in_target(self, side: Any) -> str | None:
        """The name of a column of the target; None for anything else, a column of another table included."""
        table = getattr(side, "table", None)
        if not isinstance(side, elements.ColumnClause):
            return None
        return side.name if table is self.target or is_same_table(table, self.target) else None

    def _named(self, most: int) -> list[list[Identity]] | None:
        """For each parameter set, the keys that its criteria allow; None if they allow any."""
        sides = self.key_sides()
        if sides is None:
            return None
        named: list[list[Identity]] = []
        for given in self.parameters or [{}]:
            pairs = zip(self.table.key_names, sides, strict=True)
            choices = [_choices(side, given, self.table, name) for name, side in pairs]
            if any(choice is None for choice in choices):
                return None
            product = itertools.product(*[choice for choice in choices if choice is not None])
            # One more than the most is enough to see that there are too many.
            stored = [self.table.stored_identity(values) for values in itertools.islice(product, most + 1)]
            if None in stored:
                return None
            named.append([identity for identity in stored if identity is not None])
        return named

    def _ask(self, connection: sa.Connection, identity: Identity, options: Mapping[str, Any]) -> list[Identity] | None:
        """The key of the row that has this one, as the row spells it, locked until the transaction ends; None if the
        target has no such columns.

        A row that comes between this and the statement is no matter: the statement then matches more rows than were
        found here, and the caller compares. The lock on one that was found keeps others from coming.
        """
        columns = [column_of(self.target, name) for name in self.table.key_names]
        if any(column is None for column in columns) or not self.table.mapping.key_fields:
            return None
        types = [key.column.type for key in self.table.mapping.key_fields]
        values = [sa.literal(value, type_) for value, type_ in zip(identity, types, strict=True)]
        query = (
            sa.select(*[sa.type_coerce(column, type_) for column, type_ in zip(columns, types, strict=True)])
            .where(*[column == value for column, value in zip(columns, values, strict=True)])
            .with_for_update()
        )
        return [tuple(row) for row in connection.execute(query, execution_options=options)]


def _conjunction(criteria: Iterable[Any]) -> Iterator[Any]:
    """The criteria that are joined by AND, however deep."""
    for criterion in criteria:
        if isinstance(criterion, elements.BooleanClauseList) and criterion.operator is operators.and_:
            yield from _conjunction(criterion.clauses)
        elif isinstance(criterion, elements.Grouping):
            yield from _conjunction([criterion.element])
        else:
            yield criterion


def _choices(side: Any, given: Mapping[str, Any], table: WatchedTable, name: str) -> list[Any] | None:
    """The values that the right side of a criterion on a column of the key allows; None if only the database knows."""
    if isinstance(side, elements.Grouping):
        return _choices(side.element, given, table, name)
    if isinstance(side, elements.ClauseList):
        parts = [_choices(part, given, table, name) for part in side.clauses]
        return None if None in parts else [value for part in parts if part is not None for value in part]
    value = plain(side, given, table, name)
    if isinstance(value, Missing):
        return None
    if isinstance(side, elements.BindParameter) and side.expanding:
        return list(value)
    return [value]


def _moved(named: Iterable[Sequence[Identity]], moves: Iterable[dict[int, Any]]) -> Iterator[Identity]:
    """The new keys of rows whose primary key is set: for each parameter set, every old key with the new parts."""
    for identities, parts in zip(named, moves, strict=False):
        for identity in identities:
            yield tuple(parts.get(index, value) for index, value in enumerate(identity))
