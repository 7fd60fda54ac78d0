"""The rows of covered models that an execution changes, found right before the statement is sent.

Cases, in the order of ``contexts.examine``:

1. an insert that this package compiled itself says what it changes (``marks.DeclaredInsert``);
2. a Core insert, update or delete. *Fast path*: SQLAlchemy has compiled it before, and it was examined then; its
   ``Form`` says which parameters name the rows. Slow path, for every other: its clauses (``statements``), statements
   inside its WITH, and ``cascades``;
3. text (``sqltext``): the models whose tables it names, or that ``cascades`` reach from a table that it names.

A view (``views``) stands for the tables under it, which change as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine.interfaces import CacheStats
from sqlalchemy.sql import dml

from person_repo.database.marks import DeclaredInsert
from person_repo.internals import expanded_parameters, resolved_statement, table_sent
from person_repo.writing.cascades import Cascades
from person_repo.writing.clauses import Parameters, targets, targets_of
from person_repo.writing.connections import commits_itself, driver_of, has_failed, is_open
from person_repo.writing.covered import COMMITTING, PENDING, Covered, CoveredModel
from person_repo.writing.pending import Pending
from person_repo.writing.rewriting import replaces_unseen
from person_repo.writing.sqltext import TextKind, defines, reaches_any_table
from person_repo.writing.statements import KeyParameters, changes_of, key_parameters
from person_repo.writing.tables import Change
from person_repo.writing.views import defines_view

__all__ = [
    "Changes",
    "Form",
    "form_of",
    "is_query",
    "of_core",
    "of_declared",
    "of_text",
    "targets_sent",
    "whole_models",
]

Changes = list[Change[CoveredModel]]

_FORM = "person_repo_form"
"""The attribute of a compiled statement that holds its ``Form``. A compiled statement belongs to one dialect."""


@dataclass(frozen=True, slots=True)
class Form:
    """Facts about every execution of one compiled statement: the parameters that name the changed rows, and the models
    that change by cascades.

    ``key_parameters`` is None if the parameters do not name the rows: each execution must be examined. Outdated once
    other models are covered (``cascades``), more tables are mapped (``tables``) or one is defined anew
    (``definitions``).
    """

    cascades: Cascades[CoveredModel]
    tables: int
    definitions: object
    key_parameters: list[KeyParameters[CoveredModel]] | None
    cascading: Changes
    changes_nothing: bool


def form_of(covered: Covered, context: Any) -> Form | None:
    """The form of a compiled statement; None if it was not examined before, or that is outdated."""
    form: Form | None = context.compiled.__dict__.get(_FORM)
    if form is None or form.cascades is not covered.cascades or form.tables != form.cascades.size:
        return None
    return form if form.definitions is covered.definitions else None


def whole_models(models: list[CoveredModel]) -> Changes:
    """Any rows of these models."""
    return [Change(model, None) for model in models]


def _pending_on(connection: sa.Connection) -> Pending | None:
    pending: Pending | None = connection.connection.info.get(PENDING)
    return pending


# An insert of this package's


def of_declared(covered: Covered, connection: sa.Connection, insert: DeclaredInsert) -> Changes:
    """The changes of an insert that SQLAlchemy did not compile."""
    pending = _pending_on(connection)
    changes = []
    for model in covered.by_table.get(insert.table.name.lower(), ()):
        is_same_key = model.table is insert.table and model.key_names == insert.key_names
        is_known = is_same_key and not model.rewrites_keys() and not model.is_whole_in(pending)
        identities = insert.identities() if is_known else None
        if identities is not None and not all(map(model.keeps, identities)):
            identities = None
        changes.append(Change(model, identities))
    return changes + whole_models(covered.beside(insert.table))


# Core statements


def of_core(covered: Covered, context: Any, form: Form | None) -> Changes:
    """The changes of a Core insert, update or delete.

    Fast path: by its form, where the parameters name every row. Slow path: ``_examine_unknown_form``.
    """
    connection: sa.Connection = context.root_connection
    if form is None or form.key_parameters is None:
        return _examine_unknown_form(covered, connection, context, form)
    pending = _pending_on(connection)
    changes = [*form.cascading]
    for key in form.key_parameters:
        model = key.table
        change = Change(model, None) if model.is_whole_in(pending) else key.change(context.compiled_parameters)
        if change is None:
            return _examine_unknown_form(covered, connection, context, form)
        changes.append(change)
    return changes


def _examine_unknown_form(covered: Covered, connection: sa.Connection, context: Any, form: Form | None) -> Changes:
    """The changes of a statement by its clauses. Keeps its form, if there is none yet, for the next execution."""
    statement = resolved_statement(context)
    statement = getattr(statement, "element", statement)  # select(...).from_statement(...) wraps one.
    if not isinstance(statement, dml.UpdateBase):
        return whole_models(covered.models)
    text = getattr(context, "statement", "")  # not there yet while a default is asked for
    if replaces_unseen(statement, text, context.dialect) or has_text_ctes(context.compiled):
        return of_text(covered, connection, text, TextKind.WRITE)
    parameters = _parameters_of(context)
    changes: Changes = []
    # An ORM statement with a list of rows is sent as one for each table of its class.
    sent = table_sent(context.compiled)
    if isinstance(sent, sa.Table) and sent.name != getattr(statement.table, "name", None):
        named = covered.by_table.get(sent.name.lower(), [])
        return whole_models([*named, *covered.cascades.of_text(sent.name), *covered.beside(sent)])
    if any(name in covered.by_table for name in targets_of(statement)):
        changes = _of_clauses(covered, connection, statement, parameters, context.execution_options)
    by_ctes = changed_by_ctes(context.compiled)
    for name in by_ctes:
        changes += whole_models([*covered.by_table.get(name, []), *covered.beside(name)])
    if form is not None:
        return changes + form.cascading
    cascading = whole_models(covered.cascades.of_statement(statement, parameters) + _beside(covered, statement))
    is_final = context.cache_hit is CacheStats.CACHE_HIT and covered.views.is_known
    if is_final:  # It was compiled for an earlier execution.
        keys, options = None, context.execution_options
        if not by_ctes:
            keys = key_parameters(statement, parameters, covered.by_table, connection.dialect, options)
        context.compiled.__dict__[_FORM] = _form(covered, keys, cascading)
    return changes + cascading


def _beside(covered: Covered, statement: dml.UpdateBase) -> list[CoveredModel]:
    """The models of ``Covered.beside`` for each table of a statement: a covered one may be a view, too."""
    return [model for target, _ in targets(statement) for model in covered.beside(target)]


def _form(covered: Covered, keys: list[KeyParameters[CoveredModel]] | None, cascading: Changes) -> Form:
    cascades, nothing = covered.cascades, keys == [] and not cascading
    return Form(cascades, cascades.size, covered.definitions, keys, cascading, changes_nothing=nothing)


def _of_clauses(
    covered: Covered,
    connection: sa.Connection,
    statement: dml.UpdateBase,
    parameters: Parameters,
    options: Mapping[str, Any],
) -> Changes:
    def is_in_transaction() -> bool:
        models = [model for name in targets_of(statement) for model in covered.by_table.get(name, ())]
        if not all(covered.storage.waits_for_commit(model.table, options) for model in models):
            return False
        driver, pending = driver_of(connection), _pending_on(connection)
        if has_failed(driver):
            return False
        begun_by_text = pending is not None and pending.begun_by_text
        return not commits_itself(connection, driver, open_now=is_open(driver), begun_by_text=begun_by_text)

    return changes_of(
        connection,
        statement,
        parameters,
        covered.by_table,
        most=max(model.backend.settings.max_keys for model in covered.models),
        may_ask=is_in_transaction,
        options=options,
    )


def _parameters_of(context: Any) -> Parameters:
    """The parameter sets by the statement's own names: the compiler spreads a list over names that it makes up."""
    spread = expanded_parameters(context)
    return [
        {**given, **{name: [given[part] for part in parts] for name, parts in spread.items() if name not in given}}
        for given in context.compiled_parameters
    ]


def is_query(context: Any) -> bool:
    """True for a Core SELECT that changes nothing on the way."""
    compiled = getattr(context, "compiled", None)
    is_select = isinstance(getattr(compiled, "statement", None), (sa.Select, sa.CompoundSelect))
    return is_select and not changed_by_ctes(compiled) and not has_text_ctes(compiled)


def targets_sent(context: Any) -> frozenset[str]:
    """The names, in lower case, of the tables that a Core write was compiled for."""
    sent = table_sent(context.compiled)
    statement = resolved_statement(context)
    named = targets_of(statement) if isinstance(statement, dml.UpdateBase) else []
    return frozenset([*named, *([sent.name.lower()] if isinstance(sent, sa.Table) else [])])


def has_text_ctes(compiled: Any) -> bool:
    """True if text stands within a WITH."""
    parts = [getattr(cte, "element", None) for cte in getattr(compiled, "ctes", None) or ()]
    return any(isinstance(part, sa.TextualSelect) for part in parts)


def changed_by_ctes(compiled: Any) -> list[str]:
    """The names of the tables that inserts, updates and deletes within a WITH change."""
    parts = [getattr(cte, "element", None) for cte in getattr(compiled, "ctes", None) or ()]
    return [name for part in parts if isinstance(part, dml.UpdateBase) for name in targets_of(part)]


# Text


def of_text(covered: Covered, connection: sa.Connection, statement: str, kind: str) -> Changes:
    """The changes of SQL text of this kind."""
    if kind == TextKind.ANY:
        # The dialect's own COMMIT PREPARED is text, too, and what it commits is recorded.
        return [] if COMMITTING in connection.connection.info else whole_models(covered.models)
    if kind != TextKind.WRITE:
        return []
    if reaches_any_table(statement):
        return whole_models(covered.models)
    named = covered.named_in(statement)
    if not defines(statement) or defines_view(statement):
        views = covered.views.named_in(statement, covered.cascades.tables)
        if views is None:
            return whole_models(covered.models)
        for view in views:
            named += [model for model in covered.beside(view) if model not in named]
        covered.views.hear(statement)
    return whole_models(named) if named else []
