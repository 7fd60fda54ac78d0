"""``upgrade``, ``current``, ``identity`` and ``check``: the database, and if all that a service needs is ready."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from person_repo.cli.call import Call, Failure, database_errors, is_absent, pass_call, shared_options
from person_repo.cli.output import print_json, print_line
from person_repo.urls import redact

if TYPE_CHECKING:
    from person_repo.checks import Finding

__all__ = ["check", "current", "identity", "upgrade"]


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
        rest = "up to date" if up_to_date else f"this version needs {_listed(heads)}; {_remedy(person)}"
        print_line(f"{redact(engine.url)}: {_listed(revisions, 'no revision')} ({rest})")


@click.command(short_help="Show the identity of the database, or give it a new one.")
@click.option("--renew", is_flag=True, help="Give a copy one of its own. No program may be using it.")
@shared_options
@pass_call
def identity(call: Call, renew: bool) -> None:
    """Show the identity of the database, by which its cache entries are named.

    A copy made from a dump has the original's, and is handed the original's rows by a cache that both use. --renew
    gives it an identity of its own. Before that, stop every program that uses the copy.
    """
    from person_repo.database.identity import identity_of, renew_identity
    from person_repo.database.schema import has_identity

    with call.engine() as engine, engine.begin() as connection:
        if is_absent(engine) or not has_identity(connection):
            raise Failure("schema", 3, f"{redact(engine.url)} has no identity; {_remedy(person=False)}")
        before = identity_of(connection)
        now = renew_identity(connection) if renew else before
    if call.json:
        print_json({"database": redact(engine.url), "identity": now, "before": before})
    elif renew:
        print_line(f"{redact(engine.url)} has the identity {now} now; start its programs anew")
    else:
        print_line(f"{redact(engine.url)} has {f'the identity {now}' if now else 'no identity; run it with --renew'}")


@click.command(short_help="See if database, schema and cache are ready.")
@_no_person
@shared_options
@pass_call
def check(call: Call, person: bool) -> None:
    """See if the database can be reached, its schema is that of this version, and every cache server answers.

    Changes nothing. The exit code is 1 if something is not ready.
    """
    settings = call.settings()
    place = {"database": redact(settings.database_url), "cache": redact(settings.cache_url)}
    findings = list(_findings(call, person))
    if call.json:
        print_json({**place, "ready": not findings, "findings": [asdict(finding) for finding in findings]})
    elif not findings:
        print_line("{database} and {cache} are ready".format(**place))
    if findings:
        raise Failure("findings", 1, "\n".join(["not ready:", *map(str, findings)]))


def _findings(call: Call, person: bool) -> Iterator[Finding]:
    import sqlalchemy as sa

    from person_repo import Finding, Person, connect
    from person_repo.checks import findings_of_cache

    settings = call.settings()
    with database_errors(), connect(settings.database_url, settings.cache_url) as people:
        url = redact(people.engine.url)
        if is_absent(people.engine):
            yield Finding("database", f"{url}: there is no such file", _remedy(person))
            yield from findings_of_cache(people.cached.backend)
            return
        findings = people.check()
        yield from findings
        if any(finding.about == "database" for finding in findings):
            return
        if person and not sa.inspect(people.engine).has_table(Person.__tablename__):
            yield Finding("schema", f"{url}: there is no table {Person.__tablename__}", _remedy(person))


def _remedy(person: bool) -> str:
    return f"run: person-repo upgrade{'' if person else ' --no-person'}"


def _listed(revisions: tuple[str, ...], none: str = "") -> str:
    return ", ".join(revisions) or none
