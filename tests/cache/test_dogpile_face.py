"""The backends as plain dogpile backends, configured by name, without anything else of this package."""

from __future__ import annotations

import collections
import datetime
import decimal
import enum
import importlib.metadata
import pickle
import subprocess
import sys
import threading
import time
import uuid
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import hypothesis
import pytest
from dogpile.cache import CacheRegion, make_region
from dogpile.cache.api import NO_VALUE, CantDeserializeException
from dogpile.cache.proxy import ProxyBackend
from hypothesis import strategies as st
from support.exchanges import Raw, keys_on
from support.servers import Memcached

from person_repo.cache import values
from person_repo.cache.contract import LeaseBackend
from person_repo.cache.memcached.backend import MemcachedBackend
from person_repo.cache.memory import MemoryBackend
from person_repo.cache.region import make_region as make_region_by_url
from person_repo.exceptions import CacheUnavailableError, ConfigurationError

VALUES = [None, False, 0, "", b"", [], {}, 1.5, -(2**63), "Corbató", b"\x00\xff\r\n", [1, ["two", {"three": None}]]]
BERLIN = ZoneInfo("Europe/Berlin")
TYPED_VALUES = [
    (),
    (1, ("two", [3, {4}])),
    {1, 2},
    frozenset({(1, 2)}),
    {(1, "a"): {"b": (None,)}},
    {1: "a", 2.5: "b", None: "c", b"d": "e", False: "f"},
    2**64 - 1,
    2**64,
    -(2**63) - 1,
    -(2**10_000),
    {2**70: 1, "a": 2},
    -0.0,
    datetime.datetime(2026, 1, 2, 3, 4, 5, 6),
    datetime.datetime(1, 1, 1, tzinfo=datetime.UTC),
    datetime.datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN),
    datetime.datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=1),
    datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone(datetime.timedelta(hours=1))),
    datetime.date(2026, 1, 2),
    datetime.time(3, 4, 5, 6, fold=1),
    datetime.time(3, tzinfo=datetime.timezone(datetime.timedelta(hours=-5, seconds=-1), "somewhere")),
    datetime.timedelta(-3, 4, 5),
    BERLIN,
    decimal.Decimal("1.10"),
    decimal.Decimal("-0"),
    decimal.Decimal("1E+999999"),
    decimal.Decimal("Infinity"),
    uuid.UUID(int=7),
]
"""What msgpack itself has no type for."""


class Color(enum.IntEnum):
    """An int that is none."""

    RED = 1


class Pair(NamedTuple):
    """A tuple that is none."""

    left: int
    right: int


@dataclass
class Point:
    """Somebody's own class."""

    x: int


class CustomZone(datetime.tzinfo):
    """A time zone of the host's own."""


def endless() -> list[Any]:
    """A list that holds itself."""
    endless: list[Any] = []
    endless.append(endless)
    return endless


REFUSED_VALUES = {
    "Color": Color.RED,
    "Pair": Pair(1, 2),
    "Point": Point(1),
    "OrderedDict": collections.OrderedDict(a=1),
    "defaultdict": [collections.defaultdict(int)],
    "bytearray": {"deep": [(bytearray(b"x"),)]},
    "object": object(),
    "complex": 1j,
    "list is nested too deep": endless(),
    "half a surrogate pair": ["\ud83d"],
    "CustomZone": datetime.datetime(2026, 1, 2, tzinfo=CustomZone()),
    "function": endless,
}
"""What would come back as another type, by what the message says of it."""

ODD_KEYS = [
    "",
    " ",
    "a b",
    "a\r\nflush_all\r\n",
    "tab\tand\x00nul\x7f",
    "Corbató",
    "\U0001f511",
    "half a character \ud83d",
    "#",
    "k" * 246,
    "k" * 247,
    "k" * 100_000,
    "é" * 300,
    "k" * 99_999 + "!",
]


@pytest.fixture(params=["memory", "memcached"])
def region(request: pytest.FixtureRequest) -> Iterator[CacheRegion]:
    """A region over an empty backend, configured by name."""
    if request.param == "memory":
        yield make_region().configure("person_repo.memory")
        return
    region = over(request.getfixturevalue("memcached_servers"))
    yield region
    region.actual_backend.close()


def over(servers: list[Memcached], **arguments: Any) -> CacheRegion:
    arguments = {
        "servers": [server.url for server in servers],
        "timeout": 10.0,
        "connect_timeout": 10.0,
        "breaker_failures": 99,
        **arguments,
    }
    return make_region().configure("person_repo.memcached", arguments=arguments)


class TestRegion:
    @pytest.mark.parametrize("value", VALUES, ids=repr)
    def test_a_value_comes_back(self, region: CacheRegion, value: object) -> None:
        region.set("key", value)

        found = region.get("key")
        assert found == value
        assert type(found) is type(value)

    @pytest.mark.parametrize("value", TYPED_VALUES, ids=lambda value: repr(value)[:60])
    def test_a_hit_is_of_the_type_that_was_created(self, region: CacheRegion, value: object) -> None:
        assert region.get_or_create("key", lambda: value) is value

        found = region.get_or_create("key", lambda: pytest.fail("no hit"))
        assert found == value
        assert repr(found) == repr(value), "a part is of another type"
        assert type(found) is type(value)

    def test_an_absent_key_is_no_value(self, region: CacheRegion) -> None:
        assert region.get("key") is NO_VALUE
        assert region.get_multi(["key", "other"]) == [NO_VALUE, NO_VALUE]

    def test_a_deleted_key_is_no_value(self, region: CacheRegion) -> None:
        region.set("key", 1)
        region.delete("key")
        region.delete("never there")

        assert region.get("key") is NO_VALUE

    def test_many_are_set_got_and_deleted_at_once(self, region: CacheRegion) -> None:
        region.set_multi({f"key{number}": number for number in range(50)})

        assert region.get_multi([f"key{number}" for number in range(51)]) == [*range(50), NO_VALUE]
        region.delete_multi([f"key{number}" for number in range(0, 50, 2)])
        assert region.get_multi([f"key{number}" for number in range(4)]) == [NO_VALUE, 1, NO_VALUE, 3]

    def test_a_value_is_created_once(self, region: CacheRegion) -> None:
        made: list[str] = []

        def create() -> str:
            made.append("made")
            return f"value {len(made)}"

        assert [region.get_or_create("key", create) for _ in range(3)] == ["value 1"] * 3

    def test_many_values_are_created_once(self, region: CacheRegion) -> None:
        region.set("b", "there")
        asked: list[tuple[str, ...]] = []

        def create(*keys: str) -> list[str]:
            asked.append(keys)
            return [f"made {key}" for key in keys]

        for _ in range(2):
            assert region.get_or_create_multi(["a", "b", "c"], create) == ["made a", "there", "made c"]
        assert [sorted(keys) for keys in asked] == [["a", "c"]]

    def test_a_decorated_function_is_called_once(self, region: CacheRegion) -> None:
        calls: list[int] = []

        @region.cache_on_arguments()  # type: ignore[untyped-decorator]
        def double(number: int) -> int:
            calls.append(number)
            return 2 * number

        assert [double(2), double(2), double(3)] == [4, 4, 6]
        double.invalidate(2)
        assert double(2) == 4
        assert calls == [2, 3, 2]

    def test_invalidating_the_region_makes_its_values_misses(self, region: CacheRegion) -> None:
        region.set("key", 1)
        region.invalidate()

        assert region.get("key") is NO_VALUE

    def test_another_value_replaces_the_first(self, region: CacheRegion) -> None:
        region.set("key", 1)
        region.set("key", 2)

        assert region.get("key") == 2

    def test_each_reader_gets_an_object_of_its_own(self, region: CacheRegion) -> None:
        region.set("key", {"names": ["Ada"]})
        region.get("key")["names"].append("Grace")

        assert region.get("key") == {"names": ["Ada"]}

    @pytest.mark.parametrize("key", ODD_KEYS, ids=lambda key: repr(key[:20]))
    def test_any_string_is_a_key(self, region: CacheRegion, key: str) -> None:
        region.set(key, "value")

        assert region.get(key) == "value"
        region.delete(key)
        assert region.get(key) is NO_VALUE

    def test_odd_keys_are_apart(self, region: CacheRegion) -> None:
        region.set_multi({key: number for number, key in enumerate(ODD_KEYS)})

        assert region.get_multi(ODD_KEYS) == list(range(len(ODD_KEYS)))

    @pytest.mark.parametrize(("said", "value"), REFUSED_VALUES.items(), ids=REFUSED_VALUES)
    def test_a_value_that_would_change_its_type_is_refused_and_not_stored(
        self, region: CacheRegion, said: str, value: object
    ) -> None:
        with pytest.raises(TypeError, match=said):
            region.set("key", value)
        with pytest.raises(TypeError, match=said):
            region.set_multi({"other": 1, "key": value})
        with pytest.raises(TypeError, match=said):
            region.get_or_create("key", lambda: value)

        assert region.get_multi(["key", "other"]) == [NO_VALUE, NO_VALUE]

    def test_a_refusal_names_the_value_what_is_carried_and_the_remedy(self, region: CacheRegion) -> None:
        with pytest.raises(TypeError, match=r"<Color\.RED: 1> is .*Color.*UUID.*serializer= and a deserializer="):
            region.set("key", {"a": [Color.RED]})

    @pytest.mark.parametrize("name", ["person_repo.memory", "person_repo.memcached"])
    def test_the_hosts_serializer_carries_what_ours_refuses(
        self, name: str, memcached_servers: list[Memcached]
    ) -> None:
        own = make_region(serializer=pickle.dumps, deserializer=pickle.loads)
        servers = {"url": [server.url for server in memcached_servers]} if name.endswith("memcached") else {}
        own.configure(name, arguments=servers)
        own.set("key", (Color.RED, Point(1)))

        found = own.get("key")
        assert found == (Color.RED, Point(1))
        assert type(found[0]) is Color

    def test_a_region_by_url_takes_a_serializer_too(self) -> None:
        own = make_region_by_url("memory://", serializer=pickle.dumps, deserializer=pickle.loads)
        own.set("key", Point(1))

        assert own.get("key") == Point(1)
        with pytest.raises(ConfigurationError, match="deserializer= is missing"):
            make_region_by_url("memory://", serializer=pickle.dumps)
        with pytest.raises(ConfigurationError, match="serializer= is missing"):
            make_region_by_url("memory://", deserializer=pickle.loads)

    def test_a_clock_of_whole_seconds_makes_hits(self, region: CacheRegion, monkeypatch: pytest.MonkeyPatch) -> None:
        """A test that freezes the time may do so at an integer."""
        monkeypatch.setattr(time, "time", lambda: 1_767_225_600)
        region.set("key", 1)

        assert region.get("key") == 1
        assert region.get("key", expiration_time=60) == 1
        assert region.get_or_create("key", lambda: 2, expiration_time=60) == 1
        assert region.get_multi(["key"]) == [1]

    def test_a_serializer_of_the_regions_own_is_used(self, region: CacheRegion) -> None:
        own = make_region(serializer=lambda value: repr(value).encode(), deserializer=lambda raw: raw.decode())
        own.configure("person_repo.memory")
        own.set("key", {1, 2})

        assert own.get("key") == "{1, 2}"

    def test_a_proxy_may_stand_before_it(self, region: CacheRegion) -> None:
        class Loud(ProxyBackend):
            def get_serialized(self, key: str) -> Any:
                asked.append(key)
                return self.proxied.get_serialized(key)

        asked: list[str] = []
        region.wrap(Loud)
        region.set("key", 1)

        assert region.get("key") == 1
        assert asked == ["key"]
        assert isinstance(region.actual_backend, LeaseBackend)


class Compressing(ProxyBackend):
    """A proxy whose bytes only it can read."""

    def get_serialized(self, key: str) -> Any:
        return self._plain(self.proxied.get_serialized(key))

    def get_serialized_multi(self, keys: Iterable[str]) -> Sequence[Any]:
        return list(map(self._plain, self.proxied.get_serialized_multi(keys)))

    def set_serialized(self, key: str, value: bytes) -> None:
        self.proxied.set_serialized(key, zlib.compress(value))

    def set_serialized_multi(self, mapping: Mapping[str, bytes]) -> None:
        self.proxied.set_serialized_multi({key: zlib.compress(value) for key, value in mapping.items()})

    @staticmethod
    def _plain(value: Any) -> Any:
        return value if value is NO_VALUE else zlib.decompress(value)


class Encrypting(Compressing):
    """Another one: a cipher of its own kind."""

    def set_serialized(self, key: str, value: bytes) -> None:
        self.proxied.set_serialized(key, bytes(byte ^ 0x5A for byte in value))

    def set_serialized_multi(self, mapping: Mapping[str, bytes]) -> None:
        for key, value in mapping.items():
            self.set_serialized(key, value)

    @staticmethod
    def _plain(value: Any) -> Any:
        return value if value is NO_VALUE else bytes(byte ^ 0x5A for byte in value)


@pytest.mark.parametrize("proxies", [[Compressing], [Encrypting], [Encrypting, Compressing]], ids=str)
class TestTransformingProxy:
    """A proxy that stores other bytes than dogpile's."""

    def test_what_it_stored_is_a_hit(self, region: CacheRegion, proxies: list[type[ProxyBackend]]) -> None:
        for proxy in proxies:
            region.wrap(proxy)
        region.set("key", [1, "x" * 1000])
        region.set_multi({"one": 1, "two": 2})

        assert region.get("key") == [1, "x" * 1000]
        assert region.get_multi(["one", "two", "three"]) == [1, 2, NO_VALUE]
        assert region.get_or_create("key", lambda: pytest.fail("no hit")) == [1, "x" * 1000]
        assert region.get_or_create("new", lambda: 7) == 7
        assert region.get_or_create("new", lambda: pytest.fail("no hit")) == 7
        region.delete("key")
        assert region.get("key") is NO_VALUE

    def test_dogpiles_bytes_are_not_stored(self, region: CacheRegion, proxies: list[type[ProxyBackend]]) -> None:
        for proxy in proxies:
            region.wrap(proxy)
        region.set("key", "secret")

        assert b"secret" not in region.actual_backend.get_serialized("key")


GOOD = b'{"ct": 1767225600.5, "v": 2}|'


class Exploding:
    """Its pickle ends the process that loads it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return sys.exit, ("unpickled",)


@pytest.mark.parametrize(
    "item",
    [
        b"",
        b"|",
        b"garbage",
        b"\xff\xfe|\x01",
        b"{}|\x01",
        b"null|\x01",
        b"17|\x01",
        b'"ctv"|\x01',
        b'["ct", "v"]|\x01',
        b'{"ct": 1.5}|\x01',
        b'{"v": 2}|\x01',
        b'{"ct": null, "v": 2}|\x01',
        b'{"ct": "yesterday", "v": 2}|\x01',
        b'{"ct": [], "v": 2}|\x01',
        b'{"ct": true, "v": 2}|\x01',
        b'{"ct": 1%s, "v": 2}|\x01' % (b"0" * 400),
        b'{"ct": 1%s, "v": 2}|\x01' % (b"0" * 5000),
        b'{"ct": 1.5, "v": 2',
        b"[" * 50_000 + b"|\x01",
        GOOD,
        GOOD + b"\xc1",
        GOOD + b"\x01\x02",
        GOOD + b"\xdd\xff\xff\xff\xff",
        GOOD + b"\x91" * 50_000,
        GOOD + values.encode((1, 2))[:-1],
        GOOD + b"\xc7\x01\x63\x01",  # an extension of an unknown code
        GOOD + b"\xc7\x02\x02\x91\x90",  # a set of a list
        GOOD + b"\xc7\x02\x06\x91\x01",  # a datetime of one part
        GOOD + b"\xc7\x09\x0d\xa8/etc/foo",  # a time zone by a path
        GOOD + pickle.dumps(Exploding()),
        pickle.dumps(Exploding()),
    ],
    ids=lambda item: repr(item[:40]),
)
class TestMalformedItems:
    """Bytes in memcached that are none of dogpile's: a read is a miss."""

    @pytest.fixture
    def region(self, memcached_servers: list[Memcached], item: bytes) -> Iterator[CacheRegion]:
        """A region over a server on which the item stands as ``key``."""
        Raw(memcached_servers[0]).set("prd:key", 0, item)
        region = over(memcached_servers[:1])
        yield region
        region.actual_backend.close()

    def test_it_is_a_miss(self, region: CacheRegion) -> None:
        region.set("sound", 7)

        assert region.get("key") is NO_VALUE
        assert region.get("key", expiration_time=3600, ignore_expiration=False) is NO_VALUE
        assert region.get_multi(["key", "sound"]) == [NO_VALUE, 7]

    def test_it_is_made_anew(self, region: CacheRegion) -> None:
        assert region.get_or_create("key", lambda: "made") == "made"
        assert region.get("key") == "made"


@hypothesis.given(st.binary(max_size=60))
def test_bytes_of_others_are_read_or_refused(item: bytes) -> None:
    with_extension = b"\xc7" + bytes([len(item)]) + item
    for hostile in (item, with_extension):
        try:
            MemoryBackend.deserializer(hostile)
        except CantDeserializeException as refused:
            assert "no value of a region" in str(refused)  # noqa: PT017


class TestMemcached:
    def test_a_server_that_is_down_is_an_error_of_ours(self, memcached_servers: list[Memcached]) -> None:
        region = over(memcached_servers[:1])
        region.set("key", 1)
        memcached_servers[0].kill()

        for call in (
            lambda: region.get("key"),
            lambda: region.set("key", 2),
            lambda: region.delete("key"),
            lambda: region.get_multi(["key"]),
        ):
            with pytest.raises(CacheUnavailableError, match=memcached_servers[0].url):
                call()
        memcached_servers[0].start()
        region.set("key", 3)
        assert region.get("key") == 3
        region.actual_backend.close()

    def test_a_value_too_large_is_an_error_that_names_its_key(self, memcached_servers: list[Memcached]) -> None:
        region = over(memcached_servers)

        with pytest.raises(CacheUnavailableError, match=r"'the key'.*too large"):
            region.set("the key", b"x" * 2_000_000)
        region.set("the key", 1)
        assert region.get("the key") == 1
        region.actual_backend.close()

    def test_no_key_stands_for_a_long_ones_digest(self, memcached_servers: list[Memcached]) -> None:
        """Otherwise a user who chooses keys could choose the value of another key."""
        region = over(memcached_servers[:1])
        long = "k" * 300
        digest = blake2b(b"prd:" + long.encode(), digest_size=20).hexdigest()
        keys = [long, digest, f"#{digest}", f"prd:#{digest}"]
        region.set_multi({key: number for number, key in enumerate(keys)})

        assert memcached_servers[0].ask(f"mg prd:#{digest}").startswith("HD"), "the digest is made otherwise"
        assert region.get_multi(keys) == [0, 1, 2, 3]
        region.actual_backend.close()

    def test_items_are_given_the_settings_ttl(self, memcached_servers: list[Memcached]) -> None:
        region = over(memcached_servers[:1], ttl=1000)
        region.set("key", 1)

        remaining = int(memcached_servers[0].ask("mg prd:key t").split()[1].removeprefix("t"))
        assert 900 < remaining <= 1000
        region.actual_backend.close()

    def test_keys_are_spread_over_the_servers(self, memcached_servers: list[Memcached]) -> None:
        region = over(memcached_servers)
        region.set_multi({f"key{number}": number for number in range(100)})

        for server in memcached_servers:
            assert 15 < len(keys_on(server)) < 60
        region.actual_backend.close()

    def test_an_item_that_was_made_at_a_whole_second_is_a_hit(
        self, memcached_servers: list[Memcached], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(time, "time", lambda: 1_767_225_600)
        region, raw = over(memcached_servers[:1]), Raw(memcached_servers[0])
        region.set("key", 7)
        flags, item = raw.get("prd:key") or (None, b"")
        raw.set("prd:other", 0, item)

        assert flags == 0, "dogpile's own item is taken for a proxy's"
        assert region.get("other") == 7
        region.actual_backend.close()

    def test_a_whole_url_configures_it_too(self, memcached_servers: list[Memcached]) -> None:
        url = f"memcached://{memcached_servers[0].url}?timeout=10"
        region = make_region().configure("person_repo.memcached", arguments={"url": url})
        region.set("key", 1)

        assert region.get("key") == 1
        region.actual_backend.close()


class TestServers:
    """The servers as dogpile's own memcached backends take them."""

    @pytest.mark.parametrize("name", ["url", "servers"])
    def test_as_a_list(self, memcached_servers: list[Memcached], name: str) -> None:
        urls = [server.url for server in memcached_servers]
        for places in (urls, tuple(urls), ",".join(urls)):
            region = make_region().configure("person_repo.memcached", arguments={name: places, "timeout": 10})
            region.set("key", 1)

            assert region.get("key") == 1
            assert region.actual_backend.servers == tuple(urls)
            region.actual_backend.close()

    def test_as_one_server_without_a_scheme_or_a_port(self) -> None:
        assert MemcachedBackend({"url": "10.0.0.1"}).servers == ("10.0.0.1:11211",)
        assert MemcachedBackend({"url": ["10.0.0.1", "[::1]:7"]}).servers == ("10.0.0.1:11211", "[::1]:7")

    def test_sockets_of_any_path(self) -> None:
        paths = ("/run/one?.sock", "/run/two%41, three.sock")

        assert MemcachedBackend({"url": paths}).servers == paths
        assert make_region_by_url("memcached:///run/a%3Fb.sock").actual_backend.servers == ("/run/a?b.sock",)

    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            ({}, "no server is given; give a list of host:port"),
            ({"url": []}, "no server is given; give a list of host:port"),
            ({"url": [("10.0.0.1", 11211)]}, r"\('10.0.0.1', 11211\) in a list of servers is neither"),
            ({"url": [None]}, "None in a list of servers is neither"),
            ({"url": ["memcached://10.0.0.1"]}, "a cache URL names all servers in one string"),
            ({"url": ["a:1,b:1"]}, "no server; write host, host:port"),
            ({"url": ["a:1?ttl=5"]}, "no server; write host, host:port"),
            ({"url": ["a:1", "a:1"]}, "names 'a:1' twice"),
            ({"url": ["a", "a:11211"]}, "names 'a:11211' twice"),
            ({"url": 7}, "7 .*give a list of host:port"),
            ({"url": "a:1", "servers": ["b:1"]}, "both name servers; give one"),
            ({"url": "memory://"}, "scheme 'memory'"),
        ],
        ids=str,
    )
    def test_others_are_refused_with_the_remedy(self, arguments: dict[str, Any], reason: str) -> None:
        with pytest.raises(ConfigurationError, match=reason):
            make_region().configure("person_repo.memcached", arguments=arguments)


class TestDistributedLock:
    """The lock of ``get_or_create`` in memcached."""

    @pytest.fixture
    def regions(self, memcached_servers: list[Memcached]) -> Iterator[list[CacheRegion]]:
        """Two regions of one cache, as two processes have them."""
        regions = [over(memcached_servers, distributed_lock=True, lock_timeout=30) for _ in range(2)]
        yield regions
        for region in regions:
            region.actual_backend.close()

    def test_without_it_the_lock_is_of_this_process(self, memcached_servers: list[Memcached]) -> None:
        backend = over(memcached_servers).actual_backend

        assert backend.get_mutex("key") is None
        assert not backend.has_lock_timeout()

    def test_one_of_several_processes_creates(self, regions: list[CacheRegion]) -> None:
        made: list[str] = []

        def create() -> str:
            made.append("made")
            time.sleep(0.2)
            return "value"

        with ThreadPoolExecutor(4) as threads:
            found = list(threads.map(lambda at: regions[at % 2].get_or_create("key", create), range(4)))

        assert found == ["value"] * 4
        assert made == ["made"]
        assert regions[0].actual_backend.has_lock_timeout()

    def test_it_is_released_though_the_creator_fails(self, regions: list[CacheRegion]) -> None:
        with pytest.raises(ZeroDivisionError):
            regions[0].get_or_create("key", lambda: 1 // 0)

        assert regions[1].get_or_create("key", lambda: 2) == 2

    def test_others_see_it_and_do_not_get_it(self, regions: list[CacheRegion]) -> None:
        one, other = (region.actual_backend.get_mutex("key") for region in regions)

        assert one.acquire()
        assert regions[1].key_is_locked("key")
        assert not other.acquire(False)
        other.release()
        assert one.locked()
        one.release()
        assert not other.locked()
        assert other.acquire(False)
        other.release()

    def test_it_ends_by_itself(self, memcached_servers: list[Memcached]) -> None:
        region = over(memcached_servers, distributed_lock=True, lock_timeout=1)
        dead, next_one = (region.actual_backend.get_mutex("key") for _ in range(2))
        dead.acquire()

        assert next_one.acquire()  # waits for the end
        dead.release()
        assert next_one.locked(), "an owner whose time was over has released the next owner's lock"
        next_one.release()
        region.actual_backend.close()

    def test_another_thread_may_release_it(self, regions: list[CacheRegion]) -> None:
        """As dogpile's ``async_creation_runner`` does."""
        mutex = regions[0].actual_backend.get_mutex("key")
        mutex.acquire()

        with ThreadPoolExecutor(1) as thread:
            thread.submit(mutex.release).result()
        assert not mutex.locked()

    def test_it_is_no_item_of_the_region(self, regions: list[CacheRegion]) -> None:
        for key in ODD_KEYS:
            mutex = regions[0].actual_backend.get_mutex(key)
            mutex.acquire()

            assert regions[0].get(key) is NO_VALUE
            regions[0].set(key, 1)
            assert mutex.locked()
            mutex.release()
            assert regions[0].get(key) == 1

    def test_it_is_given_its_timeout(self, memcached_servers: list[Memcached]) -> None:
        for arguments, seconds in (({"lock_timeout": 1000}, 1000), ({}, 60)):
            region = over(memcached_servers[:1], distributed_lock=True, **arguments)
            mutex = region.actual_backend.get_mutex("key")
            mutex.acquire()

            remaining = int(memcached_servers[0].ask("mg prl:key t").split()[1].removeprefix("t"))
            assert seconds - 50 < remaining <= seconds
            mutex.release()
            region.actual_backend.close()

    def test_a_server_that_is_down_is_an_error_of_ours_but_not_after_the_value_was_made(
        self, memcached_servers: list[Memcached]
    ) -> None:
        region = over(memcached_servers[:1], distributed_lock=True)
        mutex = region.actual_backend.get_mutex("key")
        mutex.acquire()
        memcached_servers[0].kill()

        mutex.release()
        with pytest.raises(CacheUnavailableError, match=memcached_servers[0].url):
            mutex.acquire()
        with pytest.raises(CacheUnavailableError, match=memcached_servers[0].url):
            mutex.locked()
        region.actual_backend.close()

    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            ({"lock_timeout": 5}, "distributed_lock is off"),
            ({"distributed_lock": False, "lock_timeout": 5}, "distributed_lock is off"),
            ({"distributed_lock": "yes"}, "distributed_lock='yes' is str; give True or False"),
            ({"distributed_lock": True, "lock_timeout": 0}, "lock_timeout=0: give whole seconds between 1 and 2592000"),
            ({"distributed_lock": True, "lock_timeout": 2_592_001}, "lock_timeout=2592001: give whole seconds"),
            ({"distributed_lock": True, "lock_timeout": 1.5}, "lock_timeout=1.5: give whole seconds"),
            ({"distributed_lock": True, "lock_timeout": True}, "lock_timeout=True: give whole seconds"),
        ],
        ids=str,
    )
    def test_options_that_cannot_be_used_are_refused(self, arguments: dict[str, Any], reason: str) -> None:
        with pytest.raises(ConfigurationError, match=reason):
            make_region().configure("person_repo.memcached", arguments={"url": ["a:1"], **arguments})


class TestRegistration:
    @pytest.mark.parametrize(
        ("name", "backend"), [("person_repo.memory", MemoryBackend), ("person_repo.memcached", MemcachedBackend)]
    )
    def test_the_installed_distribution_offers_its_backends_to_dogpile(self, name: str, backend: type) -> None:
        (entry,) = importlib.metadata.distribution("person-repo").entry_points.select(group="dogpile.cache", name=name)

        assert entry.load() is backend

    def test_a_name_is_enough_without_an_import_of_this_package(self) -> None:
        program = (
            "from dogpile.cache import make_region\n"
            "import sys; assert not [name for name in sys.modules if name.startswith('person_repo')]\n"
            "region = make_region().configure('person_repo.memory')\n"
            "region.set('key', [1, 'two'])\n"
            "print(region.get('key'))\n"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

        assert (done.stdout, done.returncode) == ("[1, 'two']\n", 0), done.stderr

    def test_the_null_backend_lets_creators_run_side_by_side(self) -> None:
        region = make_region().configure("person_repo.null")
        together = threading.Barrier(4, timeout=30)

        def create() -> str:
            together.wait()
            return "made"

        with ThreadPoolExecutor(4) as threads:
            assert list(threads.map(lambda _: region.get_or_create("key", create), range(4))) == ["made"] * 4
        assert not region.key_is_locked("key")

    def test_the_null_backend_holds_nothing(self) -> None:
        region = make_region().configure("person_repo.null")
        region.set("key", 1)
        region.set_multi({"other": 2})
        made: list[int] = []

        assert region.get("key") is NO_VALUE
        assert region.get_multi(["key", "other"]) == [NO_VALUE, NO_VALUE]
        assert [region.get_or_create("key", lambda: made.append(1) or len(made)) for _ in range(2)] == [1, 2]  # type: ignore[func-returns-value]
        region.delete("key")
        region.delete_multi(["key", "other"])
