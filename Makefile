# `make test` and `make book` work on a fresh machine with Python 3.11 to 3.14: each first makes the
# virtual environment .venv with the exact versions of constraints.txt. `make CONSTRAINTS= ...` takes
# the newest versions that pyproject.toml allows.

PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
BUILD := $(BIN)/jupyter-book build . -W -n --keep-going
CORES := $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)
WORKERS ?= $(shell [ $(CORES) -lt 4 ] && echo $(CORES) || echo 4)

# Work is spread over processes with one thread each. Threads of one process that wait for each other
# stand still as soon as another program needs their core; processes only become slower.
test book check: export OMP_NUM_THREADS ?= 1
test book check: export OMP_WAIT_POLICY ?= passive

.PHONY: help env test labs book check slides pdf links notebooks wheel bench clean
.DELETE_ON_ERROR:

help: ## show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s%s\n", $$1, $$2}'

env: $(INSTALLED) ## make the virtual environment .venv

$(INSTALLED): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' || { \
	  echo "fertools needs Python 3.11 to 3.14, but $(PYTHON) is: $$($(PYTHON) --version 2>&1)."; \
	  echo "Name another one: make PYTHON=python3.13 $(or $(MAKECMDGOALS),help)"; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(addprefix -c ,$(CONSTRAINTS)) \
	  -e ".[test,book]"
	@touch $@

test: $(INSTALLED) ## check style and types, then run the tests
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup --max-worker-restart 0

# SEED=2027 gives this term's labs: other constants, tasks, and images. EXECUTE=1 adds outputs to the solutions.
labs: $(INSTALLED) ## make the labs: notebooks, solutions, a zip for a course, an autograder's input, and a question bank
	$(BIN)/python book/labs/make_labs.py $(if $(SEED),--seed $(SEED)) $(if $(EXECUTE),--execute)
	$(BIN)/python book/quizzes/make_quizzes.py

# A page is executed if its cells changed (execute.py), or something that it imports or reads (stale.py).
book: EXECUTE := 1
book: $(INSTALLED) labs ## build the book into _build/html; a warning is an error
	$(BIN)/python -m pytest -q tests/book/test_notebooks.py
	$(BIN)/python book/_tools/stale.py
	$(BIN)/python book/_tools/execute.py
	$(BUILD)
	$(BIN)/python book/_tools/slides.py
	$(BIN)/python -m pytest -q tests/book/test_html.py tests/book/test_labs.py -k "test_html or published" --built
	@echo "The book is ready: open _build/html/index.html"

check: book ## check every page in Chromium, and grade every lab with the autograder
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal tests/book/test_otter.py tests/book/test_accessibility.py \
	  tests/book/test_play.py tests/book/test_slides.py tests/book/interactive --built

slides: $(INSTALLED) ## make the slides again, from the built book, into _build/html/slides
	$(BIN)/python book/_tools/slides.py

pdf: book ## print the book and its reproducibility summary to _build/*.pdf, with Chromium
	$(BUILD) --builder singlehtml
	mv _build/singlehtml/book/index.html _build/singlehtml/book.html # from where its addresses are right
	$(BIN)/python book/_tools/pdf.py _build/singlehtml/book.html _build/book.pdf
	$(BIN)/python book/_tools/pdf.py _build/html/book/reproducibility.html _build/reproducibility.pdf

links: book ## check every link to another host
	$(BUILD) --builder linkcheck

notebooks: $(INSTALLED) ## write each chapter's .ipynb from its .md
	$(BIN)/python book/_tools/notebooks.py

wheel: $(INSTALLED) ## build the wheel and the source archive into dist/
	rm -rf dist
	$(BIN)/python -m build --no-isolation

bench: $(INSTALLED) ## measure the speed of training, inference, and prediction
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/prediction.py

clean: ## remove everything that was built, and .venv
	rm -rf _build dist $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
