"""String keys under the collations of MySQL and MariaDB, which need not be those that the metadata says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.dialects import mysql
from support.hosts import HostBase, is_mariadb, on_mysql_and_mariadb, rename
from support.ways import TABLE, Witness, rows

from person_repo.model import Person

OF_MYSQL = ("utf8mb4_0900_ai_ci", "utf8mb4_0900_as_cs", "utf8mb4_0900_bin", "utf8mb4_general_ci", "utf8mb4_bin")
OF_MARIADB = ("utf8mb4_uca1400_ai_ci", "utf8mb4_uca1400_as_cs", "utf8mb4_uca1400_nopad_as_ci", "utf8mb4_nopad_bin")
SPELLINGS = ("ada", "ADA", "Ada", "ada ", "\u00e4da", "bob", "eve")


class Plain(HostBase):
    """A key of which the metadata says no collation."""

    __tablename__ = "plain"

    name: orm.Mapped[str] = orm.mapped_column(sa.String(40), primary_key=True)
    note: orm.Mapped[str] = orm.mapped_column(sa.String(40), default="")


PLAIN: Any = Plain.__table__

DEFINITIONS = {
    "of the database": "CREATE TABLE plain (name VARCHAR(40) PRIMARY KEY, note VARCHAR(40) NOT NULL)",
    "of the table": "CREATE TABLE plain (name VARCHAR(40) PRIMARY KEY, note VARCHAR(40) NOT NULL) COLLATE {0}",
    "of the column": "CREATE TABLE plain (name VARCHAR(40) COLLATE {0} PRIMARY KEY, note VARCHAR(40) NOT NULL)",
}

WRITES: dict[str, Callable[[orm.Session, str], Any]] = {
    "update": lambda session, name: session.execute(
        sa.update(PLAIN).where(PLAIN.c.name == name).values(note="changed")
    ),
    "ORM update": lambda session, name: session.execute(
        sa.update(Plain).where(Plain.name.in_([name])).values(note="changed")
    ),
    "many parameter sets": lambda session, name: session.connection().execute(
        sa.update(PLAIN).where(PLAIN.c.name == sa.bindparam("which")).values(note="changed"),
        [{"which": name}, {"which": "eve"}],
    ),
    "unit of work": lambda session, name: setattr(session.get(Plain, name) or Plain(), "note", "changed"),
    "merge": lambda session, name: session.merge(Plain(name=name, note="changed")),
    "delete": lambda session, name: session.execute(sa.delete(PLAIN).where(PLAIN.c.name == name)),
    "update of the key": lambda session, name: session.execute(
        sa.update(PLAIN).where(PLAIN.c.name == name).values(name="eve")
    ),
    "upsert": lambda session, name: session.execute(
        mysql.insert(PLAIN).values(name=name, note="").on_duplicate_key_update(note="changed")
    ),
    "replace": lambda session, name: session.execute(
        sa.text("REPLACE INTO plain VALUES (:name, 'changed')"), {"name": name}
    ),
    "text": lambda session, name: session.execute(
        sa.text("UPDATE plain SET note = 'changed' WHERE name = :name"), {"name": name}
    ),
}


@pytest.fixture
def made(people_engine: sa.Engine) -> Callable[[str, str], None]:
    """``made(where, collation)`` makes the table with this collation, and no other."""

    def make(where: str, collation: str) -> None:
        with people_engine.begin() as connection:
            connection.exec_driver_sql("DROP TABLE IF EXISTS plain")
            connection.exec_driver_sql(f"ALTER DATABASE CHARACTER SET utf8mb4 COLLATE {collation}")
            connection.exec_driver_sql(DEFINITIONS[where].format(collation))

    return make


@on_mysql_and_mariadb
def test_a_write_of_another_spelling_is_seen(
    people_engine: sa.Engine,
    made: Callable[[str, str], None],
    witness_of: Callable[..., Witness],
    subtests: pytest.Subtests,
) -> None:
    collations = OF_MARIADB if is_mariadb(people_engine) else OF_MYSQL
    pairs = [("of the database", collations[0]), ("of the table", collations[1])]
    for where, collation in [*pairs, *[("of the column", collation) for collation in collations]]:
        made(where, collation)
        plain = witness_of(Plain, [], ids=SPELLINGS, engine=sa.create_engine(people_engine.url))
        for name, write in WRITES.items():
            has_all = where == "of the column" and name in ("update", "upsert", "delete")
            for spelling in ("ADA", "ada ", "\u00e4da") if has_all else ("ADA",):
                with plain.sessions() as session, session.begin():
                    session.execute(sa.delete(Plain))
                    session.add_all([Plain(name="ada"), Plain(name="bob")])
                with subtests.test(f"{collation} {where}, {name} of {spelling}"), plain.right():
                    with plain.sessions() as session, session.begin():
                        write(session, spelling)
                    assert {id for id in SPELLINGS if plain.service.exists(id)} == plain.committed().keys()
        plain.close()


OF_PEOPLE: dict[str, Callable[[orm.Session], Any]] = {
    "update": lambda session: session.execute(sa.update(TABLE).where(TABLE.c.id == "ADA").values(first_name="c")),
    "ORM update": lambda session: session.execute(sa.update(Person).where(Person.id == "ADA").values(first_name="c")),
    "upsert": lambda session: session.execute(
        mysql.insert(TABLE).values(rows(["ADA"], "new")).on_duplicate_key_update(first_name="changed")
    ),
    "delete": lambda session: session.execute(sa.delete(TABLE).where(TABLE.c.id == "ADA")),
}
"""Writes of people by another spelling, sent twice: the second time they are known by their form."""


@pytest.fixture
def converted(people_engine: sa.Engine, people: Witness) -> sa.TextClause:
    """The statement that gives all columns a collation which folds case, as when a database is moved. The keys that it
    then takes for equal are gone.
    """
    with people.blind(), people_engine.begin() as connection:
        connection.execute(sa.delete(TABLE).where(TABLE.c.id.in_(["grace", "grace "])))
    folding = (OF_MARIADB if is_mariadb(people_engine) else OF_MYSQL)[0]
    return sa.text(f"ALTER TABLE person CONVERT TO CHARACTER SET utf8mb4 COLLATE {folding}")


@on_mysql_and_mariadb
@pytest.mark.parametrize("write", OF_PEOPLE)
def test_a_database_that_folds_what_the_metadata_takes_for_exact(
    people: Witness, converted: sa.TextClause, write: str
) -> None:
    with people.blind(), people.engine.begin() as connection:
        connection.execute(converted)
    for _ in range(3):
        with people.right(), people.sessions() as session:
            OF_PEOPLE[write](session)
            session.commit()


@on_mysql_and_mariadb
@pytest.mark.parametrize("write", OF_PEOPLE)
def test_a_collation_that_an_alter_table_changes_is_asked_for_again(
    people: Witness, converted: sa.TextClause, write: str
) -> None:
    for _ in range(3):
        with people.right(), people.sessions() as session:
            OF_PEOPLE[write](session)
            session.rollback()
    with people.right(), people.engine.begin() as connection:
        connection.execute(converted)
    with people.right(), people.sessions() as session:
        OF_PEOPLE[write](session)
        session.commit()


@on_mysql_and_mariadb
def test_a_key_that_the_database_compares_exactly_is_asked_for_once(
    people: Witness, statements: Callable[..., Any]
) -> None:
    with statements(people.service.read_engine) as seen:
        for id in ("ada", "barbara", "Grace"):
            with people.invalidates(id), people.engine.begin() as connection:
                rename(connection, id)

    assert len([statement for statement in seen if "COLLATION_NAME" in statement]) == 1
