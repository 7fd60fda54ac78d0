"""The program: errors and their exit codes, passwords, settings, warnings, and the page that describes it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import pytest
import sqlalchemy as sa
from support.command import KNUTH, LAUREATES, Run, answer, call, error, process
from support.servers import Memcached, free_port
from support.urls import patient_url

import person_repo
from person_repo import Person, PersonService
from person_repo.cli.demo.story import laureates
from person_repo.cli.main import main
from person_repo.exceptions import StaleEntityError

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "reference" / "command-line.md").read_text(encoding="utf-8")
SECRET = "s3cret-Pa55"

sqlite_only = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


class TestExitCodes:
    """An error has a number, a kind and words."""

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
            (["export", "no/such/folder.csv"], 2, "file", "no/such/folder.csv: No such file"),
            (["torture", "--faults", "restart"], 2, "usage", "--faults restart needs --start-memcached"),
            (["torture", "--faults", "all"], 2, "usage", "needs --start-memcached"),
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
    def test_an_argument_that_looks_like_an_option_is_none(self, run: Run) -> None:
        assert run("get", "--", "--json").stderr == "person-repo: nobody has the id '--json'\n"

    @pytest.mark.parametrize("command", ["list", "current", "upgrade"])
    def test_a_folder_that_is_missing_is_named(self, tmp_path: Path, command: str) -> None:
        result = call("--database-url", f"sqlite:///{tmp_path}/none/people.db", command)
        assert result.exit_code == 3
        assert result.stderr == f"person-repo: the database cannot be used: there is no folder {tmp_path}/none\n"

    @sqlite_only
    def test_a_locked_database_is_reported_as_such(self, run: Run, database_url: str) -> None:
        engine = sa.create_engine(database_url)
        with engine.connect() as connection:
            connection.exec_driver_sql("BEGIN EXCLUSIVE")
            result = call("--database-url", f"{database_url}?timeout=0", "list")
        engine.dispose()
        assert result.exit_code == 3
        assert "the database cannot be used: database is locked" in result.stderr

    def test_a_variable_with_a_wrong_value_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
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

    def test_a_wrong_password_is_reported_without_it(self, mysql_url: str) -> None:
        url = sa.make_url(mysql_url).set(username="nobody", password=SECRET).render_as_string(hide_password=False)
        for command in ("list", "upgrade", "demo"):
            result = call("--database-url", url, command)
            assert result.exit_code == 3
            assert "Access denied" in result.stderr
            assert SECRET not in result.output

    def test_a_driver_that_repeats_it_is_not_repeated(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Once percent-encoded, once decoded."""
        url = f"mysql+pymysql://root:%40{SECRET}@host/x"

        def refuse(*_: object) -> None:
            raise ConnectionRefusedError(f"no login with @{SECRET} from {url}")

        # To have both restored: nothing takes the marks back, and this event is the dialects'.
        monkeypatch.setattr(sa.Engine, "_has_events", False)
        monkeypatch.setattr(sa.Dialect, "_has_events", False)
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

    def test_the_environment_counts_if_no_option_is_given(
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
        """The change is made on an engine that is not covered, so the answer shows who gave it."""
        monkeypatch.setenv("PERSON_REPO_CACHE_URL", patient_url(memcached_servers[:1]))
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

    def test_an_application_reads_the_writes_of_the_command_line(
        self, run: Run, memcached_servers: list[Memcached], database_url: str
    ) -> None:
        cache_url = patient_url(memcached_servers[:1])
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


class TestProcess:
    """The program in a process of its own."""

    def test_help_imports_nothing_that_only_a_command_needs(self) -> None:
        script = (
            "import sys\n"
            "from person_repo.cli.main import main\n"
            "try: main(['--help'])\n"
            "except SystemExit as end: assert not end.code\n"
            "print(*{'alembic', 'msgspec', 'rich', 'sqlalchemy'} & set(sys.modules), file=sys.stderr)\n"
        )
        done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
        assert done.stderr == b"\n"

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
            run("delete", *(person.id for person in laureates()))
        ours, theirs = os.openpty()
        with process("--database-url", database_url, *command, stderr=theirs) as working:
            os.close(theirs)
            working.communicate()
            drawn = b""
            # On Linux the end of the other side is an error, elsewhere an end of file.
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

    def test_the_exit_codes_are_those_of_the_help(self) -> None:
        section = PAGE.split("## Exit codes")[1].split("\n## ")[0]
        in_help = call("--help").stdout.split("Exit codes:")[1].split("Environment")[0]
        assert re.findall(r"^\| (\d+) ", section, re.MULTILINE) == re.findall(r"^ +(\d+) ", in_help, re.MULTILINE)

    def test_the_examples_go_as_they_are_shown(self) -> None:
        """All of them in one folder, in the order of the page, in a shell. The environment names a cache."""
        shell = shutil.which("bash") or pytest.skip("needs bash")
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environ = os.environ | {"PATH": path, "PERSON_REPO_CACHE_URL": "null://"}
        for block in re.findall(r"^```console\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
            for command, shown in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE):
                with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
                    subprocess.run([shell, "-c", command], stdout=output, stderr=output, env=environ)
                    output.seek(0)
                    written = [line.rstrip() for line in output]
                assert written == [line.rstrip() for line in shown.splitlines()], command
