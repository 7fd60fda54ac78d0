"""From a primary key to a cache key. Pure, and stable: all programs that write one table must build the same keys.

A key is ``namespace:table:identity``. The schema is not part of it: with a fingerprint in the key, new code would
fill keys that old code, still running, never invalidates. The item carries the fingerprint instead (``codec``).
"""

from __future__ import annotations

import datetime
import decimal
import enum
import re
import uuid
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any
from urllib.parse import quote

from person_repo.exceptions import InvalidIdError
from person_repo.mapped.identities import Identity, IdentityMapping
from person_repo.messages import shown

__all__ = ["LONGEST_KEY", "Keyspace"]

LONGEST_KEY = 230
"""Bytes of the longest key, all ASCII. memcached takes 250; the rest is for markers that backends append."""

# Beside the longest namespace (40) and the longest name of a table (80), an identity of this length still fits.
_LONGEST_PLAIN = 100
_plain = re.compile(r"[A-Za-z0-9_.~-]+").fullmatch

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)

# So wide that no digit is rounded away, whatever the context of the thread.
_EXACT = decimal.Context(prec=decimal.MAX_PREC, Emin=decimal.MIN_EMIN, Emax=decimal.MAX_EMAX, traps=[])


class Keyspace:
    """The cache keys of one table in one namespace.

    ``namespace``: as ``CacheSettings`` takes it, 1 to 40 of ``A-Z a-z 0-9 _ . -``. ``table``: any name, the schema
    included. ``longest``: the length up to which an ASCII string needs no further check as an id; -1 if every id does.
    ``group`` names the table as a whole, ``key_of`` an entity of it.
    """

    __slots__ = ("_longest", "_text", "group")

    def __init__(self, namespace: str, table: str, longest: int = -1) -> None:
        name = _quoted(table)
        if len(name) > 80:
            # "%h" cannot come from quoting: percent-escapes have upper-case hex digits.
            name = f"%h{blake2b(name.encode(), digest_size=16).hexdigest()}"
        self.group = f"pr:{namespace}:{name}"
        self._text = f"{self.group}:s"
        self._longest = min(longest, _LONGEST_PLAIN)

    @classmethod
    def of(cls, mapping: IdentityMapping[Any], namespace: str) -> Keyspace:
        """The keys of a class's rows."""
        return cls(namespace, mapping.cache_name, mapping.longest_plain_id)

    def plain_key_of(self, id: Any) -> str | None:
        """Fast path for most ids: the key, on the wire and in full, of a short string of unreserved characters.

        Such an id needs no other check. None for every other id: take its identity, and ``key_of`` that.
        """
        return self._text + id if type(id) is str and len(id) <= self._longest and _plain(id) else None

    def key_of(self, identity: Identity) -> tuple[str, str]:
        """The key on the wire and the full key that the item must name.

        The two differ if the full key is too long for a server: then the wire has a digest of it, and an item that
        names another full key is a miss.
        """
        if len(identity) == 1:
            value = identity[0]
            if type(value) is str and len(value) <= _LONGEST_PLAIN and _plain(value):
                key = self._text + value
                return key, key
        full_key = f"{self.group}:" + ",".join([_part(value) for value in identity])
        if len(full_key) <= LONGEST_KEY:
            return full_key, full_key
        return f"{self.group}:h{blake2b(full_key.encode(), digest_size=20).hexdigest()}", full_key

    def keys_of(self, identities: Sequence[Identity]) -> tuple[list[str], list[str]]:
        """The keys on the wire, and the full keys: ``key_of`` each identity."""
        pairs = [self.key_of(identity) for identity in identities]
        return [key for key, _ in pairs], [full_key for _, full_key in pairs]

    def plain_keys_of(self, ids: Sequence[Any]) -> dict[str, str] | None:
        """Fast path: ``plain_key_of`` each id, by id, without a call for each; None if one of them is not plain."""
        if {*map(type, ids)} != {str}:
            return None
        sizes = {*map(len, ids)}
        if min(sizes) == 0 or max(sizes) > self._longest or not _plain("".join(ids)):
            return None
        text = self._text
        return {id: text + id for id in ids}


def _part(value: Any) -> str:
    """A value as text that starts with a letter for its type, so that ``1`` and ``"1"`` are two keys.

    Values that are equal and of one type, so that a database takes one for the other, have one text: ``1.0`` and
    ``1.00``, noon in UTC and one o'clock in Paris.
    """
    if isinstance(value, enum.Enum):
        return f"e{_quoted(str(value.name))}"
    if isinstance(value, str):
        return f"s{_quoted(value)}"
    if isinstance(value, bool):
        return f"o{value:d}"
    if isinstance(value, int):
        return f"i{value:d}" if value.bit_length() <= 64 else f"x{value:x}"  # str() refuses to write a huge one
    if isinstance(value, bytes):
        return f"b{value.hex()}"
    if isinstance(value, uuid.UUID):
        return f"u{value.hex}"
    if isinstance(value, decimal.Decimal):
        return f"n{value.normalize(_EXACT) if value else 0}"
    if isinstance(value, datetime.datetime):
        if value.utcoffset() is None:
            return f"t{_quoted(value.isoformat())}"
        return f"z{(value - _EPOCH) // datetime.timedelta(microseconds=1)}"
    if isinstance(value, datetime.date):
        return f"d{value.isoformat()}"
    raise InvalidIdError(f"id {shown(value)} has the type {type(value).__name__}, which cannot be part of a cache key")


def _quoted(text: str) -> str:
    # A lone surrogate is in no row; an id that has one gets a key all the same.
    return quote(text, safe="", errors="surrogatepass")
