"""People to and from files: a CSV is checked whole before a row of it is imported, an export is streamed in pages."""

from __future__ import annotations

import contextlib
import csv
import functools
import hashlib
import io
import itertools
import json
import os
import re
import secrets
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO, Literal, TextIO, cast

import msgspec

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

# An id that is not longer stands for itself where ids are compared, any other by a digest that is one longer.
_SHORT = 15

# What surrogateescape makes of a byte that is not UTF-8; valid UTF-8 never decodes to these.
_NOT_UTF8 = re.compile("[\udc80-\udcff]")

_MAPPING = EntityMapping(Person)
_LIMITS = [_MAPPING.by_name[name].length or sys.maxsize for name in COLUMNS]


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


_Fields = tuple[str, str, str]
"""The values of ``COLUMNS``, in their order."""


@dataclass(slots=True)
class _Good:
    """Rows in which nothing is wrong."""

    rows: list[_Fields]


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
    in memory stay a line number and at most 16 bytes for each id (about 130 bytes a row) and the problems found.

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
        good = _Spool(stack.enter_context(tempfile.TemporaryFile()))
        kept, skipped = _sort(_checked(text, service), name, good, bad, report)
        imported = service.database.add_rows(COLUMNS, _spooled(good, kept, report))
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

    def ahead(self) -> list[str]:
        """The next lines, to be counted by ``skip`` or given back by ``again``; none while some are given back."""
        if self._again:
            return []
        read = functools.partial(self._text.readline, _LONGEST_ROW + 1)
        lines = [*itertools.islice(iter(read, ""), _CHUNK)]
        return lines if not lines or max(map(len, lines)) <= _LONGEST_ROW else self._whole(lines)

    def _whole(self, pieces: Iterable[str]) -> list[str]:
        """The lines of these pieces; of one in several pieces the first alone is kept, as ``_read`` does."""
        lines: list[str] = []
        goes_on = False
        for piece in pieces:
            if not goes_on:
                lines.append(piece)
            goes_on = _goes_on(piece)
        while goes_on:
            goes_on = _goes_on(self._text.readline(_LONGEST_ROW + 1))
        return lines

    def again(self, lines: Iterable[str]) -> None:
        """These lines are the next once more."""
        self._again.extend(lines)

    def skip(self, count: int) -> None:
        """Counts lines of ``ahead`` as read."""
        self.first += count

    @property
    def given_back(self) -> bool:
        """Whether lines that were read before are yet to come."""
        return bool(self._again)

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
        return line if len(line) <= _LONGEST_ROW else self._whole([line])[0]


def _goes_on(piece: str) -> bool:
    """Whether a piece of a line as long as a row may be is not its end."""
    return len(piece) > _LONGEST_ROW and not piece.endswith(("\r", "\n"))


def _rows(lines: _Lines) -> Iterator[_Row]:
    """The rows of a file; blank lines are passed over, what is no CSV comes as a row with a problem."""
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


def _checked(text: TextIO, service: PersonService) -> Iterator[_Row | _Good]:
    """The header, then every row, with all their problems; nothing after a header that names no known column.

    Many lines at once where nothing is wrong with any, as in most files; else one after the other.
    """
    lines = _Lines(text)
    rows = _rows(lines)
    header = next(rows, None) or _Row(1, [], [(1, f"the file is empty; its first line must be {','.join(COLUMNS)}")])
    places = _places(header)
    yield header
    if not places:
        return
    is_empty = _is_empty(service)
    seen: dict[bytes, int] = {}
    while True:
        lines.begin_row()
        first, ahead = lines.first, lines.ahead()
        good = _good(ahead, first, places, len(header.fields), seen)
        if good:
            lines.skip(len(ahead))
            yield from _absent(good, first, service, is_empty)
            continue
        lines.again(ahead)
        chunk = [*_slowly(rows, lines)]
        for row in chunk:
            _check(row, places, len(header.fields), seen)
        if not is_empty:
            _check_absent(chunk, service)
        yield from chunk
        if not chunk and not lines.given_back:
            return


def _slowly(rows: Iterator[_Row], lines: _Lines) -> Iterator[_Row]:
    """The rows of the lines that were given back, and of those that belong to the last of them."""
    while lines.given_back and (row := next(rows, None)):
        yield row


def _is_empty(service: PersonService) -> bool:
    """Whether nobody is in the database, so that nobody need be looked for there.

    Who is added meanwhile is met by the database itself, as whoever is added after the check.
    """
    with service.using(use_db=True):
        return not service.list(limit=1)


def _good(
    lines: Sequence[str], first: int, places: Mapping[str, int], width: int, seen: dict[bytes, int]
) -> list[_Fields] | None:
    """The rows of these lines where each line is a row in which the file alone shows nothing wrong, all of them added
    to ``seen``; None where one of them must be looked at by itself.

    The same as ``_check`` finds, by column instead of by value: this is most of what an import's check takes.
    """
    text = "".join(lines)
    if len(places) < len(COLUMNS) or "\0" in text or not (text.isascii() or _NOT_UTF8.search(text) is None):
        return None
    try:
        rows = list(csv.reader(lines, strict=True))
    except csv.Error:
        return None
    if len(rows) != len(lines) or {*map(len, rows)} != {width}:
        return None
    columns = [*zip(*rows, strict=True)]
    known = [columns[places[name]] for name in COLUMNS]
    for column, limit in zip(known, _LIMITS, strict=True):
        if not all(map(str.strip, column)) or max(map(len, column)) > limit:
            return None
    marks = dict(zip(_marks(known[0]), itertools.count(first), strict=False))
    if len(marks) < len(rows) or not seen.keys().isdisjoint(marks):
        return None
    seen.update(marks)
    return [*zip(*known, strict=True)]


def _absent(rows: list[_Fields], first: int, service: PersonService, is_empty: bool) -> Iterator[_Row | _Good]:
    """These rows at once where nobody of them is in the database, else each with its problems."""
    with service.using(use_db=True):
        found = {} if is_empty else service.get_many([row[0] for row in rows])
    if not found:
        yield _Good(rows)
        return
    for line, row in enumerate(rows, first):
        problems = [(line, _is_there(row[0]))] if row[0] in found else []
        yield _Row(line, [*row], problems, values=dict(zip(COLUMNS, row, strict=True)), id=row[0])


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
    first = seen.setdefault(_mark(id), row.line)
    if first == row.line:
        row.id = id
    else:
        row.problems.append((row.line, f"id {id!r} stands in line {first} already"))


def _marks(ids: Sequence[str]) -> Iterable[bytes]:
    """What stands for each id where ids are compared."""
    encoded = [*map(str.encode, ids)]
    return encoded if max(map(len, encoded)) <= _SHORT else map(_mark, ids)


def _mark(id: str) -> bytes:
    encoded = id.encode()
    return encoded if len(encoded) <= _SHORT else hashlib.blake2b(encoded, digest_size=_SHORT + 1).digest()


def _is_there(id: str) -> str:
    return f"id {id!r} is in the database already"


def _check_absent(rows: Sequence[_Row], service: PersonService) -> None:
    asked = [row for row in rows if row.id is not None]
    with service.using(use_db=True):
        found = service.get_many([row.id for row in asked])
    for row in asked:
        if row.id in found:
            row.problems.append((row.line, _is_there(str(row.id))))


class _Spool:
    """Rows kept in a temporary file, to come back in the order they went in."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._rows: list[_Fields] = []

    def keep(self, rows: Iterable[_Fields]) -> None:
        self._rows += rows
        while len(self._rows) >= _CHUNK:
            self._write(self._rows[:_CHUNK])
            del self._rows[:_CHUNK]

    def _write(self, rows: list[_Fields]) -> None:
        encoded = msgspec.msgpack.encode(rows)
        self._file.write(len(encoded).to_bytes(8))
        self._file.write(encoded)

    def chunks(self) -> Iterator[list[_Fields]]:
        """All rows, a thousand at a time."""
        self._write(self._rows)
        self._file.seek(0)
        decode = msgspec.msgpack.Decoder(list[_Fields]).decode
        while size := int.from_bytes(self._file.read(8)):
            yield decode(self._file.read(size))


def _sort(
    rows: Iterator[_Row | _Good], name: str, good: _Spool, bad: BinaryIO | None, report: Progress
) -> tuple[int, int]:
    """How many rows were good, and kept in ``good``, and how many bad: written to ``bad``, or else raised."""
    header = cast("_Row", next(rows))
    problems = _problems(name, header)
    if bad:
        _refuse(problems)
        bad.write(_as_csv([("line", "reason", *header.fields)]))
    kept = skipped = reported = 0
    for row in rows:
        if isinstance(row, _Good):
            kept += len(row.rows)
            good.keep(row.rows if not problems else [])
        elif row.problems:
            skipped += 1
            if bad:
                bad.write(_as_csv([(str(row.line), "; ".join(reason for _, reason in row.problems), *row.fields)]))
            else:
                problems += _problems(name, row)
        else:
            kept += 1
            good.keep([cast("_Fields", tuple(row.values[column] for column in COLUMNS))] if not problems else [])
        if (kept + skipped) // _CHUNK > reported:
            reported = (kept + skipped) // _CHUNK
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


def _spooled(good: _Spool, total: int, report: Progress) -> Iterator[list[_Fields]]:
    done = 0
    for chunk in good.chunks():
        yield chunk
        done += len(chunk)
        if len(chunk) == _CHUNK:
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
