# Each goal sets up what it needs; `make demo` and `make test` are all that a newcomer has to type.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SOURCES := taggants jobs tests benchmarks docs

export RAY_USAGE_STATS_ENABLED := 0

.PHONY: demo test test-fast test-rest test-all lint type check bench docs clean

demo: $(VENV)/.installed ## sign scikit-learn's digits, train victims and controls, print the certificates
	$(BIN)/taggants demo

# Two tests at a time; pytest-xdist keeps those together that share a server (tests/conftest.py).
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadgroup

test: $(VENV)/.installed-dev ## all tests but the long end-to-end ones: 6 minutes on 2 cores
	$(PYTEST) -m "not slow"

test-fast: $(VENV)/.installed-dev ## the tests without Ray, S3 and end-to-end runs
	$(PYTEST) -m "not ray and not s3 and not slow"

test-rest: $(VENV)/.installed-dev ## the long end-to-end tests, which `make test` leaves out
	$(PYTEST) -m slow

test-all: test test-rest ## every test but those for GPUs

lint: $(VENV)/.installed-dev type ## style, types and the import contracts
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/lint-imports

bench: $(VENV)/.installed-dev ## crafting speed against peers, as a table: about half an hour
	$(BIN)/pip install --quiet --editable '.[bench]'
	$(BIN)/python benchmarks/crafting.py

docs: $(VENV)/.installed-docs ## the documentation as a folder of pages, site/index.html first; any warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

type: $(VENV)/.installed-dev
	$(BIN)/mypy

check: lint test-all ## what CI runs

clean: ## removes caches, keeps the environment, runs and secrets
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --editable .
	touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --editable '.[docs]'
	touch $@ $(VENV)/.installed
