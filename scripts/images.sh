#!/usr/bin/env bash
# Build the container images, out of programs built here and the libraries that they load on this machine: no network.
#
#   scripts/images.sh [NAME...]     default: operator trainer data; trainer-cuda beside them
#   scripts/images.sh --names       print what they are called, build nothing
#
#   PROFILE        cargo profile of the programs, dev (default) or release
#   IMAGE_PREFIX   registry and folder of the names, default ghcr.io/scadles
#   TAG            default: the workspace's version
#   BASE           base of the trainer's image, default debian:bookworm-slim
#   LIBTORCH_CUDA  for trainer-cuda, which is scadles-trainer:TAG-cuda: a folder whose lib/ holds what the trainer loads to
#                  compute on GPUs: libtorch_cuda.so and libc10_cuda.so of the libtorch that it was built with, libnccl.so.2,
#                  and all that they load of CUDA (the lib/ folders of the wheels that `pip install torch` brings, together)
#
# An image whose ingredients have not changed is left as it is. Each one is started once before it counts as built, as
# a pod would start it: not as root, with a read-only root file system, without capabilities.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

names=(operator trainer data)
[ $# -eq 0 ] || [ "$1" = --names ] || names=("$@")
profile=${PROFILE:-dev}
prefix=${IMAGE_PREFIX:-ghcr.io/scadles}
tag=${TAG:-$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)}
base=${BASE:-debian:bookworm-slim}
target=${CARGO_TARGET_DIR:-target}
case $profile in
    dev) programs=$target/debug ;;
    *) programs=$target/$profile ;;
esac
work=$target/images
certificates=/etc/ssl/certs/ca-certificates.crt

say() { printf 'images: %s\n' "$*" >&2; }
fail() {
    say "$@"
    exit 1
}

# ---- ingredients -----------------------------------------------------------------------------------------------

# libraries PROGRAM...: the shared libraries and the loader, by path, as this machine finds them.
libraries() {
    local found
    found=$(ldd "$@") || return
    if grep -F 'not found' <<<"$found" >&2; then
        fail "a library of $* is missing on this machine"
    fi
    sed -n 's/^\t\(.* => \)\{0,1\}\(\/[^ ]*\) (0x[0-9a-f]*)$/\2/p' <<<"$found" | sort -u
}

# A program without its symbols and debug information: that is nine tenths of it.
program() { # FILE FOLDER
    mkdir -p "$2"
    strip --strip-all -o "$2/$(basename "$1")" "$1"
    chmod 0755 "$2/$(basename "$1")"
}

# The libraries of a file, at their places, under a root folder: with them a program runs without any base image.
with_libraries() { # ROOT PROGRAM
    local library found
    found=$(libraries "$2")
    while read -r library; do
        install -D -m 0755 "$library" "$1$library"
    done <<<"$found"
}

users() { # ROOT: what programs expect of a system besides libraries
    mkdir -p "$1/etc"
    printf 'root:x:0:0:root:/:/\nscadles:x:65532:65532:scadles:/:/\n' >"$1/etc/passwd"
    printf 'root:x:0:\nscadles:x:65532:\n' >"$1/etc/group"
    printf 'hosts: files dns\n' >"$1/etc/nsswitch.conf"
}

assemble_operator() { # CONTEXT
    program "$programs/scadles-operator" "$1/root/usr/local/bin"
    with_libraries "$1/root" "$programs/scadles-operator"
    users "$1/root"
    install -D -m 0644 $certificates "$1/root$certificates"
    install -D -m 0644 LICENSE "$1/root/usr/local/share/licenses/scadles/LICENSE"
    mkdir -m 1777 "$1/root/tmp"
}

assemble_trainer() { # CONTEXT
    local name file found
    mkdir -p "$1/lib"
    for name in scadles scadles-trainer; do
        program "$programs/$name" "$1/bin"
        found=$(libraries "$programs/$name")
        while read -r file; do
            case ${file##*/} in
                # Parts of the C library must come from one place, and the loader is the base's.
                ld-linux* | libc.so.* | libm.so.* | libdl.so.* | libpthread.so.* | librt.so.* | libresolv.so.* | libutil.so.*) ;;
                *) [ -e "$1/lib/${file##*/}" ] || strip --strip-unneeded -o "$1/lib/${file##*/}" "$file" ;;
            esac
        done <<<"$found"
    done
    chmod 0644 "$1"/lib/*
    install -D -m 0644 $certificates "$1/certs/$(basename $certificates)"
    install -D -m 0644 LICENSE "$1/licenses/scadles/LICENSE"
    # As the wheels that libtorch came from ship them.
    [ ! -d .cache/libtorch/licenses ] || cp -R .cache/libtorch/licenses/. "$1/licenses/"
}

# The same programs and libraries, and what makes libtorch compute on GPUs. The driver's own library comes from the node.
assemble_trainer-cuda() { # CONTEXT
    local file
    assemble_trainer "$1"
    for file in "$LIBTORCH_CUDA"/lib/*.so*; do
        [ -e "$1/lib/${file##*/}" ] || cp -L "$file" "$1/lib/"
    done
    chmod 0644 "$1"/lib/*
}

check_cuda() {
    local file
    [ -n "${LIBTORCH_CUDA:-}" ] || fail 'trainer-cuda: LIBTORCH_CUDA is not set; it names a folder with lib/libtorch_cuda.so; see the head of scripts/images.sh'
    for file in libtorch_cuda.so libc10_cuda.so libnccl.so.2; do
        [ -e "$LIBTORCH_CUDA/lib/$file" ] || fail "trainer-cuda: LIBTORCH_CUDA=$LIBTORCH_CUDA has no lib/$file"
    done
}

assemble_data() { # CONTEXT
    [ -s .cache/data/fashion-mnist/train-images-idx3-ubyte ] ||
        fail "no Fashion-MNIST in .cache/data: 'scripts/setup.sh data' fetches it"
    install -D -m 0755 "$(command -v cp)" "$1/root/usr/bin/cp"
    with_libraries "$1/root" "$(command -v cp)"
    users "$1/root"
    mkdir -p "$1/root/data/fashion-mnist"
    install -m 0644 .cache/data/fashion-mnist/*-ubyte "$1/root/data/fashion-mnist/"
}

# What an image is made of, without reading half a gigabyte: sizes and times of the files, and the recipes.
ingredients() { # NAME
    case $1 in
        operator) set -- "$1" "$programs/scadles-operator" ;;
        trainer) set -- "$1" "$programs/scadles" "$programs/scadles-trainer" .cache/libtorch/lib/* ;;
        trainer-cuda)
            set -- "$1" "$programs/scadles" "$programs/scadles-trainer" .cache/libtorch/lib/* "$LIBTORCH_CUDA"/lib/*
            ;;
        data) set -- "$1" "$(command -v cp)" .cache/data/fashion-mnist/* ;;
    esac
    { cat "images/$(folder "$1")/Dockerfile" scripts/images.sh && echo "$base" && stat -L -c '%n %s %Y' "${@:2}"; } | sha256sum | cut -c1-16
}

# ---- images ----------------------------------------------------------------------------------------------------

# as_in_a_pod IMAGE ARGUMENT...
as_in_a_pod() {
    docker run --rm --network none --read-only --tmpfs /target:mode=1777 --cap-drop ALL --security-opt no-new-privileges "$@"
}
try_image() { # NAME IMAGE
    case $1 in
        operator) as_in_a_pod "$2" --version ;;
        trainer*) as_in_a_pod "$2" scadles-trainer --version && as_in_a_pod "$2" scadles --version ;;
        data) as_in_a_pod "$2" ;;
    esac >/dev/null || fail "$2 does not start: was its program built against a newer C library than that of BASE=$base?"
}

# trainer-cuda is a variant of the trainer's image: its recipe, another tag.
folder() { # NAME
    echo "${1%-cuda}"
}
reference() { # NAME
    case $1 in
        *-cuda) echo "$prefix/scadles-$(folder "$1"):$tag-cuda" ;;
        *) echo "$prefix/scadles-$1:$tag" ;;
    esac
}

build_image() { # NAME
    local image context=$work/$1 made_of
    image=$(reference "$1")
    made_of=$(ingredients "$1")
    if [ "$(docker image inspect -f '{{index .Config.Labels "io.scadles.ingredients"}}' "$image" 2>/dev/null)" != "$made_of" ]; then
        say "building $image"
        rm -rf "$context"
        mkdir -p "$context"
        "assemble_$1" "$context"
        cp "images/$(folder "$1")/Dockerfile" "$context/"
        # Tagged once it has been tried, so that one that does not start is never taken for done.
        local id arguments=() log=$work/$1.log
        [ "$(folder "$1")" != trainer ] || arguments=(--build-arg "BASE=$base")
        id=$(docker build --quiet "${arguments[@]}" \
            --label org.opencontainers.image.title="scadles-$(folder "$1")" --label org.opencontainers.image.version="$tag" \
            --label org.opencontainers.image.source=https://github.com/scadles/scadles \
            --label org.opencontainers.image.licenses=Apache-2.0 --label "io.scadles.ingredients=$made_of" "$context" 2>"$log") || {
            cat "$log" >&2
            fail "failed to build $image"
        }
        try_image "$1" "$id"
        docker tag "$id" "$image"
        rm -rf "$context"
    fi
    printf '%s  %s MB\n' "$image" "$(docker image inspect -f '{{.Size}}' "$image" | awk '{printf "%.1f", $1 / 1e6}')"
}

if [ "${1:-}" = --names ]; then
    for name in "${names[@]}"; do
        reference "$name"
    done
    exit
fi
for name in "${names[@]}"; do
    [ "$name" = trainer-cuda ] || [ -d "images/$name" ] || fail "there is no image $name: $(cd images && echo *) trainer-cuda"
    [ "$name" != trainer-cuda ] || check_cuda
done
docker info >/dev/null 2>&1 || fail 'docker does not answer: install it, or start its daemon'
case " ${names[*]} " in
    # All programs together, as everywhere: a smaller choice would build the dependencies anew, with fewer features.
    *' operator '* | *' trainer '* | *' trainer-cuda '*) cargo build --workspace --bins --profile "$profile" ;;
esac
for name in "${names[@]}"; do
    build_image "$name"
done
