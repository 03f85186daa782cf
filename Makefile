SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
BIN := .venv/bin
# The tests' maps are too small for threads to help: files of tests share the cores instead.
THREADS := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

.PHONY: help quickstart test lint types bench bench-gpu clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/ -/'

quickstart: quickstart/table.txt  ## install, run the whole job on the built-in example, print the table
	@cat quickstart/table.txt

test: .venv/installed-dev  ## run the tests
	$(THREADS) $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile

lint: .venv/installed-dev  ## check style and spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

types: .venv/installed-dev  ## check types
	$(BIN)/mypy

bench: .venv/installed-bench  ## measure speed, bytes and memory, beside other readers too
	$(BIN)/python -m tests.benchmarks

bench-gpu: .venv/installed-bench  ## measure training and extraction on a GPU
	$(BIN)/python -m tests.benchmarks.gpu

clean:  ## remove the environment and the results of quickstart and bench
	rm -rf .venv quickstart bench

.venv/created:
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 10) <= sys.version_info[:2] <= (3, 12) else "$(PYTHON) is not Python 3.10 to 3.12: run make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv .venv
	@touch $@

# One resolve for everything: torch and torchvision must come as a pair.
.venv/installed: .venv/created setup.cfg pyproject.toml
	$(BIN)/python -m pip install -e .
	@touch $@

.venv/installed-dev: .venv/created setup.cfg pyproject.toml
	$(BIN)/python -m pip install -e '.[dev]'
	@touch $@

.venv/installed-bench: .venv/created setup.cfg pyproject.toml tests/benchmarks/peers-requirements.txt
	$(BIN)/python -m pip install -e '.[dev]' -r tests/benchmarks/peers-requirements.txt
	@touch $@

quickstart/trained: configs/quickstart.yaml | .venv/installed
	rm -rf quickstart
	mkdir quickstart
	cd quickstart && ../$(BIN)/extract-features --split train --split val --config quickstart
	cd quickstart && ../$(BIN)/train-level --level all --config quickstart
	@touch $@

quickstart/table.txt: quickstart/trained
	$(BIN)/analyze-levels --config quickstart --features quickstart/features/quickstart \
		--checkpoints quickstart/checkpoints --report quickstart/report \
		--anchors none > $@
