"""Items and rows of no use: of another schema, garbage, refused by a listener, or not to be cached at all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from reading.bench import Bench, Queue, Read, Statements, either_way, person
from sqlalchemy import orm
from support.models import HostBase, Parcel, parcel
from support.servers import Memcached
from support.urls import patient_url

from person_repo.cache.contract import Lease
from person_repo.cache.region import make_region
from person_repo.database.repository import SQLAlchemyRepository
from person_repo.model import Person
from person_repo.reading.cached import CachedRepository
from person_repo.writing.coverage import Part, cover_all

# Items that cannot be decoded here


@pytest.fixture
def garbage(quick: Bench) -> dict[str, bytes]:
    ours = quick.encoded("ada")
    return {
        "no msgpack": b"\xc1",
        "cut off": ours[:-1],
        "too long": ours + b"\x00",
        "another key": quick.encoded("eve"),
        "another schema": quick.of_another_schema("ada"),
        "a pickle": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94.",
        "of another kind": b"\x93\x01\x02\x03",
    }


@pytest.mark.parametrize(
    "kind", ["no msgpack", "cut off", "too long", "another key", "another schema", "a pickle", "of another kind"]
)
def test_an_item_of_no_use_is_counted_and_replaced(quick: Bench, garbage: dict[str, bytes], kind: str) -> None:
    quick.people.add_many([person(), person("bob")])
    quick.put(garbage[kind], "ada")
    quick.put(garbage[kind], "bob")
    with quick.spent() as spent:
        assert quick.people.get("ada") == person()
    assert spent().queries == 1
    assert spent().round_trips <= 4
    assert quick.people.get_many(["bob", "ada"]) == {"bob": person("bob"), "ada": person()}

    stats = quick.people.stats()
    assert (stats.rejected, stats.fills) == (2, 2)
    did = quick.did(lambda: (quick.people.get("ada"), quick.people.get("bob")))
    assert (did.hits, did.loads) == (2, 0)


@either_way
def test_an_item_of_no_use_that_comes_while_waiting_is_left_alone(quick: Bench, read: Read) -> None:
    """Readers of two schemas that wait for each other would otherwise replace each other's items for ever."""
    quick.people.add(person())
    lease, item = quick.lease("ada"), quick.of_another_schema("ada")
    quick.time.meanwhile = lambda: quick.elsewhere.fill(lease, item)

    assert read(quick.people) == person()
    assert quick.item("ada") == item
    stats = quick.people.stats()
    assert (stats.waits, stats.rejected, stats.bypasses, stats.fills) == (1, 1, 1, 0)


def test_of_many_a_place_that_another_takes_first_is_awaited_and_comes_to_its_own_id(quick: Bench) -> None:
    quick.people.add_many([person(), person("bob")])
    quick.put(b"of no use", "ada")
    leases: dict[str, Any] = {"bob": quick.lease("bob")}
    fetch, there = quick.backend.fetch, quick.elsewhere.fetch

    def overtaken(group: str, key: str, *, reject: bytes | None = None) -> Any:
        if reject is not None and "ada" not in leases:
            leases["ada"] = there(group, key, reject=reject)
        return fetch(group, key, reject=reject)

    def fill_one() -> None:
        if leases:
            id, lease = leases.popitem()
            assert quick.elsewhere.fill(lease, quick.encoded(id, last_name=f"of {id}"))

    quick.backend.fetch = overtaken  # type: ignore[method-assign]
    quick.time.meanwhile = fill_one
    found = quick.people.get_many(["ada", "bob"])

    assert {id: (each.id, each.last_name) for id, each in found.items()} == {
        "ada": ("ada", "of ada"),
        "bob": ("bob", "of bob"),
    }
    stats = quick.people.stats()
    assert (stats.waits, stats.rejected, stats.hits, stats.loads) == (2, 1, 2, 0)


@either_way
def test_an_item_of_no_use_that_comes_while_queueing_for_a_load_is_left_alone(
    people_sqlite: orm.sessionmaker[orm.Session], statements: Statements, read: Read
) -> None:
    bench = Bench(people_sqlite, "memory://?wait=0", statements)
    bench.people.add(person())
    lease, item = bench.lease("ada"), bench.of_another_schema("ada")
    bench.backend.bulkhead = Queue(lambda: bench.elsewhere.fill(lease, item))

    assert read(bench.people) == person()
    assert bench.item("ada") == item
    stats = bench.people.stats()
    assert (stats.rejected, stats.bypasses, stats.fills) == (1, 1, 0)


@either_way
def test_an_item_of_no_use_is_not_replaced_if_a_better_one_has_come(
    quick: Bench, garbage: dict[str, bytes], read: Read
) -> None:
    quick.people.add(person())
    quick.put(garbage["a pickle"], "ada")
    good = quick.encoded("ada")
    fetch = quick.backend.fetch

    def overtaken(group: str, key: str, *, reject: bytes | None = None) -> Any:
        if reject is not None:
            taken = fetch(group, key, reject=reject)
            assert isinstance(taken, Lease)
            assert quick.backend.fill(taken, good)
        return fetch(group, key, reject=reject)

    quick.backend.fetch = overtaken  # type: ignore[method-assign]
    assert read(quick.people) == person()
    quick.backend.fetch = fetch  # type: ignore[method-assign]
    assert quick.item("ada") == good
    assert (quick.people.stats().fills, quick.people.stats().bypasses) == (0, 1)


# Items of the right key, schema and types that a listener of the host's refuses


@pytest.fixture
def refuses_mallory() -> Iterator[None]:
    """A ``load`` listener, as a ``@reconstructor`` or a composite is one, that raises for a value."""

    def refuse(loaded: Person, _: object) -> None:
        if loaded.first_name == "Mallory":
            raise ValueError(f"{loaded.id} is Mallory")

    sa.event.listen(Person, "load", refuse)
    yield
    sa.event.remove(Person, "load", refuse)


def forge(bench: Bench, id: str) -> bytes:
    """Puts an item of Mallory in the place of a person's."""
    item = bench.encoded(id, first_name="Mallory")
    bench.put(item, id)
    return item


among_others = pytest.mark.parametrize(
    "read",
    [lambda people: people.get("ada"), lambda people: people.get_many(["ada", "bob"]).get("ada")],
    ids=["get", "get_many"],
)


@pytest.mark.usefixtures("refuses_mallory")
@among_others
def test_an_item_that_a_listener_refuses_is_counted_and_replaced(quick: Bench, read: Read) -> None:
    quick.people.add_many([person(), person("bob")])
    forge(quick, "ada")

    assert read(quick.people) == person()
    assert quick.people.stats().rejected == 1
    assert read(quick.people) == person()
    did = quick.did(lambda: read(quick.people))
    assert (did.rejected, did.loads) == (0, 0)


@pytest.mark.usefixtures("refuses_mallory")
@among_others
def test_an_item_of_nobody_that_a_listener_refuses_reads_as_nobody(quick: Bench, read: Read) -> None:
    forge(quick, "ada")

    assert read(quick.people) is None


@pytest.mark.usefixtures("refuses_mallory")
@among_others
def test_a_row_that_a_listener_refuses_of_the_database_too_is_its_own_error(quick: Bench, read: Read) -> None:
    """The item is right, and stays; whichever way the toggle stands the host sees one error, at a hit and at a miss."""
    quick.database.add(person(first_name="Mallory"))

    for people in (quick.database, quick.people, quick.people):
        with pytest.raises(ValueError, match=r"^ada is Mallory$"):
            read(people)
    item = quick.item("ada")
    with pytest.raises(ValueError, match=r"^ada is Mallory$"):
        read(quick.people)
    assert quick.item("ada") == item
    assert quick.people.stats().rejected == 0


# Two versions of a model


class OldBase(orm.MappedAsDataclass, orm.DeclarativeBase, kw_only=True):
    pass


class OldPerson(OldBase):
    """The table as the code that is still running knows it: without the new column."""

    __tablename__ = "badge"

    id: orm.Mapped[str] = orm.mapped_column(sa.String(40), primary_key=True)
    name: orm.Mapped[str] = orm.mapped_column(sa.String(40))


class NewBase(orm.MappedAsDataclass, orm.DeclarativeBase, kw_only=True):
    pass


class NewPerson(NewBase):
    __tablename__ = "badge"

    id: orm.Mapped[str] = orm.mapped_column(sa.String(40), primary_key=True)
    name: orm.Mapped[str] = orm.mapped_column(sa.String(40))
    color: orm.Mapped[str | None] = orm.mapped_column(sa.String(40), default=None)


def test_two_versions_of_a_model_never_see_each_others_old_rows(
    engine: sa.Engine, cache_url: str, statements: Statements
) -> None:
    """A rolling deploy: each code reads the other's writes."""
    NewBase.metadata.create_all(engine)
    url = engine.url
    old_engine, new_engine = sa.create_engine(url), sa.create_engine(url)
    region = make_region(cache_url)
    old = CachedRepository(SQLAlchemyRepository(OldPerson, old_engine), region)
    new = CachedRepository(SQLAlchemyRepository(NewPerson, new_engine), region)
    for repository, on in ((old, old_engine), (new, new_engine)):
        cover_all(on, [Part(repository.mapping, repository.backend)])
    old.add(OldPerson(id="ada", name="0"))
    for number in range(1, 7):
        for _ in range(2):
            assert old.get("ada") == OldPerson(id="ada", name=str(number - 1))
            assert new.get_one("ada").name == str(number - 1)
            assert old.get_many(["ada"])["ada"].name == new.get_many(["ada"])["ada"].name == str(number - 1)
        if number % 2:
            new.update("ada", name=str(number), color="red")
        else:
            old.update("ada", name=str(number))
    assert new.get_one("ada").color == "red"
    assert old.stats().rejected > 0
    assert new.stats().rejected > 0
    for repository, on in ((old, old_engine), (new, new_engine)):
        repository.close()
        on.dispose()


# Rows that cannot be cached


def test_a_row_that_would_not_come_back_as_it_is_is_read_right_each_time(engine: sa.Engine, cache_url: str) -> None:
    HostBase.metadata.create_all(engine)
    parcels = CachedRepository(SQLAlchemyRepository(Parcel, orm.sessionmaker(engine)), make_region(cache_url))
    parcels.add(parcel(contents={"huge": 2**70}))
    parcels.add(parcel(number=8))
    for _ in range(2):
        contents = parcels.get_one(("Köln", 7)).contents
        assert contents == {"huge": 2**70}
        assert parcels.get_many([("Köln", 7), ("Köln", 8)]) == {
            ("Köln", 7): parcel(contents={"huge": 2**70}),
            ("Köln", 8): parcel(number=8),
        }
    stats = parcels.stats()
    # MySQL's own JSON gives the number back as a float, which a cache can hold.
    expected = (0, 2, 0) if isinstance(contents["huge"], float) else (4, 1, 0)
    assert (stats.uncacheable, stats.fills, stats.waits) == expected
    parcels.close()


def test_not_a_number_is_read_right_each_time(quick: Bench, cache_url: str, statements: Statements) -> None:
    bench = Bench(quick.sessions, cache_url, statements, Parcel)
    bench.database.add(parcel(contents={"x": float("nan")}))
    for _ in range(3):
        assert str(bench.people.get_one(("Köln", 7)).contents) == "{'x': nan}"
    assert (bench.people.stats().uncacheable, bench.people.stats().fills) == (3, 0)
    bench.close()


def test_a_value_that_the_server_refuses_for_its_size_is_read_right_each_time(
    engine: sa.Engine, memcached_servers: list[Memcached]
) -> None:
    HostBase.metadata.create_all(engine)
    url = patient_url(memcached_servers)
    parcels = CachedRepository(SQLAlchemyRepository(Parcel, orm.sessionmaker(engine)), url)
    large = parcel(contents=["x" * 2_000_000])
    parcels.add(large)
    for _ in range(2):
        assert parcels.get(("Köln", 7)) == large
    assert (parcels.stats().fills, parcels.stats().fills_refused, parcels.stats().waits) == (0, 2, 0)
    parcels.close()
