"""The changes of one transaction: recorded as its statements run, announced by tombstones right before its COMMIT."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain
from typing import Protocol

from person_repo.cache.contract import LeaseBackend, Place
from person_repo.fence.view import Fence
from person_repo.writing import outage
from person_repo.writing.outage import OpenTransaction
from person_repo.writing.tombstones import PlacedTombstones

__all__ = ["Pending", "Written"]

logger = logging.getLogger("person_repo.writing")


class Written(Protocol):
    """The database that a transaction writes."""

    def fence_of(self, backend: LeaseBackend) -> Fence | None:
        """The fence of a backend's cache, or None if that cache has none."""

    def settle(self, pending: Pending) -> None:
        """The outcome of the transaction is known: the tables that it may have defined anew can be asked for again."""


@dataclass(slots=True)
class _Changed:
    """The changed items of one cache: keys by group, and whole groups."""

    keys: dict[str, set[str]] = field(default_factory=dict)
    groups: set[str] = field(default_factory=set)

    def add_group(self, group: str) -> None:
        self.groups.add(group)
        self.keys.pop(group, None)


@dataclass(eq=False, slots=True, weakref_slot=True)
class Pending:
    """The changes of one DBAPI connection's transaction, and the tombstones placed for them so far.

    ``add``, ``add_group``, ``suspect`` and ``resolve`` record; ``place`` comes before the COMMIT, ``finish`` after the
    outcome. ``begun_by_text``, ``begun_by_savepoint``: the host's own SQL began the transaction. ``alters``: it
    may define tables anew. ``is_left_open``: a statement has run and left it open.
    """

    written: Written
    begun_by_text: bool = False
    begun_by_savepoint: bool = False
    alters: bool = False
    is_left_open: bool = False
    _changed: dict[LeaseBackend, _Changed] = field(default_factory=dict)
    _suspected: list[tuple[LeaseBackend, str]] = field(default_factory=list)
    _tombstones: PlacedTombstones = field(default_factory=PlacedTombstones)
    _recorded: dict[LeaseBackend, set[Place]] = field(default_factory=dict)

    def add(self, backend: LeaseBackend, group: str, keys: Iterable[str]) -> None:
        """Record changed items of a group. More than ``max_keys`` of them are the whole group."""
        changed = self._changed.get(backend)
        if changed is None:
            changed = self._changed[backend] = _Changed()
        if group in changed.groups:
            return
        known = changed.keys.setdefault(group, set())
        known.update(keys)
        if len(known) > backend.settings.max_keys:
            changed.add_group(group)

    def add_group(self, backend: LeaseBackend, group: str) -> None:
        """Record that any item of a group may have changed."""
        self._changed.setdefault(backend, _Changed()).add_group(group)

    def has_whole(self, backend: LeaseBackend, group: str) -> bool:
        """True if a whole group is recorded already, so that no item of it need be."""
        changed = self._changed.get(backend)
        return changed is not None and group in changed.groups

    def suspect(self, backend: LeaseBackend, group: str) -> None:
        """Count the whole group as changed until ``resolve``: items of it change, and their keys are not known yet."""
        self._suspected.append((backend, group))

    def resolve(self, backend: LeaseBackend, group: str) -> None:
        """End one ``suspect``: the items are recorded, or none has changed."""
        self._suspected.remove((backend, group))

    def place(self, transaction: OpenTransaction | None) -> None:
        """Place tombstones on all that changed, and do for the others what ``on_unreachable`` says (``outage``).

        ``transaction``: the one whose COMMIT comes next; None if what comes next commits by itself, or takes no further
        statement. Raises ``CacheUnavailableError`` as ``outage`` does, and what the driver raises for an insert.
        """
        for backend, group in self._suspected:
            self.add_group(backend, group)
        try:
            for backend, changed in self._changed.items():
                keys = [*chain.from_iterable(changed.keys.values())]
                if keys or changed.groups:
                    unplaced = self._tombstones.place(backend, keys, changed.groups)
                    if unplaced:
                        self._record_unplaced(backend, unplaced, transaction)
        except BaseException:
            self.release_early()
            raise

    def place_afterwards(self) -> None:
        """``place`` for a statement that has run and committed: too late to refuse it."""
        for backend, changed in self._changed.items():
            keys = [*chain.from_iterable(changed.keys.values())]
            unplaced = self._tombstones.place(backend, keys, changed.groups)
            fence = self.written.fence_of(backend) if unplaced else None
            if fence is not None:
                outage.after_commit(fence, unplaced)

    def announce_late(self) -> None:
        """The transaction was ended on the driver's own connection, and may have been committed: announce it now."""
        logger.warning(
            "a transaction that changed cached rows was ended on the driver's own connection; it counts as committed, "
            "and until now cached reads of these rows may have been old"
        )
        self.place_afterwards()

    def _record_unplaced(
        self, backend: LeaseBackend, places: frozenset[Place], transaction: OpenTransaction | None
    ) -> None:
        recorded = self._recorded.get(backend, set())
        if transaction is not None or backend.settings.on_unreachable == "proceed":
            # Otherwise a transaction prepared long ago commits now: rows inserted at its PREPARE may be delivered.
            places = places - recorded
        fence = self.written.fence_of(backend) if places else None
        if fence is None:
            return
        if transaction is None:
            # The rows are visible before the change is made: nobody may deliver them as long as a tombstone could live.
            outage.before_autocommit(fence, places, held_for=backend.settings.tombstone_ttl)
        else:
            outage.before_commit(fence, places, transaction)
            self._recorded[backend] = recorded | places

    def finish(self, *, committed: bool = True) -> None:
        """Release the tombstones: the transaction is over. Raises nothing but what the host has sent meanwhile."""
        if self.alters:
            self.written.settle(self)
        recorded, self._recorded = self._recorded, {}
        self._changed = {}
        unanswered: dict[LeaseBackend, set[Place]] = {}
        try:
            self._tombstones.release(unanswered)
        finally:
            if committed and (recorded or unanswered):
                self._fence_after(recorded, unanswered)

    def release_made(self) -> None:
        """Release the tombstones and keep the changes: they are made for everybody, and the transaction goes on."""
        unanswered: dict[LeaseBackend, set[Place]] = {}
        try:
            self._tombstones.release(unanswered)
        finally:
            self._fence_after({}, unanswered)

    def _fence_after(
        self, recorded: dict[LeaseBackend, set[Place]], unanswered: dict[LeaseBackend, set[Place]]
    ) -> None:
        """Block the places that the transaction recorded, and record those where the release met nobody."""
        for backend in {*recorded, *unanswered}:
            fence = self.written.fence_of(backend)
            if fence is not None:
                in_transaction = recorded.get(backend, set())
                fence.block_locally(in_transaction)
                outage.after_commit(fence, unanswered.get(backend, set()) - in_transaction)

    def release_early(self) -> None:
        """Release the tombstones and keep the changes: the transaction goes on."""
        self._tombstones.release({})
