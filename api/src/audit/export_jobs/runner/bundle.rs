//! A job that writes a bundle: one file, which is there when it is whole. A bundle cannot be continued in the middle, since it is
//! one archive from one snapshot: whoever takes the job next begins it again, and it covers the same seals.

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tollgate_store::{
    StoreError,
    bundle::{self, Bundle, Cover},
    export_jobs::{self, Job, Left, Part, Taken},
};

use super::{File, Folder, Runner, Stop};

pub const FILE: &str = "bundle.tar.zst";
/// Pieces between the database and the destination, each a few MiB at most.
const PIECES: usize = 2;

impl Runner {
    pub(super) async fn bundle(
        &self,
        taken: Taken,
        job: &Job,
        mut parts: Vec<Part>,
        place: &Folder,
        lost: &CancellationToken,
    ) -> Result<Left, Stop> {
        // It may be that only the manifest is missing.
        if parts.is_empty() {
            let Some(part) = self.archive(taken, job, place, lost).await? else { return Ok(Left::Queued) };
            let until = u64::try_from(job.until).unwrap_or(0);
            if !export_jobs::keep_part(&self.app.store, taken, &part, until, self.app.clock.now()).await? {
                return Err(Stop::Lost);
            }
            parts.push(part);
        }
        self.conclude(taken, job, &parts, place).await
    }

    /// Write the file; nothing where the job has to wait, or the process ends.
    async fn archive(&self, taken: Taken, job: &Job, place: &Folder, lost: &CancellationToken) -> Result<Option<Part>, Stop> {
        let shutdown = || self.app.shutdown.requested();
        // It holds a connection as long as it lasts: it takes its turn with those who download.
        let _seat = tokio::select! {
            seat = self.app.downloads.acquire() => seat,
            () = lost.cancelled() => return Err(Stop::Lost),
            () = shutdown() => return Ok(None),
        };
        let position = |n: i64| u64::try_from(n).unwrap_or(0);
        let (first, until) = (position(job.first), position(job.until));
        let cover = Cover { first: Some(first), until: Some(until), ..Cover::default() };
        let bundle = match bundle::open(&self.app.store, taken.tenant, cover, self.app.clock.now()).await {
            Ok(bundle) if bundle.positions() == (first, until) => bundle,
            // An erasure of a moment ago is about to be sealed.
            Err(StoreError::Conflict(_)) => return Ok(None),
            Ok(_) | Err(StoreError::Invalid { .. }) => {
                return Err(Stop::Changed("rows that it covers went with their retention; ask for a later time"));
            }
            Err(error) => return Err(error.into()),
        };
        let mut file = place.create(FILE);
        let copied = tokio::select! {
            copied = self.copy(taken, bundle, &mut file) => copied,
            () = lost.cancelled() => Err(Stop::Lost),
            () = shutdown() => {
                file.abandon().await;
                return Ok(None);
            }
        };
        // Asked at the last moment: of two who believe that the job is theirs, one finishes the file.
        let own = match copied {
            Ok(()) => export_jobs::beat(&self.app.store, taken, self.app.clock.now()).await.map_err(Stop::from),
            Err(stop) => Err(stop),
        };
        if !matches!(own, Ok(true)) {
            file.abandon().await;
            return Err(own.err().unwrap_or(Stop::Lost));
        }
        let whole = file.finish().await?;
        let rows = job.until - job.first;
        Ok(Some(Part { number: 1, name: FILE.to_owned(), rows, bytes: whole.bytes, sha256: whole.sha256 }))
    }

    async fn copy(&self, taken: Taken, mut bundle: Bundle, file: &mut File) -> Result<(), Stop> {
        let (out, mut pieces) = mpsc::channel::<Vec<u8>>(PIECES);
        let make = async move {
            while bundle.next(&out).await.map_err(stalled)? {
                let now = self.app.clock.now();
                if !export_jobs::advance(&self.app.store, taken, bundle.reached(), now).await? {
                    return Err(Stop::Lost);
                }
            }
            bundle.finish(self.app.store.keys(), &out).await.map_err(stalled)
        };
        let take = async {
            while let Some(piece) = pieces.recv().await {
                file.write(piece.into()).await?;
            }
            Ok(())
        };
        tokio::try_join!(make, take).map(drop)
    }
}

/// The snapshot keeps Postgres from tidying up: it is not kept for a destination that does not take anything.
fn stalled(error: StoreError) -> Stop {
    match error {
        StoreError::Conflict(_) => Stop::Changed("the destination took nothing for a minute"),
        error => error.into(),
    }
}
