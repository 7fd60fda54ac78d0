"""For tests: a suite that every cache backend passes, and a proxy that fails as networks and servers do."""

from __future__ import annotations

from person_repo.testing.contract import LeaseContract
from person_repo.testing.items import (
    GROUP,
    KEY,
    KEY_OF_OTHER_GROUP,
    NEW,
    OLD,
    OTHER_GROUP,
    OTHER_KEY,
    store,
    take,
)
from person_repo.testing.proxy import Proxy

__all__ = [
    "GROUP",
    "KEY",
    "KEY_OF_OTHER_GROUP",
    "NEW",
    "OLD",
    "OTHER_GROUP",
    "OTHER_KEY",
    "LeaseContract",
    "Proxy",
    "store",
    "take",
]
