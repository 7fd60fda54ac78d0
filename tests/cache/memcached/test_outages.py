"""Servers that are down, hang, restart or are left alone."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest import mock

import pytest
from support.clocks import Clock
from support.exchanges import MARKER, Connect, home, hurry, keys, round_trips, says_to_each, started
from support.servers import Memcached
from support.unruly import Door

from person_repo.cache.contract import BLOCKED, UNREACHABLE, Lease
from person_repo.cache.memcached.connection import Budget, Connection
from person_repo.cache.memcached.pool import Pool
from person_repo.testing.contract import GROUP, KEY, OLD, OTHER_GROUP, OTHER_KEY, store, take


class Watched:
    """A socket that notes the bound of each wait that timed out."""

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


def test_tombstones_for_a_server_that_is_down_are_reported_and_the_others_placed(
    connect: Connect, memcached_servers: list[Memcached]
) -> None:
    backend = connect(*memcached_servers)
    backend.fetch_many(GROUP, keys(30))
    down = memcached_servers[1]
    down.kill()

    tombstones = backend.put_tombstones(keys(30), [OTHER_GROUP])

    lost = {key for key in keys(30) if home(backend, key) == down.url}
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
    connect: Connect, memcached_servers: list[Memcached]
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


def test_a_release_asks_a_server_that_hangs_once_and_not_for_each_key(connect: Connect, server: Memcached) -> None:
    backend, another = connect(server), connect(server)
    tombstones = backend.put_tombstones(keys(300))
    overlapping = another.put_tombstones(keys(300))
    errors = backend.counters.snapshot().errors
    hurry(backend, 0.1)
    server.pause()
    try:
        assert round_trips(backend, lambda: backend.release(tombstones)) == 1
        assert backend.counters.snapshot().errors - errors == 2, "the exchange, and one attempt to connect again"
    finally:
        server.resume()

    assert another.fetch_many(GROUP, keys(300)) == [BLOCKED] * 300
    another.release(overlapping)


def test_a_server_that_hangs_is_unreachable_and_answers_again_once_it_goes_on(
    connect: Connect, server: Memcached
) -> None:
    store(connect(server), KEY, OLD)
    backend = connect(server)
    hurry(backend, 0.05)
    server.pause()
    try:
        assert backend.fetch(GROUP, KEY) is UNREACHABLE
        assert backend.fetch_many(GROUP, [KEY]) == [UNREACHABLE]
        assert backend.put_tombstones([KEY]).failed_keys == {KEY}
    finally:
        server.resume()

    hurry(backend, 10.0)
    assert backend.fetch(GROUP, KEY) in (OLD, BLOCKED)  # the tombstone may have reached it


def test_a_writer_waits_for_a_server_that_hangs_once(connect: Connect, server: Memcached) -> None:
    backend = connect(server)
    backend.release(backend.put_tombstones(keys(300)))
    before = backend.counters.snapshot()
    hurry(backend, 0.1)
    server.pause()
    try:
        assert backend.put_tombstones(keys(300)).failed_keys == frozenset(keys(300))
    finally:
        server.resume()

    after = backend.counters.snapshot() - before
    assert (after.round_trips, after.errors) == (1, 1)


def test_an_outage_is_logged_when_it_begins_and_when_it_ends(
    connect: Connect, server: Memcached, caplog: pytest.LogCaptureFixture
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
    connect: Connect, server: Memcached, caplog: pytest.LogCaptureFixture
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


def test_failures_are_counted(connect: Connect, server: Memcached) -> None:
    backend = connect(server)
    server.kill()

    for _ in range(3):
        backend.fetch(GROUP, KEY)

    assert backend.counters.snapshot().errors == 3


def test_a_server_that_fails_too_often_is_left_alone_but_for_one_probe_at_a_time(
    connect: Connect, server: Memcached, door: Door
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


def test_a_circuit_that_is_open_is_open_for_every_thread(connect: Connect, server: Memcached, door: Door) -> None:
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
    connect: Connect, memcached_servers: list[Memcached]
) -> None:
    backend = connect(*memcached_servers, breaker_failures=1, breaker_reset=60.0)
    placed = {key: home(backend, key) for key in keys(30)}
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
    assert {key: home(backend, key) for key in keys(30)} == placed


def test_a_server_is_reached_at_its_address_and_known_by_its_name(
    connect: Connect, server: Memcached, door: Door
) -> None:
    backend = connect("cache.example:11211")
    backend.addresses["cache.example:11211"] = door.url

    store(backend, KEY, OLD)

    assert door.visitors == 1
    assert backend.places_of(GROUP, KEY) == (("cache.example:11211", KEY), ("cache.example:11211", MARKER))


def test_an_operation_waits_once_for_all_its_servers(connect: Connect, memcached_servers: list[Memcached]) -> None:
    """Two of three servers hang; both waits share one timeout."""
    backend = connect(*memcached_servers)
    for key in keys(30):
        store(backend, key, key.encode())
    hurry(backend, 0.5)
    waited: list[float] = []
    for server in memcached_servers:
        connection = backend._pool.connection(server.url, Budget(10.0))
        connection._socket = Watched(connection._socket, waited)
    hanging = memcached_servers[:2]
    for server in hanging:
        server.pause()
    try:
        found = dict(zip(keys(30), backend.fetch_many(GROUP, keys(30)), strict=True))
    finally:
        for server in hanging:
            server.resume()

    assert sum(waited) < 0.5 + 3 * 0.1
    for key, value in found.items():
        assert value == key.encode() or home(backend, key) in {server.url for server in hanging}


def test_after_connecting_has_used_up_the_budget_a_moment_is_left_to_ask(connect: Connect, server: Memcached) -> None:
    backend = connect(server)
    store(backend, KEY, OLD)
    opened = Pool.connection

    def slow(self: Pool, server: str, budget: Budget) -> Connection:
        connection = opened(self, server, budget)
        budget.remaining = -1.0
        return connection

    backend.close()
    with mock.patch.object(Pool, "connection", slow):
        assert backend.fetch(GROUP, KEY) == OLD


def test_a_retired_item_is_gone_with_its_lease_and_others_tombstones_stay(connect: Connect, server: Memcached) -> None:
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


def test_a_retired_marker_ends_its_epoch(connect: Connect, server: Memcached) -> None:
    backend, reader = connect(server), connect(server)
    store(reader, KEY, OLD)

    assert backend.retire([(server.url, MARKER)]) == {(server.url, MARKER)}

    take(reader)


def test_places_that_cannot_be_reached_are_not_retired(connect: Connect, server: Memcached) -> None:
    backend = connect(server)
    backend.fetch(GROUP, KEY)
    server.kill()

    assert backend.retire([(server.url, KEY), ("elsewhere:11211", KEY)]) == frozenset()


def test_a_release_returns_the_places_at_which_nobody_answered(connect: Connect, server: Memcached) -> None:
    backend = connect(server)
    tombstones = backend.put_tombstones([KEY], [OTHER_GROUP])
    server.kill()

    assert backend.release(tombstones) == {(server.url, KEY), (server.url, f"{OTHER_GROUP}:!")}


def test_a_tombstone_and_its_release_reach_a_server_that_restarted_while_nobody_asked_it(
    connect: Connect, memcached_servers: list[Memcached]
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


def test_a_server_without_cas_ids_is_refused_by_name(connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    """It would take every fill, even with a lost lease."""
    with started("-C") as without:
        backend = connect(without)

        assert backend.fetch(GROUP, KEY) is UNREACHABLE
        assert backend.put_tombstones([KEY]).failed_keys == {KEY}

    assert "start it without -C" in caplog.text


def test_an_older_memcached_is_not_taken_for_a_broken_one(
    connect: Connect, door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    backend = connect(door)
    take(backend)
    door.answer = says_to_each(b"ERROR\r\n")

    backend.fetch(GROUP, KEY)

    assert "memcached 1.6 or newer is needed" in caplog.text
