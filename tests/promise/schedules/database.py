"""A database without a server: rows with versions, row locks held to the end of a transaction, read committed.

It stands behind the real ``Loader`` and the real ``Fence`` (by engines that answer their statements) and behind the
real wrapped dialect functions (by a DBAPI connection with ``commit``, ``rollback``, ``cursor`` and ``info``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import sqlalchemy as sa
from promise.schedules.actors import Actor, step
from promise.schedules.world import World

__all__ = ["FakeConnection", "FakeDatabase", "FenceEngine", "ReadEngine", "RefusedError", "State"]

State = str | None
"""The contents of a row, different for each write; None if there is no row."""


class RefusedError(Exception):
    """The database refused to commit, and rolled back."""


class FakeDatabase:
    """``history`` holds every committed state of each row in order, ``acknowledged`` the place of the newest state
    whose commit has returned to its writer. ``same_row``: ids that find the row of another id, as with a collation
    that folds case. ``fence``: the committed rows of the fence's table by their ids, which grow with each insert,
    committed or not.
    """

    __slots__ = ("acknowledged", "fence", "history", "last_fence_id", "locks", "same_row")

    def __init__(self, rows: Mapping[str, State], same_row: Mapping[str, str]) -> None:
        self.history: dict[str, tuple[State, ...]] = {id: (state,) for id, state in rows.items()}
        self.acknowledged: dict[str, int] = dict.fromkeys(rows, 0)
        self.locks: dict[str, FakeConnection] = {}
        self.same_row = same_row
        self.fence: dict[int, Mapping[str, Any]] = {}
        self.last_fence_id = 0

    def fence_ids(self, rows: Sequence[Mapping[str, Any]]) -> dict[int, Mapping[str, Any]]:
        """Rows with the ids that an insert gives them."""
        first = self.last_fence_id + 1
        self.last_fence_id += len(rows)
        return dict(enumerate(rows, first))

    def deliver(self, ids: Sequence[int]) -> None:
        """Deletes rows of the fence's table."""
        for id in ids:
            self.fence.pop(id, None)

    def state(self, id: str) -> State:
        """The committed state of a row."""
        return self.history[id][-1]

    def found(self, id: str) -> State:
        """The row that a statement finds by an id; ids that no actor writes have none."""
        return self.history.get(self.same_row.get(id, id), (None,))[-1]

    def fingerprint(self) -> tuple[Any, ...]:
        """All that the future depends on."""
        return (
            tuple(self.history.values()),
            tuple(self.acknowledged.values()),
            tuple((id, connection.actor.at) for id, connection in sorted(self.locks.items())),
            tuple((id, *row.values()) for id, row in self.fence.items()),
            self.last_fence_id,
        )


class FakeConnection:
    """A DBAPI connection of a writer, as the wrapped functions of a dialect see it, and the SQLAlchemy connection over
    it: ``connection`` is the object itself. ``dialect``: the dialect of its SQL.
    """

    def __init__(self, actor: Actor, database: FakeDatabase, dialect: Any, *, refuses: bool = False) -> None:
        self.actor = actor
        self.database = database
        self.refuses = refuses
        self.dialect = dialect
        self.info: dict[Any, Any] = {}
        self.writes: dict[str, State] = {}
        self.fence: dict[int, Mapping[str, Any]] = {}
        self.places: dict[str, int] = {}
        actor.connections.append(self)

    @property
    def connection(self) -> FakeConnection:
        return self

    def cursor(self) -> FakeConnection:
        return self

    def close(self) -> None:
        """The cursor."""

    def executemany(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """The insert into the fence's table, in this transaction."""
        into = re.fullmatch(r"INSERT INTO person_repo_fence \((.*)\) VALUES .*", sql)
        assert into is not None, sql
        named = [dict(zip(into[1].split(", "), row, strict=True)) for row in rows]
        step("INSERT INTO the fence", lambda: self.fence.update(self.database.fence_ids(named)))

    def write(self, changes: Mapping[str, State]) -> None:
        """One statement: waits for the locks on its rows, then changes them in its transaction."""
        step(f"UPDATE {_shown(changes)}", lambda: self._write(changes), lambda: self._free(changes))

    def write_and_commit(self, changes: Mapping[str, State]) -> None:
        """One statement in AUTOCOMMIT."""
        step(
            f"UPDATE {_shown(changes)}, committed by itself",
            lambda: (self._write(changes), self._commit())[0],
            lambda: self._free(changes),
        )

    def commit(self) -> None:
        step("COMMIT, refused by the database" if self.refuses else "COMMIT", self._commit)

    def rollback(self) -> None:
        step("ROLLBACK", self._end)

    def prepare(self) -> None:
        step("PREPARE TRANSACTION", lambda: None)

    def acknowledge(self) -> None:
        """Records that the commit has returned to its caller."""
        for acknowledged in (self.database.acknowledged, self.actor.acknowledged):
            for id, place in self.places.items():
                acknowledged[id] = max(acknowledged.get(id, 0), place)

    def die(self) -> None:
        """Ends with its process: the database rolls back the open transaction."""
        self._end()

    @property
    def committed(self) -> bool:
        """True if the database has this transaction, acknowledged or not."""
        return bool(self.places)

    def _free(self, changes: Mapping[str, State]) -> bool:
        locks = self.database.locks
        return all(locks.get(id, self) is self for id in changes)

    def _write(self, changes: Mapping[str, State]) -> None:
        for id, state in changes.items():
            self.database.locks[id] = self
            self.writes[id] = state

    def _commit(self) -> None:
        if self.refuses:
            self._end()
            raise RefusedError
        for id, state in self.writes.items():
            history = self.database.history[id]
            self.places[id] = len(history)
            self.database.history[id] = (*history, state)
        self.database.fence.update(self.fence)
        self._end()

    def _end(self) -> None:
        locks = self.database.locks
        for id in [id for id, holder in locks.items() if holder is self]:
            del locks[id]
        self.writes = {}
        self.fence = {}


UNHEARD = SimpleNamespace(listeners=(), parent_listeners=())
"""An event that nobody listens to."""


def _engine_of(driver: object) -> dict[str, Any]:
    """The attributes by which ``Snapshot`` asks an engine's driver for its transaction."""
    return {
        "dialect": SimpleNamespace(name="of the fake", driver="psycopg", loaded_dbapi=SimpleNamespace(Error=())),
        "pool": SimpleNamespace(dispatch=SimpleNamespace(checkout=UNHEARD, checkin=UNHEARD, reset=UNHEARD)),
        "connection": SimpleNamespace(driver_connection=driver, info={}),
        "_has_events": False,
    }


IDLE = SimpleNamespace(info=SimpleNamespace(transaction_status=0))
"""A driver's connection on which no transaction is open."""


class ReadEngine:
    """An engine and its connections, as the real ``Loader`` needs them. Each statement has a snapshot of its own.

    ``columns``: the mapping's names, in order. ``held``: a snapshot that statements see instead of a fresh one, as in
    a REPEATABLE READ transaction (a mutation).
    """

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = columns
        self.database: FakeDatabase
        self.held: dict[str, State] | None = None
        self.__dict__.update(_engine_of(self))

    dialect: Any
    pool: Any
    connection: Any

    @property
    def info(self) -> Any:
        """psycopg's, for this engine is its own driver's connection."""
        return SimpleNamespace(transaction_status=0 if self.held is None else 2)

    def rollback(self) -> None:
        """Ends the transaction of ``snapshot``."""
        self.held = None

    def connect(self) -> ReadEngine:
        return self

    invalidated = False

    def invalidate(self) -> None:
        """The end of a connection that was interrupted: the next statement has another, which is the same here."""

    def __enter__(self) -> ReadEngine:
        return self

    def __exit__(self, *raised: object) -> None:
        pass

    def get_execution_options(self) -> dict[str, Any]:
        return {}

    def execute(self, statement: Any, parameters: Mapping[str, Any] | None = None) -> _Result:
        (key,) = parameters.values() if parameters is not None else [list(statement.whereclause.right.value)]
        ids = [key] if isinstance(key, str) else list(key)
        found = step(f"SELECT {', '.join(ids)}", lambda: self._select(ids))
        return _Result([self._row(id, state) for id, state in found if state is not None])

    def snapshot(self) -> None:
        """Begins a transaction whose statements all see what is committed now (a mutation)."""
        self.held = None
        self.held = dict(step("BEGIN, REPEATABLE READ", lambda: self._select(list(self.database.history))))

    def _select(self, ids: Sequence[str]) -> tuple[tuple[str, State], ...]:
        if self.held is not None:
            return tuple((id, self.held.get(id)) for id in ids)
        database = self.database
        return tuple((database.same_row.get(id, id), database.found(id)) for id in ids)

    def _row(self, id: str, state: str) -> tuple[Any, ...]:
        values = {"id": id, "first_name": state, "last_name": "of the fake", "version": 1}
        return tuple(values[name] for name in self._columns)


class _Result:
    def __init__(self, rows: Sequence[tuple[Any, ...]]) -> None:
        self._rows = rows

    def fetchone(self) -> tuple[Any, ...] | None:
        return self._rows[0] if self._rows else None

    def fetchmany(self, size: int) -> Sequence[tuple[Any, ...]]:
        return self._rows[:size]

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return iter(self._rows)


class FenceEngine:
    """An engine, as far as the real ``Fence`` needs it. Each statement is a transaction of its own."""

    def __init__(self) -> None:
        self.__dict__.update(_engine_of(IDLE))

    dialect: Any
    pool: Any
    connection: Any

    def execution_options(self, **_: Any) -> FenceEngine:
        return self

    def get_execution_options(self) -> dict[str, Any]:
        return {}

    invalidated = False

    def invalidate(self) -> None:
        """As ``ReadEngine``'s."""

    def connect(self) -> FenceEngine:
        return self

    def __enter__(self) -> FenceEngine:
        return self

    def __exit__(self, *raised: object) -> None:
        pass

    def execute(self, statement: Any) -> Sequence[tuple[Any, ...]]:
        database = World.current.database
        if isinstance(statement, sa.Select):
            names = [column.name for column in statement.selected_columns]
            rows = step("SELECT FROM the fence", lambda: _fence_rows(database, names))
            if World.current.slow:
                step("receives the rows of the fence", lambda: None)
            return rows
        if isinstance(statement, sa.Insert):
            inserted = list(statement._multi_values[0])
            step("INSERT INTO the fence, committed", lambda: database.fence.update(database.fence_ids(inserted)))
        else:
            ids = statement.whereclause.right.value
            step(f"DELETE FROM the fence {ids}", lambda: database.deliver(ids))
        return ()


def _fence_rows(database: FakeDatabase, names: Sequence[str]) -> tuple[tuple[Any, ...], ...]:
    return tuple(tuple({"id": id, **row}[name] for name in names) for id, row in sorted(database.fence.items()))


def _shown(changes: Mapping[str, State]) -> str:
    return ", ".join(f"{id} = {state}" if state is not None else f"{id} deleted" for id, state in changes.items())
