"""Invalidation by hand: a change that no covered engine made, and that is committed already."""

from __future__ import annotations

from collections.abc import Sequence

from person_repo.cache.contract import LeaseBackend
from person_repo.fence.view import Fence
from person_repo.writing import outage
from person_repo.writing.tombstones import PlacedTombstones

__all__ = ["invalidate"]


def invalidate(
    fence: Fence | None, backend: LeaseBackend, keys: Sequence[str] = (), groups: Sequence[str] = ()
) -> None:
    """Drop items and whole groups from a cache.

    Raises ``CacheUnavailableError`` if a server cannot be reached and ``on_unreachable`` is ``refuse``, or ``strict``
    and the fence cannot be written.
    """
    tombstones = PlacedTombstones()
    unplaced = tombstones.place(backend, keys, groups)
    try:
        if fence is not None and unplaced:
            outage.before_autocommit(fence, unplaced, held_for=0)
            fence.block_locally(unplaced)
    finally:
        tombstones.release({})
