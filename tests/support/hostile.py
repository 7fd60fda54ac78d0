"""Objects that lie or fail, and a text that shows if it becomes syntax."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NoReturn

__all__ = ["MARK", "Failing", "Liar", "Pair", "Text"]

MARK = "HOSTILE"
"""Part of every hostile text: if it shows in a statement, a value has become syntax."""


class Failing:
    """Fails at every call."""

    def _fail(self, *_: object) -> NoReturn:
        raise RuntimeError("asked")

    __eq__ = __repr__ = __str__ = __len__ = __iter__ = __bool__ = _fail
    __hash__ = _fail  # type: ignore[assignment]


class Liar:
    """Claims to be a string, and yields the parts of a tuple."""

    __class__ = str  # type: ignore[assignment]

    def __iter__(self) -> Iterator[str]:
        yield from (f"{MARK}", "b")

    def __len__(self) -> int:
        return 2


class Text(str):
    """A string that writes itself as something else."""

    def __str__(self) -> str:
        return f"{MARK}' OR '1'='1"

    def translate(self, table: object) -> str:
        return f"{MARK}' OR '1'='1"

    encode = translate  # type: ignore[assignment]


class Pair(tuple[Any, ...]):
    """A tuple that fails to yield its parts, and claims to have seven."""

    def __iter__(self) -> NoReturn:
        raise RuntimeError("asked")

    def __len__(self) -> int:
        return 7

    __hash__ = None  # type: ignore[assignment]
