"""The log of a schedule in words: answers of the backends and replies of the servers."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING

from promise.schedules.wire import Command

from person_repo.cache.memcached.items import BASE

if TYPE_CHECKING:
    from promise.schedules.world import World

__all__ = ["meaning", "shown"]


def shown(world: World, answer: Hashable) -> str:
    if answer is None:
        return ""
    if isinstance(answer, bytes):
        return f"the value {world.state_in(answer)}"
    if isinstance(answer, tuple):
        if len(answer) == 3 and isinstance(answer[0], int):
            return "a lease" if answer[2] != "tombstone" else ""
        if answer and isinstance(answer[0], tuple) and len(answer[0]) == 2:
            return ", ".join(f"{id} = {state}" for id, state in answer)
        return ", ".join(shown(world, part) for part in answer)
    return str(answer)


def meaning(world: World, command: Command, reply: bytes) -> str:
    """A reply's line, and its meaning if that is not plain."""
    line, _, rest = reply.partition(b"\r\n")
    words = line.split()
    text = line.decode()
    if words and words[0] == b"VALUE":
        words = [b"VA", words[3], b"f" + words[2]]
    flags = next((int(word[1:]) for word in words[1:] if word[:1] == b"f"), None)
    if command.verb not in (b"mg", b"get") or flags is None:
        return text
    size = int(words[1]) if words[0] == b"VA" else next(int(word[1:]) for word in words if word[:1] == b"s")
    if size == 0 and flags == 0:
        return f"{text} (a lease, {'taken' if b'W' in words else 'of another'})"
    if flags - size != BASE:
        return f"{text} (a tombstone)"
    return f"{text} ({'an epoch' if command.key.endswith(b'!') else world.state_in(rest)})"
