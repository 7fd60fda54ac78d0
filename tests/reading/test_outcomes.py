"""Every outcome of a fetch, read by ``get`` and by ``get_many``: they answer, cost and count the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from reading.bench import Bench, Read, Statements, either_way, person
from sqlalchemy import orm
from support.servers import Memcached

from person_repo.model import Person
from person_repo.observability.counters import Stats


class Outcome(NamedTuple):
    """How an item of Ada comes to be there, and the counts of one read of her, round trips included."""

    prepare: Callable[[Bench], object]
    expected: Stats
    answer: Person | None = person()


def end_soon(bench: Bench) -> None:
    backend: Any = bench.backend
    backend._items[bench.key("ada")].renewed_from = 0.0


def spoil(bench: Bench) -> None:
    bench.people.get("ada")
    backend: Any = bench.backend
    backend._items[bench.key("ada")].body = b"of no use"


def lost_tombstone(bench: Bench) -> None:
    bench.people.get("ada")
    assert bench.people.fence is not None
    bench.people.fence.block_locally(bench.backend.places_of(bench.group, bench.key("ada")))


IN_MEMORY = {
    "a value": Outcome(lambda bench: bench.people.get("ada"), Stats(round_trips=1, hits=1)),
    "a known absence": Outcome(
        lambda bench: (bench.people.delete("ada"), bench.people.get("ada")),
        Stats(round_trips=1, hits=1, negative_hits=1),
        None,
    ),
    "a value that ends soon": Outcome(
        lambda bench: (bench.people.get("ada"), end_soon(bench)), Stats(round_trips=2, renewals=1, loads=1, fills=1)
    ),
    "a value that ends soon, and is of no use": Outcome(
        lambda bench: (spoil(bench), end_soon(bench)), Stats(round_trips=2, rejected=1, renewals=1, loads=1, fills=1)
    ),
    "a lease": Outcome(lambda bench: None, Stats(round_trips=2, misses=1, loads=1, fills=1)),
    "a lease, and there is nobody": Outcome(
        lambda bench: bench.people.delete("ada"), Stats(round_trips=2, misses=1, loads=1, fills=1), None
    ),
    "another's lease": Outcome(lambda bench: bench.lease("ada"), Stats(round_trips=9, waits=1, loads=1)),
    "a tombstone": Outcome(
        lambda bench: bench.backend.put_tombstones([bench.key("ada")]), Stats(round_trips=1, bypasses=1, loads=1)
    ),
    "an item of no use": Outcome(spoil, Stats(round_trips=3, rejected=1, misses=1, loads=1, fills=1)),
}


@either_way
@pytest.mark.parametrize("outcome", IN_MEMORY.values(), ids=IN_MEMORY)
def test_one_read(
    people_sqlite: orm.sessionmaker[orm.Session], statements: Statements, read: Read, outcome: Outcome
) -> None:
    bench = Bench(people_sqlite, "memory://", statements)
    bench.people.add(person())
    outcome.prepare(bench)
    answers: list[object] = []
    did = bench.did(lambda: answers.append(read(bench.people)))

    assert answers == [outcome.answer]
    assert did == outcome.expected
    bench.close()


@pytest.fixture
def memcached(
    people_sqlite: orm.sessionmaker[orm.Session], memcached_servers: list[Memcached], statements: Statements
) -> Iterator[Bench]:
    """One server. Nobody looks at the fence again during the test."""
    url = f"memcached://{memcached_servers[0].url}?timeout=10&connect_timeout=10&fence_interval=60"
    bench = Bench(people_sqlite, url, statements)
    bench.people.add(person())
    bench.people.get("nobody")
    yield bench
    bench.close()


@either_way
def test_one_read_of_an_item_that_the_fence_blocks(memcached: Bench, read: Read) -> None:
    lost_tombstone(memcached)
    answers: list[object] = []
    did = memcached.did(lambda: answers.append(read(memcached.people)))

    assert answers == [person()]
    assert did == Stats(fenced=1, bypasses=1, loads=1)


@either_way
def test_one_read_while_the_server_does_not_answer(
    memcached: Bench, memcached_servers: list[Memcached], read: Read
) -> None:
    memcached_servers[0].kill()
    answers: list[object] = []
    did = memcached.did(lambda: answers.append(read(memcached.people)))

    assert answers == [person()]
    assert (did.bypasses, did.loads, did.fenced, did.waits, did.misses, did.fills) == (1, 1, 0, 0, 0, 0)


@either_way
def test_a_miss_is_two_round_trips(memcached: Bench, read: Read) -> None:
    did = memcached.did(lambda: read(memcached.people))

    assert did == Stats(round_trips=2, misses=1, loads=1, fills=1)
