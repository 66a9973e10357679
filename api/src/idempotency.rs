//! Idempotency-Key: a POST that is sent again is answered again, not done again.
//!
//! The answer is kept in the write's own transaction, so it exists if and only if the write does. The key belongs to the
//! tenant of the path and to the principal; a lock on the three makes duplicates wait for the first. Answers may hold a
//! secret that is shown once: they rest sealed, and only for a day.
//!
//! `POST /v1/tenants` has no tenant yet. Its answers are kept under the nil UUID, the place of what belongs to the
//! deployment: the row must be found before the new tenant's id is known, and no tenant may read it.

use axum::{
    http::{HeaderValue, StatusCode},
    response::IntoResponse,
};
use chrono::Duration;
use tollgate_domain::tool::sha256;
use tollgate_store::{Change, idempotency};

use crate::{
    ctx::{Ctx, Reply},
    problem::{Kind, Problem, Stop},
};

pub const HEADER: &str = "idempotency-key";
pub const REPLAYED: &str = "idempotency-replayed";
const MAX_KEY: usize = 255;

/// How long an answer is remembered.
#[must_use]
pub const fn kept() -> Duration {
    Duration::hours(24)
}

/// A key that is new: its answer is to be kept.
#[derive(Debug)]
pub struct Remember {
    key: String,
    request_hash: [u8; 32],
}

impl Remember {
    /// `None` without the header.
    ///
    /// # Errors
    /// A remembered answer; 422 when the key was used for another request; 400 when it cannot be a key.
    pub(crate) async fn look_up(ctx: &Ctx, change: &mut Change, body_sha256: &[u8; 32]) -> Result<Option<Self>, Stop> {
        let Some(key) = read_key(ctx)? else { return Ok(None) };
        let request_hash = request_hash(ctx, body_sha256);
        let Some(kept) = idempotency::find(change, &ctx.admin.principal, &key, ctx.now - kept()).await? else {
            return Ok(Some(Self { key, request_hash }));
        };
        if kept.request_hash != request_hash {
            return Err(Problem::new(Kind::IdempotencyKeyReused).into());
        }
        let purpose = purpose(ctx, &key);
        let plain = ctx.app.secrets.vault.open(&purpose, &kept.sealed_answer).map_err(|e| Problem::unopened(&e))?;
        let mut reply: Reply = serde_json::from_slice(&plain).map_err(|e| Problem::internal(&e))?;
        reply.status = u16::try_from(kept.status).ok().and_then(|s| StatusCode::from_u16(s).ok()).unwrap_or_default();
        let mut answer = reply.into_response();
        answer.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
        Err(Stop::Replay(Box::new(answer)))
    }

    pub(crate) async fn keep(self, ctx: &Ctx, change: &mut Change, reply: &Reply) -> Result<(), Stop> {
        let plain = serde_json::to_vec(reply).map_err(|e| Problem::internal(&e))?;
        let sealed_answer = ctx.app.secrets.vault.seal(&purpose(ctx, &self.key), &plain);
        let answer = idempotency::Kept {
            request_hash: self.request_hash.to_vec(),
            status: i16::try_from(reply.status.as_u16()).unwrap_or(i16::MAX),
            sealed_answer,
        };
        Ok(idempotency::keep(change, ctx.tenant, &ctx.admin.principal, &self.key, &answer).await?)
    }
}

fn read_key(ctx: &Ctx) -> Result<Option<String>, Problem> {
    let mut values = ctx.headers.get_all(HEADER).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let fits = |key: &&str| !key.is_empty() && key.len() <= MAX_KEY;
    match value.to_str().ok().filter(fits) {
        Some(key) if values.next().is_none() => Ok(Some(key.to_owned())),
        _ => {
            Err(Problem::because(Kind::BadIdempotencyKey, format!("Send it once, as 1 to {MAX_KEY} printable ASCII characters.")))
        }
    }
}

/// What makes two requests the same: method, path and the bytes of the body.
fn request_hash(ctx: &Ctx, body_sha256: &[u8; 32]) -> [u8; 32] {
    let mut text = format!("{}\n{}\n", ctx.method, ctx.path).into_bytes();
    text.extend_from_slice(body_sha256);
    sha256(&text)
}

fn purpose(ctx: &Ctx, key: &str) -> String {
    idempotency::purpose(ctx.tenant, &ctx.admin.principal, key)
}
