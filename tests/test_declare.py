"""What may be declared as cached, and that a declaration configures none of the host's mappers."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import orm

import person_repo
from person_repo import ConfigurationError, Person
from person_repo.declare import Declaration, declaration_of, declared


@pytest.fixture
def host() -> type[orm.DeclarativeBase]:
    class Host(orm.DeclarativeBase):
        pass

    return Host


def declare_in(host: type[Any], name: str, bases: tuple[type[Any], ...] = (), **attributes: Any) -> type[Any]:
    """A mapped class of the host's, with an integer key."""
    key = {"id": sa.Column(sa.Integer, primary_key=True)} if not bases else {}
    table = {"__tablename__": name.lower()} if not bases else {}
    return type(name, bases or (host,), {**table, **key, **attributes})


def test_person_is_declared() -> None:
    assert declaration_of(Person) == Declaration(cache="default")


def test_a_declared_class_is_the_class_itself(host: type[Any]) -> None:
    @person_repo.cached
    class Plain(host):
        __tablename__ = "plain"
        id = sa.Column(sa.Integer, primary_key=True)

    @person_repo.cached(cache="orders")
    class Order(host):
        __tablename__ = "order"
        id = sa.Column(sa.Integer, primary_key=True)

    elsewhere = declare_in(host, "Elsewhere")
    assert person_repo.cached(elsewhere) is elsewhere
    assert issubclass(Plain, host)
    names = {entity: declaration.cache for entity, declaration in declared()}
    assert (names[Plain], names[Order], names[elsewhere]) == ("default", "orders", "default")


def test_a_class_may_be_declared_again_in_the_same_words(host: type[Any]) -> None:
    entity = declare_in(host, "Order")
    person_repo.cached(entity, cache="orders")
    person_repo.cached(entity, cache="orders")
    with pytest.raises(
        ConfigurationError, match=r"Order is declared with cache='orders', ttl=None already, and now with cache='x'"
    ):
        person_repo.cached(entity, cache="x")


def test_a_hierarchy_is_declared_at_its_root(host: type[Any]) -> None:
    animal = declare_in(host, "Animal")
    dog = declare_in(host, "Dog", (animal,))
    with pytest.raises(ConfigurationError, match="Dog inherits from Animal: declare Animal, which declares both"):
        person_repo.cached(dog)
    person_repo.cached(animal)
    assert declaration_of(dog) == declaration_of(animal) == Declaration()


@pytest.mark.parametrize("entity", [int, "Person", None.__class__, 7])
def test_what_is_not_mapped_cannot_be_declared(entity: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"is not a mapped class; put @cached above .* after prepare\(\)"):
        person_repo.cached(entity)
    assert declaration_of(entity) is None


@pytest.mark.parametrize("cache", ["", 7, None])
def test_a_cache_has_a_name(host: type[Any], cache: Any) -> None:
    with pytest.raises(ConfigurationError, match=rf"cache={cache!r} is no name; give a string"):
        person_repo.cached(declare_in(host, "Order"), cache=cache)


@pytest.mark.parametrize(
    ("ttl", "message"), [(0, "ttl 0: give whole seconds"), ("60", "ttl='60' is str"), (2.5, "float")]
)
def test_a_ttl_is_within_its_limits(host: type[Any], ttl: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        person_repo.cached(declare_in(host, "Order"), ttl=ttl)


def test_a_class_may_name_one_that_comes_later(host: type[Any]) -> None:
    """SQLAlchemy never again configures mappers of which one has failed, and a foreign key has no type before."""
    second_id = sa.Column(sa.ForeignKey("second.id"))
    first = declare_in(host, "First", second=orm.relationship("Second"), second_id=second_id)
    person_repo.cached(first)
    engine = sa.create_engine("sqlite://")
    person_repo.cover(engine, "memory://")
    assert not orm.class_mapper(first, configure=False).configured

    second = declare_in(host, "Second")
    assert first(second=second()).second is not None
    assert isinstance(second_id.type, sa.Integer)
