//! Script runs, as the gateway records them; and their erasure.

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;
use tollgate_domain::{
    CallId, Currency, LlmRequestId, Origin, Outcome, Picos, ScriptRunId, TenantId, ids,
    llm::{Counted, Mode},
    llm_price::Usage,
    policy::Reason,
};
use tollgate_store::{
    Actor, Store, StoreError,
    audit::{AuditWriter, Entry, Forward, Intent, JournalRow, LlmEnd, NewRequest, NewRun, RunEnd, ScriptPlace},
    erasures::{self, Selection},
    payload,
    settings::{AuditSettings, TrailPolicy},
};

use super::{Who, now};

/// An id of this moment. Minted ones never go back, and some tests look at the time from far ahead.
pub fn fresh<T: From<uuid::Uuid>>() -> T {
    static COUNT: AtomicU64 = AtomicU64::new(1);
    let count = u128::from(COUNT.fetch_add(1, Ordering::Relaxed));
    T::from(uuid::Uuid::from_u128(ids::floor(now()).as_u128() | 0x7000_8000_0000_0000_0000 | count))
}

pub fn opening(who: &Who) -> Intent {
    Intent { id: fresh(), ..who.intent("{}") }
}

pub fn rules(redaction: Value) -> TrailPolicy {
    TrailPolicy::new(&AuditSettings { redaction, ..AuditSettings::default() }, None)
}

/// A script run with one call, whose arguments are `arguments` and whose texts say `text`, all kept as `trail` says.
pub async fn record(who: &Who, audit: &AuditWriter, trail: &TrailPolicy, arguments: &str, text: &str) -> (CallId, ScriptRunId) {
    let who = &Who { request: fresh(), ..who.clone() };
    let run = fresh();
    let place = ScriptPlace { run, sequence: 1 };
    let mut nested = opening(who);
    nested.place = Some(place);
    nested.arguments = trail.payload(arguments.as_bytes()).await;
    let json = Value::from(text).to_string();
    let kept = async || trail.payload(json.as_bytes()).await;
    let start = NewRun {
        tenant: who.tenant,
        id: run,
        request: who.request,
        key: who.key,
        team: None,
        source: trail.text(text).await,
        catalog: payload::pack(b"{}").into(),
        catalog_sha256: tollgate_evidence::Hash::of(&[b"{}"]).0,
        engine: "e".to_owned(),
        limits: "{}".to_owned(),
        route: None,
        worker: who.worker,
        at: now(),
    };
    let opening = Entry { request: Some(who.request()), run: Some(start), intent: Some(nested.clone()), ..Entry::default() };
    audit.before(opening).await.unwrap();
    let mut completion = who.completion(nested.id, Outcome::Ok, b"");
    completion.result = Some(kept().await);
    let end = RunEnd {
        tenant: who.tenant,
        id: run,
        state: "failed",
        ticks: 1,
        result: Some(kept().await),
        logs: kept().await,
        error: Some(kept().await),
        may_call: None,
        at: now(),
    };
    let journal = JournalRow { tenant: who.tenant, place, call: Some(nested.id), entry: kept().await };
    let entry = Entry { completions: vec![completion], journal: vec![journal], end: Some(end), ..Entry::default() };
    audit.after(entry).await.unwrap();
    (nested.id, run)
}

pub async fn erase(store: &Store, tenant: TenantId, selection: &Selection) -> Result<erasures::Erasure, StoreError> {
    let mut change = store.change(tenant, Actor::system("test"), now()).await?;
    let selected = erasures::select(&mut change.tx, tenant, selection).await?;
    let erasure = erasures::erase(&mut change, selection, &selected, "asked for".to_owned()).await?;
    change.commit().await?;
    Ok(erasure)
}

/// A request to a model, with its prompt, its answer and its end.
pub async fn forwarded(who: &Who, audit: &AuditWriter, trail: &TrailPolicy, text: &str) -> LlmRequestId {
    let (id, end) = opened(who, audit, trail, text, None).await;
    audit.after(Entry { llm_ends: vec![end], ..Entry::default() }).await.unwrap();
    id
}

/// The same without its end, or refused.
pub async fn opened(
    who: &Who,
    audit: &AuditWriter,
    trail: &TrailPolicy,
    text: &str,
    refused: Option<Reason>,
) -> (LlmRequestId, LlmEnd) {
    let id = fresh();
    let json = Value::from(text).to_string();
    let forward = Forward {
        root: id,
        turn: 1,
        mode: Mode::Manual,
        streaming: false,
        worker: who.worker,
        refused,
        tools: (2, 300),
        quoted: Picos(9),
        leases: Vec::new(),
        currency: Currency::USD,
        prompt: trail.payload(json.as_bytes()).await,
    };
    let request = NewRequest { id, origin: Origin::Llm, model: Some("m".to_owned()), forward: Some(forward), ..who.request() };
    audit.before(Entry { request: Some(request), ..Entry::default() }).await.unwrap();
    let end = LlmEnd {
        tenant: who.tenant,
        id,
        outcome: Outcome::Ok,
        error: None,
        provider: Some((fresh(), "p".to_owned())),
        model: Some("m-1".to_owned()),
        attempts: "[]".to_owned(),
        counted: Counted::Reported,
        usage: Usage { input: 5, cached_input: 1, cache_write: 0, output: 3, reasoning: 1 },
        price: Some("default:2026-11-01".to_owned()),
        amount: Picos(7),
        latency: std::time::Duration::from_micros(1_500),
        first_token: Some(std::time::Duration::from_micros(400)),
        finish_reason: Some("stop".to_owned()),
        answer: Some(trail.payload(json.as_bytes()).await),
        at: now(),
    };
    (id, end)
}
