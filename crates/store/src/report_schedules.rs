//! Cost reports that are delivered by themselves: what of which period goes where, and what has become of it.
//!
//! A period is opened once, under the lock of its schedule, as a row; whoever takes that row delivers it and holds it for a while, by
//! the clock. A runner that was away for longer finds that the row is no longer its own, and writes nothing about it.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::types::Json;
use tollgate_domain::{KeyId, Outcome, ReportScheduleId, TeamId, TenantId, TimeZone, ToolId, UpstreamId, ids, zone::Calendar};
use uuid::Uuid;

use crate::{
    budgets::zone,
    change::{Actor, Change},
    error::{StoreError, StoreResult, word},
    page::{Page, PageRequest},
    tx::{Store, Tx},
};

/// How long after its end a period is told: by then nearly all of its calls have ended.
pub const SETTLE: TimeDelta = TimeDelta::minutes(15);
/// How long after its end a period is told in which calls or requests are open still: longer than anything may take to answer.
pub const LONGEST: TimeDelta = TimeDelta::minutes(135);
/// How long a report is tried, from its first try on.
pub const PATIENCE: TimeDelta = TimeDelta::days(1);
/// How long before its end a period is searched for what is open, where no worker says since when it has something open.
const SEARCHED: TimeDelta = TimeDelta::days(1);
/// Open ones that are counted.
const MOST_OPEN: i64 = 1000;
const FIRST_PAUSE: TimeDelta = TimeDelta::minutes(1);
const LONGEST_PAUSE: TimeDelta = TimeDelta::hours(4);
/// Periods that one look opens.
const OPENED: i64 = 100;

/// What a report sums up, as it is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ask {
    /// As the report's query spells it.
    pub group_by: String,
    pub key_id: Option<KeyId>,
    pub team_id: Option<TeamId>,
    pub tool_id: Option<ToolId>,
    pub upstream_id: Option<UpstreamId>,
    pub outcome: Option<Outcome>,
    pub top: Option<usize>,
}

#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Schedule {
    pub report_schedule_id: Uuid,
    pub name: String,
    pub every: String,
    pub ask: Json<Ask>,
    pub format: String,
    /// Of this and the next, one.
    pub destination: Option<String>,
    pub webhook: Option<String>,
    pub enabled: bool,
    pub next_start: DateTime<Utc>,
    pub due_at: DateTime<Utc>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub version: i32,
}

#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Delivery {
    pub starts_at: DateTime<Utc>,
    pub ends_at: DateTime<Utc>,
    pub name: String,
    pub state: String,
    pub attempts: i32,
    pub next_try_at: DateTime<Utc>,
    pub delivered_at: Option<DateTime<Utc>>,
    pub bytes: Option<i64>,
    pub sha256: Option<Vec<u8>>,
    pub error: Option<String>,
    /// Calls and requests of the period that had not ended when the report was made.
    pub still_open: Option<i64>,
}

/// A report in the hands of a runner.
#[derive(Debug, Clone)]
pub struct Taken {
    pub tenant: TenantId,
    pub schedule: ReportScheduleId,
    pub runner: Uuid,
    pub starts_at: DateTime<Utc>,
    pub ends_at: DateTime<Utc>,
    pub name: String,
    pub attempts: i32,
    first_try_at: DateTime<Utc>,
}

/// What came of a try.
#[derive(Debug, Clone)]
pub enum Tried {
    Delivered {
        bytes: i64,
        sha256: Vec<u8>,
        still_open: i64,
    },
    /// With a sentence for the tenant. It is tried again.
    Not(String),
    /// It would come to nothing another time as well.
    Never(String),
    /// It was no try: there is one then. With a sentence where it waits for something.
    Later(DateTime<Utc>, Option<String>),
}

/// A stretch of time that one report is about.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Period {
    starts_at: DateTime<Utc>,
    ends_at: DateTime<Utc>,
    name: String,
}

impl Period {
    /// The one that begins at `starts_at`. After a change of zone that is in the middle of a day, and the period ends with it.
    fn from(every: Calendar, zone: TimeZone, starts_at: DateTime<Utc>) -> Self {
        let (first, ends_at) = zone.around(every, starts_at);
        let form = match every {
            Calendar::Day => "%Y-%m-%d",
            Calendar::Week => "%G-W%V",
            Calendar::Month => "%Y-%m",
        };
        let name = if first == starts_at { zone.day(starts_at).format(form).to_string() } else { instant(starts_at) };
        Self { starts_at, ends_at, name }
    }

    fn due_at(&self) -> DateTime<Utc> {
        self.ends_at + SETTLE
    }
}

fn instant(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%dT%H%M%SZ").to_string()
}

const COLUMNS: &str = "SELECT report_schedule_id, name, every, ask, format, destination, webhook, enabled, next_start, due_at,
    created_at, updated_at, version FROM report_schedules WHERE tenant_id = ";

/// Set a schedule. Its first period is the one of this moment, from its start.
///
/// # Errors
/// [`StoreError::Conflict`] when the tenant has as many as it may.
pub async fn create(change: &mut Change, mut schedule: Schedule, most: i64) -> StoreResult<Schedule> {
    // Two at once must not both be the last one that is allowed; and the zone stays what it is meanwhile.
    sqlx::query("SELECT FROM tenants WHERE tenant_id = $1 FOR NO KEY UPDATE")
        .bind(change.tenant.uuid())
        .execute(&mut *change.tx)
        .await?;
    let count = sqlx::query_scalar("SELECT count(*) FROM report_schedules WHERE tenant_id = $1");
    let count: i64 = count.bind(change.tenant.uuid()).fetch_one(&mut *change.tx).await?;
    if count >= most {
        return Err(StoreError::Conflict(format!("the tenant has {most} report schedules, as many as it may; delete one first")));
    }
    let (every, zone) = (word::<Calendar>(&schedule.every)?, zone(&mut change.tx, change.tenant).await?);
    schedule.next_start = zone.around(every, change.now).0;
    schedule.due_at = Period::from(every, zone, schedule.next_start).due_at();
    let insert = sqlx::query(
        "INSERT INTO report_schedules (tenant_id, report_schedule_id, name, every, ask, format, destination, webhook, enabled, next_start,
                                       due_at, created_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $12)",
    );
    let insert = insert.bind(change.tenant.uuid()).bind(schedule.report_schedule_id).bind(&schedule.name).bind(&schedule.every);
    let insert = insert.bind(&schedule.ask).bind(&schedule.format).bind(&schedule.destination).bind(&schedule.webhook);
    let insert = insert.bind(schedule.enabled).bind(schedule.next_start).bind(schedule.due_at).bind(change.now);
    insert.execute(&mut *change.tx).await?;
    Ok(schedule)
}

/// Oldest first.
///
/// # Errors
/// When the database does not answer.
pub async fn list(store: &Store, tenant: TenantId, page: PageRequest) -> StoreResult<Page<Schedule>> {
    let mut query = sqlx::QueryBuilder::new(COLUMNS);
    query.push_bind(tenant.uuid());
    if let Some(after) = page.after {
        query.push(" AND report_schedule_id > ").push_bind(after);
    }
    query.push(" ORDER BY report_schedule_id LIMIT ").push_bind(page.fetch());
    let mut tx = store.tenant(tenant).await?;
    let rows = query.build_query_as::<Schedule>().fetch_all(&mut *tx).await?;
    tx.commit().await?;
    Ok(page.cut(rows, |schedule| schedule.report_schedule_id))
}

async fn read(tx: &mut Tx, tenant: TenantId, id: ReportScheduleId, lock: &'static str) -> StoreResult<Schedule> {
    let mut query = sqlx::QueryBuilder::new(COLUMNS);
    query.push_bind(tenant.uuid()).push(" AND report_schedule_id = ").push_bind(id.uuid()).push(lock);
    Ok(query.build_query_as::<Schedule>().fetch_one(&mut **tx).await?)
}

/// A schedule and its newest deliveries.
///
/// # Errors
/// `NotFound`.
pub async fn get(
    store: &Store,
    tenant: TenantId,
    id: ReportScheduleId,
    newest: PageRequest,
) -> StoreResult<(Schedule, Page<Delivery>)> {
    let mut tx = store.tenant_snapshot(tenant).await?;
    let schedule = read(&mut tx, tenant, id, "").await?;
    let mut query = sqlx::QueryBuilder::new(
        "SELECT starts_at, ends_at, name, state, attempts, next_try_at, delivered_at, bytes, sha256, error, still_open
         FROM report_deliveries WHERE tenant_id = ",
    );
    query.push_bind(tenant.uuid()).push(" AND report_schedule_id = ").push_bind(id.uuid());
    // Periods have no ids; their starts stand in pages as ids of that time do.
    if let Some(before) = newest.after.and_then(|id| i64::try_from(id.as_u128() >> 80).ok()) {
        query.push(" AND starts_at < ").push_bind(DateTime::from_timestamp_millis(before));
    }
    query.push(" ORDER BY starts_at DESC LIMIT ").push_bind(newest.fetch());
    let rows = query.build_query_as::<Delivery>().fetch_all(&mut *tx).await?;
    tx.commit().await?;
    Ok((schedule, newest.cut(rows, |delivery| ids::floor(delivery.starts_at))))
}

/// The schedule, locked until the change ends.
///
/// # Errors
/// `NotFound`.
pub async fn lock(change: &mut Change, id: ReportScheduleId) -> StoreResult<Schedule> {
    read(&mut change.tx, change.tenant, id, " FOR UPDATE").await
}

/// Change all but the rhythm. It holds for what is not delivered yet. What waits when it is enabled again has a day for itself: `paused`
/// says that it was not.
///
/// # Errors
/// When the database does not answer.
pub async fn update(change: &mut Change, mut schedule: Schedule, paused: bool) -> StoreResult<Schedule> {
    schedule.version += 1;
    schedule.updated_at = change.now;
    if paused && schedule.enabled {
        anew(change, schedule.report_schedule_id.into(), None, "waiting").await?;
    }
    let update = sqlx::query(
        "UPDATE report_schedules SET name = $3, ask = $4, format = $5, destination = $6, webhook = $7, enabled = $8, version = $9,
                                     updated_at = $10 WHERE tenant_id = $1 AND report_schedule_id = $2",
    );
    let update = update.bind(change.tenant.uuid()).bind(schedule.report_schedule_id).bind(&schedule.name).bind(&schedule.ask);
    let update = update.bind(&schedule.format).bind(&schedule.destination).bind(&schedule.webhook).bind(schedule.enabled);
    update.bind(schedule.version).bind(schedule.updated_at).execute(&mut *change.tx).await?;
    Ok(schedule)
}

/// Have another day for reports that have failed: the one of this name, or all; how many they are. The schedule is locked.
///
/// # Errors
/// When the database does not answer.
pub async fn retry(change: &mut Change, id: ReportScheduleId, name: Option<&str>) -> StoreResult<u64> {
    anew(change, id, name, "failed").await
}

async fn anew(change: &mut Change, id: ReportScheduleId, name: Option<&str>, state: &'static str) -> StoreResult<u64> {
    let anew = sqlx::query(
        "UPDATE report_deliveries SET state = 'waiting', first_try_at = NULL,
                next_try_at = CASE WHEN runner_id IS NULL THEN $5 ELSE next_try_at END
         WHERE tenant_id = $1 AND report_schedule_id = $2 AND state = $3 AND ($4::text IS NULL OR name = $4)",
    );
    let anew = anew.bind(change.tenant.uuid()).bind(id.uuid()).bind(state).bind(name).bind(change.now);
    Ok(anew.execute(&mut *change.tx).await?.rows_affected())
}

/// Delete a schedule and what is known of its deliveries. What was delivered stays where it is.
///
/// # Errors
/// When the database does not answer.
pub async fn delete(change: &mut Change, id: ReportScheduleId) -> StoreResult<()> {
    let delete = sqlx::query("DELETE FROM report_schedules WHERE tenant_id = $1 AND report_schedule_id = $2");
    delete.bind(change.tenant.uuid()).bind(id.uuid()).execute(&mut *change.tx).await?;
    Ok(())
}

// ---------------------------------------------------------------- what a runner does

/// Open the periods that are due, at most one of each schedule; how many.
///
/// # Errors
/// When the database does not answer.
pub async fn open_due(store: &Store, now: DateTime<Utc>) -> StoreResult<usize> {
    let mut tx = store.control().await?;
    let due = sqlx::query_as::<_, (Uuid, Uuid)>(
        "SELECT s.tenant_id, s.report_schedule_id FROM report_schedules s JOIN tenants t ON t.tenant_id = s.tenant_id
         WHERE s.enabled AND s.due_at <= $1 AND t.deleted_at IS NULL ORDER BY s.due_at LIMIT $2",
    );
    let due = due.bind(now).bind(OPENED).fetch_all(&mut *tx).await?;
    tx.commit().await?;
    let mut opened = 0;
    for (tenant, schedule) in due {
        match open(store, tenant.into(), schedule, now).await {
            Ok(is_open) => opened += usize::from(is_open),
            Err(error) if error.is_transient() => return Err(error),
            // One that cannot be told does not keep the others from it.
            Err(error) => {
                let (tenant, schedule) = (TenantId::from(tenant), ReportScheduleId::from(schedule));
                tracing::warn!(%tenant, %schedule, %error, "no period of this report schedule could be opened");
            }
        }
    }
    Ok(opened)
}

async fn open(store: &Store, tenant: TenantId, schedule: Uuid, now: DateTime<Utc>) -> StoreResult<bool> {
    let mut tx = store.tenant(tenant).await?;
    let found = sqlx::query_as::<_, (String, DateTime<Utc>)>(
        "SELECT every, next_start FROM report_schedules
         WHERE tenant_id = $1 AND report_schedule_id = $2 AND enabled AND due_at <= $3 FOR UPDATE SKIP LOCKED",
    );
    let found = found.bind(tenant.uuid()).bind(schedule).bind(now).fetch_optional(&mut *tx).await?;
    let Some((every, start)) = found else { return Ok(false) };
    let (every, zone) = (word::<Calendar>(&every)?, zone(&mut tx, tenant).await?);
    let mut next = Period::from(every, zone, start);
    // Not yet where the zone has changed.
    let is_due = next.due_at() <= now;
    if is_due {
        // Across the date line a day can come twice; its second report has another name.
        let insert = sqlx::query(
            "INSERT INTO report_deliveries (tenant_id, report_schedule_id, starts_at, ends_at, name, next_try_at)
             SELECT $1, $2, $3, $4, CASE WHEN EXISTS (SELECT FROM report_deliveries
                 WHERE tenant_id = $1 AND report_schedule_id = $2 AND name = $5) THEN $6 ELSE $5 END, $7",
        );
        let insert = insert.bind(tenant.uuid()).bind(schedule).bind(next.starts_at).bind(next.ends_at);
        insert.bind(&next.name).bind(instant(start)).bind(now).execute(&mut *tx).await?;
        next = Period::from(every, zone, next.ends_at);
    }
    let update =
        sqlx::query("UPDATE report_schedules SET next_start = $3, due_at = $4 WHERE tenant_id = $1 AND report_schedule_id = $2");
    let update = update.bind(tenant.uuid()).bind(schedule).bind(next.starts_at).bind(next.due_at());
    update.execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(is_due)
}

/// By how much this clock is ahead of the database's.
///
/// # Errors
/// When the database does not answer.
pub async fn ahead(store: &Store, now: DateTime<Utc>) -> StoreResult<TimeDelta> {
    let mut tx = store.control().await?;
    let at: DateTime<Utc> = sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(&mut *tx).await?;
    tx.commit().await?;
    Ok(now - at)
}

/// A row as it is taken: with whether whoever had it before has never come back, and when its first try was.
type Row = (Uuid, Uuid, DateTime<Utc>, DateTime<Utc>, String, i32, DateTime<Utc>, bool);

/// Take a report that waits, until `until`: one of a tenant that is not among those served, or of the one that was served longest ago; of
/// these the one that has waited longest. One whose runners have not come back is held for longer each time, and has failed when its day
/// is over.
///
/// # Errors
/// When the database does not answer.
pub async fn take(
    store: &Store,
    runner: Uuid,
    (now, until): (DateTime<Utc>, DateTime<Utc>),
    served: &[Uuid],
) -> StoreResult<Option<Taken>> {
    loop {
        let mut tx = store.control().await?;
        let taken = sqlx::query_as::<_, Row>(
            "UPDATE report_deliveries d SET runner_id = $1, attempts = d.attempts + 1, first_try_at = COALESCE(d.first_try_at, $2),
               next_try_at = CASE WHEN n.lost THEN GREATEST($3, $2 + LEAST($5 * 2 ^ LEAST(d.attempts, 16), $6)) ELSE $3 END
             FROM (SELECT w.tenant_id, w.report_schedule_id, w.starts_at, w.runner_id IS NOT NULL AS lost FROM report_deliveries w
                   JOIN report_schedules s ON s.tenant_id = w.tenant_id AND s.report_schedule_id = w.report_schedule_id
                   JOIN tenants t ON t.tenant_id = w.tenant_id
                   WHERE w.state = 'waiting' AND w.next_try_at <= $2 AND s.enabled AND t.deleted_at IS NULL
                   ORDER BY COALESCE(array_position($4, w.tenant_id), 0), w.next_try_at, w.starts_at
                   LIMIT 1 FOR UPDATE OF w SKIP LOCKED) n
             WHERE d.tenant_id = n.tenant_id AND d.report_schedule_id = n.report_schedule_id AND d.starts_at = n.starts_at
             RETURNING d.tenant_id, d.report_schedule_id, d.starts_at, d.ends_at, d.name, d.attempts, d.first_try_at, n.lost",
        );
        let taken = taken.bind(runner).bind(now).bind(until).bind(served).bind(FIRST_PAUSE).bind(LONGEST_PAUSE);
        let taken = taken.fetch_optional(&mut *tx).await?;
        tx.commit().await?;
        let Some((tenant, schedule, starts_at, ends_at, name, attempts, first_try_at, lost)) = taken else { return Ok(None) };
        let (tenant, schedule) = (tenant.into(), schedule.into());
        let taken = Taken { tenant, schedule, runner, starts_at, ends_at, name, attempts, first_try_at };
        if !(lost && now >= first_try_at + PATIENCE) {
            return Ok(Some(taken));
        }
        leave(store, &taken, &Tried::Never(LOST.to_owned()), now).await?;
    }
}

const LOST: &str = "the server has failed each time that it made this report; its log says why";

/// How many calls and requests of the report's period have not ended, as far as they are counted. Where workers are alive, nothing is open
/// that began before what they say.
///
/// # Errors
/// When the database does not answer.
pub async fn still_open(store: &Store, taken: &Taken) -> StoreResult<i64> {
    let mut tx = store.control().await?;
    let since = sqlx::query_scalar("SELECT oldest_open_call FROM workers ORDER BY oldest_open_call LIMIT 1");
    let since: Option<Uuid> = since.fetch_optional(&mut *tx).await?;
    let since = since.unwrap_or_else(|| ids::floor(taken.ends_at - SEARCHED)).max(ids::floor(taken.starts_at));
    let open = sqlx::query_scalar(
        "SELECT count(*) FROM (
           (SELECT 1 FROM tool_call_events e
            WHERE e.tenant_id = $1 AND e.call_id >= $2 AND e.call_id < $3 AND e.kind = 0 AND e.outcome IS NULL
              AND NOT EXISTS (SELECT FROM tool_call_events c
                              WHERE c.tenant_id = e.tenant_id AND c.call_id = e.call_id AND c.kind IN (1, 2)) LIMIT $4)
           UNION ALL
           (SELECT 1 FROM llm_forwards f
            WHERE f.tenant_id = $1 AND f.llm_request_id >= $2 AND f.llm_request_id < $3 AND f.decision = 'permitted'
              AND NOT EXISTS (SELECT FROM llm_request_ends e
                              WHERE e.tenant_id = f.tenant_id AND e.llm_request_id = f.llm_request_id) LIMIT $4)) n",
    );
    let open = open.bind(taken.tenant.uuid()).bind(since).bind(ids::floor(taken.ends_at)).bind(MOST_OPEN);
    let open = open.fetch_one(&mut *tx).await?;
    tx.commit().await?;
    Ok(open)
}

/// What the report is to be now.
///
/// # Errors
/// `NotFound` when the schedule was deleted meanwhile.
pub async fn of(store: &Store, taken: &Taken) -> StoreResult<Schedule> {
    let mut tx = store.tenant(taken.tenant).await?;
    let schedule = read(&mut tx, taken.tenant, taken.schedule, "").await?;
    tx.commit().await?;
    Ok(schedule)
}

/// Write down what came of a try, with its admin event where it is the last. `false`: another has the report, or it was deleted before it
/// was delivered.
///
/// # Errors
/// When the database does not answer.
pub async fn leave(store: &Store, taken: &Taken, tried: &Tried, now: DateTime<Utc>) -> StoreResult<bool> {
    let mut change = store.change(taken.tenant, Actor::system("reports"), now).await?;
    let deadline = taken.first_try_at + PATIENCE;
    let (state, next) = match tried {
        Tried::Delivered { .. } => ("delivered", now),
        Tried::Never(_) => ("failed", now),
        Tried::Not(_) if now >= deadline => ("failed", now),
        Tried::Not(_) => ("waiting", (now + pause(taken.attempts)).min(deadline)),
        Tried::Later(at, _) => ("waiting", *at),
    };
    let (bytes, sha256, still_open) = match tried {
        Tried::Delivered { bytes, sha256, still_open } => (Some(*bytes), Some(sha256), Some(*still_open)),
        _ => (None, None, None),
    };
    let error = match tried {
        Tried::Delivered { .. } => None,
        Tried::Not(error) | Tried::Never(error) => Some(error),
        Tried::Later(_, error) => error.as_ref(),
    };
    let untried = i32::from(matches!(tried, Tried::Later(..)));
    let update = sqlx::query(
        "UPDATE report_deliveries SET state = $5, next_try_at = $6, bytes = $7, sha256 = $8, error = $9, still_open = $11,
                delivered_at = CASE WHEN $5 = 'delivered' THEN $10::timestamptz END, runner_id = NULL, attempts = attempts - $12,
                first_try_at = CASE WHEN attempts > $12 THEN first_try_at END
         WHERE tenant_id = $1 AND report_schedule_id = $2 AND starts_at = $3 AND runner_id = $4 AND state = 'waiting'",
    );
    let update = update.bind(taken.tenant.uuid()).bind(taken.schedule.uuid()).bind(taken.starts_at).bind(taken.runner);
    let update = update.bind(state).bind(next).bind(bytes).bind(sha256).bind(error).bind(now).bind(still_open).bind(untried);
    let own = update.execute(&mut *change.tx).await?.rows_affected() == 1;
    let deleted = !own && matches!(read(&mut change.tx, taken.tenant, taken.schedule, "").await, Err(StoreError::NotFound));
    // What has left the house is told also where its schedule is no more.
    if !(own || deleted && state == "delivered") {
        return Ok(false);
    }
    let mut detail = json!({
        "name": taken.name, "period_start": taken.starts_at, "period_end": taken.ends_at, "attempts": taken.attempts,
    });
    if let Tried::Delivered { bytes, still_open, .. } = tried {
        (detail["bytes"], detail["still_open"]) = (json!(bytes), json!(still_open));
    }
    if let Some(error) = error {
        detail["error"] = json!(error);
    }
    if state != "waiting" {
        change.event(&format!("report.{state}"), &taken.schedule, detail).await?;
    }
    change.commit_quietly().await?;
    Ok(true)
}

/// After so many tries: it doubles with each.
fn pause(attempts: i32) -> TimeDelta {
    let doublings = u32::try_from(attempts.saturating_sub(1)).unwrap_or(0).min(16);
    FIRST_PAUSE.checked_mul(1 << doublings).unwrap_or(LONGEST_PAUSE).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn a_period_is_named_after_its_day_week_or_month_and_the_rest_of_one_after_its_start() {
        let berlin: TimeZone = "Europe/Berlin".parse().unwrap();
        let name = |every, start| Period::from(every, berlin, at(start)).name;
        assert_eq!(name(Calendar::Month, "2026-10-31T23:00:00Z"), "2026-11");
        assert_eq!(name(Calendar::Day, "2026-10-31T23:00:00Z"), "2026-11-01");
        assert_eq!(name(Calendar::Week, "2026-12-27T23:00:00Z"), "2026-W53");
        let rest = Period::from(Calendar::Month, berlin, at("2026-11-01T00:00:00Z"));
        assert_eq!((rest.name.as_str(), rest.ends_at), ("2026-11-01T000000Z", at("2026-11-30T23:00:00Z")));
    }

    #[test]
    fn pauses_grow_and_end_at_four_hours() {
        let minutes = [1, 2, 3, 8, 9, 100, i32::MAX].map(|n| pause(n).num_minutes());
        assert_eq!(minutes, [1, 2, 4, 128, 240, 240, 240]);
    }
}
