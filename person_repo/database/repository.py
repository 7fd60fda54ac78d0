"""The repository: a mapped class as a collection, kept in the database.

``SQLAlchemyRepository`` works in transactions of its own and hands out detached objects; ``BoundRepository`` works
inside a session of the host's.
"""

from __future__ import annotations

import builtins
import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Generic, Protocol, TypeAlias, TypeVar, cast

import sqlalchemy as sa
from sqlalchemy import exc, orm
from sqlalchemy.orm import exc as orm_exc

from person_repo.database.bulk import Insert
from person_repo.database.engines import has_one_connection, read_engine_of
from person_repo.database.loading import Loader, Queries
from person_repo.database.marks import OWN
from person_repo.exceptions import (
    ConfigurationError,
    EntityExistsError,
    EntityNotFoundError,
    InvalidEntityError,
    InvalidIdError,
    PersonNotFoundError,
    PersonRepoError,
    StaleEntityError,
)
from person_repo.mapped.mapping import EntityMapping, Identity, Row
from person_repo.messages import shown
from person_repo.model import Person

__all__ = ["BoundRepository", "Repository", "SQLAlchemyRepository", "Sessions"]

E = TypeVar("E")
R = TypeVar("R")

Sessions: TypeAlias = orm.sessionmaker[Any] | orm.scoped_session[Any] | sa.Engine
"""Where sessions come from: a sessionmaker, a ``scoped_session`` (Flask-SQLAlchemy's too) or an Engine."""

_CHUNK = 1000

# Five attempts, some ten to three hundred milliseconds apart, and none that begins after ten seconds: a writer that
# waits for a lock has waited for as long as the database lets it already (MySQL 50 s, SQLite 5 s).
_ATTEMPTS = 5
_LONGEST = 10.0
_FIRST_WAIT = 0.01
_LONGEST_WAIT = 0.25
_JITTER = 0.05

# The numbers are MySQL's and MariaDB's ("Server Error Message Reference", "MariaDB Error Codes").
_DUPLICATES = frozenset({1062, 1586})  # ER_DUP_ENTRY; ER_DUP_ENTRY_WITH_KEY_NAME
_CHECKS = frozenset({3819, 4025})  # ER_CHECK_CONSTRAINT_VIOLATED; ER_CONSTRAINT_FAILED
# ER_CHECKREAD, under innodb_snapshot_isolation; ER_LOCK_WAIT_TIMEOUT; ER_LOCK_DEADLOCK
_PASSING = frozenset({1020, 1205, 1213})
_SQLITE_PASSING = frozenset({5, 6})  # SQLITE_BUSY, SQLITE_LOCKED ("Result and Error Codes"), in the lowest byte


# Python prints a warning of a logger that nobody has set up; this one's are for hosts that have.
_SILENT = logging.NullHandler()


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
        self._maker = _maker_of(sessions)
        with self._open() as session:
            self.bind_of_sessions: sa.Engine | sa.Connection = bind_of(session, self.mapping, engine)
        self.engine: sa.Engine = engine or self.bind_of_sessions.engine
        self.read_engine: sa.Engine = read_engine or read_engine_of(self.engine)
        if read_engine is not None and has_one_connection(read_engine):
            self.read_engine = read_engine_of(read_engine)
        self._owns_read_engine = self.read_engine is not read_engine
        self.loader = Loader(self.mapping, self.read_engine)

    @property
    def on_hosts_connection(self) -> bool:
        """Whether the sessions work on one Connection of the host's, as test suites do that roll everything back.

        What such a session wrote is nowhere else to be seen, so reads go through the sessions then. A test suite may
        configure a sessionmaker so after its application has built this.
        """
        bind = self._maker.kw.get("bind")
        return isinstance(self.bind_of_sessions if bind is None else bind, sa.Connection)

    def get(self, id: Any) -> E | None:
        """See ``Repository``. One query."""
        identity = self.mapping.identity(id)
        if identity is None:
            return None
        if self.on_hosts_connection:
            return self._through_session(lambda bound: bound.get(id))
        row = self.loader.one(identity).rows.get(identity)
        return None if row is None else self.mapping.hydrate(row)

    def get_one(self, id: Any) -> E:
        """See ``Repository``."""
        return required(self.mapping, id, self.get(id))

    def get_many(self, ids: Iterable[Any]) -> dict[Any, E]:
        """See ``Repository``. One query for some nine hundred ids."""
        wanted = identities(self.mapping, ids)
        if self.on_hosts_connection:
            return self._through_session(lambda bound: bound.get_many(wanted.values()))
        rows = self.loader.many(list(wanted)).rows
        return {id: self.mapping.hydrate(rows[identity]) for identity, id in wanted.items() if identity in rows}

    def exists(self, id: Any) -> bool:
        """See ``Repository``."""
        return self.get(id) is not None

    def find(self, **equals: Any) -> builtins.list[E]:
        """See ``Repository``."""
        criteria = self.mapping.criteria(equals)
        if self.on_hosts_connection:
            return self._through_session(lambda bound: bound.find(**equals))
        with _told(self.mapping):
            return [self.mapping.hydrate(row) for row in self.loader.select(*criteria)]

    def list(self, after: Any = None, limit: int = 100) -> builtins.list[E]:
        """See ``Repository``."""
        criteria = page(self.mapping, after, limit)
        if self.on_hosts_connection:
            return self._through_session(lambda bound: bound.list(after, limit))
        return [self.mapping.hydrate(row) for row in self.loader.select(*criteria, limit=limit)]

    def count(self) -> int:
        """See ``Repository``."""
        return self._through_session(lambda bound: bound.count()) if self.on_hosts_connection else self.loader.count()

    def add(self, entity: E) -> None:
        """See ``Repository``. Where it raises, the object is as it was, and may be added again."""
        self._again(lambda bound, _: bound.add(entity), new=[entity])

    def add_many(self, entities: Iterable[E]) -> int:
        """See ``Repository``. The objects stay as they are: neither attached nor given what the database made up.

        What can be read only once, such as a generator, is not tried again.
        """
        if iter(entities) is entities:
            with self._transaction() as bound:
                return bound.add_many(entities)
        return self._again(lambda bound, _: bound.add_many(entities))

    def add_rows(self, names: Sequence[str], chunks: Iterable[Sequence[Row]]) -> int:
        """Stores new entities of which there are very many, all or none, without making objects of them; how many.

        ``chunks``: the values of the fields of these ``names``, of each entity, some thousand entities at a time. They
        must be checked already (``EntityMapping.check``). Raises ``EntityExistsError``, ``InvalidEntityError``.
        """
        with self._transaction() as bound:
            return bound.add_rows(names, chunks)

    def update(self, id: Any, **changes: Any) -> E:
        """See ``Repository``. Read and written under a lock."""
        return self._again(lambda bound, _: bound.update(id, **changes), (StaleEntityError,))

    def upsert(self, entity: E) -> E:
        """See ``Repository``."""
        is_copy = _state(self.mapping, entity).key is not None  # to try again would not make it younger
        overtaken = (EntityExistsError,) if is_copy else (EntityExistsError, StaleEntityError)

        def write(bound: BoundRepository[E], again: bool) -> E:
            # Not the first time: on MySQL, to lock a row that is not there locks others out of the gap
            # around it, and two that do so before they insert are a deadlock.
            if again and not is_copy:
                bound.lock(entity)
            return bound.upsert(entity)

        return self._again(write, overtaken)

    def delete(self, id: Any) -> bool:
        """See ``Repository``."""
        return self._again(lambda bound, _: bound.delete(id), (StaleEntityError,))

    def bind(self, session: orm.Session | orm.scoped_session[Any]) -> BoundRepository[E]:
        """The same methods inside a session of the host's. Raises ``ConfigurationError`` for what is no session."""
        if isinstance(session, orm.scoped_session):
            session = session()
        if not isinstance(session, orm.Session):
            raise ConfigurationError(
                f"bind() takes a Session, not {shown(session)}; of an AsyncSession give the sync_session in run_sync"
            )
        return BoundRepository(self.mapping, session)

    def close(self) -> None:
        """Closes the connections that reads were made on. May be called again; the repository stays usable."""
        if self._owns_read_engine:
            self.read_engine.dispose()

    def _open(self) -> orm.Session:
        """A session whose objects keep their state after it is closed."""
        return cast("orm.Session", self._maker(expire_on_commit=False))

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[BoundRepository[E]]:
        with self._open() as session, _translated(self.mapping), session.begin():
            yield self.bind(session)

    def _through_session(self, read: Callable[[BoundRepository[E]], R]) -> R:
        with self._open() as session:
            bound = self.bind(session)
            found = read(bound)
            for entity in session:  # what loads late cannot do so once the session is closed
                if isinstance(entity, self.mapping.entity):
                    bound.complete(entity)
            return found

    def _again(
        self,
        write: Callable[[BoundRepository[E], bool], R],
        overtaken: tuple[type[PersonRepoError], ...] = (),
        new: Sequence[E] = (),
    ) -> R:
        """What a write returns, which is made again, in another transaction, where a lock or another writer was in its
        way: on what that one left, since it was made from no older copy.

        ``write`` is told whether it is not the first time; ``overtaken`` are the errors by which it was overtaken;
        ``new`` are objects that are as before after each attempt that failed. Where sessions work on a Connection of
        the host's, the transaction that a deadlock ended is the host's: the host is told.
        """
        from stamina import retry_context  # imports asyncio, for all who only read

        logging.getLogger("stamina").addHandler(_SILENT)

        def passes(error: Exception) -> bool:
            return isinstance(error, overtaken) or (_is_passing(error) and not self.on_hosts_connection)

        for attempt in retry_context(
            passes,
            attempts=_ATTEMPTS,
            timeout=_LONGEST,
            wait_initial=_FIRST_WAIT,
            wait_max=_LONGEST_WAIT,
            wait_jitter=_JITTER,
        ):
            with attempt, _undone(self.mapping, new), self._transaction() as bound:
                return write(bound, attempt.num > 1)
        raise AssertionError("the last attempt returns or raises")


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
        """See ``Repository``. ``for_update``: read again from the database, and locked until the transaction ends
        (SQLite has one lock for the whole database). What the session has changed is flushed before; raises
        ``StaleEntityError`` where that was changed by others meanwhile.
        """
        identity = self.mapping.identity(id)
        if identity is None:
            return None
        key = self.mapping.id_of(identity)
        entity = self._locked(identity) if for_update else self.session.get(self.mapping.entity, key)
        # A case-insensitive collation finds rows of other keys: they are not the one that was asked for.
        if entity is None or _state(self.mapping, entity).identity != identity:
            return None
        return entity

    def _locked(self, identity: Identity) -> E | None:
        """Not by ``Session.get(with_for_update=True)``: that refuses what the session has read before and others have
        changed since, even where it has no change to lose.
        """
        self._take_sqlites_lock()
        with _translated(self.mapping):
            self.session.flush()
        query = sa.select(self.mapping.entity).where(self._queries.by_key).with_for_update()
        found = self.session.scalars(
            query, self._queries.parameters(identity), execution_options={"populate_existing": True}
        )
        return found.unique().one_or_none()

    def _take_sqlites_lock(self) -> None:
        """SQLite knows no FOR UPDATE; a statement that writes nothing takes its lock for writing all the same."""
        connection = self.session.connection(bind_arguments={"mapper": self.mapping.mapper})
        if connection.dialect.name == "sqlite":
            nothing = sa.delete(self.mapping.table).where(sa.false())
            connection.execute(nothing, execution_options={OWN: True})

    def get_one(self, id: Any, *, for_update: bool = False) -> E:
        """See ``Repository`` and ``get``."""
        return required(self.mapping, id, self.get(id, for_update=for_update))

    def get_many(self, ids: Iterable[Any]) -> dict[Any, E]:
        """See ``Repository``."""
        wanted = identities(self.mapping, ids)
        found: dict[Identity, E] = {}
        query = sa.select(self.mapping.entity).where(self._queries.among)
        for part in self._queries.parts(list(wanted)):
            for entity in self.session.scalars(query, self._queries.parameters_among(part)).unique():
                found[tuple(self.mapping.mapper.primary_key_from_instance(entity))] = entity
        return {id: found[identity] for identity, id in wanted.items() if identity in found}

    def exists(self, id: Any) -> bool:
        """See ``Repository``."""
        return self.get(id) is not None

    def find(self, **equals: Any) -> builtins.list[E]:
        """See ``Repository``."""
        criteria = self.mapping.criteria(equals)
        with _told(self.mapping):
            return self._select(criteria)

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
                f"{shown(entity, 200)} is a copy of a stored {self.mapping.name}; change it by update or "
                "upsert, or make a new object"
            )
        if state.session is not None and state.session is not self.session:
            raise InvalidEntityError(f"{shown(entity, 200)} belongs to another session")
        self.mapping.check(self.mapping.values_of(entity))
        with _translated(self.mapping):
            self.session.add(entity)
            self.session.flush()
            if state.expired_attributes:
                self.complete(entity)

    def add_many(self, entities: Iterable[E]) -> int:
        """See ``Repository``."""
        added = 0
        with _translated(self.mapping):
            for chunk in _chunks(entities, _CHUNK):
                values = [self._values(entity) for entity in chunk]
                if self.mapping.inherits:  # each class has inserts of its own, and its discriminator
                    self._flush(chunk)
                else:
                    self.session.execute(sa.insert(self.mapping.entity), values)
                added += len(chunk)
        return added

    def add_rows(self, names: Sequence[str], chunks: Iterable[Sequence[Row]]) -> int:
        """See ``SQLAlchemyRepository``."""
        connection = self.session.connection(bind_arguments={"mapper": self.mapping.mapper})
        insert = Insert.of(self.mapping, names, connection)
        added = 0
        with _translated(self.mapping):
            for chunk in chunks:
                if not chunk:
                    continue
                if insert is None:
                    self.session.execute(
                        sa.insert(self.mapping.entity), [dict(zip(names, row, strict=True)) for row in chunk]
                    )
                else:
                    insert.send(connection, chunk)
                added += len(chunk)
        return added

    def _flush(self, entities: Sequence[E]) -> None:
        """Inserts objects by the unit of work and lets go of them, so that they are as they were, and none is held."""
        with _undone(self.mapping, entities, always=True):
            self.session.add_all(entities)
            self.session.flush()
            for entity in entities:
                self.session.expunge(entity)
                orm.make_transient(entity)

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
            self.complete(entity)
        return entity

    def upsert(self, entity: E) -> E:
        """See ``Repository``."""
        _state(self.mapping, entity)
        self.mapping.check(self.mapping.values_of(entity))
        with _translated(self.mapping):
            stored = self.session.merge(entity)
            self._refuse_another(stored, entity)
            self.session.flush()
            self.complete(stored)
        return stored

    def _refuse_another(self, stored: E, entity: E) -> None:
        """Where the database takes another row's key for this one's, a merge would change that row, key and all."""
        given, found = _state(self.mapping, entity), _state(self.mapping, stored).identity
        asked = given.identity or tuple(self.mapping.mapper.primary_key_from_instance(entity))
        if found is not None and found != asked:
            self.session.expire(stored)
            raise EntityExistsError(
                f"{self.mapping.name} {shown(self.mapping.id_of(found))} exists already, and the database takes "
                f"{shown(self.mapping.id_of(asked))} for the same"
            )

    def delete(self, id: Any) -> bool:
        """See ``Repository``."""
        entity = self.get(id, for_update=True)
        if entity is None:
            return False
        with _translated(self.mapping):
            self.session.delete(entity)
            self.session.flush()
        return True

    def lock(self, entity: E) -> None:
        """Reads the row of an entity under a lock, where there is one."""
        identity = self.mapping.stored_identity(self.mapping.mapper.primary_key_from_instance(entity))
        if identity is not None:
            self._locked(identity)

    def complete(self, entity: E) -> None:
        """Loads what the database made up, and what loads late: a detached object could not do so."""
        missing = _state(self.mapping, entity).unloaded.intersection(self.mapping.names)
        if missing:
            self.session.refresh(entity, missing)

    def _select(self, criteria: Sequence[sa.ColumnElement[bool]], limit: int | None = None) -> builtins.list[E]:
        query = sa.select(self.mapping.entity).where(*criteria).order_by(*self._queries.order).limit(limit)
        return [*self.session.scalars(query).unique()]


def listed(ids: Iterable[Any]) -> Sequence[Any]:
    """The ids that a caller gave, each read once. Raises ``TypeError`` for a single one."""
    if isinstance(ids, (str, bytes)):
        raise TypeError(
            f"get_many takes ids, not one: {shown(ids, 60)} would be asked letter by letter; write [{shown(ids, 60)}]"
        )
    return [*ids]


def identities(mapping: EntityMapping[Any], ids: Iterable[Any]) -> dict[Identity, Any]:
    """The ids that can exist by their identities, each once, in order. Raises ``InvalidIdError``, ``TypeError``."""
    wanted: dict[Identity, Any] = {}
    for id in listed(ids):
        identity = mapping.identity(id)
        if identity is not None:
            wanted.setdefault(identity, mapping.id_of(identity))
    return wanted


def required(mapping: EntityMapping[E], id: Any, entity: E | None) -> E:
    """The entity, which must be there. Raises ``EntityNotFoundError``, for people ``PersonNotFoundError``."""
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


def _maker_of(sessions: Sessions) -> orm.sessionmaker[Any]:
    """What opens sessions. Raises ``ConfigurationError`` for anything that is no source of sessions."""
    source: Any = sessions
    if isinstance(source, sa.Engine):
        return orm.sessionmaker(source)
    if isinstance(source, orm.scoped_session):
        source = source.session_factory
    if isinstance(source, orm.sessionmaker):
        return source
    raise ConfigurationError(
        f"sessions {shown(sessions)} is neither a sessionmaker, a scoped_session of one, nor an Engine; for async "
        "sessions give the engine's sync_engine, for one session use bind(session)"
    )


def bind_of(
    session: orm.Session, mapping: EntityMapping[Any], engine: sa.Engine | None = None
) -> sa.Engine | sa.Connection:
    """What a session works on for this class: an Engine, or one Connection that sessions join.

    ``engine`` stands in where the session cannot tell, be it only for now: some need a request's context.
    """
    try:
        # Of a session that writes to one engine and reads from replicas: the one that it writes to.
        return session.get_bind(mapping.mapper, clause=sa.update(mapping.table))
    except Exception as error:
        if engine is not None:
            return engine
        raise ConfigurationError(
            f"no engine can be told from the sessions for {mapping.name} ({error}); name it with engine="
        ) from error


def _state(mapping: EntityMapping[E], entity: E) -> orm.InstanceState[E]:
    if not isinstance(entity, mapping.entity):
        raise InvalidEntityError(f"{shown(entity)} is {type(entity).__name__}, not {mapping.name}")
    return cast("orm.InstanceState[E]", sa.inspect(entity))


@contextlib.contextmanager
def _undone(mapping: EntityMapping[E], entities: Iterable[E], *, always: bool = False) -> Iterator[None]:
    """Objects that are new get back what they held where the block raises: a key that the database made up for a row
    that was rolled back may be somebody else's by the next time.
    """
    states = {_state(mapping, entity): None for entity in entities}
    for state in list(states):
        if state.mapper.relationships:
            states.update((related, None) for _, _, related, _ in state.mapper.cascade_iterator("save-update", state))
    # What is committed of an object tells the unit of work which of its relatives are new to it.
    held = {state: (dict(state.dict), dict(state.committed_state)) for state in states if state.transient}
    try:
        yield
    except BaseException:
        always = True
        raise
    finally:
        if always:
            for state, (values, committed) in held.items():
                state.dict.clear()
                state.dict.update(values)
                state.committed_state.clear()
                state.committed_state.update(committed)
                state.expired_attributes.clear()


@contextlib.contextmanager
def _translated(mapping: EntityMapping[Any]) -> Iterator[None]:
    """SQLAlchemy's errors about entities as ours; what concerns the database itself passes as it is."""
    try:
        with _told(mapping):
            yield
    except exc.IntegrityError as error:
        if _is_duplicate(error):
            raise EntityExistsError(f"{mapping.name} exists already: {error.orig}") from error
        raise InvalidEntityError(f"{mapping.name} was refused by the database: {error.orig}") from error
    except exc.DataError as error:
        raise InvalidEntityError(f"{mapping.name} was refused by the database: {error.orig}") from error
    except exc.OperationalError as error:
        if _number_of(error) not in _CHECKS:
            raise
        raise InvalidEntityError(f"{mapping.name} was refused by the database: {error.orig}") from error
    except orm_exc.StaleDataError as error:
        raise StaleEntityError(
            f"{mapping.name} has changed since this copy of it was read; read it again and apply the change to that"
        ) from error


@contextlib.contextmanager
def _told(mapping: EntityMapping[Any]) -> Iterator[None]:
    """What a column's type makes of a value that it cannot bind (JSON of no JSON, a decorator that fails) as ours."""
    try:
        yield
    except exc.StatementError as error:
        if isinstance(error, exc.DBAPIError):
            raise
        raise InvalidEntityError(f"{mapping.name} has a value that its column does not take: {error.orig}") from error


def _is_duplicate(error: exc.IntegrityError) -> bool:
    return _number_of(error) in _DUPLICATES or "UNIQUE constraint failed" in str(error.orig)


def _is_passing(error: Exception) -> bool:
    """Whether the database gave up a transaction that may well succeed when it is made again."""
    if not isinstance(error, exc.DBAPIError):
        return False
    code = getattr(error.orig, "sqlite_errorcode", None)
    if isinstance(code, int):
        return code & 0xFF in _SQLITE_PASSING
    return _number_of(error) in _PASSING


def _number_of(error: exc.DBAPIError) -> object:
    """MySQL's number of an error; SQLite has words instead."""
    return next(iter(getattr(error.orig, "args", ())), None)


def _chunks(entities: Iterable[E], size: int) -> Iterator[Sequence[E]]:
    iterator = iter(entities)
    while chunk := tuple(islice(iterator, size)):
        yield chunk
