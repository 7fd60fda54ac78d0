"""``on_fork``: what a child makes anew, in which order, and what keeps nothing alive."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import weakref
from collections.abc import Iterator

import pytest
from support.forks import forking, in_child

from person_repo import forks
from person_repo.forks import on_fork


@pytest.fixture(autouse=True)
def _own_registry() -> Iterator[None]:
    """An empty registry for each test, so that the package's hooks are not called."""
    before = dict(forks._resets)
    forks._resets.clear()
    yield
    forks._resets.clear()
    forks._resets.update(before)


class Holder:
    """Knows in which process it was reset."""

    def __init__(self, calls: list[str] | None = None, name: str = "holder") -> None:
        self.process = os.getpid()
        self._calls = [] if calls is None else calls
        self._name = name

    def reset(self) -> None:
        self.process = os.getpid()
        self._calls.append(self._name)


class Broken(Holder):
    def reset(self) -> None:
        raise RuntimeError("broken")


@forking
def test_a_child_resets_what_its_parent_keeps() -> None:
    holder = Holder()
    on_fork(holder.reset)

    assert in_child(lambda: holder.process == os.getpid()) == "True"
    assert holder.process == os.getpid()


@forking
def test_a_function_is_called_too_and_all_in_the_order_in_which_they_came() -> None:
    calls: list[str] = []
    first, last = Holder(calls, "first"), Holder(calls, "last")
    on_fork(first.reset)
    on_fork(lambda: calls.append("function"))
    on_fork(last.reset)

    assert in_child(lambda: calls) == "['first', 'function', 'last']"
    assert calls == []


@forking
def test_a_child_of_a_child_resets_again() -> None:
    holder = Holder()
    on_fork(holder.reset)

    assert in_child(lambda: in_child(lambda: holder.process == os.getpid())) == "True"


@forking
def test_an_object_that_is_gone_was_not_kept_and_is_not_called() -> None:
    calls: list[str] = []
    holder = Holder(calls)
    on_fork(holder.reset)
    reference = weakref.ref(holder)

    del holder
    gc.collect()

    assert reference() is None
    assert forks._resets == {}
    assert in_child(lambda: calls) == "[]"


def test_a_process_ends_without_a_word_whatever_is_registered() -> None:
    code = (
        "from person_repo import make_region\n"
        "from person_repo.cache.memcached.backend import MemcachedBackend\n"
        "region, backend = make_region('memory://'), MemcachedBackend({'servers': ['127.0.0.1:1']})\n"
        "backend.itself = backend\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")


@forking
def test_a_reset_that_raises_is_reported_and_keeps_no_other_from_being_called() -> None:
    broken, holder = Broken(), Holder()
    on_fork(broken.reset)
    on_fork(holder.reset)
    reported: list[BaseException | None] = []
    before, sys.unraisablehook = sys.unraisablehook, lambda unraisable: reported.append(unraisable.exc_value)
    try:
        said = in_child(lambda: (holder.process == os.getpid(), reported))
    finally:
        sys.unraisablehook = before

    assert said.startswith("(True, [ExceptionGroup(")
    assert "RuntimeError('broken')" in said
