"""Bytes from a cache, decoded: the outcome of any bytes is a row of the right types or ``RejectedItemError``.

The first byte chooses the mapped class and what is done with the rest: decoded as it is; put behind the head of a good
item, so that the state is reached; or taken for damage to a good item.
"""

from __future__ import annotations

import datetime
import decimal
import pickle
import re
from collections.abc import Iterator
from typing import Any

import msgspec
import sqlalchemy as sa
from hostile.fuzz.witness import witness
from sqlalchemy import orm
from support.models import Parcel, Size, Tags, parcel

from person_repo.mapped.codec import Codec, RejectedItemError, UncacheableError
from person_repo.mapped.mapping import EntityMapping, Row
from person_repo.model import Person

__all__ = ["one_input", "seeds"]

KEY = "pr:person_repo:thing:sada"


class _Base(orm.DeclarativeBase):
    pass


class Kinds(_Base):
    """A column of each type that the other two classes have not, and rows of two classes."""

    __tablename__ = "kinds"
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "plain"}

    id = sa.Column(sa.BigInteger, primary_key=True)
    kind = sa.Column(sa.String(20))
    zoned = sa.Column(sa.DateTime(timezone=True))
    time = sa.Column(sa.Time)
    lasting = sa.Column(sa.Interval)
    word = sa.Column(sa.Enum("red", "green"))
    text_uuid = sa.Column(sa.Uuid(as_uuid=False))
    rounded = sa.Column(sa.Numeric(12, 4, asdecimal=False))
    tags = sa.Column(Tags)


class Special(Kinds):
    __mapper_args__ = {"polymorphic_identity": "special"}

    size = sa.Column(sa.Enum(Size))


NOON = datetime.datetime(2026, 11, 23, 12, tzinfo=datetime.UTC)
MAPPINGS: list[EntityMapping[Any]] = [EntityMapping(Person), EntityMapping(Parcel), EntityMapping(Kinds)]
CODECS = [Codec(mapping, "database/main/table/id/") for mapping in MAPPINGS]
ROWS: list[Row] = [
    ("ada", "Ada", "Lovelace", 1),
    tuple(MAPPINGS[1].values_of(parcel()).values()),
    (
        7, "special", NOON, datetime.time(12, 30), datetime.timedelta(days=-1, microseconds=5), "red",
        "00000000-0000-0000-0000-000000000007", 1.5, ("up", "fragile"), Size.LARGE,
    ),
]  # fmt: skip
ITEMS = [codec.encode(KEY, row) for codec, row in zip(CODECS, ROWS, strict=True)]
HEADS = [codec.encode(KEY, None)[:-1] for codec in CODECS]

_AS_IT_IS, _STATE, _DAMAGE, _WAYS = range(4)


def seeds() -> Iterator[bytes]:
    """Good items, bytes of other formats, and states that are nearly right, for each class and each way."""
    awkward = [
        b"", b"\xc0", b"\xc1", b"\x91" * 2000, b"\x81\xa0" * 1000, b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xffa", b"\xc6\xff\xff\xff\xff", b"\xc7\xff\x05", pickle.dumps(ROWS[0]),
        msgspec.msgpack.encode(decimal.Decimal("1E+999999")), msgspec.msgpack.encode(2**64 - 1),
    ]  # fmt: skip
    for index, (item, head) in enumerate(zip(ITEMS, HEADS, strict=True)):
        yield from (_chosen(index, _AS_IT_IS, each) for each in (item, head + b"\xc0", *ITEMS))
        yield from (_chosen(index, way, each) for way in (_AS_IT_IS, _STATE) for each in awkward)
        state = item[len(head) :]
        yield from (_chosen(index, _STATE, each) for each in (state, state[:-1], state + b"\xc0"))
        yield from (_chosen(index, _DAMAGE, bytes([0, len(head) + 1, cut, *b"\xff\x00"])) for cut in range(4))


def _chosen(mapping: int, way: int, rest: bytes) -> bytes:
    return bytes([mapping * _WAYS + way]) + rest


def one_input(data: bytes) -> None:
    """Decodes the item that the input makes. Raises ``AssertionError``, or any error that the codec lets through."""
    index, way = divmod((data[0] if data else 0) % (len(CODECS) * _WAYS), _WAYS)
    item = _item(index, way, data[1:])
    try:
        row = CODECS[index].decode(item, KEY)
    except RejectedItemError as refusal:
        witness(f"{index} {_kind(refusal.__cause__)}")
        return
    for column, value in enumerate(row or ()):
        witness(f"{index} {column} {type(value).__name__}")
    if row is not None:
        _examine(index, row)


def _item(index: int, way: int, rest: bytes) -> bytes:
    if way == _STATE:
        return HEADS[index] + rest
    if way == _DAMAGE and len(rest) > 3:
        place = int.from_bytes(rest[:2]) % len(ITEMS[index])
        return ITEMS[index][:place] + rest[3:] + ITEMS[index][place + rest[2] % 8 :]
    return rest


def _kind(cause: BaseException | None) -> str:
    """The kind of error and its column, without the parts that differ from input to input."""
    text = re.sub(r"\(byte \d+\)", "", str(cause)) if isinstance(cause, msgspec.MsgspecError) else ""
    return f"{type(cause).__name__} {text}"


def _examine(index: int, row: Row) -> None:
    """An accepted row has the width and the types of its class, becomes an object, and comes back as it is."""
    mapping, codec = MAPPINGS[index], CODECS[index]
    assert len(row) == len(mapping.fields), row
    for field, value in zip(mapping.fields, row, strict=True):
        assert value is None or isinstance(value, field.python_type), (field.name, value)
    mapping.hydrate(row)
    try:
        again = codec.encode(KEY, row)
    except UncacheableError:  # such as NaN, or a time in a zone of its own
        return
    assert repr(codec.decode(again, KEY)) == repr(row)
