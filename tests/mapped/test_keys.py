from __future__ import annotations

import datetime
import decimal
import enum
import uuid
from typing import Any
from urllib.parse import quote
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, example, given
from hypothesis import settings as profile
from hypothesis import strategies as st
from support.models import Size

from person_repo.exceptions import InvalidIdError
from person_repo.mapped.keys import LONGEST_KEY, Keyspace, Location, group_name

PERSON = Location("0123456789abcdef0123456789abcdef:shop", ("public",), "person", ("id",))
PEOPLE = Keyspace("person_repo", PERSON)
# The longest namespace that settings allow, and a name of a table that leaves the least room.
CROWDED = Keyspace("n" * 40, PERSON._replace(table="t" * 80))

NOON = datetime.datetime(2026, 11, 23, 12)


class Loud(enum.IntEnum):
    ONE = 1


class Word(enum.StrEnum):
    ONE = "1"


GOLDEN: dict[str, tuple[tuple[Any, ...], str]] = {
    "a plain string": (("ada",), "pr:person_repo:person:afzhezzo4bevgjn4sada"),
    "no string at all": (("",), "pr:person_repo:person:afzhezzo4bevgjn4s"),
    "letters beyond ASCII": (("Köln",), "pr:person_repo:person:afzhezzo4bevgjn4sK%C3%B6ln"),
    "an emoji": (("😀",), "pr:person_repo:person:afzhezzo4bevgjn4s%F0%9F%98%80"),
    "a zero byte": (("a\x00b",), "pr:person_repo:person:afzhezzo4bevgjn4sa%00b"),
    "a newline and a blank": (("a\n b",), "pr:person_repo:person:afzhezzo4bevgjn4sa%0A%20b"),
    "separators": (("a:b,c%",), "pr:person_repo:person:afzhezzo4bevgjn4sa%3Ab%2Cc%25"),
    "a slash": (("a/b",), "pr:person_repo:person:afzhezzo4bevgjn4sa%2Fb"),
    "unreserved marks": (("A-z_0.~",), "pr:person_repo:person:afzhezzo4bevgjn4sA-z_0.~"),
    "an integer": ((1,), "pr:person_repo:person:afzhezzo4bevgjn4i1"),
    "a negative integer": ((-(2**63),), "pr:person_repo:person:afzhezzo4bevgjn4i-9223372036854775808"),
    "a truth value": ((True,), "pr:person_repo:person:afzhezzo4bevgjn4o1"),
    "bytes": ((b"\x00\xff",), "pr:person_repo:person:afzhezzo4bevgjn4b00ff"),
    "a UUID": (
        (uuid.UUID("12345678-1234-5678-1234-567812345678"),),
        "pr:person_repo:person:afzhezzo4bevgjn4u12345678123456781234567812345678",
    ),
    "a decimal": ((decimal.Decimal("1.500"),), "pr:person_repo:person:afzhezzo4bevgjn4n1.5"),
    "a round decimal": ((decimal.Decimal("1000"),), "pr:person_repo:person:afzhezzo4bevgjn4n1E+3"),
    "a moment": ((NOON,), "pr:person_repo:person:afzhezzo4bevgjn4t2026-11-23T12%3A00%3A00"),
    "an instant": ((NOON.replace(tzinfo=datetime.UTC),), "pr:person_repo:person:afzhezzo4bevgjn4z1795435200000000"),
    "a day": ((NOON.date(),), "pr:person_repo:person:afzhezzo4bevgjn4d2026-11-23"),
    "a member of an enumeration": ((Size.LARGE,), "pr:person_repo:person:afzhezzo4bevgjn4eLARGE"),
    "several columns": (("Köln", 7), "pr:person_repo:person:afzhezzo4bevgjn4sK%C3%B6ln,i7"),
}


BY_ID = Keyspace("person_repo", PERSON, longest=40)
ids = st.deferred(lambda: identities).map(lambda identity: identity[0]) | st.from_regex(
    r"[A-Za-z0-9_.~-]{0,41}", fullmatch=True
)


@given(id=ids)
@profile(max_examples=300)
def test_a_plain_id_has_the_key_of_its_identity_and_every_other_has_none(id: Any) -> None:
    plain = type(id) is str and 0 < len(id) <= 40 and quote(id, safe="", errors="surrogatepass") == id

    key = BY_ID.plain_key_of(id)

    assert (key is not None) == plain
    assert key is None or (key, key) == BY_ID.key_of((id,))


@given(many=st.lists(ids, min_size=1))
@profile(max_examples=200)
def test_ids_at_once_have_the_keys_of_each(many: list[Any]) -> None:
    each = [BY_ID.plain_key_of(id) for id in many]

    assert BY_ID.plain_keys_of(many) == (None if None in each else dict(zip(many, each, strict=True)))
    pairs = [BY_ID.key_of((id,)) for id in many]
    assert BY_ID.keys_of([(id,) for id in many]) == tuple(map(list, zip(*pairs, strict=True)))


def test_no_id_is_plain_if_every_string_needs_a_check() -> None:
    assert PEOPLE.plain_key_of("ada") is None
    assert PEOPLE.plain_keys_of(["ada"]) is None
    assert Keyspace("person_repo", PERSON, longest=1000).plain_key_of("a" * 101) is None


@pytest.mark.parametrize("case", GOLDEN)
def test_keys_never_change(case: str) -> None:
    """Programs of two versions write one table for a while; each must invalidate what the other cached."""
    identity, key = GOLDEN[case]

    assert PEOPLE.key_of(identity) == (key, key)


def test_the_key_of_a_long_id_never_changes() -> None:
    key, full = PEOPLE.key_of(("x" * 300,))

    assert full == "pr:person_repo:person:afzhezzo4bevgjn4s" + "x" * 300
    assert key == "pr:person_repo:person:afzhezzo4bevgjn4hdc5e0955b81e7c6e7c656ca0a424b81a4e79585c"


def test_the_name_of_a_group_never_changes() -> None:
    assert PEOPLE.group == group_name("person_repo", "person") == group_name("person_repo", "PERSON")
    assert PEOPLE.group == "pr:person_repo:person"
    assert group_name("crm", "Größe") == "pr:crm:gr%C3%B6%C3%9Fe"
    assert group_name("crm", "T" * 80) == "pr:crm:%hb098714165b9c22e18d6c8c66bc779f8"


def test_the_text_of_a_location_never_changes() -> None:
    odd = Location("a/b", ("public", "Größe,1"), "Größe", ("id", "no,"), "str manager")

    assert PEOPLE.location == "0123456789abcdef0123456789abcdef%3Ashop/public/person/id/"
    assert odd.text == "a%2Fb/public,Gr%C3%B6%C3%9Fe%2C1/Gr%C3%B6%C3%9Fe/id,no%2C/str%20manager"
    assert Keyspace("crm", odd).key_of((1,))[0] == "pr:crm:gr%C3%B6%C3%9Fe:bq7elss3c2tz6ebpi1"


texts = st.text(st.characters(exclude_categories=()), max_size=60)
integers = st.integers() | st.integers(-3, 3)
decimals = st.decimals(allow_nan=False, allow_infinity=False)
moments = st.datetimes(timezones=st.none() | st.just(datetime.UTC) | st.just(ZoneInfo("Europe/Berlin")))
parts = st.one_of(
    texts, integers, st.booleans(), st.binary(max_size=60), st.uuids(), decimals, moments, st.dates(),
    st.sampled_from([*Size, *Loud, *Word]),
)  # fmt: skip
identities = st.lists(parts, min_size=1, max_size=3).map(tuple)


@given(identity=identities)
@example(identity=("",))
@example(identity=("\ud800",))
@example(identity=("😀" * 100,))
@example(identity=("a\x00\x7f\r\n\t \u2028",))
@example(identity=(10**6000,))
@example(identity=(decimal.Decimal("1E+999999"),))
@example(identity=(decimal.Decimal("sNaN"),))
@example(identity=(datetime.datetime.min.replace(tzinfo=ZoneInfo("Asia/Tokyo")),))
@profile(max_examples=300)
def test_every_server_takes_every_key(identity: tuple[Any, ...]) -> None:
    for keys in (PEOPLE, CROWDED):
        key, _ = keys.key_of(identity)
        assert 0 < len(key.encode("ascii")) <= LONGEST_KEY < 250
        assert all(0x21 <= ord(letter) <= 0x7E for letter in key)
        assert key.startswith(f"{keys.group}:")


@pytest.mark.parametrize("length", range(1, 120))
def test_the_longest_names_leave_room_for_every_id(length: int) -> None:
    key, full = CROWDED.key_of(("x" * length,))

    assert len(key) <= LONGEST_KEY
    assert (key == full) is (len(full) <= LONGEST_KEY)


def one(value: Any) -> Any:
    """A value as a database compares it: of one type, and equal. A column has one enumeration, stored by name."""
    if isinstance(value, enum.Enum):
        return enum.Enum, value.name
    if isinstance(value, datetime.datetime) and value.tzinfo is not None:
        # Python finds an instant in the hour that a time zone repeats unequal to itself in UTC.
        return datetime.tzinfo, value - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    return type(value), value


@given(left=identities, right=identities)
@example(left=(1,), right=("1",))
@example(left=(1,), right=(True,))
@example(left=(1,), right=(Loud.ONE,))
@example(left=("1",), right=(Word.ONE,))
@example(left=(1,), right=(decimal.Decimal(1),))
@example(left=("61",), right=(b"a",))
@example(left=("a", "b"), right=("a,b",))
@example(left=("a", "b"), right=("a,sb",))
@example(left=("a,", "b"), right=("a", ",b"))
@example(left=("a", ""), right=("a",))
@example(left=("%2C",), right=(",",))
@example(left=(NOON,), right=(NOON.date(),))
@example(left=(NOON,), right=(NOON.isoformat(),))
@example(left=(NOON,), right=(NOON.replace(tzinfo=datetime.UTC),))
@example(left=(decimal.Decimal("1." + "0" * 60 + "1"),), right=(decimal.Decimal("1." + "0" * 60 + "2"),))
@example(left=("é",), right=("e\u0301",))
@example(left=("x" * 300,), right=("x" * 299 + "y",))
@profile(max_examples=300)
def test_distinct_identities_have_distinct_keys(left: tuple[Any, ...], right: tuple[Any, ...]) -> None:
    assume(list(map(one, left)) != list(map(one, right)))
    (left_key, left_full), (right_key, right_full) = PEOPLE.key_of(left), PEOPLE.key_of(right)

    assert left_full != right_full
    assert left_key != right_key


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (decimal.Decimal("1.0"), decimal.Decimal("1.00")),
        (decimal.Decimal("1E+2"), decimal.Decimal("100")),
        (decimal.Decimal("0"), decimal.Decimal("-0.00")),
        (decimal.Decimal("1" * 60), decimal.Decimal("1" * 60 + ".0")),
        (NOON.replace(tzinfo=datetime.UTC), NOON.replace(hour=13, tzinfo=ZoneInfo("Europe/Paris"))),
        (NOON, NOON.replace(fold=1)),
    ],
)
def test_values_that_a_database_takes_for_one_have_one_key(left: Any, right: Any) -> None:
    """A write of the row in one spelling invalidates reads of the other."""
    assert left == right
    assert PEOPLE.key_of((left,)) == PEOPLE.key_of((right,))


def test_decimals_have_keys_of_their_own_in_every_context() -> None:
    with decimal.localcontext(prec=3):
        assert PEOPLE.key_of((decimal.Decimal("123.4567"),)) != PEOPLE.key_of((decimal.Decimal("123.4568"),))


@pytest.mark.parametrize("identity", [("x" * 300,), ("😀" * 100,), ("a" * 120, "b" * 120), (b"x" * 200,)])
def test_a_long_identity_is_a_digest_on_the_wire_and_has_a_full_key(identity: tuple[Any, ...]) -> None:
    key, full = PEOPLE.key_of(identity)

    assert len(full) > LONGEST_KEY
    assert key != full
    assert key.startswith("pr:person_repo:person:afzhezzo4bevgjn4h")


def test_a_string_that_looks_like_a_digest_is_no_digest() -> None:
    digest = PEOPLE.key_of(("x" * 300,))[0].removeprefix("pr:person_repo:person:afzhezzo4bevgjn4")

    assert PEOPLE.key_of((digest,))[0] != PEOPLE.key_of(("x" * 300,))[0]


def test_a_subclass_of_a_string_has_the_key_of_its_text() -> None:
    class Text(str):
        pass

    for text in ("ada", "x" * 100, "x" * 300):
        assert CROWDED.key_of((Text(text),)) == CROWDED.key_of((text,))


names = st.text("ab/,:% ", max_size=3)
several = st.lists(names, min_size=1, max_size=3).map(tuple)
locations = st.builds(Location, names, several, names, several, names)


@given(one=locations, other=locations, id=st.text("a:s/", max_size=4))
@example(one=Location("a", ("b", "c"), "t", ("id",)), other=Location("a", ("b,c",), "t", ("id",)), id="x")
@example(one=Location("a/b", ("c",), "t", ("id",)), other=Location("a", ("b/c",), "t", ("id",)), id="x")
@example(one=Location("a", ("c",), "t", ("id",)), other=Location("a", ("c",), "t", ("email",)), id="x")
@profile(max_examples=300)
def test_locations_share_no_text_and_no_key_but_for_the_classes_of_a_hierarchy(
    one: Location, other: Location, id: str
) -> None:
    assume(one != other)
    mine, theirs = Keyspace("crm", one), Keyspace("crm", other)

    assert mine.location != theirs.location
    # Of one row the classes of a hierarchy share the key.
    same_rows = one._replace(variant="") == other._replace(variant="")
    assert (mine.key_of((id,)) == theirs.key_of((id,))) is same_rows


def test_namespaces_share_no_key() -> None:
    assert Keyspace("a", PERSON).key_of(("x",)) != Keyspace("b", PERSON).key_of(("x",))


@given(table=texts)
@profile(max_examples=100)
def test_every_server_takes_the_name_of_every_group(table: str) -> None:
    group = group_name("n" * 40, table)

    assert len(group.encode("ascii")) <= LONGEST_KEY
    assert all(0x21 <= ord(letter) <= 0x7E for letter in group)


@pytest.mark.parametrize("value", [None, 1.0, ("a",), datetime.time(12), object(), [1]])
def test_a_value_of_no_key_type_is_refused(value: Any) -> None:
    with pytest.raises(InvalidIdError, match="cannot be part of a cache key") as caught:
        PEOPLE.key_of((value,))
    assert f"the type {type(value).__name__}" in str(caught.value)
