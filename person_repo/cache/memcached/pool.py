"""The servers of one cache as this process reaches them: a connection of each thread to each, a breaker for each.

An exchange that fails costs its connection, never the caller more than ``CacheUnavailableError``: it is counted and
logged here, once when a server begins to fail and once when it answers again.
"""

from __future__ import annotations

import logging
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from person_repo.cache.breaker import Breaker
from person_repo.cache.memcached.connection import CLOSED_BY_SERVER, IDLE, Budget, Connection
from person_repo.cache.memcached.operations import Operation
from person_repo.cache.memcached.wire import Reply, batches
from person_repo.exceptions import CacheError, CacheUnavailableError
from person_repo.observability.counters import Counters
from person_repo.settings import CacheSettings

__all__ = ["Pool"]

T = TypeVar("T")
R = TypeVar("R")

logger = logging.getLogger("person_repo.cache")


class _OpenCircuitError(CacheUnavailableError):
    """The server has failed too often just now to be asked."""


class _Local(threading.local):
    """One thread's own: its connections, by server."""

    def __init__(self) -> None:
        self.connections: dict[str, Connection] = {}


class Pool:
    """Connections to servers; safe for threads, which share breakers and no connection.

    A server that fails ``breaker_failures`` times in a row is left alone, but for one probe every ``breaker_reset``
    seconds. ``addresses``: the address of a server (``host:port``) if it is not reached at its name. ``clock``: seconds
    that never go back.
    """

    def __init__(
        self,
        servers: Sequence[str],
        settings: CacheSettings,
        counters: Counters,
        tls: ssl.SSLContext | None,
        clock: Callable[[], float],
    ) -> None:
        self.settings = settings
        self.addresses: dict[str, str] = {}
        self._servers = servers
        self._counters = counters
        self._tls = tls
        self._clock = clock
        self.breakers: dict[str, Breaker] = {}
        self._down: set[str] = set()
        self._refusing: set[str] = set()
        self.begin()

    def begin(self) -> None:
        """Starts without connections, and with locks that no thread holds: at first, and in a forked child."""
        failures, reset = self.settings.breaker_failures, self.settings.breaker_reset
        for server in self._servers:
            self.breakers[server] = Breaker(failures=failures, reset=reset, clock=self._clock)
        self._local = _Local()

    # Connections

    def ready(self, server: str) -> Connection | None:
        """Fast path of ``connection``: this thread's, if it is idle and the server has not failed."""
        connection = self._local.connections.get(server)
        if connection is None or connection.state is not IDLE or self.breakers[server].is_failing:
            return None
        return connection

    def connection(self, server: str, budget: Budget) -> Connection:
        """This thread's connection to a server, opened if need be. Raises ``CacheUnavailableError`` if that fails, or
        if the server's circuit is open and this is not the probe.
        """
        ready = self.ready(server)
        if ready is not None:
            return ready
        if not self.breakers[server].allows():
            raise _OpenCircuitError(f"memcached {server}: left alone after failures")
        connections = self._local.connections
        connection = connections.get(server)
        if connection is None or connection.state is not IDLE:
            if connection is not None:
                connections.pop(server).close()
            connection = Connection(server, self.settings, self._tls, budget, self.addresses.get(server))
            connections[server] = connection
        return connection

    def connected(self, work: Mapping[str, Sequence[T]], budget: Budget) -> dict[Connection, Sequence[T]]:
        """The work of each server by this thread's connection to it, without servers that cannot be reached."""
        connected: dict[Connection, Sequence[T]] = {}
        for server, items in work.items():
            if not items:
                continue
            try:
                connected[self.ready(server) or self.connection(server, budget)] = items
            except CacheUnavailableError as exc:
                self.failed(server, exc)
        return connected

    def is_usable(self, connection: Connection) -> bool:
        """True for an idle connection of this thread. On another one a CAS id may be somebody else's: the server may
        have restarted in between.
        """
        return connection.state is IDLE and self._local.connections.get(connection.server) is connection

    def usable(self, work: Mapping[Connection, list[T]]) -> dict[Connection, list[T]]:
        """The work of those connections that are usable."""
        usable: dict[Connection, list[T]] = {}
        for connection, items in work.items():
            if self.is_usable(connection):
                usable[connection] = items
        return usable

    def close(self) -> None:
        """Closes this thread's connections."""
        for connection in self._local.connections.values():
            connection.close()
        self._local.connections.clear()

    # Exchanges

    def exchange(self, connection: Connection, request: bytes, replies: int, budget: Budget) -> list[Reply]:
        """One exchange with one server. Raises ``CacheUnavailableError``; the caller passes it to ``failed``."""
        self._counters.round_trips += 1
        received = connection.exchange(request, replies, budget)
        if self.breakers[connection.server].is_failing:
            self.answered(connection.server)
        return received

    def run(self, connection: Connection, operation: Operation[R], budget: Budget) -> R:
        """The result of an operation, after its exchanges with one server. Raises as ``exchange`` does."""
        try:
            request, replies = next(operation)
            while True:
                request, replies = operation.send(self.exchange(connection, request, replies, budget))
        except StopIteration as done:
            result: R = done.value
            return result

    def exchange_with_each(
        self,
        work: Mapping[Connection, Sequence[T]],
        request: Callable[[T], bytes],
        replies: int,
        budget: Budget,
        head: bytes = b"",
    ) -> Iterator[tuple[Connection, list[T], list[Reply]]]:
        """Asks each server for its part, all at once: everything is sent before the first answer is read.

        Yields, batch by batch, the items that were asked for and their replies: ``replies`` to each, after one to the
        ``head``. A server that fails is left out from there on.
        """
        if len(work) == 1:
            ((connection, items),) = work.items()
            if len(items) == 1:  # Most transactions change one item.
                whole = head + request(items[0])
                return self._exchange_about_one(connection, items[0], whole, replies + bool(head), budget)
        parts = {
            connection: ((part, head + requests) for part, requests in batches(items, request))
            for connection, items in work.items()
        }
        return self.in_turns(
            parts, lambda connection, items: connection.receive(len(items) * replies + bool(head), budget), budget
        )

    def _exchange_about_one(
        self, connection: Connection, item: T, request: bytes, replies: int, budget: Budget
    ) -> Iterator[tuple[Connection, list[T], list[Reply]]]:
        try:
            received = self.exchange(connection, request, replies, budget)
        except CacheUnavailableError as exc:
            self.failed(connection.server, exc)
        else:
            yield connection, [item], received

    def in_turns(
        self,
        parts: Mapping[Connection, Iterator[tuple[list[T], bytes]]],
        receive: Callable[[Connection, list[T]], R],
        budget: Budget,
    ) -> Iterator[tuple[Connection, list[T], R]]:
        """Sends each server its next part, of items and their request, then receives from each, until all are done."""
        waiting = dict(parts)
        while waiting:
            sent: list[tuple[Connection, list[T]]] = []
            for connection, rest in list(waiting.items()):
                items, request = next(rest, (None, b""))
                if items is None:
                    del waiting[connection]
                    continue
                try:
                    self._counters.round_trips += 1
                    connection.send(request, budget)
                    sent.append((connection, items))
                except CacheUnavailableError as exc:
                    waiting.pop(connection, None)
                    self.failed(connection.server, exc)
            for connection, items in sent:
                try:
                    received = receive(connection, items)
                except CacheUnavailableError as exc:
                    waiting.pop(connection, None)
                    self.failed(connection.server, exc)
                else:
                    if self.breakers[connection.server].is_failing:
                        self.answered(connection.server)
                    yield connection, items, received

    # Faults

    def answered(self, server: str) -> None:
        """Closes the circuit of a server that was failing."""
        self.breakers[server].succeeded()
        if server in self._down:
            self._down.discard(server)
            logger.info("memcached %s answers again", server)

    def failed(self, server: str, exc: CacheError) -> None:
        """Counts a failure, and closes this thread's connection to the server.

        Cases: the server was left alone; a connection that had served was closed, which a restart does to every
        thread's, and says nothing of the server; the server fails.
        """
        if isinstance(exc, _OpenCircuitError):
            self._counters.circuit_open += 1
            return
        self._counters.errors += 1
        used = self._local.connections.get(server)
        if used is not None:
            used.close()  # Its next bytes may be the answer to this exchange.
            if used.state is CLOSED_BY_SERVER:
                logger.debug("%s", exc)
                return
        self.breakers[server].failed()
        if server not in self._down:
            self._down.add(server)
            reason = exc if server in str(exc) else f"memcached {server}: {exc}"
            logger.warning("%s; reads go to the database until it answers", reason)

    def refused(self, server: str, words: Sequence[bytes]) -> None:
        """Counts a lease that a server answered to have no room for."""
        self._counters.errors += 1
        if server not in self._refusing:
            self._refusing.add(server)
            said = b" ".join(words)[:80].decode(errors="replace")
            logger.warning("memcached %s: %s; what is not cached there stays so until it takes items", server, said)

    def accepted(self, server: str) -> None:
        """Notes that a server has answered with a lease."""
        if self.breakers[server].is_failing:
            self.answered(server)
        if server in self._refusing:
            self._refusing.discard(server)
            logger.info("memcached %s takes items again", server)
