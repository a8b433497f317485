#!/usr/bin/env bash
# A short real run of the main job, as a user starts it; its report must tell of a complete one.
#
#   scripts/smoke.sh [JOB]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

job=${1:-manifests/examples/smoke.yaml}
out=$(mktemp -d "${TMPDIR:-/tmp}/scadles-smoke.XXXXXX")
# What a failed run left is what one needs to find out why, so it stays then.
trap 'echo "smoke: failed, the run folder is $out" >&2' ERR

"${CARGO_TARGET_DIR:-target}/debug/scadles" run "$job" --out "$out/run"
python3 scripts/check_report.py "$out/run/report.json"
rm -rf "$out"
