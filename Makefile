# Everything runs through .venv/bin/python and never through `uv run`, which would make Ray start its workers through uv.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

python := .venv/bin/python
# dvc.yaml says `python`: inside every target that is the environment's.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# Certificates of a company's own proxy are known to the system, not to uv.
export UV_SYSTEM_CERTS := true

.PHONY: help
help:  ## lists these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: .venv/.installed  ## fills .venv from requirements.lock; does nothing when it is up to date

.PHONY: repro
repro: setup  ## runs what is not up to date of scan, shard, train, evaluate, register
	$(python) -m pipeline repro

.PHONY: test
test: setup  ## runs every test but the long ones of `make faults`; warnings are errors
	$(python) -m pytest -m "not long_fault and not runs_ray"
	$(python) -m pytest -m "not long_fault and runs_ray"

.PHONY: lint
lint: setup  ## checks rules and format of the code
	$(python) -m ruff check .
	$(python) -m ruff format --check .

.PHONY: faults
faults: setup  ## kills, damages and fills up what can be, and checks what is left; runs the long tests, too
	$(python) -m pytest tests/faults tests/end_to_end/test_dvc_queue.py -p fault_table --durations=0

.PHONY: bench
bench: setup  ## runs every benchmark; each prints one JSON line
	@for each in benchmarks/*.py; do $(python) "$$each"; done

.PHONY: lock
lock: .venv/bin/uv  ## brings requirements.lock up to pyproject.toml, moving nothing else
	.venv/bin/uv pip compile pyproject.toml --extra dev --extra s3 --universal --python-version 3.11 \
		--generate-hashes --no-header --no-emit-index-url --no-annotate --quiet --output-file requirements.lock

.venv/bin/python:
	@for each in $$(type -ap python3.11 python3 python); do \
		if "$$each" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then \
			echo "creating .venv with $$each"; exec "$$each" -m venv .venv; fi; done; \
	echo 'No Python 3.11 with its venv module was found on PATH.' \
		'Install it (Debian and Ubuntu: python3.11 and python3.11-venv), then run make again.' >&2; exit 1

# pip's only work here: uv, at the version and with the hashes of the lock.
.venv/bin/uv: requirements.lock | .venv/bin/python
	@awk '/^[a-zA-Z0-9]/ {found = /^uv==/} found' requirements.lock > .venv/uv.lock
	$(python) -m pip install --quiet --require-hashes --no-deps --requirement .venv/uv.lock
	@touch $@

# Compiled once here, or every stage's first imports would take it upon themselves: torch, timm and ray are 20,000 files.
.venv/.installed: requirements.lock pyproject.toml $(wildcard pipeline/imaging/_*.[ch]) .venv/bin/uv
	.venv/bin/uv pip sync --compile-bytecode --python $(python) --require-hashes requirements.lock
	.venv/bin/uv pip install --python $(python) --no-deps --no-build-isolation --editable .
	@touch $@
