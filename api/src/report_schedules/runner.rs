//! Makes reports of periods that have ended, and delivers them. Every process of the admin API has one runner; they share the work
//! through the database, which gives each report to one of them at a time.
//!
//! A process that dies in the middle is noticed when its time is over: the report is delivered again, to the same name in a store, and
//! to a webhook under the same `Idempotency-Key`.

use std::{
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use reqwest::{
    Client,
    header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
};
use tokio::task::{JoinError, JoinSet};
use tollgate_domain::{TenantId, ids, tool::sha256};
use tollgate_evidence::hash::to_hex;
use tollgate_store::{
    StoreError, StoreResult,
    costs::{self, CostQuery},
    report_schedules::{self as schedules, Schedule, Taken, Tried},
};

use crate::{
    audit::{
        export_jobs::destination::{Folder, Unwritable},
        followers::{Failure, webhook},
    },
    check::Checks,
    ctx::App,
    reports::costs::{Format, Unmade, dimensions, write},
};

/// Reports that one process makes at a time.
const JOBS: usize = 2;
const POLL: Duration = Duration::from_secs(5);
/// How long one try may take, and after what time its runner is believed to have died: well after that.
const LIMIT: Duration = Duration::from_secs(120);
const HELD: TimeDelta = TimeDelta::minutes(10);
/// How long a receiver may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Calls that have not ended are waited for, and this is how often they are looked at.
const LOOK: TimeDelta = TimeDelta::minutes(5);
/// A clock that is further ahead of the database's tells of periods that have not ended.
const AHEAD: TimeDelta = TimeDelta::minutes(1);
/// Tenants whose turn is remembered.
const SERVED: usize = 1000;

const SERVER: &str = "the server failed; its log names this schedule";

#[derive(Debug, Clone)]
pub struct Runner {
    app: App,
    client: Client,
    /// Tenants whose reports were taken, the one of longest ago first: they take turns, however many reports one of them has.
    served: Arc<Mutex<Vec<TenantId>>>,
}

/// A report as it is delivered.
struct File {
    format: Format,
    bytes: Vec<u8>,
    still_open: i64,
}

/// Why a report was not delivered.
enum Undelivered {
    Failed(Failure),
    /// It would fail another time as well.
    Refused(Failure),
    Later(DateTime<Utc>, Option<String>),
}

impl From<Failure> for Undelivered {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<StoreError> for Undelivered {
    fn from(error: StoreError) -> Self {
        Self::Failed(error.into())
    }
}

impl From<Unwritable> for Undelivered {
    fn from(error: Unwritable) -> Self {
        Self::Failed(error.into())
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match &error {
            // The sentence says what to ask for instead.
            StoreError::Invalid { message, .. } => Self::new(message.clone(), &error),
            _ => Self::new(SERVER, error),
        }
    }
}

impl From<Unmade> for Undelivered {
    fn from(unmade: Unmade) -> Self {
        match unmade {
            // What takes too long today may not tomorrow; what has too many groups has them.
            Unmade::Unread(error @ StoreError::Invalid { .. }) if !costs::is_slow(&error) => Self::Refused(error.into()),
            Unmade::Unread(error) => Self::Failed(error.into()),
            Unmade::Unwritten(stop) => Self::Failed(Failure::new(SERVER, format!("{stop:?}"))),
        }
    }
}

impl From<Unwritable> for Failure {
    fn from(error: Unwritable) -> Self {
        Self::new("the destination did not take the report; the operator's log says why", error)
    }
}

impl Runner {
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(app: App) -> anyhow::Result<Self> {
        Ok(Self { app, client: webhook::client(PATIENCE)?, served: Arc::default() })
    }

    /// Work until the process ends.
    pub async fn run(self) {
        let mut at_work = JoinSet::new();
        while !self.app.shutdown.is_requested() {
            while let Some(done) = at_work.try_join_next() {
                ended(done);
            }
            if let Err(error) = self.fill(&mut at_work).await {
                tracing::warn!(%error, "no report was looked for");
            }
            tokio::select! {
                () = self.app.shutdown.requested() => {}
                Some(done) = at_work.join_next() => ended(done),
                () = tokio::time::sleep(POLL) => {}
            }
        }
        while let Some(done) = at_work.join_next().await {
            ended(done);
        }
    }

    async fn fill(&self, at_work: &mut JoinSet<()>) -> StoreResult<()> {
        let now = self.app.clock.now();
        let ahead = schedules::ahead(&self.app.store, now).await?;
        if ahead > AHEAD {
            tracing::error!(seconds = ahead.num_seconds(), "this host's clock is ahead of the database's: it makes no reports");
            return Ok(());
        }
        schedules::open_due(&self.app.store, now).await?;
        while at_work.len() < JOBS {
            let Some(taken) = self.take().await? else { break };
            at_work.spawn(self.clone().work(taken));
        }
        Ok(())
    }

    /// Open what is due, and try each report that waits for a try; how many there were.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn round(&self) -> StoreResult<usize> {
        while schedules::open_due(&self.app.store, self.app.clock.now()).await? > 0 {}
        let mut tried = 0;
        while let Some(taken) = self.take().await? {
            self.clone().work(taken).await;
            tried += 1;
        }
        Ok(tried)
    }

    /// Each turn has a name of its own: also this process can lose a report and take it again.
    async fn take(&self) -> StoreResult<Option<Taken>> {
        let now = self.app.clock.now();
        let served: Vec<_> = self.served.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|id| id.uuid()).collect();
        let taken = schedules::take(&self.app.store, ids::mint(now), (now, now + HELD), &served).await?;
        if let Some(Taken { tenant, .. }) = &taken {
            let mut served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
            served.retain(|other| other != tenant);
            served.push(*tenant);
            let gone = served.len().saturating_sub(SERVED);
            served.drain(..gone);
        }
        Ok(taken)
    }

    async fn work(self, taken: Taken) {
        let tried = match in_time(self.deliver(&taken)).await {
            Ok(File { bytes, still_open, .. }) => Tried::Delivered {
                bytes: i64::try_from(bytes.len()).unwrap_or(i64::MAX),
                sha256: sha256(&bytes).to_vec(),
                still_open,
            },
            Err(Undelivered::Failed(failure)) => Tried::Not(failed(&taken, failure)),
            Err(Undelivered::Refused(failure)) => Tried::Never(failed(&taken, failure)),
            Err(Undelivered::Later(at, why)) => Tried::Later(at, why),
        };
        match schedules::leave(&self.app.store, &taken, &tried, self.app.clock.now()).await {
            Ok(true) => {}
            Ok(false) => {
                tracing::debug!(schedule = %taken.schedule, "its schedule was deleted, or another runner has the report")
            }
            Err(error) => {
                tracing::warn!(schedule = %taken.schedule, %error, "the report will be taken again when its time is over")
            }
        }
    }

    /// What was delivered.
    async fn deliver(&self, taken: &Taken) -> Result<File, Undelivered> {
        let schedule = schedules::of(&self.app.store, taken).await?;
        let file = self.make(taken, &schedule).await?;
        // A change that was acknowledged meanwhile holds for this report as well.
        let now = schedules::of(&self.app.store, taken).await?;
        if now.version != schedule.version {
            return Err(Undelivered::Later(self.app.clock.now(), None));
        }
        match (&schedule.destination, &schedule.webhook) {
            (Some(name), _) => {
                let gone = || Failure::new("the operator's file no longer names this destination", name);
                let config = self.app.config.destination(name).ok_or_else(gone)?;
                let folder = Folder::open(config, &format!("{}/reports/{}", taken.tenant, taken.schedule))?;
                folder.put(&format!("{}.{}", taken.name, file.format.extension()), file.bytes.clone()).await?;
            }
            (None, name) => {
                let name = name.as_deref().unwrap_or_default();
                let gone = || Failure::new("the operator's file no longer names this webhook", name);
                let config = self.app.config.report_webhook(name).ok_or_else(gone)?;
                let hook = webhook::Webhook::new(&config.webhook(), self.client.clone());
                let hook = hook.map_err(|error| Failure::new("the webhook's configuration cannot be used", error))?;
                hook.send_file(headers(taken, &file)?, &SIGNED, file.bytes.clone(), self.app.clock.now()).await?;
            }
        }
        Ok(file)
    }

    async fn make(&self, taken: &Taken, schedule: &Schedule) -> Result<File, Undelivered> {
        let now = self.app.clock.now();
        let still_open = schedules::still_open(&self.app.store, taken).await?;
        let last = taken.ends_at + schedules::LONGEST;
        if still_open > 0 && now < last {
            let why = format!("waits for calls and requests of its time that have not ended: {still_open}");
            return Err(Undelivered::Later((now + LOOK).min(last), Some(why)));
        }
        let format = Format::parse(&schedule.format);
        let format = format.ok_or_else(|| Failure::new("this release does not write that format", &schedule.format))?;
        let ask = &schedule.ask.0;
        let mut checks = Checks::default();
        let group_by = format.groups(dimensions(&mut checks, &ask.group_by));
        checks.done().map_err(|_| Failure::new("this release knows no such `group_by`", &ask.group_by))?;
        let query = CostQuery {
            from: taken.starts_at,
            to: taken.ends_at,
            group_by,
            key_id: ask.key_id,
            team_id: ask.team_id,
            tool_id: ask.tool_id,
            upstream_id: ask.upstream_id,
            outcome: ask.outcome,
            top: ask.top,
            compare: None,
        };
        Ok(File { format, bytes: write(&self.app.store, taken.tenant, &query, format).await?, still_open })
    }
}

async fn in_time<T>(work: impl Future<Output = Result<T, Undelivered>>) -> Result<T, Undelivered> {
    let late = || Failure::new("it took too long", "neither made nor delivered in time").into();
    tokio::time::timeout(LIMIT, work).await.unwrap_or_else(|_| Err(late()))
}

/// Log it, and give what the tenant may read.
fn failed(taken: &Taken, failure: Failure) -> String {
    let (schedule, name, error) = (taken.schedule, &taken.name, failure.detail);
    tracing::warn!(%schedule, tenant = %taken.tenant, name, attempts = taken.attempts, error, "a report was not delivered");
    failure.shown
}

/// A try that has panicked has its report still, and loses it when its time is over.
fn ended(done: Result<(), JoinError>) {
    if let Err(error) = done {
        tracing::error!(%error, "the making of a report broke off");
    }
}

/// What of a report's headers its signature covers, in this order.
static SIGNED: [HeaderName; 7] = [
    HeaderName::from_static("idempotency-key"),
    HeaderName::from_static("x-tollgate-tenant"),
    HeaderName::from_static("x-tollgate-report-schedule"),
    HeaderName::from_static("x-tollgate-report-name"),
    HeaderName::from_static("x-tollgate-period-start"),
    HeaderName::from_static("x-tollgate-period-end"),
    HeaderName::from_static("x-tollgate-sha256"),
];

/// What a receiver tells one report from another by.
fn headers(taken: &Taken, file: &File) -> Result<HeaderMap, Failure> {
    let format = file.format;
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
    for (name, value) in [
        ("idempotency-key", format!("{}/{}", taken.schedule, taken.name)),
        ("x-tollgate-tenant", taken.tenant.to_string()),
        ("x-tollgate-report-schedule", taken.schedule.to_string()),
        ("x-tollgate-report-name", format!("{}.{}", taken.name, format.extension())),
        ("x-tollgate-period-start", instant(taken.starts_at)),
        ("x-tollgate-period-end", instant(taken.ends_at)),
        // A try makes the report anew, and its bytes may be others under the same key.
        ("x-tollgate-sha256", to_hex(&sha256(&file.bytes))),
        ("x-tollgate-still-open", file.still_open.to_string()),
    ] {
        let value = HeaderValue::try_from(value).map_err(|error| Failure::new(SERVER, error))?;
        headers.insert(HeaderName::from_static(name), value);
    }
    Ok(headers)
}

fn instant(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}
