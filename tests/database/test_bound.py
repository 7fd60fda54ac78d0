"""A repository inside a session of the host's."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event, orm
from support.entities import once, person, stored

from person_repo.database.bound import BoundRepository
from person_repo.exceptions import (
    ConfigurationError,
    EntityExistsError,
    InvalidEntityError,
    InvalidIdError,
    PersonNotFoundError,
    StaleEntityError,
    UnknownFieldError,
)
from person_repo.model import Person
from person_repo.service import PersonService


@once
def test_a_bound_repository_sees_the_sessions_changes_and_commits_nothing(people: PersonService) -> None:
    people.add_many([person(), person("bob")])
    with orm.Session(people.engine) as session:
        bound = people.bind(session)
        bound.update("ada", first_name="Augusta")
        assert bound.delete("bob") is True
        assert bound.delete("bob") is False
        bound.add(person("eve"))
        assert bound.upsert(person("joe")).version == 1
        assert bound.add_many([person("kim"), person("lou")]) == 2
        session.get_one(Person, "eve").first_name = "Eva"

        assert bound.get_one("ada").first_name == "Augusta"
        assert bound.get("bob") is None
        assert bound.get_many(["lou", "bob", "eve"]) == {"lou": person("lou"), "eve": person("eve", "Eva")}
        assert bound.exists("kim")
        assert not bound.exists("bob")
        assert [found.id for found in bound.list()] == ["ada", "eve", "joe", "kim", "lou"]
        assert [found.id for found in bound.list(after="eve", limit=2)] == ["joe", "kim"]
        assert bound.find(first_name="Eva") == [person("eve", "Eva")]
        assert bound.count() == 5
        session.rollback()

    assert people.list() == [person(), person("bob")]
    assert people.get_many(["ada", "bob", "eve"]) == {"ada": person(), "bob": person("bob")}


@once
def test_a_bound_repositorys_changes_are_the_hosts_to_commit(people: PersonService) -> None:
    people.add(person())
    assert people.get("ada") == person()
    with orm.Session(people.engine) as session, session.begin():
        people.bind(session).update("ada", first_name="Augusta")

    assert people.get("ada") == person(first_name="Augusta")


@once
def test_entities_from_a_bound_repository_are_persistent_in_the_session(people: PersonService) -> None:
    people.add(person())
    with orm.Session(people.engine) as session:
        bound = people.bind(session)
        found = bound.get_one("ada")
        assert bound.get("ada") is found
        assert bound.get_many(["ada"])["ada"] is bound.list()[0] is bound.find()[0] is found
        assert session.get(Person, "ada") is found
        added = person("bob")
        bound.add(added)
        assert added in session
        found.first_name = "Augusta"
        session.commit()

    assert people.get_one("ada").first_name == "Augusta"


@once
def test_nothing_that_a_bound_repository_reads_or_writes_reaches_the_cache(people: PersonService) -> None:
    people.add(person())
    before = people.stats()
    with orm.Session(people.engine) as session:
        bound = people.bind(session)
        bound.update("ada", first_name="Augusta")
        bound.get_one("ada")
        bound.get_many(["ada", "bob"])
        bound.list()
        spent = people.stats() - before
        assert (spent.round_trips, spent.fills, spent.loads) == (0, 0, 0)


@once
def test_a_bound_repository_raises_as_the_repository_does(people: PersonService) -> None:
    people.add(person())
    with orm.Session(people.engine) as session:
        bound = people.bind(session)
        with pytest.raises(PersonNotFoundError):
            bound.get_one("nobody")
        with pytest.raises(InvalidIdError):
            bound.get(1)
        with pytest.raises(UnknownFieldError):
            bound.find(surname="A")
        with pytest.raises(InvalidEntityError):
            bound.add(person("x" * 101))
        with pytest.raises(ValueError, match="limit"):
            bound.list(limit=0)
        with pytest.raises(EntityExistsError):
            bound.add(person())


@once
def test_a_row_read_for_update_is_fresh_and_nobody_else_can_change_it(people: PersonService) -> None:
    people.add(person())
    arguments = {"timeout": 0} if people.engine.dialect.name == "sqlite" else {}
    impatient = sa.create_engine(people.engine.url, connect_args=arguments)
    if not arguments:
        event.listen(impatient, "connect", lambda driver, _: driver.query("SET innodb_lock_wait_timeout = 1"))
    with orm.Session(people.engine) as session:
        session.execute(sa.text("SELECT 1"))
        bound = people.bind(session)
        seen = bound.get_one("ada")
        people.update("ada", first_name="Augusta")
        assert seen.first_name == "Ada"
        assert bound.get_one("ada", for_update=True) is seen
        assert seen.first_name == "Augusta"
        with pytest.raises(sa.exc.OperationalError), impatient.begin() as connection:
            connection.execute(sa.update(Person).values(first_name="lost"))
        session.rollback()
    with impatient.begin() as connection:
        connection.execute(sa.update(Person).values(first_name="free"))

    assert stored(people.engine)[0][1] == "free"
    impatient.dispose()


@once
def test_reading_for_update_drops_nothing_from_the_cache(people: PersonService) -> None:
    people.add(person())
    people.cached.get("ada")
    before = people.stats()
    with orm.Session(people.engine) as session, session.begin():
        people.bind(session).get_one("ada", for_update=True)

    assert (people.stats() - before).tombstones == (people.stats() - before).model_drops == 0


@once
def test_a_scoped_session_can_be_bound(people: PersonService) -> None:
    registry = orm.scoped_session(orm.sessionmaker(people.engine))
    bound = people.bind(registry)
    pending = person()
    registry.add(pending)
    bound.add(pending)

    assert isinstance(bound, BoundRepository)
    assert bound.session is registry()
    assert bound.get("ada") is pending
    registry.remove()


@once
@pytest.mark.parametrize("unusable", [None, "session", sa.create_engine("sqlite://"), orm.sessionmaker()])
def test_anything_but_a_session_cannot_be_bound(people: PersonService, unusable: Any) -> None:
    with pytest.raises(ConfigurationError, match="Session"):
        people.bind(unusable)


@once
def test_a_bound_update_leaves_other_pending_changes_in_place(people: PersonService) -> None:
    """The row is read again and locked, and the session's own changes to it are not lost."""
    people.add(person())
    for autoflush, name in ((True, "King"), (False, "Byron")):
        with orm.Session(people.engine, autoflush=autoflush) as session, session.begin():
            session.get_one(Person, "ada").last_name = name
            people.bind(session).update("ada", first_name="Augusta")

        assert people.get("ada") == person(first_name="Augusta", last_name=name)


@once
def test_a_pending_change_that_others_overtook_is_refused_when_the_row_is_read_for_update(
    people: PersonService,
) -> None:
    people.add(person())
    with orm.Session(people.engine) as session:
        bound = people.bind(session)
        bound.get_one("ada").last_name = "King"
        people.update("ada", first_name="Augusta")
        with pytest.raises(StaleEntityError):
            bound.get("ada", for_update=True)

    assert people.get("ada") == person(first_name="Augusta")
