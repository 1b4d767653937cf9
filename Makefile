# The two commands: `make table2` and `make test`. Both make .venv first and keep it until the pinned versions change.

PYTHON ?= python3
BIN := .venv/bin
INSTALL = $(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable
PINS := pyproject.toml constraints.txt

.DEFAULT_GOAL := help
.PHONY: help table2 test test-slurm clean

help:
	@echo "make table2       run the default experiment and print its table (results/table2.*; what it cost: results/cost.*)"
	@echo "make test         run the whole test suite"
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

.venv/installed-slurm: .venv/installed-test
	$(INSTALL) '.[test,slurm]'
	@touch $@

test-slurm: .venv/installed-slurm
	$(BIN)/python -m pytest -m slurm -rs

clean:
	rm -rf .venv
