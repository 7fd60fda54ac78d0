"""Decides whether a loaded row may be stored in the cache, and stores it.

A row is stored only if all of these hold, asked in this order:

1. The cache gave this reader a lease for the item (``read_through``): no tombstone, fence or other reader forbids it.
2. The load saw nothing but committed rows, none of them older than itself (``database.snapshots``, which asks).
3. The row survives being encoded and decoded (``mapped.codec``).
4. The lease still stands when the row arrives: the backend refuses a row if a writer has taken the lease meanwhile.

If 2 or 3 fails, the lease is returned unused, so that nobody waits for it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from person_repo.cache.contract import Lease, LeaseBackend
from person_repo.mapped.codec import Codec, UncacheableError
from person_repo.mapped.mapping import Row
from person_repo.observability.counters import Counters

__all__ = ["Filler"]

logger = logging.getLogger("person_repo.reading")


class Filler:
    """Stores the rows that a read has loaded, as the module says."""

    def __init__(self, backend: LeaseBackend, codec: Codec[Any], counters: Counters) -> None:
        self._backend = backend
        self._codec = codec
        self._counters = counters

    def fill(self, loaded: Sequence[tuple[Lease, str, Row | None]], *, committed: bool) -> None:
        """Store rows, each under its lease and its full key; None is stored as a known absence.

        ``committed``: whether the load saw committed rows only; if not, nothing is stored and all leases are returned.
        """
        encoded: list[tuple[Lease, bytes]] = []
        unused: list[Lease] = []
        for lease, full_key, row in loaded:
            try:
                if not committed:
                    raise UncacheableError(f"{full_key}: nobody knows that the row is committed")
                encoded.append((lease, self._codec.encode(full_key, row)))
            except UncacheableError as exc:
                self._counters.uncacheable += 1
                logger.debug("not cached: %s", exc)
                unused.append(lease)
        if unused:
            self._backend.abandon(unused)
        if encoded:
            self._count(encoded, self._backend.fill_many(encoded))

    def _count(self, encoded: Sequence[tuple[Lease, bytes]], stored: Sequence[bool]) -> None:
        fills = sum(stored)
        refused = len(stored) - fills
        self._counters.fills.value += fills
        self._counters.fills_refused.value += refused
        if refused and logger.isEnabledFor(logging.DEBUG):
            for (lease, _), done in zip(encoded, stored, strict=True):
                if not done:
                    logger.debug("add failed: %s (the lease was lost to a writer, or the server refused it)", lease.key)
