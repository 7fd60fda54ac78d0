"""Values, names of fields and entities that somebody has thought up: each is stored as it is, or refused."""

from __future__ import annotations

import datetime
import decimal
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import sqlalchemy as sa
from support.hostile import MARK, Failing, Liar
from support.models import HostBase, Parcel, parcel
from support.urls import MEMORY

from person_repo.exceptions import InvalidEntityError, UnknownFieldError
from person_repo.model import Person
from person_repo.service import PersonService, Service

Statements = Callable[..., AbstractContextManager[list[str]]]

VALUES: dict[str, Any] = {
    "list": [f"{MARK}"],
    "tuple": ("a", "b"),
    "numbers": (1, 2),
    "dict": {"a": 1},
    "set": {1},
    "object": object(),
    "object that fails": Failing(),
    "SQL": f"{MARK}' OR '1'='1",
    "word for a number": "1 OR 1=1",
    "number for a word": 1,
    "bytes": b"\xff' OR 1=1",
    "float": 1.5,
    "NaN": float("nan"),
    "infinity": float("inf"),
    "signalling NaN": decimal.Decimal("sNaN"),
    "huge": 10**6000,
    "beyond 64 bits": 2**64,
    "complex": 1j,
    "class": int,
    "lone surrogate": "\ud800",
    "NUL": f"{MARK}\x00",
    "10 MB": MARK * 1_500_000,
    "no such member": "GIANT",
    "moment": datetime.datetime(2026, 1, 1),
    "UUID": uuid.UUID(int=1),
    "view": memoryview(b"a"),
}

FIELDS = ["number", "received", "price", "token", "label", "size", "due", "weight", "fragile", "note"]


def outcome_of(parcels: Service[Parcel], field: str, value: Any, how: str) -> str:
    """The outcome of one way to use a value, in one word."""
    try:
        if how == "find":
            return f"found {len(parcels.find(**{field: value}))}"
        if how == "update":
            parcels.update(("Köln", 7), **{field: value})
        else:
            write = {"add": parcels.add, "upsert": parcels.upsert, "add_many": lambda one: parcels.add_many([one])}[how]
            write(parcel(**{"number": 8} | {field: value}))
    except InvalidEntityError as error:
        return "refused" if len(str(error)) < 1000 and str(error).isprintable() else f"unreadable: {error!r:.2000}"
    return "written"


@pytest.mark.proof(name="suite", sample=4)
@pytest.mark.parametrize("how", ["find", "add", "add_many", "update", "upsert"])
def test_a_value_is_stored_as_it_is_or_refused(engine: sa.Engine, how: str, statements: Statements) -> None:
    """A list that reached a driver could become a part of the statement; a word could become a number."""
    HostBase.metadata.create_all(engine)

    def original() -> Parcel:
        return parcel(price=decimal.Decimal("2.5000"), fragile=False, received=datetime.datetime(2026, 1, 2))

    takes = {
        "number": {"number for a word"},
        "received": {"moment"},
        "price": {"number for a word", "float"},
        "token": {"UUID"},
        "label": {"bytes"},
        "weight": {"number for a word", "float"},
        "fragile": {"number for a word"},
        "note": {"SQL", "word for a number", "NUL", "no such member"},
    }
    with Service.over(Parcel, engine, MEMORY) as parcels, statements(engine, parcels.read_engine) as seen:
        parcels.add(original())
        for field in FIELDS:
            for name, value in VALUES.items():
                outcome = outcome_of(parcels, field, value, how)
                if how == "find":
                    assert outcome in ("refused", "found 0"), (field, name)
                    assert outcome == "found 0" or name not in takes.get(field, ()), (field, name)
                else:
                    assert outcome == ("written" if name in takes.get(field, ()) else "refused"), (field, name)
                if outcome == "written":
                    with engine.begin() as connection:
                        connection.execute(sa.delete(Parcel))
                    parcels.add(original())
                assert parcels.count() == 1

    assert not [statement for statement in seen if MARK in statement]


@pytest.mark.parametrize("name", ["", " ", "id = 1 --", "__class__", "metadata", "first_name\x00", "x" * 1_000_000])
def test_unknown_names_of_fields_are_refused(people_engine: sa.Engine, name: str) -> None:
    with PersonService.over(people_engine, MEMORY) as people:
        people.add(Person(id="ada", first_name="Ada", last_name="Byron"))
        for use in (people.find, lambda **named: people.update("ada", **named)):
            with pytest.raises(UnknownFieldError) as caught:
                use(**{name: 1})
            assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "thing", [None, 1, "ada", b"", [], {}, Failing(), Liar(), Person, object()], ids=lambda it: type(it).__name__
)
def test_other_objects_than_entities_are_refused(people_engine: sa.Engine, thing: Any) -> None:
    with PersonService.over(people_engine, MEMORY) as people:
        for write in (people.add, people.upsert, lambda one: people.add_many([one])):
            with pytest.raises(InvalidEntityError):
                write(thing)
        assert people.count() == 0
