"""Data directories that were filled once for this machine, in the cache folder: to copy one is faster."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from support.servers.programs import cache_folder

__all__ = ["copied", "locked"]


def copied(name: str, text: str, fill: Callable[[Path], None], to: Path) -> None:
    """Copies the folder ``name`` of the cache. ``fill`` makes it, if there is none that was made by this ``text``.

    It is whole or does not exist: filled beside its place, and renamed.
    """
    folder = cache_folder() / "data"
    folder.mkdir(parents=True, exist_ok=True)
    template = folder / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    if not template.exists():
        with locked(template.with_suffix(".lock")):
            if not template.exists():
                _fill(template, fill)
    if sys.platform == "linux":  # most of it is zeros, and stays so without taking memory
        subprocess.run(["cp", "-R", "--sparse=always", str(template), str(to)], check=True)
    else:
        shutil.copytree(template, to)


def _fill(template: Path, fill: Callable[[Path], None]) -> None:
    with tempfile.TemporaryDirectory(dir=template.parent, prefix=f"{template.name}.new-") as beside:
        made = Path(beside) / "db"
        fill(made)
        made.rename(template)


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Keeps other processes out of the block, by a file."""
    with file.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until it is closed
        yield
