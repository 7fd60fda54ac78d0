"""The sampling of proofs, and the driver of ``make prove``."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from project import matrix
from promise import prove
from promise.environments import ENVIRONMENTS, Environment, UnavailableError
from promise.prove import ROWS
from support.servers.programs import MEMCACHED

pytest_plugins = ["pytester"]

TESTS = Path(__file__).resolve().parents[1]

PROOFS = """
import pytest

@pytest.mark.proof(name="one", sample=5)
@pytest.mark.parametrize("number", range(20))
def test_one(number): pass

@pytest.mark.proof(name="two", sample=1, again=True)
@pytest.mark.parametrize("number", range(3))
def test_two(number, draw): print(f"drawn {draw.getrandbits(64)}")

def test_plain(): pass
"""


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A project with two proofs, and no seed in the environment."""
    pytester.makeconftest('pytest_plugins = ["support.proofs"]')
    pytester.makepyfile(test_it=PROOFS)
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    monkeypatch.delenv("PERSON_REPO_SEED", raising=False)
    return pytester


def ran(project: pytest.Pytester, *options: str) -> tuple[list[str], str]:
    """The tests that ran, in their order, and all that was printed."""
    done = project.runpytest_subprocess("-v", "-p", "no:cacheprovider", *options)
    said = done.stdout.str()
    return re.findall(r"test_it\.py::(.+) PASSED", said), said


def test_a_sample_of_each_proof_is_run_and_everything_else(project: pytest.Pytester) -> None:
    tests, said = ran(project)
    assert [test.partition("[")[0] for test in tests] == ["test_one"] * 5 + ["test_two", "test_plain"]
    assert "one: 5 of 20 cases" in said


def test_the_seed_that_is_printed_draws_the_same_again(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    tests, said = ran(project)
    (seed,) = re.findall(r"PERSON_REPO_SEED=(\d+)", said)
    monkeypatch.setenv("PERSON_REPO_SEED", seed)
    assert ran(project)[0] == tests
    monkeypatch.setenv("PERSON_REPO_SEED", str(int(seed) + 1))
    assert ran(project)[0] != tests


def test_workers_draw_the_same_and_the_first_process_says_what(project: pytest.Pytester) -> None:
    _, said = ran(project, "-n", "2")
    assert "one: 5 of 20 cases" in said
    assert "7 passed" in said


def test_a_case_that_is_named_is_run_whatever_is_drawn(project: pytest.Pytester) -> None:
    named = [f"test_it.py::test_one[{number}]" for number in range(20)]
    tests, _ = ran(project, *named)
    assert len(tests) == 20


def test_all_of_them_are_run_in_a_drawn_order_and_what_draws_comes_again_at_the_end(project: pytest.Pytester) -> None:
    tests, said = ran(project, "--proofs", "all", "--rounds", "3", "-rP")
    assert sorted(tests[:20]) != tests[:20]
    assert [re.findall(r"round (\d)", test) for test in tests[-9:]] == [["0"]] * 3 + [["1"]] * 3 + [["2"]] * 3
    assert len(set(re.findall(r"drawn (\d+)", said))) == 9


def test_no_further_test_begins_when_the_time_is_over(project: pytest.Pytester) -> None:
    tests, _ = ran(project, "--proofs", "all", "--until", "1000")
    assert len(tests) == 1


# Rows


def test_every_proof_is_in_a_row() -> None:
    names = {
        name
        for file in TESTS.rglob("test_*.py")
        if file != Path(__file__)
        for name in re.findall(r'mark\.proof\(name="([^"]+)"', file.read_text("utf-8"))
    }
    assert names | {"suite", "databases", "matrix"} == {row.name for row in ROWS}
    assert len(ROWS) <= 12


def test_the_page_has_every_row() -> None:
    lines = prove.PAGE.read_text("utf-8").splitlines()
    start = lines.index("| proof | proves | amount | result | seconds | seed | date | commit |")
    rows = [line.split(" | ")[:2] for line in lines[start + 2 :]]
    assert rows == [[f"| {row.name}", row.proves] for row in ROWS]


def test_a_result_takes_the_place_of_the_one_before() -> None:
    page = "# P\n\n| proof | proves | amount |\n|---|---|---|\n| one | a | not yet run |\n| two | b | 7 |\n"
    assert prove.with_cells(page, "one", {"amount": "8"}) == page.replace("not yet run", "8")


def test_rows_that_passed_at_a_commit_are_known_at_it_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prove, "STATE", tmp_path / "kept" / "full.json")
    one, two = "one", "two"
    state = prove.State("abc")
    state.keep(one, passed=True)
    state.keep(two, passed=False)
    assert [prove.State("abc").has_passed(name) for name in (one, two)] == [True, False]
    assert not prove.State("def").has_passed(one)
    assert not prove.State("").has_passed(one)


# The matrix


class Machine(Environment):
    """An environment that is this one, or that cannot be made."""

    def make(self) -> str:
        if self.name == "gone":
            raise UnavailableError("there is no such Python")
        return self.name


@pytest.mark.parametrize("code", [0, 3])
def test_the_tests_are_run_in_each_environment_until_they_have_passed_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """A run counts by its exit code, too: a worker that crashes leaves tests that passed."""
    called: list[str] = []

    def call(command: list[str], environment: dict[str, str], _seconds: float | None) -> int:
        called.append(command[0])
        assert environment["PERSON_REPO_SEED"] == "7"
        results = Path(command[command.index("--results") + 1])
        results.write_text('{"passed": 5, "failed": 0, "error": 0, "failures": []}', encoding="utf-8")
        return code if command[0] == "two" else 0

    monkeypatch.setattr(prove, "STATE", tmp_path / "full.json")
    monkeypatch.setattr(prove, "REPORTS", tmp_path / "none")
    monkeypatch.setattr(prove, "_call", call)
    monkeypatch.setattr(Environment, "variables", lambda _: {})
    page = matrix.PAGE.read_text("utf-8")
    row = prove.Row("matrix", "", 0, 1, environments=[Machine("one"), Machine("gone"), Machine("two")])
    first = prove.run_in_each(row, 7, prove.State("abc"))
    again = prove.run_in_each(row, 7, prove.State("abc"))

    assert called == (["one", "two"] if code == 0 else ["one", "two", "two"])
    assert first.failed
    assert (first.numbers["passed"], first.numbers["error"]) == (10, 1)
    assert first.numbers["failures"] == ["gone: there is no such Python"]
    assert again.numbers["amounts"] == {"of 3 environments": 2 if code == 0 else 1}
    assert matrix.PAGE.read_text("utf-8") == page  # no report, no table


def test_each_environment_differs_from_the_first_in_one_thing() -> None:
    first, *others = ENVIRONMENTS
    for other in others:
        assert sum(getattr(first, name) != getattr(other, name) for name in ("python", "sqlalchemy", "memcached")) == 1


def test_a_memcached_that_is_named_is_taken_if_it_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MEMCACHED.path_variable
    other = tmp_path / "memcached"
    other.write_text("#!/bin/sh\necho memcached 1.6.99\n", encoding="utf-8")
    other.chmod(0o755)
    monkeypatch.setenv(MEMCACHED.path_variable, str(other))
    assert MEMCACHED.find() == str(other)
    monkeypatch.setenv(MEMCACHED.path_variable, "/bin/true")
    assert MEMCACHED.find() is None
    assert "/bin/true" in MEMCACHED.remedy()
