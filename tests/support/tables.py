"""Watched tables without a cache, and models whose key has any type."""

from __future__ import annotations

import enum
import uuid
from typing import Any

import sqlalchemy as sa
from sqlalchemy import orm

from person_repo.mapped.mapping import EntityMapping
from person_repo.writing.tables import WatchedTable

__all__ = ["Colour", "entity_of", "model", "watched"]


def watched(entity: type[Any]) -> WatchedTable:
    mapping = EntityMapping(entity)
    return WatchedTable(mapping, mapping.table)


class HostBase(orm.DeclarativeBase):
    """The models of an imagined host."""


class Colour(enum.Enum):
    RED = "r"


def model(type_: Any) -> type[Any]:
    """A class whose only column, the key, has this type."""
    name = f"model_{uuid.uuid4().hex}"
    return type(name, (HostBase,), {"__tablename__": name, "key": orm.mapped_column("key", type_, primary_key=True)})


def entity_of(type_: Any) -> type[Any]:
    """A new class ``Kept``, with a key ``id`` of this type and a ``note``, and metadata of its own."""

    class Base(orm.DeclarativeBase):
        pass

    class Kept(Base):
        __tablename__ = "kept"
        id = sa.Column(type_, primary_key=True, autoincrement=False)
        note = sa.Column(sa.String(20), default="")

    return Kept
