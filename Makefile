# Every command of the project; `make help` lists them. They need only make and python3 (3.11 or newer).

PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python
SAM_VENV = .venv-sam
BENCH_VENV = .venv-bench
SPECTRAL = .venv-spectral
DOCS_VENV = .venv-docs
BENCH = $(BENCH_VENV)/bin/python
SAM = SAM_CLI_TELEMETRY=0 $(SAM_VENV)/bin/sam
INSTALL = $(PYTHON) -m local.install
COMPILE = $(RUN) -m uv pip compile --quiet --universal --generate-hashes --no-annotate --python-version 3.11 \
	--custom-compile-command "make lock" $(UPGRADE)

# The processor for which the function is built and deployed: arm64, or x86_64 with the parameter Architecture.
ARCHITECTURE ?= arm64
# `sam local` runs a separate build for the architecture of this machine.
HOST_ARCHITECTURE = $(if $(filter arm64 aarch64,$(shell uname -m)),arm64,x86_64)
SAM_BUILD_HERE = ARCHITECTURE=$(HOST_ARCHITECTURE) $(SAM) build --build-dir .local/sam/build \
	--parameter-overrides Architecture=$(HOST_ARCHITECTURE)
DOCKER_RUNS = docker version >/dev/null 2>&1
NO_DOCKER = no Docker engine responds (docker version): install Docker, or start it

.DEFAULT_GOAL := help
.PHONY: help setup run debug token psql seed reset test check upstream fix migrate revision openapi docs lock clean
.PHONY: soak bench bench-warm bench-cold bench-memory bench-connect bench-pages bench-scale
.PHONY: build ca-bundle sam-local sam-local-test deploy invoke build-ApiFunction build-MigrationFunction

help: ## Show this list
	@sed -n 's/^\([a-z][a-z-]*\):.*## \(.*\)/\1|\2/p' $(firstword $(MAKEFILE_LIST)) | while IFS='|' read -r name text; do \
		printf '  make %-14s %s\n' "$$name" "$$text"; done

setup: $(VENV)/ready ## Create .venv from the pinned files (the other targets do it when needed)

# `make run` installs only the packages of the service, so that it starts sooner. Tests and checks add their tools later.
$(VENV)/run: requirements-local.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "setup: $(PYTHON) is not here, or older than 3.11; name another: make setup PYTHON=python3.13" >&2; exit 1; }
	@$(INSTALL) --create $@ $< "the service"

# If the pinned tools have changed, the environment is created again, so that it has exactly the pinned packages.
$(VENV)/ready: requirements-dev.txt $(VENV)/run
	@test ! -e $@ || { rm -f $(VENV)/run && $(INSTALL) --create $(VENV)/run requirements-local.txt "the service"; }
	@$(INSTALL) --compile $@ $< "the tools of tests and checks"

$(SAM_VENV)/ready: requirements-sam.txt
	@$(INSTALL) --create --compile $@ $< "the SAM CLI"

$(BENCH_VENV)/ready: requirements-bench.txt
	@$(INSTALL) --create --compile $@ $< "the benchmarks' peers"

$(SPECTRAL)/ready: package.json package-lock.json
	@echo "setup: installing Spectral into $(SPECTRAL), half a minute once"
	@rm -rf $(SPECTRAL) && mkdir $(SPECTRAL) && cp $^ .npmrc $(SPECTRAL)
	@npm ci --prefix $(SPECTRAL) --loglevel error
	@touch $@

$(DOCS_VENV)/ready: requirements-docs.txt
	@$(INSTALL) --create --compile $@ $< "the documentation's generator"

run: $(VENV)/run ## Serve on http://127.0.0.1:8000 with an embedded PostgreSQL (PORT=, DATABASE_URL=, AUTH_MODE=, LOG_LEVEL=)
	@$(RUN) -m local.run

debug: $(VENV)/run ## Serve, and let a debugger attach on port 5678 of 127.0.0.1 (DEBUG_PORT=)
	@DEBUG_PORT=$(DEBUG_PORT) $(RUN) -m local.run
debug: DEBUG_PORT ?= 5678

token: $(VENV)/run ## Print a token for `make run AUTH_MODE=jwt` (SCOPES="items:read items:write", SUBJECT=ann)
	@$(RUN) -m local.authorizer

psql: $(VENV)/run ## Open psql on the embedded database, or on the one in DATABASE_URL (ARGS=)
	@$(RUN) -m local.psql $(ARGS)

seed: $(VENV)/run ## Store the examples of the OpenAPI document through the API
	@$(RUN) -m local.seed

reset: $(VENV)/run ## Empty the embedded database, also while `make run` is up
	@$(RUN) -m local.reset

# Only the tests of tests/infra/ need the SAM CLI. Coverage is measured for all tests together, not for those of ARGS.
test: setup $(if $(ARGS),$(if $(findstring infra,$(ARGS)),$(SAM_VENV)/ready),$(SAM_VENV)/ready) ## Run the tests on real PostgreSQL (ARGS="-k name")
	@$(RUN) -m pytest --numprocesses auto $(if $(ARGS),$(ARGS),--cov --cov-report= --cov-fail-under=0)
	@$(if $(ARGS),,$(RUN) -m coverage report)

check: setup $(SAM_VENV)/ready ## Check format, lint, security, types, import direction, links and templates
	@$(RUN) -m ruff format --check .
	@$(RUN) -m ruff check .
	@$(RUN) -m bandit --quiet --configfile pyproject.toml --recursive handler local deploy
	@$(RUN) -m mypy
	@$(VENV)/bin/lint-imports
	@$(VENV)/bin/rumdl check --quiet .
	@$(VENV)/bin/zizmor --quiet --offline .github
	@$(SAM) validate --lint
	@$(SAM_VENV)/bin/cfn-lint template.yaml infra/*.yaml

upstream: setup ## Run pg8000's own DBAPI tests on the driver
	@$(RUN) -m tests.upstream.run

soak: setup ## Test under random faults and load: make soak MINUTES=10 (SEED= repeats a run)
	@SOAK_MINUTES=$(MINUTES) SOAK_SEED=$(SEED) $(RUN) -m pytest -n0 -m soak -s $(ARGS) tests/soak
soak: MINUTES = 10

fix: setup ## Format, and apply the linter's automatic fixes
	@$(RUN) -m ruff format .
	@$(RUN) -m ruff check --fix .
	@$(RUN) -m ruff format .

migrate: $(VENV)/run ## Migrate the embedded database, or the one in DATABASE_URL
	@$(RUN) -m local.postgres $(RUN) -m handler.migrate

revision: setup ## Write a migration from the models' changes: make revision MESSAGE="add a price"
	@test -n "$(MESSAGE)" || { echo 'revision: MESSAGE is missing: make revision MESSAGE="add a price"' >&2; exit 1; }
	@$(RUN) -m local.postgres $(RUN) -m handler.migrate
	@$(RUN) -m local.postgres $(VENV)/bin/alembic revision --autogenerate -m "$(MESSAGE)"
	@$(RUN) -m ruff format --quiet handler/migrations
	@$(RUN) -m ruff check --quiet --fix handler/migrations

resource: setup ## Write a new resource: make resource NAME=orders (SINGULAR=person if it is irregular)
	@$(RUN) -m local.resource add '$(NAME)' $(if $(SINGULAR),'$(SINGULAR)')

resource-remove: setup ## Remove a resource and drop its table: make resource-remove NAME=items
	@$(RUN) -m local.resource remove '$(NAME)'

openapi: setup ## Write docs/openapi.json, the contract with AUTH_MODE=jwt
	@DATABASE_URL=postgresql://nobody@localhost AUTH_MODE=jwt $(RUN) -m local.openapi

# Without npm the target prints a message and succeeds, except where REQUIRE_SYSTEM_PROGRAMS is set (.ci/run).
openapi-lint: ## Lint docs/openapi.json with Spectral (npm)
	@command -v npm >/dev/null || { echo "openapi-lint: SKIPPED: npm is not on this machine"; test -z "$$REQUIRE_SYSTEM_PROGRAMS"; exit; }; \
		$(MAKE) --no-print-directory $(SPECTRAL)/ready && \
		$(SPECTRAL)/node_modules/.bin/spectral lint --quiet --fail-severity hint docs/openapi.json

docs: $(DOCS_VENV)/ready ## Build the documentation as a site, into .local/site
	@$(DOCS_VENV)/bin/zensical build --clean --strict

lock: setup ## Pin the dependencies of pyproject.toml (UPGRADE=--upgrade for newer versions)
	@# The tools come first, because the tests must run with exactly the versions that are deployed.
	@$(COMPILE) pyproject.toml --group dev -o requirements-dev.txt
	@$(COMPILE) pyproject.toml -c requirements-dev.txt -o requirements.txt
	@$(COMPILE) pyproject.toml --group local -c requirements-dev.txt -o requirements-local.txt
	@$(COMPILE) pyproject.toml --group bench -c requirements-dev.txt -o requirements-bench.txt
	@$(COMPILE) --group sam -o requirements-sam.txt
	@$(COMPILE) --group runtime -o requirements-runtime.txt
	@$(COMPILE) --group docs -o requirements-docs.txt
	@for file in requirements*.txt; do git diff --quiet -- $$file && touch -t 200001010000 $$file || true; done

# Use the runtime's minor version if it is installed: make bench PYTHON=python3.13
bench: bench-warm bench-cold bench-memory bench-connect bench-pages bench-scale ## Run every benchmark, into benchmarks/RESULTS.md (25 min)

bench-warm: $(BENCH_VENV)/ready ## Time warm requests beside five peers' (3 min)
	@$(BENCH) -m benchmarks.warm

bench-cold: $(BENCH_VENV)/ready $(SAM_VENV)/ready ## Time cold starts beside the tutorial's, and list their imports (2 min)
	@$(BENCH) -m benchmarks.cold

bench-memory: $(BENCH_VENV)/ready $(SAM_VENV)/ready ## Measure memory after 10,000 requests, and the artifact's size (2 min)
	@$(BENCH) -m benchmarks.memory

bench-connect: $(BENCH_VENV)/ready ## Time the first connection, TLS with SCRAM, beside stock pg8000's
	@$(BENCH) -m benchmarks.connect

bench-pages: $(BENCH_VENV)/ready ## Time first and last pages of 10,000 and of 5,000,000 items (5 min, 3 GB of disk)
	@$(BENCH) -m benchmarks.pages

bench-scale: $(BENCH_VENV)/ready ## Measure 1 to 64 environments on 40 connections, with and without PgBouncer (5 min)
	@$(BENCH) -m benchmarks.scale

build: $(SAM_VENV)/ready ## Build the artifact into .aws-sam/build
	@$(SAM) build --parameter-overrides Architecture=$(ARCHITECTURE)

ca-bundle: ## Write the authorities of RDS and RDS Proxy into handler/: make ca-bundle REGION=eu-central-1
	@$(PYTHON) -m deploy.ca_bundle "$(REGION)"

sam-local: setup $(SAM_VENV)/ready ## Serve the built function in Lambda's container (Docker; PORT=, DATABASE_URL=)
	@$(DOCKER_RUNS) || { echo "sam-local: $(NO_DOCKER)" >&2; exit 1; }
	@$(SAM_BUILD_HERE)
	@$(SAM_LOCAL_PREFIX) $(RUN) -m deploy.sam start-api

sam-local-test: setup $(SAM_VENV)/ready ## Test the built function in Lambda's container (Docker)
	@$(DOCKER_RUNS) || { echo "sam-local-test: SKIPPED: $(NO_DOCKER)"; exit 0; }; \
		$(SAM_BUILD_HERE) && SAM_LOCAL_TEST=1 $(SAM_LOCAL_PREFIX) $(RUN) -m pytest -v tests/infra/test_sam_local.py $(ARGS)

# SAM accepts a name that samconfig.toml does not have, and deploys without its options.
KNOWN_ENV = grep -qFx '[$(ENV).deploy.parameters]' samconfig.toml || \
	{ echo '$@: ENV is missing or unknown: make $@ ENV=default, staging or production' >&2; exit 1; }

# The parameters of the command line replace those of samconfig.toml, so deploy/preflight.py prints both.
deploy: $(SAM_VENV)/ready ## Check the account, build and deploy: make deploy ENV=default PARAMETERS="AuthMode=iam"
	@$(KNOWN_ENV)
	@overrides=$$($(SAM_VENV)/bin/python -m deploy.preflight $(ENV) '$(PARAMETERS)') && \
		$(MAKE) --no-print-directory build && \
		$(SAM) deploy --config-env $(ENV) --parameter-overrides $$overrides $(ARGS)

invoke: $(SAM_VENV)/ready ## Invoke the deployed function: make invoke EVENT=events/health-ready.json ENV=staging
	@$(KNOWN_ENV)
	@test -f '$(EVENT)' || { echo 'invoke: EVENT is missing: make invoke EVENT=events/health-ready.json' >&2; exit 1; }
	@$(SAM) remote invoke ApiFunction --config-env $(ENV) --parameter Qualifier=live \
		--event-file '$(EVENT)'
invoke: ENV = default

clean: ## Remove everything that the other targets created, including the data of the embedded database
	rm -rf .venv .venv-* .local .aws-sam .coverage* .hypothesis .*_cache

# `sam build` calls these for each function. They put the artifact into ARTIFACTS_DIR (deploy/build.py).
build-ApiFunction build-MigrationFunction: BUILDER = $(firstword $(wildcard $(SAM_VENV)/bin/python) $(PYTHON))
build-ApiFunction build-MigrationFunction:
	@test -n "$(ARTIFACTS_DIR)" || { echo "build: ARTIFACTS_DIR is not set: use make build" >&2; exit 1; }
	@$(BUILDER) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "build: $(BUILDER) is not here, or older than 3.11: use make build PYTHON=python3.13" >&2; exit 1; }
	@$(BUILDER) -m deploy.build "$(ARTIFACTS_DIR)" $(ARCHITECTURE)
