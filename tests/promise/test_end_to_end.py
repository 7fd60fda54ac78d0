"""People in a real database, read through a real cache, from the first import on, by one process and by several."""

from __future__ import annotations

import csv
import io
import json
import multiprocessing
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib import resources
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from support.reading import read_until
from support.servers import Memcached
from support.urls import patient_url

from person_repo import Person, PersonService, connect, make_region, migrations
from person_repo.cli.csv.exporting import export_people
from person_repo.cli.csv.importing import import_people
from person_repo.cli.csv.problems import ImportFailedError

Statements = Callable[..., AbstractContextManager[list[str]]]

LAUREATES = resources.files("person_repo.cli.demo").joinpath("turing_laureates.csv")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "laureates.csv"
    path.write_bytes(LAUREATES.read_bytes())
    return path


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def shown(people: list[Person]) -> list[dict[str, str]]:
    return [{"id": each.id, "first_name": each.first_name, "last_name": each.last_name} for each in people]


def test_the_laureates_come_back_equal_from_both_sides(
    database_url: str, cache_url: str, file: Path, statements: Statements
) -> None:
    rows = rows_of(file.read_text(encoding="utf-8"))
    ids = [row["id"] for row in rows]
    migrations.upgrade(database_url)
    with connect(database_url, cache_url) as people:
        assert people.get_many(ids) == {}
        assert import_people(people, file).imported == len(rows) == people.count() == 79

        for use_db in (True, False, False):
            people.use_db = use_db
            assert shown(list(people.get_many(ids).values())) == rows
            assert shown([people.get_one(id) for id in ids]) == rows
            assert people.get_one("corbato-1990").last_name == "Corbató"
        before = people.stats()
        with statements(people.engine, people.read_engine) as seen:
            assert shown(list(people.get_many(ids).values())) == rows
            assert shown([people.get_one(id) for id in ids]) == rows
        assert seen == []
        assert (people.stats() - before).hits == 2 * 79

        assert shown(people.list()) == sorted(rows, key=lambda row: row["id"])
        assert shown(people.find(last_name="Corbató")) == [row for row in rows if row["id"] == "corbato-1990"]
        assert people.find(last_name="Corbato") == []
        with people.engine.connect() as connection:
            stored = connection.execute(sa.text("SELECT last_name FROM person WHERE id = 'corbato-1990'")).scalar()
        assert stored == "Corbat\u00f3"


def test_imported_rows_are_exported_as_they_were(database_url: str, cache_url: str, file: Path) -> None:
    rows = rows_of(file.read_text(encoding="utf-8"))
    migrations.upgrade(database_url)
    with connect(database_url, cache_url) as people:
        import_people(people, file)
        as_csv, as_json = io.BytesIO(), io.BytesIO()
        assert export_people(people, as_csv) == export_people(people, as_json, format="jsonl") == 79
        assert rows_of(as_csv.getvalue().decode()) == sorted(rows, key=lambda row: row["id"])
        assert [json.loads(line) for line in as_json.getvalue().decode().splitlines()] == sorted(
            rows, key=lambda row: row["id"]
        )
        with pytest.raises(ImportFailedError) as caught:
            import_people(people, file)
        assert len(caught.value.problems) == 79
        assert people.count() == 79


def test_a_host_works_as_it_always_did_and_reads_through_the_cache(database_url: str, cache_url: str) -> None:
    """A day of a host: none of its code knows of the cache."""
    engine = sa.create_engine(database_url)
    migrations.upgrade(engine)
    sessions = orm.sessionmaker(engine)
    with PersonService.over(sessions, make_region(cache_url, namespace="crm", ttl=60)) as people:
        with sessions.begin() as session:
            session.add_all([Person(id=id, first_name=id.title(), last_name="") for id in ("ada", "bob", "eve")])
        for _ in range(2):
            assert [found.first_name for found in people.get_many(["ada", "bob", "eve"]).values()] == [
                "Ada", "Bob", "Eve",
            ]  # fmt: skip
        assert people.stats().hits == 3

        with sessions.begin() as session:
            session.get_one(Person, "ada").first_name = "Augusta"
            session.delete(session.get_one(Person, "bob"))
        assert people.get_one("ada").first_name == "Augusta"
        assert people.get("bob") is None

        with sessions() as session:
            session.get_one(Person, "eve").first_name = "Nobody"
            session.flush()
            assert people.get_one("eve").first_name == "Eve"
            session.rollback()
        assert people.get_one("eve").first_name == "Eve"

        with sessions.begin() as session:
            with session.begin_nested() as savepoint:
                session.get_one(Person, "ada").last_name = "lost"
                session.flush()
                savepoint.rollback()
            people.bind(session).update("ada", last_name="King")
        assert (people.get_one("ada").first_name, people.get_one("ada").last_name) == ("Augusta", "King")
        assert people.get_one("ada").version == 3
    migrations.downgrade(engine, "base")
    engine.dispose()


@pytest.mark.proof(name="interleavings", sample=1, again=True)
def test_processes_that_read_never_see_less_than_another_one_has_committed(
    database_url: str, memcached_servers: list[Memcached]
) -> None:
    cache_url = patient_url(memcached_servers)
    context = multiprocessing.get_context("spawn")
    ids = [f"person {number}" for number in range(6)]
    migrations.upgrade(database_url)
    with connect(database_url, cache_url) as people:
        people.add_many(Person(id=id, first_name="0", last_name="") for id in ids)
        over, begun, said = context.Event(), context.Semaphore(0), context.Queue()
        acknowledged = context.Array("i", len(ids))
        arguments = (over, begun, acknowledged, ids, database_url, cache_url, said)
        readers = [context.Process(target=read_until, args=arguments) for _ in range(2)]
        for reader in readers:
            reader.start()
        try:
            for _ in readers:
                assert begun.acquire(timeout=60)
            for number in range(1, 21):
                for at, id in enumerate(ids):
                    people.update(id, first_name=str(number))
                    acknowledged[at] = number
                    if at % 2:
                        assert people.get_one(id).first_name == str(number)
        finally:
            over.set()
            for reader in readers:
                reader.join(30)
                reader.kill()  # one that hangs; the others have ended
        results = [said.get(timeout=10) for _ in readers]
        assert [wrong for wrong, _, _ in results] == [[], []]
        assert all(reads and hits for _, reads, hits in results)
        assert [found.first_name for found in people.get_many(ids).values()] == ["20"] * len(ids)
