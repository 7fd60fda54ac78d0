"""The read side, state by state, with what each costs: round trips to the cache, statements to the database."""

from __future__ import annotations

import datetime
import decimal
import logging
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple
from unittest.mock import Mock

import pytest
import sqlalchemy as sa
from conftest import patient_url
from sqlalchemy import orm
from support.models import HostBase, Parcel, Size, parcel
from support.servers import Memcached

from person_repo.cache.contract import BUSY, Lease, Tombstones
from person_repo.cache.region import lease_backend, make_region
from person_repo.database.repository import SQLAlchemyRepository
from person_repo.exceptions import ConfigurationError, EntityNotFoundError, InvalidIdError, PersonNotFoundError
from person_repo.mapped.codec import Codec
from person_repo.mapped.mapping import EntityMapping
from person_repo.model import Person
from person_repo.observability.counters import Stats
from person_repo.reading.cached import CachedRepository
from person_repo.writing.coverage import cover

Statements = Callable[..., AbstractContextManager[list[str]]]
IDS = [f"p{number:03}" for number in range(100)]


def person(id: str = "ada", first_name: str = "Ada", last_name: str = "Lovelace") -> Person:
    return Person(id=id, first_name=first_name, last_name=last_name)


class Time:
    """A clock that only waiting moves forward; what happens meanwhile can be given."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.meanwhile: Callable[[], object] = lambda: None

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.meanwhile()

    @property
    def waited(self) -> float:
        return self.now - 1000.0


class Cost(NamedTuple):
    round_trips: int
    queries: int


class Bench:
    """A cached repository of people whose costs can be taken, and another process's view of its cache."""

    def __init__(
        self, sessions: orm.sessionmaker[orm.Session], cache_url: str, statements: Statements, entity: type = Person
    ) -> None:
        self.time = Time()
        self.database = SQLAlchemyRepository[Any](entity, sessions)
        self.people = CachedRepository[Any](
            self.database, make_region(cache_url), sleep=self.time.sleep, clock=self.time.clock
        )
        self.sessions = sessions
        self.mapping = self.people.mapping
        self.backend = self.people.backend
        other = cache_url.startswith("memory")
        self.elsewhere = self.backend if other else lease_backend(make_region(cache_url))
        self.group = self.people.keys.group
        self._statements = statements
        cover(self.database.engine, self.mapping, self.people.keys, self.backend)

    def key(self, *identity: Any) -> str:
        return self.people.keys.key_of(identity)[0]

    def lease(self, *identity: Any) -> Lease:
        """The right to fill an item, taken by another reader."""
        found = self.elsewhere.fetch(self.group, self.key(*identity))
        assert isinstance(found, Lease), found
        return found

    def put(self, item: bytes, *identity: Any) -> None:
        """Puts an item where another reader would have put its own."""
        assert self.elsewhere.fill(self.lease(*identity), item)

    def item(self, *identity: Any) -> bytes:
        found = self.elsewhere.fetch(self.group, self.key(*identity))
        assert isinstance(found, bytes), found
        return found

    @contextmanager
    def spent(self) -> Iterator[Callable[[], Cost]]:
        """What the block has spent, to be asked for after it; of the database, on both engines."""
        before = self.people.stats()
        cost: list[Cost] = []
        with self._statements(self.database.engine, self.database.read_engine) as seen:
            yield lambda: cost[0]
            cost.append(Cost((self.people.stats() - before).round_trips, len(seen)))

    def did(self, use: Callable[[], object]) -> Stats:
        before = self.people.stats()
        use()
        return self.people.stats() - before

    def close(self) -> None:
        self.people.close()
        self.elsewhere.close()


@pytest.fixture
def bench(sessions: orm.sessionmaker[orm.Session], cache_url: str, statements: Statements) -> Iterator[Bench]:
    bench = Bench(sessions, cache_url, statements)
    yield bench
    bench.close()


@pytest.fixture
def quick(people_sqlite: orm.sessionmaker[orm.Session], cache_url: str, statements: Statements) -> Iterator[Bench]:
    """On SQLite alone: for what the database has no part in."""
    bench = Bench(people_sqlite, cache_url, statements)
    yield bench
    bench.close()


@pytest.fixture
def people_sqlite(tmp_path: Any) -> Iterator[orm.sessionmaker[orm.Session]]:
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'quick.db'}")
    Person.metadata.create_all(engine)
    HostBase.metadata.create_all(engine)
    yield orm.sessionmaker(engine)
    engine.dispose()


def servers_of(bench: Bench) -> int:
    return len(getattr(bench.backend, "servers", ("memory",)))


# Costs


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
    """The first of all finds no marker of the group at its server, either; memory has none."""
    bench.people.add(person())
    with bench.spent() as cold:
        assert bench.people.get("ada") == person()
    bench.people.update("ada", first_name="Augusta")
    with bench.spent() as warm:
        assert bench.people.get("ada") == person(first_name="Augusta")

    assert cold() == (2 if servers_of(bench) == 1 else 3, 1)
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
        assert bench.people.get_many([]) == bench.people.get_many(["x" * 101]) == {}
        assert bench.people.get("x" * 101) is None
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


def test_what_comes_from_the_cache_is_what_comes_from_the_database(engine: sa.Engine, cache_url: str) -> None:
    """Fields, types, state: nothing tells one from the other."""
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


def test_nobody_sees_what_another_changes_in_what_he_was_given(engine: sa.Engine, cache_url: str) -> None:
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


# Another reader's lease


def test_a_value_that_comes_while_waiting_is_a_hit(quick: Bench) -> None:
    quick.people.add(person())
    lease = quick.lease("ada")
    full = quick.people.keys.key_of(("ada",))[1]
    item = Codec(quick.mapping).encode(full, ("ada", "Ada", "of another reader", 1))
    quick.time.meanwhile = lambda: quick.elsewhere.fill(lease, item)
    with quick.spent() as spent:
        assert quick.people.get("ada") == person(last_name="of another reader")

    assert spent() == (2 + (quick.elsewhere is quick.backend), 0)
    assert (quick.people.stats().waits, quick.people.stats().hits, quick.people.stats().loads) == (1, 1, 0)


def test_an_absence_that_comes_while_waiting_is_a_hit(quick: Bench) -> None:
    lease = quick.lease("nobody")
    item = Codec(quick.mapping).encode(quick.people.keys.key_of(("nobody",))[1], None)
    quick.time.meanwhile = lambda: quick.elsewhere.fill(lease, item)

    assert quick.people.get("nobody") is None
    assert (quick.people.stats().negative_hits, quick.people.stats().loads) == (1, 0)


def test_a_reader_that_died_with_its_lease_costs_one_bounded_wait(quick: Bench) -> None:
    quick.people.add(person())
    quick.lease("ada")
    with quick.spent() as spent:
        assert quick.people.get("ada") == person()

    assert 0 < quick.time.waited <= quick.backend.settings.wait
    assert spent().queries == 1
    assert spent().round_trips < 15
    stats = quick.people.stats()
    assert (stats.waits, stats.loads, stats.misses, stats.fills) == (1, 1, 0, 0)
    assert quick.elsewhere.fetch(quick.group, quick.key("ada")) is BUSY  # it is not taken away either


def test_a_reader_waits_twice_as_long_as_loads_take_be_it_the_first(quick: Bench) -> None:
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


def test_who_waits_in_vain_does_not_fill_over_the_one_who_loads(quick: Bench) -> None:
    quick.people.add(person())
    lease = quick.lease("ada")
    assert quick.people.get("ada") == person()

    assert quick.elsewhere.fill(lease, b"still its own to fill")


def test_a_lease_that_comes_free_while_waiting_is_taken_over(quick: Bench) -> None:
    quick.people.add(person())
    lease = quick.lease("ada")
    quick.time.meanwhile = lambda: quick.elsewhere.abandon([lease])

    assert quick.people.get("ada") == person()
    stats = quick.people.stats()
    assert (stats.waits, stats.misses, stats.fills) == (1, 1, 1)


def test_a_tombstone_that_comes_while_waiting_ends_it(quick: Bench) -> None:
    quick.people.add(person())
    quick.lease("ada")
    quick.time.meanwhile = lambda: quick.elsewhere.put_tombstones([quick.key("ada")])

    assert quick.people.get("ada") == person()
    assert 0 < quick.time.waited < quick.backend.settings.wait / 10
    assert (quick.people.stats().bypasses, quick.people.stats().fills) == (1, 0)


def test_of_many_those_that_others_load_are_awaited_together_after_the_rest_is_loaded(quick: Bench) -> None:
    quick.people.add_many(person(id) for id in IDS)
    quick.people.get_many(IDS[:10])
    leases = {id: quick.lease(id) for id in IDS[90:]}
    loads: list[int] = []

    def finish() -> None:
        """What is free to load has been loaded by now; half of the others are done."""
        loads.append(quick.people.stats().loads)
        while len(leases) > 5:
            id, lease = leases.popitem()
            item = Codec(quick.mapping).encode(quick.people.keys.key_of((id,))[1], (id, "Ada", "elsewhere", 1))
            assert quick.elsewhere.fill(lease, item)

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


def test_with_no_wait_at_all_a_busy_item_is_loaded_at_once(
    people_sqlite: orm.sessionmaker[orm.Session], cache_url: str, statements: Statements
) -> None:
    bench = Bench(people_sqlite, cache_url + ("&" if "?" in cache_url else "?") + "wait=0", statements)
    bench.people.add(person())
    bench.lease("ada")

    assert bench.people.get("ada") == person()
    assert bench.people.get_many(["ada"]) == {"ada": person()}
    assert bench.time.waited == 0
    bench.close()


# A writer's tombstone


def test_beside_a_writer_one_loads_and_does_not_store(bench: Bench) -> None:
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


def test_a_fill_that_a_writer_overtook_is_refused_and_told(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """The load began before the commit, so what it found may be old."""
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
        assert bench.people.get("ada") == person()  # it began before

    stats = bench.people.stats()
    assert (stats.fills, stats.fills_refused) == (0, 1)
    assert f"add failed: {bench.key('ada')}" in caplog.text
    assert bench.people.get("ada") == person(first_name="Augusta")


def test_of_many_fills_those_that_writers_overtook_are_refused(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
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


# Items of no use


@pytest.fixture
def garbage(quick: Bench) -> dict[str, bytes]:
    codec = Codec(quick.mapping)
    ours = codec.encode(quick.people.keys.key_of(("ada",))[1], ("ada", "Ada", "Lovelace", 1))
    return {
        "no msgpack": b"\xc1",
        "cut off": ours[:-1],
        "too long": ours + b"\x00",
        "another key": codec.encode(quick.people.keys.key_of(("eve",))[1], ("eve", "Eve", "", 1)),
        "another schema": ours.replace(codec.schema.to_bytes(8, "big"), (codec.schema ^ 1).to_bytes(8, "big")),
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


def test_an_item_of_no_use_that_comes_while_waiting_is_left_alone(quick: Bench, garbage: dict[str, bytes]) -> None:
    """Readers of two schemas that wait for each other would else replace each other's items for ever."""
    quick.people.add(person())
    lease = quick.lease("ada")
    quick.time.meanwhile = lambda: quick.elsewhere.fill(lease, garbage["another schema"])

    assert quick.people.get("ada") == person()
    assert quick.item("ada") == garbage["another schema"]
    assert (quick.people.stats().rejected, quick.people.stats().fills) == (1, 0)


def test_an_item_of_no_use_is_not_replaced_where_a_better_one_has_come(quick: Bench, garbage: dict[str, bytes]) -> None:
    quick.people.add(person())
    quick.put(garbage["a pickle"], "ada")
    good = Codec(quick.mapping).encode(quick.people.keys.key_of(("ada",))[1], ("ada", "Ada", "Lovelace", 1))
    fetch = quick.backend.fetch

    def overtaken(group: str, key: str, *, reject: bytes | None = None) -> Any:
        if reject is not None:
            taken = fetch(group, key, reject=reject)
            assert isinstance(taken, Lease)
            assert quick.backend.fill(taken, good)
        return fetch(group, key, reject=reject)

    quick.backend.fetch = overtaken  # type: ignore[method-assign]
    assert quick.people.get("ada") == person()
    quick.backend.fetch = fetch  # type: ignore[method-assign]
    assert quick.item("ada") == good
    assert (quick.people.stats().fills, quick.people.stats().bypasses) == (0, 1)


# An item of the right key, schema and types, of which a listener of the host's lets no object be made


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
    """Puts an item of Mallory where that of a person belongs."""
    item = Codec(bench.mapping).encode(bench.people.keys.key_of((id,))[1], (id, "Mallory", "Lovelace", 1))
    bench.put(item, id)
    return item


READS = {"get": lambda people: people.get("ada"), "get_many": lambda people: people.get_many(["ada", "bob"]).get("ada")}


@pytest.mark.usefixtures("refuses_mallory")
@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_an_item_that_a_listener_refuses_is_counted_and_replaced(quick: Bench, read: Callable[[Any], Any]) -> None:
    quick.people.add_many([person(), person("bob")])
    forge(quick, "ada")

    assert read(quick.people) == person()
    assert quick.people.stats().rejected == 1
    assert read(quick.people) == person()
    did = quick.did(lambda: read(quick.people))
    assert (did.rejected, did.loads) == (0, 0)


@pytest.mark.usefixtures("refuses_mallory")
@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_an_item_of_nobody_that_a_listener_refuses_is_nobody(quick: Bench, read: Callable[[Any], Any]) -> None:
    forge(quick, "ada")

    assert read(quick.people) is None


@pytest.mark.usefixtures("refuses_mallory")
@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_what_a_listener_refuses_of_the_database_too_is_its_own_error(quick: Bench, read: Callable[[Any], Any]) -> None:
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
    """The table as code saw it that is still running: without a column that is new."""

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
    """A rolling deploy: whoever writes, with whichever code, the other reads what was written."""
    NewBase.metadata.create_all(engine)
    url = engine.url
    old_engine, new_engine = sa.create_engine(url), sa.create_engine(url)
    region = make_region(cache_url)
    old = CachedRepository(SQLAlchemyRepository(OldPerson, old_engine), region)
    new = CachedRepository(SQLAlchemyRepository(NewPerson, new_engine), region)
    for repository, on in ((old, old_engine), (new, new_engine)):
        cover(on, repository.mapping, repository.keys, repository.backend)
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
        assert parcels.get_one(("Köln", 7)).contents == {"huge": 2**70}
        assert parcels.get_many([("Köln", 7), ("Köln", 8)]) == {
            ("Köln", 7): parcel(contents={"huge": 2**70}),
            ("Köln", 8): parcel(number=8),
        }
    stats = parcels.stats()
    assert (stats.uncacheable, stats.fills, stats.waits) == (4, 1, 0)
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


# Faults


def test_a_load_that_fails_gives_its_leases_back(quick: Bench) -> None:
    """Nobody waits for a value that will not come."""
    quick.people.add_many([person(), person("bob")])
    with quick.database.engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE person RENAME TO gone"))
    for read in (lambda: quick.people.get("ada"), lambda: quick.people.get_many(["ada", "bob"])):
        with pytest.raises(sa.exc.OperationalError):
            read()
    with quick.database.engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE gone RENAME TO person"))

    assert quick.people.get_many(["ada", "bob"]) == {"ada": person(), "bob": person("bob")}
    assert quick.people.stats().waits == 0
    assert quick.people.stats().fills == 2


def test_a_load_that_is_interrupted_gives_its_lease_back(quick: Bench) -> None:
    quick.people.add(person())
    load = quick.database.loader.one

    def interrupted(identity: Any) -> Any:
        raise KeyboardInterrupt

    quick.database.loader.one = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        quick.people.get("ada")
    quick.database.loader.one = load  # type: ignore[method-assign]

    assert quick.people.get("ada") == person()
    assert (quick.people.stats().waits, quick.people.stats().fills) == (0, 1)


@pytest.fixture
def cluster(memcached_servers: list[Memcached]) -> Iterator[list[Memcached]]:
    yield memcached_servers
    for server in memcached_servers:
        if server.running:
            server.resume()
        server.start()


def test_while_servers_are_down_reads_go_to_the_database_and_the_log_says_so_once(
    sessions: orm.sessionmaker[orm.Session], cluster: list[Memcached], statements: Statements,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    url = patient_url(cluster, breaker_failures=1000)
    bench = Bench(sessions, url, statements)
    bench.people.add_many(person(id) for id in IDS)
    bench.people.get_many(IDS)
    for server in cluster:
        server.kill()
    with caplog.at_level(logging.WARNING, "person_repo"):
        for _ in range(3):
            with bench.spent() as spent:
                assert bench.people.get("p001") == person("p001")
                assert bench.people.get_many(IDS) == {id: person(id) for id in IDS}
                assert bench.people.get("nobody") is None
            assert spent().queries == 3
    stats = bench.people.stats()
    assert stats.errors > 0
    assert stats.bypasses == 3 * 102
    assert caplog.text.count("reads go to the database") == 3  # one line for each server

    for server in cluster:
        server.start()
    bench.people.get_many(IDS)
    assert bench.did(lambda: bench.people.get_many(IDS)).hits == 100
    bench.close()


def test_of_many_only_those_of_a_server_that_is_down_are_loaded(
    sessions: orm.sessionmaker[orm.Session], cluster: list[Memcached], statements: Statements
) -> None:
    bench = Bench(sessions, patient_url(cluster), statements)
    bench.people.add_many(person(id) for id in IDS)
    bench.people.get_many(IDS)
    cluster[1].kill()
    with bench.spent() as spent:
        assert bench.people.get_many(IDS) == {id: person(id) for id in IDS}

    assert spent().queries == 1
    stats = bench.people.stats()
    assert stats.hits + stats.bypasses == 100
    assert 0 < stats.bypasses < 100
    bench.close()


def test_a_server_that_hangs_costs_its_timeout_and_no_error(
    sessions: orm.sessionmaker[orm.Session], cluster: list[Memcached], statements: Statements
) -> None:
    url = patient_url(cluster, timeout=0.05, connect_timeout=0.05)
    bench = Bench(sessions, url, statements)
    bench.people.add_many(person(id) for id in IDS)
    bench.people.get_many(IDS)
    cluster[0].pause()
    for id in IDS[:5]:
        assert bench.people.get(id) == person(id)
    assert bench.people.get_many(IDS) == {id: person(id) for id in IDS}
    bench.close()


def test_a_writer_whose_cache_is_down_still_writes(
    sessions: orm.sessionmaker[orm.Session], cluster: list[Memcached], statements: Statements,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    bench = Bench(sessions, patient_url(cluster), statements)
    bench.people.add(person())
    for server in cluster:
        server.kill()
    with caplog.at_level(logging.WARNING, "person_repo"):
        assert bench.people.update("ada", first_name="Augusta").version == 2

    assert "could not be placed" in caplog.text
    assert bench.database.get("ada") == person(first_name="Augusta")
    bench.close()


# Values that end soon


@pytest.fixture
def ending(people_sqlite: orm.sessionmaker[orm.Session], statements: Statements) -> Iterator[Bench]:
    """Ada and Bob are cached, and Ada's value is in the last part of its ttl."""
    bench = Bench(people_sqlite, "memory://?max_loads=1", statements)
    bench.people.add_many([person(), person("bob")])
    bench.people.get_many(["ada", "bob"])
    backend: Any = bench.backend
    backend._items[bench.key("ada")].renewed_from = 0.0
    yield bench
    bench.close()


def test_one_reader_loads_a_value_anew_that_ends_soon_and_the_others_go_on_with_it(ending: Bench) -> None:
    with ending.spent() as spent:
        done = ending.did(lambda: [ending.people.get("ada") for _ in range(3)])

    assert spent().queries == 1
    assert (done.renewals, done.hits, done.misses, done.fills, done.loads) == (1, 2, 0, 1, 1)


def test_among_many_what_ends_soon_is_loaded_anew(ending: Bench) -> None:
    with ending.spent() as spent:
        done = ending.did(lambda: ending.people.get_many(["ada", "bob"]))

    assert spent().queries == 1
    assert (done.renewals, done.hits, done.fills) == (1, 1, 1)


@pytest.mark.parametrize("read", [lambda people: people.get("ada"), lambda people: people.get_many(["ada"])["ada"]])
def test_a_value_that_cannot_be_loaded_anew_is_good_to_its_end(ending: Bench, read: Callable[[Any], Any]) -> None:
    ada = person()
    loader: Any = ending.people.database.loader
    failing = sa.exc.OperationalError("SELECT", {}, Exception("the database is gone"))
    loader.one = loader.many = Mock(side_effect=failing)

    assert [read(ending.people) for _ in range(2)] == [ada, ada]


def test_nobody_waits_to_load_a_value_anew_while_the_database_is_busy(ending: Bench) -> None:
    assert ending.backend.bulkhead is not None
    with ending.backend.bulkhead.entered(), ending.spent() as spent:
        assert ending.people.get("ada") == person()

    assert spent().queries == 0


def test_a_value_that_ends_soon_and_is_of_no_use_is_a_miss(ending: Bench) -> None:
    backend: Any = ending.backend
    backend._items[ending.key("ada")].body = b"of no use"

    done = ending.did(lambda: ending.people.get("ada"))

    assert (done.rejected, done.fills, done.hits) == (1, 1, 0)


# What it stands on


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

    assert one.keys.key_of(("ada",)) == ("pr:crm:person:sada", "pr:crm:person:sada")
    assert other.keys.key_of(("ada",)) != one.keys.key_of(("ada",))
    assert EntityMapping(Person).table.fullname in one.keys.group


def test_tombstones_of_many_keys_cost_one_exchange_with_each_server(bench: Bench) -> None:
    keys: Collection[str] = [bench.key(id) for id in IDS]
    before = bench.backend.counters.snapshot().round_trips
    placed = bench.backend.put_tombstones(keys)
    spent = bench.backend.counters.snapshot().round_trips - before
    bench.backend.release(placed)

    assert isinstance(placed, Tombstones)
    assert placed.complete
    assert spent == servers_of(bench)
