"""The promise under torture, shortly; and the checker under a recipe that does not keep it."""

from __future__ import annotations

import json
import os

import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from servers import Memcached

from person_repo import Person, migrations
from person_repo.cli import main
from person_repo.exceptions import ConfigurationError
from person_repo.torture import FAULTS, Plan, Report, run

SECONDS = float(os.environ.get("PERSON_REPO_TORTURE_SECONDS", "3"))
"""Seconds of each run; more in the environment for a longer look."""


def kept(report: Report) -> None:
    assert report.clean, "\n".join(report.examples)
    assert report.reads > 100
    assert report.writes > 0
    assert report.hits > 0


def test_threads_over_a_memory_region_never_read_stale(database_url: str) -> None:
    kept(run(Plan(database_url=database_url, cache_url="memory://", seconds=SECONDS)))


def test_processes_over_memcached_never_read_stale(database_url: str, memcached_servers: list[Memcached]) -> None:
    url = "memcached://" + ",".join(server.url for server in memcached_servers)
    report = run(Plan(database_url=database_url, cache_url=url, seconds=SECONDS))
    kept(report)
    refused = sum(n for kind, n in report.error_kinds.items() if "Deadlock" in kind or "locked" in kind)
    assert report.errors == refused, report.error_kinds  # two writers in each other's way are the database's business


@pytest.mark.timeout(180)
def test_pauses_kills_and_restarts_make_no_read_stale(database_url: str) -> None:
    report = run(Plan(database_url=database_url, own_memcached=True, seconds=2 * SECONDS, faults=FAULTS, keys=5))
    kept(report)
    assert sum(report.faults.values()) > 0


@pytest.mark.timeout(180)
def test_the_usual_recipe_is_found_to_be_stale(database_url: str) -> None:
    """A checker that finds nothing there is broken: reads stand still for a moment, so a short run suffices."""
    reports = []
    for seed in range(5):
        reports.append(
            run(Plan(database_url=database_url, own_memcached=True, seconds=2, keys=2, against="naive", seed=seed))
        )
        if not reports[-1].clean:
            break
    assert reports[-1].stale > 0, reports
    assert reports[-1].worst_staleness > 0


def test_a_run_leaves_nothing_behind(database_url: str) -> None:
    migrations.upgrade(database_url)
    engine = sa.create_engine(database_url)
    with engine.begin() as connection:
        connection.execute(
            sa.insert(Person.__table__), [{"id": "mine", "first_name": "A", "last_name": "B", "version": 1}]
        )  # type: ignore[arg-type]
    before = sa.inspect(engine).get_table_names()
    run(Plan(database_url=database_url, cache_url="memory://", seconds=0.3))
    with engine.connect() as connection:
        assert connection.execute(sa.select(Person.__table__.c.id)).scalars().all() == ["mine"]
    assert sa.inspect(engine).get_table_names() == before
    engine.dispose()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"faults": ("flood",)}, "unknown fault 'flood'; known are: pause, kill, restart"),
        ({"faults": ("pause",)}, "pause needs processes"),
        ({"faults": ("restart",), "cache_url": "memcached://127.0.0.1:1"}, "restart kills the memcached it works on"),
        ({"against": "redis"}, "against 'redis': give person_repo or naive"),
        ({"readers": 0}, "readers 0: give more than 0"),
        ({"seconds": -1}, "seconds -1: give more than 0"),
        ({"keys": 100_000}, "keys 100000: give at most 60000"),
        ({"database_url": "sqlite://", "own_memcached": True}, "a database in memory is one process's own"),
    ],
)
def test_a_plan_that_cannot_be_carried_out_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Plan(**{"database_url": "sqlite:///x.db", **options})  # type: ignore[arg-type]


def call(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, arguments)
    return result.exit_code, result.stdout, result.stderr


def test_the_command_prints_the_figures_as_a_table() -> None:
    code, out, err = call("torture", "--seconds", "0.5")
    assert (code, err) == (0, "")
    assert "a temporary SQLite file, memory://" in out
    for name in ("reads", "hits", "writes", "stale", "phantom", "worst staleness", "errors"):
        assert name in out


def test_the_command_exits_with_1_where_the_promise_is_broken() -> None:
    for seed in range(5):
        code, out, err = call(
            "--json", "torture", "--against", "naive", "--keys", "1", "--seconds", "2", "--seed", str(seed)
        )
        if code == 1:
            break
    assert code == 1
    report = json.loads(out)
    assert report["stale"] > 0
    assert not report["clean"]
    assert "stale by" in json.loads(err)["message"]


def test_the_command_refuses_a_restart_of_a_server_that_is_not_its_own() -> None:
    code, _, err = call("torture", "--faults", "restart", "--cache-url", "memcached://127.0.0.1:1")
    assert code == 2
    assert "let one be started for it" in err
