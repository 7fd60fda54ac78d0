"""The write side: what a transaction changed on a covered engine, tombstones before its COMMIT, their release after.

``cover(engine, ...)`` is all there is to call. From then on, for every connection of that engine, whoever uses it:

1. each statement is looked at before it is sent, and the keys of the rows it changes (``changes``) are kept with the
DBAPI
   connection. Savepoints change nothing: what was rolled back to one is dropped once too often.
2. right before the DBAPI's COMMIT the tombstones are put: the row locks are held, the outcome is open.
3. once the outcome is known they are released: after COMMIT returned, or after a ROLLBACK did. An unknown
   outcome (the connection died in COMMIT) leaves them to their ttl.

Step 2 and 3 wrap the functions of the engine's dialect, the one place that every path to a COMMIT passes; SQLAlchemy
has no event after it. Statements that commit by themselves (AUTOCOMMIT, DDL on MySQL, COMMIT as text) have both steps
around them.

After an acknowledged commit nothing here raises, and before it a failing cache does not: it is counted and logged.
"""

from __future__ import annotations

import functools
import logging
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine.interfaces import DBAPICursor, ExceptionContext, ExecutionContext
from sqlalchemy.sql import dml

from person_repo import changes
from person_repo.backends import LeaseBackend, Tombstones
from person_repo.changes import Change, TextKind, Watched
from person_repo.exceptions import ConfigurationError
from person_repo.keys import Keyspace
from person_repo.mapping import EntityMapping

__all__ = ["announce", "cover", "release"]

logger = logging.getLogger(__name__)

_PENDING = "person_repo"
"""Where a DBAPI connection's ``info`` keeps what its transaction has changed."""


class CoveredModel(Watched):
    """A watched model, with the cache that holds its entities."""

    def __init__(self, mapping: EntityMapping[Any], keys: Keyspace, backend: LeaseBackend) -> None:
        super().__init__(mapping)
        self.keys = keys
        self.backend = backend

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, CoveredModel)
            and other.backend is self.backend
            and other.keys.group == self.keys.group
            and other.mapping.entity is self.mapping.entity
        )

    __hash__ = None  # type: ignore[assignment]


@dataclass
class _Changed:
    """What a transaction changed of the items of one cache."""

    keys: dict[str, set[str]] = field(default_factory=dict)
    groups: set[str] = field(default_factory=set)

    def add(self, group: str, keys: Iterable[str], most: int) -> None:
        if group in self.groups:
            return
        known = self.keys.setdefault(group, set())
        known.update(keys)
        if len(known) > most:
            self.add_group(group)

    def add_group(self, group: str) -> None:
        self.groups.add(group)
        self.keys.pop(group, None)


@dataclass
class _Pending:
    """What one DBAPI connection's transaction changed, and the tombstones that it has placed so far."""

    changed: dict[LeaseBackend, _Changed] = field(default_factory=dict)
    placed: list[tuple[LeaseBackend, Tombstones]] = field(default_factory=list)
    generating: list[CoveredModel] = field(default_factory=list)
    counted: list[tuple[CoveredModel, int]] = field(default_factory=list)
    begun_by_text: bool = False
    ends_with_statement: bool = False

    def add(self, change: Change) -> None:
        model = change.watched
        assert isinstance(model, CoveredModel)
        changed = self.changed.setdefault(model.backend, _Changed())
        if change.identities is None:
            changed.add_group(model.keys.group)
            return
        keys = [model.keys.of(identity)[0] for identity in change.identities]
        changed.add(model.keys.group, keys, model.backend.settings.max_keys)

    def drop(self, model: CoveredModel) -> None:
        self.add(Change(model, None))

    def put(self) -> None:
        """Places tombstones on all that changed. Never raises for the cache."""
        for backend, changed in self.changed.items():
            keys = [key for keys in changed.keys.values() for key in keys]
            if keys or changed.groups:
                self.placed += announce(backend, keys, changed.groups)

    def end(self) -> None:
        """Releases them: the transaction is over. Never raises for the cache."""
        self.changed = {}
        self.withdraw()

    def withdraw(self) -> None:
        """Releases them, and forgets nothing of what changed: the transaction goes on."""
        placed, self.placed = self.placed, []
        release(placed)


def announce(
    backend: LeaseBackend, keys: Sequence[str], groups: Iterable[str] = ()
) -> list[tuple[LeaseBackend, Tombstones]]:
    """Places tombstones before a change; what is returned goes to ``release`` after it. Never raises for the cache."""
    names = list(groups)
    try:
        tombstones = backend.put_tombstones(keys, names)
    except Exception:
        backend.counters.errors += 1
        logger.exception("tombstones could not be placed; cached reads may be old until the ttl")
        return []
    backend.counters.tombstones += len(keys)
    backend.counters.model_drops += len(names)
    if not tombstones.complete:
        logger.error(
            "%d of %d tombstones could not be placed; cached reads of those may be old until the ttl",
            len(tombstones.failed_keys) + len(tombstones.failed_groups),
            len(keys) + len(names),
        )
    return [(backend, tombstones)]


def release(placed: Iterable[tuple[LeaseBackend, Tombstones]]) -> None:
    """Releases tombstones once the change they announced is over. Never raises: the data is committed, or rolled
    back.
    """
    for backend, tombstones in placed:
        try:
            backend.release(tombstones)
        except Exception:
            backend.counters.errors += 1
            logger.exception("tombstones could not be released; their keys go to the database until the ttl")


def cover(engine: sa.Engine, mapping: EntityMapping[Any], keys: Keyspace, backend: LeaseBackend) -> None:
    """Keeps the cached entities of one class coherent with every write through an engine. May be called again.

    Engines made from one by ``execution_options`` are one engine here. Raises ``ConfigurationError`` for anything else
    than an ``Engine``: an ``AsyncEngine`` has a ``sync_engine``.
    """
    if not isinstance(engine, sa.Engine):
        raise ConfigurationError(
            f"cover() takes an Engine, not {engine!r:.120}; of an AsyncEngine give the sync_engine"
        )
    _coverage_of(engine).add(CoveredModel(mapping, keys, backend))


class _Coverage:
    """What one engine's dialect is watched for. Every engine option and connection of it shares the dialect."""

    def __init__(self, engine: sa.Engine) -> None:
        self._models: list[CoveredModel] = []
        self._by_table: dict[str, list[CoveredModel]] = {}
        self._cascades: dict[tuple[str, bool], list[CoveredModel]] = {}
        self._tables_seen = 0
        self._prepared: dict[Any, _Pending] = {}
        self._twophase = threading.local()
        dialect: Any = engine.dialect
        for name in ("do_commit", "do_rollback", "do_prepare_twophase", "do_commit_twophase", "do_rollback_twophase"):
            around = getattr(self, f"_{name}")
            setattr(dialect, name, functools.partial(around, getattr(dialect, name)))
        # An engine made by execution_options() has listeners of its own besides those of the one it was made from.
        root = getattr(engine, "_proxied", engine)
        event.listen(root, "before_cursor_execute", self._before_statement)
        event.listen(root, "after_cursor_execute", self._after_driver_statement)
        event.listen(root, "after_execute", self._after_statement)
        event.listen(root, "handle_error", self._after_error)

    def add(self, model: CoveredModel) -> None:
        if model in self._models:
            return
        self._models = [*self._models, model]
        self._by_table = {**self._by_table, model.table: [*self._by_table.get(model.table, []), model]}
        self._cascades = {}

    # Statements

    def _before_statement(
        self,
        connection: sa.Connection,
        cursor: DBAPICursor,
        statement: str,
        parameters: Any,
        context: Any,
        executemany: bool,
    ) -> None:
        """Cases: a query, which passes at once; an insert, update or delete that SQLAlchemy made; any other text."""
        writes = context is not None and (context.isinsert or context.isupdate or context.isdelete)
        if not writes and statement[:6] in ("SELECT", "select") and ";" not in statement:
            return
        if context is not None and context.execution_options.get(changes.OWN):
            return
        try:
            found = self._of_dml(connection, context) if writes else self._of_text(connection, statement)
        except sa.exc.DBAPIError:
            raise  # of a question to the database: the statement would have met the same
        except Exception:  # a statement of a kind never seen: it must not fail for us, nor go unseen
            logger.exception(
                "what a statement changes cannot be told; every cached model is dropped: %.200s", statement
            )
            found = [Change(model, None) for model in self._models]
        if found:
            self._keep(connection, found)

    def _of_dml(self, connection: sa.Connection, context: Any) -> list[Change]:
        if context.__dict__.get(_PENDING):  # an insert in several batches: all of it was looked at before the first
            return []
        context.__dict__[_PENDING] = True
        statement = getattr(context.invoked_statement, "_resolved", context.invoked_statement)
        if not isinstance(statement, dml.UpdateBase):
            statement = context.compiled.statement
            parameters: changes.Parameters | None = None
        else:
            parameters = context.compiled_parameters
        table = getattr(statement.table, "name", None)
        found: list[Change] = []
        if not isinstance(table, str) or table.lower() in self._by_table or self._is_wide(statement):
            found = self._resolved(connection, statement, parameters)
        for model in self._cascading(statement, table):
            found.append(Change(model, None))
        return found

    def _is_wide(self, statement: dml.UpdateBase) -> bool:
        """Whether it may change tables beside its own: UPDATE of several tables, data-changing CTEs."""
        return bool(getattr(statement, "_independent_ctes", ())) or isinstance(statement, dml.Update)

    def _resolved(
        self, connection: sa.Connection, statement: dml.UpdateBase, parameters: changes.Parameters | None
    ) -> list[Change]:
        if parameters is None:
            return [Change(model, None) for models in self._by_table.values() for model in models]
        return changes.of_statement(
            connection,
            statement,
            parameters,
            self._by_table,
            most=max(model.backend.settings.max_keys for model in self._models),
            may_ask=not self._commits_itself(connection),
        )

    def _of_text(self, connection: sa.Connection, statement: str) -> list[Change]:
        """Cases: the ends and the beginning of a transaction; a read; what may change anything; what changes the
        tables it names.

        Where the database commits what came before it, too, that is announced first.
        """
        kind, commits = changes.kind_of_text(statement, connection.dialect.name)
        if commits or kind in (TextKind.BEGIN, TextKind.ROLLBACK):
            pending = self._pending(connection)
            pending.begun_by_text = kind == TextKind.BEGIN
            pending.ends_with_statement = True
            if commits:
                pending.put()
        if kind == TextKind.ANY:
            return (
                [] if getattr(self._twophase, "committing", False) else [Change(model, None) for model in self._models]
            )
        if kind != TextKind.WRITE:
            return []
        named = [model for model in self._models if model.is_named_in(statement)]
        named += [model for model in self._cascading_from_text(statement) if model not in named]
        return [Change(model, None) for model in named]

    def _keep(self, connection: sa.Connection, found: Sequence[Change]) -> None:
        pending = self._pending(connection)
        for change in found:
            pending.add(change)
            assert isinstance(change.watched, CoveredModel)
            if change.generated:
                pending.generating.append(change.watched)
            if change.counted and change.identities is not None:
                pending.counted.append((change.watched, len(change.identities)))
        if pending.ends_with_statement or self._commits_itself(connection):
            pending.ends_with_statement = True
            pending.put()

    def _after_statement(
        self,
        connection: sa.Connection,
        clauseelement: Any,
        multiparams: Any,
        params: Any,
        execution_options: Any,
        result: sa.CursorResult[Any],
    ) -> None:
        pending: _Pending | None = connection.connection.info.get(_PENDING)
        if pending is None:
            return
        if pending.counted or pending.generating:
            self._settle(pending, result)
            if self._commits_itself(connection):
                pending.put()
                pending.ends_with_statement = True
        if pending.ends_with_statement:
            self._end(connection, pending)

    @staticmethod
    def _settle(pending: _Pending, result: Any) -> None:
        """What only the outcome of a statement tells: how many rows it matched, and which keys the database made."""
        counted, pending.counted = pending.counted, []
        for model, asked in counted:
            if result.rowcount != asked:
                pending.drop(model)
        generating, pending.generating = pending.generating, []
        for model in generating:
            made = _made_keys(result, model)
            pending.add(Change(model, made))

    def _after_driver_statement(
        self,
        connection: sa.Connection,
        cursor: DBAPICursor,
        statement: str,
        parameters: Any,
        context: ExecutionContext | None,
        executemany: bool,
    ) -> None:
        """``exec_driver_sql`` ends here; everything else in ``_after_statement``."""
        if getattr(context, "compiled", None) is not None:
            return
        pending: _Pending | None = connection.connection.info.get(_PENDING)
        if pending is not None and pending.ends_with_statement:
            self._end(connection, pending)

    def _after_error(self, context: ExceptionContext) -> None:
        """A statement failed that commits by itself, or commits what came before it.

        Where nobody knows whether it did (the connection is gone), the tombstones stay to their ttl. Else they go; but
        what was changed before is kept: MySQL commits before some statements that then fail, and not before others.
        """
        if context.connection is None or context.connection.invalidated or context.is_disconnect:
            return
        pending: _Pending | None = context.connection.connection.info.get(_PENDING)
        if pending is None:
            return
        pending.counted, pending.generating = [], []
        if pending.ends_with_statement:
            pending.ends_with_statement = False
            pending.withdraw()

    @staticmethod
    def _end(connection: sa.Connection, pending: _Pending) -> None:
        pending.ends_with_statement = False
        pending.end()
        if not pending.begun_by_text:
            connection.connection.info.pop(_PENDING, None)

    @staticmethod
    def _pending(connection: sa.Connection) -> _Pending:
        return _pending_of(connection.connection.info)

    @staticmethod
    def _commits_itself(connection: sa.Connection) -> bool:
        """Whether each statement is a transaction of its own now."""
        pending: _Pending | None = connection.connection.info.get(_PENDING)
        if pending is not None and pending.begun_by_text:
            return False
        driver: Any = connection.connection.driver_connection
        if (
            getattr(driver, "in_transaction", False) is True
        ):  # sqlite3, where BEGIN was sent by a listener of the host's
            return False
        try:
            return connection.dialect.detect_autocommit_setting(driver)
        except NotImplementedError:
            return connection.get_isolation_level() == "AUTOCOMMIT"

    # Cascades

    def _cascading(self, statement: dml.UpdateBase, table: str | None) -> Sequence[CoveredModel]:
        """The models whose rows change because a row that they refer to is deleted, or its key updated."""
        if table is None or (isinstance(statement, dml.Insert) and not statement._prefixes):
            return ()
        return self._cascading_from(table.lower(), isinstance(statement, dml.Update))

    def _cascading_from_text(self, text: str) -> list[CoveredModel]:
        tables = {table.name for metadata in self._metadatas() for table in metadata.tables.values()}
        words = {word.lower() for word in _words(text)}
        return [
            model
            for table in tables
            if table.lower() in words
            for by_update in (True, False)
            for model in self._cascading_from(table.lower(), by_update)
        ]

    def _metadatas(self) -> list[sa.MetaData]:
        return list({id(model.mapping.table.metadata): model.mapping.table.metadata for model in self._models}.values())

    def _cascading_from(self, table: str, by_update: bool) -> list[CoveredModel]:
        metadatas = self._metadatas()
        seen = sum(len(metadata.tables) for metadata in metadatas)
        if seen != self._tables_seen:  # a host may map more classes later
            self._tables_seen, self._cascades = seen, {}
        found = self._cascades.get((table, by_update))
        if found is None:
            reached = {name for metadata in metadatas for name in _reached(metadata, table, by_update)}
            found = [model for model in self._models if model.table in reached]
            self._cascades[table, by_update] = found
        return found

    # Around COMMIT and ROLLBACK

    def _do_commit(self, commit: Callable[[Any], None], dbapi_connection: Any) -> None:
        pending = _pending_on(dbapi_connection)
        if pending is None:
            commit(dbapi_connection)
            return
        pending.put()
        commit(dbapi_connection)
        dbapi_connection.info.pop(_PENDING, None)
        pending.end()

    def _do_rollback(self, rollback: Callable[[Any], None], dbapi_connection: Any) -> None:
        rollback(dbapi_connection)
        pending = _pending_on(dbapi_connection)
        if pending is not None:
            del dbapi_connection.info[_PENDING]
            pending.end()

    def _do_prepare_twophase(self, prepare: Callable[..., None], connection: sa.Connection, xid: Any) -> None:
        pending: _Pending | None = connection.connection.info.pop(_PENDING, None)
        if pending is not None:
            self._prepared[xid] = pending
            pending.put()
        prepare(connection, xid)

    def _do_commit_twophase(
        self,
        commit: Callable[..., None],
        connection: sa.Connection,
        xid: Any,
        is_prepared: bool = True,
        recover: bool = False,
    ) -> None:
        """Cases: prepared here; not prepared, one phase; prepared by a process that is gone: what it changed is
        unknown.
        """
        pending = self._prepared.get(xid) or connection.connection.info.get(_PENDING)
        if pending is None and recover:
            pending = _Pending()
            for model in self._models:
                pending.drop(model)
        if pending is not None:
            pending.put()
        self._twophase.committing = True
        try:
            commit(connection, xid, is_prepared, recover)
        finally:
            self._twophase.committing = False
        self._prepared.pop(xid, None)
        if pending is not None:
            if connection.connection.info.get(_PENDING) is pending:
                del connection.connection.info[_PENDING]
            pending.end()

    def _do_rollback_twophase(
        self,
        rollback: Callable[..., None],
        connection: sa.Connection,
        xid: Any,
        is_prepared: bool = True,
        recover: bool = False,
    ) -> None:
        rollback(connection, xid, is_prepared, recover)
        pending = self._prepared.pop(xid, None) or connection.connection.info.pop(_PENDING, None)
        if pending is not None:
            pending.end()


_coverages: weakref.WeakKeyDictionary[sa.Dialect, _Coverage] = weakref.WeakKeyDictionary()
_covering = threading.Lock()


def _coverage_of(engine: sa.Engine) -> _Coverage:
    with _covering:
        found = _coverages.get(engine.dialect)
        if found is None:
            found = _coverages[engine.dialect] = _Coverage(engine)
        return found


def _pending_of(info: dict[Any, Any]) -> _Pending:
    found = info.get(_PENDING)
    if found is None:
        found = info[_PENDING] = _Pending()
    return found


def _pending_on(dbapi_connection: Any) -> _Pending | None:
    try:
        found: _Pending | None = dbapi_connection.info.get(_PENDING)
    except NotImplementedError:  # the connection on which SQLAlchemy first looks at a server has none
        return None
    return found


def _made_keys(result: Any, model: CoveredModel) -> list[Any] | None:
    """The primary keys that the database made for inserted rows; None where it does not tell."""
    try:
        rows = result.context.inserted_primary_key_rows
    except sa.exc.InvalidRequestError:
        return None
    names = [column.name for column in result.context.compiled.statement.table.primary_key]
    if not rows or sorted(names) != sorted(model.key_names):
        return None
    identities = []
    for row in rows:
        values = dict(zip(names, row, strict=True)) if row is not None else {}
        identity = model.mapping.stored_identity([values.get(name) for name in model.key_names])
        if identity is None:
            return None
        identities.append(identity)
    return identities


def _reached(metadata: sa.MetaData, table: str, by_update: bool) -> set[str]:
    """The tables whose rows a change in one changes through declared foreign-key actions, however far.

    A row that an action deletes is a deletion in turn; one whose column is set is not a change of what others refer
    to, unless that column is referred to itself. Any action is followed: too many is safe.
    """
    reached: set[str] = set()
    todo = [table]
    while todo:
        parent = todo.pop()
        for child in metadata.tables.values():
            name = child.name.lower()
            if name not in reached and any(_acts(key, parent, by_update) for key in child.foreign_key_constraints):
                reached.add(name)
                todo.append(name)
    return reached


def _acts(constraint: sa.ForeignKeyConstraint, parent: str, by_update: bool) -> bool:
    action = constraint.onupdate if by_update else constraint.ondelete
    if action is None or action.upper() in ("NO ACTION", "RESTRICT"):
        return False
    try:
        return constraint.referred_table.name.lower() == parent
    except sa.exc.NoReferenceError:  # it refers to a table that no metadata knows, so not to this one
        return False


def _words(text: str) -> Iterable[str]:
    word: list[str] = []
    for letter in text:
        if letter.isalnum() or letter == "_":
            word.append(letter)
        elif word:
            yield "".join(word)
            word = []
    if word:
        yield "".join(word)
