//! T39: the second wall. Every table of a tenant, seen through each of the roles; the tables come from the catalogue, so
//! that a new one without a wall, or without a row here, fails.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

mod support;

use std::collections::BTreeSet;

use sqlx::{AssertSqlSafe, PgPool};
use tollgate_domain::TenantId;
use tollgate_store::{Store, Tx};

const ROLES: [&str; 5] = ["tollgate_app", "tollgate_control", "tollgate_eraser", "tollgate_sealer", "tollgate_writer"];

/// Describe the deployment, not a tenant.
const OF_NOBODY: [&str; 7] =
    ["_sqlx_migrations", "audit_batches", "audit_keys", "audit_writers", "config_revision", "platform_tokens", "workers"];

/// One row of each table, in the order of their foreign keys. $1 is the tenant and the id of everything that is referred to,
/// $2 the id of the row itself.
#[rustfmt::skip]
const ROWS: &[(&str, &str)] = &[
    ("tenants", "(tenant_id, name, slug, currency, created_at, updated_at) VALUES ($1, 'n', $2::text, 'USD', now(), now())"),
    ("teams", "(tenant_id, team_id, name, created_at, updated_at) VALUES ($1, $2, $2::text, now(), now())"),
    ("admins", "(tenant_id, admin_id, name, issuer, subject, role, created_at, updated_at) VALUES ($1, $2, 'n', 'i', $2::text, 'owner', now(), now())"),
    ("service_tokens", "(tenant_id, token_id, name, role, hash, created_at) VALUES ($1, $2, 'n', 'owner', '', now())"),
    ("upstreams", "(tenant_id, upstream_id, name, transport, exposure, binding, timeout_ms, sync_interval_s, tool_approval, created_at, updated_at)
       VALUES ($1, $2, $2::text, '{}', 'code', 'server', 1, 10, 'auto', now(), now())"),
    ("upstream_status", "(tenant_id, upstream_id, worker_id, state, checked_at) VALUES ($1, $1, $2, 'connected', now())"),
    ("sync_requests", "(tenant_id, sync_id, upstream_id, requested_at) VALUES ($1, $2, $1, now())"),
    ("tools", "(tenant_id, tool_id, upstream_id, name, status, definition_sha256, created_at, updated_at)
       VALUES ($1, $2, $1, $2::text, 'approved', '', now(), now())"),
    ("tool_versions", "(tenant_id, tool_id, definition_sha256, definition, seen_at) VALUES ($1, $1, uuid_send($2), '{}', now())"),
    ("tool_groups", "(tenant_id, tool_group_id, name, slug, created_at, updated_at) VALUES ($1, $2, 'n', $2::text, now(), now())"),
    ("tool_group_tools", "(tenant_id, tool_group_id, upstream_id, kind, tool_name) VALUES ($1, $1, $1, 'member', $2::text)"),
    ("virtual_keys", "(tenant_id, key_id, name, hash, created_at, updated_at) VALUES ($1, $2, 'n', '', now(), now())"),
    ("virtual_key_tool_groups", "(tenant_id, key_id, tool_group_id) VALUES ($1, COALESCE($1, $2), $1)"),
    ("prices", "(tenant_id, price_id, tool_id, amount_picos, unit, effective_from, created_at, created_by)
       VALUES ($1, $2, $1, 1, 'call', clock_timestamp() + interval '1 hour', now(), 'x')"),
    ("price_volumes", "(tenant_id, target, month, calls) VALUES ($1, $2, '2026-11-01', 1)"),
    ("credits", "(tenant_id, credit_id, amount_picos, reason, created_at, created_by) VALUES ($1, $2, 1, 'r', now(), 'x')"),
    ("llm_prices", "(tenant_id, llm_price_id, model, effective_from, created_at, created_by) VALUES ($1, $2, 'm', clock_timestamp() + interval '1 hour', now(), 'x')"),
    ("admin_events", "(tenant_id, event_id, at, actor_kind, actor_id, action, target_id, detail) VALUES ($1, $2, now(), 'system', 'x', 'x', 'x', '{}')"),
    ("idempotency_keys", "(tenant_id, principal, key, request_hash, status, sealed_answer, created_at) VALUES ($1, 'p', $2::text, '', 200, '', now())"),
    ("llm_requests", "(tenant_id, llm_request_id, key_id, origin, method, at) VALUES ($1, $2, $1, 'minted', 'm', now())"),
    ("llm_forwards", "(tenant_id, llm_request_id, root_id, turn, mode, streaming, worker_id, decision, tools_offered, tools_tokens, quoted_picos,
       currency, prompt_sha256) VALUES ($1, $2, $1, 1, 'manual', false, $1, 'permitted', 0, 0, 0, 'USD', '')"),
    ("llm_request_ends", "(tenant_id, llm_request_id, kind, at, outcome, attempts, usage, input_tokens, cached_tokens, cache_write_tokens,
       output_tokens, reasoning_tokens, amount_picos) VALUES ($1, $2, 1, now(), 'ok', '[]', 'none', 0, 0, 0, 0, 0, 0)"),
    ("providers", "(tenant_id, provider_id, name, kind, base_url, keys, sealed_secrets, timeout_ms, created_at, updated_at)
       VALUES ($1, $2, $2::text, 'openai', 'u', '[]', '', 1, now(), now())"),
    ("model_routes", "(tenant_id, model_route_id, name, targets, created_at, updated_at) VALUES ($1, $2, $2::text, '[]', now(), now())"),
    ("script_run_starts", "(tenant_id, script_run_id, llm_request_id, key_id, catalog_sha256, engine, worker_id, opened_at)
       VALUES ($1, $2, $1, $1, '', 'e', $1, now())"),
    ("script_run_ends", "(tenant_id, script_run_id, kind, state, at) VALUES ($1, $2, 1, 'done', now())"),
    ("script_catalogs", "(tenant_id, catalog_sha256, body) VALUES ($1, uuid_send($2), '')"),
    ("script_payloads", "(tenant_id, script_run_id, part, sequence, size, salt, body) VALUES ($1, $2, 0, 0, 0, '', '')"),
    ("audit_seals", "(tenant_id, sequence, first, count, root, tree, previous, sealed_at, key_id, signature, low, high)
       VALUES ($1, 1 + ('x' || substr($2::text, 1, 7))::bit(28)::int, ('x' || substr($2::text, 1, 7))::bit(28)::int, 1, '', '', '', now(), 'k', '', $2, $2)"),
    ("audit_entries", "(tenant_id, sequence, entries) VALUES ($1, ('x' || substr($2::text, 1, 7))::bit(28)::int, '')"),
    ("audit_nodes", "(tenant_id, level, index, hash) VALUES ($1, 0, ('x' || substr($2::text, 1, 7))::bit(28)::int, '')"),
    ("audit_settings", "(tenant_id, updated_at) VALUES (COALESCE($1, $2), now())"),
    ("script_limits", "(tenant_id, updated_at) VALUES (COALESCE($1, $2), now())"),
    ("tool_shapes", "(tenant_id, tool_id, definition_sha256, shape, updated_at) VALUES ($1, $2, 'x', '{}', now())"),
    ("audit_followers", "(tenant_id, follower, position, updated_at) VALUES (COALESCE($1, $2), $2::text, 0, now())"),
    ("audit_erasures", "(tenant_id, erasure_id, at, by, reason, selection, calls, runs) VALUES ($1, $2, now(), 'x', 'x', '{}', 0, 0)"),
    ("audit_erased", "(tenant_id, row_id, erasure_id) VALUES ($1, $2, $1)"),
    ("export_jobs", "(tenant_id, export_job_id, format, destination, path, filter, first, position, until, lenient, created_at)
       VALUES ($1, COALESCE($2, $1), 'ndjson', 'd', '', '{}', 0, 0, 0, false, now())"),
    ("export_parts", "(tenant_id, export_job_id, number, name, rows, bytes, sha256) VALUES ($1, $1, ('x' || substr($2::text, 1, 7))::bit(28)::int, 'n', 0, 0, '')"),
    ("report_schedules", "(tenant_id, report_schedule_id, name, every, ask, format, destination, enabled, next_start, due_at, created_at, updated_at)
       VALUES ($1, COALESCE($2, $1), 'n', 'day', '{}', 'csv', 'd', true, now(), now(), now(), now())"),
    ("report_deliveries", "(tenant_id, report_schedule_id, starts_at, ends_at, name, next_try_at)
       VALUES ($1, $1, '2026-01-01'::timestamptz + make_interval(secs => ('x' || substr($2::text, 1, 7))::bit(28)::int), 'infinity', $2::text, now())"),
    ("script_journal", "(tenant_id, script_run_id, sequence, call_id) VALUES ($1, $2, 1, $1)"),
    ("tool_call_events", "(tenant_id, call_id, kind, at, llm_request_id, key_id, tool_name, decision) VALUES ($1, $2, 0, now(), $1, $1, 't', 'permitted')"),
    ("tool_call_payloads", "(tenant_id, call_id, kind, size, body) VALUES ($1, $2, 0, 0, '')"),
    ("call_blocks", "(tenant_id, first_call_id, last_call_id, calls, filter, built_at) VALUES ($1, $2, $2, 1, '', now())"),
    ("late_calls", "(tenant_id, call_id) VALUES ($1, $2)"),
    // Before its approval, whose own notice is this one then.
    ("approval_notices", "(tenant_id, approval_id, version, event, at) VALUES ($1, $2, 1, 'requested', now())"),
    ("approvals", "(tenant_id, approval_id, state, key_id, tool_id, upstream_id, upstream_name, tool_name, call_id, llm_request_id, arguments_hmac,
       policy, confirmations, requested_at, expires_at) VALUES ($1, $2, 'pending', $1, $1, $1, 'u', 't', $1, $1, uuid_send($2), '', 1, now(), now())"),
    ("approval_confirmations", "(tenant_id, approval_id, principal, label, decision, at) VALUES ($1, $1, $2::text, 'l', 'approve', now())"),
    ("agent_loops", "(tenant_id, root_id, key_id, state, llm_request_id, turn, settings, calls, progress, approvals, runs, since)
       VALUES ($1, $2, $1, 'waiting', $1, 1, '{}', '[]', '{}', '{}', '{}', now())"),
    ("suspended_runs", "(tenant_id, script_run_id, key_id, since) VALUES ($1, $2, $1, now())"),
    ("budgets", "(tenant_id, budget_id, name, limit_picos, period, enforcement, created_at, updated_at) VALUES ($1, $2, 'n', 1, 'day', 'hard', now(), now())"),
    ("budget_windows", "(tenant_id, budget_id, starts_at, ends_at) VALUES ($1, $1, '2026-01-01', now())"),
    ("budget_leases", "(tenant_id, lease_id, budget_id, starts_at, worker_id, amount, floor, expires_at) VALUES ($1, $2, $1, '2026-01-01', $1, 1, $1, now())"),
    ("rate_limits", "(tenant_id, rate_limit_id, name, max, per, created_at, updated_at) VALUES ($1, $2, 'n', 1, 'day', now(), now())"),
    ("rate_slots", "(tenant_id, rate_limit_id, worker_id, sequence, held, until_us) VALUES ($1, $1, $1, 1, 1, 1)"),
    ("rate_states", "(tenant_id, rate_limit_id, even_at) VALUES ($1, $1, 0)"),
    ("resolved_calls", "(tenant_id, call_id, amount) VALUES ($1, $2, 1)"),
    ("cost_states", "(tenant_id, zone) VALUES (COALESCE($1, $2), 'UTC')"),
    ("cost_cells", "(tenant_id, face, cell) VALUES ($1, 0, $2)"),
    ("cost_quarters", "(tenant_id, face, quarter, cell, calls, amount, latency, tokens) VALUES ($1, 0, '2026-01-01', $2, 1, 1, '', 0)"),
    ("cost_days", "(tenant_id, face, day, cell, calls, amount, latency, tokens) VALUES ($1, 1, '2026-01-01', $2, 1, 1, '', 0)"),
    ("script_run_turns", "(tenant_id, script_run_id, turn, worker_id, why, journal, at) VALUES ($1, $2, 1, $1, 'crashed', 0, now())"),
];

/// What each role may do with a whole table: Select, Insert, Update, Delete; `u` is an update of some columns.
const GRANTS: &str = "\
_sqlx_migrations: - - - - -
admin_events: SI - - I -
admins: SIUD S - - -
agent_loops: SIU SuD - - -
approval_confirmations: SIu SD - - -
approval_notices: SIu SIuD - - -
approvals: SIu SuD - - -
audit_batches: I - - SID I
audit_entries: S - - SI -
audit_erased: SI - - - -
audit_erasures: SI - - - -
audit_followers: S SIU - - -
audit_keys: S - - SI -
audit_nodes: S - - SI -
audit_seals: S S - SI -
audit_settings: SIU S - - -
audit_writers: - - - SIUD -
budget_leases: S - - - -
budget_windows: S - - - -
budgets: SIU - - - -
call_blocks: SID S - - -
config_revision: S S - - -
cost_cells: S - - - -
cost_days: S - - - -
cost_quarters: S - - - -
cost_states: S S - - -
credits: SI - - - -
export_jobs: SIU Su - - -
export_parts: SI - - - -
idempotency_keys: SIuD SD - - -
late_calls: SD S - - -
llm_calls: S - - - -
llm_forwards: S S - - I
llm_prices: SI - - - -
llm_request_ends: S S - - I
llm_requests: S - - - I
model_routes: SIUD - - - -
platform_tokens: - SIU - - -
price_volumes: S - - - -
prices: SI - - - -
providers: SIU - - - -
rate_limits: SIUD - - - -
rate_slots: S - - - -
rate_states: SD - - - -
report_deliveries: SIU Su - - -
report_schedules: SIUD S - - -
resolved_calls: S - - - -
script_catalogs: S - - - I
script_journal: S S - - I
script_limits: SIU - - - -
script_payloads: S - SD - I
script_run_ends: S S - - I
script_run_starts: S S - - I
script_run_turns: SI SID - - -
script_runs: S S - - -
service_tokens: SIUD S - - -
suspended_runs: SID SD - - -
sync_requests: SIUD SD - - -
teams: SIUD - - - -
tenants: SIU S - - -
tool_call_events: S S - - I
tool_call_payloads: S - SD - I
tool_calls: S - - - -
tool_group_tools: SIUD - - - -
tool_groups: SIUD - - - -
tool_shapes: SIU - - - -
tool_versions: SIUD - - - -
tools: SIUD - - - -
upstream_status: SIUD - - - -
upstreams: SIUD S - - -
virtual_key_tool_groups: SIUD - - - -
virtual_keys: SIUD S - - -
workers: - SIUD - - -
";

fn insert(table: &str) -> String {
    let (_, row) = ROWS.iter().find(|(name, _)| *name == table).unwrap();
    format!("INSERT INTO {table} {row}")
}

/// Two tenants with a row in each table.
async fn two(pool: &PgPool) -> (TenantId, TenantId) {
    let (a, b) = (TenantId::mint(support::now()), TenantId::mint(support::now()));
    for id in [a, b] {
        for (table, _) in ROWS {
            sqlx::query(AssertSqlSafe(insert(table))).bind(id.uuid()).bind(id.uuid()).execute(pool).await.unwrap();
        }
    }
    (a, b)
}

async fn names(pool: &PgPool, sql: &'static str) -> Vec<String> {
    sqlx::query_scalar(sql).fetch_all(pool).await.unwrap()
}

/// Tables of people's data: not partitions, which nobody reaches.
async fn tables(pool: &PgPool) -> Vec<String> {
    names(
        pool,
        "SELECT c.relname::text FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')
         AND NOT c.relispartition ORDER BY 1",
    )
    .await
}

fn may(role: &str, table: &str, what: char) -> bool {
    let line = GRANTS.lines().find_map(|line| line.strip_prefix(&format!("{table}: "))).unwrap();
    let place = ROLES.iter().position(|r| *r == role).unwrap();
    line.split(' ').nth(place).unwrap().contains(what)
}

async fn run(tx: &mut Tx, sql: &str) -> Result<u64, String> {
    sqlx::query(AssertSqlSafe(sql.to_owned()))
        .execute(&mut **tx)
        .await
        .map(|done| done.rows_affected())
        .map_err(|e| e.to_string())
}

async fn number(tx: &mut Tx, sql: &str) -> i64 {
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&mut **tx).await.unwrap()
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn t39_every_table_of_tenants_is_walled(pool: PgPool) {
    let with_tenant: BTreeSet<String> = names(
        &pool,
        "SELECT c.relname::text FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id'
         WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition",
    )
    .await
    .into_iter()
    .collect();
    let known: BTreeSet<String> = ROWS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(with_tenant, known, "a table of tenants that this test has no row for: add one to ROWS");
    let others: Vec<String> = tables(&pool).await.into_iter().filter(|t| !with_tenant.contains(t)).collect();
    assert_eq!(others, OF_NOBODY, "a table without tenant_id: does it hold nobody's data?");

    let bare = names(
        &pool,
        "SELECT c.relname::text FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id'
         WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
         AND NOT (c.relrowsecurity AND c.relforcerowsecurity AND a.attnotnull AND EXISTS (
           SELECT FROM pg_policy p WHERE p.polrelid = c.oid AND p.polcmd = '*' AND p.polpermissive
           AND p.polroles = ARRAY['tollgate_app'::regrole::oid] AND p.polwithcheck IS NULL
           AND pg_get_expr(p.polqual, p.polrelid) LIKE '(tenant_id = ( SELECT (current_setting(''app.tenant_id''::text))::uuid %'))",
    )
    .await;
    assert!(bare.is_empty(), "not enabled and forced with the policy one_tenant: {bare:?}");
    // A second permissive policy would open what the first closes.
    let more = names(
        &pool,
        "SELECT p.polrelid::regclass::text || '.' || p.polname FROM pg_policy p
         WHERE p.polname <> 'one_tenant' AND ('tollgate_app'::regrole::oid = ANY(p.polroles) OR 0 = ANY(p.polroles))",
    )
    .await;
    assert!(more.is_empty(), "{more:?}");
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn keys_lead_with_the_tenant_and_no_foreign_key_leaves_it(pool: PgPool) {
    let keys = names(
        &pool,
        "SELECT c.conrelid::regclass::text FROM pg_constraint c JOIN pg_class t ON t.oid = c.conrelid
         JOIN pg_attribute a ON a.attrelid = t.oid AND a.attname = 'tenant_id'
         WHERE c.contype = 'p' AND NOT t.relispartition AND c.conkey[1] <> a.attnum",
    )
    .await;
    assert!(keys.is_empty(), "tenant_id does not lead the primary key: {keys:?}");
    let foreign = names(
        &pool,
        "SELECT c.conrelid::regclass::text || '.' || c.conname FROM pg_constraint c
         JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attname = 'tenant_id'
         JOIN pg_attribute b ON b.attrelid = c.confrelid AND b.attname = 'tenant_id'
         WHERE c.contype = 'f' AND array_position(c.conkey, a.attnum) IS DISTINCT FROM array_position(c.confkey, b.attnum)",
    )
    .await;
    assert!(foreign.is_empty(), "may refer to another tenant's row: {foreign:?}");
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn the_roles_hold_exactly_these_rights(pool: PgPool) {
    let is = names(
        &pool,
        "SELECT c.relname || ':' || string_agg(' ' || COALESCE(NULLIF(concat(
             CASE WHEN has_any_column_privilege(r, c.oid, 'SELECT') THEN 'S' END, CASE WHEN has_any_column_privilege(r, c.oid, 'INSERT') THEN 'I' END,
             CASE WHEN has_table_privilege(r, c.oid, 'UPDATE') THEN 'U' WHEN has_any_column_privilege(r, c.oid, 'UPDATE') THEN 'u' END,
             CASE WHEN has_table_privilege(r, c.oid, 'DELETE') THEN 'D' END,
             CASE WHEN has_table_privilege(r, c.oid, 'TRUNCATE, REFERENCES, TRIGGER') THEN '!' END), ''), '-'), '' ORDER BY r)
         FROM pg_class c CROSS JOIN UNNEST(ARRAY['tollgate_app', 'tollgate_control', 'tollgate_eraser', 'tollgate_sealer', 'tollgate_writer']) r
         WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND NOT c.relispartition
         GROUP BY c.relname ORDER BY c.relname",
    )
    .await;
    assert_eq!(is.join("\n") + "\n", GRANTS);
    let roles = names(
        &pool,
        "SELECT rolname::text FROM pg_roles WHERE rolname LIKE 'tollgate%'
         AND NOT rolcanlogin AND NOT rolbypassrls AND NOT rolsuper AND NOT rolcreaterole AND NOT rolcreatedb
         AND NOT EXISTS (SELECT FROM pg_auth_members m WHERE m.member = pg_roles.oid) ORDER BY 1",
    )
    .await;
    assert_eq!(roles, ROLES);
    let views = names(
        &pool,
        "SELECT relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'v'
         AND NOT COALESCE('security_invoker=true' = ANY(reloptions), false)",
    )
    .await;
    assert!(views.is_empty(), "read with their owner's rights: {views:?}");
    let definers = names(
        &pool,
        "SELECT p.proname || ' ' || string_agg(r, ',' ORDER BY r) FROM pg_proc p CROSS JOIN UNNEST(ARRAY['tollgate_app', 'tollgate_control', 'tollgate_eraser', 'tollgate_sealer', 'tollgate_writer', 'public']) r
         WHERE p.prosecdef AND p.pronamespace = 'public'::regnamespace AND has_function_privilege(r, p.oid, 'EXECUTE') GROUP BY p.proname ORDER BY p.proname",
    );
    assert_eq!(
        definers.await,
        [
            "tollgate_admin_chain tollgate_app,tollgate_sealer",
            "tollgate_alerted tollgate_sealer",
            "tollgate_batch_known tollgate_writer",
            "tollgate_claim tollgate_control",
            "tollgate_close_lease tollgate_control",
            "tollgate_cost_build tollgate_sealer",
            "tollgate_cost_checked tollgate_control",
            "tollgate_cost_drift tollgate_control",
            "tollgate_cost_give_up tollgate_sealer",
            "tollgate_cost_layout tollgate_app",
            "tollgate_cost_pruned tollgate_control",
            "tollgate_cost_raw tollgate_app",
            "tollgate_cost_recut_some tollgate_control",
            "tollgate_cost_repair tollgate_sealer",
            "tollgate_cost_rezone tollgate_app",
            "tollgate_cost_stretch tollgate_control",
            "tollgate_cost_tail tollgate_app",
            "tollgate_count tollgate_control",
            "tollgate_ensure_partitions tollgate_control",
            "tollgate_expired_leases tollgate_control",
            "tollgate_forget_leases tollgate_control",
            "tollgate_forget_slots tollgate_control",
            "tollgate_hold_leases tollgate_writer",
            "tollgate_lease tollgate_control",
            "tollgate_number_calls tollgate_control",
            "tollgate_passed tollgate_sealer",
            "tollgate_renew_leases tollgate_control",
            "tollgate_retirable tollgate_control",
            "tollgate_retire tollgate_control",
            "tollgate_roll tollgate_sealer",
            "tollgate_settle tollgate_sealer",
            "tollgate_take tollgate_control",
            "tollgate_touch tollgate_app"
        ]
    );
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn partitions_are_nobodys_also_those_still_to_come(pool: PgPool) {
    two(&pool).await;
    let store = Store::from_pool(pool.clone());
    let mut tx = store.control().await.unwrap();
    run(&mut tx, "SELECT tollgate_ensure_partitions('2031-05-01')").await.unwrap();
    tx.commit().await.unwrap();
    let partitions = names(&pool, "SELECT relname::text FROM pg_class WHERE relispartition AND relkind = 'r' ORDER BY 1").await;
    assert!(partitions.len() >= 7 * 7, "{partitions:?}");
    assert!(partitions.iter().any(|p| p == "tool_call_events_p203107"), "{partitions:?}");
    for partition in &partitions {
        for role in ROLES {
            for sql in [format!("SELECT FROM {partition}"), format!("DELETE FROM {partition}"), format!("TRUNCATE {partition}")] {
                let mut tx = pool.begin().await.unwrap();
                run(&mut tx, &format!("SET LOCAL ROLE {role}")).await.unwrap();
                let refused = run(&mut tx, &sql).await.unwrap_err();
                assert!(refused.contains("permission denied for table"), "{role}: {sql}: {refused}");
            }
        }
    }
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn t39_without_a_tenant_nothing_is_readable(pool: PgPool) {
    two(&pool).await;
    let store = Store::from_pool(pool.clone());
    for (table, _) in ROWS {
        let select = format!("SELECT tenant_id FROM {table}");
        // Never set, then set by an earlier transaction of the same connection: Postgres tells the two apart.
        let mut fresh = pool.acquire().await.unwrap().detach();
        for reused in [false, true] {
            if reused {
                let mut tx = sqlx::Connection::begin_with(
                    &mut fresh,
                    "BEGIN; SET LOCAL app.tenant_id = '00000000-0000-0000-0000-000000000001'",
                )
                .await
                .unwrap();
                sqlx::query("SELECT 1").execute(&mut *tx).await.unwrap();
                tx.commit().await.unwrap();
            }
            let mut tx = sqlx::Connection::begin_with(&mut fresh, "BEGIN; SET LOCAL ROLE tollgate_app").await.unwrap();
            let refused = sqlx::query(AssertSqlSafe(select.clone())).fetch_all(&mut *tx).await.unwrap_err().to_string();
            let reason = if reused {
                "invalid input syntax for type uuid: \"\""
            } else {
                "unrecognized configuration parameter \"app.tenant_id\""
            };
            assert!(refused.contains(reason), "{table}: {refused}");
        }
    }
    // A tenant that does not exist sees nothing and raises nothing.
    let mut tx = store.tenant(TenantId::mint(support::now())).await.unwrap();
    for (table, _) in ROWS {
        assert_eq!(number(&mut tx, &format!("SELECT count(*) FROM {table}")).await, 0, "{table}");
    }
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn t39_a_tenant_reads_and_writes_its_own_rows_alone(pool: PgPool) {
    let (a, b) = two(&pool).await;
    let store = Store::from_pool(pool.clone());
    let foreign = format!("tenant_id = '{}'", b.uuid());
    for (table, _) in ROWS {
        let mut tx = store.tenant(a).await.unwrap();
        let column = match *table {
            "approvals" => "state",
            "approval_confirmations" => "reason",
            "approval_notices" => "error",
            "idempotency_keys" => "sealed_answer",
            _ => "tenant_id",
        };
        assert_eq!(number(&mut tx, &format!("SELECT count(*) FROM {table}")).await, 1, "{table}: its own");
        assert_eq!(number(&mut tx, &format!("SELECT count(*) FROM {table} WHERE {foreign}")).await, 0, "{table}: another's");
        drop(tx);
        if may("tollgate_app", table, 'U') || may("tollgate_app", table, 'u') {
            let mut tx = store.tenant(a).await.unwrap();
            assert_eq!(run(&mut tx, &format!("UPDATE {table} SET {column} = {column} WHERE {foreign}")).await, Ok(0), "{table}");
            assert_eq!(run(&mut tx, &format!("UPDATE {table} SET {column} = {column}")).await, Ok(1), "{table}");
        }
        if may("tollgate_app", table, 'U') {
            let mut tx = store.tenant(a).await.unwrap();
            let refused = run(&mut tx, &format!("UPDATE {table} SET tenant_id = '{}'", b.uuid())).await.unwrap_err();
            assert!(refused.contains("violates row-level security policy"), "{table}: {refused}");
        }
        if may("tollgate_app", table, 'D') {
            let mut tx = store.tenant(a).await.unwrap();
            assert_eq!(run(&mut tx, &format!("DELETE FROM {table} WHERE {foreign}")).await, Ok(0), "{table}");
        }
        if may("tollgate_app", table, 'I') {
            let mut tx = store.tenant(a).await.unwrap();
            let add = |owner: TenantId| sqlx::query(AssertSqlSafe(insert(table))).bind(owner.uuid()).bind(uuid::Uuid::new_v4());
            let refused = add(b).execute(&mut *tx).await.unwrap_err().to_string();
            assert!(refused.contains("violates row-level security policy"), "{table}: {refused}");
            drop(tx);
            // The same row under its own name is let in: what refused it above was the name.
            let mut tx = store.tenant(a).await.unwrap();
            match add(a).execute(&mut *tx).await {
                Ok(done) => assert_eq!(done.rows_affected(), 1, "{table}"),
                Err(e) => assert!(e.to_string().contains("duplicate key"), "{table}: {e}"),
            }
        }
    }
    let mut tx = store.tenant(a).await.unwrap();
    assert_eq!(number(&mut tx, "SELECT count(*) FROM tool_calls").await, 1);
    assert_eq!(number(&mut tx, &format!("SELECT count(*) FROM tool_calls WHERE {foreign}")).await, 0);
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn what_a_role_was_not_granted_it_cannot_do(pool: PgPool) {
    let (a, _) = two(&pool).await;
    let store = Store::from_pool(pool.clone());
    let mut refusals = 0;
    for role in ROLES {
        for (table, _) in ROWS {
            let column = "tenant_id";
            let tries = [
                ('S', format!("SELECT FROM {table}")),
                ('I', insert(table).replace("$1", &format!("'{}'::uuid", a.uuid())).replace("$2", "gen_random_uuid()")),
                ('U', format!("UPDATE {table} SET {column} = {column}")),
                ('D', format!("DELETE FROM {table}")),
            ];
            for (what, sql) in tries.into_iter().filter(|(what, _)| !may(role, table, *what)) {
                let mut tx = match role {
                    "tollgate_app" => store.tenant(a).await.unwrap(),
                    "tollgate_control" => store.control().await.unwrap(),
                    "tollgate_sealer" => store.sealer().await.unwrap(),
                    "tollgate_eraser" => {
                        let mut tx = store.tenant(a).await.unwrap();
                        run(&mut tx, "SET LOCAL ROLE tollgate_eraser").await.unwrap();
                        tx
                    }
                    _ => writer(&pool).await,
                };
                let refused = run(&mut tx, &sql).await.unwrap_err();
                assert!(refused.contains("permission denied for table"), "{role} {what} {table}: {refused}");
                refusals += 1;
            }
        }
    }
    assert!(refusals > 100, "{refusals}");
}

/// As the audit writer's own connection does it.
async fn writer(pool: &PgPool) -> Tx {
    let mut tx = pool.begin().await.unwrap();
    run(&mut tx, "SET LOCAL ROLE tollgate_writer").await.unwrap();
    tx
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn the_writer_appends_for_anyone_and_reads_nothing(pool: PgPool) {
    let (a, b) = two(&pool).await;
    for table in [
        "llm_requests",
        "llm_forwards",
        "llm_request_ends",
        "script_run_starts",
        "script_run_ends",
        "script_payloads",
        "script_catalogs",
        "script_journal",
        "tool_call_events",
        "tool_call_payloads",
    ] {
        let mut tx = writer(&pool).await;
        for owner in [a, b] {
            let added =
                sqlx::query(AssertSqlSafe(insert(table))).bind(owner.uuid()).bind(uuid::Uuid::new_v4()).execute(&mut *tx).await;
            assert_eq!(added.unwrap().rows_affected(), 1, "{table}");
        }
        // Nor does it learn from a conflict what stands there.
        let sql = format!("{} RETURNING tenant_id", insert(table));
        let told = sqlx::query(AssertSqlSafe(sql)).bind(a.uuid()).bind(uuid::Uuid::new_v4()).execute(&mut *tx).await.unwrap_err();
        assert!(told.to_string().contains("permission denied"), "{table}: {told}");
    }
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn control_reads_across_tenants_what_it_was_granted(pool: PgPool) {
    two(&pool).await;
    let store = Store::from_pool(pool.clone());
    let mut tx = store.control().await.unwrap();
    for (table, _) in ROWS.iter().filter(|(table, _)| may("tollgate_control", table, 'S')) {
        assert_eq!(number(&mut tx, &format!("SELECT count(*) FROM {table}")).await, 2, "{table}");
    }
    for table in ["idempotency_keys", "sync_requests", "suspended_runs"] {
        assert_eq!(run(&mut tx, &format!("DELETE FROM {table}")).await, Ok(2), "{table}");
    }
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn prices_and_events_are_never_rewritten(pool: PgPool) {
    let (a, _) = two(&pool).await;
    let store = Store::from_pool(pool.clone());
    for table in [
        "tool_call_events",
        "tool_call_payloads",
        "script_run_starts",
        "script_run_ends",
        "script_payloads",
        "script_journal",
        "llm_requests",
        "llm_forwards",
        "llm_request_ends",
        "prices",
        "llm_prices",
        "credits",
        "admin_events",
        "audit_seals",
        "audit_entries",
        "audit_nodes",
        "audit_erasures",
        "audit_erased",
    ] {
        for sql in
            [format!("UPDATE {table} SET tenant_id = tenant_id"), format!("DELETE FROM {table}"), format!("TRUNCATE {table}")]
        {
            let mut tx = store.tenant(a).await.unwrap();
            let refused = run(&mut tx, &sql).await.unwrap_err();
            assert!(refused.contains("permission denied for table"), "{sql}: {refused}");
        }
    }
}

/// Whoever asked for a transaction may go away at any moment: the next one to get the connection is not inside the old one.
#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn a_begin_that_nobody_waits_for_leaves_no_open_transaction(
    _: sqlx::postgres::PgPoolOptions,
    options: sqlx::postgres::PgConnectOptions,
) {
    let pool = support::pool(&options, "begins", 4).await;
    let store = Store::from_pool(pool.clone());
    let tenant = TenantId::mint(support::now());
    for micros in 0..400u64 {
        let begin = store.tenant_snapshot(tenant);
        let _ = tokio::time::timeout(std::time::Duration::from_micros(micros * 3), begin).await;
    }
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    let all = futures::future::join_all((0..4).map(|_| pool.acquire())).await;
    for connection in all {
        let mut connection = connection.unwrap();
        let level: String = sqlx::query_scalar("SHOW transaction_isolation").fetch_one(&mut *connection).await.unwrap();
        let role: String = sqlx::query_scalar("SELECT current_user::text").fetch_one(&mut *connection).await.unwrap();
        assert_eq!((level.as_str(), role.starts_with("tollgate_")), ("read committed", false), "{role}");
    }
}
