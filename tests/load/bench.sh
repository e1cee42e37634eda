#!/usr/bin/env bash
# Runs every benchmark and prints one table: what, figure, target, the peers in the same run, verdict.
#
# In: COLLAB_CACHE; as arguments `soak [seconds]`, or flags for `load run`. Out: the table; lines while it runs. Builds the
# gateway as its image has it, and the peers in a folder of their own. Load goes to loopback only.
set -euo pipefail
cd "$(dirname "$0")/../.."
COLLAB_CACHE=${COLLAB_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/collabcluster}
peers=$COLLAB_CACHE/benchmark-peers
target=${CARGO_TARGET_DIR:-target}/benchmarks
triple=$(uname -m)-unknown-linux-gnu

say() { printf '\n==> bench: %s (%s)\n' "$*" "$(date +%H:%M:%S)"; }

# Node finds modules beside the scripts, so these are copied to where the modules are.
peer_programs() {
  mkdir -p "$peers"
  cp tests/load/peers/*.js "$peers/"
  if ! cmp -s tests/load/peers/package-lock.json "$peers/package-lock.json" || [ ! -d "$peers/node_modules" ]; then
    say "npm modules of the peers"
    cp tests/load/peers/package*.json "$peers/"
    (cd "$peers" && npm ci --no-fund --no-audit --loglevel=error)
  fi
  if command -v go >/dev/null; then
    (cd tests/load/peers/centrifuge && go build -o "$peers/centrifuge" .) || echo "SKIPPED centrifuge: it does not build here"
  else
    echo "SKIPPED centrifuge: there is no Go"
  fi
}

command -v redis-server >/dev/null || bash tests/setup.sh
features=()
[ -f gateway/client/dist/index.html ] && features=(--features collab-gateway/demo-page)
say "building the gateway as its image has it, and the load; some minutes the first time"
export RUSTFLAGS=-Ctarget-feature=+crt-static
built=(--quiet --locked --target "$triple" --target-dir "$target")
cargo build --release "${built[@]}" --package collab-gateway --package load --bins "${features[@]}"
programs=$target/$triple/release
# Each connection is a file handle here and one in a server.
ulimit -n "$(ulimit -Hn)"

if [ "${1:-}" = soak ]; then
  exec "$programs/load" soak --gateway "$programs/collab-gateway" --peers "$peers" --seconds "${2:-600}"
fi

peer_programs
COLLAB_BENCH_ROWS=$(mktemp)
export COLLAB_BENCH_ROWS
trap 'rm -f "$COLLAB_BENCH_ROWS"' EXIT
centrifuge=()
[ -x "$peers/centrifuge" ] && centrifuge=(--centrifuge "$peers/centrifuge")
say "connections and edits (load average: $(cut -d' ' -f1-3 /proc/loadavg))"
"$programs/load" run --gateway "$programs/collab-gateway" --peers "$peers" "${centrifuge[@]}" "$@"

say "very many people in one document"
"$programs/load" presence --gateway "$programs/collab-gateway" --peers "$peers"

say "everything else"
COLLAB_BENCH_PEERS=$peers cargo bench "${built[@]}" --package load

say "all figures"
printf '| what | figure | target | peers in the same run | verdict |\n|---|---|---|---|---|\n'
cat "$COLLAB_BENCH_ROWS"
printf '\nWhy a target is missed is told in ARCHITECTURE.md.\n'
