# make run    the main job, on a fresh machine          make test   the tests
# make setup  the environment alone                     make check  lint, types, tests
# make ui     MLflow and Prefect on loopback            make bench  speed; bench-frontier, bench-store, ...
# make gpu    what is owed a CUDA device: parity, memory, tiers, a row of the frontier
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Two processes; one that has nothing left takes tests from the end of the other's list.
TESTS := $(BIN)/python -m pytest --numprocesses 2 --dist worksteal
export HF_HUB_OFFLINE ?= 1
MLFLOW_PORT ?= 5000
PREFECT_PORT ?= 4200

.PHONY: setup run test check ui bench gpu clean

setup: $(READY)

$(READY): requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $(READY)

run: setup
	$(BIN)/autofreeze compare pipelines/configs/quickstart.yaml --modes hf_trainer,full,cached

test: setup
	$(TESTS)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(TESTS)

ui: setup
	BIN=$(BIN) MLFLOW_PORT=$(MLFLOW_PORT) PREFECT_PORT=$(PREFECT_PORT) infra/ui.sh

# TRAIN and TEST: CSV files with the columns text,label; without them, the docstrings.
bench: setup
	$(BIN)/python bench/speed.py --train $(or $(TRAIN),docstrings) --test $(or $(TEST),docstrings) $(ARGS)

# make bench-frontier, bench-accuracy, bench-store, ...: the file of that name in bench/; ARGS: its options.
bench-%: setup bench/%.py
	$(BIN)/python bench/$*.py $(ARGS)

# Everything that is measured on a GPU, in one go; results lie under bench/out.
gpu: setup
	$(BIN)/python bench/gpu.py $(ARGS)
	$(BIN)/python bench/frontier.py --quick --out bench/out/frontier-gpu

clean:
	rm -rf $(VENV) .autofreeze
