"""Writes through views, by every way, on every database: what is under a view changes, and what is over it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from support.databases import with_identity
from support.hosts import on_postgresql, on_sqlite
from support.ways import Witness

from person_repo import ConfigurationError, Service
from person_repo.model import ExactString
from person_repo.writing import views

pytestmark = pytest.mark.every_database


class Shop(orm.DeclarativeBase):
    """The base of the models below."""


class Item(Shop):
    """A table with views over it."""

    __tablename__ = "item"

    id: orm.Mapped[str] = orm.mapped_column(ExactString(20), primary_key=True)
    kind: orm.Mapped[str] = orm.mapped_column(sa.String(20), default="old")


class Elsewhere(orm.DeclarativeBase):
    """Of metadata that knows nothing of the table."""


class View(Elsewhere):
    """Mapped to a view, as if it were a table."""

    __tablename__ = "item_view"

    id: orm.Mapped[str] = orm.mapped_column(ExactString(20), primary_key=True)
    kind: orm.Mapped[str] = orm.mapped_column(sa.String(20))


VIEW: Any = View.__table__
CORE = sa.table("item_view", sa.column("id"), sa.column("kind"))

UPDATES = "CREATE TRIGGER item_{0} INSTEAD OF {1} ON {2} BEGIN {3}; END"


def make_view(connection: sa.Connection, name: str = "item_view", over: str = "item") -> None:
    """A view that may be written; on SQLite by triggers."""
    connection.exec_driver_sql(f"CREATE VIEW {name} AS SELECT id, kind FROM {over}")
    if connection.dialect.name == "sqlite":
        new = f"INSERT INTO {over} (id, kind) VALUES (NEW.id, NEW.kind)"
        for event, action in (
            ("INSERT", new),
            ("UPDATE", f"UPDATE {over} SET kind = NEW.kind, id = NEW.id WHERE id = OLD.id"),
            ("DELETE", f"DELETE FROM {over} WHERE id = OLD.id"),
        ):
            connection.exec_driver_sql(UPDATES.format(f"{name}_{event}", event, name, action))


def beside(engine: sa.Engine) -> sa.Engine:
    """An engine that nobody covers."""
    return sa.create_engine(engine.url, poolclass=sa.NullPool)


@pytest.fixture
def items(people_engine: sa.Engine, witness_of: Callable[..., Witness]) -> Witness:
    with_identity(people_engine)
    Shop.metadata.create_all(people_engine, [Item.__table__])  # type: ignore[list-item]
    with beside(people_engine).begin() as connection:
        make_view(connection)
        make_view(connection, "view_of_view", "item_view")
    return witness_of(Item, [Item(id="a"), Item(id="b")], ids="abcd")


def by_orm(session: orm.Session) -> None:
    session.add(View(id="c", kind="new"))
    if session.get_bind().dialect.name != "sqlite":  # which counts no rows of a view
        session.get_one(View, "a").kind = "new"
        session.delete(session.get_one(View, "b"))


def by_orm_statements(session: orm.Session) -> None:
    session.execute(sa.update(View).where(View.id == "a").values(kind="new"))
    session.execute(sa.insert(View), [{"id": "c", "kind": "new"}])
    session.execute(sa.delete(View).where(View.kind == "old"))


def by_core(session: orm.Session) -> None:
    connection = session.connection()
    for id in ("a", "b"):
        connection.execute(sa.update(CORE).where(CORE.c.id == id).values(kind=f"new {id}"))
    connection.execute(sa.insert(CORE).values(id="c", kind="new"))
    connection.execute(sa.delete(CORE).where(CORE.c.id == "b"))


def by_text(session: orm.Session) -> None:
    session.execute(sa.text("UPDATE item_view SET kind = 'new' WHERE id = 'a'"))
    session.execute(sa.text("insert into item_view (id, kind) values ('c', 'new')"))
    session.execute(sa.text("DELETE FROM item_view WHERE id = 'b'"))


def by_text_over_a_view(session: orm.Session) -> None:
    session.connection().exec_driver_sql("UPDATE view_of_view SET kind = 'new' WHERE id = 'a'")


def by_core_over_a_view(session: orm.Session) -> None:
    over = sa.table("view_of_view", sa.column("id"), sa.column("kind"))
    session.execute(sa.update(over).values(kind="new"))


WAYS = (by_orm, by_orm_statements, by_core, by_text, by_text_over_a_view, by_core_over_a_view)


@pytest.mark.parametrize("write", WAYS)
def test_a_write_through_a_view_drops_the_class_of_its_table(
    items: Witness, write: Callable[[orm.Session], None]
) -> None:
    """Nobody has said that it is a view."""
    with items.drops(), items.sessions() as session, session.begin():
        write(session)
    assert {kind for _, kind in items.committed().values()} != {"old"}
    with items.right(), items.sessions() as session, session.begin():
        session.execute(sa.delete(CORE))
    assert items.committed() == {}


ASKS = re.compile(r"information_schema\.VIEWS\s+WHERE TABLE_SCHEMA NOT|type = 'view'|relkind = 'v' AND nspname")
"""The question for the names of views."""


def test_the_catalog_is_asked_once(items: Witness) -> None:
    asked: list[str] = []

    def listen(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        asked.extend(ASKS.findall(statement))

    sa.event.listen(items.service.read_engine, "before_cursor_execute", listen)
    notes = sa.Table("note", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True))
    notes.create(beside(items.engine))
    with items.blind():
        for kind in ("one", "two"):
            with items.sessions() as session, session.begin():
                session.get_one(Item, "a").kind = kind
        assert not asked, "a covered table is no view"
        for number in range(3):
            with items.engine.begin() as connection:
                connection.execute(sa.insert(notes).values(id=number))
                connection.execute(sa.delete(notes))
                connection.exec_driver_sql("DELETE FROM note")
                sa.Table(f"note{number}", sa.MetaData(), sa.Column("id", sa.Integer)).create(connection)
    assert len(asked) == 1


def test_a_view_that_is_defined_on_the_covered_engine_counts_from_then_on(items: Witness) -> None:
    late = sa.table("late_view", sa.column("id"), sa.column("kind"))
    with items.engine.begin() as connection:
        Shop.metadata.create_all(connection)
        connection.execute(sa.delete(CORE).where(CORE.c.id == "z"))
    with items.right(), items.engine.begin() as connection:
        make_view(connection, "late_view", "view_of_view")
        connection.execute(sa.update(late).where(late.c.id == "a").values(kind="in its transaction"))
    with items.drops(), items.engine.begin() as connection:
        connection.execute(sa.update(late).where(late.c.id == "a").values(kind="later"))
    with items.engine.begin() as connection:
        connection.exec_driver_sql("DROP VIEW late_view")
        late_table = sa.Table("late_view", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True))
        late_table.create(connection)


@on_sqlite
def test_a_temporary_view_is_known_from_its_definition(items: Witness) -> None:
    with items.drops(), items.engine.begin() as connection:
        connection.exec_driver_sql("CREATE TEMP VIEW passing AS SELECT id, kind FROM item")
        trigger = UPDATES.format("passing", "UPDATE", "passing", "UPDATE item SET kind = NEW.kind WHERE id = OLD.id")
        connection.exec_driver_sql(trigger.replace("CREATE", "CREATE TEMP"))
        connection.exec_driver_sql("UPDATE passing SET kind = 'new'")


@on_postgresql
def test_a_view_with_a_trigger_drops_every_class(items: Witness) -> None:
    with beside(items.engine).begin() as connection:
        connection.exec_driver_sql("CREATE VIEW opaque AS SELECT 'a' AS id, 'x' AS kind")
        connection.exec_driver_sql(
            "CREATE FUNCTION through() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN UPDATE item SET kind = NEW.kind; RETURN NEW; END $$"
        )
        connection.exec_driver_sql(
            "CREATE TRIGGER through INSTEAD OF UPDATE ON opaque FOR EACH ROW EXECUTE FUNCTION through()"
        )
    with items.drops(), items.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE opaque SET kind = 'new'")
    assert items.committed()["a"] == ("a", "new")


def test_a_failing_catalog_drops_every_class_until_it_answers(
    items: Witness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(views, "_PAUSE", 0.0)
    notes = sa.Table("note", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True))
    notes.create(beside(items.engine))
    fails = True

    def fail(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if fails and ASKS.search(statement):
            raise sa.exc.OperationalError(statement, {}, Exception("no answer"))

    sa.event.listen(items.service.read_engine, "before_cursor_execute", fail)
    for number in (1, 2, 3):  # From the second time on it could be known by its form.
        with items.drops(), items.engine.begin() as connection:
            connection.execute(sa.insert(notes).values(id=number))
    assert "the views cannot be asked for" in caplog.text
    fails = False
    items.warm()
    for number in (4, 5, 6):
        with items.costs(0), items.engine.begin() as connection:
            connection.execute(sa.insert(notes).values(id=number))
    items.check()


# Services over views


def declared_view(**info: Any) -> type[Any]:
    class Base(orm.DeclarativeBase):
        pass

    class Seen(Base):
        __table__ = sa.Table(
            "item_view",
            Base.metadata,
            sa.Column("id", ExactString(20), primary_key=True),
            sa.Column("kind", sa.String(20)),
            info=info,
        )

    return Seen


def test_a_service_over_a_view_is_refused_at_its_first_read(items: Witness, cache_url: str) -> None:
    with Service.over(View, items.engine, cache_url) as service:
        for read in (lambda: service.get("a"), lambda: service.get_many(["a"]), lambda: service.exists("a")):
            with pytest.raises(ConfigurationError, match=r"View is mapped to item_view, which is a view.*view_of"):
                read()
        assert [view.id for view in service.find(kind="old")] == ["a", "b"]
        service.use_db = True
        assert service.get_one("a").kind == "old"


@pytest.mark.proof(name="ways", sample=1 / 5)
@pytest.mark.parametrize("base", ["item", "here.item", Item.__table__, ["other", Item.__table__]])
@pytest.mark.parametrize("covers_table", [True, False])
def test_a_declared_view_is_cached_and_follows_its_tables(
    items: Witness, cache_url: str, base: Any, covers_table: bool
) -> None:
    Seen = declared_view(person_repo={"view_of": base})
    engine = items.engine if covers_table else sa.create_engine(items.engine.url)
    service = Service.over(Seen, engine, cache_url)

    def check(kind: str | None) -> None:
        found = service.get("a")
        assert (None if found is None else found.kind) == kind
        hits = service.stats().hits
        service.get("a")
        assert service.stats().hits == hits + 1

    check("old")
    for write, kind in (
        (lambda session: session.execute(sa.update(Item).where(Item.id == "a").values(kind="one")), "one"),
        (lambda session: setattr(session.get_one(Item, "a"), "kind", "two"), "two"),
        (lambda session: session.execute(sa.update(Seen).where(Seen.id == "a").values(kind="three")), "three"),
        (lambda session: session.execute(sa.update(CORE).values(kind="four")), "four"),
        (lambda session: session.execute(sa.text("UPDATE item SET kind = 'five'")), "five"),
        (lambda session: session.execute(sa.text("UPDATE item_view SET kind = 'six'")), "six"),
        (lambda session: session.execute(sa.delete(Item)), None),
        (lambda session: session.add(Seen(id="a", kind="seven")), "seven"),
        (lambda session: session.execute(sa.delete(Seen).where(Seen.id == "a")), None),
        (lambda session: session.execute(sa.insert(Item), [{"id": "a", "kind": "eight"}]), "eight"),
    ):
        for _ in range(2):
            check(getattr(service.database.get("a"), "kind", None))
        with orm.Session(engine) as session, session.begin():
            write(session)
        check(kind)
    if covers_table:
        service.add(Seen(id="d", kind="nine"))
        assert items.service.get_one("d").kind == "nine"
        service.database.add_rows(["id", "kind"], [[("c", "ten")]])
        assert items.service.get_one("c").kind == "ten"
        items.check()
    service.close()


@pytest.mark.parametrize("info", [{"view_of": 7}, {"view_of": []}, {"views": "item"}, "item"])
def test_a_declaration_that_names_no_table_is_refused(people_engine: sa.Engine, cache_url: str, info: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"item_view has .* for person_repo; a view names the tables"):
        Service.over(declared_view(person_repo=info), people_engine, cache_url)
