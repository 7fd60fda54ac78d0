"""Programs of the servers that the tests start: where they are; run as a script, installs those that are missing.

    python tests/support/servers/programs.py        (make servers)

A program that is on the machine is taken, if its version fits. What is missing is installed by apt, for root; what apt
has in no fitting version is unpacked from another suite of the machine's Debian mirror, into a cache folder of the user
(``unpack``). Nothing else is imported here: the script runs in any Python.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "MARIADB",
    "MEMCACHED",
    "MYSQL",
    "NEWER_MARIADB",
    "NEWER_MEMCACHED",
    "POSTGRESQL",
    "PROGRAMS",
    "Program",
    "cache_folder",
    "version_of",
]

_REQUIRE = "PERSON_REPO_REQUIRE_SERVERS"
"""1: all servers are demanded. 0: none is. Else those are that every run needs."""

_OF_SERVERS = ("/usr/sbin", "/usr/local/sbin")
"""Folders of servers, which are not on every user's PATH."""

_OF_POSTGRESQL = (Path("/usr/lib/postgresql"), Path("/usr/local/lib/postgresql"), Path("/opt/postgresql"))
"""Folders with one of each installed version, whose programs are on nobody's PATH (Debian)."""

_NO_CLUSTER = Path("/etc/postgresql-common/createcluster.conf")
"""Has Debian's package install the programs alone, and start no server."""

_VERSION = re.compile(r"(?:\bVer|^memcached|\(PostgreSQL\)) (\d+(?:\.\d+)*)")

Version = tuple[int, ...]


@dataclass(frozen=True)
class Program:
    """One program of a server, in versions from ``at_least`` to before ``below``.

    ``package``: Debian's, which brings it as the first of ``paths``; ``suites``: those that have a fitting version.
    ``apt``: what root installs. ``variable``: names a server to be used instead; ``path_variable``: the program.
    ``demanded``: no run goes without it.
    """

    name: str
    command: str
    at_least: Version
    package: str
    paths: tuple[str, ...]
    suites: tuple[str, ...]
    below: Version = ()
    apt: str = ""
    variable: str = ""
    path_variable: str = ""
    demanded: bool = False

    @property
    def folder(self) -> Path:
        """The folder in the cache into which the package is unpacked."""
        return cache_folder() / "servers" / f"{self.command}-{_shown(self.at_least)}"

    def find(self) -> str | None:
        """The path of a fitting program; None if there is none."""
        named = os.environ.get(self.path_variable)
        if named:
            return named if self.fits(named) else None
        candidates = [installed(self.command), shutil.which(str(self.folder / self.paths[0]))]
        return next((path for path in candidates if path is not None and self.fits(path)), None)

    def fits(self, path: str) -> bool:
        """True if the program is of this kind, and its version is wanted."""
        version = version_of(path)
        # Debian's mysqld is a link to mariadbd.
        if not version or _is_mariadb(path) != (self.command == "mariadbd"):
            return False
        return self.at_least <= version and (not self.below or version < self.below)

    def is_had(self) -> bool:
        """True if the tests on it can run."""
        return bool(os.environ.get(self.variable)) or self.find() is not None

    def is_demanded(self) -> bool:
        """True if a run without it fails."""
        return self.demanded if os.environ.get(_REQUIRE, "") not in ("0", "1") else os.environ[_REQUIRE] == "1"

    def remedy(self) -> str:
        """One line: what to do if it is missing."""
        install = f"install {self.command}"
        if named := os.environ.get(self.path_variable):
            return f"{self.path_variable} names {named}, which is none of {_shown(self.at_least)} or newer"
        return f"{install}, or set {self.variable} to one in which databases may be made" if self.variable else install


MYSQL = Program(
    "MySQL 9.7",
    "mysqld",
    (9, 7),
    package="mysql-server-core",
    paths=("usr/sbin/mysqld",),
    suites=("sid",),
    variable="PERSON_REPO_TEST_MYSQL_URL",
    demanded=True,
)
MARIADB = Program(
    "MariaDB 10.11",
    "mariadbd",
    (10, 11),
    below=(11,),
    package="mariadb-server-core",
    paths=("usr/sbin/mariadbd",),
    suites=("bookworm",),
    apt="mariadb-server-core",
    variable="PERSON_REPO_TEST_MARIADB_URL",
)
NEWER_MARIADB = Program(
    "MariaDB 11.8",
    "mariadbd",
    (11, 8),
    package="mariadb-server-core",
    paths=("usr/sbin/mariadbd",),
    suites=("trixie", "sid"),
    variable="PERSON_REPO_TEST_NEWER_MARIADB_URL",
)
MEMCACHED = Program(
    "memcached",
    "memcached",
    (1, 6, 10),
    package="memcached",
    paths=("usr/bin/memcached",),
    suites=("bookworm", "trixie", "sid"),
    apt="memcached",
    path_variable="PERSON_REPO_TEST_MEMCACHED",
    demanded=True,
)
NEWER_MEMCACHED = Program(
    "memcached 1.6.45",
    "memcached",
    (1, 6, 45),
    package="memcached",
    paths=("usr/bin/memcached",),
    suites=("sid",),
)
POSTGRESQL = Program(
    "PostgreSQL 15",
    "postgres",
    (15,),
    package="postgresql-15",
    paths=("usr/lib/postgresql/15/bin/postgres", "usr/lib/postgresql/15/bin/initdb"),
    suites=("bookworm",),
    apt="postgresql",
    variable="PERSON_REPO_TEST_POSTGRESQL_URL",
)
PROGRAMS = (MYSQL, MARIADB, NEWER_MARIADB, POSTGRESQL, MEMCACHED, NEWER_MEMCACHED)


def cache_folder() -> Path:
    """The folder for what is made once on a machine, and not in each checkout."""
    if given := os.environ.get("PERSON_REPO_TEST_CACHE"):
        return Path(given).absolute()
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches) / "person_repo"


def installed(command: str) -> str | None:
    """The path of a program of the system's; None if it has none of this name."""
    versions = [folder for place in _OF_POSTGRESQL for folder in place.glob("*/bin")]
    elsewhere = [*_OF_SERVERS, *map(str, sorted(versions, reverse=True))]
    return shutil.which(command) or shutil.which(command, path=os.pathsep.join(elsewhere))


def version_of(path: str) -> Version:
    """The version that a program says it has; empty if it does not run."""
    found = _VERSION.search(_words_of(path))
    return tuple(map(int, found[1].split("."))) if found else ()


def _is_mariadb(path: str) -> bool:
    return "-MariaDB" in _words_of(path)


@functools.cache
def _words_of(path: str) -> str:
    try:
        return subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
    except OSError:
        return ""


def _shown(version: Version) -> str:
    return ".".join(map(str, version))


# make servers


def main() -> int:
    """Installs what is missing, and says what stays so. The exit status: 1 if that is demanded."""
    _install([program for program in PROGRAMS if not program.is_had()])
    reasons = {program: reason for program in PROGRAMS if (reason := _unpack(program))}
    for program, reason in reasons.items():
        print(f"{program.name} IS MISSING: {reason}\n    {program.remedy()}", file=sys.stderr)
    if any(program.is_demanded() for program in reasons):
        print(f"The tests need it. To go on without: {_REQUIRE}=0", file=sys.stderr)
        return 1
    if reasons:
        print("Going on without: THE TESTS ON THEM DO NOT RUN.", file=sys.stderr)
    return 0


_QUIET_APT = """\
[ -e "$0" ] || { mkdir -p "${0%/*}" && echo 'create_main_cluster = false' > "$0"; }
DEBIAN_FRONTEND=noninteractive exec apt-get "$@"
"""


def _install(missing: list[Program]) -> None:
    # Not what the system has in another version.
    packages = sorted({program.apt for program in missing if program.apt and not installed(program.command)})
    apt = _apt()
    if not packages or not apt:
        return
    print(f"installing {', '.join(packages)} by apt-get")
    keep = ["-o", "Dpkg::Options::=--force-confold"]
    for command in (["update", "-q"], ["install", "-qy", "--no-install-recommends", *keep, *packages]):
        if subprocess.run([*apt, *command], stdout=subprocess.DEVNULL, check=False).returncode != 0:
            return


def _apt() -> list[str]:
    """apt-get as root has it, without a question and without a server that starts; empty if this user may not."""
    if not shutil.which("apt-get"):
        return []
    apt = ["sh", "-c", _QUIET_APT, str(_NO_CLUSTER)]
    if os.geteuid() == 0:
        return apt
    sudo = shutil.which("sudo") and subprocess.run(["sudo", "-n", "true"], capture_output=True, check=False)
    return ["sudo", "-n", *apt] if sudo and sudo.returncode == 0 else []


def _unpack(program: Program) -> str:
    """The reason why there is no such program, even now; empty if there is one."""
    if program.is_had():
        return ""
    script = Path(__file__).resolve().parent.parent / "unpack"
    arguments = [program.folder, program.package, _shown(program.at_least), ",".join(program.paths), *program.suites]
    try:
        done = subprocess.run([str(script), *map(str, arguments)], stderr=subprocess.PIPE, text=True, check=False)
    except OSError as exc:  # no bash
        return str(exc)
    if done.returncode != 0:
        return done.stderr.strip()
    return "" if program.is_had() else f"{program.folder / program.paths[0]} does not run"


if __name__ == "__main__":
    sys.exit(main())
