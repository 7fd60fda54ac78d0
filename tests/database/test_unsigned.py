"""Integer keys without a sign: an id up to 2**64 - 1 is the database's to find, on MySQL and MariaDB."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.dialects import mysql
from support.databases import with_identity
from support.entities import once
from support.urls import MEMORY

from person_repo.exceptions import EntityExistsError, EntityNotFoundError, InvalidEntityError
from person_repo.service import Service

Statements = Callable[..., AbstractContextManager[list[str]]]

pytestmark = pytest.mark.parametrize("database_url", ["mysql", "mariadb-10.11", "mariadb-11.8"], indirect=True)

LARGE = 2**63
LARGEST = 2**64 - 1
IDS = (1, 2**63 - 1, LARGE, LARGE + 7, LARGEST)


class UnsignedBase(orm.DeclarativeBase):
    """Metadata of this module's own: no other database has these types."""


class Large(sa.types.TypeDecorator[int]):
    impl = mysql.BIGINT(unsigned=True)
    cache_ok = True


class Declared(UnsignedBase):
    __tablename__ = "declared"

    id: orm.Mapped[int] = orm.mapped_column(mysql.BIGINT(unsigned=True), primary_key=True, autoincrement=False)
    size: orm.Mapped[int] = orm.mapped_column(mysql.BIGINT(unsigned=True), default=0)


class Variant(UnsignedBase):
    __tablename__ = "variant"

    id: orm.Mapped[int] = orm.mapped_column(
        sa.BigInteger().with_variant(mysql.BIGINT(unsigned=True), "mysql", "mariadb"),
        primary_key=True,
        autoincrement=False,
    )
    size: orm.Mapped[int] = orm.mapped_column(mysql.BIGINT(unsigned=True), default=0)


class Decorated(UnsignedBase):
    __tablename__ = "decorated"

    id: orm.Mapped[int] = orm.mapped_column(Large, primary_key=True, autoincrement=False)
    size: orm.Mapped[int] = orm.mapped_column(Large, default=0)


class Plain(UnsignedBase):
    """The metadata says nothing of the table's types, which have no sign."""

    __tablename__ = "plain"

    id: orm.Mapped[int] = orm.mapped_column(sa.BigInteger, primary_key=True, autoincrement=False)
    size: orm.Mapped[int] = orm.mapped_column(sa.BigInteger, default=0)


DECLARED = [Declared, Variant, Decorated]


def make(engine: sa.Engine, entity: Any) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(
            f"CREATE TABLE {entity.__tablename__} "
            "(id BIGINT UNSIGNED NOT NULL PRIMARY KEY AUTO_INCREMENT, size BIGINT UNSIGNED NOT NULL)"
        )


@pytest.fixture(params=[Declared, Plain], ids=lambda entity: entity.__name__)
def entity(request: pytest.FixtureRequest, engine: sa.Engine) -> Any:
    make(engine, request.param)
    return request.param


@pytest.fixture
def numbers(entity: Any, engine: sa.Engine, use_db: bool) -> Iterator[Service[Any]]:
    with Service.over(entity, engine, MEMORY, use_db=use_db) as service:
        yield service


def test_a_large_id_is_found_by_every_method(numbers: Service[Any], entity: Any) -> None:
    for id in IDS:
        assert numbers.get(id) is None
        assert not numbers.exists(id)
        numbers.add(entity(id=id, size=id))
    for _ in range(2):
        assert [numbers.get_one(id).size for id in IDS] == [*IDS]
        assert [one.id for one in numbers.get_many(IDS).values()] == [*IDS]
        assert all(map(numbers.exists, IDS))
    assert [one.id for one in numbers.list()] == [*IDS]
    assert [one.id for one in numbers.list(after=LARGE)] == [LARGE + 7, LARGEST]
    assert [one.id for one in numbers.find(size=LARGEST)] == [one.id for one in numbers.find(id=LARGEST)] == [LARGEST]
    assert numbers.find(size=LARGE + 1) == []


def test_a_large_id_is_changed_and_deleted_by_every_method(numbers: Service[Any], entity: Any) -> None:
    numbers.add_many(entity(id=id, size=0) for id in IDS)
    numbers.get_many(IDS)

    assert numbers.update(LARGEST, size=LARGE).size == numbers.get_one(LARGEST).size == LARGE
    assert numbers.upsert(entity(id=LARGE, size=1)).size == numbers.get_one(LARGE).size == 1
    assert numbers.delete(LARGE + 7)
    assert numbers.get(LARGE + 7) is None
    assert not numbers.delete(LARGE + 7)
    with pytest.raises(EntityNotFoundError):
        numbers.update(LARGE + 7, size=1)
    with pytest.raises(EntityExistsError) as raised:
        numbers.add(entity(id=LARGEST, size=1))
    assert raised.value.id == LARGEST


def test_an_id_beyond_every_column_is_absent_and_not_asked_for(
    numbers: Service[Any], entity: Any, statements: Statements
) -> None:
    with statements(numbers.engine, numbers.read_engine) as seen:
        for id in (2**64, -(2**63) - 1, 10**400):
            assert numbers.get(id) is None
            assert numbers.get_many([id]) == {}
            assert not numbers.exists(id)
            assert not numbers.delete(id)
    assert seen == []
    assert numbers.find(id=2**64) == numbers.find(size=2**64) == []
    with pytest.raises(InvalidEntityError, match=r"beyond 64 bits; the column takes -2\*\*63 to 2\*\*64 - 1"):
        numbers.add(entity(id=2**64, size=0))
    with pytest.raises(InvalidEntityError, match="was refused by the database"):
        numbers.add(entity(id=-1, size=0))


def change(session: orm.Session, entity: Any, id: int) -> None:
    session.get_one(entity, id).size = 5


def change_by_core(session: orm.Session, entity: Any, id: int) -> None:
    session.execute(sa.update(entity.__table__).where(entity.__table__.c.id == id).values(size=5))


def change_by_statement(session: orm.Session, entity: Any, id: int) -> None:
    session.execute(sa.update(entity).where(entity.id.in_([id])).values(size=5))


def change_by_bulk(session: orm.Session, entity: Any, id: int) -> None:
    session.execute(sa.update(entity), [{"id": id, "size": 5}])


def change_by_text(session: orm.Session, entity: Any, id: int) -> None:
    session.execute(sa.text(f"UPDATE {entity.__tablename__} SET size = 5 WHERE id = :id"), {"id": id})


@once
@pytest.mark.parametrize(
    "write", [change, change_by_core, change_by_statement, change_by_bulk, change_by_text], ids=lambda f: f.__name__
)
def test_a_hosts_change_of_a_large_id_invalidates_it(numbers: Service[Any], entity: Any, write: Any) -> None:
    numbers.add_many(entity(id=id, size=0) for id in IDS)
    for id in IDS:
        numbers.get(id)
        before = numbers.stats().hits
        assert numbers.get_one(id).size == 0
        assert numbers.stats().hits == before + 1
        with orm.Session(numbers.engine) as session, session.begin():
            write(session, entity, id)
        assert numbers.get_one(id).size == 5


@once
def test_a_hosts_insert_and_delete_of_a_large_id_invalidate_it(numbers: Service[Any], entity: Any) -> None:
    for id in IDS:
        assert numbers.get(id) is None
        with orm.Session(numbers.engine) as session, session.begin():
            session.add(entity(id=id, size=1))
        assert numbers.get_one(id).size == 1
        with orm.Session(numbers.engine) as session, session.begin():
            session.delete(session.get_one(entity, id))
        assert numbers.get(id) is None
        with numbers.engine.begin() as connection:
            connection.execute(sa.insert(entity.__table__), [{"id": id, "size": 2}])
        assert numbers.get_one(id).size == 2


@once
def test_a_large_key_that_the_database_makes_invalidates_its_absence(
    numbers: Service[Any], entity: Any, engine: sa.Engine
) -> None:
    numbers.add(entity(id=LARGE, size=0))
    table = sa.Table(
        entity.__tablename__,
        sa.MetaData(),
        sa.Column("id", entity.__table__.c.id.type, primary_key=True),
        sa.Column("size", sa.BigInteger),
    )
    assert numbers.get(LARGE + 1) is None
    with engine.begin() as connection:
        result = connection.execute(sa.insert(table).values(size=3))
        assert result.inserted_primary_key == (LARGE + 1,)
    assert numbers.get_one(LARGE + 1).size == 3


def others_kept(numbers: Service[Any], entity: Any) -> bool:
    """True if a host's change of one large id leaves the rest of the class in the cache."""
    numbers.add_many(entity(id=id, size=0) for id in IDS)
    numbers.get_many(IDS)
    with orm.Session(numbers.engine) as session, session.begin():
        change_by_core(session, entity, LARGEST)
    before = numbers.stats().hits
    numbers.get(1)
    return numbers.stats().hits > before


@pytest.mark.parametrize("declared", DECLARED)
def test_a_change_of_a_large_id_of_a_declared_column_drops_that_one(engine: sa.Engine, declared: Any) -> None:
    make(with_identity(engine), declared)
    with Service.over(declared, engine, MEMORY) as numbers:
        assert others_kept(numbers, declared)


def test_a_number_that_the_database_clips_invalidates_what_it_became(engine: sa.Engine) -> None:
    """A column with a sign keeps 2**63 - 1 in the place of 2**63 without strict mode."""
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE plain (id BIGINT PRIMARY KEY, size BIGINT NOT NULL)")
    with Service.over(Plain, engine, MEMORY) as numbers:
        assert numbers.get(2**63 - 1) is None
        with engine.begin() as connection:
            connection.exec_driver_sql("SET SESSION sql_mode = ''")
            connection.execute(sa.insert(Plain.__table__), [{"id": LARGE, "size": 4}])
            connection.exec_driver_sql("SET SESSION sql_mode = DEFAULT")
        assert numbers.get_one(2**63 - 1).size == 4
        assert numbers.get(LARGE) is None
        with pytest.raises(InvalidEntityError, match="was refused by the database"):
            numbers.add(Plain(id=LARGE, size=0))
