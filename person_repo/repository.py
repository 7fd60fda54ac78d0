"""The repository: a mapped class as a collection, kept in the database.

``SQLAlchemyRepository`` works in transactions of its own and hands out detached objects; ``BoundRepository`` works
inside a session of the host's.
"""

from __future__ import annotations

import builtins
import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Generic, Protocol, TypeVar, cast

import sqlalchemy as sa
from sqlalchemy import exc, orm
from sqlalchemy.orm import exc as orm_exc

from person_repo.exceptions import (
    ConfigurationError,
    EntityExistsError,
    EntityNotFoundError,
    InvalidEntityError,
    InvalidIdError,
    PersonNotFoundError,
    StaleEntityError,
)
from person_repo.loading import Loader, Queries, read_engine_of
from person_repo.mapping import EntityMapping, Identity
from person_repo.model import Person

__all__ = ["BoundRepository", "Repository", "SQLAlchemyRepository", "Sessions"]

E = TypeVar("E")
R = TypeVar("R")

Sessions = orm.sessionmaker[Any] | orm.scoped_session[Any] | sa.Engine
"""Where sessions come from: a sessionmaker, a ``scoped_session`` (Flask-SQLAlchemy's too) or an Engine."""

_CHUNK = 1000
_ATTEMPTS = 5


class Repository(Protocol[E]):
    """A mapped class as a collection. An id is the primary key's value, or a tuple of the values of a composite key.

    Every method that takes an id raises ``InvalidIdError`` for a value of a type the key cannot have.
    """

    def get(self, id: Any) -> E | None:
        """The entity, or None where there is none."""

    def get_one(self, id: Any) -> E:
        """The entity. Raises ``EntityNotFoundError`` (``PersonNotFoundError``) where there is none."""

    def get_many(self, ids: Iterable[Any]) -> dict[Any, E]:
        """The entities by id, in the order of the ids; missing ones left out, repeated ones asked once."""

    def exists(self, id: Any) -> bool:
        """Whether there is such an entity."""

    def find(self, **equals: Any) -> builtins.list[E]:
        """All entities whose fields equal these values, by key order. Raises ``UnknownFieldError``."""

    def list(self, after: Any = None, limit: int = 100) -> builtins.list[E]:
        """The first ``limit`` entities in key order, beyond the id ``after`` where one is given."""

    def count(self) -> int:
        """How many entities there are."""

    def add(self, entity: E) -> None:
        """Stores a new entity. Raises ``EntityExistsError``, ``InvalidEntityError``."""

    def add_many(self, entities: Iterable[E]) -> int:
        """Stores new entities, all or none, and returns how many; they are read as they are stored, never held at once.

        Raises ``EntityExistsError``, ``InvalidEntityError``; nothing is stored then.
        """

    def update(self, id: Any, **changes: Any) -> E:
        """Changes fields of an entity and returns it. Raises ``EntityNotFoundError``, ``UnknownFieldError``."""

    def upsert(self, entity: E) -> E:
        """Stores an entity, new or not, and returns what is stored.

        Raises ``StaleEntityError`` where it is a copy older than the row.
        """

    def delete(self, id: Any) -> bool:
        """Deletes an entity; whether there was one."""


class SQLAlchemyRepository(Generic[E]):
    """A repository in a database: reads fresh and committed, each write a transaction of its own.

    ``sessions`` makes the sessions for writes. ``engine`` names the engine where none can be told from them;
    ``read_engine`` is the host's own engine for reads by AUTOCOMMIT (never of a replica), in place of the derived one.

    Raises ``ConfigurationError`` for a class that is not mapped, or not mapped in a way that can be covered.
    """

    def __init__(
        self,
        entity: type[E],
        sessions: Sessions,
        *,
        engine: sa.Engine | None = None,
        read_engine: sa.Engine | None = None,
    ) -> None:
        self.mapping = EntityMapping(entity)
        self.sessions = sessions
        self._open = _factory(sessions)
        self.bind_of_sessions = _bind_of(self._open, self.mapping, engine)
        self.engine: sa.Engine = engine or self.bind_of_sessions.engine
        self._owns_read_engine = read_engine is None
        self.read_engine = read_engine or read_engine_of(self.engine)
        self.loader = Loader(self.mapping, self.read_engine)

    @property
    def joined(self) -> bool:
        """Whether the sessions work on one Connection of the host's, as test suites do that roll everything back.

        What such a session wrote is nowhere else to be seen, so reads go through the sessions then.
        """
        return isinstance(self.bind_of_sessions, sa.Connection)

    def get(self, id: Any) -> E | None:
        """See ``Repository``. One query."""
        identity = self.mapping.identity(id)
        if identity is None:
            return None
        if self.joined:
            return self._through_session(lambda bound: bound.get(id))
        row = self.loader.one(identity).rows.get(identity)
        return None if row is None else self.mapping.hydrate(row)

    def get_one(self, id: Any) -> E:
        """See ``Repository``."""
        return required(self.mapping, id, self.get(id))

    def get_many(self, ids: Iterable[Any]) -> dict[Any, E]:
        """See ``Repository``. One query for some nine hundred ids."""
        wanted = identities(self.mapping, ids)
        if self.joined:
            return self._through_session(lambda bound: bound.get_many(wanted.values()))
        rows = self.loader.many(list(wanted)).rows
        return {id: self.mapping.hydrate(rows[identity]) for identity, id in wanted.items() if identity in rows}

    def exists(self, id: Any) -> bool:
        """See ``Repository``."""
        return self.get(id) is not None

    def find(self, **equals: Any) -> builtins.list[E]:
        """See ``Repository``."""
        criteria = self.mapping.criteria(equals)
        if self.joined:
            return self._through_session(lambda bound: bound.find(**equals))
        return [self.mapping.hydrate(row) for row in self.loader.select(*criteria)]

    def list(self, after: Any = None, limit: int = 100) -> builtins.list[E]:
        """See ``Repository``."""
        criteria = page(self.mapping, after, limit)
        if self.joined:
            return self._through_session(lambda bound: bound.list(after, limit))
        return [self.mapping.hydrate(row) for row in self.loader.select(*criteria, limit=limit)]

    def count(self) -> int:
        """See ``Repository``."""
        return self._through_session(lambda bound: bound.count()) if self.joined else self.loader.count()

    def add(self, entity: E) -> None:
        """See ``Repository``."""
        with self._transaction() as bound:
            bound.add(entity)

    def add_many(self, entities: Iterable[E]) -> int:
        """See ``Repository``. The objects stay as they are: neither attached nor given what the database made up."""
        with self._transaction() as bound:
            return bound.add_many(entities)

    def update(self, id: Any, **changes: Any) -> E:
        """See ``Repository``. Read and written under a row lock where the database has any."""
        return self._again(lambda bound: bound.update(id, **changes))

    def upsert(self, entity: E) -> E:
        """See ``Repository``."""
        if _state(self.mapping, entity).key is not None:  # a copy: to try again would not make it younger
            with self._transaction() as bound:
                return bound.upsert(entity)
        return self._again(lambda bound: bound.upsert(entity), (StaleEntityError, EntityExistsError))

    def delete(self, id: Any) -> bool:
        """See ``Repository``."""
        return self._again(lambda bound: bound.delete(id))

    def bind(self, session: orm.Session) -> BoundRepository[E]:
        """The same methods inside a session of the host's."""
        return BoundRepository(self.mapping, session)

    def close(self) -> None:
        """Closes the connections that reads were made on. May be called again; the repository stays usable."""
        if self._owns_read_engine:
            self.read_engine.dispose()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[BoundRepository[E]]:
        with self._open() as session, _translated(self.mapping), session.begin():
            yield self.bind(session)

    def _through_session(self, read: Callable[[BoundRepository[E]], R]) -> R:
        with self._open() as session:
            return read(self.bind(session))

    def _again(
        self,
        write: Callable[[BoundRepository[E]], R],
        overtaken: tuple[type[Exception], ...] = (StaleEntityError,),
    ) -> R:
        """A write that another one overtook is done once more on what that one left: it was made from no older copy."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                with self._transaction() as bound:
                    return write(bound)
            except overtaken:
                if attempt == _ATTEMPTS:
                    raise
        raise AssertionError("unreachable")


class BoundRepository(Generic[E]):
    """A repository inside a session of the host's: its changes are seen, results are persistent in it, nothing is
    committed.

    Everything comes from the database or the session, nothing from a cache, and nothing read here is cached.
    """

    def __init__(self, mapping: EntityMapping[E], session: orm.Session) -> None:
        self.mapping = mapping
        self.session = session
        self._queries = Queries(mapping)

    def get(self, id: Any, *, for_update: bool = False) -> E | None:
        """See ``Repository``. ``for_update``: read again from the database, and locked until the transaction ends."""
        identity = self.mapping.identity(id)
        if identity is None:
            return None
        key = identity if len(identity) > 1 else identity[0]
        return self.session.get(self.mapping.entity, key, with_for_update=for_update or None)

    def get_one(self, id: Any, *, for_update: bool = False) -> E:
        """See ``Repository`` and ``get``."""
        return required(self.mapping, id, self.get(id, for_update=for_update))

    def get_many(self, ids: Iterable[Any]) -> dict[Any, E]:
        """See ``Repository``."""
        wanted = identities(self.mapping, ids)
        found: dict[Identity, E] = {}
        for criterion in self._queries.among(list(wanted)):
            for entity in self.session.scalars(sa.select(self.mapping.entity).where(criterion)):
                found[tuple(self.mapping.mapper.primary_key_from_instance(entity))] = entity
        return {id: found[identity] for identity, id in wanted.items() if identity in found}

    def exists(self, id: Any) -> bool:
        """See ``Repository``."""
        return self.get(id) is not None

    def find(self, **equals: Any) -> builtins.list[E]:
        """See ``Repository``."""
        return self._select(self.mapping.criteria(equals))

    def list(self, after: Any = None, limit: int = 100) -> builtins.list[E]:
        """See ``Repository``."""
        return self._select(page(self.mapping, after, limit), limit)

    def count(self) -> int:
        """See ``Repository``."""
        return self.session.execute(sa.select(sa.func.count()).select_from(self.mapping.entity)).scalar_one()

    def add(self, entity: E) -> None:
        """See ``Repository``. Flushed, so that errors appear here."""
        state = _state(self.mapping, entity)
        if state.key is not None and not state.pending:
            raise InvalidEntityError(
                f"{entity!r:.200} is a copy of a stored {self.mapping.name}; change it by update or "
                "upsert, or make a new object"
            )
        if state.session is not None and state.session is not self.session:
            raise InvalidEntityError(f"{entity!r:.200} belongs to another session")
        self.mapping.check(self.mapping.values_of(entity))
        with _translated(self.mapping):
            self.session.add(entity)
            self.session.flush()

    def add_many(self, entities: Iterable[E]) -> int:
        """See ``Repository``."""
        added = 0
        with _translated(self.mapping):
            for chunk in _chunks(entities, _CHUNK):
                self.session.execute(sa.insert(self.mapping.entity), [self._values(entity) for entity in chunk])
                added += len(chunk)
        return added

    def _values(self, entity: E) -> dict[str, Any]:
        _state(self.mapping, entity)
        values = self.mapping.values_of(entity)
        self.mapping.check(values)
        return values

    def update(self, id: Any, **changes: Any) -> E:
        """See ``Repository``. Read again and locked first."""
        self.mapping.check(changes)
        entity = self.get_one(id, for_update=True)
        with _translated(self.mapping):
            for name, value in changes.items():
                setattr(entity, name, value)
            self.session.flush()
            self._complete(entity)
        return entity

    def upsert(self, entity: E) -> E:
        """See ``Repository``."""
        _state(self.mapping, entity)
        self.mapping.check(self.mapping.values_of(entity))
        with _translated(self.mapping):
            stored = self.session.merge(entity)
            self.session.flush()
            self._complete(stored)
        return stored

    def delete(self, id: Any) -> bool:
        """See ``Repository``."""
        entity = self.get(id, for_update=True)
        if entity is None:
            return False
        with _translated(self.mapping):
            self.session.delete(entity)
            self.session.flush()
        return True

    def _complete(self, entity: E) -> None:
        """Loads what the database made up in this flush: a detached object could not do so later."""
        missing = _state(self.mapping, entity).unloaded.intersection(self.mapping.names)
        if missing:
            self.session.refresh(entity, missing)

    def _select(self, criteria: Sequence[sa.ColumnElement[bool]], limit: int | None = None) -> builtins.list[E]:
        query = sa.select(self.mapping.entity).where(*criteria).order_by(*self._queries.order).limit(limit)
        return [*self.session.scalars(query)]


def identities(mapping: EntityMapping[Any], ids: Iterable[Any]) -> dict[Identity, Any]:
    """The ids that can exist by their identities, each once, in order. Raises ``InvalidIdError``."""
    if isinstance(ids, (str, bytes)):
        raise TypeError(
            f"get_many takes ids, not one: {ids!r:.60} would be asked letter by letter; write [{ids!r:.60}]"
        )
    wanted: dict[Identity, Any] = {}
    for id in ids:
        identity = mapping.identity(id)
        if identity is not None:
            wanted.setdefault(identity, id)
    return wanted


def required(mapping: EntityMapping[E], id: Any, entity: E | None) -> E:
    """The entity, which must be there. Raises ``EntityNotFoundError``, for people ``PersonNotFoundError``."""
    if entity is None:
        error = PersonNotFoundError if issubclass(mapping.entity, Person) else EntityNotFoundError
        raise error(mapping.name, id)
    return entity


def page(mapping: EntityMapping[Any], after: Any, limit: int) -> Sequence[sa.ColumnElement[bool]]:
    """The criteria of ``list``. Raises ``InvalidIdError``, and ``ValueError`` for a limit below 1."""
    if limit < 1:
        raise ValueError(f"limit {limit!r}: give at least 1")
    if after is None:
        return []
    identity = mapping.identity(after)
    if identity is None:
        raise InvalidIdError(
            f"after {after!r:.120} is no id that a {mapping.name} could have; give one from the last page"
        )
    return [Queries(mapping).after(identity)]


def _factory(sessions: Sessions) -> Callable[[], orm.Session]:
    """What opens a session whose objects keep their state after it is closed.

    Raises ``ConfigurationError`` for anything that is no source of sessions.
    """
    source: Any = sessions
    if isinstance(source, sa.Engine):
        return orm.sessionmaker(source, expire_on_commit=False)
    if isinstance(source, orm.scoped_session):
        source = source.session_factory
    if isinstance(source, orm.sessionmaker):
        return lambda: cast("orm.Session", source(expire_on_commit=False))
    raise ConfigurationError(
        f"sessions {sessions!r:.120} is neither a sessionmaker, a scoped_session nor an Engine; for async sessions "
        "give the engine's sync_engine, for one session use bind(session)"
    )


def _bind_of(
    open_session: Callable[[], orm.Session], mapping: EntityMapping[Any], engine: sa.Engine | None
) -> sa.Engine | sa.Connection:
    """What the sessions of this class work on: an Engine, or one Connection that they all join."""
    with open_session() as session:
        try:
            return session.get_bind(mapping.mapper)
        except exc.UnboundExecutionError:
            if engine is not None:
                return engine
            raise ConfigurationError(
                f"no engine can be told from the sessions for {mapping.name}; name it with engine="
            ) from None


def _state(mapping: EntityMapping[E], entity: E) -> orm.InstanceState[E]:
    if not isinstance(entity, mapping.entity):
        raise InvalidEntityError(f"{entity!r:.120} is {type(entity).__name__}, not {mapping.name}")
    return cast("orm.InstanceState[E]", sa.inspect(entity))


@contextlib.contextmanager
def _translated(mapping: EntityMapping[Any]) -> Iterator[None]:
    """SQLAlchemy's errors about entities as ours; what concerns the database itself passes as it is."""
    try:
        yield
    except exc.IntegrityError as error:
        if _is_duplicate(error):
            raise EntityExistsError(f"{mapping.name} exists already: {error.orig}") from error
        raise InvalidEntityError(f"{mapping.name} was refused by the database: {error.orig}") from error
    except exc.DataError as error:
        raise InvalidEntityError(f"{mapping.name} was refused by the database: {error.orig}") from error
    except orm_exc.StaleDataError as error:
        raise StaleEntityError(
            f"{mapping.name} has changed since this copy of it was read; read it again and apply the change to that"
        ) from error


def _is_duplicate(error: exc.IntegrityError) -> bool:
    """MySQL says it by number (1062, ER_DUP_ENTRY; 1586 names the key), SQLite in words."""
    arguments = getattr(error.orig, "args", ())
    if not arguments:
        return False
    return arguments[0] in (1062, 1586) or "UNIQUE constraint failed" in str(arguments[0])


def _chunks(entities: Iterable[E], size: int) -> Iterator[Sequence[E]]:
    iterator = iter(entities)
    while chunk := tuple(islice(iterator, size)):
        yield chunk
