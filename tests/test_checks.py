"""``Service.check``: what would not work, before anybody reads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dogpile.cache
import pytest
import sqlalchemy as sa
from dogpile.cache.api import NO_VALUE, CacheBackend
from support.servers import Memcached
from support.urls import patient_url

from person_repo import (
    CachedRepository,
    Person,
    PersonService,
    SQLAlchemyRepository,
    connect,
    make_region,
    migrations,
)
from person_repo.model import Base


@pytest.fixture
def cached(engine: sa.Engine, memcached_servers: list[Memcached]) -> Iterator[PersonService]:
    """A service over memcached, and a database that has no table yet."""
    with PersonService.over(engine, make_region(patient_url(memcached_servers))) as people:
        yield people


def subjects(people: PersonService) -> list[str]:
    return [finding.about for finding in people.check()]


def version(engine: sa.Engine, table: str, *revisions: str) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(f"DROP TABLE IF EXISTS {table}")
        connection.exec_driver_sql(f"CREATE TABLE {table} (version_num VARCHAR(32))")
        for revision in revisions:
            connection.exec_driver_sql(f"INSERT INTO {table} VALUES ('{revision}')")


@pytest.mark.parametrize("person", [True, False], ids=["both branches", "the layer"])
def test_nothing_is_found_after_an_upgrade(engine: sa.Engine, cached: PersonService, person: bool) -> None:
    migrations.upgrade(engine, person=person)
    assert cached.check() == ()


def test_a_missing_table_is_found_with_the_line_that_makes_it(engine: sa.Engine, cached: PersonService) -> None:
    finding, other = cached.check()
    assert (finding.about, finding.problem.partition(": ")[2]) == ("schema", "there is no table person_repo_fence")
    assert (other.about, other.problem.partition(": ")[2]) == ("schema", "there is no table person_repo_identity")
    assert "person_repo.migrations.upgrade(engine)" in finding.remedy
    assert str(finding) == f"{finding.problem}; {finding.remedy}"


@pytest.mark.parametrize(
    ("ours", "of_the_host", "problem"),
    [
        (["person_repo_layer_0000"], [], "is at person_repo_layer_0000, and this version needs"),
        ([], ["shop_0001", "person_repo_layer_0000"], "is at person_repo_layer_0000, and this version needs"),
        (["person_repo_0002"], [], "is at person_repo_0002, and this version also needs person_repo_layer_0002"),
        (["person_repo_layer_0002"], ["shop_0001"], None),
        (["person_repo_0002"], ["person_repo_layer_0002"], None),
        (["person_repo_layer_0999"], [], None),
        ([], ["shop_0001", "person_repo_0002"], None),
        ([], ["shop_0001"], None),
    ],
)
def test_an_older_revision_is_found_and_a_newer_or_unknown_one_is_not(
    engine: sa.Engine, cached: PersonService, ours: list[str], of_the_host: list[str], problem: str | None
) -> None:
    """A newer one is there during a deploy; of a host that depends on ours, its version table need not name ours."""
    Base.metadata.create_all(engine)
    version(engine, "person_repo_version", *ours)
    version(engine, "alembic_version", *of_the_host)

    assert [problem is not None and problem in found.problem for found in cached.check()] == [True] * bool(problem)


def test_a_cache_in_memory_needs_no_table_of_the_layer(database_url: str) -> None:
    with connect(database_url) as people:
        assert people.check() == ()
    with connect(database_url, "null://") as people:
        assert people.check() == ()


def test_each_server_that_does_not_answer_is_found(
    engine: sa.Engine, cached: PersonService, memcached_servers: list[Memcached]
) -> None:
    migrations.upgrade(engine)
    first, second, _ = memcached_servers
    first.kill()
    second.kill()
    servers = cached.cached.backend.servers  # type: ignore[attr-defined]

    findings = cached.check()

    assert {finding.about for finding in findings} == {"cache"}
    assert [finding.problem for finding in findings] == sorted(f"{server} does not answer" for server in servers[:2])


def test_a_database_that_is_down_is_found_without_its_password(memcached_servers: list[Memcached]) -> None:
    with connect("mysql+pymysql://shop:hunter2@127.0.0.1:1/shop", patient_url(memcached_servers)) as people:
        (finding,) = people.check()

    assert finding.about == "database"
    assert "mysql+pymysql://shop:***@127.0.0.1:1/shop cannot be used" in finding.problem
    assert "hunter2" not in str(finding)


def test_a_read_engine_that_cannot_connect_is_found(
    engine: sa.Engine, memcached_servers: list[Memcached], tmp_path: Path
) -> None:
    migrations.upgrade(engine)
    nowhere = sa.create_engine(f"sqlite:///{tmp_path / 'no folder' / 'people.db'}")
    database = SQLAlchemyRepository(Person, engine, read_engine=nowhere)
    region = make_region(patient_url(memcached_servers))
    with PersonService(database=database, cached=CachedRepository(database, region)) as people:
        (finding,) = people.check()
    nowhere.dispose()

    assert "no folder" in finding.problem


class Broken(CacheBackend):
    """A backend of somebody else's that raises."""

    def __init__(self, arguments: dict[str, object]) -> None:
        self.arguments = arguments

    def get(self, key: str) -> object:
        if self.arguments["broken"]:
            raise OSError("no route")
        return NO_VALUE

    def set(self, key: str, value: object) -> None:
        pass

    def delete(self, key: str) -> None:
        pass


def test_a_foreign_region_that_raises_is_found(engine: sa.Engine) -> None:
    dogpile.cache.register_backend("tests.broken", __name__, "Broken")
    arguments = {"broken": False}
    region = dogpile.cache.make_region().configure("tests.broken", arguments=arguments)
    with PersonService.over(engine, region) as people:
        assert people.check() == ()
        arguments["broken"] = True
        assert subjects(people) == ["cache"]


def test_a_check_writes_nothing_and_takes_no_lease(engine: sa.Engine, cached: PersonService) -> None:
    migrations.upgrade(engine)
    sent: list[str] = []
    for each in (cached.engine, cached.read_engine):
        sa.event.listen(each, "before_cursor_execute", lambda *arguments: sent.append(arguments[2]))
    before = cached.stats()

    cached.check()

    assert [line for line in sent if not line.upper().startswith(("SELECT", "PRAGMA", "DESCRIBE", "SHOW"))] == []
    spent = cached.stats() - before
    assert (spent.round_trips, spent.fills, spent.tombstones) == (3, 0, 0)
