"""Any other dogpile region behind the lease contract, as well as dogpile's get, set and delete allow: best effort.

There is no compare-and-set, so a late fill can put an old row over a new one, until its ttl.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, ClassVar

from dogpile.cache import CacheRegion

from person_repo.backends import UNREACHABLE, Coherence, Fetched, Lease, LeaseBackend, Tombstones

__all__ = ["ForeignBackend"]

logger = logging.getLogger(__name__)

_EPOCH = 8


class _Right(Lease):
    __slots__ = ("epoch",)

    def __init__(self, key: str, epoch: bytes) -> None:
        super().__init__(key)
        self.epoch = epoch


class ForeignBackend(LeaseBackend):
    """The lease contract over a region of somebody else's backend; everybody who finds nothing may fill.

    Values are bytes to the region; its own serializer, key mangler, proxies and expiration apply.
    """

    coherence: ClassVar[Coherence] = "best-effort"

    def __init__(self, region: CacheRegion, **options: Any) -> None:
        super().__init__(options)
        self._region = region
        self._failing = False

    def fetch(self, group: str, key: str, *, reject: bytes | None = None) -> Fetched:
        return self._found(group, [key], reject)[0]

    def fetch_many(self, group: str, keys: Sequence[str]) -> list[Fetched]:
        return self._found(group, keys, None)

    def _found(self, group: str, keys: Sequence[str], reject: bytes | None) -> list[Fetched]:
        found = self._attempt(self._region.get_multi, [_marker_of(group), *keys])
        if found is UNREACHABLE:
            return [UNREACHABLE] * len(keys)
        epoch, *items = found
        if not isinstance(epoch, bytes):
            epoch = os.urandom(_EPOCH)
            self._attempt(self._region.set, _marker_of(group), epoch)
        return [
            item[_EPOCH:]
            if isinstance(item, bytes) and item[:_EPOCH] == epoch and item[_EPOCH:] != reject
            else _Right(key, epoch)
            for key, item in zip(keys, items, strict=True)
        ]

    def fill(self, lease: Lease, value: bytes) -> bool:
        return self.fill_many([(lease, value)])[0]

    def fill_many(self, fills: Sequence[tuple[Lease, bytes]]) -> list[bool]:
        items = {lease.key: lease.epoch + value for lease, value in fills if isinstance(lease, _Right)}
        stored = self._attempt(self._region.set_multi, items) is not UNREACHABLE
        return [stored] * len(fills)

    def abandon(self, leases: Iterable[Lease]) -> None:
        pass

    def put_tombstones(self, keys: Collection[str], groups: Collection[str] = ()) -> Tombstones:
        placed = self._delete(keys, groups)
        return Tombstones(
            frozenset(keys),
            frozenset(groups),
            failed_keys=frozenset() if placed else frozenset(keys),
            failed_groups=frozenset() if placed else frozenset(groups),
        )

    def release(self, tombstones: Tombstones) -> None:
        self._delete(tombstones.keys, tombstones.groups)

    def _delete(self, keys: Collection[str], groups: Collection[str]) -> bool:
        names = [*keys, *map(_marker_of, groups)]
        return self._attempt(self._region.delete_multi, names) is not UNREACHABLE

    def _attempt(self, ask: Callable[..., Any], *arguments: Any) -> Any:
        """The region's answer, or ``UNREACHABLE``."""
        self.counters.round_trips += 1
        try:
            answer = ask(*arguments)
        except Exception as exc:  # each backend has errors of its own; a failing cache never fails a read or a commit
            self.counters.errors += 1
            if not self._failing:
                self._failing = True
                logger.warning("the cache region fails: %s; reads go to the database until it answers", exc)
            return UNREACHABLE
        if self._failing:
            self._failing = False
            logger.info("the cache region answers again")
        return answer

    # dogpile's face: the region has one of its own

    def get_serialized(self, key: str) -> Any:
        """Not for use: the region this stands on answers for itself."""
        raise NotImplementedError("ask the region itself")

    def set_serialized(self, key: str, value: bytes) -> None:
        """Not for use: the region this stands on answers for itself."""
        raise NotImplementedError("ask the region itself")

    def delete(self, key: str) -> None:
        """Not for use: the region this stands on answers for itself."""
        raise NotImplementedError("ask the region itself")


def _marker_of(group: str) -> str:
    return f"{group}:!"
