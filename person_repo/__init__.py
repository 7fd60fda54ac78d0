"""A repository layer for SQLAlchemy whose cached reads are never stale once a commit was acknowledged."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from person_repo.exceptions import (
    CacheError,
    CacheUnavailableError,
    ConfigurationError,
    EntityExistsError,
    EntityNotFoundError,
    InvalidEntityError,
    InvalidIdError,
    MigrationError,
    OverloadError,
    PersonNotFoundError,
    PersonRepoError,
    StaleEntityError,
    UnknownFieldError,
)

if TYPE_CHECKING:
    from person_repo import backends as backends
    from person_repo import exceptions as exceptions
    from person_repo import migrations as migrations
    from person_repo import settings as settings
    from person_repo import testing as testing
    from person_repo.cache.region import make_region
    from person_repo.checks import Finding
    from person_repo.database.bound import BoundRepository
    from person_repo.database.repository import Repository, SQLAlchemyRepository
    from person_repo.declare import cached
    from person_repo.model import Base, ExactString, Person
    from person_repo.observability.counters import Stats
    from person_repo.reading.cached import CachedRepository
    from person_repo.service import PersonService, Service, connect
    from person_repo.writing.declared import cover

# Type checkers read this list, so it is a plain one.
__all__ = [
    "Base",
    "BoundRepository",
    "CacheError",
    "CacheUnavailableError",
    "CachedRepository",
    "ConfigurationError",
    "EntityExistsError",
    "EntityNotFoundError",
    "ExactString",
    "Finding",
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
    "cached",
    "connect",
    "cover",
    "make_region",
]

_PUBLIC_MODULES = ("backends", "exceptions", "migrations", "settings", "testing")

# The modules of the names above, light ones first. SQLAlchemy's ORM alone takes longer to import than everything that
# ``person-repo --help`` needs.
_LAZY_MODULES = (
    "observability.counters",
    "model",
    "declare",
    "cache.region",
    "database.bound",
    "database.repository",
    "reading.cached",
    "writing.declared",
    "checks",
    "service",
)


def __getattr__(name: str) -> Any:
    """A public module or name, imported on first use."""
    if name in _PUBLIC_MODULES:
        return import_module(f"{__name__}.{name}")
    for place in _LAZY_MODULES if name in __all__ else ():
        module = import_module(f"{__name__}.{place}")
        if name in module.__all__:
            globals()[name] = value = getattr(module, name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_PUBLIC_MODULES})
