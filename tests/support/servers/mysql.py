"""MySQL and MariaDB: one protocol, two families of servers."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self, TypeVar

import pymysql
import sqlalchemy as sa
from support.servers.finding import program_of
from support.servers.programs import MARIADB, MYSQL, Program, version_of
from support.servers.templates import copied

from person_repo.testing.servers import HOST, Server, ServerEndedError, Tls, free_port, started_on_a_free_port

__all__ = ["MariaDB", "MySQL", "mariadb", "mysql"]

S = TypeVar("S", bound="_Server")

# Everything that costs a disk flush is off: the directory does not outlive the tests.
_OPTIONS: Final = (
    f"--bind-address={HOST}",
    "--skip-name-resolve",
    "--skip-log-bin",
    "--sync-binlog=0",
    "--performance-schema=OFF",
    "--max-connections=300",
    "--max-allowed-packet=64M",
    "--innodb-buffer-pool-size=64M",
    "--innodb-flush-log-at-trx-commit=0",
    "--innodb-doublewrite=0",
    "--character-set-server=utf8mb4",
)


class _Server(Server):
    """A server over a data directory of its own in ``folder``; user ``root`` without a password.

    ``url`` is a SQLAlchemy URL without a database. The server's own collation is its default, which folds case: a table
    that forgets its collation shows. ``tls``: it talks nothing else.
    """

    patience = 60.0

    def __init__(self, folder: Path, *, version: Program, port: int | None = None, tls: Tls | None = None) -> None:
        super().__init__()
        self._program = program_of(version)
        self._folder = folder
        self._tls = tls
        self.port = port or free_port()

    @property
    def url(self) -> sa.URL:
        """Its address, over PyMySQL."""
        url = sa.make_url(f"mysql+pymysql://root@{HOST}:{self.port}/?charset=utf8mb4")
        return url if self._tls is None else url.update_query_dict({"ssl_ca": str(self._tls.ca)})

    def install(self) -> Self:
        """Fills the data directory; once, before the first start."""
        raise NotImplementedError

    def command(self) -> list[str]:
        """Everything in ``folder``, and nothing on a disk for long."""
        return [
            *self._base(self._folder / "db"),
            f"--socket={self._folder / 'sock'}",
            f"--pid-file={self._folder / 'pid'}",
            f"--log-error={self._folder / 'log'}",
            f"--port={self.port}",
            *_OPTIONS,
            *self._own_options(),
            *self._tls_options(),
        ]

    def _base(self, data: Path) -> list[str]:
        user = ["--user=root"] if os.geteuid() == 0 else []
        return [self._program, "--no-defaults", f"--basedir={self._home}", f"--datadir={data}", *user]

    @property
    def _home(self) -> Path:
        # Of the program itself where that is a link (Homebrew), and of its folder where it was unpacked.
        return Path(self._program).resolve().parent.parent

    def _own_options(self) -> list[str]:
        raise NotImplementedError

    def _tls_options(self) -> list[str]:
        if self._tls is None:
            return []
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


class MariaDB(_Server):
    """A MariaDB, by default the oldest that the package is tested on."""

    def __init__(
        self, folder: Path, *, version: Program = MARIADB, port: int | None = None, tls: Tls | None = None
    ) -> None:
        super().__init__(folder, version=version, port=port, tls=tls)

    def install(self) -> Self:
        """Runs the statements of ``mariadb-install-db``, which an unpacked server cannot."""
        data = self._folder / "db"
        data.mkdir(mode=0o700)
        # Each statement of ours on a line: the server reads so what is sent to it.
        first = "CREATE DATABASE mysql;\nUSE mysql;\nSET @auth_root_socket = NULL;\n"
        done = subprocess.run(
            # The tables of help and of performance have another engine than the default.
            [*self._base(data), "--bootstrap", "--enforce-storage-engine=", *self._own_options()],
            input=first + "".join(script.read_text(encoding="utf-8") for script in self._scripts()),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise ServerEndedError(f"{self._program} --bootstrap failed:\n{done.stdout}{done.stderr}")
        return self

    def _scripts(self) -> list[Path]:
        for share in (self._home / "share/mariadb", self._home / "share/mysql"):
            for name in ("mariadb", "mysql"):
                if (share / f"{name}_system_tables.sql").exists():
                    ours = ("system_tables", "performance_tables", "system_tables_data")
                    scripts = [share / f"{name}_{part}.sql" for part in ours]
                    return [*scripts, share / "maria_add_gis_sp_bootstrap.sql", share / f"{name}_sys_schema.sql"]
        raise ServerEndedError(f"no mariadb_system_tables.sql in {self._home / 'share'}")

    def _own_options(self) -> list[str]:
        return [f"--tmpdir={self._folder}", "--innodb-log-file-size=16M", "--max-allowed-packet=64M"]

    def _tls_options(self) -> list[str]:
        return super()._tls_options() or ["--skip-ssl"]


class MySQL(_Server):
    """A MySQL. It offers TLS, which its own clients and PyMySQL take."""

    def __init__(
        self, folder: Path, *, version: Program = MYSQL, port: int | None = None, tls: Tls | None = None
    ) -> None:
        super().__init__(folder, version=version, port=port, tls=tls)

    def install(self) -> Self:
        """Copies a data directory that was initialised before: seconds become tenths."""
        name = f"mysql-{'.'.join(map(str, version_of(self._program)))}"
        copied(name, _INITIALISED, self._initialise, self._folder / "db")
        return self

    def _initialise(self, data: Path) -> None:
        done = subprocess.run(
            [
                *self._base(data),
                "--initialize-insecure",
                f"--init-file={_written(data.parent / 'init.sql', _INITIALISED)}",
                *self._own_options(),
                "--innodb-redo-log-capacity=8M",
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise ServerEndedError(f"{self._program} --initialize failed:\n{done.stdout}{done.stderr}")
        (data / "auto.cnf").unlink()  # the server's own id, of which each copy makes another

    def _own_options(self) -> list[str]:
        share = self._home / "share/mysql"
        unpacked = [f"--lc-messages-dir={share}", f"--character-sets-dir={share / 'charsets'}"]
        return [
            *(unpacked if share.is_dir() else []),
            f"--tmpdir={self._folder}",
            "--mysqlx=OFF",
            "--secure-file-priv=NULL",
            "--innodb-redo-log-capacity=32M",
            # For few cores and many servers: no threads that spin, no requests of the kernel's that run out.
            "--innodb-log-writer-threads=OFF",
            "--innodb-use-native-aio=OFF",
        ]


_INITIALISED: Final = """\
CREATE USER root@'127.0.0.1' IDENTIFIED WITH caching_sha2_password BY '';
GRANT ALL ON *.* TO root@'127.0.0.1' WITH GRANT OPTION;
"""
"""root over TCP: names are not resolved."""


@contextmanager
def mariadb(*, tls: Tls | None = None, version: Program = MARIADB) -> Iterator[MariaDB]:
    """A MariaDB with no database of ours in it, ended and removed with the block."""
    with _folder() as folder, _running(MariaDB(folder, version=version, tls=tls).install()) as server:
        yield server


@contextmanager
def mysql(*, tls: Tls | None = None) -> Iterator[MySQL]:
    """A MySQL with no database of ours in it, ended and removed with the block."""
    with _folder() as folder, _running(MySQL(folder, tls=tls).install()) as server:
        yield server


@contextmanager
def _folder() -> Iterator[Path]:
    # Short, and not below pytest's folder: the path of a unix socket has a limit of 108 bytes.
    with tempfile.TemporaryDirectory(prefix="person_repo-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@contextmanager
def _running(server: S) -> Iterator[S]:
    def on_another_port() -> S:
        server.port = free_port()
        return server

    started_on_a_free_port(on_another_port)
    try:
        yield server
    finally:
        server.kill()  # nothing in the directory is worth a tidy end


def _written(file: Path, text: str) -> Path:
    file.write_text(text, encoding="utf-8")
    return file
