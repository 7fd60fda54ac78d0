"""Writes through views, by every way, on every database: what is under a view changes, and what is over it."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from support.databases import with_identity
from support.hosts import on_mysql_and_mariadb, on_postgresql, on_sqlite
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


ASKS = re.compile(r"information_schema\.VIEWS\s+WHERE TABLE_SCHEMA NOT|type = 'view'|SELECT DISTINCT relname")
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
@pytest.mark.parametrize(
    ("name", "bare"),
    [
        ("passing", "passing"),
        ('"my view"', "my view"),
        ("[my view]", "my view"),
        ("`a``b`", "a`b"),
        ('/* now */ temp . "a""b"', 'a"b'),
    ],
)
def test_a_temporary_view_is_known_from_its_definition(items: Witness, name: str, bare: str) -> None:
    with items.drops(), items.engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE TEMP VIEW {name} AS SELECT id, kind FROM item")
        trigger = UPDATES.format("passing", "UPDATE", name, "UPDATE item SET kind = NEW.kind WHERE id = OLD.id")
        connection.exec_driver_sql(trigger.replace("CREATE", "CREATE TEMP").replace("ON /* now */ temp .", "ON"))
        connection.exec_driver_sql(f"UPDATE {name} SET kind = 'new'")
    for kind in ("newer", "newest"):
        with items.drops(), items.engine.begin() as connection:
            connection.exec_driver_sql(f"UPDATE {name} SET kind = '{kind}'")
        with items.drops(), items.engine.begin() as connection:
            connection.execute(sa.update(sa.table(bare, sa.column("kind"))).values(kind=f"{kind} by core"))


@pytest.mark.parametrize("name", ["Ärzte", "İx", 'a"b', "a`b", "my view", "item$", f"long{'g' * 70}"])
def test_views_of_any_name_are_known(items: Witness, name: str) -> None:
    """The lower case of a database need not be Python's, and PostgreSQL cuts names."""
    dialect = items.engine.dialect
    if dialect.name == "mysql" and len(name) > 64:
        pytest.skip("refuses the name")
    quoted = dialect.identifier_preparer.quote_identifier(name)
    with beside(items.engine).begin() as connection:
        connection.exec_driver_sql(f"CREATE VIEW {quoted} AS SELECT id, kind FROM item")
        if dialect.name == "sqlite":
            action = "UPDATE item SET kind = NEW.kind WHERE id = OLD.id"
            connection.exec_driver_sql(UPDATES.format("odd", "UPDATE", quoted, action))
    view = sa.table(name, sa.column("kind"))
    with items.drops(), items.engine.begin() as connection:
        connection.execute(sa.update(view).values(kind="by core"))
    with items.drops(), items.engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE {quoted} SET kind = 'by text'")


class Mapped(Shop):
    """Covered as a table, and a view in the database."""

    __tablename__ = "view_of_view"

    id: orm.Mapped[str] = orm.mapped_column(ExactString(20), primary_key=True)
    kind: orm.Mapped[str] = orm.mapped_column(sa.String(20))


def test_a_covered_class_may_be_mapped_to_a_view(items: Witness, cache_url: str) -> None:
    table: Any = Mapped.__table__
    with Service.over(Mapped, items.engine, cache_url):
        for write in (
            sa.update(table).where(table.c.id == "a").values(kind="by key"),
            sa.update(table).where(table.c.kind != "x").values(kind="by kind"),
            sa.insert(table).values(id="d", kind="new"),
        ):
            for _ in range(3):  # From the second time on it is known by its form.
                with items.right(), items.engine.begin() as connection:
                    connection.execute(write)
                    connection.execute(sa.delete(Item.__table__).where(Item.id == "d"))


@on_postgresql
def test_a_covered_table_may_be_a_view_in_the_schema_of_a_tenant(items: Witness, cache_url: str) -> None:
    table: Any = Mapped.__table__
    with beside(items.engine).begin() as connection:
        connection.exec_driver_sql("DROP VIEW view_of_view")
        connection.exec_driver_sql("CREATE SCHEMA tenant")
        connection.exec_driver_sql("CREATE VIEW tenant.view_of_view AS SELECT id, kind FROM public.item")
        table.create(connection)
    tenant = items.engine.execution_options(schema_translate_map={None: "tenant"})
    with Service.over(Mapped, items.engine, cache_url):
        for kind in ("one", "two", "three"):
            with items.right(), tenant.begin() as connection:
                connection.execute(sa.update(table).where(table.c.id == "a").values(kind=kind))
    assert items.committed()["a"] == ("a", "three")


@on_sqlite
def test_a_view_of_a_file_that_is_attached_drops_every_class(items: Witness, tmp_path: Path) -> None:
    elsewhere = sa.create_engine(f"sqlite:///{tmp_path / 'elsewhere.db'}")
    items.service.cover(elsewhere)
    there = sa.table("item_view", sa.column("kind"), schema="there")
    notes = sa.table("note", sa.column("kind"))
    with elsewhere.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE note (kind TEXT)")
        for _ in range(3):
            connection.execute(sa.update(notes).values(kind="x"))
    with elsewhere.connect() as connection:
        connection.exec_driver_sql("ATTACH ? AS there", (items.engine.url.database,))
        connection.commit()
        for write in (
            lambda: connection.execute(sa.update(there).values(kind="by core")),
            lambda: connection.exec_driver_sql("UPDATE item_view SET kind = 'by text'"),
        ):
            with items.right():
                items.warm()
                write()
                connection.commit()
    elsewhere.dispose()


# What else shows rows of other tables


@on_mysql_and_mariadb
def test_a_view_that_the_account_may_not_see_under_another_drops_every_class(items: Witness) -> None:
    engine = items.engine
    account, database = f"clerk_{uuid.uuid4().hex[:8]}", engine.url.database
    with beside(engine).begin() as connection:
        connection.exec_driver_sql(f"CREATE USER {account} IDENTIFIED BY 'secret'")
        connection.exec_driver_sql(f"GRANT SELECT, UPDATE, SHOW VIEW ON {database}.view_of_view TO {account}")
        for table in ("person_repo_identity", "person_repo_fence"):
            connection.exec_driver_sql(f"GRANT SELECT ON {database}.{table} TO {account}")
    clerk = sa.create_engine(engine.url.set(username=account, password="secret"))
    items.service.cover(clerk)
    try:
        over = sa.table("view_of_view", sa.column("kind"))
        for kind in ("one", "two", "three"):
            with items.right(), clerk.begin() as connection:
                connection.execute(sa.update(over).values(kind=kind))
        with items.right(), clerk.begin() as connection:
            connection.exec_driver_sql("UPDATE view_of_view SET kind = 'four'")
        assert items.committed()["a"] == ("a", "four")
    finally:
        clerk.dispose()
        with beside(engine).begin() as connection:
            connection.exec_driver_sql(f"DROP USER {account}")


@on_mysql_and_mariadb
def test_a_table_that_keeps_its_rows_in_others_drops_every_class(items: Witness) -> None:
    with beside(items.engine).begin() as connection:
        connection.exec_driver_sql("DROP VIEW view_of_view, item_view")
        connection.exec_driver_sql("ALTER TABLE item ENGINE = MyISAM")
        connection.exec_driver_sql("CREATE TABLE merged LIKE item")
        connection.exec_driver_sql("ALTER TABLE merged ENGINE = MERGE UNION = (item) INSERT_METHOD = LAST")
    merged = sa.table("merged", sa.column("kind"))
    for kind in ("one", "two"):
        with items.right(), items.engine.begin() as connection:
            connection.execute(sa.update(merged).values(kind=kind))


@on_postgresql
def test_tables_that_inherit_show_each_others_rows(items: Witness, witness_of: Callable[..., Witness]) -> None:
    """Partitions, too. Tables that only have a parent in common do not."""

    class Base(orm.DeclarativeBase):
        pass

    class Parent(Base):
        __tablename__ = "parent"
        id: orm.Mapped[int] = orm.mapped_column(primary_key=True, autoincrement=False)
        note: orm.Mapped[str] = orm.mapped_column(sa.String(20), default="old")

    parent: Any = Parent.__table__
    with beside(items.engine).begin() as connection:
        parent.create(connection)
        connection.exec_driver_sql("CREATE TABLE child (PRIMARY KEY (id)) INHERITS (parent)")
        connection.exec_driver_sql("CREATE TABLE sibling (kind TEXT) INHERITS (parent)")
        connection.exec_driver_sql("ALTER TABLE item ADD COLUMN note VARCHAR(20) NOT NULL DEFAULT ''")
        connection.exec_driver_sql("CREATE TABLE noted (note VARCHAR(20) NOT NULL)")
        connection.exec_driver_sql("ALTER TABLE item INHERIT noted")
        connection.exec_driver_sql("INSERT INTO child (id, note) VALUES (1, 'old')")
    parents = witness_of(Parent, [], ids=[1], tables=[])
    for name in ("child", "parent"):
        table = sa.table(name, sa.column("id"), sa.column("note"))
        for note in ("one", "two"):
            with parents.right(), parents.engine.begin() as connection:
                connection.execute(sa.update(table).values(note=note))
            with parents.right(), parents.engine.begin() as connection:
                connection.exec_driver_sql(f"UPDATE {name} SET note = '{note} by text'")
    items.warm()
    for _ in range(3):
        with items.right(), items.engine.begin() as connection:
            connection.execute(sa.update(sa.table("noted", sa.column("note"))).values(note="x"))
    for kind in ("three", "four", "five"):
        with items.invalidates("a"), items.engine.begin() as connection:
            connection.execute(sa.update(Item.__table__).where(Item.id == "a").values(kind=kind))


@on_postgresql
def test_a_foreign_table_shows_the_table_that_its_options_name(items: Witness) -> None:
    url = items.engine.url
    with beside(items.engine).begin() as connection:
        if not connection.scalar(sa.text("SELECT 1 FROM pg_available_extensions WHERE name = 'postgres_fdw'")):
            pytest.skip("the server has no postgres_fdw")
        connection.exec_driver_sql("CREATE EXTENSION postgres_fdw")
        here = f"host '{url.host}', port '{url.port}', dbname '{url.database}'"
        connection.exec_driver_sql(f"CREATE SERVER here FOREIGN DATA WRAPPER postgres_fdw OPTIONS ({here})")
        mapping = f"CREATE USER MAPPING FOR CURRENT_USER SERVER here OPTIONS (user '{url.username}')"
        connection.exec_driver_sql(mapping)
        connection.exec_driver_sql(
            "CREATE FOREIGN TABLE far (id VARCHAR(20), kind VARCHAR(20)) SERVER here OPTIONS (table_name 'item')"
        )
    far = sa.table("far", sa.column("kind"))
    for kind in ("one", "two"):
        with items.drops(), items.engine.begin() as connection:
            connection.execute(sa.update(far).values(kind=kind))
    assert items.committed()["a"] == ("a", "two")


@on_postgresql
def test_a_table_with_a_rule_drops_every_class(items: Witness) -> None:
    with beside(items.engine).begin() as connection:
        connection.exec_driver_sql("CREATE TABLE note (kind TEXT)")
        connection.exec_driver_sql("INSERT INTO note VALUES ('old')")
        connection.exec_driver_sql("CREATE RULE too AS ON UPDATE TO note DO ALSO UPDATE item SET kind = NEW.kind")
    notes = sa.table("note", sa.column("kind"))
    for kind in ("one", "two", "three"):
        with items.right(), items.engine.begin() as connection:
            connection.execute(sa.update(notes).values(kind=kind))
    assert items.committed()["a"] == ("a", "three")


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


@contextmanager
def silent_catalog(items: Witness) -> Iterator[None]:
    """The views cannot be asked for in this block."""

    def fail(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if ASKS.search(statement):
            raise sa.exc.OperationalError(statement, {}, Exception("no answer"))

    sa.event.listen(items.service.read_engine, "before_cursor_execute", fail)
    yield
    sa.event.remove(items.service.read_engine, "before_cursor_execute", fail)


def test_a_failing_catalog_drops_every_class_until_it_answers(
    items: Witness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(views, "_PAUSE", 0.0)
    notes = sa.Table("note", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True))
    notes.create(beside(items.engine))
    with silent_catalog(items):
        for number in (1, 2, 3):  # From the second time on it could be known by its form.
            with items.drops(), items.engine.begin() as connection:
                connection.execute(sa.insert(notes).values(id=number))
    assert "the views cannot be asked for" in caplog.text
    items.warm()
    for number in (4, 5, 6):
        with items.costs(0), items.engine.begin() as connection:
            connection.execute(sa.insert(notes).values(id=number))
    items.check()


def test_a_declared_view_over_one_that_nobody_can_look_under_drops_every_class(items: Witness) -> None:
    declared = sa.Table(
        "view_of_view", sa.MetaData(), sa.Column("kind", sa.String(20)), info={"person_repo": {"view_of": "item_view"}}
    )
    with silent_catalog(items), items.drops(), items.engine.begin() as connection:
        connection.execute(sa.update(declared).values(kind="new"))
    assert items.committed()["a"] == ("a", "new")


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
    if not covers_table:
        engine.dispose()


@pytest.mark.parametrize("info", [{"view_of": 7}, {"view_of": []}, {"views": "item"}, "item"])
def test_a_declaration_that_names_no_table_is_refused(people_engine: sa.Engine, cache_url: str, info: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"item_view has .* for person_repo; a view names the tables"):
        Service.over(declared_view(person_repo=info), people_engine, cache_url)
