"""The options of a run of torture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from person_repo.exceptions import ConfigurationError
from person_repo.settings import CacheSettings
from person_repo.testing.torture.worlds import require_known
from person_repo.urls import parse_cache_url

__all__ = ["FAULTS", "Plan"]

FAULTS: Final = ("pause", "kill", "restart", "partition", "hang", "flush")
"""To a worker: ``pause`` stops it for a moment, ``kill`` kills it and starts another in its place, ``partition`` cuts
it off from a memcached that the others reach. To the memcached of the run: ``restart`` kills and starts it, ``hang``
stops it for longer than any worker waits, ``flush`` empties it.
"""

_DONE_TO_MEMCACHED: Final = {"restart": "kills", "hang": "stops", "flush": "empties"}
_UNREACHABLE: Final = frozenset({"restart", "partition", "hang"})
"""Faults during which a writer cannot place its tombstone."""

_SLACK: Final = 0.1
"""Seconds beyond the fence's interval by which a read may be late: the time that a poll takes."""

_PATIENCE: Final = 10.0
"""Seconds that workers wait for a server if no fault makes one unreachable: neither a pause nor a busy machine is an
outage then, and the bound of 0 holds.
"""

_MOST_KEYS: Final = 60_000
"""Keys fit in two bytes of a record."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The options of a run. Raises ``ConfigurationError`` for options that do not go together."""

    database_url: str
    """The database of the rows: a file or a server, which every process reaches."""

    cache_url: str = "memory://"
    """The cache under test. With ``memory://`` the workers are threads of this process, and there are no faults."""

    own_memcached: bool = False
    """Starts a memcached for the run, in place of ``cache_url``."""

    readers: int = 3
    writers: int = 2
    """How many workers read, and how many write."""

    keys: int = 20
    """How many rows they read and write: people, notes and dogs in turn."""

    seconds: float = 10.0
    """How long, once all workers are ready."""

    faults: tuple[str, ...] = ()
    """Which of ``FAULTS`` occur, in random order, one at a time."""

    on_unreachable: str = "proceed"
    fence_interval: float = 1.0
    """As in ``CacheSettings``, for all workers, whatever ``cache_url`` says."""

    against: str = "person_repo"
    """The layer under test; ``naive`` is the usual recipe (read through, delete after commit), in which a checker that
    works finds staleness.
    """

    world: str = "plain"
    """How the workers connect: the name of one of ``WORLDS``, or ``mixed``, in which each worker is in another."""

    seed: int = 0
    """Another seed makes other random choices."""

    prefix: str = ""
    """The beginning of this run's ids and of the names of its tables; ``run`` sets it."""

    def __post_init__(self) -> None:
        self._check_numbers()
        self._check_faults()
        if not self.in_threads and sa.make_url(self.database_url).database in (None, "", ":memory:"):
            raise ConfigurationError("a database in memory is one process's own: give a file or a server")

    def _check_numbers(self) -> None:
        if self.against not in ("person_repo", "naive"):
            raise ConfigurationError(f"against {self.against!r}: give person_repo or naive")
        for name in ("readers", "writers", "keys", "seconds"):
            if getattr(self, name) <= 0:
                raise ConfigurationError(f"{name} {getattr(self, name)!r}: give more than 0")
        if self.keys > _MOST_KEYS:
            raise ConfigurationError(f"keys {self.keys!r}: give at most {_MOST_KEYS}")
        CacheSettings().with_options(self.cache_options)
        require_known(self.world, self.database_url)

    def _check_faults(self) -> None:
        unknown = [fault for fault in self.faults if fault not in FAULTS]
        if unknown:
            raise ConfigurationError(f"unknown fault {unknown[0]!r}; known are: {', '.join(FAULTS)}")
        for fault, does in _DONE_TO_MEMCACHED.items():
            if fault in self.faults and not self.own_memcached:
                raise ConfigurationError(
                    f"{fault} {does} the memcached it works on: let one be started for it (own memcached)"
                )
        if self.faults and self.in_threads:
            raise ConfigurationError(
                f"{self.faults[0]} needs processes, and memory:// is coherent within one only: give a memcached:// URL"
            )
        if "partition" in self.faults and not (self.own_memcached or parse_cache_url(self.cache_url).servers):
            raise ConfigurationError("partition cuts a worker off from a server: give a memcached:// URL")

    @property
    def bound(self) -> float:
        """Seconds by which a read may be late: from the acknowledgement of a commit to the beginning of a read that
        misses it.

        0, unless commits ``proceed`` without their tombstones: readers learn of those from the fence.
        """
        proceeds = self.on_unreachable == "proceed" and self._loses_servers
        return self.fence_interval + _SLACK if proceeds else 0.0

    @property
    def cache_options(self) -> dict[str, Any]:
        """The settings of the workers' region that do not come from ``cache_url``."""
        patient = {} if self._loses_servers else {"timeout": _PATIENCE, "connect_timeout": _PATIENCE}
        return {"on_unreachable": self.on_unreachable, "fence_interval": self.fence_interval, **patient}

    @property
    def _loses_servers(self) -> bool:
        return not _UNREACHABLE.isdisjoint(self.faults)

    @property
    def in_threads(self) -> bool:
        """True if the workers are threads of this process."""
        return self.cache_url.startswith("memory://") and not self.own_memcached
