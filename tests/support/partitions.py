"""A process that cannot reach memcached servers which others reach."""

from __future__ import annotations

from support.servers import free_port

from person_repo.cache.memcached.backend import MemcachedBackend
from person_repo.cache.region import lease_backend
from person_repo.service import PersonService

__all__ = ["backend_of", "cut_off", "heal"]


def backend_of(people: PersonService) -> MemcachedBackend:
    backend = lease_backend(people.region)
    assert isinstance(backend, MemcachedBackend)
    return backend


def cut_off(people: PersonService, *servers: str) -> None:
    """From now on this process reaches nobody at the addresses of these servers, or of all servers if none is named."""
    backend = backend_of(people)
    backend.addresses = dict.fromkeys(servers or backend.servers, f"127.0.0.1:{free_port()}")
    backend.close()


def heal(people: PersonService) -> None:
    """The servers can be reached again, and the circuits of this process are closed."""
    backend = backend_of(people)
    backend.addresses = {}
    while not all(breaker.is_closed and not breaker.is_failing for breaker in backend._pool.breakers.values()):
        backend.fetch_many("probe", [f"probe:{n}" for n in range(50)])
