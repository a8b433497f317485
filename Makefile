# The commands that people and CI use. Every target does its own set-up and is quick the second time.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup build run test bench lint docs book smoke images kind-load e2e-smoke e2e bench-operator manifests ci clean

# The job of `make run`; ARGS are further arguments of `scadles run`.
JOB ?= manifests/examples/quickstart-local.yaml
ARGS ?=
# Features of `make build` and `make run`, such as scadles-trainer/mpi for ARGS='--backend mpi'.
FEATURES ?=
# The kind cluster of `make kind-load`. PROFILE, IMAGE_PREFIX, TAG and BASE of the images: see scripts/images.sh.
CLUSTER ?= scadles
TARGET := $(or $(CARGO_TARGET_DIR),target)

help: ## show this list
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | while IFS=$$'\t' read -r target text; do \
		printf '  make %-14s %s\n' "$$target" "$$text"; done

setup: ## install what the build needs: system packages (root), libtorch, the data sets
	@scripts/setup.sh

build: setup ## build the programs scadles and scadles-trainer
	cargo build --workspace --bins --features '$(FEATURES)'

run: build ## train four devices on live CIFAR-10 streams; JOB=file.yaml and ARGS='--out DIR' change that
	$(TARGET)/debug/scadles run $(JOB) $(ARGS)

test: setup ## run all tests; without Apache Kafka all but those that need it, which are listed
	scripts/test.sh

bench: setup ## measure speed with optimised programs
	scripts/bench.sh

lint: setup ## check formatting and lints
	cargo fmt --all --check
	features=; if scripts/setup.sh mpi >/dev/null; then features=scadles-trainer/mpi; fi; \
		cargo clippy --workspace --all-targets --features "$$features" -- -D warnings
	@scripts/lint.sh

docs: setup ## build the API documentation, warnings are errors
	RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps

book: ## make a site of docs/, at target/book; installs mdBook for it
	mdbook=$$(scripts/setup.sh mdbook) && "$$mdbook" build docs

smoke: build ## a real run of 20 seconds, its report checked
	scripts/smoke.sh

images: setup ## build the container images of operator, trainer and data
	scripts/images.sh

kind-load: images ## load them into the kind cluster CLUSTER
	scripts/images.sh --names | xargs kind load docker-image --name $(CLUSTER)

e2e-smoke: images ## what the README types, on a kind cluster of its own, with faults: about ten minutes
	scripts/e2e.sh smoke

e2e: images ## all end-to-end tests on a kind cluster of its own: up to an hour
	scripts/e2e.sh all

bench-operator: ## what the operator costs and how quick it is, on a kind cluster of its own; optimised programs
	PROFILE=release scripts/images.sh
	scripts/e2e.sh bench

manifests: setup ## write crds/, the chart's copy and manifests/install.yaml anew
	cargo build --quiet --workspace --bins
	$(TARGET)/debug/crdgen .
	scripts/manifests.sh

ci: ## everything that a change must pass
	@scripts/ci.sh

clean: ## remove what was built; downloads stay in the cache folder
	cargo clean
