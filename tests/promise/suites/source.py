"""The source distribution of the installed SQLAlchemy, which has its tests: unpacked once for a machine."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path

from support.servers.finding import unavailable
from support.servers.programs import cache_folder
from support.servers.templates import locked

__all__ = ["sqlalchemys_source"]


def sqlalchemys_source() -> Path:
    """The folder with ``test``; ``unavailable`` where it cannot be had."""
    release = f"sqlalchemy-{version('SQLAlchemy')}"
    folder = cache_folder() / "sources" / release
    folder.parent.mkdir(parents=True, exist_ok=True)
    if not folder.exists():
        with locked(folder.parent / f"{release}.lock"):
            if not folder.exists():
                _unpack(folder)
    return folder


def _unpack(folder: Path) -> None:
    """It is whole or does not exist: unpacked beside its place, and renamed."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "-q", "--no-deps"]
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{folder.name}.new-") as beside:
        wanted = folder.name.replace("-", "==", 1)
        done = subprocess.run(
            [*pip, "--no-binary", "sqlalchemy", "--dest", beside, wanted], capture_output=True, text=True, check=False
        )
        archives = [*Path(beside).glob("*.tar.gz")]
        if done.returncode != 0 or len(archives) != 1:
            unavailable(f"the source distribution {wanted} ({done.stderr.strip()[-300:] or 'pip brought none'})")
        with tarfile.open(archives[0]) as archive:
            archive.extractall(beside, filter="data")
        (Path(beside) / folder.name).rename(folder)
