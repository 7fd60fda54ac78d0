"""The benchmarks run, and their output has the documented shape. No test judges a time."""

from __future__ import annotations

import json
import os
import platform
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support.servers import find_binary

from benchmarks import against, counts, interpreters
from benchmarks.__main__ import main
from benchmarks.cases import CASES
from benchmarks.method import Clocked, Contestant, Pace, Spread, Target, WrongAnswerError, measure, ratios_of
from benchmarks.report import as_json
from benchmarks.world import World

CHECKOUT = Path(__file__).resolve().parents[2]

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A function that runs ``python -m benchmarks`` with one round and returns its JSON."""

    def run(*arguments: str) -> dict[str, Any]:
        path = tmp_path / "figures.json"
        bench("--quick", "--rounds", "1", "--json", str(path), *arguments)
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found

    return run


def bench(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments], capture_output=True, text=True, check=False, cwd=CHECKOUT
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# The method


def test_a_ratio_is_taken_within_each_round() -> None:
    """On a busy machine both are slow in one round, and the ratio stays."""
    costs = {"ours": [2.0, 40.0, 2.0], "raw": [1.0, 20.0, 1.0]}
    (ratio,) = ratios_of(costs, [Target(what="raw", of="ours", to="raw", at_most=2.0)])
    assert ratio.spread == Spread(2.0, 2.0, 2.0)
    assert ratio.met


def test_a_target_is_missed_beyond_its_bound_on_either_side() -> None:
    below = Target(what="", of="a", to="b", at_most=1.0)
    above = Target(what="", of="a", to="b", at_least=1.7)
    assert [below.met_by(0.9), below.met_by(1.1)] == [True, False]
    assert [above.met_by(1.6), above.met_by(1.8)] == [False, True]
    assert Target(what="", of="a", to="b").met_by(1.0) is None


def test_a_ratio_to_a_peer_that_is_not_installed_is_left_out() -> None:
    assert ratios_of({"ours": [1.0]}, [Target(what="", of="ours", to="a peer", at_most=1.0)]) == []


def test_every_contestant_does_the_same_operations_in_each_round() -> None:
    done: dict[str, list[int]] = {"one": [], "other": []}
    order: list[str] = []

    def contestant(name: str) -> Contestant:
        return Contestant(name, done[name].append, prepare=lambda _: order.append(name))

    costs = measure(
        [contestant("one"), contestant("other")], lambda chosen: chosen.sample(range(100), 5), rounds=20, checked=False
    )

    assert done["one"] == done["other"]
    assert len(done["one"]) == 20 * 5
    assert [len(costs["one"]), len(costs["other"])] == [20, 20]
    assert {order[at] for at in range(0, 40, 2)} == {"one", "other"}  # neither is always the first


def test_warm_up_rounds_do_not_count() -> None:
    counted = iter(range(100))
    costs = measure(
        [Clocked("one", lambda _: next(counted))], lambda _: [None, None], rounds=3, warm_up=2, checked=False
    )
    assert costs == {"one": [2, 3, 4]}


def test_a_wrong_answer_is_an_error_before_anything_is_measured() -> None:
    wrong = Contestant("wrong", lambda item: item + 1, expect=lambda item, answer: item == answer)
    with pytest.raises(WrongAnswerError, match="wrong: 1 is answered by 2"):
        measure([wrong], lambda _: [1], rounds=1)


def test_quartiles_lie_around_the_median() -> None:
    values = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert Spread.of(random.Random(0).sample(values, 5)) == Spread(3.0, 2.0, 4.0)
    assert Spread.of([7.0]) == Spread(7.0, 7.0, 7.0)


def test_a_quick_run_is_shorter_and_a_given_number_of_rounds_wins() -> None:
    assert [Pace().of(300), Pace(quick=True).of(300), Pace(quick=True, rounds=7).of(300)] == [300, 60, 7]


# Against another commit


def compared(ratio: float, *same: float) -> against.Comparison:
    one = Spread.of([1.0])
    return against.Comparison(
        case="hit", old=one, new=one, ratio=Spread.of([ratio]), same=Spread.of(same), same_by_sitting=same
    )


@pytest.mark.parametrize(
    ("comparison", "slower"),
    [
        (compared(1.02, 1.0), False),
        (compared(1.03, 1.0), True),
        (compared(1.03, 1.0, 1.02), False),
        (compared(1.03, 0.98, 1.0), False),  # Two equal versions differ by as much, in either direction.
        (compared(1.05, 0.98, 1.02), True),
    ],
)
def test_slower_is_what_two_equal_versions_do_not_explain(comparison: against.Comparison, slower: bool) -> None:
    assert comparison.slower is slower


@pytest.fixture
def places() -> Iterator[against.Places]:
    find_binary("memcached")
    with ExitStack() as stack:
        yield against.Places(World(stack), "sqlite")


def test_a_version_is_timed_beside_itself_in_every_case(places: against.Places) -> None:
    reports: list[None] = []
    itself = against.Version("itself", CHECKOUT)

    found = against.compare(
        itself, against.NAMES, places, Pace(quick=True, rounds=1), report=lambda: reports.append(None)
    )

    assert tuple(one.case for one in found) == against.NAMES
    assert len(reports) == against.sittings(Pace(quick=True)) * len(found)
    for one in found:
        assert min(one.old.lower, one.new.lower, one.ratio.lower, one.same.lower) > 0


def test_a_version_makes_as_many_calls_as_itself(
    places: against.Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counts, "is_available", lambda: False)
    itself = against.Version("itself", CHECKOUT)

    for before, after in against.count(itself, ["hit", "memory-100"], places, tmp_path):
        assert before == after
        assert before.python_calls > 10
        assert before.c_calls > 10
        assert before.instructions is None


@pytest.mark.skipif(not counts.is_available(), reason="valgrind is not installed: instructions are not counted")
def test_instructions_are_those_between_the_marks(tmp_path: Path) -> None:
    program = """
import os
for size in (1000, 2000):
    numbers = []
    os.sched_get_priority_min(0)
    for number in range(size):
        numbers.append(number)
    os.sched_get_priority_max(0)
    sorted(range(10_000), key=str)
"""
    command = [sys.executable, "-S", "-E", "-c", program]

    single, double = counts.instructions(command, "", batches=2, folder=tmp_path)

    assert 1.7 < double / single < 2.1


def test_a_batch_that_was_not_counted_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "callgrind.out.1").write_text("summary: 3\n")
    for number in (1, 2):
        with pytest.raises(counts.CallgrindError, match=f"no batch {number}"):
            counts.total(tmp_path / f"callgrind.out.{number}")


def test_the_files_of_another_commit_are_those_of_git(tmp_path: Path) -> None:
    if not (CHECKOUT / ".git").exists():
        pytest.skip("no checkout of git: nothing to compare with")
    with against.checked_out("HEAD") as version:
        assert (version.folder / "person_repo" / "__init__.py").is_file()
        assert (version.folder / "alembic").is_dir()
    assert not version.folder.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--against", "no-such-commit"], "git knows no commit 'no-such-commit'"),
        (["--against", "HEAD", "--only", "hits"], "no benchmark 'hits'"),
        (["--count"], "--against REF"),
    ],
)
def test_a_comparison_that_is_not_possible_is_refused(arguments: list[str], said: str) -> None:
    with pytest.raises(SystemExit, match=said):
        main(arguments)


# Several Pythons


def test_each_python_is_measured_beside_the_peer(places: against.Places) -> None:
    this, again = interpreters.interpreters([sys.executable, sys.executable])
    assert this.version == platform.python_version()
    reports: list[None] = []
    pace = Pace(quick=True, rounds=1)

    found = interpreters.measure([this], places, pace, "", lambda: reports.append(None))

    assert [one.case for one in found] == list(interpreters.CASES)
    assert len(reports) >= interpreters.length(pace)
    for one in found:
        assert min(one.ours.lower, one.peer.lower, one.ratio.lower) > 0
    shown = interpreters.as_json(found, load=1.0)["pythons"]
    assert [one["python"] for one in shown] == [this.version] * len(found)
    assert again == this


def test_a_python_that_does_not_run_is_named() -> None:
    with pytest.raises(SystemExit, match="no-such-python does not run"):
        main(["--pythons", "no-such-python"])


# Runs


def test_the_json_of_a_run_has_the_documented_shape(run: Run) -> None:
    found = run("--only", "memory", "use-db-sqlite")

    assert set(found) == {"date", "quick", "versions", "machine", "benchmarks"}
    assert found["quick"] is True
    assert {"python", "build", "sqlalchemy", "dogpile.cache", "pymemcache"} <= found["versions"].keys()
    assert found["machine"]["cores"] == os.cpu_count()
    assert set(found["benchmarks"]) == {"memory", "use-db-sqlite"}
    memory = found["benchmarks"]["memory"]
    assert set(memory) == {"what", "rounds", "microseconds", "ratios", "more"}
    assert memory["rounds"] == 1
    assert set(memory["microseconds"]) == {"dogpile get_or_create", "ours"}
    for spread in memory["microseconds"].values():
        assert 0 < spread["lower"] <= spread["median"] <= spread["upper"]
    (ratio,) = memory["ratios"]
    assert set(ratio) == {"what", "of", "to", "median", "lower", "upper", "at_most", "at_least", "met"}
    assert ratio["met"] is (ratio["median"] <= ratio["at_most"])


@pytest.mark.proof(name="suite", sample=1)
@pytest.mark.parametrize("name", ["hit", "get-many", "threads", "processes"])
def test_hits_are_measured_beside_the_floor_and_the_peers(run: Run, name: str) -> None:
    find_binary("memcached")
    found = run("--only", name)

    assert found["versions"]["memcached"]
    measured = found["benchmarks"][name]["microseconds"].keys()
    if name in ("threads", "processes"):
        assert {"threads": "ours: 16", "processes": "ours: 4"}[name] in measured
        return
    assert {"raw socket", "raw socket, our request", "pymemcache, bytes", "ours"} <= measured
    if name == "hit":
        ratios = {(ratio["to"], ratio["at_most"]) for ratio in found["benchmarks"][name]["ratios"]}
        assert ratios >= {("raw socket", 1.2), ("pymemcache, bytes", 1.0)}


@pytest.mark.proof(name="suite", sample=1)
@pytest.mark.skipif(
    "PERSON_REPO_TEST_MYSQL_URL" in os.environ, reason="the benchmarks start a MariaDB of their own, not yours"
)
@pytest.mark.parametrize("name", ["use-db-mariadb", "miss", "commit", "import-people", "herd"])
def test_the_database_is_measured_with_and_without_the_cache(run: Run, name: str) -> None:
    find_binary("memcached")
    find_binary("mariadbd")
    found = run("--rows", "200", "--seconds", "0.3", "--only", name)["benchmarks"][name]

    if name == "herd":
        ways = found["more"]["ways"]
        assert "ours" in ways
        for way in ways.values():
            assert way["queries"] == sum(way["by_interval"])
            assert way["reads"] > 0
        return
    judged = [ratio for ratio in found["ratios"] if ratio["at_most"] is not None]
    assert len(judged) == 1
    if name == "import-people":
        assert found["more"]["rows"] == 200


def test_every_benchmark_has_a_name_of_its_own() -> None:
    assert len({case.name for case in CASES}) == len(CASES)


def test_an_unknown_benchmark_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SystemExit, match="no benchmark 'hits'; there are: hit, get-many, "):
        main(["--only", "hits"])


def test_a_profile_lists_the_calls_of_one_operation_of_ours() -> None:
    said = bench("--profile", "memory")
    assert "Python calls" in said
    assert "\nService.get  (person_repo/service.py:" in said
    assert "\n    SQLAlchemyRepository" in said or "\n    EntityMapping" in said  # calls within calls


def test_plots_are_drawn_from_the_json_of_a_run(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: no plots (make bench installs it)")
    spread = {"median": 2.0, "lower": 1.0, "upper": 3.0}
    way = {"reads": 10, "queries": 1, "most_in_an_interval": 1, "by_interval": [0, 1]}
    found: dict[str, Any] = as_json([], {"memcached": "1.6.18"}, quick=True, load=0.5)
    found["benchmarks"] = {
        "layers": {"microseconds": {"memcached: ours": spread, "SQLite file: ours": spread}},
        "threads": {"microseconds": {"ours: 1": spread, "ours: 2": spread}},
        "batches": {"microseconds": {"ours: 1": spread, "ours: 1000": spread}},
        "herd": {"more": {"interval": 0.1, "readers": 2, "ttl": 1, "ways": {"ours": way}}},
    }
    path = tmp_path / "run.json"
    path.write_text(json.dumps(found), encoding="utf-8")

    bench("--replot", str(path), "--plots", str(tmp_path / "plots"))

    drawn = {file.name: file.read_text(encoding="utf-8") for file in (tmp_path / "plots").iterdir()}
    assert set(drawn) == {"latency.svg", "threads.svg", "batches.svg", "herd.svg"}
    for svg in drawn.values():
        assert found["date"][:10] in svg
        assert f"sqlalchemy {found['versions']['sqlalchemy']}" in svg
