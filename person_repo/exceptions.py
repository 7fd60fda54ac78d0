"""Every error that this package raises.

::

    PersonRepoError
    ├── ConfigurationError (ValueError)      a URL, an option or a mapped class that cannot be used
    ├── InvalidIdError (ValueError)          an id of a type or shape that the primary key cannot have
    ├── InvalidEntityError (ValueError)      an entity that the database cannot take
    ├── UnknownFieldError (ValueError)       a name that is no mapped column of the entity
    ├── EntityNotFoundError (LookupError)    no such row
    │   └── PersonNotFoundError
    ├── EntityExistsError                    an insert of a key that is taken
    ├── StaleEntityError                     a copy older than the row was written back
    ├── MigrationError                       a schema that is not where the code needs it
    ├── OverloadError                        a read that waited too long for its turn at the database
    └── CacheError
        ├── CacheUnavailableError            a cache server did not answer, or not in time
        ├── RejectedItemError (ValueError)   bytes from the cache that are no item of their key and schema
        ├── SealError (ValueError)           bytes that no known secret has sealed for their key
        └── UncacheableError (ValueError)    a row that would not come back from the cache as it is

Reads never raise a ``CacheError``: a cache that fails is counted and logged, and the database answers. Commits raise
one only if ``on_unreachable`` says so. The last three stay inside the package, and appear in its log.
"""

from __future__ import annotations

from typing import Any

from person_repo.messages import shown

__all__ = [
    "CacheError",
    "CacheUnavailableError",
    "ConfigurationError",
    "EntityExistsError",
    "EntityNotFoundError",
    "InvalidEntityError",
    "InvalidIdError",
    "MigrationError",
    "OverloadError",
    "PersonNotFoundError",
    "PersonRepoError",
    "RejectedItemError",
    "SealError",
    "StaleEntityError",
    "UncacheableError",
    "UnknownFieldError",
]


class PersonRepoError(Exception):
    """The root of every error that this package raises; never raised itself."""


class ConfigurationError(PersonRepoError, ValueError):
    """A URL, an option, a region or a mapped class cannot be used. The message has the limit and the remedy."""


class InvalidIdError(PersonRepoError, ValueError):
    """An id has another type than the primary key, or is a tuple of another length: ``1`` is not ``"1"``."""


class InvalidEntityError(PersonRepoError, ValueError):
    """An entity cannot be stored as it is.

    A value is too long, of another kind or None where none may be, or a constraint other than a key is violated.
    """


class UnknownFieldError(PersonRepoError, ValueError):
    """A name given to ``find``, ``update`` or ``add_rows`` is no mapped column of the entity."""


class EntityNotFoundError(PersonRepoError, LookupError):
    """No row has this primary key. ``entity``: the name of the class; ``id``: the id."""

    def __init__(self, entity: str, id: object) -> None:
        self.entity = entity
        self.id = id
        super().__init__(f"no {entity} has the id {shown(id)}")

    # pickle would call ``type(error)(*error.args)``, and ``args`` is the message alone.
    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.entity, self.id)


class PersonNotFoundError(EntityNotFoundError):
    """No person has this id."""


class EntityExistsError(PersonRepoError):
    """A row with this primary key, or with this value of a unique column, exists already.

    ``entity``: the name of the class. ``id``: the primary key that is taken; None if the database does not say which
    row of several it is, or if the value of another unique column is taken.
    """

    def __init__(self, message: str = "", *, entity: str | None = None, id: Any = None) -> None:
        self.entity = entity
        self.id = id
        super().__init__(message)


class StaleEntityError(PersonRepoError):
    """The row has changed since this copy of it was read; read it again and apply the change to that.

    Raised by ``upsert`` of such a copy, and for a write that others overtook in every attempt.
    """


class MigrationError(PersonRepoError):
    """The schema of a database is unknown to this version of the package, or the database refuses to change it."""


class OverloadError(PersonRepoError):
    """A read did not get its turn at the database in time: ``max_loads`` of them were under way.

    Raised only if ``max_loads`` sets a bound.
    """


class CacheError(PersonRepoError):
    """The cache could not do what it was asked."""


class CacheUnavailableError(CacheError):
    """A cache server refused, closed or did not answer within the deadline.

    Raised by dogpile's own methods of a memcached region, and by commits only if ``on_unreachable`` says so:
    ``refuse``, or ``strict`` if readers cannot be notified either.
    """


class RejectedItemError(CacheError, ValueError):
    """Bytes from the cache are no item of this key and this schema. Counted and logged; the database answers."""


class SealError(CacheError, ValueError):
    """Bytes from the cache have no seal of a known secret for this key. Counted and logged; the database answers."""


class UncacheableError(CacheError, ValueError):
    """A row would not come back from the cache as it is. Counted and logged; the database answers each read of it."""
