"""Prose is plain, and the names that docstrings, comments and pages put in backquotes exist."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import io
import keyword
import pkgutil
import re
import sys
import tokenize
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import person_repo

CHECKOUT = Path(__file__).resolve().parents[2]
PACKAGE = CHECKOUT / "person_repo"
PAGES = [*CHECKOUT.glob("*.md"), *(path for path in (CHECKOUT / "docs").rglob("*.md") if "_build" not in path.parts)]

EXTERNAL = (
    "alembic",
    "builtins",
    "contextlib",
    "contextvars",
    "dogpile.cache",
    "dogpile.cache.api",
    "dogpile.cache.proxy",
    "logging",
    "msgspec",
    "os",
    "pymemcache",
    "pymysql",
    "pymysql.connections",
    "pymysql.cursors",
    "pytest",
    "socket",
    "sqlalchemy",
    "sqlalchemy.engine.base",
    "sqlalchemy.engine.default",
    "sqlalchemy.engine.events",
    "sqlalchemy.event",
    "sqlalchemy.exc",
    "sqlalchemy.ext.asyncio",
    "sqlalchemy.orm",
    "sqlalchemy.orm.events",
    "sqlalchemy.orm.exc",
    "sqlalchemy.sql.compiler",
    "sqlalchemy.sql.lambdas",
    "sqlite3",
    "ssl",
    "stamina",
    "threading",
    "typing",
)
"""Modules of others whose names, and those of their classes, need no module before them."""

ALLOWED = {
    "ABC": "a value, that of an id",
    "_CACHE_URL": "the end of a variable's name",
    "_DATABASE_URL": "the end of a variable's name",
    "_USE_DB": "the end of a variable's name",
    "c12": "memcached: a flag of a meta command",
    "localhost": "a host",
    "mg": "memcached: a meta command",
    "IN": "a word of SQL",
    "OptionEngine._proxied": "an attribute of SQLAlchemy's, asked for by test_internals",
    "SQLCompiler._bind_processors": "an attribute of SQLAlchemy's, asked for by test_internals",
    "SQLCompiler._result_columns": "an attribute of SQLAlchemy's, asked for by test_internals",
    "DefaultExecutionContext._expanded_parameters": "an attribute of SQLAlchemy's, asked for by test_internals",
    "Connection._result": "an attribute of PyMySQL's, asked for by test_internals",
    "listeners": "an attribute of SQLAlchemy's dispatchers",
    "parent_listeners": "an attribute of SQLAlchemy's dispatchers",
    "version_locations": "an option of alembic.ini",
}
"""Names that are alive, and what they are."""

FIXTURES = "person_repo.testing.plugin"
"""A module whose names stand for what pytest makes of them, of which nothing is known."""

_QUOTED = re.compile(r"``([^`]+)``")
_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


# Names in the code


def identifiers(tree: ast.AST) -> Iterator[str]:
    """Every name in some code, and every string that could be one; not what docstrings say."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.arg(arg=name) | ast.Attribute(attr=name) | ast.alias(asname=str(name)):
                yield name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.alias(name=name) | ast.ImportFrom(module=str(name)):
                yield from name.split(".")
            case ast.keyword(arg=str(name)):
                yield name
            case ast.Constant(value=str(text)) if _NAME.fullmatch(text):
                yield from text.split(".")


@functools.cache
def modules() -> dict[str, Any]:
    """Every module of the package by its path."""
    names = [person_repo.__name__]
    names += [found.name for found in pkgutil.walk_packages(person_repo.__path__, "person_repo.")]
    imported = [importlib.import_module(name) for name in names if not name.endswith("__main__")]
    return {str(module.__file__): module for module in imported}


@functools.cache
def tree_of(path: str) -> ast.Module:
    return ast.parse(Path(path).read_text(encoding="utf-8"))


@functools.cache
def package_names() -> frozenset[str]:
    """Every name of the code of the package."""
    names = {part for module in modules().values() for part in module.__name__.split(".")}
    return frozenset(names.union(*(identifiers(tree_of(path)) for path in modules())))


@functools.cache
def external_names() -> frozenset[str]:
    """Every name of the modules of ``EXTERNAL`` and of their classes."""
    found: set[str] = set()
    for name in EXTERNAL:
        space = vars(importlib.import_module(name))
        found.update(space)
        found.update(*(dir(thing) for thing in space.values() if inspect.isclass(thing)))
    return frozenset(found)


@functools.cache
def own_attributes(name: str) -> frozenset[str]:
    """The attributes of a class and of its objects: names in its body, and those set on ``self``."""
    found: set[str] = set()
    for path in modules():
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ClassDef) and node.name == name:
                found.update(identifiers(node))
    return frozenset(found)


def objects_of(name: str, path: str) -> Iterator[Any]:
    """The objects that a name may stand for in a module: its own, the package's, and those of others."""
    ours = [module for module in modules().values() if module.__name__ != FIXTURES]
    spaces = [modules()[path], *ours, *map(importlib.import_module, EXTERNAL)]
    for space in spaces:
        if hasattr(space, name):
            yield getattr(space, name)
        if inspect.ismodule(space) and space.__name__.rpartition(".")[2] == name:
            yield space


def is_alive(quoted: str, path: str) -> bool:
    """True if what stands in backquotes in a module is no name, or one that exists.

    Cases: a file; one name, which must occur in the package's code or in somebody else's; a dotted name that begins
    with a class or a module; one that begins with an argument or a variable, of which each part must occur.
    """
    name = re.sub(r"\(.*\)$", "", quoted, flags=re.DOTALL)
    if not _NAME.fullmatch(name) or name in ALLOWED:
        return True
    if name.endswith((".py", ".md")):
        return any(CHECKOUT.glob(f"[!.]*/**/{name}")) or (CHECKOUT / name).exists()
    known = package_names() | external_names()
    first, *rest = name.split(".")
    if not rest:
        return keyword.iskeyword(name) or name in known or name in sys.stdlib_module_names
    if any(_follow(thing, rest) for thing in objects_of(first, path)):
        return True
    return first.islower() and first in package_names() and known.issuperset(rest)


def _follow(thing: Any, parts: list[str]) -> bool:
    for part in parts:
        if hasattr(thing, part):
            thing = getattr(thing, part)
        elif inspect.isclass(thing):
            return any(part in own_attributes(base.__name__) for base in thing.__mro__)
        else:
            return not inspect.ismodule(thing)  # of other objects nothing is known before they are made
    return True


# Names in docstrings and comments


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Each docstring and each comment of a file, with its line. Comments in successive lines are one."""
    text = path.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value
    last, lines = 0, [""]
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            if token.start[0] != last + 1:
                yield last, " ".join(lines)
                lines = []
            last = token.start[0]
            lines.append(token.string.lstrip("# "))
    yield last, " ".join(lines)


def dead_names(path: Path, module: str) -> list[str]:
    """The dead names in a file's prose, each with its line; ``module`` is the path of one whose names it may use."""
    return [
        f"{path.name}:{line}: ``{quoted}``"
        for line, text in prose(path)
        for quoted in _QUOTED.findall(text)
        if not is_alive(quoted, module)
    ]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_names_in_docstrings_and_comments_exist(path: Path) -> None:
    module = path.with_name("__init__.py") if path.name == "__main__.py" else path
    dead = dead_names(path, str(module))
    assert not dead, "\n".join(dead)


def test_dead_names_are_found(tmp_path: Path) -> None:
    path = tmp_path / "prose.py"
    path.write_text('''
"""``Service.get`` and ``person_repo.Service`` are there, ``Service.fetch_all`` and ``AbsentService`` are not.

``session.get_one`` and ``ttl`` are somebody's; ``session.get_nothing`` and ``no_such_option`` are nobody's;
``prose.md`` is no file, and ``SELECT 1`` no name.
"""
# ``people.using(use_db=True)`` is there, and ``people.trusting(use_db=True)``
# in the comment's second line is not.
''')

    dead = dead_names(path, str(PACKAGE / "service.py"))

    assert [line.rpartition(" ")[2].strip("`") for line in dead] == [
        "Service.fetch_all",
        "AbsentService",
        "session.get_nothing",
        "no_such_option",
        "prose.md",
        "people.trusting(use_db=True)",
    ]


# Names on pages

_LOADED_BY_NAME = {f"person_repo.{name}" for name in ("memcached", "memory", "null")}
"""dogpile's names of the backends."""


def parts_of(page: Path) -> Iterator[str]:
    """The texts in backquotes on a page, outside of fences."""
    text = re.sub(r"^(`{3,}).*?^\1$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    yield from re.findall(r"`([^`\n]+)`", text)


def is_importable(name: str) -> bool:
    """True if a dotted name leads from a module to something in it, or is a module."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        return _follow(found, parts[end:])
    return False


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(CHECKOUT)))
def test_names_and_files_on_pages_exist(page: Path) -> None:
    dead = []
    for quoted in parts_of(page):
        name = re.sub(r"\(.*\)$", "", quoted)
        if re.fullmatch(r"person_repo(\.\w+)+", name) and name not in _LOADED_BY_NAME and not is_importable(name):
            dead.append(quoted)
        if re.fullmatch(r"(person_repo|tests|docs|benchmarks|alembic)(/[\w.-]+)+/?", quoted):
            dead += [] if (CHECKOUT / quoted).exists() else [quoted]
    assert not dead, f"{page.name} names what is not there: {', '.join(dead)}"


# Plain sentences


def sentences_of_code() -> Iterator[tuple[str, str]]:
    """Each sentence of a docstring or a comment of the package and the benchmarks, with its place."""
    for path in sorted([*PACKAGE.rglob("*.py"), *(CHECKOUT / "benchmarks").glob("*.py")]):
        for line, text in prose(path):
            for sentence in _sentences(text):
                yield f"{path.relative_to(CHECKOUT)}:{line}", sentence


def sentences_of_pages() -> Iterator[tuple[str, str]]:
    """Each sentence of a page outside of fences and headings."""
    for page in PAGES:
        text = re.sub(r"^(`{3,}).*?^\1$|^#.*$|^<!--.*?-->$", "", page.read_text("utf-8"), flags=re.M | re.S)
        for sentence in _sentences(text):
            yield str(page.relative_to(CHECKOUT)), sentence


def _sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.:!?]) +|\n\n", re.sub(r"(?<!\n)\n(?!\n)", " ", text))


_HEADLESS = re.compile(r"[\s*|-]*(What|Whoever|Whether|Where|Whose) (?!.*\?$)")
_TOLD = re.compile(r"\b(tell|tells|told)\b", re.IGNORECASE)


@pytest.mark.parametrize("sentences", [sentences_of_code, sentences_of_pages])
def test_sentences_begin_with_a_noun_or_a_verb_and_nobody_is_told(
    sentences: Callable[[], Iterator[tuple[str, str]]],
) -> None:
    """No sentence begins with a relative clause ("What is loaded ..."), whose noun and verb readers have to wait for.

    "Told" stands for many things (known, distinguished, notified, said): use the word that is meant.
    """
    found = [
        f"{place}: {sentence[:90]}"
        for place, sentence in sentences()
        if _HEADLESS.match(sentence) or _TOLD.search(sentence)
    ]
    assert not found, "\n".join(found)
