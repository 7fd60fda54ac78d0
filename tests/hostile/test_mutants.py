"""The targets of the fuzzer on changed seeds: as libFuzzer does, without its guidance."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from types import ModuleType

import pytest
from hostile.fuzz import fuzz_codec, fuzz_hits, fuzz_keys, fuzz_wire
from support.proofs import amount, is_sample

TARGETS = [fuzz_codec, fuzz_hits, fuzz_keys, fuzz_wire]
LONGEST = 4096


def _flip(draw: random.Random, data: bytearray, _: bytes) -> None:
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)


def _set(draw: random.Random, data: bytearray, _: bytes) -> None:
    data[draw.randrange(len(data))] = draw.choice(b"\x00\x01\x7f\x80\xff 09\r\n")


def _cut(draw: random.Random, data: bytearray, _: bytes) -> None:
    start = draw.randrange(len(data))
    del data[start : start + draw.randint(1, 8)]


def _repeat(draw: random.Random, data: bytearray, _: bytes) -> None:
    start = draw.randrange(len(data))
    data[start:start] = data[start : start + draw.randint(1, 64)]


def _cross(draw: random.Random, data: bytearray, other: bytes) -> None:
    """The start of one, the end of another."""
    data[draw.randrange(len(data)) :] = other[draw.randrange(len(other) + 1) :]


CHANGES: Sequence[Callable[[random.Random, bytearray, bytes], None]] = (_flip, _set, _cut, _repeat, _cross)


def changed(draw: random.Random, seeds: Sequence[bytes]) -> bytes:
    """A seed after one to eight changes."""
    data = bytearray(draw.choice(seeds))
    for _ in range(draw.choice((1, 1, 2, 4, 8))):
        if data:
            draw.choice(CHANGES)(draw, data, draw.choice(seeds))
    return bytes(data[:LONGEST])


@pytest.mark.proof(name="fuzz", again=True)
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.__name__.rpartition(".")[2])
def test_a_target_takes_changed_seeds(target: ModuleType, draw: random.Random, request: pytest.FixtureRequest) -> None:
    seeds = list(target.seeds())
    inputs = 1_000 if is_sample(request.config) else 50_000
    for _ in range(inputs):
        data = changed(draw, seeds)
        try:
            target.one_input(data)
        except BaseException as exc:
            exc.add_note(f"the input: {data!r}")
            raise
    amount(request, inputs=inputs)
