# The commands people and CI use. Each does its own set-up.

CARGO ?= cargo
BERTH  = $(or $(CARGO_TARGET_DIR),target)/release/berth

.PHONY: demo test fuzz lint bench setup setup-test setup-bench clean-demo

## Builds berth, installs what is missing, and runs the example application.
demo: setup
	$(CARGO) build --release --locked --package berth
	BERTH=$(BERTH) scripts/demo.sh

## Takes the example application away again.
clean-demo:
	$(BERTH) down --volumes --file examples/votes/compose.yaml
	$(BERTH) reset --force

## Everything: format, lints, and all tests against the real kernel, real clients and real servers.
test: setup setup-test lint
	scripts/test.sh

## Feeds everything that reads input with spoilt input, from another random seed each time: SECONDS for each target.
SECONDS ?= 60
fuzz: setup-test
	BERTH_FUZZ_SECONDS=$(SECONDS) $(CARGO) nextest run --no-fail-fast fuzz --package berth-objects --package berth-spdy
	BERTH_FUZZ_SEED=$$(od -An -N4 -tu4 /dev/urandom | tr -d ' ') $(CARGO) nextest run --package berth-apiserver nonsense

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

## Measures the promises of SPECIFICATION.md against podman and docker in the same run.
bench: setup setup-bench
	$(CARGO) build --release --locked --package berth
	scripts/bench/bench.py --berth $(BERTH)
	$(CARGO) bench --locked --package berth-apiserver --bench numbers

setup:
	scripts/setup.sh

setup-test:
	scripts/setup.sh test

setup-bench:
	scripts/setup.sh bench
