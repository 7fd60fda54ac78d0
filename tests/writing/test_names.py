"""Names and spellings: columns, keys and schemas that are called one thing in Python and another in the database."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.dialects import mysql
from support.hosts import HostBase
from support.ways import (
    TABLE,
    Witness,
    conflicting,
)

from person_repo.model import ExactString


class Member(HostBase):
    """Two attributes have each other's column names, and a column has a key of its own."""

    __tablename__ = "member"

    ident: orm.Mapped[str] = orm.mapped_column("member_no", ExactString(40), primary_key=True)
    member_no: orm.Mapped[str] = orm.mapped_column("ident", ExactString(40), default="")
    place: orm.Mapped[str] = orm.mapped_column("place_name", sa.String(40), key="where_to_find", default="")


class Keyed(HostBase):
    __tablename__ = "keyed"

    code: orm.Mapped[str] = orm.mapped_column("code_name", ExactString(40), primary_key=True, key="code_key")
    worth: orm.Mapped[str] = orm.mapped_column(sa.String(40), default="")


def test_attributes_that_have_the_names_of_other_columns(witness_of: Callable[..., Witness]) -> None:
    members = witness_of(
        Member, [Member(ident=id, member_no=f"no {id}") for id in "ab"], ids=[*"abcdef", "no a", "no b"]
    )
    table: Any = Member.__table__
    with members.invalidates("c", "d"), members.sessions() as session, session.begin():
        session.execute(sa.insert(Member).values([{"ident": "c", "member_no": "a"}]))
        session.execute(sa.insert(table).values(member_no="d", ident="b", where_to_find="here"))
    with members.invalidates("e"), members.engine.begin() as connection:
        connection.execute(sa.insert(table), [{"member_no": "e", "ident": "a"}])
    with members.invalidates("f"), members.engine.begin() as connection:
        connection.execute(sa.insert(table).values([{"member_no": "f", "ident": "b"}]))
    with members.invalidates("a"), members.sessions() as session, session.begin():
        session.execute(sa.update(Member).where(Member.ident == "a").values({"member_no": "e"}))
    with members.invalidates("b"), members.sessions() as session, session.begin():
        session.execute(sa.update(Member), [{"ident": "b", "member_no": "f", "place": "there"}])
    with members.invalidates("c", "no a"), members.sessions() as session, session.begin():
        session.execute(sa.update(Member).where(Member.ident == "c").values({"ident": "no a"}))
    with members.invalidates("d", "no b"), members.engine.begin() as connection:
        connection.execute(sa.update(table).where(table.c.member_no == "d").values(member_no="no b", ident="x"))


def test_columns_that_have_a_key_of_their_own(witness_of: Callable[..., Witness]) -> None:
    keyed = witness_of(Keyed, [Keyed(code=id) for id in "ab"], ids="abcde")
    table: Any = Keyed.__table__
    with keyed.invalidates("a", "c"), keyed.sessions() as session, session.begin():
        session.get_one(Keyed, "a").code = "c"
    with keyed.invalidates("b", "a"), keyed.engine.begin() as connection:
        connection.execute(sa.update(table).where(table.c.code_key == "b"), {"code_key": "a"})
    with keyed.invalidates("d"), keyed.engine.begin() as connection:
        connection.execute(sa.insert(table), [{"code_key": "d"}])
    with keyed.invalidates("d"), keyed.engine.begin() as connection:
        connection.execute(sa.delete(table).where(table.c.worth == "", table.c.code_key == "d"))


class Tag(HostBase):
    """A key whose case and padding MySQL ignores."""

    __tablename__ = "tag"
    __table_args__ = {"mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_general_ci"}

    name: orm.Mapped[str] = orm.mapped_column(sa.String(40), primary_key=True)
    note: orm.Mapped[str] = orm.mapped_column(sa.String(40), default="")


TAGS: Any = Tag.__table__

FOLDED: dict[str, Callable[[orm.Session], Any]] = {
    "update": lambda session: session.execute(sa.update(TAGS).where(TAGS.c.name == "RED").values(note="changed")),
    "ORM update": lambda session: session.execute(sa.update(Tag).where(Tag.name.in_(["RED"])).values(note="changed")),
    "many parameter sets": lambda session: session.connection().execute(
        sa.update(TAGS).where(TAGS.c.name == sa.bindparam("which")).values(note="changed"),
        [{"which": "RED"}, {"which": "red "}],
    ),
    "unit of work": lambda session: setattr(session.get(Tag, "RED") or Tag(), "note", "changed"),
    "delete": lambda session: session.execute(sa.delete(TAGS).where(TAGS.c.name == "rED")),
    "update of the key": lambda session: session.execute(
        sa.update(TAGS).where(TAGS.c.name == "RED").values(name="green")
    ),
    "insert": lambda session: session.execute(sa.insert(TAGS).values(name="green", note="")),
    "upsert": lambda session: session.execute(
        mysql.insert(TAGS).values(name="RED", note="").on_duplicate_key_update(note="changed")
        if session.get_bind().dialect.name == "mysql"
        else conflicting(session, TAGS)
        .values(name="RED", note="")
        .on_conflict_do_update(index_elements=["name"], set_={"note": "changed"})
    ),
}


def test_keys_that_are_equal_to_the_database_and_not_to_python(
    witness_of: Callable[..., Witness], subtests: pytest.Subtests
) -> None:
    tags = witness_of(Tag, [], ids=["red", "RED", "Red", "red ", "blue", "green"])
    for name, write in FOLDED.items():
        with tags.sessions() as session, session.begin():
            session.execute(sa.delete(Tag))
            session.add_all([Tag(name="red"), Tag(name="blue")])
        with subtests.test(name), tags.right(), tags.sessions() as session, session.begin():
            write(session)


class Lowered(sa.TypeDecorator[str]):
    """Stores a key in lower case, in Python."""

    impl = sa.String(40)
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:
        return None if value is None else value.lower()


class LoweredBySQL(sa.TypeDecorator[str]):
    """Stores a key in lower case, by a function of the database's."""

    impl = sa.String(40)
    cache_ok = True

    def bind_expression(self, bindvalue: Any) -> Any:
        return sa.func.lower(bindvalue)


class Slug(HostBase):
    __tablename__ = "slug"

    name: orm.Mapped[str] = orm.mapped_column(Lowered, primary_key=True)
    note: orm.Mapped[str] = orm.mapped_column(sa.String(40), default="")


class Label(HostBase):
    __tablename__ = "label"

    name: orm.Mapped[str] = orm.mapped_column(LoweredBySQL, primary_key=True)
    note: orm.Mapped[str] = orm.mapped_column(sa.String(40), default="")


class Serial(HostBase):
    __tablename__ = "serial"

    name: orm.Mapped[str] = orm.mapped_column(sa.Uuid(as_uuid=False), primary_key=True)
    note: orm.Mapped[str] = orm.mapped_column(sa.String(40), default="")


SERIAL = "0c9ff1b0-1d1c-4a6e-8f43-5f5b0d5f3c11"


@pytest.mark.parametrize(
    ("entity", "given", "stored"),
    [(Slug, "Red", "red"), (Label, "Red", "red"), (Serial, SERIAL.replace("-", ""), SERIAL)],
)
def test_keys_that_their_type_rewrites_on_the_way_in(
    witness_of: Callable[..., Witness], entity: type[Any], given: str, stored: str
) -> None:
    slugs = witness_of(entity, [], ids=[given, stored])
    table = entity.__table__
    for statement in (
        sa.insert(table).values(name=given, note="new"),
        sa.update(table).where(table.c.name == given).values(note="changed"),
        sa.delete(table).where(table.c.name == given),
        sa.insert(table),
    ):
        with slugs.right(), slugs.engine.begin() as connection:
            connection.execute(statement, None if statement.is_delete else {"name": given, "note": "again"})


def test_a_parameter_that_its_own_type_rewrites(people: Witness) -> None:
    with people.right(), people.sessions() as session, session.begin():
        lowered = sa.literal("GRACE", Lowered)
        session.execute(sa.update(TABLE).where(TABLE.c.id == lowered).values(first_name="changed"))
        session.execute(
            sa.insert(TABLE).values(id=sa.literal("EDSGER", Lowered), first_name="new", last_name="new", version=1)
        )

    assert people.committed()["grace"][1] == "changed"


class Placed(HostBase):
    """A table in a schema that the engine translates to another name."""

    __tablename__ = "placed"
    __table_args__ = {"schema": "host"}

    id: orm.Mapped[int] = orm.mapped_column(primary_key=True, autoincrement=False)
    note: orm.Mapped[str] = orm.mapped_column(sa.String(40), default="")


def test_a_table_in_a_schema(people_engine: sa.Engine, witness_of: Callable[..., Witness]) -> None:
    schema = {"sqlite": "main", "mysql": people_engine.url.database, "postgresql": "public"}[people_engine.dialect.name]
    engine = people_engine.execution_options(schema_translate_map={"host": schema})
    placed = witness_of(Placed, [Placed(id=1)], engine=engine, ids=(1, 2, 3))
    table: Any = Placed.__table__
    with placed.invalidates(1, 2), placed.sessions() as session, session.begin():
        session.get_one(Placed, 1).note = "changed"
        session.add(Placed(id=2))
    expected = placed.drops() if engine.dialect.name == "mysql" else placed.invalidates(1, 2)
    with expected, engine.begin() as connection:
        connection.execute(sa.update(table).where(table.c.note != "nothing").values(note="again"))
    with placed.drops(), people_engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM placed")


class Quoted(HostBase):
    """A name that is not written as it is."""

    __tablename__ = 'a"b`c'

    id: orm.Mapped[str] = orm.mapped_column(ExactString(40), primary_key=True)
    worth: orm.Mapped[str] = orm.mapped_column(sa.String(40), default="")


class Dotted(HostBase):
    """A name whose lower case is longer than it is."""

    __tablename__ = "İtem"

    id: orm.Mapped[str] = orm.mapped_column(ExactString(40), primary_key=True)
    parent: orm.Mapped[str | None] = orm.mapped_column(sa.ForeignKey(Quoted.id, ondelete="CASCADE"))
    worth: orm.Mapped[str] = orm.mapped_column(sa.String(40), default="")


def test_text_names_a_table_by_its_quoted_name(witness_of: Callable[..., Witness]) -> None:
    quoted = witness_of(Quoted, [Quoted(id="a")], ids=["a"], tables=[Quoted.__table__, Dotted.__table__])
    dotted = witness_of(Dotted, [Dotted(id="b", parent="a")], ids=["b"], tables=[])
    quote = quoted.engine.dialect.identifier_preparer.quote_identifier
    with dotted.drops(), quoted.engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE {quote('İtem')} SET worth = 'much'")
    with quoted.drops(), quoted.engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE {quote(Quoted.__tablename__)} SET worth = 'much'")
    with dotted.right(), quoted.right(), quoted.engine.begin() as connection:
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql("PRAGMA foreign_keys = ON")
        connection.exec_driver_sql(f"DELETE FROM {quote(Quoted.__tablename__)}")
