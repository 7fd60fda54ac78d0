"""The memory backend beyond the contract: it is bounded, it is one process's own, it survives a fork."""

from __future__ import annotations

import threading

import pytest
from support.clocks import Clock
from support.forks import forking, in_child

from person_repo.cache.contract import BLOCKED, BUSY, Expiring, Lease
from person_repo.cache.memory import MemoryBackend
from person_repo.exceptions import ConfigurationError
from person_repo.testing import GROUP, KEY, NEW, OLD, OTHER_KEY, store, take


def keys(count: int) -> list[str]:
    return [f"{GROUP}:s{number}" for number in range(count)]


def test_the_least_recently_used_item_goes_first() -> None:
    backend = MemoryBackend({"max_items": 3})
    oldest, used, newest, one_more = keys(4)
    for key in (oldest, used, newest):
        store(backend, key, key.encode())
    assert backend.fetch(GROUP, oldest) == oldest.encode()

    store(backend, one_more, b"")

    assert [backend.fetch(GROUP, key) for key in (oldest, newest, one_more)] == [oldest.encode(), newest.encode(), b""]
    assert isinstance(backend.fetch(GROUP, used), Lease)


def test_it_never_holds_more_items_than_it_may() -> None:
    backend = MemoryBackend({"max_items": 10})
    for key in keys(100):
        store(backend, key, OLD)

    assert [key for key in keys(100)[90:] if backend.fetch(GROUP, key) != OLD] == []
    assert sum(found == OLD for found in backend.fetch_many(GROUP, keys(90))) == 0


def test_leases_count_as_items_and_can_be_pushed_out() -> None:
    backend = MemoryBackend({"max_items": 2})
    lease = take(backend)
    for key in keys(2):
        take(backend, key)

    assert backend.fill(lease, OLD) is False


def test_no_number_of_items_pushes_a_tombstone_out() -> None:
    backend = MemoryBackend({"max_items": 2})
    tombstones = backend.put_tombstones([KEY])
    for key in keys(10):
        store(backend, key, OLD)

    assert backend.fetch(GROUP, KEY) is BLOCKED
    backend.release(tombstones)
    take(backend)


def test_items_for_dogpile_are_bounded_too() -> None:
    backend = MemoryBackend({"max_items": 2})
    item = b'{"ct": 1.5, "v": 2}|'
    for key in ("a", "b"):
        backend.set_serialized(key, item)
    assert backend.get_serialized("a") == item
    backend.set_serialized("c", item)

    assert [backend.get_serialized(key) == item for key in "abc"] == [True, False, True]


def test_a_value_lives_to_the_end_of_its_ttl_and_no_longer() -> None:
    clock = Clock()
    backend = MemoryBackend({"ttl": 10, "ttl_jitter": 0, "refresh_ahead": 0, "clock": clock})
    store(backend, KEY, OLD)

    clock.now += 9.999
    assert backend.fetch(GROUP, KEY) == OLD
    clock.now += 0.001
    take(backend)


def test_one_reader_may_renew_a_value_that_ends_soon_and_the_others_get_it() -> None:
    clock = Clock()
    backend = MemoryBackend({"ttl": 100, "ttl_jitter": 0, "refresh_ahead": 0.1, "clock": clock})
    store(backend, KEY, OLD)
    clock.now += 89.9
    assert backend.fetch(GROUP, KEY) == OLD

    clock.now += 0.1
    first, *others = [backend.fetch(GROUP, KEY), backend.fetch(GROUP, KEY), *backend.fetch_many(GROUP, [KEY])]

    assert isinstance(first, Expiring)
    assert (first.value, others) == (OLD, [OLD, OLD])
    backend.abandon([first.lease])
    assert backend.fetch(GROUP, KEY) == OLD, "what stands there is good to its end"
    assert backend.fill(first.lease, NEW)
    clock.now += 89.9
    assert backend.fetch(GROUP, KEY) == NEW


def test_a_value_that_was_changed_meanwhile_is_not_renewed() -> None:
    clock = Clock()
    backend = MemoryBackend({"ttl": 100, "ttl_jitter": 0, "refresh_ahead": 0.1, "clock": clock})
    store(backend, KEY, OLD)
    clock.now += 95
    found = backend.fetch(GROUP, KEY)
    assert isinstance(found, Expiring)
    tombstones = backend.put_tombstones([KEY])

    assert not backend.fill(found.lease, OLD)
    backend.release(tombstones)
    take(backend)
    assert not backend.fill(found.lease, OLD)


def test_values_filled_together_do_not_end_together() -> None:
    clock = Clock()
    backend = MemoryBackend({"ttl": 1000, "ttl_jitter": 0.5, "refresh_ahead": 0, "clock": clock})
    for key in keys(200):
        store(backend, key, OLD)
    living = []
    for _ in range(3):
        living.append(sum(isinstance(item, bytes) for item in backend.fetch_many(GROUP, keys(200))))
        clock.now += 499 if len(living) == 1 else 251

    assert living[0] == 200
    assert 180 < living[1] <= 200
    assert 40 < living[2] < 160


def test_reading_does_not_prolong_a_value() -> None:
    clock = Clock()
    backend = MemoryBackend({"ttl": 10, "ttl_jitter": 0, "refresh_ahead": 0, "clock": clock})
    store(backend, KEY, OLD)
    for _ in range(9):
        clock.now += 1
        assert backend.fetch(GROUP, KEY) == OLD

    clock.now += 1
    take(backend)


def test_each_operation_counts_as_one_round_trip_whatever_its_size() -> None:
    backend = MemoryBackend({})
    leases = [lease for lease in backend.fetch_many(GROUP, keys(100)) if isinstance(lease, Lease)]
    assert backend.counters.snapshot().round_trips == 1

    backend.fill_many([(lease, OLD) for lease in leases])
    backend.fetch(GROUP, KEY)
    backend.release(backend.put_tombstones(keys(100), [GROUP]))
    assert backend.counters.snapshot().round_trips == 5


def test_its_promise_reaches_as_far_as_its_process() -> None:
    assert MemoryBackend({}).coherence == "process"


def test_two_backends_share_nothing() -> None:
    one, other = MemoryBackend({}), MemoryBackend({})
    store(one, KEY, OLD)

    take(other)
    assert one.fetch(GROUP, KEY) == OLD


def test_an_unknown_option_is_refused_by_name() -> None:
    with pytest.raises(ConfigurationError, match="'tll'"):
        MemoryBackend({"tll": 3})


class TestFork:
    @forking
    def test_a_child_starts_empty(self) -> None:
        """It would never see its parent's invalidations."""
        backend = MemoryBackend({})
        store(backend, KEY, OLD)
        backend.set_serialized("plain", b'{"ct": 1.5, "v": 2}|')
        tombstones = backend.put_tombstones([OTHER_KEY], ["pr:contract:other"])

        def child() -> bool:
            store(backend, KEY, NEW)
            store(backend, OTHER_KEY, NEW)
            return isinstance(backend.get_serialized("plain"), bytes)

        assert in_child(child) == "False"
        assert backend.fetch(GROUP, KEY) == OLD
        assert backend.fetch(GROUP, OTHER_KEY) is BLOCKED
        backend.release(tombstones)

    @forking
    def test_a_child_forked_while_a_thread_holds_the_lock_is_not_locked_out(self) -> None:
        held, done = threading.Event(), threading.Event()

        class HoldingClock(Clock):
            """Reads the time with the lock held, and takes its own time for it."""

            def __call__(self) -> float:
                if threading.current_thread() is holder:
                    held.set()
                    done.wait()
                return self.now

        backend = MemoryBackend({"clock": HoldingClock()})
        holder = threading.Thread(target=lambda: backend.fetch(GROUP, KEY))
        holder.start()
        held.wait()
        try:
            assert in_child(lambda: isinstance(backend.fetch(GROUP, KEY), Lease)) == "True"
        finally:
            done.set()
            holder.join()
        assert backend.fetch(GROUP, KEY) is BUSY

    @forking
    def test_a_lease_of_the_parent_fills_nothing_in_the_child(self) -> None:
        backend = MemoryBackend({})
        lease = take(backend)

        assert in_child(lambda: backend.fill(lease, OLD)) == "False"
        assert backend.fill(lease, OLD)
