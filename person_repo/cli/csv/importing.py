"""People from a CSV, checked whole before the first row is written."""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import operator
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, TextIO

from person_repo.cli.csv.checking import check_header, checked
from person_repo.cli.csv.exporting import replacing
from person_repo.cli.csv.format import COLUMNS, as_csv
from person_repo.cli.csv.lines import Lines, read_rows
from person_repo.cli.csv.problems import ImportFailedError, RowProblem
from person_repo.cli.csv.rows import BadRow, Checked, GoodRows, Row
from person_repo.cli.csv.spool import IdHashes, Spool, refuse_repeated
from person_repo.exceptions import ConfigurationError

if TYPE_CHECKING:
    from person_repo.service import PersonService

__all__ = ["ImportReport", "Progress", "import_people"]

Progress = Callable[[Literal["check", "import", "commit"], int, int | None], None]
"""Called during an import with the step, the rows done and the rows in all (None while that is unknown).

``"commit"`` comes once, when every row was sent and the COMMIT is next. An exception raised there stops the import.
"""

_CHUNK = 1000

_EMPTY = f"the file is empty; its first line must be {','.join(COLUMNS)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportReport:
    """The rows of ``file`` that were ``imported`` and ``skipped``; ``bad_rows`` is the file with the skipped ones."""

    file: str
    imported: int
    skipped: int = 0
    bad_rows: Path | None = None


def import_people(
    service: PersonService,
    file: str | os.PathLike[str] | BinaryIO,
    *,
    skip_bad: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> ImportReport:
    """Imports a CSV of people in one transaction, all of it or nothing.

    ``file`` is a path or a binary stream. The whole file is checked before the first row is written: the header, the
    width of each row, UTF-8, NUL characters, quotes, empty or too long values, and ids that occur twice or are in the
    database already, compared as the database compares them: exactly. Blank lines are passed over. The rows wait in a
    temporary file, so that a pipe can be read and a file that changes meanwhile does no harm, and a hash of each id in
    another. Memory holds the problems and the ids that occur twice, however many rows there are.

    ``skip_bad`` names a file that must not exist: the good rows are imported, still in one transaction, and the bad
    ones written there, with ``line`` and ``reason`` before their own fields. It appears, whole, once the import is
    committed, with nothing but its header if no row was bad.

    Raises ``ImportFailedError`` with every problem (with ``skip_bad``: those of the header, without which no row can be
    read), ``ConfigurationError`` if ``skip_bad`` exists, ``EntityExistsError`` if somebody added one of the ids while
    the file was being checked, ``OSError`` for a file that cannot be read. Nothing was imported then.
    """
    report = progress or _no_progress
    bad_path = _new_path(skip_bad)
    with contextlib.ExitStack() as stack:
        name, text = stack.enter_context(_opened(file))
        bad = stack.enter_context(replacing(bad_path)) if bad_path else None
        spool = Spool(stack.enter_context(tempfile.TemporaryFile()))
        ids = IdHashes(stack.enter_context(tempfile.TemporaryFile()))
        lines = Lines(text)
        header = next(read_rows(lines), None) or Row(1, [], [(1, _EMPTY)])
        columns = check_header(header)
        if bad:
            _refuse(_problems(name, header))
            bad.write(as_csv([("line", "reason", *header.fields)]))
        _keep(checked(lines, columns, len(header.fields), service), spool, ids, report)
        rows = functools.partial(refuse_repeated, spool, ids.repeated())
        good, skipped = _count(rows(), _problems(name, header), name, bad)
        report("check", good + skipped, None)
        imported = service.database.add_rows(COLUMNS, _in_chunks(rows(), columns, good, report), checked=True)
    return ImportReport(file=name, imported=imported, skipped=skipped, bad_rows=bad_path)


def _no_progress(_step: str, _done: int, _total: int | None) -> None:
    return None


def _new_path(path: str | os.PathLike[str] | None) -> Path | None:
    if path is None:
        return None
    if os.path.lexists(path):
        raise ConfigurationError(
            f"{os.fspath(path)} exists and may hold the bad rows of another import; move it away or name another file"
        )
    return Path(path)


@contextlib.contextmanager
def _opened(file: str | os.PathLike[str] | BinaryIO) -> Iterator[tuple[str, TextIO]]:
    """The name and the text of a file. Bytes that are not UTF-8 become surrogates; line ends stay as they are."""
    if isinstance(file, str | os.PathLike):
        with open(file, encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
            yield os.fspath(file), text
        return
    wrapper = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
    try:
        yield str(getattr(file, "name", "<stream>")), wrapper
    finally:
        wrapper.detach()  # The caller closes the stream.


def _keep(rows: Iterable[Checked], spool: Spool, ids: IdHashes, report: Progress) -> None:
    """Puts rows into the spool, and their ids among the hashes."""
    done = reported = 0
    for each in rows:
        spool.keep(each)
        ids.add(each.ids())
        done += len(each)
        if done // _CHUNK > reported:
            reported = done // _CHUNK
            report("check", done, None)


def _count(rows: Iterable[Checked], problems: list[RowProblem], name: str, bad: BinaryIO | None) -> tuple[int, int]:
    """The number of good and of bad rows. Bad ones are written to ``bad``, or raised with the header's problems."""
    good = skipped = 0
    for each in rows:
        if isinstance(each, GoodRows):
            good += len(each)
            continue
        skipped += 1
        if bad:
            bad.write(each.as_csv())
        else:
            problems += _problems(name, each)
    _refuse(problems)
    if bad:
        bad.flush()  # A full disk is found now, before anything is imported.
    return good, skipped


def _problems(name: str, row: Row | BadRow) -> list[RowProblem]:
    return [RowProblem(name, line, reason) for line, reason in row.problems]


def _refuse(problems: Sequence[RowProblem]) -> None:
    if problems:
        raise ImportFailedError(problems)


def _in_chunks(
    rows: Iterable[Checked], columns: Mapping[str, int], total: int, report: Progress
) -> Iterator[list[tuple[str, ...]]]:
    """The good rows with their columns in the order of ``COLUMNS``, a thousand at a time."""
    ordered = operator.itemgetter(*(columns[name] for name in COLUMNS))
    good = itertools.chain.from_iterable(map(ordered, each.rows) for each in rows if isinstance(each, GoodRows))
    done = 0
    while chunk := [*itertools.islice(good, _CHUNK)]:
        yield chunk
        done += len(chunk)
        if len(chunk) == _CHUNK:
            report("import", done, total)
    report("commit", total, total)
