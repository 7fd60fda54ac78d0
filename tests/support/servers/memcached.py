"""memcached, as the system has it or in another version."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from support.servers.finding import program_of
from support.servers.programs import MEMCACHED, Program

from person_repo.testing import servers
from person_repo.testing.servers import Tls, started_on_a_free_port

__all__ = ["Memcached", "memcached", "memcached_talks_tls"]


class Memcached(servers.Memcached):
    """A memcached; skips the test if there is none in this version."""

    def __init__(self, *, version: Program = MEMCACHED, **options: Any) -> None:
        super().__init__(program=program_of(version), **options)

    @property
    def version(self) -> str:
        """The version that the running server says it has, as in ``1.6.18``."""
        return self.ask("version").split()[1]


@contextmanager
def memcached(
    count: int = 1, *, tls: Tls | None = None, clients: bool = False, version: Program = MEMCACHED
) -> Iterator[list[Memcached]]:
    """``count`` memcached processes, ended with the block."""
    started: list[Memcached] = []
    try:
        while len(started) < count:
            started.append(started_on_a_free_port(lambda: Memcached(tls=tls, clients=clients, version=version)))
        yield started
    finally:
        for server in started:
            server.kill()


def memcached_talks_tls() -> bool:
    """True if the memcached of the tests was built with TLS."""
    usage = subprocess.run([program_of(MEMCACHED), "-h"], capture_output=True, text=True, check=False).stdout
    return "--enable-ssl" in usage
