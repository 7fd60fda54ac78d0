"""Writes in transactions of our own, made again if another writer was in their way. The retries are stamina's."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, TypeVar

__all__ = ["retried"]

R = TypeVar("R")

# Five attempts with pauses of ten to three hundred milliseconds, none of which begins after ten seconds: a writer that
# waits for a lock has waited for as long as the database lets it already (MySQL 50 s, SQLite 5 s).
_ATTEMPTS: Final = 5
_LONGEST: Final = 10.0
_FIRST_WAIT: Final = 0.01
_LONGEST_WAIT: Final = 0.25
_JITTER: Final = 0.05

# Python prints a warning of a logger that nobody has set up; stamina's are for hosts that have.
_SILENT = logging.NullHandler()


def retried(write: Callable[[bool], R], may_pass: Callable[[Exception], bool]) -> R:
    """The result of ``write``, which is called again while ``may_pass`` is true of the error that it raised.

    ``write`` is given False the first time and True later. After the last attempt its error is raised as it is. The
    host's switches of stamina apply (``stamina.set_active``, ``stamina.set_testing``).
    """
    from stamina import retry_context  # not at the top: it imports asyncio, which reads need not wait for

    logging.getLogger("stamina").addHandler(_SILENT)
    for attempt in retry_context(
        may_pass,
        attempts=_ATTEMPTS,
        timeout=_LONGEST,
        wait_initial=_FIRST_WAIT,
        wait_max=_LONGEST_WAIT,
        wait_jitter=_JITTER,
    ):
        with attempt:
            return write(attempt.num > 1)
    raise AssertionError("the last attempt returns or raises")
