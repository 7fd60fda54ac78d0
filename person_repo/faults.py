"""What turns failures into decisions: a circuit breaker and a bulkhead. Pure; the clock is an argument.

"Release It!" (Nygard, 2007) named both. A breaker that is closed lets everybody ask; open, nobody, and to be told so
costs a comparison; half-open, one caller, and what that one finds decides. A bulkhead lets so many in at a time.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from person_repo.exceptions import OverloadError

__all__ = ["Breaker", "Bulkhead"]

_CLOSED = 0.0
_MOMENT = 0.05


class Breaker:
    """Whether something that fails may be asked again.

    ``failures`` in a row open it; ``reset`` seconds later one caller may probe, and another one after each further
    ``reset`` seconds for as long as none has succeeded. ``clock`` tells seconds and never goes back. Any thread may
    use it.
    """

    __slots__ = ("_clock", "_failed", "_failures", "_lock", "_probe_at", "_reset", "is_failing")

    def __init__(self, *, failures: int = 3, reset: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._failures = failures
        self._reset = reset
        self._clock = clock
        self._lock = threading.Lock()
        self._failed = 0
        self._probe_at = _CLOSED
        self.is_failing = False
        """Whether there was a failure since the last success. Where there was none, everybody may ask."""

    @property
    def is_closed(self) -> bool:
        """Whether everybody may ask."""
        return self._probe_at == _CLOSED

    def allows(self) -> bool:
        """Whether this caller may ask now. One that may while it is open is the probe, and must tell how it went.

        A probe that never tells, because its thread was ended, costs ``reset`` seconds and nothing more.
        """
        if self._probe_at == _CLOSED:
            return True
        with self._lock:
            now = self._clock()
            if self._probe_at == _CLOSED:
                return True
            if now < self._probe_at:
                return False
            self._probe_at = now + self._reset
            return True

    def failed(self) -> None:
        """Notes a failure."""
        with self._lock:
            self._failed += 1
            self.is_failing = True
            if self._failed >= self._failures:
                # A clock may stand at zero, which says closed here.
                self._probe_at = (self._clock() + self._reset) or self._reset

    def succeeded(self) -> None:
        """Notes a success, which closes it."""
        with self._lock:
            self._failed = 0
            self._probe_at = _CLOSED
            self.is_failing = False


class Bulkhead:
    """Lets ``limit`` threads in at a time, in the order they came; each waits ``wait`` seconds for its turn at most.

    Each thread has a ticket, and the first ``limit`` tickets are in. A ticket is taken and given back by one step of
    the interpreter: an exception that another thread sends, or Ctrl-C, comes before it or after it. With a semaphore it
    may come when the number is taken and nobody knows yet by whom, and that place is lost for good.
    """

    def __init__(self, limit: int, wait: float) -> None:
        self._limit = limit
        self._wait = wait
        # By process: whoever was in when this one was forked is not here.
        self._tickets: dict[int, dict[int, threading.Lock]] = {}

    @property
    def is_full(self) -> bool:
        """Whether a caller would have to wait now."""
        return len(self._tickets.get(os.getpid(), ())) >= self._limit

    @contextmanager
    def entered(self) -> Iterator[bool]:
        """A block that only so many threads are in; whether this one had to wait. One that is in already stays in.

        Raises ``OverloadError`` where it does not come to this thread's turn in time.
        """
        tickets = self._tickets.setdefault(os.getpid(), {})
        me = threading.get_ident()
        try:
            tickets[me] = threading.Lock()
            yield self._wait_for_turn(tickets, me)
        finally:
            tickets.pop(me, None)
            self._call(tickets)

    def _wait_for_turn(self, tickets: dict[int, threading.Lock], me: int) -> bool:
        if me in self._first(tickets):
            return False
        until = time.monotonic() + self._wait
        called = tickets[me]
        called.acquire()
        while me not in self._first(tickets):
            left = until - time.monotonic()
            if left <= 0:
                raise OverloadError(
                    f"{self._limit} loads from the database (max_loads) were under way for {self._wait} s "
                    "(max_load_wait); give either a larger number, or the database more room"
                )
            # Whoever leaves calls the next one, and may be interrupted before that.
            called.acquire(timeout=min(left, _MOMENT))
        return True

    def _first(self, tickets: dict[int, threading.Lock]) -> list[int]:
        return list(tickets)[: self._limit]

    def _call(self, tickets: dict[int, threading.Lock]) -> None:
        for thread in self._first(tickets):
            ticket = tickets.get(thread)
            if ticket is not None and ticket.locked():
                with suppress(RuntimeError):  # somebody else called it just now
                    ticket.release()
