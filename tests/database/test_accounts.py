"""Accounts of MySQL whose password goes by caching_sha2_password: with TLS, by RSA, and without either."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterator

import pymysql
import pytest
import sqlalchemy as sa
from sqlalchemy import exc
from support.command import call
from support.entities import person
from support.urls import MEMORY

import person_repo
from person_repo import PersonService, migrations
from person_repo.database.engines import engine_of, read_engine_of
from person_repo.exceptions import MigrationError

REMEDY = r"pip install 'person-repo\[mysql-auth\]', or connect with TLS"


@pytest.fixture
def account(mysql_url: str) -> Iterator[sa.URL]:
    """The URL of a new account, whose password the server has never seen: it remembers those that it has."""
    url = sa.make_url(mysql_url)
    name, password = f"user_{secrets.token_hex(4)}", secrets.token_hex(8)
    root = sa.create_engine(url)
    with root.begin() as connection:
        connection.exec_driver_sql(f"CREATE USER {name}@'127.0.0.1' IDENTIFIED BY '{password}'")
        connection.exec_driver_sql(f"GRANT ALL ON {url.database}.* TO {name}@'127.0.0.1'")
    yield url.set(username=name, password=password)
    with root.begin() as connection:
        connection.exec_driver_sql(f"DROP USER {name}@'127.0.0.1'")
    root.dispose()


@pytest.fixture
def plain(account: sa.URL) -> str:
    """The same without TLS, which PyMySQL would take where the server offers it."""
    return account.update_query_dict({"ssl_disabled": "true"}).render_as_string(hide_password=False)


@pytest.fixture
def _without_cryptography(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pymysql._auth._have_cryptography", False)


def test_a_password_goes_by_rsa_where_there_is_no_tls(plain: str) -> None:
    migrations.upgrade(plain)
    with person_repo.connect(plain, MEMORY) as people:
        people.add(person())

        assert people.get_one(person().id) == person()


@pytest.mark.usefixtures("_without_cryptography")
def test_a_password_needs_no_package_where_there_is_tls(account: sa.URL) -> None:
    url = account.render_as_string(hide_password=False)
    migrations.upgrade(url)
    with person_repo.connect(url, MEMORY) as people:
        people.add(person())

        assert people.get_one(person().id) == person()


@pytest.mark.usefixtures("_without_cryptography")
def test_a_read_without_the_package_names_the_extra(plain: str) -> None:
    with (
        person_repo.connect(plain, MEMORY) as people,
        pytest.raises(exc.OperationalError, match=REMEDY) as caught,
    ):
        people.get("ada")

    assert str(sa.make_url(plain).password) not in str(caught.value)


@pytest.mark.usefixtures("_without_cryptography")
def test_a_read_on_a_hosts_engine_names_the_extra(plain: str) -> None:
    host = sa.create_engine(plain)
    with PersonService.over(host, MEMORY) as people, pytest.raises(exc.OperationalError, match=REMEDY):
        people.get("ada")
    with pytest.raises(exc.OperationalError, match=REMEDY):
        host.connect()


@pytest.mark.usefixtures("_without_cryptography")
def test_a_migration_names_the_extra(plain: str) -> None:
    with pytest.raises(MigrationError, match=REMEDY):
        migrations.upgrade(plain)
    with pytest.raises(MigrationError, match=REMEDY):
        migrations.upgrade(sa.create_engine(plain))


@pytest.mark.usefixtures("_without_cryptography")
@pytest.mark.parametrize("command", ["upgrade", "current", "list", "check"])
def test_the_command_line_names_the_extra(plain: str, command: str) -> None:
    result = call("--database-url", plain, command)

    assert result.exit_code != 0
    assert re.search(REMEDY, result.output)
    assert str(sa.make_url(plain).password) not in result.output


def test_hits_go_on_when_the_server_has_forgotten_the_password(
    mysql_url: str, plain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after its restart: each password that it has not seen since must come encrypted once."""
    migrations.upgrade(plain)
    with person_repo.connect(plain, f"{MEMORY}&fence_interval=0.01") as people:
        people.add(person())
        people.get(person().id)
        with sa.create_engine(mysql_url, poolclass=sa.NullPool).connect() as root:
            root.exec_driver_sql("FLUSH PRIVILEGES")
        people.engine.dispose()
        read_engine_of(people.engine).dispose()
        monkeypatch.setattr("pymysql._auth._have_cryptography", False)
        time.sleep(0.02)  # a poll of the fence is due

        assert people.get_one(person().id) == person()
        with pytest.raises(exc.OperationalError, match=REMEDY):
            people.get("another")


def test_other_errors_of_a_connection_pass_as_they_are(plain: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object, **_options: object) -> None:
        raise RuntimeError("no more threads")

    monkeypatch.setattr(pymysql, "connect", fail)
    with pytest.raises(RuntimeError, match="no more threads"):
        engine_of(plain).connect()
