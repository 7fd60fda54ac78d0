"""pytest fixtures for applications: a service over an empty database and an empty cache, for each test.

Ask for them in the top-level ``conftest.py``; nothing loads them by itself::

    pytest_plugins = ["person_repo.testing.plugin"]

Each fixture can be overridden in the usual way, by one of the same name in ``conftest.py`` or in a test module.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from person_repo import migrations
from person_repo.service import PersonService, connect

__all__ = ["people", "people_cache_url", "people_database_url", "people_use_db"]


@pytest.fixture
def people_database_url(tmp_path: Path) -> str:
    """The database of ``people``: a SQLite file in ``tmp_path``."""
    return f"sqlite:///{tmp_path / 'people.db'}"


@pytest.fixture
def people_cache_url() -> str:
    """The cache of ``people``: ``memory://``, which is empty in each test."""
    return "memory://"


@pytest.fixture
def people_use_db() -> bool:
    """The toggle of ``people``: False, which reads through the cache."""
    return False


@pytest.fixture
def people(people_database_url: str, people_cache_url: str, people_use_db: bool) -> Iterator[PersonService]:
    """A service whose database has the current schema; closed after the test."""
    migrations.upgrade(people_database_url)
    with connect(people_database_url, people_cache_url, use_db=people_use_db) as service:
        yield service
