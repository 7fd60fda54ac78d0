"""The shape of the package: imports point one way, and importing it does nothing."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]

# Raises on whatever reaches outside: the network, another process, a database, a file written, a variable of ours.
WATCHED = """
import os, sys, threading

class Watched(type(os.environ)):
    def __getitem__(self, name):
        if name.startswith("PERSON_REPO"):
            raise AssertionError(f"reads the variable {name}")
        return super().__getitem__(name)

real = os.environ
os.environ = Watched(real._data, real.encodekey, real.decodekey, real.encodevalue, real.decodevalue)

def watch(event, arguments):
    if event in ("socket.connect", "socket.bind", "sqlite3.connect", "subprocess.Popen", "os.fork"):
        raise AssertionError(f"{event} {arguments}")
    if event == "open" and arguments[1] and set(str(arguments[1])) & set("wax+"):
        raise AssertionError(f"writes {arguments[0]}")

sys.dont_write_bytecode = True
sys.addaudithook(watch)
"""


def watched(code: str) -> subprocess.CompletedProcess[str]:
    after = "assert threading.active_count() == 1, 'starts a thread'"
    return subprocess.run(
        [sys.executable, "-c", f"{WATCHED}\n{code}\n{after}"], capture_output=True, text=True, check=False
    )


def test_imports_point_one_way() -> None:
    linter = shutil.which("lint-imports", path=sysconfig.get_path("scripts"))
    assert linter is not None, "import-linter belongs to the test group"
    done = subprocess.run(
        [linter, "--no-logo", "--no-cache"], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_every_module_is_in_the_layers() -> None:
    """The guard of the guard: without ``exhaustive`` a new module could import anything."""
    assert "exhaustive = true" in (CHECKOUT / "pyproject.toml").read_text()


def test_importing_opens_nothing_and_reads_no_environment() -> None:
    modules = [path.stem for path in (CHECKOUT / "person_repo").glob("*.py") if path.stem != "__main__"]
    imports = "".join(f"import person_repo.{module}\n" for module in modules if module != "__init__")

    done = watched(f"{imports}from person_repo import *")

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "deed",
    [
        "import os; os.environ.get('PERSON_REPO_CACHE_URL')",
        "import os; os.getenv('PERSON_REPO_CACHE_URL')",
        "import sqlite3; sqlite3.connect(':memory:')",
        "import socket; socket.create_server(('127.0.0.1', 0))",
        "threading.Timer(0.5, print).start()",
        "open('/dev/null', 'w')",
    ],
)
def test_watch_sees_what_it_watches_for(deed: str) -> None:
    assert "AssertionError" in watched(deed).stderr


def test_settings_alone_read_the_environment() -> None:
    readers = [
        path.name
        for path in (CHECKOUT / "person_repo").rglob("*.py")
        if re.search(r"\bos\.environ|getenv|from os import", path.read_text())
    ]
    assert readers == ["settings.py"]


def test_the_alembic_folder_does_not_shadow_the_library() -> None:
    """With an ``__init__.py`` there, ``import alembic`` from the root of a checkout would find the folder."""
    assert not (CHECKOUT / "alembic" / "__init__.py").exists()

    done = subprocess.run(
        [sys.executable, "-c", "import alembic; print(alembic.__version__)"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
