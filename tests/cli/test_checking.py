"""The problems of rows: each is found with its line and reason, whether rows are checked together or one by one."""

from __future__ import annotations

import csv
import io
import itertools
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from support.command import HEADER, LAUREATES, problems_of, rows, take

import person_repo
from person_repo import Person, PersonService
from person_repo.cli.csv import checking, importing, lines, spool
from person_repo.cli.csv.checking import check_fields
from person_repo.cli.csv.format import COLUMNS
from person_repo.model import Base

LIMITS = {name: Person.__table__.c[name].type.length for name in COLUMNS}

sqlite_only = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def people(people_engine: sa.Engine, database_url: str) -> Iterator[PersonService]:
    """A service over an empty table."""
    with person_repo.connect(database_url) as service:
        yield service


PIECES = st.sampled_from(
    [
        *("a,b,c\n", "d,e,f\r\n", "g,h,i\r", "\n", '"j","k","l"\n', '"m","n\no",p\n', "é,ö,ü\n", "a,b,c\n"),
        *(",b,c\n", "x, ,c\n", "y,b\n", "z,b,c,d\n", '"open,b,c\n', '"q"x,b,c\n', "nul\0,b,c\n", '"","",""\n'),
        *("\udce9,b,c\n", f"{'i' * 101},b,c\n", f"{'i' * 100},b,c\n", f"r,{'n' * 201},c\n", f"{'k' * 16},b,c\n"),
    ]
)


@pytest.fixture(scope="module")
def somebody() -> Iterator[PersonService]:
    """A service over a table in which there is one person, "d"."""
    with person_repo.connect("sqlite://") as people:
        Base.metadata.create_all(people.engine)
        people.add(Person(id="d", first_name="there", last_name="already"))
        yield people


def judged(people: PersonService, content: bytes) -> tuple[list[tuple[str, ...]], bytes]:
    """The rows of a file that would be imported, and the file that is written of the others."""
    good: list[tuple[str, ...]] = []

    def add_rows(_names: object, chunks: Iterable[Iterable[tuple[str, ...]]], **_options: object) -> int:
        good.extend(itertools.chain.from_iterable(chunks))
        return len(good)

    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(people.database, "add_rows", add_rows)
        report = take(people, content, skip_bad=Path(folder, "bad.csv"))
        bad = Path(folder, "bad.csv").read_bytes()
    assert report.imported == len(good)
    assert report.skipped == len([*csv.reader(io.StringIO(bad.decode(errors="replace"), newline=""))]) - 1
    return good, bad


@settings(max_examples=100)
@given(st.lists(PIECES, max_size=12).map("".join))
def test_lines_checked_together_are_judged_as_each_by_itself(somebody: PersonService, rest: str) -> None:
    content = HEADER + rest.encode(errors="surrogateescape")
    together = judged(somebody, content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checking, "_all_good", lambda *_: None)
        assert judged(somebody, content) == together


@pytest.mark.parametrize("hashed", [hash, len, lambda _: 0], ids=["apart", "some alike", "all alike"])
@settings(max_examples=50)
@given(ids=st.lists(st.sampled_from([*"abcdefgh", "aa", "ä", "i" * 90, "i" * 91]), max_size=40))
def test_of_the_rows_with_one_id_all_but_the_first_are_bad(
    somebody: PersonService, hashed: Callable[[str], int], ids: list[str]
) -> None:
    """Their hashes may be written together or apart, and other ids may have the same."""
    content = HEADER + "".join(f"{id},First,Last{'s' * (line % 3)}\n" for line, id in enumerate(ids)).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spool, "hash", hashed, raising=False)
        patch.setattr(spool, "_RUN", 5)
        patch.setattr(spool, "_PARTS", 3)
        patch.setattr(lines, "_CHUNK", 3)
        patch.setattr(importing, "_CHUNK", 3)
        good, bad = judged(somebody, content)

    reasons: dict[int, str] = {}
    for line, id in enumerate(ids, 2):
        if (first := ids.index(id) + 2) < line:
            reasons[line] = f"id {id!r} stands in line {first} already"
        elif id == "d":
            reasons[line] = "id 'd' is in the database already"
    assert [id for id, *_ in good] == [id for id in dict.fromkeys(ids) if id != "d"]
    assert {int(line): reason for line, reason, *_ in [*csv.reader(io.StringIO(bad.decode()))][1:]} == reasons


@sqlite_only
def test_an_id_is_found_again_at_any_distance(people: PersonService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "_RUN", 2000)
    number = 9000
    content = rows(number) + b"id-000000,a,b\nid-%06d,c,d\nid-000000,e,f\n" % (number - 1)

    assert problems_of(people, content) == [
        (number + 2, "id 'id-000000' stands in line 2 already"),
        (number + 3, f"id 'id-{number - 1:06}' stands in line {number + 1} already"),
        (number + 4, "id 'id-000000' stands in line 2 already"),
    ]


@sqlite_only
def test_an_id_in_an_earlier_line_is_not_reported_as_in_the_database_too(people: PersonService) -> None:
    people.add(Person(id="there", first_name="Al", last_name="Ready"))

    assert problems_of(people, HEADER + b"there,b,c\nthere,d,e\nthere,,f\n") == [
        (2, "id 'there' is in the database already"),
        (3, "id 'there' stands in line 2 already"),
        (4, "first_name is empty"),
        (4, "id 'there' stands in line 2 already"),
    ]


@sqlite_only
def test_lines_are_checked_together_again_after_a_row_that_could_not_be(
    people: PersonService, monkeypatch: pytest.MonkeyPatch
) -> None:
    each: list[object] = []
    check = checking._check
    monkeypatch.setattr(checking, "_check", lambda row, *rest: each.append(row) or check(row, *rest))
    content = (
        HEADER
        + rows(1500).removeprefix(HEADER)
        + b'"two\nlines",b,c\n'
        + b"".join(b"more-%d,b,c\n" % number for number in range(3000))
    )

    assert take(people, content).imported == 4501
    assert 0 < len(each) <= 1000


TOO_LONG = f"the limit is {LIMITS['first_name']}"


@sqlite_only
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(b"", [(1, "the file is empty")], id="empty file"),
        pytest.param(b"\n\r\n", [(1, "the file is empty")], id="blank lines only"),
        pytest.param(b"id,first_name\na,b\n", [(1, "no column last_name")], id="missing column"),
        pytest.param(b"id,first_name,last_name,age\na,b,c,d\n", [(1, "unknown column 'age'")], id="unknown column"),
        pytest.param(b"id,first_name,last_name,id\na,b,c,d\n", [(1, "the column id twice")], id="column twice"),
        pytest.param(b"\nid,first_name,last_nam\xe9\n", [(2, "byte 0xe9 at character 23")], id="header not UTF-8"),
        pytest.param(b'id,"first_name\n', [(1, "a quote is opened and not closed")], id="header with an open quote"),
        pytest.param(HEADER + b",b,c\n", [(2, "id is empty")], id="empty id"),
        pytest.param(HEADER + b"a,,c\nd,\t ,f\n", [(2, "first_name is empty"), (3, "first_name is empty")], id="name"),
        pytest.param(HEADER + b"a,b,\n", [(2, "last_name is empty")], id="empty last name"),
        pytest.param(HEADER + b"a,b\n", [(2, "2 fields where the header has 3")], id="narrow row"),
        pytest.param(HEADER + b"a,b,c,\n", [(2, "4 fields where the header has 3")], id="wide row"),
        pytest.param(HEADER + b"a,b,c\na,d,e\n", [(3, "id 'a' stands in line 2 already")], id="id twice"),
        pytest.param(HEADER + b"a,b\0,c\n", [(2, "first_name has a NUL character")], id="NUL"),
        pytest.param(HEADER + b"a,\xc3\xb3\xe9,c\n", [(2, "byte 0xe9 at character 4 is not UTF-8")], id="latin-1"),
        pytest.param(HEADER + b"a,\xed\xa0\x80,c\n", [(2, "byte 0xed at character 3")], id="encoded surrogate"),
        pytest.param(HEADER + b'a,"b,c\nd,e,f\n', [(2, "a quote is opened and not closed")], id="open quote"),
        pytest.param(HEADER + b'a,b,c\nd,e,"f', [(3, "a quote is opened and not closed")], id="open quote at the end"),
        pytest.param(HEADER + b'a,"b"x,c\n', [(2, "text after a closing quote")], id="text after a quote"),
        pytest.param(HEADER + b"x" * 2_500_000 + b"\na,b\n", [(2, "longer than"), (3, "2 fields")], id="endless line"),
        pytest.param(HEADER + b'a,"b\n","' * 150_000, [(2, "a quote is opened")], id="endless row"),
    ],
)
def test_a_problem_is_reported_with_its_line_and_reason(
    people: PersonService, content: bytes, expected: list[tuple[int, str]]
) -> None:
    found = problems_of(people, content)

    assert [line for line, _ in found][: len(expected)] == [line for line, _ in expected]
    for (_, reason), (_, part) in zip(found, expected, strict=False):
        assert part in reason


@sqlite_only
@pytest.mark.parametrize("column", COLUMNS)
def test_the_limit_of_a_value_is_that_of_its_column(people: PersonService, column: str) -> None:
    limit = LIMITS[column]
    fitting = {"id": "a", "first_name": "b", "last_name": "c"} | {column: "\N{GRINNING FACE}" * limit}
    longer = {"id": "d", "first_name": "e", "last_name": "f"} | {column: "\N{GRINNING FACE}" * (limit + 1)}

    assert take(people, HEADER + ",".join(fitting.values()).encode()).imported == 1
    ((line, reason),) = problems_of(people, HEADER + ",".join(longer.values()).encode())
    assert line == 2
    assert column in reason
    assert f"has {limit + 1} characters; the limit is {limit}" in reason


@sqlite_only
def test_all_problems_of_a_file_are_reported_in_the_order_of_its_lines(people: PersonService) -> None:
    people.add(Person(id="there", first_name="Al", last_name="Ready"))
    content = (
        b"last_name,id,first_name,age\n"  # 1
        b"Good,good,Row,1\n"
        b",,,\n"  # 3
        b"\n"
        b'Wide,wide,"of two\nlines",1,2\n'  # 5 and 6
        b"Ready,there,Al,1\n"
        b'"Two\nlines, \xff and\n\xfe",three,X,1\n'  # 8 to 10
        b"Twice,good,Row,1\n"
        b'Open,"quote,X,1\n'  # 12
        b"Last,last,Row\n"
    )

    assert problems_of(people, content) == [
        (1, "the header has an unknown column 'age'; known are: id, first_name, last_name"),
        (3, "id is empty"),
        (3, "first_name is empty"),
        (3, "last_name is empty"),
        (5, "5 fields where the header has 4"),
        (7, "id 'there' is in the database already"),
        (9, "the byte 0xff at character 8 is not UTF-8"),
        (10, "the byte 0xfe at character 1 is not UTF-8"),
        (11, "id 'good' stands in line 2 already"),
        (12, "a quote is opened and not closed, or not written twice inside a value"),
        (13, "3 fields where the header has 4"),
    ]


@sqlite_only
def test_rows_are_checked_even_if_a_column_is_missing(people: PersonService) -> None:
    assert problems_of(people, b"id,first_name\na,b\na,\n") == [
        (1, "the header has no column last_name"),
        (3, "first_name is empty"),
        (3, "id 'a' stands in line 2 already"),
    ]


@sqlite_only
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le"])
def test_a_file_in_another_encoding_is_refused_by_its_header_alone(people: PersonService, encoding: str) -> None:
    assert {line for line, _ in problems_of(people, LAUREATES.read_text("utf-8").encode(encoding))} == {1}


def test_fields_are_checked_as_an_import_checks_them() -> None:
    assert check_fields({"id": "a", "first_name": "b"}) == []
    assert check_fields({"id": " ", "first_name": "b\0"}) == ["id is empty", "first_name has a NUL character"]
