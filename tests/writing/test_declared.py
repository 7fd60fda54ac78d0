"""Coverage by declaration: whichever services a process has, it keeps coherent what others cache."""

from __future__ import annotations

import gc
import logging
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dogpile.cache
import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from support.databases import with_identity
from support.servers import Memcached
from support.urls import patient_url

import person_repo
from person_repo import ConfigurationError, ExactString, Person, PersonService, Service, make_region, migrations
from person_repo.model import FENCE
from person_repo.writing import coverage, covered, declared


class Shop(orm.MappedAsDataclass, orm.DeclarativeBase):
    pass


class Elsewhere(orm.MappedAsDataclass, orm.DeclarativeBase):
    pass


class Named(orm.MappedAsDataclass):
    id: orm.Mapped[str] = orm.mapped_column(ExactString(40), primary_key=True)
    name: orm.Mapped[str] = orm.mapped_column(ExactString(40))


class Order(Named, Shop):
    __tablename__ = "shop_order"


class Line(Named, Elsewhere):
    """Of another base than ``Order``."""

    __tablename__ = "shop_line"


@pytest.fixture
def host() -> type[orm.DeclarativeBase]:
    class Host(orm.DeclarativeBase):
        pass

    return Host


@pytest.fixture
def shop(engine: sa.Engine) -> sa.Engine:
    for base in (Shop, Elsewhere):
        base.metadata.create_all(engine)
    with orm.Session(engine) as session, session.begin():
        session.add_all([Order("1", "old"), Line("1", "old")])
    return engine


@pytest.fixture
def other(shop: sa.Engine) -> Iterator[sa.Engine]:
    """Another process's engine for the same database."""
    other = sa.create_engine(shop.url)
    yield other
    other.dispose()


def rename(entity: type[Any], engine: sa.Engine, name: str = "new") -> None:
    with orm.Session(engine) as session, session.begin():
        session.get_one(entity, "1").name = name


def test_a_process_with_one_service_keeps_the_other_declared_classes_coherent(
    shop: sa.Engine, other: sa.Engine, cache_url: str
) -> None:
    person_repo.cached(Order)
    person_repo.cached(Line)
    region = make_region(cache_url)
    with Service.over(Line, shop, region) as lines, Service.over(Order, other, region):
        assert lines.get_one("1").name == "old"
        rename(Line, other)
        assert lines.get_one("1").name == "new"


def test_a_process_that_only_writes_covers_with_one_line(shop: sa.Engine, other: sa.Engine, cache_url: str) -> None:
    person_repo.cached(Order)
    person_repo.cached(Line, cache="lines")
    region = make_region(cache_url)
    person_repo.cover(other, {"default": region, "lines": region})
    person_repo.cover(other, {"default": region, "lines": region})
    with Service.over(Line, shop, region) as lines, Service.over(Order, shop, region) as orders:
        for service, entity in ((lines, Line), (orders, Order)):
            assert service.get_one("1").name == "old"
            rename(entity, other)
            assert service.get_one("1").name == "new"


def test_a_service_over_a_class_that_is_not_declared_covers_those_that_are(
    shop: sa.Engine, other: sa.Engine, cache_url: str
) -> None:
    person_repo.cached(Line)
    region = make_region(cache_url)
    with Service.over(Line, shop, region) as lines, Service.over(Order, other, region):
        assert lines.get_one("1").name == "old"
        rename(Line, other)
        assert lines.get_one("1").name == "new"
        with Service.over(Order, shop, region) as orders:
            person_repo.cached(Order)
            assert orders.get_one("1").name == "old"
            rename(Order, other)
            assert orders.get_one("1").name == "new"


def test_two_regions_of_one_cache_are_both_told(shop: sa.Engine, other: sa.Engine, cache_url: str) -> None:
    person_repo.cached(Order)
    person_repo.cached(Line)
    regions = [make_region(cache_url, namespace=name) for name in ("one", "two")]
    services = [Service.over(Line, shop, region) for region in regions]
    Service.over(Order, other, regions[0])
    person_repo.cover(other, regions[1])
    assert [lines.get_one("1").name for lines in services] == ["old", "old"]
    rename(Line, other)
    assert [lines.get_one("1").name for lines in services] == ["new", "new"]
    for lines in services:
        lines.close()


def test_the_region_of_a_class_that_is_not_declared_is_that_of_no_declared_cache(shop: sa.Engine) -> None:
    person_repo.cover(shop, {"lines": "memory://"})
    Service.over(Order, shop, "memory://").close()
    with pytest.raises(
        ConfigurationError, match=r"Line is declared in the cache 'default', and cover\(\) got regions "
    ):
        person_repo.cached(Line)


def test_person_is_covered_without_a_word(people_engine: sa.Engine, cache_url: str) -> None:
    other = sa.create_engine(people_engine.url)
    region = make_region(cache_url)
    person_repo.cover(other, region)
    with PersonService.over(people_engine, region) as people:
        assert people.get("ada") is None
        with orm.Session(other) as session, session.begin():
            session.add(Person("ada", "Ada", "Lovelace"))
        assert people.get_one("ada").first_name == "Ada"
    other.dispose()


_WRITER = """
import sys
import sqlalchemy as sa
from sqlalchemy import orm
import person_repo

class Base(orm.DeclarativeBase):
    pass

@person_repo.cached
class Order(Base):
    __tablename__ = "shop_order"
    id = orm.mapped_column(person_repo.ExactString(40), primary_key=True)
    name = orm.mapped_column(person_repo.ExactString(40))

engine = sa.create_engine(sys.argv[1])
person_repo.cover(engine, sys.argv[2])
with orm.Session(engine) as session, session.begin():
    session.get_one(Order, "1").name = "by another process"
engine.dispose()
"""


@pytest.mark.parametrize("cache_url", ["memcached"], indirect=True)
def test_another_process_that_only_writes(shop: sa.Engine, cache_url: str) -> None:
    with Service.over(Order, shop, cache_url) as orders:
        assert orders.get_one("1").name == "old"
        url = shop.url.render_as_string(hide_password=False)
        subprocess.run([sys.executable, "-c", _WRITER, url, cache_url], check=True, timeout=60)
        assert orders.get_one("1").name == "by another process"


def test_a_declared_cache_without_a_region_is_refused_by_name() -> None:
    person_repo.cached(Line, cache="lines")
    engine = sa.create_engine("sqlite://")
    with pytest.raises(ConfigurationError, match=r"Line is declared in the cache 'lines', and cover\(\) got "):
        person_repo.cover(engine, "memory://")
    person_repo.cover(engine, {"lines": "memory://"})  # nobody need have a cache for people

    with pytest.raises(
        ConfigurationError, match=r"Order is declared in the cache 'orders', .* give {'orders': region}"
    ):
        person_repo.cached(Order, cache="orders")


def test_a_class_that_is_refused_is_not_declared(host: type[Any]) -> None:
    class Measured(host):  # type: ignore[misc]
        __tablename__ = "measured"
        id = sa.Column(sa.Float, primary_key=True)

    with pytest.raises(ConfigurationError, match=r"Measured.id is part of the primary key and has the type Float"):
        person_repo.cached(Measured)
    engine = sa.create_engine("sqlite://")
    person_repo.cover(engine, "memory://")
    with pytest.raises(ConfigurationError, match=r"Order is declared in the cache 'typo'"):
        person_repo.cached(Order, cache="typo")
    person_repo.cached(Order)
    person_repo.cover(engine, "memory://")


def test_a_concrete_hierarchy_is_refused_where_it_is_declared(host: type[Any]) -> None:
    class Root(host):  # type: ignore[misc]
        __tablename__ = "root"
        id = sa.Column(sa.Integer, primary_key=True)

    class Concrete(Root):
        __tablename__ = "concrete"
        id = sa.Column(sa.Integer, primary_key=True)
        __mapper_args__ = {"concrete": True}

    with pytest.raises(ConfigurationError, match="Root takes part in concrete inheritance"):
        person_repo.cached(Root)


@pytest.mark.parametrize("name", ["", 1, None])
def test_a_cache_has_a_name(name: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"{name!r} is no name of a cache"):
        person_repo.cover(sa.create_engine("sqlite://"), {name: "memory://"})


def test_a_ttl_that_is_declared_when_there_is_a_service_counts(shop: sa.Engine, cache_url: str) -> None:
    with Service.over(Order, shop, cache_url) as orders:
        person_repo.cached(Order, ttl=7)
        assert orders.cached.backend.value_ttl(orders.cached.keys.key_of(("1",))[0]) in (6, 7)


def test_a_region_is_made_once_for_a_url(shop: sa.Engine) -> None:
    person_repo.cached(Order)
    engine = sa.create_engine(shop.url)
    for _ in range(3):
        person_repo.cover(engine, "memory://")
    assert len(coverage._covered[engine.dialect].models) == 2  # of people and orders
    engine.dispose()


def test_a_covered_class_is_looked_at_once(shop: sa.Engine, cache_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    person_repo.cached(Order)
    made: list[type[Any]] = []
    mapping = declared.IdentityMapping
    monkeypatch.setattr(
        declared, "IdentityMapping", lambda entity, **options: made.append(entity) or mapping(entity, **options)
    )
    with Service.over(Order, shop, cache_url) as orders:
        assert made == [Person, Order] or made == [Order, Person]
        for number in range(3):
            with orm.Session(shop.execution_options(number=number)) as session:
                orders.bind(session)
        Service.over(Order, shop, orders.region)
    assert len(made) == 2


def test_a_service_that_is_made_again_adds_nothing(shop: sa.Engine, cache_url: str) -> None:
    region = make_region(cache_url)
    for _ in range(3):
        Service.over(Order, shop, region).close()
    assert [len(backends) for backends in declared._caches[shop].by_root.values()] == [1]
    assert len(coverage._covered[shop.dialect].models) == 2  # of people and orders


def test_an_interrupted_cover_can_be_made_again(
    shop: sa.Engine, other: sa.Engine, cache_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    person_repo.cached(Order)
    region = make_region(cache_url)
    with monkeypatch.context() as patched:
        patched.setattr(coverage, "covering", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            person_repo.cover(other, region)
    assert "_do_get" not in vars(other.pool)
    person_repo.cover(other, region)
    with Service.over(Order, shop, region) as orders:
        assert orders.get_one("1").name == "old"
        rename(Order, other)
        assert orders.get_one("1").name == "new"


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_handler_of_the_log_may_cover_another_engine(shop: sa.Engine, caplog: pytest.LogCaptureFixture) -> None:
    person_repo.cached(Order)
    engine = sa.create_engine(shop.url, poolclass=sa.pool.NullPool)
    engine.connect().close()

    class Covering(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            person_repo.cover(sa.create_engine(shop.url), "memory://")

    handler = Covering()
    logging.getLogger("person_repo.writing").addHandler(handler)
    with ThreadPoolExecutor(1) as thread:
        thread.submit(person_repo.cover, engine, "memory://").result(30)
    logging.getLogger("person_repo.writing").removeHandler(handler)


def test_an_engine_that_was_covered_late_can_go(shop: sa.Engine) -> None:
    engine = sa.create_engine(shop.url)
    engine.connect().close()
    person_repo.cover(engine, "memory://")
    pool = weakref.ref(engine.pool)
    engine.dispose()
    del engine
    gc.collect()
    assert pool() is None


@pytest.mark.parametrize("engine", [None, "sqlite://", sa.create_engine("sqlite://").connect])
def test_nothing_but_an_engine_can_be_covered(engine: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"cover\(\) takes an Engine, not"):
        person_repo.cover(engine, "memory://")


def test_a_class_may_have_a_ttl_of_its_own(shop: sa.Engine, cache_url: str) -> None:
    person_repo.cached(Order, ttl=1)
    person_repo.cached(Line)
    region = make_region(cache_url, ttl=60)
    with Service.over(Order, shop, region) as orders, Service.over(Line, shop, region) as lines:
        for service in (orders, lines):
            assert (service.get_one("1").name, [*service.get_many(["1", "2"])]) == ("old", ["1"])
        uncovered = sa.create_engine(shop.url)
        with uncovered.begin() as elsewhere:
            elsewhere.execute(sa.update(Order).values(name="new"))
            elsewhere.execute(sa.update(Line).values(name="new"))
        uncovered.dispose()
        deadline = time.monotonic() + 30
        while orders.get_one("1").name == "old":
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert lines.get_one("1").name == "old"
        assert lines.stats().fills == orders.stats().fills - 1


def test_a_region_of_another_backend_has_no_ttl_for_one_class() -> None:
    person_repo.cached(Order, ttl=60)
    region = dogpile.cache.make_region().configure("dogpile.cache.memory")
    with pytest.raises(ConfigurationError, match=r"ttl=60 of Order: a region of another backend"):
        Service.over(Order, sa.create_engine("sqlite://"), region)


def test_a_class_that_is_declared_later_is_covered_where_its_cache_is(
    shop: sa.Engine, other: sa.Engine, cache_url: str
) -> None:
    region = make_region(cache_url)
    person_repo.cover(other, region)
    with Service.over(Line, shop, region) as lines, orm.Session(other) as session:
        session.get_one(Line, "1").name = "new"
        session.flush()
        person_repo.cached(Line)
        assert lines.get_one("1").name == "old"
        session.commit()
        assert lines.get_one("1").name == "new"
        rename(Line, other, "newer")
        assert lines.get_one("1").name == "newer"


def test_a_class_that_inherits_and_is_mapped_later(engine: sa.Engine, cache_url: str) -> None:
    class Zoo(orm.DeclarativeBase):
        pass

    @person_repo.cached
    class Animal(Zoo):
        __tablename__ = "animal"
        id = sa.Column(ExactString(40), primary_key=True)
        kind = sa.Column(ExactString(40))
        __mapper_args__ = {"polymorphic_on": kind, "polymorphic_identity": "animal"}

    other = sa.create_engine(engine.url)
    region = make_region(cache_url)
    person_repo.cover(other, region)

    class Dog(Animal):
        __tablename__ = "dog"
        dog_id = sa.Column(sa.ForeignKey("animal.id"), primary_key=True)
        name = sa.Column(ExactString(40))
        __mapper_args__ = {"polymorphic_identity": "dog"}

    Zoo.metadata.create_all(engine)
    with orm.Session(engine) as session, session.begin():
        session.add(Dog(id="1", name="old"))
    with Service.over(Animal, engine, region) as animals:
        assert animals.get_one("1").name == "old"
        with other.begin() as connection:
            connection.execute(sa.update(Dog.__table__).values(name="new"))
        assert animals.get_one("1").name == "new"
    other.dispose()


def test_a_class_whose_key_refers_to_a_table_that_comes_later(engine: sa.Engine, cache_url: str) -> None:
    class Host(orm.DeclarativeBase):
        pass

    @person_repo.cached
    class Address(Host):
        __tablename__ = "address"
        owner_id = sa.Column(sa.ForeignKey("owner.id"), primary_key=True)
        street = sa.Column(ExactString(40))

    other = sa.create_engine(engine.url)
    region = make_region(cache_url)
    person_repo.cover(other, region)
    owner = sa.Table("owner", Host.metadata, sa.Column("id", sa.Integer, primary_key=True))
    Host.metadata.create_all(with_identity(engine))
    with engine.begin() as connection:
        connection.execute(sa.insert(owner).values(id=1))
        connection.execute(sa.insert(Address).values(owner_id=1, street="old"))

    with Service.over(Address, engine, region) as addresses:
        assert addresses.get_one(1).street == "old"
        before = addresses.stats()
        with other.begin() as connection:
            connection.execute(sa.update(Address).where(Address.owner_id == 1).values(street="new"))
        assert addresses.get_one(1).street == "new"
        assert (addresses.stats() - before).model_drops == 0
    other.dispose()


def test_a_class_that_is_not_declared_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    class Base(orm.DeclarativeBase):
        pass

    class Undeclared(Base):
        __tablename__ = "undeclared"
        id = sa.Column(sa.Integer, primary_key=True)

    for _ in range(2):
        Service.over(Undeclared, sa.create_engine("sqlite://"), "memory://").close()
    (record,) = [record for record in caplog.records if "Undeclared" in record.message]
    assert record.name == "person_repo.writing"
    assert "only if they make a service over it, too; put @person_repo.cached above the class" in record.message

    person_repo.cached(Order)
    caplog.clear()
    Service.over(Order, sa.create_engine("sqlite://"), "memory://").close()
    assert not [record for record in caplog.records if record.name == "person_repo.writing"]


def test_two_services_made_by_two_threads_at_once_are_both_covered(
    shop: sa.Engine, cache_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = covered.Cascades

    def slow(models: Any) -> Any:
        time.sleep(0.05)
        return made(models)

    monkeypatch.setattr(covered, "Cascades", slow)
    engine, region = sa.create_engine(shop.url), make_region(cache_url)
    start = threading.Barrier(2)

    def over(entity: type[Any]) -> Service[Any]:
        start.wait()
        return Service.over(entity, engine, region)

    with ThreadPoolExecutor(2) as threads:
        services = [*threads.map(over, (Order, Line))]
    for service, entity in zip(services, (Order, Line), strict=True):
        assert service.get_one("1").name == "old"
        rename(entity, engine)
        assert service.get_one("1").name == "new"
        service.close()
    engine.dispose()


def test_a_class_whose_key_refers_to_a_table_that_never_comes(engine: sa.Engine, cache_url: str) -> None:
    """In this process: each change drops the class."""
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE shop_profile (id INTEGER PRIMARY KEY, name VARCHAR(40))")
        connection.exec_driver_sql("INSERT INTO shop_profile VALUES (1, 'old')")

    class Here(orm.DeclarativeBase):
        pass

    class There(orm.DeclarativeBase):
        pass

    class Profile(Here):
        __tablename__ = "shop_profile"
        id = sa.Column(sa.Integer, primary_key=True)
        name = sa.Column(sa.String(40))

    class Other(There):
        __tablename__ = "shop_profile"
        id = sa.Column(sa.ForeignKey("shop_user.id"), primary_key=True)
        name = sa.Column(sa.String(40))

    person_repo.cached(Other)
    other, region = sa.create_engine(engine.url), make_region(cache_url)
    person_repo.cover(other, region)
    table: Any = Other.__table__
    writes = [
        sa.update(table).where(table.c.id == 1).values(name="1"),
        sa.update(table).where(table.c.name == "1").values(name="2"),
        sa.text("UPDATE shop_profile SET name = '3' WHERE id = 1"),
        sa.delete(table).where(table.c.id == 1),
        sa.insert(table).values(id=1, name="4"),
    ]
    with Service.over(Profile, engine, region) as profiles:
        assert profiles.get_one(1).name == "old"
        for write, expected in zip(writes, ["1", "2", "3", None, "4"], strict=True):
            with other.begin() as connection:
                connection.execute(write)
            assert getattr(profiles.get(1), "name", None) == expected
    other.dispose()


# A COMMIT that is with the server while the class is covered

POOLS = {"pool": {}, "no pool": {"poolclass": sa.pool.NullPool}}


class SlowCommit:
    """A writer whose COMMIT waits, in a function of the dialect that is not wrapped yet."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._sent, self._go_on = threading.Event(), threading.Event()
        self._thread = ThreadPoolExecutor(1)

    def begin(self) -> None:
        dialect: Any = self._engine.dialect
        commit = dialect.do_commit

        def slow(connection: Any) -> None:
            self._sent.set()
            self._go_on.wait(30)
            commit(connection)

        dialect.do_commit = slow
        self._written = self._thread.submit(rename, Order, self._engine)
        assert self._sent.wait(30)
        dialect.do_commit = commit

    def end(self) -> None:
        self._go_on.set()
        self._written.result(30)
        self._thread.shutdown()


@pytest.mark.parametrize("options", POOLS.values(), ids=POOLS)
@pytest.mark.parametrize("way", ["a service", "cover", "declared later"])
def test_a_commit_that_is_under_way_while_an_engine_is_covered(
    shop: sa.Engine, cache_url: str, way: str, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    engine, region = sa.create_engine(shop.url, **options), make_region(cache_url)
    writer = SlowCommit(engine)
    with Service.over(Order, shop, region) as orders:
        assert orders.get_one("1").name == "old"
        if way == "declared later":
            person_repo.cover(engine, region)
        writer.begin()
        if way == "a service":
            Service.over(Order, engine, region)
        else:
            person_repo.cached(Order)
            if way == "cover":
                person_repo.cover(engine, region)
        assert orders.get_one("1").name == "old"
        writer.end()
        assert orders.get_one("1").name == "new"
    number = "1 connections" if options == {} else "an unknown number of connections"
    assert any(f"covered while {number} were in use" in record.message for record in caplog.records)
    engine.dispose()


@pytest.mark.parametrize("options", POOLS.values(), ids=POOLS)
@pytest.mark.parametrize("is_first", [True, False], ids=["first connection", "connected before"])
@pytest.mark.parametrize("ends", ["while", "after"])
def test_a_commit_that_begins_while_an_engine_is_covered(
    shop: sa.Engine,
    cache_url: str,
    options: dict[str, Any],
    is_first: bool,
    ends: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    person_repo.cached(Order)
    engine, region = sa.create_engine(shop.url, **options), make_region(cache_url)
    writer, made = SlowCommit(engine), coverage.Covered

    def in_the_middle(each: sa.Engine) -> Any:
        if each is engine:
            writer.begin()
            if ends == "while":
                writer.end()
        return made(each)

    if not is_first:
        engine.connect().close()
    with Service.over(Order, shop, region) as orders:
        assert orders.get_one("1").name == "old"
        monkeypatch.setattr(coverage, "Covered", in_the_middle)
        person_repo.cover(engine, region)
        if ends == "after":
            assert orders.get_one("1").name == "old"
            writer.end()
        assert orders.get_one("1").name == "new"
    engine.dispose()


def test_a_commit_under_way_on_a_pool_that_another_engine_has_opened(shop: sa.Engine, cache_url: str) -> None:
    first = sa.create_engine(shop.url)
    first.connect().close()
    engine, region = sa.create_engine(shop.url, pool=first.pool), make_region(cache_url)
    person_repo.cached(Order)
    writer = SlowCommit(engine)
    with Service.over(Order, shop, region) as orders:
        assert orders.get_one("1").name == "old"
        writer.begin()
        person_repo.cover(engine, region)
        writer.end()
        assert orders.get_one("1").name == "new"
    first.dispose()


@pytest.mark.parametrize(("database_url", "cache_url"), [("sqlite", "memory")], indirect=True)
def test_a_commit_under_way_on_a_connection_that_somebody_else_takes(shop: sa.Engine, cache_url: str) -> None:
    options: Any = {"poolclass": sa.pool.StaticPool, "connect_args": {"check_same_thread": False}}
    engine, region = sa.create_engine(shop.url, **options), make_region(cache_url)
    person_repo.cached(Order)
    writer = SlowCommit(engine)
    with Service.over(Order, shop, region) as orders:
        assert orders.get_one("1").name == "old"
        writer.begin()
        person_repo.cover(engine, region)
        with engine.connect():
            writer.end()
            assert orders.get_one("1").name == "new"
    engine.dispose()


@pytest.mark.parametrize("database_url", ["mysql"], indirect=True)
def test_a_drop_that_is_refused_is_logged_and_raises_nothing(
    shop: sa.Engine, memcached_servers: list[Memcached], caplog: pytest.LogCaptureFixture
) -> None:
    engine = sa.create_engine(shop.url)
    options = {"timeout": 0.2, "connect_timeout": 0.2, "on_unreachable": "refuse"}
    with orm.Session(engine) as session:
        session.connection()
        person_repo.cached(Order)
        person_repo.cover(engine, make_region(patient_url(memcached_servers[:1], **options)))
        memcached_servers[0].kill()
        session.close()
    (record,) = [record for record in caplog.records if record.name == "person_repo.writing" and record.levelno > 30]
    assert "pr:person_repo:person, pr:person_repo:shop_order could not be dropped" in record.message
    engine.dispose()


@pytest.mark.parametrize("database_url", ["mysql"], indirect=True)
def test_the_only_connection_of_a_pool_comes_back_while_no_server_answers(
    shop: sa.Engine, memcached_servers: list[Memcached]
) -> None:
    """The drop needs a connection of the same pool, for the fence."""
    migrations.upgrade(shop, person=False)
    engine = sa.create_engine(shop.url, pool_size=1, max_overflow=0, pool_timeout=60)
    region = make_region(patient_url(memcached_servers[:1], timeout=0.2, connect_timeout=0.2))
    with Service.over(Order, shop, region) as orders, orm.Session(engine) as session:
        assert orders.get_one("1").name == "old"
        session.connection()
        person_repo.cached(Order)
        person_repo.cover(engine, region)
        memcached_servers[0].kill()
        began = time.monotonic()
        session.close()
        assert time.monotonic() - began < 30
        with shop.connect() as connection:
            assert connection.scalar(sa.select(sa.func.count()).select_from(FENCE)) > 0
    engine.dispose()


def test_an_engine_that_has_no_connection_out_is_covered_in_silence(
    shop: sa.Engine, cache_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    person_repo.cached(Order)
    shop.connect().close()
    with Service.over(Order, shop, cache_url) as orders, caplog.at_level(logging.WARNING):
        assert orders.get_one("1").name == "old"
        before = orders.stats()
        for _ in range(3):
            shop.connect().close()
        assert (orders.stats() - before).model_drops == 0
    assert not [record for record in caplog.records if record.name == "person_repo.writing"]


def test_where_the_pool_says_nothing_the_last_drop_is_after_the_longest_commit(shop: sa.Engine, cache_url: str) -> None:
    person_repo.cached(Order)
    engine = sa.create_engine(shop.url, poolclass=sa.pool.NullPool)
    engine.connect().close()
    with Service.over(Order, engine, make_region(cache_url, tombstone_ttl=1)) as orders:
        before = orders.stats()
        engine.connect().close()
        assert (orders.stats() - before).model_drops == 0
        time.sleep(1.1)
        for _ in range(3):
            engine.connect().close()
        assert (orders.stats() - before).model_drops == 2  # with the people, who are always declared
