//! Works off export jobs. Every process of the admin API has one runner; they share the jobs through the database.
//!
//! A job is read by positions of the log, and its place is kept with each part that is whole, in one transaction. A process that
//! dies leaves at most one part half-written: whoever takes the job next, once the heartbeat has been silent for long enough,
//! writes that part again under the same name. A runner that was away for too long learns from its own heartbeat that the job is
//! another's, and finishes no file any more.

mod bundle;

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use chrono::TimeDelta;
use serde_json::json;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tollgate_domain::{TenantId, ids};
use tollgate_evidence::hash::to_hex;
use tollgate_store::{
    StoreError, StoreResult,
    calls::ToolCall,
    export::{Exported, Rows},
    export_jobs::{self, Job, Left, Part, Taken},
    follow::{self, Follow},
    requests::LlmRequest,
};

use super::{
    destination::{self, File, Folder},
    folder,
};
use crate::{
    audit::{
        bundle::NAME as BUNDLE,
        cursor,
        formats::{self, Encoder, Format, Record},
    },
    ctx::App,
};

/// Jobs that one process works on at a time.
const JOBS: usize = 2;
const POLL: Duration = Duration::from_secs(1);
const BEAT: Duration = Duration::from_secs(5);
/// A runner that has been silent for this long has died.
const SILENCE: TimeDelta = TimeDelta::seconds(30);
/// A runner that could not say anything for this long believes itself to be dead, before others do.
const DEAF: Duration = Duration::from_secs(20);

/// When a part is full.
#[derive(Debug, Clone, Copy)]
pub struct PartLimits {
    pub rows: usize,
    pub bytes: i64,
}

impl Default for PartLimits {
    fn default() -> Self {
        Self { rows: 500_000, bytes: 64 << 20 }
    }
}

#[derive(Debug, Clone)]
pub struct Runner {
    app: App,
    limits: PartLimits,
}

/// Why a job was left before its end.
#[derive(Debug, thiserror::Error)]
enum Stop {
    #[error("it was cancelled, or another has it")]
    Lost,
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("{0}")]
    Destination(#[from] destination::Unwritable),
    #[error("rows could not be written {0}")]
    Rows(#[from] formats::Unwritable),
    #[error("its encoder was lost: {0}")]
    Encoder(#[from] JoinError),
    #[error("{0}")]
    Changed(&'static str),
}

impl Stop {
    /// What becomes of the job; nothing where it is no longer ours.
    fn left(&self) -> Option<Left> {
        let sentence = match self {
            Self::Lost => return None,
            Self::Store(error) if error.is_transient() => return Some(Left::Queued),
            Self::Store(StoreError::Gone(sentence)) => sentence,
            Self::Destination(_) => "the destination did not take what was written; the operator's log says why",
            Self::Changed(sentence) => sentence,
            Self::Store(_) | Self::Rows(_) | Self::Encoder(_) => "the server failed; its log names this job",
        };
        Some(Left::Failed(sentence.to_owned()))
    }
}

impl Runner {
    #[must_use]
    pub fn new(app: App) -> Self {
        Self { app, limits: PartLimits::default() }
    }

    #[must_use]
    pub fn with_limits(self, limits: PartLimits) -> Self {
        Self { limits, ..self }
    }

    /// Work until the process ends.
    pub async fn run(self) {
        let mut at_work = JoinSet::new();
        while !self.app.shutdown.is_requested() {
            while at_work.try_join_next().is_some() {}
            while at_work.len() < JOBS {
                match self.take().await {
                    Ok(Some(taken)) => drop(at_work.spawn(self.clone().work(taken))),
                    Ok(None) => break,
                    Err(error) => {
                        tracing::debug!(%error, "no export job was looked for");
                        break;
                    }
                }
            }
            tokio::select! {
                () = self.app.shutdown.requested() => {}
                () = tokio::time::sleep(POLL) => {}
            }
        }
        while at_work.join_next().await.is_some() {}
    }

    /// Work on one job, if there is one.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn round(&self) -> StoreResult<bool> {
        let Some(taken) = self.take().await? else { return Ok(false) };
        self.clone().work(taken).await;
        Ok(true)
    }

    /// Each turn has a name of its own: also this process can lose a job and take it again.
    async fn take(&self) -> StoreResult<Option<Taken>> {
        let now = self.app.clock.now();
        export_jobs::take(&self.app.store, ids::mint(now), now, now - SILENCE).await
    }

    async fn work(self, taken: Taken) {
        let lost = CancellationToken::new();
        let outcome = tokio::select! {
            outcome = self.write(taken, &lost) => outcome,
            () = self.beat(taken, &lost) => Err(Stop::Lost),
        };
        let left = match &outcome {
            Ok(left) => Some(left.clone()),
            Err(stop) => stop.left(),
        };
        match &outcome {
            Ok(left) => tracing::info!(job = %taken.job, tenant = %taken.tenant, ?left, "export job"),
            Err(stop) => tracing::warn!(job = %taken.job, tenant = %taken.tenant, error = %stop, "export job was left"),
        }
        if let Some(left) = left
            && let Err(error) = export_jobs::leave(&self.app.store, taken, &left, self.app.clock.now()).await
        {
            tracing::warn!(job = %taken.job, %error, "it will be taken again when its heartbeat is missed");
        }
    }

    /// Says that the job is being worked on. Where that is no longer so it tells `lost`, and gives the writer time to tidy up.
    async fn beat(&self, taken: Taken, lost: &CancellationToken) {
        let mut heard = tokio::time::Instant::now();
        while !lost.is_cancelled() {
            tokio::time::sleep(BEAT).await;
            match export_jobs::beat(&self.app.store, taken, self.app.clock.now()).await {
                Ok(true) => heard = tokio::time::Instant::now(),
                Ok(false) => lost.cancel(),
                Err(error) if heard.elapsed() > DEAF => {
                    tracing::debug!(%error, "no heartbeat");
                    lost.cancel();
                }
                Err(_) => {}
            }
        }
        tokio::time::sleep(BEAT).await;
    }

    async fn write(&self, taken: Taken, lost: &CancellationToken) -> Result<Left, Stop> {
        let (job, mut parts) = export_jobs::get(&self.app.store, taken.tenant, taken.job).await?;
        let config = self.app.config.destination(&job.destination);
        let config = config.ok_or(Stop::Changed("the operator's file no longer names this destination"))?;
        let place = Folder::open(config, &folder(taken.tenant, &job.path, taken.job))?;
        if job.format == BUNDLE {
            return self.bundle(taken, &job, parts, &place, lost).await;
        }
        let format = Format::parse(Some(&job.format)).map_err(|_| Stop::Changed("this release does not write that format"))?;
        let position = |n: i64| u64::try_from(n).unwrap_or(0);
        let (from, until) = (position(job.position), position(job.until));
        let rows = follow::resume(&self.app.store, taken.tenant, job.filter.wanted(), from, until, job.lenient);
        let mut rows = rows.with_batch(self.limits.rows);
        loop {
            let number = job.parts.max(parts.last().map_or(0, |part| part.number)) + 1;
            let name = format!("part-{number:05}.{}", format.extension());
            let Some(mut writing) = self.begin(taken, (job.filter.rows, format), &mut rows, &place, &name).await? else { break };
            let filled = tokio::select! {
                filled = self.fill(&mut writing, &mut rows) => filled,
                () = lost.cancelled() => Err(Stop::Lost),
            };
            // Asked at the last moment: of two who believe that the job is theirs, one finishes the file.
            let own = match filled {
                Ok(()) if self.app.shutdown.is_requested() => {
                    writing.file.abandon().await;
                    return Ok(Left::Queued);
                }
                Ok(()) => export_jobs::beat(&self.app.store, taken, self.app.clock.now()).await.map_err(Stop::from),
                Err(stop) => Err(stop),
            };
            if !matches!(own, Ok(true)) {
                writing.file.abandon().await;
                return Err(own.err().unwrap_or(Stop::Lost));
            }
            let whole = writing.file.finish().await?;
            let part = Part { number, name, rows: writing.rows, bytes: whole.bytes, sha256: whole.sha256 };
            if !export_jobs::keep_part(&self.app.store, taken, &part, rows.position(), self.app.clock.now()).await? {
                return Err(Stop::Lost);
            }
            parts.push(part);
        }
        if self.app.shutdown.is_requested() {
            return Ok(Left::Queued);
        }
        self.conclude(taken, &job, &parts, &place).await
    }

    /// All parts are whole: the manifest says so, and comes last.
    async fn conclude(&self, taken: Taken, job: &Job, parts: &[Part], place: &Folder) -> Result<Left, Stop> {
        let manifest = self.manifest(taken, job, parts)?;
        place.put("_manifest.sig", self.signature(&manifest)).await?;
        place.put("_manifest.json", manifest).await?;
        Ok(Left::Done)
    }

    /// Begin a part with the first rows that are left; none: there is nothing to write any more, or no time.
    async fn begin(
        &self,
        taken: Taken,
        (kind, format): (Rows, Format),
        rows: &mut Follow,
        place: &Folder,
        name: &str,
    ) -> Result<Option<Writing>, Stop> {
        while !self.app.shutdown.is_requested() {
            let Some(told) = rows.next().await? else { break };
            if told.is_empty() {
                continue;
            }
            let encoder = Some(Pen::new(kind, format, taken.tenant)?);
            let mut writing = Writing { encoder, file: place.create(name), rows: 0 };
            writing.step(|encoder| encoder.begin()).await?;
            writing.push(told).await?;
            return Ok(Some(writing));
        }
        Ok(None)
    }

    /// Fill a part until it is full, or there is nothing left, or the process ends.
    async fn fill(&self, writing: &mut Writing, rows: &mut Follow) -> Result<(), Stop> {
        let limit = i64::try_from(self.limits.rows).unwrap_or(i64::MAX);
        while writing.rows < limit && writing.file.bytes() < self.limits.bytes && !self.app.shutdown.is_requested() {
            match rows.next().await? {
                Some(told) => writing.push(told).await?,
                None => break,
            }
        }
        writing.step(|encoder| encoder.finish()).await
    }

    /// Ed25519 under the trail's key: whoever can write to the destination cannot drop a part and say so in another manifest.
    fn signature(&self, manifest: &[u8]) -> Vec<u8> {
        let signer = self.app.store.keys().signer();
        let signature = signer.sign(&[b"tollgate-export-v1\n".as_slice(), manifest].concat());
        json!({"key_id": signer.public().key_id, "signature": to_hex(&signature)}).to_string().into_bytes()
    }

    fn manifest(&self, taken: Taken, job: &Job, parts: &[Part]) -> Result<Vec<u8>, Stop> {
        let (mut rows, mut bytes) = (0i64, 0i64);
        let listed: Vec<_> = parts
            .iter()
            .map(|part| {
                rows += part.rows;
                bytes += part.bytes;
                json!({"name": part.name, "rows": part.rows, "bytes": part.bytes, "sha256": to_hex(&part.sha256)})
            })
            .collect();
        let windowed = job.filter.from.is_some() || job.filter.to.is_some() || job.format == BUNDLE;
        let until = u64::try_from(job.until).unwrap_or(0);
        let manifest: BTreeMap<&str, serde_json::Value> = BTreeMap::from([
            ("job_id", json!(taken.job)),
            ("tenant_id", json!(taken.tenant)),
            ("format", json!(job.format)),
            ("filter", json!(job.filter.0)),
            ("first_position", json!(job.first)),
            ("end_position", json!(job.until)),
            (
                "next_cursor",
                json!((!windowed).then(|| cursor::seal(
                    &self.app.secrets,
                    taken.tenant,
                    (&job.filter.wanted().calls, job.filter.rows),
                    until
                ))),
            ),
            ("created_at", json!(job.created_at)),
            ("finished_at", json!(self.app.clock.now())),
            ("rows", json!(rows)),
            ("bytes", json!(bytes)),
            ("parts", json!(listed)),
        ]);
        serde_json::to_vec_pretty(&manifest).map_err(|error| formats::Unwritable::from(error).into())
    }
}

/// What writes the rows that a job is about.
enum Pen {
    Calls(Box<dyn Encoder>),
    Requests(Box<dyn Encoder<LlmRequest>>),
}

impl Pen {
    fn new(kind: Rows, format: Format, tenant: TenantId) -> Result<Self, formats::Unwritable> {
        Ok(match kind {
            Rows::LlmRequests => Self::Requests(LlmRequest::encoder(format, tenant)?),
            Rows::ToolCalls | Rows::All => Self::Calls(format.encoder(tenant)?),
        })
    }

    fn begin(&mut self) -> Result<Bytes, formats::Unwritable> {
        match self {
            Self::Calls(encoder) => encoder.begin(),
            Self::Requests(encoder) => encoder.begin(),
        }
    }

    fn push(&mut self, told: Vec<follow::Told>) -> Result<Bytes, formats::Unwritable> {
        let told = told.into_iter().map(|told| told.what);
        match self {
            Self::Calls(encoder) => encoder.push(told.filter_map(ToolCall::of).collect()),
            Self::Requests(encoder) => encoder.push(told.filter_map(LlmRequest::of).collect()),
        }
    }

    fn finish(&mut self) -> Result<Bytes, formats::Unwritable> {
        match self {
            Self::Calls(encoder) => encoder.finish(),
            Self::Requests(encoder) => encoder.finish(),
        }
    }
}

/// A part on its way.
struct Writing {
    /// Away while it works.
    encoder: Option<Pen>,
    file: File,
    rows: i64,
}

impl Writing {
    async fn push(&mut self, told: Vec<follow::Told>) -> Result<(), Stop> {
        // It was opened for one kind of row, and without events.
        self.rows += i64::try_from(told.len()).unwrap_or(i64::MAX);
        self.step(move |pen| pen.push(told)).await
    }

    /// Compressing a row group takes longer than a thread that serves others may be held.
    async fn step(
        &mut self,
        work: impl FnOnce(&mut Pen) -> Result<Bytes, formats::Unwritable> + Send + 'static,
    ) -> Result<(), Stop> {
        let Some(mut encoder) = self.encoder.take() else { return Err(Stop::Lost) };
        let done = tokio::task::spawn_blocking(move || work(&mut encoder).map(|bytes| (bytes, encoder)));
        let (bytes, encoder) = done.await??;
        self.encoder = Some(encoder);
        if bytes.is_empty() { Ok(()) } else { Ok(self.file.write(bytes).await?) }
    }
}
