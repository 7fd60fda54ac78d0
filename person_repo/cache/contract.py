"""The lease contract: all that the read side and the write side need of a cache, and nothing of how it is reached.

An item is in one of four states (COHERENCE in the docs has the proof that they suffice):

========= ===================================================================================
absent    nobody knows
value     the committed state of an entity, or its known absence, as bytes
lease     one reader has the right to fill
tombstone a transaction that changed the entity is about to commit, or just did
========= ===================================================================================

Items belong to a *group*, one for each model; a tombstone on the group stands for one on every item of it. After its
release no item filled before is a value any more.

Nothing here raises because a server failed: a read returns ``UNREACHABLE``, a write names the tombstones that could not
be placed.
"""

from __future__ import annotations

import abc
import enum
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import randrange
from typing import Any, ClassVar, Literal

from person_repo.cache.bulkhead import Bulkhead
from person_repo.cache.dogpile import DogpileFace
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
]

Coherence = Literal["strict", "process", "best-effort"]
"""How far the promise reaches: every process that uses the cache, this process only, or as far as luck goes."""


class Outcome(enum.Enum):
    """The reason why a fetch gave neither a value nor a lease."""

    BUSY = "another reader has the lease"
    BLOCKED = "a writer's tombstone, or an item of a protocol version this one does not know"
    UNREACHABLE = "the server did not answer, or not in time"


BUSY: Literal[Outcome.BUSY] = Outcome.BUSY
BLOCKED: Literal[Outcome.BLOCKED] = Outcome.BLOCKED
UNREACHABLE: Literal[Outcome.UNREACHABLE] = Outcome.UNREACHABLE


class Lease:
    """The right of one reader to fill one item. Each backend has its own kind; callers only hand it back.

    ``renews``: True if a value stands there that ends soon, and that all other readers get meanwhile.
    """

    __slots__ = ("key", "renews")

    def __init__(self, key: str, *, renews: bool = False) -> None:
        self.key = key
        self.renews = renews


class Expiring:
    """A value that ends soon, and the lease by which this one reader may renew it before it does.

    So a key that is read all the time is loaded by one reader, and nobody waits for it: the aim of probabilistic early
    recomputation (Vattani, Chierichetti and Lowenstein, VLDB 2015), but the cache itself chooses the one.
    """

    __slots__ = ("lease", "value")

    def __init__(self, value: bytes, lease: Lease) -> None:
        self.value = value
        self.lease = lease


Place = tuple[str, str]
"""A server, and the name of an item there. Each server has a marker of the same name for each group."""


def marker_of(group: str) -> str:
    """The name of the item that stands for a group as a whole."""
    # "!" is in no key of an entity (``keys``): those continue with a letter.
    return f"{group}:!"


def group_of(name: str) -> str:
    """The group that a key, or a group's marker, belongs to."""
    return name.rpartition(":")[0]


Fetched = bytes | Expiring | Lease | Outcome
"""The answer to a fetch: a value, a value with the right to renew it, a lease to fill the item, or why none of them."""


@dataclass(frozen=True, slots=True)
class Tombstones:
    """Tombstones that one transaction has placed; handed back to ``release``.

    ``failed_keys`` and ``failed_groups`` name those that could not be placed, ``missing`` the places: readers that
    reach the server may be given the old state there. ``reached``: the servers on which all of theirs stand.
    ``placed``: the backend's own.
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
        """True if every tombstone stands."""
        return not self.failed_keys and not self.failed_groups


class LeaseBackend(DogpileFace):
    """A dogpile backend that also speaks the lease contract.

    ``arguments`` (dogpile's name for a backend's options) may hold any field of ``CacheSettings``. The dogpile face
    (``get_serialized`` and so on) keeps its items apart from those of the contract.

    Raises ``ConfigurationError`` for an unknown option, a value out of range, or a secret without the package that
    seals.

    A subclass implements the abstract methods; ``person_repo.testing.LeaseContract`` tests that it does.
    """

    coherence: ClassVar[Coherence] = "strict"

    fenced: ClassVar[bool] = False
    """True if a reader may reach a server that a writer cannot, so that readers have to learn of tombstones that could
    not be placed in another way (``fence``). Such a backend implements ``places_of`` and ``retire``.
    """

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self.settings: CacheSettings = CacheSettings().with_options(arguments)
        Seal.of(self.settings.secret)  # It raises here, and not at the first service, if the extra is not installed.
        self.counters = Counters()
        self._ttls: dict[str, int] = {}
        limit = self.settings.max_loads
        self.bulkhead: Bulkhead | None = Bulkhead(limit, self.settings.max_load_wait) if limit else None
        """The bound on this process's loads for this cache, whichever repository makes them; None for no bound."""

    @abc.abstractmethod
    def fetch(self, group: str, key: str, *, reject: bytes | None = None) -> Fetched:
        """The value of an item; the lease to fill it if it is absent.

        ``reject``: bytes that the caller cannot use (another schema, garbage). An item of exactly these bytes counts as
        absent.
        """

    @abc.abstractmethod
    def fetch_many(self, group: str, keys: Sequence[str]) -> list[Fetched]:
        """``fetch`` for distinct keys of one group, in their order; in one exchange with each server if all have
        values.
        """

    @abc.abstractmethod
    def fill(self, lease: Lease, value: bytes) -> bool:
        """Stores a value for its ``value_ttl`` if the lease is still held; True if it did. The lease is spent."""

    def fill_many(self, fills: Sequence[tuple[Lease, bytes]]) -> list[bool]:
        """``fill`` for several leases of one thread, batched if the backend can."""
        return [self.fill(lease, value) for lease, value in fills]

    @abc.abstractmethod
    def abandon(self, leases: Iterable[Lease]) -> None:
        """Gives leases back unused, so that nobody waits for them."""

    @abc.abstractmethod
    def put_tombstones(self, keys: Collection[str], groups: Collection[str] = ()) -> Tombstones:
        """Makes every lease taken so far on these items lose, and keeps new ones from being given until ``release``."""

    @abc.abstractmethod
    def release(self, tombstones: Tombstones) -> frozenset[Place]:
        """Removes this transaction's tombstones once its outcome is known, and anything else at these places that is no
        tombstone of another transaction. Later reads load afresh, except at the places returned, where no server
        answered.
        """

    def places_of(self, group: str, key: str) -> tuple[Place, Place]:
        """The places of an item and of the group's marker that it depends on."""
        raise NotImplementedError(f"{type(self).__name__} is not fenced")

    def retire(self, places: Collection[Place]) -> frozenset[Place]:
        """Removes whatever stands at these places, leases included, but for other transactions' tombstones; the places
        at which that is done.
        """
        raise NotImplementedError(f"{type(self).__name__} is not fenced")

    def unreachable(self) -> frozenset[str]:
        """The servers that do not answer now, each of which is asked once; none for a cache without servers."""
        return frozenset()

    def require_ttl(self, name: str, ttl: int) -> None:
        """Raises ``ConfigurationError`` if the class of this name cannot have a ttl of its own here."""

    def set_ttl(self, group: str, ttl: int) -> None:
        """From now on values of this group live for ``ttl`` seconds, in the place of the settings' ``ttl``."""
        self._ttls[group] = ttl

    def value_ttl(self, key: str) -> int:
        """Seconds that the next value of this item lives: the ttl, less a random part of it, so that values which were
        filled together do not end together.
        """
        # Without a call for most caches, here and below: each fill asks for both.
        ttl = self._ttl_of(key) if self._ttls else self.settings.ttl
        return ttl - randrange(int(ttl * self.settings.ttl_jitter) + 1)

    def renewal(self, key: str) -> int:
        """Seconds before its end from which a value of this item is renewed; 0 for never, as if its life is short."""
        ttl, share = self._ttl_of(key) if self._ttls else self.settings.ttl, self.settings.refresh_ahead
        return max(int(ttl * share), 1) if share and ttl > 3 else 0

    def _ttl_of(self, key: str) -> int:
        return self._ttls.get(group_of(key), self.settings.ttl)

    def close(self) -> None:
        """Closes what this thread holds open. May be called again; the backend stays usable."""
