"""Each private name of a dependency that the package uses, asked for on the installed version of that dependency."""

from __future__ import annotations

import ast
import importlib.metadata
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pymysql
import pytest
import sqlalchemy as sa
from alembic.operations import ops
from pymemcache.client.base import Client
from sqlalchemy import orm
from sqlalchemy.dialects import mysql, sqlite
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.dialects.sqlite.base import SQLiteExecutionContext

import person_repo
from person_repo import internals

TABLE = sa.Table("thing", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.String))


@orm.registry().mapped
class Thing:
    """A mapped class."""

    __table__ = TABLE


PACKAGE = Path(person_repo.__file__).parent


class Upper(sa.types.UserDefinedType[str]):
    """A type that puts a function around its parameter."""

    cache_ok = True

    def bind_expression(self, bindvalue: Any) -> Any:
        return sa.func.upper(bindvalue)


@pytest.fixture
def engine() -> Iterator[sa.Engine]:
    engine = sa.create_engine("sqlite://")
    TABLE.metadata.create_all(engine)
    yield engine
    engine.dispose()


def compiled(statement: sa.ClauseElement) -> Any:
    return statement.compile(dialect=sqlite.dialect())


def context_of(engine: sa.Engine, statement: sa.Executable) -> Any:
    with engine.connect() as connection:
        return connection.execute(statement).context


def disconnect_while_handled(engine: sa.Engine) -> bool:
    seen = []
    sa.event.listen(engine, "handle_error", lambda context: seen.append(internals.is_disconnect(context.connection)))
    with engine.connect() as connection, pytest.raises(sa.exc.OperationalError):
        connection.exec_driver_sql("SELECT * FROM nowhere")
    return seen == [False] and "_is_disconnect" in vars(sa.Connection) | vars(connection)


def raised(raise_it: Callable[[], object]) -> type[BaseException]:
    with pytest.raises(sa.exc.DBAPIError) as info:
        raise_it()
    return type(info.value)


def driver_error(engine: sa.Engine) -> type[BaseException]:
    with engine.connect() as connection:
        error = connection.dialect.loaded_dbapi.IntegrityError("taken")
        return raised(lambda: internals.raise_driver_error(connection, error, "SELECT 1", (), None))


def connect_error(engine: sa.Engine) -> type[BaseException]:
    error = engine.dialect.loaded_dbapi.OperationalError("nobody there")
    return raised(lambda: internals.raise_connect_error(engine, error))


def listened_engine() -> sa.Engine:
    engine = sa.create_engine("sqlite://")
    sa.event.listen(engine, "before_cursor_execute", lambda *_: None)
    return engine


def a_listener_of_all_connections_is_known() -> bool:
    before = vars(sa.Connection).get("_has_events")
    assert not internals.connections_have_listeners()
    sa.event.listen(sa.Connection, "before_cursor_execute", _heard)
    try:
        return bool(internals.connections_have_listeners())
    finally:
        sa.event.remove(sa.Connection, "before_cursor_execute", _heard)
        if before is None:
            del sa.Connection._has_events
        else:
            sa.Connection._has_events = before


def _heard(*_: Any) -> None:
    """A listener that does nothing."""


def watched_connections(engine: sa.Engine) -> bool:
    seen: list[str] = []
    pools = [engine.pool, sa.create_engine("sqlite://", poolclass=sa.pool.NullPool).pool]
    pools += [sa.create_engine("sqlite://", poolclass=kind).pool for kind in (sa.pool.QueuePool, sa.pool.StaticPool)]
    for pool in pools:
        end = internals.watch_pool(pool, lambda _: seen.append("taken"), lambda _: lambda: seen.append("back"))
        pool.connect().close()
        end()
        pool.connect().close()
        pool.dispose()
    return seen == ["taken", "back"] * len(pools)


def a_begin_that_is_told_to_nobody(engine: sa.Engine) -> bool:
    heard: list[str] = []
    quiet = sa.create_engine("sqlite://")
    internals.begin_nothing(quiet)
    options = quiet.execution_options(a=1)
    for each in (engine, quiet, options, options.execution_options(b=2)):
        for name in ("begin", "commit", "rollback"):
            if each in (engine, quiet):
                sa.event.listen(each, name, lambda *_, name=name: heard.append(name))
        with each.connect() as connection:
            connection.exec_driver_sql("SELECT 1")
            connection.commit()
            connection.exec_driver_sql("SELECT 1")
    quiet.dispose()
    return heard == ["begin", "commit", "begin", "rollback"]


def pools_with_all_listeners(engine: sa.Engine) -> bool:
    called: list[str] = []
    sa.event.listen(engine, "connect", lambda *_: called.append("host"))
    own = sa.create_engine("sqlite://")
    sa.event.listen(own, "connect", lambda *_: called.append("own"))
    pool = internals.pool_like(engine.pool, own.pool)
    pool.connect().close()
    pool.dispose()
    # The one of ``engine`` keeps a connection for each thread.
    return called == ["host", "own"] and type(pool) is sa.QueuePool and pool._dialect is own.dialect


def rows_taken(engine: sa.Engine) -> tuple[list[Any], int]:
    execute = engine.dialect.do_execute

    def do_execute(cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:
        returns = "" if "CREATE" in statement or "PRAGMA" in statement or "SELECT" in statement else " RETURNING 1"
        execute(cursor, statement + returns, parameters, context)
        if returns:
            internals.take_rows(context, len(cursor.fetchall()))

    engine.dialect.do_execute = do_execute
    with engine.begin() as connection:
        TABLE.create(connection, checkfirst=True)
        connection.execute(sa.insert(TABLE).values(id=1, name="a"))
        result = connection.execute(sa.update(TABLE).values(name="b"))
        return [] if not result.returns_rows else ["rows"], result.rowcount


def rows_put_back(engine: sa.Engine) -> list[Any]:
    execute = engine.dialect.do_execute

    def do_execute(cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:
        execute(cursor, statement, parameters, context)
        internals.put_rows_back(context, cursor, [*cursor.fetchall(), (8,)])

    with engine.connect() as connection:
        engine.dialect.do_execute = do_execute
        return [*map(tuple, connection.execute(sa.select(sa.literal(7))))]


class Shown(sa.TypeDecorator[str]):
    """A type that queries read through a function."""

    impl = sa.String
    cache_ok = True

    def column_expression(self, column: Any) -> Any:
        return sa.func.lower(column, type_=self)


def clause_of(statement: Any) -> Any:
    return internals.post_values_clause(statement)


def pymysql_result() -> Any:
    connection = pymysql.connections.Connection(defer_connect=True)
    assert internals.result_in_progress(connection) is None
    assert "_result" in vars(connection)
    result = vars(pymysql.connections.MySQLResult(SimpleNamespace()))  # type: ignore[arg-type]
    return {"has_next", "server_status"} <= result.keys()


def sessions_forget_the_dead(engine: sa.Engine) -> bool:
    """True if it is called with a weak reference, and takes an object that is in a session out of its identity map."""
    calls: list[object] = []

    def forgotten(state: Any, reference: Any) -> None:
        calls.append(type(reference))
        internals.forget(state, reference)

    cleanup, has_map = orm.InstanceState._cleanup, []
    with pytest.MonkeyPatch.context() as patch, orm.Session(engine) as session:
        patch.setattr(orm.InstanceState, "_cleanup", forgotten)
        thing = Thing()
        thing.id = 1
        orm.make_transient_to_detached(thing)
        patch.setattr(orm.InstanceState, "_cleanup", cleanup)
        has_map.append(sa.inspect(thing)._instance_dict() is not None)
        session.add(thing)
        has_map.append(sa.inspect(thing)._instance_dict() is not None)
        del thing
        left = len(session.identity_map)
    return calls == [weakref.ref] and has_map == [False, True] and left == 0


ASKED: dict[str, Callable[[sa.Engine], bool]] = {
    "MAKE_RESULT": lambda _: callable(getattr(SQLiteExecutionContext, internals.MAKE_RESULT)),
    "bind_processors": lambda _: (
        internals.bind_processors(compiled(sa.insert(TABLE))) == {}
        and "at"
        in internals.bind_processors(sa.select(sa.bindparam("at", type_=sa.Date)).compile(dialect=sqlite.dialect()))
    ),
    "connect_now": lambda _: callable(Client._connect),
    "connections_have_listeners": lambda _: a_listener_of_all_connections_is_known(),
    "criteria": lambda _: len(internals.criteria(sa.delete(TABLE).where(TABLE.c.id == 1, TABLE.c.name == "a"))) == 2,
    "expanded_parameters": lambda engine: (
        internals.expanded_parameters(context_of(engine, sa.select(TABLE).where(TABLE.c.id.in_([1, 2]))))
        == {"id_1": ["id_1_1", "id_1_2"]}
    ),
    "forget": sessions_forget_the_dead,
    "has_bind_expression": lambda _: (
        internals.has_bind_expression(Upper()) and not internals.has_bind_expression(sa.String())
    ),
    "has_listeners": lambda engine: (
        internals.has_listeners(listened_engine())
        and not internals.has_listeners(engine)
        and not internals.has_listeners(engine.dialect)
    ),
    "is_disconnect": disconnect_while_handled,
    "listed_rows": lambda _: (
        [len(rows) for rows in internals.listed_rows(sa.insert(TABLE).values([{"id": 1}, {"id": 2}]))] == [2]
        and not internals.listed_rows(sa.insert(TABLE).values(id=1))
    ),
    "operation_of": lambda _: callable(internals.operation_of(ops.AddColumnOp)),
    "begin_nothing": a_begin_that_is_told_to_nobody,
    "pool_like": pools_with_all_listeners,
    "post_values_clause": lambda _: (
        internals.post_values_clause(sqlite.insert(TABLE).on_conflict_do_nothing()) is not None
        and internals.post_values_clause(mysql.insert(TABLE).on_duplicate_key_update(name="a")) is not None
        and internals.post_values_clause(sa.insert(TABLE)) is None
        and internals.post_values_clause(sa.delete(TABLE)) is None
    ),
    "upserted_columns": lambda _: (
        [*internals.upserted_columns(clause_of(sqlite.insert(TABLE).on_conflict_do_update(["id"], set_={"name": "a"})))]
        == [*internals.upserted_columns(clause_of(mysql.insert(TABLE).on_duplicate_key_update(name="a")))]
        == ["name"]
        and internals.upserted_columns(clause_of(sqlite.insert(TABLE).on_conflict_do_nothing())) is None
    ),
    "prefixes": lambda _: (
        [str(word) for word, _ in internals.prefixes(sa.insert(TABLE).prefix_with("OR REPLACE"))] == ["OR REPLACE"]
    ),
    "raise_connect_error": lambda engine: connect_error(engine) is sa.exc.OperationalError,
    "raise_driver_error": lambda engine: driver_error(engine) is sa.exc.IntegrityError,
    "returned_columns": lambda _: (
        [column.name for column in internals.returned_columns(compiled(sa.update(TABLE).returning(TABLE.c.id)))]
        == ["id"]
        and internals.returned_columns(compiled(sa.update(TABLE))) == ()
    ),
    "has_column_expression": lambda _: (
        internals.has_column_expression(Shown()) and not internals.has_column_expression(sa.String())
    ),
    "makes_connections": lambda engine: (
        internals.makes_connections(engine.pool)
        and not internals.makes_connections(sa.create_engine("sqlite://", creator=lambda: None).pool)
    ),
    "invalidated_at": lambda engine: internals.invalidated_at(engine.pool) == 0,
    "table_sent": lambda _: (
        internals.table_sent(compiled(sa.update(TABLE))) is TABLE
        and internals.table_sent(compiled(sa.delete(TABLE))) is TABLE
    ),
    "take_rows": lambda engine: rows_taken(engine) == ([], 1),
    "put_rows_back": lambda engine: rows_put_back(engine) == [(7,), (8,)],
    "register_hstore": lambda _: PGDialect_psycopg._has_native_hstore,
    "resolved_statement": lambda engine: isinstance(
        internals.resolved_statement(context_of(engine, sa.lambda_stmt(lambda: sa.select(TABLE)))), sa.Select
    ),
    "result_columns": lambda _: (
        [type(column.type) for column in internals.result_columns(compiled(sa.select(TABLE)))]
        == [sa.Integer, sa.String]
    ),
    "result_in_progress": lambda _: pymysql_result(),
    "root_engine": lambda engine: internals.root_engine(engine.execution_options(a=1).execution_options(b=2)) is engine,
    "select_names": lambda _: (
        internals.select_names(sa.insert(TABLE).from_select(["id"], sa.select(TABLE.c.id))) == ["id"]
        and internals.select_names(sa.insert(TABLE)) is None
    ),
    "set_values": lambda _: (
        [*internals.set_values(sa.update(TABLE).values(name="a"))] == ["name"]
        and internals.set_values(sa.insert(TABLE)) == {}
    ),
    "variant_on": lambda _: (
        isinstance(internals.variant_on(sa.JSON().with_variant(sa.Text(), "sqlite"), "sqlite"), sa.Text)
        and isinstance(internals.variant_on(sa.JSON().with_variant(sa.Text(), "sqlite"), "mysql"), sa.JSON)
    ),
    "watch_pool": watched_connections,
}


@pytest.mark.parametrize("name", internals.__all__)
def test_the_installed_versions_have_each_private_name(name: str, engine: sa.Engine) -> None:
    versions = {each: importlib.metadata.version(each) for each in ("SQLAlchemy", "alembic", "PyMySQL", "pymemcache")}
    try:
        holds = ASKED[name](engine)
    except (AttributeError, TypeError) as exc:
        pytest.fail(f"internals.{name} fits none of {versions}: {exc!r}")

    assert holds, f"internals.{name} means something else in {versions}"


def private_names(module: ast.Module) -> Iterator[tuple[int, str]]:
    """The attributes with a leading underscore that belong to no class or function of the module itself."""
    own = {node.name for node in ast.walk(module) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    for node in ast.walk(module):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            own.add(node.target.id)
    for node in ast.walk(module):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"):
            own.add(node.attr)
    for node in ast.walk(module):
        name: object = None
        if isinstance(node, ast.Attribute):
            name = node.attr
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "setattr"):
            name = getattr(node.args[1], "value", None)
        if isinstance(name, str) and name.startswith("_") and not name.startswith("__") and name not in own:
            yield getattr(node, "lineno", 0), name


def test_no_other_module_uses_a_private_name_of_a_dependency() -> None:
    documented = {"_asdict", "_exit", "_fields", "_replace"}  # Python documents these of its own.
    modules = [path for path in PACKAGE.rglob("*.py") if path.name != "internals.py" and "_alembic" not in path.parts]
    found = [
        f"{path.relative_to(PACKAGE)}:{line}: {name}"
        for path in modules
        for line, name in private_names(ast.parse(path.read_text(encoding="utf-8")))
        if name not in documented
    ]

    assert found == []


def test_a_private_name_elsewhere_is_seen() -> None:
    module = ast.parse("class A:\n  def f(self, engine):\n    self._own = engine._theirs; getattr(engine, '_other')")

    assert [name for _, name in private_names(module)] == ["_theirs", "_other"]
