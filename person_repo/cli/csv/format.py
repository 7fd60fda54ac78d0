"""The files: their columns, and rows as bytes."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence

__all__ = ["COLUMNS", "FORMATS", "as_csv", "as_jsonl"]

COLUMNS = ("id", "first_name", "last_name")
"""The columns of a file, in the order in which an export writes them. ``version`` is the database's own."""

FORMATS = ("csv", "jsonl")
"""The formats of an export."""


def as_csv(rows: Iterable[Sequence[str]]) -> bytes:
    """Lines of CSV. Surrogates, which stand for bytes that were not UTF-8 in a file, become those bytes again."""
    text = io.StringIO()
    plain = csv.writer(text, lineterminator="\n")
    # Up to Python 3.12 the plain writer leaves a carriage return unquoted, and a reader takes it for a line end.
    quoted = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    for row in rows:
        (quoted if any("\r" in value for value in row) else plain).writerow(row)
    return text.getvalue().encode("utf-8", "surrogateescape")


def as_jsonl(rows: Iterable[Sequence[str]]) -> bytes:
    """One JSON object a line."""
    lines = (json.dumps(dict(zip(COLUMNS, row, strict=True)), ensure_ascii=False) for row in rows)
    return "".join(f"{line}\n" for line in lines).encode()
