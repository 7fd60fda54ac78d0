"""A repository layer for SQLAlchemy whose cached reads are never stale once a commit was acknowledged."""

from person_repo.cached import CachedRepository
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
from person_repo.observability import Stats
from person_repo.region import make_region
from person_repo.repository import BoundRepository, Repository, SQLAlchemyRepository
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
