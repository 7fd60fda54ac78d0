"""What happened, as numbers: the counters behind ``stats()``."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

__all__ = ["Count", "Counters", "Stats"]


@dataclass(frozen=True, slots=True)
class Stats:
    """What a service or a region has done since it was made, as plain numbers.

    Reads: ``hits`` (answered by the cache), ``negative_hits`` (of these: known absences), ``misses`` (nobody knew,
    this reader loaded), ``renewals`` (a value was about to end, and this reader loaded it anew), ``waits`` (another
    reader was loading), ``bypasses`` (a writer's tombstone stood there),
    ``rejected`` (an item that names another key or schema, or cannot be decoded), ``loads`` (statements sent to the
    database to answer reads). Fills: ``fills`` (stored), ``fills_refused`` (the lease was lost; the log's "add failed"
    of old), ``uncacheable`` (a state that would not come back as it was). Writes: ``tombstones`` (placed),
    ``model_drops`` (whole models dropped), ``unplaced`` (tombstones that could not be placed). The fence:
    ``fence_polls`` (looks at what is undelivered), ``fenced`` (reads sent to the database by it), ``delivered``
    (invalidations delivered late). The cache: ``round_trips`` (exchanges, one per server), ``errors`` (exchanges that
    failed), ``circuit_open`` (exchanges not attempted, because the server had failed too often just before).
    """

    hits: int = 0
    negative_hits: int = 0
    misses: int = 0
    renewals: int = 0
    waits: int = 0
    bypasses: int = 0
    rejected: int = 0
    loads: int = 0
    fills: int = 0
    fills_refused: int = 0
    uncacheable: int = 0
    tombstones: int = 0
    model_drops: int = 0
    unplaced: int = 0
    fence_polls: int = 0
    fenced: int = 0
    delivered: int = 0
    round_trips: int = 0
    errors: int = 0
    circuit_open: int = 0

    def as_dict(self) -> dict[str, int]:
        """The numbers by name, in the order of the fields."""
        return asdict(self)

    def __add__(self, other: Stats) -> Stats:
        """Both together."""
        return Stats(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    def __sub__(self, earlier: Stats) -> Stats:
        """What happened since ``earlier``."""
        return Stats(**{f.name: getattr(self, f.name) - getattr(earlier, f.name) for f in fields(self)})


class Count:
    """A number that threads add to with ``+=``, without a lock and without losing anything.

    CPython with its GIL switches threads at calls and at loop edges. ``owner.number += f()`` on a plain number reads
    it, calls ``f``, and stores: what other threads added meanwhile is gone. Here ``f`` has returned before the
    number is read, and nothing is called between reading and storing. For the same reason ``owner.number.value += 1``
    loses nothing: the paths that count at each hit save the call with it.
    """

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def __iadd__(self, more: int) -> Count:
        """This count, with ``more`` added."""
        self.value += more
        return self

    def __repr__(self) -> str:
        return f"Count({self.value})"


class Counters:
    """Numbers that only grow, one attribute for each field of ``Stats``: ``counters.hits += 1``.

    Any thread may add, at about 0.1 us; a build without the GIL may lose some under contention. Read them with
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
    round_trips: Count
    errors: Count
    circuit_open: Count

    def __init__(self) -> None:
        for name in self.__slots__:
            setattr(self, name, Count())

    def snapshot(self) -> Stats:
        """The numbers as they are now."""
        return Stats(**{name: getattr(self, name).value for name in self.__slots__})
