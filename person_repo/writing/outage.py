"""A cache server cannot be reached when a transaction commits: what ``on_unreachable`` has done about it.

A tombstone that cannot be placed leaves an old entry at its *place* (a server, and the name of an item there), and some
reader may still reach that server. The fence, a table in the database, keeps such a reader from the cache: it names the
places that must not be believed, and every reader polls it within ``fence_interval``.

=========== ================================================ =======================================================
setting     right before the COMMIT                          what readers see
=========== ================================================ =======================================================
``proceed`` the places go into the fence, in the transaction old entries for ``fence_interval`` after it at most
``strict``  first into the fence in a transaction of our own, no old entry after the COMMIT
            then a wait until every reader has polled;
            then as ``proceed``
``refuse``  ``CacheUnavailableError``                        no change: nothing is committed
=========== ================================================ =======================================================

1. ``before_commit``: the COMMIT comes next, and its transaction still takes a statement.
2. ``before_autocommit``: what comes next commits by itself, or is prepared already: only a transaction of our own can
   hold the rows, and they are to be seen before the change.
3. ``after_commit``: a tombstone was placed, but its release met nobody.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Any, NamedTuple

import sqlalchemy as sa

from person_repo.cache.contract import Place
from person_repo.exceptions import CacheUnavailableError
from person_repo.fence.view import Fence

__all__ = ["OpenTransaction", "after_commit", "before_autocommit", "before_commit"]

logger = logging.getLogger("person_repo.writing")


class OpenTransaction(NamedTuple):
    """A DBAPI connection whose open transaction still takes a statement, and its dialect."""

    dbapi_connection: Any
    dialect: sa.Dialect


def before_commit(fence: Fence, places: Collection[Place], transaction: OpenTransaction) -> None:
    """Record places without a tombstone in the transaction that commits next, and so with its commit.

    Raises ``CacheUnavailableError`` under ``refuse``, and under ``strict`` where readers cannot be waited for; what the
    driver raises for the insert.
    """
    policy = fence.backend.settings.on_unreachable
    if policy == "strict" and not fence.publishes:
        raise CacheUnavailableError(
            f"{_shown(places)}, and on_unreachable='strict' has every reader know of that before the commit, which "
            "SQLite's one writer cannot do: nothing is committed; roll back, or choose 'proceed', which is stale for "
            "fence_interval at most"
        )
    if policy != "proceed":
        _wait_or_refuse(fence, places)
    fence.record(transaction.dbapi_connection, transaction.dialect, places)


def before_autocommit(fence: Fence, places: Collection[Place], *, held_for: float) -> None:
    """Record places without a tombstone at once, in a transaction of our own, for ``held_for`` seconds at least.

    Raises ``CacheUnavailableError`` under ``refuse``, and under ``strict`` where the fence cannot be written.
    """
    if fence.backend.settings.on_unreachable != "proceed":
        _wait_or_refuse(fence, places)
        return
    try:
        fence.insert(places, held_for=held_for)
    except CacheUnavailableError as exc:
        logger.error("a change is lost for readers that reach what this process does not, until the ttl: %s", exc)


def after_commit(fence: Fence, places: Collection[Place]) -> None:
    """Record places where a tombstone was placed and its release met nobody. Never raises: the change is committed.

    The server may have lost the tombstone in between, and taken an old entry.
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
    # Block last: a poll that began between the two would miss the row, and drop the local block.
    fence.block_locally(places)


def _wait_or_refuse(fence: Fence, places: Collection[Place]) -> None:
    """Return once every reader knows the places, under ``strict``; raise under ``refuse``.

    Row locks are held during the wait.
    """
    settings = fence.backend.settings
    if settings.on_unreachable == "refuse":
        raise CacheUnavailableError(
            f"{_shown(places)}, and on_unreachable is 'refuse': nothing is committed; roll back and try again"
        )
    # Nobody may deliver these before the COMMIT, which comes within a tombstone's life or was never covered.
    fence.insert(places, held_for=settings.tombstone_ttl + settings.fence_interval)
    fence.wait()


def _shown(places: Collection[Place]) -> str:
    servers = ", ".join(sorted({server for server, _ in places}))
    return f"{len(places)} tombstones could not be placed on {servers}"
