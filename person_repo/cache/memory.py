"""Leases and tombstones in this process's memory: bounded, least recently used out first, with ttl."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, ClassVar, cast

from dogpile.cache.api import NO_VALUE

from person_repo.cache.contract import (
    BLOCKED,
    BUSY,
    Coherence,
    Expiring,
    Fetched,
    Lease,
    LeaseBackend,
    Place,
    Tombstones,
)
from person_repo.forks import on_fork

__all__ = ["MemoryBackend"]


class _FillRight(Lease):
    __slots__ = ("epoch", "until")

    def __init__(self, key: str, epoch: int, until: float, *, renews: bool = False) -> None:
        super().__init__(key, renews=renews)
        self.epoch = epoch
        self.until = until


class _Value:
    """A value until its end; from ``renewed_from`` on one reader gets the lease to renew it, ``renewing`` from then."""

    __slots__ = ("body", "epoch", "renewed_from", "renewing", "until")

    def __init__(self, body: bytes, epoch: int, until: float, renewed_from: float) -> None:
        self.body = body
        self.epoch = epoch
        self.until = until
        self.renewed_from = renewed_from
        self.renewing: _FillRight | None = None


class _StandingTombstones:
    """The tombstones on one item or group: the transactions that placed them, each until its ttl."""

    __slots__ = ("owners",)

    def __init__(self) -> None:
        self.owners: dict[object, float] = {}

    def block(self, now: float) -> bool:
        return any(until > now for until in self.owners.values())


class MemoryBackend(LeaseBackend):
    """The lease contract within one process; a fork starts with an empty one.

    Several processes that write one database have a cache each: ``coherence`` says so. ``arguments`` may carry a
    ``clock`` in seconds, which must never go back.
    """

    coherence: ClassVar[Coherence] = "process"

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        options = dict(arguments)
        self._clock: Callable[[], float] = options.pop("clock", time.monotonic)
        super().__init__(options)
        self._reset()
        on_fork(self._reset)

    def _reset(self) -> None:
        """Starts empty. A child never sees its parent's writes, so what it inherits would soon be stale."""
        self._lock = threading.Lock()
        self._items: OrderedDict[str, _Value | _FillRight] = OrderedDict()
        self._tombstones: dict[str, _StandingTombstones] = {}
        self._group_tombstones: dict[str, _StandingTombstones] = {}
        self._epochs: dict[str, int] = {}
        self._plain: OrderedDict[str, bytes] = OrderedDict()

    # The lease contract

    def fetch(self, group: str, key: str, *, reject: bytes | None = None) -> Fetched:
        self.counters.round_trips.value += 1
        now = self._clock()
        value = self._hit(group, key, now)  # This is the fast path, without the lock; ``_fetch`` is the slow one.
        if value is not None and value != reject:
            return value
        with self._lock:
            return self._fetch(group, key, reject, now)

    def fetch_many(self, group: str, keys: Sequence[str]) -> list[Fetched]:
        self.counters.round_trips.value += 1
        now = self._clock()
        hits = [self._hit(group, key, now) for key in keys]
        if None not in hits:
            return cast("list[Fetched]", hits)
        with self._lock:
            pairs = zip(keys, hits, strict=True)
            return [self._fetch(group, key, None, now) if hit is None else hit for key, hit in pairs]

    def _hit(self, group: str, key: str, now: float) -> bytes | None:
        """Fast path of ``_fetch``: a live value that is not due for renewal, without the lock. A writer that places a
        tombstone drops the item or ends its epoch, and nobody fills under one: so a value here is not yet, or no
        longer, being changed.
        """
        item = self._items.get(key)
        if type(item) is not _Value or item.renewed_from <= now or item.epoch != self._epochs.get(group, 0):
            return None
        try:
            self._items.move_to_end(key)
        except KeyError:
            return None  # It was dropped since.
        return item.body

    def _fetch(self, group: str, key: str, reject: bytes | None, now: float) -> Fetched:
        """Cases: a tombstone stands; another reader's lease; a live value; absent, expired or of an old epoch."""
        if self._blocked(self._tombstones, key, now) or self._blocked(self._group_tombstones, group, now):
            return BLOCKED
        item = self._items.get(key)
        epoch = self._epochs.get(group, 0)
        if item is not None and item.epoch == epoch and item.until > now:
            if isinstance(item, _FillRight):
                return BUSY
            if item.body != reject:
                self._items.move_to_end(key)
                return self._renewable(key, item, now)
        lease = _FillRight(key, epoch, now + self.settings.lease_ttl)
        self._put(key, lease)
        return lease

    def _renewable(self, key: str, item: _Value, now: float) -> bytes | Expiring:
        if item.renewed_from > now or item.renewing is not None:
            return item.body
        item.renewing = _FillRight(key, item.epoch, now + self.settings.lease_ttl, renews=True)
        return Expiring(item.body, item.renewing)

    def fill(self, lease: Lease, value: bytes) -> bool:
        self.counters.round_trips += 1
        with self._lock:
            return self._fill(lease, value)

    def fill_many(self, fills: Sequence[tuple[Lease, bytes]]) -> list[bool]:
        self.counters.round_trips += 1
        with self._lock:
            return [self._fill(lease, value) for lease, value in fills]

    def _fill(self, lease: Lease, value: bytes) -> bool:
        # A reader of the old row may still hold its lease. The lease is no longer the item there, which keeps the old
        # row out of the cache.
        item = self._items.get(lease.key)
        valid = item.renewing if isinstance(item, _Value) else item
        if valid is not lease or not isinstance(lease, _FillRight):
            return False
        now = self._clock()
        if lease.until <= now or self._blocked(self._tombstones, lease.key, now):
            return False
        until = now + self.value_ttl(lease.key)
        self._put(lease.key, _Value(value, lease.epoch, until, until - self.renewal(lease.key)))
        return True

    def abandon(self, leases: Iterable[Lease]) -> None:
        with self._lock:
            for lease in leases:
                if self._items.get(lease.key) is lease:
                    del self._items[lease.key]

    def put_tombstones(self, keys: Collection[str], groups: Collection[str] = ()) -> Tombstones:
        self.counters.round_trips += 1
        owner = object()
        with self._lock:
            until = self._clock() + self.settings.tombstone_ttl
            for key in keys:
                self._items.pop(key, None)
                self._tombstones.setdefault(key, _StandingTombstones()).owners[owner] = until
            for group in groups:
                self._epochs[group] = self._epochs.get(group, 0) + 1
                self._group_tombstones.setdefault(group, _StandingTombstones()).owners[owner] = until
        return Tombstones(frozenset(keys), frozenset(groups), placed=owner)

    def release(self, tombstones: Tombstones) -> frozenset[Place]:
        self.counters.round_trips += 1
        with self._lock:
            now = self._clock()
            for key in tombstones.keys:
                self._items.pop(key, None)
                self._remove(self._tombstones, key, tombstones.placed, now)
            for group in tombstones.groups:
                self._epochs[group] = self._epochs.get(group, 0) + 1
                self._remove(self._group_tombstones, group, tombstones.placed, now)
        return frozenset()

    # The states

    def _put(self, key: str, item: _Value | _FillRight) -> None:
        self._items[key] = item
        self._items.move_to_end(key)
        if len(self._items) > self.settings.max_items:
            self._items.popitem(last=False)

    @staticmethod
    def _blocked(tombstones: dict[str, _StandingTombstones], name: str, now: float) -> bool:
        standing = tombstones.get(name)
        if standing is None:
            return False
        if standing.block(now):
            return True
        del tombstones[name]
        return False

    @staticmethod
    def _remove(tombstones: dict[str, _StandingTombstones], name: str, owner: object, now: float) -> None:
        standing = tombstones.get(name)
        if standing is None:
            return
        standing.owners.pop(owner, None)
        if not standing.block(now):
            del tombstones[name]

    # Faults, for tests

    def evict(self, key: str) -> None:
        """Forgets an item, a lease or the tombstones on a key, as a cache under pressure may."""
        with self._lock:
            self._items.pop(key, None)
            self._tombstones.pop(key, None)

    def clear(self) -> None:
        """Forgets everything, as a server that restarts does."""
        with self._lock:
            self._items.clear()
            self._tombstones.clear()
            self._group_tombstones.clear()
            for group in self._epochs:
                self._epochs[group] += 1
            self._plain.clear()

    # dogpile's face

    def get_serialized(self, key: str) -> Any:
        """dogpile: the serialized value, or ``NO_VALUE``."""
        with self._lock:
            item = self._plain.get(key)
            if item is None:
                return NO_VALUE
            self._plain.move_to_end(key)
        return item

    def set_serialized(self, key: str, value: bytes) -> None:
        """dogpile: stores a serialized value; the region's expiration_time bounds its life."""
        with self._lock:
            self._plain[key] = value
            self._plain.move_to_end(key)
            if len(self._plain) > self.settings.max_items:
                self._plain.popitem(last=False)

    def delete(self, key: str) -> None:
        """dogpile: deletes an item."""
        with self._lock:
            self._plain.pop(key, None)
