"""Server processes for tests and torture: started on a free loopback port, killed, paused and restarted at will."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from person_repo.exceptions import ConfigurationError, PersonRepoError

__all__ = ["HOST", "Memcached", "Server", "ServerEndedError", "Tls", "free_port", "path_of", "started_on_a_free_port"]

S = TypeVar("S", bound="Server")

HOST: Final = "127.0.0.1"

_OF_SERVERS: Final = ("/usr/sbin", "/usr/local/sbin")
"""Folders of servers, which are not on every user's PATH."""

# Linux ends a child with the *thread* that started it, and tests restart servers from threads of their own. This thread
# starts every server, and lives as long as the interpreter.
_starter = ThreadPoolExecutor(1, "server-starter")

# prctl(PR_SET_PDEATHSIG, SIGKILL) outlives exec, but not a change of the user. So does the pid, which a supervising
# process would change.
_DIE_WITH_PARENT: Final = """
import ctypes, os, sys
user, group, *command = sys.argv[1:]
if user:
    os.setgroups([]), os.setgid(int(group)), os.setuid(int(user))
ctypes.CDLL(None).prctl(1, 9)
os.execv(command[0], command)
"""


class ServerEndedError(PersonRepoError):
    """A server ended, or stayed silent, while it was being started."""


class Server:
    """One server process, always on the same address. It dies with this process, even by SIGKILL (on Linux)."""

    patience = 30.0
    """Seconds that a start may take."""

    account: tuple[int, int] | None = None
    """The user id and group id that the process runs as; None for those of this process."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        """The program and its arguments, including the address."""
        raise NotImplementedError

    def answers(self) -> bool:
        """True if this process, and not another one on the same address, accepts requests."""
        raise NotImplementedError

    def last_words(self) -> str:
        """The end of the server's log, if it has one."""
        return ""

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        if self._process is None:
            raise RuntimeError(f"{type(self).__name__} is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        """True if the process exists, paused or not."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> Self:
        """Starts the process and returns once it answers. Raises ``ServerEndedError`` if it never does."""
        if self.running:
            return self
        self._process = _starter.submit(_start, self.command(), self.account).result()
        deadline = time.monotonic() + self.patience
        while not self.answers():
            if not self.running:
                raise ServerEndedError(f"{self.command()[0]} ended at its start\n{self.last_words()}")
            if time.monotonic() > deadline:
                self.kill()
                raise ServerEndedError(f"{self.command()[0]} is silent for {self.patience} s\n{self.last_words()}")
            time.sleep(0.01)
        return self

    def stop(self) -> None:
        """Ends the process with SIGTERM, and with SIGKILL after 10 s."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Ends the process at once, as a crash does."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Kills the process and starts a new one on the same address: a new incarnation."""
        self.kill()
        self.start()

    def pause(self) -> None:
        """Stops the process: connections stay open, nothing is answered."""
        os.kill(self.pid, signal.SIGSTOP)
        # One of its threads takes the signal, and until then the others go on answering.
        deadline = time.monotonic() + self.patience
        while os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is None:
            if time.monotonic() > deadline:
                raise ServerEndedError(f"{self.command()[0]} does not stop")
            time.sleep(0.001)

    def resume(self) -> None:
        """Lets a paused process go on."""
        os.kill(self.pid, signal.SIGCONT)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *raised: object) -> None:
        self.kill()

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(how)
            process.send_signal(signal.SIGCONT)  # a paused process sees no other signal than SIGKILL
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@dataclass(frozen=True)
class Tls:
    """Files that a server needs for TLS: its certificate, which may name any host; the key; and the authority that
    signed it, and that signs the clients' certificates if the server asks for them.
    """

    ca: Path
    certificate: Path
    key: Path

    def wrap(self, connection: socket.socket) -> ssl.SSLSocket:
        """The connection over TLS, from a client that accepts any certificate and shows the server's own."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.load_cert_chain(self.certificate, self.key)
        return context.wrap_socket(connection)


class Memcached(Server):
    """A memcached with one worker thread, on ``port`` of the loopback interface or on a unix ``socket_path``.

    ``url`` is what follows ``memcached://``: ``host:port``, or the path of the socket. ``tls``: it talks TLS only, and
    with ``clients`` only to clients that show a certificate. ``program``: the path of another memcached than the
    installed one.

    Raises ``ConfigurationError`` if memcached is not installed.
    """

    def __init__(
        self,
        *,
        port: int | None = None,
        socket_path: Path | None = None,
        tls: Tls | None = None,
        clients: bool = False,
        program: str | None = None,
    ) -> None:
        super().__init__()
        program = program or path_of("memcached")
        if program is None:
            raise ConfigurationError("memcached is not installed here, or not on the PATH; install it, or give a URL")
        self._program = program
        self._tls = tls
        self._clients = clients
        self.socket_path = socket_path
        self.port = port or (0 if socket_path else free_port())

    @property
    def url(self) -> str:
        """The server's place in a cache URL."""
        return str(self.socket_path) if self.socket_path else f"{HOST}:{self.port}"

    def command(self) -> list[str]:
        """One thread, no UDP, and the current user if that is root."""
        place = ["-s", str(self.socket_path)] if self.socket_path else ["-l", HOST, "-p", str(self.port), "-U", "0"]
        user = ["-u", "root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
        return [self._program, "-t", "1", "-m", "64", *place, *user, *self._tls_options()]

    def _tls_options(self) -> list[str]:
        if self._tls is None:
            return []
        files = f"ssl_chain_cert={self._tls.certificate},ssl_key={self._tls.key},ssl_ca_cert={self._tls.ca}"
        return ["-Z", "-o", f"{files},ssl_verify_mode={2 if self._clients else 0}"]

    def answers(self) -> bool:
        """True if the server on this address has the pid of this process."""
        try:
            return f"STAT pid {self.pid}\r\n" in self.ask("stats")
        except OSError:
            return False

    def ask(self, request: str) -> str:
        """The reply to a one-line command, such as ``stats`` or ``flush_all``."""
        with ExitStack() as stack:
            connection = stack.enter_context(self._connected())
            if self._tls is not None:
                connection = stack.enter_context(self._tls.wrap(connection))
            connection.sendall(f"{request}\r\nmn\r\n".encode())
            answer = b""
            while not answer.endswith(b"MN\r\n"):
                part = connection.recv(65536)
                if not part:
                    raise ConnectionResetError(f"memcached closed the connection after {request!r}")
                answer += part
        return answer.removesuffix(b"MN\r\n").decode()

    def _connected(self) -> socket.socket:
        if self.socket_path is None:
            return socket.create_connection((HOST, self.port), timeout=5)
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(5)
        try:
            connection.connect(str(self.socket_path))
        except OSError:
            connection.close()
            raise
        return connection

    def flush(self) -> None:
        """Drops every item; the process, and with it the incarnation, stays."""
        self.ask("flush_all")


def path_of(program: str) -> str | None:
    """The path of a program, searched also where servers are installed; None if it is missing."""
    return shutil.which(program) or shutil.which(program, path=os.pathsep.join(_OF_SERVERS))


def free_port() -> int:
    """A TCP port of the loopback interface that nobody uses now; another process may take it before its user does."""
    with socket.create_server((HOST, 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


def started_on_a_free_port(make: Callable[[], S], attempts: int = 5) -> S:
    """A started server. ``make`` chooses a free port; it is called again if another process took that port."""
    try:
        return make().start()
    except ServerEndedError:
        if attempts <= 1:
            raise
        return started_on_a_free_port(make, attempts - 1)


def _start(command: list[str], account: tuple[int, int] | None) -> subprocess.Popen[bytes]:
    user, group = account or (None, None)
    nothing: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    if sys.platform == "linux":
        numbers = ["" if number is None else str(number) for number in (user, group)]
        return subprocess.Popen([sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, *numbers, *command], **nothing)
    process = subprocess.Popen(command, user=user, group=group, **nothing)
    atexit.register(process.kill)
    return process
