"""People to and from files: a CSV is checked whole before a row of it is imported, an export is streamed in pages."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import itertools
import json
import os
import re
import secrets
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, TextIO

from person_repo.exceptions import ConfigurationError, ImportFailedError, InvalidEntityError, RowProblem
from person_repo.mapping import EntityMapping
from person_repo.model import Person

if TYPE_CHECKING:
    from person_repo.service import PersonService

__all__ = [
    "COLUMNS",
    "FORMATS",
    "ImportReport",
    "Progress",
    "StepName",
    "check_fields",
    "export_people",
    "import_people",
    "replacing",
]

COLUMNS = ("id", "first_name", "last_name")
"""The columns of the file, in the order an export writes them. ``version`` is the database's own and stays there."""

FORMATS = ("csv", "jsonl")
"""What an export can be written as."""

StepName = Literal["check", "import", "commit", "export"]
"""What an import or an export is at."""

Progress = Callable[[StepName, int, int | None], None]
"""Called as the work goes on with the step, the rows done and the rows in all (None where nobody can know).

``"commit"`` comes once, when every row was handed over and the COMMIT is next. What it raises calls the import off.
"""

_CHUNK = 1000

# Characters. Three fields of csv's own limit (131,072) fit; neither a file without line ends nor a quote that is
# never closed fills the memory.
_LONGEST_ROW = 2**20

# What surrogateescape makes of a byte that is not UTF-8; valid UTF-8 never decodes to these.
_NOT_UTF8 = re.compile("[\udc80-\udcff]")

_MAPPING = EntityMapping(Person)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportReport:
    """What an import did: rows ``imported``, rows ``skipped``, and the file ``bad_rows`` that has the skipped ones."""

    file: str
    imported: int
    skipped: int = 0
    bad_rows: Path | None = None


@dataclass(slots=True)
class _Row:
    """A row as it stands in the file: the line it begins on, its fields, and what is wrong with it (line, reason)."""

    line: int
    fields: list[str]
    problems: list[tuple[int, str]] = field(default_factory=list)
    broken: bool = False  # no CSV: ``fields`` is the text of the line
    values: dict[str, str] = field(default_factory=dict)
    id: str | None = None


def import_people(
    service: PersonService,
    file: str | os.PathLike[str] | BinaryIO,
    *,
    skip_bad: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> ImportReport:
    """Imports a CSV of people in one transaction, all of it or nothing, and returns how many rows that were.

    ``file`` is a path or a binary stream. The whole file is checked before the first row is written: the header, the
    width of each row, UTF-8, NUL characters, quotes, empty or too long values, and ids that occur twice or are in the
    database already, compared as the database compares them: exactly. Blank lines are passed over. The good
    rows wait in a temporary file, so that a pipe can be read and a file that changes meanwhile does no harm;
    in memory stay a 16-byte digest and a line number for each id (about 130 bytes a row) and the problems found.

    ``skip_bad`` names a file that must not exist: the good rows are imported, still in one transaction, and the bad
    ones written there, with ``line`` and ``reason`` before their own fields. It appears, whole, once the import is
    committed, with nothing but its header where no row was bad.

    Raises ``ImportFailedError`` with every problem (with ``skip_bad``: those of the header, without which no row can be
    read), ``ConfigurationError`` where ``skip_bad`` exists, ``EntityExistsError`` where somebody added one of the ids
    while the file was being checked, ``OSError`` for a file that cannot be read. Nothing was imported then.
    """
    report = progress or _unheard
    bad_path = _new_path(skip_bad)
    with contextlib.ExitStack() as stack:
        name, text = stack.enter_context(_opened(file))
        bad = stack.enter_context(replacing(bad_path)) if bad_path else None
        good = stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8", newline=""))
        kept, skipped = _sort(_checked(text, service), name, good, bad, report)
        good.seek(0)
        imported = service.add_many(_spooled(good, kept, report))
    return ImportReport(file=name, imported=imported, skipped=skipped, bad_rows=bad_path)


def export_people(
    service: PersonService,
    stream: BinaryIO,
    *,
    format: Literal["csv", "jsonl"] = "csv",
    progress: Progress | None = None,
) -> int:
    """Writes every person to a binary stream, as UTF-8 and in key order, and returns how many that were.

    ``"csv"`` begins with a header and can be imported again; ``"jsonl"`` is one JSON object a line. Read in pages:
    memory stays bounded, and people added or changed meanwhile may or may not be in it.
    """
    if format not in FORMATS:
        raise ConfigurationError(f"export format {format!r} is unknown; known are: {', '.join(FORMATS)}")
    total = service.count() if progress else None
    report = progress or _unheard
    render = _as_csv if format == "csv" else _as_jsonl
    if format == "csv":
        stream.write(_as_csv([COLUMNS]))
    written = 0
    for page in _pages(service):
        stream.write(render([(person.id, person.first_name, person.last_name) for person in page]))
        written += len(page)
        report("export", written, total)
    return written


def check_fields(values: Mapping[str, str]) -> list[str]:
    """What is wrong with these fields of a person, one sentence for each problem; empty where nothing is.

    An empty field, or one of white space only, is a problem here although the database would take it.
    """
    problems = [f"{name} is empty" for name, value in values.items() if not value.strip()]
    problems += [f"{name} has a NUL character" for name, value in values.items() if "\0" in value]
    try:
        _MAPPING.check(values)
    except InvalidEntityError:
        problems += [reason for name, value in values.items() if (reason := _refusal(name, value))]
    return problems


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A new binary file that takes the place of ``path`` when the block ends, whole, and vanishes if the block raises.

    A link is followed. What is no regular file (a terminal, a pipe, ``/dev/null``) is written to directly.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        with target.open("wb") as device:
            yield device
        return
    draft = target.with_name(f".{target.name[:100]}.{secrets.token_hex(6)}.part")
    try:
        with draft.open("xb") as stream:
            if target.exists():
                draft.chmod(target.stat().st_mode & 0o7777)
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)


def _unheard(_step: str, _done: int, _total: int | None) -> None:
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
    """The name and the text of a file; bytes that are not UTF-8 are kept as surrogates, line ends as they are."""
    if isinstance(file, str | os.PathLike):
        with open(file, encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
            yield os.fspath(file), text
        return
    wrapper = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
    try:
        yield str(getattr(file, "name", "<stream>")), wrapper
    finally:
        wrapper.detach()  # the stream is the caller's to close


class _Lines:
    """The physical lines of a file, numbered, for csv to ask for; after a broken row it goes back to the next line."""

    def __init__(self, text: TextIO) -> None:
        self._text = text
        self._again: deque[str] = deque()
        self._row: list[str] = []
        self._size = 0
        self.first = 1

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else self._read()
        if not line:
            raise StopIteration
        self._row.append(line)
        self._size += len(line)
        if self._size > _LONGEST_ROW:
            raise csv.Error(f"the row is longer than {_LONGEST_ROW:,} characters")
        return line

    def begin_row(self) -> None:
        """Counts the lines of the row before as read."""
        self.first += len(self._row)
        self._row = []
        self._size = 0

    def break_row(self, error: csv.Error) -> _Row:
        """The first line of a row that is no CSV, as a row of its own; the lines after it are read again.

        A quote that is not closed runs over good rows to the next quote: only the line that opened it is bad.
        """
        reason = str(error)
        if len(self._row) > 1 or "end of data" in reason:
            reason = "a quote is opened and not closed, or not written twice inside a value"
        elif "expected after" in reason:
            reason = "there is text after a closing quote; inside a value a quote is written twice"
        self._again.extendleft(reversed(self._row[1:]))
        del self._row[1:]
        text = self._row[0].rstrip("\r\n")
        return _Row(self.first, [text], [*self.problems(), (self.first, reason)], broken=True)

    def problems(self) -> list[tuple[int, str]]:
        """The bytes in the lines of this row that are not UTF-8, the first of each line."""
        found = ((at, _NOT_UTF8.search(line)) for at, line in enumerate(self._row, self.first) if not line.isascii())
        return [
            (at, f"the byte 0x{ord(match[0]) - 0xDC00:02x} at character {match.start() + 1} is not UTF-8")
            for at, match in found
            if match
        ]

    def _read(self) -> str:
        line = self._text.readline(_LONGEST_ROW + 1)
        rest = line
        while len(rest) > _LONGEST_ROW and not rest.endswith(("\r", "\n")):
            rest = self._text.readline(_LONGEST_ROW + 1)
        return line


def _rows(text: TextIO) -> Iterator[_Row]:
    """The rows of a file; blank lines are passed over, what is no CSV comes as a row with a problem."""
    lines = _Lines(text)
    reader = csv.reader(lines, strict=True)
    while True:
        lines.begin_row()
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield lines.break_row(error)
            continue
        if fields:
            yield _Row(lines.first, fields, lines.problems())


def _checked(text: TextIO, service: PersonService) -> Iterator[_Row]:
    """The header, then every row, with all their problems; nothing after a header that names no known column."""
    rows = _rows(text)
    header = next(rows, None) or _Row(1, [], [(1, f"the file is empty; its first line must be {','.join(COLUMNS)}")])
    places = _places(header)
    yield header
    seen: dict[bytes, int] = {}
    while places and (chunk := list(itertools.islice(rows, _CHUNK))):
        for row in chunk:
            _check(row, places, len(header.fields), seen)
        _check_absent(chunk, service)
        yield from chunk


def _places(header: _Row) -> dict[str, int]:
    """Where each known column stands, and the header's problems added to it; empty where it cannot tell the rows."""
    if header.problems:
        return {}
    names = header.fields
    missing = [name for name in COLUMNS if name not in names]
    unknown = [name for name in names if name not in COLUMNS]
    twice = [name for name in COLUMNS if names.count(name) > 1]
    reasons = [f"the header has no column {name}" for name in missing]
    reasons += [f"the header has an unknown column {name!r}; known are: {', '.join(COLUMNS)}" for name in unknown]
    reasons += [f"the header has the column {name} twice" for name in twice]
    header.problems += [(header.line, reason) for reason in reasons]
    return {name: names.index(name) for name in COLUMNS if name in names}


def _check(row: _Row, places: Mapping[str, int], width: int, seen: dict[bytes, int]) -> None:
    """Adds to a row what can be told from the file alone; ``seen`` has the line of every id so far."""
    if row.broken:
        return
    if len(row.fields) != width:
        row.problems.append((row.line, f"{len(row.fields)} fields where the header has {width}"))
        return
    row.values = {name: row.fields[at] for name, at in places.items()}
    readable = {name: value for name, value in row.values.items() if value.isascii() or not _NOT_UTF8.search(value)}
    reasons = check_fields(readable)
    row.problems += [(row.line, reason) for reason in reasons]
    if "id" in readable and not (reasons and check_fields({"id": readable["id"]})):
        _check_first(row, readable["id"], seen)


def _check_first(row: _Row, id: str, seen: dict[bytes, int]) -> None:
    digest = hashlib.blake2b(id.encode(), digest_size=16).digest()
    first = seen.setdefault(digest, row.line)
    if first == row.line:
        row.id = id
    else:
        row.problems.append((row.line, f"id {id!r} stands in line {first} already"))


def _check_absent(rows: Sequence[_Row], service: PersonService) -> None:
    asked = [row for row in rows if row.id is not None]
    with service.using(use_db=True):
        found = service.get_many([row.id for row in asked])
    for row in asked:
        if row.id in found:
            row.problems.append((row.line, f"id {row.id!r} is in the database already"))


def _sort(rows: Iterator[_Row], name: str, good: TextIO, bad: BinaryIO | None, report: Progress) -> tuple[int, int]:
    """How many rows were good, and written to ``good``, and how many bad: written to ``bad``, or else raised."""
    header = next(rows)
    problems = _problems(name, header)
    if bad:
        _refuse(problems)
        bad.write(_as_csv([("line", "reason", *header.fields)]))
    writer = csv.writer(good)
    kept = skipped = 0
    for row in rows:
        if row.problems and bad:
            bad.write(_as_csv([(str(row.line), "; ".join(reason for _, reason in row.problems), *row.fields)]))
        elif row.problems:
            problems += _problems(name, row)
        elif not problems:
            writer.writerow(row.values[column] for column in COLUMNS)
        kept, skipped = (kept, skipped + 1) if row.problems else (kept + 1, skipped)
        if (kept + skipped) % _CHUNK == 0:
            report("check", kept + skipped, None)
    _refuse(problems)
    report("check", kept + skipped, None)
    if bad:
        bad.flush()  # a full disk is found now, before anything is imported
    return kept, skipped


def _problems(name: str, *rows: _Row) -> list[RowProblem]:
    return [RowProblem(name, line, reason) for row in rows for line, reason in row.problems]


def _refuse(problems: Sequence[RowProblem]) -> None:
    if problems:
        raise ImportFailedError(problems)


def _spooled(good: TextIO, total: int, report: Progress) -> Iterator[Person]:
    for done, row in enumerate(csv.reader(good), 1):
        yield Person(**dict(zip(COLUMNS, row, strict=True)))
        if done % _CHUNK == 0:
            report("import", done, total)
    report("commit", total, total)


def _pages(service: PersonService) -> Iterator[Sequence[Person]]:
    page = service.list(limit=_CHUNK)
    yield page
    while len(page) == _CHUNK:
        page = service.list(after=page[-1].id, limit=_CHUNK)
        yield page


def _as_csv(rows: Iterable[Sequence[str]]) -> bytes:
    """Lines of CSV; what was not UTF-8 in a file that was read comes out as the bytes it was."""
    text = io.StringIO()
    plain = csv.writer(text, lineterminator="\n")
    # Up to Python 3.12 the plain writer leaves a carriage return unquoted, and a reader takes it for a line end.
    quoted = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    for row in rows:
        (quoted if any("\r" in value for value in row) else plain).writerow(row)
    return text.getvalue().encode("utf-8", "surrogateescape")


def _as_jsonl(rows: Iterable[Sequence[str]]) -> bytes:
    lines = (json.dumps(dict(zip(COLUMNS, row, strict=True)), ensure_ascii=False) for row in rows)
    return "".join(f"{line}\n" for line in lines).encode()


def _refusal(name: str, value: str) -> str | None:
    try:
        _MAPPING.check({name: value})
    except InvalidEntityError as exc:
        return str(exc)
    return None
