"""A host's listeners see every read, whatever they are registered on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from support.hosts import listeners_of_all_connections

from person_repo.database.engines import read_engine_of
from person_repo.database.loading import Loader
from person_repo.mapped.mapping import EntityMapping
from person_repo.model import Person

CLASSES: dict[str, tuple[Any, str]] = {
    "every engine": (sa.Engine, "before_cursor_execute"),
    "every connection": (sa.Connection, "before_cursor_execute"),
    "every dialect": (sa.Dialect, "do_execute"),
}
OBJECTS = {"one engine": "before_cursor_execute", "one dialect": "do_execute"}


@pytest.fixture(
    params=[
        pytest.param(each, marks=listeners_of_all_connections) if each == "every connection" else each
        for each in (*CLASSES, *OBJECTS)
    ]
)
def heard(
    request: pytest.FixtureRequest, reader: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[tuple[Any, ...]]]:
    """The statements of a listener, which is registered when the first read of the loader is over."""
    if request.param in CLASSES:
        target, name = CLASSES[request.param]
        monkeypatch.setattr(target, "_has_events", False)  # undone at the end: SQLAlchemy never takes the mark back
    else:
        target, name = reader if request.param == "one engine" else reader.dialect, OBJECTS[request.param]
    heard: list[tuple[Any, ...]] = []

    def listener(*arguments: Any) -> None:
        heard.append(arguments)

    Loader(PEOPLE, reader).one(("ada",))
    sa.event.listen(target, name, listener)
    yield heard
    sa.event.remove(target, name, listener)


PEOPLE = EntityMapping(Person)


@pytest.fixture
def reader(people_engine: sa.Engine) -> Iterator[sa.Engine]:
    """A read engine that no listener has marked."""
    reader = read_engine_of(people_engine)
    yield reader
    reader.dispose()


def test_a_listener_hears_each_read(reader: sa.Engine, heard: list[tuple[Any, ...]]) -> None:
    loader = Loader(PEOPLE, reader)

    loader.one(("ada",))
    assert len(heard) == 1

    loader.many([("ada",), ("grace",)])
    assert len(heard) == 2
