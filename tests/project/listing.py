"""The listing of the package, a sentence for each module: ``python tests/project/listing.py`` writes it into its page.

The sentences are the first ones of the modules' docstrings, so they are said once.
"""

from __future__ import annotations

import ast
import re
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
PACKAGE = CHECKOUT / "person_repo"
PAGE = CHECKOUT / "docs" / "maintain" / "architecture.md"

_LISTING = re.compile(r"(?<=^```text\nperson_repo/\n)(.*?)(?=^```$)", re.MULTILINE | re.DOTALL)
_WIDTH = 125
_COLUMN = 26


def listing(package: Path = PACKAGE) -> str:
    """The lines below the package's own, in the order of the layers: imports point down."""
    order = _layers()
    entries = sorted(_entries(package), key=lambda path: order.index(path.stem) if path.stem in order else -1)
    return "".join(f"{line}\n" for path in entries for line in _lines(path, 1))


def _layers() -> list[str]:
    """The rooms and modules of the package from the highest layer to the lowest."""
    contracts = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    (layers,) = [contract["layers"] for contract in contracts["contracts"] if contract["id"] == "layers"]
    return [name.strip("( )") for layer in layers for name in layer.split("|")]


def _entries(folder: Path) -> list[Path]:
    """The rooms of a folder, then its modules."""
    rooms = sorted(path.parent for path in folder.glob("*/__init__.py"))
    return rooms + sorted(path for path in folder.glob("*.py") if path.name != "__init__.py")


def _lines(path: Path, depth: int) -> Iterator[str]:
    if path.is_dir():
        yield from _line(f"{path.name}/", path / "__init__.py", depth)
        for entry in _entries(path):
            yield from _lines(entry, depth + 1)
    else:
        yield from _line(path.stem, path, depth)


def _line(name: str, path: Path, depth: int) -> Iterator[str]:
    first, *rest = textwrap.wrap(_sentence(path), _WIDTH - _COLUMN)
    yield f"{'  ' * depth + name:{_COLUMN - 1}} {first}"
    yield from (f"{'':{_COLUMN}}{line}" for line in rest)


def _sentence(path: Path) -> str:
    """The first sentence of a module's docstring, without its full stop and its backquotes."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    paragraph = " ".join(text.split("\n\n")[0].split())
    return re.split(r"\.(?: |$)|(?<=\?) |:$", paragraph, maxsplit=1)[0].replace("``", "")


def written(page: str) -> str:
    """The listing as a page has it. Raises ``AttributeError`` where it has none."""
    found = _LISTING.search(page)
    assert found is not None, "a fence of text that begins with person_repo/"
    return found[0]


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(_LISTING.sub(lambda _: listing(), text, count=1), encoding="utf-8")
