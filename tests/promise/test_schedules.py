"""Every interleaving of the real read side and the real write side, with faults at every point."""

from __future__ import annotations

import random
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st
from support.servers import Memcached

pytest.importorskip("greenlet")

from promise.schedules.search import Report, search
from promise.schedules.stage import Scenario, autocommit, commit, refused, rollback, twophase
from promise.schedules.wire import Clock, FakeMemcached, commands_of
from support.proofs import amount, note

# For a machine under load: nothing here waits for anything.
pytestmark = pytest.mark.timeout(900)

FORGET = frozenset({"crash", "evict"})
EXPIRE = frozenset({"expire"})
RESTART = frozenset({"restart"})
STOP = frozenset({"stop"})
CUT = frozenset({"cut"})
PARTITION = frozenset({"partition"})
ALL_IN_MEMORY = FORGET | EXPIRE | RESTART
NONE: frozenset[str] = frozenset()

GET = (("ada",),)
GET_GET = (("ada",), ("ada",))
BOTH = {"ada": "ada-0", "bob": "bob-0"}

UPDATE = Scenario("get, get / update", (GET_GET,), ((commit(ada="ada-1"),),))
ONCE = replace(UPDATE, title="get / update", readers=(GET,))
MANY = replace(UPDATE, title="get_many / update of one", readers=((("ada", "bob"),),), rows=BOTH)
WHOLE = replace(UPDATE, title="get, get / whole model", writers=((commit(True, ada="ada-1"),),))
TWO_AND_TWO = replace(
    ONCE,
    title="get, get / update, update",
    readers=(GET, GET),
    writers=((commit(ada="ada-1"),), (commit(ada="ada-2"),)),
)

# Cases: the items that a reader finds, the writes of a writer.
SCENARIOS: dict[str, Scenario] = {
    "cold": UPDATE,
    "no epoch": replace(UPDATE, title="get, get / update, no epoch yet", drawn=False),
    "cached": replace(UPDATE, title="get, get / update, cached", cached=("ada",)),
    "old schema": replace(UPDATE, title="get, get / update, cached in an old schema", cached=("ada",), old_schema=True),
    "insert": replace(UPDATE, title="get, get / insert, a negative entry", rows={"ada": None}, cached=("ada",)),
    "delete": replace(UPDATE, title="get, get / delete", writers=((commit(ada=None),),)),
    "whole": WHOLE,
    "whole cached": replace(WHOLE, title="get, get / whole model, cached", cached=("ada",)),
    "rollback": replace(UPDATE, title="get, get / rollback", writers=((rollback(ada="ada-1"),),)),
    "refused": replace(UPDATE, title="get, get / COMMIT refused, ROLLBACK", writers=((refused(ada="ada-1"),),)),
    "refused whole": replace(
        UPDATE, title="get, get / COMMIT of a whole model refused", writers=((refused(True, ada="ada-1"),),)
    ),
    "autocommit": replace(UPDATE, title="get, get / AUTOCOMMIT", writers=((autocommit(ada="ada-1"),),)),
    "twophase": replace(ONCE, title="get / two-phase commit", writers=((twophase(ada="ada-1"),),)),
    "twice": replace(ONCE, title="get / update, then update", writers=((commit(ada="ada-1"), commit(ada="ada-2")),)),
    "many": MANY,
    "many of two": replace(MANY, title="get_many / update of both", writers=((commit(ada="ada-1", bob="bob-1"),),)),
    "many, get": replace(MANY, title="get_many, get / update of one", readers=((("ada", "bob"), ("ada",)),)),
    "many whole": replace(
        MANY,
        title="get_many, get / whole model, cached",
        readers=((("ada", "bob"), ("ada",)),),
        writers=((commit(True, ada="ada-1", bob="bob-1"),),),
        cached=("ada", "bob"),
    ),
    "schemas": replace(ONCE, title="get, get of another schema / update", readers=(GET, GET), schemas=(0, 1)),
    "schemas cached": replace(
        ONCE, title="get, get of another schema / update, cached", readers=(GET, GET), schemas=(0, 1), cached=("ada",)
    ),
}
ENDING = [
    replace(SCENARIOS[name], title=f"{SCENARIOS[name].title}, ends soon", cached=("ada",), ending=True)
    for name in ("cached", "whole cached", "delete", "rollback")
]
SERVERS = [
    replace(
        MANY,
        title="get, get of two servers / whole model, cached",
        readers=((("bob",), ("ada",)),),
        writers=((commit(True, ada="ada-1", bob="bob-1"),),),
        cached=("ada", "bob"),
        servers=2,
    ),
    replace(
        MANY,
        title="get_many of two servers / update of both",
        writers=((commit(ada="ada-1", bob="bob-1"),),),
        servers=2,
    ),
]


# A server that some reach and others do not. Under ``proceed`` it takes time to pass for anything to be checked; under
# ``strict`` the writer's wait is time.
MODES = ("proceed", "strict", "refuse")


def _parted(
    name: str, mode: str, readers: Any = (GET,), *, cached: tuple[str, ...] = ("ada",), **more: Any
) -> Scenario:
    scenario = replace(
        SCENARIOS[name], readers=readers, cached=cached, on_unreachable=mode, ticks=int(mode == "proceed")
    )
    title = f"{scenario.title.partition('/')[2].strip()}, {mode}, {'cached' if cached else 'cold'}"
    return replace(scenario, **{"apart": ("writer",), "title": title, **more})


ENDS = ("cold", "whole", "rollback", "refused", "refused whole", "autocommit", "twophase")
FEW = ("cold", "whole", "rollback", "autocommit")
DELIVERS: tuple[str, ...] = ()
PARTED_ONCE = [
    *[_parted(name, "proceed") for name in ("cold", "rollback", "autocommit")],
    *[_parted(name, mode) for mode in ("strict", "refuse") for name in ENDS],
    *[_parted("cold", mode, apart=()) for mode in ("strict", "refuse")],
]
PARTED_TWICE = [
    *[_parted(name, "strict", (GET_GET,), cached=()) for name in FEW],
    *[_parted("cold", mode, (GET_GET,)) for mode in ("strict", "refuse")],
    _parted("cold", "proceed", (GET_GET,), together=("reader", "writer"), ticks=0, slow=True),
    *[_parted("twice", mode, (GET_GET,), ticks=0) for mode in ("proceed", "strict")],
]
PARTED_MANY = [
    _parted("many", "strict", MANY.readers, cached=("ada", "bob")),
    replace(SERVERS[0], on_unreachable="strict", apart=("writer",), readers=(GET,)),
]
_BESIDE: dict[str, Any] = {"writers": TWO_AND_TWO.writers, "apart": ("writer 1",), "title": "two writers, one cut off"}
_THREADS: dict[str, Any] = {"together": ("reader 1", "reader 2"), "title": "two threads / update"}
PARTED_THREE = [
    _parted("cold", mode, readers, ticks=0, **more)
    for mode, readers, more in [
        ("strict", ((DELIVERS,), GET_GET), {"title": "a deliverer, get, get / update"}),
        ("proceed", ((DELIVERS,), GET_GET), {"title": "a deliverer, get, get / update"}),
        ("strict", (GET_GET, GET), _THREADS),
        ("proceed", (GET, GET), {**_THREADS, "slow": True, "looked": False}),
        ("strict", (GET_GET,), _BESIDE),
        ("proceed", (GET_GET,), _BESIDE),
    ]
]
CUT_OFF = [_parted("cold", mode, (GET if mode == "proceed" else GET_GET,), cut=("writer",)) for mode in MODES]


@dataclass(frozen=True)
class Family:
    """Scenarios that are searched alike, each with every one of ``kinds``."""

    name: str
    scenarios: Sequence[Scenario]
    kinds: Sequence[frozenset[str]]
    faults: int = 1
    switches: int | None = None

    def searches(self) -> Iterator[Search]:
        for scenario in self.scenarios:
            for kinds in self.kinds:
                yield Search(self.name, replace(scenario, kinds=kinds), self.faults, self.switches)


@dataclass(frozen=True)
class Search:
    """One scenario to be searched with at most so many ``faults`` and ``switches``."""

    family: str
    scenario: Scenario
    faults: int
    switches: int | None

    def __str__(self) -> str:
        kinds = f", {'+'.join(sorted(self.scenario.kinds))}" if self.scenario.kinds else ""
        return f"{self.family}: {self.scenario.title}{kinds}"


def _of(*names: str) -> list[Scenario]:
    return [SCENARIOS[name] for name in names]


def _in_memory(*scenarios: Scenario) -> list[Scenario]:
    return [replace(scenario, backend="memory") for scenario in scenarios]


# Kinds of faults are divided where only one can happen: that finds the same, and more states are equal.
FAMILIES = [
    Family("memory, one fault", _in_memory(*SCENARIOS.values()), [ALL_IN_MEMORY]),
    Family(
        "memcached, killed or evicted",
        _of(
            "cold", "no epoch", "cached", "old schema", "insert", "whole", "whole cached", "rollback", "refused",
            "refused whole", "autocommit", "twophase", "twice", "many", "many, get", "many whole",
        ),
        [FORGET],
    ),
    Family("memcached, expired", _of("cold", "cached", "whole cached"), [EXPIRE]),
    Family(
        "memcached, restarted",
        _of("cold", "cached", "delete", "old schema", "whole cached", "refused", "autocommit", "twophase", "many"),
        [RESTART],
    ),
    Family("memcached, stopped for a while", _of("cold", "cached", "whole cached"), [STOP]),
    Family("memcached, values that end soon", ENDING, [FORGET, RESTART, CUT], switches=2),
    Family("memcached, a connection breaks", _of("cold", "cached", "whole cached", "many"), [CUT]),
    Family("memcached, two schemas", _of("schemas"), [FORGET, RESTART], switches=1),
    Family("two memcached", SERVERS[:1], [FORGET, RESTART], switches=1),
    Family("two memcached, restarted", SERVERS[1:], [RESTART], switches=1),
    Family("memory, two and two", _in_memory(TWO_AND_TWO), [NONE], faults=0),
    Family("memory, two and two, one fault", _in_memory(TWO_AND_TWO), [ALL_IN_MEMORY], switches=1),
    Family("memcached, two and two", [TWO_AND_TWO], [NONE], faults=0, switches=3),
    Family("memcached, two and two, one fault", [TWO_AND_TWO], [FORGET], switches=1),
    Family("fence, one read", PARTED_ONCE, [PARTITION]),
    Family("fence, two reads", PARTED_TWICE, [PARTITION], switches=1),
    Family("fence, several keys", PARTED_MANY, [PARTITION], switches=1),
    Family("fence, three actors", PARTED_THREE, [PARTITION], switches=1),
    Family("fence, cut off from the start", CUT_OFF, [FORGET, RESTART], switches=1),
]  # fmt: skip


def checked(request: pytest.FixtureRequest, name: str, report: Report) -> Report:
    """Fails on the first schedule that breaks the promise; counts those that were searched."""
    assert report.shortest is None, f"{report.scenario.title}, {report.scenario.backend}\n{report.shortest}"
    amount(request, schedules=report.schedules, runs=report.runs)
    note(
        request,
        f"{name:<70} {report.schedules:>11,} schedules by {report.runs:>6,} runs, {report.stuck:>3} stuck, "
        f"{report.seconds:5.1f} s",
    )
    return report


@pytest.mark.proof(name="schedules", sample=4)
@pytest.mark.parametrize("searched", [search for family in FAMILIES for search in family.searches()], ids=str)
def test_no_schedule_breaks_the_promise(searched: Search, request: pytest.FixtureRequest) -> None:
    report = search(searched.scenario, faults=searched.faults, switches=searched.switches)

    checked(request, str(searched), report)
    assert report.complete
    assert report.runs > 20
    assert report.stuck == 0


@pytest.mark.proof(name="schedules", sample=0)
@pytest.mark.parametrize("backend", ["memory", "memcached"])
def test_two_faults_leave_one_old_entry_of_one_kind(backend: str, request: pytest.FixtureRequest) -> None:
    """A tombstone is lost before COMMIT, and its writer is killed after it: an old entry stays, to its ttl at most.

    ``Stage.finish`` takes nothing else for it.
    """
    scenario = replace(ONCE, backend=backend, kinds=FORGET | RESTART)

    report = checked(request, f"{backend}, two faults", search(scenario, faults=2))

    assert report.stuck > 0
    assert report.known is not None
    said = "\n".join(report.known.log)
    assert said.index("COMMIT") < said.index("writer is killed")
    assert re.search("evicts|forgets|restarts", said[: said.index("COMMIT")])


@pytest.mark.proof(name="schedules", sample=0)
@pytest.mark.parametrize("backend", ["memory", "memcached"])
def test_two_faults_leave_nothing_where_none_is_a_kill(backend: str, request: pytest.FixtureRequest) -> None:
    report = search(replace(ONCE, backend=backend, kinds=frozenset({"evict", "restart"})), faults=2, switches=2)

    checked(request, f"{backend}, two faults, none a kill", report)
    assert report.stuck == 0


@pytest.mark.proof(name="schedules", sample=1)
@pytest.mark.parametrize(
    ("scenario", "faults"),
    [
        (UPDATE, 0),
        (SCENARIOS["whole"], 0),
        (replace(UPDATE, backend="memory", kinds=ALL_IN_MEMORY), 1),
        (replace(ONCE, kinds=frozenset({"crash"})), 1),
        (replace(ONCE, kinds=RESTART), 1),
        (replace(ONCE, cached=("ada",), kinds=FORGET), 1),
        (replace(ONCE, cached=("ada",), kinds=CUT), 1),
        (replace(ONCE, backend="memory", kinds=FORGET), 2),
    ],
    ids=lambda value: str(Search(value.backend, value, 0, 0)) if isinstance(value, Scenario) else str(value),
)
def test_equal_states_are_searched_once_without_missing_a_schedule(
    scenario: Scenario, faults: int, request: pytest.FixtureRequest
) -> None:
    """States are taken for equal by what actors have been answered; each schedule run by itself finds as many."""
    merged = search(scenario, faults=faults)
    plain = search(scenario, faults=faults, merged=False)

    amount(request, runs=plain.runs)
    assert plain.runs == plain.schedules > merged.runs > 20
    assert (plain.schedules, plain.stuck, plain.bad) == (merged.schedules, merged.stuck, merged.bad)


# Beyond what a run of all of them holds: more faults at once, and any number of switches.


def _more() -> Iterator[Search]:
    for scenario in SCENARIOS.values():
        for kinds in (FORGET, RESTART, CUT, STOP, EXPIRE):
            yield Search("any switches", replace(scenario, kinds=kinds), 1, None)
    for switches in (1, 2):
        for scenario in (*PARTED_ONCE, *PARTED_TWICE, *PARTED_MANY, *PARTED_THREE):
            whole = replace(scenario, apart=(), ticks=1, kinds=PARTITION)
            yield Search(f"anybody cut off, {switches}", whole, 1, switches)
        for scenario in (*PARTED_ONCE, *PARTED_TWICE):
            for kinds in (FORGET, RESTART, CUT):
                yield Search(f"cut off and more, {switches}", replace(scenario, kinds=PARTITION | kinds), 2, switches)
    for bound in (2, 3, 4, None):
        for scenario in SERVERS:
            for kinds in (FORGET, RESTART, CUT, STOP, EXPIRE):
                yield Search(f"two memcached, {bound}", replace(scenario, kinds=kinds), 1, bound)
    for scenario in _in_memory(*SCENARIOS.values()):
        yield Search("memory, two faults", replace(scenario, kinds=ALL_IN_MEMORY), 2, None)
    for bound in (2, 3, 4, None):
        for backend in ("memory", "memcached"):
            for kinds in (NONE, FORGET, RESTART, CUT, STOP, EXPIRE):
                two = replace(TWO_AND_TWO, backend=backend, kinds=kinds)
                yield Search(f"{backend}, two and two, {bound}", two, int(bool(kinds)), bound)
        for scenario in SCENARIOS.values():
            yield Search(f"two faults, {bound}", replace(scenario, kinds=FORGET | RESTART), 2, bound)


@pytest.mark.proof(name="schedules", sample=1, again=True)
@pytest.mark.parametrize("searched", list(_more()), ids=str)
def test_no_schedule_of_many_more_breaks_the_promise(
    searched: Search, draw: random.Random, request: pytest.FixtureRequest
) -> None:
    """The order of the search is drawn, for it ends after some thousand runs."""
    found = search(searched.scenario, faults=searched.faults, switches=searched.switches, most=3_000, draw=draw)

    checked(request, str(searched), found)


# The fake memcached

KEYS = (b"k", b"m")
Said = tuple[bytes, bytes, list[bytes], bytes]

_nothing = st.just(b"")
_ttls = st.sampled_from([b"0", b"60", b"3600", b"2592000"])
_whose_cas = st.sampled_from([b"now", b"before", b"never"])


def _flags(each: dict[bytes, st.SearchStrategy[bytes]]) -> st.SearchStrategy[list[bytes]]:
    """Some flags, in any order, with arguments."""
    some = st.lists(st.sampled_from(sorted(each)), unique=True)
    return some.flatmap(lambda letters: st.tuples(*[each[letter].map(letter.__add__) for letter in letters])).map(list)


_gets = st.tuples(
    st.just(b"mg"),
    st.sampled_from(KEYS),
    _flags(dict.fromkeys((b"f", b"c", b"s", b"t", b"v"), _nothing) | {b"T": _ttls, b"N": _ttls})
    | _flags(dict.fromkeys((b"f", b"c", b"t", b"v"), _nothing) | {b"R": st.sampled_from([b"0", b"90", b"4000"])}),
    _nothing,
)
_classic_gets = st.tuples(st.just(b"get"), st.sampled_from(KEYS), st.just([]), _nothing)
_set_flags = {b"F": st.sampled_from([b"0", b"7", b"16777277"]), b"T": _ttls, b"c": _nothing}
_sets = st.tuples(
    st.just(b"ms"),
    st.sampled_from(KEYS),
    _flags({**_set_flags, b"C": _whose_cas}) | _flags({**_set_flags, b"M": st.sampled_from([b"A", b"E", b"S"])}),
    st.sampled_from([b"", b"a", b"0123456789abcdef", b"x\r\ny"]),
)
_deletes = st.tuples(st.just(b"md"), st.sampled_from(KEYS), _flags({b"C": _whose_cas}), _nothing)


class Dialogue:
    """A dialogue with one of two servers that get equal commands. CAS ids are named by their place in its history."""

    def __init__(self, ask: Callable[[bytes], bytes]) -> None:
        self._ask = ask
        self._now = dict.fromkeys(KEYS, b"888888888888")
        self._before = dict(self._now)

    def says(self, said: Said) -> list[bytes]:
        """The words of its reply, and the rest of it; times are rounded, for a real clock runs on."""
        verb, key, flags, body = said
        cas = {b"Cnow": self._now[key], b"Cbefore": self._before[key], b"Cnever": b"999999999999"}
        words = [b"C" + cas[flag] if flag in cas else flag for flag in flags]
        size = [b"%d" % len(body)] if verb == b"ms" else []
        request = b" ".join([verb, key, *size, *words]) + b"\r\n" + (body + b"\r\n" if size else b"")
        line, _, rest = self._ask(request).partition(b"\r\n")
        words = [self._called(key, word) for word in line.split()]
        self._learn(key)
        return [*words, rest]

    def _called(self, key: bytes, word: bytes) -> bytes:
        if re.fullmatch(rb"t\d+", word):
            return b"t%d" % (round(int(word[1:]) / 60) * 60)
        if not re.fullmatch(rb"c[1-9]\d*", word):
            return word
        return b"the same CAS id" if word[1:] == self._now[key] else b"a new CAS id"

    def _learn(self, key: bytes) -> None:
        found = re.match(rb"HD c(\d+)", self._ask(b"mg %b c\r\n" % key))
        if found and found[1] != self._now[key]:
            self._before[key], self._now[key] = self._now[key], found[1]


@pytest.fixture
def real(memcached_servers: list[Memcached]) -> Iterator[Callable[[bytes], bytes]]:
    """Asks a real memcached, one request at a time."""
    server = memcached_servers[0]
    with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def ask(request: bytes) -> bytes:
            connection.sendall(request + b"mn\r\n")
            answer = b""
            while not answer.endswith(b"MN\r\n"):
                answer += connection.recv(65536)
            return answer.removesuffix(b"MN\r\n")

        yield ask


def _asked(server: FakeMemcached) -> Callable[[bytes], bytes]:
    return lambda request: b"".join(server.execute(command) for command in commands_of(request))


@hypothesis.settings(max_examples=400, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(dialogue=st.lists(_gets | _classic_gets | _sets | _deletes, min_size=1, max_size=15))
def test_the_fake_memcached_answers_as_a_real_one(dialogue: list[Any], real: Callable[[bytes], bytes]) -> None:
    real(b"".join(b"md %b\r\n" % key for key in KEYS))
    sides = Dialogue(_asked(FakeMemcached(Clock()))), Dialogue(real)

    for said in dialogue:
        ours, theirs = [side.says(said) for side in sides]
        assert ours == theirs, said


def test_the_fake_memcached_pipelines_as_a_real_one(real: Callable[[bytes], bytes]) -> None:
    """A value that holds what ends a line is one value; CAS ids grow with each item that is stored, in 1.6.45 by 2."""
    request = (
        b"mg k v N60\r\nms k 4 MA\r\n\r\n\r\n\r\nmg k s v\r\nms k 1 C1\r\nx\r\nmd m\r\nms m 1 ME c\r\ny\r\nmg k c\r\n"
    )
    real(b"md k\r\nmd m\r\n")

    ours = _asked(FakeMemcached(Clock()))(request)
    theirs = real(request)

    cas = [[int(found) for found in re.findall(rb" c(\d+)", answer)] for answer in (ours, theirs)]
    assert re.sub(rb" c\d+", b" c", ours) == re.sub(rb" c\d+", b" c", theirs)
    assert [numbers[0] > numbers[1] for numbers in cas] == [True, True]


def test_the_fake_memcached_answers_a_get_of_several_keys_as_a_real_one(real: Callable[[bytes], bytes]) -> None:
    request = b"md k\r\nmd m\r\nms k 4 F7\r\n\r\n\r\n\r\nget m k\r\nget m\r\nmg m N60\r\nget k nothing m\r\n"
    real(request)

    assert _asked(FakeMemcached(Clock()))(request).replace(b"NF", b"HD") == real(request).replace(b"NF", b"HD")


def test_the_fake_memcached_forgets_cas_ids_when_it_restarts(memcached_servers: list[Memcached]) -> None:
    """As a real one does: that is what a lease's connection is kept for."""
    real = memcached_servers[0]
    real.restart()
    server = FakeMemcached(Clock())
    server.restart()

    first = b"mg k c N60\r\n"
    assert _asked(server)(first).decode() == "HD c1 W\r\n"
    assert re.fullmatch(r"HD c[1-9] W\r\n", real.ask(first.decode().strip()))


def test_items_of_the_fake_memcached_end_when_their_time_has_come() -> None:
    clock = Clock()
    server = FakeMemcached(clock)
    ask = _asked(server)
    ask(b"mg k N5\r\nms m 1 T60\r\nx\r\n")

    clock.now += 5

    assert ask(b"mg k\r\nmg m t\r\n") == b"EN\r\nHD t55\r\n"
