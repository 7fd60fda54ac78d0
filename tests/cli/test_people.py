"""``add``, ``get``, ``list``, ``find``, ``update`` and ``delete``."""

from __future__ import annotations

import json
import re

import pytest
from support.command import HEADER, KNUTH, LAUREATES, Run, answer, call, error

from person_repo import PersonService

sqlite_only = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def test_a_person_is_added_read_changed_and_deleted(run: Run) -> None:
    assert answer(run("--json", "add", *KNUTH.values())) == KNUTH
    assert answer(run("--json", "get", "knuth-1974")) == {"people": [KNUTH], "missing": []}
    changed = KNUTH | {"first_name": "Don"}
    assert answer(run("--json", "update", "knuth-1974", "--first-name", "Don")) == changed
    assert answer(run("--json", "find", "--last-name", "Knuth")) == {"people": [changed]}
    assert answer(run("--json", "delete", "knuth-1974")) == {"deleted": ["knuth-1974"], "missing": []}
    assert answer(run("--json", "find", "--first-name", "Don", "--last-name", "Knuth")) == {"people": []}


def test_answers_for_people_are_tables(run: Run) -> None:
    for command in (["add", *KNUTH.values()], ["get", KNUTH["id"]], ["list"], ["find", "--last-name", "Knuth"]):
        lines = run(*command).stdout.splitlines()
        assert [re.split(r"\s{2,}", line.strip()) for line in lines] == [
            ["id", "first name", "last name"],
            list(KNUTH.values()),
        ]
    assert "Donald Ervin" in run("update", KNUTH["id"], "--first-name", "Donald Ervin").stdout
    assert run("delete", KNUTH["id"]).stdout == "1 person deleted\n"


def test_people_are_shown_in_the_order_of_the_arguments_and_missing_ids_named(run: Run) -> None:
    run("import", str(LAUREATES))

    result = run("get", "wirth-1984", "nobody", "knuth-1974", "no one", "wirth-1984")
    assert result.exit_code == 1
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["id", "wirth-1984", "knuth-1974"]
    assert result.stderr == "person-repo: nobody has the id 'nobody', 'no one'\n"

    result = run("--json", "get", "nobody", "knuth-1974")
    assert json.loads(result.stdout) == {"people": [KNUTH], "missing": ["nobody"]}
    assert (error(result)["error"], error(result)["missing"]) == ("not-found", ["nobody"])


def test_list_goes_through_everybody_page_by_page(run: Run) -> None:
    run("import", str(LAUREATES))
    seen: list[str] = []
    after: list[str] = []
    while True:
        page = answer(run("--json", "list", "--limit", "30", *after))
        seen += [person["id"] for person in page["people"]]
        if page["next"] is None:
            break
        assert page["next"] == seen[-1]
        after = ["--after", page["next"]]

    assert seen == sorted(line.split(",")[0] for line in LAUREATES.read_text("utf-8").splitlines()[1:])
    assert "there are more: --after aho-2020" in run("list", "--limit", "2").stderr
    assert run("list", "--limit", "79").stderr == ""


def test_delete_deletes_the_people_there_are_and_names_the_other_ids(run: Run, people: PersonService) -> None:
    run("import", str(LAUREATES))
    result = run("--json", "delete", "knuth-1974", "nobody", "wirth-1984", "knuth-1974")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {"deleted": ["knuth-1974", "wirth-1984"], "missing": ["nobody"]}
    assert people.count() == 77


@sqlite_only
def test_a_character_that_could_steer_a_terminal_is_shown_as_an_escape(run: Run) -> None:
    run("add", "\x1b[2Jid", "[bold]First[/bold]", "Last\u202e")
    shown = run("list").stdout
    assert "\x1b" not in shown
    assert r"\x1b[2Jid" in shown
    assert "[bold]First[/bold]" in shown
    assert r"Last\u202e" in shown
    assert "\x1b" not in run("get", "\x1b[2J").stderr
    assert answer(run("--json", "get", "\x1b[2Jid"))["people"][0]["last_name"] == "Last\u202e"


@sqlite_only
def test_a_row_is_one_line_if_stdout_is_no_terminal(run: Run) -> None:
    run("add", "i" * 100, "f" * 200, "l" * 200)
    assert len(run("list").stdout.splitlines()) == 2


@sqlite_only
def test_an_id_may_begin_with_a_dash(run: Run) -> None:
    assert run("add", "--", "-1", "Minus", "One").exit_code == 0
    assert "Minus" in run("get", "--", "-1").stdout


CHANGES = {
    "add": ["add", "new", "Ada", "Lovelace"],
    "update": ["update", "knuth-1974", "--first-name", "Don"],
    "delete": ["delete", "knuth-1974"],
    "import": ["import", "-"],
}


@sqlite_only
@pytest.mark.parametrize("command", CHANGES.values(), ids=CHANGES)
def test_a_change_without_the_name_of_a_cache_warns_that_none_was_told(
    run: Run, database_url: str, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run("add", *KNUTH.values())
    result = call("--database-url", database_url, *command, input=HEADER + b"one,A,B\n")
    assert result.exit_code == 0
    assert result.stderr.startswith("person-repo: warning: no cache was named, so an application that caches people ")
    assert call("--database-url", database_url, "list").stderr == ""

    monkeypatch.setenv("PERSON_REPO_CACHE_URL", "null://")
    assert call("--database-url", database_url, "add", "another", "A", "B").stderr == ""


@sqlite_only
def test_the_warning_is_json_under_json_and_comes_with_a_change_only(run: Run, database_url: str) -> None:
    run("add", *KNUTH.values())
    result = call("--database-url", database_url, "--json", "delete", "nobody")
    assert [*json.loads(result.stderr)] == ["error", "exit_code", "message", "missing"]
    result = call("--database-url", database_url, "--json", "delete", "knuth-1974")
    assert [*json.loads(result.stderr)] == ["warning"]
