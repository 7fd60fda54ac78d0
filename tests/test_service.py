from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import dogpile.cache
import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from support.forks import forking, in_child, running_in_child
from support.models import HostBase, Parcel, parcel
from support.servers import Memcached
from support.urls import MEMORY, patient_url

from person_repo.cache.contract import Lease
from person_repo.cache.region import make_region
from person_repo.database.repository import SQLAlchemyRepository
from person_repo.exceptions import ConfigurationError, InvalidIdError, PersonNotFoundError
from person_repo.mapped.codec import Codec
from person_repo.model import Base, Person
from person_repo.observability.counters import Stats
from person_repo.reading.cached import CachedRepository
from person_repo.service import PersonService, Service, connect

Statements = Callable[..., AbstractContextManager[list[str]]]


def person(id: str = "ada", first_name: str = "Ada", last_name: str = "Lovelace") -> Person:
    return Person(id=id, first_name=first_name, last_name=last_name)


@pytest.fixture
def people(sessions: orm.sessionmaker[orm.Session], cache_url: str) -> Iterator[PersonService]:
    with PersonService.over(sessions, cache_url) as people:
        yield people


@pytest.fixture
def quick(tmp_path: Path) -> Iterator[PersonService]:
    """On SQLite and in memory alone, for tests in which neither has a part. Ada is in the database and in the cache."""
    with connect(f"sqlite:///{tmp_path / 'quick.db'}") as people:
        Base.metadata.create_all(people.engine)
        people.add(person())
        people.get("ada")
        yield people


def asks_database(people: PersonService) -> bool:
    """True if reads go to the database at the moment: only the cached side counts hits."""
    before = people.stats().hits
    assert people.get("ada") == person()
    return people.stats().hits == before


# The toggle


def test_the_toggle_says_which_side_answers(people: PersonService, statements: Statements) -> None:
    people.add(person())
    people.get("ada")
    for use_db in (True, False, True):
        people.use_db = use_db
        before = people.stats()
        with statements(people.engine, people.read_engine) as seen:
            assert people.get("ada") == person()
            assert people.get_one("ada") == person()
            assert people.get_many(["ada"]) == {"ada": person()}
            assert people.exists("ada")
        assert len(seen) == (4 if use_db else 0)
        assert (people.stats() - before).round_trips == (0 if use_db else 4)


def test_on_the_databases_side_nothing_is_asked_of_the_cache_or_put_there(people: PersonService) -> None:
    people.use_db = True
    people.add(person())
    before = people.stats()
    for _ in range(2):
        people.get("ada")
        people.get("nobody")
        people.get_many(["ada", "nobody"])
    assert people.stats() - before == Stats()

    people.use_db = False
    people.get("ada")
    assert (people.stats() - before).misses == 1


def test_a_service_begins_with_the_toggle_it_is_given(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'people.db'}"
    for use_db in (True, False):
        with connect(url, use_db=use_db) as people:
            assert people.use_db is use_db
        with PersonService.over(sa.create_engine(url), MEMORY, use_db=use_db) as people:
            assert people.use_db is use_db
        with Service.over(Parcel, sa.create_engine(url), MEMORY, use_db=use_db) as parcels:
            assert parcels.use_db is use_db
    with connect(url) as people:
        assert people.use_db is False


def test_using_holds_for_its_block_and_nests(quick: PersonService) -> None:
    assert not asks_database(quick)
    with quick.using(use_db=True) as same:
        assert same is quick
        assert asks_database(quick)
        with quick.using(use_db=False):
            assert not asks_database(quick)
            with quick.using(use_db=False):
                assert not asks_database(quick)
            assert not asks_database(quick)
        assert asks_database(quick)
        quick.use_db = True
    assert asks_database(quick)
    with quick.using(use_db=False):
        assert not asks_database(quick)
    quick.use_db = False
    assert not asks_database(quick)


def test_using_ends_with_its_block_however_that_ends(quick: PersonService) -> None:
    with pytest.raises(PersonNotFoundError), quick.using(use_db=True), quick.using(use_db=False):
        quick.get_one("nobody")
    assert not asks_database(quick)

    with quick.using(use_db=True), pytest.raises(KeyboardInterrupt), quick.using(use_db=False):
        raise KeyboardInterrupt
    assert not asks_database(quick)


def test_using_leaves_use_db_as_it_is(quick: PersonService) -> None:
    with quick.using(use_db=True):
        assert quick.use_db is False


def test_using_takes_its_argument_by_name_only(quick: PersonService) -> None:
    with pytest.raises(TypeError):
        quick.using(True)  # type: ignore[call-arg]


def test_using_holds_in_its_own_thread_only(quick: PersonService) -> None:
    with ThreadPoolExecutor(1) as other:
        other.submit(lambda: None).result()
        with quick.using(use_db=True):
            assert other.submit(asks_database, quick).result() is False
            assert asks_database(quick)
        quick.use_db = True
        assert other.submit(asks_database, quick).result() is True


def test_using_holds_in_its_own_task_and_those_that_it_starts(quick: PersonService) -> None:
    steps: list[tuple[str, bool]] = []

    async def work(name: str, use_db: bool, mine: asyncio.Event, others: asyncio.Event) -> None:
        with quick.using(use_db=use_db):
            for _ in range(3):
                others.set()
                await mine.wait()
                mine.clear()
                steps.append((name, asks_database(quick)))
            steps.append((name, await asyncio.to_thread(asks_database, quick)))
            steps.append((name, await asyncio.create_task(asked())))
        others.set()
        steps.append(("after", asks_database(quick)))

    async def asked() -> bool:
        return asks_database(quick)

    async def main() -> None:
        one, two = asyncio.Event(), asyncio.Event()
        await asyncio.gather(work("one", True, one, two), work("two", False, two, one))

    asyncio.run(main())
    assert [answer for name, answer in steps if name == "one"] == [True] * 5
    assert [answer for name, answer in steps if name == "two"] == [False] * 5
    assert [answer for name, answer in steps if name == "after"] == [False] * 2
    assert [name for name, _ in steps[:4]] in (["one", "two"] * 2, ["two", "one"] * 2)


def test_using_of_one_service_leaves_another_alone(quick: PersonService) -> None:
    other = PersonService.over(quick.sessions, quick.region)
    with quick.using(use_db=True):
        assert asks_database(quick)
        assert not asks_database(other)


def test_flipping_the_toggle_under_readers_gives_no_error_and_no_old_answer(people: PersonService) -> None:
    """Eight threads read, and each flips for itself as well; a read shows all that was acknowledged before it."""
    ids = ["ada", "bob", "eve"]
    people.add_many(person(id, first_name="0") for id in ids)
    acknowledged = dict.fromkeys(ids, 0)
    over = threading.Event()

    def read(number: int) -> int:
        """The number of reads until all was over."""
        for turn in itertools.count(number):
            if over.is_set():
                return turn - number
            least = dict(acknowledged)
            if turn % 3 == 0:
                found = people.get_many(ids)
            elif turn % 3 == 1:
                found = {id: people.get_one(id) for id in ids}
            else:
                with people.using(use_db=turn % 2 == 0):
                    found = {id: people.get_one(id) for id in ids}
            for id in ids:
                assert int(found[id].first_name) >= least[id]
                assert found[id].version == int(found[id].first_name) + 1
                found[id].first_name = "mine to change"
        raise AssertionError("unreachable")

    def flip() -> None:
        while not over.is_set():
            people.use_db = not people.use_db

    with ThreadPoolExecutor(9) as pool:
        flipping = pool.submit(flip)
        readers = [pool.submit(read, number) for number in range(8)]
        try:
            for number in range(1, 11):
                for id in ids:
                    people.update(id, first_name=str(number))
                    acknowledged[id] = number
        finally:
            over.set()
        flipping.result()
        assert all(reader.result() for reader in readers)
    people.use_db = False
    assert [found.first_name for found in people.get_many(ids).values()] == ["10"] * 3


# Writes


def rename(session: orm.Session) -> None:
    session.get_one(Person, "ada").first_name = "Augusta"


WRITES: dict[str, tuple[Callable[[PersonService], object], Person | None]] = {
    "update": (lambda people: people.update("ada", first_name="Augusta"), person(first_name="Augusta")),
    "upsert": (lambda people: people.upsert(person(first_name="Augusta")), person(first_name="Augusta")),
    "delete": (lambda people: people.delete("ada"), None),
}


@pytest.mark.parametrize("use_db", [True, False])
@pytest.mark.parametrize("write", [*WRITES, "session", "bound"])
def test_writes_invalidate_whichever_way_the_toggle_stands(people: PersonService, write: str, use_db: bool) -> None:
    people.add(person())
    people.get("ada")
    people.use_db = use_db
    if write in WRITES:
        change, left = WRITES[write]
        change(people)
    else:
        left = person(first_name="Augusta")
        with orm.Session(people.engine) as session, session.begin():
            if write == "bound":
                people.bind(session).update("ada", first_name="Augusta")
            else:
                rename(session)
    people.use_db = False

    assert people.get("ada") == left
    assert people.get("ada") == left


@pytest.mark.parametrize("use_db", [True, False])
def test_additions_end_known_absences_whichever_way_the_toggle_stands(people: PersonService, use_db: bool) -> None:
    ids = ["ada", "bob", "eve"]
    for _ in range(2):
        assert people.get_many(ids) == {}
    people.use_db = use_db
    people.add(person("ada"))
    people.add_many([person("bob")])
    people.upsert(person("eve"))
    people.use_db = False

    assert people.get_many(ids) == {id: person(id) for id in ids}


def test_a_write_that_fails_changes_nothing_and_leaves_nothing_blocked(people: PersonService) -> None:
    people.add(person())
    people.get("ada")
    for write in (
        lambda: people.add(person()),
        lambda: people.add_many([person("bob"), person("ada")]),
        lambda: people.update("nobody", first_name="A"),
    ):
        with pytest.raises(Exception, match=r"exists|no Person"):
            write()

    assert people.get("ada") == person()
    assert people.get("bob") is None
    people.get("ada")
    before = people.stats()
    people.get_many(["ada", "bob"])
    assert (people.stats() - before).hits == 2


# Several services, engines and regions


def test_two_services_over_one_region_do_not_disturb_each_other(
    sessions: orm.sessionmaker[orm.Session], cache_url: str
) -> None:
    region = make_region(cache_url)
    people = PersonService.over(sessions, region)
    HostBase.metadata.create_all(people.engine)
    parcels = Service.over(Parcel, sessions, region)
    people.add(person())
    parcels.add(parcel())
    key = ("Köln", 7)

    def hits() -> tuple[int, int]:
        before = people.stats().hits, parcels.stats().hits
        assert people.get("ada") is not None
        assert parcels.get(key) is not None
        return people.stats().hits - before[0], parcels.stats().hits - before[1]

    assert hits() == (0, 0)
    assert hits() == (1, 1)
    people.update("ada", first_name="Augusta")
    assert hits() == (0, 1)
    parcels.update(key, note="changed")
    assert hits() == (1, 0)
    people.invalidate_all()
    assert hits() == (0, 1)
    parcels.invalidate(key)
    assert hits() == (1, 0)
    people.use_db = True
    assert parcels.use_db is False
    people.close()
    parcels.close()


def test_two_services_of_one_class_share_what_is_cached_and_its_invalidation(
    sessions: orm.sessionmaker[orm.Session], cache_url: str
) -> None:
    """As two parts of an application may make them, unaware of each other."""
    one = PersonService.over(sessions, cache_url)
    same_region = PersonService.over(sessions, one.region)
    one.add(person())
    one.get("ada")
    before = one.stats()
    same_region.update("ada", first_name="Augusta")
    assert (one.stats() - before).round_trips == 2, "tombstones once, not for each service"

    two = PersonService.over(sessions, cache_url)
    two.update("ada", last_name="King")
    for people in (one, two, same_region):
        assert people.get("ada") == person(first_name="Augusta", last_name="King")
        people.close()


def test_another_engine_can_be_covered(people: PersonService) -> None:
    people.add(person())
    people.get("ada")
    other = sa.create_engine(people.engine.url)
    people.cover(other)
    people.cover(other)
    with orm.Session(other) as session, session.begin():
        rename(session)

    assert people.get("ada") == person(first_name="Augusta")
    other.dispose()


def test_only_an_engine_can_be_covered(quick: PersonService) -> None:
    for neither in (None, "sqlite://", quick.sessions):
        with pytest.raises(ConfigurationError, match="Engine"):
            quick.cover(neither)  # type: ignore[arg-type]


def test_a_session_that_is_bound_has_its_engine_covered(people: PersonService) -> None:
    people.add(person())
    people.get("ada")
    other = sa.create_engine(people.engine.url)
    with orm.Session(other) as session, session.begin():
        people.bind(session).update("ada", first_name="Augusta")

    assert people.get("ada") == person(first_name="Augusta")
    other.dispose()


def test_an_engine_that_is_named_and_the_one_of_the_sessions_are_both_covered(
    people_engine: sa.Engine, cache_url: str
) -> None:
    of_sessions = sa.create_engine(people_engine.url)
    with PersonService.over(orm.sessionmaker(of_sessions), cache_url, engine=people_engine) as people:
        assert people.engine is people_engine
        people.add(person())
        people.get("ada")
        people.update("ada", first_name="Augusta")
        assert people.get("ada") == person(first_name="Augusta")
        with orm.Session(people_engine) as session, session.begin():
            session.get_one(Person, "ada").last_name = "King"
        assert people.get("ada") == person(first_name="Augusta", last_name="King")
    of_sessions.dispose()


def test_a_service_takes_the_two_repositories_themselves(
    sessions: orm.sessionmaker[orm.Session], cache_url: str
) -> None:
    database = SQLAlchemyRepository(Person, sessions)
    cached = CachedRepository(database, cache_url)
    with PersonService(database=database, cached=cached, use_db=True) as people:
        people.add(person())
        people.use_db = False
        people.get("ada")
        people.update("ada", first_name="Augusta")
        assert people.get("ada") == person(first_name="Augusta")
        assert people.region is cached.region
        assert people.sessions is sessions
        assert people.engine is database.engine
        assert people.read_engine is database.read_engine


def test_repositories_of_two_classes_make_no_service(quick: PersonService) -> None:
    parcels = SQLAlchemyRepository(Parcel, quick.engine)
    with pytest.raises(ConfigurationError, match="Person"):
        Service[Any](database=parcels, cached=quick.cached)
    parcels.close()


@pytest.mark.parametrize(
    ("region", "coherence"),
    [
        ("memory://", "process"),
        ("memcached://127.0.0.1:1", "strict"),
        ("null://", "strict"),
        (dogpile.cache.make_region().configure("dogpile.cache.memory"), "best-effort"),
    ],
)
def test_a_service_says_how_far_its_promise_reaches(quick: PersonService, region: Any, coherence: str) -> None:
    assert PersonService.over(quick.sessions, region).coherence == coherence


def test_without_a_cache_everything_works_and_is_asked_of_the_database(quick: PersonService) -> None:
    people = PersonService.over(quick.sessions, "null://")
    for _ in range(2):
        assert people.get("ada") == person()
        assert people.get("nobody") is None
        assert people.get_many(["ada", "nobody"]) == {"ada": person()}
    people.update("ada", first_name="Augusta")
    people.invalidate("ada")
    people.invalidate_all()

    assert people.get("ada") == person(first_name="Augusta")
    assert (people.stats().hits, people.stats().fills) == (0, 0)
    people.close()


# Dropping by hand


def test_a_change_behind_its_back_is_seen_once_it_is_dropped(people: PersonService) -> None:
    behind = sa.create_engine(people.engine.url)
    people.add_many([person("ada"), person("bob")])
    people.get_many(["ada", "bob", "eve"])
    with behind.begin() as connection:
        connection.execute(sa.update(Person).values(first_name="changed"))
        connection.execute(sa.insert(Person).values(id="eve", first_name="E", last_name="", version=1))

    people.invalidate("ada", "eve", "nobody", "x" * 101)
    assert people.get_one("ada").first_name == "changed"
    assert people.get_one("eve").first_name == "E"
    assert people.get_one("bob").first_name == "Ada"
    people.invalidate_all()
    assert people.get_one("bob").first_name == "changed"
    people.invalidate()
    with pytest.raises(InvalidIdError):
        people.invalidate("ada", 1)
    behind.dispose()


def test_a_row_loaded_while_it_is_dropped_is_not_stored(people: PersonService) -> None:
    """The reader may have loaded the row as it was before."""
    people.add(person())
    key, full = people.cached.keys.key_of(("ada",))
    old = Codec(people.cached.mapping, people.cached.keys.location).encode(full, ("ada", "the old one", "", 1))
    for drop in (lambda: people.invalidate("ada"), people.invalidate_all):
        lease = people.cached.backend.fetch(people.cached.keys.group, key)
        assert isinstance(lease, Lease)
        drop()
        people.cached.backend.fill(lease, old)
        assert people.get("ada") == person()
        people.invalidate("ada")


# Numbers


def test_stats_subtract_to_what_was_done_since(people: PersonService) -> None:
    people.add(person())
    before = people.stats()
    people.get("ada")
    people.get("ada")
    people.get("nobody")
    people.get("nobody")
    people.update("ada", first_name="Augusta")
    people.invalidate_all()
    spent = people.stats() - before

    assert isinstance(spent, Stats)
    assert (spent.hits, spent.negative_hits, spent.misses, spent.fills, spent.loads) == (2, 1, 2, 2, 2)
    assert (spent.tombstones, spent.model_drops, spent.errors, spent.rejected) == (1, 1, 0, 0)
    assert spent.as_dict()["hits"] == 2


# Closing


def test_a_service_can_be_closed_again_and_used_again(people: PersonService) -> None:
    people.add(person())
    people.get("ada")
    for _ in range(2):
        people.close()
        people.close()
        assert people.get("ada") == person()
        with people.using(use_db=True):
            assert people.get("ada") == person()
        people.update("ada", last_name="Lovelace")


def test_closing_leaves_the_hosts_engine_open(people_engine: sa.Engine) -> None:
    disposed: list[object] = []
    sa.event.listen(people_engine, "engine_disposed", disposed.append)
    with PersonService.over(people_engine, MEMORY) as people:
        people.add(person())
        held = people_engine.connect()

    assert held.execute(sa.select(Person.id)).all() == [("ada",)]
    assert disposed == []
    held.close()


def test_things_that_a_host_pushes_are_closed_with_the_service(quick: PersonService) -> None:
    closed: list[str] = []
    quick.closing.callback(closed.append, "once")
    with quick as same:
        assert same is quick
    quick.close()

    assert closed == ["once"]


# Two URLs


def test_connect_opens_no_connection(tmp_path: Path) -> None:
    connect(f"sqlite:///{tmp_path / 'people.db'}", "memcached://127.0.0.1:1").close()
    connect("mysql+pymysql://nobody@127.0.0.1:1/none").close()

    assert list(tmp_path.iterdir()) == []


def test_connect_takes_a_file(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'people.db'}"
    with connect(url) as people:
        Base.metadata.create_all(people.engine)
        people.add(person())
    with connect(sa.make_url(url)) as people:
        assert people.get("ada") == person()


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "sqlite+pysqlite:///"])
def test_connect_to_sqlite_in_memory_has_one_database_for_all_threads(url: str) -> None:
    with connect(url) as people, ThreadPoolExecutor(2) as pool:
        Base.metadata.create_all(people.engine)
        pool.submit(people.add, person()).result()
        for _ in range(2):
            assert people.get("ada") == person()
            assert pool.submit(people.get, "ada").result() == person()
        assert people.stats().hits == 3


def test_connect_takes_options_of_the_cache_or_a_region(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'people.db'}"
    region = make_region("memory://", namespace="crm")
    assert connect(url, region).region is region
    assert connect(url, "memory://?ttl=5", namespace="crm").cached.backend.settings.namespace == "crm"
    with pytest.raises(ConfigurationError, match="ttl="):
        connect(url, region, ttl=5)
    with pytest.raises(ConfigurationError, match="size"):
        connect(url, "memory://", size=5)
    with pytest.raises(ConfigurationError, match="configure"):
        connect(url, dogpile.cache.make_region())


@pytest.mark.parametrize(
    "url",
    [
        "", "people.db", "nosql://u:geheim@h/people", "mysql+nodriver://u:geheim@h/people",
        "mysql+pymysql://u:geheim@h:port/people", "mysql+pymysql://u:ge@heim@h:1x/people", "mysql://u:geheim@h/people",
        "postgresql+nodriver://u:geheim@h/people", None, 3,
    ],
)  # fmt: skip
def test_a_database_url_that_cannot_be_used_is_refused_without_its_password(url: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        connect(url)

    assert "database URL" in str(caught.value)
    assert "heim" not in "".join([str(caught.value), repr(caught.value), str(caught.value.__cause__)])


def test_a_cache_url_that_cannot_be_used_is_refused_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cache URL") as caught:
        connect("sqlite://", "memcached://user:geheim@host")

    assert "geheim" not in str(caught.value)


# Forks


def exercise(people: PersonService, name: str) -> str:
    """Reads and writes on both sides of the toggle, as one process of several."""
    people.add(person(name, first_name="0"))
    for number in range(1, 20):
        people.update(name, first_name=str(number))
        for use_db in (True, False):
            with people.using(use_db=use_db):
                assert people.get_one(name).first_name == str(number)
                assert people.get_many([name, "ada"]).keys() == {name, "ada"}
                assert people.list(after="a", limit=1) == [person()]
    return "fine"


@forking
def test_a_service_that_was_used_before_a_fork_works_on_both_sides_of_it(
    database_url: str, memcached_servers: list[Memcached]
) -> None:
    """Neither process reads the replies to the other, of the database or of the cache."""
    cache_url = patient_url(memcached_servers)
    with connect(database_url, cache_url) as people:
        Base.metadata.create_all(people.engine)
        people.add(person())
        assert people.get("ada") == person()
        with people.using(use_db=True):
            assert people.get("ada") == person()
        with running_in_child(lambda: exercise(people, "child")) as said:
            assert exercise(people, "parent") == "fine"

        assert said() == "fine"
        assert [found.id for found in people.list()] == ["ada", "child", "parent"]
        assert people.get_one("child").first_name == "19"


@forking
def test_a_forked_process_reads_on_connections_of_its_own(mysql_url: str) -> None:
    host = sa.create_engine(mysql_url)
    Base.metadata.create_all(host)
    people = PersonService.over(host, MEMORY)

    def connection_id() -> int:
        people.get("ada")
        with people.read_engine.connect() as connection:
            return int(connection.exec_driver_sql("SELECT CONNECTION_ID()").scalar_one())

    before = connection_id()
    assert in_child(connection_id) != str(before)
    assert connection_id() == before
    people.close()
    host.dispose()


@forking
def test_a_forked_process_has_its_own_copy_of_a_database_in_memory() -> None:
    with connect("sqlite://") as people:
        Base.metadata.create_all(people.engine)
        people.add(person())
        people.get("ada")
        assert in_child(lambda: people.get("ada")) == str(person_as_stored())
        assert people.get("ada") == person()


def person_as_stored() -> Person:
    stored = person()
    stored.version = 1
    return stored
