#!/bin/sh
# All tests. cargo-nextest where it is installed, since it runs each test in its own process; else cargo's own runner.
set -eu
cd "$(dirname "$0")/.."

if [ "$(id -u)" != 0 ]; then
    echo "test: this needs root: the tests make containers, interfaces and packet rules" >&2
    exit 1
fi
if ! command -v kubectl >/dev/null 2>&1; then
    echo "test: kubectl is needed on the PATH; see https://kubernetes.io/docs/tasks/tools/" >&2
    exit 1
fi
if cargo nextest --version >/dev/null 2>&1; then
    cargo nextest run --workspace --locked --no-fail-fast
else
    cargo test --workspace --locked --no-fail-fast -- --test-threads=2
fi
