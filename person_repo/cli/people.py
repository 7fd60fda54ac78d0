"""``add``, ``get``, ``list``, ``find``, ``update`` and ``delete``: people, one or a few at a time."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from person_repo.cli.call import TEXT, Call, Failure, pass_call, shared_options, undisturbed
from person_repo.cli.output import counted, print_json, print_line, print_table, say
from person_repo.exceptions import InvalidEntityError

if TYPE_CHECKING:
    from person_repo.model import Person

__all__ = ["add", "delete", "find", "get", "list_", "update"]


@click.command()
@click.argument("id", type=TEXT)
@click.argument("first_name", type=TEXT, metavar="FIRST")
@click.argument("last_name", type=TEXT, metavar="LAST")
@shared_options
@pass_call
def add(call: Call, id: str, first_name: str, last_name: str) -> None:
    """Add one person."""
    from person_repo.model import Person

    _refuse_bad({"id": id, "first_name": first_name, "last_name": last_name})
    with call.people() as people:
        people.add(Person(id=id, first_name=first_name, last_name=last_name))
    call.warn_if_no_cache_was_told()
    _print_person(call, Person(id=id, first_name=first_name, last_name=last_name))


@click.command()
@click.argument("ids", type=TEXT, metavar="ID...", nargs=-1, required=True)
@shared_options
@pass_call
def get(call: Call, ids: tuple[str, ...]) -> None:
    """Show the people with these ids, in this order."""
    with call.people() as people:
        found = people.get_many(ids)
    missing = [id for id in dict.fromkeys(ids) if id not in found]
    _print_people(call, found.values(), missing=missing)
    _fail_if_missing(missing)


@click.command("list", short_help="Show people in the order of their ids.")
@click.option("--after", type=TEXT, metavar="ID", help="Begin with the id that follows this one.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="Show at most so many.")
@shared_options
@pass_call
def list_(call: Call, after: str | None, limit: int) -> None:
    """Show people in the order of their ids, a page at a time."""
    with call.people() as people:
        page = people.list(after=after, limit=limit + 1)
    more = page[limit - 1].id if len(page) > limit else None
    _print_people(call, page[:limit], next=more)
    if more is not None and not call.json:
        say(f"there are more: --after {shlex.quote(more)}")


@click.command(short_help="Show everybody with these names.")
@click.option("--first-name", type=TEXT, metavar="NAME", help="Exactly this first name.")
@click.option("--last-name", type=TEXT, metavar="NAME", help="Exactly this last name.")
@shared_options
@pass_call
def find(call: Call, /, **names: str | None) -> None:
    """Show everybody with this first name, this last name, or both. Nobody is an answer, too: the exit code is 0."""
    equals = _given(names)
    with call.people() as people:
        found = people.find(**equals)
    _print_people(call, found)


@click.command()
@click.argument("id", type=TEXT)
@click.option("--first-name", type=TEXT, metavar="NAME", help="The new first name.")
@click.option("--last-name", type=TEXT, metavar="NAME", help="The new last name.")
@shared_options
@pass_call
def update(call: Call, /, id: str, **names: str | None) -> None:
    """Change one person's first name, last name, or both."""
    changes = _given(names)
    _refuse_bad(changes)
    with call.people() as people:
        person = people.update(id, **changes)
    call.warn_if_no_cache_was_told()
    _print_person(call, person)


@click.command(short_help="Delete people, in one transaction.")
@click.argument("ids", type=TEXT, metavar="ID...", nargs=-1, required=True)
@shared_options
@pass_call
def delete(call: Call, ids: tuple[str, ...]) -> None:
    """Delete the people with these ids, in one transaction. Ids that nobody has are named."""
    from sqlalchemy.orm import Session

    call.after_interrupt = "nobody was deleted"
    with call.people() as people, Session(people.engine) as session:
        bound = people.bind(session)
        deleted = [id for id in dict.fromkeys(ids) if bound.delete(id)]
        with undisturbed():
            session.commit()
            call.after_interrupt = "the deletion was complete"
    missing = [id for id in dict.fromkeys(ids) if id not in deleted]
    if deleted:
        call.warn_if_no_cache_was_told()
    if call.json:
        print_json({"deleted": deleted, "missing": missing})
    else:
        print_line(f"{counted(len(deleted), 'person')} deleted")
    _fail_if_missing(missing)


def _given(names: Mapping[str, str | None]) -> dict[str, str]:
    """The names that were given, by field; at least one."""
    given = {name: value for name, value in names.items() if value is not None}
    if not given:
        raise click.UsageError("give --first-name, --last-name or both")
    return given


def _refuse_bad(values: Mapping[str, str]) -> None:
    """Raises what an import would refuse, too."""
    from person_repo.cli.csv.checking import check_fields

    if problems := check_fields(values):
        raise InvalidEntityError("; ".join(problems))


def _fail_if_missing(missing: Sequence[str]) -> None:
    if missing:
        raise Failure("not-found", 1, f"nobody has the id {', '.join(map(repr, missing))}", missing=missing)


def _print_person(call: Call, person: Person) -> None:
    if call.json:
        print_json(_fields(person))
    else:
        _print_people(call, [person])


def _print_people(call: Call, people: Iterable[Person], **rest: Any) -> None:
    rows = [_fields(person) for person in people]
    if call.json:
        print_json({"people": rows, **rest})
        return
    from rich.table import Table

    table = Table("id", "first name", "last name", box=None, header_style="bold")
    print_table(table, [tuple(row.values()) for row in rows])


def _fields(person: Person) -> dict[str, str]:
    return {"id": person.id, "first_name": person.first_name, "last_name": person.last_name}
