"""What PostgreSQL does otherwise to our own reads and writes: its errors, its limits, its prepared statements."""

from __future__ import annotations

import datetime
import decimal
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event, orm
from sqlalchemy.dialects import postgresql
from support.entities import Badge, OwnBase, Step, Ticket
from support.models import HostBase, Parcel, parcel
from support.urls import MEMORY

from person_repo.database.engines import read_engine_of
from person_repo.database.errors import is_passing
from person_repo.database.repository import SQLAlchemyRepository
from person_repo.exceptions import ConfigurationError, EntityExistsError, InvalidEntityError
from person_repo.model import Base, Person
from person_repo.service import Service

pytestmark = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


class PostgreSQLBase(orm.DeclarativeBase):
    """Metadata of this module's own: no other database has these types."""


class Form(PostgreSQLBase):
    """Two columns of JSON, of PostgreSQL's two kinds."""

    __tablename__ = "form"

    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    text: orm.Mapped[Any] = orm.mapped_column(sa.JSON)
    parsed: orm.Mapped[Any] = orm.mapped_column(postgresql.JSONB)


@pytest.fixture
def tables(engine: sa.Engine) -> Iterator[sa.Engine]:
    Base.metadata.create_all(engine)
    HostBase.metadata.create_all(engine)
    OwnBase.metadata.create_all(engine, [model.__table__ for model in (Badge, Ticket, Step)])
    PostgreSQLBase.metadata.create_all(engine, [Form.__table__])
    yield engine
    read_engine_of(engine).dispose()  # psycopg warns of a connection that nobody closed


@pytest.fixture
def people(tables: sa.Engine) -> Iterator[Service[Person]]:
    with Service.over(Person, tables, MEMORY) as service:
        yield service


@pytest.fixture
def parcels(tables: sa.Engine) -> Iterator[Service[Parcel]]:
    with Service.over(Parcel, tables, MEMORY) as service:
        yield service


def person(id: str, first_name: str = "first") -> Person:
    return Person(id=id, first_name=first_name, last_name="")


# Keys that are taken


def test_a_key_that_is_taken_is_named(people: Service[Person]) -> None:
    people.add(person("ada"))
    with pytest.raises(EntityExistsError, match="'ada' exists already") as raised:
        people.add(person("ada"))
    assert raised.value.id == "ada"


def test_a_key_of_two_columns_that_is_taken_is_named(parcels: Service[Parcel]) -> None:
    parcels.add(parcel())
    with pytest.raises(EntityExistsError) as raised:
        parcels.add(parcel())
    assert raised.value.id == ("Köln", 7)


def test_another_unique_column_that_is_taken_names_no_id(tables: sa.Engine) -> None:
    badges = SQLAlchemyRepository(Badge, tables)
    badges.add(Badge(id=1, code="one"))
    with pytest.raises(EntityExistsError) as raised:
        badges.add(Badge(id=2, code="one"))
    assert raised.value.id is None


def test_concurrent_upserts_of_new_entities_all_succeed(people: Service[Person]) -> None:
    names = [f"writer {number}" for number in range(4)]
    failures: list[BaseException] = []

    def write(name: str) -> None:
        try:
            for number in range(20):
                people.upsert(person(f"id {number}", name))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=[name]) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    assert people.count() == 20


# Locks of others


@pytest.mark.parametrize(
    "state", ["40001", "40P01", "55P03"], ids=["serialization failure", "deadlock", "lock timeout"]
)
def test_errors_that_pass_are_known(tables: sa.Engine, state: str) -> None:
    with tables.connect() as connection, pytest.raises(sa.exc.DBAPIError) as raised:
        connection.exec_driver_sql(f"DO $$ BEGIN RAISE EXCEPTION 'of the test' USING ERRCODE = '{state}'; END $$")

    assert is_passing(raised.value)


def test_other_errors_do_not_pass(tables: sa.Engine) -> None:
    with tables.connect() as connection, pytest.raises(sa.exc.DBAPIError) as raised:
        connection.exec_driver_sql("SELECT 1 FROM nowhere")

    assert not is_passing(raised.value)


def test_a_write_is_made_again_after_a_row_that_changed_since_its_snapshot(tables: sa.Engine) -> None:
    repeatable = sa.create_engine(tables.url, isolation_level="REPEATABLE READ")
    people = SQLAlchemyRepository(Person, repeatable)
    people.add(person("ada"))
    locks: list[str] = []

    @event.listens_for(repeatable, "before_cursor_execute")
    def change_after_the_snapshot(connection: Any, cursor: Any, statement: str, *_rest: Any) -> None:
        if not statement.endswith("FOR UPDATE OF person"):
            return
        locks.append(statement)
        if len(locks) == 1:
            cursor.execute("SELECT 1")  # a snapshot is taken by the first statement
            with tables.begin() as other:
                other.execute(sa.update(Person).values(first_name="other's", last_name="other's"))

    changed = people.update("ada", first_name="ours")

    assert (changed.first_name, changed.last_name, len(locks)) == ("ours", "other's", 2)
    people.close()
    repeatable.dispose()


def test_a_read_sees_what_was_committed_after_the_hosts_snapshot(tables: sa.Engine) -> None:
    repeatable = sa.create_engine(tables.url, isolation_level="REPEATABLE READ")
    with Service.over(Person, repeatable, MEMORY) as people, repeatable.connect() as host:
        people.add(person("ada"))
        assert host.scalar(sa.select(Person.first_name)) == "first"
        with tables.begin() as other:
            other.execute(sa.update(Person).values(first_name="changed"))
        people.invalidate_all()

        assert host.scalar(sa.select(Person.first_name)) == "first"
        assert people.get_one("ada").first_name == "changed"
    repeatable.dispose()


def test_a_row_is_locked_without_what_is_loaded_beside_it(tables: sa.Engine) -> None:
    """PostgreSQL locks no side of an outer join that may be missing."""
    tickets = SQLAlchemyRepository(Ticket, tables)
    with orm.Session(tables) as session, session.begin():
        session.add(Ticket(id=1, title="first"))

    assert tickets.update(1, title="changed").title == "changed"


# Limits


@pytest.mark.parametrize("use_db", [True, False])
@pytest.mark.parametrize("id", ["\0", "a\0b"])
def test_an_id_with_a_nul_is_absent_everywhere(people: Service[Person], id: str, use_db: bool) -> None:
    with people.using(use_db=use_db):
        assert people.get(id) is None
        assert people.get_many([id]) == {}
        assert not people.exists(id)
        assert people.find(id=id) == people.find(first_name=id) == []
        assert people.delete(id) is False


def test_a_value_with_a_nul_is_refused_before_it_is_sent(people: Service[Person]) -> None:
    with pytest.raises(InvalidEntityError, match=r"first_name 'a\\x00' has a NUL character"):
        people.add(person("ada", "a\0"))
    with pytest.raises(InvalidEntityError, match="has a NUL character"):
        people.database.add_rows(["id", "first_name", "last_name"], [[("ada", "a", ""), ("b", "b\0", "")]])
    assert people.count() == 0


@pytest.mark.parametrize("use_db", [True, False])
@pytest.mark.parametrize("number", [2**31, -(2**31) - 1, 2**63])
def test_a_number_beyond_its_column_is_absent(parcels: Service[Parcel], number: int, use_db: bool) -> None:
    with parcels.using(use_db=use_db):
        assert parcels.get(("Köln", number)) is None
        assert parcels.find(number=number) == []
    with pytest.raises(InvalidEntityError, match="beyond"):
        parcels.add(parcel(number=number))


def test_a_number_stands_for_a_truth_value(parcels: Service[Parcel]) -> None:
    parcels.add(parcel(fragile=1))

    assert len(parcels.find(fragile=1)) == len(parcels.find(fragile=True)) == 1
    assert parcels.find(fragile=0) == parcels.find(fragile=2) == []


def test_json_is_found_by_its_value(tables: sa.Engine) -> None:
    forms = SQLAlchemyRepository(Form, tables)
    value = {"b": [1, None], "a": "Bücher"}
    forms.add(Form(id=1, text=value, parsed=value))

    assert [form.id for form in forms.find(text=value)] == [form.id for form in forms.find(parsed=value)] == [1]
    assert forms.find(text={"b": []}) == []


# Types


class Typed(PostgreSQLBase):
    """A column of each type that is cached and that only PostgreSQL has, or has otherwise."""

    __tablename__ = "typed"
    metadata = sa.MetaData()  # SQLAlchemy 2.0 makes the type of a column with the other tables of its metadata, too

    id: orm.Mapped[uuid.UUID] = orm.mapped_column(postgresql.UUID, primary_key=True)
    parsed: orm.Mapped[Any] = orm.mapped_column(postgresql.JSONB)
    lasting: orm.Mapped[datetime.timedelta] = orm.mapped_column(postgresql.INTERVAL)
    number: orm.Mapped[decimal.Decimal] = orm.mapped_column(sa.Numeric)
    at: orm.Mapped[datetime.datetime] = orm.mapped_column(sa.DateTime(timezone=True))
    word: orm.Mapped[str] = orm.mapped_column(postgresql.ENUM("small", "large", name="word"))


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin"])
def test_values_of_its_own_types_are_the_same_from_both_sides(tables: sa.Engine, zone: str) -> None:
    """psycopg returns times in the zone of the session."""
    with tables.begin() as connection:
        connection.exec_driver_sql(f"ALTER DATABASE \"{tables.url.database}\" SET timezone = '{zone}'")
    tables.dispose()
    Typed.__table__.create(tables)  # type: ignore[attr-defined]
    id = uuid.uuid4()
    values: dict[str, Any] = {
        "parsed": {"a": [1, 2.5, None, "Bücher"]},
        "lasting": datetime.timedelta(days=-400, microseconds=1),
        "number": decimal.Decimal("12345678901234567890.123456789"),
        "at": datetime.datetime(2026, 7, 1, 12, 0, 0, 123456, datetime.timezone(datetime.timedelta(hours=2))),
        "word": "large",
    }
    with Service.over(Typed, tables, MEMORY) as service:
        service.add(Typed(id=id, **values))
        for _ in range(2):
            cached, stored = service.cached.get_one(id), service.database.get_one(id)
            for name, value in values.items():
                assert getattr(cached, name) == getattr(stored, name) == value
            assert cached.at.isoformat() == stored.at.isoformat()
        assert service.stats().hits == 1
        with orm.Session(tables) as session, session.begin():
            session.get_one(Typed, id).word = "small"
        assert service.cached.get_one(id).word == "small"


@pytest.mark.parametrize("type_", [postgresql.JSONPATH, postgresql.ARRAY(postgresql.JSONPATH)])
def test_types_whose_values_cannot_be_cached_are_refused_with_the_remedy(tables: sa.Engine, type_: Any) -> None:
    columns = {"id": orm.mapped_column(sa.Integer, primary_key=True), "value": orm.mapped_column(type_)}
    name = f"refused_{uuid.uuid4().hex}"
    refused = type(name, (PostgreSQLBase,), {"__tablename__": name, **columns})
    with pytest.raises(ConfigurationError, match=r"value has the type .* cannot be cached; wrap it in a TypeDecorator"):
        SQLAlchemyRepository(refused, tables)


# Reads


def test_a_read_survives_a_migration_of_the_type_of_a_column(people: Service[Person], tables: sa.Engine) -> None:
    """psycopg has the server prepare a statement that is sent for the sixth time."""
    people.add(person("ada"))
    with people.using(use_db=True):
        for _ in range(10):
            people.get_one("ada")
        with tables.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE person ALTER COLUMN first_name TYPE text")
        assert people.get_one("ada").first_name == "first"

    with read_engine_of(tables).connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM pg_prepared_statements").scalar_one() == 0


def test_a_page_is_in_the_order_of_code_points(people: Service[Person]) -> None:
    """As on the other databases, and as Python sorts: the database's own collation is English."""
    ids = ["b", "C", "a", "Á", "á", "Z", "z"]
    people.add_many(person(id) for id in ids)

    assert [one.id for one in people.list()] == sorted(ids)
    assert [one.id for one in people.list(after="Z")] == [id for id in sorted(ids) if id > "Z"]
