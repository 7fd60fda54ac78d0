"""Tables without transactions: a change is everybody's as soon as its statement has run, and no rollback undoes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import exc, orm
from support.hosts import NOTES, HostBase, on_mysql, rename
from support.ways import Witness

from person_repo.database.engines import read_engine_of


class Counter(HostBase):
    """The host gives its key."""

    __tablename__ = "counter"
    __table_args__ = {"mysql_engine": "MyISAM", "mariadb_engine": "Aria"}

    id: orm.Mapped[int] = orm.mapped_column(primary_key=True, autoincrement=False)
    count: orm.Mapped[int] = orm.mapped_column(default=0)


class Visit(HostBase):
    """The database makes its key."""

    __tablename__ = "visit"
    __table_args__ = {"mysql_engine": "MyISAM"}

    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    page: orm.Mapped[str] = orm.mapped_column(sa.String(20))


COUNTERS: Any = Counter.__table__
VISITS: Any = Visit.__table__

WRITES: dict[str, Callable[[orm.Session], Any]] = {
    "Core update": lambda session: session.execute(sa.update(COUNTERS).where(COUNTERS.c.id == 1).values(count=1)),
    "unit of work": lambda session: setattr(session.get_one(Counter, 2), "count", 2),
    "update by criteria": lambda session: session.execute(
        sa.update(COUNTERS).where(COUNTERS.c.count < 9).values(count=9)
    ),
    "insert": lambda session: session.execute(sa.insert(COUNTERS), [{"id": 3}]),
    "text": lambda session: session.execute(sa.text("UPDATE counter SET count = 4 WHERE id = 1")),
    "delete": lambda session: session.execute(sa.delete(COUNTERS).where(COUNTERS.c.id == 3)),
}


@pytest.fixture
def counters(witness_of: Callable[..., Witness]) -> Witness:
    return witness_of(Counter, [Counter(id=1), Counter(id=2)], ids=(1, 2, 3))


@on_mysql
@pytest.mark.parametrize("end", ["commit", "rollback"])
@pytest.mark.parametrize("opened", [False, True], ids=["alone", "after other statements"])
def test_cached_reads_are_right_after_each_statement(
    counters: Witness, opened: bool, end: str, subtests: pytest.Subtests
) -> None:
    HostBase.metadata.create_all(counters.engine, [NOTES])
    for name, write in WRITES.items():
        with subtests.test(name), counters.right(), counters.sessions() as session:
            if opened:  # The server says that a transaction is open from here on.
                session.execute(sa.insert(NOTES).values(text="first"))
            write(session)
            session.flush()
            counters.look("in the transaction")
            getattr(session, end)()
            counters.look("after it")

    assert counters.committed() == {1: (1, 4), 2: (2, 9)}


@on_mysql
def test_rows_stay_that_a_statement_wrote_before_it_failed(counters: Witness) -> None:
    with counters.right(), counters.engine.connect() as connection:
        connection.execute(sa.text("START TRANSACTION"))
        with pytest.raises(exc.IntegrityError):
            connection.execute(sa.insert(COUNTERS).values([{"id": 3, "count": 5}, {"id": 1, "count": 5}]))
        counters.look("after the failure")
        connection.rollback()

    assert counters.committed()[3] == (3, 5)


@on_mysql
def test_a_key_that_the_database_makes(witness_of: Callable[..., Witness]) -> None:
    visits = witness_of(Visit, [Visit(page="home")], ids=(1, 2, 3))
    with visits.right(), visits.engine.connect() as connection:
        connection.execute(sa.text("START TRANSACTION"))
        connection.execute(sa.insert(VISITS).values(page="about"))
        visits.look("in the transaction")
        connection.rollback()

    assert visits.committed()[2] == (2, "about")


@on_mysql
def test_the_server_is_asked_once_for_each_table(people: Witness, statements: Callable[..., Any]) -> None:
    with statements(read_engine_of(people.engine)) as seen, people.blind():
        for id in ("ada", "barbara", "Grace"):
            with people.engine.begin() as connection:
                rename(connection, id)

    assert len([statement for statement in seen if "ENGINES" in statement]) == 1


@on_mysql
def test_a_statement_that_names_no_other_schema_is_no_matter(people: Witness) -> None:
    """None takes back a map that the engine or the connection has."""
    with people.invalidates("ada"), people.engine.begin() as connection:
        rename(connection.execution_options(schema_translate_map=None), "ada")

    assert people.committed()["ada"][1] == "changed"


@on_mysql
def test_changes_through_a_view_of_such_a_table(counters: Witness, monkeypatch: pytest.MonkeyPatch) -> None:
    """A view has no storage engine: what it shows may be everybody's at once."""
    monkeypatch.setitem(COUNTERS.info, "person_repo", {"view_of": "shown"})
    with counters.blind(), counters.engine.begin() as connection:
        connection.execute(sa.text("RENAME TABLE counter TO shown"))
        connection.execute(sa.text("CREATE VIEW counter AS SELECT * FROM shown"))
    with counters.right(), counters.engine.connect() as connection:
        connection.execute(sa.text("START TRANSACTION"))
        connection.execute(sa.insert(COUNTERS).values(id=3, count=7))
        counters.look("in the transaction")
        connection.rollback()

    assert counters.committed()[3] == (3, 7)
