"""The PostgreSQL of the tests: it is ours, it ends with us, and each fault is what it says."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from support.postgresql import PostgreSQL, postgresql

from person_repo.testing.servers import HOST


@pytest.fixture(scope="module")
def server() -> Iterator[PostgreSQL]:
    with postgresql() as server:
        yield server


def rows(url: sa.URL | str, statement: str) -> list[tuple[object, ...]]:
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", connect_args={"connect_timeout": 2})
    try:
        with engine.connect() as connection:
            result = connection.exec_driver_sql(statement)
            return [tuple(row) for row in result] if result.returns_rows else []
    finally:
        engine.dispose()


def test_it_listens_on_the_loopback_interface_alone(server: PostgreSQL) -> None:
    assert rows(server.url, "SHOW listen_addresses") == [(HOST,)]
    assert rows(server.url, "SHOW unix_socket_directories") == [("",)]


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_it_is_never_root(server: PostgreSQL) -> None:
    assert os.stat(f"/proc/{server.pid}").st_uid != 0


def test_a_crash_loses_nothing_that_was_committed(server: PostgreSQL) -> None:
    rows(server.url, "CREATE TABLE kept (id integer)")
    rows(server.url, "CHECKPOINT")
    pid = server.pid

    server.restart()

    assert server.pid != pid
    assert rows(server.url, "SELECT count(*) FROM kept") == [(0,)]


def test_a_clients_connection_does_not_keep_it_from_ending(server: PostgreSQL) -> None:
    engine = sa.create_engine(server.url)
    with engine.connect() as connection:
        connection.exec_driver_sql("SELECT 1")
        server.stop()
        assert not server.running
        connection.invalidate()
    engine.dispose()
    server.start()


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_no_connection_is_answered_while_it_is_paused(server: PostgreSQL) -> None:
    engine = sa.create_engine(server.url, connect_args={"connect_timeout": 2})
    with engine.connect() as connection:
        serving = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
        server.pause()
        try:
            assert "State:\tT" in Path(f"/proc/{serving}/status").read_text()
        finally:
            server.resume()
        assert connection.exec_driver_sql("SELECT 1").scalar_one() == 1
    engine.dispose()


def test_another_server_on_its_port_is_not_taken_for_it(
    server: PostgreSQL, tmp_path_factory: pytest.TempPathFactory
) -> None:
    impostor = PostgreSQL(tmp_path_factory.mktemp("impostor"), port=server.port)
    assert server.answers()
    assert not impostor.answers()


def test_each_test_has_an_empty_database(postgresql_url: str) -> None:
    tables = "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'public'"
    assert rows(postgresql_url, tables) == [(0,)]
