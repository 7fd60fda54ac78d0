"""The suite that every cache backend passes, for authors of backends.

A backend of your own passes it like this::

    from person_repo.testing import LeaseContract

    class TestMyBackend(LeaseContract):
        def make_backend(self, **arguments):
            return MyBackend({"servers": [...], **arguments})

pytest collects the class with all its tests, and so does any runner that takes plain classes with ``setup_method`` and
``teardown_method``; nothing of pytest is imported here. Each test calls ``make_backend`` once or twice, while it runs:
your own fixtures are ready by then.

That much tests everything that needs no fault and no passing of time. Give the suite these, and it tests the rest; the
tests that miss one are skipped, and the reason names it::

        def another(self, backend):                  # the same items, seen by another process
            return MyBackend({"servers": backend.servers})

        def forget(self, backend, key):              # one item is evicted
            my_server.delete(key)

        def forget_group(self, backend, group):      # the marker of a whole group is evicted
            my_server.delete(f"{group}:!")

        def restart(self, backend):                  # everything is forgotten, counters and ids included
            my_server.restart()

        def advance(self, backend, seconds):         # time passes: on a clock of yours, or time.sleep(seconds)
            my_clock.now += seconds

        too_large = 2_000_000                        # bytes of a value that is refused for its size

For pytest to explain failing asserts in full, ``pytest.register_assert_rewrite("person_repo.testing")`` in
``conftest.py`` before anything imports this module.

The module is long because the suite is one class, and one name for authors to subclass: parts of it would be mixins,
each readable only together with the others. Its headings are its parts.
"""

from __future__ import annotations

import threading
import unittest
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar, NoReturn, TypeVar

from dogpile.cache.api import NO_VALUE

from person_repo.cache.contract import BLOCKED, BUSY, Lease, LeaseBackend
from person_repo.testing.items import (
    AWKWARD,
    FOREIGN,
    GROUP,
    KEY,
    KEY_OF_OTHER_GROUP,
    NEW,
    OLD,
    OTHER_GROUP,
    OTHER_KEY,
    store,
    take,
    take_after_restart,
)

__all__ = ["LeaseContract"]

T = TypeVar("T")


class LeaseContract:
    """Every state and every transition of the lease contract, as tests of one backend; see the module.

    In the tests, ``reader`` and ``writer`` are two views of the same items: two processes, if ``another`` gives the
    second.
    """

    too_large: ClassVar[int | None] = None
    """Bytes of a value that the backend refuses for its size; None if it refuses none."""

    # Hooks for a subclass

    def make_backend(self, **arguments: int) -> LeaseBackend:
        """Returns a new backend that holds nothing. ``arguments``: fields of ``CacheSettings``, to be passed on."""
        raise NotImplementedError(f"{type(self).__name__}.make_backend(**arguments) is to give an empty LeaseBackend")

    def another(self, backend: LeaseBackend) -> LeaseBackend:
        """Returns a second backend with the same items and settings; the backend itself if there can be none."""
        return backend

    def forget(self, backend: LeaseBackend, key: str) -> None:
        """Loses the item of a key, whatever its state, as a cache that runs out of memory does."""
        self._not_given("forget(backend, key)", "evictions")

    def forget_group(self, backend: LeaseBackend, group: str) -> None:
        """Loses the marker of a whole group; leaves its items."""
        self._not_given("forget_group(backend, group)", "evictions of a group's marker")

    def restart(self, backend: LeaseBackend) -> None:
        """Loses everything and starts again, with the ids and counters of a new server."""
        self._not_given("restart(backend)", "restarts")

    def advance(self, backend: LeaseBackend, seconds: int) -> None:
        """Lets time pass, for the items and for the backends."""
        self._not_given("advance(backend, seconds)", "expiry")

    # How the tests use them

    def setup_method(self) -> None:
        """Called before each test."""
        self._open: list[LeaseBackend] = []

    def teardown_method(self) -> None:
        """Called after each test: closes its backends."""
        for backend in self._open:
            backend.close()

    def _not_given(self, hook: str, subject: str) -> NoReturn:
        raise unittest.SkipTest(f"{type(self).__name__} gives no {hook}: {subject} are NOT tested")

    def _backend(self, *, ttl: int = 3600, lease_ttl: int = 600, tombstone_ttl: int = 1200) -> LeaseBackend:
        # Nothing expires in a test that does not ask for it, however slow the machine.
        times = {"ttl": ttl, "lease_ttl": lease_ttl, "tombstone_ttl": tombstone_ttl}
        backend = self.make_backend(**times, ttl_jitter=0, refresh_ahead=0)
        self._open.append(backend)
        return backend

    def _both(
        self, *, ttl: int = 3600, lease_ttl: int = 600, tombstone_ttl: int = 1200
    ) -> tuple[LeaseBackend, LeaseBackend]:
        reader = self._backend(ttl=ttl, lease_ttl=lease_ttl, tombstone_ttl=tombstone_ttl)
        writer = self.another(reader)
        self._open.append(writer)
        return reader, writer

    @staticmethod
    def _elsewhere(backend: LeaseBackend, call: Callable[[], T]) -> T:
        """Makes the call in another thread, and returns its result."""

        def run() -> T:
            try:
                return call()
            finally:
                backend.close()

        with ThreadPoolExecutor(1) as thread:
            return thread.submit(run).result()

    # Reading

    def test_an_absent_item_gives_a_lease_for_its_key(self) -> None:
        reader, _ = self._both()

        lease = reader.fetch(GROUP, KEY)

        assert isinstance(lease, Lease), f"{lease!r} is no lease"
        assert lease.key == KEY

    def test_a_cache_that_answers_has_no_server_that_does_not(self) -> None:
        backend = self._backend()
        assert backend.unreachable() == frozenset()

    def test_a_lease_is_given_to_one_reader_only(self) -> None:
        reader, another = self._both()
        take(reader)

        assert reader.fetch(GROUP, KEY) is BUSY
        assert another.fetch(GROUP, KEY) is BUSY
        assert self._elsewhere(another, lambda: another.fetch(GROUP, KEY)) is BUSY
        assert another.fetch_many(GROUP, [KEY]) == [BUSY]

    def test_one_of_several_readers_at_the_same_moment_gets_the_lease(self) -> None:
        backend = self._backend()
        readers = 8
        together = threading.Barrier(readers)

        def fetch(_: int) -> object:
            try:
                together.wait()
                return backend.fetch(GROUP, KEY)
            finally:
                backend.close()

        with ThreadPoolExecutor(readers) as threads:
            results = list(threads.map(fetch, range(readers)))

        assert sum(isinstance(result, Lease) for result in results) == 1
        assert results.count(BUSY) == readers - 1

    def test_everybody_reads_what_was_filled_under_the_lease(self) -> None:
        reader, another = self._both()

        assert reader.fill(take(reader), OLD) is True

        assert reader.fetch(GROUP, KEY) == OLD
        assert another.fetch(GROUP, KEY) == OLD
        assert self._elsewhere(another, lambda: another.fetch(GROUP, KEY)) == OLD
        assert another.fetch_many(GROUP, [KEY]) == [OLD]

    def test_bytes_come_back_as_they_were_stored(self) -> None:
        reader, another = self._both()
        keys = [f"{GROUP}:s{number}" for number in range(len(AWKWARD))]
        for key, value in zip(keys, AWKWARD, strict=True):
            store(reader, key, value)

        for key, value in zip(keys, AWKWARD, strict=True):
            fetched = another.fetch(GROUP, key)
            assert type(fetched) is bytes, f"{value[:40]!r} came back as {fetched!r}"
            assert fetched == value
        assert another.fetch_many(GROUP, keys) == list(AWKWARD)

    def test_each_item_has_a_lease_of_its_own(self) -> None:
        reader, _ = self._both()
        store(reader, KEY, OLD)

        take(reader, OTHER_KEY)
        take(reader, KEY_OF_OTHER_GROUP, OTHER_GROUP)
        assert reader.fetch(GROUP, KEY) == OLD

    def test_values_are_forgotten_after_their_ttl(self) -> None:
        reader, _ = self._both(ttl=100)
        store(reader, KEY, OLD)

        self.advance(reader, 90)
        assert reader.fetch(GROUP, KEY) == OLD
        self.advance(reader, 12)
        take(reader)

    def test_a_group_may_have_a_ttl_of_its_own(self) -> None:
        reader, _ = self._both(ttl=100)
        store(reader, KEY, b"before")
        reader.set_ttl(GROUP, 20)
        store(reader, OTHER_KEY, OLD)
        store(reader, KEY_OF_OTHER_GROUP, OLD, OTHER_GROUP)

        self.advance(reader, 22)
        assert reader.fetch(OTHER_GROUP, KEY_OF_OTHER_GROUP) == OLD
        assert reader.fetch(GROUP, KEY) == b"before"
        take(reader, OTHER_KEY)

    # Rejecting

    def test_a_rejected_item_becomes_a_lease(self) -> None:
        reader, another = self._both()
        store(another, KEY, FOREIGN)

        lease = reader.fetch(GROUP, KEY, reject=FOREIGN)

        assert isinstance(lease, Lease)
        assert another.fetch(GROUP, KEY) is BUSY
        assert another.fetch(GROUP, KEY, reject=FOREIGN) is BUSY
        assert reader.fill(lease, NEW)
        assert another.fetch(GROUP, KEY) == NEW

    def test_an_item_that_replaced_the_rejected_one_stays(self) -> None:
        reader, another = self._both()
        store(another, KEY, NEW)

        assert reader.fetch(GROUP, KEY, reject=FOREIGN) == NEW
        assert another.fetch(GROUP, KEY) == NEW

    def test_rejecting_takes_neither_a_lease_nor_a_tombstone_away(self) -> None:
        reader, another = self._both()
        lease = take(another)

        assert reader.fetch(GROUP, KEY, reject=FOREIGN) is BUSY
        assert reader.fetch(GROUP, KEY, reject=b"") is BUSY
        assert another.fill(lease, FOREIGN)
        tombstones = another.put_tombstones([KEY])
        assert reader.fetch(GROUP, KEY, reject=FOREIGN) is BLOCKED
        another.release(tombstones)

    def test_rejecting_an_absent_item_gives_a_lease(self) -> None:
        reader, _ = self._both()

        assert isinstance(reader.fetch(GROUP, KEY, reject=FOREIGN), Lease)

    def test_an_empty_value_can_be_rejected(self) -> None:
        reader, _ = self._both()
        store(reader, KEY, b"")

        assert isinstance(reader.fetch(GROUP, KEY, reject=b""), Lease)

    # Giving leases back

    def test_after_an_abandoned_lease_the_next_reader_gets_one(self) -> None:
        reader, another = self._both()
        lease = take(reader)

        reader.abandon([lease])

        assert another.fill(take(another), OLD)

    def test_an_abandoned_lease_fills_nothing(self) -> None:
        reader, another = self._both()
        lease = take(reader)
        reader.abandon([lease])

        assert reader.fill(lease, OLD) is False
        successor = take(another)
        assert reader.fill(lease, OLD) is False
        assert another.fill(successor, NEW)
        assert reader.fetch(GROUP, KEY) == NEW

    def test_abandoning_a_lost_lease_takes_nothing_from_others(self) -> None:
        reader, writer = self._both()
        lease = take(reader)
        tombstones = writer.put_tombstones([KEY])

        reader.abandon([lease])
        assert reader.fetch(GROUP, KEY) is BLOCKED

        writer.release(tombstones)
        successor = take(writer)
        reader.abandon([lease])
        assert reader.fetch(GROUP, KEY) is BUSY

        assert writer.fill(successor, NEW)
        reader.abandon([lease])
        assert reader.fetch(GROUP, KEY) == NEW

    # Refused fills

    def test_a_lease_is_spent_by_its_fill(self) -> None:
        reader, _ = self._both()
        lease = take(reader)
        assert reader.fill(lease, NEW)

        assert reader.fill(lease, OLD) is False
        assert reader.fetch(GROUP, KEY) == NEW

    def test_a_fill_is_refused_while_a_tombstone_placed_since_stands(self) -> None:
        """A reader that loaded the old row before the commit cannot store it."""
        reader, writer = self._both()
        lease = take(reader)
        tombstones = writer.put_tombstones([KEY])

        assert reader.fill(lease, OLD) is False

        assert reader.fetch(GROUP, KEY) is BLOCKED
        writer.release(tombstones)
        take(reader)

    def test_a_fill_is_refused_after_the_tombstone_placed_since_was_released(self) -> None:
        reader, writer = self._both()
        lease = take(reader)
        writer.release(writer.put_tombstones([KEY]))

        assert reader.fill(lease, OLD) is False
        successor = take(writer)
        assert reader.fill(lease, OLD) is False
        assert writer.fill(successor, NEW)
        assert reader.fill(lease, OLD) is False
        assert reader.fetch(GROUP, KEY) == NEW

    def test_a_fill_is_refused_after_two_overlapping_writers(self) -> None:
        reader, writer = self._both()
        lease = take(reader)
        first, second = writer.put_tombstones([KEY]), reader.put_tombstones([KEY])
        writer.release(first)

        assert reader.fill(lease, OLD) is False
        reader.release(second)
        assert reader.fill(lease, OLD) is False
        take(writer)

    def test_a_fill_is_refused_once_its_item_was_evicted(self) -> None:
        reader, another = self._both()
        lease = take(reader)
        self.forget(reader, KEY)

        assert reader.fill(lease, OLD) is False
        successor = take(another)
        assert reader.fill(lease, OLD) is False
        assert another.fill(successor, NEW)
        assert another.fetch(GROUP, KEY) == NEW

    def test_a_fill_is_refused_once_the_lease_has_expired(self) -> None:
        reader, _ = self._both(lease_ttl=10)
        lease = take(reader)
        self.advance(reader, 12)

        assert reader.fill(lease, OLD) is False
        take(reader)

    def test_a_fill_is_refused_once_an_expired_lease_was_given_to_another(self) -> None:
        reader, another = self._both(lease_ttl=10)
        lease = take(reader)
        self.advance(reader, 12)
        successor = take(another)

        assert reader.fill(lease, OLD) is False
        assert another.fill(successor, NEW)
        assert reader.fetch(GROUP, KEY) == NEW

    def test_a_lease_taken_over_by_rejecting_expires_too(self) -> None:
        reader, another = self._both(lease_ttl=10)
        store(reader, KEY, FOREIGN)
        lease = reader.fetch(GROUP, KEY, reject=FOREIGN)
        assert isinstance(lease, Lease)
        self.advance(reader, 12)

        assert another.fill(take(another), NEW)
        assert reader.fill(lease, OLD) is False

    def test_a_fill_is_refused_after_a_restart(self) -> None:
        reader, another = self._both()
        lease = take(reader)
        self.restart(reader)

        assert reader.fill(lease, OLD) is False
        assert another.fill(take_after_restart(another), NEW)
        assert another.fetch(GROUP, KEY) == NEW

    def test_a_lease_from_before_a_restart_is_not_taken_for_the_one_after_it(self) -> None:
        """Ids that start again with the server give two leases the same id."""
        reader, another = self._both()
        self.restart(reader)  # makes the ids before and after the next restart the same
        lease = take(reader)
        self.restart(reader)
        successor = take_after_restart(another)

        assert reader.fill(lease, OLD) is False
        assert another.fetch(GROUP, KEY) is BUSY
        assert another.fill(successor, NEW)

    def test_abandoning_a_lease_from_before_a_restart_leaves_the_one_after_it(self) -> None:
        reader, another = self._both()
        self.restart(reader)  # makes the ids before and after the next restart the same
        lease = take(reader)
        self.restart(reader)
        successor = take_after_restart(another)

        reader.abandon([lease])

        assert another.fill(successor, NEW)

    def test_a_value_too_large_is_refused_and_harms_nobody(self) -> None:
        reader, writer = self._both()
        large = self._too_large()
        store(reader, OTHER_KEY, NEW)

        assert reader.fill(take(reader), large) is False

        assert not isinstance(writer.fetch(GROUP, KEY), bytes)
        assert reader.fetch(GROUP, OTHER_KEY) == NEW
        assert reader.fetch_many(GROUP, [OTHER_KEY]) == [NEW]

    def test_a_value_too_large_does_not_lift_a_tombstone(self) -> None:
        """A server that refuses an item for its size may delete the one below it, but not a tombstone."""
        reader, writer = self._both()
        lease = take(reader)
        tombstones = writer.put_tombstones([KEY])

        assert reader.fill(lease, self._too_large()) is False

        assert reader.fetch(GROUP, KEY) is BLOCKED
        writer.release(tombstones)

    def _too_large(self) -> bytes:
        if self.too_large is None:
            raise unittest.SkipTest(f"{type(self).__name__}.too_large is None: values of any size are taken")
        return b"x" * self.too_large

    # Batches

    def test_a_batch_of_any_states_is_answered_in_the_order_of_its_keys(self) -> None:
        reader, another = self._both()
        keys = [f"{GROUP}:s{state}" for state in ("absent", "value", "leased", "blocked", "other-value")]
        store(another, keys[1], OLD)
        take(another, keys[2])
        tombstones = another.put_tombstones([keys[3]])
        store(another, keys[4], NEW)

        absent, *others = reader.fetch_many(GROUP, keys)

        assert isinstance(absent, Lease)
        assert absent.key == keys[0]
        assert others == [OLD, BUSY, BLOCKED, NEW]
        assert reader.fetch_many(GROUP, keys[::-1]) == [NEW, BLOCKED, BUSY, OLD, BUSY]
        another.release(tombstones)

    def test_empty_batches_have_empty_answers(self) -> None:
        reader, writer = self._both()

        assert reader.fetch_many(GROUP, []) == []
        assert reader.fill_many([]) == []
        reader.abandon([])
        tombstones = writer.put_tombstones([])
        assert tombstones.complete
        assert tombstones.keys == tombstones.groups == frozenset()
        writer.release(tombstones)

    def test_a_batch_of_fills_answers_for_each_lease(self) -> None:
        reader, writer = self._both()
        keys = [f"{GROUP}:s{number}" for number in range(4)]
        leases = [lease for lease in reader.fetch_many(GROUP, keys) if isinstance(lease, Lease)]
        assert [lease.key for lease in leases] == keys
        writer.release(writer.put_tombstones([keys[1], keys[3]]))

        assert reader.fill_many([(lease, lease.key.encode()) for lease in leases]) == [True, False, True, False]

        first, second, third, fourth = writer.fetch_many(GROUP, keys)
        assert [first, third] == [keys[0].encode(), keys[2].encode()]
        assert isinstance(second, Lease)
        assert isinstance(fourth, Lease)

    def test_leases_of_batches_can_be_filled_one_by_one_and_the_other_way_round(self) -> None:
        reader, _ = self._both()
        (batched,) = reader.fetch_many(GROUP, [KEY])
        assert isinstance(batched, Lease)

        assert reader.fill(batched, OLD)
        assert reader.fill_many([(take(reader, OTHER_KEY), NEW)]) == [True]
        assert reader.fetch_many(GROUP, [OTHER_KEY, KEY]) == [NEW, OLD]

    def test_a_batch_of_leases_is_abandoned_at_once(self) -> None:
        reader, another = self._both()
        keys = [f"{GROUP}:s{number}" for number in range(50)]
        reader.abandon([lease for lease in reader.fetch_many(GROUP, keys) if isinstance(lease, Lease)])

        assert all(isinstance(fetched, Lease) for fetched in another.fetch_many(GROUP, keys))

    def test_three_thousand_items_go_through_every_state_in_order(self) -> None:
        reader, writer = self._both()
        keys = [f"{GROUP}:s{number:04}" for number in range(3000)]
        values = [f"{number}".encode() for number in range(3000)]

        leases = [lease for lease in reader.fetch_many(GROUP, keys) if isinstance(lease, Lease)]
        assert [lease.key for lease in leases] == keys
        assert writer.fetch_many(GROUP, keys) == [BUSY] * 3000
        assert reader.fill_many(list(zip(leases, values, strict=True))) == [True] * 3000
        assert writer.fetch_many(GROUP, keys) == values

        tombstones = writer.put_tombstones(keys)
        assert tombstones.complete
        assert tombstones.keys == frozenset(keys)
        assert reader.fetch_many(GROUP, keys) == [BLOCKED] * 3000
        writer.release(tombstones)
        again = [lease for lease in reader.fetch_many(GROUP, keys) if isinstance(lease, Lease)]
        assert [lease.key for lease in again] == keys

    # Tombstones

    def test_tombstones_name_the_items_and_groups_they_were_placed_on(self) -> None:
        _, writer = self._both()

        tombstones = writer.put_tombstones([KEY, OTHER_KEY], [OTHER_GROUP])

        assert tombstones.complete
        assert tombstones.keys == {KEY, OTHER_KEY}
        assert tombstones.groups == {OTHER_GROUP}
        assert tombstones.failed_keys == tombstones.failed_groups == frozenset()
        writer.release(tombstones)

    def test_a_tombstone_blocks_an_item_in_any_state(self) -> None:
        reader, writer = self._both()
        store(reader, KEY, OLD)
        take(reader, OTHER_KEY)
        absent = f"{GROUP}:sabsent"
        keys = [KEY, OTHER_KEY, absent]

        tombstones = writer.put_tombstones(keys)

        assert [reader.fetch(GROUP, key) for key in keys] == [BLOCKED] * 3
        assert reader.fetch_many(GROUP, keys) == [BLOCKED] * 3
        assert writer.fetch(GROUP, KEY) is BLOCKED
        writer.release(tombstones)

    def test_a_tombstone_blocks_nothing_else(self) -> None:
        reader, writer = self._both()
        store(reader, OTHER_KEY, NEW)

        tombstones = writer.put_tombstones([KEY])

        assert reader.fetch(GROUP, OTHER_KEY) == NEW
        take(reader, KEY_OF_OTHER_GROUP, OTHER_GROUP)
        writer.release(tombstones)
        assert reader.fetch(GROUP, OTHER_KEY) == NEW

    def test_after_the_release_the_item_is_loaded_afresh(self) -> None:
        reader, writer = self._both()
        store(reader, KEY, OLD)

        writer.release(writer.put_tombstones([KEY, OTHER_KEY]))

        for key in (KEY, OTHER_KEY):
            assert reader.fill(take(reader, key), NEW)
            assert writer.fetch(GROUP, key) == NEW

    def test_the_first_of_two_owners_leaves_the_tombstone_of_the_second(self) -> None:
        reader, writer = self._both()
        store(reader, KEY, OLD)
        first, second = writer.put_tombstones([KEY]), reader.put_tombstones([KEY])

        writer.release(first)
        assert reader.fetch(GROUP, KEY) is BLOCKED
        assert reader.fetch_many(GROUP, [KEY]) == [BLOCKED]
        reader.release(second)
        take(reader)

    def test_the_second_of_two_owners_leaves_the_tombstone_of_the_first(self) -> None:
        reader, writer = self._both()
        store(reader, KEY, OLD)
        first, second = writer.put_tombstones([KEY]), reader.put_tombstones([KEY])

        reader.release(second)
        assert writer.fetch(GROUP, KEY) is BLOCKED
        assert writer.fetch_many(GROUP, [KEY]) == [BLOCKED]
        writer.release(first)
        take(writer)

    def test_among_many_owners_each_removes_its_own(self) -> None:
        reader, writer = self._both()
        owners = [(writer, reader)[number % 2] for number in range(6)]
        placed = [owner.put_tombstones([KEY, OTHER_KEY]) for owner in owners]

        for number in (3, 0, 5, 4, 1):
            owners[number].release(placed[number])
            assert reader.fetch_many(GROUP, [KEY, OTHER_KEY]) == [BLOCKED, BLOCKED]
        owners[2].release(placed[2])
        take(reader)
        take(reader, OTHER_KEY)

    def test_a_tombstone_may_be_released_by_another_thread(self) -> None:
        reader, writer = self._both()
        tombstones = writer.put_tombstones([KEY])

        self._elsewhere(writer, lambda: writer.release(tombstones))

        take(reader)

    def test_releasing_again_takes_nothing_from_others(self) -> None:
        reader, writer = self._both()
        first = writer.put_tombstones([KEY], [OTHER_GROUP])
        writer.release(first)
        second = reader.put_tombstones([KEY], [OTHER_GROUP])

        writer.release(first)

        assert reader.fetch(GROUP, KEY) is BLOCKED
        assert reader.fetch(OTHER_GROUP, KEY_OF_OTHER_GROUP) is BLOCKED
        reader.release(second)

    def test_a_lost_tombstone_is_released_without_harm(self) -> None:
        reader, writer = self._both()
        tombstones = writer.put_tombstones([KEY])
        self.forget(writer, KEY)

        writer.release(tombstones)

        take(reader)

    def test_a_release_deletes_a_lease_that_replaced_the_lost_tombstone(self) -> None:
        """The reader took the lease before the commit, and may have loaded the old row."""
        reader, writer = self._both()
        tombstones = writer.put_tombstones([KEY])
        self.forget(writer, KEY)
        lease = take(reader)

        writer.release(tombstones)

        assert reader.fill(lease, OLD) is False
        take(reader)

    def test_a_release_deletes_a_value_that_replaced_the_lost_tombstone(self) -> None:
        reader, writer = self._both()
        tombstones = writer.put_tombstones([KEY])
        self.forget(writer, KEY)
        store(reader, KEY, OLD)

        writer.release(tombstones)

        take(reader)

    def test_a_release_leaves_another_writers_tombstone_that_replaced_the_lost_one(self) -> None:
        reader, writer = self._both()
        lost = writer.put_tombstones([KEY])
        self.forget(writer, KEY)
        standing = reader.put_tombstones([KEY])

        writer.release(lost)

        assert reader.fetch(GROUP, KEY) is BLOCKED
        reader.release(standing)
        take(reader)

    def test_an_old_value_under_another_writers_tombstone_goes_with_that_tombstone(self) -> None:
        """A tombstone was lost, a reader filled the old row, and another writer's tombstone stands on that."""
        reader, writer = self._both()
        lost = writer.put_tombstones([KEY])
        self.forget(writer, KEY)
        store(reader, KEY, OLD)
        standing = reader.put_tombstones([KEY])

        writer.release(lost)
        assert reader.fetch(GROUP, KEY) is BLOCKED
        reader.release(standing)

        take(reader)

    def test_a_release_deletes_what_was_filled_since_a_restart(self) -> None:
        reader, writer = self._both()
        tombstones = writer.put_tombstones([KEY, OTHER_KEY])
        self.restart(writer)
        assert reader.fill(take_after_restart(reader), OLD)
        leased = take_after_restart(reader, OTHER_KEY)

        writer.release(tombstones)

        assert reader.fill(leased, OLD) is False
        take(reader)
        take(reader, OTHER_KEY)

    def test_a_release_by_one_of_two_owners_deletes_what_was_filled_since_a_restart(self) -> None:
        reader, writer = self._both()
        first, second = writer.put_tombstones([KEY], [OTHER_GROUP]), writer.put_tombstones([KEY], [OTHER_GROUP])
        self.restart(writer)
        assert reader.fill(take_after_restart(reader), OLD)
        assert reader.fill(take(reader, KEY_OF_OTHER_GROUP, OTHER_GROUP), OLD)

        writer.release(second)

        take(reader)
        take(reader, KEY_OF_OTHER_GROUP, OTHER_GROUP)
        writer.release(first)

    def test_a_tombstone_from_before_a_restart_is_not_taken_for_another_writers_after_it(self) -> None:
        reader, writer = self._both()
        self.restart(reader)  # makes the ids before and after the next restart the same
        lost = writer.put_tombstones([KEY])
        self.restart(writer)
        standing = reader.put_tombstones([KEY])
        assert standing.complete

        writer.release(lost)

        assert reader.fetch(GROUP, KEY) is BLOCKED
        reader.release(standing)
        take(reader)

    def test_a_tombstone_can_be_placed_after_a_restart(self) -> None:
        reader, writer = self._both()
        writer.release(writer.put_tombstones([KEY]))
        self.restart(writer)

        tombstones = writer.put_tombstones([KEY], [OTHER_GROUP])

        assert tombstones.complete
        assert reader.fetch(GROUP, KEY) is BLOCKED
        writer.release(tombstones)

    def test_the_tombstone_of_a_writer_that_died_ends(self) -> None:
        reader, writer = self._both(tombstone_ttl=100)
        store(reader, KEY, OLD)
        writer.put_tombstones([KEY])

        self.advance(reader, 90)
        assert reader.fetch(GROUP, KEY) is BLOCKED
        self.advance(reader, 12)
        take(reader)

    def test_a_tombstone_outlives_the_item_below_it(self) -> None:
        reader, writer = self._both(ttl=20, lease_ttl=20, tombstone_ttl=100)
        store(reader, KEY, OLD)
        take(reader, OTHER_KEY)
        writer.put_tombstones([KEY, OTHER_KEY])

        self.advance(reader, 50)

        assert reader.fetch_many(GROUP, [KEY, OTHER_KEY]) == [BLOCKED, BLOCKED]

    def test_a_tombstone_placed_later_lasts_its_time_too(self) -> None:
        reader, writer = self._both(tombstone_ttl=100)
        first = writer.put_tombstones([KEY])
        self.advance(reader, 60)
        second = reader.put_tombstones([KEY])
        writer.release(first)

        self.advance(reader, 60)

        assert reader.fetch(GROUP, KEY) is BLOCKED
        reader.release(second)
        take(reader)

    def test_later_writers_do_not_keep_the_tombstone_of_a_dead_one_alive(self) -> None:
        reader, writer = self._both(tombstone_ttl=100)
        writer.put_tombstones([KEY], [OTHER_GROUP])

        for _ in range(4):
            self.advance(reader, 40)
            reader.release(reader.put_tombstones([KEY], [OTHER_GROUP]))

        take(reader)
        take(reader, KEY_OF_OTHER_GROUP, OTHER_GROUP)

    # Groups

    def test_a_tombstone_on_a_group_blocks_all_of_it_and_nothing_else(self) -> None:
        reader, writer = self._both()
        leased = f"{GROUP}:sleased"
        keys = [KEY, OTHER_KEY, leased]
        store(reader, KEY, OLD)
        take(reader, leased)
        store(reader, KEY_OF_OTHER_GROUP, NEW, OTHER_GROUP)

        tombstones = writer.put_tombstones([], [GROUP])

        assert tombstones.complete
        assert [reader.fetch(GROUP, key) for key in keys] == [BLOCKED] * 3
        assert reader.fetch(GROUP, KEY, reject=OLD) is BLOCKED
        assert reader.fetch_many(GROUP, keys) == [BLOCKED] * 3
        assert reader.fetch(OTHER_GROUP, KEY_OF_OTHER_GROUP) == NEW
        writer.release(tombstones)
        assert reader.fetch(OTHER_GROUP, KEY_OF_OTHER_GROUP) == NEW

    def test_a_tombstone_on_a_group_that_nobody_has_read_blocks_it(self) -> None:
        reader, writer = self._both()

        tombstones = writer.put_tombstones([], [GROUP])

        assert reader.fetch(GROUP, KEY) is BLOCKED
        writer.release(tombstones)
        assert reader.fill(take(reader), NEW)
        assert reader.fetch(GROUP, KEY) == NEW

    def test_after_the_release_of_a_group_no_item_of_it_is_a_value(self) -> None:
        reader, writer = self._both()
        keys = [f"{GROUP}:s{number}" for number in range(50)]
        for key in keys:
            store(reader, key, OLD)

        writer.release(writer.put_tombstones([], [GROUP]))

        leases = reader.fetch_many(GROUP, keys)
        assert all(isinstance(lease, Lease) for lease in leases)
        assert reader.fill_many([(lease, NEW) for lease in leases if isinstance(lease, Lease)]) == [True] * 50
        assert writer.fetch_many(GROUP, keys) == [NEW] * 50

    def test_a_value_filled_under_a_lease_from_before_a_groups_tombstone_is_never_served(self) -> None:
        reader, writer = self._both()
        during, after = take(reader), take(reader, OTHER_KEY)
        tombstones = writer.put_tombstones([], [GROUP])

        reader.fill(during, OLD)
        assert reader.fetch(GROUP, KEY) is BLOCKED
        writer.release(tombstones)
        reader.fill(after, OLD)

        for key in (KEY, OTHER_KEY):
            assert not isinstance(reader.fetch(GROUP, key), bytes)
            assert not isinstance(writer.fetch(GROUP, key), bytes)

    def test_the_first_of_two_owners_leaves_the_groups_tombstone_of_the_second(self) -> None:
        reader, writer = self._both()
        store(reader, KEY, OLD)
        first, second = writer.put_tombstones([], [GROUP]), reader.put_tombstones([], [GROUP])

        writer.release(first)
        assert reader.fetch(GROUP, KEY) is BLOCKED
        reader.release(second)
        take(reader)

    def test_the_second_of_two_owners_leaves_the_groups_tombstone_of_the_first(self) -> None:
        reader, writer = self._both()
        store(reader, KEY, OLD)
        first, second = writer.put_tombstones([], [GROUP]), reader.put_tombstones([], [GROUP])

        reader.release(second)
        assert writer.fetch(GROUP, KEY) is BLOCKED
        writer.release(first)
        take(writer)

    def test_tombstones_on_a_group_and_on_an_item_of_it_each_block(self) -> None:
        reader, writer = self._both()
        store(reader, KEY, OLD)
        store(reader, OTHER_KEY, OLD)
        item, group = writer.put_tombstones([KEY]), reader.put_tombstones([], [GROUP])

        reader.release(group)
        assert reader.fetch(GROUP, KEY) is BLOCKED
        take(reader, OTHER_KEY)
        writer.release(item)
        take(reader)

    def test_one_transaction_may_place_both_kinds(self) -> None:
        reader, writer = self._both()
        store(reader, KEY, OLD)
        store(reader, KEY_OF_OTHER_GROUP, OLD, OTHER_GROUP)

        tombstones = writer.put_tombstones([KEY], [OTHER_GROUP])

        assert reader.fetch(GROUP, KEY) is BLOCKED
        assert reader.fetch(OTHER_GROUP, KEY_OF_OTHER_GROUP) is BLOCKED
        take(reader, OTHER_KEY)
        writer.release(tombstones)
        take(reader)
        take(reader, KEY_OF_OTHER_GROUP, OTHER_GROUP)

    def test_old_values_do_not_come_back_when_the_groups_marker_is_lost(self) -> None:
        reader, writer = self._both()
        store(reader, KEY, OLD)
        writer.release(writer.put_tombstones([], [GROUP]))
        self.forget_group(writer, GROUP)

        assert not isinstance(reader.fetch(GROUP, KEY), bytes)
        self.forget_group(writer, GROUP)
        assert not isinstance(reader.fetch(GROUP, KEY), bytes)

    def test_reads_go_on_after_the_groups_marker_is_lost(self) -> None:
        reader, another = self._both()
        store(reader, KEY, OLD)
        self.forget_group(reader, GROUP)

        if isinstance(lease := reader.fetch(GROUP, KEY), Lease):
            assert reader.fill(lease, OLD)
        assert another.fetch(GROUP, KEY) == OLD

    def test_a_release_drops_what_was_filled_while_the_groups_tombstone_was_lost(self) -> None:
        reader, writer = self._both()
        store(reader, OTHER_KEY, OLD)
        tombstones = writer.put_tombstones([], [GROUP])
        self.forget_group(writer, GROUP)
        if isinstance(lease := reader.fetch(GROUP, KEY), Lease):
            reader.fill(lease, OLD)

        writer.release(tombstones)

        assert not any(isinstance(fetched, bytes) for fetched in reader.fetch_many(GROUP, [KEY, OTHER_KEY]))

    def test_a_release_leaves_another_writers_tombstone_on_the_group_when_its_own_was_lost(self) -> None:
        reader, writer = self._both()
        lost = writer.put_tombstones([], [GROUP])
        self.forget_group(writer, GROUP)
        standing = reader.put_tombstones([], [GROUP])

        writer.release(lost)

        assert reader.fetch(GROUP, KEY) is BLOCKED
        reader.release(standing)
        take(reader)

    def test_the_release_of_a_group_drops_what_was_filled_since_a_restart(self) -> None:
        reader, writer = self._both()
        tombstones = writer.put_tombstones([], [GROUP])
        self.restart(writer)
        assert reader.fill(take_after_restart(reader), OLD)
        late = take_after_restart(reader, OTHER_KEY)

        writer.release(tombstones)

        reader.fill(late, OLD)
        assert not any(isinstance(fetched, bytes) for fetched in reader.fetch_many(GROUP, [KEY, OTHER_KEY]))

    def test_the_tombstone_on_a_group_of_a_writer_that_died_ends(self) -> None:
        reader, writer = self._both(tombstone_ttl=100)
        store(reader, KEY, OLD)
        writer.put_tombstones([], [GROUP])

        self.advance(reader, 90)
        assert reader.fetch(GROUP, KEY) is BLOCKED
        self.advance(reader, 12)
        assert reader.fill(take(reader), NEW)
        assert writer.fetch(GROUP, KEY) == NEW

    # Threads, closing, the dogpile interface

    def test_each_thread_reads_the_values_of_its_own_keys(self) -> None:
        backend = self._backend()

        def read_own(thread: int) -> list[str]:
            keys = [f"{GROUP}:s{thread}-{number}" for number in range(20)]
            wrong: list[str] = []
            try:
                for key in keys:
                    store(backend, key, key.encode())
                for _ in range(5):
                    wrong += [key for key in keys if backend.fetch(GROUP, key) != key.encode()]
                    if backend.fetch_many(GROUP, keys) != [key.encode() for key in keys]:
                        wrong.append(f"the batch of thread {thread}")
                    backend.release(backend.put_tombstones(keys[10:]))
                    for key in keys[10:]:
                        store(backend, key, key.encode())
            finally:
                backend.close()
            return wrong

        with ThreadPoolExecutor(8) as threads:
            assert list(threads.map(read_own, range(8))) == [[]] * 8

    def test_a_closed_backend_stays_usable(self) -> None:
        reader, writer = self._both()
        store(reader, KEY, OLD)
        tombstones = writer.put_tombstones([OTHER_KEY])

        reader.close()
        reader.close()
        writer.close()

        assert reader.fetch(GROUP, KEY) == OLD
        writer.release(tombstones)
        take(reader, OTHER_KEY)

    def test_the_dogpile_interface_keeps_its_items_apart(self) -> None:
        reader, writer = self._both()
        item = b'{"ct": 1.5, "v": 2}|payload'
        store(reader, KEY, OLD)

        assert reader.get_serialized(KEY) is NO_VALUE
        reader.set_serialized(KEY, item)
        assert reader.fetch(GROUP, KEY) == OLD
        writer.release(writer.put_tombstones([KEY], [GROUP]))
        assert writer.get_serialized(KEY) == item
        reader.delete(KEY)
        assert writer.get_serialized(KEY) is NO_VALUE

    def test_bytes_of_a_proxy_come_back_as_they_are(self) -> None:
        reader, writer = self._both()
        for made in (b"", b"|", b"{}|x", b"\xff\x00\r\n|x", b'{"ct": "now", "v": 2}|x', bytes(range(256)) * 400):
            writer.set_serialized(KEY, made)

            assert reader.get_serialized(KEY) == made, "a ProxyBackend that compresses or encrypts would never hit"
            assert list(reader.get_serialized_multi([KEY])) == [made]
