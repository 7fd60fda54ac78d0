"""pytest fixtures for applications."""

from __future__ import annotations

import pytest

from person_repo.testing import plugin

pytest_plugins = ["pytester"]

AS_THEY_ARE = """
import pytest
from person_repo import Person

@pytest.mark.parametrize("attempt", [1, 2])
def test_each_test_has_an_empty_service(people, attempt):
    assert people.count() == 0
    assert people.stats().hits == 0
    people.add(Person(id="ada", first_name="Ada", last_name="Byron"))
    assert people.get("ada") == people.get("ada")
    assert people.stats().hits == 1
"""

OVERRIDDEN = """
import pytest

@pytest.fixture(params=[False, True], ids=["cached", "database"])
def people_use_db(request):
    return request.param

@pytest.fixture
def people_database_url(tmp_path):
    return f"sqlite:///{tmp_path / 'mine.db'}"

@pytest.fixture
def people_cache_url():
    return "null://"

def test_the_service_is_made_of_the_overridden_fixtures(people, people_use_db):
    assert people.use_db is people_use_db
    assert people.engine.url.database.endswith("mine.db")
    assert type(people.region.actual_backend).__name__ == "NullBackend"
"""


def test_an_application_asks_for_the_fixtures_and_may_override_each(pytester: pytest.Pytester) -> None:
    pytester.makeconftest('pytest_plugins = ["person_repo.testing.plugin"]')
    pytester.makepyfile(test_as_they_are=AS_THEY_ARE, test_overridden=OVERRIDDEN)

    pytester.runpytest_subprocess().assert_outcomes(passed=4)


def test_the_fixtures_have_these_names() -> None:
    """Applications ask for them by name, and override them."""
    assert plugin.__all__ == ["people", "people_cache_url", "people_database_url", "people_use_db"]
