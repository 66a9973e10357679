use std::collections::HashMap;

use chrono::{DateTime, Datelike, TimeDelta, Timelike, Utc};
use sqlx::PgPool;
use tollgate_domain::Outcome;
use tollgate_store::{
    Store,
    costs::{self, CostLine, CostQuery, CostReport, Dimension, Sums, rollup},
};
use uuid::Uuid;

use crate::{
    now,
    rollups::assert_near,
    trail::{Row, Trail, generate},
};

const PLAIN: [Dimension; 6] =
    [Dimension::Tool, Dimension::Key, Dimension::Team, Dimension::Upstream, Dimension::Outcome, Dimension::Model];

fn everything(group_by: Vec<Dimension>) -> CostQuery {
    let (from, to) = (now() - TimeDelta::days(60), now());
    let (key_id, team_id, tool_id, upstream_id, outcome) = (None, None, None, None, None);
    CostQuery { from, to, group_by, key_id, team_id, tool_id, upstream_id, outcome, top: None, compare: None }
}

async fn report(store: &Store, trail: &Trail, query: &CostQuery) -> CostReport {
    costs::report(store, trail.tenant, query).await.unwrap()
}

fn add(sums: &mut Sums, row: &Row) {
    sums.calls += 1;
    sums.errors += i64::from(row.outcome.is_some_and(Outcome::is_error));
    sums.amount += row.amount.map_or(0, i128::from);
}

/// A group, as ids, words and the start of the time.
type Group = (Vec<Option<Uuid>>, Vec<Option<String>>, Option<DateTime<Utc>>);

fn start(dimension: Dimension, at: DateTime<Utc>) -> DateTime<Utc> {
    let hour = at.with_minute(0).unwrap().with_second(0).unwrap().with_nanosecond(0).unwrap();
    match dimension {
        Dimension::Hour => hour,
        Dimension::Day => hour.with_hour(0).unwrap(),
        _ => hour.with_hour(0).unwrap().with_day(1).unwrap(),
    }
}

fn group_of_row(row: &Row, group_by: &[Dimension]) -> Group {
    let mut group = Group::default();
    for dimension in group_by {
        match dimension {
            Dimension::Tool => group.0.push(row.tool.map(Into::into)),
            Dimension::Key => group.0.push(Some(row.key.into())),
            Dimension::Team => group.0.push(row.team.map(Into::into)),
            Dimension::Upstream => group.0.push(row.upstream.map(Into::into)),
            Dimension::Outcome => group.1.push(row.outcome.map(|o| o.to_string())),
            Dimension::Model => group.1.push(row.model.map(str::to_owned)),
            time => group.2 = Some(start(*time, row.opened_at)),
        }
    }
    group
}

fn group_of_line(line: &CostLine, group_by: &[Dimension]) -> Group {
    let mut group = Group::default();
    for dimension in group_by {
        match dimension {
            Dimension::Tool => group.0.push(line.tool.as_ref().map(|t| t.0.into())),
            Dimension::Key => group.0.push(line.key.as_ref().map(|t| t.0.into())),
            Dimension::Team => group.0.push(line.team.as_ref().map(|t| t.0.into())),
            Dimension::Upstream => group.0.push(line.upstream.as_ref().map(|t| t.0.into())),
            Dimension::Outcome => group.1.push(line.outcome.clone()),
            Dimension::Model => group.1.push(line.model.clone()),
            _ => group.2 = line.time,
        }
    }
    group
}

/// As `percentile_disc` has it: the smallest latency that at least this share of calls does not exceed.
pub fn percentile(latencies: &mut [i64], hundredths: usize) -> Option<i64> {
    latencies.sort_unstable();
    let place = (latencies.len() * hundredths).div_ceil(100);
    latencies.get(place.saturating_sub(1)).copied()
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn every_grouping_sums_up_to_the_rows(pool: PgPool) {
    let trail = generate(&pool, 240).await;
    let store = Store::from_pool(pool);
    let mut total = Sums::default();
    trail.rows.iter().for_each(|row| add(&mut total, row));
    assert!(total.amount > i128::from(i64::MAX), "the sum leaves 64 bits");
    sums_up(&store, &trail, total).await;
    rollup::build(&store, trail.tenant).await.unwrap();
    sums_up(&store, &trail, total).await;
}

/// Whether nobody has counted yet or everything is counted.
async fn sums_up(store: &Store, trail: &Trail, total: Sums) {
    let times = [None, Some(Dimension::Hour), Some(Dimension::Day), Some(Dimension::Month)];
    for mask in 0..1 << PLAIN.len() {
        for time in times {
            let mut group_by: Vec<Dimension> =
                (0..PLAIN.len()).filter(|bit| mask >> bit & 1 == 1).map(|bit| PLAIN[bit]).collect();
            group_by.extend(time);
            let mut expected: HashMap<Group, (Sums, Vec<i64>)> = HashMap::new();
            for row in &trail.rows {
                let group = expected.entry(group_of_row(row, &group_by)).or_default();
                add(&mut group.0, row);
                group.1.extend(row.latency);
            }
            let found = report(store, trail, &everything(group_by.clone())).await;
            assert_eq!(found.total, total, "{group_by:?}");
            assert_eq!(found.lines.len(), expected.len(), "{group_by:?}");
            for line in &found.lines {
                let (sums, latencies) = expected.get_mut(&group_of_line(line, &group_by)).unwrap();
                assert_eq!(line.sums, *sums, "{group_by:?}");
                assert_near(line.latency_p50_us, percentile(latencies, 50));
                assert_near(line.latency_p99_us, percentile(latencies, 99));
            }
        }
    }
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn filters_and_the_range_are_those_of_the_list_of_calls(pool: PgPool) {
    let trail = generate(&pool, 200).await;
    let store = Store::from_pool(pool);
    let one = trail.rows.iter().find(|r| r.team.is_some() && r.tool.is_some() && r.outcome == Some(Outcome::Ok)).unwrap();
    let (from, to) = (trail.rows[50].opened_at, trail.rows[150].opened_at);
    let base = || everything(vec![Dimension::Day]);
    type Matches<'a> = Box<dyn Fn(&Row) -> bool + 'a>;
    let cases: Vec<(CostQuery, Matches<'_>)> = vec![
        (CostQuery { from, to, ..base() }, Box::new(|r| (from..to).contains(&r.opened_at))),
        (CostQuery { key_id: Some(one.key), ..base() }, Box::new(|r| r.key == one.key)),
        (CostQuery { team_id: one.team, ..base() }, Box::new(|r| r.team == one.team)),
        (CostQuery { tool_id: one.tool, ..base() }, Box::new(|r| r.tool == one.tool)),
        (CostQuery { upstream_id: one.upstream, ..base() }, Box::new(|r| r.upstream == one.upstream)),
        (CostQuery { outcome: Some(Outcome::Ok), ..base() }, Box::new(|r| r.outcome == Some(Outcome::Ok))),
        (CostQuery { from: to, to: from, ..base() }, Box::new(|_| false)),
    ];
    for (build, (query, matches)) in [false, true].into_iter().flat_map(|build| cases.iter().map(move |case| (build, case))) {
        if build {
            rollup::build(&store, trail.tenant).await.unwrap();
        }
        let mut total = Sums::default();
        trail.rows.iter().filter(|row| matches(row)).for_each(|row| add(&mut total, row));
        assert_eq!(report(&store, &trail, query).await.total, total, "{query:?}");
    }
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn names_are_given_where_they_are_known_and_the_dearest_comes_first(pool: PgPool) {
    let trail = generate(&pool, 200).await;
    let store = Store::from_pool(pool);
    let keys = report(&store, &trail, &everything(vec![Dimension::Key, Dimension::Team])).await.lines;
    assert!(keys.iter().any(|l| l.key.as_ref().unwrap().1.as_deref() == Some("agent")));
    assert!(keys.iter().any(|l| l.key.as_ref().unwrap().1.is_none()), "a key that is gone has no name");
    assert!(keys.iter().any(|l| l.team.as_ref().is_some_and(|t| t.1.as_deref() == Some("sales"))));
    let tools = report(&store, &trail, &everything(vec![Dimension::Tool])).await.lines;
    assert_eq!(tools.len(), 5, "calls of unknown tools are one group");
    assert!(tools.windows(2).all(|pair| pair[0].sums.amount >= pair[1].sums.amount));
    for line in tools {
        assert!(line.tool.is_none_or(|(id, name)| name == Some(id.to_string())));
    }
    let empty = CostQuery { from: now(), ..everything(vec![]) };
    let empty = report(&store, &trail, &empty).await;
    assert_eq!((empty.total, empty.currency.as_str()), (Sums::default(), "USD"));
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn a_report_agrees_with_the_view_that_everyone_else_reads(pool: PgPool) {
    let trail = generate(&pool, 200).await;
    let (calls, amount): (i64, String) =
        sqlx::query_as("SELECT count(*), sum(amount_picos)::text FROM tool_calls WHERE tenant_id = $1")
            .bind(trail.tenant.uuid())
            .fetch_one(&pool)
            .await
            .unwrap();
    let found = report(&Store::from_pool(pool), &trail, &everything(vec![])).await;
    assert_eq!((found.total.calls, found.total.amount.to_string()), (calls, amount));
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn too_many_groups_are_refused_with_advice(pool: PgPool) {
    let trail = generate(&pool, 1).await;
    sqlx::query(
        "INSERT INTO tool_call_events (tenant_id, call_id, kind, at, llm_request_id, key_id, tool_name, decision)
         SELECT $1, (left(tollgate_uuid_floor($2)::text, 24) || lpad(n::text, 12, '0'))::uuid, 0, $2, $1,
                ('00000000-0000-0000-0000-' || lpad(n::text, 12, '0'))::uuid, 't', 'permitted'
         FROM generate_series(1, 10001) n",
    )
    .bind(trail.tenant.uuid())
    .bind(now() - TimeDelta::days(1))
    .execute(&pool)
    .await
    .unwrap();
    let store = Store::from_pool(pool);
    let refused = costs::report(&store, trail.tenant, &everything(vec![Dimension::Key])).await.unwrap_err().to_string();
    assert!(refused.contains("more than 10000 groups"), "{refused}");
    assert_eq!(report(&store, &trail, &everything(vec![Dimension::Day])).await.total.calls, 10_002);
}
