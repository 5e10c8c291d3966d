#!/bin/sh
# What `make demo` shows, once set-up and build are done: a fresh store, then the script.
set -eu
here=$(dirname "$0")
ATOM_CACHE=${ATOM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/atom}
ATOM_DEMO_SCRIPT=$here/demo.txt
export ATOM_CACHE ATOM_DEMO_SCRIPT
store=$ATOM_CACHE/demo/store
rm -rf "$store"
mkdir -p "$ATOM_CACHE/demo"
"$here/../../target/release/atom" run "$here/demo.atom" \
    --pack "$ATOM_CACHE/packs/reference" --store "$store"
