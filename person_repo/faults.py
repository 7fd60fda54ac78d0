"""What turns failures into decisions: a circuit breaker and a bulkhead. Pure; the clock is an argument.

"Release It!" (Nygard, 2007) named both. A breaker that is closed lets everybody ask; open, nobody, and to be told so
costs a comparison; half-open, one caller, and what that one finds decides. A bulkhead lets so many in at a time.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from person_repo.exceptions import OverloadError

__all__ = ["Breaker", "Bulkhead"]

_CLOSED = 0.0


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
    """Lets ``limit`` callers in at a time; each waits ``wait`` seconds for its turn at most."""

    def __init__(self, limit: int, wait: float) -> None:
        self._limit = limit
        self._wait = wait
        self._begin()

    def _begin(self) -> None:
        self._places = threading.BoundedSemaphore(self._limit)
        self._process = os.getpid()

    @property
    def is_full(self) -> bool:
        """Whether a caller would have to wait now."""
        if not self._places.acquire(blocking=False):
            return True
        self._places.release()
        return False

    @contextmanager
    def entered(self) -> Iterator[bool]:
        """A block that only so many callers are in; whether this one had to wait.

        Raises ``OverloadError`` where it does not come to this caller's turn in time.
        """
        if self._process != os.getpid():
            self._begin()  # whoever was in when this process was forked is not here
        places = self._places
        at_once = places.acquire(blocking=False)
        if not at_once and not places.acquire(timeout=self._wait):
            raise OverloadError(
                f"{self._limit} loads from the database (max_loads) were under way for {self._wait} s (max_load_wait); "
                "give either a larger number, or the database more room"
            )
        try:
            yield not at_once
        finally:
            places.release()
