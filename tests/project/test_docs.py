"""README and docs: every fence runs, every public name is documented, the pages build without a warning.

A page is run from top to bottom in an empty folder, all its Python in one namespace:

- ``python`` is executed; so is ``pycon``, which must have the output that is shown;
- ``console`` is run by a shell, a command at each ``$``, which must print the lines below it; a failing command fails
  the page, unless it ends with ``; echo "exit code $?"``;
- any other fence is a file or is not run. ``...`` in shown output stands for any text.

A comment right above a fence, which a reader of the page does not see, says how to treat it::

    <!-- file: shop/models.py -->        the fence is written there first; Python of a file is not executed
    <!-- not run: the reason -->         neither run nor written
    <!-- needs: flask_sqlalchemy -->     run only where this can be imported

A comment of its own, ``<!-- hidden`` to ``-->``, is Python that is executed in its place. Addresses are replaced by
those of real servers first: the servers of a ``memcached://`` URL by as many memcached processes (the path of a socket
by another one's), a ``mysql+pymysql://`` URL by that of an empty database, and a folder in ``person_repo:_alembic/``,
which only an installed wheel has, by that of the checkout.
"""

from __future__ import annotations

import dataclasses
import doctest
import gc
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import types
import warnings
import zlib
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import click.testing
import pytest
import sqlalchemy as sa
from project.listing import PAGE, listing, written
from support.servers import Memcached
from support.urls import patient_url

import person_repo
from person_repo import Service, Stats, exceptions, migrations
from person_repo.cache.contract import LeaseBackend
from person_repo.cli.main import main
from person_repo.settings import KNOWN_SCHEMES, CacheSettings, Settings

CHECKOUT = Path(__file__).resolve().parents[2]
README = CHECKOUT / "README.md"
CONTRIBUTING = CHECKOUT / "CONTRIBUTING.md"
SECURITY = CHECKOUT / "SECURITY.md"
DOCS = CHECKOUT / "docs"

RUN_ELSEWHERE = {"reference/command-line.md"}
"""``tests/cli/test_main.py`` runs its examples."""

OF_MANY_PROCESSES = {"how-to/migrations.md", "how-to/test-your-app.md", "how-to/frameworks/flask-sqlalchemy.md"}
"""One of these is run in ``make test``, and all by ``make prove FULL=1``."""

ROOT_PAGES = [README, CONTRIBUTING, SECURITY]
"""Sphinx does not build them."""

PAGES = [*ROOT_PAGES, *sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)]
MARKS = ("file", "not run", "needs")

_PART = re.compile(
    r"^<!-- hidden\n(?P<hidden>.*?)^-->$"
    r"|(?:^<!-- (?P<mark>[a-z ]+): (?P<argument>[^\n]+) -->\n+)?"
    r"^(?P<ticks>`{3,})(?P<language>[^\n`]*)\n(?P<code>.*?)^(?P=ticks)$",
    re.MULTILINE | re.DOTALL,
)
_COMMAND = re.compile(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)
_OUTPUT = doctest.ELLIPSIS | doctest.REPORT_NDIFF


def name_of(page: Path) -> str:
    return str(page.relative_to(CHECKOUT if page in ROOT_PAGES else DOCS))


@dataclasses.dataclass(frozen=True)
class Part:
    """One fence of a page, or one hidden comment."""

    language: str
    code: str
    line: int
    mark: str
    argument: str


def parts_of(text: str) -> Iterator[Part]:
    for found in _PART.finditer(text):
        name = "hidden" if found["hidden"] is not None else "code"
        yield Part(
            language="python" if name == "hidden" else found["language"],
            code=found[name],
            line=text.count("\n", 0, found.start(name)) + 1,
            mark=found["mark"] or "",
            argument=found["argument"] or "",
        )


class Run:
    """One page under way in the current folder."""

    def __init__(self, page: str, server: Callable[[re.Match[str]], str]) -> None:
        self.page = page
        module = types.ModuleType("page")
        sys.modules["page"] = module  # where SQLAlchemy looks up the names in annotations
        self.namespace: dict[str, Any] = module.__dict__
        self._server = server

    def part(self, part: Part) -> None:
        """Run one part. Cases: a directive of Sphinx's, marked parts, parts that can be run."""
        if part.language.startswith("{") or part.mark == "not run":
            return
        if part.mark == "needs" and importlib.util.find_spec(part.argument) is None:
            return
        if part.mark not in ("", *MARKS):
            raise AssertionError(f"{self.page}:{part.line}: <!-- {part.mark}: ... --> is no mark")
        code = re.sub(
            r"(?P<scheme>memcached|mysql\+pymysql)://(?P<rest>[\w\[/][^\s\"'`?]*)(?P<more>\?(?!timeout))?|person_repo:_alembic/(?P<folder>\w+)",
            self._server,
            part.code,
        )
        if part.mark == "file":
            Path(part.argument).parent.mkdir(parents=True, exist_ok=True)
            Path(part.argument).write_text(code, encoding="utf-8")
            return
        run = {"python": self.python, "pycon": self.pycon, "console": self.console}.get(part.language)
        if run is None:
            raise AssertionError(
                f"{self.page}:{part.line}: a fence of {part.language or 'no language'} needs a reason why it is not run"
            )
        run(code, part.line)

    def python(self, code: str, line: int) -> None:
        exec(compile("\n" * (line - 1) + code, self.page, "exec", dont_inherit=True), self.namespace)

    def pycon(self, code: str, line: int) -> None:
        session = doctest.DocTestParser().get_doctest(code, self.namespace, self.page, self.page, line - 1)
        assert session.examples, f"{self.page}:{line}: no >>> in it"
        said: list[str] = []
        doctest.DocTestRunner(optionflags=_OUTPUT).run(session, out=said.append, clear_globs=False)
        self.namespace.update(session.globs)
        assert not said, "".join(said)

    def console(self, code: str, line: int) -> None:
        commands = _COMMAND.findall(code)
        assert code.startswith("$ "), f"{self.page}:{line}: no $ in it"
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        for command, shown in commands:
            done = subprocess.run(
                [shutil.which("bash") or pytest.skip("needs bash"), "-c", command],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env=os.environ | {"PATH": path},
                check=False,
            )
            printed = "".join(f"{output.rstrip()}\n" for output in done.stdout.splitlines())
            wanted = "".join(f"{output.rstrip()}\n" for output in shown.splitlines())
            where = f"{self.page}:{line}: $ {command}\n{printed}"
            assert done.returncode == 0, where
            assert doctest.OutputChecker().check_output(wanted, printed, _OUTPUT), where

    def close(self) -> None:
        """Close services and engines, as the end of a program does."""
        for value in list(self.namespace.values()):
            if isinstance(value, Service):
                value.close()
            elif isinstance(value, sa.Engine):
                value.dispose()
        del sys.modules["page"]
        # A page need not close all that it opens; later tests are not to be told.
        self.namespace.clear()
        with warnings.catch_warnings(action="ignore", category=ResourceWarning):
            gc.collect()


@pytest.fixture
def server_of(request: pytest.FixtureRequest) -> Iterator[Callable[[re.Match[str]], str]]:
    """The address that replaces one on a page, of a server that is started for it."""
    sockets: dict[str, Memcached] = {}
    with tempfile.TemporaryDirectory(prefix="person_repo-") as folder:  # short: a socket's path has a limit

        def address(found: re.Match[str]) -> str:
            if found["scheme"] is None:
                return f"{migrations.script_location()}/{found['folder']}"
            if found["scheme"] != "memcached":
                return str(request.getfixturevalue("mysql_url")).partition("?")[0]
            if not found["rest"].startswith("/"):
                servers: list[Memcached] = request.getfixturevalue("memcached_servers")
                return patient(servers[: found["rest"].count(",") + 1], found)
            place = found["rest"]
            if place not in sockets:
                sockets[place] = Memcached(socket_path=Path(folder) / f"{len(sockets)}.sock").start()
            return patient([sockets[place]], found)

        def patient(servers: list[Memcached], found: re.Match[str]) -> str:
            url = patient_url(servers)
            if found.string.startswith("?", found.end()):  # the page gives a timeout itself
                return url.partition("?")[0]
            return url + ("&" if found["more"] else "")

        yield address
        for server in sockets.values():
            server.kill()


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with none of our variables set."""
    monkeypatch.chdir(tmp_path)
    for name in ("DATABASE_URL", "CACHE_URL", "USE_DB"):
        monkeypatch.delenv(f"PERSON_REPO_{name}", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(
            page, marks=pytest.mark.proof(name="suite", sample=1) if name_of(page) in OF_MANY_PROCESSES else ()
        )
        for page in PAGES
        if name_of(page) not in RUN_ELSEWHERE
    ],
    ids=name_of,
)
def test_page_runs_as_it_is_written(page: Path, empty_folder: Path, server_of: Callable[[re.Match[str]], str]) -> None:
    run = Run(name_of(page), server_of)
    try:
        for part in parts_of(page.read_text(encoding="utf-8")):
            run.part(part)
    finally:
        run.close()


# The runner of the pages


def as_written(found: re.Match[str]) -> str:
    return found[0]


@pytest.mark.parametrize(
    "page",
    [
        "```python\nassert 1 == 2\n```",
        "<!-- hidden\nassert 1 == 2\n-->",
        "```pycon\n>>> 1 + 1\n3\n```",
        "```console\n$ echo one\ntwo\n```",
        "```console\n$ false\n```",
        "```text\na picture without a reason\n```",
        "<!-- never run: a mark that there is not -->\n```python\n1\n```",
    ],
)
def test_a_page_that_is_wrong_fails(page: str, empty_folder: Path) -> None:
    (part,) = parts_of(f"# Title\n\n{page}\n")
    run = Run("page", as_written)
    with pytest.raises(AssertionError):
        run.part(part)
    run.close()


def test_a_page_goes_on_where_it_was(empty_folder: Path) -> None:
    run = Run("page", as_written)
    page = """
```python
one = 1
```
<!-- hidden
two = one + 1
-->
```pycon
>>> three = one + two
>>> three
3
```
<!-- file: shop/order.py -->
```python
raise SystemExit("a file is not executed")
```
<!-- not run: a reason -->
```python
raise SystemExit("nor is this")
```
```console
$ ls shop
order.py
```
```python
assert three == 3
```
"""
    for part in parts_of(page):
        run.part(part)
    run.close()
    assert Path("shop/order.py").exists()


def test_every_fence_is_found() -> None:
    """A fence that the pattern misses would not be run."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        found = list(parts_of(text))
        hidden = text.count("<!-- hidden\n")
        assert len(found) - hidden == len(re.findall(r"^ *```", text, re.MULTILINE)) // 2, name_of(page)
        marks = re.findall(r"^<!-- (?!hidden)[a-z ]+:", text, re.MULTILINE)
        assert len([part for part in found if part.mark]) == len(marks)


# Tables of the pages


def rows(page: str, section: str = "") -> dict[str, list[str]]:
    """The tables of a page, or of one section: the other cells by the name in backticks in the first."""
    text = (DOCS / page).read_text(encoding="utf-8")
    if section:
        text = text.split(f"\n## {section}\n")[1].split("\n## ")[0]
    lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| `")]
    return {name.strip(" `"): [cell.strip() for cell in cells] for name, *cells in lines}


def defaults(page: str, section: str) -> dict[str, str]:
    return {name: cells[0].strip("`") for name, cells in rows(page, section).items()}


OPTIONS = {field.name: str(field.default) for field in dataclasses.fields(CacheSettings)}


def test_every_cache_option_is_documented_with_its_default() -> None:
    assert defaults("reference/settings.md", "Cache options") == OPTIONS


def test_values_beyond_a_documented_limit_are_refused() -> None:
    for name, (_, allowed, _) in rows("reference/settings.md", "Cache options").items():
        for number in re.findall(r"\d+", allowed) if name not in ("namespace",) else ():
            least = allowed.startswith(number)
            if not allowed.startswith("above"):
                CacheSettings(**{name: int(number)})
            with pytest.raises(person_repo.ConfigurationError):
                CacheSettings(**{name: int(number) - 1 if least else (0 if number == "0" else int(number) + 1)})


def test_every_cache_url_is_documented_with_its_coherence() -> None:
    urls = {
        url.partition("://")[0]: cells[1].strip("`")
        for url, cells in rows("reference/settings.md", "Cache URLs").items()
    }
    assert sorted(urls) == sorted(KNOWN_SCHEMES)
    for scheme, coherence in urls.items():
        region = person_repo.make_region(f"{scheme}://{'127.0.0.1:1' if scheme == 'memcached' else ''}")
        assert region.actual_backend.coherence == coherence


def test_every_variable_is_documented_with_its_default() -> None:
    documented = defaults("reference/settings.md", "Environment")
    names = {name.removeprefix("PERSON_REPO_").lower(): default for name, default in documented.items()}
    plain = Settings()
    assert names == {"database_url": plain.database_url, "cache_url": plain.cache_url, "use_db": "off"}


def test_every_logger_is_documented() -> None:
    texts = [path.read_text(encoding="utf-8") for path in (CHECKOUT / "person_repo").rglob("*.py")]
    loggers = {name for text in texts for name in re.findall(r'^logger = logging.getLogger\("(.+)"\)$', text, re.M)}
    assert not any("getLogger(__name__)" in text for text in texts)
    assert set(rows("reference/settings.md", "Logging")) == loggers


def test_every_counter_is_documented() -> None:
    assert list(rows("reference/stats.md")) == [field.name for field in dataclasses.fields(Stats)]


def test_every_error_is_documented() -> None:
    assert set(rows("reference/errors.md")) == {name for name in exceptions.__all__ if name.endswith("Error")}


@pytest.mark.parametrize("name", [name for name in exceptions.__all__ if name.endswith("Error")])
def test_the_exit_code_of_an_error_is_the_documented_one(name: str) -> None:
    def fail() -> None:
        kind = getattr(exceptions, name)
        if issubclass(kind, exceptions.EntityNotFoundError):
            raise kind("Person", "nobody")
        raise kind("it failed")

    main.add_command(click.Command("fail", callback=fail))
    try:
        done = click.testing.CliRunner().invoke(main, ["fail"])
    finally:
        del main.commands["fail"]

    assert str(done.exit_code) == rows("reference/errors.md")[name][0]


def test_the_changelog_has_this_version() -> None:
    assert f"## [{metadata.version('person-repo')}]" in (CHECKOUT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_readme_names_both_commands() -> None:
    text = README.read_text(encoding="utf-8")
    for command in ("make demo", "make test"):
        assert f"$ {command}" in text
        assert f"\n{command.removeprefix('make ')}:" in (CHECKOUT / "Makefile").read_text(encoding="utf-8")


def test_links_of_the_pages_at_the_root_lead_somewhere() -> None:
    """Sphinx checks those of the other pages."""
    for page in (*ROOT_PAGES, CHECKOUT / "CHANGELOG.md"):
        for link in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
            assert link.startswith("https://") or (CHECKOUT / link).is_file(), f"{page.name}: {link}"


# What contributors are told


def test_files_that_contributors_are_sent_to_exist() -> None:
    files = re.findall(r"`((?:person_repo|tests|docs|alembic)/[\w/.]*)`", CONTRIBUTING.read_text(encoding="utf-8"))
    assert len(files) > 20
    assert [file for file in files if not (CHECKOUT / file).exists()] == []


def test_every_target_of_make_is_documented_for_contributors() -> None:
    targets = set(
        re.search(r"^\.PHONY:(.*)$", (CHECKOUT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)[1].split()
    )  # type: ignore[index]
    told = set(re.findall(r"^\| `make (\w+)` \|", CONTRIBUTING.read_text(encoding="utf-8"), re.MULTILINE))
    assert targets - {"help", "demo", "clean"} == told


def test_every_variable_of_the_tests_is_documented_for_contributors() -> None:
    told = set(re.findall(r"^\| `(PERSON_REPO_\w+)` \|", CONTRIBUTING.read_text(encoding="utf-8"), re.MULTILINE))
    read = {
        name
        for file in (CHECKOUT / "tests").rglob("*.py")
        for name in re.findall(r'"(PERSON_REPO_\w+)"', file.read_text(encoding="utf-8"))
    }
    assert told == read - {"PERSON_REPO_DATABASE_URL", "PERSON_REPO_CACHE_URL", "PERSON_REPO_USE_DB"} | {
        "PERSON_REPO_SEED"
    }


def test_the_listing_of_the_architecture_is_that_of_the_files() -> None:
    """``python tests/project/listing.py`` writes it anew."""
    assert written(PAGE.read_text(encoding="utf-8")) == listing()


# The pages as Sphinx builds them


def test_the_pages_build_without_a_warning_and_describe_every_public_method(
    tmp_path: Path, subtests: pytest.Subtests
) -> None:
    """They are built as ``make docs`` does. A warning is an error."""
    pytest.importorskip("sphinx", reason="sphinx is not installed: the pages ARE NOT BUILT (make test installs it)")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", str(DOCS), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for page in PAGES:
        if page not in ROOT_PAGES:
            assert (tmp_path / page.relative_to(DOCS).with_suffix(".html")).is_file()

    *_, names = (tmp_path / "objects.inv").read_bytes().split(b"\n", 4)
    described = {line.split()[0] for line in zlib.decompress(names).decode().splitlines()}
    for owner in (person_repo.Service, person_repo.Repository, person_repo.BoundRepository, LeaseBackend):
        with subtests.test(owner.__name__):
            module = "person_repo.backends" if owner is LeaseBackend else "person_repo"
            methods = {f"{module}.{owner.__name__}.{name}" for name in vars(owner) if not name.startswith("_")}
            assert methods
            assert methods - described == set()
