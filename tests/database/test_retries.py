"""Writes of our own that meet the locks of others: made again a bounded number of times, as stamina and the host say.

The others are connections that hold their locks until the write under test was rolled back once, or to the end.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa
import stamina
from sqlalchemy import event, orm
from support.urls import MEMORY

from person_repo.database.repository import SQLAlchemyRepository
from person_repo.exceptions import PersonRepoError
from person_repo.model import Base, Person
from person_repo.service import PersonService

ATTEMPTS = 5


class RetryBase(orm.DeclarativeBase):
    """Metadata of this module's own."""


class Order(RetryBase):
    """Rows whose keys the database makes, and rows below them."""

    __tablename__ = "order_"

    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    made: orm.Mapped[int] = orm.mapped_column(server_default="42")
    lines: orm.Mapped[list[Line]] = orm.relationship()


class Line(RetryBase):
    __tablename__ = "line"

    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    order: orm.Mapped[int] = orm.mapped_column(sa.ForeignKey("order_.id"))


def person(id: str, first_name: str = "", last_name: str = "") -> Person:
    return Person(id=id, first_name=first_name, last_name=last_name)


def impatient(url: str) -> sa.Engine:
    """An engine that waits for locks for the shortest time that its database knows."""
    if url.startswith("sqlite"):
        return sa.create_engine(url, connect_args={"timeout": 0})
    engine = sa.create_engine(url)
    event.listen(engine, "connect", lambda driver, _: driver.query("SET innodb_lock_wait_timeout = 1"))
    return engine


class Others:
    """Another connection that holds locks: it has changed ada and inserted new, and committed neither."""

    def __init__(self, url: str) -> None:
        self._engine = sa.create_engine(url)
        self._connection: sa.Connection | None = None

    def hold(self) -> None:
        self._connection = self._engine.connect()
        self._connection.execute(sa.update(Person).where(Person.id == "ada").values(first_name="others'"))
        self._connection.execute(sa.insert(Person).values(id="new", first_name="", last_name="", version=1))

    def release(self, *_: object) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.rollback()
            connection.close()

    def close(self) -> None:
        self.release()
        self._engine.dispose()


class Counted:
    """Counts the transactions that an engine begins."""

    def __init__(self, engine: sa.Engine) -> None:
        self.attempts = 0
        event.listen(engine, "begin", self._count)

    def _count(self, _: object) -> None:
        self.attempts += 1


@pytest.fixture
def engine(database_url: str) -> Iterator[sa.Engine]:
    engine = impatient(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def people(people_engine: sa.Engine) -> Iterator[PersonService]:
    with PersonService.over(people_engine, MEMORY) as people:
        people.add(person("ada", "Ada"))
        yield people


@pytest.fixture
def others(database_url: str) -> Iterator[Others]:
    others = Others(database_url)
    yield others
    others.close()


@pytest.fixture(autouse=True)
def no_waiting() -> Iterator[None]:
    """Up to the usual number of attempts, without the pauses between."""
    with stamina.set_testing(True, attempts=99, cap=True):
        yield


WRITES: dict[str, Callable[[PersonService], Any]] = {
    "add": lambda people: people.add(person("new")),
    "add_many": lambda people: people.add_many([person("other"), person("new")]),
    "update": lambda people: people.update("ada", last_name="Byron"),
    "upsert, new": lambda people: people.upsert(person("new")),
    "upsert, there": lambda people: people.upsert(person("ada", "Ada", "Byron")),
    "delete": lambda people: people.delete("ada"),
}

AFTER: dict[str, list[tuple[str, str, str, int]]] = {
    "add": [("ada", "Ada", "", 1), ("new", "", "", 1)],
    "add_many": [("ada", "Ada", "", 1), ("new", "", "", 1), ("other", "", "", 1)],
    "update": [("ada", "Ada", "Byron", 2)],
    "upsert, new": [("ada", "Ada", "", 1), ("new", "", "", 1)],
    "upsert, there": [("ada", "Ada", "Byron", 2)],
    "delete": [],
}


def stored(engine: sa.Engine) -> list[tuple[Any, ...]]:
    with engine.connect() as connection:
        rows = connection.execute(sa.select(Person.id, Person.first_name, Person.last_name, Person.version))
        return sorted(tuple(row) for row in rows)


@pytest.mark.parametrize("write", WRITES)
def test_a_write_that_waited_in_vain_for_a_lock_is_made_again(
    people: PersonService, others: Others, write: str
) -> None:
    others.hold()
    event.listen(people.engine, "rollback", others.release)
    counted = Counted(people.engine)
    WRITES[write](people)

    assert counted.attempts == 2
    assert stored(people.engine) == AFTER[write]
    assert people.get("ada") == next((person(*row[:3]) for row in AFTER[write] if row[0] == "ada"), None)


def test_after_the_last_attempt_the_databases_own_error_is_raised(people: PersonService, others: Others) -> None:
    others.hold()
    counted = Counted(people.engine)
    with pytest.raises(sa.exc.OperationalError) as caught:
        people.update("ada", last_name="Byron")

    assert not isinstance(caught.value, PersonRepoError)
    assert counted.attempts == ATTEMPTS
    others.release()
    assert people.update("ada", last_name="Byron").version == 2


def test_no_attempt_begins_after_ten_seconds(
    people: PersonService, others: Others, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each attempt may have waited for as long as the database lets it."""
    others.hold()
    counted = Counted(people.engine)
    stamina.set_testing(False)
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    event.listen(people.engine, "rollback", lambda _: now.__setitem__(0, now[0] + 5.5))
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda _: None)
    with pytest.raises(sa.exc.OperationalError):
        people.delete("ada")

    assert counted.attempts == 2


@pytest.mark.parametrize("write", ["add", "update"])
def test_a_host_that_turns_stamina_off_gets_the_first_error(people: PersonService, others: Others, write: str) -> None:
    others.hold()
    counted = Counted(people.engine)
    stamina.set_active(False)
    try:
        with pytest.raises(sa.exc.OperationalError):
            WRITES[write](people)
    finally:
        stamina.set_active(True)

    assert counted.attempts == 1


def test_a_host_that_tests_with_stamina_says_how_many_attempts_there_are(people: PersonService, others: Others) -> None:
    others.hold()
    counted = Counted(people.engine)
    with stamina.set_testing(True), pytest.raises(sa.exc.OperationalError):
        people.update("ada", last_name="Byron")

    assert counted.attempts == 1


def test_an_iterator_is_not_written_again(people: PersonService, others: Others) -> None:
    others.hold()
    counted = Counted(people.engine)
    with pytest.raises(sa.exc.OperationalError):
        people.add_many(person(id) for id in ("other", "new"))

    assert counted.attempts == 1


def test_other_errors_are_raised_at_once(people: PersonService) -> None:
    Base.metadata.drop_all(people.engine)
    counted = Counted(people.engine)
    for write in WRITES.values():
        with pytest.raises(sa.exc.DBAPIError):
            write(people)

    assert counted.attempts == len(WRITES)


def test_the_hosts_transactions_are_the_hosts(people: PersonService, others: Others) -> None:
    others.hold()
    counted = Counted(people.engine)
    with orm.Session(people.engine) as session:
        bound = people.bind(session)
        with pytest.raises(sa.exc.OperationalError):
            bound.update("ada", last_name="Byron")

    assert counted.attempts == 1


def test_sessions_on_a_connection_of_the_hosts_are_the_hosts_too(people: PersonService, others: Others) -> None:
    """A deadlock ends the host's transaction there. Its earlier writes are gone, and it must know."""
    seen: list[str] = []
    with people.engine.connect() as connection:
        joined = SQLAlchemyRepository(Person, orm.sessionmaker(connection, join_transaction_mode="create_savepoint"))
        others.hold()
        event.listen(connection, "before_cursor_execute", lambda *arguments: seen.append(arguments[2]))
        with pytest.raises(sa.exc.OperationalError):
            joined.delete("ada")
        joined.close()

    assert len([statement for statement in seen if "DELETE" in statement or "FOR UPDATE" in statement]) == 1


# A deadlock


class Adversary:
    """A transaction that holds a row which the write under test needs second, and then asks for the one that it took
    first. It has changed more rows, so that InnoDB gives up the other one.
    """

    def __init__(self, url: str, held: list[sa.Insert], asked: sa.Insert) -> None:
        self._engine = sa.create_engine(url)
        self._asked = asked
        self._connection = self._engine.connect()
        rows = [{"id": f"ballast{n}", "first_name": "", "last_name": "", "version": 1} for n in range(50)]
        self._connection.execute(sa.insert(Person), rows)
        for statement in held:
            self._connection.execute(statement)

    def meet(self) -> None:
        """Waits until somebody waits for a lock, then asks for the other row; returns when the other has lost."""
        waiting = sa.text("SELECT COUNT(*) FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'")
        with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as looking:
            while not looking.scalar(waiting):
                threading.Event().wait(0.1)  # InnoDB's tables are renewed as often
        self._connection.execute(self._asked)

    def close(self, *_: object) -> None:
        self._connection.close()
        self._engine.dispose()


@pytest.fixture
def deadlocked(mysql_url: str) -> Iterator[Callable[[list[sa.Insert], sa.Insert, Callable[[sa.Engine], Any]], int]]:
    """Makes a write meet an adversary, which ends once the write has lost; returns the number of transactions."""
    engine = sa.create_engine(mysql_url)
    Base.metadata.create_all(engine)
    RetryBase.metadata.create_all(engine)

    def run(held: list[sa.Insert], asked: sa.Insert, write: Callable[[sa.Engine], Any]) -> int:
        adversary = Adversary(mysql_url, held, asked)
        counted = Counted(engine)
        with ThreadPoolExecutor(1) as pool:
            met = pool.submit(adversary.meet)

            def lost(*_: object) -> None:
                met.result(30)
                adversary.close()

            event.listen(engine, "rollback", lost, once=True)
            try:
                write(engine)
            finally:
                event.remove(engine, "rollback", lost)
                adversary.close()
        return counted.attempts

    yield run
    engine.dispose()


def test_a_deadlock_that_was_lost_is_made_good(deadlocked: Any) -> None:
    row = {"first_name": "", "last_name": "", "version": 1}
    seen: list[Any] = []

    def write(engine: sa.Engine) -> None:
        event.listen(engine, "handle_error", lambda context: seen.append(context.original_exception.args[0]))
        people = SQLAlchemyRepository(Person, engine)
        assert people.add_many([person("a"), person("b")]) == 2
        assert people.get_many(["a", "b"]).keys() == {"a", "b"}
        people.close()

    assert deadlocked([sa.insert(Person).values(id="b", **row)], sa.insert(Person).values(id="a", **row), write) == 2
    assert seen == [1213]


def order(id: int | None = None, line: int | None = None) -> Order:
    return Order(id=id, lines=[Line(id=line)])


def test_an_object_that_was_lost_in_a_deadlock_can_be_added_again(deadlocked: Any) -> None:
    added = order(1, 1)
    before = {name: value for name, value in vars(added).items() if name != "_sa_instance_state"}

    def write(engine: sa.Engine) -> None:
        orders = SQLAlchemyRepository(Order, engine)
        stamina.set_active(False)
        try:
            with pytest.raises(sa.exc.OperationalError, match="1213"):
                orders.add(added)
        finally:
            stamina.set_active(True)
        assert sa.inspect(added).transient
        assert {name: value for name, value in vars(added).items() if name != "_sa_instance_state"} == before
        orders.add(added)
        assert (added.id, added.made) == (1, 42)
        assert orders.count() == 1
        orders.close()

    holding = Order.__table__.insert().values(id=2)  # type: ignore[attr-defined]
    line = Line.__table__.insert().values(id=1, order=2)  # type: ignore[attr-defined]
    asking = Order.__table__.insert().values(id=1)  # type: ignore[attr-defined]

    assert deadlocked([holding, line], asking, write) == 2


def test_an_object_that_is_added_again_does_not_keep_a_key_that_was_rolled_back(tmp_path: Any) -> None:
    """SQLite lets a writer go as far as COMMIT beside a reader. The key may be somebody else's after that."""
    url = f"sqlite:///{tmp_path / 'orders.db'}"
    engine = impatient(url)
    RetryBase.metadata.create_all(engine)
    other = sa.create_engine(url)
    reading = other.connect()
    reading.exec_driver_sql("BEGIN")
    reading.exec_driver_sql("SELECT COUNT(*) FROM order_").all()

    counted = Counted(engine)

    def overtake(*_: object) -> None:
        if counted.attempts != 2:
            return
        reading.rollback()
        reading.exec_driver_sql("INSERT INTO order_ (id) VALUES (1)")
        reading.exec_driver_sql('INSERT INTO line (id, "order") VALUES (1, 1)')
        reading.commit()

    event.listen(engine, "begin", overtake)
    orders = SQLAlchemyRepository(Order, engine)
    added = order()
    orders.add(added)

    assert counted.attempts == 2
    assert (added.id, added.lines[0].id, added.made) == (2, 2, 42)
    assert orders.count() == 2
    orders.close()
    reading.close()
    engine.dispose()
    other.dispose()


# stamina itself

SCRIPT = """
import sys
import sqlalchemy as sa
from sqlalchemy import event
from person_repo import Person, PersonService, migrations

assert not {"stamina", "tenacity"} & sys.modules.keys(), "imported with the package"
migrations.upgrade("sqlite:///people.db")
engine = sa.create_engine("sqlite:///people.db", connect_args={"timeout": 0})
people = PersonService.over(engine, "memory://")
people.get("ada")
assert not {"stamina", "tenacity"} & sys.modules.keys(), "imported by a read"
holding = sa.create_engine("sqlite:///people.db").connect()
holding.execute(sa.insert(Person).values(id="bob", first_name="", last_name="", version=1))
event.listen(engine, "rollback", lambda _: holding.rollback(), once=True)
people.add(Person(id="ada", first_name="Ada", last_name="Byron"))
assert people.get("ada")
"""


def test_a_retry_prints_nothing_and_reads_do_not_even_import_it(tmp_path: Any) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_host_that_logs_stamina_sees_each_retry(
    people: PersonService, others: Others, caplog: pytest.LogCaptureFixture
) -> None:
    others.hold()
    event.listen(people.engine, "rollback", others.release)
    people.update("ada", last_name="Byron")

    assert [record.getMessage() for record in caplog.records if record.name == "stamina"] == ["stamina.retry_scheduled"]
