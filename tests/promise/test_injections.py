"""An exception of the host's at any call out of a commit or of a read, and at any moment."""

from __future__ import annotations

import os
import random
from contextlib import suppress
from typing import Any

import pytest
from promise.injections import AT_ANY_MOMENT, CUT_OFF, INTERVAL, KINDS, OPERATIONS
from support.children import CrashedError, found_by
from support.proofs import amount, is_sample
from support.servers import Memcached
from support.urls import patient_url

TIMES = int(os.environ.get("PERSON_REPO_INJECTIONS", "0"))
"""How often each operation is interrupted; -1: at each of its calls."""


def injected(plan: dict[str, Any], draw: random.Random) -> dict[str, int]:
    """Runs a plan, and runs it again by other numbers where Python itself crashes."""
    for _ in range(3):
        with suppress(CrashedError):
            return found_by("promise.injections", {**plan, "seed": draw.getrandbits(64)})
    return found_by("promise.injections", {**plan, "seed": draw.getrandbits(64)})


@pytest.fixture
def plan(request: pytest.FixtureRequest, database_url: str, memcached_servers: list[Memcached]) -> dict[str, Any]:
    """Everything but the operation."""
    servers = memcached_servers[:2]
    cache = patient_url(servers, fence_interval=INTERVAL, wait=0.01, tombstone_ttl=5, breaker_reset=0.05)
    times: int | None = TIMES or (2 if is_sample(request.config) else 40)
    return {"database": database_url, "cache": cache, "times": None if times == -1 else times, "cut_off": False}


@pytest.fixture(params=OPERATIONS)
def operation(request: pytest.FixtureRequest, database_url: str) -> str:
    """The name of what is interrupted."""
    if request.param == "two_phases" and database_url.startswith("sqlite"):
        pytest.skip("SQLite has no two phases")
    return str(request.param)


def interrupt_calls(plan: dict[str, Any], draw: random.Random, request: pytest.FixtureRequest) -> None:
    found = injected({**plan, "sent": "traced"}, draw)
    amount(request, injections=found["sent"])

    assert found["calls"] > 20
    assert found["arrived"] == found["sent"] > 0


@pytest.mark.every_database
@pytest.mark.timeout(3600)
@pytest.mark.proof(name="interleavings", sample=1)
@pytest.mark.parametrize("kind", KINDS)
def test_at_any_call(
    plan: dict[str, Any], operation: str, kind: str, draw: random.Random, request: pytest.FixtureRequest
) -> None:
    interrupt_calls({**plan, "operation": operation, "kind": kind}, draw, request)


@pytest.mark.every_database
@pytest.mark.timeout(3600)
@pytest.mark.proof(name="interleavings", sample=1)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("operation", CUT_OFF, indirect=True)
def test_at_any_call_of_a_writer_that_is_cut_off_from_the_cache(
    plan: dict[str, Any], operation: str, kind: str, draw: random.Random, request: pytest.FixtureRequest
) -> None:
    """The fence tells the others, or nothing is committed."""
    interrupt_calls({**plan, "operation": operation, "kind": kind, "cut_off": True}, draw, request)


@pytest.mark.every_database
@pytest.mark.timeout(3600)
@pytest.mark.proof(name="interleavings", sample=1)
@pytest.mark.parametrize("sent", AT_ANY_MOMENT)
def test_at_any_moment(
    plan: dict[str, Any], operation: str, sent: str, draw: random.Random, request: pytest.FixtureRequest
) -> None:
    """Where it comes within a library, that is of the libraries' making; no read is stale."""
    found = injected({**plan, "operation": operation, "kind": "Timeout", "sent": sent}, draw)
    amount(request, injections=found["arrived"])
