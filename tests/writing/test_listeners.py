"""Listeners of the host's: they send statements, replace them, rewrite them, and fail."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from support.hosts import (
    NOTES,
    TICKETS,
    HostBase,
    Ticket,
    begin_again,
    is_unsure,
    isolated,
    listeners_of_all_connections,
    number_on_from,
    on_sqlite,
    rename,
)
from support.ways import (
    TABLE,
    Witness,
)


def test_a_hosts_listener_that_writes_in_the_middle_of_a_statement(
    witness_of: Callable[..., Witness], people_engine: sa.Engine
) -> None:
    """The result of the listener's statement, its key and row count, is not taken for the interrupted one's."""
    HostBase.metadata.create_all(people_engine, [NOTES])

    def note(connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if "ticket" in statement and not statement.startswith("SELECT"):
            connection.execute(sa.insert(NOTES).values(text=statement[:200]))

    for moment in ("before_cursor_execute", "after_cursor_execute"):
        tickets = witness_of(Ticket, [Ticket(title=f"{moment} {number}") for number in range(2)], ids=range(1, 9))
        sa.event.listen(people_engine, moment, note)
        automatic = people_engine.execution_options(isolation_level="AUTOCOMMIT")
        for engine in (people_engine, automatic):
            with tickets.right(), orm.Session(engine) as session:
                session.add(Ticket(title=f"new {moment} {engine is automatic}"))
                session.commit()
            with tickets.right(), engine.begin() as connection:
                connection.execute(sa.update(TICKETS).where(TICKETS.c.title == f"{moment} 1").values(title=f"{moment}"))
                connection.execute(sa.update(TICKETS).where(TICKETS.c.title == moment).values(title=f"{moment} 1"))
        sa.event.remove(people_engine, moment, note)


def test_a_hosts_listener_that_writes_before_a_statement_that_commits_itself(
    people: Witness, automatic: sa.Connection
) -> None:
    """The listener's commit does not release the tombstones of the statement to come."""

    def write(connection: sa.Connection, _cursor: Any, _statement: str, parameters: Any, *_rest: Any) -> None:
        if "ada" in str(parameters):
            rename(connection, "barbara")
            people.look("in the middle")

    sa.event.listen(people.engine, "before_cursor_execute", write)
    with people.invalidates("ada", "barbara"):
        rename(automatic, "ada")


@pytest.mark.parametrize("isolation_level", [None, "AUTOCOMMIT"])
def test_a_hosts_listener_that_fails_after_a_good_statement(
    witness_of: Callable[..., Witness], isolation_level: str | None
) -> None:
    tickets = witness_of(Ticket, [Ticket(id=1, title="first")], ids=range(1, 5))
    engine = isolated(tickets.engine, isolation_level)

    def fail(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if statement.startswith("INSERT"):
            raise ZeroDivisionError

    with engine.begin() as connection:
        number_on_from(connection, "ticket", 2)
    sa.event.listen(tickets.engine, "after_cursor_execute", fail)
    with tickets.right():
        with engine.connect() as connection:
            with pytest.raises(ZeroDivisionError):
                connection.execute(sa.insert(TICKETS).values(title="second"))
            connection.execute(sa.update(TICKETS).where(TICKETS.c.id == 1).values(title="changed"))
            connection.commit()
        assert not is_unsure(tickets, 2)

    assert 2 in tickets.committed()


@on_sqlite
def test_a_statement_that_fails_before_it_reaches_the_database(people: Witness, automatic: sa.Connection) -> None:
    """Its tombstones are released with the next statement, or with the connection."""
    too_large = sa.literal(2**70, sa.Integer)
    with people.right():
        with pytest.raises(OverflowError):
            rename(automatic, "ada", too_large)  # type: ignore[arg-type]
        assert is_unsure(people, "ada")
        rename(automatic, "barbara")
        assert not is_unsure(people, "ada")
        with pytest.raises(OverflowError):
            rename(automatic, "ada", too_large)  # type: ignore[arg-type]
        automatic.close()
        assert not is_unsure(people, "ada")


@pytest.mark.parametrize(
    "target",
    [None, sa.Engine, pytest.param(sa.Connection, marks=listeners_of_all_connections)],
    ids=["one engine", "engines", "connections"],
)
def test_a_hosts_listener_that_rewrites_the_text_of_a_statement(
    people: Witness, target: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The text examined is the text sent."""

    def rewrite(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> tuple[str, Any]:
        return statement.replace("%TABLE%", "person").replace("SELECT nothing", "DELETE FROM person"), parameters

    with listening(target or people.engine, "before_cursor_execute", rewrite, monkeypatch, retval=True):
        for statement in ("UPDATE %TABLE% SET first_name = 'changed'", "SELECT nothing"):
            with people.drops(), people.engine.begin() as connection:
                connection.exec_driver_sql(statement)

    assert people.committed() == {}


@contextlib.contextmanager
def listening(
    target: Any, name: str, listener: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, **options: Any
) -> Iterator[None]:
    """``listener`` is registered on ``target``, an object or a class, in this block."""
    if isinstance(target, type):
        monkeypatch.setattr(target, "_has_events", False)  # undone at the end: SQLAlchemy never takes the mark back
    sa.event.listen(target, name, listener, **options)
    try:
        yield
    finally:
        sa.event.remove(target, name, listener)


@pytest.mark.parametrize("isolation_level", [None, "AUTOCOMMIT"])
@pytest.mark.parametrize("target", [None, sa.Dialect], ids=["one dialect", "dialects"])
def test_a_host_that_sends_statements_itself(
    people: Witness,
    target: Any,
    isolation_level: str | None,
    subtests: pytest.Subtests,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The events that replace the dialect's functions, listened for from the middle of a transaction on."""
    sent: list[str] = []

    def send(cursor: Any, statement: str, parameters: Any, _context: Any) -> bool:
        sent.append(statement)
        cursor.execute(statement, parameters)
        return True

    def send_bare(cursor: Any, statement: str, _context: Any) -> bool:
        return send(cursor, statement, (), None)

    def send_each(cursor: Any, statement: str, parameters: Any, _context: Any) -> bool:
        sent.append(statement)
        cursor.executemany(statement, parameters)
        return True

    engine = isolated(people.engine, isolation_level)
    which = sa.update(TABLE).where(TABLE.c.id == sa.bindparam("which")).values(first_name="changed")
    ways: dict[str, tuple[Any, Callable[[sa.Connection], Any]]] = {
        "do_execute": (send, lambda connection: rename(connection, "ada")),
        "do_executemany": (send_each, lambda connection: connection.execute(which, [{"which": "ada"}] * 2)),
        "do_execute_no_params": (
            send_bare,
            lambda connection: connection.exec_driver_sql(
                "UPDATE person SET first_name = 'changed'", execution_options={"no_parameters": True}
            ),
        ),
    }
    for name, (handler, write) in ways.items():
        begin_again(people)
        expected = people.drops() if write is ways["do_execute_no_params"][1] else people.invalidates("ada")
        with subtests.test(name), engine.connect() as connection:
            connection.execute(sa.select(1))
            sent.clear()
            with expected:
                with listening(target or people.engine, name, handler, monkeypatch):
                    write(connection)
                connection.commit()
            assert [statement for statement in sent if statement.startswith("UPDATE")]
