"""Declarations that end with a test: what other tests of the same process cover stays as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from person_repo import declare
from person_repo.writing import declared

__all__ = ["undone"]


@contextmanager
def undone() -> Iterator[None]:
    """What is declared or covered in this block is neither after it."""
    before = {entity for entity, _ in declare.declared()}
    try:
        yield
    finally:
        for entity in {entity for entity, _ in declare.declared()} - before:
            declare._declared.pop(entity, None)
        declared._caches.clear()
        declared._unresolved.clear()
