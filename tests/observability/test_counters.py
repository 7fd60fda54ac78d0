"""Counters that threads share, and the page that describes them."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from person_repo.observability.counters import Counters, Stats

THREADS = 8
TIMES = 10_000


@pytest.fixture
def eager_switching() -> Iterator[None]:
    """Threads take turns as often as the interpreter can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def in_threads(work: Callable[[], None]) -> None:
    start = threading.Barrier(THREADS)

    def run() -> None:
        start.wait()
        for _ in range(TIMES):
            work()

    threads = [threading.Thread(target=run) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def two() -> int:
    return sum(1 for _ in "ab")


@pytest.mark.usefixtures("eager_switching")
def test_no_increment_is_lost_among_threads() -> None:
    counters = Counters()

    def work() -> None:
        counters.hits += 1

    in_threads(work)

    assert counters.snapshot() == Stats(hits=THREADS * TIMES)


@pytest.mark.usefixtures("eager_switching")
def test_no_increment_is_lost_when_the_added_number_is_computed_in_the_same_statement() -> None:
    """A plain attribute loses most of these updates: it is read before the call and stored after it."""
    counters = Counters()

    def work() -> None:
        counters.round_trips += two()

    in_threads(work)

    assert counters.snapshot() == Stats(round_trips=2 * THREADS * TIMES)


def test_each_field_of_the_stats_has_a_counter_of_its_own() -> None:
    counters = Counters()
    names = [field.name for field in dataclasses.fields(Stats)]
    for number, name in enumerate(names, 1):
        count = getattr(counters, name)
        count += number

    assert list(counters.snapshot().as_dict().items()) == [(name, number) for number, name in enumerate(names, 1)]


def test_two_sets_of_counters_share_nothing() -> None:
    one, other = Counters(), Counters()
    one.hits += 1

    assert other.snapshot() == Stats()


def test_a_snapshot_stays_as_it_was() -> None:
    counters = Counters()
    before = counters.snapshot()
    counters.hits += 1

    assert before == Stats()
    with pytest.raises(dataclasses.FrozenInstanceError):
        before.hits = 5  # type: ignore[misc]


def test_the_difference_of_two_stats_is_what_happened_between_them() -> None:
    counters = Counters()
    counters.hits += 3
    counters.errors += 1
    earlier = counters.snapshot()
    counters.hits += 2
    counters.fills += 1

    assert counters.snapshot() - earlier == Stats(hits=2, fills=1)


def test_the_sum_of_two_stats_adds_each_number() -> None:
    assert Stats(hits=1, fills=2) + Stats(hits=3, errors=4) == Stats(hits=4, fills=2, errors=4)


def test_a_counter_that_does_not_exist_is_refused() -> None:
    with pytest.raises(AttributeError):
        Counters().hit += 1  # type: ignore[attr-defined]


def descriptions() -> dict[str, str]:
    """The docstring under each field of ``Stats``, by name."""
    (of_stats,) = ast.parse(inspect.getsource(Stats)).body
    assert isinstance(of_stats, ast.ClassDef)
    return {
        field.target.id: inspect.cleandoc(text.value.value)
        for field, text in pairwise(of_stats.body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }


def test_the_page_of_the_stats_says_of_each_counter_what_its_docstring_says() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "stats.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", page, re.MULTILINE))
    said = {name: " ".join(text.replace("``", "`").split()) for name, text in descriptions().items()}

    assert list(said) == [field.name for field in dataclasses.fields(Stats)], "each field has a docstring"
    assert {name: f"{text[0].upper()}{text[1:]}." for name, text in rows.items()} == said
