"""The command line, called in this process or as a process of its own, and imports of a few bytes."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Protocol

import pytest
from click.testing import CliRunner, Result

import person_repo
from person_repo import PersonService
from person_repo.cli.csv.importing import ImportReport, import_people
from person_repo.cli.csv.problems import ImportFailedError
from person_repo.cli.main import main

LAUREATES = Path(person_repo.__file__).with_name("cli") / "demo" / "turing_laureates.csv"
KNUTH = {"id": "knuth-1974", "first_name": "Donald", "last_name": "Knuth"}
HEADER = b"id,first_name,last_name\n"


class Run(Protocol):
    """A call of the command line on one database."""

    def __call__(self, *args: str, input: bytes | None = None) -> Result: ...


def call(*args: str, input: bytes | None = None) -> Result:
    """One call in this process. Every exception except SystemExit is raised here."""
    return CliRunner(catch_exceptions=False).invoke(main, args, input=input)


def process(*args: str, **options: Any) -> subprocess.Popen[bytes]:
    """One call in a process of its own, with pipes."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen([sys.executable, "-m", "person_repo", *args], **pipes)


def answer(result: Result) -> Any:
    """The JSON document of a call that went well."""
    assert (result.exit_code, result.stderr) == (0, "")
    return json.loads(result.stdout)


def error(result: Result) -> Any:
    """The JSON document of a call that failed."""
    document = json.loads(result.stderr)
    assert document["exit_code"] == result.exit_code
    return document


def rows(number: int) -> bytes:
    """A CSV of so many people."""
    return HEADER + b"".join(b"id-%06d,First,Last\n" % index for index in range(number))


def take(people: PersonService, content: bytes, **options: Any) -> ImportReport:
    """Imports a file with this content."""
    return import_people(people, io.BytesIO(content), **options)


def problems_of(people: PersonService, content: bytes) -> list[tuple[int, str]]:
    """The lines and reasons for which an import of this is refused; it has imported nothing then."""
    before = people.count()
    with pytest.raises(ImportFailedError) as caught:
        take(people, content)
    assert people.count() == before
    return [(problem.line, problem.reason) for problem in caught.value.problems]
