# `make test` and `make book` work on a fresh machine with Python 3.11, 3.12 or 3.13: each first makes
# the virtual environment .venv with the exact versions of constraints.txt.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: help env test book notebooks bench clean
.DELETE_ON_ERROR:

help: ## show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s%s\n", $$1, $$2}'

env: $(INSTALLED) ## make the virtual environment .venv

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { \
	  echo "fertools needs Python 3.11, 3.12 or 3.13, but $(PYTHON) is: $$($(PYTHON) --version 2>&1)."; \
	  echo "Name another one: make PYTHON=python3.12 $(or $(MAKECMDGOALS),help)"; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test,book,tensorboard]"
	@touch $@

test: $(INSTALLED) ## check style and types, then run the tests
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m pytest

# A page is executed again when its own text changed. What it imports or reads is watched here: where
# that changed, everything built is dropped, the cache of executed pages with it.
BOOK_READS := $(INSTALLED) _config.yml $(shell find fertools -name '*.py') \
  $(wildcard data/*.csv data/runs/*/record.json)

_build/.started: $(BOOK_READS)
	rm -rf _build
	@mkdir -p _build && touch $@

book: _build/.started ## build the book into _build/html; a warning is an error
	$(BIN)/python -m pytest -q tests/book
	$(BIN)/jupyter-book build . -W -n --keep-going
	@echo "The book is ready: open _build/html/index.html"

notebooks: $(INSTALLED) ## write each chapter's .ipynb from its .md
	$(BIN)/jupytext --quiet --to ipynb --update $(shell grep -lE '^jupytext:' book/*.md)

bench: $(INSTALLED) ## measure the speed of training and of inference
	$(BIN)/python benchmarks/speed.py

clean: ## remove what was built, and .venv
	rm -rf _build $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
