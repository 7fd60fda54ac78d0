"""The package without a network: its connections, clocks and random bytes are those of the current world."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from promise.schedules.actors import Wire
from promise.schedules.world import World

from person_repo.cache.memcached import backend as memcached
from person_repo.cache.memcached import connection as connections
from person_repo.fence import view as fence
from person_repo.reading import cached
from person_repo.writing import covered

__all__ = ["without_a_network"]


@contextmanager
def without_a_network() -> Iterator[None]:
    """Has backends that are made and used in this block reach the servers of the current world, and use its clock."""

    def connected(server: str, *_: Any) -> Wire:
        return World.current.connect(server)

    clock: Any = SimpleNamespace(monotonic=lambda: 0.0, time=lambda: World.current.time())
    randoms: Any = SimpleNamespace(urandom=lambda size: World.current.random(size))
    places: Sequence[tuple[Any, str, Any]] = (
        (connections, "_connected", connected),
        (connections, "time", clock),
        (memcached, "time", clock),
        (memcached, "os", randoms),
        (cached, "fence_of", _fence_of),
        (covered, "fence_of", _fence_of),
        (fence, "_PAUSE", fence._PATIENCE),
    )
    before = [getattr(module, name) for module, name, _ in places]
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    for module, name, fake in places:
        setattr(module, name, fake)
    try:
        yield
    finally:
        for (module, name, _), real in zip(places, before, strict=True):
            setattr(module, name, real)
        logging.disable(disabled)


def _fence_of(_engine: Any, backend: Any, _reader: Any = None) -> Any:
    """The fence of a process, which belongs to its one backend."""
    return getattr(backend, "staged_fence", None)
