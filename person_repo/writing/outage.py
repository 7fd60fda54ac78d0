"""COMMIT while a cache server is down: the setting ``on_unreachable`` decides.

A tombstone that cannot reach its server leaves an old entry there, and some reader may still reach that server. The
fence, a table in the database, protects such a reader: each row names a *place* (a server, and an item on it) whose
entry must not be used, and every reader polls the table at least once in ``fence_interval``.

=========== ================================================= ===================================================
setting     right before the COMMIT                           what readers see after it
=========== ================================================= ===================================================
``proceed`` the places are written into the fence by the      old entries for at most ``fence_interval``
            transaction that commits; this is the default
``strict``  the places are written into the fence by a        no old entry
            transaction of our own, and we wait until every
            reader has polled; then as ``proceed``
``refuse``  ``CacheUnavailableError`` is raised               no change: nothing is committed
=========== ================================================= ===================================================

Three moments need a decision, and each has a function:

1. ``before_commit``: a COMMIT comes next, and its transaction can still execute a statement. The table says the rest.
2. ``before_autocommit``: the next statement commits by itself, or the transaction is prepared already. Only a
   transaction of our own can hold the fence's rows, and it must commit before the change does.
3. ``after_commit``: the tombstone was placed, but the server did not answer when it was to be removed. The places go
   into the fence at once, in a transaction of our own.
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
    """Record places where a tombstone was placed and its release met nobody. A failure is logged, since the change
    is committed.

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
