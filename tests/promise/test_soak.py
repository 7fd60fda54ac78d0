"""What a process holds does not grow: memory, files, threads, objects, by a day of an application in short.

``PERSON_REPO_SOAK`` is the number of operations, where it is set; ``PERSON_REPO_SOAK_LOG`` names a file to which every
sample is added. The promise is judged on the way: each person has one thread that writes it.
"""

from __future__ import annotations

import os
import random
import statistics
from pathlib import Path

import pytest
from support.children import found_by
from support.proofs import amount, is_sample
from support.servers import find_binary

OPERATIONS = int(os.environ.get("PERSON_REPO_SOAK", "0"))

GROWTH = {"memory": 16_384, "blocks": 2_500, "files": 4, "threads": 0, "objects": 60, "entries": 150}
"""How much more the later samples may have, at the median. A leak shows in blocks; memory, in KB, depends on the
allocator.
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="what a process holds is read from /proc")
@pytest.mark.timeout(max(600, OPERATIONS // 50))
@pytest.mark.proof(name="soak", sample=1, again=True)
def test_what_a_process_holds_does_not_grow(
    mysql_url: str, draw: random.Random, request: pytest.FixtureRequest
) -> None:
    find_binary("memcached")
    operations = OPERATIONS or (5_000 if is_sample(request.config) else 20_000)
    plan = {
        "database": mysql_url,
        "operations": operations,
        "seed": draw.getrandbits(64),
        "log": os.environ.get("PERSON_REPO_SOAK_LOG"),
    }
    found = found_by("promise.soak", plan)

    assert found["wrong"] == []
    assert found["outages"] > 5
    done_at_all = ("hits", "negative_hits", "misses", "tombstones", "model_drops", "fenced")
    assert {name: found["stats"][name] for name in done_at_all if not found["stats"][name]} == {}
    assert found["fenced"] == 0
    warm = sorted(found["samples"], key=lambda each: each["operations"])[len(found["samples"]) // 3 :]
    early, late = warm[: len(warm) // 2], warm[len(warm) // 2 :]
    for name, more in GROWTH.items():
        before, after = ([each[name] for each in part] for part in (early, late))
        assert statistics.median(after) <= statistics.median(before) + more, (name, before, after)
    amount(request, operations=operations)
