"""Server processes: each fault is what it says, and none outlives the process that started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.servers import Memcached, Server, ServerEndedError, free_port, memcached

from person_repo.exceptions import ConfigurationError
from person_repo.testing import servers


@pytest.fixture
def server() -> Iterator[Memcached]:
    with memcached() as (server,):
        yield server


def test_a_restart_is_a_new_process_on_the_same_address_that_holds_nothing(server: Memcached) -> None:
    address, pid = server.url, server.pid
    assert server.ask("ms k 1\r\nv") == "HD\r\n"

    server.restart()

    assert (server.url, server.running) == (address, True)
    assert server.pid != pid
    assert server.ask("mg k v") == "EN\r\n"


def test_a_flush_drops_every_item_of_the_same_process(server: Memcached) -> None:
    pid = server.pid
    assert server.ask("ms k 1\r\nv") == "HD\r\n"

    server.flush()

    assert server.ask("mg k v") == "EN\r\n"
    assert server.pid == pid


def test_a_paused_server_keeps_its_items_and_can_be_ended(server: Memcached) -> None:
    assert server.ask("ms k 1\r\nv") == "HD\r\n"
    server.pause()
    assert server.running

    server.resume()
    assert server.ask("mg k v") == "VA 1\r\nv\r\n"
    server.pause()
    server.stop()
    assert not server.running


def test_a_killed_server_can_be_started_again_as_often_as_one_likes(server: Memcached) -> None:
    for _ in range(2):
        server.kill()
        server.kill()
        assert not server.running
        with pytest.raises(RuntimeError, match="Memcached is not running"):
            _ = server.pid
        assert server.start().start().running


def test_a_server_ends_with_its_block() -> None:
    with Memcached() as server:
        pid = server.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


class Mute(Server):
    """A server that never answers."""

    patience = 0.05

    def __init__(self, *command: str) -> None:
        super().__init__()
        self._command = command

    def command(self) -> list[str]:
        return list(self._command)

    def answers(self) -> bool:
        return False

    def last_words(self) -> str:
        return "farewell"


def test_a_server_that_ends_at_its_start_is_an_error_with_its_last_words() -> None:
    mute = Mute(sys.executable, "-c", "pass")
    mute.patience = 60
    with pytest.raises(ServerEndedError, match=r"ended at its start\nfarewell"):
        mute.start()


def test_a_server_that_stays_silent_is_killed() -> None:
    mute = Mute(sys.executable, "-c", "import time; time.sleep(600)")
    with pytest.raises(ServerEndedError, match=r"is silent for 0.05 s\nfarewell"):
        mute.start()
    assert not mute.running


def test_another_port_is_tried_when_one_is_taken(server: Memcached) -> None:
    ports = iter([server.port, free_port()])

    another = servers.started_on_a_free_port(lambda: Memcached(port=next(ports)))

    assert another.port != server.port
    another.kill()


def test_a_port_that_is_always_taken_is_an_error(server: Memcached) -> None:
    with pytest.raises(ServerEndedError, match="ended at its start"):
        servers.started_on_a_free_port(lambda: Memcached(port=server.port), attempts=2)


def test_a_missing_memcached_is_a_configuration_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "path_of", lambda _: None)
    with pytest.raises(ConfigurationError, match="memcached is not installed here, or not on the PATH"):
        servers.Memcached()


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_a_server_dies_with_a_parent_that_is_killed(server: Memcached) -> None:
    code = (
        "from person_repo.testing.servers import Memcached\n"
        "with Memcached() as server:\n    print(server.pid, flush=True)\n    input()"
    )
    checkout = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=checkout
    ) as parent:  # fmt: skip
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
    until = time.monotonic() + 30
    while os.path.exists(f"/proc/{pid}"):
        assert time.monotonic() < until
        time.sleep(0.01)
