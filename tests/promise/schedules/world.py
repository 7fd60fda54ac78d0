"""The world of one schedule: servers, database, clock and actors, the choices of the search, and their effects.

A choice is one command of one connection, one statement, one call of a backend in memory, or a fault. Nothing else
happens between two choices, so the choices are the whole schedule.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import greenlet
from promise.schedules.actors import Actor, Choice, Names, Operation, ShownFence, Task, Wire, step
from promise.schedules.wire import Clock, FakeMemcached
from promise.schedules.words import meaning, shown

if TYPE_CHECKING:
    from promise.schedules.database import FakeDatabase

__all__ = ["World"]


class World:
    """Servers, database, clock and actors of one schedule.

    ``memory``: the one memory backend that all actors share if there are no servers. ``names``: shared by all schedules
    of a search. ``ticks``: how often ``TICK`` seconds may pass between two steps. ``slow``: a poll of the fence takes a
    second step, in which its rows arrive. ``apart``: the actors that may be cut off from a server. ``late``: a read may
    miss commits of others that were acknowledged since time last passed.
    """

    current: World

    TICK = 1.06
    """Seconds: just longer than a process may rely on its last poll of the fence."""

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
        # CAS ids are only compared with each other, so any names will do for them. But those of a server that restarts
        # may be equal to older ones.
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
        """Adds an actor that stands before its first step."""
        actor = Actor(self, len(self.actors), name, run)
        self.actors.append(actor)
        return actor

    def begin(self) -> None:
        """Lets every actor come to its first step."""
        for actor in self.actors:
            actor.parked = actor.task.switch(actor)

    def close(self) -> None:
        """Ends the actors that are still parked, without a further step."""
        self.closed = True
        for actor in self.actors:
            if not actor.task.dead:
                actor.task.throw(greenlet.GreenletExit)

    @property
    def over(self) -> bool:
        """True if no actor has anything left to do."""
        return all(actor.parked is None for actor in self.actors)

    # Choices

    def steps(self) -> list[Choice]:
        """The next steps, without faults: those of the actor that went last, then those of the others."""
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
        """The next steps of an actor.

        Cases: none is left; an operation that can go on, or waits for a lock; commands under way, on one connection or
        several; a broken connection on which the actor waits for an answer.
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
        """The faults that can happen now and make a difference."""
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
        """The seconds at which an item, or a tombstone, will expire."""
        now = self.clock.now
        if self.memory is not None:
            ends = {item.until for item in self.memory._items.values()}
            for standing in (*self.memory._tombstones.values(), *self.memory._group_tombstones.values()):
                ends.update(standing.owners.values())
        else:
            ends = {item.until for server in self.servers for item in server.items.values()}
        return sorted(end for end in ends if end > now)

    def switches(self, choice: Choice) -> bool:
        """True if a choice takes the turn from an actor that could have gone on; or, of two servers that one actor has
        asked, from the one that could have gone on answering.
        """
        last = self.last
        if last is None or choice[0] not in ("step", "command", "reset"):
            return False
        if choice[1] != last.at:
            return bool(self.steps_of(last))
        wire = self.last_wire
        return wire is not None and choice[2] != wire.at and bool(wire.queue) and not wire.broken

    # The effect of a choice

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
        answer = self._answer(actor, result)
        actor.seen = self.names((actor.seen, answer))
        if self.log is not None:
            self._log(actor.name, operation.label, shown(self, answer))
        actor.parked = actor.task.switch(result)

    def _execute(self, actor: Actor, wire: Wire) -> None:
        self._turn_of(actor)
        self.last_wire = wire
        command = wire.queue.popleft()
        server = wire.server
        server.maker = actor.seen
        reply = server.execute(command)
        wire.received.append(reply)
        if self.numbered or server.shown is None:
            actor.seen = self.names((actor.seen, wire.at, reply))
        else:
            item = server.shown
            named = reply.replace(b" c%d" % item.cas, b" c", 1)
            actor.seen = self.names((actor.seen, wire.at, named, item.made))
        if self.log is not None:
            self._log(actor.name, command.text, meaning(self, command, reply))
        if not wire.queue and wire is actor.parked:
            actor.parked = actor.task.switch()

    def _answer(self, actor: Actor, result: Any) -> Hashable:
        """The answer to an actor, as something that is equal for all answers that an actor cannot distinguish."""
        if result is None or isinstance(result, (bytes, str, bool, int, tuple)):
            return result
        if isinstance(result, list):
            return tuple([self._answer(actor, part) for part in result])
        if self.memory is not None:
            return self._named(actor, result)
        return "an object"

    def _named(self, actor: Actor, thing: Any) -> Hashable:
        """The name of an object of the memory backend whose identity counts: the actor that got it, and when."""
        placed = getattr(thing, "placed", None)
        if placed is not None:
            thing = placed
        elif not hasattr(thing, "epoch"):
            return str(thing)
        known = self.objects.get(id(thing))
        if known is None:  # kept, so that no other object gets its id
            name = (actor, actor.steps, getattr(thing, "key", "tombstone"))
            known = self.objects[id(thing)] = (thing, name)
        return self.name_of(known)

    @staticmethod
    def name_of(known: tuple[Any, tuple[Actor, int, str]]) -> Hashable:
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
        """Cuts one actor off from a server that the others reach."""
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
        """Notes the writers whose tombstones a fault takes away; ``random`` has marked them."""
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
        """Only a tombstone lost before COMMIT counts: it keeps the old state out of the cache."""
        connections = actor.connections
        if connections and not connections[-1].committed:
            self.robbed.add((actor.name, len(connections)))

    def stuck(self) -> bool:
        """True if the two faults that leave an old entry met in one commit: a tombstone was lost before COMMIT, and its
        writer was killed after it.
        """
        return any(
            actor.connections
            and actor.connections[-1].committed
            and (actor.name, len(actor.connections)) in self.robbed
            for actor in self.killed
        )

    # The log

    def state_in(self, value: bytes) -> str:
        """The state of a row that a value holds, in words."""
        states = {state for history in self.database.history.values() for state in history if state}
        return next((state for state in sorted(states) if state.encode() in value), "nobody")

    def _log(self, who: str, what: str, outcome: str) -> None:
        if self.log is not None:
            said = f"{who:<9} {what}{'  ->  ' + outcome if outcome else ''}"
            self.log.append(said.replace("pr:person_repo:", ""))

    def connect(self, name: str) -> Wire:
        """A new connection of the actor that runs. Raises ``ConnectionRefusedError`` if it is down or cut off."""
        task = greenlet.getcurrent()
        actor = task.actor if isinstance(task, Task) else self.owner
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
        """The time on a fence's clock. Asking for it reads the fence."""
        task = greenlet.getcurrent()
        if isinstance(task, Task):
            task.actor.seen = self.names((task.actor.seen, self.clock.now, fence.shown()))
        return self.clock.now

    def time(self) -> float:
        """The second, on the wall clock."""
        task = greenlet.getcurrent()
        if isinstance(task, Task):
            task.actor.seen = self.names((task.actor.seen, "time", self.clock.now))
        return self.clock.now

    def random(self, size: int) -> bytes:
        """Bytes that name the actor that drew them; no two draws of a schedule are equal."""
        task = greenlet.getcurrent()
        if isinstance(task, Task):
            task.actor.randoms += 1
            drawn = b"<%d.%d>" % (task.actor.at, task.actor.randoms)
        else:
            self.randoms += 1
            drawn = b"(%d)" % self.randoms
        return drawn.ljust(size, b"_")
