# The front door. `make` alone says what there is.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c

PROJECTS := shared api worker loadgen
# SKIP=shell leaves that lint out, SKIP='shell deny' both.
LINTS := $(filter-out $(SKIP),format clippy docs drift deny shell)
TESTS := $(PROJECTS) scripts

.PHONY: help
help: ## what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

# --- To see it -----------------------------------------------------------------------------------

.PHONY: demo storm chaos bench run dev
demo: ## the difference between sync and async, in a minute (CALLBACK_PORT=8001)
	@scripts/demo.sh

storm: ## a sweep of load runs, and a table (OPTIONS='--rates 50,100 --duration 10s'; OPTIONS=--help)
	@scripts/storm.sh $(OPTIONS)

chaos: ## break everything that can break, and judge what was seen (SEED=1 DURATION=60s JOBS=20000)
	@SEED='$(SEED)' DURATION='$(DURATION)' JOBS='$(JOBS)' scripts/chaos.sh

bench: ## the figures of docs/BENCHMARKS.md, on this machine
	@scripts/bench.sh

run: ## a stack in the foreground: API on port 8000, worker on 9000, data in target/run
	@scripts/stack.sh run

dev: ## the same, rebuilt and restarted when a file changes
	@scripts/dev.sh

# --- In containers -------------------------------------------------------------------------------

.PHONY: images up down logs demo-compose
images: ## the four images, by Nix; by cargo alone where there is none (IMAGE_BUILDER=nix|host, TAG=latest)
	@scripts/images.sh

up: ## the stack of docker-compose.yml: API on port 8000 (API_PORT=8000)
	@scripts/compose.sh up

down: ## stop it and keep its data (OPTIONS=-v: its data goes too)
	@scripts/compose.sh down $(OPTIONS)

logs: ## follow what it says
	@scripts/compose.sh logs

demo-compose: ## the demo through the containers, while they are up
	@scripts/compose.sh demo

# --- To work on it -------------------------------------------------------------------------------

.PHONY: test $(TESTS:%=test-%)
test: $(TESTS:%=test-%) ## every test; of one project: make test-api

# The tests start a Redis each.
$(PROJECTS:%=test-%): test-%:
	@redis=$$(scripts/find-tool.sh redis-server); \
		REDIS_SERVER=$$redis cargo test --locked --manifest-path $*/Cargo.toml

test-scripts:
	@for test in scripts/tests/*.sh; do echo "$$test"; "$$test"; done

.PHONY: fuzz
fuzz: ## hostile URLs and name servers, from the text to the dialled address (CASES=200000)
	@export PROPTEST_CASES='$(or $(CASES),200000)'; \
		cargo test --locked --manifest-path shared/Cargo.toml --test it ssrf::fuzz; \
		cargo test --locked --manifest-path worker/Cargo.toml --test it delivery::fuzz

.PHONY: test-flake test-images test-compose
test-flake: ## all of it once more, by `nix flake check`, and what a build depends on
	@scripts/nix.sh flake check --log-lines 60
	@scripts/tests/packaging/flake.sh

test-images: ## that the flake builds an image the same twice, and of what
	@scripts/tests/packaging/images.sh

test-compose: ## the images that are loaded, by docker-compose.yml, with faults
	@scripts/tests/packaging/compose.sh

.PHONY: lint $(LINTS:%=lint-%)
lint: $(LINTS:%=lint-%) ## every check of the sources; one of them: make lint-clippy

lint-format:
	@for project in $(PROJECTS); do cargo fmt --check --manifest-path $$project/Cargo.toml; done

lint-clippy:
	@for project in $(PROJECTS); do \
		cargo clippy --locked --all-targets --manifest-path $$project/Cargo.toml -- -D warnings; \
	done

lint-docs: export RUSTDOCFLAGS := -D warnings
lint-docs:
	@for project in $(PROJECTS); do \
		cargo doc --locked --no-deps --manifest-path $$project/Cargo.toml; \
	done

lint-drift:
	@scripts/check-drift.sh

lint-deny:
	@scripts/deny.sh

lint-shell:
	@shellcheck=$$(scripts/find-tool.sh shellcheck); \
		"$$shellcheck" --external-sources .ci/run scripts/*.sh scripts/tests/*.sh scripts/tests/*/*.sh

.PHONY: fmt update clean
fmt: ## format the sources
	@for project in $(PROJECTS); do cargo fmt --manifest-path $$project/Cargo.toml; done

update: ## update the four lock files together, so that they agree
	@for project in $(PROJECTS); do cargo update --manifest-path $$project/Cargo.toml; done
	@scripts/check-drift.sh

clean: ## remove everything that was built or kept here: target/
	rm -rf target
