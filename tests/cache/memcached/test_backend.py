"""What the memcached backend does beyond the contract: its cost, its placement, its connections, its failures."""

from __future__ import annotations

import contextlib
import gc
import itertools
import logging
import os
import signal
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol
from unittest import mock

import pytest
from support.certificates import Certificates
from support.forks import forking, running_in_child
from support.servers import Memcached
from support.unruly import Answer, Door

from person_repo.cache.contract import BLOCKED, BUSY, UNREACHABLE, Expiring, Lease, Outcome, Tombstones
from person_repo.cache.memcached import backend as module
from person_repo.cache.memcached.backend import BASE, MemcachedBackend
from person_repo.cache.memcached.connection import Connection, Patience
from person_repo.exceptions import CacheUnavailableError, ConfigurationError
from person_repo.testing.contract import (
    FOREIGN,
    GROUP,
    KEY,
    NEW,
    OLD,
    OTHER_GROUP,
    OTHER_KEY,
    store,
    take,
    take_after_restart,
)

MARKER = f"{GROUP}:!"


def keys(count: int) -> list[str]:
    return [f"{GROUP}:s{number}" for number in range(count)]


class Connect(Protocol):
    def __call__(self, *servers: Memcached | Door | str, **arguments: Any) -> MemcachedBackend: ...


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Backends over servers, patient unless told otherwise, closed at the end."""
    opened: list[MemcachedBackend] = []

    def make(*servers: Memcached | Door | str, **arguments: Any) -> MemcachedBackend:
        urls = [server if isinstance(server, str) else server.url for server in servers]
        # A test that wants a server left alone says so.
        patient = {"timeout": 10.0, "connect_timeout": 10.0, "breaker_failures": 1_000_000}
        backend = MemcachedBackend({"servers": urls, **patient, **arguments})
        opened.append(backend)
        return backend

    yield make
    for backend in opened:
        backend.close()


@pytest.fixture
def server(memcached_servers: list[Memcached]) -> Memcached:
    return memcached_servers[0]


@pytest.fixture
def door(server: Memcached) -> Iterator[Door]:
    with Door(server.port) as door:
        yield door


class Raw:
    """Plain requests to a server, past the backend."""

    def __init__(self, server: Memcached) -> None:
        self._server = server

    def set(self, key: str, flags: int, body: bytes) -> None:
        with socket.create_connection(("127.0.0.1", self._server.port), timeout=10) as connection:
            connection.sendall(b"ms %b %d F%d\r\n%b\r\n" % (key.encode(), len(body), flags, body))
            assert connection.recv(100) == b"HD\r\n"

    def get(self, key: str) -> tuple[int, bytes] | None:
        """Flags and body of an item."""
        with socket.create_connection(("127.0.0.1", self._server.port), timeout=10) as connection:
            connection.sendall(b"mg %b f v\r\nmn\r\n" % key.encode())
            answer = b""
            while not answer.endswith(b"MN\r\n"):
                answer += connection.recv(65536)
        if answer.startswith(b"EN"):
            return None
        line, _, rest = answer.partition(b"\r\n")
        _, size, flags = line.split()[:3]
        return int(flags[1:]), rest[: int(size)]

    def delete(self, key: str) -> bool:
        return "DELETED" in self._server.ask(f"delete {key}")


@pytest.fixture
def raw(server: Memcached) -> Raw:
    return Raw(server)


def round_trips(backend: MemcachedBackend, call: Callable[[], object]) -> int:
    before = backend.counters.snapshot()
    call()
    return (backend.counters.snapshot() - before).round_trips


class TestCost:
    def test_a_hit_costs_one_round_trip(self, connect: Connect, server: Memcached) -> None:
        backend = connect(server)
        store(backend, KEY, OLD)

        assert round_trips(backend, lambda: backend.fetch(GROUP, KEY)) == 1

    def test_a_miss_costs_two_round_trips(self, connect: Connect, server: Memcached) -> None:
        backend = connect(server)
        store(backend, OTHER_KEY, OLD)

        assert round_trips(backend, lambda: store(backend, KEY, OLD)) == 2

    def test_the_first_miss_of_a_group_costs_one_round_trip_more(self, connect: Connect, server: Memcached) -> None:
        backend = connect(server)

        assert round_trips(backend, lambda: store(backend, KEY, OLD)) == 3

    def test_items_that_nobody_may_fill_cost_one_round_trip(self, connect: Connect, server: Memcached) -> None:
        backend = connect(server)
        take(backend)
        assert round_trips(backend, lambda: backend.fetch(GROUP, KEY)) == 1

        tombstones = backend.put_tombstones([KEY])
        assert round_trips(backend, lambda: backend.fetch(GROUP, KEY)) == 1
        backend.release(tombstones)

    def test_a_hundred_items_cost_one_round_trip_to_each_server(
        self, connect: Connect, memcached_servers: list[Memcached]
    ) -> None:
        backend = connect(*memcached_servers)
        for server in memcached_servers:
            Raw(server).set(MARKER, BASE + 8, b"12345678")

        leases: list[Lease] = []

        def miss() -> None:
            leases.extend(found for found in backend.fetch_many(GROUP, keys(100)) if isinstance(found, Lease))

        assert round_trips(backend, miss) == 3 + 3  # what is not there is asked for again, with a lease
        assert len(leases) == 100
        assert round_trips(backend, lambda: backend.fill_many([(lease, OLD) for lease in leases])) == 3
        assert round_trips(backend, lambda: backend.fetch_many(GROUP, keys(100))) == 3
        assert backend.fetch_many(GROUP, keys(100)) == [OLD] * 100
        placed: list[Tombstones] = []
        assert round_trips(backend, lambda: placed.append(backend.put_tombstones(keys(100)))) == 3
        assert round_trips(backend, lambda: backend.release(placed[0])) == 3

    def test_a_tombstone_costs_one_round_trip_and_its_release_another(
        self, connect: Connect, server: Memcached
    ) -> None:
        backend = connect(server)
        placed: list[Tombstones] = []

        assert round_trips(backend, lambda: placed.append(backend.put_tombstones([KEY], [GROUP]))) == 1
        assert round_trips(backend, lambda: backend.release(placed[0])) == 1

    def test_a_release_beside_another_owner_costs_two_more(self, connect: Connect, server: Memcached) -> None:
        backend = connect(server)
        first, second = backend.put_tombstones([KEY]), backend.put_tombstones([KEY])

        assert round_trips(backend, lambda: backend.release(first)) == 3
        assert round_trips(backend, lambda: backend.release(second)) == 2
        take(backend)

    def test_a_release_ends_although_others_change_the_item_each_time(
        self, connect: Connect, server: Memcached
    ) -> None:
        """And takes with it what a reader may have filled where the tombstone was lost."""
        backend, reader, raw = connect(server), connect(server), Raw(server)
        mine = backend.put_tombstones([KEY])
        raw.delete(KEY)
        store(reader, KEY, OLD)
        value = raw.get(KEY)
        assert value is not None
        steps = stepwise(backend, server)

        def change(command: bytes) -> None:
            if b" C" in command:
                raw.set(KEY, *value)

        steps.before = change

        assert round_trips(backend, lambda: backend.release(mine)) <= 2 * 8 + 2
        take(reader)

    def test_the_round_trips_counted_are_those_on_the_wire(self, connect: Connect, server: Memcached) -> None:
        backend = connect(server)
        steps = stepwise(backend, server)

        counted = round_trips(
            backend,
            lambda: (store(backend, KEY, OLD), backend.fetch_many(GROUP, keys(10)), backend.put_tombstones(keys(10))),
        )

        assert counted == steps.requests


PLACES = {
    "pr:crm:person:sada": "10.0.0.2:11211",
    "pr:crm:person:sgrace": "10.0.0.1:11211",
    "pr:crm:person:salan": "10.0.0.1:11211",
    "pr:crm:person:i1": "10.0.0.1:11211",
    "pr:crm:person:i3": "10.0.0.2:11211",
    "pr:crm:person:i5": "10.0.0.3:11211",
    "pr:crm:team:h0123456789abcdef": "10.0.0.1:11211",
    "pr:crm:person:s%C3%A9": "10.0.0.1:11211",
}


class TestPlacement:
    SERVERS = ("10.0.0.1:11211", "10.0.0.2:11211", "10.0.0.3:11211")
    KEYS = tuple(f"pr:crm:person:i{number}" for number in range(9000))

    def places(self, servers: tuple[str, ...]) -> dict[str, str]:
        backend = MemcachedBackend({"servers": servers})
        return {key: backend._server_of(key) for key in self.KEYS}

    @pytest.mark.parametrize(("key", "place"), PLACES.items())
    def test_keys_stay_where_earlier_releases_put_them(self, key: str, place: str) -> None:
        """Elsewhere, a process of the release before would neither find nor invalidate them."""
        assert MemcachedBackend({"servers": self.SERVERS})._server_of(key) == place

    def test_the_order_of_the_servers_does_not_matter(self) -> None:
        assert self.places(self.SERVERS) == self.places(self.SERVERS[::-1])

    def test_keys_are_spread_about_evenly(self) -> None:
        places = list(self.places(self.SERVERS).values())

        assert all(2700 < places.count(server) < 3300 for server in self.SERVERS)

    def test_a_server_more_takes_its_share_and_moves_nothing_else(self) -> None:
        before = self.places(self.SERVERS)
        after = self.places((*self.SERVERS, "10.0.0.4:11211"))

        moved = {key for key in self.KEYS if before[key] != after[key]}
        assert {after[key] for key in moved} == {"10.0.0.4:11211"}
        assert 2000 < len(moved) < 2500

    def test_a_server_less_moves_its_own_keys_only(self) -> None:
        before = self.places(self.SERVERS)
        after = self.places(self.SERVERS[:2])

        assert {before[key] for key in self.KEYS if before[key] != after[key]} == {self.SERVERS[2]}

    def test_keys_do_not_move_when_their_server_is_down(
        self, connect: Connect, memcached_servers: list[Memcached]
    ) -> None:
        """What they would leave elsewhere would be old when they move there again."""
        backend = connect(*memcached_servers)
        for key in keys(30):
            store(backend, key, OLD)
        memcached_servers[0].kill()

        found = backend.fetch_many(GROUP, keys(30))

        down = [key for key in keys(30) if backend._server_of(key) == memcached_servers[0].url]
        assert down
        assert found == [UNREACHABLE if key in down else OLD for key in keys(30)]
        assert [backend.fetch(GROUP, key) for key in down] == [UNREACHABLE] * len(down)


class TestForksAndThreads:
    @forking
    def test_parent_and_child_never_read_each_others_replies(
        self, connect: Connect, memcached_servers: list[Memcached]
    ) -> None:
        backend = connect(*memcached_servers)
        parents = [f"{GROUP}:sparent{number}" for number in range(20)]
        children = [f"{GROUP}:schild{number}" for number in range(20)]
        for key in parents + children:
            store(backend, key, key.encode())
        to_child, to_parent = os.pipe(), os.pipe()

        def read(own: list[str], rounds: int = 20) -> list[str]:
            wrong = []
            for _ in range(rounds):
                wrong += [key for key in own if backend.fetch(GROUP, key) != key.encode()]
                wrong += [] if backend.fetch_many(GROUP, own) == [key.encode() for key in own] else ["a batch"]
            return wrong

        def child() -> list[str]:
            os.write(to_parent[1], b".")
            os.read(to_child[0], 1)
            return read(children)

        with running_in_child(child) as said:
            os.read(to_parent[0], 1)
            os.write(to_child[1], b".")
            assert read(parents) == []
        assert said() == "[]"
        for descriptor in (*to_child, *to_parent):
            os.close(descriptor)

    @forking
    def test_a_lease_of_the_parent_fills_nothing_in_the_child(self, connect: Connect, server: Memcached) -> None:
        backend = connect(server)
        lease = take(backend)

        with running_in_child(lambda: backend.fill(lease, OLD)) as said:
            pass

        assert said() == "False"
        assert backend.fill(lease, NEW)

    @forking
    def test_a_child_can_release_what_its_parent_has_placed(self, connect: Connect, server: Memcached) -> None:
        backend = connect(server)
        tombstones = backend.put_tombstones([KEY], [OTHER_GROUP])

        with running_in_child(lambda: backend.release(tombstones)):
            pass

        take(backend)

    def test_each_thread_has_a_connection_of_its_own(self, connect: Connect, door: Door) -> None:
        backend = connect(door)
        together = threading.Barrier(4)

        def fetch(_: int) -> None:
            for _ in range(3):
                together.wait(30)
                backend.fetch(GROUP, KEY)
            backend.close()

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(fetch, range(4)))

        assert door.visitors == 4

    def test_a_lease_fills_nothing_from_another_thread(self, connect: Connect, server: Memcached) -> None:
        """There it would be used on another connection, where a restart in between could not be told."""
        backend = connect(server)
        lease = take(backend)

        def elsewhere() -> bool:
            backend.fetch(GROUP, OTHER_KEY)
            try:
                return backend.fill(lease, OLD)
            finally:
                backend.close()

        with ThreadPoolExecutor(1) as thread:
            assert thread.submit(elsewhere).result() is False
        assert backend.fill(lease, NEW)

    def test_a_release_in_another_thread_leaves_the_connection_of_the_first_alone(
        self, connect: Connect, server: Memcached
    ) -> None:
        backend = connect(server)
        tombstones = backend.put_tombstones([KEY])
        steps = stepwise(backend, server)

        with ThreadPoolExecutor(1) as thread:
            thread.submit(backend.release, tombstones).result()

        assert steps.requests == 0
        take(backend)

    @pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
    def test_the_connections_of_a_thread_that_ends_are_closed(self, connect: Connect, server: Memcached) -> None:
        backend = connect(server)

        def connections() -> str:
            return next(line for line in server.ask("stats").splitlines() if "curr_connections" in line)

        before = connections()
        thread = threading.Thread(target=backend.fetch, args=(GROUP, KEY))
        thread.start()
        thread.join()
        del thread
        gc.collect()  # a warning of an open socket would come here

        assert connections() == before


class Stepwise:
    """A socket that sends one command at a time, each once the one before was answered."""

    def __init__(self, inner: socket.socket) -> None:
        self._inner = inner
        self._answers = b""
        self.requests = 0
        self.before: Callable[[bytes], object] = lambda command: None

    def sendall(self, request: bytes) -> None:
        self.requests += 1
        for command in _commands(request):
            self.before(command)
            self._inner.sendall(command)
            self._answers += self._answer(until=b"END\r\n" if command.startswith(b"get ") else b"")

    def recv(self, _: int) -> bytes:
        answers, self._answers = self._answers, b""
        return answers

    def _answer(self, until: bytes) -> bytes:
        answer = b""
        while not until or not answer.endswith(until):
            received = self._inner.recv(65536)
            if not received:
                raise ConnectionResetError
            answer += received
            line, end, rest = answer.partition(b"\r\n")
            if not until and end and len(rest) == (int(line.split()[1]) + 2 if line.startswith(b"VA") else 0):
                return answer
        return answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def _commands(request: bytes) -> list[bytes]:
    found = []
    while request:
        end = request.index(b"\r\n") + 2
        if request.startswith(b"ms "):
            end += int(request.split(maxsplit=3)[2]) + 2
        found.append(request[:end])
        request = request[end:]
    return found


def stepwise(backend: MemcachedBackend, server: Memcached) -> Stepwise:
    connection = backend._connection(server.url, Patience(10.0))
    steps = Stepwise(connection._socket)
    connection._socket = steps  # type: ignore[assignment]
    return steps


class TestBetweenTwoCommands:
    """One party is taken step by step; at one or two of its steps others act, and something is lost.

    The parties change a row, which is a number that grows with each commit. A read must not give a number lower than
    the last one whose commit was acknowledged when the read began.
    """

    @pytest.mark.parametrize("stood", ["nothing", "a value", "a value of another epoch"])
    @pytest.mark.parametrize("group", [False, True], ids=["an item", "a group"])
    def test_a_commit_is_never_followed_by_a_stale_read(
        self, connect: Connect, server: Memcached, stood: str, group: bool
    ) -> None:
        for plan in _plans(steps=8, others=["evict", "evict marker", "read", "slow read", "earlier release", "write"]):
            story = Story(connect, server, stood)
            story.stepped_write(plan, group)
            story.check(plan)

    @pytest.mark.parametrize("stood", ["nothing", "a value", "a value of another epoch"])
    def test_a_read_is_never_older_than_the_commits_before_it(
        self, connect: Connect, server: Memcached, stood: str
    ) -> None:
        others = ["evict", "evict marker", "read", "slow read", "write", "write group", "half a write"]
        for plan in _plans(steps=6, others=others):
            story = Story(connect, server, stood)
            story.stepped_read(plan)
            story.check(plan)

    def at_step(self, backend: MemcachedBackend, server: Memcached, step: int, act: Callable[[], object]) -> None:
        steps, count = stepwise(backend, server), itertools.count()
        steps.before = lambda command: act() if next(count) == step else None

    def test_a_tombstone_that_is_lost_while_it_is_placed_is_placed_again(
        self, connect: Connect, server: Memcached, raw: Raw
    ) -> None:
        backend, reader = connect(server), connect(server)
        leases: list[Lease] = []
        self.at_step(backend, server, 2, lambda: (raw.delete(KEY), leases.append(take(reader))))

        tombstones = backend.put_tombstones([KEY])

        assert tombstones.complete
        assert reader.fetch(GROUP, KEY) is BLOCKED
        assert reader.fill(leases[0], OLD) is False
        backend.release(tombstones)
        take(reader)

    def test_anothers_tombstone_is_not_taken_for_ones_own_that_was_lost_while_it_was_placed(
        self, connect: Connect, server: Memcached, raw: Raw
    ) -> None:
        """The two items differ in nothing but their CAS ids."""
        backend, another = connect(server), connect(server)
        standing: list[Tombstones] = []
        self.at_step(backend, server, 2, lambda: (raw.delete(KEY), standing.append(another.put_tombstones([KEY]))))
        tombstones = backend.put_tombstones([KEY])

        backend.release(tombstones)

        assert another.fetch(GROUP, KEY) is BLOCKED
        another.release(standing[0])
        take(another)

    def test_a_tombstone_placed_while_a_reader_takes_an_items_place_stays(
        self, connect: Connect, server: Memcached
    ) -> None:
        backend, writer = connect(server), connect(server)
        store(writer, KEY, FOREIGN)
        standing: list[Tombstones] = []
        self.at_step(backend, server, 2, lambda: standing.append(writer.put_tombstones([KEY])))

        assert backend.fetch(GROUP, KEY, reject=FOREIGN) is BUSY

        assert backend.fetch(GROUP, KEY) is BLOCKED
        writer.release(standing[0])


Plan = dict[int, list[str]]
"""What others do before the steps of the party that is taken step by step."""


def _plans(steps: int, others: list[str]) -> Iterator[Plan]:
    acts = list(itertools.product(range(steps), others))
    for first, second in itertools.combinations_with_replacement(acts, 2):
        plan: Plan = {}
        for step, other in (first, second):
            plan.setdefault(step, []).append(other)
        yield plan


class Story:
    def __init__(self, connect: Connect, server: Memcached, stood: str) -> None:
        # Backends are shared by all stories: to connect costs more than a story does.
        cache = server.__dict__.setdefault("_story_backends", {})
        if cache.get("connect") is not connect:
            cache.update(connect=connect, parties=[connect(server) for _ in range(5)])
            cache["steps"] = stepwise(cache["parties"][0], server)
        self.stepped, self.reader, self.slow, self.writer, self.earlier = cache["parties"]
        self.steps: Stepwise = cache["steps"]
        self.steps.before = lambda command: None
        self.server = server
        self.row = 0
        self.acknowledged = 0
        self.locked = False
        self.late: list[Callable[[], object]] = []
        self.stale: list[tuple[int, int]] = []
        for name in (KEY, MARKER):
            patience = Patience(10.0)
            self.stepped._exchange(
                self.stepped._connection(server.url, patience), b"md %b\r\n" % name.encode(), 1, patience
            )
        if stood != "nothing":
            store(self.reader, KEY, b"0")
        if stood == "a value of another epoch":
            self.evict(MARKER)
        self.pending = self.earlier.put_tombstones([KEY], [GROUP])  # of a writer that has committed just now
        self.row += 1

    def stepped_write(self, plan: Plan, group: bool) -> None:
        self.locked = True
        take_step = self._steps(plan)
        tombstones = self.stepped.put_tombstones([], [GROUP]) if group else self.stepped.put_tombstones([KEY])
        assert tombstones.complete
        take_step(b"COMMIT")
        self.row += 1
        mine = self.row
        self.locked = False
        self.stepped.release(tombstones)
        self.acknowledged = max(self.acknowledged, mine)

    def stepped_read(self, plan: Plan) -> None:
        self.earlier.release(self.pending)
        self.acknowledged = self.row
        if plan:
            self.pending = self.earlier.put_tombstones([])
        self.read(self.stepped, self._steps(plan))

    def _steps(self, plan: Plan) -> Callable[[bytes], object]:
        step = itertools.count()

        def before(_: bytes) -> None:
            for other in plan.get(next(step), ()):
                getattr(self, "do_" + other.replace(" ", "_"))()

        self.steps.before = before
        return before

    def read(self, party: MemcachedBackend, before_load: Callable[[bytes], object] = lambda _: None) -> None:
        floor = self.acknowledged
        found = party.fetch(GROUP, KEY)
        if isinstance(found, bytes):
            number = int(found)
        else:
            before_load(b"SELECT")
            number = self.row
            if isinstance(found, Lease):
                party.fill(found, b"%d" % number)
        if number < floor:
            self.stale.append((number, floor))

    def check(self, plan: Plan) -> None:
        self.steps.before = lambda command: None
        self.earlier.release(self.pending)
        for act in self.late:
            act()
        self.read(self.reader)
        self.read(self.reader)
        assert self.stale == [], f"(read, acknowledged before it) with {plan}"

    def evict(self, name: str) -> None:
        patience = Patience(10.0)
        self.writer._exchange(
            self.writer._connection(self.server.url, patience), b"md %b\r\n" % name.encode(), 1, patience
        )

    # What others do

    def do_evict(self) -> None:
        self.evict(KEY)

    def do_evict_marker(self) -> None:
        self.evict(MARKER)

    def do_read(self) -> None:
        self.read(self.reader)

    def do_slow_read(self) -> None:
        """Loads now and fills at the very end."""
        found = self.slow.fetch(GROUP, KEY)
        if isinstance(found, Lease):
            loaded = b"%d" % self.row
            self.late.append(lambda: self.slow.fill(found, loaded))

    def do_earlier_release(self) -> None:
        self.earlier.release(self.pending)

    def do_write(self, *, group: bool = False, whole: bool = True) -> None:
        if self.locked:  # the database lets it wait until the other transaction is over
            return
        tombstones = self.writer.put_tombstones([], [GROUP]) if group else self.writer.put_tombstones([KEY])
        self.row += 1
        mine = self.row
        if not whole:
            self.late.append(lambda: self.writer.release(tombstones))
            return
        self.writer.release(tombstones)
        self.acknowledged = max(self.acknowledged, mine)

    def do_write_group(self) -> None:
        self.do_write(group=True)

    def do_half_a_write(self) -> None:
        self.do_write(whole=False)


class TestProtocol:
    UNKNOWN = (2 << 24) + 5

    def test_an_item_of_an_unknown_version_is_bypassed_and_left(
        self, connect: Connect, server: Memcached, raw: Raw
    ) -> None:
        backend = connect(server)
        raw.set(KEY, self.UNKNOWN, b"later")

        assert backend.fetch(GROUP, KEY) is BLOCKED
        assert backend.fetch_many(GROUP, [KEY]) == [BLOCKED]
        for reject in (b"later", b"", FOREIGN):
            assert backend.fetch(GROUP, KEY, reject=reject) is BLOCKED
        assert raw.get(KEY) == (self.UNKNOWN, b"later")

    @pytest.mark.parametrize("body", [b"later", b"x" * 16, b"x" * 24, b"x" * 100])
    @pytest.mark.parametrize("flags", [0, 1, 5, BASE - 1, BASE + 3, BASE + 1000, UNKNOWN, 2**32 - 1])
    def test_no_item_of_others_is_taken_for_a_value_or_a_lease(
        self, connect: Connect, server: Memcached, raw: Raw, flags: int, body: bytes
    ) -> None:
        backend = connect(server)
        raw.set(KEY, flags, body)

        assert backend.fetch(GROUP, KEY) is BLOCKED
        assert raw.get(KEY) == (flags, body)

    @pytest.mark.parametrize("flags", [UNKNOWN, 3 << 24, 2**32 - 1])
    def test_a_commit_on_an_item_of_an_unknown_version_deletes_it(
        self, connect: Connect, server: Memcached, raw: Raw, flags: int
    ) -> None:
        backend = connect(server)
        raw.set(KEY, flags, b"later")

        tombstones = backend.put_tombstones([KEY])
        assert tombstones.complete
        found = raw.get(KEY)
        assert found is not None
        assert found[1].startswith(b"later"), "it was overwritten, not appended to"
        assert backend.fetch(GROUP, KEY) is BLOCKED
        backend.release(tombstones)

        assert raw.get(KEY) is None

    def test_a_marker_of_an_unknown_version_blocks_its_group_and_is_left(
        self, connect: Connect, server: Memcached, raw: Raw
    ) -> None:
        backend = connect(server)
        raw.set(MARKER, self.UNKNOWN, b"later")

        assert backend.fetch(GROUP, KEY) is BLOCKED
        assert backend.fetch_many(GROUP, keys(3)) == [BLOCKED] * 3
        assert raw.get(MARKER) == (self.UNKNOWN, b"later")
        assert raw.get(KEY) is None, "a lease that nobody has would keep others waiting"

    @pytest.mark.parametrize(("flags", "body"), [(BASE + 8, b"short"), (BASE + 9, b"9 letters"), (0, b"12345678")])
    def test_a_marker_that_is_no_epoch_blocks_its_group(
        self, connect: Connect, server: Memcached, raw: Raw, flags: int, body: bytes
    ) -> None:
        raw.set(MARKER, flags, body)

        assert connect(server).fetch(GROUP, KEY) is BLOCKED

    def test_values_look_on_the_wire_as_other_releases_expect_them(
        self, connect: Connect, server: Memcached, raw: Raw
    ) -> None:
        backend = connect(server, clock=lambda: 0x01020304)
        raw.set(MARKER, BASE + 8, b"an epoch")
        lease = take(backend)
        assert raw.get(KEY) == (0, b"")

        assert backend.fill(lease, b"value")
        assert raw.get(KEY) == (0x0100_000D, b"an epochvalue")

        tombstones = backend.put_tombstones([KEY], [GROUP])
        for name, below in ((KEY, b"an epochvalue"), (MARKER, b"an epoch")):
            found = raw.get(name)
            assert found is not None
            flags, body = found
            assert flags == BASE + len(below)
            assert body[: len(below) + 4] == below + b"\x01\x02\x03\x04"
            assert len(body) == len(below) + 16
        backend.release(tombstones)

    def test_a_restart_gives_the_same_cas_ids_again(self, connect: Connect, server: Memcached) -> None:
        """The tests of the contract that restart a server twice would show nothing if it did not."""
        reader, another = connect(server), connect(server)
        server.restart()
        lease = take(reader)
        server.restart()
        successor = take_after_restart(another)
        assert isinstance(lease, module._Held)
        assert isinstance(successor, module._Held)
        assert lease.cas == successor.cas

        assert reader.fill(lease, OLD) is False
        assert another.fetch(GROUP, KEY) is BUSY
        server.restart()
        lost = reader.put_tombstones([KEY])
        server.restart()
        standing = another.put_tombstones([KEY])
        assert lost.placed.stones[server.url, KEY].cas == standing.placed.stones[server.url, KEY].cas

        reader.release(lost)
        assert another.fetch(GROUP, KEY) is BLOCKED
        another.release(standing)


class TestLargeItems:
    def largest(self, backend: MemcachedBackend, server: Memcached) -> int:
        return backend._connection(server.url, Patience(10.0)).largest_body - 8

    def test_the_largest_value_is_stored_and_one_byte_more_is_not(self, connect: Connect, server: Memcached) -> None:
        backend = connect(server)
        largest = self.largest(backend, server)
        assert largest > 1_040_000

        store(backend, KEY, b"x" * largest)
        assert backend.fetch(GROUP, KEY) == b"x" * largest
        assert backend.fill(take(backend, OTHER_KEY), b"x" * (largest + 1)) is False
        assert isinstance(backend.fetch(GROUP, OTHER_KEY), Lease)

    @pytest.mark.parametrize("size", [500_000, 600_000, 1_000_000, None])
    def test_a_large_value_takes_the_tombstones_of_several_owners(
        self, connect: Connect, server: Memcached, size: int | None
    ) -> None:
        backend = connect(server)
        store(backend, KEY, b"x" * (size or self.largest(backend, server)))

        placed = [backend.put_tombstones([KEY]) for _ in range(20)]

        assert all(tombstones.complete for tombstones in placed)
        for tombstones in placed:
            assert backend.fetch(GROUP, KEY) is BLOCKED
            backend.release(tombstones)
        take(backend)

    def test_an_item_with_no_room_for_a_tombstone_is_replaced_by_one(
        self, connect: Connect, server: Memcached, raw: Raw
    ) -> None:
        backend, another = connect(server), connect(server)
        full = 1024 * 1024 - 48 - 8 - len(KEY) - 1 - 4 - 2
        raw.set(KEY, BASE + full, b"x" * full)
        tombstones = backend.put_tombstones([KEY, OTHER_KEY])

        assert tombstones.complete
        assert backend.fetch_many(GROUP, [KEY, OTHER_KEY]) == [BLOCKED, BLOCKED]
        second = another.put_tombstones([KEY])
        backend.release(tombstones)
        assert backend.fetch(GROUP, KEY) is BLOCKED
        another.release(second)
        take(backend)

    def test_what_a_server_takes_is_learnt_from_the_server(self, connect: Connect) -> None:
        with started("-I", "512k") as small:
            backend, writer = connect(small), connect(small)
            lease = take(backend)
            tombstones = writer.put_tombstones([KEY])

            assert backend.fill(lease, b"x" * 600_000) is False

            assert backend.fetch(GROUP, KEY) is BLOCKED
            writer.release(tombstones)
            assert backend.fill(take(backend), b"x" * 500_000)

    def test_a_batch_of_large_values_arrives_whole(self, connect: Connect, memcached_servers: list[Memcached]) -> None:
        backend = connect(*memcached_servers)
        values = {key: os.urandom(200_000) for key in keys(30)}
        leases = [lease for lease in backend.fetch_many(GROUP, list(values)) if isinstance(lease, Lease)]

        assert backend.fill_many([(lease, values[lease.key]) for lease in leases]) == [True] * 30
        assert backend.fetch_many(GROUP, list(values)) == list(values.values())


class started:
    """A memcached with options of its own."""

    def __init__(self, *options: str, socket_path: Path | None = None) -> None:
        class WithOptions(Memcached):
            def command(self) -> list[str]:
                return [*super().command(), *options]

        self.server = WithOptions(socket_path=socket_path)

    def __enter__(self) -> Memcached:
        return self.server.start()

    def __exit__(self, *_: object) -> None:
        self.server.kill()


# Interruptions


class Interrupting:
    """A socket that a signal interrupts at its n-th call, and at no other."""

    def __init__(self, inner: socket.socket, at: int) -> None:
        self._inner = inner
        self._left = at

    def _count(self) -> None:
        self._left -= 1
        if self._left == 0:
            raise KeyboardInterrupt

    def sendall(self, request: bytes) -> None:
        self._count()
        self._inner.sendall(request)
        self._count()

    def recv(self, _: int) -> bytes:
        self._count()
        received = self._inner.recv(7)  # so that a reply takes several calls
        self._count()
        return received

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class TestInterruption:
    @pytest.mark.parametrize(
        "operation",
        ["fetch", "fetch_many", "fill", "abandon", "put_tombstones", "release", "contended release", "dogpile"],
    )
    def test_whatever_is_interrupted_the_next_read_gets_its_own_value(
        self, connect: Connect, server: Memcached, operation: str
    ) -> None:
        backend, another = connect(server), connect(server)
        for number in range(12):
            store(another, f"{KEY}{number}", b"%d" % number * 20)
        for at in itertools.count(1):
            call = self.prepare(backend, another, f"{KEY}-{at}", operation)
            connection = backend._connection(server.url, Patience(10.0))
            inner = connection._socket
            connection._socket = Interrupting(inner, at)  # type: ignore[assignment]
            try:
                call()
            except KeyboardInterrupt:
                assert backend._connection(server.url, Patience(10.0)) is not connection
            else:
                connection._socket = inner
                assert at > 4, "nothing was interrupted"
                return
            for number in range(12):
                assert backend.fetch(GROUP, f"{KEY}{number}") == b"%d" % number * 20
            assert backend.fetch_many(GROUP, [f"{KEY}7", f"{KEY}3"]) == [b"7" * 20, b"3" * 20]

    def prepare(
        self, backend: MemcachedBackend, another: MemcachedBackend, key: str, operation: str
    ) -> Callable[[], object]:
        match operation:
            case "fetch":
                return lambda: backend.fetch(GROUP, f"{KEY}0")
            case "fetch_many":
                return lambda: backend.fetch_many(GROUP, [f"{KEY}{number}" for number in range(12)])
            case "fill":
                lease = take(backend, key)
                return lambda: backend.fill(lease, OLD)
            case "abandon":
                lease = take(backend, key)
                return lambda: backend.abandon([lease])
            case "put_tombstones":
                return lambda: backend.put_tombstones([key, f"{key}-b"])
            case "release":
                tombstones = backend.put_tombstones([key])
                return lambda: backend.release(tombstones)
            case "contended release":
                tombstones = backend.put_tombstones([key])
                another.put_tombstones([key])
                return lambda: backend.release(tombstones)
            case _:
                return lambda: backend.get_serialized(key)

    @pytest.mark.parametrize("at", range(1, 8))
    def test_leases_taken_before_an_interrupted_exchange_are_not_used_on_its_connection(
        self, connect: Connect, server: Memcached, at: int
    ) -> None:
        """Who is interrupted gives its leases back: on that connection the replies of the exchange would be read for
        theirs, and from there on everybody's for somebody else's.
        """
        backend, another = connect(server), connect(server)
        values = keys(6)
        for key in values:
            store(another, key, key.encode())
        lease, other_lease = take(backend), take(backend, OTHER_KEY)
        connection = backend._connection(server.url, Patience(10.0))
        connection._socket = Interrupting(connection._socket, at)  # type: ignore[assignment]
        with pytest.raises(KeyboardInterrupt):
            backend.fetch(GROUP, values[0])
        inner: Any = connection._socket
        connection._socket = inner._inner

        backend.abandon([lease])
        assert backend.fill(other_lease, OLD) is False

        assert [backend.fetch(GROUP, key) for key in values] == [key.encode() for key in values]

    def test_a_signal_in_a_read_that_hangs_leaves_nothing_behind(
        self, connect: Connect, server: Memcached, door: Door
    ) -> None:
        """The signal comes while the socket waits, when part of the reply has been read."""
        backend = connect(door)
        store(backend, KEY, OLD)
        store(backend, OTHER_KEY, NEW)

        class InterruptedError_(BaseException):
            pass

        def raise_(*_: object) -> None:
            raise InterruptedError_

        def half_a_reply(_: Door, visitor: socket.socket, __: bytes) -> None:
            visitor.sendall(b"VA 8 f16777224\r\nmark")
            signal.raise_signal(signal.SIGUSR1)

        before = signal.signal(signal.SIGUSR1, raise_)
        try:
            door.answer = half_a_reply
            with pytest.raises(InterruptedError_):
                backend.fetch(GROUP, KEY)
        finally:
            signal.signal(signal.SIGUSR1, before)
        door.answer = None

        assert backend.fetch(GROUP, OTHER_KEY) == NEW
        assert backend.fetch(GROUP, KEY) == OLD


# Servers that fail


def says(*parts: bytes) -> Answer:
    """Sends this for each request, in these parts."""

    def answer(_: Door, visitor: socket.socket, __: bytes) -> None:
        for part in parts:
            visitor.sendall(part)

    return answer


def says_to_each(reply: bytes) -> Answer:
    """Sends this for each command of a request."""

    def answer(_: Door, visitor: socket.socket, request: bytes) -> None:
        settings = request.startswith(b"stats")
        visitor.sendall(reply * (1 if settings else len(_commands(request))))

    return answer


def closes(_: Door, __: socket.socket, ___: bytes) -> bool:
    return False


def resets(_: Door, visitor: socket.socket, __: bytes) -> bool:
    visitor.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return False


def closes_after(said: bytes) -> Answer:
    def answer(_: Door, visitor: socket.socket, __: bytes) -> bool:
        visitor.sendall(said)
        return False

    return answer


def dribbles(said: bytes) -> Answer:
    """Always something, never all of it."""

    def answer(door: Door, visitor: socket.socket, _: bytes) -> None:
        visitor.sendall(said)
        while not door.closing.wait(0.005):
            visitor.sendall(b"x")

    return answer


NONSENSE: dict[str, Answer] = {
    "silence": says(),
    "closing": closes,
    "a reset": resets,
    "noise": says(bytes(range(256)) * 16),
    "an HTTP server": says(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"),
    "an older memcached": says_to_each(b"ERROR\r\n"),
    "a complaint": says_to_each(b"CLIENT_ERROR bad command line format\r\n"),
    "failure": says_to_each(b"SERVER_ERROR out of memory storing object\r\n"),
    "an empty line": says(b"\r\n\r\n\r\n"),
    "half a line": says(b"VA 1"),
    "half a line, then closing": closes_after(b"VA 1"),
    "half a value": says(b"VA 100 f0 c1\r\nhalf"),
    "half a value, then closing": closes_after(b"VA 100 f0 c1\r\nhalf"),
    "an endless line": dribbles(b""),
    "an endless value": dribbles(b"VA 1000000 f0 c1\r\n"),
    "a value without an end": says(b"VA 4 f0 c1\r\nlonger than that\r\n" * 3),
    "a value of no size": says_to_each(b"VA f0 c1\r\n\r\n"),
    "a value of negative size": says_to_each(b"VA -4 f0 c1\r\n\r\n"),
    "a value of absurd size": says(b"VA 999999999999 f0 c1\r\n\r\n" * 3),
    "a value without flags": says_to_each(b"VA 0\r\n\r\n"),
    "flags that are no number": says_to_each(b"VA 0 fx c1 W\r\n\r\n"),
    "headers without flags": says_to_each(b"HD\r\n"),
    "headers whose flags are no numbers": says_to_each(b"HD fx sx cx tx\r\n"),
    "more than was asked for": says(b"EN\r\n" * 40),
    "less than was asked for": says(b"EN\r\n"),
}


@pytest.mark.parametrize("answer", NONSENSE.values(), ids=NONSENSE)
class TestNonsense:
    """A server that answers with this, from the first byte or from some moment on."""

    def check(self, backend: MemcachedBackend, lease: Lease | None, tombstones: Tombstones | None) -> None:
        assert not isinstance(backend.fetch(GROUP, KEY), bytes | Lease)
        assert not any(isinstance(found, bytes | Lease) for found in backend.fetch_many(GROUP, keys(3)))
        if lease is not None:
            backend.fill(lease, OLD)
            backend.abandon([lease])
        placed = backend.put_tombstones([KEY, OTHER_KEY], [GROUP])
        assert placed.failed_keys == {KEY, OTHER_KEY}
        assert placed.failed_groups == {GROUP}
        assert not placed.complete
        backend.release(placed)
        if tombstones is not None:
            backend.release(tombstones)

    def test_from_the_first_byte_it_costs_a_failure_and_no_more(
        self, connect: Connect, door: Door, answer: Answer
    ) -> None:
        backend = connect(door, timeout=0.05, connect_timeout=0.05)
        door.answer = answer

        assert backend.fetch(GROUP, KEY) is UNREACHABLE
        self.check(backend, None, None)

    def test_later_on_it_costs_a_failure_and_no_more(
        self, connect: Connect, door: Door, server: Memcached, answer: Answer, caplog: pytest.LogCaptureFixture
    ) -> None:
        backend, other = connect(door, timeout=0.05, connect_timeout=0.05), connect(server)
        store(other, OTHER_KEY, NEW)
        found = backend.fetch(GROUP, KEY)
        lease = found if isinstance(found, Lease) else None
        tombstones = backend.put_tombstones([f"{KEY}-b"])
        door.answer = answer

        assert backend.fetch(GROUP, KEY) in (UNREACHABLE, BLOCKED)
        self.check(backend, lease, tombstones)
        for call in (
            lambda: backend.get_serialized("plain"),
            lambda: backend.set_serialized("plain", b""),
            lambda: backend.delete("plain"),
        ):
            with contextlib.suppress(CacheUnavailableError):  # some of it is an answer, if a strange one
                call()
        assert [record.levelname for record in caplog.records][:1] == ["WARNING"]
        assert caplog.messages[0].startswith(f"memcached {door.url}: ")

    def test_once_it_is_over_the_next_exchange_is_in_order(
        self, connect: Connect, door: Door, server: Memcached, answer: Answer
    ) -> None:
        other, backend = connect(server), connect(door, timeout=0.05, connect_timeout=0.05)
        store(other, OTHER_KEY, NEW)
        door.answer = answer
        backend.fetch(GROUP, KEY)
        backend.fetch_many(GROUP, keys(2))
        door.answer = None
        patient = connect(door)
        patient._local = backend._local  # its connections, with the time that a busy machine may need

        found = [patient.fetch(GROUP, OTHER_KEY) for _ in range(2)]

        assert found[-1] == NEW
        assert found[0] in (NEW, UNREACHABLE)


def test_a_reply_in_single_bytes_is_read_whole(connect: Connect, server: Memcached, door: Door) -> None:
    def byte_by_byte(_: Door, visitor: socket.socket, request: bytes) -> None:
        assert request.startswith(b"mg ")
        for number in b"VA 8 f16777224\r\n12345678\r\nVA 11 f16777227 c5\r\n12345678a\r\n\r\n":
            visitor.sendall(bytes([number]))

    backend = connect(door)
    take(backend)
    door.answer = byte_by_byte

    assert backend.fetch(GROUP, KEY) == b"a\r\n"


MARKER_REPLY = b"VA 8 f16777224\r\nan epoch\r\n"
HIT_REPLY = b"VA 13 f16777229 c5\r\nan epochvalue\r\n"


@pytest.mark.parametrize("pieces", [1, 2, 30])
def test_the_replies_of_a_hit_are_taken_for_one(connect: Connect, server: Memcached, door: Door, pieces: int) -> None:
    backend = connect(door)
    take(backend)
    replies = MARKER_REPLY + HIT_REPLY
    step = -(-len(replies) // pieces)
    door.answer = says(*[replies[at : at + step] for at in range(0, len(replies), step)])

    assert [backend.fetch(GROUP, KEY) for _ in range(3)] == [b"value"] * 3
    assert isinstance(backend.fetch(GROUP, KEY, reject=b"value"), Outcome)


@pytest.mark.parametrize("learnt", [False, True], ids=["the first", "after a hit of the same epoch"])
@pytest.mark.parametrize(
    "reply",
    [
        MARKER_REPLY + HIT_REPLY + b"EN\r\n",
        MARKER_REPLY + HIT_REPLY + b"\r\n",
        MARKER_REPLY[:-2] + b"XX" + HIT_REPLY,
        MARKER_REPLY + HIT_REPLY[:-2] + b"XX",
        MARKER_REPLY + b"VA -2 f16777216 c5\r\n",
        b"VA -2 f16777216\r\n" + HIT_REPLY,
        MARKER_REPLY + HIT_REPLY.replace(b"f16777229", b""),
        MARKER_REPLY + HIT_REPLY.replace(b"VA", b"va"),
    ],
    ids=lambda reply: repr(reply[-24:]),
)
def test_replies_that_almost_make_sense_are_not_trusted(
    connect: Connect, server: Memcached, door: Door, reply: bytes, learnt: bool
) -> None:
    """Where one byte is out of place, nothing tells which."""
    backend, other = connect(door), connect(server)
    store(other, OTHER_KEY, NEW)
    take(backend)
    if learnt:
        door.answer = says(MARKER_REPLY + HIT_REPLY)
        assert backend.fetch(GROUP, KEY) == b"value"
    door.answer = says(reply)

    assert backend.fetch(GROUP, KEY) is UNREACHABLE
    door.answer = None
    assert backend.fetch(GROUP, OTHER_KEY) == NEW


def values(*items: tuple[bytes, bytes], mark: bytes = b"an epoch") -> bytes:
    """What a server answers to a ``get`` of the marker and of keys that have these values."""
    found = [(MARKER.encode(), mark), *[(key, mark + value) for key, value in items]]
    return b"".join(b"VALUE %b %d %d\r\n%b\r\n" % (key, BASE + len(body), len(body), body) for key, body in found)


FIRST, SECOND = (key.encode() for key in keys(2))
END = b"END\r\n"


@pytest.mark.parametrize(
    "value",
    [b"value", b"", b"\r\nVALUE ", b"\r\n" + values((SECOND, b"forged")) + END, END, b"x" * 300_000],
    ids=lambda value: repr(value[:12]),
)
@pytest.mark.parametrize("pieces", [1, 2, 40])
def test_the_values_of_many_are_told_from_what_they_hold_and_in_how_many_pieces_they_come(
    connect: Connect, server: Memcached, door: Door, value: bytes, pieces: int
) -> None:
    backend = connect(door)
    take(backend)
    reply = values((FIRST, value), (SECOND, b"other")) + END
    step = -(-len(reply) // pieces)
    door.answer = says(*[reply[at : at + step] for at in range(0, len(reply), step)])

    assert round_trips(backend, lambda: backend.fetch_many(GROUP, keys(2))) == 1
    assert backend.fetch_many(GROUP, keys(2)) == [value, b"other"]


HITS = values((FIRST, b"value"), (SECOND, b"other"))


@pytest.mark.parametrize(
    "reply",
    [
        HITS + END + b"x",
        HITS + END + END,
        HITS + b"\r\n" + END,
        HITS + b"SERVER_ERROR out of memory writing get response\r\n",
        HITS.replace(b"value\r\n", b"valueXX") + END,
        HITS.replace(b"other\r\n", b"otherXX") + END,
        HITS.replace(b"16777229 13", b"16777229 12") + END,
        HITS.replace(b"16777229 13", b"16777229 14") + END,
        HITS.replace(b"16777229 13", b"16777229 -13") + END,
        HITS.replace(b"16777229 13", b"16777229 999999999") + END,
        HITS.replace(b"16777229 13", b"x 13") + END,
        HITS.replace(b"16777229 13", b"13") + END,
        values((SECOND, b"other"), (FIRST, b"value")) + END,
        values((FIRST, b"value"), (FIRST, b"value")) + END,
        b"CLIENT_ERROR line too long\r\n",
    ],
    ids=lambda reply: repr(reply[-40:]),
)
def test_values_of_many_that_almost_make_sense_are_not_trusted(
    connect: Connect, server: Memcached, door: Door, reply: bytes
) -> None:
    backend, other = connect(door), connect(server)
    store(other, OTHER_KEY, NEW)
    take(backend)
    door.answer = says(reply)

    assert backend.fetch_many(GROUP, keys(2)) == [UNREACHABLE, UNREACHABLE]
    door.answer = None
    assert backend.fetch_many(GROUP, [OTHER_KEY]) == [NEW]


@pytest.mark.parametrize(
    "reply",
    [
        END,
        HITS.replace(b"16777229", b"16777228") + END,
        HITS.replace(b"an epochvalue", b"an EPOCHvalue").replace(b"an epochother", b"an EPOCHother") + END,
        values((FIRST, b"value"), (SECOND, b"other"), mark=b"short") + END,
        HITS.replace(b"16777224", b"0") + END,
        HITS[HITS.index(b"VALUE " + FIRST) :] + END,
    ],
    ids=lambda reply: repr(reply[:70]),
)
def test_what_is_no_value_of_the_epoch_is_fetched_as_one_would_be(
    connect: Connect, server: Memcached, door: Door, reply: bytes
) -> None:
    def answer(_: Door, visitor: socket.socket, request: bytes) -> None:
        visitor.sendall(reply if request.startswith(b"get ") else MARKER_REPLY + HIT_REPLY * 2)

    backend = connect(door)
    take(backend)
    door.answer = answer

    assert round_trips(backend, lambda: backend.fetch_many(GROUP, keys(2))) == 2
    assert backend.fetch_many(GROUP, keys(2)) == [b"value", b"value"]


def test_a_server_that_has_no_memory_for_a_lease_is_counted_and_logged(
    connect: Connect, door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    backend = connect(door)
    take(backend)
    refusal = b"SERVER_ERROR out of memory storing object\r\n"

    def answer(_: Door, visitor: socket.socket, request: bytes) -> None:
        visitor.sendall(END if request.startswith(b"get ") else MARKER_REPLY + refusal + HIT_REPLY)

    door.answer = answer

    assert backend.fetch_many(GROUP, keys(2)) == [UNREACHABLE, b"value"]
    assert backend.counters.snapshot().errors == 1
    assert caplog.messages == [
        f"memcached {door.url}: SERVER_ERROR out of memory storing object; what is not cached there stays so until "
        "it takes items"
    ]
    door.answer = None
    for key in keys(3):
        take(backend, key)
    assert [record.levelname for record in caplog.records] == ["WARNING"]  # INFO is below what is captured


class TestRenewal:
    """A ttl of four seconds, of which two are the last part."""

    SHORT = {"ttl": 4, "ttl_jitter": 0, "refresh_ahead": 0.5}

    def expiring(self, backend: MemcachedBackend, server: Memcached) -> Expiring:
        store(backend, KEY, OLD)
        server.ask(f"mg {KEY} T1")
        found = backend.fetch(GROUP, KEY)
        assert isinstance(found, Expiring)
        assert found.value == OLD
        return found

    def test_one_reader_is_to_renew_a_value_that_ends_soon_and_the_others_are_given_it(
        self, connect: Connect, server: Memcached
    ) -> None:
        backend, another = connect(server, **self.SHORT), connect(server, **self.SHORT)
        found = self.expiring(backend, server)

        assert another.fetch(GROUP, KEY) == backend.fetch(GROUP, KEY) == OLD
        assert another.fetch_many(GROUP, [KEY]) == [OLD]
        backend.abandon([found.lease])
        assert another.fetch(GROUP, KEY) == OLD, "what stands there is good to its end"
        assert backend.fill(found.lease, NEW)
        assert another.fetch(GROUP, KEY) == NEW
        assert server.ask(f"mg {KEY} t") in ("HD t4\r\n", "HD t3\r\n")

    def test_a_value_that_was_changed_meanwhile_is_not_renewed(self, connect: Connect, server: Memcached) -> None:
        backend, writer = connect(server, **self.SHORT), connect(server)
        found = self.expiring(backend, server)
        tombstones = writer.put_tombstones([KEY])

        assert not backend.fill(found.lease, OLD)
        writer.release(tombstones)
        take(writer)
        assert not backend.fill(found.lease, OLD)

    def test_it_can_be_left_out(self, connect: Connect, server: Memcached) -> None:
        backend = connect(server, ttl=4, refresh_ahead=0)
        store(backend, KEY, OLD)
        server.ask(f"mg {KEY} T1")

        assert backend.fetch(GROUP, KEY) == OLD

    def test_values_live_shorter_by_a_random_part(self, connect: Connect, server: Memcached) -> None:
        backend = connect(server, ttl=1000, ttl_jitter=0.5)
        lives = set()
        for key in keys(50):
            store(backend, key, OLD)
            lives.add(int(server.ask(f"mg {key} t").split("t")[1]))

        assert len(lives) > 10
        assert 499 <= min(lives) <= max(lives) <= 1000


class TestOutage:
    def test_tombstones_for_a_server_that_is_down_are_reported_and_the_others_placed(
        self, connect: Connect, memcached_servers: list[Memcached]
    ) -> None:
        backend = connect(*memcached_servers)
        backend.fetch_many(GROUP, keys(30))
        down = memcached_servers[1]
        down.kill()

        tombstones = backend.put_tombstones(keys(30), [OTHER_GROUP])

        lost = {key for key in keys(30) if backend._server_of(key) == down.url}
        assert lost
        assert not tombstones.complete
        assert tombstones.keys == frozenset(keys(30))
        assert tombstones.failed_keys == lost
        assert tombstones.failed_groups == {OTHER_GROUP}
        assert backend.fetch_many(GROUP, keys(30)) == [UNREACHABLE if key in lost else BLOCKED for key in keys(30)]
        backend.release(tombstones)
        found = backend.fetch_many(GROUP, keys(30))
        assert all(isinstance(one, Lease) for key, one in zip(keys(30), found, strict=True) if key not in lost)

    def test_a_release_reaches_a_server_that_was_down_when_its_tombstones_were_due(
        self, connect: Connect, memcached_servers: list[Memcached]
    ) -> None:
        backend, reader = connect(*memcached_servers), connect(*memcached_servers)
        for server in memcached_servers:
            server.kill()
        tombstones = backend.put_tombstones([KEY], [OTHER_GROUP])
        assert tombstones.failed_keys == {KEY}
        for server in memcached_servers:
            server.start()
        store(reader, KEY, OLD)
        store(reader, "pr:contract:team:sx", OLD, OTHER_GROUP)

        backend.release(tombstones)

        take(reader)
        take(reader, "pr:contract:team:sx", OTHER_GROUP)

    def test_a_release_asks_a_server_that_hangs_once_and_not_for_each_key(
        self, connect: Connect, server: Memcached
    ) -> None:
        backend, another = connect(server), connect(server)
        tombstones = backend.put_tombstones(keys(300))
        overlapping = another.put_tombstones(keys(300))
        errors = backend.counters.snapshot().errors
        lose_patience(backend, server)
        server.pause()
        try:
            assert round_trips(backend, lambda: backend.release(tombstones)) == 1
            assert backend.counters.snapshot().errors - errors == 2, "the exchange, and one attempt to connect again"
        finally:
            server.resume()

        assert another.fetch_many(GROUP, keys(300)) == [BLOCKED] * 300
        another.release(overlapping)

    def test_a_server_that_hangs_is_unreachable_and_answers_again_once_it_goes_on(
        self, connect: Connect, server: Memcached
    ) -> None:
        store(connect(server), KEY, OLD)
        backend = connect(server, timeout=0.05, connect_timeout=0.05)
        server.pause()
        try:
            assert backend.fetch(GROUP, KEY) is UNREACHABLE
            assert backend.fetch_many(GROUP, [KEY]) == [UNREACHABLE]
            assert backend.put_tombstones([KEY]).failed_keys == {KEY}
        finally:
            server.resume()

        patient = connect(server)
        patient._local = backend._local
        assert patient.fetch(GROUP, KEY) in (OLD, BLOCKED)  # the tombstone may have reached it

    def test_a_writer_waits_for_a_server_that_hangs_once(self, connect: Connect, server: Memcached) -> None:
        backend = connect(server)
        backend.release(backend.put_tombstones(keys(300)))
        before = backend.counters.snapshot()
        lose_patience(backend, server)
        server.pause()
        try:
            assert backend.put_tombstones(keys(300)).failed_keys == frozenset(keys(300))
        finally:
            server.resume()

        after = backend.counters.snapshot() - before
        assert (after.round_trips, after.errors) == (1, 1)

    def test_an_outage_is_logged_when_it_begins_and_when_it_ends(
        self, connect: Connect, server: Memcached, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "person_repo")
        backend = connect(server)
        take(backend)
        assert caplog.records == []

        for _ in range(2):
            caplog.clear()
            server.kill()
            for _ in range(5):
                backend.fetch(GROUP, KEY)
                backend.put_tombstones([KEY])
            assert [record.levelname for record in caplog.records] == ["WARNING"]
            assert f"memcached {server.url}: " in caplog.text
            assert "reads go to the database until it answers" in caplog.text

            caplog.clear()
            server.start()
            for _ in range(5):
                assert backend.fetch(GROUP, KEY) is not UNREACHABLE
            assert [(record.levelname, record.message) for record in caplog.records] == [
                ("INFO", f"memcached {server.url} answers again")
            ]

    def test_a_restart_closes_every_threads_connection_and_is_no_outage(
        self, connect: Connect, server: Memcached, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "person_repo")
        backend = connect(server)
        workers = [ThreadPoolExecutor(1) for _ in range(4)]
        for worker in workers:
            worker.submit(backend.fetch, GROUP, KEY).result()
        server.restart()

        for worker in workers:
            found = [worker.submit(backend.fetch, GROUP, KEY).result() for _ in range(2)]
            assert found[0] is UNREACHABLE
            assert found[1] is not UNREACHABLE
            worker.submit(backend.close).result()
            worker.shutdown()

        assert caplog.records == []
        assert backend.counters.snapshot().errors == len(workers)

    def test_failures_are_counted(self, connect: Connect, server: Memcached) -> None:
        backend = connect(server)
        server.kill()

        for _ in range(3):
            backend.fetch(GROUP, KEY)

        assert backend.counters.snapshot().errors == 3

    def test_a_server_that_fails_too_often_is_left_alone_but_for_one_probe_at_a_time(
        self, connect: Connect, server: Memcached, door: Door
    ) -> None:
        clock = Clock()
        backend = connect(door, breaker_failures=3, breaker_reset=5.0, monotonic=clock)
        store(connect(server), KEY, OLD)
        assert backend.fetch(GROUP, KEY) == OLD
        door.answer = lambda *_: False
        for _ in range(4):
            assert backend.fetch(GROUP, KEY) is UNREACHABLE
        visitors, failures = door.visitors, backend.counters.snapshot().errors

        assert [backend.fetch(GROUP, KEY), *backend.fetch_many(GROUP, [KEY])] == [UNREACHABLE] * 2
        assert backend.put_tombstones([KEY]).missing == {(door.url, KEY)}
        assert (door.visitors, backend.counters.snapshot().errors) == (visitors, failures)
        assert backend.counters.snapshot().circuit_open == 3

        clock.now += 5.0
        assert [backend.fetch(GROUP, KEY) for _ in range(3)] == [UNREACHABLE] * 3
        assert door.visitors == visitors + 1, "one probe, which failed"

        clock.now += 5.0
        door.answer = None
        assert [backend.fetch(GROUP, KEY) for _ in range(3)] == [OLD] * 3

    def test_a_circuit_that_is_open_is_open_for_every_thread(
        self, connect: Connect, server: Memcached, door: Door
    ) -> None:
        backend = connect(door, breaker_failures=1, breaker_reset=60.0)
        store(connect(server), KEY, OLD)
        with ThreadPoolExecutor(1) as another:
            assert another.submit(backend.fetch, GROUP, KEY).result() == OLD
            door.answer = lambda *_: False
            backend.fetch(GROUP, KEY)
            backend.fetch(GROUP, KEY)
            door.answer = None

            assert another.submit(backend.fetch, GROUP, KEY).result() is UNREACHABLE
            another.submit(backend.close).result()

    def test_one_server_that_is_left_alone_takes_nothing_from_the_others(
        self, connect: Connect, memcached_servers: list[Memcached]
    ) -> None:
        backend = connect(*memcached_servers, breaker_failures=1, breaker_reset=60.0)
        placed = {key: backend._server_of(key) for key in keys(30)}
        for key in keys(30):
            store(backend, key, key.encode())
        down = memcached_servers[1]
        down.kill()
        for _ in range(3):
            found = dict(zip(keys(30), backend.fetch_many(GROUP, keys(30)), strict=True))

        assert {key for key, value in found.items() if value is UNREACHABLE} == {
            key for key, server in placed.items() if server == down.url
        }
        assert all(found[key] == key.encode() for key, server in placed.items() if server != down.url)
        assert {key: backend._server_of(key) for key in keys(30)} == placed

    def test_a_server_is_dialled_where_its_address_says_and_goes_by_its_name(
        self, connect: Connect, server: Memcached, door: Door
    ) -> None:
        backend = connect("cache.example:11211")
        backend.addresses["cache.example:11211"] = door.url

        store(backend, KEY, OLD)

        assert door.visitors == 1
        assert backend.places_of(GROUP, KEY) == (("cache.example:11211", KEY), ("cache.example:11211", MARKER))

    def test_an_operation_waits_once_for_all_its_servers(
        self, connect: Connect, memcached_servers: list[Memcached]
    ) -> None:
        """Two of three servers hang; what is left of the patience after the first is no second timeout."""
        backend = connect(*memcached_servers)
        for key in keys(30):
            store(backend, key, key.encode())
        backend.settings = replace(backend.settings, timeout=0.2)
        waited: list[float] = []
        for server in memcached_servers:
            connection = backend._connection(server.url, Patience(10.0))
            connection._socket = Watched(connection._socket, waited)
        hanging = memcached_servers[:2]
        for server in hanging:
            server.pause()
        try:
            found = dict(zip(keys(30), backend.fetch_many(GROUP, keys(30)), strict=True))
        finally:
            for server in hanging:
                server.resume()

        assert sum(waited) < 0.2 + 3 * 0.1, "what the sockets were told to wait"
        for key, value in found.items():
            assert value == key.encode() or backend._server_of(key) in {server.url for server in hanging}

    def test_where_connecting_has_used_up_the_patience_a_moment_is_left_to_ask(
        self, connect: Connect, server: Memcached
    ) -> None:
        backend = connect(server)
        store(backend, KEY, OLD)
        opened = MemcachedBackend._connection

        def slow(self: MemcachedBackend, server: str, patience: Patience) -> Connection:
            connection = opened(self, server, patience)
            patience.left = -1.0
            return connection

        backend.close()
        with mock.patch.object(MemcachedBackend, "_connection", slow):
            assert backend.fetch(GROUP, KEY) == OLD

    def test_a_retired_item_is_gone_with_its_lease_and_others_tombstones_stay(
        self, connect: Connect, server: Memcached
    ) -> None:
        backend, reader = connect(server), connect(server)
        store(reader, KEY, OLD)
        lease = take(reader, OTHER_KEY)
        standing = backend.put_tombstones(keys(1))
        places = {(server.url, name) for name in (KEY, OTHER_KEY, *keys(1))}

        assert backend.retire(places) == places

        take(reader)
        assert not reader.fill(lease, OLD)
        assert reader.fetch(GROUP, keys(1)[0]) is BLOCKED
        backend.release(standing)
        take(reader, keys(1)[0])

    def test_a_retired_marker_ends_its_epoch(self, connect: Connect, server: Memcached) -> None:
        backend, reader = connect(server), connect(server)
        store(reader, KEY, OLD)

        assert backend.retire([(server.url, MARKER)]) == {(server.url, MARKER)}

        take(reader)

    def test_what_cannot_be_reached_is_not_retired(self, connect: Connect, server: Memcached) -> None:
        backend = connect(server)
        backend.fetch(GROUP, KEY)
        server.kill()

        assert backend.retire([(server.url, KEY), ("elsewhere:11211", KEY)]) == frozenset()

    def test_a_release_tells_where_nobody_answered(self, connect: Connect, server: Memcached) -> None:
        backend = connect(server)
        tombstones = backend.put_tombstones([KEY], [OTHER_GROUP])
        server.kill()

        assert backend.release(tombstones) == {(server.url, KEY), (server.url, f"{OTHER_GROUP}:!")}

    def test_a_tombstone_and_its_release_reach_a_server_that_restarted_while_nobody_asked_it(
        self, connect: Connect, memcached_servers: list[Memcached]
    ) -> None:
        backend, reader = connect(*memcached_servers), connect(*memcached_servers)
        backend.fetch_many(GROUP, keys(30))
        for server in memcached_servers:
            server.restart()

        tombstones = backend.put_tombstones(keys(30), [OTHER_GROUP])

        assert tombstones.complete
        assert reader.fetch_many(GROUP, keys(30)) == [BLOCKED] * 30
        for server in memcached_servers:
            server.restart()
        reader.fetch_many(GROUP, keys(1))
        for key in keys(30):
            if isinstance(found := reader.fetch(GROUP, key), Lease):
                reader.fill(found, OLD)
        found_by_reader = reader.fetch_many(GROUP, keys(30))
        assert OLD in found_by_reader
        backend.release(tombstones)
        assert not any(isinstance(found, bytes) for found in reader.fetch_many(GROUP, keys(30)))

    def test_a_server_without_cas_ids_is_refused_by_name(
        self, connect: Connect, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It would take every fill, those of lost leases too."""
        with started("-C") as without:
            backend = connect(without)

            assert backend.fetch(GROUP, KEY) is UNREACHABLE
            assert backend.put_tombstones([KEY]).failed_keys == {KEY}

        assert "start it without -C" in caplog.text

    def test_an_older_memcached_is_told_from_a_broken_one(
        self, connect: Connect, door: Door, caplog: pytest.LogCaptureFixture
    ) -> None:
        backend = connect(door)
        take(backend)
        door.answer = NONSENSE["an older memcached"]

        backend.fetch(GROUP, KEY)

        assert "memcached 1.6 or newer is needed" in caplog.text


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Watched:
    """A socket that notes how long each wait may last."""

    def __init__(self, watched: Any, waited: list[float]) -> None:
        self._watched = watched
        self._waited = waited
        self._limit = watched.gettimeout()

    def settimeout(self, seconds: float) -> None:
        self._limit = seconds
        self._watched.settimeout(seconds)

    def recv(self, size: int) -> bytes:
        try:
            found: bytes = self._watched.recv(size)
        except TimeoutError:
            self._waited.append(self._limit)
            raise
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._watched, name)


def lose_patience(backend: MemcachedBackend, server: Memcached) -> None:
    """Short deadlines from now on: until now a busy machine may have needed the long ones."""
    backend.settings = replace(backend.settings, timeout=0.1, connect_timeout=0.1)
    backend._connection(server.url, Patience(10.0))


# Ways to a server


class TestWays:
    def test_a_unix_socket(self, connect: Connect) -> None:
        with (
            TemporaryDirectory(prefix="person_repo-") as folder,
            started(socket_path=Path(folder) / "cache sock") as server,
        ):
            backend, by_url = connect(server), MemcachedBackend({"url": f"memcached://{server.url}"})
            store(backend, KEY, OLD)

            assert by_url.fetch(GROUP, KEY) == OLD
            by_url.release(by_url.put_tombstones([KEY]))
            take(backend)
            by_url.close()

    def test_ipv6(self, connect: Connect, server: Memcached) -> None:
        try:
            door = Door(server.port, host="::1")
        except OSError:
            pytest.skip("this machine has no IPv6")
        with door:
            backend = connect(f"[::1]:{door.port}")
            store(backend, KEY, OLD)

            assert backend.fetch(GROUP, KEY) == OLD
            assert door.visitors == 1

    def test_each_address_of_a_name_is_tried(
        self, connect: Connect, server: Memcached, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """``localhost`` is ``::1`` first on many systems, and memcached listens on 127.0.0.1 there."""
        resolve = socket.getaddrinfo

        def both(host: str, *rest: Any, **options: Any) -> list[Any]:
            if host != "cache.example":
                return list(resolve(host, *rest, **options))
            return [found for address in ("127.0.0.9", "127.0.0.1") for found in resolve(address, *rest, **options)]

        monkeypatch.setattr(socket, "getaddrinfo", both)
        backend = connect(f"cache.example:{server.port}")

        take(backend)

    def test_a_name_that_nobody_knows_is_unreachable(
        self, connect: Connect, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def unknown(*_: object, **__: object) -> list[Any]:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        monkeypatch.setattr(socket, "getaddrinfo", unknown)

        assert connect("nowhere.example:11211").fetch(GROUP, KEY) is UNREACHABLE
        assert "Name or service not known" in caplog.text

    def test_a_url_of_another_scheme_is_refused(self) -> None:
        with pytest.raises(ConfigurationError, match="memory"):
            MemcachedBackend({"url": "memory://"})


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls"), "authority")


@pytest.fixture
def tls_door(server: Memcached, certificates: Certificates) -> Iterator[Door]:
    """TLS in front of the server, under the address and under a name."""
    files = certificates.issue("server", "127.0.0.1", "cache.example")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files)
    with Door(server.port, tls=context) as door:
        yield door


class TestTls:
    def test_everything_goes_through_it(self, connect: Connect, tls_door: Door, certificates: Certificates) -> None:
        backend = connect(tls_door, tls=True, tls_ca=str(certificates.ca))
        store(backend, KEY, b"x" * 500_000)
        found = backend.fetch_many(GROUP, [KEY, *keys(500)])

        assert found[0] == b"x" * 500_000
        assert backend.fill_many([(lease, lease.key.encode()) for lease in found if isinstance(lease, Lease)])
        assert backend.fetch_many(GROUP, keys(500)) == [key.encode() for key in keys(500)]
        backend.release(backend.put_tombstones(keys(500), [GROUP]))
        take(backend)
        assert tls_door.visitors == 1

    def test_it_is_set_by_a_url_too(self, tls_door: Door, certificates: Certificates) -> None:
        backend = MemcachedBackend(
            {"url": f"memcached://{tls_door.url}?tls=1&tls_ca={certificates.ca}&timeout=10&connect_timeout=10"}
        )
        take(backend)
        backend.close()

    def test_a_certificate_for_another_name_is_accepted_under_that_name_only(
        self, connect: Connect, server: Memcached, certificates: Certificates, caplog: pytest.LogCaptureFixture
    ) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificates.issue("named", "cache.example"))
        with Door(server.port, tls=context) as door:
            named = connect(door, tls=True, tls_ca=str(certificates.ca), tls_hostname="cache.example")
            take(named)

            assert connect(door, tls=True, tls_ca=str(certificates.ca)).fetch(GROUP, KEY) is UNREACHABLE
            assert "127.0.0.1" in caplog.text
            assert "certificate verify failed" in caplog.text

    def test_a_certificate_of_an_unknown_authority_is_refused(
        self, connect: Connect, tls_door: Door, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        stranger = Certificates(tmp_path, "stranger")
        backend = connect(tls_door, tls=True, tls_ca=str(stranger.ca))

        assert backend.fetch(GROUP, KEY) is UNREACHABLE
        assert backend.put_tombstones([KEY]).failed_keys == {KEY}
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert f"memcached {tls_door.url}: " in caplog.text
        assert "certificate verify failed" in caplog.text

    def test_the_systems_authorities_do_not_vouch_for_it(self, connect: Connect, tls_door: Door) -> None:
        assert connect(tls_door, tls=True).fetch(GROUP, KEY) is UNREACHABLE

    def test_a_client_certificate_is_shown_where_one_is_asked_for(
        self, connect: Connect, server: Memcached, certificates: Certificates
    ) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificates.issue("asking", "cache.example"))
        context.load_verify_locations(certificates.ca)
        context.verify_mode = ssl.CERT_REQUIRED
        certificate, key = certificates.issue("client", "client.example")
        trust: dict[str, Any] = {"tls": True, "tls_ca": str(certificates.ca), "tls_hostname": "cache.example"}
        with Door(server.port, tls=context) as door:
            take(connect(door, **trust, tls_cert=str(certificate), tls_key=str(key)))

            assert connect(door, **trust).fetch(GROUP, KEY) is UNREACHABLE

    def test_neither_side_talks_plainly_to_the_other(
        self, connect: Connect, server: Memcached, tls_door: Door, certificates: Certificates
    ) -> None:
        short: dict[str, Any] = {"timeout": 0.2, "connect_timeout": 0.2}

        assert connect(tls_door, **short).fetch(GROUP, KEY) is UNREACHABLE
        assert connect(server, tls=True, tls_ca=str(certificates.ca), **short).fetch(GROUP, KEY) is UNREACHABLE

    @pytest.mark.parametrize("option", ["tls_ca", "tls_cert"])
    def test_files_that_cannot_be_used_are_refused_at_once_by_name(self, option: str, tmp_path: Path) -> None:
        missing = str(tmp_path / "missing.pem")
        with pytest.raises(ConfigurationError, match=r"missing\.pem"):
            MemcachedBackend({"servers": ["127.0.0.1:1"], "tls": True, option: missing})
        empty = tmp_path / "empty.pem"
        empty.touch()
        with pytest.raises(ConfigurationError, match=r"empty\.pem"):
            MemcachedBackend({"servers": ["127.0.0.1:1"], "tls": True, option: str(empty)})
