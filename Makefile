# make run    the main job, on a fresh machine          make test   the tests
# make setup  the environment alone                     make check  lint, types, tests
# make stack  Prefect, a worker, MLflow, deployments, on loopback; stack-status, stack-down
#             PREFECT_PORT=4200 MLFLOW_PORT=5000 S3=folder|moto|ENDPOINT S3_PORT=9000
# make test-faults  the tests that pull plugs at many more instants; hours
# make bench  speed; bench-frontier, bench-store, ...
# make gpu    what is owed a CUDA device: parity, memory, tiers, a row of the frontier
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Three processes on two cores, as tests wait for servers and for each other's processes; one that has
# nothing left takes tests from the end of another's list.
TESTS := $(BIN)/python -m pytest --numprocesses 3 --dist worksteal
export HF_HUB_OFFLINE ?= 1

.PHONY: setup run test test-faults check stack stack-status stack-down bench gpu clean

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

# What takes minutes: processes killed, servers stopped, the whole stack, faults at many instants.
# Stopped, it goes on with those that did not pass yet.
test-faults: setup
	$(BIN)/python -m pytest -m faults --done-file=.faults-done -rA --show-capture=no $(ARGS)
	rm -f .faults-done

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(TESTS)

stack: setup
	@$(BIN)/autofreeze stack up $(if $(PREFECT_PORT),--prefect-port $(PREFECT_PORT)) \
		$(if $(MLFLOW_PORT),--mlflow-port $(MLFLOW_PORT)) $(if $(S3),--s3 $(S3)) \
		$(if $(S3_PORT),--s3-port $(S3_PORT))

stack-status stack-down: stack-%: setup
	@$(BIN)/autofreeze stack $*

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
