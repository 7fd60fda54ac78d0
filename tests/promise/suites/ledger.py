"""The rows of a database as they were last seen committed, compared with the tombstones that stood since."""

from __future__ import annotations

import itertools
import sqlite3
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import pymysql
import sqlalchemy as sa
from pymysql.constants import SERVER_STATUS

from person_repo.cache.contract import LeaseBackend, Tombstones
from person_repo.exceptions import InvalidIdError
from person_repo.mapped.identities import Identity
from person_repo.writing.covered import Covered, CoveredModel

__all__ = ["Ledger", "Missed", "Standing"]

_DRIVERS = (sqlite3.Connection, pymysql.Connection)

_Found = Literal["class", "key", "nothing", "unasked"]

_Rows = Mapping[Identity, tuple[Any, ...]]
"""The rows of one table: all their values, by the values of the key."""


class Standing:
    """The tombstones of a cache, with the time of each: they are counted, and not measured.

    It takes the place of two functions of the backend.
    """

    def __init__(self, backend: LeaseBackend) -> None:
        self._clock = itertools.count(1)
        self._placed: Counter[str] = Counter()
        self._ended: dict[str, int] = {}
        self._lock = threading.Lock()
        self._thread = threading.local()
        self._put, self._release = backend.put_tombstones, backend.release
        backend.put_tombstones = self._put_and_note  # type: ignore[method-assign]
        backend.release = self._release_and_note  # type: ignore[method-assign]

    def now(self) -> int:
        """The time: later than that of everything before."""
        return next(self._clock)

    def stood(self, name: str, since: int) -> bool:
        """True if a tombstone stood on this key or group at any time after another."""
        with self._lock:
            return self._placed[name] > 0 or self._ended.get(name, 0) > since

    @contextmanager
    def unnoted(self) -> Iterator[None]:
        """Tombstones that this thread places in the block count for nothing."""
        self._thread.passes = True
        try:
            yield
        finally:
            self._thread.passes = False

    def _put_and_note(self, keys: Collection[str], groups: Collection[str] = ()) -> Tombstones:
        tombstones = self._put(keys, groups)
        if getattr(self._thread, "passes", False):
            return tombstones
        with self._lock:
            self._placed.update([*tombstones.keys, *tombstones.groups])
        return tombstones

    def _release_and_note(self, tombstones: Tombstones) -> Any:
        silent = self._release(tombstones)
        if getattr(self._thread, "passes", False):
            return silent
        with self._lock:
            for name in [*tombstones.keys, *tombstones.groups]:
                self._placed[name] -= 1
                self._ended[name] = self.now()
        return silent


@dataclass(frozen=True)
class Missed:
    """A row that changed without a tombstone."""

    table: str
    key: str
    before: str
    after: str
    statements: tuple[str, ...]


@dataclass
class _Page:
    """One table as it was last seen. ``at``: when."""

    rows: _Rows
    at: int


@dataclass
class _Book:
    """The tables of one database. ``changes``: of rows, by the connection's own count."""

    pages: weakref.WeakKeyDictionary[sa.Table, dict[Any, _Page]] = field(default_factory=weakref.WeakKeyDictionary)
    seen: object = None
    changes: int = 0

    def page_of(self, model: CoveredModel) -> _Page | None:
        return self.pages.get(model.table, {}).get(_key_of(model))


class Ledger:
    """Compares the rows of the covered tables with what they were, whenever something may have been committed.

    ``by_key``, ``by_class``: how many changed rows had a tombstone of their own, and how many one on their class.
    ``unasked``: changed rows whose key no reader can ask for. ``missed``: those that had none.
    """

    def __init__(self, standing: Standing) -> None:
        self.by_key = self.by_class = self.unasked = self.unread = 0
        self.missed: list[Missed] = []
        self._standing = standing
        self._lock = threading.RLock()
        # By the number of the connection: it takes no weak reference, and must be free to go.
        self._of_sqlite: dict[int, _Book] = {}
        self._of_servers: dict[str, tuple[_Book, pymysql.Connection[Any]]] = {}
        self._said: list[str] = []
        self._texts: weakref.WeakKeyDictionary[sa.Table, dict[Any, str]] = weakref.WeakKeyDictionary()

    def watch(self, engine: sa.Engine, covered: Covered) -> None:
        """Compare after each COMMIT and ROLLBACK on a covered engine, and after each statement outside of both."""
        dialect: Any = engine.dialect
        for name in ("do_commit", "do_rollback", "do_commit_twophase", "do_rollback_twophase"):
            setattr(dialect, name, self._then_compare(getattr(dialect, name), engine, covered))
        for name in ("do_execute", "do_executemany", "do_execute_no_params"):
            setattr(dialect, name, self._then_compare(getattr(dialect, name), engine, covered, is_statement=True))

    def forget(self) -> None:
        """Close what was opened, and start with empty books."""
        self._of_sqlite.clear()
        for _, connection in self._of_servers.values():
            connection.close()
        self._of_servers.clear()

    def _then_compare(
        self, function: Callable[..., None], engine: sa.Engine, covered: Covered, *, is_statement: bool = False
    ) -> Callable[..., None]:
        reference = weakref.ref(engine)

        def wrapped(*arguments: Any, **options: Any) -> None:
            driver = _driver_of(arguments[0])
            alive = reference()
            if alive is not None and driver is not None:
                if is_statement:
                    self._said[:] = [*self._said[-7:], f"{arguments[1]!s:.300} {arguments[2]!r:.200}"]
                self._compare(alive, covered, driver, only_new=True)
            try:
                function(*arguments, **options)
            finally:
                if alive is not None and driver is not None:
                    self._compare(alive, covered, driver)

        return wrapped

    def _compare(self, engine: sa.Engine, covered: Covered, driver: Any, *, only_new: bool = False) -> None:
        """``only_new``: look at the tables that are not known yet, and no others."""
        if not covered.models or (only_new and not self._has_news(engine, covered, driver)):
            return
        with self._lock:
            if (found := self._book(engine, driver)) is None:
                return
            book, read = found
            stamp = _stamp_of(driver)
            if not only_new and stamp is not None and book.seen == (stamp, len(covered.news)):
                return
            book.seen = stamp, len(covered.news)
            models: dict[tuple[Any, ...], list[CoveredModel]] = {}
            for model in covered.models:
                models.setdefault((model.table, *_key_of(model)), []).append(model)
            for of_key in models.values():
                if not (only_new and book.page_of(of_key[0]) is not None):
                    self._look_at(book, of_key, engine.dialect, read)

    def _has_news(self, engine: sa.Engine, covered: Covered, driver: Any) -> bool:
        with self._lock:
            found = self._book(engine, driver)
            return found is not None and any(found[0].page_of(model) is None for model in covered.models)

    def _look_at(
        self, book: _Book, models: list[CoveredModel], dialect: sa.Dialect, read: Callable[[str], Any]
    ) -> None:
        """``models``: those of one table that have one key."""
        since = self._standing.now()
        model = models[0]
        size = len(model.mapping.key_columns[model.table])
        try:
            rows = {tuple(row[:size]): tuple(row[size:]) for row in read(self._text_of(model, dialect))}
        except (sqlite3.Error, pymysql.Error):
            rows = {}  # The table is not there, or has other columns.
            self.unread += 1
        page = book.page_of(model)
        book.pages.setdefault(model.table, {})[_key_of(model)] = _Page(rows, since)
        if page is not None:
            for values in {*rows, *page.rows}:
                if rows.get(values) != page.rows.get(values):
                    self._check(models, values, page, rows)

    def _text_of(self, model: CoveredModel, dialect: sa.Dialect) -> str:
        texts = self._texts.setdefault(model.table, {})
        form = dialect.name, len(model.table.columns), _key_of(model)
        return texts.get(form) or texts.setdefault(form, _text_of(model, dialect))

    def _check(self, models: list[CoveredModel], values: Identity, page: _Page, rows: _Rows) -> None:
        found = {self._stood(model, values, page.at) for model in models}
        if "nothing" in found:
            before, after = repr(page.rows.get(values)), repr(rows.get(values))
            self.missed.append(Missed(models[0].table.fullname, repr(values), before, after, tuple(self._said)))
        elif "class" in found:
            self.by_class += 1
        elif "key" in found:
            self.by_key += 1
        else:
            self.unasked += 1

    def _stood(self, model: CoveredModel, values: Identity, since: int) -> _Found:
        identity = _loaded(model, values)
        if identity is None:
            return "unasked"
        if self._standing.stood(model.group, since):
            return "class"
        keys = model.keyspace(None)
        try:
            return "key" if keys is not None and self._standing.stood(keys.key_of(identity)[0], since) else "nothing"
        except InvalidIdError:
            return "unasked"

    def _book(self, engine: sa.Engine, driver: Any) -> tuple[_Book, Callable[[str], Any]] | None:
        """The book of the database that a connection is to, and what reads there; None inside a transaction."""
        if isinstance(driver, sqlite3.Connection):
            if driver.in_transaction:
                return None
            book = self._of_sqlite.setdefault(id(driver), _Book())
            if driver.total_changes < book.changes:  # It is another one by this number.
                book = self._of_sqlite[id(driver)] = _Book()
            book.changes = driver.total_changes
            return book, lambda text: _read_sqlite(driver, text)
        if driver.server_status & SERVER_STATUS.SERVER_STATUS_IN_TRANS:
            return None
        name = f"{driver.host}:{driver.port}/{driver.db!r}"
        if name not in self._of_servers:
            self._of_servers[name] = _Book(), _beside(driver)
        book, connection = self._of_servers[name]
        return book, lambda text: _read_mysql(connection, text)


def _driver_of(argument: Any) -> Any:
    """The driver's connection of what a dialect's function gets first; None if it is of another driver."""
    if isinstance(argument, sa.Connection):
        argument = argument.connection
    if isinstance(argument, sa.PoolProxiedConnection):
        argument = argument.dbapi_connection
    elif isinstance(argument, (sqlite3.Cursor, pymysql.cursors.Cursor)):
        argument = argument.connection
    return argument if isinstance(argument, _DRIVERS) else None


def _stamp_of(driver: Any) -> object:
    """Another value once rows may have changed through this connection; None if that is not known."""
    return driver.total_changes if isinstance(driver, sqlite3.Connection) else None


def _key_of(model: CoveredModel) -> tuple[Any, ...]:
    return tuple(column.key for column in model.mapping.key_columns[model.table])


def _text_of(model: CoveredModel, dialect: sa.Dialect) -> str:
    """A query for all rows: the key first, then all columns, each as it is stored."""
    table = model.table
    columns = [*model.mapping.key_columns[table], *table.columns]
    stored = [sa.type_coerce(column, sa.types.NullType()) for column in columns]
    return str(sa.select(*stored).select_from(table).compile(dialect=dialect))


def _loaded(model: CoveredModel, values: Identity) -> Identity | None:
    """The key as a reader gets it from the row, and asks for; None if no reader can."""
    dialect = model._engine().dialect  # type: ignore[union-attr]
    found = []
    for column, value in zip(model.mapping.key_columns[model.table], values, strict=True):
        processor = column.type.dialect_impl(dialect).result_processor(dialect, None)
        found.append(value if processor is None else processor(value))
    return None if None in found else tuple(found)


def _read_sqlite(driver: sqlite3.Connection, text: str) -> Iterator[Any]:
    cursor = sqlite3.Cursor(driver)
    cursor.row_factory = None
    try:
        return iter(cursor.execute(text).fetchall())
    finally:
        cursor.close()


def _read_mysql(connection: pymysql.Connection[Any], text: str) -> Iterator[Any]:
    with connection.cursor() as cursor:
        cursor.execute(text, ())
        return iter(cursor.fetchall())


def _beside(driver: Any) -> pymysql.Connection[Any]:
    """Another connection to the same database, on which nothing is waited for."""
    database = driver.db.decode() if isinstance(driver.db, bytes) else driver.db
    connection = pymysql.connect(
        host=driver.host, port=driver.port, user="root", database=database, charset="utf8mb4", autocommit=True
    )
    with connection.cursor() as cursor:
        cursor.execute("SET lock_wait_timeout = 1")
    return connection
