"""From a primary key to a cache key. Pure, and stable: whoever writes one table must build the same keys.

A key is ``namespace:table:identity``. The schema is not part of it: with a fingerprint in the key, new code would
fill keys that old code, still running, never invalidates. The item carries the fingerprint instead (``codec``).
"""

from __future__ import annotations

import datetime
import decimal
import enum
import re
import uuid
from hashlib import blake2b
from typing import Any
from urllib.parse import quote

from person_repo.exceptions import InvalidIdError
from person_repo.mapping import Identity

__all__ = ["LONGEST_KEY", "Keyspace"]

LONGEST_KEY = 200
"""Characters; memcached takes 250 bytes, the rest is left to the servers' own prefixes."""

_plain = re.compile(r"[A-Za-z0-9_.~-]{1,100}").fullmatch


class Keyspace:
    """The cache keys of one table in one namespace.

    ``group`` names the table as a whole, ``of`` an entity of it.
    """

    __slots__ = ("_text", "group")

    def __init__(self, namespace: str, table: str) -> None:
        name = quote(table, safe="")
        if len(name) > 80:
            name = blake2b(name.encode(), digest_size=16).hexdigest()
        self.group = f"pr:{namespace}:{name}"
        self._text = f"{self.group}:s"

    def of(self, identity: Identity) -> tuple[str, str]:
        """The key on the wire and the full key that the item must name.

        The two differ where the full key is too long for a server: there the wire has a digest of it, and an
        item that names another full key is a miss.
        """
        if len(identity) == 1:
            value = identity[0]
            if type(value) is str and _plain(value):
                key = self._text + value
                return key, key
        full = f"{self.group}:" + ",".join([_part(value) for value in identity])
        if len(full) <= LONGEST_KEY:
            return full, full
        return f"{self.group}:h{blake2b(full.encode(), digest_size=20).hexdigest()}", full


def _part(value: Any) -> str:
    """A value as text that starts with a letter for its type, so that ``1`` and ``"1"`` are two keys."""
    if isinstance(value, enum.Enum):
        return "e" + quote(value.name, safe="")
    if isinstance(value, str):
        return "s" + quote(value, safe="")
    if isinstance(value, int):
        return f"i{value}"
    if isinstance(value, bytes):
        return "b" + value.hex()
    if isinstance(value, uuid.UUID):
        return "u" + value.hex
    if isinstance(value, decimal.Decimal):
        return f"n{value.normalize():f}"
    if isinstance(value, datetime.datetime):
        return "t" + quote(value.isoformat(), safe="")
    if isinstance(value, datetime.date):
        return "d" + value.isoformat()
    raise InvalidIdError(f"id {value!r:.120} has the type {type(value).__name__}, which cannot be part of a cache key")
