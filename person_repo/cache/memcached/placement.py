"""Placement: the one server that holds a key, by rendezvous hashing over the configured list. Pure.

A key never moves to another server because its own is down: an item left on the other would be old when the key moves
there again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Final

__all__ = ["placement"]

# To place a key takes some microseconds with four servers, so frequent keys are kept.
_KEPT: Final = 16 * 1024


def placement(servers: Sequence[str]) -> Callable[[str], str]:
    """A function from a key to its server; the order of the servers does not matter.

    Rendezvous hashing (Thaler and Ravishankar, 1998), mixed by splitmix64's finaliser: a server more or less moves the
    keys of that server only.
    """
    seeds = [(_digest(name.encode()), name) for name in servers]

    @functools.lru_cache(maxsize=_KEPT)
    def server_of(key: str) -> str:
        digest = _digest(key.encode(errors="surrogatepass"))
        return max([(_mix(digest ^ seed), name) for seed, name in seeds])[1]

    return server_of


def _digest(text: bytes) -> int:
    return int.from_bytes(blake2b(text, digest_size=8).digest())


def _mix(value: int) -> int:
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return value ^ (value >> 31)
