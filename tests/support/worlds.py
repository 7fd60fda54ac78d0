"""Worlds: the configurations in which a host may use the package, drawn from one number.

A world is a database with a mode of its driver, an isolation level, a pool, listeners, a schema, a type of key, a
hierarchy, an account, a cache and a way of covering. ``draw_world`` draws one, ``classes_of`` maps its classes;
``triples`` makes its tables, and writes and reads there.
"""

from __future__ import annotations

import datetime
import decimal
import random
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.dialects import mysql
from support.entities import FOLDING, make_folding
from support.ways import ADDITIONS, CHANGES, MOVES, REMOVALS, Target, Way

from person_repo.model import ExactString

__all__ = ["DATABASES", "KEYS", "SCHEMA", "Classes", "Key", "World", "classes_of", "draw_world", "ways_in"]

DATABASES: Final = ("sqlite", "mysql", "mariadb-10.11", "mariadb-11.8", "postgresql")
"""The databases that have worlds, as the fixture ``database_url`` names them."""

SCHEMA: Final = "elsewhere"
"""The schema of a world's tables in the metadata, where they have one; it may be translated."""


@dataclass(frozen=True)
class World:
    """A configuration, by the names of its parts; ``number``: what it was drawn from."""

    number: int
    database: str
    place: str
    driver: str
    isolation: str | None
    isolated: str
    pool: str
    listener: str
    schema: str
    key: str
    hierarchy: str
    account: str
    cache: str
    covering: str

    def __str__(self) -> str:
        parts = [f"{field.name}={getattr(self, field.name)}" for field in fields(self) if field.name != "number"]
        return f"world {self.number}: {', '.join(parts)}"

    @property
    def family(self) -> str:
        """The database, as a way of writing names its family."""
        names = {"mysql": "MySQL", "mariadb-10.11": "MariaDB", "mariadb-11.8": "MariaDB"}
        return names.get(self.database, self.database)

    @property
    def dialect(self) -> str:
        """The name of the dialect."""
        return "mysql" if self.family in ("MySQL", "MariaDB") else self.database

    @property
    def commits_itself(self) -> bool:
        """True if each statement is a transaction."""
        return self.isolation == "AUTOCOMMIT" or self.driver == "autocommit"

    @property
    def has_one_connection(self) -> bool:
        """True if readers and writers are on one connection, so that what is not committed is seen by all."""
        return self.place == "memory"


# Keys


@dataclass(frozen=True)
class Key:
    """A type of key: ``type_`` of its column, ``ids`` of which some are there and some are not, and ``spelt``, others
    that may be the same. ``folded``: what is the same in the database, by its dialect. ``dialects``: None for all.
    """

    type_: Callable[[], sa.types.TypeEngine[Any]]
    ids: Sequence[Any]
    spelt: Sequence[Any] = ()
    folds: tuple[str, ...] = ()
    dialects: tuple[str, ...] | None = None
    constant: Mapping[str, Any] | None = None

    def folded(self, id: Any, dialect: str) -> Any:
        """The id, or what stands for all that the database takes for the same."""
        return id.casefold() if dialect in self.folds else id

    @property
    def is_string(self) -> bool:
        return isinstance(self.ids[0], str)


class Numbered(sa.TypeDecorator[int]):
    """An integer that is kept as a word."""

    impl = ExactString(20)
    cache_ok = True

    def process_bind_param(self, value: int | None, dialect: sa.Dialect) -> str | None:
        return None if value is None else f"n{value}"

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> int | None:
        return None if value is None else int(value[1:])


class TextualUuid(sa.TypeDecorator[uuid.UUID]):
    """A UUID that is kept as 32 hexadecimal digits."""

    impl = sa.CHAR(32)
    cache_ok = True

    def process_bind_param(self, value: uuid.UUID | None, dialect: sa.Dialect) -> str | None:
        return None if value is None else value.hex

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> uuid.UUID | None:
        return None if value is None else uuid.UUID(value)


def _folding() -> Any:
    folding = mysql.VARCHAR(40, charset="utf8mb4", collation="utf8mb4_general_ci")
    return (
        sa.String(40, collation="NOCASE")
        .with_variant(folding, "mysql", "mariadb")
        .with_variant(sa.String(40, collation=FOLDING), "postgresql")
    )


_FOLDED = ("sqlite", "mysql", "postgresql")
_WORDS = ("ada", "barbara", "Grace", "edsger", "frances", "Zoe")
_OTHERWISE = ("ADA", "Barbara", "grace", "Edsger")
_NOON = datetime.datetime(2026, 11, 30, 12, 0, 0)
_INTEGERS = (7, 0, -3, 41, 2**31 - 1, 12)

KEYS: Final[dict[str, Key]] = {
    "exact string": Key(lambda: ExactString(40), ("ada", "Ada", "ada ", "ädä", "50 % of %s", "frances")),
    "plain string": Key(lambda: sa.String(40), _WORDS, _OTHERWISE, folds=("mysql",)),
    "folding string": Key(_folding, _WORDS, _OTHERWISE, folds=_FOLDED),
    "integer": Key(sa.Integer, _INTEGERS),
    "big integer": Key(sa.BigInteger, tuple(2**40 + number for number in _INTEGERS)),
    "unsigned": Key(
        lambda: mysql.BIGINT(unsigned=True), tuple(2**63 + 5 + number for number in _INTEGERS), dialects=("mysql",)
    ),
    "uuid": Key(sa.Uuid, tuple(uuid.UUID(int=2**100 + number) for number in _INTEGERS)),
    "moment": Key(
        lambda: sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb"),
        tuple(_NOON + datetime.timedelta(microseconds=number) for number in (0, 1, 999_999, -1, 10**12, 500_000)),
    ),
    "day": Key(sa.Date, tuple(_NOON.date() + datetime.timedelta(days=number) for number in (0, 1, -1, 40, 400, 7))),
    "decimal": Key(
        lambda: sa.Numeric(12, 2),
        tuple(decimal.Decimal(number) for number in ("0.00", "1.50", "-1.50", "1.55", "9999999999.99", "3.10")),
        dialects=("mysql", "postgresql"),
    ),
    "composite": Key(sa.Integer, _INTEGERS, constant={"part": "x"}),
    "decorated": Key(Numbered, _INTEGERS),
    "textual uuid": Key(TextualUuid, tuple(uuid.UUID(int=2**100 + number) for number in _INTEGERS)),
}


# Drawing

_LEVELS: Final = {
    "sqlite": (None, None, None, "SERIALIZABLE", "READ UNCOMMITTED", "AUTOCOMMIT"),
    "mysql": (None, None, "READ COMMITTED", "READ UNCOMMITTED", "REPEATABLE READ", "SERIALIZABLE", "AUTOCOMMIT"),
    "postgresql": (None, None, "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE", "AUTOCOMMIT"),
}

_DRIVERS: Final = {
    # In Python 3.12 sqlite3 has a third mode.
    "sqlite": ("legacy", "recipe", "immediate", *(["autocommit=False"] if sys.version_info >= (3, 12) else [])),
    "mysql": ("plain", "plain", "autocommit", "found rows off"),
    "postgresql": ("plain", "plain", "autocommit", "prepares all", "prepares nothing"),
}

_LISTENERS: Final = (
    "none", "none", "comments", "capitals", "redirects", "do_execute", "transactions", "queries", "flushes",
    "on the class",
)  # fmt: skip


def draw_world(number: int, database: str) -> World:
    """The world of a number, on one of ``DATABASES``."""
    chance = random.Random(f"{database} {number}")
    dialect = "mysql" if database.startswith(("mysql", "mariadb")) else database
    place = chance.choice(("file", "wal", "wal", "memory")) if database == "sqlite" else "server"
    pools = ("queue", "queue", "queue", "null", "static", "assertion", "singleton")
    keys = [name for name, key in KEYS.items() if key.dialects is None or dialect in key.dialects]
    hierarchy = chance.choice(("none", "none", "single", "joined", "joined below"))
    coverings = ["one service", "two services", "declared"] + ["two classes"] * (hierarchy != "none")
    is_memory = place == "memory"
    return World(
        number,
        database,
        place,
        driver=chance.choice(_DRIVERS[dialect]),
        isolation=chance.choice(_LEVELS[dialect]),
        isolated=chance.choice(("engine", "options", "session")),
        pool=chance.choice(("static", "static", "singleton") if is_memory else pools),
        listener=chance.choice(_LISTENERS),
        schema="none" if is_memory else chance.choice(("none", "none", "named", "translated", "by session")),
        key=chance.choice(keys),
        hierarchy=hierarchy,
        account=chance.choice(("all", "all", "no fence", "updates")) if place == "server" else "all",
        cache="memory" if is_memory else chance.choice(("memory", "memcached")),
        covering="one service" if is_memory else chance.choice(coverings),
    )


# Classes


@dataclass(frozen=True)
class Classes:
    """The mapped classes of a world: ``root``, ``entities`` of which there are services, and the target of its ways.

    ``query``: the rows as they are in the database: the class's name, then the columns. ``ids``: in the form of the
    target's.
    """

    root: Any
    entities: tuple[Any, ...]
    target: Target
    query: sa.Select[Any]
    ids: tuple[Any, ...]
    spelt: tuple[Any, ...]


def classes_of(world: World, schema: str | None) -> Classes:
    """Maps the classes of a world, which no other one has; ``schema``: the name of theirs in the database."""
    key = KEYS[world.key]
    base: Any = orm.declarative_base()
    in_metadata = SCHEMA if world.schema in ("translated", "by session") else schema
    made = {"none": _plain, "single": _single, "joined": _joined, "joined below": _joined_below}[world.hierarchy]
    root, entities, written, make = made(base, key, f"person_{world.number}", in_metadata)
    if world.key == "folding string":
        make_folding(root.__table__)
    table = written.__table__
    target = Target(written, table, next(iter(table.primary_key)), make, key.constant)
    target.schema = schema
    return Classes(root, entities, target, _query(world, root, entities[-1]), tuple(key.ids), tuple(key.spelt))


def _columns(key: Key) -> dict[str, Any]:
    """The columns of a key but for those that are the same for all rows."""
    return {"id": sa.Column("id", key.type_(), primary_key=True, autoincrement=False)}


def _constant(key: Key) -> dict[str, Any]:
    """Those, which come after the values: a row may be given by the positions of its columns."""
    return {
        name: sa.Column(name, ExactString(10), primary_key=True, default=value, server_default=value)
        for name, value in (key.constant or {}).items()
    }


def _values() -> dict[str, Any]:
    return {
        "first_name": sa.Column(ExactString(80), nullable=False),
        "last_name": sa.Column(ExactString(80), nullable=False),
        "version": sa.Column(sa.Integer, nullable=False, default=1, server_default="1"),
    }


def _made(
    name: str, bases: tuple[Any, ...], table: str | None, schema: str | None, *constraints: sa.Constraint, **body: Any
) -> Any:
    """A mapped class. Without the name of a table it has that of its base."""
    options = {"mysql_engine": "InnoDB", "mariadb_engine": "InnoDB", "schema": schema}
    of_table = {} if table is None else {"__tablename__": table, "__table_args__": (*constraints, options)}
    return type(name, bases, {**of_table, **body})


def _maker(entity: Any) -> Callable[[Any, str], Any]:
    return lambda id, name: entity(id=id, first_name=name, last_name=f"of {id}")


def _plain(base: Any, key: Key, table: str, schema: str | None) -> Any:
    of_key, values, constant = _columns(key), _values(), _constant(key)
    mapping = {"version_id_col": values["version"]}
    plain = _made("Plain", (base,), table, schema, __mapper_args__=mapping, **of_key, **values, **constant)
    return plain, (plain,), plain, _maker(plain)


def _kind(name: str) -> Any:
    return sa.Column(ExactString(20), nullable=False, default=name, server_default=name)


def _single(base: Any, key: Key, table: str, schema: str | None) -> Any:
    of_key, values, constant = _columns(key), _values(), _constant(key)
    mapping = {"version_id_col": values["version"], "polymorphic_on": "kind", "polymorphic_identity": "root"}
    root = _made(
        "Root", (base,), table, schema, __mapper_args__=mapping, **of_key, **values, **constant, kind=_kind("sub")
    )
    sub = _made("Sub", (root,), None, None, __mapper_args__={"polymorphic_identity": "sub"})
    return root, (root, sub), sub, _maker(sub)


def _joined(base: Any, key: Key, table: str, schema: str | None) -> Any:
    """What is written is in the table of the root; the other has a column of its own, and a key of another name."""
    of_key, values, constant = _columns(key), _values(), _constant(key)
    mapping = {"version_id_col": values["version"], "polymorphic_on": "kind", "polymorphic_identity": "root"}
    root = _made(
        "Root", (base,), table, schema, __mapper_args__=mapping, **of_key, **values, **constant, kind=_kind("root")
    )
    mark = sa.Column(sa.Integer, nullable=False, default=5, server_default="5")
    sub = _made_below(root, table, schema, "sub_id", mark=mark)
    makers = {"root": _maker(root), "sub": _maker(sub)}
    kinds = dict.fromkeys(key.ids[::3], "root")
    return root, (root, sub), root, lambda id, name: makers[kinds.get(id, "sub")](id, name)


def _joined_below(base: Any, key: Key, table: str, schema: str | None) -> Any:
    """What is written is in a table of the class's own."""
    mapping = {"polymorphic_on": "kind", "polymorphic_identity": "root"}
    root = _made(
        "Root", (base,), table, schema, __mapper_args__=mapping, **_columns(key), **_constant(key), kind=_kind("root")
    )
    sub = _made_below(root, table, schema, "id", **_values())
    return root, (root, sub), sub, _maker(sub)


def _made_below(root: Any, table: str, schema: str | None, key: str, **body: Any) -> Any:
    """A joined class, whose table refers to that of the root by a key whose first column has this name."""
    above = list(root.__table__.primary_key)
    names = [key, *[column.name for column in above[1:]]]
    own = {name: _copy(column) for name, column in zip(names, above, strict=True)}
    reference = sa.ForeignKeyConstraint(names, above, ondelete="CASCADE", onupdate="CASCADE")
    mapping = {"polymorphic_identity": "sub"}
    return _made("Sub", (root,), f"{table}_sub", schema, reference, __mapper_args__=mapping, **own, **body)


def _copy(column: sa.Column[Any]) -> sa.Column[Any]:
    """A column of a key, for another table."""
    default: Any = column.default
    value = None if default is None else default.arg
    return sa.Column(column.type, primary_key=True, autoincrement=False, default=value, server_default=value)


def _query(world: World, root: Any, last: Any) -> sa.Select[Any]:
    above, below = root.__table__, last.__table__
    written = below if world.hierarchy == "joined below" else above
    names = [written.c[name] for name in ("first_name", "last_name", "version")]
    if world.hierarchy == "none":
        return sa.select(sa.literal("Plain"), above.c.id, *names)
    kind = sa.case((above.c.kind == "sub", "Sub"), else_="Root")
    query = sa.select(kind, above.c.id, *names)
    if below is above:
        return query
    return query.select_from(above.outerjoin(below))


# Ways

_BY_OBJECTS: Final = frozenset(
    {
        "unit_of_work_add",
        "merge_new",
        "orm_insert",
        "bulk_insert_mappings",
        "bulk_save_new_objects",
        "unit_of_work_delete",
    }
)
"""The additions and removals that write each table of a joined class."""

_OF_ONE_TABLE: Final = frozenset({"orm_update_returning_objects"})
"""The changes that are for classes of one table."""


def ways_in(world: World) -> dict[str, list[Way]]:
    """The ways of writing that a world knows, by what they do."""
    kinds = {"change": CHANGES, "add": ADDITIONS, "remove": REMOVALS, "move": MOVES}
    if world.account == "updates":
        kinds = {"change": CHANGES}
    return {
        kind: found for kind, ways in kinds.items() if (found := [way for way in ways if _is_known(world, kind, way)])
    }


def _is_known(world: World, kind: str, way: Way) -> bool:
    names = {world.dialect, world.family}
    if way.dialects is not None and names.isdisjoint(way.dialects):
        return False
    if way.strings and (not KEYS[world.key].is_string or world.key == "folding string"):
        return False
    if world.hierarchy == "joined below":
        return way.name in _BY_OBJECTS or (kind == "change" and way.name not in _OF_ONE_TABLE)
    return not (world.hierarchy == "joined" and kind == "move" and way.name.startswith("unit_of_work"))
