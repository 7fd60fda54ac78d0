"""Column types that only MySQL and MariaDB have: cached as the database returns them, found, and written."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.dialects import mysql
from sqlalchemy.dialects.mysql.mariadb import INET4, INET6
from support.urls import MEMORY

from person_repo.database.repository import SQLAlchemyRepository
from person_repo.exceptions import ConfigurationError, InvalidEntityError
from person_repo.service import Service

# SQLAlchemy 2.1 warns of its own types.
pytestmark = pytest.mark.filterwarnings("ignore:Type object .* does not refer to an OperatorClass")

on_mysql = pytest.mark.parametrize("database_url", ["mysql", "mariadb-10.11", "mariadb-11.8"], indirect=True)
on_mariadb = pytest.mark.parametrize("database_url", ["mariadb-10.11", "mariadb-11.8"], indirect=True)


class MySQLBase(orm.DeclarativeBase):
    """Metadata of this module's own: no other database has these types."""


class Words(sa.types.TypeDecorator[set[str]]):
    """A decorator that converts nothing."""

    impl = mysql.SET("small", "large")
    cache_ok = True


class Secret(sa.types.TypeDecorator[str]):
    """Has a parameter of its own in the SQL of every SELECT."""

    impl = sa.VARBINARY(80)
    cache_ok = True

    @property
    def python_type(self) -> type[str]:
        return str

    def bind_expression(self, bindvalue: Any) -> Any:
        return sa.func.aes_encrypt(sa.type_coerce(bindvalue, sa.String(40)), "key")

    def column_expression(self, column: Any) -> Any:
        return sa.cast(sa.func.aes_decrypt(column, "key"), mysql.CHAR(charset="utf8mb4"))


class Sealed(MySQLBase):
    __tablename__ = "sealed"

    id: orm.Mapped[int] = orm.mapped_column(primary_key=True, autoincrement=False)
    text: orm.Mapped[str | None] = orm.mapped_column(Secret)


class Note(MySQLBase):
    __tablename__ = "note"

    id: orm.Mapped[int] = orm.mapped_column(primary_key=True, autoincrement=False)
    marks: orm.Mapped[set[str] | None] = orm.mapped_column(mysql.SET("red", "green", "blue"))
    bits: orm.Mapped[set[str] | None] = orm.mapped_column(mysql.SET("b", "", "a", retrieve_as_bitwise=True))
    words: orm.Mapped[set[str] | None] = orm.mapped_column(Words)
    year: orm.Mapped[int | None] = orm.mapped_column(mysql.YEAR)
    flag: orm.Mapped[int | None] = orm.mapped_column(mysql.BIT(64))


class Host(MySQLBase):
    __tablename__ = "host"

    id: orm.Mapped[int] = orm.mapped_column(primary_key=True, autoincrement=False)
    four: orm.Mapped[str | None] = orm.mapped_column(INET4)
    six: orm.Mapped[str | None] = orm.mapped_column(INET6)
    token: orm.Mapped[uuid.UUID | None] = orm.mapped_column(sa.Uuid)


class Address(MySQLBase):
    __tablename__ = "address"

    id: orm.Mapped[str] = orm.mapped_column(INET6, primary_key=True)
    name: orm.Mapped[str] = orm.mapped_column(sa.String(20))


class Token(MySQLBase):
    __tablename__ = "token"

    id: orm.Mapped[uuid.UUID] = orm.mapped_column(sa.Uuid, primary_key=True)
    name: orm.Mapped[str] = orm.mapped_column(sa.String(20))


class Vintage(MySQLBase):
    __tablename__ = "vintage"

    id: orm.Mapped[int] = orm.mapped_column(mysql.YEAR, primary_key=True, autoincrement=False)
    name: orm.Mapped[str] = orm.mapped_column(sa.String(20))


@pytest.fixture
def service_of(engine: sa.Engine) -> Iterator[Callable[[Any], Service[Any]]]:
    services: list[Service[Any]] = []

    def service_of(entity: Any) -> Service[Any]:
        entity.__table__.create(engine)
        services.append(Service.over(entity, engine, MEMORY))
        return services[-1]

    yield service_of
    for service in services:
        service.close()


def same_on_both_sides(service: Service[Any], id: Any, **values: Any) -> None:
    """Each value is that of the database, in a fill and in a hit, and of its type."""
    hits = service.stats().hits
    for _ in range(2):
        for side in (service.database, service.cached):
            found = side.get_one(id)
            assert {name: getattr(found, name) for name in values} == values
            assert [type(getattr(found, name)) for name in values] == [type(value) for value in values.values()]
    assert service.stats().hits == hits + 1
    assert service.stats().rejected == service.stats().uncacheable == 0


@on_mysql
@pytest.mark.parametrize(
    "values",
    [
        {"marks": {"red", "blue"}, "bits": {"a", "", "b"}, "words": {"small"}, "year": 1999, "flag": 2**64 - 1},
        {"marks": set(), "bits": set(), "words": set(), "year": 0, "flag": 0},
        {"marks": {"green"}, "bits": {""}, "words": {"small", "large"}, "year": 2155, "flag": 1},
        {"marks": None, "bits": None, "words": None, "year": None, "flag": None},
    ],
    ids=["some", "empty", "others", "none"],
)
def test_values_are_cached_found_and_written(service_of: Any, engine: sa.Engine, values: dict[str, Any]) -> None:
    notes = service_of(Note)
    notes.add(Note(id=1, **values))
    notes.add(Note(id=2, marks={"red", "green"}, bits={"a", "b"}, words={"large"}, year=1901, flag=7))

    same_on_both_sides(notes, 1, **values)
    for name, value in values.items():
        assert [note.id for note in notes.find(**{name: value})] == [1]
    changed = {"marks": {"green", "blue", "red"}, "bits": {"b"}, "words": {"large"}, "year": 1950, "flag": 12}
    with orm.Session(engine) as session, session.begin():
        for name, value in changed.items():
            setattr(session.get_one(Note, 1), name, value)
    same_on_both_sides(notes, 1, **changed)
    assert notes.update(1, **values).marks == values["marks"]
    same_on_both_sides(notes, 1, **values)
    notes.get_many([1, 2])
    assert {id: note.marks for id, note in notes.get_many([1, 2]).items()} == {1: values["marks"], 2: {"red", "green"}}


@on_mysql
def test_a_set_is_written_and_found_as_any_set_and_as_words(service_of: Any) -> None:
    notes = service_of(Note)
    for id, marks in enumerate([{"blue", "red"}, frozenset({"red", "blue"}), "blue,red", "red,blue,red"]):
        notes.add(Note(id=id, marks=marks))
        same_on_both_sides(notes, id, marks={"red", "blue"})
        assert len(notes.find(marks=marks)) == id + 1
    notes.add(Note(id=9, marks=""))
    same_on_both_sides(notes, 9, marks=set())
    assert [note.id for note in notes.find(marks="")] == [9]
    assert notes.find(marks={"red"}) == []
    notes.database.add_rows(["id", "marks"], [[(10, {"green", "red"}), (11, None)]])
    assert [note.id for note in notes.find(marks={"red", "green"})] == [10]


@on_mysql
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"marks": {"pink"}}, "holds 'pink', which is none of blue, green, red"),
        ({"marks": "red,pink"}, "holds 'pink', which is none of blue, green, red"),
        ({"marks": {7}}, "holds 7, which is int; the column takes str"),
        ({"marks": ["red"]}, "is list; the column takes set"),
        ({"year": 99}, "99 is none of the values of YEAR"),
        ({"year": "1999"}, "is str; the column takes int"),
    ],
)
def test_a_value_that_the_database_would_change_is_refused(
    service_of: Any, changes: dict[str, Any], reason: str
) -> None:
    notes = service_of(Note)
    with pytest.raises(InvalidEntityError, match=reason):
        notes.add(Note(id=1, **changes))
    notes.add(Note(id=1, year=1999, marks=set()))
    with pytest.raises(InvalidEntityError, match=reason):
        notes.update(1, **changes)


@on_mysql
def test_a_year_is_a_key_and_its_short_form_none(service_of: Any, engine: sa.Engine) -> None:
    vintages = service_of(Vintage)
    assert vintages.get(2005) is None
    with engine.begin() as connection:
        connection.execute(sa.insert(Vintage.__table__), [{"id": 5, "name": "short"}])
    assert vintages.get_one(2005).name == "short"
    assert vintages.get(5) is None
    assert vintages.find(id=5) == []
    with orm.Session(engine) as session, session.begin():
        session.get_one(Vintage, 2005).name = "changed"
    same_on_both_sides(vintages, 2005, name="changed")


@on_mysql
def test_a_type_with_a_parameter_of_its_own_is_read(service_of: Any) -> None:
    sealed = service_of(Sealed)
    for id in range(3):
        sealed.add(Sealed(id=id, text=f"Bücher {id}"))

    same_on_both_sides(sealed, 1, text="Bücher 1")
    for _ in range(2):
        assert [one.text for one in sealed.get_many([2, 0, 9]).values()] == ["Bücher 2", "Bücher 0"]


def test_a_set_is_refused_as_a_key(engine: sa.Engine) -> None:
    columns = {"id": orm.mapped_column(mysql.SET("a", "b"), primary_key=True)}
    name = f"keyed_{uuid.uuid4().hex}"
    keyed = type(name, (MySQLBase,), {"__tablename__": name, **columns})

    with pytest.raises(ConfigurationError, match=rf"{name}\.id is part of the primary key and has the type SET"):
        SQLAlchemyRepository(keyed, engine)


@on_mariadb
@pytest.mark.parametrize(
    "values",
    [
        {"four": "10.0.0.1", "six": "::1", "token": uuid.UUID(int=7)},
        {"four": "0.0.0.0", "six": "2001:db8::ff00:42:8329", "token": uuid.UUID(int=2**128 - 1)},
        {"four": None, "six": None, "token": None},
    ],
    ids=["some", "others", "none"],
)
def test_addresses_and_tokens_are_cached_found_and_written(engine: sa.Engine, values: dict[str, Any]) -> None:
    own = sa.create_engine(engine.url.set(drivername="mariadb+pymysql"))
    Host.__table__.create(own)  # type: ignore[attr-defined]
    with Service.over(Host, own, MEMORY) as hosts:
        hosts.add(Host(id=1, **values))
        same_on_both_sides(hosts, 1, **values)
        for name, value in values.items():
            assert [host.id for host in hosts.find(**{name: value})] == [1]
        with orm.Session(own) as session, session.begin():
            session.get_one(Host, 1).six = "0000::0002"
        same_on_both_sides(hosts, 1, **values | {"six": "::2"})
        assert [host.id for host in hosts.find(six="::0002")] == [1]
        with pytest.raises(InvalidEntityError):
            hosts.add(Host(id=2, four="ten"))
    own.dispose()


@on_mariadb
def test_an_address_is_a_key_under_the_spelling_that_the_database_keeps(engine: sa.Engine) -> None:
    own = sa.create_engine(engine.url.set(drivername="mariadb+pymysql"))
    Address.__table__.create(own)  # type: ignore[attr-defined]
    addresses = Service.over(Address, own, MEMORY)
    for id in ("::1", "::0001", "nowhere"):
        assert addresses.get(id) is None
    addresses.add(Address(id="::0001", name="first"))
    assert addresses.get("::0001") is None
    same_on_both_sides(addresses, "::1", name="first")
    for number, spelling in enumerate(["::1", "::0001", "0:0:0:0:0:0:0:1"]):
        with own.begin() as connection:
            table = Address.__table__
            connection.execute(sa.update(table).where(table.c.id == spelling).values(name=f"changed {number}"))
        same_on_both_sides(addresses, "::1", name=f"changed {number}")
    with orm.Session(own) as session, session.begin():
        session.add(Address(id="2001:0DB8::1", name="second"))
    assert list(addresses.get_many(["::1", "2001:db8::1", "2001:0DB8::1"])) == ["::1", "2001:db8::1"]
    assert addresses.delete("::1")
    assert addresses.get("::1") is None
    addresses.close()
    own.dispose()


@on_mariadb
@pytest.mark.parametrize("dialect", ["mysql", "mariadb"])
@pytest.mark.parametrize("declared", ["UUID", None], ids=["native", "as made"])
def test_a_uuid_is_a_key(engine: sa.Engine, dialect: str, declared: str | None) -> None:
    """MariaDB has a type for it. SQLAlchemy makes a column of that type or of CHAR, by its release and the dialect."""
    own = sa.create_engine(engine.url.set(drivername=f"{dialect}+pymysql"))
    if declared is None:
        Token.__table__.create(own)  # type: ignore[attr-defined]
    else:
        with own.begin() as connection:
            connection.exec_driver_sql(f"CREATE TABLE token (id {declared} PRIMARY KEY, name VARCHAR(20) NOT NULL)")
    first, second = uuid.UUID(int=7), uuid.uuid4()
    with Service.over(Token, own, MEMORY) as tokens:
        assert tokens.get_many([first, second]) == {}
        tokens.add_many([Token(id=first, name="first"), Token(id=second, name="second")])
        same_on_both_sides(tokens, first, name="first")
        assert list(tokens.get_many([second, first])) == [second, first]
        for number in range(2):
            with own.begin() as connection:
                table = Token.__table__
                connection.execute(sa.update(table).where(table.c.id == first).values(name=f"changed {number}"))
            same_on_both_sides(tokens, first, name=f"changed {number}")
        assert tokens.update(second, name="other").name == tokens.get_one(second).name == "other"
        assert [token.id for token in tokens.find(id=second)] == [second]
        assert tokens.delete(first)
        assert not tokens.exists(first)
    own.dispose()
