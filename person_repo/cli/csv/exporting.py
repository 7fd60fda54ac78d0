"""People to a file, read in pages."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

from person_repo.cli.csv.format import COLUMNS, FORMATS, as_csv, as_jsonl
from person_repo.exceptions import ConfigurationError

if TYPE_CHECKING:
    from person_repo.model import Person
    from person_repo.service import PersonService

__all__ = ["Progress", "export_people", "replacing"]

Progress = Callable[[Literal["export"], int, int | None], None]
"""Called during an export with the step, the rows done and the rows in all."""

_PAGE = 1000


def export_people(
    service: PersonService,
    stream: BinaryIO,
    *,
    format: Literal["csv", "jsonl"] = "csv",
    progress: Progress | None = None,
) -> int:
    """Writes every person to a binary stream, as UTF-8 and in key order; returns their number.

    ``"csv"`` begins with a header and can be imported again; ``"jsonl"`` is one JSON object a line. Read in pages:
    memory stays bounded, and people added or changed meanwhile may or may not be in it.
    """
    if format not in FORMATS:
        raise ConfigurationError(f"export format {format!r} is unknown; known are: {', '.join(FORMATS)}")
    total = service.count() if progress else None
    render = as_csv if format == "csv" else as_jsonl
    if format == "csv":
        stream.write(as_csv([COLUMNS]))
    written = 0
    for page in _pages(service):
        stream.write(render([(person.id, person.first_name, person.last_name) for person in page]))
        written += len(page)
        if progress:
            progress("export", written, total)
    return written


def _pages(service: PersonService) -> Iterator[Sequence[Person]]:
    page = service.list(limit=_PAGE)
    yield page
    while len(page) == _PAGE:
        page = service.list(after=page[-1].id, limit=_PAGE)
        yield page


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A new binary file that takes the place of ``path`` when the block ends, and is removed if the block raises.

    A link is followed. A terminal, a pipe or a device such as ``/dev/null`` is written to directly. Raises ``OSError``
    with the name ``path``.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        with target.open("wb") as device:
            yield device
        return
    draft = target.with_name(f".{target.name[:100]}.{secrets.token_hex(6)}.part")
    try:
        with _created(draft, path) as stream:
            if target.exists():
                draft.chmod(target.stat().st_mode & 0o7777)
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)


def _created(draft: Path, path: str | os.PathLike[str]) -> BinaryIO:
    """A new file; an error names the file that the user has named."""
    try:
        return draft.open("xb")
    except OSError as exc:
        raise OSError(exc.errno, exc.strerror, os.fspath(path)) from exc
