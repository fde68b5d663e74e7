# The menu of the repository. Every target sets up what it needs: a virtual environment in .venv.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
SOURCES = .ci core plugins tests benchmarks examples docs_site

.PHONY: demo test lint types docs bench wheels clean-install release matrix clean

demo: $(VENV)/ready    ## train and ask a tiny model on real images, offline, in two minutes
	$(BIN)/vlcore demo

test: $(VENV)/ready    ## every test
	$(BIN)/python -m pytest -q --numprocesses auto

lint: $(VENV)/ready    ## style
	$(BIN)/ruff check $(SOURCES)

types: $(VENV)/ready   ## types
	$(BIN)/mypy core/src plugins/*/src docs_site

docs: $(VENV)/ready    ## the site of the docs, in site/; a link that leads nowhere fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: $(VENV)/ready   ## what the figures in the docs come from
	for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

wheels: $(VENV)/ready  ## a wheel and a source distribution of every project, in dist/
	$(BIN)/python .ci/wheels.py dist

clean-install: wheels  ## the wheels in an environment that has nothing else, and the README's first question there
	$(BIN)/python .ci/clean_install.py dist

release: $(VENV)/ready ## VERSION=1.2.3: whether that may be released, and what is to be uploaded
	$(BIN)/python .ci/release.py $(VERSION)
	$(MAKE) clean-install

matrix:                ## loading, parity and training with the oldest and the newest libraries the projects allow
	$(PYTHON) .ci/matrix.py

$(VENV)/ready: constraints.txt core/pyproject.toml $(wildcard plugins/*/pyproject.toml)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable 'core[datasets,deepspeed,demo,fast,metrics,qlora,serve,smolvlm,video,web]' \
	    $(addprefix --editable ,$(wildcard plugins/*)) --requirement requirements-dev.txt
	touch $@

clean:                 ## remove what the targets made
	rm -rf $(VENV) demo dist output site
