"""Temporary folders in memory: what the tests write to disk is worth nothing after them, and fsync costs seconds."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

__all__ = ["work_in_memory"]

_SHARED_MEMORY = Path("/dev/shm")
_ENOUGH = 2 << 30
"""Bytes. Containers often have 64 MB there, which the log of one MariaDB fills."""


def work_in_memory() -> None:
    """Has this process and its children make temporary folders in memory, where there is enough of it.

    Not if ``TMPDIR`` says where, nor if programs cannot be run from there, as the test of the wheel does.
    """
    if "TMPDIR" in os.environ or not _is_usable(_SHARED_MEMORY):
        return
    os.environ["TMPDIR"] = str(_SHARED_MEMORY)
    tempfile.tempdir = None  # else a process that has asked already goes on as before


def _is_usable(folder: Path) -> bool:
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        return False
    return not os.statvfs(folder).f_flag & os.ST_NOEXEC and shutil.disk_usage(folder).free >= _ENOUGH
