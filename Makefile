# `make train` and `make test` set everything up on a machine that has only git, make and Python 3.11+ (venv, pip).
PYTHON ?= python3
CONFIG ?= configs/mobilenet.py
BIN := .venv/bin

.PHONY: train test test-slow lint clean

train: .venv/.train
	$(BIN)/python train.py --config=$(CONFIG) $(ARGS)

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-slow: .venv/.test
	JAX_DISABLE_MOST_OPTIMIZATIONS=0 $(BIN)/python -m pytest -m slow

lint: .venv/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

clean:
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

$(BIN)/python:
	$(PYTHON) -m venv .venv

# The stamp is touched only after pip succeeded, so that an interrupted installation is repeated.
.venv/.train: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

.venv/.test: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@ .venv/.train
