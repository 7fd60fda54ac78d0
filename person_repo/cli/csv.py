"""People to and from files: a CSV is checked whole before a row of it is imported, an export is streamed in pages."""

from __future__ import annotations

import contextlib
import csv
import functools
import io
import itertools
import json
import operator
import os
import re
import secrets
import sys
import tempfile
from array import array
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO, Literal, Self, TextIO

import msgspec

from person_repo.exceptions import ConfigurationError, ImportFailedError, InvalidEntityError, RowProblem
from person_repo.mapped.mapping import EntityMapping
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

# So many hashes of ids, eight bytes each, wait to be written, in so many parts. Each part is compared by itself: of a
# hundred million ids that is a hundred thousand at once.
_RUN = 2**18
_PARTS = 2**10

# What surrogateescape makes of a byte that is not UTF-8; valid UTF-8 never decodes to these.
_NOT_UTF8 = re.compile("[\udc80-\udcff]")

_EMPTY = f"the file is empty; its first line must be {','.join(COLUMNS)}"

_MAPPING = EntityMapping(Person)
_LIMITS = [_MAPPING.by_name[name].length or sys.maxsize for name in COLUMNS]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportReport:
    """What an import did: rows ``imported``, rows ``skipped``, and the file ``bad_rows`` that has the skipped ones."""

    file: str
    imported: int
    skipped: int = 0
    bad_rows: Path | None = None


_Problem = tuple[int, str]
"""The line and the reason."""

_Places = Mapping[str, int]
"""Where each known column stands in a row."""


@dataclass(slots=True)
class _Row:
    """A row as it stands in the file: the line it begins on, its fields, and what is wrong with it."""

    line: int
    fields: list[str]
    problems: list[_Problem] = field(default_factory=list)
    broken: bool = False  # no CSV: ``fields`` is the text of the line
    id: str | None = None  # where nothing is wrong with it


class _Good(msgspec.Struct, tag=True):
    """Rows in which nothing is wrong, on lines that follow each other; the first is ``line``."""

    line: int
    rows: list[tuple[str, ...]]
    id_at: int | None

    def __len__(self) -> int:
        return len(self.rows)

    def ids(self) -> list[str]:
        return [] if self.id_at is None else [row[self.id_at] for row in self.rows]

    def refusing(self, reasons: Mapping[int, str]) -> Iterator[_Good | _Bad]:
        """These rows, those as bad ones whose line has a reason."""
        if not reasons:
            yield self
            return
        for line, (row, id) in enumerate(zip(self.rows, self.ids(), strict=True), self.line):
            if line in reasons:
                yield _Bad.of(line, row, [(line, reasons[line])], id)
            else:
                yield _Good(line, [row], self.id_at)


class _Bad(msgspec.Struct, tag=True):
    """A row that is not imported: the line it begins on, its fields as the bytes they were, and why not."""

    line: int
    fields: list[bytes]
    problems: list[_Problem]
    id: str | None

    @classmethod
    def of(cls, line: int, fields: Iterable[str], problems: list[_Problem], id: str | None) -> Self:
        return cls(line, [field.encode(errors="surrogateescape") for field in fields], problems, id)

    def __len__(self) -> int:
        return 1

    def ids(self) -> list[str]:
        return [] if self.id is None else [self.id]

    def refusing(self, reasons: Mapping[int, str]) -> Iterator[_Good | _Bad]:
        """This row, for the reason that its line has, too; that stands for being in the database as well."""
        if reasons:
            others = [(line, reason) for line, reason in self.problems if reason != _is_there(str(self.id))]
            self.problems = [*others, *reasons.items()]
        yield self

    def as_csv(self) -> bytes:
        """The line and the reasons, then the fields as they were."""
        fields = [field.decode(errors="surrogateescape") for field in self.fields]
        return _as_csv([(str(self.line), "; ".join(reason for _, reason in self.problems), *fields)])


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
    database already, compared as the database compares them: exactly. Blank lines are passed over. The rows wait in a
    temporary file, so that a pipe can be read and a file that changes meanwhile does no harm, and a hash of each id in
    another; in memory stay the problems found and the ids that occur twice, however many rows there are.

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
        spool = _Spool(stack.enter_context(tempfile.TemporaryFile()))
        ids = _Ids(stack.enter_context(tempfile.TemporaryFile()))
        lines = _Lines(text)
        header = next(_rows(lines), None) or _Row(1, [], [(1, _EMPTY)])
        places = _places(header)
        if bad:
            _refuse(_problems(name, header))
            bad.write(_as_csv([("line", "reason", *header.fields)]))
        _keep(_checked(lines, places, len(header.fields), service), spool, ids, report)
        judged = functools.partial(_judged, spool, ids.repeated())
        kept, skipped = _counted(judged(), _problems(name, header), name, bad)
        report("check", kept + skipped, None)
        imported = service.database.add_rows(COLUMNS, _in_chunks(judged(), places, kept, report), checked=True)
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

    def problems(self) -> list[_Problem]:
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


def _checked(lines: _Lines, places: _Places, width: int, service: PersonService) -> Iterator[_Good | _Bad]:
    """Every row, with all its problems but that its id stands in an earlier one.

    Many lines at once where nothing is wrong with any, as in most files; else one after the other.
    """
    if not places:
        return
    rows = _rows(lines)
    is_empty = _is_empty(service)
    while True:
        lines.begin_row()
        first, ahead = lines.first, lines.ahead()
        good = _good(ahead, first, places, width)
        if good:
            lines.skip(len(ahead))
            yield from [good] if is_empty else _absent(good, service)
            continue
        lines.again(ahead)
        chunk = [*_slowly(rows, lines)]
        for row in chunk:
            _check(row, places, width)
        if not is_empty:
            _check_absent(chunk, service)
        for row in chunk:
            if row.problems:
                yield _Bad.of(row.line, row.fields, row.problems, row.id)
            else:
                yield _Good(row.line, [tuple(row.fields)], places.get("id"))
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


def _good(lines: Sequence[str], first: int, places: _Places, width: int) -> _Good | None:
    """The rows of these lines where each line is a row in which there is nothing wrong; None where one of them must be
    looked at by itself.

    The same as ``_check`` finds, by column instead of by value: this is most of what an import's check takes.
    """
    text = "".join(lines)
    if len(places) < len(COLUMNS) or "\0" in text or not (text.isascii() or _NOT_UTF8.search(text) is None):
        return None
    try:
        rows = [*map(tuple, csv.reader(lines, strict=True))]
    except csv.Error:
        return None
    if len(rows) != len(lines) or {*map(len, rows)} != {width}:
        return None
    columns = [*zip(*rows, strict=True)]
    for name, limit in zip(COLUMNS, _LIMITS, strict=True):
        column = columns[places[name]]
        if not all(map(str.strip, column)) or max(map(len, column)) > limit:
            return None
    return _Good(first, rows, places["id"])


def _absent(good: _Good, service: PersonService) -> Iterator[_Good | _Bad]:
    """These rows, those that are in the database as bad ones."""
    ids = good.ids()
    with service.using(use_db=True):
        found = service.get_many(ids)
    return good.refusing({line: _is_there(id) for line, id in enumerate(ids, good.line) if id in found})


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


def _check(row: _Row, places: _Places, width: int) -> None:
    """Adds to a row what can be told from itself alone."""
    if row.broken:
        return
    if len(row.fields) != width:
        row.problems.append((row.line, f"{len(row.fields)} fields where the header has {width}"))
        return
    values = {name: row.fields[at] for name, at in places.items()}
    readable = {name: value for name, value in values.items() if value.isascii() or not _NOT_UTF8.search(value)}
    reasons = check_fields(readable)
    row.problems += [(row.line, reason) for reason in reasons]
    if "id" in readable and not (reasons and check_fields({"id": readable["id"]})):
        row.id = readable["id"]


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
    """Rows kept in a temporary file, to come back in the order they went in, as often as they are asked for."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def keep(self, rows: _Good | _Bad) -> None:
        encoded = msgspec.msgpack.encode(rows)
        self._file.write(len(encoded).to_bytes(8))
        self._file.write(encoded)

    def __iter__(self) -> Iterator[_Good | _Bad]:
        decode = msgspec.msgpack.Decoder(_Good | _Bad).decode
        self._file.seek(0)
        while size := int.from_bytes(self._file.read(8)):
            yield decode(self._file.read(size))


class _Ids:
    """Finds out which ids may stand in a file twice, in the same memory however many there are: their hashes are parted
    by their last bits, in a temporary file, and compared part by part.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._parts = [array("q") for _ in range(_PARTS)]
        self._noted = 0
        self._runs: list[array[int]] = []  # where the parts of each begin, and the last one ends

    def note(self, ids: Collection[str]) -> None:
        parts = self._parts
        for hashed in map(hash, ids):
            parts[hashed % _PARTS].append(hashed)
        self._noted += len(ids)
        if self._noted >= _RUN:
            self._write()

    def repeated(self) -> set[int]:
        """The hashes that were noted more than once. Two ids that differ may share one; which do, their rows tell."""
        self._write()
        found: set[int] = set()
        for at in range(_PARTS):
            hashes = array("q", b"".join(self._read(run[at], run[at + 1]) for run in self._runs))
            found.update(hashed for hashed, times in Counter(hashes).items() if times > 1)
        return found

    def _write(self) -> None:
        sizes = (len(part) * part.itemsize for part in self._parts)
        self._runs.append(array("q", itertools.accumulate(sizes, initial=self._file.tell())))
        for part in self._parts:
            self._file.write(part)
            del part[:]
        self._noted = 0

    def _read(self, start: int, end: int) -> bytes:
        self._file.seek(start)
        return self._file.read(end - start)


def _keep(checked: Iterable[_Good | _Bad], spool: _Spool, ids: _Ids, report: Progress) -> None:
    """Puts rows where they wait, and notes their ids."""
    done = reported = 0
    for rows in checked:
        spool.keep(rows)
        ids.note(rows.ids())
        done += len(rows)
        if done // _CHUNK > reported:
            reported = done // _CHUNK
            report("check", done, None)


def _judged(spool: _Spool, repeated: Collection[int]) -> Iterator[_Good | _Bad]:
    """The rows that wait, those whose id stands in an earlier line as bad ones."""
    if not repeated:
        yield from spool
        return
    seen: dict[str, int] = {}
    for rows in spool:
        reasons = {}
        for line, id in enumerate(rows.ids(), rows.line):
            if hash(id) in repeated and (first := seen.setdefault(id, line)) < line:
                reasons[line] = f"id {id!r} stands in line {first} already"
        yield from rows.refusing(reasons)


def _counted(
    judged: Iterable[_Good | _Bad], problems: list[RowProblem], name: str, bad: BinaryIO | None
) -> tuple[int, int]:
    """How many rows are good, and how many bad: written to ``bad``, or else raised with the problems of the header."""
    kept = skipped = 0
    for rows in judged:
        if isinstance(rows, _Good):
            kept += len(rows.rows)
            continue
        skipped += 1
        if bad:
            bad.write(rows.as_csv())
        else:
            problems += _problems(name, rows)
    _refuse(problems)
    if bad:
        bad.flush()  # a full disk is found now, before anything is imported
    return kept, skipped


def _problems(name: str, row: _Row | _Bad) -> list[RowProblem]:
    return [RowProblem(name, line, reason) for line, reason in row.problems]


def _refuse(problems: Sequence[RowProblem]) -> None:
    if problems:
        raise ImportFailedError(problems)


def _in_chunks(
    judged: Iterable[_Good | _Bad], places: _Places, total: int, report: Progress
) -> Iterator[list[tuple[str, ...]]]:
    """The good rows with their columns in the order of ``COLUMNS``, a thousand at a time."""
    ordered = operator.itemgetter(*(places[name] for name in COLUMNS))
    good = itertools.chain.from_iterable(map(ordered, rows.rows) for rows in judged if isinstance(rows, _Good))
    done = 0
    while chunk := [*itertools.islice(good, _CHUNK)]:
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
