"""Writers of one row at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import sqlalchemy as sa
from sqlalchemy import orm
from support.entities import person
from support.models import HostBase, Parcel, parcel
from support.urls import MEMORY

from person_repo.exceptions import (
    EntityExistsError,
)
from person_repo.model import Base, Person
from person_repo.service import PersonService, Service


def together(count: int, work: Callable[[int], Any]) -> list[Any]:
    """The results of ``work`` in several threads that begin together."""
    barrier = threading.Barrier(count)

    def begin(number: int) -> Any:
        barrier.wait()
        return work(number)

    with ThreadPoolExecutor(count) as pool:
        return [done.result() for done in [pool.submit(begin, number) for number in range(count)]]


def test_no_update_is_lost_to_another(sessions: orm.sessionmaker[orm.Session]) -> None:
    with PersonService.over(sessions, MEMORY) as people:
        people.add(person(first_name=""))

        def add_letters(_: int) -> None:
            for _ in range(8):
                people.update("ada", first_name=Person.first_name + "x")
                people.get_one("ada")

        together(8, add_letters)
        assert people.get_one("ada").first_name == "x" * 64
        assert people.get_one("ada").version == 65


def test_no_number_is_lost_that_was_read_for_update(sessions: orm.sessionmaker[orm.Session]) -> None:
    with PersonService.over(sessions, MEMORY) as people:
        people.add(person(first_name="0"))

        def count(_: int) -> None:
            for _ in range(5):
                with sessions.begin() as session:
                    bound = people.bind(session)
                    number = int(bound.get_one("ada", for_update=True).first_name)
                    bound.update("ada", first_name=str(number + 1))

        together(8, count)
        assert people.get_one("ada").first_name == "40"


def test_rows_without_a_version_lose_nothing_either(engine: sa.Engine) -> None:
    HostBase.metadata.create_all(engine)
    with Service.over(Parcel, engine, MEMORY) as parcels:
        parcels.add(parcel(weight=0.0))

        def load(_: int) -> None:
            for _ in range(5):
                parcels.update(("Köln", 7), weight=Parcel.weight + 1)

        together(8, load)
        assert parcels.get_one(("Köln", 7)).weight == 40.0


def test_upserts_of_one_key_all_succeed(sessions: orm.sessionmaker[orm.Session]) -> None:
    with PersonService.over(sessions, MEMORY) as people:
        for id in ("first", "second", "third"):
            results = together(8, lambda number, id=id: people.upsert(person(id, first_name=str(number))))  # type: ignore[misc]
            assert sorted(result.first_name for result in results) == list("01234567")
            last = people.get_one(id)
            assert last.version == 8
            assert last.first_name in [result.first_name for result in results if result.version == 8]


def test_upserts_and_deletes_of_one_key_all_succeed(sessions: orm.sessionmaker[orm.Session]) -> None:
    with PersonService.over(sessions, MEMORY) as people:

        def work(number: int) -> None:
            for _ in range(5):
                if number % 2:
                    people.delete("ada")
                else:
                    people.upsert(person(first_name=str(number)))

        together(8, work)
        assert people.get("ada") in [None, *(person(first_name=str(number)) for number in range(8))]


def test_only_one_of_many_deletes_returns_true(engine: sa.Engine) -> None:
    Base.metadata.create_all(engine)
    HostBase.metadata.create_all(engine)
    with PersonService.over(engine, MEMORY) as people, Service.over(Parcel, engine, MEMORY) as parcels:
        for _ in range(3):
            people.add(person())
            parcels.add(parcel())
            assert sorted(together(8, lambda _: people.delete("ada"))) == [False] * 7 + [True]
            assert sorted(together(8, lambda _: parcels.delete(("Köln", 7)))) == [False] * 7 + [True]


def test_one_of_many_adds_of_one_key_succeeds(sessions: orm.sessionmaker[orm.Session]) -> None:
    with PersonService.over(sessions, MEMORY) as people:

        def add(number: int) -> str | None:
            try:
                people.add(person(first_name=str(number)))
            except EntityExistsError:
                return None
            return str(number)

        (winner,) = [number for number in together(8, add) if number is not None]
        assert people.get_one("ada").first_name == winner
