"""Keys that the database makes, and conflicts on unique keys: rows that no statement names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import exc, orm
from sqlalchemy.dialects import mysql, sqlite
from support.hosts import TICKETS, HostBase, Ticket, isolated, number_on_from, on_mysql, on_sqlite
from support.ways import (
    Witness,
)

from person_repo.model import ExactString

pytestmark = pytest.mark.every_database

GENERATED: dict[str, Callable[[orm.Session], Any]] = {
    "unit of work": lambda session: session.add(Ticket(title="new")),
    "several objects": lambda session: session.add_all([Ticket(title="new"), Ticket(title="newer")]),
    "ORM insert": lambda session: session.execute(sa.insert(Ticket).values(title="new")),
    "ORM inserts": lambda session: session.execute(sa.insert(Ticket), [{"title": "new"}, {"title": "newer"}]),
    "Core insert": lambda session: session.connection().execute(sa.insert(TICKETS), {"title": "new"}),
    "Core inserts": lambda session: session.connection().execute(
        sa.insert(TICKETS), [{"title": "new"}, {"title": "newer"}]
    ),
    "multiple values": lambda session: session.execute(
        sa.insert(TICKETS).values([{"title": "new"}, {"title": "newer"}])
    ),
    "legacy bulk": lambda session: session.bulk_save_objects([Ticket(title="new"), Ticket(title="newer")]),
    "some keys given": lambda session: session.add_all([Ticket(id=4, title="new"), Ticket(title="newer")]),
    "an expression": lambda session: session.execute(sa.insert(TICKETS).values(id=sa.literal(1) + 2, title="new")),
    "text": lambda session: session.execute(sa.text("INSERT INTO ticket (title) VALUES ('new')")),
}


@pytest.mark.parametrize("isolation_level", [None, "AUTOCOMMIT"])
def test_keys_that_the_database_makes(
    witness_of: Callable[..., Witness], isolation_level: str | None, subtests: pytest.Subtests
) -> None:
    """The cache holds the absence of the next row, from a read before."""
    tickets = witness_of(Ticket, [Ticket(id=1, title="first"), Ticket(id=2, title="second")], ids=range(1, 9))
    engine = isolated(tickets.engine, isolation_level)
    for name, write in GENERATED.items():
        with engine.begin() as connection:
            connection.execute(sa.delete(TICKETS).where(TICKETS.c.id > 2))
            number_on_from(connection, "ticket", 3)
        with subtests.test(name), tickets.right(), orm.Session(engine) as session:
            write(session)
            session.commit()
        assert len(tickets.committed()) > 2


def test_a_key_that_the_database_made_is_dropped_alone(witness_of: Callable[..., Witness]) -> None:
    tickets = witness_of(Ticket, [Ticket(id=1, title="first")], ids=range(1, 5))
    with tickets.engine.begin() as connection:
        number_on_from(connection, "ticket", 2)
    with tickets.invalidates(2), tickets.sessions() as session, session.begin():
        session.add(Ticket(title="second"))


@pytest.mark.parametrize("isolation_level", [None, "AUTOCOMMIT"])
def test_rows_inserted_before_one_that_is_refused(
    witness_of: Callable[..., Witness], isolation_level: str | None
) -> None:
    """An executemany may stop halfway, and the transaction goes on."""
    tickets = witness_of(Ticket, [Ticket(id=1, title="first")], ids=range(1, 6))
    engine = isolated(tickets.engine, isolation_level)
    statement = sa.text("INSERT INTO ticket (title) VALUES (:title)")
    for insert in (statement, sa.insert(TICKETS)):
        with tickets.right(), engine.connect() as connection:
            with pytest.raises(exc.IntegrityError):
                connection.execute(insert, [{"title": f"one {insert}"}, {"title": "first"}, {"title": "never"}])
            connection.commit()


class Coupon(HostBase):
    """A function of the host's makes its key, in the database."""

    __tablename__ = "coupon"

    code: orm.Mapped[str] = orm.mapped_column(ExactString(40), primary_key=True, default=sa.func.lower("NEW"))
    worth: orm.Mapped[int] = orm.mapped_column(default=0)


class Voucher(HostBase):
    """A function of the host's makes its key, in Python."""

    __tablename__ = "voucher"

    code: orm.Mapped[str] = orm.mapped_column(ExactString(40), primary_key=True, default=lambda: "new")
    worth: orm.Mapped[int] = orm.mapped_column(default=0)


@pytest.mark.parametrize("entity", [Coupon, Voucher])
@pytest.mark.parametrize("isolation_level", [None, "AUTOCOMMIT"])
def test_keys_that_are_defaults(
    witness_of: Callable[..., Witness], entity: type[Any], isolation_level: str | None
) -> None:
    coupons = witness_of(entity, [entity(code="old")], ids=["old", "new"])
    engine = isolated(coupons.engine, isolation_level)
    with coupons.right(), orm.Session(engine) as session:
        session.add(entity())
        session.commit()
        session.execute(sa.delete(entity).where(entity.worth == 0))
        session.commit()
    with coupons.right(), engine.begin() as connection:
        connection.execute(sa.insert(entity.__table__))

    assert set(coupons.committed()) == {"new"}


class Account(HostBase):
    """A table with a second unique key beside the primary one."""

    __tablename__ = "account"

    id: orm.Mapped[str] = orm.mapped_column(ExactString(40), primary_key=True)
    email: orm.Mapped[str] = orm.mapped_column(sa.String(100), unique=True)
    owner: orm.Mapped[str] = orm.mapped_column(sa.String(100), default="nobody")


ACCOUNTS: Any = Account.__table__


@pytest.fixture
def accounts(witness_of: Callable[..., Witness]) -> Witness:
    objects = [Account(id=id, email=f"{id}@example.org") for id in ("ada", "grace")]
    return witness_of(Account, objects, ids=["ada", "grace", "edsger"])


@on_mysql
def test_an_upsert_that_meets_another_unique_key_changes_a_row_it_does_not_name(accounts: Witness) -> None:
    row = {"id": "edsger", "email": "ada@example.org", "owner": "edsger"}
    with accounts.drops(), accounts.engine.begin() as connection:
        connection.execute(mysql.insert(ACCOUNTS).values(row).on_duplicate_key_update(owner="edsger"))
    assert accounts.committed()["ada"][2] == "edsger"


@on_sqlite
def test_an_insert_or_replace_that_meets_another_unique_key_deletes_a_row_it_does_not_name(accounts: Witness) -> None:
    row = {"id": "edsger", "email": "ada@example.org", "owner": "edsger"}
    with accounts.drops(), accounts.engine.begin() as connection:
        connection.execute(sa.insert(ACCOUNTS).values(row).prefix_with("OR REPLACE"))
    assert "ada" not in accounts.committed()


@on_sqlite
def test_an_upsert_on_another_unique_key(accounts: Witness) -> None:
    row = {"id": "edsger", "email": "ada@example.org", "owner": "edsger"}
    with accounts.drops(), accounts.engine.begin() as connection:
        statement = sqlite.insert(ACCOUNTS).values(row)
        connection.execute(statement.on_conflict_do_update(["email"], set_={"owner": "edsger"}))
    assert accounts.committed()["ada"][2] == "edsger"


def test_an_update_by_another_unique_key_drops_the_row_that_has_it(accounts: Witness) -> None:
    """As far as the database can return it."""
    is_mysql, is_mariadb = (
        accounts.engine.dialect.name == "mysql",
        getattr(accounts.engine.dialect, "is_mariadb", False),
    )
    expected = accounts.drops() if is_mysql else accounts.invalidates("ada")
    with expected, accounts.sessions() as session, session.begin():
        session.execute(sa.update(Account).where(Account.email == "ada@example.org").values(owner="ada"))
    expected = accounts.drops() if is_mysql and not is_mariadb else accounts.invalidates("grace")
    with expected, accounts.engine.begin() as connection:
        connection.execute(sa.delete(ACCOUNTS).where(ACCOUNTS.c.email == "grace@example.org"))


@on_sqlite
def test_an_upsert_that_does_nothing_drops_the_row_it_might_have_inserted(accounts: Witness) -> None:
    row = {"id": "edsger", "email": "ada@example.org", "owner": "edsger"}
    with accounts.right(), accounts.engine.begin() as connection:
        connection.execute(sqlite.insert(ACCOUNTS).values(row).on_conflict_do_nothing())
        connection.execute(sa.insert(ACCOUNTS).values(row).prefix_with("OR IGNORE"))
