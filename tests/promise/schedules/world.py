"""What one schedule runs in: actors that stop before every step they share with others, and what a step does.

An actor is a coroutine (a greenlet) that runs real code. Wherever that code asks the cache or the database it is
parked, and its next step is one of the options the search chooses from: one command of one connection, one statement,
one call of a backend in memory. Nothing else happens between two choices, so the choices are the whole schedule.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import greenlet
from promise.schedules.wire import Clock, Command, FakeMemcached, commands_of

from person_repo.cache.memcached import backend as memcached
from person_repo.cache.memcached import connection as _meta
from person_repo.cache.memcached.items import BASE
from person_repo.fence import view as fence
from person_repo.reading import cached
from person_repo.writing import covered

if TYPE_CHECKING:
    from promise.schedules.database import FakeConnection, FakeDatabase

__all__ = ["Actor", "Choice", "Names", "Violation", "Wire", "World", "acting", "step", "without_a_network"]

Choice = tuple[str, int, Any]
"""What the search chooses: a kind of step or fault, whom it concerns, and what else there is to say."""


class ShownFence(Protocol):
    """The fence of a process, which tells all that it knows."""

    def shown(self) -> Hashable: ...


class Violation(Exception):
    """The promise is broken in this schedule."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class Operation(NamedTuple):
    """A step that an actor is parked before."""

    label: str
    act: Callable[[], Any]
    ready: Callable[[], bool] | None


class _Task(greenlet.greenlet):
    actor: Actor


class Actor:
    """One process (or, over a memory backend, one thread): a reader or a writer.

    ``seen`` numbers everything it was ever answered, in order. Its code is deterministic, so this number, and no look
    into its frames, tells where it is and what it knows. ``fence`` is its process's, ``acknowledged`` the places of the
    newest states whose commits have returned to this process: both are those of others who are threads of it.
    """

    __slots__ = (
        "acknowledged",
        "at",
        "connections",
        "fence",
        "floor",
        "name",
        "operations",
        "parked",
        "randoms",
        "reads_anew",
        "seen",
        "steps",
        "task",
        "wires",
        "world",
    )

    def __init__(self, world: World, at: int, name: str, run: Callable[[Actor], None]) -> None:
        self.world = world
        self.at = at
        self.name = name
        self.wires: list[Wire] = []
        self.connections: list[FakeConnection] = []
        self.seen = 0
        self.operations = 0
        self.steps = 0
        self.randoms = 0
        self.fence: ShownFence | None = None
        self.acknowledged: dict[str, int] = {}
        self.reads_anew = False
        self.floor: tuple[int, ...] = ()
        self.parked: Operation | Wire | None = None
        self.task = _Task(run)
        self.task.actor = self

    @property
    def over(self) -> bool:
        """Whether it has done everything, or was killed."""
        return self.parked is None

    def begin_read(self) -> None:
        """The read that follows starts with its first step."""
        self.reads_anew = True
        self.forget()

    def forget(self) -> None:
        """It is between two operations: all that it keeps are its connections and its fence. What it saw before counts
        no more.
        """
        wires = tuple([wire.incarnation if not wire.cut else 0 for wire in self.wires])
        fence = self.fence and self.fence.shown()
        self.seen = self.world.names(("between", self.at, self.operations, self.randoms, wires, fence))
        self.operations += 1

    def end_read(self, answers: Mapping[str, str | None]) -> None:
        """Checks what a read returned against all that was acknowledged before it started."""
        for (id, history), floor in zip(self.world.database.history.items(), self.floor, strict=True):
            if id not in answers:
                continue
            state = answers[id]
            if state in history[floor:]:
                continue
            if state in history:
                raise Violation(
                    "stale", f"{self.name} was told that {id} is {state}; {history[floor]} was acknowledged before"
                )
            raise Violation("phantom", f"{self.name} was told that {id} is {state}, which was never committed")


class Wire:
    """A connection to a server: what stands for pymemcache's client and for its socket.

    A request is not executed when it is sent: its commands are steps, each to be chosen, in their order.
    """

    __slots__ = ("actor", "at", "cut", "incarnation", "queue", "received", "server", "sock", "world")

    def __init__(self, world: World, actor: Actor | None, server: FakeMemcached) -> None:
        self.world = world
        self.actor = actor
        self.server = server
        self.incarnation = server.incarnation
        self.cut = False
        self.queue: deque[Command] = deque()
        self.received: list[bytes] = []
        self.sock = self
        self.at = 0
        if actor is not None:
            self.at = len(actor.wires)
            actor.wires.append(self)

    @property
    def broken(self) -> bool:
        return self.cut or self.incarnation != self.server.incarnation

    def sendall(self, request: bytes) -> None:
        if self.world.closed:
            raise greenlet.GreenletExit
        self.queue.extend(commands_of(request))

    def recv(self, _size: int) -> bytes:
        actor = self.actor
        if actor is None or greenlet.getcurrent() is not actor.task:
            while self.queue:
                self.received.append(self.server.execute(self.queue.popleft()))
        elif self.broken:
            actor.seen = self.world.names((actor.seen, "broken"))
        elif self.queue:
            self.world.hub.switch(self)
        if self.broken:
            raise ConnectionResetError("the server closed the connection")
        received = b"".join(self.received)
        self.received.clear()
        return received

    def settimeout(self, _seconds: float) -> None:
        pass

    def close(self) -> None:
        self.queue.clear()
        self.cut = True


class Names:
    """Small numbers for what is compared often; equal things have equal numbers, others never."""

    def __init__(self) -> None:
        self._numbers: dict[Hashable, int] = {}

    def __call__(self, thing: Hashable) -> int:
        return self._numbers.setdefault(thing, len(self._numbers) + 1)

    def __len__(self) -> int:
        return len(self._numbers)


class World:
    """Servers, database, clock and actors of one schedule.

    ``memory``: the one memory backend that all actors share, where there are no servers. ``names``: shared by all
    schedules of a search. ``ticks``: how often ``TICK`` seconds may pass between two steps. ``slow``: whether a look at
    the fence takes a second step, in which what it found comes. ``apart``: who may be cut off from a server. ``late``:
    whether a read may miss what others have acknowledged since time last passed.
    """

    current: World

    TICK = 1.06
    """Seconds: just longer than a process may go by what it last read of the fence."""

    def __init__(
        self,
        clock: Clock,
        servers: Mapping[str, FakeMemcached],
        database: FakeDatabase,
        names: Names,
        *,
        memory: Any = None,
        faults: int = 0,
        kinds: frozenset[str] = frozenset(),
        ticks: int = 0,
        slow: bool = False,
        apart: Sequence[str] = (),
        late: bool = False,
    ) -> None:
        self.clock = clock
        self.by_name = servers
        self.servers = list(servers.values())
        self.database = database
        self.names = names
        self.memory = memory
        self.faults = faults
        self.kinds = kinds
        self.ticks = ticks
        self.slow = slow
        self.apart = apart
        self.late = late
        self.settled = tuple(database.acknowledged.values())
        self.cut_off: set[tuple[int, int]] = set()
        # CAS ids are compared with each other and told apart by nothing else, so what they are called does not matter;
        # but those of a server that restarts may be equal to older ones.
        self.numbered = not kinds.isdisjoint({"restart", "stop"}) and faults > 0
        self.actors: list[Actor] = []
        self.hub = greenlet.getcurrent()
        self.closed = False
        self.last: Actor | None = None
        self.last_wire: Wire | None = None
        self.randoms = 0
        self.killed: list[Actor] = []
        self.robbed: set[tuple[str, int]] = set()
        self.owner: Actor | None = None
        self.log: list[str] | None = None
        self.objects: dict[int, tuple[Any, tuple[Actor, int, str]]] = {}
        World.current = self

    # Actors

    def add(self, name: str, run: Callable[[Actor], None]) -> Actor:
        """An actor that stands before its first step."""
        actor = Actor(self, len(self.actors), name, run)
        self.actors.append(actor)
        return actor

    def begin(self) -> None:
        """Lets every actor come to its first step."""
        for actor in self.actors:
            actor.parked = actor.task.switch(actor)

    def close(self) -> None:
        """Ends what is still parked, without a further step."""
        self.closed = True
        for actor in self.actors:
            if not actor.task.dead:
                actor.task.throw(greenlet.GreenletExit)

    @property
    def over(self) -> bool:
        """Whether no actor has anything left to do."""
        return all(actor.parked is None for actor in self.actors)

    # Choices

    def steps(self) -> list[Choice]:
        """What can happen next, faults aside: of the actor that went last first, then of the others."""
        found: list[Choice] = []
        last = self.last
        if last is not None:
            found += self.steps_of(last)
        for actor in self.actors:
            if actor is not last:
                found += self.steps_of(actor)
        if not all(server.running for server in self.servers):
            found += [("start", at, None) for at, server in enumerate(self.servers) if not server.running]
        if self.ticks:
            found.append(("tick", 0, None))
        if self.cut_off:
            found += [("heal", at, what) for at, what in sorted(self.cut_off) if self.actors[at].parked is not None]
        return found

    @staticmethod
    def steps_of(actor: Actor) -> list[Choice]:
        """What an actor can do next.

        Cases: nothing left; an operation that can go on, or waits for a lock; commands that are under way, on several
        connections maybe, and of these one to which the actor waits for an answer that will not come.
        """
        parked = actor.parked
        if parked is None:
            return []
        if parked.__class__ is Operation:
            return [("step", actor.at, None)] if parked.ready is None or parked.ready() else []
        found: list[Choice] = []
        for wire in actor.wires:
            if not wire.broken:
                if wire.queue:
                    found.append(("command", actor.at, wire.at))
            elif wire is parked:
                found.append(("reset", actor.at, wire.at))
        return found

    def fault_choices(self) -> list[Choice]:
        """Every fault that can happen now and makes a difference."""
        if not self.faults or not self.kinds:
            return []
        kinds = self.kinds
        found: list[Choice] = []
        if "crash" in kinds:
            found += [("crash", actor.at, None) for actor in self.actors if actor.parked is not None]
        if "cut" in kinds:
            for actor in self.actors:
                found += [
                    ("cut", actor.at, wire.at) for wire in actor.wires if wire is actor.parked and not wire.broken
                ]
        if "partition" in kinds:
            for actor in self.actors:
                if actor.parked is not None and actor.name in self.apart:
                    found += [
                        ("partition", actor.at, at)
                        for at in range(len(self.servers))
                        if (actor.at, at) not in self.cut_off
                    ]
        for at, server in enumerate(self.servers):
            if "evict" in kinds:
                found += [("evict", at, key) for key in server.live()]
            if "restart" in kinds and server.running:
                found.append(("restart", at, None))
            if "stop" in kinds and server.running:
                found.append(("stop", at, None))
        if self.memory is not None:
            if "evict" in kinds:
                found += [("evict", 0, key) for key in sorted({*self.memory._items, *self.memory._tombstones})]
            if "restart" in kinds:
                found.append(("restart", 0, None))
        if "expire" in kinds:
            found += [("expire", until, None) for until in self._ends()]
        return found

    def _ends(self) -> list[int]:
        """The seconds at which something that stands now will end."""
        now = self.clock.now
        if self.memory is not None:
            ends = {item.until for item in self.memory._items.values()}
            for standing in (*self.memory._tombstones.values(), *self.memory._group_tombstones.values()):
                ends.update(standing.owners.values())
        else:
            ends = {item.until for server in self.servers for item in server.items.values()}
        return sorted(end for end in ends if end > now)

    def switches(self, choice: Choice) -> bool:
        """Whether a choice takes the turn from an actor that could have gone on; or, of two servers that one actor has
        asked, from the one that could have answered on.
        """
        last = self.last
        if last is None or choice[0] not in ("step", "command", "reset"):
            return False
        if choice[1] != last.at:
            return bool(self.steps_of(last))
        wire = self.last_wire
        return wire is not None and choice[2] != wire.at and bool(wire.queue) and not wire.broken

    # What a choice does

    def take(self, choice: Choice) -> None:
        """Makes the next step."""
        kind, at, what = choice
        if kind == "step":
            actor = self.actors[at]
            self._turn_of(actor)
            operation = actor.parked
            assert isinstance(operation, Operation)
            self._operate(actor, operation)
        elif kind == "command":
            self._execute(self.actors[at], self.actors[at].wires[what])
        elif kind == "reset":
            actor = self.actors[at]
            self._turn_of(actor)
            self._log(actor.name, "finds its connection closed", "")
            actor.seen = self.names((actor.seen, "reset"))
            actor.parked = actor.task.switch()
        else:
            self._fail(kind, at, what)

    def _turn_of(self, actor: Actor) -> None:
        self.last = actor
        self.last_wire = None
        actor.steps += 1
        if actor.reads_anew:
            actor.reads_anew = False
            actor.floor = self._floor_of(actor)

    def _floor_of(self, actor: Actor) -> tuple[int, ...]:
        """The oldest states that a read which begins now may return."""
        acknowledged = self.database.acknowledged
        if not self.late:
            return tuple(acknowledged.values())
        own = actor.acknowledged
        return tuple([max(floor, own.get(id, 0)) for id, floor in zip(acknowledged, self.settled, strict=True)])

    def passes(self, seconds: float) -> None:
        """Time passes for everybody."""
        self.clock.now += seconds
        if seconds >= self.TICK:
            self.settled = tuple(self.database.acknowledged.values())

    def _operate(self, actor: Actor, operation: Operation) -> None:
        try:
            result = operation.act()
        except Exception as exc:
            actor.seen = self.names((actor.seen, type(exc)))
            self._log(actor.name, operation.label, f"raises {type(exc).__name__}")
            actor.parked = actor.task.throw(exc)
            return
        told = self._told(actor, result)
        actor.seen = self.names((actor.seen, told))
        if self.log is not None:
            self._log(actor.name, operation.label, self._shown(told))
        actor.parked = actor.task.switch(result)

    def _execute(self, actor: Actor, wire: Wire) -> None:
        self._turn_of(actor)
        self.last_wire = wire
        command = wire.queue.popleft()
        server = wire.server
        server.maker = actor.seen
        reply = server.execute(command)
        wire.received.append(reply)
        if self.numbered or server.told is None:
            actor.seen = self.names((actor.seen, wire.at, reply))
        else:
            told = server.told
            named = reply.replace(b" c%d" % told.cas, b" c", 1)
            actor.seen = self.names((actor.seen, wire.at, named, told.made))
        if self.log is not None:
            self._log(actor.name, command.text, _meaning(self, command, reply))
        if not wire.queue and wire is actor.parked:
            actor.parked = actor.task.switch()

    def _told(self, actor: Actor, result: Any) -> Hashable:
        """What an actor was answered, as something that is equal wherever the actor could not tell the difference."""
        if result is None or isinstance(result, (bytes, str, bool, int, tuple)):
            return result
        if isinstance(result, list):
            return tuple([self._told(actor, part) for part in result])
        if self.memory is not None:
            return self._named(actor, result)
        return "an object"

    def _named(self, actor: Actor, thing: Any) -> Hashable:
        """The name of an object of the memory backend whose identity counts: who got it, and when."""
        placed = getattr(thing, "placed", None)
        if placed is not None:
            thing = placed
        elif not hasattr(thing, "epoch"):
            return str(thing)
        known = self.objects.get(id(thing))
        if known is None:  # kept, so that no other object gets its id
            name = (actor, actor.steps, getattr(thing, "key", "tombstone"))
            known = self.objects[id(thing)] = (thing, name)
        return self._name(known)

    @staticmethod
    def _name(known: tuple[Any, tuple[Actor, int, str]]) -> Hashable:
        actor, steps, key = known[1]
        return actor.at, steps, key

    # Faults

    def _fail(self, kind: str, at: int, what: Any) -> None:
        if kind == "start":
            self.servers[at].running = True
            self._log("fault", "the server starts", "")
            return
        if kind == "heal":
            self.cut_off.discard((at, what))
            self._log("fault", f"{self.actors[at].name} reaches {self._called(what)} again", "")
            return
        if kind == "tick":
            self.ticks -= 1
            self.passes(self.TICK)
            self._log("", f"{self.TICK} s pass", "")
            return
        self.faults -= 1
        if kind == "partition":
            self.cut_off_from(self.actors[at], what)
        elif kind == "crash":
            actor = self.actors[at]
            self._log("fault", f"{actor.name} is killed", "")
            self.killed.append(actor)
            actor.parked = None
            for connection in actor.connections:
                connection.die()
            actor.seen = self.names((actor.seen, "dead"))
        elif kind == "cut":
            actor = self.actors[at]
            self._log("fault", f"a connection of {actor.name} breaks", "")
            actor.wires[what].cut = True
            actor.seen = self.names((actor.seen, "cut", what))
        elif kind == "evict":
            self._evict(at, what)
        elif kind == "expire":
            self._expire(at)
        else:
            self._restart(kind, at)

    def cut_off_from(self, actor: Actor, at: int) -> None:
        """From here on this actor alone does not reach the server."""
        self._log("fault", f"{actor.name} is cut off from {self._called(at)}", "")
        self.cut_off.add((actor.at, at))
        for wire in actor.wires:
            if wire.server is self.servers[at]:
                wire.cut = True
        actor.seen = self.names((actor.seen, "cut off", at))

    def _called(self, at: int) -> str:
        return "the server" if len(self.servers) == 1 else f"server {list(self.by_name)[at]}"

    def _evict(self, at: int, key: Any) -> None:
        if self.memory is not None:
            self._log("fault", f"the cache forgets {key}", "")
            self._rob_tombstones(self.memory._tombstones.get(key))
            self.memory.evict(key)
            return
        self._log("fault", f"the server evicts {key.decode()}", "")
        self._rob([self.servers[at].items.pop(key)])

    def _expire(self, until: int) -> None:
        self._log("fault", f"{until - self.clock.now} s pass", "")
        self.passes(until - self.clock.now)
        if self.memory is not None:
            for standing in (*self.memory._tombstones.values(), *self.memory._group_tombstones.values()):
                self._rob_tombstones(standing, until)
            return
        for server in self.servers:
            self._rob([item for item in server.items.values() if item.until and item.until <= until])

    def _restart(self, kind: str, at: int) -> None:
        self._log("fault", "the server stops" if kind == "stop" else "the server restarts", "")
        if self.memory is not None:
            for standing in (*self.memory._tombstones.values(), *self.memory._group_tombstones.values()):
                self._rob_tombstones(standing)
            self.memory.clear()
            return
        server = self.servers[at]
        self._rob(server.items.values())
        server.restart()
        server.running = kind == "restart"

    def _rob(self, items: Any) -> None:
        """Notes whose tombstones a fault takes away; ``random`` has marked them."""
        for item in items:
            for actor in self.actors:
                if b"<%d." % actor.at in item.body:
                    self._rob_writer(actor)

    def _rob_tombstones(self, standing: Any, until: float = float("inf")) -> None:
        if standing is not None:
            for owner, end in standing.owners.items():
                if end <= until:
                    self._rob_writer(self.objects[id(owner)][1][0])

    def _rob_writer(self, actor: Actor) -> None:
        """After COMMIT a tombstone only spares readers the cache; before, it keeps the old state out of it."""
        connections = actor.connections
        if connections and not connections[-1].committed:
            self.robbed.add((actor.name, len(connections)))

    def stuck(self) -> bool:
        """Whether both faults met in one commit that together leave an old entry: a tombstone lost before COMMIT, and
        its writer killed after it.
        """
        return any(
            actor.connections
            and actor.connections[-1].committed
            and (actor.name, len(actor.connections)) in self.robbed
            for actor in self.killed
        )

    # What tells one state from another

    def fingerprint(self) -> Hashable:
        """All that the rest of the schedule, and the check of it, depends on."""
        names = self.names
        if self.memory is not None:
            cache: Hashable = self._memory_fingerprint()
        else:
            cache = tuple([self._server_fingerprint(server) for server in self.servers])
        return (
            names(cache),
            names((self.database.fingerprint(), self.clock.now, self.faults, frozenset(self.robbed))),
            self._late_fingerprint(),
            *[self._actor_fingerprint(actor) for actor in self.actors],
        )

    def _late_fingerprint(self) -> Hashable:
        if not self.late and not self.ticks and not self.cut_off:
            return 0
        own = tuple([tuple(actor.acknowledged.items()) for actor in self.actors])
        return self.names((self.settled, own, self.ticks, frozenset(self.cut_off)))

    def _server_fingerprint(self, server: FakeMemcached) -> Hashable:
        items = server.live().items()
        if self.numbered:
            found = frozenset([(key, item[:5]) for key, item in items])
            return server.incarnation, server.running, server.last_cas, found
        return frozenset([(key, item.flags, item.body, item.until, item.won, item.made) for key, item in items])

    def _actor_fingerprint(self, actor: Actor) -> int:
        if actor.parked is None:
            killed = actor in self.killed
            owed = tuple([c.committed for c in actor.connections]) if killed else ()
            return -1 if not killed else -2 - self.names(("killed", owed))
        fence = actor.fence and actor.fence.shown()
        return self.names((actor.seen, None if actor.reads_anew else actor.floor, fence))

    def _memory_fingerprint(self) -> Hashable:
        memory = self.memory
        objects = self.objects
        items = []
        for key, item in memory._items.items():
            known = objects.get(id(item))
            items.append((key, item.epoch, item.until, item.body if known is None else self._name(known)))
        stones = []
        for place in (memory._tombstones, memory._group_tombstones):
            for name, found in place.items():
                owners = frozenset([(self._name(objects[id(owner)]), end) for owner, end in found.owners.items()])
                stones.append((name, owners))
        return frozenset(items), frozenset(stones), tuple(memory._epochs.items())

    # The log

    def state_in(self, value: bytes) -> str:
        """The state of a row that a value holds, in words."""
        states = {state for history in self.database.history.values() for state in history if state}
        return next((state for state in sorted(states) if state.encode() in value), "nobody")

    def _shown(self, told: Hashable) -> str:
        if told is None:
            return ""
        if isinstance(told, bytes):
            return f"the value {self.state_in(told)}"
        if isinstance(told, tuple):
            if len(told) == 3 and isinstance(told[0], int):
                return "a lease" if told[2] != "tombstone" else ""
            if told and isinstance(told[0], tuple) and len(told[0]) == 2:
                return ", ".join(f"{id} = {state}" for id, state in told)
            return ", ".join(self._shown(part) for part in told)
        return str(told)

    def _log(self, who: str, what: str, outcome: str) -> None:
        if self.log is not None:
            said = f"{who:<9} {what}{'  ->  ' + outcome if outcome else ''}"
            self.log.append(said.replace("pr:person_repo:", ""))

    def connect(self, name: str) -> Wire:
        """A new connection of the actor that asks. Raises ``ConnectionRefusedError`` where nobody listens."""
        task = greenlet.getcurrent()
        actor = task.actor if isinstance(task, _Task) else self.owner
        server = self.by_name[name]
        at = self.servers.index(server)
        reached = step(
            "connects", lambda: server.incarnation if server.running and not self._is_cut_off(actor, at) else 0
        )
        if not reached:
            raise ConnectionRefusedError("nobody listens")
        return Wire(self, actor, server)

    def _is_cut_off(self, actor: Actor | None, at: int) -> bool:
        return actor is not None and (actor.at, at) in self.cut_off

    def moment(self, fence: ShownFence) -> float:
        """The time by a fence's clock; whoever asks for it looks at the fence."""
        task = greenlet.getcurrent()
        if isinstance(task, _Task):
            task.actor.seen = self.names((task.actor.seen, self.clock.now, fence.shown()))
        return self.clock.now

    def time(self) -> float:
        """The second, by the clock on the wall of whoever asks."""
        task = greenlet.getcurrent()
        if isinstance(task, _Task):
            task.actor.seen = self.names((task.actor.seen, "time", self.clock.now))
        return self.clock.now

    def random(self, size: int) -> bytes:
        """Bytes that tell who drew them; no two draws of a schedule are equal."""
        task = greenlet.getcurrent()
        if isinstance(task, _Task):
            task.actor.randoms += 1
            drawn = b"<%d.%d>" % (task.actor.at, task.actor.randoms)
        else:
            self.randoms += 1
            drawn = b"(%d)" % self.randoms
        return drawn.ljust(size, b"_")


def step(label: str, act: Callable[[], Any], ready: Callable[[], bool] | None = None) -> Any:
    """Parks the actor that calls until the search chooses it, does ``act`` and returns what it returned.

    Outside of actors (what a schedule starts from, the reads after its end) it happens at once.
    """
    task = greenlet.getcurrent()
    if not isinstance(task, _Task):
        return act()
    world = task.actor.world
    if world.closed:
        raise greenlet.GreenletExit
    return world.hub.switch(Operation(label, act, ready))


def _fence_of(_engine: Any, backend: Any, _reader: Any = None) -> Any:
    """A process has one backend, and that its fence."""
    return getattr(backend, "staged_fence", None)


def acting() -> Actor | None:
    """Whose code runs; nobody's outside of actors."""
    task = greenlet.getcurrent()
    return task.actor if isinstance(task, _Task) else None


@contextmanager
def without_a_network() -> Iterator[None]:
    """Backends made and used in this block reach the servers of the current world, whose clock they go by."""

    def connected(server: str, *_: Any) -> Wire:
        return World.current.connect(server)

    clock: Any = SimpleNamespace(monotonic=lambda: 0.0, time=lambda: World.current.time())
    randoms: Any = SimpleNamespace(urandom=lambda size: World.current.random(size))
    places: Sequence[tuple[Any, str, Any]] = (
        (_meta, "_connected", connected),
        (_meta, "time", clock),
        (memcached, "time", clock),
        (memcached, "os", randoms),
        (cached, "fence_of", _fence_of),
        (covered, "fence_of", _fence_of),
        (fence, "_PAUSE", fence._PATIENCE),
    )
    before = [getattr(module, name) for module, name, _ in places]
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    for module, name, fake in places:
        setattr(module, name, fake)
    try:
        yield
    finally:
        for (module, name, _), real in zip(places, before, strict=True):
            setattr(module, name, real)
        logging.disable(disabled)


def _meaning(world: World, command: Command, reply: bytes) -> str:
    """A reply's line, and what it means where that is not plain."""
    line, _, rest = reply.partition(b"\r\n")
    words = line.split()
    text = line.decode()
    if words and words[0] == b"VALUE":
        words = [b"VA", words[3], b"f" + words[2]]
    flags = next((int(word[1:]) for word in words[1:] if word[:1] == b"f"), None)
    if command.verb not in (b"mg", b"get") or flags is None:
        return text
    size = int(words[1]) if words[0] == b"VA" else next(int(word[1:]) for word in words if word[:1] == b"s")
    if size == 0 and flags == 0:
        return f"{text} (a lease, {'taken' if b'W' in words else 'of another'})"
    if flags - size != BASE:
        return f"{text} (a tombstone)"
    return f"{text} ({'an epoch' if command.key.endswith(b'!') else world.state_in(rest)})"
