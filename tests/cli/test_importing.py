"""People from a CSV: all of it or nothing, in bounded memory."""

from __future__ import annotations

import csv
import io
import os
import pickle
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import sqlalchemy as sa
from support.command import HEADER, LAUREATES, problems_of, rows, take

import person_repo
from person_repo import Person, PersonService
from person_repo.cli.csv import spool
from person_repo.cli.csv.importing import ImportReport, import_people
from person_repo.cli.csv.problems import ImportFailedError, RowProblem
from person_repo.exceptions import ConfigurationError, EntityExistsError

sqlite_only = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def people(people_engine: sa.Engine, database_url: str) -> Iterator[PersonService]:
    """A service over an empty table."""
    with person_repo.connect(database_url) as service:
        yield service


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


def test_an_import_invalidates_earlier_reads(people: PersonService) -> None:
    assert people.get("knuth-1974") is None
    import_people(people, LAUREATES)
    assert people.get_one("knuth-1974").last_name == "Knuth"


def test_an_import_of_few_people_drops_these_and_one_of_many_the_whole_model(people: PersonService) -> None:
    import_people(people, LAUREATES)
    assert (people.stats().tombstones, people.stats().model_drops) == (79, 0)

    assert take(people, rows(5000)).imported == 5000
    assert (people.stats().tombstones, people.stats().model_drops) == (79, 1)


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
    assert problems_of(people, HEADER + b"abc ,b,c\n") == [(2, "id 'abc ' is in the database already")]


def test_one_bad_row_among_thousands_keeps_all_of_them_out(people: PersonService) -> None:
    assert problems_of(people, rows(2500) + b"last,,Row\n") == [(2502, "first_name is empty")]


def test_ids_in_the_database_are_found_with_one_query_for_a_thousand_rows(
    people: PersonService, statements: Callable[..., AbstractContextManager[list[str]]]
) -> None:
    take(people, rows(2500))
    spent = people.stats().round_trips

    with statements(people.engine, people.read_engine) as seen, pytest.raises(ImportFailedError) as caught:
        take(people, rows(3000))

    assert len(caught.value.problems) == 2500
    assert people.stats().round_trips == spent  # the cache is not asked
    # One for the question whether the table is empty; a thousand ids may take two, since some databases take fewer
    # parameters.
    assert len(seen) <= 7


def test_ids_are_not_looked_up_in_an_empty_database(
    people: PersonService, statements: Callable[..., AbstractContextManager[list[str]]]
) -> None:
    with statements(people.engine, people.read_engine) as seen:
        take(people, rows(3000))

    assert len([statement for statement in seen if "SELECT person" in statement]) == 1
    assert len([statement for statement in seen if "INSERT" in statement]) == 3


def test_an_id_added_by_somebody_during_the_check_stops_the_import(people: PersonService, tmp_path: Path) -> None:
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
def test_progress_is_reported_for_each_step_and_the_commit_last(people: PersonService) -> None:
    steps: list[tuple[str, int, int | None]] = []
    take(people, rows(2500), progress=lambda *step: steps.append(step))

    assert steps == [
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
    """The most bytes that Python allocated during the call."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@sqlite_only
def test_the_memory_of_an_import_does_not_grow_with_the_width_of_the_file(people: PersonService) -> None:
    name = b"n" * 200  # the most that the column takes
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
    monkeypatch.setattr(spool, "_RUN", 2**12)
    monkeypatch.setattr(spool, "_PARTS", 2**7)

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


def test_the_error_of_an_import_shows_the_first_problems_and_counts_the_rest() -> None:
    problems = [RowProblem("people.csv", line, "the id is empty") for line in range(2, 27)]
    error = ImportFailedError(problems)

    shown = str(error).splitlines()
    assert shown[0] == "nothing was imported; 25 problem(s):"
    assert shown[1] == "people.csv:2: the id is empty"
    assert shown[-1] == "... and 5 more"
    assert len(shown) == 22
    assert error.problems == tuple(problems)


def test_the_error_of_an_import_survives_the_way_to_another_process() -> None:
    error = ImportFailedError([RowProblem("people.csv", 3, "the id is empty")])

    other = pickle.loads(pickle.dumps(error))

    assert other.problems == error.problems
    assert str(other).splitlines() == ["nothing was imported; 1 problem(s):", "people.csv:3: the id is empty"]
