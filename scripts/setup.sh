#!/usr/bin/env bash
# Set up what the build, the tests and the runs of this repository need. Every stage returns at once when it is done.
#
#   scripts/setup.sh [STAGE...]          default: packages libtorch data
#
#   packages   system packages: installed when root, otherwise the line to type (exit 1)
#   libtorch   PyTorch's C++ library, CPU part, at .cache/libtorch
#   data       CIFAR-10 and Fashion-MNIST at .cache/data
#   kafka      Apache Kafka for the tests against a real broker; prints its home folder on stdout.
#              Exit 3: it cannot be had here (no network or no Java), the tests that need it must be left out
#
# Downloads live in SCADLES_CACHE (default ~/.cache/scadles), shared by all checkouts; .cache/ holds links only.
# LIBTORCH, SCADLES_DATA and KAFKA_HOME name copies of your own.
set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
scripts=$repo/scripts
cache=${SCADLES_CACHE:-${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/scadles}
exit_unavailable=3

libtorch_version=2.11.0
work=
trap '[ -z "$work" ] || rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

say() { printf 'setup: %s\n' "$*" >&2; }
fail() {
    say "$@"
    exit 1
}

# Work in a folder beside the result and rename it at the end, so that a killed set-up leaves nothing half done.
# Leftovers of a set-up that was killed hard go when the next one starts.
open_work() {
    mkdir -p "$cache"
    exec 9>"$cache/.lock"
    if ! flock -n 9; then
        say "waiting for another set-up that uses $cache"
        flock 9
    fi
    rm -rf "$cache"/.work.*
    work=$(mktemp -d "$cache/.work.XXXXXX")
}
close_work() {
    rm -rf "$work"
    work=
    exec 9>&-
}

# link TARGET NAME: make the symbolic link .cache/NAME in one step.
link() {
    [ "$(readlink "$repo/.cache/$2" 2>/dev/null)" = "$1" ] && return
    mkdir -p "$repo/.cache"
    ln -s "$1" "$repo/.cache/.$2.$$"
    mv -fT "$repo/.cache/.$2.$$" "$repo/.cache/$2"
}

# ---- libtorch --------------------------------------------------------------------------------------------------

# The CPU part of PyTorch's own wheel: the one distribution of libtorch that the ordinary package registry carries.
setup_libtorch() {
    local home=$cache/libtorch-$libtorch_version wheels=$cache/wheels
    if [ -n "${LIBTORCH:-}" ]; then
        [ -e "$LIBTORCH/lib/libtorch_cpu.so" ] ||
            fail "LIBTORCH=$LIBTORCH has no lib/libtorch_cpu.so: unset it or name libtorch $libtorch_version"
        link "$LIBTORCH" libtorch
        return
    fi
    if [ ! -e "$home/build-version" ]; then
        [ "$(uname -sm)" = 'Linux x86_64' ] ||
            fail "no libtorch is pinned for $(uname -sm): set LIBTORCH to the folder of libtorch $libtorch_version"
        open_work
        if [ ! -e "$home/build-version" ]; then
            download_wheels "$wheels"
            say "unpacking libtorch $libtorch_version (about 500 MB) into $home"
            python3 "$scripts/unpack_libtorch.py" "$wheels" "$work/libtorch"
            mv -T "$work/libtorch" "$home"
        fi
        close_work
    fi
    link "$home" libtorch
}

# The wheels stay in the cache: half a gigabyte of disk against half a gigabyte of download for the next machine image.
download_wheels() {
    mkdir -p "$1"
    say "fetching the wheels that hold libtorch $libtorch_version (544 MB, kept in $1)"
    local progress=off
    [ -t 2 ] && progress=on
    python3 -m pip download --no-deps --only-binary=:all: --python-version 3.11 --implementation cp --abi cp311 \
        --abi none --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 --platform manylinux_2_25_x86_64 \
        --platform manylinux_2_17_x86_64 --progress-bar "$progress" --disable-pip-version-check \
        --require-hashes --requirement "$scripts/wheels.txt" --dest "$1" >&2 ||
        fail "failed to fetch libtorch: python3 -m pip could not download $scripts/wheels.txt (see above)"
}

for stage in "${@:-libtorch}"; do
    case $stage in
        libtorch) "setup_$stage" ;;
        *) fail "unknown stage $stage" ;;
    esac
done
