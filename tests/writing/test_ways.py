"""Each way in which a host writes: a commit drops exactly what it changed, a rollback nothing."""

from __future__ import annotations

import contextlib
import random

import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from support.hosts import Note, begin_again, is_mariadb, rename
from support.proofs import is_sample
from support.ways import (
    ADDITIONS,
    CHANGES,
    MOVES,
    REMOVALS,
    Way,
    Witness,
    rows,
    ways_for,
)

from person_repo.mapped.identities import IdentityMapping
from person_repo.model import Person
from person_repo.service import Service

WAYS = {
    **{("change", way.name): (way, ("ada", "Grace")) for way in CHANGES},
    **{("addition", way.name): (way, ("edsger", "Frances")) for way in ADDITIONS},
    **{("removal", way.name): (way, ("ada", "grace ")) for way in REMOVALS},
    **{("move", way.name): (way, ("ada", "donald")) for way in MOVES},
}

SAMPLE = (
    "unit_of_work", "merge", "orm_update_synchronized_by_auto", "orm_update_by_another_column", "core_update",
    "core_update_by_another_column", "text_update", "driver_update", "text_update_with_a_query_in_front",
    "unit_of_work_add", "core_insert_from_select", "core_delete_by_or", "unit_of_work_move", "prepared_statement",
)  # fmt: skip
"""The names of ways, some of each kind."""


def known_ways(people: Witness, *names: str) -> list[tuple[str, Way, tuple[str, ...]]]:
    """The ways of these names, or all, that the database knows: a name for the test, the way, the ids to write."""
    known = ways_for([way for way, _ in WAYS.values()], people.engine)
    return [
        (" ".join(key), way, ids)
        for key, (way, ids) in WAYS.items()
        if way in known and (not names or way.name in names)
    ]  # fmt: skip


def drawn_ways(
    people: Witness, request: pytest.FixtureRequest, draw: random.Random
) -> list[tuple[str, Way, tuple[str, ...]]]:
    """All ways; in ``make test`` a third of them where the database is neither SQLite nor MySQL."""
    ways = known_ways(people)
    is_whole = people.engine.name == "sqlite" or (people.engine.name == "mysql" and not is_mariadb(people.engine))
    return ways if is_whole or not is_sample(request.config) else draw.sample(ways, len(ways) // 3)


@pytest.mark.every_database
@pytest.mark.proof(name="ways")
def test_a_commit_drops_exactly_what_it_changed_whatever_the_way(
    people: Witness, request: pytest.FixtureRequest, draw: random.Random, subtests: pytest.Subtests
) -> None:
    for name, way, ids in drawn_ways(people, request, draw):
        begin_again(people)
        looks = people.looks
        expected = {True: people.invalidates(*ids), False: people.drops(), None: people.right()}[
            way.is_exact_on(people.engine)
        ]
        with subtests.test(name), expected, people.sessions() as session, session.begin():
            way.write(session, ids, "changed")
        assert people.looks > looks + 4


@pytest.mark.proof(name="ways", sample=1)
def test_a_commit_drops_exactly_what_it_changed_after_others_of_the_same_form(
    people: Witness, subtests: pytest.Subtests
) -> None:
    """From its second execution on a statement is known by its form, which holds nothing of the first one's rows."""
    for name, way, (first, second) in known_ways(people):
        moves = way in MOVES
        others, own = (("barbara", "nobody"), (first, second)) if moves else ((second,), (first,))
        for _ in range(2):
            begin_again(people)
            with people.blind(), people.sessions() as session:
                way.write(session, others, "never")
                session.rollback()
        begin_again(people)
        expected = {True: people.invalidates(*own), False: people.drops(), None: people.right()}[
            way.is_exact_on(people.engine)
        ]
        with subtests.test(name), expected, people.sessions() as session, session.begin():
            way.write(session, own, "changed")


def test_a_form_that_changed_nothing_is_examined_again_when_more_is_covered(people: Witness, cache_url: str) -> None:
    def write(text: str) -> None:
        with people.sessions() as session, session.begin():
            session.execute(sa.update(Note).where(Note.id == 1), {"text": text, "about": None})
            session.get_one(Note, 1).text = text + "!"

    with people.sessions() as session, session.begin():
        session.add(Note(id=1, text="first"))
    for text in ("a", "b", "c"):
        write(text)
    notes = Service.over(Note, people.sessions, cache_url)
    assert notes.get_one(1).text == "c!"
    for text in ("d", "e", "f"):
        write(text)
        assert notes.get_one(1).text == text + "!"


def test_a_transaction_that_drops_a_model_examines_no_more_of_its_keys(
    people: Witness, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[object] = []
    find = IdentityMapping.stored_identity
    monkeypatch.setattr(
        IdentityMapping,
        "stored_identity",
        lambda self, values, *rest: looked.append(values) or find(self, values, *rest),
    )
    most = people.service.cached.backend.settings.max_keys
    chunks = [rows([f"{chunk} {at}" for at in range(400)], "new") for chunk in range(10)]
    with people.drops(), people.sessions() as session, session.begin():
        for chunk in chunks:
            session.execute(sa.insert(Person), chunk)

    assert most < len(looked) <= most + 400


@pytest.mark.every_database
@pytest.mark.proof(name="ways", sample=3)
def test_each_statement_that_commits_itself_is_announced_whatever_the_way(
    people: Witness, request: pytest.FixtureRequest, draw: random.Random, subtests: pytest.Subtests
) -> None:
    automatic = people.engine.execution_options(isolation_level="AUTOCOMMIT")
    for name, way, ids in drawn_ways(people, request, draw):
        begin_again(people)
        with subtests.test(name), people.right(), orm.Session(automatic) as session:
            way.write(session, ids, "changed")
            session.flush()


@pytest.mark.every_database
@pytest.mark.proof(name="ways")
def test_a_rollback_leaves_the_cache_as_it_was_by_each_kind_of_way(people: Witness, subtests: pytest.Subtests) -> None:
    for name, way, ids in known_ways(people, *SAMPLE):
        begin_again(people)
        with subtests.test(name), people.right(), people.sessions() as session:
            way.write(session, ids, "changed")
            session.rollback()


@pytest.mark.proof(name="ways", sample=2)
def test_a_savepoint_rolled_back_takes_nothing_with_it_by_each_kind_of_way(
    people: Witness, subtests: pytest.Subtests
) -> None:
    """Neither earlier changes of the transaction, nor later ones if the savepoint comes first."""
    for name, way, ids in known_ways(people, *SAMPLE):
        begin_again(people)
        with subtests.test(name), people.right(), people.sessions() as session:
            with contextlib.suppress(ZeroDivisionError), session.begin_nested():
                way.write(session, ids, "never")
                raise ZeroDivisionError
            rename(session, "barbara")
            with contextlib.suppress(ZeroDivisionError), session.begin_nested():
                way.write(session, ids, "never")
                raise ZeroDivisionError
            session.commit()


@pytest.mark.proof(name="ways", sample=2)
def test_a_savepoint_released_counts_with_its_transaction_by_each_kind_of_way(
    people: Witness, subtests: pytest.Subtests
) -> None:
    for name, way, ids in known_ways(people, *SAMPLE):
        for end in ("commit", "rollback"):
            begin_again(people)
            with subtests.test(f"{name}, {end}"), people.right(), people.sessions() as session:
                with session.begin_nested():
                    way.write(session, ids, "changed")
                getattr(session, end)()
