"""Values that a host keeps in a dogpile region, as msgpack, and back with their types. Pure; bytes are untrusted.

Types that msgpack itself lacks travel as extensions: the code says the type, the body has the parts. No class is looked
up by a name from the bytes, as pickle does, so that the bytes run no code.
"""

from __future__ import annotations

import datetime
import decimal
import uuid
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgspec

from person_repo.messages import shown

__all__ = ["decode", "encode"]

_LEAST, _MOST = -(2**63), 2**64 - 1
_PLAIN: Final = frozenset({type(None), bool, float, str, bytes})

_CARRIED: Final = (
    "None, bool, int, float, str, bytes, list, tuple, dict, set, frozenset, datetime, date, time, timedelta, timezone, "
    "ZoneInfo, Decimal and UUID, but no subclasses"
)
_REMEDY: Final = (
    "store one of these, or give the region a serializer= and a deserializer= of your own, as make_region takes them "
    "(pickle's only if nobody else can write to the cache)"
)


class _Extension(NamedTuple):
    """A type as msgpack's extension: the parts of a value, and the value of its parts."""

    code: int
    parts: Callable[[Any], Any]
    whole: Callable[[Any], Any]


def _moment(value: datetime.datetime | datetime.time) -> list[Any]:
    return [value.replace(tzinfo=None).isoformat(), value.fold, value.tzinfo]


def _datetime(parts: list[Any]) -> datetime.datetime:
    text, fold, zone = parts
    return datetime.datetime.fromisoformat(text).replace(fold=fold, tzinfo=zone)


def _time(parts: list[Any]) -> datetime.time:
    text, fold, zone = parts
    return datetime.time.fromisoformat(text).replace(fold=fold, tzinfo=zone)


def _offset(value: datetime.timezone) -> list[Any]:
    offset, name = value.utcoffset(None), value.tzname(None)
    return [offset] if name == datetime.timezone(offset).tzname(None) else [offset, name]


def _zone(key: str) -> datetime.tzinfo:
    import zoneinfo  # Few hosts need it, and it takes as long as msgspec.

    return zoneinfo.ZoneInfo(key)


def _integer_bytes(value: int) -> bytes:
    return value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True)


_EXTENSIONS: Final[dict[type, _Extension]] = {
    tuple: _Extension(1, list, tuple),
    set: _Extension(2, list, set),
    frozenset: _Extension(3, list, frozenset),
    dict: _Extension(4, lambda value: [list(pair) for pair in value.items()], dict),
    int: _Extension(5, _integer_bytes, lambda body: int.from_bytes(body, "big", signed=True)),
    datetime.datetime: _Extension(6, _moment, _datetime),
    datetime.date: _Extension(7, datetime.date.isoformat, datetime.date.fromisoformat),
    datetime.time: _Extension(8, _moment, _time),
    datetime.timedelta: _Extension(
        9, lambda value: [value.days, value.seconds, value.microseconds], lambda parts: datetime.timedelta(*parts)
    ),
    datetime.timezone: _Extension(10, _offset, lambda parts: datetime.timezone(*parts)),
    decimal.Decimal: _Extension(11, str, decimal.Decimal),
    uuid.UUID: _Extension(12, lambda value: value.bytes, lambda body: uuid.UUID(bytes=body)),
}
_ZONE: Final = _Extension(13, lambda value: value.key, _zone)
_WHOLES: Final = {extension.code: extension.whole for extension in [*_EXTENSIONS.values(), _ZONE]}


def encode(value: object) -> bytes:
    """The bytes of a value, from which ``decode`` makes an equal one of the same type, all the way down.

    Raises TypeError for a value that is of another type than those listed in its message, or has such a part.
    """
    try:
        return _packed(value)
    except RecursionError as exc:
        raise TypeError(f"{type(value).__name__} is nested too deep for a cached value, or holds itself") from exc
    except UnicodeEncodeError as exc:
        raise TypeError(f"{shown(exc.object)} has half a surrogate pair, which no UTF-8 can carry; {_REMEDY}") from exc


def decode(value: bytes) -> Any:
    """The value of such bytes. Raises whatever bytes of another origin provoke."""
    return _decoder.decode(value)


def _packed(value: object) -> bytes:
    return msgspec.msgpack.encode(_portable(value))


def _portable(value: Any) -> Any:
    """The value as msgpack can carry it, in a container of the same kind or in extensions."""
    kind = type(value)
    if kind in _PLAIN or (kind is int and _LEAST <= value <= _MOST):
        return value
    if kind is list:
        return [item if type(item) in _PLAIN else _portable(item) for item in value]
    if kind is dict and all(type(key) in _PLAIN or (type(key) is int and _LEAST <= key <= _MOST) for key in value):
        return {key: item if type(item) in _PLAIN else _portable(item) for key, item in value.items()}
    extension = _EXTENSIONS.get(kind) or _zone_extension(value)
    if extension is None:
        raise TypeError(
            f"{shown(value)} is {kind.__module__}.{kind.__qualname__}, which would come back from the cache as another "
            f"type; carried are {_CARRIED}; {_REMEDY}"
        )
    return msgspec.msgpack.Ext(extension.code, _packed(extension.parts(value)))


def _zone_extension(value: object) -> _Extension | None:
    if not isinstance(value, datetime.tzinfo) or type(value).__module__ != "zoneinfo":
        return None
    import zoneinfo

    return _ZONE if type(value) is zoneinfo.ZoneInfo and value.key is not None else None


def _whole(code: int, body: memoryview) -> Any:
    return _WHOLES[code](_decoder.decode(body))


_decoder: Final = msgspec.msgpack.Decoder(ext_hook=_whole)
