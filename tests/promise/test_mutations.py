"""Each safeguard taken away, one at a time: the search of ``test_schedules`` must find what it was there for."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

pytest.importorskip("greenlet")

from promise.schedules.database import FakeDatabase, ReadEngine
from promise.schedules.search import hunt, search
from promise.schedules.stage import Scenario, commit, twophase
from promise.schedules.world import World
from support.proofs import amount, note

from person_repo.cache.contract import BLOCKED
from person_repo.cache.memcached import wire
from person_repo.cache.memcached.backend import MemcachedBackend
from person_repo.cache.memcached.connection import IDLE, Budget
from person_repo.cache.memory import MemoryBackend
from person_repo.database import loading
from person_repo.database.snapshots import Snapshot
from person_repo.fence.view import Fence
from person_repo.writing import outage
from person_repo.writing.covered import PENDING
from person_repo.writing.pending import Pending
from person_repo.writing.transactions import Transactions

Patch = Callable[[pytest.MonkeyPatch], None]

ONE_WRITER = Scenario("a reader of two reads, a writer", ((("ada",), ("ada",)),), ((commit(ada="ada-1"),),))
WHOLE_MODEL = replace(
    ONE_WRITER,
    title="the writer drops the whole model",
    rows={"ada": "ada-0", "bob": "bob-0"},
    readers=((("bob",), ("ada",)),),
    writers=((commit(True, ada="ada-1", bob="bob-1"),),),
    cached=("ada", "bob"),
)
TWO_WRITERS = replace(
    ONE_WRITER, title="two writers", readers=((("ada",),),), writers=((commit(ada="ada-1"),), (commit(ada="ada-2"),))
)
TWO_READERS = replace(ONE_WRITER, title="two readers", readers=((("ada",),), (("ada",), ("ada",))))


@dataclass(frozen=True)
class Mutation:
    """A safeguard, how it is taken away, and the scenario in which it is missed with at most so many ``faults``."""

    name: str
    patch: Patch
    scenario: Scenario = ONE_WRITER
    faults: int = 0
    kinds: frozenset[str] = frozenset({"crash", "evict", "expire"})
    before_read: Callable[[ReadEngine], None] | None = None


def _driver_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A listener of the host's has begun a transaction on the connection for reads."""
    monkeypatch.setattr(Snapshot, "end", lambda self: True)


# Both backends


def _tombstone_after_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    def do_commit(_: Any, commit: Callable[[Any], None], connection: Any) -> None:
        pending = connection.info.pop(PENDING)
        commit(connection)
        pending.place(None)
        pending.finish()

    monkeypatch.setattr(Transactions, "do_commit", do_commit)


def _release_before_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    def do_commit(_: Any, commit: Callable[[Any], None], connection: Any) -> None:
        pending = connection.info.pop(PENDING)
        pending.place(None)
        pending.finish()
        commit(connection)

    monkeypatch.setattr(Transactions, "do_commit", do_commit)


def _rows_of_other_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_equal", lambda one, other: True)


# memcached


def _plain_set(monkeypatch: pytest.MonkeyPatch) -> None:
    compare_and_set = wire.fill
    monkeypatch.setattr(wire, "fill", lambda *arguments: re.sub(rb" C\d+", b"", compare_and_set(*arguments), count=1))


def _keeps_what_stands_there(monkeypatch: pytest.MonkeyPatch) -> None:
    remove_own = MemcachedBackend._remove_own

    def only_ours(self: Any, connection: Any, name: str, token: bytes, budget: Budget) -> None:
        ((_, body),) = self._pool.exchange(connection, b"mg %b v\r\n" % name.encode(), 1, budget)
        if token in body:
            remove_own(self, connection, name, token, budget)

    monkeypatch.setattr(MemcachedBackend, "_remove_own", only_ours)


def _delete_for_a_tombstone(monkeypatch: pytest.MonkeyPatch) -> None:
    put = MemcachedBackend.put_tombstones

    def delete(self: Any, keys: Any, groups: Any = ()) -> Any:
        tombstones = put(self, keys, groups)
        budget = Budget(1.0)
        for connection, names in self._by_connection(keys, budget).items():
            self._pool.exchange(
                connection, b"".join(b"md %b\r\n" % name.encode() for name in names), len(names), budget
            )
        return tombstones

    monkeypatch.setattr(MemcachedBackend, "put_tombstones", delete)


def _tombstones_without_owners(monkeypatch: pytest.MonkeyPatch) -> None:
    def delete(self: Any, connection: Any, name: str, token: bytes, budget: Budget) -> None:
        self._pool.exchange(connection, b"md %b\r\n" % name.encode(), 1, budget)

    monkeypatch.setattr(MemcachedBackend, "_remove_own", delete)


def _one_epoch_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    random = World.random
    monkeypatch.setattr(
        World, "random", lambda self, size: b"an epoch" if size == len(b"an epoch") else random(self, size)
    )


def _fill_again_on_a_new_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    fill_many = MemcachedBackend.fill_many

    def again(self: Any, fills: Sequence[tuple[Any, bytes]]) -> list[bool]:
        done = fill_many(self, fills)
        for lease, _ in fills:
            if lease.connection.state is not IDLE:
                lease.connection = self._pool.connection(lease.connection.server, Budget(1.0))
        return done if any(done) else fill_many(self, fills)

    monkeypatch.setattr(MemcachedBackend, "fill_many", again)


def _fill_again_after_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    _fill_again_on_a_new_connection(monkeypatch)
    _one_epoch_for_ever(monkeypatch)


def _release_by_cas_on_a_new_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    release, remove_own = MemcachedBackend.release, MemcachedBackend._remove_own
    placed: dict[bytes, Any] = {}

    def remembering(self: Any, tombstones: Any) -> Any:
        placed[tombstones.placed.token] = tombstones.placed.tombstones
        return release(self, tombstones)

    def by_cas(self: Any, connection: Any, name: str, token: bytes, budget: Budget) -> None:
        tombstone = placed.get(token, {}).get((connection.server, name))
        if tombstone is None or tombstone.connection is connection:
            remove_own(self, connection, name, token, budget)
            return
        ((words, _),) = self._pool.exchange(connection, b"md %b C%b\r\n" % (name.encode(), tombstone.cas), 1, budget)
        if words[0] == b"EX":
            remove_own(self, connection, name, token, budget)

    monkeypatch.setattr(MemcachedBackend, "release", remembering)
    monkeypatch.setattr(MemcachedBackend, "_remove_own", by_cas)


def _leases_stay_where_no_tombstone_could_be_placed(monkeypatch: pytest.MonkeyPatch) -> None:
    release = MemcachedBackend.release

    def only_placed(self: Any, tombstones: Any) -> Any:
        return release(self, replace(tombstones, missing=frozenset()))

    monkeypatch.setattr(MemcachedBackend, "release", only_placed)


def _leases_stay_and_fence_stays_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    _leases_stay_where_no_tombstone_could_be_placed(monkeypatch)
    monkeypatch.setattr(Pending, "_record_unplaced", lambda *_: None)


def _marker_on_one_server(monkeypatch: pytest.MonkeyPatch) -> None:
    by_connection = MemcachedBackend._by_connection

    def on_the_first(self: Any, keys: Any, budget: Budget, everywhere: Any = ()) -> Any:
        work = by_connection(self, keys, budget, everywhere)
        return dict(list(work.items())[:1]) if everywhere else work

    monkeypatch.setattr(MemcachedBackend, "_by_connection", on_the_first)
    put = MemcachedBackend.put_tombstones
    monkeypatch.setattr(
        MemcachedBackend, "put_tombstones", lambda *arguments: replace(put(*arguments), missing=frozenset())
    )


# The fence


def _fence_stays_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pending, "_record_unplaced", lambda *_: None)


def _rows_beside_the_transaction(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Fence, "record", lambda self, connection, dialect, places: self.insert(places))


def _rows_are_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    publish = Fence.insert
    monkeypatch.setattr(Fence, "insert", lambda self, places, held_for=0: publish(self, places))


def _nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Fence, "wait", lambda self: None)


def _nothing_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Fence, "block_locally", lambda self, places: None)


def _looks_count_from_their_end(monkeypatch: pytest.MonkeyPatch) -> None:
    publish = Fence._swap_view
    monkeypatch.setattr(
        Fence, "_swap_view", lambda self, rows, servers, began: publish(self, rows, servers, self._clock())
    )


def _looks_drop_every_note(monkeypatch: pytest.MonkeyPatch) -> None:
    publish = Fence._swap_view

    def forgetting(self: Any, rows: Any, servers: Any, began: float) -> None:
        self._local = {}
        publish(self, rows, servers, began)

    monkeypatch.setattr(Fence, "_swap_view", forgetting)


def _deliverers_lift_what_they_delivered(monkeypatch: pytest.MonkeyPatch) -> None:
    deliver = Fence._deliver

    def lifting(self: Any, table: Any, due: Any) -> int:
        done = deliver(self, table, due)
        if done and self._view is not None:
            self._set_view(self._view.places - {row.place for row in due})
        return done

    monkeypatch.setattr(Fence, "_deliver", lifting)


def _rows_go_before_what_they_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def deliver(self: Any, table: Any, due: Any) -> int:
        table.delete([row.id for row in due])
        return len(self._retire([row.place for row in due]))

    monkeypatch.setattr(Fence, "_deliver", deliver)


def _rows_of_delivered_places_go(monkeypatch: pytest.MonkeyPatch) -> None:
    def all_of_them(database: FakeDatabase, ids: Sequence[int]) -> None:
        items = {row["item"] for id, row in database.fence.items() if id in ids}
        database.fence = {id: row for id, row in database.fence.items() if row["item"] not in items}

    monkeypatch.setattr(FakeDatabase, "deliver", all_of_them)


def _rows_up_to_the_last_go(monkeypatch: pytest.MonkeyPatch) -> None:
    def up_to(database: FakeDatabase, ids: Sequence[int]) -> None:
        database.fence = {id: row for id, row in database.fence.items() if id > max(ids)}

    monkeypatch.setattr(FakeDatabase, "deliver", up_to)


def _deliverers_leave_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    remove_own = MemcachedBackend._remove_own

    def unless_a_lease(self: Any, connection: Any, name: str, token: bytes, budget: Budget) -> None:
        ((words, body),) = self._pool.exchange(connection, b"mg %b f v\r\n" % name.encode(), 1, budget)
        if body or b"f0" not in words or any(token):
            remove_own(self, connection, name, token, budget)

    monkeypatch.setattr(MemcachedBackend, "_remove_own", unless_a_lease)


def _readers_look_after_the_fetch(monkeypatch: pytest.MonkeyPatch) -> None:
    fetch, bars = MemcachedBackend.fetch, Fence.blocks

    def fetched_first(self: Any, group: str, key: str, **options: Any) -> Any:
        found = fetch(self, group, key, **options)
        return BLOCKED if bars(self.staged_fence, group, key) else found

    monkeypatch.setattr(MemcachedBackend, "fetch", fetched_first)
    monkeypatch.setattr(Fence, "blocks", lambda *_: False)


def _inserted_once_for_two_phases(monkeypatch: pytest.MonkeyPatch) -> None:
    record = Pending._record_unplaced

    def unless_recorded(self: Any, backend: Any, places: Any, transaction: Any) -> None:
        if not self._recorded.get(backend):
            record(self, backend, places, transaction)

    monkeypatch.setattr(Pending, "_record_unplaced", unless_recorded)


def _silent_releases_are_not_waited_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def insert(fence: Any, places: Any) -> None:
        if places:
            fence.insert(places)
            fence.block_locally(places)

    monkeypatch.setattr(outage, "after_commit", insert)


# memory


def _memory_plain_set(monkeypatch: pytest.MonkeyPatch) -> None:
    compare_and_set = MemoryBackend._fill

    def fill(self: Any, lease: Any, value: bytes) -> bool:
        self._items[lease.key] = lease
        return compare_and_set(self, lease, value)

    monkeypatch.setattr(MemoryBackend, "_fill", fill)


def _memory_keeps_what_stands_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def release(self: Any, tombstones: Any) -> Any:
        for key in tombstones.keys:
            self._remove(self._tombstones, key, tombstones.placed, self._clock())
        return frozenset()

    monkeypatch.setattr(MemoryBackend, "release", release)


def _memory_tombstones_without_owners(monkeypatch: pytest.MonkeyPatch) -> None:
    def release(self: Any, tombstones: Any) -> Any:
        for key in tombstones.keys:
            self._items.pop(key, None)
            self._tombstones.pop(key, None)
        return frozenset()

    monkeypatch.setattr(MemoryBackend, "release", release)


def _memory_one_epoch_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    class Frozen(dict[str, int]):
        def __setitem__(self, group: str, epoch: int) -> None:
            pass

    reset = MemoryBackend._reset

    def frozen(self: Any) -> None:
        reset(self)
        self._epochs = Frozen()

    monkeypatch.setattr(MemoryBackend, "_reset", frozen)


# The writer is cut off from the server, where the old entry is; nobody else is.
CUT_OFF = replace(ONE_WRITER, title="the writer is cut off", cached=("ada",), cut=("writer",), on_unreachable="strict")
PROCEEDS = replace(CUT_OFF, title="the writer is cut off and proceeds", on_unreachable="proceed", ticks=1)
DELIVERS = (((),), (("ada",), ("ada",)))
DELIVERS_ONCE = (((),), (("ada",),))
TWICE = replace(
    CUT_OFF, title="the writer, cut off, commits twice", writers=((commit(ada="ada-1"), commit(ada="ada-2")),)
)
TWO_CUT_OFF = replace(
    TWO_WRITERS, title="two writers are cut off", cached=("ada", "bob"), rows={"ada": "ada-0", "bob": "bob-0"},
    writers=((commit(ada="ada-1"),), (commit(bob="bob-1"),)), readers=(((),),), cut=("writer 1", "writer 2"),
    begins=("writer 1",) * 3,
)  # fmt: skip
OWN = replace(PROCEEDS, title="a reader in the writer's process", together=("reader", "writer"), ticks=0)

FENCE_MUTATIONS = [
    Mutation("fence: readers are stopped after COMMIT only", _fence_stays_empty, PROCEEDS, faults=1),
    Mutation(
        "fence: rows are written beside the transaction, before it",
        _rows_beside_the_transaction,
        replace(PROCEEDS, ticks=0, looked=False, readers=DELIVERS),
    ),
    Mutation(
        "fence: rows are not held",
        _rows_are_not_held,
        replace(CUT_OFF, readers=DELIVERS, looked=False, begins=("writer",) * 4),
    ),
    Mutation("fence: strict does not wait", _nobody_waits, CUT_OFF),
    Mutation("fence: a process does not note what it could not place", _nothing_is_noted, OWN),
    Mutation(
        "fence: a look counts from its end", _looks_count_from_their_end, replace(CUT_OFF, looked=False, slow=True)
    ),
    Mutation(
        "fence: a look drops what was noted since it began",
        _looks_drop_every_note,
        replace(OWN, looked=False, slow=True),
    ),
    Mutation(
        "fence: a delivery lets its process go by less than the look found",
        _deliverers_lift_what_they_delivered,
        replace(TWICE, begins=("writer",) * 7),
    ),
    Mutation(
        "fence: rows are deleted before what they name is made to go",
        _rows_go_before_what_they_name,
        replace(PROCEEDS, looked=False, ticks=0),
        faults=1,
    ),
    Mutation(
        "fence: all rows of the places delivered are deleted",
        _rows_of_delivered_places_go,
        replace(TWICE, on_unreachable="proceed", readers=DELIVERS_ONCE, begins=("writer",) * 5),
    ),
    Mutation("fence: all rows up to the last that was seen are deleted", _rows_up_to_the_last_go, TWO_CUT_OFF),
    Mutation(
        "fence: a delivery leaves leases",
        _deliverers_leave_leases,
        replace(PROCEEDS, ticks=0, cached=(), readers=DELIVERS_ONCE),
    ),
    Mutation(
        "fence: readers look at it after the fetch",
        _readers_look_after_the_fetch,
        replace(PROCEEDS, readers=DELIVERS_ONCE, looked=False),
    ),
    Mutation(
        "fence: rows are inserted when a transaction is prepared, not again when it commits",
        _inserted_once_for_two_phases,
        replace(
            CUT_OFF,
            writers=((replace(twophase(ada="ada-1"), pause=63),),),
            readers=DELIVERS,
            looked=False,
            begins=("writer",) * 7,
        ),
    ),
    Mutation(
        "fence: a release that met nobody is not waited out",
        _silent_releases_are_not_waited_out,
        replace(CUT_OFF, cached=(), cut=(), apart=("writer",), begins=("writer",) * 4),
        faults=2,
        kinds=frozenset({"evict", "partition"}),
    ),
]

MUTATIONS = [
    Mutation("memcached: a fill does not compare its lease", _plain_set),
    Mutation(
        "memcached: the load sees a snapshot from before the lease",
        _driver_is_not_asked,
        before_read=ReadEngine.snapshot,
    ),
    Mutation("memcached: tombstones are placed after COMMIT only", _tombstone_after_commit, faults=1),
    Mutation("memcached: tombstones are released before COMMIT", _release_before_commit),
    Mutation("memcached: a delete before COMMIT, no tombstone", _delete_for_a_tombstone, faults=1),
    Mutation("memcached: a release leaves alone what is not its own", _keeps_what_stands_there, faults=1),
    Mutation(
        "memcached: a release removes any tombstone",
        _tombstones_without_owners,
        replace(TWO_WRITERS, begins=("writer 1",) * 5),
        faults=1,
    ),
    Mutation("memcached: one epoch for ever", _one_epoch_for_ever, WHOLE_MODEL),
    Mutation(
        "memcached: the marker is on the first of two servers only",
        _marker_on_one_server,
        replace(WHOLE_MODEL, servers=2),
        faults=1,
    ),
    Mutation(
        "memcached: a fill is tried again on a new connection, epochs outlive restarts",
        _fill_again_after_a_restart,
        replace(TWO_READERS, drawn=False, begins=("reader 1",) * 5),
        faults=1,
        kinds=frozenset({"restart"}),
    ),
    Mutation(
        "memcached: a release compares CAS ids on a new connection",
        _release_by_cas_on_a_new_connection,
        replace(TWO_WRITERS, drawn=False, readers_connected=False, begins=(*["writer 1"] * 5, "writer 2")),
        faults=2,
        kinds=frozenset({"restart", "crash"}),
    ),
    Mutation(
        "memcached: leases stay where no tombstone could be placed, and the fence stays empty",
        _leases_stay_and_fence_stays_empty,
        faults=1,
        kinds=frozenset({"stop"}),
    ),
    Mutation(
        "memcached: a row of another key is taken for the one asked for",
        _rows_of_other_keys,
        replace(
            ONE_WRITER,
            rows={"ada": "ada-0", "ADA": None},
            readers=((("ADA",), ("ADA",)),),
            same_row={"ADA": "ada"},
        ),
    ),
    Mutation("memory: a fill does not compare its lease", _memory_plain_set),
    Mutation(
        "memory: the load sees a snapshot from before the lease", _driver_is_not_asked, before_read=ReadEngine.snapshot
    ),
    Mutation("memory: tombstones are placed after COMMIT only", _tombstone_after_commit, faults=1),
    Mutation("memory: tombstones are released before COMMIT", _release_before_commit),
    Mutation("memory: a release leaves alone what is not its own", _memory_keeps_what_stands_there, faults=1),
    Mutation(
        "memory: a release removes any tombstone",
        _memory_tombstones_without_owners,
        replace(TWO_WRITERS, begins=("writer 1",) * 3),
        faults=1,
    ),
    Mutation("memory: one epoch for ever", _memory_one_epoch_for_ever, WHOLE_MODEL),
]


@pytest.mark.proof(name="mutations", sample=4)
@pytest.mark.timeout(900)
@pytest.mark.parametrize("mutation", MUTATIONS + FENCE_MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_safeguard_taken_away_is_missed(
    mutation: Mutation, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """And as it is, the code passes the schedules that find the mutation. ``pytest -rP`` shows the shortest of each."""
    backend = mutation.name.partition(":")[0].replace("fence", "memcached")
    scenario = replace(mutation.scenario, backend=backend, kinds=mutation.kinds)
    with monkeypatch.context() as patched:
        mutation.patch(patched)
        report, runs = hunt(scenario, faults=mutation.faults, before_read=mutation.before_read)

    found = report.shortest
    assert found is not None, f"nothing found in {runs:,} schedules"
    print(f"{mutation.name}\n{found}")
    amount(request, schedules=runs)
    note(request, f"{mutation.name:<80} {found.kind:<8} after {runs:>5,} schedules, by {len(found.log)} steps")

    shipped = search(scenario, faults=mutation.faults, switches=report.switches, most=2_000)
    assert not shipped.found, str(shipped.shortest)


def test_a_late_fill_after_a_restart_is_of_an_epoch_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two safeguards stand against one fault: a lease that is good on another connection is no harm by itself."""
    (mutation,) = [mutation for mutation in MUTATIONS if mutation.patch is _fill_again_after_a_restart]
    _fill_again_on_a_new_connection(monkeypatch)

    report, _ = hunt(replace(mutation.scenario, kinds=mutation.kinds), faults=mutation.faults, switches=2)

    assert report.complete
    assert report.shortest is None
