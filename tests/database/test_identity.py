"""The identity of a database: two databases share no entry of a cache, and one has the same entries for everybody."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from support.databases import make_tables
from support.servers import Memcached
from support.urls import patient_url

from person_repo import Person, PersonService, make_region, migrations
from person_repo.database.identity import database_of, identity_of, renew_identity
from person_repo.model import IDENTITY, Base


def person(name: str) -> Person:
    return Person(id="ada", first_name=name, last_name="Lovelace")


def service(url: str | sa.URL | sa.Engine, cache: Any) -> PersonService:
    """A service with an engine of its own, as another process has one."""
    engine = url if isinstance(url, sa.Engine) else sa.create_engine(url)
    return PersonService.over(engine, cache if not isinstance(cache, str) else make_region(cache))


def stored(url: str) -> str | None:
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        found = identity_of(connection)
    engine.dispose()
    return found


@pytest.fixture
def other_url(database_url: str, tmp_path: Path) -> Iterator[str]:
    """Another empty database of the same server, or another file."""
    url = sa.make_url(database_url)
    if url.get_backend_name() == "sqlite":
        yield f"sqlite:///{tmp_path / 'other.db'}"
        return
    name = f"{url.database}_other"
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
        yield url.set(database=name).render_as_string(hide_password=False)
        connection.exec_driver_sql(f"DROP DATABASE {name}")
    engine.dispose()


# Made with the tables


@pytest.mark.every_database
def test_each_database_has_an_identity_of_its_own(database_url: str, other_url: str) -> None:
    migrations.upgrade(database_url, person=False)
    make_tables(other_url)
    one, other = stored(database_url), stored(other_url)

    assert one
    assert other
    assert one != other
    assert len(one) == 32


@pytest.mark.every_database
def test_an_identity_that_is_there_stays(database_url: str) -> None:
    engine = sa.create_engine(database_url)
    IDENTITY.create(engine)
    before = stored(database_url)
    migrations.upgrade(engine)
    migrations.upgrade(engine)
    assert stored(database_url) == before
    engine.dispose()


# Two databases


@pytest.mark.parametrize("made_by", ["migration", "create_all of the host's tables"])
@pytest.mark.every_database
def test_two_databases_exchange_nothing(
    database_url: str, other_url: str, memcached_servers: list[Memcached], made_by: str
) -> None:
    """One region, one namespace, in one process and in two."""
    for url in (database_url, other_url):
        if made_by == "migration":
            migrations.upgrade(url)
        else:
            engine = sa.create_engine(url)
            Person.__table__.create(engine)  # type: ignore[attr-defined]
            engine.dispose()
    region = make_region(patient_url(memcached_servers))
    one, other = service(database_url, region), service(other_url, region)
    elsewhere = service(other_url, patient_url(memcached_servers))
    one.add(person("one"))
    for people, name in ((one, "one"), (other, None), (elsewhere, None), (one, "one"), (other, None)):
        found = people.get("ada")
        assert (found and found.first_name) == name
    other.add(person("other"))
    assert [people.get_one("ada").first_name for people in (one, other, elsewhere)] == ["one", "other", "other"]
    before = elsewhere.stats().hits
    elsewhere.update("ada", first_name="changed")
    assert [people.get_one("ada").first_name for people in (one, other, elsewhere)] == ["one", "changed", "changed"]
    assert one.stats().hits
    assert elsewhere.stats().hits >= before
    for people in (one, other, elsewhere):
        people.close()
        people.engine.dispose()


def test_databases_in_memory_are_each_their_own() -> None:
    region, options = make_region("memory://"), {"poolclass": sa.StaticPool}
    engines = [sa.create_engine("sqlite://", **options) for _ in range(3)]  # type: ignore[call-overload]
    for number, engine in enumerate(engines):
        if number:
            Base.metadata.create_all(engine)
        else:
            Person.__table__.create(engine)  # type: ignore[attr-defined]
        service(engine, region).add(person(str(number)))
    for _ in range(2):
        assert [service(engine, region).get_one("ada").first_name for engine in engines] == ["0", "1", "2"]
    for engine in engines:
        engine.dispose()


def test_a_copy_has_the_identity_of_the_original_until_it_is_renewed(
    tmp_path: Path, memcached_servers: list[Memcached], caplog: pytest.LogCaptureFixture
) -> None:
    url, copy = (f"sqlite:///{tmp_path / name}.db" for name in ("production", "staging"))
    migrations.upgrade(url)
    production = service(url, patient_url(memcached_servers))
    production.add(person("production"))
    production.get("ada")
    shutil.copy(tmp_path / "production.db", tmp_path / "staging.db")
    engine = sa.create_engine(copy)
    with engine.begin() as connection:
        connection.execute(sa.update(Person).values(first_name="staging"))
    shared = service(copy, patient_url(memcached_servers))
    assert shared.get_one("ada").first_name == "production"  # A machine cannot tell it from a promoted replica.
    assert shared.stats().other_servers == 1
    assert "run person-repo identity --renew" in caplog.text
    assert production.stats().other_servers == 0

    with engine.begin() as connection:
        renewed = renew_identity(connection)
    assert stored(copy) == renewed != stored(url)
    staging = service(copy, patient_url(memcached_servers))
    assert staging.get_one("ada").first_name == "staging"
    assert staging.stats().other_servers == 0
    assert production.get_one("ada").first_name == "production"
    for people in (production, shared, staging):
        people.close()
        people.engine.dispose()
    engine.dispose()


@pytest.mark.parametrize("database_url", ["mysql", "postgresql"], indirect=True)
def test_a_copy_beside_the_original_is_told_by_its_name(
    database_url: str, other_url: str, memcached_servers: list[Memcached]
) -> None:
    migrations.upgrade(database_url)
    migrations.upgrade(other_url)
    engine = sa.create_engine(other_url)
    with engine.begin() as connection:
        connection.execute(sa.update(IDENTITY).values(identity=stored(database_url)))
    one, other = (service(url, patient_url(memcached_servers)) for url in (database_url, other_url))
    one.add(person("one"))
    assert one.get("ada")
    assert other.get("ada") is None
    for people in (one, other):
        people.close()
        people.engine.dispose()
    engine.dispose()


# One database


def share_entries(one: PersonService, other: PersonService) -> None:
    """Each hits what the other has filled, and drops it. Closes both."""
    one.add(person("old"))
    for reader, writer in ((one, other), (other, one)):
        reader.get("ada")
        before = writer.stats().hits
        writer.get("ada")
        assert writer.stats().hits == before + 1
        writer.update("ada", first_name=f"of {id(writer)}")
        assert reader.get_one("ada").first_name == f"of {id(writer)}"
    for people in (one, other):
        people.close()
        people.engine.dispose()


@pytest.mark.every_database
def test_all_engines_of_a_database_have_the_same_entries(database_url: str, memcached_servers: list[Memcached]) -> None:
    migrations.upgrade(database_url)
    url = sa.make_url(database_url)
    spelt = url if url.get_backend_name() == "sqlite" else url.set(host="localhost", query={})
    share_entries(*[service(each, patient_url(memcached_servers)) for each in (url, spelt)])


def test_without_identities_the_engines_of_a_service_are_one_database(
    mysql_url: str, memcached_servers: list[Memcached], caplog: pytest.LogCaptureFixture
) -> None:
    """It is written through one address and read through another: its own word says that both are the same."""
    url = sa.make_url(mysql_url)
    writer = sa.create_engine(url)
    args, options = writer.dialect.create_connect_args(url)
    reader = sa.create_engine(url.set(host="another.name"), creator=lambda: writer.dialect.connect(*args, **options))
    Person.__table__.create(writer)  # type: ignore[attr-defined]
    sessions = orm.sessionmaker(writer)
    people = PersonService.over(sessions, patient_url(memcached_servers), engine=reader)
    people.add(person("old"))
    people.get("ada")
    people.update("ada", first_name="new")
    assert people.get_one("ada").first_name == "new"
    (record,) = [record for record in caplog.records if "has no identity" in record.message]
    assert record.levelname == "ERROR"
    assert "migrations.upgrade(engine)" in record.message
    people.close()
    for engine in (writer, reader):
        engine.dispose()


# It is asked once, and again only while there is none


@pytest.mark.every_database
def test_the_identity_is_asked_for_once(database_url: str, memcached_servers: list[Memcached]) -> None:
    migrations.upgrade(database_url)
    people = service(database_url, patient_url(memcached_servers))
    asked: list[str] = []
    for engine in (people.engine, people.read_engine):
        sa.event.listen(engine, "before_cursor_execute", lambda *args: asked.append(args[2]))
    people.add(person("0"))
    for number in range(3):
        people.get("ada")
        people.get("nobody")
        people.update("ada", first_name=str(number))
    # How long a lock is waited for is set for other questions, too.
    questions = [statement for statement in asked if IDENTITY.name in statement and "timeout" not in statement]
    assert 0 < len(questions) == len(set(questions)) <= 7
    assert not set(questions).intersection(asked[len(asked) // 2 :])
    people.close()
    people.engine.dispose()


@pytest.mark.every_database
def test_a_database_that_gets_its_identity_while_it_is_used_stays_coherent(
    database_url: str, memcached_servers: list[Memcached]
) -> None:
    url = patient_url(memcached_servers, fence_interval=0.05)
    here, there = service(database_url, url), service(database_url, url)
    Person.__table__.create(here.engine)  # type: ignore[attr-defined]
    here.add(person("0"))
    assert here.get_one("ada").first_name == there.get_one("ada").first_name == "0"
    migrations.upgrade(here.engine, person=False)
    for number in range(1, 30):
        here.update("ada", first_name=str(number))
        assert here.get_one("ada").first_name == there.get_one("ada").first_name == str(number)
        if number == 10:
            here.cached.backend.close()
    newer = service(database_url, url)
    assert newer.get_one("ada").first_name == "29"
    for people in (here, there, newer):
        people.close()
        people.engine.dispose()


@pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)
def test_an_identity_that_is_rolled_back_is_not_remembered(
    database_url: str, memcached_servers: list[Memcached]
) -> None:
    """Where DDL is transactional."""
    people = service(database_url, patient_url(memcached_servers))
    with people.engine.connect() as connection:
        connection.exec_driver_sql("BEGIN") if database_url.startswith("sqlite") else None
        Base.metadata.create_all(connection)
        connection.execute(sa.insert(Person), {"id": "ada", "first_name": "", "last_name": "", "version": 1})
        connection.rollback()
    make_tables(database_url)
    other = service(database_url, patient_url(memcached_servers))
    other.add(person("old"))
    other.get("ada")
    people.update("ada", first_name="new")
    assert other.get_one("ada").first_name == "new"
    for each in (people, other):
        each.close()
        each.engine.dispose()


# It cannot be read


@pytest.fixture
def blind(mysql_url: str) -> Iterator[sa.URL]:
    """The URL of an account that may do anything but read the identity."""
    make_tables(mysql_url)
    url = sa.make_url(mysql_url)
    admin = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.exec_driver_sql("CREATE USER blind@`%%` IDENTIFIED BY ''")
        for table in ("person", "person_repo_fence"):
            connection.exec_driver_sql(f"GRANT ALL ON {url.database}.{table} TO blind@`%%`")
        yield url.set(username="blind")
        connection.exec_driver_sql("DROP USER blind@`%%`")
    admin.dispose()


@pytest.mark.parametrize("policy", ["proceed", "strict", "refuse"])
def test_without_the_right_to_read_it_nothing_is_cached_and_every_write_drops_the_class(
    blind: sa.URL, memcached_servers: list[Memcached], caplog: pytest.LogCaptureFixture, policy: str
) -> None:
    url = patient_url(memcached_servers, on_unreachable=policy)
    people, other = service(blind, url), service(blind.set(username="root"), url)
    people.add(person("old"))
    for name in ("one", "two", "three"):
        assert other.get("ada")
        people.update("ada", first_name=name)
        for _ in range(2):
            assert people.get_one("ada").first_name == people.get_many(["ada"])["ada"].first_name == name
            assert other.get_one("ada").first_name == name
    with orm.Session(people.engine) as session:  # several flushes in one transaction
        for name in ("four", "five"):
            session.get_one(Person, "ada").first_name = name
            session.flush()
        session.commit()
    assert other.get_one("ada").first_name == "five"
    assert people.exists("ada")
    people.invalidate("ada")
    assert people.stats().hits == people.cached.counters.snapshot().fills == 0
    assert caplog.text.count("Person is not cached: its database does not say which it is") == 1
    for each in (people, other):
        each.close()
        each.engine.dispose()


# Where a table lies


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_table_is_where_the_search_path_finds_it(database_url: str, memcached_servers: list[Memcached]) -> None:
    """Two accounts have two default schemas, and both find the table in ``public``."""
    migrations.upgrade(database_url)
    plain = sa.create_engine(database_url)
    with plain.begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA of_somebody")
    apart = sa.create_engine(database_url, connect_args={"options": "-csearch_path=of_somebody,public"})
    share_entries(*[service(engine, patient_url(memcached_servers)) for engine in (plain, apart)])


def test_engines_made_by_options_are_one_database(database_url: str) -> None:
    engine = sa.create_engine(database_url)
    assert database_of(engine) is database_of(engine.execution_options(anything=1))
    assert database_of(engine) is not database_of(sa.create_engine(database_url))
