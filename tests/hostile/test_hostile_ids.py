"""Ids that somebody has thought up: each is found, absent or refused, alike in every method, and none ever becomes part
of a command or of a statement.
"""

from __future__ import annotations

import datetime
import decimal
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from support.exchanges import keys_on, numbers_of
from support.hostile import MARK, Failing, Liar, Pair, Text
from support.models import HostBase, Parcel, Size, parcel
from support.servers import Memcached
from support.urls import patient_url

from person_repo.exceptions import InvalidIdError, PersonRepoError, shown
from person_repo.model import ExactString, Person
from person_repo.service import PersonService, Service

Statements = Callable[..., AbstractContextManager[list[str]]]

STORABLE = {
    "empty": "",
    "blank": " ",
    "blank after": f"{MARK} ",
    "zero": "0",
    "none": "None",
    "true": "True",
    "nan": "nan",
    "NUL": f"{MARK}\x00",
    "NUL alone": "\x00",
    "newline": f"{MARK}\n",
    "newline and carriage return": f"{MARK}\r\n",
    "memcached, flush": f"{MARK}\r\nflush_all\r\n",
    "memcached, classic": f"{MARK}\r\nset foreign 0 0 3\r\nbad\r\nget ",
    "memcached, meta": f"{MARK}\r\nms foreign 3 T0 F0\r\nbad\r\n",
    "memcached, flags": f"{MARK} S0 I c",
    "memcached, opaque": f"{MARK} q Oabc k",
    "SQL": f"{MARK}' OR '1'='1",
    "SQL, statements": f"{MARK}'; DROP TABLE person; --",
    "SQL, backslash": f"{MARK}\\' OR 1=1 -- ",
    "SQL, backslash at the end": f"{MARK}\\",
    "SQL, wildcards": "%_",
    "SQL, parameters": f"{MARK} :key_0 ? %s %(key_0)s {{}}",
    "a key": "pr:person_repo:person:sada",
    "a marker": "!",
    "a digest": f"h{'0' * 40}",
    "percent": "%2C%00%0A",
    "emoji": "👩‍👩‍👧‍👦",
    "outside the BMP": "𝔄𝔡𝔞",
    "right to left": f"\u202e{MARK}\u202c",
    "Arabic": "آدا",
    "composed": "é",
    "decomposed": "e\u0301",
    "Latin": "Ada",
    "Cyrillic in it": "Аda",
    "full width": "Ａｄａ",
    "sharp s": "ß",
    "two s": "ss",
    "Turkish": "İ",
    "invisible": "A\u200bda",
    "byte order mark": "\ufeffAda",
    "no character": "\uffff",
    "longest": "x" * 100,
    "longest beyond ASCII": "😀" * 100,
}
"""Ids that a person may have."""

IMPOSSIBLE = {
    "one too long": "x" * 101,
    "10 MB": MARK * 1_500_000,
    "10 MB beyond ASCII": "é" * 10_000_000,
    "lone surrogate": f"{MARK}\ud800",
    "surrogates in the wrong order": "\udc00\ud800",
}
"""Strings that no person can have for an id."""


def impossible_on(engine: sa.Engine) -> list[str]:
    """Those that no row of this database has: SQLite keeps strings that are longer than their column says."""
    keeps_long = engine.dialect.name == "sqlite"
    return [id for name, id in IMPOSSIBLE.items() if "surrogate" in name or not keeps_long]


REFUSED = {
    "None": None,
    "true": True,
    "zero": 0,
    "huge": 10**6000,
    "float": 1.5,
    "NaN": float("nan"),
    "complex": 1j,
    "decimal": decimal.Decimal("sNaN"),
    "bytes": b"ada",
    "10 MB of bytes": b"\xff" * 10_000_000,
    "bytearray": bytearray(b"ada"),
    "tuple of one": ("ada",),
    "tuple of none": (),
    "tuple of two": ("ada", "bob"),
    "list": ["ada"],
    "dict": {"id": "ada"},
    "set": {"ada"},
    "nested": ((("ada",),),),
    "class": str,
    "function": len,
    "UUID": uuid.UUID(int=0),
    "date": datetime.date.min,
    "member": Size.SMALL,
    "object that fails": Failing(),
    "object that lies": Liar(),
    "string that lies": Text("ada"),
    "tuple that lies": Pair(("ada",)),
    "SQL expression": sa.text(f"'{MARK}'"),
    "column": Person.__table__.c.id,
    "attribute": Person.id,
}
"""Values of another type than a person's id."""


class Outcome(NamedTuple):
    """The result of a call in one word, or the kind of its error and the message."""

    kind: str
    message: str = ""


def outcome(call: Callable[[], Any]) -> Outcome:
    """The outcome of a call. Errors that are not ours go through."""
    try:
        result = call()
    except PersonRepoError as error:
        return Outcome(type(error).__name__, str(error))
    return Outcome("found" if result else "absent")


READS: dict[str, Callable[[Any, Any], Any]] = {
    "get": lambda people, id: people.get(id) is not None,
    "get_one": lambda people, id: people.get_one(id) is not None,
    "get_many": lambda people, id: people.get_many([id]),
    "get_many, twice": lambda people, id: people.get_many(iter([id, id])),
    "exists": lambda people, id: people.exists(id),
}
WRITES: dict[str, Callable[[Any, Any], Any]] = {
    "update": lambda people, id: people.update(id),
    "delete": lambda people, id: people.delete(id),
}
BOUND: dict[str, Callable[[Any, Any], Any]] = {
    **READS,
    **WRITES,
    "get, for update": lambda people, id: people.get(id, for_update=True) is not None,
    "get_one, for update": lambda people, id: people.get_one(id, for_update=True) is not None,
}

RAISING = {"get_one", "get_one, for update", "update"}
"""Methods that raise if there is no such person."""


def expected(method: str, kind: str) -> str:
    """The outcome of a method for an id that is ``found``, ``absent`` or ``refused``."""
    if kind == "refused":
        return "InvalidIdError"
    return "not found" if kind == "absent" and method in RAISING else kind


def outcomes_of(people: Service[Any], id: Any) -> dict[str, Outcome]:
    """The outcome of an id in every method, on each side of the toggle, and inside a session."""
    outcomes: dict[str, Outcome] = {}
    for side, use_db in (("database", True), ("cache, cold", False), ("cache, warm", False)):
        with people.using(use_db=use_db):
            for method, read in READS.items():
                outcomes[f"{method} ({side})"] = outcome(lambda read=read: read(people, id))  # type: ignore[misc]
    with orm.Session(people.engine) as session:
        bound = people.bind(session)
        for method, use in BOUND.items():
            outcomes[f"{method} (bound)"] = outcome(lambda use=use: use(bound, id))  # type: ignore[misc]
    return outcomes


def faults_of(outcomes: dict[str, Outcome], kind: str) -> list[str]:
    """The faults of these outcomes: another than expected, an unreadable message, different messages."""
    wrong: list[str] = []
    messages = set()
    for call, (found, message) in outcomes.items():
        method = call.rpartition(" (")[0]
        seen = "not found" if found in {"EntityNotFoundError", "PersonNotFoundError"} else found
        if seen != expected(method, kind):
            wrong.append(f"{call}: {found} {message:.200}")
        if message:
            messages.add(message)
            wrong += [f"{call}: unreadable: {message!r:.200}"] * (len(message) > 400 or not message.isprintable())
    return wrong + [f"different messages: {messages}"] * (len(messages) > 1)


@pytest.fixture
def people(people_engine: sa.Engine, cache_url: str) -> Iterator[PersonService]:
    with PersonService.over(people_engine, cache_url) as people:
        people.add(Person(id="canary", first_name="C", last_name="C"))
        yield people


def assert_unharmed(people: PersonService) -> None:
    """The database and the connections are as they were: the canary is there, alone, and a hit."""
    with people.engine.connect() as connection:
        assert connection.scalars(sa.select(Person.id)).all() == ["canary"]
    people.get("canary")
    before = people.stats()
    assert people.get_one("canary").id == "canary"
    assert (people.stats() - before).hits == 1
    assert people.stats().errors == people.stats().rejected == 0


def stores_no_nul(people: PersonService) -> bool:
    """True on PostgreSQL: tests/database/test_postgresql.py has what becomes of such ids there."""
    return people.engine.dialect.name == "postgresql"


@pytest.mark.every_database
@pytest.mark.proof(name="suite", sample=4)
def test_ids_that_can_be_stored_are_absent_in_every_method_and_then_found_by_no_other(
    people: PersonService, statements: Statements
) -> None:
    storable = {name: id for name, id in STORABLE.items() if not (stores_no_nul(people) and "\0" in id)}
    with statements(people.engine, people.read_engine) as seen:
        for name, id in storable.items():
            assert not faults_of(outcomes_of(people, id), "absent"), name
        people.add_many(Person(id=id, first_name=name, last_name="") for name, id in storable.items())
        for _ in range(2):
            for name, id in storable.items():
                assert people.get_one(id).first_name == name
            found = people.get_many([*storable.values(), *IMPOSSIBLE.values()])
            assert {id: each.first_name for id, each in found.items()} == {id: name for name, id in storable.items()}
        for name, id in storable.items():
            assert people.update(id, last_name="changed").first_name == name
            assert [each.id for each in people.find(first_name=name)] == [id]
            assert people.list(after=id, limit=1) == [] or people.list(after=id, limit=1)[0].id > id
            assert people.get_one(id).last_name == "changed"
        for name, id in storable.items():
            outcomes = {
                call: each
                for call, each in outcomes_of(people, id).items()
                if "delete" not in call and "bound" not in call
            }
            assert not faults_of(outcomes, "found"), name
            assert people.delete(id) is True
            assert not faults_of(outcomes_of(people, id), "absent"), name

    assert not [statement for statement in seen if MARK in statement]
    assert_unharmed(people)


@pytest.mark.parametrize("kind", ["absent", "refused"])
def test_other_ids_have_one_outcome_in_every_method(people: PersonService, kind: str, statements: Statements) -> None:
    with statements(people.engine, people.read_engine) as seen:
        for name, id in (REFUSED if kind == "refused" else IMPOSSIBLE).items():
            outcomes = outcomes_of(people, id)
            for method, write in {**WRITES, "invalidate": lambda people, id: people.invalidate(id)}.items():
                outcomes[f"{method} (service)"] = outcome(lambda write=write, id=id: write(people, id))  # type: ignore[misc]
            assert not faults_of(outcomes, kind), name

    assert not [statement for statement in seen if MARK in statement]
    assert_unharmed(people)


@pytest.mark.parametrize("use_db", [True, False], ids=["database", "cached"])
def test_a_page_after_an_impossible_id_is_refused(people: PersonService, use_db: bool) -> None:
    people.use_db = use_db
    with orm.Session(people.engine) as session:
        bound = people.bind(session)
        for id in [*impossible_on(people.engine), *(id for id in REFUSED.values() if id is not None)]:
            outcomes = {outcome(lambda id=id, side=side: side.list(after=id)) for side in (people, bound)}  # type: ignore[misc]
            assert [each.kind for each in outcomes] == ["InvalidIdError"]
            assert all(len(each.message) < 400 and each.message.isprintable() for each in outcomes)
        for limit in (0, -1, 2**63, 10**6000, 1.5, float("nan"), "1", b"1", None, [1], Failing()):
            for side in (people, bound):
                with pytest.raises(ValueError, match="limit"):
                    side.list(limit=limit)  # type: ignore[arg-type]


def test_a_refusal_names_the_value_the_limit_and_the_remedy(people: PersonService) -> None:
    for id, part in {
        1: "Person id 1 is int; Person.id takes str and no other type, nor a subclass of it: convert the id first",
        b"x" * 500: "(500 bytes) is bytes; Person.id takes str",
        10**6000: "Person id <an integer of 19932 bits> is int; Person.id takes str",
    }.items():
        with pytest.raises(InvalidIdError) as caught:
            people.get(id)
        assert part in str(caught.value)
    with pytest.raises(InvalidIdError, match="<Failing whose repr raises RuntimeError> is Failing"):
        people.get(Failing())


def test_no_id_reaches_memcached_as_a_command(people_engine: sa.Engine, memcached_servers: list[Memcached]) -> None:
    """The server holds our items alone, and has seen our commands alone, on one connection."""
    server = memcached_servers[0]
    server.ask("ms canary 2\r\nok")
    with PersonService.over(people_engine, patient_url([server], namespace="hostile")) as people:
        people.get("first")
        before = numbers_of(server)
        for id in [*STORABLE.values(), *impossible_on(people_engine), *REFUSED.values()]:
            outcomes_of(people, id)
        people.add_many(Person(id=id, first_name="", last_name="") for id in STORABLE.values())
        for id in STORABLE.values():
            people.get(id)
        assert people.get_many(STORABLE.values()).keys() == set(STORABLE.values())
        after = numbers_of(server)

    held = keys_on(server)
    ours = {key for key in held if key.startswith("pr:hostile:person:")}
    assert held - ours == {"canary"}
    assert len(ours) == len(STORABLE) + 3  # three more: the first id's, the group's marker, and the server's name
    assert server.ask("mg canary v").split() == ["VA", "2", "ok"]
    assert after["cmd_flush"] == before["cmd_flush"]
    assert after["cmd_set"] - before["cmd_set"] >= len(STORABLE)
    assert after["total_connections"] - before["total_connections"] == 1  # the one that asks


# Keys of other types


class HostileBase(orm.DeclarativeBase):
    """Metadata of this module's own."""


class Numbered(HostileBase):
    __tablename__ = "numbered"

    id: orm.Mapped[int] = orm.mapped_column(sa.BigInteger, primary_key=True, autoincrement=False)


class Labelled(HostileBase):
    __tablename__ = "labelled"

    label: orm.Mapped[bytes] = orm.mapped_column(
        sa.VARBINARY(40).with_variant(sa.LargeBinary(40), "sqlite"), primary_key=True
    )


OTHERS: dict[str, tuple[type[Any], list[tuple[Any, str]]]] = {
    "integers": (
        Numbered,
        [
            (0, "absent"),
            (-1, "absent"),
            (2**63 - 1, "absent"),
            (-(2**63), "absent"),
            (2**63, "absent"),
            (-(2**63) - 1, "absent"),
            (10**6000, "absent"),
            (True, "refused"),
            ("0", "refused"),
            ("", "refused"),
            ("1 OR 1=1", "refused"),
            (0.0, "refused"),
            (float("nan"), "refused"),
            (float("inf"), "refused"),
            (decimal.Decimal(0), "refused"),
            (b"0", "refused"),
            (None, "refused"),
            ((0,), "refused"),
            (Size.SMALL, "refused"),
        ],
    ),
    "bytes": (
        Labelled,
        [
            (b"", "absent"),
            (b"\x00", "absent"),
            (b"' OR 1=1 -- ", "absent"),
            (b"\\", "absent"),
            (b"\r\nflush_all\r\n", "absent"),
            (bytes(range(40)), "absent"),
            (b"\xff" * 40, "absent"),
            (b"x" * 41, "absent"),
            (b"x" * 10_000_000, "absent"),
            ("", "refused"),
            ("x", "refused"),
            (0, "refused"),
            (memoryview(b"x"), "refused"),
            (None, "refused"),
        ],
    ),
    "two columns": (
        Parcel,
        [
            (("", 0), "absent"),
            (("' OR 1=1 -- ", -1), "absent"),
            (("a,b\r\n", 2**31), "absent"),
            (("x" * 41, 1), "absent"),
            (("\ud800", 1), "absent"),
            (("Köln", 2**63), "absent"),
            (("Köln", 10**6000), "absent"),
            ((), "refused"),
            (("Köln",), "refused"),
            (("Köln", 7, 7), "refused"),
            (("Köln", "7"), "refused"),
            (("Köln", True), "refused"),
            (("Köln", 7.0), "refused"),
            (("Köln", None), "refused"),
            ((None, None), "refused"),
            ((7, "Köln"), "refused"),
            ((("Köln", 7),), "refused"),
            ((("Köln", 7), 7), "refused"),
            ("Köln", "refused"),
            (7, "refused"),
            (None, "refused"),
        ],
    ),
}


@pytest.mark.parametrize("case", OTHERS)
def test_ids_of_other_types_have_one_outcome_in_every_method(engine: sa.Engine, cache_url: str, case: str) -> None:
    entity, ids = OTHERS[case]
    entity.__table__.create(engine)
    with Service.over(entity, engine, cache_url) as service:
        for id, kind in ids:
            assert not faults_of(outcomes_of(service, id), kind), shown(id)
        assert service.stats().errors == service.stats().rejected == 0


def test_bytes_that_look_alike_are_different_ids(engine: sa.Engine, cache_url: str) -> None:
    Labelled.__table__.create(engine)  # type: ignore[attr-defined]
    labels = [label for label, kind in OTHERS["bytes"][1] if kind == "absent" and len(label) <= 40]
    with Service.over(Labelled, engine, cache_url) as labelled:
        labelled.add_many(Labelled(label=label) for label in [*labels, b"\x00\x00", b"a", b"A", b"a "])
        for _ in range(2):
            assert [labelled.get_one(label).label for label in labels] == labels
            assert [*labelled.get_many(labels)] == labels
        assert labelled.get(b" ") is None
        assert labelled.get(b"a\x00") is None


class Place(NamedTuple):
    depot: str
    number: int


def test_a_tuple_of_the_hosts_is_an_id_by_its_parts(engine: sa.Engine, cache_url: str) -> None:
    HostBase.metadata.create_all(engine)
    with Service.over(Parcel, engine, cache_url) as parcels:
        parcels.add(parcel("Köln", 7))
        for id in (Place("Köln", 7), Pair(("Köln", 7))):
            for _ in range(2):
                assert parcels.get_one(id) == parcel("Köln", 7)
                assert parcels.get_many([id]) == {("Köln", 7): parcel("Köln", 7)}
                assert parcels.exists(id)
        for id in (Pair(("Köln", "7")), Pair(("Köln",)), ["Köln", 7], {"Köln": 7}, Failing(), Liar(), Text("Köln")):
            assert not faults_of(outcomes_of(parcels, id), "refused"), type(id)


# Keys without a limit


class Endless(HostileBase):
    __tablename__ = "endless"

    id: orm.Mapped[str] = orm.mapped_column(ExactString(20_000_000), primary_key=True)


def test_an_id_of_megabytes_is_an_id_if_the_column_takes_it(tmp_path: Any, cache_url: str) -> None:
    """Its key is a digest; its item, which holds the id in full, is larger than memcached takes, and is not sent."""
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'endless.db'}")
    Endless.__table__.create(engine)  # type: ignore[attr-defined]
    one, other = "a\r\n" * 400_000, "a\r\n" * 399_999 + "a\r\t"
    with Service.over(Endless, engine, cache_url) as endless:
        endless.add(Endless(id=one))
        for _ in range(2):
            assert endless.get_one(one).id == one
            assert endless.get(other) is None
            assert endless.get_many([other, one]).keys() == {one}
        assert endless.delete(one) is True
        assert endless.get(one) is None
        assert endless.stats().errors == endless.stats().rejected == 0
    engine.dispose()
