"""Each safeguard taken away, one at a time: the search of ``test_schedules`` must find what it was there for."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

pytest.importorskip("greenlet")

from schedules.database import ReadEngine
from schedules.search import hunt, search
from schedules.stage import Scenario, commit
from schedules.summary import tell
from schedules.world import World

from person_repo import invalidation, loading
from person_repo.backends._meta import Patience
from person_repo.backends.memcached import MemcachedBackend
from person_repo.backends.memory import MemoryBackend

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


def _nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutation is in the reader's host."""


# Both backends


def _tombstone_after_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    def do_commit(_coverage: Any, commit: Callable[[Any], None], connection: Any) -> None:
        pending = connection.info.pop(invalidation._PENDING)
        commit(connection)
        pending.put()
        pending.end()

    monkeypatch.setattr(invalidation._Coverage, "_do_commit", do_commit)


def _release_before_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    def do_commit(_coverage: Any, commit: Callable[[Any], None], connection: Any) -> None:
        pending = connection.info.pop(invalidation._PENDING)
        pending.put()
        pending.end()
        commit(connection)

    monkeypatch.setattr(invalidation._Coverage, "_do_commit", do_commit)


def _rows_of_other_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_equal", lambda one, other: True)


# memcached


def _plain_set(monkeypatch: pytest.MonkeyPatch) -> None:
    compare_and_set = MemcachedBackend._fill_request
    monkeypatch.setattr(
        MemcachedBackend,
        "_fill_request",
        lambda self, lease, value: re.sub(rb" C\d+", b"", compare_and_set(self, lease, value), count=1),
    )


def _keeps_what_stands_there(monkeypatch: pytest.MonkeyPatch) -> None:
    withdraw = MemcachedBackend._withdraw

    def only_ours(self: Any, connection: Any, name: str, token: bytes) -> None:
        ((_, body),) = self._exchange(connection, b"mg %b v\r\n" % name.encode(), 1)
        if token in body:
            withdraw(self, connection, name, token)

    monkeypatch.setattr(MemcachedBackend, "_withdraw", only_ours)


def _delete_for_a_tombstone(monkeypatch: pytest.MonkeyPatch) -> None:
    put = MemcachedBackend.put_tombstones

    def delete(self: Any, keys: Any, groups: Any = ()) -> Any:
        tombstones = put(self, keys, groups)
        for connection, names in self._on_servers(keys).items():
            self._exchange(connection, b"".join(b"md %b\r\n" % name.encode() for name in names), len(names))
        return tombstones

    monkeypatch.setattr(MemcachedBackend, "put_tombstones", delete)


def _tombstones_without_owners(monkeypatch: pytest.MonkeyPatch) -> None:
    def delete(self: Any, connection: Any, name: str, token: bytes) -> None:
        self._exchange(connection, b"md %b\r\n" % name.encode(), 1)

    monkeypatch.setattr(MemcachedBackend, "_withdraw", delete)


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
            if not lease.connection.in_step:
                lease.connection = self._connection(lease.connection.server, Patience(1.0))
        return done if any(done) else fill_many(self, fills)

    monkeypatch.setattr(MemcachedBackend, "fill_many", again)


def _fill_again_after_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    _fill_again_on_a_new_connection(monkeypatch)
    _one_epoch_for_ever(monkeypatch)


def _release_by_cas_on_a_new_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    release, withdraw = MemcachedBackend.release, MemcachedBackend._withdraw
    stones: dict[bytes, Any] = {}

    def remembering(self: Any, tombstones: Any) -> None:
        stones[tombstones.placed.token] = tombstones.placed.stones
        release(self, tombstones)

    def by_cas(self: Any, connection: Any, name: str, token: bytes) -> None:
        stone = stones[token].get((connection.server, name))
        if stone is None or stone.connection is connection:
            withdraw(self, connection, name, token)
            return
        ((words, _),) = self._exchange(connection, b"md %b C%b\r\n" % (name.encode(), stone.cas), 1)
        if words[0] == b"EX":
            withdraw(self, connection, name, token)

    monkeypatch.setattr(MemcachedBackend, "release", remembering)
    monkeypatch.setattr(MemcachedBackend, "_withdraw", by_cas)


def _leases_stay_where_no_tombstone_could_be_placed(monkeypatch: pytest.MonkeyPatch) -> None:
    release = MemcachedBackend.release

    def only_placed(self: Any, tombstones: Any) -> None:
        placed = tombstones.placed._replace(missing=frozenset())
        release(self, replace(tombstones, placed=placed))

    monkeypatch.setattr(MemcachedBackend, "release", only_placed)


def _marker_on_one_server(monkeypatch: pytest.MonkeyPatch) -> None:
    on_servers = MemcachedBackend._on_servers

    def on_the_first(self: Any, keys: Any, everywhere: Any = ()) -> Any:
        work = on_servers(self, keys, everywhere)
        return dict(list(work.items())[:1]) if everywhere else work

    monkeypatch.setattr(MemcachedBackend, "_on_servers", on_the_first)


# memory


def _memory_plain_set(monkeypatch: pytest.MonkeyPatch) -> None:
    from person_repo.backends import memory

    def fill(self: Any, lease: Any, value: bytes) -> bool:
        self._put(lease.key, memory._Value(value, lease.epoch, self._clock() + self.settings.ttl))
        return True

    monkeypatch.setattr(MemoryBackend, "_fill", fill)


def _memory_keeps_what_stands_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def release(self: Any, tombstones: Any) -> None:
        for key in tombstones.keys:
            self._remove(self._stones, key, tombstones.placed, self._clock())

    monkeypatch.setattr(MemoryBackend, "release", release)


def _memory_tombstones_without_owners(monkeypatch: pytest.MonkeyPatch) -> None:
    def release(self: Any, tombstones: Any) -> None:
        for key in tombstones.keys:
            self._items.pop(key, None)
            self._stones.pop(key, None)

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


MUTATIONS = [
    Mutation("memcached: a fill does not compare its lease", _plain_set),
    Mutation("memcached: the load sees a snapshot from before the lease", _nothing, before_read=ReadEngine.snapshot),
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
        "memcached: leases stay where no tombstone could be placed",
        _leases_stay_where_no_tombstone_could_be_placed,
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
    Mutation("memory: the load sees a snapshot from before the lease", _nothing, before_read=ReadEngine.snapshot),
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


@pytest.mark.timeout(900)
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_safeguard_taken_away_is_missed(
    mutation: Mutation, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """And as it is, the code passes the schedules that find the mutation. ``pytest -rP`` shows the shortest of each."""
    backend = mutation.name.partition(":")[0]
    scenario = replace(mutation.scenario, backend=backend, kinds=mutation.kinds)
    with monkeypatch.context() as patched:
        mutation.patch(patched)
        report, runs = hunt(scenario, faults=mutation.faults, before_read=mutation.before_read)

    found = report.shortest
    assert found is not None, f"nothing found in {runs:,} schedules"
    print(f"{mutation.name}\n{found}")
    tell(request, f"{mutation.name:<80} {found.kind:<8} after {runs:>5,} schedules, by {len(found.log)} steps")

    shipped = search(scenario, faults=mutation.faults, switches=report.switches, most=2_000)
    assert not shipped.found, str(shipped.shortest)


def test_a_late_fill_after_a_restart_is_of_an_epoch_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two safeguards stand against one fault: a lease that is good on another connection is no harm by itself."""
    (mutation,) = [mutation for mutation in MUTATIONS if mutation.patch is _fill_again_after_a_restart]
    _fill_again_on_a_new_connection(monkeypatch)

    report, _ = hunt(replace(mutation.scenario, kinds=mutation.kinds), faults=mutation.faults, switches=2)

    assert report.complete
    assert report.shortest is None
