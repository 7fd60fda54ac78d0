# Needs Python 3.11 or newer and make; sets up the rest in .venv, which need not be activated.

PYTHON =
# Another release of SQLAlchemy than the newest that fits, such as 2.0.43
SQLALCHEMY =
PYTEST_ARGS =
# Each with servers of its own. One more than there are cores, since some tests mostly wait.
PYTEST_WORKERS = $(shell expr `getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2` + 1)
# Minutes of make prove; FULL=1 leaves nothing out, however long that takes.
PROVE_MINUTES = 50
PROVE_ONLY =
FULL =
BENCH_ARGS = --json docs/explanation/performance/figures.json --plots docs/explanation/performance
# Inputs for each target of the fuzzer.
FUZZ_RUNS = 1000000
BIN = .venv/bin
DEV = .venv/dev$(SQLALCHEMY).stamp
PIP = $(BIN)/python -m pip --disable-pip-version-check

.PHONY: help demo test prove lint bench fuzz docs clean servers

help:
	@echo "make demo     the main job on a SQLite file and a cache in memory"
	@echo "make test     lint, the tests, and a sample of each proof, on servers of its own (PYTEST_ARGS='-k name' to choose)"
	@echo "make prove    the proofs, for PROVE_MINUTES=50 (FULL=1: all of them, going on where it stopped)"
	@echo "make lint     ruff, mypy, pyright, import contracts, spelling; the measures of the package, as a report"
	@echo "make bench    the figures of the README, and the plots (BENCH_ARGS='--quick --only hit', '--against REF')"
	@echo "make fuzz     hostile bytes against what reads them (FUZZ_RUNS=1000000 for each target)"
	@echo "make docs     the pages, in docs/_build/html"
	@echo "make servers  the servers' programs: installed, or unpacked in a cache folder of yours"
	@echo "make clean    removes what the others made, .venv included"
	@echo "PYTHON=/path/to/python3 chooses the Python of .venv, SQLALCHEMY=2.0.43 a release of SQLAlchemy"

demo: .venv/runtime.stamp
	@$(BIN)/person-repo demo

# With a =: pytest takes a folder that stands by itself for one of tests, once it is there.
test: $(DEV) servers lint
	@$(BIN)/python -m pytest -n $(PYTEST_WORKERS) --maxprocesses 4 --dist worksteal \
	    --report=.runs $(PYTEST_ARGS)

prove: $(DEV) servers
	@$(BIN)/python tests/promise/prove.py --minutes $(PROVE_MINUTES) \
	    $(if $(FULL),--full) $(PROVE_ONLY:%=--only %)

lint: $(DEV)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	@if [ -d tests/typing ]; then set -x; $(BIN)/mypy && $(BIN)/pyright tests/typing; else set -x; $(BIN)/mypy person_repo; fi
	$(BIN)/lint-imports --no-logo
	$(BIN)/codespell
	@$(BIN)/python tests/project/measures.py

bench: .venv/bench.stamp servers
	@$(BIN)/python -m benchmarks $(BENCH_ARGS)

# Each target's corpus grows in .fuzz; a finding lies there as found-..., and ends the run.
fuzz: .venv/fuzz.stamp
	@for target in $$(ls tests/hostile/fuzz | sed -n 's/^fuzz_\(.*\)\.py$$/\1/p'); do \
	    mkdir -p .fuzz; \
	    $(BIN)/python tests/hostile/fuzz $$target --runs $(FUZZ_RUNS) --folder .fuzz >.fuzz/$$target.log 2>&1; failed=$$?; \
	    grep -E '^fuzz_|DONE|^stat::|Uncaught|found-' .fuzz/$$target.log; \
	    [ $$failed = 0 ] || { tail -40 .fuzz/$$target.log; exit $$failed; }; \
	done

docs: $(DEV)
	$(BIN)/sphinx-build -W -q -b html docs docs/_build/html

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .fuzz .prove .runs docs/_build dist build

# ---- Python ----

.venv/bin/python:
	@for python in $(PYTHON) python3.14 python3.13 python3.12 python3.11 python3; do \
	    "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
	    if ! "$$python" -c 'import ensurepip' 2>/dev/null; then \
	        package=$$("$$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'); \
	        $(FIND_APT); \
	        [ -n "$$apt" ] && $$apt update -q && $$apt install -qy "$$package" || { \
	            echo "$$python cannot make virtual environments: install $$package, then try again" >&2; exit 1; }; \
	    fi; \
	    echo "$$("$$python" --version), in .venv"; \
	    "$$python" -m venv .venv && exit 0; \
	    rm -rf .venv; exit 1; \
	done; \
	echo "person_repo needs Python 3.11 or newer, and none was found." >&2; \
	echo "Install one (Debian, Ubuntu: python3 python3-venv), or name it: make PYTHON=/path/to/python3" >&2; \
	exit 1

.venv/pip.stamp: .venv/bin/python
	@$(PIP) install -q --upgrade "pip>=25.1"
	@touch $@

.venv/runtime.stamp: pyproject.toml .venv/pip.stamp
	@echo "installing person_repo in .venv"
	@$(PIP) install -q -e '.[cli]'
	@touch $@

# One stamp at a time: without SQLALCHEMY= the newest comes back.
$(DEV): pyproject.toml .venv/pip.stamp
	@echo "installing person_repo and its tools in .venv"
	@$(PIP) install -q --upgrade -e '.[cli]' --group dev 'SQLAlchemy$(SQLALCHEMY:%===%)'
	@rm -f .venv/dev*.stamp
	@touch $@ .venv/runtime.stamp

.venv/bench.stamp: pyproject.toml .venv/pip.stamp
	@echo "installing person_repo and its peers in .venv"
	@$(PIP) install -q -e '.[cli]' --group bench
	@touch $@ .venv/runtime.stamp

.venv/fuzz.stamp: $(DEV)
	@echo "installing the fuzzer in .venv"
	@$(PIP) install -q --group fuzz
	@touch $@

# Sets apt to a command that installs packages without asking, or to nothing.
FIND_APT = apt=; if command -v apt-get >/dev/null; then \
	if [ "$$(id -u)" = 0 ]; then apt="env DEBIAN_FRONTEND=noninteractive apt-get"; \
	elif sudo -n true 2>/dev/null; then apt="sudo -n env DEBIAN_FRONTEND=noninteractive apt-get"; fi; fi

# ---- Servers: the tests start their own, and need the programs ----

servers: .venv/bin/python
	@$(BIN)/python tests/support/servers/programs.py
