"""The database that an engine reaches, and the schema in which a table lies: two databases never share cache entries.

Each database has an identity, a row beside the fence that its migration makes. It goes where the database goes: a
promoted replica, another address or another name of the host change nothing. A copy made from a dump has the
original's, until ``person-repo identity --renew`` gives it one of its own.

Readers need a location (``mapped.keys``) before they use the cache. A writer that does not know it for certain drops
the whole group, so it never waits for an answer here, and needs none.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, NamedTuple, TypeVar

import sqlalchemy as sa
from sqlalchemy import event, exc

from person_repo.database.engines import has_one_connection, read_engine_of
from person_repo.database.marks import OWN
from person_repo.database.schema import REMEDY
from person_repo.database.snapshots import fresh_connection, question_to
from person_repo.exceptions import CacheUnavailableError, ConfigurationError
from person_repo.forks import on_fork
from person_repo.internals import root_engine
from person_repo.interruptions import DATABASE_ERRORS, is_repeated
from person_repo.mapped.identities import IdentityMapping
from person_repo.mapped.keys import Keyspace, Location
from person_repo.mapped.views import EXAMPLE, tables_under
from person_repo.model import IDENTITY, new_identity

__all__ = [
    "UNTRANSLATED",
    "Database",
    "Home",
    "Located",
    "NoTableError",
    "Translation",
    "database_of",
    "identity_of",
    "not_waiting",
    "renew_identity",
]

logger = logging.getLogger("person_repo.database")

Owner = TypeVar("Owner")

Translation = Mapping[str | None, str | None]
"""A ``schema_translate_map``."""

UNTRANSLATED: Final[dict[str, Any]] = {"schema_translate_map": None}
"""The execution options of a statement about the layer's tables: they stand once in a database, for all its schemas."""

_OPTIONS: Final[dict[str, Any]] = {**UNTRANSLATED, OWN: True}

_PAUSE: Final = 1.0
"""Seconds between two questions of writers to a database that has no identity, or does not say which it is."""

_YOUNG: Final = 120
"""Seconds from the birth of an identity in a database that was in use. Readers may name entries as before for ten of
them (``reading.cached``), the rest is for clocks that differ.
"""


class NoTableError(CacheUnavailableError):
    """The table of a class is not there, as a read of it will say, too."""


class Home(NamedTuple):
    """The home of one table. ``database``: its identity; another text if it has none. ``schema``: as the database sees
    it. ``lasts``: the answer holds from now on; not without an identity, which may yet be made. ``since``: the time at
    which that was made, if the database was in use before; seconds since 1970, else 0. ``folds``: two names that differ
    by case only are one. ``server``: by its own word. ``is_view``: the table is a view.
    """

    database: str
    schema: str
    lasts: bool = False
    since: int = 0
    folds: bool = False
    server: str = ""
    is_view: bool = False

    @property
    def is_certain(self) -> bool:
        """True if every program names the entries of this home alike."""
        return self.lasts and time.time() > self.since + _YOUNG


class Located(NamedTuple):
    """The keys of a class's rows. ``lasts``: they hold from now on; else the identity or the table may yet be made.
    ``server``: the one that has the rows, by its own word.
    """

    keys: Keyspace
    lasts: bool
    server: str


class Database:
    """The database that an engine and all its option engines reach. Asked at the first need. Safe for threads."""

    def __init__(self, engine: sa.Engine, *, asks_itself: bool = False) -> None:
        self._engine = weakref.ref(engine)
        self._asks_itself = asks_itself
        self._of_memory = uuid.uuid4().hex
        # By the schema and the name of a table; only answers that last. Replaced by ``end``, so that an answer from
        # before comes to nothing.
        self.homes: dict[tuple[str | None, str], Home] = {}
        self._asks_again: dict[tuple[str | None, str], float] = {}
        self._has_complained = False
        self._at_end: dict[int, Callable[[], object]] = {}
        self._pool = weakref.ref(engine.pool) if has_one_connection(engine) else None
        self.generation = 0
        """The number of databases that the engine has had before this one."""
        if self._pool is not None:
            event.listen(engine.pool, "close", _ending(weakref.ref(self)))

    def at_end(self, owner: Owner, hook: Callable[[Owner], object]) -> None:
        """Call a function with an object, as long as that lives, whenever the engine may have another database from now
        on: one in memory ends with its connection (``Engine.dispose``), and is copied with the process (``fork``).
        """
        reference = weakref.ref(owner, lambda reference: hooks.pop(id(reference), None))
        hooks = self._at_end
        hooks[id(reference)] = lambda: None if (alive := reference()) is None else hook(alive)

    def may_end(self) -> bool:
        """True if the database may end with its connection. Notices another pool, which has another connection."""
        engine = self._engine()
        if self._pool is None or engine is None:
            return False
        if engine.pool is not self._pool():
            self._pool = weakref.ref(engine.pool)
            self.end()
        return True

    def end(self) -> None:
        """The database's only connection is closed, or this is a copy of the process that had it."""
        self.generation += 1
        self.homes = {}
        self._of_memory = uuid.uuid4().hex
        for hook in [*self._at_end.values()]:
            hook()

    def locate(self, mapping: IdentityMapping[Any], namespace: str, translation: Translation | None = None) -> Located:
        """The keys of a class's rows, for a reader. ``translation``: that of its statements.

        Raises what the database raises, ``NoTableError``, ``CacheUnavailableError`` if it cannot be asked, and
        ``ConfigurationError`` for a view that is not declared.
        """
        homes = [self._home_of(table, translation) for table in mapping.tables]
        for table, home in zip(mapping.tables, homes, strict=True):
            if home.is_view and tables_under(table) is None:
                raise ConfigurationError(
                    f"{mapping.name} is mapped to {table.fullname}, which is a view: nobody sees when its rows change. "
                    f"Name the tables under it in its Table, as in {EXAMPLE}, or read it with use_db=True"
                )
        lasts = all(home.lasts for home in homes)
        if not lasts:
            self._complain(homes[0])
        return Located(_keyspace(mapping, namespace, homes), lasts, homes[0].server)

    def certain_keyspace(
        self, mapping: IdentityMapping[Any], namespace: str, translation: Translation | None = None
    ) -> Keyspace | None:
        """The keys for a writer; None if somebody else may name the entries otherwise, or as long as the database does
        not say which it is.
        """
        if not mapping.has_one_schema or _is_vague(mapping, translation):
            return None
        asked = _schema_of(mapping.table, translation), mapping.table.name
        if time.monotonic() < self._asks_again.get(asked, 0.0):
            return None

        def ask() -> list[Home]:
            return [self._home_of(table, translation, is_reader=False) for table in mapping.tables]

        try:
            homes = ask()
        except Exception as error:  # A connect listener or a creator of the host's may raise anything.
            if not isinstance(error, (CacheUnavailableError, *DATABASE_ERRORS)) and not is_repeated(error, ask):
                raise
            logger.debug("%s is dropped as a whole: %s", mapping.name, error)
            homes = []
        is_one_home = len({(home.database, home.schema) for home in homes}) == 1
        if not is_one_home or not all(home.is_certain for home in homes):
            self._asks_again[asked] = time.monotonic() + _PAUSE
            return None
        return _keyspace(mapping, namespace, homes)

    def _complain(self, home: Home) -> None:
        if not self._has_complained and not home.database.startswith(_IN_MEMORY):
            self._has_complained = True
            logger.error(
                "the database %s has no identity, a row in %s, so each write drops a whole class from the cache; %s",
                home.database,
                IDENTITY.name,
                REMEDY,
            )

    def _home_of(self, table: sa.Table, translation: Translation | None, *, is_reader: bool = True) -> Home:
        schema = _schema_of(table, translation)
        homes = self.homes
        home = homes.get((schema, table.name))
        if home is None:
            home = self._ask(schema, table.name, is_reader)
            if home.lasts:
                homes[schema, table.name] = home
        return home

    def _ask(self, schema: str | None, table: str, is_reader: bool) -> Home:
        engine = self._engine()
        if engine is None:
            raise CacheUnavailableError("the engine is gone, and nobody knows which database it was of")
        dialect = engine.dialect.name
        if has_one_connection(engine) and dialect != "sqlite":
            raise CacheUnavailableError("the only connection is the host's, whose transaction a question could end")
        with self._connected(engine, is_reader) as connection, not_waiting(connection):
            if dialect == "sqlite":
                return self._ask_sqlite(connection, schema, table)
            return _ask_server(connection, schema, table)

    @contextmanager
    def _connected(self, engine: sa.Engine, is_reader: bool) -> Iterator[sa.Connection]:
        if is_reader or self._asks_itself:
            with fresh_connection(engine if self._asks_itself else read_engine_of(engine)) as (connection, _):
                yield connection
        else:
            with question_to(engine) as connection:
                yield connection

    def _ask_sqlite(self, connection: sa.Connection, schema: str | None, table: str) -> Home:
        """Without a schema SQLite looks in ``temp``, in ``main``, then in what is attached, in this order."""
        driver: Any = connection.connection.driver_connection
        files = {name: file for _, name, file in _rows(connection, "PRAGMA database_list")}
        order = ["temp", "main", *[name for name in files if name not in ("temp", "main")]]
        for name in order if schema is None else [name for name in files if name.lower() == schema.lower()]:
            if name in files and (kind := _kind_on_sqlite(connection, name, table)):
                break
        else:
            raise NoTableError(f"there is no table {table}")
        rows: Sequence[Any] = []
        if _kind_on_sqlite(connection, name, IDENTITY.name):
            rows = _rows(connection, f"SELECT identity, since FROM {_quoted(connection, name)}.{IDENTITY.name}")
        identity, since = rows[0] if rows else (None, 0)
        # The row may be rolled back on a connection of the host's.
        is_open = has_one_connection(connection.engine) and getattr(driver, "in_transaction", False)
        if files[name]:
            database = identity or f"sqlite:{os.path.realpath(files[name])}"
        else:  # In memory: of this process, and of this connection unless it has a name by which others find it.
            named = connection.engine.url.database or ""
            own = named if "cache=shared" in named or "vfs=memdb" in named else self._of_memory
            database = f"{_IN_MEMORY}{_process}:{identity or own}:{name}"
        server = ""
        with suppress(OSError):
            server = str(os.stat(files[name]).st_ino) if files[name] else ""
        # Of another program the same file may be the main one.
        lasts = identity is not None and not is_open
        return Home(database, "main", lasts, since, folds=True, server=server, is_view=kind == "view")


def _ending(database: weakref.ref[Database]) -> Callable[[Any, Any], None]:
    def end(*_: Any) -> None:
        if (ended := database()) is not None:
            ended.end()

    return end


_IN_MEMORY: Final = "memory:"
"""The beginning of the identity of a database that no other process can reach."""

_process = uuid.uuid4().hex


def _schema_of(table: sa.Table, translation: Translation | None) -> str | None:
    schema = translation.get(table.schema, table.schema) if translation else table.schema
    if isinstance(schema, sa.quoted_name) and schema.quote is False:
        return str(schema).lower()  # as PostgreSQL reads it; where case counts, nobody finds it
    return schema or None


def _is_vague(mapping: IdentityMapping[Any], translation: Translation | None) -> bool:
    """True if the default schema is meant by a translation: as the dialect, or as the connection knows it."""
    if not translation:
        return False
    return any(table.schema in translation and not translation[table.schema] for table in mapping.tables)


def _keyspace(mapping: IdentityMapping[Any], namespace: str, homes: Sequence[Home]) -> Keyspace:
    base = homes[mapping.tables.index(mapping.table)]
    # One schema says it all, as for nearly every class; else the schema of each table.
    schemas = {home.schema.lower() if home.folds else home.schema for home in homes}
    if len(schemas) > 1 or len({home.database for home in homes}) > 1:
        schemas = {
            f"{table.name} {each.database} {each.schema}" for table, each in zip(mapping.tables, homes, strict=True)
        }
    fold = str.lower if base.folds else str
    key = tuple(column.name.lower() for column in mapping.key_columns[mapping.table])  # MySQL folds those always.
    location = Location(base.database, tuple(sorted(schemas)), fold(mapping.table.name), key, mapping.variant)
    return Keyspace(namespace, location, mapping.longest_plain_id)


def _ask_server(connection: sa.Connection, schema: str | None, table: str) -> Home:
    """The home of a table on a server. On MySQL a schema is a database, and has an identity of its own. PostgreSQL has
    one for all schemas, wherever it stands.
    """
    dialect = connection.dialect.name
    columns = _COLUMNS.get("mariadb" if getattr(connection.dialect, "is_mariadb", False) else dialect)
    if columns is None:
        return Home(f"{dialect}:{_address(connection.engine.url)}", schema or "")
    folds, name, default, server = _rows(connection, f"SELECT {columns}")[0]
    found = schema or default
    if dialect == "postgresql" and schema is None:
        found = connection.scalar(_SCHEMA_ON_POSTGRESQL, {"name": table}, execution_options=_OPTIONS)
    if found is None:
        raise NoTableError(f"there is no table {table}")
    in_schema = {"name": table, "schema": found}
    is_view = bool(connection.scalar(_IS_VIEW[dialect], in_schema, execution_options=_OPTIONS))
    holders = [found]
    if dialect == "postgresql":
        holders = [*connection.execute(_HOLDERS, execution_options=_OPTIONS).scalars()]
    row = _identity_in(connection, holders[0]) if holders else None
    if row is not None:
        identity, since = row
        # Two databases of one server, one of them a copy, have two names.
        of_name = f"{identity}:{name if dialect == 'postgresql' else ''}"
        return Home(of_name, found, True, since, bool(folds), server, is_view)
    # Nobody but this server says so: another program that reaches it otherwise has entries of its own.
    return Home(
        f"{dialect}:{_address(connection.engine.url)}:{server}:{name}", found, folds=bool(folds), is_view=is_view
    )


def _address(url: sa.URL) -> str:
    return f"{url.host or url.query.get('unix_socket') or ''}:{url.port or ''}"


_COLUMNS: Final = {
    "mysql": "@@lower_case_table_names, DATABASE(), DATABASE(), @@server_uuid",
    "mariadb": "@@lower_case_table_names, DATABASE(), DATABASE(), CONCAT_WS(' ', @@hostname, @@port, @@datadir)",
    "postgresql": "0, current_database(), current_schema(), concat_ws(' ', inet_server_addr(), inet_server_port())",
}
"""Columns for each database: do names of schemas fold, its name, the default schema, the server by its own word."""

# Of a table without a schema, the one that the search_path finds.
_SCHEMA_ON_POSTGRESQL: Final = sa.text(
    "SELECT nspname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace"
    " WHERE pg_class.oid = to_regclass(quote_ident(:name)) /* person_repo_identity */"
)

# Whatever the search_path: the oldest of several, so that one that comes later changes nothing.
_HOLDERS: Final = sa.text(
    "SELECT nspname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace"
    " WHERE relname = 'person_repo_identity' AND relkind = 'r' ORDER BY pg_class.oid /* person_repo_identity */"
)

_IS_VIEW_ON_MYSQL: Final = sa.text(
    "SELECT COUNT(*) FROM information_schema.VIEWS WHERE TABLE_SCHEMA = :schema AND TABLE_NAME = :name"
    " /* person_repo_identity */"
)

# A materialized view, too: REFRESH changes its rows.
_IS_VIEW: Final = {
    "mysql": _IS_VIEW_ON_MYSQL,
    "mariadb": _IS_VIEW_ON_MYSQL,
    "postgresql": sa.text(
        "SELECT count(*) FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace"
        " WHERE nspname = :schema AND relname = :name AND relkind IN ('v', 'm') /* person_repo_identity */"
    ),
}

_MISSING: Final = frozenset({1046, 1049, 1146, "3F000", "42P01"})
"""The errors of a schema or a table that is not there, or of no schema; MySQL's numbers, PostgreSQL's states."""


def _identity_in(connection: sa.Connection, schema: str) -> tuple[str, int] | None:
    """The row in a schema; None if there is no table, or no row. Raises other errors, such as that of an account that
    may not read it: others may, and know the identity.
    """
    try:
        rows = _rows(connection, f"SELECT identity, since FROM {_quoted(connection, schema)}.{IDENTITY.name}")
    except exc.DBAPIError as error:
        original: Any = error.orig
        codes = {getattr(original, "sqlstate", None), *getattr(original, "args", ())[:1]}
        if codes & _MISSING:
            return None
        raise
    return (rows[0][0], rows[0][1]) if rows else None


def _kind_on_sqlite(connection: sa.Connection, schema: str, table: str) -> str:
    """``table`` or ``view``; "" if there is none of this name."""
    master = "sqlite_temp_master" if schema == "temp" else f"{_quoted(connection, schema)}.sqlite_master"
    quoted = table.replace("'", "''")
    of_name = f"SELECT type FROM {master} WHERE lower(name) = lower('{quoted}') AND type IN ('table', 'view')"
    rows = _rows(connection, of_name)
    return str(rows[0][0]) if rows else ""


def _quoted(connection: sa.Connection, name: str) -> str:
    return connection.dialect.identifier_preparer.quote_identifier(name)


def _rows(connection: sa.Connection, sql: str) -> Sequence[Any]:
    return _sent(connection, sql).all()


def _sent(connection: sa.Connection, sql: str) -> sa.CursorResult[Any]:
    # For people who look at a log, and for ``is_about_schema``.
    return connection.exec_driver_sql(f"{sql} /* {IDENTITY.name} */", execution_options=_OPTIONS)


@contextmanager
def not_waiting(connection: sa.Connection) -> Iterator[None]:
    """A block whose statements wait for no lock: the very caller's transaction may hold it."""
    if has_one_connection(connection.engine) or connection.dialect.name not in _LOCKS:
        yield
        return
    setting, wait, restore = _LOCKS[connection.dialect.name]
    before = _sent(connection, setting).scalar_one()
    _sent(connection, wait)
    try:
        yield
    finally:
        if not connection.invalidated:
            _sent(connection, restore.format(before))


_LOCKS: Final = {
    "sqlite": ("PRAGMA busy_timeout", "PRAGMA busy_timeout = 0", "PRAGMA busy_timeout = {}"),
    "postgresql": ("SHOW lock_timeout", "SET lock_timeout = 100", "SET lock_timeout = '{}'"),
    "mysql": ("SELECT @@lock_wait_timeout", "SET lock_wait_timeout = 1", "SET lock_wait_timeout = {}"),
    "mariadb": ("SELECT @@lock_wait_timeout", "SET lock_wait_timeout = 1", "SET lock_wait_timeout = {}"),
}
"""For each database: the question how long a statement waits for a lock, and the statements that set it."""

_databases: weakref.WeakKeyDictionary[sa.Engine, Database] = weakref.WeakKeyDictionary()
_making = threading.Lock()


def database_of(engine: sa.Engine, *, asks_itself: bool = False) -> Database:
    """The one object for the database of an engine. Asks nothing. ``asks_itself``: the engine is a host's own for reads
    by AUTOCOMMIT, and is asked itself.
    """
    root = root_engine(engine)
    with _making:
        return _databases.get(root) or _databases.setdefault(root, Database(root, asks_itself=asks_itself))


def identity_of(connection: sa.Connection) -> str | None:
    """The identity that a database has; None if its table has no row. Raises ``SQLAlchemyError``."""
    identity: str | None = connection.scalar(sa.select(IDENTITY.c.identity), execution_options=_OPTIONS)
    return identity


def renew_identity(connection: sa.Connection) -> str:
    """Gives a database an identity of its own, and returns it. The caller commits. Raises ``SQLAlchemyError``.

    No program may be using the database: one that runs goes on with the identity that it has read, and drops nothing
    that others cache by the new one.
    """
    identity = new_identity()
    connection.execute(sa.delete(IDENTITY), execution_options=_OPTIONS)
    connection.execute(sa.insert(IDENTITY), {"id": 1, "identity": identity, "since": 0}, execution_options=_OPTIONS)
    return identity


def _begin_anew_in_child() -> None:
    global _making, _process
    # A thread that does not exist in this process may hold the lock.
    _making = threading.Lock()
    _process = uuid.uuid4().hex
    for database in [*_databases.values()]:
        database.end()


on_fork(_begin_anew_in_child)
