"""Each kind of read by its price: round trips to the cache, statements to the database."""

from __future__ import annotations

import datetime
import decimal
import uuid

import pytest
import sqlalchemy as sa
from reading.bench import IDS, Bench, person, servers_of
from sqlalchemy import orm
from support.models import HostBase, Parcel, Size, parcel

from person_repo.cache.region import make_region
from person_repo.database.repository import SQLAlchemyRepository
from person_repo.exceptions import InvalidIdError, PersonNotFoundError
from person_repo.reading.cached import CachedRepository


def test_a_hit_costs_one_round_trip_and_no_query(bench: Bench) -> None:
    bench.people.add(person())
    bench.people.get("ada")
    with bench.spent() as spent:
        assert bench.people.get("ada") == person()
    assert spent() == (1, 0)

    with bench.spent() as spent:
        assert bench.people.exists("ada")
        assert bench.people.get_one("ada") == person()
    assert spent() == (2, 0)


def test_a_known_absence_is_a_hit_too(bench: Bench) -> None:
    assert bench.people.get("nobody") is None
    with bench.spent() as spent:
        assert bench.people.get("nobody") is None
        assert not bench.people.exists("nobody")
        with pytest.raises(PersonNotFoundError):
            bench.people.get_one("nobody")
    assert spent() == (3, 0)

    did = bench.did(lambda: bench.people.get_many(["nobody"]))
    assert (did.hits, did.negative_hits, did.misses) == (1, 1, 0)


def test_a_miss_costs_three_round_trips_at_most_and_one_query(bench: Bench) -> None:
    """The first of all may find no marker of the group at its server, either; memory has none."""
    bench.people.add(person())
    with bench.spent() as cold:
        assert bench.people.get("ada") == person()
    bench.people.update("ada", first_name="Augusta")
    with bench.spent() as warm:
        assert bench.people.get("ada") == person(first_name="Augusta")

    assert cold() in ([(2, 1)] if servers_of(bench) == 1 else [(2, 1), (3, 1)])
    assert warm() == (2, 1)
    assert bench.did(lambda: bench.people.get("ada")).hits == 1


def test_a_hundred_hits_cost_one_round_trip_to_each_server_and_no_query(bench: Bench) -> None:
    bench.people.add_many(person(id) for id in IDS)
    bench.people.get_many(IDS)
    with bench.spent() as spent:
        found = bench.people.get_many(IDS)

    assert list(found) == IDS
    assert all(each == person(id) for id, each in found.items())
    assert spent() == (servers_of(bench), 0)


def test_a_hundred_misses_cost_one_query(bench: Bench) -> None:
    bench.people.add_many(person(id) for id in IDS[::2])
    with bench.spent() as cold:
        assert bench.people.get_many(IDS) == {id: person(id) for id in IDS[::2]}
    assert cold().queries == 1
    assert cold().round_trips <= 4 * servers_of(bench)

    did = bench.did(lambda: bench.people.get_many(IDS))
    assert (did.hits, did.negative_hits, did.loads) == (100, 50, 0)


def test_hits_and_misses_together_cost_one_query_for_the_misses(bench: Bench) -> None:
    bench.people.add_many(person(id) for id in IDS)
    bench.people.get_many(IDS[:90])
    with bench.spent() as spent:
        found = bench.people.get_many(reversed(IDS))

    assert list(found) == IDS[::-1]
    assert spent().queries == 1
    assert spent().round_trips <= 3 * servers_of(bench)


def test_repeated_ids_are_asked_once(bench: Bench) -> None:
    bench.people.add(person())
    did = bench.did(lambda: bench.people.get_many(["ada", "ada", "nobody", "ada"]))

    assert (did.misses, did.fills, did.loads) == (2, 2, 1)


def test_nothing_is_asked_for_no_ids_or_for_ids_that_cannot_be(bench: Bench) -> None:
    with bench.spent() as spent:
        assert bench.people.get_many([]) == bench.people.get_many(["\ud800"]) == {}
        assert bench.people.get("\ud800") is None
        assert not bench.people.exists("\ud800")
    assert spent() == (0, 0)

    with bench.spent() as spent, pytest.raises(InvalidIdError):
        bench.people.get_many(["ada", 1])
    assert spent() == (0, 0)


def test_a_write_is_two_round_trips_to_the_cache_and_the_next_read_loads(bench: Bench) -> None:
    bench.people.add(person())
    bench.people.get("ada")
    before = bench.people.stats()
    bench.people.update("ada", first_name="Augusta")
    assert (bench.people.stats() - before).round_trips == 2

    did = bench.did(lambda: bench.people.get("ada"))
    assert (did.misses, did.fills) == (1, 1)
    assert bench.people.get("ada") == person(first_name="Augusta")


def test_an_object_from_the_cache_is_as_one_from_the_database(engine: sa.Engine, cache_url: str) -> None:
    """In its fields, their types, and its state."""
    HostBase.metadata.create_all(engine)
    database = SQLAlchemyRepository(Parcel, orm.sessionmaker(engine))
    parcels = CachedRepository(database, make_region(cache_url))
    variants = [
        parcel(),
        parcel(
            "Nîmes", -1, tags=(), contents=None, price=decimal.Decimal("0.0001"), size=Size.SMALL, label=b"\x00" * 9
        ),
        parcel("x y", 2, contents=["ä", {"a": [1, 1.0, True, None]}], due=datetime.date.max, token=uuid.UUID(int=1)),
    ]
    for each in variants:
        parcels.add(each)
        key = (each.depot, each.number)
        for _ in range(2):
            got, loaded = parcels.get_one(key), database.get_one(key)
            assert got == loaded == each
            values, loaded_values = ({**vars(one), "_sa_instance_state": None} for one in (got, loaded))
            assert repr(values) == repr(loaded_values)
            assert sa.inspect(got).key == sa.inspect(loaded).key
            assert sa.inspect(got).detached
    assert parcels.stats().hits == 3
    with orm.Session(engine) as session:
        assert session.merge(parcels.get_one(("Köln", 7)), load=False) in session
    parcels.close()


def test_each_reader_has_an_object_of_its_own_to_change(engine: sa.Engine, cache_url: str) -> None:
    HostBase.metadata.create_all(engine)
    parcels = CachedRepository(SQLAlchemyRepository(Parcel, orm.sessionmaker(engine)), make_region(cache_url))
    parcels.add(parcel())
    for read in (lambda: parcels.get_one(("Köln", 7)), lambda: parcels.get_many([("Köln", 7)])["Köln", 7]):
        for _ in range(3):
            found = read()
            assert found == parcel()
            found.contents["items"].clear()
            found.note = "changed"
    parcels.close()
