"""The names, signatures and words that hosts build on. A change here is a change for them, to be made on purpose."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support import surface

import person_repo
from person_repo import exceptions
from person_repo.database.bound import BoundRepository
from person_repo.database.repository import Repository, SQLAlchemyRepository
from person_repo.reading.cached import CachedRepository
from person_repo.service import PersonService, Service

CHECKOUT = Path(__file__).resolve().parents[2]
API = (CHECKOUT / "docs" / "reference" / "api.md").read_text(encoding="utf-8")
ERRORS = (CHECKOUT / "docs" / "reference" / "errors.md").read_text(encoding="utf-8")

NEVER_RAISED_TO_HOSTS = {"RejectedItemError", "SealError", "UncacheableError"}


def public(of: Any) -> set[str]:
    return {name for name in dir(of) if not name.startswith("_")}


def modules() -> Iterator[ModuleType]:
    yield person_repo
    for found in pkgutil.walk_packages(person_repo.__path__, "person_repo."):
        parts = found.name.split(".")
        if not any(part.startswith("_") for part in parts):  # only alembic runs the packaged migrations
            yield importlib.import_module(found.name)


def run(code: str) -> str:
    """The output of a program in a process of its own."""
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


# The listing


def test_the_public_surface_is_the_listed_one() -> None:
    """After a change on purpose, write the listing again: see ``tests/support/surface.py``."""
    listed = (CHECKOUT / "tests" / "project" / "public_surface.txt").read_text(encoding="utf-8")
    assert surface.listing().splitlines() == listed.splitlines()


def test_every_name_between_rooms_is_there() -> None:
    for owner, names in surface.BETWEEN_ROOMS.items():
        (of,) = {getattr(importlib.import_module(name), owner, None) for name in surface.MODULES} - {None}
        assert names <= public(of) | surface.attributes_of(of), owner


def test_every_public_module_is_there_after_the_import_of_the_package() -> None:
    modules = [name.partition(".")[2] for name in surface.MODULES if name != "person_repo"]
    code = (
        "import person_repo\n"
        "lazy = set(dir(person_repo)) - set(vars(person_repo)) - set(person_repo.__all__)\n"
        f"print(*[getattr(person_repo, name).__name__ for name in {modules}])\n"
        "print(*sorted({*lazy, 'exceptions'}))"
    )
    assert run(code).splitlines() == [f"person_repo.{' person_repo.'.join(modules)}", " ".join(modules)]


def test_the_api_page_lists_the_public_modules() -> None:
    assert sorted(re.findall(r"^\| `(person_repo[a-z_.]*)`", API, re.MULTILINE)) == sorted(surface.MODULES)


def test_the_reference_describes_every_public_name_and_no_other() -> None:
    """A constant needs no entry of its own: the class or function that takes it describes it."""
    described = set(re.findall(r"^\.\. auto(?!module)\w+:: (\S+)$", API + ERRORS, re.MULTILINE))
    names = {
        f"{module}.{name}"
        for module in surface.MODULES
        for name in importlib.import_module(module).__all__
        if module != "person_repo.exceptions"
    } | {f"person_repo.exceptions.{name}" for name in NEVER_RAISED_TO_HOSTS}
    assert described - names == set()
    assert sorted(name for name in names - described if not name.rpartition(".")[2].isupper()) == []


# Names and words


def test_every_error_can_be_caught_by_a_name_of_the_package() -> None:
    errors = set(exceptions.__all__) - NEVER_RAISED_TO_HOSTS
    assert errors <= set(person_repo.__all__)
    assert all(getattr(person_repo, name) is getattr(exceptions, name) for name in errors)


@pytest.mark.parametrize(
    "implementation", [SQLAlchemyRepository, CachedRepository, BoundRepository, Service, PersonService]
)
def test_every_repository_has_the_methods_of_the_protocol(implementation: type[Any]) -> None:
    for name in public(Repository):
        asked, given = (inspect.signature(getattr(of, name)) for of in (Repository, implementation))
        assert list(given.parameters.values())[: len(asked.parameters)] == list(asked.parameters.values()), name
        assert given.return_annotation == asked.return_annotation, name


def test_a_service_of_people_has_the_members_of_a_service() -> None:
    assert public(PersonService) == public(Service)


def test_every_module_has_a_docstring_and_every_name_it_exports() -> None:
    for module in modules():
        exported = getattr(module, "__all__", ())
        assert all(hasattr(module, name) for name in exported), module.__name__
        assert len(set(exported)) == len(exported), module.__name__
        assert module.__doc__, module.__name__


def test_every_exported_name_has_a_docstring() -> None:
    silent = []
    for module in modules():
        for name in getattr(module, "__all__", ()):
            found = getattr(module, name)
            if getattr(found, "__module__", "").startswith("person_repo") and callable(found):
                silent += [f"{module.__name__}.{name}"] if not inspect.getdoc(found) else []
    assert silent == []


@pytest.mark.parametrize("name", person_repo.__all__)
def test_every_method_of_a_public_class_has_a_docstring(name: str) -> None:
    of = getattr(person_repo, name)
    if not inspect.isclass(of):
        assert inspect.getdoc(of)
        return
    own = [base for base in of.__mro__ if base.__module__.startswith("person_repo")]
    silent = [
        f"{base.__name__}.{attribute}"
        for base in own
        for attribute, found in vars(base).items()
        if not attribute.startswith("_")
        and (inspect.isroutine(found) or isinstance(found, (property, classmethod, staticmethod)))
        and not inspect.getdoc(getattr(base, attribute) if not isinstance(found, property) else found)
    ]
    assert silent == []


# Imports


HEAVY = {"alembic", "click", "cryptography", "multiprocessing", "pymemcache", "pymysql", "rich", "sqlite3"}
OF_READS_AND_WRITES = {"dogpile", "msgspec", "sqlalchemy"}


@pytest.mark.parametrize(
    ("code", "heavy"),
    [
        ("import person_repo", HEAVY | OF_READS_AND_WRITES),
        ("from person_repo import EntityNotFoundError, Stats, settings", HEAVY | OF_READS_AND_WRITES),
        ("from person_repo import Person", HEAVY | {"dogpile", "msgspec"}),
        ("from person_repo import *", HEAVY),
        ("from person_repo import backends, testing", HEAVY - {"pymemcache"}),
        ("import person_repo.cli.main", HEAVY - {"click"} | OF_READS_AND_WRITES),
    ],
)
def test_an_import_loads_nothing_that_it_does_not_need(code: str, heavy: set[str]) -> None:
    """``--help`` waits for no ORM, and an application for no command line, migrations or driver."""
    printed = run(
        f"import sys, threading\n{code}\n"
        "assert threading.active_count() == 1\n"
        f"print(*sorted({heavy!r} & set(sys.modules)))"
    )
    assert printed == "\n"


def test_the_package_lists_its_names_before_they_are_imported_and_has_no_other() -> None:
    code = (
        "import person_repo\n"
        "assert {*person_repo.__all__, 'migrations'} <= set(dir(person_repo))\n"
        "print(hasattr(person_repo, 'Somebody'), hasattr(person_repo, 'import_module_'))"
    )
    assert run(code) == "False False\n"


def test_the_package_says_that_it_is_typed() -> None:
    assert Path(person_repo.__path__[0], "py.typed").exists()


def test_the_typing_test_uses_every_name_of_the_package() -> None:
    """``make lint`` has it read by mypy and pyright."""
    text = (CHECKOUT / "tests" / "typing" / "api.py").read_text(encoding="utf-8")
    modules = [name.partition(".")[2] for name in surface.MODULES if name != "person_repo"]
    names = [*person_repo.__all__, *public(Service), *modules]
    assert [name for name in names if not re.search(rf"\b{name}\b", text)] == []
