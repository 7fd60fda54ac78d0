"""The checker of recorded histories finds every wrong read, and no right one."""

from __future__ import annotations

import random

import pytest

from person_repo.testing.torture.history import ABSENT, Outcome, Read, Verdict, Version, Write, check

KEY = 3


def version(number: int, writer: int = 1) -> Version:
    return Version(number, writer, number)


def committed(number: int, began: int, acknowledged: int, *, writer: int = 1, deletes: bool = False) -> Write:
    return Write(KEY, version(number, writer), deletes, began, Outcome.COMMITTED, acknowledged)


FIRST = committed(0, 0, 0)


def judged(writes: list[Write], found: Version, began: int, ended: int) -> tuple[int, int]:
    verdict = check([FIRST, *writes], [Read(KEY, found, began, ended)])
    assert verdict.reads == 1
    return verdict.stale, verdict.phantom


def test_the_newest_acknowledged_version_is_right() -> None:
    assert judged([committed(1, 10, 20)], version(1), 30, 40) == (0, 0)


def test_a_version_older_than_one_acknowledged_before_the_read_is_stale() -> None:
    verdict = check(
        [FIRST, committed(1, 10, 20), committed(2, 21, 30)], [Read(KEY, version(0), 1_000_000_020, 2 * 10**9)]
    )
    assert (verdict.stale, verdict.phantom) == (1, 0)
    assert verdict.worst == pytest.approx(1.0)  # from the first acknowledgement that it should have seen
    assert "stale" in verdict.examples[0]
    assert not verdict.clean


SECOND = 10**9


@pytest.mark.parametrize(("bound", "late", "stale"), [(0.0, 0, 1), (0.999, 0, 1), (1.0, 1, 0), (5.0, 1, 0)], ids=str)
def test_a_read_that_is_stale_within_the_bound_is_late_and_no_more(bound: float, late: int, stale: int) -> None:
    writes = [FIRST, committed(1, 10, SECOND)]
    verdict = check(writes, [Read(KEY, version(0), 2 * SECOND, 9 * SECOND)], bound=bound)

    assert (verdict.late, verdict.stale, verdict.phantom) == (late, stale, 0)
    assert verdict.worst == pytest.approx(1.0)  # how long the read itself took is not counted
    assert verdict.clean is (stale == 0)
    assert len(verdict.examples) == stale


def test_the_bound_counts_from_the_first_acknowledgement_that_was_not_seen() -> None:
    """A newer write does not make an old answer young again."""
    writes = [FIRST, committed(1, 10, SECOND), committed(2, SECOND + 1, 3 * SECOND)]
    read = Read(KEY, version(0), 3 * SECOND + 1, 4 * SECOND)

    assert check(writes, [read], bound=1.0).stale == 1
    assert check(writes, [read._replace(found=version(1))], bound=1.0).late == 1


def test_absence_can_be_late() -> None:
    writes = [FIRST, committed(1, 10, 20, deletes=True), committed(2, 30, SECOND)]
    verdict = check(writes, [Read(KEY, ABSENT, 2 * SECOND, 3 * SECOND)], bound=1.0)

    assert (verdict.late, verdict.stale, verdict.phantom) == (1, 0, 0)


def test_no_bound_makes_a_phantom_right() -> None:
    rolled_back = Write(KEY, version(1), False, 10, Outcome.ROLLED_BACK, None)

    assert check([FIRST, rolled_back], [Read(KEY, version(1), 20, 30)], bound=60.0).phantom == 1


def test_each_key_of_one_read_must_see_what_was_acknowledged_before_the_whole_began() -> None:
    other = Write(KEY + 1, version(1), False, 10, Outcome.COMMITTED, 1_500_000_000)
    reads = [Read(KEY, version(0), SECOND, 2 * SECOND), Read(KEY + 1, version(0), SECOND, 2 * SECOND)]
    writes = [FIRST, FIRST._replace(key=KEY + 1), committed(1, 10, SECOND - 1), other]

    verdict = check(writes, reads)

    assert (verdict.stale, verdict.late) == (1, 0)  # the other key changed during the read


@pytest.mark.parametrize("found", [0, 1])
def test_either_version_is_right_while_a_write_is_under_way(found: int) -> None:
    assert judged([committed(1, 10, 30)], version(found), 20, 40) == (0, 0)


@pytest.mark.parametrize("found", [0, 1])
def test_a_read_need_not_see_what_is_acknowledged_during_it(found: int) -> None:
    assert judged([committed(1, 10, 25)], version(found), 20, 40) == (0, 0)


def test_a_write_that_began_after_the_read_had_ended_cannot_be_its_answer() -> None:
    assert judged([committed(1, 50, 60)], version(1), 20, 40) == (0, 1)


def test_a_rolled_back_version_is_a_phantom() -> None:
    assert judged([Write(KEY, version(1), False, 10, Outcome.ROLLED_BACK, None)], version(1), 20, 30) == (0, 1)


def test_a_version_that_nobody_wrote_is_a_phantom() -> None:
    assert judged([], Version(-2, -2, -2), 20, 30) == (0, 1)


@pytest.mark.parametrize("found", [0, 1])
def test_a_write_of_unknown_outcome_may_or_may_not_have_happened(found: int) -> None:
    assert judged([Write(KEY, version(1), False, 10, Outcome.UNKNOWN, None)], version(found), 20, 30) == (0, 0)


def test_a_write_of_unknown_outcome_did_not_happen_when_another_took_its_number() -> None:
    unknown = Write(KEY, version(1, writer=1), False, 10, Outcome.UNKNOWN, None)
    other = committed(1, 15, 20, writer=2)
    assert judged([unknown, other], version(1, writer=1), 30, 40) == (0, 1)
    assert judged([unknown, other], version(1, writer=2), 30, 40) == (0, 0)


def test_absence_is_right_after_a_deletion_and_stale_after_the_next_write() -> None:
    deletion = committed(1, 10, 20, deletes=True)
    assert judged([deletion], ABSENT, 30, 40) == (0, 0)
    assert judged([deletion, committed(2, 50, 60)], ABSENT, 70, 80) == (1, 0)
    assert judged([deletion, committed(2, 50, 75)], ABSENT, 70, 80) == (0, 0)


def test_absence_without_any_deletion_is_a_phantom() -> None:
    assert judged([committed(1, 10, 20)], ABSENT, 30, 40) == (0, 1)


def test_a_deleted_version_cannot_be_read_as_a_row() -> None:
    assert judged([committed(1, 10, 20, deletes=True)], version(1), 30, 40) == (0, 1)


def test_a_key_that_was_never_written_is_absent() -> None:
    assert check([], [Read(KEY, ABSENT, 1, 2)]) == Verdict(reads=1)


def test_the_order_of_acknowledgements_need_not_be_the_order_of_commits() -> None:
    """Two writers commit 1 and 2 in that order, and are acknowledged in the other."""
    writes = [committed(1, 10, 40, writer=1), committed(2, 20, 30, writer=2)]
    assert judged(writes, version(2, writer=2), 50, 60) == (0, 0)
    assert judged(writes, version(1, writer=1), 35, 38) == (1, 0)


def test_at_most_ten_examples_are_kept() -> None:
    reads = [Read(KEY, Version(9, 9, 9), 1, 2)] * 100
    verdict = check([FIRST], reads)
    assert (verdict.phantom, len(verdict.examples)) == (100, 10)


def test_a_simulated_history_is_clean_and_one_delayed_read_in_it_is_found() -> None:
    """Writes take effect at one moment between their beginning and acknowledgement, reads at one moment of theirs."""
    choose = random.Random(7)
    now, effect = 0, [(0, version(0))]
    writes, reads = [FIRST], []
    for number in range(1, 501):
        began = now + choose.randrange(1, 20)
        at = began + choose.randrange(1, 20)
        now = at + choose.randrange(1, 20)
        effect.append((at, version(number)))
        writes.append(committed(number, began, now))
    for _ in range(5000):
        at = choose.randrange(25, now)
        current = max(value for time, value in effect if time <= at)
        reads.append(Read(KEY, current, at - choose.randrange(20), at + 1 + choose.randrange(20)))
    assert check(writes, reads) == Verdict(reads=5000)
    late = Read(KEY, version(100), writes[101].acknowledged + 1, now)  # type: ignore[operator]
    assert check(writes, [*reads, late]).stale == 1
