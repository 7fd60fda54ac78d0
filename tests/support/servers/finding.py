"""Programs as tests ask for them: a missing one skips the test, or fails it where servers are required."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest
from support.servers.programs import Program

from person_repo.testing.servers import path_of

__all__ = ["find_binary", "program_of", "unavailable"]


def unavailable(what: str) -> NoReturn:
    """Skips the test that asked, with a line saying what is missing; fails it where servers are required."""
    reason = f"{what} is not installed: the tests on it DO NOT RUN (make servers installs it)"
    if os.environ.get("PERSON_REPO_REQUIRE_SERVERS") == "1":
        pytest.fail(f"{reason}, and PERSON_REPO_REQUIRE_SERVERS=1", pytrace=False)
    pytest.skip(reason)


def find_binary(name: str) -> str:
    """The path of a program, looked for where servers are put too; ``unavailable`` where it is not installed."""
    return path_of(name) or unavailable(name)


def program_of(program: Program) -> str:
    """The path of a server's program in a fitting version; ``unavailable`` where there is none."""
    return program.find() or unavailable(program.name)
