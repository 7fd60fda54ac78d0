"""A bulkhead ("Release It!", Nygard, 2007): lets so many threads in at a time."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from person_repo.exceptions import OverloadError

__all__ = ["Bulkhead"]

_MOMENT = 0.05


class Bulkhead:
    """Lets ``limit`` threads in at a time, in the order they came; each waits ``wait`` seconds for its turn at most.

    Each thread has a ticket, and the first ``limit`` tickets are in. A ticket is taken and given back by one step of
    the interpreter: an exception that another thread sends, or Ctrl-C, comes before it or after it. With a semaphore it
    may come after the number is taken and before anybody knows by whom, and that place is lost for good.
    """

    def __init__(self, limit: int, wait: float) -> None:
        self._limit = limit
        self._wait = wait
        # By process: the threads that were in when this one was forked do not exist here.
        self._tickets: dict[int, dict[int, threading.Lock]] = {}

    @contextmanager
    def entered(self, *, may_wait: bool = True) -> Iterator[bool]:
        """A block that only ``limit`` threads are in; yields True if this one had to wait. A thread that is in already
        does not wait again.

        Raises ``OverloadError`` if this thread's turn does not come in time; at once unless it ``may_wait``.
        """
        tickets = self._tickets.setdefault(os.getpid(), {})
        me = threading.get_ident()
        try:
            tickets[me] = threading.Lock()
            yield self._wait_for_turn(tickets, me, self._wait if may_wait else 0.0)
        finally:
            tickets.pop(me, None)
            self._call(tickets)

    def _wait_for_turn(self, tickets: dict[int, threading.Lock], me: int, wait: float) -> bool:
        if me in self._first(tickets):
            return False
        until = time.monotonic() + wait
        called = tickets[me]
        called.acquire()
        while me not in self._first(tickets):
            remaining = until - time.monotonic()
            if remaining <= 0:
                raise OverloadError(
                    f"{self._limit} loads from the database (max_loads) were under way for {wait} s "
                    "(max_load_wait); give either a larger number, or the database more room"
                )
            # A thread that leaves calls the next one, but may be interrupted before that: so look again in a moment.
            called.acquire(timeout=min(remaining, _MOMENT))
        return True

    def _first(self, tickets: dict[int, threading.Lock]) -> list[int]:
        return list(tickets)[: self._limit]

    def _call(self, tickets: dict[int, threading.Lock]) -> None:
        for thread in self._first(tickets):
            ticket = tickets.get(thread)
            if ticket is not None and ticket.locked():
                with suppress(RuntimeError):  # Another thread called it just now.
                    ticket.release()
