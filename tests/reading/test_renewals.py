"""Values that end soon: one reader renews each, and nobody waits for that."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from reading.bench import Bench, Queue, Read, Statements, either_way, failing, person, saturated
from sqlalchemy import orm

from person_repo.exceptions import OverloadError

# Seconds. A test that waits for a turn waits for so long; one that takes half of it has waited.
_MAX_LOAD_WAIT = 20


@pytest.fixture
def ending(people_sqlite: orm.sessionmaker[orm.Session], statements: Statements) -> Iterator[Bench]:
    """Ada and Bob are cached, and so is that there is no Eve; Ada's value is in the last part of its ttl."""
    bench = Bench(people_sqlite, f"memory://?max_loads=1&max_load_wait={_MAX_LOAD_WAIT}", statements)
    bench.people.add_many([person(), person("bob")])
    bench.people.get_many(["ada", "bob", "eve"])
    end_soon(bench, "ada")
    yield bench
    bench.close()


def end_soon(bench: Bench, id: str) -> None:
    backend: Any = bench.backend
    backend._items[bench.key(id)].renewed_from = 0.0


def test_one_reader_renews_a_value_that_ends_soon_and_the_others_go_on_with_it(ending: Bench) -> None:
    with ending.spent() as spent:
        done = ending.did(lambda: [ending.people.get("ada") for _ in range(3)])

    assert spent().queries == 1
    assert (done.renewals, done.hits, done.misses, done.fills, done.loads) == (1, 2, 0, 1, 1)


def test_among_many_a_value_that_ends_soon_is_renewed(ending: Bench) -> None:
    with ending.spent() as spent:
        done = ending.did(lambda: ending.people.get_many(["ada", "bob"]))

    assert spent().queries == 1
    assert (done.renewals, done.hits, done.fills) == (1, 1, 1)


def test_among_many_renewals_and_misses_are_one_query(ending: Bench) -> None:
    with ending.spent() as spent:
        done = ending.did(lambda: ending.people.get_many(["ada", "bob", "mallory", "trent"]))

    assert spent().queries == 1
    assert (done.renewals, done.misses, done.hits, done.fills) == (1, 2, 1, 3)


# A renewal that cannot be


@either_way
def test_a_value_that_cannot_be_renewed_is_good_to_its_end_and_a_hit(ending: Bench, read: Read) -> None:
    with failing(ending):
        done = ending.did(lambda: [read(ending.people) for _ in range(2)])
        assert read(ending.people) == person()

    assert (done.hits, done.negative_hits, done.renewals, done.loads) == (2, 0, 1, 1)


@pytest.mark.parametrize("read", [lambda people: people.get("eve"), lambda people: people.get_many(["eve"]).get("eve")])
def test_an_absence_that_cannot_be_renewed_is_a_negative_hit(ending: Bench, read: Read) -> None:
    end_soon(ending, "eve")
    with failing(ending):
        done = ending.did(lambda: read(ending.people))

    assert (done.hits, done.negative_hits) == (1, 1)


def test_ctrl_c_in_a_renewal_is_not_swallowed(ending: Bench) -> None:
    with failing(ending, KeyboardInterrupt()), pytest.raises(KeyboardInterrupt):
        ending.people.get("ada")
    end_soon(ending, "bob")
    with failing(ending, KeyboardInterrupt()), pytest.raises(KeyboardInterrupt):
        ending.people.get_many(["ada", "bob"])


@pytest.mark.parametrize("error", [sa.exc.OperationalError("SELECT", {}, Exception("gone")), OverloadError("busy")])
def test_of_renewals_and_misses_together_a_failed_load_is_the_callers(ending: Bench, error: Exception) -> None:
    """There is no answer for the misses. Nobody waits for them afterwards."""
    with failing(ending, error), pytest.raises(type(error)):
        ending.people.get_many(["ada", "bob", "mallory"])

    done = ending.did(lambda: ending.people.get_many(["ada", "mallory"]))
    assert (done.hits, done.misses, done.waits) == (1, 1, 0)


# A busy database


@either_way
def test_nobody_queues_to_renew_a_value(ending: Bench, read: Read) -> None:
    with saturated(ending), ending.spent() as spent:
        began = time.monotonic()
        done = ending.did(lambda: [read(ending.people) for _ in range(2)])
        assert read(ending.people) == person()
        took = time.monotonic() - began

    assert took < _MAX_LOAD_WAIT / 2
    assert spent().queries == 0
    assert (done.hits, done.renewals, done.loads) == (2, 0, 0)


def test_nobody_queues_to_renew_many_values(ending: Bench) -> None:
    end_soon(ending, "bob")
    end_soon(ending, "eve")
    with saturated(ending):
        began = time.monotonic()
        done = ending.did(lambda: ending.people.get_many(["ada", "bob", "eve"]))
        assert ending.people.get_many(["ada", "bob", "eve"]) == {"ada": person(), "bob": person("bob")}
        took = time.monotonic() - began

    assert took < _MAX_LOAD_WAIT / 2
    assert (done.hits, done.negative_hits, done.loads) == (3, 1, 0)


def test_nobody_queues_to_renew_a_value_before_waiting_for_another_reader(ending: Bench) -> None:
    """Only the other reader's item is worth a place in the queue, and it comes while waiting."""
    lease = ending.lease("mallory")
    ending.time.meanwhile = lambda: ending.elsewhere.fill(lease, ending.encoded("mallory"))
    with saturated(ending):
        began = time.monotonic()
        assert ending.people.get_many(["ada", "mallory"]) == {"ada": person(), "mallory": person("mallory")}
        took = time.monotonic() - began

    assert took < _MAX_LOAD_WAIT / 2


@either_way
def test_a_value_that_ends_soon_and_comes_while_queueing_is_the_answer_if_the_load_fails(
    people_sqlite: orm.sessionmaker[orm.Session], statements: Statements, read: Read
) -> None:
    bench = Bench(people_sqlite, "memory://?wait=0", statements)
    lease = bench.lease("ada")

    def filled_and_ending() -> None:
        assert bench.elsewhere.fill(lease, bench.encoded("ada"))
        end_soon(bench, "ada")

    bench.backend.bulkhead = Queue(filled_and_ending)
    with failing(bench):
        done = bench.did(lambda: read(bench.people))
    bench.backend.bulkhead = None
    assert read(bench.people) == person()
    assert (done.waits, done.hits, done.renewals) == (1, 1, 1)


@either_way
def test_a_value_that_ends_soon_and_comes_while_waiting_is_renewed(ending: Bench, read: Read) -> None:
    ending.backend.put_tombstones([ending.key("ada")])
    ending.backend.evict(ending.key("ada"))  # type: ignore[attr-defined]
    lease = ending.lease("ada")

    def filled_and_ending() -> None:
        assert ending.elsewhere.fill(lease, ending.encoded("ada", last_name="of another reader"))
        end_soon(ending, "ada")

    ending.time.meanwhile = filled_and_ending
    done = ending.did(lambda: read(ending.people))

    assert read(ending.people) == person()
    assert (done.waits, done.renewals, done.fills, done.hits) == (1, 1, 1, 0)


# A value of no use


SPOILED: dict[str, Callable[[Bench], bytes]] = {
    "garbage": lambda bench: b"of no use",
    "another schema": lambda bench: bench.of_another_schema("ada"),
}


@either_way
@pytest.mark.parametrize("spoiled", SPOILED.values(), ids=SPOILED)
def test_a_value_that_ends_soon_and_is_of_no_use_is_rejected_and_replaced(
    ending: Bench, read: Read, spoiled: Callable[[Bench], bytes]
) -> None:
    backend: Any = ending.backend
    backend._items[ending.key("ada")].body = spoiled(ending)
    done = ending.did(lambda: read(ending.people))

    assert (done.rejected, done.fills, done.hits, done.loads) == (1, 1, 0, 1)
    assert read(ending.people) == person()


@either_way
def test_a_value_that_ends_soon_and_is_of_no_use_is_no_answer_if_the_load_fails(ending: Bench, read: Read) -> None:
    backend: Any = ending.backend
    backend._items[ending.key("ada")].body = b"of no use"

    with failing(ending), pytest.raises(sa.exc.OperationalError):
        read(ending.people)
