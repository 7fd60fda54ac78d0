"""``upgrade`` and ``current``: the schema of the database."""

from __future__ import annotations

import click

from person_repo.cli.call import Call, is_absent, pass_call, shared_options
from person_repo.cli.output import print_json, print_line
from person_repo.urls import redact

__all__ = ["current", "upgrade"]


_no_person = click.option(
    "--no-person",
    "person",
    flag_value=False,
    default=True,
    help="The layer's tables alone, for an application with models of its own.",
)


@click.command()
@_no_person
@shared_options
@pass_call
def upgrade(call: Call, person: bool) -> None:
    """Bring the schema of the database up to date."""
    from person_repo import migrations

    call.after_interrupt = "the schema may be half way; run upgrade again"
    with call.engine(may_create=True) as engine:
        before = migrations.current(engine)
        migrations.upgrade(engine, person=person)
        after = migrations.current(engine)
    if call.json:
        print_json({"database": redact(engine.url), "before": before, "revisions": after})
    else:
        done = "is up to date" if before == after else f"was upgraded from {_listed(before, 'nothing')}"
        print_line(f"{redact(engine.url)} {done}: {_listed(after)}")


@click.command(short_help="Show the revisions of the schema.")
@_no_person
@shared_options
@pass_call
def current(call: Call, person: bool) -> None:
    """Show the revisions of the schema, and those that this version needs."""
    from person_repo import migrations

    heads = migrations.heads(person=person)
    with call.engine() as engine:
        revisions = () if is_absent(engine) else migrations.current(engine)
    up_to_date = set(heads) <= set(revisions)
    if call.json:
        state = {"revisions": revisions, "heads": heads, "up_to_date": up_to_date}
        print_json({"database": redact(engine.url), **state})
    else:
        run = f"person-repo upgrade{'' if person else ' --no-person'}"
        rest = "up to date" if up_to_date else f"this version needs {_listed(heads)}; run: {run}"
        print_line(f"{redact(engine.url)}: {_listed(revisions, 'no revision')} ({rest})")


def _listed(revisions: tuple[str, ...], none: str = "") -> str:
    return ", ".join(revisions) or none
