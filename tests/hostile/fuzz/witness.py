"""Shows the fuzzer the way that was taken inside code that is not Python, recognised by its answer."""

from __future__ import annotations

import zlib
from collections.abc import Callable

__all__ = ["ends", "witness"]

ends: list[Callable[[], int]] = [eval(f"lambda: {number}") for number in range(512)]
"""Functions that the fuzzer instruments, so that each call of one not called before is new coverage to it."""


def witness(answer: str) -> None:
    """Reports an answer: the fuzzer keeps an input that provokes a new one, and builds upon it."""
    ends[zlib.crc32(answer.encode(errors="replace")) % len(ends)]()
