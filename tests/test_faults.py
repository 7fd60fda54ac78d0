"""The circuit breaker, by a clock that only the test moves."""

from __future__ import annotations

import pytest

from person_repo.faults import Breaker


class Clock:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture(params=[0.0, 1000.0])
def clock(request: pytest.FixtureRequest) -> Clock:
    return Clock(request.param)


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(failures=3, reset=2.0, clock=clock)


def fail(breaker: Breaker, times: int) -> None:
    for _ in range(times):
        breaker.failed()


def test_it_is_closed_until_so_many_failures_in_a_row(breaker: Breaker) -> None:
    fail(breaker, 2)
    assert breaker.is_closed
    assert breaker.allows()

    breaker.failed()

    assert not breaker.is_closed
    assert not breaker.allows()


def test_a_success_between_failures_begins_the_count_anew(breaker: Breaker) -> None:
    fail(breaker, 2)
    breaker.succeeded()
    fail(breaker, 2)

    assert breaker.allows()


def test_once_the_time_has_come_one_caller_may_probe(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, 3)
    clock.now += 1.9
    assert not breaker.allows()

    clock.now += 0.1

    assert [breaker.allows() for _ in range(3)] == [True, False, False]


def test_a_probe_that_fails_leaves_it_open_for_as_long_again(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, 3)
    clock.now += 2.0
    breaker.allows()
    clock.now += 0.5
    breaker.failed()

    clock.now += 1.9
    assert not breaker.allows()
    clock.now += 0.1
    assert breaker.allows()


def test_a_probe_that_succeeds_closes_it(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, 3)
    clock.now += 2.0
    breaker.allows()
    breaker.succeeded()

    assert breaker.is_closed
    assert not breaker.is_failing
    fail(breaker, 2)
    assert breaker.allows()


def test_a_probe_that_never_tells_is_followed_by_another(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, 3)
    clock.now += 2.0
    assert breaker.allows()

    clock.now += 2.0

    assert breaker.allows()
