//! The audit writer: append-only rows under group commit.
//!
//! What queued while the last commit ran is the next batch; there is no timer to wait for. One statement writes a batch, and
//! an entry is acknowledged only after its commit. Entries carry ids made before the first try, and every insert says
//! `ON CONFLICT DO NOTHING`: a commit whose acknowledgement was lost is repeated without harm.

mod columns;
#[cfg(feature = "unaudited")]
mod unrecorded;

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use tokio::sync::{Mutex, mpsc, oneshot};
use tollgate_domain::{
    CallId, Currency, Decision, KeyId, LlmRequestId, Origin, Outcome, Picos, ScriptRunId, TeamId, TenantId, ToolId, UpstreamId,
    WorkerId, policy::Reason, price::Quote, tool::DefinitionHash,
};

use crate::{
    error::{StoreError, StoreResult},
    tx::Store,
};
use columns::Batch;

/// Entries that one commit takes at most.
const MAX_BATCH: usize = 1000;
/// Bytes of payload that one commit takes: well below what Postgres accepts in one message.
const MAX_BATCH_BYTES: usize = 16 << 20;
/// A batch that failed this often is written entry by entry: perhaps it is its size that is refused.
const WHOLE_TRIES: u32 = 3;
/// Commits under way at once: while one waits for the disk, the next is filled.
const WRITERS: usize = 2;
/// Longer than the server's own limit on a statement.
const COMMIT_WITHIN: Duration = Duration::from_secs(35);
/// How long a caller waits for its commit. The entry itself is retried until it is written.
const PATIENCE: Duration = Duration::from_secs(10);

/// The parent of calls.
#[derive(Debug, Clone)]
pub struct NewRequest {
    pub tenant: TenantId,
    pub id: LlmRequestId,
    pub key: KeyId,
    pub team: Option<TeamId>,
    pub origin: Origin,
    pub method: &'static str,
    pub model: Option<String>,
    /// Name and version of the client, as it says.
    pub client: Option<String>,
    pub at: DateTime<Utc>,
}

#[derive(Debug, Clone)]
pub struct NewRun {
    pub tenant: TenantId,
    pub id: ScriptRunId,
    pub request: LlmRequestId,
    pub key: KeyId,
    pub team: Option<TeamId>,
    pub source: String,
    /// Canonical JSON, packed.
    pub catalog: Vec<u8>,
    pub catalog_sha256: [u8; 32],
    pub engine: String,
    pub worker: WorkerId,
    pub at: DateTime<Utc>,
}

/// What is durable before the upstream hears of a call; for a call that is denied or held, all there is.
#[derive(Debug, Clone)]
pub struct Intent {
    pub tenant: TenantId,
    pub id: CallId,
    pub request: LlmRequestId,
    pub origin: Origin,
    pub place: Option<ScriptPlace>,
    pub key: KeyId,
    pub team: Option<TeamId>,
    pub upstream: Option<(UpstreamId, String)>,
    pub tool: Option<ToolId>,
    /// As the upstream calls it, or as the caller asked for it where there is no such tool.
    pub tool_name: String,
    pub definition: Option<DefinitionHash>,
    pub decision: Decision,
    pub reason: Option<Reason>,
    pub quote: Quote,
    pub currency: Currency,
    pub worker: WorkerId,
    /// The exact JSON text of the arguments.
    pub arguments: Arc<[u8]>,
    pub at: DateTime<Utc>,
}

/// Where in a script a call stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScriptPlace {
    pub run: ScriptRunId,
    /// From 1.
    pub sequence: u32,
}

/// What is durable before the answer is released.
#[derive(Debug, Clone)]
pub struct Completion {
    pub tenant: TenantId,
    pub id: CallId,
    pub outcome: Outcome,
    pub error: Option<String>,
    pub latency: Duration,
    pub amount: Picos,
    /// The exact JSON text of the result, where there is one.
    pub result: Option<Arc<[u8]>>,
    pub at: DateTime<Utc>,
}

/// What a script saw of one of its calls.
#[derive(Debug, Clone)]
pub struct JournalRow {
    pub tenant: TenantId,
    pub place: ScriptPlace,
    pub call: CallId,
    /// A `codemode::wire::JournalEntry` as JSON, packed.
    pub entry: Vec<u8>,
}

/// Rows that become durable together.
#[derive(Debug, Clone, Default)]
pub struct Entry {
    pub request: Option<NewRequest>,
    pub run: Option<NewRun>,
    pub intent: Option<Intent>,
    pub completions: Vec<Completion>,
    pub journal: Vec<JournalRow>,
}

impl Entry {
    fn bytes(&self) -> usize {
        let arguments = self.intent.as_ref().map_or(0, |intent| intent.arguments.len());
        let results = self.completions.iter().filter_map(|c| c.result.as_ref()).map(|r| r.len()).sum::<usize>();
        let script = self.run.as_ref().map_or(0, |run| run.source.len() + run.catalog.len());
        arguments + results + script + self.journal.iter().map(|row| row.entry.len()).sum::<usize>()
    }

    /// What a log may say of it: no payload, no source.
    fn names(&self) -> String {
        let calls = self.intent.iter().map(|i| i.id).chain(self.completions.iter().map(|c| c.id));
        let calls: Vec<_> = calls.map(|id| id.to_string()).collect();
        let run = self.run.as_ref().map(|run| run.id.to_string()).unwrap_or_default();
        let request = self.request.as_ref().map(|request| request.id.to_string()).unwrap_or_default();
        format!("calls {calls:?} run {run:?} request {request:?}")
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.request.is_none()
            && self.run.is_none()
            && self.intent.is_none()
            && self.completions.is_empty()
            && self.journal.is_empty()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuditError {
    #[error("the audit queue is full")]
    Overloaded,
    #[error("the audit trail cannot be written at present")]
    Unavailable,
}

struct Job {
    entry: Entry,
    done: oneshot::Sender<Result<(), AuditError>>,
    /// Drop the entry once nobody waits for it: true before something has happened, false for what has.
    abandonable: bool,
    /// Dropped when the entry is written or refused, however long that takes.
    _keep: Option<Keep>,
}

/// Something that must live until an entry is durable.
pub type Keep = Box<dyn Send + Sync>;

/// A handle on the writer tasks. Cheap to clone; the tasks end when the last handle is gone and the queue is empty.
#[derive(Debug, Clone)]
pub struct AuditWriter {
    queue: mpsc::Sender<Job>,
}

impl AuditWriter {
    /// Start the writer tasks on the current runtime. At most `queue` entries wait; beyond, callers are refused rather than
    /// kept waiting.
    #[must_use]
    pub fn start(store: &Store, queue: usize) -> Self {
        let (queue, jobs) = mpsc::channel(queue);
        let jobs = Arc::new(Mutex::new(jobs));
        for _ in 0..WRITERS {
            tokio::spawn(run(store.clone(), Arc::clone(&jobs)));
        }
        Self { queue }
    }

    /// Make an entry durable before going on. On an error the thing that it announces must not be done.
    ///
    /// # Errors
    /// [`AuditError`]; the entry may still become durable a moment later.
    pub async fn before(&self, entry: Entry) -> Result<(), AuditError> {
        let (done, answer) = oneshot::channel();
        self.queue.try_send(Job { entry, done, abandonable: true, _keep: None }).map_err(|_| AuditError::Overloaded)?;
        wait(answer).await
    }

    /// Make durable what has happened. Waits for a place in the queue, and the entry is retried for as long as the process
    /// lives; on an error its answer must not be released.
    ///
    /// # Errors
    /// [`AuditError::Unavailable`] when the commit takes longer than 10 s.
    pub async fn after(&self, entry: Entry) -> Result<(), AuditError> {
        self.after_keeping(entry, None).await
    }

    /// [`Self::after`], and `keep` lives until the entry is durable, also when that takes longer than anyone waits.
    ///
    /// # Errors
    /// As [`Self::after`].
    pub async fn after_keeping(&self, entry: Entry, keep: Option<Keep>) -> Result<(), AuditError> {
        let (done, answer) = oneshot::channel();
        self.queue.send(Job { entry, done, abandonable: false, _keep: keep }).await.map_err(|_| AuditError::Unavailable)?;
        wait(answer).await
    }
}

async fn wait(answer: oneshot::Receiver<Result<(), AuditError>>) -> Result<(), AuditError> {
    match tokio::time::timeout(PATIENCE, answer).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) | Err(_) => Err(AuditError::Unavailable),
    }
}

async fn run(store: Store, jobs: Arc<Mutex<mpsc::Receiver<Job>>>) {
    let mut batch = Vec::with_capacity(MAX_BATCH);
    loop {
        // The lock is held while filling a batch, not while committing it.
        if !fill(&mut *jobs.lock().await, &mut batch).await {
            return;
        }
        commit(&store, &mut batch).await;
    }
}

/// Wait for an entry and take what has queued behind it; false at the end.
async fn fill(jobs: &mut mpsc::Receiver<Job>, batch: &mut Vec<Job>) -> bool {
    let Some(first) = jobs.recv().await else { return false };
    let mut bytes = first.entry.bytes();
    batch.push(first);
    while batch.len() < MAX_BATCH && bytes < MAX_BATCH_BYTES {
        let Ok(job) = jobs.try_recv() else { break };
        bytes += job.entry.bytes();
        batch.push(job);
    }
    true
}

/// Write a batch, however often it takes, and acknowledge it. Leaves `batch` empty.
async fn commit(store: &Store, batch: &mut Vec<Job>) {
    let mut pause = Duration::from_millis(20);
    for attempt in 1.. {
        batch.retain(|job| !(job.abandonable && job.done.is_closed()));
        if batch.is_empty() {
            return;
        }
        let started = std::time::Instant::now();
        match write(store, batch.iter().map(|job| &job.entry)).await {
            Ok(()) => {
                #[expect(clippy::cast_precision_loss, reason = "a batch has at most 1,000 entries")]
                metrics::histogram!("tollgate_audit_batch_entries").record(batch.len() as f64);
                metrics::histogram!("tollgate_audit_commit_seconds").record(started.elapsed());
                for job in batch.drain(..) {
                    let _ = job.done.send(Ok(()));
                }
                return;
            }
            Err(error) if error.is_transient() && (attempt < WHOLE_TRIES || batch.len() == 1) => {
                metrics::counter!("tollgate_audit_commit_failures_total").increment(1);
                tracing::warn!(%error, entries = batch.len(), "audit commit failed; retrying");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(1));
            }
            // One row that Postgres refuses must not take its neighbours down with it.
            Err(_) => return one_by_one(store, batch).await,
        }
    }
}

async fn one_by_one(store: &Store, batch: &mut Vec<Job>) {
    for job in batch.drain(..) {
        let mut result = write(store, std::iter::once(&job.entry)).await;
        while result.as_ref().is_err_and(StoreError::is_transient) && !(job.abandonable && job.done.is_closed()) {
            tokio::time::sleep(Duration::from_millis(200)).await;
            result = write(store, std::iter::once(&job.entry)).await;
        }
        if let Err(error) = &result {
            metrics::counter!("tollgate_audit_refused_total").increment(1);
            tracing::error!(%error, entry = job.entry.names(), "the database refuses an audit row");
        }
        let _ = job.done.send(result.map_err(|_| AuditError::Unavailable));
    }
}

async fn write(store: &Store, entries: impl Iterator<Item = &Entry>) -> StoreResult<()> {
    let mut batch = Batch::default();
    entries.for_each(|entry| batch.push(entry));
    let written = async {
        let mut tx = store.writer().await?;
        batch.insert(&mut tx).await?;
        Ok(tx.commit().await?)
    };
    // A connection into nothing must not hold a writer; the entries are written again, under the same ids.
    tokio::time::timeout(COMMIT_WITHIN, written).await.unwrap_or(Err(StoreError::Unavailable(sqlx::Error::PoolTimedOut)))
}
