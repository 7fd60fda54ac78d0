"""Ways to a server: sockets, addresses, names, TLS."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from support.certificates import Certificates
from support.exchanges import Connect, keys, started
from support.servers import Memcached
from support.unruly import Door

from person_repo.cache.contract import UNREACHABLE, Lease
from person_repo.cache.memcached.backend import MemcachedBackend
from person_repo.exceptions import ConfigurationError
from person_repo.testing.contract import GROUP, KEY, OLD, store, take


def test_a_server_is_reached_by_a_unix_socket(connect: Connect) -> None:
    with (
        TemporaryDirectory(prefix="person_repo-") as folder,
        started(socket_path=Path(folder) / "cache sock") as server,
    ):
        backend, by_url = connect(server), MemcachedBackend({"url": f"memcached://{server.url}"})
        store(backend, KEY, OLD)

        assert by_url.fetch(GROUP, KEY) == OLD
        by_url.release(by_url.put_tombstones([KEY]))
        take(backend)
        by_url.close()


def test_a_server_is_reached_by_ipv6(connect: Connect, server: Memcached) -> None:
    try:
        door = Door(server.port, host="::1")
    except OSError:
        pytest.skip("this machine has no IPv6")
    with door:
        backend = connect(f"[::1]:{door.port}")
        store(backend, KEY, OLD)

        assert backend.fetch(GROUP, KEY) == OLD
        assert door.visitors == 1


def test_each_address_of_a_name_is_tried(connect: Connect, server: Memcached, monkeypatch: pytest.MonkeyPatch) -> None:
    """``localhost`` is ``::1`` first on many systems, and memcached listens on 127.0.0.1 there."""
    resolve = socket.getaddrinfo

    def both(host: str, *rest: Any, **options: Any) -> list[Any]:
        if host != "cache.example":
            return list(resolve(host, *rest, **options))
        return [found for address in ("127.0.0.9", "127.0.0.1") for found in resolve(address, *rest, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", both)
    backend = connect(f"cache.example:{server.port}")

    take(backend)


def test_a_name_that_nobody_knows_is_unreachable(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unknown(*_: object, **__: object) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)

    assert connect("nowhere.example:11211").fetch(GROUP, KEY) is UNREACHABLE
    assert "Name or service not known" in caplog.text


def test_a_url_of_another_scheme_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="memory"):
        MemcachedBackend({"url": "memory://"})


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls"), "authority")


@pytest.fixture
def tls_door(server: Memcached, certificates: Certificates) -> Iterator[Door]:
    """TLS in front of the server, with a certificate for its address and for a name."""
    files = certificates.issue("server", "127.0.0.1", "cache.example")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files)
    with Door(server.port, tls=context) as door:
        yield door


def test_every_operation_works_over_tls(connect: Connect, tls_door: Door, certificates: Certificates) -> None:
    backend = connect(tls_door, tls=True, tls_ca=str(certificates.ca))
    store(backend, KEY, b"x" * 500_000)
    found = backend.fetch_many(GROUP, [KEY, *keys(500)])

    assert found[0] == b"x" * 500_000
    assert backend.fill_many([(lease, lease.key.encode()) for lease in found if isinstance(lease, Lease)])
    assert backend.fetch_many(GROUP, keys(500)) == [key.encode() for key in keys(500)]
    backend.release(backend.put_tombstones(keys(500), [GROUP]))
    take(backend)
    assert tls_door.visitors == 1


def test_tls_is_set_by_a_url_too(tls_door: Door, certificates: Certificates) -> None:
    backend = MemcachedBackend(
        {"url": f"memcached://{tls_door.url}?tls=1&tls_ca={certificates.ca}&timeout=10&connect_timeout=10"}
    )
    take(backend)
    backend.close()


def test_a_certificate_for_another_name_is_accepted_under_that_name_only(
    connect: Connect, server: Memcached, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificates.issue("named", "cache.example"))
    with Door(server.port, tls=context) as door:
        named = connect(door, tls=True, tls_ca=str(certificates.ca), tls_hostname="cache.example")
        take(named)

        assert connect(door, tls=True, tls_ca=str(certificates.ca)).fetch(GROUP, KEY) is UNREACHABLE
        assert "127.0.0.1" in caplog.text
        assert "certificate verify failed" in caplog.text


def test_a_certificate_of_an_unknown_authority_is_refused(
    connect: Connect, tls_door: Door, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stranger = Certificates(tmp_path, "stranger")
    backend = connect(tls_door, tls=True, tls_ca=str(stranger.ca))

    assert backend.fetch(GROUP, KEY) is UNREACHABLE
    assert backend.put_tombstones([KEY]).failed_keys == {KEY}
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert f"memcached {tls_door.url}: " in caplog.text
    assert "certificate verify failed" in caplog.text


def test_the_systems_authorities_do_not_vouch_for_it(connect: Connect, tls_door: Door) -> None:
    assert connect(tls_door, tls=True).fetch(GROUP, KEY) is UNREACHABLE


def test_a_client_certificate_is_shown_if_the_server_asks_for_one(
    connect: Connect, server: Memcached, certificates: Certificates
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificates.issue("asking", "cache.example"))
    context.load_verify_locations(certificates.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    certificate, key = certificates.issue("client", "client.example")
    trust: dict[str, Any] = {"tls": True, "tls_ca": str(certificates.ca), "tls_hostname": "cache.example"}
    with Door(server.port, tls=context) as door:
        take(connect(door, **trust, tls_cert=str(certificate), tls_key=str(key)))

        assert connect(door, **trust).fetch(GROUP, KEY) is UNREACHABLE


def test_neither_side_talks_plainly_to_the_other(
    connect: Connect, server: Memcached, tls_door: Door, certificates: Certificates
) -> None:
    short: dict[str, Any] = {"timeout": 0.2, "connect_timeout": 0.2}

    assert connect(tls_door, **short).fetch(GROUP, KEY) is UNREACHABLE
    assert connect(server, tls=True, tls_ca=str(certificates.ca), **short).fetch(GROUP, KEY) is UNREACHABLE


@pytest.mark.parametrize("option", ["tls_ca", "tls_cert"])
def test_files_that_cannot_be_used_are_refused_at_once_by_name(option: str, tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.pem")
    with pytest.raises(ConfigurationError, match=r"missing\.pem"):
        MemcachedBackend({"servers": ["127.0.0.1:1"], "tls": True, option: missing})
    empty = tmp_path / "empty.pem"
    empty.touch()
    with pytest.raises(ConfigurationError, match=r"empty\.pem"):
        MemcachedBackend({"servers": ["127.0.0.1:1"], "tls": True, option: str(empty)})
