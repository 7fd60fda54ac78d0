"""Every error this package raises.

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
    ├── ImportFailedError                    rows of a file that cannot be imported
    ├── MigrationError                       a schema that is not where the code needs it
    ├── OverloadError                        a read that waited too long for its turn at the database
    └── CacheError
        └── CacheUnavailableError            a cache server did not answer, or not in time

Reads never raise a ``CacheError``: a cache that fails is counted, logged and served from the database. Commits raise
one only where ``on_unreachable`` wants it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = [
    "CacheError",
    "CacheUnavailableError",
    "ConfigurationError",
    "EntityExistsError",
    "EntityNotFoundError",
    "ImportFailedError",
    "InvalidEntityError",
    "InvalidIdError",
    "MigrationError",
    "OverloadError",
    "PersonNotFoundError",
    "PersonRepoError",
    "RowProblem",
    "StaleEntityError",
    "UnknownFieldError",
]


class PersonRepoError(Exception):
    """The root of every error this package raises."""


class ConfigurationError(PersonRepoError, ValueError):
    """A URL, an option or a mapped class cannot be used as given."""


class InvalidIdError(PersonRepoError, ValueError):
    """An id has a type or a shape that the primary key cannot have."""


class InvalidEntityError(PersonRepoError, ValueError):
    """An entity cannot be stored as it is."""


class UnknownFieldError(PersonRepoError, ValueError):
    """A name is no mapped column of the entity."""


class EntityNotFoundError(PersonRepoError, LookupError):
    """No row has this primary key."""

    def __init__(self, entity: str, id: object) -> None:
        self.entity = entity
        self.id = id
        super().__init__(f"no {entity} has the id {shown(id)}")

    # An exception is rebuilt from its message, which is not what these two are made from.
    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.entity, self.id)


class PersonNotFoundError(EntityNotFoundError):
    """No person has this id."""


class EntityExistsError(PersonRepoError):
    """A row with this primary key, or with this value of a unique column, exists already."""


class StaleEntityError(PersonRepoError):
    """The row has changed since this copy of it was read; read it again and apply the change to that."""


@dataclass(frozen=True, slots=True)
class RowProblem:
    """One row of a file that cannot be imported: ``file``, ``line`` (1 is the first), ``reason``."""

    file: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"


class ImportFailedError(PersonRepoError):
    """A file has rows that cannot be imported; nothing of it was. ``problems`` lists all of them."""

    def __init__(self, problems: Sequence[RowProblem]) -> None:
        self.problems = tuple(problems)
        shown = "\n".join(str(problem) for problem in self.problems[:20])
        rest = len(self.problems) - 20
        more = f"\n... and {rest} more" if rest > 0 else ""
        super().__init__(f"nothing was imported; {len(self.problems)} problem(s):\n{shown}{more}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.problems,)


class MigrationError(PersonRepoError):
    """The schema of a database is not where the code needs it, or cannot be brought there."""


class OverloadError(PersonRepoError):
    """A read did not get its turn at the database in time: ``max_loads`` of them were under way.

    Raised only where ``max_loads`` sets a bound.
    """


class CacheError(PersonRepoError):
    """The cache could not do what it was asked."""


class CacheUnavailableError(CacheError):
    """A cache server refused, closed or did not answer within the deadline."""


def shown(value: object, limit: int = 120) -> str:
    """A value as a message shows it: its repr up to a limit, whatever it is, so that a bad value is told and not met.

    Cases: a long string, of which the rest is never built; an integer that Python refuses to write; an object that
    fails at its own repr.
    """
    kind = type(value)
    if isinstance(value, (str, bytes)) and kind in (str, bytes) and len(value) > limit:
        units = "characters" if kind is str else "bytes"
        return f"{repr(value[:limit])[:limit]}... ({len(value)} {units})"
    try:
        text = repr(value)
    except Exception as exc:
        if isinstance(value, int):
            return f"<an integer of {int.bit_length(value)} bits>"
        return f"<{kind.__name__} whose repr raises {type(exc).__name__}>"
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text)} characters)"
