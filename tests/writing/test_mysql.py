"""Statements that only MySQL or MariaDB know, and what they change without a word in the metadata."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import exc, orm
from support.hosts import HostBase, begin_again, on_mariadb, on_mysql, on_mysql_and_mariadb, rename
from support.ways import PEOPLE, TABLE, Witness

from person_repo import Person, PersonService, migrations
from person_repo.model import ExactString

# The definition of tables


@on_mysql_and_mariadb
def test_a_table_takes_the_place_of_another(people: Witness) -> None:
    with people.blind(), people.engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE staged LIKE person"))
        connection.execute(sa.text("INSERT INTO staged VALUES ('ada', 'staged', 'of ada', 1)"))
    with people.drops(), people.engine.connect() as connection:
        connection.execute(sa.text("RENAME TABLE person TO retired, staged TO person"))
    with people.right(), people.engine.connect() as connection:
        connection.execute(sa.text("RENAME TABLE person TO staged, retired TO person"))

    assert people.committed()["ada"][1] == "first"


@on_mariadb
def test_a_table_is_created_anew(people: Witness) -> None:
    with people.drops(), people.engine.connect() as connection:
        connection.execute(sa.text("CREATE TEMPORARY TABLE kept SELECT * FROM person WHERE id = 'ada'"))
        connection.execute(sa.text("CREATE OR REPLACE TABLE person LIKE kept"))
        connection.execute(sa.text("INSERT INTO person SELECT * FROM kept"))
        connection.commit()

    assert people.committed().keys() == {"ada"}


class Parted(HostBase):
    """Its table has a partition for the ids below ten."""

    __tablename__ = "parted"

    id: orm.Mapped[int] = orm.mapped_column(primary_key=True, autoincrement=False)
    note: orm.Mapped[str] = orm.mapped_column(sa.String(20), default="")


@pytest.fixture
def parted(people_engine: sa.Engine, witness_of: Callable[..., Witness]) -> Witness:
    with people_engine.begin() as connection:
        connection.execute(
            sa.text(
                "CREATE TABLE parted (id INTEGER PRIMARY KEY, note VARCHAR(20) NOT NULL) PARTITION BY RANGE (id) "
                "(PARTITION low VALUES LESS THAN (10), PARTITION high VALUES LESS THAN MAXVALUE)"
            )
        )
        connection.execute(sa.text("CREATE TABLE aside (id INTEGER PRIMARY KEY, note VARCHAR(20) NOT NULL)"))
        connection.execute(sa.text("INSERT INTO aside VALUES (2, 'aside')"))
    return witness_of(Parted, [Parted(id=1), Parted(id=11)], ids=(1, 2, 11))


@on_mysql_and_mariadb
@pytest.mark.parametrize(
    ("statement", "left"),
    [
        ("DELETE FROM parted PARTITION (low)", {11}),
        ("INSERT INTO parted PARTITION (low) VALUES (2, 'new')", {1, 2, 11}),
        ("ALTER TABLE parted TRUNCATE PARTITION low", {11}),
        ("ALTER TABLE parted DROP PARTITION low", {11}),
        ("ALTER TABLE parted REMOVE PARTITIONING", {1, 11}),
    ],
)
def test_a_partition_is_changed_as_a_whole(parted: Witness, statement: str, left: set[int]) -> None:
    with parted.drops(), parted.engine.begin() as connection:
        connection.execute(sa.text(statement))

    assert parted.committed().keys() == left


@on_mysql
def test_a_partition_takes_the_place_of_a_table(parted: Witness) -> None:
    """MariaDB's statement waits for a lock that it holds itself, on the servers of the tests at least."""
    with parted.drops(), parted.engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE parted EXCHANGE PARTITION low WITH TABLE aside"))

    assert parted.committed().keys() == {2, 11}


# Storage engines


@on_mysql_and_mariadb
@pytest.mark.parametrize("alter", ["ALTER TABLE person ENGINE = MyISAM", "a procedure"])
def test_a_table_that_gets_a_storage_engine_without_transactions(people: Witness, alter: str) -> None:
    """Its storage engine is known from the writes before."""
    with people.blind(), people.engine.begin() as connection:
        if alter == "a procedure":
            connection.exec_driver_sql("CREATE PROCEDURE alters() ALTER TABLE person ENGINE = MyISAM")
            alter = "CALL alters()"
    with people.right(), people.engine.connect() as connection:
        rename(connection, "ada", "before")
        connection.commit()
        connection.execute(sa.text(alter))
        connection.commit()
        connection.execute(sa.text("START TRANSACTION"))
        rename(connection, "ada", "after")
        people.look("in the transaction")
        connection.rollback()

    assert people.committed()["ada"][1] == "after"


@on_mysql_and_mariadb
def test_a_storage_engine_that_a_failing_statement_may_have_changed_is_asked_for_again(
    people: Witness, statements: Callable[..., Any]
) -> None:
    storage = "information_schema.TABLES"
    with people.blind(), people.engine.connect() as connection:
        rename(connection, "ada", "before")
        with pytest.raises(exc.DBAPIError):
            connection.execute(sa.text("ALTER TABLE person ENGINE = MyISAM, DROP COLUMN nothing"))
        connection.commit()
        with statements(people.service.read_engine) as seen:
            rename(connection, "ada", "after")
            rename(connection, "barbara", "after")
        connection.commit()

    # That for the views has it, too.
    assert len([statement for statement in seen if storage in statement and "VIEWS" not in statement]) == 1


# Files


@pytest.fixture
def loading(people: Witness) -> Iterator[sa.Engine]:
    """A covered engine that sends files of the client's."""
    with people.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("SET GLOBAL local_infile = ON")
    engine = sa.create_engine(people.engine.url, connect_args={"local_infile": True})
    people.service.cover(engine)
    people.watch(engine)
    yield engine
    engine.dispose()


@on_mysql_and_mariadb
@pytest.mark.parametrize("how", ["REPLACE", "IGNORE"])
def test_rows_are_loaded_from_a_file(people: Witness, loading: sa.Engine, tmp_path: Path, how: str) -> None:
    file = tmp_path / "people.tsv"
    file.write_text("ada\tloaded\tof ada\t1\nedsger\tloaded\tof edsger\t1\n")
    statement = sa.text(f"LOAD DATA LOCAL INFILE '{file}' {how} INTO TABLE person CHARACTER SET utf8mb4")
    begin_again(people)
    with people.drops(), loading.begin() as connection:
        connection.execute(statement)
    with people.right(), loading.connect() as connection:
        connection.execute(sa.delete(TABLE))
        connection.execute(statement)
        connection.rollback()

    assert people.committed()["edsger"][1] == "loaded"
    assert people.committed()["ada"][1] == {"REPLACE": "loaded", "IGNORE": "first"}[how]
    assert people.committed().keys() == {*PEOPLE, "edsger"}


# Generated invisible primary keys


@pytest.fixture
def invisible(mysql_url: str) -> Iterator[sa.Engine]:
    """An engine whose tables get an invisible primary key where they have none."""
    url = sa.make_url(mysql_url).update_query_dict({"init_command": "SET sql_generate_invisible_primary_key = ON"})
    engine = sa.create_engine(url)
    yield engine
    engine.dispose()


def test_our_tables_have_primary_keys_of_their_own(invisible: sa.Engine) -> None:
    migrations.upgrade(invisible)
    for table in sa.inspect(invisible).get_table_names():
        assert sa.inspect(invisible).get_pk_constraint(table)["constrained_columns"] not in ([], ["my_row_id"])
    with PersonService.over(invisible, "memory://") as people:
        people.add(Person(id="ada", first_name="Ada", last_name=""))

        assert people.get_one("ada").first_name == "Ada"
        assert not people.check()


class Keyless(HostBase):
    """A table without a primary key, mapped by a column that the host keeps unique."""

    __tablename__ = "keyless"

    name: orm.Mapped[str] = orm.mapped_column(ExactString(40), primary_key=True)
    note: orm.Mapped[str] = orm.mapped_column(sa.String(40), default="")


KEYLESS: Any = Keyless.__table__


@on_mysql
def test_a_mapped_key_beside_an_invisible_one(
    invisible: sa.Engine, witness_of: Callable[..., Witness], subtests: pytest.Subtests
) -> None:
    with invisible.begin() as connection:
        # A unique key of columns that are NOT NULL would take its place.
        connection.exec_driver_sql(
            "CREATE TABLE keyless (name VARCHAR(40) COLLATE utf8mb4_0900_bin UNIQUE, note VARCHAR(40) NOT NULL)"
        )
        assert connection.exec_driver_sql("SELECT COUNT(my_row_id) FROM keyless").scalar() == 0
    keyless = witness_of(Keyless, [Keyless(name="a"), Keyless(name="b")], engine=invisible, ids="abcdef")
    of_name = KEYLESS.c.name
    writes: dict[str, tuple[str, Callable[[orm.Session], Any]]] = {
        "unit of work": ("a", lambda session: setattr(session.get_one(Keyless, "a"), "note", "changed")),
        "insert": ("c", lambda session: session.execute(sa.insert(KEYLESS).values(name="c", note="new"))),
        "add": ("d", lambda session: session.add(Keyless(name="d", note="new"))),
        "by criteria": (
            "b",
            lambda session: session.execute(sa.delete(KEYLESS).where(of_name == "b", KEYLESS.c.note == "")),
        ),
        "move": ("ce", lambda session: session.execute(sa.update(KEYLESS).where(of_name == "c").values(name="e"))),
        "text": ("", lambda session: session.execute(sa.text("INSERT INTO keyless VALUES ('f', '')"))),
        "its key": ("", lambda session: session.execute(sa.text("DELETE FROM keyless WHERE my_row_id < 3"))),
    }
    for name, (ids, write) in writes.items():
        expected = keyless.invalidates(*ids) if ids else keyless.drops()
        with subtests.test(name), expected, keyless.sessions() as session, session.begin():
            write(session)
