"""What a run ran on: the servers that its tests used, with their versions.

The last lines of a run name them; ``--report FOLDER`` writes them into a file of the run's own there, with how many
tests passed on each. ``tests/project/matrix.py`` makes the README's table from such files.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import platform
import subprocess
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from support.servers.use import SERVER

__all__ = ["report_of"]

_CHECKOUT = Path(__file__).resolve().parents[2]
_WRITTEN_BY_RUNS = (":!README.md", ":!docs/maintain/proofs.md")
_PACKAGES = ("SQLAlchemy", "PyMySQL", "psycopg", "pymemcache", "dogpile.cache", "alembic", "msgspec")


def pytest_addoption(parser: pytest.Parser) -> None:
    """pytest: the option of this module."""
    parser.getgroup("runs").addoption(
        "--report", type=Path, help="a folder for a file on what this run ran on, as JSON"
    )


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """pytest: names the servers, and writes the file."""
    if hasattr(config, "workerinput"):  # of pytest-xdist, which knows its own tests alone
        return
    report = report_of(terminalreporter.stats)
    terminalreporter.write_line(f"servers: {', '.join(sorted(report['servers'], key=str.casefold)) or 'none'}")
    if folder := config.getoption("report"):
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{report['at'].replace(':', '')}-python{report['python']}-sqlalchemy{report['packages']['SQLAlchemy']}"
        (folder / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def report_of(stats: Mapping[str, list[Any]]) -> dict[str, Any]:
    """The report of a run: ``stats`` are pytest's reports by outcome."""
    return {
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "--short", "HEAD"),
        "changed": bool(_git("status", "--porcelain", "--untracked-files=no", "--", ".", *_WRITTEN_BY_RUNS)),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
        "tests": {outcome: len(stats.get(outcome, ())) for outcome in ("passed", "failed", "error", "skipped")},
        "servers": _counts(stats),
    }


def _counts(stats: Mapping[str, list[Any]]) -> dict[str, dict[str, int]]:
    """For each server: how many tests on it passed, and how many did not."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for outcome in ("passed", "failed", "error"):
        for report in stats.get(outcome, ()):
            for server in {value for kind, value in getattr(report, "user_properties", ()) if kind == SERVER}:
                counts[server][outcome] += 1
    return {server: dict(counts[server]) for server in sorted(counts)}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=_CHECKOUT, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip()
