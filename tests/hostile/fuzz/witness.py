"""Shows the fuzzer what it cannot see: which way was taken inside code that is not Python, as told by its answer."""

from __future__ import annotations

import zlib
from collections.abc import Callable

__all__ = ["ends", "witness"]

ends: list[Callable[[], int]] = [eval(f"lambda: {number}") for number in range(512)]
"""Functions that the fuzzer instruments, so that each call of one not called before is new coverage to it."""


def witness(answer: str) -> None:
    """Takes the end of an answer: an input that provokes one not seen before is kept and built upon."""
    ends[zlib.crc32(answer.encode(errors="replace")) % len(ends)]()
