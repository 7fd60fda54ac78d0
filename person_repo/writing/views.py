"""Views: a write through one changes rows of the tables under it, without a word of them.

A view that the metadata declares (``mapped.views``) is known by that. For all others the database's catalog is asked:
once for the names of its views, when the first statement writes to something that is no covered table, and for the
definition of one of them when that is written.
"""

from __future__ import annotations

import logging
import re
import time
import weakref
from collections.abc import Iterable, Iterator
from typing import Any, Final

import sqlalchemy as sa

from person_repo.database.identity import not_waiting
from person_repo.database.marks import OWN
from person_repo.database.snapshots import question_to
from person_repo.interruptions import DATABASE_ERRORS
from person_repo.mapped.views import tables_under

__all__ = ["Views", "defines_view"]

logger = logging.getLogger("person_repo.writing")

_PAUSE: Final = 1.0
"""Seconds between two questions, if the first had no answer."""

_DEFINES: Final = re.compile(r"\b(?:VIEW|TRIGGER|RULE|RENAME)\b", re.IGNORECASE)
_NAME: Final = r"(?:[^\s(]*\.)?([\"`\[]?)([^\s(\"`\]]+)"
_CREATED: Final = re.compile(rf"\bCREATE\b[^;]*?\bVIEW\s+(?:IF\s+NOT\s+EXISTS\s+)?{_NAME}", re.IGNORECASE | re.DOTALL)
_INSTEAD: Final = re.compile(rf"\bINSTEAD\s+OF\b.*?\bON\s+{_NAME}", re.IGNORECASE | re.DOTALL)
_WORD: Final = re.compile(r"\w+")

_OF_POSTGRESQL: Final = sa.text(
    "SELECT DISTINCT lower(relname) FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace"
    " WHERE relkind = 'v' AND nspname NOT IN ('pg_catalog', 'information_schema')"
)

# The definition does not say what a trigger or a rule does.
_DEFINITION_ON_POSTGRESQL: Final = sa.text(
    "SELECT CASE WHEN NOT relhastriggers AND NOT EXISTS"
    " (SELECT FROM pg_rewrite WHERE ev_class = pg_class.oid AND rulename <> '_RETURN')"
    " THEN pg_get_viewdef(oid) END FROM pg_class WHERE lower(relname) = :name AND relkind = 'v'"
)

_OF_MYSQL: Final = sa.text(
    "SELECT DISTINCT LOWER(TABLE_NAME) FROM information_schema.VIEWS"
    " WHERE TABLE_SCHEMA NOT IN ('sys', 'mysql', 'information_schema', 'performance_schema')"
)

# Empty for an account that may not see it.
_DEFINITION_ON_MYSQL: Final = sa.text(
    "SELECT NULLIF(VIEW_DEFINITION, '') FROM information_schema.VIEWS WHERE LOWER(TABLE_NAME) = :name"
)

_QUESTIONS: Final = {
    "mysql": (_OF_MYSQL, _DEFINITION_ON_MYSQL),
    "mariadb": (_OF_MYSQL, _DEFINITION_ON_MYSQL),
    "postgresql": (_OF_POSTGRESQL, _DEFINITION_ON_POSTGRESQL),
}
"""For each database but SQLite: the question for the names of its views, and that for the definitions of one."""

_IN_SQLITE: Final = (
    "SELECT DISTINCT lower(name) FROM {}.sqlite_master WHERE type = 'view'",
    "SELECT sql FROM {}.sqlite_master WHERE lower(tbl_name) = :name AND type IN ('view', 'trigger')",
)
"""The same for each file that is attached there."""

_OPTIONS: Final = {OWN: True, "schema_translate_map": None}


def defines_view(text: str) -> bool:
    """True if SQL text may define a view, or what is done in its place when it is written."""
    return _DEFINES.search(text) is not None


class Views:
    """The views of an engine's database, by name alone, as statements on other connections may find them in any schema.

    Those that other engines define later are not known; those that this one does are (``forget``, ``hear``).
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = weakref.ref(engine)
        self._is_asked = engine.dialect.name in ("sqlite", *_QUESTIONS)
        # Replaced by ``forget``, so that an answer from before comes to nothing.
        self._names: list[frozenset[str]] = []
        self._texts: dict[str, str | None] = {}
        self._made: dict[str, str | None] = {}
        self._asks_again = float("-inf")
        self.is_known = True
        """False if the database was asked last without an answer: whatever follows from that is not to be kept."""

    def forget(self) -> None:
        """Ask again at the next need: a view may have been defined."""
        self._names, self._texts = [], {}

    def hear(self, text: str) -> None:
        """Take the definition from SQL text that is about to be sent: until its COMMIT no other connection sees it, and
        that of a temporary view none ever does.
        """
        for found in _CREATED.finditer(text):
            self._made[found[2].lower()] = text
        for found in _INSTEAD.finditer(text):
            engine, name = self._engine(), found[2].lower()
            is_readable = engine is not None and engine.dialect.name == "sqlite"  # elsewhere it calls a function
            self._made[name] = f"{self._made.get(name) or ''} {text}" if is_readable else None
        if _DEFINES.search(text):
            self._texts = {}

    def under(self, target: Any) -> str | None:
        """Text that names the tables under a view; empty for a table, None if nobody can say. ``target``: as a
        statement has it, or its name.
        """
        declared = tables_under(target)
        if declared is None:
            return self._under(target if isinstance(target, str) else target.name)
        texts = [self._under(name) for name in declared]
        return " ".join([*declared, *[text or "" for text in texts]])

    def named_in(self, text: str, tables: Iterable[sa.Table]) -> list[Any] | None:
        """The views that SQL text names, those among ``tables`` as they are declared; None if nobody can say."""
        words, lower = {word.lower() for word in _WORD.findall(text)}, text.lower()
        declared = {table.name.lower(): table for table in tables if _is_in(table.name.lower(), words, lower)}
        views: dict[str, Any] = {name: table for name, table in declared.items() if tables_under(table) is not None}
        names = self._all_names()
        if names is None:
            return None
        for name in names:
            if _is_in(name, words, lower):
                views.setdefault(name, name)
        return [*views.values()]

    def _under(self, name: str) -> str | None:
        """The definitions of a view, and of the views that those name."""
        found: list[str] = []
        todo, seen = [name.lower()], {name.lower()}
        names = self._all_names()
        if names is None:
            return None
        while todo:
            name = todo.pop()
            if name not in names:
                continue
            text = self._definition(name)
            if text is None:
                return None
            found.append(text)
            words, lower = {word.lower() for word in _WORD.findall(text)}, text.lower()
            todo += [other for other in names if other not in seen and _is_in(other, words, lower)]
            seen.update(todo)
        return " ".join(found)

    def _all_names(self) -> frozenset[str] | None:
        """The names of all views, in lower case; None without an answer."""
        if not self._is_asked:
            return frozenset(self._made)
        known = self._names
        if not known:
            if time.monotonic() < self._asks_again:
                return None
            answers = self._ask(0)
            self.is_known = answers is not None
            if answers is None:
                self._asks_again = time.monotonic() + _PAUSE
                return None
            known.append(frozenset(str(answer) for answer in answers))
        return known[0].union(self._made) if self._made else known[0]

    def _definition(self, name: str) -> str | None:
        """The SQL that defines a view, and what is done in its place; None if nobody can say."""
        texts = self._texts
        if name not in texts:
            answers = self._ask(1, name) if self._is_asked else []
            if answers is None:
                return None
            if name in self._made:
                answers.append(self._made[name])
            texts[name] = None if None in answers else _unquoted(" ".join(map(str, answers)))
        return texts[name]

    def _ask(self, question: int, name: str = "") -> list[Any] | None:
        """One question for names (0) or for the definitions of one view (1); None without an answer. On a connection of
        our own, as in ``storage``.
        """
        engine = self._engine()
        if engine is None:
            return None
        try:
            with question_to(engine) as connection, not_waiting(connection):
                parameters = {"name": name} if question else {}
                return [
                    answer
                    for query in _queries(connection, question)
                    for answer in connection.execute(query, parameters, execution_options=_OPTIONS).scalars()
                ]
        except DATABASE_ERRORS as exc:
            logger.warning("the views cannot be asked for; a write to what may be one drops every class: %s", exc)
            return None


def _queries(connection: sa.Connection, question: int) -> Iterator[sa.TextClause]:
    if connection.dialect.name != "sqlite":
        yield _QUESTIONS[connection.dialect.name][question]
        return
    files = connection.execute(sa.text("PRAGMA database_list"), execution_options=_OPTIONS).all()
    for _, schema, _ in files:
        quoted = connection.dialect.identifier_preparer.quote_identifier(schema)
        yield sa.text(_IN_SQLITE[question].format(quoted))


def _is_in(name: str, words: set[str], text: str) -> bool:
    """True if a text, of these words, has a name. One that is no single word (``order$``) is looked for as it is."""
    return name in words or (not _WORD.fullmatch(name) and name in text)


def _unquoted(text: str) -> str:
    return text.replace('""', '"').replace("``", "`")
