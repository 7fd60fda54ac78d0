"""Races in which caches beside databases have gone wrong, each replayed step by step.

Nothing here waits for luck. A read or a write is an ``Actor`` that stops before and after its steps (the load, the
fill, the tombstones, their release) until the test lets it go on; another process is a second service with an engine
and a region of its own. A memory region is one process's, so there the second service shares it.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from support.forks import forking, in_child
from support.servers import Memcached
from support.urls import patient_url

from person_repo.cache.contract import BUSY
from person_repo.cache.memory import MemoryBackend
from person_repo.cache.region import make_region
from person_repo.database.repository import SQLAlchemyRepository
from person_repo.exceptions import StaleEntityError
from person_repo.model import Person
from person_repo.reading.cached import CachedRepository
from person_repo.service import PersonService, Service

greenlet = pytest.importorskip("greenlet")

pytestmark = pytest.mark.proof(name="interleavings", sample=4, again=True)

OLD = Person(id="ada", first_name="Ada", last_name="Byron")
NEW = Person(id="ada", first_name="Ada", last_name="Lovelace")
BOB = Person(id="bob", first_name="Bob", last_name="Kahn")

Write = Callable[[orm.Session], object]


class Actor:
    """A call that stops before and after each of its ``steps`` (name=owner) until the test lets it go on."""

    def __init__(self, does: Callable[[], Any], **steps: object) -> None:
        self._does = greenlet.greenlet(does)
        self._returned: Any = None
        for name, owner in steps.items():
            self._seize(owner, name)

    def _seize(self, owner: object, name: str) -> None:
        real = getattr(owner, name)

        def seized(*args: Any, **options: Any) -> Any:
            if greenlet.getcurrent() is not self._does:
                return real(*args, **options)
            self._does.parent.switch(f"before {name}")
            result = real(*args, **options)
            self._does.parent.switch(f"after {name}")
            return result

        setattr(owner, name, seized)

    def goes(self, to: str) -> None:
        """Lets it go on until it stops there."""
        while self._does.switch() != to:
            assert not self._does.dead, f"it came to its end, and never to {to!r}"

    def ends(self) -> Any:
        """Lets it go on to its end; returns its result."""
        while not self._does.dead:
            self._returned = self._does.switch()
        return self._returned

    def dies(self) -> None:
        """Ends it where it stands; the rest is not done."""
        self._does.throw(greenlet.GreenletExit)
        assert self._does.dead


class Way:
    """A way to read one person: the method, and that of the loader behind it.

    ``get_many`` reads somebody else beside, whom nobody has asked for before: a batch of one is loaded as by ``get``.
    """

    def __init__(self, method: str, load: str) -> None:
        self.method = method
        self.load = load
        self.width = 1 if method == "get" else 2
        self._strangers = (f"stranger-{number}" for number in itertools.count())

    def read(self, people: Service[Any], id: str = "ada") -> Any:
        return people.get(id) if self.method == "get" else people.get_many([id, next(self._strangers)]).get(id)

    def reader(self, people: Service[Any], id: str = "ada") -> Actor:
        """A reader that stops around its load: "before" it has the lease, "after" it has the row too."""
        return Actor(lambda: self.read(people, id), **{self.load: people.database.loader})


ONE = Way("get", "one")
MANY = Way("get_many", "many")


class Town:
    """A database with Ada and Bob in it, and the services of two processes over it and over one cache."""

    def __init__(self, engine: sa.Engine, cache_url: str) -> None:
        self.cache_url = cache_url
        self.engine = engine
        self.region = make_region(cache_url)
        self.now = 0.0
        self.while_waiting: Callable[[], object] = lambda: None
        self.engines: list[sa.Engine] = []
        self.all: list[PersonService] = []
        self.here = self.process()
        self.elsewhere = self.process()
        with self.sessions.begin() as session:
            session.add_all([copy(OLD), copy(BOB)])

    def service(self, entity: type = Person) -> Any:
        """A service as another process would have it."""
        engine = sa.create_engine(self.engine.url)
        self.engines.append(engine)
        region = self.region if self.cache_url.startswith("memory") else make_region(self.cache_url)
        database = SQLAlchemyRepository[Any](entity, orm.sessionmaker(engine))
        cached = CachedRepository(database, region, sleep=self._sleep, clock=lambda: self.now)
        return (PersonService if entity is Person else Service)(database=database, cached=cached)

    def process(self) -> PersonService:
        people: PersonService = self.service()
        self.all.append(people)
        return people

    def _sleep(self, seconds: float) -> None:
        self.now += seconds
        self.while_waiting()

    @property
    def sessions(self) -> orm.sessionmaker[orm.Session]:
        """Sessions that know nothing of a cache, on the engine of the other process."""
        sessions = self.elsewhere.sessions
        assert isinstance(sessions, orm.sessionmaker)
        return sessions

    @property
    def backend(self) -> Any:
        """The backend of the process that writes."""
        return self.elsewhere.cached.backend

    def commit(self, write: Write) -> None:
        with self.sessions.begin() as session:
            write(session)

    def writer(self, write: Write) -> Actor:
        """A writer that stops around its tombstones and their release; between the two it commits."""
        return Actor(lambda: self.commit(write), put_tombstones=self.backend, release=self.backend)

    def read(self, **expected: Person | None) -> None:
        """Checks that all processes read this, one by one and in a batch."""
        for people in self.all:
            assert {id: people.get(id) for id in expected} == expected
            assert people.get_many(expected) == {id: found for id, found in expected.items() if found is not None}

    def delivered(self) -> None:
        """Delivers the places that could not be invalidated; every process knows."""
        assert [people.deliver() for people in self.all] == [0] * len(self.all)

    def settled(self, **expected: Person | None) -> None:
        """Checks that all processes read this, and that the second time the cache answers."""
        self.read(**expected)
        for people in self.all:
            before = people.stats()
            self.read(**expected)
            assert (people.stats() - before).loads == 0
            assert (people.stats() - before).hits == 2 * len(expected)

    def evict(self, id: str = "ada") -> None:
        """Has the cache forget the item at a key, of any kind."""
        key = self.here.cached.keys.key_of((id,))[0]
        if isinstance(self.backend, MemoryBackend):
            self.backend.evict(key)
        else:
            self.say(f"md {key}")

    def say(self, command: str) -> list[str]:
        """The answers of all memcached servers to a command."""
        return [server.ask(command) for server in self.memcached]

    memcached: list[Memcached]

    def close(self) -> None:
        for people in self.all:
            people.close()
        for engine in self.engines:
            engine.dispose()


@pytest.fixture
def town(request: pytest.FixtureRequest, people_engine: sa.Engine, cache_url: str) -> Iterator[Town]:
    town = Town(people_engine, cache_url)
    town.memcached = [] if cache_url.startswith("memory") else request.getfixturevalue("memcached_servers")
    yield town
    town.close()


@pytest.fixture(params=[ONE, MANY], ids=lambda way: way.method)
def way(request: pytest.FixtureRequest) -> Way:
    way: Way = request.param
    return way


def copy(person: Person, **changes: str) -> Person:
    values = {"id": person.id, "first_name": person.first_name, "last_name": person.last_name}
    return Person(**values | changes)


def marry(session: orm.Session) -> None:
    session.get_one(Person, "ada").last_name = "Lovelace"


def remove(session: orm.Session) -> None:
    session.delete(session.get_one(Person, "ada"))


def born(session: orm.Session) -> None:
    session.add(Person(id="eve", first_name="Eve", last_name="Online"))


EVE = Person(id="eve", first_name="Eve", last_name="Online")

CHANGES = pytest.mark.parametrize(
    ("write", "id", "old", "new"),
    [(marry, "ada", OLD, NEW), (remove, "ada", OLD, None), (born, "eve", None, EVE)],
    ids=["update", "delete", "insert"],
)


# Late fills


@CHANGES
@pytest.mark.parametrize(
    ("way", "moment"), [(ONE, "before"), (ONE, "after"), (MANY, "after")], ids=["get-before", "get", "get_many"]
)
def test_a_reader_that_a_commit_overtakes_stores_nothing(
    town: Town, way: Way, moment: str, write: Write, id: str, old: Person | None, new: Person | None
) -> None:
    """PEERS 1: R misses, SELECTs the old row; W commits and invalidates; R stores: the old row stays."""
    reader = way.reader(town.here, id)
    reader.goes(f"{moment} {way.load}")
    town.commit(write)

    assert reader.ends() == (new if moment == "before" else old)
    town.settled(**{id: new})
    assert town.here.stats().fills_refused == 1


@CHANGES
def test_what_readers_store_while_a_change_is_flushed_goes_with_its_commit(
    town: Town, write: Write, id: str, old: Person | None, new: Person | None
) -> None:
    """PEERS 2: W flushes, invalidates, R refills the old row, W commits."""
    with town.sessions() as session:
        write(session)
        session.flush()
        town.settled(**{id: old})
        committing = Actor(session.commit, put_tombstones=town.backend, release=town.backend)
        committing.goes("after put_tombstones")
        town.read(**{id: old})
        committing.goes("before release")
        town.read(**{id: new})
        committing.ends()
    town.settled(**{id: new})


def test_a_reader_that_starts_after_a_commit_joins_no_load_from_before(town: Town, way: Way) -> None:
    """PEERS 6: R' starts after W's commit, joins the load that R began before it, gets the old row."""
    reader = way.reader(town.here)
    reader.goes(f"after {way.load}")
    town.commit(marry)
    town.while_waiting = reader.ends  # whoever waits now is given what the first reader has loaded

    assert [way.read(people) for people in town.all] == [NEW, NEW]
    assert reader.ends() == OLD
    town.settled(ada=NEW)


@pytest.mark.parametrize("moment", ["after put_tombstones", "before release", "after release"])
def test_a_reader_cannot_store_an_absence_though_the_tombstone_was_evicted(town: Town, moment: str) -> None:
    """PEERS 16: absent key: R SELECTs old; W commits and leaves its marker; it is evicted; R's ``add`` succeeds."""
    reader = MANY.reader(town.here, "eve")
    reader.goes("after many")
    writer = town.writer(born)
    writer.goes(moment)
    town.evict("eve")
    if moment == "after put_tombstones":
        assert reader.ends() is None
        writer.ends()
    else:
        writer.ends()
        assert reader.ends() is None

    town.settled(eve=EVE)
    assert town.here.stats().fills_refused == 1


@pytest.mark.parametrize("stores", ["before COMMIT", "after COMMIT", "after release"])
def test_a_reader_that_finds_the_tombstone_evicted_cannot_store_what_was_before(town: Town, stores: str) -> None:
    """PEERS 16, from the other side: the reader comes where the tombstone no longer stands, and is given a lease."""
    writer = town.writer(born)
    writer.goes("after put_tombstones")
    town.evict("eve")
    reader = ONE.reader(town.here, "eve")
    reader.goes("after one")
    assert town.here.stats().misses == 1
    if stores == "before COMMIT":
        assert reader.ends() is None
    writer.goes("before release")
    if stores == "after COMMIT":
        assert reader.ends() is None
    writer.ends()
    if stores == "after release":
        assert reader.ends() is None

    town.settled(eve=EVE)


def test_a_reader_whose_own_transaction_is_older_stores_nothing_of_it(town: Town, way: Way) -> None:
    """PEERS 19: REPEATABLE READ: R begins and reads; W commits and invalidates; R misses K, takes a valid lease,
    SELECTs its old snapshot, stores.
    """
    if town.engine.dialect.name == "sqlite":  # else nobody can commit while another reads in a transaction
        with town.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
    with town.here.sessions() as session:
        if town.engine.dialect.name == "sqlite":  # its driver begins no transaction for a SELECT
            session.connection().exec_driver_sql("BEGIN")
        bound = town.here.bind(session)
        assert bound.get("bob") == BOB
        town.commit(marry)
        town.evict()
        assert bound.get("ada") == OLD
        assert way.read(town.here) == NEW
        assert bound.get_many(["ada"]) == {"ada": OLD}
        town.settled(ada=NEW)
    town.settled(ada=NEW)


# Transactions


def test_a_savepoint_that_is_released_takes_nothing_from_what_is_announced(town: Town) -> None:
    """PEERS 3: W1 flushes K; W2 ``begin_nested``, updates another; RELEASE fires an after-commit hook and drops the
    pending set; COMMIT: nothing invalidated.
    """
    town.settled(ada=OLD, bob=BOB)
    with town.sessions.begin() as session:
        marry(session)
        session.flush()
        with session.begin_nested():
            session.get_one(Person, "bob").first_name = "Robert"
        town.read(ada=OLD, bob=BOB)
    town.settled(ada=NEW, bob=copy(BOB, first_name="Robert"))


def fails_in_a_savepoint(session: orm.Session) -> None:
    with session.begin_nested():
        session.get_one(Person, "bob").first_name = "Robert"
        session.flush()
        session.execute(sa.insert(Person).values(id="ada", first_name="Ada", last_name="Again", version=1))


def test_a_savepoint_that_fails_takes_nothing_from_what_is_announced(town: Town) -> None:
    """PEERS 4: W updates K; a nested block fails and rolls back, taking the outer pending set with it; COMMIT: K stays
    as it was.
    """
    town.settled(ada=OLD, bob=BOB)
    with town.sessions.begin() as session:
        marry(session)
        with pytest.raises(sa.exc.IntegrityError):
            fails_in_a_savepoint(session)
        town.read(ada=OLD, bob=BOB)
    town.settled(ada=NEW, bob=BOB)


@CHANGES
def test_what_a_transaction_reads_of_its_own_is_seen_by_nobody_else(
    town: Town, write: Write, id: str, old: Person | None, new: Person | None
) -> None:
    """PEERS 5: W updates K and flushes; the same session reads K through the cache and stores it; others read it;
    ROLLBACK: a phantom stays.
    """
    for _ in ("not cached yet", "cached"):
        with town.sessions() as session:
            write(session)
            session.flush()
            bound = town.elsewhere.bind(session)
            assert bound.get(id) == new
            assert bound.get_many([id]) == ({} if new is None else {id: new})
            town.settled(**{id: old})
            session.rollback()
            town.settled(**{id: old})
            assert bound.get(id) == old


@pytest.mark.parametrize("by", ["statement", "text", "unit of work", "COMMIT as text"])
def test_a_write_that_commits_by_itself_is_seen_at_once(town: Town, by: str) -> None:
    """PEERS 7: the write commits by itself (auto-commit helper) and queues its invalidation after that: never sent."""
    reader = ONE.reader(town.here)
    reader.goes("after one")
    of_ada = sa.update(Person).where(Person.id == "ada").values(last_name="Lovelace", version=2)
    text = sa.text("UPDATE person SET last_name = 'Lovelace', version = 2 WHERE id = 'ada'")
    autocommit = town.elsewhere.engine.execution_options(isolation_level="AUTOCOMMIT")
    if by == "unit of work":
        with orm.Session(autocommit) as session:
            marry(session)
            session.flush()
            town.read(ada=NEW)
    elif by == "COMMIT as text":
        with town.elsewhere.engine.connect() as connection:
            connection.execute(of_ada)
            town.read(ada=OLD)
            connection.exec_driver_sql("COMMIT")
            town.read(ada=NEW)
    else:
        with autocommit.connect() as connection:
            connection.execute(text if by == "text" else of_ada)
            town.read(ada=NEW)

    assert reader.ends() == OLD
    town.settled(ada=NEW)


def test_a_cached_copy_takes_nothing_back_that_others_wrote(town: Town) -> None:
    """PEERS 8: K cached; one column changed elsewhere; ``update(id, other=...)`` merges the cached copy: the first
    column is reverted in the database.
    """
    town.settled(ada=OLD)
    with sa.create_engine(town.engine.url, poolclass=sa.NullPool).begin() as unseen:
        unseen.exec_driver_sql("UPDATE person SET first_name = 'Augusta' WHERE id = 'ada'")
    both = copy(NEW, first_name="Augusta")

    assert town.here.get("ada") == OLD  # the cache was not invalidated, and yet:
    assert town.here.update("ada", last_name="Lovelace") == both
    town.settled(ada=both)


def test_a_cached_copy_that_is_older_than_the_row_is_not_written(town: Town) -> None:
    """PEERS 8, by hand: what was read before is given back, changed."""
    town.settled(ada=OLD)
    cached = town.here.get_one("ada")
    town.commit(marry)
    cached.first_name = "Augusta"
    with pytest.raises(StaleEntityError):
        town.here.upsert(cached)
    with pytest.raises(orm.exc.StaleDataError), town.sessions.begin() as session:
        session.merge(cached)
    town.settled(ada=NEW)


def test_a_hit_changes_nothing_in_a_session(town: Town) -> None:
    """PEERS 14: a cache hit merges over an object with a pending change: the change is gone, no error."""
    town.settled(ada=OLD)
    with town.here.sessions(autoflush=False) as session:
        bound = town.here.bind(session)
        ada = session.get_one(Person, "ada")
        ada.last_name = "Lovelace"
        hit = town.here.get_one("ada")
        assert (hit, hit in session) == (OLD, False)
        assert town.here.get_many(["ada"]) == {"ada": OLD}
        assert bound.get("ada") is ada
        assert bound.get_many(["ada"])["ada"] is ada
        assert ada in session.dirty
        assert ada == NEW
        session.commit()
    town.settled(ada=NEW)


@pytest.mark.parametrize("instances", ["one after the other", "in two sessions"])
def test_of_two_instances_of_a_row_the_changed_one_counts(town: Town, instances: str) -> None:
    """PEERS 18: two instances of one row in a transaction, the first unchanged, the second changed: no invalidation."""
    town.settled(ada=OLD)
    with (
        town.elsewhere.engine.begin() as connection,
        orm.Session(connection) as session,
        orm.Session(connection) as another,
    ):
        first = session.get_one(Person, "ada")
        if instances == "one after the other":
            session.expunge(first)
            another = session
        second = another.get_one(Person, "ada")
        assert second is not first
        second.last_name = "Lovelace"
        session.flush()
        another.flush()
    town.settled(ada=NEW)


# Which keys


@pytest.mark.parametrize("by", ["statement", "unit of work", "text", "key and name"])
def test_rows_deleted_by_another_column_than_the_key_are_gone(town: Town, by: str) -> None:
    """PEERS 9: a row is deleted by a unique key that is not the primary key: K survives."""
    town.settled(ada=OLD, bob=BOB)
    with town.sessions.begin() as session:
        if by == "statement":
            session.connection().execute(sa.delete(Person.__table__).where(Person.last_name == "Byron"))
        elif by == "unit of work":
            session.execute(sa.delete(Person).where(Person.last_name == "Byron"))
        elif by == "text":
            session.execute(sa.text("DELETE FROM person WHERE last_name = 'Byron'"))
        else:
            session.delete(session.scalars(sa.select(Person).where(Person.last_name == "Byron")).one())
        town.read(ada=OLD, bob=BOB)
    town.settled(ada=None, bob=BOB)


@pytest.mark.parametrize("by", ["unit of work", "statement", "text", "upsert", "add_many"])
def test_a_known_absence_ends_with_another_processs_insert(town: Town, by: str) -> None:
    """PEERS 13: a negative entry stands; another process INSERTs; get still says nobody."""
    town.settled(eve=None)
    values = {"id": "eve", "first_name": "Eve", "last_name": "Online", "version": 1}
    if by == "unit of work":
        town.commit(born)
    elif by == "statement":
        town.commit(lambda session: session.execute(sa.insert(Person).values(values)))
    elif by == "text":
        town.commit(
            lambda session: session.execute(
                sa.text("INSERT INTO person (id, first_name, last_name, version) VALUES ('eve', 'Eve', 'Online', 1)")
            )
        )
    elif by == "upsert":
        town.elsewhere.upsert(copy(EVE))
    else:
        town.elsewhere.add_many([copy(EVE)])
    town.settled(eve=EVE)


@pytest.mark.parametrize("by", ["id", "all"])
def test_to_invalidate_in_one_process_is_to_invalidate_in_all(town: Town, by: str) -> None:
    """PEERS 15: ``region.invalidate()`` in one process; another still hits."""
    town.settled(ada=OLD, bob=BOB)
    reader = MANY.reader(town.here, "eve")
    reader.goes("after many")
    with sa.create_engine(town.engine.url, poolclass=sa.NullPool).begin() as unseen:
        unseen.exec_driver_sql("UPDATE person SET last_name = 'Lovelace' WHERE id = 'ada'")
        unseen.exec_driver_sql("INSERT INTO person VALUES ('eve', 'Eve', 'Online', 1)")
    if by == "id":
        town.elsewhere.invalidate("ada", "eve")
    else:
        town.elsewhere.invalidate_all()

    assert reader.ends() is None
    town.settled(ada=NEW, bob=BOB, eve=EVE)


def test_an_evicted_epoch_brings_nothing_back(town: Town) -> None:
    """PEERS 12: a version token is evicted and reads as "0" again: an old list is resurrected."""
    town.settled(ada=OLD, bob=BOB)
    town.commit(lambda session: session.execute(sa.text("UPDATE person SET last_name = 'Lovelace' WHERE id = 'ada'")))
    assert town.elsewhere.stats().model_drops == 1
    key, group = town.here.cached.keys.key_of(("ada",))[0], town.here.cached.keys.group
    for _ in range(3):
        if isinstance(town.backend, MemoryBackend):
            town.backend.clear()  # there an epoch cannot be forgotten but with everything else
            continue
        town.say(f"md {group}:!")
        assert town.here.get_many(f"nobody-{number}" for number in range(40)) == {}
        assert all(answer.startswith("HD") for answer in town.say(f"mg {group}:!"))  # each server has an epoch again
        assert any(answer.startswith("HD") for answer in town.say(f"mg {key}"))  # and one still has the old item
    town.settled(ada=NEW, bob=BOB)


# Two versions of a model


class BeforeBase(orm.MappedAsDataclass, orm.DeclarativeBase, kw_only=True):
    pass


class Before(BeforeBase):
    """The table as code sees it that is still running."""

    __tablename__ = "badge"

    id: orm.Mapped[str] = orm.mapped_column(sa.String(40), primary_key=True)
    name: orm.Mapped[str] = orm.mapped_column(sa.String(40))


class AfterBase(orm.MappedAsDataclass, orm.DeclarativeBase, kw_only=True):
    pass


class After(AfterBase):
    """The table as code sees it that is being deployed."""

    __tablename__ = "badge"

    id: orm.Mapped[str] = orm.mapped_column(sa.String(40), primary_key=True)
    name: orm.Mapped[str] = orm.mapped_column(sa.String(40))
    color: orm.Mapped[str] = orm.mapped_column(sa.String(40), default="grey", server_default="grey")


@pytest.fixture
def deploy(town: Town) -> Iterator[tuple[Service[Before], Service[After]]]:
    """The service of the code before a column was added, which has cached a badge, and that of the code after it."""
    BeforeBase.metadata.create_all(town.engine)
    before, after = town.service(Before), town.service(After)
    before.add(Before(id="ada", name="0"))
    assert before.get("ada") == before.get_many(["ada"])["ada"] == Before(id="ada", name="0")
    assert before.stats().hits == 1
    with sa.create_engine(town.engine.url, poolclass=sa.NullPool).begin() as migration:
        migration.exec_driver_sql("ALTER TABLE badge ADD COLUMN color VARCHAR(40) NOT NULL DEFAULT 'grey'")
    yield before, after
    before.close()
    after.close()


def test_a_new_column_is_read_though_the_old_code_cached_the_row(
    way: Way, deploy: tuple[Service[Before], Service[After]]
) -> None:
    """PEERS 10: a NOT NULL column is added, the new code deployed: the cached object reads None for it."""
    _, after = deploy
    assert way.read(after) == After(id="ada", name="0", color="grey")
    assert after.stats().rejected == 1
    assert way.read(after) == After(id="ada", name="0", color="grey")
    assert after.stats().hits == 1


@pytest.mark.parametrize("overtaken", ["new code", "old code"])
def test_old_and_new_code_see_each_others_writes(
    way: Way, deploy: tuple[Service[Before], Service[After]], overtaken: str
) -> None:
    """PEERS 21: rolling deploy: new code fills keys of its own schema; old code writes and invalidates keys of its own:
    new code reads stale.
    """
    reads, writes = deploy if overtaken == "old code" else deploy[::-1]
    for number in range(1, 4):
        assert way.read(reads).name == str(number - 1)
        assert reads.exists("ada")
        writes.update("ada", name=str(number))
        assert way.read(reads).name == way.read(writes).name == str(number)

    writes.invalidate("ada")
    reader = way.reader(reads)
    reader.goes(f"after {way.load}")
    writes.update("ada", name="4")
    assert reader.ends().name == "3"
    assert reads.stats().fills_refused == 1
    assert way.read(reads).name == way.read(writes).name == way.read(reads).name == "4"


# Faults


@pytest.fixture
def servers(memcached_servers: list[Memcached]) -> Iterator[list[Memcached]]:
    yield memcached_servers
    for server in memcached_servers:
        server.start()


@pytest.fixture
def outage(people_engine: sa.Engine, servers: list[Memcached]) -> Iterator[Town]:
    """A town whose cache can fail: memcached, since a memory region fails with its process only."""
    # Nobody looks at the fence again until a test says so, however slow the machine.
    town = Town(people_engine, patient_url(servers, fence_interval=60))
    town.memcached = servers
    yield town
    town.close()


def test_a_commit_while_the_cache_is_down_holds_and_so_does_the_next(outage: Town, way: Way) -> None:
    """PEERS 11: cache down at a commit: the first commit raises after the database has committed; the next within a
    second drops its invalidation silently.
    """
    outage.settled(ada=OLD)
    for server in outage.memcached:
        server.kill()
    outage.commit(lambda session: setattr(session.get_one(Person, "ada"), "last_name", "King"))
    outage.read(ada=copy(OLD, last_name="King"))
    for server in outage.memcached:
        server.start()
    outage.delivered()
    outage.settled(ada=copy(OLD, last_name="King"))
    reader = way.reader(outage.here, "bob")
    reader.goes(f"after {way.load}")
    outage.commit(lambda session: (marry(session), setattr(session.get_one(Person, "bob"), "first_name", "Robert")))
    reader.ends()
    outage.settled(ada=NEW, bob=copy(BOB, first_name="Robert"))


def test_a_commit_finds_connections_closed_and_invalidates_all_the_same(outage: Town) -> None:
    """PEERS 11, at its shortest: the servers are there again, only the writer's connections are from before."""
    outage.settled(ada=OLD)
    for server in outage.memcached:
        server.restart()
    hits = outage.here.stats().hits
    assert [outage.here.get("ada") for _ in range(3)] == [OLD] * 3  # finds out; stores it on a new connection; a hit
    assert outage.here.stats().hits == hits + 1
    outage.commit(marry)
    outage.settled(ada=NEW)


def test_a_lease_of_a_server_that_restarted_is_no_lease_of_the_new_one(outage: Town, way: Way) -> None:
    """PEERS 20: R takes a lease (CAS id 1), SELECTs old; the server restarts; R' takes a lease (CAS id 1 again); R's
    store is accepted.
    """
    people = outage.here.cached
    key = people.keys.key_of(("ada",))[0]
    people.backend.close()
    for server in outage.memcached:
        server.restart()  # to count from 1
    filled: list[Any] = []
    fill_many = people.backend.fill_many
    people.backend.fill_many = lambda fills: filled.extend(fills) or fill_many(fills)  # type: ignore[method-assign]
    reader = way.reader(outage.here)
    reader.goes(f"after {way.load}")
    for server in outage.memcached:
        server.kill()
    outage.commit(marry)  # no server can be invalidated
    for server in outage.memcached:
        server.start()
    again = outage.backend.fetch(people.keys.group, key)
    assert [way.read(outage.here) for _ in range(2)] == [NEW, NEW]  # finds its connection closed, and opens another
    assert reader.ends() == OLD

    old = next(lease for lease, _ in filled if lease.key == key)
    assert old.cas == again.cas
    assert outage.elsewhere.cached.backend.fetch(people.keys.group, key) is BUSY
    outage.backend.abandon([again])
    outage.delivered()
    outage.settled(ada=NEW)
    assert outage.here.stats().fills_refused == way.width


@forking
@CHANGES
def test_a_process_that_dies_between_commit_and_release_leaves_nothing_old_behind(
    outage: Town, write: Write, id: str, old: Person | None, new: Person | None
) -> None:
    """PEERS 17, with a process of its own: it is gone before anything of Python's can tidy up."""
    reader = ONE.reader(outage.here, id)
    reader.goes("after one")

    def die() -> None:
        people = outage.service()
        people.cached.backend.release = lambda _: os._exit(0)
        with people.sessions.begin() as session:
            write(session)

    assert in_child(die) == ""
    outage.read(**{id: new})
    assert reader.ends() == old
    outage.read(**{id: new})


@CHANGES
@pytest.mark.parametrize("dies", ["before COMMIT", "after COMMIT"])
def test_a_writer_that_dies_leaves_nothing_old_behind(
    town: Town, dies: str, write: Write, id: str, old: Person | None, new: Person | None
) -> None:
    """PEERS 17: W commits; the process dies before it invalidates."""
    reader = ONE.reader(town.here, id)
    reader.goes("after one")
    writer = town.writer(write)
    writer.goes("before release" if dies == "after COMMIT" else "after put_tombstones")
    writer.dies()
    left = new if dies == "after COMMIT" else old
    town.read(**{id: left})
    assert reader.ends() == old
    town.read(**{id: left})
    town.commit(lambda session: session.merge(Person(id=id, first_name="Her", last_name="Heir")))
    town.read(**{id: Person(id=id, first_name="Her", last_name="Heir")})
