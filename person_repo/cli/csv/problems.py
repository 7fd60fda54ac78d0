"""The error of an import, with every row that cannot be imported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from person_repo.exceptions import PersonRepoError

__all__ = ["ImportFailedError", "RowProblem"]


@dataclass(frozen=True, slots=True)
class RowProblem:
    """One row of a file that cannot be imported: ``file``, ``line`` (1 is the first), ``reason``."""

    file: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"


class ImportFailedError(PersonRepoError):
    """A file has rows that cannot be imported; nothing of it was. ``problems`` lists all of them."""

    def __init__(self, problems: Sequence[RowProblem]) -> None:
        self.problems = tuple(problems)
        shown = "\n".join(str(problem) for problem in self.problems[:20])
        rest = len(self.problems) - 20
        more = f"\n... and {rest} more" if rest > 0 else ""
        super().__init__(f"nothing was imported; {len(self.problems)} problem(s):\n{shown}{more}")

    # pickle calls type(exc)(*exc.args), and our argument is not the message.
    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.problems,)
