"""The shipped model: ``Person``, the layer's tables, and the ``Base`` and string type that hosts may use, too."""

from __future__ import annotations

import time
import uuid
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects import mysql
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, mapped_column

__all__ = ["FENCE", "IDENTITY", "Base", "ExactString", "Person", "birth_of_identity", "new_identity"]


class ExactString(sa.TypeDecorator[str]):
    """A string column in which only equal strings are equal, on every database.

    ``length`` is in characters. Under MySQL's default collation ``ABC``, ``abc``, ``abc `` and ``ÁBC`` are one key;
    here they are four, as on SQLite. Any Unicode text comes back as it was stored.

    The first migration is written with this type: other DDL needs another type, not a change of this one.
    """

    impl = sa.String
    cache_ok = True

    exact = True
    """Two values are one key only if they are equal. A column type without this may fold case, accents or padding."""

    @property
    def python_type(self) -> type[str]:
        """``str``, the type of a loaded value."""
        return str

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        """A binary collation without padding on MySQL and MariaDB, ``C`` on PostgreSQL, the database's own elsewhere.

        A PostgreSQL database's own collation compares exactly, too, but ``C`` also sorts by code point, as the other
        databases do, and no update of the system's libraries makes its indexes invalid.

        MySQL 8 and MariaDB each have such a collation, under a name that the other does not know. Without a connection
        (``--sql``) MariaDB is known by a ``mariadb://`` URL only.
        """
        if dialect.name == "postgresql":
            return dialect.type_descriptor(sa.String(self.length, collation="C"))
        if dialect.name not in ("mysql", "mariadb"):
            return dialect.type_descriptor(sa.String(self.length))
        collation = "utf8mb4_nopad_bin" if getattr(dialect, "is_mariadb", False) else "utf8mb4_0900_bin"
        text = mysql.VARCHAR(self.length, charset="utf8mb4", collation=collation)
        return dialect.type_descriptor(text)


class Base(MappedAsDataclass, DeclarativeBase):
    """The declarative base of ``Person``: mapped dataclasses, and a name for every constraint.

    Migrations need the names: SQLite can only change a constraint that has one.
    """

    metadata = sa.MetaData(
        naming_convention={
            "ix": "ix_%(column_0_N_label)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


_INNODB: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mariadb_engine": "InnoDB",
    "mariadb_charset": "utf8mb4",
}


class Person(Base):
    """A person: ``id`` (the host's choice, at most 100 characters), ``first_name``, ``last_name`` (at most 200 each).

    All three compare exactly. ``version`` belongs to SQLAlchemy, which counts the changes of the row in it: a copy
    older than the row that is written back raises ``StaleDataError`` and reverts nobody's change. Two people are equal
    if their three fields are, whatever their versions.
    """

    __tablename__ = "person"

    id: Mapped[str] = mapped_column(ExactString(100), primary_key=True)
    first_name: Mapped[str] = mapped_column(ExactString(200))
    last_name: Mapped[str] = mapped_column(ExactString(200))
    version: Mapped[int] = mapped_column(sa.Integer, init=False, compare=False)

    __mapper_args__ = {"version_id_col": version}
    __table_args__ = _INNODB


FENCE = sa.Table(
    "person_repo_fence",
    Base.metadata,
    # SQLite counts up by itself only in a column of exactly this type.
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("namespace", ExactString(40), nullable=False, index=True),
    sa.Column("server", ExactString(300), nullable=False),
    sa.Column("item", ExactString(250), nullable=False),
    sa.Column("held_until", sa.BigInteger(), nullable=False),
    sa.Column("expires", sa.BigInteger(), nullable=False),
    **_INNODB,
)
"""Invalidations that a cache server could not be sent; see ``person_repo.fence``. Empty while every server can be
reached. Times are in seconds since 1970.
"""


IDENTITY = sa.Table(
    "person_repo_identity",
    Base.metadata,
    sa.Column("id", sa.Integer(), primary_key=True, autoincrement=False),
    sa.Column("identity", ExactString(40), nullable=False),
    sa.Column("since", sa.BigInteger(), nullable=False),
    **_INNODB,
)
"""One row: the identity of the database, which the names of its cache entries begin with; see
``person_repo.database.identity``. ``since``: its birth, if the database was in use before; seconds since 1970, else 0.
"""


def new_identity() -> str:
    """An identity that no other database has: 32 random hexadecimal digits."""
    return uuid.uuid4().hex


def birth_of_identity(connection: sa.Connection) -> int:
    """``since`` of an identity that is made now. A database is in use if a table has a row, migrations' aside."""
    inspector = sa.inspect(connection)
    schemas: list[str | None] = [None]
    if connection.dialect.name == "postgresql":  # It has one identity for all schemas.
        schemas = [name for name in inspector.get_schema_names() if name != "information_schema"]
    names = [(schema, name) for schema in schemas for name in inspector.get_table_names(schema)]
    others = [pair for pair in names if not pair[1].startswith("person_repo_") and pair[1] != "alembic_version"]
    tables = [sa.table(name, schema=schema) for schema, name in others]
    queries = [sa.select(sa.literal(1)).select_from(table).limit(1) for table in tables]
    return int(time.time()) if any(connection.execute(query).first() is not None for query in queries) else 0


@event.listens_for(IDENTITY, "after_create")
def _insert_identity(_: sa.Table, connection: sa.Connection, **__: Any) -> None:
    # The migration does so itself; this is for ``create_all``.
    row = {"id": 1, "identity": new_identity(), "since": birth_of_identity(connection)}
    connection.execute(sa.insert(IDENTITY).values(row))
