"""From a primary key to a cache key. Pure, and stable: all programs that write one table must build the same keys.

A key is ``pr:namespace:table:`` and then the digest of a ``Location`` (database, schemas, table, key columns), and the
identity. The part before the digest is the *group*: of everything that a table of this name may be, in whichever
database. A program that knows the location exactly drops keys; any other drops the group, and is always right. The item
names the location in full (``codec``), so that two locations with one digest are two misses.

The columns beside the key are no part of it: with a fingerprint of them in the key, new code would fill keys that old
code, still running, never invalidates. The item carries the fingerprint instead.
"""

from __future__ import annotations

import base64
import datetime
import decimal
import enum
import re
import uuid
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from person_repo.exceptions import InvalidIdError
from person_repo.mapped.identities import Identity
from person_repo.messages import shown

__all__ = ["LONGEST_KEY", "Keyspace", "Location", "group_name"]

LONGEST_KEY = 230
"""Bytes of the longest key, all ASCII. memcached takes 250; the rest is for markers that backends append."""

# Beside the longest namespace (40), the digest (16) and a name of this length, an identity of that length still fits.
_LONGEST_NAME: Final = 60
_LONGEST_PLAIN: Final = 100
_plain = re.compile(r"[A-Za-z0-9_.~-]+").fullmatch

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)

# So wide that no digit is rounded away, whatever the context of the thread.
_EXACT = decimal.Context(prec=decimal.MAX_PREC, Emin=decimal.MIN_EMIN, Emax=decimal.MAX_EMAX, traps=[])


class Location(NamedTuple):
    """A set of rows: all that two programs must agree on to share cache entries.

    ``database``: its identity, the same for every program that reaches it. ``schemas``: the place of the class's tables
    in it, as the database sees it. ``table``: the name of the table that has the primary key. ``key``: the names of the
    key's columns. ``variant``: the class of a hierarchy that the rows become; empty for a root. It is in the item and
    not in the key: of one row the classes of a hierarchy share an entry, and replace each other's.
    """

    database: str
    schemas: tuple[str, ...]
    table: str
    key: tuple[str, ...]
    variant: str = ""

    @property
    def text(self) -> str:
        """All of it on one line; two locations have two texts."""
        schemas, key = ",".join(map(_quoted, self.schemas)), ",".join(map(_quoted, self.key))
        return "/".join([_quoted(self.database), schemas, _quoted(self.table), key, _quoted(self.variant)])


def group_name(namespace: str, table: str) -> str:
    """The name of all entries of tables of this name. ``namespace``: as ``CacheSettings`` takes it, 1 to 40 of
    ``A-Z a-z 0-9 _ . -``.
    """
    name = _quoted(table.lower())  # Some databases take both spellings for one.
    if len(name) > _LONGEST_NAME:
        # "%h" cannot come from quoting: percent-escapes have upper-case hex digits.
        name = f"%h{blake2b(name.encode(), digest_size=16).hexdigest()}"
    return f"pr:{namespace}:{name}"


class Keyspace:
    """The cache keys of the rows at one location, in one namespace.

    ``longest``: the length up to which an ASCII string needs no further check as an id; -1 if every id does. ``group``:
    see ``group_name``. ``location``: the text that each item carries.
    """

    __slots__ = ("_longest", "_start", "_text", "group", "location")

    def __init__(self, namespace: str, location: Location, longest: int = -1) -> None:
        self.location = location.text
        self.group = group_name(namespace, location.table)
        # Not the class of a hierarchy: a writer need not know all of them, and drops the row's one entry.
        rows = location._replace(variant="").text
        digest = base64.b32encode(blake2b(rows.encode(), digest_size=10).digest()).decode().lower()
        self._start = f"{self.group}:{digest}"
        self._text = f"{self._start}s"
        self._longest = min(longest, _LONGEST_PLAIN)

    @property
    def server_key(self) -> str:
        """The key of the item that names the server from which these rows were cached."""
        return f"{self._start}@"  # in no key of an entity: those continue with a letter

    def plain_key_of(self, id: Any) -> str | None:
        """Fast path for most ids: the key, on the wire and in full, of a short string of unreserved characters.

        Such an id needs no other check. None for every other id: take its identity, and ``key_of`` that.
        """
        return self._text + id if type(id) is str and len(id) <= self._longest and _plain(id) else None

    def key_of(self, identity: Identity) -> tuple[str, str]:
        """The key on the wire and the key that the item must name.

        The two differ if the identity is too long for a server: then the wire has a digest of it, and an item that
        names another is a miss.
        """
        if len(identity) == 1:
            value = identity[0]
            if type(value) is str and len(value) <= _LONGEST_PLAIN and _plain(value):
                key = self._text + value
                return key, key
        full_key = self._start + ",".join([_part(value) for value in identity])
        if len(full_key) <= LONGEST_KEY:
            return full_key, full_key
        return f"{self._start}h{blake2b(full_key.encode(), digest_size=20).hexdigest()}", full_key

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
