"""The matrix: the whole suite again, each time with another Python, SQLAlchemy or memcached.

Each environment differs in one of them from the first one, which has the newest of all. It is made in the cache folder
of the machine, from a Python on the PATH or, where there is none, from one that is unpacked (``tests/support/unpack``).
The databases vary within each run: SQLite, MySQL, and the others where they differ.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from support.servers.programs import MEMCACHED, NEWER_MEMCACHED, Program, cache_folder

__all__ = ["ENVIRONMENTS", "Environment", "UnavailableError"]

CHECKOUT: Final = Path(__file__).resolve().parents[2]

SUITES: Final = {"3.13": "trixie", "3.14": "sid"}
"""Which suite of Debian's has a Python."""


class UnavailableError(Exception):
    """An environment cannot be made here; the message says why."""


@dataclass(frozen=True)
class Environment:
    """What the tests are to run with: a Python, the requirement for SQLAlchemy, and a memcached."""

    name: str
    python: str = "3.14"
    sqlalchemy: str = "SQLAlchemy"
    memcached: Program = NEWER_MEMCACHED

    def make(self) -> str:
        """Installs the checkout and its tools; returns the path of this Python.

        Raises ``UnavailableError``.
        """
        folder = cache_folder() / "environments" / f"{self.python}-{''.join(filter(str.isalnum, self.sqlalchemy))}"
        python = folder / "bin" / "python"
        if not python.exists():
            shutil.rmtree(folder, ignore_errors=True)
            _call([_python(self.python), "-m", "venv", str(folder)])
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "-q", "--upgrade"]
        _call([*pip, "pip>=25.1"])
        _call([*pip, "-e", f"{CHECKOUT}[cli]", "--group", f"{CHECKOUT / 'pyproject.toml'}:dev", self.sqlalchemy])
        return str(python)

    def variables(self) -> Mapping[str, str]:
        """For the tests in it. Raises ``UnavailableError`` if its memcached is missing."""
        program = self.memcached.find()
        if program is None:
            raise UnavailableError(f"{self.memcached.name} is missing: {self.memcached.remedy()}")
        return {MEMCACHED.path_variable: program}


ENVIRONMENTS: Final = (
    Environment("the newest of each"),
    Environment("Python 3.13", python="3.13"),
    Environment("Python 3.11", python="3.11"),
    Environment("SQLAlchemy 2.0", sqlalchemy="SQLAlchemy<2.1"),
    Environment("SQLAlchemy 2.0.43", sqlalchemy="SQLAlchemy==2.0.43"),
    Environment("an older memcached", memcached=MEMCACHED),
)


@functools.cache
def _python(version: str) -> str:
    """A program of this Python that makes virtual environments."""
    name = f"python{version}"
    folder = cache_folder() / f"python-{version}"
    unpacked = folder / "usr" / "bin" / name
    for found in (shutil.which(name), sys.executable, str(unpacked)):
        if found and _is_python(found, version):
            return found
    suite = SUITES.get(version)
    if suite is None:
        raise UnavailableError(f"there is no {name} with venv: install it")
    script = CHECKOUT / "tests" / "support" / "unpack"
    _call([str(script), "--whole", str(folder), f"{name}-venv", version, f"usr/bin/{name}", suite])
    return str(unpacked)


def _is_python(path: str, version: str) -> bool:
    code = "import ensurepip, sys; print('%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run([path, "-c", code], capture_output=True, text=True, check=False)
    except OSError:
        return False
    return done.stdout.strip() == version


def _call(command: list[str]) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise UnavailableError(f"{' '.join(command)} failed: {done.stderr.strip()[-2000:]}")
