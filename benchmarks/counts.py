"""Instructions of an operation, counted by valgrind's callgrind: the same on an idle machine and on a busy one.

The count has all that the process itself executes, Python and C alike, and nothing that the kernel or a server does for
it. Each case runs in batches of N and of 2 N operations; the difference divided by N is one operation, without the
costs of a batch.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["CallgrindError", "instructions", "is_available", "total"]

# Functions of the C library that Python calls for those of ``os`` with the same names, and nothing else calls.
_BEGIN = "sched_get_priority_min"
_END = "sched_get_priority_max"


class CallgrindError(Exception):
    """A run under callgrind failed, or had another number of batches than it should."""


def is_available() -> bool:
    """True if valgrind is installed, and this Python is no script that starts another program: it is not followed."""
    with open(sys.executable, "rb") as program:
        return shutil.which("valgrind") is not None and program.read(2) != b"#!"


def instructions(
    command: Sequence[str], said: str, *, batches: int, folder: Path, environment: Mapping[str, str] | None = None
) -> list[int]:
    """The instructions of each batch that a program marks, in order.

    A batch begins with ``os.sched_get_priority_min(0)`` and ends with ``os.sched_get_priority_max(0)``.

    - ``command``: the program and its arguments
    - ``said``: its standard input
    - ``batches``: how many it marks
    - ``folder``: an empty folder for callgrind's files
    - ``environment``: variables to add to those of this process

    Raises ``CallgrindError``.
    """
    place = folder / "callgrind.out"
    valgrind = ["valgrind", "-q", "--tool=callgrind", f"--callgrind-out-file={place}"]
    marks = [f"--zero-before={_BEGIN}", f"--dump-before={_END}"]
    # A fixed seed of hashes makes every run go the same way through dictionaries.
    variables = {**os.environ, **(environment or {}), "PYTHONHASHSEED": "0"}
    done = subprocess.run(
        [*valgrind, *marks, *command], input=said, env=variables, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise CallgrindError(f"{command[0]} ended with {done.returncode} under callgrind:\n{done.stderr[-2000:]}")
    counted = [total(folder / f"{place.name}.{number}") for number in range(1, batches + 1)]
    if (folder / f"{place.name}.{batches + 1}").exists():
        raise CallgrindError(f"callgrind counted more than the {batches} batches that it should")
    return counted


def total(dump: Path) -> int:
    """The instructions of one dump. Raises ``CallgrindError`` if there is none."""
    text = dump.read_text(encoding="utf-8", errors="replace") if dump.exists() else ""
    found = re.search(r"^totals: (\d+)$", text, re.MULTILINE)
    if found is None:
        raise CallgrindError(f"callgrind counted no batch {dump.suffix[1:]}: the program or its marks were not there")
    return int(found[1])
