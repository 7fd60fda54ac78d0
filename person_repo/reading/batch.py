"""A batch: the ids of one read, and what is known of each so far."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from person_repo.cache.contract import Lease, Outcome
from person_repo.mapped.mapping import Identity, Row

__all__ = ["Batch"]


class Batch:
    """Distinct ids that are read together. An index into ``ids`` stands for one of them everywhere.

    ``keys`` are those on the wire, ``full_keys`` those that the items must name. ``identities``: None if each id is the
    only value of its key. ``indices``: all of them, in order. The others change during the read:

    - ``rows``: the answers, None for an id without a row, and for one that is in ``to_load`` or ``busy``;
    - ``to_load``: rows that the cache did not give, each with the reason: a lease to fill the item, or an outcome;
    - ``busy``: rows that other readers are loading, so that this one waits for them;
    - ``current``: rows due for renewal, already decoded; the fallback if the reload fails.
    """

    __slots__ = ("_identities", "busy", "current", "full_keys", "ids", "indices", "keys", "rows", "to_load")

    def __init__(
        self,
        ids: Sequence[Any],
        keys: Sequence[str],
        full_keys: Sequence[str],
        identities: Sequence[Identity] | None = None,
    ) -> None:
        self.ids = ids
        self.indices = range(len(ids))
        self.keys = keys
        self.full_keys = full_keys
        self._identities = identities
        self.rows: list[Row | None] = [None] * len(ids)
        self.to_load: dict[int, Lease | Outcome] = {}
        self.busy: dict[int, Outcome] = {}
        self.current: dict[int, Row | None] = {}

    def identities(self) -> list[Identity]:
        """The identities of the rows to load."""
        if self._identities is None:
            return [(self.ids[index],) for index in self.to_load]
        return [self._identities[index] for index in self.to_load]

    @property
    def leases(self) -> list[Lease]:
        """The leases that this read holds."""
        return [reason for reason in self.to_load.values() if isinstance(reason, Lease)]

    @property
    def may_stay(self) -> bool:
        """True if each row to load has a current value, so that nothing need be loaded."""
        return self.to_load.keys() <= self.current.keys()

    def answer(self, indices: Sequence[int], rows: list[Row | None]) -> None:
        """Keep the rows of these, which are neither to be loaded nor waited for any more."""
        if indices is self.indices:
            self.rows = rows
        else:
            for index, row in zip(indices, rows, strict=True):
                self.rows[index] = row
        self.forget(indices)

    def forget(self, indices: Sequence[int]) -> None:
        """Drop what an earlier fetch said of these."""
        if self.busy or self.to_load:
            for index in indices:
                self.busy.pop(index, None)
                self.to_load.pop(index, None)

    def stop_waiting(self) -> None:
        """Load the rest instead of waiting for it."""
        self.to_load.update(self.busy)
        self.busy.clear()
