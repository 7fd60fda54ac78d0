"""Configurations in which a name of a cache entry could be another program's, or another database's: each was once a
stale read, somebody else's row or a hang.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event, orm
from support.databases import make_tables
from support.servers import Memcached
from support.urls import patient_url

import person_repo
from person_repo import CachedRepository, ExactString, Service, SQLAlchemyRepository, make_region
from person_repo.model import IDENTITY, Base


class Host(orm.DeclarativeBase):
    pass


class Item(Host):
    __tablename__ = "item"
    id: orm.Mapped[str] = orm.mapped_column(ExactString(40), primary_key=True)
    name: orm.Mapped[str] = orm.mapped_column(ExactString(40))


_made: list[sa.Engine] = []


@pytest.fixture(autouse=True)
def _engines_closed() -> Iterator[None]:
    yield
    while _made:
        _made.pop().dispose()


def engine_of(url: str | sa.URL, **options: Any) -> sa.Engine:
    """An engine that is closed after the test."""
    _made.append(sa.create_engine(url, **options))
    return _made[-1]


Serve = Callable[..., Service[Any]]


@pytest.fixture
def serve(memcached_servers: list[Memcached]) -> Iterator[Serve]:
    """``serve(engine, entity)``: a service with a region of its own, as one more program has."""
    with ExitStack() as ends:

        def make(engine: sa.Engine, entity: Any = Item) -> Service[Any]:
            region = make_region(patient_url(memcached_servers, fence_interval=0.05))
            return ends.enter_context(Service.over(entity, engine, region))

        yield make


def check(service: Service[Any], *ids: Any) -> None:
    """Each cached read is what the database answers."""
    for id in ids:
        with service.using(use_db=True):
            expected = service.get(id)
        for found in (service.get(id), service.get_many([id]).get(id), service.get(id)):
            assert type(found) is type(expected)
            assert found is None or values(found) == values(expected)


def values(entity: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(entity).items() if not name.startswith("_")}


def store(engine: sa.Engine, *entities: object) -> None:
    """Rows that an uncovered engine writes, which is new."""
    with orm.Session(engine) as session:
        session.add_all(entities)
        session.commit()


def rename(engine: sa.Engine, name: str) -> None:
    with orm.Session(engine) as session:
        session.get_one(Item, "1").name = name
        session.commit()


@pytest.fixture
def schemas(database_url: str, tmp_path: Path) -> Iterator[Callable[..., tuple[sa.Engine, list[str]]]]:
    """``schemas()``: an engine, and the names of two more schemas of its database."""
    url = sa.make_url(database_url)
    names = [f"{url.database}_{name}" if "mysql" in url.drivername else name for name in ("x", "y")]

    def make(**options: Any) -> tuple[sa.Engine, list[str]]:
        engine = engine_of(url, **options)
        if url.get_backend_name() == "sqlite":

            @event.listens_for(engine, "connect")
            def attach(driver: Any, _: object) -> None:
                for name in names:
                    driver.execute(f"ATTACH '{tmp_path / name}.db' AS {name}")

        return engine, names

    plain = engine_of(url, isolation_level="AUTOCOMMIT")
    word = {"mysql": "DATABASE", "postgresql": "SCHEMA"}.get(url.get_backend_name())
    with plain.connect() as connection:
        for name in names if word else ():
            connection.exec_driver_sql(f"CREATE {word} {name}")
        yield make
        if word == "DATABASE":
            connection.exec_driver_sql("SET FOREIGN_KEY_CHECKS = 0")
            for name in names:
                connection.exec_driver_sql(f"DROP DATABASE {name}")
    plain.dispose()


# Hierarchies over schemas


def joined(of_base: str | None, of_child: str | None) -> tuple[Any, Any, Any]:
    class Zoo(orm.DeclarativeBase):
        pass

    class Animal(Zoo):
        __tablename__ = "animal"
        __table_args__ = {"schema": of_base}
        id: orm.Mapped[int] = orm.mapped_column(primary_key=True, autoincrement=False)
        name: orm.Mapped[str] = orm.mapped_column(sa.String(20))
        kind: orm.Mapped[str] = orm.mapped_column(sa.String(20))
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "animal"}

    class Dog(Animal):
        __tablename__ = "dog"
        __table_args__ = {"schema": of_child}
        id: orm.Mapped[int] = orm.mapped_column(sa.ForeignKey(Animal.__table__.c.id), primary_key=True)
        trick: orm.Mapped[str] = orm.mapped_column(sa.String(20))
        __mapper_args__ = {"polymorphic_identity": "dog"}

    return Zoo, Animal, Dog


@pytest.mark.parametrize("database_url", ["mysql", "postgresql"], indirect=True)
@pytest.mark.parametrize("table", ["animal", "dog"])
def test_a_hierarchy_in_two_schemas_written_by_text(database_url: str, schemas: Any, serve: Serve, table: str) -> None:
    make_tables(database_url)
    engine, (x, y) = schemas()
    zoo, animal, dog = joined(x, y)
    zoo.metadata.create_all(engine)
    animals, dogs = serve(engine, animal), serve(engine, dog)
    dogs.add(dog(id=1, name="old", trick="old"))
    for service in (animals, dogs):
        check(service, 1)
    with engine.begin() as connection:
        connection.exec_driver_sql(
            f"UPDATE {x}.animal SET name = 'new'" if table == "animal" else f"UPDATE {y}.dog SET trick = 'new'"
        )
    for service in (animals, dogs):
        check(service, 1)


@pytest.mark.parametrize("database_url", ["mysql", "postgresql"], indirect=True)
def test_two_translations_that_swap_the_schemas_of_a_hierarchy(database_url: str, schemas: Any, serve: Serve) -> None:
    make_tables(database_url)
    engine, (x, y) = schemas()
    zoo, _, dog = joined("a", "b")
    one, other = (engine.execution_options(schema_translate_map={"a": p, "b": q}) for p, q in ((x, y), (y, x)))
    for each, name in ((one, "one"), (other, "other")):
        zoo.metadata.create_all(each)
        store(each, dog(id=1, name=name, trick=name))
    ones, others = serve(one, dog), serve(other, dog)
    for service in (ones, others, ones):
        check(service, 1)
    ones.update(1, name="new")
    for service in (ones, others):
        check(service, 1)


def test_two_hierarchies_over_one_table(database_url: str, serve: Serve) -> None:
    class Two(orm.DeclarativeBase):
        pass

    columns = [sa.Column(name, sa.String(20)) for name in ("first", "second")]
    table = sa.Table("two", Two.metadata, sa.Column("id", sa.Integer, primary_key=True), *columns)

    def hierarchy(number: int) -> Any:
        options = {"polymorphic_on": columns[number], "polymorphic_identity": "root"}
        root = type(f"Root{number}", (Two,), {"__table__": table, "__mapper_args__": options})
        return type(f"Sub{number}", (root,), {"__mapper_args__": {"polymorphic_identity": "sub"}})

    engine = engine_of(database_url)
    one, other = hierarchy(0), hierarchy(1)
    make_tables(database_url)
    Two.metadata.create_all(engine)
    with engine.begin() as connection:
        rows = [{"id": 1, "first": "sub", "second": "root"}, {"id": 2, "first": "root", "second": "sub"}]
        connection.execute(sa.insert(table), rows)
    for service in (serve(engine, one), serve(engine, other)):
        check(service, 1, 2)


@pytest.mark.every_database
def test_an_upsert_by_the_tables_key_of_a_class_with_another_key(database_url: str, serve: Serve) -> None:
    class Coded(orm.DeclarativeBase):
        pass

    number = sa.Column("id", sa.Integer, primary_key=True, autoincrement=False)
    code = sa.Column("code", sa.Integer, nullable=False)
    table = sa.Table("coded", Coded.metadata, number, code, sa.Column("name", sa.String(20)))
    ByCode: Any = type("ByCode", (Coded,), {"__table__": table, "__mapper_args__": {"primary_key": [code]}})
    make_tables(database_url)
    engine = engine_of(database_url)
    Coded.metadata.create_all(engine)
    service = serve(engine, ByCode)
    service.add(ByCode(id=1, code=10, name="old"))
    check(service, 10, 11)
    with engine.begin() as connection:
        if engine.dialect.name in ("mysql", "mariadb"):
            from sqlalchemy.dialects.mysql import insert as mysql_insert

            statement: Any = mysql_insert(table).values(id=1, code=11, name="new").on_duplicate_key_update(name="new")
        else:
            from sqlalchemy.dialects import postgresql, sqlite

            own = postgresql if engine.dialect.name == "postgresql" else sqlite
            statement = own.insert(table).values(id=1, code=11, name="new")
            statement = statement.on_conflict_do_update(index_elements=["id"], set_={"name": "new"})
        connection.execute(statement)
    check(service, 10, 11)


# The identity comes later, or not at all


@pytest.mark.every_database
def test_a_transaction_is_open_while_the_database_gets_its_identity(database_url: str, serve: Serve) -> None:
    engine = engine_of(database_url)
    Host.metadata.create_all(engine)
    store(engine, Item(id="1", name="old"))
    reader, writer = serve(engine), serve(engine_of(database_url))
    check(reader, "1")
    if engine.dialect.name == "sqlite":
        make_tables(database_url)
    with orm.Session(writer.engine) as session:
        session.get_one(Item, "1").name = "new"
        session.flush()
        if engine.dialect.name != "sqlite":  # It has one writer at a time.
            make_tables(database_url)
        threading.Event().wait(0.1)
        reader.get("1")
        session.commit()
    check(reader, "1")
    check(serve(engine_of(database_url)), "1")


@pytest.mark.every_database
def test_a_writer_that_begins_after_the_identity_was_made(database_url: str, serve: Serve) -> None:
    """Readers may name their entries as before, for a moment."""
    engine = engine_of(database_url)
    Host.metadata.create_all(engine)
    store(engine, Item(id="1", name="old"))
    reader = serve(engine)
    check(reader, "1")
    make_tables(database_url)
    serve(engine_of(database_url)).update("1", name="new")
    check(reader, "1")


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_service_that_asks_before_its_table_is_there(database_url: str, serve: Serve) -> None:
    """In a path of two schemas, it comes in the second."""
    make_tables(database_url)
    plain = engine_of(database_url)
    with plain.begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA app")
    early = serve(engine_of(database_url, connect_args={"options": "-csearch_path=app,public"}))
    with pytest.raises(sa.exc.ProgrammingError):
        early.get("1")
    Host.metadata.create_all(plain)
    early.add(Item(id="1", name="old"))
    later = serve(engine_of(database_url, connect_args={"options": "-csearch_path=app,public"}))
    for service in (early, later):
        check(service, "1")
    later.update("1", name="new")
    check(early, "1")


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("path", ["app", "app,public"])
def test_paths_that_find_the_identity_and_paths_that_do_not(database_url: str, serve: Serve, path: str) -> None:
    make_tables(database_url)
    plain = engine_of(database_url)
    with plain.begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA app")
    Host.metadata.create_all(plain.execution_options(schema_translate_map={None: "app"}))
    one, other = (
        serve(engine_of(database_url, connect_args={"options": f"-csearch_path={each}"}))
        for each in (path, "app,public")
    )
    one.add(Item(id="1", name="old"))
    for service in (one, other):
        check(service, "1")
    assert other.stats().hits
    other.update("1", name="new")
    check(one, "1")


@pytest.mark.parametrize("database_url", ["mysql"], indirect=True)
def test_a_table_of_another_database_of_the_server(database_url: str, schemas: Any, serve: Serve) -> None:
    """Two programs name its schema, and each has a database of its own by default."""

    class Apart(orm.DeclarativeBase):
        pass

    engine, (shared, other) = schemas()

    class Thing(Apart):
        __tablename__ = "thing"
        __table_args__ = {"schema": shared}
        id: orm.Mapped[int] = orm.mapped_column(primary_key=True, autoincrement=False)
        name: orm.Mapped[str] = orm.mapped_column(sa.String(20))

    Apart.metadata.create_all(engine)
    elsewhere = sa.make_url(database_url).set(database=other)
    for url in (database_url, elsewhere):
        make_tables(url)
    one, two = serve(engine, Thing), serve(engine_of(elsewhere), Thing)
    one.add(Thing(id=1, name="old"))
    for service in (one, two):
        check(service, 1)
    two.update(1, name="new")
    check(one, 1)


# SQLite


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("has_identity", [True, False])
def test_a_file_that_one_program_attaches_and_another_opens(
    database_url: str, schemas: Any, serve: Serve, tmp_path: Path, has_identity: bool
) -> None:
    make_tables(database_url)
    engine, (x, _) = schemas()
    attached = engine.execution_options(schema_translate_map={None: x})
    Host.metadata.create_all(attached)
    if has_identity:
        IDENTITY.create(attached)
    opened, plain = engine_of(f"sqlite:///{tmp_path / x}.db"), schemas()[0]
    services = [serve(attached), serve(opened), serve(plain)]  # The last finds it without a schema.
    services[0].add(Item(id="1", name="0"))
    for number, writer in enumerate(services, 1):
        for service in services:
            check(service, "1")
        writer.update("1", name=str(number))
    for service in services:
        check(service, "1")
    with plain.begin() as connection:
        connection.exec_driver_sql(f"UPDATE {x}.item SET name = 'text'")
    for service in services:
        check(service, "1")


def test_two_files_attached_under_one_name(tmp_path: Path, serve: Serve) -> None:
    url = f"sqlite:///{tmp_path / 'main.db'}"
    make_tables(url)

    def attaching(file: str) -> sa.Engine:
        engine = engine_of(url)
        event.listen(engine, "connect", lambda driver, _: driver.execute(f"ATTACH '{tmp_path / file}' AS aux"))
        return engine.execution_options(schema_translate_map={None: "aux"})

    for engine, name in ((attaching("one.db"), "one"), (attaching("other.db"), "other")):
        Host.metadata.create_all(engine)
        store(engine, Item(id="1", name=name))
    services = [serve(attaching(file)) for file in ("one.db", "other.db")]
    for service in (*services, *services):
        check(service, "1")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("has_identity", [True, False])
def test_a_database_in_memory_is_another_one_in_a_forked_process(serve: Serve, has_identity: bool) -> None:
    engine = engine_of("sqlite://", poolclass=sa.StaticPool, connect_args={"check_same_thread": False})
    Host.metadata.create_all(engine)
    if has_identity:
        Base.metadata.create_all(engine)
    store(engine, Item(id="1", name="parent"))
    service = serve(engine)
    check(service, "1")
    child = os.fork()
    if not child:
        try:
            service.update("1", name="child")
            check(service, "1")
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    check(service, "1")


# Servers


def test_two_servers_that_one_url_names(mysql_url: str, mariadb_url: str, serve: Serve) -> None:
    """Engines that connect by a function of their own, without identities, to databases of one name."""
    name = sa.make_url(mysql_url).database
    engines = []
    for url in (mysql_url, mariadb_url):
        real = engine_of(sa.make_url(url).set(database=None))
        with real.begin() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE IF NOT EXISTS {name}")
        arguments = real.dialect.create_connect_args(sa.make_url(url).set(database=name))[1]
        engines.append(engine_of("mysql+pymysql://", creator=lambda d=real.dialect, a=arguments: d.connect(**a)))
        real.dispose()
    for engine, text in zip(engines, ("one", "other"), strict=True):
        Host.metadata.create_all(engine)
        store(engine, Item(id="1", name=text))
    services = [serve(engine) for engine in engines]
    for service in (*services, *services):
        check(service, "1")


@pytest.mark.parametrize("database_url", ["postgresql", "mysql"], indirect=True)
def test_a_transaction_that_drops_or_empties_the_identity_waits_for_nobody(
    database_url: str, memcached_servers: list[Memcached]
) -> None:
    make_tables(database_url)
    Host.metadata.create_all(engine_of(database_url))
    engine = engine_of(database_url)
    person_repo.cached(Item)
    person_repo.cover(engine, patient_url(memcached_servers))
    with engine.begin() as connection:
        connection.exec_driver_sql(f"TRUNCATE TABLE {IDENTITY.name}")
        connection.execute(sa.insert(Item), {"id": "1", "name": "new"})
    Base.metadata.drop_all(engine)
    engine.dispose()


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_the_only_connection_of_a_host_keeps_its_transaction(database_url: str, serve: Serve) -> None:
    engine = engine_of(database_url, poolclass=sa.StaticPool)
    Host.metadata.create_all(engine)
    service = serve(engine)
    with orm.Session(engine) as session:
        session.add(Item(id="1", name="old"))
        session.flush()
        service.get("1")
        session.commit()
    rename(engine, "new")
    assert service.get_one("1").name == "new"


# Statements


@pytest.fixture
def apart(database_url: str, schemas: Any, serve: Serve) -> tuple[sa.Engine, sa.Engine, list[Service[Any]], Any]:
    """An engine, the same with a translation, a warm service over each, and a table object of the tenant's schema."""
    make_tables(database_url)
    engine, (x, _) = schemas()
    tenant = engine.execution_options(schema_translate_map={None: x})
    for each, name in ((engine, "plain"), (tenant, "tenant")):
        Host.metadata.create_all(each)
        if engine.dialect.name != "postgresql":
            IDENTITY.create(each, checkfirst=True)
        store(each, Item(id="1", name=name))
    services = [serve(engine), serve(tenant)]
    for service in services:
        check(service, "1", "2")
        service.update("1", name="warm")
        check(service, "1", "2")
    return engine, tenant, services, Item.__table__.to_metadata(sa.MetaData(), schema=x)  # type: ignore[attr-defined]


def test_a_light_table_is_not_translated(apart: Any) -> None:
    _, tenant, services, _ = apart
    light = sa.table("item", sa.column("id"), sa.column("name"))
    for _ in range(3):
        for statement in (sa.update(light).where(light.c.id == "1").values(name="new"), sa.delete(light)):
            with tenant.begin() as connection:
                connection.execute(statement)
            for service in services:
                check(service, "1", "2")
        with tenant.begin() as connection:
            connection.execute(sa.insert(light).values(id="1", name="again"))
        for service in services:
            check(service, "1", "2")


@pytest.mark.parametrize("database_url", ["mysql", "postgresql"], indirect=True)
def test_a_table_of_the_same_name_in_another_schema_is_not_the_target(apart: Any) -> None:
    engine, _, services, other = apart
    mine: Any = Item.__table__
    plain = engine.execution_options(schema_translate_map={None: engine.dialect.default_schema_name})
    store(engine.execution_options(schema_translate_map={None: other.schema}), Item(id="2", name="warm"))
    for service in services:
        check(service, "1", "2")
    with plain.begin() as connection:
        connection.execute(sa.delete(mine).where(mine.c.name == other.c.name, other.c.id == "2"))
    for service in services:
        check(service, "1", "2")


@pytest.mark.parametrize("database_url", ["mysql", "postgresql"], indirect=True)
def test_a_hosts_own_read_engine_says_where_it_reads(
    database_url: str, apart: Any, memcached_servers: list[Memcached]
) -> None:
    engine, tenant, services, other = apart
    url = sa.make_url(database_url)
    options: Any = {"isolation_level": "AUTOCOMMIT"}
    if engine.dialect.name == "postgresql":
        options["connect_args"] = {"options": f"-csearch_path={other.schema}"}
    else:
        url = url.set(database=other.schema)
    region = make_region(patient_url(memcached_servers))
    database = SQLAlchemyRepository(Item, tenant, read_engine=engine_of(url, **options))
    with Service(database=database, cached=CachedRepository(database, region)) as service:
        for _ in range(2):
            check(service, "1")
            check(services[0], "1")
        service.update("1", name="new")
        for each in (service, *services):
            check(each, "1")


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_host_whose_reads_cannot_connect_still_writes(database_url: str, memcached_servers: list[Memcached]) -> None:
    """A token provider of the host's raises an error of its own."""

    class NoTokenError(Exception):
        pass

    make_tables(database_url)
    engine = engine_of(database_url)
    Host.metadata.create_all(engine)
    person_repo.cached(Item)
    person_repo.cover(engine, patient_url(memcached_servers))
    with engine.connect() as connection:

        @event.listens_for(engine, "do_connect")
        def refuse(*_: object) -> None:
            raise NoTokenError

        connection.execute(sa.insert(Item), {"id": "1", "name": "new"})
        connection.commit()
        assert connection.scalar(sa.select(sa.func.count()).select_from(Item)) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_writer_of_a_database_in_memory(serve: Serve) -> None:
    engine = engine_of("sqlite://", poolclass=sa.StaticPool, connect_args={"check_same_thread": False})
    Host.metadata.create_all(engine)
    Base.metadata.create_all(engine)
    service = serve(engine)
    service.add(Item(id="1", name="one"))
    service.update("1", name="two")
    child = os.fork()
    if not child:
        status = 1
        try:
            for name in ("three", "four"):
                check(service, "1")
                service.update("1", name=name)
                check(service, "1")
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    check(service, "1")


@pytest.mark.parametrize("database_url", ["mysql", "postgresql"], indirect=True)
@pytest.mark.parametrize("mapped_in", [None, "tenant"])
def test_a_translation_to_the_default_schema(
    database_url: str, apart: Any, serve: Serve, mapped_in: str | None
) -> None:
    """SQLAlchemy writes the default schema as its dialect found it, before a listener of the host's chose another."""
    _, _, services, other = apart
    engine = engine_of(database_url)
    word = "SET search_path TO" if engine.dialect.name == "postgresql" else "USE"

    @event.listens_for(engine, "connect")
    def choose(connection: Any, _: object) -> None:
        connection.cursor().execute(f"{word} {other.schema}")
        connection.commit()

    moved = serve(engine)
    moved.update("1", name="moved")
    for service in (moved, *services):
        check(service, "1")
    table: Any = Item.__table__ if mapped_in is None else other.to_metadata(sa.MetaData(), schema=mapped_in)
    with engine.execution_options(schema_translate_map={mapped_in: None}).begin() as connection:
        connection.execute(sa.update(table).where(table.c.id == "1").values(name="default"))
    for service in (moved, *services):
        check(service, "1")
