"""The models that a dialect is covered for, with their tables and caches, and the cascades between them."""

from __future__ import annotations

import enum
import logging
import time
import weakref
from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal

import sqlalchemy as sa

from person_repo.cache.contract import LeaseBackend
from person_repo.database.identity import Translation, database_of
from person_repo.fence.view import Fence, fence_of
from person_repo.internals import root_engine
from person_repo.interruptions import DATABASE_ERRORS, is_repeated
from person_repo.mapped.identities import Identity, IdentityMapping
from person_repo.mapped.keys import Keyspace, group_name
from person_repo.writing.cascades import Cascades
from person_repo.writing.catalog import UNKNOWN, KeyColumns, has_catalog, has_collations, key_columns_of, may_return
from person_repo.writing.outage import OpenTransaction
from person_repo.writing.pending import Pending
from person_repo.writing.realcolumns import RealColumn
from person_repo.writing.storage import Storage
from person_repo.writing.tables import WatchedTable
from person_repo.writing.views import Views, defines_view

__all__ = ["ANYWHERE", "COMMITTING", "HIDDEN", "MOVED", "PENDING", "SINCE", "Covered", "CoveredModel", "Scope"]

logger = logging.getLogger("person_repo.writing")

_PAUSE: Final = 1.0
"""Seconds between two questions to the catalog, if the first had no answer."""

MOVED = "person_repo_moved"
"""The key in a DBAPI connection's ``info`` that is there once text has chosen another default schema."""

HIDDEN = "person_repo_hidden"
"""The key in a DBAPI connection's ``info`` that is there once a temporary table may hide another one."""

PENDING = "person_repo"
"""The key in a DBAPI connection's ``info`` for its transaction's ``Pending``. Nothing there: nothing has changed."""

SINCE = "person_repo_since"
"""The key in a DBAPI connection's ``info`` for the number of ``Covered.news`` when its transaction began."""

COMMITTING = "person_repo_committing"
"""The key in a DBAPI connection's ``info`` that is there while the dialect sends COMMIT PREPARED as text."""


_UNKNOWN: Final = (RealColumn(None, numbers=True, has_all_characters=False),)
"""A column of which the catalog says nothing."""


class _Anywhere(enum.Enum):
    ANYWHERE = "the schema of a statement's tables is not known"


ANYWHERE: Literal[_Anywhere.ANYWHERE] = _Anywhere.ANYWHERE

Scope = Translation | None | Literal[_Anywhere.ANYWHERE]
"""The schemas of a statement's tables: as they are mapped (None), translated, or not known."""


def _unconnected(dialect: sa.Dialect) -> sa.Dialect:
    """A dialect of the same class, to ask what a type is to it. The engine's own, which has not met its server yet,
    would keep the answer for the host's statements, and it may be another one by then.
    """
    return type(dialect)()


class CoveredModel(WatchedTable):
    """A watched table of a model, with the cache that holds its entities. ``engine``: the covered one."""

    def __init__(
        self, mapping: IdentityMapping[Any], backend: LeaseBackend, engine: sa.Engine, table: sa.Table
    ) -> None:
        super().__init__(mapping, table)
        self.backend = backend
        self._engine = weakref.ref(root_engine(engine))
        self.group = group_name(backend.settings.namespace, mapping.table.name)
        self._database = database_of(engine)
        self._schema = mapping.table.schema
        self._is_joined = table is not mapping.table
        # By the schema that a statement means. All tables of the class are in one, or nothing is in here.
        self._keyspaces: dict[str | None, Keyspace] = {}
        self._database.at_end(self, CoveredModel._forget)
        self._is_on_postgresql = engine.dialect.name == "postgresql"
        self.has_real_columns = has_catalog(engine.dialect)
        # On MySQL a number is a number.
        self._compares_by_catalog = has_collations(engine.dialect) and (
            self._is_on_postgresql or bool(self.string_key_names(_unconnected(engine.dialect)))
        )
        self._lower_names = tuple(name.lower() for name in self.key_names)
        # Replaced by ``alter`` and ``settle``, so that an answer from before comes to nothing.
        self._key_columns: list[KeyColumns] = []
        self._returns: dict[str | None, bool] = {}
        self._returns_nothing = False
        self._asks_again = self._asks_key_again = float("-inf")
        self._altering: weakref.WeakSet[Pending] = weakref.WeakSet()

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, CoveredModel)
            and self._is_of(other)
            and bool(other.mapping.key_fields) == bool(self.mapping.key_fields)
        )

    __hash__ = None  # type: ignore[assignment]

    def is_replaced_by(self, other: CoveredModel) -> bool:
        """True if the other one is of the same table, and the type of its key is known now."""
        return not self.mapping.key_fields and bool(other.mapping.key_fields) and self._is_of(other)

    def _is_of(self, other: CoveredModel) -> bool:
        return (
            other.backend is self.backend and other.mapping.entity is self.mapping.entity and other.table is self.table
        )

    def compares_exactly(self, dialect: sa.Dialect) -> bool:
        """As for any watched table; where there is a catalog, it must agree with the metadata, too."""
        if not super().compares_exactly(dialect):
            return False
        if not self._compares_by_catalog:
            return True
        known = self._key_columns  # This is ``_in_catalog`` without a call, at each statement.
        return (known[0] if known else self._in_catalog()).compares_exactly

    def rewrites_keys(self) -> bool:
        """As for any watched table; on PostgreSQL the catalog must agree with the metadata, too."""
        return super().rewrites_keys() or (self._is_on_postgresql and not self._in_catalog().keeps_values)

    @property
    def dialect(self) -> sa.Dialect | None:
        """That of the covered engine; None once that is gone."""
        engine = self._engine()
        return None if engine is None else engine.dialect

    @property
    def computes_keys(self) -> bool:
        """As for any watched table, or by the catalog's word."""
        return super().computes_keys or (self.has_real_columns and self._in_catalog().is_computed)

    def keeps(self, values: Sequence[Any], first: int = 0) -> bool:
        """As for any watched table. Without an answer of the catalog's 0 may be a number of AUTO_INCREMENT, and the
        character set of MySQL and MariaDB lack a character.
        """
        if not self.has_real_columns:
            return True
        known = self._key_columns
        columns = (known[0] if known else self._in_catalog()).columns
        for index, value in enumerate(values, first):
            for column in columns.get(self._lower_names[index], _UNKNOWN):
                is_short = type(value) is str and len(value) <= column.longest and value.isascii()
                if not is_short and not self._is_kept_by(column, index, value):
                    return False
        return True

    def _is_kept_by(self, column: RealColumn, index: int, value: Any) -> bool:
        dialect = self.dialect
        if dialect is None or (self._is_on_postgresql and column is _UNKNOWN[0]):
            return dialect is not None
        process = self.mapping.key_fields[index].column.type.dialect_impl(dialect).bind_processor(dialect)
        try:
            sent = value if process is None else process(value)
        except (TypeError, ValueError, AttributeError, ArithmeticError, LookupError):
            return False
        return column.keeps(sent, dialect.name, value)

    def alter(self, pending: Pending) -> None:
        """A transaction may define the table anew: until its outcome is known (``settle``), nothing is known of it."""
        self._altering.add(pending)
        self._key_columns, self._returns = [], {}

    def settle(self, pending: Pending) -> bool:
        """Ask again if this transaction was one that may have given the table other columns; returns whether it was."""
        if pending not in self._altering:
            return False
        self._altering.discard(pending)
        self._key_columns, self._returns = [], {}
        return True

    def _in_catalog(self) -> KeyColumns:
        """The catalog's facts of the key, asked for until the table is there."""
        known, engine = self._key_columns, self._engine()  # Before the question whether they are about to change.
        if not known and engine is not None and not self._altering and time.monotonic() >= self._asks_key_again:
            found = key_columns_of(engine, self.table, self.key_names)
            if found is UNKNOWN:
                self._asks_key_again = time.monotonic() + _PAUSE
            elif found is not None:
                known.append(found)
        return known[0] if known else UNKNOWN

    def may_return(self, translation: Translation | None) -> bool:
        """True if statements may be made to return the key. On PostgreSQL its catalog is asked once, and after an error
        a second later again; elsewhere a refusal does no harm.

        ``translation``: that of the statement's schemas.
        """
        if not self._is_on_postgresql:
            return not self._returns_nothing
        schema = translation.get(self._schema, self._schema) if translation else self._schema
        known, engine = self._returns, self._engine()  # Before the question, as above.
        answer = known.get(schema)
        if self._returns_nothing or answer is not None or engine is None or self._altering:
            return bool(answer) and not self._returns_nothing
        if time.monotonic() < self._asks_again:
            return False

        def ask() -> bool:
            return may_return(engine, self.table, schema, self.key_names)

        try:
            answer = known[schema] = ask()
        except Exception as exc:  # A connect listener or a creator of the host's may raise anything.
            if not isinstance(exc, DATABASE_ERRORS) and not is_repeated(exc, ask):
                raise
            logger.debug("the keys of %s are not returned: %s", self.table.name, exc)
            self._asks_again = time.monotonic() + _PAUSE
            return False
        return answer

    def returns_nothing(self) -> None:
        """A statement that was to return the key was refused."""
        self._returns_nothing = True

    # The changes of a transaction

    def record(self, pending: Pending, identities: Iterable[Identity] | None, scope: Scope = None) -> None:
        """Add changed rows to a transaction's changes; None is any rows. Without certainty about the names of their
        entries all of the class count as changed.

        Raises ``InvalidIdError`` for a row whose key no reader can ask for.
        """
        keys = None
        if identities is not None and self._is_joined and not self._has_the_roots_keys():
            identities = None
        if identities is not None and scope is not ANYWHERE:
            # Mostly without a call.
            keys = None if scope else self._keyspaces.get(self._schema)
            keys = self.keyspace(scope) if keys is None else keys
        if keys is None or identities is None:
            pending.add_group(self.backend, self.group)
        else:
            key_of = keys.key_of
            pending.add(self.backend, self.group, [key_of(identity)[0] for identity in identities])

    def _has_the_roots_keys(self) -> bool:
        """True if a key of this table is spelt as in the root's, by which readers name the row: a reference to a string
        whose collation folds case may be another spelling of it.
        """
        dialect = self.dialect
        return dialect is not None and self.compares_exactly(dialect)

    def keyspace(self, translation: Translation | None) -> Keyspace | None:
        """The keys of the class's rows; None without certainty."""
        schema = translation.get(self._schema, self._schema) if translation else self._schema
        if translation and not schema and self._schema in translation:
            return None  # SQLAlchemy names the default schema then, as its dialect once found it: not the connection.
        found = self._keyspaces.get(schema)
        if found is None:
            namespace = self.backend.settings.namespace
            found = self._database.certain_keyspace(self.mapping, namespace, translation)
            if found is not None:
                self._keyspaces[schema] = found
        return found

    def _forget(self) -> None:
        self._keyspaces = {}

    def is_whole_in(self, pending: Pending | None) -> bool:
        """True if a transaction drops the whole model already, as in a long import: its keys need not be known."""
        return pending is not None and pending.has_whole(self.backend, self.group)


class Covered:
    """The models that one engine's dialect is covered for. All connections and option engines share the dialect."""

    def __init__(self, engine: sa.Engine) -> None:
        # Replaced and never changed: statements read them without a lock.
        self.models: list[CoveredModel] = []
        # A model whenever it was covered, or its table may have been defined anew. Only ever appended to.
        self.news: list[CoveredModel] = []
        self.by_table: dict[str, list[CoveredModel]] = {}
        # The views among the models, by their names and those of the tables under them.
        self.shown: dict[str, list[CoveredModel]] = {}
        self.cascades: Cascades[CoveredModel] = Cascades([])
        # Another object whenever a table may have been defined anew: the forms of compiled statements go by collations.
        self.definitions = object()
        # Weak: the engine's dialect holds this, and nothing would free either.
        self._engine = weakref.ref(root_engine(engine))
        self.is_on_postgresql = engine.dialect.name == "postgresql"
        self._has_catalog = has_collations(engine.dialect)
        self.storage = Storage(root_engine(engine))
        covered = weakref.ref(self)
        self.views = Views(
            root_engine(engine), lambda name: (known := covered()) is not None and name in known.by_table
        )

    def add(self, model: CoveredModel) -> None:
        """Cover one more table. May be called again."""
        if model in self.models:
            return
        # The same table as it was before the type of its key was known.
        others = [each for each in self.models if not each.is_replaced_by(model)]
        self.models = [*others, model]
        self.news.append(model)
        if model.shown:
            self.shown = _with(self.shown, {model.name, *model.shown}, model)
        else:
            self.by_table = _with(self.by_table, {model.name}, model)
        self.cascades = Cascades(self.models)
        self.views.forget()

    def alter(self, models: Iterable[CoveredModel], pending: Pending) -> None:
        """A transaction may define these tables anew. Until its end, others that change rows of theirs drop the models:
        a statement that was examined by the old definition may run by the new one.
        """
        pending.alters = True
        self.views.forget()
        for model in models:
            model.alter(pending)
            self.news.append(model)
        self.definitions = object()

    def may_define(self, statement: str) -> bool:
        """True if a statement may define anew what is asked of the database: its catalog, or a view."""
        return self._has_catalog or defines_view(statement)

    def attach(self) -> None:
        """SQLite attaches a file to a connection: it may have views that no other connection has."""
        if self.views.attach():
            self.definitions = object()

    def settle(self, pending: Pending) -> None:
        """Ask again for the storage engines of the tables that a transaction altered, and the collations of their keys:
        its outcome is known.
        """
        pending.alters = False
        self.views.forget()
        for model in self.models:
            if model.settle(pending):
                self.storage.forget(model.table)
        self.definitions = object()

    def beside(self, target: Any) -> list[CoveredModel]:
        """The models that a write to a table changes beside those of its name: of a view those of the tables under it,
        and what refers to them; and each view of what is changed. ``target``: as the statement has it, or its name.
        """
        name = (target if isinstance(target, str) else target.name).lower()
        text = self.views.under(target)
        if text is None:
            return self.models
        views = self.shown.get(name, [])
        return self.named_in(text, views) if text else views

    def named_in(self, text: str, others: Iterable[CoveredModel] = ()) -> list[CoveredModel]:
        """The models whose tables a text names, and those that cascade from a table in it; the others first."""
        found = [*others]
        named = [model for model in self.models if model.is_named_in(text)]
        return found + [model for model in [*named, *self.cascades.of_text(text)] if model not in found]

    def fence_of(self, backend: LeaseBackend) -> Fence | None:
        """The fence of a cache in this database."""
        engine = self._engine()
        return None if engine is None else fence_of(engine, backend)

    def transaction_on(self, dbapi_connection: Any) -> OpenTransaction | None:
        """The transaction that is open on a DBAPI connection, to write the fence's rows in."""
        engine = self._engine()
        return None if engine is None else OpenTransaction(dbapi_connection, engine.dialect)

    # The changes of a connection's transaction

    def new_pending(self) -> Pending:
        """The changes of a transaction that has made none."""
        return Pending(self)

    def pending_in(self, info: dict[Any, Any]) -> Pending | None:
        """The changes of the transaction on a DBAPI connection with this ``info``; None if there are none.

        A model that was covered in the middle of the transaction is recorded as a whole: nobody saw what came before.
        So is one whose table may have been defined anew: what came before was read by its old definition.
        """
        seen, info[SINCE] = info.get(SINCE, 0), len(self.news)
        for model in self.news[seen:]:
            model.record(self.pending_for(info), None)
        pending: Pending | None = info.get(PENDING)
        return pending

    def pending_for(self, info: dict[Any, Any]) -> Pending:
        """The same, to record changes in."""
        pending: Pending | None = info.get(PENDING)
        if pending is None:
            pending = info[PENDING] = Pending(self)
        return pending


def _with(
    models: dict[str, list[CoveredModel]], names: Iterable[str], model: CoveredModel
) -> dict[str, list[CoveredModel]]:
    """The models by name with one more for these names, which takes the place of the one that it replaces."""
    more = {name: [each for each in models.get(name, []) if not each.is_replaced_by(model)] + [model] for name in names}
    return {**models, **more}
