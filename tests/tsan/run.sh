#!/usr/bin/env bash
# The registry, the governor and the sessions under ThreadSanitizer: core/tests/modules, the standard library instrumented
# too. Needs the source of the standard library and the set-up's ONNX Runtime. Run by `make tsan`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

rustc=${RUSTC:-rustc}
source=$("$rustc" --print sysroot)/lib/rustlib/src/rust/library
if [ ! -e "$source/Cargo.toml" ]; then
    echo "error: $source is missing. With rustup: rustup component add rust-src" >&2
    exit 1
fi
host=$("$rustc" -vV | sed -n 's/^host: //p')
# The sanitizer and building the standard library are unstable options of the stable compiler.
export RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=thread"
export TSAN_OPTIONS="suppressions=$PWD/tests/tsan/suppressions.txt second_deadlock_stack=1 exitcode=66"
modules() {
    "${CARGO:-cargo}" test --release --locked -p atom-core --test modules -Zbuild-std --target "$host" \
        --target-dir target/tsan "$@"
}

modules --no-run
echo '==> a race on purpose, which must be found'
if modules -- --ignored --exact governed::a_race_on_purpose >target/tsan/race.log 2>&1; then
    echo 'error: ThreadSanitizer did not find it; nothing below would mean anything' >&2
    exit 1
fi
grep -q 'WARNING: ThreadSanitizer: data race' target/tsan/race.log
echo '==> everything else'
modules
