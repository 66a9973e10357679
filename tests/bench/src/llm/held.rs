//! What an open stream holds of the worker's memory.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::{StreamExt, future::try_join_all};
use tokio::{sync::watch, time::sleep};

use super::stage::Stage;
use crate::{dice::to_f64, load::Target, process::Process};

/// What a worker has done before it is looked at: memory of its first requests is none of a stream's.
const WARM_UP: usize = 8;
/// Pieces that have come by on every stream.
const SEEN: usize = 4;
/// Streams that are opened at once.
const AT_ONCE: usize = 64;
/// Memory that is free goes back to the system by then.
const SETTLE: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(60);

/// Resident memory, in KiB.
#[derive(Debug)]
pub struct Held {
    pub streams: usize,
    pub before: f64,
    pub open: f64,
    pub after: f64,
}

impl Held {
    pub fn each(&self) -> f64 {
        (self.open - self.before) / to_f64(self.streams)
    }
}

/// A worker of its own, so that nothing that others have left is counted, and nothing is hidden in it.
pub async fn measure(stage: &Stage, streams: usize) -> Result<Held> {
    let (worker, slow, ending) = stage.fresh().await?;
    let resident = |worker: &Process| Ok::<_, anyhow::Error>(to_f64(usize::try_from(worker.resident_kib()?)?));
    let round = ending.round(WARM_UP, Duration::from_millis(500)).await?;
    if round.failed > 0 {
        bail!("{} requests have failed", round.failed);
    }
    hold(&slow, WARM_UP, async || Ok(())).await?;
    sleep(SETTLE).await;
    let before = resident(&worker)?;
    let mut open = 0.0;
    hold(&slow, streams, async || {
        open = resident(&worker)?;
        Ok(())
    })
    .await?;
    sleep(SETTLE).await;
    let after = resident(&worker)?;
    worker.stop().await?;
    Ok(Held { streams, before, open, after })
}

/// What a connection of a caller's holds that is idle, in KiB: one after the other, so that none to the provider is left behind it.
pub async fn idle(stage: &Stage, connections: usize) -> Result<f64> {
    let (worker, _, ending) = stage.fresh().await?;
    let resident = || Ok::<_, anyhow::Error>(to_f64(usize::try_from(worker.resident_kib()?)?));
    drop(ending.idle().await?);
    sleep(SETTLE).await;
    let before = resident()?;
    let mut open = Vec::new();
    for _ in 0..connections {
        open.push(ending.idle().await?);
    }
    sleep(SETTLE).await;
    let each = (resident()? - before) / to_f64(connections);
    drop(open);
    worker.stop().await?;
    Ok(each)
}

/// Open streams, read of each, and look while all are open.
async fn hold(target: &Target, streams: usize, look: impl AsyncFnOnce() -> Result<()>) -> Result<()> {
    let (end, ended) = watch::channel(false);
    let mut seen = Vec::new();
    let mut readers = Vec::new();
    while readers.len() < streams {
        let opened = try_join_all((0..AT_ONCE.min(streams - readers.len())).map(|_| target.open())).await?;
        for mut stream in opened {
            let (mut ended, (tell, told)) = (ended.clone(), tokio::sync::oneshot::channel());
            seen.push(told);
            readers.push(tokio::spawn(async move {
                let (mut tell, mut came) = (Some(tell), 0);
                loop {
                    tokio::select! {
                        _ = ended.changed() => return anyhow::Ok(()),
                        piece = stream.next() => drop(piece.context("a stream has ended")??),
                    }
                    came += 1;
                    if came == SEEN {
                        let _ = tell.take().map(|tell| tell.send(()));
                    }
                }
            }));
        }
    }
    tokio::time::timeout(PATIENCE, try_join_all(seen)).await.context("the streams say nothing")?.context("a stream broke")?;
    look().await?;
    end.send_replace(true);
    for reader in try_join_all(readers).await? {
        reader?;
    }
    Ok(())
}
