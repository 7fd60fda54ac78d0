"""Detached objects from rows, as if a session had loaded and expunged them.

Source text is written and executed for each mapped class: a statement for each step, and the attributes by name. Loops
and calls would take half as long again, on every hit.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from textwrap import indent
from typing import Any, Self

from sqlalchemy import orm
from sqlalchemy.orm import attributes

from person_repo.mapped.fields import Field, Row, mapped_columns
from person_repo.mapped.states import HydratedState, is_usual

__all__ = ["Hydrator"]


class Hydrator:
    """Makes objects of one class.

    ``make(row)`` returns one object. ``make_all(pairs)`` takes pairs of a label and a row and returns a dict of an
    object for each label; a label whose row is None is left out. Both call the class's ``load`` listeners, with None
    for the query context, as ``Session.merge`` does.

    Both are written at the first call: SQLAlchemy configures its mappers no earlier.
    """

    __slots__ = ("_key_indexes", "_mapper", "_row_indexes", "_width", "make", "make_all")

    def __init__(self, mapper: orm.Mapper[Any], fields: Sequence[Field], key_indexes: Sequence[int]) -> None:
        index_of = {field.column: index for index, field in enumerate(fields)}
        self._row_indexes = {prop.key: index_of[column] for prop, column in mapped_columns(mapper)}
        self._width = len(fields)
        self._key_indexes = key_indexes
        self._mapper = mapper
        self.make: Callable[[Row], Any] = lambda row: self._written().make(row)
        self.make_all: Callable[[Iterable[tuple[Any, Row | None]]], dict[Any, Any]] = lambda pairs: (
            self._written().make_all(pairs)
        )

    def _written(self) -> Self:
        """The hydrator itself, with ``make`` and ``make_all`` compiled."""
        manager = self._mapper.class_manager
        # SQL expressions that a session would load with the row. Without a mark they would read as None in silence.
        unloaded = frozenset(prop.key for prop in self._mapper.column_attrs).difference(self._row_indexes)
        steps = self._steps(is_usual(manager), bool(unloaded))
        names: dict[str, Any] = {
            "new": self._mapper.class_.__new__,
            "class_": manager.class_,
            "manager": manager,
            "attribute": manager.STATE_ATTR,
            "new_state": HydratedState.__new__,
            "state_class": HydratedState,
            "ref": weakref.ref,
            "state_of": attributes.instance_state,
            "identity_class": self._mapper.base_mapper.class_,
            "unloaded": unloaded,
            "dispatch": manager.dispatch,
        }
        exec(_MAKE.format(steps=indent(steps, " " * 4), steps_of_each=indent(steps, " " * 8)), names)
        self.make, self.make_all = names["make"], names["make_all"]
        return self

    def _steps(self, has_usual_state: bool, has_unloaded: bool) -> str:
        indexes = list(self._row_indexes.values())
        return _STEPS.format(
            begin=_BEGIN if has_usual_state else _BEGIN_ELSEWHERE,
            attributes=", ".join(f"values[{name!r}]" for name in self._row_indexes),
            row="row" if indexes == list(range(self._width)) else f"({_items(indexes)})",
            key=_items(self._key_indexes),
            mark="state.expired_attributes.update(unloaded)" if has_unloaded else "",
        )


# A listener of any class: composites, Mutable types and @reconstructor listen to ``load`` of their own class
# (``listeners``), a host may listen to all classes at once, by orm.Mapper (``parent_listeners``).
_IS_HEARD = "load.parent_listeners or load.listeners"

_STEPS = """
{begin}
({attributes},) = {row}
state.key = (identity_class, ({key}), None)
{mark}
if is_heard:
    load(state, None)
"""

_MAKE = f"""
def make(row):
    load = dispatch.load
    is_heard = {_IS_HEARD}
    {{steps}}
    return instance

def make_all(pairs):
    made = {{{{}}}}
    load = dispatch.load
    is_heard = {_IS_HEARD}
    for label, row in pairs:
        if row is None:
            continue
        {{steps_of_each}}
        made[label] = instance
    return made
"""

# As ClassManager.new_instance does, without its calls.
_BEGIN = """
instance = new(class_)
values = instance.__dict__
state = values[attribute] = new_state(state_class)
state.class_ = class_
state.manager = manager
state.obj = ref(instance, state.on_end)
"""

_BEGIN_ELSEWHERE = """
instance = manager.new_instance()
values = instance.__dict__
state = state_of(instance)
"""


def _items(indexes: Iterable[int]) -> str:
    return "".join(f"row[{index}], " for index in indexes)
