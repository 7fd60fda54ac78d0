"""Tombstones that stand on the caches from right before a change until its outcome is known."""

from __future__ import annotations

import functools
import logging
import weakref
from collections.abc import Iterable, Sequence

from person_repo.cache.contract import LeaseBackend, Place, Tombstones
from person_repo.interruptions import is_repeated

__all__ = ["PlacedTombstones"]

logger = logging.getLogger("person_repo.writing")


class PlacedTombstones:
    """The tombstones of one change: ``place`` before it, ``release`` after it. Neither raises for a failing cache: a
    backend does not. Other exceptions, such as those that the host sends, leave.
    """

    __slots__ = ("_placed",)

    def __init__(self) -> None:
        self._placed: list[tuple[LeaseBackend, Tombstones]] = []

    def place(self, backend: LeaseBackend, keys: Sequence[str], groups: Iterable[str] = ()) -> frozenset[Place]:
        """Place tombstones on items and whole groups; returns the places where none could be put."""
        names = list(groups)
        tombstones = backend.put_tombstones(keys, names)
        backend.counters.tombstones += len(keys)
        backend.counters.model_drops += len(names)
        self._placed.append((backend, tombstones))
        if tombstones.missing or backend in _unreachable:
            _log_reachability(backend, tombstones)
        backend.counters.unplaced += len(tombstones.failed_keys) + len(tombstones.failed_groups)
        return tombstones.missing

    def release(self, unanswered: dict[LeaseBackend, set[Place]]) -> None:
        """Remove them; adds to ``unanswered``, by cache, the places where no server answered. May be called again.

        An exception of the host's that comes meanwhile is raised once all are released. One that no ``Exception`` is,
        such as Ctrl-C, is raised at once: the tombstones that are left stand until their ttl.
        """
        placed, self._placed = self._placed, []
        interruption: Exception | None = None
        for backend, tombstones in placed:
            try:
                if silent := backend.release(tombstones):
                    unanswered.setdefault(backend, set()).update(silent)
            except Exception as exc:
                if is_repeated(exc, functools.partial(_release, backend, tombstones, unanswered)):
                    backend.counters.errors += 1
                    logger.exception("tombstones could not be released; their keys go to the database until the ttl")
                else:
                    interruption = exc
        if interruption is not None:
            raise interruption


def _release(backend: LeaseBackend, tombstones: Tombstones, unanswered: dict[LeaseBackend, set[Place]]) -> None:
    """The same again, after an exception that may not have been the backend's."""
    if silent := backend.release(tombstones):
        unanswered.setdefault(backend, set()).update(silent)


_unreachable: weakref.WeakKeyDictionary[LeaseBackend, set[str]] = weakref.WeakKeyDictionary()
"""The servers of a cache on which the last tombstones could not be placed. A cache without any is not in here."""


def _log_reachability(backend: LeaseBackend, tombstones: Tombstones) -> None:
    """Log, for each server, that tombstones cannot be placed on it, and later that they can: once each."""
    unreachable = _unreachable.setdefault(backend, set())
    for server in sorted(unreachable & tombstones.reached):
        unreachable.discard(server)
        logger.info("tombstones can be placed on %s again", server)
    for server in sorted({server for server, _ in tombstones.missing} - unreachable):
        unreachable.add(server)
        if backend.fenced:
            logger.warning(
                "tombstones could not be placed on %s; on_unreachable is %r", server, backend.settings.on_unreachable
            )
        else:
            logger.error("tombstones could not be placed on %s; cached reads may be old until the ttl", server)
    if not unreachable:
        _unreachable.pop(backend, None)
