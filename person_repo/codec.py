"""From an entity's row to bytes that name their key and their schema, and back. Pure; bytes are untrusted.

The format (msgpack, fixed by a golden test)::

    [schema: int, key: str, state: [column, ...] | nil]

``schema`` is a fingerprint of the mapped columns and of this format, ``key`` the full cache key, ``state`` the columns
in the mapper's order, nil for an entity that is known not to exist.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any, Generic, Optional, TypeVar

import msgspec

from person_repo.mapping import EntityMapping, Row

__all__ = ["FORMAT", "Codec", "RejectedItemError", "UncacheableError"]

E = TypeVar("E")

FORMAT = 1
"""The version of the layout above; part of each item's fingerprint."""


class RejectedItemError(ValueError):
    """Bytes from the cache are no item of this key and this schema."""


class UncacheableError(ValueError):
    """A row would not come back from the cache as it is."""


class Codec(Generic[E]):
    """Encodes and decodes the rows of one mapped class."""

    __slots__ = ("_conversions", "_decode", "_encode", "schema")

    def __init__(self, mapping: EntityMapping[E]) -> None:
        wires = tuple(Optional[field.wire] for field in mapping.fields)
        self.schema = _fingerprint(mapping)
        self._decode = msgspec.msgpack.Decoder(tuple[int, str, Optional[tuple[wires]]]).decode  # type: ignore[valid-type,misc]
        self._encode = msgspec.msgpack.Encoder().encode
        self._conversions = [
            (at, field.encode, field.decode)
            for at, field in enumerate(mapping.fields)
            if field.encode is not None and field.decode is not None
        ]

    def encode(self, key: str, row: Row | None) -> bytes:
        """The bytes of a row, or of a known absence (None).

        Raises ``UncacheableError`` where decoding them would give anything but an equal row of equal types: an
        integer beyond 64 bits, NaN, a tuple inside JSON.
        """
        try:
            encoded = self._encode((self.schema, key, None if row is None else self._to_wire(row)))
            decoded = self.decode(encoded, key)
        except Exception as exc:  # a host's TypeDecorator may raise anything; the read it serves must not fail for it
            raise UncacheableError(f"{key}: {exc}") from exc
        if not _same(row if row is None else tuple(row), decoded):
            raise UncacheableError(f"{key}: the state would not come back from the cache as it is")
        return encoded

    def decode(self, item: bytes, key: str) -> Row | None:
        """The row of an item, or None for a known absence.

        Raises ``RejectedItemError`` for anything that is not an item of this key and schema, hostile bytes included.
        """
        try:
            schema, named, row = self._decode(item)
            if schema == self.schema and named == key:
                return row if row is None or not self._conversions else self._from_wire(row)
        except Exception as exc:  # whatever hostile bytes provoke (depth, range, encoding, names) is one outcome
            raise RejectedItemError(f"{key}: {exc}") from exc
        raise RejectedItemError(f"{key}: the item is of key {named!r:.120} and schema {schema:x}")

    def _to_wire(self, row: Row) -> Row:
        values = list(row)
        for at, encode, _ in self._conversions:
            if values[at] is not None:
                values[at] = encode(values[at])
        return tuple(values)

    def _from_wire(self, row: Row) -> Row:
        values = list(row)
        for at, _, decode in self._conversions:
            if values[at] is not None:
                values[at] = decode(values[at])
        return tuple(values)


def _fingerprint(mapping: EntityMapping[Any]) -> int:
    """63 bits over the format, the table and each column's attribute, name and type on the wire; equal in every process."""
    columns = [(field.name, field.column.name, _type_name(field.wire)) for field in mapping.fields]
    text = repr((FORMAT, mapping.table.fullname, columns))
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest()) >> 1


def _type_name(wire: Any) -> str:
    return getattr(wire, "__name__", None) or str(wire)


def _same(one: Any, other: Any) -> bool:
    """Equal in value and in type, all the way down: ``1 == True == 1.0`` are three values here."""
    if type(one) is not type(other):
        return False
    if isinstance(one, (tuple, list)):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(value, other[name]) for name, value in one.items())
    return bool(one == other)
