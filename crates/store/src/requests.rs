//! LLM requests, the parents of calls, as admins read them.

use chrono::{DateTime, Utc};
use sqlx::{Postgres, QueryBuilder, Row, postgres::PgRow};
use tollgate_domain::{
    Currency, KeyId, LlmRequestId, Origin, Picos, ProviderId, TeamId, TenantId,
    llm::{Counted, Mode},
    llm_price::Usage,
};
use uuid::Uuid;

use crate::{
    calls::{CallFilter, Slice, call_conditions, fetch_parents, has_call_filter, id, order, own, text, window},
    error::{StoreError, StoreResult, word},
    page::{Page, PageRequest},
    tx::Tx,
};

#[derive(Debug, Clone)]
pub struct LlmRequest {
    pub id: LlmRequestId,
    pub key_id: KeyId,
    pub team_id: Option<TeamId>,
    pub origin: Origin,
    pub method: String,
    /// As it was asked for.
    pub model: Option<String>,
    pub client: Option<String>,
    pub at: DateTime<Utc>,
    pub prompt_tokens_avoided: Option<i64>,
    /// Of one that came through the LLM door.
    pub forward: Option<Forwarded>,
}

/// What was forwarded, and how that ended.
#[derive(Debug, Clone)]
pub struct Forwarded {
    /// The first request of its agent loop, and its place in it, from 1.
    pub root_id: LlmRequestId,
    pub turn: i32,
    pub mode: Mode,
    pub streaming: bool,
    /// Why it was refused.
    pub reason: Option<String>,
    pub tools_offered: i32,
    pub tools_tokens: i64,
    pub currency: Currency,
    /// In the words of a tool call's outcome; `None` while it is open.
    pub outcome: Option<String>,
    pub error: Option<String>,
    pub closed_at: Option<DateTime<Utc>>,
    pub provider_id: Option<ProviderId>,
    pub provider: Option<String>,
    pub model_served: Option<String>,
    /// Every try, as JSON text.
    pub attempts: Option<String>,
    /// Nothing while it is open.
    pub counted: Option<Counted>,
    pub usage: Usage,
    pub price: Option<String>,
    pub amount: Option<Picos>,
    pub latency_us: Option<i64>,
    pub first_token_us: Option<i64>,
    pub finish_reason: Option<String>,
}

/// What a request said and what came back, as JSON texts; `None` where a text is not kept.
#[derive(Debug, Clone, Default)]
pub struct Texts {
    pub prompt: Option<String>,
    pub answer: Option<String>,
}

const COLUMNS: &str = "SELECT l.* FROM llm_calls l WHERE l.tenant_id = ";

/// A page of LLM requests. A filter that speaks of calls finds the requests that have such a call.
///
/// # Errors
/// [`StoreError::Invalid`] when a filter that speaks of calls takes too long.
pub async fn list(tx: &mut Tx, tenant: TenantId, filter: &CallFilter, slice: Slice) -> StoreResult<Page<LlmRequest>> {
    let mut query = QueryBuilder::new(COLUMNS);
    query.push_bind(tenant.uuid());
    window(&mut query, "l.llm_request_id", filter, slice);
    call_conditions(&mut query, "l", &own(filter));
    let by_calls = has_call_filter(filter) || filter.script_run_id.is_some();
    if by_calls {
        query.push(" AND EXISTS (SELECT FROM ").push("tool_calls t");
        query.push(" WHERE t.tenant_id = l.tenant_id AND t.llm_request_id = l.llm_request_id");
        call_conditions(&mut query, "t", filter);
        query.push(")");
    }
    order(&mut query, "l.llm_request_id", slice);
    let rows = fetch_parents(tx, query, by_calls).await?;
    let rows: Vec<LlmRequest> = rows.iter().map(read).collect::<StoreResult<_>>()?;
    Ok(slice.page.cut(rows, |row| row.id.uuid()))
}

/// One LLM request.
///
/// # Errors
/// [`StoreError::NotFound`].
pub async fn get(tx: &mut Tx, tenant: TenantId, id: LlmRequestId) -> StoreResult<LlmRequest> {
    let only = CallFilter { llm_request_id: Some(id), ..CallFilter::default() };
    let slice = Slice { page: PageRequest { limit: 1, after: None }, ascending: true };
    list(tx, tenant, &only, slice).await?.items.pop().ok_or(StoreError::NotFound)
}

/// The turns of an agent loop, in their order, `limit` at most.
///
/// # Errors
/// When the database does not answer.
pub async fn turns(tx: &mut Tx, tenant: TenantId, root: LlmRequestId, limit: i64) -> StoreResult<Vec<LlmRequest>> {
    let mut query = QueryBuilder::new(COLUMNS);
    query.push_bind(tenant.uuid()).push(" AND l.root_id = ").push_bind(root.uuid());
    // The turns of a loop are younger than its root: the partitions before are not looked at.
    query
        .push(" AND l.llm_request_id >= ")
        .push_bind(root.uuid())
        .push(" ORDER BY l.turn, l.llm_request_id LIMIT ")
        .push_bind(limit);
    query.build().fetch_all(&mut **tx).await?.iter().map(read).collect()
}

/// What a request said and what came back.
///
/// # Errors
/// When the database does not answer.
pub async fn texts(tx: &mut Tx, tenant: TenantId, request: LlmRequestId) -> StoreResult<Texts> {
    let rows = sqlx::query_as::<_, (i16, Vec<u8>)>(
        "SELECT part, body FROM script_payloads WHERE tenant_id = $1 AND script_run_id = $2 AND part IN (5, 6)",
    );
    let mut texts = Texts::default();
    for (part, body) in rows.bind(tenant.uuid()).bind(request.uuid()).fetch_all(&mut **tx).await? {
        let place = if part == 5 { &mut texts.prompt } else { &mut texts.answer };
        *place = Some(text(&body)?);
    }
    Ok(texts)
}

/// All of a tenant, with a condition at the end.
pub(crate) fn select(tenant: TenantId) -> QueryBuilder<Postgres> {
    let mut query = QueryBuilder::new(COLUMNS);
    query.push_bind(tenant.uuid());
    query
}

/// What of a filter speaks of requests themselves.
pub(crate) fn conditions(query: &mut QueryBuilder<Postgres>, filter: &CallFilter) {
    call_conditions(query, "l", &CallFilter { outcome: filter.outcome, ..own(filter) });
}

pub(crate) fn read(row: &PgRow) -> StoreResult<LlmRequest> {
    Ok(LlmRequest {
        id: row.try_get::<Uuid, _>("llm_request_id")?.into(),
        key_id: row.try_get::<Uuid, _>("key_id")?.into(),
        team_id: id(row, "team_id")?,
        origin: word(row.try_get("origin")?)?,
        method: row.try_get("method")?,
        model: row.try_get("model")?,
        client: row.try_get("client")?,
        at: row.try_get("at")?,
        prompt_tokens_avoided: row.try_get("prompt_tokens_avoided")?,
        forward: forwarded(row)?,
    })
}

fn forwarded(row: &PgRow) -> StoreResult<Option<Forwarded>> {
    let Some(root_id) = id(row, "root_id")? else { return Ok(None) };
    let tokens = |column| -> StoreResult<u64> {
        let count: Option<i64> = row.try_get(column)?;
        u64::try_from(count.unwrap_or(0)).map_err(|_| StoreError::Corrupt(format!("{column} is negative")))
    };
    Ok(Some(Forwarded {
        root_id,
        turn: row.try_get("turn")?,
        mode: word(row.try_get("mode")?)?,
        streaming: row.try_get("streaming")?,
        reason: row.try_get("reason")?,
        tools_offered: row.try_get("tools_offered")?,
        tools_tokens: row.try_get("tools_tokens")?,
        currency: word(row.try_get("currency")?)?,
        outcome: row.try_get("outcome")?,
        error: row.try_get("error")?,
        closed_at: row.try_get("closed_at")?,
        provider_id: id(row, "provider_id")?,
        provider: row.try_get("provider_name")?,
        model_served: row.try_get("model_served")?,
        attempts: row.try_get("attempts")?,
        counted: row.try_get::<Option<&str>, _>("usage")?.map(word).transpose()?,
        usage: Usage {
            input: tokens("input_tokens")?,
            cached_input: tokens("cached_tokens")?,
            cache_write: tokens("cache_write_tokens")?,
            output: tokens("output_tokens")?,
            reasoning: tokens("reasoning_tokens")?,
        },
        price: row.try_get("price")?,
        amount: row.try_get::<Option<i64>, _>("amount_picos")?.map(Picos),
        latency_us: row.try_get("latency_us")?,
        first_token_us: row.try_get("first_token_us")?,
        finish_reason: row.try_get("finish_reason")?,
    }))
}
