"""SQLAlchemy's state of a caller's object: asked for, and put back after a rollback."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import TypeVar, cast

import sqlalchemy as sa
from sqlalchemy import orm

from person_repo.exceptions import InvalidEntityError
from person_repo.mapped.mapping import EntityMapping
from person_repo.messages import shown

__all__ = ["restored", "state_of"]

E = TypeVar("E")


def state_of(mapping: EntityMapping[E], entity: E) -> orm.InstanceState[E]:
    """The state of an object. Raises ``InvalidEntityError`` for an object of another class."""
    if not isinstance(entity, mapping.entity):
        raise InvalidEntityError(f"{shown(entity)} is {type(entity).__name__}, not {mapping.name}")
    return cast("orm.InstanceState[E]", sa.inspect(entity))


@contextlib.contextmanager
def restored(mapping: EntityMapping[E], entities: Iterable[E], *, always: bool = False) -> Iterator[None]:
    """Gives new objects, and new ones that they refer to, their values back if the block raises.

    A key that the database made up for a row that was rolled back may be somebody else's by the next attempt.
    ``always``: also if the block does not raise.
    """
    states = {state_of(mapping, entity): None for entity in entities}
    for state in list(states):
        if state.mapper.relationships:
            states.update((related, None) for _, _, related, _ in state.mapper.cascade_iterator("save-update", state))
    # The unit of work reads from the committed state of an object which of its relatives are new to it.
    before = {state: (dict(state.dict), dict(state.committed_state)) for state in states if state.transient}
    try:
        yield
    except BaseException:
        always = True
        raise
    finally:
        if always:
            for state, (values, committed) in before.items():
                state.dict.clear()
                state.dict.update(values)
                state.committed_state.clear()
                state.committed_state.update(committed)
                state.expired_attributes.clear()
