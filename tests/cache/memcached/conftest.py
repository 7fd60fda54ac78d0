"""Backends over a server, and a door in front of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from support.exchanges import Connect, Raw
from support.servers import Memcached
from support.unruly import Door

from person_repo.cache.memcached.backend import MemcachedBackend


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Backends over servers, closed at the end; patient unless ``arguments`` say otherwise."""
    opened: list[MemcachedBackend] = []

    def make(*servers: Memcached | Door | str, **arguments: Any) -> MemcachedBackend:
        urls = [server if isinstance(server, str) else server.url for server in servers]
        # A test that wants a server left alone says so.
        patient = {"timeout": 10.0, "connect_timeout": 10.0, "breaker_failures": 1_000_000}
        backend = MemcachedBackend({"servers": urls, **patient, **arguments})
        opened.append(backend)
        return backend

    yield make
    for backend in opened:
        backend.close()


@pytest.fixture(params=["memcached_servers", "newer_memcached_servers"], ids=["memcached", "newer-memcached"])
def memcached_servers(request: pytest.FixtureRequest) -> list[Memcached]:
    """Three memcached servers of the version that all tests use, then of the newest tested."""
    servers: list[Memcached] = request.getfixturevalue(request.param)
    return servers


@pytest.fixture
def server(memcached_servers: list[Memcached]) -> Memcached:
    """One running, empty memcached."""
    return memcached_servers[0]


@pytest.fixture
def door(server: Memcached) -> Iterator[Door]:
    """A door in front of the server, whose answers a test may replace."""
    with Door(server.port) as door:
        yield door


@pytest.fixture
def raw(server: Memcached) -> Raw:
    """Plain requests to the server."""
    return Raw(server)
