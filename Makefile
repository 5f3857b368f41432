# Every target sets up what it needs; `make demo` and `make test` are all a newcomer has to type.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PATHS := proto/gen:chassis/src:services/customer/src:services/analytics/src:services/gateway/src:deploy:.
RUN := PYTHONPATH=$(PATHS) $(BIN)/python
CONTRACTS := $(shell find proto -name '*.proto' -not -path 'proto/gen/*') proto/generate.py

.DEFAULT_GOAL := help
.PHONY: help setup demo up test chaos fuzz bench check format secrets lock broker clean

help: ## Show what can be done here
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: proto/gen/contracts.binpb broker ## Install what the platform runs, checks and tests with

demo: setup ## Run the main job on real input and check it; DATA=<csv> to bring your own
	@$(RUN) -m simulator.demo

up: setup ## Run everything until Ctrl-C; the data stays in .run
	@$(RUN) -m stack

test: setup ## Run every test on real servers
	@$(BIN)/python -m pytest

chaos: setup ## Break everything on purpose and check every promise; SEED=, MINUTES=, BUGS=, DIRECTORY=
	@$(RUN) -m chaos

fuzz: setup ## Send what nobody would send, to gateways and parsers; SEED=, MINUTES=, DIRECTORY=, REPLAY=
	@$(RUN) -m fuzz

bench: setup ## Measure everything beside its yardstick; FIGURES=, ROUNDS=, SECONDS=, ROWS=
	@$(RUN) -m bench

check: setup ## Check format, style, types, imports and manifests
	@$(BIN)/ruff format --check --quiet . || (echo "run 'make format'"; exit 1)
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary
	@PYTHONPATH=$(PATHS) $(BIN)/lint-imports --no-cache --config pyproject.toml > .run-imports.log || (cat .run-imports.log; rm -f .run-imports.log; exit 1)
	@rm -f .run-imports.log
	@$(BIN)/python -m pytest -q tests/architecture tests/contract
	@echo "check: all is well"

format: setup ## Bring every file into its form
	@$(BIN)/ruff check --quiet --fix-only .
	@$(BIN)/ruff format --quiet .

secrets: setup ## Make random secrets for the local Kubernetes overlay
	@$(RUN) -m make_secrets k8s/overlays/local/secrets

lock: ## Pin requirements.in anew, with hashes
	@$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --python-version 3.11 requirements.in -o requirements.lock

broker:
	@PYTHON=$(PYTHON) sh deploy/setup_broker.sh

$(VENV)/installed: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || (echo "Python 3.11 or newer is needed; set PYTHON=<its path>"; exit 1)
	@echo "setting up $(VENV) (some minutes the first time)"
	@$(PYTHON) -m venv $(VENV) || (echo "python3-venv is needed: apt-get install python3-venv"; exit 1)
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock
	@touch $@

proto/gen/contracts.binpb: $(VENV)/installed $(CONTRACTS)
	@$(BIN)/python proto/generate.py
	@touch $@

clean: ## Remove what was installed, generated and stored here
	@rm -rf $(VENV) proto/gen .run .mypy_cache .ruff_cache .pytest_cache .hypothesis
