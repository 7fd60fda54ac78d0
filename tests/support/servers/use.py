"""The servers that a test used, noted in its report."""

from __future__ import annotations

from typing import Any, Final

__all__ = ["SERVER", "uses"]

SERVER: Final = "server of the test"
"""The kind of a test's property that names one."""


def uses(request: Any, server: str) -> None:
    """Notes that the test runs on this server: ``uses(request, "MySQL 9.7.4")``."""
    request.node.user_properties.append((SERVER, server))
