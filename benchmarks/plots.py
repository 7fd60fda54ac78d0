"""Plots of a run, as SVG: from the JSON that ``report`` makes, so that they can be drawn again without measuring."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")

from matplotlib import pyplot
from matplotlib.axes import Axes

__all__ = ["draw"]

# Okabe and Ito's colours, which colour-blind readers can distinguish (jfly.uni-koeln.de/color).
_COLOURS = {
    "ours": "#0072B2",
    "raw socket": "#999999",
    "pymemcache": "#E69F00",
    "dogpile": "#009E73",
    "advanced-alchemy": "#CC79A7",
    "driver": "#999999",
    "Session": "#D55E00",
    "get,": "#D55E00",
}
_STYLE: dict[Any, Any] = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "grid.alpha": 0.3,
    # The same run gives the same file, and its text stays text.
    "svg.fonttype": "none",
    "svg.hashsalt": "person_repo",
}

Run = Mapping[str, Any]


def draw(run: Run, folder: Path) -> Iterator[Path]:
    """Draw the plots that the run has figures for; yields the paths of the files. Makes the folder if it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (needed, plot) in _PLOTS.items():
        if needed not in run["benchmarks"]:
            continue
        with matplotlib.rc_context(_STYLE):
            figure, axes = pyplot.subplots(figsize=(7.5, 4.2))
            plot(axes, run["benchmarks"][needed])
            figure.supxlabel(_caption(run), fontsize=7, color="#666666")
            path = folder / f"{name}.svg"
            figure.savefig(path, metadata={"Date": None})
            pyplot.close(figure)
        yield path


def _caption(run: Run) -> str:
    names = ("python", "sqlalchemy", "dogpile.cache", "pymemcache", "advanced-alchemy", "memcached", "mariadb")
    versions = [f"{name} {run['versions'][name]}" for name in names if name in run["versions"]]
    machine = f"{run['machine']['cores']} cores, {run['machine']['processor']}"
    half = len(versions) // 2
    return f"{run['date'][:10]}, {machine}\n{', '.join(versions[:half])},\n{', '.join(versions[half:])}"


def _colour(name: str) -> str:
    return next((colour for start, colour in _COLOURS.items() if name.startswith(start)), "#444444")


def _latency(axes: Axes, found: Run) -> None:
    rows = list(found["microseconds"].items())[::-1]
    medians = [spread["median"] for _, spread in rows]
    error = [
        [spread["median"] - spread["lower"] for _, spread in rows],
        [spread["upper"] - spread["median"] for _, spread in rows],
    ]
    colours = [_colour(name.partition(": ")[2]) for name, _ in rows]
    bars = axes.barh([name for name, _ in rows], medians, xerr=error, color=colours, ecolor="#444444", height=0.7)
    axes.bar_label(bars, [f"{median:,.0f}" for median in medians], padding=8, fontsize=8)
    axes.set_xscale("log")
    axes.set_xlabel("microseconds for one person (medians and quartiles; logarithmic)")
    axes.set_title("One person from each layer")
    axes.grid(False, axis="y")


def _throughput(what: str) -> Callable[[Axes, Run], None]:
    def plot(axes: Axes, found: Run) -> None:
        for name, points in _series(found).items():
            counts, spreads = list(points), list(points.values())
            axes.plot(counts, [1e6 / spread["median"] for spread in spreads], "o-", label=name, color=_colour(name))
            lower, upper = ([1e6 / spread[end] for spread in spreads] for end in ("upper", "lower"))
            axes.fill_between(counts, lower, upper, color=_colour(name), alpha=0.15)
        axes.set_xscale("log", base=2)
        axes.set_xticks(counts, [str(count) for count in counts])
        axes.set_ylim(bottom=0)
        axes.set_xlabel(what)
        axes.set_ylabel("hits in a second")
        axes.set_title(f"Throughput by {what}")
        axes.legend()

    return plot


def _batches(axes: Axes, found: Run) -> None:
    for name, points in _series(found).items():
        sizes = list(points)
        axes.plot(sizes, [points[size]["median"] / size for size in sizes], "o-", label=name, color=_colour(name))
        lower, upper = ([points[size][end] / size for size in sizes] for end in ("lower", "upper"))
        axes.fill_between(sizes, lower, upper, color=_colour(name), alpha=0.15)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.set_xlabel("people asked for in one call")
    axes.set_ylabel("microseconds for one person")
    axes.set_title("Cost by the size of the batch")
    axes.legend()


def _herd(axes: Axes, found: Run) -> None:
    more = found["more"]
    interval = more["interval"]
    for name, way in more["ways"].items():
        edges = [at * interval for at in range(len(way["by_interval"]) + 1)]
        label = f"{name}: {way['queries']} queries for {way['reads']:,} reads"
        a_second = [count / interval for count in way["by_interval"]]
        axes.stairs(a_second, edges, label=label, color=_colour(name), linewidth=1.5)
    axes.set_xlabel("seconds")
    axes.set_ylabel("queries in a second")
    axes.set_title(f"{more['readers']} readers of one person that expires after {more['ttl']} s")
    axes.legend()


def _series(found: Run) -> dict[str, dict[int, Mapping[str, float]]]:
    """Contestants named ``name: number``, as points by number for each name."""
    series: dict[str, dict[int, Mapping[str, float]]] = {}
    for name, spread in found["microseconds"].items():
        who, _, number = name.rpartition(": ")
        series.setdefault(who, {})[int(number)] = spread
    return series


_PLOTS: Mapping[str, tuple[str, Callable[[Axes, Run], None]]] = {
    "latency": ("layers", _latency),
    "threads": ("threads", _throughput("threads")),
    "processes": ("processes", _throughput("processes")),
    "batches": ("batches", _batches),
    "herd": ("herd", _herd),
}
"""The plots by the names of their files: the benchmark that each needs, and who draws it."""
