"""A writer that is cut off from memcached servers which the readers still reach: what these may read, and how long."""

from __future__ import annotations

import logging
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from support.forks import forking, running_in_child
from support.servers import Memcached, free_port

from person_repo.cache.memcached.backend import MemcachedBackend
from person_repo.cache.region import lease_backend
from person_repo.exceptions import CacheUnavailableError
from person_repo.model import FENCE, Base, Person
from person_repo.service import PersonService, connect

PERSON = Person.__table__
NUMBERS = 4000
"""Writes of one person at most."""


def backend_of(people: PersonService) -> MemcachedBackend:
    backend = lease_backend(people.region)
    assert isinstance(backend, MemcachedBackend)
    return backend


def cut_off(people: PersonService, *servers: str) -> None:
    """From now on this process finds nobody where these servers are; all of them, where none is named."""
    backend = backend_of(people)
    backend.addresses = dict.fromkeys(servers or backend.servers, f"127.0.0.1:{free_port()}")
    backend.close()


def heal(people: PersonService) -> None:
    """The servers are there again, and this process knows: its circuits are closed."""
    backend = backend_of(people)
    backend.addresses = {}
    while not all(breaker.is_closed and not breaker.is_failing for breaker in backend._breakers.values()):
        backend.fetch_many("probe", [f"probe:{n}" for n in range(50)])


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


# Processes, and what they say of time


class History:
    """When each number of each person was acknowledged, for every process to see; by the clock that all have."""

    def __init__(self, ids: Sequence[str]) -> None:
        self.ids = ids
        self._at = multiprocessing.RawArray("d", len(ids) * NUMBERS)
        self._last = [0] * len(ids)
        self.over = multiprocessing.Event()
        self.cut = multiprocessing.Event()
        self.warm = multiprocessing.Semaphore(0)

    def next(self, which: int) -> int:
        return self._last[which] + 1

    def acknowledge(self, which: int, number: int) -> None:
        self._last[which] = number
        self._at[which * NUMBERS + number] = time.monotonic()

    def late(self, which: int, number: int, began: float) -> float:
        """How long before the beginning of a read the first commit that it missed was acknowledged; 0 for none."""
        at = self._at[which * NUMBERS + number + 1]
        return began - at if at and began > at else 0.0


def read_in_a_loop(history: History, since: Any, database_url: str, cache_url: str) -> list[Any]:
    """A reader's life: how late the latest of its reads was; the latest that missed a number of those from ``since``
    on; how many reads there were, and how many the cache answered.
    """
    worst, healed, reads = 0.0, 0.0, 0
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
                reads += 1
                worst = max(worst, late)
                if number + 1 >= since[which] > 0:
                    healed = max(healed, late)
        return [worst, healed, reads, people.stats().hits]


class Outcome(NamedTuple):
    worst: float
    healed: float
    hits: int
    commits: int


def partition(
    database_url: str,
    servers: Sequence[Memcached],
    how: str,
    *,
    interval: float,
    seconds: float,
    readers_too: bool = False,
) -> Outcome:
    """Two readers in processes of their own, and a writer here that is cut off for some seconds."""
    options = f"fence_interval={interval}&on_unreachable={how}&breaker_reset=0.05&tombstone_ttl=2"
    cache_url = f"memcached://{','.join(server.url for server in servers)}?{options}"
    history = History([f"p{n}" for n in range(6)])
    since = multiprocessing.RawArray("l", len(history.ids))
    commits = 0

    def write(people: PersonService) -> None:
        nonlocal commits
        which = commits % len(history.ids)
        commits += 1
        number = history.next(which)
        people.update(history.ids[which], first_name=str(number))
        history.acknowledge(which, number)

    with connect(database_url, cache_url) as people:
        Base.metadata.create_all(people.engine)
        people.add_many([person(id) for id in history.ids])
        people.engine.dispose()
        with ExitStack() as running:
            told = [
                running.enter_context(
                    running_in_child(lambda: read_in_a_loop(history, since, database_url, cache_url))
                )
                for _ in range(2)
            ]  # fmt: skip
            try:
                for _ in told:
                    assert history.warm.acquire(timeout=30)
                cut_off(people)
                if readers_too:
                    history.cut.set()
                until = time.monotonic() + seconds
                while time.monotonic() < until:
                    write(people)
                history.cut.clear()
                heal(people)
                since[:] = [history.next(which) for which in range(len(history.ids))]
                until = time.monotonic() + 2 * interval
                while time.monotonic() < until:
                    write(people)
                # The readers deliver what there is, and go on reading meanwhile.
                until = time.monotonic() + 30
                while undelivered(people):
                    assert time.monotonic() < until
                    time.sleep(0.05)
            finally:
                history.over.set()
        assert people.deliver() == 0
        for id in history.ids:
            people.get(id)
            assert is_hit(people, id)
    found = [[float(number) for number in said().strip("[]").split(",")] for said in told]
    worst, healed, _, hits = (max(each) for each in zip(*found, strict=True))
    return Outcome(worst, healed, int(hits), commits)


@forking
@pytest.mark.proof(name="kill", sample=1, again=True)
@pytest.mark.parametrize("readers_too", [False, True], ids=["writer", "everybody"])
def test_while_a_writer_is_cut_off_reads_are_stale_for_the_interval_at_most(
    database_url: str, memcached_servers: list[Memcached], readers_too: bool, record_property: Callable[..., None]
) -> None:
    """Where the readers are cut off as well, the servers come back to all of them with their old memory."""
    found = partition(
        database_url, memcached_servers, "proceed", interval=0.5, seconds=2.0, readers_too=readers_too
    )  # fmt: skip
    record_property("outcome", str(found))
    print(found)
    assert found.worst <= 0.5 + 0.1
    assert found.healed == 0
    assert found.commits > 10
    assert found.hits > 0


@forking
@pytest.mark.proof(name="kill", again=True)
def test_under_strict_nothing_is_ever_stale_while_a_writer_is_cut_off(
    mysql_url: str, memcached_servers: list[Memcached]
) -> None:
    found = partition(mysql_url, memcached_servers, "strict", interval=0.2, seconds=3.0)
    print(found)
    assert found.worst == found.healed == 0
    assert found.commits > 5
    assert found.hits > 0


# One writer and one reader, each with a cache and a fence of its own


class World(NamedTuple):
    writer: PersonService
    reader: PersonService


Worlds = Callable[..., World]


@pytest.fixture
def world(database_url: str, memcached_servers: list[Memcached]) -> Iterator[Worlds]:
    """``world(how)``: a writer, and a reader that looks at the fence at each read."""
    with ExitStack() as open_ones:

        def make(how: str = "proceed", **options: Any) -> World:
            url = f"memcached://{','.join(server.url for server in memcached_servers)}"
            chosen = {"on_unreachable": how, "fence_interval": 0.001, "breaker_reset": 0.01, **options}
            both = World(*[open_ones.enter_context(connect(database_url, url, **chosen)) for _ in range(2)])
            Base.metadata.create_all(both.writer.engine)
            both.writer.add_many([person(id) for id in ("ada", "bob", "eve")])
            both.reader.get_many(["ada", "bob", "eve", "nobody"])
            assert all(is_hit(both.reader, id) for id in ("ada", "bob", "eve", "nobody"))
            return both

        yield make


def now_seen(people: PersonService, id: str) -> str | None:
    """What is read an interval from now."""
    time.sleep(0.002)
    found = people.get(id)
    return None if found is None else found.first_name


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


def unseen_and_then_invalidated(people: PersonService) -> None:
    behind = people.engine.raw_connection()
    behind.cursor().execute("UPDATE person SET first_name = '1' WHERE id = 'ada'")
    behind.dbapi_connection.commit()
    behind.close()
    people.invalidate("ada")


def unseen_and_then_all_invalidated(people: PersonService) -> None:
    behind = people.engine.raw_connection()
    behind.cursor().execute("UPDATE person SET first_name = '1' WHERE id = 'ada'")
    behind.dbapi_connection.commit()
    behind.close()
    people.invalidate_all()


WAYS = [
    by_service, by_session, by_core, by_text, by_driver, in_autocommit, by_text_in_autocommit, in_two_phases,
    unseen_and_then_invalidated, unseen_and_then_all_invalidated,
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
    """What was published ahead of a statement that commits itself is held as long as its tombstones would be."""
    until = time.monotonic() + 30
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
    """TRUNCATE commits by itself on MySQL, and what was changed before it with it."""
    writer, reader = world()
    if writer.engine.dialect.name == "sqlite":
        pytest.skip("SQLite has no TRUNCATE")
    cut_off(writer)
    with writer.engine.begin() as connection:
        connection.execute(sa.update(PERSON).where(PERSON.c.id == "ada").values(first_name="1"))
        connection.execute(sa.text("TRUNCATE TABLE person"))
    assert [now_seen(reader, id) for id in ("ada", "bob", "eve")] == [None, None, None]


def test_what_is_rolled_back_bars_nothing(world: Worlds) -> None:
    writer, reader = world()
    cut_off(writer)
    with orm.Session(writer.engine) as session:
        session.get_one(Person, "ada").first_name = "1"
        session.flush()
        session.rollback()
    assert undelivered(writer) == 0
    assert now_seen(reader, "ada") == "0"
    assert is_hit(reader, "ada")


def test_one_server_of_several_that_cannot_be_reached_concerns_its_own_keys_only(world: Worlds) -> None:
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


def test_what_cannot_be_delivered_yet_is_counted(world: Worlds) -> None:
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


# Writers that would rather not


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
def test_under_refuse_nothing_is_written_whichever_way(world: Worlds, way: Callable[[PersonService], None]) -> None:
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
def test_what_touches_no_person_is_committed_however_little_can_be_reached(world: Worlds, how: str) -> None:
    writer, _ = world(how)
    cut_off(writer)
    with writer.engine.begin() as connection:
        connection.execute(sa.insert(FENCE).values(namespace="x", server="x", item="x", held_until=0, expires=0))


def connect_again(people: PersonService, how: str) -> PersonService:
    url = f"memcached://{','.join(backend_of(people).servers)}"
    again = connect(people.engine.url, url, on_unreachable=how)
    people.closing.callback(again.close)
    return again


def test_under_strict_sqlite_cannot_tell_readers_before_the_commit_and_says_so(world: Worlds) -> None:
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
def test_without_the_table_commits_go_through_under_proceed_only_and_the_log_tells_the_remedy(
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
    told = [each.getMessage() for each in errors]
    if how == "proceed" or writer.engine.dialect.name != "sqlite":
        assert len(told) == 1
        assert "migrations.upgrade(engine)" in told[0]
