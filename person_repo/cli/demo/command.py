"""``demo``: the package at work, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from person_repo.cli.call import Call, Failure, database_errors, pass_call, shared_options
from person_repo.cli.output import print_json, print_table
from person_repo.urls import redact

if TYPE_CHECKING:
    from person_repo.cli.demo.story import Step

__all__ = ["demo"]


@click.command(short_help="Show the package at work, every answer checked.")
@shared_options
@pass_call
def demo(call: Call) -> None:
    """Show the package at work, every answer checked: who answered, how fast, at what cost.

    In a SQLite file of its own that is gone afterwards; or in the database given: nothing that is there
    is changed, and what the demo adds it removes.
    """
    from person_repo.cli.demo.story import run

    settings = call.settings()
    # The default database holds the user's own people. A demo among them must be asked for.
    own = not call.names_database
    if not own:
        with call.engine(may_create=True):
            pass  # A database that cannot be used ends the call here.
    with database_errors():
        steps = run(None if own else settings.database_url, settings.cache_url)
    wrong = [step for step in steps if step.wrong]
    database = "a temporary SQLite file" if own else redact(settings.database_url)
    place = {"database": database, "cache": redact(settings.cache_url)}
    if call.json:
        print_json({**place, "right": not wrong, "steps": [asdict(step) for step in steps]})
    else:
        _print_steps(steps, "{database}, {cache}".format(**place))
    if wrong:
        raise Failure("wrong", 1, "\n".join(f"wrong answer: {step.what}: {step.wrong}" for step in wrong))


def _print_steps(steps: Sequence[Step], title: str) -> None:
    from rich.table import Table

    table = Table("what happened", "answer", "who answered", title=title)
    for name in ("microseconds", "SQL statements", "cache round trips"):
        table.add_column(name, justify="right")
    rows = []
    for step in steps:
        answer = f"WRONG: {step.answer}" if step.wrong else step.answer
        figures = (f"{step.microseconds:,.0f}", str(step.statements), str(step.round_trips))
        rows.append((step.what, answer, step.answered_by, *figures))
    print_table(table, rows)
