from __future__ import annotations

import copy
import inspect
import pickle
import re

import pytest

from person_repo import exceptions
from person_repo.exceptions import (
    CacheError,
    CacheUnavailableError,
    EntityExistsError,
    EntityNotFoundError,
    PersonNotFoundError,
    PersonRepoError,
)

BUILT_IN = (ValueError, LookupError)

ERRORS = [
    EntityNotFoundError("Parcel", ("Köln", 7)),
    PersonNotFoundError("Person", "ada"),
    EntityExistsError("Parcel ('Köln', 7) exists already", entity="Parcel", id=("Köln", 7)),
    EntityExistsError("Person exists already"),
    CacheUnavailableError("10.0.0.1:11211 did not answer"),
]


def drawn_tree() -> dict[str, tuple[str | None, str | None]]:
    """The tree in the module's docstring: each error with its parent and the built-in error that it is, too."""
    tree: dict[str, tuple[str | None, str | None]] = {}
    above: dict[int, str] = {}
    for line in (exceptions.__doc__ or "").splitlines():
        drawn = re.match(r"    ([│├└─ ]*)([A-Z]\w+)(?: \((\w+)\))?(?: |$)", line)
        if drawn is None:
            continue
        depth = len(drawn[1])
        above[depth] = drawn[2]
        tree[drawn[2]] = (above.get(depth - 4), drawn[3])
    return tree


def real_tree() -> dict[str, tuple[str | None, str | None]]:
    tree: dict[str, tuple[str | None, str | None]] = {}
    for name, error in inspect.getmembers(exceptions, inspect.isclass):
        if not issubclass(error, Exception):
            continue
        parents = [base.__name__ for base in error.__bases__ if issubclass(base, PersonRepoError)]
        built_in = [base.__name__ for base in error.__bases__ if base in BUILT_IN]
        tree[name] = (parents[0] if parents else None, built_in[0] if built_in else None)
    return tree


def test_the_tree_in_the_docstring_is_the_real_one() -> None:
    assert drawn_tree() == real_tree()
    assert len(real_tree()) > 10


def test_every_error_is_exported() -> None:
    assert set(real_tree()) == set(exceptions.__all__)


def test_a_missing_entity_is_named_with_its_id() -> None:
    error = EntityNotFoundError("Parcel", ("Köln", 7))

    assert str(error) == "no Parcel has the id ('Köln', 7)"
    assert (error.entity, error.id) == ("Parcel", ("Köln", 7))


def test_a_long_id_is_shortened_in_the_message_and_kept_on_the_error() -> None:
    id = "x" * 100_000
    error = PersonNotFoundError("Person", id)

    assert len(str(error)) < 200
    assert str(error).endswith("... (100000 characters)")
    assert error.id == id


def test_an_id_of_ordinary_length_is_shown_whole() -> None:
    id = "x" * 100

    assert str(PersonNotFoundError("Person", id)) == f"no Person has the id {id!r}"


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_survives_the_way_to_another_process(error: PersonRepoError) -> None:
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(other) is type(error)
        assert str(other) == str(error)
        assert vars(other) == vars(error)


def test_an_error_about_a_taken_key_has_the_entity_and_the_id_if_they_are_known() -> None:
    known = EntityExistsError("Person 'ada' exists already", entity="Person", id="ada")
    unknown = EntityExistsError("Person exists already")

    assert (str(known), known.entity, known.id) == ("Person 'ada' exists already", "Person", "ada")
    assert (str(unknown), unknown.entity, unknown.id) == ("Person exists already", None, None)


def test_cache_errors_are_apart_from_those_of_the_database() -> None:
    assert issubclass(CacheUnavailableError, CacheError)
    assert not issubclass(EntityNotFoundError, CacheError)
