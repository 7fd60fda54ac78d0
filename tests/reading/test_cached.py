"""The repository itself: what it takes, what it shares, what it leaves to the database."""

from __future__ import annotations

import re
from collections.abc import Collection

import pytest
from reading.bench import IDS, Bench, person, servers_of
from sqlalchemy import orm
from support.models import Parcel

from person_repo.cache.contract import Tombstones
from person_repo.cache.region import make_region
from person_repo.database.repository import SQLAlchemyRepository
from person_repo.exceptions import ConfigurationError, EntityNotFoundError, PersonNotFoundError
from person_repo.model import Person
from person_repo.reading.cached import CachedRepository


def test_lookups_other_than_by_id_go_to_the_database(bench: Bench) -> None:
    bench.people.add_many([person(), person("bob", first_name="Bob")])
    with bench.spent() as spent:
        assert bench.people.find(first_name="Bob") == [person("bob", first_name="Bob")]
        assert bench.people.list() == [person(), person("bob", first_name="Bob")]
        assert bench.people.list(after="ada", limit=1) == [person("bob", first_name="Bob")]
        assert bench.people.count() == 2
    assert spent() == (0, 4)


def test_a_cached_repository_takes_a_cache_url_or_a_region(people_sqlite: orm.sessionmaker[orm.Session]) -> None:
    database = SQLAlchemyRepository(Person, people_sqlite)
    region = make_region("memory://")

    assert CachedRepository(database, region).region is region
    assert CachedRepository(database, "memory://").coherence == "process"
    with pytest.raises(ConfigurationError):
        CachedRepository(database, "nowhere://")
    with pytest.raises(ConfigurationError):
        CachedRepository(database, None)  # type: ignore[arg-type]


def test_get_one_of_another_class_raises_the_general_error(
    people_sqlite: orm.sessionmaker[orm.Session], cache_url: str
) -> None:
    parcels = CachedRepository(SQLAlchemyRepository(Parcel, people_sqlite), cache_url)
    for _ in range(2):
        with pytest.raises(EntityNotFoundError) as caught:
            parcels.get_one(("Köln", 7))
        assert not isinstance(caught.value, PersonNotFoundError)
    parcels.close()


def test_stats_of_two_repositories_over_one_region_share_what_is_the_regions(
    people_sqlite: orm.sessionmaker[orm.Session], cache_url: str
) -> None:
    region = make_region(cache_url)
    people = CachedRepository(SQLAlchemyRepository(Person, people_sqlite), region)
    parcels = CachedRepository(SQLAlchemyRepository(Parcel, people_sqlite), region)
    people.get("ada")
    parcels.get(("Köln", 7))

    assert people.stats().misses == parcels.stats().misses == 1
    assert people.stats().round_trips == parcels.stats().round_trips >= 4
    people.close()
    parcels.close()


def test_keys_of_one_table_and_namespace_are_the_same_for_everybody(
    people_sqlite: orm.sessionmaker[orm.Session],
) -> None:
    one = CachedRepository(SQLAlchemyRepository(Person, people_sqlite), make_region("memory://", namespace="crm"))
    other = CachedRepository(SQLAlchemyRepository(Person, people_sqlite), make_region("memory://", namespace="erp"))

    third = CachedRepository(SQLAlchemyRepository(Person, people_sqlite), make_region("memory://", namespace="crm"))

    (key, full), *_ = [one.keys.key_of(("ada",))]
    assert key == full == third.keys.key_of(("ada",))[0]
    assert re.fullmatch(r"pr:crm:person:[a-z2-7]{16}sada", key)
    assert other.keys.key_of(("ada",)) != one.keys.key_of(("ada",))


def test_tombstones_of_many_keys_cost_one_exchange_with_each_server(bench: Bench) -> None:
    keys: Collection[str] = [bench.key(id) for id in IDS]
    before = bench.backend.counters.snapshot().round_trips
    placed = bench.backend.put_tombstones(keys)
    spent = bench.backend.counters.snapshot().round_trips - before
    bench.backend.release(placed)

    assert isinstance(placed, Tombstones)
    assert placed.complete
    assert spent == servers_of(bench)
