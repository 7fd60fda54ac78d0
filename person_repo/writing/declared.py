"""``cover(engine, caches)``: writes through an engine keep every declared class coherent, whichever services there are.

``declare`` says which classes are cached and in which cache, ``coverage`` covers them. Of a hierarchy all classes are
covered, since each has entries of its own.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
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
from person_repo.model import Person
from person_repo.writing.coverage import Part, cover_all, require_engine

__all__ = ["cover", "cover_class"]

logger = logging.getLogger("person_repo.writing")

_lock = threading.RLock()


@dataclass(eq=False)
class _Caches:
    """The caches of one engine.

    ``by_name``: for declared classes; two services may use two regions as one cache. ``by_root``: for classes that are
    not declared, those of their services. ``by_url``: the regions that were made for URLs. ``covered``: the caches for
    which each root is covered. ``named``: the names that ``cover`` was given, which are then all that there may be.
    """

    by_name: dict[str, list[LeaseBackend]] = field(default_factory=dict)
    by_root: weakref.WeakKeyDictionary[type, list[LeaseBackend]] = field(default_factory=weakref.WeakKeyDictionary)
    by_url: dict[str, CacheRegion] = field(default_factory=dict)
    covered: weakref.WeakKeyDictionary[type, list[LeaseBackend]] = field(default_factory=weakref.WeakKeyDictionary)
    named: set[str] = field(default_factory=set)

    def of(self, root: type[Any]) -> Sequence[LeaseBackend]:
        """The caches that may hold a class."""
        declaration = declaration_of(root)
        named = [] if declaration is None else self.by_name.get(declaration.cache, [])
        return [*named, *self.by_root.get(root, ())]


_caches: weakref.WeakKeyDictionary[sa.Engine, _Caches] = weakref.WeakKeyDictionary()
# Classes whose key refers to a table that comes later. Until then each change drops the class.
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
    names: list[object] = [*named]
    for name in names:
        if not isinstance(name, str) or not name:
            raise ConfigurationError(f"{name!r:.120} is no name of a cache; give strings that are not empty")
    for entity, declaration in declared():
        # Person is always declared, and need not be anybody's.
        if declaration.cache not in named and entity is not Person:
            raise _no_region(entity, declaration.cache, named)
    with _lock:
        known = _caches_of(engine)
        backends = {name: lease_backend(_region_of(known, region)) for name, region in named.items()}
        _cover(engine, known, backends)
        known.named.update(named)


def cover_class(engine: sa.Engine, entity: type[Any], backend: LeaseBackend) -> None:
    """Keep one class coherent that a service caches, and every class that is declared in the same cache; for a class
    that is not declared, this is the cache ``default``.
    """
    require_engine(engine)
    root = mapper_of(entity).base_mapper.class_
    declaration = declaration_of(entity)
    with _lock:
        known = _caches_of(engine)
        if declaration is None:
            if backend not in known.by_root.setdefault(root, []):
                known.by_root[root].append(backend)
            _cover_roots(engine, known, [root])
        _cover(engine, known, {DEFAULT if declaration is None else declaration.cache: backend})
    if declaration is None and root not in _said:
        _said.add(root)
        logger.warning(
            "%s is cached and not declared, so other processes keep it coherent only if they make a service over it, "
            "too; put @person_repo.cached above the class",
            root.__name__,
        )


def _caches_of(engine: sa.Engine) -> _Caches:
    return _caches.setdefault(root_engine(engine), _Caches())


def _region_of(known: _Caches, region: CacheRegion | str) -> CacheRegion:
    """The region itself, or the one that was made for this URL when the engine was covered before."""
    if not isinstance(region, str):
        return region_of(region)
    return known.by_url.get(region) or known.by_url.setdefault(region, region_of(region))


def _cover(engine: sa.Engine, known: _Caches, caches: Mapping[str, LeaseBackend]) -> None:
    for name, backend in caches.items():
        if backend not in known.by_name.setdefault(name, []):
            known.by_name[name].append(backend)
    _cover_roots(engine, known, [root for root, _ in declared()])


def _cover_roots(engine: sa.Engine, known: _Caches, roots: Sequence[type[Any]]) -> None:
    cover_all(engine, [part for root in roots for part in _news(engine, known, root)])
    for root in roots:
        known.covered[root] = [*known.of(root)]


def _news(engine: sa.Engine, known: _Caches, root: type[Any]) -> Iterator[Part]:
    """The classes of a hierarchy, for each cache that it is not covered for yet."""
    backends = [backend for backend in known.of(root) if backend not in known.covered.get(root, ())]
    if not backends:
        return
    for variant in mapper_of(root).base_mapper.self_and_descendants:
        mapping = IdentityMapping(variant.class_, dialect=engine.dialect.name)
        if not mapping.key_fields:
            _unresolved.add(root)
        for backend in backends:
            yield Part(mapping, backend)


def _hear_of_class(root: type[Any]) -> None:
    """A class was declared, or a hierarchy has grown: cover it on the engines that have its cache."""
    declaration = declaration_of(root)
    with _lock:
        for engine, known in [*_caches.items()]:
            known.covered.pop(root, None)
            _cover_roots(engine, known, [root])
        for known in [*_caches.values()]:
            if declaration is not None and known.named and declaration.cache not in known.named:
                raise _no_region(root, declaration.cache, known.named)


@event.listens_for(sa.Table, "after_parent_attach")
def _hear_of_table(_: sa.Table, __: Any) -> None:
    """A table is defined: it may be the one that a key refers to."""
    for root in [*_unresolved] if _unresolved else ():
        if is_resolved(root):
            _unresolved.discard(root)
            _hear_of_class(root)


def _no_region(entity: type[Any], cache: str, regions: Iterable[str]) -> ConfigurationError:
    return ConfigurationError(
        f"{entity.__name__} is declared in the cache {cache!r}, and cover() got regions for "
        f"{', '.join(map(repr, sorted(regions))) or 'none'}; give {{{cache!r}: region}}, too"
    )


def _unlock() -> None:
    global _lock
    # A thread that does not exist in this process may hold the lock.
    _lock = threading.RLock()


on_news(_hear_of_class)
on_fork(_unlock)
