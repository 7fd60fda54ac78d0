"""The service: one set of methods over two repositories, and the toggle between them."""

from __future__ import annotations

import builtins
import contextlib
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, cast

import sqlalchemy as sa
from dogpile.cache import CacheRegion
from sqlalchemy import orm

from person_repo.cache.contract import Coherence
from person_repo.cache.region import make_region, region_of
from person_repo.database.bound import BoundRepository
from person_repo.database.engines import engine_of, fork_safely
from person_repo.database.repository import Sessions, SQLAlchemyRepository, bind_of
from person_repo.exceptions import ConfigurationError
from person_repo.model import Person
from person_repo.observability.counters import Stats
from person_repo.reading.cached import CachedRepository
from person_repo.writing.coverage import cover
from person_repo.writing.invalidation import invalidate

__all__ = ["PersonService", "Service", "connect"]

E = TypeVar("E")
T = TypeVar("T")


class Service(Generic[E]):
    """The repository of one mapped class, answered by the cache or by the database as ``use_db`` says.

    ``database`` and ``cached`` are the two repositories; ``over`` makes both. From here on every write through
    the engine of ``database`` invalidates, whoever makes it and whichever way the toggle stands.
    """

    def __init__(self, *, database: SQLAlchemyRepository[E], cached: CachedRepository[E], use_db: bool = False) -> None:
        if cached.mapping.entity is not database.mapping.entity:
            raise ConfigurationError(
                f"the database's repository is of {database.mapping.name}, the cached one of {cached.mapping.name}"
            )
        self.database = database
        self.cached = cached
        self.use_db = use_db
        self.closing = contextlib.ExitStack()
        """What else ``close`` closes: a host may hang its own on it."""
        self._here: ContextVar[bool | None] = ContextVar("use_db", default=None)
        for repository in (database, cached.database):
            self.cover(repository.engine)
            self.cover(repository.bind_of_sessions.engine)  # another one where ``engine=`` named one of its own

    @classmethod
    def over(
        cls,
        entity: type[T],
        sessions: Sessions,
        region: CacheRegion | str,
        *,
        use_db: bool = False,
        engine: sa.Engine | None = None,
    ) -> Service[T]:
        """A service for a mapped class: ``sessions`` of the host's, ``region`` a configured dogpile region or a cache
        URL.

        ``engine`` names the engine where none can be told from the sessions. Raises ``ConfigurationError``.
        """
        database = SQLAlchemyRepository(entity, sessions, engine=engine)
        # Not E: type checkers take the E of a bare ``Service`` for unknown, and with it all that is read.
        service = cast("type[Service[T]]", cls)
        return service(database=database, cached=CachedRepository(database, region), use_db=use_db)

    # The toggle

    @contextlib.contextmanager
    def using(self, *, use_db: bool) -> Iterator[Self]:
        """In this block, and in this thread or task only, reads go where ``use_db`` says."""
        token = self._here.set(use_db)
        try:
            yield self
        finally:
            self._here.reset(token)

    def _side(self) -> SQLAlchemyRepository[E] | CachedRepository[E]:
        here = self._here.get()
        return self.database if (self.use_db if here is None else here) else self.cached

    # Reads

    def get(self, id: Any) -> E | None:
        """The entity, or None; detached, and a fresh object at each call. Raises ``InvalidIdError``."""
        here = self._here.get()  # as ``_side`` does, without a call
        return (self.database if (self.use_db if here is None else here) else self.cached).get(id)

    def get_one(self, id: Any) -> E:
        """The entity. Raises ``EntityNotFoundError`` (``PersonNotFoundError``), ``InvalidIdError``."""
        return self._side().get_one(id)

    def get_many(self, ids: Iterable[Any]) -> dict[Any, E]:
        """The entities by id, in the order of the ids; missing ones left out, repeated ones asked once."""
        return self._side().get_many(ids)

    def exists(self, id: Any) -> bool:
        """Whether there is such an entity."""
        return self._side().exists(id)

    def find(self, **equals: Any) -> builtins.list[E]:
        """All entities whose fields equal these values, by key order; always from the database."""
        return self._side().find(**equals)

    def list(self, after: Any = None, limit: int = 100) -> builtins.list[E]:
        """The first ``limit`` entities in key order beyond the id ``after``; always from the database."""
        return self._side().list(after, limit)

    def count(self) -> int:
        """How many entities there are; always from the database."""
        return self._side().count()

    # Writes

    def add(self, entity: E) -> None:
        """Stores a new entity. Raises ``EntityExistsError``, ``InvalidEntityError``."""
        self.database.add(entity)

    def add_many(self, entities: Iterable[E]) -> int:
        """Stores new entities, all or none, reading them as it goes; how many. Raises as ``add`` does."""
        return self.database.add_many(entities)

    def update(self, id: Any, **changes: Any) -> E:
        """Changes fields of an entity and returns it. Raises ``EntityNotFoundError``, ``UnknownFieldError``,
        ``InvalidEntityError``."""
        return self.database.update(id, **changes)

    def upsert(self, entity: E) -> E:
        """Stores an entity, new or not, and returns what is stored. Raises ``StaleEntityError`` for a copy older than
        the row.
        """
        return self.database.upsert(entity)

    def delete(self, id: Any) -> bool:
        """Deletes an entity; whether there was one."""
        return self.database.delete(id)

    def bind(self, session: orm.Session | orm.scoped_session[Any]) -> BoundRepository[E]:
        """The same methods inside a transaction of the host's: reads see its changes, nothing is committed for it.

        Raises ``ConfigurationError`` for what is no session, or one without an engine.
        """
        bound = self.database.bind(session)
        self.cover(bind_of(bound.session, bound.mapping).engine)
        return bound

    # The cache

    def cover(self, engine: sa.Engine) -> None:
        """Keeps the promise for writes through another engine, too. May be called again."""
        cover(engine, self.cached.mapping, self.cached.keys, self.cached.backend)

    def invalidate(self, *ids: Any) -> None:
        """Drops these entities from the cache, for writes that SQLAlchemy never saw.

        Raises ``InvalidIdError``; ``CacheUnavailableError`` where a server cannot be reached and ``on_unreachable`` is
        ``refuse``, or readers cannot be told under ``strict``.
        """
        identities = [self.cached.mapping.identity(id) for id in ids]
        keys = [self.cached.keys.key_of(identity)[0] for identity in identities if identity is not None]
        invalidate(self.cached.fence, self.cached.backend, keys)

    def invalidate_all(self) -> None:
        """Drops every entity of this class from the cache, for every process that uses it. Raises as ``invalidate``."""
        invalidate(self.cached.fence, self.cached.backend, groups=[self.cached.keys.group])

    def deliver(self) -> int:
        """Tells the cache now what it could not be told before, as far as it can be reached; how much is left.

        Readers do so by themselves; this is for a process that only writes.
        """
        return 0 if self.cached.fence is None else self.cached.fence.deliver()

    @property
    def coherence(self) -> Coherence:
        """How far the promise reaches: ``strict``, ``process`` (a memory region: writes of other processes are not
        seen) or ``best-effort`` (a backend that is none of ours).
        """
        return self.cached.coherence

    def stats(self) -> Stats:
        """What the cached reads did, and the region under them: other services over the same region included."""
        return self.cached.stats()

    # What it stands on

    @property
    def sessions(self) -> Sessions:
        """The source of sessions that the service was given."""
        return self.database.sessions

    @property
    def engine(self) -> sa.Engine:
        """The host's engine."""
        return self.database.engine

    @property
    def read_engine(self) -> sa.Engine:
        """The engine on which the service reads, beside the host's."""
        return self.database.read_engine

    @property
    def region(self) -> CacheRegion:
        """The dogpile region."""
        return self.cached.region

    def close(self) -> None:
        """Closes the service's own connections, to the cache and for reads; the host's engine stays as it is. May be
        called again.
        """
        self.cached.close()
        self.database.close()
        self.closing.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class PersonService(Service[Person]):
    """The repository of people. See ``Service``."""

    @classmethod
    def over(  # type: ignore[override]
        cls,
        sessions: Sessions,
        region: CacheRegion | str,
        *,
        use_db: bool = False,
        engine: sa.Engine | None = None,
    ) -> Self:
        """A service for people: ``sessions`` of the host's, ``region`` a configured dogpile region or a cache URL.

        ``engine`` names the engine where none can be told from the sessions. Raises ``ConfigurationError``.
        """
        database = SQLAlchemyRepository(Person, sessions, engine=engine)
        return cls(database=database, cached=CachedRepository(database, region), use_db=use_db)


def connect(
    database_url: str | sa.URL, cache_url: CacheRegion | str = "memory://", *, use_db: bool = False, **options: Any
) -> PersonService:
    """A service for people from two URLs, for a script, a test or the command line; ``close`` closes all of it.

    ``options``: fields of ``CacheSettings`` for the region. The tables must be there: see ``migrations.upgrade``.
    Raises ``ConfigurationError`` for a URL that cannot be used; opens no connection.
    """
    if options and not isinstance(cache_url, str):
        raise ConfigurationError(f"{next(iter(options))}= is an option of a region made here; this one is made already")
    region = make_region(cache_url, **options) if isinstance(cache_url, str) else region_of(cache_url)
    engine = engine_of(database_url)
    fork_safely(engine)
    people = PersonService.over(orm.sessionmaker(engine), region, use_db=use_db)
    people.closing.callback(engine.dispose)
    return people
