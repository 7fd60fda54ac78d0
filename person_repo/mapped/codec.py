"""From an entity's row to bytes that name their key and their schema, and back. Pure; bytes are untrusted.

The format (msgpack, fixed by a golden test)::

    [schema: int, key: str, state: [column, ...] | nil]

``schema`` is a fingerprint of the mapped columns and of this format, ``key`` the full cache key, ``state`` the columns
in the mapper's order, nil for an entity that is known not to exist. Where there is a secret, an item is sealed
(``sealing``), and one that is not is no item.
"""

from __future__ import annotations

import datetime
import enum
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, Generic, TypeVar

import msgspec

from person_repo.exceptions import RejectedItemError, UncacheableError
from person_repo.mapped.mapping import EntityMapping, Row
from person_repo.mapped.sealing import Seal

__all__ = ["FORMAT", "Codec", "RejectedItemError", "UncacheableError"]

E = TypeVar("E")

FORMAT = 1
"""The version of the layout above; part of each item's fingerprint."""


_PLAIN = frozenset({str, int, bool, bytes, type(None)})
"""The types whose values are the same where they are equal."""


class Codec(Generic[E]):
    """Encodes and decodes the rows of one mapped class; ``seal``: with what every item is sealed, if at all."""

    __slots__ = ("_as_it_is", "_conversions", "_decode", "_encode", "_mapping", "_names", "_seal", "schema")

    def __init__(self, mapping: EntityMapping[E], seal: Seal | None = None) -> None:
        wires = tuple(field.wire | None for field in mapping.fields)
        self.schema = _fingerprint(mapping)
        self._mapping = mapping
        self._names = mapping.names
        self._seal = seal
        item: Any = tuple[int, str, tuple[wires] | None]  # type: ignore[valid-type]
        self._decode = msgspec.msgpack.Decoder(item, ext_hook=_refused).decode
        self._encode = msgspec.msgpack.Encoder().encode
        self._conversions = [
            (at, field.encode, field.decode)
            for at, field in enumerate(mapping.fields)
            if field.encode is not None and field.decode is not None
        ]
        self._as_it_is = not self._conversions and not mapping.inherits

    def encode(self, key: str, row: Row | None) -> bytes:
        """The bytes of a row, or of a known absence (None).

        Raises ``UncacheableError`` where decoding them would give anything but an equal row of equal types: an
        integer beyond 64 bits, NaN, a tuple inside JSON, a time in a zone other than UTC, an object of a
        ``TypeDecorator`` whose class defines no equality.
        """
        try:
            encoded = self._encode((self.schema, key, None if row is None else self._to_wire(row)))
            if self._seal is not None:
                encoded = self._seal.seal(encoded, key)
            changed = self._changed(row, self.decode(encoded, key))
        except Exception as exc:  # a host's TypeDecorator may raise anything; the read it serves must not fail for it
            raise UncacheableError(f"{key}: {exc}") from exc
        if changed is not None:
            raise UncacheableError(f"{key}: {changed} would not come back from the cache as it is")
        return encoded

    def decode(self, item: bytes, key: str) -> Row | None:
        """The row of an item, or None for a known absence.

        Raises ``RejectedItemError`` for anything that is not an item of this key and schema, hostile bytes included.
        """
        try:
            schema, named, row = self._decode(item if self._seal is None else self._seal.open(item, key))
            if schema == self.schema and named == key:
                return row if row is None or self._as_it_is else self._from_wire(row)
        except Exception as exc:  # whatever hostile bytes provoke (depth, range, encoding, names) is one outcome
            raise RejectedItemError(f"{key}: {exc}") from exc
        raise RejectedItemError(f"{key}: the item is of key {named!r:.120} and schema {schema:x}")

    def decode_all(self, items: Sequence[bytes], keys: Sequence[str]) -> list[Row | None] | None:
        """``decode`` for each item, without a call for each where rows travel as they are; None where one is rejected:
        ``decode`` tells which, and why.
        """
        decode, here = self._decode, self.schema
        rows: list[Row | None] = []
        try:
            if self._seal is not None or not self._as_it_is:
                return [self.decode(item, key) for item, key in zip(items, keys, strict=True)]
            for item, key in zip(items, keys, strict=True):
                schema, named, row = decode(item)
                if named != key or schema != here:
                    return None
                rows.append(row)
        except Exception:  # as in ``decode``
            return None
        return rows

    def _changed(self, row: Row | None, decoded: Row | None) -> str | None:
        """The first column that would come back as something else."""
        if row is None or decoded is None:
            return None
        kinds = [*map(type, row)]
        if row == decoded and kinds == [*map(type, decoded)] and _PLAIN.issuperset(kinds):
            return None
        pairs = zip(self._names, row, decoded, strict=True)
        return next((name for name, value, back in pairs if not _same(value, back)), None)

    def _to_wire(self, row: Row) -> Row:
        values = list(row)
        for at, encode, _ in self._conversions:
            values[at] = encode(values[at])
        return tuple(values)

    def _from_wire(self, row: Row) -> Row:
        values = list(row)
        for at, _, decode in self._conversions:
            values[at] = decode(values[at])
        if not self._mapping.has_class(values):
            raise ValueError("the item's discriminator is that of no class")
        return tuple(values)


def _refused(code: int, _: memoryview) -> Any:
    # Inside JSON any value of msgpack's is taken; what JSON has no like of would reach the caller as msgspec's object.
    raise ValueError(f"a msgpack extension of the code {code}")


def _fingerprint(mapping: EntityMapping[Any]) -> int:
    """63 bits over the format, the table and each column's attribute, name and types; equal in every process.

    Both types count: a column of words that becomes an enumeration is a string on the wire as before, of names.
    """
    columns = [
        (field.name, field.column.name, _type_name(field.wire), _type_name(field.python_type))
        for field in mapping.fields
    ]
    text = repr((FORMAT, mapping.table.fullname, columns))
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest()) >> 1


def _type_name(type_: Any) -> str:
    # Not the enumeration's own name: a class that is renamed holds the same members.
    return "Enum" if isinstance(type_, type) and issubclass(type_, enum.Enum) else str(type_.__name__)


def _same(one: Any, other: Any) -> bool:
    """Equal in value and in type, all the way down: ``1 == True == 1.0`` are three values here.

    So are noon in UTC and one o'clock in Paris, and the two turns of an hour that a time zone repeats.
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
