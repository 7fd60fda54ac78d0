"""Reads while a cache server fails in every way there is, and afterwards: right, cheap, logged once, and no key moves.

Three memcached servers, each behind a proxy that fails on demand; the first one fails.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import dogpile.cache
import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from support.clocks import Clock
from support.exchanges import keys_on
from support.servers import Memcached
from support.urls import patient_url

from person_repo import Person, PersonService, Stats, make_region
from person_repo.cache.contract import LeaseBackend
from person_repo.cache.memcached.backend import MemcachedBackend
from person_repo.cache.region import lease_backend
from person_repo.testing.proxy import Proxy

Statements = Callable[..., AbstractContextManager[list[str]]]
IDS = [f"p{number:03}" for number in range(60)]

FAULTS: dict[str, Callable[[Proxy], None]] = {
    "refused": Proxy.cut,
    "reset": Proxy.reset,
    "hang": Proxy.hang,
    "black hole": Proxy.blackhole,
    "replies lost": Proxy.drop,
    "replies late": lambda proxy: proxy.delay(3600),
    "a byte a second": lambda proxy: proxy.throttle(1),
    "HTTP": lambda proxy: proxy.impersonate(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"),
    "SMTP": lambda proxy: proxy.impersonate(b"500 unrecognized command\r\n", greeting=b"220 mail.example ESMTP\r\n"),
    "cut in the middle": lambda proxy: proxy.truncate(9),
    "random bytes": Proxy.garble,
    "out of memory": lambda proxy: proxy.impersonate(b"SERVER_ERROR out of memory storing object\r\n"),
}
UNSEEN = {"refused", "black hole"}
"""Faults under which the proxy accepts no connections, and so counts none."""


def person(id: str) -> Person:
    return Person(id=id, first_name=f"First of {id}", last_name=f"Last of {id}")


@contextmanager
def impatient(backend: LeaseBackend) -> Iterator[None]:
    patient = backend.settings
    backend.settings = replace(patient, timeout=0.1, connect_timeout=0.1)
    try:
        yield
    finally:
        backend.settings = patient


class Site:
    """A service over three servers, and the cost of its reads. ``lost`` are the ids that live on the failing server.

    It is patient with servers, so that a busy machine is no outage, except within ``impatient``.
    """

    def __init__(
        self, sessions: orm.sessionmaker[orm.Session], servers: list[Memcached], proxies: list[Proxy], count: Statements
    ) -> None:
        self.clock = Clock()
        self.servers = servers
        self.proxies = proxies
        self.proxy = proxies[0]
        region = dogpile.cache.make_region().configure(
            "person_repo.memcached",
            expiration_time=3600,
            arguments={
                "servers": [server.url for server in servers],
                "lease_ttl": 600,
                "timeout": 10.0,
                "connect_timeout": 10.0,
                "breaker_failures": 3,
                "breaker_reset": 5.0,
                "monotonic": self.clock,
            },
        )
        backend = lease_backend(region)
        assert isinstance(backend, MemcachedBackend)
        self.backend = backend
        self.backend.addresses = {proxy.server: proxy.address for proxy in proxies}
        self.people = PersonService.over(sessions, region)
        self.keys = self.people.cached.keys
        self.lost = [id for id in IDS if self.home(id) == self.proxy.server]
        self.kept = [id for id in IDS if id not in self.lost]
        self._count = count

    def home(self, id: str) -> str:
        (server, _), _ = self.backend.places_of(self.keys.group, self.keys.key_of((id,))[0])
        return server

    def read(self, ids: Iterable[str]) -> Stats:
        """Reads these one by one, each right; returns the cost."""
        before = self.people.stats()
        for id in ids:
            assert self.people.get(id) == person(id)
        return self.people.stats() - before

    def read_many(self) -> tuple[Stats, int]:
        """Reads everybody at once, each right; returns the cost and the number of queries, but for the fence."""
        before = self.people.stats()
        with self._count(self.people.engine, self.people.read_engine) as seen:
            assert self.people.get_many(IDS) == {id: person(id) for id in IDS}
        # The clock decides when the fence is polled.
        return replace(self.people.stats() - before, fence_polls=0), len(seen)

    def items(self) -> list[set[str]]:
        """The keys on the servers that do not fail."""
        return [keys_on(server) for server in self.servers[1:]]

    def outage(self, fault: Callable[[Proxy], None]) -> None:
        """The first server fails, until its circuit is open."""
        fault(self.proxy)
        with impatient(self.backend):
            self.read(self.lost[:4])


@pytest.fixture
def site(
    sessions: orm.sessionmaker[orm.Session], memcached_servers: list[Memcached], statements: Statements
) -> Iterator[Site]:
    with ExitStack() as stack:
        proxies = [stack.enter_context(Proxy(server.url)) for server in memcached_servers]
        site = Site(sessions, memcached_servers, proxies, statements)
        stack.callback(site.people.close)
        site.people.add_many(person(id) for id in IDS)
        yield site


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Callable[[], list[tuple[str, str]]]:
    """Levels and lines that the cache has logged."""
    caplog.set_level(logging.INFO, "person_repo.cache")

    def lines() -> list[tuple[str, str]]:
        return [(record.levelname, record.getMessage()) for record in caplog.records]

    return lines


Log = Callable[[], list[tuple[str, str]]]


@pytest.mark.parametrize("name", FAULTS)
def test_whatever_a_server_does_reads_are_right_and_the_others_serve(site: Site, name: str, log: Log) -> None:
    """Half of the people that live on it are cached when it begins to fail."""
    site.read([*site.kept, *site.lost[::2]])
    others = site.items()
    assert log() == []

    FAULTS[name](site.proxy)
    with impatient(site.backend):
        done = site.read([*site.lost[:5], *site.lost[:5]])
    assert (done.hits, done.fills) == (0, 0)
    assert done.loads == done.bypasses == 10
    assert 3 <= done.errors <= 4, "an open connection may be found closed, then three failures open the circuit"
    assert done.circuit_open == 10 - done.errors
    for _ in range(2):
        many, queries = site.read_many()
        assert (many.hits, many.bypasses, queries) == (len(site.kept), len(site.lost), 1)
        assert (many.round_trips, many.errors) == (2, 0), "only the others are asked"
    assert site.items() == others, "no key has moved to another server"
    ((level, line),) = log()
    assert level == "WARNING"
    assert line.startswith(f"memcached {site.proxy.server}: ")
    assert line.endswith("; reads go to the database until it answers")

    site.proxy.heal()
    site.clock.now += 5.0
    site.read_many()
    assert site.read_many() == (hits(len(IDS)), 0)
    assert log()[1:] == [("INFO", f"memcached {site.proxy.server} answers again")]


def hits(count: int) -> Stats:
    return Stats(hits=count, round_trips=3)


@pytest.mark.parametrize("name", FAULTS)
def test_a_server_that_fails_is_dialled_only_for_one_probe_at_a_time(site: Site, name: str) -> None:
    site.read(site.lost[:1])
    site.outage(FAULTS[name])
    visitors = site.proxy.visitors

    done = site.read(site.lost * 5)
    assert (done.round_trips, done.errors) == (0, 0)
    assert done.circuit_open == len(site.lost) * 5
    assert site.proxy.visitors == visitors

    for probe in (1, 2):
        site.clock.now += 5.0
        with impatient(site.backend):
            done = site.read(site.lost * 2)
        assert done.errors == 1
        if name not in UNSEEN:
            assert site.proxy.visitors == visitors + probe


@pytest.mark.every_database
@pytest.mark.parametrize("name", FAULTS)
def test_a_change_during_an_outage_is_seen_during_it_and_after_it(site: Site, name: str) -> None:
    """Old entries of the server are never seen again, whether it has forgotten them or not."""
    site.read(IDS)
    changed, added = site.lost[0], "new"
    site.outage(FAULTS[name])

    with impatient(site.backend):
        site.people.update(changed, first_name="Changed")
        site.people.delete(site.lost[1])
        site.people.add(person(added))
    for _ in range(2):
        assert site.people.get_one(changed).first_name == "Changed"
        assert site.people.get(site.lost[1]) is None
        assert site.people.get(added) == person(added)
    site.proxy.heal()
    for _ in range(3):
        site.clock.now += 5.0
        assert site.people.get_one(changed).first_name == "Changed"
        assert site.people.get_many([site.lost[1], added]) == {added: person(added)}


def test_servers_that_restart_in_the_middle_of_a_multi_get_cost_a_query_and_nothing_else(site: Site, log: Log) -> None:
    """All three are asked; one is gone before it reads the request."""
    site.read(IDS)
    asked: list[int] = []

    def restart(_: bytes) -> None:
        site.proxy.on_request = None
        asked.append(site.proxy.connections)
        site.servers[0].restart()

    site.proxy.on_request = restart
    many, queries = site.read_many()

    assert asked == [1]
    assert (many.hits, many.errors, queries) == (len(site.kept), 1, 1)
    assert log() == [], "a restart is no outage"
    again, queries = site.read_many()
    assert (again.hits, again.fills, queries) == (len(site.kept), len(site.lost), 1)
    assert site.read_many() == (hits(len(IDS)), 0)


def test_all_servers_may_restart_in_the_middle_of_a_multi_get(site: Site, log: Log) -> None:
    site.read(IDS)
    for proxy, server in zip(site.proxies, site.servers, strict=True):

        def restart(_: bytes, proxy: Proxy = proxy, server: Memcached = server) -> None:
            proxy.on_request = None
            server.restart()

        proxy.on_request = restart

    many, queries = site.read_many()
    assert (many.hits, many.errors, queries) == (0, 3, 1)
    site.read_many()
    assert site.read_many() == (hits(len(IDS)), 0)
    assert log() == []


def test_one_reply_that_is_cut_in_the_middle_is_no_outage(site: Site, log: Log) -> None:
    site.read(IDS)
    site.proxy.truncate(9)

    done = site.read(site.lost[:1])

    assert (done.errors, done.loads) == (1, 1)
    site.proxy.heal()
    assert site.read(IDS).hits == len(IDS)
    assert log() == []


@pytest.mark.parametrize("fault", [lambda proxy: proxy.drop(1), lambda proxy: proxy.delay(0.3)], ids=["lost", "late"])
def test_a_reply_that_was_given_up_answers_no_other_question(site: Site, fault: Callable[[Proxy], None]) -> None:
    site.read(IDS)
    fault(site.proxy)

    with impatient(site.backend):
        done = site.read(site.lost[:1])
    site.proxy.heal()

    assert (done.errors, done.loads) == (1, 1)
    assert site.read(IDS).hits == len(IDS)


def test_flipped_bits_change_no_answer_if_values_are_sealed(
    sessions: orm.sessionmaker[orm.Session], memcached_servers: list[Memcached]
) -> None:
    with Proxy(memcached_servers[0].url, seed=3) as proxy:
        region = make_region(
            f"memcached://{proxy.address}",
            timeout=10,
            breaker_failures=1_000_000,
            secret="a-secret-of-enough-characters",
        )
        people = PersonService.over(sessions, region)
        people.add_many(person(id) for id in IDS)
        people.get_many(IDS)
        proxy.flip_bits()

        backend = lease_backend(region)
        with impatient(backend):
            for id in IDS * 3:
                assert people.get(id) == person(id)
        while people.stats().rejected == 0:  # on a busy machine every reply may have come too late
            assert people.get(IDS[0]) == person(IDS[0])

        proxy.heal()
        assert people.get_many(IDS) == {id: person(id) for id in IDS}
        people.close()


class Full(Memcached):
    """A memcached that evicts nothing, and refuses what does not fit."""

    def command(self) -> list[str]:
        return [*super().command(), "-m", "2", "-M"]

    def fill(self) -> None:
        """Leaves no room for another small item, whichever slab its size belongs to."""
        sizes = (10, 40, 80, 120, 160, 200, 260)
        values = [(number, "x" * sizes[number % len(sizes)]) for number in range(84_000)]
        requests = "\r\n".join(f"set full{number} 0 0 {len(value)}\r\n{value}" for number, value in values)
        assert "SERVER_ERROR out of memory storing object" in self.ask(requests)


def test_a_server_without_room_is_logged_once_and_used_again_when_it_has_some(
    sessions: orm.sessionmaker[orm.Session], log: Log
) -> None:
    server = Full().start()
    people = PersonService.over(sessions, patient_url([server]))
    people.add_many(person(id) for id in IDS)
    assert people.get("p000") == person("p000")
    server.fill()
    before = people.stats()

    assert people.get("p000") == person("p000")
    assert (people.stats() - before).hits == 1
    for id in IDS[1:4]:
        assert people.get(id) == person(id)
    assert people.get_many(IDS) == {id: person(id) for id in IDS}

    done = people.stats() - before
    assert (done.fills, done.errors) == (0, 3 + len(IDS) - 1)
    ((level, line),) = log()
    assert level == "WARNING"
    assert line.endswith("what is not cached there stays so until it takes items")
    server.flush()
    for _ in range(2):
        people.get_many(IDS)
    assert (people.stats() - before).fills == len(IDS)
    assert log()[1:] == [("INFO", f"memcached {server.url} takes items again")]
    people.close()
    server.kill()


@pytest.mark.every_database
def test_a_change_is_seen_though_the_server_has_no_room_for_its_tombstone(
    sessions: orm.sessionmaker[orm.Session],
) -> None:
    server = Full().start()
    people = PersonService.over(sessions, patient_url([server]))
    elsewhere = PersonService.over(sessions, patient_url([server]))
    people.add_many(person(id) for id in IDS)
    people.get_many(IDS)
    server.fill()

    with sa.orm.Session(people.engine) as session, session.begin():
        for someone in session.scalars(sa.select(Person)):
            someone.first_name = "Changed"

    for service in (people, elsewhere):
        assert {one.first_name for one in service.get_many(IDS).values()} == {"Changed"}
        service.close()
    server.kill()


def test_the_latency_under_each_fault_can_be_measured(tmp_path: Path) -> None:
    file = tmp_path / "outages.json"
    options = ["--database", "sqlite", "--seconds", "0.05", "--json", str(file)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.outages", *options],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert (done.returncode, done.stderr) == (0, "")
    faults = json.loads(file.read_text())["faults"]
    assert {"healthy", "refused", "reset", "hang", "black hole", "a byte a second", "one of three hangs"} <= set(faults)
    for name, row in faults.items():
        assert name in done.stdout
        for what in ("reads", "commits"):
            assert 0 < row[what]["p50"] <= row[what]["p99"] <= row[what]["longest"]
            assert row[what]["p50_ratio"] == pytest.approx(
                row[what]["p50"] / faults[row["beside"]][what]["p50"], rel=0.01
            )
