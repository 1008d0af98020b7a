# SPDX-License-Identifier: MIT
# Everything happens in .venv/; paths are relative, so the folder may have any name.

PYTHON ?= python3
PORT ?= 6432
FUZZ_SECONDS ?= 600
SUITES ?=

VENV := .venv
RUN := $(VENV)/bin/python
JOBS := $(shell getconf _NPROCESSORS_ONLN)
# What has been done, as files whose times make can compare.
CREATED := $(VENV)/.stamp-created
INSTALLED := $(VENV)/.stamp-installed
COMPILED := $(VENV)/.stamp-compiled
COMPILED_LOOPS := $(VENV)/.stamp-loops

EXTENSIONS := setup.py $(wildcard pooler/*.pyx pooler/*.pxd pooler/*/*.pyx pooler/*/*.pxd)
# Test-only extensions; they are built when tests/ext/setup.py is there.
PROBES := $(wildcard tests/ext/*.py tests/ext/*.pyx tests/ext/*.pxd)
PROBE_SETUP := $(wildcard tests/ext/setup.py)
# Modules whose types are in a .pyi file, which is written by hand.
STUBS := $(subst /,.,$(basename $(wildcard pooler/*.pyi pooler/*/*.pyi)))
LOOPS := $(wildcard benchmarks/micro/*.pyx) benchmarks/micro/setup.py

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help build run test test-unit test-full suites fuzz lint fmt types stubs bench bench-micro clean bootstrap

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | while IFS="$$(printf '\t')" \
	  read -r name text; do printf '  %-11s %s\n' "$$name" "$$text"; done

build: $(COMPILED) ## make .venv and compile the extension modules

run: build ## run the pooler before a PostgreSQL of its own (PORT=6432)
	@$(RUN) -m pooler.demo --port $(PORT)

test: build ## run all tests
	@$(RUN) -m pytest -n $(JOBS) --dist loadfile

test-full: build ## run all tests and the long ones: other drivers and versions, fuzzing
	@dev/full_tools.sh
	@$(RUN) -m pytest -m ""

suites: build ## run other projects' tests through the pooler (SUITES="asyncpg psycopg2")
	@$(RUN) -m tests.suites $(SUITES)

fuzz: build ## fuzz scanner, relay, TLS and logins (FUZZ_SECONDS=600)
	@dev/full_tools.sh
	@dev/fuzz.sh $(FUZZ_SECONDS)

test-unit: build ## run the unit tests only
	@$(RUN) -m pytest tests/unit

lint: $(INSTALLED) types ## check style and types, change nothing
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) dev/function_lengths.py
# By PATH, because it calls pycodestyle by name.
	PATH="$$PWD/$(VENV)/bin:$$PATH" cython-lint pooler tests/ext tests/fuzz benchmarks/micro

types: $(INSTALLED) ## check the types
	$(RUN) -m mypy

stubs: build ## compare the .pyi files with what was compiled
	@$(RUN) -m mypy.stubtest --allowlist dev/stubtest.txt --ignore-unused-allowlist \
	  $(STUBS)

fmt: $(INSTALLED) ## format the Python code
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

bench: build ## compare with other poolers (see benchmarks/README.md)
	@$(RUN) benchmarks/compare.py

bench-micro: $(COMPILED_LOOPS) ## measure the core without sockets (SAVE=name, BASE=name)
	@$(RUN) -m benchmarks.micro $(if $(SAVE),--save '$(SAVE)') \
	  $(if $(BASE),--base '$(BASE)')

clean: ## remove what was compiled and the caches; .venv stays
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	rm -f pooler/*.so pooler/*.c pooler/*/*.so pooler/*/*.c tests/ext/*.so tests/ext/*.c $(COMPILED)
	rm -f benchmarks/micro/*.so benchmarks/micro/*.c $(COMPILED_LOOPS)

# Not a stamp: whether a compiler is there can change outside this folder.
bootstrap:
	@PYTHON="$(PYTHON)" dev/bootstrap.sh

# A virtualenv whose Python is gone (upgraded, or the folder was copied to where it
# cannot be reached) is made anew; one that works is kept.
ifneq ($(shell $(RUN) -c '' 2>/dev/null && echo works),works)
.PHONY: $(CREATED)
endif

$(CREATED): | bootstrap
	@$(RUN) -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv --clear $(VENV)
	@touch $@

# Without build isolation, because an isolated Cython would compile everything once
# more; so what pyproject.toml wants for a build is installed first.
$(INSTALLED): pyproject.toml setup.py $(CREATED)
	@$(RUN) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))\
	["build-system"]["requires"], sep="\n")' >$(VENV)/build-requires.txt
	$(RUN) -m pip install -q -r $(VENV)/build-requires.txt
	$(RUN) -m pip install -q --no-build-isolation -e '.[dev,demo]'
	@touch $@

# The stamp has the time of the beginning: a source saved meanwhile is newer.
$(COMPILED): $(INSTALLED) $(EXTENSIONS) $(PROBES)
	@touch $@.begun
	$(RUN) setup.py -q build_ext --inplace --parallel $(JOBS)
	$(if $(PROBE_SETUP),$(RUN) $(PROBE_SETUP) -q build_ext --inplace && touch tests/ext/*.so)
	@mv $@.begun $@

# Inline functions and structs of the core are compiled into the loops.
$(COMPILED_LOOPS): $(COMPILED) $(LOOPS)
	@touch $@.begun
	$(RUN) benchmarks/micro/setup.py -q build_ext --inplace
	@mv $@.begun $@
