"""The tests of SQLAlchemy's suite that fail on a covered engine, each group with its reason.

Names are without the parameters of a test, and without the database of a class.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["is_expected", "name_of"]

_OF_DATABASE = re.compile(r"_(?:sqlite|mysql|mariadb)\+\w+(?=::)")

EXPECTED: Final[dict[str, frozenset[str]]] = {
    "lists or counts the statements, of which one asks for a key whose collation folds (MySQL)": frozenset(
        {
            "test/orm/test_naturalpks.py::CascadeToFKPKTest::test_rowswitch_doesntfire",
            "test/orm/test_naturalpks.py::NaturalPKTest::test_onetoone_nonpassive",
        }
    ),
    "expects a class to go that a covered engine keeps": frozenset(
        {"test/orm/test_mapper.py::RegistryConfigDisposeTest::test_dispose_releases_classes_w_orm_index"}
    ),
}


def name_of(test: str) -> str:
    """The name of a test without its parameters and its database."""
    return _OF_DATABASE.sub("", test.partition("[")[0])


def is_expected(test: str) -> bool:
    """True if one of the groups names the test."""
    name = name_of(test)
    return any(name in names for names in EXPECTED.values())
