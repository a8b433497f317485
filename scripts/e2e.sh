#!/usr/bin/env bash
# End-to-end tests on a kind cluster of their own, made anew and deleted at the end. A cluster that cannot be made is a
# failure.
#
#   scripts/e2e.sh smoke [TEST]     what the README tells to type, and the faults that matter most
#   scripts/e2e.sh all [TEST]       that, and all other scenarios
#   scripts/e2e.sh bench            what the operator costs and how quick it is
#
#   TEST          only the tests whose names contain this
#   E2E_KEEP=1    leave the cluster, and use the one that is there: quick repetition while one works on a test
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

cluster=scadles-e2e
broker=apache/kafka:4.1.2
target=${CARGO_TARGET_DIR:-target}

say() { printf 'e2e: %s\n' "$*" >&2; }
fail() {
    say "$@"
    exit 1
}

case ${1:-} in
    smoke) programs=(--test smoke) ;;
    all) programs=(--test smoke --test scenarios) ;;
    bench) programs=(--test bench) ;;
    *) fail 'usage: scripts/e2e.sh smoke|all|bench [TEST]' ;;
esac
for program in docker kind kubectl helm; do
    command -v "$program" >/dev/null || fail "$program is missing: the end-to-end tests need docker, kind, kubectl and helm"
done
docker info >/dev/null 2>&1 || fail 'docker does not answer: start its daemon'
docker image inspect $broker >/dev/null 2>&1 || docker pull $broker >&2 || fail "there is no image $broker"

# Compiled before the clock of the tests starts.
cargo test --workspace --no-run "${programs[@]}"

# The object store of the tests: one program, on the base of the trainers' image.
store=scadles-object-store:e2e
context=$target/images/object-store
mkdir -p "$context"
cp "$target/debug/scadles-object-store" "$context/"
printf 'FROM debian:bookworm-slim\nCOPY scadles-object-store /usr/local/bin/\nUSER 65532:65532\n' >"$context/Dockerfile"
docker build --quiet --tag $store "$context" >/dev/null

work=$(mktemp -d "${TMPDIR:-/tmp}/scadles-e2e.XXXXXX")
tidy() {
    [ -n "${E2E_KEEP:-}" ] || kind delete cluster --quiet --name $cluster
    rm -rf "$work"
}
trap tidy EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Not the user's own: nothing of another cluster can be touched.
export KUBECONFIG=$work/kubeconfig
if [ -n "${E2E_KEEP:-}" ] && kind get clusters 2>/dev/null | grep -qx $cluster; then
    kind export kubeconfig --quiet --name $cluster
else
    kind delete cluster --quiet --name $cluster
    kind create cluster --config e2e/kind.yaml --wait 3m >&2
fi
scripts/images.sh --names | xargs kind load docker-image --name $cluster >&2
kind load docker-image --name $cluster $broker $store >&2
if helm status scadles --namespace scadles-system >/dev/null 2>&1; then
    # A cluster that was kept: its operator is an older one under the same name.
    helm upgrade scadles charts/scadles --namespace scadles-system --reset-values >/dev/null
    kubectl --namespace scadles-system rollout restart deployment scadles >&2
    kubectl --namespace scadles-system rollout status deployment scadles --timeout 2m >&2
fi

# The README writes `scadles` for target/debug/scadles.
PATH=$(realpath "$target/debug"):$PATH
export PATH
begin=$SECONDS
filter=(--ignored ${2:+"$2"})
[ -n "$(cargo test --quiet --workspace "${programs[@]}" -- --list "${filter[@]}" | sed -n 's/: test$//p')" ] ||
    fail "there is no test whose name has '${2:-}'"
cargo test --workspace --no-fail-fast "${programs[@]}" -- "${filter[@]}" --test-threads=1 --nocapture
say "passed in $((SECONDS - begin)) s"
