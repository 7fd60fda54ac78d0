from __future__ import annotations

import copy
import dataclasses
import datetime
import decimal
import enum
import pickle
import uuid
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa
from hypothesis import example, given
from hypothesis import settings as profile
from hypothesis import strategies as st
from sqlalchemy import event, orm
from sqlalchemy.dialects import mysql
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.ext.mutable import MutableDict
from sqlalchemy.orm.exc import DetachedInstanceError
from support.models import HostBase, Parcel, Size, parcel

from person_repo.exceptions import ConfigurationError, InvalidEntityError, InvalidIdError, UnknownFieldError
from person_repo.mapped.mapping import EntityMapping, Row
from person_repo.model import Base, ExactString, Person

PEOPLE = EntityMapping(Person)
PARCELS = EntityMapping(Parcel)
ADA: Row = ("ada", "Ada", "Lovelace", 1)
LONE = "\ud800"


class Plain(orm.DeclarativeBase):
    """A declarative base without dataclasses, as most hosts have."""


@dataclasses.dataclass
class Point:
    x: int
    y: int


class IgnoreCase(orm.ColumnProperty.Comparator[str]):
    def __eq__(self, other: object) -> sa.ColumnElement[bool]:  # type: ignore[override]
        return sa.func.lower(self.__clause_element__()) == sa.func.lower(other)


class Author(Plain):
    __tablename__ = "author"

    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    name: orm.Mapped[str] = orm.mapped_column("full_name", sa.String(20))
    biography: orm.Mapped[str | None] = orm.mapped_column(sa.Text, deferred=True)
    portrait: orm.Mapped[bytes | None] = orm.mapped_column(sa.LargeBinary(4), deferred=True, deferred_raiseload=True)
    motto: orm.Mapped[str] = orm.column_property(
        orm.mapped_column(sa.String(20), default="none"), comparator_factory=IgnoreCase
    )
    shouted: orm.Mapped[str] = orm.column_property(sa.func.upper(sa.column("full_name")))
    asked: orm.Mapped[int | None] = orm.query_expression()
    x: orm.Mapped[int] = orm.mapped_column(default=0)
    y: orm.Mapped[int] = orm.mapped_column(default=0)
    place: orm.Mapped[Point] = orm.composite(Point, "x", "y")
    extra: orm.Mapped[dict[str, Any]] = orm.mapped_column(MutableDict.as_mutable(sa.JSON), default=dict)
    books: orm.Mapped[list[Book]] = orm.relationship(back_populates="author", cascade="all, delete-orphan")
    alias = orm.synonym("name")

    @hybrid_property
    def initial(self) -> str:
        return self.name[0]

    @orm.reconstructor
    def remember(self) -> None:
        self.remembered = f"{self.name} at {self.place}"

    @orm.validates("name")
    def refuse(self, key: str, name: str) -> str:
        if name == "Nobody":
            raise ValueError("validators run when an attribute is set, not when a row is loaded")
        return name


class Book(Plain):
    __tablename__ = "book"

    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    author_id: orm.Mapped[int] = orm.mapped_column(sa.ForeignKey("author.id"))
    title: orm.Mapped[str] = orm.mapped_column(sa.String(100))
    author: orm.Mapped[Author] = orm.relationship(back_populates="books")


class City:
    """Mapped imperatively, below; its constructor is its own."""

    name: str
    inhabitants: int

    def __init__(self, name: str, inhabitants: int) -> None:
        self.name = name
        self.inhabitants = inhabitants


Plain.registry.map_imperatively(
    City,
    sa.Table(
        "city",
        Plain.metadata,
        sa.Column("city_name", sa.String(40), primary_key=True),
        sa.Column("inhabitants", sa.Integer),
    ),
    properties={"name": Plain.metadata.tables["city"].c.city_name},
)


AUTHORS = EntityMapping(Author)


@pytest.fixture
def engine() -> Iterator[sa.Engine]:
    engine = sa.create_engine("sqlite://")
    for base in (Base, HostBase, Plain):
        base.metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def statements(engine: sa.Engine) -> list[str]:
    """The SQL of the test so far, by its first word."""
    seen: list[str] = []

    @event.listens_for(engine, "before_cursor_execute")
    def _(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement.split()[0])

    return seen


def stored(engine: sa.Engine, entity: Any) -> Row:
    """The row of an entity after it was written by a session."""
    with orm.Session(engine) as session:
        session.add(entity)
        session.commit()
    return row_of(engine, EntityMapping(type(entity)))


def row_of(engine: sa.Engine, mapping: EntityMapping[Any]) -> Row:
    with engine.connect() as connection:
        return tuple(connection.execute(sa.select(*mapping.columns)).one())


def loaded(engine: sa.Engine, entity: type[Any]) -> Any:
    """The only entity, loaded by a session and detached."""
    with orm.Session(engine) as session:
        only = session.scalars(sa.select(entity).options(orm.undefer("*"))).one()
        session.expunge(only)
        return only


def author(**changes: Any) -> Author:
    values: dict[str, Any] = {"id": 1, "name": "Ada", "biography": "long", "portrait": b"jpeg", "motto": "Dare"}
    return Author(**values | {"x": 3, "y": 4, "extra": {"seen": [1]}} | changes)


MAKERS: dict[str, Callable[[], Any]] = {
    "a mapped dataclass": lambda: Person(id="ada", first_name="Ada", last_name="Lovelace"),
    "a composite key and every kind of column": parcel,
    "a plain declarative class": author,
    "an imperative mapping": lambda: City("Köln", 1_000_000),
}
every_kind = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


# The identity of what a caller passes


@pytest.mark.parametrize("id", ["ada", "", " ", "x" * 100, "é" * 100, "😀" * 100, "a\x00b", "a\nb"])
def test_a_string_that_fits_the_key_is_its_identity(id: str) -> None:
    assert PEOPLE.identity(id) == (id,)
    assert PEOPLE.id_of((id,)) == id


@pytest.mark.parametrize("id", ["x" * 101, "é" * 101, LONE, f"a{LONE}b", "\udfff"])
def test_a_string_that_no_row_can_have_has_no_identity(id: str) -> None:
    assert PEOPLE.identity(id) is None


class Text(str):
    """A subclass of str, as template engines and lazy translations have."""


class Word(enum.StrEnum):
    ADA = "ada"


@pytest.mark.parametrize(
    "id", [None, 1, True, 1.0, b"ada", Text("ada"), Word.ADA, ("ada",), ["ada"], Person.id, uuid.UUID(int=1)]
)
def test_an_id_of_another_type_is_refused_with_both_types_and_the_remedy(id: Any) -> None:
    with pytest.raises(InvalidIdError) as caught:
        PEOPLE.identity(id)
    message = str(caught.value)
    assert message.startswith("Person id ")
    assert repr(id)[:100] in message
    assert f"is {type(id).__name__}; Person.id takes str and no other type" in message
    assert message.endswith("convert the id first")


def test_a_long_wrong_id_is_shortened_in_the_message() -> None:
    with pytest.raises(InvalidIdError) as caught:
        PEOPLE.identity(b"x" * 100_000)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("id", [("Köln", 7), ("", 0), ("x" * 40, -(2**63)), ("x", 2**63 - 1)])
def test_a_composite_key_is_a_tuple_in_the_order_of_the_columns(id: tuple[str, int]) -> None:
    assert PARCELS.identity(id) == id
    assert PARCELS.id_of(id) == id


@pytest.mark.parametrize("id", [("x" * 41, 1), ("x", 2**63), ("x", -(2**63) - 1), (LONE, 1), ("x", 10**400)])
def test_a_composite_key_that_no_row_can_have_has_no_identity(id: tuple[str, int]) -> None:
    assert PARCELS.identity(id) is None


@pytest.mark.parametrize("id", ["Köln", ("Köln",), ("Köln", 7, 1), (), ["Köln", 7], None, 7])
def test_an_id_of_the_wrong_shape_is_refused_with_the_names_of_the_key(id: Any) -> None:
    with pytest.raises(InvalidIdError, match=r"give a tuple of \(depot, number\)"):
        PARCELS.identity(id)


@pytest.mark.parametrize("id", [("Köln", "7"), ("x" * 41, True), (7, 2**63), ("Köln", 7.0), ("Köln", None)])
def test_a_part_of_the_wrong_type_is_refused_even_where_another_part_is_too_long(id: tuple[Any, Any]) -> None:
    with pytest.raises(InvalidIdError, match="convert the id first"):
        PARCELS.identity(id)


def test_an_identity_is_a_plain_tuple() -> None:
    class Key(NamedTuple):
        depot: str
        number: int

    assert type(PARCELS.identity(Key("Köln", 7))) is tuple


@given(id=st.text(max_size=120))
@example(id="ß" * 100)
@profile(max_examples=100)
def test_exactly_the_strings_that_a_database_takes_have_an_identity(id: str) -> None:
    assert PEOPLE.identity(id) == ((id,) if len(id) <= 100 else None)


def keyed(type_: Any, name: str, dialect: str = "") -> EntityMapping[Any]:
    """The mapping of a class whose key has the given type."""
    table = sa.Table(name, sa.MetaData(), sa.Column("id", type_, primary_key=True))
    entity = type(name, (), {})
    orm.registry().map_imperatively(entity, table)
    return EntityMapping(entity, dialect=dialect)


AMOUNTS = keyed(sa.Numeric(6, 2), "Amount")
MOMENTS = keyed(sa.DateTime(), "Moment")
INSTANTS = keyed(sa.DateTime(timezone=True), "Instant")
BYTES = keyed(sa.VARBINARY(4), "Bytes")
SIZES = keyed(sa.Enum(Size), "Sized")
TOKENS = keyed(sa.Uuid(), "Token")
DAYS = keyed(sa.Date(), "Day")
TEXTS = keyed(sa.Text(), "Texts")
FLAGS = keyed(sa.Boolean(), "Flag")
BLANKS = keyed(sa.CHAR(4), "Blank")
BLOCKS = keyed(sa.BINARY(4), "Block")

SHORTS = keyed(sa.String(3), "Short")
WORDS = keyed(sa.Enum("a", "ab"), "Words")

NOON = datetime.datetime(2026, 11, 23, 12)


@pytest.mark.parametrize(
    ("mapping", "id"),
    [
        (AMOUNTS, decimal.Decimal("1234.56")),
        (AMOUNTS, decimal.Decimal("-0.001")),
        (MOMENTS, NOON),
        (INSTANTS, NOON.replace(tzinfo=datetime.UTC)),
        (BYTES, b"\x00\xff"),
        (SIZES, Size.LARGE),
        (TOKENS, uuid.UUID(int=7)),
        (DAYS, NOON.date()),
        (TEXTS, "x" * 10_000),
        (FLAGS, True),
    ],
)
def test_keys_may_have_any_exact_type(mapping: EntityMapping[Any], id: Any) -> None:
    assert mapping.identity(id) == (id,)
    assert mapping.stored_identity([id]) in ((id,), None)


@pytest.mark.parametrize(
    ("mapping", "id"),
    [
        (AMOUNTS, decimal.Decimal("12345.6")),
        (AMOUNTS, decimal.Decimal("1E+999999")),
        (AMOUNTS, decimal.Decimal("NaN")),
        (AMOUNTS, decimal.Decimal("sNaN")),
        (AMOUNTS, decimal.Decimal("-Infinity")),
        (BYTES, b"12345"),
        (TEXTS, LONE),
    ],
)
def test_a_value_beyond_the_limits_of_its_type_has_no_identity(mapping: EntityMapping[Any], id: Any) -> None:
    assert mapping.identity(id) is None


@pytest.mark.parametrize("dialect", ["mysql", "mariadb", "sqlite", "postgresql", ""])
def test_an_id_from_the_end_of_signed_integers_on_is_mysqls_to_find(dialect: str) -> None:
    is_mysql = dialect in ("mysql", "mariadb")
    for type_ in (sa.Integer(), sa.BigInteger()):
        mapping = keyed(type_, "Number", dialect)
        for id in (2**63, 2**64 - 1):
            assert mapping.identity(id) == ((id,) if is_mysql else None)
            assert mapping.stored_identity([id]) is None
        assert mapping.identity(2**64) is mapping.identity(-(2**63) - 1) is None


class Large(sa.types.TypeDecorator[int]):
    impl = sa.BigInteger().with_variant(mysql.BIGINT(unsigned=True), "mysql")
    cache_ok = True


@pytest.mark.parametrize(
    "type_",
    [
        mysql.BIGINT(unsigned=True),
        sa.BigInteger().with_variant(mysql.BIGINT(unsigned=True), "mysql"),
        Large(),
        sa.BigInteger().with_variant(Large(), "mysql"),
    ],
)
def test_a_written_key_without_a_sign_is_known_if_the_column_declares_it(type_: Any) -> None:
    assert keyed(type_, "Number", "mysql").stored_identity([2**64 - 1]) == (2**64 - 1,)
    assert keyed(type_, "Number", "mysql").stored_identity([2**64]) is None
    assert keyed(type_, "Number", "sqlite").stored_identity([2**63]) is None


def test_a_column_has_the_limits_of_its_variant_on_the_database() -> None:
    type_ = sa.String(3).with_variant(sa.String(5), "sqlite")

    assert keyed(type_, "Text", "sqlite").identity("abcde") == ("abcde",)
    assert keyed(type_, "Text", "mysql").identity("abcde") is None


@pytest.mark.parametrize(
    ("mapping", "id"),
    [(MOMENTS, NOON.date()), (DAYS, NOON), (SIZES, "LARGE"), (TOKENS, str(uuid.UUID(int=7))), (AMOUNTS, 1), (FLAGS, 1)],
)
def test_a_type_that_python_takes_for_another_is_no_id_of_it(mapping: EntityMapping[Any], id: Any) -> None:
    with pytest.raises(InvalidIdError):
        mapping.identity(id)


# The identity of what was written


class Lower(sa.types.TypeDecorator[str]):
    impl = sa.String(20)
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> Any:
        return value.lower()


class Loud(enum.IntEnum):
    VERY = 11


class Shouting(str):
    def __str__(self) -> str:
        return self.upper()


LOWER = keyed(Lower(), "Lowered")


@pytest.mark.parametrize(
    ("mapping", "written", "identity"),
    [
        (PEOPLE, ["ada"], ("ada",)),
        (PEOPLE, [Text("ada")], ("ada",)),
        (PEOPLE, [Word.ADA], ("ada",)),
        (PARCELS, ["Köln", 7], ("Köln", 7)),
        (PARCELS, [Text("Köln"), True], ("Köln", 1)),
        (PARCELS, ["Köln", Loud.VERY], ("Köln", 11)),
        (LOWER, ["ada"], ("ada",)),
        (AMOUNTS, [decimal.Decimal("1.5")], (decimal.Decimal("1.5"),)),
        (AMOUNTS, [decimal.Decimal("1.500")], (decimal.Decimal("1.5"),)),
        (MOMENTS, [NOON], (NOON,)),
        (BLANKS, ["abcd"], ("abcd",)),
        (BLOCKS, [b"1234"], (b"1234",)),
        (SIZES, [Size.LARGE], (Size.LARGE,)),
    ],
)
def test_a_written_key_is_known_as_readers_ask_for_it(
    mapping: EntityMapping[Any], written: list[Any], identity: tuple[Any, ...]
) -> None:
    stored = mapping.stored_identity(written, DefaultDialect())
    assert stored == identity
    assert stored is not None
    assert [type(value) for value in stored] == [type(value) for value in identity]
    assert mapping.identity(mapping.id_of(stored)) == stored


@pytest.mark.parametrize(
    ("mapping", "written"),
    [
        (PEOPLE, [7]),
        (PEOPLE, [None]),
        (PEOPLE, [b"ada"]),
        (PEOPLE, [Shouting("ada")]),
        (PEOPLE, ["x" * 101]),
        (PEOPLE, [sa.func.uuid()]),
        (PARCELS, ["Köln", "7"]),
        (PARCELS, ["Köln", 7.0]),
        (LOWER, ["ADA"]),
        (AMOUNTS, [decimal.Decimal("1.005")]),
        (AMOUNTS, [7]),
        (keyed(sa.Numeric(), "Whole"), [decimal.Decimal("1.5")]),
        (MOMENTS, [NOON.replace(microsecond=1)]),
        (MOMENTS, [NOON.replace(tzinfo=datetime.UTC)]),
        (INSTANTS, [NOON]),
        (BLANKS, ["ab"]),
        (BLANKS, ["ab "]),
        (BLANKS, ["abc "]),
        (BLOCKS, [b"12"]),
        (SIZES, ["LARGE"]),
        (TOKENS, [str(uuid.UUID(int=7))]),
    ],
)
def test_a_written_key_that_a_database_may_convert_is_unknown(mapping: EntityMapping[Any], written: list[Any]) -> None:
    assert mapping.stored_identity(written) is None


@pytest.mark.parametrize("number", [True, Loud.VERY, 7])
def test_a_row_is_found_under_the_identity_of_its_written_key(database_url: str, number: int) -> None:
    database = sa.create_engine(database_url)
    HostBase.metadata.create_all(database)
    row = stored(database, parcel(depot=Text("Köln"), number=number))
    database.dispose()
    identity = PARCELS.stored_identity([Text("Köln"), number])

    assert PARCELS.identity_in(row) == identity
    assert identity is not None
    assert [type(value) for value in identity] == [str, int]


# Hydration


@every_kind
def test_a_hydrated_object_equals_a_loaded_one(engine: sa.Engine, make: Callable[[], Any]) -> None:
    mapping = EntityMapping(type(make()))
    row = stored(engine, make())
    hydrated, expected = mapping.hydrate(row), loaded(engine, mapping.entity)

    assert type(hydrated) is type(expected)
    for name in mapping.names:
        assert getattr(hydrated, name) == getattr(expected, name)
        assert type(getattr(hydrated, name)) is type(getattr(expected, name))
    assert sa.inspect(hydrated).identity_key == sa.inspect(expected).identity_key
    assert sa.inspect(hydrated).identity == sa.inspect(expected).identity == mapping.identity_in(row)


@every_kind
def test_a_hydrated_object_is_detached_and_unmodified(engine: sa.Engine, make: Callable[[], Any]) -> None:
    mapping = EntityMapping(type(make()))
    state = sa.inspect(mapping.hydrate(stored(engine, make())))

    assert state.detached
    assert not state.modified
    assert not state.expired
    assert not any(attribute.history.has_changes() for attribute in state.attrs if attribute.key in mapping.names)


@every_kind
def test_each_hydration_gives_an_object_of_its_own(engine: sa.Engine, make: Callable[[], Any]) -> None:
    mapping = EntityMapping(type(make()))
    row = stored(engine, make())
    one, other = mapping.hydrate(row), mapping.hydrate(row)
    setattr(one, mapping.names[-1], None)

    assert one is not other
    assert getattr(other, mapping.names[-1]) is not None


@every_kind
def test_a_hydrated_object_joins_a_session_without_a_statement(
    engine: sa.Engine, statements: list[str], make: Callable[[], Any]
) -> None:
    mapping = EntityMapping(type(make()))
    hydrated = mapping.hydrate(stored(engine, make()))
    statements.clear()
    with orm.Session(engine) as session:
        session.add(hydrated)
        assert sa.inspect(hydrated).persistent
        assert session.get(mapping.entity, mapping.id_of(sa.inspect(hydrated).identity)) is hydrated
        session.commit()
        assert statements == []


@every_kind
def test_a_hydrated_object_merges_as_a_loaded_one_does(
    engine: sa.Engine, statements: list[str], make: Callable[[], Any]
) -> None:
    """``merge`` takes a deferred column that is loaded for a change, wherever it was loaded; and nothing else."""
    mapping = EntityMapping(type(make()))
    hydrated = mapping.hydrate(stored(engine, make()))
    sent = []
    for entity in (hydrated, loaded(engine, mapping.entity)):
        statements.clear()
        with orm.Session(engine) as session:
            session.merge(entity)
            session.commit()
        sent.append(list(statements))

    assert sent[0] == sent[1]
    assert sent[0] == (["SELECT", "UPDATE"] if mapping.entity is Author else ["SELECT"])


@every_kind
def test_a_hydrated_object_merges_without_a_load(
    engine: sa.Engine, statements: list[str], make: Callable[[], Any]
) -> None:
    mapping = EntityMapping(type(make()))
    hydrated = mapping.hydrate(stored(engine, make()))
    statements.clear()
    with orm.Session(engine) as session:
        merged = session.merge(hydrated, load=False)
        assert mapping.values_of(merged) == mapping.values_of(hydrated)
        session.commit()
    assert statements == []


def test_a_change_after_joining_a_session_writes_the_changed_column_under_the_loaded_version(engine: sa.Engine) -> None:
    hydrated = PEOPLE.hydrate(stored(engine, Person(id="ada", first_name="Ada", last_name="Byron")))
    with orm.Session(engine) as session:
        session.add(hydrated)
        hydrated.last_name = "Lovelace"
        session.commit()
    assert row_of(engine, PEOPLE) == ("ada", "Ada", "Lovelace", 2)


def test_a_stale_hydrated_object_cannot_be_written_back(engine: sa.Engine) -> None:
    row = stored(engine, Person(id="ada", first_name="Ada", last_name="Byron"))
    with orm.Session(engine) as session:
        session.get_one(Person, "ada").last_name = "Lovelace"
        session.commit()
    stale = PEOPLE.hydrate(row)
    with orm.Session(engine) as session:
        session.add(stale)
        stale.first_name = "Augusta"
        with pytest.raises(orm.exc.StaleDataError):
            session.commit()


def test_a_hydrated_object_can_be_deleted_with_its_children(engine: sa.Engine) -> None:
    row = stored(engine, author(books=[Book(id=1, title="Notes")]))
    with orm.Session(engine) as session:
        session.delete(AUTHORS.hydrate(row))
        session.commit()
    with engine.connect() as connection:
        assert connection.execute(sa.union_all(sa.select(Author.id), sa.select(Book.id))).all() == []


def test_a_hydrated_object_can_be_refreshed(engine: sa.Engine) -> None:
    row = stored(engine, Person(id="ada", first_name="Ada", last_name="Lovelace"))
    hydrated = PEOPLE.hydrate(("ada", "old", "old", 1))
    with orm.Session(engine) as session:
        session.add(hydrated)
        session.refresh(hydrated)
        assert tuple(PEOPLE.values_of(hydrated).values()) == row


@every_kind
def test_a_hydrated_object_can_be_pickled_and_copied(engine: sa.Engine, make: Callable[[], Any]) -> None:
    mapping = EntityMapping(type(make()))
    hydrated = mapping.hydrate(stored(engine, make()))
    other = pickle.loads(pickle.dumps(hydrated))

    assert mapping.values_of(other) == mapping.values_of(hydrated)
    assert sa.inspect(other).identity_key == sa.inspect(hydrated).identity_key
    with orm.Session(engine) as session:
        session.add(other)
        assert sa.inspect(other).persistent


@pytest.mark.parametrize("row", [ADA[:-1], (*ADA, 1), ()])
def test_a_row_of_the_wrong_width_is_never_hydrated(row: Row) -> None:
    """An attribute that is left out would read as None in silence."""
    with pytest.raises(ValueError, match="unpack"):
        PEOPLE.hydrate(row)


def test_deferred_columns_are_loaded() -> None:
    values = dict.fromkeys(AUTHORS.names, 1) | {"biography": "long", "portrait": b"jpeg", "extra": {}, "name": "Ada"}
    hydrated = AUTHORS.hydrate(tuple(values.values()))

    assert hydrated.biography == "long"
    assert hydrated.portrait == b"jpeg"


def test_attributes_that_are_named_unlike_their_columns_keep_their_names(engine: sa.Engine) -> None:
    hydrated = AUTHORS.hydrate(stored(engine, author()))

    assert hydrated.name == hydrated.alias == "Ada"
    assert AUTHORS.by_name["name"].column.name == "full_name"


def test_a_hybrid_works_on_a_hydrated_object(engine: sa.Engine) -> None:
    assert AUTHORS.hydrate(stored(engine, author())).initial == "A"


def test_a_composite_attribute_is_made_from_its_columns(engine: sa.Engine) -> None:
    hydrated = AUTHORS.hydrate(stored(engine, author()))

    assert hydrated.place == Point(3, 4)
    with orm.Session(engine) as session:
        session.add(hydrated)
        hydrated.place = Point(5, 6)
        session.commit()
        assert (hydrated.x, hydrated.y) == (5, 6)


def test_a_change_inside_a_mutable_value_is_written(engine: sa.Engine) -> None:
    row = stored(engine, author())
    hydrated = AUTHORS.hydrate(row)
    with orm.Session(engine) as session:
        session.add(hydrated)
        hydrated.extra["new"] = 1
        session.commit()
    assert loaded(engine, Author).extra == {"seen": [1], "new": 1}


def test_the_reconstructor_is_called_and_sees_the_loaded_object(engine: sa.Engine) -> None:
    hydrated = AUTHORS.hydrate(stored(engine, author()))

    assert hydrated.remembered == loaded(engine, Author).remembered == "Ada at Point(x=3, y=4)"


def test_load_listeners_are_called_whenever_they_were_added(engine: sa.Engine) -> None:
    heard: list[Any] = []

    def listener(target: Any, context: Any) -> None:
        heard.append((target, target.first_name, context))

    PEOPLE.hydrate(ADA)
    event.listen(Person, "load", listener)
    try:
        hydrated = PEOPLE.hydrate(ADA)
    finally:
        event.remove(Person, "load", listener)
    PEOPLE.hydrate(ADA)

    assert heard == [(hydrated, "Ada", None)]


def test_a_load_listener_on_all_mapped_classes_is_called_alone_and_in_a_batch() -> None:
    heard: list[Any] = []

    def listener(target: Any, context: Any) -> None:
        heard.append(target)

    event.listen(orm.Mapper, "load", listener)
    try:
        hydrated = [PEOPLE.hydrate(ADA), *PEOPLE.hydrate_all([("ada", ADA)]).values()]
    finally:
        event.remove(orm.Mapper, "load", listener)
    PEOPLE.hydrate(ADA)

    assert list(map(id, heard)) == list(map(id, hydrated))


def test_a_refresh_listener_is_called_when_the_object_is_refreshed_only(engine: sa.Engine) -> None:
    stored(engine, Person(id="ada", first_name="Ada", last_name="Lovelace"))
    heard: list[Any] = []

    def listener(target: Any, context: Any, names: Any) -> None:
        heard.append(target)

    event.listen(Person, "refresh", listener)
    try:
        hydrated = PEOPLE.hydrate(ADA)
        assert heard == []
        with orm.Session(engine) as session:
            session.add(hydrated)
            session.refresh(hydrated)
    finally:
        event.remove(Person, "refresh", listener)
    assert heard == [hydrated]


def test_neither_constructor_nor_validators_run(engine: sa.Engine) -> None:
    row = list(stored(engine, author()))
    row[AUTHORS.names.index("name")] = "Nobody"

    assert AUTHORS.hydrate(tuple(row)).name == "Nobody"


def test_relationships_are_left_lazy(engine: sa.Engine) -> None:
    row = stored(engine, author(books=[Book(id=1, title="Notes")]))
    hydrated = AUTHORS.hydrate(row)

    with pytest.raises(DetachedInstanceError):
        len(hydrated.books)
    with orm.Session(engine) as session:
        session.add(hydrated)
        assert [book.title for book in hydrated.books] == ["Notes"]


def test_an_sql_expression_is_left_unloaded_and_never_reads_as_none(engine: sa.Engine) -> None:
    hydrated = AUTHORS.hydrate(stored(engine, author()))

    assert "shouted" not in AUTHORS.names
    with pytest.raises(DetachedInstanceError):
        len(hydrated.shouted)
    with orm.Session(engine) as session:
        session.add(hydrated)
        assert hydrated.shouted == "ADA"


def test_an_expression_that_a_query_must_ask_for_is_none_as_in_a_session(engine: sa.Engine) -> None:
    hydrated = AUTHORS.hydrate(stored(engine, author()))

    assert hydrated.asked is None
    assert loaded(engine, Author).asked is None


# Values that a database cannot take


@pytest.mark.parametrize(
    ("mapping", "values", "reason"),
    [
        (PEOPLE, {"first_name": "x" * 201}, "has 201 characters; the limit is 200"),
        (PEOPLE, {"id": "😀" * 101}, "has 101 characters; the limit is 100"),
        (PEOPLE, {"last_name": f"a{LONE}"}, "has a lone surrogate"),
        (PEOPLE, {"last_name": None}, "is None; the column takes no NULL"),
        (PEOPLE, {"id": None}, "is None; the column takes no NULL"),
        (PEOPLE, {"first_name": 7}, "7 is int; the column takes str"),
        (PEOPLE, {"first_name": b"Ada"}, "b'Ada' is bytes; the column takes str"),
        (AUTHORS, {"portrait": b"12345"}, "has 5 bytes; the limit is 4"),
        (AUTHORS, {"portrait": "jpeg"}, "is str; the column takes bytes"),
        (AUTHORS, {"biography": LONE}, "has a lone surrogate"),
        (PARCELS, {"number": 2**63}, "is beyond 64 bits"),
        (PARCELS, {"weight": float("nan")}, "is not finite"),
        (PARCELS, {"weight": float("inf")}, "is not finite"),
        (PARCELS, {"price": decimal.Decimal("NaN")}, "is not finite"),
        (PARCELS, {"price": decimal.Decimal("123456789")}, "has 9 digits before the point; the limit is 8"),
        (PARCELS, {"size": None}, "takes no NULL"),
    ],
)
def test_values_that_a_database_would_refuse_or_change_are_refused(
    mapping: EntityMapping[Any], values: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InvalidEntityError) as caught:
        mapping.check(values)
    (name,) = values
    assert str(caught.value).startswith(f"{mapping.name}.{name} ")
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("mapping", "values"),
    [
        (PEOPLE, {"id": "x" * 100, "first_name": "", "last_name": "😀" * 200}),
        (PEOPLE, {"first_name": Text("Ada")}),
        (PEOPLE, {"version": None}),
        (PEOPLE, {"first_name": sa.func.upper("ada"), "last_name": Person.first_name}),
        (AUTHORS, {"id": None, "motto": None, "biography": None, "extra": None}),
        (PARCELS, {"number": 2**63 - 1, "weight": 1, "price": decimal.Decimal("99999999.99999"), "note": None}),
        (PARCELS, {"price": decimal.Decimal(0), "fragile": 1, "tags": None, "contents": None, "size": "LARGE"}),
        (PEOPLE, {}),
    ],
)
def test_values_that_every_database_takes_pass(mapping: EntityMapping[Any], values: dict[str, Any]) -> None:
    mapping.check(values)


@given(st.lists(st.text(max_size=4) | st.text("ab", max_size=4) | st.none() | st.integers() | st.just(Text("ab"))))
@example(["a", "abc", ""])
@example(["abcd"])
@example([b"a"])
@profile(max_examples=200)
def test_values_that_are_accepted_together_are_accepted_one_by_one(values: list[Any]) -> None:
    for field in (SHORTS.key_fields[0], TEXTS.key_fields[0], WORDS.key_fields[0], PARCELS.by_name["number"]):
        if field.accepts_all(values):
            assert [field.refusal(value) for value in values] == [None] * len(values)
    if values and all(type(value) is str and value.isascii() and len(value) <= 3 for value in values):
        assert SHORTS.key_fields[0].accepts_all(values)


@every_kind
def test_the_values_of_a_new_object_are_those_that_were_set(make: Callable[[], Any]) -> None:
    entity = make()
    mapping = EntityMapping(type(entity))
    values = mapping.values_of(entity)

    assert set(values) <= set(mapping.names)
    assert values == {name: getattr(entity, name) for name in values}
    mapping.check(values)


def test_a_field_that_was_not_set_has_no_value() -> None:
    assert PEOPLE.values_of(Person(id="ada", first_name="Ada", last_name="L")) == {
        "id": "ada",
        "first_name": "Ada",
        "last_name": "L",
    }


@pytest.mark.parametrize("name", ["nick_name", "", "full_name", "books", "shouted", "place", "alias", "x" * 1000])
def test_a_name_that_is_no_column_is_refused_with_the_known_ones(name: str) -> None:
    for use in (AUTHORS.check, AUTHORS.criteria):
        with pytest.raises(UnknownFieldError) as caught:
            use({name: "Ada"})
        assert str(caught.value).startswith("Author has no field ")
        assert str(caught.value).endswith(f"known are: {', '.join(AUTHORS.names)}")
        assert len(str(caught.value)) < 400


# Criteria


def count(engine: sa.Engine, mapping: EntityMapping[Any], **equals: Any) -> int:
    """The number of rows that meet the criteria, the same in Core and in the ORM."""
    criteria = mapping.criteria(equals)
    with engine.connect() as connection:
        rows = connection.execute(sa.select(*mapping.columns).where(*criteria)).all()
    with orm.Session(engine) as session:
        assert len(session.scalars(sa.select(mapping.entity).where(*criteria)).all()) == len(rows)
    return len(rows)


def test_criteria_find_the_rows_that_have_the_values(engine: sa.Engine) -> None:
    stored(engine, parcel(note=None))

    assert count(engine, PARCELS) == 1
    assert count(engine, PARCELS, depot="Köln", size=Size.LARGE, price=decimal.Decimal("12345678.9")) == 1
    assert count(engine, PARCELS, tags=("up", "fragile"), fragile=True) == 1
    assert count(engine, PARCELS, depot="Köln", size=Size.SMALL) == 0


def test_none_finds_the_rows_without_a_value(engine: sa.Engine) -> None:
    stored(engine, parcel(note=None))

    assert count(engine, PARCELS, note=None) == 1
    assert count(engine, PARCELS, note="None") == 0
    assert "IS NULL" in str(PARCELS.criteria({"note": None})[0])


def test_a_value_that_no_row_can_hold_finds_none(engine: sa.Engine) -> None:
    stored(engine, parcel())

    assert count(engine, PARCELS, number=2**63) == 0
    assert count(engine, PARCELS, note=LONE) == 0
    assert count(engine, PARCELS, depot="x" * 41) == 0


def test_a_value_of_another_kind_for_which_mysql_would_find_every_row_is_refused() -> None:
    with pytest.raises(InvalidEntityError, match=r"Person\.first_name 0 is int; the column takes str"):
        PEOPLE.criteria({"first_name": 0})


def test_an_attribute_with_a_comparator_of_its_own_is_compared_by_it(engine: sa.Engine) -> None:
    stored(engine, author(motto="Dare"))

    assert count(engine, AUTHORS, motto="DARE") == 1
    assert count(engine, AUTHORS, name="ADA") == 0


# Classes that cannot be cached


def mapped(*columns: sa.Column[Any], **options: Any) -> type[Any]:
    entity = type("Thing", (), {})
    table = sa.Table("thing", sa.MetaData(), *columns)
    orm.registry().map_imperatively(entity, table, **options)
    return entity


def key() -> sa.Column[Any]:
    return sa.Column("id", sa.Integer, primary_key=True)


class Wrapped(sa.types.TypeDecorator[Any]):
    impl = sa.PickleType
    cache_ok = True

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> Any:
        return value


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ([key(), sa.Column("it", sa.PickleType)], "PickleType; what is cached is never unpickled: use JSON"),
        ([key(), sa.Column("it", Wrapped)], "PickleType; what is cached is never unpickled: use JSON"),
        (
            [key(), sa.Column("it", sa.ARRAY(sa.types.NullType))],
            "whose values cannot be cached; wrap it in a TypeDecorator",
        ),
        ([key(), sa.Column("it", sa.types.NullType())], "whose values cannot be cached; wrap it in a TypeDecorator"),
        (
            [sa.Column("it", sa.Float, primary_key=True)],
            r"Thing\.it is part of the primary key .* keys may be str, int",
        ),
        ([sa.Column("it", sa.JSON, primary_key=True)], r"Thing\.it is part of the primary key"),
        ([sa.Column("it", sa.Time, primary_key=True)], r"Thing\.it is part of the primary key"),
    ],
)
def test_a_column_that_cannot_be_cached_is_refused_by_name(columns: list[sa.Column[Any]], reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason) as caught:
        EntityMapping(mapped(*columns))
    assert "it" in str(caught.value)


def test_concrete_inheritance_is_refused_on_both_ends() -> None:
    class Host(orm.DeclarativeBase):
        pass

    class Vehicle(Host):
        __tablename__ = "vehicle"
        id: orm.Mapped[int] = orm.mapped_column(primary_key=True)

    class Car(Vehicle):
        __tablename__ = "car"
        id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
        __mapper_args__ = {"concrete": True}

    for entity in (Vehicle, Car):
        with pytest.raises(ConfigurationError, match=f"{entity.__name__} takes part in concrete inheritance"):
            EntityMapping(entity)


def test_a_class_over_a_query_is_refused() -> None:
    entity = type("Report", (), {})
    query = sa.select(Person.__table__).subquery()
    orm.registry().map_imperatively(entity, query, primary_key=[query.c.id])
    with pytest.raises(ConfigurationError, match="only tables can be cached"):
        EntityMapping(entity)


@pytest.mark.parametrize("entity", [int, Base, Person(id="a", first_name="b", last_name="c"), "Person", None])
def test_anything_but_a_mapped_class_is_refused(entity: Any) -> None:
    with pytest.raises(ConfigurationError, match="is not a mapped class"):
        EntityMapping(entity)


# Column types


def test_a_type_decorator_that_only_binds_loads_as_its_database_type_does() -> None:
    assert LOWER.key_fields[0].python_type is str


def test_the_fields_stand_in_the_order_of_the_mapper() -> None:
    assert PEOPLE.names == ("id", "first_name", "last_name", "version")
    assert PARCELS.names[:3] == ("depot", "number", "received")
    assert [column.name for column in PEOPLE.columns] == list(PEOPLE.names)


def test_strings_with_a_limit_of_their_own_are_checked_by_it() -> None:
    assert keyed(ExactString(3), "Exact").identity("abcd") is None
    assert keyed(ExactString(), "Limitless").identity("x" * 1000) == ("x" * 1000,)


def test_a_shallow_copy_is_as_free_as_its_original() -> None:
    assert sa.inspect(copy.copy(PEOPLE.hydrate(ADA))).detached
