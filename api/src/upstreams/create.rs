use std::time::Duration;

use axum::{body::Body, response::Response};
use serde::Deserialize;
use tokio::time::{Instant, sleep};
use tollgate_domain::{
    UpstreamId,
    tool::{Binding, Exposure, UpstreamState, check_upstream_name},
};
use tollgate_store::upstreams::{self, FirstContact, NewUpstream};
use utoipa::ToSchema;

use super::{ToolApproval, Upstream, check_description, check_numbers, transport::Transport};
use crate::{
    check::Checks,
    ctx::Ctx,
    json::Json,
    problem::{Answer, Problem},
};

/// How long the answer waits for the tools.
const WAIT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(50);

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewUpstreamBody {
    /// A lower-case Python identifier without a double underscore; it cannot be changed.
    #[schema(min_length = 1, max_length = 48)]
    pub name: String,
    #[schema(max_length = 2000)]
    pub description: Option<String>,
    pub transport: Transport,
    /// `classic` or `code`.
    #[schema(value_type = String)]
    pub exposure: Exposure,
    /// `server` (when left out) or `tool`.
    #[schema(value_type = Option<String>)]
    pub binding: Option<Binding>,
    /// For one call; 30000 when left out.
    #[schema(minimum = 1, maximum = 3_600_000)]
    pub timeout_ms: Option<i32>,
    /// 300 when left out.
    #[schema(minimum = 10, maximum = 86_400)]
    pub sync_interval_seconds: Option<i32>,
    /// `auto` when left out.
    #[serde(default)]
    pub tool_approval: ToolApproval,
}

/// Add an upstream.
///
/// The answer waits up to ten seconds for the first discovery of its tools. `state` is then `connected`; `error`, with the
/// reason, when the upstream could not be reached; or `connecting` while nobody knows. An answer that is repeated for an
/// Idempotency-Key says `connecting`: read the upstream for what has come of it.
#[utoipa::path(post, path = "/v1/tenants/{tenant_id}/upstreams", request_body = NewUpstreamBody, responses((status = 201, description = "Made.", body = Upstream)))]
pub async fn handle(ctx: Ctx, body: Json<NewUpstreamBody>) -> Answer {
    let new = body.value;
    let mut checks = Checks::default();
    if let Err(sentence) = check_upstream_name(&new.name) {
        checks.refuse("/name", sentence);
    }
    check_description(&mut checks, new.description.as_deref());
    check_numbers(&mut checks, new.timeout_ms, new.sync_interval_seconds);
    checks.done()?;
    let id = UpstreamId::mint(ctx.now);
    let (transport, sealed_headers) = new.transport.store(id, None, &ctx.app.config, &ctx.app.secrets.vault)?;
    let row = NewUpstream {
        id,
        name: new.name,
        description: new.description,
        transport,
        sealed_headers,
        exposure: new.exposure,
        binding: new.binding.unwrap_or(Binding::Server),
        timeout_ms: new.timeout_ms.unwrap_or(30_000),
        sync_interval_s: new.sync_interval_seconds.unwrap_or(300),
        tool_approval: new.tool_approval.as_str(),
    };

    let mut write = ctx.post(&body.sha256).await?;
    upstreams::create(&mut write, &row).await?;
    let made = upstreams::get(&mut write.tx, ctx.tenant, id, ctx.now).await?;
    let answer = write.created(&Upstream::from(made)).await?;

    let contact = first_contact(&ctx, id).await?;
    with_state(&ctx, answer, id, contact).await
}

/// Wait for a worker. Nothing is open meanwhile: no transaction, no connection.
async fn first_contact(ctx: &Ctx, id: UpstreamId) -> Result<FirstContact, Problem> {
    let deadline = Instant::now() + WAIT;
    loop {
        let contact = upstreams::first_contact(&ctx.app.store, ctx.tenant, id, ctx.app.clock.now()).await?;
        if contact != FirstContact::Waiting || Instant::now() >= deadline {
            return Ok(contact);
        }
        sleep(POLL).await;
    }
}

/// The same answer, about the upstream as it is by now.
async fn with_state(ctx: &Ctx, answer: Response, id: UpstreamId, contact: FirstContact) -> Answer {
    let mut tx = ctx.app.store.tenant(ctx.tenant).await?;
    let row = upstreams::get(&mut tx, ctx.tenant, id, ctx.app.clock.now()).await?;
    tx.commit().await.map_err(tollgate_store::StoreError::from)?;
    let mut upstream = Upstream::from(row);
    match contact {
        FirstContact::Discovered => (upstream.state, upstream.error) = (UpstreamState::Connected, None),
        FirstContact::Failed(error) => (upstream.state, upstream.error) = (UpstreamState::Error, Some(error)),
        FirstContact::Waiting => {}
    }
    let text = serde_json::to_string(&upstream).map_err(|e| Problem::internal(&e))?;
    let (parts, _) = answer.into_parts();
    Ok(Response::from_parts(parts, Body::from(text)))
}
