#!/usr/bin/env bash
# Draw the book's pictures anew, from real runs: docs/pictures/. About ten minutes; needs the programs (make build).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scadles=${CARGO_TARGET_DIR:-target}/debug/scadles
work=$(mktemp -d "${TMPDIR:-/tmp}/scadles-pictures.XXXXXX")
runner=
trap 'if [ -n "$runner" ]; then kill "$runner" 2>/dev/null || true; fi; rm -rf "$work"' EXIT

# keep FOLDER FILE[=NAME]...: put some of the pictures in a folder into the book, under a name of their own.
keep() {
    local folder=$1 file
    shift
    mkdir -p docs/pictures
    for file; do cp "$folder/${file%%=*}" "docs/pictures/${file##*=}"; done
}

# picture RUN FILE[=NAME]...: keep some of a run's curves.
picture() {
    local run=$1
    shift
    "$scadles" report "$work/$run" --plots "$work/plots/$run" >&2
    keep "$work/plots/$run" "$@"
}

# One worker is killed after the second checkpoint of a run.
run_with_a_killed_worker() {
    local checkpoint="$work/killed/checkpoints/*/*-00000080/manifest.json" deadline=$((SECONDS + 300))
    "$scadles" run manifests/examples/quickstart-local.yaml --out "$work/killed" >&2 &
    runner=$!
    until compgen -G "$checkpoint" >/dev/null; do
        kill -0 "$runner"
        [ $SECONDS -lt $deadline ] || { echo 'pictures: no checkpoint came within 300 s' >&2; return 1; }
        sleep 0.2
    done
    pkill -KILL -f "worker --config $work/killed/workers/device-2.json"
    wait "$runner"
    runner=
}

"$scadles" run manifests/examples/quickstart-local.yaml --out "$work/live" >&2
picture live rate.svg batch.svg weight.svg buffer.svg

"$scadles" run manifests/examples/compressed.yaml --out "$work/compressed" >&2
picture compressed bytes.svg

"$scadles" run manifests/examples/injection.yaml --out "$work/injection" >&2
picture injection received.svg=injection-received.svg batch.svg=injection-batch.svg

# The job of the page on BatchNorm, longer, with the statistics of all devices, with rank 0's, and with GroupNorm.
sed -n '/^```yaml,file=batch-norm.yaml$/,/^```$/{/^```/d;p}' docs/concepts/batch-norm.md |
    sed 's/maxSamples: 4000/maxSamples: 30000/; s/samples: 1000/samples: 5000/' >"$work/agreed.yaml"
sed 's/normalization: Batch/&, statistics: Local/' "$work/agreed.yaml" >"$work/rank-0.yaml"
sed 's/normalization: Batch, //' "$work/agreed.yaml" >"$work/group-norm.yaml"
for norms in agreed rank-0 group-norm; do
    "$scadles" simulate "$work/$norms.yaml" --train --out "$work/$norms" >&2
done
"$scadles" compare "$work/agreed" "$work/rank-0" "$work/group-norm" --plots "$work/plots/norms" >&2
keep "$work/plots/norms" accuracy.svg=batch-norm-accuracy.svg

run_with_a_killed_worker
picture killed buffer.svg=restart-buffer.svg samples.svg=restart-samples.svg

"$scadles" simulate manifests/examples/quickstart-local.yaml --train --out "$work/virtual" >&2
"$scadles" compare "$work/live" "$work/virtual" --plots "$work/plots/both" >&2
keep "$work/plots/both" samples.svg=virtual-samples.svg accuracy.svg=virtual-accuracy.svg
