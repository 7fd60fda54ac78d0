"""Any other dogpile region behind the lease contract, as far as dogpile's get, set and delete allow: best effort.

There is no compare-and-set, so a late fill can put an old row over a new one, until its ttl.

To the region, items are ASCII strings, which every serializer carries.
"""

from __future__ import annotations

import binascii
import logging
import os
from base64 import b64decode, b64encode
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, ClassVar

from dogpile.cache import CacheRegion

from person_repo.cache.contract import (
    UNREACHABLE,
    Coherence,
    Fetched,
    Lease,
    LeaseBackend,
    Place,
    Tombstones,
    marker_of,
)
from person_repo.exceptions import ConfigurationError

__all__ = ["ForeignBackend"]

logger = logging.getLogger("person_repo.cache")

_EPOCH = 8
_THE_REGION = ("the region", "")


class _FillRight(Lease):
    __slots__ = ("epoch",)

    def __init__(self, key: str, epoch: bytes) -> None:
        super().__init__(key)
        self.epoch = epoch


class ForeignBackend(LeaseBackend):
    """The lease contract over a region of somebody else's backend; every reader of an absent item may fill it.

    The region's own serializer, key mangler, proxies and expiration apply.
    """

    coherence: ClassVar[Coherence] = "best-effort"

    def __init__(self, region: CacheRegion, **options: Any) -> None:
        super().__init__(options)
        self._region = region
        self._failing: set[str] = set()

    def fetch(self, group: str, key: str, *, reject: bytes | None = None) -> Fetched:
        return self._fetch(group, [key], reject)[0]

    def fetch_many(self, group: str, keys: Sequence[str]) -> list[Fetched]:
        return self._fetch(group, keys, None)

    def _fetch(self, group: str, keys: Sequence[str], reject: bytes | None) -> list[Fetched]:
        texts = self._attempt(self._region.get_multi, [marker_of(group), *keys])
        if texts is UNREACHABLE:
            return [UNREACHABLE] * len(keys)
        epoch, *items = map(_from_text, texts)
        if len(epoch) != _EPOCH:
            epoch = os.urandom(_EPOCH)
            self._attempt(self._region.set, marker_of(group), _to_text(epoch))
        return [
            item[_EPOCH:]
            if len(item) >= _EPOCH and item[:_EPOCH] == epoch and item[_EPOCH:] != reject
            else _FillRight(key, epoch)
            for key, item in zip(keys, items, strict=True)
        ]

    def fill(self, lease: Lease, value: bytes) -> bool:
        return self.fill_many([(lease, value)])[0]

    def fill_many(self, fills: Sequence[tuple[Lease, bytes]]) -> list[bool]:
        items = {lease.key: _to_text(lease.epoch + value) for lease, value in fills if isinstance(lease, _FillRight)}
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
            missing=frozenset() if placed else frozenset([_THE_REGION]),
            reached=frozenset([_THE_REGION[0]]) if placed else frozenset(),
        )

    def release(self, tombstones: Tombstones) -> frozenset[Place]:
        self._delete(tombstones.keys, tombstones.groups)
        return frozenset()

    def _delete(self, keys: Collection[str], groups: Collection[str]) -> bool:
        names = [*keys, *map(marker_of, groups)]
        return self._attempt(self._region.delete_multi, names) is not UNREACHABLE

    def require_ttl(self, name: str, ttl: int) -> None:
        """Raises ``ConfigurationError``: the region has one expiration time for all values."""
        raise ConfigurationError(
            f"ttl={ttl} of {name}: a region of another backend keeps all values for its own expiration time; leave "
            "ttl out, or give the class a cache of its own by cache="
        )

    def unreachable(self) -> frozenset[str]:
        """See ``LeaseBackend``. A region is one server, whatever is behind it."""
        name = marker_of("person_repo:unreachable")
        return frozenset(_THE_REGION[:1] if self._attempt(self._region.get, name) is UNREACHABLE else ())

    def _attempt(self, ask: Callable[..., Any], *arguments: Any) -> Any:
        """The region's answer, or ``UNREACHABLE``. It is no proof that the region stores anything."""
        self.counters.round_trips += 1
        name = ask.__name__
        try:
            answer = ask(*arguments)
        except Exception as exc:  # Each backend has errors of its own, and none may fail a read or a commit.
            self.counters.errors += 1
            if name not in self._failing:
                self._failing.add(name)
                logger.warning("%s of the cache region fails: %s; reads go to the database until it works", name, exc)
            return UNREACHABLE
        if name in self._failing:
            self._failing.discard(name)
            logger.info("%s of the cache region works again", name)
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


def _to_text(item: bytes) -> str:
    return b64encode(item).decode()


def _from_text(text: object) -> bytes:
    """The bytes of an item; empty if the region has none, or one that is not ours."""
    try:
        return b64decode(text, validate=True) if isinstance(text, str) else b""
    except (binascii.Error, ValueError):
        return b""
