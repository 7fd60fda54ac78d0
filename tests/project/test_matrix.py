"""The table of what the tests have run on says what the runs' own reports say."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from project import matrix
from support import runs
from support.servers.use import uses


def report(at: str, servers: dict[str, dict[str, int]], *, changed: bool = False, **versions: str) -> dict[str, Any]:
    python, sqlalchemy = versions.get("python", "3.11.7"), versions.get("sqlalchemy", "2.1.9")
    packages = {"SQLAlchemy": sqlalchemy}
    return {
        "at": at,
        "commit": "abc1234",
        "changed": changed,
        "python": python,
        "packages": packages,
        "servers": servers,
    }


def rows(*reports: dict[str, Any]) -> list[list[str]]:
    return [line.strip("| ").split(" | ") for line in matrix.table(reports).splitlines()[2:]]


def test_a_row_has_the_tests_that_ran_on_a_server_and_those_that_passed() -> None:
    assert rows(report("2026-11-29T04:26:52+00:00", {"MySQL 9.7.4": {"passed": 1999, "failed": 2, "error": 1}})) == [
        ["MySQL 9.7.4", "3.11.7", "2.1.9", "2,002", "1,999", "2026-11-29", "abc1234"]
    ]


def test_of_one_series_the_last_run_counts_and_each_python_and_sqlalchemy_has_its_row() -> None:
    found = rows(
        report("2026-11-28T00:00:00+00:00", {"MySQL 9.7.3": {"passed": 1}, "memcached 1.6.18": {"passed": 1}}),
        report("2026-11-29T00:00:00+00:00", {"MySQL 9.7.4": {"passed": 2}, "memcached 1.6.45": {"passed": 2}}),
        report("2026-11-29T00:00:01+00:00", {"MySQL 9.7.4": {"passed": 3}}, python="3.14.1", changed=True),
        report("2026-11-29T00:00:02+00:00", {"MySQL 9.7.4": {"passed": 4}}, sqlalchemy="2.0.43"),
    )

    assert [(row[0], row[1], row[2], row[4], row[6]) for row in found] == [
        ("memcached 1.6.18", "3.11.7", "2.1.9", "1", "abc1234"),
        ("memcached 1.6.45", "3.11.7", "2.1.9", "2", "abc1234"),
        ("MySQL 9.7.4", "3.11.7", "2.0.43", "4", "abc1234"),
        ("MySQL 9.7.4", "3.11.7", "2.1.9", "2", "abc1234"),
        ("MySQL 9.7.4", "3.14.1", "2.1.9", "3", "abc1234 and changes"),
    ]


def test_the_readme_has_a_place_for_the_table() -> None:
    page = matrix.written(matrix.PAGE.read_text(encoding="utf-8"), "| a table |\n")

    assert "<!-- matrix -->\n| a table |\n<!-- end of matrix -->" in page
    with pytest.raises(ValueError, match="<!-- matrix -->"):
        matrix.written("no place", "| a table |\n")


def test_a_runs_report_counts_the_tests_on_each_server() -> None:
    def ended(*servers: str) -> SimpleNamespace:
        item = SimpleNamespace(user_properties=[])
        for server in servers:
            uses(SimpleNamespace(node=item), server)
        return item

    both = ended("MySQL 9.7.4", "memcached 1.6.18", "memcached 1.6.18")
    found = runs.report_of({"passed": [both, ended()], "failed": [ended("MySQL 9.7.4")], "skipped": [ended()]})

    assert found["servers"] == {"MySQL 9.7.4": {"passed": 1, "failed": 1}, "memcached 1.6.18": {"passed": 1}}
    assert found["tests"] == {"passed": 2, "failed": 1, "error": 0, "skipped": 1}
    assert matrix.table([json.loads(json.dumps(found))])


def test_reports_are_read_from_a_folder_in_their_order(tmp_path: Path) -> None:
    for number, at in enumerate(("2026-11-29T00:00:00+00:00", "2026-11-28T00:00:00+00:00")):
        (tmp_path / f"{number}.json").write_text(json.dumps(report(at, {})), encoding="utf-8")

    assert [each["at"][:10] for each in matrix.reports(tmp_path)] == ["2026-11-28", "2026-11-29"]
