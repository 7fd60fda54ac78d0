"""``upgrade`` and ``current``."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from support.command import LAUREATES, answer, call, error

from person_repo import migrations


def test_the_schema_is_upgraded_once(database_url: str) -> None:
    heads = migrations.heads()

    assert answer(call("--json", "current", "--database-url", database_url)) | {"database": ""} == {
        "database": "", "revisions": [], "heads": [*heads], "up_to_date": False,
    }  # fmt: skip
    assert "was upgraded from nothing" in call("upgrade", "--database-url", database_url).stdout
    assert f"is up to date: {', '.join(heads)}" in call("upgrade", "--database-url", database_url).stdout
    assert answer(call("upgrade", "--database-url", database_url, "--json"))["revisions"] == [*heads]
    assert f"{', '.join(heads)} (up to date)" in call("current", "--database-url", database_url).stdout


def test_an_application_with_models_of_its_own_upgrades_the_layer_alone(database_url: str) -> None:
    (layer,) = migrations.heads(person=False)

    assert (
        "run: person-repo upgrade --no-person" in call("--database-url", database_url, "current", "--no-person").stdout
    )
    assert answer(call("--database-url", database_url, "upgrade", "--no-person", "--json"))["revisions"] == [layer]
    assert "(up to date)" in call("--database-url", database_url, "current", "--no-person").stdout
    assert not answer(call("--database-url", database_url, "current", "--json"))["up_to_date"]
    assert "has no table person;" in call("--database-url", database_url, "list").stderr


def test_the_identity_is_shown_and_renewed(database_url: str) -> None:
    at = ["--database-url", database_url]
    missing = error(call(*at, "identity", "--json"))
    assert missing["exit_code"] == 3
    assert "run: person-repo upgrade --no-person" in missing["message"]

    call(*at, "upgrade", "--no-person")
    before = answer(call(*at, "identity", "--json"))["identity"]
    assert f"has the identity {before}" in call(*at, "identity").stdout
    renewed = answer(call(*at, "identity", "--renew", "--json"))
    assert renewed["before"] == before != renewed["identity"]
    assert answer(call(*at, "identity", "--json"))["identity"] == renewed["identity"]
    assert "start its programs anew" in call(*at, "identity", "--renew").stdout


def test_check_says_what_is_not_ready_before_and_after(database_url: str) -> None:
    at = ["--database-url", database_url]

    assert call(*at, "check").exit_code == 1
    call(*at, "upgrade", "--no-person")
    result = call(*at, "check")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "there is no table person; run: person-repo upgrade" in result.stderr
    assert "are ready" in call(*at, "check", "--no-person").stdout
    call(*at, "upgrade")
    assert call(*at, "check").exit_code == 0


def test_check_names_a_cache_server_that_does_not_answer(database_url: str) -> None:
    call("--database-url", database_url, "upgrade")
    result = call("--database-url", database_url, "--cache-url", "memcached://127.0.0.1:1", "check", "--json")

    assert result.exit_code == 1
    said = json.loads(result.stdout)
    assert said["ready"] is False
    assert [(finding["about"], finding["problem"]) for finding in said["findings"]] == [
        ("cache", "127.0.0.1:1 does not answer")
    ]


def test_check_of_a_database_that_is_down_shows_no_password() -> None:
    result = call("--database-url", "mysql+pymysql://shop:hunter2@127.0.0.1:1/shop", "check")

    assert result.exit_code == 1
    assert "cannot be used" in result.stderr
    assert "hunter2" not in result.stderr


@pytest.mark.parametrize(
    "command",
    [
        ["get", "x"],
        ["list"],
        ["find", "--last-name", "x"],
        ["add", "a", "b", "c"],
        ["update", "a", "--last-name", "c"],
        ["delete", "a"],
        ["import", str(LAUREATES)],
        ["export"],
    ],
    ids=lambda command: command[0],
)
def test_every_command_says_how_to_make_a_schema_that_is_missing(database_url: str, command: list[str]) -> None:
    result = call("--database-url", database_url, *command)
    assert (result.exit_code, result.stdout) == (3, "")
    assert "has no table person; run: person-repo upgrade" in result.stderr
    assert error(call("--database-url", database_url, "--json", *command))["error"] == "schema"


def test_a_sqlite_file_that_does_not_exist_is_not_made_by_a_read(tmp_path: Path) -> None:
    assert call("list").exit_code == 3
    assert call("current").exit_code == 0
    assert "there is no such file; run: person-repo upgrade" in call("check").stderr
    assert os.listdir(tmp_path) == []


def test_upgrade_makes_the_default_database_in_the_folder_of_the_call(tmp_path: Path) -> None:
    assert call("upgrade").exit_code == 0
    assert os.listdir(tmp_path) == ["people.db"]
