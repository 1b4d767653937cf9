# The two commands: `make table2` and `make test`; the others are for who works on altq. All make .venv first, and keep it
# until the pinned versions change.

PYTHON ?= python3
BIN := .venv/bin
# What is installed has the hashes of envs/lock*.txt (docs/security.md); nothing is resolved, nothing built from elsewhere.
PIP = $(BIN)/python -m pip install --disable-pip-version-check --no-deps
LOCKED = $(PIP) --require-hashes --requirement
PINS := pyproject.toml $(wildcard envs/lock*.txt)

.DEFAULT_GOAL := help
.PHONY: help table2 test test-fast test-slurm gpu lint docs lock clean

help:
	@echo "make table2       run the default experiment and print its table (results/table2.*; what it cost: results/cost.*)"
	@echo "make test         run the whole test suite"
	@echo "make test-fast    run the tests that take seconds, in under three minutes on two cores"
	@echo "make lint         check style, types and the layout of the rules"
	@echo "make docs         build the documentation's site (site/index.html)"
	@echo "make test-slurm   run a part of the workflow through a SLURM that is started here (root, Debian packages)"
	@echo "make gpu          on a machine with a GPU: tests, times and memory of the kernels and stages (results/gpu.md)"
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
# A line for each job, by the plugin in rules/; what jobs write on standard error goes to a file.
table2: MESSAGES = results/logs/table2.txt
table2: .venv/installed
	@mkdir -p .snakemake results/logs
	@if [ -n "$$(ls .snakemake/locks 2>/dev/null)" ] && [ -f .snakemake/make.pid ] \
	    && ! kill -0 "$$(cat .snakemake/make.pid)" 2>/dev/null; then $(BIN)/snakemake --unlock; fi
	@echo "What jobs say: $(MESSAGES), each by itself: results/logs/; what Snakemake says: .snakemake/log/"
	@sh -c 'echo $$$$ > .snakemake/make.pid; \
	    exec env PYTHONPATH=rules $(BIN)/snakemake --logger altq --cores all results/table2.csv results/cost.csv 2> $(MESSAGES)' \
	    || { tail -n 5 $(MESSAGES); echo "Not finished; the same command goes on from here."; exit 1; }
	@$(BIN)/altq show results/table2.csv
	@echo "The table: results/table2.md (.csv, .tex, .png), how it came about: results/table2.protocol.md, its cost: results/cost.md"

gpu: .venv/installed
	$(BIN)/python benchmarks/gpu.py --output results/gpu.md

test: .venv/installed
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

# What is left out are processes that import torch again (the workflow, the command line), and what is marked slow.
test-fast: .venv/installed
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile -m "not slow" --ignore tests/workflow

PYTHON_FILES := altq kernels rules tests benchmarks envs

lint: .venv/installed
	$(BIN)/ruff check $(PYTHON_FILES)
	$(BIN)/ruff format --check $(PYTHON_FILES)
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile rules

docs: .venv/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

test-slurm: .venv/installed
	$(BIN)/python -m pytest -m slurm -rs

clean:
	rm -rf .venv
