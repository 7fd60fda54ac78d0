"""Column types that only PostgreSQL has: cached as the database returns them, found, and written."""

from __future__ import annotations

import datetime
import decimal
import enum
import uuid
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import ARRAY, Range
from sqlalchemy.dialects.postgresql.ranges import MultiRange
from sqlalchemy.ext.mutable import MutableList
from support.urls import MEMORY

from person_repo.database.engines import read_engine_of
from person_repo.database.repository import SQLAlchemyRepository
from person_repo.exceptions import ConfigurationError, InvalidEntityError
from person_repo.service import Service

pytestmark = [
    pytest.mark.parametrize("database_url", ["postgresql"], indirect=True),
    # SQLAlchemy 2.1 warns of its own types.
    pytest.mark.filterwarnings("ignore:Type object .* does not refer to an OperatorClass"),
]


class Size(enum.Enum):
    SMALL = "s"
    LARGE = "l"


class Tags(sa.types.TypeDecorator[tuple[str, ...]]):
    """A tuple of words in the place of an array."""

    impl = ARRAY(sa.String(20))
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> Any:
        return None if value is None else list(value)

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> Any:
        return None if value is None else tuple(value)


def day(number: int) -> datetime.date:
    return datetime.date(2026, 3, number)


def noon(number: int, zone: datetime.tzinfo | None = None) -> datetime.datetime:
    return datetime.datetime(2026, 3, number, 12, 0, 0, 5, zone)


UTC = ZoneInfo("UTC")
BITS: Any = getattr(postgresql, "BitString", str)

# By name: the type, and values, the first of which is not equal to any other; empty ones and extremes.
CASES: dict[str, tuple[Any, list[Any]]] = {
    "integers": (ARRAY(sa.Integer), [[1, 2, None], [], [None], [[1, 2], [3, 4]], [[[1], [2]], [[3], [None]]]]),
    "integers of two dimensions": (ARRAY(sa.BigInteger, dimensions=2), [[[1, 2], [3, -(2**63)]], []]),
    "a tuple of integers": (ARRAY(sa.Integer, as_tuple=True), [(1, 2), (), ((1, 2), (3, None))]),
    "the generic array": (sa.ARRAY(sa.Text), [["a", "ü😀", "NULL", "", None, "a,b", '"', "\\"], []]),
    "truth values": (ARRAY(sa.Boolean), [[True, False, None], []]),
    "numbers": (ARRAY(sa.Numeric(12, 4)), [[decimal.Decimal("1.5000"), None], [decimal.Decimal("-7.0000")]]),
    "floats": (ARRAY(sa.Double), [[0.1, -0.0, 1e300], []]),
    "bytes": (ARRAY(sa.LargeBinary), [[b"\x00\xff", b"", None], []]),
    "days": (ARRAY(sa.Date), [[day(1), None], [day(2)]]),
    "moments": (ARRAY(sa.DateTime), [[noon(1), None], [[noon(2)], [noon(3)]]]),
    "instants": (ARRAY(sa.DateTime(timezone=True)), [[noon(1, UTC), None], [[noon(2, UTC)], [noon(3, UTC)]]]),
    "times": (ARRAY(sa.Time), [[datetime.time(23, 59, 59, 999999), None], []]),
    "intervals": (ARRAY(sa.Interval), [[datetime.timedelta(-3, 5, 7), None], []]),
    "tokens": (ARRAY(sa.Uuid), [[uuid.UUID(int=7), None], []]),
    "members": (ARRAY(sa.Enum(Size, name="size")), [[Size.LARGE, Size.SMALL], []]),
    "words": (ARRAY(sa.Enum("red", "green", name="colour")), [["red", "green"], []]),
    "documents": (ARRAY(postgresql.JSONB), [[{"a": [1, None]}, [1], "x", 1.5], []]),
    "a tuple of documents": (ARRAY(postgresql.JSONB, as_tuple=True), [({"a": [1]}, [1, 2]), ()]),
    "a mutable list": (MutableList.as_mutable(ARRAY(sa.Integer)), [[1, 2], []]),
    "a decorated array": (Tags, [("a", "b"), ()]),
    "addresses": (ARRAY(postgresql.INET), [[IPv4Address("10.0.0.1"), IPv6Interface("::1/64"), None], []]),
    "ranges in an array": (ARRAY(postgresql.INT4RANGE), [[Range(1, 5), Range(empty=True), None], []]),
    "an address": (
        postgresql.INET,
        [IPv4Address("10.0.0.1"), IPv4Interface("10.0.0.1/24"), IPv6Address("::1"), IPv6Interface("2001:db8::1/64")],
    ),
    "a network": (postgresql.CIDR, [IPv4Network("10.0.0.0/8"), IPv6Network("::/0"), IPv4Network("10.0.0.1/32")]),
    "a card": (postgresql.MACADDR, ["08:00:2b:01:02:03", "00:00:00:00:00:00"]),
    "a long card": (postgresql.MACADDR8, ["08:00:2b:01:02:03:04:05", "ff:ff:ff:ff:ff:ff:ff:ff"]),
    "pairs": (postgresql.HSTORE, [{"a": "1", "ü": None, "": "", 'a"b': "=>"}, {}]),
    "small numbers": (
        postgresql.INT4RANGE,
        [Range(1, 5), Range(None, 5), Range(-5, None), Range(None, None, bounds="()"), Range(empty=True)],
    ),
    "large numbers": (postgresql.INT8RANGE, [Range(1, 2**40), Range(empty=True)]),
    "exact numbers": (
        postgresql.NUMRANGE,
        [Range(decimal.Decimal("1.50"), decimal.Decimal(5), bounds="[]"), Range(decimal.Decimal(0), None, bounds="()")],
    ),
    "a range of days": (postgresql.DATERANGE, [Range(day(1), day(5)), Range(None, day(1))]),
    "a range of moments": (postgresql.TSRANGE, [Range(noon(1), noon(5), bounds="(]"), Range(empty=True)]),
    "a range of instants": (
        postgresql.TSTZRANGE, [Range(noon(1, UTC), noon(5, UTC)), Range(None, noon(2, UTC), bounds="()")]),
    "several ranges": (
        postgresql.INT4MULTIRANGE,
        [MultiRange([Range(1, 5), Range(8, None)]), MultiRange([])],
    ),
    "several ranges of days": (postgresql.DATEMULTIRANGE, [MultiRange([Range(day(1), day(5))]), MultiRange([])]),
    "several ranges of instants": (
        postgresql.TSTZMULTIRANGE,
        [MultiRange([Range(noon(1, UTC), noon(2, UTC)), Range(noon(3, UTC), None)]), MultiRange([])],
    ),
    "bits": (postgresql.BIT(3), [BITS("101"), BITS("000")]),
    "varying bits": (postgresql.BIT(varying=True), [BITS("10101"), BITS("")]),
    "a document's words": (postgresql.TSVECTOR, ["'cat':2 'fat':1", ""]),
    "a question": (postgresql.TSQUERY, ["'cat' & 'dog'", ""]),
    "money": (postgresql.MONEY, ["$1,000.50", "$0.00"]),
    "an object": (postgresql.OID, [7, 2**32 - 1]),
    "a table": (postgresql.REGCLASS, ["pg_class", "pg_type"]),
    "a domain": (postgresql.DOMAIN("positive", sa.Integer, check=sa.text("VALUE > 0")), [7, 8]),
}  # fmt: skip


def entity_of(type_: Any, **options: Any) -> Any:
    """A mapped class with a column of this type."""

    class TypesBase(orm.DeclarativeBase):
        """Metadata of this class's own, so that its types are made with its table alone."""

    name = f"typed_{uuid.uuid4().hex}"
    columns = {"id": orm.mapped_column(sa.Integer, primary_key=True), "it": orm.mapped_column(type_)}
    return type(name, (TypesBase,), {"__tablename__": name, **(columns | options)})


@pytest.fixture
def service_of(engine: sa.Engine) -> Iterator[Callable[[Any], Service[Any]]]:
    services: list[Service[Any]] = []
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE EXTENSION IF NOT EXISTS hstore")
        connection.exec_driver_sql(f"ALTER DATABASE \"{engine.url.database}\" SET timezone = 'UTC'")
    engine.dispose()

    def service_of(type_: Any) -> Service[Any]:
        entity = entity_of(type_)
        entity.metadata.create_all(engine)
        services.append(Service.over(entity, engine, MEMORY))
        return services[-1]

    yield service_of
    for service in services:
        service.close()
    read_engine_of(engine).dispose()


def kinds(value: Any) -> Any:
    """The type of a value, and those of the values inside it."""
    if isinstance(value, Range):
        return (type(value), kinds(value.lower), kinds(value.upper), value.bounds, value.empty)
    if isinstance(value, (list, tuple)):
        return (type(value), *map(kinds, value))
    return (type(value), str(value.tzinfo)) if isinstance(value, datetime.datetime) else type(value)


def same_on_both_sides(service: Service[Any], id: int, value: Any) -> None:
    """It is that of the database, in a fill and in a hit, and of its type, all the way down."""
    hits = service.stats().hits
    for _ in range(2):
        stored, cached = service.database.get_one(id).it, service.cached.get_one(id).it
        assert stored == cached == value
        assert kinds(stored) == kinds(cached)
    assert service.stats().hits == hits + 1
    assert service.stats().rejected == service.stats().uncacheable == 0


@pytest.mark.parametrize("case", CASES)
def test_values_are_cached_found_and_written(service_of: Any, engine: sa.Engine, case: str) -> None:
    type_, values = CASES[case]
    service = service_of(type_)
    entity = service.database.mapping.entity
    first = values[0]
    for id, value in enumerate([*values, None]):
        service.add(entity(id=id, it=value))
        same_on_both_sides(service, id, value)
    found = service.get_many(range(len(values)))
    assert [found[id].it for id in range(len(values))] == values
    for id, value in enumerate([*values, None]):
        assert id in [one.id for one in service.find(it=value)]
    last = len(values)
    assert [one.id for one in service.find(it=None)] == [last]
    with orm.Session(engine) as session, session.begin():
        session.get_one(entity, last).it = first
    same_on_both_sides(service, last, first)
    assert service.update(0, it=values[-1]).it == values[-1]
    same_on_both_sides(service, 0, values[-1])
    service.database.add_rows(["id", "it"], [[(100, first), (101, None)]])
    same_on_both_sides(service, 100, first)


@pytest.mark.parametrize("case", CASES)
def test_a_key_of_such_a_type_is_refused(engine: sa.Engine, case: str) -> None:
    keyed = entity_of(sa.Integer, id=orm.mapped_column(CASES[case][0], primary_key=True))
    with pytest.raises(ConfigurationError, match=r"id is part of the primary key and has the type"):
        SQLAlchemyRepository(keyed, engine)


def test_addresses_are_strings_on_demand(engine: sa.Engine) -> None:
    own = sa.create_engine(engine.url, native_inet_types=False)
    entity = entity_of(postgresql.INET)
    entity.metadata.create_all(own)
    with Service.over(entity, own, MEMORY) as service:
        service.add(entity(id=1, it="10.0.0.1"))
        same_on_both_sides(service, 1, "10.0.0.1")
        assert type(service.get_one(1).it) is str
        assert [one.id for one in service.find(it="10.0.0.1")] == [1]
    read_engine_of(own).dispose()
    own.dispose()


def test_a_change_inside_a_value_is_not_seen_by_others(service_of: Any) -> None:
    service = service_of(ARRAY(sa.Integer))
    service.add(service.database.mapping.entity(id=1, it=[1]))
    for _ in range(3):
        found = service.get_one(1)
        assert found.it == [1]
        found.it.append(2)


REFUSED: dict[str, tuple[Any, Any, str]] = {
    "a word among numbers": (ARRAY(sa.Integer), [1, "x"], "holds 'x', which is str; the column takes int"),
    "a number": (ARRAY(sa.Integer), 1, "is int; the column takes list"),
    "a string": (ARRAY(sa.Text), "abc", "is str; the column takes list"),
    "a list of an interval": (postgresql.INT4RANGE, [1, 5], "is list; the column takes Range"),
    "a range of words": (postgresql.INT4RANGE, Range("a", "b"), "holds 'a', which is str; the column takes int"),
    "a range among numbers": (postgresql.INT4MULTIRANGE, [Range(1, 2), 5], "holds 5, which is int; .* takes Range"),
    "a pair of numbers": (postgresql.HSTORE, {"a": 1}, "holds 1, which is int; the column takes str"),
    "a number for an address": (postgresql.INET, 7, "is int; the column takes IPv4Address or"),
    "no address": (postgresql.INET, "nowhere", "was refused by the database"),
    "bytes": (postgresql.TSVECTOR, b"a", "is bytes; the column takes str"),
}  # fmt: skip

BEYOND: dict[str, tuple[Any, Any]] = {
    "a large number": (ARRAY(sa.Integer), [[1], [2**31]]),
    "a NUL": (ARRAY(sa.Text), ["a\0"]),
    "a NUL in a pair": (postgresql.HSTORE, {"a": "b\0"}),
    "a large bound": (postgresql.INT4RANGE, Range(1, 2**31)),
    "a large bound of several": (postgresql.INT8MULTIRANGE, [Range(1, 2**63)]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_value_of_another_kind_is_refused(service_of: Any, case: str) -> None:
    type_, value, reason = REFUSED[case]
    service = service_of(type_)
    with pytest.raises(InvalidEntityError, match=reason):
        service.add(service.database.mapping.entity(id=1, it=value))
    with pytest.raises(InvalidEntityError, match=reason):
        service.find(it=value)


@pytest.mark.parametrize("case", BEYOND)
def test_a_value_beyond_a_limit_is_refused_and_found_nowhere(service_of: Any, case: str) -> None:
    type_, value = BEYOND[case]
    service = service_of(type_)
    with pytest.raises(InvalidEntityError, match=r"holds .*, which (is beyond|has a NUL)"):
        service.add(service.database.mapping.entity(id=1, it=value))
    assert service.find(it=value) == []
