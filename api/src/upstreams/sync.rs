use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::{Instant, sleep};
use tollgate_domain::{SyncRequestId, UpstreamId};
use tollgate_store::sync;
use utoipa::ToSchema;

use crate::{
    ctx::{Ctx, Id, Resource},
    idempotency,
    json::{MaybeJson, NoFields},
    problem::{Answer, Kind, Problem},
};

const WAIT: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(50);

/// What the synchronisation changed, by the tools' names.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Synced {
    /// New, or back after they had gone.
    pub added: Vec<String>,
    /// Their definitions differ from the ones known; unless an approved one has come back, they are quarantined.
    pub changed: Vec<String>,
    pub removed: Vec<String>,
}

impl Resource for Synced {}

/// Discover an upstream's tools now.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant_id}/upstreams/{upstream_id}/sync", request_body = Option<NoFields>,
    responses(
        (status = 200, description = "Synchronised.", body = Synced),
        (status = 502, description = "The upstream could not be reached.", body = crate::problem::ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn handle(ctx: Ctx, Id(id): Id<UpstreamId>, body: MaybeJson<NoFields>) -> Answer {
    // Nothing is kept open while a worker is at work, so the Idempotency-Key is looked up before and kept after. Two
    // requests at once may then both synchronise, which harms nobody.
    let keyed = ctx.headers.contains_key(idempotency::HEADER);
    if keyed {
        drop(ctx.post(&body.sha256).await?);
    }
    let asked = sync::request(&ctx.app.store, ctx.tenant, id, ctx.app.clock.now()).await?;
    let synced = answer(&ctx, asked).await?;
    if keyed { ctx.post(&body.sha256).await?.ok(&synced).await } else { Ok(ctx.ok(&synced)) }
}

async fn answer(ctx: &Ctx, asked: SyncRequestId) -> Result<Synced, Problem> {
    let deadline = Instant::now() + WAIT;
    while Instant::now() < deadline {
        if let Some(answer) = sync::answer_of(&ctx.app.store, ctx.tenant, asked).await? {
            return read(answer);
        }
        sleep(POLL).await;
    }
    Err(Problem::because(Kind::Unavailable, "No worker has answered within 15 seconds. The synchronisation may still come."))
}

fn read(answer: Value) -> Result<Synced, Problem> {
    if let Some(error) = answer.get("error") {
        let sentence = error.as_str().map_or_else(|| error.to_string(), ToOwned::to_owned);
        return Err(Problem::because(Kind::UpstreamUnreachable, sentence));
    }
    serde_json::from_value(answer).map_err(|e| Problem::internal(&e))
}
