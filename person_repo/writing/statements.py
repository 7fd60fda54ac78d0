"""What a statement changes: the keys of the rows where they can be told, else whole models, never nothing.

Where a statement's keys are found, in this order:

1. inserts: in the values, or made by the database and read from the result afterwards;
2. updates and deletes by primary key: in the criteria and their parameters, as the unit of work and bulk statements
   have them;
3. other updates and deletes: asked of the database by the same criteria, under the same locks, before;
4. everything else (SQL text, an insert from a select, a conflict on another unique key, a cascade): the whole model.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.sql import dml, elements, operators, visitors

from person_repo.database.locks import take_sqlite_lock
from person_repo.database.marks import OWN
from person_repo.mapped.fields import binds
from person_repo.mapped.mapping import EntityMapping, Identity

__all__ = [
    "ByKey",
    "Change",
    "Parameters",
    "TextKind",
    "Watched",
    "by_key",
    "chains",
    "kind_of_text",
    "of_statement",
    "replaces",
    "set_columns",
    "targets_of",
]

Parameters = Sequence[Mapping[str, Any]]
"""The parameter sets of an execution, by name."""


@dataclass(eq=False)
class Watched:
    """A model whose changes are looked for: its mapping, one of its tables, and the names by which statements refer to
    that.

    A hierarchy has several tables; each holds the primary key, under names of its own.
    """

    mapping: EntityMapping[Any]
    source: sa.Table
    table: str = field(init=False)
    key_names: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.table = self.source.name.lower()
        self.key_names = tuple(column.name for column in self.mapping.key_columns[self.source])
        self._in_text = re.compile(rf"(?<!\w){re.escape(self.table)}(?!\w)", re.IGNORECASE)

    def is_named_in(self, text: str) -> bool:
        """Whether SQL text speaks of the table, or of something that holds its name as a word."""
        return self._in_text.search(text) is not None

    def converts_keys(self) -> bool:
        """Whether the types of the key columns change values on their way in, in ways that are not followed here."""
        return any(_converts(key.column.type) for key in self.mapping.key_fields)

    def has_other_unique_keys(self) -> bool:
        """Whether the metadata declares a unique key beside the primary one, on which an insert can conflict too."""
        table = self.source
        constraints = any(isinstance(constraint, sa.UniqueConstraint) for constraint in table.constraints)
        return constraints or any(index.unique for index in table.indexes)

    def compares_exactly(self, dialect: sa.Dialect) -> bool:
        """Whether ``=`` on the primary key finds the rows of equal keys and no other, so that parameters name them."""
        return not self.converts_keys() and all(_exact(key.column.type, dialect) for key in self.mapping.key_fields)


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
    """What SQL text does, as far as its first words tell."""

    READ = "read"
    WRITE = "write"
    ANY = "any"
    BEGIN = "begin"
    COMMIT = "commit"
    ROLLBACK = "rollback"
    SAVEPOINT = "savepoint"
    RELEASE = "release"


_READS = frozenset(
    {
        "SELECT", "SHOW", "PRAGMA", "USE", "SAVEPOINT", "RELEASE", "VALUES", "TABLE", "HANDLER", "ATTACH", "DETACH",
        "VACUUM", "HELP", "KILL",
    }
)  # fmt: skip
_EXPLAINS = frozenset({"EXPLAIN", "DESCRIBE", "DESC"})
_RUNS_ANYTHING = frozenset({"CALL", "EXECUTE", "EXEC", "DO", "BINLOG", "IMPORT"})
_COMMITS = frozenset({"COMMIT", "END"})
# The MySQL manual, "Statements That Cause an Implicit Commit". Some do so only in some forms (CREATE TABLE does, CREATE
# TEMPORARY TABLE does not), and some are also words by which MariaDB runs another statement (ANALYZE UPDATE ...).
_IMPLICIT_COMMITS = frozenset(
    {
        "ALTER", "ANALYZE", "BEGIN", "CACHE", "CHANGE", "CHECK", "CREATE", "DROP", "FLUSH", "GRANT", "IMPORT",
        "INSTALL", "LOCK", "OPTIMIZE", "RENAME", "REPAIR", "RESET", "REVOKE", "SET", "START", "STOP", "TRUNCATE",
        "UNINSTALL", "UNLOCK",
    }
)  # fmt: skip
_WRITES = re.compile(r"\b(INSERT|UPDATE|DELETE|REPLACE|MERGE|TRUNCATE|CALL)\b", re.IGNORECASE)
_RUNS = re.compile(rf"\b({'|'.join(sorted(_RUNS_ANYTHING))}|XA)\b", re.IGNORECASE)
_TO = re.compile(r"\bTO\b", re.IGNORECASE)
_ANALYZE = re.compile(r"\bANALYZE\b", re.IGNORECASE)
_CHAIN = re.compile(r"(?<!NO)\s+CHAIN\b", re.IGNORECASE)
# MySQL and MariaDB run what stands in /*! and /*M!.
_GAP = r"(?>\s+|--[^\n]*(?:\n|$)|#[^\n]*(?:\n|$)|/\*(?!M?!).*?\*/|\()*+(?:/\*M?!\d*\s*)?"
_WORDS = re.compile(rf"{_GAP}(\w+)(?:{_GAP}(\w+))?", re.DOTALL)
# MariaDB runs the statement after FOR; of the others only these commit, or set whether every statement does.
_SETS = re.compile(r"\b(STATEMENT|AUTOCOMMIT|PASSWORD|ROLE)\b", re.IGNORECASE)


def kind_of_text(text: str, dialect_name: str) -> tuple[str, bool]:
    """What SQL text does (a ``TextKind``), and whether the database may commit by it, be it what came before.

    Nothing is parsed: what cannot be told for a read is a write, or anything.
    """
    if ";" in text.rstrip("; \t\r\n"):  # several statements, or a literal: nobody tells what the others are
        return (TextKind.ANY if _RUNS.search(text) else TextKind.WRITE), True
    found = _WORDS.match(text)
    first, second = ((word or "").upper() for word in found.groups()) if found else ("", "")
    kind = _kind_of_words(first, second, text, dialect_name)
    if kind in (TextKind.ANY, TextKind.COMMIT, TextKind.RELEASE):
        return kind, True
    if dialect_name not in ("mysql", "mariadb") or first not in _IMPLICIT_COMMITS:
        return kind, False
    return kind, first != "SET" or _SETS.search(text) is not None


def _kind_of_words(first: str, second: str, text: str, dialect_name: str) -> str:
    """Cases: the ends and beginnings of transactions; what runs statements that are not seen here; reads; the rest."""
    if first == "BEGIN" or (first == "START" and second == "TRANSACTION"):
        return TextKind.BEGIN
    if first in _COMMITS:
        return TextKind.ANY if second == "PREPARED" else TextKind.COMMIT
    if first == "ROLLBACK":
        return TextKind.READ if _TO.search(text) or second == "PREPARED" else TextKind.ROLLBACK
    if first == "XA":
        return TextKind.ANY if second == "COMMIT" else TextKind.READ
    if first in ("SAVEPOINT", "RELEASE") and dialect_name == "sqlite":
        return TextKind.SAVEPOINT if first == "SAVEPOINT" else TextKind.RELEASE
    if first in _RUNS_ANYTHING or (first == "DROP" and second in ("DATABASE", "SCHEMA")):
        return TextKind.ANY
    if first == "SET":
        return TextKind.WRITE if second == "STATEMENT" else TextKind.READ
    if first == "WITH" or (first in _EXPLAINS and _ANALYZE.search(text)):
        return TextKind.WRITE if _WRITES.search(text) else TextKind.READ
    return TextKind.READ if first in _READS or first in _EXPLAINS else TextKind.WRITE


def chains(text: str) -> bool:
    """Whether the text of a COMMIT or ROLLBACK begins the next transaction, too."""
    return _CHAIN.search(text) is not None


@dataclass(frozen=True, slots=True)
class ByKey:
    """How every execution of one compiled statement tells the rows that it changes: these parameters of it are the
    primary key, of the row that it inserts or in its criteria.
    """

    watched: Watched
    names: tuple[str, ...]
    inserts: bool

    def change(self, parameters: Parameters) -> Change | None:
        """What it changes with these parameters; None where that takes another look at the statement itself."""
        identities: list[Identity] = []
        generated = False
        for given in parameters:
            key = [*map(given.get, self.names)]
            if self.inserts and any(value is None for value in key):
                generated = True
                continue
            identity = self.watched.mapping.stored_identity(key)
            if identity is None:
                return None
            identities.append(identity)
        return Change(self.watched, identities, generated=generated)


def by_key(
    statement: dml.UpdateBase,
    parameters: Parameters,
    watched: Mapping[str, Sequence[Watched]],
    dialect: sa.Dialect,
) -> list[ByKey] | None:
    """How to tell what a statement changes of each watched model that it does change, in whatever execution of the same
    compilation; None where its form alone does not tell.

    A compilation is of statements of one form: the same tables, columns, criteria and names of parameters.
    """
    found: list[ByKey] = []
    for target, is_only in _targets(statement):
        for entry in watched.get(target.name.lower(), ()):
            names = _names_of_key(statement, parameters, entry, target, dialect) if is_only else None
            if names is None:
                return None
            found.append(ByKey(entry, names, isinstance(statement, dml.Insert)))
    return found


def _names_of_key(
    statement: dml.UpdateBase, parameters: Parameters, entry: Watched, target: Any, dialect: sa.Dialect
) -> tuple[str, ...] | None:
    """The names of the parameters that are the primary key of the changed row; None where there are not only such."""
    if isinstance(statement, dml.Insert):
        return _names_inserted(statement, entry)
    assert isinstance(statement, (dml.Update, dml.Delete))
    if _moved_keys(statement, parameters, entry, target) != [] or not entry.compares_exactly(dialect):
        return None
    binds = _key_binds(statement._where_criteria, entry, target) or [None]
    return None if not all(_is_named(bind, parameters) for bind in binds) else tuple(bind.key for bind in binds)


def _names_inserted(statement: dml.Insert, entry: Watched) -> tuple[str, ...] | None:
    if statement._select_names is not None or statement._multi_values or statement._prefixes:
        return None
    if statement._post_values_clause is not None or entry.converts_keys():
        return None
    fixed = {_column_name(statement, column) for column in statement._values or {}}
    columns = [_column_of(statement.table, name) for name in entry.key_names]
    if any(column is None for column in columns) or not fixed.isdisjoint(entry.key_names):
        return None
    return tuple(column.key for column in columns)


def _is_named(bind: Any, parameters: Parameters) -> bool:
    """Whether a criterion compares with a parameter that each execution gives under this name, and sends as it is."""
    if not isinstance(bind, elements.BindParameter) or bind.expanding:
        return False
    type_ = bind.type
    return not binds(type_) and not _converts(type_) and all(bind.key in given for given in parameters)


def of_statement(
    connection: sa.Connection,
    statement: dml.UpdateBase,
    parameters: Parameters,
    watched: Mapping[str, Sequence[Watched]],
    *,
    most: int,
    may_ask: Callable[[], bool],
) -> list[Change]:
    """What an insert, update or delete changes of the watched models, by table name.

    ``most``: more changed rows than this are the whole model. ``may_ask``: tells whether rows may be asked for, which
    holds only inside a transaction that keeps them locked.
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
    if (
        statement._select_names is not None
        or entry.converts_keys()
        or _may_change_others(connection, statement, parameters, entry)
    ):
        return Change(entry, None)
    identities: list[Identity] = []
    generated = False
    for values in _rows_of(statement, parameters, entry):
        key = [values.get(name, _MISSING) for name in entry.key_names]
        if any(value is _MISSING or value is None for value in key):
            generated = True
            continue
        identity = None if _RESPELT in key else entry.mapping.stored_identity(key)
        if identity is None:
            return Change(entry, None)
        identities.append(identity)
    return Change(entry, identities, generated=generated)


def _may_change_others(
    connection: sa.Connection, statement: dml.Insert, parameters: Parameters, entry: Watched
) -> bool:
    """Whether a conflict may change a row of another key than the inserted one, or give one another key."""
    if statement._post_values_clause is None and not replaces(statement):
        return False
    if entry.has_other_unique_keys() or not entry.compares_exactly(connection.dialect):
        return True
    names = set_columns(statement, parameters)
    return names is None or not names.isdisjoint(entry.key_names)


def _rows_of(statement: dml.Insert, parameters: Parameters, entry: Watched) -> Iterator[dict[str, Any]]:
    """The inserted keys by column name; what is no plain value is left out, or None."""
    columns = [column for column in statement.table.c if column.name in entry.key_names]
    for rows in statement._multi_values:
        given = parameters[0] if parameters else {}
        for row in rows:
            pairs = row.items() if isinstance(row, Mapping) else zip(statement.table.c, row, strict=False)
            yield _key_values(statement, pairs, given, entry)
    if statement._multi_values:
        return
    fixed = list((statement._values or {}).items())
    for given in parameters or [{}]:
        values = _key_values(statement, fixed, given, entry)
        for column in columns:
            if column.key in given and not isinstance(values.get(column.name), _Missing):
                values[column.name] = given[column.key]
        yield values


def _key_values(
    statement: dml.Insert, pairs: Iterable[tuple[Any, Any]], given: Mapping[str, Any], entry: Watched
) -> dict[str, Any]:
    named = ((_column_name(statement, column), value) for column, value in pairs)
    return {name: _plain(value, given) for name, value in named if name in entry.key_names}


# Updates and deletes


def _of_criteria(
    connection: sa.Connection,
    statement: dml.UpdateBase,
    parameters: Parameters,
    entry: Watched,
    target: Any,
    most: int,
    may_ask: Callable[[], bool],
) -> Change:
    assert isinstance(statement, (dml.Update, dml.Delete))
    moved = _moved_keys(statement, parameters, entry, target)
    if moved is None:
        return Change(entry, None)
    if entry.compares_exactly(connection.dialect):
        named = _named_by_criteria(statement, parameters, entry, target, most)
        if named is not None:
            return Change(entry, [*itertools.chain(*named), *_moved(named, moved, entry)])
    if moved or len(parameters) > 1 or not may_ask():
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
        _column_name(statement, column): value for column, value in (statement._values or {}).items()
    }
    keys = {name: getattr(_column_of(target, name), "key", name) for name in entry.key_names}
    if not any(name in fixed for name in keys) and not any(
        key in given for given in parameters for key in keys.values()
    ):
        return []
    moved: list[dict[int, Any]] = []
    for given in parameters or [{}]:
        parts: dict[int, Any] = {}
        for at, (name, key) in enumerate(keys.items()):
            if name in fixed or key in given:
                value = _plain(fixed[name], given) if name in fixed else given[key]
                stored = None if isinstance(value, _Missing) else entry.mapping.key_fields[at].as_stored(value)
                if stored is None or entry.converts_keys():
                    return None
                parts[at] = stored
        moved.append(parts)
    return moved


def _moved(named: Iterable[Sequence[Identity]], moved: Iterable[dict[int, Any]], entry: Watched) -> Iterator[Identity]:
    """The new keys of rows whose primary key is set: of each parameter set, every old key with the new parts."""
    for identities, parts in zip(named, moved, strict=False):
        for identity in identities:
            yield tuple(parts.get(at, value) for at, value in enumerate(identity))


def _named_by_criteria(
    statement: dml.Update | dml.Delete, parameters: Parameters, entry: Watched, target: Any, most: int
) -> list[list[Identity]] | None:
    """For each parameter set, the keys that ``key = value`` and ``key IN (values)`` among the criteria allow; None
    where they allow any.
    """
    binds = _key_binds(statement._where_criteria, entry, target)
    if binds is None:
        return None
    named: list[list[Identity]] = []
    for given in parameters or [{}]:
        choices = [_choices(bind, given) for bind in binds]
        if any(choice is None for choice in choices):
            return None
        product = itertools.product(*[choice for choice in choices if choice is not None])
        # One more than the most is enough to know that it is the whole model.
        stored = [entry.mapping.stored_identity(values) for values in itertools.islice(product, most + 1)]
        if None in stored:
            return None
        named.append([identity for identity in stored if identity is not None])
    return named


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
    if isinstance(value, _Missing):
        return None
    if isinstance(side, elements.BindParameter) and side.expanding:
        return list(value)
    return [value]


def _ask(
    connection: sa.Connection,
    statement: dml.Update | dml.Delete,
    parameters: Parameters,
    entry: Watched,
    target: Any,
    most: int,
) -> list[Identity] | None:
    """The keys of the rows that meet the criteria, locked until the transaction ends, or of one more than the most;
    None where the statement's table has no such columns.

    A row that comes to meet them between this and the statement makes the statement match more rows than
    were found here: the caller compares.
    """
    columns = [_column_of(target, name) for name in entry.key_names]
    if any(column is None for column in columns):
        return None
    take_sqlite_lock(connection, entry.source)
    query = sa.select(*[column for column in columns if column is not None]).where(*statement._where_criteria)
    typed = [key.column.type for key in entry.mapping.key_fields]
    query = query.with_only_columns(
        *[sa.type_coerce(column, type_) for column, type_ in zip(columns, typed, strict=True)]
    )
    # The other names are those that the statement's compilation made up: here they may stand for other values.
    given = {name: value for name, value in (parameters[0] if parameters else {}).items() if name in _names(statement)}
    rows = connection.execute(query.limit(most + 1).with_for_update(), given, execution_options={OWN: True}).all()
    return [tuple(row) for row in rows]


def _names(statement: dml.Update | dml.Delete) -> set[str]:
    """The names of the parameters in the criteria."""
    elements_in = (element for criterion in statement._where_criteria for element in visitors.iterate(criterion))
    return {element.key for element in elements_in if isinstance(element, elements.BindParameter)}


# Statements


def set_columns(statement: dml.UpdateBase, parameters: Parameters) -> frozenset[str] | None:
    """The names of the columns that a statement sets in rows that are there already; None where nobody can tell.

    An insert sets some where it meets a conflict.
    """
    if isinstance(statement, dml.Update):
        named = [_column_name(statement, column) for column in statement._values or {}]
        return frozenset([*named, *[column.name for column in statement.table.c if _is_given(column, parameters)]])
    clause = getattr(statement, "_post_values_clause", None)
    if clause is None:
        return frozenset()
    values = getattr(clause, "update", None) or getattr(clause, "update_values_to_set", None)
    if not isinstance(values, Mapping):
        return frozenset() if type(clause).__name__ == "OnConflictDoNothing" else None
    return frozenset(_column_name(statement, column) for column in values)


def _is_given(column: Any, parameters: Parameters) -> bool:
    return any(column.key in given for given in parameters)


def replaces(statement: dml.Insert) -> bool:
    """Whether an insert deletes the rows that it conflicts with (SQLite's INSERT OR REPLACE)."""
    return any("REPLACE" in str(prefix).upper() for prefix, _ in statement._prefixes)


def targets_of(statement: dml.UpdateBase) -> list[str]:
    """The names of all tables that a statement changes."""
    return [target.name.lower() for target, _ in _targets(statement)]


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
    """The tables of columns set beside the target's own (UPDATE a, b SET b.x)."""
    others: list[Any] = []
    if isinstance(statement, dml.Update):
        others += [
            column.table
            for column in statement._values or {}
            if isinstance(column, elements.ColumnClause)
            and column.table is not None
            and getattr(column.table, "name", None) != getattr(table, "name", None)
        ]
    return [other for other in others if isinstance(getattr(other, "name", None), str)]


class _Missing:
    """Stands for a value that only the database knows, and is like no value."""


_MISSING = _Missing()

_RESPELT = _Missing()
"""One that SQLAlchemy takes for known, and is not: it takes what is sent for what is stored."""

_DIALECT = DefaultDialect()


def _plain(value: Any, given: Mapping[str, Any]) -> Any:
    """The Python value of an expression; where the database computes it, or a type on the way there, ``_Missing``."""
    if isinstance(value, elements.BindParameter):
        plain = given.get(value.key, _MISSING)
        # A callable is asked by SQLAlchemy too, and may say something else then.
        if plain is _MISSING and not value.required and value.callable is None:
            plain = value.value
        return plain if plain is _MISSING or _arrives(plain, value.type) else _RESPELT
    if isinstance(value, elements.Null):
        return None
    return _MISSING if isinstance(value, sa.ClauseElement) or hasattr(value, "__clause_element__") else value


def _arrives(value: Any, type_: sa.types.TypeEngine[Any]) -> bool:
    """Whether a parameter's type, which need not be the column's, sends a value as it is."""
    if _converts(type_):
        return False
    return not binds(type_) or bool(type_.process_bind_param(value, _DIALECT) == value)


def _converts(type_: sa.types.TypeEngine[Any]) -> bool:
    """Whether a type changes values on their way in by a function in SQL, by a host's own code, or, as ``Uuid`` of
    strings does, because it takes several spellings of one.
    """
    if isinstance(type_, sa.TypeDecorator) and _converts(type_.impl_instance):
        return True
    binds = getattr(type(type_).bind_processor, "__module__", "sqlalchemy.")
    spells = isinstance(type_, sa.Uuid) and not type_.as_uuid
    return spells or type_._has_bind_expression or not binds.startswith("sqlalchemy.")


def _column_of(target: Any, name: str) -> Any:
    """The column of a table by its name in the database, which need not be its key; None where there is none."""
    return next((column for column in target.c if column.name == name), None)


def _column_name(statement: dml.UpdateBase, column: Any) -> str:
    """The name in the database of what ``values()`` keeps: a column, or the key of one. The names of attributes are
    columns by then.
    """
    if not isinstance(column, str):
        return str(getattr(column, "name", column))
    found = statement.table.c.get(column)
    return column if found is None else str(found.name)


def _exact(type_: sa.types.TypeEngine[Any], dialect: sa.Dialect) -> bool:
    """Whether equality of a column's values is equality of their Python values.

    Strings on MySQL: only in a binary collation that does not pad. On SQLite, PostgreSQL and Oracle: unless a collation
    says otherwise.
    """
    loaded = type_.dialect_impl(dialect)
    if isinstance(type_, sa.TypeDecorator):
        loaded = type_.load_dialect_impl(dialect)
    if not isinstance(loaded, sa.String) or isinstance(loaded, sa.Enum):
        return True
    collation = (getattr(loaded, "collation", None) or "").lower()
    if dialect.name in ("mysql", "mariadb"):
        return collation in ("utf8mb4_0900_bin", "binary") or collation.endswith("_nopad_bin")
    # Elsewhere (SQL Server) a column without a collation may fold as MySQL's do.
    known = dialect.name in ("sqlite", "postgresql", "oracle")
    return known and collation in ("", "binary", "c", "posix")
