"""Rows of a file: as they stand there, and after they were checked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Self

import msgspec

from person_repo.cli.csv.format import as_csv

__all__ = ["BadRow", "Checked", "GoodRows", "Problem", "Row", "is_there"]

Problem = tuple[int, str]
"""A line, counted from 1, and the reason."""


@dataclass(slots=True)
class Row:
    """A row as it stands in the file: the line on which it begins, its fields, and what is wrong with it."""

    line: int
    fields: list[str]
    problems: list[Problem] = field(default_factory=list)
    broken: bool = False
    """It is no CSV; ``fields`` is the text of its line."""
    id: str | None = None
    """None if there is something wrong with it."""


class GoodRows(msgspec.Struct, tag=True):
    """Rows with nothing wrong, on consecutive lines; the first is ``line``. ``id_index`` is the column of the id."""

    line: int
    rows: list[tuple[str, ...]]
    id_index: int | None

    def __len__(self) -> int:
        return len(self.rows)

    def ids(self) -> list[str]:
        """The ids, in the order of the rows."""
        return [] if self.id_index is None else [row[self.id_index] for row in self.rows]

    def refusing(self, reasons: Mapping[int, str]) -> Iterator[GoodRows | BadRow]:
        """These rows; a row whose line has a reason comes as a bad one."""
        if not reasons:
            yield self
            return
        for line, (row, id) in enumerate(zip(self.rows, self.ids(), strict=True), self.line):
            if line in reasons:
                yield BadRow.of(line, row, [(line, reasons[line])], id)
            else:
                yield GoodRows(line, [row], self.id_index)


class BadRow(msgspec.Struct, tag=True):
    """A row that is not imported: the line on which it begins, its fields as the bytes they were, and the reasons."""

    line: int
    fields: list[bytes]
    problems: list[Problem]
    id: str | None

    @classmethod
    def of(cls, line: int, fields: Iterable[str], problems: list[Problem], id: str | None) -> Self:
        """A bad row from fields in which surrogates stand for bytes that are not UTF-8."""
        return cls(line, [field.encode(errors="surrogateescape") for field in fields], problems, id)

    def __len__(self) -> int:
        return 1

    def ids(self) -> list[str]:
        """The id, if it can be read."""
        return [] if self.id is None else [self.id]

    def refusing(self, reasons: Mapping[int, str]) -> Iterator[GoodRows | BadRow]:
        """This row with the reason of its line added. That replaces the reason that its id is in the database."""
        if reasons:
            others = [(line, reason) for line, reason in self.problems if reason != is_there(str(self.id))]
            self.problems = [*others, *reasons.items()]
        yield self

    def as_csv(self) -> bytes:
        """The line and the reasons, then the fields as they were."""
        fields = [field.decode(errors="surrogateescape") for field in self.fields]
        return as_csv([(str(self.line), "; ".join(reason for _, reason in self.problems), *fields)])


Checked = GoodRows | BadRow


def is_there(id: str) -> str:
    """The reason why a row with this id of the database's is bad."""
    return f"id {id!r} is in the database already"
