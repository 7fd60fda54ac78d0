"""Items as they lie on a server: states that are recognised, versions that are not."""

from __future__ import annotations

import pytest
from support.exchanges import MARKER, Connect, Raw, keys
from support.servers import Memcached

from person_repo.cache.contract import BLOCKED, BUSY
from person_repo.cache.memcached.items import BASE
from person_repo.cache.memcached.operations import FillRight
from person_repo.testing.contract import FOREIGN, GROUP, KEY, OLD, take, take_after_restart

UNKNOWN = (2 << 24) + 5


def test_an_item_of_an_unknown_version_is_bypassed_and_left(connect: Connect, server: Memcached, raw: Raw) -> None:
    backend = connect(server)
    raw.set(KEY, UNKNOWN, b"later")

    assert backend.fetch(GROUP, KEY) is BLOCKED
    assert backend.fetch_many(GROUP, [KEY]) == [BLOCKED]
    for reject in (b"later", b"", FOREIGN):
        assert backend.fetch(GROUP, KEY, reject=reject) is BLOCKED
    assert raw.get(KEY) == (UNKNOWN, b"later")


@pytest.mark.parametrize("body", [b"later", b"x" * 16, b"x" * 24, b"x" * 100])
@pytest.mark.parametrize("flags", [0, 1, 5, BASE - 1, BASE + 3, BASE + 1000, UNKNOWN, 2**32 - 1])
def test_no_item_of_others_is_taken_for_a_value_or_a_lease(
    connect: Connect, server: Memcached, raw: Raw, flags: int, body: bytes
) -> None:
    backend = connect(server)
    raw.set(KEY, flags, body)

    assert backend.fetch(GROUP, KEY) is BLOCKED
    assert raw.get(KEY) == (flags, body)


@pytest.mark.parametrize("flags", [UNKNOWN, 3 << 24, 2**32 - 1])
def test_a_commit_on_an_item_of_an_unknown_version_deletes_it(
    connect: Connect, server: Memcached, raw: Raw, flags: int
) -> None:
    backend = connect(server)
    raw.set(KEY, flags, b"later")

    tombstones = backend.put_tombstones([KEY])
    assert tombstones.complete
    found = raw.get(KEY)
    assert found is not None
    assert found[1].startswith(b"later"), "it was overwritten, not appended to"
    assert backend.fetch(GROUP, KEY) is BLOCKED
    backend.release(tombstones)

    assert raw.get(KEY) is None


def test_a_marker_of_an_unknown_version_blocks_its_group_and_is_left(
    connect: Connect, server: Memcached, raw: Raw
) -> None:
    backend = connect(server)
    raw.set(MARKER, UNKNOWN, b"later")

    assert backend.fetch(GROUP, KEY) is BLOCKED
    assert backend.fetch_many(GROUP, keys(3)) == [BLOCKED] * 3
    assert raw.get(MARKER) == (UNKNOWN, b"later")
    assert raw.get(KEY) is None, "a lease that nobody has would keep others waiting"


@pytest.mark.parametrize(("flags", "body"), [(BASE + 8, b"short"), (BASE + 9, b"9 letters"), (0, b"12345678")])
def test_a_marker_that_is_no_epoch_blocks_its_group(
    connect: Connect, server: Memcached, raw: Raw, flags: int, body: bytes
) -> None:
    raw.set(MARKER, flags, body)

    assert connect(server).fetch(GROUP, KEY) is BLOCKED


def test_values_look_on_the_wire_as_other_releases_expect_them(connect: Connect, server: Memcached, raw: Raw) -> None:
    backend = connect(server, clock=lambda: 0x01020304)
    raw.set(MARKER, BASE + 8, b"an epoch")
    lease = take(backend)
    assert raw.get(KEY) == (0, b"")

    assert backend.fill(lease, b"value")
    assert raw.get(KEY) == (0x0100_000D, b"an epochvalue")

    tombstones = backend.put_tombstones([KEY], [GROUP])
    for name, below in ((KEY, b"an epochvalue"), (MARKER, b"an epoch")):
        found = raw.get(name)
        assert found is not None
        flags, body = found
        assert flags == BASE + len(below)
        assert body[: len(below) + 4] == below + b"\x01\x02\x03\x04"
        assert len(body) == len(below) + 16
    backend.release(tombstones)


def test_a_restart_gives_the_same_cas_ids_again(connect: Connect, server: Memcached) -> None:
    """Without that, the tests of the contract that restart a server twice would show nothing."""
    reader, another = connect(server), connect(server)
    server.restart()
    lease = take(reader)
    server.restart()
    successor = take_after_restart(another)
    assert isinstance(lease, FillRight)
    assert isinstance(successor, FillRight)
    assert lease.cas == successor.cas

    assert reader.fill(lease, OLD) is False
    assert another.fetch(GROUP, KEY) is BUSY
    server.restart()
    lost = reader.put_tombstones([KEY])
    server.restart()
    standing = another.put_tombstones([KEY])
    assert lost.placed.tombstones[server.url, KEY].cas == standing.placed.tombstones[server.url, KEY].cas

    reader.release(lost)
    assert another.fetch(GROUP, KEY) is BLOCKED
    another.release(standing)
