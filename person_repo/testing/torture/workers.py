"""The promise under torture: readers and writers in processes of their own, faults among them, and an exact check.

``run`` is the whole of it; ``person-repo torture`` prints what it returns. Every worker writes down what it did and
when, by the machine's one monotonic clock; ``history`` judges the record afterwards. The people it works on have ids
of their own (``torture-...``), and go when it is over.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import sqlalchemy as sa
from dogpile.cache import CacheRegion
from sqlalchemy import orm

from person_repo import migrations
from person_repo.cache.memcached.backend import MemcachedBackend
from person_repo.cache.region import lease_backend, make_region
from person_repo.exceptions import CacheUnavailableError, ConfigurationError, PersonRepoError
from person_repo.model import Person
from person_repo.service import PersonService, connect
from person_repo.settings import CacheSettings, parse_cache_url
from person_repo.testing.proxy import Proxy
from person_repo.testing.torture import history
from person_repo.testing.torture.history import ABSENT, Outcome, Read, Version, Write

__all__ = ["FAULTS", "Plan", "Report", "run"]

FAULTS = ("pause", "kill", "restart", "partition", "hang", "flush")
"""``pause``: a worker stands still for a moment. ``kill``: one is killed, and another takes its place. ``partition``:
one is cut off from a memcached that the others reach, until that heals. To the memcached that was started for this:
``restart``, it is killed and started again; ``hang``, it stands still for longer than anybody waits; ``flush``, it
forgets everything."""

_DONE_TO_MEMCACHED = {"restart": "kills", "hang": "stops", "flush": "empties"}
_UNREACHABLE = frozenset({"restart", "partition", "hang"})
"""Faults during which a writer's tombstone cannot be placed."""

_SLACK = 0.1
"""Seconds beyond the fence's interval by which a read may be late: what it takes to look at the fence."""

_RECORD = struct.Struct("<HqqqQQ")
_FLUSH = 500
_LONGEST_PAUSE = 0.4
_SHORTEST_HANG = 0.3  # longer than ``timeout``
_LONGEST_HANG = 1.5
_LONGEST_RECOVERY = 2.0  # after a second a server that failed is asked again: else the next hang found nobody there
_LONGEST_PARTITION = 3.0  # in intervals of the fence: some end before readers know of them, some long after
_PARTITIONS = (Proxy.cut, Proxy.hang, Proxy.blackhole, Proxy.drop)
_STARTUP = 60.0
"""Seconds that workers may take to start; the run begins when all of them have."""

_metadata = sa.MetaData()


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to do: ``seconds`` of ``readers`` and ``writers`` on ``keys`` people, with ``faults``.

    ``against``: ``person_repo``, or ``naive`` for the usual recipe (read through, delete after commit), in which a
    checker that works finds staleness. ``own_memcached`` starts one for the run, instead of ``cache_url``. With
    ``memory://`` the workers are threads of this process, and there are no faults. ``on_unreachable`` and
    ``fence_interval`` are those of ``CacheSettings``, for all workers, whatever the cache URL says.

    Raises ``ConfigurationError`` for what cannot be carried out.
    """

    database_url: str
    cache_url: str = "memory://"
    own_memcached: bool = False
    readers: int = 3
    writers: int = 2
    keys: int = 20
    seconds: float = 10.0
    faults: tuple[str, ...] = ()
    on_unreachable: str = "proceed"
    fence_interval: float = 1.0
    against: str = "person_repo"
    seed: int = 0
    prefix: str = ""

    def __post_init__(self) -> None:
        unknown = [fault for fault in self.faults if fault not in FAULTS]
        if unknown:
            raise ConfigurationError(f"unknown fault {unknown[0]!r}; known are: {', '.join(FAULTS)}")
        if self.against not in ("person_repo", "naive"):
            raise ConfigurationError(f"against {self.against!r}: give person_repo or naive")
        for name in ("readers", "writers", "keys", "seconds"):
            if getattr(self, name) <= 0:
                raise ConfigurationError(f"{name} {getattr(self, name)!r}: give more than 0")
        if self.keys > 60_000:
            raise ConfigurationError(f"keys {self.keys!r}: give at most 60000")
        CacheSettings().with_options(self._options)
        for fault, does in _DONE_TO_MEMCACHED.items():
            if fault in self.faults and not self.own_memcached:
                raise ConfigurationError(
                    f"{fault} {does} the memcached it works on: let one be started for it (own memcached)"
                )
        if self.faults and self._in_threads:
            raise ConfigurationError(
                f"{self.faults[0]} needs processes, and memory:// is coherent within one only: give a memcached:// URL"
            )
        if "partition" in self.faults and not (self.own_memcached or parse_cache_url(self.cache_url).servers):
            raise ConfigurationError("partition cuts a worker off from a server: give a memcached:// URL")
        if not self._in_threads and sa.make_url(self.database_url).database in (None, "", ":memory:"):
            raise ConfigurationError("a database in memory is one process's own: give a file or a server")

    @property
    def bound(self) -> float:
        """Seconds by which a read may be late, from the acknowledgement that it should have seen to its beginning.

        0, but where commits ``proceed`` without their tombstones: there readers learn of them by the fence.
        """
        proceeds = self.on_unreachable == "proceed" and not _UNREACHABLE.isdisjoint(self.faults)
        return self.fence_interval + _SLACK if proceeds else 0.0

    @property
    def _options(self) -> dict[str, Any]:
        return {"on_unreachable": self.on_unreachable, "fence_interval": self.fence_interval}

    @property
    def _in_threads(self) -> bool:
        return self.cache_url.startswith("memory://") and not self.own_memcached


@dataclass(frozen=True, slots=True)
class Report:
    """What was done and what was found. ``clean`` tells whether the promise was kept.

    A read that missed an acknowledged write is ``late`` if that was acknowledged no more than the plan's ``bound``
    before it began, and ``stale`` if it was longer ago; ``worst_staleness`` is the longest of both, in seconds.
    """

    plan: Plan
    reads: int
    hits: int
    writes: int
    late: int
    stale: int
    phantom: int
    worst_staleness: float
    errors: int
    faults: dict[str, int] = field(default_factory=dict)
    error_kinds: dict[str, int] = field(default_factory=dict)
    examples: tuple[str, ...] = ()

    @property
    def clean(self) -> bool:
        """No read was stale beyond the bound, none found what was never committed."""
        return self.stale == 0 and self.phantom == 0

    def as_dict(self) -> dict[str, Any]:
        """The figures by name."""
        names = ("reads", "hits", "writes", "late", "stale", "phantom", "worst_staleness", "errors", "faults", "clean")
        return {"bound": self.plan.bound, **{name: getattr(self, name) for name in names}}


def run(plan: Plan, *, progress: Callable[[float], None] | None = None) -> Report:
    """Carries a plan out and judges it. ``progress`` is told the seconds that have passed.

    Raises ``ConfigurationError`` for a plan that cannot be carried out, and what the database raises.
    """
    plan = replace(plan, prefix=f"torture-{uuid.uuid4().hex[:8]}-")
    with contextlib.ExitStack() as stack:
        memcached = stack.enter_context(_Memcached()) if plan.own_memcached else None
        if memcached is not None:
            plan = replace(plan, cache_url=memcached.url)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="person_repo-torture-")))
        stack.enter_context(_prepared(plan))
        workers: _Workers = _Threads(plan, folder) if plan._in_threads else _Processes(plan, folder)
        stack.enter_context(workers)
        faults = _Faults(plan, workers, memcached)
        start = time.monotonic()
        while (passed := time.monotonic() - start) < plan.seconds:
            faults.next(plan.seconds - passed)
            if progress is not None:
                progress(passed)
        workers.stop()
        return _report(plan, folder, faults.done)


# What the workers do


def _ledger(prefix: str) -> sa.Table:
    """One row for each key: its number, and the lock under which writers draw the next."""
    name = prefix.replace("-", "_") + "ledger"
    known = _metadata.tables.get(name)
    if known is not None:
        return known
    id = sa.Column("id", sa.String(100), primary_key=True)
    return sa.Table(name, _metadata, id, sa.Column("number", sa.Integer, nullable=False))


@contextlib.contextmanager
def _prepared(plan: Plan) -> Iterator[None]:
    with connect(plan.database_url, plan.cache_url) as people:
        migrations.upgrade(people.engine)
        ledger = _ledger(plan.prefix)
        ledger.create(people.engine)
        ids = [_id(plan, key) for key in range(plan.keys)]
        try:
            with people.engine.begin() as connection:
                connection.execute(sa.insert(ledger), [{"id": id, "number": 0} for id in ids])
            people.add_many(Person(id, "torture", _text(Version(0, 0, 0))) for id in ids)
            yield
        finally:
            with orm.Session(people.engine) as session, session.begin():
                session.execute(sa.delete(Person).where(Person.id.in_(ids)))
            ledger.drop(people.engine)


def _id(plan: Plan, key: int) -> str:
    return f"{plan.prefix}{key}"


def _text(version: Version) -> str:
    return f"{version.number}.{version.writer}.{version.serial}"


def _version(person: Person | None) -> Version:
    if person is None:
        return ABSENT
    try:
        number, writer, count = map(int, person.last_name.split("."))
    except ValueError:
        return Version(-2, -2, -2)  # what only a rolled back savepoint wrote
    return Version(number, writer, count)


class _People(Protocol):
    """What workers need of the layer under test."""

    def read(self, ids: Sequence[str]) -> list[Person | None]: ...

    def session(self) -> orm.Session: ...

    def committed(self, id: str) -> None: ...

    def hits(self) -> int: ...


def _region(plan: Plan, addresses: Mapping[str, str] | None = None) -> CacheRegion:
    """The workers' region. A server's name decides where keys live, and is the same for all; ``addresses`` tells where
    this worker reaches it.
    """
    region = make_region(plan.cache_url, **plan._options)
    if addresses:
        backend = lease_backend(region)
        assert isinstance(backend, MemcachedBackend)
        backend.addresses.update(addresses)
    return region


class _Ours:
    """person_repo: nothing to do for a writer but to commit."""

    def __init__(self, people: PersonService) -> None:
        self._people = people
        self._sessions = orm.sessionmaker(people.engine)

    def read(self, ids: Sequence[str]) -> list[Person | None]:
        if len(ids) == 1:
            return [self._people.get(ids[0])]
        found = self._people.get_many(ids)
        return [found.get(id) for id in ids]

    def session(self) -> orm.Session:
        return self._sessions()

    def committed(self, id: str) -> None:
        pass

    def hits(self) -> int:
        return self._people.stats().hits


class _Naive:
    """The usual recipe over a dogpile region: read through and store, delete after the commit.

    A read stands still for a moment before it stores, as any process may, so that a short run shows what a long one
    would.
    """

    def __init__(self, plan: Plan, region: CacheRegion) -> None:
        self._random = random.Random(plan.seed)
        self._engine = sa.create_engine(plan.database_url)
        self._sessions = orm.sessionmaker(self._engine)
        self._region = region
        self._hits = 0

    def read(self, ids: Sequence[str]) -> list[Person | None]:
        return [self._one(id) for id in ids]

    def _one(self, id: str) -> Person | None:
        found = self._region.get(id)
        if isinstance(found, list):
            self._hits += 1
            return Person(id, *found) if found else None
        with self._sessions() as session:
            person = session.get(Person, id)
            time.sleep(self._random.random() * 0.02)
            self._region.set(id, [person.first_name, person.last_name] if person else [])
            return person

    def session(self) -> orm.Session:
        return self._sessions()

    def committed(self, id: str) -> None:
        self._region.delete(id)

    def hits(self) -> int:
        return self._hits


class _Worker:
    """One reader or writer: works until it is told to stop, and writes down what it did."""

    def __init__(self, plan: Plan, people: _People, number: int, folder: Path) -> None:
        self.plan = plan
        self.people = people
        self.number = number
        self.errors: Counter[str] = Counter()
        self.random = random.Random(plan.seed * 10_007 + number)
        self.folder = folder

    def note(self, reads: int) -> None:
        """What the report sums up, replaced as a whole: this worker may be killed at any instruction."""
        path = self.folder / f"{self.number}.json"
        path.with_suffix(".new").write_text(
            json.dumps({"reads": reads, "hits": self.people.hits(), "errors": dict(self.errors)})
        )
        path.with_suffix(".new").replace(path)

    def read(self, stop: threading.Event, until: float) -> None:
        """Reads, one id or several at a time."""
        records: list[bytes] = []
        reads = 0
        with open(self.folder / f"{self.number}.reads", "ab", buffering=0) as file:
            while not stop.is_set() and time.monotonic() < until:
                count = 1 if self.random.random() < 0.9 else min(5, self.plan.keys)
                keys = self.random.sample(range(self.plan.keys), count)
                began = time.monotonic_ns()
                try:
                    found = self.people.read([_id(self.plan, key) for key in keys])
                except Exception as exc:  # whatever a fault provokes is counted, and the worker goes on
                    self.errors[_kind(exc)] += 1
                    continue
                ended = time.monotonic_ns()
                for key, person in zip(keys, found, strict=True):
                    records.append(_RECORD.pack(key, *_version(person), began, ended))
                reads += len(keys)
                if len(records) >= _FLUSH:
                    file.write(b"".join(records))
                    records.clear()
                    self.note(reads)
            file.write(b"".join(records))
        self.note(reads)

    def write(self, stop: threading.Event, until: float) -> None:
        """Writes, in every way there is. Each record is on its way to the file before what it tells of."""
        count = 0
        descriptor = os.open(self.folder / f"{self.number}.writes", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            while not stop.is_set() and time.monotonic() < until:
                count += 1
                try:
                    self._transaction(descriptor, self.random.randrange(self.plan.keys), count)
                except Exception as exc:  # a lock timeout, a lost connection: counted; the outcome stays unknown
                    self.errors[_kind(exc)] += 1
                stop.wait(self.random.random() * 0.01)
        finally:
            os.close(descriptor)
        self.note(0)

    def _transaction(self, descriptor: int, key: int, count: int) -> None:
        way = self.random.choice(_WAYS)
        id = _id(self.plan, key)
        ledger = _ledger(self.plan.prefix)
        record: dict[str, Any] = {"key": key, "began": time.monotonic_ns(), "count": count}
        with self.people.session() as session:
            session.execute(sa.update(ledger).where(ledger.c.id == id).values(number=ledger.c.number + 1))
            number = session.scalars(sa.select(ledger.c.number).where(ledger.c.id == id)).one()
            record["deletes"] = way(session, id, _text(Version(number, self.number, count)))
            session.flush()
            record["number"] = number
            _log(descriptor, {"what": "began", **record})
            if self.random.random() < 0.1:
                session.rollback()
                _log(descriptor, {"what": Outcome.ROLLED_BACK, "count": count})
                return
            try:
                session.commit()
            except CacheUnavailableError:  # the plan is to refuse: it comes before COMMIT
                session.rollback()
                _log(descriptor, {"what": Outcome.ROLLED_BACK, "count": count})
                raise
        self.people.committed(id)
        _log(descriptor, {"what": Outcome.COMMITTED, "count": count, "acknowledged": time.monotonic_ns()})


def _log(descriptor: int, record: dict[str, Any]) -> None:
    os.write(descriptor, json.dumps(record).encode() + b"\n")


def _kind(exc: Exception) -> str:
    if isinstance(exc, CacheUnavailableError):
        return type(exc).__name__  # its message names the server's last words, and they vary
    return f"{type(exc).__name__}: {getattr(exc, 'orig', exc)!s:.80}"


# The ways of writing. Each leaves the row with the text, or deletes it, and tells which.


def _by_attribute(session: orm.Session, id: str, text: str) -> bool:
    person = session.get(Person, id)
    if person is None:
        session.add(Person(id, "torture", text))
    else:
        person.last_name = text
    return False


def _by_orm_update(session: orm.Session, id: str, text: str) -> bool:
    changed = session.execute(sa.update(Person).where(Person.id == id).values(last_name=text))
    if not changed.rowcount:  # type: ignore[attr-defined]
        session.add(Person(id, "torture", text))
    return False


def _by_other_criteria(session: orm.Session, id: str, text: str) -> bool:
    person = session.get(Person, id)
    if person is None:
        session.add(Person(id, "torture", text))
        return False
    session.execute(
        sa.update(Person).where(Person.last_name == person.last_name, Person.id == id).values(last_name=text)
    )
    session.execute(sa.update(Person).where(Person.last_name == text).values(first_name="torture"))
    return False


def _by_core(session: orm.Session, id: str, text: str) -> bool:
    table = Person.__table__
    assert isinstance(table, sa.Table)
    changed = session.connection().execute(
        table.update().where(table.c.id == sa.bindparam("key")).values(last_name=sa.bindparam("text")),
        {"key": id, "text": text},
    )
    if not changed.rowcount:
        session.connection().execute(
            table.insert(), [{"id": id, "first_name": "torture", "last_name": text, "version": 1}]
        )
    return False


def _by_text(session: orm.Session, id: str, text: str) -> bool:
    changed = session.execute(sa.text("UPDATE person SET last_name = :text WHERE id = :id"), {"text": text, "id": id})
    if not changed.rowcount:  # type: ignore[attr-defined]
        session.add(Person(id, "torture", text))
    return False


def _by_delete(session: orm.Session, id: str, text: str) -> bool:
    person = session.get(Person, id)
    if person is not None:
        session.delete(person)
    return True


def _by_orm_delete(session: orm.Session, id: str, text: str) -> bool:
    session.execute(sa.delete(Person).where(Person.id == id))
    return True


def _by_reinsert(session: orm.Session, id: str, text: str) -> bool:
    session.execute(sa.delete(Person).where(Person.id == id))
    session.execute(sa.insert(Person), [{"id": id, "first_name": "torture", "last_name": text}])
    return False


def _by_savepoint(session: orm.Session, id: str, text: str) -> bool:
    with session.begin_nested():
        return _by_attribute(session, id, text)


def _after_failed_savepoint(session: orm.Session, id: str, text: str) -> bool:
    nested = session.begin_nested()
    _by_orm_update(session, id, "of a savepoint that is rolled back")
    nested.rollback()
    session.expire_all()
    return _by_attribute(session, id, text)


# Text drops the whole model, and with it most hits: it is one way in forty.
_WAYS = (
    *[_by_attribute, _by_orm_update, _by_other_criteria, _by_core, _by_reinsert, _by_savepoint] * 5,
    *[_after_failed_savepoint, _by_delete, _by_orm_delete] * 3,
    _by_text,
)


# Running them


class _Workers(Protocol):
    """Workers under way."""

    def __enter__(self) -> _Workers: ...

    def __exit__(self, *raised: object) -> None: ...

    def pause(self, seconds: float, choose: random.Random) -> None: ...

    def kill(self, choose: random.Random) -> None: ...

    def partition(self, seconds: float, choose: random.Random) -> None: ...

    def stop(self) -> None: ...


class _Threads:
    """The workers as threads over one service: a memory region is coherent within its process."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self._stop = threading.Event()
        region = _region(plan)
        self._service = connect(plan.database_url, region)
        people: _People = _Naive(plan, region) if plan.against == "naive" else _Ours(self._service)
        until = time.monotonic() + plan.seconds + 60
        self._threads = []
        for number in range(1, plan.readers + plan.writers + 1):
            worker = _Worker(plan, people, number, folder)
            work = worker.read if number <= plan.readers else worker.write
            self._threads.append(threading.Thread(target=work, args=(self._stop, until), daemon=True))

    def __enter__(self) -> _Threads:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self.stop()
        self._service.close()

    def pause(self, seconds: float, choose: random.Random) -> None:
        raise NotImplementedError("threads cannot be paused")

    def kill(self, choose: random.Random) -> None:
        raise NotImplementedError("threads cannot be killed")

    def partition(self, seconds: float, choose: random.Random) -> None:
        raise NotImplementedError("threads share one cache")

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


class _Process(NamedTuple):
    """A worker process, and the proxies between it and each server where there are partitions."""

    process: subprocess.Popen[bytes]
    role: str
    number: int
    proxies: tuple[Proxy, ...]


class _Processes:
    """The workers as processes, which can be paused, killed and cut off."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self._plan = plan
        self._folder = folder
        self._next = 1
        self._running: list[_Process] = []
        self._replaced: list[subprocess.Popen[bytes]] = []
        self._proxies = contextlib.ExitStack()

    def __enter__(self) -> _Processes:
        try:
            for role, count in (("read", self._plan.readers), ("write", self._plan.writers)):
                for _ in range(count):
                    self._start(role, self._new_proxies())
            self._await_all()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _new_proxies(self) -> tuple[Proxy, ...]:
        """None where nothing will be cut off: they cost time."""
        servers = parse_cache_url(self._plan.cache_url).servers if "partition" in self._plan.faults else ()
        return tuple(self._proxies.enter_context(Proxy(server, seed=self._plan.seed)) for server in servers)

    def _await_all(self) -> None:
        """Waits until every worker has begun."""
        deadline = time.monotonic() + _STARTUP
        while not all((self._folder / f"{worker.number}.ready").exists() for worker in self._running):
            if any(worker.process.poll() is not None for worker in self._running):
                raise PersonRepoError("a worker ended before it began; its error is above")
            if time.monotonic() > deadline:
                raise PersonRepoError(f"a worker did not begin within {_STARTUP:.0f} s")
            time.sleep(0.02)

    def _start(self, role: str, proxies: tuple[Proxy, ...]) -> None:
        # The plan goes by a pipe: arguments are for everybody on the machine to read, and URLs hold passwords.
        process = subprocess.Popen([sys.executable, "-m", "person_repo.testing.torture.run"], stdin=subprocess.PIPE)
        self._running.append(_Process(process, role, self._next, proxies))
        addresses = {proxy.server: proxy.address for proxy in proxies}
        assert process.stdin is not None
        part = [asdict(self._plan), role, self._next, str(self._folder), addresses]
        process.stdin.write(json.dumps(part).encode() + b"\n")
        process.stdin.flush()
        self._next += 1

    def pause(self, seconds: float, choose: random.Random) -> None:
        process = choose.choice(self._running).process
        process.send_signal(signal.SIGSTOP)
        try:
            time.sleep(seconds)
        finally:
            process.send_signal(signal.SIGCONT)

    def kill(self, choose: random.Random) -> None:
        victim = choose.choice(self._running)
        self._running.remove(victim)
        victim.process.kill()
        self._replaced.append(victim.process)
        self._start(victim.role, victim.proxies)
        self._await_all()  # else more would be starting than working

    def partition(self, seconds: float, choose: random.Random) -> None:
        proxy = choose.choice(choose.choice(self._running).proxies)
        choose.choice(_PARTITIONS)(proxy)
        try:
            time.sleep(seconds)
        finally:
            proxy.heal()

    def stop(self) -> None:
        """A closed pipe is the word to stop; who does not hear it is killed."""
        for worker in self._running:
            with contextlib.suppress(OSError):
                worker.process.send_signal(signal.SIGCONT)
            _close(worker.process)
        for worker in self._running:
            try:
                worker.process.wait(30)
            except subprocess.TimeoutExpired:
                worker.process.kill()

    def __exit__(self, *raised: object) -> None:
        for process in [*self._replaced, *[worker.process for worker in self._running]]:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            _close(process)
            process.wait()
        self._proxies.close()


def _close(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()


def _work() -> None:
    """A worker process: its part comes by the pipe, whose end is the end of the work."""
    logging.disable(logging.CRITICAL)  # every fault is logged by every worker; the report counts them
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which closes the pipe then
    plan_fields, role, number, folder, addresses = json.loads(sys.stdin.buffer.readline())
    plan = Plan(**{**plan_fields, "faults": tuple(plan_fields["faults"])})
    region = _region(plan, addresses)
    people: _People = _Naive(plan, region) if plan.against == "naive" else _Ours(connect(plan.database_url, region))
    stop = threading.Event()

    def listen() -> None:
        sys.stdin.buffer.read()
        stop.set()

    threading.Thread(target=listen, daemon=True).start()
    worker = _Worker(plan, people, number, Path(folder))
    (worker.folder / f"{number}.ready").touch()
    (worker.read if role == "read" else worker.write)(stop, time.monotonic() + plan.seconds + 120)


# Faults


class _Memcached:
    """A memcached of our own on a free loopback port, which can be restarted, stopped for a while and emptied."""

    def __init__(self) -> None:
        binary = shutil.which("memcached")
        if binary is None:
            raise ConfigurationError("memcached is not installed here, or not on the PATH; install it, or give a URL")
        self._binary = binary
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port: int = probe.getsockname()[1]
        self.url = f"memcached://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> _Memcached:
        self.start()
        return self

    def start(self) -> None:
        user = ["-u", "root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
        self._process = subprocess.Popen(
            [self._binary, *user, "-l", "127.0.0.1", "-p", str(self._port), "-U", "0", "-t", "1"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port), 0.2):
                return
            time.sleep(0.01)
        raise PersonRepoError(f"memcached did not answer on port {self._port} within 10 s")

    def restart(self) -> None:
        self.kill()
        self.start()

    def hang(self, seconds: float) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            time.sleep(seconds)
        finally:
            self._process.send_signal(signal.SIGCONT)

    def flush(self) -> None:
        with socket.create_connection(("127.0.0.1", self._port), 10) as connection:
            connection.sendall(b"flush_all\r\n")
            if (answer := connection.recv(100)) != b"OK\r\n":
                raise PersonRepoError(f"memcached answers flush_all with {answer!r}")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def __exit__(self, *raised: object) -> None:
        self.kill()


class _Faults:
    """Chooses the next fault, or waits where there is none to choose."""

    def __init__(self, plan: Plan, workers: _Workers, memcached: _Memcached | None) -> None:
        self._plan = plan
        self._workers = workers
        self._memcached = memcached
        self._random = random.Random(plan.seed)
        self._last = ""
        self.done: Counter[str] = Counter()

    def next(self, left: float) -> None:
        longest = _LONGEST_RECOVERY if self._last in ("partition", "hang") else 0.25
        rest = min(left, 0.05 + self._random.random() * longest)
        time.sleep(rest)
        if not self._plan.faults or left - rest < 1:
            return
        self._last = self._random.choice(self._plan.faults)
        self.done[self._last] += 1
        self._make(self._last, left - rest)

    def _make(self, fault: str, left: float) -> None:
        """Makes it, for at most the seconds that are left, and ends it. One at a time: what two of them can do to one
        commit together is a limit that is told of.
        """
        luck = self._random.random()
        if fault == "pause":
            self._workers.pause(min(left, luck * _LONGEST_PAUSE), self._random)
        elif fault == "kill":
            self._workers.kill(self._random)
        elif fault == "partition":
            self._workers.partition(min(left, luck * _LONGEST_PARTITION * self._plan.fence_interval), self._random)
        elif self._memcached is not None:
            if fault == "restart":
                self._memcached.restart()
            elif fault == "hang":
                self._memcached.hang(min(left, _SHORTEST_HANG + luck * (_LONGEST_HANG - _SHORTEST_HANG)))
            else:
                self._memcached.flush()


# Judging


def _report(plan: Plan, folder: Path, faults: Counter[str]) -> Report:
    writes = [write for path in folder.glob("*.writes") for write in _writes_of(path)]
    first = [Write(key, Version(0, 0, 0), False, 0, Outcome.COMMITTED, 0) for key in range(plan.keys)]
    reads = (read for path in folder.glob("*.reads") for read in _reads_of(path))
    verdict = history.check([*first, *writes], reads, bound=plan.bound)
    notes = [json.loads(path.read_text()) for path in folder.glob("*.json")]
    errors: Counter[str] = Counter()
    for note in notes:
        errors.update(note["errors"])
    return Report(
        plan,
        reads=verdict.reads,
        hits=(max if plan._in_threads else sum)(
            note["hits"] for note in notes
        ),  # threads have one service, and one count
        writes=sum(write.outcome == Outcome.COMMITTED for write in writes),
        late=verdict.late,
        stale=verdict.stale,
        phantom=verdict.phantom,
        worst_staleness=verdict.worst,
        errors=errors.total(),
        faults=dict(faults),
        error_kinds=dict(errors),
        examples=tuple(verdict.examples),
    )


def _writes_of(path: Path) -> Iterator[Write]:
    """The transactions of one writer; the last line of one that was killed may be cut."""
    writer = int(path.stem)
    began: dict[int, dict[str, Any]] = {}
    ended: dict[int, dict[str, Any]] = {}
    for line in path.read_bytes().splitlines():
        with contextlib.suppress(ValueError):
            record = json.loads(line)
            (began if record["what"] == "began" else ended)[record["count"]] = record
    for count, record in began.items():
        end = ended.get(count, {"what": Outcome.UNKNOWN})
        version = Version(record["number"], writer, count)
        yield Write(record["key"], version, record["deletes"], record["began"], end["what"], end.get("acknowledged"))


def _reads_of(path: Path) -> Iterator[Read]:
    content = path.read_bytes()
    whole = len(content) - len(content) % _RECORD.size
    for key, number, writer, count, began, ended in _RECORD.iter_unpack(content[:whole]):
        yield Read(key, Version(number, writer, count), began, ended)


if __name__ == "__main__":
    _work()
