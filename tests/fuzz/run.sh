#!/usr/bin/env bash
# Fuzzes what reads strangers' bytes, coverage-guided, on stable Rust. In: FUZZ_SECONDS for each target (default 60),
# names of targets (default all). Out: exit code 0, or the input that broke a law in $COLLAB_CACHE/fuzz/<target>-….
# Seeds come from tests/vectors; what is found is kept in $COLLAB_CACHE/fuzz/corpus. Needs a C++ compiler.
set -euo pipefail
cd "$(dirname "$0")"
cache=${COLLAB_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/collabcluster}/fuzz
targets=("$@")
[ $# -gt 0 ] || targets=(delta packets frames stored)

# What cargo-fuzz sets, but for the sanitizers that need nightly: this project has no unsafe code for them to watch.
flags='-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters'
flags+=' -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares'
flags+=' -Ccodegen-units=1 --cfg fuzzing'
host=$(rustc -vV | sed -n 's/^host: //p')
export CARGO_TARGET_DIR="$cache/target"
# With --target the flags reach no build script.
RUSTFLAGS=$flags cargo build --quiet --release --locked --target "$host"

python3 seeds.py "$cache/corpus"
for target in "${targets[@]}"; do
  mkdir -p "$cache/corpus/$target"
  printf '==> fuzz %s for %s s\n' "$target" "${FUZZ_SECONDS:-60}"
  "$CARGO_TARGET_DIR/$host/release/$target" -max_total_time="${FUZZ_SECONDS:-60}" -max_len=4096 -timeout=5 \
    -print_final_stats=1 -verbosity=0 -artifact_prefix="$cache/$target-" "$cache/corpus/$target"
done
