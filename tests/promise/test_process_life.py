"""Forks, threads that are interrupted, closing and the interpreter's exit: a process's life, with a cache in it."""

from __future__ import annotations

import ctypes
import gc
import logging
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.util import queue
from support.forks import forking, in_child, running_in_child
from support.interruptions import came_of
from support.proofs import is_sample
from support.servers import Memcached
from support.unruly import Door
from support.urls import MEMORY, patient_url

from person_repo.cache.memcached.backend import MemcachedBackend
from person_repo.cache.memory import MemoryBackend
from person_repo.cache.region import lease_backend
from person_repo.fence import view as fences
from person_repo.model import Base, Person
from person_repo.service import PersonService, connect
from person_repo.writing import coverage

IDS = [f"p{n}" for n in range(20)]

pytestmark = pytest.mark.proof(name="interleavings", sample=1, again=True)


@contextmanager
def people_of(database_url: str, cache_url: str) -> Iterator[PersonService]:
    with connect(database_url, cache_url) as people:
        Base.metadata.create_all(people.engine)
        people.add_many(Person(id=id, first_name="0", last_name=id) for id in IDS)
        people.get_many(IDS)
        yield people


# Forks


def sockets_of(people: PersonService) -> set[str]:
    """This process's ends of its conversations with the cache and the database."""
    backend = lease_backend(people.region)
    assert isinstance(backend, MemcachedBackend)
    found = {str(each._socket.getsockname()) for each in backend._pool._local.connections.values()}
    for engine in (people.engine, people.read_engine):
        with engine.connect() as connection:
            found.add(f"mysql {connection.exec_driver_sql('SELECT CONNECTION_ID()').scalar_one()}")
    return found


def live(people: PersonService, mine: str, others: list[str]) -> None:
    """Reads and writes, as fast as it goes; answers that are not right raise."""
    for number in range(1, 40):
        people.update(mine, first_name=str(number))
        assert people.get_one(mine).first_name == str(number)
        found = people.get_many(others)
        assert {id: each.last_name for id, each in found.items()} == {id: id for id in others}
        assert all(people.get_one(id).last_name == id for id in others[:5])


@forking
def test_children_forked_after_use_share_no_socket_and_get_their_own_answers(
    mysql_url: str, memcached_servers: list[Memcached]
) -> None:
    """As a server that loads its application before it forks its workers: gunicorn's preload."""
    with people_of(mysql_url, patient_url(memcached_servers, fence_interval=0.01)) as people:
        assert people.cached.fence is not None
        before = sockets_of(people)
        assert len(before) == 5

        def child(number: int) -> str:
            live(people, IDS[number], IDS[5:])
            return "|".join(sorted(sockets_of(people)))

        with ExitStack() as running:
            said = [running.enter_context(running_in_child(lambda n=n: child(n))) for n in range(4)]
            live(people, IDS[4], IDS[5:])
        conversations = [set(each().split("|")) for each in said]

        assert [len(each) for each in conversations] == [5] * 4
        everybodys = [*conversations, before]
        assert len(set.union(*everybodys)) == sum(map(len, everybodys))
        assert sockets_of(people) == before
        assert [people.get_one(id).first_name for id in IDS[:5]] == ["39"] * 5


@contextmanager
def held_elsewhere(lock: Any) -> Iterator[None]:
    """A lock that another thread has, for as long as the block runs."""
    taken, over = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            taken.set()
            assert over.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    assert taken.wait(60)
    try:
        yield
    finally:
        over.set()
        thread.join()


def lock_of_fence(people: PersonService) -> Any:
    assert people.cached.fence is not None
    return people.cached.fence._lock


def lock_of_a_breaker(people: PersonService) -> Any:
    backend = lease_backend(people.region)
    assert isinstance(backend, MemcachedBackend)
    return backend._pool.breakers[backend.servers[0]]._lock


def place_of_the_bulkhead(people: PersonService) -> Any:
    bulkhead = lease_backend(people.region).bulkhead
    assert bulkhead is not None
    return bulkhead.entered()


LOCKS: list[Callable[[PersonService], Any]] = [
    lock_of_fence, lock_of_a_breaker, place_of_the_bulkhead, lambda _: fences._making, lambda _: coverage._covering,
]  # fmt: skip


@forking
@pytest.mark.parametrize("lock", LOCKS, ids=["fence", "breaker", "bulkhead", "making a fence", "covering"])
def test_a_child_is_not_locked_out_by_a_thread_that_it_does_not_have(
    mysql_url: str, memcached_servers: list[Memcached], lock: Callable[[PersonService], Any]
) -> None:
    options = {"max_loads": 1, "max_load_wait": 0.01, "fence_interval": 0.001}
    with people_of(mysql_url, patient_url(memcached_servers, **options)) as people, held_elsewhere(lock(people)):

        def child() -> str:
            backend = lease_backend(people.region)
            assert isinstance(backend, MemcachedBackend)
            backend._pool.breakers[backend.servers[0]].failed()
            live(people, "p0", IDS)
            with orm.Session(people.engine) as session, session.begin():
                people.bind(session).update("p1", first_name="bound")
            fences.fence_of(sa.create_engine(mysql_url), backend)
            return people.get_one("p1").first_name

        assert in_child(child) == "bound"


@forking
def test_a_child_is_not_locked_out_of_the_cache_in_memory(mysql_url: str) -> None:
    with people_of(mysql_url, MEMORY) as people:
        backend = lease_backend(people.region)
        assert isinstance(backend, MemoryBackend)
        with held_elsewhere(backend._lock):
            assert in_child(lambda: live(people, "p0", IDS)) == "None"


@forking
def test_a_child_does_not_wait_for_a_look_that_its_parent_is_at(
    mysql_url: str, memcached_servers: list[Memcached], monkeypatch: pytest.MonkeyPatch
) -> None:
    with people_of(mysql_url, patient_url(memcached_servers, fence_interval=0.001)) as people:
        fence = people.cached.fence
        assert fence is not None
        fence._polling_until = time.monotonic() + 1000
        monkeypatch.setattr(fence, "_sleep", lambda _: pytest.fail("waited"))
        time.sleep(0.06)
        assert in_child(lambda: people.get_one("p0").first_name) == "0"


# Interruptions


@pytest.fixture
def finalisers_may_be_interrupted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Their errors are printed and swallowed. Pytest's hook for them is Python, and would be interrupted, too.

    The pool logs an error when it is interrupted while it closes a connection. Pytest keeps the record, and by its
    traceback the cursor, which holds its lock on SQLite as long as it is referred to.
    """
    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)
    pools = logging.getLogger("sqlalchemy.pool")
    pools.setLevel(logging.CRITICAL)
    yield
    pools.setLevel(logging.NOTSET)


class Interruption(BaseException):
    """Sent to a thread at any point."""


def interrupt(thread: int) -> None:
    """Sends it, but not to a thread that takes or gives back the lock of SQLAlchemy's pool.

    Python code does that, as for all conditions, and an exception in the middle leaves the lock taken for ever.
    """
    frame = sys._current_frames().get(thread)
    if frame is not None and frame.f_code.co_filename in (threading.__file__, queue.__file__):
        return
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(Interruption))


@pytest.fixture
def interruptions(request: pytest.FixtureRequest) -> int:
    """How often a test interrupts."""
    return 100 if is_sample(request.config) else 300


def ask(people: PersonService, chance: random.Random) -> list[str]:
    """One question, and what is wrong with the answer."""
    ids = chance.sample(IDS, 3)
    if chance.random() < 0.3:
        found = people.get_many(ids)
        return [f"{id} is {each}" for id, each in found.items() if each.last_name != id] + (
            [] if list(found) == ids else [f"{ids} are {list(found)}"]
        )
    if chance.random() < 0.02:
        people.invalidate(ids[0])
    one = people.get(ids[0])
    return [] if one is not None and one.last_name == ids[0] else [f"{ids[0]} is {one}"]


@pytest.mark.usefixtures("finalisers_may_be_interrupted")
def test_a_thread_that_is_interrupted_anywhere_gets_the_answer_to_its_next_question(
    database_url: str, memcached_servers: list[Memcached], draw: random.Random, interruptions: int
) -> None:
    """By an exception that another thread sends; and nothing that threads share is left taken."""
    options = {"wait": 0.01, "fence_interval": 0.001, "max_loads": 2, "max_load_wait": 60}
    wrong: list[str] = []
    over = threading.Event()
    interrupted = [0] * 3
    running: dict[int, int] = {}
    seeds = [draw.getrandbits(64) for _ in range(3)]

    with people_of(database_url, patient_url(memcached_servers, **options)) as people:

        def work(number: int) -> None:
            chance = random.Random(seeds[number])
            while not over.is_set():
                try:
                    while not over.is_set():
                        running[number] = threading.get_ident()
                        wrong.extend(ask(people, chance))
                except BaseException as exc:
                    if not came_of(exc, Interruption):
                        wrong.append(repr(exc))
                        raise
                    interrupted[number] += 1

        def guarded(number: int) -> None:
            while not over.is_set():
                try:
                    work(number)
                except Interruption:
                    interrupted[number] += 1

        threads = [threading.Thread(target=guarded, args=(number,), daemon=True) for number in range(3)]
        for thread in threads:
            thread.start()
        ends = time.monotonic() + 200
        while sum(interrupted) < interruptions and not wrong:
            assert time.monotonic() < ends, interrupted
            if running:
                interrupt(draw.choice(list(running.values())))
            time.sleep(draw.random() / 100)
        over.set()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()

        assert wrong == []
        fence, bulkhead = people.cached.fence, lease_backend(people.region).bulkhead
        assert fence is not None
        assert bulkhead is not None
        assert not fence._lock.locked()
        assert fence._polling_until < time.monotonic()
        assert not any(bulkhead._tickets.values())
        gc.collect()
        live(people, "p0", IDS)


# pytest-timeout's own alarm is the one that is sent here.
@pytest.mark.timeout(300, method="thread")
@pytest.mark.usefixtures("finalisers_may_be_interrupted")
def test_after_ctrl_c_the_next_answer_is_to_the_next_question(
    database_url: str, memcached_servers: list[Memcached], draw: random.Random, interruptions: int
) -> None:
    def ctrl_c(*_: Any) -> None:
        raise KeyboardInterrupt

    wrong: list[str] = []
    interrupted = 0
    with people_of(database_url, patient_url(memcached_servers, wait=0.01)) as people:
        before = signal.signal(signal.SIGALRM, ctrl_c)
        try:
            while interrupted < interruptions:
                try:
                    signal.setitimer(signal.ITIMER_REAL, draw.random() / 500 + 1e-6)
                    for _ in range(100):
                        wrong += ask(people, draw)
                except BaseException as exc:
                    if not came_of(exc, KeyboardInterrupt):
                        raise
                    interrupted += 1
                signal.setitimer(signal.ITIMER_REAL, 0)
        finally:
            signal.signal(signal.SIGALRM, before)
        assert wrong == []
        gc.collect()  # a cursor that was interrupted holds its lock on SQLite as long as it is referred to
        live(people, "p0", IDS)


def test_after_a_reply_that_stops_in_the_middle_the_next_answer_is_to_the_next_question(
    database_url: str, memcached_servers: list[Memcached]
) -> None:
    """The rest of the reply comes after the timeout, when another question is asked."""
    with (
        Door(memcached_servers[0].port) as door,
        people_of(database_url, f"memcached://{door.url}?timeout=0.1") as people,
    ):
        assert people.get_one("p0").last_name == "p0"
        began = threading.Event()

        def stop_in_the_middle(door: Door, visitor: Any, _request: bytes) -> None:
            door.answer = None
            visitor.sendall(b"VA 8 f16777224\r\n0123")
            began.set()

        for id in IDS:
            door.answer = stop_in_the_middle
            assert people.get_one(id).last_name == id
            assert people.get_one(id).last_name == id
        assert began.is_set()
        assert people.stats().errors >= len(IDS) // 2


# The end


def test_closing_takes_no_order_and_no_end(database_url: str, memcached_servers: list[Memcached]) -> None:
    """Twice, by threads that never used it, while others use it; and the service is good for more."""
    with people_of(database_url, patient_url(memcached_servers)) as people:
        failed: list[BaseException] = []

        def use_and_close() -> None:
            try:
                for _ in range(5):
                    people.get_many(IDS)
                    people.close()
                    people.close()
                    people.get_one("p0")
            except BaseException as exc:
                failed.append(exc)

        for close_first in (True, False):
            threads = [threading.Thread(target=use_and_close) for _ in range(4)]
            threads.append(threading.Thread(target=people.close))
            for thread in threads[:: -1 if close_first else 1]:
                thread.start()
            for thread in threads:
                thread.join()
        assert failed == []
        people.close()
        live(people, "p0", IDS)


PROGRAM = """
import logging, sys, threading
from person_repo import connect
logging.getLogger("person_repo").addHandler(logging.NullHandler())
people = connect(sys.argv[1], sys.argv[2])
print(people.get_one("p0").first_name, flush=True)
def read(number):
    mine = people if number % 2 else connect(sys.argv[1], sys.argv[2])
    while True:
        mine.get_many([f"p{n}" for n in range(20)])
        mine.get("p1")
ready = threading.Semaphore(0)
def begin(number):
    ready.release()
    read(number)
for number in range(4):
    threading.Thread(target=begin, args=(number,), daemon=True).start()
    ready.acquire()
for _ in range(20):
    people.get("p2")
people.update("p3", first_name="1")
"""


@pytest.mark.parametrize("server", ["answers", "hangs"])
def test_the_interpreter_ends_without_a_word(
    database_url: str, memcached_servers: list[Memcached], server: str, request: pytest.FixtureRequest
) -> None:
    """With connections open, in the middle of replies, and threads that go on reading to the last."""
    cache_url = patient_url(memcached_servers, timeout=0.25 if server == "hangs" else 10)
    with people_of(database_url, cache_url) as people:
        people.close()
        if server == "hangs":
            memcached_servers[0].pause()
        for _ in range(1 if is_sample(request.config) else 3):
            done = subprocess.run(
                [sys.executable, "-W", "error", "-c", PROGRAM, database_url, cache_url],
                capture_output=True, text=True, timeout=250, check=False,
            )  # fmt: skip
            assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")
