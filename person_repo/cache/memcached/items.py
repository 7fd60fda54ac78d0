"""Items in memcached: their states, recognised by client flags and size alone. Pure.

========= ======================= ==========================================================
state     flags                   body
========= ======================= ==========================================================
absent                            no item, or a value of another epoch
lease     0                       empty: the server makes it by itself (``mg ... N``)
value     ``BASE`` + size of body 8 bytes of the group's epoch, then the value
tombstone anything else           the body before, then 16 bytes for each owner, appended
========= ======================= ==========================================================

A tombstone is *appended*: several transactions may own one at a time, each removes its own, and every append changes
the item's CAS id, so that the holder of a lease loses it. ``BASE`` carries the protocol's version: an item of
another version fits no state but tombstone, and is bypassed.

Each server holds a *marker* for each group: an item whose value is the epoch, a random number. A value of another epoch
is absent. A tombstone on the marker blocks the group; its release deletes the marker, and the next reader draws a new
epoch.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from typing import Final

__all__ = [
    "BASE",
    "EPOCH_SIZE",
    "MARKER_TTL",
    "NOBODY",
    "TOKEN_SIZE",
    "TRANSFORMED",
    "dogpile_key",
    "epoch_in",
    "is_expired",
    "is_lease",
    "lock_name",
    "new_token",
    "owners_in",
    "owners_size",
    "value_in",
]

BASE: Final = 1 << 24
"""The protocol's version, in the flags' highest byte; the other bytes hold the size of the body."""

EPOCH_SIZE: Final = 8
"""Bytes of an epoch."""

TOKEN_SIZE: Final = 16
"""Bytes by which an owner recognises its tombstone: the second it was made, then random ones."""

NOBODY: Final = bytes(TOKEN_SIZE)
"""The token that no owner has."""

TRANSFORMED: Final = int.from_bytes(b"prdp", "big")
"""The flags of an item of dogpile's face that a ``ProxyBackend`` has transformed: only it can judge the bytes."""

MARKER_TTL: Final = 30 * 24 * 3600
"""Seconds that a marker lives: the most that memcached takes, so that it outlives every value of its epoch. A marker
that expires makes its group cold, and nothing stale.
"""

_MADE_AT: Final = 4


def value_in(flags: int, body: bytes) -> bytes | None:
    """The body of an item that is a value, with its epoch at the start; None for every other state."""
    return body if body and flags - len(body) == BASE else None


def epoch_in(flags: int, body: bytes) -> bytes | None:
    """The epoch of a marker; None for a marker with a tombstone on it, or of another version."""
    return body if len(body) == EPOCH_SIZE and flags - EPOCH_SIZE == BASE else None


def is_lease(flags: int, body: bytes) -> bool:
    """True if an item is a lease, of this reader or of another."""
    return flags == 0 and not body


def owners_size(flags: int, size: int) -> int:
    """Bytes of an item of this size that its tombstones take; 0 for a value or a lease."""
    return size - max(flags - BASE, 0)


def owners_in(flags: int, body: bytes) -> list[bytes]:
    """The tokens of an item's tombstones, oldest first; empty for a value or a lease."""
    below = max(flags - BASE, 0)
    return [body[start : start + TOKEN_SIZE] for start in range(below, len(body) - TOKEN_SIZE + 1, TOKEN_SIZE)]


def new_token(now: float, random: Callable[[int], bytes]) -> bytes:
    """A token for a tombstone that is made at ``now`` (Unix time)."""
    return int(now).to_bytes(_MADE_AT, "big") + random(TOKEN_SIZE - _MADE_AT)


def is_expired(token: bytes, ttl: int, now: float) -> bool:
    """True if an owner's ttl is over. The owner died; its tombstone stands because others have prolonged the item."""
    return int.from_bytes(token[:_MADE_AT], "big") + ttl < now


def dogpile_key(key: str) -> bytes:
    """The name of an item of dogpile's face, apart from the contract's; hashed if memcached takes no such key."""
    return _named(b"prd:", key)


def lock_name(key: str) -> str:
    """The name of the lock of such an item."""
    return _named(b"prl:", key).decode()


def _named(prefix: bytes, key: str) -> bytes:
    encoded = prefix + key.encode(errors="surrogatepass")
    is_plain = encoded.isascii() and not any(byte <= 32 or byte == 127 for byte in encoded)
    if is_plain and len(encoded) <= 250 and not key.startswith("#"):
        return encoded
    return prefix + b"#" + blake2b(encoded, digest_size=20).hexdigest().encode()
