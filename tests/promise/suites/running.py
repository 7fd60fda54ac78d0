"""A run of some of SQLAlchemy's tests in a process of its own, and what came of it."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Suite"]

_CHECKOUT = Path(__file__).resolve().parents[3]

_OPTIONS = (
    *("-q", "-o", "addopts=", "-p", "warnings", "-p", "logging", "-p", "no:cacheprovider", "--tb=native"),
    *("--maxfail=1000", "--assert=plain", "-p", "no:hypothesispytest", "-p", "promise.suites.plugin"),
)
"""In the place of the suite's own, which lists each test."""


@dataclass(frozen=True)
class Suite:
    """The suite in ``source``, run in a ``folder`` in which it may leave files, on ``database``: its own URL, if any.

    ``seconds``: how long a run may take.
    """

    source: Path
    folder: Path
    database: str = ""
    seconds: float = 800

    def files(self) -> list[str]:
        """The files of tests for engines, for SQL, for the ORM and for dialects, by name."""
        tests = self.source / "test"
        found = [file for room in ("engine", "sql", "orm") for file in (tests / room).rglob("test_*.py")]
        found = [file for file in found if not file.stem.endswith("_py314")]
        return sorted(str(file.relative_to(self.source)) for file in [*found, tests / "dialect" / "test_suite.py"])

    def command(self, mode: str, tests: Sequence[str]) -> list[str]:
        """``mode``: covered or uncovered."""
        return [
            *(sys.executable, "-m", "pytest", *_OPTIONS, "--rootdir", str(self.source)),
            *("-c", str(self.source / "pyproject.toml"), f"--{mode}", str(self.folder / f"{mode}.json")),
            *(["--dburi", self.database] if self.database else []),
            *(str(self.source / test) for test in tests),
        ]

    def run(self, mode: str, tests: Sequence[str]) -> dict[str, Any]:
        """The results that the plugin wrote. Raises ``AssertionError`` if it did not come so far."""
        results = self.folder / f"{mode}.json"
        results.unlink(missing_ok=True)
        command = self.command(mode, tests)
        # The installed SQLAlchemy is tested, not that in the source, which is not compiled.
        environment = {**os.environ, "PYTHONNOUSERSITE": "1", "PYTHONPATH": f"{_CHECKOUT}:{_CHECKOUT / 'tests'}"}
        try:
            done = subprocess.run(
                command,
                cwd=self.folder,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=self.seconds,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"not done after {self.seconds:.0f} s: {' '.join(tests)}") from error
        assert results.exists(), f"{shlex.join(command)}\n{done.stdout[-4000:]}"
        found: dict[str, Any] = json.loads(results.read_text(encoding="utf-8"))
        return found
