#!/usr/bin/env bash
# The lints of what is not Rust, and of the dependencies, by the tools that are installed; says which are not.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if command -v shellcheck >/dev/null; then
    shellcheck scripts/*.sh .ci/run
else
    echo 'lint: shellcheck is not installed, the shell scripts were not checked'
fi
if command -v cargo-deny >/dev/null; then
    cargo deny check
else
    echo 'lint: cargo-deny is not installed, licences and advisories of the dependencies were not checked'
fi
