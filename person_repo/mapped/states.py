"""The state of a hydrated object: SQLAlchemy's own, made in fewer steps and with fewer objects.

SQLAlchemy keeps an ``InstanceState`` for each object. Most objects out of a cache are read and dropped, never expired,
changed or given to a session. So the containers for that are made when somebody asks for them, and the identity key,
which each has, is in a slot: in the dictionary of the state it would be the only entry, and half as long again to make
on Python 3.13. To everybody else it is an ``InstanceState``, and what is pickled or copied is one.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import orm
from sqlalchemy.orm import attributes

from person_repo.internals import forget

__all__ = ["HydratedState", "is_usual"]


class HydratedState(orm.InstanceState[Any]):
    """A state whose maker sets ``class_``, ``manager``, ``key`` and ``obj``, a weak reference that calls ``on_end``."""

    __slots__ = ("key",)

    on_end = forget

    def __getattr__(self, name: str) -> Any:
        """The value of a slot that is empty, made now."""
        if name == "committed_state":
            self.committed_state = {}
            return self.committed_state
        if name == "expired_attributes":
            self.expired_attributes = set()
            return self.expired_attributes
        if name == "key":  # as ``make_transient`` leaves it
            return None
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __getstate__(self) -> dict[str, Any]:
        kept = super().__getstate__()
        if self.key is not None:
            kept["key"] = self.key
        return kept

    def __reduce_ex__(self, _protocol: Any) -> tuple[Any, ...]:
        return object.__new__, (orm.InstanceState,), self.__getstate__()


def is_usual(manager: orm.ClassManager[Any]) -> bool:
    """True if the states of a class are as this module knows them.

    False if a host instruments its classes in its own way (by another manager, with the state kept elsewhere), and for
    a release of SQLAlchemy whose new states have more or other attributes.
    """
    instance = manager.new_instance()
    state = attributes.instance_state(instance)
    if type(manager) is not orm.ClassManager or type(state) is not orm.InstanceState:
        return False
    slots = {name: getattr(state, name, None) for name in orm.InstanceState.__slots__ if not name.startswith("__")}
    obj = slots.pop("obj", None)
    expected = {"class_": manager.class_, "manager": manager, "committed_state": {}, "expired_attributes": set()}
    return (
        instance.__dict__.get(manager.STATE_ATTR) is state
        and slots == expected
        and not vars(state)
        and callable(obj)
        and obj() is instance
    )
