"""The story of the demo: steps whose answers are checked, each with who answered, its duration and its cost."""

from __future__ import annotations

import csv
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import orm

from person_repo import migrations
from person_repo.database.schema import is_about_schema
from person_repo.exceptions import EntityExistsError
from person_repo.model import Person
from person_repo.service import PersonService, connect

__all__ = ["Step", "laureates", "run"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of the demo, and its cost.

    ``what``: the step in words. ``answer``: its result as text. ``answered_by``: ``"cache"``, ``"database"``,
    ``"cache and database"`` or ``"nobody"``. ``microseconds`` of wall clock, SQL ``statements``, cache
    ``round_trips``. ``wrong``: empty, or what the answer should have been.
    """

    what: str
    answer: str
    answered_by: str
    microseconds: float
    statements: int
    round_trips: int
    wrong: str = ""


def laureates() -> list[Person]:
    """The people of the demo: those who received the Turing Award from 1966 to 2024, new objects at each call."""
    text = resources.files("person_repo.cli.demo").joinpath("turing_laureates.csv").read_text(encoding="utf-8")
    return [Person(**row) for row in csv.DictReader(text.splitlines())]


def run(database_url: str | None = None, cache_url: str = "memory://") -> list[Step]:
    """Runs the demo on a database and a cache, and returns its steps.

    Without ``database_url`` the database is a SQLite file in a temporary directory, removed at the end. With one,
    the migrations are run there. People who are in it already stay as they are; laureates among them are used and
    not added. The demo changes one person of its own, and at its end removes those whom it has added, also when it
    is interrupted.

    A wrong answer does not end the run: it stands in its step's ``wrong``. Raises ``EntityExistsError``, with no row
    changed, if the database has other people under the demo's ids.
    """
    with ExitStack() as stack:
        if database_url is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="person-repo-demo-"))
            database_url = f"sqlite:///{Path(folder).as_posix()}/people.db"
        people = stack.enter_context(connect(database_url, cache_url))
        ledger = stack.enter_context(_opened(people))
        _run_steps(people, ledger)
        return ledger.steps


class _Ledger:
    """The steps so far. Times each, counts its statements and round trips, and checks its answer."""

    def __init__(self, people: PersonService) -> None:
        self.steps: list[Step] = []
        self._people = people
        self._statements = 0

    def count(self, _connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        """Counts a statement; called by the engines. Polls of the fence come by the clock and are no step's cost."""
        if not is_about_schema(statement):
            self._statements += 1

    def step(self, what: str, do: Callable[[], object], *, expect: object) -> None:
        """Runs and records a step; an answer that is not equal to ``expect`` is recorded as wrong."""
        before, statements = self._people.stats(), self._statements
        start = time.perf_counter()
        answer = do()
        microseconds = (time.perf_counter() - start) * 1e6
        spent, statements = self._people.stats() - before, self._statements - statements
        answered_by = " and ".join(name for name, n in (("cache", spent.hits), ("database", statements)) if n)
        self.steps.append(
            Step(
                what=what,
                answer=_in_words(answer),
                answered_by=answered_by or "nobody",
                microseconds=microseconds,
                statements=statements,
                round_trips=spent.round_trips,
                wrong="" if answer == expect else f"expected {expect!r:.200}, got {answer!r:.200}",
            )
        )


@contextmanager
def _opened(people: PersonService) -> Iterator[_Ledger]:
    ledger = _Ledger(people)
    # Reads of the repository have an engine of their own.
    engines = list(dict.fromkeys([people.engine, people.read_engine]))
    for engine in engines:
        sa.event.listen(engine, "before_cursor_execute", ledger.count)
    try:
        yield ledger
    finally:
        for engine in engines:
            sa.event.remove(engine, "before_cursor_execute", ledger.count)


def _run_steps(people: PersonService, ledger: _Ledger) -> None:
    ledger.step("run the migrations", lambda: _upgraded(people), expect=migrations.heads())
    missing = _missing(people)
    ada = Person(id=f"demo-{secrets.token_hex(8)}", first_name="Ada", last_name="Byron")
    try:
        added = [person for person in laureates() if person.id in missing]
        ledger.step(f"import {len(added)} laureates", lambda: people.add_many(added), expect=len(missing))
        _read(people, ledger)
        _change(people, ledger, ada)
    finally:
        ledger.step("remove what the demo added", lambda: _remove(people, missing, ada.id), expect=len(missing))


def _upgraded(people: PersonService) -> tuple[str, ...]:
    migrations.upgrade(people.engine)
    return migrations.current(people.engine)


def _missing(people: PersonService) -> dict[str, Person]:
    """The laureates who are not in the database, by id. Raises ``EntityExistsError`` if somebody else has an id."""
    all_ = {person.id: person for person in laureates()}
    with people.using(use_db=True):
        present = people.get_many(all_)
    others = [id for id, person in present.items() if person != all_[id]]
    if others:
        raise EntityExistsError(
            f"the database has other people under {len(others)} of the demo's ids, {others[0]!r} for one; "
            "no row was changed: give the demo a database of its own"
        )
    return {id: person for id, person in all_.items() if id not in present}


def _read(people: PersonService, ledger: _Ledger) -> None:
    """Reads of one person, of all of them, and of nobody, with the toggle either way."""
    all_ = {person.id: person for person in laureates()}
    corbato = all_["corbato-1990"]
    nobody = f"demo-{secrets.token_hex(8)}"
    people.invalidate(*all_)  # Another process may have read them before.

    def read() -> Person | None:
        return people.get(corbato.id)

    ledger.step("read one for the first time", read, expect=corbato)
    ledger.step("read it again", read, expect=corbato)
    with people.using(use_db=True):
        ledger.step("read it in a block with use_db on", read, expect=corbato)
    people.use_db = True
    ledger.step("turn use_db on for everybody, read it", read, expect=corbato)
    people.use_db = False
    ledger.step("turn use_db off again, read it", read, expect=corbato)
    people.invalidate(*all_)
    ledger.step("read all in one call", lambda: people.get_many(all_), expect=all_)
    ledger.step("read all in one call again", lambda: people.get_many(all_), expect=all_)
    ledger.step("read an id that nobody has", lambda: people.get(nobody), expect=None)
    ledger.step("read that id again", lambda: people.get(nobody), expect=None)


def _change(people: PersonService, ledger: _Ledger, ada: Person) -> None:
    """Writes by the service, and by a plain SQLAlchemy session that knows of no cache."""
    id = ada.id
    byron, lovelace = (Person(id=id, first_name="Ada", last_name=name) for name in ("Byron", "Lovelace"))
    sessions = orm.sessionmaker(people.engine)

    def read() -> Person | None:
        return people.get(id)

    def change(name: str, end: Callable[[orm.Session], None], *, answer: str) -> str:
        with sessions() as session:
            session.get_one(Person, id).last_name = name
            session.flush()
            end(session)
        return answer

    def add() -> str:
        people.add(ada)
        return "added"

    ledger.step("add one through the service", add, expect="added")
    ledger.step("read the one added", read, expect=byron)
    ledger.step(
        "change the name in a plain SQLAlchemy session",
        lambda: change("Lovelace", orm.Session.commit, answer="committed"),
        expect="committed",
    )
    ledger.step("read: the change is seen", read, expect=lovelace)
    ledger.step(
        "change the name again, and roll back",
        lambda: change("King", orm.Session.rollback, answer="rolled back"),
        expect="rolled back",
    )
    ledger.step("read: nothing has changed", read, expect=lovelace)
    ledger.step("delete", lambda: people.delete(id), expect=True)
    ledger.step("read: nobody", read, expect=None)


def _remove(people: PersonService, added: Mapping[str, Person], changed_id: str) -> int:
    """Deletes the people whom the demo added and nobody has changed since; returns how many of ``added`` those were."""
    people.delete(changed_id)
    with orm.Session(people.engine) as session, session.begin():
        bound = people.bind(session)
        return sum(bound.delete(id) for id, person in bound.get_many(added).items() if person == added[id])


def _in_words(answer: object) -> str:
    """An answer in a few words."""
    if isinstance(answer, Person):
        return f"{answer.first_name} {answer.last_name}"
    if isinstance(answer, Mapping):
        return f"{len(answer)} people"
    if isinstance(answer, tuple):
        return ", ".join(answer)
    if isinstance(answer, bool):
        return "done" if answer else "not done"
    return "nobody" if answer is None else str(answer)
