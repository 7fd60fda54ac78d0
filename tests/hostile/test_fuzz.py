"""The targets of the fuzzer, without the fuzzer: their seeds pass, and wrong code fails them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hostile.fuzz import fuzz_codec, fuzz_hits, fuzz_keys, fuzz_wire

from person_repo.cache.memcached import wire
from person_repo.cache.memcached.connection import IDLE, Connection
from person_repo.cache.memcached.items import EPOCH_SIZE
from person_repo.cache.memcached.wire import KnownMarker
from person_repo.mapped import keys
from person_repo.mapped.codec import Codec
from person_repo.mapped.mapping import Row

TARGETS = [fuzz_codec, fuzz_hits, fuzz_keys, fuzz_wire]
FOLDER = Path(fuzz_codec.__file__).parent


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.__name__)
def test_the_seeds_of_a_target_pass_and_are_the_same_each_time(target: ModuleType) -> None:
    seeds = list(target.seeds())
    for seed in seeds:
        target.one_input(seed)

    assert seeds == list(target.seeds())
    assert sum(map(len, seeds)) < 200_000


def caught(target: ModuleType) -> bool:
    """True if some seed makes the target complain."""
    for seed in target.seeds():
        try:
            target.one_input(seed)
        except Exception:
            return True
    return False


def test_a_codec_that_lets_an_error_through_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hostile.fuzz.fuzz_codec.CODECS", [Careless(codec) for codec in fuzz_codec.CODECS])
    assert caught(fuzz_codec)


class Careless:
    """A codec that translates no error."""

    def __init__(self, codec: Codec[Any]) -> None:
        self.encode = codec.encode
        self._codec = codec

    def decode(self, item: bytes, key: str) -> Row | None:
        row: Row | None = self._codec._decode(item)[2]
        return row


def test_keys_that_are_not_encoded_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "_quoted", lambda text: text)
    assert caught(fuzz_keys)


def test_a_connection_that_is_used_again_after_an_error_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    ask = Connection.ask

    def whatever_came_before(self: Connection, request: bytes, seconds: float) -> bytes:
        self.state = IDLE
        return ask(self, request, seconds)

    monkeypatch.setattr(Connection, "ask", whatever_came_before)
    assert caught(fuzz_wire)


def test_a_hit_whose_size_is_not_compared_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KnownMarker, "_head", lambda marker, size: marker._reply + b"VA ")
    assert caught(fuzz_hits)


def test_values_whose_sizes_are_not_compared_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def hasty(received: bytes, names: list[bytes]) -> list[bytes | None] | None:
        _, *parts = received.split(b"\r\nVALUE ")
        return [part.partition(b"\r\n")[2][EPOCH_SIZE:] for part in parts] if len(parts) == len(names) - 1 else None

    monkeypatch.setattr(wire, "all_values", hasty)
    assert caught(fuzz_hits)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.__name__)
def test_a_target_runs_under_the_fuzzer(target: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="the dependency group fuzz is not installed")
    name = target.__name__.rpartition("fuzz_")[2]
    command = [sys.executable, str(FOLDER), name, "--runs", "500", "--folder", str(tmp_path), "-seed=1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    assert "stat::number_of_executed_units: " in done.stderr
