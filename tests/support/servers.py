"""Real servers for the tests, on free loopback ports: MariaDB and memcached, as processes of this suite.

A server that cannot be had skips the tests that need it, and fails them under ``PERSON_REPO_REQUIRE_SERVERS=1``.
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Self, TypeVar

import pymysql
import pytest
import sqlalchemy as sa

__all__ = [
    "MariaDB",
    "Memcached",
    "Server",
    "ServerEndedError",
    "Tls",
    "find_binary",
    "free_port",
    "mariadb",
    "memcached",
    "memcached_talks_tls",
    "unavailable",
]

S = TypeVar("S", bound="Server")

HOST = "127.0.0.1"

# Linux ends a child with the *thread* that started it. Tests restart servers from threads of their own, so every
# server is started by this one, which lives as long as the interpreter.
_starter = ThreadPoolExecutor(1, "server-starter")

# prctl(PR_SET_PDEATHSIG, SIGKILL) outlives exec; so does the pid, which a supervising process would change.
_DIE_WITH_PARENT = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execv(sys.argv[1], sys.argv[1:])"


def unavailable(what: str) -> NoReturn:
    """Skips the test that asked, with a line saying what is missing; fails it where servers are required."""
    reason = f"{what} is not installed: the tests on it DO NOT RUN (make test installs it)"
    if os.environ.get("PERSON_REPO_REQUIRE_SERVERS") == "1":
        pytest.fail(f"{reason}, and PERSON_REPO_REQUIRE_SERVERS=1", pytrace=False)
    pytest.skip(reason)


def find_binary(name: str) -> str:
    """The path of a program, looked for where servers are put too; ``unavailable`` where it is not installed."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])
    return shutil.which(name, path=path) or unavailable(name)


def free_port() -> int:
    """A TCP port of the loopback interface that nobody has; somebody may take it before its user does."""
    with socket.create_server((HOST, 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


@dataclass(frozen=True)
class Tls:
    """What a server needs for TLS, as files: its certificate, which may name any host, and that one's key; and the
    authority that signed it, and that signs the clients' certificates where the server asks for them.
    """

    ca: Path
    certificate: Path
    key: Path

    def wrap(self, connection: socket.socket) -> ssl.SSLSocket:
        """The connection over TLS, from a client that takes any certificate, and shows the server's own."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.load_cert_chain(self.certificate, self.key)
        return context.wrap_socket(connection)


class Server:
    """One server process: started, stopped, killed, paused and restarted at will, always on the same address."""

    patience = 30.0
    """Seconds a start may take."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        """The program and its arguments, the address included."""
        raise NotImplementedError

    def answers(self) -> bool:
        """Whether the server takes requests."""
        raise NotImplementedError

    def last_words(self) -> str:
        """What the server wrote before it ended, as far as it is kept."""
        return ""

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        if self._process is None:
            raise RuntimeError(f"{type(self).__name__} is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process exists, paused or not."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> Self:
        """Starts the process and returns once it answers."""
        if self.running:
            return self
        self._process = _starter.submit(_start, self.command()).result()
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
        """Ends the process in its own time, at most 10 s."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Ends the process at once, as a crash does."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Kills the process and starts a new one on the same address: a new incarnation."""
        self.kill()
        self.start()

    def pause(self) -> None:
        """Stops the process in its tracks: connections stay open, nothing is answered."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Lets a paused process go on."""
        os.kill(self.pid, signal.SIGCONT)

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


class ServerEndedError(Exception):
    """A server ended, or stayed silent, where it should have started."""


class Memcached(Server):
    """A memcached of one thread, on ``port`` of the loopback interface or on a unix ``socket_path``.

    ``url`` is what stands after ``memcached://``: ``host:port``, or the path of the socket. ``tls``: it talks TLS, and
    with ``clients`` only to those who show a certificate.
    """

    def __init__(
        self,
        *,
        port: int | None = None,
        socket_path: Path | None = None,
        tls: Tls | None = None,
        clients: bool = False,
    ) -> None:
        super().__init__()
        self._program = find_binary("memcached")
        self._tls = tls
        self._clients = clients
        self.socket_path = socket_path
        self.port = port or (0 if socket_path else free_port())

    @property
    def url(self) -> str:
        """The server's place in a cache URL."""
        return str(self.socket_path) if self.socket_path else f"{HOST}:{self.port}"

    def command(self) -> list[str]:
        """One thread; no UDP; as the user we are, where that is root."""
        place = ["-s", str(self.socket_path)] if self.socket_path else ["-l", HOST, "-p", str(self.port), "-U", "0"]
        user = ["-u", "root"] if os.geteuid() == 0 else []
        return [self._program, "-t", "1", "-m", "64", *place, *user, *self._tls_options()]

    def _tls_options(self) -> list[str]:
        if self._tls is None:
            return []
        files = f"ssl_chain_cert={self._tls.certificate},ssl_key={self._tls.key},ssl_ca_cert={self._tls.ca}"
        return ["-Z", "-o", f"{files},ssl_verify_mode={2 if self._clients else 0}"]

    def answers(self) -> bool:
        """Whether it is *this* process that tells its version, not another one on a port that was taken."""
        try:
            return f"STAT pid {self.pid}\r\n" in self.ask("stats")
        except OSError:
            return False

    def ask(self, request: str) -> str:
        """The answer to one command of one line, such as ``stats`` or ``flush_all``."""
        family, address = (socket.AF_UNIX, str(self.socket_path)) if self.socket_path else (
            socket.AF_INET, (HOST, self.port)
        )  # fmt: skip
        with ExitStack() as stack:
            connection = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            connection.settimeout(5)
            connection.connect(address)
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

    def flush(self) -> None:
        """Drops every item; the process, and with it the incarnation, stays."""
        self.ask("flush_all")


class MariaDB(Server):
    """A MariaDB over a data directory of its own in ``folder``; user ``root`` without a password.

    ``url`` is a SQLAlchemy URL without a database. The server's own collation is MariaDB's default, which folds case
    and padding: a table that forgets its collation shows. ``tls``: it talks nothing else.
    """

    patience = 60.0

    def __init__(self, folder: Path, *, port: int | None = None, tls: Tls | None = None) -> None:
        super().__init__()
        self._program = find_binary("mariadbd")
        self._folder = folder
        self._tls = tls
        self._user = ["--user=root"] if os.geteuid() == 0 else []
        self.port = port or free_port()

    @property
    def url(self) -> sa.URL:
        """Where it answers, over PyMySQL."""
        url = sa.make_url(f"mysql+pymysql://root@{HOST}:{self.port}/?charset=utf8mb4")
        return url if self._tls is None else url.update_query_dict({"ssl_ca": str(self._tls.ca)})

    def install(self) -> Self:
        """Fills the data directory; once, before the first start."""
        installer = find_binary("mariadb-install-db")
        command = [installer, "--no-defaults", f"--datadir={self._folder / 'db'}", "--skip-test-db", *self._user]
        done = subprocess.run(
            [*command, "--auth-root-authentication-method=normal"], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise ServerEndedError(f"{installer} failed:\n{done.stdout}{done.stderr}")
        return self

    def command(self) -> list[str]:
        """Everything that costs a disk flush is off: the directory does not outlive the tests."""
        return [
            self._program,
            "--no-defaults",
            f"--datadir={self._folder / 'db'}",
            f"--socket={self._folder / 'sock'}",
            f"--pid-file={self._folder / 'pid'}",
            f"--log-error={self._folder / 'log'}",
            f"--bind-address={HOST}",
            f"--port={self.port}",
            "--skip-name-resolve",
            *self._tls_options(),
            "--skip-log-bin",
            "--sync-binlog=0",
            "--performance-schema=OFF",
            "--max-connections=300",
            "--max-allowed-packet=64M",
            "--innodb-buffer-pool-size=64M",
            "--innodb-flush-log-at-trx-commit=0",
            "--innodb-doublewrite=0",
            "--character-set-server=utf8mb4",
            *self._user,
        ]

    def _tls_options(self) -> list[str]:
        if self._tls is None:
            return ["--skip-ssl"]
        return [
            f"--ssl-ca={self._tls.ca}",
            f"--ssl-cert={self._tls.certificate}",
            f"--ssl-key={self._tls.key}",
            "--require-secure-transport=ON",
        ]

    def last_words(self) -> str:
        """The end of the error log."""
        log = self._folder / "log"
        return log.read_text(errors="replace")[-4000:] if log.exists() else ""

    def answers(self) -> bool:
        """Whether *this* process lets root in, not another one on a port that was taken."""
        tls = {"ssl_ca": str(self._tls.ca)} if self._tls else {"ssl_disabled": True}
        try:
            with pymysql.connect(
                host=HOST, port=self.port, user="root", connect_timeout=5, read_timeout=5, **tls
            ) as database:
                cursor = database.cursor()
                cursor.execute("SELECT @@pid_file")
                return cursor.fetchone() == (str(self._folder / "pid"),)
        except (pymysql.Error, OSError):
            return False


@contextmanager
def memcached(count: int = 1, *, tls: Tls | None = None, clients: bool = False) -> Iterator[list[Memcached]]:
    """``count`` memcached processes, ended with the block."""
    servers: list[Memcached] = []
    try:
        while len(servers) < count:
            servers.append(_on_a_free_port(lambda: Memcached(tls=tls, clients=clients)))
        yield servers
    finally:
        for server in servers:
            server.kill()


def memcached_talks_tls() -> bool:
    """Whether the installed memcached was built with TLS."""
    told = subprocess.run([find_binary("memcached"), "-h"], capture_output=True, text=True, check=False).stdout
    return "--enable-ssl" in told


@contextmanager
def mariadb(*, tls: Tls | None = None) -> Iterator[MariaDB]:
    """A MariaDB with no database of ours in it, ended and removed with the block."""
    find_binary("mariadbd")
    # Short, and not below pytest's folder: the path of a unix socket has a limit of 108 bytes.
    with tempfile.TemporaryDirectory(prefix="person_repo-", ignore_cleanup_errors=True) as folder:
        place = Path(folder)
        MariaDB(place).install()
        server = _on_a_free_port(lambda: MariaDB(place, tls=tls))
        try:
            yield server
        finally:
            server.kill()  # nothing in the directory is worth a tidy end


def _on_a_free_port(make: Callable[[], S], attempts: int = 5) -> S:
    try:
        return make().start()
    except ServerEndedError:  # somebody may have taken the port since it was found free
        if attempts <= 1:
            raise
        return _on_a_free_port(make, attempts - 1)


def _start(command: list[str]) -> subprocess.Popen[bytes]:
    wrapper = [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT] if sys.platform == "linux" else []
    process = subprocess.Popen(
        [*wrapper, *command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    if not wrapper:
        atexit.register(process.kill)
    return process
