"""Real servers for the tests, on free loopback ports, as processes of this suite.

A server that cannot be had skips the tests that need it, and fails them under ``PERSON_REPO_REQUIRE_SERVERS=1``.
``programs`` knows where their programs are.
"""

from __future__ import annotations

from support.servers.finding import find_binary, program_of, unavailable
from support.servers.memcached import Memcached, memcached, memcached_talks_tls
from support.servers.mysql import MariaDB, MySQL, mariadb, mysql

from person_repo.testing.servers import Server, ServerEndedError, Tls, free_port

__all__ = [
    "MariaDB",
    "Memcached",
    "MySQL",
    "Server",
    "ServerEndedError",
    "Tls",
    "find_binary",
    "free_port",
    "mariadb",
    "memcached",
    "memcached_talks_tls",
    "mysql",
    "program_of",
    "unavailable",
]
