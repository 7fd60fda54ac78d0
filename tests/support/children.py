"""Modules of the tests that do their work in a process of their own, by a plan: ``python -m promise.soak PLAN``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

__all__ = ["CrashedError", "found_by"]

_TESTS = Path(__file__).resolve().parents[1]


class CrashedError(Exception):
    """A signal ended the process, such as the one of a fault in Python itself. The message: its last words."""


def found_by(module: str, plan: dict[str, Any]) -> dict[str, Any]:
    """The JSON in the last line that the module prints. Fails with its errors; raises ``CrashedError``."""
    path = os.pathsep.join([str(_TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-m", module, json.dumps(plan)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode < 0:
        raise CrashedError(done.stderr)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
