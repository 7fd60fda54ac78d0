"""The changes of a transaction, and the log of servers on which no tombstone can be placed."""

from __future__ import annotations

import logging

import pytest
from support.servers import Memcached

from person_repo.cache.contract import LeaseBackend
from person_repo.cache.memcached.backend import MemcachedBackend
from person_repo.cache.memory import MemoryBackend
from person_repo.testing import GROUP
from person_repo.writing.pending import Pending
from person_repo.writing.tombstones import PlacedTombstones

KEYS = [f"{GROUP}:s{number}" for number in range(30)]


def place_and_release(backend: MemcachedBackend, key: str) -> None:
    tombstones = PlacedTombstones()
    tombstones.place(backend, [key])
    tombstones.release({})


def levels(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.levelname for record in caplog.records if record.name == "person_repo.writing"]


def test_an_unreachable_server_is_logged_once_and_once_when_it_is_back(
    memcached_servers: list[Memcached], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "person_repo.writing")
    patient = {"timeout": 10.0, "connect_timeout": 10.0, "breaker_failures": 1_000_000}
    backend = MemcachedBackend({"servers": [server.url for server in memcached_servers], **patient})
    memcached_servers[1].kill()
    for key in KEYS:  # Some of them are on the server that is down.
        place_and_release(backend, key)

    assert levels(caplog) == ["WARNING"]
    assert memcached_servers[1].url in caplog.text
    unplaced = backend.counters.snapshot().unplaced
    assert 0 < unplaced < len(KEYS)

    memcached_servers[1].start()
    for key in KEYS:
        place_and_release(backend, key)

    assert levels(caplog) == ["WARNING", "INFO"]
    assert backend.counters.snapshot().unplaced == unplaced
    backend.close()


class Unfenced:
    """A database without a fence."""

    def fence_of(self, backend: LeaseBackend) -> None:
        return None

    def settle(self, pending: Pending) -> None:
        pass


def test_a_whole_group_takes_no_more_keys() -> None:
    backend = MemoryBackend({"max_keys": 2})
    pending = Pending(Unfenced())
    pending.add(backend, GROUP, KEYS[:2])
    assert not pending.has_whole(backend, GROUP)

    pending.add(backend, GROUP, KEYS[2:3])
    assert pending.has_whole(backend, GROUP)
    pending.place(None)

    spent = backend.counters.snapshot()
    assert (spent.tombstones, spent.model_drops) == (0, 1)


def test_a_suspected_group_is_whole_until_it_is_resolved() -> None:
    backend = MemoryBackend({})
    pending = Pending(Unfenced())
    pending.suspect(backend, GROUP)
    pending.suspect(backend, GROUP)
    pending.resolve(backend, GROUP)
    pending.place(None)
    assert pending.has_whole(backend, GROUP)
    pending.finish()

    pending.resolve(backend, GROUP)
    pending.add(backend, GROUP, KEYS[:1])
    pending.place(None)
    assert not pending.has_whole(backend, GROUP)
