# `make train` and `make test` each work first, on a machine with git, make and Python 3.11+ (venv, pip).
PYTHON ?= python3
CONFIG ?= configs/mobilenet.py
BIN := .venv/bin

.PHONY: train test test-slow lint clean

train: .venv/.train
	$(BIN)/python train.py --config=$(CONFIG) $(ARGS)

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: .venv/.test
	JAX_DISABLE_MOST_OPTIMIZATIONS=0 $(BIN)/python -m pytest -m slow

lint: .venv/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache

$(BIN)/python:
	$(PYTHON) -m venv .venv

# A stamp is touched only after pip succeeded, so an interrupted install is taken up again.
.venv/.train: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

.venv/.test: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@ .venv/.train
