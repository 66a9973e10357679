# `make up` runs the product, `make test` proves it. `make help` names the rest.
.DEFAULT_GOAL := help
SHELL := /bin/bash

# One profile for both, so that a fresh machine compiles everything once. `make up PROFILE=release` for a fast binary.
PROFILE ?= dev
BIN := target/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))

.PHONY: help
help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

.PHONY: up
up: deps build ## Build what is missing and run everything with a demo tenant
	@$(BIN)/tollgate up

.PHONY: deps
deps: ## Install what the distribution's packages provide and this machine lacks
	@deploy/deps.sh postgres cc

.PHONY: build
build: ## Build the gateway, the demo servers and the sandbox
	@# Two workspaces at once: each has stretches in which one crate holds up all others.
	@cargo build --manifest-path sandbox/Cargo.toml --profile $(PROFILE) --locked & sandbox=$$!; \
	 cargo build --workspace --profile $(PROFILE) --locked && wait $$sandbox
	@install -m 755 sandbox/$(BIN)/tollgate-sandbox $(BIN)/tollgate-sandbox

.PHONY: test
test: deps build ## Everything that proves the product
	@deploy/deps.sh node python redis
	@tests/peers/install.sh
	@cargo build --workspace --tests --profile $(PROFILE) --locked
	@tests/with-postgres.sh cargo test --workspace --profile $(PROFILE) --locked --no-fail-fast
	@cargo test --manifest-path sandbox/Cargo.toml --profile $(PROFILE) --locked

# The size of the benchmark: generated calls, seconds of one round.
ROWS ?= 10000000
SECONDS ?= 3

.PHONY: bench-audit
bench-audit: ## Measure the audit trail: calls, exports, searches (ROWS=10000000 SECONDS=3, PROFILE=release unless given)
	@$(MAKE) --no-print-directory bench-audit-in PROFILE=$(if $(filter command line environment,$(origin PROFILE)),$(PROFILE),release)

.PHONY: bench-audit-in
bench-audit-in: deps build
	@# The baseline's feature is turned on in a build of its own, of this one program: the product above has not got it.
	@cargo build --workspace --bin tollgate-bench --features tollgate-bench/unaudited --profile $(PROFILE) --locked
	@$(BIN)/tollgate-bench calls --seconds $(SECONDS)
	@tests/with-postgres.sh $(BIN)/tollgate-bench trail --rows $(ROWS)

.PHONY: bench-spend
bench-spend: ## Measure reservations on one hot budget and counts of one hot limit (SECONDS=3, PROFILE=release unless given)
	@$(MAKE) --no-print-directory bench-spend-in PROFILE=$(if $(filter command line environment,$(origin PROFILE)),$(PROFILE),release)

.PHONY: bench-spend-in
bench-spend-in: deps build
	@deploy/deps.sh redis
	@FSYNC=on tests/with-postgres.sh $(BIN)/tollgate-bench spend --seconds $(SECONDS)

.PHONY: bench-llm
bench-llm: ## Measure what the LLM door adds to a request, and the memory of open streams (SECONDS=3, PROFILE=release unless given)
	@$(MAKE) --no-print-directory bench-llm-in PROFILE=$(if $(filter command line environment,$(origin PROFILE)),$(PROFILE),release)

.PHONY: bench-llm-in
bench-llm-in: deps build
	@$(BIN)/tollgate-bench llm --seconds $(SECONDS)

.PHONY: bench-tokens
bench-tokens: deps build ## Count the tokens of prompts: classic and Code Mode, 96, 251 and 508 tools
	@$(BIN)/tollgate-bench tokens

.PHONY: bench-script
bench-script: ## Measure scripts: empty ones, nested calls, 1,000 at once, memory of those that wait (PROFILE=release unless given)
	@$(MAKE) --no-print-directory bench-script-in PROFILE=$(if $(filter command line environment,$(origin PROFILE)),$(PROFILE),release)

.PHONY: bench-script-in
bench-script-in: deps build
	@# The baseline is the engine without its sandbox: a program of the sandbox's workspace, which cannot be linked with the gateway's.
	@cargo build --manifest-path sandbox/Cargo.toml --example inprocess --profile $(PROFILE) --locked
	@install -m 755 sandbox/$(BIN)/examples/inprocess $(BIN)/tollgate-inprocess
	@$(BIN)/tollgate-bench script

.PHONY: lint
lint: ## Formatting and clippy, warnings refused
	@cargo clippy --workspace --all-targets --locked -- -D warnings
	@cargo clippy --manifest-path sandbox/Cargo.toml --all-targets --locked -- -D warnings

.PHONY: sqlx
sqlx: deps ## Refresh .sqlx against a private database
	@tests/with-postgres.sh deploy/sqlx.sh

.PHONY: openapi
openapi: build ## Write openapi/admin.json
	@$(BIN)/tollgate openapi > openapi/admin.json

.PHONY: clean
clean: ## Remove what was built and the demo's data
	@rm -rf target sandbox/target .tollgate .peers
