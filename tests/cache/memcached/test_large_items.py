"""Values near the limit of a server, and tombstones on them."""

from __future__ import annotations

import os

import pytest
from support.exchanges import Connect, Raw, keys, started
from support.servers import Memcached

from person_repo.cache.contract import BLOCKED, Lease
from person_repo.cache.memcached.backend import MemcachedBackend
from person_repo.cache.memcached.connection import Budget
from person_repo.cache.memcached.items import BASE
from person_repo.testing.contract import GROUP, KEY, OTHER_KEY, store, take


def largest(backend: MemcachedBackend, server: Memcached) -> int:
    return backend._pool.connection(server.url, Budget(10.0)).largest_body - 8


def test_the_largest_value_is_stored_and_one_byte_more_is_not(connect: Connect, server: Memcached) -> None:
    backend = connect(server)
    size = largest(backend, server)
    assert size > 1_040_000

    store(backend, KEY, b"x" * size)
    assert backend.fetch(GROUP, KEY) == b"x" * size
    assert backend.fill(take(backend, OTHER_KEY), b"x" * (size + 1)) is False
    assert isinstance(backend.fetch(GROUP, OTHER_KEY), Lease)


@pytest.mark.parametrize("size", [500_000, 600_000, 1_000_000, None])
def test_a_large_value_takes_the_tombstones_of_several_owners(
    connect: Connect, server: Memcached, size: int | None
) -> None:
    backend = connect(server)
    store(backend, KEY, b"x" * (size or largest(backend, server)))

    placed = [backend.put_tombstones([KEY]) for _ in range(20)]

    assert all(tombstones.complete for tombstones in placed)
    for tombstones in placed:
        assert backend.fetch(GROUP, KEY) is BLOCKED
        backend.release(tombstones)
    take(backend)


def test_an_item_with_no_room_for_a_tombstone_is_replaced_by_one(connect: Connect, server: Memcached, raw: Raw) -> None:
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


def test_what_a_server_takes_is_learnt_from_the_server(connect: Connect) -> None:
    with started("-I", "512k") as small:
        backend, writer = connect(small), connect(small)
        lease = take(backend)
        tombstones = writer.put_tombstones([KEY])

        assert backend.fill(lease, b"x" * 600_000) is False

        assert backend.fetch(GROUP, KEY) is BLOCKED
        writer.release(tombstones)
        assert backend.fill(take(backend), b"x" * 500_000)


def test_a_batch_of_large_values_arrives_whole(connect: Connect, memcached_servers: list[Memcached]) -> None:
    backend = connect(*memcached_servers)
    values = {key: os.urandom(200_000) for key in keys(30)}
    leases = [lease for lease in backend.fetch_many(GROUP, list(values)) if isinstance(lease, Lease)]

    assert backend.fill_many([(lease, values[lease.key]) for lease in leases]) == [True] * 30
    assert backend.fetch_many(GROUP, list(values)) == list(values.values())
