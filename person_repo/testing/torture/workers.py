"""Readers and writers: the loop of one, and all of them as threads of this process."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Protocol, Self

import sqlalchemy as sa

from person_repo.exceptions import CacheUnavailableError
from person_repo.testing.torture.history import Read, Version
from person_repo.testing.torture.plan import Plan
from person_repo.testing.torture.records import ReadRecords, Summary, WriteRecords, summarize
from person_repo.testing.torture.rows import id_of, ledger_of, row_of, text_of, version_of
from person_repo.testing.torture.subjects import Subject, subject_of
from person_repo.testing.torture.ways import WAYS

__all__ = ["Threads", "Worker", "Workers"]

_ROLLED_BACK = 0.1  # share of the transactions that writers roll back
_BATCHES = 0.1  # share of the reads that ask for several rows
_BATCH = 5  # rows in one of those
_LONGEST_REST = 0.01  # seconds between two transactions of a writer


class Worker:
    """One reader or writer: works until it is stopped, and records what it did."""

    def __init__(self, plan: Plan, subject: Subject, number: int, folder: Path) -> None:
        self.plan = plan
        self.subject = subject
        self.number = number
        self.folder = folder
        self.errors: Counter[str] = Counter()
        self.random = random.Random(plan.seed * 10_007 + number)

    def work(self, role: str, stop: threading.Event, until: float) -> None:
        """Reads or writes until ``stop`` is set, at most until a time of ``time.monotonic()``."""
        if role == "read":
            self.read(stop, until)
        else:
            self.write(stop, until)

    def read(self, stop: threading.Event, until: float) -> None:
        """Reads one row or several at a time. Errors, which faults provoke, are counted."""
        records = ReadRecords(self.folder, self.number)
        try:
            while not stop.is_set() and time.monotonic() < until:
                for read in self._read_once():
                    if records.add(read):
                        self._summarize()
        finally:
            records.close()
        self._summarize()

    def _read_once(self) -> list[Read]:
        count = min(_BATCH, self.plan.keys) if self.random.random() < _BATCHES else 1
        keys = self.random.sample(range(self.plan.keys), count)
        rows = [row_of(self.plan, key) for key in keys]
        began = time.monotonic_ns()
        try:
            found = self.subject.read(rows)
        except Exception as exc:
            self.errors[_kind(exc)] += 1
            return []
        ended = time.monotonic_ns()
        read = zip(keys, rows, found, strict=True)
        return [Read(key, version_of(row, entity), began, ended) for key, row, entity in read]

    def write(self, stop: threading.Event, until: float) -> None:
        """Writes in every way there is. The outcome of a transaction that an error ends is unknown."""
        records = WriteRecords(self.folder, self.number)
        serial = 0
        try:
            while not stop.is_set() and time.monotonic() < until:
                serial += 1
                try:
                    self._transaction(records, self.random.randrange(self.plan.keys), serial)
                except Exception as exc:  # a lock timeout, a lost connection, a refused commit
                    self.errors[_kind(exc)] += 1
                stop.wait(self.random.random() * _LONGEST_REST)
        finally:
            records.close()
        self._summarize()

    def _transaction(self, records: WriteRecords, key: int, serial: int) -> None:
        way = self.random.choice(WAYS)
        row, id = row_of(self.plan, key), id_of(self.plan, key)
        ledger = ledger_of(self.plan.prefix)
        began = time.monotonic_ns()
        with self.subject.session() as session:
            session.execute(sa.update(ledger).where(ledger.c.id == id).values(number=ledger.c.number + 1))
            number = session.scalars(sa.select(ledger.c.number).where(ledger.c.id == id)).one()
            deletes = way(session, row, text_of(Version(number, self.number, serial)))
            session.flush()
            records.began(serial, key=key, number=number, deletes=deletes, began=began)
            if self.random.random() < _ROLLED_BACK:
                session.rollback()
                records.rolled_back(serial)
                return
            try:
                session.commit()
            except CacheUnavailableError:  # raised before COMMIT, under ``refuse`` and ``strict``
                session.rollback()
                records.rolled_back(serial)
                raise
        self.subject.committed(row)
        records.committed(serial, acknowledged=time.monotonic_ns())

    def _summarize(self) -> None:
        summarize(self.folder, self.number, Summary(self.subject.hits(), self.errors))


def _kind(exc: Exception) -> str:
    if isinstance(exc, CacheUnavailableError):
        return type(exc).__name__  # its message names the server's last words, which vary
    return f"{type(exc).__name__}: {getattr(exc, 'orig', exc)!s:.80}"


class Workers(Protocol):
    """Workers at work within a ``with`` block, and what faults do to one of them."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *raised: object) -> None: ...

    def pause(self, seconds: float, choose: random.Random) -> None:
        """Stops a worker for so many seconds."""
        ...

    def kill(self, choose: random.Random) -> None:
        """Kills a worker and starts another in its place."""
        ...

    def partition(self, seconds: float, choose: random.Random) -> None:
        """Cuts a worker off from a server for so many seconds."""
        ...

    def stop(self) -> None:
        """Returns once all workers have ended."""
        ...


class Threads:
    """Workers as threads over one service, since a memory region is coherent within its process. Faults are refused."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self._stop = threading.Event()
        self._subject = subject_of(plan, plan.seed)
        until = time.monotonic() + plan.seconds + 60
        self._threads = []
        for number in range(1, plan.readers + plan.writers + 1):
            worker = Worker(plan, self._subject, number, folder)
            role = "read" if number <= plan.readers else "write"
            self._threads.append(threading.Thread(target=worker.work, args=(role, self._stop, until), daemon=True))

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self.stop()
        self._subject.close()

    def pause(self, seconds: float, choose: random.Random) -> None:
        """Refused."""
        raise NotImplementedError("threads cannot be paused")

    def kill(self, choose: random.Random) -> None:
        """Refused."""
        raise NotImplementedError("threads cannot be killed")

    def partition(self, seconds: float, choose: random.Random) -> None:
        """Refused."""
        raise NotImplementedError("threads share one cache")

    def stop(self) -> None:
        """Returns once all threads have ended."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
