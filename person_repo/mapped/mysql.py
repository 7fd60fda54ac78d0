"""How the values of column types travel that only MySQL and MariaDB have. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import mysql
from sqlalchemy.dialects.mysql.mariadb import INET4, INET6

from person_repo.mapped.travel import Travel

__all__ = ["travel_on_mysql"]

# 1 to 99 are years of this century or the last one ("The YEAR Type").
_YEARS: Final = frozenset({0, *range(1901, 2156)})


def travel_on_mysql(type_: sa.types.TypeEngine[Any]) -> Travel | None:
    """The travel of such a type; None for any other type."""
    if isinstance(type_, mysql.SET):
        return _set(type_)
    if isinstance(type_, mysql.YEAR):
        return Travel(int, int, values=_YEARS)
    if isinstance(type_, mysql.BIT):
        return Travel(int, int, is_kept=False)  # cut to its length without strict mode
    if isinstance(type_, (INET4, INET6)):
        return Travel(str, str, is_kept=False)  # an address has several spellings, of which one is kept
    return None


def _set(type_: mysql.SET) -> Travel:
    words = sa.Enum(*type_.values) if type_.values else sa.Text()
    return Travel(
        set, list[str], _sorted, _set_of, accepts=(set, frozenset, str), parts=_words_of, part_type=words,
        compared=partial(_compared, type_),
    )  # fmt: skip


def _sorted(value: set[str] | None) -> list[str] | None:
    return None if value is None else sorted(value)


def _set_of(value: list[str] | None) -> set[str] | None:
    return None if value is None else set(value)


def _words_of(value: Iterable[str]) -> Iterable[str]:
    if isinstance(value, str):
        return value.split(",") if value else ()
    return value


def _compared(type_: mysql.SET, value: Any) -> Any:
    """MySQL compares a SET with a string, whose words must be in the order of the declaration."""
    if not isinstance(value, (set, frozenset, str)):
        return value
    words = set(_words_of(value))
    if type_.retrieve_as_bitwise:
        return words
    return ",".join([word for word in type_.values if word in words] if type_.values else sorted(words))
