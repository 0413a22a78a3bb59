# `make train` and `make test` set everything up on a machine that has only git, make and Python 3.11 to 3.13 (venv, pip).
PYTHON ?= python3
CONFIG ?= configs/mobilenet.py
BIN := .venv/bin

.PHONY: train test test-slow bench lint clean

train: .venv/.train
	$(BIN)/python train.py --config=$(CONFIG) $(ARGS)

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-slow: .venv/.test
	JAX_DISABLE_MOST_OPTIMIZATIONS=0 $(BIN)/python -m pytest -m slow

# DATA is in the ISIC archive's layout, WEIGHTS the folder of Keras's weights, and TORCH_PYTHON, which is optional, the
# interpreter of an environment with PyTorch. Nothing else should run meanwhile. A result replaces the older one when it
# is complete.
ARGS_train_step = $(addprefix --torch-python ,$(TORCH_PYTHON))
ARGS_predict = --data $(DATA)
ARGS_startup = --data $(DATA) --weights $(WEIGHTS)/mobilenet_1_0_224_tf_no_top.h5
ARGS_scale = --data $(DATA)
ARGS_article = --data $(DATA) --weights $(WEIGHTS)/mobilenet_2_5_224_tf_no_top.h5

bench: .venv/.test
	$(if $(and $(DATA),$(WEIGHTS)),,$(error usage: make bench DATA=DIR WEIGHTS=DIR [TORCH_PYTHON=FILE]))
	set -e; $(foreach name,train_step step_profile inference predict startup scale article, \
		$(BIN)/python -m benchmarks.$(name) $(ARGS_$(name)) > benchmarks/results/$(name).tmp; \
		mv benchmarks/results/$(name).tmp benchmarks/results/$(name:article=keras_article).md;)

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
