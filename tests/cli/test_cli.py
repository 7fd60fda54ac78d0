"""The command line, called in this process and as a process of its own."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import click
import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result
from support.servers import Memcached, free_port

import person_repo
from person_repo import Person, PersonService, migrations
from person_repo.cli import demo
from person_repo.cli.main import main
from person_repo.exceptions import StaleEntityError

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "reference" / "command-line.md").read_text(encoding="utf-8")
LAUREATES = Path(person_repo.__file__).with_name("cli") / "turing_laureates.csv"
SECRET = "s3cret-Pa55"

sqlite_only = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


class Run(Protocol):
    def __call__(self, *args: str, input: bytes | None = None) -> Result: ...


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither the environment nor the folder of whoever runs the tests has a say."""
    for name in [name for name in os.environ if name.startswith("PERSON_REPO_") and "TEST" not in name]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def call(*args: str, input: bytes | None = None) -> Result:
    """One call in this process; whatever is no SystemExit is raised here."""
    return CliRunner(catch_exceptions=False).invoke(main, args, input=input)


@pytest.fixture
def run(database_url: str) -> Run:
    """Calls the command line on a database whose schema is there."""
    migrations.upgrade(database_url)
    return lambda *args, input=None: call("--database-url", database_url, *args, input=input)


@pytest.fixture
def people(run: Run, database_url: str) -> Iterator[PersonService]:
    """The same database, seen by an application without a cache."""
    with person_repo.connect(database_url, use_db=True) as service:
        yield service


def answer(result: Result) -> Any:
    """The JSON document of a call that went well."""
    assert (result.exit_code, result.stderr) == (0, "")
    return json.loads(result.stdout)


def error(result: Result) -> Any:
    """The JSON document of a call that did not."""
    document = json.loads(result.stderr)
    assert document["exit_code"] == result.exit_code
    return document


def process(*args: str, **options: Any) -> subprocess.Popen[bytes]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen([sys.executable, "-m", "person_repo", *args], **pipes)


def rows(number: int) -> bytes:
    return b"id,first_name,last_name\n" + b"".join(b"id-%06d,First,Last\n" % i for i in range(number))


KNUTH = {"id": "knuth-1974", "first_name": "Donald", "last_name": "Knuth"}


class TestSchema:
    """``upgrade`` and ``current``."""

    def test_the_schema_is_brought_up_once(self, database_url: str) -> None:
        head = migrations.head()

        assert answer(call("--json", "current", "--database-url", database_url)) | {"database": ""} == {
            "database": "", "revision": None, "head": head, "up_to_date": False,
        }  # fmt: skip
        assert "was upgraded from nothing" in call("upgrade", "--database-url", database_url).stdout
        assert f"is up to date: {head}" in call("upgrade", "--database-url", database_url).stdout
        assert answer(call("upgrade", "--database-url", database_url, "--json"))["revision"] == head
        assert f"{head} (up to date)" in call("current", "--database-url", database_url).stdout

    @pytest.mark.parametrize(
        "command",
        [
            ["get", "x"],
            ["list"],
            ["find", "--last-name", "x"],
            ["add", "a", "b", "c"],
            ["update", "a", "--last-name", "c"],
            ["delete", "a"],
            ["import", str(LAUREATES)],
            ["export"],
        ],
        ids=lambda command: command[0],
    )
    def test_every_command_tells_how_to_bring_up_a_schema_that_is_missing(
        self, database_url: str, command: list[str]
    ) -> None:
        result = call("--database-url", database_url, *command)
        assert (result.exit_code, result.stdout) == (3, "")
        assert "has no table person; run: person-repo upgrade" in result.stderr
        assert error(call("--database-url", database_url, "--json", *command))["error"] == "schema"

    def test_a_sqlite_file_that_is_not_there_is_not_made_by_a_look(self, tmp_path: Path) -> None:
        assert call("list").exit_code == 3
        assert call("current").exit_code == 0
        assert os.listdir(tmp_path) == []

    def test_upgrade_makes_the_default_database_in_the_folder_of_the_call(self, tmp_path: Path) -> None:
        assert call("upgrade").exit_code == 0
        assert os.listdir(tmp_path) == ["people.db"]


class TestPeople:
    """``add``, ``get``, ``list``, ``find``, ``update``, ``delete``."""

    def test_a_person_is_added_read_changed_and_deleted(self, run: Run) -> None:
        assert answer(run("--json", "add", *KNUTH.values())) == KNUTH
        assert answer(run("--json", "get", "knuth-1974")) == {"people": [KNUTH], "missing": []}
        changed = KNUTH | {"first_name": "Don"}
        assert answer(run("--json", "update", "knuth-1974", "--first-name", "Don")) == changed
        assert answer(run("--json", "find", "--last-name", "Knuth")) == {"people": [changed]}
        assert answer(run("--json", "delete", "knuth-1974")) == {"deleted": ["knuth-1974"], "missing": []}
        assert answer(run("--json", "find", "--first-name", "Don", "--last-name", "Knuth")) == {"people": []}

    def test_answers_for_people_are_tables(self, run: Run) -> None:
        for command in (["add", *KNUTH.values()], ["get", KNUTH["id"]], ["list"], ["find", "--last-name", "Knuth"]):
            lines = run(*command).stdout.splitlines()
            assert [re.split(r"\s{2,}", line.strip()) for line in lines] == [
                ["id", "first name", "last name"],
                list(KNUTH.values()),
            ]
        assert "Donald Ervin" in run("update", KNUTH["id"], "--first-name", "Donald Ervin").stdout
        assert run("delete", KNUTH["id"]).stdout == "1 person deleted\n"

    def test_found_ones_are_shown_in_the_order_asked_and_missing_ones_named(self, run: Run) -> None:
        run("import", str(LAUREATES))

        result = run("get", "wirth-1984", "nobody", "knuth-1974", "no one", "wirth-1984")
        assert result.exit_code == 1
        assert [line.split()[0] for line in result.stdout.splitlines()] == ["id", "wirth-1984", "knuth-1974"]
        assert result.stderr == "person-repo: nobody has the id 'nobody', 'no one'\n"

        result = run("--json", "get", "nobody", "knuth-1974")
        assert json.loads(result.stdout) == {"people": [KNUTH], "missing": ["nobody"]}
        assert (error(result)["error"], error(result)["missing"]) == ("not-found", ["nobody"])

    def test_list_goes_through_everybody_page_by_page(self, run: Run) -> None:
        run("import", str(LAUREATES))
        seen: list[str] = []
        after: list[str] = []
        while True:
            page = answer(run("--json", "list", "--limit", "30", *after))
            seen += [person["id"] for person in page["people"]]
            if page["next"] is None:
                break
            assert page["next"] == seen[-1]
            after = ["--after", page["next"]]

        assert seen == sorted(line.split(",")[0] for line in LAUREATES.read_text("utf-8").splitlines()[1:])
        assert "there are more: --after aho-2020" in run("list", "--limit", "2").stderr
        assert run("list", "--limit", "79").stderr == ""

    def test_delete_deletes_whom_it_finds_and_names_the_others(self, run: Run, people: PersonService) -> None:
        run("import", str(LAUREATES))
        result = run("--json", "delete", "knuth-1974", "nobody", "wirth-1984", "knuth-1974")
        assert result.exit_code == 1
        assert json.loads(result.stdout) == {"deleted": ["knuth-1974", "wirth-1984"], "missing": ["nobody"]}
        assert people.count() == 77

    @sqlite_only
    def test_what_could_steer_a_terminal_is_shown_as_an_escape(self, run: Run) -> None:
        run("add", "\x1b[2Jid", "[bold]First[/bold]", "Last\u202e")
        shown = run("list").stdout
        assert "\x1b" not in shown
        assert r"\x1b[2Jid" in shown
        assert "[bold]First[/bold]" in shown
        assert r"Last\u202e" in shown
        assert "\x1b" not in run("get", "\x1b[2J").stderr
        assert answer(run("--json", "get", "\x1b[2Jid"))["people"][0]["last_name"] == "Last\u202e"

    @sqlite_only
    def test_a_row_of_a_table_that_is_no_terminal_stays_one_line(self, run: Run) -> None:
        run("add", "i" * 100, "f" * 200, "l" * 200)
        assert len(run("list").stdout.splitlines()) == 2

    @sqlite_only
    def test_an_id_may_begin_with_a_dash(self, run: Run) -> None:
        assert run("add", "--", "-1", "Minus", "One").exit_code == 0
        assert "Minus" in run("get", "--", "-1").stdout


class TestExitCodes:
    """What went wrong, told by number, by kind and in words."""

    @pytest.mark.parametrize(
        ("command", "code", "kind", "part"),
        [
            (["update", "nobody", "--last-name", "x"], 1, "not-found", "no Person has the id 'nobody'"),
            (["delete", "nobody"], 1, "not-found", "nobody has the id 'nobody'"),
            (["nonsense"], 2, "usage", "nonsense"),
            (["get"], 2, "usage", "ID"),
            (["get", "--nonsense", "x"], 2, "usage", "--nonsense"),
            (["get", "\udce9"], 2, "usage", "not UTF-8"),
            (["list", "--limit", "0"], 2, "usage", "--limit"),
            (["find"], 2, "usage", "--first-name, --last-name or both"),
            (["update", "knuth-1974"], 2, "usage", "--first-name, --last-name or both"),
            (["update", "knuth-1974", "--last-name", ""], 2, "usage", "last_name is empty"),
            (["add", "x", "y", "z" * 201], 2, "usage", "the limit is 200"),
            (["add", " ", "y", "z"], 2, "usage", "id is empty"),
            (["import", "none.csv"], 2, "file", "none.csv: No such file"),
            (["import", "."], 2, "file", "directory"),
            (["export", "no/such/folder.csv"], 2, "file", "No such file"),
            (["import", str(LAUREATES), "--skip-bad", str(LAUREATES)], 2, "configuration", "exists"),
            (["--cache-url", "carrier-pigeon://", "list"], 2, "configuration", "memcached://"),
            (["--cache-url", "memory://?secret=QX", "list"], 2, "configuration", "secret is shorter"),
            (["add", *KNUTH.values()], 4, "exists", "exists already"),
        ],
        ids=lambda value: " ".join(value)[:30].replace("\udce9", "?") if isinstance(value, list) else None,
    )
    def test_an_error_has_a_code_a_kind_and_a_message(
        self, run: Run, people: PersonService, command: list[str], code: int, kind: str, part: str
    ) -> None:
        people.add(Person(**KNUTH))

        plain = run(*command)
        assert plain.exit_code == code
        assert plain.stderr.startswith("person-repo: ")
        assert part in plain.stderr
        document = error(run("--json", *command))
        assert (document["exit_code"], document["error"]) == (code, kind)
        assert part in document["message"]
        assert people.list() == [Person(**KNUTH)]

    @sqlite_only
    def test_a_person_changed_meanwhile_is_a_conflict(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        def stale(*_: object, **__: object) -> None:
            raise StaleEntityError("changed meanwhile")

        monkeypatch.setattr(PersonService, "update", stale)
        assert error(run("--json", "update", "a", "--last-name", "b"))["error"] == "stale"
        assert run("update", "a", "--last-name", "b").exit_code == 4

    @sqlite_only
    def test_a_locked_database_is_told_as_such(self, run: Run, database_url: str) -> None:
        engine = sa.create_engine(database_url)
        with engine.connect() as connection:
            connection.exec_driver_sql("BEGIN EXCLUSIVE")
            result = call("--database-url", f"{database_url}?timeout=0", "list")
        engine.dispose()
        assert result.exit_code == 3
        assert "the database cannot be used: database is locked" in result.stderr

    def test_a_setting_that_is_none_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PERSON_REPO_USE_DB", "perhaps")
        result = call("list")
        assert result.exit_code == 2
        assert "PERSON_REPO_USE_DB" in result.stderr

    def test_no_command_shows_the_help(self) -> None:
        result = call()
        assert result.exit_code == 2
        assert "Usage: person-repo" in result.stderr


class TestPasswords:
    """A password in a URL is never printed."""

    @pytest.mark.parametrize(
        "url",
        [
            f"mysql+pymysql://root:{SECRET}@127.0.0.1:{{port}}/x",
            f"mysql+pymysql://root:a%40{SECRET}@127.0.0.1:{{port}}/x",
            f"mysql+pymysql://root:{SECRET}@127.0.0.1:{{port}}/x?nonsense=1",
            f"mysql+pymysql://root@127.0.0.1:{{port}}/x?password={SECRET}",
            f"mysql+pymysql://root:{SECRET}/a@127.0.0.1/x",
            f"mysql+pymysql://root:x@{SECRET}@127.0.0.1/x",
            f"mysql+pymysql://root:{SECRET}@host:port/x",
            f"mysql+nonsense://root:{SECRET}@host/x",
            f"nonsense://root:{SECRET}@host/x",
            f"root:{SECRET}@host",
            f"sqlite://root:{SECRET}@host/x",
        ],
    )
    @pytest.mark.parametrize("command", ["list", "upgrade", "current", "demo"])
    def test_a_database_that_cannot_be_used_is_named_without_it(self, url: str, command: str) -> None:
        url = url.replace("{port}", str(free_port()))
        for flags in ([], ["--json"]):
            result = call(*flags, "--database-url", url, command)
            assert result.exit_code in (2, 3)
            assert SECRET not in result.output
            assert result.stderr != ""

    @pytest.mark.parametrize("args", [[], ["--json"]])
    def test_a_url_in_the_wrong_place_is_quoted_without_it(self, args: list[str]) -> None:
        result = call(*args, f"mysql+pymysql://root:{SECRET}@host/x", "list")
        assert result.exit_code == 2
        assert "mysql+pymysql://root:***@host/x" in result.stderr
        assert SECRET not in result.stderr

    @pytest.mark.parametrize("url", [f"memcached://me:{SECRET}@host", f"nonsense://me:{SECRET}@host"])
    def test_a_cache_that_cannot_be_used_is_named_without_it(self, url: str) -> None:
        call("upgrade")
        result = call("--cache-url", url, "list")
        assert result.exit_code == 2
        assert SECRET not in result.output

    def test_a_wrong_password_is_told_without_it(self, mysql_url: str) -> None:
        url = sa.make_url(mysql_url).set(username="nobody", password=SECRET).render_as_string(hide_password=False)
        for command in ("list", "upgrade", "demo"):
            result = call("--database-url", url, command)
            assert result.exit_code == 3
            assert "Access denied" in result.stderr
            assert SECRET not in result.output

    def test_a_driver_that_repeats_it_is_not_repeated(self) -> None:
        """Once as it was given, once as it is meant."""
        url = f"mysql+pymysql://root:%40{SECRET}@host/x"

        def refuse(*_: object) -> None:
            raise ConnectionRefusedError(f"no login with @{SECRET} from {url}")

        sa.event.listen(sa.Engine, "do_connect", refuse)
        try:
            result = call("--database-url", url, "list")
        finally:
            sa.event.remove(sa.Engine, "do_connect", refuse)
        assert result.exit_code == 3
        assert result.stderr == (
            "person-repo: the database cannot be used: ConnectionRefusedError: "
            "no login with *** from mysql+pymysql://root:***@host/x\n"
        )

    def test_an_answer_names_the_database_without_it(self, mysql_url: str) -> None:
        user = f"CREATE USER reader IDENTIFIED BY '{SECRET}'"
        engine = sa.create_engine(mysql_url)
        with engine.begin() as connection:
            connection.exec_driver_sql(user)
            connection.exec_driver_sql(f"GRANT ALL ON {engine.url.database}.* TO reader")
        try:
            url = engine.url.set(username="reader", password=SECRET).render_as_string(hide_password=False)
            for args in (["upgrade"], ["current"], ["--json", "current"], ["--json", "demo"], ["demo"]):
                result = call("--database-url", url, *args)
                assert result.exit_code == 0
                assert "reader:***@" in result.stdout
                assert SECRET not in result.output
        finally:
            with engine.begin() as connection:
                connection.exec_driver_sql("DROP USER reader")
            engine.dispose()


class TestSettings:
    """Options and the environment."""

    def test_the_environment_counts_where_no_option_is_given(
        self, run: Run, database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run("add", *KNUTH.values())
        monkeypatch.setenv("PERSON_REPO_DATABASE_URL", database_url)
        assert answer(call("--json", "get", "knuth-1974"))["people"] == [KNUTH]
        assert call("--database-url", "sqlite:///other.db", "get", "knuth-1974").exit_code == 3

    @sqlite_only
    def test_of_an_option_given_twice_the_later_counts(self, run: Run, database_url: str) -> None:
        other = "sqlite:///other.db"
        assert call("--database-url", other, "list", "--database-url", database_url).exit_code == 0
        assert call("--database-url", database_url, "list", "--database-url", other).exit_code == 3

    def test_use_db_reads_past_the_cache(
        self, run: Run, memcached_servers: list[Memcached], database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The change is made where no listener hears it: what is read tells who answered."""
        monkeypatch.setenv("PERSON_REPO_CACHE_URL", f"memcached://{memcached_servers[0].url}")
        run("add", *KNUTH.values())
        run("get", "knuth-1974")
        stranger = sa.create_engine(database_url)
        with stranger.begin() as connection:
            connection.exec_driver_sql("UPDATE person SET first_name = 'Don'")
        stranger.dispose()

        def first_name(*args: str) -> str:
            return str(answer(run("--json", *args))["people"][0]["first_name"])

        assert first_name("get", "knuth-1974") == "Donald"
        assert first_name("get", "knuth-1974", "--use-db") == "Don"
        monkeypatch.setenv("PERSON_REPO_USE_DB", "1")
        assert first_name("get", "knuth-1974") == "Don"
        assert first_name("get", "knuth-1974", "--no-use-db") == "Donald"

    def test_what_is_written_here_is_read_there(
        self, run: Run, memcached_servers: list[Memcached], database_url: str
    ) -> None:
        cache_url = f"memcached://{memcached_servers[0].url}"
        with person_repo.connect(database_url, cache_url) as application:
            assert application.get("knuth-1974") is None
            assert run("import", str(LAUREATES), "--cache-url", cache_url).exit_code == 0
            assert application.get("knuth-1974") == Person(**KNUTH)
            assert run("update", "knuth-1974", "--first-name", "Don", "--cache-url", cache_url).exit_code == 0
            assert application.get_one("knuth-1974").first_name == "Don"
            assert run("delete", "knuth-1974", "--cache-url", cache_url).exit_code == 0
            assert application.get("knuth-1974") is None


class TestWarnings:
    """A cache that does not answer."""

    @sqlite_only
    def test_people_are_read_and_the_cache_is_named(self, run: Run, people: PersonService) -> None:
        people.add(Person(**KNUTH))
        silent = f"memcached://127.0.0.1:{free_port()}"

        result = run("get", "knuth-1974", "--cache-url", silent)
        assert result.exit_code == 0
        assert "Donald" in result.stdout
        assert result.stderr.startswith(f"person-repo: warning: {silent.replace('://', ' ')}: ")

        result = run("--json", "get", "nobody", "--cache-url", silent)
        warning, failure = map(json.loads, result.stderr.splitlines())
        assert list(warning) == ["warning"]
        assert failure["error"] == "not-found"


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
    def test_a_header_alone_is_told(self, run: Run) -> None:
        result = run("import", "-", input=rows(0))
        assert result.exit_code == 0
        assert re.fullmatch(r"0 people imported from \S+: it has a header and no rows\n", result.stdout)

    def test_every_problem_is_told_and_nothing_imported(self, run: Run, people: PersonService, tmp_path: Path) -> None:
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
    def test_a_reader_that_has_seen_enough_is_no_error(self, run: Run, database_url: str, command: list[str]) -> None:
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
def interrupted_at() -> Iterator[Interrupt]:
    """Sends this process SIGINT at an event of any engine: the ``nth`` one whose statement begins like this."""
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
        """A row of somebody else's transaction holds the import up in the middle of its INSERTs."""
        migrations.upgrade(mysql_url)
        (tmp_path / "some.csv").write_bytes(rows(5000))
        engine = sa.create_engine(mysql_url)
        waits = sa.text(
            "SELECT COUNT(*) FROM information_schema.processlist "
            "WHERE info LIKE 'INSERT INTO person %id-004500%' AND id <> CONNECTION_ID()"
        )
        with engine.connect() as other, engine.connect().execution_options(isolation_level="AUTOCOMMIT") as watcher:
            other.execute(sa.insert(Person).values(id="id-004500", first_name="a", last_name="b", version=1))
            with process("--database-url", mysql_url, "import", "some.csv") as importing:
                while not watcher.scalar(waits):
                    assert importing.poll() is None
                importing.send_signal(signal.SIGINT)
                _, stderr = importing.communicate()
            other.rollback()
            assert importing.returncode == 130
            assert stderr.strip() == b"person-repo: interrupted; nothing was imported"
            assert other.scalar(sa.select(sa.func.count()).select_from(Person)) == 0
        engine.dispose()

    def test_once_the_commit_is_on_its_way_the_import_is_done(
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
    def test_after_the_work_is_done_nobody_is_told_that_it_was_not(
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


class TestDemo:
    """``demo``; what it does is tested with its module."""

    def test_the_steps_are_a_table(self) -> None:
        result = call("demo")
        assert (result.exit_code, result.stderr) == (0, "")
        assert "a temporary SQLite file, memory://" in result.stdout
        line = next(line for line in result.stdout.splitlines() if "read it again" in line)
        assert re.search(r"Fernando Corbató\W+cache\W+[\d,]+\W+0\W+1\W", line)

    def test_a_demo_in_a_database_with_a_cache_says_where(
        self, database_url: str, cache_url: str, tmp_path: Path
    ) -> None:
        document = answer(call("--json", "demo", "--database-url", database_url, "--cache-url", cache_url))
        assert document["right"] is True
        assert document["cache"] == cache_url
        assert {"what", "answer", "answered_by", "microseconds", "statements", "round_trips", "wrong"} == set(
            document["steps"][0]
        )
        with person_repo.connect(database_url) as people:
            assert people.count() == 0

    @sqlite_only
    def test_the_environment_names_the_database_of_the_demo_too(
        self, database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("PERSON_REPO_DATABASE_URL", database_url)
        assert "people.db" in call("demo").stdout
        assert os.listdir(tmp_path) == ["people.db"]

    def test_the_default_database_is_left_alone(self, tmp_path: Path) -> None:
        call("upgrade")
        before = (tmp_path / "people.db").read_bytes()
        assert call("demo").exit_code == 0
        assert (tmp_path / "people.db").read_bytes() == before

    @pytest.mark.parametrize("flags", [[], ["--json"]])
    def test_a_wrong_answer_is_marked_and_ends_with_1(self, flags: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(PersonService, "get", lambda *_: Person(id="a", first_name="Not", last_name="Me"))
        result = call("demo", *flags)
        assert result.exit_code == 1
        assert "Not Me" in result.stdout
        assert "wrong answer: read it again" in result.stderr

    @sqlite_only
    def test_people_in_the_way_are_a_conflict(self, run: Run) -> None:
        run("add", "knuth-1974", "Somebody", "Else")
        assert run("demo").exit_code == 4


class TestProcess:
    """The program as a program."""

    def test_help_imports_nothing_that_only_a_command_needs(self) -> None:
        script = (
            "import sys\n"
            "from person_repo.cli.main import main\n"
            "try: main(['--help'])\n"
            "except SystemExit as end: assert not end.code\n"
            "modules = {'alembic', 'rich', 'person_repo.cli.demo', 'person_repo.cli.csv', 'person_repo.migrations'}\n"
            "heavy = modules & set(sys.modules)\n"
            "assert not heavy, heavy\n"
        )
        subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)

    def test_the_version_is_that_of_the_package(self) -> None:
        with process("--version") as asking:
            assert re.fullmatch(rb"person-repo \d+\.\d+\.\d+\S*\n", asking.communicate()[0])

    @sqlite_only
    @pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a pseudo-terminal")
    @pytest.mark.parametrize(("command", "step"), [(["import", str(LAUREATES)], b"check"), (["export"], b"export")])
    def test_progress_is_drawn_on_a_terminal_only(
        self, run: Run, database_url: str, command: list[str], step: bytes
    ) -> None:
        assert run(*command).stderr == ""
        if command[0] == "import":
            run("delete", *(person.id for person in demo.laureates()))
        ours, theirs = os.openpty()
        with process("--database-url", database_url, *command, stderr=theirs) as working:
            os.close(theirs)
            working.communicate()
            drawn = b""
            # On Linux the other end's closing is an error, elsewhere an end of file.
            try:
                while part := os.read(ours, 4096):
                    drawn += part
            except OSError:
                pass
            os.close(ours)
        assert working.returncode == 0
        assert step in drawn


def documented(command: str) -> set[str]:
    """The options that the page lists in its section on a command."""
    section = PAGE.split(f"\n### {command}\n")[1].split("\n### ")[0]
    return set(re.findall(r"^\| `(--[a-z-]+)", section, re.MULTILINE))


def options(command: click.Command) -> set[str]:
    return {
        name
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for name in (*parameter.opts, *parameter.secondary_opts)
    }


class TestDocumentation:
    """docs/reference/command-line.md, held against the program."""

    def test_every_command_is_documented_and_no_other(self) -> None:
        assert sorted(re.findall(r"^### (\S+)$", PAGE, re.MULTILINE)) == sorted(main.commands)

    def test_every_command_is_documented_with_its_options(self) -> None:
        for name, command in main.commands.items():
            assert documented(name) == options(command) - options(main), name

    def test_the_options_of_all_commands_are_documented(self) -> None:
        section = PAGE.split("## Options of every command")[1].split("\n## ")[0]
        assert set(re.findall(r"`(--[a-z-]+)", section)) == options(main) | {"--help"}
        for name, command in main.commands.items():
            assert options(command) >= options(main) - {"--version"}, name

    def test_every_setting_and_its_default_is_documented(self) -> None:
        settings = person_repo.settings.Settings()
        for name in ("DATABASE_URL", "CACHE_URL", "USE_DB"):
            assert f"`PERSON_REPO_{name}`" in PAGE
            assert f"PERSON_REPO_{name}" in call("--help").stdout
        assert f"`{settings.database_url}`" in PAGE
        assert f"`{settings.cache_url}`" in PAGE

    def test_the_exit_codes_are_those_that_help_tells(self) -> None:
        section = PAGE.split("## Exit codes")[1].split("\n## ")[0]
        in_help = call("--help").stdout.split("Exit codes:")[1].split("Environment")[0]
        assert re.findall(r"^\| (\d+) ", section, re.MULTILINE) == re.findall(r"^ +(\d+) ", in_help, re.MULTILINE)

    def test_the_examples_go_as_they_are_shown(self) -> None:
        """All of them in one folder, in the order of the page, in a shell."""
        shell = shutil.which("bash") or pytest.skip("needs bash")
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        for block in re.findall(r"^```console\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
            for command, shown in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE):
                with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
                    subprocess.run(
                        [shell, "-c", command], stdout=output, stderr=output, env=os.environ | {"PATH": path}
                    )
                    output.seek(0)
                    written = [line.rstrip() for line in output]
                assert written == [line.rstrip() for line in shown.splitlines()], command
