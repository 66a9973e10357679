//! Search against a plain reading of the same rows.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

mod support;

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgPool;
use support::now;
use tollgate_domain::{CallId, Decision, KeyId, Outcome, TenantId, ToolId, ids, search::Words};
use tollgate_store::{
    PageRequest, Store, StoreError,
    calls::{self, CallFilter, Slice, ToolCall},
    payload, requests, search,
};
use uuid::Uuid;

/// Small numbers that look random and are the same every time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from((self.0 >> 33) % sides).unwrap()
    }
}

#[derive(Debug, Clone)]
struct Row {
    id: CallId,
    key: KeyId,
    tool: ToolId,
    outcome: Option<Outcome>,
    decision: Decision,
    arguments: String,
    result: Option<String>,
}

fn id(n: u128) -> Uuid {
    Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0000 | n)
}

/// Call number `n`, a second after the one before it.
fn call(start: DateTime<Utc>, n: usize) -> CallId {
    let at = start + TimeDelta::seconds(i64::try_from(n).unwrap());
    Uuid::from_u128(ids::floor(at).as_u128() | 0x7000_8000_0000_0000_0000 | n as u128).into()
}

impl Row {
    fn new(id: CallId, arguments: impl Into<String>, result: impl Into<String>) -> Self {
        Self {
            id,
            key: self::id(1).into(),
            tool: self::id(2).into(),
            outcome: Some(Outcome::Ok),
            decision: Decision::Permitted,
            arguments: arguments.into(),
            result: Some(result.into()),
        }
    }

    fn says(&self, word: &str) -> bool {
        let text = format!("{} {}", self.arguments, self.result.as_deref().unwrap_or_default()).to_lowercase();
        text.split(|c: char| !c.is_alphanumeric()).any(|w| w == word)
    }
}

/// Write rows by columns. `partly`: the intents alone, as if their calls were still open.
async fn write(pool: &PgPool, tenant: TenantId, rows: &[Row], partly: bool) {
    for rows in rows.chunks(5000) {
        let ids: Vec<Uuid> = rows.iter().map(|r| r.id.uuid()).collect();
        let at_intent = |r: &Row| r.outcome.filter(|_| r.decision != Decision::Permitted).map(|o| o.as_str());
        sqlx::query(
            "INSERT INTO tool_call_events (tenant_id, call_id, kind, at, llm_request_id, key_id, tool_id, tool_name, decision, outcome)
             SELECT $1, c, 0, now(), $1, k, t, 't', d, o FROM UNNEST($2::uuid[], $3::uuid[], $4::uuid[], $5::text[], $6::text[]) n(c, k, t, d, o)",
        )
        .bind(tenant.uuid())
        .bind(&ids)
        .bind(rows.iter().map(|r| r.key.uuid()).collect::<Vec<_>>())
        .bind(rows.iter().map(|r| r.tool.uuid()).collect::<Vec<_>>())
        .bind(rows.iter().map(|r| r.decision.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(at_intent).collect::<Vec<_>>())
        .execute(pool)
        .await
        .unwrap();
        bodies(pool, tenant, 0, rows.iter().map(|r| (r.id, r.arguments.as_str()))).await;
        if !partly {
            complete(pool, tenant, rows).await;
        }
    }
}

async fn complete(pool: &PgPool, tenant: TenantId, rows: &[Row]) {
    let ended = || rows.iter().filter(|r| r.decision == Decision::Permitted && r.outcome.is_some());
    sqlx::query(
        "INSERT INTO tool_call_events (tenant_id, call_id, kind, at, outcome)
         SELECT $1, c, 1, now(), o FROM UNNEST($2::uuid[], $3::text[]) n(c, o)",
    )
    .bind(tenant.uuid())
    .bind(ended().map(|r| r.id.uuid()).collect::<Vec<_>>())
    .bind(ended().filter_map(|r| r.outcome).map(Outcome::as_str).collect::<Vec<_>>())
    .execute(pool)
    .await
    .unwrap();
    bodies(pool, tenant, 1, ended().filter_map(|r| Some((r.id, r.result.as_deref()?)))).await;
}

async fn bodies<'a>(pool: &PgPool, tenant: TenantId, kind: i16, texts: impl Iterator<Item = (CallId, &'a str)>) {
    let (ids, texts): (Vec<Uuid>, Vec<&str>) = texts.map(|(id, text)| (id.uuid(), text)).unzip();
    sqlx::query(
        "INSERT INTO tool_call_payloads (tenant_id, call_id, kind, size, body)
         SELECT $1, c, $2, s, b FROM UNNEST($3::uuid[], $4::int[], $5::bytea[]) n(c, s, b)",
    )
    .bind(tenant.uuid())
    .bind(kind)
    .bind(ids)
    .bind(texts.iter().map(|t| i32::try_from(t.len()).unwrap()).collect::<Vec<_>>())
    .bind(texts.iter().map(|t| payload::pack(t.as_bytes())).collect::<Vec<_>>())
    .execute(pool)
    .await
    .unwrap();
}

fn asking(q: &str) -> CallFilter {
    CallFilter { text: Some(Words::parse(q).unwrap()), ..CallFilter::default() }
}

async fn all(store: &Store, tenant: TenantId, filter: &CallFilter, limit: u32, ascending: bool) -> Vec<ToolCall> {
    let (mut found, mut after): (Vec<ToolCall>, Option<Uuid>) = (Vec::new(), None);
    loop {
        let mut tx = store.tenant_snapshot(tenant).await.unwrap();
        let slice = Slice { page: PageRequest { limit, after }, ascending };
        let page = calls::list(&mut tx, tenant, filter, slice).await.unwrap();
        assert!(page.items.len() <= limit as usize);
        found.extend(page.items);
        let Some(next) = page.next else { return found };
        assert!(after.is_none_or(|last| if ascending { next > last } else { next < last }), "a page goes on");
        after = Some(next);
    }
}

async fn found(store: &Store, tenant: TenantId, q: &str) -> Vec<CallId> {
    all(store, tenant, &asking(q), 100, true).await.into_iter().map(|c| c.id).collect()
}

async fn number(pool: &PgPool, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(pool).await.unwrap()
}

/// Calls that say nothing of interest.
fn filler(start: DateTime<Utc>, count: usize) -> Vec<Row> {
    (0..count).map(|n| Row::new(call(start, n), format!("{{\"n\":{n}}}"), "{\"ok\":true}")).collect()
}

const BLOCKS: &str = "SELECT count(*) FROM call_blocks";
const NOTES: &str = "SELECT count(*) FROM late_calls";

/// Notes are acted upon after a minute.
async fn a_minute_passes(pool: &PgPool) {
    sqlx::query("UPDATE late_calls SET noted_at = noted_at - interval '2 minutes'").execute(pool).await.unwrap();
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn a_call_is_found_by_what_it_says(pool: PgPool) {
    let (tenant, other, store) = (support::tenant(&pool).await, support::tenant(&pool).await, Store::from_pool(pool.clone()));
    let start = now() - TimeDelta::days(2);
    let mut rows = filler(start, 2500);
    // One in a block, one in the next, one in no block.
    for at in [700, 1500, 2400] {
        rows[at].arguments = r#"{"First_Name":"Zo\u00eb", "mail":"ada@Example.com", "id": 9007199254740993}"#.to_owned();
        rows[at].result = Some(serde_json::json!({"content": [{"text": "{\"Stra\\u00dfe\":\"B\\u00e4cker\"}"}]}).to_string());
    }
    let wanted = [rows[700].id, rows[1500].id, rows[2400].id];
    write(&pool, tenant, &rows, false).await;
    write(&pool, other, &rows[..10], false).await;
    for indexed in [false, true] {
        if indexed {
            assert_eq!(search::index_all(&store, tenant, now()).await.unwrap(), 2);
        }
        for q in
            ["zoë", "ZOË first", "first_name", "ada@example.com", "9007199254740993", "bäcker straße", "EXAMPLE.com zoë", "mail"]
        {
            assert_eq!(found(&store, tenant, q).await, wanted, "{q}, indexed: {indexed}");
        }
        for q in ["zo", "ada@com", "9007199254740992", "u00eb", "zoë nobody", "zoë.ada", "xn42"] {
            assert_eq!(found(&store, tenant, q).await, [], "{q}, indexed: {indexed}");
        }
        assert_eq!(found(&store, other, "zoë").await, []);
        assert_eq!(found(&store, tenant, "2404").await, [rows[2404].id]);
    }
    // Even where another tenant's blocks were asked for.
    let mut tx = store.tenant_snapshot(other).await.unwrap();
    let slice = Slice { page: PageRequest { limit: 10, after: None }, ascending: true };
    assert!(calls::list(&mut tx, tenant, &asking("zoë"), slice).await.unwrap().items.is_empty());
    // A parent's index serves as well.
    let by_parent = CallFilter { llm_request_id: Some(tenant.uuid().into()), ..asking("zoë") };
    assert_eq!(all(&store, tenant, &by_parent, 2, false).await.len(), 3);
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn blocks_that_cannot_hold_it_are_not_read(pool: PgPool) {
    let (tenant, store) = (support::tenant(&pool).await, Store::from_pool(pool.clone()));
    let mut rows = filler(now() - TimeDelta::days(2), 4096);
    rows[2000].outcome = Some(Outcome::Timeout);
    rows[2000].key = id(77).into();
    rows[3000].result = Some("{\"says\":\"needle\"}".to_owned());
    write(&pool, tenant, &rows, false).await;
    assert_eq!(search::index_some(&store, now(), 3).await.unwrap(), search::Indexed { blocks: 3, more: true });
    assert_eq!(search::index_some(&store, now(), 9).await.unwrap(), search::Indexed { blocks: 1, more: false });
    assert_eq!((number(&pool, BLOCKS).await, number(&pool, NOTES).await), (4, 0), "notes of what is indexed are done");
    let timeouts = CallFilter { outcome: Some(Outcome::Timeout), ..CallFilter::default() };
    let key = CallFilter { key_id: Some(id(77).into()), ..CallFilter::default() };
    let only = |calls: Vec<ToolCall>| calls.into_iter().map(|c| c.id).collect::<Vec<_>>();
    for (filter, at) in [(&timeouts, 2000), (&key, 2000), (&asking("needle"), 3000)] {
        assert_eq!(only(all(&store, tenant, filter, 10, false).await), [rows[at].id]);
    }
    // What was not suspected does not even have to be there: this is what makes it quick.
    let emptied = "UPDATE call_blocks SET filter = decode(repeat('00', 64), 'hex')";
    sqlx::query(emptied).execute(&pool).await.unwrap();
    for filter in [&timeouts, &key, &asking("needle")] {
        assert_eq!(only(all(&store, tenant, filter, 10, false).await), []);
    }
    sqlx::query("UPDATE call_blocks SET filter = ''").execute(&pool).await.unwrap();
    assert_eq!(
        only(all(&store, tenant, &asking("needle"), 10, false).await),
        [rows[3000].id],
        "an empty filter rules out nothing"
    );
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn what_comes_late_is_found_at_once_and_indexed_after(pool: PgPool) {
    let (tenant, store) = (support::tenant(&pool).await, Store::from_pool(pool.clone()));
    let start = now() - TimeDelta::days(1);
    let rows = filler(start, 1100);
    write(&pool, tenant, &rows[..1100], true).await;
    search::index_all(&store, tenant, now()).await.unwrap();
    let before: Vec<u8> = sqlx::query_scalar("SELECT filter FROM call_blocks").fetch_one(&pool).await.unwrap();
    assert_eq!(found(&store, tenant, "sesame").await, []);

    // The completion of a call that was open, and a call whose worker could not write for a day.
    let mut late = rows[500].clone();
    (late.result, late.outcome) = (Some("{\"open\":\"sesame\"}".to_owned()), Some(Outcome::ToolError));
    complete(&pool, tenant, &[late.clone()]).await;
    let mut unheard = Row::new(call(start, 500), "{\"open\":\"sesame\"}", "1");
    unheard.id = Uuid::from_u128(unheard.id.uuid().as_u128() + 1).into();
    write(&pool, tenant, &[unheard.clone()], false).await;
    let errors = CallFilter { outcome: Some(Outcome::ToolError), ..CallFilter::default() };
    for round in 0..3 {
        assert_eq!(found(&store, tenant, "sesame").await, [late.id, unheard.id], "round {round}");
        assert_eq!(all(&store, tenant, &errors, 5, false).await.len(), 1, "round {round}");
        if round == 0 {
            assert_eq!(search::index_some(&store, now(), 9).await.unwrap().blocks, 0, "notes come in groups");
            a_minute_passes(&pool).await;
            assert_eq!(search::index_some(&store, now(), 9).await.unwrap().blocks, 1);
        }
    }
    let after: Vec<u8> = sqlx::query_scalar("SELECT filter FROM call_blocks").fetch_one(&pool).await.unwrap();
    assert_ne!(before, after);
    assert_eq!(sqlx::query_scalar::<_, i32>("SELECT calls FROM call_blocks").fetch_one(&pool).await.unwrap(), 1025);
    let covered = "SELECT count(*) FROM late_calls WHERE call_id <= (SELECT last_call_id FROM call_blocks)";
    assert_eq!(number(&pool, covered).await, 0);

    // What is erased leaves the filter as well: it could be guessed otherwise.
    let mut tx = store.tenant(tenant).await.unwrap();
    sqlx::query("SET LOCAL ROLE tollgate_eraser").execute(&mut *tx).await.unwrap();
    sqlx::query("DELETE FROM tool_call_payloads WHERE call_id = ANY($1)")
        .bind(vec![late.id.uuid(), unheard.id.uuid()])
        .execute(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    assert_eq!(found(&store, tenant, "sesame").await, []);
    a_minute_passes(&pool).await;
    assert_eq!(search::index_some(&store, now(), 9).await.unwrap().blocks, 1);
    let erased: Vec<u8> = sqlx::query_scalar("SELECT filter FROM call_blocks").fetch_one(&pool).await.unwrap();
    assert!(!tollgate_domain::search::filter::may_hold(&erased, tollgate_domain::search::filter::token("sesame")));
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn calls_brought_in_later_divide_a_block(pool: PgPool) {
    let (tenant, store) = (support::tenant(&pool).await, Store::from_pool(pool.clone()));
    let start = now() - TimeDelta::days(3);
    let rows = filler(start, 22_000);
    write(&pool, tenant, &rows[20_900..], false).await;
    assert_eq!(search::index_all(&store, tenant, now()).await.unwrap(), 1);
    write(&pool, tenant, &rows[..20_900], false).await;
    assert_eq!(found(&store, tenant, "n 20001").await, [rows[20_001].id]);
    a_minute_passes(&pool).await;
    let mut steps = 0;
    while search::index_some(&store, now(), 1).await.unwrap().blocks > 0 {
        steps += 1;
        assert!(steps < 10);
        assert_eq!(found(&store, tenant, "20001").await, [rows[20_001].id], "step {steps}");
    }
    assert!(steps > 1);
    assert_eq!(
        (number(&pool, BLOCKS).await, number(&pool, "SELECT count(*) FROM call_blocks WHERE calls IS NULL").await),
        (11, 0)
    );
    let uncovered = number(
        &pool,
        "SELECT count(*) FROM tool_call_events e WHERE kind = 0 AND NOT EXISTS
        (SELECT FROM call_blocks b WHERE e.call_id BETWEEN b.first_call_id AND b.last_call_id)",
    )
    .await;
    assert_eq!(uncovered, 76);

    // What is no longer kept needs no block.
    support::tamper(&pool, &format!("DELETE FROM tool_call_events WHERE call_id < '{}'", rows[10_000].id.uuid())).await;
    write(&pool, tenant, &filler(start + TimeDelta::seconds(22_000), 1024), false).await;
    search::index_all(&store, tenant, now()).await.unwrap();
    let first: Uuid =
        sqlx::query_scalar("SELECT last_call_id FROM call_blocks ORDER BY 1 LIMIT 1").fetch_one(&pool).await.unwrap();
    assert!(first >= rows[10_000].id.uuid());
    assert_eq!(found(&store, tenant, "20001").await, [rows[20_001].id]);
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn young_calls_wait_whatever_the_workers_clock_says(pool: PgPool) {
    let (tenant, store) = (support::tenant(&pool).await, Store::from_pool(pool.clone()));
    let start = now() - TimeDelta::minutes(4) - TimeDelta::seconds(1020);
    write(&pool, tenant, &filler(start, 1060), false).await;
    assert_eq!(search::index_some(&store, now() + TimeDelta::days(1), 9).await.unwrap().blocks, 0, "the 1,024th is too young");
    support::tamper(&pool, "DELETE FROM tool_call_events").await;
    write(&pool, tenant, &filler(start - TimeDelta::seconds(10), 1060), false).await;
    assert_eq!(search::index_some(&store, now() - TimeDelta::days(1), 9).await.unwrap().blocks, 0);
    assert_eq!(search::index_some(&store, now(), 9).await.unwrap().blocks, 1);
    // While one worker indexes, another does not.
    let mut tx = store.control().await.unwrap();
    sqlx::query("SELECT pg_advisory_xact_lock(7420004)").execute(&mut *tx).await.unwrap();
    write(&pool, tenant, &filler(start - TimeDelta::days(1), 2048), false).await;
    a_minute_passes(&pool).await;
    assert_eq!(search::index_some(&store, now(), 9).await.unwrap(), search::Indexed::default());
    tx.rollback().await.unwrap();
    assert!(search::index_some(&store, now(), 9).await.unwrap().blocks > 0);
}

/// Random calls with random words, indexed in part, and every search compared with a reading of all rows.
#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn pages_hold_what_a_reading_of_all_rows_finds(pool: PgPool) {
    let (tenant, store) = (support::tenant(&pool).await, Store::from_pool(pool.clone()));
    let start = now() - TimeDelta::days(3);
    let mut dice = Dice(7);
    let rows: Vec<Row> = (0..4000).map(|n| random(&mut dice, call(start, n))).collect();
    // Two blocks; then calls and completions that come late; then a tail.
    write(&pool, tenant, &rows[..2600], true).await;
    complete(&pool, tenant, &rows[..1900]).await;
    search::index_all(&store, tenant, now()).await.unwrap();
    complete(&pool, tenant, &rows[1900..2600]).await;
    write(&pool, tenant, &rows[2600..], false).await;
    let rows: BTreeMap<CallId, Row> = rows.into_iter().map(|r| (r.id, r)).collect();
    let mut nonempty = 0;
    for round in 0..60 {
        if round == 20 {
            a_minute_passes(&pool).await;
        }
        if round == 20 || round == 40 {
            search::index_some(&store, now(), 2).await.unwrap();
        }
        let (words, filter) = ask(&mut dice, start);
        let matches = |r: &&Row| {
            words.iter().all(|w| r.says(w))
                && filter.key_id.is_none_or(|k| r.key == k)
                && filter.tool_id.is_none_or(|t| r.tool == t)
                && filter.outcome.is_none_or(|o| r.outcome == Some(o))
                && filter.decision.is_none_or(|d| r.decision == d)
                && filter.from.is_none_or(|from| r.id.uuid() >= ids::floor(from))
                && filter.to.is_none_or(|to| r.id.uuid() < ids::floor(to))
        };
        let mut expected: Vec<CallId> = rows.values().filter(matches).map(|r| r.id).collect();
        let ascending = dice.roll(2) == 0;
        if !ascending {
            expected.reverse();
        }
        nonempty += usize::from(!expected.is_empty());
        let limit =
            [1, 3, 50, 1000][dice.roll(if expected.len() > 200 { 2 } else { 4 }) + if expected.len() > 200 { 2 } else { 0 }];
        let calls = all(&store, tenant, &filter, limit, ascending).await;
        assert_eq!(calls.iter().map(|c| c.id).collect::<Vec<_>>(), expected, "round {round}: {words:?} {filter:?} {ascending}");
        assert!(calls.iter().all(|c| c.arguments.as_ref() == Some(&rows[&c.id].arguments) && c.result == rows[&c.id].result));
    }
    assert!(nonempty > 20, "{nonempty}");
}

fn word(dice: &mut Dice) -> String {
    // Few words are frequent, many are rare.
    let range = [4, 40, 4000][dice.roll(3)];
    format!("w{}", dice.roll(range))
}

fn random(dice: &mut Dice, call: CallId) -> Row {
    let mut row = Row::new(
        call,
        format!("{{\"a\":\"{} {}\"}}", word(dice), word(dice)),
        format!("[\"{}\",\"{}\"]", word(dice), word(dice)),
    );
    row.key = id(dice.roll(3) as u128).into();
    row.tool = id(100 + [dice.roll(3), dice.roll(500)][usize::from(dice.roll(20) == 0)] as u128).into();
    match dice.roll(40) {
        0 => (row.decision, row.outcome, row.result) = (Decision::Denied, Some(Outcome::Denied), None),
        1 => row.outcome = Some(Outcome::ToolError),
        2 => (row.outcome, row.result) = (None, None),
        _ => {}
    }
    row
}

fn ask(dice: &mut Dice, start: DateTime<Utc>) -> (Vec<String>, CallFilter) {
    let words: Vec<String> = (0..dice.roll(3)).map(|_| word(dice)).collect();
    let mut filter = if words.is_empty() { CallFilter::default() } else { asking(&words.join(" ").to_uppercase()) };
    let at = |dice: &mut Dice| start + TimeDelta::seconds(i64::try_from(dice.roll(4200)).unwrap());
    match dice.roll(6) {
        0 => filter.key_id = Some(id(dice.roll(4) as u128).into()),
        1 => filter.tool_id = Some(id(100 + dice.roll(500) as u128).into()),
        2 => filter.outcome = Some([Outcome::Denied, Outcome::ToolError, Outcome::Timeout][dice.roll(3)]),
        3 => filter.decision = Some(Decision::Denied),
        _ => {}
    }
    if dice.roll(2) == 0 {
        filter.from = Some(at(dice));
    }
    if dice.roll(2) == 0 {
        filter.to = Some(at(dice));
    }
    (words, filter)
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn pages_stay_whole_while_calls_arrive(pool: PgPool) {
    let (tenant, store) = (support::tenant(&pool).await, Store::from_pool(pool.clone()));
    let start = now() - TimeDelta::days(1);
    let mut rows = filler(start, 3000);
    (0..3000).step_by(100).for_each(|n| rows[n].outcome = Some(Outcome::Timeout));
    write(&pool, tenant, &rows, false).await;
    let timeouts = CallFilter { outcome: Some(Outcome::Timeout), ..CallFilter::default() };
    let (mut found, mut after, mut page) = (Vec::new(), None, 0);
    loop {
        let mut tx = store.tenant_snapshot(tenant).await.unwrap();
        let slice = Slice { page: PageRequest { limit: 4, after }, ascending: false };
        let got = calls::list(&mut tx, tenant, &timeouts, slice).await.unwrap();
        drop(tx);
        found.extend(got.items.into_iter().map(|c| c.id));
        after = got.next;
        if after.is_none() {
            break;
        }
        page += 1;
        let mut new = filler(start + TimeDelta::seconds(3000 + page * 10), 5);
        new.iter_mut().for_each(|r| r.outcome = Some(Outcome::Timeout));
        write(&pool, tenant, &new, false).await;
        search::index_some(&store, now(), 1).await.unwrap();
    }
    let expected: Vec<CallId> = rows.iter().rev().filter(|r| r.outcome == Some(Outcome::Timeout)).map(|r| r.id).collect();
    assert_eq!(found, expected);
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn large_payloads_are_searched_and_left_out(pool: PgPool) {
    let (tenant, store) = (support::tenant(&pool).await, Store::from_pool(pool.clone()));
    let mut rows = filler(now() - TimeDelta::days(1), 1200);
    let noise: String = (0..30_000).map(|i| format!("x{i} ")).collect();
    rows[3].result = Some(serde_json::json!({"text": noise + "needle"}).to_string());
    write(&pool, tenant, &rows, false).await;
    for indexed in [false, true] {
        if indexed {
            search::index_all(&store, tenant, now()).await.unwrap();
        }
        let calls = all(&store, tenant, &asking("needle x29999"), 10, false).await;
        let seen: Vec<_> = calls.iter().map(|c| (c.id, c.truncated, c.arguments.is_some(), c.result.is_some())).collect();
        assert_eq!(seen, [(rows[3].id, true, true, false)]);
    }
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn parents_that_take_too_long_to_find_are_refused_with_advice(pool: PgPool) {
    let (tenant, store) = (support::tenant(&pool).await, Store::from_pool(pool.clone()));
    let mut lock = pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE tool_call_events").execute(&mut *lock).await.unwrap();
    let slice = Slice { page: PageRequest { limit: 10, after: None }, ascending: true };
    let filter = CallFilter { outcome: Some(Outcome::Timeout), ..CallFilter::default() };
    let mut tx = store.tenant_snapshot(tenant).await.unwrap();
    let refused = requests::list(&mut tx, tenant, &filter, slice).await.unwrap_err();
    assert!(
        matches!(&refused, StoreError::Invalid { pointer, message } if pointer == "?from" && message.contains("narrower")),
        "{refused:?}"
    );
    drop(tx);
    let mut tx = store.tenant_snapshot(tenant).await.unwrap();
    assert!(requests::list(&mut tx, tenant, &CallFilter::default(), slice).await.unwrap().items.is_empty());
}

/// Not a test of speed: how fast the index is built and read. Run by hand with `--ignored --nocapture`.
#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
#[ignore = "takes half a minute"]
async fn speed(pool: PgPool) {
    let (tenant, store) = (support::tenant(&pool).await, Store::from_pool(pool.clone()));
    sqlx::query("ALTER TABLE tool_call_events DISABLE TRIGGER late_call").execute(&pool).await.unwrap();
    let (start, mut dice) = (now() - TimeDelta::days(3), Dice(3));
    let mut rows: Vec<Row> = (0..50_000).map(|n| random(&mut dice, call(start, n))).collect();
    for row in &mut rows {
        let text: Vec<String> = (0..60).map(|_| word(&mut dice)).collect();
        row.result = Some(serde_json::json!({"content": [{"type": "text", "text": text.join(" ")}]}).to_string());
    }
    rows[777].arguments = "{\"say\":\"needle\"}".to_owned();
    rows[778].key = id(9999).into();
    write(&pool, tenant, &rows, false).await;
    sqlx::query("ANALYZE").execute(&pool).await.unwrap();
    let started = std::time::Instant::now();
    let blocks = search::index_all(&store, tenant, now()).await.unwrap();
    println!("{blocks} blocks in {:?}", started.elapsed());
    println!("bytes a block: {}", number(&pool, "SELECT avg(octet_length(filter))::bigint FROM call_blocks").await);
    let key = CallFilter { key_id: Some(id(9999).into()), ..CallFilter::default() };
    let frequent = CallFilter { outcome: Some(Outcome::Ok), ..CallFilter::default() };
    let cases = [
        ("rare word", asking("needle")),
        ("no such word", asking("haystack")),
        ("rare key", key),
        ("frequent outcome", frequent),
        ("frequent word", asking("w1")),
    ];
    for (name, filter) in cases {
        for _ in 0..2 {
            let started = std::time::Instant::now();
            let mut tx = store.tenant_snapshot(tenant).await.unwrap();
            let slice = Slice { page: PageRequest { limit: 50, after: None }, ascending: false };
            let page = calls::list(&mut tx, tenant, &filter, slice).await.unwrap();
            println!("{name}: {} found, {:?}, more: {}", page.items.len(), started.elapsed(), page.next.is_some());
        }
    }
}
