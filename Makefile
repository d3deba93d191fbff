# The commands of this project. `make` alone lists them.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c

PROJECTS := shared api worker loadgen
# SKIP=shell leaves this lint out; SKIP='shell deny' leaves out both.
LINTS := $(filter-out $(SKIP),format clippy docs drift lines deny shell)
TESTS := $(PROJECTS) scripts

.PHONY: help
help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

# --- See it and measure it -----------------------------------------------------------------------

.PHONY: demo show pictures storm chaos bench run dev
demo: ## compare sync and async: 10 seconds, after a first build of minutes (CALLBACK_PORT=8001)
	@scripts/demo.sh

show: ## storms in waves, to be looked at in a browser: it prints the address (RATES=20,40,80,40)
	@RATES='$(RATES)' scripts/show.sh

pictures: ## take the README's pictures from real runs
	@scripts/pictures.sh

storm: ## load runs at several rates, and a table (OPTIONS='--rates 50,100'; OPTIONS=--help)
	@scripts/storm.sh $(OPTIONS)

chaos: ## inject faults under load, then check every promise (STORE=postgres SEED=1 JOBS=20000)
	@STORE='$(STORE)' SEED='$(SEED)' DURATION='$(DURATION)' JOBS='$(JOBS)' scripts/chaos.sh

bench: ## measure the figures of docs/BENCHMARKS.md on this machine
	@scripts/bench.sh

run: ## run a stack here: API on port 8000, worker on 9000, data in target/run (HANDLER=URL)
	@HANDLER='$(HANDLER)' scripts/stack.sh run

dev: ## the same from debug builds, rebuilt and restarted when a file changes
	@HANDLER='$(HANDLER)' scripts/dev.sh

# --- In containers -------------------------------------------------------------------------------

.PHONY: images up down logs demo-compose
images: ## build the four images, with Nix 2.18 or else cargo (IMAGE_BUILDER=nix|host, TAG=latest)
	@scripts/images.sh

up: ## start the stack of docker-compose.yml: API on port 8000 (API_PORT=8000)
	@scripts/compose.sh up

down: ## stop it and keep its data (OPTIONS=-v: delete the data too)
	@scripts/compose.sh down $(OPTIONS)

logs: ## follow its logs
	@scripts/compose.sh logs

demo-compose: ## run the demo against the running containers
	@scripts/compose.sh demo

# --- Work on it ----------------------------------------------------------------------------------

.PHONY: test test-postgres test-pooler test-programs-postgres $(TESTS:%=test-%)
test: $(TESTS:%=test-%) ## run every test; those of one project: make test-api

# Fails with one line if cargo is missing or too old.
.PHONY: cargo
cargo:
	@scripts/find-tool.sh cargo >/dev/null

$(PROJECTS:%=test-%) test-pooler: test-%: cargo
	@scripts/test.sh $*

test-postgres: cargo ## only those of the engine for PostgreSQL (test-pooler: through a PgBouncer)
	@scripts/test.sh postgres

test-programs-postgres: cargo ## the tests of the API and the worker again, on PostgreSQL
	@for project in api worker; do TEST_STORE=postgres scripts/test.sh $$project; done

test-scripts:
	@for test in $(filter-out %/openapi.sh,$(wildcard scripts/tests/*.sh)); do echo "$$test"; "$$test"; done

# Not in `test`: its tools come from PyPI and npm.
.PHONY: test-openapi
test-openapi: cargo ## fuzz live stacks by the description of the API, and generate clients
	@SEED='$(SEED)' scripts/tests/openapi.sh

.PHONY: fuzz
fuzz: cargo ## test the SSRF policy with hostile URLs and DNS answers (CASES=200000)
	@export PROPTEST_CASES='$(or $(CASES),200000)'; \
		cargo test --locked --manifest-path shared/Cargo.toml --test it ssrf::fuzz; \
		cargo test --locked --manifest-path worker/Cargo.toml --test it delivery::fuzz

.PHONY: test-flake test-images test-compose
test-flake: ## run `nix flake check`, and test what an edit rebuilds (CHECKS='drift check-api')
	@CHECKS='$(CHECKS)' scripts/tests/packaging/flake.sh

test-images: ## test the loaded images (REBUILD=worker: and that this build is reproducible)
	@scripts/tests/packaging/images.sh

test-compose: ## test docker-compose.yml with the loaded images, under faults
	@scripts/tests/packaging/compose.sh

.PHONY: lint $(LINTS:%=lint-%)
lint: $(LINTS:%=lint-%) ## run every check of the sources; one of them: make lint-clippy

lint-format: cargo
	@for project in $(PROJECTS); do cargo fmt --check --manifest-path $$project/Cargo.toml; done

# With all features. `shared`, which has most of what they choose, is checked without them as well.
lint-clippy: cargo
	@cargo clippy --locked --all-targets --manifest-path shared/Cargo.toml -- -D warnings
	@source scripts/lib.sh; for project in $(PROJECTS); do \
		choose_all_features $$project; \
		cargo clippy --locked --all-targets --manifest-path $$project/Cargo.toml \
			"$${features[@]}" -- -D warnings; \
	done

lint-docs: export RUSTDOCFLAGS := -D warnings
lint-docs: cargo
	@source scripts/lib.sh; for project in $(PROJECTS); do \
		choose_all_features $$project; \
		cargo doc --locked --no-deps --manifest-path $$project/Cargo.toml "$${features[@]}"; \
	done

lint-drift:
	@scripts/check-drift.sh

lint-lines:
	@scripts/check-line-length.sh

lint-deny:
	@scripts/deny.sh

lint-shell:
	@shellcheck=$$(scripts/find-tool.sh shellcheck); \
		"$$shellcheck" --external-sources .ci/run scripts/*.sh scripts/tests/*.sh scripts/tests/*/*.sh

.PHONY: fmt update clean
fmt: cargo ## format the sources
	@for project in $(PROJECTS); do cargo fmt --manifest-path $$project/Cargo.toml; done

update: cargo ## update the four lock files together, so that they agree
	@for project in $(PROJECTS); do cargo update --manifest-path $$project/Cargo.toml; done
	@scripts/check-drift.sh

clean: ## remove target/: everything built, and the data of `make run`
	rm -rf target
