"""The keys that a Core statement changes, from the statement alone: no database is asked here."""

from __future__ import annotations

import datetime
import uuid
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import mysql, sqlite
from sqlalchemy.sql import dml
from support.models import Parcel
from support.tables import Colour, model, watched

from person_repo.model import Person
from person_repo.writing.statements import changes_of, key_parameters
from person_repo.writing.tables import Change, WatchedTable


class Silent:
    """A connection that knows its dialect, and executes nothing."""

    def __init__(self, dialect: sa.Dialect) -> None:
        self.dialect = dialect


class Asked(Exception):
    """The database would have been asked for the rows."""


class Asking(Silent):
    connection = None

    def execute(self, *_statement: Any, **_options: Any) -> Any:
        raise Asked


PERSON: Any = Person.__table__
PARCEL: Any = Parcel.__table__

WHOLE = "the whole model"
ASKS = "asks for the rows"
RETURNED = "those that the statement returns, if it can"

NOTE = sa.table("note", sa.column("about"), sa.column("text"))


def changed_keys(
    statement: dml.UpdateBase,
    *parameters: dict[str, Any],
    dialect: sa.Dialect | None = None,
    entity: type[Any] = Person,
    most: int = 100,
    may_ask: bool = True,
) -> Any:
    """The keys that a statement changes, ``WHOLE``, ``ASKS``, ``RETURNED``, or None if it changes nothing here."""
    dialect = dialect or sqlite.dialect()
    compiled = statement.compile(dialect=dialect, column_keys=list(parameters[0]) if parameters else None)
    sets = [compiled.construct_params(one) for one in parameters or [{}]]
    entry = watched(entity)
    connection: Any = Asking(dialect)
    try:
        changes = changes_of(
            connection, statement, sets, {entry.name: [entry]}, most=most, may_ask=lambda: may_ask, options={}
        )
    except Asked:
        return ASKS
    assert changes_by_parameters(statement, sets, entry, dialect) in (None, changes)
    if not changes:
        return None
    (change,) = changes
    assert isinstance(change, Change)
    assert change.table is entry
    if change.identities is None:
        return RETURNED if change.returned else WHOLE
    keys = [identity[0] if len(identity) == 1 else identity for identity in change.identities]
    return (keys, "and those the database makes") if change.generated else keys


def changes_by_parameters(
    statement: dml.UpdateBase, sets: list[dict[str, Any]], entry: WatchedTable, dialect: sa.Dialect
) -> list[Change] | None:
    """The changes of a statement by its parameters alone; None if they do not name the rows."""
    forms = key_parameters(statement, sets, {entry.name: [entry]}, dialect, {})
    found = None if forms is None else [form.change(sets) for form in forms]
    return None if found is None or None in found else [change for change in found if change]


ROW = {"id": "a", "first_name": "x", "last_name": "y", "version": 1}


def named(**values: Any) -> dict[str, Any]:
    return {**ROW, **values}


INSERTS: dict[str, tuple[dml.UpdateBase, tuple[dict[str, Any], ...], Any]] = {
    "values": (sa.insert(PERSON).values(**ROW), (), ["a"]),
    "a parameter set": (sa.insert(PERSON), (ROW,), ["a"]),
    "parameter sets": (sa.insert(PERSON), (ROW, named(id="b")), ["a", "b"]),
    "values and parameters": (
        sa.insert(PERSON).values(id=sa.bindparam("which"), version=1), ({"which": "a"}, {"which": "b"}), ["a", "b"],
    ),
    "multiple values": (sa.insert(PERSON).values([ROW, named(id="b")]), (), ["a", "b"]),
    "multiple values by column": (
        sa.insert(PERSON).values([{PERSON.c.id: "a", PERSON.c.version: 1}]), (), ["a"],
    ),
    "multiple values by position": (sa.insert(PERSON).values([("a", "x", "y", 1), ("b", "x", "y", 1)]), (), ["a", "b"]),
    "ORM values": (sa.insert(Person).values(**ROW), (), ["a"]),
    "another case": (sa.insert(sa.table("PERSON", sa.column("id"))).values(id="a"), (), ["a"]),
    "an expression": (sa.insert(PERSON).values(id=sa.func.now()), (), ([], "and those the database makes")),
    "a null": (sa.insert(PERSON).values(id=sa.null()), (), ([], "and those the database makes")),
    "a number for a string": (sa.insert(PERSON), (named(id=5),), WHOLE),
    "a string that is cut": (sa.insert(PERSON), (named(id="a" * 101),), WHOLE),
    "from a select": (sa.insert(PERSON).from_select(["id"], sa.select(NOTE.c.about)), (), WHOLE),
    "ignoring": (sa.insert(PERSON).prefix_with("OR IGNORE").values(**ROW), (), ["a"]),
    "replacing": (sa.insert(PERSON).prefix_with("OR REPLACE").values(**ROW), (), ["a"]),
    "upsert": (
        sqlite.insert(PERSON).values(**ROW).on_conflict_do_update(["id"], set_={"first_name": "z"}), (), ["a"],
    ),
    "upsert of the key": (
        sqlite.insert(PERSON).values(**ROW).on_conflict_do_update(["id"], set_={"id": "z"}), (), WHOLE,
    ),
    "upsert of nothing": (sqlite.insert(PERSON).values(**ROW).on_conflict_do_nothing(), (), ["a"]),
    "another table": (sa.insert(NOTE).values(about="a"), (), None),
}  # fmt: skip


@pytest.mark.parametrize(("statement", "parameters", "expected"), INSERTS.values(), ids=INSERTS)
def test_an_insert_changes_the_keys_it_names(
    statement: dml.UpdateBase, parameters: tuple[dict[str, Any], ...], expected: Any
) -> None:
    assert changed_keys(statement, *parameters) == expected


def test_an_upsert_on_mysql() -> None:
    statement = mysql.insert(PERSON).values(**ROW)

    assert changed_keys(statement.on_duplicate_key_update(first_name="z"), dialect=mysql.dialect()) == ["a"]
    assert changed_keys(statement.on_duplicate_key_update([("first_name", "z")]), dialect=mysql.dialect()) == ["a"]
    assert changed_keys(statement.on_duplicate_key_update(id="z"), dialect=mysql.dialect()) == WHOLE


def bound(name: str, *value: Any, **options: Any) -> Any:
    return sa.bindparam(name, *value, **options)


UPDATES: dict[str, tuple[dml.UpdateBase, tuple[dict[str, Any], ...], Any]] = {
    "equal": (sa.update(PERSON).where(PERSON.c.id == "a"), ({"version": 2},), ["a"]),
    "mirrored": (sa.update(PERSON).where(sa.literal("a") == PERSON.c.id), ({"version": 2},), ["a"]),
    "in": (sa.update(PERSON).where(PERSON.c.id.in_(["a", "b"])).values(version=2), (), ["a", "b"]),
    "in nothing": (sa.update(PERSON).where(PERSON.c.id.in_([])).values(version=2), (), []),
    "in literals": (sa.delete(PERSON).where(PERSON.c.id.in_([sa.literal("a"), "b"])), (), ["a", "b"]),
    "in a spread list": (sa.delete(PERSON).where(PERSON.c.id.in_(bound("which", expanding=True))), (
        {"which": ["a", "b"]},
    ), ["a", "b"]),
    "and": (sa.delete(PERSON).where(sa.and_(PERSON.c.id == "a", PERSON.c.version == 2)), (), ["a"]),
    "and in parts": (sa.delete(PERSON).where(PERSON.c.version == 2).where(PERSON.c.id == "a"), (), ["a"]),
    "and within and": (
        sa.delete(PERSON).where(sa.and_(PERSON.c.version > 1, sa.and_(PERSON.c.id == "a", sa.true()))), (), ["a"],
    ),
    "parameters": (
        sa.update(PERSON).where(PERSON.c.id == bound("b")).values(version=1), ({"b": "a"}, {"b": "b"}), ["a", "b"],
    ),
    "a default that is overruled": (sa.delete(PERSON).where(PERSON.c.id == bound("b", "z")), ({"b": "a"},), ["a"]),
    "a default": (sa.delete(PERSON).where(PERSON.c.id == bound("b", "z")), (), ["z"]),
    "ORM": (sa.update(Person).where(Person.id == "a").values(version=2), (), ["a"]),
    "another metadata": (sa.delete(sa.table("person", sa.column("id"))).where(sa.column("id") == "a"), (), RETURNED),
    "the key too": (sa.update(PERSON).where(PERSON.c.id == "a").values(id="b"), (), ["a", "b"]),
    "the keys too": (
        sa.update(PERSON).where(PERSON.c.id == bound("old")).values(id=bound("new")),
        ({"old": "a", "new": "b"}, {"old": "c", "new": "d"}), ["a", "c", "b", "d"],
    ),
    "the key by a parameter": (sa.update(PERSON).where(PERSON.c.id == "a"), ({"id": "b"},), ["a", "b"]),
    "the key by a column": (sa.update(PERSON).where(PERSON.c.id == "a").values({PERSON.c.id: "b"}), (), ["a", "b"]),
    "the key, in order": (sa.update(PERSON).where(PERSON.c.id == "a").ordered_values(("id", "b")), (), ["a", "b"]),
    "the key by an expression": (sa.update(PERSON).where(PERSON.c.id == "a").values(id=sa.func.now()), (), WHOLE),
    "the key of many": (sa.update(PERSON).where(PERSON.c.version == 1).values(id="b"), (), WHOLE),
    "or": (sa.delete(PERSON).where(sa.or_(PERSON.c.id == "a", PERSON.c.id == "b")), (), RETURNED),
    "not": (sa.delete(PERSON).where(PERSON.c.id != "a"), (), RETURNED),
    "not and": (sa.delete(PERSON).where(sa.not_(sa.and_(PERSON.c.id == "a", PERSON.c.version == 1))), (), RETURNED),
    "not in": (sa.delete(PERSON).where(PERSON.c.id.not_in(["a"])), (), RETURNED),
    "like": (sa.delete(PERSON).where(PERSON.c.id.like("a")), (), RETURNED),
    "another column": (sa.delete(PERSON).where(PERSON.c.first_name == "a"), (), RETURNED),
    "everything": (sa.delete(PERSON), (), RETURNED),
    "a subquery": (sa.delete(PERSON).where(PERSON.c.id.in_(sa.select(NOTE.c.about))), (), RETURNED),
    "a function": (sa.delete(PERSON).where(PERSON.c.id == sa.func.now()), (), RETURNED),
    "a function of it": (sa.delete(PERSON).where(sa.func.lower(PERSON.c.id) == "a"), (), RETURNED),
    "a collation": (sa.delete(PERSON).where(sa.collate(PERSON.c.id, "NOCASE") == "a"), (), RETURNED),
    "text": (sa.delete(PERSON).where(sa.text("id = 'a'")), (), RETURNED),
    "a number": (sa.delete(PERSON).where(PERSON.c.id == sa.literal(5)), (), RETURNED),
    "a callable": (sa.delete(PERSON).where(PERSON.c.id == bound("b", callable_=lambda: "a")), (), ["a"]),
    "many by another column": (
        sa.delete(PERSON).where(PERSON.c.first_name == bound("n")), ({"n": "a"}, {"n": "b"}), WHOLE,
    ),
    "an alias": (sa.update(PERSON.alias("p")).values(version=2), (), WHOLE),
    "a nameless alias": (sa.delete(PERSON.alias()), (), WHOLE),
    "another table": (sa.update(NOTE).values(text="x"), (), None),
    "by another table": (sa.update(NOTE).where(NOTE.c.about == PERSON.c.id).values(text="x"), (), None),
}  # fmt: skip


@pytest.mark.parametrize(("statement", "parameters", "expected"), UPDATES.values(), ids=UPDATES)
def test_an_update_or_delete_changes_the_keys_its_criteria_allow(
    statement: dml.UpdateBase, parameters: tuple[dict[str, Any], ...], expected: Any
) -> None:
    assert changed_keys(statement, *parameters) == expected


def test_a_statement_over_two_tables() -> None:
    both = sa.update(NOTE).where(NOTE.c.about == PERSON.c.id).values({PERSON.c.version: 2, NOTE.c.text: "x"})
    by_another = sa.update(PERSON).where(NOTE.c.about == "a").values(version=2)
    joined = sa.delete(PERSON).where(PERSON.c.id == NOTE.c.about)
    named = sa.delete(PERSON).where(PERSON.c.id == "a", NOTE.c.about == PERSON.c.id)

    assert changed_keys(both, dialect=mysql.dialect()) == WHOLE
    assert changed_keys(by_another, dialect=mysql.dialect()) == RETURNED
    assert changed_keys(joined, dialect=mysql.dialect()) == RETURNED
    assert changed_keys(named, dialect=mysql.dialect()) == ["a"]


def test_rows_are_not_asked_for_if_nothing_keeps_them_locked() -> None:
    entity = model(sa.String(40))
    statement = sa.delete(entity.__table__).where(entity.__table__.c.key == "a")

    assert changed_keys(statement, entity=entity, dialect=mysql.dialect(), may_ask=False) == RETURNED


def test_rows_that_the_key_does_not_name_are_never_asked_for() -> None:
    statement = sa.delete(PERSON).where(PERSON.c.first_name == "a")

    assert changed_keys(statement, dialect=mysql.dialect()) == RETURNED


def test_a_list_of_more_keys_than_the_bound_is_read_no_further() -> None:
    keys = changed_keys(sa.delete(PERSON).where(PERSON.c.id.in_([str(number) for number in range(1000)])), most=10)

    assert len(keys) == 11


def test_criteria_on_a_column_that_folds_case_are_asked_for() -> None:
    entity = model(sa.String(40))
    statement = sa.delete(entity.__table__).where(entity.__table__.c.key == "a")

    assert changed_keys(statement, entity=entity) == ["a"]
    assert changed_keys(statement, entity=entity, dialect=mysql.dialect()) == ASKS
    assert changed_keys(sa.insert(entity.__table__), {"key": "a"}, entity=entity, dialect=mysql.dialect()) == ["a"]


PARCELS: dict[str, tuple[dml.UpdateBase, Any]] = {
    "both": (sa.delete(PARCEL).where(PARCEL.c.number == 1, PARCEL.c.depot == "k"), [("k", 1)]),
    "a product": (
        sa.delete(PARCEL).where(PARCEL.c.depot.in_(["k", "l"]), PARCEL.c.number.in_([1, 2])),
        [("k", 1), ("k", 2), ("l", 1), ("l", 2)],
    ),
    "one of two": (sa.delete(PARCEL).where(PARCEL.c.depot == "k"), RETURNED),
    "a tuple": (sa.delete(PARCEL).where(sa.tuple_(PARCEL.c.depot, PARCEL.c.number).in_([("k", 1)])), RETURNED),
    "true for one": (sa.delete(PARCEL).where(PARCEL.c.depot == "k", PARCEL.c.number == sa.literal(1)), [("k", 1)]),
    "a string for a number": (
        sa.delete(PARCEL).where(PARCEL.c.depot == "k", PARCEL.c.number == sa.literal("1")),
        RETURNED,
    ),
    "half a key moved": (
        sa.update(PARCEL).where(PARCEL.c.depot.in_(["k", "l"]), PARCEL.c.number == 1).values(number=2),
        [("k", 1), ("l", 1), ("k", 2), ("l", 2)],
    ),
}


@pytest.mark.parametrize(("statement", "expected"), PARCELS.values(), ids=PARCELS)
def test_keys_of_two_columns(statement: dml.UpdateBase, expected: Any) -> None:
    assert changed_keys(statement, entity=Parcel) == expected


def test_keys_of_other_types() -> None:
    for type_, value in (
        (sa.Uuid(), uuid.uuid4()),
        (sa.Date(), datetime.date(2026, 11, 23)),
        (sa.Enum(Colour), Colour.RED),
    ):
        entity = model(type_)
        table = entity.__table__
        assert changed_keys(sa.delete(table).where(table.c.key == value), entity=entity) == [value]
        assert changed_keys(sa.insert(table), {"key": value}, entity=entity) == [value]


FORMS: dict[str, tuple[dml.UpdateBase, tuple[dict[str, Any], ...], bool]] = {
    "the unit of work's insert": (sa.insert(PERSON), (ROW, named(id="b")), True),
    "the unit of work's update": (
        sa.update(PERSON).where(PERSON.c.id == sa.bindparam("person_id"), PERSON.c.version == sa.bindparam("v")),
        ({"first_name": "z", "person_id": "a", "v": 1},),
        True,
    ),
    "the unit of work's delete": (
        sa.delete(PERSON).where(PERSON.c.id == sa.bindparam("id")), ({"id": "a"}, {"id": "b"}), True,
    ),
    "another table's": (sa.update(NOTE).where(NOTE.c.about == "a"), ({"text": "z"},), True),
    "an update of the key": (
        sa.update(PERSON).where(PERSON.c.id == sa.bindparam("old")), ({"id": "b", "old": "a"},), False,
    ),
    "a value of its own": (sa.update(PERSON).where(PERSON.c.id == "a"), ({"first_name": "z"},), False),
    "a list": (
        sa.delete(PERSON).where(PERSON.c.id.in_(sa.bindparam("ids", expanding=True))), ({"ids": ["a", "b"]},), False,
    ),
    "criteria on another column": (sa.delete(PERSON).where(PERSON.c.version == sa.bindparam("v")), ({"v": 1},), False),
    "a fixed key": (sa.insert(PERSON).values(id="a"), ({"first_name": "x", "last_name": "y", "version": 1},), False),
    "multiple values": (sa.insert(PERSON).values([ROW]), (), False),
    "from a select": (sa.insert(PERSON).from_select(["id"], sa.select(NOTE.c.about)), (), False),
    "an upsert": (sqlite.insert(PERSON).on_conflict_do_nothing(), (ROW,), False),
    "a replacement": (sa.insert(PERSON).prefix_with("OR REPLACE"), (ROW,), False),
}  # fmt: skip


@pytest.mark.parametrize(("statement", "parameters", "expected"), FORMS.values(), ids=FORMS)
def test_the_parameters_of_some_forms_name_the_rows(
    statement: dml.UpdateBase, parameters: tuple[dict[str, Any], ...], expected: bool
) -> None:
    entry, dialect = watched(Person), sqlite.dialect()
    compiled = statement.compile(dialect=dialect, column_keys=list(parameters[0]) if parameters else None)
    sets = [compiled.construct_params(one) for one in parameters or [{}]]

    assert (changes_by_parameters(statement, sets, entry, dialect) is not None) is expected


def test_parameters_do_not_name_a_key_that_only_the_database_knows() -> None:
    (inserts,) = key_parameters(sa.insert(PERSON), [ROW], {"person": [watched(Person)]}, sqlite.dialect(), {}) or []

    assert inserts.change([named(id=5)]) is None
    assert inserts.change([named(id="a" * 101)]) is None
    made = inserts.change([ROW, named(id=None)])
    assert made is not None
    assert (made.identities, made.generated) == ([("a",)], True)
