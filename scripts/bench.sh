#!/usr/bin/env bash
# Measure: every number with its bound, on optimised programs, in about twenty minutes. Fails if a bound is missed.
#
#   scripts/bench.sh [PART...]      default: all, in this order
#
#   ingest       processor time per sample from Apache Kafka to tensor, against confluent-kafka and numpy
#   agreement    one round of the control channel between eight processes
#   sum          the sum in rank order against Gloo's own all-reduce (reported, no bound)
#   allreduce    sums over Gloo, 1 KB to 575 MB on 2 and 4 ranks, against torch.distributed's (about ten minutes, only if it is
#                named)
#   mpi          sums over MPI, 1 KB to 100 MB on two ranks, against a loop of MPI_Allreduce in C (reported, no bound)
#   ddp          one training step of ResNet-18 on two ranks against PyTorch's DistributedDataParallel: time, memory, start
#                (SCADLES_BENCH_DDP names another configuration of scripts/bench/ddp.py)
#   links        the same step with `mode: Auto` over links of 1 and 5 Gbit/s and without a limit, against PyTorch's dense gradients
#                and its hooks that compress (as root: it makes network namespaces; about half an hour, only if it is named)
#   overlap      the same step with the exchange during backward and after it, over loopback and, as root, over a slower link
#   exchange     a compressed exchange alone, on the shapes of ResNet-152, against what is quickly written in PyTorch: time and
#                bytes (about ten minutes, only if it is named)
#   select       top-k with error feedback against torch.topk, gather and scatter
#   jobs         step times, own time per step and trained rates of whole runs
#   simulate     the virtual clock: 250 epochs on 25 devices, 10,000 devices for 10,000 steps
#   producer     rates kept over a minute: 12 mixed ones, and 32 devices at 600 a second
#   quickstart   Top-1 of the quickstart with three seeds
#   accuracy     what compression and injection do to Top-1, five seeds a row (on the virtual clock; half an hour, only if it
#                is named)
#
# Kafka comes from KAFKA_HOME, or is the archive that `scripts/setup.sh kafka` fetches. Python's side of the comparison lives
# in SCADLES_CACHE. SCADLES_BENCH_OUT keeps the run folders. A busy machine spoils the numbers: let it do nothing else.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit

parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=(ingest agreement sum mpi ddp overlap select simulate jobs producer quickstart)
cache=${SCADLES_CACHE:-${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/scadles}
venv=$cache/bench-venv
python=$venv/bin/python
torch_venv=$cache/bench-torch
programs=${CARGO_TARGET_DIR:-target}/release
for part in "${parts[@]}"; do
    # Every part has its line above; what has none would be found out behind a long build.
    if ! grep -Eq "^#   $part  +[[:alnum:]]" "${BASH_SOURCE[0]}"; then
        echo "bench: there is no part '$part'" >&2
        sed -n '2,/^set -uo/{/^set -uo/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}" >&2
        exit 2
    fi
done
out=${SCADLES_BENCH_OUT:-$(mktemp -d "${TMPDIR:-/tmp}/scadles-bench.XXXXXX")}
missed=()

say() { printf 'bench: %s\n' "$*" >&2; }
# measure NAME COMMAND...: run it; a failure is told at the end, the other parts go on.
measure() {
    printf '\n%s\n' "$1"
    "${@:2}" || missed+=("$1")
}

needs_kafka() {
    [ -n "${KAFKA_HOME:-}" ] && return
    KAFKA_HOME=$(scripts/setup.sh kafka) || {
        say 'Apache Kafka cannot be had here: set KAFKA_HOME to the folder of an Apache Kafka 4 archive'
        return 1
    }
    export KAFKA_HOME
}
needs_python() {
    "$python" -c 'import confluent_kafka, numpy' 2>/dev/null && return
    say "installing confluent-kafka and numpy into $venv"
    python3 -m venv "$venv" &&
        "$python" -m pip install --quiet --disable-pip-version-check -r scripts/bench/requirements.txt >&2
}

ingest() {
    needs_kafka && needs_python || return
    "$python" -c 'import confluent_kafka as k, numpy; print("       confluent-kafka", k.__version__, "librdkafka", k.libversion()[0], "numpy", numpy.__version__)'
    "$programs/examples/ingest_bench" "$python" scripts/bench/ingest.py
}
# PyTorch's own wheel, without its part for GPUs.
needs_torch() {
    "$torch_venv/bin/python" -c 'import torch; assert torch.__version__.startswith("2.11.0")' 2>/dev/null && return
    say "installing torch into $torch_venv (550 MB of download unless it is in $cache/wheels)"
    rm -rf "$torch_venv"
    # pip needs room for a wheel in its temporary folder; /tmp is small on many machines.
    mkdir -p "$cache/wheels" "$cache/.pip" && python3 -m venv "$torch_venv" &&
        TMPDIR=$cache/.pip "$torch_venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
            --find-links "$cache/wheels" -r scripts/bench/requirements-torch.txt >&2 &&
        "$torch_venv/bin/python" scripts/bench/cpu_torch.py
}
ddp() {
    needs_torch || return
    local step=("$programs/examples/step_bench" "$torch_venv/bin/python" scripts/bench/ddp.py 24)
    local own=${SCADLES_BENCH_DDP:-view,static,fused}
    "${step[@]}" 8 "$own" || return
    echo '       reported: one micro-batch, and with the settings of the allocator that our workers have'
    "${step[@]}" 16 "$own" || true
    "${step[@]}" 16 "$own,malloc" || true
}
links() {
    needs_torch && "$torch_venv/bin/python" scripts/bench/links.py "$programs/examples/step_bench"
}
# In a network namespace of its own, whose loopback carries no more than 1 Gbit/s, both directions together.
narrow() {
    local limit='ip link set lo up && tc qdisc add dev lo root tbf rate 1gbit burst 256kb latency 50ms && exec "$@"'
    unshare --net bash -c "$limit" bash "$@"
}
overlap() {
    "$programs/examples/step_bench" overlap 24 || return
    if ! narrow true 2>/dev/null; then
        say 'no network namespace can be made here: the slower link is left out'
        return
    fi
    echo '       over 1 Gbit/s'
    narrow "$programs/examples/step_bench" overlap 24
}
# A ratio beyond 1.05 is explained in docs/benchmarks.md; it fails nothing.
sum() {
    local ranks floats
    for ranks in 2 4; do
        for floats in 33946 11173962; do
            "$programs/examples/gloo_bench" "$ranks" "$floats" "$((floats > 1000000 ? 5 : 50))" | python3 scripts/bench/ratio.py
        done
    done
}
allreduce() {
    needs_torch && "$torch_venv/bin/python" scripts/bench/allreduce.py "$programs/examples/allreduce_bench"
}
exchange() {
    needs_torch && "$torch_venv/bin/python" scripts/bench/exchange.py "$programs/examples/exchange_bench"
}
# Both sides take turns; what the ranks say first to keep unlike calls apart costs a microsecond.
mpi() {
    local compiler
    compiler=$(scripts/setup.sh mpi) || return
    cargo build --quiet "${packages[@]}" --features scadles-trainer/mpi --example mpi_bench &&
        "$compiler" -O2 scripts/bench/mpi_allreduce.c -o "$out/mpi_allreduce" &&
        python3 scripts/bench/mpi.py "$out/mpi_allreduce" "$programs/examples/mpi_bench"
}
producer() {
    needs_kafka || return
    local rates=1
    cargo test --quiet "${packages[@]}" --test rates_on_kafka -- --ignored --nocapture --test-threads 1 \
        keep_their_rates rates_are_kept 2>&1 | grep -E 'streams:|worst|asked|panicked|test result' && rates=${PIPESTATUS[0]}
    [ "$rates" = 0 ]
}
accuracy() { python3 scripts/bench/accuracy.py "$programs/scadles" "$out/accuracy"; }
jobs_of() { python3 scripts/bench/jobs.py "$programs/scadles" "$out" "$@"; }

say "run folders: $out"
# One choice of packages for all builds: another would build the dependencies with other features, and so again.
packages=(--release --workspace)
cargo build --quiet "${packages[@]}" --bins --examples || exit
rustc --version | sed 's/^/       /'
printf '       %s cores, load %s\n' "$(nproc)" "$(cut -d' ' -f1-3 /proc/loadavg)"
for part in "${parts[@]}"; do
    case $part in
        ingest) measure 'ingest' ingest ;;
        agreement) measure 'agreement' "$programs/examples/agreement_bench" ;;
        sum) measure 'sum in rank order' sum ;;
        allreduce) measure 'sums over Gloo against torch.distributed' allreduce ;;
        mpi) measure 'sums over MPI' mpi ;;
        ddp) measure 'training step against PyTorch' ddp ;;
        links) measure 'Auto over limited links' links ;;
        overlap) measure 'exchange during backward' overlap ;;
        exchange) measure 'compressed exchange against the earlier layout' exchange ;;
        select) measure 'selection with error feedback' "$programs/examples/select_bench" ;;
        simulate) measure 'virtual clock' "$programs/examples/sim_bench" ;;
        jobs) measure 'jobs' jobs_of two-devices rates-linerate rates-streamrate rates-fixed ;;
        producer) measure 'producer' producer ;;
        accuracy) measure 'accuracy' accuracy ;;
        quickstart) measure 'quickstart' jobs_of quickstart ;;
    esac
done
printf '\n'
if [ ${#missed[@]} -gt 0 ]; then
    printf 'bench: bounds missed in: %s\n' "${missed[*]}"
    exit 1
fi
echo 'bench: all bounds hold'
