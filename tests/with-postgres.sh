#!/usr/bin/env bash
# Runs a command with DATABASE_URL set to a private Postgres that lives as long as the command: unix socket only, in a
# temporary directory, as an unprivileged user even when root starts it. Durability is off unless FSYNC=on: these databases are thrown away.
set -euo pipefail

bin=$(dirname "$(command -v initdb || compgen -G '/usr/lib/postgresql/*/bin/initdb' | sort -V | tail -1)")
dir=$(mktemp -d /tmp/tollgate-pg.XXXXXX)
user=$(id -un)
run=()
if [ "$(id -u)" -eq 0 ]; then
  user=$(id -un postgres 2>/dev/null || echo nobody)
  chown "$user" "$dir"
  run=(setpriv --reuid "$user" --regid "$(id -g "$user")" --clear-groups env HOME="$dir")
fi
stop() { "${run[@]}" "$bin/pg_ctl" -D "$dir/data" -m immediate -s stop >/dev/null 2>&1 || true; rm -rf "$dir"; }
trap stop EXIT
cd "$dir"
"${run[@]}" "$bin/initdb" -D "$dir/data" -U postgres -A trust --no-sync >/dev/null
"${run[@]}" "$bin/pg_ctl" -D "$dir/data" -s -w -l "$dir/log" \
  -o "-c listen_addresses='' -c unix_socket_directories='$dir' -c max_connections=300 -c fsync=${FSYNC:-off} -c full_page_writes=${FSYNC:-off}" start
chmod 755 "$dir"
cd - >/dev/null
export DATABASE_URL="postgres:///postgres?host=$dir&user=postgres"
"$@"
