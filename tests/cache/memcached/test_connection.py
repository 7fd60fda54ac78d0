"""The states of a connection: idle, asked, and why it is closed."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest
from support.exchanges import says
from support.servers import Memcached
from support.unruly import Answer, Door

from person_repo.cache.memcached.connection import Budget, Connection, State
from person_repo.exceptions import CacheUnavailableError
from person_repo.settings import CacheSettings

PATIENT = CacheSettings(timeout=10, connect_timeout=10)
Open = Callable[[], Connection]


@pytest.fixture
def opened(door: Door) -> Open:
    return lambda: Connection(door.url, PATIENT)


def ask(connection: Connection, seconds: float = 10.0) -> None:
    connection.exchange(b"mn\r\n", 1, Budget(seconds))


def closes(_: Door, __: socket.socket, ___: bytes) -> bool:
    return False


def test_a_connection_is_idle_between_exchanges_and_asked_within_one(opened: Open) -> None:
    connection = opened()
    assert connection.state is State.IDLE

    connection.send(b"mn\r\n", Budget(10.0))
    assert connection.state is State.ASKED
    connection.receive(1, Budget(10.0))
    assert connection.state is State.IDLE
    connection.close()
    assert connection.state is State.CLOSED


@pytest.mark.parametrize(
    ("answer", "state"),
    [(closes, State.CLOSED_BY_SERVER), (says(b"nonsense\r\n"), State.CLOSED), (says(), State.TIMED_OUT)],
    ids=["closed", "nonsense", "silence"],
)
def test_a_connection_that_has_served_is_closed_with_the_reason(
    opened: Open, door: Door, answer: Answer, state: State
) -> None:
    connection = opened()
    ask(connection)
    door.answer = answer

    with pytest.raises(CacheUnavailableError):
        ask(connection, 0.05 if state is State.TIMED_OUT else 10.0)
    assert connection.state is state
    connection.close()
    assert connection.state is state


def test_a_connection_that_never_served_says_nothing_of_the_process_behind_it(opened: Open, door: Door) -> None:
    connection = opened()
    door.answer = closes

    with pytest.raises(CacheUnavailableError, match="closed by the server"):
        ask(connection)
    assert connection.state is State.CLOSED


def test_a_connection_in_the_middle_of_an_exchange_takes_no_other(opened: Open, server: Memcached) -> None:
    connection = opened()
    connection.send(b"mn\r\n", Budget(10.0))

    for use in (lambda: ask(connection), lambda: connection.send(b"mn\r\n", Budget(10.0))):
        with pytest.raises(CacheUnavailableError, match="no longer of use"):
            use()


def test_a_budget_leaves_a_moment_to_each_server_and_then_ends() -> None:
    budget = Budget(1.0)
    assert budget.next_wait() == 1.0

    budget.remaining = -0.01
    assert 0 < budget.next_wait() < 0.01
    budget.remaining = -0.06
    with pytest.raises(TimeoutError):
        budget.next_wait()
