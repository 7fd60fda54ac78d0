"""No cache at all, behind the same contract: every read goes to the database."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from dogpile.cache.api import NO_VALUE, CacheMutex

from person_repo.cache.contract import BLOCKED, Fetched, Lease, LeaseBackend, Place, Tombstones

__all__ = ["NullBackend"]


class _NoLock(CacheMutex):
    """A lock that everyone has: nobody's value would be there after a wait."""

    def acquire(self, wait: bool = True) -> bool:
        return True

    def release(self) -> None:
        pass

    def locked(self) -> bool:
        return False


class NullBackend(LeaseBackend):
    """Holds nothing and gives no lease, so that nothing is ever stale."""

    def fetch(self, group: str, key: str, *, reject: bytes | None = None) -> Fetched:
        return BLOCKED

    def fetch_many(self, group: str, keys: Sequence[str]) -> list[Fetched]:
        return [BLOCKED] * len(keys)

    def fill(self, lease: Lease, value: bytes) -> bool:
        return False

    def abandon(self, leases: Iterable[Lease]) -> None:
        pass

    def put_tombstones(self, keys: Collection[str], groups: Collection[str] = ()) -> Tombstones:
        return Tombstones(frozenset(keys), frozenset(groups))

    def release(self, tombstones: Tombstones) -> frozenset[Place]:
        return frozenset()

    # dogpile's face

    def get_mutex(self, key: str) -> CacheMutex:
        """dogpile: no lock, so that creators run side by side; without one of ours, dogpile would take its own."""
        return _NoLock()

    def get_serialized(self, key: str) -> Any:
        """dogpile: always ``NO_VALUE``."""
        return NO_VALUE

    def set_serialized(self, key: str, value: bytes) -> None:
        """dogpile: stores nothing."""

    def delete(self, key: str) -> None:
        """dogpile: there is nothing to delete."""
