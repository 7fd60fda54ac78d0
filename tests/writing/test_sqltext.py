"""The kind of SQL text, by its first words."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from person_repo.writing.sqltext import TextKind, chains, kind_of_text, may_alter

READ, WRITE, ANY = TextKind.READ, TextKind.WRITE, TextKind.ANY
BEGIN, COMMIT, ROLLBACK = TextKind.BEGIN, TextKind.COMMIT, TextKind.ROLLBACK

EVERYWHERE = ("sqlite", "mysql", "mariadb", "postgresql")
MYSQL = ("mysql", "mariadb")
POSTGRESQL = ("postgresql",)

KINDS: list[tuple[Sequence[str], str, str, bool]] = [
    # reads
    (EVERYWHERE, "SELECT 1", READ, False),
    (EVERYWHERE, "select * from person where note = 'DELETE FROM person'", READ, False),
    (EVERYWHERE, "  \n\t(SELECT 1) UNION (SELECT 2)", READ, False),
    (EVERYWHERE, "/* UPDATE person */ -- DELETE\n SELECT 1;", READ, False),
    (EVERYWHERE, "VALUES (1)", READ, False),
    (EVERYWHERE, "WITH a AS (SELECT 1) SELECT * FROM a", READ, False),
    (EVERYWHERE, "EXPLAIN UPDATE person SET id = 1", READ, False),
    (EVERYWHERE, "PRAGMA foreign_keys = ON", READ, False),
    (POSTGRESQL, "LISTEN person", READ, False),
    (POSTGRESQL, "NOTIFY person, 'UPDATE person'", READ, False),
    (POSTGRESQL, "SAVEPOINT one", READ, False),
    (POSTGRESQL, "ROLLBACK PREPARED 'one'", READ, False),
    (POSTGRESQL, "COPY person FROM STDIN", WRITE, False),
    (POSTGRESQL, "TRUNCATE person", WRITE, False),
    (POSTGRESQL, "MERGE INTO person USING note ON true WHEN MATCHED THEN DELETE", WRITE, False),
    (POSTGRESQL, "WITH a AS (DELETE FROM person RETURNING *) INSERT INTO gone TABLE a", WRITE, False),
    (POSTGRESQL, "/* SELECT /* */ SELECT */ UPDATE person SET id = 1", ANY, True),
    (POSTGRESQL, 'UPDATE u&"\\0070erson" SET id = 1', ANY, True),
    (POSTGRESQL, "DO $$ BEGIN PERFORM 1; END $$", ANY, True),
    (POSTGRESQL, "COMMIT PREPARED 'one'", ANY, True),
    (POSTGRESQL, "abort work", ROLLBACK, False),
    (MYSQL, "SHOW TABLES", READ, False),
    (MYSQL, "DESCRIBE person", READ, False),
    (MYSQL, "TABLE person", READ, False),
    (MYSQL, "HANDLER person READ FIRST", READ, False),
    (MYSQL, "SET @name = 'x'", READ, False),
    (MYSQL, "SET NAMES utf8mb4", READ, False),
    (MYSQL, "SAVEPOINT one", READ, False),
    (MYSQL, "RELEASE SAVEPOINT one", READ, False),
    (EVERYWHERE, "ROLLBACK TO SAVEPOINT one", READ, False),
    (EVERYWHERE, "rollback work to one", READ, False),
    (MYSQL, "XA START 'one'", READ, False),
    (MYSQL, "XA PREPARE 'one'", READ, False),
    (MYSQL, "XA ROLLBACK 'one'", READ, False),
    (MYSQL, "xa recover", READ, False),
    # writes
    (EVERYWHERE, "INSERT INTO person VALUES (1)", WRITE, False),
    (EVERYWHERE, "\n update person set id = 1", WRITE, False),
    (EVERYWHERE, "/* a */ /* b */Delete From person;", WRITE, False),
    (EVERYWHERE, "REPLACE INTO person VALUES (1)", WRITE, False),
    (EVERYWHERE, "MERGE INTO person USING note ON 1 = 1", WRITE, False),
    (EVERYWHERE, "WITH a AS (SELECT 1) UPDATE person SET id = 1", WRITE, False),
    (EVERYWHERE, "with a as (delete from person returning id) select * from a", WRITE, False),
    (EVERYWHERE, "EXPLAIN ANALYZE DELETE FROM person", WRITE, False),
    (EVERYWHERE, "LOAD DATA INFILE 'x' INTO TABLE person", WRITE, False),
    (EVERYWHERE, "COPY person FROM STDIN", WRITE, False),
    (EVERYWHERE, "an unknown word", WRITE, False),
    (EVERYWHERE, "", WRITE, False),
    (MYSQL, "/*!50000 UPDATE person */ SET id = 1", WRITE, False),
    (MYSQL, "/*M!100100 UPDATE person */ SET id = 1", WRITE, False),
    (MYSQL, "# select\nDELETE FROM person", WRITE, False),
    # commits on the way, or may
    (MYSQL, "TRUNCATE person", WRITE, True),
    (MYSQL, "ALTER TABLE person ADD COLUMN a INTEGER", WRITE, True),
    (MYSQL, "/* a */ DROP TABLE person", WRITE, True),
    (MYSQL, "CREATE TEMPORARY TABLE a (b INTEGER)", WRITE, True),
    (MYSQL, "RENAME TABLE a TO person", WRITE, True),
    (MYSQL, "ANALYZE UPDATE person SET id = 1", WRITE, True),
    (MYSQL, "LOCK TABLES person WRITE", WRITE, True),
    (MYSQL, "START SLAVE", WRITE, True),
    (MYSQL, "SET autocommit = 1", READ, True),
    (MYSQL, "SET SESSION AutoCommit = ON", READ, True),
    (MYSQL, "SET PASSWORD = 'x'", READ, True),
    (MYSQL, "SET STATEMENT max_statement_time = 1 FOR UPDATE person SET id = 1", WRITE, True),
    (("sqlite", "postgresql"), "DROP TABLE person", WRITE, False),
    (("sqlite", "postgresql"), "ALTER TABLE person ADD COLUMN a INTEGER", WRITE, False),
    (EVERYWHERE, "SELECT 1; DELETE FROM person", WRITE, True),
    (EVERYWHERE, "UPDATE person SET id = ';' WHERE id = 1", WRITE, True),
    (EVERYWHERE, "BEGIN NOT ATOMIC DELETE FROM person; END", WRITE, True),
    # may do anything
    (EVERYWHERE, "CALL clean()", ANY, True),
    (EVERYWHERE, "EXECUTE prepared", ANY, True),
    (EVERYWHERE, "EXECUTE IMMEDIATE 'DELETE FROM person'", ANY, True),
    (EVERYWHERE, "DO clean()", ANY, True),
    (EVERYWHERE, "SELECT 1; call clean()", ANY, True),
    (EVERYWHERE, "DROP DATABASE people", ANY, True),
    (EVERYWHERE, "drop schema people", ANY, True),
    (POSTGRESQL, "ALTER SCHEMA blue RENAME TO public", ANY, True),
    (POSTGRESQL, "alter type mood rename value 'sad' to 'blue'", ANY, True),
    (POSTGRESQL, "DROP TYPE mood CASCADE", ANY, True),
    (POSTGRESQL, "DROP TYPE mood", WRITE, False),
    (POSTGRESQL, "drop owned by ada", ANY, True),
    (POSTGRESQL, "EXPLAIN ANALYZE EXECUTE prepared", ANY, True),
    (POSTGRESQL, "explain (analyze) execute prepared", ANY, True),
    (POSTGRESQL, "EXPLAIN EXECUTE prepared", READ, False),
    (EVERYWHERE, "XA COMMIT 'one'", ANY, True),
    (EVERYWHERE, "xa /* now */ commit 'one' one phase", ANY, True),
    (EVERYWHERE, "COMMIT PREPARED 'one'", ANY, True),
    # transactions
    (("sqlite", "postgresql"), "BEGIN", BEGIN, False),
    (("sqlite",), "BEGIN IMMEDIATE TRANSACTION", BEGIN, False),
    (MYSQL, "BEGIN", BEGIN, True),
    (MYSQL, "start /* a */ transaction with consistent snapshot", BEGIN, True),
    (EVERYWHERE, "COMMIT", COMMIT, True),
    (EVERYWHERE, " -- now\ncommit work;", COMMIT, True),
    (EVERYWHERE, "END TRANSACTION", COMMIT, True),
    (EVERYWHERE, "ROLLBACK", ROLLBACK, False),
    (EVERYWHERE, "rollback and no chain", ROLLBACK, False),
    (("sqlite",), "SAVEPOINT one", TextKind.SAVEPOINT, False),
    (("sqlite",), "RELEASE one", TextKind.RELEASE, True),
]


@pytest.mark.parametrize(
    ("dialect", "text", "kind", "commits"),
    [(dialect, text, kind, commits) for dialects, text, kind, commits in KINDS for dialect in dialects],
)
def test_the_first_words_of_a_text_decide_its_kind(dialect: str, text: str, kind: str, commits: bool) -> None:
    assert kind_of_text(text, dialect) == (kind, commits)


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    "text", ["/*" * 20_000, "/* */ " * 20_000 + "'", "(" * 50_000, "-- \n" * 20_000, "a" * 100_000]
)
def test_text_that_means_nothing_is_read_in_no_time(text: str) -> None:
    assert kind_of_text(text, "mysql") == (WRITE, False)
    assert kind_of_text(text, "postgresql")[0] in (WRITE, ANY)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("COMMIT AND CHAIN", True), ("rollback work and  chain", True), ("COMMIT AND NO CHAIN", False), ("COMMIT", False)],
)
def test_a_chained_end_begins_the_next_transaction(text: str, expected: bool) -> None:
    assert chains(text) is expected


DEFINING = [
    "ALTER TABLE person ALTER id TYPE citext", "/* now */ alter table person engine=MyISAM", "DROP TABLE person;",
    "CREATE OR REPLACE TABLE person (id int)", "RENAME TABLE other TO person", "CALL migrate()",
    "SET STATEMENT lock_wait_timeout = 1 FOR ALTER TABLE person ADD note int", "SELECT 1; ALTER TABLE person ADD a int",
]  # fmt: skip
CHANGING_ROWS = [
    "INSERT INTO person VALUES (1)", "update person set id = 1;", "WITH a AS (SELECT 1) DELETE FROM person",
    "REPLACE INTO person VALUES (1)", "COPY person FROM STDIN", "LOAD DATA INFILE 'a' INTO TABLE person",
    "TRUNCATE person", "LOCK TABLE person IN EXCLUSIVE MODE", "ANALYZE person", "COMMIT", "",
]  # fmt: skip


@pytest.mark.parametrize("text", [*DEFINING, *CHANGING_ROWS])
def test_a_table_is_defined_anew_by_some_statements_only(text: str) -> None:
    """The others need not make those beside them drop the model."""
    assert may_alter(text, kind_of_text(text, "mysql")[0]) is (text in DEFINING)
