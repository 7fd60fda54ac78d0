"""A writer that is killed by SIGKILL, before each call through which a write reaches the world outside its process.

Between two such calls nothing changes outside, so a kill before each of them, and one after the last, are all the kills
there are. Each victim has a person and a namespace of its own, so that no victim repairs another one's damage.
"""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from support.forks import forking
from support.servers import Memcached, free_port

from person_repo.cache.memcached.backend import MemcachedBackend
from person_repo.cache.region import lease_backend, make_region
from person_repo.database.repository import SQLAlchemyRepository
from person_repo.exceptions import CacheUnavailableError
from person_repo.model import FENCE, Base, Person
from person_repo.reading.cached import CachedRepository
from person_repo.service import PersonService

INTERVAL = 0.05
AT_ONCE = 6

LIMIT = 300
"""Seconds after which a process, or a wait, that never ends is an error. A busy machine needs some tens of them."""


class _Calls:
    """Counts calls that reach outside, and kills this process right before call number ``last``."""

    def __init__(self) -> None:
        self.count = 0
        self.last: int | None = None
        self.counts = False

    def next(self) -> None:
        if self.counts:
            self.count += 1
            if self.count == self.last:
                os.kill(os.getpid(), signal.SIGKILL)


calls = _Calls()


def counted(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        calls.next()
        return function(*args, **kwargs)

    return call


class CountedCursor(sqlite3.Cursor):
    execute = counted(sqlite3.Cursor.execute)
    executemany = counted(sqlite3.Cursor.executemany)


class CountedConnection(sqlite3.Connection):
    commit = counted(sqlite3.Connection.commit)
    rollback = counted(sqlite3.Connection.rollback)

    def cursor(self, *_args: Any) -> Any:
        return super().cursor(CountedCursor)


def count_sockets() -> None:
    """Counts calls of sockets, to memcached and to MySQL alike, which talks TLS where it may; for a forked process."""
    for kind in (socket.socket, ssl.SSLSocket):
        for name in ("connect", "send", "sendall", "recv", "recv_into"):
            setattr(kind, name, counted(getattr(kind, name)))


# The writes


def changed(people: PersonService, id: str) -> None:
    people.update(id, first_name="new")


def deleted(people: PersonService, id: str) -> None:
    with orm.Session(people.engine) as session, session.begin():
        session.delete(session.get_one(Person, id))


def dropped(people: PersonService, id: str) -> None:
    with people.engine.begin() as connection:
        connection.execute(sa.text("UPDATE person SET first_name = 'new' WHERE id = :id"), {"id": id})


def added(people: PersonService, id: str) -> None:
    people.add(Person(id=id, first_name="new", last_name="of nobody"))


WRITES: Sequence[Callable[[PersonService, str], None]] = (changed, deleted, dropped, added)


class Mode(NamedTuple):
    name: str
    cut_off: bool
    on_unreachable: str


MODES = [Mode("reachable", False, "proceed"), Mode("proceed", True, "proceed"), Mode("strict", True, "strict")]


@dataclass
class Victim:
    """A write, the call before which it is killed, and a reader to which the cache has given the old state."""

    id: str
    write: Callable[[PersonService, str], None]
    last: int | None
    reader: CachedRepository[Person]
    pid: int = 0

    def read(self) -> str | None:
        someone = self.reader.get(self.id)
        return None if someone is None else someone.first_name

    def stored(self) -> str | None:
        someone = self.reader.database.get(self.id)
        return None if someone is None else someone.first_name

    def is_hit(self) -> bool:
        before = self.reader.stats().hits
        self.reader.get(self.id)
        return self.reader.stats().hits > before


class Scene:
    """An engine for victims, one for readers, and one memcached for both."""

    def __init__(self, database_url: str, server: Memcached, mode: Mode) -> None:
        arguments = {"factory": CountedConnection, "timeout": 60} if database_url.startswith("sqlite") else {}
        self.victims_engine = sa.create_engine(database_url, connect_args=arguments)
        self.readers_engine = sa.create_engine(database_url)
        self.server = server
        self.mode = mode
        self._number = 0
        Base.metadata.create_all(self.readers_engine)
        # SQLAlchemy asks a new database for its version and more; that is no part of a write.
        with self.victims_engine.connect() as connection:
            connection.execute(sa.select(Person))
        self.victims_engine.dispose()

    def region(self, namespace: str) -> Any:
        return make_region(
            f"memcached://{self.server.url}",
            namespace=namespace,
            tombstone_ttl=1,
            lease_ttl=10,
            timeout=30,
            connect_timeout=30,
            on_unreachable=self.mode.on_unreachable,
            fence_interval=INTERVAL,
        )

    def victim(self, write: Callable[[PersonService, str], None], last: int | None) -> Victim:
        self._number += 1
        id = f"p{self._number}"
        if write is not added:
            with orm.Session(self.readers_engine) as session, session.begin():
                session.add(Person(id=id, first_name="old", last_name=f"of {id}"))
        reader = CachedRepository(SQLAlchemyRepository(Person, self.readers_engine), self.region(id))
        victim = Victim(id, write, last, reader)
        assert victim.read() == (None if write is added else "old")
        assert victim.is_hit()
        return victim

    def begin(self, victim: Victim) -> int | None:
        """Starts a victim. If it is not to be killed, returns how many calls its write made."""
        reading, writing = os.pipe()
        victim.pid = os.fork()
        if victim.pid == 0:
            try:
                signal.alarm(LIMIT)
                self._write(victim)
                os.write(writing, str(calls.count).encode())
            except BaseException as exc:
                os.write(writing, repr(exc).encode())
            finally:
                os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as answer:
            if victim.last is not None:
                return None
            said = answer.read().decode()
        self.end(victim)
        return int(said)

    def _write(self, victim: Victim) -> None:
        self.victims_engine.dispose(close=False)
        people = PersonService.over(self.victims_engine, self.region(victim.id))
        backend = lease_backend(people.region)
        assert isinstance(backend, MemcachedBackend)
        with self.victims_engine.connect() as connection:
            connection.execute(sa.text("SELECT 1"))
        people.get(victim.id)  # opens the other connections, and polls the fence
        if self.mode.cut_off:
            backend.addresses = {self.server.url: f"127.0.0.1:{free_port()}"}
            backend.close()
        count_sockets()
        calls.last = victim.last
        calls.counts = True
        try:
            victim.write(people, victim.id)
        except CacheUnavailableError:
            assert self.mode.on_unreachable == "strict"
        calls.next()
        calls.counts = False

    def end(self, victim: Victim) -> bool:
        """Waits for its end; True if it was killed."""
        _, status = os.waitpid(victim.pid, 0)
        assert status in (0, signal.SIGKILL)
        return status == signal.SIGKILL

    def undelivered(self) -> int:
        with self.readers_engine.connect() as connection:
            counted: int = connection.execute(sa.select(sa.func.count()).select_from(FENCE)).scalar_one()
            return counted

    def close(self, victims: Sequence[Victim]) -> None:
        for victim in victims:
            victim.reader.close()
        self.readers_engine.dispose()


@pytest.fixture(params=MODES, ids=lambda mode: mode.name)
def scene(request: pytest.FixtureRequest, database_url: str, memcached_servers: list[Memcached]) -> Scene:
    return Scene(database_url, memcached_servers[0], request.param)


@forking
@pytest.mark.timeout(4 * LIMIT)
@pytest.mark.proof(name="kill", sample=1, again=True)
def test_wherever_a_writer_is_killed_nothing_stale_is_read_and_nothing_stays_blocked(scene: Scene) -> None:
    victims: list[Victim] = []
    survivors: list[Victim] = []
    for write in WRITES:
        survivors.append(scene.victim(write, None))
        count = scene.begin(survivors[-1])
        assert count is not None
        victims += [scene.victim(write, last) for last in range(1, count + 1)]
    assert len(victims) > 20

    killed = 0
    for start in range(0, len(victims), AT_ONCE):
        wave = victims[start : start + AT_ONCE]
        for victim in wave:
            scene.begin(victim)
        killed += sum([scene.end(victim) for victim in wave])
    # A reply may come in fewer pieces than when the calls were counted; then the last calls are never made.
    assert killed > len(victims) * 0.8
    victims += survivors

    stored = {victim.id: victim.stored() for victim in victims}
    time.sleep(INTERVAL + 0.1)  # every reader polls from now on
    outcomes = set()
    for victim in victims:
        new = None if victim.write is deleted else "new"
        if stored[victim.id] == new:
            assert victim.read() == new, victim
        outcomes.add((victim.write, stored[victim.id] == new))
    if scene.mode.on_unreachable == "proceed" or scene.readers_engine.dialect.name != "sqlite":
        assert len(outcomes) == 2 * len(WRITES), "some are to be killed before the commit, some after it"

    until = time.monotonic() + LIMIT
    blocked = victims
    while blocked or scene.undelivered():
        assert time.monotonic() < until, [(victim.write.__name__, victim.last) for victim in blocked]
        blocked = [victim for victim in blocked if victim.read() != victim.stored() or not victim.is_hit()]
        time.sleep(0.05)
    assert [victim.read() for victim in victims] == [victim.stored() for victim in victims]
    scene.close(victims)
