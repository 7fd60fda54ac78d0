"""A server's answers in pieces of any size: well-formed replies, or ``CacheUnavailableError`` and a connection that is
not used again. After well-formed replies the next request gets its own answer.

The first bytes choose how many replies are awaited, the size of the pieces, what comes after the last, and if the rest
is the answer as it is, or is made into well-formed replies, all of which must then be understood.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest import mock

from hostile.fuzz.witness import witness

from person_repo.cache.memcached import connection as connections
from person_repo.cache.memcached.connection import IDLE, Budget, Connection
from person_repo.cache.memcached.wire import Reply
from person_repo.exceptions import CacheUnavailableError
from person_repo.settings import CacheSettings

__all__ = ["one_input", "seeds"]

SETTINGS = CacheSettings(timeout=60, connect_timeout=60)
STATS = b"STAT item_size_max 1048576\r\nSTAT cas_enabled yes\r\nEND\r\n"
LINES = [b"HD", b"HD f0 c12", b"EN", b"NS", b"EX", b"NF", b"MN", b"SERVER_ERROR out of memory", b"VA"]


class Server:
    """A socket with a script at its other end, which answers in pieces, then is silent or closes."""

    def __init__(self) -> None:
        self.answers = STATS
        self.piece = len(STATS)
        self.closes = False
        self.sock = self

    def sendall(self, request: bytes) -> None:
        """Takes any request."""

    def settimeout(self, seconds: float | None) -> None:
        """Waits for nobody."""

    def recv(self, size: int, flags: int = 0) -> bytes:
        """The next piece of the script."""
        if not self.answers and not self.closes:
            raise TimeoutError("timed out")
        size = min(size, self.piece)
        piece, self.answers = self.answers[:size], self.answers[size:]
        return piece

    def recv_into(self, buffer: Any, size: int = 0, flags: int = 0) -> int:
        """``recv``, into a buffer."""
        piece = self.recv(size or len(buffer))
        memoryview(buffer)[: len(piece)] = piece
        return len(piece)

    def close(self) -> None:
        """Closed more than once."""


def seeds() -> Iterator[bytes]:
    """Every kind of reply, alone and with others, whole, cut, and with bytes that were not asked for."""
    value = b"VA 5 f0 c1 s5\r\nab\r\nc\r\n"
    answers = [line + b"\r\n" for line in LINES[:-1]] + [
        value, value * 2, value[:-1], value + b"HD\r\n", b"VA 0\r\n\r\n", b"VA -1\r\n", b"VA 99999999999\r\n",
        b"VA\r\n",
        b"VA 1_0\r\n0123456789\r\n", b"VA +1\r\na\r\n", b"ERROR\r\n", b"CLIENT_ERROR bad\r\n", b"\r\n", b"HD" * 2000,
        b"END\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"VA 3 W\nx\r\nabc\r\n", b"HD\rHD\r\n", b"\x00" * 64,
    ]  # fmt: skip
    for answer in answers:
        for head in (b"\x00\x00\x00", b"\x01\x01\x00", b"\x01\x07\x01", b"\x00\x01\x03", b"\x02\x03\x02"):
            yield head + answer


def one_input(data: bytes) -> None:
    """Two exchanges, one after the other. Raises ``AssertionError``, or any error that the connection lets through."""
    asked, piece, how = (data + b"\x00\x00\x00")[:3]
    replies = asked % 8 + 1
    server = Server()
    connection = _connection(server)
    made = _made(data[3:], replies) if how & 1 else None
    server.answers = data[3:] if made is None else b"".join(map(_written, made))
    server.piece, server.closes = (piece % 64 or 1 << 16), bool(how & 2)
    meant = _read(server.answers, replies)
    try:
        found = connection.exchange(b"mn\r\n" * replies, replies, Budget(60.0))
    except CacheUnavailableError as refusal:
        witness(str(refusal).partition(" b'")[0])
        if made is not None:
            raise AssertionError(f"{made} were not understood") from refusal
        _is_over(connection, server)
        return
    witness(f"{[words[0] for words, _ in found[:2]]}")
    assert meant is not None, found
    assert found == meant[0], (found, meant)
    assert made is None or found == made
    assert connection.state is IDLE
    if not meant[1]:  # the script said this and nothing else
        server.answers = b"NF\r\n"
        assert connection.exchange(b"md k\r\n", 1, Budget(60.0)) == [([b"NF"], b"")]


def _connection(server: Server) -> Connection:
    with mock.patch.object(connections, "_connected", return_value=server):
        return Connection("127.0.0.1:11211", SETTINGS)


def _is_over(connection: Connection, server: Server) -> None:
    assert connection.state is not IDLE
    server.answers = b"NF\r\n"
    try:
        connection.exchange(b"md k\r\n", 1, Budget(60.0))
    except CacheUnavailableError:
        return
    raise AssertionError("a connection out of step was used again")


def _made(raw: bytes, replies: int) -> list[Reply]:
    """Well-formed replies: a line chosen by each byte, the bytes after it as the value."""
    found: list[Reply] = []
    for index in range(replies):
        chosen = raw[index] if index < len(raw) else 0
        line = LINES[chosen % len(LINES)]
        body = raw[index + 1 : index + 1 + chosen] if line == b"VA" else b""
        found.append(([*line.split(), str(len(body)).encode(), b"f1"] if line == b"VA" else line.split(), body))
    return found


def _written(reply: Reply) -> bytes:
    words, body = reply
    return b" ".join(words) + b"\r\n" + (body + b"\r\n" if words[0] == b"VA" else b"")


def _read(answer: bytes, replies: int) -> tuple[list[Reply], bytes] | None:
    """Slow reader: the replies at the start of an answer, and the bytes after them; None for no such answer."""
    found: list[Reply] = []
    while len(found) < replies:
        line, end, answer = answer.partition(b"\r\n")
        words = line.split(b" ")
        if not end or not line:
            return None
        body = b""
        if words[0] == b"VA":
            if len(words) < 2 or not words[1].isdigit() or len(words[1]) > 20:
                return None
            size = int(words[1])
            body, end, answer = answer[:size], answer[size : size + 2], answer[size + 2 :]
            if len(body) != size or end != b"\r\n":
                return None
        found.append((words, body))
    return found, answer
