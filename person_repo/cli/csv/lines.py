"""The lines of a file, and the rows of CSV in them. Lines are counted as an editor counts them."""

from __future__ import annotations

import csv
import functools
import itertools
import re
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TextIO

from person_repo.cli.csv.rows import Problem, Row

__all__ = ["NOT_UTF8", "Lines", "read_rows"]

NOT_UTF8 = re.compile("[\udc80-\udcff]")
"""The characters that ``surrogateescape`` makes of bytes that are not UTF-8; valid UTF-8 never decodes to them."""

# Characters. Three fields of csv's own limit (131,072) fit. Neither a file without line ends nor a quote that is
# never closed fills the memory.
_LONGEST_ROW = 2**20

_CHUNK = 1000


class Lines:
    """The lines of a file, for csv to read. After a row that is no CSV, reading goes on at the row's second line."""

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
        """The lines of these pieces; of a line in several pieces, only the first piece is kept, as in ``_read``."""
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
        """Makes these lines the next ones once more."""
        self._again.extend(lines)

    def skip(self, count: int) -> None:
        """Counts lines of ``ahead`` as read."""
        self.first += count

    @property
    def given_back(self) -> bool:
        """True while lines that were given back are still to be read."""
        return bool(self._again)

    def begin_row(self) -> None:
        """Counts the lines of the row before as read."""
        self.first += len(self._row)
        self._row = []
        self._size = 0

    def break_row(self, error: csv.Error) -> Row:
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
        return Row(self.first, [text], [*self.problems(), (self.first, reason)], broken=True)

    def problems(self) -> list[Problem]:
        """The bytes in the lines of this row that are not UTF-8, the first of each line."""
        not_ascii = ((line, text) for line, text in enumerate(self._row, self.first) if not text.isascii())
        matches = ((line, NOT_UTF8.search(text)) for line, text in not_ascii)
        return [
            (line, f"the byte 0x{ord(match[0]) - 0xDC00:02x} at character {match.start() + 1} is not UTF-8")
            for line, match in matches
            if match
        ]

    def _read(self) -> str:
        line = self._text.readline(_LONGEST_ROW + 1)
        return line if len(line) <= _LONGEST_ROW else self._whole([line])[0]


def _goes_on(piece: str) -> bool:
    """True if a piece as long as a row may be is not the end of its line."""
    return len(piece) > _LONGEST_ROW and not piece.endswith(("\r", "\n"))


def read_rows(lines: Lines) -> Iterator[Row]:
    """The rows of a file. Blank lines are passed over; a line that is no CSV comes as a row with a problem."""
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
            yield Row(lines.first, fields, lines.problems())
