"""The repository: a mapped class as a collection, kept in the database.

``SQLAlchemyRepository`` works in transactions of its own and hands out detached objects; ``bound.BoundRepository``
works inside a session of the host's.
"""

from __future__ import annotations

import builtins
import contextlib
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, Protocol, TypeAlias, TypeVar, cast

import sqlalchemy as sa
from sqlalchemy import orm

from person_repo.database.bound import BoundRepository
from person_repo.database.engines import has_one_connection, read_engine_of
from person_repo.database.errors import bind_errors_translated, errors_translated, foreign_is_nobody, is_passing
from person_repo.database.identity import Database, database_of
from person_repo.database.ids import identities, page, required
from person_repo.database.loading import Loader
from person_repo.database.retries import retried
from person_repo.database.states import restored, state_of
from person_repo.declare import on_news
from person_repo.exceptions import ConfigurationError, EntityExistsError, PersonRepoError, StaleEntityError
from person_repo.mapped.identities import find_mapper, mapper_of
from person_repo.mapped.mapping import EntityMapping, Row
from person_repo.messages import shown

__all__ = ["Repository", "SQLAlchemyRepository", "Sessions", "bind_of"]

E = TypeVar("E")
R = TypeVar("R")

Sessions: TypeAlias = orm.sessionmaker[Any] | orm.scoped_session[Any] | sa.Engine
"""A source of sessions: a sessionmaker, a ``scoped_session`` (Flask-SQLAlchemy's, too) or an Engine."""


class Repository(Protocol[E]):
    """A mapped class as a collection. An id is the primary key's value, or a tuple of the values of a composite key.

    Every method that takes an id raises ``InvalidIdError`` for a value of a type the key cannot have.
    """

    def get(self, id: Any) -> E | None:
        """The entity, or None if there is none."""

    def get_one(self, id: Any) -> E:
        """The entity. Raises ``EntityNotFoundError`` (``PersonNotFoundError``) if there is none."""

    def get_many(self, ids: Iterable[Any]) -> dict[Any, E]:
        """The entities by id, in the order of the ids; missing ones left out, repeated ones asked once."""

    def exists(self, id: Any) -> bool:
        """True if there is such an entity."""

    def find(self, **equals: Any) -> builtins.list[E]:
        """All entities whose fields equal these values, by key order. Raises ``UnknownFieldError``."""

    def list(self, after: Any = None, limit: int = 100) -> builtins.list[E]:
        """The first ``limit`` entities in key order, beyond the id ``after`` if one is given."""

    def count(self) -> int:
        """The number of entities."""

    def add(self, entity: E) -> None:
        """Stores a new entity. Raises ``EntityExistsError``, ``InvalidEntityError``."""

    def add_many(self, entities: Iterable[E]) -> int:
        """Stores new entities, all or none, and returns their number; an iterator is read as they are stored.

        Raises ``EntityExistsError``, ``InvalidEntityError``; nothing is stored then.
        """

    def update(self, id: Any, **changes: Any) -> E:
        """Changes fields of an entity and returns it. Raises ``EntityNotFoundError``, ``UnknownFieldError``."""

    def upsert(self, entity: E) -> E:
        """Stores an entity, new or not, and returns what is stored.

        Raises ``StaleEntityError`` if it is a copy older than the row.
        """

    def delete(self, id: Any) -> bool:
        """Deletes an entity; True if there was one."""


class SQLAlchemyRepository(Generic[E]):
    """A repository in a database: reads fresh and committed, each write a transaction of its own.

    ``sessions`` makes the sessions for writes. ``engine``: the engine, if the sessions do not say which it is.
    ``read_engine``: the host's own engine for reads by AUTOCOMMIT (never of a replica), in place of the derived one.

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
        mapper = mapper_of(entity)
        self.sessions = sessions
        self._maker = _maker_of(sessions)
        with self._open() as session:
            self.bind_of_sessions: sa.Engine | sa.Connection = bind_of(session, mapper, engine)
            translation = getattr(session, "execution_options", {}).get("schema_translate_map")  # SQLAlchemy 2.1's
        self.engine: sa.Engine = engine or self.bind_of_sessions.engine
        self.read_engine: sa.Engine = read_engine or read_engine_of(self.engine)
        if read_engine is not None and has_one_connection(read_engine):
            self.read_engine = read_engine_of(read_engine)
        self._owns_read_engine = self.read_engine is not read_engine
        if translation is not None:
            self.read_engine = self.read_engine.execution_options(schema_translate_map=translation)
        self.entity = entity
        self._loader: Loader[E] | None = None
        self._make_loader()
        _repositories.add(self)

    @property
    def loader(self) -> Loader[E]:
        """The loader of the class's rows. Made anew when its hierarchy has grown."""
        return self._loader or self._make_loader()

    @property
    def mapping(self) -> EntityMapping[E]:
        """The mapped class."""
        return self.loader.mapping

    @property
    def read_database(self) -> Database:
        """The database that is read: by the host's own read engine, if it gave one."""
        if self._owns_read_engine:
            return database_of(self.engine)
        return database_of(self.read_engine, asks_itself=True)

    def _make_loader(self) -> Loader[E]:
        mapping = EntityMapping(self.entity, dialect=self.engine.dialect.name)
        self._loader = loader = Loader(mapping, self.read_engine)
        return loader

    @property
    def on_hosts_connection(self) -> bool:
        """True if the sessions work on one Connection of the host's, as in test suites that roll everything back.

        Writes of such a session are visible there only, so reads go through the sessions, too.
        """
        # Asked at each call: a test suite may configure a sessionmaker after its application has built this.
        bind = self._maker.kw.get("bind")
        return isinstance(self.bind_of_sessions if bind is None else bind, sa.Connection)

    def get(self, id: Any) -> E | None:
        """See ``Repository``. One query."""
        loader = self.loader
        identity = loader.mapping.identity(id)
        if identity is None:
            return None
        if self.on_hosts_connection:
            return self._through_session(lambda bound: bound.get(id))
        row = loader.one(identity).rows.get(identity)
        return None if row is None else loader.mapping.hydrate(row)

    def get_one(self, id: Any) -> E:
        """See ``Repository``."""
        return required(self.mapping, id, self.get(id))

    def get_many(self, ids: Iterable[Any]) -> dict[Any, E]:
        """See ``Repository``. One query for some nine hundred ids."""
        loader = self.loader
        batch = identities(loader.mapping, ids)
        if self.on_hosts_connection:
            return self._through_session(lambda bound: bound.get_many(batch.values()))
        rows = loader.many(list(batch)).rows
        return {id: loader.mapping.hydrate(rows[identity]) for identity, id in batch.items() if identity in rows}

    def exists(self, id: Any) -> bool:
        """See ``Repository``."""
        return self.get(id) is not None

    def find(self, **equals: Any) -> builtins.list[E]:
        """See ``Repository``."""
        loader = self.loader
        criteria = loader.mapping.criteria(equals)
        if self.on_hosts_connection:
            return self._through_session(lambda bound: bound.find(**equals))
        with foreign_is_nobody(equals.values()), bind_errors_translated(loader.mapping):
            return [loader.mapping.hydrate(row) for row in loader.select(*criteria)]
        return []

    def list(self, after: Any = None, limit: int = 100) -> builtins.list[E]:
        """See ``Repository``."""
        loader = self.loader
        criteria = page(loader.mapping, after, limit)
        if self.on_hosts_connection:
            return self._through_session(lambda bound: bound.list(after, limit))
        return [loader.mapping.hydrate(row) for row in loader.select(*criteria, limit=limit)]

    def count(self) -> int:
        """See ``Repository``."""
        return self._through_session(lambda bound: bound.count()) if self.on_hosts_connection else self.loader.count()

    def add(self, entity: E) -> None:
        """See ``Repository``. After an error the object is as it was, and may be added again."""
        self._write(lambda bound, _: bound.add(entity), new=[entity])

    def add_many(self, entities: Iterable[E]) -> int:
        """See ``Repository``. The objects stay as they are: not attached, and without values that the database makes.

        An iterator, such as a generator, is read once, so its write is not tried again after a deadlock.
        """
        if iter(entities) is entities:
            with self._transaction() as bound:
                return bound.add_many(entities)
        return self._write(lambda bound, _: bound.add_many(entities))

    def add_rows(self, names: Sequence[str], chunks: Iterable[Sequence[Row]], *, checked: bool = False) -> int:
        """Stores very many new entities, all or none, without an object for each, and returns their number.

        ``names``: fields, in any order; in the order of the table a driver needs least time. ``chunks``: lists of rows,
        each a tuple of one value for each name; some thousand rows at a time are fast, and memory holds one chunk.
        Chunks are read as they are stored, once, so the write is not tried again after a deadlock. ``checked``: True
        skips the check of the rows, for a caller that has done it (``mapping.check``); a value that is too long is then
        the database's to refuse, or to cut.

        Like ``add_many``: a version counter begins at 1, and the cache is invalidated at the commit. Of a class that
        inherits, the entities are of this class itself.

        Raises ``UnknownFieldError`` for a name that is no field; ``InvalidEntityError`` for a name given twice or
        missing, a row of another length, and a value that the column does not take: the message has the number of the
        row, the value, the limit and the remedy. ``EntityExistsError`` for a key that is taken.
        """
        with self._transaction() as bound:
            return bound.add_rows(names, chunks, checked=checked)

    def update(self, id: Any, **changes: Any) -> E:
        """See ``Repository``. Read and written under a lock."""
        return self._write(lambda bound, _: bound.update(id, **changes), (StaleEntityError,))

    def upsert(self, entity: E) -> E:
        """See ``Repository``."""
        is_copy = state_of(self.mapping, entity).key is not None  # another attempt would not make it younger
        overtaken = (EntityExistsError,) if is_copy else (EntityExistsError, StaleEntityError)

        def write(bound: BoundRepository[E], again: bool) -> E:
            # Not the first time: MySQL locks the gap around a row that is not there, and two writers that
            # do so before they insert are a deadlock.
            if again and not is_copy:
                bound.lock(entity)
            return bound.upsert(entity)

        return self._write(write, overtaken)

    def delete(self, id: Any) -> bool:
        """See ``Repository``."""
        return self._write(lambda bound, _: bound.delete(id), (StaleEntityError,))

    def bind(self, session: orm.Session | orm.scoped_session[Any]) -> BoundRepository[E]:
        """The same methods inside a session of the host's. Raises ``ConfigurationError`` for anything but a session."""
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
        with self._open() as session, errors_translated(self.mapping):
            if type(session).get_bind is not orm.Session.get_bind:
                _stay_on_one_bind(session, self.mapping.mapper, self.engine)
            with session.begin():
                yield self.bind(session)

    def _through_session(self, read: Callable[[BoundRepository[E]], R]) -> R:
        with self._open() as session:
            bound = self.bind(session)
            result = read(bound)
            for entity in session:  # a value that loads late cannot do so once the session is closed
                if isinstance(entity, self.mapping.entity):
                    bound.complete(entity)
            return result

    def _write(
        self,
        write: Callable[[BoundRepository[E], bool], R],
        overtaken: tuple[type[PersonRepoError], ...] = (),
        new: Sequence[E] = (),
    ) -> R:
        """The result of ``write``, called in a transaction of its own, and again in another one after a lock that could
        not be had or an error of the types ``overtaken``.

        ``write`` is given whether it is called again. ``new``: objects that are put back after each failed attempt.
        """

        def attempt(again: bool) -> R:
            with restored(self.mapping, new), self._transaction() as bound:
                return write(bound, again)

        def may_pass(error: Exception) -> bool:
            # On a Connection of the host's, a deadlock ends the host's transaction: the host must know.
            return isinstance(error, overtaken) or (is_passing(error) and not self.on_hosts_connection)

        return retried(attempt, may_pass)


def _maker_of(sessions: Sessions) -> orm.sessionmaker[Any]:
    """The sessionmaker of a source of sessions. Raises ``ConfigurationError`` for anything else."""
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
    session: orm.Session, mapper: orm.Mapper[Any], engine: sa.Engine | None = None
) -> sa.Engine | sa.Connection:
    """The Engine that a session works on for this class, or the one Connection that sessions join.

    ``engine`` is returned if the session does not know one, or not yet: some need a request's context. Raises
    ``ConfigurationError`` without it.
    """
    try:
        # A session that reads from replicas says the engine that it writes to.
        return session.get_bind(mapper, clause=sa.update(cast("sa.Table", mapper.base_mapper.local_table)))
    except Exception as error:
        if engine is not None:
            return engine
        raise ConfigurationError(
            f"the sessions do not say which engine {mapper.class_.__name__} is on ({error}); name it with engine="
        ) from error


def _stay_on_one_bind(session: orm.Session, mapper: orm.Mapper[Any], engine: sa.Engine) -> None:
    """Has a session that chooses an engine for each statement read this hierarchy where it writes it: a replica does
    not have what the session has just written, and a lock there locks nothing. Other classes go where they went.
    """
    bind, choose = bind_of(session, mapper, engine), session.get_bind

    root = mapper.base_mapper

    def get_bind(mapper: Any = None, **options: Any) -> sa.Engine | sa.Connection:
        asked = None if mapper is None else sa.inspect(mapper, raiseerr=False)
        return bind if getattr(asked, "base_mapper", None) is root else choose(mapper, **options)

    session.get_bind = get_bind  # type: ignore[method-assign]


_repositories: weakref.WeakSet[SQLAlchemyRepository[Any]] = weakref.WeakSet()


def _hear_of_class(root: type[Any]) -> None:
    """A class was added to a hierarchy: what reads its classes is made anew, at the next read."""
    for repository in [*_repositories]:
        mapper = find_mapper(repository.entity)
        if mapper is not None and mapper.base_mapper.class_ is root:
            repository._loader = None


on_news(_hear_of_class)
