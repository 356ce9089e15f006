#!/usr/bin/env bash
# Install the servers and the browser that some tests drive. Without root or apt, say what will be skipped.
set -euo pipefail

missing=()
command -v redis-server >/dev/null || missing+=(redis-server)
compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || command -v initdb >/dev/null || missing+=(postgresql)
command -v chromium >/dev/null || missing+=(chromium)
[ ${#missing[@]} -eq 0 ] && exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if sudo -n true 2>/dev/null; then as_root=(sudo -n); else
    echo "not installed, their tests will be skipped: ${missing[*]}"; exit 0
  fi
fi
command -v apt-get >/dev/null || { echo "no apt-get; their tests will be skipped: ${missing[*]}"; exit 0; }
export DEBIAN_FRONTEND=noninteractive
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
