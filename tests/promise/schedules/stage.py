"""Scenarios, and the real objects that play them: repositories, backends, codecs, the wrapped dialect functions."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import sqlalchemy as sa
from dogpile.cache import CacheRegion
from promise.schedules.actors import Actor, Names, Violation, Wire, acting, step
from promise.schedules.database import FakeConnection, FakeDatabase, FenceEngine, ReadEngine, RefusedError, State
from promise.schedules.wire import Clock, FakeMemcached, Item
from promise.schedules.world import World

from person_repo.cache.contract import LeaseBackend
from person_repo.cache.memcached.backend import MemcachedBackend
from person_repo.cache.memcached.connection import IDLE, Budget
from person_repo.cache.memory import MemoryBackend
from person_repo.cache.region import make_region
from person_repo.database.identity import Home, database_of
from person_repo.database.loading import Loader
from person_repo.exceptions import CacheUnavailableError
from person_repo.fence import view as fence
from person_repo.fence.table import TableState
from person_repo.fence.view import Fence
from person_repo.mapped.mapping import EntityMapping
from person_repo.model import Person
from person_repo.reading.cached import CachedRepository
from person_repo.writing import coverage

__all__ = ["EVERY_FAULT", "Scenario", "Stage", "Write", "autocommit", "commit", "refused", "rollback", "twophase"]

EVERY_FAULT = frozenset({"crash", "evict", "restart", "expire"})

LEASE_TTL, TOMBSTONE_TTL, TTL = 5, 60, 3600

# A reader that waits for another's lease polls once; the pauses between polls take no time of a schedule.
_WAIT = 0.002


@dataclass(frozen=True)
class Write:
    """One transaction: its end, the rows it changes (None: deletes), and whether only the model is known (``whole``).

    ``pause``: seconds between PREPARE and COMMIT.
    """

    kind: str
    changes: Mapping[str, State]
    whole: bool = False
    pause: float = 0


def commit(whole: bool = False, **changes: State) -> Write:
    """A transaction that commits."""
    return Write("commit", changes, whole)


def rollback(whole: bool = False, **changes: State) -> Write:
    """A transaction that rolls back."""
    return Write("rollback", changes, whole)


def refused(whole: bool = False, **changes: State) -> Write:
    """A transaction whose COMMIT the database refuses: the tombstones stand, the rows stay."""
    return Write("refused", changes, whole)


def autocommit(whole: bool = False, **changes: State) -> Write:
    """A statement that is a transaction of its own."""
    return Write("autocommit", changes, whole)


def twophase(whole: bool = False, **changes: State) -> Write:
    """A transaction that is prepared, then committed."""
    return Write("twophase", changes, whole)


@dataclass(frozen=True)
class Scenario:
    """The reads and writes of all actors, and the cache between them.

    ``readers``: for each reader its reads, for each read the ids: one is ``get``, several are ``get_many``.
    ``writers``: for each writer its transactions. A read of no ids delivers the rows of the fence instead.

    At the start: ``rows`` are committed, ``cached`` are those of them in the cache (written by another version of the
    model: ``old_schema``), ``drawn``: the groups have epochs, ``readers_connected``: readers have open connections, as
    writers always have, ``looked``: every process has just polled the fence, ``cut``: the actors that are cut off from
    the servers. ``begins``: the actors that make the first steps; the search begins after them.

    ``schemas``: added to the schema fingerprints of the readers, as if they ran other versions of the model.
    ``ending``: every value is about to expire, so one reader is to renew it. ``same_row``: see ``FakeDatabase``.
    ``ticks`` and ``slow``: see ``World``. ``together``: the actors that are threads of one process. ``apart``: the
    actors that may be cut off from a server; all if none is named.
    """

    title: str
    readers: tuple[tuple[tuple[str, ...], ...], ...]
    writers: tuple[tuple[Write, ...], ...]
    rows: Mapping[str, State] = field(default_factory=lambda: {"ada": "ada-0"})
    cached: tuple[str, ...] = ()
    drawn: bool = True
    readers_connected: bool = True
    backend: str = "memcached"
    servers: int = 1
    kinds: frozenset[str] = EVERY_FAULT
    schemas: tuple[int, ...] = ()
    old_schema: bool = False
    ending: bool = False
    same_row: Mapping[str, str] = field(default_factory=dict)
    begins: tuple[str, ...] = ()
    on_unreachable: str = "proceed"
    ticks: int = 0
    slow: bool = False
    looked: bool = True
    together: tuple[str, ...] = ()
    apart: tuple[str, ...] = ()
    cut: tuple[str, ...] = ()

    @property
    def parts(self) -> bool:
        """True if some actor may be cut off from a server that others reach."""
        return bool(self.cut) or "partition" in self.kinds


class Stage:
    """A scenario with all objects that its schedules can share. Made and used ``without_a_network``.

    ``before_read``: called by a reader's host before each read (a mutation).
    """

    def __init__(self, scenario: Scenario, before_read: Callable[[ReadEngine], None] | None = None) -> None:
        self.scenario = scenario
        self.names = Names()
        self._before_read = before_read
        self._mapping: EntityMapping[Any] = EntityMapping(Person)
        self._server_names = self._placed_apart() if scenario.servers > 1 else ["only:1"]
        self._memory = _SteppedMemory(dict(_TTLS, clock=lambda: World.current.clock.now))
        ending = scenario.ending
        shared = self._backend(ending=ending)
        backends = {
            name: shared if name in scenario.together else self._backend(ending=ending) for name in self._names()
        }
        self._readers = {name: _Reader(self._mapping, backends[name]) for name in self._names("reader")}
        for reader, shift in zip(self._readers.values(), scenario.schemas, strict=False):
            reader.repository.keys  # noqa: B018 - its codec is made by now
            codec_of(reader.repository).header += " older" * shift
        self._auditor = _Reader(self._mapping, self._backend())
        self._writers = {name: _Writer(self._mapping, backends[name]) for name in self._names("writer")}
        self._warm: tuple[list[tuple[dict[bytes, Item], int]], int] | None = None

    def _backend(self, *, ending: bool = False) -> LeaseBackend:
        if self.scenario.backend == "memory":
            return self._memory
        backend = _Memcached(
            dict(_TTLS, servers=self._server_names, on_unreachable=self.scenario.on_unreachable), self.scenario.looked
        )
        if ending:
            backend.renewal = lambda key: 2 * TTL  # type: ignore[method-assign]
        return backend

    def _names(self, *kinds: str) -> list[str]:
        """The actors' names, readers first."""
        found = []
        for kind in kinds or ("reader", "writer"):
            count = len(self.scenario.readers if kind == "reader" else self.scenario.writers)
            found += [kind] if count == 1 else [f"{kind} {number + 1}" for number in range(count)]
        return found

    def _placed_apart(self) -> list[str]:
        """Names of servers between which the rows are divided."""
        engine = _engine()
        for port in itertools.count(1):
            names = [f"{letter}:{port}" for letter in "abc"[: self.scenario.servers]]
            backend = MemcachedBackend({"servers": names})
            keys = database_of(engine).locate(self._mapping, "person_repo").keys
            if len({backend._server_of(keys.key_of((id,))[0]) for id in self.scenario.rows}) == len(names):
                return names
        raise AssertionError

    # One schedule

    def world(self, faults: int, log: list[str] | None = None) -> World:
        """A new world at the start of a schedule, with every actor before its first step."""
        scenario = self.scenario
        clock = Clock()
        servers = {}
        if scenario.backend != "memory":
            servers = {name: FakeMemcached(clock) for name in self._server_names}
        memory = self._memory if scenario.backend == "memory" else None
        database = FakeDatabase(scenario.rows, scenario.same_row)
        world = World(
            clock, servers, database, self.names, memory=memory, faults=faults, kinds=scenario.kinds,
            ticks=scenario.ticks, slow=scenario.slow, apart=scenario.apart or tuple(self._names()),
            late=scenario.parts and scenario.on_unreachable == "proceed",
        )  # fmt: skip
        self._memory._reset()
        self._prepare(world)
        world.log = log
        for player in (*self._readers.values(), *self._writers.values()):
            player.enter(world)
        for (name, reader), reads in zip(self._readers.items(), scenario.readers, strict=True):
            self._enter(world, world.add(name, reader.run(reads, self._before_read, begins=scenario.parts)), reader)
        for (name, writer), writes in zip(self._writers.items(), scenario.writers, strict=True):
            self._enter(world, world.add(name, writer.run(writes)), writer)
        self._bring_together(world)
        actors = {actor.name: actor for actor in world.actors}
        for name in scenario.cut:
            for at in range(len(world.servers)):
                world.cut_off_from(actors[name], at)
        world.begin()
        for name in scenario.begins:
            world.take(world.steps_of(actors[name])[0])
        return world

    def _prepare(self, world: World) -> None:
        """Has a reader cache what is cached at the start; later schedules get a copy of the fake servers' items."""
        if self._warm is not None:
            for server, (items, last_cas) in zip(world.servers, self._warm[0], strict=True):
                server.items = dict(items)
                server.last_cas = last_cas
            world.randoms = self._warm[1]
            return
        auditor = self._auditor
        auditor.enter(world)
        auditor.repository.keys  # noqa: B018 - its codec is made by now
        codec = codec_of(auditor.repository)
        header = codec.header
        codec.header += " oldest" * self.scenario.old_schema
        for id in self.scenario.cached:
            auditor.repository.get(id)
        codec.header = header
        if self.scenario.drawn:
            self._draw_epochs(world)
        if world.servers:
            self._warm = [(dict(server.items), server.last_cas) for server in world.servers], world.randoms

    def _draw_epochs(self, world: World) -> None:
        """Puts markers on servers that have none, by reads of absent ids; the negative entries are removed."""
        for number in itertools.count():
            if all(server.items for server in world.servers):
                return
            key, _ = self._auditor.repository.keys.key_of((f"nobody-{number}",))
            self._auditor.repository.get(f"nobody-{number}")
            for server in world.servers:
                server.items.pop(key.encode(), None)

    def _enter(self, world: World, actor: Actor, player: _Player) -> None:
        """Gives an actor its process, and connections that are open already."""
        actor.fence = getattr(player.backend, "staged_fence", None)
        if world.servers and (self.scenario.readers_connected or isinstance(player, _Writer)):
            player.connect(world, actor, self._server_names)

    def _bring_together(self, world: World) -> None:
        own: dict[str, int] = {}
        for actor in world.actors:
            if actor.name in self.scenario.together:
                actor.acknowledged = own

    def finish(self, world: World) -> bool:
        """Reads through the cache when all actors are done: at once, and after the longest tombstone. The fence must
        then be empty, and the cache must serve entries.

        Returns True if an old entry is stuck in the cache for the one known reason; raises ``Violation`` for any other.
        """
        for server in world.servers:
            server.running = True
        self._check_that_no_fence_is_needless(world)
        wrong = self._audit(world, "at the end")
        if wrong is None:
            world.passes(_LONGEST_HOLD)
            wrong = self._audit(world, "when no tombstone can stand any more")
        if wrong is None:
            self._check_all_is_well_again(world)
            return False
        if not world.stuck():
            raise Violation("final", wrong)
        world.passes(TTL + 1)
        wrong = self._audit(world, "after the ttl")
        if wrong is not None:
            raise Violation("final", wrong)
        return True

    def _check_that_no_fence_is_needless(self, world: World) -> None:
        """Rows of the fence that a transaction wrote must go with its rollback. (Needless ones would be safe.)"""
        kinds = {write.kind for writes in self.scenario.writers for write in writes}
        beforehand = "autocommit" in kinds or self.scenario.on_unreachable == "strict"
        if (
            world.database.fence
            and not beforehand
            and all(len(states) == 1 for states in world.database.history.values())
        ):
            raise Violation("needless", f"nothing was committed, but these are in the fence: {world.database.fence}")

    def _check_all_is_well_again(self, world: World) -> None:
        """Reads by the process that has read last.

        A tombstone that was interrupted between its commands stands as long as the item below it.
        """
        repository = self._auditor.repository
        world.passes(World.TICK)
        if world.database.fence or (repository.fence is not None and repository.fence.is_raised()):
            raise Violation("undelivered", f"at the end these are left in the fence: {world.database.fence}")
        if not self._is_served(world):
            world.passes(_LONGEST_MARKER)
            if not self._is_served(world):
                raise Violation("bypassed", "at the end the cache does not serve what it was given")

    def _is_served(self, world: World) -> bool:
        """True if every row is a hit when it is read again."""
        repository = self._auditor.repository
        ids = [id for id in world.database.history if id not in self.scenario.same_row]
        for id in ids:
            repository.get(id)
        before = repository.counters.hits.value
        for id in ids:
            repository.get(id)
        return repository.counters.hits.value == before + len(ids)

    def _audit(self, world: World, when: str) -> str | None:
        """Reads by a new process, which delivers the rows of the fence; returns the first wrong answer, in words."""
        auditor = self._auditor
        auditor.enter(world, looked=False)
        for id in world.database.history:
            found = auditor.repository.get(id)
            state = None if found is None else found.first_name
            if state != world.database.state(id):
                history, floor = world.database.history[id], world.database.acknowledged[id]
                said = f"{when} the cache says that {id} is {state}; in the database it is {history[-1]}"
                return said if state in history[floor:] else f"{said}, and {history[floor]} was acknowledged"
        return None


_LONGEST_MARKER = 30 * 24 * 3600 + 1
# Rows that were inserted before a commit are held longer than it takes.
_LONGEST_HOLD = TOMBSTONE_TTL + 3

_TTLS: Mapping[str, Any] = {
    "lease_ttl": LEASE_TTL,
    "tombstone_ttl": TOMBSTONE_TTL,
    "ttl": TTL,
    "wait": _WAIT,
    "breaker_failures": 1_000_000,
    "ttl_jitter": 0,
    "refresh_ahead": 0,
}


_HOME = Home("schedules", "main", lasts=True, folds=True)


def codec_of(repository: Any) -> Any:
    """The codec of a repository that has read before. Of a database in memory it may not last."""
    return (repository._reading or repository._provisional).codec


def _engine() -> sa.Engine:
    """An engine of the one database, whose identity has been read."""
    engine = sa.create_engine("sqlite://")
    database_of(engine).homes[None, Person.__tablename__] = _HOME
    return engine


class _Player:
    """The real objects of one process."""

    def __init__(self, mapping: EntityMapping[Any], backend: LeaseBackend) -> None:
        self.mapping = mapping
        self.backend = backend
        self._opened: dict[str, Any] = {}

    def enter(self, world: World, *, looked: bool | None = None) -> None:
        """Forgets the schedule before."""
        if isinstance(self.backend, _Memcached):
            self.backend.begin(looked)

    def connect(self, world: World, actor: Actor, servers: list[str]) -> None:
        """Opens its connections, or gives those of the schedule before new wires."""
        backend: Any = self.backend
        for name in servers:
            connection = self._opened.get(name)
            if connection is None:
                world.owner = actor
                self._opened[name] = backend._pool.connection(name, Budget(1.0))
                world.owner = None
                backend._pool._local.of(actor.at)[name] = backend._pool._local.of(None).pop(name)
                continue
            connection._client = connection._socket = Wire(world, actor, world.by_name[name])
            connection.state, connection._has_served = IDLE, True
            backend._pool._local.of(actor.at)[name] = connection


class _Reader(_Player):
    def __init__(self, mapping: EntityMapping[Any], backend: LeaseBackend) -> None:
        super().__init__(mapping, backend)
        self.engine = ReadEngine(mapping.names)
        database: Any = SimpleNamespace(
            mapping=mapping,
            loader=Loader(mapping, self.engine),
            on_hosts_connection=False,
            entity=Person,
            engine=(engine := _engine()),
            read_database=database_of(engine),
            read_engine=None,
        )
        self._waited = 0.0
        self.repository: CachedRepository[Any] = CachedRepository(
            database, _region_over(backend), sleep=self._sleep, clock=lambda: self._waited
        )

    def enter(self, world: World, *, looked: bool | None = None) -> None:
        super().enter(world, looked=looked)
        self._waited = 0.0
        self.engine.database = world.database
        self.engine.held = None

    def _sleep(self, seconds: float) -> None:
        self._waited += seconds

    def run(
        self, reads: tuple[tuple[str, ...], ...], before: Callable[[ReadEngine], None] | None, *, begins: bool
    ) -> Callable[[Actor], None]:
        """``begins``: the beginning of a read is a step of its own, in which it looks at the time."""
        repository = self.repository

        def run(actor: Actor) -> None:
            for ids in reads:
                actor.begin_read()
                if begins:
                    step("begins" if ids else "begins to deliver", lambda: None)
                if not ids:
                    repository.fence.deliver()
                    continue
                if before is not None:
                    before(self.engine)
                found = {ids[0]: repository.get(ids[0])} if len(ids) == 1 else repository.get_many(ids)
                states = {id: None if (entity := found.get(id)) is None else entity.first_name for id in ids}
                actor.end_read(states)

        return run


class _Writer(_Player):
    def __init__(self, mapping: EntityMapping[Any], backend: LeaseBackend) -> None:
        super().__init__(mapping, backend)
        self._engine: Any = _engine()
        dialect: Any = self._engine.dialect
        dialect.do_prepare_twophase = lambda connection, xid: connection.prepare()
        dialect.do_commit_twophase = lambda connection, xid, is_prepared, recover: connection.commit()
        coverage.cover_all(self._engine, [coverage.Part(mapping, backend)])
        self._covered = coverage._covered[dialect]
        (self._model,) = self._covered.models

    def run(self, writes: tuple[Write, ...]) -> Callable[[Actor], None]:
        def run(actor: Actor) -> None:
            for number, write in enumerate(writes):
                actor.forget()
                self._transaction(actor, write, number)

        return run

    def _transaction(self, actor: Actor, write: Write, number: int) -> None:
        """One transaction as SQLAlchemy makes it: its beginning, the record of the statement before it is sent, the
        statement, the wrapped functions of the dialect. In AUTOCOMMIT the tombstones stand around the statement.
        """
        dialect, kind = self._engine.dialect, write.kind
        connection: Any = FakeConnection(actor, actor.world.database, dialect, refuses=kind == "refused")
        dialect.do_begin(connection)
        pending = self._covered.pending_for(connection.info)
        self._model.record(pending, None if write.whole else [(id,) for id in write.changes])
        try:
            if kind == "autocommit":
                pending.place(None)
                connection.write_and_commit(write.changes)
                pending.finish()
            else:
                connection.write(write.changes)
                if kind == "rollback":
                    dialect.do_rollback(connection)
                    return
                self._commit(connection, write, number)
        except RefusedError:
            dialect.do_rollback(connection)
        except CacheUnavailableError:
            if actor.world.by_name and self.backend.settings.on_unreachable != "refuse":
                raise
            dialect.do_rollback(connection)
        else:
            connection.acknowledge()

    def _commit(self, connection: Any, write: Write, number: int) -> None:
        dialect = self._engine.dialect
        if write.kind == "twophase":
            dialect.do_prepare_twophase(connection, number)
            if write.pause:
                _sleep(write.pause)
            dialect.do_commit_twophase(connection, number)
        else:
            dialect.do_commit(connection)


class _Memcached(MemcachedBackend):
    """The real memcached backend of one process, and its real fence. ``looked``: see ``Scenario``."""

    def __init__(self, arguments: Mapping[str, Any], looked: bool) -> None:
        super().__init__(arguments)
        self._looked = looked
        self.staged_fence = _Fence(self)

    def begin(self, looked: bool | None = None) -> None:
        """Forgets the schedule before."""
        pool: Any = self._pool
        pool._local = _Local()
        pool._down = set()
        self.staged_fence.begin(self._looked if looked is None else looked)


class _Local:
    """The thread-local state, if threads are actors."""

    def __init__(self) -> None:
        self._of: dict[int | None, dict[str, Any]] = {}

    def of(self, at: int | None) -> dict[str, Any]:
        return self._of.setdefault(at, {})

    @property
    def connections(self) -> dict[str, Any]:
        actor = acting()
        return self.of(None if actor is None else actor.at)


class _Fence(Fence):
    """The real fence of one process, with the world's time. A wait is a step in which that time passes."""

    def __init__(self, backend: LeaseBackend) -> None:
        engine: Any = FenceEngine()
        super().__init__(
            backend, engine, clock=lambda: World.current.moment(self), wall=lambda: World.current.time(), sleep=_sleep
        )

    def _reset(self) -> None:
        super()._reset()
        self._lock: Any = _Lock(self)

    def begin(self, looked: bool) -> None:
        """Begins a process that knows of the table, and has polled it (``looked``) or not yet."""
        _Fence.__init__(self, self.backend)
        assert self._table is not None
        self._table.state = TableState.READABLE
        if looked:
            self._poll_due = World.current.clock.now + self._settings.fence_interval

    def shown(self) -> Hashable:
        """All of its state."""
        local = tuple(self._local.items()) if self._local else ()
        state = None if self._table is None else self._table.state
        return self._poll_due, self._view_began, self._polling_until, state, local, self._view


class _Lock:
    """The lock of a fence. No other actor runs while one holds it; entering it reads the fence."""

    def __init__(self, fence: _Fence) -> None:
        self._fence = fence

    def __enter__(self) -> None:
        World.current.moment(self._fence)

    def __exit__(self, *raised: object) -> None:
        pass


def _sleep(seconds: float) -> None:
    """Pauses. While another thread polls, the pause may end before the poll does, so no time need pass."""
    if seconds == fence._PAUSE:
        step("has waited for another's poll", lambda: None)
    else:
        step(f"waits {seconds} s", lambda: World.current.passes(seconds))


class _SteppedMemory(MemoryBackend):
    """The real memory backend, each of whose calls waits for its turn: under one lock they run whole.

    A hit runs without it, and reads one item at one moment.
    """

    def fetch(self, group: str, key: str, *, reject: bytes | None = None) -> Any:
        return step(f"fetch {key}", lambda: MemoryBackend.fetch(self, group, key, reject=reject))

    def fetch_many(self, group: str, keys: Any) -> Any:
        return step(f"fetch {', '.join(keys)}", lambda: MemoryBackend.fetch_many(self, group, keys))

    def fill(self, lease: Any, value: bytes) -> bool:
        return bool(step(f"fill {lease.key}", lambda: MemoryBackend.fill(self, lease, value)))

    def fill_many(self, fills: Any) -> Any:
        return step(f"fill {', '.join(lease.key for lease, _ in fills)}", lambda: MemoryBackend.fill_many(self, fills))

    def abandon(self, leases: Any) -> None:
        step("abandon", lambda: MemoryBackend.abandon(self, leases))

    def put_tombstones(self, keys: Any, groups: Any = ()) -> Any:
        names = ", ".join([*keys, *groups])
        return step(f"put tombstones on {names}", lambda: MemoryBackend.put_tombstones(self, keys, groups))

    def release(self, tombstones: Any) -> Any:
        names = ", ".join([*tombstones.keys, *tombstones.groups])
        return step(f"release {names}", lambda: MemoryBackend.release(self, tombstones))


def _region_over(backend: LeaseBackend) -> CacheRegion:
    region = make_region("memory://")
    region.backend = backend
    region.__dict__.pop("actual_backend", None)
    assert region.actual_backend is backend
    return region
