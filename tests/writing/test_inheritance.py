"""Mapped hierarchies: joined and single-table inheritance, read through the cache and kept coherent."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from support.databases import with_identity
from support.entities import Loose, make_folding
from support.urls import MEMORY

from person_repo import ConfigurationError, ExactString, Service, make_region


class Host(orm.MappedAsDataclass, orm.DeclarativeBase):
    pass


class Vehicle(Host):
    __tablename__ = "vehicle"
    id: orm.Mapped[str] = orm.mapped_column(ExactString(40), primary_key=True)
    name: orm.Mapped[str] = orm.mapped_column(ExactString(40))
    kind: orm.Mapped[str] = orm.mapped_column(ExactString(20), init=False)
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "vehicle"}


class Car(Vehicle):
    """Joined: a table of its own."""

    __tablename__ = "car"
    id: orm.Mapped[str] = orm.mapped_column(sa.ForeignKey("vehicle.id"), primary_key=True)
    doors: orm.Mapped[int] = orm.mapped_column(default=4)
    __mapper_args__ = {"polymorphic_identity": "car"}


class Boat(Vehicle):
    """Single-table: a column in its parent's table."""

    sails: orm.Mapped[int | None] = orm.mapped_column(default=1, nullable=True)
    __mapper_args__ = {"polymorphic_identity": "boat"}


class Cab(Car):
    """A single-table class below a joined one."""

    sign: orm.Mapped[str | None] = orm.mapped_column(ExactString(20), default="TAXI", nullable=True)
    __mapper_args__ = {"polymorphic_identity": "cab"}


FLEET = [
    lambda: Vehicle(id="sled", name="Sled"),
    lambda: Car(id="mini", name="Mini", doors=2),
    lambda: Boat(id="sloop", name="Sloop", sails=3),
    lambda: Cab(id="black", name="Black", doors=5, sign="FREE"),
]


@pytest.fixture
def vehicles(engine: sa.Engine, cache_url: str) -> Iterator[Service[Vehicle]]:
    Host.metadata.create_all(with_identity(engine))
    with Service.over(Vehicle, orm.sessionmaker(engine), make_region(cache_url)) as vehicles:
        vehicles.add_many(make() for make in FLEET)
        yield vehicles


@pytest.fixture
def cars(vehicles: Service[Vehicle]) -> Iterator[Service[Car]]:
    with Service.over(Car, vehicles.sessions, vehicles.region) as cars:
        yield cars


def answers(service: Service, id: object) -> list[object]:  # type: ignore[type-arg]
    with service.using(use_db=True):
        expected = service.get(id)
    return [expected, service.get(id), service.get(id), service.get_many([id]).get(id)]


@pytest.mark.parametrize(("id", "entity"), [("sled", Vehicle), ("mini", Car), ("sloop", Boat), ("black", Cab)])
def test_each_row_becomes_an_object_of_its_class(vehicles: Service[Vehicle], id: str, entity: type[Vehicle]) -> None:
    with orm.Session(vehicles.engine) as session:
        expected = session.get_one(Vehicle, id)
        for found in answers(vehicles, id):
            assert type(found) is entity
            assert found == expected
            assert sa.inspect(found).key == sa.inspect(expected).key
            assert sa.inspect(found).detached


def test_a_subclass_has_only_the_rows_of_its_kinds(cars: Service[Car]) -> None:
    assert [type(found) for found in answers(cars, "mini")] == [Car] * 4
    assert [type(found) for found in answers(cars, "black")] == [Cab] * 4
    assert answers(cars, "sloop") == [None] * 4
    assert (cars.count(), [car.id for car in cars.list()]) == (2, ["black", "mini"])


def test_a_hit_on_a_hierarchy_is_one_round_trip_and_no_query(vehicles: Service[Vehicle]) -> None:
    vehicles.get("black")
    before = vehicles.stats()
    assert vehicles.get("black") == Cab(id="black", name="Black", doors=5, sign="FREE")
    spent = vehicles.stats() - before
    assert (spent.round_trips, spent.loads, spent.hits) == (1, 0, 1)


WRITES = {
    "attribute of the base": lambda session: setattr(session.get_one(Vehicle, "black"), "name", "Old"),
    "attribute of the subclass": lambda session: setattr(session.get_one(Vehicle, "black"), "doors", 3),
    "attribute in the shared table": lambda session: setattr(session.get_one(Vehicle, "black"), "sign", "BUSY"),
    "update of the base's table": lambda session: session.execute(
        sa.update(Vehicle.__table__).where(Vehicle.__table__.c.id == "black").values(name="Old")  # type: ignore[arg-type]
    ),
    "update of the subclass's table": lambda session: session.execute(
        sa.update(Car.__table__).where(Car.__table__.c.doors == 5).values(doors=6)  # type: ignore[arg-type]
    ),
    "text on the subclass's table": lambda session: session.execute(sa.text("UPDATE car SET doors = 9")),
    "delete": lambda session: session.delete(session.get_one(Vehicle, "black")),
    "another kind": lambda session: session.execute(
        sa.update(Vehicle.__table__).where(Vehicle.__table__.c.id == "black").values(kind="car")  # type: ignore[arg-type]
    ),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_write_to_any_of_its_tables_is_seen(vehicles: Service[Vehicle], cars: Service[Car], write) -> None:  # type: ignore[no-untyped-def]
    for service in (vehicles, cars):
        answers(service, "black")
    with orm.Session(vehicles.engine) as session, session.begin():
        write(session)
    for service in (vehicles, cars):
        expected, *cached = answers(service, "black")
        assert cached == [expected] * 3
        assert {type(found) for found in cached} == {type(expected)}


def test_a_write_to_one_entity_invalidates_only_that(vehicles: Service[Vehicle], cars: Service[Car]) -> None:
    """The classes of a hierarchy share the entry of a row; the last that has read it hits."""
    for service in (vehicles, cars):
        service.get_many(["mini", "black"])
    vehicles.update("mini", name="Maxi")
    before = cars.stats()
    assert cars.get_one("black").name == "Black"
    assert (cars.stats() - before).hits == 1
    assert vehicles.get_one("black").name == "Black"
    assert vehicles.stats().model_drops == 0
    assert (vehicles.get_one("mini").name, cars.get_one("mini").name) == ("Maxi", "Maxi")


def test_an_added_object_of_a_subclass_ends_the_negative_entries(
    vehicles: Service[Vehicle], cars: Service[Car]
) -> None:
    assert (vehicles.get("new"), cars.get("new")) == (None, None)
    vehicles.add(Car(id="new", name="New", doors=1))
    assert vehicles.get("new") == cars.get("new") == Car(id="new", name="New", doors=1)


def test_a_discriminator_of_no_class_is_an_error(vehicles: Service[Vehicle]) -> None:
    with vehicles.engine.begin() as connection:
        connection.execute(sa.insert(Vehicle.__table__), [{"id": "ufo", "name": "?", "kind": "saucer"}])  # type: ignore[arg-type]
    for use_db in (True, False, False):
        with vehicles.using(use_db=use_db), pytest.raises(sa.exc.InvalidRequestError, match="saucer"):
            vehicles.get("ufo")


# One thing to writers, whichever class a service is over


class Staff(orm.DeclarativeBase):
    pass


class OfKinds:
    id = sa.Column(sa.Integer, primary_key=True)
    kind = sa.Column(ExactString(20))


class Employee(OfKinds, Staff):
    __tablename__ = "employee"
    name = sa.Column(ExactString(40))
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "employee"}


class Engineer(Employee):
    """Joined by a key of another name."""

    __tablename__ = "engineer"
    engineer_id = sa.Column(sa.ForeignKey("employee.id"), primary_key=True)
    skill = sa.Column(ExactString(40))
    __mapper_args__ = {"polymorphic_identity": "engineer"}


class Manager(Employee):
    __tablename__ = "manager"
    manager_id = sa.Column(sa.ForeignKey("employee.id"), primary_key=True)
    budget = sa.Column(sa.Integer)
    __mapper_args__ = {"polymorphic_identity": "manager"}


WRITES_TO_STAFF = {
    "the base's row": lambda session: session.execute(sa.update(Employee.__table__).values(name="new")),
    "the class's row": lambda session: session.execute(sa.update(Engineer.__table__).values(skill="new")),
    "an attribute of the base": lambda session: setattr(session.get_one(Employee, 1), "name", "new"),
    "an attribute of the class": lambda session: setattr(session.get_one(Engineer, 1), "skill", "new"),
    "text": lambda session: session.execute(sa.text("UPDATE engineer SET skill = 'new' WHERE engineer_id = 1")),
    "delete": lambda session: session.delete(session.get_one(Employee, 1)),
}


@pytest.mark.parametrize("write", WRITES_TO_STAFF.values(), ids=WRITES_TO_STAFF)
@pytest.mark.parametrize(("reads", "writes"), [(Employee, Engineer), (Engineer, Employee), (Engineer, Manager)])
def test_a_process_with_a_service_over_one_class_is_seen_by_a_process_with_another(
    engine: sa.Engine, cache_url: str, reads: type[Employee], writes: type[Employee], write: Callable[..., None]
) -> None:
    Staff.metadata.create_all(with_identity(engine))
    with orm.Session(engine) as session, session.begin():
        session.add_all([Engineer(id=1, name="old", skill="old"), Manager(id=2, name="old", budget=1)])
    other, region = sa.create_engine(engine.url), make_region(cache_url)
    with Service.over(reads, engine, region) as readers, Service.over(writes, other, region):
        assert readers.get(1) is not None
        with orm.Session(other) as session, session.begin():
            write(session)
        expected, *cached = [
            None if found is None else (found.name, found.skill)  # type: ignore[attr-defined]
            for found in answers(readers, 1)
        ]
        assert cached == [expected] * 3
    other.dispose()


def test_a_write_costs_one_tombstone_whatever_classes_there_are(engine: sa.Engine, cache_url: str) -> None:
    Staff.metadata.create_all(with_identity(engine))
    with Service.over(Employee, engine, cache_url) as staff:
        staff.add(Employee(id=1, name="Ada"))
        before = staff.stats()
        staff.update(1, name="Bob")
        assert (staff.stats() - before).tombstones == 1


def test_a_row_of_the_base_alone_is_no_entity_of_the_class(engine: sa.Engine, cache_url: str) -> None:
    Staff.metadata.create_all(with_identity(engine))
    with orm.Session(engine) as session, session.begin():
        session.add(Engineer(id=1, name="Ada", skill="all"))
        session.execute(sa.insert(Employee.__table__).values(id=2, name="Bob", kind="engineer"))
    with Service.over(Engineer, engine, cache_url) as engineers:
        assert (answers(engineers, 2), engineers.exists(2), [*engineers.get_many([1, 2])]) == ([None] * 4, False, [1])
        assert engineers.get_one(1).skill == "all"
        with engine.begin() as connection:
            connection.execute(sa.delete(Engineer.__table__).where(Engineer.engineer_id == 1))
        assert (answers(engineers, 1), engineers.exists(1)) == ([None] * 4, False)


def test_services_made_while_classes_are_still_mapped_have_hits(engine: sa.Engine, cache_url: str) -> None:
    class Zoo(orm.DeclarativeBase):
        pass

    class Animal(OfKinds, Zoo):
        __tablename__ = "animal"
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "animal"}

    class Dog(Animal):
        sound = sa.Column(ExactString(20))
        __mapper_args__ = {"polymorphic_identity": "dog"}

    other, region = sa.create_engine(engine.url), make_region(cache_url)
    dogs = Service.over(Dog, engine, region)
    unread = Service.over(Animal, other, region)

    class Cat(Animal):
        """Of a table that is covered, too, though neither service has seen it when it was made."""

        __tablename__ = "cat"
        id = sa.Column(sa.ForeignKey("animal.id"), primary_key=True)
        name = sa.Column(ExactString(20))
        __mapper_args__ = {"polymorphic_identity": "cat"}

    animals = Service.over(Animal, engine, region)
    Zoo.metadata.create_all(with_identity(engine))
    with orm.Session(engine) as session, session.begin():
        session.add_all([Dog(id=1, sound="wow"), Cat(id=2, name="old")])
    for _ in range(3):
        assert (dogs.get_one(1).sound, type(animals.get(1)), animals.get_one(2).name) == ("wow", Dog, "old")
    assert (dogs.stats() - animals.stats()).hits == 2 - 4
    with other.begin() as connection:
        connection.execute(sa.update(Cat.__table__).values(name="new"))
    assert animals.get_one(2).name == "new"
    for service in (dogs, animals, unread):
        service.close()
    other.dispose()


class Beast(Staff):
    """A key that folds case."""

    __tablename__ = "beast"
    code = sa.Column(Loose.__table__.c.code.type.copy(), primary_key=True)
    kind = sa.Column(ExactString(20))
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "beast"}


class Horse(Beast):
    __tablename__ = "horse"
    code = sa.Column(sa.ForeignKey("beast.code"), primary_key=True)
    gait = sa.Column(ExactString(20))
    __mapper_args__ = {"polymorphic_identity": "horse"}


make_folding(Beast.__table__)

RIDES = {
    "an attribute": lambda session: setattr(session.get_one(Horse, "bay"), "gait", "new"),
    "an update by the key": lambda session: session.execute(
        sa.update(Horse.__table__).where(Horse.__table__.c.code == "BAY").values(gait="new")
    ),
    "an update by the other spelling": lambda session: session.execute(
        sa.update(Horse.__table__).where(Horse.__table__.c.code == "bay").values(gait="new")
    ),
    "a delete": lambda session: session.execute(sa.delete(Horse.__table__).where(Horse.__table__.c.code == "BAY")),
}


@pytest.mark.every_database
@pytest.mark.parametrize("write", RIDES.values(), ids=RIDES)
def test_a_joined_row_whose_key_is_spelt_otherwise_than_the_roots(
    engine: sa.Engine, write: Callable[[orm.Session], object]
) -> None:
    """A foreign key takes both spellings for one where the collation does."""
    Staff.metadata.create_all(with_identity(engine), [Beast.__table__, Horse.__table__])
    with engine.begin() as connection:
        connection.execute(sa.insert(Beast.__table__), [{"code": "bay", "kind": "horse"}])
        connection.execute(sa.insert(Horse.__table__), [{"code": "BAY", "gait": "old"}])
    with Service.over(Horse, engine, MEMORY) as horses:
        for _ in range(2):  # from the second execution on a statement is known by its form
            answers(horses, "bay")
            with orm.Session(engine) as session, session.begin():
                write(session)
            expected, *cached = [None if found is None else found.gait for found in answers(horses, "bay")]
            assert cached == [expected] * 3
            assert expected in ("new", None)
            with engine.begin() as connection:
                connection.execute(sa.delete(Horse.__table__))
                connection.execute(sa.insert(Horse.__table__), [{"code": "BAY", "gait": "old"}])


class Fruit(Staff):
    """Without a discriminator: a row does not say of which class it is."""

    __tablename__ = "fruit"
    id = sa.Column(sa.Integer, primary_key=True)
    name = sa.Column(ExactString(40))


class Apple(Fruit):
    __tablename__ = "apple"
    apple_id = sa.Column(sa.ForeignKey("fruit.id"), primary_key=True)
    sort = sa.Column(ExactString(40))


@pytest.mark.parametrize(("reads", "writes"), [(Fruit, Apple), (Apple, Fruit)])
def test_a_hierarchy_without_a_discriminator_is_one_thing_to_writers_too(
    engine: sa.Engine, cache_url: str, reads: type[Fruit], writes: type[Fruit]
) -> None:
    Staff.metadata.create_all(with_identity(engine))
    with orm.Session(engine) as session, session.begin():
        session.add(Apple(id=1, name="old", sort="old"))
    other, region = sa.create_engine(engine.url), make_region(cache_url)
    with Service.over(reads, engine, region) as readers, Service.over(writes, other, region):
        assert readers.get_one(1).name == "old"
        with other.begin() as connection:
            connection.execute(sa.update(Fruit.__table__).values(name="new"))
            connection.execute(sa.update(Apple.__table__).values(sort="new"))
        found = readers.get_one(1)
        assert (type(found), found.name, getattr(found, "sort", "new")) == (reads, "new", "new")
    other.dispose()


def test_a_class_that_is_not_joined_by_its_whole_key_is_refused() -> None:
    class Odd(OfKinds, Staff):
        __tablename__ = "odd"
        name = sa.Column(ExactString(40))
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "odd"}

    class Odder(Odd):
        __tablename__ = "odder"
        odder_id = sa.Column(sa.Integer, primary_key=True)
        odd_name = sa.Column(ExactString(40))
        __mapper_args__ = {"inherit_condition": odd_name == Odd.name, "polymorphic_identity": "odder"}

    with pytest.raises(ConfigurationError, match=r"Odder is joined by .*; only a class that is joined by the whole"):
        Service.over(Odd, sa.create_engine("sqlite://"), "memory://")


class Paper(OfKinds, Staff):
    __tablename__ = "paper"
    note = sa.Column(ExactString(20))
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "paper"}


class Letter(Paper):
    """Its attributes stand for a column in each table, one of them by another name."""

    __tablename__ = "letter"
    pk = orm.column_property(sa.Column("id", sa.ForeignKey("paper.id"), primary_key=True), Paper.id)
    note = orm.column_property(sa.Column("note", ExactString(20)), Paper.note)
    __mapper_args__ = {"polymorphic_identity": "letter"}


@pytest.mark.parametrize("entity", [Paper, Letter])
def test_an_attribute_of_two_columns_has_the_value_that_sqlalchemy_loads(
    engine: sa.Engine, cache_url: str, entity: type[Paper]
) -> None:
    Staff.metadata.create_all(with_identity(engine))
    with orm.Session(engine) as session, session.begin():
        session.add(Letter(pk=1, note="of both"))
        session.flush()
        session.execute(sa.update(Paper.__table__).values(note="of the base"))
    with orm.Session(engine) as session:
        expected = session.get_one(Letter, 1)
        assert (expected.note, expected.pk) == ("of both", 1)
    with Service.over(entity, engine, cache_url) as papers:
        for found in answers(papers, 1):
            assert (found.note, found.pk) == ("of both", 1)  # type: ignore[attr-defined]
        papers.update(1, note="changed")
        for found in answers(papers, 1):
            assert found.note == "changed"  # type: ignore[attr-defined]
