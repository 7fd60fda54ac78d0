"""The state of a hydrated object is to everybody what SQLAlchemy's own is."""

from __future__ import annotations

import copy
import gc
import pickle
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import orm

from person_repo.mapped.mapping import EntityMapping
from person_repo.mapped.states import HydratedState, is_usual
from person_repo.model import Base, Person

PEOPLE = EntityMapping(Person)
ADA = ("ada", "Ada", "Lovelace", 1)


@pytest.fixture
def session() -> Iterator[orm.Session]:
    """A session over a database in which Ada is."""
    engine = sa.create_engine("sqlite://")
    Base.metadata.create_all(engine)
    with orm.Session(engine) as session:
        session.execute(sa.insert(Person).values(id="ada", first_name="Ada", last_name="Lovelace", version=1))
        session.commit()
        yield session
    engine.dispose()


def state_of(entity: Any) -> orm.InstanceState[Any]:
    state: orm.InstanceState[Any] = sa.inspect(entity)
    return state


def test_it_is_used() -> None:
    assert type(state_of(PEOPLE.hydrate(ADA))) is HydratedState


def test_it_has_every_attribute_of_a_loaded_one(session: orm.Session) -> None:
    loaded = session.get_one(Person, "ada")
    session.expunge(loaded)
    hydrated = PEOPLE.hydrate(ADA)
    names = {name for name in dir(state_of(loaded)) if not name.startswith("_")}
    of_an_object = {
        "attrs",
        "dict",
        "load_path",
        "obj",
        "object",
        "on_end",
        "runid",
        "unloaded",
        "unloaded_expirable",
        "unmodified",
    }
    assert names <= set(dir(state_of(hydrated)))
    for name in sorted(names - of_an_object):
        found, expected = getattr(state_of(hydrated), name), getattr(state_of(loaded), name)
        assert callable(expected) or found == expected, name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        state_of(hydrated).nothing  # type: ignore[attr-defined]  # noqa: B018


def test_an_object_that_a_session_has_and_nobody_else_leaves_it(session: orm.Session) -> None:
    hydrated = PEOPLE.hydrate(ADA)
    session.add(hydrated)
    assert len(session.identity_map) == 1
    del hydrated
    assert len(session.identity_map) == 0


def test_a_changed_object_stays_in_its_session_until_the_flush(session: orm.Session) -> None:
    hydrated = PEOPLE.hydrate(ADA)
    session.add(hydrated)
    hydrated.last_name = "Byron"
    del hydrated
    session.commit()
    assert session.scalar(sa.select(Person.last_name)) == "Byron"


def test_expired_expunged_and_added_again(session: orm.Session) -> None:
    hydrated = PEOPLE.hydrate(("ada", "old", "old", 1))
    session.add(hydrated)
    session.expire(hydrated, ["last_name"])
    assert (hydrated.first_name, hydrated.last_name) == ("old", "Lovelace")
    session.expire(hydrated)
    session.expunge(hydrated)
    with pytest.raises(orm.exc.DetachedInstanceError):
        hydrated.first_name  # noqa: B018
    session.add(hydrated)
    assert hydrated.first_name == "Ada"


def test_made_transient_and_detached_again(session: orm.Session) -> None:
    hydrated = PEOPLE.hydrate(ADA)
    orm.make_transient(hydrated)
    assert state_of(hydrated).transient
    assert state_of(hydrated).key is None
    orm.make_transient_to_detached(hydrated)
    assert state_of(hydrated).detached
    assert state_of(hydrated).key == state_of(PEOPLE.hydrate(ADA)).key
    orm.make_transient(hydrated)
    hydrated.id = "another"
    session.add(hydrated)
    session.commit()
    assert session.get_one(Person, "another").last_name == "Lovelace"


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickled_it_is_sqlalchemys_own(protocol: int, session: orm.Session) -> None:
    """A process that unpickles it need not have this package."""
    pickled = pickle.dumps(PEOPLE.hydrate(ADA), protocol)
    assert b"mapped.states" not in pickled
    back = pickle.loads(pickled)
    assert type(state_of(back)) is orm.InstanceState
    assert state_of(back).identity_key == state_of(PEOPLE.hydrate(ADA)).identity_key
    assert state_of(back).detached
    session.add(back)
    back.last_name = "Byron"
    session.commit()
    assert session.scalar(sa.select(Person.last_name)) == "Byron"


def test_a_transient_one_is_pickled_without_a_key() -> None:
    hydrated = PEOPLE.hydrate(ADA)
    orm.make_transient(hydrated)
    assert state_of(pickle.loads(pickle.dumps(hydrated))).key is None


def test_a_deep_copy_has_a_state_of_its_own() -> None:
    hydrated = PEOPLE.hydrate(ADA)
    other = copy.deepcopy(hydrated)
    other.last_name = "Byron"
    assert hydrated.last_name == "Lovelace"
    assert not state_of(hydrated).modified
    assert state_of(other).modified


def test_a_new_attribute_of_a_release_to_come_is_not_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    manager = orm.class_mapper(Person).class_manager
    assert is_usual(manager)
    original = orm.InstanceState.__init__

    def more(state: orm.InstanceState[Any], *arguments: Any) -> None:
        original(state, *arguments)
        state.more = 1  # type: ignore[attr-defined]

    monkeypatch.setattr(orm.InstanceState, "__init__", more)
    assert not is_usual(manager)
    assert state_of(EntityMapping(Person).hydrate(ADA)).more == 1  # type: ignore[attr-defined]


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="the containers are CPython's")
def test_an_object_has_few_containers_for_the_garbage_collector() -> None:
    """Each is visited by every collection while the object lives: itself, its dictionary, its state, the weak reference
    and what it calls, and the key, a tuple in a tuple.
    """
    PEOPLE.hydrate(ADA)
    gc.collect()
    gc.disable()
    try:
        before = len(gc.get_objects())
        made = [PEOPLE.hydrate(ADA) for _ in range(1000)]
        containers = len(gc.get_objects()) - before
    finally:
        gc.enable()
    assert len(made) == 1000
    assert containers <= 7_010
