"""From an entity's row to bytes that name their location and their columns, and back. Pure; bytes are untrusted.

The format (msgpack, fixed by a golden test)::

    [header: str, key: str, state: [column, ...] | nil]

``header`` is the location of the rows in full (``keys.Location``), and a fingerprint of the mapped columns and of this
format; ``key`` the cache key, in full; ``state`` the columns in the mapper's order, nil for an entity that is known not
to exist. With a secret, every item is sealed (``sealing``), and bytes that are not sealed are no item.
"""

from __future__ import annotations

import datetime
import enum
import typing
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, Generic, TypeVar

import msgspec

from person_repo.exceptions import RejectedItemError, UncacheableError
from person_repo.interruptions import is_repeated
from person_repo.mapped.mapping import EntityMapping, Row
from person_repo.mapped.sealing import Seal

__all__ = ["FORMAT", "Codec", "RejectedItemError", "UncacheableError"]

E = TypeVar("E")

FORMAT = 2
"""The version of the layout above; part of each item's fingerprint."""

# Two values of one of these types that are equal are the same, all the way down.
_PLAIN = frozenset({str, int, bool, bytes, type(None)})


class Codec(Generic[E]):
    """Encodes and decodes the rows of one mapped class at one location (``Keyspace.location``). ``seal`` seals and
    opens every item, if there is one.
    """

    __slots__ = ("_as_is", "_conversions", "_decode", "_encode", "_mapping", "_seal", "header")

    def __init__(self, mapping: EntityMapping[E], location: str, seal: Seal | None = None) -> None:
        wires = tuple(field.wire | None for field in mapping.fields)
        self.header = f"{location}#{_fingerprint(mapping)}"
        self._mapping = mapping
        self._seal = seal
        item: Any = tuple[str, str, tuple[wires] | None]  # type: ignore[valid-type]
        self._decode = msgspec.msgpack.Decoder(item, ext_hook=_refused).decode
        self._encode = msgspec.msgpack.Encoder().encode
        self._conversions = [
            (index, field.encode, field.decode)
            for index, field in enumerate(mapping.fields)
            if field.encode is not None and field.decode is not None
        ]
        # Rows travel unchanged, and each is of this one class.
        self._as_is = not self._conversions and not mapping.inherits

    def encode(self, key: str, row: Row | None) -> bytes:
        """The bytes of a row, or of a known absence (None).

        Raises ``UncacheableError`` if decoding them would give anything but an equal row of equal types: an integer
        beyond 64 bits, NaN, a tuple inside JSON, a time in a zone other than UTC, an object of a ``TypeDecorator``
        whose class defines no equality.
        """
        try:
            encoded = self._encode((self.header, key, None if row is None else self._to_wire(row)))
            if self._seal is not None:
                encoded = self._seal.seal(encoded, key)
            changed = self._changed(row, self.decode(encoded, key))
        except Exception as exc:  # a host's TypeDecorator may raise anything, and the read must not fail for it
            if not is_repeated(exc, lambda: self._try_encoding(key, row)):
                raise
            raise UncacheableError(f"{key}: {exc}") from exc
        if changed is not None:
            raise UncacheableError(f"{key}: {changed} would not come back from the cache as it is")
        return encoded

    def _try_encoding(self, key: str, row: Row | None) -> None:
        """Raises what ``encode`` met."""
        encoded = self._encode((self.header, key, None if row is None else self._to_wire(row)))
        self._changed(row, self.decode(encoded if self._seal is None else self._seal.seal(encoded, key), key))

    def decode(self, item: bytes, key: str) -> Row | None:
        """The row of an item, or None for a known absence.

        Raises ``RejectedItemError`` for anything but an item of this key, location and columns, hostile bytes included.
        """
        try:
            header, named, row = self._decode(item if self._seal is None else self._seal.open(item, key))
            if named == key and header == self.header:
                return row if row is None or self._as_is else self._from_wire(row)
        except Exception as exc:  # hostile bytes provoke many errors (depth, range, encoding, names): one outcome
            if not is_repeated(exc, lambda: self._try_decoding(item, key)):
                raise
            raise RejectedItemError(f"{key}: {exc}") from exc
        raise RejectedItemError(f"{key}: the item is of key {named!r:.120} and of {header!r:.400}")

    def _try_decoding(self, item: bytes, key: str) -> None:
        """Raises what ``decode`` met, apart from another key or schema."""
        _, _, row = self._decode(item if self._seal is None else self._seal.open(item, key))
        if row is not None and not self._as_is:
            self._from_wire(row)

    def decode_all(self, items: Sequence[bytes], keys: Sequence[str]) -> list[Row | None] | None:
        """``decode`` each item, by a fast path without a call for each if rows travel unchanged and unsealed.

        None if one is rejected: ``decode`` each to find out which, and why.
        """
        decode, own_header = self._decode, self.header
        rows: list[Row | None] = []
        try:
            if self._seal is not None or not self._as_is:
                return [self.decode(item, key) for item, key in zip(items, keys, strict=True)]
            for item, key in zip(items, keys, strict=True):
                header, named, row = decode(item)
                if named != key or header != own_header:
                    return None
                rows.append(row)
        except RejectedItemError:
            return None
        except Exception as exc:  # as in ``decode``
            if not is_repeated(exc, lambda: [*map(self._try_decoding, items, keys)]):
                raise
            return None
        return rows

    def _changed(self, row: Row | None, decoded: Row | None) -> str | None:
        """The name of the first column that would come back as something else."""
        if row is None or decoded is None:
            return None
        kinds = [*map(type, row)]
        # Fast path for most rows; ``_same`` would say the same of each value.
        if row == decoded and kinds == [*map(type, decoded)] and _PLAIN.issuperset(kinds):
            return None
        columns = zip(self._mapping.fields, row, decoded, strict=True)
        return next((field.name for field, value, back in columns if not _same(value, back)), None)

    def _to_wire(self, row: Row) -> Row:
        values = list(row)
        for index, encode, _ in self._conversions:
            values[index] = encode(values[index])
        return tuple(values)

    def _from_wire(self, row: Row) -> Row:
        values = list(row)
        for index, _, decode in self._conversions:
            values[index] = decode(values[index])
        if not self._mapping.has_class(values):
            raise ValueError("the item's discriminator is that of no class")
        return tuple(values)


def _refused(code: int, _: memoryview) -> Any:
    # Inside JSON any value of msgpack's is taken; an extension would reach the caller as an object of msgspec's.
    raise ValueError(f"a msgpack extension of the code {code}")


def _fingerprint(mapping: EntityMapping[Any]) -> str:
    """64 bits over the format and each column's attribute, name and types; equal in every process.

    Both types count: a column of words that becomes an enumeration is a string on the wire as before, of names.
    """
    columns = [
        (field.name, field.column.name, _type_name(field.wire), _type_name(field.python_type))
        for field in mapping.fields
    ]
    return blake2b(repr((FORMAT, columns)).encode(), digest_size=8).hexdigest()


def _type_name(type_: Any) -> str:
    # Not the enumeration's own name: a class that is renamed holds the same members.
    if isinstance(type_, type) and issubclass(type_, enum.Enum):
        return "Enum"
    # Of ``list[str]`` its name says nothing of the strings.
    return str(type_) if typing.get_args(type_) else str(type_.__name__)


def _same(one: Any, other: Any) -> bool:
    """True if two values are equal and of one type, all the way down: ``1 == True == 1.0`` are three values here.

    Noon in UTC and one o'clock in Paris are two, and so are the two turns of an hour that a time zone repeats.
    """
    if type(one) is not type(other):
        return False
    if isinstance(one, (tuple, list)):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(value, other[name]) for name, value in one.items())
    if isinstance(one, (datetime.datetime, datetime.time)):
        return bool(one == other and one.tzinfo == other.tzinfo and one.fold == other.fold)
    return bool(one == other)
