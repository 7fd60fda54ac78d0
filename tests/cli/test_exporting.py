"""People to a file."""

from __future__ import annotations

import io
import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from support.command import HEADER, LAUREATES, rows, take

import person_repo
from person_repo import Person, PersonService
from person_repo.cli.csv.exporting import export_people, replacing
from person_repo.cli.csv.format import COLUMNS
from person_repo.cli.csv.importing import import_people
from person_repo.exceptions import ConfigurationError
from person_repo.model import Base

sqlite_only = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def people(people_engine: sa.Engine, database_url: str) -> Iterator[PersonService]:
    """A service over an empty table."""
    with person_repo.connect(database_url) as service:
        yield service


def exported(people: PersonService, **options: Any) -> bytes:
    stream = io.BytesIO()
    export_people(people, stream, **options)
    return stream.getvalue()


def test_an_export_is_byte_for_byte_the_import_in_the_order_of_ids(people: PersonService) -> None:
    import_people(people, LAUREATES)

    header, *lines = exported(people).splitlines(keepends=True)

    assert header == HEADER
    assert lines == sorted(LAUREATES.read_bytes().splitlines(keepends=True)[1:])


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


def test_an_export_can_be_imported_again(people: PersonService) -> None:
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
    steps: list[tuple[str, int, int | None]] = []

    with statements(people.engine, people.read_engine) as seen:
        assert export_people(people, io.BytesIO()) == 2500
    assert len(seen) == 3

    export_people(people, io.BytesIO(), progress=lambda *step: steps.append(step))
    assert steps == [("export", 1000, 2500), ("export", 2000, 2500), ("export", 2500, 2500)]


@sqlite_only
def test_an_export_of_nobody_is_a_header_alone(people: PersonService) -> None:
    assert exported(people) == HEADER
    assert exported(people, format="jsonl") == b""


@sqlite_only
def test_an_unknown_format_is_refused(people: PersonService) -> None:
    with pytest.raises(ConfigurationError, match="known are: csv, jsonl"):
        exported(people, format="xml")


class TestReplacing:
    """``replacing``: a file appears whole or not at all."""

    def test_the_file_appears_when_the_block_ends(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        with replacing(path) as stream:
            stream.write(b"new")
            assert not path.exists()
        assert path.read_bytes() == b"new"
        assert os.listdir(tmp_path) == ["file"]

    def test_an_error_leaves_the_old_file(self, tmp_path: Path) -> None:
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
