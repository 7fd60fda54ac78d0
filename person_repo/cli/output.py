"""Answers to stdout, as tables or JSON; messages and progress bars to stderr. No text can steer a terminal."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.progress import TaskID
    from rich.table import Table

__all__ = [
    "counted",
    "discard_stdout",
    "open_closed_streams",
    "print_json",
    "print_line",
    "print_table",
    "progress_bar",
    "say",
]


def print_json(document: Mapping[str, Any], *, err: bool = False) -> None:
    """One JSON document in a line."""
    # A path that is not UTF-8 has surrogates. As backslash escapes they are valid JSON.
    line = json.dumps(document, ensure_ascii=False).encode("utf-8", "backslashreplace")
    _write(line, err=err)


def print_line(answer: str) -> None:
    """An answer in words."""
    _print(_visible(answer))


def print_table(table: Table, rows: Iterable[Sequence[str]]) -> None:
    """A table with these rows; a row is one line unless stdout is a terminal that is too narrow."""
    from rich.console import Console
    from rich.text import Text

    for column in table.columns:
        column.overflow = "fold"
    for row in rows:
        table.add_row(*(Text(_visible(value)) for value in row))
    console = Console(width=None if sys.stdout.isatty() else 10_000)
    with console.capture() as captured:
        console.print(table)
    _print(captured.get().rstrip("\n"))


def say(message: str) -> None:
    """A message to stderr."""
    _write("\n".join(_visible(line) for line in message.split("\n")), err=True)


def counted(n: int, thing: str) -> str:
    """A number with its noun: ``1 person``, ``2 people``, ``1,000 problems``."""
    plural = {"person": "people"}.get(thing, f"{thing}s")
    return f"{n:,} {thing if n == 1 else plural}"


@contextlib.contextmanager
def progress_bar(*, wanted: bool = True) -> Iterator[Callable[[str, int, int | None], None] | None]:
    """A function that draws the progress of a step (rows done, rows in all) on stderr; None if that is no terminal."""
    if not (wanted and sys.stderr.isatty()):
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def draw(step: str, done: int, total: int | None) -> None:
            if step not in tasks:
                tasks[step] = bars.add_task(step, total=total)
            bars.update(tasks[step], completed=done, total=total)

        yield draw


def _visible(text: str) -> str:
    """The text with every character that prints nothing, or steers a terminal, as an escape."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _print(text: str) -> None:
    encoding = sys.stdout.encoding or "utf-8"
    _write(text.encode(encoding, "backslashreplace").decode(encoding))


def _write(text: str | bytes, *, err: bool = False) -> None:
    """Writes a line; if nobody reads it any more (``| head``), the call goes on to its usual exit code.

    So it does if a message cannot be written at all. An answer that cannot is an error.
    """
    try:
        click.echo(text, err=err)
    except OSError as exc:
        if not err and not isinstance(exc, BrokenPipeError):
            raise
        _discard(sys.stderr if err else sys.stdout)


def discard_stdout() -> None:
    """Sends what is still to come to nowhere."""
    _discard(sys.stdout)


def _discard(stream: Any) -> None:
    # The interpreter flushes the stream once more at its end; by then its descriptor must take what is left.
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def open_closed_streams() -> None:
    """Opens those of stdin, stdout and stderr that the caller has closed (``>&-``) on nothing.

    Python has None for them. Without this, the database's file would get the descriptor of stdout.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 (open for as long as the process lives)
