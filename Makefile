# The menu of the repository. Every target sets up what it needs: a virtual environment in .venv.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
SOURCES = core plugins tests benchmarks

.PHONY: demo test lint types bench clean

demo: $(VENV)/ready    ## train and ask a tiny model on real images, offline, in two minutes
	$(BIN)/vlcore demo

test: $(VENV)/ready    ## every test
	$(BIN)/python -m pytest -q --numprocesses auto

lint: $(VENV)/ready    ## style
	$(BIN)/ruff check $(SOURCES)

types: $(VENV)/ready   ## types
	$(BIN)/mypy core/src plugins/*/src

bench: $(VENV)/ready   ## what the figures in the docs come from
	for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

$(VENV)/ready: constraints.txt core/pyproject.toml $(wildcard plugins/*/pyproject.toml)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable 'core[datasets,deepspeed,demo,fast,metrics,qlora,serve,video,web]' \
	    $(addprefix --editable ,$(wildcard plugins/*)) --requirement requirements-dev.txt
	touch $@

clean:                 ## remove what the targets made
	rm -rf $(VENV) demo output
