"""The promise under torture, for a few seconds; and the checker on a recipe that does not keep the promise."""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from sqlalchemy import orm
from support.servers import Memcached, memcached

from person_repo import Person, migrations
from person_repo.cli.main import main
from person_repo.exceptions import CacheUnavailableError, ConfigurationError
from person_repo.testing.torture.faults import Faults
from person_repo.testing.torture.history import ABSENT, Version
from person_repo.testing.torture.plan import FAULTS, Plan
from person_repo.testing.torture.records import writes_in
from person_repo.testing.torture.report import Report
from person_repo.testing.torture.rows import FIRST, Row, prepared, row_of, text_of, version_of
from person_repo.testing.torture.run import run
from person_repo.testing.torture.subjects import subject_of
from person_repo.testing.torture.ways import WAYS, Way, _by_orm_delete
from person_repo.testing.torture.workers import Worker
from person_repo.testing.torture.worlds import MIXED, WORLDS, engine_in, known_worlds

SECONDS = float(os.environ.get("PERSON_REPO_TORTURE_SECONDS", "2"))
"""Seconds of each run; more in the environment for a longer look."""


@pytest.fixture
def seed(draw: random.Random) -> int:
    """The seed of a run of torture."""
    return draw.getrandbits(30)


def kept(plan: Plan, *, enough: Callable[[Report], object] = lambda report: True) -> Report:
    """Runs a plan, which must keep the promise; on a busy machine several times, until enough has happened."""
    for attempt in range(10):
        report = run(replace(plan, seed=plan.seed + attempt))
        assert report.clean, "\n".join(report.examples)
        assert report.worst_staleness <= report.plan.bound
        if report.reads > 100 and report.writes > 0 and report.hits > 0 and enough(report):
            return report
    raise AssertionError(f"too little has happened: {report}")


def refusals(report: Report) -> int:
    return report.error_kinds.get("CacheUnavailableError", 0)


@pytest.mark.proof(name="torture", sample=1, again=True)
def test_threads_over_a_memory_region_never_read_stale(database_url: str, seed: int) -> None:
    kept(Plan(database_url=database_url, cache_url="memory://", seconds=SECONDS, seed=seed))


@pytest.mark.proof(name="torture", sample=1, again=True)
def test_processes_over_memcached_never_read_stale(
    database_url: str, memcached_servers: list[Memcached], seed: int
) -> None:
    url = "memcached://" + ",".join(server.url for server in memcached_servers)
    report = kept(Plan(database_url=database_url, cache_url=url, seconds=SECONDS, seed=seed))
    refused = sum(n for kind, n in report.error_kinds.items() if "Deadlock" in kind or "locked" in kind)
    assert report.errors == refused, report.error_kinds  # two writers that block each other are the database's business


@pytest.mark.proof(name="torture", sample=1, again=True)
@pytest.mark.parametrize("on_unreachable", ["proceed", "strict"])
def test_no_mixture_of_faults_makes_a_read_stale(database_url: str, on_unreachable: str, seed: int) -> None:
    plan = Plan(
        database_url=database_url, own_memcached=True, seconds=2 * SECONDS, faults=FAULTS, keys=5,
        on_unreachable=on_unreachable, fence_interval=0.5, seed=seed,
    )  # fmt: skip
    kept(plan, enough=lambda report: report.faults)


@pytest.mark.proof(name="torture", sample=1)
@pytest.mark.parametrize("fault", ["partition", "hang"])
def test_a_commit_that_cannot_reach_the_cache_is_refused_under_refuse(tmp_path: Path, fault: str) -> None:
    """Shows that these faults are felt: a writer that reaches every server refuses nothing."""
    plan = Plan(
        database_url=f"sqlite:///{tmp_path / 'people.db'}", own_memcached=True, seconds=2 * SECONDS, faults=(fault,),
        keys=5, readers=1, on_unreachable="refuse", fence_interval=0.5,
    )  # fmt: skip
    kept(plan, enough=refusals)


@pytest.mark.proof(name="torture")
def test_a_partition_needs_no_memcached_of_its_own(mysql_url: str, memcached_servers: list[Memcached]) -> None:
    url = "memcached://" + ",".join(server.url for server in memcached_servers)
    plan = Plan(
        database_url=mysql_url, cache_url=url, seconds=2 * SECONDS, faults=("partition",), readers=1,
        on_unreachable="refuse", fence_interval=0.5,
    )  # fmt: skip
    kept(plan, enough=refusals)


@pytest.mark.parametrize(
    ("faults", "on_unreachable", "bound"),
    [
        ((), "proceed", 0),
        (("pause", "kill", "flush"), "proceed", 0),
        (("partition",), "proceed", 0.6),
        (("pause", "hang"), "proceed", 0.6),
        (("restart",), "proceed", 0.6),
        (FAULTS, "proceed", 0.6),
        (FAULTS, "strict", 0),
        (FAULTS, "refuse", 0),
    ],
    ids=str,
)
def test_reads_may_be_late_only_if_commits_proceed_without_the_cache(
    faults: tuple[str, ...], on_unreachable: str, bound: float
) -> None:
    plan = Plan(
        database_url="sqlite:///x.db", own_memcached=True, faults=faults, on_unreachable=on_unreachable,
        fence_interval=0.5,
    )  # fmt: skip
    assert plan.bound == pytest.approx(bound)


@pytest.mark.parametrize(("faults", "timeout"), [(("pause", "kill", "flush"), 10), (("hang",), None)])
def test_a_busy_machine_is_no_outage_in_a_run_that_has_none(faults: tuple[str, ...], timeout: float | None) -> None:
    plan = Plan(database_url="sqlite:///x.db", own_memcached=True, faults=faults)
    assert plan.cache_options.get("timeout") == plan.cache_options.get("connect_timeout") == timeout


@pytest.mark.proof(name="torture", sample=1, again=True)
@pytest.mark.parametrize("world", [*WORLDS, MIXED])
def test_no_world_makes_a_read_stale(
    database_url: str, memcached_servers: list[Memcached], world: str, seed: int
) -> None:
    url = "memcached://" + ",".join(server.url for server in memcached_servers)
    options: dict[str, Any] = {"database_url": database_url, "cache_url": url, "seconds": SECONDS, "seed": seed}
    if world in (*known_worlds(database_url), MIXED):
        kept(Plan(**options, world=world))
    else:
        with pytest.raises(ConfigurationError, match=f"world '{world}': on "):
            Plan(**options, world=world)


def test_the_engines_of_a_mixed_run_are_of_all_worlds_that_the_database_knows() -> None:
    url = "sqlite:///x.db"
    known = known_worlds(url)
    engines = [engine_in(MIXED, url, number) for number in range(2 * len(known))]
    assert {"begin", "null-pool"} < set(known)
    assert "read-committed" not in known
    pools = [type(engine.pool) for engine in engines]
    assert pools.count(sa.NullPool) == 2
    assert [engine.dialect._on_connect_isolation_level for engine in engines].count("READ UNCOMMITTED") == 2


@pytest.mark.parametrize("way", dict.fromkeys(WAYS), ids=lambda way: way.__name__)
def test_each_way_writes_a_row_of_each_class_as_it_says(tmp_path: Path, way: Way) -> None:
    plan = Plan(database_url=f"sqlite:///{tmp_path / 'people.db'}", keys=3, prefix="t-")
    with prepared(plan):
        engine = sa.create_engine(plan.database_url)
        rows = [row_of(plan, key) for key in range(plan.keys)]
        assert len({row.root for row in rows}) == 3
        for number in (1, 2):  # after a deletion, or not
            version = Version(number, 7, number)
            for row in rows:
                with orm.Session(engine) as session, session.begin():
                    deletes = way(session, row, text_of(version))
                with orm.Session(engine) as session:
                    assert version_of(row, session.get(row.root, row.id)) == (ABSENT if deletes else version)
            if number == 1:
                with orm.Session(engine) as session, session.begin():
                    _by_orm_delete(session, rows[1], "")
        engine.dispose()


def test_readers_read_each_class_one_by_one_and_together(tmp_path: Path) -> None:
    plan = Plan(database_url=f"sqlite:///{tmp_path / 'people.db'}", keys=6, prefix="t-")
    with prepared(plan):
        subject = subject_of(plan, 1)
        rows = [row_of(plan, key) for key in range(plan.keys)]
        for found in (subject.read(rows), [subject.read([row])[0] for row in rows]):
            assert [version_of(row, entity) for row, entity in zip(rows, found, strict=True)] == [FIRST] * 6
            assert [type(entity) for entity in found] == [row.entity for row in rows]
        assert subject.hits() == 6
        subject.close()


class Refusing:
    """A subject whose cache cannot be reached, and which refuses to commit then."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        sa.event.listen(engine, "commit", self._refuse)

    def _refuse(self, _: sa.Connection) -> None:
        raise CacheUnavailableError("memcached 127.0.0.1:1: timed out; the 7th of some words that vary")

    def session(self) -> orm.Session:
        return orm.Session(self._engine)

    def committed(self, row: Row) -> None:
        raise AssertionError(f"{row} was not committed")

    def hits(self) -> int:
        return 0


def test_a_refused_commit_is_rolled_back_and_counted_by_its_kind(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'people.db'}"
    plan = Plan(database_url=url, keys=1, prefix="t-")
    with prepared(plan):
        engine = sa.create_engine(url)
        people: Any = Refusing(engine)
        worker = Worker(plan, people, 4, tmp_path)
        stop = threading.Event()
        worker.random.random = lambda: stop.set() or 0.5  # type: ignore[method-assign, func-returns-value]
        worker.write(stop, time.monotonic() + 60)
        with engine.connect() as connection:
            names = connection.execute(sa.select(Person.__table__.c.last_name)).scalars().all()
        engine.dispose()

    assert worker.errors == {"CacheUnavailableError": 1}
    assert names == ["0.0.0"]
    (write,) = writes_in(tmp_path)
    assert (write.outcome, write.acknowledged) == ("rolled back", None)


class Unhurried:
    """Workers whose faults take no time; they add the seconds to a list."""

    def __init__(self, took: list[float]) -> None:
        self._took = took

    def pause(self, seconds: float, _: random.Random) -> None:
        self._took.append(seconds)

    partition = pause


class UnhurriedMemcached:
    """A memcached that can be paused; the run sleeps meanwhile."""

    def pause(self) -> None:
        pass

    resume = pause


def test_no_fault_outlasts_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    took: list[float] = []
    workers: Any = Unhurried(took)
    server: Any = UnhurriedMemcached()
    plan = Plan(
        database_url="sqlite:///x.db", own_memcached=True, faults=("pause", "partition", "hang"), fence_interval=60.0
    )
    faults = Faults(plan, workers, server)
    monkeypatch.setattr(time, "sleep", took.append)

    for _ in range(100):
        took.clear()
        faults.next(2.4)
        assert sum(took) <= 2.4 + 1e-9

    assert all(faults.done[fault] for fault in plan.faults)


def test_a_memcached_that_hangs_goes_on_when_the_run_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    with memcached() as (server,):
        plan = Plan(database_url="sqlite:///x.db", own_memcached=True, faults=("hang",))
        workers: Any = None
        faults = Faults(plan, workers, server)
        monkeypatch.setattr("person_repo.testing.torture.faults.time.sleep", interrupted)
        with pytest.raises(KeyboardInterrupt):
            faults._make("hang", 1000.0)
        monkeypatch.undo()
        assert server.ask("version").startswith("VERSION ")


@pytest.mark.proof(name="torture", sample=1, again=True)
def test_the_usual_recipe_is_found_to_be_stale(database_url: str, seed: int) -> None:
    """A checker that finds nothing here is broken. Reads pause before they store, so that a short run suffices."""
    reports = []
    for attempt in range(5):
        plan = Plan(
            database_url=database_url, own_memcached=True, seconds=2, keys=2, against="naive", seed=seed + attempt
        )
        reports.append(run(plan))
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
        (
            {"faults": ("flood",)},
            "unknown fault 'flood'; known are: pause, kill, restart, partition, hang, flush",
        ),
        ({"faults": ("pause",)}, "pause needs processes"),
        ({"faults": ("partition",)}, "partition needs processes"),
        ({"faults": ("partition",), "cache_url": "null://"}, "partition cuts a worker off from a server"),
        ({"faults": ("restart",), "cache_url": "memcached://127.0.0.1:1"}, "restart kills the memcached it works on"),
        ({"faults": ("hang",), "cache_url": "memcached://127.0.0.1:1"}, "hang stops the memcached it works on"),
        ({"faults": ("flush",), "cache_url": "memcached://127.0.0.1:1"}, "flush empties the memcached it works on"),
        ({"on_unreachable": "pray"}, "on_unreachable 'pray': give proceed, strict, refuse"),
        ({"fence_interval": 0}, "fence_interval 0: give seconds above 0"),
        ({"against": "redis"}, "against 'redis': give person_repo or naive"),
        ({"readers": 0}, "readers 0: give more than 0"),
        ({"seconds": -1}, "seconds -1: give more than 0"),
        ({"keys": 100_000}, "keys 100000: give at most 60000"),
        ({"world": "flat"}, "world 'flat': on sqlite give plain, read-uncommitted"),
        ({"database_url": "sqlite://", "own_memcached": True}, "a database in memory is one process's own"),
    ],
)
def test_a_plan_of_options_that_do_not_go_together_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Plan(**{"database_url": "sqlite:///x.db", **options})  # type: ignore[arg-type]


def call(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, arguments)
    return result.exit_code, result.stdout, result.stderr


def test_the_command_prints_the_figures_as_a_table() -> None:
    code, out, err = call("torture", "--seconds", "0.5")
    assert (code, err) == (0, "")
    assert "a temporary SQLite file, memory://" in out
    for name in ("reads", "hits", "writes", "late", "stale", "phantom", "worst staleness", "bound", "errors"):
        assert name in out


@pytest.mark.parametrize(("on_unreachable", "bound"), [("proceed", 0.35), ("strict", 0.0)])
def test_the_command_prints_the_bound_of_its_options(on_unreachable: str, bound: float) -> None:
    options = ["--on-unreachable", on_unreachable, "--fence-interval", "0.25", "--faults", "hang", "--start-memcached"]
    code, out, err = call("--json", "torture", "--seconds", "0.5", *options)
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert report["bound"] == pytest.approx(bound)
    assert set(report) == {
        "database", "cache", "bound", "reads", "hits", "writes", "late", "stale", "phantom", "worst_staleness",
        "errors", "error_kinds", "faults", "clean",
    }  # fmt: skip


def test_every_fault_can_be_asked_for_by_name() -> None:
    (option,) = [option for option in main.commands["torture"].params if option.name == "faults"]
    assert option.type.choices == ("none", *FAULTS, "all")  # type: ignore[attr-defined]


def test_every_world_can_be_asked_for_by_name() -> None:
    (option,) = [option for option in main.commands["torture"].params if option.name == "world"]
    assert option.type.choices == (*WORLDS, MIXED)  # type: ignore[attr-defined]
    code, out, err = call("--json", "torture", "--seconds", "0.5", "--world", "mixed")
    assert (code, err) == (0, "")
    assert json.loads(out)["reads"] > 0


def test_the_command_refuses_a_world_that_the_database_does_not_know() -> None:
    code, _, err = call("torture", "--world", "repeatable-read")
    assert code == 2
    assert "world 'repeatable-read': on sqlite give plain" in err


def test_the_command_exits_with_1_if_the_promise_is_broken() -> None:
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
    assert "--faults restart needs --start-memcached" in err
