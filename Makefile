# The two commands: `make table2` and `make test`; the others are for who works on altq. All make .venv first, and keep it
# until the pinned versions change.

PYTHON ?= python3
BIN := .venv/bin
INSTALL = $(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable
PINS := pyproject.toml constraints.txt

.DEFAULT_GOAL := help
.PHONY: help table2 test test-fast test-slurm lint docs clean

help:
	@echo "make table2       run the default experiment and print its table (results/table2.*; what it cost: results/cost.*)"
	@echo "make test         run the whole test suite"
	@echo "make test-fast    run the tests that take seconds, in under three minutes on two cores"
	@echo "make lint         check style, types and the layout of the rules"
	@echo "make docs         build the documentation's site (site/index.html)"
	@echo "make test-slurm   run a part of the workflow through a SLURM that is started here (root, Debian packages)"
	@echo "make clean        remove .venv; results/ stays"

.venv/created:
	$(PYTHON) -m venv .venv
	@touch $@

.venv/installed: .venv/created $(PINS)
	$(INSTALL) .
	@touch $@

.venv/installed-test: .venv/installed
	$(INSTALL) '.[test]'
	@touch $@

# Snakemake's lock outlives a run that was killed. It is taken away where the process that made it is gone.
table2: .venv/installed
	@mkdir -p .snakemake
	@if [ -n "$$(ls .snakemake/locks 2>/dev/null)" ] && [ -f .snakemake/make.pid ] \
	    && ! kill -0 "$$(cat .snakemake/make.pid)" 2>/dev/null; then $(BIN)/snakemake --unlock; fi
	@sh -c 'echo $$$$ > .snakemake/make.pid; exec $(BIN)/snakemake --cores all results/table2.csv results/cost.csv'
	@$(BIN)/altq show results/table2.csv

test: .venv/installed-test
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

# What is left out are processes that import torch again (the workflow, the command line), and what is marked slow.
test-fast: .venv/installed-test
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile -m "not slow" --ignore tests/workflow

.venv/installed-lint: .venv/installed
	$(INSTALL) '.[lint]'
	@touch $@

PYTHON_FILES := altq kernels tests benchmarks

lint: .venv/installed-lint
	$(BIN)/ruff check $(PYTHON_FILES)
	$(BIN)/ruff format --check $(PYTHON_FILES)
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile rules

.venv/installed-docs: .venv/installed
	$(INSTALL) '.[docs]'
	@touch $@

docs: .venv/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

.venv/installed-slurm: .venv/installed-test
	$(INSTALL) '.[test,slurm]'
	@touch $@

test-slurm: .venv/installed-slurm
	$(BIN)/python -m pytest -m slurm -rs

clean:
	rm -rf .venv
