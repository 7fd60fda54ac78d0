"""The service: one set of methods over two repositories, and the toggle between them."""

from __future__ import annotations

import builtins
import contextlib
import weakref
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Self, TypeVar, cast

import sqlalchemy as sa
from dogpile.cache import CacheRegion
from sqlalchemy import orm

from person_repo.cache.contract import Coherence
from person_repo.cache.region import make_region, region_of
from person_repo.checks import Finding, findings_of_cache, findings_of_databases
from person_repo.database.bound import BoundRepository
from person_repo.database.engines import engine_of, fork_safely
from person_repo.database.repository import Repository, Sessions, SQLAlchemyRepository, bind_of
from person_repo.exceptions import ConfigurationError
from person_repo.internals import root_engine
from person_repo.model import Person
from person_repo.observability.counters import Stats
from person_repo.reading.cached import CachedRepository
from person_repo.writing.declared import cover_class
from person_repo.writing.invalidation import invalidate

__all__ = ["PersonService", "Service", "connect"]

E = TypeVar("E")
T = TypeVar("T")


class Service(Repository[E]):
    """The repository of one mapped class, read from the database if ``use_db``, otherwise through the cache.

    ``database`` and ``cached`` are the two repositories; ``over`` makes both. From now on every write through the
    engine of ``database`` invalidates, whoever makes it and whichever way the toggle stands.
    """

    def __init__(self, *, database: SQLAlchemyRepository[E], cached: CachedRepository[E], use_db: bool = False) -> None:
        if cached.database.entity is not database.entity:
            raise ConfigurationError(
                f"the database's repository is of {database.mapping.name}, the cached one of {cached.mapping.name}"
            )
        self.database = database
        self.cached = cached
        self.use_db = use_db
        self.closing = contextlib.ExitStack()
        """Closed with the service, last; a host may push its own things."""
        self._engines: weakref.WeakSet[sa.Engine] = weakref.WeakSet()
        self._override: ContextVar[bool | None] = ContextVar("use_db", default=None)
        for repository in (database, cached.database):
            self.cover(repository.engine)
            self.cover(repository.bind_of_sessions.engine)  # A different engine if ``engine=`` named one.

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
        """A service for a mapped class. ``sessions``: the host's; ``region``: a configured dogpile region, or a cache
        URL; ``engine``: the engine of the sessions, if they cannot name it themselves.

        Raises ``ConfigurationError``.
        """
        database = SQLAlchemyRepository(entity, sessions, engine=engine)
        # Not ``Service[E]``: for a bare ``Service`` type checkers take E, and so every result, as unknown.
        service = cast("type[Service[T]]", cls)
        return service(database=database, cached=CachedRepository(database, region), use_db=use_db)

    # The toggle

    @contextlib.contextmanager
    def using(self, *, use_db: bool) -> Iterator[Self]:
        """Overrides ``use_db`` for the reads of this block, in this thread or task only. Blocks nest."""
        token = self._override.set(use_db)
        try:
            yield self
        finally:
            self._override.reset(token)

    def _repository(self) -> SQLAlchemyRepository[E] | CachedRepository[E]:
        override = self._override.get()
        return self.database if (self.use_db if override is None else override) else self.cached

    # Reads, and writes: ``help`` shows the text of ``Repository`` for those without their own

    def get(self, id: Any) -> E | None:
        """The entity, or None; detached, and a fresh object at each call. Raises ``InvalidIdError``."""
        override = self._override.get()  # As in ``_repository``, without a call: this is the fast path of a hit.
        return (self.database if (self.use_db if override is None else override) else self.cached).get(id)

    def get_one(self, id: Any) -> E:
        return self._repository().get_one(id)

    def get_many(self, ids: Iterable[Any]) -> dict[Any, E]:
        return self._repository().get_many(ids)

    def exists(self, id: Any) -> bool:
        return self._repository().exists(id)

    def find(self, **equals: Any) -> builtins.list[E]:
        """All entities whose fields equal these values, by key order; always from the database."""
        return self._repository().find(**equals)

    def list(self, after: Any = None, limit: int = 100) -> builtins.list[E]:
        """The first ``limit`` entities in key order beyond the id ``after``; always from the database."""
        return self._repository().list(after, limit)

    def count(self) -> int:
        """The number of entities; always from the database."""
        return self._repository().count()

    def add(self, entity: E) -> None:
        self.database.add(entity)

    def add_many(self, entities: Iterable[E]) -> int:
        return self.database.add_many(entities)

    def update(self, id: Any, **changes: Any) -> E:
        return self.database.update(id, **changes)

    def upsert(self, entity: E) -> E:
        return self.database.upsert(entity)

    def delete(self, id: Any) -> bool:
        return self.database.delete(id)

    def bind(self, session: orm.Session | orm.scoped_session[Any]) -> BoundRepository[E]:
        """The same methods inside a transaction of the host's: reads see its changes, nothing is committed for it.

        Raises ``ConfigurationError`` for anything but a session that has an engine.
        """
        bound = self.database.bind(session)
        self.cover(bind_of(bound.session, bound.mapping.mapper).engine)
        return bound

    # The cache

    def cover(self, engine: sa.Engine) -> None:
        """Keeps the promise for writes through another engine, too, for every class that is declared in the same cache.
        May be called again.
        """
        known = root_engine(engine)
        if known not in self._engines:
            cover_class(engine, self.cached.database.entity, self.cached.backend)
            self._engines.add(known)

    def invalidate(self, *ids: Any) -> None:
        """Drops these entities from the cache, after writes that SQLAlchemy never saw; every entity of the class if the
        database does not say which it is.

        Raises ``InvalidIdError``; ``CacheUnavailableError`` if a server cannot be reached and ``on_unreachable`` is
        ``refuse``, or is ``strict`` and the fence cannot be written either.
        """
        identities = [identity for id in ids if (identity := self.cached.mapping.identity(id)) is not None]
        keys = self.cached.certain_keys()
        if keys is not None:
            invalidate(self.cached.fence, self.cached.backend, [keys.key_of(identity)[0] for identity in identities])
        elif identities:
            self.invalidate_all()

    def invalidate_all(self) -> None:
        """Drops every entity of this class from the cache, for every process that uses it, in every schema and database
        that shares the cache. Raises as ``invalidate``.
        """
        invalidate(self.cached.fence, self.cached.backend, groups=[self.cached.group])

    def deliver(self) -> int:
        """Delivers now the invalidations that cache servers have missed; returns how many are left, because their
        servers still do not answer.

        Readers do so by themselves; this is for a process that only writes.
        """
        return 0 if self.cached.fence is None else self.cached.fence.deliver()

    def check(self) -> tuple[Finding, ...]:
        """Findings, none if all is well: the database cannot be reached, the layer's tables are missing or older than
        this version needs, a cache server does not answer.

        For a deploy or a health page. It asks the database and each server once, and changes nothing.
        """
        fence = self.cached.fence
        engines = (self.engine, self.read_engine)
        of_databases = findings_of_databases(engines, fenced=fence is not None and fence.has_table)
        return (*of_databases, *findings_of_cache(self.cached.backend))

    @property
    def coherence(self) -> Coherence:
        """How far the promise reaches: ``strict``, ``process`` (a memory region: writes of other processes are not
        seen) or ``best-effort`` (a backend that is none of ours).
        """
        return self.cached.coherence

    def stats(self) -> Stats:
        """The counters of the cached reads and of the region under them, other services over that region included."""
        return self.cached.stats()

    # Its parts

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
    """The service of people; ``person_repo.connect`` makes one from two URLs."""

    @classmethod
    def over(  # type: ignore[override]
        cls,
        sessions: Sessions,
        region: CacheRegion | str,
        *,
        use_db: bool = False,
        engine: sa.Engine | None = None,
    ) -> Self:
        """A service for people. ``sessions``: the host's; ``region``: a configured dogpile region, or a cache URL;
        ``engine``: the engine of the sessions, if they cannot name it themselves.

        Raises ``ConfigurationError``.
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
