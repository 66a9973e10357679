//! A generated audit trail, and the same rows as plain values to compare with.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgPool;
use tollgate_domain::{CallId, KeyId, LlmRequestId, Outcome, ScriptRunId, TeamId, TenantId, ToolId, UpstreamId};
use tollgate_store::payload;

use crate::{id_at, now, tenant};

/// A row as a reader should see it.
#[derive(Debug, Clone)]
pub struct Row {
    pub id: CallId,
    pub request: LlmRequestId,
    pub run: Option<ScriptRunId>,
    pub key: KeyId,
    pub team: Option<TeamId>,
    pub tool: Option<ToolId>,
    pub upstream: Option<UpstreamId>,
    pub model: Option<&'static str>,
    pub decision: &'static str,
    pub outcome: Option<Outcome>,
    pub opened_at: DateTime<Utc>,
    pub latency: Option<i64>,
    pub amount: Option<i64>,
    pub arguments: String,
    pub result: Option<String>,
}

pub struct Trail {
    pub tenant: TenantId,
    /// Oldest first.
    pub rows: Vec<Row>,
}

/// Small numbers that look random and are the same every time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.roll(from.len() as u64)).unwrap()].clone()
    }
}

/// `count` calls in the forty days before [`now`], of three keys, two teams, four tools of two upstreams, by requests of
/// three kinds; and as many of another tenant, which nobody may see.
pub async fn generate(pool: &PgPool, count: usize) -> Trail {
    generate_for(pool, tenant(pool).await, count, 2).await;
    generate_for(pool, tenant(pool).await, count, 1).await
}

async fn generate_for(pool: &PgPool, tenant: TenantId, count: usize, seed: u64) -> Trail {
    let mut dice = Dice(seed);
    let start = now() - TimeDelta::days(40);
    sqlx::query("SELECT tollgate_ensure_partitions($1)").bind(start).execute(pool).await.unwrap();
    let keys: Vec<KeyId> = (0..3).map(|_| id_at(start)).collect();
    let teams: Vec<Option<TeamId>> = vec![None, Some(id_at(start)), Some(id_at(start))];
    let upstreams: Vec<UpstreamId> = (0..2).map(|_| id_at(start)).collect();
    let tools: Vec<(ToolId, usize)> = (0..4).map(|i| (id_at(start), i % 2)).collect();
    let requests: Vec<(LlmRequestId, Option<&str>)> =
        [None, Some("m1"), Some("m2")].into_iter().map(|model| (id_at(start), model)).collect();
    let runs: Vec<ScriptRunId> = (0..2).map(|_| id_at(start)).collect();
    parents(pool, tenant, keys[0], &requests, &runs).await;
    name(pool, tenant, keys[0], teams[1].unwrap()).await;

    let mut rows = Vec::with_capacity(count);
    for i in 0..count {
        let spread = TimeDelta::days(39) / i32::try_from(count).unwrap();
        let at = start + spread * i32::try_from(i).unwrap() + TimeDelta::milliseconds(i64::try_from(dice.roll(1000)).unwrap());
        let (request, model) = dice.pick(&requests);
        let mut row = Row {
            id: id_at(at),
            request,
            run: if dice.roll(2) == 0 { Some(dice.pick(&runs)) } else { None },
            key: dice.pick(&keys),
            team: dice.pick(&teams),
            tool: None,
            upstream: None,
            model,
            decision: "permitted",
            outcome: None,
            opened_at: at,
            latency: None,
            amount: None,
            arguments: format!("{{ \"n\" :{i}, \"n\":\"\\u0000\"}}"),
            result: None,
        };
        let (tool, of) = dice.pick(&tools);
        (row.tool, row.upstream) = (Some(tool), Some(upstreams[of]));
        match dice.roll(10) {
            0 => {
                (row.decision, row.outcome, row.amount, row.tool, row.upstream) =
                    ("denied", Some(Outcome::Denied), Some(0), None, None)
            }
            1 => (row.decision, row.outcome, row.amount) = ("held", Some(Outcome::Held), Some(0)),
            2 => {}
            _ => {
                row.outcome =
                    Some(dice.pick(&[Outcome::Ok, Outcome::Ok, Outcome::ToolError, Outcome::Timeout, Outcome::UpstreamError]));
                row.latency = Some(i64::try_from(dice.roll(1_000_000)).unwrap());
                // Large enough that a sum leaves 64 bits.
                row.amount = Some(i64::MAX / 2 + i64::try_from(dice.roll(1 << 30)).unwrap());
                row.result = Some(format!("{{\"text\": \"{i}\\r\\n\"}}"));
            }
        }
        insert(pool, tenant, &row, i, dice.roll(4) == 0).await;
        rows.push(row);
    }
    Trail { tenant, rows }
}

async fn parents(pool: &PgPool, tenant: TenantId, key: KeyId, requests: &[(LlmRequestId, Option<&str>)], runs: &[ScriptRunId]) {
    for (id, model) in requests {
        sqlx::query("INSERT INTO llm_requests (tenant_id, llm_request_id, key_id, origin, method, model, at) VALUES ($1, $2, $3, 'llm', 'm', $4, $5)")
            .bind(tenant.uuid()).bind(id.uuid()).bind(key.uuid()).bind(model).bind(now()).execute(pool).await.unwrap();
    }
    for (position, id) in runs.iter().enumerate() {
        for sql in [
            "INSERT INTO script_run_starts (tenant_id, script_run_id, llm_request_id, key_id, catalog_sha256, engine, worker_id, opened_at)
             VALUES ($1, $2, $3, $4, '\\x00', 'e', $2, $5)",
            "INSERT INTO script_run_ends (tenant_id, script_run_id, kind, state, at) SELECT $1, $2, 1, 'done', $5 WHERE $3 <> $4",
        ] {
            sqlx::query(sql).bind(tenant.uuid()).bind(id.uuid()).bind(requests[position].0.uuid()).bind(key.uuid()).bind(now())
                .execute(pool).await.unwrap();
        }
        for (part, text) in [(0i16, "result = 1"), (1, "1"), (2, "[\"x\"]")] {
            sqlx::query("INSERT INTO script_payloads (tenant_id, script_run_id, part, sequence, size, salt, body) VALUES ($1, $2, $3, 0, 0, '', $4)")
                .bind(tenant.uuid()).bind(id.uuid()).bind(part).bind(payload::pack(text.as_bytes())).execute(pool).await.unwrap();
        }
    }
}

/// One key and one team still exist; the others' names are gone.
async fn name(pool: &PgPool, tenant: TenantId, key: KeyId, team: TeamId) {
    sqlx::query("INSERT INTO virtual_keys (tenant_id, key_id, name, hash, created_at, updated_at) VALUES ($1, $2, 'agent', '', now(), now())")
        .bind(tenant.uuid()).bind(key.uuid()).execute(pool).await.unwrap();
    sqlx::query("INSERT INTO teams (tenant_id, team_id, name, created_at, updated_at) VALUES ($1, $2, 'sales', now(), now())")
        .bind(tenant.uuid())
        .bind(team.uuid())
        .execute(pool)
        .await
        .unwrap();
}

/// With `resolved`, a sweeper has been there first: the completion that came later is the truth.
async fn insert(pool: &PgPool, tenant: TenantId, row: &Row, position: usize, resolved: bool) {
    let at_intent = row.decision != "permitted";
    sqlx::query(
        "INSERT INTO tool_call_events (tenant_id, call_id, kind, at, llm_request_id, origin, script_run_id, sequence, key_id, team_id,
           upstream_id, upstream_name, tool_id, tool_name, definition_sha256, decision, currency, outcome, amount_picos)
         VALUES ($1, $2, 0, $3, $4, 'llm', $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, 'USD', $15, $16)",
    )
    .bind(tenant.uuid()).bind(row.id.uuid()).bind(row.opened_at).bind(row.request.uuid()).bind(row.run.map(ScriptRunId::uuid))
    .bind(row.run.map(|_| i32::try_from(position).unwrap())).bind(row.key.uuid()).bind(row.team.map(TeamId::uuid))
    .bind(row.upstream.map(UpstreamId::uuid)).bind(row.upstream.map(|u| u.to_string())).bind(row.tool.map(ToolId::uuid))
    .bind(row.tool.map_or(format!("unknown{position}"), |t| t.to_string())).bind(vec![7u8; 32]).bind(row.decision)
    .bind(row.outcome.filter(|_| at_intent).map(Outcome::as_str)).bind(row.amount.filter(|_| at_intent))
    .execute(pool).await.unwrap();
    body(pool, tenant, row.id, 0, &row.arguments).await;
    if at_intent || row.outcome.is_none() {
        return;
    }
    if resolved {
        sqlx::query("INSERT INTO tool_call_events (tenant_id, call_id, kind, at, outcome, error, amount_picos) VALUES ($1, $2, 2, $3, 'unknown', 'lost', 5)")
            .bind(tenant.uuid()).bind(row.id.uuid()).bind(row.opened_at).execute(pool).await.unwrap();
    }
    sqlx::query("INSERT INTO tool_call_events (tenant_id, call_id, kind, at, outcome, latency_us, amount_picos) VALUES ($1, $2, 1, $3, $4, $5, $6)")
        .bind(tenant.uuid()).bind(row.id.uuid()).bind(row.opened_at + TimeDelta::seconds(1)).bind(row.outcome.map(Outcome::as_str))
        .bind(row.latency).bind(row.amount).execute(pool).await.unwrap();
    if let Some(result) = &row.result {
        body(pool, tenant, row.id, 1, result).await;
    }
}

pub async fn body(pool: &PgPool, tenant: TenantId, id: CallId, kind: i16, text: &str) {
    sqlx::query("INSERT INTO tool_call_payloads (tenant_id, call_id, kind, size, body) VALUES ($1, $2, $3, $4, $5)")
        .bind(tenant.uuid())
        .bind(id.uuid())
        .bind(kind)
        .bind(i32::try_from(text.len()).unwrap())
        .bind(payload::pack(text.as_bytes()))
        .execute(pool)
        .await
        .unwrap();
}
