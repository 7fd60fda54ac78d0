"""The shape of the package: imports point one way, rooms are private, and importing it does nothing."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
PACKAGE = CHECKOUT / "person_repo"

# Raises when something reaches outside: network, another process, a database, a file written, a variable of ours.
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


def test_a_long_module_says_why_it_is_one() -> None:
    """Above 500 lines its docstring has a sentence "The module is long because ..."."""
    unexplained = [
        f"{path.relative_to(PACKAGE)}: {lines} lines"
        for path in sorted(PACKAGE.rglob("*.py"))
        if (lines := path.read_text(encoding="utf-8").count("\n")) > 500
        and "module is long because" not in (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "")
    ]
    assert unexplained == []


CONTRACTS = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]


def test_every_module_is_in_the_layers() -> None:
    """Without ``exhaustive`` a new module could import anything."""
    (layers,) = [contract for contract in CONTRACTS if contract["type"] == "layers"]
    assert layers["exhaustive"] is True
    assert layers.get("ignore_imports", []) == []


def rooms() -> list[str]:
    """The folders of the package that hold more than one module."""
    return sorted(
        place.name for place in PACKAGE.iterdir() if len(list(place.rglob("*.py"))) > 2 and place.name != "__pycache__"
    )


@pytest.mark.parametrize("room", rooms())
def test_every_room_is_private_but_for_its_front(room: str) -> None:
    """A contract protects it, and lets others import single modules only, never all that are in a room."""
    (contract,) = [one for one in CONTRACTS if one.get("protected_modules") == [f"person_repo.{room}"]]
    assert contract["allowed_importers"] == [f"person_repo.{room}"]
    fronts = [ignored.removeprefix("** -> ") for ignored in contract["ignore_imports"]]
    assert [front for front in fronts if not re.fullmatch(rf"person_repo\.{room}(\.\w+)*", front)] == []


def private_imports(path: Path) -> list[str]:
    """The names with an underscore that a module imports from other rooms, or takes from their modules."""
    own = room_of(".".join(path.relative_to(CHECKOUT).with_suffix("").parts))
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported: dict[str, str] = {}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("person_repo"):
            for alias in node.names:
                imported[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    for name in imported.values():
        if name.rpartition(".")[2].startswith("_") and room_of(name) != own:
            found.append(name)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and is_private(node.attr):
            origin = imported.get(node.value.id, "person_repo")
            if origin != "person_repo" and room_of(origin) != own:
                found.append(f"{origin}.{node.attr}")
    return found


def room_of(module: str) -> str:
    """The second part of a dotted name."""
    return (*module.split("."), "")[1]


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_room_uses_a_private_name_of_another(path: Path) -> None:
    assert private_imports(path) == []


def test_private_names_of_other_rooms_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "CHECKOUT", tmp_path)
    path = tmp_path / "person_repo" / "reading" / "cached.py"
    path.parent.mkdir(parents=True)
    path.write_text("""
from person_repo.cache.region import _BACKENDS, make_region
from person_repo.reading.filling import _own
from person_repo.writing import coverage
from person_repo.fence.view import Fence as View

coverage._COVERED, View._poll, _own._anything, make_region.__name__
""")
    assert private_imports(path) == [
        "person_repo.cache.region._BACKENDS",
        "person_repo.writing.coverage._COVERED",
        "person_repo.fence.view.Fence._poll",
    ]


def test_importing_opens_nothing_and_reads_no_environment() -> None:
    package = CHECKOUT / "person_repo"
    files = [path.relative_to(CHECKOUT) for path in package.rglob("*.py") if path.stem != "__main__"]
    modules = {".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in files}
    assert {"person_repo", "person_repo.cache.memcached.backend", "person_repo.cli.demo.story"} <= modules
    imports = "".join(f"import {module}\n" for module in sorted(modules))

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
def test_the_watch_sees_each_deed(deed: str) -> None:
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
