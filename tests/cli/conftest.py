"""A database with the schema, and the command line called on it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import Result
from support.command import Run, call

import person_repo
from person_repo import PersonService, migrations


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable of ours is set, and the current folder is empty."""
    for name in [name for name in os.environ if name.startswith("PERSON_REPO_") and "TEST" not in name]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(database_url: str) -> Run:
    """Calls the command line on a database with the schema; names a cache if the environment names none."""
    migrations.upgrade(database_url)

    def run(*args: str, input: bytes | None = None) -> Result:
        cache = () if "PERSON_REPO_CACHE_URL" in os.environ else ("--cache-url", "memory://")
        return call("--database-url", database_url, *cache, *args, input=input)

    return run


@pytest.fixture
def people(run: Run, database_url: str) -> Iterator[PersonService]:
    """The same database, as an application without a cache sees it."""
    with person_repo.connect(database_url, use_db=True) as service:
        yield service
