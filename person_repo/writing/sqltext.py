"""SQL text -> its kind: a read, a write, or the beginning or end of a transaction.

Nothing is parsed. The first one or two words decide; text that is not recognised counts as a write (``WRITE``), or as
anything at all (``ANY``).
"""

from __future__ import annotations

import re
from collections.abc import Callable

__all__ = [
    "TextKind",
    "attaches",
    "chains",
    "defines",
    "has_name",
    "kind_of_text",
    "may_alter",
    "moves",
    "reaches_any_table",
    "sqlite_begins_before",
    "temporary_table",
    "unquoted",
    "words_of",
]


class TextKind:
    """The kinds of SQL text."""

    READ = "read"
    WRITE = "write"
    ANY = "any"
    BEGIN = "begin"
    COMMIT = "commit"
    ROLLBACK = "rollback"
    SAVEPOINT = "savepoint"
    RELEASE = "release"


_READS = frozenset(
    {
        "SELECT", "SHOW", "PRAGMA", "USE", "SAVEPOINT", "RELEASE", "VALUES", "TABLE", "HANDLER", "ATTACH", "DETACH",
        "VACUUM", "HELP", "KILL", "LISTEN", "UNLISTEN", "NOTIFY",
    }
)  # fmt: skip
_EXPLAINS = frozenset({"EXPLAIN", "DESCRIBE", "DESC"})
_RUNS_ANYTHING = frozenset({"CALL", "EXECUTE", "EXEC", "DO", "BINLOG", "IMPORT"})
_DEFINES = frozenset({"ALTER", "CREATE", "DROP", "RENAME", "SET"})  # SET STATEMENT ... FOR ALTER (MariaDB)
# The MySQL manual, "Statements That Cause an Implicit Commit". Some commit only in some forms (CREATE TABLE does,
# CREATE TEMPORARY TABLE does not), and by some MariaDB runs another statement (ANALYZE UPDATE ...).
_IMPLICIT_COMMITS = frozenset(
    {
        "ALTER", "ANALYZE", "BEGIN", "CACHE", "CHANGE", "CHECK", "CREATE", "DROP", "FLUSH", "GRANT", "IMPORT",
        "INSTALL", "LOCK", "OPTIMIZE", "RENAME", "REPAIR", "RESET", "REVOKE", "SET", "START", "STOP", "TRUNCATE",
        "UNINSTALL", "UNLOCK",
    }
)  # fmt: skip
_WRITES = re.compile(r"\b(INSERT|UPDATE|DELETE|REPLACE|MERGE|TRUNCATE|CALL)\b", re.IGNORECASE)
_RUNS = re.compile(rf"\b({'|'.join(sorted(_RUNS_ANYTHING))}|XA)\b", re.IGNORECASE)
# These name no table, and change what the rows of many hold: another schema takes the name, an enumeration's value has
# another label, a column goes with its type (PostgreSQL).
_REACHES_TABLES = {
    "ALTER": frozenset({"SCHEMA", "TYPE", "EXTENSION"}),
    "DROP": frozenset({"DATABASE", "SCHEMA", "OWNED"}),
}
_REACHES_BY_CASCADE = frozenset({"TYPE", "DOMAIN", "EXTENSION"})
_CASCADES = re.compile(r"\bCASCADE\b", re.IGNORECASE)
_EXECUTES = re.compile(r"\bEXECUTE\b", re.IGNORECASE)
_TO = re.compile(r"\bTO\b", re.IGNORECASE)
_TRUNCATE_CASCADE = re.compile(r"\bTRUNCATE\b.*\bCASCADE\b", re.IGNORECASE | re.DOTALL)
_ANALYZE = re.compile(r"\bANALYZE\b", re.IGNORECASE)
_MOVES = re.compile(
    r"\b(search_path|USE|RESET|DISCARD)\b|\bSET\s.*\b(SCHEMA|ROLE|AUTHORIZATION)\b|\bATTACH\b|\bDETACH\b", re.I | re.S
)
_TEMPORARY = re.compile(
    r"\bCREATE\b[^;]*?\bTEMP(?:ORARY)?\b(?:\s+TABLE\s+(?:IF\s+NOT\s+EXISTS\s+)?([^\s(]+))?", re.I | re.S
)
_CHAIN = re.compile(r"(?<!NO)\s+CHAIN\b", re.IGNORECASE)
# MySQL and MariaDB execute the text inside /*! and /*M!, so those are no comments.
_GAP = r"(?>\s+|--[^\n]*(?:\n|$)|#[^\n]*(?:\n|$)|/\*(?!M?!).*?\*/|\()*+(?:/\*M?!\d*\s*)?"
# PostgreSQL's comments nest, so the words after the first */ need not be the statement's; U&"\0070erson" is person.
_UNREADABLE = re.compile(r"/\*(?:(?!\*/).)*?/\*|\bU&\"", re.DOTALL | re.IGNORECASE)
# Comments in front, which sqlite3 passes by.
_IN_FRONT = re.compile(r"(?:\s+|--[^\n]*\n|/\*.*?\*/)+", re.DOTALL)
_WORDS = re.compile(rf"{_GAP}(\w+)(?:{_GAP}(\w+))?", re.DOTALL)
# SET STATEMENT ... FOR runs the statement after FOR (MariaDB). Of the others only these commit, or set autocommit.
_SETS = re.compile(r"\b(STATEMENT|AUTOCOMMIT|PASSWORD|ROLE)\b", re.IGNORECASE)

# Python's sqlite3 begins a transaction before these; before 3.12 it always does, unless isolation_level is None.
_BEGUN_FOR = ("INSERT", "UPDATE", "DELETE", "REPLAC")


def kind_of_text(text: str, dialect_name: str) -> tuple[str, bool]:
    """The kind of SQL text (a ``TextKind``), and True if the database may commit by it, earlier statements included."""
    if ";" in text.rstrip("; \t\r\n"):
        # Several statements, or a literal with a semicolon: only the first statement's words are looked at below.
        return (TextKind.ANY if _RUNS.search(text) else TextKind.WRITE), True
    if dialect_name == "postgresql" and _UNREADABLE.search(text):
        return TextKind.ANY, True
    words = _WORDS.match(text)
    first, second = words.groups("") if words else ("", "")
    first = first.upper()
    kind = _kind_of_words(first, second.upper(), text, is_sqlite=dialect_name == "sqlite")
    if kind in (TextKind.ANY, TextKind.COMMIT, TextKind.RELEASE):
        return kind, True
    if dialect_name not in ("mysql", "mariadb") or first not in _IMPLICIT_COMMITS:
        return kind, False
    return kind, first != "SET" or _SETS.search(text) is not None


def _kind_of_words(first: str, second: str, text: str, *, is_sqlite: bool) -> str:
    """Cases, in this order:

    1. the beginnings and ends of transactions;
    2. statements that run code of the database's, or name no table and change many: nobody here sees what they do;
    3. SET, which on MariaDB may run another statement;
    4. WITH, and EXPLAIN ANALYZE: a write if any later word is one;
    5. the reads that are known; everything else is a write.
    """
    boundary = _kind_of_boundary(first, second, text, is_sqlite=is_sqlite)
    if boundary is not None:
        return boundary
    if first in _RUNS_ANYTHING or second in _REACHES_TABLES.get(first, ()):
        return TextKind.ANY
    if first == "DROP" and second in _REACHES_BY_CASCADE and _CASCADES.search(text):
        return TextKind.ANY
    if first == "SET":
        return TextKind.WRITE if second == "STATEMENT" else TextKind.READ
    if first == "WITH" or (first in _EXPLAINS and _ANALYZE.search(text)):
        if first != "WITH" and _EXECUTES.search(text):
            return TextKind.ANY
        return TextKind.WRITE if _WRITES.search(text) else TextKind.READ
    return TextKind.READ if first in _READS or first in _EXPLAINS else TextKind.WRITE


def _kind_of_boundary(first: str, second: str, text: str, *, is_sqlite: bool) -> str | None:
    """The kind of text that begins or ends a transaction or a savepoint; None for any other text."""
    match first:
        case "START" if second != "TRANSACTION":
            return None  # START SLAVE
        case "BEGIN" | "START":
            return TextKind.BEGIN
        case "COMMIT" | "END":
            return TextKind.ANY if second == "PREPARED" else TextKind.COMMIT
        case "ABORT":
            return TextKind.ROLLBACK
        case "ROLLBACK":
            # ROLLBACK TO a savepoint changes nothing here, and a prepared transaction's changes were never visible.
            return TextKind.READ if second == "PREPARED" or _TO.search(text) else TextKind.ROLLBACK
        case "XA":
            return TextKind.ANY if second == "COMMIT" else TextKind.READ
        case "SAVEPOINT" if is_sqlite:
            return TextKind.SAVEPOINT
        case "RELEASE" if is_sqlite:
            return TextKind.RELEASE
    return None


def may_alter(text: str, kind: str) -> bool:
    """True if SQL text of this kind may define a table anew. Of several statements any may."""
    return kind == TextKind.ANY or ";" in text.rstrip("; \t\r\n") or _first_word(text) in _DEFINES


def defines(text: str) -> bool:
    """True if SQL text is one statement that defines something, and so changes no row through a view."""
    return ";" not in text and _first_word(text) in _DEFINES - {"SET"}


def _first_word(text: str) -> str:
    words = _WORDS.match(text)
    return words[1].upper() if words else ""


def moves(text: str) -> bool:
    """True if text may choose another default schema for the connection, or other places to look for a table."""
    return _MOVES.search(text) is not None


def unquoted(text: str) -> str:
    """SQL text with the quotes within its names as they are."""
    return text.replace('""', '"').replace("``", "`")


_WORD = re.compile(r"\w+")


def words_of(text: str, fold: Callable[[str], str] = str.lower) -> tuple[set[str], str]:
    """The words of SQL text, and the text with the quotes in its names as they are; in lower case, as ``has_name``
    takes them.
    """
    return {fold(word) for word in _WORD.findall(text)}, unquoted(text).lower()


def has_name(name: str, words: set[str], text: str) -> bool:
    """True if SQL text has a name, in lower case. One that is no single word (``order$``) is looked for as it is."""
    return name in words or (not _WORD.fullmatch(name) and name in text)


def attaches(text: str) -> bool:
    """True if text attaches a file to a connection (SQLite)."""
    return _first_word(text) == "ATTACH"


def chains(text: str) -> bool:
    """True if a COMMIT or ROLLBACK also begins the next transaction (``AND CHAIN``)."""
    return _CHAIN.search(text) is not None


def reaches_any_table(text: str) -> bool:
    """True if text empties the tables that refer to the named ones, too, whatever the foreign keys' actions
    (PostgreSQL's ``TRUNCATE ... CASCADE``).
    """
    return _TRUNCATE_CASCADE.search(text) is not None


def temporary_table(text: str) -> str | None:
    """The name, in lower case, of the table that a text makes for its connection alone; "" if that cannot be read, None
    if it makes none.
    """
    found = _TEMPORARY.search(text)
    if found is None:
        return None
    return (found[1] or "").rpartition(".")[2].strip('"`[]').lower()


def sqlite_begins_before(text: str) -> bool:
    """True if Python's sqlite3 begins a transaction before this text, by its first word: not for WITH ... UPDATE."""
    if text[:6].upper() in _BEGUN_FOR:
        return True
    in_front = _IN_FRONT.match(text)
    return in_front is not None and text[in_front.end() :][:6].upper() in _BEGUN_FOR
