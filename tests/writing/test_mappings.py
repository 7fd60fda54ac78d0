"""Several mappings of one table, and hierarchies that grow: each has entries of its own, and all are kept coherent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import orm

from person_repo import ExactString, Service, make_region


def answers(service: Service[Any], id: object) -> list[Any]:
    """What the database answers, and the cache three times."""
    with service.using(use_db=True):
        expected = service.get(id)
    return [expected, service.get(id), service.get(id), service.get_many([id]).get(id)]


def only(values: list[Any]) -> Any:
    """The one value of equal ones, types included."""
    assert len({(type(value), repr(value)) for value in values}) == 1, values
    return values[0]


class Shown:
    """Mapped objects that show their values."""

    def __repr__(self) -> str:
        return repr({name: value for name, value in sorted(vars(self).items()) if name[0] != "_"})


# Two keys


class Base(orm.DeclarativeBase):
    pass


USERS = sa.Table(
    "user_account",
    Base.metadata,
    sa.Column("id", ExactString(40), primary_key=True),
    sa.Column("email", ExactString(40), nullable=False, unique=True),
    sa.Column("name", ExactString(40), nullable=False),
)


class ById(Shown, Base):
    __table__ = USERS


class ByEmail(Shown, Base):
    __table__ = USERS
    __mapper_args__ = {"primary_key": [USERS.c.email]}


@pytest.fixture
def users(engine: sa.Engine, cache_url: str) -> Iterator[tuple[Service[ById], Service[ByEmail]]]:
    """``bob`` is the id of one and the e-mail of another."""
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        rows = [{"id": "bob", "email": "ada", "name": "first"}, {"id": "x", "email": "bob", "name": "second"}]
        connection.execute(sa.insert(USERS), rows)
    region = make_region(cache_url)
    with Service.over(ById, engine, region) as by_id, Service.over(ByEmail, engine, region) as by_email:
        yield by_id, by_email


def test_two_keys_of_one_table_have_entries_of_their_own(users: tuple[Service[ById], Service[ByEmail]]) -> None:
    by_id, by_email = users
    assert only(answers(by_id, "bob")).name == "first"
    assert only(answers(by_email, "bob")).name == "second"
    assert only(answers(by_email, "x")) is None
    assert by_id.cached.keys.key_of(("bob",)) != by_email.cached.keys.key_of(("bob",))


@pytest.mark.parametrize("way", ["by id", "by e-mail", "Core", "text", "insert", "delete"])
def test_a_write_by_one_key_is_seen_by_the_other(
    users: tuple[Service[ById], Service[ByEmail]], engine: sa.Engine, way: str
) -> None:
    by_id, by_email = users
    for id in ("bob", "x", "ada", "new"):
        answers(by_id, id)
        answers(by_email, id)
    if way == "by id":
        by_id.update("bob", name="changed")
    elif way == "by e-mail":
        by_email.update("bob", name="changed")
    else:
        with engine.begin() as connection:
            if way == "Core":
                connection.execute(sa.update(USERS).where(USERS.c.id == "bob").values(email="new"))
            elif way == "text":
                connection.exec_driver_sql("UPDATE user_account SET name = 'changed' WHERE id = 'bob'")
            elif way == "insert":
                connection.execute(sa.insert(USERS), {"id": "new", "email": "new", "name": "third"})
            else:
                connection.execute(sa.delete(USERS).where(USERS.c.email == "bob"))
    for id in ("bob", "x", "ada", "new"):
        only(answers(by_id, id))
        only(answers(by_email, id))


# Names of classes and of discriminators


class Staff(orm.DeclarativeBase):
    pass


class Worker(Shown, Staff):
    __tablename__ = "worker"
    id: orm.Mapped[str] = orm.mapped_column(ExactString(40), primary_key=True)
    name: orm.Mapped[str] = orm.mapped_column(ExactString(40))
    kind: orm.Mapped[str] = orm.mapped_column(ExactString(20))
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "worker"}


class Leader(Worker):
    """Its discriminator is the name of the abstract class beside it."""

    __mapper_args__ = {"polymorphic_identity": "manager"}


class manager(Worker):
    """Abstract: its rows are those of the classes that inherit from it."""

    __mapper_args__ = {"polymorphic_abstract": True}


class Director(manager):
    __mapper_args__ = {"polymorphic_identity": "director"}


def test_an_abstract_class_does_not_share_entries_with_a_discriminator(engine: sa.Engine, cache_url: str) -> None:
    Staff.metadata.create_all(engine)
    region = make_region(cache_url)
    with Service.over(Leader, engine, region) as leaders, Service.over(manager, engine, region) as managers:
        leaders.add(Leader(id="ada", name="Ada"))
        for _ in range(2):
            assert isinstance(only(answers(leaders, "ada")), Leader)
            assert only(answers(managers, "ada")) is None
        managers.add(Director(id="grace", name="Grace"))
        for _ in range(2):
            assert only(answers(leaders, "grace")) is None
            assert isinstance(only(answers(managers, "grace")), Director)


# A hierarchy that grows


@pytest.mark.parametrize("where", ["single table", "joined"])
def test_a_class_that_is_mapped_later_is_read_as_itself(engine: sa.Engine, cache_url: str, where: str) -> None:
    class Late(orm.DeclarativeBase):
        pass

    class Animal(Shown, Late):
        __tablename__ = "animal"
        id: orm.Mapped[str] = orm.mapped_column(ExactString(40), primary_key=True)
        kind: orm.Mapped[str] = orm.mapped_column(ExactString(20))
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "animal"}

    class Bird(Animal):
        __mapper_args__ = {"polymorphic_identity": "bird"}

    Late.metadata.create_all(engine)
    region = make_region(cache_url)
    with Service.over(Animal, engine, region) as animals, Service.over(Bird, engine, region) as birds:
        animals.add(Bird(id="raven"))
        for service in (animals, birds):
            assert isinstance(only(answers(service, "raven")), Bird)
            assert only(answers(service, "emu")) is None

        attributes: dict[str, Any] = {"__mapper_args__": {"polymorphic_identity": "emu"}}
        if where == "joined":
            key = orm.mapped_column(sa.ForeignKey("animal.id"), primary_key=True)
            attributes |= {"__tablename__": "emu", "emu_id": key, "speed": orm.mapped_column(sa.Integer)}
        Emu: Any = type("Emu", (Bird,), attributes)
        Late.metadata.create_all(engine)
        with orm.Session(engine) as session:
            session.add(Emu(id="emu", **({"speed": 48} if where == "joined" else {})))
            session.commit()

        for service in (animals, birds):
            assert type(only(answers(service, "emu"))) is Emu
            assert type(only(answers(service, "raven"))) is Bird
            assert {type(each) for each in service.list()} == {Emu, Bird}
        if where == "joined":
            with engine.begin() as connection:
                connection.execute(sa.update(Emu.__table__).values(speed=50))
            assert only(answers(animals, "emu")).speed == 50
        birds.delete("emu")
        for service in (animals, birds):
            assert only(answers(service, "emu")) is None


@pytest.mark.filterwarnings("ignore:This declarative base already contains a class with the same class name")
def test_two_classes_of_one_name_without_a_discriminator(engine: sa.Engine, cache_url: str) -> None:
    class Plain(orm.DeclarativeBase):
        pass

    class Thing(Shown, Plain):
        __tablename__ = "plain_thing"
        id: orm.Mapped[str] = orm.mapped_column(ExactString(40), primary_key=True)

    def part(table: str) -> Any:
        key = orm.mapped_column(sa.ForeignKey("plain_thing.id"), primary_key=True)
        return type("Part", (Thing,), {"__tablename__": table, "id": key, "size": orm.mapped_column(sa.Integer)})

    One, Other = part("plain_one"), part("plain_other")
    Plain.metadata.create_all(engine)
    region = make_region(cache_url)
    with Service.over(One, engine, region) as ones, Service.over(Other, engine, region) as others:
        ones.add(One(id="a", size=1))
        for _ in range(2):
            assert only(answers(ones, "a")).size == 1
            assert only(answers(others, "a")) is None
