"""Faults while reading: of the database, of Ctrl-C, of cache servers."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from reading.bench import IDS, Bench, Read, Statements, either_way, failing, person
from sqlalchemy import orm
from support.servers import Memcached
from support.urls import patient_url

from person_repo.cache.contract import BUSY, Lease


@either_way
@pytest.mark.parametrize("error", [None, KeyboardInterrupt()], ids=["the database fails", "Ctrl-C"])
def test_a_load_that_fails_gives_its_lease_back(quick: Bench, read: Read, error: BaseException | None) -> None:
    """Nobody waits for a value that will not come."""
    quick.people.add(person())
    with failing(quick, error), pytest.raises(sa.exc.OperationalError if error is None else KeyboardInterrupt):
        read(quick.people)

    assert read(quick.people) == person()
    assert (quick.people.stats().waits, quick.people.stats().fills) == (0, 1)


def test_a_load_of_many_that_fails_gives_every_lease_back(quick: Bench) -> None:
    quick.people.add_many(person(id) for id in IDS)
    quick.people.get_many(IDS[:50])
    uncovered = sa.create_engine(quick.database.engine.url)
    with uncovered.begin() as connection:
        connection.execute(sa.text("ALTER TABLE person RENAME TO gone"))
    with pytest.raises(sa.exc.OperationalError):
        quick.people.get_many(IDS)
    with uncovered.begin() as connection:
        connection.execute(sa.text("ALTER TABLE gone RENAME TO person"))
    uncovered.dispose()

    did = quick.did(lambda: quick.people.get_many(IDS))
    assert (did.hits, did.misses, did.fills, did.waits) == (50, 50, 50, 0)


def test_ctrl_c_while_an_item_of_no_use_is_replaced_gives_the_other_leases_back(quick: Bench) -> None:
    quick.people.add_many([person(), person("bob")])
    quick.put(b"of no use", "bob")
    fetch = quick.backend.fetch

    def interrupted(group: str, key: str, *, reject: bytes | None = None) -> Any:
        if reject is not None:
            raise KeyboardInterrupt
        return fetch(group, key)

    quick.backend.fetch = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        quick.people.get_many(["ada", "bob"])
    quick.backend.fetch = fetch  # type: ignore[method-assign]

    assert isinstance(quick.elsewhere.fetch(quick.group, quick.key("ada")), Lease)


def test_ctrl_c_while_waiting_leaves_no_lease_that_came_free_before(quick: Bench) -> None:
    quick.people.add_many([person(), person("bob")])
    leases = {id: quick.lease(id) for id in ("ada", "bob")}
    polls: list[None] = []

    def ada_comes_free_and_then_ctrl_c() -> None:
        polls.append(None)
        if len(polls) == 2:
            raise KeyboardInterrupt
        quick.elsewhere.abandon([leases["ada"]])

    quick.time.meanwhile = ada_comes_free_and_then_ctrl_c
    with pytest.raises(KeyboardInterrupt):
        quick.people.get_many(["ada", "bob"])

    assert quick.elsewhere.fetch(quick.group, quick.key("ada")) is not BUSY


@pytest.fixture
def cluster(memcached_servers: list[Memcached]) -> Iterator[list[Memcached]]:
    yield memcached_servers
    for server in memcached_servers:
        if server.running:
            server.resume()
        server.start()


def test_while_servers_are_down_reads_go_to_the_database_and_the_log_says_so_once(
    sessions: orm.sessionmaker[orm.Session], cluster: list[Memcached], statements: Statements,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    url = patient_url(cluster, breaker_failures=1000)
    bench = Bench(sessions, url, statements)
    bench.people.add_many(person(id) for id in IDS)
    bench.people.get_many(IDS)
    for server in cluster:
        server.kill()
    with caplog.at_level(logging.WARNING, "person_repo"):
        for _ in range(3):
            with bench.spent() as spent:
                assert bench.people.get("p001") == person("p001")
                assert bench.people.get_many(IDS) == {id: person(id) for id in IDS}
                assert bench.people.get("nobody") is None
            assert spent().queries == 3
    stats = bench.people.stats()
    assert stats.errors > 0
    assert stats.bypasses == 3 * 102
    assert caplog.text.count("reads go to the database") == 3, "one line for each server"

    for server in cluster:
        server.start()
    bench.people.get_many(IDS)
    assert bench.did(lambda: bench.people.get_many(IDS)).hits == 100
    bench.close()


def test_of_many_only_those_of_a_server_that_is_down_are_loaded(
    sessions: orm.sessionmaker[orm.Session], cluster: list[Memcached], statements: Statements
) -> None:
    bench = Bench(sessions, patient_url(cluster), statements)
    bench.people.add_many(person(id) for id in IDS)
    bench.people.get_many(IDS)
    cluster[1].kill()
    with bench.spent() as spent:
        assert bench.people.get_many(IDS) == {id: person(id) for id in IDS}

    assert spent().queries == 1
    stats = bench.people.stats()
    assert stats.hits + stats.bypasses == 100
    assert 0 < stats.bypasses < 100
    bench.close()


def test_a_server_that_hangs_costs_its_timeout_and_no_error(
    sessions: orm.sessionmaker[orm.Session], cluster: list[Memcached], statements: Statements
) -> None:
    url = patient_url(cluster, timeout=0.05, connect_timeout=0.05)
    bench = Bench(sessions, url, statements)
    bench.people.add_many(person(id) for id in IDS)
    bench.people.get_many(IDS)
    cluster[0].pause()
    for id in IDS[:5]:
        assert bench.people.get(id) == person(id)
    assert bench.people.get_many(IDS) == {id: person(id) for id in IDS}
    bench.close()


def test_a_writer_whose_cache_is_down_still_writes(
    sessions: orm.sessionmaker[orm.Session], cluster: list[Memcached], statements: Statements,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    bench = Bench(sessions, patient_url(cluster), statements)
    bench.people.add(person())
    for server in cluster:
        server.kill()
    with caplog.at_level(logging.WARNING, "person_repo"):
        assert bench.people.update("ada", first_name="Augusta").version == 2

    assert "could not be placed" in caplog.text
    assert bench.database.get("ada") == person(first_name="Augusta")
    bench.close()
