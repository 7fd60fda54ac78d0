"""dogpile.cache's own suites for backends, as it ships them, on each of ours.

One of their tests is not as they have it: it gives unknown arguments, which these backends refuse by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from dogpile.cache import CacheRegion
from dogpile.cache.api import NO_VALUE
from dogpile.testing.fixtures import (
    _GenericBackendFixture,
    _GenericBackendTestSuite,
    _GenericMutexTestSuite,
    _GenericSerializerTestSuite,
)
from support.servers import Memcached

from person_repo.exceptions import ConfigurationError

# Threads that sleep: three quarters of a minute in all.
pytestmark = pytest.mark.proof(name="interleavings", sample=1 / 4)


class _Ours:
    """What the suites are run on: a backend and its arguments."""

    backend: str
    config_args: dict[str, Any]

    def test_argument_dictionary_unmodified(self) -> None:
        """In the place of dogpile's, whose unknown arguments are an error here: a misspelt option is no option."""
        arguments = dict(self.config_args["arguments"])
        CacheRegion().configure(self.backend, arguments=arguments)
        assert arguments == self.config_args["arguments"]

        with pytest.raises(ConfigurationError, match="unknown cache option 'arbitrary_arg_one'"):
            CacheRegion().configure(self.backend, arguments={**arguments, "arbitrary_arg_one": "foo"})


class _Memory(_Ours):
    backend = "person_repo.memory"
    config_args = {"arguments": {"max_items": 1000}}


class _Memcached(_Ours):
    backend = "person_repo.memcached"
    config_args = {"arguments": {"url": ["127.0.0.1:1"]}}  # until there are servers
    lock: dict[str, Any] = {}

    @pytest.fixture(autouse=True)
    def _given_servers(self, memcached_servers: list[Memcached], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        urls = [server.url for server in memcached_servers]
        arguments = {"url": urls, "timeout": 10.0, "connect_timeout": 10.0, **self.lock}
        monkeypatch.setattr(type(self), "config_args", {"arguments": arguments})
        yield
        for used in (self._region_inst and self._region_inst.actual_backend, self._backend_inst):  # type: ignore[attr-defined]
            if used:
                used.close()


class _Locking(_Memcached):
    lock = {"distributed_lock": True, "lock_timeout": 30}


class TestMemory(_Memory, _GenericBackendTestSuite):
    test_threaded_get_multi = None  # It sleeps for ten seconds, and is run on memcached.


class TestSerializerOfMemory(_Memory, _GenericSerializerTestSuite, _GenericBackendFixture):
    pass


class TestMemcached(_Memcached, _GenericBackendTestSuite):
    pass


class TestSerializerOfMemcached(_Memcached, _GenericSerializerTestSuite, _GenericBackendFixture):
    pass


class TestMemcachedWithDistributedLock(_Locking, _GenericBackendTestSuite):
    test_threaded_get_multi = None  # As above.


class TestMutexOfMemcached(_Locking, _GenericMutexTestSuite):
    pass


class TestNull(_GenericBackendFixture):
    """As dogpile tests its own null backend: its suites expect values to be kept, and a lock to exclude others."""

    backend = "person_repo.null"
    config_args = {"arguments": {}}

    def test_everything_is_a_miss(self) -> None:
        region = self._region()
        region.set("key", "value")
        region.set_multi({"key": "value", "other": "value"})

        assert region.get("key") is NO_VALUE
        assert region.get_multi(["key", "other"]) == [NO_VALUE, NO_VALUE]
        region.delete("key")
        region.delete_multi(["key", "other"])
        assert region.get_or_create("key", lambda: "created") == "created"

    def test_the_lock_is_everyones(self) -> None:
        mutex = self._region().backend.get_mutex("key")

        assert mutex.acquire()
        assert mutex.acquire(False)
        assert not mutex.locked()
        mutex.release()
