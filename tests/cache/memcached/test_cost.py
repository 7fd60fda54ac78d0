"""Round trips of each operation, counted."""

from __future__ import annotations

from support.exchanges import MARKER, Connect, Raw, keys, round_trips, stepwise
from support.servers import Memcached

from person_repo.cache.contract import Lease, Tombstones
from person_repo.cache.memcached.items import BASE
from person_repo.testing.contract import GROUP, KEY, OLD, OTHER_KEY, store, take


def test_a_hit_costs_one_round_trip(connect: Connect, server: Memcached) -> None:
    backend = connect(server)
    store(backend, KEY, OLD)

    assert round_trips(backend, lambda: backend.fetch(GROUP, KEY)) == 1


def test_a_miss_costs_two_round_trips(connect: Connect, server: Memcached) -> None:
    backend = connect(server)
    store(backend, OTHER_KEY, OLD)

    assert round_trips(backend, lambda: store(backend, KEY, OLD)) == 2


def test_the_first_miss_of_a_group_costs_one_round_trip_more(connect: Connect, server: Memcached) -> None:
    backend = connect(server)

    assert round_trips(backend, lambda: store(backend, KEY, OLD)) == 3


def test_items_that_nobody_may_fill_cost_one_round_trip(connect: Connect, server: Memcached) -> None:
    backend = connect(server)
    take(backend)
    assert round_trips(backend, lambda: backend.fetch(GROUP, KEY)) == 1

    tombstones = backend.put_tombstones([KEY])
    assert round_trips(backend, lambda: backend.fetch(GROUP, KEY)) == 1
    backend.release(tombstones)


def test_a_hundred_items_cost_one_round_trip_to_each_server(
    connect: Connect, memcached_servers: list[Memcached]
) -> None:
    backend = connect(*memcached_servers)
    for server in memcached_servers:
        Raw(server).set(MARKER, BASE + 8, b"12345678")

    leases: list[Lease] = []

    def miss() -> None:
        leases.extend(found for found in backend.fetch_many(GROUP, keys(100)) if isinstance(found, Lease))

    assert round_trips(backend, miss) == 3 + 3  # absent items are asked for again, with a lease
    assert len(leases) == 100
    assert round_trips(backend, lambda: backend.fill_many([(lease, OLD) for lease in leases])) == 3
    assert round_trips(backend, lambda: backend.fetch_many(GROUP, keys(100))) == 3
    assert backend.fetch_many(GROUP, keys(100)) == [OLD] * 100
    placed: list[Tombstones] = []
    assert round_trips(backend, lambda: placed.append(backend.put_tombstones(keys(100)))) == 3
    assert round_trips(backend, lambda: backend.release(placed[0])) == 3


def test_a_tombstone_costs_one_round_trip_and_its_release_another(connect: Connect, server: Memcached) -> None:
    backend = connect(server)
    placed: list[Tombstones] = []

    assert round_trips(backend, lambda: placed.append(backend.put_tombstones([KEY], [GROUP]))) == 1
    assert round_trips(backend, lambda: backend.release(placed[0])) == 1


def test_a_release_beside_another_owner_costs_two_more(connect: Connect, server: Memcached) -> None:
    backend = connect(server)
    first, second = backend.put_tombstones([KEY]), backend.put_tombstones([KEY])

    assert round_trips(backend, lambda: backend.release(first)) == 3
    assert round_trips(backend, lambda: backend.release(second)) == 2
    take(backend)


def test_a_release_ends_although_others_change_the_item_each_time(connect: Connect, server: Memcached) -> None:
    """It also removes a value that a reader filled after the tombstone was lost."""
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


def test_the_round_trips_counted_are_those_on_the_wire(connect: Connect, server: Memcached) -> None:
    backend = connect(server)
    steps = stepwise(backend, server)

    counted = round_trips(
        backend,
        lambda: (store(backend, KEY, OLD), backend.fetch_many(GROUP, keys(10)), backend.put_tombstones(keys(10))),
    )

    assert counted == steps.requests
