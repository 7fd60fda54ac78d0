"""``import`` and ``export`` as commands, and Ctrl-C during every command that writes."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from support.command import LAUREATES, Run, answer, error, process, rows

from person_repo import Person, PersonService, migrations

sqlite_only = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


class TestImport:
    """``import``."""

    def test_a_file_is_imported_and_counted(self, run: Run, people: PersonService) -> None:
        assert run("import", str(LAUREATES)).stdout == f"79 people imported from {LAUREATES}\n"
        assert people.count() == 79
        assert people.get_one("corbato-1990").last_name == "Corbató"

    @sqlite_only
    def test_stdin_is_imported(self, run: Run, database_url: str) -> None:
        with process("--json", "--database-url", database_url, "import", "-") as importing:
            stdout, _ = importing.communicate(LAUREATES.read_bytes())
        assert json.loads(stdout) == {"file": "<stdin>", "imported": 79, "skipped": 0, "bad_rows": None}

    @sqlite_only
    def test_an_import_of_a_header_alone_says_so(self, run: Run) -> None:
        result = run("import", "-", input=rows(0))
        assert result.exit_code == 0
        assert re.fullmatch(r"0 people imported from \S+: it has a header and no rows\n", result.stdout)

    def test_problems_are_listed_and_nothing_imported(self, run: Run, people: PersonService, tmp_path: Path) -> None:
        (tmp_path / "some.csv").write_bytes(rows(1) + b",b,c\n" * 30)

        result = run("import", "some.csv")
        assert result.exit_code == 1
        first, *rest = result.stderr.splitlines()
        assert first == "person-repo: nothing was imported; 30 problems:"
        assert rest == [f"some.csv:{line}: id is empty" for line in range(3, 33)]

        document = error(run("--json", "import", "some.csv"))
        assert document["error"] == "refused"
        assert document["problems"] == [
            {"file": "some.csv", "line": line, "reason": "id is empty"} for line in range(3, 33)
        ]
        assert people.count() == 0

    def test_skip_bad_imports_the_rest(self, run: Run, people: PersonService, tmp_path: Path) -> None:
        (tmp_path / "some.csv").write_bytes(rows(2) + b",b,c\n")

        result = run("import", "some.csv", "--skip-bad", "bad.csv")

        assert (result.exit_code, result.stderr) == (0, "")
        assert result.stdout == "2 people imported from some.csv\n1 bad row written to bad.csv\n"
        assert (tmp_path / "bad.csv").read_text() == "line,reason,id,first_name,last_name\n4,id is empty,,b,c\n"
        assert people.count() == 2


class TestExport:
    """``export``."""

    def test_everybody_is_exported(self, run: Run, tmp_path: Path) -> None:
        run("import", str(LAUREATES))
        header, *lines = LAUREATES.read_bytes().splitlines(keepends=True)
        expected = b"".join([header, *sorted(lines)])

        assert run("export").stdout_bytes == expected
        assert run("export", "-").stdout_bytes == expected
        assert run("export", "all.csv").stdout == "79 people exported to all.csv\n"
        assert (tmp_path / "all.csv").read_bytes() == expected
        assert answer(run("--json", "export", "all.jsonl")) == {"file": "all.jsonl", "exported": 79}
        people = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text("utf-8").splitlines()]
        assert [",".join(person.values()) for person in people] == expected.decode().splitlines()[1:]
        assert run("--json", "export").stdout == (tmp_path / "all.jsonl").read_text("utf-8")
        assert run("--json", "export", "--format", "csv").stdout_bytes == expected

    @sqlite_only
    def test_an_export_that_fails_leaves_the_file_as_it_was(
        self, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "all.csv").write_bytes(b"precious")

        def interrupt(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(PersonService, "list", interrupt)
        result = run("export", "all.csv")
        assert result.exit_code == 130
        assert "interrupted; all.csv was left as it was" in result.stderr
        assert error(run("--json", "export", "all.csv"))["error"] == "interrupted"
        assert (tmp_path / "all.csv").read_bytes() == b"precious"
        assert sorted(os.listdir(tmp_path)) == ["all.csv", "people.db"]

    @sqlite_only
    def test_the_output_is_utf_8_whatever_the_locale(self, run: Run, database_url: str) -> None:
        run("add", "c", "Fernando", "Corbató")
        environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
        with process("--database-url", database_url, "export", env=environment) as exporting:
            assert "Corbató".encode() in exporting.communicate()[0]
        with process("--database-url", database_url, "list", env=environment) as listing:
            assert rb"Corbat\xf3" in listing.communicate()[0]
            assert listing.returncode == 0

    @sqlite_only
    @pytest.mark.parametrize("command", [["export"], ["--json", "export"], ["list", "--limit", "9999"]])
    def test_a_reader_who_leaves_halfway_is_no_error(self, run: Run, database_url: str, command: list[str]) -> None:
        run("import", "-", input=rows(5000))  # more than a pipe holds
        with process("--database-url", database_url, *command) as exporting:
            assert exporting.stdout
            assert exporting.stderr
            exporting.stdout.readline()
            exporting.stdout.close()
            assert exporting.stderr.read() == b""
        assert exporting.returncode == 0


Interrupt = Callable[..., None]


@pytest.fixture
def interrupted_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Interrupt]:
    """Sends this process SIGINT at the ``nth`` event of any engine whose statement has this beginning."""
    monkeypatch.setattr(sa.Engine, "_has_events", False)  # to have it restored: SQLAlchemy never takes the mark back
    armed: list[tuple[str, Any]] = []

    def arm(event: str, beginning: str = "", nth: int = 1) -> None:
        left = itertools.count(nth - 1, -1)

        def interrupt(*args: Any) -> None:
            if (event == "commit" or args[2].startswith(beginning)) and next(left) == 0:
                signal.raise_signal(signal.SIGINT)

        armed.append((event, interrupt))
        sa.event.listen(sa.Engine, event, interrupt)

    yield arm
    for event, interrupt in armed:
        sa.event.remove(sa.Engine, event, interrupt)


class TestInterrupted:
    """Ctrl-C, as the signal a terminal sends."""

    @pytest.mark.parametrize("event", ["before_cursor_execute", "after_cursor_execute"])
    def test_an_import_interrupted_at_an_insert_imports_nothing(
        self,
        run: Run,
        people: PersonService,
        tmp_path: Path,
        interrupted_at: Interrupt,
        event: str,
    ) -> None:
        (tmp_path / "some.csv").write_bytes(rows(5000) + b"bad\n")
        interrupted_at(event, "INSERT INTO person", nth=3)

        result = run("import", "some.csv", "--skip-bad", "bad.csv")

        assert result.exit_code == 130
        assert result.stderr.strip() == "person-repo: interrupted; nothing was imported"
        assert people.count() == 0
        assert not (tmp_path / "bad.csv").exists()

    def test_a_process_interrupted_while_the_database_works_leaves_nothing(
        self, mysql_url: str, tmp_path: Path
    ) -> None:
        """The import waits, in the middle of its INSERTs, for a row that another transaction holds."""
        migrations.upgrade(mysql_url)
        (tmp_path / "some.csv").write_bytes(rows(5000))
        engine = sa.create_engine(mysql_url)
        waits = sa.text(
            "SELECT COUNT(*) FROM information_schema.processlist "
            "WHERE info LIKE 'INSERT INTO person %id-004500%' AND id NOT IN (CONNECTION_ID(), :other)"
        )
        with engine.connect() as other, engine.connect().execution_options(isolation_level="AUTOCOMMIT") as watcher:
            # Its own INSERT may still be listed a moment after it was answered.
            mine = {"other": other.scalar(sa.func.connection_id())}
            other.execute(sa.insert(Person).values(id="id-004500", first_name="a", last_name="b", version=1))
            with process("--database-url", mysql_url, "import", "some.csv") as importing:
                while not watcher.scalar(waits, mine):
                    assert importing.poll() is None
                importing.send_signal(signal.SIGINT)
                _, stderr = importing.communicate()
            other.rollback()
            assert importing.returncode == 130
            assert stderr.strip() == b"person-repo: interrupted; nothing was imported"
            assert other.scalar(sa.select(sa.func.count()).select_from(Person)) == 0
        engine.dispose()

    def test_an_import_whose_commit_is_on_its_way_is_done(
        self, run: Run, people: PersonService, interrupted_at: Interrupt
    ) -> None:
        listening = signal.getsignal(signal.SIGINT)
        interrupted_at("commit")

        result = run("import", str(LAUREATES))

        assert (result.exit_code, result.stderr) == (0, "")
        assert people.count() == 79
        assert signal.getsignal(signal.SIGINT) is listening

    @sqlite_only
    @pytest.mark.parametrize(
        ("command", "claim"),
        [
            (["import", str(LAUREATES)], "the import was complete"),
            (["export", "all.csv"], "the export was complete"),
            (["delete", "x"], "the deletion was complete"),
        ],
        ids=["import", "export", "delete"],
    )
    def test_an_interrupt_after_the_work_says_that_it_was_complete(
        self, run: Run, people: PersonService, monkeypatch: pytest.MonkeyPatch, command: list[str], claim: str
    ) -> None:
        people.add(Person(id="x", first_name="a", last_name="b"))
        close = PersonService.close

        def interrupted_close(service: PersonService) -> None:
            close(service)
            signal.raise_signal(signal.SIGINT)

        monkeypatch.setattr(PersonService, "close", interrupted_close)
        result = run(*command)
        monkeypatch.undo()
        assert result.exit_code == 130
        assert result.stderr.strip() == f"person-repo: interrupted; {claim}"

    def test_a_deletion_whose_commit_is_on_its_way_is_done(
        self, run: Run, people: PersonService, interrupted_at: Interrupt
    ) -> None:
        run("import", str(LAUREATES))
        interrupted_at("commit")

        assert run("delete", "knuth-1974").exit_code == 0
        assert people.count() == 78

    def test_deleting_several_is_all_or_nothing(
        self, run: Run, people: PersonService, interrupted_at: Interrupt
    ) -> None:
        run("import", str(LAUREATES))
        interrupted_at("before_cursor_execute", "DELETE FROM person", nth=2)

        result = run("delete", "knuth-1974", "wirth-1984")

        assert result.exit_code == 130
        assert "nobody was deleted" in result.stderr
        assert people.count() == 79

    def test_a_process_interrupted_while_it_reads_leaves_nothing(
        self, run: Run, people: PersonService, database_url: str, tmp_path: Path
    ) -> None:
        with process("--database-url", database_url, "import", "-", "--skip-bad", "bad.csv") as importing:
            assert importing.stdin
            importing.stdin.write(rows(20_000))  # far more than a pipe holds: it has read most of it when this returns
            importing.stdin.flush()
            importing.send_signal(signal.SIGINT)
            stdout, stderr = importing.communicate()

        assert importing.returncode == 130
        assert stdout == b""
        assert stderr.strip() == b"person-repo: interrupted; nothing was imported"
        assert people.count() == 0
        assert os.listdir(tmp_path) in ([], ["people.db"])
