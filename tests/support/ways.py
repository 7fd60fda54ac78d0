"""Every way in which a host writes people, or a class of its own, and a witness of what the cache says meanwhile."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from dogpile.cache import CacheRegion
from sqlalchemy import orm
from sqlalchemy.dialects import mysql, postgresql, sqlite

from person_repo.model import Person
from person_repo.service import Service

__all__ = [
    "ADDITIONS",
    "CHANGES",
    "MOVES",
    "PEOPLE",
    "REMOVALS",
    "STRANGERS",
    "Way",
    "Witness",
    "conflicting",
    "person",
    "ways_for",
]

PEOPLE = ("ada", "barbara", "Grace", "grace", "grace ")
"""The ids of the people that are there at the start: to a collation that folds and pads, fewer than five."""

STRANGERS = ("edsger", "frances", "Frances", "donald")
"""The ids of people that are not."""


def person(id: str, name: str = "first") -> Person:
    """A person whose last name tells the id, so that criteria on it find that row only."""
    return Person(id=id, first_name=name, last_name=f"of {id}")


class Witness:
    """Reads everything through the cache after each statement of a covered engine, right before and after each COMMIT
    and ROLLBACK of its driver, and compares that with what is committed.

    So every reader that could come in between has come: an old row that can be stored is stored, and a tombstone that
    comes late is seen. It must be made before anything else covers the engine: what it sees after a statement or a
    COMMIT it sees before the write side does.
    """

    def __init__(
        self,
        engine: sa.Engine,
        cache: CacheRegion | str,
        *,
        entity: type[Any] = Person,
        ids: Iterable[Any] = (*PEOPLE, *STRANGERS),
        covers: bool = True,
    ) -> None:
        self.engine = engine
        self.ids = tuple(ids)
        self.wrong: list[str] = []
        self.looks = 0
        self.loaded: set[Any] = set()
        """The ids that the cache could not answer by itself since it was warm."""
        self._closed = False
        self._looking = True
        schemas = engine.get_execution_options().get("schema_translate_map")
        # A prepared statement fails on PostgreSQL once the table has another definition.
        prepared = {"prepare_threshold": None} if engine.dialect.name == "postgresql" else {}
        self._direct = sa.create_engine(
            engine.url,
            isolation_level="AUTOCOMMIT",
            execution_options={"schema_translate_map": schemas},
            connect_args=prepared,
        )
        if covers:
            self.watch(engine)
        self.sessions: orm.sessionmaker[orm.Session] = orm.sessionmaker(engine)
        self.service: Service[Any] = Service.over(entity, self.sessions, cache)
        mapping = self.service.database.mapping
        self._select = sa.select(*mapping.columns)
        self._rows_of = mapping.identity_in, mapping.id_of
        self._names = mapping.names

    def watch(self, engine: sa.Engine) -> None:
        """Looks at what is done on this engine, too."""
        sa.event.listen(engine, "after_cursor_execute", self._after_statement)
        for name in ("do_commit", "do_rollback"):
            setattr(engine.dialect, name, self._around(name, getattr(engine.dialect, name)))

    def _after_statement(self, _connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        self.look(f"after {statement!r:.200}")

    def _around(self, name: str, function: Callable[[Any], None]) -> Callable[[Any], None]:
        def around(dbapi_connection: Any) -> None:
            self.look(f"before {name}")
            function(dbapi_connection)
            self.look(f"after {name}")

        return around

    @contextmanager
    def blind(self) -> Iterator[None]:
        """Does not look in this block."""
        self._looking = False
        yield
        self._looking = True

    # Looking

    def committed(self) -> dict[Any, tuple[Any, ...]]:
        """What the database says: the rows by id."""
        identity_in, id_of = self._rows_of
        with self._direct.connect() as connection:
            rows = [tuple(row) for row in connection.execute(self._select)]
        found = {id_of(identity_in(row)): row for row in rows}
        return {id: found[id] for id in self.ids if id in found}

    def answered(self) -> dict[Any, tuple[Any, ...]]:
        """What the cache says, asked one by one."""
        cached, found = self.service.cached, {}
        for id in self.ids:
            hits = cached.counters.hits.value
            entity = cached.get(id)
            if cached.counters.hits.value == hits:
                self.loaded.add(id)
            if entity is not None:
                found[id] = self._row(entity)
        return found

    def answered_at_once(self) -> dict[Any, tuple[Any, ...]]:
        """What the cache says, asked for all together."""
        return {id: self._row(entity) for id, entity in self.service.cached.get_many(self.ids).items()}

    def look(self, when: str) -> None:
        """Compares the two, and remembers where they differ."""
        if not self._looking or self._closed:
            return
        self._looking = False
        try:
            self.looks += 1
            committed = self.committed()
            for answered in (self.answered(), self.answered_at_once()):
                if answered != committed:
                    differ = {id: (answered.get(id), committed.get(id)) for id in self.ids}
                    differ = {id: pair for id, pair in differ.items() if pair[0] != pair[1]}
                    self.wrong.append(f"{when}: cached and committed are {differ}")
        finally:
            self._looking = True

    def _row(self, entity: Any) -> tuple[Any, ...]:
        return tuple(getattr(entity, name) for name in self._names)

    # Checking

    def warm(self) -> None:
        """Has the cache know everybody, the absent included."""
        self.answered()
        self.loaded.clear()
        self.wrong.clear()
        self.look("when warm")
        assert not self.loaded, "the cache could not be warmed"

    def check(self) -> None:
        """Fails if the cache has ever said anything but what was committed, or does now."""
        self.look("at the end")
        self.look("at the end, again")
        assert not self.wrong, "\n".join(self.wrong[:5])

    @contextmanager
    def invalidates(self, *ids: Any) -> Iterator[None]:
        """Fails unless this block drops exactly these from a warm cache, key by key, and the cache is right always."""
        self.warm()
        before = self.service.stats()
        yield
        self.check()
        assert self.loaded == set(ids)
        assert (self.service.stats() - before).model_drops == 0

    @contextmanager
    def drops(self) -> Iterator[None]:
        """Fails unless this block drops the whole model from a warm cache, and the cache is right always."""
        self.warm()
        before = self.service.stats()
        yield
        self.check()
        assert self.loaded == set(self.ids)
        assert (self.service.stats() - before).model_drops >= 1

    @contextmanager
    def right(self) -> Iterator[None]:
        """Fails unless the cache, warm at the start of this block, is right always; whatever is dropped."""
        self.warm()
        yield
        self.check()

    @contextmanager
    def costs(self, round_trips: int) -> Iterator[None]:
        """Fails unless this block costs exactly as many exchanges with the cache."""
        before = self.service.stats()
        with self.blind():
            yield
        assert (self.service.stats() - before).round_trips == round_trips

    def close(self) -> None:
        """Ends the witness's own connections."""
        self._closed = True
        self.service.close()
        self._direct.dispose()


@dataclass(frozen=True)
class Way:
    """A way to write: ``write(session, ids, name)`` writes people, with a ``Target`` after that others. ``exact``:
    whether the keys can be told from it, None where that is up to the database; or the databases that tell them, by
    RETURNING. ``dialects``: the databases that know it, None for all; of two families of one dialect ``MySQL`` and
    ``MariaDB`` are one each. ``strings``: it is for keys that are strings.
    """

    name: str
    write: Callable[..., Any]
    exact: bool | tuple[str, ...] | None = True
    dialects: tuple[str, ...] | None = None
    strings: bool = False

    def is_exact_on(self, engine: sa.Engine) -> bool | None:
        """``exact``, on this engine, which has connected before."""
        return not names_of(engine).isdisjoint(self.exact) if isinstance(self.exact, tuple) else self.exact


RETURNED = ("sqlite", "postgresql")
"""The databases that return the keys of what an update or a delete changed."""

RETURNED_SIMPLY = (*RETURNED, "MariaDB")
"""The databases that return those of a delete which names no other table."""


def names_of(engine: sa.Engine) -> set[str]:
    """The names of an engine's database, as a way has them."""
    if engine.dialect.name != "mysql":
        return {engine.dialect.name}
    return {"mysql", "MariaDB" if getattr(engine.dialect, "is_mariadb", False) else "MySQL"}


def ways_for(ways: Iterable[Way], engine: sa.Engine) -> list[Way]:
    """Those that a database knows, whose engine has connected before."""
    names = names_of(engine)
    return [way for way in ways if way.dialects is None or not names.isdisjoint(way.dialects)]


CHANGES: list[Way] = []
"""``write(session, ids, name)`` gives these people, who are there, this first name."""

ADDITIONS: list[Way] = []
"""``write(session, ids, name)`` stores these people, who are not there, with this first name."""

REMOVALS: list[Way] = []
"""``write(session, ids, name)`` deletes these people, who are there."""

MOVES: list[Way] = []
"""``write(session, [old, new], name)`` gives a person, who is there, another id, which is free."""

TABLE: Any = Person.__table__


class Target:
    """The class that a way writes, by default ``Person``: a class with the attributes ``id``, ``first_name``,
    ``last_name`` and ``version``, and the table that statements without the ORM change.

    ``key``: the column of the ids in that table. ``schema``: of that table in text, where the metadata has another.
    ``constant``: the other attributes of its key, which are the same for all rows and have these values by default.
    ``make(id, name)``: a new object.
    """

    def __init__(
        self,
        entity: type[Any],
        table: sa.Table,
        key: sa.Column[Any],
        make: Callable[[Any, str], Any],
        constant: Mapping[str, Any] | None = None,
    ) -> None:
        self.entity: Any = entity
        self.table: Any = table
        self.key: Any = key
        self.make = make
        self.constant = dict(constant or {})
        self.schema: str | None = table.schema
        self.own: Any = self._as_another_metadata_has_it()
        self.aside: Any = sa.table("aside", *[sa.column(column.name, column.type) for column in self._columns()])

    def _columns(self) -> list[sa.Column[Any]]:
        return [self.key, *[self.table.c[name] for name in ("first_name", "last_name", "version")]]

    def _as_another_metadata_has_it(self) -> sa.Table:
        """The same table as some other MetaData of the host's has it, under other keys."""
        keys = {self.key.name: "ident", "first_name": "given"}
        columns = [
            sa.Column(column.name, column.type, key=keys.get(column.name, column.name), primary_key=column is self.key)
            for column in self._columns()
        ]
        return sa.Table(self.table.name, sa.MetaData(), *columns, schema=self.table.schema)

    def identity(self, id: Any) -> Any:
        """The identity of an id, as ``Session.get`` takes it."""
        return (id, *self.constant.values()) if self.constant else id

    @property
    def primary_key(self) -> list[str]:
        """The names of the columns of the table's key."""
        return [column.name for column in self.table.primary_key]

    def values(self, ids: Iterable[Any], name: str) -> list[dict[str, Any]]:
        """Attributes of objects, for the ORM."""
        return [{**self.constant, "id": id, "first_name": name, "last_name": f"of {id}", "version": 1} for id in ids]

    def rows(self, ids: Iterable[Any], name: str) -> list[dict[str, Any]]:
        """Values of columns, for the table."""
        return [{self.key.key: id, "first_name": name, "last_name": f"of {id}", "version": 1} for id in ids]

    def sql(self, statement: str) -> str:
        """A statement on ``person`` by ``id`` as one on this table by its key."""
        name = rf"\1{self.table.name}\1"
        if self.schema is not None:
            name = rf"\1{self.schema}\1.{name}"
        statement = re.sub(r"([`\"]?)\b(?:public\.)?person\b\1", name, statement)
        return re.sub(r"(?<![:@\w])id\b", self.key.name, statement)

    def text(self, statement: str) -> Any:
        """The same as text with typed parameters ``id``, ``old`` and ``new``."""
        text = sa.text(self.sql(statement))
        names = {name for name in ("id", "old", "new") if re.search(rf"(?<![:\w]):{name}\b", statement)}
        return text.bindparams(*[sa.bindparam(name, type_=self.key.type) for name in names])


PERSON = Target(Person, TABLE, TABLE.c.id, person)

Write = Callable[..., Any]


def way(
    into: list[Way], *dialects: str, exact: bool | tuple[str, ...] | None = True, strings: bool = False
) -> Callable[[Write], Write]:
    """Registers a function as a way of writing; ``dialects``: the databases that know it, where not all do."""

    def register(write: Write) -> Write:
        into.append(Way(write.__name__, write, exact, dialects or None, strings))
        return write

    return register


def last_names(ids: Sequence[Any]) -> list[str]:
    return [f"of {id}" for id in ids]


rows = PERSON.rows


def literals(ids: Sequence[Any], of: Target) -> Any:
    """A query that yields these ids, and no table that a database could refuse to read and write at once."""
    selects = [sa.select(sa.literal(id, of.key.type).label("id")) for id in ids]
    return sa.union_all(*selects) if len(selects) > 1 else selects[0]


def driver(of: Target, session: orm.Session, statement: str, parameters: tuple[Any, ...]) -> None:
    """SQL with ``?``, past the compiler."""
    connection = session.connection()
    marker = "?" if connection.dialect.paramstyle == "qmark" else "%s"
    connection.exec_driver_sql(of.sql(statement).replace("?", marker), parameters)


def sent(of: Target, session: orm.Session, id: Any) -> Any:
    """An id as the driver takes it."""
    dialect = session.get_bind().dialect
    process = of.key.type.dialect_impl(dialect).bind_processor(dialect)
    return id if process is None else process(id)


def quoted(session: orm.Session, statement: str) -> str:
    """The statement with its names in backticks quoted as the database does."""
    return statement.replace("`", '"') if session.get_bind().dialect.name == "postgresql" else statement


def put_aside(session: orm.Session, ids: Sequence[Any], of: Target) -> None:
    """A temporary table ``aside`` of MySQL's with rows of these ids: no other session's locks are in its way."""
    session.execute(sa.text("DROP TEMPORARY TABLE IF EXISTS aside"))
    session.execute(of.text("CREATE TEMPORARY TABLE aside SELECT * FROM person WHERE FALSE"))
    session.execute(sa.insert(of.aside), of.rows(ids, "aside"))


def conflicting(session: orm.Session, table: Any = TABLE) -> Any:
    """The INSERT of a database that knows ON CONFLICT."""
    dialects: Any = {"sqlite": sqlite, "postgresql": postgresql}
    return dialects[session.get_bind().dialect.name].insert(table)


# Changes: the unit of work


@way(CHANGES)
def unit_of_work(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    for id in ids:
        session.get_one(of.entity, of.identity(id)).first_name = name
    session.flush()


@way(CHANGES)
def unit_of_work_twice(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    for between in ("between", name):
        unit_of_work(session, ids, between, of)


@way(CHANGES)
def two_objects_of_one_row(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    """The first is unchanged, the second is not."""
    for id in ids:
        session.expunge(session.get_one(of.entity, of.identity(id)))
    unit_of_work(session, ids, name, of)


@way(CHANGES)
def merge(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    for id in ids:
        copy = session.get_one(of.entity, of.identity(id), populate_existing=True)
        session.expunge(copy)
        copy.first_name = name
        session.merge(copy)
    session.flush()


# Changes: ORM statements


def _synchronized(how: Any) -> None:
    def write(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
        statement = sa.update(of.entity).where(of.entity.id.in_(ids)).values(first_name=name)
        session.execute(statement, execution_options={"synchronize_session": how})

    CHANGES.append(Way(f"orm_update_synchronized_by_{how}", write))


for _how in (False, "auto", "evaluate", "fetch"):
    _synchronized(_how)


@way(CHANGES, exact=RETURNED)
def orm_update_by_another_column(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    session.execute(sa.update(of.entity).where(of.entity.last_name.in_(last_names(ids))).values({"first_name": name}))


@way(CHANGES)
def query_update(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    session.query(of.entity).filter(of.entity.id.in_(ids)).update({of.entity.first_name: name})


@way(CHANGES)
def orm_bulk_update_by_key(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    session.flush()
    versions = dict(session.execute(sa.select(of.entity.id, of.entity.version).where(of.entity.id.in_(ids))).all())
    session.execute(
        sa.update(of.entity),
        [{**of.constant, "id": id, "first_name": name, "version": versions.get(id, 1)} for id in ids],
    )


@way(CHANGES)
def bulk_update_mappings(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    session.flush()
    versions = dict(session.execute(sa.select(of.entity.id, of.entity.version).where(of.entity.id.in_(ids))).all())
    session.bulk_update_mappings(
        sa.inspect(of.entity),
        [{**of.constant, "id": id, "first_name": name, "version": versions.get(id, 1)} for id in ids],
    )


@way(CHANGES)
def bulk_save_objects(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    session.flush()
    people = [session.get_one(of.entity, of.identity(id), populate_existing=True) for id in ids]
    for one in people:
        session.expunge(one)
        one.first_name = name
    session.bulk_save_objects(people)


@way(CHANGES)
def lambda_statement(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    entity = of.entity

    def update(id: Any) -> None:
        session.execute(sa.lambda_stmt(lambda: sa.update(entity).where(entity.id == id).values(first_name=name)))

    for id in ids:
        update(id)


@way(CHANGES, exact=RETURNED)
def lambda_criterion_on_another_column(
    session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON
) -> None:
    entity = of.entity

    def update(last: str) -> None:
        session.execute(sa.update(entity).where(lambda: entity.last_name == last).values(first_name=name))

    for last in last_names(ids):
        update(last)


# Changes: Core


@way(CHANGES)
def core_update(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    for id in ids:
        session.connection().execute(sa.update(of.table).where(of.key == id).values(first_name=name))


@way(CHANGES)
def core_update_through_the_session(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    session.execute(sa.update(of.table).where(sa.and_(of.key.in_(ids), of.table.c.version > 0)), {"first_name": name})


@way(CHANGES)
def core_update_mirrored(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    for id in ids:
        session.execute(sa.update(of.table).where(sa.literal(id, of.key.type) == of.key).values(first_name=name))


@way(CHANGES)
def core_update_of_many_parameter_sets(
    session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON
) -> None:
    statement = sa.update(of.table).where(of.key == sa.bindparam("which")).values(first_name=sa.bindparam("name"))
    session.connection().execute(statement, [{"which": id, "name": name} for id in ids])


@way(CHANGES)
def core_update_in_expanding_parameter(
    session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON
) -> None:
    criterion = of.key.in_(sa.bindparam("which", expanding=True))
    session.execute(sa.update(of.table).where(criterion).values(first_name=name), {"which": list(ids)})


@way(CHANGES, exact=RETURNED)
def core_update_by_or(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    criterion = sa.or_(of.key == ids[-1], *[of.key == id for id in ids])
    session.execute(sa.update(of.table).where(criterion).values(first_name=name))


@way(CHANGES, exact=RETURNED)
def core_update_by_another_column(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    for last in last_names(ids):
        statement = sa.update(of.table).where(of.table.c.last_name == sa.bindparam("last")).values(first_name=name)
        session.execute(statement, {"last": last})


@way(CHANGES, exact=RETURNED)
def core_update_by_subquery(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    session.execute(sa.update(of.table).where(of.key.in_(literals(ids, of))).values(first_name=name))


@way(CHANGES, exact=RETURNED)
def core_update_by_scalar_subquery(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    for id in ids:
        only = literals([id], of).scalar_subquery()
        session.execute(sa.update(of.table).where(only == of.key).values(first_name=name))


@way(CHANGES, exact=RETURNED)
def core_update_by_expression(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    """Its own parameters and those of the criterion get the same made-up names."""
    for last in last_names(ids):
        value = sa.case((of.table.c.last_name == "nobody", "nobody"), else_=name)
        session.execute(sa.update(of.table).where(of.table.c.last_name == last).values(first_name=value))


@way(CHANGES)
def core_update_with_ordered_values(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    statement = sa.update(of.table).where(of.key.in_(ids))
    session.execute(
        statement.ordered_values((of.table.c.version, of.table.c.version + 1), (of.table.c.first_name, name))
    )


@way(CHANGES)
def core_update_of_another_metadata(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    session.execute(sa.update(of.own).where(of.own.c.ident.in_(ids)).values(given=name))


@way(CHANGES, exact=RETURNED)
def core_update_of_another_metadata_by_another_column(
    session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON
) -> None:
    session.execute(sa.update(of.own).where(of.own.c.last_name.in_(last_names(ids))).values(given=name))


@way(CHANGES, exact=False)
def core_update_of_an_alias(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    other = of.table.alias("other")
    session.execute(sa.update(other).where(other.c.id.in_(ids)).values(first_name=name))


@way(CHANGES, "sqlite", "postgresql")
def core_update_returning(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    statement = sa.update(of.table).where(of.key.in_(ids)).values(first_name=name).returning(of.key)
    session.execute(statement).all()


@way(CHANGES, "sqlite", "postgresql")
def orm_update_returning_objects(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    statement = sa.update(of.entity).where(of.entity.id.in_(ids)).values(first_name=name).returning(of.entity)
    options = {"synchronize_session": False}
    session.scalars(sa.select(of.entity).from_statement(statement), execution_options=options).all()


@way(CHANGES, "mysql", exact=False)
def core_update_with_a_limit(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    for last in last_names(ids):
        criterion = of.table.c.last_name.in_([last, "of nobody"])
        limited = sa.update(of.table).where(criterion).with_dialect_options(mysql_limit=1)
        session.execute(limited.values(first_name=name))
    unlucky = sa.update(of.table).where(of.table.c.version > 0).with_dialect_options(mysql_limit=1)
    session.execute(unlucky.values(version=of.table.c.version))


@way(CHANGES, "mysql")
def on_duplicate_key_update(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    statement = mysql.insert(of.table).values(of.rows(ids, "never seen"))
    session.execute(statement.on_duplicate_key_update(first_name=name))


@way(CHANGES, "sqlite", "postgresql")
def on_conflict_do_update(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    statement = conflicting(session, of.table).values(of.rows(ids, name))
    conflict = statement.on_conflict_do_update(
        index_elements=of.primary_key, set_={"first_name": statement.excluded.first_name}
    )
    session.execute(conflict)


@way(CHANGES, "sqlite")
def insert_or_replace(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    session.flush()
    session.connection().execute(sa.insert(of.table).prefix_with("OR REPLACE"), of.rows(ids, name))


# Changes: text


@way(CHANGES, exact=False)
def text_update(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    for id in ids:
        session.execute(of.text("UPDATE person SET first_name = :name WHERE id = :id"), {"name": name, "id": id})


@way(CHANGES, exact=False)
def text_update_in_odd_shape(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    for id in ids:
        statement = "\n\t/* select */ -- select\n update\n`person`\tset first_name=:name\nwhere\n`person`.`id`=:id ;"
        session.execute(of.text(quoted(session, statement)), {"name": name, "id": id})


@way(CHANGES, exact=False)
def text_update_of_many_parameter_sets(
    session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON
) -> None:
    statement = of.text("UPDATE person SET first_name = :name WHERE id = :id")
    session.execute(statement, [{"name": name, "id": id} for id in ids])


@way(CHANGES, exact=False)
def driver_update(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    for id in ids:
        driver(of, session, "UPDATE person SET first_name = ? WHERE id = ?", (name, sent(of, session, id)))


@way(CHANGES, "sqlite", "mysql", exact=False)
def replace_into(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    session.flush()
    for id in ids:
        values = {"name": name, "id": id, "last": f"of {id}"}
        session.execute(
            of.text("REPLACE INTO person (id, first_name, last_name, version) VALUES (:id, :name, :last, 1)"), values
        )


@way(CHANGES, "sqlite", "postgresql", "MySQL", exact=False)
def text_update_with_a_query_in_front(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    """For which Python's sqlite3 begins no transaction."""
    for id in ids:
        statement = of.text(
            "WITH wanted AS (SELECT :id AS id) UPDATE person SET first_name = :name WHERE id IN (SELECT id FROM wanted)"
        )
        session.execute(statement, {"name": name, "id": id})


@way(CHANGES, "sqlite", "postgresql", "MySQL", exact=None)
def core_update_with_a_query_in_front(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    wanted = sa.select(literals(ids, of).subquery().c.id).cte("wanted")
    session.execute(sa.update(of.table).where(of.key.in_(sa.select(wanted.c.id))).values(first_name=name))


@way(CHANGES, "mysql", exact=False)
def executable_comment(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    for id in ids:
        driver(of, session, "/*!50000 UPDATE person */ SET first_name = ? WHERE id = ?", (name, sent(of, session, id)))


@way(CHANGES, "mysql", exact=False, strings=True)
def prepared_statement(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    connection = session.connection()
    for id in ids:
        connection.execute(sa.text("SET @name = :name, @id = :id"), {"name": name, "id": id})
        connection.exec_driver_sql(
            of.sql("PREPARE hidden FROM 'UPDATE person SET first_name = @name WHERE id = CONVERT(@id USING utf8mb4)'")
        )
        connection.exec_driver_sql("EXECUTE hidden")


@way(CHANGES, "postgresql", exact=False)
def core_update_within_a_query(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    """A CTE that changes rows: WITH x AS (UPDATE ... RETURNING) SELECT."""
    changed = sa.update(of.table).where(of.key.in_(ids)).values(first_name=name).returning(of.key).cte("changed")
    session.execute(sa.select(changed.c.id)).all()


@way(CHANGES, "postgresql", exact=False)
def text_update_within_a_query(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    for id in ids:
        statement = of.text(
            "WITH changed AS (UPDATE person SET first_name = :name WHERE id = :id RETURNING id) SELECT id FROM changed"
        )
        session.execute(statement, {"name": name, "id": id})


@way(CHANGES, "postgresql", "mysql", exact=RETURNED)
def core_update_from_another_table(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    wanted = literals(ids, of).subquery("wanted")
    session.execute(sa.update(of.table).where(of.key == wanted.c.id).values(first_name=name))


@way(CHANGES, "postgresql", exact=False)
def text_update_from_another_table(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    for id in ids:
        statement = of.text(
            "UPDATE ONLY public.person AS p SET first_name = w.name FROM (SELECT CAST(:name AS text) AS name) AS w "
            "WHERE p.id = :id"
        )
        session.execute(statement, {"name": name, "id": id})


@way(CHANGES, "postgresql", exact=False, strings=True)
def text_merge(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    for id in ids:
        statement = of.text(
            "MERGE INTO person USING (SELECT CAST(:id AS text) AS id) AS given ON person.id = given.id "
            "WHEN MATCHED THEN UPDATE SET first_name = :name WHEN NOT MATCHED THEN DO NOTHING"
        )
        session.execute(statement, {"name": name, "id": id})


@way(CHANGES, "postgresql", exact=False, strings=True)
def anonymous_block(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    for id in ids:
        session.execute(of.text(f"DO $$ BEGIN UPDATE person SET first_name = '{name}' WHERE id = '{id}'; END $$"))


@way(CHANGES, "postgresql", exact=False, strings=True)
def prepared_statement_of_the_server(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    connection = session.connection()
    connection.exec_driver_sql(of.sql("PREPARE hidden (text, text) AS UPDATE person SET first_name = $1 WHERE id = $2"))
    for id in ids:
        connection.exec_driver_sql(f"EXECUTE hidden ('{name}', '{id}')")
    connection.exec_driver_sql("DEALLOCATE hidden")


@way(CHANGES, "mysql")
def on_duplicate_key_update_to_the_new_row(
    session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON
) -> None:
    """MySQL's ``AS new``, MariaDB's ``VALUES()``."""
    statement = mysql.insert(of.table).values(of.rows(ids, name))
    session.execute(statement.on_duplicate_key_update(first_name=statement.inserted.first_name))


@way(CHANGES, "MySQL", exact=False)
def text_insert_as_new_on_duplicate_key_update(
    session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON
) -> None:
    statement = of.text(
        "INSERT INTO person (id, first_name, last_name, version) VALUES (:id, :name, '', 1) AS new(i, f, l, v) "
        "ON DUPLICATE KEY UPDATE first_name = f"
    )
    for id in ids:
        session.execute(statement, {"id": id, "name": name})


@way(CHANGES, "mysql", exact=False)
def text_insert_set_on_duplicate_key_update(
    session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON
) -> None:
    statement = of.text(
        "INSERT person SET id = :id, first_name = '', last_name = '', version = 1 "
        "ON DUPLICATE KEY UPDATE first_name = :name"
    )
    for id in ids:
        session.execute(statement, {"id": id, "name": name})


@way(CHANGES, "mysql", exact=False)
def text_replace_set(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    session.flush()
    statement = of.text("REPLACE person SET id = :id, first_name = :name, last_name = :last, version = 1")
    session.execute(statement, [{"id": id, "name": name, "last": f"of {id}"} for id in ids])


@way(CHANGES, "mysql", exact=False)
def text_replace_select(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    session.flush()
    for id in ids:
        statement = of.text("REPLACE INTO person (id, first_name, last_name, version) SELECT :id, :name, :last, 1")
        session.execute(statement, {"id": id, "name": name, "last": f"of {id}"})


@way(CHANGES, "MariaDB", exact=False)
def text_replace_returning(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    session.flush()
    statement = of.text(
        "REPLACE INTO person (id, first_name, last_name, version) VALUES (:id, :name, :last, 1) RETURNING id"
    )
    for id in ids:
        assert session.scalars(statement, {"id": id, "name": name, "last": f"of {id}"}).one() is not None


@way(CHANGES, "mysql", exact=False)
def text_update_of_a_join(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    for id in ids:
        statement = of.text(
            "UPDATE LOW_PRIORITY person AS p JOIN (SELECT :last AS last) AS wanted "
            "ON p.last_name = CONCAT('', wanted.last) SET p.first_name = :name"
        )
        session.execute(statement, {"last": f"of {id}", "name": name})


@way(CHANGES, "mysql", exact=False)
def text_update_of_two_tables(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    put_aside(session, ids, of)
    statement = "UPDATE aside, `person` SET aside.version = 2, person.first_name = :name WHERE aside.id = person.id"
    session.execute(of.text(statement), {"name": name})


@way(CHANGES, "mysql", exact=False)
def core_update_of_two_tables(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    put_aside(session, ids, of)
    statement = sa.update(of.aside).where(of.key == of.aside.c.id)
    session.execute(statement.values({of.table.c.first_name: name, of.aside.c.version: 2}))


# Additions


@way(ADDITIONS)
def unit_of_work_add(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    session.add_all([of.make(id, name) for id in ids])
    session.flush()


@way(ADDITIONS)
def merge_new(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    for id in ids:
        session.merge(of.make(id, name))
    session.flush()


@way(ADDITIONS)
def orm_insert(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    session.execute(sa.insert(of.entity), of.values(ids, name))


@way(ADDITIONS)
def orm_insert_values(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    for row in of.rows(ids, name):
        session.execute(sa.insert(of.entity).values(row))


@way(ADDITIONS)
def orm_insert_multiple_values(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    session.execute(sa.insert(of.entity).values(of.values(ids, name)))


@way(ADDITIONS)
def bulk_insert_mappings(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    session.bulk_insert_mappings(sa.inspect(of.entity), of.rows(ids, name))


@way(ADDITIONS)
def bulk_save_new_objects(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    session.bulk_save_objects([of.make(id, name) for id in ids])


@way(ADDITIONS)
def core_insert(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    for row in of.rows(ids, name):
        session.connection().execute(sa.insert(of.table).values(**row))


@way(ADDITIONS)
def core_insert_of_many_parameter_sets(
    session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON
) -> None:
    session.connection().execute(sa.insert(of.table), of.rows(ids, name))


@way(ADDITIONS)
def core_insert_of_many_named_parameter_sets(
    session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON
) -> None:
    values = {"id": sa.bindparam("which"), "last_name": sa.bindparam("last"), "first_name": name, "version": 1}
    parameters = [{"which": id, "last": f"of {id}"} for id in ids]
    session.connection().execute(sa.insert(of.table).values(values), parameters)


@way(ADDITIONS)
def core_insert_multiple_values(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    session.execute(sa.insert(of.table).values(of.rows(ids, name)))


@way(ADDITIONS)
def core_insert_multiple_values_by_position(
    session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON
) -> None:
    session.execute(sa.insert(of.table).values([tuple(row.values()) for row in of.rows(ids, name)]))


@way(ADDITIONS)
def core_insert_of_another_metadata(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    values = [{"ident": id, "given": name, "last_name": f"of {id}", "version": 1} for id in ids]
    session.execute(sa.insert(of.own), values)


@way(ADDITIONS, exact=None, strings=True)
def core_insert_of_an_expression(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    for id in ids:
        values = {"first_name": name, "last_name": f"of {id}", "version": 1}
        session.execute(sa.insert(of.table).values(id=sa.func.replace(f"{id}#", "#", "")), values)


@way(ADDITIONS, exact=False)
def core_insert_from_select(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    for row in of.rows(ids, name):
        query = sa.select(*[sa.literal(value, of.table.c[column].type) for column, value in row.items()])
        session.execute(sa.insert(of.table).from_select(list(row), query))


@way(ADDITIONS, "sqlite", "mysql")
def insert_ignoring_conflicts(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    prefix = "IGNORE" if session.get_bind().dialect.name == "mysql" else "OR IGNORE"
    session.execute(sa.insert(of.table).prefix_with(prefix), of.rows(ids, name))


@way(ADDITIONS, "mysql")
def on_duplicate_key_update_of_nobody(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    session.execute(mysql.insert(of.table).values(of.rows(ids, name)).on_duplicate_key_update(first_name=name))


@way(ADDITIONS, "sqlite", "postgresql")
def on_conflict_do_nothing(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    session.execute(conflicting(session, of.table).on_conflict_do_nothing(), of.rows(ids, name))


@way(ADDITIONS, "sqlite", "postgresql", "MariaDB")
def core_insert_returning(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    session.execute(sa.insert(of.table).returning(of.key), of.rows(ids, name)).all()


@way(ADDITIONS, exact=False)
def text_insert(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    statement = of.text("INSERT INTO person (id, first_name, last_name, version) VALUES (:id, :name, :last, 1)")
    session.execute(statement, [{"name": name, "id": id, "last": f"of {id}"} for id in ids])


@way(ADDITIONS, exact=False)
def driver_insert(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    for id in ids:
        statement = "insert into person (id, first_name, last_name, version) values (?, ?, ?, 1)"
        driver(of, session, statement, (sent(of, session, id), name, f"of {id}"))


@way(ADDITIONS, "MySQL", exact=False)
def text_insert_of_row_constructors(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    for id in ids:
        statement = "INSERT INTO person (id, first_name, last_name, version) VALUES ROW(:id, :name, :last, 1)"
        session.execute(of.text(statement), {"id": id, "name": name, "last": f"of {id}"})


@way(ADDITIONS, "mysql", exact=False)
def text_insert_set(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    statement = of.text("INSERT IGNORE person SET id = :id, first_name = :name, last_name = :last, version = 1")
    session.execute(statement, [{"id": id, "name": name, "last": f"of {id}"} for id in ids])


@way(ADDITIONS, "mysql", exact=False)
def text_insert_select(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    for id in ids:
        statement = "INSERT INTO person (id, first_name, last_name, version) (SELECT :id, :name, :last, 1)"
        session.execute(of.text(statement), {"id": id, "name": name, "last": f"of {id}"})


@way(ADDITIONS, "MySQL", exact=False)
def text_insert_table(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    put_aside(session, ids, of)
    session.execute(sa.update(of.aside).values(first_name=name))
    session.execute(of.text("INSERT INTO person TABLE aside"))


@way(ADDITIONS, "MariaDB", exact=False)
def text_insert_returning(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    statement = of.text(
        "INSERT INTO person (id, first_name, last_name, version) VALUES (:id, :name, :last, 1) RETURNING id"
    )
    for id in ids:
        assert session.scalars(statement, {"id": id, "name": name, "last": f"of {id}"}).one() is not None


@way(ADDITIONS, "sqlite", "postgresql", "MariaDB")
def orm_insert_returning_objects(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    assert {one.id for one in session.scalars(sa.insert(of.entity).returning(of.entity), of.values(ids, name))} == {
        *ids
    }


# Removals


@way(REMOVALS)
def unit_of_work_delete(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    for id in ids:
        session.delete(session.get_one(of.entity, of.identity(id)))
    session.flush()


def _deleted(how: Any) -> None:
    def write(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
        statement = sa.delete(of.entity).where(of.entity.id.in_(ids))
        session.execute(statement, execution_options={"synchronize_session": how})

    REMOVALS.append(Way(f"orm_delete_synchronized_by_{how}", write))


for _how in (False, "auto", "evaluate", "fetch"):
    _deleted(_how)


@way(REMOVALS, exact=RETURNED_SIMPLY)
def orm_delete_by_another_column(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    session.execute(sa.delete(of.entity).where(of.entity.last_name.in_(last_names(ids))))


@way(REMOVALS, exact=RETURNED_SIMPLY)
def query_delete(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    session.query(of.entity).filter(of.entity.last_name.in_(last_names(ids))).delete()


@way(REMOVALS)
def core_delete(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    for id in ids:
        session.connection().execute(sa.delete(of.table).where(of.key == id))


@way(REMOVALS)
def core_delete_of_many_parameter_sets(
    session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON
) -> None:
    session.connection().execute(sa.delete(of.table).where(of.key == sa.bindparam("which")), [
        {"which": id} for id in ids
    ])  # fmt: skip


@way(REMOVALS, exact=RETURNED_SIMPLY)
def core_delete_by_or(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    session.execute(sa.delete(of.table).where(sa.or_(of.key == ids[-1], *[of.key == id for id in ids])))


@way(REMOVALS, exact=RETURNED_SIMPLY)
def core_delete_by_subquery(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    session.execute(sa.delete(of.table).where(of.key.in_(literals(ids, of))))


@way(REMOVALS, "sqlite", "postgresql", exact=False)
def core_delete_of_an_alias(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    other = of.table.alias()
    session.execute(sa.delete(other).where(other.c.id.in_(ids)))


@way(REMOVALS, "sqlite", "postgresql", "MariaDB")
def core_delete_returning(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    session.execute(sa.delete(of.table).where(of.key.in_(ids)).returning(of.key)).all()


@way(REMOVALS, exact=False)
def text_delete(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    session.execute(of.text("DELETE FROM person WHERE id = :id"), [{"id": id} for id in ids])


@way(REMOVALS, exact=False)
def driver_delete(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    for id in ids:
        driver(of, session, quoted(session, "Delete From `person` Where id = ?"), (sent(of, session, id),))


@way(REMOVALS, "postgresql", "mysql", exact=RETURNED)
def core_delete_using_another_table(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    wanted = literals(ids, of).subquery("wanted")
    session.execute(sa.delete(of.table).where(of.key == wanted.c.id))


@way(REMOVALS, "postgresql", exact=False, strings=True)
def text_delete_within_an_insert(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    """Rows that move to another table by one statement."""
    session.execute(of.text("CREATE TEMPORARY TABLE gone (id text)"))
    for id in ids:
        statement = "WITH gone_now AS (DELETE FROM person WHERE id = :id RETURNING id) INSERT INTO gone TABLE gone_now"
        session.execute(of.text(statement), {"id": id})
    session.execute(of.text("DROP TABLE gone"))


@way(REMOVALS, "MariaDB", exact=False)
def text_delete_returning(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    for id in ids:
        assert session.scalars(of.text("DELETE FROM person WHERE id = :id RETURNING id"), {"id": id}).one() is not None


@way(REMOVALS, "mysql", exact=False)
def text_delete_of_a_join(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    for id in ids:
        statement = "DELETE p FROM person AS p JOIN (SELECT :last AS last) AS wanted ON p.last_name = wanted.last"
        session.execute(of.text(statement), {"last": f"of {id}"})


@way(REMOVALS, "mysql", exact=False)
def text_delete_of_two_tables(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    put_aside(session, ids, of)
    session.execute(of.text("DELETE QUICK FROM aside, person USING aside JOIN person ON aside.id = person.id"))


@way(REMOVALS, "MySQL", exact=False)
def text_delete_with_a_query_in_front(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    for id in ids:
        statement = "WITH wanted AS (SELECT :id AS id) DELETE FROM person WHERE id IN (SELECT id FROM wanted)"
        session.execute(of.text(statement), {"id": id})


# Moves


@way(MOVES)
def unit_of_work_move(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    old, new = ids
    one = session.get_one(of.entity, of.identity(old))
    one.id, one.last_name = new, f"of {new}"
    session.flush()


@way(MOVES)
def orm_update_of_the_key(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    old, new = ids
    session.execute(sa.update(of.entity).where(of.entity.id == old).values({"id": new, "last_name": f"of {new}"}))


@way(MOVES)
def core_update_of_the_key(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    old, new = ids
    session.execute(sa.update(of.table).where(of.key == old).ordered_values(
        (of.table.c.last_name, f"of {new}"), (of.key, new)
    ))  # fmt: skip


@way(MOVES)
def core_update_of_the_key_by_parameters(
    session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON
) -> None:
    old, new = ids
    statement = sa.update(of.table).where(of.key == sa.bindparam("old"))
    statement = statement.values(id=sa.bindparam("new"), last_name=sa.bindparam("last"))
    session.connection().execute(statement, [{"old": old, "new": new, "last": f"of {new}"}])


@way(MOVES, exact=False)
def core_update_of_the_key_by_another_column(
    session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON
) -> None:
    old, new = ids
    statement = sa.update(of.table).where(of.table.c.last_name == f"of {old}")
    session.execute(statement.values(id=new, last_name=f"of {new}"))


@way(MOVES, exact=False, strings=True)
def core_update_of_the_key_by_expression(
    session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON
) -> None:
    old, new = ids
    value = sa.func.replace(of.key, old, new)
    session.execute(sa.update(of.table).where(of.key == old).values(last_name=f"of {new}", id=value))


@way(MOVES, exact=False)
def text_update_of_the_key(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    old, new = ids
    statement = of.text("UPDATE person SET id = :new, last_name = :last WHERE id = :old")
    session.execute(statement, {"new": new, "last": f"of {new}", "old": old})


@way(MOVES, "sqlite", "postgresql", exact=False)
def on_conflict_update_of_the_key(session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON) -> None:
    old, new = ids
    statement = conflicting(session, of.table).values(of.rows([old], name)[0])
    session.execute(
        statement.on_conflict_do_update(index_elements=of.primary_key, set_={"id": new, "last_name": f"of {new}"})
    )


@way(MOVES, "mysql", exact=False)
def on_duplicate_key_update_of_the_key(
    session: orm.Session, ids: Sequence[Any], name: str, of: Target = PERSON
) -> None:
    old, new = ids
    statement = mysql.insert(of.table).values(of.rows([old], name)[0])
    session.execute(statement.on_duplicate_key_update(id=new, last_name=f"of {new}"))
