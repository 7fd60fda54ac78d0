"""The schema under alembic: our own door, the host's door, and everybody at once."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import orm

from person_repo import migrations
from person_repo.exceptions import ConfigurationError, MigrationError
from person_repo.migrations import commands
from person_repo.model import Base, Person

pytestmark = pytest.mark.every_database

CHECKOUT = Path(__file__).resolve().parents[1]

EngineOf = Callable[..., sa.Engine]


@pytest.fixture
def engine_of() -> Iterator[EngineOf]:
    """Makes engines that are disposed of with the test."""
    made: list[sa.Engine] = []

    def make(url: str, **options: object) -> sa.Engine:
        made.append(sa.create_engine(url, **options))
        return made[-1]

    yield make
    for engine in made:
        engine.dispose()


OURS = {"person", "person_repo_fence", "person_repo_identity", "person_repo_version"}
HEADS = ("person_repo_0002", "person_repo_layer_0002")
LAYER = ("person_repo_layer_0002",)


def tables(engine: sa.Engine) -> set[str]:
    return set(sa.inspect(engine).get_table_names())


def test_schema_goes_up_down_and_up_again(engine: sa.Engine) -> None:
    assert migrations.current(engine) == ()

    migrations.upgrade(engine)
    assert migrations.current(engine) == migrations.heads() == HEADS
    assert tables(engine) == OURS

    migrations.downgrade(engine, "base")
    assert migrations.current(engine) == ()
    assert tables(engine) == {"person_repo_version"}

    migrations.upgrade(engine)
    assert migrations.current(engine) == HEADS


def test_upgrade_of_an_upgraded_schema_keeps_everyone(engine: sa.Engine) -> None:
    migrations.upgrade(engine)
    with orm.Session(engine) as session, session.begin():
        session.add(Person("ada", "Ada", "Lovelace"))

    migrations.upgrade(engine)

    with orm.Session(engine) as session:
        assert session.get(Person, "ada") == Person("ada", "Ada", "Lovelace")


@pytest.mark.parametrize("make", [str, sa.make_url, sa.create_engine], ids=["text", "URL", "Engine"])
def test_target_may_be_a_url_or_an_engine(
    database_url: str, engine: sa.Engine, make: Callable[[str], str | sa.URL | sa.Engine]
) -> None:
    target = make(database_url)
    migrations.upgrade(target)
    assert migrations.current(target) == migrations.heads()
    assert "person" in tables(engine)
    if isinstance(target, sa.Engine):
        target.dispose()


def test_connection_is_left_for_its_owner_to_commit(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        migrations.upgrade(connection)
        assert connection.in_transaction()
        assert migrations.current(connection) == migrations.heads()
        connection.commit()
    assert migrations.current(engine) == migrations.heads()


def test_owner_of_a_connection_may_roll_back_on_sqlite(tmp_path: Path, engine_of: EngineOf) -> None:
    """MySQL cannot: there each DDL statement commits."""
    engine = engine_of(f"sqlite:///{tmp_path / 'people.db'}")
    with engine.connect() as connection:
        migrations.upgrade(connection)
        connection.rollback()
    assert tables(engine) == set()


def test_model_and_migrated_schema_agree(engine: sa.Engine) -> None:
    migrations.upgrade(engine)
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": migrations.VERSION_TABLE, "compare_server_default": True}
        )
        assert compare_metadata(context, Base.metadata) == []


def test_migrated_strings_compare_exactly(engine: sa.Engine) -> None:
    migrations.upgrade(engine)
    people = [Person("ABC", "x", "x"), Person("abc", "x", "x"), Person("abc ", "x", "x")]
    with orm.Session(engine) as session, session.begin():
        session.add_all(people)

    with orm.Session(engine) as session:
        assert session.get(Person, "Abc") is None
        assert session.scalars(sa.select(Person.id).where(Person.id == "abc")).all() == ["abc"]
        assert set(session.scalars(sa.select(Person.id))) == {"ABC", "abc", "abc "}


def test_collation_and_storage_engine_are_the_models_on_mysql(mysql_url: str) -> None:
    """``alembic check`` does not compare these."""
    migrated = _mysql_shape(mysql_url, migrations.upgrade)
    migrations.downgrade(mysql_url, "base")
    created = _mysql_shape(mysql_url, Base.metadata.create_all)

    assert migrated == created
    assert migrated["engine"] == "InnoDB"
    assert {migrated[name] for name in ("id", "first_name", "last_name")} <= {"utf8mb4_nopad_bin", "utf8mb4_0900_bin"}


def _mysql_shape(url: str, create: Callable[[sa.Engine], None]) -> dict[str, str]:
    engine = sa.create_engine(url)
    create(engine)
    columns = sa.text(
        "SELECT column_name, collation_name FROM information_schema.columns"
        " WHERE table_schema = DATABASE() AND table_name = 'person' AND collation_name IS NOT NULL"
    )
    table = sa.text(
        "SELECT engine FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = 'person'"
    )
    with engine.connect() as connection:
        shape = {"engine": connection.execute(table).scalar_one()}
        shape |= {row[0]: row[1] for row in connection.execute(columns)}
    engine.dispose()
    return shape


RACER = """
import sys
import sqlalchemy as sa
from person_repo import migrations

def report(connection, cursor, statement, *rest):
    creates = "CREATE TABLE person (" in statement
    print("creates" if creates else "begins", flush=True)
    if creates:
        input()

sa.event.listen(sa.Engine, "before_cursor_execute", report)
migrations.upgrade(sys.argv[1])
"""


def racer(url: str) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", RACER, url], stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def says(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.proof(name="suite", sample=2)
def test_two_processes_that_upgrade_at_once_do_not_collide(database_url: str, engine: sa.Engine) -> None:
    """The second one comes while the first one, having found an empty schema, is about to create the table."""
    with racer(database_url) as first:
        while (said := says(first)) != "creates":
            assert said == "begins"
        with racer(database_url) as second:
            assert says(second) == "begins"
            complaints = [process.communicate("\n", timeout=60)[1] for process in (first, second)]

    assert [first.returncode, second.returncode] == [0, 0], complaints
    assert migrations.current(engine) == migrations.heads()


def test_threads_that_upgrade_databases_of_their_own_do_not_collide(tmp_path: Path) -> None:
    urls = [f"sqlite:///{tmp_path / str(at)}.db" for at in range(8)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(migrations.upgrade, urls))

    assert {migrations.current(url) for url in urls} == {migrations.heads()}


@pytest.mark.parametrize("database_url", ["mysql", "postgresql"], indirect=True)
@pytest.mark.parametrize("isolation_level", ["READ COMMITTED", "AUTOCOMMIT"])
def test_upgrade_gives_up_on_a_lock_that_is_not_released(
    database_url: str, isolation_level: str, engine_of: EngineOf
) -> None:
    with migrations.exclusive(engine_of(database_url, isolation_level=isolation_level)):
        with pytest.raises(MigrationError, match="somebody else is migrating this"):
            migrations.upgrade(database_url, lock_timeout=0)
        assert migrations.current(database_url) == ()
    migrations.upgrade(database_url, lock_timeout=0)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_postgresqls_lock_goes_with_the_hosts_transaction(database_url: str, engine_of: EngineOf) -> None:
    with engine_of(database_url).connect() as connection:
        migrations.upgrade(connection)
        with pytest.raises(MigrationError, match="somebody else is migrating this schema"):
            migrations.upgrade(database_url, lock_timeout=0)
        connection.rollback()
    assert migrations.current(database_url) == ()
    migrations.upgrade(database_url, lock_timeout=0)


def test_lock_is_per_database(mysql_url: str, engine_of: EngineOf) -> None:
    with migrations.exclusive(engine_of(mysql_url)) as connection:
        other = f"{sa.make_url(mysql_url).database}_other"
        connection.exec_driver_sql(f"CREATE DATABASE {other}")
        try:
            migrations.upgrade(sa.make_url(mysql_url).set(database=other), lock_timeout=0)
        finally:
            connection.exec_driver_sql(f"DROP DATABASE {other}")


def test_lock_is_released_after_a_failure(engine: sa.Engine) -> None:
    with pytest.raises(MigrationError, match="person_repo_9999"):
        migrations.upgrade(engine, "person_repo_9999")
    migrations.upgrade(engine.url, lock_timeout=0)


def test_second_upgrade_on_sqlite_waits_for_the_drivers_timeout_only(tmp_path: Path, engine_of: EngineOf) -> None:
    url = f"sqlite:///{tmp_path / 'people.db'}"
    with migrations.exclusive(engine_of(url)), pytest.raises(MigrationError, match="locked"):
        migrations.upgrade(f"{url}?timeout=0")


# sqlite3 has autocommit=False since Python 3.12.
@pytest.mark.parametrize("begun_by", ["event"] if sys.version_info < (3, 12) else ["driver", "event"])
def test_sqlite_is_locked_where_the_host_begins_its_own_transactions(
    tmp_path: Path, begun_by: str, engine_of: EngineOf
) -> None:
    url = f"sqlite:///{tmp_path / 'people.db'}"
    if begun_by == "driver":
        engine = engine_of(url, connect_args={"autocommit": False})
    else:
        engine = engine_of(url, connect_args={"isolation_level": None})

        @sa.event.listens_for(engine, "begin")
        def begin(connection: sa.Connection) -> None:
            connection.exec_driver_sql("BEGIN")

    with migrations.exclusive(engine), pytest.raises(MigrationError, match="locked"):
        migrations.upgrade(f"{url}?timeout=0")
    migrations.upgrade(engine)

    assert tables(engine) == OURS


def test_failed_upgrade_on_sqlite_leaves_nothing(tmp_path: Path, engine_of: EngineOf) -> None:
    engine = engine_of(f"sqlite:///{tmp_path / 'people.db'}")
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE person (id INTEGER)")

    with pytest.raises(MigrationError, match="already exists"):
        migrations.upgrade(engine)

    assert tables(engine) == {"person"}


def test_schema_of_a_newer_version_is_refused_with_the_remedy(engine: sa.Engine) -> None:
    migrations.upgrade(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE person_repo_version SET version_num = 'person_repo_0999' WHERE version_num = 'person_repo_0002'"
        )

    for move in (lambda: migrations.upgrade(engine), lambda: migrations.downgrade(engine, "base")):
        with pytest.raises(MigrationError, match=r"'person_repo_0999'.*install the version that wrote it"):
            move()
    assert migrations.current(engine) == ("person_repo_0999", "person_repo_layer_0002")
    assert "person" in tables(engine)


def test_database_errors_name_the_database_and_not_its_password(mysql_url: str) -> None:
    url = sa.make_url(mysql_url).set(username="nobody", password="hunter2")
    for move in (migrations.upgrade, migrations.current):
        with pytest.raises(MigrationError, match=re.escape("nobody:***@")) as caught:
            move(url.render_as_string(hide_password=False))
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "no url",
        "nosuch://u:hunter2@host/db",
        "mysql+mysqldb_missing://u:hunter2@host/db",
        "mysql+pymysql://u:x@hunter2@host/db",
        "mysql+pymysql://u:hunter2@host:port/db",
        "sqlite://u:hunter2@host/db",
    ],
)
@pytest.mark.parametrize("move", [migrations.upgrade, migrations.current])
def test_url_that_cannot_be_used_is_a_configuration_error_without_its_password(
    url: str, move: Callable[[str], object]
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        move(url)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_missing_scripts_are_an_error_that_says_where_they_were_looked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(commands, "__file__", str(tmp_path / "person_repo" / "migrations" / "commands.py"))
    with pytest.raises(MigrationError, match="install the package again"):
        migrations.script_location()


def alembic(*arguments: str, cwd: Path, **variables: str) -> str:
    """The output of an alembic command, run as a user runs it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PERSON_REPO_")}
    done = subprocess.run(
        [sys.executable, "-m", "alembic", *arguments],
        cwd=cwd,
        env=environment | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("database_url", ["sqlite", "mysql"], indirect=True)  # it costs seconds
def test_plain_alembic_upgrades_from_the_checkout(database_url: str, engine: sa.Engine) -> None:
    alembic("upgrade", "heads", cwd=CHECKOUT, PERSON_REPO_DATABASE_URL=database_url)

    assert migrations.current(engine) == migrations.heads()
    assert "No new upgrade operations detected" in alembic("-x", f"url={database_url}", "check", cwd=CHECKOUT)


def test_x_argument_goes_before_the_environment(tmp_path: Path) -> None:
    chosen, other = f"sqlite:///{tmp_path / 'chosen.db'}", f"sqlite:///{tmp_path / 'other.db'}"

    alembic("-x", f"url={chosen}", "upgrade", "heads", cwd=CHECKOUT, PERSON_REPO_DATABASE_URL=other)

    assert migrations.current(chosen) == migrations.heads()
    assert not (tmp_path / "other.db").exists()


def test_ini_file_has_the_default_database(tmp_path: Path) -> None:
    alembic("-c", str(CHECKOUT / "alembic.ini"), "upgrade", "heads", cwd=tmp_path)

    assert migrations.current(f"sqlite:///{tmp_path / 'people.db'}") == migrations.heads()


@pytest.mark.parametrize(
    ("url", "collation"),
    [
        ("mysql+pymysql://nowhere/x", "utf8mb4_0900_bin"),
        ("mariadb+pymysql://nowhere/x", "utf8mb4_nopad_bin"),
        ("sqlite://", None),
    ],
)
def test_sql_can_be_printed_without_a_database(url: str, collation: str | None) -> None:
    printed = alembic("-x", f"url={url}", "upgrade", "heads", "--sql", cwd=CHECKOUT)

    assert "CREATE TABLE person (" in printed
    assert "INSERT INTO person_repo_version" in printed
    assert printed.count(f"COLLATE {collation}") == (7 if collation else 0)


HOST_ENV = """
    import sqlalchemy as sa
    from alembic import context

    engine = sa.create_engine(context.config.get_main_option("sqlalchemy.url"))
    with engine.connect() as connection:
        context.configure(connection=connection, render_as_batch=True)
        with context.begin_transaction():
            context.run_migrations()
        connection.commit()
    engine.dispose()
"""

HOST_REVISION = """
    import sqlalchemy as sa
    from alembic import op

    from person_repo.model import ExactString

    revision = "shop_0001"
    down_revision = None
    branch_labels = ("shop",)
    depends_on = "person_repo_0001"


    def upgrade():
        op.create_table(
            "order",
            sa.Column("id", sa.Integer(), primary_key=True),
            sa.Column("person_id", ExactString(100), sa.ForeignKey("person.id"), nullable=False),
        )


    def downgrade():
        op.drop_table("order")
"""


@pytest.fixture
def host(tmp_path: Path, database_url: str) -> Config:
    """A host's own alembic set-up, whose only table refers to ``person``."""
    folder = tmp_path / "shop"
    (folder / "versions").mkdir(parents=True)
    (folder / "env.py").write_text(textwrap.dedent(HOST_ENV))
    (folder / "versions" / "shop_0001.py").write_text(textwrap.dedent(HOST_REVISION))
    ours = Path(migrations.script_location())

    config = Config()
    config.set_main_option("script_location", str(folder))
    config.set_main_option("version_locations", f"{folder / 'versions'}\n{ours / 'versions'}\n{ours / 'layer'}")
    config.set_main_option("path_separator", "newline")
    config.set_main_option("sqlalchemy.url", database_url.replace("%", "%%"))
    return config


def test_host_runs_our_revisions_among_its_own(host: Config, engine: sa.Engine) -> None:
    command.upgrade(host, "heads")
    assert tables(engine) == {"alembic_version", "person", "person_repo_fence", "person_repo_identity", "order"}
    assert sa.inspect(engine).get_foreign_keys("order")[0]["referred_table"] == "person"

    command.downgrade(host, "shop@base")
    assert tables(engine) == {"alembic_version", "person", "person_repo_fence", "person_repo_identity"}

    command.downgrade(host, "person_repo@base")
    assert tables(engine) == {"alembic_version", "person_repo_fence", "person_repo_identity"}

    command.upgrade(host, "heads")
    command.downgrade(host, "base")
    assert tables(engine) == {"alembic_version"}


def test_hosts_own_branch_pulls_ours_in(host: Config, engine: sa.Engine) -> None:
    command.upgrade(host, "shop@head")
    assert tables(engine) == {"alembic_version", "person", "order"}


def test_our_version_table_stays_out_of_the_hosts(host: Config, engine: sa.Engine) -> None:
    """A host that upgrades us by call, and itself by alembic, keeps two tables of revisions."""
    migrations.upgrade(engine)
    assert tables(engine) == OURS
    command.stamp(host, ["person_repo_0002", "person_repo_layer_0002"])
    command.upgrade(host, "heads")
    assert tables(engine) == {"alembic_version", *OURS, "order"}
    assert migrations.current(engine) == migrations.heads()


def test_upgrade_of_an_upgraded_schema_writes_nothing(
    engine: sa.Engine, statements: Callable[..., AbstractContextManager[list[str]]]
) -> None:
    migrations.upgrade(engine)
    with statements(engine) as seen:
        migrations.upgrade(engine)
    assert [line for line in seen if re.match(r"(?i)\s*(create|insert|update|delete|drop|alter)", line)] == []


BEFORE = {
    "env.py": "        context.configure(",
    "env.py, configured": "            context.run_migrations(",
    "shop_0001.py": "        op.create_table(",
}
"""Lines of the host's files before which it calls ``upgrade``."""


@pytest.mark.parametrize("place", BEFORE)
def test_host_upgrades_us_by_call_while_its_own_command_runs(
    tmp_path: Path, database_url: str, engine: sa.Engine, place: str
) -> None:
    """Our command ends inside the host's, which goes on with its own context and operations."""
    folder = tmp_path / "shop"
    (folder / "versions").mkdir(parents=True)
    files = {"env.py": HOST_ENV, "shop_0001.py": HOST_REVISION.replace('"person_repo_0001"', "None")}
    name, line = place.partition(",")[0], BEFORE[place]
    indent = line[: -len(line.lstrip())]
    call = f"{indent}migrations.upgrade({'connection' if name == 'env.py' else 'op.get_bind()'})\n"
    files[name] = "\n    from person_repo import migrations\n" + files[name].replace(line, call + line)
    (folder / "env.py").write_text(textwrap.dedent(files["env.py"]))
    (folder / "versions" / "shop_0001.py").write_text(textwrap.dedent(files["shop_0001.py"]))
    config = Config()
    config.set_main_option("script_location", str(folder))
    config.set_main_option("path_separator", "os")
    config.set_main_option("sqlalchemy.url", database_url.replace("%", "%%"))

    command.upgrade(config, "head")

    assert tables(engine) == {"alembic_version", *OURS, "order"}
    assert migrations.current(engine) == migrations.heads()
    command.downgrade(config, "base")
    assert tables(engine) == {"alembic_version", *OURS}
