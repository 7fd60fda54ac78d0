"""Leases and tombstones of others, as a reader meets them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import pytest
from reading.bench import IDS, Bench, Read, Statements, either_way, person
from sqlalchemy import orm

from person_repo.cache.contract import BUSY

# Another reader's lease


@either_way
def test_a_value_that_comes_while_waiting_is_a_hit(quick: Bench, read: Read) -> None:
    quick.people.add(person())
    lease = quick.lease("ada")
    item = quick.encoded("ada", last_name="of another reader")
    quick.time.meanwhile = lambda: quick.elsewhere.fill(lease, item)
    with quick.spent() as spent:
        assert read(quick.people) == person(last_name="of another reader")

    assert spent() == (2 + (quick.elsewhere is quick.backend), 0)
    assert (quick.people.stats().waits, quick.people.stats().hits, quick.people.stats().loads) == (1, 1, 0)


@either_way
def test_an_absence_that_comes_while_waiting_is_a_hit(quick: Bench, read: Read) -> None:
    lease, item = quick.lease("ada"), quick.absent("ada")
    quick.time.meanwhile = lambda: quick.elsewhere.fill(lease, item)

    assert read(quick.people) is None
    assert (quick.people.stats().negative_hits, quick.people.stats().loads) == (1, 0)


@either_way
def test_a_reader_that_died_with_its_lease_costs_one_bounded_wait(quick: Bench, read: Read) -> None:
    quick.people.add(person())
    quick.lease("ada")
    with quick.spent() as spent:
        assert read(quick.people) == person()

    assert 0 < quick.time.waited <= quick.backend.settings.wait
    assert spent().queries == 1
    assert spent().round_trips < 15
    stats = quick.people.stats()
    assert (stats.waits, stats.loads, stats.misses, stats.fills) == (1, 1, 0, 0)
    assert quick.elsewhere.fetch(quick.group, quick.key("ada")) is BUSY, "its lease stays with it"


def test_a_reader_waits_twice_as_long_as_loads_take_after_the_first_already(quick: Bench) -> None:
    quick.people.add_many([person(), person("bob")])
    load = quick.database.loader.one

    def slow(identity: Any) -> Any:
        quick.time.now += 0.5
        return load(identity)

    quick.database.loader.one = slow  # type: ignore[method-assign]
    assert quick.people.get("bob") == person("bob")
    quick.lease("ada")
    began = quick.time.now

    assert quick.people.get("ada") == person()

    assert 0.9 < quick.time.now - began - 0.5 <= 1.0


@either_way
def test_a_reader_that_waits_in_vain_leaves_the_fill_to_the_one_who_loads(quick: Bench, read: Read) -> None:
    quick.people.add(person())
    lease = quick.lease("ada")
    assert read(quick.people) == person()

    assert quick.elsewhere.fill(lease, b"still its own to fill")


@either_way
def test_a_lease_that_comes_free_while_waiting_is_taken_over(quick: Bench, read: Read) -> None:
    quick.people.add(person())
    lease = quick.lease("ada")
    quick.time.meanwhile = lambda: quick.elsewhere.abandon([lease])

    assert read(quick.people) == person()
    stats = quick.people.stats()
    assert (stats.waits, stats.misses, stats.fills) == (1, 1, 1)


@either_way
def test_a_tombstone_that_comes_while_waiting_ends_it(quick: Bench, read: Read) -> None:
    quick.people.add(person())
    quick.lease("ada")
    quick.time.meanwhile = lambda: quick.elsewhere.put_tombstones([quick.key("ada")])

    assert read(quick.people) == person()
    assert 0 < quick.time.waited < quick.backend.settings.wait / 10
    assert (quick.people.stats().bypasses, quick.people.stats().fills) == (1, 0)


def test_of_many_the_rest_is_loaded_before_other_readers_are_awaited_together(quick: Bench) -> None:
    quick.people.add_many(person(id) for id in IDS)
    quick.people.get_many(IDS[:10])
    leases = {id: quick.lease(id) for id in IDS[90:]}
    loads: list[int] = []

    def finish() -> None:
        """All that was free to load has been loaded by now; half of the others are done."""
        loads.append(quick.people.stats().loads)
        while len(leases) > 5:
            id, lease = leases.popitem()
            assert quick.elsewhere.fill(lease, quick.encoded(id, last_name="elsewhere"))

    before = quick.people.stats().loads
    quick.time.meanwhile = finish
    with quick.spent() as spent:
        found = quick.people.get_many(IDS)

    assert list(found) == IDS
    assert [found[id].last_name for id in IDS] == ["Lovelace"] * 95 + ["elsewhere"] * 5
    assert set(loads) == {before + 1}
    assert 0 < quick.time.waited <= quick.backend.settings.wait
    assert spent().queries == 2
    assert quick.people.stats().waits == 10
    assert quick.did(lambda: quick.people.get_many(IDS[:90])).hits == 90


def test_of_many_the_awaited_values_come_to_their_own_ids(quick: Bench) -> None:
    quick.people.add_many(person(id) for id in IDS[:10])
    leases = {id: quick.lease(id) for id in (IDS[7], IDS[3])}

    def fill() -> None:
        for id, lease in leases.items():
            assert quick.elsewhere.fill(lease, quick.encoded(id, last_name=f"of {id}"))

    quick.time.meanwhile = fill
    with quick.spent() as spent:
        found = quick.people.get_many(IDS[:10])

    assert list(found) == IDS[:10]
    assert {id: each.last_name for id, each in found.items() if each.last_name != "Lovelace"} == {
        IDS[3]: f"of {IDS[3]}",
        IDS[7]: f"of {IDS[7]}",
    }
    assert spent().queries == 1
    stats = quick.people.stats()
    assert (stats.waits, stats.hits, stats.misses, stats.loads) == (2, 2, 8, 1)


def test_of_many_an_item_that_comes_free_is_loaded_before_the_others_are_awaited(quick: Bench) -> None:
    """Two readers that wait for each other's leases, won while they waited for a third, would both wait in vain."""
    quick.people.add_many([person(), person("bob")])
    leases = {id: quick.lease(id) for id in ("ada", "bob")}
    loads: list[int] = []

    def ada_comes_free() -> None:
        loads.append(quick.people.stats().fills)
        if len(loads) == 1:
            quick.elsewhere.abandon([leases["ada"]])

    quick.time.meanwhile = ada_comes_free

    assert quick.people.get_many(["ada", "bob"]) == {"ada": person(), "bob": person("bob")}
    assert loads[:2] == [0, 1]
    stats = quick.people.stats()
    assert (stats.waits, stats.misses, stats.fills, stats.loads) == (2, 1, 1, 2)


@pytest.mark.parametrize("cache_url", ["memcached"], indirect=True)
@either_way
def test_while_waiting_the_fence_is_asked_as_before_the_first_fetch(quick: Bench, read: Read) -> None:
    quick.people.add(person())
    lease, item = quick.lease("ada"), quick.encoded("ada", last_name="of another reader")
    fence = quick.people.fence
    assert fence is not None

    def filled_and_blocked() -> None:
        assert quick.elsewhere.fill(lease, item)
        fence.block_locally(quick.backend.places_of(quick.group, quick.key("ada")))

    quick.time.meanwhile = filled_and_blocked

    assert read(quick.people) == person()
    stats = quick.people.stats()
    assert (stats.waits, stats.fenced, stats.bypasses, stats.hits) == (1, 1, 1, 0)


def test_with_no_wait_at_all_a_busy_item_is_loaded_at_once(
    people_sqlite: orm.sessionmaker[orm.Session], cache_url: str, statements: Statements
) -> None:
    bench = Bench(people_sqlite, f"{cache_url}{'&' if '?' in cache_url else '?'}wait=0", statements)
    bench.people.add(person())
    bench.lease("ada")

    assert bench.people.get("ada") == person()
    assert bench.people.get_many(["ada"]) == {"ada": person()}
    assert bench.time.waited == 0
    bench.close()


# A writer's tombstone


def test_beside_a_writer_a_reader_loads_and_does_not_store(bench: Bench) -> None:
    bench.people.add(person())
    bench.people.get("ada")
    placed = bench.elsewhere.put_tombstones([bench.key("ada")])
    with bench.spent() as spent:
        assert bench.people.get("ada") == person()
    assert spent() == (1, 1)
    with bench.spent() as spent:
        assert bench.people.get_many(["ada"]) == {"ada": person()}
    assert spent().queries == 1
    assert spent().round_trips <= 2
    stats = bench.people.stats()
    assert (stats.bypasses, stats.fills) == (2, 1)

    bench.elsewhere.release(placed)
    assert bench.did(lambda: bench.people.get("ada")).fills == 1


def test_a_fill_that_a_writer_overtook_is_refused_and_logged(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """The load began before the commit, so its row may be old."""
    bench.people.add(person())
    load = bench.database.loader.one
    overtaken: list[object] = []

    def slow(identity: Any) -> Any:
        found = load(identity)
        if not overtaken:
            overtaken.append(identity)
            bench.database.update("ada", first_name="Augusta")
        return found

    bench.database.loader.one = slow  # type: ignore[method-assign]
    with caplog.at_level(logging.DEBUG, "person_repo"):
        assert bench.people.get("ada") == person(), "it began before the commit"

    stats = bench.people.stats()
    assert (stats.fills, stats.fills_refused) == (0, 1)
    assert f"add failed: {bench.key('ada')}" in caplog.text
    assert bench.people.get("ada") == person(first_name="Augusta")


def test_of_many_fills_only_the_overtaken_are_refused(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.people.add_many(person(id) for id in IDS[:10])
    load = bench.database.loader.many
    changed: list[object] = []

    def slow(identities: Sequence[Any]) -> Any:
        found = load(identities)
        if not changed:
            changed.append("p003")
            bench.database.update("p003", first_name="Augusta")
            bench.database.delete("p004")
        return found

    bench.database.loader.many = slow  # type: ignore[method-assign]
    with caplog.at_level(logging.DEBUG, "person_repo"):
        bench.people.get_many(IDS[:10])

    stats = bench.people.stats()
    assert (stats.fills, stats.fills_refused) == (8, 2)
    assert caplog.text.count("add failed") == 2
    assert bench.people.get_many(["p003", "p004"]) == {"p003": person("p003", first_name="Augusta")}
