"""The declaration of what is cached: said once, with the class, so that every process that imports it knows.

Readers find here in which cache a class is kept, writers (``cover``) all that they must keep coherent. A hierarchy is
one thing, and declared at its root. ``Person`` is declared here, in the cache ``default``.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar, overload

from sqlalchemy import event, orm

from person_repo.exceptions import ConfigurationError
from person_repo.forks import on_fork
from person_repo.mapped.identities import IdentityMapping, find_mapper
from person_repo.model import Person
from person_repo.settings import CacheSettings

__all__ = ["DEFAULT", "Declaration", "cached", "declaration_of", "declared", "on_news"]

T = TypeVar("T")

DEFAULT = "default"
"""The name of the cache of a class that names none."""


@dataclass(frozen=True, slots=True)
class Declaration:
    """The arguments of ``cached`` for one class."""

    cache: str = DEFAULT
    ttl: int | None = None

    def __str__(self) -> str:
        return f"cache={self.cache!r}, ttl={self.ttl}"


_lock = threading.Lock()
# Weak, so that a class that is made in a function can go.
_declared: weakref.WeakKeyDictionary[type, Declaration] = weakref.WeakKeyDictionary()
_hooks: list[Callable[[type], None]] = []


@overload
def cached(entity: type[T], /, *, cache: str = ..., ttl: int | None = ...) -> type[T]: ...
@overload
def cached(*, cache: str = ..., ttl: int | None = ...) -> Callable[[type[T]], type[T]]: ...
def cached(
    entity: type[T] | None = None, /, *, cache: str = DEFAULT, ttl: int | None = None
) -> type[T] | Callable[[type[T]], type[T]]:
    """Declares a mapped class as cached, and returns it: ``@cached``, ``@cached(cache="orders")``, or, for a class that
    is somebody else's, ``cached(Invoice)``.

    ``cache``: the name of the cache that its entities are kept in, which ``cover`` maps to a region. ``ttl``: seconds
    that they live there, 1 to 30 days' worth; the region's ttl by default. From now on every engine that is covered is
    covered for the class, too. May be called again with the same arguments.

    Raises ``ConfigurationError`` for a class that is not mapped (yet), for one that inherits from a mapped class, for
    concrete inheritance, for a ttl out of range, and for a class declared otherwise before.
    """
    if ttl is not None:
        CacheSettings(ttl=ttl)  # which checks it
    declaration = Declaration(cache, ttl)
    given: object = cache
    if not isinstance(given, str) or not given:
        raise ConfigurationError(f"cache={given!r:.120} is no name; give a string that is not empty")
    if entity is None:
        return lambda entity: _declare(entity, declaration)
    return _declare(entity, declaration)


def _declare(entity: type[T], declaration: Declaration) -> type[T]:
    mapper = find_mapper(entity)
    if mapper is None:
        raise ConfigurationError(
            f"{entity!r:.120} is not a mapped class; put @cached above a class that SQLAlchemy has mapped, and call "
            f"cached(...) after prepare() for one that it maps later"
        )
    if mapper.inherits is not None:
        root = mapper.base_mapper.class_.__name__
        raise ConfigurationError(f"{entity.__name__} inherits from {root}: declare {root}, which declares both")
    IdentityMapping(entity)  # which refuses what cannot be cached
    with _lock:
        is_new = entity not in _declared
        known = _declared.setdefault(entity, declaration)
    if known != declaration:
        raise ConfigurationError(f"{entity.__name__} is declared with {known} already, and now with {declaration}")
    try:
        _tell(entity)
    except BaseException:
        if is_new:
            _declared.pop(entity, None)
        raise
    return entity


def declaration_of(entity: type[Any]) -> Declaration | None:
    """The declaration of a mapped class, or of the root of its hierarchy; None if there is none."""
    mapper = find_mapper(entity)
    return None if mapper is None else _declared.get(mapper.base_mapper.class_)


def declared() -> Iterator[tuple[type[Any], Declaration]]:
    """All declared classes of this process, each with its declaration."""
    with _lock:
        pairs = [*_declared.items()]
    yield from pairs


def on_news(hook: Callable[[type[Any]], None]) -> None:
    """Call a function with each class that is declared from now on, and with each root to whose hierarchy a class is
    added, declared or not. It is called while the class is made, so what it raises is seen there.
    """
    _hooks.append(hook)


def _tell(entity: type[Any]) -> None:
    for hook in _hooks:
        hook(entity)


@event.listens_for(orm.Mapper, "after_mapper_constructed")
def _hear_of_subclass(mapper: orm.Mapper[Any], _: type[Any]) -> None:
    """A class is mapped: if it inherits from another, its tables count, too."""
    if mapper.inherits is not None:
        _tell(mapper.base_mapper.class_)


def _unlock() -> None:
    global _lock
    # A thread that does not exist in this process may hold the lock.
    _lock = threading.Lock()


on_fork(_unlock)
cached(Person)
