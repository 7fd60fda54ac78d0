"""Tables that are defined anew while a process writes them: their keys compare otherwise from then on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from support.hosts import HostBase, is_mariadb, on_mysql_and_mariadb, on_postgresql
from support.ways import Witness

from person_repo.model import ExactString

everywhere = pytest.mark.parametrize(
    ("database_url", "cache_url"),
    [
        ("mysql", "memcached"),
        ("mariadb-10.11", "memcached"),
        ("mariadb-11.8", "memcached"),
        ("postgresql", "memcached"),
    ],
    indirect=True,
)


class Word(HostBase):
    """A model whose key is compared exactly at first, whatever the database."""

    __tablename__ = "word"

    name: orm.Mapped[str] = orm.mapped_column(ExactString(40), primary_key=True)
    note: orm.Mapped[str] = orm.mapped_column(sa.String(40), default="")


WORD: Any = Word.__table__
BY_OTHER_SPELLING = sa.update(WORD).where(WORD.c.name == "ADA").values(note="changed")
BY_KEY = sa.update(WORD).where(WORD.c.name == "ada").values(note="changed")


class Pauses:
    """Holds statements back right before they are sent, after they were examined: those whose text begins like this."""

    def __init__(self, engine: sa.Engine) -> None:
        self._held: dict[str, tuple[threading.Event, threading.Event]] = {}
        self._execute: Callable[..., None] = engine.dialect.do_execute
        engine.dialect.do_execute = self._send  # type: ignore[method-assign]

    def _send(self, cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:
        for beginning, (reached, released) in list(self._held.items()):
            if statement.startswith(beginning):
                reached.set()
                assert released.wait(10), f"nobody released {statement!r}"
        self._execute(cursor, statement, parameters, context)

    def hold(self, beginning: str) -> None:
        """Hold such statements back from now on."""
        self._held[beginning] = (threading.Event(), threading.Event())

    def await_held(self, beginning: str) -> None:
        """Return when there is one."""
        assert self._held[beginning][0].wait(10), f"no {beginning} came"

    def release(self, beginning: str) -> None:
        """Send it, and hold no further one back."""
        self._held.pop(beginning)[1].set()


class Words:
    """A covered engine over the table, and what gives its key another definition."""

    def __init__(self, engine: sa.Engine, witness_of: Callable[..., Witness]) -> None:
        is_postgresql = engine.dialect.name == "postgresql"
        exact, folding = "utf8mb4_0900_bin", "utf8mb4_0900_ai_ci"
        if is_mariadb(engine):
            exact, folding = "utf8mb4_nopad_bin", "utf8mb4_general_ci"
        collation = "" if is_postgresql else f" COLLATE {exact}"
        self.alter = f"ALTER TABLE word CONVERT TO CHARACTER SET utf8mb4 COLLATE {folding}"
        if is_postgresql:
            self.alter = "ALTER TABLE word ALTER name TYPE text COLLATE blind"
        with engine.begin() as connection:
            if is_postgresql:
                connection.exec_driver_sql(
                    "CREATE COLLATION blind (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
                )
            connection.exec_driver_sql(
                f"CREATE TABLE word (name VARCHAR(40){collation} PRIMARY KEY, note VARCHAR(40) NOT NULL)"
            )
        self.engine = sa.create_engine(engine.url)
        self.pauses = Pauses(self.engine)
        objects = [Word(name="ada"), Word(name="bob")]
        self.witness = witness_of(Word, objects, tables=[], ids=("ada", "ADA", "bob"), engine=self.engine)
        with self.witness.invalidates("ada"):
            self.execute(BY_KEY.values(note="first"))

    def execute(self, statement: Any, **options: Any) -> None:
        """In a transaction of its own, or without one; nobody looks meanwhile."""
        if isinstance(statement, str):
            statement = sa.text(statement)
        with self.engine.connect().execution_options(**options) as connection:
            connection.execute(statement)
            connection.commit()


@pytest.fixture
def words(people_engine: sa.Engine, witness_of: Callable[..., Witness]) -> Iterator[Words]:
    words = Words(people_engine, witness_of)
    yield words
    words.engine.dispose()


@everywhere
def test_what_comes_after_is_found_by_the_new_definition(words: Words) -> None:
    with words.witness.blind():  # Who looks meanwhile waits for its COMMIT.
        words.execute(words.alter)
    for _ in range(2):  # the second time by the form of the statement
        with words.witness.right():
            words.execute(BY_OTHER_SPELLING.values(note="again"))
        with words.witness.right():
            words.execute(BY_OTHER_SPELLING)


MODES = {"transaction": {}, "autocommit": {"isolation_level": "AUTOCOMMIT"}}


@everywhere
@pytest.mark.parametrize("options", MODES.values(), ids=MODES)
def test_a_write_that_was_examined_before_and_sent_after(words: Words, options: dict[str, Any]) -> None:
    words.witness.warm()
    with words.witness.blind(), ThreadPoolExecutor(1) as pool:
        words.pauses.hold("UPDATE")
        writing = pool.submit(words.execute, BY_OTHER_SPELLING, **options)
        words.pauses.await_held("UPDATE")
        words.execute(words.alter)
        words.witness.answered()
        words.pauses.release("UPDATE")
        writing.result()
    words.witness.check()

    assert words.witness.answered()["ada"] == ("ada", "changed")


@everywhere
def test_a_write_that_is_examined_while_the_table_is_altered(words: Words) -> None:
    """By a statement that commits itself: in a transaction it would ask for its rows, and the ALTER TABLE wait."""
    words.witness.warm()
    with words.witness.blind(), ThreadPoolExecutor(2) as pool:
        words.pauses.hold("ALTER")
        altering = pool.submit(words.execute, words.alter)
        words.pauses.await_held("ALTER")
        words.pauses.hold("UPDATE")
        writing = pool.submit(words.execute, BY_OTHER_SPELLING, isolation_level="AUTOCOMMIT")
        words.pauses.await_held("UPDATE")
        words.pauses.release("ALTER")
        altering.result()
        words.witness.answered()
        words.pauses.release("UPDATE")
        writing.result()
    words.witness.check()

    assert words.witness.answered()["ada"] == ("ada", "changed")


@on_postgresql
@pytest.mark.parametrize("options", [{}, MODES["autocommit"]], ids=MODES)
def test_a_write_that_waits_for_the_transaction_that_alters(words: Words, options: dict[str, Any]) -> None:
    """It is examined before the COMMIT, and runs after it."""
    words.witness.warm()
    with words.witness.blind(), ThreadPoolExecutor(1) as pool:
        with words.engine.begin() as connection:
            connection.exec_driver_sql(words.alter)
            words.pauses.hold("UPDATE")
            writing = pool.submit(words.execute, BY_OTHER_SPELLING, **options)
            words.pauses.await_held("UPDATE")
            words.pauses.release("UPDATE")
        writing.result()
    words.witness.check()
    with words.witness.right():
        words.execute(BY_OTHER_SPELLING.values(note="again"))


@on_postgresql
@pytest.mark.parametrize("prepared", [False, True], ids=["commit", "prepared"])
def test_the_transaction_that_alters_may_go_on_writing(words: Words, prepared: bool) -> None:
    words.witness.warm()
    with words.witness.blind(), words.engine.connect() as connection:
        transaction: Any = connection.begin_twophase() if prepared else connection.begin()
        connection.exec_driver_sql(words.alter)
        connection.execute(BY_OTHER_SPELLING)
        if prepared:
            transaction.prepare()
        transaction.commit()
    words.witness.check()
    with words.witness.right():
        words.execute(BY_OTHER_SPELLING.values(note="again"))


@on_postgresql
def test_after_a_rollback_the_key_is_known_again(words: Words) -> None:
    words.witness.warm()
    with words.witness.blind(), words.engine.connect() as connection:
        connection.exec_driver_sql(words.alter)
        connection.rollback()
    with words.witness.invalidates("ada"):
        words.execute(BY_KEY)


@on_postgresql
def test_text_that_changes_rows_asks_for_nothing_again(words: Words, statements: Callable[..., Any]) -> None:
    with statements(words.witness.service.read_engine) as seen, words.witness.blind():
        for _ in range(3):
            words.execute("UPDATE word SET note = 'text' WHERE name = 'ada'")
            words.execute(BY_KEY)

    assert not [statement for statement in seen if "pg_attribute" in statement]


@on_mysql_and_mariadb
def test_a_statement_that_fails_alters_nothing(words: Words) -> None:
    with words.witness.blind(), pytest.raises(sa.exc.DatabaseError):
        words.execute("ALTER TABLE word DROP COLUMN nowhere")
    with words.witness.invalidates("ada"):
        words.execute(BY_KEY)
