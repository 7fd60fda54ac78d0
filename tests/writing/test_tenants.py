"""Tenants: one class in several schemas by ``schema_translate_map``, over one cache. Nobody is handed another's row,
and whoever writes drops the entries of the schema that was written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa
from sqlalchemy import event, orm
from support.databases import make_tables
from support.partitions import cut_off
from support.servers import Memcached
from support.urls import patient_url

import person_repo
from person_repo import ExactString, Service, make_region
from person_repo.model import FENCE, IDENTITY

ONE, OTHER = "tenant_one", "tenant_other"


class Host(orm.DeclarativeBase):
    pass


class Order(Host):
    __tablename__ = "tenant_order"
    id: orm.Mapped[str] = orm.mapped_column(ExactString(40), primary_key=True)
    name: orm.Mapped[str] = orm.mapped_column(ExactString(40))


Translation = Mapping[str | None, str | None]


class Town(NamedTuple):
    """Two tenants in one database. ``plain``: a new engine, as another process has one, that translates nothing.
    ``to``: the name of a tenant's schema.
    """

    plain: Callable[[], sa.Engine]
    to: Mapping[str, str]

    def translation(self, tenant: str) -> Translation:
        return {None: self.to[tenant]}

    def engine(self, tenant: str, plain: sa.Engine | None = None) -> sa.Engine:
        return (plain or self.plain()).execution_options(schema_translate_map=self.translation(tenant))


@pytest.fixture
def town(database_url: str, tmp_path: Path) -> Iterator[Town]:
    make_tables(database_url)
    url = sa.make_url(database_url)
    with ExitStack() as ends:

        def plain() -> sa.Engine:
            engine = sa.create_engine(url)
            ends.callback(engine.dispose)
            if url.get_backend_name() == "sqlite":
                event.listen(engine, "connect", attach)
            return engine

        def attach(driver: Any, _: object) -> None:
            for tenant in (ONE, OTHER):
                driver.execute(f"ATTACH '{tmp_path / tenant}.db' AS {tenant}")

        is_mysql = url.get_backend_name() in ("mysql", "mariadb")
        to = {tenant: f"{url.database}_{tenant}" if is_mysql else tenant for tenant in (ONE, OTHER)}
        town = Town(plain, to)
        with plain().connect() as connection:
            for schema in to.values() if url.get_backend_name() != "sqlite" else ():
                word = "DATABASE" if is_mysql else "SCHEMA"
                connection.exec_driver_sql(f"CREATE {word} {schema}")
            connection.commit()
        for tenant in (ONE, OTHER):
            engine = town.engine(tenant)
            Host.metadata.create_all(engine)
            if url.get_backend_name() != "postgresql":  # A file that is attached, or a schema, is a database.
                IDENTITY.create(engine)
            with orm.Session(engine) as session:
                session.add_all(Order(id=id, name=f"{id} of {tenant}") for id in "ab")
                session.commit()
        yield town
        with plain().connect() as connection:
            for schema in to.values() if is_mysql else ():
                connection.exec_driver_sql(f"DROP DATABASE {schema}")


class Shops(NamedTuple):
    """A service for each tenant of one process."""

    one: Service[Order]
    other: Service[Order]

    def seen(self, id: str) -> list[str | None]:
        """What a cached read finds, and a read of several, at each tenant's."""
        found = []
        for shop in self:
            each = [shop.get(id), shop.get_many([id]).get(id)]
            names = {None if order is None else order.name for order in each}
            assert len(names) == 1
            found.append(names.pop())
        return found

    def warm(self, id: str) -> None:
        for _ in range(2):
            self.seen(id)

    def hits(self, id: str) -> list[int]:
        """For each tenant, 1 if one read is a hit."""
        before = [shop.stats().hits for shop in self]
        for shop in self:
            shop.get(id)
        return [shop.stats().hits - hits for shop, hits in zip(self, before, strict=True)]


Process = Callable[[], Shops]


@pytest.fixture
def process(town: Town, memcached_servers: list[Memcached]) -> Iterator[Process]:
    """``process()``: the services of one more process, with engines and connections of its own."""
    with ExitStack() as ends:

        def make() -> Shops:
            region, plain = make_region(patient_url(memcached_servers, fence_interval=0.001)), town.plain()
            return Shops(
                *[ends.enter_context(Service.over(Order, town.engine(at, plain), region)) for at in (ONE, OTHER)]
            )

        yield make


@pytest.mark.every_database
def test_tenants_are_handed_their_own_rows(process: Process) -> None:
    here, there = process(), process()
    for _ in range(2):
        for shops in (here, there):
            assert shops.seen("a") == [f"a of {ONE}", f"a of {OTHER}"]
            assert shops.seen("nobody") == [None, None]
    assert here.hits("a") == there.hits("a") == here.hits("nobody") == [1, 1]


def by_engine_of_the_service(_: Town, shops: Shops) -> None:
    shops.one.update("a", name="new")


def by_connection_of_a_session(town: Town, shops: Shops) -> None:
    with orm.Session(shops.one.engine) as session:
        session.connection(execution_options={"schema_translate_map": town.translation(ONE)})
        session.get_one(Order, "a").name = "new"
        session.commit()


def by_plain_connection(town: Town, shops: Shops) -> None:
    with plain_of(shops).connect() as connection:
        translated = connection.execution_options(schema_translate_map=town.translation(ONE))
        translated.execute(sa.update(Order).where(Order.id == "a").values(name="new"))
        translated.commit()


def by_option_of_an_orm_statement(town: Town, shops: Shops) -> None:
    with orm.Session(plain_of(shops)) as session:
        options = {"schema_translate_map": town.translation(ONE), "synchronize_session": False}
        session.execute(sa.update(Order).where(Order.id == "a").values(name="new"), execution_options=options)
        session.commit()


def by_statement(town: Town, shops: Shops) -> None:
    statement = sa.update(Order.__table__).where(Order.id == "a").values(name="new")  # type: ignore[arg-type]
    with plain_of(shops).begin() as connection:
        connection.execute(statement, execution_options={"schema_translate_map": town.translation(ONE)})


def by_statement_with_parameters(town: Town, shops: Shops) -> None:
    statement = sa.update(Order.__table__).where(Order.id == sa.bindparam("which"))  # type: ignore[arg-type]
    for _ in range(3):  # compiled, examined, and then by its form
        with plain_of(shops).begin() as connection:
            options = {"schema_translate_map": town.translation(ONE)}
            connection.execute(statement, [{"which": "a", "name": "new"}], execution_options=options)


def by_another_column(town: Town, shops: Shops) -> None:
    """The statement returns its keys, on databases that can."""
    statement = sa.update(Order).where(Order.name.like("a of%")).values(name="new")
    with plain_of(shops).begin() as connection:
        connection.execute(statement, execution_options={"schema_translate_map": town.translation(ONE)})


def by_autocommit(town: Town, shops: Shops) -> None:
    engine = town.engine(ONE, plain_of(shops)).execution_options(isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.update(Order).where(Order.id == "a").values(name="new"))


KEYED = [
    by_engine_of_the_service, by_connection_of_a_session, by_plain_connection, by_option_of_an_orm_statement,
    by_statement, by_statement_with_parameters, by_another_column, by_autocommit,
]  # fmt: skip


def by_text(town: Town, shops: Shops) -> None:
    with plain_of(shops).begin() as connection:
        connection.execute(sa.text(f"UPDATE {town.to[ONE]}.tenant_order SET name = 'new' WHERE id = 'a'"))


def by_quoted_text(town: Town, shops: Shops) -> None:
    quote = plain_of(shops).dialect.identifier_preparer.quote_identifier
    with plain_of(shops).begin() as connection:
        table = f"{quote(town.to[ONE])} . {quote('tenant_order')}"
        connection.exec_driver_sql(f"UPDATE {table} SET name = 'new' WHERE id = 'a'")


def plain_of(shops: Shops) -> sa.Engine:
    """The engine of which both services have option engines; it translates nothing, and is covered."""
    engine = shops.one.engine
    return engine.execution_options(schema_translate_map=None)


@pytest.mark.every_database
@pytest.mark.parametrize("way", [*KEYED, by_text, by_quoted_text], ids=lambda way: way.__name__)
def test_a_write_is_seen_in_the_schema_that_it_changed(
    town: Town, process: Process, way: Callable[[Town, Shops], None]
) -> None:
    writer, reader = process(), process()
    for shops in (writer, reader):
        shops.warm("a")
        shops.warm("b")

    way(town, writer)

    for shops in (writer, reader):
        assert shops.seen("a") == ["new", f"a of {OTHER}"]
        assert shops.seen("b") == [f"b of {ONE}", f"b of {OTHER}"]


@pytest.mark.parametrize("way", KEYED, ids=lambda way: way.__name__)
def test_a_write_drops_what_it_changed_and_nothing_else(
    town: Town, process: Process, way: Callable[[Town, Shops], None]
) -> None:
    writer, reader = process(), process()
    for id in "ab":
        reader.warm(id)

    way(town, writer)

    is_whole = way is by_another_column and plain_of(writer).dialect.name == "mysql"
    assert reader.hits("b") == ([0, 0] if is_whole else [1, 1])
    assert reader.hits("a") == ([0, 0] if is_whole else [0, 1])


UNKNOWN = """
    UPDATE {schema}.tenant_order SET name = 'tenant_order' WHERE id = 'a'
    UPDATE {schema}.tenant_order SET name = 'tenant_order' WHERE tenant_order.id = 'a'
    UPDATE {schema}/**/.tenant_order SET name = 'tenant_order' WHERE id = 'a'
""".strip().splitlines()


@pytest.mark.parametrize("text", UNKNOWN)
@pytest.mark.every_database
def test_text_drops_the_class_in_every_schema_whether_it_is_known_or_not(
    town: Town, process: Process, memcached_servers: list[Memcached], text: str
) -> None:
    """A process that knows of no tenant, in whatever words."""
    person_repo.cached(Order)
    reader, engine = process(), town.plain()
    reader.warm("a")
    person_repo.cover(engine, patient_url(memcached_servers))
    with engine.begin() as connection:
        connection.exec_driver_sql(text.format(schema=town.to[ONE]))
    assert reader.seen("a") == ["tenant_order", f"a of {OTHER}"]


@pytest.mark.every_database
def test_a_change_after_another_default_schema_was_chosen(town: Town, process: Process) -> None:
    """``USE`` and ``search_path`` decide which table is meant, of text and of the unit of work."""
    writer, reader = process(), process()
    reader.warm("a")
    engine = plain_of(writer)
    if engine.dialect.name == "sqlite":
        pytest.skip("SQLite has no default schema to choose")
    word = "SET search_path TO" if engine.dialect.name == "postgresql" else "USE"
    for name, change in (
        ("one", lambda session: session.execute(sa.text("UPDATE tenant_order SET name = 'one' WHERE id = 'a'"))),
        ("two", lambda session: setattr(session.get_one(Order, "a"), "name", "two")),
        ("three", lambda session: session.execute(sa.update(Order).where(Order.id == "a").values(name="three"))),
    ):
        with orm.Session(engine) as session:
            session.execute(sa.text(f"{word} {town.to[ONE]}"))
            change(session)
            session.commit()
            session.connection().invalidate()
        assert reader.seen("a") == [name, f"a of {OTHER}"]


@pytest.mark.every_database
def test_a_statement_over_a_table_that_names_its_schema(town: Town, process: Process) -> None:
    writer, reader = process(), process()
    table: Any = Order.__table__
    columns = [sa.column("id"), sa.column("name")]
    for name, other in (
        ("one", table.to_metadata(sa.MetaData(), schema=town.to[ONE])),
        ("two", sa.table("tenant_order", *columns, schema=town.to[ONE])),
    ):
        reader.warm("a")
        for _ in range(3):
            with plain_of(writer).begin() as connection:
                connection.execute(sa.update(other).where(other.c.id == "a").values(name=name))
        assert reader.seen("a") == [name, f"a of {OTHER}"]


@pytest.mark.every_database
def test_a_process_that_only_writes_covers_each_tenant(
    town: Town, process: Process, memcached_servers: list[Memcached]
) -> None:
    person_repo.cached(Order)
    reader, engine = process(), town.plain()
    reader.warm("a")
    person_repo.cover(engine, patient_url(memcached_servers))
    with orm.Session(town.engine(OTHER, engine)) as session:
        session.delete(session.get_one(Order, "a"))
        session.commit()
    assert reader.seen("a") == [f"a of {ONE}", None]


def test_invalidations_by_hand(process: Process) -> None:
    writer, reader = process(), process()
    reader.warm("a")
    writer.one.invalidate("a")
    assert reader.hits("a") == [0, 1]
    writer.other.invalidate_all()  # as the text says: in every schema
    assert reader.hits("a") == [0, 0]


@pytest.mark.every_database
def test_the_fence_stands_once_for_all_tenants(town: Town, process: Process) -> None:
    """A writer of a tenant cannot reach a server: its rows go where the readers of every tenant look."""
    writer, reader = process(), process()
    reader.warm("a")
    cut_off(writer.one)

    writer.one.update("a", name="new")

    with town.plain().connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(FENCE)) == 1
    assert reader.seen("a") == ["new", f"a of {OTHER}"]
    assert writer.seen("a") == ["new", f"a of {OTHER}"]


@pytest.mark.skipif("execution_options" not in orm.Session.__init__.__annotations__, reason="SQLAlchemy 2.1's")
def test_sessions_that_translate_are_read_where_they_write(
    town: Town, process: Process, memcached_servers: list[Memcached]
) -> None:
    options: Any = {"execution_options": {"schema_translate_map": town.translation(ONE)}}
    reader, sessions = process(), orm.sessionmaker(town.plain(), **options)
    reader.warm("a")
    with Service.over(Order, sessions, make_region(patient_url(memcached_servers))) as orders:
        assert orders.get_one("a").name == f"a of {ONE}"
        assert orders.stats().hits == 1
        assert [order.name for order in orders.list()] == [f"a of {ONE}", f"b of {ONE}"]
        orders.update("a", name="new")
        assert orders.get_one("a").name == "new"
    assert reader.seen("a") == ["new", f"a of {OTHER}"]


def test_the_schema_that_is_named_and_the_one_by_default_are_one(
    town: Town, database_url: str, memcached_servers: list[Memcached]
) -> None:
    class Base(orm.DeclarativeBase):
        pass

    class Named(Base):
        __tablename__ = "tenant_order"
        __table_args__ = {"schema": "main" if database_url.startswith("sqlite") else sa.make_url(database_url).database}
        id: orm.Mapped[str] = orm.mapped_column(ExactString(40), primary_key=True)
        name: orm.Mapped[str] = orm.mapped_column(ExactString(40))

    Host.metadata.create_all(town.plain())
    url = patient_url(memcached_servers)
    with (
        Service.over(Order, town.plain(), make_region(url)) as plain,
        Service.over(Named, town.plain(), make_region(url)) as named,
    ):
        plain.add(Order(id="a", name="old"))
        assert named.get_one("a").name == plain.get_one("a").name == "old"
        assert plain.stats().hits == 1
        named.update("a", name="new")
        assert plain.get_one("a").name == "new"


def test_readers_of_all_tenants_share_one_pool(town: Town) -> None:
    plain = town.plain()
    services = [Service.over(Order, town.engine(tenant, plain), "memory://") for tenant in (ONE, OTHER, ONE)]
    assert len({id(service.read_engine.pool) for service in services}) == 1
    for service in services:
        service.close()
