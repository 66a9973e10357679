use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgPool;
use tollgate_domain::{CallId, KeyId, Picos, TeamId, TenantId, ToolId, UpstreamId};
use tollgate_store::{
    Actor, PageRequest, Store, StoreError, StoreResult, calls,
    costs::{self, CostQuery, Dimension},
    credits::{self, Credit, CreditFilter, CreditScope, Credited},
};

use crate::{id_at, now, tenant};

/// A row of the trail: closed where it has a cost.
async fn call(pool: &PgPool, tenant: TenantId, scope: CreditScope, cost: Option<i64>) -> CallId {
    let id = id_at::<CallId>(now());
    let insert = "INSERT INTO tool_call_events (tenant_id, call_id, kind, at, llm_request_id, key_id, team_id, upstream_id, tool_id, tool_name, decision)
                  VALUES ($1, $2, 0, $3, $2, $4, $5, $6, $7, 't', 'permitted')";
    sqlx::query(insert)
        .bind(tenant.uuid())
        .bind(id.uuid())
        .bind(now())
        .bind(scope.key.unwrap().uuid())
        .bind(scope.team.map(TeamId::uuid))
        .bind(scope.upstream.map(UpstreamId::uuid))
        .bind(scope.tool.map(ToolId::uuid))
        .execute(pool)
        .await
        .unwrap();
    if let Some(cost) = cost {
        let insert =
            "INSERT INTO tool_call_events (tenant_id, call_id, kind, at, outcome, amount_picos) VALUES ($1, $2, 1, $3, 'ok', $4)";
        sqlx::query(insert).bind(tenant.uuid()).bind(id.uuid()).bind(now()).bind(cost).execute(pool).await.unwrap();
    }
    id
}

async fn credit(store: &Store, tenant: TenantId, of: Credited, amount: i64, at: DateTime<Utc>) -> StoreResult<Credit> {
    let mut change = store.change(tenant, Actor::system("test"), at).await?;
    let credit = credits::create(&mut change, of, Picos(amount), "billed twice").await?;
    change.commit_quietly().await?;
    Ok(credit)
}

fn scope() -> CreditScope {
    let now = now();
    CreditScope {
        key: Some(KeyId::mint(now)),
        team: Some(TeamId::mint(now)),
        upstream: Some(UpstreamId::mint(now)),
        tool: Some(ToolId::mint(now)),
    }
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn a_call_is_never_credited_more_than_it_cost_however_many_try_at_once(pool: PgPool) {
    let (tenant, stranger) = (tenant(&pool).await, tenant(&pool).await);
    let store = Store::from_pool(pool.clone());
    let scope = scope();
    let (dear, open) = (call(&pool, tenant, scope, Some(100)).await, call(&pool, tenant, scope, None).await);
    let mut tasks = Vec::new();
    for _ in 0..20 {
        let store = store.clone();
        tasks.push(tokio::spawn(async move { credit(&store, tenant, Credited::Call(dear), 30, now()).await }));
    }
    let mut made = Vec::new();
    for task in tasks {
        match task.await.unwrap() {
            Ok(credit) => made.push(credit),
            Err(StoreError::Invalid { pointer, message }) => {
                assert!(pointer == "/amount" && message.contains("is credited already"), "{pointer} {message}");
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(made.len(), 3);
    assert!(made.iter().all(|credit| credit.scope == scope && credit.call == Some(dear)), "{made:?}");
    assert_eq!(credit(&store, tenant, Credited::Call(dear), 10, now()).await.unwrap().amount, Picos(10));
    let refused = credit(&store, tenant, Credited::Call(dear), 1, now()).await.unwrap_err().to_string();
    assert_eq!(refused, "/amount: the call cost 0.0000000001, and 0.0000000001 of that is credited already");
    let mut tx = store.tenant(tenant).await.unwrap();
    let row = calls::get(&mut tx, tenant, dear).await.unwrap();
    assert_eq!((row.amount, row.credited), (Some(Picos(100)), Some(Picos(100))), "the row itself stays as it is");
    assert_eq!(calls::get(&mut tx, tenant, open).await.unwrap().credited, None);

    let early = credit(&store, tenant, Credited::Call(open), 1, now()).await;
    assert!(matches!(&early, Err(StoreError::Conflict(sentence)) if sentence.contains("open")), "{early:?}");
    let foreign = credit(&store, stranger, Credited::Call(dear), 1, now()).await;
    assert!(matches!(&foreign, Err(StoreError::Invalid { pointer, .. }) if pointer == "/tool_call_id"), "{foreign:?}");
    for (wrong, pointer) in [
        (CreditScope { key: scope.key, ..CreditScope::default() }, "/key_id"),
        (CreditScope { team: scope.team, ..CreditScope::default() }, "/team_id"),
        (CreditScope { upstream: scope.upstream, ..CreditScope::default() }, "/upstream_id"),
        (CreditScope { tool: scope.tool, ..CreditScope::default() }, "/tool_id"),
    ] {
        let refused = credit(&store, tenant, Credited::Scope(wrong), 1, now()).await;
        assert!(matches!(&refused, Err(StoreError::Invalid { pointer: at, .. }) if at == pointer), "{refused:?}");
    }
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn credits_are_summed_by_the_time_at_which_they_were_made(pool: PgPool) {
    let tenant = tenant(&pool).await;
    let store = Store::from_pool(pool.clone());
    let (one, two) = (scope(), CreditScope { team: None, ..scope() });
    let (first, second) = (call(&pool, tenant, one, Some(100)).await, call(&pool, tenant, two, Some(i64::MAX)).await);
    let day = TimeDelta::days(1);
    for (of, amount, at) in [
        (Credited::Call(first), 10, now()),
        (Credited::Call(first), 5, now() + day),
        (Credited::Call(second), i64::MAX, now()),
        (Credited::Scope(CreditScope::default()), i64::MAX, now()),
    ] {
        credit(&store, tenant, of, amount, at).await.unwrap();
    }
    sqlx::query("UPDATE tenants SET time_zone = 'Europe/Berlin'").execute(&pool).await.unwrap();
    let report = async |(from, to), group_by: &[Dimension], key_id| {
        let (team_id, tool_id, upstream_id, outcome) = (None, None, None, None);
        let group_by = group_by.to_vec();
        let ask = CostQuery { from, to, group_by, key_id, team_id, tool_id, upstream_id, outcome, top: None, compare: None };
        costs::report(&store, tenant, &ask).await.unwrap()
    };
    let range = (now(), now() + day);
    let whole = report(range, &[], None).await;
    let given = 10 + 2 * i128::from(i64::MAX);
    assert_eq!((whole.lines.len(), whole.credits, whole.lines[0].credits), (1, Some(given), Some(given)), "the end is not in it");
    let by = [Dimension::Key, Dimension::Team, Dimension::Upstream, Dimension::Tool];
    let groups = report(range, &by, None).await.lines;
    assert_eq!(groups.len(), 3);
    let of = |scope: CreditScope| {
        let line = groups.iter().find(|line| line.key.as_ref().map(|key| key.0) == scope.key).unwrap();
        let ids =
            (line.team.as_ref().map(|team| team.0), line.upstream.as_ref().map(|one| one.0), line.tool.as_ref().map(|one| one.0));
        assert_eq!(ids, (scope.team, scope.upstream, scope.tool));
        (line.sums.calls, line.credits)
    };
    assert_eq!((of(one), of(two)), ((1, Some(10)), (1, Some(i64::MAX.into()))));
    assert_eq!(of(CreditScope::default()), (0, Some(i64::MAX.into())), "there is a line where nobody called");
    let days = report((now(), now() + day * 2), &[Dimension::Day], one.key).await.lines;
    let days: Vec<_> = days.iter().map(|day| (day.time.unwrap().to_rfc3339(), day.credits)).collect();
    assert_eq!(days, [("2026-11-14T23:00:00+00:00".to_owned(), Some(10)), ("2026-11-15T23:00:00+00:00".to_owned(), Some(5))]);
    assert_eq!(report((now() - day, now()), &[], None).await.credits, Some(0));
    let ever = (DateTime::<Utc>::MIN_UTC, DateTime::<Utc>::MAX_UTC);
    assert_eq!(report(ever, &[], None).await.credits, Some(given + 5), "no time is too long ago");
    assert_eq!(report(range, &[Dimension::Model], None).await.credits, None, "credits have no model");

    let mut tx = store.tenant(tenant).await.unwrap();
    let all = CreditFilter::default();
    let page = PageRequest { limit: 3, after: None };
    let listed = credits::list(&mut tx, tenant, &all, page).await.unwrap();
    assert!(listed.items.len() == 3 && listed.next.is_some());
    let of_call = credits::list(&mut tx, tenant, &CreditFilter { call: Some(first), ..all }, page).await.unwrap();
    assert_eq!(of_call.items.iter().map(|credit| credit.amount.0).sum::<i64>(), 15);
    assert_eq!(credits::get(&mut tx, tenant, of_call.items[0].id).await.unwrap(), of_call.items[0]);
    let events = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM admin_events WHERE action = 'credit.create'");
    assert_eq!(events.fetch_one(&pool).await.unwrap(), 4);
}
