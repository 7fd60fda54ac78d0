"""A table as statements refer to it, and how its key compares."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import mssql, mysql, sqlite
from support.tables import Colour, model, watched

from person_repo.model import ExactString, Person


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("UPDATE person SET a = 1", True),
        ("UPDATE `Person` SET a = 1", True),
        ('DELETE FROM "host"."PERSON"', True),
        ("INSERT INTO host.person(id) VALUES (1)", True),
        ("UPDATE personal SET a = 1", False),
        ("UPDATE a_person SET a = 1", False),
        ("UPDATE person2 SET a = 1", False),
    ],
)
def test_a_table_is_named_by_its_whole_name_in_whatever_case_and_quotes(text: str, expected: bool) -> None:
    assert watched(Person).is_named_in(text) is expected


class FirstWord(sa.TypeDecorator[str]):
    impl = sa.String(40)
    cache_ok = True

    def bind_expression(self, bindvalue: Any) -> Any:
        return sa.func.lower(bindvalue)


@pytest.mark.parametrize(
    ("type_", "on_sqlite", "on_mysql", "on_sql_server"),
    [
        (ExactString(40), True, True, False),
        (sa.String(40), True, False, False),
        (sa.String(40, collation="NOCASE"), False, False, False),
        (sa.String(40, collation="binary"), True, True, False),
        (sa.String(40, collation="utf8mb4_bin"), False, False, False),  # This one pads.
        (sa.String(40, collation="utf8mb4_0900_bin"), False, True, False),
        (sa.Integer(), True, True, True),
        (sa.Enum(Colour), True, True, True),
        (sa.Uuid(), True, True, True),
        (sa.Uuid(as_uuid=False), False, False, False),
        (sa.Date(), True, True, True),
        (FirstWord(), False, False, False),
    ],
)
def test_parameters_name_rows_if_the_column_compares_exactly(
    type_: Any, on_sqlite: bool, on_mysql: bool, on_sql_server: bool
) -> None:
    entry = watched(model(type_))

    assert entry.compares_exactly(sqlite.dialect()) is on_sqlite
    assert entry.compares_exactly(mysql.dialect()) is on_mysql
    assert entry.compares_exactly(mssql.dialect()) is on_sql_server
