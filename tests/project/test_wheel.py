"""The wheel, installed without a checkout: it has everything it needs."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

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


@pytest.fixture(scope="module")
def scripts(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that has the wheel and, from ours, its dependencies."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, with_pip=False)
    paths = {name: Path(sysconfig.get_path(name, "venv", {"base": str(folder)})) for name in ("scripts", "purelib")}
    python = paths["scripts"] / "python"
    pip = [sys.executable, "-m", "pip", f"--python={python}", "--disable-pip-version-check"]
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=folder)
    (paths["purelib"] / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return paths["scripts"]


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
    """Our own environment lends its dependencies, not its editable install."""
    found = run(scripts / "python", "-c", "import person_repo; print(person_repo.__file__)", cwd=elsewhere)
    assert Path(found.strip()).is_relative_to(scripts.parent)


def test_command_prints_its_version(scripts: Path, elsewhere: Path) -> None:
    assert "0.1.0" in run(scripts / "person-repo", "--version", cwd=elsewhere)


def test_command_upgrades_a_database(scripts: Path, elsewhere: Path) -> None:
    run(scripts / "person-repo", "--database-url", "sqlite:///shop.db", "upgrade", cwd=elsewhere)

    current = "from person_repo import migrations; print(*migrations.current('sqlite:///shop.db'))"
    assert run(scripts / "python", "-c", current, cwd=elsewhere).split() == [
        "person_repo_0002",
        "person_repo_layer_0001",
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

    assert "person_repo_layer_0001" in run(scripts / "python", "-m", "alembic", "current", cwd=elsewhere)
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
