//! Makes reports of periods that have ended, and delivers them. Every process of the admin API has one runner; they share the work
//! through the database, which gives each report to one of them at a time.
//!
//! A process that dies in the middle is noticed when its time is over: the report is delivered again, to the same name in a store, and
//! to a webhook under the same `Idempotency-Key`.

use std::{future::Future, time::Duration};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use reqwest::{
    Client,
    header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
};
use tokio::task::JoinSet;
use tollgate_domain::{ids, tool::sha256};
use tollgate_store::{
    StoreError, StoreResult,
    costs::CostQuery,
    report_schedules::{self as schedules, Schedule, Taken, Tried},
};

use crate::{
    audit::{
        export_jobs::destination::{Folder, Unwritable},
        followers::{Failure, webhook},
    },
    check::Checks,
    ctx::App,
    problem::Stop,
    reports::costs::{Format, dimensions, read, render},
};

/// Reports that one process makes at a time.
const JOBS: usize = 2;
const POLL: Duration = Duration::from_secs(5);
/// How long one try may take, and after what time its runner is believed to have died: well after that.
const LIMIT: Duration = Duration::from_secs(120);
const HELD: TimeDelta = TimeDelta::minutes(10);
/// How long a receiver may take.
const PATIENCE: Duration = Duration::from_secs(30);

const SERVER: &str = "the server failed; its log names this schedule";

#[derive(Debug, Clone)]
pub struct Runner {
    app: App,
    client: Client,
}

/// A report as it is delivered.
struct File {
    format: Format,
    bytes: Vec<u8>,
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

impl From<Unwritable> for Failure {
    fn from(error: Unwritable) -> Self {
        Self::new("the destination did not take the report; the operator's log says why", error)
    }
}

impl From<Stop> for Failure {
    fn from(stop: Stop) -> Self {
        Self::new(SERVER, format!("{stop:?}"))
    }
}

impl Runner {
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(app: App) -> anyhow::Result<Self> {
        Ok(Self { app, client: webhook::client(PATIENCE)? })
    }

    /// Work until the process ends.
    pub async fn run(self) {
        let mut at_work = JoinSet::new();
        while !self.app.shutdown.is_requested() {
            while at_work.try_join_next().is_some() {}
            if let Err(error) = self.fill(&mut at_work).await {
                tracing::debug!(%error, "no report was looked for");
            }
            tokio::select! {
                () = self.app.shutdown.requested() => {}
                Some(_) = at_work.join_next() => {}
                () = tokio::time::sleep(POLL) => {}
            }
        }
        while at_work.join_next().await.is_some() {}
    }

    async fn fill(&self, at_work: &mut JoinSet<()>) -> StoreResult<()> {
        schedules::open_due(&self.app.store, self.app.clock.now()).await?;
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
        schedules::take(&self.app.store, ids::mint(now), now, now + HELD).await
    }

    async fn work(self, taken: Taken) {
        let tried = match in_time(self.deliver(&taken)).await {
            Ok(sent) => Tried::Delivered { bytes: i64::try_from(sent.len()).unwrap_or(i64::MAX), sha256: sha256(&sent).to_vec() },
            Err(failure) => {
                let (schedule, name, error) = (taken.schedule, &taken.name, failure.detail);
                tracing::warn!(%schedule, tenant = %taken.tenant, name, attempts = taken.attempts, error, "a report was not delivered");
                Tried::Not(failure.shown)
            }
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

    /// The bytes that were delivered.
    async fn deliver(&self, taken: &Taken) -> Result<Vec<u8>, Failure> {
        let schedule = schedules::of(&self.app.store, taken).await?;
        let file = self.make(taken, &schedule).await?;
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
                hook.send_file(headers(taken, file.format)?, file.bytes.clone(), self.app.clock.now()).await?;
            }
        }
        Ok(file.bytes)
    }

    async fn make(&self, taken: &Taken, schedule: &Schedule) -> Result<File, Failure> {
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
        let read = read(&self.app.store, taken.tenant, &query, format).await?;
        Ok(File { format, bytes: render(taken.tenant, read, &query, format)? })
    }
}

async fn in_time<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let late = || Failure::new("it took too long", "neither made nor delivered in time");
    tokio::time::timeout(LIMIT, work).await.unwrap_or_else(|_| Err(late()))
}

/// What a receiver tells one report from another by.
fn headers(taken: &Taken, format: Format) -> Result<HeaderMap, Failure> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
    for (name, value) in [
        ("idempotency-key", format!("{}/{}", taken.schedule, taken.name)),
        ("x-tollgate-tenant", taken.tenant.to_string()),
        ("x-tollgate-report-schedule", taken.schedule.to_string()),
        ("x-tollgate-report-name", format!("{}.{}", taken.name, format.extension())),
        ("x-tollgate-period-start", instant(taken.starts_at)),
        ("x-tollgate-period-end", instant(taken.ends_at)),
    ] {
        let value = HeaderValue::try_from(value).map_err(|error| Failure::new(SERVER, error))?;
        headers.insert(HeaderName::from_static(name), value);
    }
    Ok(headers)
}

fn instant(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}
