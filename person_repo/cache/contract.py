"""The lease contract: what the read side and the write side need of a cache, and nothing of how it is reached.

An item is in one of four states (COHERENCE in the docs has the proof that they suffice):

========= ===================================================================================
absent    nobody knows
value     the committed state of an entity, or its known absence, as bytes
lease     one reader has the right to fill
tombstone a transaction that changed the entity is about to commit, or just did
========= ===================================================================================

Items belong to a *group*, one for each model; a tombstone on the group stands for one on every item of it. After its
release no item filled before is a value any more.

Nothing here raises because a server failed: reads are told ``UNREACHABLE``, writes which tombstones could not be
placed.
"""

from __future__ import annotations

import abc
import enum
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import randrange
from typing import Any, ClassVar, Literal

import msgspec
from dogpile.cache.api import NO_VALUE, BytesBackend, CantDeserializeException, NoValue

from person_repo.cache.bulkhead import Bulkhead
from person_repo.mapped.sealing import Seal
from person_repo.observability.counters import Counters
from person_repo.settings import CacheSettings

__all__ = [
    "BLOCKED",
    "BUSY",
    "UNREACHABLE",
    "Coherence",
    "Expiring",
    "Fetched",
    "Lease",
    "LeaseBackend",
    "Outcome",
    "Place",
    "Tombstones",
    "group_of",
    "marker_of",
    "well_formed",
]

Coherence = Literal["strict", "process", "best-effort"]
"""How far the promise reaches: every process that uses the cache, this process only, or as far as luck goes."""


class Outcome(enum.Enum):
    """Why a fetch gave neither a value nor a lease."""

    BUSY = "another reader has the lease"
    BLOCKED = "a writer's tombstone, or an item of a protocol version this one does not know"
    UNREACHABLE = "the server did not answer, or not in time"


BUSY: Literal[Outcome.BUSY] = Outcome.BUSY
BLOCKED: Literal[Outcome.BLOCKED] = Outcome.BLOCKED
UNREACHABLE: Literal[Outcome.UNREACHABLE] = Outcome.UNREACHABLE


class Lease:
    """The right of one reader to fill one item. Each backend has its own kind; callers only hand it back.

    ``renews``: a value stands there, which ends soon and which everybody else is given meanwhile.
    """

    __slots__ = ("key", "renews")

    def __init__(self, key: str, *, renews: bool = False) -> None:
        self.key = key
        self.renews = renews


class Expiring:
    """A value that ends soon, and the lease by which this one reader may renew it before it does.

    So a key that is read all the time is loaded by one reader, and nobody waits for it: the aim of probabilistic early
    recomputation (Vattani, Chierichetti and Lowenstein, VLDB 2015), where the cache itself chooses the one.
    """

    __slots__ = ("lease", "value")

    def __init__(self, value: bytes, lease: Lease) -> None:
        self.value = value
        self.lease = lease


Place = tuple[str, str]
"""A server, and the name of an item there. Each server has a marker of the same name for each group."""


def marker_of(group: str) -> str:
    """The name of what stands for a group as a whole."""
    # "!" is in no key of an entity (``keys``): those continue with a letter.
    return f"{group}:!"


def group_of(name: str) -> str:
    """The group that a key, or a group's marker, belongs to."""
    return name.rpartition(":")[0]


Fetched = bytes | Expiring | Lease | Outcome
"""What a fetch finds: the value, the value with the right to renew it, a lease to fill the item, or why none of it."""


@dataclass(frozen=True, slots=True)
class Tombstones:
    """Tombstones that one transaction has placed; handed back to ``release``.

    ``failed_keys`` and ``failed_groups`` name what could not be placed, ``missing`` where: readers that reach the
    server may be given the old state there. ``reached``: the servers on which all of theirs stand.
    """

    keys: frozenset[str]
    groups: frozenset[str]
    failed_keys: frozenset[str] = frozenset()
    failed_groups: frozenset[str] = frozenset()
    missing: frozenset[Place] = frozenset()
    reached: frozenset[str] = frozenset()
    placed: Any = None

    @property
    def complete(self) -> bool:
        """Whether every tombstone stands."""
        return not self.failed_keys and not self.failed_groups


class LeaseBackend(BytesBackend):
    """A dogpile backend that also speaks the lease contract.

    ``arguments`` (dogpile's name for a backend's options) may hold any field of ``CacheSettings``. The dogpile face
    (``get_serialized`` and so on) keeps its items apart from those of the contract.

    Raises ``ConfigurationError`` for an unknown option, a value out of range, or a secret without the
    package that seals.

    A subclass implements the abstract methods; ``person_repo.testing.contract.LeaseContract`` tests that it does.
    """

    coherence: ClassVar[Coherence] = "strict"

    fenced: ClassVar[bool] = False
    """Whether a reader may reach a server that a writer cannot, so that what could not be placed has to be told readers
    in another way (``fence``). Such a backend implements ``places_of`` and ``retire``.
    """

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self.settings: CacheSettings = CacheSettings().with_options(arguments)
        Seal.of(self.settings.secret)  # It raises here, and not at the first service, if the extra is not installed.
        self.counters = Counters()
        limit = self.settings.max_loads
        self.bulkhead: Bulkhead | None = Bulkhead(limit, self.settings.max_load_wait) if limit else None
        """What bounds the loads of this process for this cache, whichever repository makes them."""

    @abc.abstractmethod
    def fetch(self, group: str, key: str, *, reject: bytes | None = None) -> Fetched:
        """The value of an item; where it is absent, the lease to fill it.

        ``reject``: bytes that the caller cannot use (another schema, garbage). An item of exactly these is taken for
        absent.
        """

    @abc.abstractmethod
    def fetch_many(self, group: str, keys: Sequence[str]) -> list[Fetched]:
        """``fetch`` for distinct keys of one group, in their order; where all have values, in one exchange with each
        server.
        """

    @abc.abstractmethod
    def fill(self, lease: Lease, value: bytes) -> bool:
        """Stores a value for the ttl of the settings if the lease is still held; whether it did. The lease is spent."""

    def fill_many(self, fills: Sequence[tuple[Lease, bytes]]) -> list[bool]:
        """``fill`` for several leases of one thread, batched where the backend can."""
        return [self.fill(lease, value) for lease, value in fills]

    @abc.abstractmethod
    def abandon(self, leases: Iterable[Lease]) -> None:
        """Gives leases back unused, so that nobody waits for them."""

    @abc.abstractmethod
    def put_tombstones(self, keys: Collection[str], groups: Collection[str] = ()) -> Tombstones:
        """Makes every lease taken so far on these items lose, and keeps new ones from being given until ``release``."""

    @abc.abstractmethod
    def release(self, tombstones: Tombstones) -> frozenset[Place]:
        """Removes this transaction's tombstones once its outcome is known; what else stands there goes too, unless it
        is another transaction's tombstone. Whoever reads after this loads afresh, but at the places returned: there
        nobody answered.
        """

    def places_of(self, group: str, key: str) -> tuple[Place, Place]:
        """Where an item is, and where its group's marker is that it depends on."""
        raise NotImplementedError(f"{type(self).__name__} is not fenced")

    def retire(self, places: Collection[Place]) -> frozenset[Place]:
        """Makes what stands there go, leases on it included, other transactions' tombstones excepted; the places at
        which that is done.
        """
        raise NotImplementedError(f"{type(self).__name__} is not fenced")

    def value_ttl(self) -> int:
        """Seconds that the next value lives: the ttl, less a random part of it, so that what was filled together does
        not end together.
        """
        ttl = self.settings.ttl
        return ttl - randrange(int(ttl * self.settings.ttl_jitter) + 1)

    @property
    def renewal(self) -> int:
        """Seconds before its end from which on a value is renewed; 0 for never, as where its life is short."""
        ttl, share = self.settings.ttl, self.settings.refresh_ahead
        return max(int(ttl * share), 1) if share and ttl > 3 else 0

    def close(self) -> None:
        """Closes what this thread holds open. May be called again; the backend stays usable."""

    # dogpile's face

    @staticmethod
    def serializer(value: Any) -> bytes:
        """dogpile: a value as msgpack. Raises TypeError for what msgpack does not carry: give the region a serializer
        then.
        """
        return msgspec.msgpack.encode(value)

    @staticmethod
    def deserializer(value: bytes) -> Any:
        """dogpile: the value of msgpack bytes; anything else is a miss."""
        try:
            return msgspec.msgpack.decode(value)
        except Exception as exc:  # bytes from a cache are untrusted; whatever they provoke is a miss
            raise CantDeserializeException(f"{value[:40]!r} is no msgpack") from exc

    def get_serialized_multi(self, keys: Iterable[str]) -> list[Any]:
        """dogpile: the serialized values, ``NO_VALUE`` where there is none."""
        return [self.get_serialized(key) for key in keys]

    def set_serialized_multi(self, mapping: Mapping[str, bytes]) -> None:
        """dogpile: stores serialized values."""
        for key, value in mapping.items():
            self.set_serialized(key, value)

    def delete_multi(self, keys: Iterable[str]) -> None:
        """dogpile: deletes items."""
        for key in keys:
            self.delete(key)


def well_formed(item: bytes) -> bytes | Literal[NoValue.NO_VALUE]:
    """The item of dogpile's face if its metadata can be read: dogpile raises from ``region.get`` where it cannot."""
    try:
        metadata = json.loads(item.partition(b"|")[0])
        return item if {"ct", "v"} <= metadata.keys() and isinstance(metadata["ct"], float) else NO_VALUE
    except (ValueError, AttributeError, RecursionError):
        return NO_VALUE
