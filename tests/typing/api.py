"""The public surface as type checkers see it: mypy --strict and pyright --strict read this file, nobody runs it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, assert_type

import sqlalchemy as sa
from alembic import context
from dogpile.cache import CacheRegion
from sqlalchemy import orm

import person_repo
from person_repo import (
    Base,
    BoundRepository,
    CachedRepository,
    CacheError,
    CacheUnavailableError,
    ConfigurationError,
    EntityExistsError,
    EntityNotFoundError,
    ExactString,
    Finding,
    InvalidEntityError,
    InvalidIdError,
    MigrationError,
    OverloadError,
    Person,
    PersonNotFoundError,
    PersonRepoError,
    PersonService,
    Repository,
    Service,
    SQLAlchemyRepository,
    StaleEntityError,
    Stats,
    UnknownFieldError,
    cached,
    connect,
    cover,
    make_region,
    migrations,
)


class Order(Base):
    """A host's own class, on our base."""

    __tablename__ = "orders"

    shop: orm.Mapped[str] = orm.mapped_column(ExactString(40), primary_key=True)
    number: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    note: orm.Mapped[str | None] = orm.mapped_column(default=None)


class PlainBase(orm.DeclarativeBase):
    pass


class Invoice(PlainBase):
    """A host's own class, on a base of its own, not a dataclass."""

    __tablename__ = "invoice"

    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)


def two_urls() -> None:
    assert_type(connect("sqlite://"), PersonService)
    assert_type(connect(sa.make_url("sqlite://"), "memory://", use_db=True), PersonService)
    assert_type(connect("sqlite://", "memcached://cache", namespace="crm", ttl=60, timeout=0.5), PersonService)
    with person_repo.connect("sqlite://") as people:
        assert_type(people, PersonService)


def regions() -> CacheRegion:
    assert_type(make_region("memory://"), CacheRegion)
    return make_region("memcached://10.0.0.1:11211,10.0.0.2:11211", namespace="crm", ttl=3600)


def a_model() -> None:
    ada = Person(id="ada", first_name="Ada", last_name="Lovelace")
    assert_type(ada.id, str)
    assert_type(ada.first_name, str)
    assert_type(ada.version, int)
    assert_type(Person.first_name == "Ada", sa.ColumnElement[bool])


def people_over_anything(
    sessions: orm.sessionmaker[orm.Session], registry: orm.scoped_session[orm.Session], engine: sa.Engine
) -> PersonService:
    region = regions()
    assert_type(PersonService.over(sessions, region), PersonService)
    assert_type(PersonService.over(registry, "memory://", use_db=True), PersonService)
    assert_type(PersonService.over(engine, region, use_db=False, engine=engine), PersonService)
    return PersonService.over(sessions, region)


def other_classes(sessions: orm.sessionmaker[orm.Session], engine: sa.Engine) -> None:
    orders = Service.over(Order, sessions, regions())
    assert_type(orders, Service[Order])
    assert_type(orders.get(("shop", 1)), Order | None)
    assert_type(orders.get_one(("shop", 1)).note, str | None)
    assert_type(orders.get_many([("shop", 1), ("shop", 2)]), dict[Any, Order])
    assert_type(orders.list(after=("shop", 1)), list[Order])
    assert_type(orders.update(("shop", 1), note="changed"), Order)
    assert_type(orders.upsert(Order(shop="shop", number=1)), Order)
    with orders.using(use_db=True) as same:
        assert_type(same, Service[Order])
    invoices = Service.over(Invoice, engine, "memory://", use_db=True, engine=engine)
    assert_type(invoices.get_one(1), Invoice)


def reads(people: PersonService) -> None:
    assert_type(people.get("ada"), Person | None)
    assert_type(people.get_one("ada"), Person)
    assert_type(people.get_many(["ada", "bob"]), dict[Any, Person])
    assert_type(people.get_many(id for id in ("ada", "bob")), dict[Any, Person])
    assert_type(people.exists("ada"), bool)
    assert_type(people.find(first_name="Ada", last_name="Lovelace"), list[Person])
    assert_type(people.list(), list[Person])
    assert_type(people.list(after="ada", limit=10), list[Person])
    assert_type(people.count(), int)


def writes(people: PersonService, ada: Person) -> None:
    def many() -> Iterator[Person]:
        yield ada

    people.add(ada)
    assert_type(people.add_many(many()), int)
    assert_type(people.add_many([ada]), int)
    assert_type(people.update("ada", first_name="Augusta"), Person)
    assert_type(people.upsert(ada), Person)
    assert_type(people.delete("ada"), bool)


def the_toggle(people: PersonService) -> None:
    assert_type(people.use_db, bool)
    people.use_db = True
    with people.using(use_db=False) as same:
        assert_type(same, PersonService)
        assert_type(same.get("ada"), Person | None)


def inside_a_session(
    people: PersonService, session: orm.Session, registry: orm.scoped_session[orm.Session]
) -> BoundRepository[Person]:
    bound = people.bind(session)
    assert_type(bound, BoundRepository[Person])
    assert_type(people.bind(registry), BoundRepository[Person])
    assert_type(bound.session, orm.Session)
    assert_type(bound.get("ada", for_update=True), Person | None)
    assert_type(bound.get_one("ada", for_update=True), Person)
    assert_type(bound.get_many(["ada"]), dict[Any, Person])
    assert_type(bound.find(first_name="Ada"), list[Person])
    assert_type(bound.list(limit=1), list[Person])
    assert_type(bound.count(), int)
    assert_type(bound.update("ada", first_name="Augusta"), Person)
    assert_type(bound.delete("ada"), bool)
    return bound


@person_repo.cached
class Shop(Base):
    __tablename__ = "shop"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)


@person_repo.cached(cache="orders")
class Receipt(Base):
    __tablename__ = "receipt"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)


def declarations(engine: sa.Engine, region: CacheRegion) -> None:
    assert_type(Shop(id=1).id, int)
    assert_type(Receipt(id=1), Receipt)
    assert_type(cached(Person, cache="default"), type[Person])
    cover(engine, region)
    cover(engine, "memory://")
    cover(engine, {"default": region, "orders": "memory://"})


def the_cache(people: PersonService, other: sa.Engine) -> None:
    people.cover(other)
    people.invalidate("ada", "bob")
    people.invalidate()
    people.invalidate_all()
    assert_type(people.deliver(), int)
    assert_type(people.coherence, Literal["strict", "process", "best-effort"])
    spent = people.stats() - people.stats()
    assert_type(spent, Stats)
    assert_type(spent.hits + spent.round_trips, int)
    assert_type(spent.as_dict(), dict[str, int])


def what_it_stands_on(people: PersonService) -> None:
    assert_type(people.sessions, "orm.sessionmaker[Any] | orm.scoped_session[Any] | sa.Engine")
    assert_type(people.engine, sa.Engine)
    assert_type(people.read_engine, sa.Engine)
    assert_type(people.region, CacheRegion)
    assert_type(people.database, SQLAlchemyRepository[Person])
    assert_type(people.database.add_rows(["id"], [[("ada",)], [("bob",)]]), int)
    assert_type(people.database.add_rows(("id",), (rows for rows in [[("ada",)]]), checked=True), int)
    assert_type(people.cached, CachedRepository[Person])
    people.closing.callback(print, "closed")
    people.close()


def repositories(engine: sa.Engine, reads: sa.Engine) -> PersonService:
    database = SQLAlchemyRepository(Person, engine, read_engine=reads)
    assert_type(database, SQLAlchemyRepository[Person])
    cached = CachedRepository(database, "memory://")
    assert_type(cached, CachedRepository[Person])
    assert_type(cached.get("ada"), Person | None)
    assert_type(Service(database=database, cached=cached), Service[Person])
    return PersonService(database=database, cached=cached, use_db=True)


def anything_that_keeps_people(people: Repository[Person]) -> Person:
    """A host's function that does not care which of them it is given."""
    found = people.get("ada")
    assert_type(found, Person | None)
    assert_type(people.get_many(["ada"]), dict[Any, Person])
    return found or people.get_one("bob")


def all_of_them_do(people: PersonService, session: orm.Session) -> None:
    anything_that_keeps_people(people)
    anything_that_keeps_people(people.database)
    anything_that_keeps_people(people.cached)
    anything_that_keeps_people(people.bind(session))


def hosts_subclass(sessions: orm.sessionmaker[orm.Session]) -> None:
    class Staff(PersonService):
        """A service with a method of its own."""

        def initials(self, id: str) -> str:
            found = self.get_one(id)
            return found.first_name[:1] + found.last_name[:1]

    assert_type(Staff.over(sessions, "memory://").initials("ada"), str)


def errors(people: PersonService) -> object:
    try:
        people.get_one("nobody")
    except PersonNotFoundError as error:
        assert_type(error.entity, str)
        return error.id
    except (EntityNotFoundError, EntityExistsError, StaleEntityError, InvalidEntityError) as error:
        root: PersonRepoError = error
        return root
    except (InvalidIdError, UnknownFieldError, ConfigurationError) as error:
        value: ValueError = error
        return value
    except (MigrationError, OverloadError, CacheUnavailableError, CacheError):
        return None
    return None


def checks(people: PersonService) -> None:
    for finding in assert_type(people.check(), tuple[Finding, ...]):
        assert_type(finding.about, Literal["database", "schema", "cache"])
        assert_type((finding.problem, finding.remedy), tuple[str, str])


def the_schema(engine: sa.Engine) -> None:
    migrations.upgrade("sqlite:///people.db")
    migrations.upgrade(engine, "person_repo@head", person=True)
    migrations.downgrade(engine, "base")
    assert_type(migrations.current(engine), tuple[str, ...])
    assert_type(migrations.heads(person=False), tuple[str, ...])
    assert_type(migrations.script_location(), str)
    context.configure(include_object=migrations.include_object, render_item=migrations.render_item)


def public_modules_without_an_import_of_their_own(region: CacheRegion) -> None:
    assert_type(person_repo.settings.redact("sqlite://"), str)
    assert_type(person_repo.backends.lease_backend(region), person_repo.backends.LeaseBackend)
    assert_type(person_repo.testing.Proxy("127.0.0.1:11211").address, str)
    assert_type(person_repo.migrations.heads(), tuple[str, ...])
    assert_type(person_repo.exceptions.OverloadError(), OverloadError)
