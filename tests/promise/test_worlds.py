"""Worlds drawn at random, crossed with every way of writing: each read through the cache is what is committed."""

from __future__ import annotations

import os
import random

import pytest
from support.proofs import amount, is_sample
from support.servers import Memcached
from support.triples import Triples, staged
from support.urls import MEMORY, patient_url
from support.worlds import DATABASES, draw_world

# SQLAlchemy warns of some of the worlds, in which hosts live all the same.
pytestmark = [pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SAWarning"), pytest.mark.timeout(0)]

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
