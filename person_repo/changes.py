"""What a statement changes: the keys of the rows where they can be told, else whole models, never nothing.

Where a statement's keys are found, in this order:

1. inserts: in the values, or made by the database and read from the result afterwards;
2. updates and deletes by primary key: in the criteria and their parameters, as the unit of work and bulk statements
have them; 3. other updates and deletes: asked of the database by the same criteria, under the same locks, before; 4.
everything else (SQL text, an insert from a select, a conflict on another unique key, a cascade): the whole model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql import dml, elements, operators, visitors

from person_repo.mapping import EntityMapping, Identity

__all__ = ["OWN", "Change", "Parameters", "TextKind", "Watched", "kind_of_text", "of_statement"]

OWN = "person_repo_own"
"""The execution option of statements sent here: they change nothing that is not looked at already."""

Parameters = Sequence[Mapping[str, Any]]
"""The parameter sets of an execution, by name."""


@dataclass(eq=False)
class Watched:
    """A model whose changes are looked for: its mapping, and the names by which statements refer to its table."""

    mapping: EntityMapping[Any]
    table: str = field(init=False)
    key_names: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.table = self.mapping.table.name.lower()
        self.key_names = tuple(key.column.name for key in self.mapping.key_fields)
        self._in_text = re.compile(rf"(?<!\w){re.escape(self.table)}(?!\w)", re.IGNORECASE)

    def is_named_in(self, text: str) -> bool:
        """Whether SQL text speaks of the table, or of something that holds its name as a word."""
        return self._in_text.search(text) is not None

    def has_other_unique_keys(self) -> bool:
        """Whether the metadata declares a unique key beside the primary one, on which an insert can conflict too."""
        table = self.mapping.table
        constraints = any(isinstance(constraint, sa.UniqueConstraint) for constraint in table.constraints)
        return constraints or any(index.unique for index in table.indexes)

    def compares_exactly(self, dialect: sa.Dialect) -> bool:
        """Whether ``=`` on the primary key finds the rows of equal keys and no other, so that parameters name them."""
        return all(_exact(key.column.type, dialect) for key in self.mapping.key_fields)


@dataclass
class Change:
    """What a statement changes of one model.

    ``identities`` is None for the whole model. ``counted``: the identities are good only if the statement turns out to
    have matched as many rows. ``generated``: the database makes keys that the result will tell.
    """

    watched: Watched
    identities: list[Identity] | None
    counted: bool = False
    generated: bool = False


class TextKind:
    """What SQL text does, as far as its first word tells."""

    READ = "read"
    WRITE = "write"
    ANY = "any"
    COMMIT = "commit"
    BEGIN = "begin"
    ROLLBACK = "rollback"


_READS = frozenset(
    {
        "SELECT", "SHOW", "EXPLAIN", "DESCRIBE", "DESC", "PRAGMA", "SET", "USE", "SAVEPOINT", "RELEASE", "VALUES",
        "ATTACH", "DETACH", "VACUUM", "HELP", "KILL",
    }
)  # fmt: skip
_RUNS_ANYTHING = frozenset({"CALL", "EXECUTE", "EXEC", "DO", "HANDLER"})
_BEGINS = frozenset({"BEGIN", "START"})
_COMMITS = frozenset({"COMMIT", "END"})
# The MySQL manual, "Statements That Cause an Implicit Commit".
_IMPLICIT_COMMITS = frozenset(
    {
        "ALTER", "ANALYZE", "BEGIN", "CACHE", "CHANGE", "CHECK", "CREATE", "DROP", "FLUSH", "GRANT", "IMPORT",
        "INSTALL", "LOCK", "OPTIMIZE", "RENAME", "REPAIR", "RESET", "REVOKE", "START", "STOP", "TRUNCATE",
        "UNINSTALL", "UNLOCK",
    }
)  # fmt: skip
_WRITES = re.compile(r"\b(INSERT|UPDATE|DELETE|REPLACE|MERGE|TRUNCATE|CALL)\b", re.IGNORECASE)
_TO = re.compile(r"\bTO\b", re.IGNORECASE)
_XA_COMMIT = re.compile(r"\bXA\s+COMMIT\b", re.IGNORECASE)
_LEADING = re.compile(r"(?:\s+|--[^\n]*(?:\n|$)|#[^\n]*(?:\n|$)|/\*(?!!).*?\*/|\()*", re.DOTALL)
_WORD = re.compile(r"/\*!\d*\s*(\w+)|(\w+)")


def kind_of_text(text: str, dialect_name: str) -> tuple[str, bool]:
    """What SQL text does (a ``TextKind``), and whether the database commits what came before it, too."""
    start = _LEADING.match(text)
    found = _WORD.match(text, start.end() if start else 0)
    word = (found.group(1) or found.group(2)).upper() if found else ""
    commits = word in _COMMITS or (dialect_name in ("mysql", "mariadb") and word in _IMPLICIT_COMMITS)
    several = ";" in text.rstrip("; \t\r\n")
    if several:
        return TextKind.WRITE, commits
    if word in _BEGINS:
        return TextKind.BEGIN, commits
    if word in _COMMITS:
        return TextKind.COMMIT, commits
    if word == "ROLLBACK":
        return (TextKind.READ if _TO.search(text) else TextKind.ROLLBACK), commits
    if word == "XA":
        return (TextKind.ANY, True) if _XA_COMMIT.search(text) else (TextKind.READ, False)
    if word in _RUNS_ANYTHING:
        return TextKind.ANY, commits
    if word in _READS or (word == "WITH" and not _WRITES.search(text)):
        return TextKind.READ, commits or (word == "SET" and "autocommit" in text.lower())
    return TextKind.WRITE, commits


def of_statement(
    connection: sa.Connection,
    statement: dml.UpdateBase,
    parameters: Parameters,
    watched: Mapping[str, Sequence[Watched]],
    *,
    most: int,
    may_ask: bool,
) -> list[Change]:
    """What an insert, update or delete changes of the watched models, by table name.

    ``most``: more changed rows than this are the whole model. ``may_ask``: whether rows may be asked for, which holds
    only inside a transaction that keeps them locked.
    """
    changes: list[Change] = []
    for target, is_only in _targets(statement):
        for entry in watched.get(target.name.lower(), ()):
            if not is_only:
                changes.append(Change(entry, None))
            elif isinstance(statement, dml.Insert):
                changes.append(_of_insert(connection, statement, parameters, entry))
            else:
                changes.append(_of_criteria(connection, statement, parameters, entry, target, most, may_ask))
    return changes


# Inserts


def _of_insert(connection: sa.Connection, statement: dml.Insert, parameters: Parameters, entry: Watched) -> Change:
    """Cases: rows from a select; a conflict that may change a row of another key; keys given; keys made by the
    database.
    """
    if statement._select_names is not None or _may_change_others(connection, statement, entry):
        return Change(entry, None)
    identities: list[Identity] = []
    generated = False
    for values in _rows_of(statement, parameters, entry):
        key = [values.get(name, _MISSING) for name in entry.key_names]
        if any(value is _MISSING or value is None for value in key):
            generated = True
            continue
        identity = entry.mapping.stored_identity(key)
        if identity is None:
            return Change(entry, None)
        identities.append(identity)
    return Change(entry, identities, generated=generated)


def _may_change_others(connection: sa.Connection, statement: dml.Insert, entry: Watched) -> bool:
    replaces = statement._post_values_clause is not None or bool(statement._prefixes)
    return replaces and (entry.has_other_unique_keys() or not entry.compares_exactly(connection.dialect))


def _rows_of(statement: dml.Insert, parameters: Parameters, entry: Watched) -> Iterator[dict[str, Any]]:
    """The inserted values by column name; what is no plain value is left out, or None."""
    table = statement.table
    if statement._multi_values:
        for rows in statement._multi_values:
            names = [column.key for column in table.c]
            for row in rows:
                pairs = row.items() if isinstance(row, Mapping) else zip(names, row, strict=False)
                yield {_column_name(entry, table, column): _plain(value, {}) for column, value in pairs}
        return
    fixed = {_column_name(entry, table, column): value for column, value in (statement._values or {}).items()}
    for given in parameters or [{}]:
        values = {name: _plain(value, given) for name, value in fixed.items()}
        values.update({column.name: given[column.key] for column in table.c if column.key in given})
        yield values


# Updates and deletes


def _of_criteria(
    connection: sa.Connection,
    statement: dml.UpdateBase,
    parameters: Parameters,
    entry: Watched,
    target: Any,
    most: int,
    may_ask: bool,
) -> Change:
    assert isinstance(statement, (dml.Update, dml.Delete))
    moved = _moved_keys(statement, parameters, entry, target)
    if moved is None:
        return Change(entry, None)
    if entry.compares_exactly(connection.dialect):
        named = _named_by_criteria(statement, parameters, entry, target, most)
        if named is not None:
            return Change(entry, [*named, *_moved(named, moved, entry)] if all(named) else None)
    if moved or not may_ask or len(parameters) > 1:
        return Change(entry, None)
    asked = _ask(connection, statement, parameters, entry, target, most)
    return Change(entry, asked, counted=True)


def _moved_keys(
    statement: dml.Update | dml.Delete, parameters: Parameters, entry: Watched, target: Any
) -> list[dict[int, Any]] | None:
    """For each parameter set, the parts of the primary key that an update sets; empty where it sets none; None where
    one is set to something that only the database can compute."""
    if isinstance(statement, dml.Delete):
        return []
    fixed: dict[str, Any] = {
        _column_name(entry, target, column): value for column, value in (statement._values or {}).items()
    }
    keys = {name: getattr(target.c.get(name), "key", name) for name in entry.key_names}
    if not any(name in fixed for name in keys) and not any(
        key in given for given in parameters for key in keys.values()
    ):
        return []
    moved: list[dict[int, Any]] = []
    for given in parameters or [{}]:
        parts: dict[int, Any] = {}
        for at, (name, key) in enumerate(keys.items()):
            if name in fixed or key in given:
                value = given[key] if key in given else _plain(fixed[name], given)
                if value is None or value is _MISSING:
                    return None
                parts[at] = value
        moved.append(parts)
    return moved


def _moved(named: Sequence[Identity], moved: Sequence[dict[int, Any]], entry: Watched) -> Iterator[Identity]:
    """The new keys of rows whose primary key is set: every old key with every new part; too many is safe."""
    for parts in moved:
        for identity in named:
            new = entry.mapping.stored_identity([parts.get(at, value) for at, value in enumerate(identity)])
            yield () if new is None else new


def _named_by_criteria(
    statement: dml.Update | dml.Delete, parameters: Parameters, entry: Watched, target: Any, most: int
) -> list[Identity] | None:
    """The keys that ``key = value`` and ``key IN (values)`` among the criteria allow; None where they allow any."""
    binds = _key_binds(statement._where_criteria, entry, target)
    if binds is None:
        return None
    identities: list[Identity] = []
    for given in parameters or [{}]:
        choices = [_choices(bind, given) for bind in binds]
        if any(choice is None for choice in choices):
            return None
        for values in _product([choice for choice in choices if choice is not None]):
            if len(identities) > most:
                return identities  # enough to know that it is the whole model
            identity = entry.mapping.stored_identity(values)
            if identity is None:
                return None
            identities.append(identity)
    return identities


def _key_binds(criteria: Iterable[Any], entry: Watched, target: Any) -> list[Any] | None:
    """For each column of the primary key, the right side of the criterion that fixes it."""
    found: dict[str, Any] = {}
    for criterion in _conjunction(criteria):
        if not isinstance(criterion, elements.BinaryExpression) or criterion.operator not in (
            operators.eq,
            operators.in_op,
        ):
            continue
        left, right = criterion.left, criterion.right
        if criterion.operator is operators.eq and _name_in(left, target) is None:
            left, right = right, left
        name = _name_in(left, target)
        if name in entry.key_names and name is not None:
            found.setdefault(name, right)
    return [found[name] for name in entry.key_names] if len(found) == len(entry.key_names) else None


def _conjunction(criteria: Iterable[Any]) -> Iterator[Any]:
    for criterion in criteria:
        if isinstance(criterion, elements.BooleanClauseList) and criterion.operator is operators.and_:
            yield from _conjunction(criterion.clauses)
        elif isinstance(criterion, elements.Grouping):
            yield from _conjunction([criterion.element])
        else:
            yield criterion


def _name_in(side: Any, target: Any) -> str | None:
    """The name of a column of the target table; None for anything else, a column of another table included."""
    table = getattr(side, "table", None)
    if not isinstance(side, elements.ColumnClause) or getattr(table, "name", None) != target.name:
        return None
    return side.name


def _choices(side: Any, given: Mapping[str, Any]) -> list[Any] | None:
    """The values that the right side of a criterion stands for; None where only the database knows."""
    if isinstance(side, elements.Grouping):
        return _choices(side.element, given)
    if isinstance(side, elements.ClauseList):
        parts = [_choices(part, given) for part in side.clauses]
        return None if None in parts else [value for part in parts if part is not None for value in part]
    value = _plain(side, given)
    if value is _MISSING:
        return None
    if isinstance(side, elements.BindParameter) and side.expanding:
        return list(value)
    return [value]


def _product(choices: Sequence[Sequence[Any]]) -> Iterator[tuple[Any, ...]]:
    if not choices:
        yield ()
        return
    for rest in _product(choices[:-1]):
        for value in choices[-1]:
            yield (*rest, value)


def _ask(
    connection: sa.Connection,
    statement: dml.Update | dml.Delete,
    parameters: Parameters,
    entry: Watched,
    target: Any,
    most: int,
) -> list[Identity] | None:
    """The keys of the rows that meet the criteria, locked until the transaction ends; None where they are too many.

    A row that comes to meet them between this and the statement makes the statement match more rows than
    were found here: the caller compares.
    """
    columns = [target.c.get(name) for name in entry.key_names]
    if any(column is None for column in columns):
        return None
    if connection.dialect.name == "sqlite":
        # It has no row locks: a statement that changes nothing takes the one lock for writing, so that the
        # rows stay as they are asked for.
        connection.execute(sa.delete(entry.mapping.table).where(sa.false()), execution_options={OWN: True})
    query = sa.select(*[column for column in columns if column is not None]).where(*statement._where_criteria)
    typed = [key.column.type for key in entry.mapping.key_fields]
    query = query.with_only_columns(
        *[sa.type_coerce(column, type_) for column, type_ in zip(columns, typed, strict=True)]
    )
    given = dict(parameters[0]) if parameters else {}
    rows = connection.execute(query.limit(most + 1).with_for_update(), given, execution_options={OWN: True}).all()
    return None if len(rows) > most else [tuple(row) for row in rows]


# Statements


def _targets(statement: dml.UpdateBase) -> Iterator[tuple[Any, bool]]:
    """The tables that a statement changes, and whether it is that one alone."""
    table: Any = statement.table
    others = _other_tables(statement, table)
    if isinstance(table, (sa.Table, sa.TableClause)):
        yield table, not others
    else:  # an alias or a join
        others = [*others, *[part for part in visitors.iterate(table) if isinstance(part, sa.TableClause)]]
    for other in others:
        yield other, False


def _other_tables(statement: dml.UpdateBase, table: Any) -> list[Any]:
    """The tables of columns set beside the target's own (UPDATE a, b SET b.x), and those of data-changing CTEs."""
    others: list[Any] = []
    if isinstance(statement, dml.Update):
        others += [
            column.table
            for column in statement._values or {}
            if isinstance(column, elements.ColumnClause)
            and column.table is not None
            and getattr(column.table, "name", None) != getattr(table, "name", None)
        ]
    for cte in getattr(statement, "_independent_ctes", ()):
        element = getattr(cte, "element", cte)
        if isinstance(element, dml.UpdateBase):
            others += [target for target, _ in _targets(element)]
    return [other for other in others if isinstance(getattr(other, "name", None), str)]


class _Missing:
    """Stands for a value that only the database knows, and is like no value."""


_MISSING = _Missing()


def _plain(value: Any, given: Mapping[str, Any]) -> Any:
    """The Python value of an expression, ``_MISSING`` where the database computes it."""
    if isinstance(value, elements.BindParameter):
        if value.key in given:
            return given[value.key]
        # A callable is asked by SQLAlchemy too, and may say something else then.
        return _MISSING if value.required or value.callable is not None else value.value
    if isinstance(value, elements.Null):
        return None
    return _MISSING if isinstance(value, sa.ClauseElement) or hasattr(value, "__clause_element__") else value


def _column_name(entry: Watched, table: Any, column: Any) -> str:
    """The name in the database of what ``values()`` was given: a column, the key of one, or an attribute of the
    class.
    """
    if not isinstance(column, str):
        return str(getattr(column, "name", column))
    if column in entry.mapping.by_name:
        return entry.mapping.by_name[column].column.name
    found = table.c.get(column)
    return column if found is None else str(found.name)


def _exact(type_: sa.types.TypeEngine[Any], dialect: sa.Dialect) -> bool:
    """Whether equality of a column's values is equality of their Python values.

    Strings on MySQL: only in a binary collation that does not pad. On SQLite: unless a collation says otherwise.
    """
    loaded = type_.dialect_impl(dialect)
    if isinstance(type_, sa.TypeDecorator):
        loaded = type_.load_dialect_impl(dialect)
    if not isinstance(loaded, sa.String) or isinstance(loaded, sa.Enum):
        return True
    collation = (getattr(loaded, "collation", None) or "").lower()
    if dialect.name in ("mysql", "mariadb"):
        return collation in ("utf8mb4_0900_bin", "binary") or collation.endswith("_nopad_bin")
    return collation in ("", "binary", "c", "posix")
