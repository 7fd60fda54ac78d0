"""Forked processes whose results a test can read."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

__all__ = ["forking", "in_child", "running_in_child"]


def forking(test: Callable[..., None]) -> Callable[..., None]:
    """Marks a test that forks: skipped on systems without fork, and without the warnings about forks."""
    without_warning = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")(test)
    skipped: Callable[..., None] = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")(
        without_warning
    )
    return skipped


def in_child(call: Callable[[], object]) -> str:
    """The result of the call in a forked process, as text."""
    with running_in_child(call) as result:
        pass
    return result()


@contextmanager
def running_in_child(call: Callable[[], object], *, seconds: int = 120) -> Iterator[Callable[[], str]]:
    """A forked process that makes the call while the block runs; its result, as text, can be asked for after that.

    A process that hangs is ended by its own alarm after so many seconds.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(seconds)
        os.close(reading)
        try:
            os.write(writing, str(call()).encode())
        except BaseException as exc:
            os.write(writing, repr(exc).encode())
        finally:
            os._exit(0)
    os.close(writing)
    said: list[str] = []
    try:
        yield lambda: said[0]
    finally:
        with os.fdopen(reading, "rb") as answer:
            said.append(answer.read().decode())
        _, status = os.waitpid(child, 0)
        assert status == 0, f"the child ended with status {status}"
