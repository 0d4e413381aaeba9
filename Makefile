# `make help` lists what there is to do here.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

BUILD := $(abspath $(or $(CARGO_TARGET_DIR),target))
SCALER_VERSIONS := newest 2.6.0
ROUNDS ?= 1000
SECONDS ?= 60
FUZZ_SECONDS ?= 10
FILES ?= $(addprefix src/local/,index/liveness.rs index/payloads.rs index/owed.rs journal/reserve.rs files/space.rs upkeep/progress.rs \
	upkeep/room.rs upkeep/making.rs upkeep/reclaim.rs catalog/size.rs catalog/compaction.rs opening/superseded.rs opening/scan.rs \
	opening/recovery.rs bodies.rs read.rs)

export PYTHONDONTWRITEBYTECODE := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Read by tests/scaler: the debug build, which `make test-rust` has made already.
export OBJECT_STORAGE_SERVER_PROGRAM ?= $(BUILD)/debug/scaler_object_storage_server

# cargo-nextest where it is installed (tests wait more than they compute, so more run than there are cores), otherwise cargo's own test runner.
NEXTEST := $(shell cargo nextest --version >/dev/null 2>&1 && echo yes)
# Sanitizers are unstable options of the compiler; with this the stable one takes them.
FUZZ := RUSTC_BOOTSTRAP=1 cargo fuzz

.PHONY: help
help: ## What there is to do here
	@awk -F ' *## *' '/^[a-z-]+:.*## / { sub(":.*", "", $$1); printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## The server and the tools, optimised, in target/release
	cargo build --release --locked

.PHONY: wheel
wheel: ## The Python package, optimised, in target/wheels-release
	tests/needs.sh python $(BUILD)/python
	rm -f $(BUILD)/wheels-release/*.whl
	CARGO_TARGET_DIR=$(BUILD) $(BUILD)/python/bin/maturin build --release --locked --out $(BUILD)/wheels-release
	cargo build --release --locked
	$(BUILD)/python/bin/python packaging/wheel_with_program.py $(BUILD)/wheels-release/*.whl $(BUILD)/release/scaler_object_storage

.PHONY: test
test: test-rust test-interleavings test-python test-scaler $(if $(wildcard fuzz),fuzz-all) ## All tests; installs what they need

.PHONY: needs
needs:
	@tests/needs.sh system

.PHONY: test-rust
test-rust: needs ## Unit, integration and documentation tests
ifeq ($(NEXTEST),yes)
	cargo nextest run --locked --no-fail-fast --test-threads $$((2 * $$(nproc))) </dev/null
	cargo test --locked --doc
else
	cargo test --locked --no-fail-fast </dev/null
endif

.PHONY: test-interleavings
test-interleavings: ## The orders in which threads make records live and dead, gone through by a checker
	cargo test --locked --features shuttle --lib interleavings </dev/null

# Without a build environment of its own, so that it needs no network.
.PHONY: wheel-debug
wheel-debug: needs
	tests/needs.sh python $(BUILD)/python
	rm -f $(BUILD)/wheels-debug/*.whl
	PATH="$(BUILD)/python/bin:$$PATH" CARGO_TARGET_DIR=$(BUILD) MATURIN_PEP517_ARGS="--profile dev --locked" \
		python -m pip --quiet wheel --no-build-isolation --no-deps --wheel-dir $(BUILD)/wheels-debug .

.PHONY: test-python
test-python: wheel-debug ## The Python package
	$(BUILD)/python/bin/python -m pip --quiet install --force-reinstall --no-deps $(BUILD)/wheels-debug/*.whl
	cd tests/python && WHEEL=$$(ls $(BUILD)/wheels-debug/*.whl) timeout --signal=INT --kill-after=60 600 $(BUILD)/python/bin/python -m pytest </dev/null

.PHONY: test-scaler
test-scaler: $(addprefix test-scaler-,$(SCALER_VERSIONS)) ## A real Scaler cluster, of each version, on the server

# Left out with former versions, to save minutes: what Scaler does in these, other tests check with each version.
NEWEST_ONLY := test_deployments.py test_machines.py test_redis_backend.py test_two_nodes.py

.PHONY: $(addprefix test-scaler-,$(SCALER_VERSIONS))
$(addprefix test-scaler-,$(SCALER_VERSIONS)): test-scaler-%: wheel-debug
	cargo build --locked
	tests/needs.sh scaler $* $(BUILD)/scaler/$*
	$(BUILD)/scaler/$*/bin/python -m pip --quiet install --force-reinstall --no-deps $(BUILD)/wheels-debug/*.whl
	cd tests/scaler && WHEEL=$$(ls $(BUILD)/wheels-debug/*.whl) timeout --signal=INT --kill-after=60 900 \
		$(BUILD)/scaler/$*/bin/python -m pytest $(if $(filter newest,$*),,$(addprefix --ignore=,$(NEWEST_ONLY))) </dev/null

.PHONY: crash
crash: ## Kill and reopen the store ROUNDS times (1000)
	ROUNDS=$(ROUNDS) cargo test --release --locked --test crash -- --nocapture

.PHONY: soak
soak: wheel-debug ## A Scaler workload on linked workers for SECONDS (60), something killed every five of them
	cargo build --locked
	tests/needs.sh scaler newest $(BUILD)/scaler/newest
	$(BUILD)/scaler/newest/bin/python -m pip --quiet install --force-reinstall --no-deps $(BUILD)/wheels-debug/*.whl
	cd tests/scaler && SECONDS=$(SECONDS) $(BUILD)/scaler/newest/bin/python soak.py </dev/null

.PHONY: crash-node
crash-node: ## Kill processes that share a store, and their keepers, in ROUNDS rounds (1000)
	ROUNDS=$(ROUNDS) cargo test --release --locked --test attached -- --nocapture rounds::

.PHONY: converge
converge: needs ## Break everything between nodes ROUNDS times (1000)
	ROUNDS=$(ROUNDS) cargo test --release --locked --test convergence -- --nocapture

.PHONY: model
model: ## Go through the model of the replication protocol in large scopes; ONE=a_failover for one of them
	MODEL=large cargo test --release --locked --test model -- --nocapture $(or $(ONE),whole) </dev/null

.PHONY: bad-days
bad-days: needs ## All that can happen to Redis, with pauses of a minute (PAUSE_SECONDS)
	PAUSE_SECONDS=$${PAUSE_SECONDS:-60} cargo test --locked --test bad_days

.PHONY: fuzz
fuzz: needs ## Fuzz one TARGET for SECONDS (60)
	@[ -n "$(TARGET)" ] || { echo "say which: make fuzz TARGET=..., one of" $$($(FUZZ) list) >&2; exit 2; }
	@tests/needs.sh cargo cargo-fuzz
	$(FUZZ) run $(TARGET) -- -len_control=0 -max_total_time=$(SECONDS)

.PHONY: fuzz-all
fuzz-all: needs ## Fuzz every target for FUZZ_SECONDS (10) each
	@tests/needs.sh cargo cargo-fuzz
	@for target in $$($(FUZZ) list); do \
		echo "fuzzing $$target for $(FUZZ_SECONDS) s"; \
		$(FUZZ) run $$target -- -len_control=0 -max_total_time=$(FUZZ_SECONDS) -print_final_stats=1 </dev/null; \
	done

# What it mutates and which tests it runs: .cargo/mutants.toml. What a mutant breaks only between threads is for the checker of interleavings.
.PHONY: mutants
mutants: needs ## Break the local store's FILES one operator or function at a time: which breaks does no test see?
	@tests/needs.sh cargo cargo-nextest
	@tests/needs.sh cargo cargo-mutants
	ROUNDS=$${ROUNDS:-5} cargo mutants $(FILES:%=--file %) --output $(BUILD)

.PHONY: mutants-interleavings
mutants-interleavings: ## The same of what decides what counts, seen by `make test-interleavings`
	@tests/needs.sh cargo cargo-mutants
	cargo mutants --no-config --file 'src/local/index/{liveness,payloads}.rs' --output $(BUILD)/interleavings \
		--cargo-arg=--locked --features shuttle --timeout 120 -- --lib interleavings

.PHONY: bench
bench: ## Compare the store with other stores and caches
	cargo bench --locked --bench cache_hit

.PHONY: bench-objects
bench-objects: ## Open, read and write a store of ten million objects
	OBJECTS=$${OBJECTS:-10000000} cargo bench --locked --bench many_objects

.PHONY: bench-churn
bench-churn: needs ## Latencies in a store where all is overwritten and deleted, SECONDS (60) each; LIMIT_MB, THREADS
	tests/needs.sh scaler newest $(BUILD)/scaler/newest
	SECONDS=$(SECONDS) STOCK_SERVER=$(BUILD)/scaler/newest/bin/scaler_object_storage_server cargo bench --locked --bench churn

.PHONY: bench-attached
bench-attached: needs ## Compare an attached process with a store in the process, a bare echo, the stock server and Redis
	tests/needs.sh scaler newest $(BUILD)/scaler/newest
	STOCK_SERVER=$(BUILD)/scaler/newest/bin/scaler_object_storage_server cargo bench --locked --bench attached

.PHONY: bench-server
bench-server: needs ## Compare the server with the stock server and a bare echo
	tests/needs.sh scaler newest $(BUILD)/scaler/newest
	STOCK_SERVER=$(BUILD)/scaler/newest/bin/scaler_object_storage_server cargo bench --locked --bench server

.PHONY: bench-tiered
bench-tiered: needs ## Compare replication, fetching and waking across nodes with bare clients of Redis
	tests/needs.sh redis-client $(BUILD)/redis-client
	PYTHON=$(BUILD)/redis-client/bin/python cargo bench --locked --bench tiered

.PHONY: bench-fanout
bench-fanout: needs ## What events of up to 100 nodes cost Redis, and what things take of its memory; MEASURED_SECONDS (3) a line
	cargo bench --locked --bench fanout

.PHONY: bench-python
bench-python: needs wheel build ## Compare puts, gets and Scaler runs from Python with redis-py and the stock server
	tests/needs.sh scaler newest $(BUILD)/bench-python
	$(BUILD)/bench-python/bin/python -m pip --quiet install redis
	$(BUILD)/bench-python/bin/python -m pip --quiet install --force-reinstall --no-deps $(BUILD)/wheels-release/*.whl
	OBJECT_STORAGE_SERVER_PROGRAM=$(BUILD)/release/scaler_object_storage_server \
		$(BUILD)/bench-python/bin/python benches/python.py

.PHONY: lint
lint: ## Formatting, clippy, documentation, dependencies; warnings are errors
	cargo fmt --all -- --check
	cargo clippy --workspace --all-targets --all-features --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --document-private-items --all-features --locked
	@tests/needs.sh cargo cargo-deny
	cargo deny --locked check bans licenses sources
	@if timeout 120 cargo deny fetch db >/dev/null 2>&1; then \
		cargo deny --locked check --disable-fetch advisories; \
	else \
		echo "advisories NOT checked: the database at github.com cannot be fetched"; \
	fi
