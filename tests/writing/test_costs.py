"""Round trips of a commit, and queries: two exchanges for one entity, none if nothing covered changes."""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa
from support.hosts import Note, Ticket, everywhere, rename
from support.ways import (
    TABLE,
    Witness,
)

from person_repo.model import Person


def servers_of(people: Witness) -> int:
    return len(getattr(people.service.cached.backend, "servers", ["memory"]))


@everywhere
def test_a_commit_of_one_changed_entity_costs_two_round_trips(people: Witness) -> None:
    people.warm()
    with people.costs(2), people.sessions() as session, session.begin():
        session.get_one(Person, "ada").first_name = "changed"

    # Of MySQL a whole class is dropped, on each server.
    exchanges = 2 * servers_of(people) if people.engine.dialect.name == "mysql" else 2
    with people.costs(exchanges), people.sessions() as session, session.begin():
        session.execute(sa.update(Person).where(Person.last_name == "of ada").values(first_name="again"))

    with people.costs(2):
        people.service.update("ada", first_name="once more")


@everywhere
def test_a_commit_of_one_entity_whose_key_the_database_made_costs_two_round_trips(
    witness_of: Callable[..., Witness],
) -> None:
    tickets = witness_of(Ticket, [], ids=(1, 2))
    tickets.warm()
    with tickets.costs(2), tickets.sessions() as session, session.begin():
        session.add(Ticket(title="first"))


@everywhere
def test_a_commit_of_many_changed_entities_costs_two_round_trips_to_each_server(people: Witness) -> None:
    people.warm()
    before = people.service.stats()
    with people.blind(), people.sessions() as session, session.begin():
        session.execute(
            sa.update(TABLE).where(TABLE.c.id.in_([f"id {number}" for number in range(100)])), {"version": 2}
        )

    assert (people.service.stats() - before).tombstones == 100
    assert (people.service.stats() - before).round_trips == 2 * servers_of(people)


@everywhere
def test_a_commit_of_a_whole_model_costs_two_round_trips_to_each_server(people: Witness) -> None:
    people.warm()
    with people.costs(2 * servers_of(people)), people.sessions() as session, session.begin():
        session.execute(sa.text("UPDATE person SET first_name = 'changed'"))


@everywhere
def test_a_transaction_that_changes_nothing_covered_costs_nothing(people: Witness) -> None:
    people.warm()
    with people.costs(0):
        with people.sessions() as session, session.begin():
            session.add(Note(id=1, text="person", about="ada"))
            session.get(Person, "ada")
            session.execute(sa.text("SELECT id FROM person WHERE first_name = 'update person'"))
        with people.sessions() as session, session.begin_nested():
            session.execute(sa.update(Note).where(Note.about == "ada").values(text="changed"))
            session.execute(sa.delete(Note))
            session.commit()
        with people.engine.begin() as connection:
            connection.exec_driver_sql("INSERT INTO note (id, text) VALUES (2, 'personal')")


def test_a_transaction_that_is_rolled_back_costs_nothing(people: Witness) -> None:
    people.warm()
    with people.costs(0):
        with people.sessions() as session:
            rename(session, "ada")
            session.rollback()
        with people.sessions() as session:
            rename(session, "ada")


def test_nothing_is_asked_for_keys_that_a_statement_does_not_name(people: Witness) -> None:
    done: list[str] = []
    sa.event.listen(people.engine, "after_cursor_execute", lambda *args: done.append(args[2]))
    with people.blind(), people.sessions() as session:
        session.execute(sa.update(TABLE).where(TABLE.c.last_name == "of ada").values(first_name="changed"))
        session.commit()

    assert [statement.split()[0] for statement in done] == ["UPDATE"]
