"""Actors, which stop before every step they share with others, and their connections.

An actor is a coroutine (a greenlet) that runs real code. It is parked at each of that code's calls to the cache or the
database; the call is its next step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import greenlet
from promise.schedules.wire import Command, FakeMemcached, commands_of

if TYPE_CHECKING:
    from promise.schedules.database import FakeConnection
    from promise.schedules.world import World

__all__ = ["Actor", "Choice", "Names", "Operation", "ShownFence", "Task", "Violation", "Wire", "acting", "step"]

Choice = tuple[str, int, Any]
"""A step or fault for the search to choose: its kind, the number of an actor or server, and a detail."""


class ShownFence(Protocol):
    """The fence of a process, with all that it knows on show."""

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


class Task(greenlet.greenlet):
    actor: Actor


class Actor:
    """One process (or, over a memory backend, one thread): a reader or a writer.

    ``seen`` numbers all answers that it got, in order. Its code is deterministic, so this number stands for its place
    in the code and its knowledge; its frames need not be examined. ``fence`` is its process's, ``acknowledged`` the
    places of the newest states whose commits have returned to this process: actors that are its threads share both.
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
        self.task = Task(run)
        self.task.actor = self

    @property
    def over(self) -> bool:
        """True if it has done everything, or was killed."""
        return self.parked is None

    def begin_read(self) -> None:
        """The read that follows starts with its first step."""
        self.reads_anew = True
        self.forget()

    def forget(self) -> None:
        """Ends an operation: it keeps its connections and its fence, and forgets the answers that it got."""
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
                    "stale", f"{self.name} read that {id} is {state}; {history[floor]} was acknowledged before"
                )
            raise Violation("phantom", f"{self.name} read that {id} is {state}, which was never committed")


class Wire:
    """A connection to a server, in the place of pymemcache's client and of its socket.

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
    """Small numbers for things that are compared often: equal numbers for equal things, and for no others."""

    def __init__(self) -> None:
        self._numbers: dict[Hashable, int] = {}

    def __call__(self, thing: Hashable) -> int:
        return self._numbers.setdefault(thing, len(self._numbers) + 1)

    def __len__(self) -> int:
        return len(self._numbers)


def step(label: str, act: Callable[[], Any], ready: Callable[[], bool] | None = None) -> Any:
    """Parks the calling actor until the search chooses it, calls ``act`` and returns its result.

    Outside of actors, as while a scenario is prepared and in the reads after its end, it calls ``act`` at once.
    """
    task = greenlet.getcurrent()
    if not isinstance(task, Task):
        return act()
    world = task.actor.world
    if world.closed:
        raise greenlet.GreenletExit
    return world.hub.switch(Operation(label, act, ready))


def acting() -> Actor | None:
    """The actor whose code runs; None outside of actors."""
    task = greenlet.getcurrent()
    return task.actor if isinstance(task, Task) else None
