"""Items for tests of cache backends, and two steps that most tests begin with."""

from __future__ import annotations

from person_repo.cache.contract import UNREACHABLE, Lease, LeaseBackend

__all__ = [
    "AWKWARD",
    "FOREIGN",
    "GROUP",
    "KEY",
    "KEY_OF_OTHER_GROUP",
    "NEW",
    "OLD",
    "OTHER_GROUP",
    "OTHER_KEY",
    "store",
    "take",
    "take_after_restart",
]

GROUP = "pr:contract:person"
OTHER_GROUP = "pr:contract:team"
KEY = f"{GROUP}:sada"
OTHER_KEY = f"{GROUP}:sgrace"
KEY_OF_OTHER_GROUP = f"{OTHER_GROUP}:sada"

OLD = b"the state before the commit"
NEW = b"the state after the commit"
FOREIGN = b"bytes of another schema"

AWKWARD = (
    b"",
    b"\x00",
    b" ",
    b"\r\n",
    b"END\r\n",
    b"VA 5 f0\r\nhello\r\n",
    b"\r\nHD\r\n",
    b"|",
    bytes(range(256)),
    b"\x00" * 16,
    b"x" * 2048,
    b"\r\n" * 40_000,
    b"x" * 500_000,
)
"""Values that a protocol of lines, lengths and tokens may get wrong."""


def take(backend: LeaseBackend, key: str = KEY, group: str = GROUP) -> Lease:
    """Returns the lease of an item that must be absent."""
    lease = backend.fetch(group, key)
    assert isinstance(lease, Lease), f"{key} is not absent: {lease!r:.200}"
    return lease


def store(backend: LeaseBackend, key: str, value: bytes, group: str = GROUP) -> None:
    """Fills an item that must be absent."""
    assert backend.fill(take(backend, key, group), value), f"{key}: the fill of {len(value)} bytes was refused"


def take_after_restart(backend: LeaseBackend, key: str = KEY, group: str = GROUP) -> Lease:
    """Returns the lease of an item that is absent since a restart. A first fetch may find the connection cut."""
    fetched = backend.fetch(group, key)
    if isinstance(fetched, Lease):
        return fetched
    assert fetched is UNREACHABLE, f"{key} is not absent: {fetched!r:.200}"
    return take(backend, key, group)
