"""Which server holds a key."""

from __future__ import annotations

import pytest
from support.exchanges import Connect, home, keys
from support.servers import Memcached

from person_repo.cache.contract import UNREACHABLE
from person_repo.cache.memcached.backend import MemcachedBackend
from person_repo.cache.memcached.placement import placement
from person_repo.testing.contract import GROUP, OLD, store

PLACES = {
    "pr:crm:person:sada": "10.0.0.2:11211",
    "pr:crm:person:sgrace": "10.0.0.1:11211",
    "pr:crm:person:salan": "10.0.0.1:11211",
    "pr:crm:person:i1": "10.0.0.1:11211",
    "pr:crm:person:i3": "10.0.0.2:11211",
    "pr:crm:person:i5": "10.0.0.3:11211",
    "pr:crm:team:h0123456789abcdef": "10.0.0.1:11211",
    "pr:crm:person:s%C3%A9": "10.0.0.1:11211",
}
SERVERS = ("10.0.0.1:11211", "10.0.0.2:11211", "10.0.0.3:11211")
KEYS = tuple(f"pr:crm:person:i{number}" for number in range(9000))


def places(servers: tuple[str, ...]) -> dict[str, str]:
    server_of = placement(servers)
    return {key: server_of(key) for key in KEYS}


@pytest.mark.parametrize(("key", "place"), PLACES.items())
def test_keys_stay_where_earlier_releases_put_them(key: str, place: str) -> None:
    """Elsewhere, a process of the release before would neither find nor invalidate them."""
    assert placement(SERVERS)(key) == place
    assert MemcachedBackend({"servers": SERVERS}).places_of(GROUP, key)[0] == (place, key)


def test_the_order_of_the_servers_does_not_matter() -> None:
    assert places(SERVERS) == places(SERVERS[::-1])


def test_keys_are_spread_about_evenly() -> None:
    found = list(places(SERVERS).values())

    assert all(2700 < found.count(server) < 3300 for server in SERVERS)


def test_a_server_more_takes_its_share_and_moves_nothing_else() -> None:
    before = places(SERVERS)
    after = places((*SERVERS, "10.0.0.4:11211"))

    moved = {key for key in KEYS if before[key] != after[key]}
    assert {after[key] for key in moved} == {"10.0.0.4:11211"}
    assert 2000 < len(moved) < 2500


def test_a_server_less_moves_its_own_keys_only() -> None:
    before = places(SERVERS)
    after = places(SERVERS[:2])

    assert {before[key] for key in KEYS if before[key] != after[key]} == {SERVERS[2]}


def test_keys_do_not_move_when_their_server_is_down(connect: Connect, memcached_servers: list[Memcached]) -> None:
    """A value left on another server would be old when its key moves there again."""
    backend = connect(*memcached_servers)
    for key in keys(30):
        store(backend, key, OLD)
    memcached_servers[0].kill()

    found = backend.fetch_many(GROUP, keys(30))

    down = [key for key in keys(30) if home(backend, key) == memcached_servers[0].url]
    assert down
    assert found == [UNREACHABLE if key in down else OLD for key in keys(30)]
    assert [backend.fetch(GROUP, key) for key in down] == [UNREACHABLE] * len(down)
