"""People to and from files."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import stat
import tempfile
import threading
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

import person_repo
from person_repo import Person, PersonService
from person_repo.cli import csv as interchange
from person_repo.cli.csv import COLUMNS, ImportReport, check_fields, export_people, import_people, replacing
from person_repo.exceptions import ConfigurationError, EntityExistsError, ImportFailedError
from person_repo.model import Base

LAUREATES = Path(person_repo.__file__).with_name("cli") / "turing_laureates.csv"
HEADER = b"id,first_name,last_name\n"
LIMITS = {name: Person.__table__.c[name].type.length for name in COLUMNS}

sqlite_only = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def people(people_engine: sa.Engine, database_url: str) -> Iterator[PersonService]:
    """A service over an empty table."""
    with person_repo.connect(database_url) as service:
        yield service


def take(people: PersonService, content: bytes, **options: Any) -> ImportReport:
    return import_people(people, io.BytesIO(content), **options)


def problems(people: PersonService, content: bytes) -> list[tuple[int, str]]:
    """What an import of this refuses; it has imported nothing then."""
    before = people.count()
    with pytest.raises(ImportFailedError) as caught:
        take(people, content)
    assert people.count() == before
    return [(problem.line, problem.reason) for problem in caught.value.problems]


def exported(people: PersonService, **options: Any) -> bytes:
    stream = io.BytesIO()
    export_people(people, stream, **options)
    return stream.getvalue()


def rows(number: int) -> bytes:
    return HEADER + b"".join(b"id-%06d,First,Last\n" % i for i in range(number))


def test_laureates_are_imported_and_read_back_equal_from_both_sides(people: PersonService) -> None:
    with LAUREATES.open(encoding="utf-8", newline="") as file:
        expected = {row["id"]: Person(**row) for row in csv.DictReader(file)}

    report = import_people(people, LAUREATES)

    assert report == ImportReport(file=str(LAUREATES), imported=79)
    assert people.get_many(expected) == expected
    assert people.get_many(expected) == expected
    with people.using(use_db=True):
        assert people.get_many(expected) == expected
    corbato = people.get_one("corbato-1990")
    assert corbato.last_name == "Corbat\N{LATIN SMALL LETTER O WITH ACUTE}"


def test_what_was_exported_is_byte_for_byte_what_was_imported_but_for_the_order(people: PersonService) -> None:
    import_people(people, LAUREATES)

    header, *lines = exported(people).splitlines(keepends=True)

    assert header == HEADER
    assert lines == sorted(LAUREATES.read_bytes().splitlines(keepends=True)[1:])


def test_an_import_invalidates_what_was_read_before(people: PersonService) -> None:
    assert people.get("knuth-1974") is None
    import_people(people, LAUREATES)
    assert people.get_one("knuth-1974").last_name == "Knuth"


def test_an_import_of_few_people_drops_these_and_one_of_many_the_whole_model(people: PersonService) -> None:
    import_people(people, LAUREATES)
    assert (people.stats().tombstones, people.stats().model_drops) == (79, 0)

    assert take(people, rows(5000)).imported == 5000
    assert (people.stats().tombstones, people.stats().model_drops) == (79, 1)


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
    """The rows of a file that would be imported, and what is written of the others."""
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
def test_lines_looked_at_together_are_judged_as_each_by_itself(somebody: PersonService, rest: str) -> None:
    content = HEADER + rest.encode(errors="surrogateescape")
    together = judged(somebody, content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interchange, "_good", lambda *_: None)
        assert judged(somebody, content) == together


@pytest.mark.parametrize("hashed", [hash, len, lambda _: 0], ids=["apart", "some alike", "all alike"])
@settings(max_examples=50)
@given(ids=st.lists(st.sampled_from([*"abcdefgh", "aa", "ä", "i" * 90, "i" * 91]), max_size=40))
def test_of_the_rows_with_one_id_all_but_the_first_are_bad(
    somebody: PersonService, hashed: Callable[[str], int], ids: list[str]
) -> None:
    """Whether they are written together or apart, and whatever else has their hash."""
    content = HEADER + "".join(f"{id},First,Last{'s' * (line % 3)}\n" for line, id in enumerate(ids)).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interchange, "hash", hashed, raising=False)
        patch.setattr(interchange, "_RUN", 5)
        patch.setattr(interchange, "_PARTS", 3)
        patch.setattr(interchange, "_CHUNK", 3)
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
    monkeypatch.setattr(interchange, "_RUN", 2000)
    number = 9000
    content = rows(number) + b"id-000000,a,b\nid-%06d,c,d\nid-000000,e,f\n" % (number - 1)

    assert problems(people, content) == [
        (number + 2, "id 'id-000000' stands in line 2 already"),
        (number + 3, f"id 'id-{number - 1:06}' stands in line {number + 1} already"),
        (number + 4, "id 'id-000000' stands in line 2 already"),
    ]


@sqlite_only
def test_an_id_in_an_earlier_line_is_not_said_to_be_in_the_database_as_well(people: PersonService) -> None:
    people.add(Person(id="there", first_name="Al", last_name="Ready"))

    assert problems(people, HEADER + b"there,b,c\nthere,d,e\nthere,,f\n") == [
        (2, "id 'there' is in the database already"),
        (3, "id 'there' stands in line 2 already"),
        (4, "first_name is empty"),
        (4, "id 'there' stands in line 2 already"),
    ]


@sqlite_only
def test_lines_are_looked_at_together_again_after_a_row_that_could_not_be(
    people: PersonService, monkeypatch: pytest.MonkeyPatch
) -> None:
    each: list[object] = []
    check = interchange._check
    monkeypatch.setattr(interchange, "_check", lambda row, *rest: each.append(row) or check(row, *rest))
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
def test_a_problem_is_named_with_its_line_and_reason(
    people: PersonService, content: bytes, expected: list[tuple[int, str]]
) -> None:
    found = problems(people, content)

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
    ((line, reason),) = problems(people, HEADER + ",".join(longer.values()).encode())
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

    assert problems(people, content) == [
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
def test_rows_are_checked_even_where_a_column_is_missing(people: PersonService) -> None:
    assert problems(people, b"id,first_name\na,b\na,\n") == [
        (1, "the header has no column last_name"),
        (3, "first_name is empty"),
        (3, "id 'a' stands in line 2 already"),
    ]


@sqlite_only
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le"])
def test_a_file_in_another_encoding_is_refused_by_its_header_alone(people: PersonService, encoding: str) -> None:
    assert {line for line, _ in problems(people, LAUREATES.read_text("utf-8").encode(encoding))} == {1}


@sqlite_only
@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"\xef\xbb\xbf" + HEADER + b"a,b,c\n", id="BOM"),
        pytest.param(b"last_name,id,first_name\nc,a,b\n", id="another order"),
        pytest.param(b"id,first_name,last_name\r\na,b,c\r\n", id="CRLF"),
        pytest.param(b"id,first_name,last_name\ra,b,c\r", id="CR"),
        pytest.param(b"\n" + HEADER + b"\n\na,b,c\n\n", id="blank lines"),
        pytest.param(HEADER + b'"a","b",c', id="quotes and no last line end"),
    ],
)
def test_a_csv_may_be_written_in_many_ways(people: PersonService, content: bytes) -> None:
    assert take(people, content).imported == 1
    assert people.get("a") == Person(id="a", first_name="b", last_name="c")


@sqlite_only
def test_a_header_alone_imports_nobody_and_is_no_problem(people: PersonService) -> None:
    assert take(people, HEADER) == ImportReport(file="<stream>", imported=0)


def test_ids_are_compared_as_the_database_compares_them(people: PersonService) -> None:
    """Case, padding, accents and composition make different people, in the file and against the database."""
    first, second = ["ABC", "abc "], ["abc", "\u00c1BC", "A\u0301BC", " abc"]
    take(people, HEADER + "".join(f'"{id}",b,c\n' for id in first).encode())
    take(people, HEADER + "".join(f'"{id}",b,c\n' for id in second).encode())

    assert list(people.get_many(first + second)) == first + second
    assert problems(people, HEADER + b"abc ,b,c\n") == [(2, "id 'abc ' is in the database already")]


def test_one_bad_row_among_thousands_keeps_all_of_them_out(people: PersonService) -> None:
    assert problems(people, rows(2500) + b"last,,Row\n") == [(2502, "first_name is empty")]


def test_ids_in_the_database_are_found_with_one_query_for_a_thousand_rows(
    people: PersonService, statements: Callable[..., AbstractContextManager[list[str]]]
) -> None:
    take(people, rows(2500))
    spent = people.stats().round_trips

    with statements(people.engine, people.read_engine) as seen, pytest.raises(ImportFailedError) as caught:
        take(people, rows(3000))

    assert len(caught.value.problems) == 2500
    assert people.stats().round_trips == spent  # the cache is not asked
    # A thousand ids may take two statements, for the sake of databases that take fewer parameters; the first asks
    # whether anybody is there.
    assert len(seen) <= 7


def test_nobody_is_looked_for_in_a_database_where_nobody_is(
    people: PersonService, statements: Callable[..., AbstractContextManager[list[str]]]
) -> None:
    with statements(people.engine, people.read_engine) as seen:
        take(people, rows(3000))

    assert len([statement for statement in seen if "SELECT" in statement]) == 1
    assert len([statement for statement in seen if "INSERT" in statement]) == 3


def test_an_id_added_by_somebody_while_the_file_was_checked_calls_the_import_off(
    people: PersonService, tmp_path: Path
) -> None:
    def intrude(step: str, _done: int, _total: int | None) -> None:
        if step == "check" and not people.exists("id-000007"):
            people.add(Person(id="id-000007", first_name="In", last_name="Truder"))

    with pytest.raises(EntityExistsError):
        take(people, rows(10) + b"bad\n", skip_bad=tmp_path / "bad.csv", progress=intrude)

    assert people.list() == [Person(id="id-000007", first_name="In", last_name="Truder")]
    assert os.listdir(tmp_path) in ([], ["people.db"])


@pytest.mark.parametrize("step", ["check", "import", "commit"])
def test_an_import_interrupted_at_any_step_leaves_nothing(people: PersonService, tmp_path: Path, step: str) -> None:
    def interrupt(now: str, _done: int, _total: int | None) -> None:
        if now == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        take(people, rows(2500) + b"bad\n", skip_bad=tmp_path / "bad.csv", progress=interrupt)

    assert people.count() == 0
    assert os.listdir(tmp_path) in ([], ["people.db"])


@sqlite_only
def test_progress_tells_each_step_and_the_commit_last(people: PersonService) -> None:
    told: list[tuple[str, int, int | None]] = []
    take(people, rows(2500), progress=lambda *step: told.append(step))

    assert told == [
        ("check", 1000, None),
        ("check", 2000, None),
        ("check", 2500, None),
        ("import", 1000, 2500),
        ("import", 2000, 2500),
        ("commit", 2500, 2500),
    ]


@sqlite_only
def test_a_pipe_can_be_imported(people: PersonService) -> None:
    reading, writing = os.pipe()

    def feed() -> None:
        with open(writing, "wb") as stream:
            stream.write(rows(10_000))

    feeder = threading.Thread(target=feed)
    feeder.start()
    with open(reading, "rb") as stream:
        assert import_people(people, stream).imported == 10_000
        assert not stream.closed
    feeder.join()


def peak_of(call: Callable[[], object]) -> int:
    """The most bytes that Python had allocated meanwhile, beyond what it had before."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@sqlite_only
def test_the_memory_of_an_import_does_not_grow_with_the_width_of_the_file(people: PersonService) -> None:
    name = b"n" * LIMITS["first_name"]
    content = HEADER + b"".join(b"%d,%s,%s\n" % (i, name, name) for i in range(30_000)) + b"bad\n"
    stream = io.BytesIO(content)

    def refused() -> None:
        with pytest.raises(ImportFailedError):
            import_people(people, stream)

    assert peak_of(refused) < len(content) / 1.5


@sqlite_only
def test_the_memory_of_an_import_does_not_grow_with_its_rows(
    people: PersonService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A set of the ids would take a hundred bytes a row, and an array of their hashes eight."""
    monkeypatch.setattr(interchange, "_RUN", 2**12)
    monkeypatch.setattr(interchange, "_PARTS", 2**7)

    def peak(count: int) -> int:
        file = tmp_path / f"{count}.csv"
        file.write_bytes(rows(count).replace(b"id-", b"of-%d-" % count) + b"bad\n")
        return peak_of(lambda: import_people(people, file, skip_bad=tmp_path / f"{count}.bad"))

    few, many = peak(20_000), peak(120_000)
    assert many - few < 4 * 100_000


@sqlite_only
def test_a_file_that_cannot_be_read_is_named(people: PersonService, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.csv"):
        import_people(people, tmp_path / "none.csv")


class TestSkipBad:
    """``skip_bad``: the good rows are imported, the bad ones kept."""

    def test_good_rows_are_imported_and_bad_ones_written_with_line_and_reason(
        self, people: PersonService, tmp_path: Path
    ) -> None:
        people.add(Person(id="there", first_name="Al", last_name="Ready"))
        bad = tmp_path / "bad.csv"
        content = (
            b"last_name,id,first_name\n"
            b"Good,one,Row\n"
            b'Latin,three,"Jos\xe9, 1"\n'
            b",,Empty\n"
            b"Wide,wide,X,Y\n"
            b'Open,"quote,X\n'
            b"Ready,there,Al\n"
            b"Good,two,Row\n"
            b"Again,two,Row\n"
            b"Mended,three,Row\n"
        )

        report = take(people, content, skip_bad=bad)

        assert report == ImportReport(file="<stream>", imported=2, skipped=7, bad_rows=bad)
        assert people.get_many(["one", "two"]) == {
            "one": Person(id="one", first_name="Row", last_name="Good"),
            "two": Person(id="two", first_name="Row", last_name="Good"),
        }
        assert bad.read_bytes() == (
            b"line,reason,last_name,id,first_name\n"
            b'3,the byte 0xe9 at character 17 is not UTF-8,Latin,three,"Jos\xe9, 1"\n'
            b"4,id is empty; last_name is empty,,,Empty\n"
            b"5,4 fields where the header has 3,Wide,wide,X,Y\n"
            b'6,"a quote is opened and not closed, or not written twice inside a value","Open,""quote,X"\n'
            b"7,id 'there' is in the database already,Ready,there,Al\n"
            b"9,id 'two' stands in line 8 already,Again,two,Row\n"
            b"10,id 'three' stands in line 3 already,Mended,three,Row\n"
        )

    @sqlite_only
    @pytest.mark.parametrize(
        ("row", "reason"),
        [
            (b"Ready,there,Al\n", b"id 'there' is in the database already"),
            (b"Again,one,Row\n", b"id 'one' stands in line 2 already"),
        ],
    )
    def test_the_fields_of_a_bad_row_stand_in_the_order_of_its_file(
        self, people: PersonService, tmp_path: Path, row: bytes, reason: bytes
    ) -> None:
        people.add(Person(id="there", first_name="Al", last_name="Ready"))
        bad = tmp_path / "bad.csv"

        take(people, b"last_name,id,first_name\nGood,one,Row\n" + row, skip_bad=bad)

        assert bad.read_bytes() == b"line,reason,last_name,id,first_name\n3," + reason + b"," + row

    @sqlite_only
    def test_without_bad_rows_the_file_has_its_header_alone(self, people: PersonService, tmp_path: Path) -> None:
        bad = tmp_path / "bad.csv"
        assert take(people, HEADER + b"a,b,c\n", skip_bad=bad).skipped == 0
        assert bad.read_bytes() == b"line,reason,id,first_name,last_name\n"

    @sqlite_only
    def test_an_existing_file_is_neither_overwritten_nor_anything_imported(
        self, people: PersonService, tmp_path: Path
    ) -> None:
        bad = tmp_path / "bad.csv"
        bad.write_text("precious")
        with pytest.raises(ConfigurationError, match=r"bad\.csv exists"):
            take(people, HEADER + b"a,b,c\n", skip_bad=bad)
        assert bad.read_text() == "precious"
        assert people.count() == 0

    @sqlite_only
    @pytest.mark.parametrize("content", [b"", b"id,first_name\na,b\n", b"id,first_name,last_name,age\na,b,c,1\n"])
    def test_a_bad_header_is_no_bad_row(self, people: PersonService, tmp_path: Path, content: bytes) -> None:
        with pytest.raises(ImportFailedError):
            take(people, content, skip_bad=tmp_path / "bad.csv")
        assert people.count() == 0
        assert os.listdir(tmp_path) == ["people.db"]

    @sqlite_only
    def test_a_folder_that_is_not_there_is_found_before_the_import(self, people: PersonService, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            take(people, HEADER + b"a,b,c\n", skip_bad=tmp_path / "none" / "bad.csv")
        assert people.count() == 0


NASTY = [
    'quo"te',
    "com,ma",
    "line\nend",
    "carriage\rreturn",
    "\r\n",
    " spaces ",
    "'=1+1",
    "\N{GRINNING FACE}\u2028",
    "\\",
]


def test_whatever_is_exported_can_be_imported_again(people: PersonService) -> None:
    those = [Person(id=f"{i}{text}", first_name=f"F{text}", last_name=f"L{text}") for i, text in enumerate(NASTY)]
    people.add_many(those)
    written = exported(people)
    for person in those:
        people.delete(person.id)

    assert take(people, written).imported == len(NASTY)
    assert people.list() == sorted(those, key=lambda person: person.id.encode())


text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)
text = text.filter(lambda value: bool(value.strip()))


@settings(max_examples=50)
@given(st.lists(st.tuples(text, text, text), unique_by=lambda row: row[0], max_size=20))
def test_any_people_survive_an_export_and_an_import(those: list[tuple[str, str, str]]) -> None:
    with person_repo.connect("sqlite://") as source, person_repo.connect("sqlite://") as target:
        for service in (source, target):
            Base.metadata.create_all(service.engine)
        source.add_many(Person(**dict(zip(COLUMNS, row, strict=True))) for row in those)

        assert take(target, exported(source)).imported == len(those)
        assert target.list() == source.list()


def test_json_lines_have_one_object_for_each_person(people: PersonService) -> None:
    import_people(people, LAUREATES)

    lines = exported(people, format="jsonl").decode().splitlines()

    assert len(lines) == 79
    assert lines == [line.strip() for line in lines]
    assert json.loads(lines[0]) == {"id": "adleman-2002", "first_name": "Leonard", "last_name": "Adleman"}
    assert any("Corbató" in line for line in lines)


def test_an_export_reads_a_thousand_people_at_a_time(
    people: PersonService, statements: Callable[..., AbstractContextManager[list[str]]]
) -> None:
    take(people, rows(2500))
    told: list[tuple[str, int, int | None]] = []

    with statements(people.engine, people.read_engine) as seen:
        assert export_people(people, io.BytesIO()) == 2500
    assert len(seen) == 3

    export_people(people, io.BytesIO(), progress=lambda *step: told.append(step))
    assert told == [("export", 1000, 2500), ("export", 2000, 2500), ("export", 2500, 2500)]


@sqlite_only
def test_nobody_is_exported_as_a_header_alone(people: PersonService) -> None:
    assert exported(people) == HEADER
    assert exported(people, format="jsonl") == b""


@sqlite_only
def test_an_unknown_format_is_refused(people: PersonService) -> None:
    with pytest.raises(ConfigurationError, match="known are: csv, jsonl"):
        exported(people, format="xml")


def test_fields_are_checked_as_an_import_checks_them() -> None:
    assert check_fields({"id": "a", "first_name": "b"}) == []
    assert check_fields({"id": " ", "first_name": "b\0"}) == ["id is empty", "first_name has a NUL character"]


class TestReplacing:
    """``replacing``: a file appears whole or not at all."""

    def test_the_file_stands_when_the_block_has_ended(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        with replacing(path) as stream:
            stream.write(b"new")
            assert not path.exists()
        assert path.read_bytes() == b"new"
        assert os.listdir(tmp_path) == ["file"]

    def test_an_error_leaves_what_was_there(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.write_bytes(b"old")

        def interrupted() -> None:
            with replacing(path) as stream:
                stream.write(b"new")
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert path.read_bytes() == b"old"
        assert os.listdir(tmp_path) == ["file"]

    def test_mode_and_link_of_the_file_replaced_are_kept(self, tmp_path: Path) -> None:
        path, link = tmp_path / "file", tmp_path / "link"
        path.write_bytes(b"old")
        path.chmod(0o640)
        link.symlink_to(path)
        with replacing(link) as stream:
            stream.write(b"new")
        assert link.is_symlink()
        assert path.read_bytes() == b"new"
        assert stat.S_IMODE(path.stat().st_mode) == 0o640

    def test_a_device_is_written_to_and_stays_one(self) -> None:
        with replacing(os.devnull) as stream:
            stream.write(b"gone")
        assert stat.S_ISCHR(os.stat(os.devnull).st_mode)
