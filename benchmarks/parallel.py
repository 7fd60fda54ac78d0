"""Hits by several threads of one process, and by several processes: one number of hits, divided among them."""

from __future__ import annotations

import functools
import multiprocessing
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from multiprocessing.connection import Connection
from typing import Any

import sqlalchemy as sa
from pymemcache.client.base import Client  # type: ignore[import-untyped]
from sqlalchemy import orm

from benchmarks.contestants import OURS, PYMEMCACHE, RAW, fill, raw_exchange
from benchmarks.method import Contestant, Items
from benchmarks.world import NAMESPACE, World, key_of
from person_repo import PersonService, make_region

__all__ = ["PROCESSES", "THREADS", "processes", "threads"]

THREADS = (1, 2, 4, 8, 16)
PROCESSES = (1, 2, 4)

Read = Callable[[str], object]


class _Together(Contestant):
    """A contestant that gets all items of a round at once."""

    def cost(self, items: Items) -> float:
        """Seconds of wall clock for one item."""
        start = time.perf_counter()
        self.call(items)
        return (time.perf_counter() - start) / len(items)


# Threads


def threads(world: World, _: Any) -> list[Contestant]:
    """Ours, pymemcache and raw sockets, by each number of threads."""
    fill(world)
    service = world.service(world.sqlite, world.cache_url())
    readers: dict[str, Callable[[], Read]] = {
        OURS: lambda: service.get,
        PYMEMCACHE: lambda: _pymemcache(world.cache_url(), world.close_later),
        RAW: lambda: _raw(world.cache_url(), world.close_later),
    }
    return [
        _Together(f"{name}: {count}", _Threads(world, count, reader).read)
        for name, reader in readers.items()
        for count in THREADS
    ]


class _Threads:
    """Threads that live for all rounds, as do their connections."""

    def __init__(self, world: World, count: int, reader: Callable[[], Read]) -> None:
        self._count = count
        self._reader = reader
        self._local = threading.local()
        self._start = threading.Barrier(count)
        self._pool = ThreadPoolExecutor(count)
        world.close_later(self._pool.shutdown)

    def read(self, ids: Sequence[str]) -> None:
        """Divide the ids among the threads, and return when all are read."""
        parts = [self._pool.submit(self._part, ids[at :: self._count]) for at in range(self._count)]
        for part in parts:
            part.result()

    def _part(self, ids: Sequence[str]) -> None:
        self._start.wait(60)  # No thread takes two parts.
        read = self._local.__dict__.get("read")
        if read is None:
            read = self._local.read = self._reader()
        for id in ids:
            read(id)


def _pymemcache(cache_url: str, close_later: Callable[[Any], object]) -> Read:
    client = Client(cache_url.removeprefix("memcached://"))
    close_later(client.close)
    return lambda id: client.get(key_of(id))


def _raw(cache_url: str, close_later: Callable[[Any], object]) -> Read:
    host, port = cache_url.removeprefix("memcached://").split(":")
    connection = socket.create_connection((host, int(port)))
    close_later(connection.close)
    return lambda id: raw_exchange(connection, b"get %b\r\n" % key_of(id).encode())


# Processes


def processes(world: World, _: Any) -> list[Contestant]:
    """Ours, pymemcache and raw sockets, by each number of processes."""
    fill(world)
    world.service(world.sqlite, world.cache_url()).close()  # It fills the cache for the processes.
    workers = [_Worker(world) for _ in range(max(PROCESSES))]
    return [
        _Together(f"{name}: {count}", functools.partial(_divide, workers[:count], name))
        for name in _READERS
        for count in PROCESSES
    ]


def _divide(workers: Sequence[_Worker], name: str, ids: Sequence[str]) -> None:
    for at, worker in enumerate(workers):
        worker.ask(name, ids[at :: len(workers)])
    for worker in workers:
        worker.wait()


class _Worker:
    """Another process with its own readers, which ends with this one."""

    def __init__(self, world: World) -> None:
        spawn = multiprocessing.get_context("spawn")  # A fork would copy the locks of threads.
        self._here, there = spawn.Pipe()
        process = spawn.Process(target=_serve, args=(there, world.sqlite, world.cache_url()), daemon=True)
        process.start()
        there.close()
        world.close_later(process.join)
        world.close_later(self._here.close)

    def ask(self, name: str, ids: Sequence[str]) -> None:
        """Send ids to read by a reader."""
        self._here.send((name, ids))

    def wait(self) -> None:
        """Return when the ids are read."""
        self._here.recv()


def _serve(connection: Connection, database_url: str, cache_url: str) -> None:
    with ExitStack() as stack:
        readers = {name: make(database_url, cache_url, stack) for name, make in _READERS.items()}
        while True:
            try:
                name, ids = connection.recv()
            except EOFError:
                return
            read = readers[name]
            for id in ids:
                read(id)
            connection.send(len(ids))


def _ours(database_url: str, cache_url: str, stack: ExitStack) -> Read:
    engine = sa.create_engine(database_url)
    stack.callback(engine.dispose)
    region = make_region(cache_url, namespace=NAMESPACE)
    return stack.enter_context(PersonService.over(orm.sessionmaker(engine), region)).get


_READERS: dict[str, Callable[[str, str, ExitStack], Read]] = {
    OURS: _ours,
    PYMEMCACHE: lambda _, cache_url, stack: _pymemcache(cache_url, stack.callback),
    RAW: lambda _, cache_url, stack: _raw(cache_url, stack.callback),
}
