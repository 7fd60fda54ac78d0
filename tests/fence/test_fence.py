"""The fence as one process knows it: when it polls, what it blocks, and what it delivers."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa
from support.clocks import Clock
from support.servers import Memcached, free_port
from support.urls import patient_url

from person_repo.cache.contract import Lease, Place, marker_of
from person_repo.cache.memcached.backend import MemcachedBackend
from person_repo.cache.region import lease_backend, make_region
from person_repo.database.engines import read_engine_of
from person_repo.exceptions import CacheUnavailableError
from person_repo.fence import table, view
from person_repo.fence.view import Fence, fence_of
from person_repo.model import FENCE, Base, Person
from person_repo.service import PersonService, connect

pytestmark = pytest.mark.every_database

GROUP = "pr:person_repo:person"
INTERVAL = 1.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def servers(memcached_servers: list[Memcached]) -> list[str]:
    return [server.url for server in memcached_servers]


PATIENT = {"timeout": 10.0, "connect_timeout": 10.0, "lease_ttl": 600}
"""No busy machine misses these deadlines; a server that is down refuses at once."""


@pytest.fixture
def backend(servers: list[str], clock: Clock) -> Iterator[MemcachedBackend]:
    options = {"fence_interval": INTERVAL, "tombstone_ttl": 2, "monotonic": clock, **PATIENT}
    backend = MemcachedBackend({"servers": servers, **options})
    yield backend
    backend.close()


Process = Callable[..., Fence]


@pytest.fixture
def process(people_engine: sa.Engine, backend: MemcachedBackend, clock: Clock) -> Iterator[Process]:
    """``process()`` is the fence of one more process."""
    engines: list[sa.Engine] = []

    def begin(**options: Any) -> Fence:
        host = sa.create_engine(people_engine.url)
        engines.extend([host, read_engine_of(host)])
        return Fence(backend, read_engine_of(host), clock=clock, wall=clock.wall, **options)

    yield begin
    for engine in engines:
        engine.dispose()


def key(number: int) -> str:
    return f"{GROUP}:s{number}"


def keys_on(backend: MemcachedBackend, server: str, count: int) -> list[str]:
    keys = [key(n) for n in range(1000) if backend.places_of(GROUP, key(n))[0][0] == server]
    return keys[:count]


def place(backend: MemcachedBackend, name: str) -> Place:
    return backend.places_of(GROUP, name)[0]


def record(fence: Fence, engine: sa.Engine, places: Collection[Place]) -> None:
    """Commits, without having reached these places."""
    with engine.begin() as connection:
        fence.record(connection.connection, connection.dialect, places)


def rows(engine: sa.Engine) -> list[tuple[str, str]]:
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(sa.select(FENCE.c.server, FENCE.c.item).order_by(FENCE.c.id))]


class Polls:
    """Counts a fence's queries of its table; with ``hold`` set, the next one waits for that event."""

    def __init__(self, fence: Fence | None) -> None:
        assert fence is not None
        assert fence._table is not None
        self.count = 0
        self.hold: threading.Event | None = None
        self.held = threading.Event()
        sa.event.listen(fence._table.reader, "after_cursor_execute", self._record)

    def _record(self, _connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if statement.startswith("SELECT person_repo_fence.id"):
            self.count += 1
            if (hold := self.hold) is not None:
                self.hold = None
                self.held.set()
                assert hold.wait(30)


def filled(backend: MemcachedBackend, names: Collection[str]) -> None:
    for name in names:
        lease = backend.fetch(GROUP, name)
        assert isinstance(lease, Lease)
        assert backend.fill(lease, b"old")


# Polls


def test_all_threads_together_poll_once_in_an_interval(process: Process, clock: Clock) -> None:
    fence = process()
    polls = Polls(fence)
    threads = 8
    ready = threading.Barrier(threads)

    def read() -> None:
        ready.wait(30)
        for _ in range(50):
            assert not fence.is_raised()

    with ThreadPoolExecutor(threads) as pool:
        for interval in (1, 2, 3):
            for done in [pool.submit(read) for _ in range(threads)]:
                done.result()
            assert polls.count == interval
            clock.now += INTERVAL


def test_a_thread_that_needs_the_poll_of_another_waits_for_it(
    process: Process, people_engine: sa.Engine, backend: MemcachedBackend
) -> None:
    """The first poll of a process: no thread may read the cache before it ends."""
    fence = process()
    record(process(), people_engine, [place(backend, key(1))])
    polls = Polls(fence)
    go_on = polls.hold = threading.Event()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(fence.blocks, GROUP, key(1))
        assert polls.held.wait(30)
        second = pool.submit(fence.blocks, GROUP, key(1))
        go_on.set()
        assert first.result()
        assert second.result()
    assert polls.count == 1


def test_a_poll_that_never_ends_delays_others_by_a_second_at_most(process: Process) -> None:
    slept: list[float] = []
    fence = process(sleep=slept.append)
    polls = Polls(fence)
    go_on = polls.hold = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        hanging = pool.submit(fence.is_raised)
        assert polls.held.wait(30)

        assert not fence.is_raised()

        assert polls.count == 2
        assert 0 < sum(slept) <= 1.0 + 1e-9
        go_on.set()
        assert not hanging.result()


def test_an_overdue_view_is_used_for_a_moment_while_another_thread_polls(process: Process, clock: Clock) -> None:
    fence = process(sleep=lambda seconds: pytest.fail("waited"))
    assert not fence.is_raised()
    clock.now += INTERVAL + 0.04
    polls = Polls(fence)
    go_on = polls.hold = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        polling = pool.submit(fence.is_raised)
        assert polls.held.wait(30)

        assert not fence.is_raised()

        go_on.set()
        polling.result()
    assert polls.count == 1


def test_only_reads_through_the_cache_poll(engine: sa.Engine, memcached_servers: list[Memcached]) -> None:
    Base.metadata.create_all(engine)
    with PersonService.over(engine, make_region(patient_url(memcached_servers, fence_interval=0.001))) as people:
        polls = Polls(people.cached.fence)
        people.add(Person(id="ada", first_name="Ada", last_name="Lovelace"))
        people.update("ada", first_name="Augusta")
        with people.using(use_db=True):
            people.get("ada")
        people.list()
        assert polls.count == 0

        people.get("ada")
        assert polls.count == 1


def test_readers_learn_of_a_recorded_place_after_its_commit_and_not_before(
    process: Process, people_engine: sa.Engine, backend: MemcachedBackend, clock: Clock
) -> None:
    writer, reader = process(), process()
    with people_engine.connect() as connection:
        transaction = connection.begin()
        writer.record(connection.connection, connection.dialect, [place(backend, key(1))])
        assert not reader.blocks(GROUP, key(1))
        transaction.rollback()
        clock.now += INTERVAL
        assert not reader.blocks(GROUP, key(1))
    record(writer, people_engine, [place(backend, key(1))])
    clock.now += INTERVAL * 0.75
    assert not reader.blocks(GROUP, key(1))

    clock.now += INTERVAL * 0.25

    assert reader.blocks(GROUP, key(1))
    assert not reader.blocks(GROUP, key(2))


def test_a_marker_blocks_every_item_of_its_group_on_its_server(
    process: Process, people_engine: sa.Engine, backend: MemcachedBackend, servers: list[str]
) -> None:
    record(process(), people_engine, [(servers[0], marker_of(GROUP))])
    reader = process()
    assert [reader.blocks(GROUP, keys_on(backend, server, 1)[0]) for server in servers] == [True, False, False]
    assert not reader.blocks("pr:person_repo:pet", keys_on(backend, servers[0], 1)[0])


def test_the_rows_of_another_namespace_block_nothing(
    process: Process, people_engine: sa.Engine, servers: list[str], backend: MemcachedBackend
) -> None:
    other = Fence(MemcachedBackend({"servers": servers, "namespace": "crm"}), read_engine_of(people_engine))
    record(other, people_engine, [place(backend, key(1))])
    reader = process()
    assert not reader.is_raised()
    assert reader.deliver() == 0
    assert len(rows(people_engine)) == 1
    read_engine_of(people_engine).dispose()


def test_a_poll_that_ends_after_a_later_one_is_dropped(
    process: Process, people_engine: sa.Engine, backend: MemcachedBackend, clock: Clock
) -> None:
    """Poll A begins before the commit and ends after poll B, which began after the commit: A lacks the row."""
    fence, writer = process(), process()
    polls = Polls(fence)
    go_on = polls.hold = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        earlier = pool.submit(fence.is_raised)
        assert polls.held.wait(30)
        writer.insert([place(backend, key(1))], held_for=100)
        clock.now += 1.0
        assert fence.blocks(GROUP, key(1))
        go_on.set()
        earlier.result()

    assert fence.blocks(GROUP, key(1))
    assert polls.count == 2


# Delivery


def test_a_poll_delivers_what_can_be_reached(
    process: Process, people_engine: sa.Engine, backend: MemcachedBackend, clock: Clock
) -> None:
    filled(backend, [key(1), key(2)])
    record(process(), people_engine, [place(backend, key(1))])
    reader = process()

    assert reader.blocks(GROUP, key(1))

    assert rows(people_engine) == []
    assert isinstance(backend.fetch(GROUP, key(1)), Lease)
    assert backend.fetch(GROUP, key(2)) == b"old"
    clock.now += INTERVAL
    assert not reader.is_raised()
    assert backend.counters.snapshot().delivered == 1


def test_a_row_stays_while_its_server_cannot_be_reached(
    process: Process, people_engine: sa.Engine, memcached_servers: list[Memcached], clock: Clock,
    backend: MemcachedBackend, servers: list[str],
) -> None:  # fmt: skip
    down, up = keys_on(backend, servers[0], 1)[0], keys_on(backend, servers[1], 1)[0]
    record(process(), people_engine, [place(backend, down), place(backend, up)])
    memcached_servers[0].kill()
    reader = process()
    assert reader.deliver() == 1
    assert rows(people_engine) == [(servers[0], down)]
    assert reader.blocks(GROUP, down)
    assert not reader.blocks(GROUP, up)

    memcached_servers[0].start()
    clock.now += backend.settings.breaker_reset

    assert reader.deliver() == 0
    assert rows(people_engine) == []
    assert not reader.is_raised()


def test_only_the_rows_of_the_poll_are_deleted(
    process: Process, people_engine: sa.Engine, backend: MemcachedBackend, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    """Another commit records the same item while a delivery removes it: an old entry may stand there again."""
    writer, reader = process(), process()
    record(writer, people_engine, [place(backend, key(1))])
    retire = backend.retire

    def and_meanwhile(places: Collection[Place]) -> frozenset[Place]:
        retired = retire(places)
        monkeypatch.undo()
        record(writer, people_engine, places)
        return retired

    monkeypatch.setattr(backend, "retire", and_meanwhile)
    assert reader.blocks(GROUP, key(1))

    assert rows(people_engine) == [place(backend, key(1))]
    clock.now += INTERVAL
    assert reader.blocks(GROUP, key(1))
    assert rows(people_engine) == []


def test_a_held_row_blocks_although_another_row_of_the_same_item_is_delivered(
    process: Process, people_engine: sa.Engine, backend: MemcachedBackend, clock: Clock
) -> None:
    """Two strict commits in a row on one item: the row of the first is delivered while the second waits for readers to
    poll its own. They must not forget it.
    """
    writer, reader = process(), process()
    record(writer, people_engine, [place(backend, key(1))])
    writer.insert([place(backend, key(1))], held_for=10)

    assert reader.blocks(GROUP, key(1))
    assert len(rows(people_engine)) == 1
    for _ in range(9):
        assert reader.blocks(GROUP, key(1))
        clock.now += INTERVAL / 2
    clock.now += 10

    assert reader.blocks(GROUP, key(1))
    assert rows(people_engine) == []
    clock.now += INTERVAL
    assert not reader.is_raised()


def test_rows_of_a_server_that_is_gone_for_good_are_deleted_once_every_old_entry_has_expired(
    process: Process, people_engine: sa.Engine, backend: MemcachedBackend, clock: Clock
) -> None:
    record(process(), people_engine, [("10.9.9.9:11211", key(1))])
    reader = process()
    settings = backend.settings
    assert reader.deliver() == 1
    assert not reader.blocks(GROUP, key(1))
    clock.now += settings.ttl + settings.lease_ttl
    assert reader.deliver() == 1

    clock.now += 61

    assert reader.deliver() == 0
    assert rows(people_engine) == []
    assert backend.counters.snapshot().delivered == 0


def test_more_rows_than_one_poll_takes_block_whole_servers(
    process: Process, people_engine: sa.Engine, backend: MemcachedBackend, servers: list[str], clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(table, "_MAX_ROWS", 3)
    first, second = keys_on(backend, servers[0], 6), keys_on(backend, servers[1], 2)
    filled(backend, [*first, *second])
    record(process(), people_engine, [place(backend, name) for name in [*first[:5], *second]])
    reader = process()
    polls = Polls(reader)

    assert reader.blocks(GROUP, first[5])
    assert reader.blocks(GROUP, keys_on(backend, servers[1], 9)[8])
    assert not reader.blocks(GROUP, keys_on(backend, servers[2], 1)[0])

    # Each poll takes three rows; while there are more, the next poll is due at once.
    assert polls.count == 3
    assert rows(people_engine) == []
    clock.now += INTERVAL
    assert not reader.is_raised()
    assert backend.fetch(GROUP, first[5]) == b"old"
    assert all(isinstance(backend.fetch(GROUP, name), Lease) for name in [*first[:5], *second])


def test_many_items_are_delivered_as_groups_by_one_exchange_for_each_server(
    process: Process, people_engine: sa.Engine, backend: MemcachedBackend, servers: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(view, "_MAX_ITEMS", 4)
    first, second = keys_on(backend, servers[0], 4), keys_on(backend, servers[1], 3)
    filled(backend, [*first, *second])
    record(process(), people_engine, [place(backend, name) for name in [*first[:3], *second[:2]]])
    before = backend.counters.snapshot()

    assert process().deliver() == 0

    spent = backend.counters.snapshot() - before
    assert (spent.delivered, spent.round_trips) == (5, 4)  # each server is asked for the marker, and to delete it
    assert all(not isinstance(found, bytes) for found in backend.fetch_many(GROUP, [*first, *second]))


def test_delivery_stops_when_rows_cannot_be_deleted(
    process: Process, people_engine: sa.Engine, backend: MemcachedBackend
) -> None:
    """The rows stay and are delivered again: nothing is lost but the work."""
    record(process(), people_engine, [place(backend, key(1))])
    reader = process()
    sa.event.listen(reader._table.writer, "before_cursor_execute", _refusing("DELETE"))

    assert reader.deliver() == 1
    assert len(rows(people_engine)) == 1


def _refusing(word: str) -> Callable[..., None]:
    def refuse(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if statement.startswith(word):
            raise sa.exc.OperationalError(statement, {}, Exception("may not write"))

    return refuse


def test_delivery_in_the_middle_of_the_threads_own_transaction_does_not_wait_for_it(
    process: Process, people_engine: sa.Engine, backend: MemcachedBackend
) -> None:
    """SQLite has one lock for writers, and this very thread holds it."""
    record(process(), people_engine, [place(backend, key(1))])
    reader = process()
    with people_engine.begin() as connection:
        connection.execute(sa.insert(Person).values(id="ada", first_name="Ada", last_name="Byron", version=1))
        assert reader.deliver() == (1 if connection.dialect.name == "sqlite" else 0)
    assert reader.deliver() == 0


def test_an_account_that_is_handed_in_for_reads_need_not_write(
    people_engine: sa.Engine, servers: list[str], tmp_path: Any
) -> None:
    """The account of the host's engine deletes the delivered rows."""
    backend = MemcachedBackend({"servers": servers, "on_unreachable": "strict", **PATIENT})
    if people_engine.dialect.name == "sqlite":
        reader = sa.create_engine(f"sqlite:///file:{people_engine.url.database}?mode=ro&uri=true")
    else:
        only_reads = {"init_command": "SET SESSION TRANSACTION READ ONLY"}
        if people_engine.dialect.name == "postgresql":
            only_reads = {"options": "-c default_transaction_read_only=on"}
        reader = sa.create_engine(people_engine.url, isolation_level="AUTOCOMMIT", connect_args=only_reads)
    fence = fence_of(people_engine, backend, reader)
    assert fence is not None
    fence.insert([place(backend, key(1))])

    assert fence.blocks(GROUP, key(1))

    assert rows(people_engine) == []
    with pytest.raises(sa.exc.DBAPIError, match=r"(?i)read.?only"), reader.begin() as connection:
        connection.execute(sa.delete(FENCE))
    read_engine_of(people_engine).dispose()
    reader.dispose()


def test_a_place_that_this_process_blocks_is_blocked_here_at_once(
    process: Process, backend: MemcachedBackend, clock: Clock
) -> None:
    fence = process()
    assert not fence.is_raised()
    clock.now += 0.1
    fence.block_locally([place(backend, key(1))])
    assert fence.blocks(GROUP, key(1))
    assert not fence.blocks(GROUP, key(2))
    clock.now += INTERVAL

    # This poll would have read the row, had another process not delivered it.
    assert not fence.is_raised()


def test_a_place_that_is_blocked_during_a_poll_outlasts_it(
    process: Process, backend: MemcachedBackend, clock: Clock
) -> None:
    """The poll began before the commit, so it did not read the row."""
    fence = process()
    polls = Polls(fence)
    go_on = polls.hold = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        polling = pool.submit(fence.is_raised)
        assert polls.held.wait(30)
        fence.block_locally([place(backend, key(1))])
        go_on.set()
        polling.result()
    assert fence.blocks(GROUP, key(1))


# A database of one connection


@pytest.fixture
def in_memory(memcached_servers: list[Memcached]) -> Iterator[PersonService]:
    url = patient_url(memcached_servers, fence_interval=0.001, breaker_reset=0.001)
    with connect("sqlite://", url) as people:
        Base.metadata.create_all(people.engine)
        people.add(Person(id="ada", first_name="0", last_name="of ada"))
        yield people


def test_a_database_of_one_connection_has_its_fence_in_the_process(
    in_memory: PersonService,
) -> None:
    people = in_memory
    assert people.get_one("ada").first_name == people.get_one("ada").first_name == "0"
    backend = lease_backend(people.region)
    assert isinstance(backend, MemcachedBackend)
    backend.addresses = dict.fromkeys(backend.servers, f"127.0.0.1:{free_port()}")
    backend.close()
    people.update("ada", first_name="1")
    for _ in range(3):
        assert people.get_one("ada").first_name == "1"
    backend.addresses = {}
    for _ in range(3):
        assert people.get_one("ada").first_name == "1"

    with people.engine.connect() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(FENCE)).scalar_one() == 0
    while people.deliver():
        time.sleep(0.002)  # until the circuits close
    people.get("ada")
    before = people.stats()
    assert people.get_one("ada").first_name == "1"
    assert (people.stats() - before).hits == 1


def test_a_place_that_is_blocked_again_during_its_delivery_is_delivered_again(
    backend: MemcachedBackend, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    fence = Fence(backend, None, clock=clock, wall=clock.wall)
    fence.block_locally([place(backend, key(1))])
    retire = backend.retire

    def and_meanwhile(places: Collection[Place]) -> frozenset[Place]:
        retired = retire(places)
        clock.now += 0.1
        fence.block_locally(places)
        return retired

    monkeypatch.setattr(backend, "retire", and_meanwhile)
    clock.now += INTERVAL
    assert fence.blocks(GROUP, key(1))
    monkeypatch.undo()

    assert fence.blocks(GROUP, key(1))
    clock.now += INTERVAL
    assert not fence.is_raised()


# A database without the table, or out of reach


@pytest.fixture
def without_table(people_engine: sa.Engine) -> sa.Engine:
    FENCE.drop(people_engine)
    return people_engine


def test_a_missing_table_is_logged_once_with_its_remedy_and_polled_every_ten_seconds(
    process: Process, without_table: sa.Engine, backend: MemcachedBackend, clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    fence = process()
    polls = backend.counters.snapshot().fence_polls
    with caplog.at_level(logging.INFO, "person_repo.fence"):
        for _ in range(30):
            assert not fence.is_raised()
            record(fence, without_table, [place(backend, key(1))])
            clock.now += INTERVAL
    assert backend.counters.snapshot().fence_polls - polls == 3
    (logged,) = caplog.records
    assert logged.levelno == logging.ERROR
    assert "migrations.upgrade(engine)" in logged.getMessage()

    Base.metadata.create_all(without_table)
    record(fence, without_table, [place(backend, key(1))])
    clock.now += 10

    assert fence.blocks(GROUP, key(1))


def test_an_older_revision_is_logged_once_with_its_remedy(
    process: Process, people_engine: sa.Engine, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    with people_engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE person_repo_version (version_num VARCHAR(32))")
        connection.exec_driver_sql("INSERT INTO person_repo_version VALUES ('person_repo_layer_0000')")
    fence = process()
    for _ in range(3):
        assert not fence.is_raised()
        clock.now += INTERVAL

    (logged,) = [record for record in caplog.records if record.name == "person_repo.fence"]
    assert logged.levelno == logging.WARNING
    assert "is at person_repo_layer_0000, and this version needs person_repo_layer_0002" in logged.getMessage()
    assert "migrations.upgrade(engine)" in logged.getMessage()


def test_an_account_that_may_not_read_the_revision_polls_all_the_same(
    process: Process, people_engine: sa.Engine, backend: MemcachedBackend, caplog: pytest.LogCaptureFixture
) -> None:
    with people_engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE person_repo_version (no_version INTEGER)")
    fence = process()
    record(fence, people_engine, [place(backend, key(1))])
    assert fence.blocks(GROUP, key(1))
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


def test_nothing_can_be_inserted_without_the_table(
    process: Process, without_table: sa.Engine, backend: MemcachedBackend
) -> None:
    with pytest.raises(CacheUnavailableError, match=r"has no table person_repo_fence.*upgrade"):
        process().insert([place(backend, key(1))])


@pytest.mark.parametrize("how", ["proceed", "strict"])
def test_a_fence_that_cannot_be_read_raises_under_strict_only(
    people_engine: sa.Engine, servers: list[str], clock: Clock, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    backend = MemcachedBackend({"servers": servers, "on_unreachable": how, "fence_interval": INTERVAL, **PATIENT})
    reader = read_engine_of(people_engine)
    fence = Fence(backend, reader, clock=clock, wall=clock.wall)
    fence.insert([place(backend, key(1))], held_for=100)
    assert fence.blocks(GROUP, key(1))
    refuse = _refusing("SELECT")
    sa.event.listen(reader, "before_cursor_execute", refuse)
    for _ in range(3):
        clock.now += INTERVAL
        if how == "strict":
            with pytest.raises(sa.exc.OperationalError):
                fence.blocks(GROUP, key(1))
        else:
            assert fence.blocks(GROUP, key(1))
    assert [record.levelno for record in caplog.records if record.name == "person_repo.fence"] == [logging.ERROR]

    sa.event.remove(reader, "before_cursor_execute", refuse)
    clock.now += INTERVAL
    assert fence.blocks(GROUP, key(1))
    reader.dispose()


def test_a_cache_and_an_engine_have_one_fence_for_everybody(
    people_engine: sa.Engine, backend: MemcachedBackend
) -> None:
    found = fence_of(people_engine, backend)
    assert found is not None
    assert fence_of(people_engine.execution_options(isolation_level="SERIALIZABLE"), backend) is found
    assert fence_of(people_engine, MemcachedBackend({"servers": backend.servers})) is not found
