//! `GET /v1/quota`: what a key may still do and what it has spent, for whoever holds it.
//!
//! Nobody reads of another key here. Of a budget that is the key's alone all numbers are shown; of one that others draw from as well, only
//! what binds the key: the limit and what is left of it.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tollgate_domain::{
    Currency, KeyId, Picos, TenantId,
    budget::{BudgetScope, Enforcement},
    money::decimal,
    rate::{Per, RateLimit, Unit},
    zone::Calendar,
};
use tollgate_store::{
    StoreError, StoreResult, budgets,
    costs::{CostQuery, MAX_GROUPS, Reading},
};

use crate::{
    caller::{Caller, Refused},
    gate::Gate,
    guard,
};

/// Answers in the making at once. They read, and leave the connections to the calls.
const AT_ONCE: usize = 4;
/// How long one waits for its turn.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a statement may take that says what was spent: the answer does without it rather than wait.
const SPEND: Duration = Duration::from_secs(2);

#[derive(Debug)]
struct Desk {
    gate: Gate,
    listener: SocketAddr,
    turns: Turns,
}

/// Whose turn it is: of one tenant, one answer is made at a time, so that a tenant whose sums take long holds up itself alone.
#[derive(Debug)]
struct Turns {
    patience: Duration,
    all: Semaphore,
    tenants: Mutex<HashMap<TenantId, Arc<Semaphore>>>,
}

impl Turns {
    fn new(patience: Duration) -> Self {
        Self { patience, all: Semaphore::new(AT_ONCE), tenants: Mutex::default() }
    }

    /// `None`: it did not come in time.
    async fn take(&self, tenant: TenantId) -> Option<(OwnedSemaphorePermit, SemaphorePermit<'_>)> {
        let own = {
            let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(tenants.entry(tenant).or_insert_with(|| Arc::new(Semaphore::new(1))))
        };
        let both = async { Some((own.acquire_owned().await.ok()?, self.all.acquire().await.ok()?)) };
        tokio::time::timeout(self.patience, both).await.ok().flatten()
    }
}

/// The route. `listener` is the address on which it is served.
pub fn routes(gate: Gate, listener: SocketAddr) -> Router {
    let desk = Desk { gate, listener, turns: Turns::new(PATIENCE) };
    Router::new().route("/v1/quota", get(handle)).with_state(Arc::new(desk))
}

#[derive(Debug, Serialize)]
struct Quota {
    key_id: KeyId,
    currency: Currency,
    /// In which days and months begin.
    time_zone: &'static str,
    /// Of this month so far. Null where it takes too long to say.
    spend: Option<Spend>,
    budgets: Vec<BudgetQuota>,
    rate_limits: Vec<LimitQuota>,
}

#[derive(Debug, Serialize)]
struct Spend {
    from: DateTime<Utc>,
    to: DateTime<Utc>,
    calls: i64,
    llm_requests: i64,
    /// Of calls and of LLM requests.
    amount: String,
}

#[derive(Debug, Serialize)]
struct BudgetQuota {
    name: String,
    /// Others draw from it as well.
    shared: bool,
    enforcement: Enforcement,
    limit: Picos,
    #[serde(skip_serializing_if = "Option::is_none")]
    spent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reserved: Option<String>,
    remaining: String,
    resets_at: Option<DateTime<Utc>>,
}

#[derive(Debug, Serialize)]
struct LimitQuota {
    name: String,
    shared: bool,
    unit: Unit,
    per: Option<Per>,
    limit: u32,
    remaining: u64,
    /// Until the limit is as if nobody had called.
    reset_seconds: u64,
}

async fn handle(State(desk): State<Arc<Desk>>, headers: HeaderMap) -> Response {
    let Desk { gate, listener, turns } = &*desk;
    if let Err(why) = guard::check(&headers, &gate.config.gateway, *listener) {
        return problem(StatusCode::FORBIDDEN, "forbidden", why);
    }
    let now = gate.clock.now();
    let caller = match Caller::identify(&gate.directory, &gate.secrets.pepper, &headers, None, now).await {
        Ok(caller) => caller,
        Err(Refused::Unavailable) => return unavailable(),
        Err(Refused::Unauthorized | Refused::UnknownGroup) => {
            metrics::counter!("tollgate_refused_callers_total").increment(1);
            let told = "A valid virtual key is needed: send it as `Authorization: Bearer tg_live_...`";
            let mut answer = problem(StatusCode::UNAUTHORIZED, "unauthenticated", told);
            answer.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"tollgate\""));
            return answer;
        }
    };
    let Some(_turn) = turns.take(caller.tenant()).await else { return unavailable() };
    match quota(gate, &caller, now).await {
        Ok(quota) => ([(header::CACHE_CONTROL, "no-store")], axum::Json(quota)).into_response(),
        Err(error) => {
            tracing::warn!(%error, "no quota was told");
            unavailable()
        }
    }
}

async fn quota(gate: &Gate, caller: &Caller, now: DateTime<Utc>) -> StoreResult<Quota> {
    let config = caller.config();
    let mut quota = Quota {
        key_id: caller.key,
        currency: config.currency,
        time_zone: config.zone.name(),
        spend: spend(gate, caller, now).await?,
        budgets: Vec::new(),
        rate_limits: Vec::new(),
    };
    let mut tx = gate.store.tenant_snapshot(caller.tenant()).await?;
    for budget in config.budgets.iter().filter(|budget| binds(&budget.scope, caller)) {
        let (window, standing) = budgets::standing(&mut tx, caller.tenant(), budget, (config.zone, now)).await?;
        let shared = is_shared(&budget.scope);
        let left = i128::from(budget.limit.0) - standing.spent - standing.reserved;
        quota.budgets.push(BudgetQuota {
            name: budget.name.clone(),
            shared,
            enforcement: budget.enforcement,
            limit: budget.limit,
            spent: (!shared).then(|| decimal(standing.spent)),
            reserved: (!shared).then(|| decimal(standing.reserved)),
            remaining: decimal(left.max(0)),
            resets_at: budget.resets_at(&window),
        });
    }
    tx.commit().await?;
    for limit in config.limits.iter().filter(|limit| binds(&limit.scope, caller)) {
        quota.rate_limits.push(stands(gate, caller, limit).await?);
    }
    Ok(quota)
}

async fn stands(gate: &Gate, caller: &Caller, limit: &RateLimit) -> StoreResult<LimitQuota> {
    let standing = gate.rates.standing(caller.tenant(), limit).await?;
    Ok(LimitQuota {
        name: limit.name.clone(),
        shared: is_shared(&limit.scope),
        unit: limit.measure.unit(),
        per: limit.measure.per(),
        limit: limit.max,
        remaining: standing.remaining,
        reset_seconds: standing.even.as_secs() + u64::from(standing.even.subsec_nanos() > 0),
    })
}

/// What the key's calls and LLM requests of this month cost, in the tenant's zone.
async fn spend(gate: &Gate, caller: &Caller, now: DateTime<Utc>) -> StoreResult<Option<Spend>> {
    let (from, _) = caller.config().zone.around(Calendar::Month, now);
    let ask = CostQuery {
        from,
        to: now,
        group_by: Vec::new(),
        key_id: Some(caller.key),
        team_id: None,
        tool_id: None,
        upstream_id: None,
        outcome: None,
        top: None,
        compare: None,
    };
    let mut reading = Reading::begin(&gate.store, caller.tenant(), SPEND).await?;
    match reading.report(&ask, MAX_GROUPS).await {
        Ok(report) => {
            reading.end().await?;
            let llm = report.llm.unwrap_or_default();
            let amount = decimal(report.total.amount + llm.amount);
            Ok(Some(Spend { from, to: now, calls: report.total.calls, llm_requests: llm.requests, amount }))
        }
        Err(StoreError::Invalid { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether a call that the key can make counts under this scope.
fn binds(scope: &BudgetScope, caller: &Caller) -> bool {
    scope.key.is_none_or(|key| key == caller.key)
        && scope.team.is_none_or(|team| caller.team == Some(team))
        && scope.tool.is_none_or(|tool| caller.scope().by_id(tool).is_some())
        && scope.upstream.is_none_or(|upstream| caller.scope().iter().any(|tool| tool.tool.upstream.id == upstream))
}

fn is_shared(scope: &BudgetScope) -> bool {
    scope.key.is_none()
}

fn unavailable() -> Response {
    let told = "The gateway cannot say how things stand at present; try again in a moment";
    let mut answer = problem(StatusCode::SERVICE_UNAVAILABLE, "unavailable", told);
    answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    answer
}

/// As RFC 9457 has it.
fn problem(status: StatusCode, code: &str, detail: &str) -> Response {
    let title = status.canonical_reason().unwrap_or_default();
    let body = json!({"type": "about:blank", "title": title, "status": status.as_u16(), "code": code, "detail": detail});
    (status, [(header::CONTENT_TYPE, "application/problem+json")], body.to_string()).into_response()
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    #[tokio::test]
    async fn a_tenant_that_takes_long_holds_up_itself_alone_and_nobody_for_ever() {
        let turns = Turns::new(Duration::from_millis(100));
        let tenants: Vec<TenantId> = (0..=AT_ONCE).map(|_| TenantId::mint(DateTime::UNIX_EPOCH)).collect();
        let first = turns.take(tenants[0]).await;
        assert!(first.is_some());
        assert!(turns.take(tenants[0]).await.is_none(), "its own turn has not ended");
        let mut others = Vec::new();
        for tenant in &tenants[1..AT_ONCE] {
            others.push(turns.take(*tenant).await.expect("another tenant's turn"));
        }
        assert!(turns.take(tenants[AT_ONCE]).await.is_none(), "there are as many as may be");
        drop(first);
        assert!(turns.take(tenants[AT_ONCE]).await.is_some());
        assert!(turns.take(tenants[0]).await.is_some());
    }
}
