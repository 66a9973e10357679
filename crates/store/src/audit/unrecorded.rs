//! A writer that keeps nothing: what the price of the audit trail is measured against. Compiled for the benchmark alone.

use super::{AuditWriter, QueueLimits};

impl AuditWriter {
    /// Acknowledges every entry as durable and drops it. It takes the way through the queue and a task as [`Self::start`]
    /// does, so that what differs is the writing and nothing else.
    #[must_use]
    pub fn unrecorded(limits: QueueLimits) -> Self {
        let (writer, mut jobs) = Self::with_queue(limits);
        tokio::spawn(async move {
            while let Some(job) = jobs.recv().await {
                // Whoever asked may have gone.
                let _ = job.done.send(Ok(()));
            }
        });
        writer
    }
}
