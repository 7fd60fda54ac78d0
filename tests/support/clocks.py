"""A clock whose time passes only when a test says so."""

from __future__ import annotations

__all__ = ["Clock"]


class Clock:
    """Called, it gives the seconds ``now``, as ``time.monotonic`` does; ``wall`` gives those since 1970."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def wall(self) -> float:
        return 1_000_000.0 + self.now
