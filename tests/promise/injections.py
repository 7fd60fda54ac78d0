"""An exception of the host's at any call out of a commit or of a read, found by tracing.

    python -m pytest tests/promise/injections.py

It arrives at the caller; either nothing was committed, or no read after it is stale. ``PERSON_REPO_EVERY_CALL`` is the
number of calls that are drawn for each operation; without it each call is taken, for an hour. No part of ``make test``:
a trace function that raises has crashed Python 3.11.7 once in some thousand injections.
"""

from __future__ import annotations

import gc
import inspect
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import sqlalchemy as sa
from support.interruptions import IDS, TimeLimit, Timeout, World, came_of, text, unit_of_work
from support.partitions import cut_off, heal
from support.servers import Memcached
from support.urls import patient_url

import person_repo
from person_repo.model import Person

pytestmark = [pytest.mark.timeout(3600), pytest.mark.parametrize("kind", [TimeLimit, Timeout])]

PACKAGE = str(Path(person_repo.__file__).parent)
INTERVAL = 0.02


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

    @contextmanager
    def under_way(self) -> Iterator[None]:
        before = sys.getprofile()
        sys.setprofile(self._hook)
        try:
            yield
        finally:
            sys.setprofile(before)


# What is interrupted


@pytest.fixture
def world(database_url: str, memcached_servers: list[Memcached]) -> Iterator[World]:
    url = patient_url(memcached_servers[:2], fence_interval=INTERVAL, wait=0.01, tombstone_ttl=5, breaker_reset=0.05)
    made = World(database_url, url)
    yield made
    made.close()


def autocommit(world: World, number: int) -> None:
    with world.people.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.update(Person).where(Person.id == "ada").values(first_name=str(number)))


def add_and_delete(world: World, number: int) -> None:
    with world.sessions() as session, session.begin():
        session.add(Person(id="eve", first_name=str(number), last_name="eve"))
    world.people.delete("eve")


def update(world: World, number: int) -> None:
    world.people.update("ada", first_name=str(number))


def get(world: World, number: int) -> None:
    world.people.get("ada")
    world.people.get("eve")


def get_after_a_change(world: World, number: int) -> None:
    for id in IDS:
        world.people.get(id)


def get_many(world: World, number: int) -> None:
    world.people.get_many(IDS)


WRITES = [unit_of_work, autocommit, text, add_and_delete, update]
READS = [get, get_many]


def interrupted(
    world: World,
    operation: Callable[[World, int], None],
    kind: type[BaseException],
    positions: Callable[[int], list[int]],
    prepare: Callable[[int], None],
    check: Callable[[str], None],
) -> None:
    """Injects at these positions, given the number of calls."""
    prepare(0)
    counting = Injection(0, kind)
    with counting.under_way():
        operation(world, 1)
    check("without any")
    assert counting.calls > 20
    for number, at in enumerate(positions(counting.calls), 2):
        prepare(number)
        injection = Injection(at, kind)
        try:
            with injection.under_way():
                operation(world, number)
        except BaseException as exc:
            if not came_of(exc, kind):
                raise AssertionError(f"{exc!r} after {injection.where}") from exc
        else:
            assert not injection.where, f"swallowed: {injection.where}"
        gc.collect(1)  # A cursor that was interrupted holds its lock on SQLite as long as it is referred to.
        check(injection.where)


@pytest.fixture
def positions(draw: random.Random) -> Callable[[int], list[int]]:
    """Of so many calls those that are drawn, or all."""

    def chosen(calls: int) -> list[int]:
        wanted = int(os.environ.get("PERSON_REPO_EVERY_CALL", calls))
        return sorted(draw.sample(range(1, calls + 1), min(wanted, calls)))

    return chosen


@pytest.mark.parametrize("operation", [*WRITES, *READS])
def test_a_service_that_reaches_the_cache(
    world: World,
    operation: Callable[[World, int], None],
    kind: type[BaseException],
    positions: Callable[[int], list[int]],
) -> None:
    """Half of the operations find a change by another process."""

    def prepare(number: int) -> None:
        world.reader.delete("eve")
        world.warm()
        if number % 2:
            world.reader.update("ada", first_name=f"other {number}")

    interrupted(world, operation, kind, positions, prepare, world.check)


@pytest.mark.parametrize("operation", [unit_of_work, autocommit])
def test_a_writer_that_is_cut_off_from_the_cache(
    world: World,
    operation: Callable[[World, int], None],
    kind: type[BaseException],
    positions: Callable[[int], list[int]],
) -> None:
    """The fence tells the others, or nothing is committed."""
    before: dict[str, str] = {}

    def prepare(number: int) -> None:
        heal(world.people)
        world.people.deliver()
        world.warm()
        before.update(world.committed())
        cut_off(world.people)

    def check(where: str) -> None:
        if world.committed() != before:
            time.sleep(INTERVAL + 0.06)  # An overdue view is used for 50 ms more while another thread polls.
        world.check(where)

    interrupted(world, operation, kind, positions, prepare, check)
