"""Rows that foreign keys change: the models that they may reach are dropped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.dialects import mysql
from support.hosts import FOLDERS, Folder, HostBase, is_mariadb, on_sqlite
from support.ways import (
    Witness,
    conflicting,
)

from person_repo.model import ExactString

pytestmark = pytest.mark.every_database


class Author(HostBase):
    __tablename__ = "author"

    id: orm.Mapped[int] = orm.mapped_column(primary_key=True, autoincrement=False)
    pen_name: orm.Mapped[str] = orm.mapped_column(ExactString(40), unique=True)
    note: orm.Mapped[str] = orm.mapped_column(sa.String(40), default="")


class Book(HostBase):
    """Deleted with its author; ``signed`` follows the pen name of one."""

    __tablename__ = "book"

    id: orm.Mapped[int] = orm.mapped_column(primary_key=True, autoincrement=False)
    author_id: orm.Mapped[int] = orm.mapped_column(sa.ForeignKey("author.id", ondelete="CASCADE"))
    signed: orm.Mapped[str | None] = orm.mapped_column(
        ExactString(40), sa.ForeignKey("author.pen_name", onupdate="CASCADE"), unique=True
    )


class Chapter(HostBase):
    """Survives its book, and follows its signature."""

    __tablename__ = "chapter"

    id: orm.Mapped[int] = orm.mapped_column(primary_key=True, autoincrement=False)
    book_id: orm.Mapped[int | None] = orm.mapped_column(sa.ForeignKey("book.id", ondelete="SET NULL"))
    signed: orm.Mapped[str | None] = orm.mapped_column(
        ExactString(40), sa.ForeignKey("book.signed", onupdate="CASCADE", ondelete="SET NULL")
    )


AUTHORS: Any = Author.__table__
BOOKS: Any = Book.__table__
LIBRARY: list[Any] = [AUTHORS, BOOKS, Chapter.__table__]


@pytest.fixture
def chapters(enforced: sa.Engine, witness_of: Callable[..., Witness]) -> Witness:
    Author.metadata.create_all(enforced, LIBRARY)
    with orm.Session(enforced) as session, session.begin():
        session.add_all([Author(id=1, pen_name="one"), Author(id=2, pen_name="two")])
        session.flush()
        session.add_all([Book(id=10, author_id=1, signed="one"), Book(id=20, author_id=2, signed="two")])
        session.flush()
    objects = [Chapter(id=100, book_id=10, signed="one"), Chapter(id=200, book_id=20, signed="two")]
    return witness_of(Chapter, objects, ids=(100, 200, 300))


DELETIONS: dict[str, Callable[[orm.Session], Any]] = {
    "unit of work": lambda session: session.delete(session.get_one(Author, 1)),
    "ORM delete": lambda session: session.execute(sa.delete(Author).where(Author.pen_name == "one")),
    "Core delete": lambda session: session.connection().execute(sa.delete(AUTHORS).where(AUTHORS.c.id == 1)),
    "text": lambda session: session.execute(sa.text("DELETE FROM author WHERE id = 1")),
    "of the book": lambda session: session.execute(sa.delete(BOOKS).where(BOOKS.c.id == 10)),
    "replaced": lambda session: session.execute(
        sa.text("REPLACE INTO author (id, pen_name, note) VALUES (1, 'x', '')")
        if session.get_bind().dialect.name != "postgresql"
        else sa.text("DELETE FROM author USING book WHERE author.id = book.author_id AND book.id = 10")
    ),
}


@pytest.mark.parametrize("write", DELETIONS.values(), ids=DELETIONS)
def test_rows_that_a_foreign_key_changes_two_deletions_away(
    chapters: Witness, write: Callable[[orm.Session], Any], request: pytest.FixtureRequest
) -> None:
    is_replaced = "replaced" in request.node.callspec.id
    with chapters.drops(), chapters.sessions() as session, session.begin():
        if chapters.engine.dialect.name == "mysql" and is_replaced:
            session.execute(sa.update(BOOKS).values(signed=None))
        write(session)

    # MySQL 9 may replace a row in its place, MariaDB and SQLite delete it and insert another.
    if not is_replaced or chapters.engine.dialect.name == "sqlite" or is_mariadb(chapters.engine):
        assert chapters.committed()[100][1:] == (None, None)


@on_sqlite
def test_rows_that_a_foreign_key_changes_as_another_row_is_replaced(chapters: Witness) -> None:
    with chapters.sessions() as session, session.begin():
        session.execute(sa.update(BOOKS).values(signed=None))
    with chapters.drops(), chapters.sessions() as session, session.begin():
        session.execute(sa.insert(AUTHORS).prefix_with("OR REPLACE").values(id=1, pen_name="x", note=""))

    assert chapters.committed()[100][1] is None


RENAMINGS: dict[str, Callable[[orm.Session], Any]] = {
    "unit of work": lambda session: setattr(session.get_one(Author, 1), "pen_name", "uno"),
    "ORM update": lambda session: session.execute(sa.update(Author).where(Author.id == 1).values({"pen_name": "uno"})),
    "Core update": lambda session: session.execute(sa.update(AUTHORS).where(AUTHORS.c.id == 1), {"pen_name": "uno"}),
    "text": lambda session: session.execute(sa.text("UPDATE author SET pen_name = 'uno' WHERE id = 1")),
    "upsert": lambda session: session.execute(
        mysql.insert(AUTHORS).values(id=1, pen_name="x", note="").on_duplicate_key_update(pen_name="uno")
        if session.get_bind().dialect.name == "mysql"
        else conflicting(session, AUTHORS)
        .values(id=1, pen_name="x", note="")
        .on_conflict_do_update(index_elements=["id"], set_={"pen_name": "uno"})
    ),
}


def test_rows_that_a_foreign_key_changes_two_updates_away(chapters: Witness, subtests: pytest.Subtests) -> None:
    for name, write in RENAMINGS.items():
        with chapters.sessions() as session, session.begin():
            session.execute(sa.update(AUTHORS).where(AUTHORS.c.id == 1).values(pen_name="one"))
        with subtests.test(name), chapters.drops(), chapters.sessions() as session, session.begin():
            write(session)

        assert chapters.committed()[100][2] == "uno"


def test_what_no_foreign_key_acts_on_drops_nothing(chapters: Witness) -> None:
    chapters.warm()
    with chapters.costs(0), chapters.sessions() as session, session.begin():
        session.get_one(Author, 1).note = "changed"
        session.execute(sa.update(Author).where(Author.id == 2).values(note="changed"))
        session.execute(sa.update(AUTHORS), {"note": "again"})
        session.add(Author(id=3, pen_name="three"))
    chapters.check()


def test_a_table_whose_rows_refer_to_each_other(enforced: sa.Engine, witness_of: Callable[..., Witness]) -> None:
    objects = [Folder(id=1), Folder(id=2, parent_id=1), Folder(id=3, parent_id=2)]
    folders = witness_of(Folder, [], ids=(1, 2, 3, 4))
    for one in objects:
        with folders.invalidates(one.id), folders.sessions() as session, session.begin():
            session.add(one)
    with folders.drops(), folders.engine.begin() as connection:
        connection.execute(sa.delete(FOLDERS).where(FOLDERS.c.id == 1))

    assert folders.committed() == {}
