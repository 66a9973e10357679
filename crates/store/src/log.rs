//! The lines of a tenant's log, made again from its rows: what comes out hashes to what was signed, or something was changed.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::{Row, postgres::PgRow};
use tollgate_domain::{TenantId, tool::DefinitionHash};
use tollgate_evidence::{
    Hash,
    batch::Sealed,
    line::{self, Commitment, Kept, Kind, Line, Place},
};
use uuid::Uuid;

use crate::{
    error::{StoreError, StoreResult},
    tx::Tx,
};

/// The bytes of the lines of these entries, in their order; `None` where the row is gone.
///
/// # Errors
/// When the database does not answer.
pub async fn lines(tx: &mut Tx, tenant: TenantId, entries: &[Sealed]) -> StoreResult<Vec<Option<Vec<u8>>>> {
    let mut found: HashMap<Place, Vec<u8>> = HashMap::with_capacity(entries.len());
    let of = |kinds: &[Kind]| -> Vec<Uuid> {
        entries.iter().filter(|(place, _)| kinds.contains(&place.kind)).map(|(place, _)| place.id).collect()
    };
    let mut keep = |line: Line<'_>| drop(found.insert(line.place(), line.bytes()));
    let reads: [(&'static str, Vec<Uuid>, Make); 7] = [
        (REQUESTS, of(&[Kind::LlmRequest]), request),
        (LLM_ENDS, of(&[Kind::LlmEnd, Kind::LlmResolution]), llm_end),
        (STARTS, of(&[Kind::ScriptStart]), start),
        (CALLS, of(&[Kind::CallIntent, Kind::CallCompletion, Kind::CallResolution]), call),
        (JOURNAL, of(&[Kind::ScriptJournal]), journal),
        (ENDS, of(&[Kind::ScriptEnd, Kind::ScriptResolution]), end),
        (EVENTS, of(&[Kind::AdminEvent]), admin_event),
    ];
    for (sql, ids, make) in reads {
        if ids.is_empty() {
            continue;
        }
        for row in sqlx::query(sql).bind(tenant.uuid()).bind(&ids).fetch_all(&mut **tx).await? {
            // A row that somebody has made unreadable is not the one that was signed, and is missing like one that was removed.
            if let Ok(line) = make(tenant, &row) {
                keep(line);
            }
        }
    }
    // Cloned: a row that was signed twice stands in the log twice.
    Ok(entries.iter().map(|(place, _)| found.get(place).cloned()).collect())
}

type Make = fn(TenantId, &PgRow) -> StoreResult<Line<'_>>;

const REQUESTS: &str =
    "SELECT l.llm_request_id, l.key_id, l.team_id, l.origin, l.method, l.model, l.client, l.at, l.prompt_tokens_avoided, f.root_id, f.turn, f.mode,
    f.streaming, f.worker_id, f.decision, f.reason, f.tools_offered, f.tools_tokens, f.quoted_picos, f.currency, f.prompt_sha256,
    f.prompt_form, f.prompt_kept_sha256
    FROM llm_requests l LEFT JOIN llm_forwards f ON f.tenant_id = l.tenant_id AND f.llm_request_id = l.llm_request_id
    WHERE l.tenant_id = $1 AND l.llm_request_id = ANY($2)";
const LLM_ENDS: &str = "SELECT * FROM llm_request_ends WHERE tenant_id = $1 AND llm_request_id = ANY($2)";
const STARTS: &str =
    "SELECT script_run_id, llm_request_id, key_id, team_id, worker_id, engine, limits, catalog_sha256, source_sha256,
    source_form, source_kept_sha256, opened_at, route FROM script_run_starts WHERE tenant_id = $1 AND script_run_id = ANY($2)";
const CALLS: &str = "SELECT * FROM tool_call_events WHERE tenant_id = $1 AND call_id = ANY($2)";
const JOURNAL: &str = "SELECT script_run_id, sequence, call_id, entry_sha256, entry_form, entry_kept_sha256 FROM script_journal
    WHERE tenant_id = $1 AND script_run_id = ANY($2)";
const ENDS: &str = "SELECT * FROM script_run_ends WHERE tenant_id = $1 AND script_run_id = ANY($2)";
const EVENTS: &str = "SELECT event_id, at, actor_kind, actor_id, role, action, target_id, detail, request_id FROM admin_events
    WHERE tenant_id = $1 AND event_id = ANY($2)";

fn request(tenant: TenantId, row: &PgRow) -> StoreResult<Line<'_>> {
    Ok(Line::LlmRequest(line::LlmRequest {
        tenant_id: tenant,
        id: id(row, "llm_request_id")?,
        at: row.try_get("at")?,
        key_id: id(row, "key_id")?,
        team_id: maybe(row, "team_id")?,
        origin: text(row, "origin")?.into(),
        method: text(row, "method")?.into(),
        model: words(row, "model")?,
        client: words(row, "client")?,
        prompt_tokens_avoided: row.try_get("prompt_tokens_avoided")?,
        forward: forward(row)?,
    }))
}

fn forward(row: &PgRow) -> StoreResult<Option<line::Forward<'_>>> {
    let Some(root_id) = maybe(row, "root_id")? else { return Ok(None) };
    Ok(Some(line::Forward {
        root_id,
        turn: row.try_get("turn")?,
        mode: text(row, "mode")?.into(),
        streaming: row.try_get("streaming")?,
        worker_id: id(row, "worker_id")?,
        decision: text(row, "decision")?.into(),
        reason: words(row, "reason")?,
        tools_offered: row.try_get("tools_offered")?,
        tools_tokens: row.try_get("tools_tokens")?,
        quoted_picos: row.try_get("quoted_picos")?,
        currency: text(row, "currency")?.into(),
        prompt: required(commitment(row, ["prompt_sha256", "prompt_form", "prompt_kept_sha256"])?)?,
    }))
}

fn llm_end(tenant: TenantId, row: &PgRow) -> StoreResult<Line<'_>> {
    let end = line::LlmEnd {
        tenant_id: tenant,
        id: id(row, "llm_request_id")?,
        at: row.try_get("at")?,
        outcome: text(row, "outcome")?.into(),
        error: words(row, "error")?,
        provider_id: maybe(row, "provider_id")?,
        provider_name: words(row, "provider_name")?,
        model_served: words(row, "model_served")?,
        attempts: text(row, "attempts")?.into(),
        usage: text(row, "usage")?.into(),
        input_tokens: row.try_get("input_tokens")?,
        cached_tokens: row.try_get("cached_tokens")?,
        cache_write_tokens: row.try_get("cache_write_tokens")?,
        output_tokens: row.try_get("output_tokens")?,
        reasoning_tokens: row.try_get("reasoning_tokens")?,
        price: words(row, "price")?,
        amount_picos: row.try_get("amount_picos")?,
        latency_us: row.try_get("latency_us")?,
        first_token_us: row.try_get("first_token_us")?,
        finish_reason: words(row, "finish_reason")?,
        answer: commitment(row, ["answer_sha256", "answer_form", "answer_kept_sha256"])?,
    };
    Ok(if row.try_get::<i16, _>("kind")? == 1 { Line::LlmEnd(end) } else { Line::LlmResolution(end) })
}

fn start(tenant: TenantId, row: &PgRow) -> StoreResult<Line<'_>> {
    Ok(Line::ScriptStart(line::ScriptStart {
        tenant_id: tenant,
        id: id(row, "script_run_id")?,
        at: row.try_get("opened_at")?,
        llm_request_id: id(row, "llm_request_id")?,
        key_id: id(row, "key_id")?,
        team_id: maybe(row, "team_id")?,
        worker_id: id(row, "worker_id")?,
        engine: text(row, "engine")?.into(),
        limits: text(row, "limits")?.into(),
        catalog_sha256: hash(row.try_get("catalog_sha256")?)?,
        source: required(commitment(row, ["source_sha256", "source_form", "source_kept_sha256"])?)?,
        route: words(row, "route")?,
    }))
}

fn call(tenant: TenantId, row: &PgRow) -> StoreResult<Line<'_>> {
    let kind: i16 = row.try_get("kind")?;
    if kind != 0 {
        let end = line::CallEnd {
            tenant_id: tenant,
            id: id(row, "call_id")?,
            at: row.try_get("at")?,
            outcome: text(row, "outcome")?.into(),
            error: words(row, "error")?,
            latency_us: row.try_get("latency_us")?,
            amount_picos: row.try_get("amount_picos")?,
            result: commitment(row, ["result_sha256", "result_form", "result_kept_sha256"])?,
        };
        return Ok(if kind == 1 { Line::CallCompletion(end) } else { Line::CallResolution(end) });
    }
    let definition: Option<&[u8]> = row.try_get("definition_sha256")?;
    Ok(Line::CallIntent(line::CallIntent {
        tenant_id: tenant,
        id: id(row, "call_id")?,
        at: row.try_get("at")?,
        llm_request_id: id(row, "llm_request_id")?,
        origin: text(row, "origin")?.into(),
        script_run_id: maybe(row, "script_run_id")?,
        sequence: row.try_get("sequence")?,
        key_id: id(row, "key_id")?,
        team_id: maybe(row, "team_id")?,
        upstream_id: maybe(row, "upstream_id")?,
        upstream_name: words(row, "upstream_name")?,
        tool_id: maybe(row, "tool_id")?,
        tool_name: text(row, "tool_name")?.into(),
        definition_sha256: definition.and_then(DefinitionHash::from_slice).map(|d| Hash(d.0)),
        decision: text(row, "decision")?.into(),
        reason: words(row, "reason")?,
        price_id: maybe(row, "price_id")?,
        quoted_picos: row.try_get("quoted_picos")?,
        currency: text(row, "currency")?.into(),
        worker_id: id(row, "worker_id")?,
        arguments: required(commitment(row, ["arguments_sha256", "arguments_form", "arguments_kept_sha256"])?)?,
        outcome: words(row, "outcome")?,
        error: words(row, "error")?,
        latency_us: row.try_get("latency_us")?,
        amount_picos: row.try_get("amount_picos")?,
        approval_id: maybe(row, "approval_id")?,
        unit: words(row, "unit")?,
        unit_picos: row.try_get("unit_picos")?,
        tier: row.try_get("tier")?,
        call_number: row.try_get("call_number")?,
    }))
}

fn journal(tenant: TenantId, row: &PgRow) -> StoreResult<Line<'_>> {
    Ok(Line::ScriptJournal(line::ScriptJournal {
        tenant_id: tenant,
        id: id(row, "script_run_id")?,
        sequence: row.try_get("sequence")?,
        call_id: maybe(row, "call_id")?,
        entry: required(commitment(row, ["entry_sha256", "entry_form", "entry_kept_sha256"])?)?,
    }))
}

fn end(tenant: TenantId, row: &PgRow) -> StoreResult<Line<'_>> {
    let end = line::ScriptEnd {
        tenant_id: tenant,
        id: id(row, "script_run_id")?,
        at: row.try_get("at")?,
        state: text(row, "state")?.into(),
        ticks: row.try_get("ticks")?,
        result: commitment(row, ["result_sha256", "result_form", "result_kept_sha256"])?,
        logs: commitment(row, ["logs_sha256", "logs_form", "logs_kept_sha256"])?,
        error: commitment(row, ["error_sha256", "error_form", "error_kept_sha256"])?,
        may_call: words(row, "may_call")?,
    };
    Ok(if row.try_get::<i16, _>("kind")? == 1 { Line::ScriptEnd(end) } else { Line::ScriptResolution(end) })
}

fn admin_event(tenant: TenantId, row: &PgRow) -> StoreResult<Line<'_>> {
    Ok(Line::AdminEvent(line::AdminEvent {
        tenant_id: tenant,
        id: id(row, "event_id")?,
        at: row.try_get::<DateTime<Utc>, _>("at")?,
        actor_kind: text(row, "actor_kind")?.into(),
        actor_id: text(row, "actor_id")?.into(),
        role: words(row, "role")?,
        action: text(row, "action")?.into(),
        target_id: text(row, "target_id")?.into(),
        detail: line::canonical(&row.try_get::<serde_json::Value, _>("detail")?).into(),
        request_id: words(row, "request_id")?,
    }))
}

fn id<T: From<Uuid>>(row: &PgRow, column: &str) -> StoreResult<T> {
    Ok(row.try_get::<Uuid, _>(column)?.into())
}

fn maybe<T: From<Uuid>>(row: &PgRow, column: &str) -> StoreResult<Option<T>> {
    Ok(row.try_get::<Option<Uuid>, _>(column)?.map(T::from))
}

fn text<'a>(row: &'a PgRow, column: &str) -> StoreResult<&'a str> {
    Ok(row.try_get(column)?)
}

fn words<'a>(row: &'a PgRow, column: &str) -> StoreResult<Option<std::borrow::Cow<'a, str>>> {
    Ok(row.try_get::<Option<&str>, _>(column)?.map(Into::into))
}

fn hash(bytes: &[u8]) -> StoreResult<Hash> {
    Hash::from_slice(bytes).ok_or_else(|| StoreError::Corrupt("a hash of another length".to_owned()))
}

fn commitment(row: &PgRow, [sha256, form, kept]: [&str; 3]) -> StoreResult<Option<Commitment>> {
    let columns =
        (row.try_get::<Option<&[u8]>, _>(sha256)?, row.try_get::<Option<i16>, _>(form)?, row.try_get::<Option<&[u8]>, _>(kept)?);
    let (sha256, kept) = match columns {
        (None, None, None) => return Ok(None),
        (Some(sha256), None, None) => (sha256, None),
        (Some(sha256), Some(1), Some(copy)) => (sha256, Some(Kept::Redacted(hash(copy)?))),
        (Some(sha256), Some(2), None) => (sha256, Some(Kept::Omitted)),
        // No writer leaves them like this.
        _ => return Err(StoreError::Corrupt("a commitment that is none".to_owned())),
    };
    Ok(Some(Commitment { sha256: hash(sha256)?, kept }))
}

fn required(commitment: Option<Commitment>) -> StoreResult<Commitment> {
    commitment.ok_or_else(|| StoreError::Corrupt("a row of the log commits to no payload".to_owned()))
}
