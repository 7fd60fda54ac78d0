"""Proofs: tests of the design and not of a change, of which a run takes as many as its time allows.

    @pytest.mark.proof(name="schedules", sample=6)

``make test`` runs ``sample`` of such a test's cases (a number, or a share; without it, all), drawn by a seed that its
output ends with;
``make prove`` runs them all, in an order drawn by a seed, until its minutes are over. ``again=True`` is for a test that
draws what it does (fixture ``draw``, or hypothesis): it comes after the others, round after round.

One seed rules a run, that of hypothesis and of every ``draw`` included. It is drawn by the first process and inherited
by pytest-xdist's workers, which must agree on what they collect.
"""

from __future__ import annotations

import json
import math
import os
import random
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

__all__ = ["amount", "is_sample", "note", "seed"]

_SEED = "PERSON_REPO_SEED"
_LINE = "proof line"
_AMOUNT = "proof amount"
_MOST_LISTED = 50
_COUNTS = pytest.StashKey["_Counts"]()


class _Counts:
    """How many cases each proof has, and the names of those that this run takes; whether this process has run one."""

    def __init__(self) -> None:
        self.all: dict[str, int] = {}
        self.taken: dict[str, list[str]] = {}
        self.has_begun = False


def seed() -> int:
    """The seed of this run."""
    return int(os.environ[_SEED])


def is_sample(config: pytest.Config) -> bool:
    """True where each proof is to be short, as in ``make test``; False under ``make prove``."""
    return str(config.getoption("proofs")) == "sample"


def note(request: Any, line: str) -> None:
    """Prints a line at the end of the output, below the proof of the test."""
    request.node.user_properties.append((_LINE, [_mark_of(request.node)["name"], line]))


def amount(request: Any, **counts: int) -> None:
    """Adds to the amount in the table of ``make prove``, as in ``amount(request, schedules=1000)``."""
    request.node.user_properties.append((_AMOUNT, counts))


@pytest.fixture
def draw(request: pytest.FixtureRequest) -> random.Random:
    """Random numbers of a test's own, the same for the same seed and test, others in each round of it."""
    return random.Random(f"{seed()} {request.node.nodeid}")


@pytest.fixture
def _round(request: pytest.FixtureRequest) -> int:
    return int(request.param)


# Options


def pytest_addoption(parser: pytest.Parser) -> None:
    """pytest: the options of this module."""
    group = parser.getgroup("proofs")
    group.addoption("--proofs", choices=["sample", "all"], default="sample", help="how much of each proof to run")
    group.addoption("--rounds", type=int, default=1, help="how often to run a proof that draws what it does")
    group.addoption("--until", type=float, help="the time, in seconds since 1970, at which no further test begins")
    group.addoption("--results", type=Path, help="a file for the numbers of this run, as JSON")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """pytest: one seed for all processes and for hypothesis."""
    config.addinivalue_line("markers", "proof(name, sample, again): a test of the design; see tests/support/proofs.py")
    os.environ.setdefault(_SEED, str(random.SystemRandom().randrange(1_000_000)))
    config.stash[_COUNTS] = _Counts()
    if config.option.hypothesis_seed is None:  # hypothesis reads it in a hook of its own, after this one
        config.option.hypothesis_seed = str(seed())


# Choosing


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """pytest: the rounds of a proof that draws what it does."""
    rounds = metafunc.config.getoption("rounds")
    mark = metafunc.definition.get_closest_marker("proof")
    if rounds > 1 and mark is not None and mark.kwargs.get("again"):
        metafunc.fixturenames.append("_round")
        metafunc.parametrize("_round", range(rounds), indirect=True, ids=lambda number: f"round {number}")


@pytest.hookimpl(trylast=True)  # after -k and -m
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """pytest: takes the sample, or shuffles all. A case that the command line names (``file::test``) is always run."""
    counts = config.stash[_COUNTS]
    counts.all = {name: len(cases) for name, cases in _by_proof(items).items()}
    if is_sample(config):
        if not any("::" in argument for argument in config.args):
            left_out = _left_out(items)
            config.hook.pytest_deselected(items=left_out)
            items[:] = [item for item in items if item not in left_out]
    else:
        chance = random.Random(seed())
        drawn = [(_round_of(item), chance.random(), item) for item in items]
        items[:] = [item for _, _, item in sorted(drawn, key=lambda each: each[:2])]
    counts.taken = _by_proof(items)


def _left_out(items: Sequence[pytest.Item]) -> set[pytest.Item]:
    """The cases of proofs but for those that are drawn, test by test."""
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        if _mark_of(item):
            cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    left_out: set[pytest.Item] = set()
    for test, each in cases.items():
        random.Random(f"{seed()} {test}").shuffle(each)
        sample = _mark_of(each[0]).get("sample", len(each))
        left_out.update(each[sample if isinstance(sample, int) else math.ceil(len(each) * sample) :])
    return left_out


def _mark_of(item: pytest.Item) -> dict[str, Any]:
    mark = item.get_closest_marker("proof")
    return {} if mark is None else dict(mark.kwargs)


def _by_proof(items: Iterable[pytest.Item]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for item in items:
        if mark := _mark_of(item):
            found.setdefault(mark["name"], []).append(item.name.removeprefix("test_"))
    return found


def _round_of(item: pytest.Item) -> int:
    """0 for what is run once; from 1 on, the rounds of what is run again."""
    callspec = getattr(item, "callspec", None)
    number = 0 if callspec is None else int(callspec.params.get("_round", 0))
    return number + 1 if _mark_of(item).get("again") else 0


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> bool | None:
    """pytest: passes over the tests for which no time is left, but for the first of this process."""
    counts, until = item.config.stash[_COUNTS], item.config.getoption("until")
    if until is not None and counts.has_begun and time.time() > until:
        return True
    counts.has_begun = True
    return None


# The end of the output


def pytest_sessionfinish(session: pytest.Session) -> None:
    """pytest: has a worker of pytest-xdist send its counts to the first process."""
    counts = session.config.stash[_COUNTS]
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["proofs"] = [counts.all, counts.taken]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """pytest-xdist: takes the counts of a worker; all collect the same."""
    sent = getattr(node, "workeroutput", {}).get("proofs")
    if sent:
        counts = node.config.stash[_COUNTS]
        counts.all, counts.taken = sent


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """pytest: says which proofs were run, and how to run the same again."""
    lines = _properties(terminalreporter, _LINE)
    counts = config.stash[_COUNTS]
    if results := config.getoption("results"):
        results.write_text(json.dumps(_results(terminalreporter, counts)), encoding="utf-8")
    terminalreporter.section("proofs")
    for name, cases in sorted(counts.taken.items()):
        terminalreporter.write_line(f"{name}: {len(cases)} of {counts.all[name]} cases")
        notes = sorted(line for proof, line in lines if proof == name)
        listed = is_sample(config) and len(cases) <= _MOST_LISTED
        for line in notes or cases * listed:
            terminalreporter.write_line(f"    {line}")
    terminalreporter.write_line(f"drawn by a seed; the same again: {_SEED}={seed()}")


def _properties(terminalreporter: Any, name: str) -> list[Any]:
    return [
        value
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", None) == "call"
        for kind, value in report.user_properties
        if kind == name
    ]


def _results(terminalreporter: Any, counts: _Counts) -> dict[str, Any]:
    amounts: Counter[str] = Counter()
    for each in _properties(terminalreporter, _AMOUNT):
        amounts.update(each)
    stats = terminalreporter.stats
    return {
        **{outcome: len(stats.get(outcome, ())) for outcome in ("passed", "failed", "error", "skipped")},
        "failures": [report.nodeid for outcome in ("failed", "error") for report in stats.get(outcome, ())],
        "cases": sum(map(len, counts.taken.values())),
        "amounts": dict(amounts),
    }
