# `make demo` shows what placecell does, `make check` is what has to pass. Needs Python 3.11 or newer and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN_READY := $(VENV)/.ready
DEV_READY := $(VENV)/.ready-dev
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: setup demo test lint types contract check test-slow test-data bench-core bench-regression \
  bench-compression bench-coordinates bench-uncertainty bench-speed

setup: $(DEV_READY)

# Without the tools of developers, unless they are there already.
demo: $(if $(wildcard $(DEV_READY)),$(DEV_READY),$(RUN_READY))
	$(BIN)/placecell demo demo/

# Two processes of a thread each: more threads than cores spin for one another.
test: setup
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n 2

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

contract: setup
	$(BIN)/lint-imports

check: lint types contract test

test-slow: setup
	$(BIN)/python -m pytest -m slow

test-data: setup
	$(BIN)/python -m pytest -m data

bench-core: setup
	$(BIN)/python benchmarks/core.py

bench-regression: setup
	$(BIN)/python benchmarks/regression.py

bench-compression: setup
	$(BIN)/python benchmarks/compression.py

bench-coordinates: setup
	$(BIN)/python benchmarks/coordinates.py
	$(BIN)/python benchmarks/forests.py
	$(BIN)/python benchmarks/dsac.py

bench-uncertainty: setup
	$(BIN)/python benchmarks/uncertainty.py
	# Of maps that bench-coordinates keeps.
	$(BIN)/python benchmarks/cascade.py whole=bench/coordinates/structure-sfm.map \
	  --guides coordinates=bench/coordinates/default-sfm.map

bench-speed: setup
	$(BIN)/python benchmarks/speed.py

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "placecell needs Python 3.11 or newer, '$(PYTHON)' is not; name another: make PYTHON=python3.12 setup"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(RUN_READY): pyproject.toml constraints.txt | $(BIN)/pip
	$(INSTALL) -e .
	@touch $@

$(DEV_READY): pyproject.toml constraints.txt | $(BIN)/pip
	$(INSTALL) -e '.[dev]'
	@touch $@ $(RUN_READY)
