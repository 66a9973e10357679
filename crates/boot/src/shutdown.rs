//! One orderly end for a whole process: something asks for it once, every part hears of it, and the last one out is
//! waited for.

use std::{future::Future, time::Duration};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::{
    sync::{CancellationToken, WaitForCancellationFuture},
    task::TaskTracker,
};

/// Cheap to clone; all clones are one.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    token: CancellationToken,
    tasks: TaskTracker,
}

/// What `drain` found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    Clean,
    /// So many tasks had not ended in time; they end with the process.
    Abandoned(usize),
}

impl Shutdown {
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets SIGTERM and SIGINT (Ctrl-C) ask for the end. A second signal does not wait: whoever presses Ctrl-C twice
    /// means it.
    pub fn on_signals(&self) -> std::io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let shutdown = self.clone();
        tokio::spawn(async move {
            let name = next(&mut terminate, &mut interrupt).await;
            shutdown.trigger(name);
            let name = next(&mut terminate, &mut interrupt).await;
            tracing::warn!("{name} came a second time: stopping without waiting");
            std::process::exit(130);
        });
        Ok(())
    }

    /// Asks for the end; later calls change nothing. The reason is logged, not kept.
    pub fn trigger(&self, reason: &str) {
        if !self.token.is_cancelled() {
            tracing::info!(reason, "stopping");
            self.token.cancel();
        }
    }

    pub fn is_requested(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Resolves when the end has been asked for.
    pub fn requested(&self) -> WaitForCancellationFuture<'_> {
        self.token.cancelled()
    }

    /// For libraries that take a token. Cancelling a child does not end the process.
    pub fn child_token(&self) -> CancellationToken {
        self.token.child_token()
    }

    /// Spawns work that `drain` waits for. It must watch `requested` itself, or be short.
    pub fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tasks.spawn(task)
    }

    /// Waits until everything spawned here has ended.
    pub async fn drain(&self, limit: Duration) -> Drained {
        self.tasks.close();
        match timeout(limit, self.tasks.wait()).await {
            Ok(()) => Drained::Clean,
            Err(_) => Drained::Abandoned(self.tasks.len()),
        }
    }
}

async fn next(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn drain_waits_for_work_in_flight() {
        let shutdown = Shutdown::new();
        let inner = shutdown.clone();
        shutdown.spawn(async move { inner.requested().await });
        shutdown.trigger("test");
        assert_eq!(shutdown.drain(Duration::from_secs(5)).await, Drained::Clean);
    }

    #[tokio::test]
    async fn drain_gives_up_on_what_does_not_end() {
        let shutdown = Shutdown::new();
        shutdown.spawn(std::future::pending::<()>());
        assert_eq!(shutdown.drain(Duration::from_millis(10)).await, Drained::Abandoned(1));
    }
}
