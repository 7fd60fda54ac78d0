"""The files in which workers record what they did, ``NUMBER.reads``, ``NUMBER.writes`` and ``NUMBER.json``.

A worker may be killed at any instruction: an incomplete record at the end of a file is skipped, and the summary
(``NUMBER.json``) is replaced as a whole.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

from person_repo.testing.torture.history import Outcome, Read, Version, Write

__all__ = ["ReadRecords", "Summary", "WriteRecords", "reads_in", "summaries_in", "summarize", "writes_in"]

_READ: Final = struct.Struct("<HqqqQQ")  # key, version, began, ended
_BUFFERED: Final = 500  # reads


class ReadRecords:
    """The reads of one worker, buffered: a lost read proves nothing wrong."""

    def __init__(self, folder: Path, worker: int) -> None:
        self._file: BinaryIO = open(folder / f"{worker}.reads", "ab", buffering=0)  # noqa: SIM115
        self._buffer: list[bytes] = []

    def add(self, read: Read) -> bool:
        """Adds a read; True if that has written the buffer to the file."""
        self._buffer.append(_READ.pack(read.key, *read.found, read.began, read.ended))
        if len(self._buffer) < _BUFFERED:
            return False
        self.flush()
        return True

    def flush(self) -> None:
        """Writes the buffer to the file."""
        self._file.write(b"".join(self._buffer))
        self._buffer.clear()

    def close(self) -> None:
        """Writes what is left, and closes the file."""
        self.flush()
        self._file.close()


class WriteRecords:
    """The transactions of one worker. Each record is on its way to the file before the step that it announces."""

    def __init__(self, folder: Path, worker: int) -> None:
        self._descriptor = os.open(folder / f"{worker}.writes", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def began(self, serial: int, *, key: int, number: int, deletes: bool, began: int) -> None:
        """The transaction is about to commit or to roll back."""
        self._append({"what": "began", "serial": serial, "key": key, "number": number, "deletes": deletes, "at": began})

    def rolled_back(self, serial: int) -> None:
        """The transaction has had no effect."""
        self._append({"what": Outcome.ROLLED_BACK, "serial": serial})

    def committed(self, serial: int, *, acknowledged: int) -> None:
        """The commit has returned."""
        self._append({"what": Outcome.COMMITTED, "serial": serial, "at": acknowledged})

    def _append(self, record: dict[str, Any]) -> None:
        os.write(self._descriptor, json.dumps(record).encode() + b"\n")

    def close(self) -> None:
        """Closes the file."""
        os.close(self._descriptor)


class Summary(NamedTuple):
    """Figures of one worker that no record has: hits of its cache, and errors by kind."""

    hits: int
    errors: Counter[str]


def summarize(folder: Path, worker: int, summary: Summary) -> None:
    """Replaces a worker's summary."""
    path = folder / f"{worker}.json"
    path.with_suffix(".new").write_text(json.dumps(summary._asdict()))
    path.with_suffix(".new").replace(path)


def reads_in(folder: Path) -> Iterator[Read]:
    """Every worker's reads."""
    for path in folder.glob("*.reads"):
        content = path.read_bytes()
        whole = len(content) - len(content) % _READ.size
        for key, number, writer, serial, began, ended in _READ.iter_unpack(content[:whole]):
            yield Read(key, Version(number, writer, serial), began, ended)


def writes_in(folder: Path) -> Iterator[Write]:
    """Every worker's transactions."""
    for path in folder.glob("*.writes"):
        yield from _writes_of(path)


def _writes_of(path: Path) -> Iterator[Write]:
    writer = int(path.stem)
    began: dict[int, dict[str, Any]] = {}
    ended: dict[int, dict[str, Any]] = {}
    for line in path.read_bytes().splitlines():
        with contextlib.suppress(ValueError):
            record = json.loads(line)
            (began if record["what"] == "began" else ended)[record["serial"]] = record
    for serial, record in began.items():
        end = ended.get(serial, {"what": Outcome.UNKNOWN})
        version = Version(record["number"], writer, serial)
        yield Write(record["key"], version, record["deletes"], record["at"], end["what"], end.get("at"))


def summaries_in(folder: Path) -> list[Summary]:
    """The last summary of every worker."""
    read = [json.loads(path.read_text()) for path in folder.glob("*.json")]
    return [Summary(one["hits"], Counter(one["errors"])) for one in read]
