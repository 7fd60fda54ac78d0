"""Values larger than memcached takes: never sent, so that a refusal deletes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from support.exchanges import numbers_of, started
from support.servers import Memcached
from support.urls import patient_url

from person_repo.cache.contract import BLOCKED, Lease, Tombstones
from person_repo.service import Service

Statements = Callable[..., AbstractContextManager[list[str]]]


class HostileBase(orm.DeclarativeBase):
    """Metadata of this module's own."""


class Note(HostileBase):
    __tablename__ = "note"

    id: orm.Mapped[int] = orm.mapped_column(primary_key=True, autoincrement=False)
    text: orm.Mapped[str] = orm.mapped_column(sa.Text(20_000_000))


LIMITS = {"512k": 512 * 1024, "1m": 1024 * 1024, "4m": 4 * 1024 * 1024}


@pytest.fixture(params=LIMITS)
def sized(request: pytest.FixtureRequest) -> Iterator[tuple[Memcached, int]]:
    """A memcached whose largest item is set by ``-I``, and that size in bytes."""
    with started("-I", request.param) as server:
        yield server, LIMITS[request.param]


@pytest.fixture
def notes(engine: sa.Engine, sized: tuple[Memcached, int]) -> Iterator[Service[Note]]:
    """Notes over a memcached of one size: 1 and 3 are small, 2 is beyond the server's limit, 4 just below it."""
    server, limit = sized
    Note.__table__.create(engine)  # type: ignore[attr-defined]
    texts = {1: "short", 2: "x" * (limit + 1), 3: "", 4: "x" * (limit - 2000)}
    with Service.over(Note, engine, patient_url([server])) as notes:
        for id, text in texts.items():
            notes.add(Note(id=id, text=text))
        yield notes


def test_a_value_beyond_the_servers_limit_is_not_cached_and_costs_no_connection(
    notes: Service[Note], sized: tuple[Memcached, int], statements: Statements
) -> None:
    server, limit = sized
    notes.get(1)
    connections = numbers_of(server)["total_connections"]
    before = notes.stats()
    with statements(notes.read_engine) as seen:
        for _ in range(3):
            assert len(notes.get_one(2).text) == limit + 1
            assert notes.get_one(1).text == "short"
            assert len(notes.get_one(4).text) == limit - 2000
    spent = notes.stats() - before

    assert len(seen) == 4  # three of them for the value that is too large
    assert (spent.fills, spent.fills_refused, spent.hits) == (1, 3, 5)
    assert spent.errors == spent.rejected == 0
    assert numbers_of(server)["total_connections"] == connections + 1  # the one that asks


def test_a_value_beyond_the_limit_harms_no_other_of_its_batch(
    notes: Service[Note], sized: tuple[Memcached, int], statements: Statements
) -> None:
    with statements(notes.read_engine) as seen:
        for _ in range(3):
            assert [len(note.text) for note in notes.get_many([1, 2, 3, 4]).values()] == [
                5, sized[1] + 1, 0, sized[1] - 2000,
            ]  # fmt: skip

    assert len(seen) == 3
    spent = notes.stats()
    assert (spent.hits, spent.fills, spent.fills_refused) == (6, 3, 3)
    assert spent.errors == spent.rejected == 0


@pytest.mark.parametrize("many", [False, True], ids=["get", "get_many"])
def test_a_value_beyond_the_limit_lifts_no_tombstone_that_came_while_it_was_loaded(
    notes: Service[Note], many: bool
) -> None:
    """memcached deletes what stands at a key if it refuses an item for its size: such an item is never sent."""
    backend, key = notes.cached.backend, notes.cached.keys.key_of((2,))[0]
    placed: list[Tombstones] = []

    def commit(*_: object) -> None:
        placed.append(backend.put_tombstones([key]))

    sa.event.listen(notes.read_engine, "before_cursor_execute", commit, once=True)
    assert (notes.get_many([2])[2] if many else notes.get_one(2)).id == 2
    assert backend.fetch(notes.cached.keys.group, key) is BLOCKED

    (tombstones,) = placed
    assert tombstones.complete
    backend.release(tombstones)
    assert isinstance(backend.fetch(notes.cached.keys.group, key), Lease)


def test_a_value_that_grows_beyond_the_limit_is_no_longer_cached(
    notes: Service[Note], sized: tuple[Memcached, int]
) -> None:
    assert notes.get_one(1).text == notes.get_one(1).text == "short"
    for text in ("x" * (sized[1] + 1), "short again"):
        notes.update(1, text=text)
        for _ in range(2):
            assert notes.get_one(1).text == text
    assert notes.stats().hits == 2
