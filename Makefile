# The two commands: `make table2` and `make test`. Both make .venv first and keep it until the pinned versions change.

PYTHON ?= python3
BIN := .venv/bin
# What is installed has the hashes of envs/lock*.txt (docs/security.md); nothing is resolved, nothing built from elsewhere.
PIP = $(BIN)/python -m pip install --disable-pip-version-check --no-deps
LOCKED = $(PIP) --require-hashes --requirement
PINS := pyproject.toml $(wildcard envs/lock*.txt)

.DEFAULT_GOAL := help
.PHONY: help table2 test test-slurm lock clean

help:
	@echo "make table2       run the default experiment and print its table (results/table2.*; what it cost: results/cost.*)"
	@echo "make test         run the whole test suite"
	@echo "make test-slurm   run a part of the workflow through a SLURM that is started here (root, Debian packages)"
	@echo "make lock         look up the hashes of the pinned versions anew"
	@echo "make clean        remove .venv; results/ stays"

.venv/created:
	$(PYTHON) -m venv .venv
	@touch $@

# A CPU build of torch where pip is told of one, the registry's with CUDA otherwise: the first of both that can be had.
.venv/installed: .venv/created $(PINS)
	$(LOCKED) envs/lock-build.txt
	$(LOCKED) envs/lock-cpu.txt || $(LOCKED) envs/lock-cuda.txt
	$(LOCKED) envs/lock.txt --no-build-isolation
	$(PIP) --no-build-isolation --editable .
	$(BIN)/python -m pip check
	@touch $@

# After a change of versions in pyproject.toml or constraints.txt: the hashes of what they name.
lock: .venv/created
	$(PYTHON) -m venv .venv/lock
	.venv/lock/bin/python -m pip install --quiet --disable-pip-version-check pip-tools==7.6.2
	.venv/lock/bin/python envs/lock.py

# Snakemake's lock outlives a run that was killed. It is taken away where the process that made it is gone.
table2: .venv/installed
	@mkdir -p .snakemake
	@if [ -n "$$(ls .snakemake/locks 2>/dev/null)" ] && [ -f .snakemake/make.pid ] \
	    && ! kill -0 "$$(cat .snakemake/make.pid)" 2>/dev/null; then $(BIN)/snakemake --unlock; fi
	@sh -c 'echo $$$$ > .snakemake/make.pid; exec $(BIN)/snakemake --cores all results/table2.csv results/cost.csv'
	@$(BIN)/altq show results/table2.csv

test: .venv/installed
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

test-slurm: .venv/installed
	$(BIN)/python -m pytest -m slurm -rs

clean:
	rm -rf .venv
