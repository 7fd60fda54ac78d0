"""The autogenerate of a host's alembic: it leaves our tables alone, and what it writes can be run."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata, produce_migrations, render_python_code
from alembic.autogenerate.api import AutogenContext
from alembic.config import Config
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from sqlalchemy import orm
from support.migrations import alembic_of_a_host

from person_repo import migrations
from person_repo.model import Base, ExactString, Person

OPTIONS = {"include_object": migrations.include_object, "render_item": migrations.render_item}


def host_with_orders() -> sa.MetaData:
    """The models of a host: one table, with a key of our type and one that refers to ``Person``."""

    class HostBase(orm.DeclarativeBase):
        pass

    class Order(HostBase):
        __tablename__ = "order"

        id: orm.Mapped[str] = orm.mapped_column(ExactString(40), primary_key=True)
        note: orm.Mapped[str] = orm.mapped_column(sa.String(40))
        person_id: orm.Mapped[str] = orm.mapped_column(ExactString(100), sa.ForeignKey(Person.__table__.c.id))

    return HostBase.metadata


def differences(engine: sa.Engine, metadata: sa.MetaData, **options: Any) -> list[str]:
    with engine.connect() as connection:
        found = compare_metadata(MigrationContext.configure(connection, opts=options), metadata)
    return sorted(f"{difference[0]} {getattr(difference[1], 'name', '')}" for difference in found)


def generated(engine: sa.Engine, metadata: sa.MetaData, **options: Any) -> tuple[str, set[str]]:
    """The body of ``upgrade`` in the next revision, and the lines of its imports."""
    imports: set[str] = set()

    def render_item(type_: str, obj: Any, autogen_context: AutogenContext) -> Any:
        rendered = options["render_item"](type_, obj, autogen_context) if options else False
        imports.update(autogen_context.imports)
        return rendered

    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts=options)
        operations = produce_migrations(context, metadata).upgrade_ops
        assert operations is not None
        return render_python_code(operations, render_item=render_item, migration_context=context), imports


@pytest.mark.parametrize("person", [True, False], ids=["both branches", "the layer"])
def test_the_hosts_next_revision_drops_none_of_our_tables(engine: sa.Engine, person: bool) -> None:
    migrations.upgrade(engine, person=person)

    assert "remove_table person_repo_fence" in differences(engine, sa.MetaData())
    assert differences(engine, sa.MetaData(), **OPTIONS) == []


def test_our_tables_in_the_hosts_metadata_are_not_created_by_its_revisions(engine: sa.Engine) -> None:
    """A host may build its models on our ``Base``."""
    assert "add_table person" in differences(engine, Base.metadata)
    assert differences(engine, Base.metadata, **OPTIONS) == []


def test_a_table_person_of_the_hosts_own_stays_the_hosts(engine: sa.Engine) -> None:
    migrations.upgrade(engine, person=False)
    mine = sa.MetaData()
    person = sa.Table("person", mine, sa.Column("id", sa.Integer, primary_key=True))
    assert differences(engine, mine, **OPTIONS) == ["add_table person"]

    person.create(engine)
    assert differences(engine, mine, **OPTIONS) == []
    assert differences(engine, sa.MetaData(), **OPTIONS) == ["remove_table person"]

    sa.Table(
        "person", wider := sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("a", sa.Integer)
    )
    assert [name.split()[0] for name in differences(engine, wider, **OPTIONS)] == ["add_column"]


def test_other_tables_are_seen(engine: sa.Engine) -> None:
    migrations.upgrade(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE parcel (id INTEGER)")

    assert differences(engine, host_with_orders(), **OPTIONS) == ["add_table order", "remove_table parcel"]


@pytest.mark.every_database
def test_a_revision_with_our_type_can_be_run(engine: sa.Engine) -> None:
    migrations.upgrade(engine)
    metadata = host_with_orders()
    bare, imports = generated(engine, metadata)
    assert "person_repo.model.ExactString(length=40)" in bare
    assert imports == set()

    code, imports = generated(engine, metadata, **OPTIONS)
    assert "ExactString(40)" in code
    assert "person_repo.model" not in code
    with engine.begin() as connection, Operations.context(MigrationContext.configure(connection)) as op:
        exec("\n".join([*imports, "def upgrade():", code, "upgrade()"]), {"op": op, "sa": sa})

    assert differences(engine, metadata, **OPTIONS) == []
    if engine.dialect.name != "sqlite":  # whose own order is the exact one
        query = "SELECT collation_name FROM information_schema.columns WHERE table_name = 'order'"
        with engine.connect() as connection:
            assert len({*connection.exec_driver_sql(query).scalars()}) == 2


def test_a_string_of_any_length_and_a_hosts_kind_of_ours_are_written(engine: sa.Engine) -> None:
    class Isbn(ExactString):
        cache_ok = True

    table = sa.Table("book", sa.MetaData(), sa.Column("title", ExactString()), sa.Column("isbn", Isbn(13)))
    code, imports = generated(engine, table.metadata, **OPTIONS)

    assert "sa.Column('title', ExactString()" in code
    assert f"{Isbn.__module__}.Isbn(" in code
    assert imports == {"from person_repo import ExactString"}


# alembic revision without --head


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Our folders, in a place that a test may write to."""
    copy = tmp_path / "site-packages" / "_alembic"
    shutil.copytree(migrations.script_location(), copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr("support.migrations.migrations.script_location", lambda: str(copy))
    return copy


def host_on_its_first_day(installed: Path, tmp_path: Path) -> Config:
    config = alembic_of_a_host(tmp_path / "shop", sa.make_url("sqlite://"), ["layer"])
    shutil.copy(installed / "script.py.mako", tmp_path / "shop")
    for revision in (tmp_path / "shop" / "versions").glob("*.py"):
        revision.unlink()
    return config


def test_the_first_revision_of_a_host_without_head_would_go_into_our_folder(installed: Path, tmp_path: Path) -> None:
    """This is alembic's way, and the reason for the line on the page."""
    host = host_on_its_first_day(installed, tmp_path)

    script = command.revision(host, "orders")

    assert getattr(script, "down_revision", None) == "person_repo_layer_0002"
    assert Path(getattr(script, "path", "")).parent == installed / "layer"


def test_the_line_on_the_page_begins_a_branch_of_the_host(installed: Path, tmp_path: Path) -> None:
    host, own = host_on_its_first_day(installed, tmp_path), tmp_path / "shop" / "versions"

    first = command.revision(host, "orders", head="base", branch_label="shop", version_path=str(own))
    with pytest.raises(Exception, match="Multiple heads are present"):
        command.revision(host, "parcels")
    second = command.revision(host, "parcels", head="shop@head")

    assert getattr(first, "down_revision", "") is None
    assert getattr(second, "down_revision", "") == getattr(first, "revision", None)
    assert len(list(own.glob("*.py"))) == 2
    assert len(list((installed / "layer").glob("*.py"))) == 2
