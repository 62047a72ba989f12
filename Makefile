# Everything a user or a contributor types. `make help` lists it.

PYTHON ?= python3
VENV ?= .venv
# Where torch comes from. Empty: the index pip is configured for. On the public network the default index has
# the CUDA build; the CPU build is much smaller: make env TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
# What is added to every snakemake command, e.g. SNAKEMAKE_FLAGS="--cores 8" or "--workflow-profile profiles/gpu"
SNAKEMAKE_FLAGS ?=
# two workers, the tests of a file on one of them: what two cores take. PYTEST_FLAGS= runs them one after another
PYTEST_FLAGS ?= -n 2 --dist loadfile

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SNAKEMAKE := $(BIN)/snakemake --cores all $(SNAKEMAKE_FLAGS)
# shfmt, which snakefmt calls, and python are found there
export PATH := $(abspath $(BIN)):$(PATH)
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /usr/bin/env bash
.SHELLFLAGS := -euo pipefail -c

.PHONY: help env demo smoke plan test test-fast test-unit test-golden test-workflow test-slow test-long test-slurm \
  test-faults docs fuzz bench audit licences package lint types format lock clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

env: $(STAMP)  ## create .venv with the pinned requirements; does nothing if it is up to date

$(STAMP): requirements/torch.txt requirements/lock.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' \
	  || { echo "Python 3.11 or 3.12 is needed: make env PYTHON=python3.11" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) -r requirements/torch.txt
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r requirements/lock.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	$(BIN)/python -m pip check
	touch $@

demo: env  ## train, specialise and score the demonstration (config.yaml); ends with the score table
	$(SNAKEMAKE)

smoke: env  ## the whole workflow on a tiny configuration (configs/smoke.yaml)
	$(SNAKEMAKE) --configfile configs/smoke.yaml

plan: env  ## what `make demo` would run, and which models it would train; CONFIG=configs/… for another one
	@$(SNAKEMAKE) --dry-run $(if $(CONFIG),--configfile $(CONFIG)) > $(VENV)/plan.txt 2>&1 \
	  || { cat $(VENV)/plan.txt >&2; exit 1; }
	@sed -n '/^warning: /p; /^made with other settings/,/^  next: /p; /missing provenance/p' $(VENV)/plan.txt
	@sed -n '/^Nothing to be done/p; /^Job stats/,/^total/p; /^total/q' $(VENV)/plan.txt
	@grep -oE 'Train .*(updates).*' $(VENV)/plan.txt || echo "No model would be trained."

# lint, and what test-unit, test-golden, test-workflow, test-slow and docs do, balanced over the workers
test: env lint  ## lint and the tests, the smoke run included; not test-long, test-slurm and test-faults
	$(BIN)/python -m pytest $(PYTEST_FLAGS)

test-fast: env  ## the tests that take seconds
	$(BIN)/python -m pytest -m "not slow and not smoke and not network" $(PYTEST_FLAGS)

test-unit: env  ## the fast, pure tests, and a few cases of each fuzz target
	$(BIN)/python -m pytest $(PYTEST_FLAGS) tests/unit tests/fuzz

test-golden: env  ## numbers of the reference implementation; needs its data (NS_SHARED), else most are skipped
	$(BIN)/python -m pytest $(PYTEST_FLAGS) tests/golden

test-workflow: env  ## the rules, what reruns when, and the smoke run
	$(BIN)/python -m pytest $(PYTEST_FLAGS) tests/workflow

test-slow: env  ## small trainings for real
	$(BIN)/python -m pytest $(PYTEST_FLAGS) tests/slow

docs: env  ## the links, commands, keys, licences and versions that the documentation names
	$(BIN)/python -m pytest tests/unit/project/test_documentation.py tests/unit/project/test_configuration_page.py \
	  tests/unit/project/test_licences.py tests/unit/project/test_project_files.py

CASES ?= 10000
fuzz: env  ## CASES=10000 hostile inputs for each parser
	FUZZ_CASES=$(CASES) $(BIN)/python -m pytest $(PYTEST_FLAGS) tests/fuzz

# in the order of the page; each says what it needs (most: a finished `make demo`)
BENCHMARKS := training_throughput waiting recipe vocabulary specialised_step ffn_layer memory \
  data_loading activations masks_paper_size published_table translation startup
BENCH ?= $(BENCHMARKS)

bench: env  ## measure what docs/benchmarks.md shows, and write it anew; BENCH=ffn_layer for one; wants a quiet machine
	for name in $(BENCH); do $(BIN)/python benchmarks/$$name.py; done
	$(BIN)/python benchmarks/table.py

test-long: env  ## every mask method and a further seed for real, the wheel in a fresh environment; needs a package index
	$(BIN)/python -m pytest -m long

test-slurm: env  ## the workflow on a SLURM of one node with pretend GPUs; root and Debian's SLURM packages
	$(BIN)/python -m pytest -m slurm tests/workflow/test_slurm*.py

test-faults: env  ## kill, fill, cut and mislead a real run; root for small disks, Debian's faketime for clocks; a quarter of an hour
	$(BIN)/python -m pytest -m faults tests/workflow/faults

# --strict: a package that cannot be looked up is a failure; without it all of them missing passes as none vulnerable
audit: env  ## known vulnerabilities of the pinned packages (pip-audit, in an environment of its own; needs the network)
	test -x $(VENV)/audit/bin/pip-audit || { $(BIN)/python -m venv $(VENV)/audit && $(VENV)/audit/bin/pip install --quiet pip-audit; }
	$(VENV)/audit/bin/pip-audit --strict --require-hashes --disable-pip --requirement requirements/lock.txt
	$(VENV)/audit/bin/pip-audit --strict --no-deps --disable-pip --requirement requirements/torch.txt

package: env  ## dist/: a wheel, which brings the workflow along, and an sdist
	$(BIN)/python -m build --no-isolation

licences: env  ## write docs/licences.md: what is installed, and under which licence
	$(BIN)/python -m neuron_specialization licences --lock requirements/lock.txt --lock requirements/torch.txt \
	  --output docs/licences.md

types: env  ## mypy
	$(BIN)/mypy

lint: env types  ## ruff, mypy, snakefmt, snakemake --lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile rules
	$(BIN)/snakemake --lint > $(VENV)/lint.txt 2>&1 || { cat $(VENV)/lint.txt >&2; exit 1; }

format: env  ## rewrite the code in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile rules

# torch stays out of the lock: its CPU and CUDA builds have one version and different hashes, and CUDA packages
# of their own. Run this where pip finds the CPU build, or the CUDA packages end up in the lock.
lock: env  ## pin anew what pyproject.toml asks for (UPGRADE=1: the newest versions)
	$(BIN)/pip-compile --quiet --generate-hashes --strip-extras --extra dev --extra serve $(if $(UPGRADE),--upgrade) \
	  --constraint requirements/torch.txt --unsafe-package torch --unsafe-package pip \
	  --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
	  $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) \
	  --output-file requirements/lock.txt pyproject.toml
	! grep -E '^(nvidia|cuda|triton)' requirements/lock.txt

clean:  ## remove the environment and caches; results and downloads stay
	rm -rf $(VENV) dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
