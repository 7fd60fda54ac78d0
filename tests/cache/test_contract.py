"""Every backend passes the suite that authors of backends get."""

from __future__ import annotations

import time
import unittest
from typing import Any

import pytest
from support.servers import Memcached

from person_repo.cache.contract import LeaseBackend
from person_repo.cache.memcached.backend import MemcachedBackend
from person_repo.cache.memory import MemoryBackend
from person_repo.testing import GROUP, KEY, KEY_OF_OTHER_GROUP, OTHER_GROUP, OTHER_KEY, LeaseContract

ITEMS = (KEY, OTHER_KEY, KEY_OF_OTHER_GROUP, f"{GROUP}:!", f"{OTHER_GROUP}:!")
"""Short ttls at the servers, for the tests in which time passes."""


class TestMemory(LeaseContract):
    def make_backend(self, **arguments: int) -> MemoryBackend:
        self._now = 1000.0
        return MemoryBackend({**arguments, "clock": lambda: self._now})

    def forget(self, backend: LeaseBackend, key: str) -> None:
        assert isinstance(backend, MemoryBackend)
        backend.evict(key)

    def forget_group(self, backend: LeaseBackend, group: str) -> None:
        """Its epochs of groups are never evicted."""

    def restart(self, backend: LeaseBackend) -> None:
        assert isinstance(backend, MemoryBackend)
        backend.clear()

    def advance(self, backend: LeaseBackend, seconds: int) -> None:
        self._now += seconds


class TestMemcached(LeaseContract):
    too_large = 1_100_000

    @pytest.fixture(autouse=True)
    def _given_servers(self, memcached_servers: list[Memcached]) -> None:
        self.servers = memcached_servers[:1]

    def make_backend(self, **arguments: int) -> MemcachedBackend:
        self._ahead = 0
        self._arguments: dict[str, Any] = {
            "servers": [server.url for server in self.servers],
            "clock": lambda: time.time() + self._ahead,
            "timeout": 10.0,
            "connect_timeout": 10.0,
            **arguments,
        }
        return MemcachedBackend(self._arguments)

    def another(self, backend: LeaseBackend) -> MemcachedBackend:
        return MemcachedBackend(self._arguments)

    def forget(self, backend: LeaseBackend, key: str) -> None:
        assert sum("DELETED" in server.ask(f"delete {key}") for server in self.servers) == 1

    def forget_group(self, backend: LeaseBackend, group: str) -> None:
        for server in self.servers:
            server.ask(f"delete {group}:!")

    def restart(self, backend: LeaseBackend) -> None:
        for server in self.servers:
            server.restart()

    def advance(self, backend: LeaseBackend, seconds: int) -> None:
        """A server's clock cannot be set, but the seconds that its items have left can."""
        self._ahead += seconds
        for server in self.servers:
            for key in ITEMS:
                answer = server.ask(f"mg {key} t").split()
                if answer[0] == "HD":
                    remaining = int(answer[1].removeprefix("t"))
                    if remaining >= 0:  # else it never expires
                        server.ask(f"touch {key} {remaining - seconds if remaining > seconds else -1}")


class TestThreeMemcached(TestMemcached):
    @pytest.fixture(autouse=True)
    def _given_servers(self, memcached_servers: list[Memcached]) -> None:
        self.servers = memcached_servers


class TestWhatIsNotGiven:
    """A subclass that implements fewer hooks has fewer tests, and the reasons name the hooks."""

    class Suite(LeaseContract):
        def make_backend(self, **arguments: int) -> MemoryBackend:
            return MemoryBackend(arguments)

    @pytest.mark.parametrize(
        ("test", "missing"),
        [
            ("test_a_fill_is_refused_once_its_item_was_evicted", r"Suite gives no forget\(backend, key\): evictions"),
            ("test_old_values_do_not_come_back_when_the_groups_marker_is_lost", r"no forget_group\("),
            ("test_a_fill_is_refused_after_a_restart", r"no restart\(backend\): restarts are NOT tested"),
            ("test_the_tombstone_of_a_writer_that_died_ends", r"no advance\(backend, seconds\): expiry"),
            ("test_a_value_too_large_does_not_lift_a_tombstone", "too_large is None"),
        ],
    )
    def test_a_hook_that_is_missing_skips_its_tests_and_says_so(self, test: str, missing: str) -> None:
        suite = self.Suite()
        suite.setup_method()

        with pytest.raises(unittest.SkipTest, match=missing):
            getattr(suite, test)()
        suite.teardown_method()

    def test_the_backend_itself_cannot_be_left_out(self) -> None:
        suite = LeaseContract()
        suite.setup_method()

        with pytest.raises(NotImplementedError, match=r"make_backend\(\*\*arguments\)"):
            suite.test_a_lease_is_given_to_one_reader_only()
