"""The write side: what a transaction changed on a covered engine, tombstones before its COMMIT, their release after.

``cover(engine, ...)`` is all there is to call. From then on, for every connection of that engine, whoever uses it:

1. each statement is looked at right before it is sent, and the keys of the rows it changes (``changes``) are kept with
   the DBAPI connection. Savepoints change nothing: what was rolled back to one is dropped once too often.
2. right before the DBAPI's COMMIT the tombstones are put: the row locks are held, the outcome is open.
3. once the outcome is known they are released: after COMMIT returned, or after a ROLLBACK did. An unknown
   outcome (the connection died in COMMIT) leaves them to their ttl.

All three wrap what belongs to the engine's dialect: its functions, the one place that every path to a statement and to
a COMMIT passes, and its execution contexts, which learn what a statement did. Nothing here is a listener: SQLAlchemy
has no event after a COMMIT, and an engine with a listener takes a longer way through each statement of its application.
How many rows a statement matched, and which keys the database made, is known with its result. Where none comes (it
failed halfway, or a listener of the host's did) the whole model is dropped.

Statements that commit by themselves (AUTOCOMMIT, COMMIT as text) have both steps around them. Those that may (DDL on
MySQL, a procedure, whatever SQLite runs outside a transaction) have step 2 before them, and step 3 after them where the
driver says that no transaction is open any more, else at the transaction's end.

What was changed, the tombstones and what becomes of those that cannot be placed are in ``pending``. After an
acknowledged commit nothing here raises; before it a failing cache does only where ``on_unreachable`` wants it.
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
from sqlalchemy.engine.base import OptionEngine
from sqlalchemy.engine.interfaces import CacheStats, ExecutionContext
from sqlalchemy.sql import dml

from person_repo.cache.contract import LeaseBackend
from person_repo.database.marks import DECLARED, OWN, DeclaredInsert
from person_repo.exceptions import ConfigurationError, InvalidIdError
from person_repo.fence.view import Fence, fence_of
from person_repo.forks import on_fork
from person_repo.mapped.keys import Keyspace
from person_repo.mapped.mapping import EntityMapping, Identity
from person_repo.writing import statements as changes
from person_repo.writing.cascades import Cascades
from person_repo.writing.pending import OpenTransaction, Pending
from person_repo.writing.statements import ByKey, Change, TextKind, Watched

__all__ = ["cover"]

logger = logging.getLogger("person_repo.writing")

_PENDING = "person_repo"
"""Where a DBAPI connection's ``info`` keeps what its transaction has changed."""

_SENT = "person_repo_sent"
"""Where an execution context keeps what is still to do for its statement."""

_SINCE = "person_repo_since"
"""Where a DBAPI connection's ``info`` keeps how many models were covered when its transaction began."""

_FORM = "person_repo_form"
"""Where a compiled statement keeps what is known of all statements of its form. It is of one engine's dialect."""

_IN_TRANSACTION = 1
"""The flag of MySQL's protocol: SERVER_STATUS_IN_TRANS."""

_WRAPPED = (
    "do_begin", "do_begin_twophase", "do_commit", "do_commit_twophase", "do_execute", "do_execute_no_params",
    "do_prepare_twophase", "do_rollback", "do_rollback_twophase",
)  # fmt: skip
"""The functions of a dialect that are wrapped, each by the one of its name; ``do_executemany`` as ``do_execute`` is."""

_ENDS = (TextKind.BEGIN, TextKind.COMMIT, TextKind.ROLLBACK)

# What Python's sqlite3 begins a transaction for; before 3.12 it always does, unless it is told to leave that alone.
_BEGUN_FOR = ("INSERT", "UPDATE", "DELETE", "REPLAC")


class CoveredModel(Watched):
    """A watched table of a model, with the cache that holds its entities."""

    def __init__(self, mapping: EntityMapping[Any], source: sa.Table, keys: Keyspace, backend: LeaseBackend) -> None:
        super().__init__(mapping, source)
        self.keys = keys
        self.backend = backend

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, CoveredModel)
            and other.backend is self.backend
            and other.keys.group == self.keys.group
            and other.mapping.entity is self.mapping.entity
            and other.source is self.source
        )

    __hash__ = None  # type: ignore[assignment]


@dataclass(slots=True)
class _Sent:
    """What is still to do for a statement once it has run.

    Each has its own, kept with its execution context: a listener of the host's may send others in the middle of it.
    ``driver``: the driver's connection. ``ends``: no transaction is open after it. ``due``: what it changes is yet to
    be announced. ``counted``: how many rows of a model it must turn out to have matched.
    """

    pending: Pending
    driver: Any
    ends: bool
    begins: bool
    due: bool
    generating: list[CoveredModel] = field(default_factory=list)
    counted: list[tuple[CoveredModel, int]] = field(default_factory=list)

    def settle(self) -> None:
        """Takes back the doubts of what only the result tells."""
        for model in [*self.generating, *[model for model, _ in self.counted]]:
            self.pending.settle(model.backend, model.keys.group)


@dataclass(frozen=True, slots=True)
class _Form:
    """What is known of all statements of one compilation: how their parameters tell what they change, and the models
    that change by cascades. It holds for the models covered, and the ``tables`` mapped, when it was found.
    """

    cascades: Cascades[CoveredModel]
    tables: int
    by_key: list[ByKey]
    cascading: list[Change]
    changes_nothing: bool


def cover(engine: sa.Engine, mapping: EntityMapping[Any], keys: Keyspace, backend: LeaseBackend) -> None:
    """Keeps the cached entities of one class coherent with every write through an engine. May be called again.

    Engines made from one by ``execution_options`` are one engine here. Raises ``ConfigurationError`` for anything else
    than an ``Engine``: an ``AsyncEngine`` has a ``sync_engine``.
    """
    if not isinstance(engine, sa.Engine):
        raise ConfigurationError(
            f"cover() takes an Engine, not {engine!r:.120}; of an AsyncEngine give the sync_engine"
        )
    for table in mapping.key_columns:
        _coverage_of(engine).add(CoveredModel(mapping, table, keys, backend))


class _Coverage:
    """What one engine's dialect is watched for. Every engine option and connection of it shares the dialect."""

    def __init__(self, engine: sa.Engine) -> None:
        self._models: list[CoveredModel] = []
        self._by_table: dict[str, list[CoveredModel]] = {}
        self._cascades: Cascades[CoveredModel] = Cascades([])
        self._prepared: dict[Any, Pending] = {}
        self._twophase = threading.local()
        root = engine
        while isinstance(root, OptionEngine):
            root = root._proxied
        # Not the engine: its dialect, which has this, would keep it for ever.
        self._engine = weakref.ref(root)
        dialect: Any = engine.dialect
        dialect.execution_ctx_cls = _watched(dialect.execution_ctx_cls, self)
        for name in _WRAPPED:
            around = getattr(self, f"_{name}")
            setattr(dialect, name, functools.partial(around, getattr(dialect, name)))
        dialect.do_executemany = functools.partial(self._do_execute, dialect.do_executemany)

    def add(self, model: CoveredModel) -> None:
        if model in self._models:
            return
        self._models = [*self._models, model]
        self._by_table = {**self._by_table, model.table: [*self._by_table.get(model.table, []), model]}
        self._cascades = Cascades(self._models)

    # Statements

    def _do_execute(
        self, execute: Callable[..., None], cursor: Any, statement: str, parameters: Any, context: Any = None
    ) -> None:
        if context is not None:
            self._look_at(context, statement)
        execute(cursor, statement, parameters, context)

    def _do_execute_no_params(
        self, execute: Callable[..., None], cursor: Any, statement: str, context: Any = None
    ) -> None:
        if context is not None:
            self._look_at(context, statement)
        execute(cursor, statement, context)

    def before(self, context: Any) -> None:
        """Where a host's own functions may send a statement in the place of the dialect's, it is looked at now."""
        handlers = context.dialect.dispatch
        if handlers.do_execute or handlers.do_executemany or handlers.do_execute_no_params:
            self._look_at(context, context.statement)

    def _look_at(self, context: Any, statement: str) -> None:
        """Cases: a query, or a form that is known to change nothing covered, which pass at once; an insert, update or
        delete that SQLAlchemy made; any other text.

        An insert in several batches is looked at before the first, and so is one whose defaults are asked for.
        """
        writes = context.isinsert or context.isupdate or context.isdelete
        if writes and (form := self._form_of(context)) is not None and form.changes_nothing:
            return
        if not writes and ";" not in statement and (statement[:6] in ("SELECT", "select") or _is_query(context)):
            return
        if _SENT in context.__dict__ or context.execution_options.get(OWN):
            return
        connection = context.root_connection
        kind, commits = (TextKind.WRITE, False) if writes else changes.kind_of_text(statement, connection.dialect.name)
        try:
            declared = context.execution_options.get(DECLARED)
            if declared is not None:
                found = self._of_declared(connection, declared)
            else:
                found = self._of_dml(connection, context) if writes else self._of_text(statement, kind)
        except sa.exc.DBAPIError:
            raise  # of a question to the database: the statement would have met the same
        except Exception:  # a statement of a kind never seen: it must not fail for us, nor go unseen
            logger.exception(
                "what a statement changes cannot be told; every cached model is dropped: %.200s", statement
            )
            found = [Change(model, None) for model in self._models]
        if found or commits or kind not in (TextKind.READ, TextKind.WRITE):
            self._keep(context, statement, kind, commits, found)

    def _of_dml(self, connection: sa.Connection, context: Any) -> list[Change]:
        """Cases: a statement of a form that was looked at before, which is told by its parameters; any other."""
        form = self._form_of(context)
        found = None if form is None else _changed_by_form(connection, form, context.compiled_parameters)
        return self._looked_at(connection, context) if found is None else found

    def _form_of(self, context: Any) -> _Form | None:
        """What is known of all statements of this form, where it was looked at before and that holds yet."""
        form: _Form | None = context.compiled.__dict__.get(_FORM)
        holds = form is not None and form.cascades is self._cascades and form.tables == self._cascades.tables
        return form if holds else None

    def _looked_at(self, connection: sa.Connection, context: Any) -> list[Change]:
        statement = getattr(context.invoked_statement, "_resolved", context.invoked_statement)
        statement = getattr(statement, "element", statement)  # of select(...).from_statement(...)
        if not isinstance(statement, dml.UpdateBase):
            return [Change(model, None) for model in self._models]
        parameters = _parameters_of(context)
        targets = changes.targets_of(statement)
        found: list[Change] = []
        if any(name in self._by_table for name in targets):
            found = self._resolved(connection, statement, parameters)
        by_ctes = _changed_by_ctes(context.compiled)
        for name in by_ctes:
            found += [Change(model, None) for model in self._by_table.get(name, ())]
        cascading = [Change(model, None) for model in self._cascades.of_statement(statement, parameters)]
        found += cascading
        if context.cache_hit is CacheStats.CACHE_HIT and not by_ctes:  # it comes again
            named = changes.by_key(statement, parameters, self._by_table, connection.dialect)
            if named is not None:
                form = _Form(self._cascades, self._cascades.tables, named, cascading, not named and not cascading)
                context.compiled.__dict__[_FORM] = form
        return found

    def _resolved(
        self, connection: sa.Connection, statement: dml.UpdateBase, parameters: changes.Parameters
    ) -> list[Change]:
        return changes.of_statement(
            connection,
            statement,
            parameters,
            self._by_table,
            most=max(model.backend.settings.max_keys for model in self._models),
            may_ask=lambda: not self._commits_itself(connection, _driver_of(connection)),
        )

    def _of_declared(self, connection: sa.Connection, declared: DeclaredInsert) -> list[Change]:
        pending: Pending | None = connection.connection.info.get(_PENDING)
        found = []
        for model in self._by_table.get(declared.table.name.lower(), ()):
            same = (
                model.source is declared.table and model.key_names == declared.key_names and not model.converts_keys()
            )
            dropped = pending is not None and _drops(pending, model)
            found.append(Change(model, declared.identities() if same and not dropped else None))
        return found

    def _of_text(self, statement: str, kind: str) -> list[Change]:
        if kind == TextKind.ANY:
            committing = getattr(self._twophase, "committing", False)
            return [] if committing else [Change(model, None) for model in self._models]
        if kind != TextKind.WRITE:
            return []
        named = [model for model in self._models if model.is_named_in(statement)]
        named += [model for model in self._cascades.of_text(statement) if model not in named]
        return [Change(model, None) for model in named]

    def _keep(self, context: Any, statement: str, kind: str, commits: bool, found: Sequence[Change]) -> None:
        """Adds to what the transaction has changed; announces all of it where the statement may commit.

        Cases: SQLite's savepoints, which are transactions of their own where none is open; the ends and beginnings of
        transactions; a statement that commits itself; one that may; one that leaves the transaction open.
        """
        connection: sa.Connection = context.root_connection
        info = _info_of(connection.connection)
        if info is None:
            return
        driver = _driver_of(connection)
        is_open = _is_open(driver)
        if kind == TextKind.BEGIN and is_open is False:  # by a host's listener, before SQLAlchemy's own beginning
            info[_SINCE] = len(self._models)
        pending = self._changed_on(info)
        if kind in (TextKind.SAVEPOINT, TextKind.RELEASE):
            begins = kind == TextKind.SAVEPOINT and is_open is False
            if not begins and (pending is None or not pending.begun_by_savepoint):
                return
            pending = self._pending_of(info)
            pending.begun_by_savepoint = True
        pending = pending or self._pending_of(info)
        ends = kind in _ENDS or (not is_open and self._commits_itself(connection, driver))
        begins = kind == TextKind.BEGIN or (kind in (TextKind.COMMIT, TextKind.ROLLBACK) and changes.chains(statement))
        sent = _Sent(pending, driver, ends, begins, due=kind != TextKind.ROLLBACK)
        for change in found:
            _note(sent, change)
        if sent.due and (ends or commits or (is_open is False and _is_outside(connection, statement))):
            pending.put(_taking_more(connection, kind, is_open))
            sent.due = False
        context.__dict__[_SENT] = sent

    def after(self, context: Any, sent: _Sent, result: sa.CursorResult[Any]) -> None:
        """Cases: a statement that leaves its transaction open; one that is not done yet, whose tombstones stay to the
        transaction's end; a transaction that is over; one that was ended on the way, maybe in part.
        """
        learned = _learn(sent, result) if sent.generating or sent.counted else False
        over = _is_open(sent.driver) is False
        if not (over or sent.ends):
            return
        sqlite = context.dialect.name == "sqlite"
        pending = sent.pending
        if learned or sent.due:
            pending.put_afterwards()
        if _is_unfetched(result) if sqlite else _has_more(sent.driver):
            return
        if sent.ends:
            pending.begun_by_text = sent.begins
        if sent.ends or sqlite:
            pending.end()
        else:
            pending.withdraw()
        if over:
            pending.begun_by_savepoint = False

    @staticmethod
    def after_error(context: Any, sent: _Sent) -> None:
        """The driver refused a statement.

        Where nobody knows what it did (the connection is gone), the tombstones stay to their ttl. Else they go; but
        what was changed before is kept: MySQL commits before some statements that then fail, and not before others.
        Of several executions in one the first may have been done, with keys that nobody tells now.

        What else fails (a listener of the host's, an interrupt) is not told here: then the statement stays in doubt,
        and its tombstones stand until the next one or the transaction is over.
        """
        if context.root_connection._is_disconnect:
            return
        if not context.executemany:
            sent.settle()
        if not sent.due:
            sent.pending.withdraw()

    def _pending_of(self, info: dict[Any, Any]) -> Pending:
        found: Pending | None = info.get(_PENDING)
        if found is None:
            found = info[_PENDING] = Pending(self._fence)
        return found

    def _fence(self, backend: LeaseBackend) -> Fence | None:
        engine = self._engine()
        return None if engine is None else fence_of(engine, backend)

    @staticmethod
    def _commits_itself(connection: sa.Connection, driver: Any) -> bool:
        """Whether each statement is a transaction of its own now."""
        is_open = _is_open(driver)
        if is_open:
            return False
        fairy: Any = connection.connection
        pending: Pending | None = fairy.info.get(_PENDING)
        if is_open is None and pending is not None and pending.begun_by_text:
            return False
        if getattr(driver, "autocommit", None) is True:  # sqlite3 from Python 3.12 on
            return True
        try:
            return connection.dialect.detect_autocommit_setting(fairy.dbapi_connection)
        except NotImplementedError:
            return connection.get_isolation_level() == "AUTOCOMMIT"

    # Transactions

    def _do_begin(self, begin: Callable[[Any], None], dbapi_connection: Any) -> None:
        dbapi_connection.info[_SINCE] = len(self._models)
        begin(dbapi_connection)

    def _do_begin_twophase(self, begin: Callable[..., None], connection: sa.Connection, xid: Any) -> None:
        connection.connection.info[_SINCE] = len(self._models)
        begin(connection, xid)

    def _changed_on(self, info: dict[Any, Any] | None) -> Pending | None:
        """What a connection's transaction has changed, None where it is nothing.

        What it did before a model was covered, nobody saw.
        """
        if info is None:
            return None
        seen, info[_SINCE] = info.get(_SINCE, 0), len(self._models)
        if seen < len(self._models):
            for model in self._models[seen:]:
                _drop(self._pending_of(info), model)
        found: Pending | None = info.get(_PENDING)
        return found

    # Around COMMIT and ROLLBACK

    def _do_commit(self, commit: Callable[[Any], None], dbapi_connection: Any) -> None:
        info = _info_of(dbapi_connection)
        pending = self._changed_on(info)
        if info is None or pending is None:
            commit(dbapi_connection)
            return
        engine = self._engine()
        pending.put(None if engine is None else OpenTransaction(dbapi_connection, engine.dialect))
        commit(dbapi_connection)
        info.pop(_PENDING, None)
        pending.end()

    def _do_rollback(self, rollback: Callable[[Any], None], dbapi_connection: Any) -> None:
        rollback(dbapi_connection)
        info = _info_of(dbapi_connection)
        pending: Pending | None = info.pop(_PENDING, None) if info is not None else None
        if pending is not None:
            pending.end(committed=False)

    def _do_prepare_twophase(self, prepare: Callable[..., None], connection: sa.Connection, xid: Any) -> None:
        info = connection.connection.info
        self._prepared[_name_of(xid)] = pending = self._changed_on(info) or Pending(self._fence)
        info.pop(_PENDING, None)
        pending.put(OpenTransaction(connection.connection, connection.dialect))
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
        pending = self._prepared.get(_name_of(xid))
        if pending is None and not is_prepared:
            pending = self._changed_on(connection.connection.info)
        elif pending is None:
            pending = Pending(self._fence)
            for model in self._models:
                _drop(pending, model)
        if pending is not None:
            # A transaction that is prepared takes no further statement.
            pending.put(None if is_prepared else OpenTransaction(connection.connection, connection.dialect))
        self._twophase.committing = True
        try:
            commit(connection, xid, is_prepared, recover)
        finally:
            self._twophase.committing = False
        self._prepared.pop(_name_of(xid), None)
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
        pending = self._prepared.pop(_name_of(xid), None) or connection.connection.info.pop(_PENDING, None)
        if pending is not None:
            pending.end(committed=False)


_coverages: weakref.WeakKeyDictionary[sa.Dialect, _Coverage] = weakref.WeakKeyDictionary()
_covering = threading.Lock()


def _coverage_of(engine: sa.Engine) -> _Coverage:
    with _covering:
        found = _coverages.get(engine.dialect)
        if found is None:
            found = _coverages[engine.dialect] = _Coverage(engine)
        return found


def _unlock() -> None:
    global _covering
    # A thread that does not exist in this process may hold the lock.
    _covering = threading.Lock()


on_fork(_unlock)


def _watched(contexts: type[ExecutionContext], coverage: _Coverage) -> type[ExecutionContext]:
    """The execution contexts of a dialect, which tell what becomes of a statement."""
    base: Any = contexts  # called by its name: super() costs as much as all the rest, at each statement

    class Watched(contexts):  # type: ignore[misc, valid-type]
        def pre_exec(self) -> None:
            base.pre_exec(self)
            if self.dialect._has_events:
                coverage.before(self)

        def _setup_result_proxy(self) -> Any:
            result = base._setup_result_proxy(self)
            if (sent := self.__dict__.pop(_SENT, None)) is not None:
                coverage.after(self, sent, result)
            return result

        def handle_dbapi_exception(self, e: BaseException) -> None:
            base.handle_dbapi_exception(self, e)
            if (sent := self.__dict__.pop(_SENT, None)) is not None:
                coverage.after_error(self, sent)

    return Watched


def _note(sent: _Sent, change: Change) -> None:
    """Adds to what the transaction of a statement has changed, and to what its result will tell."""
    model = change.watched
    assert isinstance(model, CoveredModel)
    try:
        _add(sent.pending, model, change.identities)
    except InvalidIdError:  # a row whose key no reader can ask for, and what else was found with it
        _drop(sent.pending, model)
    if change.generated and sent.ends:  # committed before anybody learns the keys, which may be known to be absent
        _drop(sent.pending, model)
    elif change.generated:
        sent.generating.append(model)
        sent.pending.doubt(model.backend, model.keys.group)
    if change.counted and change.identities is not None:
        sent.counted.append((model, len(change.identities)))
        sent.pending.doubt(model.backend, model.keys.group)


def _learn(sent: _Sent, result: sa.CursorResult[Any]) -> bool:
    """What only the result of a statement tells: how many rows it matched, and which keys the database made.
    Whether any of it is new.
    """
    sent.settle()
    news = [model for model, asked in sent.counted if result.rowcount != asked]
    for model in news:
        _drop(sent.pending, model)
    for model in sent.generating:
        _add(sent.pending, model, _made_keys(result, model))
    return bool(news or sent.generating)


def _add(pending: Pending, model: CoveredModel, identities: Iterable[Identity] | None) -> None:
    if identities is None:
        _drop(pending, model)
    else:
        key_of = model.keys.key_of
        pending.add(model.backend, model.keys.group, [key_of(identity)[0] for identity in identities])


def _drop(pending: Pending, model: CoveredModel) -> None:
    pending.add_group(model.backend, model.keys.group)


def _taking_more(connection: sa.Connection, kind: str, is_open: bool | None) -> OpenTransaction | None:
    """The transaction of a connection whose next statement ends it, where another statement can be sent before; None
    where the next statement commits by itself.

    On SQLite an open transaction has the one lock for writing, so nothing can be written beside it.
    """
    ends = kind in (TextKind.BEGIN, TextKind.COMMIT, TextKind.RELEASE)
    if is_open and (ends or connection.dialect.name == "sqlite"):
        return OpenTransaction(connection.connection, connection.dialect)
    return None


def _name_of(xid: Any) -> Any:
    # XA RECOVER tells bytes.
    return xid.decode(errors="replace") if isinstance(xid, bytes) else xid


def _info_of(dbapi_connection: Any) -> dict[Any, Any] | None:
    try:
        info: dict[Any, Any] = dbapi_connection.info
    except NotImplementedError:  # the connection on which SQLAlchemy first looks at a server has none
        return None
    return info


def _driver_of(connection: sa.Connection) -> Any:
    fairy: Any = connection.connection
    return connection.dialect.get_driver_connection(fairy.dbapi_connection)


def _is_open(driver: Any) -> bool | None:
    """Whether a transaction is open on a driver's connection; None where it does not tell."""
    is_open = getattr(driver, "in_transaction", None)
    if isinstance(is_open, bool):
        return is_open
    status = getattr(driver, "server_status", None)
    last = getattr(driver, "_result", None)
    # PyMySQL takes the status from a reply without rows only, and not from the last of several.
    known = last is None or (getattr(last, "server_status", None) is not None and not last.has_next)
    return bool(status & _IN_TRANSACTION) if known and isinstance(status, int) else None


def _is_outside(connection: sa.Connection, statement: str) -> bool:
    """Whether SQLite runs a statement outside any transaction where none is open, and so commits it: its driver begins
    one for some words only, and sees none of them in ``WITH ... UPDATE``.
    """
    return connection.dialect.name == "sqlite" and statement[:6].upper() not in _BEGUN_FOR


def _changed_by_form(connection: sa.Connection, form: _Form, parameters: changes.Parameters) -> list[Change] | None:
    found = [*form.cascading]
    pending: Pending | None = connection.connection.info.get(_PENDING)
    for rows in form.by_key:
        # Of what is dropped as a whole no key need be known, as in a long import.
        dropped = pending is not None and _drops(pending, rows.watched)
        change = Change(rows.watched, None) if dropped else rows.change(parameters)
        if change is None:
            return None
        found.append(change)
    return found


def _drops(pending: Pending, model: Watched) -> bool:
    """Whether a transaction drops a whole model already."""
    assert isinstance(model, CoveredModel)
    return pending.drops(model.backend, model.keys.group)


def _parameters_of(context: Any) -> changes.Parameters:
    """The parameter sets under the names that the statement has for them: lists are spread over names made up."""
    spread: dict[str, list[str]] = getattr(context, "_expanded_parameters", None) or {}
    return [
        {**given, **{name: [given[part] for part in parts] for name, parts in spread.items() if name not in given}}
        for given in context.compiled_parameters
    ]


def _is_query(context: Any) -> bool:
    """Whether SQLAlchemy made a statement that changes nothing."""
    compiled = getattr(context, "compiled", None)
    made = isinstance(getattr(compiled, "statement", None), (sa.Select, sa.CompoundSelect))
    return made and not _changed_by_ctes(compiled)


def _changed_by_ctes(compiled: Any) -> list[str]:
    """The tables that inserts, updates and deletes within a WITH change."""
    elements = [getattr(cte, "element", None) for cte in getattr(compiled, "ctes", None) or ()]
    return [name for element in elements if isinstance(element, dml.UpdateBase) for name in changes.targets_of(element)]


def _is_unfetched(result: sa.CursorResult[Any]) -> bool:
    """Whether a statement goes on although its result is here: SQLite commits with the last row that is fetched."""
    return result.returns_rows and not result.closed


def _has_more(driver: Any) -> bool:
    """The same of several statements in one, on MySQL: it is at the next by then."""
    return bool(getattr(getattr(driver, "_result", None), "has_next", False))


def _made_keys(result: Any, model: CoveredModel) -> list[Any] | None:
    """The primary keys that the database made for inserted rows; None where it does not tell."""
    try:
        rows = result.context.inserted_primary_key_rows
    except (AttributeError, sa.exc.InvalidRequestError):
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
