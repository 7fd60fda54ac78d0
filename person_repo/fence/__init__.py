"""Invalidations that could not reach a cache server: kept in the database, known to every reader, delivered later.

A commit whose tombstones cannot be placed leaves an old entry on a server that others may still reach. So the *places*
(a server, and an item there) are written to a table of ours, ``person_repo_fence``, in the same transaction: other
processes see them from the commit on, and not without it. Every process that reads through the cache polls that table
at most once in ``fence_interval``, and reads from the database what is named there. A process that reaches the server
removes what stands at the place, and then deletes the row.

Three times make it hold:

1. A process uses one poll for ``fence_interval`` and a moment, counted from the beginning of the poll.
2. Under ``strict`` a writer makes the rows visible first and waits that long before it commits.
3. Nobody delivers a row before its ``held_until``: a row that is visible before its commit must outlast that commit.

``view`` is what one process knows of the fence, and the object that others use (``Fence``); ``table`` reads and writes
the rows. The page on coherence has the proof.
"""
