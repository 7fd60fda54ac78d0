"""Values of which one reader gets the right to renew them: a ttl of four seconds, of which two are the last part."""

from __future__ import annotations

from support.exchanges import Connect, keys
from support.servers import Memcached

from person_repo.cache.contract import Expiring
from person_repo.cache.memcached.backend import MemcachedBackend
from person_repo.testing.contract import GROUP, KEY, NEW, OLD, store, take

SHORT = {"ttl": 4, "ttl_jitter": 0, "refresh_ahead": 0.5}


def expiring(backend: MemcachedBackend, server: Memcached) -> Expiring:
    store(backend, KEY, OLD)
    server.ask(f"mg {KEY} T1")
    found = backend.fetch(GROUP, KEY)
    assert isinstance(found, Expiring)
    assert found.value == OLD
    return found


def test_one_reader_may_renew_a_value_that_ends_soon_and_the_others_get_it(connect: Connect, server: Memcached) -> None:
    backend, another = connect(server, **SHORT), connect(server, **SHORT)
    found = expiring(backend, server)

    assert another.fetch(GROUP, KEY) == backend.fetch(GROUP, KEY) == OLD
    assert another.fetch_many(GROUP, [KEY]) == [OLD]
    backend.abandon([found.lease])
    assert another.fetch(GROUP, KEY) == OLD, "the value is good to its end"
    assert backend.fill(found.lease, NEW)
    assert another.fetch(GROUP, KEY) == NEW
    assert server.ask(f"mg {KEY} t") in ("HD t4\r\n", "HD t3\r\n")


def test_a_value_that_was_changed_meanwhile_is_not_renewed(connect: Connect, server: Memcached) -> None:
    backend, writer = connect(server, **SHORT), connect(server)
    found = expiring(backend, server)
    tombstones = writer.put_tombstones([KEY])

    assert not backend.fill(found.lease, OLD)
    writer.release(tombstones)
    take(writer)
    assert not backend.fill(found.lease, OLD)


def test_renewal_can_be_turned_off(connect: Connect, server: Memcached) -> None:
    backend = connect(server, ttl=4, refresh_ahead=0)
    store(backend, KEY, OLD)
    server.ask(f"mg {KEY} T1")

    assert backend.fetch(GROUP, KEY) == OLD


def test_values_live_shorter_by_a_random_part(connect: Connect, server: Memcached) -> None:
    backend = connect(server, ttl=1000, ttl_jitter=0.5)
    lives = set()
    for key in keys(50):
        store(backend, key, OLD)
        lives.add(int(server.ask(f"mg {key} t").split("t")[1]))

    assert len(lives) > 10
    assert 499 <= min(lives) <= max(lives) <= 1000
