"""Output that nobody reads: closed by its reader, or by the caller from the start."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from support.command import KNUTH, Run

sqlite_only = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def program(database_url: str, command: str, **streams: Any) -> subprocess.CompletedProcess[bytes]:
    """The command line in a process of its own."""
    words = [sys.executable, "-m", "person_repo", "--database-url", database_url, *command.split()]
    return subprocess.run(words, check=False, **streams)


@sqlite_only
@pytest.mark.parametrize(
    ("command", "code", "stream"),
    [
        ("--help", 0, "stdout"),
        ("get --help", 0, "stdout"),
        ("list", 0, "stdout"),
        ("export", 0, "stdout"),
        ("get nobody knuth-1974", 1, "stdout"),
        ("list --nonsense", 2, "stderr"),
    ],
)
def test_a_reader_who_has_gone_is_no_error(run: Run, database_url: str, command: str, code: int, stream: str) -> None:
    run("add", *KNUTH.values())
    reading, writing = os.pipe()
    os.close(reading)

    done = program(database_url, command, **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: writing})

    os.close(writing)
    assert done.returncode == code
    assert b"Error" not in (done.stderr or b"")


def closing(*descriptors: int) -> Callable[[], None]:
    def close() -> None:
        for descriptor in descriptors:
            os.close(descriptor)

    return close


@sqlite_only
@pytest.mark.parametrize(
    ("command", "code", "closed"),
    [("list", 0, [1]), ("--json export", 0, [1]), ("list --nonsense", 2, [2]), ("get nobody knuth-1974", 1, [0, 1, 2])],
)
def test_a_closed_stream_is_read_and_written_as_nothing(
    run: Run, database_url: str, command: str, code: int, closed: list[int]
) -> None:
    """``person-repo list >&-``; the database's file must not get the descriptor of a stream."""
    run("add", *KNUTH.values())

    done = program(database_url, command, capture_output=True, preexec_fn=closing(*closed))

    assert done.returncode == code
    assert b"Error" not in done.stderr
    assert run("get", KNUTH["id"]).exit_code == 0


@sqlite_only
def test_messages_that_cannot_be_written_do_not_change_the_exit_code(database_url: str) -> None:
    with open(os.devnull, "rb") as read_only:
        done = program(database_url, "list --nonsense", stdout=subprocess.PIPE, stderr=read_only)

    assert done.returncode == 2


@sqlite_only
def test_an_answer_that_cannot_be_written_is_an_error(run: Run, database_url: str) -> None:
    run("add", *KNUTH.values())

    with open(os.devnull, "rb") as read_only:
        done = program(database_url, "list", stdout=read_only, stderr=subprocess.PIPE)

    assert done.returncode == 2
    assert b"Bad file descriptor" in done.stderr
    assert b"Traceback" not in done.stderr
