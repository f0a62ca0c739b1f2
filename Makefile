# Everything happens in .venv. `make demo` and `make test` set it up themselves; `make bench` puts
# the peers that it compares with into .venv-bench.
#
#   DATASET        digits or mnist, for the demo
#   WORKERS        processes that run tests side by side
#   TORCH_INDEX_URL  package index to take torch from, for example one with CPU builds only

PYTHON ?= python3
DATASET ?= digits
WORKERS ?= 2
VENV := .venv
PEERS := .venv-bench
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

export FLWR_TELEMETRY_ENABLED = 0
export FLWR_DISABLE_UPDATE_CHECK = 1

.PHONY: install demo test test-long bench mcmahan lint lab clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "NeuroNexus needs Python 3.11 or newer; give one with PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(if $(TORCH_INDEX_URL),$(BIN)/python -m pip install --quiet --index-url $(TORCH_INDEX_URL) -c constraints.txt torch)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test]'
	touch $@

demo: install
	exec $(BIN)/neuronexus demo --dataset $(DATASET)

test: install lint
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "not long"

test-long: install
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m long

bench: install $(PEERS)/.installed
	$(BIN)/python tests/benchmarks/run.py --json bench.json

$(PEERS)/.installed: tests/benchmarks/peers/requirements.txt
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(if $(TORCH_INDEX_URL),$(PEERS)/bin/python -m pip install --quiet --index-url $(TORCH_INDEX_URL) torch==2.13.0)
	$(PEERS)/bin/python -m pip install --quiet -r tests/benchmarks/peers/requirements.txt
	touch $@

mcmahan: install
	$(BIN)/python tests/benchmarks/mcmahan.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

lab: install
	exec $(BIN)/jupyter lab notebooks

clean:
	rm -rf $(VENV) $(PEERS) dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
