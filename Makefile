# SPDX-License-Identifier: MIT
# Everything happens in .venv/; paths are relative, so the folder may have any name.

PYTHON ?= python3
PORT ?= 6432
FUZZ_SECONDS ?= 600
SUITES ?=
DESTDIR ?=
prefix ?= /usr/local
sysconfdir ?= /etc

VENV := .venv
RUN := $(VENV)/bin/python
JOBS := $(shell getconf _NPROCESSORS_ONLN)
# What has been done, as files whose times make can compare.
CREATED := $(VENV)/.stamp-created
INSTALLED := $(VENV)/.stamp-installed
COMPILED := $(VENV)/.stamp-compiled
# The same without what only development needs.
INSTALLED_TO_RUN := $(VENV)/.stamp-installed-to-run
COMPILED_TO_RUN := $(VENV)/.stamp-compiled-to-run
COMPILED_LOOPS := $(VENV)/.stamp-loops

EXTENSIONS := setup.py $(wildcard pooler/*.pyx pooler/*.pxd pooler/*/*.pyx pooler/*/*.pxd)
# Test-only extensions; they are built when tests/ext/setup.py is there.
PROBES := $(wildcard tests/ext/*.py tests/ext/*.pyx tests/ext/*.pxd)
PROBE_SETUP := $(wildcard tests/ext/setup.py)
# Modules whose types are in a .pyi file, which is written by hand.
STUBS := $(subst /,.,$(basename $(wildcard pooler/*.pyi pooler/*/*.pyi)))
LOOPS := $(wildcard benchmarks/micro/*.pyx) benchmarks/micro/setup.py

# Who develops has what running needs.
READY_TO_RUN := $(if $(wildcard $(INSTALLED)),$(COMPILED),$(COMPILED_TO_RUN))

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PORT

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help build run install wheel site deb test test-unit test-full suites fuzz lint fmt types stubs bench bench-micro clean bootstrap

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | while IFS="$$(printf '\t')" \
	  read -r name text; do printf '  %-11s %s\n' "$$name" "$$text"; done

build: $(COMPILED) ## make .venv and compile the extension modules

run: ## run the pooler before a PostgreSQL of its own (PORT=6432)
	@PORT="$$PORT" dev/check_port.sh
	@$(MAKE) --no-print-directory $(READY_TO_RUN)
	@$(RUN) -m pooler.demo --port "$$PORT"

install: $(INSTALLED_TO_RUN) ## install into the system (DESTDIR=, prefix=/usr/local, sysconfdir=/etc)
	@echo "building a wheel: three to five minutes"
	@rm -rf build/wheel build/lib.* build/bdist.*
	@POOLER_JOBS=$(JOBS) $(RUN) -m pip wheel -q --no-deps --no-build-isolation \
	  -w build/wheel .
	@rm -rf "$(DESTDIR)$(prefix)/lib/pooler"
	@$(RUN) -m pip install -q --target "$(DESTDIR)$(prefix)/lib/pooler" build/wheel/*.whl
	@rm -rf "$(DESTDIR)$(prefix)/lib/pooler/bin"
	@DESTDIR="$(DESTDIR)" prefix="$(prefix)" sysconfdir="$(sysconfdir)" \
	  python="$$($(RUN) -c 'import sys; print(sys._base_executable)')" packaging/install.sh

wheel: $(INSTALLED_TO_RUN) ## build sdist and manylinux wheel into dist/
	@POOLER_JOBS=$(JOBS) dev/build_wheel.sh

site: $(INSTALLED) ## build the documentation as a site in build/site
	@$(RUN) -m mkdocs build -q

deb: ## build a Debian package into dist/
	@dev/build_deb.sh

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

$(INSTALLED): pyproject.toml setup.py $(CREATED)
	@echo "installing what development needs into $(VENV): about 300 MB, two to three minutes"
	@dev/install.sh $(VENV) '.[dev,demo]'
	@touch $@ $(INSTALLED_TO_RUN)

$(INSTALLED_TO_RUN): pyproject.toml setup.py $(CREATED)
	@echo "installing what running needs into $(VENV): about 130 MB, half a minute"
	@dev/install.sh $(VENV) '.[demo]'
	@touch $@

$(COMPILED_TO_RUN): $(INSTALLED_TO_RUN) $(EXTENSIONS)
	@touch $@.begun
	@$(RUN) dev/compile.py
	@mv $@.begun $@

# The stamp has the time of the beginning: a source saved meanwhile is newer.
$(COMPILED): $(INSTALLED) $(EXTENSIONS) $(PROBES)
	@touch $@.begun
	@$(RUN) dev/compile.py
	$(if $(PROBE_SETUP),$(RUN) $(PROBE_SETUP) -q build_ext --inplace && touch tests/ext/*.so)
	@mv $@.begun $@

# Inline functions and structs of the core are compiled into the loops.
$(COMPILED_LOOPS): $(COMPILED) $(LOOPS)
	@touch $@.begun
	$(RUN) benchmarks/micro/setup.py -q build_ext --inplace
	@mv $@.begun $@
