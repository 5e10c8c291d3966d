# Atom's commands for people. Everything is built in the release profile, in target/; what is fetched or made once lives
# in $(ATOM_CACHE), outside the source. After the first run of a target no network is needed.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

export ATOM_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/atom
PYTHON ?= python3
CARGO ?= cargo
PREFIX ?= /usr/local
DESTDIR ?=
# Always the whole workspace: cargo then unifies features once and builds every dependency once.
CARGO_FLAGS := --release --workspace --locked
# The models of tests/loom, which no other build needs.
LOOM_FLAGS := --release --locked --manifest-path tests/loom/Cargo.toml --target-dir target/loom

# Generates core/src/onnx/schema.rs, with a compiler for protobuf that no other build needs.
SCHEMA_FLAGS := --locked --manifest-path tests/onnx-schema/Cargo.toml --target-dir target/onnx-schema

# $(call part,NAME,COMMAND): runs COMMAND, prints how long it took, fails if it failed.
define part
@printf '\n==> %s\n' '$(1)'; began=$$(date +%s); code=0; { $(2); } || code=$$?; \
printf '==> %s: %s, %d s\n' '$(1)' "$$([ $$code = 0 ] && echo done || echo FAILED)" $$(($$(date +%s) - began)); exit $$code
endef

.PHONY: help demo bench test lint tsan install clean toolchain

help: ## what can be made
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 18
	@printf '\n  ATOM_CACHE=%s\n' '$(ATOM_CACHE)'

toolchain:
	@need() { command -v "$$1" >/dev/null 2>&1 || { printf 'error: %s is missing. On Debian or Ubuntu: %s\n' "$$1" "$$2" >&2; exit 1; }; }; \
	need cc 'apt-get install build-essential'; \
	need c++ 'apt-get install build-essential'; \
	need '$(PYTHON)' 'apt-get install python3 python3-pip python3-venv'; \
	need '$(CARGO)' 'apt-get install curl && curl https://sh.rustup.rs -sSf | sh   (or, where it is 1.94 or newer, apt-get install cargo)'; \
	'$(PYTHON)' -c 'import sys; sys.exit(sys.version_info < (3, 9))' || { echo 'error: $(PYTHON) is older than 3.9; name a newer one: make PYTHON=python3.11 …' >&2; exit 1; }; \
	'$(PYTHON)' -m pip --version >/dev/null 2>&1 || { echo 'error: $(PYTHON) has no pip. On Debian or Ubuntu: apt-get install python3-pip' >&2; exit 1; }

demo: toolchain ## index, search, caption and question three real videos
	$(call part,set-up,$(PYTHON) models/setup.py demo)
	$(call part,build,$(CARGO) build $(CARGO_FLAGS) --bin atom)
	$(call part,demo,core/cli/demo.sh)

bench: toolchain ## atom-bench, and what it compares with
	$(call part,set-up,$(PYTHON) models/setup.py bench)
	$(call part,build,$(CARGO) build $(CARGO_FLAGS))

test: toolchain ## every test, on the real pack
	@[ -n "$${ATOM_WITHOUT_VALGRIND:-}" ] || command -v valgrind >/dev/null 2>&1 || { \
	echo 'error: valgrind is missing. On Debian or Ubuntu: apt-get install valgrind; or leave its test out: ATOM_WITHOUT_VALGRIND=1 make test' >&2; exit 1; }
	$(call part,set-up,$(PYTHON) models/setup.py test)
	$(call part,build,$(CARGO) build $(CARGO_FLAGS))
	$(call part,set-up tests,$(PYTHON) models/test_setup.py)
	$(call part,tests,$(CARGO) test $(CARGO_FLAGS) --no-fail-fast)
	$(call part,loom,$(CARGO) test $(LOOM_FLAGS))

lint: toolchain ## format, clippy, docs, drift of schema and header, dependencies
	$(call part,set-up,$(PYTHON) models/setup.py lint)
	$(call part,format,$(CARGO) fmt --all --check)
	$(call part,format of tests/fuzz,$(CARGO) fmt --manifest-path tests/fuzz/Cargo.toml --check)
	$(call part,format of tests/loom,$(CARGO) fmt --manifest-path tests/loom/Cargo.toml --check)
	$(call part,clippy,$(CARGO) clippy $(CARGO_FLAGS) --all-targets -- -D warnings)
	$(call part,without the feature grounding,$(CARGO) check --release --locked -p atom-capi -p atom-cli --no-default-features)
	$(call part,docs,RUSTDOCFLAGS='-D warnings' $(CARGO) doc $(CARGO_FLAGS) --no-deps --lib)
	$(call part,format of tests/onnx-schema,$(CARGO) fmt --manifest-path tests/onnx-schema/Cargo.toml --check)
	$(call part,schema drift,$(CARGO) test $(SCHEMA_FLAGS))
	$(call part,header drift,$(CARGO) test $(CARGO_FLAGS) --test header)
	$(call part,licences and duplicates,'$(ATOM_CACHE)/lint/bin/cargo-deny' --offline --locked check licenses bans sources)
	$(call part,unused dependencies,'$(ATOM_CACHE)/lint/bin/cargo-shear' --locked --deny-warnings)
	$(call part,unused dependencies of tests/loom,cd tests/loom && '$(ATOM_CACHE)/lint/bin/cargo-shear' --locked --deny-warnings)

tsan: toolchain ## registry and governor under ThreadSanitizer; builds everything anew, some five minutes
	$(call part,set-up,$(PYTHON) models/setup.py demo)
	$(call part,tsan,CARGO='$(CARGO)' tests/tsan/run.sh)

install: toolchain ## the command, libatom and its header, under PREFIX
	$(call part,build,$(CARGO) build $(CARGO_FLAGS))
	$(call part,install,install -Dm755 target/release/atom '$(DESTDIR)$(PREFIX)/bin/atom')
	$(call part,libatom,$(MAKE) -C capi install CARGO=true PREFIX='$(PREFIX)' DESTDIR='$(DESTDIR)')

clean: ## removes target/; the cache stays (it prints where)
	$(CARGO) clean
	@printf 'kept: %s\n' '$(ATOM_CACHE)'
