"""The proxy in front of a server: each fault is what its name says, begins at once, and ends."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from person_repo.exceptions import ConfigurationError
from person_repo.testing.proxy import Proxy


class Echo:
    """A server that sends back every byte; ``heard`` keeps them all."""

    def __init__(self, path: Path | None = None) -> None:
        if path is None:
            self._listening = socket.create_server(("127.0.0.1", 0))
            self.place = f"127.0.0.1:{self._listening.getsockname()[1]}"
        else:
            self._listening = socket.socket(socket.AF_UNIX)
            self._listening.bind(str(path))
            self._listening.listen()
            self.place = str(path)
        self.heard = b""
        self.changed = threading.Condition()
        self._threads = [threading.Thread(target=self._listen)]
        self._threads[0].start()

    def _listen(self) -> None:
        while True:
            visitor, _ = self._listening.accept()
            self._threads.append(threading.Thread(target=self._answer, args=(visitor,)))
            self._threads[-1].start()
            if self._threads[0].name == "over":
                return

    def _answer(self, visitor: socket.socket) -> None:
        with visitor:
            try:
                while data := visitor.recv(1 << 20):
                    with self.changed:
                        self.heard += data
                        self.changed.notify_all()
                    visitor.sendall(data)
            except OSError:
                pass

    def hears(self, what: bytes) -> bool:
        with self.changed:
            return self.changed.wait_for(lambda: what in self.heard, 20)

    def close(self) -> None:
        self._threads[0].name = "over"
        family = socket.AF_UNIX if self.place.startswith("/") else socket.AF_INET
        with socket.socket(family) as last:
            last.connect(self._listening.getsockname())
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive()
        self._listening.close()


@pytest.fixture
def echo() -> Iterator[Echo]:
    echo = Echo()
    yield echo
    echo.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[Proxy]:
    with Proxy(echo.place, seed=1) as proxy:
        yield proxy


def dial(proxy: Proxy) -> socket.socket:
    host, _, port = proxy.address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=20)


@pytest.fixture
def client(proxy: Proxy) -> Iterator[socket.socket]:
    with dial(proxy) as client:
        assert asked(client, b"before") == b"before"
        yield client


def asked(client: socket.socket, question: bytes, size: int | None = None) -> bytes:
    """``size`` bytes of the answer; fewer if the connection ends."""
    client.sendall(question)
    return received(client, len(question) if size is None else size)


def received(client: socket.socket, size: int) -> bytes:
    answer = b""
    while len(answer) < size and (part := client.recv(size - len(answer))):
        answer += part
    return answer


def is_silent(client: socket.socket) -> bool:
    """True if nothing arrives for a moment, in which the proxy reads what was sent to it."""
    client.settimeout(0.1)
    try:
        client.recv(1)
    except TimeoutError:
        return True
    finally:
        client.settimeout(20)
    return False


def is_reset(client: socket.socket) -> bool:
    try:
        while client.recv(1 << 20):
            pass
    except ConnectionResetError:
        return True
    return False


def test_everything_is_passed_on_both_ways(proxy: Proxy, client: socket.socket, echo: Echo) -> None:
    assert asked(client, b"one") == b"one"
    with dial(proxy) as another:
        assert asked(another, b"two") == b"two"
        assert (proxy.visitors, proxy.connections) == (2, 2)
    assert echo.hears(b"two")


def test_more_than_any_buffer_holds_is_passed_on_whole(client: socket.socket) -> None:
    """Both sides are slower than the proxy at some point: what it holds is neither lost nor reordered."""
    data = bytes(range(256)) * 64 * 1024
    answer: list[bytes] = []
    reading = threading.Thread(target=lambda: answer.append(received(client, len(data))))
    reading.start()
    client.sendall(data)
    reading.join(60)
    assert answer == [data]


def test_a_unix_socket_can_stand_behind_it(tmp_path: Path) -> None:
    echo = Echo(tmp_path / "echo.sock")
    try:
        with Proxy(echo.place) as proxy, dial(proxy) as client:
            assert asked(client, b"path") == b"path"
    finally:
        echo.close()


def test_the_end_of_a_connection_is_passed_on_both_ways(proxy: Proxy, client: socket.socket) -> None:
    client.shutdown(socket.SHUT_WR)
    assert client.recv(1) == b""


def test_a_client_is_reset_where_the_server_is_down(echo: Echo) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        place = f"127.0.0.1:{nobody.getsockname()[1]}"
    with Proxy(place) as proxy, pytest.raises(ConnectionResetError), dial(proxy) as client:
        client.recv(1)


def test_a_cut_resets_open_connections_and_refuses_new_ones(proxy: Proxy, client: socket.socket) -> None:
    proxy.cut()

    assert is_reset(client)
    for _ in range(2):
        with pytest.raises(ConnectionRefusedError):
            dial(proxy)
    proxy.heal()
    with dial(proxy) as again:
        assert asked(again, b"healed") == b"healed"


def test_nobody_gets_the_port_of_a_proxy_that_refuses(proxy: Proxy) -> None:
    proxy.cut()

    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", int(proxy.address.rpartition(":")[2])))


def test_a_reset_hits_old_connections_at_once_and_new_ones_at_their_first_request(
    proxy: Proxy, client: socket.socket, echo: Echo
) -> None:
    proxy.reset()

    assert is_reset(client)
    with dial(proxy) as another:
        another.sendall(b"lost")
        assert is_reset(another)
    assert b"lost" not in echo.heard
    assert proxy.visitors == 2


def test_a_hanging_server_hears_nothing_and_its_connections_are_reset_afterwards(
    proxy: Proxy, client: socket.socket, echo: Echo
) -> None:
    proxy.hang()

    client.sendall(b"swallowed")
    with dial(proxy) as another:
        another.sendall(b"swallowed too")
        assert is_silent(another)
        assert is_silent(client)
        proxy.heal()
        assert is_reset(client)
        assert is_reset(another)
    with dial(proxy) as again:
        assert asked(again, b"healed") == b"healed"
    assert b"swallowed" not in echo.heard


def test_bytes_sent_into_a_black_hole_arrive_late(proxy: Proxy, client: socket.socket, echo: Echo) -> None:
    proxy.blackhole()

    client.sendall(b"late")
    with dial(proxy) as another:
        another.sendall(b"later")
        assert is_silent(client)
        assert proxy.visitors == 1
        assert echo.heard == b"before"
        proxy.heal()
        assert received(client, 4) == b"late"
        assert received(another, 5) == b"later"


def test_bytes_sent_into_a_black_hole_arrive_after_their_sender_has_given_up(
    proxy: Proxy, client: socket.socket, echo: Echo
) -> None:
    proxy.blackhole()

    client.sendall(b"late")
    client.close()
    proxy.heal()

    assert echo.hears(b"late")


def test_dropped_replies_are_those_of_requests_that_were_carried_out(
    proxy: Proxy, client: socket.socket, echo: Echo
) -> None:
    proxy.drop()

    client.sendall(b"done")
    assert echo.hears(b"done")
    assert is_silent(client)
    proxy.heal()
    assert is_reset(client)


def test_after_so_many_dropped_replies_the_connection_goes_on_out_of_step(
    proxy: Proxy, client: socket.socket, echo: Echo
) -> None:
    proxy.drop(1)

    client.sendall(b"one")
    assert echo.hears(b"one")
    assert is_silent(client)
    assert asked(client, b"two") == b"two"
    proxy.heal()
    assert asked(client, b"three") == b"three"


def test_a_delay_holds_each_reply_back_and_nothing_is_lost_when_it_ends(
    proxy: Proxy, client: socket.socket, echo: Echo
) -> None:
    proxy.delay(0.05)
    began = time.monotonic()
    assert asked(client, b"slow") == b"slow"
    assert time.monotonic() - began >= 0.05

    proxy.delay(3600)
    client.sendall(b"held")
    assert echo.hears(b"held")
    assert is_silent(client)
    proxy.heal()
    assert received(client, 4) == b"held"


def test_a_throttled_reply_takes_its_time_byte_by_byte(proxy: Proxy, client: socket.socket, echo: Echo) -> None:
    proxy.throttle(50)
    began = time.monotonic()
    assert asked(client, b"abc") == b"abc"
    assert time.monotonic() - began >= 0.06  # a lower bound holds on a busy machine too

    proxy.throttle(1 / 3600)
    client.sendall(b"rest")
    assert echo.hears(b"rest")
    assert is_silent(client)
    proxy.heal()
    assert received(client, 4) == b"rest"


def test_a_garbled_reply_is_as_long_and_the_same_for_the_same_seed(echo: Echo) -> None:
    answers = []
    for seed in (1, 1, 2):
        with Proxy(echo.place, seed=seed) as proxy, dial(proxy) as client:
            proxy.garble()
            answers.append(asked(client, bytes(100)))
            proxy.heal()
            assert asked(client, b"healed") == b"healed"
    assert answers[0] == answers[1] != answers[2]
    assert bytes(100) not in answers
    assert {len(answer) for answer in answers} == {100}


@pytest.mark.parametrize(("count", "flipped"), [(1, 1), (3, 3), (10_000, 80)])
def test_bits_are_flipped_as_many_as_asked_for(proxy: Proxy, client: socket.socket, count: int, flipped: int) -> None:
    proxy.flip_bits(count)
    assert int.from_bytes(asked(client, bytes(10))).bit_count() == flipped


def test_a_truncated_reply_ends_in_the_middle_and_so_does_the_connection(
    proxy: Proxy, client: socket.socket, echo: Echo
) -> None:
    proxy.truncate(4)

    assert asked(client, b"truncated") == b"trun"
    with dial(proxy) as another:
        assert asked(another, b"again") == b"agai"
    assert echo.hears(b"again")


def test_an_impostor_greets_and_answers_and_the_server_hears_nothing(
    proxy: Proxy, client: socket.socket, echo: Echo
) -> None:
    proxy.impersonate(b"500 what?\r\n", greeting=b"220 mail\r\n")

    with dial(proxy) as another:
        assert received(another, 10) == b"220 mail\r\n"
        assert asked(another, b"get k", 11) == b"500 what?\r\n"
        assert asked(client, b"get k", 11) == b"500 what?\r\n"
    assert echo.heard == b"before"
    proxy.heal()
    assert is_reset(client)


def test_each_fault_ends_the_one_before(proxy: Proxy) -> None:
    faults: list[Callable[[], None]] = [
        proxy.cut, proxy.hang, proxy.blackhole, proxy.drop, proxy.reset, proxy.garble, proxy.cut, proxy.blackhole,
    ]  # fmt: skip
    for fault in faults:
        fault()
    proxy.heal()
    with dial(proxy) as client:
        assert asked(client, b"healed") == b"healed"


def test_a_listener_to_requests_can_make_a_fault_in_the_middle_of_one(proxy: Proxy, client: socket.socket) -> None:
    requests: list[bytes] = []

    def cut(request: bytes) -> None:
        requests.append(request)
        proxy.cut()

    proxy.on_request = cut
    client.sendall(b"fatal")

    assert is_reset(client)
    assert requests == [b"fatal"]
    assert proxy.connections == 0


def test_closing_resets_open_connections_frees_the_port_and_can_be_repeated(echo: Echo) -> None:
    with Proxy(echo.place) as proxy:
        client = dial(proxy)
        proxy.hang()
        proxy.close()
        assert is_reset(client)
        client.close()
    proxy.close()
    port = int(proxy.address.rpartition(":")[2])
    with socket.create_server(("127.0.0.1", port)):
        pass
    with pytest.raises(RuntimeError, match="is not running"):
        proxy.heal()
    assert not [thread for thread in threading.enumerate() if thread.name == f"proxy of {echo.place}"]


@pytest.mark.parametrize("place", ["", "localhost", "localhost:", ":11211", "localhost:http"])
def test_an_address_that_is_none_is_refused(place: str) -> None:
    with pytest.raises(ConfigurationError, match=r"give host:port, or the path of a unix socket"):
        Proxy(place)
