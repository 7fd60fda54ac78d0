"""The figures of a run, as tables on the terminal and as JSON.

The JSON::

    {"date": "2026-11-25T10:00:00+00:00", "quick": false,
     "versions": {"python": "3.13.5", "build": "GCC 14.2.0, /usr", "sqlalchemy": "2.1.9", ...},
     "machine": {"cores": 2, "processor": "...", "system": "Linux", "load": 0.1},
     "benchmarks": {"hit": {
         "what": "service.get, hit", "rounds": 300,
         "microseconds": {"ours": {"median": 80.1, "lower": 78.0, "upper": 84.2}, ...},
         "ratios": [{"what": "one round trip", "of": "ours", "to": "raw socket", "median": 1.18, "lower": 1.16,
                     "upper": 1.21, "at_most": 1.2, "at_least": null, "met": true}, ...],
         "more": {}}, ...}}

``lower`` and ``upper`` are quartiles over the rounds. ``met`` is null for a ratio without a bound.
"""

from __future__ import annotations

import datetime
import os
import platform
import sysconfig
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.method import Ratio, Result, Spread

__all__ = ["as_json", "contestants_table", "ratios_table"]

_PACKAGES = (
    "person-repo",
    "sqlalchemy",
    "dogpile.cache",
    "pymemcache",
    "pymysql",
    "msgspec",
    "advanced-alchemy",
)


def as_json(results: Sequence[Result], versions: Mapping[str, str], *, quick: bool, load: float) -> dict[str, Any]:
    """The run as plain values; ``versions``: of the servers, ``load``: the machine's load average at the start."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "quick": quick,
        "versions": {
            "python": platform.python_version(),
            "build": f"{platform.python_compiler()}, {sysconfig.get_config_var('prefix')}",
            **_installed(),
            **versions,
        },
        "machine": {
            "cores": os.cpu_count(),
            "processor": _processor(),
            "system": platform.system(),
            "load": round(load, 2),
        },
        "benchmarks": {result.name: _result(result) for result in results},
    }


def _result(result: Result) -> dict[str, Any]:
    return {
        "what": result.what,
        "rounds": result.rounds,
        "microseconds": {name: _spread(spread.times(1e6)) for name, spread in result.costs.items()},
        "ratios": [_ratio(ratio) for ratio in result.ratios],
        "more": dict(result.more),
    }


def _ratio(ratio: Ratio) -> dict[str, Any]:
    target = ratio.target
    return {
        "what": target.what,
        "of": target.of,
        "to": target.to,
        **_spread(ratio.spread),
        "at_most": target.at_most,
        "at_least": target.at_least,
        "met": ratio.met,
    }


def _spread(spread: Spread) -> dict[str, float]:
    return {name: float(f"{getattr(spread, name):.4g}") for name in ("median", "lower", "upper")}


def _installed() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


# Tables


def ratios_table(results: Sequence[Result]) -> Table:
    """Every ratio with its target, and a mark if it is met."""
    table = Table(title="ratios: medians over the rounds, and quartiles")
    for name, justify in (("", "left"), ("ours to", "left"), ("ratio", "right"), ("quartiles", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    table.add_column("target", justify="right")
    table.add_column("met")
    for result in results:
        for at, ratio in enumerate(result.ratios):
            table.add_row("" if at else f"{result.what}", ratio.target.what, *_ratio_cells(ratio))
        if result.ratios:
            table.add_section()
    return table


def _ratio_cells(ratio: Ratio) -> tuple[str, str, str, str]:
    target, spread = ratio.target, ratio.spread
    wanted = "" if target.at_most is None else f"<= {target.at_most:.2f}"
    wanted = wanted if target.at_least is None else f">= {target.at_least:.2f}"
    met = {True: "[green]yes", False: "[bold red]no", None: ""}[ratio.met]
    return f"{spread.median:.3f}", f"{spread.lower:.2f} - {spread.upper:.2f}", wanted, met


def contestants_table(results: Sequence[Result]) -> Table:
    """Every contestant: the time of one operation, and its ratio to the first contestant's."""
    table = Table(title="one operation: medians over the rounds, and quartiles")
    table.add_column("")
    table.add_column("contestant")
    for name in ("us", "quartiles", "x the first"):
        table.add_column(name, justify="right")
    for result in results:
        first = next(iter(result.costs.values()), None)
        for at, (name, spread) in enumerate(result.costs.items()):
            us = spread.times(1e6)
            ratio = f"{spread.median / first.median:.2f}" if first else ""
            cells = (f"{us.median:,.2f}", f"{us.lower:,.2f} - {us.upper:,.2f}", ratio)
            table.add_row("" if at else result.name, name, *cells)
        if result.costs:
            table.add_section()
    return table
