"""The methods of a repository on both databases and on both sides of the toggle: the results must not differ."""

from __future__ import annotations

import contextlib
import datetime
import decimal
import itertools
import uuid
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event, orm
from support.entities import Badge, Loose, OwnBase, Step, Ticket, once, person, stored
from support.models import Parcel, Size, parcel
from support.urls import MEMORY

from person_repo.database.bound import BoundRepository
from person_repo.database.repository import SQLAlchemyRepository
from person_repo.exceptions import (
    EntityExistsError,
    EntityNotFoundError,
    InvalidEntityError,
    InvalidIdError,
    PersonNotFoundError,
    PersonRepoError,
    StaleEntityError,
    UnknownFieldError,
)
from person_repo.model import Base, Person
from person_repo.reading.cached import CachedRepository
from person_repo.service import PersonService, Service

Statements = Callable[..., AbstractContextManager[list[str]]]

AWKWARD_IDS = (
    "", " ", "a", "A", "a ", " a", "á", "a\u0301", "Ångström", "ångström", "日本", "🐍", "%", "_", "'", "\\", "a,b",
    "a:b", "a/b", "\n", "\t", "x" * 100, "ß", "ss", "0", "00", "None",
)  # fmt: skip
"""Strings that databases, cache keys or sloppy comparisons confuse."""

# Reads


def test_get_gives_the_entity_or_none(people: PersonService) -> None:
    assert people.get("ada") is None
    people.add(person())

    assert people.get("ada") == person()
    assert people.get("ada") == person()
    assert people.get("bob") is None


def test_entities_that_are_read_are_detached_and_complete_and_have_their_version(people: PersonService) -> None:
    people.add(person())
    for found in (people.get_one("ada"), people.get_one("ada"), people.get_many(["ada"])["ada"], people.list()[0]):
        assert sa.inspect(found).detached
        assert not sa.inspect(found).modified
        assert vars(found).keys() >= {"id", "first_name", "last_name", "version"}
        assert found.version == 1


def test_every_read_gives_objects_of_its_own(people: PersonService) -> None:
    people.add(person())
    seen = [people.get_one("ada"), people.get_one("ada"), people.get_many(["ada"])["ada"], people.find()[0]]
    seen[0].first_name = "Augusta"

    assert len(set(map(id, seen))) == 4
    assert seen[1:] == [person()] * 3
    assert people.get("ada") == person()


@once
def test_a_change_inside_a_value_is_not_seen_by_others(parcels: Service[Parcel]) -> None:
    parcels.add(parcel())
    for _ in range(3):
        found = parcels.get_one(("Köln", 7))
        assert found.contents == parcel().contents
        found.contents["nested"]["new"] = 1
        found.contents["items"].append("new")

    assert parcels.get_many([("Köln", 7)])["Köln", 7].contents == parcel().contents


def test_every_kind_of_column_comes_back_as_it_was_stored(parcels: Service[Parcel]) -> None:
    variants = [
        parcel(),
        parcel("Nîmes", -(2**31), note="", tags=(), contents=None, fragile=False, weight=-0.0, label=b""),
        parcel("x" * 40, 2**31 - 1, contents=[], price=decimal.Decimal("-0.0001"), size=Size.SMALL, weight=1e300),
        parcel("Köln", 0, due=datetime.date.min, received=datetime.datetime.max, token=uuid.UUID(int=0)),
    ]
    for variant in variants:
        parcels.add(variant)
    keys = [(variant.depot, variant.number) for variant in variants]
    for _ in range(2):
        assert [parcels.get(key) for key in keys] == variants
        assert list(parcels.get_many(keys).values()) == variants


def test_get_one_names_the_missing_id(people: PersonService, parcels: Service[Parcel]) -> None:
    with pytest.raises(PersonNotFoundError, match="'nobody'") as caught:
        people.get_one("nobody")
    assert (caught.value.entity, caught.value.id) == ("Person", "nobody")
    assert isinstance(caught.value, LookupError)

    with pytest.raises(EntityNotFoundError, match="Parcel") as other:
        parcels.get_one(("Köln", 7))
    assert not isinstance(other.value, PersonNotFoundError)


def test_get_many_gives_existing_entities_in_the_order_of_the_ids(people: PersonService) -> None:
    people.add_many(person(id) for id in "abcde")
    for _ in range(2):
        found = people.get_many(id for id in ["d", "nobody", "a", "d", "x" * 101, "c", "a"])
        assert list(found) == ["d", "a", "c"]
        assert found == {id: person(id) for id in "dac"}
    assert people.get_many([]) == {}


def test_ten_thousand_ids_are_read_with_repeats_asked_once(
    people: PersonService, use_db: bool, statements: Statements
) -> None:
    people.add_many(person(f"p{number:05}") for number in range(3000))
    ids = [f"p{number:05}" for number in range(5000, 0, -1)]
    with statements(people.engine, people.read_engine) as seen:
        first = people.get_many(ids + ids)
        cold = len(seen)
        again = people.get_many(ids + ids)
        warm = len(seen) - cold

    assert list(first) == [id for id in ids if id < "p03000"]
    assert list(again) == list(first)
    assert all(found == person(id) for id, found in again.items())
    assert (cold, warm) == ((6, 6) if use_db else (6, 0))


@once
def test_one_string_is_no_collection_of_ids(people: PersonService) -> None:
    for ids in ("ada", b"ada"):
        with pytest.raises(TypeError, match="letter by letter"):
            people.get_many(ids)


def test_ids_that_cannot_be_stored_are_not_there(people: PersonService) -> None:
    for id in ("x" * 101, "\ud800", "é" * 101):
        assert people.get(id) is None
        assert not people.exists(id)
        assert people.get_many([id]) == {}
        assert people.delete(id) is False
        with pytest.raises(PersonNotFoundError):
            people.update(id, first_name="A")


@pytest.mark.parametrize("id", [1, None, True, 1.5, b"ada", ("ada",), ["ada"], type("Id", (str,), {})("ada")])
def test_ids_of_another_type_are_refused(people: PersonService, id: Any) -> None:
    for use in (people.get, people.get_one, people.exists, people.update, people.delete):
        with pytest.raises(InvalidIdError):
            use(id)
    with pytest.raises(InvalidIdError):
        people.get_many(["ada", id])
    if id is not None:
        with pytest.raises(InvalidIdError):
            people.list(after=id)


@pytest.mark.parametrize("id", ["Köln", ("Köln",), ("Köln", "7"), (7, "Köln"), ["Köln", 7], ("Köln", 7, 7)])
def test_composite_ids_are_tuples_of_the_right_types(parcels: Service[Parcel], id: Any) -> None:
    for use in (parcels.get, parcels.exists, parcels.delete):
        with pytest.raises(InvalidIdError):
            use(id)


def test_ids_that_look_alike_are_as_many_people(people: PersonService, use_db: bool) -> None:
    """Reads, changes and deletes one by one and together, and no row is taken for another."""
    for id in AWKWARD_IDS:
        assert people.get(id) is None
    people.add_many(person(id, first_name=f"<{id}>") for id in AWKWARD_IDS[::2])
    for id in AWKWARD_IDS[1::2]:
        people.add(person(id, first_name=f"<{id}>"))

    for _ in range(2):
        assert {id: people.get_one(id).first_name for id in AWKWARD_IDS} == {id: f"<{id}>" for id in AWKWARD_IDS}
        assert {id: found.id for id, found in people.get_many(AWKWARD_IDS).items()} == {id: id for id in AWKWARD_IDS}
    assert [found.id for found in people.find(first_name="<a >")] == ["a "]

    people.update("a ", last_name="changed")
    people.upsert(person("A", last_name="changed too"))
    assert people.delete("á")
    changed = {"a ": "changed", "A": "changed too"}
    assert {id: found.last_name for id, found in people.get_many(AWKWARD_IDS).items()} == {
        id: changed.get(id, "Lovelace") for id in AWKWARD_IDS if id != "á"
    }


def test_an_entity_exists_or_not(people: PersonService) -> None:
    people.add(person())
    for _ in range(2):
        assert people.exists("ada") is True
        assert people.exists("bob") is False


def test_find_gives_all_that_are_equal_by_key(people: PersonService) -> None:
    people.add_many([person("b"), person("a"), person("c", first_name="ADA"), person("d", last_name="King")])

    assert [found.id for found in people.find(first_name="Ada")] == ["a", "b", "d"]
    assert [found.id for found in people.find(first_name="Ada", last_name="Lovelace")] == ["a", "b"]
    assert [found.id for found in people.find(version=1)] == ["a", "b", "c", "d"]
    assert people.find(id="d") == [person("d", last_name="King")]
    assert people.find(id="x" * 101) == people.find(last_name="lovelace") == []
    with pytest.raises(UnknownFieldError, match="surname"):
        people.find(surname="Lovelace")


@once
def test_find_takes_none_for_null_and_values_of_any_kind(parcels: Service[Parcel]) -> None:
    parcels.add(parcel("A", 1))
    parcels.add(parcel("A", 2, note="fragile", size=Size.SMALL))

    assert [found.number for found in parcels.find(note=None)] == [1]
    assert [found.number for found in parcels.find(size=Size.SMALL, depot="A")] == [2]
    assert [found.number for found in parcels.find(price=decimal.Decimal("12345678.9"))] == [1, 2]
    assert [found.number for found in parcels.find(token=parcel().token, number=2)] == [2]


def test_pages_together_are_all_of_it_in_the_order_of_code_points(people: PersonService) -> None:
    people.add_many(person(id) for id in AWKWARD_IDS)
    for size in (1, 4, 27, 100):
        pages = [people.list(limit=size)]
        while pages[-1]:
            pages.append(people.list(after=pages[-1][-1].id, limit=size))
        assert [found.id for page in pages for found in page] == sorted(AWKWARD_IDS)
        assert max(map(len, pages)) == min(size, len(AWKWARD_IDS))


@once
def test_pages_of_composite_keys_are_in_order_too(parcels: Service[Parcel]) -> None:
    keys = [(depot, number) for depot in ("b", "B", "a", "a ", "ä") for number in (10, 9, -1)]
    parcels.add_many(parcel(*key) for key in keys)
    found: list[Parcel] = []
    while page := parcels.list(after=(found[-1].depot, found[-1].number) if found else None, limit=4):
        found += page

    assert [(each.depot, each.number) for each in found] == sorted(keys)


def test_a_page_begins_after_an_id_that_may_be_missing(people: PersonService) -> None:
    people.add_many(person(id) for id in "ace")

    assert [found.id for found in people.list(after="b")] == ["c", "e"]
    assert [found.id for found in people.list(after="c", limit=1)] == ["e"]
    assert people.list(after="e") == []
    assert len(people.list(after="")) == 3
    with pytest.raises(InvalidIdError, match="after"):
        people.list(after="\ud800")
    for limit in (0, -1):
        with pytest.raises(ValueError, match="limit"):
            people.list(limit=limit)


@once
def test_everybody_counts(people: PersonService) -> None:
    assert people.count() == 0
    people.add_many(person(id) for id in "ace")
    assert people.count() == 3


# Writes


def test_add_stores_the_object_and_leaves_it_usable(people: PersonService) -> None:
    ada = person()
    people.add(ada)

    assert stored(people.engine) == [("ada", "Ada", "Lovelace", 1)]
    assert sa.inspect(ada).detached
    assert ada.version == 1
    ada.first_name = "Augusta"
    assert people.upsert(ada).version == 2


@once
def test_values_that_the_database_makes_up_can_be_read_after_add(loose: Service[Loose]) -> None:
    entity = Loose(code="a")
    loose.add(entity)

    assert (entity.code, entity.name, entity.made) == ("a", None, 42)
    assert loose.upsert(Loose(code="b")).made == 42
    assert loose.get_one("b").made == 42


def test_a_key_that_is_taken_is_refused(people: PersonService) -> None:
    people.add(person())
    other = person(first_name="Augusta")
    with pytest.raises(EntityExistsError, match=r"^Person 'ada' exists already: ") as caught:
        people.add(other)
    assert (caught.value.entity, caught.value.id) == ("Person", "ada")

    assert stored(people.engine) == [("ada", "Ada", "Lovelace", 1)]
    assert people.get("ada") == person()
    assert people.upsert(other) == other
    assert stored(people.engine) == [("ada", "Augusta", "Lovelace", 2)]


@once
@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (person("x" * 101), "101 characters"),
        (person(first_name="x" * 201), "201 characters"),
        (person(last_name=None), "None"),  # type: ignore[arg-type]
        (person(last_name="\ud800"), "surrogate"),
        (person(first_name=b"Ada"), "bytes"),  # type: ignore[arg-type]
        (person(id=1), "int"),  # type: ignore[arg-type]
        (object(), "object"),
        (None, "NoneType"),
        (Person, "Person"),
    ],
)
def test_entities_that_the_database_would_refuse_or_change_are_refused(
    people: PersonService, wrong: Any, reason: str
) -> None:
    for write in (people.add, people.upsert, lambda entity: people.add_many([person("fine"), entity])):
        with pytest.raises(InvalidEntityError, match=reason):
            write(wrong)

    assert stored(people.engine) == []


@once
def test_a_taken_composite_key_is_named(parcels: Service[Parcel]) -> None:
    parcels.add(parcel("Köln", 7))
    with pytest.raises(EntityExistsError, match=r"^Parcel \('Köln', 7\) exists already: ") as caught:
        parcels.add(parcel("Köln", 7))

    assert (caught.value.entity, caught.value.id) == ("Parcel", ("Köln", 7))


def test_no_id_is_named_if_another_unique_column_or_another_table_is_in_the_way(engine: sa.Engine) -> None:
    OwnBase.metadata.create_all(engine)
    with Service.over(Badge, engine, MEMORY) as badges:
        badges.add(Badge(id=1, code="a"))
        with pytest.raises(EntityExistsError, match=r"^Badge exists already: ") as caught:
            badges.add(Badge(id=2, code="a"))
    with Service.over(Ticket, engine, MEMORY) as tickets:
        tickets.add(Ticket(id=1, title="first", steps=[Step(id=1)]))
        with pytest.raises(EntityExistsError, match=r"^Ticket exists already: ") as other:
            tickets.add(Ticket(id=2, title="second", steps=[Step(id=1)]))

    assert (caught.value.entity, caught.value.id) == ("Badge", None)
    assert (other.value.entity, other.value.id) == ("Ticket", None)


@once
def test_a_row_that_violates_a_check_is_invalid_and_no_duplicate(parcels: Service[Parcel]) -> None:
    with parcels.engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE parcel"))
        checked = sa.Table("parcel", sa.MetaData(), *[column._copy() for column in Parcel.__table__.columns])
        checked.append_constraint(sa.CheckConstraint("weight > 0", name="heavy"))
        checked.create(connection)
    with pytest.raises(InvalidEntityError, match="refused by the database"):
        parcels.add(parcel(weight=-1.0))
    parcels.add(parcel())
    with pytest.raises(EntityExistsError):
        parcels.add_many([parcel(number=8), parcel()])
    assert parcels.count() == 1


@once
def test_a_copy_of_something_stored_is_not_added(people: PersonService) -> None:
    people.add(person())
    for copy in (people.get_one("ada"), people.get_one("ada")):
        with pytest.raises(InvalidEntityError, match="update or upsert"):
            people.add(copy)
    people.delete("ada")
    with pytest.raises(InvalidEntityError):
        people.add(copy)


@once
def test_an_object_of_another_session_is_not_added(people: PersonService) -> None:
    with orm.Session(people.engine) as session:
        pending = person()
        session.add(pending)
        with pytest.raises(InvalidEntityError, match="another session"):
            people.add(pending)
        session.flush()
        with pytest.raises(InvalidEntityError):
            people.add(pending)
        session.rollback()

    assert stored(people.engine) == []


def test_a_hundred_thousand_are_added_as_they_are_made(people_engine: sa.Engine) -> None:
    """Counts the rows that the driver is given, and the objects, one in ten of them, that are alive."""
    total = 100_000 if people_engine.dialect.name == "sqlite" else 10_000
    people = SQLAlchemyRepository(Person, people_engine)
    alive: dict[int, weakref.ref[Person]] = {}
    most_alive = sent = longest_lead = 0

    @event.listens_for(people_engine, "before_cursor_execute")
    def count(_c: object, _cursor: object, statement: str, parameters: Any, _context: object, many: bool) -> None:
        nonlocal sent
        sent += len(parameters) if many and statement.startswith("INSERT") else 0

    def made() -> Iterator[Person]:
        nonlocal most_alive, longest_lead
        for number in range(total):
            one = person(f"p{number:06}")
            if number % 10 == 0:
                alive[number] = weakref.ref(one, lambda _, number=number: alive.pop(number, None))  # type: ignore[misc]
                most_alive = max(most_alive, len(alive))
            longest_lead = max(longest_lead, number + 1 - sent)
            yield one

    assert people.add_many(made()) == total
    assert people.count() == sent == total
    assert longest_lead <= 1000
    assert most_alive <= 200
    assert people.get_one(f"p{total - 1:06}").version == 1
    people.close()


def test_objects_given_to_add_many_stay_as_they_are(people: PersonService) -> None:
    ada = person()
    assert people.add_many([ada]) == 1

    assert sa.inspect(ada).transient
    assert people.get_one("ada").version == 1
    assert people.add_many([]) == 0


@once
def test_copies_from_another_database_can_be_added(people: PersonService) -> None:
    source = sa.create_engine("sqlite://", poolclass=sa.StaticPool)
    Base.metadata.create_all(source)
    with orm.Session(source) as session, session.begin():
        session.add_all([person(), person("bob")])
    with orm.Session(source) as session, session.begin():
        session.get_one(Person, "bob").first_name = "Bob"
    copies = SQLAlchemyRepository(Person, source).list()

    assert people.add_many(copies) == 2
    assert stored(people.engine) == [("ada", "Ada", "Lovelace", 1), ("bob", "Bob", "Lovelace", 1)]
    source.dispose()


@once
def test_all_are_added_or_none(people: PersonService) -> None:
    people.add(person("taken"))

    def breaking() -> Iterator[Person]:
        yield from (person(f"p{number:05}") for number in range(2500))
        raise KeyError("the source broke")

    with pytest.raises(EntityExistsError):
        people.add_many(itertools.chain((person(f"p{number:05}") for number in range(2500)), [person("taken")]))
    with pytest.raises(EntityExistsError):
        people.add_many([person("twice"), person("twice")])
    with pytest.raises(InvalidEntityError):
        people.add_many(itertools.chain((person(f"p{number:05}") for number in range(2500)), [person("x" * 101)]))
    with pytest.raises(KeyError, match="the source broke"):
        people.add_many(breaking())

    assert stored(people.engine) == [("taken", "Ada", "Lovelace", 1)]
    assert people.get("p00000") is None


def test_a_source_may_read_while_it_is_added(people: PersonService) -> None:
    people.add(person("known"))

    def unknown() -> Iterator[Person]:
        for id in ("a", "known", "b"):
            if not people.exists(id):
                yield person(id)

    assert people.add_many(unknown()) == 2
    assert [found.id for found in people.list()] == ["a", "b", "known"]
    assert people.exists("a")


def test_update_changes_fields_and_returns_the_whole(people: PersonService) -> None:
    people.add(person())
    assert people.get("ada") == person()
    changed = people.update("ada", first_name="Augusta", last_name="King")

    assert sa.inspect(changed).detached
    assert (changed.id, changed.first_name, changed.last_name, changed.version) == ("ada", "Augusta", "King", 2)
    assert people.get("ada") == changed
    assert stored(people.engine) == [("ada", "Augusta", "King", 2)]


@once
def test_an_update_to_the_same_values_changes_nothing(people: PersonService) -> None:
    people.add(person())

    assert people.update("ada", first_name="Ada").version == 1
    assert people.update("ada").version == 1
    assert people.get_one("ada").version == 1


@once
def test_update_takes_expressions_that_the_database_computes(people: PersonService) -> None:
    people.add(person())

    assert people.update("ada", first_name=Person.first_name + " Augusta").first_name == "Ada Augusta"
    assert people.get_one("ada").first_name == "Ada Augusta"


@once
def test_update_refuses_missing_ids_unknown_fields_and_wrong_values(people: PersonService) -> None:
    people.add(person())
    with pytest.raises(PersonNotFoundError, match="nobody"):
        people.update("nobody", first_name="A")
    with pytest.raises(UnknownFieldError, match="surname"):
        people.update("ada", surname="King")
    with pytest.raises(InvalidEntityError, match="first_name"):
        people.update("ada", first_name="x" * 201)
    with pytest.raises(InvalidEntityError, match="last_name"):
        people.update("ada", last_name=None)

    assert stored(people.engine) == [("ada", "Ada", "Lovelace", 1)]


def test_a_composite_key_can_be_moved_by_update(parcels: Service[Parcel]) -> None:
    parcels.add(parcel("Köln", 7))
    assert parcels.get(("Köln", 7)) is not None
    assert parcels.get(("Köln", 8)) is None
    moved = parcels.update(("Köln", 7), number=8)

    assert moved.number == 8
    assert parcels.get(("Köln", 7)) is None
    assert parcels.get(("Köln", 8)) == moved


def test_upsert_stores_a_new_entity_and_replaces_a_stored_one(people: PersonService) -> None:
    assert people.get("ada") is None
    first = people.upsert(person())
    assert (first.version, people.get("ada")) == (1, person())
    second = people.upsert(person(first_name="Augusta"))

    assert (second.first_name, second.version) == ("Augusta", 2)
    assert sa.inspect(second).detached
    assert people.get("ada") == second
    assert people.upsert(second).version == 2


@once
def test_upsert_leaves_the_object_it_is_given_alone(people: PersonService) -> None:
    people.add(person())
    given = person(first_name="Augusta")
    people.upsert(given)

    assert sa.inspect(given).transient


def test_a_copy_older_than_the_row_is_refused(people: PersonService) -> None:
    people.add(person())
    people.get("ada")
    copy, other = people.get_one("ada"), people.get_one("ada")
    people.update("ada", last_name="King")
    copy.first_name = "Augusta"
    for stale in (copy, other):
        with pytest.raises(StaleEntityError, match="read it again"):
            people.upsert(stale)

    assert people.get("ada") == person(last_name="King")
    fresh = people.get_one("ada")
    fresh.first_name = "Augusta"
    assert people.upsert(fresh) == person(first_name="Augusta", last_name="King")


@once
def test_a_copy_of_a_row_that_was_deleted_and_added_again_is_stale(people: PersonService) -> None:
    people.add(person())
    people.update("ada", last_name="King")
    copy = people.get_one("ada")
    people.delete("ada")
    people.add(person())

    with pytest.raises(StaleEntityError):
        people.upsert(copy)


def test_delete_returns_true_only_if_there_was_a_row(people: PersonService) -> None:
    people.add(person())
    assert people.get("ada") == person()

    assert people.delete("ada") is True
    assert people.get("ada") is None
    assert people.delete("ada") is False
    assert people.get("ada") is None
    people.add(person(first_name="Augusta"))
    assert people.get("ada") == person(first_name="Augusta")


@once
def test_a_row_that_others_refer_to_is_not_deleted(people: PersonService) -> None:
    if people.engine.dialect.name == "sqlite":
        event.listen(people.engine, "connect", lambda driver, _: driver.execute("PRAGMA foreign_keys=ON"))
        people.engine.dispose()
    metadata = sa.MetaData()
    sa.Table("person", metadata, Person.__table__.c.id._copy())
    child = sa.Table("child", metadata, sa.Column("of", Person.__table__.c.id.type, sa.ForeignKey("person.id")))
    child.create(people.engine)
    people.add(person())
    with people.engine.begin() as connection:
        connection.execute(child.insert().values(of="ada"))

    with pytest.raises(InvalidEntityError, match="refused by the database"):
        people.delete("ada")
    assert people.get("ada") == person()
    child.drop(people.engine)


# Keys that the database compares loosely


def test_a_row_of_an_equal_looking_key_is_neither_read_nor_changed_nor_deleted(loose: Service[Loose]) -> None:
    loose.add(Loose(code="abc", name="lower"))
    with orm.Session(loose.engine) as session, session.begin():
        bound = loose.bind(session)
        assert bound.get("ABC") is None
        assert bound.get("ABC", for_update=True) is None
        assert not bound.exists("ABC")
        assert bound.get_many(["ABC", "abc"]).keys() == {"abc"}
        assert not bound.delete("ABC")
        with pytest.raises(EntityNotFoundError):
            bound.update("ABC", name="upper")

    for _ in range(2):
        assert loose.get("ABC") is None
        assert loose.get_many(["ABC", "Abc"]) == {}
    with pytest.raises(EntityNotFoundError):
        loose.update("ABC", name="upper")
    assert loose.delete("ABC") is False
    assert loose.get_one("abc").name == "lower"


@once
def test_an_upsert_of_an_equal_looking_key_is_refused_as_the_database_would(loose: Service[Loose]) -> None:
    """The database can hold one row of the two only."""
    loose.add(Loose(code="abc", name="lower"))
    with pytest.raises(
        EntityExistsError, match=r"^Loose 'abc' exists already, and .* takes 'ABC' for the same"
    ) as caught:
        loose.upsert(Loose(code="ABC", name="upper"))
    assert caught.value.id == "abc"

    assert loose.get_one("abc").name == "lower"


# Keys that the database makes


def test_keys_that_the_database_makes_end_known_absences(tickets: Service[Ticket]) -> None:
    for _ in range(2):
        assert tickets.get_many(range(1, 6)) == {}
    first = Ticket(title="first")
    tickets.add(first)
    assert first.id == 1
    assert tickets.upsert(Ticket(title="second")).id == 2
    assert tickets.add_many(Ticket(title=title) for title in ("third", "fourth")) == 2

    assert [found.title for found in tickets.get_many(range(1, 6)).values()] == ["first", "second", "third", "fourth"]


@once
def test_collections_that_load_with_an_entity_are_no_hindrance(tickets: Service[Ticket]) -> None:
    tickets.add(Ticket(title="first", steps=[Step(), Step()]))
    tickets.add(Ticket(title="second", steps=[Step()]))
    with orm.Session(tickets.engine) as session, session.begin():
        bound = tickets.bind(session)
        assert [len(found.steps) for found in bound.list(limit=1)] == [2]
        assert [len(found.steps) for found in bound.find(title="second")] == [1]
        assert [len(found.steps) for found in bound.get_many([2, 1]).values()] == [1, 2]
        assert len(bound.get_one(1, for_update=True).steps) == 2
        assert bound.update(1, title="changed").steps
    assert tickets.get_one(1).title == "changed"
    assert tickets.delete(1)
    with orm.Session(tickets.engine) as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(Step)) == 1


# Errors


def test_errors_of_the_database_itself_pass_as_they_are(engine: sa.Engine) -> None:
    people = SQLAlchemyRepository(Person, engine)
    for use in (
        lambda: people.get("ada"),
        lambda: people.add(person()),
        lambda: people.add_many([person()]),
        lambda: people.update("ada", first_name="A"),
        lambda: people.delete("ada"),
    ):
        with pytest.raises(sa.exc.DBAPIError) as caught:  # there is no such table
            use()
        assert not isinstance(caught.value, PersonRepoError)
    people.close()


def test_both_repositories_have_the_same_methods() -> None:
    protocol = {"get", "get_one", "get_many", "exists", "find", "list", "count"}
    protocol |= {"add", "add_many", "update", "upsert", "delete"}
    for implementation in (SQLAlchemyRepository, CachedRepository, BoundRepository, Service):
        assert protocol <= set(dir(implementation))


def test_nothing_stays_open_after_an_error(people_engine: sa.Engine) -> None:
    people = SQLAlchemyRepository(Person, people_engine)
    people.add(person())
    for write in (lambda: people.add(person()), lambda: people.update("nobody"), lambda: people.add_many([person()])):
        with contextlib.suppress(PersonRepoError):
            write()

    assert people_engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    people.close()
