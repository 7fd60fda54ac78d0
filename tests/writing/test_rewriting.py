"""Statements that reach the database otherwise than their clauses say, and the keys that statements return."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event, orm
from sqlalchemy.ext.compiler import compiles
from support.hosts import HostBase, on_mariadb
from support.tables import Colour
from support.ways import TABLE, Witness

from person_repo import PersonService, Service, make_region
from person_repo.model import Base, ExactString, Person

BY_NAME = sa.update(TABLE).where(TABLE.c.last_name.in_(["of ada", "of Grace"]))

on_sqlite = pytest.mark.parametrize(("database_url", "cache_url"), [("sqlite", "memory")], indirect=True)
returning = pytest.mark.parametrize(
    ("database_url", "cache_url"), [("sqlite", "memory"), ("postgresql", "memcached")], indirect=True
)


# RETURNING


@returning
def test_the_host_sees_the_result_that_it_would_have_seen(people: Witness) -> None:
    with people.invalidates("ada", "Grace"), people.engine.begin() as connection:
        result = connection.execute(BY_NAME, {"first_name": "changed"})
        assert (result.rowcount, result.returns_rows) == (2, False)
    with people.right(), people.engine.begin() as connection:
        result = connection.execute(sa.delete(TABLE).where(TABLE.c.last_name == "nobody's"))
        assert (result.rowcount, result.returns_rows) == (0, False)
        assert connection.execute(sa.select(sa.func.count()).select_from(TABLE)).scalar_one() == 5


@on_mariadb
def test_the_host_sees_the_number_of_rows_by_a_cursor_that_holds_none(people: Witness) -> None:
    """Such a cursor has a number of its own for rows that are not counted yet."""
    with people.invalidates("ada", "Grace"), people.engine.connect() as connection:
        unbuffered = connection.execution_options(stream_results=True)
        for expected in (2, 0):
            result = unbuffered.execute(sa.delete(TABLE).where(TABLE.c.last_name.in_(["of ada", "of Grace"])))
            assert (result.rowcount, result.returns_rows) == (expected, False)
        connection.commit()


@returning
def test_rows_that_the_host_asked_for_are_its_own(people: Witness) -> None:
    columns = (TABLE.c.last_name, TABLE.c.id, TABLE.c.version)
    with people.invalidates("ada", "Grace"), people.engine.begin() as connection:
        rows = connection.execute(BY_NAME.returning(*columns), {"first_name": "changed"})
        assert sorted(rows.mappings().all(), key=lambda row: row["id"]) == [
            {"id": id, "last_name": f"of {id}", "version": 1} for id in ("Grace", "ada")
        ]
    with people.drops(), people.engine.begin() as connection:  # They do not tell the key.
        rows = connection.execute(BY_NAME.returning(TABLE.c.version), {"first_name": "again"})
        assert [*rows.scalars()] == [1, 1]


@returning
def test_objects_of_a_session_are_refreshed_by_rows_that_it_asked_for(people: Witness) -> None:
    with people.invalidates("ada"), people.sessions() as session, session.begin():
        ada = session.get_one(Person, "ada")
        statement = sa.update(Person).where(sa.func.lower(Person.last_name) == "of ada").values(first_name="changed")
        session.execute(statement, execution_options={"synchronize_session": "fetch"})
        assert ada.first_name == "changed"


class Typed(HostBase):
    """Keys that the driver has otherwise than Python."""

    __tablename__ = "typed_key"

    id: orm.Mapped[uuid.UUID] = orm.mapped_column(sa.Uuid(), primary_key=True)
    part: orm.Mapped[int] = orm.mapped_column(primary_key=True, autoincrement=False)
    note: orm.Mapped[str] = orm.mapped_column(sa.String(40), default="")


@returning
def test_returned_keys_are_of_their_types(witness_of: Callable[..., Witness]) -> None:
    ids = [(uuid.uuid4(), number) for number in range(3)]
    typed = witness_of(Typed, [Typed(id=id, part=part, note=f"n{part}") for id, part in ids], ids=ids)
    with typed.invalidates(ids[1]), typed.sessions() as session, session.begin():
        session.execute(sa.update(Typed).where(Typed.note == "n1").values(note="changed"))


class Paint(HostBase):
    """A key whose values in the database need not all be of its type."""

    __tablename__ = "paint"

    id: orm.Mapped[Colour] = orm.mapped_column(
        sa.Enum(Colour, native_enum=False, length=20, create_constraint=False), primary_key=True
    )
    note: orm.Mapped[str] = orm.mapped_column(sa.String(40), default="")


@returning
def test_a_key_that_cannot_be_read_makes_no_write_fail(witness_of: Callable[..., Witness]) -> None:
    paints = witness_of(Paint, [Paint(id=Colour.RED, note="n")], ids=[Colour.RED])
    with paints.blind(), paints.engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO paint (id, note) VALUES ('no colour', 'n')")
    assert paints.service.get_one(Colour.RED).note == "n"
    with paints.blind(), paints.engine.begin() as connection:
        assert connection.execute(sa.update(Paint).where(Paint.note == "n").values(note="changed")).rowcount == 2
    assert paints.service.get_one(Colour.RED).note == "changed"


@returning
def test_comments_of_a_listener_are_no_other_statement(people: Witness) -> None:
    def comment(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> tuple[str, Any]:
        return f"/* a trace */ {statement} -- another", parameters

    event.listen(people.engine, "before_cursor_execute", comment, retval=True)
    with people.invalidates("ada", "Grace"), people.engine.begin() as connection:
        connection.execute(BY_NAME, {"first_name": "changed"})
    with people.invalidates("ada"), people.sessions() as session, session.begin():
        session.get_one(Person, "ada").first_name = "again"


@returning
def test_a_statement_that_ends_with_a_semicolon_is_left_as_it_is(people: Witness) -> None:
    def end(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> tuple[str, Any]:
        return f"{statement};", parameters

    event.listen(people.engine, "before_cursor_execute", end, retval=True)
    with people.drops(), people.engine.begin() as connection:
        connection.execute(BY_NAME, {"first_name": "changed"})


@on_sqlite
def test_a_virtual_table_is_not_asked_to_return_anything(people_engine: sa.Engine, cache_url: str) -> None:
    class Words(orm.DeclarativeBase):
        pass

    class Word(Words):
        __tablename__ = "word"
        rowid: orm.Mapped[int] = orm.mapped_column(primary_key=True)
        text: orm.Mapped[str]

    with people_engine.begin() as connection:
        connection.exec_driver_sql("CREATE VIRTUAL TABLE word USING fts5(text)")
        connection.exec_driver_sql("INSERT INTO word (rowid, text) VALUES (1, 'one'), (2, 'two')")
    with Service.over(Word, people_engine, cache_url) as words:
        assert words.get_one(1).text == "one"
        with people_engine.begin() as connection:
            connection.execute(sa.update(Word).where(Word.text == "one").values(text="changed"))
        assert words.get_one(1).text == "changed"


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize(
    "hiding",
    [
        (
            "REVOKE ALL ON person FROM clerk",
            "GRANT UPDATE ON person TO clerk",
            "GRANT SELECT (version) ON person TO clerk",
        ),
        (
            "ALTER TABLE person ENABLE ROW LEVEL SECURITY",
            "CREATE POLICY all_rows ON person USING (true) WITH CHECK (true)",
        ),
        ("CREATE RULE quiet AS ON UPDATE TO person WHERE false DO INSTEAD NOTHING",),
    ],
    ids=["columns", "rows", "rules"],
)
def test_an_account_that_may_not_read_the_keys_can_write_all_the_same(
    people_engine: sa.Engine, hiding: Sequence[str]
) -> None:
    name = f"clerk_{uuid.uuid4().hex[:8]}"
    Base.metadata.create_all(people_engine)
    with people_engine.begin() as connection:
        connection.execute(sa.insert(TABLE), [{"id": "ada", "first_name": "a", "last_name": "b", "version": 1}])
        connection.exec_driver_sql(f"CREATE ROLE {name} LOGIN")
        connection.exec_driver_sql(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {name}")
        for statement in hiding:
            connection.exec_driver_sql(statement.replace("clerk", name))
    region = make_region("memory://")
    reader = PersonService.over(sa.create_engine(people_engine.url), region)
    writer = sa.create_engine(people_engine.url.set(username=name))
    writes = PersonService.over(writer, region)
    assert reader.get_one("ada").first_name == "a"
    with writer.begin() as connection:
        connection.execute(sa.update(TABLE).where(TABLE.c.version > 0).values(first_name="changed"))
    assert reader.get_one("ada").first_name == "changed"
    for people in (reader, writes):
        people.close()
        people.engine.dispose()
    with people_engine.begin() as connection:
        connection.exec_driver_sql(f"DROP OWNED BY {name}")
        connection.exec_driver_sql(f"DROP ROLE {name}")


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_an_account_that_loses_the_right_to_read_the_key_can_write_all_the_same(people_engine: sa.Engine) -> None:
    name = f"clerk_{uuid.uuid4().hex[:8]}"
    with people_engine.begin() as connection:
        connection.execute(sa.insert(TABLE), [{"id": "ada", "first_name": "a", "last_name": "b", "version": 1}])
        connection.exec_driver_sql(f"CREATE ROLE {name} LOGIN")
        connection.exec_driver_sql(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {name}")
    writer = sa.create_engine(people_engine.url.set(username=name))
    statement = sa.update(TABLE).where(TABLE.c.version > 0).values(version=TABLE.c.version + 1)
    with PersonService.over(writer, "memory://") as people:
        assert people.get_one("ada").version == 1
        with writer.begin() as connection:
            connection.execute(statement)
        with people_engine.begin() as connection:
            connection.exec_driver_sql(f"REVOKE SELECT ON person FROM {name}")
            connection.exec_driver_sql(f"GRANT SELECT (version) ON person TO {name}")
        for _ in range(2):
            with writer.begin() as connection:
                connection.execute(statement)
        with people_engine.begin() as connection:
            connection.exec_driver_sql(f"GRANT SELECT ON person TO {name}")
        assert people.get_one("ada").version == 4
    writer.dispose()
    with people_engine.begin() as connection:
        connection.exec_driver_sql(f"DROP OWNED BY {name}")
        connection.exec_driver_sql(f"DROP ROLE {name}")


@pytest.mark.every_database
def test_a_statement_that_returns_something_unseen_is_left_as_it_is(people: Witness) -> None:
    if people.engine.dialect.name == "mysql":
        pytest.skip("MariaDB returns no rows of an update")
    with people.drops(), people.engine.begin() as connection:
        statement = sa.update(TABLE).where(sa.text("version > 0 RETURNING first_name")).values(version=2)
        connection.execute(statement)


@pytest.mark.every_database
def test_a_temporary_table_that_hides_the_mapped_one(people: Witness) -> None:
    if people.engine.dialect.name == "mysql":
        pytest.skip("nothing is returned, or a temporary table is no other session's")
    with people.right(), people.engine.begin() as connection:
        connection.exec_driver_sql("CREATE TEMPORARY TABLE person (first_name TEXT, version INTEGER)")
        connection.execute(sa.update(TABLE).where(TABLE.c.version > 0).values(first_name="hidden"))
        connection.exec_driver_sql(
            "DROP TABLE person" if people.engine.name == "postgresql" else "DROP TABLE temp.person"
        )


@pytest.mark.parametrize(("database_url", "cache_url"), [("postgresql", "memcached")], indirect=True)
def test_a_transaction_whose_statement_failed_has_failed(people: Witness) -> None:
    """A statement that returns its keys is in a savepoint, which does not save what the host's own error ends."""
    with people.right(), people.engine.connect() as connection:
        connection.execute(sa.update(TABLE).where(TABLE.c.id == "ada").values(first_name="before"))
        with pytest.raises(sa.exc.DBAPIError):
            connection.execute(sa.update(TABLE).where(TABLE.c.version > 0).values(version=None))
        with pytest.raises(sa.exc.DBAPIError, match="aborted"):
            connection.execute(sa.select(TABLE)).all()
        connection.commit()
    assert people.committed()["ada"][1] == "first"


@returning
def test_orm_columns_that_are_named_twice(people: Witness) -> None:
    with people.right(), people.sessions() as session, session.begin():
        statement = sa.update(Person).where(Person.last_name == "of ada").values(first_name="changed")
        session.execute(statement.returning(Person.first_name, Person.id, Person)).all()


class Percent(HostBase):
    """A column whose name a driver could take for a parameter."""

    __tablename__ = "per%cent"

    id: orm.Mapped[str] = orm.mapped_column("i%d key", ExactString(40), primary_key=True)
    note: orm.Mapped[str] = orm.mapped_column(sa.String(40), default="")


@pytest.mark.every_database
def test_columns_with_a_percent_sign(witness_of: Callable[..., Witness]) -> None:
    witness = witness_of(Percent, [Percent(id=id, note=id) for id in "ab"], ids="ab")
    with witness.right(), witness.sessions() as session, session.begin():
        session.execute(sa.update(Percent).where(Percent.note == "a").values(note="changed"))
        session.execute(sa.delete(Percent).where(Percent.note == "b"))


@returning
def test_keys_that_the_database_sets(people_engine: sa.Engine, cache_url: str) -> None:
    class Own(orm.DeclarativeBase):
        pass

    class Counted(Own):
        __tablename__ = "counted_by_update"
        id: orm.Mapped[int] = orm.mapped_column(primary_key=True, onupdate=sa.literal_column("id + 10"))
        note: orm.Mapped[str] = orm.mapped_column(sa.String(20))

    Own.metadata.create_all(people_engine)
    with orm.Session(people_engine) as session, session.begin():
        session.add(Counted(id=1, note="old"))
    with Service.over(Counted, people_engine, cache_url) as counted:
        for where, ids in ((Counted.note == "old", (1, 11)), (Counted.id == 11, (11, 21))):
            assert [counted.exists(id) for id in ids] == [True, False]
            with people_engine.begin() as connection:
                connection.execute(sa.update(Counted.__table__).where(where).values(note="new"))
            assert [counted.exists(id) for id in ids] == [False, True]


@pytest.mark.every_database
def test_a_listener_that_sends_statements_hides_no_rewriting(people: Witness) -> None:
    event.listen(people.engine.dialect, "do_execute", lambda *_: None)
    event.listen(people.engine, "before_cursor_execute", rewrite, retval=True)
    by_key = sa.update(TABLE).where(TABLE.c.id == sa.bindparam("who"))
    for version in (7, 8, 9):
        with people.right(), people.engine.begin() as connection:
            connection.execute(by_key, {"who": "ada", "version": version})


@on_sqlite
def test_a_conflict_that_a_compiler_adds(witness_of: Callable[..., Witness]) -> None:
    mails = witness_of(Mail, [Mail(id="a", address="a@")], ids="abc")
    with mails.drops(), mails.engine.begin() as connection:
        connection.execute(Appending(Mail.__table__).values(id="b", address="a@"))  # type: ignore[arg-type]


class Appending(sa.sql.dml.Insert):
    """The recipe of old for an upsert."""

    inherit_cache = False


@compiles(Appending)
def _appending(insert: Any, compiler: Any, **options: Any) -> str:
    return f"{compiler.visit_insert(insert, **options)} ON CONFLICT (address) DO UPDATE SET address = 'b@'"


@pytest.mark.parametrize(("database_url", "cache_url"), [("postgresql", "memcached")], indirect=True)
def test_text_within_a_with(people: Witness) -> None:
    changed = sa.text("UPDATE person SET first_name = 'changed' WHERE id = 'ada' RETURNING id").columns(sa.column("id"))
    with people.drops(), people.engine.begin() as connection:
        assert connection.execute(sa.select(changed.cte("changed"))).all() == [("ada",)]


@pytest.mark.every_database
def test_a_change_after_a_commit_on_the_drivers_connection(people: Witness, caplog: pytest.LogCaptureFixture) -> None:
    people.warm()
    with people.blind(), people.engine.connect() as connection:
        connection.execute(sa.update(TABLE).where(TABLE.c.id == "ada").values(first_name="changed"))
        connection.connection.driver_connection.commit()  # type: ignore[union-attr]
        connection.execute(sa.update(TABLE).where(TABLE.c.id == "Grace").values(first_name="not"))
        connection.rollback()
    people.check()
    assert caplog.text.count("was ended on the driver's own connection") == 1


@pytest.mark.every_database
def test_transactions_that_end_as_usual_are_not_taken_for_such(
    people: Witness, caplog: pytest.LogCaptureFixture
) -> None:
    change = sa.update(TABLE).where(TABLE.c.id == "ada").values(first_name="changed")
    with people.blind(), people.engine.connect() as connection:
        for end in ("COMMIT", "ROLLBACK", "CREATE TABLE another (id INTEGER)"):
            connection.execute(change)
            connection.exec_driver_sql(end)
            connection.execute(change)
            connection.rollback()
    people.check()
    assert "ended on the driver" not in caplog.text


@pytest.mark.parametrize("database_url", ["mariadb-10.11", "mysql"], indirect=True)
def test_covering_asks_no_type_what_it_is_before_the_first_connection(database_url: str) -> None:
    """On MariaDB it has UUIDs, which only a connection tells."""
    made = sa.create_engine(database_url)
    HostBase.metadata.create_all(made, [Typed.__table__])  # type: ignore[list-item]
    key = uuid.uuid4()
    with orm.Session(made) as session, session.begin():
        session.add(Typed(id=key, part=1))
    engine = sa.create_engine(database_url)
    with Service.over(Typed, engine, "memory://") as typed, engine.connect() as connection:
        assert connection.scalar(sa.select(Typed.__table__.c.id)) == key
        assert typed.exists((key, 1))
    engine.dispose()
    made.dispose()


# No lock, and no other snapshot: K2.1 and K2.2


class Due(HostBase):
    """Whose rows are due; a table that no cache knows."""

    __tablename__ = "due"

    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    person: orm.Mapped[str] = orm.mapped_column(ExactString(100))


@pytest.mark.every_database
@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_rows_that_a_subquery_names_in_another_snapshot(people: Witness, level: Any) -> None:
    """On MySQL the subquery of an UPDATE sees what is committed now, and a query in the same transaction does not."""
    if people.engine.dialect.name == "sqlite":
        pytest.skip("SQLite has one writer")
    HostBase.metadata.create_all(people.engine, [Due.__table__])  # type: ignore[list-item]
    with people.sessions() as session, session.begin():
        session.add(Due(id=1, person="ada"))
    other = sa.create_engine(people.engine.url)
    engine = people.engine.execution_options(isolation_level=level)
    # A snapshot that is refused (MariaDB, PostgreSQL), or a lock that SERIALIZABLE holds on MySQL.
    may_fail = contextlib.suppress(sa.exc.OperationalError)
    with people.right(), may_fail, engine.begin() as connection:
        connection.execute(sa.select(Due.person)).all()  # The snapshot begins.
        with other.begin() as overtaking:
            if people.engine.dialect.name == "mysql":
                overtaking.exec_driver_sql("SET innodb_lock_wait_timeout = 1")
            overtaking.execute(sa.update(Due).values(person="barbara"))
        due = sa.select(Due.person).scalar_subquery()
        connection.execute(sa.update(TABLE).where(TABLE.c.id == due).values(first_name="changed"))
    other.dispose()


@pytest.mark.every_database
def test_rows_that_chance_names(people: Witness) -> None:
    random = {"postgresql": sa.func.random()}.get(people.engine.dialect.name, sa.func.rand())
    if people.engine.dialect.name == "sqlite":
        random = sa.func.abs(sa.func.random() % 100) / 100.0
    for _ in range(10):
        with people.right(), people.engine.begin() as connection:
            connection.execute(sa.update(TABLE).where(random < 0.5).values(version=TABLE.c.version + 1))


@pytest.mark.every_database
@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ"])
def test_a_statement_waits_for_no_row_that_it_would_not_have_waited_for(people: Witness, level: Any) -> None:
    """Another transaction holds a row that does not match; READ COMMITTED passes it by."""
    dialect = people.engine.dialect.name
    if dialect == "sqlite" or (dialect == "mysql" and level == "REPEATABLE READ"):
        pytest.skip("the statement itself waits")
    wait = "SET innodb_lock_wait_timeout = 2" if dialect == "mysql" else "SET lock_timeout = '2s'"
    other = sa.create_engine(people.engine.url)
    with other.connect() as holder, people.right():
        holder.execute(sa.update(TABLE).where(TABLE.c.id == "Grace").values(version=9))
        statement = sa.update(TABLE).where(TABLE.c.last_name == "of ada").values(first_name="changed")
        try:
            with other.execution_options(isolation_level=level).connect() as connection:
                connection.exec_driver_sql(wait)
                connection.execute(statement)
        except sa.exc.OperationalError:
            pytest.skip("the statement itself waits")
        with people.engine.execution_options(isolation_level=level).begin() as connection:
            connection.exec_driver_sql(wait)
            assert connection.execute(statement).rowcount == 1
        holder.rollback()
    other.dispose()


# K2.3


def rewrite_in_place(_connection: Any, _cursor: Any, _statement: str, parameters: Any, *_: Any) -> None:
    """A listener that changes the parameters it is given, where the driver takes a mapping or a list."""
    if isinstance(parameters, dict):
        for name, value in parameters.items():
            parameters[name] = "Grace" if value == "ada" else value


def rewrite(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> tuple[str, Any]:
    """A listener that returns other parameters."""
    if isinstance(parameters, dict):
        return statement, {name: "Grace" if value == "ada" else value for name, value in parameters.items()}
    if isinstance(parameters, tuple):
        return statement, tuple("Grace" if value == "ada" else value for value in parameters)
    return statement, parameters


@pytest.mark.every_database
@pytest.mark.parametrize("listener", [rewrite, rewrite_in_place])
def test_parameters_count_as_they_are_sent(people: Witness, listener: Any) -> None:
    event.listen(people.engine, "before_cursor_execute", listener, retval=listener is rewrite)
    by_key = sa.update(TABLE).where(TABLE.c.id == sa.bindparam("who"))
    for _ in range(3):  # From the second time on it is known by its form.
        with people.right(), people.engine.begin() as connection:
            connection.execute(by_key, {"who": "ada", "version": 7})
        with people.right(), people.engine.begin() as connection:
            connection.execute(by_key, {"who": "ada", "version": 8})


@pytest.mark.every_database
def test_text_counts_as_it_is_sent(people: Witness) -> None:
    def rewrite_text(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> tuple[str, Any]:
        return statement.replace("UPDATE note", "UPDATE person"), parameters

    event.listen(people.engine, "before_cursor_execute", rewrite_text, retval=True)
    notes = sa.table("note", sa.column("first_name"))
    for name in ("one", "two", "three"):
        with people.drops(), people.engine.begin() as connection:
            connection.execute(sa.update(notes).values(first_name=name))


class Mail(HostBase):
    """A table with another unique key."""

    __tablename__ = "mail_of"

    id: orm.Mapped[str] = orm.mapped_column(ExactString(40), primary_key=True)
    address: orm.Mapped[str] = orm.mapped_column(ExactString(40), unique=True)


class Replacing(sa.sql.dml.Insert):
    """A host's own statement, rendered by its own compiler."""

    inherit_cache = False


@compiles(Replacing)
def _replacing(insert: Any, compiler: Any, **options: Any) -> str:
    text: str = compiler.visit_insert(insert, **options)
    return text.replace("INSERT INTO", "REPLACE INTO", 1)


def replaced_by_compiler(connection: sa.Connection) -> None:
    connection.execute(Replacing(Mail.__table__).values(id="b", address="a@"))  # type: ignore[arg-type]


def replaced_by_update(connection: sa.Connection) -> None:
    statement = sa.update(Mail).where(Mail.id == "c").values(address="a@").prefix_with("OR REPLACE", dialect="sqlite")
    connection.execute(statement)


@on_sqlite
@pytest.mark.parametrize("write", [replaced_by_compiler, replaced_by_update])
def test_rows_that_a_conflict_deletes(
    witness_of: Callable[..., Witness], write: Callable[[sa.Connection], None]
) -> None:
    mails = witness_of(Mail, [Mail(id="a", address="a@"), Mail(id="c", address="c@")], ids="abc")
    with mails.drops(), mails.engine.begin() as connection:
        write(connection)
    assert "a" not in mails.committed()


class Unconstrained(HostBase):
    """Whose definition has SQLite replace."""

    __tablename__ = "replacing_mail"

    id: orm.Mapped[str] = orm.mapped_column(ExactString(40), primary_key=True)
    address: orm.Mapped[str] = orm.mapped_column(
        ExactString(40), unique=True, info={}, sqlite_on_conflict_unique="REPLACE"
    )


@on_sqlite
def test_rows_that_the_tables_definition_has_deleted(witness_of: Callable[..., Witness]) -> None:
    first = [Unconstrained(id="a", address="a@"), Unconstrained(id="c", address="c@")]
    mails = witness_of(Unconstrained, first, ids="abcd")
    with mails.drops(), mails.sessions() as session, session.begin():
        session.add(Unconstrained(id="b", address="a@"))
    assert "a" not in mails.committed()
    with mails.drops(), mails.sessions() as session, session.begin():
        session.get_one(Unconstrained, "c").address = "a@"
    assert "b" not in mails.committed()


# K2.5


class Vehicle(HostBase):
    """The root of joined classes; its table has a class of its own beside."""

    __tablename__ = "vehicle"
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "vehicle"}

    id: orm.Mapped[str] = orm.mapped_column(ExactString(40), primary_key=True)
    kind: orm.Mapped[str] = orm.mapped_column(sa.String(20))
    name: orm.Mapped[str] = orm.mapped_column(sa.String(40), default="")


class Lorry(Vehicle):
    """With a table of its own."""

    __tablename__ = "lorry"
    __mapper_args__ = {"polymorphic_identity": "lorry"}

    id: orm.Mapped[str] = orm.mapped_column(sa.ForeignKey(Vehicle.id), primary_key=True)
    load: orm.Mapped[int] = orm.mapped_column(default=0)


class Plain(orm.DeclarativeBase):
    """Of another registry."""


class VehicleRow(Plain):
    """The root's table once more."""

    __table__ = Vehicle.__table__
    __mapper_args__ = {"include_properties": ["id", "name"]}


@pytest.mark.every_database
def test_a_bulk_update_of_a_joined_class_changes_the_tables_that_it_is_sent_to(
    people_engine: sa.Engine, cache_url: str
) -> None:
    HostBase.metadata.create_all(people_engine, [Vehicle.__table__, Lorry.__table__])  # type: ignore[list-item]
    with orm.Session(people_engine) as session, session.begin():
        session.add_all([Lorry(id=id, name="old") for id in "ab"])
    with (
        Service.over(VehicleRow, people_engine, cache_url) as rows,
        Service.over(Lorry, people_engine, cache_url) as all,
    ):
        for number in range(3):
            assert [rows.get_one(id).id for id in "ab"] == [all.get_one(id).id for id in "ab"] == ["a", "b"]
            with orm.Session(people_engine) as session, session.begin():
                session.execute(sa.update(Lorry), [{"id": id, "name": f"n{number}", "load": number} for id in "ab"])
            assert [rows.get_one(id).name for id in "ab"] == [f"n{number}"] * 2
            assert [(all.get_one(id).name, all.get_one(id).load) for id in "ab"] == [(f"n{number}", number)] * 2


class Defaulted(HostBase):
    """A key from a default of Python's."""

    __tablename__ = "defaulted"

    id: orm.Mapped[int] = orm.mapped_column(primary_key=True, autoincrement=False, default=lambda: next(NUMBERS))
    name: orm.Mapped[str] = orm.mapped_column(sa.String(40), default="")


NUMBERS: Iterator[int] = iter(())


@pytest.mark.every_database
def test_several_rows_whose_keys_come_from_a_default(witness_of: Callable[..., Witness]) -> None:
    global NUMBERS
    NUMBERS = iter(range(1, 10))
    witness = witness_of(Defaulted, [], ids=range(1, 9))
    with witness.right(), witness.engine.begin() as connection:
        connection.execute(sa.insert(Defaulted).values([{"name": "a"}, {"name": "b"}, {"name": "c"}]))
    assert [*witness.committed()] == [1, 2, 3]


# K2.6


@returning
def test_a_result_that_nobody_expected_drops_the_class(people: Witness) -> None:
    row = {"id": "edsger", "first_name": "E", "last_name": "D", "version": 1}
    with people.right(), people.sessions() as session, session.begin():
        statement = sa.insert(Person).values(**row).returning(Person)
        found = session.execute(sa.select(Person).from_statement(statement)).scalars().all()
        assert [each.id for each in found] == ["edsger"]


class Numbered(HostBase):
    """A key that the database makes."""

    __tablename__ = "numbered_by_database"

    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    name: orm.Mapped[str] = orm.mapped_column(sa.String(40), default="")


@returning
def test_objects_from_an_insert_with_a_generated_key(witness_of: Callable[..., Witness]) -> None:
    witness = witness_of(Numbered, [], ids=(1, 2, 3))
    with witness.right(), witness.sessions() as session, session.begin():
        statement = sa.insert(Numbered).values([{"name": "a"}, {"name": "b"}]).returning(Numbered)
        found = session.execute(sa.select(Numbered).from_statement(statement)).scalars().all()
        assert sorted(each.id for each in found) == [1, 2]


@pytest.mark.every_database
def test_a_commit_on_the_drivers_connection_is_told_when_that_comes_back(
    people: Witness, caplog: pytest.LogCaptureFixture
) -> None:
    people.warm()
    with people.blind(), people.sessions() as session:
        session.get_one(Person, "ada").first_name = "changed"
        session.flush()
        session.connection().connection.driver_connection.commit()  # type: ignore[union-attr]
    people.check()
    assert caplog.text.count("was ended on the driver's own connection") == 1


@pytest.mark.every_database
def test_a_statement_that_fails_is_not_taken_for_a_commit(people: Witness, caplog: pytest.LogCaptureFixture) -> None:
    with people.right(), people.sessions() as session:
        with pytest.raises(sa.exc.IntegrityError):
            session.execute(sa.insert(TABLE).values(id="ada", first_name="", last_name="", version=1))
        session.rollback()
    assert "ended on the driver" not in caplog.text


@on_sqlite
def test_a_cascade_from_a_table_whose_name_is_no_word(enforced: sa.Engine, cache_url: str) -> None:
    class Shop(orm.DeclarativeBase):
        pass

    class Head(Shop):
        __tablename__ = "order-head$"
        id: orm.Mapped[int] = orm.mapped_column(primary_key=True)

    class Row(Shop):
        __tablename__ = "order_row"
        id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
        head: orm.Mapped[int] = orm.mapped_column(sa.ForeignKey(Head.id, ondelete="CASCADE"))

    Shop.metadata.create_all(enforced)
    with orm.Session(enforced) as session, session.begin():
        session.add_all([Head(id=1), Row(id=1, head=1)])
    with Service.over(Row, enforced, cache_url) as rows:
        assert rows.exists(1)
        with enforced.begin() as connection:
            connection.exec_driver_sql('DELETE FROM "order-head$"')
        assert not rows.exists(1)


@on_sqlite
def test_a_table_of_the_same_name_that_is_not_there(people: Witness) -> None:
    """What fails is the host's own statement, as it would have without us."""
    elsewhere = sa.table("person", sa.column("id"), sa.column("last_name"), schema="elsewhere")
    with people.engine.connect() as connection, pytest.raises(sa.exc.OperationalError, match=r"elsewhere\.person"):
        connection.execute(sa.delete(elsewhere).where(elsewhere.c.last_name == "x"))
