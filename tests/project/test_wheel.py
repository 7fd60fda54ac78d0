"""The wheel, installed without a checkout: it has everything it needs."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Callable, Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

CHECKOUT = Path(__file__).resolve().parents[2]


def run(*command: str | Path, cwd: Path) -> str:
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PERSON_REPO_", "PYTHON", "VIRTUAL_ENV"))
    }
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", f"--outdir={folder}", CHECKOUT, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


def needed(of: Distribution, extra: str) -> Iterator[Distribution]:
    """What pip installs for a distribution and one of its extras (``""``: none), as it is in our environment."""
    for requirement in map(Requirement, of.requires or ()):
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            yield (found := distribution(requirement.name))
            for each in requirement.extras or {""}:
                yield from needed(found, each)


def lend(found: Distribution, purelib: Path) -> None:
    """Put links to the packages and modules of a distribution into another environment."""
    for top in {file.parts[0] for file in found.files or () if file.parts[0] not in ("..", "__pycache__")}:
        link = purelib / top
        if not link.is_symlink():
            link.symlink_to(Path(str(found.locate_file(top))))


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Makes an environment with the wheel, what it needs with an extra (``""``: without), and nothing else; returns the
    folder of its programs.

    What it needs comes from our environment: a registry is asked for nothing.
    """

    @functools.cache
    def make(extra: str) -> Path:
        folder = tmp_path_factory.mktemp("installed")
        venv.create(folder, with_pip=False)
        paths = {name: Path(sysconfig.get_path(name, "venv", {"base": str(folder)})) for name in ("scripts", "purelib")}
        pip = [sys.executable, "-m", "pip", f"--python={paths['scripts'] / 'python'}", "--disable-pip-version-check"]
        run(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=folder)
        (ours,) = Distribution.discover(name="person-repo", path=[str(paths["purelib"])])
        for found in needed(ours, extra):
            lend(found, paths["purelib"])
        return paths["scripts"]

    return make


@pytest.fixture(scope="module")
def scripts(environment: Callable[[str], Path]) -> Path:
    """The programs of an environment with the command line."""
    return environment("cli")


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """An empty folder."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    return folder


def test_wheel_has_types_people_and_one_copy_of_the_migrations(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())

    assert {
        "person_repo/py.typed",
        "person_repo/cli/demo/turing_laureates.csv",
        "person_repo/_alembic/env.py",
        "person_repo/_alembic/script.py.mako",
        "person_repo/_alembic/versions/person_repo_0001_create_person.py",
        "person_repo/_alembic/layer/person_repo_layer_0001_create_fence.py",
    } <= names
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"person_repo"}
    assert not [name for name in names if "__pycache__" in name]
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_package_under_test_is_the_installed_one(scripts: Path, elsewhere: Path) -> None:
    """Our own environment lends what the wheel needs, not its editable install."""
    found = run(scripts / "python", "-c", "import person_repo; print(person_repo.__file__)", cwd=elsewhere)
    assert Path(found.strip()).is_relative_to(scripts.parent)


def test_command_prints_its_version(scripts: Path, elsewhere: Path) -> None:
    assert "0.1.0" in run(scripts / "person-repo", "--version", cwd=elsewhere)


def test_command_upgrades_a_database(scripts: Path, elsewhere: Path) -> None:
    run(scripts / "person-repo", "--database-url", "sqlite:///shop.db", "upgrade", cwd=elsewhere)

    current = "from person_repo import migrations; print(*migrations.current('sqlite:///shop.db'))"
    assert run(scripts / "python", "-c", current, cwd=elsewhere).split() == [
        "person_repo_0002",
        "person_repo_layer_0002",
    ]


def test_migrations_come_from_the_package(scripts: Path, elsewhere: Path) -> None:
    code = (
        "from person_repo import migrations;"
        "print(migrations.script_location());"
        "migrations.upgrade('sqlite:///people.db');"
        "print(migrations.current('sqlite:///people.db') == migrations.heads())"
    )
    location, upgraded = run(scripts / "python", "-c", code, cwd=elsewhere).split()

    assert Path(location).parts[-2:] == ("person_repo", "_alembic")
    assert upgraded == "True"
    assert (elsewhere / "people.db").exists()


def test_host_names_our_revisions_by_package(scripts: Path, elsewhere: Path) -> None:
    """``package:folder`` needs no path of one machine, but a separator that is not its colon."""
    run(scripts / "python", "-m", "alembic", "init", "shop", cwd=elsewhere)
    ini = elsewhere / "alembic.ini"
    ini.write_text(
        "[alembic]\nscript_location = shop\npath_separator = newline\nsqlalchemy.url = sqlite:///shop.db\n"
        "version_locations =\n  shop/versions\n  person_repo:_alembic/layer\n"
    )
    (elsewhere / "shop" / "env.py").write_text(
        "import sqlalchemy as sa\n"
        "from alembic import context\n"
        "engine = sa.create_engine(context.config.get_main_option('sqlalchemy.url'))\n"
        "with engine.begin() as connection:\n"
        "    context.configure(connection=connection)\n"
        "    context.run_migrations()\n"
    )
    run(scripts / "python", "-m", "alembic", "upgrade", "heads", cwd=elsewhere)

    assert "person_repo_layer_0002" in run(scripts / "python", "-m", "alembic", "current", cwd=elsewhere)
    ini.write_text(f"{ini.read_text()}  person_repo:_alembic/versions\n")
    run(scripts / "python", "-m", "alembic", "upgrade", "heads", cwd=elsewhere)

    assert "person_repo_0002" in run(scripts / "python", "-m", "alembic", "current", cwd=elsewhere)


def test_backends_are_known_to_plain_dogpile_by_name(scripts: Path, elsewhere: Path) -> None:
    """By entry point alone: nothing of ours is imported first."""
    code = (
        "from dogpile.cache import make_region;"
        "region = make_region().configure('person_repo.memory');"
        "print(type(region.actual_backend).__name__)"
    )
    assert run(scripts / "python", "-c", code, cwd=elsewhere).strip() == "MemoryBackend"


WITHOUT_EXTRAS = """
import person_repo
from person_repo import Person, migrations
from person_repo.testing.torture.plan import Plan
from person_repo.testing.torture.run import run

migrations.upgrade("sqlite:///people.db")
with person_repo.connect("sqlite:///people.db", "memory://") as people:
    people.add(Person(id="ada", first_name="Ada", last_name="Byron"))
    assert people.get("ada") == people.get_many(["ada"])["ada"]
report = run(Plan(database_url="sqlite:///people.db", cache_url="memory://", seconds=0.2))
assert report.reads and not report.stale, report
"""

USES = {
    "mysql-auth": "import cryptography, pymysql",
    "cryptography": "import person_repo; person_repo.make_region('memory://', secret='s' * 32)",
    "postgresql": "import psycopg; import person_repo; person_repo.connect('postgresql+psycopg://nobody@localhost/x').close()",
}
"""A program that needs the extra; the command line has tests of its own above."""


def test_without_extras_there_is_everything_but_the_command_line(
    environment: Callable[[str], Path], elsewhere: Path
) -> None:
    scripts = environment("")
    run(scripts / "python", "-c", WITHOUT_EXTRAS, cwd=elsewhere)

    for program in ([scripts / "person-repo"], [scripts / "python", "-m", "person_repo"]):
        done = subprocess.run([*program, "--help"], cwd=elsewhere, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == (
            "person-repo: the command line needs click and rich; run: pip install 'person-repo[cli]'\n"
        )


@pytest.mark.parametrize("extra", USES)
def test_an_extra_brings_what_it_is_for(environment: Callable[[str], Path], elsewhere: Path, extra: str) -> None:
    """And without it there would be an error."""
    run(environment(extra) / "python", "-c", USES[extra], cwd=elsewhere)

    bare = subprocess.run([environment("") / "python", "-c", USES[extra]], cwd=elsewhere, stderr=-1, check=False)
    assert bare.returncode == 1
    assert b"Error: " in bare.stderr


def test_every_extra_has_a_program_that_needs_it(environment: Callable[[str], Path], elsewhere: Path) -> None:
    code = "from importlib.metadata import metadata; print(*metadata('person-repo').get_all('Provides-Extra'))"
    extras = run(environment("") / "python", "-c", code, cwd=elsewhere).split()
    assert sorted(extras) == sorted([*USES, "cli"])
