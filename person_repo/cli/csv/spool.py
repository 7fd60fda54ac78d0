"""Rows that wait in a temporary file until all are checked, and the ids among them that occur twice."""

from __future__ import annotations

import itertools
from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from typing import IO

import msgspec

from person_repo.cli.csv.rows import Checked

__all__ = ["IdHashes", "Spool", "refuse_repeated"]

# Hashes of eight bytes each that wait in memory to be written, and the number of parts that they are divided into.
# One part is compared at a time: of a hundred million ids that is a hundred thousand at once.
_RUN = 2**18
_PARTS = 2**10


class Spool:
    """Rows in a temporary file. Iterating yields them in the order they went in, as often as wanted."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def keep(self, rows: Checked) -> None:
        """Appends rows."""
        encoded = msgspec.msgpack.encode(rows)
        self._file.write(len(encoded).to_bytes(8))
        self._file.write(encoded)

    def __iter__(self) -> Iterator[Checked]:
        decode = msgspec.msgpack.Decoder(Checked).decode
        self._file.seek(0)
        while size := int.from_bytes(self._file.read(8)):
            yield decode(self._file.read(size))


class IdHashes:
    """The hashes of all ids of a file, and those among them that occur twice.

    Takes the same memory however many ids there are: hashes go to a temporary file, in parts by their last bits, and
    are compared part by part.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._parts = [array("q") for _ in range(_PARTS)]
        self._in_memory = 0
        self._runs: list[array[int]] = []
        """For each run written to the file, the offset of each part, and of the end."""

    def add(self, ids: Collection[str]) -> None:
        """Adds the hashes of these ids."""
        parts = self._parts
        for hashed in map(hash, ids):
            parts[hashed % _PARTS].append(hashed)
        self._in_memory += len(ids)
        if self._in_memory >= _RUN:
            self._write()

    def repeated(self) -> set[int]:
        """The hashes that were added more than once. Different ids may share one; ``refuse_repeated`` compares them."""
        self._write()
        repeated: set[int] = set()
        for part in range(_PARTS):
            hashes = array("q", b"".join(self._read(run[part], run[part + 1]) for run in self._runs))
            repeated.update(hashed for hashed, times in Counter(hashes).items() if times > 1)
        return repeated

    def _write(self) -> None:
        sizes = (len(part) * part.itemsize for part in self._parts)
        self._runs.append(array("q", itertools.accumulate(sizes, initial=self._file.tell())))
        for part in self._parts:
            self._file.write(part)
            del part[:]
        self._in_memory = 0

    def _read(self, start: int, end: int) -> bytes:
        self._file.seek(start)
        return self._file.read(end - start)


def refuse_repeated(rows: Iterable[Checked], repeated: Collection[int]) -> Iterator[Checked]:
    """These rows; a row whose id stands in an earlier line comes as a bad one. ``repeated``: hashes of ids."""
    if not repeated:
        yield from rows
        return
    first_lines: dict[str, int] = {}
    for each in rows:
        reasons = {}
        for line, id in enumerate(each.ids(), each.line):
            if hash(id) in repeated and (first := first_lines.setdefault(id, line)) < line:
                reasons[line] = f"id {id!r} stands in line {first} already"
        yield from each.refusing(reasons)
