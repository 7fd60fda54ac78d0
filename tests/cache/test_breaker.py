"""The circuit breaker, by a clock that only the test moves; and the bulkhead."""

from __future__ import annotations

import ctypes
import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.clocks import Clock
from support.forks import forking, in_child

from person_repo.cache.breaker import Breaker
from person_repo.cache.bulkhead import Bulkhead
from person_repo.exceptions import OverloadError


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


def test_a_probe_that_never_reports_is_followed_by_another(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, 3)
    clock.now += 2.0
    assert breaker.allows()

    clock.now += 2.0

    assert breaker.allows()


class Interruption(BaseException):
    """Sent to a thread at any point."""


def interrupt(thread: int) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(Interruption))


def tickets(bulkhead: Bulkhead) -> int:
    return len(bulkhead._tickets.get(os.getpid(), {}))


def until(condition: object) -> None:
    assert callable(condition)
    ends = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.001)


def test_threads_enter_in_their_order_and_learn_if_they_waited() -> None:
    bulkhead = Bulkhead(1, 60)
    came: list[tuple[int, bool]] = []

    def enter(number: int) -> None:
        with bulkhead.entered() as waited:
            came.append((number, waited))

    with ThreadPoolExecutor(3) as pool, bulkhead.entered() as waited:
        assert not waited
        for number in range(3):
            pool.submit(enter, number)
            until(lambda number=number: tickets(bulkhead) == number + 2)
        assert came == []
    assert came == [(0, True), (1, True), (2, True)]


def test_a_thread_that_is_in_does_not_wait_for_itself() -> None:
    bulkhead = Bulkhead(1, 0.001)
    with bulkhead.entered(), bulkhead.entered() as waited:
        assert not waited
    assert tickets(bulkhead) == 0


def test_a_thread_that_waits_in_vain_leaves_the_queue() -> None:
    bulkhead = Bulkhead(1, 0.001)
    with bulkhead.entered(), ThreadPoolExecutor(1) as pool:
        with pytest.raises(OverloadError):
            pool.submit(lambda: bulkhead.entered().__enter__()).result()
        assert tickets(bulkhead) == 1


def test_a_thread_that_may_not_wait_is_refused_at_once_and_leaves_the_queue() -> None:
    bulkhead = Bulkhead(1, 60)
    with bulkhead.entered(may_wait=False) as waited, ThreadPoolExecutor(1) as pool:
        assert not waited
        began = time.monotonic()
        with pytest.raises(OverloadError):
            pool.submit(lambda: bulkhead.entered(may_wait=False).__enter__()).result()
        assert time.monotonic() - began < 30
        assert tickets(bulkhead) == 1


@forking
def test_a_thread_of_the_parent_takes_no_place_in_a_child() -> None:
    bulkhead = Bulkhead(1, 0.001)

    def enter() -> bool:
        with bulkhead.entered() as waited:
            return waited

    with bulkhead.entered():
        assert in_child(lambda: ThreadPoolExecutor(1).submit(enter).result()) == "False"


def test_no_place_is_lost_to_threads_that_are_interrupted_anywhere() -> None:
    """An interruption at any point of entering, waiting and leaving, some hundred times."""
    bulkhead = Bulkhead(2, 60)
    over = threading.Event()
    running: set[int] = set()
    interrupted = [0]
    inside: set[int] = set()
    most = [0]

    def work() -> None:
        me = threading.get_ident()
        running.add(me)
        while not over.is_set():
            try:
                with bulkhead.entered():
                    inside.add(me)
                    most[0] = max(most[0], len(inside))
                    inside.discard(me)
            except Interruption:
                inside.discard(me)
                interrupted[0] += 1

    def guarded() -> None:
        while not over.is_set():
            try:
                work()
            except Interruption:
                interrupted[0] += 1

    threads = [threading.Thread(target=guarded, daemon=True) for _ in range(5)]
    for thread in threads:
        thread.start()
    chance = random.Random(7)
    until(lambda: len(running) == 5)
    sent = 0
    while interrupted[0] < 400:
        interrupt(chance.choice(list(running)))
        sent += 1
        time.sleep(chance.random() / 1000)
    over.set()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()

    assert tickets(bulkhead) == 0
    assert most[0] <= 2
    with bulkhead.entered() as waited:
        assert not waited
