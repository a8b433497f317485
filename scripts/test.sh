#!/usr/bin/env bash
# Run all tests of the workspace. Some test programs need a server of their own, told by the end of their names:
#
#   *_on_kafka       a real Apache Kafka: KAFKA_HOME, or what `scripts/setup.sh kafka` fetches
#   *_on_kafka3      Apache Kafka 3.9 with ZooKeeper: KAFKA_3_HOME
#   *_in_chromium    a browser: CHROMIUM, or what `scripts/setup.sh chromium` installs
#   *_on_apiserver   a real kube-apiserver and etcd: KUBEBUILDER_ASSETS, or /usr/local/kubebuilder/bin
#   *_with_helm      helm in PATH
#   *_with_mpi       Open MPI or MPICH, and libclang: what is there, or what `scripts/setup.sh mpi` installs. With it all is
#                    built with the feature scadles-trainer/mpi
#
# Where one cannot be had, its tests are left out and listed by name and number; with CI=true that is a failure. The
# end-to-end tests (e2e/) are compiled here and run by `make e2e-smoke` and `make e2e`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# By the end of the test programs' names: what is missing, and how to get it.
declare -A missing=()

status=0
home=$(scripts/setup.sh kafka) || status=$?
case $status in
    0)
        export KAFKA_HOME=$home
        echo "test: Apache Kafka at $KAFKA_HOME"
        ;;
    3) missing[_on_kafka]="Apache Kafka (set KAFKA_HOME, or let 'scripts/setup.sh kafka' fetch it)" ;;
    *) exit "$status" ;;
esac

status=0
home=$(scripts/setup.sh kafka3) || status=$?
case $status in
    0)
        export KAFKA_3_HOME=$home
        echo "test: Apache Kafka 3.9 at $KAFKA_3_HOME"
        ;;
    3) missing[_on_kafka3]='Apache Kafka 3.9 (set KAFKA_3_HOME to the folder of an unpacked archive)' ;;
    *) exit "$status" ;;
esac

status=0
browser=$(scripts/setup.sh chromium) || status=$?
case $status in
    0)
        export CHROMIUM=$browser
        echo "test: Chromium at $CHROMIUM"
        ;;
    3) missing[_in_chromium]="Chromium (set CHROMIUM to its program, or let 'scripts/setup.sh chromium' install it)" ;;
    *) exit "$status" ;;
esac

assets=${KUBEBUILDER_ASSETS:-/usr/local/kubebuilder/bin}
if [ -x "$assets/etcd" ] && [ -x "$assets/kube-apiserver" ]; then
    export KUBEBUILDER_ASSETS=$assets
    echo "test: kube-apiserver at $KUBEBUILDER_ASSETS"
else
    missing[_on_apiserver]="kube-apiserver and etcd (set KUBEBUILDER_ASSETS to their folder, such as 'setup-envtest use -p path' prints)"
fi

if command -v helm >/dev/null; then
    echo "test: helm at $(command -v helm)"
else
    missing[_with_helm]='helm (install it from https://helm.sh)'
fi

workspace=(--workspace)
status=0
compiler=$(scripts/setup.sh mpi) || status=$?
case $status in
    0)
        workspace+=(--features scadles-trainer/mpi)
        echo "test: MPI by $compiler"
        ;;
    3) missing[_with_mpi]="Open MPI or MPICH, and libclang (let 'scripts/setup.sh mpi' install them)" ;;
    *) exit "$status" ;;
esac

if [ ${#missing[@]} -eq 0 ]; then
    exec cargo test "${workspace[@]}"
fi
case ${CI:-} in
    '' | false | 0) ;;
    *)
        for suffix in "${!missing[@]}"; do
            echo "test: CI is set, and the tests *$suffix cannot be left out: they need ${missing[$suffix]}" >&2
        done
        exit 1
        ;;
esac

# Cargo can select test programs by name, but not exclude them.
run=()
declare -A left_out=()
while read -r target; do
    needs=
    for suffix in "${!missing[@]}"; do
        [[ $target != *"$suffix" ]] || needs=$suffix
    done
    if [ -n "$needs" ]; then
        left_out[$needs]+=" --test $target"
    else
        run+=(--test "$target")
    fi
done < <(cargo metadata --no-deps --format-version 1 | python3 -c '
import json, sys
for package in json.load(sys.stdin)["packages"]:
    for target in package["targets"]:
        if "test" in target["kind"]:
            print(target["name"])
' | sort -u)

cargo test "${workspace[@]}" --lib --bins "${run[@]}"
cargo test "${workspace[@]}" --doc
for suffix in "${!left_out[@]}"; do
    read -ra programs <<<"${left_out[$suffix]}"
    names=$(cargo test --quiet "${workspace[@]}" "${programs[@]}" -- --list | sed -n 's/: test$//p')
    printf '\ntest: left out %d tests that need %s:\n' "$(grep -c . <<<"$names")" "${missing[$suffix]}"
    while read -r name; do echo "    $name"; done <<<"$names"
done
