"""``python tests/hostile/fuzz codec --runs 100000``: runs a target under atheris from its seeds, and prints the result.

Inputs that fail, and those that reached new code, lie in ``--folder``; another run begins from these, too. Further
options go to libFuzzer: ``-seed=1``, or one file to run again. Without ``-seed`` each run takes another way.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[2]))

from hostile.fuzz import witness

# Every part of an item fits a few kilobytes, and short inputs are quick. The tests of the codec have megabytes.
_LONGEST = 4096
_SECONDS = 10
_MEGABYTES = 1024


def main(target: str, runs: int, folder: Path, options: Sequence[str]) -> None:
    """Runs one target; does not return: libFuzzer ends the process, with a code above 0 if an input failed."""
    with atheris.instrument_imports(include=["person_repo"]):
        module = importlib.import_module(f"hostile.fuzz.fuzz_{target}")
    witness.ends[:] = map(atheris.instrument_func, witness.ends)
    grown, seeds = folder / target / "grown", folder / target / "seeds"
    for made in (grown, seeds):
        made.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(module.seeds()):
        (seeds / f"{number:04}").write_bytes(seed)
    limits = [f"-max_len={_LONGEST}", f"-timeout={_SECONDS}", f"-rss_limit_mb={_MEGABYTES}"]
    options_of_run = [f"-runs={runs}", "-print_final_stats=1", f"-artifact_prefix={folder / target}/found-"]
    inputs = [] if any(not option.startswith("-") for option in options) else [str(grown), str(seeds)]
    print(f"fuzz_{target}: {runs} runs, in {folder / target}", flush=True)
    atheris.Setup([sys.argv[0], *limits, *options_of_run, *options, *inputs], module.one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("target", choices=sorted(path.stem[5:] for path in Path(__file__).parent.glob("fuzz_*.py")))
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, help="for the corpus and inputs that fail; a new folder without it")
    given, rest = parser.parse_known_args()
    main(given.target, given.runs, given.folder or Path(tempfile.mkdtemp(prefix="person_repo-fuzz-")), rest)
