"""The demo: its steps, their costs, and the database after it."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.command import Run, answer, call
from support.servers import Memcached
from support.urls import patient_url

import person_repo
from person_repo import Person, PersonService, migrations
from person_repo.cli.demo.story import Step, laureates
from person_repo.cli.demo.story import run as run_demo
from person_repo.exceptions import EntityExistsError

sqlite_only = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def people(database_url: str) -> Iterator[PersonService]:
    """An application that uses the same database."""
    migrations.upgrade(database_url)
    with person_repo.connect(database_url) as service:
        yield service


def in_short(steps: list[Step]) -> list[tuple[str, str, int]]:
    return [(step.what, step.answered_by, step.statements) for step in steps]


def wrong(steps: list[Step]) -> list[str]:
    return [f"{step.what}: {step.wrong}" for step in steps if step.wrong]


def test_each_step_has_its_answer_who_answered_and_its_cost(database_url: str, cache_url: str) -> None:
    steps = run_demo(database_url, cache_url)

    assert wrong(steps) == []
    by_name = {step.what: step for step in steps}
    assert [
        (step.what, step.answer, step.answered_by, step.statements) for step in steps if step.what.startswith("read")
    ] == [
        ("read one for the first time", "Fernando Corbató", "database", 1),
        ("read it again", "Fernando Corbató", "cache", 0),
        ("read it in a block with use_db on", "Fernando Corbató", "database", 1),
        ("read all in one call", "79 people", "database", 1),
        ("read all in one call again", "79 people", "cache", 0),
        ("read an id that nobody has", "nobody", "database", 1),
        ("read that id again", "nobody", "cache", 0),
        ("read the one added", "Ada Byron", "database", 1),
        ("read: the change is seen", "Ada Lovelace", "database", 1),
        ("read: nothing has changed", "Ada Lovelace", "cache", 0),
        ("read: nobody", "nobody", "database", 1),
    ]
    assert by_name["turn use_db on for everybody, read it"].answered_by == "database"
    assert by_name["turn use_db off again, read it"].answered_by == "cache"
    assert by_name["read it again"].round_trips == 1
    assert by_name["read it in a block with use_db on"].round_trips == 0
    assert by_name["import 79 laureates"].answer == "79"
    assert by_name["change the name in a plain SQLAlchemy session"].round_trips > 0
    assert all(step.microseconds > 0 for step in steps)


def test_without_a_url_nothing_is_left_of_the_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    assert wrong(run_demo()) == []

    assert os.listdir(tmp_path) == []


def test_an_empty_database_is_empty_again_and_the_demo_can_run_again(
    people: PersonService, database_url: str, cache_url: str
) -> None:
    first = run_demo(database_url, cache_url)
    assert people.count() == 0

    second = run_demo(database_url, cache_url)
    assert people.count() == 0
    assert wrong(first) == wrong(second) == []
    assert in_short(first)[1:] == in_short(second)[1:]  # but for the migrations, which the first one ran


def test_people_who_are_there_stay_as_they_are(people: PersonService, database_url: str) -> None:
    turing = Person(id="turing", first_name="Alan", last_name="Turing")
    there = [turing, *laureates()[:3]]
    people.add_many(there)

    steps = run_demo(database_url)

    assert wrong(steps) == []
    assert any(step.what == "import 76 laureates" for step in steps)
    with people.using(use_db=True):
        assert sorted(person.id for person in people.list()) == sorted(person.id for person in there)
        assert people.get_many([person.id for person in there]) == {person.id: person for person in there}


@sqlite_only
def test_the_first_read_is_a_first_read_although_others_have_read_before(
    people: PersonService, database_url: str, memcached_servers: list[Memcached]
) -> None:
    people.add_many(laureates())
    cache_url = patient_url(memcached_servers[:1])
    with person_repo.connect(database_url, cache_url) as others:
        others.get("corbato-1990")

        by_name = {step.what: step for step in run_demo(database_url, cache_url)}

    assert by_name["read one for the first time"].answered_by == "database"


def test_the_demo_refuses_a_database_with_other_people_under_its_ids(people: PersonService, database_url: str) -> None:
    other = Person(id="knuth-1974", first_name="Somebody", last_name="Else")
    people.add(other)

    with pytest.raises(EntityExistsError, match="'knuth-1974'"):
        run_demo(database_url)

    with people.using(use_db=True):
        assert people.list() == [other]


@sqlite_only
def test_an_interrupted_demo_removes_the_people_it_added(
    people: PersonService, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(PersonService, "get", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_demo(database_url)

    assert people.count() == 0


@sqlite_only
def test_a_wrong_answer_is_recorded(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stale = Person(id="corbato-1990", first_name="Old", last_name="Entry")
    monkeypatch.setattr(PersonService, "get", lambda *_: stale)

    found = wrong(run_demo(database_url))

    assert any("read it again: expected" in line and "Entry" in line for line in found)


@sqlite_only
def test_somebody_who_was_changed_by_others_during_the_demo_is_not_removed(
    people: PersonService, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    delete = PersonService.delete

    def change_and_delete(service: PersonService, id: str) -> bool:
        people.update("knuth-1974", first_name="Don")
        return delete(service, id)

    monkeypatch.setattr(PersonService, "delete", change_and_delete)
    run_demo(database_url)

    with people.using(use_db=True):
        assert people.list() == [Person(id="knuth-1974", first_name="Don", last_name="Knuth")]


class TestCommand:
    """``demo`` as a command."""

    def test_the_steps_are_a_table(self) -> None:
        result = call("demo")
        assert (result.exit_code, result.stderr) == (0, "")
        assert "a temporary SQLite file, memory://" in result.stdout
        line = next(line for line in result.stdout.splitlines() if "read it again" in line)
        assert re.search(r"Fernando Corbató\W+cache\W+[\d,]+\W+0\W+1\W", line)

    def test_a_demo_in_a_database_with_a_cache_says_where(
        self, database_url: str, cache_url: str, tmp_path: Path
    ) -> None:
        document = answer(call("--json", "demo", "--database-url", database_url, "--cache-url", cache_url))
        assert document["right"] is True
        assert document["cache"] == cache_url
        assert {"what", "answer", "answered_by", "microseconds", "statements", "round_trips", "wrong"} == set(
            document["steps"][0]
        )
        with person_repo.connect(database_url) as people:
            assert people.count() == 0

    @sqlite_only
    def test_the_environment_names_the_database_of_the_demo_too(
        self, database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("PERSON_REPO_DATABASE_URL", database_url)
        assert "people.db" in call("demo").stdout
        assert os.listdir(tmp_path) == ["people.db"]

    def test_the_default_database_is_left_alone(self, tmp_path: Path) -> None:
        call("upgrade")
        before = (tmp_path / "people.db").read_bytes()
        assert call("demo").exit_code == 0
        assert (tmp_path / "people.db").read_bytes() == before

    @pytest.mark.parametrize("flags", [[], ["--json"]])
    def test_a_wrong_answer_is_marked_and_ends_with_1(self, flags: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(PersonService, "get", lambda *_: Person(id="a", first_name="Not", last_name="Me"))
        result = call("demo", *flags)
        assert result.exit_code == 1
        assert "Not Me" in result.stdout
        assert "wrong answer: read it again" in result.stderr

    @sqlite_only
    def test_people_in_the_way_are_a_conflict(self, run: Run) -> None:
        run("add", "knuth-1974", "Somebody", "Else")
        assert run("demo").exit_code == 4
