"""Very many rows into one table, without an object for each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy import orm

from person_repo.database.direct import DIRECT_DRIVERS
from person_repo.database.marks import DECLARED, DeclaredInsert
from person_repo.exceptions import InvalidEntityError
from person_repo.internals import bind_processors
from person_repo.mapped.mapping import EntityMapping, Identity, Row
from person_repo.messages import shown

__all__ = ["DriverInsert", "insert_rows"]


def insert_rows(
    mapping: EntityMapping[Any],
    names: Sequence[str],
    chunks: Iterable[Sequence[Row]],
    session: orm.Session,
    connection: sa.Connection,
    *,
    checked: bool,
) -> int:
    """Inserts rows in the session's transaction, on its connection, and returns their number.

    See ``SQLAlchemyRepository.add_rows``. Memory holds one chunk at a time.
    """
    _check_names(mapping, names)
    insert = DriverInsert.of(mapping, names, connection)
    added = 0
    for chunk in chunks if checked else _checked(mapping, names, chunks):
        if not chunk:
            continue
        if insert is not None:
            insert.send(connection, chunk)
        else:
            session.execute(sa.insert(mapping.entity), [dict(zip(names, row, strict=True)) for row in chunk])
        added += len(chunk)
    return added


def _check_names(mapping: EntityMapping[Any], names: Sequence[str]) -> None:
    for index, name in enumerate(names):
        mapping.field(name)
        if name in names[:index]:
            raise InvalidEntityError(f"rows of {mapping.name} name {name} twice; name each field once")
    missing = [name for name in mapping.required_names if name not in names]
    if missing:
        raise InvalidEntityError(
            f"rows of {mapping.name} lack {', '.join(missing)}; add each column that takes no NULL and has no default"
        )


def _checked(
    mapping: EntityMapping[Any], names: Sequence[str], chunks: Iterable[Sequence[Row]]
) -> Iterator[Sequence[Row]]:
    """The chunks, each checked before it is handed out. Raises ``InvalidEntityError``, with the number of the row."""
    first = 1
    for chunk in chunks:
        _check_shape(mapping, names, chunk, first)
        for name, column in zip(names, zip(*chunk, strict=True), strict=bool(chunk)):
            _check_column(mapping, name, column, first)
        yield [*map(tuple, chunk)]
        first += len(chunk)


def _check_shape(mapping: EntityMapping[Any], names: Sequence[str], chunk: Sequence[Row], first: int) -> None:
    width = len(names)
    # Fast path for most chunks; row by row nothing would be found either.
    if {*map(type, chunk)} == {tuple} and {*map(len, chunk)} == {width}:
        return
    for number, row in enumerate(chunk, first):
        given: object = row
        if isinstance(given, (tuple, list, sa.Row)) and len(given) == width:
            continue
        raise InvalidEntityError(
            f"row {number:,} of {mapping.name} is {shown(row)}; give chunks of rows, each a tuple of {width} values: "
            f"{', '.join(names)}"
        )


def _check_column(mapping: EntityMapping[Any], name: str, column: Sequence[Any], first: int) -> None:
    field = mapping.by_name[name]
    if field.accepts_all(column):
        return
    refusal = field.refusal
    for number, value in enumerate(column, first):
        if value is None or refusal(value) is not None:
            try:
                mapping.check({name: value})
            except InvalidEntityError as error:
                raise InvalidEntityError(f"row {number:,}: {error}") from None


class DriverInsert:
    """An insert whose rows the driver takes as they are, in the order of some fields' names.

    SQLAlchemy's work for each row (parameters by name, once more by the names of the statement) and the write side's
    examination of each take longer than the driver does. Here that is done once for all rows.
    """

    def __init__(self, mapping: EntityMapping[Any], names: Sequence[str], sql: str, appended: Row) -> None:
        self._mapping = mapping
        self._sql = sql
        self._appended = appended
        self._key_names = tuple(column.name for column in mapping.key_columns[mapping.table])
        self._key_indexes = [names.index(field.name) for field in mapping.key_fields]

    @classmethod
    def of(cls, mapping: EntityMapping[Any], names: Sequence[str], connection: sa.Connection) -> Self | None:
        """The insert for this connection; None if a row takes more than values that the driver sends as they are."""
        dialect = connection.dialect
        if dialect.driver not in DIRECT_DRIVERS or connection.get_execution_options().get("schema_translate_map"):
            return None
        if mapping.inherits or not {field.name for field in mapping.key_fields} <= {*names}:
            return None
        keys = [mapping.by_name[name].column.key for name in names]
        version, generator = mapping.mapper.version_id_col, mapping.mapper.version_id_generator
        first_version: Row = ()
        if version is not None:
            if not callable(generator):
                return None
            keys.append(str(version.key))
            first_version = (generator(None),)
        compiled: Any = sa.insert(mapping.table).compile(dialect=dialect, column_keys=keys)
        sql = _positional(compiled, keys)
        if sql is None or compiled.insert_prefetch or bind_processors(compiled):
            return None
        return cls(mapping, names, sql, first_version)

    def send(self, connection: sa.Connection, rows: Sequence[Row]) -> None:
        """Inserts these rows."""
        appended = self._appended
        declared = DeclaredInsert(self._mapping.table, self._key_names, lambda: self._identities(rows))
        complete = [(*row, *appended) for row in rows] if appended else [*rows]
        connection.exec_driver_sql(self._sql, complete, execution_options={DECLARED: declared})

    def _identities(self, rows: Sequence[Row]) -> list[Identity] | None:
        identities = [self._mapping.stored_identity([row[index] for index in self._key_indexes]) for row in rows]
        return None if None in identities else [identity for identity in identities if identity is not None]


def _positional(compiled: Any, keys: Sequence[str]) -> str | None:
    """The SQL with parameters by position in the order of these keys; None if it has others, or another order.

    PyMySQL's SQL names its parameters, and PyMySQL takes positions, too, which need no dict for each row.
    """
    sql = str(compiled)
    if compiled.positional:
        return sql if compiled.positiontup == keys else None
    places = [sql.find(f"%({key})s") for key in keys]
    if -1 in places or places != sorted(places) or len(compiled.params) != len(keys):
        return None
    for key in keys:
        sql = sql.replace(f"%({key})s", "%s")
    return sql
