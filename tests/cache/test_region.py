from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import dogpile.cache
import pytest
import sqlalchemy as sa
from dogpile.cache import CacheRegion
from dogpile.cache.api import NO_VALUE, CacheBackend
from dogpile.cache.proxy import ProxyBackend
from sqlalchemy import orm

from person_repo.cache.contract import UNREACHABLE, Lease, LeaseBackend
from person_repo.cache.foreign import ForeignBackend
from person_repo.cache.memcached.backend import MemcachedBackend
from person_repo.cache.memory import MemoryBackend
from person_repo.cache.null import NullBackend
from person_repo.cache.region import lease_backend, make_region, region_of
from person_repo.exceptions import ConfigurationError
from person_repo.model import Base, Person
from person_repo.service import PersonService, connect

GROUP = "pr:test:person"
KEY = f"{GROUP}:sada"
OTHER_KEY = f"{GROUP}:seve"

ADA = Person(id="ada", first_name="Ada", last_name="Lovelace")
AUGUSTA = Person(id="ada", first_name="Augusta", last_name="King")


class Quiet(ProxyBackend):
    """A proxy of the host's own, which notes the calls."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def get_multi(self, keys: Iterable[str]) -> Sequence[Any]:
        asked = list(keys)
        self.seen += asked
        return self.proxied.get_multi(asked)


class Failing(CacheBackend):
    """A backend whose server can be out of order."""

    down: set[str]

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self.items: dict[str, Any] = {}
        self.down = set()

    def _use(self, name: str) -> None:
        if name in self.down:
            raise ConnectionError(f"no {name} today")

    def get(self, key: str) -> Any:
        self._use("get")
        return self.items.get(key, NO_VALUE)

    def set(self, key: str, value: Any) -> None:
        self._use("set")
        self.items[key] = value

    def delete(self, key: str) -> None:
        self._use("delete")
        self.items.pop(key, None)

    def get_multi(self, keys: Iterable[str]) -> list[Any]:
        return [self.get(key) for key in keys]

    def set_multi(self, mapping: Mapping[str, Any]) -> None:
        for key, value in mapping.items():
            self.set(key, value)

    def delete_multi(self, keys: Iterable[str]) -> None:
        for key in keys:
            self.delete(key)


dogpile.cache.register_backend("person_repo_tests.failing", __name__, "Failing")  # type: ignore[no-untyped-call]


# Secrets

WAYS_TO_MAKE_A_CACHE: dict[str, Callable[[str], object]] = {
    "a region": lambda secret: make_region("memory://", secret=secret),
    "a region by URL": lambda secret: make_region(f"memory://?secret={secret}"),
    "a service": lambda secret: connect("sqlite://", "null://", secret=secret),
    "a backend": lambda secret: MemoryBackend({"secret": secret}),
    "a region of others": lambda secret: lease_backend(
        dogpile.cache.make_region().configure("dogpile.cache.memory"), secret=secret
    ),
}


@pytest.mark.parametrize("make", WAYS_TO_MAKE_A_CACHE.values(), ids=WAYS_TO_MAKE_A_CACHE)
def test_a_secret_that_cannot_seal_is_refused_where_the_cache_is_made_and_not_shown(
    make: Callable[[str], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigurationError, match="secret is shorter than 16 bytes") as short:
        make("QXQXQXQXQXQXQXQ")
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers.aead", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'person-repo\[cryptography\]'") as missing:
        make("QXQXQXQXQXQXQXQX")

    assert "QX" not in f"{short.value} {missing.value}"


# Of our own


@pytest.mark.parametrize(
    ("url", "backend", "coherence"),
    [
        ("memory://", MemoryBackend, "process"),
        ("memcached://127.0.0.1:1", MemcachedBackend, "strict"),
        ("memcached:///no/such/socket", MemcachedBackend, "strict"),
        ("null://", NullBackend, "strict"),
    ],
)
def test_a_cache_url_becomes_a_configured_region_and_nothing_is_connected(
    url: str, backend: type[LeaseBackend], coherence: str
) -> None:
    region = make_region(url)

    assert isinstance(region, CacheRegion)
    assert region.is_configured
    assert type(lease_backend(region)) is backend
    assert lease_backend(region) is region.backend
    assert lease_backend(region).coherence == coherence


def test_options_of_the_call_win_over_those_of_the_url() -> None:
    region = make_region("memcached://a,b:2?ttl=60&timeout=0.5&namespace=erp", ttl=90, namespace="crm")
    backend = lease_backend(region)

    assert isinstance(backend, MemcachedBackend)
    assert backend.servers == ("a:11211", "b:2")
    assert (backend.settings.ttl, backend.settings.timeout, backend.settings.namespace) == (90, 0.5, "crm")
    assert region.expiration_time == 90
    assert region.name == "crm"


def test_a_region_of_ours_is_a_plain_dogpile_region_too(cache_url: str) -> None:
    region = make_region(cache_url)
    assert region.get("answer") is NO_VALUE
    region.set("answer", {"is": [42]})
    assert region.get("answer") == {"is": [42]}
    assert region.get_or_create("answer", lambda: "never called") == {"is": [42]}
    assert region.get_or_create("other", lambda: 43) == 43
    region.delete("answer")
    assert region.get_multi(["answer", "other"]) == [NO_VALUE, 43]
    lease_backend(region).close()


def test_a_hosts_items_in_the_region_and_ours_are_apart(cache_url: str, people: sa.Engine) -> None:
    region = make_region(cache_url)
    with PersonService.over(people, region) as service:
        service.get("ada")
        key, _ = service.cached.keys.key_of(("ada",))
        region.set(key, "the host's own")
        assert service.get("ada") == ADA
        assert service.stats().rejected == 0
        assert region.get(key) == "the host's own"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("nowhere://", "memcached://, memory://, null://"),
        ("memory", "no known scheme"),
        ("", "no known scheme"),
        ("memory://host", "takes no server"),
        ("memcached://", "no server"),
        ("memory://?size=3", "unknown cache option 'size'"),
        ("memory://?ttl=0", "ttl"),
        ("memory://?ttl=long", "ttl"),
        ("memcached://a?timeout=0", "timeout"),
        ("memory://?namespace=a b", "namespace"),
    ],
)
def test_a_cache_url_that_cannot_be_used_is_refused_with_the_reason(url: str, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        make_region(url)
    with pytest.raises(ConfigurationError, match=reason):
        region_of(url)


def test_options_that_cannot_be_used_are_refused() -> None:
    for options in ({"size": 3}, {"ttl": 0}, {"ttl": "long"}, {"namespace": ""}, {"max_items": 0}, {"servers": ["a"]}):
        with pytest.raises(ConfigurationError):
            make_region("memory://", **options)


def test_a_configured_region_can_stand_for_a_cache_url() -> None:
    region = make_region("memory://")

    assert region_of(region) is region
    assert isinstance(region_of("memory://"), CacheRegion)
    with pytest.raises(ConfigurationError, match="configure"):
        region_of(dogpile.cache.make_region())
    for neither in (None, 1, b"memory://", MemoryBackend({})):
        with pytest.raises(ConfigurationError, match="CacheRegion"):
            region_of(neither)  # type: ignore[arg-type]


def test_a_proxy_around_ours_does_not_hide_the_contract() -> None:
    region = make_region("memory://")
    region.wrap(Quiet)

    assert isinstance(lease_backend(region), MemoryBackend)
    assert lease_backend(region).coherence == "process"


def test_ours_configured_by_name_in_dogpiles_own_way(people: sa.Engine, memcached_servers: list[Any]) -> None:
    arguments = {"servers": [server.url for server in memcached_servers], "namespace": "crm"}
    region = dogpile.cache.make_region().configure("person_repo.memcached", arguments=arguments)
    with PersonService.over(people, region) as service:
        assert service.coherence == "strict"
        assert service.cached.group == "pr:crm:person"
        service.get("ada")
        service.get("ada")
        assert service.stats().hits == 1


# Of anybody's


@pytest.fixture
def people(tmp_path: Path) -> Iterator[sa.Engine]:
    """A database with one person in it."""
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'region.db'}")
    Base.metadata.create_all(engine)
    with orm.Session(engine) as session, session.begin():
        session.add(Person(id="ada", first_name="Ada", last_name="Lovelace"))
    yield engine
    engine.dispose()


Foreign = Callable[[], CacheRegion]


@pytest.fixture(params=["memory", "memory_pickle", "dbm", "json", "proxied", "mangled", "null"])
def foreign(request: pytest.FixtureRequest, tmp_path: Path) -> CacheRegion:
    """Regions as hosts have them."""
    new = dogpile.cache.make_region
    dbm = {"filename": str(tmp_path / "cache.dbm")}
    made: dict[str, Foreign] = {
        "memory": lambda: new().configure("dogpile.cache.memory"),
        "memory_pickle": lambda: new().configure("dogpile.cache.memory_pickle", expiration_time=60),
        "dbm": lambda: new().configure("dogpile.cache.dbm", arguments=dbm),
        "json": lambda: new(
            serializer=lambda value: json.dumps(value).encode(), deserializer=json.loads
        ).configure("dogpile.cache.dbm", arguments=dbm),
        "proxied": lambda: new().configure("dogpile.cache.memory", wrap=[Quiet]),
        "mangled": lambda: new(key_mangler=lambda key: key[::-1]).configure("dogpile.cache.memory"),
        "null": lambda: new().configure("dogpile.cache.null"),
    }  # fmt: skip
    return made[request.param]()


def test_any_dogpile_region_can_be_used(foreign: CacheRegion, people: sa.Engine) -> None:
    keeps = foreign.backend.__class__.__name__ != "NullBackend"
    with PersonService.over(people, foreign) as service:
        assert service.coherence == "best-effort"
        for _ in range(3):
            assert service.get("ada") == ADA
            assert service.get("nobody") is None
            assert service.get_many(["nobody", "ada"]) == {"ada": ADA}
        assert service.stats().hits == (10 if keeps else 0)
        assert service.stats().errors == 0
        service.update("ada", first_name="Augusta", last_name="King")
        assert service.get("ada") == AUGUSTA
        service.add(Person(id="nobody", first_name="N", last_name="N"))
        assert service.exists("nobody")
        with people.begin() as connection:
            connection.execute(sa.delete(Person))
        assert service.get_many(["nobody", "ada"]) == {}


def test_a_foreign_regions_items_can_be_dropped(foreign: CacheRegion, people: sa.Engine) -> None:
    other = sa.create_engine(people.url)  # covered by nobody
    rename = sa.update(Person).values(first_name="Augusta", last_name="King")
    with PersonService.over(people, foreign) as service:
        assert service.get("ada") == ADA
        with other.begin() as connection:
            connection.execute(rename)
        service.invalidate("ada")
        assert service.get("ada") == AUGUSTA
        with other.begin() as connection:
            connection.execute(sa.delete(Person))
        service.invalidate_all()
        assert service.get("ada") is None
    other.dispose()


def test_proxies_of_a_foreign_region_see_what_passes(people: sa.Engine) -> None:
    region = dogpile.cache.make_region().configure("dogpile.cache.memory", wrap=[Quiet])
    with PersonService.over(people, region) as service:
        service.get("ada")

    assert isinstance(region.backend, Quiet)
    assert any(re.fullmatch(r"pr:person_repo:person:\w{16}sada", key) for key in region.backend.seen)


def test_an_item_that_the_host_invalidates_is_a_miss(people: sa.Engine) -> None:
    region = dogpile.cache.make_region().configure("dogpile.cache.memory")
    with PersonService.over(people, region) as service:
        service.get("ada")
        service.get("ada")
        region.invalidate()
        service.get("ada")
        assert (service.stats().hits, service.stats().misses) == (1, 2)


def test_services_over_one_foreign_region_share_its_counters_and_not_their_items(people: sa.Engine) -> None:
    region = dogpile.cache.make_region().configure("dogpile.cache.memory")
    one, two = PersonService.over(people, region), PersonService.over(people, region)
    assert one.cached.backend is two.cached.backend is lease_backend(region)
    one.get("ada")

    assert two.get("ada") == ADA
    assert two.stats().hits == 1
    assert one.stats().round_trips == two.stats().round_trips
    one.close()


def test_a_foreign_item_that_is_nothing_of_ours_is_a_miss() -> None:
    region = dogpile.cache.make_region().configure("dogpile.cache.memory")
    backend = ForeignBackend(region)
    lease = backend.fetch(GROUP, KEY)
    assert isinstance(lease, Lease)
    assert backend.fill(lease, b"value")
    assert backend.fetch(GROUP, KEY) == b"value"
    assert isinstance(backend.fetch(GROUP, KEY, reject=b"value"), Lease)
    for nothing in (None, 1, b"value", "", "value", "%%%%", "ä", ["value"]):
        region.set(KEY, nothing)
        assert isinstance(backend.fetch(GROUP, KEY), Lease)
        region.set(f"{GROUP}:!", nothing)
        assert isinstance(backend.fetch(GROUP, KEY), Lease)


def test_a_foreign_item_that_is_empty_is_a_value() -> None:
    backend = ForeignBackend(dogpile.cache.make_region().configure("dogpile.cache.memory"))
    (lease, _) = backend.fetch_many(GROUP, [KEY, OTHER_KEY])
    assert isinstance(lease, Lease)
    assert backend.fill(lease, b"")

    assert backend.fetch(GROUP, KEY) == b""


def test_a_foreign_region_that_fails_costs_no_read_and_no_write_and_the_log_says_so_once(
    people: sa.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    region = dogpile.cache.make_region().configure("person_repo_tests.failing")
    service = PersonService.over(people, region)
    service.get("ada")
    failing = region.actual_backend
    assert isinstance(failing, Failing)
    failing.down = {"get", "set", "delete"}
    with caplog.at_level(logging.INFO, "person_repo"):
        for _ in range(3):
            assert service.get("ada") == ADA
            assert service.get_many(["ada", "nobody"]) == {"ada": ADA}
        service.add(Person(id="eve", first_name="E", last_name="E"))
        failing.down = set()
        assert service.get("eve") is not None
        assert service.get("ada") == ADA
    said = [record.getMessage() for record in caplog.records if record.name == "person_repo.cache"]
    assert [line for line in said if "fails" in line and "get_multi" in line] == [said[0]]
    assert said[-1] == "get_multi of the cache region works again"
    assert "no get today" in said[0]
    assert service.stats().errors == 6 + 2
    assert service.stats().bypasses == 3 * 3
    service.close()


def test_a_foreign_region_that_only_reads_is_no_noise(people: sa.Engine, caplog: pytest.LogCaptureFixture) -> None:
    region = dogpile.cache.make_region().configure("person_repo_tests.failing")
    service = PersonService.over(people, region)
    failing = region.actual_backend
    assert isinstance(failing, Failing)
    failing.down = {"set"}
    with caplog.at_level(logging.INFO, "person_repo"):
        for _ in range(5):
            assert service.get("ada") == ADA

    assert len([record for record in caplog.records if record.name == "person_repo.cache"]) == 2  # set and set_multi
    assert service.stats().fills == 0
    service.close()


def test_tombstones_that_a_foreign_region_did_not_take_are_named() -> None:
    region = dogpile.cache.make_region().configure("person_repo_tests.failing")
    backend = ForeignBackend(region)
    assert backend.put_tombstones([KEY], [GROUP]).complete
    failing = region.actual_backend
    assert isinstance(failing, Failing)
    failing.down = {"delete", "get"}
    placed = backend.put_tombstones([KEY], [GROUP])

    assert (placed.failed_keys, placed.failed_groups) == (frozenset({KEY}), frozenset({GROUP}))
    assert backend.fetch(GROUP, KEY) is UNREACHABLE
    assert backend.fetch_many(GROUP, [KEY, OTHER_KEY]) == [UNREACHABLE, UNREACHABLE]
    backend.release(placed)


def test_a_foreign_backend_is_not_asked_by_dogpiles_face() -> None:
    """The region it stands on has one of its own."""
    backend = ForeignBackend(dogpile.cache.make_region().configure("dogpile.cache.memory"))
    for ask in (backend.get_serialized, backend.delete, lambda key: backend.set_serialized(key, b"")):
        with pytest.raises(NotImplementedError, match="region"):
            ask(KEY)
