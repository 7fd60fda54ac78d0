"""A second mapped class for the tests: a key of two columns, and one column of each kind that can be cached."""

from __future__ import annotations

import datetime
import decimal
import enum
import uuid
from typing import Any

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.dialects import mysql

from person_repo.model import ExactString

__all__ = ["HostBase", "Parcel", "Size", "Tags", "parcel"]


class HostBase(orm.MappedAsDataclass, orm.DeclarativeBase, kw_only=True):
    """The declarative base of an imagined host: metadata of its own, so that no migration sees its tables."""


class Size(enum.Enum):
    """An enumeration whose values differ from its names, as the names are what the database stores."""

    SMALL = "s"
    LARGE = "l"


class Tags(sa.types.TypeDecorator[tuple[str, ...]]):
    """A tuple of words, kept in the database as one string; NULL is the empty tuple."""

    impl = sa.String(200)
    cache_ok = True

    def process_bind_param(self, value: tuple[str, ...] | None, dialect: sa.Dialect) -> str | None:
        return " ".join(value) if value else None

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> tuple[str, ...]:
        return tuple(value.split(" ")) if value else ()


class Parcel(HostBase):
    """Something in a depot; its key is ``(depot, number)``."""

    __tablename__ = "parcel"
    __table_args__ = {"mysql_charset": "utf8mb4", "mariadb_charset": "utf8mb4"}

    depot: orm.Mapped[str] = orm.mapped_column(ExactString(40), primary_key=True)
    number: orm.Mapped[int] = orm.mapped_column(sa.Integer, primary_key=True, autoincrement=False)
    received: orm.Mapped[datetime.datetime] = orm.mapped_column(
        sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
    )
    price: orm.Mapped[decimal.Decimal] = orm.mapped_column(sa.Numeric(12, 4))
    token: orm.Mapped[uuid.UUID] = orm.mapped_column(sa.Uuid)
    label: orm.Mapped[bytes] = orm.mapped_column(sa.LargeBinary)
    size: orm.Mapped[Size] = orm.mapped_column(sa.Enum(Size))
    contents: orm.Mapped[Any] = orm.mapped_column(sa.JSON)
    due: orm.Mapped[datetime.date] = orm.mapped_column(sa.Date)
    weight: orm.Mapped[float] = orm.mapped_column(sa.Double)
    fragile: orm.Mapped[bool] = orm.mapped_column(sa.Boolean)
    note: orm.Mapped[str | None] = orm.mapped_column(sa.String(200), default=None)
    tags: orm.Mapped[tuple[str, ...]] = orm.mapped_column(Tags, nullable=True, default=())


def parcel(depot: str = "Köln", number: int = 7, **changes: Any) -> Parcel:
    """A complete parcel with values that plain text or float handling would damage; ``changes`` replace some."""
    values: dict[str, Any] = {
        "received": datetime.datetime(2026, 11, 23, 14, 51, 0, 123456),
        "price": decimal.Decimal("12345678.9000"),
        "token": uuid.UUID("12345678-1234-5678-1234-567812345678"),
        "label": b"\x00\xff\r\n'\\",
        "size": Size.LARGE,
        "contents": {"items": ["Bücher", 1, 1.5, None, True], "nested": {"": []}},
        "due": datetime.date(2026, 12, 24),
        "weight": 0.1,
        "fragile": True,
        "note": None,
        "tags": ("up", "fragile"),
    }
    return Parcel(depot=depot, number=number, **values | changes)
