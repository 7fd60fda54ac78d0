"""Worlds drawn at random, crossed with every way of writing: each read through the cache is what is committed."""

from __future__ import annotations

import os
import random
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from support.declarations import undone
from support.proofs import amount, is_sample
from support.servers import Memcached
from support.triples import Triples, WrongReadError, staged
from support.urls import MEMORY, patient_url
from support.worlds import DATABASES, World, draw_world

# SQLAlchemy warns of some of the worlds, in which hosts live all the same.
pytestmark = [pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SAWarning"), pytest.mark.timeout(3600)]

WORLDS = int(os.environ.get("PERSON_REPO_WORLDS", "1"))
"""Worlds of each round and database."""

TRIPLES = 250
"""Triples in each world, of which ``make test`` compares some."""

WORLD = os.environ.get("PERSON_REPO_WORLD", "")
"""The number of the one world to look at."""


@pytest.mark.proof(name="ways", sample=2, again=True)
@pytest.mark.parametrize("database_url", DATABASES, indirect=True)
def test_a_read_is_what_is_committed_in_any_world(
    database_url: str, memcached_servers: list[Memcached], draw: random.Random, request: pytest.FixtureRequest
) -> None:
    database = request.node.callspec.params["database_url"]
    numbers = [int(WORLD)] if WORLD else [draw.getrandbits(30) for _ in range(WORLDS)]
    for number in numbers:
        for server in memcached_servers:
            server.flush()
        world = draw_world(number, database)
        cache_url = MEMORY if world.cache == "memory" else patient_url(memcached_servers)
        with staged(world, database_url, cache_url) as stage:
            triples = Triples(stage)
            try:
                triples.run(60 if is_sample(request.config) and not WORLD else TRIPLES)
            except AssertionError as error:
                path = f"tests/promise/test_worlds.py::{request.node.originalname}[{database}]"
                again = f"PERSON_REPO_WORLD={number} .venv/bin/python -m pytest '{path}'"
                raise AssertionError(f"{error}\nagain: {again}") from error
        amount(request, triples=triples.done)


SAFEGUARDS = {
    "statements in text": ("person_repo.writing.contexts.of_text", lambda *_, **__: []),
    "changes of rows that are not known": ("person_repo.writing.pending.Pending.add_group", lambda *_: None),
    "tombstones before the commit": ("person_repo.writing.pending.Pending.place", lambda *_: None),
    "snapshots": ("person_repo.database.snapshots.Snapshot.is_committed", lambda _: True),
    "parameters that a listener changes": ("person_repo.writing.contexts.has_other_parameters", lambda *_: False),
}
"""Functions without which some read is wrong, and what stands in their place."""


@pytest.mark.proof(name="ways", sample=1)
@pytest.mark.parametrize("name", SAFEGUARDS)
def test_a_safeguard_that_is_taken_away_is_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """In worlds of SQLite that are the same in each run, and in which it is needed."""
    worlds = [_plain_world(number, name) for number in range(10)]
    compare_in(worlds[:2], tmp_path)
    monkeypatch.setattr(*SAFEGUARDS[name])
    with pytest.raises(WrongReadError):
        compare_in(worlds, tmp_path)


def _plain_world(number: int, safeguard: str) -> World:
    listener = "redirects" if safeguard.startswith("parameters") else "none"
    is_shared = safeguard == "snapshots"
    place, pool, covering = ("memory", "static", "one service") if is_shared else ("wal", "queue", "declared")
    return replace(
        draw_world(number, "sqlite"), place=place, pool=pool, covering=covering, listener=listener, isolation=None,
        driver="legacy", schema="none", cache="memory", key="integer", hierarchy="none",
    )  # fmt: skip


def compare_in(worlds: Sequence[World], folder: Path) -> None:
    for world in worlds:
        path = folder / f"{uuid.uuid4().hex}.db"
        with undone(), staged(world, f"sqlite:///{path}", MEMORY) as stage:
            Triples(stage).run(100)
