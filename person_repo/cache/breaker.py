"""A circuit breaker ("Release It!", Nygard, 2007): decides if something that fails may be asked. Pure.

Closed: every call is allowed. Open: every call is refused, at the cost of one comparison. Half-open: one call is
allowed, and its outcome decides.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

__all__ = ["Breaker"]

_CLOSED = 0.0


class Breaker:
    """The circuit to something that may fail.

    ``failures`` in a row open it; ``reset`` seconds later one caller may probe, and another one after each further
    ``reset`` seconds for as long as none has succeeded. ``clock`` gives seconds and never goes back. Any thread may
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
        """True from a failure to the next success. While it is False every call is allowed."""

    @property
    def is_closed(self) -> bool:
        """True if every call is allowed."""
        return self._probe_at == _CLOSED

    def allows(self) -> bool:
        """True if this caller may ask now. A caller that may while the circuit is open is the probe, and must report
        how it went.

        A probe that never reports, because its thread was ended, costs ``reset`` seconds and nothing more.
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
        """Reports a failure."""
        with self._lock:
            self._failed += 1
            self.is_failing = True
            if self._failed >= self._failures:
                # A clock may stand at zero, which means closed here.
                self._probe_at = (self._clock() + self._reset) or self._reset

    def succeeded(self) -> None:
        """Reports a success, which closes the circuit."""
        with self._lock:
            self._failed = 0
            self._probe_at = _CLOSED
            self.is_failing = False
