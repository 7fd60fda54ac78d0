"""The repository inside a session of the host's."""

from __future__ import annotations

import builtins
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Generic, TypeVar, cast

import sqlalchemy as sa
from sqlalchemy import exc, orm

from person_repo.database.bulk import insert_rows
from person_repo.database.errors import (
    bind_errors_translated,
    errors_translated,
    foreign_is_nobody,
    is_foreign,
    may_be_foreign,
)
from person_repo.database.ids import identities, page, required
from person_repo.database.loading import Queries
from person_repo.database.locks import take_sqlite_lock
from person_repo.database.states import restored, state_of
from person_repo.exceptions import EntityExistsError, InvalidEntityError
from person_repo.mapped.mapping import EntityMapping, Identity, Row
from person_repo.messages import shown

__all__ = ["BoundRepository"]

E = TypeVar("E")

_CHUNK = 1000


class BoundRepository(Generic[E]):
    """A repository inside a session of the host's: it sees the session's changes, its results are persistent in the
    session, and it commits nothing.

    Everything comes from the database or the session, nothing from a cache, and nothing that is read here is cached.
    """

    def __init__(self, mapping: EntityMapping[E], session: orm.Session) -> None:
        self.mapping = mapping
        self.session = session
        self._queries = Queries(mapping)

    def get(self, id: Any, *, for_update: bool = False) -> E | None:
        """See ``Repository``. ``for_update``: read again from the database, and locked until the transaction ends
        (SQLite has one lock for the whole database). The session's own changes are flushed before; raises
        ``StaleEntityError`` if others have changed the same row meanwhile.
        """
        identity = self.mapping.identity(id)
        if identity is None:
            return None
        key = self.mapping.id_of(identity)
        entity = None
        with foreign_is_nobody(identity):
            entity = self._locked(identity) if for_update else self.session.get(self.mapping.entity, key)
        # A case-insensitive collation finds the row of another key.
        if entity is None or state_of(self.mapping, entity).identity != identity:
            return None
        return entity

    def _locked(self, identity: Identity) -> E | None:
        # Not ``Session.get(with_for_update=True)``: it refuses a row that others have changed since the session read
        # it, even if the session has no change to lose.
        take_sqlite_lock(self._connection(), self.mapping.table)
        with errors_translated(self.mapping):
            self.session.flush()
        of: Any = self._locked_tables()  # SQLAlchemy 2.0's type allows several columns, but not several tables.
        query = sa.select(self.mapping.entity).where(self._queries.by_key).with_for_update(of=of)
        entities = self.session.scalars(
            query, self._queries.parameters(identity), execution_options={"populate_existing": True}
        )
        return entities.unique().one_or_none()

    def _locked_tables(self) -> Sequence[sa.Table] | None:
        """The tables whose rows are locked; None for all of the query. PostgreSQL locks no side of an outer join that
        may be missing, such as a relationship's that is loaded with the entity.
        """
        if self._connection().dialect.name != "postgresql":
            return None
        return [*cast("Sequence[sa.Table]", self.mapping.mapper.tables)]

    def _connection(self) -> sa.Connection:
        return self.session.connection(bind_arguments={"mapper": self.mapping.mapper})

    def get_one(self, id: Any, *, for_update: bool = False) -> E:
        """See ``Repository`` and ``get``."""
        return required(self.mapping, id, self.get(id, for_update=for_update))

    def get_many(self, ids: Iterable[Any]) -> dict[Any, E]:
        """See ``Repository``."""
        batch = identities(self.mapping, ids)
        entities: dict[Identity, E] = {}
        query = sa.select(self.mapping.entity).where(self._queries.among)
        for part in self._queries.parts(list(batch)):
            try:
                found = self.session.scalars(query, self._queries.parameters_among(part)).unique().all()
            except exc.DBAPIError as error:
                if not (is_foreign(error) and any(map(may_be_foreign, part))):
                    raise
                one_by_one = [self.get(self.mapping.id_of(identity)) for identity in part]
                found = [entity for entity in one_by_one if entity is not None]
            for entity in found:
                entities[tuple(self.mapping.mapper.primary_key_from_instance(entity))] = entity
        return {id: entities[identity] for identity, id in batch.items() if identity in entities}

    def exists(self, id: Any) -> bool:
        """See ``Repository``."""
        return self.get(id) is not None

    def find(self, **equals: Any) -> builtins.list[E]:
        """See ``Repository``."""
        criteria = self.mapping.criteria(equals)
        with foreign_is_nobody(equals.values()), bind_errors_translated(self.mapping):
            return self._select(criteria)
        return []

    def list(self, after: Any = None, limit: int = 100) -> builtins.list[E]:
        """See ``Repository``."""
        return self._select(page(self.mapping, after, limit), limit)

    def _select(self, criteria: Sequence[sa.ColumnElement[bool]], limit: int | None = None) -> builtins.list[E]:
        query = sa.select(self.mapping.entity).where(*criteria).order_by(*self._queries.order).limit(limit)
        return [*self.session.scalars(query).unique()]

    def count(self) -> int:
        """See ``Repository``."""
        return self.session.execute(sa.select(sa.func.count()).select_from(self.mapping.entity)).scalar_one()

    def add(self, entity: E) -> None:
        """See ``Repository``. Flushed, so that errors appear here."""
        state = state_of(self.mapping, entity)
        if state.key is not None and not state.pending:
            raise InvalidEntityError(
                f"{shown(entity, 200)} is a copy of a stored {self.mapping.name}; change it by update or "
                "upsert, or make a new object"
            )
        if state.session is not None and state.session is not self.session:
            raise InvalidEntityError(f"{shown(entity, 200)} belongs to another session")
        self.mapping.check(self.mapping.values_of(entity))
        with errors_translated(self.mapping, entity):
            self.session.add(entity)
            self.session.flush()
            if state.expired_attributes:
                self.complete(entity)

    def add_many(self, entities: Iterable[E]) -> int:
        """See ``Repository``."""
        added = 0
        with errors_translated(self.mapping):
            for chunk in _chunks(entities, _CHUNK):
                values = [self._values(entity) for entity in chunk]
                if self.mapping.inherits:  # each class has inserts of its own, and its discriminator
                    self._flush(chunk)
                else:
                    self.session.execute(sa.insert(self.mapping.entity), values)
                added += len(chunk)
        return added

    def _values(self, entity: E) -> dict[str, Any]:
        state_of(self.mapping, entity)
        values = self.mapping.values_of(entity)
        self.mapping.check(values)
        return values

    def _flush(self, entities: Sequence[E]) -> None:
        """Inserts objects by the unit of work, then releases them, as they were, so that the session holds none."""
        with restored(self.mapping, entities, always=True):
            self.session.add_all(entities)
            self.session.flush()
            for entity in entities:
                self.session.expunge(entity)
                orm.make_transient(entity)

    def add_rows(self, names: Sequence[str], chunks: Iterable[Sequence[Row]], *, checked: bool = False) -> int:
        """See ``SQLAlchemyRepository.add_rows``. Committed, or rolled back after an error, by the host."""
        with errors_translated(self.mapping):
            return insert_rows(self.mapping, names, chunks, self.session, self._connection(), checked=checked)

    def update(self, id: Any, **changes: Any) -> E:
        """See ``Repository``. Read again and locked first."""
        self.mapping.check(changes)
        entity = self.get_one(id, for_update=True)
        with errors_translated(self.mapping):
            for name, value in changes.items():
                setattr(entity, name, value)
            self.session.flush()
            self.complete(entity)
        return entity

    def upsert(self, entity: E) -> E:
        """See ``Repository``."""
        state_of(self.mapping, entity)
        self.mapping.check(self.mapping.values_of(entity))
        with errors_translated(self.mapping, entity):
            stored = self.session.merge(entity)
            self._refuse_another(stored, entity)
            self.session.flush()
            self.complete(stored)
        return stored

    def _refuse_another(self, stored: E, entity: E) -> None:
        """Raises ``EntityExistsError`` if the database takes another row's key for this one's.

        A merge would change that row, key and all.
        """
        own, of_row = state_of(self.mapping, entity), state_of(self.mapping, stored).identity
        identity = own.identity or tuple(self.mapping.mapper.primary_key_from_instance(entity))
        if of_row is not None and of_row != identity:
            self.session.expire(stored)
            id = self.mapping.id_of(of_row)
            raise EntityExistsError(
                f"{self.mapping.name} {shown(id)} exists already, and the database takes "
                f"{shown(self.mapping.id_of(identity))} for the same",
                entity=self.mapping.name,
                id=id,
            )

    def delete(self, id: Any) -> bool:
        """See ``Repository``."""
        entity = self.get(id, for_update=True)
        if entity is None:
            return False
        with errors_translated(self.mapping):
            self.session.delete(entity)
            self.session.flush()
        return True

    def lock(self, entity: E) -> None:
        """Reads the row of an entity under a lock, if there is one."""
        dialect = self._connection().dialect
        identity = self.mapping.stored_identity(self.mapping.mapper.primary_key_from_instance(entity), dialect)
        if identity is not None:
            self._locked(identity)

    def complete(self, entity: E) -> None:
        """Loads the values that the database made up, and those that load late: a detached object could not."""
        missing = state_of(self.mapping, entity).unloaded.intersection(self.mapping.names)
        if missing:
            self.session.refresh(entity, missing)


def _chunks(entities: Iterable[E], size: int) -> Iterator[Sequence[E]]:
    iterator = iter(entities)
    while chunk := tuple(islice(iterator, size)):
        yield chunk
