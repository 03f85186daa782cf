SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# Named by the user, or the first of these that really runs; last comes uv, which fetches one.
PYTHON ?=
PYTHONS := $(or $(PYTHON),python3.12 python3.11 python3.10 python3)
# Also whether it can make environments: Debian packs ensurepip apart. A shim of pyenv with no version
# behind it fails here, too.
IS_FIT := import ensurepip, sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))
BIN := .venv/bin
# The tests' maps are too small for threads to help: files of tests share the cores instead. One more
# than there are cores, since some wait for processes that they start, stop and kill.
THREADS := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
WORKERS := $(shell cores=$$(nproc 2>/dev/null || echo 2); echo $$((cores < 8 ? cores + 1 : 8)))

# pip takes each one to the letter.
WHEEL_PLATFORMS := $(foreach n,17 24 27 28 31 34 35,manylinux_2_$(n)_x86_64) manylinux2014_x86_64

# Hundreds of processes begin in one run; each would compile all sources anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help quickstart test fuzz lint types docs bench bench-gpu soak gpu-check gpu-check-bare \
	gpu-check-wheels clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/ -/'

quickstart: quickstart/summary.txt  ## install, run the whole job on the built-in example, print what came out
	@cat quickstart/summary.txt

test: .venv/installed-dev  ## run the tests
	$(THREADS) $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

fuzz: .venv/installed-dev  ## alter files of every kind ten thousand times, and read them: an hour
	rm -rf fuzz
	$(THREADS) $(BIN)/python -m tests.fuzzing

lint: .venv/installed-dev  ## check style and spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

types: .venv/installed-dev  ## check types
	$(BIN)/mypy

docs: .venv/installed-docs  ## build the documentation into site/, and run its tutorial as a notebook
	$(BIN)/mkdocs build --strict
	$(BIN)/python docs/notebook.py docs/tutorial.md site/tutorial.ipynb

bench: .venv/installed-bench  ## measure speed, bytes and memory, beside other readers too
	$(BIN)/python -m tests.benchmarks

bench-gpu: .venv/installed-bench  ## measure training and extraction on a GPU
	$(BIN)/python -m tests.benchmarks.gpu

soak: .venv/installed-dev  ## train, extract and analyse for long, and see that nothing grows
	$(THREADS) $(BIN)/python -m tests.soak

gpu-check: .venv/installed-dev  ## in 8 minutes, all that only a GPU can show; on a CPU, in small
	$(BIN)/python -m tests.gpu_check

# A machine that has torch and much else, but no network: what it lacks comes along as wheels.
gpu-check-wheels: .venv/created  ## fetch what gpu-check-bare needs beside torch, for Python 3.12
	$(BIN)/python -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 \
		--implementation cp $(addprefix --platform ,$(WHEEL_PLATFORMS)) \
		-r tests/gpu_check/wheels.txt -d gpu-check-wheels
	@du -sh gpu-check-wheels

gpu-check-bare:  ## gpu-check by the system's Python and torch, without a network
	python3 -m pip install -q --no-index --no-deps --no-compile --upgrade --target gpu-check/site \
		gpu-check-wheels/*.whl
	PYTHONPATH=$(CURDIR)/gpu-check/site python3 -m tests.gpu_check

clean:  ## remove the environment and the results of quickstart, fuzz, docs, bench, soak and gpu-check
	rm -rf .venv quickstart fuzz site bench soak gpu-check gpu-check-wheels

.venv/created:
	@for python in $(PYTHONS); do \
		if $$python -c '$(IS_FIT)' 2>/dev/null; then \
			echo "$$python -m venv .venv"; $$python -m venv .venv; touch $@; exit; \
		fi; \
	done; \
	if [[ -z "$(PYTHON)" ]] && command -v uv >/dev/null; then \
		echo "uv venv --seed --python 3.12 .venv"; uv venv --seed --python 3.12 .venv; touch $@; exit; \
	fi; \
	echo "error: none of these is a Python 3.10 to 3.12 that can make environments: $(PYTHONS)." >&2; \
	echo "Install one (apt-get install python3.12-venv, brew install python@3.12), or uv, and run make" \
		"again; or say where it is: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; \
	exit 1

# One resolve for everything: torch and torchvision must come as a pair.
.venv/installed: .venv/created setup.cfg pyproject.toml
	$(BIN)/python -m pip install -e .
	@touch $@

.venv/installed-dev: .venv/created setup.cfg pyproject.toml
	$(BIN)/python -m pip install -e '.[dev]'
	@touch $@

.venv/installed-docs: .venv/created setup.cfg pyproject.toml
	$(BIN)/python -m pip install -e '.[docs]'
	@touch $@

.venv/installed-bench: .venv/created setup.cfg pyproject.toml tests/benchmarks/peers-requirements.txt
	$(BIN)/python -m pip install -e '.[dev]' -r tests/benchmarks/peers-requirements.txt
	@touch $@

quickstart/trained: configs/quickstart.yaml | .venv/installed
	rm -rf quickstart
	mkdir quickstart
	cd quickstart && ../$(BIN)/extract-features --split train --split val --config quickstart
	cd quickstart && ../$(BIN)/train-level --level all --lambda 0.02 --lambda 0.05 --lambda 0.15 \
		--config quickstart
	@touch $@

quickstart/summary.txt: quickstart/trained
	$(BIN)/analyze-levels --config quickstart --features quickstart/features/quickstart \
		--checkpoints quickstart/checkpoints --report quickstart/report \
		--target-map-drop 0.05 --anchors uniform,klt,float16,image-av1 > $@
