"""What hosts build on: names, signatures, words. A change here is a change for them, to be made on purpose."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import person_repo
from person_repo import exceptions
from person_repo.database.bound import BoundRepository
from person_repo.database.repository import Repository, SQLAlchemyRepository
from person_repo.reading.cached import CachedRepository
from person_repo.service import PersonService, Service

CHECKOUT = Path(__file__).resolve().parents[2]

NAMES = [
    "Base",
    "BoundRepository",
    "CacheError",
    "CacheUnavailableError",
    "CachedRepository",
    "ConfigurationError",
    "EntityExistsError",
    "EntityNotFoundError",
    "ExactString",
    "InvalidEntityError",
    "InvalidIdError",
    "MigrationError",
    "OverloadError",
    "Person",
    "PersonNotFoundError",
    "PersonRepoError",
    "PersonService",
    "Repository",
    "SQLAlchemyRepository",
    "Service",
    "StaleEntityError",
    "Stats",
    "UnknownFieldError",
    "connect",
    "make_region",
]

METHODS = {
    "get": "(self, id: 'Any') -> 'E | None'",
    "get_one": "(self, id: 'Any') -> 'E'",
    "get_many": "(self, ids: 'Iterable[Any]') -> 'dict[Any, E]'",
    "exists": "(self, id: 'Any') -> 'bool'",
    "find": "(self, **equals: 'Any') -> 'builtins.list[E]'",
    "list": "(self, after: 'Any' = None, limit: 'int' = 100) -> 'builtins.list[E]'",
    "count": "(self) -> 'int'",
    "add": "(self, entity: 'E') -> 'None'",
    "add_many": "(self, entities: 'Iterable[E]') -> 'int'",
    "update": "(self, id: 'Any', **changes: 'Any') -> 'E'",
    "upsert": "(self, entity: 'E') -> 'E'",
    "delete": "(self, id: 'Any') -> 'bool'",
}
"""What the protocol, both repositories and the service have in common."""

OF_A_BOUND_REPOSITORY = {
    "get": "(self, id: 'Any', *, for_update: 'bool' = False) -> 'E | None'",
    "get_one": "(self, id: 'Any', *, for_update: 'bool' = False) -> 'E'",
}

OF_WHAT_WRITES_ROWS = {
    "add_rows": (
        "(self, names: 'Sequence[str]', chunks: 'Iterable[Sequence[Row]]', *, checked: 'bool' = False) -> 'int'"
    ),
}
"""``service.database`` has it, and what ``bind`` returns."""

OF_A_SERVICE = {
    "__init__": (
        "(self, *, database: 'SQLAlchemyRepository[E]', cached: 'CachedRepository[E]', use_db: 'bool' = False)"
        " -> 'None'"
    ),
    "over": (
        "(entity: 'type[T]', sessions: 'Sessions', region: 'CacheRegion | str', *, use_db: 'bool' = False, "
        "engine: 'sa.Engine | None' = None) -> 'Service[T]'"
    ),
    "using": "(self, *, use_db: 'bool') -> 'Iterator[Self]'",
    "bind": "(self, session: 'orm.Session | orm.scoped_session[Any]') -> 'BoundRepository[E]'",
    "cover": "(self, engine: 'sa.Engine') -> 'None'",
    "invalidate": "(self, *ids: 'Any') -> 'None'",
    "invalidate_all": "(self) -> 'None'",
    "deliver": "(self) -> 'int'",
    "stats": "(self) -> 'Stats'",
    "close": "(self) -> 'None'",
}

PROPERTIES = {"coherence", "sessions", "engine", "read_engine", "region"}

FUNCTIONS = {
    "connect": (
        "(database_url: 'str | sa.URL', cache_url: 'CacheRegion | str' = 'memory://', *, use_db: 'bool' = False, "
        "**options: 'Any') -> 'PersonService'"
    ),
    "make_region": "(url: 'str', **options: 'Any') -> 'CacheRegion'",
}


def signatures(of: Any, names: Any) -> dict[str, str]:
    return {name: str(inspect.signature(getattr(of, name))) for name in names}


def public(of: Any) -> set[str]:
    return {name for name in dir(of) if not name.startswith("_")}


def modules() -> Iterator[ModuleType]:
    yield person_repo
    for found in pkgutil.walk_packages(person_repo.__path__, "person_repo."):
        parts = found.name.split(".")
        if not any(part.startswith("_") for part in parts):  # the packaged migrations run in alembic alone
            yield importlib.import_module(found.name)


def test_the_package_exports_these_names() -> None:
    assert person_repo.__all__ == NAMES
    assert all(hasattr(person_repo, name) for name in NAMES)


NEVER_RAISED_TO_HOSTS = {"RejectedItemError", "SealError", "UncacheableError"}


def test_every_error_can_be_caught_by_a_name_of_the_package() -> None:
    errors = {name for name in exceptions.__all__ if issubclass(getattr(exceptions, name), exceptions.PersonRepoError)}
    errors -= NEVER_RAISED_TO_HOSTS
    assert errors <= set(NAMES)
    assert all(getattr(person_repo, name) is getattr(exceptions, name) for name in errors)


def test_whatever_answers_for_people_has_the_methods_of_a_repository() -> None:
    for implementation in (Repository, SQLAlchemyRepository, CachedRepository, Service, PersonService):
        assert signatures(implementation, METHODS) == METHODS
    assert signatures(BoundRepository, METHODS) == METHODS | OF_A_BOUND_REPOSITORY
    assert public(Repository) == set(METHODS)
    for implementation in (SQLAlchemyRepository, BoundRepository):
        assert signatures(implementation, OF_WHAT_WRITES_ROWS) == OF_WHAT_WRITES_ROWS


def test_a_service_has_these_methods_beside() -> None:
    assert signatures(Service, OF_A_SERVICE) == OF_A_SERVICE
    assert public(Service) == set(METHODS) | set(OF_A_SERVICE) - {"__init__"} | PROPERTIES
    assert public(PersonService) == public(Service)
    for name in PROPERTIES:
        assert isinstance(inspect.getattr_static(Service, name), property)
    over = "(sessions: 'Sessions', region: 'CacheRegion | str', *, use_db: 'bool' = False, "
    assert signatures(PersonService, ["over"]) == {"over": f"{over}engine: 'sa.Engine | None' = None) -> 'Self'"}


def test_the_functions_of_the_package_are_called_so() -> None:
    assert signatures(person_repo, FUNCTIONS) == FUNCTIONS


def test_every_module_exports_what_it_has_in_order() -> None:
    for module in modules():
        exported = getattr(module, "__all__", None)
        if exported is not None:
            assert all(hasattr(module, name) for name in exported), module.__name__
            assert len(set(exported)) == len(exported), module.__name__
        assert module.__doc__, module.__name__


def test_every_public_name_says_what_one_gets() -> None:
    silent = []
    for module in modules():
        for name in getattr(module, "__all__", ()):
            found = getattr(module, name)
            if getattr(found, "__module__", "").startswith("person_repo") and callable(found):
                silent += [f"{module.__name__}.{name}"] if not inspect.getdoc(found) else []
    assert silent == []


@pytest.mark.parametrize("name", NAMES)
def test_every_method_of_what_the_package_exports_says_what_one_gets(name: str) -> None:
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


HEAVY = {"alembic", "click", "cryptography", "multiprocessing", "pymemcache", "pymysql", "rich", "sqlite3"}
OF_READS_AND_WRITES = {"dogpile", "msgspec", "sqlalchemy"}


@pytest.mark.parametrize(
    ("code", "heavy"),
    [
        ("import person_repo", HEAVY | OF_READS_AND_WRITES),
        ("from person_repo import EntityNotFoundError", HEAVY | OF_READS_AND_WRITES),
        ("from person_repo import *", HEAVY),
        ("import person_repo.cli.main", HEAVY - {"click"} | OF_READS_AND_WRITES),
    ],
)
def test_an_import_loads_only_what_it_needs(code: str, heavy: set[str]) -> None:
    """A command that tells of itself waits for no ORM, and an application for no command line, migrations or driver."""
    code = (
        f"import sys, threading\n{code}\n"
        "assert threading.active_count() == 1\n"
        f"print(*sorted({heavy!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=False)

    assert (done.stdout, done.stderr) == ("\n", "")


def test_the_package_lists_its_names_before_they_are_imported_and_has_no_other() -> None:
    code = "import person_repo\nassert set(person_repo.__all__) <= set(dir(person_repo))\nperson_repo.Somebody"
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=False)

    assert "AttributeError: module 'person_repo' has no attribute 'Somebody'" in done.stderr


def test_the_package_says_that_it_is_typed() -> None:
    assert Path(person_repo.__path__[0], "py.typed").exists()


def test_the_typing_test_uses_every_name_of_the_package() -> None:
    """``make lint`` has it read by mypy and pyright."""
    text = (CHECKOUT / "tests" / "typing" / "api.py").read_text(encoding="utf-8")

    assert [
        name for name in [*NAMES, *METHODS, *OF_WHAT_WRITES_ROWS, *OF_A_SERVICE, *PROPERTIES] if text.count(name) == 0
    ] == ["__init__"]
