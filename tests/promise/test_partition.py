"""A writer that is cut off from memcached servers which the readers still reach: how old their reads may be.

No bound here depends on the speed of the machine. A read is late by the time from the acknowledgement that it missed to
its own beginning, by the clock that all processes share; writes and reads go on until there are enough of them.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from support.databases import make_tables
from support.forks import forking, running_in_child
from support.partitions import backend_of, cut_off, heal
from support.servers import Memcached
from support.urls import patient_url

from person_repo.exceptions import CacheUnavailableError
from person_repo.model import FENCE, Person
from person_repo.service import PersonService, connect

PERSON = Person.__table__
NUMBERS = 4000
"""Writes of one person at most."""

LIMIT = 240
"""Seconds after which a step that never ends is an error."""


def undelivered(people: PersonService) -> int:
    with people.read_engine.connect() as connection:
        counted: int = connection.execute(sa.select(sa.func.count()).select_from(FENCE)).scalar_one()
        return counted


def is_hit(people: PersonService, id: str) -> bool:
    before = people.stats().hits
    people.get(id)
    return people.stats().hits > before


def person(id: str, number: int = 0) -> Person:
    return Person(id=id, first_name=str(number), last_name=f"of {id}")


# Processes, and the times of their commits


class History:
    """When each number of each person was acknowledged, by the clock that all processes share."""

    def __init__(self, ids: Sequence[str]) -> None:
        self.ids = ids
        self._at = multiprocessing.RawArray("d", len(ids) * NUMBERS)
        self._last = [0] * len(ids)
        self.reads = multiprocessing.RawArray("l", 2)
        self.hits = multiprocessing.RawArray("l", 2)
        self.over = multiprocessing.Event()
        self.cut = multiprocessing.Event()
        self.warm = multiprocessing.Semaphore(0)

    def next(self, which: int) -> int:
        return self._last[which] + 1

    def acknowledge(self, which: int, number: int) -> None:
        self._last[which] = number
        self._at[which * NUMBERS + number] = time.monotonic()

    def late(self, which: int, number: int, began: float) -> float:
        """Seconds from the acknowledgement of the first commit that a read missed to its beginning; 0 if none."""
        at = self._at[which * NUMBERS + number + 1]
        return began - at if at and began > at else 0.0


def read_in_a_loop(reader: int, history: History, since: Any, database_url: str, cache_url: str) -> list[Any]:
    """One reader: its latest read, and its latest read that missed a number from ``since`` on."""
    worst, healed = 0.0, 0.0
    cut = False
    with connect(database_url, cache_url) as people:
        people.get_many(history.ids)
        history.warm.release()
        while not history.over.is_set():
            if history.cut.is_set() != cut:
                cut = not cut
                cut_off(people) if cut else setattr(backend_of(people), "addresses", {})
            for which, id in enumerate(history.ids):
                began = time.monotonic()
                number = int(people.get_one(id).first_name)
                late = history.late(which, number, began)
                history.reads[reader] += 1
                history.hits[reader] = people.stats().hits
                worst = max(worst, late)
                if number + 1 >= since[which] > 0:
                    healed = max(healed, late)
        return [worst, healed]


class Outcome(NamedTuple):
    """Of all readers: the latest read, and the latest one that missed a commit after the healing; in seconds."""

    worst: float
    healed: float


def partition(
    database_url: str,
    servers: Sequence[Memcached],
    how: str,
    *,
    interval: float,
    seconds: float,
    tombstone_ttl: int,
    readers_too: bool = False,
) -> Outcome:
    """Two readers in processes of their own, and a writer here that is cut off for some seconds, or longer: until it
    has written everybody twice, and each reader has read everybody twice.
    """
    cache_url = patient_url(
        servers, fence_interval=interval, on_unreachable=how, breaker_reset=0.05, tombstone_ttl=tombstone_ttl
    )
    history = History([f"p{n}" for n in range(6)])
    enough = 2 * len(history.ids)
    since = multiprocessing.RawArray("l", len(history.ids))
    commits = 0

    def write(people: PersonService) -> None:
        nonlocal commits
        which = commits % len(history.ids)
        commits += 1
        number = history.next(which)
        people.update(history.ids[which], first_name=str(number))
        history.acknowledge(which, number)

    def write_for(people: PersonService, seconds: float) -> None:
        reads, written = list(history.reads), commits
        began = time.monotonic()
        while (
            time.monotonic() < began + seconds
            or commits < written + enough
            or any(now < before + enough for now, before in zip(history.reads, reads, strict=True))
        ):
            assert time.monotonic() < began + LIMIT
            write(people)

    make_tables(database_url)
    with connect(database_url, cache_url) as people:
        people.add_many([person(id) for id in history.ids])
        people.engine.dispose()
        with ExitStack() as running:
            results = [
                running.enter_context(
                    running_in_child(
                        lambda reader=reader: read_in_a_loop(reader, history, since, database_url, cache_url),
                        seconds=3 * LIMIT,
                    )
                )
                for reader in range(2)
            ]
            try:
                for _ in results:
                    assert history.warm.acquire(timeout=LIMIT)
                cut_off(people)
                if readers_too:
                    history.cut.set()
                write_for(people, seconds)
                history.cut.clear()
                heal(people)
                since[:] = [history.next(which) for which in range(len(history.ids))]
                write_for(people, 2 * interval)
                # The readers deliver what there is, and are answered by the cache meanwhile.
                until = time.monotonic() + LIMIT
                hits = list(history.hits)
                while undelivered(people) or any(now <= then for now, then in zip(history.hits, hits, strict=True)):
                    assert time.monotonic() < until
                    time.sleep(0.05)
            finally:
                history.over.set()
        assert people.deliver() == 0
        for id in history.ids:
            people.get(id)
            assert is_hit(people, id)
    worst, healed = zip(*[json.loads(result()) for result in results], strict=True)
    return Outcome(max(worst), max(healed))


@forking
@pytest.mark.timeout(4 * LIMIT)
@pytest.mark.proof(name="kill", sample=1, again=True)
@pytest.mark.parametrize("readers_too", [False, True], ids=["writer", "everybody"])
def test_while_a_writer_is_cut_off_reads_are_stale_for_the_interval_at_most(
    database_url: str, memcached_servers: list[Memcached], readers_too: bool
) -> None:
    """If the readers are cut off as well, the servers come back to all of them with their old memory."""
    outcome = partition(
        database_url, memcached_servers, "proceed", interval=0.5, seconds=2.0, tombstone_ttl=60, readers_too=readers_too
    )
    assert outcome.worst <= 0.5 + 0.05  # an overdue view is used for 50 ms more while another thread polls
    assert outcome.healed == 0


@forking
@pytest.mark.timeout(4 * LIMIT)
@pytest.mark.proof(name="kill", again=True)
def test_under_strict_nothing_is_ever_stale_while_a_writer_is_cut_off(
    mysql_url: str, memcached_servers: list[Memcached]
) -> None:
    """A tombstone must outlive the slowest COMMIT; the last row is held for as long, and so is the test."""
    outcome = partition(mysql_url, memcached_servers, "strict", interval=0.2, seconds=3.0, tombstone_ttl=8)
    assert outcome.worst == outcome.healed == 0


# One writer and one reader, each with a cache and a fence of its own


class World(NamedTuple):
    writer: PersonService
    reader: PersonService


Worlds = Callable[..., World]


@pytest.fixture
def world(database_url: str, memcached_servers: list[Memcached]) -> Iterator[Worlds]:
    """``world(how)``: a writer, and a reader that polls the fence at each read."""
    with ExitStack() as open_ones:

        def make(how: str = "proceed", **options: Any) -> World:
            url = patient_url(memcached_servers)
            make_tables(database_url)
            chosen = {"on_unreachable": how, "fence_interval": 0.001, "breaker_reset": 0.01, **options}
            both = World(*[open_ones.enter_context(connect(database_url, url, **chosen)) for _ in range(2)])
            both.writer.add_many([person(id) for id in ("ada", "bob", "eve")])
            both.reader.get_many(["ada", "bob", "eve", "nobody"])
            assert all(is_hit(both.reader, id) for id in ("ada", "bob", "eve", "nobody"))
            return both

        yield make


def now_seen(people: PersonService, id: str) -> str | None:
    """The first name that is read an interval from now."""
    time.sleep(0.002)
    someone = people.get(id)
    return None if someone is None else someone.first_name


def by_service(people: PersonService) -> None:
    people.update("ada", first_name="1")


def by_session(people: PersonService) -> None:
    with orm.Session(people.engine) as session, session.begin():
        session.get_one(Person, "ada").first_name = "1"


def by_core(people: PersonService) -> None:
    with people.engine.begin() as connection:
        connection.execute(sa.update(PERSON).where(PERSON.c.id == "ada").values(first_name="1"))


def by_text(people: PersonService) -> None:
    with people.engine.begin() as connection:
        connection.execute(sa.text("UPDATE person SET first_name = '1' WHERE id = 'ada'"))


def by_driver(people: PersonService) -> None:
    with people.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE person SET first_name = '1' WHERE id = 'ada'")


def in_autocommit(people: PersonService) -> None:
    with people.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.update(PERSON).where(PERSON.c.id == "ada").values(first_name="1"))


def by_text_in_autocommit(people: PersonService) -> None:
    with people.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("UPDATE person SET first_name = '1' WHERE id = 'ada'"))


def in_two_phases(people: PersonService) -> None:
    with orm.Session(people.engine, twophase=True) as session:
        session.get_one(Person, "ada").first_name = "1"
        session.prepare()
        session.commit()


def uncovered_and_then_invalidated(people: PersonService) -> None:
    behind = people.engine.raw_connection()
    behind.cursor().execute("UPDATE person SET first_name = '1' WHERE id = 'ada'")
    behind.dbapi_connection.commit()
    behind.close()
    people.invalidate("ada")


def uncovered_and_then_all_invalidated(people: PersonService) -> None:
    behind = people.engine.raw_connection()
    behind.cursor().execute("UPDATE person SET first_name = '1' WHERE id = 'ada'")
    behind.dbapi_connection.commit()
    behind.close()
    people.invalidate_all()


WAYS = [
    by_service, by_session, by_core, by_text, by_driver, in_autocommit, by_text_in_autocommit, in_two_phases,
    uncovered_and_then_invalidated, uncovered_and_then_all_invalidated,
]  # fmt: skip


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_write_by_a_writer_that_is_cut_off_is_seen_whichever_way_it_is_made(
    world: Worlds, way: Callable[[PersonService], None]
) -> None:
    writer, reader = world(tombstone_ttl=1)
    if way is in_two_phases and writer.engine.dialect.name == "sqlite":
        pytest.skip("SQLite has no two-phase commit")
    cut_off(writer)

    way(writer)

    assert now_seen(reader, "ada") == "1"
    assert writer.get_one("ada").first_name == "1"
    heal(writer)
    deliver_all(writer)
    assert undelivered(reader) == 0
    for people in (writer, reader):
        assert now_seen(people, "ada") == "1"
        assert is_hit(people, "ada")


def deliver_all(people: PersonService) -> None:
    """Delivers until nothing is left: the row of a statement that commits by itself is held for ``tombstone_ttl``."""
    until = time.monotonic() + LIMIT
    while people.deliver():
        assert time.monotonic() < until
        time.sleep(0.05)
    time.sleep(0.002)


def test_a_person_that_was_known_to_be_absent_is_found(world: Worlds) -> None:
    writer, reader = world()
    cut_off(writer)
    writer.add(person("nobody", 1))
    assert now_seen(reader, "nobody") == "1"


def test_a_person_that_is_deleted_is_gone(world: Worlds) -> None:
    writer, reader = world()
    cut_off(writer)
    assert writer.delete("ada")
    assert now_seen(reader, "ada") is None


def test_a_table_that_is_emptied_is_empty_for_readers(world: Worlds) -> None:
    """On MySQL, TRUNCATE commits by itself, together with the changes before it."""
    writer, reader = world()
    if writer.engine.dialect.name == "sqlite":
        pytest.skip("SQLite has no TRUNCATE")
    cut_off(writer)
    with writer.engine.begin() as connection:
        connection.execute(sa.update(PERSON).where(PERSON.c.id == "ada").values(first_name="1"))
        connection.execute(sa.text("TRUNCATE TABLE person"))
    assert [now_seen(reader, id) for id in ("ada", "bob", "eve")] == [None, None, None]


def test_a_transaction_that_is_rolled_back_blocks_nothing(world: Worlds) -> None:
    writer, reader = world()
    cut_off(writer)
    with orm.Session(writer.engine) as session:
        session.get_one(Person, "ada").first_name = "1"
        session.flush()
        session.rollback()
    assert undelivered(writer) == 0
    assert now_seen(reader, "ada") == "0"
    assert is_hit(reader, "ada")


def test_a_server_that_cannot_be_reached_concerns_its_own_keys_only(world: Worlds) -> None:
    writer, reader = world()
    backend = backend_of(writer)
    ids = [f"p{n}" for n in range(30)]
    writer.add_many([person(id) for id in ids])
    reader.get_many(ids)
    lost = backend.servers[0]
    there = [id for id in ids if backend._server_of(writer.cached.keys.key_of((id,))[0]) == lost]
    elsewhere = [id for id in ids if id not in there]
    cut_off(writer, lost)
    unplaced = writer.stats().unplaced

    for id in elsewhere:
        writer.update(id, first_name="1")
    assert undelivered(writer) == 0
    assert writer.stats().unplaced == unplaced
    for id in there[:-1]:
        writer.update(id, first_name="1")
    assert writer.stats().unplaced == unplaced + len(there) - 1

    assert all(now_seen(reader, id) == "1" for id in [*elsewhere, *there[:-1]])
    assert is_hit(reader, there[-1])
    assert all(is_hit(reader, id) for id in elsewhere)


def test_deliver_returns_how_much_is_left(world: Worlds) -> None:
    writer, reader = world()
    cut_off(writer)
    cut_off(reader)
    writer.update("ada", first_name="1")
    writer.update("bob", first_name="1")
    assert writer.deliver() == 2
    assert undelivered(writer) == 2
    heal(writer)
    assert writer.deliver() == 0
    assert undelivered(writer) == 0


def test_a_server_that_comes_back_to_everybody_with_its_old_memory_revives_nothing(world: Worlds) -> None:
    writer, reader = world()
    for people in (writer, reader):
        cut_off(people)
    for number in range(1, 40):
        writer.update("ada", first_name=str(number))
        writer.update("bob", first_name=str(number))
    writer.delete("eve")
    for people in (reader, writer):
        backend_of(people).addresses = {}

    # The circuits close at some time between these reads.
    for _ in range(20):
        assert [now_seen(reader, id) for id in ("ada", "bob", "eve")] == ["39", "39", None]
        assert [now_seen(writer, id) for id in ("ada", "bob", "eve")] == ["39", "39", None]
    heal(reader)
    deliver_all(reader)
    assert [now_seen(reader, id) for id in ("ada", "bob", "eve")] == ["39", "39", None]
    assert all(is_hit(reader, id) for id in ("ada", "bob", "eve"))


# Writers that refuse


def test_under_refuse_a_commit_raises_and_the_transaction_can_be_rolled_back(world: Worlds) -> None:
    writer, reader = world("refuse")
    cut_off(writer)
    with orm.Session(writer.engine) as session:
        session.get_one(Person, "ada").first_name = "1"
        with pytest.raises(CacheUnavailableError, match="on_unreachable is 'refuse': nothing is committed"):
            session.commit()
        session.rollback()
        assert session.get_one(Person, "ada").first_name == "0"
        assert undelivered(writer) == 0
        assert now_seen(reader, "ada") == "0"
        assert is_hit(reader, "ada")

        heal(writer)
        session.get_one(Person, "ada").first_name = "2"
        session.commit()
    assert now_seen(reader, "ada") == "2"


@pytest.mark.parametrize("way", [by_service, by_core, by_text, in_autocommit], ids=lambda way: way.__name__)
def test_under_refuse_no_way_of_writing_writes(world: Worlds, way: Callable[[PersonService], None]) -> None:
    writer, reader = world("refuse")
    cut_off(writer)
    with pytest.raises(CacheUnavailableError):
        way(writer)
    assert writer.database.get_one("ada").first_name == "0"
    assert now_seen(reader, "ada") == "0"
    heal(writer)
    way(writer)
    assert now_seen(reader, "ada") == "1"


def test_under_refuse_an_invalidation_that_cannot_be_made_raises(world: Worlds) -> None:
    writer, _ = world("refuse")
    cut_off(writer)
    with pytest.raises(CacheUnavailableError):
        writer.invalidate("ada")
    with pytest.raises(CacheUnavailableError):
        writer.invalidate_all()


@pytest.mark.parametrize("how", ["refuse", "strict"])
def test_a_commit_that_touches_no_person_needs_no_server(world: Worlds, how: str) -> None:
    writer, _ = world(how)
    cut_off(writer)
    with writer.engine.begin() as connection:
        connection.execute(sa.insert(FENCE).values(namespace="x", server="x", item="x", held_until=0, expires=0))


def connect_again(people: PersonService, how: str) -> PersonService:
    url = f"memcached://{','.join(backend_of(people).servers)}?timeout=10&connect_timeout=10"
    again = connect(people.engine.url, url, on_unreachable=how)
    people.closing.callback(again.close)
    return again


def test_under_strict_sqlite_cannot_warn_readers_before_the_commit_and_says_so(world: Worlds) -> None:
    writer, reader = world("strict")
    if writer.engine.dialect.name != "sqlite":
        pytest.skip("MySQL can")
    cut_off(writer)
    with orm.Session(writer.engine) as session:
        session.get_one(Person, "ada").first_name = "1"
        with pytest.raises(CacheUnavailableError, match="SQLite's one writer cannot do: nothing is committed"):
            session.commit()
        session.rollback()
        assert session.get_one(Person, "ada").first_name == "0"
    assert now_seen(reader, "ada") == "0"
    assert undelivered(writer) == 0


# A host that did not upgrade


@pytest.mark.parametrize("how", ["proceed", "strict"])
def test_without_the_table_only_proceed_commits_and_the_log_names_the_remedy(
    world: Worlds, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    upgraded = world().writer
    FENCE.drop(upgraded.engine)
    writer = connect_again(upgraded, how)
    cut_off(writer)
    for number in (1, 2, 3):
        if how == "proceed":
            writer.update("ada", first_name=str(number))
        else:
            with pytest.raises(CacheUnavailableError):
                writer.update("ada", first_name=str(number))
    assert writer.database.get_one("ada").first_name == ("3" if how == "proceed" else "0")
    errors = [each for each in caplog.records if each.levelno == logging.ERROR and each.name == "person_repo.fence"]
    lines = [each.getMessage() for each in errors]
    if how == "proceed" or writer.engine.dialect.name != "sqlite":
        assert len(lines) == 1
        assert "migrations.upgrade(engine)" in lines[0]
