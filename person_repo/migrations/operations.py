"""alembic's operations on the package's tables: a table that another branch needs is neither made twice nor dropped.

Two revisions make the table of the fence: ``person_repo_0002``, and the first of the layer's branch. They run in any
order, and in the alembic of a host, where nothing but the revisions is ours. Therefore two operations are extended for
the whole process (alembic's "operation plugins"); for the tables of others they do as before.

- Create a table of the layer's: if it is there, only its indexes that are missing are made. MySQL commits each
  statement, so an earlier run may have ended between the two.
- Drop the fence: it stays while the other branch has it. With ``--sql`` nobody can look; then it is printed with the
  layer's branch, and never with that of ``Person``.
- Drop any table of ours: refused for ``downgrade -1`` in a database of several branches, where alembic picks one of
  them, and the host means its own.
"""

from __future__ import annotations

import logging
import re
import weakref
from collections.abc import Callable, Iterable
from typing import Any, Final

import sqlalchemy as sa
from alembic.operations import Operations, ops
from alembic.runtime.migration import MigrationContext
from alembic.util import CommandError

from person_repo.database.schema import VERSION_TABLE, VERSION_TABLE_OF_ALEMBIC
from person_repo.internals import operation_of
from person_repo.model import FENCE, IDENTITY, Person

__all__ = ["install"]

logger = logging.getLogger("person_repo.migrations")

_OF_PERSON: Final = "person_repo_0002"
_OF_LAYER: Final = "person_repo_layer_0001"
_VERSION_TABLES: Final = (VERSION_TABLE, VERSION_TABLE_OF_ALEMBIC)
"""A host may run one branch by call, and the other one among its own revisions."""

_printed: weakref.WeakSet[MigrationContext] = weakref.WeakSet()
"""Runs with ``--sql`` that have printed the fence."""


def install() -> None:
    """Extends both operations, once for a process."""
    create, drop = operation_of(ops.CreateTableOp), operation_of(ops.DropTableOp)

    @Operations.implementation_for(ops.CreateTableOp, replace=True)
    def create_table(operations: Operations, operation: ops.CreateTableOp) -> Any:
        if operation.table_name not in (FENCE.name, IDENTITY.name) or operation.schema is not None:
            return create(operations, operation)
        return _create(create, operations, operation)

    @Operations.implementation_for(ops.DropTableOp, replace=True)
    def drop_table(operations: Operations, operation: ops.DropTableOp) -> None:
        if operation.table_name in (FENCE.name, IDENTITY.name, Person.__tablename__) and operation.schema is None:
            _refuse_ambiguity(operations.migration_context, operation.table_name)
        if operation.table_name != FENCE.name or operation.schema is not None or _may_drop(operations):
            drop(operations, operation)


def _create(create: Callable[..., Any], operations: Operations, operation: ops.CreateTableOp) -> Any:
    context = operations.migration_context
    if not _is_there(context, operation.table_name):
        _printed.add(context)
        return create(operations, operation)
    table = operation.to_table(context)
    if not context.as_sql:
        present = {index["name"] for index in sa.inspect(_connection(context)).get_indexes(table.name)}
        for index in table.indexes:
            if index.name not in present:
                operations.impl.create_index(index)
    logger.info("%s is there and stays as it is", table.name)
    return table


def _is_there(context: MigrationContext, name: str) -> bool:
    if context.as_sql:
        return name == FENCE.name and (context in _printed or bool(_applied(context)))
    return sa.inspect(_connection(context)).has_table(name)


def _may_drop(operations: Operations) -> bool:
    """True if nobody needs the fence but the branch that is being taken down. Revisions go after their operations."""
    context = operations.migration_context
    if context.as_sql:
        if _OF_LAYER in _applied(context):
            return True
        context.impl.static_output(f"-- {FENCE.name} stays: the layer's branch may have it, too")
        return False
    if not _is_there(context, FENCE.name):
        return False
    others = [name for name in _VERSION_TABLES if name != context.version_table]
    if len(_applied(context).union(*(_named_in(_connection(context), name) for name in others))) < 2:
        return True
    logger.info("%s stays: the other branch of person_repo needs it", FENCE.name)
    return False


def _applied(context: MigrationContext) -> set[str]:
    """Those of the two revisions that the run's own version table has; with ``--sql``, that the run began with."""
    heads = context.get_current_heads()
    if context.script is None:
        return _named_by(heads)
    scripts = context.script.iterate_revisions(heads, "base") if heads else ()
    return {script.revision for script in scripts} & {_OF_PERSON, _OF_LAYER}


def _named_in(connection: sa.Connection, version_table: str) -> set[str]:
    """Those of the two revisions that another version table has, whose revisions this run need not know."""
    if not sa.inspect(connection).has_table(version_table):
        return set()
    versions = sa.table(version_table, sa.column("version_num"))
    return _named_by(connection.scalars(sa.select(versions.c.version_num)))


def _named_by(heads: Iterable[str]) -> set[str]:
    """The branches are lines, and the ids are numbered: each one from the second, or the first, on follows it."""
    branches = {r"person_repo_(?!0001)\d+": _OF_PERSON, r"person_repo_layer_\d+": _OF_LAYER}
    return {revision for head in heads for pattern, revision in branches.items() if re.fullmatch(pattern, head)}


def _refuse_ambiguity(context: MigrationContext, table: str) -> None:
    """alembic goes down the branch that its version table happens to list first."""
    destination = str(context.opts.get("destination_rev"))
    if context.as_sql or not re.fullmatch(r"-\d+", destination):
        return
    heads = context.get_current_heads()
    if len(heads) > 1 and heads[0].startswith("person_repo_"):
        raise CommandError(
            f"downgrade {destination} would drop {table}: the database has the branches of {', '.join(heads)}, and "
            "alembic takes the first of them; name the branch by its label or a revision of it, as in "
            f"<branch>@{destination}"
        )


def _connection(context: MigrationContext) -> sa.Connection:
    assert context.connection is not None
    return context.connection
