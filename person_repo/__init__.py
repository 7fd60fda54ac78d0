"""A repository layer for SQLAlchemy whose cached reads are never stale once a commit was acknowledged."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from person_repo.cache.region import make_region
    from person_repo.database.bound import BoundRepository
    from person_repo.database.repository import Repository, SQLAlchemyRepository
    from person_repo.exceptions import (
        CacheError,
        CacheUnavailableError,
        ConfigurationError,
        EntityExistsError,
        EntityNotFoundError,
        ImportFailedError,
        InvalidEntityError,
        InvalidIdError,
        MigrationError,
        OverloadError,
        PersonNotFoundError,
        PersonRepoError,
        StaleEntityError,
        UnknownFieldError,
    )
    from person_repo.model import Base, ExactString, Person
    from person_repo.observability.counters import Stats
    from person_repo.reading.cached import CachedRepository
    from person_repo.service import PersonService, Service, connect

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
    "ImportFailedError",
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

_MODULES = {
    "Base": "model",
    "BoundRepository": "database.bound",
    "CachedRepository": "reading.cached",
    "ExactString": "model",
    "Person": "model",
    "PersonService": "service",
    "Repository": "database.repository",
    "SQLAlchemyRepository": "database.repository",
    "Service": "service",
    "Stats": "observability.counters",
    "connect": "service",
    "make_region": "cache.region",
}
"""Where a name comes from; all others of ``__all__`` are exceptions."""


def __getattr__(name: str) -> Any:
    """What a name of ``__all__`` stands for, imported where it is first asked for.

    SQLAlchemy's ORM alone takes longer to import than all that a command line needs to tell of itself.
    """
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f"{__name__}.{_MODULES.get(name, 'exceptions')}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
