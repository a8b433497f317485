#!/usr/bin/env bash
# Draw the book's pictures anew, from real runs: docs/pictures/. About five minutes; needs the programs (make build).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scadles=${CARGO_TARGET_DIR:-target}/debug/scadles
work=$(mktemp -d "${TMPDIR:-/tmp}/scadles-pictures.XXXXXX")
trap 'rm -rf "$work"' EXIT

# picture JOB FILE...: run a job of the examples and keep some of its curves.
picture() {
    local job=$1 file
    shift
    "$scadles" run "manifests/examples/$job.yaml" --out "$work/$job" >&2
    "$scadles" report "$work/$job" --plots "$work/plots/$job" >&2
    mkdir -p docs/pictures
    for file; do cp "$work/plots/$job/$file" docs/pictures/; done
}

picture quickstart-local rate.svg batch.svg weight.svg buffer.svg
picture compressed bytes.svg
