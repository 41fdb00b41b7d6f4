# `make test` and `make book` work on a fresh machine with Python 3.11, 3.12 or 3.13: each first makes
# the virtual environment .venv with the exact versions of constraints.txt. `make CONSTRAINTS= ...`
# takes the newest versions that pyproject.toml allows.

PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
BUILD := $(BIN)/jupyter-book build . -W -n --keep-going

.PHONY: help env test labs book check pdf links notebooks bench clean
.DELETE_ON_ERROR:

help: ## show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s%s\n", $$1, $$2}'

env: $(INSTALLED) ## make the virtual environment .venv

$(INSTALLED): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { \
	  echo "fertools needs Python 3.11, 3.12 or 3.13, but $(PYTHON) is: $$($(PYTHON) --version 2>&1)."; \
	  echo "Name another one: make PYTHON=python3.12 $(or $(MAKECMDGOALS),help)"; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(addprefix -c ,$(CONSTRAINTS)) \
	  -e ".[export,render,test,book,tensorboard]"
	@touch $@

test: $(INSTALLED) ## check style and types, then run the tests
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m pytest

labs: $(INSTALLED) ## make the labs: notebooks, solutions, a zip for a course, an autograder's input
	$(BIN)/python book/labs/make_labs.py

# A page is executed where its cells changed, or something that it imports or reads: see stale.py.
book: $(INSTALLED) labs ## build the book into _build/html; a warning is an error
	$(BIN)/python -m pytest -q tests/book/test_pairs.py
	$(BIN)/python book/_tools/stale.py
	$(BUILD)
	$(BIN)/python -m pytest -q tests/book/test_html.py tests/book/test_labs.py -k "test_html or published" --built
	@echo "The book is ready: open _build/html/index.html"

check: book ## look at every page in Chromium: accessible in both themes, on a telephone, offline
	$(BIN)/python -m pytest -q tests/book/test_accessibility.py --built

pdf: book ## print the book to _build/book.pdf, with Chromium
	$(BUILD) --builder singlehtml
	mv _build/singlehtml/book/index.html _build/singlehtml/book.html # from where its addresses are right
	$(BIN)/python book/_tools/pdf.py _build/singlehtml/book.html _build/book.pdf

links: book ## ask every other host that the book links to whether the page is there
	$(BUILD) --builder linkcheck

notebooks: $(INSTALLED) ## write each chapter's .ipynb from its .md
	$(BIN)/jupytext --quiet --to ipynb --update $(shell grep -lE '^jupytext:' book/*.md)

bench: $(INSTALLED) ## measure the speed of training, of inference and of prediction
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/predict.py

clean: ## remove what was built, and .venv
	rm -rf _build $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
