"""Whatever way a host writes, the cache never says anything but what is committed, and forgets no more than it must."""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pymysql
import pytest
import sqlalchemy as sa
from sqlalchemy import exc, orm
from sqlalchemy.dialects import mysql, postgresql, sqlite
from support.servers import Memcached
from support.ways import (
    ADDITIONS,
    CHANGES,
    MOVES,
    PEOPLE,
    REMOVALS,
    STRANGERS,
    TABLE,
    Way,
    Witness,
    person,
    rows,
    ways_for,
)

from person_repo.cache.region import make_region
from person_repo.mapped.mapping import EntityMapping
from person_repo.model import ExactString, Person
from person_repo.service import Service
from person_repo.writing import coverage as invalidation

WAYS = {
    **{("change", way.name): (way, ("ada", "Grace")) for way in CHANGES},
    **{("addition", way.name): (way, ("edsger", "Frances")) for way in ADDITIONS},
    **{("removal", way.name): (way, ("ada", "grace ")) for way in REMOVALS},
    **{("move", way.name): (way, ("ada", "donald")) for way in MOVES},
}

SAMPLE = (
    "unit_of_work", "merge", "orm_update_synchronized_by_auto", "orm_update_by_another_column", "core_update",
    "core_update_by_another_column", "text_update", "driver_update", "text_update_with_a_query_in_front",
    "unit_of_work_add", "core_insert_from_select", "core_delete_by_or", "unit_of_work_move", "prepared_statement",
)  # fmt: skip
"""A way of each kind."""

everywhere = pytest.mark.parametrize("cache_url", ["memory", "memcached"], indirect=True)
on_sqlite = pytest.mark.parametrize(("database_url", "cache_url"), [("sqlite", "memory")], indirect=True)
on_mysql = pytest.mark.parametrize(("database_url", "cache_url"), [("mysql", "memcached")], indirect=True)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """What the write side does is the same for each cache: two of the four pairs will do where a test names none."""
    named = [mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")]
    if "cache_url" in metafunc.fixturenames and not any("cache_url" in names for names in named):
        pairs = [("sqlite", "memory"), ("mysql", "memcached")]
        metafunc.definition.add_marker(pytest.mark.parametrize(("database_url", "cache_url"), pairs, indirect=True))


class HostBase(orm.DeclarativeBase):
    """The models of an imagined host."""


class Note(HostBase):
    """A table that no cache knows."""

    __tablename__ = "note"

    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    text: orm.Mapped[str] = orm.mapped_column(sa.String(200))
    about: orm.Mapped[str | None] = orm.mapped_column(ExactString(100))


@pytest.fixture
def people(people_engine: sa.Engine, cache_url: str) -> Iterator[Witness]:
    """A witness of ``PEOPLE``, whom a service knows by its cache, beside a table of notes."""
    HostBase.metadata.create_all(people_engine, [Note.__table__])
    with orm.Session(people_engine) as session, session.begin():
        session.add_all([person(id) for id in PEOPLE])
    witness = Witness(people_engine, cache_url)
    yield witness
    witness.close()


@pytest.fixture
def witness_of(people_engine: sa.Engine, cache_url: str) -> Iterator[Callable[..., Witness]]:
    """``witness_of(entity, objects, ids=...)``: a witness of a model of the host's, whose tables hold these objects."""
    made: list[Witness] = []

    def make(entity: type[Any], objects: list[Any], **options: Any) -> Witness:
        engine = options.pop("engine", people_engine)
        entity.metadata.create_all(engine, options.pop("tables", [entity.__table__]))
        with orm.Session(engine) as session, session.begin():
            session.add_all(objects)
        made.append(Witness(engine, options.pop("cache", cache_url), entity=entity, **options))
        return made[-1]

    yield make
    for witness in made:
        witness.close()


def begin_again(people: Witness) -> None:
    """``PEOPLE``, and nobody else, as they were at the start."""
    with people.engine.begin() as connection:
        connection.execute(sa.delete(TABLE))
        connection.execute(sa.insert(TABLE), rows(PEOPLE, "first"))


def known_ways(people: Witness, *names: str) -> list[tuple[str, Way, tuple[str, ...]]]:
    """Those of these names, or all, that the database knows, with the ids to write."""
    known = ways_for([way for way, _ in WAYS.values()], people.engine.dialect.name)
    return [
        (" ".join(key), way, ids)
        for key, (way, ids) in WAYS.items()
        if way in known and (not names or way.name in names)
    ]  # fmt: skip


def rename(session: orm.Session | sa.Connection, id: str, name: str = "changed") -> Any:
    """The shortest way to change a person whose key can be told."""
    return session.execute(sa.update(TABLE).where(TABLE.c.id == id).values(first_name=name))


def is_unsure(people: Witness, id: str) -> bool:
    """Whether the cache leaves an entity to the database, and goes on doing so."""
    people.service.cached.get(id)
    before = people.service.stats()
    people.service.cached.get(id)
    return (people.service.stats() - before).bypasses == 1


# Every way


def test_a_commit_drops_exactly_what_it_changed_whatever_the_way(people: Witness, subtests: pytest.Subtests) -> None:
    for name, way, ids in known_ways(people):
        begin_again(people)
        looks = people.looks
        expected = {True: people.invalidates(*ids), False: people.drops(), None: people.right()}[way.exact]
        with subtests.test(name), expected, people.sessions() as session, session.begin():
            way.write(session, ids, "changed")
        assert people.looks > looks + 4


def test_a_commit_drops_exactly_what_it_changed_though_others_of_its_form_came_before(
    people: Witness, subtests: pytest.Subtests
) -> None:
    """What is known of a statement's form from its second execution on is no more than its form."""
    for name, way, (first, second) in known_ways(people):
        moves = way in MOVES
        others, own = (("barbara", "nobody"), (first, second)) if moves else ((second,), (first,))
        for _ in range(2):
            begin_again(people)
            with people.blind(), people.sessions() as session:
                way.write(session, others, "never")
                session.rollback()
        begin_again(people)
        expected = {True: people.invalidates(*own), False: people.drops(), None: people.right()}[way.exact]
        with subtests.test(name), expected, people.sessions() as session, session.begin():
            way.write(session, own, "changed")


def test_what_a_form_is_known_to_leave_alone_is_looked_at_again_when_more_is_covered(
    people: Witness, cache_url: str
) -> None:
    def write(text: str) -> None:
        with people.sessions() as session, session.begin():
            session.execute(sa.update(Note).where(Note.id == 1), {"text": text, "about": None})
            session.get_one(Note, 1).text = text + "!"

    with people.sessions() as session, session.begin():
        session.add(Note(id=1, text="first"))
    for text in ("a", "b", "c"):
        write(text)
    notes = Service.over(Note, people.sessions, cache_url)
    assert notes.get_one(1).text == "c!"
    for text in ("d", "e", "f"):
        write(text)
        assert notes.get_one(1).text == text + "!"


def test_a_transaction_that_drops_a_model_looks_for_its_keys_no_longer(
    people: Witness, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[object] = []
    find = EntityMapping.stored_identity
    monkeypatch.setattr(
        EntityMapping, "stored_identity", lambda self, values: looked.append(values) or find(self, values)
    )
    most = people.service.cached.backend.settings.max_keys
    chunks = [rows([f"{chunk} {at}" for at in range(400)], "new") for chunk in range(10)]
    with people.drops(), people.sessions() as session, session.begin():
        for chunk in chunks:
            session.execute(sa.insert(Person), chunk)

    assert most < len(looked) <= most + 400


def test_statements_that_commit_by_themselves_are_announced_each_whatever_the_way(
    people: Witness, subtests: pytest.Subtests
) -> None:
    automatic = people.engine.execution_options(isolation_level="AUTOCOMMIT")
    for name, way, ids in known_ways(people):
        begin_again(people)
        with subtests.test(name), people.right(), orm.Session(automatic) as session:
            way.write(session, ids, "changed")
            session.flush()


def test_a_rollback_leaves_the_cache_as_it_was_by_each_kind_of_way(people: Witness, subtests: pytest.Subtests) -> None:
    for name, way, ids in known_ways(people, *SAMPLE):
        begin_again(people)
        with subtests.test(name), people.right(), people.sessions() as session:
            way.write(session, ids, "changed")
            session.rollback()


def test_a_savepoint_rolled_back_takes_nothing_with_it_by_each_kind_of_way(
    people: Witness, subtests: pytest.Subtests
) -> None:
    """Neither what came before it in the same transaction, nor, where it comes first, what comes after."""
    for name, way, ids in known_ways(people, *SAMPLE):
        begin_again(people)
        with subtests.test(name), people.right(), people.sessions() as session:
            with contextlib.suppress(ZeroDivisionError), session.begin_nested():
                way.write(session, ids, "never")
                raise ZeroDivisionError
            rename(session, "barbara")
            with contextlib.suppress(ZeroDivisionError), session.begin_nested():
                way.write(session, ids, "never")
                raise ZeroDivisionError
            session.commit()


def test_a_savepoint_released_counts_with_its_transaction_by_each_kind_of_way(
    people: Witness, subtests: pytest.Subtests
) -> None:
    for name, way, ids in known_ways(people, *SAMPLE):
        for end in ("commit", "rollback"):
            begin_again(people)
            with subtests.test(f"{name}, {end}"), people.right(), people.sessions() as session:
                with session.begin_nested():
                    way.write(session, ids, "changed")
                getattr(session, end)()


# What it costs


def servers_of(people: Witness) -> int:
    return len(getattr(people.service.cached.backend, "servers", ["memory"]))


@everywhere
def test_a_commit_of_one_changed_entity_costs_two_round_trips(people: Witness) -> None:
    people.warm()
    with people.costs(2), people.sessions() as session, session.begin():
        session.get_one(Person, "ada").first_name = "changed"

    with people.costs(2), people.sessions() as session, session.begin():
        session.execute(sa.update(Person).where(Person.last_name == "of ada").values(first_name="again"))

    with people.costs(2):
        people.service.update("ada", first_name="once more")


@everywhere
def test_a_commit_of_one_entity_whose_key_the_database_made_costs_two_round_trips(
    witness_of: Callable[..., Witness],
) -> None:
    tickets = witness_of(Ticket, [], ids=(1, 2))
    tickets.warm()
    with tickets.costs(2), tickets.sessions() as session, session.begin():
        session.add(Ticket(title="first"))


@everywhere
def test_a_commit_of_many_changed_entities_costs_two_round_trips_to_each_server(people: Witness) -> None:
    people.warm()
    before = people.service.stats()
    with people.blind(), people.sessions() as session, session.begin():
        session.execute(
            sa.update(TABLE).where(TABLE.c.id.in_([f"id {number}" for number in range(100)])), {"version": 2}
        )

    assert (people.service.stats() - before).tombstones == 100
    assert (people.service.stats() - before).round_trips == 2 * servers_of(people)


@everywhere
def test_a_commit_of_a_whole_model_costs_two_round_trips_to_each_server(people: Witness) -> None:
    people.warm()
    with people.costs(2 * servers_of(people)), people.sessions() as session, session.begin():
        session.execute(sa.text("UPDATE person SET first_name = 'changed'"))


@everywhere
def test_a_transaction_that_changes_nothing_covered_costs_nothing(people: Witness) -> None:
    people.warm()
    with people.costs(0):
        with people.sessions() as session, session.begin():
            session.add(Note(id=1, text="person", about="ada"))
            session.get(Person, "ada")
            session.execute(sa.text("SELECT id FROM person WHERE first_name = 'update person'"))
        with people.sessions() as session, session.begin_nested():
            session.execute(sa.update(Note).where(Note.about == "ada").values(text="changed"))
            session.execute(sa.delete(Note))
            session.commit()
        with people.engine.begin() as connection:
            connection.exec_driver_sql("INSERT INTO note (id, text) VALUES (2, 'personal')")


def test_a_transaction_that_is_rolled_back_costs_nothing(people: Witness) -> None:
    people.warm()
    with people.costs(0):
        with people.sessions() as session:
            rename(session, "ada")
            session.rollback()
        with people.sessions() as session:
            rename(session, "ada")


def test_keys_that_are_not_told_are_asked_for_once_under_a_lock(people: Witness) -> None:
    done: list[str] = []
    sa.event.listen(people.engine, "after_cursor_execute", lambda *args: done.append(args[2]))
    with people.blind(), people.sessions() as session:
        session.execute(sa.update(TABLE).where(TABLE.c.last_name == "of ada").values(first_name="changed"))
        session.commit()

    sqlite = people.engine.dialect.name == "sqlite"
    assert [statement.split()[0] for statement in done] == ["DELETE"] * sqlite + ["SELECT", "UPDATE"]
    assert sqlite or done[0].endswith("FOR UPDATE")


# Transactions


def test_a_session_that_is_closed_without_a_commit_leaves_the_cache_as_it_was(people: Witness) -> None:
    with people.invalidates():
        session = people.sessions()
        session.get_one(Person, "ada").first_name = "never"
        session.flush()
        session.close()


@everywhere
def test_savepoints_released_and_rolled_back_nested_in_each_other(people: Witness) -> None:
    with people.invalidates("ada", "barbara", "Grace", "grace"), people.sessions() as session:
        rename(session, "ada")
        with session.begin_nested():
            rename(session, "barbara")
            with session.begin_nested() as inner:
                rename(session, "Grace", "never")
                inner.rollback()
            with session.begin_nested():
                rename(session, "grace")
        session.commit()


@pytest.mark.parametrize("mode", ["conditional_savepoint", "rollback_only", "control_fully", "create_savepoint"])
def test_sessions_joined_to_an_outer_transaction(people: Witness, mode: Any) -> None:
    for inner, outer in itertools.product(("commit", "rollback", "close"), ("commit", "rollback")):
        begin_again(people)
        with people.right(), people.engine.connect() as connection:
            transaction = connection.begin()
            rename(connection, "barbara")
            with orm.Session(connection, join_transaction_mode=mode) as session:
                session.get_one(Person, "ada").first_name = "changed"
                session.flush()
                getattr(session, inner)()
            if transaction.is_active:
                getattr(transaction, outer)()


def test_sessions_joined_to_a_savepoint_of_an_outer_transaction(people: Witness) -> None:
    with people.invalidates("ada", "barbara"), people.engine.begin() as connection, connection.begin_nested():
        rename(connection, "barbara")
        with orm.Session(connection) as session:
            session.get_one(Person, "ada").first_name = "changed"
            session.commit()


@everywhere
def test_several_sessions_at_once_each_drop_their_own(people: Witness) -> None:
    with people.right(), people.sessions() as one, people.sessions() as other:
        rename(one, "ada")
        assert other.get_one(Person, "ada").first_name == "first"
        one.commit()
        other.rollback()
        rename(other, "barbara")
        one.get_one(Person, "barbara")
        other.commit()


@on_mysql
def test_two_open_transactions_that_change_neighbours(people: Witness) -> None:
    with people.invalidates("ada", "barbara"), people.sessions() as one, people.sessions() as other:
        rename(one, "ada")
        rename(other, "barbara")
        one.commit()
        other.commit()


def test_a_scoped_session_of_the_hosts(people: Witness) -> None:
    scoped = orm.scoped_session(people.sessions)
    with people.invalidates("ada"):
        scoped.get_one(Person, "ada").first_name = "changed"
        scoped.commit()
        scoped.remove()


def test_an_object_flushed_by_a_query_is_announced_by_the_commit(people: Witness) -> None:
    with people.invalidates("ada"), people.sessions() as session, session.begin():
        session.get_one(Person, "ada").first_name = "changed"
        session.scalars(sa.select(Person)).all()


def test_the_services_own_writes_invalidate_whichever_way_the_toggle_stands(people: Witness) -> None:
    with people.invalidates("ada", "edsger", "grace", "donald"), people.service.using(use_db=True):
        people.service.update("ada", first_name="changed")
        people.service.add(person("edsger"))
        people.service.delete("grace")
        people.service.upsert(person("donald"))


# Commits by text, and by statements that do so on the way


@pytest.fixture
def automatic(people: Witness) -> Iterator[sa.Connection]:
    """A connection on which each statement commits itself, until somebody says BEGIN."""
    with people.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        yield connection


@pytest.mark.parametrize(
    ("begin", "end"), [("BEGIN", "COMMIT"), ("begin;", "commit ;"), ("/* now */ Begin", "-- now\nCommit")]
)
def test_a_transaction_made_of_text(people: Witness, automatic: sa.Connection, begin: str, end: str) -> None:
    with people.invalidates("ada", "barbara"):
        automatic.exec_driver_sql(begin)
        rename(automatic, "ada")
        rename(automatic, "barbara")
        automatic.execute(sa.text(end))


def test_a_transaction_made_of_text_that_is_rolled_back(people: Witness, automatic: sa.Connection) -> None:
    with people.invalidates("Grace"):
        automatic.exec_driver_sql("BEGIN")
        rename(automatic, "ada", "never")
        automatic.exec_driver_sql("ROLLBACK")
        rename(automatic, "Grace")


def test_savepoints_made_of_text(people: Witness, automatic: sa.Connection) -> None:
    with people.invalidates("ada", "barbara", "Grace"):
        automatic.exec_driver_sql("BEGIN")
        rename(automatic, "ada")
        automatic.exec_driver_sql("SAVEPOINT first")
        rename(automatic, "barbara")
        automatic.exec_driver_sql("ROLLBACK TO SAVEPOINT first")
        rename(automatic, "Grace")
        automatic.exec_driver_sql("RELEASE SAVEPOINT first")
        automatic.exec_driver_sql("COMMIT")


@on_sqlite
def test_the_release_of_a_savepoint_is_a_commit_where_no_transaction_is_open(
    people: Witness, automatic: sa.Connection
) -> None:
    """SQLite begins a transaction for a savepoint and ends it with that."""
    with people.invalidates("ada", "barbara"):
        automatic.exec_driver_sql("SAVEPOINT outer_one")
        rename(automatic, "ada")
        automatic.exec_driver_sql("SAVEPOINT inner_one")
        rename(automatic, "barbara")
        automatic.exec_driver_sql("RELEASE inner_one")
        automatic.exec_driver_sql("RELEASE outer_one")
    with people.invalidates("Grace"):
        rename(automatic, "Grace")


@on_sqlite
def test_a_savepoint_that_comes_first_commits_at_its_release_though_the_session_rolls_back(people: Witness) -> None:
    """Python's sqlite3 begins no transaction for it."""
    with people.invalidates("ada"), people.sessions() as session:
        with session.begin_nested():
            rename(session, "ada")
        session.rollback()

    assert people.committed()["ada"][1] == "changed"


@on_sqlite
def test_a_begin_that_fails_begins_nothing(people: Witness, automatic: sa.Connection) -> None:
    with people.blind(), people.sessions() as other:
        rename(other, "barbara")
        automatic.exec_driver_sql("PRAGMA busy_timeout = 1")
        with pytest.raises(exc.OperationalError, match="locked"):
            automatic.exec_driver_sql("BEGIN IMMEDIATE")
    with people.invalidates("ada"):
        rename(automatic, "ada")


@on_sqlite
def test_a_host_that_begins_its_transactions_itself(people: Witness) -> None:
    """The recipe of SQLAlchemy's documentation for savepoints that work on SQLite."""

    def take_over(driver: Any, _record: Any) -> None:
        driver.isolation_level = None

    people.engine.dispose()
    sa.event.listen(people.engine, "connect", take_over)
    sa.event.listen(people.engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    with people.invalidates("ada"), people.sessions() as session:
        with session.begin_nested():
            rename(session, "ada")
        session.commit()
    with people.right(), people.sessions() as session:
        with session.begin_nested():
            rename(session, "barbara", "never")
        session.rollback()


@on_mysql
@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
def test_a_chained_transaction_goes_on_after_its_end(people: Witness, automatic: sa.Connection, end: str) -> None:
    with people.right():
        automatic.exec_driver_sql("START TRANSACTION")
        rename(automatic, "ada", "one")
        automatic.exec_driver_sql(f"{end} AND CHAIN")
        rename(automatic, "ada", "two")
        automatic.exec_driver_sql("COMMIT")


IMPLICIT = {
    "a table": "CREATE TABLE another (id INTEGER)",
    "a table, failing": "CREATE TABLE person (id INTEGER)",
    "a begin": "BEGIN",
    "autocommit": "SET autocommit = 1",
    "a lock": "LOCK TABLES note WRITE",
    "an analysis": "ANALYZE TABLE note",
}


@on_mysql
def test_what_came_before_a_statement_that_commits_is_announced_before_it(
    people: Witness, subtests: pytest.Subtests
) -> None:
    """And is not forgotten by a rollback that comes too late."""
    for name, statement in IMPLICIT.items():
        begin_again(people)
        with subtests.test(name), people.right(), people.engine.connect() as connection:
            rename(connection, "ada")
            with contextlib.suppress(exc.OperationalError):
                connection.execute(sa.text(statement))
            # A lock is a transaction of its own; after rows PyMySQL does not tell whether any is open.
            assert is_unsure(people, "ada") is (name in ("a lock", "an analysis"))
            connection.rollback()
            connection.exec_driver_sql("UNLOCK TABLES")
            connection.invalidate()

        assert people.committed()["ada"][1] == "changed"


MAYBE = ("CREATE TEMPORARY TABLE another (id INTEGER)", "SET autocommit = 0", "SET @name = 1", "UNLOCK TABLES")


@on_mysql
def test_what_came_before_a_statement_that_might_have_committed_stays_pending(
    people: Witness, subtests: pytest.Subtests
) -> None:
    for statement in MAYBE:
        begin_again(people)
        with subtests.test(statement), people.right(), people.engine.connect() as connection:
            rename(connection, "ada")
            connection.execute(sa.text(statement))
            connection.commit()


@on_mysql
def test_the_table_itself_is_changed_by_text(people: Witness) -> None:
    for statement in (
        "ALTER TABLE person ADD COLUMN shoe INTEGER",
        "ALTER TABLE person DROP COLUMN shoe",
        "SET STATEMENT max_statement_time = 10 FOR UPDATE person SET first_name = 'changed' WHERE id = 'ada'",
        "ANALYZE UPDATE person SET first_name = 'changed again'",
        "TRUNCATE TABLE person",
    ):
        with people.drops(), people.engine.begin() as connection:
            connection.execute(sa.text(statement))


def test_a_table_that_is_dropped_and_made_again(people: Witness) -> None:
    people.warm()
    with people.blind():
        with people.engine.connect() as connection:
            connection.execute(sa.text("DROP TABLE person"))
            connection.rollback()
        Person.metadata.create_all(people.engine)
    people.check()

    assert people.answered() == {}


@pytest.fixture
def procedures(people: Witness) -> None:
    with people.engine.begin() as connection:
        connection.exec_driver_sql("CREATE PROCEDURE hidden() UPDATE person SET first_name = 'changed'")
        connection.exec_driver_sql(
            "CREATE PROCEDURE commits() BEGIN UPDATE person SET first_name = 'kept'; COMMIT; END"
        )
        connection.exec_driver_sql("CREATE PROCEDURE fails() BEGIN CALL commits(); SIGNAL SQLSTATE '45000'; END")


@on_mysql
@pytest.mark.usefixtures("procedures")
@pytest.mark.parametrize("call", ["CALL hidden()", "/* a read? */ call `commits`()", "CALL fails()"])
@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_a_stored_procedure_may_change_anything_and_commit(people: Witness, call: str, end: str) -> None:
    with people.drops(), people.engine.connect() as connection:
        rename(connection, "ada", "before")
        with contextlib.suppress(exc.OperationalError):
            connection.execute(sa.text(call))
        getattr(connection, end)()


@on_mysql
@pytest.mark.usefixtures("procedures")
def test_a_stored_procedure_on_a_connection_that_commits_each_statement(
    people: Witness, automatic: sa.Connection
) -> None:
    for call in ("CALL hidden()", "CALL commits()", "EXECUTE IMMEDIATE 'CALL hidden()'"):
        with people.drops():
            automatic.exec_driver_sql(call)


@pytest.fixture
def several(people: Witness) -> Iterator[sa.Engine]:
    """An engine that takes several statements in one text."""
    options = {"client_flag": pymysql.constants.CLIENT.MULTI_STATEMENTS}
    engine = sa.create_engine(people.engine.url, connect_args=options)
    people.service.cover(engine)
    yield engine
    engine.dispose()


@on_mysql
def test_several_statements_in_one_text(people: Witness, several: sa.Engine) -> None:
    with people.drops(), several.connect() as connection:
        rename(connection, "ada")
        connection.exec_driver_sql("SELECT 1; UPDATE person SET first_name = 'changed' WHERE id = 'barbara'; COMMIT")
        connection.rollback()
    with people.drops(), several.begin() as connection:
        connection.exec_driver_sql("SELECT 1; UPDATE person SET first_name = 'again' WHERE id = 'barbara'")
        rename(connection, "ada", "again")


@on_mysql
@pytest.mark.parametrize("isolation_level", ["AUTOCOMMIT", "REPEATABLE READ"])
def test_statements_that_run_when_the_result_of_the_first_is_here(
    people: Witness, several: sa.Engine, isolation_level: Any
) -> None:
    gate = people.engine.connect()
    gate.exec_driver_sql("SELECT GET_LOCK('gate', 0)")
    with people.right(), several.connect().execution_options(isolation_level=isolation_level) as connection:
        text = "SELECT 1; DO GET_LOCK('gate', 60); UPDATE person SET first_name = 'changed'; COMMIT"
        result = connection.exec_driver_sql(text)
        people.look("before the update")
        with people.blind():
            gate.exec_driver_sql("SELECT RELEASE_LOCK('gate')")
        result.close()
        connection.rollback()
    gate.close()

    assert people.committed()["ada"][1] == "changed"


class Counter(HostBase):
    """A table without transactions: what is written is committed, and no rollback takes it back."""

    __tablename__ = "counter"
    __table_args__ = {"mysql_engine": "MyISAM"}

    id: orm.Mapped[int] = orm.mapped_column(primary_key=True, autoincrement=False)
    count: orm.Mapped[int] = orm.mapped_column(default=0)


@on_mysql
def test_a_table_without_transactions_is_right_after_each_statement(witness_of: Callable[..., Witness]) -> None:
    counters = witness_of(Counter, [Counter(id=1), Counter(id=2)], ids=(1, 2, 3))
    counters.warm()
    with counters.engine.connect() as connection:
        with counters.blind():
            connection.execute(sa.update(Counter).where(Counter.id == 1).values(count=1))
        counters.look("after the update")
        with counters.blind():
            connection.execute(sa.insert(Counter), [{"id": 3}])
        counters.look("after the insert")
        connection.rollback()
    counters.check()

    assert counters.committed()[1] == (1, 1)


@on_sqlite
def test_what_sqlite_runs_outside_a_transaction_is_committed_though_nobody_commits(people: Witness) -> None:
    statement = "WITH wanted AS (SELECT 'ada' AS id) UPDATE person SET first_name = 'kept' WHERE id IN wanted"
    with people.drops(), people.engine.connect() as connection:
        connection.execute(sa.text(statement))
        connection.rollback()
    assert people.committed()["ada"][1] == "kept"

    with people.drops(), people.engine.begin() as connection:
        rename(connection, "barbara")
        connection.execute(sa.text(statement.replace("kept", "changed")))


@on_sqlite
def test_rows_that_are_still_to_be_fetched_are_yet_to_be_committed(people: Witness, automatic: sa.Connection) -> None:
    """Until its last row is fetched, SQLite has not committed a statement by itself."""
    statement = sa.update(TABLE).where(TABLE.c.id.in_(["ada", "barbara"])).values(first_name="changed")
    with people.invalidates("ada", "barbara"):
        result = automatic.execute(statement.returning(TABLE.c.id))
        people.look("between")
        result.all()
        people.look("after")
        automatic.commit()
    with people.drops():
        result = automatic.exec_driver_sql("UPDATE person SET first_name = 'again' RETURNING id")
        people.look("between")
        result.fetchone()
        result.close()
        people.look("after")
        automatic.commit()


# Engines


def test_an_option_engine_is_the_engine_it_was_made_from(people_engine: sa.Engine, cache_url: str) -> None:
    made = people_engine.execution_options(one=1).execution_options(two=2)
    with orm.Session(people_engine) as session, session.begin():
        session.add_all([person(id) for id in PEOPLE])
    people = Witness(made, cache_url)
    for engine in (people_engine, made, made.execution_options(three=3), people_engine.execution_options(four=4)):
        with people.invalidates("ada"), engine.begin() as connection:
            rename(connection, "ada", repr(engine.get_execution_options()))
    people.close()


def test_a_connection_checked_out_before_it_was_covered(people_engine: sa.Engine, cache_url: str) -> None:
    with orm.Session(people_engine) as session, session.begin():
        session.add_all([person(id) for id in PEOPLE])
    with people_engine.connect() as connection:
        people = Witness(people_engine, cache_url)
        with people.invalidates("ada"):
            rename(connection, "ada")
            connection.commit()
    people.close()


@pytest.mark.parametrize("end", ["commit", "text"])
def test_what_a_transaction_did_before_it_was_covered_is_unknown(
    people_engine: sa.Engine, cache_url: str, end: str
) -> None:
    with orm.Session(people_engine) as session, session.begin():
        session.add_all([person(id) for id in PEOPLE])
    with people_engine.connect() as connection:
        rename(connection, "ada")
        people = Witness(people_engine, cache_url)
        with people.drops():
            connection.commit() if end == "commit" else connection.execute(sa.text("COMMIT"))
        with people.invalidates("barbara"):
            rename(connection, "barbara")
            connection.commit()
    people.close()


def test_what_a_session_did_before_it_was_bound_is_unknown(people: Witness) -> None:
    engine = sa.create_engine(people.engine.url)
    people.watch(engine)
    with people.drops(), orm.Session(engine) as session, session.begin():
        rename(session, "ada")
        bound = people.service.bind(session)
        assert bound.get_one("ada").first_name == "changed"
    engine.dispose()


def test_a_model_covered_in_the_middle_of_a_transaction(people: Witness, cache_url: str) -> None:
    with people.sessions() as session:
        session.add(Note(id=1, text="first"))
        session.flush()
        notes = Service.over(Note, people.sessions, cache_url)
        assert notes.get(1) is None
        session.commit()

    assert notes.get_one(1).text == "first"


def test_another_engine_that_is_covered_too(people: Witness) -> None:
    engine = sa.create_engine(people.engine.url)
    people.watch(engine)
    people.service.cover(engine)
    with people.invalidates("ada"), engine.begin() as connection:
        rename(connection, "ada")
    engine.dispose()


def test_one_session_over_two_engines(people: Witness, tmp_path: Any, cache_url: str) -> None:
    """Each has its own COMMIT; what is changed on one is no matter of the other's."""
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'notes.db'}")
    HostBase.metadata.create_all(engine, [Note.__table__])
    sessions = orm.sessionmaker(binds={Person: people.engine, Note: engine})
    notes = Witness(engine, cache_url, entity=Note, ids=(1, 2))
    with people.invalidates("ada"), notes.invalidates(1), sessions() as session, session.begin():
        session.get_one(Person, "ada").first_name = "changed"
        session.add(Note(id=1, text="first"))
        session.flush()
    with people.invalidates(), notes.right(), sessions() as session, session.begin():
        session.get_one(Note, 1).text = "changed"
    notes.close()
    engine.dispose()


def test_an_engine_that_is_disposed_of_and_connects_anew(people: Witness) -> None:
    people.engine.dispose()
    with people.invalidates("ada"), people.sessions() as session, session.begin():
        session.get_one(Person, "ada").first_name = "changed"
        people.engine.dispose()


def test_a_pool_that_commits_what_is_returned_to_it(people: Witness) -> None:
    engine = sa.create_engine(people.engine.url, pool_reset_on_return="commit")
    people.watch(engine)
    people.service.cover(engine)
    connection = engine.connect()
    with people.invalidates("ada"):
        rename(connection, "ada")
        connection.connection.close()
    engine.dispose()


def test_a_detached_connection_is_still_covered(people: Witness) -> None:
    with people.invalidates("ada", "barbara"), people.engine.connect() as connection:
        rename(connection, "barbara")
        connection.detach()
        rename(connection, "ada")
        connection.commit()


# What only the database knows before, or after


class Ticket(HostBase):
    """Its key is made by the database."""

    __tablename__ = "ticket"

    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    title: orm.Mapped[str] = orm.mapped_column(sa.String(100), unique=True)


TICKETS: Any = Ticket.__table__

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
    """Whoever asked for the next one before was told that nobody is there."""
    tickets = witness_of(Ticket, [Ticket(id=1, title="first"), Ticket(id=2, title="second")], ids=range(1, 9))
    engine = tickets.engine.execution_options(**({"isolation_level": isolation_level} if isolation_level else {}))
    for name, write in GENERATED.items():
        with engine.begin() as connection:
            connection.execute(sa.delete(TICKETS).where(TICKETS.c.id > 2))
            if connection.dialect.name == "mysql":
                connection.exec_driver_sql("ALTER TABLE ticket AUTO_INCREMENT = 3")
        with subtests.test(name), tickets.right(), orm.Session(engine) as session:
            write(session)
            session.commit()
        assert len(tickets.committed()) > 2


def test_a_key_that_the_database_made_is_dropped_alone(witness_of: Callable[..., Witness]) -> None:
    tickets = witness_of(Ticket, [Ticket(id=1, title="first")], ids=range(1, 5))
    with tickets.invalidates(2), tickets.sessions() as session, session.begin():
        session.add(Ticket(title="second"))


@pytest.mark.parametrize("isolation_level", [None, "AUTOCOMMIT"])
def test_rows_that_came_in_before_one_that_was_refused(
    witness_of: Callable[..., Witness], isolation_level: str | None
) -> None:
    """A statement for many rows may stop in the middle of them, and the transaction goes on."""
    tickets = witness_of(Ticket, [Ticket(id=1, title="first")], ids=range(1, 6))
    engine = tickets.engine.execution_options(**({"isolation_level": isolation_level} if isolation_level else {}))
    statement = sa.text("INSERT INTO ticket (title) VALUES (:title)")
    for insert in (statement, sa.insert(TICKETS)):
        with tickets.right(), engine.connect() as connection:
            with pytest.raises(exc.IntegrityError):
                connection.execute(insert, [{"title": f"one {insert}"}, {"title": "first"}, {"title": "never"}])
            connection.commit()


class Coupon(HostBase):
    """Its key is made by a function of the host's, in the database or in Python."""

    __tablename__ = "coupon"

    code: orm.Mapped[str] = orm.mapped_column(ExactString(40), primary_key=True, default=sa.func.lower("NEW"))
    worth: orm.Mapped[int] = orm.mapped_column(default=0)


class Voucher(HostBase):
    __tablename__ = "voucher"

    code: orm.Mapped[str] = orm.mapped_column(ExactString(40), primary_key=True, default=lambda: "new")
    worth: orm.Mapped[int] = orm.mapped_column(default=0)


@pytest.mark.parametrize("entity", [Coupon, Voucher])
@pytest.mark.parametrize("isolation_level", [None, "AUTOCOMMIT"])
def test_keys_that_are_defaults(
    witness_of: Callable[..., Witness], entity: type[Any], isolation_level: str | None
) -> None:
    coupons = witness_of(entity, [entity(code="old")], ids=["old", "new"])
    engine = coupons.engine.execution_options(**({"isolation_level": isolation_level} if isolation_level else {}))
    with coupons.right(), orm.Session(engine) as session:
        session.add(entity())
        session.commit()
        session.execute(sa.delete(entity).where(entity.worth == 0))
        session.commit()
    with coupons.right(), engine.begin() as connection:
        connection.execute(sa.insert(entity.__table__))

    assert set(coupons.committed()) == {"new"}


class Account(HostBase):
    """It has another unique key beside the primary one."""

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
    with accounts.invalidates("ada"), accounts.sessions() as session, session.begin():
        session.execute(sa.update(Account).where(Account.email == "ada@example.org").values(owner="ada"))
    with accounts.invalidates("grace"), accounts.engine.begin() as connection:
        connection.execute(sa.delete(ACCOUNTS).where(ACCOUNTS.c.email == "grace@example.org"))


@on_sqlite
def test_an_upsert_that_does_nothing_names_what_it_might_have_inserted(accounts: Witness) -> None:
    row = {"id": "edsger", "email": "ada@example.org", "owner": "edsger"}
    with accounts.right(), accounts.engine.begin() as connection:
        connection.execute(sqlite.insert(ACCOUNTS).values(row).on_conflict_do_nothing())
        connection.execute(sa.insert(ACCOUNTS).values(row).prefix_with("OR IGNORE"))


# Names


class Member(HostBase):
    """The attributes and the columns have each other's names, and a column has a key of its own."""

    __tablename__ = "member"

    ident: orm.Mapped[str] = orm.mapped_column("member_no", ExactString(40), primary_key=True)
    member_no: orm.Mapped[str] = orm.mapped_column("ident", ExactString(40), default="")
    place: orm.Mapped[str] = orm.mapped_column("place_name", sa.String(40), key="where_to_find", default="")


class Keyed(HostBase):
    __tablename__ = "keyed"

    code: orm.Mapped[str] = orm.mapped_column("code_name", ExactString(40), primary_key=True, key="code_key")
    worth: orm.Mapped[str] = orm.mapped_column(sa.String(40), default="")


def test_attributes_that_have_the_names_of_other_columns(witness_of: Callable[..., Witness]) -> None:
    members = witness_of(
        Member, [Member(ident=id, member_no=f"no {id}") for id in "ab"], ids=[*"abcdef", "no a", "no b"]
    )
    table: Any = Member.__table__
    with members.invalidates("c", "d"), members.sessions() as session, session.begin():
        session.execute(sa.insert(Member).values([{"ident": "c", "member_no": "a"}]))
        session.execute(sa.insert(table).values(member_no="d", ident="b", where_to_find="here"))
    with members.invalidates("e"), members.engine.begin() as connection:
        connection.execute(sa.insert(table), [{"member_no": "e", "ident": "a"}])
    with members.invalidates("f"), members.engine.begin() as connection:
        connection.execute(sa.insert(table).values([{"member_no": "f", "ident": "b"}]))
    with members.invalidates("a"), members.sessions() as session, session.begin():
        session.execute(sa.update(Member).where(Member.ident == "a").values({"member_no": "e"}))
    with members.invalidates("b"), members.sessions() as session, session.begin():
        session.execute(sa.update(Member), [{"ident": "b", "member_no": "f", "place": "there"}])
    with members.invalidates("c", "no a"), members.sessions() as session, session.begin():
        session.execute(sa.update(Member).where(Member.ident == "c").values({"ident": "no a"}))
    with members.invalidates("d", "no b"), members.engine.begin() as connection:
        connection.execute(sa.update(table).where(table.c.member_no == "d").values(member_no="no b", ident="x"))


def test_columns_that_have_a_key_of_their_own(witness_of: Callable[..., Witness]) -> None:
    keyed = witness_of(Keyed, [Keyed(code=id) for id in "ab"], ids="abcde")
    table: Any = Keyed.__table__
    with keyed.invalidates("a", "c"), keyed.sessions() as session, session.begin():
        session.get_one(Keyed, "a").code = "c"
    with keyed.invalidates("b", "a"), keyed.engine.begin() as connection:
        connection.execute(sa.update(table).where(table.c.code_key == "b"), {"code_key": "a"})
    with keyed.invalidates("d"), keyed.engine.begin() as connection:
        connection.execute(sa.insert(table), [{"code_key": "d"}])
    with keyed.invalidates("d"), keyed.engine.begin() as connection:
        connection.execute(sa.delete(table).where(table.c.worth == "", table.c.code_key > "c"))


class Tag(HostBase):
    """Its key folds case and padding, where the database does."""

    __tablename__ = "tag"
    __table_args__ = {"mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_general_ci"}

    name: orm.Mapped[str] = orm.mapped_column(sa.String(40), primary_key=True)
    note: orm.Mapped[str] = orm.mapped_column(sa.String(40), default="")


TAGS: Any = Tag.__table__

FOLDED: dict[str, Callable[[orm.Session], Any]] = {
    "update": lambda session: session.execute(sa.update(TAGS).where(TAGS.c.name == "RED").values(note="changed")),
    "ORM update": lambda session: session.execute(sa.update(Tag).where(Tag.name.in_(["RED"])).values(note="changed")),
    "many parameter sets": lambda session: session.connection().execute(
        sa.update(TAGS).where(TAGS.c.name == sa.bindparam("which")).values(note="changed"),
        [{"which": "RED"}, {"which": "red "}],
    ),
    "unit of work": lambda session: setattr(session.get(Tag, "RED") or Tag(), "note", "changed"),
    "delete": lambda session: session.execute(sa.delete(TAGS).where(TAGS.c.name == "rED")),
    "update of the key": lambda session: session.execute(
        sa.update(TAGS).where(TAGS.c.name == "RED").values(name="green")
    ),
    "insert": lambda session: session.execute(sa.insert(TAGS).values(name="green", note="")),
    "upsert": lambda session: session.execute(
        mysql.insert(TAGS).values(name="RED", note="").on_duplicate_key_update(note="changed")
        if session.get_bind().dialect.name == "mysql"
        else sqlite.insert(TAGS).values(name="RED", note="").on_conflict_do_update(["name"], set_={"note": "changed"})
    ),
}


def test_keys_that_are_one_to_the_database_and_several_to_python(
    witness_of: Callable[..., Witness], subtests: pytest.Subtests
) -> None:
    tags = witness_of(Tag, [], ids=["red", "RED", "Red", "red ", "blue", "green"])
    for name, write in FOLDED.items():
        with tags.sessions() as session, session.begin():
            session.execute(sa.delete(Tag))
            session.add_all([Tag(name="red"), Tag(name="blue")])
        with subtests.test(name), tags.right(), tags.sessions() as session, session.begin():
            write(session)


class Lowered(sa.TypeDecorator[str]):
    """Stores another spelling than it is given."""

    impl = sa.String(40)
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:
        return None if value is None else value.lower()


class LoweredBySQL(sa.TypeDecorator[str]):
    impl = sa.String(40)
    cache_ok = True

    def bind_expression(self, bindvalue: Any) -> Any:
        return sa.func.lower(bindvalue)


class Slug(HostBase):
    __tablename__ = "slug"

    name: orm.Mapped[str] = orm.mapped_column(Lowered, primary_key=True)
    note: orm.Mapped[str] = orm.mapped_column(sa.String(40), default="")


class Label(HostBase):
    __tablename__ = "label"

    name: orm.Mapped[str] = orm.mapped_column(LoweredBySQL, primary_key=True)
    note: orm.Mapped[str] = orm.mapped_column(sa.String(40), default="")


class Serial(HostBase):
    __tablename__ = "serial"

    name: orm.Mapped[str] = orm.mapped_column(sa.Uuid(as_uuid=False), primary_key=True)
    note: orm.Mapped[str] = orm.mapped_column(sa.String(40), default="")


SERIAL = "0c9ff1b0-1d1c-4a6e-8f43-5f5b0d5f3c11"


@pytest.mark.parametrize(
    ("entity", "given", "stored"),
    [(Slug, "Red", "red"), (Label, "Red", "red"), (Serial, SERIAL.replace("-", ""), SERIAL)],
)
def test_keys_that_their_type_respells_on_the_way_in(
    witness_of: Callable[..., Witness], entity: type[Any], given: str, stored: str
) -> None:
    slugs = witness_of(entity, [], ids=[given, stored])
    table = entity.__table__
    for statement in (
        sa.insert(table).values(name=given, note="new"),
        sa.update(table).where(table.c.name == given).values(note="changed"),
        sa.delete(table).where(table.c.name == given),
        sa.insert(table),
    ):
        with slugs.right(), slugs.engine.begin() as connection:
            connection.execute(statement, None if statement.is_delete else {"name": given, "note": "again"})


def test_a_parameter_whose_own_type_respells_it(people: Witness) -> None:
    with people.right(), people.sessions() as session, session.begin():
        lowered = sa.literal("GRACE", Lowered)
        session.execute(sa.update(TABLE).where(TABLE.c.id == lowered).values(first_name="changed"))
        session.execute(
            sa.insert(TABLE).values(id=sa.literal("EDSGER", Lowered), first_name="new", last_name="new", version=1)
        )

    assert people.committed()["grace"][1] == "changed"


class Placed(HostBase):
    """A table in a schema, which the engine of the tests calls by another name."""

    __tablename__ = "placed"
    __table_args__ = {"schema": "host"}

    id: orm.Mapped[int] = orm.mapped_column(primary_key=True, autoincrement=False)
    note: orm.Mapped[str] = orm.mapped_column(sa.String(40), default="")


def test_a_table_in_a_schema(people_engine: sa.Engine, witness_of: Callable[..., Witness]) -> None:
    schema = None if people_engine.dialect.name == "sqlite" else people_engine.url.database
    engine = people_engine.execution_options(schema_translate_map={"host": schema})
    placed = witness_of(Placed, [Placed(id=1)], engine=engine, ids=(1, 2, 3))
    table: Any = Placed.__table__
    with placed.invalidates(1, 2), placed.sessions() as session, session.begin():
        session.get_one(Placed, 1).note = "changed"
        session.add(Placed(id=2))
    with placed.invalidates(1, 2), engine.begin() as connection:
        connection.execute(sa.update(table).where(table.c.note != "nothing").values(note="again"))
    with placed.drops(), people_engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM placed")


# Foreign keys


class Author(HostBase):
    __tablename__ = "author"

    id: orm.Mapped[int] = orm.mapped_column(primary_key=True, autoincrement=False)
    pen_name: orm.Mapped[str] = orm.mapped_column(ExactString(40), unique=True)
    note: orm.Mapped[str] = orm.mapped_column(sa.String(40), default="")


class Book(HostBase):
    """Deleted with its author, and named after the name of one."""

    __tablename__ = "book"

    id: orm.Mapped[int] = orm.mapped_column(primary_key=True, autoincrement=False)
    author_id: orm.Mapped[int] = orm.mapped_column(sa.ForeignKey("author.id", ondelete="CASCADE"))
    signed: orm.Mapped[str | None] = orm.mapped_column(
        ExactString(40), sa.ForeignKey("author.pen_name", onupdate="CASCADE"), unique=True
    )


class Chapter(HostBase):
    """Keeps without its book, and follows its signature."""

    __tablename__ = "chapter"

    id: orm.Mapped[int] = orm.mapped_column(primary_key=True, autoincrement=False)
    book_id: orm.Mapped[int | None] = orm.mapped_column(sa.ForeignKey("book.id", ondelete="SET NULL"))
    signed: orm.Mapped[str | None] = orm.mapped_column(
        ExactString(40), sa.ForeignKey("book.signed", onupdate="CASCADE", ondelete="SET NULL")
    )


class Folder(HostBase):
    """Deleted with the folder it is in."""

    __tablename__ = "folder"

    id: orm.Mapped[int] = orm.mapped_column(primary_key=True, autoincrement=False)
    parent_id: orm.Mapped[int | None] = orm.mapped_column(sa.ForeignKey("folder.id", ondelete="CASCADE"))


AUTHORS: Any = Author.__table__
BOOKS: Any = Book.__table__
LIBRARY: list[Any] = [AUTHORS, BOOKS, Chapter.__table__]


@pytest.fixture
def enforced(people_engine: sa.Engine) -> sa.Engine:
    """An engine on which foreign keys act; on SQLite they do where they are told to."""
    if people_engine.dialect.name == "sqlite":
        people_engine.dispose()
        sa.event.listen(people_engine, "connect", lambda driver, _record: driver.execute("PRAGMA foreign_keys = ON"))
    return people_engine


@pytest.fixture
def chapters(enforced: sa.Engine, witness_of: Callable[..., Witness]) -> Witness:
    Author.metadata.create_all(enforced, LIBRARY)
    with orm.Session(enforced) as session, session.begin():
        session.add_all([Author(id=1, pen_name="one"), Author(id=2, pen_name="two")])
        session.flush()
        session.add_all([Book(id=10, author_id=1, signed="one"), Book(id=20, author_id=2, signed="two")])
        session.flush()
    objects = [Chapter(id=100, book_id=10, signed="one"), Chapter(id=200, book_id=20, signed="two")]
    return witness_of(Chapter, objects, ids=(100, 200, 300))


DELETIONS: dict[str, Callable[[orm.Session], Any]] = {
    "unit of work": lambda session: session.delete(session.get_one(Author, 1)),
    "ORM delete": lambda session: session.execute(sa.delete(Author).where(Author.pen_name == "one")),
    "Core delete": lambda session: session.connection().execute(sa.delete(AUTHORS).where(AUTHORS.c.id == 1)),
    "text": lambda session: session.execute(sa.text("DELETE FROM author WHERE id = 1")),
    "of the book": lambda session: session.execute(sa.delete(BOOKS).where(BOOKS.c.id == 10)),
    "replaced": lambda session: session.execute(
        sa.text("REPLACE INTO author (id, pen_name, note) VALUES (1, 'x', '')")
    ),
}


@pytest.mark.parametrize("write", DELETIONS.values(), ids=DELETIONS)
def test_rows_that_a_foreign_key_changes_two_deletions_away(
    chapters: Witness, write: Callable[[orm.Session], Any], request: pytest.FixtureRequest
) -> None:
    with chapters.drops(), chapters.sessions() as session, session.begin():
        if chapters.engine.dialect.name == "mysql" and request.node.callspec.id.endswith("replaced"):
            session.execute(sa.update(BOOKS).values(signed=None))
        write(session)

    assert chapters.committed()[100][1:] == (None, None)


@on_sqlite
def test_rows_that_a_foreign_key_changes_as_another_row_is_replaced(chapters: Witness) -> None:
    with chapters.sessions() as session, session.begin():
        session.execute(sa.update(BOOKS).values(signed=None))
    with chapters.drops(), chapters.sessions() as session, session.begin():
        session.execute(sa.insert(AUTHORS).prefix_with("OR REPLACE").values(id=1, pen_name="x", note=""))

    assert chapters.committed()[100][1] is None


RENAMINGS: dict[str, Callable[[orm.Session], Any]] = {
    "unit of work": lambda session: setattr(session.get_one(Author, 1), "pen_name", "uno"),
    "ORM update": lambda session: session.execute(sa.update(Author).where(Author.id == 1).values({"pen_name": "uno"})),
    "Core update": lambda session: session.execute(sa.update(AUTHORS).where(AUTHORS.c.id == 1), {"pen_name": "uno"}),
    "text": lambda session: session.execute(sa.text("UPDATE author SET pen_name = 'uno' WHERE id = 1")),
    "upsert": lambda session: session.execute(
        mysql.insert(AUTHORS).values(id=1, pen_name="x", note="").on_duplicate_key_update(pen_name="uno")
        if session.get_bind().dialect.name == "mysql"
        else sqlite.insert(AUTHORS)
        .values(id=1, pen_name="x", note="")
        .on_conflict_do_update(["id"], set_={"pen_name": "uno"})
    ),
}


def test_rows_that_a_foreign_key_changes_two_updates_away(chapters: Witness, subtests: pytest.Subtests) -> None:
    for name, write in RENAMINGS.items():
        with chapters.sessions() as session, session.begin():
            session.execute(sa.update(AUTHORS).where(AUTHORS.c.id == 1).values(pen_name="one"))
        with subtests.test(name), chapters.drops(), chapters.sessions() as session, session.begin():
            write(session)

        assert chapters.committed()[100][2] == "uno"


def test_what_no_foreign_key_acts_on_drops_nothing(chapters: Witness) -> None:
    chapters.warm()
    with chapters.costs(0), chapters.sessions() as session, session.begin():
        session.get_one(Author, 1).note = "changed"
        session.execute(sa.update(Author).where(Author.id == 2).values(note="changed"))
        session.execute(sa.update(AUTHORS), {"note": "again"})
        session.add(Author(id=3, pen_name="three"))
    chapters.check()


def test_a_table_whose_rows_refer_to_each_other(enforced: sa.Engine, witness_of: Callable[..., Witness]) -> None:
    objects = [Folder(id=1), Folder(id=2, parent_id=1), Folder(id=3, parent_id=2)]
    folders = witness_of(Folder, [], ids=(1, 2, 3, 4))
    for one in objects:
        with folders.invalidates(one.id), folders.sessions() as session, session.begin():
            session.add(one)
    with folders.drops(), folders.engine.begin() as connection:
        connection.execute(sa.delete(Folder.__table__).where(Folder.__table__.c.id == 1))

    assert folders.committed() == {}


# Bounds


@pytest.fixture
def few(people_engine: sa.Engine, cache_url: str) -> Iterator[Witness]:
    """A witness of a cache that takes three keys for too many."""
    with orm.Session(people_engine) as session, session.begin():
        session.add_all([person(id) for id in PEOPLE])
    witness = Witness(people_engine, make_region(cache_url, max_keys=3))
    yield witness
    witness.close()


def test_more_rows_than_the_bound_are_the_whole_model(few: Witness) -> None:
    with few.invalidates(*PEOPLE[:3]), few.engine.begin() as connection:
        connection.execute(
            sa.update(TABLE).where(TABLE.c.last_name.in_([f"of {id}" for id in PEOPLE[:3]])), {"version": 2}
        )
    with few.drops(), few.engine.begin() as connection:
        connection.execute(sa.update(TABLE).where(TABLE.c.version > 0).values(version=3))
    with few.drops(), few.engine.begin() as connection:
        for id in PEOPLE:
            rename(connection, id)
    with few.drops(), few.sessions() as session, session.begin():
        session.add_all([person(id) for id in STRANGERS])
    with few.drops(), few.engine.begin() as connection:
        connection.execute(sa.delete(TABLE).where(TABLE.c.id.in_(PEOPLE)))


def test_an_update_of_everybody_is_the_whole_model_or_all_its_keys(people: Witness) -> None:
    with people.invalidates(*PEOPLE), people.engine.begin() as connection:
        connection.execute(sa.update(TABLE).values(first_name="changed"))


@on_mysql
def test_a_row_that_comes_between_the_question_and_the_update_drops_the_whole_model(people: Witness) -> None:
    """READ COMMITTED locks the rows that are asked for, and keeps nobody from adding one."""
    came: list[str] = []

    def another_comes(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if statement.endswith("FOR UPDATE") and not came:
            came.append("edsger")
            with people.sessions() as other, other.begin():
                other.add(person("edsger"))

    sa.event.listen(people.engine, "after_cursor_execute", another_comes)
    committed = people.engine.execution_options(isolation_level="READ COMMITTED")
    with people.drops(), committed.begin() as connection:
        connection.execute(sa.update(TABLE).where(TABLE.c.version > 0).values(first_name="changed"))

    assert people.committed()["edsger"][1] == "changed"


@on_mysql
def test_an_update_of_two_tables_at_once(people: Witness) -> None:
    notes: Any = Note.__table__
    with people.sessions() as session, session.begin():
        session.add_all([Note(id=1, text="first", about="ada"), Note(id=2, text="second", about="ada")])
    with people.drops(), people.engine.begin() as connection:
        joined = sa.update(notes).where(notes.c.about == TABLE.c.id)
        connection.execute(joined.values({notes.c.text: "changed", TABLE.c.first_name: "changed"}))
    with people.right(), people.engine.begin() as connection:
        joined = sa.update(TABLE).where(notes.c.about == TABLE.c.id, notes.c.id == 1)
        connection.execute(joined.values(first_name="again"))

    assert people.committed()["ada"][1] == "again"


def test_a_query_that_changes_rows_on_the_way_is_none() -> None:
    """As PostgreSQL has it; of the databases here none does."""
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    changed = sa.update(TABLE).values(version=2).returning(TABLE.c.id).cte("changed")
    writes, reads = sa.select(changed.c.id), sa.select(TABLE.c.id)

    assert invalidation._is_query(SimpleNamespace(compiled=reads.compile(dialect=dialect)))
    assert not invalidation._is_query(SimpleNamespace(compiled=writes.compile(dialect=dialect)))
    assert invalidation._changed_by_ctes(writes.compile(dialect=dialect)) == ["person"]


@on_sqlite
def test_a_row_without_a_key_makes_no_write_fail(people: Witness) -> None:
    """SQLite takes NULL in a primary key, where the table was not made by SQLAlchemy."""
    with people.blind(), people.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE person")
        connection.exec_driver_sql("CREATE TABLE person (id TEXT PRIMARY KEY, first_name, last_name, version)")
        connection.exec_driver_sql("INSERT INTO person VALUES ('ada', 'first', 'x', 1), (NULL, 'first', 'x', 1)")
    with people.drops(), people.engine.begin() as connection:
        connection.execute(sa.update(TABLE).where(TABLE.c.last_name == "x").values(first_name="changed"))

    assert people.committed()["ada"][1] == "changed"


@on_sqlite
def test_an_update_from_another_table(people: Witness) -> None:
    notes: Any = Note.__table__
    with people.sessions() as session, session.begin():
        session.add(Note(id=1, text="changed", about="ada"))
    with people.invalidates("ada"), people.engine.begin() as connection:
        connection.execute(sa.update(TABLE).where(notes.c.about == TABLE.c.id).values(first_name=notes.c.text))

    assert people.committed()["ada"][1] == "changed"


def test_the_made_up_names_of_parameters_are_not_those_of_the_question(people: Witness) -> None:
    """The update has ``first_name_1`` for what it sets, the question would have it for the criterion."""
    with people.sessions() as session, session.begin():
        rename(session, "ada", "one")
        rename(session, "barbara", "two")
    with people.invalidates("ada"), people.engine.begin() as connection:
        longer = sa.func.replace(TABLE.c.first_name, "two", "three")
        statement = sa.update(TABLE).values(last_name=sa.case((TABLE.c.first_name == "two", longer), else_="changed"))
        connection.execute(statement.where(TABLE.c.first_name == "one"))

    assert people.committed()["ada"][2] == "changed"


# Failures


def test_a_session_goes_on_after_a_statement_that_was_refused(people: Witness) -> None:
    """What it named is dropped, too: savepoints are not followed."""
    with people.invalidates("ada", "barbara", "Grace", "edsger", "grace"), people.sessions() as session:
        rename(session, "ada")
        with pytest.raises(exc.IntegrityError), session.begin_nested():
            session.add_all([person("edsger"), person("grace")])
        rename(session, "barbara")
        session.commit()
        with pytest.raises(exc.IntegrityError):
            session.execute(sa.insert(TABLE), rows(["frances", "grace"], "never"))
        session.rollback()
        rename(session, "Grace")
        session.commit()


def test_a_stale_copy_that_is_refused_changes_nothing(people: Witness) -> None:
    with people.invalidates("ada"), people.sessions() as session:
        one = session.get_one(Person, "ada")
        session.rollback()
        with people.sessions() as other, other.begin():
            other.get_one(Person, "ada").first_name = "changed"
        one.first_name = "never"
        orm.attributes.set_committed_value(one, "version", 1)
        with pytest.raises(orm.exc.StaleDataError):
            session.commit()


@on_mysql
def test_a_deadlock_ends_one_transaction_and_the_session_goes_on(people: Witness) -> None:
    """The loser's tombstones do not outlive it, and nothing it did is seen."""
    with people.right(), people.sessions() as one, people.sessions() as other:
        with people.blind():
            rename(one, "ada", "one")
            rename(other, "barbara", "other")
            locked = threading.Event()
            failures: list[BaseException] = []

            def wait_for_the_other() -> None:
                try:
                    locked.set()
                    rename(one, "barbara", "one")
                    one.commit()
                except exc.OperationalError as error:
                    failures.append(error)
                    one.rollback()

            thread = threading.Thread(target=wait_for_the_other)
            thread.start()
            locked.wait()
            try:
                rename(other, "ada", "other")
                other.commit()
            except exc.OperationalError as error:
                failures.append(error)
                other.rollback()
            thread.join()
        assert len(failures) == 1
        people.check()
        for session in (one, other):
            rename(session, "ada", "at last")
            session.commit()


@on_sqlite
def test_a_commit_that_the_database_refuses(enforced: sa.Engine, witness_of: Callable[..., Witness]) -> None:
    """A foreign key that is checked at the commit."""
    table = sa.Table(
        "pledge",
        sa.MetaData(),
        sa.Column("id", sa.Integer),
        sa.Column("folder", sa.ForeignKey(Folder.id, deferrable=True, initially="DEFERRED")),
    )
    folders = witness_of(Folder, [Folder(id=1)], ids=(1, 2))
    table.create(enforced)
    with folders.right(), enforced.connect() as connection:
        connection.execute(sa.delete(Folder.__table__).where(Folder.__table__.c.id == 1))
        connection.execute(sa.insert(table).values(id=1, folder=1))
        with pytest.raises(exc.IntegrityError):
            connection.commit()
        folders.look("refused")
        connection.rollback()

    assert 1 in folders.committed()


def lose_the_reply(connection: sa.Connection) -> None:
    """The next COMMIT of this connection is done, and nobody hears of it."""
    driver: Any = connection.connection.driver_connection
    commit = driver.commit

    def commit_and_vanish() -> None:
        commit()
        driver._force_close()
        raise pymysql.err.OperationalError(2013, "Lost connection to MySQL server during query")

    driver.commit = commit_and_vanish


@on_mysql
def test_a_commit_whose_reply_is_lost_leaves_its_tombstones_to_their_ttl(people: Witness) -> None:
    with people.right(), people.sessions() as session:
        rename(session, "ada")
        lose_the_reply(session.connection())
        with pytest.raises(exc.OperationalError, match="Lost connection"):
            session.commit()
        session.rollback()

    assert people.committed()["ada"][1] == "changed"
    assert is_unsure(people, "ada")
    assert not is_unsure(people, "barbara")


@on_mysql
def test_a_statement_that_commits_itself_and_whose_reply_is_lost(people: Witness, automatic: sa.Connection) -> None:
    driver: Any = automatic.connection.driver_connection
    query = driver.query

    def query_and_vanish(sql: bytes, unbuffered: bool = False) -> None:
        query(sql, unbuffered)
        driver._force_close()
        raise pymysql.err.OperationalError(2013, "Lost connection to MySQL server during query")

    driver.query = query_and_vanish
    with people.right(), pytest.raises(exc.OperationalError, match="Lost connection"):
        rename(automatic, "ada")

    assert people.committed()["ada"][1] == "changed"
    assert is_unsure(people, "ada")


@on_mysql
def test_a_connection_killed_before_its_commit(people: Witness) -> None:
    with people.right(), people.sessions() as session:
        rename(session, "ada", "never")
        killed = session.scalar(sa.text("SELECT CONNECTION_ID()"))
        with people.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as other:
            other.exec_driver_sql(f"KILL {killed}")
        with pytest.raises(exc.OperationalError):
            session.commit()
        session.rollback()
        rename(session, "ada", "at last")
        session.commit()

    assert people.committed()["ada"][1] == "at last"
    assert is_unsure(people, "ada")


@on_mysql
def test_a_connection_killed_before_anything_is_announced(people: Witness) -> None:
    with people.invalidates("barbara"), people.sessions() as session:
        rename(session, "ada", "never")
        killed = session.scalar(sa.text("SELECT CONNECTION_ID()"))
        with people.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as other:
            other.exec_driver_sql(f"KILL {killed}")
        with pytest.raises(exc.OperationalError):
            rename(session, "ada", "never")
        session.rollback()
        rename(session, "barbara")
        session.commit()


def test_an_interrupt_in_a_commit_leaves_its_tombstones_to_their_ttl(people: Witness) -> None:
    """Whoever presses Ctrl-C does not know what became of it either."""
    with people.right(), people.sessions() as session:
        rename(session, "ada")
        fairy: Any = session.connection().connection
        commit = fairy.driver_connection.commit

        class Interrupted:
            def __getattr__(self, name: str) -> Any:
                return getattr(fairy.driver_connection, name)

            def commit(self) -> None:
                commit()
                raise KeyboardInterrupt

        fairy.dbapi_connection = Interrupted()
        with pytest.raises(KeyboardInterrupt):
            session.commit()

    assert people.committed()["ada"][1] == "changed"
    assert is_unsure(people, "ada")


@pytest.mark.parametrize("cache_url", ["memcached"], indirect=True)
def test_a_commit_while_the_cache_is_down_is_logged_and_does_not_raise(
    people: Witness, memcached_servers: list[Memcached], caplog: pytest.LogCaptureFixture
) -> None:
    with people.right(), caplog.at_level(logging.WARNING, "person_repo"):
        for server in memcached_servers:
            server.stop()
        with people.sessions() as session, session.begin():
            rename(session, "ada")
        with people.engine.begin() as connection:
            connection.execute(sa.text("UPDATE person SET first_name = 'again'"))
        for server in memcached_servers:
            server.start()

    assert any("tombstones could not be placed" in record.message for record in caplog.records)


@pytest.mark.parametrize("cache_url", ["memcached"], indirect=True)
def test_a_cache_that_goes_down_between_the_tombstones_and_the_commit(
    people: Witness, memcached_servers: list[Memcached]
) -> None:
    with people.right(), people.sessions() as session:
        rename(session, "ada")
        fairy: Any = session.connection().connection
        driver = fairy.driver_connection

        class Slow:
            def __getattr__(self, name: str) -> Any:
                return getattr(driver, name)

            def commit(self) -> None:
                for server in memcached_servers:
                    server.restart()
                driver.commit()

        fairy.dbapi_connection = Slow()
        session.commit()


# What hosts listen for


def test_a_hosts_listener_that_writes_in_the_middle_of_a_statement(
    witness_of: Callable[..., Witness], people_engine: sa.Engine
) -> None:
    """Its own statement's outcome, key and row count, is not that of the one it interrupts."""
    HostBase.metadata.create_all(people_engine, [Note.__table__])
    notes: Any = Note.__table__

    def note(connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if "ticket" in statement and not statement.startswith("SELECT"):
            connection.execute(sa.insert(notes).values(text=statement[:200]))

    for moment in ("before_cursor_execute", "after_cursor_execute"):
        tickets = witness_of(Ticket, [Ticket(title=f"{moment} {number}") for number in range(2)], ids=range(1, 9))
        sa.event.listen(people_engine, moment, note)
        automatic = people_engine.execution_options(isolation_level="AUTOCOMMIT")
        for engine in (people_engine, automatic):
            with tickets.right(), orm.Session(engine) as session:
                session.add(Ticket(title=f"new {moment} {engine is automatic}"))
                session.commit()
            with tickets.right(), engine.begin() as connection:
                connection.execute(sa.update(TICKETS).where(TICKETS.c.title == f"{moment} 1").values(title=f"{moment}"))
                connection.execute(sa.update(TICKETS).where(TICKETS.c.title == moment).values(title=f"{moment} 1"))
        sa.event.remove(people_engine, moment, note)


def test_a_hosts_listener_that_writes_before_a_statement_that_commits_itself(
    people: Witness, automatic: sa.Connection
) -> None:
    """What it commits meanwhile takes away nothing that announces the statement to come."""

    def write(connection: sa.Connection, _cursor: Any, _statement: str, parameters: Any, *_rest: Any) -> None:
        if "ada" in str(parameters):
            rename(connection, "barbara")
            people.look("in the middle")

    sa.event.listen(people.engine, "before_cursor_execute", write)
    with people.invalidates("ada", "barbara"):
        rename(automatic, "ada")


@pytest.mark.parametrize("isolation_level", [None, "AUTOCOMMIT"])
def test_a_hosts_listener_that_fails_after_a_statement_that_did_not(
    witness_of: Callable[..., Witness], isolation_level: str | None
) -> None:
    tickets = witness_of(Ticket, [Ticket(id=1, title="first")], ids=range(1, 5))
    engine = tickets.engine.execution_options(**({"isolation_level": isolation_level} if isolation_level else {}))

    def fail(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if statement.startswith("INSERT"):
            raise ZeroDivisionError

    sa.event.listen(tickets.engine, "after_cursor_execute", fail)
    with tickets.right():
        with engine.connect() as connection:
            with pytest.raises(ZeroDivisionError):
                connection.execute(sa.insert(TICKETS).values(title="second"))
            connection.execute(sa.update(TICKETS).where(TICKETS.c.id == 1).values(title="changed"))
            connection.commit()
        assert not is_unsure(tickets, 2)

    assert 2 in tickets.committed()


@on_sqlite
def test_a_statement_that_fails_by_no_error_of_the_drivers(people: Witness, automatic: sa.Connection) -> None:
    """Its tombstones go with the next statement, or with the connection."""
    too_large = sa.literal(2**70, sa.Integer)
    with people.right():
        with pytest.raises(OverflowError):
            rename(automatic, "ada", too_large)  # type: ignore[arg-type]
        assert is_unsure(people, "ada")
        rename(automatic, "barbara")
        assert not is_unsure(people, "ada")
        with pytest.raises(OverflowError):
            rename(automatic, "ada", too_large)  # type: ignore[arg-type]
        automatic.close()
        assert not is_unsure(people, "ada")


def test_a_hosts_listener_that_writes_the_text_of_a_statement_anew(people: Witness) -> None:
    """What is looked at is what is sent."""

    def rewrite(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> tuple[str, Any]:
        return statement.replace("%TABLE%", "person").replace("SELECT nothing", "DELETE FROM person"), parameters

    sa.event.listen(people.engine, "before_cursor_execute", rewrite, retval=True)
    for statement in ("UPDATE %TABLE% SET first_name = 'changed'", "SELECT nothing"):
        with people.drops(), people.engine.begin() as connection:
            connection.exec_driver_sql(statement)

    assert people.committed() == {}


@pytest.mark.parametrize("isolation_level", [None, "AUTOCOMMIT"])
def test_a_host_that_sends_statements_itself(
    people: Witness, isolation_level: str | None, subtests: pytest.Subtests
) -> None:
    """By the events that take the place of the dialect's functions, from the middle of a transaction on."""
    sent: list[str] = []

    def send(cursor: Any, statement: str, parameters: Any, _context: Any) -> bool:
        sent.append(statement)
        cursor.execute(statement, parameters)
        return True

    def send_bare(cursor: Any, statement: str, _context: Any) -> bool:
        return send(cursor, statement, (), None)

    def send_each(cursor: Any, statement: str, parameters: Any, _context: Any) -> bool:
        sent.append(statement)
        cursor.executemany(statement, parameters)
        return True

    engine = people.engine.execution_options(**({"isolation_level": isolation_level} if isolation_level else {}))
    which = sa.update(TABLE).where(TABLE.c.id == sa.bindparam("which")).values(first_name="changed")
    ways: dict[str, tuple[Any, Callable[[sa.Connection], Any]]] = {
        "do_execute": (send, lambda connection: rename(connection, "ada")),
        "do_executemany": (send_each, lambda connection: connection.execute(which, [{"which": "ada"}] * 2)),
        "do_execute_no_params": (
            send_bare,
            lambda connection: connection.exec_driver_sql(
                "UPDATE person SET first_name = 'changed'", execution_options={"no_parameters": True}
            ),
        ),
    }
    for name, (handler, write) in ways.items():
        begin_again(people)
        expected = people.drops() if write is ways["do_execute_no_params"][1] else people.invalidates("ada")
        with subtests.test(name), engine.connect() as connection:
            connection.execute(sa.select(1))
            sent.clear()
            with expected:
                sa.event.listen(people.engine, name, handler)
                write(connection)
                sa.event.remove(people.engine, name, handler)
                connection.commit()
            assert [statement for statement in sent if statement.startswith("UPDATE")]


# Two phases


@on_mysql
@pytest.mark.parametrize("end", ["commit", "rollback", "close"])
@pytest.mark.parametrize("prepared", [True, False])
def test_a_transaction_in_two_phases(people: Witness, end: str, prepared: bool) -> None:
    with people.right(), people.engine.connect() as connection:
        transaction = connection.begin_twophase()
        rename(connection, "ada")
        if prepared:
            transaction.prepare()
            people.look("prepared")
            assert is_unsure(people, "ada")
        getattr(transaction, end)()


@on_mysql
def test_a_session_in_two_phases_drops_what_it_changed(people: Witness) -> None:
    with people.invalidates("ada"), orm.Session(people.engine, twophase=True) as session:
        session.get_one(Person, "ada").first_name = "changed"
        session.commit()


@on_mysql
def test_two_phases_that_change_nothing_cost_nothing(people: Witness) -> None:
    people.warm()
    with people.costs(0), orm.Session(people.engine, twophase=True) as session:
        session.add(Note(id=1, text="first"))
        session.commit()


@on_mysql
@pytest.mark.parametrize("recover", [True, False])
@pytest.mark.parametrize("end", ["commit_prepared", "rollback_prepared", "text"])
def test_a_prepared_transaction_that_another_process_ends(
    people: Witness, automatic: sa.Connection, end: str, recover: bool
) -> None:
    """Nobody there knows what it changed. MariaDB wants no transaction to be open there."""
    elsewhere = sa.create_engine(people.engine.url)
    with people.right():
        with elsewhere.connect() as gone:
            transaction = gone.begin_twophase()
            rename(gone, "ada")
            transaction.prepare()
            gone.invalidate()
        elsewhere.dispose()
        people.look("prepared")
        if end == "text":
            automatic.exec_driver_sql(f"XA COMMIT '{transaction.xid}'")
        else:
            getattr(automatic, end)(transaction.xid, recover=recover)

    assert people.committed()["ada"][1] == ("first" if end == "rollback_prepared" else "changed")


@on_mysql
def test_a_prepared_transaction_that_this_process_recovers_drops_what_it_changed(
    people: Witness, automatic: sa.Connection
) -> None:
    with people.invalidates("ada"):
        with people.engine.connect() as gone:
            transaction = gone.begin_twophase()
            rename(gone, "ada")
            transaction.prepare()
            gone.invalidate()
        (xid,) = (xid for xid in automatic.recover_twophase() if xid.decode() == transaction.xid)
        automatic.commit_prepared(xid, recover=True)

    assert people.committed()["ada"][1] == "changed"


@on_mysql
@pytest.mark.parametrize("end", ["XA COMMIT", "XA ROLLBACK"])
def test_two_phases_made_of_text(people: Witness, automatic: sa.Connection, end: str) -> None:
    with people.right():
        automatic.exec_driver_sql("XA START 'host'")
        rename(automatic, "ada")
        automatic.exec_driver_sql("XA END 'host'")
        automatic.exec_driver_sql("XA PREPARE 'host'")
        automatic.exec_driver_sql(f"{end} 'host'")
        rename(automatic, "barbara")
