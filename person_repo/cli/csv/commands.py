"""``import`` and ``export``: the commands."""

from __future__ import annotations

import contextlib
import sys
from typing import BinaryIO, Literal

import click

from person_repo.cli.call import Call, pass_call, shared_options, undisturbed
from person_repo.cli.output import counted, print_json, print_line, progress_bar

__all__ = ["export", "import_"]


@click.command("import", short_help="Import people from a CSV, all of it or nothing.")
@click.argument("file", metavar="FILE.csv")
@click.option(
    "--skip-bad", metavar="FILE", help="Import the good rows; write the bad ones to this new file, with reasons."
)
@shared_options
@pass_call
def import_(call: Call, file: str, skip_bad: str | None) -> None:
    """Import people from a CSV with the columns id, first_name and last_name; - reads stdin.

    All of the file or nothing: it is checked whole first, and every problem is listed with its line.
    """
    from person_repo.cli.csv.importing import import_people

    call.after_interrupt = "nothing was imported"
    source: str | BinaryIO = sys.stdin.buffer if file == "-" else file
    with call.people() as people, progress_bar() as bar, contextlib.ExitStack() as from_commit_on:

        def progress(step: str, done: int, total: int | None) -> None:
            if step == "commit":
                from_commit_on.enter_context(undisturbed())
            if bar:
                bar(step, done, total)

        report = import_people(people, source, skip_bad=skip_bad, progress=progress)
        call.after_interrupt = "the import was complete"
    if report.imported:
        call.warn_if_no_cache_was_told()
    bad_rows = str(report.bad_rows) if report.bad_rows else None
    if call.json:
        print_json({"file": report.file, "imported": report.imported, "skipped": report.skipped, "bad_rows": bad_rows})
        return
    empty = "" if report.imported + report.skipped else ": it has a header and no rows"
    print_line(f"{counted(report.imported, 'person')} imported from {report.file}{empty}")
    if bad_rows:
        print_line(f"{counted(report.skipped, 'bad row')} written to {bad_rows}")


@click.command(short_help="Export everybody, as CSV or JSON lines.")
@click.argument("file", required=False)
@click.option("--format", type=click.Choice(["csv", "jsonl"]), help="csv (the default) or, under --json, jsonl.")
@shared_options
@pass_call
def export(call: Call, file: str | None, format: Literal["csv", "jsonl"] | None) -> None:
    """Export everybody to FILE, or to stdout, in the order of their ids.

    FILE is replaced when the export is complete, and left as it was when it is not.
    """
    from person_repo.cli.csv.exporting import export_people, replacing

    to_file = file is not None and file != "-"
    call.after_interrupt = f"{file} was left as it was" if to_file else ""
    target = replacing(file) if file and to_file else contextlib.nullcontext(sys.stdout.buffer)
    format = format or ("jsonl" if call.json else "csv")
    with call.people() as people:
        with target as stream, progress_bar(wanted=to_file or not sys.stdout.isatty()) as bar:
            exported = export_people(people, stream, format=format, progress=bar)
        call.after_interrupt = "the export was complete"
    if to_file and call.json:
        print_json({"file": file, "exported": exported})
    elif to_file:
        print_line(f"{counted(exported, 'person')} exported to {file}")
