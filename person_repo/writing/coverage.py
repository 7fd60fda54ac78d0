"""``cover_all(engine, ...)``: from then on every write through an engine keeps its cached entities coherent.

The steps of one write, by any code, on any connection of that engine:

1. The dialect sends a statement; before that it is examined (``contexts``). Most pass at once: queries, and statements
   whose form is known to change nothing covered.
2. The keys of the rows it changes are found (``examination``): of a Core statement from its clauses (``statements``,
   ``criteria``, ``clauses``), of text from its words (``sqltext``), of rows changed by foreign keys from the metadata
   (``cascades``). If keys cannot be found, the whole model counts as changed.
3. They are recorded with the DBAPI connection, as changes of its transaction (``pending``). Savepoints are not
   followed: what is rolled back to one is invalidated needlessly.
4. The result says how many rows a statement matched, and which keys the database made (``contexts``). If none comes
   (the statement failed halfway, or a listener of the host's did), the whole model counts as changed.
5. Right before the DBAPI's COMMIT tombstones are placed (``transactions``, ``tombstones``): the row locks are held, the
   outcome is open. If a server cannot be reached, ``on_unreachable`` decides (``outage``).
6. Once the outcome is known they are released: after COMMIT returned, or after ROLLBACK did. An unknown outcome (the
   connection died in COMMIT) leaves them to their ttl.

A statement that commits by itself (AUTOCOMMIT, COMMIT as text) has steps 5 and 6 around it. One that may commit (DDL
on MySQL, a procedure, anything SQLite runs outside a transaction) has step 5 before it; step 6 comes after it if the
driver says that no transaction is open any more (``connections``), else at the transaction's end.

After an acknowledged commit no failing cache raises here; before it one does only if ``on_unreachable`` wants that. An
exception that the host sends meanwhile (a time limit, Ctrl-C) always arrives (``interruptions``).

All of it hangs on the engine's dialect: on its functions, the one place that every path to a statement and to a COMMIT
passes, and on its execution contexts. None of it is a listener: SQLAlchemy has no event after a COMMIT, and an engine
with a listener takes a longer way through each statement of its application.
"""

from __future__ import annotations

import functools
import logging
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from person_repo.cache.contract import LeaseBackend
from person_repo.database.savepoints import savepoint
from person_repo.exceptions import ConfigurationError
from person_repo.fence.view import fence_of
from person_repo.forks import on_fork
from person_repo.internals import root_engine
from person_repo.mapped.identities import IdentityMapping
from person_repo.writing.contexts import InFlight, covering, examine
from person_repo.writing.covered import Covered, CoveredModel
from person_repo.writing.returning import is_refused
from person_repo.writing.transactions import Transactions
from person_repo.writing.unseen import Group, Unseen

__all__ = ["Part", "cover_all", "require_engine"]

_WRAPPED = (
    "do_begin", "do_begin_twophase", "do_commit", "do_commit_twophase", "do_prepare_twophase", "do_rollback",
    "do_rollback_twophase",
)  # fmt: skip
"""The functions of a dialect that ``Transactions`` wraps, each by the one of its name."""


class Part(NamedTuple):
    """A class as ``cover_all`` takes it: its rows, and the cache that holds them."""

    mapping: IdentityMapping[Any]
    backend: LeaseBackend


def require_engine(engine: object) -> None:
    """Raises ``ConfigurationError`` for anything else than an ``Engine``: an ``AsyncEngine`` has a ``sync_engine``."""
    if not isinstance(engine, sa.Engine):
        raise ConfigurationError(
            f"cover() takes an Engine, not {engine!r:.120}; of an AsyncEngine give the sync_engine"
        )


def cover_all(engine: sa.Engine, parts: Sequence[Part]) -> None:
    """Keep the cached entities of some classes coherent with every write through an engine. May be called again.

    Engines made from one by ``execution_options`` are one engine here. All that begins after it returned is covered;
    ``unseen`` sees to what is under way on other connections.
    """
    models = [CoveredModel(*part, engine, table) for part in parts for table in part.mapping.key_columns]
    pool = root_engine(engine).pool
    # One thread at a time, from the first look at the models to the last one added: none is lost.
    with _covering:
        covered = _covered.get(engine.dialect)
        news = [model for model in models if covered is None or model not in covered.models]
        if not news:
            return
        unseen = _unseen.get(pool) or _unseen.setdefault(pool, Unseen(pool))
        wait = unseen.begin(engine)
        names = {(model.backend, model.group) for model in news}
        groups = [Group(backend, fence_of(engine, backend), name) for backend, name in names]
        try:
            is_wrapped, covered = covered is not None, covered or Covered(engine)
            for model in news:
                covered.add(model)
            if not is_wrapped:
                _wrap(engine.dialect, covered)
                _covered[engine.dialect] = covered
        except BaseException:
            unseen.watch(wait, groups, engine)  # Some are covered, and no later call will find them new.
            raise
    # Without the lock: a handler of the log may wait for another thread that covers something.
    unseen.watch(wait, groups, engine)


logger = logging.getLogger("person_repo.writing")

_covered: weakref.WeakKeyDictionary[sa.Dialect, Covered] = weakref.WeakKeyDictionary()
_unseen: weakref.WeakKeyDictionary[sa.Pool, Unseen] = weakref.WeakKeyDictionary()
# The collector, or a handler of the log, may cover something in the thread that holds it.
_covering = threading.RLock()


def _wrap(dialect: Any, covered: Covered) -> None:
    dialect.execution_ctx_cls = covering(dialect.execution_ctx_cls, covered)
    dialect.do_execute = functools.partial(_do_execute, covered, dialect.do_execute)
    dialect.do_executemany = functools.partial(_do_execute, covered, dialect.do_executemany)
    dialect.do_execute_no_params = functools.partial(_do_execute_no_params, covered, dialect.do_execute_no_params)
    transactions = Transactions(covered)
    for name in _WRAPPED:
        setattr(dialect, name, functools.partial(getattr(transactions, name), getattr(dialect, name)))


def _do_execute(
    covered: Covered,
    execute: Callable[..., None],
    cursor: Any,
    statement: str,
    parameters: Any,
    context: Any = None,
) -> None:
    in_flight = None if context is None else examine(covered, context, statement, parameters)
    if in_flight is None or in_flight.returned is None:
        execute(cursor, statement, parameters, context)
    elif not in_flight.returned.clause:
        execute(cursor, statement, parameters, context)
        in_flight.take_returned(context, cursor)
    else:
        _execute_returning(execute, cursor, statement, parameters, context, in_flight, in_flight.returned.clause)


def _execute_returning(
    execute: Callable[..., None],
    cursor: Any,
    statement: str,
    parameters: Any,
    context: Any,
    in_flight: InFlight,
    clause: str,
) -> None:
    """Send a statement with its clause, and without it if that is refused. On PostgreSQL in a savepoint: there what is
    refused ends the transaction.
    """
    dialect = context.dialect
    try:
        with savepoint(context.root_connection.connection, dialect, is_ours=functools.partial(is_refused, dialect)):
            execute(cursor, f"{statement}{clause}", parameters, context)
    except dialect.loaded_dbapi.Error as error:
        if not is_refused(dialect, error):
            raise
        models = in_flight.give_up_returned()
        execute(cursor, statement, parameters, context)
        for model in models:  # It was the clause.
            logger.debug("the keys of %s are not returned from now on: %s", model.mapping.name, error)
            model.returns_nothing()
    else:
        in_flight.take_returned(context, cursor)


def _do_execute_no_params(
    covered: Covered, execute: Callable[..., None], cursor: Any, statement: str, context: Any = None
) -> None:
    if context is not None:
        examine(covered, context, statement, context.parameters[0] if context.parameters else ())
    execute(cursor, statement, context)


def _unlock() -> None:
    global _covering
    # A thread that does not exist in this process may hold the lock.
    _covering = threading.RLock()


on_fork(_unlock)
