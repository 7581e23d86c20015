# Every command does its own set-up (once; scripts/setup remembers). `make` alone shows this list.
.DEFAULT_GOAL := help
.PHONY: help demo serve check test static style types collected bench chaos setup lock clean
export PYTHON

python := .venv/bin/python

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-7s %s\n", $$1, $$2}' Makefile

demo: ## an agent finds and fixes a bug in a real sandbox; no key needed
	@scripts/setup run
	@.venv/bin/corral demo

serve: ## start the server on http://127.0.0.1:8420
	@scripts/setup run
	@.venv/bin/corral serve

check: static ## format, lint, types, imports and the fast tests: under a minute
	$(python) -m pytest -q -n 2 --dist loadfile tests/unit

# Partitions first and alone: there it matters which machine is heard of in time. Then three files at a time: the
# simulation, which takes what the others leave (tests/conftest.py puts it first), and two of the rest, which wait
# more than they compute. In the order of the files: the long ones first, so that all end together.
# Bytecode: hundreds of processes are started, also where Python keeps none itself.
test: ## everything that CI runs: check, and all other tests
	@scripts/setup dev
	@$(python) -m compileall -q src/corral
	@$(MAKE) --no-print-directory --jobs 2 --output-sync types style collected
	$(python) -m pytest -q tests/crash/test_partition.py
	$(python) -m pytest -q -n 3 --dist loadfile --no-loadscope-reorder --ignore tests/crash/test_partition.py

static:
	@scripts/setup dev
	@$(MAKE) --no-print-directory --jobs 2 --output-sync types style

types:
	$(python) -m mypy

style:
	$(python) -m ruff format --check src tests benchmarks scripts
	$(python) -m ruff check src tests benchmarks scripts
	.venv/bin/lint-imports --no-logo

# A test that cannot be imported is told of in the first minute; and each process that runs tests would compile
# all of them again.
collected:
	@PYTHONDONTWRITEBYTECODE= $(python) -m pytest -qq --collect-only >/dev/null || $(python) -m pytest -q --collect-only

bench: ## the numbers we promise, measured here
	@scripts/setup dev
	@$(python) -m compileall -q src/corral
	$(python) -m benchmarks

chaos: ## an hour of killing everything, on one node and on many, and the proof that nothing was lost
	@scripts/setup dev
	.venv/bin/corral chaos --seconds 1200
	.venv/bin/corral chaos --cluster postgres --seconds 2000

setup: ## only the set-up, development tools included
	@scripts/setup dev

lock: ## pin the dependencies anew (needs uv)
	scripts/lock

clean: ## remove what was set up or cached; data directories are not touched
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis dist build
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
