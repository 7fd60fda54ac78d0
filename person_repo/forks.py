"""One hook for forks: an object that holds something of one process registers how a child makes its own.

A forked child inherits sockets, on which it would read its parent's replies, and locks that a thread of the parent may
hold and nobody in the child gives back. So the child makes both anew before any other code of it runs.
"""

from __future__ import annotations

import os
import types
import weakref
from collections.abc import Callable

__all__ = ["on_fork"]

Reset = Callable[[], object]

_resets: dict[int, Reset] = {}
"""In the order in which they were registered. Adding and removing are one step each of the interpreter, and need no
lock, which would itself have to be made anew.
"""


def on_fork(reset: Reset) -> None:
    """Calls ``reset`` in each child that this process forks, from now on, before anything else runs there.

    ``reset`` takes no argument. It is a method, which is called for as long as its object lives and does not keep it
    alive, or a function of a module. It may not take a lock, nor close a socket in a way that the peer notices: the
    parent goes on with both. One that raises keeps no other from being called.
    """
    if not isinstance(reset, types.MethodType):
        _resets[id(reset)] = reset
        return
    # Not a WeakMethod: one that outlives its object at the end of the interpreter complains (CPython 3.11).
    owner, function = weakref.ref(reset.__self__, _forget), reset.__func__

    def reset_owner() -> None:
        if (alive := owner()) is not None:
            function(alive)

    _resets[id(owner)] = reset_owner


def _forget(owner: weakref.ref[object], resets: dict[int, Reset] = _resets) -> None:
    resets.pop(id(owner), None)


def _after_fork_in_child() -> None:
    failures: list[Exception] = []
    for reset in list(_resets.values()):
        try:
            reset()
        except Exception as exc:
            failures.append(exc)
    if failures:
        raise ExceptionGroup(
            "things of the parent are still in use", failures
        )  # The interpreter prints it and goes on.


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
