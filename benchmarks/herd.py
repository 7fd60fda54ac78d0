"""Loads of a hot key that expires, again and again: many readers of one person, in several processes, short ttl."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from multiprocessing.connection import Connection
from typing import Any

import dogpile.cache
import sqlalchemy as sa
from pymemcache.client.base import Client  # type: ignore[import-untyped]
from sqlalchemy import orm

from benchmarks.contestants import Recipe
from benchmarks.method import Pace
from benchmarks.world import NAMESPACE, World, item_of
from person_repo import PersonService, make_region
from person_repo.database.schema import is_about_schema

__all__ = ["watch"]

PROCESSES = 4
THREADS = 8
TTL = 1
SECONDS = 8.0
QUICK_SECONDS = 3.0
INTERVAL = 0.1

_LOAD = 0.05
"""Seconds of a query, as on a busy database. The readers that arrive meanwhile are the herd."""

_THINK = 0.005
"""Seconds between two reads of a thread; without a pause, the readers would only show the number of cores."""

Read = Callable[[str], object]


def watch(world: World, pace: Pace) -> dict[str, Any]:
    """For each way to read: the number of its queries in each interval."""
    seconds = pace.seconds or (QUICK_SECONDS if pace.quick else SECONDS)
    pipes = [_reader(world) for _ in range(PROCESSES)]
    ways = {name: _summary(_watched(pipes, name, seconds), seconds) for name in _WAYS}
    return {
        "readers": PROCESSES * THREADS,
        "ttl": TTL,
        "load_seconds": _LOAD,
        "interval": INTERVAL,
        "seconds": seconds,
        "ways": ways,
    }


def _summary(reports: list[tuple[list[float], int]], seconds: float) -> dict[str, Any]:
    """Readers that wait at the end may still load, so the intervals go on to the last query."""
    sent = [moment for moments, _ in reports for moment in moments]
    counts = [0] * (int(max([seconds - INTERVAL, *sent]) / INTERVAL) + 1)
    for moment in sent:
        counts[int(moment / INTERVAL)] += 1
    return {
        "reads": sum(reads for _, reads in reports),
        "queries": len(sent),
        "most_in_an_interval": max(counts),
        "by_interval": counts,
    }


def _reader(world: World) -> Connection:
    """The pipe to a new process of readers, which ends with it."""
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    arguments = (there, world.mariadb, world.cache_url(), world.hot[0])
    process = spawn.Process(target=_serve, args=arguments, daemon=True)
    process.start()
    there.close()
    world.close_later(process.join)
    world.close_later(here.close)
    return here


def _watched(pipes: Sequence[Connection], name: str, seconds: float) -> list[tuple[list[float], int]]:
    """The report of each process: the times of its queries, and the number of its reads."""
    for pipe in pipes:
        pipe.send((name, seconds))
    for pipe in pipes:
        pipe.recv()  # The process is connected.
    start = time.time() + 0.1
    for pipe in pipes:
        pipe.send(start)
    return [pipe.recv() for pipe in pipes]


def _serve(connection: Connection, database_url: str, cache_url: str, id: str) -> None:
    while True:
        try:
            name, seconds = connection.recv()
        except EOFError:
            return
        with ExitStack() as stack:
            read, engine = _WAYS[name](database_url, cache_url, stack)
            connection.send(_read(connection, read, engine, id, seconds))


def _read(connection: Connection, read: Read, engine: sa.Engine, id: str, seconds: float) -> tuple[list[float], int]:
    queries: list[float] = []
    reads: list[int] = []

    def slow(_: object, __: object, statement: str, *___: object) -> None:
        if not is_about_schema(statement):  # Each process of ours polls it once a second.
            queries.append(time.time())
            time.sleep(_LOAD)

    for opened in [engine.connect() for _ in range(THREADS)]:  # Queries are slow, log-ins are not.
        opened.close()
    sa.event.listen(engine, "before_cursor_execute", slow)
    read(id)
    queries.clear()
    connection.send("ready")
    start = connection.recv()
    time.sleep(max(start - time.time(), 0))
    readers = [threading.Thread(target=_loop, args=(read, id, start + seconds, reads)) for _ in range(THREADS)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    return [moment - start for moment in queries], sum(reads)


def _loop(read: Read, id: str, until: float, reads: list[int]) -> None:
    count = 0
    while time.time() < until:
        read(id)
        count += 1
        time.sleep(_THINK)
    reads.append(count)


# The ways to read, each with the engine that it loads through


def _without(database_url: str, cache_url: str, stack: ExitStack) -> tuple[Read, sa.Engine]:
    """Get; on a miss load and set, as most applications do."""
    engine = _engine(database_url, stack)
    load = Recipe(dogpile.cache.make_region(), engine).load
    local = threading.local()

    def read(id: str) -> object:
        client = local.__dict__.get("client")
        if client is None:
            client = local.client = Client(cache_url.removeprefix("memcached://"))
            stack.callback(client.close)
        key = f"herd:{id}"
        found = client.get(key)
        if found is None:
            load(id)
            found = item_of(id)
            client.set(key, found, expire=TTL)
        return found

    return read, engine


def _dogpile(database_url: str, cache_url: str, stack: ExitStack) -> tuple[Read, sa.Engine]:
    """The recipe: one thread of each process loads, the others get the old value meanwhile."""
    engine = _engine(database_url, stack)
    arguments = {"url": [cache_url.removeprefix("memcached://")]}
    region = dogpile.cache.make_region(key_mangler=lambda key: f"herd-dogpile:{key}")
    region.configure("dogpile.cache.pymemcache", expiration_time=TTL, arguments=arguments)
    return Recipe(region, engine).get, engine


def _ours(database_url: str, cache_url: str, stack: ExitStack) -> tuple[Read, sa.Engine]:
    engine = _engine(database_url, stack)
    region = make_region(cache_url, namespace=f"{NAMESPACE}-herd", ttl=TTL)
    people = stack.enter_context(PersonService.over(orm.sessionmaker(engine), region))
    return people.get, people.read_engine


def _engine(database_url: str, stack: ExitStack) -> sa.Engine:
    engine = sa.create_engine(database_url, pool_size=THREADS)
    stack.callback(engine.dispose)
    return engine


_WAYS: dict[str, Callable[[str, str, ExitStack], tuple[Read, sa.Engine]]] = {
    "get, else load and set": _without,
    "dogpile get_or_create": _dogpile,
    "ours": _ours,
}
