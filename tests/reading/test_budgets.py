"""Bounds on the cost of a hit and of a miss: exchanges, bytes, system calls, calls of Python functions. No clock."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest
from sqlalchemy import orm
from support.servers import Memcached

from person_repo.cache.memcached.connection import Budget
from person_repo.model import Person
from person_repo.service import PersonService

IDS = [f"p{number:03}" for number in range(100)]


def calls_of(step: Callable[[], object]) -> list[str]:
    """The Python functions that a step calls, in the cheapest of some runs: in others the collector may run, or a wait
    take longer.
    """
    runs: list[list[str]] = []

    def record(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            runs[-1].append(frame.f_code.co_qualname)

    before = sys.getprofile()
    for _ in range(10):
        runs.append([])
        sys.setprofile(record)
        try:
            step()
        finally:
            sys.setprofile(before)
        runs[-1].remove(step.__qualname__)
    return min(runs, key=len)


@pytest.fixture
def memory(sessions: orm.sessionmaker[orm.Session]) -> Iterator[PersonService]:
    yield from filled(PersonService.over(sessions, "memory://"))


@pytest.fixture
def memcached(sessions: orm.sessionmaker[orm.Session], memcached_servers: list[Memcached]) -> Iterator[PersonService]:
    yield from filled(PersonService.over(sessions, f"memcached://{memcached_servers[0].url}?timeout=10"))


def filled(people: PersonService) -> Iterator[PersonService]:
    with people:
        people.add_many(Person(id=id, first_name="Ada", last_name="Lovelace") for id in IDS)
        assert list(people.get_many(IDS)) == IDS
        assert people.get("p007") is not None
        yield people


class CountingSocket:
    """A socket that counts its calls and their bytes."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.sent: list[int] = []
        self.received: list[int] = []
        self.bounds = 0

    def sendall(self, request: bytes) -> None:
        self.sent.append(len(request))
        self._inner.sendall(request)

    def recv(self, size: int) -> bytes:
        found: bytes = self._inner.recv(size)
        self.received.append(len(found))
        return found

    def settimeout(self, seconds: float) -> None:
        self.bounds += 1
        self._inner.settimeout(seconds)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def watched(people: PersonService, step: Callable[[], object]) -> CountingSocket:
    """The calls that a step makes of the socket of its only server, in the run with the fewest."""
    backend: Any = people.cached.backend
    connection = backend._pool.connection(backend.servers[0], Budget(10.0))
    inner, runs = connection._socket, []
    for _ in range(50):
        connection._socket = CountingSocket(inner)
        step()
        runs.append(connection._socket)
    connection._socket = inner
    return min(runs, key=lambda run: (run.bounds, len(run.received)))


class TestHitOnMemcached:
    def test_one_send_and_one_receive_and_no_bound_set_anew(self, memcached: PersonService) -> None:
        did = watched(memcached, lambda: memcached.get("p007"))

        assert (len(did.sent), len(did.received), did.bounds) == (1, 1, 0)

    def test_some_ninety_bytes_are_sent_and_as_many_received_beside_the_item(self, memcached: PersonService) -> None:
        """The key of the marker and of the item; the lines of two replies, the epoch twice."""
        key = memcached.cached.keys.key_of(("p007",))[0]
        item = memcached.cached.backend.fetch(memcached.cached.keys.group, key)
        assert isinstance(item, bytes)

        did = watched(memcached, lambda: memcached.get("p007"))

        assert sum(did.sent) <= 2 * len(key) + 32
        assert sum(did.received) <= len(item) + 64

    def test_few_calls(self, memcached: PersonService) -> None:
        """Three of them SQLAlchemy's, which makes an object's state and ends it."""
        made = calls_of(lambda: memcached.get("p007"))

        assert len(made) <= 16, "\n".join(made)

    def test_a_hundred_cost_one_send(self, memcached: PersonService) -> None:
        did = watched(memcached, lambda: memcached.get_many(IDS))

        assert (len(did.sent), did.bounds) == (1, 0)
        assert len(did.received) <= 3

    def test_a_hundred_send_their_keys_and_little_else(self, memcached: PersonService) -> None:
        keys = [memcached.cached.keys.key_of((id,))[0] for id in IDS]
        items = memcached.cached.backend.fetch_many(memcached.cached.keys.group, keys)
        size = sum(len(item) for item in items if isinstance(item, bytes))

        did = watched(memcached, lambda: memcached.get_many(IDS))

        assert sum(did.sent) <= sum(len(key) + 1 for key in keys) + 64
        assert sum(did.received) <= size + sum(len(key) + 32 for key in keys) + 64

    def test_few_calls_for_each_of_a_hundred(self, memcached: PersonService) -> None:
        """SQLAlchemy's three, and nothing of ours."""
        made = calls_of(lambda: memcached.get_many(IDS))

        assert len(made) <= 3 * len(IDS) + 45, "\n".join(made[:60])


class TestHitInMemory:
    def test_few_calls(self, memory: PersonService) -> None:
        made = calls_of(lambda: memory.get("p007"))

        assert len(made) <= 13, "\n".join(made)

    def test_few_calls_for_each_of_a_hundred(self, memory: PersonService) -> None:
        made = calls_of(lambda: memory.get_many(IDS))

        assert len(made) <= 4 * len(IDS) + 22, "\n".join(made[:60])


class TestMissInMemory:
    def miss(self, people: PersonService) -> None:
        people.cached.backend.evict(people.cached.keys.key_of(("p007",))[0])  # type: ignore[attr-defined]
        people.get("p007")

    def miss_a_hundred(self, people: PersonService) -> None:
        people.cached.backend.clear()  # type: ignore[attr-defined]
        people.get_many(IDS)

    def test_few_calls_beside_those_of_the_load(self, memory: PersonService) -> None:
        made = calls_of(lambda: self.miss(memory))
        with memory.using(use_db=True):
            loading = calls_of(lambda: memory.get("p007"))

        assert len(made) - len(loading) <= 44, "\n".join(made)

    def test_few_calls_for_each_of_a_hundred(self, memory: PersonService) -> None:
        made = calls_of(lambda: self.miss_a_hundred(memory))
        with memory.using(use_db=True):
            loading = calls_of(lambda: memory.get_many(IDS))

        assert len(made) - len(loading) <= 15 * len(IDS) + 45, "\n".join(made[:60])
