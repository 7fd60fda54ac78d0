"""``upgrade`` and ``current``: the schema of the database."""

from __future__ import annotations

import click

from person_repo.cli.call import Call, is_absent, pass_call, shared_options
from person_repo.cli.output import print_json, print_line
from person_repo.urls import redact

__all__ = ["current", "upgrade"]


@click.command()
@shared_options
@pass_call
def upgrade(call: Call) -> None:
    """Bring the schema of the database up to date."""
    from person_repo import migrations

    call.after_interrupt = "the schema may be half way; run upgrade again"
    with call.engine(may_create=True) as engine:
        before = migrations.current(engine)
        migrations.upgrade(engine)
        after = migrations.current(engine)
    if call.json:
        print_json({"database": redact(engine.url), "before": before, "revision": after})
    else:
        done = "is up to date" if before == after else f"was upgraded from {before or 'nothing'}"
        print_line(f"{redact(engine.url)} {done}: {after}")


@click.command(short_help="Show the revision of the schema.")
@shared_options
@pass_call
def current(call: Call) -> None:
    """Show the revision of the schema, and the revision that this version needs."""
    from person_repo import migrations

    head = migrations.head()
    with call.engine() as engine:
        revision = None if is_absent(engine) else migrations.current(engine)
    up_to_date = revision == head
    if call.json:
        print_json({"database": redact(engine.url), "revision": revision, "head": head, "up_to_date": up_to_date})
    else:
        rest = "up to date" if up_to_date else f"this version needs {head}; run: person-repo upgrade"
        print_line(f"{redact(engine.url)}: {revision or 'no revision'} ({rest})")
