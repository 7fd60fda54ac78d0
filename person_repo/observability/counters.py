"""The counters behind ``stats()``, and their values as a frozen dataclass."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

__all__ = ["Count", "Counters", "Stats"]


@dataclass(frozen=True, slots=True)
class Stats:
    """Counts since a service or a region was made; they only grow, and two of them can be added and subtracted."""

    # Reads
    hits: int = 0
    """Entities that the cache answered."""
    negative_hits: int = 0
    """Of these: entities that the cache knows not to exist."""
    misses: int = 0
    """Entities that were in no cache: this reader took the lease and loaded them."""
    renewals: int = 0
    """Entities whose cached value was about to expire: this reader loaded them again."""
    waits: int = 0
    """Entities for which this reader waited, because another reader was loading them."""
    bypasses: int = 0
    """Entities loaded and not stored: a writer's tombstone stood there, or the server did not answer."""
    rejected: int = 0
    """Items of no use: of another schema or key, not decodable, not sealed with a known secret, or refused by a
    ``load`` listener that accepts the database's row.
    """
    loads: int = 0
    """Loads from the database: one for a ``get_many``, and more for entities that it waited for in vain."""

    # Fills
    fills: int = 0
    """Entities stored."""
    fills_refused: int = 0
    """Entities not stored, because a writer took the lease, the value is larger than the server accepts, or the server
    had no room: "add failed" in the log.
    """
    uncacheable: int = 0
    """Entities not stored, because they would not come back exactly as they were, or nobody knows that what was read is
    committed: beside an open transaction, by an unknown driver.
    """

    # Writes
    tombstones: int = 0
    """Tombstones that transactions and ``invalidate`` placed, or tried to place."""
    model_drops: int = 0
    """Whole classes dropped: by SQL text, by more than ``max_keys`` rows, by ``invalidate_all``."""
    unplaced: int = 0
    """Tombstones that could not be placed, because a server did not answer."""

    # The fence
    fence_polls: int = 0
    """Polls of the table of undelivered invalidations: at most one in ``fence_interval``, and none without reads."""
    fenced: int = 0
    """Entities read from the database, because an invalidation of theirs may not have reached the cache; each is a
    bypass, too.
    """
    delivered: int = 0
    """Invalidations that this process delivered to the cache after their commit."""
    other_servers: int = 0
    """Services that found entries of their database cached from another server: a promoted replica, or a copy whose
    identity was not renewed.
    """

    # The cache
    round_trips: int = 0
    """Exchanges with a server; servers count separately."""
    errors: int = 0
    """Exchanges that failed."""
    circuit_open: int = 0
    """Exchanges not attempted, because the server had just failed too often."""

    def as_dict(self) -> dict[str, int]:
        """The counts by name, in the order above."""
        return asdict(self)

    def __add__(self, other: Stats) -> Stats:
        """The sum of each count, as for two services."""
        return Stats(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    def __sub__(self, earlier: Stats) -> Stats:
        """The counts since ``earlier``."""
        return Stats(**{f.name: getattr(self, f.name) - getattr(earlier, f.name) for f in fields(self)})


class Count:
    """A number that threads add to with ``+=``, without a lock and without a lost update.

    CPython with its GIL switches threads at calls and at loop edges. With a plain number, ``owner.number += f()`` reads
    it, calls ``f`` and stores the sum: additions by other threads during the call are lost. Here ``f`` returns before
    the number is read, and nothing is called between read and store. ``owner.number.value += 1`` is as safe, and saves
    a call: the fast path of a hit counts with it.
    """

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def __iadd__(self, more: int) -> Count:
        """Adds ``more``."""
        self.value += more
        return self

    def __repr__(self) -> str:
        return f"Count({self.value})"


class Counters:
    """One ``Count`` for each field of ``Stats``: ``counters.hits += 1``. They only grow.

    Any thread may add, at about 0.1 us; a build without the GIL may lose some updates under contention. Read them with
    ``snapshot``.
    """

    __slots__ = tuple(field.name for field in fields(Stats))

    hits: Count
    negative_hits: Count
    misses: Count
    renewals: Count
    waits: Count
    bypasses: Count
    rejected: Count
    loads: Count
    fills: Count
    fills_refused: Count
    uncacheable: Count
    tombstones: Count
    model_drops: Count
    unplaced: Count
    fence_polls: Count
    fenced: Count
    delivered: Count
    other_servers: Count
    round_trips: Count
    errors: Count
    circuit_open: Count

    def __init__(self) -> None:
        for name in self.__slots__:
            setattr(self, name, Count())

    def snapshot(self) -> Stats:
        """The counts as they are now."""
        return Stats(**{name: getattr(self, name).value for name in self.__slots__})
