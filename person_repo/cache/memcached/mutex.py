"""dogpile's lock of one key for all processes: an item of memcached that only one of them can add.

The item has the token of its owner, and an end: a process that dies while it creates a value keeps nobody waiting for
longer. An owner that takes longer than that has lost the lock, and does not release the next owner's.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from typing import Final

from dogpile.cache.api import CacheMutex

from person_repo.cache.memcached import wire
from person_repo.cache.memcached.items import TOKEN_SIZE
from person_repo.cache.memcached.wire import Reply
from person_repo.exceptions import CacheUnavailableError

__all__ = ["Mutex"]

_SHORTEST_PAUSE: Final = 0.005
_LONGEST_PAUSE: Final = 0.1


class Mutex(CacheMutex):
    """A lock by the name of its item, which lives for ``ttl`` seconds; not reentrant. May be released by another thread
    than the one that acquired it.

    ``exchange`` sends one request to the item's server and returns the reply. Raises ``CacheUnavailableError`` while
    that server does not answer.
    """

    def __init__(self, name: str, ttl: int, exchange: Callable[[bytes], Reply]) -> None:
        self._name = name
        self._ttl = ttl
        self._exchange = exchange
        self._token = b""

    def acquire(self, wait: bool = True) -> bool:
        """dogpile: True once this is the owner; without ``wait``, False at once if there is another."""
        token = os.urandom(TOKEN_SIZE)
        longest = _SHORTEST_PAUSE
        while True:
            words, _ = self._exchange(wire.add(self._name, token, self._ttl))
            if words[0] == b"HD":
                self._token = token
                return True
            if words[0] != b"NS":
                said = b" ".join(words)[:80].decode(errors="replace")
                raise CacheUnavailableError(f"the lock {self._name!r} was not stored: {said}")
            if not wait:
                return False
            time.sleep(longest * random.uniform(0.5, 1))
            longest = min(2 * longest, _LONGEST_PAUSE)

    def release(self) -> None:
        """dogpile: gives the lock up if this still is its owner. The value has been created: a server that does not
        answer is no error, as the lock ends by itself.
        """
        token, self._token = self._token, b""
        try:
            words, owner = self._exchange(wire.look(self._name))
            if token and words[0] == b"VA" and owner == token:
                # By CAS id: another process may have got the lock since, if its time was over just now.
                self._exchange(wire.delete(self._name, wire.cas_of(words)))
        except CacheUnavailableError:
            pass  # The pool has counted and logged it.

    def locked(self) -> bool:
        """dogpile: True if there is an owner, in this process or another."""
        words, _ = self._exchange(wire.look(self._name))
        return words[0] == b"VA"
