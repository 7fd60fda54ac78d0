"""One party goes step by step; before one or two of its steps others act, or an item is lost.

The parties change a row, which is a number that grows with each commit. A read must not give a number lower than the
last one whose commit was acknowledged when the read began.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
from support.exchanges import MARKER, Connect, Raw, Stepwise, stepwise
from support.servers import Memcached

from person_repo.cache.contract import BLOCKED, BUSY, Lease, Tombstones
from person_repo.cache.memcached import wire
from person_repo.cache.memcached.backend import MemcachedBackend
from person_repo.cache.memcached.connection import Budget
from person_repo.testing.contract import FOREIGN, GROUP, KEY, OLD, store, take

pytestmark = pytest.mark.proof(name="interleavings", sample=2)


@pytest.mark.parametrize("stood", ["nothing", "a value", "a value of another epoch"])
@pytest.mark.parametrize("group", [False, True], ids=["an item", "a group"])
def test_a_commit_is_never_followed_by_a_stale_read(
    connect: Connect, server: Memcached, stood: str, group: bool
) -> None:
    for plan in _plans(steps=8, others=["evict", "evict marker", "read", "slow read", "earlier release", "write"]):
        story = Story(connect, server, stood)
        story.stepped_write(plan, group)
        story.check(plan)


@pytest.mark.parametrize("stood", ["nothing", "a value", "a value of another epoch"])
def test_a_read_is_never_older_than_the_commits_before_it(connect: Connect, server: Memcached, stood: str) -> None:
    others = ["evict", "evict marker", "read", "slow read", "write", "write group", "half a write"]
    for plan in _plans(steps=6, others=others):
        story = Story(connect, server, stood)
        story.stepped_read(plan)
        story.check(plan)


def at_step(backend: MemcachedBackend, server: Memcached, step: int, act: Callable[[], object]) -> None:
    steps, count = stepwise(backend, server), itertools.count()
    steps.before = lambda command: act() if next(count) == step else None


def test_a_tombstone_that_is_lost_while_it_is_placed_is_placed_again(
    connect: Connect, server: Memcached, raw: Raw
) -> None:
    backend, reader = connect(server), connect(server)
    leases: list[Lease] = []
    at_step(backend, server, 2, lambda: (raw.delete(KEY), leases.append(take(reader))))

    tombstones = backend.put_tombstones([KEY])

    assert tombstones.complete
    assert reader.fetch(GROUP, KEY) is BLOCKED
    assert reader.fill(leases[0], OLD) is False
    backend.release(tombstones)
    take(reader)


def test_anothers_tombstone_is_not_taken_for_ones_own_that_was_lost_while_it_was_placed(
    connect: Connect, server: Memcached, raw: Raw
) -> None:
    """The two items differ in their CAS ids alone."""
    backend, another = connect(server), connect(server)
    standing: list[Tombstones] = []
    at_step(backend, server, 2, lambda: (raw.delete(KEY), standing.append(another.put_tombstones([KEY]))))
    tombstones = backend.put_tombstones([KEY])

    backend.release(tombstones)

    assert another.fetch(GROUP, KEY) is BLOCKED
    another.release(standing[0])
    take(another)


def test_a_tombstone_placed_while_a_reader_takes_an_items_place_stays(connect: Connect, server: Memcached) -> None:
    backend, writer = connect(server), connect(server)
    store(writer, KEY, FOREIGN)
    standing: list[Tombstones] = []
    at_step(backend, server, 2, lambda: standing.append(writer.put_tombstones([KEY])))

    assert backend.fetch(GROUP, KEY, reject=FOREIGN) is BUSY

    assert backend.fetch(GROUP, KEY) is BLOCKED
    writer.release(standing[0])


Plan = dict[int, list[str]]
"""The acts of others, by the step before which they happen."""


def _plans(steps: int, others: list[str]) -> Iterator[Plan]:
    acts = list(itertools.product(range(steps), others))
    for first, second in itertools.combinations_with_replacement(acts, 2):
        plan: Plan = {}
        for step, other in (first, second):
            plan.setdefault(step, []).append(other)
        yield plan


class Story:
    """Parties over one server, and the row that they read and write."""

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
            self.evict(name)
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
        budget, pool = Budget(10.0), self.writer._pool
        pool.exchange(pool.connection(self.server.url, budget), wire.delete(name), 1, budget)

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
        if self.locked:  # the database makes it wait until the other transaction is over
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
