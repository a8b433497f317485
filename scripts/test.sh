#!/usr/bin/env bash
# Run all tests of the workspace. Tests that need a real Apache Kafka are the test programs whose names end in
# `_on_kafka`; where there is no Kafka they are left out and listed by name and number, and with CI=true that is a failure.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

status=0
home=$(scripts/setup.sh kafka) || status=$?
case $status in
    0)
        export KAFKA_HOME=$home
        echo "test: Apache Kafka at $KAFKA_HOME"
        exec cargo test --workspace
        ;;
    3) ;;
    *) exit "$status" ;;
esac
case ${CI:-} in
    '' | false | 0) ;;
    *)
        echo 'test: CI is set and there is no Apache Kafka: the tests against a real broker cannot be left out' >&2
        exit 1
        ;;
esac

# Cargo can select test programs by name, but not exclude them.
with_kafka=() without_kafka=()
while read -r target; do
    case $target in
        *_on_kafka) with_kafka+=(--test "$target") ;;
        *) without_kafka+=(--test "$target") ;;
    esac
done < <(cargo metadata --no-deps --format-version 1 | python3 -c '
import json, sys
for package in json.load(sys.stdin)["packages"]:
    for target in package["targets"]:
        if "test" in target["kind"]:
            print(target["name"])
' | sort -u)

cargo test --workspace --lib --bins "${without_kafka[@]}"
cargo test --workspace --doc
if [ ${#with_kafka[@]} -gt 0 ]; then
    left_out=$(cargo test --quiet --workspace "${with_kafka[@]}" -- --list | sed -n 's/: test$//p')
    echo
    echo "test: left out $(grep -c . <<<"$left_out") tests that need Apache Kafka (set KAFKA_HOME, or let" \
        "'scripts/setup.sh kafka' fetch it):"
    while read -r name; do echo "    $name"; done <<<"$left_out"
fi
