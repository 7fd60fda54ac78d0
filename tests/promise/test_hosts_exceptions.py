"""An exception of the host's in the middle of a commit or of a read: a time limit, a timeout, Ctrl-C.

It arrives at the caller; either nothing was committed, or no read after it is stale. These are the calls where it was
swallowed once; ``test_injections`` tries every call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from support.interruptions import IDS, TimeLimit, Timeout, World, came_of, text, unit_of_work
from support.partitions import cut_off
from support.servers import Memcached
from support.urls import patient_url

from person_repo.cache.memcached import connection as connections
from person_repo.cache.memcached.backend import MemcachedBackend
from person_repo.fence.table import FenceTable
from person_repo.mapped.mapping import EntityMapping
from person_repo.model import FENCE
from person_repo.writing import contexts


@pytest.fixture
def world(database_url: str, memcached_servers: list[Memcached]) -> Iterator[World]:
    url = patient_url(memcached_servers[:2], wait=0.01, tombstone_ttl=60)
    made = World(database_url, url)
    yield made
    made.close()


def raising_once(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, kind: Callable[..., BaseException]) -> None:
    """The first call of a function raises this, and the next ones do what they did."""
    function, calls = getattr(owner, name), []

    def call(*arguments: Any, **options: Any) -> Any:
        calls.append(name)
        if len(calls) == 1:
            raise kind(name)
        return function(*arguments, **options)

    monkeypatch.setattr(owner, name, call)


@pytest.mark.parametrize("kind", [TimeLimit, Timeout])
@pytest.mark.parametrize("name", ["put_tombstones", "release"])
def test_while_tombstones_are_placed_or_removed(
    world: World, name: str, kind: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    world.warm()
    raising_once(monkeypatch, MemcachedBackend, name, kind)
    with pytest.raises(kind):
        unit_of_work(world, 1)

    assert set(world.committed().values()) == ({"0"} if name == "put_tombstones" else {"1"})
    world.check(name)
    before = world.people.stats().hits
    world.people.get("ada")
    # What is no Exception leaves at once; a tombstone that could not be removed stands until its ttl.
    assert world.people.stats().hits - before == (0 if (name, kind) == ("release", Timeout) else 1)


def test_places_that_were_silent_when_tombstones_are_removed_again_go_into_the_fence(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.warm()
    release, calls = MemcachedBackend.release, []

    def interrupted_then_cut_off(backend: MemcachedBackend, tombstones: Any) -> Any:
        calls.append(tombstones)
        if len(calls) == 1:
            raise TimeLimit
        cut_off(world.people)
        return release(backend, tombstones)

    monkeypatch.setattr(MemcachedBackend, "release", interrupted_then_cut_off)
    with pytest.raises(TimeLimit):
        unit_of_work(world, 1)

    with world.reader.read_engine.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(FENCE)) == 2


def test_while_a_connection_to_the_cache_is_made(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.warm()
    cut_off(world.people)
    raising_once(monkeypatch, connections, "_addresses", TimeLimit)
    with pytest.raises(TimeLimit):
        unit_of_work(world, 1)

    assert set(world.committed().values()) == {"0"}


@pytest.mark.parametrize("read", ["get", "get_many"])
@pytest.mark.parametrize("name", ["_encode", "_decode"])
def test_while_an_item_is_encoded_or_decoded(
    world: World, name: str, read: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.people.get("nobody")  # Its codec is made by now.
    if name == "_decode":
        world.warm()
    raising_once(monkeypatch, world.people.cached._reading.codec, name, TimeLimit)
    with pytest.raises(TimeLimit):
        getattr(world.people, read)("ada" if read == "get" else IDS)
    world.check(name)


def test_while_many_rows_are_made_objects(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.warm()
    raising_once(monkeypatch, EntityMapping, "hydrate_all", TimeLimit)
    with pytest.raises(TimeLimit):
        world.people.get_many(IDS)
    world.check("hydrate_all")


def test_while_a_row_is_made_an_object_that_has_changed_meanwhile(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row of the cache and that of the database are not the same then."""
    world.warm()
    hydrate, calls = EntityMapping.hydrate, []

    def changed_and_interrupted(mapping: Any, row: Any) -> Any:
        calls.append(row)
        if len(calls) == 1:
            unit_of_work(world, 1)
            raise TimeLimit
        return hydrate(mapping, row)

    monkeypatch.setattr(EntityMapping, "hydrate", changed_and_interrupted)
    with pytest.raises(TimeLimit):
        world.people.get("ada")
    world.check("hydrate")


def test_while_the_fence_is_read(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLAlchemy wraps what comes while it prepares a statement."""
    world.warm()

    def wrapped(message: str) -> BaseException:
        return sa.exc.StatementError(message, None, None, TimeLimit())

    raising_once(monkeypatch, FenceTable, "_read", wrapped)
    world.people.cached.fence._poll_due = 0
    with pytest.raises(sa.exc.StatementError) as raised:
        world.people.get("ada")

    assert came_of(raised.value.orig, TimeLimit)
    world.check("_read")


def test_while_a_statement_is_examined(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.warm()
    raising_once(monkeypatch, contexts, "of_text", TimeLimit)
    with pytest.raises(TimeLimit):
        text(world, 1)

    assert set(world.committed().values()) == {"0"}
    world.check("of_text")
