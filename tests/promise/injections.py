"""Exceptions of the host's within commits and reads, in a process of its own: ``python -m promise.injections PLAN``.

``PLAN`` is JSON: the URLs of an empty database and of a cache, an operation's name, the name of the exception, how it
is sent, how often (null: at each call), and a seed. It arrives at the caller; either nothing was committed, or no read
after it is stale. The last line of the output is JSON: how many calls the operation makes, at how many of them an
exception was sent, how many of them arrived, and what was wrong.

``traced`` raises at the beginnings and ends of the calls that our code makes, found by a profile function; such a
function that raises has crashed Python 3.11.7 once in some thousand times, hence the process. ``signal`` and ``thread``
(``PyThreadState_SetAsyncExc``) raise at any moment, within the libraries, too.
"""

from __future__ import annotations

import ctypes
import gc
import inspect
import json
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import sqlalchemy as sa
from support.interruptions import IDS, TimeLimit, Timeout, World, came_of, text, two_phases, unit_of_work
from support.partitions import cut_off, heal

import person_repo
from person_repo.model import Person

PACKAGE = str(Path(person_repo.__file__).parent)
INTERVAL = 0.02
KINDS: dict[str, type[BaseException]] = {kind.__name__: kind for kind in (TimeLimit, Timeout)}


def is_ours(frame: FrameType | None) -> bool:
    return frame is not None and frame.f_code.co_filename.startswith(PACKAGE)


_FINALIZERS = {"__del__", "forget", "_cleanup", "_finalize_fairy"}
"""Python prints and drops their exceptions, or SQLAlchemy does: of an object, a weak reference, a pool's connection."""


def is_finalizer(frame: FrameType | None) -> bool:
    """True below a finalizer, and where a generator may be closed."""
    if frame and frame.f_code.co_flags & inspect.CO_GENERATOR:
        return True
    while frame is not None:
        if frame.f_code.co_name in _FINALIZERS:
            return True
        frame = frame.f_back
    return False


_NEVER_BEFORE = {"__enter__", "__exit__", "release"}
"""Of a lock. Python looks for signals after a call: none comes between the end of a block and the lock's release."""


class Injection:
    """Raises an exception at the n-th beginning or end of a call that our code makes; at none for 0."""

    def __init__(self, at: int, kind: type[BaseException]) -> None:
        self.at = at
        self.kind = kind
        self.calls = 0
        self.where = ""

    def _hook(self, frame: FrameType, event: str, arg: Any) -> None:
        caller = frame if event.startswith("c_") else frame.f_back
        if self.where or not is_ours(caller):
            return
        if event == "c_call" and arg.__name__ in _NEVER_BEFORE:
            return
        self.calls += 1
        if self.calls >= self.at > 0 and not is_finalizer(frame):
            assert caller is not None
            self.where = f"{event} of {frame.f_code.co_name} in {caller.f_code.co_filename}:{caller.f_lineno}"
            raise self.kind(self.where)

    def __str__(self) -> str:
        return self.where

    @contextmanager
    def under_way(self) -> Iterator[None]:
        before = sys.getprofile()
        sys.setprofile(self._hook)
        try:
            yield
        finally:
            sys.setprofile(before)


@contextmanager
def by_signal(after: float, kind: type[BaseException]) -> Iterator[None]:
    """Raises it in the block once so many seconds are over, wherever Python then is."""

    def handler(_number: int, frame: FrameType | None) -> None:
        if not is_finalizer(frame):
            raise kind("signal")

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, after)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def by_another_thread(after: float, kind: type[BaseException]) -> Iterator[None]:
    """The same from a thread, as debuggers and time limits in threads do."""
    caller, is_over = threading.get_ident(), threading.Event()

    def send() -> None:
        if not is_over.wait(after):
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(caller), ctypes.py_object(kind))

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    try:
        yield
    finally:
        is_over.set()
        sender.join()
        # What was sent and has not come yet is taken back.
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(caller), None)


AT_ANY_MOMENT: dict[str, Callable[[float, type[BaseException]], AbstractContextManager[None]]] = {
    "signal": by_signal,
    "thread": by_another_thread,
}


# What is interrupted


def autocommit(world: World, number: int) -> None:
    with world.people.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.update(Person).where(Person.id == "ada").values(first_name=str(number)))


def add_and_delete(world: World, number: int) -> None:
    with world.sessions() as session, session.begin():
        session.add(Person(id="eve", first_name=str(number), last_name="eve"))
    world.people.delete("eve")


def update(world: World, number: int) -> None:
    world.people.update("ada", first_name=str(number))


def by_criteria(world: World, number: int) -> None:
    """The statement's keys are asked of the database, or the class is dropped."""
    with world.people.engine.begin() as connection:
        connection.execute(sa.update(Person).where(Person.last_name == "bob").values(first_name=str(number)))


def get(world: World, number: int) -> None:
    world.people.get("ada")
    world.people.get("eve")


def get_many(world: World, number: int) -> None:
    world.people.get_many(IDS)


OPERATIONS: dict[str, Callable[[World, int], None]] = {
    each.__name__: each
    for each in (unit_of_work, autocommit, text, add_and_delete, update, by_criteria, two_phases, get, get_many)
}
CUT_OFF = ("unit_of_work", "autocommit")
"""Those that are tried by a process that reaches no cache server, too."""


class Trial:
    """One operation, interrupted again and again."""

    def __init__(self, world: World, plan: dict[str, Any]) -> None:
        self.world = world
        self.operation = OPERATIONS[plan["operation"]]
        self.kind = KINDS[plan["kind"]]
        self.is_cut_off: bool = plan["cut_off"]
        self.draw = random.Random(plan["seed"])
        self.times: int | None = plan["times"]
        self.number = 0
        self.calls = self.sent = self.arrived = 0
        self._before: dict[str, str] = {}

    def prepare(self) -> None:
        """Half of the operations find a change by another process."""
        self.number += 1
        if self.is_cut_off:
            heal(self.world.people)
            self.world.people.deliver()
            self.world.warm()
            self._before = self.world.committed()
            cut_off(self.world.people)
            return
        self.world.reader.delete("eve")
        self.world.warm()
        if self.number % 2:
            self.world.reader.update("ada", first_name=f"other {self.number}")

    def check(self, where: str) -> None:
        """No read is stale: where the cache could not be told, the fence tells, or nothing was committed."""
        gc.collect(1)  # A cursor that was interrupted holds its lock on SQLite as long as it is referred to.
        self.world.end_prepared(commit=bool(self.number % 2))
        if self.is_cut_off and self.world.committed() != self._before:
            time.sleep(INTERVAL + 0.06)  # An overdue view is used for 50 ms more while another thread polls.
        self.world.check(where)

    def traced(self) -> None:
        """At calls, all of them or as many as are wanted."""
        self.prepare()
        counting = Injection(0, self.kind)
        with counting.under_way():
            self.operation(self.world, self.number)
        self.check("without any")
        self.calls = counting.calls
        wanted = self.calls if self.times is None else min(self.times, self.calls)
        for at in sorted(self.draw.sample(range(1, self.calls + 1), wanted)):
            # Where only calls of finalizers are left, an earlier one is taken.
            while not self._is_sent(at):
                at //= 2

    def _is_sent(self, at: int) -> bool:
        """Interrupts the n-th call, or the next one that may be; False if there is none."""
        self.prepare()
        injection = Injection(at, self.kind)
        arrived = self._interrupted(injection.under_way(), injection)
        self.sent += bool(injection.where)
        assert arrived or not injection.where, f"swallowed: {injection.where}"
        self.check(injection.where)
        return bool(injection.where)

    def at_any_moment(self, sender: Callable[[float, type[BaseException]], AbstractContextManager[None]]) -> None:
        """At moments within twice the time that the operation takes."""
        self.prepare()
        began = time.perf_counter()
        self.operation(self.world, self.number)
        seconds = time.perf_counter() - began
        self.check("without any")
        for _ in range(self.times or 1000):
            self.prepare()
            after = self.draw.uniform(1e-6, 2 * seconds)
            self.sent += 1
            moment = f"after {after * 1e6:.0f} us"
            self._interrupted(sender(after, self.kind), moment)
            self.check(moment)

    def _interrupted(self, block: AbstractContextManager[None], where: object) -> bool:
        try:
            with block:
                self.operation(self.world, self.number)
        except BaseException as exc:
            if not came_of(exc, self.kind):
                raise AssertionError(f"{exc!r}: {where}") from exc
            self.arrived += 1
            return True
        return False


def main(argument: str) -> None:
    """Runs a plan and prints what was found."""
    plan = json.loads(argument)
    world = World(plan["database"], plan["cache"])
    trial = Trial(world, plan)
    if plan["sent"] == "traced":
        trial.traced()
    else:
        trial.at_any_moment(AT_ANY_MOMENT[plan["sent"]])
    world.close()
    print(json.dumps({"calls": trial.calls, "sent": trial.sent, "arrived": trial.arrived}))


if __name__ == "__main__":
    main(sys.argv[1])
