"""A real PostgreSQL for the tests, on a free loopback port, as a process of this suite."""

from __future__ import annotations

import importlib.util
import os
import pwd
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

import sqlalchemy as sa
from support.servers import unavailable
from support.servers.programs import POSTGRESQL

from person_repo.testing.servers import (
    HOST,
    Server,
    ServerEndedError,
    free_port,
    path_of,
    started_on_a_free_port,
)

__all__ = ["PostgreSQL", "postgresql"]

_ACCOUNTS = ("postgres", "nobody")
"""The users that run it for root, as whom it refuses to run: the first that exists."""


class PostgreSQL(Server):
    """A PostgreSQL over a data directory of its own in ``folder``; user ``postgres`` without a password.

    ``url`` is a SQLAlchemy URL of the database ``postgres``, over psycopg. The server's own collation is English, which
    sorts ``b`` before ``C``: a test that takes an order for granted shows.
    """

    patience = 60.0

    def __init__(self, folder: Path, *, port: int | None = None) -> None:
        super().__init__()
        self._programs = _programs()
        self._folder = folder
        self.account = _account()
        self.port = port or free_port()

    @property
    def url(self) -> sa.URL:
        """Its address, over psycopg."""
        return sa.make_url(f"postgresql+psycopg://postgres@{HOST}:{self.port}/postgres")

    @property
    def _data(self) -> Path:
        return self._folder / "db"

    def install(self) -> Self:
        """Fills the data directory; once, before the first start."""
        user, group = self.account or (None, None)
        if user is not None and group is not None:
            os.chown(self._folder, user, group)
        initdb = str(self._programs / "initdb")
        options = ["--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C.UTF-8"]
        if _version(self._programs) >= 15:
            options += ["--locale-provider=icu", "--icu-locale=en-US"]
        done = subprocess.run(
            [initdb, f"--pgdata={self._data}", *options],
            cwd=self._folder,
            user=user,
            group=group,
            extra_groups=None if user is None else [],
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise ServerEndedError(f"{initdb} failed:\n{done.stdout}{done.stderr}")
        return self

    def command(self) -> list[str]:
        """Everything that costs a disk flush is off: the directory does not outlive the tests."""
        settings = {
            "listen_addresses": HOST,
            "port": self.port,
            "unix_socket_directories": "",
            "logging_collector": "on",
            "log_directory": self._folder,
            "log_filename": "log",
            "fsync": "off",
            "synchronous_commit": "off",
            "full_page_writes": "off",
            "autovacuum": "off",
            "shared_buffers": "16MB",
            "max_connections": 300,
            "max_prepared_transactions": 20,
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [str(self._programs / "postgres"), "-D", str(self._data), *options]

    def last_words(self) -> str:
        """The end of the server's log."""
        log = self._folder / "log"
        return log.read_text(errors="replace")[-4000:] if log.exists() else ""

    def answers(self) -> bool:
        """True if *this* process lets us in, and not another one on a port that was taken."""
        import psycopg

        try:
            with psycopg.connect(self._conninfo, connect_timeout=5) as database:
                found = database.execute("SHOW data_directory").fetchone()
        except psycopg.Error:
            return False
        return found == (str(self._data),)

    @property
    def _conninfo(self) -> str:
        return f"host={HOST} port={self.port} user=postgres dbname=postgres"

    def stop(self) -> None:
        """Ends the process without waiting for its clients (a "fast shutdown")."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """Ends the process as a crash does (an "immediate shutdown"): the next start recovers.

        Not by SIGKILL, after which its children may go on for a while and keep the next start from the directory.
        """
        self._end(signal.SIGQUIT)

    def pause(self) -> None:
        """Stops the process and its children, each of which serves a connection."""
        super().pause()
        self._tell_children(signal.SIGSTOP)
        deadline = time.monotonic() + self.patience
        while any(not self._state_of(child).startswith("T") for child in self._children()):
            if time.monotonic() > deadline:
                raise ServerEndedError("a child of PostgreSQL does not stop")
            time.sleep(0.001)

    def resume(self) -> None:
        """Lets a paused process and its children go on."""
        self._tell_children(signal.SIGCONT)
        super().resume()

    def _end(self, how: signal.Signals) -> None:
        if self.running:
            self.resume()
        super()._end(how)

    def _tell_children(self, how: signal.Signals) -> None:
        for child in self._children():
            with suppress(ProcessLookupError):  # it has ended meanwhile
                os.kill(child, how)

    def _children(self) -> list[int]:
        return [int(pid) for pid in _said_by("ps", "-o", "pid=", "--ppid", self.pid).split()]

    def _state_of(self, child: int) -> str:
        return _said_by("ps", "-o", "state=", "-p", child) or "T"  # it has ended


@contextmanager
def postgresql() -> Iterator[PostgreSQL]:
    """A PostgreSQL with no database of ours in it, ended and removed with the block."""
    _programs()
    with tempfile.TemporaryDirectory(prefix="person_repo-", ignore_cleanup_errors=True) as folder:
        place = Path(folder)
        PostgreSQL(place).install()
        server = started_on_a_free_port(lambda: PostgreSQL(place))
        try:
            yield server
        finally:
            server.kill()  # nothing in the directory is worth a tidy end


def _programs() -> Path:
    """The folder of the newest installed version's programs; ``unavailable`` if there is none, or no driver."""
    if importlib.util.find_spec("psycopg") is None:
        unavailable("psycopg, the driver of PostgreSQL,")
    found = [Path(program).resolve().parent for program in [POSTGRESQL.find()] if program is not None]
    if pg_config := path_of("pg_config"):
        found.append(Path(_said_by(pg_config, "--bindir")))
    complete = [folder for folder in found if (folder / "postgres").exists() and (folder / "initdb").exists()]
    return max(complete, key=_version) if complete else unavailable(POSTGRESQL.name)


def _version(programs: Path) -> int:
    number = re.search(r"\) (\d+)", _said_by(programs / "postgres", "--version"))
    return int(number[1]) if number else 0


def _said_by(*command: object) -> str:
    return subprocess.run([*map(str, command)], capture_output=True, text=True, check=False).stdout.strip()


def _account() -> tuple[int, int] | None:
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name: (entry.pw_uid, entry.pw_gid) for entry in pwd.getpwall()}
    found = [known[name] for name in _ACCOUNTS if name in known]
    return found[0] if found else unavailable(f"a user {' or '.join(_ACCOUNTS)}, to run PostgreSQL,")
