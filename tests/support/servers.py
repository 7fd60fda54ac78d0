"""Real servers for the tests, on free loopback ports: MariaDB and memcached, as processes of this suite.

A server that cannot be had skips the tests that need it, and fails them under ``PERSON_REPO_REQUIRE_SERVERS=1``. One
that ``make test`` can do without fails them under ``PERSON_REPO_REQUIRE_SERVERS=all`` only.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, Self

import pymysql
import pytest
import sqlalchemy as sa

from person_repo.testing import servers
from person_repo.testing.servers import (
    HOST,
    Server,
    ServerEndedError,
    Tls,
    free_port,
    path_of,
    started_on_a_free_port,
)

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


def unavailable(what: str, *, demanded: bool = True) -> NoReturn:
    """Skips the test that asked, with a line saying what is missing; fails it where servers are required.

    ``demanded``: False for a server that ``make test`` neither installs nor requires.
    """
    remedy = "make test installs it" if demanded else "install it, or give the URL of another one"
    reason = f"{what} is not installed: the tests on it DO NOT RUN ({remedy})"
    required = os.environ.get("PERSON_REPO_REQUIRE_SERVERS")
    if required == "all" or (required == "1" and demanded):
        pytest.fail(f"{reason}, and PERSON_REPO_REQUIRE_SERVERS={required}", pytrace=False)
    pytest.skip(reason)


def find_binary(name: str) -> str:
    """The path of a program, looked for where servers are put too; ``unavailable`` where it is not installed."""
    return path_of(name) or unavailable(name)


class Memcached(servers.Memcached):
    """A memcached; skips the test if it is not installed."""

    def __init__(self, **options: Any) -> None:
        find_binary("memcached")
        super().__init__(**options)


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
        """Its address, over PyMySQL."""
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
            "--innodb-log-file-size=16M",
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
        """True if *this* process lets root in, and not another one on a port that was taken."""
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
    started: list[Memcached] = []
    try:
        while len(started) < count:
            started.append(started_on_a_free_port(lambda: Memcached(tls=tls, clients=clients)))
        yield started
    finally:
        for server in started:
            server.kill()


def memcached_talks_tls() -> bool:
    """True if the installed memcached was built with TLS."""
    usage = subprocess.run([find_binary("memcached"), "-h"], capture_output=True, text=True, check=False).stdout
    return "--enable-ssl" in usage


@contextmanager
def mariadb(*, tls: Tls | None = None) -> Iterator[MariaDB]:
    """A MariaDB with no database of ours in it, ended and removed with the block."""
    find_binary("mariadbd")
    # Short, and not below pytest's folder: the path of a unix socket has a limit of 108 bytes.
    with tempfile.TemporaryDirectory(prefix="person_repo-", ignore_cleanup_errors=True) as folder:
        place = Path(folder)
        MariaDB(place).install()
        server = started_on_a_free_port(lambda: MariaDB(place, tls=tls))
        try:
            yield server
        finally:
            server.kill()  # nothing in the directory is worth a tidy end
