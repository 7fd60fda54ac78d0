"""What the searches found, as a section at the end of pytest's output."""

from __future__ import annotations

from typing import Any

__all__ = ["pytest_terminal_summary", "tell"]

_NAME = "schedules"


def tell(request: Any, line: str) -> None:
    """Has a line of a test's appear at the end, whichever process ran it."""
    request.node.user_properties.append((_NAME, line))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """pytest: adds the section, where there is anything in it."""
    lines = [
        line
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", None) == "call"
        for name, line in report.user_properties
        if name == _NAME
    ]
    if lines:
        terminalreporter.section(_NAME)
        for line in sorted(lines):
            terminalreporter.write_line(line)
