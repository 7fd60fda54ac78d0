"""URLs of caches whose deadlines no busy machine misses."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlencode

from support.servers import Memcached

__all__ = ["MEMORY", "patient_url"]

_PATIENT = {"timeout": 10, "connect_timeout": 10, "lease_ttl": 600}
"""Seconds. With the defaults a hit takes too long, or a fill comes too late, where several suites share a machine."""

MEMORY = f"memory://?lease_ttl={_PATIENT['lease_ttl']}"
"""A cache in memory."""


def patient_url(servers: Iterable[Memcached], **options: object) -> str:
    """The URL of a cache on these servers; ``options`` are for tests that are about a deadline."""
    return f"memcached://{','.join(server.url for server in servers)}?{urlencode({**_PATIENT, **options})}"
