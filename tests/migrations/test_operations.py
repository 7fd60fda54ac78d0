"""The two branches in every order, by call and in the alembic of a host: neither fails for the other, or takes its
tables down.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.util import CommandError
from support.migrations import alembic_of_a_host

from person_repo import migrations
from person_repo.database.schema import LAYER_REVISION
from person_repo.exceptions import MigrationError
from person_repo.model import FENCE

PERSON, LAYER = "person_repo_0002", "person_repo_layer_0002"

Move = Callable[[Literal["upgrade", "downgrade"], str], None]


@pytest.fixture(params=["by call", "layer/ listed first", "versions/ listed first"])
def move(request: pytest.FixtureRequest, tmp_path: Path, engine: sa.Engine) -> Move:
    """Runs one command, by call or in the alembic of a host that lists both folders. alembic's order of independent
    branches is that of the folders.
    """
    if request.param == "by call":
        return lambda way, revision: getattr(migrations, way)(engine, revision)
    folders = ["layer", "versions"]
    config = alembic_of_a_host(tmp_path / "shop", engine.url, folders if "layer/" in request.param else folders[::-1])
    return lambda way, revision: getattr(command, way)(config, revision)


def ours(engine: sa.Engine) -> set[str]:
    return set(sa.inspect(engine).get_table_names()) & {"person", FENCE.name}


def add_row(engine: sa.Engine) -> None:
    """An invalidation that is not delivered yet."""
    with engine.begin() as connection:
        row = {"namespace": "shop", "server": "a:1", "item": "x", "held_until": 0, "expires": 0}
        connection.execute(sa.insert(FENCE).values(row))


def rows(engine: sa.Engine) -> int:
    with engine.connect() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(FENCE)) or 0


@pytest.mark.parametrize(
    "steps",
    [
        ["heads"],
        ["person_repo@head", "heads"],
        ["person_repo_layer@head", "heads"],
        ["person_repo_layer@head", "person_repo_0001", "person_repo_0002"],
        ["person_repo_0001", "person_repo_layer@head", "heads"],
    ],
    ids=",".join,
)
def test_both_branches_are_there_in_the_end_whichever_comes_first(
    engine: sa.Engine, move: Move, steps: list[str]
) -> None:
    expected = 0
    for step in steps:
        move("upgrade", step)
        if FENCE.name in ours(engine):
            add_row(engine)
            expected += 1

    assert ours(engine) == {"person", FENCE.name}
    assert [index["name"] for index in sa.inspect(engine).get_indexes(FENCE.name)] == ["ix_person_repo_fence_namespace"]
    assert rows(engine) == expected


@pytest.mark.every_database
def test_a_branch_that_goes_leaves_the_tables_of_the_other(engine: sa.Engine, move: Move) -> None:
    move("upgrade", "heads")
    add_row(engine)
    move("downgrade", "person_repo@base")
    assert (ours(engine), rows(engine)) == ({FENCE.name}, 1)

    move("upgrade", "heads")
    move("downgrade", "person_repo_layer@base")
    assert (ours(engine), rows(engine)) == ({"person", FENCE.name}, 1)

    move("downgrade", "base")
    assert ours(engine) == set()


def test_a_branch_that_is_alone_takes_the_fence_with_it(engine: sa.Engine, move: Move) -> None:
    for branch in ("person_repo", "person_repo_layer"):
        move("upgrade", f"{branch}@head")
        assert FENCE.name in ours(engine)
        move("downgrade", f"{branch}@base")
        assert ours(engine) == set()


def test_a_fence_that_somebody_has_dropped_stops_no_downgrade(engine: sa.Engine, move: Move) -> None:
    move("upgrade", "heads")
    FENCE.drop(engine)
    move("downgrade", "base")
    assert ours(engine) == set()


def test_the_layer_alone_knows_nothing_of_person(engine: sa.Engine) -> None:
    migrations.upgrade(engine, person=False)
    assert migrations.current(engine) == migrations.heads(person=False) == (LAYER,)
    assert ours(engine) == {FENCE.name}

    migrations.upgrade(engine)
    migrations.downgrade(engine, "base", person=False)
    assert migrations.current(engine) == (PERSON,)
    migrations.upgrade(engine, LAYER, person=False)
    assert migrations.current(engine) == (PERSON, LAYER)


@pytest.mark.every_database
def test_an_index_that_an_earlier_run_did_not_get_to_is_made(engine: sa.Engine) -> None:
    """MySQL commits each statement: a run may end between the table and its index."""
    migrations.upgrade(engine, "person_repo_0001")
    with engine.begin() as connection:
        FENCE.create(connection)
        next(iter(FENCE.indexes)).drop(connection)

    migrations.upgrade(engine)

    assert [index["name"] for index in sa.inspect(engine).get_indexes(FENCE.name)] == ["ix_person_repo_fence_namespace"]


def test_the_other_branch_is_seen_in_the_other_version_table(tmp_path: Path, engine: sa.Engine) -> None:
    """The layer by call, and ``Person`` among the revisions of the host."""
    host = alembic_of_a_host(tmp_path / "shop", engine.url, ["versions"])
    migrations.upgrade(engine, person=False)
    command.upgrade(host, "heads")
    assert ours(engine) == {"person", FENCE.name}

    command.downgrade(host, "base")
    assert ours(engine) == {FENCE.name}

    command.upgrade(host, "heads")
    migrations.downgrade(engine, "base")
    assert ours(engine) == {"person", FENCE.name}


def test_the_revision_that_is_known_without_alembic_is_the_newest() -> None:
    assert migrations.heads(person=False) == (LAYER_REVISION,)


# downgrade -1


@pytest.mark.filterwarnings("ignore:downgrade -1 from multiple heads is ambiguous")
@pytest.mark.parametrize("folders", [["layer"], ["layer", "versions"]], ids=["layer", "both"])
def test_downgrade_by_one_never_drops_a_table_of_ours(tmp_path: Path, engine: sa.Engine, folders: list[str]) -> None:
    """alembic goes down the branch that the version table lists first; if it is one of ours, the host meant its own."""
    host = alembic_of_a_host(tmp_path / "shop", engine.url, folders)
    command.upgrade(host, "heads")
    before = ours(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM alembic_version WHERE version_num = 'shop_0002'")
        connection.exec_driver_sql("INSERT INTO alembic_version VALUES ('shop_0002')")

    with pytest.raises(CommandError, match=r"would drop person.*<branch>@-1"):
        command.downgrade(host, "-1")

    assert ours(engine) == before
    command.upgrade(host, "heads")
    command.downgrade(host, "shop@-1")
    assert ours(engine) == before
    assert "parcel" not in sa.inspect(engine).get_table_names()


@pytest.mark.filterwarnings("ignore:downgrade -1 from multiple heads is ambiguous")
def test_downgrade_by_one_is_refused_by_call_too(engine: sa.Engine) -> None:
    migrations.upgrade(engine)
    with pytest.raises(MigrationError, match=r"name the branch.*<branch>@-1"):
        migrations.downgrade(engine, "-1")
    assert migrations.current(engine) == (PERSON, LAYER)

    migrations.downgrade(engine, "-1", person=False)
    assert migrations.current(engine) == (PERSON, "person_repo_layer_0001")
    migrations.downgrade(engine, "-1", person=False)
    assert migrations.current(engine) == (PERSON,)
    migrations.downgrade(engine, "-1")
    assert migrations.current(engine) == ("person_repo_0001",)


def test_a_host_that_depends_on_the_layer_goes_down_by_one(tmp_path: Path, engine: sa.Engine) -> None:
    """Its version table lists its own branch only."""
    host = alembic_of_a_host(tmp_path / "shop", engine.url, ["layer"], depends_on=LAYER)
    command.upgrade(host, "heads")
    command.downgrade(host, "-1")
    assert {FENCE.name, "order"} <= set(sa.inspect(engine).get_table_names())
    assert "parcel" not in sa.inspect(engine).get_table_names()


# Without a database


def printed(way: str, revision: str, folders: list[str], tmp_path: Path, url: str = "sqlite://") -> str:
    host = alembic_of_a_host(tmp_path / "shop", sa.make_url(url), folders)
    host.output_buffer = io.StringIO()
    getattr(command, way)(host, revision, sql=True)
    return host.output_buffer.getvalue()


@pytest.mark.parametrize("url", ["sqlite://", "mysql+pymysql://nowhere/x", "mariadb+pymysql://nowhere/x"])
@pytest.mark.parametrize(
    ("folders", "revision", "times"),
    [
        ("layer versions", "heads", 1),
        ("versions layer", "heads", 1),
        ("layer", "heads", 1),
        ("versions", "heads", 1),
        ("layer versions", "person_repo_0002:heads", 0),
        ("layer versions", "person_repo_layer_0002:heads", 0),
    ],
)
def test_the_fence_is_printed_once(tmp_path: Path, url: str, folders: str, revision: str, times: int) -> None:
    text = printed("upgrade", revision, folders.split(), tmp_path, url)

    assert text.count("CREATE TABLE person_repo_fence") == times
    assert text.count("CREATE INDEX ix_person_repo_fence_namespace") == times


@pytest.mark.parametrize(("start", "drops"), [(PERSON, False), (LAYER, True)])
def test_the_fence_is_dropped_in_print_with_the_layer_only(tmp_path: Path, start: str, drops: bool) -> None:
    text = printed("downgrade", f"{start}:base", ["layer", "versions"], tmp_path)

    assert ("DROP TABLE person_repo_fence" in text) is drops
    assert ("-- person_repo_fence stays" in text) is not drops


# Operations of others


def test_other_tables_are_created_and_dropped_as_ever(tmp_path: Path, engine: sa.Engine) -> None:
    host = alembic_of_a_host(tmp_path / "shop", engine.url, [])
    command.upgrade(host, "heads")
    with engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM alembic_version")
    with pytest.raises(sa.exc.DBAPIError, match="already exists"):
        command.upgrade(host, "heads")
    with engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO alembic_version VALUES ('shop_0002')")
    command.downgrade(host, "base")
    assert set(sa.inspect(engine).get_table_names()) == {"alembic_version"}


def test_an_operation_that_a_host_has_extended_stays_extended(tmp_path: Path) -> None:
    """In a process of its own: an extension is for the whole process."""
    code = (
        "from alembic.operations import Operations, ops, toimpl\n"
        "@Operations.implementation_for(ops.CreateTableOp, replace=True)\n"
        "def create_table(operations, operation):\n"
        "    print('creates', operation.table_name)\n"
        "    return toimpl.create_table(operations, operation)\n"
        "from person_repo import migrations\n"
        "migrations.upgrade('sqlite:///people.db')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | ours_first(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert sorted(done.stdout.splitlines()) == [
        "creates person",
        "creates person_repo_fence",
        "creates person_repo_identity",
    ]


def ours_first() -> dict[str, Any]:
    """A child takes the package from where this process has it."""
    return {"PYTHONPATH": str(Path(migrations.__file__).resolve().parents[2])}
