"""The schema in two branches: the tables of the layer, and the table of ``Person``; upgrade, downgrade, revisions.

A host with models of its own needs the layer's branch only: ``upgrade(..., person=False)``, or ``layer/`` below
``script_location()`` in the ``version_locations`` of its alembic (in an ini file, as ``person_repo:_alembic/layer``
with ``path_separator = newline``). A host that uses ``Person`` has both branches: ``upgrade(...)``, or ``versions/``,
too. By ``upgrade``, ``VERSION_TABLE`` has the revisions; by ``version_locations`` the host's own version table has
them, and ``current`` does not know them.
"""

from __future__ import annotations

from person_repo.database.schema import VERSION_TABLE
from person_repo.migrations import operations
from person_repo.migrations.autogenerate import include_object, render_item
from person_repo.migrations.commands import (
    Target,
    current,
    downgrade,
    exclusive,
    heads,
    script_location,
    upgrade,
)

__all__ = [
    "VERSION_TABLE",
    "Target",
    "current",
    "downgrade",
    "exclusive",
    "heads",
    "include_object",
    "render_item",
    "script_location",
    "upgrade",
]

operations.install()
