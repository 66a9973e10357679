//! The audit writer: append-only rows under group commit.
//!
//! What queued while the last commit ran is the next batch; there is no timer to wait for. One statement writes a batch, and
//! an entry is acknowledged only after its commit. Entries carry ids made before the first try, and every insert says
//! `ON CONFLICT DO NOTHING`: a commit whose acknowledgement was lost is repeated without harm.
//!
//! Each task signs its batches and chains them, one to the next ([`tollgate_evidence::batch`]), in their own commit. A batch of
//! which nobody knows whether it was committed is repeated exactly as it was until that is known: under the same number in the
//! chain there can only ever be one.

mod columns;
mod forwards;
mod link;
mod rows;
#[cfg(feature = "unaudited")]
mod unrecorded;

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tollgate_evidence::{Hash, sign::KeyRing};
use uuid::Uuid;

use crate::{error::StoreError, ledger::SignedBatch, tx::Store};
use columns::Batch;
use link::{Failure, Link};
pub use rows::{
    Completion, Entry, Forward, Intent, JournalRow, LlmEnd, LlmResolution, NewRequest, NewRun, Resolution, RunEnd, RunResolution,
    ScriptPlace,
};

/// Entries that one commit takes at most.
const MAX_BATCH: usize = 1000;
/// Bytes of payload that one commit takes: well below what Postgres accepts in one message.
const MAX_BATCH_BYTES: usize = 16 << 20;
/// A batch that failed this often is written entry by entry: perhaps it is its size that is refused.
const WHOLE_TRIES: u32 = 3;
/// And one under which the session ended this often, without anyone knowing what became of it.
const DOUBTS: u32 = 5;
/// Commits under way at once: while one waits for the disk, the next is filled.
const WRITERS: usize = 2;
/// How long a caller waits for its commit. The entry itself is retried until it is written.
const PATIENCE: Duration = Duration::from_secs(10);
/// How far an entry that nobody waits for may trail before the next ones are waited for.
pub const LAG: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuditError {
    #[error("the audit queue is full")]
    Overloaded,
    #[error("the audit trail cannot be written at present")]
    Unavailable,
    /// The entry was not written and will not be: its call draws from a lease that has ended. A new lease, and a new entry.
    #[error("a lease of a budget has ended")]
    LeaseEnded,
}

/// Why a batch was not written, and is not tried again as it is.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
struct Unwritten {
    why: Why,
    /// Nobody can find any of it in the database later.
    certain: bool,
}

#[derive(Debug, thiserror::Error)]
enum Why {
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("a lease of a budget has ended")]
    LeaseEnded,
}

/// What becomes of an entry for which nobody waits any more.
#[derive(Debug)]
pub struct Fate(oneshot::Receiver<Result<(), AuditError>>);

impl Fate {
    /// Wait until it is known; false where the entry is not in the database and never will be.
    pub async fn may_stand(self) -> bool {
        !matches!(self.0.await, Ok(Err(AuditError::LeaseEnded | AuditError::Overloaded)))
    }
}

struct Job {
    entry: Entry,
    done: oneshot::Sender<Result<(), AuditError>>,
    /// Drop the entry once nobody waits for it: true before something has happened, false for what has.
    abandonable: bool,
    /// Its share of the memory that waiting entries may take.
    _room: OwnedSemaphorePermit,
    /// Dropped when the entry is written or refused, however long that takes.
    _keep: Option<Keep>,
}

/// Something that must live until an entry is durable.
pub type Keep = Box<dyn Send + Sync>;

/// What waits at most. Beyond, beginnings are refused, and ends wait for room.
#[derive(Debug, Clone, Copy)]
pub struct QueueLimits {
    pub entries: usize,
    pub bytes: usize,
}

/// A handle on the writer tasks. Cheap to clone; the tasks end when the last handle is gone and the queue is empty.
#[derive(Debug, Clone)]
pub struct AuditWriter {
    queue: mpsc::Sender<Job>,
    /// In units of [`UNIT`].
    room: Arc<Semaphore>,
    all_room: u32,
    trailing: Register,
}

/// Room is counted in KiB: a semaphore's permits are 32 bits.
const UNIT: usize = 1 << 10;

impl AuditWriter {
    /// Start the writer tasks on the current runtime.
    #[must_use]
    pub fn start(store: &Store, limits: QueueLimits) -> Self {
        let (writer, jobs) = Self::with_queue(limits);
        let jobs = Arc::new(Mutex::new(jobs));
        for _ in 0..WRITERS {
            let chain = Chain::new();
            tokio::spawn(Task { keys: Arc::clone(store.keys()), link: Link::to(store), chain }.run(Arc::clone(&jobs)));
        }
        writer
    }

    fn with_queue(limits: QueueLimits) -> (Self, mpsc::Receiver<Job>) {
        let (queue, jobs) = mpsc::channel(limits.entries);
        let all_room = u32::try_from(limits.bytes / UNIT).unwrap_or(u32::MAX >> 3).clamp(1, u32::MAX >> 3);
        let room = Arc::new(Semaphore::new(usize::try_from(all_room).unwrap_or(Semaphore::MAX_PERMITS)));
        (Self { queue, room, all_room, trailing: Register::default() }, jobs)
    }

    /// Make an entry durable before going on. On an error the thing that it announces must not be done.
    ///
    /// # Errors
    /// [`AuditError`]; the entry may still become durable a moment later.
    pub async fn before(&self, entry: Entry) -> Result<(), AuditError> {
        wait(self.offer(entry)?).await
    }

    /// A place in the queue for what has not begun, or none.
    fn offer(&self, entry: Entry) -> Result<oneshot::Receiver<Result<(), AuditError>>, AuditError> {
        let room = Arc::clone(&self.room).try_acquire_many_owned(self.share(&entry)).map_err(|_| AuditError::Overloaded)?;
        let (done, answer) = oneshot::channel();
        let job = Job { entry, done, abandonable: true, _room: room, _keep: None };
        self.queue.try_send(job).map_err(|_| AuditError::Overloaded)?;
        Ok(answer)
    }

    /// Make an intent durable, with what it carries: [`Self::after`] where that has happened, [`Self::before`] else. Where it is not known
    /// in time, the entry goes on being written, and what became of it can be waited for: its end must not come before it.
    ///
    /// # Errors
    /// As those two.
    pub async fn intent(&self, entry: Entry) -> Result<(), (AuditError, Option<Fate>)> {
        let queued = if entry.completions.is_empty() { self.offer(entry) } else { self.enqueue(entry, None).await };
        let mut answer = queued.map_err(|error| (error, None))?;
        match tokio::time::timeout(PATIENCE, &mut answer).await {
            Ok(Ok(result)) => result.map_err(|error| (error, None)),
            Ok(Err(_)) => Err((AuditError::Unavailable, None)),
            Err(_) => Err((AuditError::Unavailable, Some(Fate(answer)))),
        }
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
        wait(self.enqueue(entry, keep).await?).await
    }

    /// [`Self::after_keeping`] without the wait for the commit: the entry has its place in the queue when this returns. Once an
    /// entry has trailed for longer than [`LAG`], the next ones wait for their commits, until the writer has caught up.
    ///
    /// # Errors
    /// As [`Self::after`].
    pub async fn trailing(&self, entry: Entry, keep: Option<Keep>) -> Result<(), AuditError> {
        if self.trailing.oldest().is_some_and(|since| since.elapsed() > LAG) {
            return self.after_keeping(entry, keep).await;
        }
        let guard = self.trailing.enter();
        self.enqueue(entry, Some(Box::new((guard, keep)))).await.map(drop)
    }

    async fn enqueue(&self, entry: Entry, keep: Option<Keep>) -> Result<oneshot::Receiver<Result<(), AuditError>>, AuditError> {
        let room = Arc::clone(&self.room).acquire_many_owned(self.share(&entry)).await.map_err(|_| AuditError::Unavailable)?;
        let (done, answer) = oneshot::channel();
        let job = Job { entry, done, abandonable: false, _room: room, _keep: keep };
        self.queue.send(job).await.map_err(|_| AuditError::Unavailable)?;
        Ok(answer)
    }

    /// One entry that is larger than all room takes all of it, and passes alone.
    fn share(&self, entry: &Entry) -> u32 {
        u32::try_from(entry.bytes().div_ceil(UNIT)).unwrap_or(u32::MAX).clamp(1, self.all_room)
    }
}

/// The entries that nobody waits for, by the time since when.
#[derive(Debug, Clone, Default)]
struct Register(Arc<std::sync::Mutex<BTreeSet<(Instant, u64)>>>, Arc<AtomicU64>);

struct RegisterGuard {
    entry: (Instant, u64),
    register: Register,
}

impl Register {
    fn set(&self) -> std::sync::MutexGuard<'_, BTreeSet<(Instant, u64)>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn enter(&self) -> RegisterGuard {
        let entry = (Instant::now(), self.1.fetch_add(1, Ordering::Relaxed));
        self.set().insert(entry);
        RegisterGuard { entry, register: self.clone() }
    }

    fn oldest(&self) -> Option<Instant> {
        self.set().first().map(|(since, _)| *since)
    }
}

impl Drop for RegisterGuard {
    fn drop(&mut self) {
        self.register.set().remove(&self.entry);
    }
}

async fn wait(answer: oneshot::Receiver<Result<(), AuditError>>) -> Result<(), AuditError> {
    match tokio::time::timeout(PATIENCE, answer).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) | Err(_) => Err(AuditError::Unavailable),
    }
}

/// Where a task's chain of batches ends.
struct Chain {
    writer: Uuid,
    end: (i64, Hash),
}

impl Chain {
    fn new() -> Self {
        Self { writer: Uuid::new_v4(), end: (0, Hash::ZERO) }
    }
}

struct Task {
    keys: Arc<KeyRing>,
    link: Link,
    chain: Chain,
}

/// A batch in the form in which it is written, however often.
struct Prepared {
    rows: Batch,
    signed: SignedBatch,
}

impl Task {
    async fn run(mut self, jobs: Arc<Mutex<mpsc::Receiver<Job>>>) {
        let mut batch = Vec::with_capacity(MAX_BATCH);
        loop {
            // The lock is held while filling a batch, not while committing it.
            if !fill(&mut *jobs.lock().await, &mut batch).await {
                return;
            }
            if let Err(error) = self.commit(&mut batch).await {
                // Perhaps it is the batch's size that is refused, and one row that Postgres refuses must not take its
                // neighbours down with it.
                tracing::warn!(%error, entries = batch.len(), "an audit batch is refused; its entries are written one by one");
                for job in std::mem::take(&mut batch) {
                    self.alone(job, error.certain).await;
                }
            }
        }
    }

    /// `certain`: it is not in the database yet.
    async fn alone(&mut self, job: Job, certain: bool) {
        let mut one = vec![job];
        let error = match self.commit(&mut one).await {
            Ok(()) => return,
            Err(Unwritten { why: Why::LeaseEnded, certain: still }) => return self.refuse(one, certain && still).await,
            Err(error) => error,
        };
        // What has happened is told with less rather than not at all: a call that was made must not stand open for ever.
        if let Some(job) = one.first_mut().filter(|job| !job.abandonable) {
            tracing::error!(%error, entry = job.entry.names(), "the database refuses an audit row; it is written without its payloads");
            job.entry.without_payloads();
            match self.commit(&mut one).await {
                Ok(()) => return,
                Err(Unwritten { why: Why::LeaseEnded, certain: still }) => return self.refuse(one, certain && still).await,
                Err(_) => {}
            }
        }
        for job in one {
            metrics::counter!("tollgate_audit_refused_total").increment(1);
            tracing::error!(%error, entry = job.entry.names(), "the database refuses an audit row");
            let _ = job.done.send(Err(AuditError::Unavailable));
        }
    }

    /// A call that draws from a lease that has ended is not made. What its entry carries has happened, and is written here: its caller
    /// may have gone, and must not have to bring it again. Where the intent may stand in the database already, its caller is told no
    /// more than that nobody knows.
    async fn refuse(&mut self, mut one: Vec<Job>, certain: bool) {
        let Some(mut job) = one.pop() else { return };
        let (nobody, _) = oneshot::channel();
        let done = std::mem::replace(&mut job.done, nobody);
        job.entry.intent = None;
        job.entry.request.take_if(|request| request.forward.is_some());
        job.abandonable = false;
        let mut told = if certain { AuditError::LeaseEnded } else { AuditError::Unavailable };
        if !job.entry.is_empty() {
            one.push(job);
            if let Err(error) = self.commit(&mut one).await {
                tracing::error!(%error, "the database refuses an audit row");
                told = AuditError::Unavailable;
            }
        }
        let _ = done.send(Err(told));
    }

    /// Write a batch and acknowledge it. Leaves `batch` empty, or as it was when the database refuses it as a whole.
    async fn commit(&mut self, batch: &mut Vec<Job>) -> Result<(), Unwritten> {
        let mut pause = Duration::from_millis(20);
        let (mut in_doubt, mut doubts) = (None, 0);
        for attempt in 1.. {
            let doubted = in_doubt.is_some();
            let prepared = match in_doubt.take() {
                Some(prepared) => prepared,
                None => {
                    batch.retain(|job| !(job.abandonable && job.done.is_closed()));
                    if batch.is_empty() {
                        return Ok(());
                    }
                    self.prepare(batch.iter().map(|job| &job.entry))
                }
            };
            let started = Instant::now();
            let error = match self.link.write(&prepared.rows, &prepared.signed, doubted).await {
                Ok(()) => {
                    self.chain.end = (prepared.signed.batch.sequence, prepared.signed.batch.root);
                    measure(batch.len(), started);
                    for job in batch.drain(..) {
                        let _ = job.done.send(Ok(()));
                    }
                    return Ok(());
                }
                // It stays in doubt while the database is away or refuses: it may hold the batch under its number already.
                Err(Failure::Refused(error)) if !doubted => {
                    if !error.is_transient() || (attempt >= WHOLE_TRIES && batch.len() > 1) {
                        return Err(Unwritten { why: error.into(), certain: true });
                    }
                    error
                }
                Err(Failure::LeaseEnded) => {
                    if doubted {
                        self.chain = Chain::new();
                    }
                    return Err(Unwritten { why: Why::LeaseEnded, certain: !doubted });
                }
                Err(Failure::Taken) => {
                    tracing::error!(writer = %self.chain.writer, "another batch stands under a writer's next number; its chain begins anew");
                    self.chain = Chain::new();
                    continue;
                }
                // Perhaps it is the batch that ends the session. Under a chain of their own its entries may come to stand in the log
                // twice, and are there for certain.
                Err(Failure::InDoubt(error)) if doubts >= DOUBTS && batch.len() > 1 => {
                    self.chain = Chain::new();
                    return Err(Unwritten { why: error.into(), certain: false });
                }
                Err(Failure::InDoubt(error)) => {
                    (in_doubt, doubts) = (Some(prepared), doubts + 1);
                    error
                }
                Err(Failure::Refused(error)) => {
                    in_doubt = Some(prepared);
                    error
                }
            };
            metrics::counter!("tollgate_audit_commit_failures_total").increment(1);
            tracing::warn!(%error, entries = batch.len(), "audit commit failed; retrying");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
        Ok(())
    }

    fn prepare<'a>(&self, entries: impl Iterator<Item = &'a Entry>) -> Prepared {
        let mut rows = Batch::new(&self.keys);
        entries.for_each(|entry| rows.push(entry));
        let signed = SignedBatch::next(self.chain.writer, self.chain.end, rows.lines(), rows.newest(), &self.keys);
        Prepared { rows, signed }
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

#[expect(clippy::cast_precision_loss, reason = "a batch has at most 1,000 entries")]
fn measure(entries: usize, started: Instant) {
    metrics::histogram!("tollgate_audit_batch_entries").record(entries as f64);
    metrics::histogram!("tollgate_audit_commit_seconds").record(started.elapsed());
}
