# `make demo` and `make test` do all the set-up; `make help` lists the rest.
# One cargo profile (release, see Cargo.toml) serves every target, so that the dependencies are compiled once.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# Where .ci/setup.sh puts what the machine lacks: a `cc` if its own cannot use mold, Node and npm. Folders that are not there
# do no harm.
export PATH := $(CURDIR)/.build/bin:$(PATH):$(HOME)/.cargo/bin:$(CURDIR)/.build/venv/bin

CARGO_FLAGS := --release --locked
ARGS ?=

.PHONY: help setup build demo test fmt lint doc bench bench-tools fuzz deny clean distclean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

setup: ## install what building needs and is missing (apt, private venv); says what it installs
	@.ci/setup.sh build

build: setup ## compile the `weir` program into target/release
	cargo build $(CARGO_FLAGS) --bin weir

demo: build ## the whole thing in one process: broker, simulator, model, pipeline, Flight SQL (ARGS='--seconds 60')
	cargo run -q $(CARGO_FLAGS) --bin weir -- demo $(ARGS)

# The runner's own summary comes last: print nothing after it.
test: ## set-up, fmt, clippy, docs, all tests
	@.ci/setup.sh test
	@$(MAKE) lint
	cargo test $(CARGO_FLAGS) $(ARGS)

lint: setup ## what CI refuses: unformatted code, clippy's warnings, broken docs
	cargo fmt --check
	cargo clippy $(CARGO_FLAGS) --all-targets -- -D warnings
	@$(MAKE) doc

doc: setup ## API documentation into target/doc, warnings are errors
	RUSTDOCFLAGS='-Dwarnings -Arustdoc::private-intra-doc-links' cargo doc $(CARGO_FLAGS) --no-deps

fmt: ## format the code
	cargo fmt

bench: setup ## CPU per million rows of the parts and of the whole (ARGS='--rows 1000000'); see benches/README.md
	cargo bench --locked --bench '*' -- $(ARGS)

bench-tools: ## for the scoring bench: tl2cgen and treelite from PyPI into .build/venv-bench
	@[ -x .build/venv-bench/bin/python ] || python3 -m venv .build/venv-bench
	.build/venv-bench/bin/python -m pip install -q --disable-pip-version-check tl2cgen treelite setuptools scipy

fuzz: setup ## the model parser against any bytes (ARGS='-max_total_time=60'); needs cargo-fuzz and a nightly toolchain
	@command -v cargo-fuzz >/dev/null || { echo 'make fuzz: cargo install --locked cargo-fuzz' >&2; exit 2; }
	@mkdir -p tests/fuzz/corpus
	@cp Cargo.lock tests/fuzz/Cargo.lock
	@# What is fuzzed is safe Rust: a sanitizer would only slow it down.
	cargo +nightly fuzz run --fuzz-dir tests/fuzz --sanitizer none model_text tests/fuzz/corpus src/model/tests/fixtures -- $(ARGS)

deny: ## advisories, licences, sources of the dependencies; needs cargo-deny and network
	@command -v cargo-deny >/dev/null || { echo 'make deny: cargo install --locked cargo-deny' >&2; exit 2; }
	cargo deny --locked check

clean: ## remove what was built from this repository; keeps the compiled dependencies
	cargo clean --release -p weir

distclean: ## remove everything built and installed here, dependencies and private venv too
	cargo clean
	rm -rf .build
