"""What PostgreSQL does otherwise: a refused statement ends the transaction, and keys compare as the catalog says."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import exc, orm
from sqlalchemy.dialects import postgresql
from support.hosts import HostBase, on_postgresql, rename
from support.ways import TABLE, Witness, conflicting

from person_repo.database.engines import read_engine_of
from person_repo.database.savepoints import savepoint
from person_repo.fence.view import fence_of
from person_repo.model import FENCE

pytestmark = on_postgresql


# A transaction in which a statement was refused


def test_a_commit_of_a_failed_transaction_is_a_rollback(people: Witness) -> None:
    people.warm()
    with people.costs(0), people.engine.connect() as connection:
        rename(connection, "ada")
        with pytest.raises(exc.ProgrammingError):
            connection.exec_driver_sql("SELECT 1 FROM nowhere")
        connection.commit()
    people.check()

    assert people.committed()["ada"][1] == "first"


def test_a_commit_by_text_of_a_failed_transaction_is_a_rollback(people: Witness, automatic: sa.Connection) -> None:
    with people.right():
        automatic.exec_driver_sql("BEGIN")
        rename(automatic, "ada")
        with pytest.raises(exc.ProgrammingError):
            automatic.exec_driver_sql("SELECT 1 FROM nowhere")
        automatic.exec_driver_sql("COMMIT")
        rename(automatic, "barbara")

    assert [people.committed()[id][1] for id in ("ada", "barbara")] == ["first", "changed"]


def test_a_write_in_a_failed_transaction_is_refused_as_without_us(
    people: Witness, caplog: pytest.LogCaptureFixture
) -> None:
    with people.right(), people.engine.connect() as connection:
        with pytest.raises(exc.ProgrammingError):
            connection.exec_driver_sql("SELECT 1 FROM nowhere")
        with pytest.raises(exc.InternalError, match="current transaction is aborted"):
            connection.execute(sa.update(TABLE).where(TABLE.c.last_name == "of ada").values(first_name="never"))
        connection.rollback()

    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_a_refused_statement_of_ours_leaves_the_hosts_transaction_open(people: Witness) -> None:
    with people.engine.connect() as connection:
        rename(connection, "ada")
        with (
            pytest.raises(exc.ProgrammingError),
            savepoint(connection.connection, connection.dialect),
        ):
            connection.exec_driver_sql("SELECT 1 FROM nowhere")
        rename(connection, "barbara")
        connection.commit()

    assert [people.committed()[id][1] for id in ("ada", "barbara")] == ["changed", "changed"]


@pytest.fixture
def deleting(people: Witness) -> Iterator[Witness]:
    """Its engine's user may read and delete, and not update, so that no rows can be locked."""
    with people.engine.begin() as connection:
        connection.exec_driver_sql("CREATE ROLE person_repo_deleting")
        connection.exec_driver_sql("GRANT SELECT, DELETE ON person TO person_repo_deleting")
    yield people
    with people.engine.begin() as connection:
        connection.exec_driver_sql("DROP OWNED BY person_repo_deleting")
        connection.exec_driver_sql("DROP ROLE person_repo_deleting")


def test_a_user_who_may_not_lock_rows_may_delete_them(deleting: Witness) -> None:
    with deleting.drops(), deleting.engine.begin() as connection:
        connection.exec_driver_sql("SET LOCAL ROLE person_repo_deleting")
        connection.execute(sa.delete(TABLE).where(TABLE.c.last_name == "of ada"))

    assert "ada" not in deleting.committed()


def test_rows_named_by_a_query_that_cannot_be_locked_are_known_all_the_same(people: Witness) -> None:
    grouped = sa.select(sa.func.max(TABLE.c.last_name).label("last")).where(TABLE.c.id == "ada").subquery()
    with people.invalidates("ada"), people.engine.begin() as connection:
        connection.execute(sa.update(TABLE).where(TABLE.c.last_name == grouped.c.last).values(first_name="changed"))


# Text


def test_a_table_that_is_emptied_with_those_that_refer_to_it(witness_of: Callable[..., Witness]) -> None:
    """TRUNCATE ... CASCADE asks no foreign key for its action. It locks both tables, so nobody looks meanwhile."""
    owned = witness_of(Owned, [Owner(id=1)], ids=(1,), tables=[OWNERS, Owned.__table__])
    with owned.sessions() as session, session.begin():
        session.add(Owned(id=1, owner_id=1))
    owned.warm()
    with owned.blind(), owned.engine.begin() as connection:
        connection.exec_driver_sql("TRUNCATE owner CASCADE")
    owned.check()

    assert owned.answered() == {}


def test_a_truncation_that_is_rolled_back_changes_nothing(people: Witness) -> None:
    people.warm()
    with people.blind(), people.engine.connect() as connection:
        connection.exec_driver_sql("TRUNCATE person")
        connection.rollback()
    people.check()

    assert "ada" in people.answered()


@pytest.mark.parametrize(
    "statement",
    [
        "/* SELECT /* nested */ SELECT */ UPDATE person SET first_name = 'changed'",
        "UPDATE U&\"\\0070erson\" SET first_name = 'changed'",
        "COPY person FROM PROGRAM 'printf \"edsger\\tfirst\\tof edsger\\t1\\n\"'",
    ],
    ids=["nested comment", "escaped name", "COPY"],
)
def test_text_that_is_hard_to_read_drops_the_model(people: Witness, statement: str) -> None:
    with people.drops(), people.engine.begin() as connection:
        connection.exec_driver_sql(statement)


def test_listening_and_notifying_change_nothing(people: Witness) -> None:
    people.warm()
    with people.costs(0), people.engine.begin() as connection:
        for statement in ("LISTEN person", "NOTIFY person, 'UPDATE person'", "UNLISTEN person"):
            connection.exec_driver_sql(statement)
    people.check()


def test_an_abort_is_a_rollback(people: Witness, automatic: sa.Connection) -> None:
    people.warm()
    with people.costs(0):
        automatic.exec_driver_sql("BEGIN")
        rename(automatic, "ada")
        automatic.exec_driver_sql("ABORT")
    people.check()


def test_a_transaction_prepared_and_committed_by_text_drops_the_model(
    people: Witness, automatic: sa.Connection
) -> None:
    with people.drops():
        automatic.exec_driver_sql("BEGIN")
        rename(automatic, "ada")
        automatic.exec_driver_sql("PREPARE TRANSACTION 'of the host'")
        automatic.exec_driver_sql("COMMIT PREPARED 'of the host'")


# Keys that compare otherwise


class Owner(HostBase):
    __tablename__ = "owner"

    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)


class Owned(HostBase):
    """It refers to its owner, and the foreign key has no action."""

    __tablename__ = "owned"

    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    owner_id: orm.Mapped[int] = orm.mapped_column(sa.ForeignKey("owner.id"))


OWNERS: Any = Owner.__table__


class Mail(HostBase):
    """The type of its key is the test's: the metadata says what a host may well say."""

    __tablename__ = "mail"

    address: orm.Mapped[str] = orm.mapped_column(sa.String(40), primary_key=True)
    note: orm.Mapped[str] = orm.mapped_column(sa.String(40), default="")


class Known(HostBase):
    """Its metadata names the type."""

    __tablename__ = "known"

    address: orm.Mapped[str] = orm.mapped_column(postgresql.CITEXT, primary_key=True)
    note: orm.Mapped[str] = orm.mapped_column(sa.String(40), default="")


ADDRESSES = ["ada", "ADA", "Ada", "ada ", "grace", "new", "new" + " " * 5]

CREATED = {
    "varchar": "varchar(40)",
    "citext": "citext",
    "nondeterministic collation": "text COLLATE blind",
    "domain": "folding",
    "char": "char(8)",
}


@pytest.fixture
def folding(people_engine: sa.Engine) -> sa.Engine:
    """An engine over a database with types that fold case."""
    with people_engine.begin() as connection:
        connection.exec_driver_sql("CREATE EXTENSION citext")
        connection.exec_driver_sql(
            "CREATE COLLATION blind (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
        )
        connection.exec_driver_sql("CREATE DOMAIN folding AS citext")
    return people_engine


@pytest.mark.proof(name="suite", sample=2)
@pytest.mark.parametrize("type_", CREATED.values(), ids=CREATED)
def test_keys_that_the_metadata_takes_for_plain_strings(
    folding: sa.Engine, witness_of: Callable[..., Witness], type_: str, subtests: pytest.Subtests
) -> None:
    with folding.begin() as connection:
        connection.exec_driver_sql(f"CREATE TABLE mail (address {type_} PRIMARY KEY, note varchar(40) NOT NULL)")
    _check_writes(witness_of(Mail, [], tables=[], ids=ADDRESSES), Mail, subtests)


def test_the_catalog_is_asked_once_for_a_key_that_compares_otherwise(
    folding: sa.Engine, witness_of: Callable[..., Witness], statements: Callable[..., Any]
) -> None:
    with folding.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE mail (address char(8) PRIMARY KEY, note varchar(40) NOT NULL)")
    mails = witness_of(Mail, [], tables=[], ids=["ada"])
    with statements(read_engine_of(folding)) as seen:
        for note in ("one", "two", "three"):
            with mails.blind(), folding.begin() as connection:
                connection.execute(sa.update(Mail.__table__).where(Mail.address == "ada").values(note=note))

    assert len([statement for statement in seen if "typname" in statement]) == 1


def test_keys_whose_type_folds_case(
    folding: sa.Engine, witness_of: Callable[..., Witness], subtests: pytest.Subtests
) -> None:
    _check_writes(witness_of(Known, [], ids=ADDRESSES), Known, subtests)


def _check_writes(mails: Witness, entity: Any, subtests: pytest.Subtests) -> None:
    table = entity.__table__
    key = table.c.address
    writes: dict[str, Callable[[orm.Session], Any]] = {
        "update": lambda session: session.execute(sa.update(table).where(key == "ADA").values(note="changed")),
        "update of both": lambda session: session.execute(
            sa.update(table).where(key.in_(["ADA", "grace"])).values(note="changed")
        ),
        "delete": lambda session: session.execute(sa.delete(table).where(key == "Ada")),
        "insert": lambda session: session.execute(sa.insert(table).values(address="new", note="")),
        "upsert": lambda session: session.execute(
            conflicting(session, table)
            .values(address="ADA", note="")
            .on_conflict_do_update(index_elements=["address"], set_={"note": "changed"})
        ),
        "unit of work": lambda session: session.add(entity(address="new")),
        "move": lambda session: session.execute(sa.update(table).where(key == "ada").values(address="new")),
    }
    for name, write in writes.items():
        with mails.sessions() as session, session.begin():
            session.execute(sa.delete(entity))
            session.add_all([entity(address="ada"), entity(address="grace")])
        for _ in range(2):  # the second time by the form of the statement
            with subtests.test(name), mails.right(), mails.sessions() as session, session.begin():
                write(session)
            with mails.sessions() as session, session.begin():
                session.execute(sa.delete(entity).where(entity.address.in_(["new", "new     "])))


def test_a_plain_key_is_known_by_its_parameters(people: Witness) -> None:
    """Fast path: the catalog is asked once, and the database not at all for the rows."""
    people.warm()
    sent: list[str] = []
    sa.event.listen(people.engine, "before_cursor_execute", lambda *args: sent.append(args[2]))
    with people.blind(), people.engine.begin() as connection:
        for id in ("ada", "barbara", "Grace"):
            rename(connection, id)

    assert [statement.split()[0] for statement in sent] == ["UPDATE"] * 3


def test_a_table_that_is_not_committed_yet_is_dropped_as_a_whole(
    people_engine: sa.Engine, witness_of: Callable[..., Witness]
) -> None:
    mails = witness_of(Mail, [], ids=["ada"], tables=[Mail.__table__])
    with mails.blind(), people_engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE mail")
    with mails.blind(), people_engine.begin() as connection:
        Mail.metadata.create_all(connection, [Mail.__table__])
        connection.execute(sa.insert(Mail.__table__).values(address="ada", note=""))
        connection.execute(sa.update(Mail.__table__).where(Mail.address == "ada").values(note="changed"))
    mails.check()

    assert mails.answered()["ada"] == ("ada", "changed")


# The fence


def test_a_fence_that_refuses_a_row_leaves_the_hosts_transaction_open(people: Witness) -> None:
    fence = fence_of(people.engine, people.service.cached.backend)
    assert fence is not None
    # A read in between would wait for the lock on the fence's table.
    with people.blind(), people.engine.begin() as connection:
        connection.execute(sa.schema.CreateTable(FENCE, if_not_exists=True))
        connection.exec_driver_sql("ALTER TABLE person_repo_fence ADD CONSTRAINT refuses CHECK (id < 0)")
    place = people.service.cached.backend.places_of("group", "key")[0]
    with people.engine.connect() as connection:
        rename(connection, "ada")
        with pytest.raises(Exception, match="violates check constraint"):
            fence.record(connection.connection, connection.dialect, [place])
        rename(connection, "barbara")
        connection.commit()

    assert [people.committed()[id][1] for id in ("ada", "barbara")] == ["changed", "changed"]
