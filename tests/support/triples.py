"""Worlds made: the tables, engines and services of one, and triples of it: a way of writing, how it ends, a read."""

from __future__ import annotations

import random
import secrets
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from dogpile.cache import CacheRegion
from sqlalchemy import event, orm
from support.ways import Way
from support.worlds import KEYS, SCHEMA, Classes, World, classes_of, ways_in

import person_repo
from person_repo import Service, make_region
from person_repo.model import FENCE, IDENTITY

__all__ = ["Stage", "Triples", "WrongReadError", "staged"]

_POOLS: Final = {
    "queue": sa.QueuePool,
    "null": sa.NullPool,
    "static": sa.StaticPool,
    "singleton": sa.pool.SingletonThreadPool,
    "assertion": sa.pool.AssertionPool,
}

Row = tuple[Any, ...]
Rows = dict[Any, Row]


class WrongReadError(AssertionError):
    """A read through the cache was not what is committed."""


class FailedError(AssertionError):
    """A write or a read failed as it does in no such world."""


# Making a world


@dataclass
class Stage:
    """A world with tables, in which ``writer`` is an engine that is covered and ``readers`` are services."""

    world: World
    classes: Classes
    writer: sa.Engine
    reader: sa.Engine
    readers: list[Service[Any]]
    direct: sa.Connection
    options: dict[str, Any]

    @contextmanager
    def session(self) -> Iterator[orm.Session]:
        """A session of the writer's."""
        with orm.Session(self.writer) as session:
            if self.options:
                session.connection(execution_options=self.options)
            yield session

    def committed(self) -> Rows:
        """The rows in the database, by id: asked on a connection that nothing covers."""
        return {row[1]: tuple(row) for row in self.direct.execute(self.classes.query)}

    def fold(self, id: Any) -> Any:
        """An id, or what stands for all that are the same in the database."""
        return KEYS[self.world.key].folded(id, self.world.dialect)

    @property
    def hits(self) -> int:
        """The hits of all readers."""
        return sum(service.stats().hits for service in self.readers)


@contextmanager
def staged(world: World, url: str, cache_url: str) -> Iterator[Stage]:
    """A world on an empty database and an empty cache."""
    with ExitStack() as ends:
        place = _Place(world, url, ends)
        classes = classes_of(world, place.schema)
        plain = place.engine_without_listeners()
        for each in [plain, *place.elsewhere(plain)]:
            IDENTITY.create(each, checkfirst=True)
            FENCE.create(each, checkfirst=True)
        classes.root.metadata.create_all(plain.execution_options(**place.translation))
        if world.covering == "declared":
            person_repo.cached(classes.root)
        regions = _regions(world, cache_url)
        is_one = world.covering == "one service"
        writer = place.engine(place.url_of_writer(plain, classes))
        ends.enter_context(_listening(writer, world, classes))
        reader = writer if is_one else place.engine(url)
        if world.schema == "by session":
            reader = reader.execution_options(**place.translation)
        readers = [ends.enter_context(Service.over(entity, reader, regions[0])) for entity in classes.entities]
        if world.covering == "declared":
            person_repo.cover(writer, regions[1])
        elif not is_one:
            ends.enter_context(Service.over(classes.entities[-1], writer, regions[1]))
        direct = ends.enter_context(plain.connect().execution_options(**place.translation))
        yield Stage(world, classes, writer, reader, readers, direct, place.options_of_session())


def _regions(world: World, cache_url: str) -> list[CacheRegion]:
    """The readers' and the writer's."""
    region = make_region(cache_url)
    return [region, region if world.cache == "memory" else make_region(cache_url)]


class _Place:
    """The database of a world, and how its engines are made."""

    def __init__(self, world: World, url: str, ends: ExitStack) -> None:
        self.world = world
        self.url = sa.make_url("sqlite://" if world.place == "memory" else url)
        self._ends = ends
        self.schema = self._make_schema() if world.schema != "none" else None
        self._connection: Any = None

    @property
    def translation(self) -> dict[str, Any]:
        """The options of a connection that finds the tables."""
        is_translated = self.world.schema in ("translated", "by session")
        return {"schema_translate_map": {SCHEMA: self.schema}} if is_translated else {}

    def options_of_session(self) -> dict[str, Any]:
        """The execution options of a session's connection."""
        options: dict[str, Any] = {}
        if self.world.schema == "by session":
            options |= self.translation
        if self.world.isolation and self.world.isolated == "session":
            options["isolation_level"] = self.world.isolation
        return options

    def engine_without_listeners(self) -> sa.Engine:
        """An engine that nobody covers, each statement of which is a transaction."""
        if self.world.place == "memory":  # without touching the mode of the one connection
            return self._made(self.url, creator=self._one_connection, poolclass=sa.StaticPool)
        return self._made(self.url, isolation_level="AUTOCOMMIT")

    def elsewhere(self, plain: sa.Engine) -> list[sa.Engine]:
        """The same for the other database, where a schema is one."""
        is_database = self.schema is not None and self.world.dialect == "mysql"
        return [plain.execution_options(schema_translate_map={None: self.schema})] if is_database else []

    def engine(self, url: str | sa.URL) -> sa.Engine:
        """An engine of the host's, as the world has it."""
        world = self.world
        options: dict[str, Any] = {"poolclass": _POOLS[world.pool], "connect_args": self._connect_args()}
        if world.place == "memory":
            options |= {"creator": self._one_connection}
            del options["connect_args"]
        if world.isolation and world.isolated == "engine":
            options["isolation_level"] = world.isolation
        engine = self._made(self.url if world.place == "memory" else sa.make_url(url), **options)
        if world.driver in ("recipe", "immediate"):
            _send_begin(engine, "BEGIN IMMEDIATE" if world.driver == "immediate" else "BEGIN")
        if world.isolation and world.isolated == "options":
            engine = engine.execution_options(isolation_level=world.isolation)
        return engine.execution_options(**self.translation) if self.world.schema == "translated" else engine

    def _made(self, url: sa.URL, **options: Any) -> sa.Engine:
        engine = sa.create_engine(url, **options)
        self._ends.callback(engine.dispose)
        if engine.dialect.name == "sqlite":
            event.listen(engine, "connect", self._set_up)
        return engine

    def _set_up(self, connection: Any, _: Any) -> None:
        level, connection.isolation_level = connection.isolation_level, None
        schemas = ["main"]
        if self.schema is not None:
            schemas.append(self.schema)
            connection.execute(f"ATTACH '{self.url.database}-{self.schema}' AS {self.schema}").close()
        connection.execute("PRAGMA foreign_keys = ON").close()
        for schema in schemas:
            connection.execute(f"PRAGMA {schema}.synchronous = OFF").close()
            if self.world.place == "wal":
                connection.execute(f"PRAGMA {schema}.journal_mode = WAL").close()
        connection.isolation_level = level

    def _one_connection(self) -> Any:
        if self._connection is None:
            self._connection = sqlite3.connect(":memory:", check_same_thread=False)
            self._ends.callback(self._connection.close)
        return self._connection

    def _connect_args(self) -> dict[str, Any]:
        by_driver: dict[str, dict[str, Any]] = {
            "autocommit": {"autocommit": True},
            "autocommit=False": {"autocommit": False},
            "prepares all": {"prepare_threshold": 0},
            "prepares nothing": {"prepare_threshold": None},
        }
        arguments = dict(by_driver.get(self.world.driver, {}))
        if self.world.dialect == "sqlite":
            arguments["timeout"] = 1
        if self.world.dialect == "mysql":
            arguments["init_command"] = "SET SESSION innodb_lock_wait_timeout = 2"
            arguments["ssl_disabled"] = True  # With it, a connection costs as much as ten triples.
            if self.world.driver == "found rows off":
                arguments["client_flag"] = 0
        return arguments

    # Schemas and accounts

    def _make_schema(self) -> str:
        if self.world.dialect == "sqlite":
            return "other"
        name = f"person_repo_{secrets.token_hex(8)}"
        root = sa.create_engine(self.url, isolation_level="AUTOCOMMIT")
        self._ends.callback(root.dispose)
        with root.connect() as connection:
            word = "SCHEMA" if self.world.dialect == "postgresql" else "DATABASE"
            connection.exec_driver_sql(f"CREATE {word} {name}")
        if self.world.dialect == "mysql":
            self._ends.callback(_run, root, f"DROP DATABASE {name}")
        return name

    def url_of_writer(self, plain: sa.Engine, classes: Classes) -> sa.URL:
        """The URL by which the writer connects: with an account of its own, where the world has one."""
        if self.world.account == "all":
            return self.url
        name = f"clerk_{secrets.token_hex(8)}"
        rights = "SELECT, UPDATE" if self.world.account == "updates" else "SELECT, INSERT, UPDATE, DELETE"
        tables = [self._sql_name(table) for table in classes.root.metadata.sorted_tables]
        is_mysql = self.world.dialect == "mysql"
        account = f"{name}@`%%`" if is_mysql else name
        _run(plain, f"CREATE USER {account}" if is_mysql else f"CREATE ROLE {name} LOGIN")
        if self.schema and not is_mysql:
            _run(plain, f"GRANT USAGE ON SCHEMA {self.schema} TO {name}")
        own = [table.name for table in (FENCE, IDENTITY)]
        if self.schema and is_mysql:
            own += [f"{self.schema}.{table}" for table in own]
        for right, table in [(rights, table) for table in tables] + [("SELECT", table) for table in own]:
            _run(plain, f"GRANT {right} ON {table} TO {account}")
        if is_mysql:
            self._ends.callback(_run, plain, f"DROP USER {account}")
        else:
            self._ends.callback(_run, plain, f"DROP ROLE {name}")
            self._ends.callback(_run, plain, f"DROP OWNED BY {name}")
        return self.url.set(username=name)

    def _sql_name(self, table: sa.Table) -> str:
        return f"{self.schema}.{table.name}" if self.schema else table.name


def _run(engine: sa.Engine, statement: str) -> None:
    with engine.connect() as connection:
        connection.exec_driver_sql(statement)


def _send_begin(engine: sa.Engine, statement: str) -> None:
    """SQLAlchemy's recipe for sqlite3."""

    def connect(connection: Any, _: Any) -> None:
        connection.isolation_level = None

    event.listen(engine, "connect", connect)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(statement))


# Listeners


@contextmanager
def _listening(engine: sa.Engine, world: World, classes: Classes) -> Iterator[None]:
    """The listeners of a world: most on its engine, some on all."""
    pairs = _listeners(engine, world, classes)
    engines: Any = sa.Engine
    had_listeners = engines._has_events
    for target, name, listener in pairs:
        event.listen(target, name, listener, retval=name == "before_cursor_execute")
    try:
        yield
    finally:
        for target, name, listener in pairs:
            event.remove(target, name, listener)
        engines._has_events = had_listeners  # SQLAlchemy leaves it.


def _listeners(engine: sa.Engine, world: World, classes: Classes) -> list[tuple[Any, str, Callable[..., Any]]]:
    if world.listener == "on the class":
        return [(sa.Engine, "before_cursor_execute", _commented)]
    if world.listener == "flushes":
        return [(orm.Session, "after_flush", _flusher(engine, classes))]
    if world.listener == "transactions":
        return [(engine, name, _asking) for name in ("begin", "commit", "savepoint", "release_savepoint")]
    before = {"comments": _commented, "capitals": _capitals, "redirects": _redirecting(engine, classes)}
    if world.listener in before:
        return [(engine, "before_cursor_execute", before[world.listener])]
    others = {"do_execute": ("do_execute", _execute), "queries": ("after_execute", _asking)}
    return [(engine, *others[world.listener])] if world.listener in others else []


def _commented(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> tuple[str, Any]:
    return f"/* of the host's */ {statement} -- traced", parameters


def _capitals(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> tuple[str, Any]:
    """Names are changed on their way."""
    return statement, _mapped(parameters, lambda value: value.upper() if str(value).startswith("name ") else value)


def _redirecting(engine: sa.Engine, classes: Classes) -> Callable[..., Any]:
    """Updates and deletes of one row go to another."""
    sent: list[Any] = []

    def ids() -> list[Any]:
        """Both as they are sent. Before the first connection the dialect could not say, and would keep its answer."""
        if not sent:
            process = classes.target.key.type.dialect_impl(engine.dialect).bind_processor(engine.dialect)
            sent.extend(id if process is None else process(id) for id in classes.ids[:2])
        return sent

    def redirect(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> tuple[str, Any]:
        if statement.lstrip().upper().startswith(("UPDATE", "DELETE")):
            one, other = ids()
            parameters = _mapped(
                parameters, lambda value: other if type(value) is type(one) and value == one else value
            )
        return statement, parameters

    return redirect


def _mapped(parameters: Any, function: Callable[[Any], Any]) -> Any:
    if isinstance(parameters, dict):
        return {name: function(value) for name, value in parameters.items()}
    if isinstance(parameters, (list, tuple)):
        kind = type(parameters)
        return kind(
            _mapped(each, function) if isinstance(each, (list, tuple, dict)) else function(each) for each in parameters
        )
    return parameters


def _execute(cursor: Any, statement: str, parameters: Any, _: Any) -> bool:
    cursor.execute(statement, parameters)
    return True


def _asking(connection: sa.Connection, *_: Any) -> None:
    """A query on the driver's own cursor."""
    cursor = connection.connection.cursor()
    cursor.execute("SELECT 1")
    cursor.fetchall()
    cursor.close()


def _flusher(engine: sa.Engine, classes: Classes) -> Callable[..., Any]:
    """Each flush changes one more row."""
    target = classes.target
    statement = sa.update(target.table).where(target.key == classes.ids[2]).values(last_name="of a listener")

    def flush(session: orm.Session, _: Any) -> None:
        if session.get_bind().dialect is engine.dialect:
            session.connection().execute(statement)

    return flush


# Triples


class Triples:
    """Random triples in a world. ``done``: how many were compared; ``refused``: writes that the database refused."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.done = 0
        self.refused: Counter[str] = Counter()
        self.chance = random.Random(f"{stage.world.number} {stage.world.database} triples")
        self._ways = ways_in(stage.world)
        self._names = 0
        self._all = [*stage.classes.ids, *stage.classes.spelt]
        # The classes of a hierarchy share the entry of a row, and the one that has read it last hits.
        self._reader = self.chance.choice(stage.readers)
        self._restore()

    def run(self, count: int) -> None:
        """Compares this many. Raises ``WrongReadError``."""
        while self.done < count and self.refused.total() < count:
            self.triple()

    def triple(self) -> None:
        """Writes one way, ends the transaction, and reads."""
        chance, stage = self.chance, self.stage
        before = stage.committed()
        if len(before) < 2 or chance.random() < 0.02:
            self._restore()
            before = stage.committed()
        kind = chance.choice(
            [kind for kind in ("change", "change", "change", "add", "remove", "move") if kind in self._ways]
        )
        ids = self._ids(kind, before)
        if ids is None:
            return
        way = chance.choice(self._ways[kind])
        end = chance.choice(_ENDS[: 4 if stage.world.commits_itself else 6])
        read = chance.choice(_READS)
        what = f"{way.name} of {ids!r}, {end}, then {read}"
        if chance.random() < 0.05:
            self._reader = chance.choice(stage.readers)
        self._look("get_many", self._all, f"before {what}", before)
        try:
            with self._beside(read):
                self._write(way, ids, end, what, read)
                self._compare(read, ids, what)
        except WrongReadError:
            raise
        except Exception as error:
            if not is_refusal(stage.world, error):
                raise FailedError(f"{stage.world}\n{what}: {type(error).__name__}: {error}") from error
            self.refused[f"{way.name}: {error!s:.200}"] += 1
            self._compare("get_many", ids, what)
            return
        self.done += 1

    def _ids(self, kind: str, committed: Rows) -> Sequence[Any] | None:
        fold, spellings = self.stage.fold, [*self.stage.classes.ids, *self.stage.classes.spelt]
        self.chance.shuffle(spellings)
        ids = [*{fold(id): id for id in spellings}.values()]
        rows = {fold(id): row for id, row in committed.items()}
        there = [id for id in ids if self._is_written(rows.get(fold(id)))]
        free = [id for id in ids if fold(id) not in rows]
        if kind == "move":
            return [there[0], free[0]] if there and free else None
        chosen = (free if kind == "add" else there)[: self.chance.choice((1, 1, 2))]
        return chosen or None

    def _is_written(self, row: Row | None) -> bool:
        """True for a row of the class that is written."""
        entity = self.stage.classes.target.entity
        return row is not None and (entity is self.stage.classes.root or row[0] == entity.__name__)

    def _write(self, way: Way, ids: Sequence[Any], end: str, what: str, read: str) -> None:
        self._names += 1
        name, target = f"name {self._names}", self.stage.classes.target
        with self.stage.session() as session:
            if "savepoint" in end:
                nested = session.begin_nested()
                way.write(session, ids, name, target)
                session.flush()
                if end == "to savepoint":
                    nested.rollback()
                else:
                    nested.commit()
            else:
                way.write(session, ids, name, target)
                session.flush()
            if read == "while it is open":
                if self.chance.random() < 0.5:  # Then there is something to load.
                    self._reader.invalidate_all()
                committed = None if self.stage.world.has_one_connection else self.stage.committed()
                self._look("get_many", self._all, f"{what}, still open", committed)
            if end == "rollback":
                session.rollback()
            else:
                session.commit()

    @contextmanager
    def _beside(self, read: str) -> Iterator[None]:
        """A transaction of the readers' host that has begun before, where this read wants one and there can be one."""
        world = self.stage.world
        can = world.place in ("wal", "server") and world.pool in ("queue", "null") and world.isolation != "SERIALIZABLE"
        if read != "beside a transaction" or not can or world.driver == "immediate":
            yield
            return
        with orm.Session(self.stage.reader) as session:
            session.execute(self.stage.classes.query).all()
            yield

    # Reading

    def _compare(self, read: str, written: Sequence[Any], what: str) -> None:
        """Reads what was written and some others, or all at once."""
        how = read if read in _READERS else "get"
        others = self.chance.sample(self._all, 2)
        ids = self._all if how == "get_many" else [*dict.fromkeys([*written, *others])]
        self._look(how, ids, what, self.stage.committed)

    def _look(self, how: str, ids: Sequence[Any], what: str, committed: Rows | Callable[[], Rows] | None) -> None:
        """Reads, and compares with these rows; with none if they cannot be known."""
        stage, entity = self.stage, self._reader.database.entity
        answered = _READERS[how](self._reader, [stage.classes.target.identity(id) for id in ids])
        if committed is None:
            return
        if callable(committed):
            committed = committed()
        for id, answer in zip(ids, answered, strict=True):
            row = committed.get(id)  # A service knows an id by one spelling only.
            if row is not None and entity is not stage.classes.root and row[0] != entity.__name__:
                row = None
            expected: Any = row is not None if how == "exists" else row
            if answer != expected:
                raise WrongReadError(
                    f"{stage.world}\nafter {self.done} triples: {what}: {how} of {entity.__name__} {id!r} is {answer}, "
                    f"and committed is {expected}"
                )

    def _restore(self) -> None:
        """All but two of the rows are there again."""
        if "add" not in self._ways:
            if self._names == 0:
                self._store_directly()
            return
        target = self.stage.classes.target
        with self.stage.session() as session:
            for table in reversed(self.stage.classes.root.metadata.sorted_tables):
                session.execute(sa.delete(table))
            session.add_all([target.make(id, "first") for id in self.stage.classes.ids[:4]])
            session.commit()

    def _store_directly(self) -> None:
        """Before anything is cached."""
        target = self.stage.classes.target
        with orm.Session(self.stage.direct) as session:
            session.add_all([target.make(id, "first") for id in self.stage.classes.ids[:4]])
            session.commit()


def _row(entity: Any) -> Row | None:
    if entity is None:
        return None
    return (type(entity).__name__, entity.id, entity.first_name, entity.last_name, entity.version)


def _get(service: Service[Any], ids: Sequence[Any]) -> list[Any]:
    return [_row(service.get(id)) for id in ids]


def _get_many(service: Service[Any], ids: Sequence[Any]) -> list[Any]:
    found = service.get_many(ids)
    return [_row(found.get(id)) for id in ids]


def _exists(service: Service[Any], ids: Sequence[Any]) -> list[Any]:
    return [service.exists(id) for id in ids]


_READERS: Final = {"get": _get, "get_many": _get_many, "exists": _exists}
_ENDS: Final = ("commit", "commit", "commit", "rollback", "to savepoint", "savepoint")
_READS: Final = ("get", "get", "get_many", "exists", "while it is open", "beside a transaction")


_DENIED: Final = ("denied", "permission", "must be owner")


def is_refusal(world: World, error: Exception) -> bool:
    """True if a host's statement is refused in this world, whether it is covered or not."""
    words = str(error)
    if isinstance(error, (sa.exc.IntegrityError, orm.exc.StaleDataError, sa.exc.NoResultFound)):
        return True
    return world.account != "all" and any(word in words for word in _DENIED)
