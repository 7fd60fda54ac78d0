"""A circuit breaker ("Release It!", Nygard, 2007): decides whether something that fails may be asked. Pure.

Closed: everybody may ask. Open: nobody may, and the refusal costs one comparison. Half-open: one caller may, and the
outcome decides.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

__all__ = ["Breaker"]

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
