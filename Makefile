SHELL := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-builtin-rules --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help demo test bench image cluster cluster-down lint unit integration e2e lock clean demo-parts test-parts binaries test-binaries demo-packages test-packages

PYTHON3 ?= python3
CACHE := $(abspath $(or $(KEYSHRED_CACHE),.cache))
export KEYSHRED_CACHE := $(CACHE)
export PYTHONPATH := $(CURDIR)/operator
export RUFF_CACHE_DIR := $(CACHE)/ruff
export MYPY_CACHE_DIR := $(CACHE)/mypy

# A virtual environment is named by a hash of what it is made from, so a changed lock file makes a new one.
hash = $(shell $(PYTHON3) -c 'import sys; print(sys.version)' | cat - $(1) | sha256sum | cut -c1-12)
DEMO_VENV := $(CACHE)/venv-demo-$(call hash,requirements.txt)
DEV_VENV := $(CACHE)/venv-dev-$(call hash,requirements-dev.txt)
PYTEST = $(DEV_VENV)/bin/pytest -o cache_dir=$(CACHE)/pytest
# Most tests wait: for kubelets, certificates, grace periods. Groups of them (tests/conftest.py) wait side by side;
# ARGS="-n 0" runs one after the other.
# What is written in Go collects its garbage more seldom: here the processor is what is short, and not the memory.
SIDE_BY_SIDE = GOGC=400 $(PYTEST) --numprocesses=3 --dist=loadscope --no-loadscope-reorder

help: ## say what there is to make
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22
	@echo "Everything that is set up lands in $(CACHE) (KEYSHRED_CACHE)."

demo: ## the main job on real parts, narrated; sets up what is missing
	@$(MAKE) -j3 demo-parts
	@$(DEMO_VENV)/bin/python -m tests.demo

test: ## lint and every test; sets up what is missing
	@$(MAKE) -j3 test-parts
	@$(MAKE) image lint
	@$(SIDE_BY_SIDE) $(ARGS)

image: $(DEV_VENV)/.ready ## keyshred's image, into dist/keyshred-image.tar
	@$(DEV_VENV)/bin/python -m tests.cluster image

cluster: test-parts ## a Kubernetes of one node on this machine, with keyshred installed by its chart (root)
	@$(DEV_VENV)/bin/python -m tests.cluster node-up

cluster-down: $(DEV_VENV)/.ready ## stop it and delete it
	@$(DEV_VENV)/bin/python -m tests.cluster node-down

bench: ## the table of docs/performance.md on this machine, in about 12 minutes (ARGS="--quick" for 3); pods too as root
	@$(MAKE) -j3 demo-parts
	@$(DEMO_VENV)/bin/python -m tests.benchmarks $(ARGS)

lint: $(DEV_VENV)/.ready ## style, types and layers
	$(DEV_VENV)/bin/ruff check
	$(DEV_VENV)/bin/ruff format --check
	$(DEV_VENV)/bin/mypy
	$(DEV_VENV)/bin/lint-imports --cache-dir $(CACHE)/import-linter

unit: $(DEV_VENV)/.ready ## the tests that need nothing but Python (ARGS="-k NAME" picks)
	@$(PYTEST) tests/unit $(ARGS)

integration: test-parts ## the tests against a real API server and token
	@$(PYTEST) tests/contract tests/integration $(ARGS)

e2e: test-parts ## the tests on a real node (root)
	@$(PYTEST) tests/e2e $(ARGS)

lock: $(DEV_VENV)/.ready ## newest Python packages into the lock files; Go modules from tests/cluster/versions.py
	$(DEV_VENV)/bin/uv pip compile $(LOCK) pyproject.toml -o requirements.txt
	$(DEV_VENV)/bin/uv pip compile $(LOCK) pyproject.toml -o requirements-dev.txt --extra dev -c requirements.txt
	$(PYTHON3) -m tests.cluster lock

LOCK := --quiet --universal --python-version 3.11 --generate-hashes --upgrade --custom-compile-command 'make lock'

clean: ## stop what `python -m tests.cluster up` and `make cluster` started, and delete what was set up
	@$(PYTHON3) -m tests.cluster down
	@test ! -d $(CACHE)/run/cluster || $(MAKE) cluster-down
	@rm -rf dist $(addprefix $(CACHE)/,bin failures image import-linter mypy pytest ruff run venv-*)

demo-parts: $(DEMO_VENV)/.ready binaries demo-packages
test-parts: $(DEV_VENV)/.ready test-binaries test-packages

binaries:
	@$(PYTHON3) -m tests.cluster build

test-binaries:
	@$(PYTHON3) -m tests.cluster build --for-tests

demo-packages:
	@$(PYTHON3) -m tests.cluster packages softhsm2

test-packages:
	@$(PYTHON3) -m tests.cluster packages --for-tests

$(DEMO_VENV)/.ready: KIND := demo
$(DEMO_VENV)/.ready: requirements.txt
	$(install)

$(DEV_VENV)/.ready: KIND := dev
$(DEV_VENV)/.ready: requirements-dev.txt
	$(install)

define install
	@$(PYTHON3) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or later is needed")'
	@echo "installing Python packages: $<"
	@rm -rf $(CACHE)/venv-$(KIND)-*
	@$(PYTHON3) -m venv $(@D)
	@$(@D)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@
endef
