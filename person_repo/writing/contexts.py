"""A statement under way on a covered engine: examined before it is sent, closed when its result is here.

SQLAlchemy makes an execution context for each statement. On a covered engine that is a ``CoveringContext``, and for a
statement that matters it holds an ``InFlight``, from ``examine`` to the result or the error. A context has its own,
because a host's listener may send other statements in the middle of one.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine.interfaces import ExecutionContext

from person_repo.database.marks import DECLARED, OWN
from person_repo.exceptions import InvalidIdError
from person_repo.internals import MAKE_RESULT, connections_have_listeners, has_listeners, is_disconnect
from person_repo.interruptions import is_repeated
from person_repo.writing.connections import commits_itself, driver_of, has_failed, has_more_results, info_of, is_open
from person_repo.writing.covered import ANYWHERE, HIDDEN, MOVED, PENDING, SINCE, Covered, CoveredModel, Scope
from person_repo.writing.examination import (
    Changes,
    Form,
    form_of,
    is_query,
    of_core,
    of_declared,
    of_text,
    targets_sent,
    whole_models,
)
from person_repo.writing.outage import OpenTransaction
from person_repo.writing.pending import Pending
from person_repo.writing.returning import Returned, returned_by
from person_repo.writing.rewriting import KEPT, has_other_parameters, is_rewritten, keep_parameters
from person_repo.writing.sqltext import (
    TextKind,
    attaches,
    chains,
    kind_of_text,
    may_alter,
    moves,
    sqlite_begins_before,
    temporary_table,
)
from person_repo.writing.tables import Change

__all__ = ["InFlight", "covering", "examine"]

logger = logging.getLogger("person_repo.writing")

_IN_FLIGHT = "person_repo_in_flight"
"""The attribute of an execution context that holds its ``InFlight``."""

_SAVEPOINTS = (TextKind.SAVEPOINT, TextKind.RELEASE)
_ENDS = (TextKind.BEGIN, TextKind.COMMIT, TextKind.ROLLBACK)


def covering(contexts: type[ExecutionContext], covered: Covered) -> type[ExecutionContext]:
    """The execution contexts of a dialect, with what is done before and after each statement."""
    base: Any = contexts  # Called by its name: super() costs as much as all the rest, at each statement.

    class CoveringContext(contexts):  # type: ignore[misc, valid-type]
        def pre_exec(self) -> None:
            base.pre_exec(self)
            if self.isinsert or self.isupdate or self.isdelete:
                connection = self.root_connection
                if has_listeners(connection) or has_listeners(connection.engine) or connections_have_listeners():
                    keep_parameters(self)
            # A host's do_execute listener, on the dialect or on a class of dialects, may send a statement in the place
            # of the dialect's function, so the statement is examined now. Usually the wrapped function does that.
            if has_listeners(self.dialect) and _may_be_sent_by_host(self.dialect):
                examine(covered, self, self.statement, None)

        def handle_dbapi_exception(self, e: BaseException) -> None:
            base.handle_dbapi_exception(self, e)
            if (in_flight := self.__dict__.pop(_IN_FLIGHT, None)) is not None:
                in_flight.fail(self)

    base_make_result = getattr(contexts, MAKE_RESULT)

    def make_result(self: Any) -> Any:
        result = base_make_result(self)
        if (in_flight := self.__dict__.pop(_IN_FLIGHT, None)) is not None:
            in_flight.finish(self, result)
        return result

    setattr(CoveringContext, MAKE_RESULT, make_result)
    return CoveringContext


def _may_be_sent_by_host(dialect: sa.Dialect) -> bool:
    events: Any = dialect.dispatch
    return bool(events.do_execute or events.do_executemany or events.do_execute_no_params)


def examine(covered: Covered, context: Any, statement: str, parameters: Any) -> InFlight | None:
    """Record what a statement changes, right before it is sent. Returns the statement in flight, if it is to return
    rows (``InFlight.returned``). ``parameters``: as they are sent; None if a host's listener may send the statement.

    Cases, in this order:

    1. fast path: a Core write of a form that is known to change nothing covered, or a query. Nothing more to do;
    2. a statement examined before (the next batch of an insert, a default that is asked for), or one of our own;
    3. text that reads, and commits nothing;
    4. any other statement: ``examination`` finds what it changes. It is in flight if that is anything covered, or if it
       may begin or end a transaction.
    """
    # A default that is asked for while its insert is made comes before that has a text.
    compiled_text = getattr(context, "statement", None)
    writes = compiled_text is not None and (context.isinsert or context.isupdate or context.isdelete)
    form = None
    if writes:
        form = form_of(covered, context)
        if form is not None and form.changes_nothing and statement is compiled_text:
            return None
    elif ";" not in statement and (statement[:6] in ("SELECT", "select") or is_query(context)):
        return None
    if (in_flight := context.__dict__.get(_IN_FLIGHT)) is not None:
        if writes and parameters is not None:
            _look_again(covered, context, statement, parameters, in_flight)
        return None
    if context.execution_options.get(OWN):
        return None
    kind, may_commit = (TextKind.WRITE, False) if writes else kind_of_text(statement, context.dialect.name)
    if not writes and (info := info_of(context.root_connection.connection)) is not None:
        if moves(statement):
            info[MOVED] = True
            if attaches(statement) and context.dialect.name == "sqlite":
                covered.attach()
        if (made := temporary_table(statement)) is not None and (not made or made in covered.by_table):
            info[HIDDEN] = True
    if kind == TextKind.READ and not may_commit:
        return None

    is_as_compiled = statement is compiled_text and KEPT not in context.__dict__

    def find_changes() -> Changes:
        if not writes:
            return _of_other(covered, context, statement, kind)
        return (
            of_core(covered, context, form)
            if is_as_compiled
            else _of_write(covered, context, statement, parameters, form)
        )

    try:
        changes = find_changes()
    except sa.exc.DBAPIError:
        raise  # Our own key query failed; the host's statement would have failed the same way.
    except Exception as exc:  # A kind of statement never seen before: it must neither fail because of us nor go unseen.
        if not is_repeated(exc, find_changes):
            raise
        logger.exception("the changes of a statement cannot be found; every cached model is dropped: %.200s", statement)
        changes = whole_models(covered.models)
    if changes or may_commit or kind != TextKind.WRITE:
        alters = bool(changes) and not writes and covered.may_define(statement) and may_alter(statement, kind)
        is_sent = parameters is not None
        return _put_in_flight(
            covered, context, statement, kind, changes, may_commit=may_commit, alters=alters, is_sent=is_sent
        )
    return None


def _look_again(covered: Covered, context: Any, statement: str, parameters: Any, in_flight: InFlight) -> None:
    """A statement that was examined before the host's listeners saw it is sent now: they may have rewritten it."""
    is_other_text = is_rewritten(context, statement)
    if is_other_text or has_other_parameters(context, parameters):
        in_flight.record(whole_models([model for model in covered.models if model.name in targets_sent(context)]))
    if is_other_text:
        in_flight.record(of_text(covered, context.root_connection, statement, TextKind.WRITE))


def _of_write(covered: Covered, context: Any, statement: str, parameters: Any, form: Form | None) -> Changes:
    """The changes of an insert, update or delete of SQLAlchemy's that a listener may have rewritten: if it has, those
    of its tables as a whole, and of the tables that its text names now.
    """
    changes = of_core(covered, context, form)
    if is_rewritten(context, statement):
        return whole_models([change.table for change in changes]) + of_text(
            covered, context.root_connection, statement, TextKind.WRITE
        )
    if parameters is not None and has_other_parameters(context, parameters):
        return whole_models([change.table for change in changes])
    return changes


def _of_other(covered: Covered, context: Any, statement: str, kind: str) -> Changes:
    declared = context.execution_options.get(DECLARED)
    if declared is not None:
        return of_declared(covered, context.root_connection, declared)
    return of_text(covered, context.root_connection, statement, kind)


# The statement and its transaction


def _put_in_flight(
    covered: Covered,
    context: Any,
    statement: str,
    kind: str,
    changes: Changes,
    *,
    may_commit: bool,
    alters: bool,
    is_sent: bool,
) -> InFlight | None:
    """Record the changes of a statement with its transaction, and announce them now if the COMMIT may be too late.

    Cases, in this order:

    1. SQLite's savepoints: inside a transaction they change nothing here; outside, a savepoint begins one (see
       ``_pending_of_savepoint``);
    2. the statement ends its transaction: BEGIN, COMMIT or ROLLBACK by text, or any statement under AUTOCOMMIT;
    3. it may end it on the way: DDL on MySQL, a procedure, what SQLite runs outside a transaction. In 2 and 3 all
       changes of the transaction are announced before the statement, unless it is a ROLLBACK;
    4. it leaves its transaction open, and changes a table without transactions (``storage``): as 3;
    5. it leaves its transaction open: the changes wait for the COMMIT.
    """
    connection: sa.Connection = context.root_connection
    info = info_of(connection.connection)
    if info is None:
        return None
    driver = driver_of(connection)
    if kind == TextKind.COMMIT and has_failed(driver):
        kind = TextKind.ROLLBACK
    open_now = is_open(driver)
    if kind == TextKind.BEGIN and open_now is False:
        info[SINCE] = len(covered.news)  # A host's listener begins transactions itself, before ``do_begin``.
    pending = covered.pending_in(info)
    if kind in _SAVEPOINTS:
        pending = _pending_of_savepoint(covered, info, pending, begins=kind == TextKind.SAVEPOINT and open_now is False)
        if pending is None:
            return None
    if pending is not None and pending.is_left_open and open_now is False:
        pending.announce_late()
        pending.finish()
        info.pop(PENDING, None)
        pending = None
    if pending is None:
        pending = covered.pending_for(info)
    ends = kind in _ENDS or (
        not open_now and commits_itself(connection, driver, open_now=open_now, begun_by_text=pending.begun_by_text)
    )
    options = context.execution_options
    # Of text whole classes are dropped. An insert of this package's is compiled without a translation.
    scope: Scope = ANYWHERE if MOVED in info else options.get("schema_translate_map")
    at_once = False
    if covered.storage.is_asked:
        for change in changes:
            at_once = at_once or not covered.storage.waits_for_commit(change.table.table, options)
    if alters:
        covered.alter([change.table for change in changes], pending)
    in_flight = InFlight(
        pending,
        covered,
        driver,
        scope,
        ends,
        at_once,
        begins=_begins(kind, statement),
        unannounced=kind != TextKind.ROLLBACK,
        since=len(covered.news),
    )
    may_end = ends or at_once or may_commit or (open_now is False and _is_outside(context.dialect, statement))
    if is_sent and not may_end:  # Otherwise the keys come too late: others see what the statement did.
        asked = [change.table for change in changes if change.returned and not change.table.is_whole_in(pending)]
        in_flight.returned = returned_by(context, statement, asked) if asked else None
    in_flight.record(changes)
    if may_end and in_flight.unannounced:
        pending.place(_transaction_that_can_record(connection, kind, open_now))
        in_flight.unannounced = False
    context.__dict__[_IN_FLIGHT] = in_flight
    return None if in_flight.returned is None else in_flight


def _pending_of_savepoint(
    covered: Covered, info: dict[Any, Any], pending: Pending | None, *, begins: bool
) -> Pending | None:
    """The changes of a transaction on SQLite that a savepoint began, or begins now; the RELEASE of that one commits.

    None inside any other transaction, whose savepoints are not followed.
    """
    if not begins and (pending is None or not pending.begun_by_savepoint):
        return None
    pending = covered.pending_for(info)
    pending.begun_by_savepoint = True
    return pending


def _begins(kind: str, statement: str) -> bool:
    """True if a transaction is open after the text that ended, or began, one."""
    return kind == TextKind.BEGIN or (kind in (TextKind.COMMIT, TextKind.ROLLBACK) and chains(statement))


def _is_outside(dialect: sa.Dialect, statement: str) -> bool:
    """True if SQLite runs a statement outside any transaction where none is open, and so commits it."""
    return dialect.name == "sqlite" and not sqlite_begins_before(statement)


def _transaction_that_can_record(connection: sa.Connection, kind: str, open_now: bool | None) -> OpenTransaction | None:
    """The open transaction that the next statement ends, if the fence's rows can be written in it before; None if the
    next statement commits by itself.

    On SQLite an open transaction has the one lock for writing, so nothing can be written beside it.
    """
    ends = kind in (TextKind.BEGIN, TextKind.COMMIT, TextKind.RELEASE)
    if open_now and (ends or connection.dialect.name == "sqlite"):
        return OpenTransaction(connection.connection, connection.dialect)
    return None


@dataclass(slots=True)
class InFlight:
    """One statement under way, from right before it is sent until its result or its error is here.

    ``pending``: the changes of its transaction. ``driver``: the driver's connection. ``scope``: the schemas of its
    tables. ``ends``: no transaction is open after it. ``at_once``: its changes are everybody's once it has run,
    whatever its transaction does. ``begins``: it begins one by text. ``unannounced``: no tombstones are placed for it
    yet. ``generating``: models whose new keys come with the result. ``counted``: the number of rows it may turn out to
    match, by model. ``returned``: the keys that it is to return itself. ``since``: the number of ``Covered.news`` when
    it was examined.
    """

    pending: Pending
    covered: Covered
    driver: Any
    scope: Scope
    ends: bool
    at_once: bool
    begins: bool
    unannounced: bool
    since: int
    generating: list[CoveredModel] = field(default_factory=list)
    counted: list[tuple[CoveredModel, int]] = field(default_factory=list)
    returned: Returned | None = None

    def record(self, changes: Changes) -> None:
        """Add to the changes of the transaction, and remember what only the result can say."""
        for change in changes:
            if self.returned is not None and any(change.table is model for model in self.returned.models):
                self.pending.suspect(change.table.backend, change.table.group)
                continue
            try:  # ``_record`` without a call, at each statement.
                change.table.record(self.pending, change.identities, self.scope)
            except InvalidIdError:
                change.table.record(self.pending, None)
            if change.generated or change.counted:
                self._await_result(change)

    def _record(self, model: CoveredModel, identities: list[Any] | None) -> None:
        try:
            model.record(self.pending, identities, self.scope)
        except InvalidIdError:  # A row whose key no reader can ask for; the rows found with it are unknown.
            model.record(self.pending, None)

    def _await_result(self, change: Change[CoveredModel]) -> None:
        model = change.table
        if change.generated and (self.ends or self.at_once):
            # The new rows are published before we know their keys, and readers may have cached their absence.
            model.record(self.pending, None)
        elif change.generated:
            self.generating.append(model)
            self.pending.suspect(model.backend, model.group)
        if change.counted and change.identities is not None:
            self.counted.append((model, len(change.identities)))
            self.pending.suspect(model.backend, model.group)

    def take_returned(self, context: Any, cursor: Any) -> None:
        """Record the keys that the statement has returned. Whatever is raised, the models stay suspected."""
        assert self.returned is not None
        models, found = self.returned.models, self.returned.identities(context, cursor)
        for model, identities in zip(models, found, strict=True):
            self._record(model, identities)
            self.pending.resolve(model.backend, model.group)
        self.returned = None

    def give_up_returned(self) -> Sequence[CoveredModel]:
        """The statement was refused with its clause, and is sent again without it. Returns the models it was for."""
        assert self.returned is not None
        models, self.returned = self.returned.models, None
        for model in models:
            model.record(self.pending, None)
            self.pending.resolve(model.backend, model.group)
        return models

    def finish(self, context: Any, result: sa.CursorResult[Any]) -> None:
        """The statement has run. Cases, in this order:

        1. its transaction is open, and keeps its changes: its tombstones, if any, stay until the COMMIT or ROLLBACK;
        2. it is not done: SQLite commits with the last row that is fetched, MySQL is at the next statement of the same
           text. Its tombstones stay until the connection's COMMIT or ROLLBACK;
        3. its transaction is over: the tombstones are released;
        4. MySQL ended a transaction on the way, maybe before a part of it, or the changes were made at once: they are
           released, the changes are kept.
        """
        if self.pending.alters and self.covered.storage.is_asked:
            self.covered.settle(self.pending)  # MySQL has committed before and after it.
        has_news = self._learn_from_result(result) if self.generating or self.counted else False
        is_over = is_open(self.driver) is False
        self.pending.is_left_open = not (is_over or self.ends)
        if not (is_over or self.ends or self.at_once):
            return
        is_sqlite = context.dialect.name == "sqlite"
        pending = self.pending
        for model in self.covered.news[self.since :]:
            has_news = True
            model.record(pending, None)
        if has_news or self.unannounced:
            pending.place_afterwards()
        if _is_unfetched(result) if is_sqlite else has_more_results(self.driver):
            return
        if self.ends:
            pending.begun_by_text = self.begins
        if self.ends or is_sqlite:
            pending.finish()
        else:
            pending.release_made()
        if is_over:
            pending.begun_by_savepoint = False

    def fail(self, context: Any) -> None:
        """The driver refused the statement. Cases, in this order:

        1. the connection is gone, and nobody knows what the statement did: its tombstones stay to their ttl;
        2. of several executions in one the first may have been done, with keys that nobody learns: the models stay
           suspected;
        3. SQLite keeps the rows changed before a failure (OR FAIL, RAISE(FAIL)): what was to be returned is dropped;
        4. tombstones that were placed for it are released. The changes are kept: MySQL commits before some statements
           that then fail, and not before others.

        Other failures (a listener of the host's, an interrupt) do not come here: the models stay suspected, and the
        tombstones stand until the next statement or the transaction is over.
        """
        if self.pending.alters and self.covered.storage.is_asked:
            self.covered.settle(self.pending)
        if is_disconnect(context.root_connection):
            return
        if not context.executemany:
            if self.returned is not None and context.dialect.name == "sqlite":
                self.give_up_returned()
            self._resolve()
        if not self.unannounced:
            self.pending.release_early()

    def _resolve(self) -> None:
        """End the suspicions of what only the result can say."""
        returning = [] if self.returned is None else self.returned.models
        for model in [*self.generating, *[model for model, _ in self.counted], *returning]:
            self.pending.resolve(model.backend, model.group)

    def _learn_from_result(self, result: sa.CursorResult[Any]) -> bool:
        """Record what only the result says: rows matched, keys that the database made. True if any of it is new."""
        self._resolve()
        mistaken = [model for model, asked in self.counted if result.rowcount > asked]
        for model in mistaken:
            model.record(self.pending, None)
        for model in self.generating:
            self._record(model, self._made_keys(result, model))
        return bool(mistaken or self.generating)

    def _made_keys(self, result: Any, model: CoveredModel) -> list[Any] | None:
        """The primary keys that the database made for inserted rows; None if the result does not hold them, or is of a
        kind never seen before: the host's statement has run, and must not fail because of us.
        """
        try:
            return _made_keys(result, model)
        except Exception as exc:
            if not is_repeated(exc, lambda: _made_keys(result, model)):
                raise
            logger.debug("the keys of new rows of %s cannot be found: %s", model.mapping.name, exc)
            return None


def _is_unfetched(result: sa.CursorResult[Any]) -> bool:
    return result.returns_rows and not result.closed


def _made_keys(result: Any, model: CoveredModel) -> list[Any] | None:
    """The primary keys that the database made for inserted rows; None if the result does not hold them."""
    rows = result.context.inserted_primary_key_rows
    names = [column.name for column in result.context.compiled.statement.table.primary_key]
    if not rows or sorted(names) != sorted(model.key_names):
        return None
    identities = []
    for row in rows:
        values = dict(zip(names, row, strict=True)) if row is not None else {}
        identity = model.stored_identity([values.get(name) for name in model.key_names])
        if identity is None:
            return None
        identities.append(identity)
    return identities
