"""Ids and identities: each is refused, cannot exist, or has a key that every server takes and no other identity has."""

from __future__ import annotations

import contextlib
import datetime
import decimal
from collections.abc import Iterator
from typing import Any

from hostile.fuzz.witness import witness
from support.models import Parcel, Size

from person_repo.exceptions import InvalidIdError
from person_repo.mapped.keys import LONGEST_KEY, Keyspace, Location
from person_repo.mapped.mapping import EntityMapping, Identity
from person_repo.model import Person

__all__ = ["one_input", "seeds"]

_PERSON = Location("database", ("main",), "person", ("id",))
KEYSPACES = Keyspace("person_repo", _PERSON), Keyspace("n" * 40, _PERSON._replace(table="t" * 80))
MAPPINGS: list[EntityMapping[Any]] = [EntityMapping(Person), EntityMapping(Parcel)]
_EPOCH = datetime.datetime(1970, 1, 1)
_KINDS = 7


def seeds() -> Iterator[bytes]:
    """Pairs of values of each kind that look alike, with separators of keys and commands in them."""
    texts = ["", "a", "a,b", "a,sb", "a:b", "%2C", "é", "e\u0301", "\x00", "a\r\nmd b\r\n", "h" + "0" * 40, "x" * 300]
    for kind in range(_KINDS * _KINDS):
        for text in texts:
            raw = text.encode()
            yield bytes([kind, len(raw) % 256]) + raw + raw
            yield bytes([kind, len(raw) % 256]) + raw + b"b" + raw


def one_input(data: bytes) -> None:
    """Makes two identities of the input. Raises ``AssertionError`` if their keys are wrong."""
    kinds, cut = (data + b"\x00\x00")[:2]
    left = _value(kinds % _KINDS, data[2 : 2 + cut])
    right = _value(kinds // _KINDS % _KINDS, data[2 + cut :])
    for id in (left, right, (left, right), (left,)):
        for mapping in MAPPINGS:
            with contextlib.suppress(InvalidIdError):
                identity = mapping.identity(id)
                assert identity is None or _comparable(identity) == _comparable(id if isinstance(id, tuple) else (id,))
    for keys in KEYSPACES:
        _examine(keys, (left,), (right,))
        _examine(keys, (left, right), (right, left))


def _value(kind: int, raw: bytes) -> Any:
    if kind == 0:
        return raw.decode(errors="surrogateescape")
    if kind == 1:
        return raw.decode("utf-16-le", errors="surrogatepass") if len(raw) % 2 == 0 else raw.decode("latin-1")
    number = int.from_bytes(raw, signed=True)
    if kind == 2:
        return number
    if kind == 3:
        return raw
    if kind == 4:
        return decimal.Decimal(number % 10**40).scaleb(number % 97 - 48)
    if kind == 5:
        return _EPOCH + datetime.timedelta(microseconds=number % 10**17)
    return number % 2 == 0 if number % 3 else list(Size)[number % 2]


def _examine(keys: Keyspace, left: Identity, right: Identity) -> None:
    (left_key, left_full), (right_key, right_full) = keys.key_of(left), keys.key_of(right)
    witness(f"{left_key == left_full} {[type(part).__name__ for part in left]}")
    for key in (left_key, right_key):
        assert len(key.encode("ascii")) <= LONGEST_KEY, key
        assert all(0x21 <= ord(letter) <= 0x7E for letter in key), key
        assert key.startswith(f"{keys.group}:"), key
    same = _comparable(left) == _comparable(right)
    assert (left_full == right_full) is same, (left, right)
    assert (left_key == right_key) is same, (left, right)


def _comparable(identity: Identity) -> list[tuple[type, Any]]:
    """An identity as databases compare it: value and type."""
    return [(type(part), part) for part in identity]
