"""Reads one id or many: asks the cache, loads from the database what it lacks, and fills the cache.

Each item passes through these states, from left to right (``cache.contract`` explains the words)::

    the fence blocks it ─── load, do not store ────────────────────────────────────────> bypass
    fetch ── value ──────── of this key and schema ────────────────────────────────────> hit
      │                └─── rejected: take its place ──> a lease, another's lease, or a tombstone
      ├───── ends soon ──── load, fill ────────────────────────────────────────────────> renewal
      │                └─── the load fails, or would have to queue: the current value ─> hit
      ├───── lease ──────── load, fill ────────────────────────────────────────────────> miss
      ├───── another's ──── fetch again, for a bounded time ──> any of these, or load, do not store
      ├───── tombstone ──── load, do not store ────────────────────────────────────────> bypass
      └───── no answer ──── load, do not store ────────────────────────────────────────> bypass

A load begins after its lease was taken, on a snapshot of the load's own, so it never stores a row older than the lease.
A writer takes the lease away, and the backend then refuses the fill. ``cached`` has the fast path of a single hit;
``filling`` decides what may be stored. Writers are in ``writing``.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

from person_repo.cache.contract import BLOCKED, BUSY, Expiring, Fetched, Lease, LeaseBackend, Outcome
from person_repo.database.loading import Loader
from person_repo.exceptions import OverloadError
from person_repo.fence.view import Fence
from person_repo.interruptions import DATABASE_ERRORS
from person_repo.mapped.codec import Codec, RejectedItemError
from person_repo.mapped.mapping import Identity, Row
from person_repo.observability.counters import Counters
from person_repo.reading.batch import Batch
from person_repo.reading.filling import Filler

__all__ = ["FENCED", "Item", "ReadThrough"]

logger = logging.getLogger("person_repo.reading")

# In seconds. The first pauses are about as long as a load by key takes; each poll is a round trip to the cache.
_FIRST_PAUSE: Final = 0.002
_LONGEST_PAUSE: Final = 0.02


class _Fenced(enum.Enum):
    FENCED = "an undelivered invalidation forbids answering this item from the cache"


FENCED: Literal[_Fenced.FENCED] = _Fenced.FENCED

Item = Fetched | Literal[_Fenced.FENCED]
"""An answer of the cache for one key; ``FENCED`` if it was not asked."""


class ReadThrough:
    """Reads batches of one model through a cache and its fence; loads and stores what the cache does not know.

    ``group``: the model's group of items. ``sleep`` waits for another reader's load, and ``clock`` measures, both in
    seconds. Safe for threads; a batch belongs to one thread.
    """

    def __init__(
        self,
        group: str,
        backend: LeaseBackend,
        fence: Fence | None,
        codec: Codec[Any],
        loader: Loader[Any],
        counters: Counters,
        *,
        sleep: Callable[[float], None],
        clock: Callable[[], float],
    ) -> None:
        self._group = group
        self._backend = backend
        self._fence = fence
        self._codec = codec
        self._loader = loader
        self._counters = counters
        self._filler = Filler(backend, codec, counters)
        self._sleep = sleep
        self._clock = clock
        self._load_time = 0.0

    def rows(self, batch: Batch, items: Sequence[Item] | None = None) -> list[Row | None]:
        """The row of each id of a batch, None for an id without one.

        ``items``: the answers for all its keys, if the caller has asked the cache already.

        Raises what the database raises, and ``OverloadError``, unless the cache has a value for every id.
        """
        try:
            if items is None:
                self._fetch(batch, batch.indices)
            else:
                self._settle(batch, batch.indices, items)
            # In this order: two readers that waited for each other's leases before they load would both wait in vain.
            if batch.to_load:
                self._load(batch)
            if batch.busy:
                self._wait_for_others(batch)
        except BaseException:
            # A failed load, or Ctrl-C at any point: nobody is to wait for a value that will not come.
            self._backend.abandon(batch.leases)
            raise
        return batch.rows

    def row_of_miss(self, identity: Identity, full_key: str, lease: Lease) -> Row | None:
        """The row of one id that the cache does not have. Fast path of ``rows``, where no bound on loads is set."""
        began = self._clock()
        self._counters.loads.value += 1
        self._counters.misses.value += 1
        try:
            loaded, committed = self._loader.one(identity)
            row = loaded.get(identity)
            self._filler.fill([(lease, full_key, row)], committed=committed)
        except BaseException:
            self._backend.abandon([lease])
            raise
        self._note_load(began)
        return row

    # Asking the cache

    def _fetch(self, batch: Batch, indices: Sequence[int], *, waited: bool = False) -> None:
        """Ask the cache for some of a batch, in one exchange with each server if all are hits, and settle them.

        ``waited``: another reader had their leases before, and this one has waited for it.
        """
        if self._fence is not None and self._fence.is_raised():
            indices = self._settle_fenced(self._fence, batch, indices, waited)
        if not indices:
            return
        keys, full_keys = batch.keys, batch.full_keys
        if indices is not batch.indices:  # in any order
            keys, full_keys = [keys[index] for index in indices], [full_keys[index] for index in indices]
        backend, group = self._backend, self._group
        items: list[Any] = backend.fetch_many(group, keys) if len(keys) > 1 else [backend.fetch(group, keys[0])]
        # Fast path: all are hits, as they mostly are. ``_settle`` takes any mixture, one by one.
        if {*map(type, items)} == {bytes} and (rows := self._codec.decode_all(items, full_keys)) is not None:
            batch.answer(indices, rows)
            self._count_hits(rows)
        else:
            self._settle(batch, indices, items, waited)

    def _settle_fenced(self, fence: Fence, batch: Batch, indices: Sequence[int], waited: bool) -> list[int]:
        """Settle what the fence blocks; returns the indices for which the cache may be asked."""
        fenced = {index: FENCED for index in indices if fence.blocks(self._group, batch.keys[index])}
        self._settle(batch, [*fenced], [*fenced.values()], waited)
        return [index for index in indices if index not in fenced]

    def _settle(self, batch: Batch, indices: Sequence[int], items: Sequence[Item], waited: bool = False) -> None:
        """Every outcome of a fetch, by its name: a row, or the reason to load one."""
        if waited:
            batch.forget(indices)
        hits: list[Row | None] = []
        rejected: dict[int, bytes] = {}
        for index, item in zip(indices, items, strict=True):
            match item:
                case bytes():  # A value: a hit, unless it is of another key or schema, or garbage.
                    try:
                        row = self._codec.decode(item, batch.full_keys[index])
                    except RejectedItemError as exc:
                        self._count_rejected(exc)
                        rejected[index] = item
                    else:
                        batch.rows[index] = row
                        hits.append(row)
                case Expiring():  # A value that ends soon: this reader is to renew it.
                    batch.to_load[index] = item.lease
                    try:
                        batch.current[index] = self._codec.decode(item.value, batch.full_keys[index])
                    except RejectedItemError as exc:
                        self._count_rejected(exc)
                case Lease():  # Nothing: this reader is to load and fill.
                    batch.to_load[index] = item
                case Outcome.BUSY:  # Another reader's lease: wait for its fill.
                    batch.busy[index] = item
                case Outcome.BLOCKED | Outcome.UNREACHABLE:  # A writer's tombstone; no answer: load, do not store.
                    batch.to_load[index] = item
                case _Fenced.FENCED:  # A writer could not place its tombstone here: load, do not store.
                    self._backend.counters.fenced += 1
                    batch.to_load[index] = BLOCKED
        self._count_hits(hits)
        # Last, since Ctrl-C may come in between: by now every lease of this fetch is known, and will be given back.
        for index, item in rejected.items():
            # Readers of two schemas that wait for each other would replace each other's items for ever.
            answer = BLOCKED if waited else self._take_over(batch.keys[index], item)
            if answer is BUSY:
                batch.busy[index] = answer
            else:
                batch.to_load[index] = answer

    def _count_hits(self, rows: list[Row | None]) -> None:
        self._counters.hits += len(rows)
        self._counters.negative_hits += rows.count(None)

    def _count_rejected(self, exc: RejectedItemError) -> None:
        self._counters.rejected += 1
        logger.debug("an item of the cache was rejected: %s", exc)

    def _take_over(self, key: str, item: bytes) -> Lease | Outcome:
        """Take the place of an item that is of no use here. If another one has come meanwhile, leave that alone."""
        answer = self._backend.fetch(self._group, key, reject=item)
        return BLOCKED if isinstance(answer, (bytes, Expiring)) else answer

    def discard(self, key: str, exc: RejectedItemError) -> None:
        """Remove the item at a key, for a reason that decoding it cannot find."""
        item = self._backend.fetch(self._group, key)
        if isinstance(item, bytes):
            self._count_rejected(exc)
            item = self._take_over(key, item)
        if isinstance(item, (Lease, Expiring)):  # The next reader fills it.
            self._backend.abandon([item.lease if isinstance(item, Expiring) else item])

    # Waiting for other readers

    def _wait_for_others(self, batch: Batch) -> None:
        """Poll until the other readers have filled their items, for at most ``_longest_wait()``; then load the rest."""
        self._counters.waits += len(batch.busy)
        until = self._clock() + self._longest_wait()
        pause = _FIRST_PAUSE
        while batch.busy and self._clock() + pause <= until:
            self._sleep(pause)
            pause = min(pause * 1.5, _LONGEST_PAUSE)
            self._fetch(batch, [*batch.busy], waited=True)
            if batch.leases:  # Others may be waiting for these by now.
                self._load(batch)
        batch.stop_waiting()
        if batch.to_load:
            self._load(batch)

    def _longest_wait(self) -> float:
        """Twice the time of a load, at least ``wait``, but never longer than the other reader's lease lives."""
        settings = self._backend.settings
        return min(max(settings.wait, 2 * self._load_time), settings.lease_ttl)

    # Loading

    def _load(self, batch: Batch) -> None:
        """Load ``to_load`` with one query. If all of it is renewals, and the load fails or would have to queue, the
        current values are the answer.
        """
        bulkhead = self._backend.bulkhead
        try:
            if bulkhead is None:
                self._load_now(batch)
                return
            with bulkhead.entered(may_wait=not batch.may_stay) as waited:
                if waited:
                    self._fetch_again(batch)
                if batch.to_load:  # Stored before the turn ends, so that the next reader in the queue hits.
                    self._load_now(batch)
        except (*DATABASE_ERRORS, OverloadError) as exc:
            if not batch.may_stay:
                raise
            self._take_current(batch, exc)

    def _fetch_again(self, batch: Batch) -> None:
        """Fetch what others may have loaded while this reader was in the queue."""
        self._fetch(batch, [index for index, reason in batch.to_load.items() if reason is BUSY], waited=True)
        batch.stop_waiting()

    def _take_current(self, batch: Batch, exc: Exception) -> None:
        self._backend.abandon(batch.leases)
        for index in batch.to_load:
            logger.debug("%s is not renewed: %s", batch.full_keys[index], exc)
        renewals = [*batch.to_load]
        rows = [batch.current[index] for index in renewals]
        batch.answer(renewals, rows)
        self._count_hits(rows)

    def _load_now(self, batch: Batch) -> None:
        began = self._clock()
        self._count_load(batch)
        identities, loader = batch.identities(), self._loader
        loaded, committed = loader.one(identities[0]) if len(identities) == 1 else loader.many(identities)
        fills: list[tuple[Lease, str, Row | None]] = []
        for (index, reason), identity in zip(batch.to_load.items(), identities, strict=True):
            batch.rows[index] = row = loaded.get(identity)
            if isinstance(reason, Lease):
                fills.append((reason, batch.full_keys[index], row))
        if fills:
            self._filler.fill(fills, committed=committed)
        batch.to_load.clear()
        self._note_load(began)

    def _count_load(self, batch: Batch) -> None:
        counters = self._counters
        counters.loads.value += 1
        for reason in batch.to_load.values():
            if isinstance(reason, Lease):
                (counters.renewals if reason.renews else counters.misses).value += 1
            elif reason is not BUSY:
                counters.bypasses.value += 1

    def _note_load(self, began: float) -> None:
        """Moving average of how long loads take, with weight 1/8; the first load sets it."""
        took = self._clock() - began
        self._load_time += (took - self._load_time) / (8 if self._load_time else 1)
