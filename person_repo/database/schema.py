"""The layer's tables in a database: which are missing, or of an older revision, and the line that mends it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import sqlalchemy as sa

from person_repo.model import FENCE, IDENTITY

__all__ = [
    "LAYER_REVISION",
    "REMEDY",
    "VERSION_TABLE",
    "VERSION_TABLE_OF_ALEMBIC",
    "has_fence",
    "has_identity",
    "is_about_schema",
    "outdated",
    "problems",
]

VERSION_TABLE: Final = "person_repo_version"
"""The table that holds the revisions; not alembic's default, which is the host's."""

VERSION_TABLE_OF_ALEMBIC: Final = "alembic_version"
"""alembic's default. A host that lists our folders among its own has our revisions there."""

LAYER_REVISION: Final = "person_repo_layer_0002"
"""The revision of the layer's branch that this version needs. Known without alembic, whose import takes long."""

REMEDY: Final = (
    "run person_repo.migrations.upgrade(engine) or `person-repo upgrade` (person=False, --no-person: without the table "
    "of Person), or `alembic upgrade heads` if our revisions are among yours"
)


def problems(connection: sa.Connection) -> Iterator[str]:
    """A sentence for each table that is missing, and for an older revision. Raises ``SQLAlchemyError``."""
    tables = ((FENCE, has_fence), (IDENTITY, has_identity))
    missing = [table.name for table, is_there in tables if not is_there(connection)]
    for name in missing:
        yield f"there is no table {name}"
    if not missing and (problem := outdated(connection)) is not None:
        yield problem


def has_fence(connection: sa.Connection) -> bool:
    """True if the table of the fence is there."""
    return sa.inspect(connection).has_table(FENCE.name)


def has_identity(connection: sa.Connection) -> bool:
    """True if the table of the database's identity is there; not without a database to look in (MySQL)."""
    inspector = sa.inspect(connection)
    return inspector.default_schema_name is not None and inspector.has_table(IDENTITY.name)


def outdated(connection: sa.Connection) -> str | None:
    """A sentence if the layer's branch is at an older revision than this version needs.

    None if it is not older, as during a deploy, or if its revision is not known: the tables were made from the
    metadata, or a revision of the host's stands for ours. Raises ``SQLAlchemyError``.
    """
    ours = _revisions(connection, VERSION_TABLE)
    layer = [found for found in ours + _revisions(connection, VERSION_TABLE_OF_ALEMBIC) if _is_of_layer(found)]
    if layer and max(layer) < LAYER_REVISION:  # The ids are numbered.
        return f"the schema is at {max(layer)}, and this version needs {LAYER_REVISION}"
    if ours and not layer:
        return f"the schema is at {', '.join(ours)}, and this version also needs {LAYER_REVISION}"
    return None


def is_about_schema(statement: str) -> bool:
    """True for SQL about the layer's tables or revisions: polls of the fence, which come by the clock, and what is
    asked once, the identity and the revision. They are no part of the cost of a read.
    """
    return any(name in statement for name in (FENCE.name, IDENTITY.name, VERSION_TABLE, VERSION_TABLE_OF_ALEMBIC))


def _revisions(connection: sa.Connection, version_table: str) -> list[str]:
    if not sa.inspect(connection).has_table(version_table):
        return []
    versions = sa.table(version_table, sa.column("version_num"))
    return list(connection.scalars(sa.select(versions.c.version_num)))


def _is_of_layer(revision: str) -> bool:
    return re.fullmatch(r"person_repo_layer_\d+", revision) is not None
