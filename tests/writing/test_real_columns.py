"""Keys as the database's own columns keep them, where these are other than the metadata says."""

from __future__ import annotations

import decimal
import uuid
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import exc, orm
from support.databases import with_identity
from support.hosts import is_mariadb, on_mysql_and_mariadb, on_sqlite
from support.tables import entity_of
from support.ways import Witness

from person_repo.model import ExactString

pytestmark = pytest.mark.every_database

D = decimal.Decimal


def in_no_strict_mode(engine: sa.Engine) -> None:
    if engine.dialect.name == "mysql":
        engine.dispose()
        sa.event.listen(engine, "connect", lambda driver, _: driver.cursor().execute("SET sql_mode = ''"))


def make(engine: sa.Engine, column: str) -> None:
    """The table, with this column for its key, on an engine that nobody covers."""
    aside = sa.create_engine(engine.url)
    with aside.begin() as connection:
        connection.exec_driver_sql(f"CREATE TABLE kept (id {column} PRIMARY KEY, note VARCHAR(20))")
    aside.dispose()


ZERO = [
    ("INTEGER NOT NULL", sa.Integer(), [0, 1, -1]),
    ("BIGINT UNSIGNED NOT NULL", sa.BigInteger(), [0, 2**40]),
    ("DECIMAL(10, 2) NOT NULL", sa.Numeric(10, 2), [D(0), D("1.50")]),
]


@on_mysql_and_mariadb
@pytest.mark.parametrize(("column", "type_", "values"), ZERO)
def test_zero_is_a_key_where_nothing_is_numbered(
    people_engine: sa.Engine, witness_of: Callable[..., Witness], column: str, type_: Any, values: list[Any]
) -> None:
    engine, entity = with_identity(people_engine), entity_of(type_)
    make(engine, column)
    witness = witness_of(entity, [], ids=values, tables=[])
    for value in values:
        with witness.invalidates(value), witness.sessions() as session, session.begin():
            session.add(entity(id=value, note="new"))
        with witness.invalidates(value), witness.engine.begin() as connection:
            connection.execute(sa.update(entity.__table__).where(entity.id == value).values(note="changed"))
        with witness.invalidates(value), witness.engine.begin() as connection:
            connection.execute(sa.delete(entity.__table__).where(entity.id == value))


@on_mysql_and_mariadb
def test_zero_is_no_key_where_the_database_numbers_and_the_metadata_does_not_say_so(
    people_engine: sa.Engine, witness_of: Callable[..., Witness]
) -> None:
    engine, entity = with_identity(people_engine), entity_of(sa.Integer())
    make(engine, "INTEGER NOT NULL AUTO_INCREMENT")
    witness = witness_of(entity, [], ids=range(5), tables=[])
    for _ in range(3):
        with witness.drops(), witness.engine.begin() as connection:
            connection.execute(sa.insert(entity.__table__), {"id": 0, "note": "new"})
    assert [*witness.committed()] == [1, 2, 3]
    with witness.invalidates(2), witness.engine.begin() as connection:
        connection.execute(sa.delete(entity.__table__).where(entity.id == 2))


NARROWER: list[tuple[tuple[str, ...], str, Any, list[Any], list[Any]]] = [
    (("mysql",), "VARCHAR(4)", sa.String(10), ["abcdef", "abcd", "abc"], ["abcd", "abc", "abcdef"]),
    (("mysql",), "CHAR(4)", sa.String(4), ["abc ", "abcd"], ["abc", "abcd", "abc "]),
    (("mysql",), "TINYINT", sa.Integer(), [300, -300, 5], [127, -128, 5, 300]),
    (("mysql",), "SMALLINT UNSIGNED", sa.Integer(), [-1, 70000], [0, 65535, 70000, -1]),
    (("mysql",), "MEDIUMINT", sa.Integer(), [2**24], [2**23 - 1, 2**24]),
    (("mysql",), "INTEGER", sa.BigInteger(), [2**40, 7], [2**31 - 1, 2**40, 7]),
    (("mysql",), "BINARY(4)", sa.VARBINARY(8), [b"ab", b"abcd"], [b"ab", b"ab\0\0", b"abcd"]),
    (("mysql",), "DECIMAL(3, 1)", sa.Numeric(8, 1), [D("123.4"), D("1.5")], [D("99.9"), D("123.4"), D("1.5")]),
    (("mysql", "postgresql"), "DECIMAL(8, 1)", sa.Numeric(8, 2), [D("1.25"), D(7)], [D("1.3"), D(7), D("1.25")]),
]  # fmt: skip


@pytest.mark.proof(name="ways", sample=1 / 4)
@pytest.mark.parametrize(("databases", "column", "type_", "values", "ids"), NARROWER)
def test_what_the_column_itself_does_not_keep_drops_the_class(
    people_engine: sa.Engine,
    witness_of: Callable[..., Witness],
    databases: tuple[str, ...],
    column: str,
    type_: Any,
    values: list[Any],
    ids: list[Any],
) -> None:
    """In a mode that clips and cuts; scales are rounded in each."""
    if people_engine.dialect.name not in databases:
        pytest.skip("refuses it, or keeps it")
    in_no_strict_mode(people_engine)
    engine, entity = with_identity(people_engine), entity_of(type_)
    make(engine, column)
    witness = witness_of(entity, [], ids=ids, tables=[])
    table = entity.__table__
    wrote = 0
    for value in values:
        for write in (
            lambda session, value=value: session.add(entity(id=value, note="new")),
            lambda session, value=value: session.execute(sa.update(table).values(id=value)),
            lambda session, value=value: session.execute(sa.update(table).where(table.c.id == value), {"note": "x"}),
            lambda session: session.execute(sa.delete(table)),
        ):
            with witness.right(), orm.Session(engine) as session:
                try:
                    write(session)
                    session.commit()
                    wrote += 1
                except (exc.SQLAlchemyError, TypeError):
                    session.rollback()
    assert wrote


UUIDS = ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11"]
ENUM = "ENUM('red', 'it''s')"
SPELT: list[tuple[str, Any, list[Any], list[Any]]] = [
    ("UUID", sa.String(40), UUIDS, ["0" * 8 + "-0000-0000-0000-" + "0" * 12]),
    ("UUID", ExactString(40), [*UUIDS, UUIDS[0].replace("-", "")], []),
    ("INET6", ExactString(40), ["::1", "0:0:0:0:0:0:0:1"], []),
    (ENUM, ExactString(10), ["red", "RED", "1", "2", "it's"], []),
    (ENUM, sa.String(10), ["red", "RED", "1", "2", "it's"], []),
    ("SET('a', 'b')", sa.String(10), ["a,b", "b,a", "a"], []),
    ("YEAR", sa.Integer(), [1970, 70, 1, 2001], []),
]


@on_mysql_and_mariadb
@pytest.mark.parametrize(("column", "type_", "values", "others"), SPELT)
def test_a_column_that_has_several_spellings_of_a_value(
    people_engine: sa.Engine,
    witness_of: Callable[..., Witness],
    column: str,
    type_: Any,
    values: list[Any],
    others: list[Any],
) -> None:
    """A mapped string, or number, that the database keeps in one of them."""
    if column in ("UUID", "INET6") and not is_mariadb(people_engine):
        pytest.skip("has no such type")
    engine, entity = with_identity(people_engine), entity_of(type_)
    make(engine, column)
    witness = witness_of(entity, [], ids=[*values, *others], tables=[])
    table = entity.__table__
    for value in values:
        witness.warm()
        with witness.right(), witness.sessions() as session, session.begin():
            session.add(entity(id=value, note="new"))
        for other in values:
            with witness.right(), engine.begin() as connection:
                connection.execute(
                    sa.update(table)
                    .where(table.c.id == other)
                    .values(note=other[:20] if isinstance(other, str) else f"{other}")
                )
        with witness.right(), engine.begin() as connection:
            connection.execute(sa.delete(table).where(table.c.id == value))
        with witness.right(), engine.begin() as connection:
            connection.execute(sa.delete(table))
    with witness.invalidates(values[0]) if column[0] in "UEY" else witness.right(), engine.begin() as connection:
        connection.execute(sa.insert(table).values(id=values[0]))


def test_a_uuid_is_a_key_in_a_column_of_its_own_type(
    people_engine: sa.Engine, witness_of: Callable[..., Witness]
) -> None:
    with_identity(people_engine)
    entity = entity_of(sa.Uuid())
    id = uuid.uuid4()
    witness = witness_of(entity, [], ids=[id])
    with witness.invalidates(id), witness.sessions() as session, session.begin():
        session.add(entity(id=id, note="new"))


@on_sqlite
def test_a_collation_that_the_metadata_does_not_have_is_that_of_the_definition(
    people_engine: sa.Engine, witness_of: Callable[..., Witness]
) -> None:
    engine, entity = with_identity(people_engine), entity_of(sa.String(10))
    make(engine, "VARCHAR(10) COLLATE NOCASE")
    witness = witness_of(entity, [], ids=["ada", "ADA", "bob"], tables=[])
    table = entity.__table__
    with engine.begin() as connection:
        connection.execute(sa.insert(table), [{"id": "ada"}, {"id": "bob"}])
    for note in ("one", "two", "three"):  # From the third time on by its form.
        with witness.invalidates("ada"), engine.begin() as connection:
            connection.execute(sa.update(table).where(table.c.id == "ADA").values(note=note))
    with witness.blind(), engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE kept RENAME TO folding")
        connection.exec_driver_sql("CREATE TABLE kept (id VARCHAR(10) COLLATE BINARY PRIMARY KEY, note VARCHAR(20))")
        connection.exec_driver_sql("INSERT INTO kept SELECT * FROM folding")
    with witness.invalidates("bob"), engine.begin() as connection:
        connection.execute(sa.delete(table).where(table.c.id == "bob"))


@on_sqlite
def test_a_locked_database_is_not_asked_for_collations_at_each_statement(
    people_engine: sa.Engine, witness_of: Callable[..., Witness], caplog: pytest.LogCaptureFixture
) -> None:
    engine, entity = with_identity(people_engine), entity_of(sa.String(10))
    witness = witness_of(entity, [entity(id=f"{number}") for number in range(9)], ids=["1", "2"])
    exclusive = sa.create_engine(engine.url)
    sa.event.listen(exclusive, "connect", lambda driver, _: setattr(driver, "isolation_level", None))
    sa.event.listen(exclusive, "begin", lambda connection: connection.exec_driver_sql("BEGIN EXCLUSIVE"))
    witness.service.cover(exclusive)
    with witness.blind(), exclusive.begin() as connection:
        for number in range(9):
            connection.execute(sa.update(entity.__table__).where(entity.id == f"{number}").values(note="x"))
    assert caplog.text.count("the key of kept cannot be asked for") == 1
    witness.check()
    exclusive.dispose()


def test_the_catalog_is_asked_once_for_a_key(people_engine: sa.Engine, witness_of: Callable[..., Witness]) -> None:
    entity = entity_of(sa.Integer())
    with_identity(people_engine)
    witness = witness_of(entity, [entity(id=id) for id in range(4)], ids=range(4))
    asked: list[str] = []
    sa.event.listen(
        witness.service.read_engine,
        "before_cursor_execute",
        lambda _c, _cursor, statement, *_: asked.append(statement) if "COLUMNS" in statement else None,
    )
    for number in range(5):
        with witness.blind(), witness.sessions() as session, session.begin():
            session.get_one(entity, number % 4).note = f"note {number}"
    assert len(asked) == (1 if people_engine.dialect.name == "mysql" else 0)


def test_a_key_that_the_database_computes_and_the_metadata_does_not_say_so(
    people_engine: sa.Engine, witness_of: Callable[..., Witness]
) -> None:
    if people_engine.dialect.name == "sqlite" or is_mariadb(people_engine):
        pytest.skip("has no computed primary key")

    class Base(orm.DeclarativeBase):
        pass

    class Computed(Base):
        __tablename__ = "kept"
        id: orm.Mapped[int] = orm.mapped_column(primary_key=True, autoincrement=False)
        number: orm.Mapped[int]

    aside = sa.create_engine(people_engine.url)
    with aside.begin() as connection:
        made = "INTEGER GENERATED ALWAYS AS (number + 10) STORED PRIMARY KEY"
        connection.exec_driver_sql(f"CREATE TABLE kept (id {made}, number INTEGER)")
        connection.exec_driver_sql("INSERT INTO kept (number) VALUES (1)")
    aside.dispose()
    with_identity(people_engine)
    witness = witness_of(Computed, [], ids=range(10, 20), tables=[])
    for id in (11, 12, 13):
        with witness.drops(), witness.engine.begin() as connection:
            connection.execute(sa.update(Computed.__table__).where(Computed.id == id).values(number=id - 9))
    assert [*witness.committed()] == [14]
