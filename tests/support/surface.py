"""The public surface as text: every public module, name, signature, method and attribute, one a line.

``tests/project/public_surface.txt`` is this listing, and a test compares the two. After a change on purpose::

    python tests/support/surface.py > tests/project/public_surface.txt
"""

from __future__ import annotations

import ast
import enum
import importlib
import inspect
import textwrap
from collections.abc import Iterator
from inspect import getattr_static
from types import ModuleType
from typing import Any, Protocol

MODULES = (
    "person_repo",
    "person_repo.backends",
    "person_repo.exceptions",
    "person_repo.migrations",
    "person_repo.settings",
    "person_repo.testing",
)

BETWEEN_ROOMS = {
    "BoundRepository": {"complete", "lock", "mapping"},
    "CachedRepository": {"backend", "counters", "fence", "keys", "mapping"},
    "LeaseBackend": {"bulkhead"},
    "SQLAlchemyRepository": {"bind_of_sessions", "loader", "mapping", "on_hosts_connection"},
}
"""Names without an underscore that other rooms of the package use and hosts must not: they may change at any time."""

OF_PYTEST = ("test_", "setup_method", "teardown_method")
SPECIAL = ("__enter__", "__exit__", "__aenter__", "__aexit__", "__add__", "__sub__", "__iter__", "__len__", "__call__")


def listing() -> str:
    """All public modules."""
    return "\n".join(line for name in MODULES for line in lines_of_module(importlib.import_module(name)))


def lines_of_module(module: ModuleType) -> Iterator[str]:
    yield f"module {module.__name__}"
    for name in sorted(module.__all__):
        found = getattr(module, name)
        if module.__name__ != "person_repo.exceptions" and getattr(found, "__module__", "") == "person_repo.exceptions":
            yield f"  {name}: see person_repo.exceptions"
        elif inspect.isclass(found):
            yield from ("  " + line for line in lines_of_class(name, found))
        elif inspect.isroutine(found):
            yield f"  {name}{signature(found)}"
        else:
            yield f"  {name}"
    yield ""


def lines_of_class(name: str, of: type) -> Iterator[str]:
    """A class: its bases and constructor, then what hosts can use of it, except what a public base has already."""
    bases = ", ".join(base.__name__ for base in of.__bases__ if base is not object)
    yield f"class {name}" + (f"({bases})" if bases else "")
    if issubclass(of, enum.Enum):
        yield from (f"  {member}" for member in of.__members__)
        return
    own = [base for base in of.__mro__ if base is of or (is_ours(base) and not is_public(base))]
    if Protocol not in of.__bases__ and any({"__init__", "__new__"} & vars(base).keys() for base in own):
        yield f"  {name}{signature(of)}"
    members = {name: value for base in reversed(own) for name, value in vars(base).items()}
    hidden = BETWEEN_ROOMS.get(name, set())
    shown = {name for name in members if name in SPECIAL or not name.startswith(("_", *OF_PYTEST))}
    attributes = {attribute for base in own for attribute in attributes_of(base)}
    for member in sorted((shown | attributes) - hidden):
        inherited = [getattr_static(base, member, None) for base in of.__mro__[1:] if is_public(base)]
        if shape(members.get(member)) not in [shape(found) for found in inherited if found is not None]:
            yield f"  .{member}{shape(members.get(member))}"


def shape(member: object) -> str:
    """What follows a member's name: parameters, or a word."""
    if isinstance(member, property):
        return ": property"
    if isinstance(member, (classmethod, staticmethod)):
        return f"{signature(member.__func__)}: {type(member).__name__}"
    return signature(member) if inspect.isroutine(member) else ""


def signature(of: Any) -> str:
    """Parameters and result as they are written in the source."""
    found = inspect.signature(of)
    parameters = [each.replace(annotation=AsWritten(each.annotation)) for each in found.parameters.values()]
    return str(found.replace(parameters=parameters, return_annotation=AsWritten(found.return_annotation)))


class AsWritten(str):
    """An annotation without the quotes that ``inspect`` puts around a string."""

    __slots__ = ()

    def __new__(cls, annotation: Any) -> Any:
        return annotation if annotation is inspect.Signature.empty else super().__new__(cls, annotation)

    def __repr__(self) -> str:
        return str(self)


def attributes_of(of: type) -> set[str]:
    """The public attributes that methods of a class assign to ``self``, and its declared fields."""
    if not is_ours(of):
        return set()
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(of))).body
    assert isinstance(tree, ast.ClassDef)
    names = {
        node.target.id for node in tree.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    names |= {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }
    return {name for name in names if not name.startswith("_")}


def is_ours(of: type) -> bool:
    return of.__module__.split(".")[0] == "person_repo"


def is_public(of: type) -> bool:
    return any(getattr(importlib.import_module(name), of.__name__, None) is of for name in MODULES)


if __name__ == "__main__":
    print(listing(), end="")
