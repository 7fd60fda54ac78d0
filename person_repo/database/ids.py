"""Ids and pages as callers ask for them: checked, and as identities."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import sqlalchemy as sa

from person_repo.database.loading import Queries
from person_repo.exceptions import EntityNotFoundError, InvalidIdError, PersonNotFoundError
from person_repo.mapped.mapping import EntityMapping, Identity
from person_repo.messages import shown
from person_repo.model import Person

__all__ = ["identities", "listed", "page", "required"]

E = TypeVar("E")


def listed(ids: Iterable[Any]) -> Sequence[Any]:
    """The ids of a caller as a list; an iterator is read once. Raises ``TypeError`` for a single id."""
    if isinstance(ids, (str, bytes)):
        raise TypeError(
            f"get_many takes ids, not one: {shown(ids, 60)} would be asked letter by letter; write [{shown(ids, 60)}]"
        )
    return [*ids]


def identities(mapping: EntityMapping[Any], ids: Iterable[Any]) -> dict[Identity, Any]:
    """The ids by identity, each once, in order; an id that no row can have is left out.

    Raises ``InvalidIdError``, ``TypeError``.
    """
    ids_by_identity: dict[Identity, Any] = {}
    for id in listed(ids):
        identity = mapping.identity(id)
        if identity is not None:
            ids_by_identity.setdefault(identity, mapping.id_of(identity))
    return ids_by_identity


def required(mapping: EntityMapping[E], id: Any, entity: E | None) -> E:
    """The entity. Raises ``EntityNotFoundError``, for people ``PersonNotFoundError``, if it is None."""
    if entity is None:
        error = PersonNotFoundError if issubclass(mapping.entity, Person) else EntityNotFoundError
        raise error(mapping.name, id)
    return entity


def page(mapping: EntityMapping[Any], after: Any, limit: Any) -> Sequence[sa.ColumnElement[bool]]:
    """The criteria of ``list``. Raises ``InvalidIdError``, and ``ValueError`` for a limit below 1."""
    given: object = limit
    if not isinstance(given, int) or not 1 <= given < 2**63:
        raise ValueError(f"limit {shown(limit)}: give a whole number, at least 1")
    if after is None:
        return []
    identity = mapping.identity(after)
    if identity is None:
        raise InvalidIdError(
            f"after {shown(after)} is no id that a {mapping.name} could have; give one from the last page"
        )
    return [Queries(mapping).after(identity)]
