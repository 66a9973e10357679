//! What has happened, as admins read it: tool calls, the requests above them and the script runs between.
//!
//! Lists are windows over ids: `from` and `to` compare with the time in an id, so that neighbouring windows neither overlap
//! nor leave a gap, and a window reads its partitions alone.

use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use sqlx::{Postgres, QueryBuilder, Row, postgres::PgRow};
use tollgate_domain::{
    ApprovalId, CallId, Currency, Decision, KeyId, LlmRequestId, Origin, Outcome, Picos, PriceId, ScriptRunId, TeamId, TenantId,
    ToolId, UpstreamId, ids, search::Words, tool::DefinitionHash,
};
use uuid::Uuid;

use crate::{
    error::{StoreError, StoreResult, word},
    page::{Page, PageRequest},
    payload,
    search::walk,
    tx::Tx,
};

/// In a list, a payload larger than this is left out.
pub const LIST_PAYLOAD: i32 = 64 << 10;
/// In a list, payloads are left out once the page holds this much of them.
pub const LIST_PAYLOADS: usize = 16 << 20;

/// What the sweeper says of a call whose worker died.
pub(crate) const SWEPT: &str = "the worker ended before it could say how the call did";
/// And of a run, as JSON text.
const SWEPT_RUN: &str = r#"{"kind":"sandbox","message":"The worker ended while the script ran. Run it again; calls that it had made are in the audit trail.","line":null,"column":null}"#;

/// Which rows of the trail. Empty: all of the tenant's.
#[derive(Debug, Clone, Default)]
pub struct CallFilter {
    pub key_id: Option<KeyId>,
    pub team_id: Option<TeamId>,
    pub tool_id: Option<ToolId>,
    pub upstream_id: Option<UpstreamId>,
    pub llm_request_id: Option<LlmRequestId>,
    pub script_run_id: Option<ScriptRunId>,
    pub outcome: Option<Outcome>,
    pub decision: Option<Decision>,
    /// What arguments and result must say. Only [`list`] reads it; give a window with it.
    pub text: Option<Words>,
    pub from: Option<DateTime<Utc>>,
    /// Exclusive.
    pub to: Option<DateTime<Utc>>,
}

/// A page and the direction in which it is read.
#[derive(Debug, Clone, Copy)]
pub struct Slice {
    pub page: PageRequest,
    /// Oldest first; otherwise newest first.
    pub ascending: bool,
}

/// What became of a payload that is not there as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A copy, from which the tenant's redaction rules have taken something.
    Redacted,
    /// It was larger than the tenant keeps, or could not be redacted.
    Omitted,
    /// It was erased later.
    Erased,
}

impl Form {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Redacted => "redacted",
            Self::Omitted => "omitted",
            Self::Erased => "erased",
        }
    }
}

#[derive(Debug, Clone)]
pub struct ToolCall {
    pub id: CallId,
    pub llm_request_id: LlmRequestId,
    pub script_run_id: Option<ScriptRunId>,
    pub sequence: Option<i32>,
    pub origin: Origin,
    pub key_id: KeyId,
    pub team_id: Option<TeamId>,
    pub upstream_id: Option<UpstreamId>,
    pub upstream_name: Option<String>,
    pub tool_id: Option<ToolId>,
    pub tool_name: String,
    pub definition_sha256: Option<DefinitionHash>,
    pub decision: Decision,
    pub reason: Option<String>,
    pub approval_id: Option<ApprovalId>,
    /// `None` while the call is open.
    pub outcome: Option<Outcome>,
    /// The exact JSON text, unless the next says otherwise.
    pub arguments: Option<String>,
    pub arguments_form: Option<Form>,
    pub result: Option<String>,
    pub result_form: Option<Form>,
    /// A payload exists and was left out for its size.
    pub truncated: bool,
    pub error: Option<String>,
    pub opened_at: DateTime<Utc>,
    pub closed_at: Option<DateTime<Utc>>,
    pub latency_us: Option<i64>,
    pub price_id: Option<PriceId>,
    pub amount: Option<Picos>,
    pub currency: Option<Currency>,
}

/// How much of the payloads a query brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Payloads {
    All,
    /// Small ones, see [`LIST_PAYLOAD`].
    Small,
}

/// A page of tool calls. Where few calls are like `filter`, it ends after about two seconds with what was found by then: it
/// may be short, even empty, and still have a next one.
///
/// # Errors
/// When the database does not answer.
pub async fn list(tx: &mut Tx, tenant: TenantId, filter: &CallFilter, slice: Slice) -> StoreResult<Page<ToolCall>> {
    if walk::is_for(filter) {
        return walk::list(tx, tenant, filter, slice).await;
    }
    let mut query = select_calls(tenant, Payloads::Small);
    window(&mut query, "t.call_id", filter, slice);
    call_conditions(&mut query, "t", filter);
    order(&mut query, "t.call_id", slice);
    let mut rows = query.build().fetch(&mut **tx);
    let (mut calls, mut left) = (Vec::new(), LIST_PAYLOADS);
    while let Some(row) = rows.try_next().await? {
        let mut call = tool_call(&row, left > 0)?;
        let size = [&call.arguments, &call.result].into_iter().flatten().map(String::len).sum();
        left = left.saturating_sub(size);
        call.truncated |= row.try_get::<Option<bool>, _>("cut")?.unwrap_or(false);
        calls.push(call);
    }
    drop(rows);
    Ok(slice.page.cut(calls, |call| call.id.uuid()))
}

/// One tool call, with its payloads whatever their size.
///
/// # Errors
/// [`StoreError::NotFound`].
pub async fn get(tx: &mut Tx, tenant: TenantId, id: CallId) -> StoreResult<ToolCall> {
    let mut query = select_calls(tenant, Payloads::All);
    query.push(" AND t.call_id = ").push_bind(id.uuid());
    tool_call(&query.build().fetch_one(&mut **tx).await?, true)
}

pub(crate) fn select_calls(tenant: TenantId, payloads: Payloads) -> QueryBuilder<Postgres> {
    let mut query = QueryBuilder::new(
        "SELECT t.call_id, t.llm_request_id, t.script_run_id, t.sequence, t.origin, t.key_id, t.team_id, t.upstream_id,
                t.upstream_name, t.tool_id, t.tool_name, t.definition_sha256, t.decision, t.reason, t.approval_id, t.outcome, t.error,
                t.opened_at, t.closed_at, t.latency_us, t.price_id, t.amount_picos, t.currency, ",
    );
    // Whether it was erased is asked only where a payload is missing: most have theirs.
    query.push(
        "CASE WHEN t.arguments_form = 2 THEN 2 WHEN t.arguments_sha256 IS NOT NULL AND a.size IS NULL AND EXISTS (
           SELECT FROM audit_erased x WHERE x.tenant_id = t.tenant_id AND x.row_id = t.call_id AND x.part = 0) THEN 3 ELSE t.arguments_form END
           AS arguments_form,
         CASE WHEN t.result_form = 2 THEN 2 WHEN t.result_sha256 IS NOT NULL AND r.size IS NULL AND EXISTS (
           SELECT FROM audit_erased x WHERE x.tenant_id = t.tenant_id AND x.row_id = t.call_id AND x.part = 1) THEN 3 ELSE t.result_form END
           AS result_form, ",
    );
    match payloads {
        Payloads::All => query.push("a.body AS arguments, r.body AS result, false AS cut"),
        Payloads::Small => query
            .push("CASE WHEN a.size <= ")
            .push_bind(LIST_PAYLOAD)
            .push(" THEN a.body END AS arguments, CASE WHEN r.size <= ")
            .push_bind(LIST_PAYLOAD)
            .push(" THEN r.body END AS result, GREATEST(a.size, r.size) > ")
            .push_bind(LIST_PAYLOAD)
            .push(" AS cut"),
    };
    query.push(" FROM ").push("tool_calls t").push(
        " LEFT JOIN LATERAL (SELECT size, body FROM tool_call_payloads
                              WHERE tenant_id = t.tenant_id AND call_id = t.call_id AND kind = 0 LIMIT 1) a ON true
          LEFT JOIN LATERAL (SELECT size, body FROM tool_call_payloads
                              WHERE tenant_id = t.tenant_id AND call_id = t.call_id AND kind = 1 LIMIT 1) r ON true
          WHERE t.tenant_id = ",
    );
    query.push_bind(tenant.uuid());
    query
}

/// `from`, `to` and the page's start as one range of `id`, a column's name.
fn window(query: &mut QueryBuilder<Postgres>, id: &'static str, filter: &CallFilter, slice: Slice) {
    let mut bound = |operator: &'static str, at: Uuid| {
        query.push(" AND ").push(id).push(operator).push_bind(at);
    };
    if let Some(from) = filter.from {
        bound(" >= ", ids::floor(from));
    }
    if let Some(to) = filter.to {
        bound(" < ", ids::floor(to));
    }
    if let Some(after) = slice.page.after {
        bound(if slice.ascending { " > " } else { " < " }, after);
    }
}

fn order(query: &mut QueryBuilder<Postgres>, id: &'static str, slice: Slice) {
    query.push(" ORDER BY ").push(id).push(if slice.ascending { " LIMIT " } else { " DESC LIMIT " });
    query.push_bind(slice.page.fetch());
}

/// The conditions on a tool call, where `table` is the view `tool_calls` or has columns of the same names.
pub(crate) fn call_conditions(query: &mut QueryBuilder<Postgres>, table: &'static str, filter: &CallFilter) {
    let ids = [
        (".key_id = ", filter.key_id.map(KeyId::uuid)),
        (".team_id = ", filter.team_id.map(TeamId::uuid)),
        (".tool_id = ", filter.tool_id.map(ToolId::uuid)),
        (".upstream_id = ", filter.upstream_id.map(UpstreamId::uuid)),
        (".llm_request_id = ", filter.llm_request_id.map(LlmRequestId::uuid)),
        (".script_run_id = ", filter.script_run_id.map(ScriptRunId::uuid)),
    ];
    let words = [(".outcome = ", filter.outcome.map(Outcome::as_str)), (".decision = ", filter.decision.map(Decision::as_str))];
    for (column, id) in ids.into_iter().filter_map(|(column, id)| Some((column, id?))) {
        query.push(" AND ").push(table).push(column).push_bind(id);
    }
    for (column, word) in words.into_iter().filter_map(|(column, word)| Some((column, word?))) {
        query.push(" AND ").push(table).push(column).push_bind(word);
    }
}

/// A row of [`select_calls`]; without `payloads` they are left out, and said to be.
pub(crate) fn tool_call(row: &PgRow, payloads: bool) -> StoreResult<ToolCall> {
    let (arguments, result): (Option<&[u8]>, Option<&[u8]>) = (row.try_get("arguments")?, row.try_get("result")?);
    let read = |packed: Option<&[u8]>| packed.filter(|_| payloads).map(text).transpose();
    let (origin, decision): (Option<&str>, &str) = (row.try_get("origin")?, row.try_get("decision")?);
    let (outcome, currency): (Option<&str>, Option<&str>) = (row.try_get("outcome")?, row.try_get("currency")?);
    let hash: Option<&[u8]> = row.try_get("definition_sha256")?;
    Ok(ToolCall {
        id: row.try_get::<Uuid, _>("call_id")?.into(),
        llm_request_id: row.try_get::<Uuid, _>("llm_request_id")?.into(),
        script_run_id: id(row, "script_run_id")?,
        sequence: row.try_get("sequence")?,
        origin: word(origin.unwrap_or(Origin::Minted.as_str()))?,
        key_id: row.try_get::<Uuid, _>("key_id")?.into(),
        team_id: id(row, "team_id")?,
        upstream_id: id(row, "upstream_id")?,
        upstream_name: row.try_get("upstream_name")?,
        tool_id: id(row, "tool_id")?,
        tool_name: row.try_get("tool_name")?,
        definition_sha256: hash.and_then(DefinitionHash::from_slice),
        decision: word(decision)?,
        reason: row.try_get("reason")?,
        approval_id: id(row, "approval_id")?,
        outcome: outcome.map(word).transpose()?,
        arguments: read(arguments)?,
        arguments_form: form(row.try_get("arguments_form")?)?,
        result: read(result)?,
        result_form: form(row.try_get("result_form")?)?,
        truncated: !payloads && (arguments.is_some() || result.is_some()),
        error: row.try_get("error")?,
        opened_at: row.try_get("opened_at")?,
        closed_at: row.try_get("closed_at")?,
        latency_us: row.try_get("latency_us")?,
        price_id: id(row, "price_id")?,
        amount: row.try_get::<Option<i64>, _>("amount_picos")?.map(Picos),
        currency: currency.map(word).transpose()?,
    })
}

fn form(number: Option<i32>) -> StoreResult<Option<Form>> {
    Ok(match number {
        None => None,
        Some(1) => Some(Form::Redacted),
        Some(2) => Some(Form::Omitted),
        Some(3) => Some(Form::Erased),
        Some(other) => return Err(StoreError::Corrupt(format!("a payload of form {other}"))),
    })
}

fn id<T: From<Uuid>>(row: &PgRow, column: &str) -> StoreResult<Option<T>> {
    Ok(row.try_get::<Option<Uuid>, _>(column)?.map(T::from))
}

/// The JSON text in a packed payload.
fn text(packed: &[u8]) -> StoreResult<String> {
    String::from_utf8(payload::unpack(packed)?).map_err(|e| StoreError::Corrupt(format!("payload: {e}")))
}

// ---------------------------------------------------------------- the parents

#[derive(Debug, Clone)]
pub struct LlmRequest {
    pub id: LlmRequestId,
    pub key_id: KeyId,
    pub team_id: Option<TeamId>,
    pub origin: Origin,
    pub method: String,
    pub model: Option<String>,
    pub client: Option<String>,
    pub at: DateTime<Utc>,
    pub prompt_tokens_avoided: Option<i64>,
}

#[derive(Debug, Clone)]
pub struct ScriptRun {
    pub id: ScriptRunId,
    pub llm_request_id: LlmRequestId,
    pub key_id: KeyId,
    pub team_id: Option<TeamId>,
    pub state: String,
    pub engine: String,
    pub catalog_sha256: Vec<u8>,
    /// The tools that its text shows, as `server.tool`; `None` while nobody has asked.
    pub may_call: Option<Vec<String>>,
    pub ticks: Option<i64>,
    pub opened_at: DateTime<Utc>,
    pub closed_at: Option<DateTime<Utc>>,
}

/// All there is of one run. Texts are JSON unless said otherwise.
#[derive(Debug, Clone)]
pub struct ScriptRunDetail {
    pub run: ScriptRun,
    /// Starlark.
    pub source: Option<String>,
    pub result: Option<String>,
    pub logs: Option<String>,
    pub error: Option<String>,
    pub journal: Vec<JournalEntry>,
}

#[derive(Debug, Clone)]
pub struct JournalEntry {
    pub sequence: i32,
    /// `None` where the gateway answered by itself.
    pub call_id: Option<CallId>,
    pub entry: Option<String>,
}

/// Looking for parents by what their calls were has no index but the window. Longer than this it is refused.
const PARENTS_WITHIN: &str = "5s";

async fn fetch_parents(tx: &mut Tx, mut query: QueryBuilder<Postgres>, bounded: bool) -> StoreResult<Vec<PgRow>> {
    if bounded {
        sqlx::query("SELECT set_config('statement_timeout', $1, true)").bind(PARENTS_WITHIN).execute(&mut **tx).await?;
    }
    let rows = query.build().fetch_all(&mut **tx).await;
    rows.map_err(|error| match error.as_database_error().and_then(|db| db.code()).as_deref() {
        Some("57014") if bounded => {
            let sentence = "finding these by their calls takes too long: give a narrower window with from and to";
            StoreError::invalid("?from", sentence)
        }
        _ => error.into(),
    })
}

/// A page of LLM requests. A filter that speaks of calls finds the requests that have such a call.
///
/// # Errors
/// [`StoreError::Invalid`] when a filter that speaks of calls takes too long.
pub async fn list_requests(tx: &mut Tx, tenant: TenantId, filter: &CallFilter, slice: Slice) -> StoreResult<Page<LlmRequest>> {
    let mut query = QueryBuilder::new(
        "SELECT l.llm_request_id, l.key_id, l.team_id, l.origin, l.method, l.model, l.client, l.at, l.prompt_tokens_avoided
         FROM llm_requests l WHERE l.tenant_id = ",
    );
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
    let rows: Vec<LlmRequest> = rows.iter().map(llm_request).collect::<StoreResult<_>>()?;
    Ok(slice.page.cut(rows, |row| row.id.uuid()))
}

/// One LLM request.
///
/// # Errors
/// [`StoreError::NotFound`].
pub async fn get_request(tx: &mut Tx, tenant: TenantId, id: LlmRequestId) -> StoreResult<LlmRequest> {
    let only = CallFilter { llm_request_id: Some(id), ..CallFilter::default() };
    let slice = Slice { page: PageRequest { limit: 1, after: None }, ascending: true };
    list_requests(tx, tenant, &only, slice).await?.items.pop().ok_or(StoreError::NotFound)
}

fn llm_request(row: &PgRow) -> StoreResult<LlmRequest> {
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
    })
}

/// A page of script runs, without their texts. A filter that speaks of calls finds the runs that have such a call.
///
/// # Errors
/// [`StoreError::Invalid`] when a filter that speaks of calls takes too long.
pub async fn list_runs(tx: &mut Tx, tenant: TenantId, filter: &CallFilter, slice: Slice) -> StoreResult<Page<ScriptRun>> {
    let mut query = QueryBuilder::new(RUN_COLUMNS);
    query.push(" FROM script_runs s WHERE s.tenant_id = ").push_bind(tenant.uuid());
    window(&mut query, "s.script_run_id", filter, slice);
    let parents = CallFilter { script_run_id: filter.script_run_id, ..own(filter) };
    call_conditions(&mut query, "s", &parents);
    let by_calls = has_call_filter(filter);
    if by_calls {
        query.push(" AND EXISTS (SELECT FROM ").push("tool_calls t");
        query.push(" WHERE t.tenant_id = s.tenant_id AND t.script_run_id = s.script_run_id");
        call_conditions(&mut query, "t", filter);
        query.push(")");
    }
    order(&mut query, "s.script_run_id", slice);
    let rows = fetch_parents(tx, query, by_calls).await?;
    let rows: Vec<ScriptRun> = rows.iter().map(script_run).collect::<StoreResult<_>>()?;
    Ok(slice.page.cut(rows, |row| row.id.uuid()))
}

const RUN_COLUMNS: &str = "SELECT s.script_run_id, s.llm_request_id, s.key_id, s.team_id, s.state, s.engine, s.catalog_sha256,
                                  s.ticks, s.opened_at, s.closed_at, s.may_call";

/// One script run with its source, its outcome and its journal. A text that was erased, or never stored, is `None`.
///
/// # Errors
/// [`StoreError::NotFound`].
pub async fn get_run(tx: &mut Tx, tenant: TenantId, run: ScriptRunId) -> StoreResult<ScriptRunDetail> {
    let mut query = QueryBuilder::new(RUN_COLUMNS);
    query.push(", s.ended_by FROM script_runs s WHERE s.tenant_id = ").push_bind(tenant.uuid());
    query.push(" AND s.script_run_id = ").push_bind(run.uuid());
    let row = query.build().fetch_one(&mut **tx).await?;
    let mut detail =
        ScriptRunDetail { run: script_run(&row)?, source: None, result: None, logs: None, error: None, journal: Vec::new() };
    if row.try_get::<Option<i16>, _>("ended_by")? == Some(2) {
        detail.error = Some(SWEPT_RUN.to_owned());
    }
    let texts = sqlx::query!(
        "SELECT part, body FROM script_payloads WHERE tenant_id = $1 AND script_run_id = $2 AND part < 4",
        tenant.uuid(),
        run.uuid(),
    );
    for row in texts.fetch_all(&mut **tx).await? {
        let place = match row.part {
            0 => &mut detail.source,
            1 => &mut detail.result,
            2 => &mut detail.logs,
            _ => &mut detail.error,
        };
        *place = Some(text(&row.body)?);
    }
    let journal = sqlx::query!(
        r#"SELECT j.sequence, j.call_id, p.body AS "body?" FROM script_journal j
           LEFT JOIN script_payloads p
             ON p.tenant_id = j.tenant_id AND p.script_run_id = j.script_run_id AND p.part = 4 AND p.sequence = j.sequence
           WHERE j.tenant_id = $1 AND j.script_run_id = $2 ORDER BY j.sequence"#,
        tenant.uuid(),
        run.uuid(),
    );
    for row in journal.fetch_all(&mut **tx).await? {
        let entry = row.body.as_deref().map(text).transpose()?;
        detail.journal.push(JournalEntry { sequence: row.sequence, call_id: row.call_id.map(Into::into), entry });
    }
    Ok(detail)
}

fn script_run(row: &PgRow) -> StoreResult<ScriptRun> {
    Ok(ScriptRun {
        id: row.try_get::<Uuid, _>("script_run_id")?.into(),
        llm_request_id: row.try_get::<Uuid, _>("llm_request_id")?.into(),
        key_id: row.try_get::<Uuid, _>("key_id")?.into(),
        team_id: id(row, "team_id")?,
        state: row.try_get("state")?,
        engine: row.try_get("engine")?,
        catalog_sha256: row.try_get("catalog_sha256")?,
        may_call: may_call(row)?,
        ticks: row.try_get("ticks")?,
        opened_at: row.try_get("opened_at")?,
        closed_at: row.try_get("closed_at")?,
    })
}

/// The list in the column of that name.
pub(crate) fn may_call(row: &PgRow) -> StoreResult<Option<Vec<String>>> {
    let text: Option<&str> = row.try_get("may_call")?;
    text.map(serde_json::from_str).transpose().map_err(|error| StoreError::Corrupt(format!("may_call: {error}")))
}

/// The part of a filter that a parent answers from its own row.
fn own(filter: &CallFilter) -> CallFilter {
    CallFilter { key_id: filter.key_id, team_id: filter.team_id, llm_request_id: filter.llm_request_id, ..CallFilter::default() }
}

const fn has_call_filter(filter: &CallFilter) -> bool {
    filter.tool_id.is_some() || filter.upstream_id.is_some() || filter.outcome.is_some() || filter.decision.is_some()
}
