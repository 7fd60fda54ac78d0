"""Sealed values: their bytes, bytes that do not open, and caches that hold nothing readable."""

from __future__ import annotations

import itertools
import logging
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dogpile.cache
import pytest
import sqlalchemy as sa
from dogpile.cache import CacheRegion
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st
from support.servers import Memcached

from person_repo import ConfigurationError, Person, PersonService, Stats, make_region
from person_repo.cache.contract import Lease
from person_repo.cache.region import lease_backend
from person_repo.mapped import sealing
from person_repo.mapped.sealing import LEAST_SECRET, OVERHEAD, VERSION, Seal, SealError
from person_repo.model import Base

SECRET = "k3VY0c0Zc5bS5c3kq0Y1m9m7m3m5Jw2Jrj8lYy3Xo1E"
NEW = "Zz9-4fQ8k1r2Vt7mN0bXc6yLp3sD5gHjW_aEuIoTq2M"
KEY = "pr:person_repo:person:sada"
VALUE = b"Ada Lovelace"
GOLDEN = (
    "01 2c197e53 000102030405060708090a0b0c0d0e0f1011121314151617"
    "8a4f712e659af7fd06701471 5c3f827b6e88288890976df3d0fb371b"
)
SEALED = bytes.fromhex(GOLDEN)


# The bytes


def counted(count: int) -> bytes:
    return bytes(range(count))


def test_the_bytes_of_version_1_never_change() -> None:
    """If they must change, raise ``VERSION``: older values are misses then, and golden bytes are added for it."""
    assert VERSION == 1
    assert Seal([SECRET], random=counted).seal(VALUE, KEY).hex() == SEALED.hex()
    assert Seal([SECRET]).open(SEALED, KEY) == VALUE


def test_no_sealed_value_begins_as_an_item_does() -> None:
    """In msgpack an item is an array, so a reader without a secret rejects a sealed one by its first byte."""
    assert SEALED[0] == VERSION < 0x80


# What comes back

strange = st.text(st.characters(), max_size=40)
secrets = st.text(st.characters(), min_size=LEAST_SECRET, max_size=60)


@given(value=st.binary(max_size=300), key=strange, secret=secrets)
@profile(max_examples=200)
def test_a_value_comes_back_with_its_key_and_its_secret(value: bytes, key: str, secret: str) -> None:
    sealed = Seal([secret]).seal(value, key)

    assert Seal([secret]).open(sealed, key) == value
    assert len(sealed) == len(value) + OVERHEAD


def test_no_two_seals_of_a_value_are_alike() -> None:
    """Neither the salt nor the rest: a stranger who reads the cache does not see that a value is unchanged."""
    many = [Seal([SECRET]).seal(VALUE, KEY) for _ in range(100)]

    assert len({sealed[5:29] for sealed in many}) == len({sealed[29:] for sealed in many}) == 100


def test_each_message_is_sealed_with_a_key_of_its_own() -> None:
    """Under one key and one nonce, two messages would differ in their first bytes as their values do."""
    drawn = iter([b"a" * 24, b"b" * 24])
    seal = Seal([SECRET], random=lambda _: next(drawn))
    one, two = seal.seal(bytes(16), KEY)[29:45], seal.seal(b"\xff" * 16, KEY)[29:45]

    assert bytes(a ^ b for a, b in zip(one, two, strict=True)) != b"\xff" * 16


# What does not open


def refused(sealed: bytes, key: str = KEY, seal: Seal | None = None) -> None:
    with pytest.raises(SealError) as caught:
        (seal or Seal([SECRET])).open(sealed, key)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("at", range(len(SEALED)))
def test_a_value_with_any_bit_flipped_does_not_open(at: int) -> None:
    for bit in range(8):
        refused(SEALED[:at] + bytes([SEALED[at] ^ 1 << bit]) + SEALED[at + 1 :])


@pytest.mark.parametrize("length", range(len(SEALED)))
def test_a_truncated_value_does_not_open(length: int) -> None:
    refused(SEALED[:length])
    refused(SEALED[-length:] if length else b"")


@pytest.mark.parametrize("more", [b"\0", b"x", SEALED], ids=["zero", "letter", "twice"])
def test_an_extended_value_does_not_open(more: bytes) -> None:
    refused(SEALED + more)
    refused(more + SEALED)


@given(key=strange.filter(lambda key: key != KEY))
@profile(max_examples=100)
def test_a_value_moved_to_another_key_does_not_open(key: str) -> None:
    refused(SEALED, key)


@given(secret=secrets.filter(lambda secret: secret != SECRET))
@profile(max_examples=100)
def test_a_value_does_not_open_with_another_secret(secret: str) -> None:
    refused(SEALED, seal=Seal([secret]))


def test_secrets_that_have_the_same_key_id_are_still_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "_head", lambda master: b"\x01same")
    both = Seal([NEW, SECRET])

    assert both.open(both.seal(VALUE, KEY), KEY) == VALUE
    refused(Seal([SECRET]).seal(VALUE, KEY), seal=both)


@pytest.mark.parametrize("version", [0, 2, 127, 128, 255])
def test_a_value_of_another_version_does_not_open(version: int) -> None:
    refused(bytes([version]) + SEALED[1:])


@given(noise=st.binary(max_size=200), head=st.integers(0, len(SEALED)))
@profile(max_examples=300)
def test_whatever_the_bytes_are_nothing_but_a_seal_error_comes_of_them(noise: bytes, head: int) -> None:
    if SEALED[:head] + noise != SEALED:
        refused(SEALED[:head] + noise)


# Secrets


def test_the_first_secret_seals_and_each_opens() -> None:
    both = Seal([NEW, SECRET])

    assert both.open(SEALED, KEY) == VALUE
    assert Seal([NEW]).open(both.seal(VALUE, KEY), KEY) == VALUE
    refused(both.seal(VALUE, KEY))


def test_secrets_are_separated_by_commas_and_none_are_no_seal() -> None:
    both = Seal.of(f" {NEW} ,{SECRET}\n")
    assert both is not None

    assert both.open(SEALED, KEY) == both.open(Seal([NEW]).seal(VALUE, KEY), KEY) == VALUE
    assert Seal.of("") is None


@pytest.mark.parametrize("wrong", [[], [""], ["QX" * 7], [SECRET, "QX" * 7], "QX" * 20, ["ä" * 7]])
def test_secrets_that_are_too_short_are_refused_with_the_remedy_and_not_shown(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"secrets\.token_urlsafe\(32\)") as caught:
        Seal(wrong)
    assert not {"QX", "ä", SECRET} & {part for part in ("QX", "ä", SECRET) if part in str(caught.value)}


def test_a_short_one_among_several_is_named_by_its_number() -> None:
    with pytest.raises(ConfigurationError, match="number 2 of 3 in secret is shorter than 16 bytes"):
        Seal([SECRET, "short", NEW])


def test_the_remedy_makes_a_secret_that_is_taken() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Seal(["short"])
    _, _, code = str(caught.value).partition("python -c ")
    made = subprocess.run([sys.executable, "-c", code.strip('"')], capture_output=True, text=True, check=True).stdout

    assert Seal.of(made) is not None


def test_without_the_package_that_seals_a_secret_is_refused_by_the_extras_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers.aead", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'person-repo\[cryptography\]'"):
        make_region(f"memory://?secret={SECRET}")


def test_without_a_secret_the_package_that_seals_is_not_needed() -> None:
    code = (
        "import sys; sys.modules['cryptography'] = None\n"
        "import person_repo\n"
        "people = person_repo.connect('sqlite://')\n"
        "person_repo.Base.metadata.create_all(people.engine)\n"
        "people.add(person_repo.Person(id='ada', first_name='Ada', last_name='Lovelace'))\n"
        "print(people.get('ada') == people.get('ada'), people.stats().hits)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert (done.stdout, done.stderr) == ("True 1\n", "")


# Whole caches

ADA = Person(id="ada", first_name="Ada", last_name="Lovelace")
GRACE = Person(id="grace", first_name="Grace", last_name="Hopper")
NAMES = (b"Ada", b"Lovelace", b"Grace", b"Hopper")


@pytest.fixture
def people(tmp_path: Path) -> Iterator[sa.Engine]:
    """A database with two people in it."""
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'people.db'}")
    Base.metadata.create_all(engine)
    with PersonService.over(engine, "null://") as service:
        for person in (ADA, GRACE):
            service.add(Person(id=person.id, first_name=person.first_name, last_name=person.last_name))
    yield engine
    engine.dispose()


Serve = Callable[..., PersonService]


@pytest.fixture
def serve(people: sa.Engine, memcached_servers: list[Memcached]) -> Iterator[Serve]:
    """Makes services over one memcached and one database, each like that of another process."""
    made: list[PersonService] = []

    def make(secret: Any = "", **options: Any) -> PersonService:
        url = f"memcached://{memcached_servers[0].url}"
        made.append(PersonService.over(people, make_region(url, secret=secret, timeout=10.0, **options)))
        return made[-1]

    yield make
    for service in made:
        service.close()


def did(service: PersonService, use: Callable[[], object]) -> Stats:
    before = service.stats()
    use()
    return service.stats() - before


def key_of(service: PersonService, id: str) -> str:
    return service.cached.keys.key_of((id,))[0]


def on_the_server(server: Memcached, key: str) -> bytes:
    """The bytes of an item as any client of the server reads them."""
    with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
        connection.sendall(b"get %b\r\n" % key.encode())
        answer = b""
        while not answer.endswith(b"END\r\n"):
            answer += connection.recv(65536)
    assert answer.startswith(b"VALUE")
    return answer.partition(b"\r\n")[2].removesuffix(b"\r\nEND\r\n")


def put(service: PersonService, id: str, item: bytes) -> None:
    """Stores an item as a reader of the service would store its own."""
    backend = service.cached.backend
    lease = backend.fetch(service.cached.keys.group, key_of(service, id))
    assert isinstance(lease, Lease), lease
    assert backend.fill(lease, item)


def item(service: PersonService, id: str) -> bytes:
    found = service.cached.backend.fetch(service.cached.keys.group, key_of(service, id))
    assert isinstance(found, bytes), found
    return found


def test_nothing_on_the_server_shows_a_name(serve: Serve, memcached_servers: list[Memcached]) -> None:
    plain, sealed = serve(), serve(SECRET, namespace="sealed")
    for service in (plain, sealed):
        service.get_many(["ada", "grace"])
        assert did(service, lambda service=service: service.get_many(["ada", "grace"])).hits == 2  # type: ignore[misc]
    held = {
        service: b"".join(on_the_server(memcached_servers[0], key_of(service, id)) for id in ("ada", "grace"))
        for service in (plain, sealed)
    }

    assert [name in held[plain] for name in NAMES] == [True] * 4
    assert [name in held[sealed] for name in NAMES] == [False] * 4
    assert b"ada" not in held[sealed].lower()


def test_a_hit_and_a_miss_cost_as_many_round_trips_sealed_as_not(serve: Serve) -> None:
    for service in (serve(namespace="plain"), serve(SECRET, namespace="sealed")):
        service.get("grace")
        assert did(service, lambda service=service: service.get("ada")).round_trips == 2  # type: ignore[misc]
        assert did(service, lambda service=service: service.get("ada")).round_trips == 1  # type: ignore[misc]


def test_writes_are_seen_and_absences_are_cached_sealed_too(serve: Serve) -> None:
    one, two = serve(SECRET), serve(SECRET)
    assert one.get("nobody") is None
    assert did(two, lambda: two.get("nobody")).negative_hits == 1

    two.add(Person(id="nobody", first_name="No", last_name="Body"))
    one.update("ada", last_name="King")

    assert one.exists("nobody")
    assert two.get_one("ada").last_name == "King"
    assert two.stats().rejected == one.stats().rejected == 0


GARBAGE = {
    "random bytes": lambda sealed: bytes(range(256)),
    "nothing": lambda sealed: b"",
    "a megabyte less a little": lambda sealed: sealed * (900_000 // len(sealed)),
    "truncated": lambda sealed: sealed[:-1],
    "extended": lambda sealed: sealed + b"\0",
    "a bit flipped": lambda sealed: sealed[:-1] + bytes([sealed[-1] ^ 1]),
    "what is sealed and no item": lambda sealed: Seal([SECRET]).seal(b"\x93\x00", KEY),
    "of another key": lambda sealed: Seal([SECRET]).seal(b"", "pr:person_repo:person:sgrace"),
    "of another secret": lambda sealed: Seal([NEW]).seal(b"", KEY),
}  # fmt: skip


@pytest.mark.parametrize("kind", GARBAGE)
@pytest.mark.parametrize("many", [False, True], ids=["get", "get_many"])
def test_an_item_that_does_not_open_is_a_counted_miss_and_is_refilled(serve: Serve, kind: str, many: bool) -> None:
    service, elsewhere = serve(SECRET), serve(SECRET)
    elsewhere.get("ada")
    sealed = item(elsewhere, "ada")
    elsewhere.invalidate("ada")
    put(elsewhere, "ada", GARBAGE[kind](sealed))

    def read() -> Person | None:
        return service.get_many(["ada"])["ada"] if many else service.get("ada")

    def readable() -> None:
        assert read() == ADA

    first = did(service, readable)
    assert (first.rejected, first.misses, first.fills, first.hits) == (1, 1, 1, 0)
    assert did(service, readable).hits == 1


def test_a_sealed_value_that_is_moved_to_another_key_is_a_counted_miss(serve: Serve) -> None:
    service = serve(SECRET)
    service.get("grace")
    put(service, "ada", item(service, "grace"))

    assert did(service, lambda: service.get("ada")).rejected == 1
    assert service.get("ada") == ADA


def test_readers_with_and_without_a_secret_take_each_others_items_for_misses(serve: Serve) -> None:
    plain, sealed = serve(), serve(SECRET)
    plain.get("ada")
    plain_item = item(plain, "ada")

    assert did(sealed, lambda: sealed.get("ada")).rejected == 1
    assert item(plain, "ada") != plain_item
    assert did(sealed, lambda: sealed.get("ada")).hits == 1
    assert did(plain, lambda: plain.get("ada")).rejected == 1
    assert item(plain, "ada") == plain_item


def test_a_secret_is_changed_in_three_steps_without_a_miss(serve: Serve) -> None:
    """At each step one of two services is ahead of the other, and each reads the other's values."""
    steps = [[SECRET], [SECRET, NEW], [NEW, SECRET], [NEW]]
    for before, after in itertools.pairwise(steps):
        one, two = serve(before), serve(after)
        for fills, reads in ((one, two), (two, one)):
            fills.get("ada")
            assert did(reads, lambda reads=reads: reads.get("ada")).hits == 1  # type: ignore[misc]
            fills.invalidate("ada")


def test_a_secret_that_is_changed_at_once_costs_misses_and_no_answer(serve: Serve) -> None:
    old, new = serve(SECRET), serve(NEW)
    old.get("ada")

    assert did(new, lambda: new.get("ada")).rejected == 1
    assert new.get("ada") == old.get("ada") == ADA


def foreign() -> CacheRegion:
    region = dogpile.cache.make_region().configure("dogpile.cache.memory_pickle")
    lease_backend(region, secret=[SECRET])
    return region


@pytest.mark.parametrize(
    "region",
    [lambda: make_region("memory://", secret=SECRET), lambda: make_region(f"memory://?secret={SECRET}"), foreign],
    ids=["memory", "memory by URL", "foreign"],
)
def test_every_kind_of_region_holds_sealed_values(people: sa.Engine, region: Callable[[], CacheRegion]) -> None:
    with PersonService.over(people, region()) as service:
        service.get_many(["ada", "grace"])

        assert did(service, lambda: service.get_many(["ada", "grace"])).hits == 2
        assert [name in item(service, "ada") for name in NAMES[:2]] == [False, False]
        assert Seal([SECRET]).open(item(service, "ada"), key_of(service, "ada"))


def test_options_for_a_region_that_is_in_use_are_refused(people: sa.Engine) -> None:
    region = dogpile.cache.make_region().configure("dogpile.cache.memory")
    with PersonService.over(people, region), pytest.raises(ConfigurationError, match="secret= comes too late"):
        lease_backend(region, secret=SECRET)
    with pytest.raises(ConfigurationError, match="secret= comes too late"):
        lease_backend(make_region("memory://"), secret=SECRET)


def test_no_log_and_no_error_shows_the_secret(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    service = serve(SECRET)
    put(service, "ada", b"garbage")
    service.get("ada")
    put(service, "grace", Seal([NEW]).seal(b"", "pr:person_repo:person:sgrace"))
    service.get_many(["grace"])

    assert "was rejected" in caplog.text
    assert SECRET not in caplog.text + repr(service.region.actual_backend) + repr(service.cached.backend.settings)
    with pytest.raises(ConfigurationError) as caught:
        make_region(f"memory://?secret={SECRET}&ttl=long")
    assert SECRET not in str(caught.value)
