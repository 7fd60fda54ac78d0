"""From a cache URL to a configured dogpile region, and from a region to the lease contract behind it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dogpile.cache
from dogpile.cache import CacheRegion, register_backend

from person_repo.cache.contract import LeaseBackend
from person_repo.cache.foreign import ForeignBackend
from person_repo.exceptions import ConfigurationError
from person_repo.settings import CacheSettings, parse_cache_url

__all__ = ["lease_backend", "make_region", "region_of"]

_BACKENDS = {
    "memcached": ("person_repo.cache.memcached.backend", "MemcachedBackend"),
    "memory": ("person_repo.cache.memory", "MemoryBackend"),
    "null": ("person_repo.cache.null", "NullBackend"),
}
"""The module and the class behind each cache URL's scheme. dogpile imports a module when its backend is first used."""

for _scheme, _place in _BACKENDS.items():
    register_backend(f"person_repo.{_scheme}", *_place)  # type: ignore[no-untyped-call]


def make_region(
    url: str,
    *,
    serializer: Callable[[Any], bytes] | None = None,
    deserializer: Callable[[bytes], Any] | None = None,
    **options: Any,
) -> CacheRegion:
    """A dogpile region over the cache that a URL names.

    ``url``: ``memory://``, ``memcached://host[:port][,host[:port]...]``, ``memcached:///path/to.sock`` or
    ``null://``, with any option as ``?name=value``. ``options``: fields of ``CacheSettings``; they win over the
    URL's. ``serializer`` and ``deserializer``: for values that the host itself keeps in the region (``region.set``,
    ``cache_on_arguments``); no entity passes through them. Opens no connection.

    Raises ``ConfigurationError`` for an unknown scheme or option, a value out of range, or only one of the two.
    """
    if (serializer is None) != (deserializer is None):
        lacking = "deserializer" if deserializer is None else "serializer"
        raise ConfigurationError(f"{lacking}= is missing: values would never be read again; give both, or neither")
    parsed = parse_cache_url(url)
    chosen = {**parsed.options, **options}
    settings = CacheSettings().with_options(chosen)
    arguments = {**chosen, "servers": parsed.servers} if parsed.servers else chosen
    region = dogpile.cache.make_region(name=settings.namespace, serializer=serializer, deserializer=deserializer)
    return region.configure(f"person_repo.{parsed.scheme}", expiration_time=settings.ttl, arguments=arguments)


def region_of(cache: CacheRegion | str) -> CacheRegion:
    """The region itself, or the one that a cache URL names.

    Raises ``ConfigurationError`` for a region that is not configured, or anything else.
    """
    if isinstance(cache, str):
        return make_region(cache)
    if not isinstance(cache, CacheRegion):
        raise ConfigurationError(f"{cache!r:.120} is neither a dogpile CacheRegion nor a cache URL")
    if not cache.is_configured:
        raise ConfigurationError("the region is not configured; call region.configure(...) before it is used here")
    return cache


def lease_backend(region: CacheRegion, **options: Any) -> LeaseBackend:
    """The backend of a configured region that speaks the lease contract: its own, below any ``ProxyBackend``, or a
    ``ForeignBackend`` over it.

    Two calls for one region give one backend: leases and counters are shared. ``options``: fields of
    ``CacheSettings`` for a region of somebody else's backend, to be given once and before the first service over it.

    Raises ``ConfigurationError`` for options that come too late, or for a region of ours, which takes them when it is
    made.
    """
    backend = region.actual_backend
    known = backend if isinstance(backend, LeaseBackend) else region.__dict__.get("_person_repo_backend")
    if known is None:
        known = region.__dict__.setdefault("_person_repo_backend", ForeignBackend(region, **options))
    elif options:
        raise ConfigurationError(
            f"{next(iter(options))}= comes too late: a region of this package takes options where it is made, any "
            "other before the first service over it"
        )
    backend_of_region: LeaseBackend = known
    return backend_of_region
