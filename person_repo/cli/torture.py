"""``torture``: the promise checked against readers, writers and faults; see ``person_repo.testing.torture``."""

from __future__ import annotations

import contextlib
import tempfile
from typing import TYPE_CHECKING, Any

import click

from person_repo.cli.call import Call, Failure, database_errors, pass_call, shared_options
from person_repo.cli.output import print_json, print_table, progress_bar
from person_repo.urls import redact

if TYPE_CHECKING:
    from person_repo.testing.torture.report import Report

__all__ = ["torture"]

_OF_THE_SERVER = ("restart", "hang", "flush")
"""The faults that only a memcached of our own may suffer."""

# Those of ``testing.torture.worlds``, whose import takes longer than most commands.
_WORLDS = (
    "plain", "read-uncommitted", "read-committed", "repeatable-read", "serializable", "null-pool", "small-pool",
    "begin", "rewriting", "asking", "mixed",
)  # fmt: skip


@click.command(short_help="Check the promise: readers, writers and faults, and an exact check of all they read.")
@click.option("--readers", type=click.IntRange(1), default=3, show_default=True, help="Processes that read.")
@click.option("--writers", type=click.IntRange(1), default=2, show_default=True, help="Processes that write.")
@click.option("--keys", type=click.IntRange(1, 60_000), default=20, show_default=True, help="Rows they share.")
@click.option("--seconds", type=click.FloatRange(0.1), default=10.0, show_default=True, help="How long.")
@click.option(
    "--faults",
    type=click.Choice(["none", "pause", "kill", "restart", "partition", "hang", "flush", "all"]),
    multiple=True,
    default=("none",),
    show_default=True,
    help="What goes wrong meanwhile; may be given several times. restart, hang and flush need --start-memcached.",
)
@click.option(
    "--on-unreachable",
    type=click.Choice(["proceed", "strict", "refuse"]),
    default="proceed",
    show_default=True,
    help="What a commit does while it cannot reach the cache.",
)
@click.option(
    "--fence-interval",
    type=click.FloatRange(0, 60, min_open=True),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="After how long readers know of a commit that could not reach the cache.",
)
@click.option("--start-memcached", is_flag=True, help="Start a memcached for this run, in place of --cache-url.")
@click.option(
    "--against",
    type=click.Choice(["person_repo", "naive"]),
    default="person_repo",
    show_default=True,
    help="naive: the usual recipe, delete after commit, in which staleness is found.",
)
@click.option(
    "--world",
    type=click.Choice(_WORLDS),
    default="plain",
    show_default=True,
    help="How readers and writers connect; mixed: each another way, of those that the database knows.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Another seed makes other choices.")
@shared_options
@pass_call
def torture(call: Call, /, faults: tuple[str, ...], start_memcached: bool, **options: Any) -> None:
    """Check the promise where it is to hold: processes read and write rows of their own, of three classes and in every
    way there is, while faults happen; afterwards every answer is checked exactly. Exit code 1 if any was wrong.

    In the database given, or in a SQLite file of its own; the people and the tables it adds it removes.
    """
    from person_repo.testing.torture.plan import FAULTS, Plan
    from person_repo.testing.torture.run import run

    chosen = FAULTS if "all" in faults else tuple(fault for fault in dict.fromkeys(faults) if fault != "none")
    if not start_memcached and (needing := [fault for fault in chosen if fault in _OF_THE_SERVER]):
        raise click.UsageError(f"--faults {needing[0]} needs --start-memcached")
    call.after_interrupt = "what it added was removed"
    settings = call.settings()
    own = not call.names_database
    with contextlib.ExitStack() as stack:
        url = settings.database_url
        if own:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="person_repo-torture-"))
            url = f"sqlite:///{folder}/people.db"
        plan = Plan(
            database_url=url, cache_url=settings.cache_url, own_memcached=start_memcached, faults=chosen, **options
        )
        stack.enter_context(database_errors())
        progress = stack.enter_context(progress_bar())
        report = run(plan, progress=progress and (lambda passed: progress("torture", int(passed), int(plan.seconds))))
    place = {
        "database": "a temporary SQLite file" if own else redact(url),
        "cache": "a memcached of its own" if start_memcached else redact(settings.cache_url),
    }
    if call.json:
        print_json({**place, **report.as_dict(), "error_kinds": report.error_kinds})
    else:
        _print_report(report, "{database}, {cache}".format(**place))
    if not report.clean:
        raise Failure("wrong", 1, "\n".join(["the promise was broken:", *report.examples]))


def _print_report(report: Report, title: str) -> None:
    from rich.table import Table

    table = Table(title=title)
    names = ("reads", "hits", "writes", "late", "stale", "phantom")
    for name in (*names, "worst staleness", "bound", "errors", "faults"):
        table.add_column(name, justify="right")
    figures = [f"{getattr(report, name):,}" for name in names]
    times = [f"{seconds * 1000:,.1f} ms" for seconds in (report.worst_staleness, report.plan.bound)]
    faults = ", ".join(f"{count} {name}" for name, count in report.faults.items()) or "none"
    print_table(table, [(*figures, *times, f"{report.errors:,}", faults)])
