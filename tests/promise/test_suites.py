"""SQLAlchemy's own tests pass on covered engines, and no row of theirs changes without a tombstone.

Of each part the tests that fail are run again, uncovered: those that fail then, too, are no matter of ours.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pymysql
import pytest
import sqlalchemy as sa
from dogpile.cache import CacheRegion
from promise.suites.expected import is_expected
from promise.suites.ledger import Ledger, Standing
from promise.suites.running import Suite
from promise.suites.source import sqlalchemys_source
from sqlalchemy import orm
from support.proofs import amount
from support.servers import MySQL, mysql
from support.servers.use import uses

import person_repo
from person_repo.cache.region import lease_backend
from person_repo.writing import coverage

PARTS = 40
"""Of all files, some 150: about four each. They are run where ``PERSON_REPO_SUITES`` is ``all``, as in a full run."""

WRITING = (
    "engine/test_reconnect.py",
    "engine/test_transaction.py",
    "orm/test_naturalpks.py",
    "orm/test_unitofwork.py",
    "orm/test_unitofworkv2.py",
    "orm/test_versioning.py",
    "sql/test_defaults.py",
    "sql/test_delete.py",
    "sql/test_query.py",
    "sql/test_update.py",
)
"""The files that any other run takes: a few minutes, and most ways in which the suite writes."""

CHOSEN = range(PARTS) if os.environ.get("PERSON_REPO_SUITES") == "all" else WRITING


@pytest.fixture(scope="module")
def server() -> Iterator[MySQL]:
    """A MySQL of this module's own: the suite says what its databases are called."""
    with mysql() as server:
        yield server


@pytest.fixture
def mysqls_url(server: MySQL, request: pytest.FixtureRequest) -> str:
    """The URL of an empty database on it, beside two more. A run that took too long may have left tables."""
    with pymysql.connect(host=server.url.host, port=server.port, user="root", autocommit=True) as connection:
        connection.cursor().execute("SET foreign_key_checks = 0")  # They refer to each other.
        for name in ("test", "test_schema", "test_schema_2"):
            connection.cursor().execute(f"DROP DATABASE IF EXISTS {name}")
            connection.cursor().execute(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
        uses(request, f"MySQL {connection.get_server_info().partition('-')[0]}")
    return server.url.set(database="test").render_as_string(hide_password=False)


@pytest.mark.timeout(3600)
@pytest.mark.proof(name="ways", sample=0)
@pytest.mark.parametrize("part", CHOSEN)
@pytest.mark.parametrize("database", ["sqlite", "mysql"])
def test_sqlalchemys_own_tests_pass_on_covered_engines(
    database: str, part: int | str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue("mysqls_url") if database == "mysql" else ""
    suite = Suite(sqlalchemys_source(), tmp_path, url)
    files = [f"test/{part}"] if isinstance(part, str) else suite.files()[part::PARTS]
    if not files:
        pytest.skip("there are fewer files than parts")

    covered = suite.run("covered", files)

    failed = [test for test, outcome in covered["outcomes"].items() if outcome == "failed" and not is_expected(test)]
    uncovered = suite.run("uncovered", failed)["outcomes"] if failed else {}
    ours = [test for test in failed if uncovered.get(test) != "failed"]
    again = " ".join(suite.command("covered", ours or files))
    assert not ours, "\n".join([*(f"{test}\n{covered['words'][test]}" for test in ours), *ours, again])
    assert not covered["missed"], "\n".join([*map(str, covered["missed"]), again])
    changes = covered["by_key"] + covered["by_class"]
    amount(request, **{"of SQLAlchemy's tests": len(covered["outcomes"]), "changed rows compared": changes})


@pytest.fixture
def region() -> CacheRegion:
    return person_repo.make_region("memory://")


def test_a_change_without_a_tombstone_is_noticed(database_url: str, region: CacheRegion) -> None:
    base: Any = orm.declarative_base()

    class Thing(base):
        __tablename__ = "thing"
        id = sa.Column(sa.Integer, primary_key=True)
        name = sa.Column(sa.String(20))

    person_repo.cached(Thing)
    engine = sa.create_engine(database_url)
    person_repo.cover(engine, region)
    ledger = Ledger(Standing(lease_backend(region)))
    ledger.watch(engine, coverage._covered[engine.dialect])
    base.metadata.create_all(engine)
    with orm.Session(engine) as session, session.begin():
        session.add(Thing(id=1, name="one"))
    assert (ledger.by_key + ledger.by_class, ledger.missed) == (1, [])

    # Past the cover: on a connection of the driver's, which is a limit that the pages name.
    raw = engine.raw_connection()
    raw.cursor().execute("UPDATE thing SET name = 'two'")
    raw.driver_connection.commit()  # type: ignore[union-attr]
    raw.close()
    with orm.Session(engine) as session, session.begin():
        session.add(Thing(id=2, name="two"))

    assert [missed.before + missed.after for missed in ledger.missed] == ["(1, 'one')(1, 'two')"]
    ledger.forget()
    engine.dispose()
