#!/usr/bin/env bash
# Puts the real MCP servers and clients that the tests talk to under .peers: npm packages and a Python environment, both of
# exactly the versions that the lock files here name. Says nothing and does nothing where they are there already.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
peers=$root/.peers

"$root/deploy/deps.sh" node python
mkdir -p "$peers"
exec 9>"$peers/.lock"
flock 9

# The stamp is written last: an installation that was broken off is made again.
fresh() { [ "$(cat "$1" 2>/dev/null)" = "$2" ]; }

stamp=$(cat "$here/package.json" "$here/package-lock.json" | sha256sum)
if ! fresh "$peers/node/.stamp" "$stamp"; then
  echo "Installing the npm servers for the tests ..."
  rm -rf "$peers/node"
  mkdir -p "$peers/node"
  cp "$here/package.json" "$here/package-lock.json" "$peers/node/"
  # No script of a package runs here: none of these needs one.
  (cd "$peers/node" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null)
  echo "$stamp" >"$peers/node/.stamp"
fi

stamp=$(cat "$here/requirements.txt" <(python3 --version) | sha256sum)
if ! fresh "$peers/venv/.stamp" "$stamp"; then
  echo "Installing the Python server and client for the tests ..."
  rm -rf "$peers/venv"
  python3 -m venv "$peers/venv"
  "$peers/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps -r "$here/requirements.txt"
  "$peers/venv/bin/pip" check --disable-pip-version-check >/dev/null
  echo "$stamp" >"$peers/venv/.stamp"
fi
