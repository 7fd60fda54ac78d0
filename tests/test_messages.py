from __future__ import annotations

from typing import Any

import pytest

from person_repo.messages import shown


class Broken:
    """An object that cannot be shown."""

    def __repr__(self) -> str:
        raise KeyError("broken")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("ada", "'ada'"),
        (None, "None"),
        ("x" * 121, repr("x" * 120)[:120] + "... (121 characters)"),
        (b"x" * 1000, repr(b"x" * 120)[:120] + "... (1000 bytes)"),
        ([0] * 100, repr([0] * 100)[:120] + "... (300 characters)"),
        (10**5000, "<an integer of 16610 bits>"),
        (Broken(), "<Broken whose repr raises KeyError>"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_is_shown_within_a_limit_whatever_it_is(value: Any, text: str) -> None:
    assert shown(value) == text


def test_the_limit_can_be_chosen() -> None:
    assert shown("abcdef", 4) == "'abc... (6 characters)"
