"""How the values of a column type travel to the cache and back. Pure."""

from __future__ import annotations

import datetime
import decimal
import uuid
from collections.abc import Callable, Container, Iterable
from typing import Any, NamedTuple

import sqlalchemy as sa

__all__ = ["PLAIN_TYPES", "Travel"]

PLAIN_TYPES = (
    str, int, bool, float, bytes, decimal.Decimal, uuid.UUID,
    datetime.datetime, datetime.date, datetime.time, datetime.timedelta,
)  # fmt: skip
"""The types whose values msgpack carries unchanged."""


class Travel(NamedTuple):
    """How the values of a column type travel, and which of them it takes.

    ``python_type``: the type of loaded values, ``object`` if they can have any. ``wire``: the type that msgpack
    carries; ``encode`` and ``decode`` convert to it and from it, None included, and are None for values that travel
    unchanged. ``accepts``: the types of which the column takes instances, where the loaded type alone does not say.
    ``values``: those that it takes, if few. ``parts``: the values inside a value, each of the type ``part_type``.
    ``compared``: a value as the database compares it. ``may_be_key``: False for a type that no key may have.
    ``is_kept``: False if the database may keep another value than the one that is written.
    """

    python_type: Any
    wire: Any
    encode: Callable[[Any], Any] | None = None
    decode: Callable[[Any], Any] | None = None
    accepts: tuple[type, ...] | None = None
    values: Container[Any] | None = None
    parts: Callable[[Any], Iterable[Any]] | None = None
    part_type: sa.types.TypeEngine[Any] | None = None
    compared: Callable[[Any], Any] | None = None
    may_be_key: bool = True
    is_kept: bool = True
