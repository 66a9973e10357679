//! An export that proves itself: whole seals with their rows, payloads, proofs and keys, in one archive.

use std::io;

use axum::body::Body;
use bytes::Bytes;
use futures::stream;
use serde_json::json;
use tokio::sync::mpsc;
use tollgate_evidence::sign::KeyRing;
use tollgate_store::{
    StoreError,
    bundle::{self, Bundle, Cover},
    export,
};

use super::export::{ExportQuery, answer as file, seat};
use crate::{check::Checks, ctx::Ctx, problem::Answer};

pub const NAME: &str = "bundle";

/// Pieces of the archive between the database and the client, each a few MiB at most.
const PIECES: usize = 2;

pub async fn answer(ctx: &Ctx, asked: &ExportQuery) -> Answer {
    let mut checks = Checks::default();
    let filtered = asked.key_id.is_some() || asked.team_id.is_some() || asked.tool_id.is_some() || asked.upstream_id.is_some();
    checks.require(!filtered && asked.outcome.is_none(), "?format", "a bundle proves whole seals: leave the filters out");
    checks.require(asked.cursor.is_none(), "?cursor", "a bundle has no cursor; use `from`: the seals made since");
    checks.require(asked.from.zip(asked.to).is_none_or(|(from, to)| from <= to), "?from", "use a time before `to`");
    checks.done()?;
    let change = ctx.app.store.change(ctx.tenant, ctx.actor(), ctx.now).await?;
    export::announce(change, &ctx.tenant, json!({"format": NAME, "from": asked.from, "to": asked.to})).await?;
    let seat = seat(ctx)?;
    let bundle =
        bundle::open(&ctx.app.store, ctx.tenant, Cover { from: asked.from, to: asked.to, ..Cover::default() }, ctx.now).await?;
    let (out, pieces) = mpsc::channel(PIECES);
    let (done, end) = mpsc::channel(1);
    let keys = std::sync::Arc::clone(ctx.app.store.keys());
    tokio::spawn(async move {
        // Whoever reads is told by the end alone: a transfer that is not whole breaks.
        let result = tokio::select! {
            result = write(bundle, &keys, &out) => result,
            () = out.closed() => return,
        };
        drop(seat);
        let _ = done.send(result).await;
    });
    Ok(file(ctx, ("audit-bundle", "tar.zst", "application/zstd"), Body::from_stream(body(pieces, end))))
}

async fn write(mut bundle: Bundle, keys: &KeyRing, out: &mpsc::Sender<Vec<u8>>) -> Result<(), StoreError> {
    while bundle.next(out).await? {}
    bundle.finish(keys, out).await
}

type End = mpsc::Receiver<Result<(), StoreError>>;

/// The pieces, then the end; a bundle that could not be finished breaks the transfer.
fn body(pieces: mpsc::Receiver<Vec<u8>>, end: End) -> impl futures::Stream<Item = io::Result<Bytes>> {
    stream::unfold(Some((pieces, end)), async |state| {
        let (mut pieces, mut end) = state?;
        if let Some(piece) = pieces.recv().await {
            return Some((Ok(Bytes::from(piece)), Some((pieces, end))));
        }
        match end.recv().await {
            Some(Ok(())) => None,
            broken => {
                let why = broken.and_then(Result::err).map_or_else(|| "its writer ended early".to_owned(), |e| e.to_string());
                tracing::error!(error = why, "a bundle was broken off");
                Some((Err(io::Error::other("the bundle was broken off")), None))
            }
        }
    })
}
