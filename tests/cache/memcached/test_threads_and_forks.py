"""Each thread and each process has connections of its own, and nothing taken on one is used on another."""

from __future__ import annotations

import gc
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.exchanges import Connect, stepwise
from support.forks import forking, running_in_child
from support.servers import Memcached
from support.unruly import Door

from person_repo.testing.contract import GROUP, KEY, NEW, OLD, OTHER_GROUP, OTHER_KEY, store, take


@forking
def test_parent_and_child_never_read_each_others_replies(connect: Connect, memcached_servers: list[Memcached]) -> None:
    backend = connect(*memcached_servers)
    parents = [f"{GROUP}:sparent{number}" for number in range(20)]
    children = [f"{GROUP}:schild{number}" for number in range(20)]
    for key in parents + children:
        store(backend, key, key.encode())
    to_child, to_parent = os.pipe(), os.pipe()

    def read(own: list[str], rounds: int = 20) -> list[str]:
        wrong = []
        for _ in range(rounds):
            wrong += [key for key in own if backend.fetch(GROUP, key) != key.encode()]
            wrong += [] if backend.fetch_many(GROUP, own) == [key.encode() for key in own] else ["a batch"]
        return wrong

    def child() -> list[str]:
        os.write(to_parent[1], b".")
        os.read(to_child[0], 1)
        return read(children)

    with running_in_child(child) as said:
        os.read(to_parent[0], 1)
        os.write(to_child[1], b".")
        assert read(parents) == []
    assert said() == "[]"
    for descriptor in (*to_child, *to_parent):
        os.close(descriptor)


@forking
def test_a_lease_of_the_parent_fills_nothing_in_the_child(connect: Connect, server: Memcached) -> None:
    backend = connect(server)
    lease = take(backend)

    with running_in_child(lambda: backend.fill(lease, OLD)) as said:
        pass

    assert said() == "False"
    assert backend.fill(lease, NEW)


@forking
def test_a_child_can_release_what_its_parent_has_placed(connect: Connect, server: Memcached) -> None:
    backend = connect(server)
    tombstones = backend.put_tombstones([KEY], [OTHER_GROUP])

    with running_in_child(lambda: backend.release(tombstones)):
        pass

    take(backend)


def test_each_thread_has_a_connection_of_its_own(connect: Connect, door: Door) -> None:
    backend = connect(door)
    together = threading.Barrier(4)

    def fetch(_: int) -> None:
        for _ in range(3):
            together.wait(30)
            backend.fetch(GROUP, KEY)
        backend.close()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(fetch, range(4)))

    assert door.visitors == 4


def test_a_lease_fills_nothing_from_another_thread(connect: Connect, server: Memcached) -> None:
    """Another thread has another connection, which does not show a restart in between."""
    backend = connect(server)
    lease = take(backend)

    def elsewhere() -> bool:
        backend.fetch(GROUP, OTHER_KEY)
        try:
            return backend.fill(lease, OLD)
        finally:
            backend.close()

    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(elsewhere).result() is False
    assert backend.fill(lease, NEW)


def test_a_release_in_another_thread_leaves_the_connection_of_the_first_alone(
    connect: Connect, server: Memcached
) -> None:
    backend = connect(server)
    tombstones = backend.put_tombstones([KEY])
    steps = stepwise(backend, server)

    with ThreadPoolExecutor(1) as thread:
        thread.submit(backend.release, tombstones).result()

    assert steps.requests == 0
    take(backend)


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_the_connections_of_a_thread_that_ends_are_closed(connect: Connect, server: Memcached) -> None:
    backend = connect(server)

    def connections() -> str:
        return next(line for line in server.ask("stats").splitlines() if "curr_connections" in line)

    before = connections()
    thread = threading.Thread(target=backend.fetch, args=(GROUP, KEY))
    thread.start()
    thread.join()
    del thread
    gc.collect()  # a warning of an open socket would come here

    assert connections() == before
