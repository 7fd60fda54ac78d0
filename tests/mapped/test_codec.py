from __future__ import annotations

import contextlib
import datetime
import decimal
import enum
import json
import os
import pickle
import re
import subprocess
import sys
import tracemalloc
import uuid
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
import sqlalchemy as sa
from hypothesis import example, given
from hypothesis import settings as profile
from hypothesis import strategies as st
from sqlalchemy import orm
from sqlalchemy.dialects import mysql
from support.models import HostBase, Parcel, Size, parcel

from person_repo.mapped.codec import FORMAT, Codec, RejectedItemError, UncacheableError
from person_repo.mapped.mapping import EntityMapping, Row
from person_repo.mapped.sealing import OVERHEAD, Seal
from person_repo.model import Person

PLACE = "database/main/person/id/"
PEOPLE = Codec(EntityMapping(Person), PLACE)
PARCELS = EntityMapping(Parcel)
PARCEL_CODEC = Codec(PARCELS, "database/main/parcel/city,number/")
KEY = "pr:person_repo:person:sada"
ADA: Row = ("ada", "Ada", "Lovelace", 1)
PARCEL_KEY = "pr:person_repo:parcel:sK%C3%B6ln,i7"
PARCEL: Row = tuple(PARCELS.values_of(parcel()).values())
NOON = datetime.datetime(2026, 11, 23, 12)
BERLIN = ZoneInfo("Europe/Berlin")


def mapped(name: str, *columns: sa.Column[Any]) -> EntityMapping[Any]:
    """The mapping of a class with an integer key and these columns."""
    entity = type(name, (), {})
    key = sa.Column("id", sa.Integer, primary_key=True)
    orm.registry().map_imperatively(entity, sa.Table("thing", sa.MetaData(), key, *columns))
    return EntityMapping(entity)


def column(type_: Any) -> Codec[Any]:
    """The codec of a class with an integer key and a column of the type."""
    return Codec(mapped("Thing", sa.Column("it", type_)), PLACE)


# The bytes

GOLDEN: dict[str, tuple[Codec[Any], str, Row | None, str]] = {
    "a person": (
        PEOPLE,
        KEY,
        ADA,
        "93 d929 64617461626173652f6d61696e2f706572736f6e2f69642f2339623231363962663130643736303737"
        "ba70723a706572736f6e5f7265706f3a706572736f6e3a73616461"
        "94 a3616461 a3416461 a84c6f76656c616365 01",
    ),
    "a person that is not there": (
        PEOPLE,
        KEY,
        None,
        "93 d929 64617461626173652f6d61696e2f706572736f6e2f69642f2339623231363962663130643736303737"
        "ba70723a706572736f6e5f7265706f3a706572736f6e3a73616461 c0",
    ),
    "a parcel": (
        PARCEL_CODEC,
        PARCEL_KEY,
        PARCEL,
        "93 d932 64617461626173652f6d61696e2f70617263656c2f636974792c6e756d6265722f2362323135343633663731386434633231"
        "d92370723a706572736f6e5f7265706f3a70617263656c3a734b2543332542366c6e2c6937"
        "9d a54bc3b66c6e 07 ba323032362d31312d32335431343a35313a30302e313233343536 ad31323334353637382e39303030"
        "d92431323334353637382d313233342d353637382d313233342d353637383132333435363738 c40600ff0d0a275c a54c41524745"
        "82a56974656d7395a742c3bc6368657201cb3ff8000000000000c0c3a66e657374656481a090 aa323032362d31322d3234"
        "cb3fb999999999999a c3 c0 aa75702066726167696c65",
    ),
}


@pytest.mark.parametrize("case", GOLDEN)
def test_the_bytes_of_format_2_never_change(case: str) -> None:
    """If they must change, raise ``FORMAT``, and with it the fingerprint; then golden bytes are added for it."""
    codec, key, row, golden = GOLDEN[case]

    assert FORMAT == 2
    assert codec.encode(key, row).hex() == golden.replace(" ", "")
    assert codec.decode(bytes.fromhex(golden), key) == row


def test_a_known_absence_comes_back_as_none() -> None:
    assert PEOPLE.decode(PEOPLE.encode(KEY, None), KEY) is None


# Rows that come back

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
words = st.lists(st.text("abcé😀", min_size=1, max_size=5), max_size=3).map(tuple)
parcels = st.tuples(
    st.text(max_size=40),
    st.integers(-(2**63), 2**63 - 1),
    st.datetimes().map(lambda moment: moment.replace(fold=0)),
    st.decimals(allow_nan=False, allow_infinity=False),
    st.uuids(),
    st.binary(max_size=30),
    st.sampled_from(Size),
    json_values,
    st.dates(),
    st.floats(allow_nan=False),
    st.booleans(),
    st.none() | st.text(max_size=20),
    words,
)


@given(row=parcels)
@example(row=PARCEL)
@profile(max_examples=150)
def test_every_column_type_comes_back_equal_and_of_its_type(row: Row) -> None:
    back = PARCEL_CODEC.decode(PARCEL_CODEC.encode(PARCEL_KEY, row), PARCEL_KEY)

    assert back == row
    assert back is not None
    assert list(map(repr, back)) == list(map(repr, row))


class Colour(enum.Enum):
    RED = 1
    GREEN = "green"


class Word(sa.types.TypeDecorator[str]):
    """Stores an enumeration, and loads its name in small letters."""

    impl = sa.Enum(Colour)
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> Any:
        return None if value is None else Colour[value.upper()]

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> Any:
        return None if value is None else value.name.lower()


class Backwards(sa.types.TypeDecorator[str]):
    """A decorator over a decorator."""

    impl = Word
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> Any:
        return None if value is None else value[::-1]

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> Any:
        return None if value is None else value[::-1]


class Amount(sa.types.TypeDecorator[decimal.Decimal]):
    """Cents in the database, a decimal in Python."""

    impl = sa.Integer
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> Any:
        return None if value is None else int(value * 100)

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> Any:
        return None if value is None else decimal.Decimal(value) / 100


TYPES = {
    "string": (sa.String(20), "naïve 😀"),
    "text": (sa.Text, ""),
    "integer": (sa.BigInteger, -(2**63)),
    "integer without a sign": (mysql.BIGINT(unsigned=True), 2**64 - 1),
    "boolean": (sa.Boolean, False),
    "float": (sa.Float, -0.0),
    "infinite float": (sa.Float, float("inf")),
    "numeric": (sa.Numeric(40, 20), decimal.Decimal("12345678901234567890.12345678901234567890")),
    "numeric with trailing zeros": (sa.Numeric(12, 4), decimal.Decimal("1.5000")),
    "numeric as float": (sa.Numeric(12, 4, asdecimal=False), 1.5),
    "binary": (sa.LargeBinary, bytes(range(256))),
    "uuid": (sa.Uuid, uuid.UUID(int=7)),
    "uuid as string": (sa.Uuid(as_uuid=False), "00000000-0000-0000-0000-000000000007"),
    "date": (sa.Date, datetime.date.min),
    "moment": (sa.DateTime, datetime.datetime.max),
    "instant in UTC": (sa.DateTime(timezone=True), NOON.replace(tzinfo=datetime.UTC)),
    "time": (sa.Time, datetime.time(23, 59, 59, 999999)),
    "interval": (sa.Interval, datetime.timedelta(days=-3, seconds=5, microseconds=7)),
    "enumeration with mixed values": (sa.Enum(Colour), Colour.RED),
    "enumeration stored by value": (sa.Enum(Colour, values_callable=lambda c: ["1", "green"]), Colour.GREEN),
    "enumeration of strings": (sa.Enum("red", "green"), "red"),
    "json": (sa.JSON, {"a": [1, 2.0, True, None, "x", {}], "": []}),
    "json that is a list": (sa.JSON, [[]]),
    "json that is a number": (sa.JSON, 1),
    "decorated enumeration": (Word, "red"),
    "decorated decorator": (Backwards, "der"),
    "decorated integer": (Amount, decimal.Decimal("1.25")),
}


@pytest.mark.parametrize("case", TYPES)
def test_each_type_comes_back_and_so_does_null(case: str) -> None:
    type_, value = TYPES[case]
    codec = column(type_)
    for it in (value, None):
        back = codec.decode(codec.encode("k", (1, it)), "k")
        assert repr(back) == repr((1, it))


def test_rows_of_a_database_come_back_and_hydrate_to_its_entities(engine: sa.Engine) -> None:
    HostBase.metadata.create_all(engine)
    with orm.Session(engine) as session:
        session.add_all([parcel(), parcel(number=8, note="é😀", tags=(), contents=None, size=Size.SMALL)])
        session.commit()
    with engine.connect() as connection:
        rows = [tuple(row) for row in connection.execute(sa.select(*PARCELS.columns).order_by(Parcel.number))]
    back = [PARCEL_CODEC.decode(PARCEL_CODEC.encode("k", row), "k") for row in rows]

    assert back == rows
    with orm.Session(engine) as session:
        expected = list(session.scalars(sa.select(Parcel).order_by(Parcel.number)))
        assert [PARCELS.hydrate(row) for row in back if row is not None] == expected
        assert expected[0] == parcel()


# Rows that would not


class Opaque:
    """Has no equality, so that a copy cannot be compared."""


class Opaquely(sa.types.TypeDecorator[Opaque]):
    impl = sa.String(10)
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> Any:
        return "opaque"

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> Any:
        return Opaque()


class Failing(sa.types.TypeDecorator[str]):
    impl = sa.String(10)
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> Any:
        raise KeyError(value)

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> Any:
        return value


class Lossy(sa.types.TypeDecorator[str]):
    impl = sa.String(10)
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> Any:
        return value.lower()

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> Any:
        return value


class Text(str):
    pass


ENDLESS: list[Any] = []
ENDLESS.append(ENDLESS)

UNCACHEABLE = {
    "NaN": (sa.Float, float("nan")),
    "NaN of a decimal": (sa.Numeric, decimal.Decimal("NaN")),
    "signalling NaN": (sa.Numeric, decimal.Decimal("sNaN")),
    "NaN in JSON": (sa.JSON, {"a": float("nan")}),
    "an integer beyond 64 bits": (sa.Integer, 2**64),
    "an integer beyond 64 bits in JSON": (sa.JSON, [-(2**63) - 1]),
    "an integer in a column of floats": (sa.Float, 1),
    "a truth value in a column of integers": (sa.Integer, True),
    "a tuple in JSON": (sa.JSON, {"a": (1, 2)}),
    "a set in JSON": (sa.JSON, {1, 2}),
    "a decimal in JSON": (sa.JSON, decimal.Decimal("1.5")),
    "a moment in JSON": (sa.JSON, [NOON]),
    "an integer for a key in JSON that is an enumeration": (sa.JSON, {Size.LARGE: 1}),
    "an object in JSON": (sa.JSON, Opaque()),
    "a JSON that holds itself": (sa.JSON, ENDLESS),
    "a subclass of a string": (sa.String(10), Text("a")),
    "a lone surrogate": (sa.String(10), "\ud800"),
    "a string in a column of integers": (sa.Integer, "1"),
    "another turn of a repeated hour": (sa.DateTime, NOON.replace(fold=1)),
    "another turn of a repeated hour of a day": (sa.Time, datetime.time(2, 30, fold=1)),
    "an instant in a zone": (sa.DateTime(timezone=True), NOON.replace(tzinfo=BERLIN)),
    "an instant at an offset": (
        sa.DateTime(timezone=True),
        NOON.replace(tzinfo=datetime.timezone(datetime.timedelta(hours=1))),
    ),
    "an instant in a zone that is UTC in winter": (
        sa.DateTime(timezone=True),
        NOON.replace(tzinfo=ZoneInfo("Europe/London")),
    ),
    "a moment in a column of days": (sa.Date, NOON),
    "no member of the enumeration": (sa.Enum(Size), "LARGE"),
    "an object without equality": (Opaquely, Opaque()),
    "a decorator that fails": (Failing, "a"),
    "a decorator that changes": (Lossy, "A"),
}


@pytest.mark.parametrize("case", UNCACHEABLE)
def test_a_value_that_would_come_back_as_another_is_not_cached(case: str) -> None:
    type_, value = UNCACHEABLE[case]
    with pytest.raises(UncacheableError, match=r"^the:key: "):
        column(type_).encode("the:key", (1, value))


def test_the_reason_names_the_column() -> None:
    with pytest.raises(UncacheableError, match="the:key: it would not come back from the cache as it is"):
        column(sa.JSON).encode("the:key", (1, (1, 2)))


@pytest.mark.parametrize("row", [ADA[:-1], (*ADA, 1), (), (None,)])
def test_a_row_of_the_wrong_width_is_not_cached(row: Row) -> None:
    with pytest.raises(UncacheableError):
        PEOPLE.encode(KEY, row)


@given(moment=st.datetimes(timezones=st.none() | st.timezones() | st.just(datetime.UTC), allow_imaginary=True))
@profile(max_examples=100)
def test_a_moment_comes_back_exactly_or_not_at_all(moment: datetime.datetime) -> None:
    codec = column(sa.DateTime(timezone=True))
    try:
        encoded = codec.encode("k", (1, moment))
    except UncacheableError:
        assert moment.tzinfo is not None or moment.fold
        return
    assert repr(codec.decode(encoded, "k")) == repr((1, moment))


# Bytes that are no item


def hostile(item: bytes, codec: Codec[Any] = PEOPLE, key: str = KEY) -> None:
    with pytest.raises(RejectedItemError) as caught:
        codec.decode(item, key)
    assert type(caught.value) is RejectedItemError
    assert len(str(caught.value)) < 2000


ITEM = PEOPLE.encode(KEY, ADA)
PARCEL_ITEM = PARCEL_CODEC.encode(PARCEL_KEY, PARCEL)
HEAD = PARCEL_ITEM[: PARCEL_ITEM.index(b"\x82\xa5items")]
TAIL = PARCEL_ITEM[PARCEL_ITEM.index(b"\xaa2026-12-24") :]


def with_contents(contents: bytes) -> bytes:
    """The item of the parcel with other bytes for its JSON."""
    return HEAD + contents + TAIL


def test_an_item_of_another_key_is_rejected() -> None:
    hostile(ITEM, key="pr:person_repo:person:sbob")
    hostile(PEOPLE.encode(KEY, None), key="pr:person_repo:person:sbob")


def test_an_item_of_another_schema_is_rejected() -> None:
    for row in (PARCEL, None):
        hostile(PARCEL_CODEC.encode(KEY, row))
    hostile(PEOPLE.encode(PARCEL_KEY, ADA), PARCEL_CODEC, PARCEL_KEY)


def test_an_item_of_another_schema_with_the_same_types_is_rejected() -> None:
    one, other = (Codec(mapped("Thing", sa.Column(name, sa.String(9))), PLACE) for name in ("first", "last"))
    with pytest.raises(RejectedItemError, match=r"#[0-9a-f]{16}"):
        other.decode(one.encode("k", (1, "a")), "k")


@pytest.mark.parametrize("length", range(len(ITEM)))
def test_a_truncated_item_is_rejected(length: int) -> None:
    hostile(ITEM[:length])


@pytest.mark.parametrize("more", [b"\x00", b"\xc0", b" ", b"\n", ITEM])
def test_an_extended_item_is_rejected(more: bytes) -> None:
    hostile(ITEM + more)
    hostile(more + ITEM)


PICKLED = [pickle.dumps((PEOPLE.header, KEY, ADA), protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]


@pytest.mark.parametrize(
    "item",
    [
        *PICKLED,
        json.dumps([PEOPLE.header, KEY, ADA]).encode(),
        msgspec.msgpack.encode({"header": PEOPLE.header, "key": KEY, "state": ADA}),
        msgspec.msgpack.encode([PEOPLE.header, KEY]),
        msgspec.msgpack.encode([PEOPLE.header, KEY, ADA, 1]),
        msgspec.msgpack.encode([PEOPLE.header, KEY, ADA[:-1]]),
        msgspec.msgpack.encode([PEOPLE.header, KEY, [*ADA, None]]),
        msgspec.msgpack.encode([PEOPLE.header, KEY, ["ada", "Ada", "Lovelace", "1"]]),
        msgspec.msgpack.encode([PEOPLE.header, KEY, ["ada", "Ada", b"Lovelace", 1]]),
        msgspec.msgpack.encode([PEOPLE.header, KEY, ["ada", "Ada", "Lovelace", True]]),
        msgspec.msgpack.encode([PEOPLE.header, KEY, ["ada", "Ada", "Lovelace", 1.5]]),
        msgspec.msgpack.encode([PEOPLE.header.encode(), KEY, ADA]),
        msgspec.msgpack.encode([7, KEY, ADA]),
        msgspec.msgpack.encode([PEOPLE.header, KEY.encode(), ADA]),
        ITEM.replace(b"Lovelace", b"Lovela\xff\xfe"),
        b"",
        b"\xc1",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xffa",
        b"\x91" * 100_000,
        b"\x81" * 100_000,
        b"\x00" * 5_000_000,
    ],
    ids=lambda item: f"{item[:6].hex()}-{len(item)}",
)
def test_bytes_that_are_no_item_are_rejected(item: bytes) -> None:
    hostile(item)


@pytest.mark.parametrize(
    "contents",
    [
        b"\x91" * 1_000_000,
        b"\x91" * 1_000_000 + b"\xc0",
        b"\x81\xa0" * 1_000_000 + b"\xc0",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xa1\xff",
        b"\xc1",
        b"\x81\x80\x00",
    ],
    ids=lambda contents: contents[:6].hex(),
)
def test_json_that_is_no_msgpack_is_rejected(contents: bytes) -> None:
    assert PARCEL_CODEC.decode(with_contents(b"\xc0"), PARCEL_KEY) is not None
    hostile(with_contents(contents), PARCEL_CODEC, PARCEL_KEY)


def test_an_enumeration_that_has_no_such_member_is_rejected() -> None:
    """Another version of the host's code may store a member that this one does not know."""
    hostile(PARCEL_ITEM.replace(b"\xa5LARGE", b"\xa5GIANT"), PARCEL_CODEC, PARCEL_KEY)


def test_a_decorator_that_fails_on_hostile_values_is_a_rejection() -> None:
    codec = column(Word)
    good = codec.encode("k", (1, "red"))
    with pytest.raises(RejectedItemError):
        codec.decode(good.replace(b"RED", b"RUD"), "k")


@given(item=st.binary(max_size=200) | json_values.map(msgspec.msgpack.encode))
@profile(max_examples=200)
def test_random_bytes_are_rejected(item: bytes) -> None:
    hostile(item)
    hostile(item, PARCEL_CODEC, PARCEL_KEY)


@given(at=st.integers(0, len(PARCEL_ITEM) - 1), cut=st.integers(0, 4), put=st.binary(max_size=4))
@profile(max_examples=300)
def test_damage_is_rejected_or_gives_a_row_of_the_right_types(at: int, cut: int, put: bytes) -> None:
    item = PARCEL_ITEM[:at] + put + PARCEL_ITEM[at + cut :]
    try:
        row = PARCEL_CODEC.decode(item, PARCEL_KEY)
    except RejectedItemError:
        return
    for field, value in zip(PARCELS.fields, row or (), strict=row is not None):
        assert value is None or isinstance(value, field.python_type)


@given(item=st.sampled_from([ITEM, PARCEL_ITEM]), bit=st.integers(0, 8 * len(PARCEL_ITEM) - 1))
@profile(max_examples=300)
def test_a_flipped_bit_is_rejected_or_gives_a_row_of_the_right_types(item: bytes, bit: int) -> None:
    codec, key = (PEOPLE, KEY) if item is ITEM else (PARCEL_CODEC, PARCEL_KEY)
    flipped = bytearray(item)
    flipped[bit // 8 % len(item)] ^= 1 << bit % 8
    try:
        row = codec.decode(bytes(flipped), key)
    except RejectedItemError:
        return
    fields = PARCELS.fields if codec is PARCEL_CODEC else EntityMapping(Person).fields
    assert row is None or all(
        value is None or isinstance(value, field.python_type) for field, value in zip(fields, row, strict=True)
    )


def test_an_item_of_another_format_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """The layout may be the same, the meaning is not."""
    monkeypatch.setattr("person_repo.mapped.codec.FORMAT", FORMAT + 1)
    later = Codec(EntityMapping(Person), PLACE)
    for row in (ADA, None):
        hostile(later.encode(KEY, row))
        hostile(PEOPLE.encode(KEY, row), later)


@pytest.mark.parametrize("code", [-128, -2, 0, 5, 127])
def test_an_extension_of_msgpacks_inside_json_is_rejected(code: int) -> None:
    extension = msgspec.msgpack.encode(msgspec.msgpack.Ext(code, b"abc"))
    for contents in (extension, b"\x91" + extension, b"\x81\xa1a" + extension):
        hostile(with_contents(contents), PARCEL_CODEC, PARCEL_KEY)


class KindBase(orm.DeclarativeBase):
    """Metadata of its own."""


class Kind(KindBase):
    """The root of a hierarchy whose classes share a table."""

    __tablename__ = "kind"
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "plain"}

    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    kind: orm.Mapped[str] = orm.mapped_column(sa.String(20))


class OtherKind(Kind):
    __mapper_args__ = {"polymorphic_identity": "other"}


@pytest.mark.parametrize("kind", ["special", "", None])
def test_an_item_of_no_known_class_is_rejected(kind: Any) -> None:
    """It could become no object, and the read would fail."""
    kinds = Codec(EntityMapping(Kind), PLACE)
    good = kinds.encode("k", (1, "plain"))
    assert kinds.decode(good, "k") == (1, "plain")

    hostile(good.replace(b"\xa5plain", msgspec.msgpack.encode(kind)), kinds, "k")
    with pytest.raises(UncacheableError):
        kinds.encode("k", (1, kind))


class Heavy(KindBase):
    """The root of a hierarchy whose classes have tables, and columns, of their own."""

    __tablename__ = "heavy"
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "heavy"}

    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    kind: orm.Mapped[str] = orm.mapped_column(sa.String(20))


class Stone(Heavy):
    __tablename__ = "stone"
    __mapper_args__ = {"polymorphic_identity": "stone"}

    id: orm.Mapped[int] = orm.mapped_column(sa.ForeignKey("heavy.id"), primary_key=True)
    weight: orm.Mapped[float] = orm.mapped_column(sa.Float)


class Log(Heavy):
    __tablename__ = "log"
    __mapper_args__ = {"polymorphic_identity": "log"}

    id: orm.Mapped[int] = orm.mapped_column(sa.ForeignKey("heavy.id"), primary_key=True)
    weight: orm.Mapped[float] = orm.mapped_column(sa.Float)


def test_rows_of_siblings_that_give_two_columns_one_name_come_back() -> None:
    codec = Codec(EntityMapping(Heavy), PLACE)
    for row in ((1, "stone", 1.5, None), (2, "log", None, 2.5)):
        assert codec.decode(codec.encode("k", row), "k") == row
    with pytest.raises(UncacheableError, match="weight would not come back"):
        codec.encode("k", (2, "log", None, 2))


FILLERS = {
    "zeros": b"\x00" * 1_000_000,
    "a long string": b"\xdb\x00\x0f\x42\x40" + b"a" * 1_000_000,
    "empty lists": b"\xdd\x00\x04\x93\xe0" + b"\x90" * 300_000,
    "a list that claims more": b"\xdd\xff\xff\xff\xff" + b"\xc0" * 1_000_000,
    "a map that claims more": b"\xdf\xff\xff\xff\xff" + b"\xa1a\xc0" * 300_000,
    "a string that claims more": b"\xdb\xff\xff\xff\xff" + b"a" * 1_000_000,
    "bytes that claim more": b"\xc6\xff\xff\xff\xff" + b"a" * 1_000_000,
    "an extension that claims more": b"\xc9\xff\xff\xff\xff\x05" + b"a" * 1_000_000,
    "depth": b"\x91" * 1_000_000,
}


@pytest.mark.parametrize("filler", FILLERS)
def test_megabytes_cost_no_more_memory_than_they_are_long_by_a_factor(filler: str) -> None:
    """Memory is not set aside for a declared length. An empty list of one byte takes 56 in Python, and 8 in the list
    that holds it.
    """
    items = [FILLERS[filler], HEAD + FILLERS[filler], with_contents(FILLERS[filler])]
    tracemalloc.start()
    try:
        for item in items:
            with contextlib.suppress(RejectedItemError):
                PARCEL_CODEC.decode(item, PARCEL_KEY)
        hostile(items[0], PARCEL_CODEC, PARCEL_KEY)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < 80 * max(map(len, items))


def _nested(depth: int) -> Any:
    value: Any = object()
    for _ in range(depth):
        value = [value]
    return value


def test_depths_at_which_only_one_of_two_attempts_reaches_the_end_of_the_stack() -> None:
    for depth in range(sys.getrecursionlimit() + 10):
        cut_short = HEAD + b"\x91" * depth
        hostile(cut_short, PARCEL_CODEC, PARCEL_KEY)
        assert PARCEL_CODEC.decode_all([cut_short], [PARCEL_KEY]) is None
    place = PARCEL.index(parcel().contents)
    for depth in range(sys.getrecursionlimit() - 250, sys.getrecursionlimit() + 10):
        with pytest.raises(UncacheableError):
            PARCEL_CODEC.encode(PARCEL_KEY, (*PARCEL[:place], _nested(depth), *PARCEL[place + 1 :]))


@pytest.mark.parametrize("item", [None, "text", 7, (1, KEY, ADA)])
def test_anything_but_bytes_is_rejected(item: Any) -> None:
    hostile(item)


# Sealed

SEAL = Seal(["k3VY0c0Zc5bS5c3kq0Y1m9m7m3m5Jw2Jrj8lYy3Xo1E"])
SEALED_PEOPLE = Codec(EntityMapping(Person), PLACE, SEAL)
SEALED_PARCELS = Codec(PARCELS, "database/main/parcel/city,number/", SEAL)
SEALED_ITEM = SEALED_PEOPLE.encode(KEY, ADA)


@given(row=parcels)
@example(row=PARCEL)
@profile(max_examples=50)
def test_a_sealed_row_comes_back_equal_and_of_its_types(row: Row) -> None:
    back = SEALED_PARCELS.decode(SEALED_PARCELS.encode(PARCEL_KEY, row), PARCEL_KEY)

    assert list(map(repr, back or ())) == list(map(repr, row))


def test_a_sealed_absence_comes_back_as_none() -> None:
    assert SEALED_PEOPLE.decode(SEALED_PEOPLE.encode(KEY, None), KEY) is None


def test_sealing_leaves_the_item_inside_unchanged() -> None:
    """So a seal changes neither the format nor the schema, which have golden bytes of their own."""
    assert SEAL.open(SEALED_ITEM, KEY) == ITEM
    assert len(SEALED_ITEM) == len(ITEM) + OVERHEAD
    assert not any(name in SEALED_ITEM for name in (b"ada", b"Ada", b"Lovelace"))


def test_a_row_that_would_not_come_back_is_not_cached_sealed_either() -> None:
    with pytest.raises(UncacheableError, match="the:key: it would not come back"):
        Codec(mapped("Thing", sa.Column("it", sa.JSON)), PLACE, SEAL).encode("the:key", (1, (1, 2)))


@pytest.mark.parametrize("row", [ADA, None])
def test_an_unsealed_item_is_rejected_with_a_secret(row: Row | None) -> None:
    hostile(PEOPLE.encode(KEY, row), SEALED_PEOPLE)


@pytest.mark.parametrize("row", [ADA, None])
def test_a_sealed_item_is_rejected_without_a_secret(row: Row | None) -> None:
    hostile(SEALED_PEOPLE.encode(KEY, row))


def test_a_sealed_item_of_another_key_or_secret_is_rejected() -> None:
    hostile(SEALED_ITEM, SEALED_PEOPLE, "pr:person_repo:person:sbob")
    hostile(SEALED_ITEM, Codec(EntityMapping(Person), PLACE, Seal(["Zz9-4fQ8k1r2Vt7mN0bXc6yLp3sD5gHjW_aEuIoTq2M"])))


@given(at=st.integers(0, len(SEALED_ITEM)), cut=st.integers(0, 4), put=st.binary(max_size=4))
@profile(max_examples=300)
def test_any_damage_to_a_sealed_item_is_a_rejection(at: int, cut: int, put: bytes) -> None:
    damaged = SEALED_ITEM[:at] + put + SEALED_ITEM[at + cut :]
    if damaged != SEALED_ITEM:
        hostile(damaged, SEALED_PEOPLE)


@given(item=st.binary(max_size=200) | json_values.map(msgspec.msgpack.encode))
@profile(max_examples=200)
def test_sealed_or_not_random_bytes_are_rejected(item: bytes) -> None:
    """A holder of the secret could have sealed them, so an opened item is checked like any other."""
    hostile(item, SEALED_PEOPLE)
    hostile(SEAL.seal(item, KEY), SEALED_PEOPLE)


@pytest.mark.parametrize("item", [None, "text", 7, (1, KEY, ADA), bytearray(SEALED_ITEM), [SEALED_ITEM]])
def test_anything_but_bytes_is_rejected_with_a_secret_too(item: Any) -> None:
    hostile(item, SEALED_PEOPLE)


# The fingerprint

FINGERPRINTS = (
    "from support.models import Parcel; from person_repo.model import Person;"
    "from person_repo.mapped.mapping import EntityMapping; from person_repo.mapped.codec import Codec;"
    "print(*[Codec(EntityMapping(entity), '').header for entity in (Person, Parcel)])"
)


@pytest.mark.parametrize("seed", ["0", "4711"])
def test_the_fingerprint_is_the_same_in_every_process(seed: str) -> None:
    environ = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", FINGERPRINTS], env=environ, check=True, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == [f"#{codec.header.partition('#')[2]}" for codec in (PEOPLE, PARCEL_CODEC)]


def first() -> sa.Column[Any]:
    return sa.Column("first", sa.String(9))


def last() -> sa.Column[Any]:
    return sa.Column("last", sa.String(9))


def number() -> sa.Column[Any]:
    return sa.Column("number", sa.Integer)


def renamed(mapping: EntityMapping[Any]) -> EntityMapping[Any]:
    """The same table under a class that calls a column something else."""
    entity = type("Thing", (), {})
    orm.registry().map_imperatively(entity, mapping.table, properties={"surname": mapping.table.c.last})
    return EntityMapping(entity)


def test_the_fingerprint_changes_with_whatever_would_make_a_row_mean_something_else() -> None:
    variants = [
        mapped("Thing", first(), last()),
        mapped("Thing", last(), first()),
        mapped("Thing", first()),
        mapped("Thing", first(), last(), number()),
        mapped("Thing", first(), sa.Column("last", sa.Integer)),
        mapped("Thing", first(), sa.Column("last", sa.Enum(Size))),
        mapped("Thing", first(), sa.Column("last", sa.JSON)),
        mapped("Thing", first(), sa.Column("surname", sa.String(9))),
        renamed(mapped("Thing", first(), last())),
    ]
    headers = [Codec(mapping, PLACE).header for mapping in variants]

    assert len(set(headers)) == len(headers)
    assert all(re.fullmatch(f"{PLACE}#[0-9a-f]{{16}}", header) for header in headers)


def test_the_fingerprint_stays_if_the_meaning_of_a_row_does() -> None:
    """Cached rows survive a longer column, another class name and a constraint."""
    before = Codec(mapped("Thing", first(), last()), PLACE).header
    wider = sa.Column("last", sa.String(900), nullable=False, unique=True, server_default="")

    assert Codec(mapped("Renamed", first(), wider), PLACE).header == before


def test_an_item_of_another_location_is_rejected() -> None:
    """Whatever the digest in its key says."""
    hostile(ITEM, Codec(EntityMapping(Person), PLACE.replace("database", "another")))
