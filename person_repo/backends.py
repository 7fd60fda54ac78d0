"""The contract for authors of cache backends, and the way from a region to the backend behind it.

A backend subclasses ``LeaseBackend`` and is registered with dogpile.cache; ``person_repo.testing.LeaseContract`` is the
suite that it passes. ``person_repo.cache.contract`` has the meaning of each name.
"""

from __future__ import annotations

from person_repo.cache.contract import (
    BLOCKED,
    BUSY,
    UNREACHABLE,
    Coherence,
    Expiring,
    Fetched,
    Lease,
    LeaseBackend,
    Outcome,
    Place,
    Tombstones,
    group_of,
    marker_of,
)
from person_repo.cache.memcached.backend import MemcachedBackend
from person_repo.cache.memory import MemoryBackend
from person_repo.cache.null import NullBackend
from person_repo.cache.region import lease_backend

__all__ = [
    "BLOCKED",
    "BUSY",
    "UNREACHABLE",
    "Coherence",
    "Expiring",
    "Fetched",
    "Lease",
    "LeaseBackend",
    "MemcachedBackend",
    "MemoryBackend",
    "NullBackend",
    "Outcome",
    "Place",
    "Tombstones",
    "group_of",
    "lease_backend",
    "marker_of",
]
