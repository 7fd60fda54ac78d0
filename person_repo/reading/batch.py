"""A batch: the ids of one read, and what is known of each so far."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from person_repo.cache.contract import BUSY, Lease, Outcome
from person_repo.mapped.mapping import Identity, Row

__all__ = ["Batch"]


class Batch:
    """Distinct ids that are read together. An index into ``ids`` stands for one of them everywhere.

    ``keys`` are those on the wire, ``full_keys`` those that the items must name. ``identities``: None if each id is the
    only value of its key. The others change during the read:

    - ``rows``: the answers, None for an id without a row, and for one that is still to be loaded;
    - ``to_load``: index to reason, for each row that the cache did not give: a lease to fill the item, or an outcome;
    - ``current``: rows due for renewal, already decoded; the fallback if the reload fails.
    """

    __slots__ = ("_identities", "current", "full_keys", "ids", "keys", "rows", "to_load")

    def __init__(
        self,
        ids: Sequence[Any],
        keys: Sequence[str],
        full_keys: Sequence[str],
        identities: Sequence[Identity] | None = None,
    ) -> None:
        self.ids = ids
        self.keys = keys
        self.full_keys = full_keys
        self._identities = identities
        self.rows: list[Row | None] = [None] * len(ids)
        self.to_load: dict[int, Lease | Outcome] = {}
        self.current: dict[int, Row | None] = {}

    def identities(self, indices: Sequence[int]) -> list[Identity]:
        """The identities at these indices."""
        if self._identities is None:
            return [(self.ids[index],) for index in indices]
        return [self._identities[index] for index in indices]

    @property
    def busy(self) -> list[int]:
        """The indices of items that other readers are loading."""
        return [index for index, reason in self.to_load.items() if reason is BUSY]

    @property
    def free(self) -> list[int]:
        """The indices of items to load that no other reader is known to load."""
        return [index for index, reason in self.to_load.items() if reason is not BUSY]

    @property
    def leases(self) -> list[Lease]:
        """The leases that this read holds."""
        return [reason for reason in self.to_load.values() if isinstance(reason, Lease)]
