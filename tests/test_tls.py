"""TLS end to end, with real certificates: a service over memcached, and over MariaDB.

Single exchanges over TLS are tested in ``tests/cache/memcached/test_ways.py``.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click.testing
import pytest
import sqlalchemy as sa
from support.certificates import Certificates
from support.servers import MariaDB, Tls, mariadb, memcached, memcached_talks_tls

from person_repo import ConfigurationError, Person, PersonService, connect, make_region, migrations
from person_repo.cli.main import main
from person_repo.model import Base

HOST = "127.0.0.1"
ADA = Person(id="ada", first_name="Ada", last_name="Lovelace")


def ada() -> Person:
    return Person(id="ada", first_name="Ada", last_name="Lovelace")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls"), "authority")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """An authority that nobody here trusts."""
    return Certificates(tmp_path_factory.mktemp("stranger"), "stranger")


# memcached


@pytest.fixture
def people(tmp_path: Path) -> Iterator[sa.Engine]:
    """A database with one person in it."""
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'people.db'}")
    Base.metadata.create_all(engine)
    with PersonService.over(engine, "null://") as service:
        service.add(ada())
    yield engine
    engine.dispose()


@pytest.fixture
def _memcached_talks_tls() -> None:
    if not memcached_talks_tls():
        pytest.skip("this memcached was built without TLS: the tests of TLS to memcached DO NOT RUN")


def service_over(people: sa.Engine, url: str, **options: Any) -> PersonService:
    return PersonService.over(people, make_region(url, timeout=10.0, connect_timeout=10.0, **options))


def reads_and_writes(service: PersonService) -> None:
    """Reads and writes as they are with the cache and without it."""
    assert service.get("ada") == ADA
    assert service.get_many(["ada", "nobody"]) == {"ada": ADA}
    service.update("ada", last_name="King")
    assert service.get_one("ada").last_name == "King"
    service.update("ada", last_name="Lovelace")
    assert service.get("ada") == service.get("ada")


@pytest.mark.usefixtures("_memcached_talks_tls")
@pytest.mark.parametrize("sealed", [False, True])
def test_memcached_over_tls_by_a_url(people: sa.Engine, authority: Certificates, sealed: bool) -> None:
    with memcached(tls=Tls(authority.ca, *authority.issue("cache", HOST))) as (server,):
        secret = "&secret=k3VY0c0Zc5bS5c3kq0Y1m9m7m3m5Jw2Jrj8lYy3Xo1E" if sealed else ""
        with service_over(
            people, f"memcached://{server.url}?tls=1&tls_ca={quote(str(authority.ca))}{secret}"
        ) as service:
            reads_and_writes(service)

            assert service.stats().hits >= 2
            assert service.stats().errors == service.stats().rejected == 0


@pytest.mark.usefixtures("_memcached_talks_tls")
def test_memcached_that_asks_for_a_client_certificate_gets_one(people: sa.Engine, authority: Certificates) -> None:
    tls = Tls(authority.ca, *authority.issue("asking", HOST))
    certificate, key = authority.issue("client", "client.example")
    both = certificate.with_suffix(".both")
    both.write_bytes(certificate.read_bytes() + key.read_bytes())
    with memcached(tls=tls, clients=True) as (server,):
        for files in ({"tls_cert": str(certificate), "tls_key": str(key)}, {"tls_cert": str(both)}):
            url = f"memcached://{server.url}"
            with service_over(people, url, tls=True, tls_ca=str(authority.ca), **files) as service:
                reads_and_writes(service)

                assert service.stats().hits >= 2
                assert service.stats().errors == 0


# memcached closes at once where it does not like a handshake; its alert, which has the reason, may come through before.
_CLOSED = "EOF occurred|reset by peer|closed|alert unknown ca|certificate required"

REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "no TLS": (_CLOSED, {"tls": False}),
    "another authority": ("certificate verify failed: self-signed certificate in", {"tls_ca": "stranger"}),
    "another name": ("not valid for '127.0.0.1'", {"names": ["cache.example"]}),
    "another name than is asked for": ("not valid for 'cache.example'", {"tls_hostname": "cache.example"}),
    "an expired certificate": ("certificate has expired", {"days": -1}),
    "no client certificate": (_CLOSED, {"clients": True}),
    "a client certificate of another authority": (_CLOSED, {"clients": True, "tls_cert": "stranger"}),
}


@pytest.mark.usefixtures("_memcached_talks_tls")
@pytest.mark.parametrize("case", REFUSED)
def test_if_tls_fails_the_database_answers_and_the_log_says_why(
    people: sa.Engine, authority: Certificates, stranger: Certificates, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    reason, setup = REFUSED[case]
    files = authority.issue("refused", *setup.get("names", [HOST]), days=setup.get("days", 1))
    options: dict[str, Any] = {"tls": setup.get("tls", True)}
    if options["tls"]:
        options["tls_ca"] = str(stranger.ca if setup.get("tls_ca") else authority.ca)
        options["tls_hostname"] = setup.get("tls_hostname", "")
    if setup.get("tls_cert"):
        certificate, key = stranger.issue("client", "client.example")
        options |= {"tls_cert": str(certificate), "tls_key": str(key)}
    with (
        memcached(tls=Tls(authority.ca, *files), clients=setup.get("clients", False)) as (server,),
        service_over(people, f"memcached://{server.url}", **options) as service,
    ):
        reads_and_writes(service)

        assert service.stats().hits == 0
        assert service.stats().errors > 0
    warnings = [r for r in caplog.records if r.name == "person_repo.cache" and r.levelno == logging.WARNING]
    assert [re.search(reason, warning.getMessage()) is not None for warning in warnings] == [True]


# MariaDB

PASSWORD = "QXZQXZQXZ"


@pytest.fixture(scope="module")
def database(authority: Certificates) -> Iterator[MariaDB]:
    """A MariaDB that talks TLS alone, as 127.0.0.1, with a database of people and two users: ``crm``, and ``shows``
    who must show a certificate.
    """
    if "PERSON_REPO_TEST_MYSQL_URL" in os.environ and shutil.which("mariadbd") is None:
        pytest.skip("mariadbd is not installed, and the server of PERSON_REPO_TEST_MYSQL_URL has its own certificate")
    with mariadb(tls=Tls(authority.ca, *authority.issue("database", HOST))) as server:
        engine = sa.create_engine(server.url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql("CREATE DATABASE crm CHARACTER SET utf8mb4")
            for user, demand in (("crm", "SSL"), ("shows", "X509")):
                connection.exec_driver_sql(f"CREATE USER {user}@'%%' IDENTIFIED BY '{PASSWORD}' REQUIRE {demand}")
                connection.exec_driver_sql(f"GRANT ALL ON crm.* TO {user}@'%%'")
        engine.dispose()
        migrations.upgrade(url_of(server, authority))
        yield server


def url_of(server: MariaDB, authority: Certificates, *, user: str = "crm", host: str = HOST, **query: str) -> str:
    """As the docs have it."""
    options = {"ssl_ca": str(authority.ca), "ssl_check_hostname": "true"} | query
    url = sa.URL.create("mysql+pymysql", user, PASSWORD, host, server.port, "crm", options)
    return url.render_as_string(hide_password=False)


def cipher_of(engine: sa.Engine) -> str:
    with engine.connect() as connection:
        return str(connection.exec_driver_sql("SHOW STATUS LIKE 'Ssl_cipher'").one()[1])


def refused(url: str, reason: str) -> None:
    """The service and the command line say why, and neither shows the password."""
    with connect(url, "memory://") as people, pytest.raises(sa.exc.OperationalError, match=reason) as caught:
        people.get("ada")
    said = click.testing.CliRunner().invoke(main, ["--database-url", url, "get", "ada"])

    assert said.exit_code != 0
    assert re.search(reason, said.output)
    assert PASSWORD not in "".join(traceback.format_exception(caught.value)) + said.output


def test_a_service_talks_tls_to_mariadb_on_both_of_its_engines(database: MariaDB, authority: Certificates) -> None:
    with connect(url_of(database, authority), "memory://") as people:
        people.upsert(ada())
        assert people.get("ada") == people.get("ada") == ADA
        assert people.stats().hits == 1
        assert people.read_engine is not people.engine
        assert cipher_of(people.engine)
        assert cipher_of(people.read_engine)


def test_a_user_who_must_show_a_certificate_does_on_both_engines(database: MariaDB, authority: Certificates) -> None:
    certificate, key = authority.issue("crm", "crm.example")
    url = url_of(database, authority, user="shows", ssl_cert=str(certificate), ssl_key=str(key))
    with connect(url, "memory://") as people:
        people.upsert(ada())
        assert people.get("ada") == ADA

    refused(url_of(database, authority, user="shows"), "Access denied for user 'shows'")


def test_mariadb_with_a_certificate_of_another_authority_is_refused(
    database: MariaDB, authority: Certificates, stranger: Certificates
) -> None:
    refused(url_of(database, stranger), "certificate verify failed: self-signed certificate in")


def test_mariadb_with_a_certificate_for_another_name_is_refused_unless_the_name_is_not_checked(
    database: MariaDB, authority: Certificates
) -> None:
    refused(url_of(database, authority, host="localhost"), "not valid for 'localhost'")

    with connect(url_of(database, authority, host="localhost", ssl_check_hostname="false"), "memory://") as people:
        assert cipher_of(people.engine)


def test_mariadb_with_an_expired_certificate_is_refused(database: MariaDB, authority: Certificates) -> None:
    administration = sa.create_engine(database.url)
    with administration.connect() as connection:
        try:
            authority.issue("database", HOST, days=-1)
            connection.exec_driver_sql("FLUSH SSL")
            refused(url_of(database, authority), "certificate has expired")
        finally:
            authority.issue("database", HOST)
            connection.exec_driver_sql("FLUSH SSL")
    administration.dispose()


def test_a_server_without_tls_is_refused_by_a_client_that_names_an_authority(
    mysql_url: str, authority: Certificates
) -> None:
    plain = sa.make_url(mysql_url).set(username="root", password=PASSWORD)
    url = plain.update_query_dict({"ssl_ca": str(authority.ca)}).render_as_string(hide_password=False)

    refused(url, "SSL is required but the server doesn't support it|certificate verify failed")


def test_a_client_without_tls_is_refused_by_the_server(database: MariaDB) -> None:
    refused(
        f"mysql+pymysql://crm:{PASSWORD}@{HOST}:{database.port}/crm?ssl_disabled=true",
        "Connections using insecure transport are prohibited|Access denied",
    )


@pytest.mark.parametrize("option", ["ssl_ca", "ssl_cert", "ssl_key"])
def test_tls_files_that_cannot_be_used_are_refused_at_once_by_name(
    option: str, authority: Certificates, tmp_path: Path
) -> None:
    certificate, key = authority.issue("used", HOST)
    files = {"ssl_ca": str(authority.ca), "ssl_cert": str(certificate), "ssl_key": str(key)}
    (tmp_path / "empty.pem").touch()
    for name in ("empty.pem", "missing.pem"):
        options = files | {option: str(tmp_path / name)}
        url = sa.URL.create("mysql+pymysql", "crm", PASSWORD, HOST, 1, "crm", options)
        with pytest.raises(ConfigurationError, match=rf"{name}.* of the database URL cannot be used") as caught:
            connect(url)
        assert PASSWORD not in str(caught.value)
