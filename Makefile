# Every command of the project; `make help` lists them. Needs python3 (3.11 or newer) and make, nothing else.

PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python
SAM_VENV = .venv-sam
BENCH_VENV = .venv-bench
BENCH = $(BENCH_VENV)/bin/python
SAM = SAM_CLI_TELEMETRY=0 $(SAM_VENV)/bin/sam
PIP_INSTALL = -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --only-binary :all:
COMPILE = $(RUN) -m uv pip compile --quiet --universal --generate-hashes --no-annotate --python-version 3.11 \
	--custom-compile-command "make lock" $(UPGRADE)

.DEFAULT_GOAL := help
.PHONY: help setup run test check upstream fix migrate revision openapi lock bench bench-warm bench-cold bench-memory \
	bench-connect bench-pages build clean build-ApiFunction

help: ## Show this list
	@sed -n 's/^\([a-z][a-z-]*\):.*## \(.*\)/\1|\2/p' $(firstword $(MAKEFILE_LIST)) | while IFS='|' read -r name text; do \
		printf '  make %-14s %s\n' "$$name" "$$text"; done

setup: $(VENV)/ready ## Create .venv from the pinned files (the other targets do it when needed)

$(VENV)/ready: requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "setup: $(PYTHON) is not here, or older than 3.11; name another: make setup PYTHON=python3.13" >&2; exit 1; }
	@echo "setup: installing into $(VENV), half a minute once"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(RUN) $(PIP_INSTALL) -r requirements-dev.txt
	@touch $@

$(SAM_VENV)/ready: requirements-sam.txt
	@echo "setup: installing the SAM CLI into $(SAM_VENV), half a minute once"
	@$(PYTHON) -m venv --clear $(SAM_VENV)
	@$(SAM_VENV)/bin/python $(PIP_INSTALL) -r requirements-sam.txt
	@touch $@

$(BENCH_VENV)/ready: requirements-bench.txt
	@echo "setup: installing the benchmarks' peers into $(BENCH_VENV), half a minute once"
	@$(PYTHON) -m venv --clear $(BENCH_VENV)
	@$(BENCH) $(PIP_INSTALL) -r requirements-bench.txt
	@touch $@

run: setup ## Serve on http://127.0.0.1:8000 with an embedded PostgreSQL (PORT=, DATABASE_URL=)
	@$(RUN) -m local.run

test: setup ## Run the tests on real PostgreSQL (ARGS="-k name")
	@$(RUN) -m pytest --numprocesses auto --cov --cov-report= $(ARGS)
	@$(if $(ARGS),,$(RUN) -m coverage report)

check: setup $(SAM_VENV)/ready ## Format, lint, types, import direction, templates
	@$(RUN) -m ruff format --check .
	@$(RUN) -m ruff check .
	@$(RUN) -m mypy
	@$(VENV)/bin/lint-imports
	@$(SAM) validate --lint

upstream: setup ## Run pg8000's own DBAPI tests on the driver
	@$(RUN) -m tests.upstream.run

fix: setup ## Format, and mend what the linter can
	@$(RUN) -m ruff format .
	@$(RUN) -m ruff check --fix .
	@$(RUN) -m ruff format .

migrate: setup ## Bring DATABASE_URL, or the embedded database, to the newest schema
	@$(RUN) -m local.postgres $(RUN) -m handler.migrate

revision: setup ## Write a migration from the models' changes: make revision MESSAGE="add a price"
	@test -n "$(MESSAGE)" || { echo 'revision: say what changes: make revision MESSAGE="add a price"' >&2; exit 1; }
	@$(RUN) -m local.postgres $(RUN) -m handler.migrate
	@$(RUN) -m local.postgres $(VENV)/bin/alembic revision --autogenerate -m "$(MESSAGE)"
	@$(RUN) -m ruff format --quiet handler/migrations
	@$(RUN) -m ruff check --quiet --fix handler/migrations

openapi: setup ## Write docs/openapi.json anew
	@DATABASE_URL=postgresql://nobody@localhost AUTH_MODE=none $(RUN) -m local.openapi

lock: setup ## Pin the ranges of pyproject.toml anew (UPGRADE=--upgrade for newer versions)
	@# The tools first: tests run on exactly the versions that are deployed, so both must agree.
	@$(COMPILE) pyproject.toml --group dev -o requirements-dev.txt
	@$(COMPILE) pyproject.toml -c requirements-dev.txt -o requirements.txt
	@$(COMPILE) pyproject.toml --group bench -c requirements-dev.txt -o requirements-bench.txt
	@$(COMPILE) --group sam -o requirements-sam.txt
	@for file in requirements*.txt; do git diff --quiet -- $$file && touch -t 200001010000 $$file || true; done

# On the runtime's minor version where it is: make bench PYTHON=python3.13
bench: bench-warm bench-cold bench-memory bench-connect bench-pages ## Run every benchmark, into benchmarks/RESULTS.md (15 min)

bench-warm: $(BENCH_VENV)/ready ## Time warm requests beside five peers' (3 min)
	@$(BENCH) -m benchmarks.warm

bench-cold: $(BENCH_VENV)/ready $(SAM_VENV)/ready ## Time cold starts beside the tutorial's, and list what they import (2 min)
	@$(BENCH) -m benchmarks.cold

bench-memory: $(BENCH_VENV)/ready $(SAM_VENV)/ready ## Memory after 10,000 requests, and the artifact's size (2 min)
	@$(BENCH) -m benchmarks.memory

bench-connect: $(BENCH_VENV)/ready ## Time the first connection, TLS with SCRAM, beside stock pg8000's
	@$(BENCH) -m benchmarks.connect

bench-pages: $(BENCH_VENV)/ready ## Time first and last pages of 10,000 and of 5,000,000 items (5 min, 3 GB of disk)
	@$(BENCH) -m benchmarks.pages

build: $(SAM_VENV)/ready ## Build what is deployed, into .aws-sam/build
	@$(SAM) build

clean: ## Remove what the other targets made, the embedded database's data included
	rm -rf .venv .venv-* .local .aws-sam .coverage* .hypothesis .*_cache

# Called by `sam build`: puts what is deployed into ARTIFACTS_DIR. pip fetches wheels for Lambda whatever machine it
# runs on (Amazon Linux 2023 has glibc 2.34), and without its own bytecode, which only suits the host's Python.
build-ApiFunction: BUILD_PYTHON = $(firstword $(wildcard $(SAM_VENV)/bin/python) $(PYTHON))
build-ApiFunction:
	@test -n "$(ARTIFACTS_DIR)" || { echo "build: ARTIFACTS_DIR is not set: use make build" >&2; exit 1; }
	@$(BUILD_PYTHON) -m pip -V >/dev/null || { echo "build: $(BUILD_PYTHON) has no pip: use make build" >&2; exit 1; }
	@$(BUILD_PYTHON) $(PIP_INSTALL) --no-compile --target "$(ARTIFACTS_DIR)" -r requirements.txt \
		--implementation cp --python-version 3.13 --platform manylinux2014_aarch64 --platform manylinux_2_28_aarch64 || \
		{ echo "build: no wheel for Python 3.13 on arm64, or no package index in reach: see pip above" >&2; exit 1; }
	@rm -rf "$(ARTIFACTS_DIR)/bin" # command-line programs, with this machine's Python in their first line
	@cp -R handler "$(ARTIFACTS_DIR)/"
	@find "$(ARTIFACTS_DIR)/handler" -type d -name __pycache__ -prune -exec rm -rf {} +
	@# unchecked: the zip's timestamps mean nothing. Only the runtime's own minor version writes what it can read.
	@! python3.13 -c "" 2>/dev/null || \
		python3.13 -m compileall -q --invalidation-mode unchecked-hash -s "$(ARTIFACTS_DIR)" -p /var/task "$(ARTIFACTS_DIR)"
