"""``cover(engine, caches)``: writes through an engine keep every declared class coherent, whichever services there are.

``declare`` says which classes are cached and in which cache, ``coverage`` covers them. A hierarchy is covered as one.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import sqlalchemy as sa
from dogpile.cache import CacheRegion
from sqlalchemy import event

from person_repo.cache.contract import LeaseBackend
from person_repo.cache.region import lease_backend, region_of
from person_repo.declare import DEFAULT, declaration_of, declared, on_news
from person_repo.exceptions import ConfigurationError
from person_repo.forks import on_fork
from person_repo.internals import root_engine
from person_repo.mapped.identities import IdentityMapping, is_resolved, mapper_of
from person_repo.mapped.keys import Keyspace
from person_repo.model import Person
from person_repo.writing.coverage import Part, cover_all, require_engine

__all__ = ["cover", "cover_class"]

logger = logging.getLogger("person_repo.writing")

_lock = threading.RLock()
# The caches that each engine is covered for, by name. Two services may use two regions as one cache.
_caches: weakref.WeakKeyDictionary[sa.Engine, dict[str, list[LeaseBackend]]] = weakref.WeakKeyDictionary()
# The engines of which the host has named all caches.
_complete: weakref.WeakSet[sa.Engine] = weakref.WeakSet()
# Declared classes whose key refers to a table that comes later, so that nothing can be written to theirs either.
_unresolved: weakref.WeakSet[type] = weakref.WeakSet()
_said: weakref.WeakSet[type] = weakref.WeakSet()


def cover(engine: sa.Engine, caches: CacheRegion | str | Mapping[str, CacheRegion | str]) -> None:
    """Keeps the promise for every declared class and every write through this engine, now and for classes declared
    later. For a process that only writes; a service covers its own engine. May be called again.

    ``caches``: a dogpile region, or a cache URL, for the cache ``default``; or several, by the names that the classes
    were declared with. Best called before the engine's first connection: what other connections are committing
    meanwhile is not seen, and drops the classes when they come back.

    Raises ``ConfigurationError`` for a declared cache that has no region, a class that cannot be cached, and for
    anything but an ``Engine``: an ``AsyncEngine`` has a ``sync_engine``.
    """
    require_engine(engine)
    named = caches if isinstance(caches, Mapping) else {DEFAULT: caches}
    regions = {name: region_of(region) for name, region in named.items()}
    for entity, declaration in declared():
        # Person is always declared, and need not be anybody's.
        if declaration.cache not in regions and entity is not Person:
            raise _no_region(entity, declaration.cache, regions)
    with _lock:
        _cover(engine, {name: lease_backend(region) for name, region in regions.items()})
        _complete.add(root_engine(engine))


def cover_class(engine: sa.Engine, entity: type[Any], backend: LeaseBackend) -> None:
    """Keep one class coherent that a service caches, and every class that is declared in the same cache."""
    require_engine(engine)
    declaration = declaration_of(entity)
    if declaration is not None:
        with _lock:
            _cover(engine, {declaration.cache: backend})
        return
    cover_all(engine, [*_parts(engine, entity, backend)])
    root = mapper_of(entity).base_mapper.class_
    if root not in _said:
        _said.add(root)
        logger.warning(
            "%s is cached and not declared, so other processes keep it coherent only if they make a service over it, "
            "too; put @person_repo.cached above the class",
            root.__name__,
        )


def _cover(engine: sa.Engine, caches: Mapping[str, LeaseBackend]) -> None:
    parts = [
        part
        for entity, declaration in declared()
        if declaration.cache in caches
        for part in _parts(engine, entity, caches[declaration.cache])
    ]
    cover_all(engine, parts)
    known = _caches.setdefault(root_engine(engine), {})
    for name, backend in caches.items():
        if backend not in known.setdefault(name, []):
            known[name].append(backend)


def _parts(engine: sa.Engine, entity: type[Any], backend: LeaseBackend) -> Iterator[Part]:
    """The hierarchy of a class: one part, or one for each class if its rows do not say of which class they are.

    None yet for a class whose key refers to a table that comes later.
    """
    root = mapper_of(entity).base_mapper
    if not is_resolved(entity):
        _unresolved.add(entity)
        return
    classes = [root.class_] if root.polymorphic_on is not None else [each.class_ for each in root.self_and_descendants]
    for each in classes:
        mapping = IdentityMapping(each, dialect=engine.dialect.name)
        yield Part(mapping, Keyspace.of(mapping, backend.settings.namespace), backend)


def _cover_news(entity: type[Any]) -> None:
    """A class was declared, or a declared hierarchy has grown: cover it on the engines that have its cache."""
    declaration = declaration_of(entity)
    assert declaration is not None, entity
    with _lock:
        for engine, caches in [*_caches.items()]:
            for backend in caches.get(declaration.cache, ()):
                cover_all(engine, [*_parts(engine, entity, backend)])
        for engine, caches in [*_caches.items()]:
            if declaration.cache not in caches and engine in _complete:
                raise _no_region(entity, declaration.cache, caches)


@event.listens_for(sa.Table, "after_parent_attach")
def _hear_of_table(_: sa.Table, __: Any) -> None:
    """A table is defined: it may be the one that a key refers to."""
    for entity in [*_unresolved] if _unresolved else ():
        if is_resolved(entity):
            _unresolved.discard(entity)
            _cover_news(entity)


def _no_region(entity: type[Any], cache: str, regions: Iterable[str]) -> ConfigurationError:
    return ConfigurationError(
        f"{entity.__name__} is declared in the cache {cache!r}, and cover() got regions for "
        f"{', '.join(map(repr, sorted(regions))) or 'none'}; give {{{cache!r}: region}}, too"
    )


def _unlock() -> None:
    global _lock
    # A thread that does not exist in this process may hold the lock.
    _lock = threading.RLock()


on_news(_cover_news)
on_fork(_unlock)
