use chrono::TimeDelta;
use sqlx::PgPool;
use tokio::sync::mpsc;
use tollgate_domain::{CallId, Decision, LlmRequestId, Outcome};
use tollgate_store::{
    PageRequest, Store, StoreError,
    calls::{self, CallFilter, Slice, ToolCall},
    export, requests,
};

use crate::{
    now, tamper, tenant,
    trail::{Row, Trail, body, generate},
};

async fn all(store: &Store, trail: &Trail, filter: &CallFilter, limit: u32, ascending: bool) -> Vec<ToolCall> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let mut tx = store.tenant_snapshot(trail.tenant).await.unwrap();
        let slice = Slice { page: PageRequest { limit, after }, ascending };
        let page = calls::list(&mut tx, trail.tenant, filter, slice).await.unwrap();
        assert!(page.items.len() <= limit as usize);
        found.extend(page.items);
        after = page.next;
        if after.is_none() {
            return found;
        }
    }
}

fn ids<'a>(rows: impl IntoIterator<Item = &'a Row>) -> Vec<CallId> {
    rows.into_iter().map(|row| row.id).collect()
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn pages_of_any_size_hold_every_call_once_and_in_order(pool: PgPool) {
    let trail = generate(&pool, 120).await;
    let store = Store::from_pool(pool);
    let oldest_first = ids(&trail.rows);
    let newest_first: Vec<CallId> = oldest_first.iter().rev().copied().collect();
    for limit in [1, 7, 119, 120, 121, 1000] {
        for (ascending, expected) in [(true, &oldest_first), (false, &newest_first)] {
            let found = all(&store, &trail, &CallFilter::default(), limit, ascending).await;
            assert_eq!(found.iter().map(|c| c.id).collect::<Vec<_>>(), *expected, "limit {limit}");
        }
    }
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn a_call_reads_as_it_was_written(pool: PgPool) {
    let trail = generate(&pool, 150).await;
    let store = Store::from_pool(pool);
    let found = all(&store, &trail, &CallFilter::default(), 1000, true).await;
    assert!(found.iter().any(|c| c.outcome.is_none()) && found.iter().any(|c| c.outcome == Some(Outcome::Denied)));
    for (call, row) in found.iter().zip(&trail.rows) {
        assert_eq!((call.id, call.llm_request_id, call.script_run_id), (row.id, row.request, row.run));
        assert_eq!((call.key_id, call.team_id, call.tool_id, call.upstream_id), (row.key, row.team, row.tool, row.upstream));
        assert_eq!((call.decision.as_str(), call.outcome), (row.decision, row.outcome));
        assert_eq!((call.opened_at, call.latency_us, call.amount.map(|a| a.0)), (row.opened_at, row.latency, row.amount));
        assert_eq!((call.arguments.as_ref(), &call.result), (Some(&row.arguments), &row.result), "byte by byte");
        assert_eq!(call.closed_at.is_some(), row.outcome.is_some());
        assert_eq!(call.error, None, "a resolution is forgotten once the completion is there");
        assert!(!call.truncated && call.sequence.is_some() == row.run.is_some());
        assert_eq!(call.definition_sha256.unwrap().to_string(), "07".repeat(32));
        let mut tx = store.tenant(trail.tenant).await.unwrap();
        assert_eq!(calls::get(&mut tx, trail.tenant, row.id).await.unwrap().arguments, call.arguments);
    }
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn filters_narrow_alone_and_together(pool: PgPool) {
    let trail = generate(&pool, 150).await;
    let store = Store::from_pool(pool);
    let one = trail.rows.iter().find(|r| r.run.is_some() && r.team.is_some() && r.tool.is_some() && r.outcome.is_some()).unwrap();
    let some = CallFilter::default;
    let (from, to) = (trail.rows[30].opened_at, trail.rows[90].opened_at);
    type Matches<'a> = Box<dyn Fn(&Row) -> bool + 'a>;
    let cases: Vec<(CallFilter, Matches<'_>)> = vec![
        (CallFilter { key_id: Some(one.key), ..some() }, Box::new(|r| r.key == one.key)),
        (CallFilter { team_id: one.team, ..some() }, Box::new(|r| r.team == one.team)),
        (CallFilter { tool_id: one.tool, ..some() }, Box::new(|r| r.tool == one.tool)),
        (CallFilter { upstream_id: one.upstream, ..some() }, Box::new(|r| r.upstream == one.upstream)),
        (CallFilter { llm_request_id: Some(one.request), ..some() }, Box::new(|r| r.request == one.request)),
        (CallFilter { script_run_id: one.run, ..some() }, Box::new(|r| r.run == one.run)),
        (CallFilter { outcome: one.outcome, ..some() }, Box::new(|r| r.outcome == one.outcome)),
        (CallFilter { decision: Some(Decision::Held), ..some() }, Box::new(|r| r.decision == "held")),
        (CallFilter { from: Some(from), ..some() }, Box::new(|r| r.opened_at >= from)),
        (CallFilter { to: Some(to), ..some() }, Box::new(|r| r.opened_at < to)),
        (
            CallFilter { from: Some(from), to: Some(to), key_id: Some(one.key), outcome: Some(Outcome::Ok), ..some() },
            Box::new(|r| (from..to).contains(&r.opened_at) && r.key == one.key && r.outcome == Some(Outcome::Ok)),
        ),
    ];
    for (filter, matches) in cases {
        let expected = ids(trail.rows.iter().filter(|row| matches(row)));
        assert!(!expected.is_empty(), "{filter:?}");
        let found = all(&store, &trail, &filter, 13, true).await;
        assert_eq!(found.iter().map(|c| c.id).collect::<Vec<_>>(), expected, "{filter:?}");
    }
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn parents_are_found_by_what_their_calls_were(pool: PgPool) {
    let trail = generate(&pool, 120).await;
    let store = Store::from_pool(pool);
    let mut tx = store.tenant_snapshot(trail.tenant).await.unwrap();
    let slice = Slice { page: PageRequest { limit: 100, after: None }, ascending: true };
    let tool = trail.rows.iter().find(|r| r.run.is_some() && r.outcome == Some(Outcome::Ok)).and_then(|r| r.tool).unwrap();
    let filter = CallFilter { tool_id: Some(tool), outcome: Some(Outcome::Ok), ..CallFilter::default() };
    let mut expected: Vec<_> = trail
        .rows
        .iter()
        .filter(|r| r.tool == Some(tool) && r.outcome == Some(Outcome::Ok))
        .map(|r| (r.request, r.run))
        .collect();
    expected.sort();
    let requests = requests::list(&mut tx, trail.tenant, &filter, slice).await.unwrap().items;
    let mut wanted: Vec<LlmRequestId> = expected.iter().map(|e| e.0).collect();
    wanted.dedup();
    assert_eq!(requests.iter().map(|r| r.id).collect::<Vec<_>>(), wanted);
    let runs = calls::list_runs(&mut tx, trail.tenant, &filter, slice).await.unwrap().items;
    let mut wanted: Vec<_> = expected.iter().filter_map(|e| e.1).collect();
    wanted.sort();
    wanted.dedup();
    assert_eq!(runs.iter().map(|r| r.id).collect::<Vec<_>>(), wanted);

    assert_eq!(requests::list(&mut tx, trail.tenant, &CallFilter::default(), slice).await.unwrap().items.len(), 3);
    let run = calls::get_run(&mut tx, trail.tenant, runs[0].id).await.unwrap();
    assert_eq!(
        (run.source.as_deref(), run.result.as_deref(), run.logs.as_deref()),
        (Some("result = 1"), Some("1"), Some("[\"x\"]"))
    );
    assert_eq!(requests::get(&mut tx, trail.tenant, requests[0].id).await.unwrap().id, requests[0].id);
    let unknown = requests::get(&mut tx, trail.tenant, LlmRequestId::mint(now())).await;
    assert!(matches!(unknown, Err(StoreError::NotFound)));
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn another_tenants_call_is_not_there(pool: PgPool) {
    let trail = generate(&pool, 3).await;
    let stranger = tenant(&pool).await;
    let store = Store::from_pool(pool);
    let mut tx = store.tenant(stranger).await.unwrap();
    assert!(matches!(calls::get(&mut tx, stranger, trail.rows[0].id).await, Err(StoreError::NotFound)));
    // Even where a query asked for the wrong tenant, the database itself would refuse.
    assert!(matches!(calls::get(&mut tx, trail.tenant, trail.rows[0].id).await, Err(StoreError::NotFound)));
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn a_large_payload_is_left_out_of_lists_alone(pool: PgPool) {
    let trail = generate(&pool, 40).await;
    let open = trail.rows.iter().find(|r| r.outcome.is_none()).unwrap();
    let large = format!("\"{}\"", "x".repeat(70_000));
    body(&pool, trail.tenant, open.id, 1, &large).await;
    let store = Store::from_pool(pool);
    let listed = all(&store, &trail, &CallFilter::default(), 1000, true).await;
    let call = listed.iter().find(|c| c.id == open.id).unwrap();
    assert!(call.truncated && call.result.is_none() && call.arguments.is_some());
    assert_eq!(listed.iter().filter(|c| c.truncated).count(), 1);
    let mut tx = store.tenant(trail.tenant).await.unwrap();
    let call = calls::get(&mut tx, trail.tenant, open.id).await.unwrap();
    assert_eq!((call.result, call.truncated), (Some(large), false));
}

async fn exported(export: export::Export) -> (Vec<ToolCall>, bool) {
    let (out, mut chunks) = mpsc::channel(1);
    let task = tokio::spawn(export.run(out));
    let (mut calls, mut whole) = (Vec::new(), false);
    while let Some(chunk) = chunks.recv().await {
        let chunk = chunk.unwrap();
        whole = chunk.is_empty();
        calls.extend(chunk);
    }
    task.await.unwrap();
    (calls, whole)
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn an_export_holds_every_call_of_its_moment_over_several_batches(pool: PgPool) {
    let trail = generate(&pool, 1100).await;
    let store = Store::from_pool(pool.clone());
    let export = export::open(&store, trail.tenant, CallFilter::default()).await.unwrap();
    tamper(&pool, "UPDATE tool_call_events SET outcome = 'cancelled' WHERE kind = 1").await;
    let (calls, whole) = exported(export).await;
    assert!(whole);
    assert_eq!(calls.iter().map(|c| c.id).collect::<Vec<_>>(), ids(&trail.rows));
    let as_written = calls.iter().zip(&trail.rows).all(|(c, r)| {
        c.outcome == r.outcome
            && c.result == r.result
            && c.arguments.as_ref() == Some(&r.arguments)
            && c.amount.map(|a| a.0) == r.amount
    });
    assert!(as_written, "what commits later is not in it");

    let (from, to) = (trail.rows[100].opened_at, trail.rows[700].opened_at);
    let window = |from, to| CallFilter { from, to, ..CallFilter::default() };
    let mut parts = Vec::new();
    for filter in [window(None, Some(from)), window(Some(from), Some(to)), window(Some(to), None)] {
        parts.extend(exported(export::open(&store, trail.tenant, filter).await.unwrap()).await.0);
    }
    assert_eq!(parts.iter().map(|c| c.id).collect::<Vec<_>>(), ids(&trail.rows), "neighbouring windows: no gap, no overlap");
    let key = CallFilter { key_id: Some(trail.rows[0].key), ..CallFilter::default() };
    let (calls, whole) = exported(export::open(&store, trail.tenant, key).await.unwrap()).await;
    assert_eq!((calls.len(), whole), (trail.rows.iter().filter(|r| r.key == trail.rows[0].key).count(), true));
    let nothing = window(Some(now() + TimeDelta::days(1)), None);
    assert_eq!(exported(export::open(&store, trail.tenant, nothing).await.unwrap()).await.1, true);
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn an_export_that_meets_a_corrupt_payload_does_not_end_in_order(pool: PgPool) {
    let trail = generate(&pool, 20).await;
    tamper(&pool, &format!("UPDATE tool_call_payloads SET body = 'x' WHERE call_id = '{}'", trail.rows[10].id.uuid())).await;
    let export = export::open(&Store::from_pool(pool), trail.tenant, CallFilter::default()).await.unwrap();
    let (out, mut chunks) = mpsc::channel(8);
    export.run(out).await;
    let mut last = None;
    while let Some(chunk) = chunks.recv().await {
        last = Some(chunk);
    }
    assert!(matches!(last, Some(Err(StoreError::Corrupt(_)))), "{last:?}");
}
