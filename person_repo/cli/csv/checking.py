"""The problems of rows: in their fields, and with the people who are in the database."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, cast

from person_repo.cli.csv.format import COLUMNS
from person_repo.cli.csv.lines import NOT_UTF8, Lines, read_rows
from person_repo.cli.csv.rows import BadRow, Checked, GoodRows, Row, is_there
from person_repo.model import Person

if TYPE_CHECKING:
    import sqlalchemy as sa

    from person_repo.service import PersonService

__all__ = ["check_fields", "check_header", "checked"]

_LIMITS: dict[str, int] = {name: cast("sa.String", Person.__table__.c[name].type).length or 0 for name in COLUMNS}
"""The most characters in each column."""


def check_fields(values: Mapping[str, str]) -> list[str]:
    """The problems of these fields of a person, one sentence each; empty if there is none.

    An empty field, or one of white space only, is a problem here although the database would take it.
    """
    problems = [f"{name} is empty" for name, value in values.items() if not value.strip()]
    problems += [f"{name} has a NUL character" for name, value in values.items() if "\0" in value]
    return problems + [
        f"{name} has {len(value)} characters; the limit is {_LIMITS[name]}"
        for name, value in values.items()
        if len(value) > _LIMITS[name]
    ]


def check_header(header: Row) -> dict[str, int]:
    """The index of each known column, and the header's problems added to it; empty if the header is unreadable."""
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


def checked(lines: Lines, columns: Mapping[str, int], width: int, service: PersonService) -> Iterator[Checked]:
    """Every row of a file with all its problems, except that its id stands in an earlier one.

    ``columns``: the index of each known column; ``width``: the number of columns. Fast path: a thousand lines at once
    if nothing is wrong with any. Else each row is checked by itself.
    """
    if not columns:
        return
    rows = read_rows(lines)
    is_empty = _is_empty(service)
    while True:
        lines.begin_row()
        first, ahead = lines.first, lines.ahead()
        good = _all_good(ahead, first, columns, width)
        if good:
            lines.skip(len(ahead))
            yield from [good] if is_empty else _refuse_present(good, service)
            continue
        lines.again(ahead)
        chunk = [*_rows_given_back(rows, lines)]
        for row in chunk:
            _check(row, columns, width)
        if not is_empty:
            _check_absent(chunk, service)
        for row in chunk:
            if row.problems:
                yield BadRow.of(row.line, row.fields, row.problems, row.id)
            else:
                yield GoodRows(row.line, [tuple(row.fields)], columns.get("id"))
        if not chunk and not lines.given_back:
            return


def _is_empty(service: PersonService) -> bool:
    """True if nobody is in the database, so that no id need be looked up there.

    Somebody who is added during the check is found by the INSERT, as somebody who is added after it.
    """
    with service.using(use_db=True):
        return not service.list(limit=1)


def _all_good(lines: Sequence[str], first: int, columns: Mapping[str, int], width: int) -> GoodRows | None:
    """The rows of these lines if each line is a row with nothing wrong; None if one must be checked by itself.

    Checks what ``_check`` does, but by column and not by value: an import spends most of its check here.
    """
    text = "".join(lines)
    if len(columns) < len(COLUMNS) or "\0" in text or not (text.isascii() or NOT_UTF8.search(text) is None):
        return None
    try:
        rows = [*map(tuple, csv.reader(lines, strict=True))]
    except csv.Error:
        return None
    if len(rows) != len(lines) or {*map(len, rows)} != {width}:
        return None
    by_column = [*zip(*rows, strict=True)]
    for name, limit in _LIMITS.items():
        values = by_column[columns[name]]
        if not all(map(str.strip, values)) or max(map(len, values)) > limit:
            return None
    return GoodRows(first, rows, columns["id"])


def _rows_given_back(rows: Iterator[Row], lines: Lines) -> Iterator[Row]:
    """The rows of the lines that were given back, the last one whole."""
    while lines.given_back and (row := next(rows, None)):
        yield row


def _check(row: Row, columns: Mapping[str, int], width: int) -> None:
    """Adds to a row the problems of its fields."""
    if row.broken:
        return
    if len(row.fields) != width:
        row.problems.append((row.line, f"{len(row.fields)} fields where the header has {width}"))
        return
    values = {name: row.fields[index] for name, index in columns.items()}
    readable = {name: value for name, value in values.items() if value.isascii() or not NOT_UTF8.search(value)}
    reasons = check_fields(readable)
    row.problems += [(row.line, reason) for reason in reasons]
    if "id" in readable and not (reasons and check_fields({"id": readable["id"]})):
        row.id = readable["id"]


def _check_absent(rows: Sequence[Row], service: PersonService) -> None:
    """Adds to each row whose id is in the database that problem."""
    with_id = [row for row in rows if row.id is not None]
    with service.using(use_db=True):
        present = service.get_many([row.id for row in with_id])
    for row in with_id:
        if row.id in present:
            row.problems.append((row.line, is_there(str(row.id))))


def _refuse_present(good: GoodRows, service: PersonService) -> Iterator[Checked]:
    """These rows; a row whose id is in the database comes as a bad one."""
    ids = good.ids()
    with service.using(use_db=True):
        present = service.get_many(ids)
    return good.refusing({line: is_there(id) for line, id in enumerate(ids, good.line) if id in present})
