#!/usr/bin/env bash
# Writes .sqlx anew: what the query macros need to know of the schema. Needs DATABASE_URL (see tests/with-postgres.sh).
set -euo pipefail
cd "$(dirname "$0")/.."
for migration in migrations/*.sql; do
  psql -q -v ON_ERROR_STOP=1 -1 "$DATABASE_URL" -f "$migration" >/dev/null
done
rm -rf .sqlx && mkdir .sqlx
touch crates/store/src/lib.rs
SQLX_OFFLINE=false SQLX_OFFLINE_DIR="$PWD/.sqlx" cargo check --workspace --all-targets
echo "$(ls .sqlx | wc -l) queries"
