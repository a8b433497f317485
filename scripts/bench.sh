#!/usr/bin/env bash
# Measure: every benchmark of the workspace, with optimised programs. Kafka's benchmarks need KAFKA_HOME, or take the
# archive that `scripts/setup.sh kafka` fetched.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if home=$(scripts/setup.sh kafka); then
    export KAFKA_HOME=$home
fi
cargo build --release --workspace --bins
cargo bench --workspace
