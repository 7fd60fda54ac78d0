"""Greenlets of gevent's, timed out anywhere within their reads and commits, read nothing stale."""

from __future__ import annotations

import random

import pytest
import sqlalchemy as sa
from support.children import found_by
from support.proofs import amount, is_sample
from support.servers import Memcached
from support.urls import patient_url

pytest.importorskip("gevent")


@pytest.mark.timeout(600)
@pytest.mark.proof(name="interleavings", sample=1, again=True)
@pytest.mark.parametrize("database_url", ["mysql", "mariadb-11.8", "postgresql"], indirect=True)
def test_greenlets_with_time_limits_read_nothing_stale(
    database_url: str, memcached_servers: list[Memcached], draw: random.Random, request: pytest.FixtureRequest
) -> None:
    database = sa.make_url(database_url)
    if database.get_backend_name() != "postgresql":
        # PyMySQL reads the machine's certificates anew for each connection that may be encrypted: too long for a limit.
        database = database.update_query_dict({"ssl_disabled": "true"})
    plan = {
        "database": database.render_as_string(hide_password=False),
        "cache": patient_url(memcached_servers[:2], fence_interval=0.1, tombstone_ttl=5),
        "rounds": 20 if is_sample(request.config) else 200,
        "seed": draw.getrandbits(64),
    }
    found = found_by("promise.greenlets", plan)
    amount(request, operations=found["done"])

    assert found["examples"] == []
    assert found["hits"] > 0
    assert found["timed_out"] > 0
