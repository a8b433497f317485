#!/usr/bin/env bash
# What a change must pass, stage by stage, with the time that each took. Stops at the first that fails.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export CI=${CI:-true}

stages=(setup lint build test docs smoke e2e-smoke)
times=()
for stage in "${stages[@]}"; do
    printf '\n==> %s\n' "$stage"
    begin=$SECONDS
    if ! "${MAKE:-make}" --no-print-directory "$stage"; then
        printf '\nci: %s failed after %d s (passed before it: %s)\n' "$stage" $((SECONDS - begin)) "${times[*]:-nothing}" >&2
        exit 1
    fi
    times+=("$stage $((SECONDS - begin)) s,")
done
printf '\nci: passed: %s all %d s\n' "${times[*]}" "$SECONDS"
