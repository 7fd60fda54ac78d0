"""JSON compared as JSON: a document that was written with other spaces, or its keys in another order, is the same."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

__all__ = ["Document", "is_document"]


class Document(FunctionElement[Any]):
    """One side of a comparison: a JSON column, or a value for it.

    MySQL takes a parameter for a string, which equals no document; PostgreSQL compares JSONB, and no JSON. SQLite and
    MariaDB keep the text, and compare that.
    """

    inherit_cache = True
    type = sa.JSON()


def is_document(type_: sa.types.TypeEngine[Any]) -> bool:
    """True if a column of this type holds JSON, by a ``TypeDecorator``, too."""
    return isinstance(type_.impl_instance if isinstance(type_, sa.TypeDecorator) else type_, sa.JSON)


@compiles(Document)
def _as_it_is(element: Document, compiler: Any, **options: Any) -> str:
    text: str = compiler.process(element.clauses, **options)
    return text


@compiles(Document, "mysql")
def _as_json(element: Document, compiler: Any, **options: Any) -> str:
    text = _as_it_is(element, compiler, **options)
    return text if compiler.dialect.is_mariadb else f"CAST({text} AS JSON)"


@compiles(Document, "postgresql")
def _as_jsonb(element: Document, compiler: Any, **options: Any) -> str:
    return f"CAST({_as_it_is(element, compiler, **options)} AS JSONB)"
