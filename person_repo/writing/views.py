"""Views: a write through one changes rows of the tables under it, without a word of them.

A view that the metadata declares (``mapped.views``) is known by that. For all others the database's catalog is asked:
once for the names of its views, when the first statement writes, and for the definition of one of them when that is
written. Whatever else shows rows of other tables counts as a view: on PostgreSQL tables with rules, tables that inherit
or are inherited from, partitions included, and foreign tables; on MySQL and MariaDB tables of the storage engines that
keep no rows of their own.
"""

from __future__ import annotations

import logging
import re
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

import sqlalchemy as sa

from person_repo.database.identity import not_waiting
from person_repo.database.marks import OWN
from person_repo.database.snapshots import question_to
from person_repo.interruptions import DATABASE_ERRORS
from person_repo.mapped.views import tables_under
from person_repo.writing.sqltext import has_name, unquoted, words_of

__all__ = ["Views", "defines_view"]

logger = logging.getLogger("person_repo.writing")

_PAUSE: Final = 1.0
"""Seconds between two questions, if the first had no answer."""

_DEFINES: Final = re.compile(r"\b(?:VIEW|TRIGGER|RULE|RENAME)\b", re.IGNORECASE)
_GAP: Final = r"(?:\s|/\*.*?\*/|--[^\n]*\n)*+"
_QUOTED: Final = r'"(?:[^"]|"")+"|`(?:[^`]|``)+`|\[[^\]]+\]'
_NAME: Final = rf"{_GAP}(?:(?:{_QUOTED}|\w+){_GAP}\.{_GAP})?({_QUOTED}|[^\s(\"`\[;]+)"
_CREATED: Final = re.compile(
    rf"\bCREATE\b[^;]*?\bVIEW\b{_GAP}(?:IF{_GAP}NOT{_GAP}EXISTS\b)?{_NAME}", re.IGNORECASE | re.DOTALL
)
_INSTEAD: Final = re.compile(rf"\bINSTEAD{_GAP}OF\b.*?\bON\b{_NAME}", re.IGNORECASE | re.DOTALL)

_OF_POSTGRESQL: Final = sa.text(
    """
    SELECT DISTINCT relname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE nspname NOT IN ('pg_catalog', 'information_schema')
      AND (relkind IN ('v', 'f') OR relkind IN ('r', 'p') AND (relhasrules OR pg_class.oid IN
           (SELECT inhrelid FROM pg_inherits UNION SELECT inhparent FROM pg_inherits)))
    """
)

_RELATIVES: Final = "relatives: "
"""The beginning of a definition that names all tables whose rows a write changes: nothing follows from those."""

# The definition does not say what a trigger or a rule does. A foreign table names its table here, or in its options.
_DEFINITION_ON_POSTGRESQL: Final = sa.text(
    f"""
    SELECT CASE
        WHEN EXISTS (SELECT FROM pg_rewrite WHERE ev_class = shown.oid AND rulename <> '_RETURN') THEN NULL
        WHEN relkind = 'f' THEN
            relname || ' ' || (SELECT array_to_string(ftoptions, ' ') FROM pg_foreign_table WHERE ftrelid = shown.oid)
        WHEN relkind = 'v' THEN CASE WHEN NOT relhastriggers THEN pg_get_viewdef(shown.oid) END
        ELSE (
            WITH RECURSIVE down(id) AS (
                SELECT shown.oid UNION SELECT inhrelid FROM pg_inherits JOIN down ON inhparent = id
            ), up(id) AS (
                SELECT id FROM down UNION SELECT inhparent FROM pg_inherits JOIN up ON inhrelid = id
            )
            SELECT '{_RELATIVES}' || coalesce(string_agg(pg_class.relname, ' '), '')
            FROM up JOIN pg_class ON pg_class.oid = id WHERE id <> shown.oid
        )
    END
    FROM pg_class AS shown WHERE relname IN :names AND relkind IN ('v', 'f', 'r', 'p')
    """
).bindparams(sa.bindparam("names", expanding=True))

_ELSEWHERE: Final = "('mrg_myisam', 'federated', 'connect', 'spider')"
"""The storage engines whose tables keep their rows in others."""

_OF_MYSQL: Final = sa.text(
    f"""
    SELECT TABLE_NAME FROM information_schema.VIEWS
    WHERE TABLE_SCHEMA NOT IN ('sys', 'mysql', 'information_schema', 'performance_schema')
    UNION SELECT TABLE_NAME FROM information_schema.TABLES WHERE LOWER(ENGINE) IN {_ELSEWHERE}
    """
)

# Empty for an account that may not see it.
_DEFINITION_ON_MYSQL: Final = sa.text(
    f"""
    SELECT NULLIF(VIEW_DEFINITION, '') FROM information_schema.VIEWS WHERE TABLE_NAME IN :names
    UNION ALL SELECT NULL FROM information_schema.TABLES WHERE TABLE_NAME IN :names AND LOWER(ENGINE) IN {_ELSEWHERE}
    """
).bindparams(sa.bindparam("names", expanding=True))

_SOURCES_ON_MYSQL: Final = re.compile(
    r"\b(?:from|join|straight_join)\s*\(*\s*`((?:[^`]|``)+)`\.`((?:[^`]|``)+)`(?!\.)", re.IGNORECASE
)
"""The tables and views in a definition, as the server writes it: each with its database."""

_IS_SEEN_ON_MYSQL: Final = sa.text(
    "SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = :schema AND TABLE_NAME = :name"
)

_QUESTIONS: Final = {
    "mysql": (_OF_MYSQL, _DEFINITION_ON_MYSQL),
    "mariadb": (_OF_MYSQL, _DEFINITION_ON_MYSQL),
    "postgresql": (_OF_POSTGRESQL, _DEFINITION_ON_POSTGRESQL),
}
"""For each database but SQLite: the question for the names of its views, and that for the definitions of one."""

_IN_SQLITE: Final = (
    "SELECT name FROM {}.sqlite_master WHERE type = 'view'",
    "SELECT sql FROM {}.sqlite_master WHERE tbl_name COLLATE NOCASE IN :names AND type IN ('view', 'trigger')",
)
"""The same for each file that is attached there."""

_LONGEST_ON_POSTGRESQL: Final = 63
"""Bytes of a name. The rest of a longer one does not count."""

_OPTIONS: Final = {OWN: True, "schema_translate_map": None}


def defines_view(text: str) -> bool:
    """True if SQL text may define a view, or what is done in its place when it is written."""
    return _DEFINES.search(text) is not None


class Views:
    """The views of an engine's database, by name alone, as statements on other connections may find them in any schema.

    Those that other engines define later are not known; those that this one does are (``forget``, ``hear``).
    ``is_table``: True for the name, in lower case, of a covered table.
    """

    def __init__(self, engine: sa.Engine, is_table: Callable[[str], bool]) -> None:
        self._engine = weakref.ref(engine)
        self._is_table = is_table
        self._is_asked = engine.dialect.name in ("sqlite", *_QUESTIONS)
        self._is_on_postgresql = engine.dialect.name == "postgresql"
        self._is_attached = False
        # Replaced by ``forget``, so that an answer from before comes to nothing. By names in lower case, each as the
        # catalog spells it: the lower case of a database need not be Python's.
        self._names: list[Mapping[str, frozenset[str]]] = []
        self._texts: dict[str, str | None] = {}
        self._made: dict[str, str | None] = {}
        self._asks_again = float("-inf")
        self.is_known = True
        """False if the database was asked last without an answer: whatever follows from that is not to be kept."""

    def forget(self) -> None:
        """Ask again at the next need: a view may have been defined."""
        self._names, self._texts = [], {}

    def attach(self) -> bool:
        """A connection has views of another file, which no other connection has: whatever is no covered table may be
        one of them. Returns whether that is new.
        """
        is_new, self._is_attached = not self._is_attached, True
        return is_new

    def hear(self, text: str) -> None:
        """Take the definition from SQL text that is about to be sent: until its COMMIT no other connection sees it, and
        that of a temporary view none ever does.
        """
        for found in _CREATED.finditer(text):
            self._made[self._folded(_bare(found[1]))] = text
        for found in _INSTEAD.finditer(text):
            engine, name = self._engine(), self._folded(_bare(found[1]))
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
        found = [*declared]
        for name in declared:
            text = self._under(name)
            if text is None:
                return None
            found.append(text)
        return " ".join(found)

    def named_in(self, text: str, tables: Iterable[sa.Table]) -> list[Any] | None:
        """The views that SQL text names, those among ``tables`` as they are declared; None if nobody can say."""
        words, lower = words_of(text, self._folded)
        declared = {table.name.lower(): table for table in tables if has_name(table.name.lower(), words, lower)}
        views: dict[str, Any] = {name: table for name, table in declared.items() if tables_under(table) is not None}
        names = None if self._is_attached else self._all_names()
        if names is None:
            return None
        for name in names:
            if has_name(name, words, lower):
                views.setdefault(name, name)
        return [*views.values()]

    def _under(self, name: str) -> str | None:
        """The definitions of a view, and of the views that those name."""
        found: list[str] = []
        name = self._folded(name)
        todo, seen = [name], {name}
        names = self._all_names()
        if names is None or (self._is_attached and name not in names and not self._is_table(name)):
            return None
        while todo:
            name = todo.pop()
            if name not in names:
                continue
            text = self._definition(name)
            if text is None:
                return None
            found.append(text)
            if text.startswith(_RELATIVES):
                continue
            words, lower = words_of(text, self._folded)
            todo += [other for other in names if other not in seen and has_name(other, words, lower)]
            seen.update(todo)
        return " ".join(found)

    def _folded(self, name: str) -> str:
        """A name in lower case, and no longer than the database reads it."""
        if self._is_on_postgresql and len(name) * 4 > _LONGEST_ON_POSTGRESQL:
            name = name.encode(errors="replace")[:_LONGEST_ON_POSTGRESQL].decode(errors="ignore")
        return name.lower()

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
            spelt: dict[str, set[str]] = {}
            for answer in answers:
                spelt.setdefault(self._folded(str(answer)), set()).add(str(answer))
            known.append({name: frozenset(spellings) for name, spellings in spelt.items()})
        return frozenset(known[0]).union(self._made)

    def _definition(self, name: str) -> str | None:
        """The SQL that defines a view, and what is done in its place; None if nobody can say."""
        texts = self._texts
        if name not in texts:
            known = self._names
            spellings = known[0].get(name, ()) if known else ()
            answers = self._ask(1, spellings) if spellings else []
            if answers is None:
                return None
            if name in self._made:
                answers.append(self._made[name])
            texts[name] = None if None in answers else " ".join(map(str, answers))
        return texts[name]

    def _ask(self, question: int, names: Iterable[str] = ()) -> list[Any] | None:
        """One question for names (0) or for the definitions of the views of some names (1); None without an answer. On
        a connection of our own, as in ``storage``.
        """
        engine = self._engine()
        if engine is None:
            return None
        try:
            with question_to(engine) as connection, not_waiting(connection):
                parameters = {"names": [*names]} if question else {}
                answers = [
                    answer
                    for query in _queries(connection, question)
                    for answer in connection.execute(query, parameters, execution_options=_OPTIONS).scalars()
                ]
                if not question or connection.dialect.name not in ("mysql", "mariadb"):
                    return answers
                return [answer if self._sees_all_of(connection, answer) else None for answer in answers]
        except DATABASE_ERRORS as exc:
            logger.warning("the views cannot be asked for; a write to what may be one drops every class: %s", exc)
            return None

    def _sees_all_of(self, connection: sa.Connection, definition: str | None) -> bool:
        """True if a view's definition names nothing that the account may not see: that could be a view again. MySQL
        has the owner's rights count under a view.
        """
        for schema, name in _SOURCES_ON_MYSQL.findall(definition or ""):
            source = {"schema": schema.replace("``", "`"), "name": name.replace("``", "`")}
            if self._is_table(source["name"].lower()):
                continue
            if not connection.execute(_IS_SEEN_ON_MYSQL, source, execution_options=_OPTIONS).scalar():
                return False
        return True


def _queries(connection: sa.Connection, question: int) -> Iterator[sa.TextClause]:
    if connection.dialect.name != "sqlite":
        yield _QUESTIONS[connection.dialect.name][question]
        return
    files = connection.execute(sa.text("PRAGMA database_list"), execution_options=_OPTIONS).all()
    for _, schema, _ in files:
        quoted = connection.dialect.identifier_preparer.quote_identifier(schema)
        query = sa.text(_IN_SQLITE[question].format(quoted))
        yield query.bindparams(sa.bindparam("names", expanding=True)) if question else query


def _bare(name: str) -> str:
    """A name without the quotes around it."""
    return unquoted(name[1:-1]) if name[0] in '"`[' else name
