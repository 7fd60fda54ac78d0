"""Ids and values that somebody has thought up: each is found, not found or refused, the same wherever it is asked, and
none is ever taken for a part of a command or of a statement."""

from __future__ import annotations

import datetime
import decimal
import socket
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, NoReturn
from urllib.parse import unquote

import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from support.models import HostBase, Parcel, Size, parcel
from support.servers import Memcached

from person_repo.cache.contract import BLOCKED, Lease, Tombstones
from person_repo.exceptions import (
    InvalidEntityError,
    InvalidIdError,
    PersonRepoError,
    UnknownFieldError,
    shown,
)
from person_repo.model import ExactString, Person
from person_repo.service import PersonService, Service

Statements = Callable[..., AbstractContextManager[list[str]]]

MARK = "HOSTILE"
"""Part of every text below: where it shows in a statement, a value has become syntax."""


class Failing:
    """Fails at whatever it is asked."""

    def _fail(self, *_: object) -> NoReturn:
        raise RuntimeError("asked")

    __eq__ = __repr__ = __str__ = __len__ = __iter__ = __bool__ = _fail
    __hash__ = _fail  # type: ignore[assignment]


class Liar:
    """Says that it is a string, and of a tuple's parts."""

    __class__ = str  # type: ignore[assignment]

    def __iter__(self) -> Iterator[str]:
        yield from (f"{MARK}", "b")

    def __len__(self) -> int:
        return 2


class Text(str):
    """A string that writes itself as something else."""

    def __str__(self) -> str:
        return f"{MARK}' OR '1'='1"

    def translate(self, table: object) -> str:
        return f"{MARK}' OR '1'='1"

    encode = translate  # type: ignore[assignment]


class Pair(tuple[Any, ...]):
    """A tuple that tells other parts than it has."""

    def __iter__(self) -> NoReturn:
        raise RuntimeError("asked")

    def __len__(self) -> int:
        return 7

    __hash__ = None  # type: ignore[assignment]


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
    """What came of a call: what it returned, in one word, or the error and its message."""

    what: str
    message: str = ""


def outcome(call: Callable[[], Any]) -> Outcome:
    """Errors that are not ours go through."""
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
"""Methods that raise where there is none."""


def expected(method: str, kind: str) -> str:
    """The outcome of a method for an id that is ``found``, ``absent`` or ``refused``."""
    if kind == "refused":
        return "InvalidIdError"
    return "not found" if kind == "absent" and method in RAISING else kind


def asked(people: Service[Any], id: Any) -> dict[str, Outcome]:
    """What comes of an id in every method, on each side of the toggle, and inside a session."""
    told: dict[str, Outcome] = {}
    for side, use_db in (("database", True), ("cache, cold", False), ("cache, warm", False)):
        with people.using(use_db=use_db):
            for method, read in READS.items():
                told[f"{method} ({side})"] = outcome(lambda read=read: read(people, id))  # type: ignore[misc]
    with orm.Session(people.engine) as session:
        bound = people.bind(session)
        for method, use in BOUND.items():
            told[f"{method} (bound)"] = outcome(lambda use=use: use(bound, id))  # type: ignore[misc]
    return told


def judged(told: dict[str, Outcome], kind: str) -> list[str]:
    """What is wrong with the outcomes; errors must read alike everywhere."""
    wrong: list[str] = []
    messages = set()
    for call, (what, message) in told.items():
        method = call.rpartition(" (")[0]
        seen = "not found" if what in {"EntityNotFoundError", "PersonNotFoundError"} else what
        if seen != expected(method, kind):
            wrong.append(f"{call}: {what} {message:.200}")
        if message:
            messages.add(message)
            wrong += [f"{call}: unreadable: {message!r:.200}"] * (len(message) > 400 or not message.isprintable())
    return wrong + [f"different messages: {messages}"] * (len(messages) > 1)


@pytest.fixture
def people(people_engine: sa.Engine, cache_url: str) -> Iterator[PersonService]:
    with PersonService.over(people_engine, cache_url) as people:
        people.add(Person(id="canary", first_name="C", last_name="C"))
        yield people


def unharmed(people: PersonService) -> None:
    """The database and the connections are as they were: the canary is there, alone, and a hit."""
    with people.engine.connect() as connection:
        assert connection.scalars(sa.select(Person.id)).all() == ["canary"]
    people.get("canary")
    before = people.stats()
    assert people.get_one("canary").id == "canary"
    assert (people.stats() - before).hits == 1
    assert people.stats().errors == people.stats().rejected == 0


def test_ids_that_can_be_stored_are_absent_in_every_method_and_then_found_by_no_other(
    people: PersonService, statements: Statements
) -> None:
    with statements(people.engine, people.read_engine) as seen:
        for name, id in STORABLE.items():
            assert not judged(asked(people, id), "absent"), name
        people.add_many(Person(id=id, first_name=name, last_name="") for name, id in STORABLE.items())
        for _ in range(2):
            for name, id in STORABLE.items():
                assert people.get_one(id).first_name == name
            found = people.get_many([*STORABLE.values(), *IMPOSSIBLE.values()])
            assert {id: each.first_name for id, each in found.items()} == {id: name for name, id in STORABLE.items()}
        for name, id in STORABLE.items():
            assert people.update(id, last_name="changed").first_name == name
            assert [each.id for each in people.find(first_name=name)] == [id]
            assert people.list(after=id, limit=1) == [] or people.list(after=id, limit=1)[0].id > id
            assert people.get_one(id).last_name == "changed"
        for name, id in STORABLE.items():
            told = {
                call: each for call, each in asked(people, id).items() if "delete" not in call and "bound" not in call
            }
            assert not judged(told, "found"), name
            assert people.delete(id) is True
            assert not judged(asked(people, id), "absent"), name

    assert not [statement for statement in seen if MARK in statement]
    unharmed(people)


@pytest.mark.parametrize("kind", ["absent", "refused"])
def test_other_ids_have_one_outcome_in_every_method(people: PersonService, kind: str, statements: Statements) -> None:
    with statements(people.engine, people.read_engine) as seen:
        for name, id in (REFUSED if kind == "refused" else IMPOSSIBLE).items():
            told = asked(people, id)
            for method, write in {**WRITES, "invalidate": lambda people, id: people.invalidate(id)}.items():
                told[f"{method} (service)"] = outcome(lambda write=write, id=id: write(people, id))  # type: ignore[misc]
            assert not judged(told, kind), name

    assert not [statement for statement in seen if MARK in statement]
    unharmed(people)


@pytest.mark.parametrize("use_db", [True, False], ids=["database", "cached"])
def test_a_page_begins_after_no_id_that_cannot_be(people: PersonService, use_db: bool) -> None:
    people.use_db = use_db
    with orm.Session(people.engine) as session:
        bound = people.bind(session)
        for id in [*IMPOSSIBLE.values(), *(id for id in REFUSED.values() if id is not None)]:
            told = {outcome(lambda id=id, side=side: side.list(after=id)) for side in (people, bound)}  # type: ignore[misc]
            assert [each.what for each in told] == ["InvalidIdError"]
            assert all(len(each.message) < 400 and each.message.isprintable() for each in told)
        for limit in (0, -1, 2**63, 10**6000, 1.5, float("nan"), "1", b"1", None, [1], Failing()):
            for side in (people, bound):
                with pytest.raises(ValueError, match="limit"):
                    side.list(limit=limit)  # type: ignore[arg-type]


def test_a_refusal_names_the_value_the_limit_and_the_remedy(people: PersonService) -> None:
    for id, told in {
        1: "Person id 1 is int; Person.id takes str and no other type, nor a subclass of it: convert the id first",
        b"x" * 500: "(500 bytes) is bytes; Person.id takes str",
        10**6000: "Person id <an integer of 19932 bits> is int; Person.id takes str",
    }.items():
        with pytest.raises(InvalidIdError) as caught:
            people.get(id)
        assert told in str(caught.value)
    with pytest.raises(InvalidIdError, match="<Failing whose repr raises RuntimeError> is Failing"):
        people.get(Failing())


def test_none_of_it_reaches_memcached_as_a_command(
    people_engine: sa.Engine, memcached_servers: list[Memcached]
) -> None:
    """The server is asked what it holds and what it did: nothing but our items, our commands, on one connection."""
    server = memcached_servers[0]
    server.ask("ms canary 2\r\nok")
    with PersonService.over(people_engine, f"memcached://{server.url}?namespace=hostile") as people:
        people.get("first")
        before = told_by(server)
        for id in [*STORABLE.values(), *IMPOSSIBLE.values(), *REFUSED.values()]:
            asked(people, id)
        people.add_many(Person(id=id, first_name="", last_name="") for id in STORABLE.values())
        for id in STORABLE.values():
            people.get(id)
        assert people.get_many(STORABLE.values()).keys() == set(STORABLE.values())
        after = told_by(server)

    held = held_by(server)
    ours = {key for key in held if key.startswith("pr:hostile:person:")}
    assert held - ours == {"canary"}
    assert len(ours) == len(STORABLE) + 2  # with the first, and the group's marker
    assert server.ask("mg canary v").split() == ["VA", "2", "ok"]
    assert after["cmd_flush"] == before["cmd_flush"]
    assert after["cmd_set"] - before["cmd_set"] >= len(STORABLE)
    assert after["total_connections"] - before["total_connections"] == 1  # the one that asks


def held_by(server: Memcached) -> set[str]:
    """The keys of all its items."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(b"lru_crawler metadump all\r\n")
        answer = b""
        while not answer.endswith(b"END\r\n"):
            answer += connection.recv(65536)
    return {unquote(line.split()[0].removeprefix("key=")) for line in answer.decode().splitlines()[:-1]}


def told_by(server: Memcached) -> dict[str, int]:
    """The server's numbers."""
    lines = (line.split() for line in server.ask("stats").splitlines())
    return {words[1]: int(words[2]) for words in lines if len(words) == 3 and words[2].isdigit()}


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
            assert not judged(asked(service, id), kind), shown(id)
        assert service.stats().errors == service.stats().rejected == 0


def test_bytes_that_look_alike_are_as_many_ids(engine: sa.Engine, cache_url: str) -> None:
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


def test_a_tuple_of_the_hosts_is_an_id_by_what_it_holds(engine: sa.Engine, cache_url: str) -> None:
    HostBase.metadata.create_all(engine)
    with Service.over(Parcel, engine, cache_url) as parcels:
        parcels.add(parcel("Köln", 7))
        for id in (Place("Köln", 7), Pair(("Köln", 7))):
            for _ in range(2):
                assert parcels.get_one(id) == parcel("Köln", 7)
                assert parcels.get_many([id]) == {("Köln", 7): parcel("Köln", 7)}
                assert parcels.exists(id)
        for id in (Pair(("Köln", "7")), Pair(("Köln",)), ["Köln", 7], {"Köln": 7}, Failing(), Liar(), Text("Köln")):
            assert not judged(asked(parcels, id), "refused"), type(id)


# Keys without a limit


class Endless(HostileBase):
    __tablename__ = "endless"

    id: orm.Mapped[str] = orm.mapped_column(ExactString(20_000_000), primary_key=True)


def test_an_id_of_megabytes_is_an_id_where_the_column_takes_it(tmp_path: Any, cache_url: str) -> None:
    """On the wire it is a digest; an item that names it in full is larger than memcached takes, and is not sent."""
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


# Values


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


def written(parcels: Service[Parcel], field: str, value: Any, how: str) -> str:
    """What comes of a value in one way to use it, in one word."""
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


@pytest.mark.parametrize("how", ["find", "add", "add_many", "update", "upsert"])
def test_values_are_taken_for_what_they_are_or_refused(engine: sa.Engine, how: str, statements: Statements) -> None:
    """A list that reaches a driver may become a part of the statement; a word may become a number."""
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
    with Service.over(Parcel, engine, "memory://") as parcels, statements(engine, parcels.read_engine) as seen:
        parcels.add(original())
        for field in FIELDS:
            for name, value in VALUES.items():
                told = written(parcels, field, value, how)
                if how == "find":
                    assert told in ("refused", "found 0"), (field, name)
                    assert told == "found 0" or name not in takes.get(field, ()), (field, name)
                else:
                    assert told == ("written" if name in takes.get(field, ()) else "refused"), (field, name)
                if told == "written":
                    with engine.begin() as connection:
                        connection.execute(sa.delete(Parcel))
                    parcels.add(original())
                assert parcels.count() == 1

    assert not [statement for statement in seen if MARK in statement]


@pytest.mark.parametrize("name", ["", " ", "id = 1 --", "__class__", "metadata", "first_name\x00", "x" * 1_000_000])
def test_names_of_no_field_are_refused(people_engine: sa.Engine, name: str) -> None:
    with PersonService.over(people_engine, "memory://") as people:
        people.add(Person(id="ada", first_name="Ada", last_name="Byron"))
        for use in (people.find, lambda **named: people.update("ada", **named)):
            with pytest.raises(UnknownFieldError) as caught:
                use(**{name: 1})
            assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "thing", [None, 1, "ada", b"", [], {}, Failing(), Liar(), Person, object()], ids=lambda it: type(it).__name__
)
def test_what_is_no_entity_is_refused(people_engine: sa.Engine, thing: Any) -> None:
    with PersonService.over(people_engine, "memory://") as people:
        for write in (people.add, people.upsert, lambda one: people.add_many([one])):
            with pytest.raises(InvalidEntityError):
                write(thing)
        assert people.count() == 0


# Values that the server does not take


class Note(HostileBase):
    __tablename__ = "note"

    id: orm.Mapped[int] = orm.mapped_column(primary_key=True, autoincrement=False)
    text: orm.Mapped[str] = orm.mapped_column(sa.Text(20_000_000))


class Sized(Memcached):
    """A memcached whose largest item is set by ``-I``."""

    largest = "1m"

    def command(self) -> list[str]:
        return [*super().command(), "-I", self.largest]


LIMITS = {"512k": 512 * 1024, "1m": 1024 * 1024, "4m": 4 * 1024 * 1024}


@pytest.fixture(params=LIMITS)
def sized(request: pytest.FixtureRequest) -> Iterator[tuple[Memcached, int]]:
    server = Sized()
    server.largest = request.param
    server.start()
    yield server, LIMITS[request.param]
    server.kill()


@pytest.fixture
def notes(engine: sa.Engine, sized: tuple[Memcached, int]) -> Iterator[Service[Note]]:
    """Notes over a memcached of one size: 1 and 3 are small, 2 is beyond the server's limit, 4 just below it."""
    server, limit = sized
    Note.__table__.create(engine)  # type: ignore[attr-defined]
    texts = {1: "short", 2: "x" * (limit + 1), 3: "", 4: "x" * (limit - 2000)}
    with Service.over(Note, engine, f"memcached://{server.url}?timeout=5") as notes:
        for id, text in texts.items():
            notes.add(Note(id=id, text=text))
        yield notes


def test_a_value_beyond_the_servers_limit_is_not_cached_and_costs_no_connection(
    notes: Service[Note], sized: tuple[Memcached, int], statements: Statements
) -> None:
    server, limit = sized
    notes.get(1)
    connections = told_by(server)["total_connections"]
    before = notes.stats()
    with statements(notes.read_engine) as seen:
        for _ in range(3):
            assert len(notes.get_one(2).text) == limit + 1
            assert notes.get_one(1).text == "short"
            assert len(notes.get_one(4).text) == limit - 2000
    spent = notes.stats() - before

    assert len(seen) == 4  # three for the one that is too large, and one
    assert (spent.fills, spent.fills_refused, spent.hits) == (1, 3, 5)
    assert spent.errors == spent.rejected == 0
    assert told_by(server)["total_connections"] == connections + 1  # the one that asks


def test_a_value_beyond_the_limit_harms_none_that_is_read_with_it(
    notes: Service[Note], sized: tuple[Memcached, int], statements: Statements
) -> None:
    with statements(notes.read_engine) as seen:
        for _ in range(3):
            assert [len(note.text) for note in notes.get_many([1, 2, 3, 4]).values()] == [
                5, sized[1] + 1, 0, sized[1] - 2000,
            ]  # fmt: skip

    assert len(seen) == 3
    spent = notes.stats()
    assert (spent.hits, spent.fills, spent.fills_refused) == (6, 3, 3)
    assert spent.errors == spent.rejected == 0


@pytest.mark.parametrize("many", [False, True], ids=["get", "get_many"])
def test_a_value_beyond_the_limit_lifts_no_tombstone_that_came_while_it_was_loaded(
    notes: Service[Note], many: bool
) -> None:
    """memcached deletes what stands at a key where it refuses an item for its size: such an item is never sent."""
    backend, key = notes.cached.backend, notes.cached.keys.key_of((2,))[0]
    placed: list[Tombstones] = []

    def commit(*_: object) -> None:
        placed.append(backend.put_tombstones([key]))

    sa.event.listen(notes.read_engine, "before_cursor_execute", commit, once=True)
    assert (notes.get_many([2])[2] if many else notes.get_one(2)).id == 2
    assert backend.fetch(notes.cached.keys.group, key) is BLOCKED

    (tombstones,) = placed
    assert tombstones.complete
    backend.release(tombstones)
    assert isinstance(backend.fetch(notes.cached.keys.group, key), Lease)


def test_a_value_that_grows_beyond_the_limit_is_no_longer_cached(
    notes: Service[Note], sized: tuple[Memcached, int]
) -> None:
    assert notes.get_one(1).text == notes.get_one(1).text == "short"
    for text in ("x" * (sized[1] + 1), "short again"):
        notes.update(1, text=text)
        for _ in range(2):
            assert notes.get_one(1).text == text
    assert notes.stats().hits == 2
