"""Transactions in any order, by every way of writing, with reads in between: the cache against the database after each
step.
"""

from __future__ import annotations

import contextlib
import logging
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import greenlet
import hypothesis
import pytest
import sqlalchemy as sa
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import orm
from support.proofs import amount, is_sample
from support.servers import Memcached
from support.ways import ADDITIONS, CHANGES, MOVES, REMOVALS, TABLE, Way, Witness, person, ways_for

from person_repo.cache.region import make_region
from person_repo.exceptions import PersonRepoError
from person_repo.model import Base, Person

# SQLAlchemy warns of some of the sequences, which hosts write all the same.
pytestmark = [pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SAWarning"), pytest.mark.timeout(0)]

IDS = ("a", "A", "a ", "ä", "")
JOINED = ("conditional_savepoint", "rollback_only", "control_fully", "create_savepoint")

_OVERTAKEN = (1020, 1205, 1213)
"""MySQL's numbers: the record has changed since it was read, lock wait timeout, deadlock."""

Row = tuple[Any, ...]

slots = st.sampled_from((0, 0, 0, 0, 0, 1))  # two transactions that change one row end in a refusal
ids = st.sampled_from(IDS)
orders = st.permutations(IDS)
hosts = st.integers(0, 1)
rarely = st.sampled_from((False, False, True))


def some(ways: Sequence[Way]) -> st.SearchStrategy[list[Way]]:
    return st.lists(st.sampled_from(ways), min_size=1, max_size=3)


class SlowReader(greenlet.greenlet):
    """A read by id that stops before its load and after it; ``read`` is its result."""

    def __init__(self, asked: Sequence[str], read: Callable[[], dict[str, Row]]) -> None:
        super().__init__(read)
        self.asked = asked
        self.read: dict[str, Row] | None = None
        self.committed: list[dict[str, Row]] = []
        """The states that were committed at some time since it began."""

    def proceed(self) -> None:
        found = self.switch()
        if self.dead:
            self.read = found

    @staticmethod
    def at_load(load: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """The load, with a stop on each side of it for slow readers."""

        def stopping(asked: Any) -> Any:
            current = greenlet.getcurrent()
            if not isinstance(current, SlowReader):
                return load(asked)
            current.parent.switch()
            found = load(asked)
            current.parent.switch()
            return found

        return stopping


@dataclass
class Opened:
    """A session of a host's that may have a transaction open, maybe joined to one of a connection's."""

    host: Witness
    session: orm.Session
    savepoints: bool = True
    connection: sa.Connection | None = None
    outer: sa.Transaction | None = None
    nested: list[orm.SessionTransaction] = field(default_factory=list)

    def roll_back_innermost(self) -> None:
        if self.nested and self.nested[-1].is_active:
            self.nested.pop().rollback()
        else:
            self.roll_back()

    def roll_back(self) -> None:
        self.nested.clear()
        self.session.rollback()
        if self.outer is not None and self.outer.is_active:
            self.outer.rollback()

    def is_over(self) -> bool:
        """True if it joined a transaction that has ended."""
        return self.outer is not None and not self.outer.is_active

    def close(self) -> None:
        self.session.close()
        if self.connection is not None:
            self.connection.close()


class Transactions(RuleBasedStateMachine):
    """Two sessions and two slow readers at a time, of hosts that share a database and the servers of a cache.

    Each of ``hosts`` stands for a process: an engine, sessions and a region of its own. Nothing here knows what should
    be in the database: it is asked, by connections that nothing covers.
    """

    database_url: str
    cache_url: str
    servers: Sequence[Memcached]

    def __init__(self) -> None:
        super().__init__()
        self.closing = contextlib.ExitStack()
        self.opened: list[Opened | None] = [None, None]
        self.readers: list[SlowReader] = []
        self.names = 0
        self.eager = False
        self.fault = ""
        self.complaints = Complaints()
        logger = logging.getLogger("person_repo")
        logger.addHandler(self.complaints)
        self.closing.callback(logger.removeHandler, self.complaints)
        self.hosts: list[Witness] = []
        self._empty()
        self.hosts += [self._host() for _ in range(2 if self.servers else 1)]

    def _empty(self) -> None:
        for server in self.servers:
            server.flush()
        engine = sa.create_engine(self.database_url)
        with engine.begin() as connection:
            if (
                engine.dialect.name == "sqlite"
            ):  # in which a transaction that is refused its COMMIT keeps nobody from reading
                connection.exec_driver_sql("PRAGMA journal_mode = WAL")
            Base.metadata.create_all(connection)
            connection.execute(sa.delete(TABLE))
            connection.execute(sa.insert(TABLE), [
                {"id": id, "first_name": "first", "last_name": f"of {id}", "version": 1} for id in IDS[:3]
            ])  # fmt: skip
        engine.dispose()

    def _host(self) -> Witness:
        engine = engine_for(self.database_url)
        self.closing.callback(engine.dispose)
        sa.event.listen(engine, "after_cursor_execute", lambda *_: self._look("after a statement"))
        for name in ("do_commit", "do_rollback"):  # before the engine is covered: inside of what covers it
            setattr(engine.dialect, name, self._around(name, getattr(engine.dialect, name)))
        # Nobody ends a lease while another reader waits for it here: all of it is one thread.
        region = make_region(self.cache_url, wait=0, timeout=10, connect_timeout=10, max_keys=3)
        host = Witness(engine, region, ids=IDS, covers=False)
        self.closing.callback(host.close)
        loader: Any = host.service.database.loader
        loader.one, loader.many = SlowReader.at_load(loader.one), SlowReader.at_load(loader.many)
        return host

    # Looking

    def _look(self, when: str) -> None:
        if self.eager:
            for host in self.hosts:
                host.look(when)

    def _around(self, name: str, function: Callable[[Any], None]) -> Callable[[Any], None]:
        def around(dbapi_connection: Any) -> None:
            fault = self.fault if name == "do_commit" else ""
            if fault:
                self.fault = ""
                self._forget_everything()
                self._read_everything()
            else:
                self._look(f"before {name}")
            function(dbapi_connection)
            if not fault:  # else the old rows may be there until the commit is acknowledged
                self._look(f"after {name}")

        return around

    def _read_everything(self) -> None:
        for host in self.hosts:
            host.answered()

    def _forget_everything(self) -> None:
        for server in self.servers:
            server.flush()
        if not self.servers:
            backend: Any = self.hosts[0].service.cached.backend
            backend.clear()

    @invariant()
    def cached_reads_are_what_is_committed(self) -> None:
        for host in self.hosts:
            host.look("after a step")
            assert not host.wrong, "\n".join(host.wrong[:5])
        assert not self.complaints.seen, self.complaints.seen
        committed = self.hosts[0].committed()
        for reader in self.readers:
            reader.committed.append(committed)

    # Beginning

    @initialize(eager=st.booleans())
    def choose_when_to_look(self, eager: bool) -> None:
        self.eager = eager

    @rule(slot=slots, host=hosts, mode=st.sampled_from((*JOINED, "autocommit", "autocommit")), nested=st.booleans())
    def open_a_session(self, slot: int, host: int, mode: str, nested: bool) -> None:
        """A plain one is opened by whatever needs one."""
        if self.opened[slot] is not None:
            self._end(slot, "commit", "commit")
        engine = self._one(host).engine
        if mode == "autocommit":
            session = orm.Session(engine.execution_options(isolation_level="AUTOCOMMIT"))
            # MySQL knows no savepoint outside a transaction.
            self.opened[slot] = Opened(self._one(host), session, savepoints=engine.dialect.name == "sqlite")
            return
        connection = engine.connect()
        outer = connection.begin()
        if nested:
            connection.begin_nested()
        session = orm.Session(connection, join_transaction_mode=cast("Any", mode))
        self.opened[slot] = Opened(self._one(host), session, connection=connection, outer=outer)

    def _in(self, slot: int) -> Opened:
        opened = self.opened[slot]
        if opened is None:
            host = self._one(slot)
            opened = self.opened[slot] = Opened(host, host.sessions())
        return opened

    def _one(self, host: int) -> Witness:
        return self.hosts[host % len(self.hosts)]

    def _name(self) -> str:
        self.names += 1
        return f"name {self.names}"

    # Writing

    @rule(slot=slots, ways=some(CHANGES), order=orders, most=st.integers(1, 4), at_once=rarely)
    def change(self, slot: int, ways: Sequence[Way], order: list[str], most: int, at_once: bool) -> None:
        self._write(slot, ways, at_once, lambda there, free: _first(order, there)[:most])

    @rule(slot=slots, ways=some(ADDITIONS), order=orders, most=st.integers(1, 4), at_once=rarely)
    def add(self, slot: int, ways: Sequence[Way], order: list[str], most: int, at_once: bool) -> None:
        self._write(slot, ways, at_once, lambda there, free: _first(order, free)[:most])

    @rule(slot=slots, ways=some(REMOVALS), order=orders, most=st.integers(1, 2), at_once=rarely)
    def remove(self, slot: int, ways: Sequence[Way], order: list[str], most: int, at_once: bool) -> None:
        self._write(slot, ways, at_once, lambda there, free: _first(order, there)[:most])

    @rule(slot=slots, ways=some(MOVES), order=orders, at_once=rarely)
    def move(self, slot: int, ways: Sequence[Way], order: list[str], at_once: bool) -> None:
        self._write(
            slot,
            ways,
            at_once,
            lambda there, free: [*_first(order, there)[:1], *_first(order, free)[:1]] * bool(there and free),
        )

    def _write(
        self, slot: int, ways: Sequence[Way], at_once: bool, choose: Callable[[set[str], set[str]], Sequence[str]]
    ) -> None:
        opened = self._in(slot)
        with self._refusable(slot):
            for way in ways_for(ways, opened.host.engine):
                opened.session.flush()
                there = set(opened.session.connection().execute(sa.select(TABLE.c.id)).scalars())
                chosen = choose(there, set(IDS) - there)
                if chosen:
                    way.write(opened.session, chosen, self._name())
        if at_once:
            self._end(slot, "commit", "commit")

    @rule(slot=slots, id=ids, gone=st.booleans())
    def change_without_a_flush(self, slot: int, id: str, gone: bool) -> None:
        opened, name = self._in(slot), self._name()
        with self._refusable(slot):
            entity = opened.session.get(Person, id)
            if entity is None:
                opened.session.add(person(id, name))
            elif gone:
                opened.session.delete(entity)
            else:
                entity.first_name = name
                assert opened.host.service.bind(opened.session).get_one(id).first_name == name

    @rule(slot=slots, verb=st.sampled_from(("add", "add_many", "update", "upsert", "delete")), id=ids)
    def write_by_a_bound_service(self, slot: int, verb: str, id: str) -> None:
        opened = self._in(slot)
        with self._refusable(slot):
            _by_service(opened.host.service.bind(opened.session), verb, id, self._name())

    @rule(host=hosts, verb=st.sampled_from(("add", "add_many", "update", "upsert", "delete")), id=ids)
    def write_by_a_service(self, host: int, verb: str, id: str) -> None:
        if self.database_url.startswith("sqlite"):  # which refuses it beside a transaction that has written
            self._end(0, "commit", "commit")
        with self._refusable(None):
            _by_service(self._one(host).service, verb, id, self._name())

    @precondition(lambda self: any(self.opened))
    @rule(slot=slots, word=st.sampled_from(("COMMIT", "ROLLBACK")))
    def end_by_text(self, slot: int, word: str) -> None:
        opened = self.opened[slot]
        if opened is None or opened.nested or opened.connection is not None:
            return
        with self._refusable(slot):
            opened.session.flush()
            opened.session.connection().exec_driver_sql(word)

    @contextlib.contextmanager
    def _refusable(self, slot: int | None) -> Iterator[None]:
        """A write that the database, the ORM or the repository refuses is rolled back, as a host does."""
        opened = None if slot is None else self.opened[slot]
        try:
            yield
        except (PersonRepoError, sa.exc.IntegrityError, sa.exc.NoResultFound, orm.exc.StaleDataError):
            if opened is not None:
                opened.roll_back_innermost()
        except sa.exc.OperationalError as error:
            if not _is_refusal(error):
                raise
            if opened is not None:
                opened.roll_back()
        if slot is not None and opened is not None and opened.is_over():
            opened.close()
            self.opened[slot] = None

    # Savepoints

    @rule(slot=slots)
    def set_a_savepoint(self, slot: int) -> None:
        opened = self._in(slot)
        if opened.savepoints:
            with self._refusable(slot):
                opened.nested.append(opened.session.begin_nested())

    @precondition(lambda self: any(opened and opened.nested for opened in self.opened))
    @rule(slot=slots, depth=st.integers(0, 3), released=st.booleans())
    def end_a_savepoint(self, slot: int, depth: int, released: bool) -> None:
        opened = self.opened[slot]
        if opened is None or not opened.nested:
            return
        with self._refusable(slot):
            at = depth % len(opened.nested)
            if released:
                opened.nested[at].commit()
            else:
                opened.nested[at].rollback()
            del opened.nested[at:]

    # Ending

    @precondition(lambda self: any(self.opened))
    @rule(slot=slots, how=st.sampled_from(("commit", "commit", "rollback", "close")))
    def end_in_the_session(self, slot: int, how: str) -> None:
        opened = self.opened[slot]
        if opened is not None:
            with self._refusable(slot):
                getattr(opened.session, how)()
                opened.nested.clear()

    @precondition(lambda self: any(self.opened))
    @rule(slot=slots, inner=st.sampled_from(("commit", "close")), outer=st.sampled_from(("commit", "rollback")))
    def end_and_close(self, slot: int, inner: str, outer: str) -> None:
        self._end(slot, inner, outer)

    def _end(self, slot: int, inner: str, outer: str) -> None:
        opened = self.opened[slot]
        if opened is None:
            return
        with self._refusable(slot):
            getattr(opened.session, inner)()
            opened.nested.clear()
            if opened.outer is not None and opened.outer.is_active:
                getattr(opened.outer, outer)()
        opened.close()
        self.opened[slot] = None

    # Reading

    @rule(host=hosts, order=orders, most=st.integers(1, 5), how=st.sampled_from(("get", "get_many", "exists")))
    def read(self, host: int, order: list[str], most: int, how: str) -> None:
        one, asked = self._one(host), order[:most]
        committed = one.committed()
        if how == "get":
            found = {id: _row(entity) for id in asked if (entity := one.service.get(id)) is not None}
            assert found == {id: committed[id] for id in asked if id in committed}
        elif how == "get_many":
            found = {id: _row(entity) for id, entity in one.service.get_many(asked).items()}
            assert found == {id: committed[id] for id in asked if id in committed}
        else:
            assert [one.service.exists(id) for id in asked] == [id in committed for id in asked]

    @rule(slot=slots)
    def read_within_a_transaction(self, slot: int) -> None:
        opened = self._in(slot)
        with self._refusable(slot):
            opened.session.flush()
            opened.session.expire_all()  # what other ways of writing leave behind in a session is SQLAlchemy's affair
            own = {row[0]: tuple(row) for row in opened.session.connection().execute(sa.select(TABLE))}
            bound = opened.host.service.bind(opened.session)
            assert {id: _row(entity) for id in IDS if (entity := bound.get(id)) is not None} == own
            assert {id: _row(entity) for id, entity in bound.get_many(IDS).items()} == own
            assert [bound.exists(id) for id in IDS] == [id in own for id in IDS]

    @precondition(lambda self: len(self.readers) < 2)
    @rule(host=hosts, order=orders, most=st.integers(1, 3), many=st.booleans())
    def begin_a_slow_read(self, host: int, order: list[str], most: int, many: bool) -> None:
        cached, asked = self._one(host).service.cached, order[: most if many else 1]

        def read() -> dict[str, Row]:
            found = cached.get_many(asked) if many else {asked[0]: cached.get(asked[0])}
            return {id: _row(entity) for id, entity in found.items() if entity is not None}

        self._one(host).service.invalidate(*asked)  # so that there is something to load
        reader = SlowReader(asked, read)
        reader.committed.append(self.hosts[0].committed())
        self.readers.append(reader)
        self._proceed(reader)

    @precondition(lambda self: self.readers)
    @rule(which=st.integers(0, 1))
    def let_a_slow_read_proceed(self, which: int) -> None:
        self._proceed(self.readers[which % len(self.readers)])

    def _proceed(self, reader: SlowReader) -> None:
        reader.proceed()
        if not reader.dead:
            return
        self.readers.remove(reader)
        assert reader.read is not None
        for id in reader.asked:
            assert reader.read.get(id) in [committed.get(id) for committed in reader.committed]

    # Faults of the cache

    @rule(host=hosts, id=st.none() | ids)
    def invalidate(self, host: int, id: str | None) -> None:
        service = self._one(host).service
        if id is None:
            service.invalidate_all()
        else:
            service.invalidate(id)

    @rule(which=st.integers(0, 2), id=ids)
    def forget(self, which: int, id: str) -> None:
        """A server forgets everything; of a cache in memory, one item or all are forgotten."""
        if self.servers:
            self.servers[which % len(self.servers)].flush()
        elif which:
            cached: Any = self.hosts[0].service.cached
            cached.backend.evict(cached.keys.key_of((id,))[0])
        else:
            self._forget_everything()

    @rule()
    def forget_everything_in_the_next_commit(self) -> None:
        """Tombstones included, and the old rows are cached again before the database commits."""
        self.fault = "forget"

    def teardown(self) -> None:
        with self.closing:
            for opened in self.opened:
                if opened is not None:
                    opened.close()
            for reader in self.readers:
                while not reader.dead:
                    reader.switch()


class Complaints(logging.Handler):
    """The errors that the package logs."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(self.format(record))


def engine_for(url: str) -> sa.Engine:
    """An engine on which nobody waits for locks."""
    if url.startswith("sqlite"):
        engine = sa.create_engine(url, connect_args={"timeout": 0})
        sa.event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous = OFF").close())
        return engine
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        least = 0 if connection.dialect.is_mariadb else 1
    engine.dispose()
    return sa.create_engine(url, connect_args={"init_command": f"SET SESSION innodb_lock_wait_timeout = {least}"})


def _row(entity: Person) -> Row:
    return (entity.id, entity.first_name, entity.last_name, entity.version)


def _first(order: Sequence[str], among: set[str]) -> list[str]:
    return [id for id in order if id in among]


def _by_service(service: Any, verb: str, id: str, name: str) -> None:
    if verb == "update":
        service.update(id, first_name=name)
    elif verb == "delete":
        service.delete(id)
    elif verb == "add_many":
        service.add_many([person(id, name)])
    else:
        getattr(service, verb)(person(id, name))


def _is_refusal(error: sa.exc.OperationalError) -> bool:
    number = next(iter(getattr(error.orig, "args", ())), None)
    return number in _OVERTAKEN or any(word in str(error.orig) for word in ("locked", "no transaction is active"))


@pytest.mark.proof(name="stateful", sample=2, again=True)
@pytest.mark.parametrize("cache_url", ["memory", "memcached"], indirect=True)
def test_cached_reads_are_what_is_committed_whatever_transactions_do(
    database_url: str, cache_url: str, draw: random.Random, request: pytest.FixtureRequest
) -> None:
    servers = [] if cache_url.startswith("memory") else request.getfixturevalue("memcached_servers")
    machine = type("Transactions", (Transactions,), {
        "database_url": database_url, "cache_url": cache_url, "servers": servers
    })  # fmt: skip
    examples = (50 if database_url.startswith("sqlite") else 20) // (6 if is_sample(request.config) else 1)
    run_state_machine_as_test(hypothesis.seed(draw.getrandbits(64))(machine), settings=_settings(examples))
    amount(request, sequences=examples)


def _settings(examples: int) -> hypothesis.settings:
    return hypothesis.settings(
        max_examples=examples,
        stateful_step_count=40,
        deadline=None,
        database=None,
        print_blob=True,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
