"""The worlds in which torture can be: how the engines of its workers connect, and what listens there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import event

from person_repo.database.engines import engine_of, fork_safely
from person_repo.exceptions import ConfigurationError

__all__ = ["MIXED", "WORLDS", "World", "engine_in", "known_worlds", "require_known"]

MIXED: Final = "mixed"
"""The name for all worlds that the database knows: each worker is in the next one."""


@dataclass(frozen=True)
class World:
    """A way to make an engine: ``options`` of ``create_engine``, and ``listeners`` by the name of their event.

    ``says``: the same in words. ``dialects``: the databases that know it, by the names of their dialects.
    """

    says: str
    options: Mapping[str, Any] = field(default_factory=dict)
    listeners: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    dialects: tuple[str, ...] = ("sqlite", "mysql", "postgresql")


_SERVERS = ("mysql", "postgresql")


def _end_python_mode(connection: Any, _: Any) -> None:
    connection.isolation_level = None


def _begin(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _comment(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> tuple[str, Any]:
    return f"/* torture */ {statement}", parameters


def _ask(connection: sa.Connection) -> None:
    cursor = connection.connection.cursor()
    cursor.execute("SELECT 1")
    cursor.fetchall()
    cursor.close()


WORLDS: Final[dict[str, World]] = {
    "plain": World("an engine as it comes"),
    "read-uncommitted": World(
        "READ UNCOMMITTED", {"isolation_level": "READ UNCOMMITTED"}, dialects=("sqlite", "mysql")
    ),
    "read-committed": World("READ COMMITTED", {"isolation_level": "READ COMMITTED"}, dialects=_SERVERS),
    "repeatable-read": World("REPEATABLE READ", {"isolation_level": "REPEATABLE READ"}, dialects=_SERVERS),
    "serializable": World("SERIALIZABLE", {"isolation_level": "SERIALIZABLE"}),
    "null-pool": World("a new connection for each transaction", {"poolclass": sa.NullPool}),
    "small-pool": World("one connection for all transactions", {"pool_size": 1, "max_overflow": 0}),
    "begin": World(
        "SQLAlchemy's recipe for sqlite3, which sends BEGIN itself",
        listeners={"connect": _end_python_mode, "begin": _begin},
        dialects=("sqlite",),
    ),
    "rewriting": World(
        "a listener that puts a comment before each statement", listeners={"before_cursor_execute": _comment}
    ),
    "asking": World(
        "listeners that ask the database at each begin and commit", listeners={"begin": _ask, "commit": _ask}
    ),
}
"""The worlds by name."""


def known_worlds(database_url: str) -> list[str]:
    """The names of the worlds that a database knows."""
    dialect = _dialect_of(database_url)
    return [name for name, world in WORLDS.items() if dialect in world.dialects]


def require_known(name: str, database_url: str) -> None:
    """Raises ``ConfigurationError`` for a name that is no world of this database's."""
    known = known_worlds(database_url)
    if name not in (*known, MIXED):
        raise ConfigurationError(f"world {name!r}: on {_dialect_of(database_url)} give {', '.join([*known, MIXED])}")


def engine_in(name: str, database_url: str, number: int) -> sa.Engine:
    """The engine of the worker with a number."""
    if name == MIXED:
        known = known_worlds(database_url)
        name = known[number % len(known)]
    world = WORLDS[name]
    engine = sa.create_engine(database_url, **world.options) if world.options else engine_of(database_url)
    fork_safely(engine)
    for event_name, listener in world.listeners.items():
        event.listen(engine, event_name, listener, retval=event_name == "before_cursor_execute")
    return engine


def _dialect_of(database_url: str) -> str:
    name = sa.make_url(database_url).get_backend_name()
    return "mysql" if name == "mariadb" else name
