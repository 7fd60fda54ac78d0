"""Every private name of SQLAlchemy, its dialects, alembic, PyMySQL and pymemcache that this package relies on.

Each function says what for, and what breaks without the name. ``tests/test_internals.py`` asks for each of them on the
installed versions, and fails with the name that a release has moved. SQLAlchemy is required below the next minor
version for that reason. Since when: SQLAlchemy's are in 2.0.43, PyMySQL's in 1.2.0, pymemcache's in 4.0.0, alembic's in
1.17.2, the oldest versions that are required.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from operator import attrgetter
from typing import Any, Final, NoReturn

import sqlalchemy as sa
from sqlalchemy.engine.base import OptionEngine
from sqlalchemy.engine.cursor import _NO_CURSOR_DML, FullyBufferedCursorFetchStrategy
from sqlalchemy.sql import dml

__all__ = [
    "MAKE_RESULT",
    "begin_nothing",
    "bind_processors",
    "connect_now",
    "connections_have_listeners",
    "criteria",
    "expanded_parameters",
    "forget",
    "has_bind_expression",
    "has_column_expression",
    "has_listeners",
    "invalidated_at",
    "is_disconnect",
    "listed_rows",
    "makes_connections",
    "operation_of",
    "pool_like",
    "post_values_clause",
    "prefixes",
    "put_rows_back",
    "raise_connect_error",
    "raise_driver_error",
    "register_hstore",
    "resolved_statement",
    "result_columns",
    "result_in_progress",
    "returned_columns",
    "root_engine",
    "select_names",
    "set_values",
    "table_sent",
    "take_rows",
    "upserted_columns",
    "variant_on",
    "watch_pool",
]


# alembic


def operation_of(kind: type[Any]) -> Callable[..., Any]:
    """The implementation of a kind of operation, so that another one can extend it: ``Operations._to_impl``.

    Without it, an implementation of the host's own would be replaced by one that does not know it.
    """
    from alembic.operations import Operations

    implementation: Callable[..., Any] = Operations._to_impl.dispatch(kind)
    return implementation


# SQLAlchemy: engines and connections


def root_engine(engine: sa.Engine) -> sa.Engine:
    """The engine from which engines were made by ``execution_options``: ``OptionEngine._proxied``.

    Without it, each of them would count as an engine of its own: a weak reference to one would die with it, and a
    commit through another would find no fence.
    """
    while isinstance(engine, OptionEngine):
        engine = engine._proxied
    return engine


def begin_nothing(engine: sa.Engine) -> None:
    """From here on a connection of an engine on which each statement is a transaction calls nobody when it begins,
    commits or rolls back, and does nothing: ``Engine._connection_cls``, ``_option_cls``, ``Connection._begin_impl``,
    ``_commit_impl``, ``_rollback_impl``.

    Without it, a host's listener to ``begin`` of all engines, such as the one that sends BEGIN to SQLite, would open a
    transaction for our reads, and on a connection that is the host's, too, in the middle of its own.
    """
    beginner: Any = engine
    beginner._connection_cls = _WithoutTransactions
    beginner._option_cls = _OptionEngineWithoutTransactions


class _WithoutTransactions(sa.Connection):
    def _begin_impl(self, *_: Any) -> None: ...

    _commit_impl = _rollback_impl = _begin_impl


class _OptionEngineWithoutTransactions(OptionEngine):
    _connection_cls = _WithoutTransactions


_OptionEngineWithoutTransactions._option_cls = _OptionEngineWithoutTransactions


def makes_connections(pool: sa.Pool) -> bool:
    """True if a pool's creator is SQLAlchemy's, which makes a new connection at each call: ``Pool._creator``.

    Without it, a creator of the host's that always returns the same connection would be asked for ours.
    """
    creator: Any = pool._creator
    return bool(creator.__module__ == "sqlalchemy.engine.create")


def pool_like(pool: sa.Pool, own: sa.Pool) -> sa.Pool:
    """A new pool of the kind, the settings and the creator of another one, with its listeners, and after them those of
    ``own``, whose dialect it has: ``Pool._dialect``, ``dispatch._update``. Of a pool that has one connection, or one
    for each thread, a pool of several.

    Without it, listeners that a host adds after the first read would never be called for the connections of reads.
    """
    is_narrow = isinstance(pool, (sa.pool.StaticPool, sa.pool.SingletonThreadPool))
    made: Any = sa.pool.QueuePool(pool._creator) if is_narrow else pool.recreate()
    if is_narrow:
        made.dispatch._update(pool.dispatch, only_propagate=False)
    made._dialect = own._dialect
    made.dispatch._update(own.dispatch, only_propagate=False)
    return made  # type: ignore[no-any-return]


def register_hstore(dialect: sa.Dialect, connection: Any) -> None:
    """Have psycopg read HSTORE on a connection as its dialect expects: ``_has_native_hstore``.

    The dialect registers it at its first connection, for those that it makes itself; those of reads are made by the
    host's creator. Without it, a value would read as text where the extension is younger than the host's first
    connection.
    """
    if getattr(dialect, "_has_native_hstore", False):
        from psycopg.types import TypeInfo, hstore

        info = TypeInfo.fetch(connection, "hstore")
        if info is not None:
            hstore.register_hstore(info, connection)


def watch_pool(
    pool: sa.Pool, take: Callable[[Any], None], give_back: Callable[[Any], Callable[[], None]]
) -> Callable[[], None]:
    """Call a function with the record of each connection that is taken from a pool, right after, and with each that
    comes back, right before; what that returns is called right after: ``Pool._do_get``, ``Pool._do_return_conn``.
    Returns the function that ends it.

    Without it, a commit that was under way while its engine was covered would not be seen. The pool's events have no
    safe end: a listener cannot be removed while another thread calls it.
    """
    watched: Any = pool
    get, return_record = watched._do_get, watched._do_return_conn

    def watched_get() -> Any:
        record = get()
        take(record)
        return record

    def watched_return(record: Any) -> None:
        afterwards = give_back(record)
        return_record(record)
        afterwards()

    def end() -> None:
        for name in ("_do_get", "_do_return_conn"):
            watched.__dict__.pop(name, None)

    watched._do_get, watched._do_return_conn = watched_get, watched_return
    return end


has_listeners: Callable[[Any], bool] = attrgetter("_has_events")
"""True if a listener was ever added to an engine or a dialect: ``_has_events``.

Without it, direct reads would pass by a host's listeners, and a ``do_execute`` listener would send statements that
nobody has examined. It is asked at each statement, so it is no Python function.
"""

invalidated_at: Callable[[Any], float] = attrgetter("_invalidate_time")
"""The time at which a pool gave up its connections, because one of them was lost: ``_invalidate_time``.

Without it, reads would go on with connections to a server that the host has left.
"""

connections_have_listeners: Callable[[], Any] = partial(getattr, sa.Connection, "_has_events", False)
"""True if a listener was ever added to the class of all connections, which has the name in SQLAlchemy 2.0 only then."""


def is_disconnect(connection: sa.Connection) -> bool:
    """True while an error that ended the connection is handled: ``Connection._is_disconnect``.

    Without it, a COMMIT that died with its connection would count as refused, and its tombstones would be released
    while the database may yet commit.
    """
    return connection._is_disconnect


def raise_driver_error(
    connection: sa.Connection, error: BaseException, statement: str | None, parameters: Any, cursor: Any
) -> NoReturn:
    """Raise a driver's error as SQLAlchemy does: ``Connection._handle_dbapi_exception``.

    It translates the error, calls the host's ``handle_error`` listeners and invalidates a broken connection. Without
    it, direct reads would raise the driver's errors, and give broken connections back to the pool.
    """
    connection._handle_dbapi_exception(error, statement, parameters, cursor, None)


def raise_connect_error(engine: sa.Engine, error: BaseException) -> NoReturn:
    """The same for a connection that could not be made: ``_handle_dbapi_exception_noconnection``."""
    sa.Connection._handle_dbapi_exception_noconnection(error, engine.dialect, engine)


# SQLAlchemy: objects


def forget(state: Any, reference: Any) -> None:
    """The end of a state whose object has gone: ``InstanceState._cleanup``, ``_instance_dict``.

    Without it, an object that a host has given to a session and dropped would stay in the session's identity map. An
    object that is in no session is in no map, and most die like that: it is asked first, at each object's end.
    """
    if state.session_id is not None or state._instance_dict() is not None:
        state._cleanup(reference)


# SQLAlchemy: compiled statements and their execution


def result_columns(compiled: Any) -> Sequence[Any]:
    """The columns of a compiled query, each with its ``type``: ``SQLCompiler._result_columns``.

    Without it, direct reads could not convert values as their types do.
    """
    columns: Sequence[Any] = compiled._result_columns
    return columns


def bind_processors(compiled: Any) -> Mapping[str, Any]:
    """The conversions of a compiled statement's parameters, by name: ``SQLCompiler._bind_processors``.

    Without it, a bulk insert could send values that a type should have converted.
    """
    processors: Mapping[str, Any] = compiled._bind_processors
    return processors


MAKE_RESULT: Final = "_setup_result_proxy"
"""The name of the method by which an execution context makes a statement's result, ``DefaultExecutionContext``'s.

It is overridden to learn what a statement did. Without it, the models that a statement may have changed would stay
suspected, and be dropped as a whole at each commit.
"""


def take_rows(context: Any, number: int) -> None:
    """Have the result of a statement be without rows, whose cursor has some: ``cursor._NO_CURSOR_DML``,
    ``DefaultExecutionContext._rowcount``, which is how many it changed.

    Without it, a host would see the keys that its statement was made to return.
    """
    context.cursor_fetch_strategy = _NO_CURSOR_DML
    context._rowcount = number


def table_sent(compiled: Any) -> Any:
    """The table that an insert, an update or a delete was compiled for: ``dml_table`` of its compile state.

    Without it, an ORM statement with a list of rows, which is sent once for each table of its class, would count as one
    for the class's last table.
    """
    return getattr(compiled.compile_state, "dml_table", None)


def put_rows_back(context: Any, cursor: Any, rows: Sequence[Any]) -> None:
    """Have the result of a statement begin with rows that were fetched from its cursor:
    ``cursor.FullyBufferedCursorFetchStrategy``, ``DefaultExecutionContext.cursor_fetch_strategy``.

    Without it, a host would miss the rows of its RETURNING.
    """
    context.cursor_fetch_strategy = FullyBufferedCursorFetchStrategy(cursor, cursor.description, rows)


def returned_columns(compiled: Any) -> Sequence[Any]:
    """The columns that an update or a delete returns: ``_returning``, ``SQLCompiler.effective_returning``.

    The second one, which is public, keeps its answer in the statement, and the host may yet derive one with a RETURNING
    from that; so it is asked only where there is one.
    """
    returns = compiled.implicit_returning or getattr(compiled.statement, "_returning", ())
    return (compiled.effective_returning or ()) if returns else ()


def resolved_statement(context: Any) -> Any:
    """The statement of an execution; of a ``lambda_stmt``, what its function returned: ``LambdaElement._resolved``.

    Without it, a lambda would count as a statement of an unknown kind, which changes every covered model.
    """
    return getattr(context.invoked_statement, "_resolved", context.invoked_statement)


def expanded_parameters(context: Any) -> Mapping[str, Sequence[str]]:
    """The names that the compiler made up for the elements of a list, by the parameter's own name:
    ``DefaultExecutionContext._expanded_parameters``.

    Without it, the values of an ``IN`` would be missing, and the statement would count as a change of the whole model.
    """
    names: Mapping[str, Sequence[str]] | None = getattr(context, "_expanded_parameters", None)
    return names or {}


# SQLAlchemy: inserts, updates and deletes. Without these a statement's changed rows could not be found from its
# clauses, and every write would count as a change of the whole model.


def criteria(statement: dml.Update | dml.Delete) -> Sequence[Any]:
    """The criteria of WHERE, all of which a row must meet: ``_where_criteria``."""
    return statement._where_criteria


def set_values(statement: dml.Insert | dml.Update) -> Mapping[Any, Any]:
    """The argument of ``values()``, by column or by a column's key: ``_values``."""
    return statement._values or {}


def listed_rows(statement: dml.Insert) -> Sequence[Sequence[Any]]:
    """The lists of rows given to ``values([...])``, one for each call: ``_multi_values``."""
    return statement._multi_values


def select_names(statement: dml.Insert) -> Sequence[str] | None:
    """The columns of INSERT ... SELECT; None for another insert: ``_select_names``."""
    return statement._select_names


def post_values_clause(statement: dml.UpdateBase) -> Any:
    """ON CONFLICT or ON DUPLICATE KEY, if an insert has one: ``_post_values_clause``. Only inserts have it."""
    return getattr(statement, "_post_values_clause", None)


def upserted_columns(clause: Any) -> Iterable[Any] | None:
    """The columns, or their keys, that ON CONFLICT DO UPDATE or ON DUPLICATE KEY UPDATE sets: ``update_values_to_set``,
    and ``update`` of MySQL's. None for a clause of another kind.

    SQLAlchemy 2.0 has pairs of a column and a value where 2.1 has a mapping.
    """
    values = getattr(clause, "update", None) or getattr(clause, "update_values_to_set", None)
    if isinstance(values, Mapping):
        return values.keys()
    return [column for column, _ in values] if isinstance(values, list) else None


def prefixes(statement: dml.Insert) -> Sequence[tuple[Any, str]]:
    """The words between INSERT and INTO, each with the dialect it is for: ``_prefixes``."""
    return statement._prefixes


def has_bind_expression(type_: sa.types.TypeEngine[Any]) -> bool:
    """True if a type puts a function around its parameter: ``_has_bind_expression``.

    Without it, a key that the database computes from its parameter would count as kept as it is.
    """
    return type_._has_bind_expression


def has_column_expression(type_: sa.types.TypeEngine[Any]) -> bool:
    """True if a type puts a function around a column that is read: ``_has_column_expression``.

    Without it, a key that a statement returns as it is stored would count as the key that queries read.
    """
    return type_._has_column_expression


def variant_on(type_: sa.types.TypeEngine[Any], dialect: str) -> sa.types.TypeEngine[Any]:
    """The type that a column has on the dialect of this name, by ``with_variant``: ``_variant_mapping``.

    Without it, the limits of a type that another database has would be applied.
    """
    return type_._variant_mapping.get(dialect, type_)


# Drivers


def result_in_progress(driver: Any) -> Any:
    """PyMySQL's last result, with ``has_next`` and ``server_status``: ``Connection._result``.

    None on other drivers, and before the first statement. Without it, a text of several statements that commits in the
    middle would have its tombstones released while the server runs the rest.
    """
    return getattr(driver, "_result", None)


def connect_now(client: Any) -> None:
    """Open a pymemcache client's connection: ``Client._connect``.

    Its public methods connect at the first command, whose reply has no deadline as a whole. Raises what the socket, TLS
    or the resolver raise.
    """
    client._connect()
