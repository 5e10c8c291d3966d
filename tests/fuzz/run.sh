#!/usr/bin/env bash
# Random input to one target for so many seconds: tests/fuzz/run.sh TARGET SECONDS [LIBFUZZER_OPTION...]. The targets are the
# files of tests/fuzz/fuzz_targets. Needs the pinned Rust and a C++ compiler. Inputs that reached something new, and those
# that failed, are kept in target/fuzz; a failing one is repeated by giving its path in place of the seconds.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

if [ $# -lt 2 ] || [ ! -e "tests/fuzz/fuzz_targets/$1.rs" ]; then
    echo "usage: tests/fuzz/run.sh TARGET SECONDS|FILE [LIBFUZZER_OPTION...]" >&2
    echo "targets: $(basename -s .rs -a tests/fuzz/fuzz_targets/*.rs | xargs)" >&2
    exit 2
fi
target=$1 what=$2
shift 2
build=${CARGO_TARGET_DIR:-$PWD/target/fuzz}
host=$("${RUSTC:-rustc}" -vV | sed -n 's/^host: //p')
# Counters of edges and the values that are compared, as cargo-fuzz asks for them. No sanitizer: those need a standard library
# built for them, and safe Rust has little for them to find.
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares"
"${CARGO:-cargo}" build --release --locked --manifest-path tests/fuzz/Cargo.toml --target "$host" --target-dir "$build"
programs=$build/$host/release

# Folders that the targets write lie in memory where that is possible.
scratch=$(TMPDIR=$([ -w /dev/shm ] && echo /dev/shm || echo "${TMPDIR:-/tmp}") mktemp -d -t atom-fuzz.XXXXXX)
trap 'rm -rf "$scratch"' EXIT
export TMPDIR=$scratch ATOM_LOG=off

# Five seconds and two gigabytes for an input.
limits=(-timeout=5 -rss_limit_mb=2048)
if [ -e "$what" ]; then
    "$programs/$target" "${limits[@]}" "$@" "$what"
    exit
fi
mkdir -p "$build/corpus/$target" "$build/artifacts/$target" "$scratch/seeds"
ATOM_FUZZ_SEEDS=$scratch/seeds nice "$programs/$target" "${limits[@]}" -max_total_time="$what" -print_final_stats=1 \
    -artifact_prefix="$build/artifacts/$target/" "$@" "$build/corpus/$target" "$scratch/seeds"
