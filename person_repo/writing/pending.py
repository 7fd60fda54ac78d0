"""What a transaction has changed, and the two steps around its commit: tombstones before it, their release after.

What cannot be placed is told readers by the fence (``fence``), as the settings' ``on_unreachable`` says:

======= ====================================================================================================
proceed in the transaction itself: readers know of it an interval after the commit at most
strict  that, and beforehand in a transaction of its own, with the interval waited out: they know before
refuse  not at all: ``CacheUnavailableError`` is raised before the commit, and nothing has happened
======= ====================================================================================================
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NamedTuple, Protocol

import sqlalchemy as sa

from person_repo.cache.contract import LeaseBackend, Place, Tombstones
from person_repo.exceptions import CacheUnavailableError
from person_repo.fence.view import Fence

__all__ = ["Fences", "OpenTransaction", "Pending", "announce", "announced_apart", "release"]

logger = logging.getLogger("person_repo.writing")


class Fences(Protocol):
    """Where the fence of a cache is, for the database that is written."""

    def __call__(self, backend: LeaseBackend) -> Fence | None:
        """The fence of a backend's cache, or None if that cache has none."""


class OpenTransaction(NamedTuple):
    """A DBAPI connection in whose transaction something can still be written, and its dialect."""

    dbapi_connection: Any
    dialect: sa.Dialect


@dataclass(slots=True)
class _Changed:
    """What a transaction changed of the items of one cache: these keys, by group, and these whole groups."""

    keys: dict[str, set[str]] = field(default_factory=dict)
    groups: set[str] = field(default_factory=set)

    def every_key(self) -> list[str]:
        return [*chain.from_iterable(self.keys.values())]

    def add_group(self, group: str) -> None:
        self.groups.add(group)
        self.keys.pop(group, None)


@dataclass(slots=True)
class Pending:
    """What one DBAPI connection's transaction changed, and the tombstones that it has placed so far."""

    fences: Fences
    begun_by_text: bool = False
    begun_by_savepoint: bool = False
    _changed: dict[LeaseBackend, _Changed] = field(default_factory=dict)
    _placed: list[tuple[LeaseBackend, Tombstones]] = field(default_factory=list)
    _recorded: dict[LeaseBackend, set[Place]] = field(default_factory=dict)
    _doubts: list[tuple[LeaseBackend, str]] = field(default_factory=list)

    def add(self, backend: LeaseBackend, group: str, keys: Iterable[str]) -> None:
        """Notes changed items of a group."""
        changed = self._changed_in(backend)
        if group in changed.groups:
            return
        known = changed.keys.setdefault(group, set())
        known.update(keys)
        if len(known) > backend.settings.max_keys:
            changed.add_group(group)

    def add_group(self, backend: LeaseBackend, group: str) -> None:
        """Notes that any item of a group may have changed."""
        self._changed_in(backend).add_group(group)

    def _changed_in(self, backend: LeaseBackend) -> _Changed:
        found = self._changed.get(backend)
        if found is None:
            found = self._changed[backend] = _Changed()
        return found

    def doubt(self, backend: LeaseBackend, group: str) -> None:
        """Notes items of a group that are not known yet: as long as they are not, they are the whole group."""
        self._doubts.append((backend, group))

    def settle(self, backend: LeaseBackend, group: str) -> None:
        """Takes back one ``doubt``: the items are known, and noted, or none has changed."""
        self._doubts.remove((backend, group))

    def drops(self, backend: LeaseBackend, group: str) -> bool:
        """Whether a whole group is noted already, so that no item of it need be."""
        changed = self._changed.get(backend)
        return changed is not None and group in changed.groups

    def put(self, transaction: OpenTransaction | None) -> None:
        """Places tombstones on all that changed, and tells the fence what could not be placed.

        ``transaction``: the one whose commit comes next; None where what comes next commits by itself, or cannot take
        another statement. Raises ``CacheUnavailableError`` under ``refuse``, and under ``strict`` where readers cannot
        be told; what the driver raises for an insert.
        """
        for backend, group in self._doubts:
            self.add_group(backend, group)
        try:
            for backend, changed in self._changed.items():
                keys = changed.every_key()
                if keys or changed.groups:
                    placed = announce(backend, keys, changed.groups)
                    self._placed += placed
                    if missing := _missing(placed):
                        self._tell(backend, missing, transaction)
        except BaseException:
            self.withdraw()
            raise

    def put_afterwards(self) -> None:
        """``put`` for what a statement turned out to have changed once it had run: too late to refuse it."""
        for backend, changed in self._changed.items():
            placed = announce(backend, changed.every_key(), changed.groups)
            self._placed += placed
            fence = self.fences(backend)
            if fence is not None:
                _tell_afterwards(fence, _missing(placed))

    def _tell(self, backend: LeaseBackend, missing: set[Place], transaction: OpenTransaction | None) -> None:
        if transaction is not None or backend.settings.on_unreachable == "proceed":
            # Else what readers were told when this was prepared may have been delivered since.
            missing -= self._recorded.get(backend, set())
        fence = self.fences(backend) if missing else None
        if fence is None:
            return
        if transaction is None:
            # It is to be seen before the change is made, so nobody may deliver it meanwhile.
            _tell_apart(fence, missing, held_for=backend.settings.tombstone_ttl)
            return
        if backend.settings.on_unreachable != "proceed":
            _check_can_tell(fence, missing)
            _tell_beforehand(fence, missing)
        fence.record(transaction.dbapi_connection, transaction.dialect, missing)
        self._recorded.setdefault(backend, set()).update(missing)

    def end(self, *, committed: bool = True) -> None:
        """Releases the tombstones: the transaction is over. Never raises."""
        recorded, self._recorded = self._recorded, {}
        self._changed = {}
        left = self.withdraw()
        if not committed:
            return
        for backend in {*recorded, *left}:
            fence = self.fences(backend)
            if fence is not None:
                fence.block_locally(recorded.get(backend, ()))
                _tell_afterwards(fence, left.get(backend, set()) - recorded.get(backend, set()))

    def withdraw(self) -> dict[LeaseBackend, set[Place]]:
        """Releases them, and forgets nothing of what changed: the transaction goes on. Where nobody answered."""
        placed, self._placed = self._placed, []
        return release(placed)


def announce(
    backend: LeaseBackend, keys: Sequence[str], groups: Iterable[str] = ()
) -> list[tuple[LeaseBackend, Tombstones]]:
    """Places tombstones before a change; what is returned goes to ``release`` after it. Never raises for the cache."""
    names = list(groups)
    try:
        tombstones = backend.put_tombstones(keys, names)
    except Exception:
        backend.counters.errors += 1
        logger.exception("tombstones could not be placed; cached reads may be old until the ttl")
        return []
    backend.counters.tombstones += len(keys)
    backend.counters.model_drops += len(names)
    _count_unplaced(backend, tombstones)
    return [(backend, tombstones)]


def _missing(placed: Iterable[tuple[LeaseBackend, Tombstones]]) -> set[Place]:
    """Where tombstones could not be placed."""
    return set().union(*[tombstones.missing for _, tombstones in placed])


def announced_apart(
    fence: Fence | None, backend: LeaseBackend, keys: Sequence[str], groups: Iterable[str] = ()
) -> list[tuple[LeaseBackend, Tombstones]]:
    """``announce`` for a change that was made already, and by nobody who is covered. Raises as ``Pending.put`` does."""
    placed = announce(backend, keys, groups)
    missing = _missing(placed)
    if fence is None or not missing:
        return placed
    try:
        _tell_apart(fence, missing, held_for=0)
    except CacheUnavailableError:
        release(placed)
        raise
    fence.block_locally(missing)
    return placed


def release(placed: Iterable[tuple[LeaseBackend, Tombstones]]) -> dict[LeaseBackend, set[Place]]:
    """Releases tombstones once the change they announced is over; where nobody answered. Never raises: the data is
    committed, or rolled back.
    """
    left: dict[LeaseBackend, set[Place]] = {}
    for backend, tombstones in placed:
        try:
            silent = backend.release(tombstones)
        except Exception:
            backend.counters.errors += 1
            logger.exception("tombstones could not be released; their keys go to the database until the ttl")
        else:
            if silent:
                left.setdefault(backend, set()).update(silent)
    return left


# What readers are told, and when


def _check_can_tell(fence: Fence, places: Collection[Place]) -> None:
    """Raises where readers cannot be told while a transaction is open."""
    if fence.backend.settings.on_unreachable == "strict" and not fence.publishes:
        raise CacheUnavailableError(
            f"{_said(places)}, and under on_unreachable='strict' readers are told before the commit, which SQLite's "
            "one writer cannot do: nothing is committed; roll back, or choose 'proceed', which is stale for "
            "fence_interval at most"
        )


def _tell_beforehand(fence: Fence, places: Collection[Place]) -> None:
    """Makes it certain that every reader knows before the change is made; raises where that is not wanted or cannot be.

    Row locks are held while this waits: a COMMIT that takes longer than a tombstone lives was never covered.
    """
    settings = fence.backend.settings
    if settings.on_unreachable == "refuse":
        raise CacheUnavailableError(
            f"{_said(places)}, and on_unreachable is 'refuse': nothing is committed; roll back and try again"
        )
    fence.insert(places, held_for=settings.tombstone_ttl + settings.fence_interval)
    fence.wait()


def _said(places: Collection[Place]) -> str:
    servers = ", ".join(sorted({server for server, _ in places}))
    return f"{len(places)} tombstones could not be placed on {servers}"


def _tell_apart(fence: Fence, places: Collection[Place], *, held_for: float) -> None:
    """Tells of a change that is no transaction's in which something could be written."""
    if fence.backend.settings.on_unreachable != "proceed":
        _tell_beforehand(fence, places)
        return
    try:
        fence.insert(places, held_for=held_for)
    except CacheUnavailableError as exc:
        logger.error("a change is lost for readers that reach what this process does not, until the ttl: %s", exc)


def _tell_afterwards(fence: Fence, places: Collection[Place]) -> None:
    """Tells of a change that is made. Where a tombstone was placed and its release met nobody, it may have been lost in
    between, and an old entry filled.
    """
    if not places:
        return
    try:
        fence.insert(places)
    except CacheUnavailableError as exc:
        logger.warning("what could not be released goes to the database until its ttl: %s", exc)
    else:
        if fence.backend.settings.on_unreachable == "strict":
            fence.wait()
    # Not before: a look that began in between would have found nothing yet, and taken the note for seen to.
    fence.block_locally(places)


_untold: weakref.WeakKeyDictionary[LeaseBackend, set[str]] = weakref.WeakKeyDictionary()


def _count_unplaced(backend: LeaseBackend, tombstones: Tombstones) -> None:
    """Counts what could not be placed; logs for each server that it began, and that it is over."""
    backend.counters.unplaced += len(tombstones.failed_keys) + len(tombstones.failed_groups)
    if not (tombstones.missing or _untold):
        return
    untold = _untold.setdefault(backend, set())
    for server in sorted(untold & tombstones.reached):
        untold.discard(server)
        logger.info("tombstones can be placed on %s again", server)
    for server in sorted({server for server, _ in tombstones.missing} - untold):
        untold.add(server)
        if backend.fenced:
            logger.warning(
                "tombstones could not be placed on %s; on_unreachable is %r", server, backend.settings.on_unreachable
            )
        else:
            logger.error("tombstones could not be placed on %s; cached reads may be old until the ttl", server)
