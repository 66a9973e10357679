//! Rollups in single cases: what breaks them, what is dropped, who is shown and what is compared.

use std::collections::BTreeSet;

use chrono::DateTime;
use sqlx::PgPool;
use tollgate_domain::{CreditId, KeyId, LlmRequestId, Outcome, TenantId, TimeZone, ToolId, llm_price::Usage, policy::Reason};
use tollgate_store::{
    Actor, Store,
    audit::{AuditWriter, Completion, Entry, Intent, LlmEnd, NewRequest},
    costs::{self, CostQuery, Dimension, LlmSums, MAX_GROUPS, PATIENCE, Reading, Sums, rollup},
    retention, tenants,
};

use crate::{
    id_at,
    rollups::{Dice, Play, assert_equal, assert_no_drift, at, everything, plus, trail},
    support::{QUEUE, Who, now, seal_all, tenant},
    tamper,
};

/// One tenant with a few sealed calls at each of these times.
async fn calls_at(pool: &PgPool, zone: &str, times: &[(&str, usize)]) -> (Store, Who) {
    let store = Store::from_pool(pool.clone());
    let who = Who::new(tenant(pool).await);
    sqlx::query("UPDATE tenants SET time_zone = $2 WHERE tenant_id = $1")
        .bind(who.tenant.uuid())
        .bind(zone)
        .execute(pool)
        .await
        .unwrap();
    rollup::build(&store, who.tenant).await.unwrap();
    let audit = AuditWriter::start(&store, QUEUE);
    audit.before(Entry { request: Some(who.request()), ..Entry::default() }).await.unwrap();
    for (time, calls) in times {
        for _ in 0..*calls {
            let intent = Intent { id: id_at(at(time)), at: at(time), ..who.intent("{}") };
            let completions = vec![who.completion(intent.id, Outcome::Ok, b"{}")];
            audit.after(Entry { intent: Some(intent), completions, ..Entry::default() }).await.unwrap();
        }
    }
    seal_all(&store).await;
    (store, who)
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn t63_a_broken_sum_is_found_told_and_made_anew(pool: PgPool) {
    let (store, who) = calls_at(&pool, "Asia/Kathmandu", &[("2026-11-20T10:00:00Z", 3), ("2026-11-21T10:00:00Z", 2)]).await;
    let id = id_at(at("2026-11-20T11:00:00Z"));
    let mut play = Play::new(pool.clone(), 5).await;
    let (request, end) = (play.forwarded(&who, id, None), play.end(who.tenant, id));
    let entry = Entry { request: Some(request), llm_ends: vec![end], ..Entry::default() };
    AuditWriter::start(&store, QUEUE).before(entry).await.unwrap();
    seal_all(&store).await;
    assert_no_drift(&store, who.tenant).await;
    for (sql, calls) in [
        ("UPDATE cost_quarters SET calls = calls + 1 WHERE face = 0 AND calls = 3", 1),
        ("UPDATE cost_quarters SET amount = amount - 1 WHERE face = 1 AND calls = 3", 0),
        ("UPDATE cost_quarters SET latency = latency || '\\x000100000001' WHERE face = 2 AND calls = 3", 0),
        ("UPDATE cost_quarters SET tokens = 5 WHERE face = 2 AND calls = 3", 0),
        ("UPDATE cost_quarters SET tokens = 5 WHERE face = 4 AND calls = 3", 0),
        ("UPDATE cost_days SET tokens = 5 WHERE face = 4 AND calls = 3", 0),
        ("UPDATE cost_quarters SET llm_amount = 5 WHERE face = 2 AND calls = 3", 0),
        ("UPDATE cost_quarters SET llm_amount = 5 WHERE face = 4 AND calls = 3", 0),
        ("UPDATE cost_quarters SET cached_tokens = NULL WHERE face = 2 AND requests = 1", 0),
        ("UPDATE cost_quarters SET requests = 2 WHERE face = 4 AND requests = 1", 0),
        ("UPDATE cost_days SET output_tokens = 0 WHERE face = 2 AND requests = 1", 0),
        ("DELETE FROM cost_quarters WHERE calls = 2", -2),
        ("UPDATE cost_days SET calls = calls * 2 WHERE face = 3 AND calls = 3", 0),
        ("DELETE FROM cost_days", 0),
    ] {
        tamper(&pool, sql).await;
        let rounds = [now(), now()].map(|now| rollup::check_round(&store, now));
        let mut found = Vec::new();
        for round in rounds {
            found.extend(round.await.unwrap().into_iter().filter_map(|checked| checked.drift));
        }
        assert_eq!(found.iter().map(|drift| drift.calls).sum::<i64>(), calls, "{sql}: {found:?}");
        assert!(found.iter().all(|drift| drift.sums > 0) && !found.is_empty(), "{sql}: {found:?}");
        assert_no_drift(&store, who.tenant).await;
        let query = everything(vec![Dimension::Day, Dimension::Key, Dimension::Tool]);
        let report = costs::report(&store, who.tenant, &query).await.unwrap();
        assert_equal(&report, &trail(&pool, who.tenant).await, &query, "Asia/Kathmandu".parse().unwrap());
    }
    let told: i64 = sqlx::query_scalar("SELECT count(*) FROM admin_events WHERE action = 'costs.drift' AND tenant_id = $1")
        .bind(who.tenant.uuid())
        .fetch_one(&pool)
        .await
        .unwrap();
    assert!(told >= 12, "{told}");
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn t62_what_cannot_be_counted_is_sealed_all_the_same(pool: PgPool) {
    let (store, who) = calls_at(&pool, "UTC", &[("2026-11-20T10:00:00Z", 3)]).await;
    let (_, other) = calls_at(&pool, "UTC", &[("2026-11-20T10:00:00Z", 1)]).await;
    // The database has been moved to a machine that knows fewer time zones.
    tamper(&pool, &format!("UPDATE cost_states SET zone = 'Mars/Olympus' WHERE tenant_id = '{}'", who.tenant.uuid())).await;
    let audit = AuditWriter::start(&store, QUEUE);
    audit.before(Entry { intent: Some(who.intent("{}")), ..Entry::default() }).await.unwrap();
    // In the same round, and it is nothing to the other.
    audit.before(Entry { intent: Some(other.intent("{}")), ..Entry::default() }).await.unwrap();
    assert_eq!(seal_all(&store).await.entries, 2);
    let uncounted = rollup::uncounted(&store).await.unwrap();
    assert_eq!(uncounted, [who.tenant], "and nobody else: {}", other.tenant);
    assert_no_drift(&store, other.tenant).await;
    let query = everything(vec![Dimension::Outcome]);
    let report = || async { costs::report(&store, who.tenant, &query).await.unwrap() };
    assert_equal(&report().await, &trail(&pool, who.tenant).await, &query, TimeZone::UTC);
    assert!(rollup::build(&store, who.tenant).await.is_err());
    tamper(&pool, "UPDATE cost_states SET zone = 'UTC'").await;
    rollup::build(&store, who.tenant).await.unwrap();
    assert_eq!(rollup::uncounted(&store).await.unwrap(), []);
    assert_no_drift(&store, who.tenant).await;
    assert_equal(&report().await, &trail(&pool, who.tenant).await, &query, TimeZone::UTC);
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn t63_what_retention_drops_keeps_its_sums(pool: PgPool) {
    for month in ["2026-09-05", "2026-10-05", "2026-11-05"] {
        let ensure = sqlx::query("SELECT tollgate_ensure_partitions($1::timestamptz)").bind(at(&format!("{month}T00:00:00Z")));
        ensure.execute(&pool).await.unwrap();
    }
    let (store, who) = calls_at(&pool, "Europe/Berlin", &[("2026-09-20T10:07:00Z", 4), ("2026-11-21T10:00:00Z", 2)]).await;
    let report = || async { costs::report(&store, who.tenant, &everything(vec![Dimension::Month])).await.unwrap() };
    let before = report().await;
    sqlx::query("INSERT INTO audit_settings (tenant_id, retention_days, updated_at) VALUES ($1, 30, now())")
        .bind(who.tenant.uuid())
        .execute(&pool)
        .await
        .unwrap();
    let gone = retention::run(&store, at("2026-11-28T00:00:00Z")).await.unwrap();
    assert_eq!(gone.len(), 1, "{gone:?}");
    assert_eq!(trail(&pool, who.tenant).await.len(), 2);
    let after = report().await;
    assert_eq!((after.lines, after.total.calls), (before.lines, 6));
    for _ in 0..4 {
        let checked = rollup::check_round(&store, at("2026-11-28T00:00:00Z")).await.unwrap();
        assert!(checked.iter().all(|checked| checked.drift.is_none()), "{checked:?}");
    }
    assert_eq!(report().await.total.calls, 6);
}

/// A provider says that it has counted all tokens that there are: once, and again.
#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn counts_that_are_absurd_break_nothing(pool: PgPool) {
    const MOST: i64 = 1 << 40;
    let (store, who) = calls_at(&pool, "UTC", &[("2026-11-20T10:00:00Z", 1)]).await;
    let (_, other) = calls_at(&pool, "UTC", &[("2026-11-20T10:00:00Z", 1)]).await;
    let audit = AuditWriter::start(&store, QUEUE);
    let mut play = Play::new(pool.clone(), 11).await;
    let query = everything(vec![Dimension::Day]);
    let llm = |tenant: TenantId| {
        let (store, query) = (store.clone(), query.clone());
        async move { costs::report(&store, tenant, &query).await.unwrap().llm.unwrap() }
    };
    let is_counted = || async {
        let uncounted = rollup::uncounted(&store).await.unwrap();
        ![who.tenant, other.tenant].iter().any(|tenant| uncounted.contains(tenant))
    };
    for (n, tokens) in [(1, u64::MAX), (2, u64::MAX), (3, 5)] {
        for who in [&who, &other] {
            let id = id_at(at("2026-11-20T11:00:00Z"));
            let mine = if who.tenant == other.tenant { 5 } else { tokens };
            let usage = Usage { input: mine, cached_input: mine, cache_write: 0, output: mine, reasoning: mine };
            let end = LlmEnd { usage, ..play.end(who.tenant, id) };
            let request = NewRequest { model: Some("m".to_owned()), ..play.forwarded(who, id, None) };
            audit.before(Entry { request: Some(request), llm_ends: vec![end], ..Entry::default() }).await.unwrap();
        }
        let waiting = llm(who.tenant).await;
        seal_all(&store).await;
        assert!(is_counted().await, "after {n}");
        let LlmSums { requests, input_tokens, reasoning_tokens, .. } = llm(who.tenant).await;
        let told = (MOST * n.min(2) + if n > 2 { 5 } else { 0 }, n);
        assert_eq!((input_tokens, reasoning_tokens, requests), (told.0, told.0, told.1));
        assert_eq!(waiting, llm(who.tenant).await, "and so it was before it was counted");
        assert_eq!(llm(other.tenant).await.output_tokens, 5 * n);
    }
    assert_no_drift(&store, who.tenant).await;
    assert_no_drift(&store, other.tenant).await;

    // Sums that are there already, from before it was known that there are such counts.
    for table in ["cost_quarters", "cost_days"] {
        tamper(&pool, &format!("UPDATE {table} SET input_tokens = 9223372036854775807 WHERE requests > 0")).await;
    }
    let id = id_at(at("2026-11-20T12:00:00Z"));
    let entry =
        Entry { request: Some(play.forwarded(&who, id, None)), llm_ends: vec![play.end(who.tenant, id)], ..Entry::default() };
    audit.before(entry).await.unwrap();
    let id = id_at(at("2026-11-20T11:00:00Z"));
    let request = NewRequest { model: Some("m".to_owned()), team: None, ..play.forwarded(&who, id, None) };
    audit.before(Entry { request: Some(request), llm_ends: vec![play.end(who.tenant, id)], ..Entry::default() }).await.unwrap();
    seal_all(&store).await;
    assert!(is_counted().await);
    assert_eq!(llm(who.tenant).await.input_tokens, i64::MAX);
    for _ in 0..2 {
        rollup::check_round(&store, at("2026-11-21T00:00:00Z")).await.unwrap();
    }
    assert_no_drift(&store, who.tenant).await;
    let input = llm(who.tenant).await.input_tokens;
    assert!((2 * MOST + 5..2 * MOST + 300_000).contains(&input), "made anew from the rows: {input}");
}

/// Whoever asks for models that there are not makes no groups of them, nor do calls under such a request.
#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn a_refused_request_has_no_model_in_reports(pool: PgPool) {
    let (store, who) = calls_at(&pool, "UTC", &[("2026-11-20T10:00:00Z", 1)]).await;
    let audit = AuditWriter::start(&store, QUEUE);
    let mut play = Play::new(pool.clone(), 13).await;
    for n in 0..4 {
        let id = id_at(at("2026-11-20T11:00:00Z"));
        let refused = (n > 0).then_some(Reason::UnknownModel);
        let request = NewRequest { model: Some(format!("made-up-{n}")), ..play.forwarded(&who, id, refused) };
        let intent = Intent { id: id_at(at("2026-11-20T11:00:00Z")), request: id, ..who.intent("{}") };
        audit.before(Entry { request: Some(request), intent: Some(intent), ..Entry::default() }).await.unwrap();
    }
    let query = everything(vec![Dimension::Model]);
    let told = || async {
        let report = costs::report(&store, who.tenant, &query).await.unwrap();
        assert_equal(&report, &trail(&pool, who.tenant).await, &query, TimeZone::UTC);
        report.lines.into_iter().map(|line| (line.model, line.sums.calls, line.llm.unwrap().requests)).collect::<BTreeSet<_>>()
    };
    let expected = BTreeSet::from([(None, 4, 3), (Some("made-up-0".to_owned()), 1, 1)]);
    assert_eq!(told().await, expected, "while they wait for their place");
    seal_all(&store).await;
    assert_eq!(told().await, expected, "counted");
    assert_no_drift(&store, who.tenant).await;
    tamper(&pool, "UPDATE cost_states SET counted_from = 'ffffffff-ffff-ffff-ffff-ffffffffffff'").await;
    assert_eq!(told().await, expected, "from the rows");
    rollup::build(&store, who.tenant).await.unwrap();
    assert_eq!(told().await, expected, "counted anew");
}

/// Of months that retention has dropped, the sums are all that there is: they are told whatever becomes of the others.
#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn sums_of_dropped_months_outlive_those_of_the_others(pool: PgPool) {
    for month in ["2026-09-05", "2026-10-05", "2026-11-05"] {
        let ensure = sqlx::query("SELECT tollgate_ensure_partitions($1::timestamptz)").bind(at(&format!("{month}T00:00:00Z")));
        ensure.execute(&pool).await.unwrap();
    }
    let times = [("2026-09-20T10:07:00Z", 4), ("2026-10-02T10:00:00Z", 1), ("2026-11-21T10:00:00Z", 2)];
    let (store, who) = calls_at(&pool, "Europe/Berlin", &times).await;
    let (_, stays) = calls_at(&pool, "UTC", &times).await;
    let ask = |group_by: Vec<Dimension>, from: &'static str| {
        let (store, tenant) = (store.clone(), who.tenant);
        async move {
            let query = CostQuery { from: at(from), ..everything(group_by) };
            costs::report(&store, tenant, &query).await.unwrap()
        }
    };
    // From the middle of a quarter, too: what of it is dropped cannot be told apart any more.
    let asks = || async {
        let mut told = Vec::new();
        for by in [Dimension::Month, Dimension::Key, Dimension::Tool, Dimension::Hour, Dimension::Model] {
            told.push(ask(vec![by, Dimension::Outcome], "2026-01-01T00:00:00Z").await.lines);
        }
        told.push(ask(vec![Dimension::Day, Dimension::Tool, Dimension::Key], "2026-09-20T10:00:00Z").await.lines);
        told.push(ask(vec![], "2026-09-20T10:01:00Z").await.lines);
        told
    };
    let give_up = || async {
        let sql = "SELECT tollgate_cost_give_up(ARRAY[$1])";
        sqlx::query(sql).bind(who.tenant.uuid()).execute(&pool).await.unwrap();
    };
    let retention = "INSERT INTO audit_settings (tenant_id, retention_days, updated_at) VALUES ($1, 30, now())";
    sqlx::query(retention).bind(who.tenant.uuid()).execute(&pool).await.unwrap();
    // Not before all of it is counted.
    give_up().await;
    assert_eq!(retention::run(&store, at("2026-11-28T00:00:00Z")).await.unwrap(), []);
    rollup::build(&store, who.tenant).await.unwrap();
    assert_eq!(retention::run(&store, at("2026-11-28T00:00:00Z")).await.unwrap().len(), 1);
    // The rows of the others were copied, in a transaction whose events wait for their place: they are seen all the same.
    assert_no_drift(&store, stays.tenant).await;
    seal_all(&store).await;
    let all = asks().await;
    assert_eq!(all[0].iter().map(|line| line.sums.calls).collect::<Vec<_>>(), [4, 1, 2]);
    assert_eq!(all[6][0].sums.calls, 3, "{:?}", all[6]);

    give_up().await;
    assert_eq!(asks().await, all, "while nothing is counted");
    for _ in 0..10 {
        sqlx::query("SELECT tollgate_cost_build($1, 0)").bind(who.tenant.uuid()).execute(&pool).await.unwrap();
        assert_eq!(asks().await, all, "while it is counted anew");
    }
    assert_eq!(rollup::uncounted(&store).await.unwrap(), [who.tenant], "its days are not cut");
    rollup::build(&store, who.tenant).await.unwrap();
    assert_eq!((asks().await, rollup::uncounted(&store).await.unwrap()), (all.clone(), vec![]));
    assert_no_drift(&store, who.tenant).await;
    // The sealer has been away for long.
    let wait = "INSERT INTO audit_batches (writer_id, sequence, at, previous, root, key_id, signature, entries)
                VALUES (gen_random_uuid(), 1, now(), '', '', '', '', decode(repeat('00', 69 * 200001), 'hex'))";
    sqlx::query(wait).execute(&pool).await.unwrap();
    assert_eq!(asks().await, all, "while too much waits");
}

/// A move to another time zone takes a moment, however much there is to cut; a report is right meanwhile.
#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn days_are_cut_in_steps_after_a_move(pool: PgPool) {
    let times = [("2026-11-02T23:30:00Z", 1), ("2026-11-10T23:30:00Z", 2), ("2026-11-20T23:30:00Z", 3)];
    let (store, who) = calls_at(&pool, "UTC", &times).await;
    let days = || async {
        let sql = "SELECT array_agg(DISTINCT day::text ORDER BY day::text) FROM cost_days WHERE face = 3";
        sqlx::query_scalar::<_, Vec<String>>(sql).fetch_one(&pool).await.unwrap()
    };
    let right = |zone: &'static str| {
        let (store, pool, tenant) = (store.clone(), pool.clone(), who.tenant);
        async move {
            let query = everything(vec![Dimension::Day, Dimension::Key]);
            let report = costs::report(&store, tenant, &query).await.unwrap();
            assert_equal(&report, &trail(&pool, tenant).await, &query, zone.parse().unwrap());
        }
    };
    let mut change = store.change(who.tenant, Actor::system("test"), now()).await.unwrap();
    let row = tenants::lock(&mut change).await.unwrap();
    tenants::update(&mut change, tenants::Tenant { zone: "Europe/Berlin".parse().unwrap(), ..row }).await.unwrap();
    change.commit().await.unwrap();
    assert_eq!(days().await, ["2026-11-02", "2026-11-10", "2026-11-20"], "as they were");
    right("Europe/Berlin").await;
    assert_no_drift(&store, who.tenant).await;
    // What comes meanwhile is in the days of the new zone, and once.
    let intent = Intent { id: id_at(at("2026-11-20T23:40:00Z")), ..who.intent("{}") };
    AuditWriter::start(&store, QUEUE).before(Entry { intent: Some(intent), ..Entry::default() }).await.unwrap();
    seal_all(&store).await;
    for (more, cut) in [(true, "02 10 20 21"), (true, "02 11 21"), (false, "03 11 21")] {
        let some = sqlx::query_scalar::<_, bool>("SELECT tollgate_cost_recut_some($1, 1)").bind(who.tenant.uuid());
        assert_eq!(some.fetch_one(&pool).await.unwrap(), more);
        let found: Vec<String> = days().await.iter().map(|day| day.replace("2026-11-", "")).collect();
        assert_eq!(found.join(" "), cut);
        right("Europe/Berlin").await;
        assert_no_drift(&store, who.tenant).await;
    }
    assert_eq!(rollup::uncounted(&store).await.unwrap(), []);
}

/// What a FOCUS data set asks for beside calls.
#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn groups_without_requests_are_left_out_where_requests_are_asked_for(pool: PgPool) {
    let (store, who) = calls_at(&pool, "UTC", &[("2026-11-20T10:00:00Z", 3)]).await;
    let mut play = Play::new(pool.clone(), 17).await;
    let id: LlmRequestId = id_at(at("2026-11-21T11:00:00Z"));
    let request = play.forwarded(&who, id, None);
    AuditWriter::start(&store, QUEUE).before(Entry { request: Some(request), ..Entry::default() }).await.unwrap();
    let credit = "INSERT INTO credits (tenant_id, credit_id, amount_picos, reason, created_at, created_by) VALUES ($1, $2, 1, 'r', $3, 'x')";
    let credit = sqlx::query(credit).bind(who.tenant.uuid()).bind(CreditId::mint(now()).uuid());
    credit.bind(at("2026-11-19T11:00:00Z")).execute(&pool).await.unwrap();
    let query = everything(vec![Dimension::Day, Dimension::Key]);
    let mut reading = Reading::begin(&store, who.tenant, PATIENCE).await.unwrap();
    let lines = reading.requests(&query, MAX_GROUPS).await.unwrap().unwrap();
    assert_eq!(lines.iter().map(|line| line.llm.unwrap().requests).collect::<Vec<_>>(), [1]);
    assert_eq!(reading.lines(&query, 3).await.unwrap().unwrap().len(), 3);
    assert!(reading.lines(&query, 2).await.unwrap().is_none());
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn what_a_check_cannot_read_it_does_not_call_a_drift(pool: PgPool) {
    let (store, who) = calls_at(&pool, "UTC", &[("2026-11-20T10:00:00Z", 3)]).await;
    // The request goes with its month, and its calls of the next one stay: which model they were made by is not in the rows any more.
    tamper(&pool, "UPDATE cost_cells SET model = 'm1' WHERE face IN (0, 2, 4)").await;
    assert!(rollup::check(&store, who.tenant, DateTime::UNIX_EPOCH).await.unwrap().unwrap().drift.is_some());
    tamper(&pool, "DELETE FROM llm_requests").await;
    assert_eq!(rollup::check(&store, who.tenant, DateTime::UNIX_EPOCH).await.unwrap().unwrap().drift, None);
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn the_dearest_are_shown_and_the_others_are_one_line(pool: PgPool) {
    let trail = crate::trail::generate(&pool, 240).await;
    let store = Store::from_pool(pool.clone());
    for build in [false, true] {
        if build {
            rollup::build(&store, trail.tenant).await.unwrap();
        }
        let query = |group_by: &[Dimension], top| CostQuery { top, ..everything(group_by.to_vec()) };
        let ask = |query: CostQuery| {
            let store = store.clone();
            async move { costs::report(&store, trail.tenant, &query).await.unwrap() }
        };
        let all = ask(query(&[Dimension::Tool, Dimension::Key], None)).await;
        let top = ask(query(&[Dimension::Tool, Dimension::Key], Some(3))).await;
        assert_eq!(top.total, all.total);
        assert_eq!(top.lines[..3], all.lines[..3]);
        let [rest] = &top.lines[3..] else { panic!("{:?}", top.lines) };
        let others = all.lines[3..].iter().fold(Sums::default(), |sum, line| plus(sum, line.sums));
        assert_eq!((rest.rest, rest.sums, rest.tool.is_none()), (Some(all.lines.len() - 3), others, true));
        assert!(rest.latency_p50_us.is_some() && rest.latency_p99_us > rest.latency_p50_us);
        let enough = ask(query(&[Dimension::Tool], Some(50))).await;
        assert_eq!(enough.lines, ask(query(&[Dimension::Tool], None)).await.lines);

        // By month: the same groups in each, and a line of the others for each.
        let months = ask(query(&[Dimension::Tool, Dimension::Month], Some(2))).await;
        assert_eq!(months.total, all.total);
        let dearest: Vec<_> =
            ask(query(&[Dimension::Tool], Some(2))).await.lines.iter().filter_map(|line| line.tool.clone()).collect();
        assert!(months.lines.windows(2).all(|pair| pair[0].time <= pair[1].time));
        let mut rests = 0;
        for line in &months.lines {
            rests += usize::from(line.rest.is_some());
            assert!(line.rest.is_some() || dearest.contains(line.tool.as_ref().unwrap()), "{line:?}");
        }
        assert_eq!(rests, 2, "October and November");
    }
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn a_period_is_compared_with_the_one_before(pool: PgPool) {
    let times = [
        // October and November in Kathmandu begin at 18:15 of the day before.
        ("2026-09-30T18:14:59Z", 100),
        ("2026-09-30T18:15:00Z", 5),
        ("2026-10-31T18:14:59Z", 1),
        ("2026-10-31T18:15:00Z", 7),
        ("2026-11-30T18:15:00Z", 50),
    ];
    let (store, who) = calls_at(&pool, "Asia/Kathmandu", &times).await;
    let other = Who::new(who.tenant);
    let audit = AuditWriter::start(&store, QUEUE);
    for time in ["2026-10-10T00:00:00Z", "2026-10-11T00:00:00Z"] {
        let intent = Intent { id: id_at(at(time)), at: at(time), ..other.intent("{}") };
        audit.before(Entry { intent: Some(intent), ..Entry::default() }).await.unwrap();
    }
    let (from, to) = (at("2026-10-31T18:15:00Z"), at("2026-11-30T18:15:00Z"));
    let query = CostQuery { from, to, compare: Some(to), ..everything(vec![Dimension::Key]) };
    let report = costs::report(&store, who.tenant, &query).await.unwrap();
    let previous = report.previous.unwrap();
    assert_eq!((previous.from, previous.to), (at("2026-09-30T18:15:00Z"), from));
    assert_eq!((report.total.calls, previous.total.calls), (7, 8));
    let lines: Vec<_> =
        report.lines.iter().map(|l| (l.key.as_ref().unwrap().0, l.sums.calls, l.previous.unwrap().sums.calls)).collect();
    assert_eq!(lines, [(who.key, 7, 6), (other.key, 0, 2)], "who was there before and is gone is told as well");
    assert!(report.lines[0].previous.unwrap().latency_p50_us.is_some());
    assert_eq!(report.lines[0].previous.unwrap().sums.amount, 6 * 2_000_000_000);
    let top = costs::report(&store, who.tenant, &CostQuery { top: Some(1), ..query }).await.unwrap();
    assert_eq!((top.lines.len(), top.lines[1].rest, top.lines[1].previous.unwrap().sums.calls), (2, Some(1), 2));
}

/// How much longer a round of the sealer takes that counts: `cargo test ... -- --ignored --nocapture a_round_of_four_thousand`.
#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
#[ignore = "it measures, and asserts nothing"]
async fn a_round_of_four_thousand_entries(pool: PgPool) {
    let store = Store::from_pool(pool.clone());
    for (name, counted, tools, keys) in
        [("warm", false, 1, 1), ("uncounted", false, 100, 200), ("counted", true, 100, 200), ("counted, few cells", true, 3, 3)]
    {
        let who = Who::new(tenant(&pool).await);
        if counted {
            rollup::build(&store, who.tenant).await.unwrap();
        }
        let audit = AuditWriter::start(&store, QUEUE);
        audit.before(Entry { request: Some(who.request()), ..Entry::default() }).await.unwrap();
        let (tools, keys): (Vec<ToolId>, Vec<KeyId>) =
            ((0..tools).map(|_| ToolId::mint(now())).collect(), (0..keys).map(|_| KeyId::mint(now())).collect());
        let mut dice = Dice(99);
        let mut times = Vec::new();
        for _ in 0..7 {
            let mut tasks = Vec::new();
            for _ in 0..2000 {
                let intent = Intent { tool: Some(dice.pick(&tools)), key: dice.pick(&keys), ..who.intent("{}") };
                let completions = vec![Completion {
                    latency: std::time::Duration::from_micros(50_000 + dice.roll(100_000) as u64),
                    ..who.completion(intent.id, Outcome::Ok, b"{}")
                }];
                let audit = audit.clone();
                tasks.push(tokio::spawn(async move {
                    audit.after(Entry { intent: Some(intent), completions, ..Entry::default() }).await.unwrap()
                }));
            }
            for task in tasks {
                task.await.unwrap();
            }
            let begun = std::time::Instant::now();
            let round = tollgate_store::sealer::round(&store, now()).await.unwrap();
            times.push((begun.elapsed(), round.entries));
        }
        println!("{name}: {times:?}");
    }
}
