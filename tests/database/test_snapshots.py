"""MariaDB's snapshot isolation, its default since 11.6: a row that changed after the transaction's first read is
refused with error 1020, and the transaction is over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event, orm
from support.databases import FIXTURES
from support.urls import MEMORY

from person_repo import PersonService
from person_repo.model import Base, Person

CHANGED = 1020
"""ER_CHECKREAD: "Record has changed since last read"."""


@pytest.fixture(params=["mariadb-10.11", "mariadb-11.8"])
def url(request: pytest.FixtureRequest) -> str:
    """A database of MariaDB's. The older one has snapshot isolation only when it is asked."""
    url = sa.make_url(request.getfixturevalue(FIXTURES[request.param]))
    if request.param == "mariadb-10.11":
        url = url.update_query_dict({"init_command": "SET innodb_snapshot_isolation = ON"})
    return url.render_as_string(hide_password=False)


@pytest.fixture
def engine(url: str) -> Iterator[sa.Engine]:
    engine = sa.create_engine(url)
    Base.metadata.create_all(engine)
    with orm.Session(engine) as session, session.begin():
        session.add(Person(id="ada", first_name="Ada", last_name=""))
    yield engine
    engine.dispose()


class Overtaken:
    """Has the first transactions of an engine read everything, and then another one change ada.

    ``errors``: the numbers of the errors that the engine met. ``begun``: its transactions.
    """

    def __init__(self, engine: sa.Engine, times: int = 1) -> None:
        self.errors: list[int] = []
        self.begun = 0
        self._times = times
        self._other = sa.create_engine(engine.url)
        event.listen(engine, "begin", self._read_and_overtake)
        event.listen(engine, "handle_error", self._remember)

    def _read_and_overtake(self, connection: sa.Connection) -> None:
        self.begun += 1
        if self.begun > self._times:
            return
        connection.exec_driver_sql("SELECT * FROM person").all()
        with self._other.begin() as other:
            other.execute(sa.text("UPDATE person SET last_name = :name, version = version + 1"), {"name": "overtaking"})

    def _remember(self, context: Any) -> None:
        self.errors.append(context.original_exception.args[0])

    def close(self) -> None:
        self._other.dispose()


@pytest.fixture
def overtaken(engine: sa.Engine) -> Iterator[Callable[..., Overtaken]]:
    made: list[Overtaken] = []

    def overtake(times: int = 1) -> Overtaken:
        made.append(Overtaken(engine, times))
        return made[-1]

    yield overtake
    for one in made:
        one.close()


WRITES: dict[str, Callable[[PersonService], Any]] = {
    "update": lambda people: people.update("ada", first_name="Augusta"),
    "upsert": lambda people: people.upsert(Person(id="ada", first_name="Augusta", last_name="overtaking")),
    "delete": lambda people: people.delete("ada"),
}


@pytest.mark.parametrize("write", WRITES)
def test_a_write_that_was_overtaken_is_made_again(
    engine: sa.Engine, overtaken: Callable[..., Overtaken], write: str
) -> None:
    with PersonService.over(engine, MEMORY) as people:
        people.get("ada")
        overtaking = overtaken()
        WRITES[write](people)

        assert overtaking.errors == [CHANGED]
        assert overtaking.begun == 2
        expected = None if write == "delete" else Person(id="ada", first_name="Augusta", last_name="overtaking")
        for use_db in (False, True):
            with people.using(use_db=use_db):
                found = people.get("ada")
                assert (found and (found.first_name, found.last_name)) == (
                    expected and (expected.first_name, expected.last_name)
                )


def test_a_hosts_session_goes_on_after_it_was_overtaken(engine: sa.Engine, overtaken: Callable[..., Overtaken]) -> None:
    """By our own question for the rows that an update changes, too, which comes before it."""
    with PersonService.over(engine, MEMORY) as people, orm.Session(engine) as session:
        people.get("ada")
        overtaking = overtaken()
        with pytest.raises(sa.exc.OperationalError, match=str(CHANGED)):
            session.execute(sa.update(Person).where(Person.first_name == "Ada").values(first_name="Augusta"))
        session.rollback()
        session.execute(sa.update(Person).where(Person.first_name == "Ada").values(first_name="Augusta"))
        session.commit()

        assert overtaking.errors[0] == CHANGED
        assert people.get_one("ada").first_name == "Augusta"
        assert people.get_one("ada").last_name == "overtaking"
